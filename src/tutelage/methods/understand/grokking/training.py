"""Training on the questions: full batches or small ones, AdamW with decoupled decay, and what was seen on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.methods.understand.grokking.data import ModularData
from tutelage.methods.understand.grokking.measure import Phase, accuracies, classify_phase
from tutelage.methods.understand.grokking.spectrum import neuron_ipr
from tutelage.models.neurons import Neurons, neurons_of
from tutelage.teaching.fit import Context, fit

Loss = Literal["mse", "cross-entropy"]


@dataclass(frozen=True)
class GrokConfig:
    """How to train; the defaults are the paper's, without regularisation.

    weight_decay: AdamW's, decoupled: each step multiplies weights by 1 - lr * weight_decay. (As L2 inside Adam, the same
    number does something else.) batch_size: None for all training rows at once; small batches are drawn without replacement.
    loss: "mse" is the mean over samples and outputs of (f - onehot)^2. log_every: steps between two measurements.
    """

    steps: int = 2000
    weight_decay: float = 0.0
    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    batch_size: int | None = None
    loss: Loss = "mse"
    log_every: int = 100

    def __post_init__(self) -> None:
        check_integer("steps", self.steps)
        check_integer("log_every", self.log_every)
        check_number("weight_decay", self.weight_decay, "a number >= 0", low=0)
        check_positive("lr", self.lr, "a rate above 0")
        check_positive("eps", self.eps, "a number above 0")
        if self.lr * self.weight_decay >= 1:
            raise InputError("weight_decay", self.weight_decay, f"below 1 / lr = {1 / self.lr:g}: weights would change sign")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise InputError("betas", self.betas, "a pair of numbers from 0 to below 1")
        for beta in self.betas:
            check_number("betas", beta, "numbers from 0 to below 1", low=0, high=1 - 1e-12)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size)
        check_choice("loss", self.loss, ("mse", "cross-entropy"))


@dataclass(frozen=True)
class History:
    """What was measured on the way: a row every `log_every` steps, the first before training and the last at the end.

    rows: step, the fields of `Accuracies`, mean_ipr and weight_norm (square root of the sum of squared weights of the neurons).
    """

    rows: list[dict[str, float]]
    config: GrokConfig
    xi: float
    seconds: float

    @property
    def last(self) -> dict[str, float]:
        return self.rows[-1]

    @property
    def phase(self) -> Phase:
        """The phase at the end of training."""
        return classify_phase(self.last["train"], self.last["test"], self.xi)


def train_grok(
    data: ModularData,
    model: nn.Module,
    config: GrokConfig | None = None,
    *,
    seed: int = 0,
    neurons: Neurons | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = QUIET,
) -> History:
    """Train `model`, from pairs (B, 2) to p logits, in place on the training rows of `data`, (1) to (3).

    Nothing is selected: the model ends with its last weights, and test accuracy is only looked at. A net with a method
    `mean_squared_error(x, y)` (see `QuadraticMLP`) is trained by that. seed: of batches and dropout. neurons: see
    `neuron_ipr`; without them, and without any of the model's own, the history has no IPR. checkpoint: a folder; a run that
    was stopped goes on from it to the same weights, given the same initial model. Raises InputError before training,
    NotFinite where it diverges.
    """
    config = GrokConfig() if config is None else config
    if not isinstance(config, GrokConfig):
        raise InputError("config", type(config).__name__, "a GrokConfig")
    places = neurons_of(model, neurons) if neurons is not None or hasattr(model, "neurons") else None
    rows = [{"step": 0.0, **_measured(model, data, places)}]
    x, y = data.train
    loader = _loader(x, y, config, seed)
    optimizer = AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )
    found = fit(
        model, GrokLoss(config.loss, data.p), loader, optimizer=optimizer, steps=config.steps, seed=seed,
        validate=lambda net: _measured(net, data, places), checkpoint=checkpoint, log_every=config.log_every,
        progress=progress, name="training on modular arithmetic",
    )  # fmt: skip
    rows += [{key: value for key, value in row.items() if key != "epoch"} for row in found.epochs]
    return History(rows, config, data.xi, found.seconds)


@dataclass(frozen=True)
class GrokLoss:
    """The objective for `fit`: mean squared error to the one-hot label, (2), or cross-entropy."""

    loss: Loss
    p: int

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        x, y = batch
        if self.loss == "cross-entropy":
            return F.cross_entropy(model(x), y), {}
        fast = getattr(model, "mean_squared_error", None)
        if callable(fast) and (loss := fast(x, y)) is not None:
            return loss, {}
        logits = model(x)
        return F.mse_loss(logits, F.one_hot(y, self.p).to(logits)), {}


def _measured(model: nn.Module, data: ModularData, places: Neurons | None) -> dict[str, float]:
    found = accuracies(model, data).as_dict()
    if places is not None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        found["mean_ipr"] = float(neuron_ipr(model, data.p, neurons=places).mean())
        weights = [parameters[name].detach() for name, _ in (*places.incoming, *places.outgoing)]
        found["weight_norm"] = float(sum((one.double() ** 2).sum() for one in weights)) ** 0.5
    return found


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows that are asked for in whole batches: a list of numbers gives (x, y) of those."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(rows)
        return self.x[index], self.y[index]


class _Whole(_Rows):
    """All rows at once, as often as is asked."""

    def __init__(self, x: Tensor, y: Tensor, times: int) -> None:
        super().__init__(x, y)
        self.times = times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor]:
        return self.x, self.y


def _loader(x: Tensor, y: Tensor, config: GrokConfig, seed: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """`log_every` batches: what `fit` calls an epoch, after which it measures."""
    times = min(config.log_every, config.steps)
    if config.batch_size is None:
        return DataLoader(_Whole(x, y, times), batch_size=None)
    if config.batch_size > len(x):
        raise InputError("batch_size", config.batch_size, f"at most the {len(x)} training rows (None: all of them)")
    rows = _Rows(x, y)
    drawn = RandomSampler(rows, num_samples=times * config.batch_size, generator=generator(seed, "grokking batches"))
    return DataLoader(rows, batch_size=None, sampler=BatchSampler(drawn, config.batch_size, drop_last=False))


def describe(config: GrokConfig) -> dict[str, Any]:
    """The settings, for reports."""
    return {key.replace("_", " "): value for key, value in asdict(config).items()}
