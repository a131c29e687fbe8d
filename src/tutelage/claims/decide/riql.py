"""The claim of RIQL: with 30 % of the next observations corrupted, does it return more than IQL?

Pendulum-v1, real physics of gymnasium. Our own SAC logs a replay set once: all it saw until it first was half-way from random
to expert. A unit is a seed, with its own corruption, weights and batches. A cell learns four sets side by side: dynamics,
rewards or observations of 30 % of the rows corrupted at random, and the clean set; its policies are played in the
environment. Arms: behaviour cloning (the trivial control, which no reward reaches); IQL; IQL with RIQL's normalisation; that
with Huber's loss, and with the quantile; RIQL. All arms have the same nets, rate, batches, updates and episodes. Constants are
the paper's; reward_scale, discount, polyak and lr, which depend on the scale of rewards and the number of updates, were set
once for all arms and looked at on one corruption (seed 1000) that no unit draws. For arms with critics, the critics' error on
the exact chain (`data.offline.chain`) with 30 % wrong next states is told, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.errors import InputError
from tutelage.core.rng import derive, generator
from tutelage.data.offline.chain import chain_dataset
from tutelage.data.offline.files import read_offline, write_minari
from tutelage.data.offline.transitions import OfflineDataset
from tutelage.methods.decide.riql.diagnostics import make_learner, target_tail_stats
from tutelage.methods.decide.riql.learner import RIQL, RIQLConfig
from tutelage.teaching.control import collect as collecting
from tutelage.teaching.control.collect import CollectConfig
from tutelage.teaching.control.environments import evaluate
from tutelage.teaching.control.offline import OfflineConfig, OfflineLearner
from tutelage.teaching.control.policies import Policy
from tutelage.threats.dataset.transitions import Mode, corrupt

Data = Literal["replay", "medium", "random", "uniform", "file"]


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Data = Field("replay", description="uniform: random actions without an agent, for smoke; file: `path`")
    path: str = Field("", description="a set in Minari's or D4RL's layout, or .npz")
    environment: str = "Pendulum-v1"
    collect_steps: int = Field(30_000, ge=1)
    rows: int = Field(0, ge=0, description="rows that are learned from; 0 for all")
    mode: Literal["random", "adversarial"] = "random"
    rate: float = Field(0.3, ge=0, le=1)
    scale: float = Field(1.0, gt=0, description="range of the corruption, in standard deviations")
    steps: int = Field(6000, ge=1, description="updates")
    episodes: int = Field(20, ge=1, description="played by each policy")
    hidden: int = Field(64, ge=1)
    batch_size: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)
    reward_scale: float = Field(0.1, gt=0)
    temperature: float = Field(3.0, ge=0)
    discount: float = Field(0.95, ge=0, le=1, description="0.99 in the paper, which makes 3 million updates")
    polyak: float = Field(0.02, ge=0, le=1, description="0.005 in the paper")
    critics: int = Field(5, ge=2)
    quantile: float = Field(0.25, ge=0, le=1)
    sigma: float = Field(1.0, gt=0)
    chain_steps: int = Field(500, ge=1, description="updates on the exact chain")
    random_return: float = Field(-1e9, description="for data=file or uniform")
    expert_return: float = Field(0.0, description="for data=file or uniform")


ARMS = ("riql", "iql", "iql-normalised", "iql-normalised-huber", "iql-normalised-quantile", "behaviour-cloning")
CORRUPTIONS = ("dynamics", "rewards", "observations")


def learner_config(arm: str, config: Config) -> OfflineConfig:
    """What an arm learns by; the arms differ in nothing else."""
    shared: dict[str, Any] = {"hidden": config.hidden, "batch_size": config.batch_size, "lr": config.lr}
    if arm == "behaviour-cloning":
        return OfflineConfig(**shared)
    for name in ("reward_scale", "temperature", "discount", "polyak"):
        shared[name] = getattr(config, name)
    base = RIQLConfig.iql(**shared)
    normalised = replace(base, normalise=True)
    ensemble: dict[str, Any] = {"critics": config.critics, "quantile": config.quantile}
    return {
        "iql": base,
        "iql-normalised": normalised,
        "iql-normalised-huber": replace(normalised, sigma=config.sigma),
        "iql-normalised-quantile": replace(normalised, **ensemble),
        "riql": replace(normalised, sigma=config.sigma, **ensemble),
    }[arm]


def cell(cell: Cell) -> Mapping[str, float]:
    """Learn the corrupted sets and the clean one by one arm, and play the policies. Normalised returns in per cent."""
    config: Config = cell.config
    clean, seed = dataset(config, cell), derive(cell.unit, "riql")
    critic = _reference(clean, config) if config.mode == "adversarial" else None
    mode: Mode = config.mode
    drawn = [
        corrupt(
            clean, name, mode=mode, rate=config.rate, scale=config.scale, generator=generator(seed, "corrupt", name),
            critic=critic.values if critic else None, policy=critic.policy if critic else None,
        )
        for name in CORRUPTIONS
    ]  # fmt: skip
    sets = [*(one.dataset for one in drawn), clean]
    learner = make_learner(sets, learner_config(cell.arm, config), seed=seed)
    learner.fit(config.steps, progress=cell.progress)
    found = {"rows": float(len(clean))}
    policy_of(cell, learner)
    for name, policy in zip(("normalised_return", "rewards", "observations", "clean"), learner.policies, strict=True):
        played = float(evaluate(policy, config.environment, episodes=config.episodes, seed=derive(seed, "played")).mean())
        found[name if name == "normalised_return" else f"{name}_return"] = clean.normalised(played)
    if isinstance(learner, RIQL):
        tails = target_tail_stats(learner, drawn[0].mask)
        found |= {"kurtosis": tails.kurtosis, "kurtosis_clean": target_tail_stats(learner, run=3).kurtosis}
        found |= {"auroc": tails.auroc} if tails.auroc is not None else {}
        found["chain_error"] = _chain_error(learner.config, config, seed)
    return found


def policy_of(cell: Cell, learner: OfflineLearner | None = None) -> Policy | None:
    """What a cell learned under corrupted dynamics, kept for the pictures of the report: written with a learner, else read."""
    key = {
        "arm": cell.arm,
        "unit": cell.unit,
        "config": cell.config.model_dump(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "code": code_sha256(__name__),
    }
    if learner is not None:

        def build(folder: Path) -> None:
            learner.policies[0].save(folder)

        cell.cache.get("offline-policies", key, build)
    folder = cell.cache.folder("offline-policies", key)
    return Policy.load(folder) if (folder / "policy.json").is_file() else None


def _chain_error(arm: RIQLConfig, config: Config, seed: int) -> float:
    """Mean |Q - exact Q| on the chain with the arm's three parts; its other constants are the same for all arms."""
    logged, exact = chain_dataset(2000, wrong=config.rate, expectile=arm.expectile, discount=0.5, seed=seed)
    # the values lie between 0.3 and 10: beta = 1/9, the paper's smallest, where the arm has a Huber loss
    sigma = None if arm.sigma is None else 3.0
    own = replace(arm, hidden=32, batch_size=128, lr=3e-3, discount=0.5, polyak=0.05, reward_scale=1.0, sigma=sigma)
    learner = RIQL(logged, own, seed=seed)
    learner.fit(config.chain_steps)
    states = torch.eye(len(exact))
    q = torch.stack([learner.values(states, torch.full((len(exact), 1), a)).mean(0) for a in (-1.0, 1.0)], 1)
    return float((q.detach() - exact).abs().mean())


def _reference(clean: OfflineDataset, config: Config) -> RIQL:
    """What adversarial corruption attacks: RIQL on the clean set, the same for all units and arms."""
    made = learner_config("riql", config)
    assert isinstance(made, RIQLConfig)
    learner = RIQL(clean, made, seed=derive(0, "reference"))
    learner.fit(config.steps)
    return learner


def dataset(config: Config, cell: Cell) -> OfflineDataset:
    """The clean set; our own is logged once and kept in the cache."""
    if config.data == "file":
        references: dict[str, Any] = {"random_return": config.random_return, "expert_return": config.expert_return}
        logged = read_offline(config.path, **(references if config.random_return > -1e9 else {}))
    elif config.data == "uniform":
        logged = _uniform(config)
    else:
        made = _collect_config(config)
        key = {**asdict(made), "torch": torch.__version__, "threads": torch.get_num_threads(), "code": code_sha256(_CODE)}

        def build(folder: Path) -> None:
            for quality, one in collecting.collect(made, progress=cell.progress).sets.items():
                write_minari(one, folder / f"{quality}.hdf5")

        logged = read_offline(cell.cache.get("offline-sets", key, build) / f"{config.data}.hdf5")
    return logged.take(slice(config.rows)) if config.rows else logged


_CODE = "tutelage.teaching.control.collect"


def _collect_config(config: Config) -> CollectConfig:
    return CollectConfig(config.environment, steps=config.collect_steps)


def _uniform(config: Config) -> OfflineDataset:
    g = generator(0, "uniform")
    low, high = -2.0, 2.0  # Pendulum's torque

    def at_random(observations: Tensor) -> Tensor:
        return low + (high - low) * torch.rand(len(observations), 1, generator=g)

    log = collecting.played(config.environment, at_random, 400, 0)
    return OfflineDataset(
        **log, action_low=torch.tensor([low]), action_high=torch.tensor([high]), name=f"{config.environment}-uniform",
        random_return=config.random_return, expert_return=config.expert_return, kind="environment",
    )  # fmt: skip


def data(config: Config) -> list[dict[str, Any]]:
    if config.data == "file":
        if not config.path:
            raise InputError("path", "none", "--set path=FILE, a set in Minari's or D4RL's layout, or .npz")
        return [read_offline(config.path).describe()]
    agent = f"our SAC of {config.collect_steps} steps, seed 0 (n counts its steps; the metric `rows` what was learned from)"
    agent = "uniform actions" if config.data == "uniform" else agent
    return [
        {
            "name": f"{config.environment}-{config.data}",
            "kind": "environment",
            "split": "train",
            "n": config.rows or config.collect_steps,
            "generator": f"{config.environment} of gymnasium, logged by {agent}",
            "version": collecting.gymnasium_version(),
        }
    ]


CLAIM = Claim(
    slug="riql",
    arms=ARMS,
    controls=("behaviour-cloning",),
    scales={
        "smoke": Config(
            data="uniform", rows=400, steps=5, episodes=1, hidden=8, batch_size=16, chain_steps=5, critics=3,
            random_return=-1200.0, expert_return=-150.0,
        ),
        "claim": Config(),
        "paper": Config(
            data="file", environment="Hopper-v5", steps=3_000_000, hidden=256, lr=3e-4, reward_scale=1.0, discount=0.99,
            polyak=0.005, episodes=10,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "With 30 % of the next observations corrupted, RIQL returns more than IQL with the same normalisation.",
            "normalised_return", "riql", "iql-normalised",
        ),
        Sentence(
            "With 30 % of the next observations corrupted, RIQL returns at least 5 points more than IQL.",
            "normalised_return", "riql", "iql", margin=5.0,
        ),
        Sentence("With 30 % of the rewards corrupted, RIQL returns more than IQL.", "rewards_return", "riql", "iql"),
        Sentence(
            "With 30 % of the observations corrupted, RIQL returns more than IQL.", "observations_return", "riql", "iql",
        ),
        Sentence(
            "On the clean set, RIQL loses at most 3 points against IQL.",
            "clean_return", "riql", "iql", kind="noninferiority", margin=-3.0,
        ),
        Sentence(
            "Huber's loss alone returns more than IQL with the same normalisation under corrupted next observations.",
            "normalised_return", "iql-normalised-huber", "iql-normalised",
        ),
        Sentence(
            "The quantile alone returns more than IQL with the same normalisation under corrupted next observations.",
            "normalised_return", "iql-normalised-quantile", "iql-normalised",
        ),
        Sentence(
            "On the chain with 30 % wrong next states, RIQL's critics are nearer to the exact values than IQL's.",
            "chain_error", "riql", "iql-normalised", better="lower",
        ),
    ),
    axes=("clean_return", "normalised_return"),
    metric_labels={
        "normalised_return": "normalised return, corrupted dynamics, %",
        "rewards_return": "normalised return, corrupted rewards, %",
        "observations_return": "normalised return, corrupted observations, %",
        "clean_return": "normalised return, clean data, %",
        "kurtosis": "kurtosis of the targets, corrupted dynamics",
        "kurtosis_clean": "kurtosis of the targets, clean data",
        "auroc": "AUROC of |y - Q| for corrupted rows",
        "chain_error": "mean |Q - exact Q| on the chain",
    },
)  # fmt: skip
