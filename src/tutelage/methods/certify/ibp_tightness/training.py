"""Training nets whose boxes stay small: IBP, small boxes around adversarial points (SABR), PGD; see `ibp_tightness`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader

from tutelage.auditing.measure import attack_set, device_of, predict
from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import seeded
from tutelage.data.checks import check_in_memory
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.guarantees.bounds import Box, data_box, margin_box, propagate
from tutelage.guarantees.certify import lower_margin
from tutelage.guarantees.layers import LayerGraph, layers_of
from tutelage.models.checks import check_inputs, check_labels
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.objectives import pair
from tutelage.teaching.schedules import Schedule, multistep
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD

if TYPE_CHECKING:
    from accelerate import Accelerator

Method = Literal["ibp", "sabr", "pgd"]
METHODS = ("ibp", "sabr", "pgd")


@dataclass(frozen=True)
class CertifiedConfig:
    """Constants of certified training; the values are the paper's.

    method: "ibp" trains on the whole box, "sabr" on a small one around an adversarial point, "pgd" on that point alone.
    cert_weight: of the certified loss; the rest is the loss on clean inputs. small_box: lambda of SABR, share of eps.
    attack_steps: PGD steps of "sabr" and "pgd". ramp: shares of the training between which eps rises from 0 to its value, along
    `smooth_ramp`. fast_reg: lambda of the regulariser while eps rises, 0 for none. tolerance: its targets for tightness and
    balance. clip: largest norm of the gradient. bounds: range of valid inputs.
    """

    method: Method = "ibp"
    cert_weight: float = 1.0
    small_box: float = 0.4
    attack_steps: int = 10
    ramp: tuple[float, float] = (0.0, 20 / 70)
    fast_reg: float = 0.5
    tolerance: float = 0.5
    clip: float = 10.0
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_number("cert_weight", self.cert_weight, "a weight from 0 to 1", low=0, high=1)
        check_number("small_box", self.small_box, "a share of eps in (0, 1]", low=math.ulp(0.0), high=1)
        check_integer("attack_steps", self.attack_steps)
        smooth_ramp(*self.ramp)
        check_number("fast_reg", self.fast_reg, "a weight >= 0", low=0)
        check_positive("tolerance", self.tolerance, "a target > 0")
        check_positive("clip", self.clip, "a norm > 0")


def smooth_ramp(start: float, end: float, middle: float = 0.25, power: float = 4.0) -> Schedule:
    """(9): (step, total) -> share of the final eps, 0 before `start`, 1 after `end` (shares of the training).

    It rises like s^power over the first `middle` of the ramp, then along its tangent, straight to 1.
    """
    for name, value in (("start", start), ("end", end), ("middle", middle)):
        check_number(name, value, "a share from 0 to 1", low=0, high=1)
    check_number("power", power, "a number >= 1", low=1)
    if start > end:
        raise InputError("start", start, f"a share before the end, {end}")
    scale = 1 / (middle**power + power * middle ** (power - 1) * (1 - middle)) if middle > 0 else 0.0

    def factor(step: int, total: int) -> float:
        s = (step / total - start) / (end - start) if end > start else float(step >= start * total)
        if s <= 0:
            return 0.0
        if s >= 1:
            return 1.0
        if middle == 0:
            return s
        return float(scale * (s**power if s <= middle else middle**power + power * middle ** (power - 1) * (s - middle)))

    return factor


def ibp_init(net: nn.Module, seed: int = 0) -> None:
    """(10): draw the weights of every linear and convolutional layer but the last anew, N(0, 2 pi / fan_in^2), in place.

    The box of such a layer has the size of its input's in the mean. Raises InputError for a net without two such layers.
    """
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if len(layers) < 2:
        raise InputError("net", f"{len(layers)} linear or convolutional layers", "two or more")
    with seeded(seed, "ibp_init"), torch.no_grad():
        for layer in layers[:-1]:
            layer.weight.normal_(0, math.sqrt(2 * math.pi) / layer.weight[0].numel())


def fast_regulariser(graph: LayerGraph, boxes: list[Box], tolerance: float = 0.5) -> Tensor:
    """(8): L_tight + L_relu, the mean over the ReLU layers; a term that is not finite counts 0."""
    start = boxes[0].radius.mean()
    zero = start.new_zeros(())
    total = zero
    for i in graph.relus:
        box = boxes[graph.layers[i].inputs[0]]
        tight = F.relu(tolerance - start / box.radius.mean().clamp(min=1e-12)) / tolerance
        active, inactive = (box.lower > 0).to(start), (box.upper < 0).to(start)
        spread = (box.center - box.center.mean()).square()
        balance = zero
        for ratio in (
            (box.center * active).mean() / -(box.center * inactive).mean(),
            (spread * active).sum() / (spread * inactive).sum(),
        ):
            one = F.relu(tolerance - torch.minimum(ratio, 1 / ratio)) / tolerance
            balance = balance + (one if bool(torch.isfinite(ratio)) and float(ratio.detach()) > 0 else zero)
        total = total + tight + balance
    return total / max(1, len(graph.relus))


class CertifiedTraining:
    """The objective of (7) and (8) for `fit`; batches are (x, y) with x in the range of valid inputs.

    BatchNorm: the clean inputs pass first; their batch statistics move the running ones and are those of the box.
    """

    def __init__(self, eps: float, config: CertifiedConfig | None = None) -> None:
        check_positive("eps", eps, "a radius > 0, in input units")
        if config is not None and not isinstance(config, CertifiedConfig):
            raise InputError("config", type(config).__name__, "a CertifiedConfig")
        self.eps, self.config = float(eps), config or CertifiedConfig()
        self.ramp = smooth_ramp(*self.config.ramp)
        self.eps_now = 0.0
        self._model: nn.Module | None = None
        self._graph: LayerGraph | None = None

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = pair(batch)
        graph = self._layers(model, x, y)
        self.eps_now = self.eps * self.ramp(ctx.step, ctx.total)
        x_adv = self._adversarial(model, x, y, ctx)
        if self.config.method == "pgd":
            loss = F.cross_entropy(model(x_adv), y)
            return loss, {"eps": self.eps_now}
        with batch_statistics(graph) as statistics:
            logits = model(x)
        clean = F.cross_entropy(logits, y)
        boxes = propagate(graph, self.box(x, x_adv), outward=False, statistics=statistics)
        lower = margin_box(graph, boxes, y, outward=False, statistics=statistics).lower
        certified = certified_loss(lower)
        w = self.config.cert_weight
        loss = w * certified + (1 - w) * clean if w < 1 else certified
        logged: dict[str, Tensor | float] = {"eps": self.eps_now, "loss_clean": clean.detach()}
        logged["certified"] = (lower.detach() > 0).all(1).float().mean()
        if self.config.fast_reg > 0 and 0 < self.eps_now < self.eps:
            regulariser = fast_regulariser(graph, boxes, self.config.tolerance)
            loss = loss + self.config.fast_reg * (1 - self.eps_now / self.eps) * regulariser
            logged["regulariser"] = regulariser.detach()
        return loss, logged

    def box(self, x: Tensor, x_adv: Tensor) -> Box:
        """The box of this step: the whole ball, or SABR's small one around x_adv, moved to lie inside the ball."""
        small = self.config.small_box if self.config.method == "sabr" else 1.0
        away = (1 - small) * self.eps_now
        center = torch.minimum(torch.maximum(x_adv, x - away), x + away) if small < 1 else x
        return Box.between(*data_box(center, small * self.eps_now, self.config.bounds), outward=False)

    def _adversarial(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        if self.config.method == "ibp" or self.eps_now == 0 or (self.config.method == "sabr" and self.config.small_box == 1):
            return x
        attack = PGD(Linf(self.eps_now), steps=self.config.attack_steps, bounds=self.config.bounds)
        return attack(x, y, model=model, generator=ctx.generator)

    def _layers(self, model: nn.Module, x: Tensor, y: Tensor) -> LayerGraph:
        if self._graph is None or self._model is not model:
            check_inputs(x, self.config.bounds)
            self._model, self._graph = model, layers_of(model, x)
            if len(self._graph.layers[-1].shape) != 1:
                raise InputError("model", f"outputs of shape (B, *{self._graph.layers[-1].shape})", "logits (B, classes)")
        check_labels(y, len(x), self._graph.layers[-1].shape[0])
        return self._graph

    def state_dict(self) -> dict[str, Any]:
        return {"eps_now": self.eps_now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.eps_now = state["eps_now"]


def certified_loss(lower: Tensor) -> Tensor:
    """(7): cross-entropy of the worst logits: 0 for the label, -lower (B, K - 1) for the others."""
    worst = torch.cat([torch.zeros_like(lower[:, :1]), -lower], 1)
    return F.cross_entropy(worst, torch.zeros(len(lower), dtype=torch.long, device=lower.device))


@contextmanager
def batch_statistics(graph: LayerGraph) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Collects mean and variance of every BatchNorm that normalises by its batch, while the model runs inside the block."""
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module.training:
            others = [d for d in range(args[0].dim()) if d != 1]
            found[module] = (args[0].mean(others), args[0].var(others, unbiased=False))

    hooks = [module.register_forward_pre_hook(note) for module in graph.batch_norms]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def ibp_accuracy(model: nn.Module | LayerGraph, data: ImageSet, eps: float, batch_size: int = 256) -> float:
    """The share of a set that IBP certifies within Linf eps, cut to [0, 1]; BatchNorm as in evaluation mode."""
    held = 0
    device = device_of(model) if isinstance(model, nn.Module) else None
    with torch.no_grad():
        for x, y in data.loader(batch_size):
            model = layers_of(model, x.to(device))
            held += int((lower_margin(model, x.to(device), y.to(device), eps) > 0).sum())
    return held / len(data)


def fit_certified(
    model: nn.Module,
    loader: DataLoader[Any],
    eps: float,
    *,
    config: CertifiedConfig | None = None,
    epochs: int = 70,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    validation: ImageSet | None = None,
    initialise: bool = True,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: Progress = QUIET,
) -> FitResult:
    """Train `model` in place for robustness within Linf `eps` by IBP, SABR or PGD (`config.method`).

    model: nn.Module of layers with bounds, inputs in `config.bounds` -> logits (B, classes). loader: batches (x, y).
    optimizer: default Adam, learning rate 5e-4; schedule: default x0.2 after 5/7 and 6/7 of the steps. initialise: draw the
    weights anew by `ibp_init` ("ibp" and "sabr"). validation: if given, the epoch with the best accuracy on it is kept, once
    eps has its final value: certified by IBP ("ibp"), under PGD ("pgd"), the sum of both ("sabr"); never test data.

    Returns a FitResult; its history holds eps, the clean loss and the share of each batch that is certified.
    Raises InputError (before any training) for a layer without bounds, inputs outside the bounds, labels out of range;
    SplitError for test data. `fit` says what else it raises.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    if validation is not None and not isinstance(validation, ImageSet):
        raise InputError("validation", type(validation).__name__, "an ImageSet: as_images(data)")
    check_in_memory(loader)
    objective = CertifiedTraining(eps, config)
    config = objective.config
    if initialise and config.method != "pgd":
        ibp_init(model, seed)
    optimizer = optimizer or Adam(model.parameters(), lr=5e-4)
    validate = None
    if validation is not None:
        with training_only():
            refuse_test_data(validation)

        def validate(model: nn.Module) -> Mapping[str, float]:
            clean = float((predict(model, validation).argmax(1) == validation.labels).double().mean())
            if objective.eps_now < objective.eps:  # an easier task than the one to select for
                return {"clean": clean, "selected": math.nan}
            judge = PGD(Linf(objective.eps), steps=config.attack_steps)
            certified = 0.0 if config.method == "pgd" else ibp_accuracy(model, validation, objective.eps)
            robust = 0.0 if config.method == "ibp" else attack_set(model, validation, judge, seed=seed).robust_accuracy
            return {"clean": clean, "certified": certified, "robust": robust, "selected": certified + robust}

    def clip(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        groups: list[dict[str, Any]] = optimizer.param_groups
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], config.clip)

    hook = optimizer.register_step_pre_hook(clip)
    try:
        return fit(
            model,
            objective,
            loader,
            epochs=epochs,
            optimizer=optimizer,
            schedule=schedule or multistep((5 / 7, 6 / 7), 0.2),
            augment=augment,
            validate=validate,
            select="selected" if validation is not None else None,
            checkpoint=checkpoint,
            seed=seed,
            accelerator=accelerator,
            progress=progress,
            name=f"{config.method.upper()} training",
        )
    finally:
        hook.remove()
