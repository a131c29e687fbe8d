"""Training data by exact second-stage solves, and the training of the value network: (4) of the package's docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator, numpy_generator
from tutelage.data.worlds.two_stage import TwoStageProblem, check_problem
from tutelage.methods.decide.neur2ro.network import Aggregation, ValueNet
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.schedules import Schedule, constant


@dataclass(frozen=True, eq=False)
class Samples:
    """Exact second-stage values. Padded to the largest number of items with zeros; N samples of I instances.

    instance: (N,). x: (N, n). u: (N, n, e), what each item sees of xi. value: (N,), in units of cost. features: (I, n, F), as
    the instances give them. count: (I,). family: the name of the problems.
    """

    instance: Tensor
    x: Tensor
    u: Tensor
    value: Tensor
    features: Tensor
    count: Tensor
    family: str

    def __len__(self) -> int:
        return len(self.value)


def sample_values(
    problems: Sequence[TwoStageProblem], *, n_x: int = 10, n_xi: int = 50, seed: int = 0, progress: Progress = QUIET
) -> Samples:
    """n_x first stages with n_xi scenarios each, for every instance, solved exactly.

    Raises InputError for problems of several families or other numbers of features.
    """
    check_integer("n_x", n_x)
    check_integer("n_xi", n_xi)
    if isinstance(problems, TwoStageProblem) or not problems:
        raise InputError("problems", "none", "a list of instances")
    for problem in problems:
        check_problem(problem)
        first = problems[0]
        like = problem.item_features().shape[1], problem.item_uncertainty.shape[1], problem.name
        wanted = first.item_features().shape[1], first.item_uncertainty.shape[1], first.name
        if like != wanted:
            raise InputError("problems", f"{like[2]} with {like[0]} features", f"{wanted[2]} with {wanted[0]}, as the first")
    count = [problem.n_items for problem in problems]
    width, per = max(count), n_x * n_xi
    n_features, e = problems[0].item_features().shape[1], problems[0].item_uncertainty.shape[1]
    x = torch.zeros(len(problems) * per, width)
    u = torch.zeros(len(problems) * per, width, e)
    value = torch.zeros(len(problems) * per, dtype=torch.float64)
    features = torch.zeros(len(problems), width, n_features, dtype=torch.float64)
    with progress.task("second stages", len(problems)) as task:
        for i, problem in enumerate(problems):
            rng = numpy_generator(seed, "samples", i)
            plans = np.repeat(np.array([problem.sample_x(rng) for _ in range(n_x)]), n_xi, axis=0)
            xi = np.array([problem.sample_xi(rng) for _ in range(per)])
            rows, n = slice(i * per, (i + 1) * per), count[i]
            value[rows] = torch.from_numpy(problem.second_stage_values(plans, xi))
            x[rows, :n] = torch.as_tensor(plans, dtype=torch.float32)
            u[rows, :n] = torch.as_tensor(np.einsum("nek,sk->sne", problem.item_uncertainty, xi), dtype=torch.float32)
            features[i, :n] = torch.from_numpy(problem.item_features())
            task.advance(1)
    instance = torch.arange(len(problems)).repeat_interleave(per)
    return Samples(instance, x, u, value, features, torch.tensor(count), problems[0].name)


@dataclass(frozen=True)
class TrainingConfig:
    """The published settings; embed, post and value of the knapsack. share: of the instances that is trained on."""

    embed: tuple[int, ...] = (32, 16)
    post: tuple[int, ...] = (64, 8)
    value: tuple[int, ...] = (8,)
    agg: Aggregation = "mean"
    joint: bool = False
    epochs: int = 500
    batch: int = 256
    lr: float = 1e-3
    share: float = 0.8
    validate_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "validate_every"):
            check_integer(name, getattr(self, name))
        check_positive("lr", self.lr, "a finite number > 0")
        check_number("share", self.share, "a share between 0 and 1", low=0.01, high=0.99)


@dataclass(frozen=True)
class Trained:
    """net: the epoch of the lowest validation error. mae: that error, of scaled labels. fit: what the training logged."""

    net: ValueNet
    mae: float
    fit: FitResult


def train_value_net(
    samples: Samples,
    config: TrainingConfig | None = None,
    *,
    seed: int = 0,
    schedule: Schedule = constant,
    checkpoint: Path | str | None = None,
    progress: Progress = QUIET,
) -> Trained:
    """Train a value network by mean squared error (4); the epoch with the lowest mean absolute validation error is kept.

    Whole instances are held out for validation (the released code holds out samples). checkpoint: a folder to resume from.
    Raises InputError for fewer than two instances or labels that are not finite.
    """
    config = config or TrainingConfig()
    if not isinstance(samples, Samples):
        raise InputError("samples", type(samples).__name__, "what sample_values returns")
    n = len(samples.count)
    if n < 2:
        raise InputError("samples", f"{n} instance", "at least two: one is held out for validation")
    if not bool(torch.isfinite(samples.value).all()):
        raise InputError("samples", "a value that is not finite", "finite second-stage values")
    order = torch.randperm(n, generator=generator(seed, "split"))
    kept = order[: max(1, min(n - 1, round(config.share * n)))]
    training = torch.isin(samples.instance, kept)
    net = ValueNet(
        samples.features.shape[2],
        samples.u.shape[2],
        embed=config.embed,
        post=config.post,
        value=config.value,
        agg=config.agg,
        joint=config.joint,
        family=samples.family,
        seed=derive(seed, "weights"),
    )
    _set_scales(net, samples, kept, training)
    batches = _Batches(net, samples)
    validation = batches[torch.nonzero(~training).flatten()]
    state = {"calls": 0, "mae": float("inf")}

    def validate(model: nn.Module) -> dict[str, float]:
        state["calls"] += 1
        if state["calls"] % config.validate_every == 0 or state["mae"] == float("inf"):
            with torch.no_grad():
                state["mae"] = float((model(*validation[:-1]) - validation[-1]).abs().mean())
        return {"mae": state["mae"], "minus_mae": -state["mae"]}

    rows = torch.nonzero(training).flatten()
    result = fit(
        net,
        _squared_error,
        DataLoader(_Rows(batches, rows), config.batch, shuffle=True, collate_fn=_whole, generator=generator(seed, "order")),
        optimizer=Adam(net.parameters(), lr=config.lr),
        schedule=schedule,
        epochs=config.epochs,
        validate=validate,
        select="minus_mae",
        checkpoint=checkpoint,
        seed=derive(seed, "fit"),
        progress=progress,
        name="value network",
    )
    assert result.best is not None
    return Trained(net, -float(result.best["minus_mae"]), result)


def _squared_error(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, float]]:
    *inputs, wanted = batch
    return (model(*inputs) - wanted).square().mean(), {}


def _set_scales(net: ValueNet, samples: Samples, kept: Tensor, training: Tensor) -> None:
    """Min-max scales of the features (all items) and, for each number of items, of the labels; of training instances only."""
    real = torch.arange(samples.features.shape[1])[None] < samples.count[kept][:, None]
    items = samples.features[kept][real]
    low, high = items.amin(0), items.amax(0)
    net.features_low = low
    net.features_range = torch.where(high > low, high - low, torch.ones_like(low))
    rows = []
    counts = samples.count[samples.instance]
    for n in sorted(set(samples.count[kept].tolist())):
        labels = samples.value[training & (counts == n)]
        lowest, highest = float(labels.min()), float(labels.max())
        rows.append([float(n), lowest, highest if highest > lowest else lowest + 1.0])
    net.labels = torch.tensor(rows, dtype=torch.float64)


class _Batches:
    """Rows of the samples as the net takes them: x, u, features, count, scaled label."""

    def __init__(self, net: ValueNet, samples: Samples) -> None:
        self.samples = samples
        real = (torch.arange(samples.features.shape[1])[None] < samples.count[:, None])[..., None]
        self.features = torch.where(real, (samples.features - net.features_low) / net.features_range, 0.0).float()
        scales = torch.tensor([net.label_range(int(n)) for n in samples.count], dtype=torch.float64)
        low, width = scales[samples.instance].T
        self.labels = ((samples.value - low) / width).float()

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, ...]:
        which = self.samples.instance[rows]
        return self.samples.x[rows], self.samples.u[rows], self.features[which], self.samples.count[which], self.labels[rows]


class _Rows(Dataset[Any]):
    """A data set that gives a batch at once: a row each is far slower than the step that uses it."""

    def __init__(self, batches: _Batches, rows: Tensor) -> None:
        self.batches, self.rows = batches, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.batches[self.rows[index : index + 1]])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return self.batches[self.rows[torch.tensor(indices)]]


def _whole(batch: Any) -> Any:
    return batch
