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
the point that the barrier holds back; where K steps have not solved (3), v is cut so that this point stays in the box.
(3) to (5) are in `barrier.py` beside this file; (6) is `teaching.weights.KLDROWeights`, which every objective of
`teaching.robust` takes. The constants of the paper could not be confirmed; see `DONEConfig`.

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
from tutelage.data.checks import check_in_memory
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.methods.harden.doubly_robust_at.barrier import BarrierAttack, Box, check_barrier, implicit_term
from tutelage.models.checks import check_first_batch, check_labels
from tutelage.models.guard import evaluating
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.objectives import Attack, pair
from tutelage.teaching.robust import sample_cross_entropy
from tutelage.teaching.schedules import Schedule, warmup_cosine
from tutelage.teaching.weights import KLDROWeights, Normalise, dro_weights
from tutelage.threats.budgets import Budget, Linf
from tutelage.threats.engine import PGD

if TYPE_CHECKING:
    from accelerate import Accelerator

Mode = Literal["implicit", "plain"]
MODES = ("implicit", "plain")
PAPER_THREAT = Linf(8 / 255)


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
        check_barrier(self.barrier, self.barrier_c)
        check_integer("curvature_steps", self.curvature_steps, low=0)

    def weights(self) -> KLDROWeights:
        return KLDROWeights(self.r, eta=self.eta, normalise=self.normalise, cap=self.cap)


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
        share = weights.sum().square() / weights.square().sum().clamp_min(1e-30) / len(weights)
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


__all__ = [
    "DONE",
    "BarrierAttack",
    "Box",
    "DONEConfig",
    "clean_robust_tail",
    "fit_done",
    "implicit_term",
    "worst_case_weights",
]
