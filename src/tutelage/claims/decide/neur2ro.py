"""The claim of Neur2RO: are its plans better in their exact worst case than those that ignore uncertainty?

Generated two-stage knapsacks, 4 correlation types times 8, 9 and 10 items. A unit is an instance; its optimum is found by
enumeration with proof. Every arm gets the same certificate: the exact worst case of its plan. Networks are trained on other
instances of the same generator (8 to 12 items); what a net arm says of an instance is the mean over five of them, each with
training data of its own. Arms: nominal; static (K-adaptability with one answer); two answers; the best of 50 random plans;
Neur2RO as published, with the gradient or samples as adversary, with the best of its iterates, and with an embedding of xi that
sees x (joint, ours).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.errors import MissingError
from tutelage.core.files import write_json
from tutelage.core.rng import derive, numpy_generator
from tutelage.data.worlds.two_stage import KnapsackInstance
from tutelage.data.worlds.two_stage.knapsack import CORRELATIONS
from tutelage.guarantees.programs import require_highs
from tutelage.guarantees.worst_case import enumerate_optimum, exact_worst_case
from tutelage.methods.decide.neur2ro import (
    CCGConfig,
    TrainingConfig,
    ValueNet,
    adaptable_plan,
    nominal_plan,
    plain_ccg,
    random_plans,
    robust_plan,
    sample_values,
    train_value_net,
)
from tutelage.methods.decide.neur2ro.predictors import Search

Widths = tuple[int, ...]
DELTAS, HS, BETAS = (0.1, 0.5, 1.0), (40, 80), (0.1, 0.15, 0.2)


class Config(ClaimConfig):
    """What `--set` may change."""

    low: int = Field(8, ge=2, description="items of the smallest test instance")
    high: int = Field(10, ge=2, description="items of the largest one")
    train_low: int = Field(8, ge=2)
    train_high: int = Field(12, ge=2)
    n_instances: int = Field(150, ge=2, description="training instances")
    n_x: int = Field(5, ge=1, description="first stages sampled for each")
    n_xi: int = Field(20, ge=1, description="scenarios sampled for each of these")
    nets: int = Field(5, ge=1, description="network seeds averaged over")
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)
    embed: Widths = (32, 16)
    post: Widths = (64, 8)
    value: Widths = (8,)
    joint_embed: Widths = (16, 8)
    joint_post: Widths = (16, 4)
    joint_value: Widths = (4,)
    max_scenarios: int = Field(20, ge=1)
    node_limit: int = Field(2000, ge=1, description="of branch and bound in each program")
    n_random: int = Field(50, ge=1, description="plans of the random control")
    instances: str = Field("", description="a folder of published knapsack files; generated instances if empty")
    exact_up_to: int = Field(12, ge=2, description="items up to which the optimum is enumerated; plain CCG beyond")
    ccg_seconds: float = Field(10800.0, gt=0)


LEARNT: dict[str, tuple[Search, bool, bool]] = {  # adversary, joint net, best iterate
    "neur2ro": ("milp", False, False),
    "neur2ro-gradient": ("gradient", False, False),
    "neur2ro-sampling": ("sampling", False, False),
    "neur2ro-best-iterate": ("milp", False, True),
    "neur2ro-joint": ("milp", True, False),
    "neur2ro-joint-best-iterate": ("milp", True, True),
}
CONTROLS = ("best-of-50-random", "static-worst-case")
ARMS = ("nominal", "two-adaptable", *LEARNT, *CONTROLS)


def instance_of(config: Config, unit: int) -> KnapsackInstance:
    """Correlation types in turn, then sizes; the other constants at random, by the unit."""
    if config.instances:
        files = sorted(Path(config.instances).glob("RKP_*"))
        return KnapsackInstance.load(files[unit % len(files)])
    sizes = config.high - config.low + 1
    return _instance(config.low + unit // len(CORRELATIONS) % sizes, unit, derive(unit, "test instance"))


def _instance(n: int, turn: int, seed: int) -> KnapsackInstance:
    rng = numpy_generator(seed, "constants")
    delta, h, beta = float(rng.choice(DELTAS)), float(rng.choice(HS)), float(rng.choice(BETAS))
    return KnapsackInstance.random(n, CORRELATIONS[turn % len(CORRELATIONS)], delta, h, beta, seed=seed)


def cell(cell: Cell) -> Mapping[str, float]:
    """One arm on one instance. Errors in per cent of the optimal worst-case value."""
    config: Config = cell.config
    problem = instance_of(config, cell.unit)
    best = _best_known(cell, config, problem)

    def error(value: float) -> float:
        return 100 * (value - best) / abs(best)

    if cell.arm not in LEARNT:
        worst = _plain(cell.arm, config, problem, cell.unit)
        return {"worst_case_relative_error": error(worst), "optimum": best}
    search, joint, best_iterate = LEARNT[cell.arm]
    # two workers are on two units: one trains the networks from the first on, the other from the last
    seeds = range(config.nets)[:: 1 if cell.unit % 2 == 0 else -1]
    found = [_plans(cell, config, problem, seed, search, joint) for seed in seeds]
    chosen = [min(one["values"]) if best_iterate else one["values"][-1] for one in found]
    return {
        "worst_case_relative_error": float(np.mean([error(value) for value in chosen])),
        "median_over_nets": float(np.median([error(value) for value in chosen])),
        "scenarios": float(np.mean([len(one["values"]) - 1 for one in found])),
        "validation_mae": float(np.mean([one["mae"] for one in found])),
        "optimum": best,
    }


def _plain(arm: str, config: Config, problem: KnapsackInstance, unit: int) -> float:
    """The exact worst case of a plan without a network."""
    if arm == "nominal":
        return nominal_plan(problem).value
    if arm == "best-of-50-random":
        return random_plans(problem, config.n_random, seed=derive(unit, "random")).value
    answers = 1 if arm == "static-worst-case" else 2
    return adaptable_plan(problem, answers, node_limit=2 * config.node_limit).value


def _best_known(cell: Cell, config: Config, problem: KnapsackInstance) -> float:
    """The optimum, or the best plan of plain CCG within its time where there are too many items."""
    key = {"unit": cell.unit, "config": _of_instances(config), "code": code_sha256("tutelage.guarantees.worst_case")}

    def build(folder: Path) -> None:
        small = problem.n_items <= config.exact_up_to
        value = enumerate_optimum(problem).worst.value if small else plain_ccg(problem, time_limit=config.ccg_seconds).value
        write_json(folder / "optimum.json", {"value": value})

    return float(json.loads((cell.cache.get("optima", key, build) / "optimum.json").read_text())["value"])


def _of_instances(config: Config) -> dict[str, Any]:
    return config.model_dump(include={"low", "high", "instances", "exact_up_to", "ccg_seconds"})


def _training(config: Config, joint: bool) -> TrainingConfig:
    widths = (config.joint_embed, config.joint_post, config.joint_value) if joint else (config.embed, config.post, config.value)
    return TrainingConfig(*widths, joint=joint, epochs=config.epochs, batch=config.batch_size, lr=config.lr, validate_every=5)


def _net_key(config: Config, seed: int, joint: bool) -> dict[str, Any]:
    fields = {"train_low", "train_high", "n_instances", "n_x", "n_xi"}
    return {
        "config": config.model_dump(include=fields),
        "training": asdict(_training(config, joint)),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": code_sha256(__name__),
    }


def value_net(cell: Cell, config: Config, seed: int, joint: bool) -> tuple[ValueNet, float]:
    """A trained network and its validation error; from the cache if it was trained before."""

    def build(folder: Path) -> None:
        rng = numpy_generator(seed, "training sizes")
        sizes = rng.integers(config.train_low, config.train_high + 1, config.n_instances)
        instances = [_instance(int(n), i, derive(seed, "training instance", i)) for i, n in enumerate(sizes)]
        samples = sample_values(instances, n_x=config.n_x, n_xi=config.n_xi, seed=derive(seed, "samples"))
        trained = train_value_net(samples, _training(config, joint), seed=derive(seed, "net"), progress=cell.progress)
        trained.net.save(folder)
        write_json(folder / "trained.json", {"mae": trained.mae})

    folder = cell.cache.get("value-nets", _net_key(config, seed, joint), build)
    return ValueNet.load(folder), float(json.loads((folder / "trained.json").read_text())["mae"])


def _plan_key(config: Config, unit: int, seed: int, search: Search, joint: bool) -> dict[str, Any]:
    own = config.model_dump(include={"max_scenarios", "node_limit"})
    return {"net": _net_key(config, seed, joint), "unit": unit, "search": search, "config": _of_instances(config) | own}


def kept_plan(cell: Cell, config: Config, seed: int, search: Search, joint: bool) -> Path:
    """Where the cache keeps what a network planned for a unit, for other arms and for pictures."""
    return cell.cache.folder("plans", _plan_key(config, cell.unit, seed, search, joint))


def _plans(cell: Cell, config: Config, problem: KnapsackInstance, seed: int, search: Search, joint: bool) -> dict[str, Any]:
    """The exact worst case of every iterate, in order; arms that share a run share it through the cache."""
    net, mae = value_net(cell, config, seed, joint)
    key = _plan_key(config, cell.unit, seed, search, joint)

    def build(folder: Path) -> None:
        ccg = CCGConfig(search=search, max_scenarios=config.max_scenarios, node_limit=config.node_limit)
        plan = robust_plan(problem, net, ccg, seed=derive(seed, "adversary"))
        known: dict[bytes, float] = {}
        for one in plan.history:
            if one.x.tobytes() not in known:
                known[one.x.tobytes()] = exact_worst_case(problem, one.x).value
        values = [known[one.x.tobytes()] for one in plan.history]
        write_json(
            folder / "plan.json",
            {"values": values, "x": plan.x.tolist(), "xi": plan.worst.xi.tolist(), "stopped": plan.stopped, "mae": mae},
        )

    found: dict[str, Any] = json.loads((cell.cache.get("plans", key, build) / "plan.json").read_text())
    return found


def data(config: Config) -> list[dict[str, Any]]:
    require_highs()  # an extra that is missing is told before anything runs
    if config.instances and not list(Path(config.instances).glob("RKP_*")):
        raise MissingError(f"there are no knapsack files (RKP_*) in {config.instances}")
    made = {"kind": "generated", "generator": "tutelage.data.worlds.two_stage.knapsack", "version": 1}
    rows = config.n_instances * config.n_x * config.n_xi
    test = {"name": "two-stage knapsacks", "split": "test", "n": len(CORRELATIONS) * (config.high - config.low + 1), **made}
    if config.instances:
        test |= {"name": Path(config.instances).name, "n": len(list(Path(config.instances).glob("RKP_*")))}
    return [test, {"name": "second stages of two-stage knapsacks", "split": "train", "n": config.nets * rows, **made}]


ERROR = "worst_case_relative_error"


def _lower(words: str, first: str, second: str, margin: float = 0.0) -> Sentence:
    return Sentence(words, ERROR, first, second, better="lower", margin=margin)


CLAIM = Claim(
    slug="neur2ro",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            low=4, high=4, train_low=4, train_high=5, n_instances=8, n_x=3, n_xi=4, nets=1, epochs=3, batch_size=32,
            embed=(4, 4), post=(4, 2), value=(2,), joint_embed=(4, 4), joint_post=(4, 2), joint_value=(2,), max_scenarios=3,
            n_random=2,
        ),
        "claim": Config(),
        "paper": Config(
            low=20, high=80, train_low=20, train_high=80, n_instances=500, n_x=10, n_xi=50, epochs=500, node_limit=1_000_000,
        ),
    },
    units={"smoke": 2, "claim": 12, "paper": 504},
    cell=cell,
    data=data,
    secondary=(
        Sentence("The mean relative error of Neur2RO's plans is at most 2 %.", ERROR, "neur2ro", kind="threshold",
        better="lower",
                 margin=2.0),
        _lower("Neur2RO's plans have a lower error than the best of 50 random plans.", "neur2ro", "best-of-50-random"),
        _lower("Neur2RO's plans have a lower error than 2-adaptable plans.", "neur2ro", "two-adaptable"),
        _lower("The mixed-integer adversary gives a lower error than the gradient.", "neur2ro", "neur2ro-gradient"),
        _lower("The mixed-integer adversary gives a lower error than 1,000 samples.", "neur2ro", "neur2ro-sampling"),
        _lower("The best certified iterate of Neur2RO has an error that is more than 1 point smaller than that of the nominal "
               "plan.", "neur2ro-best-iterate", "nominal", 1.0),
        _lower("An embedding of xi that sees x lowers the error.", "neur2ro-joint", "neur2ro"),
        _lower("With that embedding the error is more than 1 point smaller than that of the nominal plan.", "neur2ro-joint",
               "nominal", 1.0),
        _lower("With that embedding the best certified iterate has a lower error than the best of 50 random plans.",
               "neur2ro-joint-best-iterate", "best-of-50-random"),
        Sentence("With that embedding the mean relative error of the best certified iterate is at most 2 %.", ERROR,
                 "neur2ro-joint-best-iterate", kind="threshold", better="lower", margin=2.0),
    ),
    metric_labels={
        ERROR: "relative error of the exact worst case, %",
        "median_over_nets": "its median over networks, %",
        "scenarios": "scenarios found",
        "validation_mae": "validation error of the network, scaled labels",
        "optimum": "best worst-case cost",
    },
)  # fmt: skip
