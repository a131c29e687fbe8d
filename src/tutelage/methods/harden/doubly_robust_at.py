"""DONE: adversarial training whose sample weights are the worst case near the uniform distribution.

For whoever trains against an attack and cares for the classes that ordinary adversarial training leaves weak: robust to
the attack and to the weighting, "doubly". One knob, r, leads from plain adversarial training to the worst sample alone.

    Sow, Lin, Wang, Liang: Doubly Robust Instance-Reweighted Adversarial Training, arXiv 2308.00311 (2023), ICLR 2024.

Student f, samples (x_i, y_i), l_i = CE(f(x_i + delta_i*), y_i). Outside, distributionally robust optimisation:

    min_theta max_w sum_i w_i l_i - r KL(w || uniform)                                                       (1)
    w_i = exp(l_i / r) / sum_j exp(l_j / r),  so that (1) is  min_theta r log mean_i exp(l_i / r)            (2)

Inside, for each sample, an attack in the box a < delta < b, a_k = max(-eps, -x_k), b_k = min(eps, 1 - x_k), whose edge
is a log barrier, so that the solution is smooth in theta:

    delta* = argmin  -CE(f(x + delta), y) - c sum_k [log(b_k - delta_k) + log(delta_k - a_k)]                (3)

So the gradient of l_i has a second, implicit part. With D the second derivative of the barrier and H that of the CE,

    D_k = c / (b_k - delta_k)^2 + c / (delta_k - a_k)^2,      v = (D - H)^-1 dCE/ddelta                      (4)
    dl/dtheta = dCE/dtheta + d/dtheta <dCE/ddelta, v>,  v held fixed                                         (5)

Compositional implicit differentiation, on every batch B:

    solve (3) by K projected sign steps, f in eval mode
    u <- (1 - eta) u + eta mean_B exp(l_i / r),  w_i = exp(l_i / r) / u, without a gradient                  (6)
    one step along  mean_B w_i (5)                                                                           (7)

(2) is the closed form and the compositional problem of the paper's Eq. 5 and 6, (3) its Eq. 7. (4) and (5) are derived
here, as there is no public code: H is left out by default (it is small where a ReLU net is linear and sure);
`curvature_steps` solves with it by conjugate gradients. To first order the implicit part trains at x + delta* + v, beyond
the point that the barrier holds back; where K steps have not solved (3), v is cut so that this point stays in the box. (6) is `teaching.weights.KLDROWeights`, which every objective of `teaching.robust`
takes. The constants of the paper could not be confirmed; see `DONEConfig`.

Example::

    import tutelage
    from torch.optim import SGD
    from tutelage.methods.harden.doubly_robust_at import fit_done
    from tutelage.models import SmallCNN

    data = tutelage.fashion_mnist_subset("train").take(slice(0, 256))  # or your own DataLoader of (image, label)
    model = SmallCNN(4)
    result = fit_done(
        model, data.loader(64), threat=tutelage.Linf(0.1), epochs=1,
        optimizer=SGD(model.parameters(), lr=0.05, momentum=0.9),
    )
    print(result.history[-1])  # loss, the largest weight, the effective share of the batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from tutelage.auditing.measure import attack_set, device_of, predict
from tutelage.auditing.per_class import tail_accuracy
from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import Noise, normal
from tutelage.data.checks import check_in_memory
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_labels
from tutelage.models.guard import evaluating
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.objectives import Attack, pair
from tutelage.teaching.robust import check_first_batch, sample_cross_entropy
from tutelage.teaching.schedules import Schedule, warmup_cosine
from tutelage.teaching.weights import KLDROWeights, Normalise, dro_weights
from tutelage.threats.budgets import Budget, Linf
from tutelage.threats.engine import PGD

if TYPE_CHECKING:
    from accelerate import Accelerator

Mode = Literal["implicit", "plain"]
MODES = ("implicit", "plain")
PAPER_THREAT = Linf(8 / 255)
MARGIN = 1e-3  # of eps: how far from the edge of the box an iterate stays, so that (3) and (4) are finite
LEAST = 1e-30  # of c: a sample whose gradient is 0 everywhere has a barrier, too
SampleLoss = Callable[[Tensor], Tensor]  # inputs (B, ...) -> losses (B,)


@dataclass(frozen=True)
class DONEConfig:
    """The method's own constants. None of the paper's values could be confirmed; these are ours, chosen for stability.

    r: strength in units of the loss; small is the worst case. eta: of the running u, 1 is softmax weights in the batch.
    mode: "implicit" is (5); "plain" leaves its second part out, and is reweighted PGD-AT.
    burn_in: share of the training with w = 1. normalise, cap: see `KLDROWeights`.
    barrier: how far from the edge, in eps, (3) holds a coordinate of median gradient: c = barrier * eps * median |dCE|,
        for each sample anew, as gradients differ by orders of magnitude. barrier_c: a number c for all samples instead.
    curvature_steps: conjugate-gradient steps of (4); 0 leaves H out.
    """

    r: float = 1.0
    eta: float = 0.5
    mode: Mode = "implicit"
    burn_in: float = 0.1
    normalise: Normalise = "none"
    cap: float | None = None
    barrier: float = 0.1
    barrier_c: float | None = None
    curvature_steps: int = 0

    def __post_init__(self) -> None:
        self.weights()  # r, eta, normalise and cap are checked there
        check_choice("mode", self.mode, MODES)
        check_number("burn_in", self.burn_in, "a share of the training, from 0 to 1", low=0, high=1)
        _check_barrier(self.barrier, self.barrier_c)
        check_integer("curvature_steps", self.curvature_steps, low=0)

    def weights(self) -> KLDROWeights:
        return KLDROWeights(self.r, eta=self.eta, normalise=self.normalise, cap=self.cap)


@dataclass(frozen=True)
class Box:
    """The box of (3) around each sample, its barrier's strength, and the barrier's derivatives.

    low, high: the lowest and highest inputs x + a and x + b, (B, ...). c: (B, 1, ...). margin: in input units.
    """

    low: Tensor
    high: Tensor
    c: Tensor
    margin: float

    def inside(self, x_adv: Tensor) -> Tensor:
        """The nearest point at least `margin` from the edge."""
        return x_adv.clamp(self.low + self.margin, self.high - self.margin)

    def push(self, x_adv: Tensor) -> Tensor:
        """d/ddelta c [log(b - delta) + log(delta - a)]: away from the edge."""
        return self.c / (x_adv - self.low) - self.c / (self.high - x_adv)

    def curvature(self, x_adv: Tensor) -> Tensor:
        """D of (4), above 0 everywhere; InputError on or outside the edge."""
        below, above = x_adv - self.low, self.high - x_adv
        if not bool((below > 0).all() and (above > 0).all()):
            raise InputError("x_adv", "a point on the edge of its box", "points strictly inside: box.inside(x_adv)")
        return self.c / below.square() + self.c / above.square()


@dataclass(frozen=True)
class BarrierAttack:
    """The inner problem (3): K sign steps from 0.001 N(0, 1) beside the input, each projected strictly inside the box.

    The first step is `step_size` long (default 2.5 eps / steps), the others fall linearly, so that the last point lies
    near the balance of gradient and barrier. barrier, barrier_c: see `DONEConfig`. It can be passed wherever an attack can.
    """

    budget: Linf
    steps: int = 10
    step_size: float | None = None
    barrier: float = 0.1
    barrier_c: float | None = None

    def __post_init__(self) -> None:
        if type(self.budget) is not Linf or isinstance(self.budget.eps, Tensor) or not 0 < self.budget.eps <= 1:
            raise InputError("threat", self.budget, "an Linf budget with one eps above 0 and up to 1: (3) needs a box")
        check_integer("steps", self.steps)
        if self.step_size is not None:
            check_positive("step_size", self.step_size, "a number > 0, in input units")
        _check_barrier(self.barrier, self.barrier_c)

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        """x + delta*, (B, ...)."""
        return self.search(x, y, model=model, generator=generator)[0]

    def search(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise) -> tuple[Tensor, Box]:
        """(x + delta*, the box of each sample) after `steps` forward and backward passes in evaluation mode."""
        eps = float(self.budget.eps)
        step = self.step_size if self.step_size is not None else 2.5 * eps / self.steps
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        box = Box(low, high, torch.ones_like(x[:, :1]), MARGIN * eps)
        x_adv = box.inside(x + 0.001 * normal(x.shape, generator).to(x))
        with evaluating(model, verify=False):
            for k in range(self.steps):
                grad = _input_gradient(model, x_adv, y)
                if k == 0:
                    box = Box(low, high, self._strength(grad, eps), MARGIN * eps)
                x_adv = box.inside(x_adv + step * (1 - k / self.steps) * (grad + box.push(x_adv)).sign())
        return x_adv, box

    def _strength(self, grad: Tensor, eps: float) -> Tensor:
        """c for each sample, (B, 1, ...), from the gradient at the start of its search."""
        one_each = (-1, *[1] * (grad.dim() - 1))
        if self.barrier_c is not None:
            return grad.new_full((len(grad),), self.barrier_c).reshape(one_each)
        size = grad.abs().flatten(1)
        middle = size.masked_fill(size == 0, torch.nan).nanmedian(1).values.nan_to_num(0)
        return (self.barrier * eps * middle).clamp_min(LEAST).reshape(one_each)


def implicit_term(loss: SampleLoss, x_adv: Tensor, box: Box, weights: Tensor, *, curvature_steps: int = 0) -> Tensor:
    """A scalar of value 0 whose gradient is mean_i w_i d/dtheta <dl_i/ddelta, v_i>, the implicit part of (5) and (7).

    loss: inputs (B, ...) -> l (B,), differentiable twice. x_adv: (B, ...) strictly inside `box`. weights: (B,).
    """
    at = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(loss(at).sum(), at, create_graph=True)

    def times_hessian(v: Tensor) -> Tensor:
        if not grad.requires_grad:  # a loss that is linear in its input
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(grad, at, v, retain_graph=True, allow_unused=True, materialize_grads=True)
        return product

    v = _solve(box.curvature(at.detach()), times_hessian, grad.detach(), curvature_steps)
    if curvature_steps == 0:
        # where (3) is solved, x + delta + v lies in the box: (1/d - 1/e) / (1/d^2 + 1/e^2) < d. K steps may not solve it
        v = v.clamp(box.low - at.detach(), box.high - at.detach())
    term = (weights * (grad * v).flatten(1).sum(1)).mean()
    return term - term.detach()


def _solve(D: Tensor, times_hessian: Callable[[Tensor], Tensor], grad: Tensor, steps: int) -> Tensor:  # noqa: N803
    """v = (D - H)^-1 grad of (4) for each sample: D^-1 grad, then `steps` of conjugate gradients preconditioned by D.

    A sample stops where D - H is not positive along a direction: there (3) has no minimum that depends smoothly on theta.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.dim() - 1))

    v = grad / D
    if steps == 0:
        return v
    residual = times_hessian(v)  # grad - (D - H) v
    z = residual / D
    direction, size = z, dot(residual, z)
    for _ in range(steps):
        image = D * direction - times_hessian(direction)
        along = dot(direction, image)
        length = torch.where((along > 0) & (size > 0), size / along.clamp_min(LEAST), torch.zeros_like(size))
        v, residual = v + length * direction, residual - length * image
        z = residual / D
        before, size = size, dot(residual, z)
        direction = z + torch.where(length > 0, size / before.clamp_min(LEAST), torch.zeros_like(size)) * direction
    return v


class DONE:
    """The objective of (1) to (7) for `fit`; batches are (x, y) with x in [0, 1].

    attack: a BarrierAttack for mode "implicit", any attack for "plain". Its state (u) is checkpointed by `fit`.
    """

    def __init__(self, attack: Attack, config: DONEConfig | None = None) -> None:
        if config is not None and not isinstance(config, DONEConfig):
            raise InputError("config", type(config).__name__, "a DONEConfig")
        self.config = config or DONEConfig()
        check_callable("attack", attack, "an attack such as BarrierAttack(Linf(8/255))")
        if self.config.mode == "implicit" and not isinstance(attack, BarrierAttack):
            raise InputError("attack", type(attack).__name__, "a BarrierAttack, or mode='plain': (5) needs the barrier")
        self.attack, self.weights = attack, self.config.weights()
        self._classes = 0

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = pair(batch)
        if self._classes:
            check_labels(y, len(x), self._classes)
        else:
            self._classes = check_first_batch(model, x, y)  # before anything is attacked
        if isinstance(self.attack, BarrierAttack):
            x_adv, box = self.attack.search(x, y, model=model, generator=ctx.generator)  # (3)
        else:
            x_adv, box = self.attack(x, y, model=model, generator=ctx.generator), None
        losses = sample_cross_entropy(model(x_adv), y)
        weights = self.weights(losses, y, ctx)  # (6); u is kept from the first batch on
        if ctx.progress < self.config.burn_in:
            weights = torch.ones_like(losses)
        total = (weights * losses).mean()  # (7), the explicit part
        if self.config.mode == "implicit" and bool(torch.isfinite(losses).all()):
            assert box is not None
            with _in_eval_mode(model):  # the loss of a sample must not depend on its neighbours
                total = total + implicit_term(
                    lambda at: sample_cross_entropy(model(at), y), x_adv, box, weights,
                    curvature_steps=self.config.curvature_steps,
                )  # fmt: skip
        share = weights.sum().square() / weights.square().sum().clamp_min(LEAST) / len(weights)
        return total, {
            "loss_robust": losses.detach().mean(),
            "weight_max": weights.max(),
            "effective_share": share,  # of the batch: 1 with equal weights, 1/B with all weight on one sample
            "dro_value": self.weights.value,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.load_state_dict(state["weights"])


def fit_done(
    model: nn.Module,
    loader: DataLoader[Any],
    *,
    threat: Budget = PAPER_THREAT,
    attack: Attack | None = None,
    config: DONEConfig | None = None,
    epochs: int = 20,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    validation: ImageSet | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: Progress = QUIET,
) -> FitResult:
    """Train `model` in place by DONE.

    model: nn.Module, images (B, C, H, W) in [0, 1] -> logits (B, classes). loader: batches (x, y), y integer labels.
    threat: the budget to be robust in; mode "implicit" needs Linf. attack: default `BarrierAttack` of 10 steps, PGD of
    10 steps of eps/4 in mode "plain". optimizer: default SGD, learning rate 0.1, momentum 0.9, weight decay 5e-4;
    schedule: default one tenth of the steps up, then a cosine.
    validation: if given, the epoch of best `tail` on it is kept, the robust accuracy (PGD-20) of the weakest 30 % of the
    classes; never test data.
    Returns a FitResult whose history holds loss, largest weight, effective share of the batch and r log u of every step.

    Raises InputError (before any training) for another budget than a box, probabilities instead of logits, inputs outside
    [0, 1], labels out of range; SplitError for test data. `fit` says what else it raises.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    if not isinstance(threat, Budget):
        raise InputError("threat", threat, "a Budget such as Linf(8/255)")
    if validation is not None and not isinstance(validation, ImageSet):
        raise InputError("validation", type(validation).__name__, "an ImageSet: as_images(data)")
    if config is not None and not isinstance(config, DONEConfig):
        raise InputError("config", type(config).__name__, "a DONEConfig")
    check_in_memory(loader)
    config = config or DONEConfig()
    if attack is None and config.mode == "implicit":
        if not isinstance(threat, Linf):
            raise InputError("threat", threat, "an Linf budget, or mode='plain': (3) needs a box")
        attack = BarrierAttack(threat, barrier=config.barrier, barrier_c=config.barrier_c)
    objective = DONE(attack or PGD(threat, steps=10, start="gaussian"), config)
    validate = None
    if validation is not None:
        with training_only():
            refuse_test_data(validation)
        judge = PGD(threat, steps=20)

        def validate(model: nn.Module) -> Mapping[str, float]:
            return clean_robust_tail(model, validation, judge, seed=seed)

    return fit(
        model,
        objective,
        loader,
        epochs=epochs,
        optimizer=optimizer or SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=schedule or warmup_cosine(0.1),
        augment=augment,
        validate=validate,
        select="tail" if validation is not None else None,
        checkpoint=checkpoint,
        seed=seed,
        accelerator=accelerator,
        progress=progress,
        name="DONE",
    )


def clean_robust_tail(model: nn.Module, data: ImageSet, attack: PGD, *, seed: int = 0, frac: float = 0.3) -> dict[str, float]:
    """clean and robust accuracy and `tail`, the robust accuracy of the weakest share of classes, each in [0, 1]."""
    clean = float((predict(model, data).argmax(1) == data.labels).double().mean())
    broken = attack_set(model, data, attack, seed=seed).broken
    return {
        "clean": clean,
        "robust": float((~broken).double().mean()),
        "tail": tail_accuracy(~broken, data.labels, frac),
    }


def worst_case_weights(model: nn.Module, data: ImageSet, threat: Budget, r: float, *, seed: int = 0) -> Tensor:
    """The weights (2) of all N samples of `data` under PGD-10, (N,) float64 of mean 1. Look at the largest: hard or wrong?"""
    check_positive("r", r, "a number > 0, in units of the loss")
    attacked = attack_set(model, data, PGD(threat, steps=10, retire=False), seed=seed).x_adv
    losses, device = [], device_of(model)
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(data), 256):
            x, y = attacked[start : start + 256], data.labels[start : start + 256]
            losses.append(F.cross_entropy(model(x.to(device)).float().cpu(), y, reduction="none"))
    return dro_weights(torch.cat(losses), r)


def _input_gradient(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    x_adv = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(sample_cross_entropy(model(x_adv), y).sum(), x_adv)
    return grad


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with parameter gradients; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_barrier(barrier: float, barrier_c: float | None) -> None:
    check_positive("barrier", barrier, "a share of eps above 0 and below 1")
    check_number("barrier", barrier, "a share of eps above 0 and below 1", high=0.999)
    if barrier_c is not None:
        check_positive("barrier_c", barrier_c, "a number > 0, in units of the loss, or None")
