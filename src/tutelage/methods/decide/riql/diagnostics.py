"""What the corruption did: tails of the critics' targets, disagreement of the critics, the rows that fit worst; and the matrix
of corruptions by learners that says which corruption hurts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.data.offline.transitions import OfflineDataset
from tutelage.methods.decide.riql.learner import RIQL, RIQLConfig
from tutelage.teaching.control.environments import Environment, evaluate
from tutelage.teaching.control.offline import BehaviourCloning, OfflineConfig, OfflineLearner
from tutelage.threats.dataset.transitions import FIELDS, Mode, corrupt

CLEAN = "none"


@dataclass(frozen=True)
class TailStats:
    """Of all rows of a set; the values of `corrupted` and `clean` are None without a mask, or where it leaves no such rows.

    kurtosis: excess kurtosis of the targets y of (3) less the mean of the critics; 0 for a Gaussian, 3 for a Laplace law; large
    where a few rows lie far out, which a squared loss follows. error: mean |y - Q|. spread: mean deviation of the K
    critics from each other. auroc: how well |y - Q| tells the corrupted rows, 0.5 is chance.
    """

    kurtosis: float
    error: float
    error_corrupted: float | None = None
    error_clean: float | None = None
    spread_corrupted: float | None = None
    spread_clean: float | None = None
    auroc: float | None = None


def kurtosis(values: Tensor) -> float:
    """Excess kurtosis, the fourth central moment over the squared variance, less 3; 0 where all values are equal."""
    centred = values.double() - values.double().mean()
    variance = float(centred.square().mean())
    return float(centred.pow(4).mean()) / variance**2 - 3 if variance > 0 else 0.0


def target_errors(learner: RIQL, run: int = 0) -> tuple[Tensor, Tensor]:
    """(|y - mean_k Q_k|, deviation over the critics), (n,) each, for the rows of data set `run` as they were learned from."""
    check_integer("run", run, low=0, high=learner.runs - 1)
    signed, spread = _errors(learner, run)
    return signed.abs(), spread


def target_tail_stats(learner: RIQL, mask: Tensor | None = None, run: int = 0) -> TailStats:
    """The tails of the targets of data set `run` of a trained learner.

    mask: (n,) bool, the rows that were corrupted, if known (`Corruption.mask`). Raises InputError for a mask of another shape.
    """
    check_integer("run", run, low=0, high=learner.runs - 1)
    signed, spread = _errors(learner, run)
    error = signed.abs()
    whole = TailStats(kurtosis(signed), float(error.mean()))
    if mask is None:
        return whole
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != error.shape:
        got = f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError("mask", got, f"({len(error)},) of torch.bool")

    def mean(values: Tensor, where: Tensor) -> float | None:
        return float(values[where].mean()) if bool(where.any()) else None

    return TailStats(
        whole.kurtosis,
        whole.error,
        mean(error, mask),
        mean(error, ~mask),
        mean(spread, mask),
        mean(spread, ~mask),
        _auroc(error, mask),
    )


def suspects(learner: RIQL, n: int = 100, run: int = 0) -> Tensor:
    """Positions of the n rows that fit worst, worst first: those to look at, or to leave out."""
    check_integer("n", n, high=learner.rows.shape[1])
    return target_errors(learner, run)[0].topk(n).indices


@torch.no_grad()
def _errors(learner: RIQL, run: int) -> tuple[Tensor, Tensor]:
    data, signed, spread = learner.sets[run], [], []
    for i in range(0, len(data), 4096):
        at = slice(i, i + 4096)
        q = learner.values(data.observations[at], data.actions[at], run)
        signed.append(learner.targets_of(data.take(at), run) - q.mean(0))
        spread.append(q.std(0, correction=0))
    return torch.cat(signed), torch.cat(spread)


def _auroc(score: Tensor, positive: Tensor) -> float | None:
    """The chance that a positive scores higher than a negative; equal scores count half."""
    p = int(positive.sum())
    if p in (0, len(score)):
        return None
    _, group, sizes = torch.unique(score, return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0)
    rank = (ends - (sizes - 1) / 2)[group].double()  # mean rank among equals, from 1
    return (float(rank[positive].sum()) - p * (p + 1) / 2) / (p * (len(score) - p))


@dataclass(frozen=True)
class Matrix:
    """corruption x learner. scores: (corruption, learner) -> one score a seed, as `OfflineDataset.normalised` gives them, or
    returns where the set names no references. worst(learner): the corruption that hurts it most."""

    corruptions: tuple[str, ...]
    learners: tuple[str, ...]
    scores: dict[tuple[str, str], list[float]]
    unit: str

    def mean(self, corruption: str, learner: str) -> float:
        values = self.scores[corruption, learner]
        return sum(values) / len(values)

    def worst(self, learner: str) -> str:
        return min((c for c in self.corruptions if c != CLEAN), key=lambda c: self.mean(c, learner))

    def table(self) -> str:
        """Mean over the seeds, a row a learner."""
        width = max(len(name) for name in (*self.learners, "learner"))
        lines = [f"{'learner':{width}}" + "".join(f"{c:>15}" for c in self.corruptions) + f"{'mean':>15}"]
        for learner in self.learners:
            means = [self.mean(c, learner) for c in self.corruptions]
            cells = "".join(f"{value:15.1f}" for value in (*means, sum(means) / len(means)))
            lines.append(f"{learner:{width}}{cells}")
        return "\n".join([*lines, self.unit])


def corruption_matrix(
    dataset: OfflineDataset,
    environment: Environment,
    learners: Mapping[str, OfflineConfig],
    *,
    fields: Sequence[str] = tuple(FIELDS),
    mode: Mode = "random",
    rate: float = 0.3,
    scale: float = 1.0,
    reference: RIQL | None = None,
    steps: int = 20_000,
    episodes: int = 10,
    seeds: Sequence[int] = (0,),
    progress: Progress = QUIET,
) -> Matrix:
    """Learn `dataset` clean and under each corruption by each learner, and play what was learned.

    learners: name -> a RIQLConfig, or an OfflineConfig for behaviour cloning. All meet the same corrupted rows of a seed.
    reference: for mode "adversarial", a learner that was trained on the clean set: its critics and policy are attacked.

    Raises InputError as `corrupt` and the learners do, before anything is trained.
    """
    if not learners:
        raise InputError("learners", "none", "name -> config, such as {'RIQL': RIQLConfig()}")
    names = (CLEAN, *fields)
    scores: dict[tuple[str, str], list[float]] = {}
    critic = reference.values if reference is not None else None
    policy = reference.policy if reference is not None else None
    with progress.task("corruptions x learners", len(seeds) * len(learners)) as task:
        for seed in seeds:
            options: dict[str, Any] = {"mode": mode, "rate": rate, "scale": scale, "critic": critic, "policy": policy}
            drawn = [corrupt(dataset, name, generator=generator(seed, "corrupt", name), **options).dataset for name in fields]
            for name, config in learners.items():
                learner = make_learner([dataset, *drawn], config, seed=seed)
                learner.fit(steps)
                for corruption, learned in zip(names, learner.policies, strict=True):
                    value = float(evaluate(learned, environment, episodes=episodes, seed=seed).mean())
                    score = dataset.normalised(value) if dataset.expert_return is not None else value
                    scores.setdefault((corruption, name), []).append(score)
                task.advance(1, name)
    unit = "normalised return, %" if dataset.expert_return is not None else "return"
    return Matrix(names, tuple(learners), scores, f"{unit}; mean of {len(seeds)} seeds of {episodes} episodes each")


def make_learner(data: OfflineDataset | Sequence[OfflineDataset], config: OfflineConfig, *, seed: int = 0) -> OfflineLearner:
    """RIQL or IQL for a RIQLConfig, behaviour cloning for a plain OfflineConfig."""
    if not isinstance(config, OfflineConfig):
        raise InputError("config", type(cast(object, config)).__name__, "a RIQLConfig, or an OfflineConfig")
    return RIQL(data, config, seed=seed) if isinstance(config, RIQLConfig) else BehaviourCloning(data, config, seed=seed)
