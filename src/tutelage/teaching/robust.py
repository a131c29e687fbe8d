"""Objectives of robust training besides PGD-AT: sample weights, GAIRAT, TRADES and MART. The attack is passed in.

S is the student, p its softmax, x' what the attack finds. `weights` (see `teaching.weights`) reweights the samples of any
of them; without it all count the same.

    weighted AT   mean_i w_i CE(S(x'_i), y_i)                                                            (1)
    GAIRAT        (1) with w_i falling with kappa_i, the attack's points at which sample i is still right    (2)
    TRADES        mean_i CE(S(x_i), y_i) + beta KL(p(x_i) || p(x'_i)),  x' maximises that KL                 (3)
    MART          mean_i BCE(p(x'_i), y_i) + beta KL(p(x_i) || p(x'_i)) (1 - p_y(x_i)),  x' maximises CE     (4)
                  BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k)                                           (5)

GAIRAT: Zhang et al., arXiv 2010.01736 (ICLR 2021). TRADES: Zhang et al., arXiv 1901.08573 (ICML 2019). MART: Wang et al.,
"Improving Adversarial Robustness Requires Revisiting Misclassified Examples" (ICLR 2020, OpenReview rklOg6EFwS, not on
arXiv). The attack sees the model in evaluation mode (as `PGD` does it); the losses see it in the mode it is in, the clean
batch first, so BatchNorm sees two batches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_number
from tutelage.core.errors import InputError
from tutelage.models.checks import check_first_batch, check_labels, check_logits
from tutelage.models.guard import evaluating
from tutelage.teaching.divergences import kl
from tutelage.teaching.fit import Context
from tutelage.teaching.objectives import Attack, pair
from tutelage.teaching.weights import SampleWeights, geometry_weights, weighted_mean

Logged = tuple[Tensor, dict[str, Tensor | float]]


class _Robust:
    """What the objectives share: the attack, optional weights, and their state."""

    def __init__(self, attack: Attack, weights: SampleWeights | None) -> None:
        check_callable("attack", attack, "an attack such as PGD(Linf(8/255), steps=10)")
        if weights is not None:
            check_callable("weights", weights, "sample weights such as KLDROWeights(r=1.0)")
        self.attack, self.weights = attack, weights
        self._classes = 0

    def _inputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """The (x, y) of a batch; on the first one ranges and logits are looked at, too, before anything is attacked."""
        x, y = pair(batch)
        if self._classes:
            check_labels(y, len(x), self._classes)
        else:
            self._classes = check_first_batch(model, x, y)
        return x, y

    def state_dict(self) -> dict[str, Any]:
        own: Any = self.weights
        return {"weights": own.state_dict() if hasattr(own, "state_dict") else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own: Any = self.weights
        if state["weights"] is not None and hasattr(own, "load_state_dict"):
            own.load_state_dict(state["weights"])


class WeightedAdversarialTraining(_Robust):
    """PGD-AT with sample weights, (1); without weights it is `AdversarialTraining`."""

    def __init__(self, attack: Attack, *, weights: SampleWeights | None = None) -> None:
        super().__init__(attack, weights)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> Logged:
        x, y = self._inputs(model, batch)
        x_adv = self.attack(x, y, model=model, generator=ctx.generator)
        return weighted_mean(sample_cross_entropy(model(x_adv), y), self.weights, y, ctx), {}


class GAIRAT(_Robust):
    """Geometry-aware instance-reweighted adversarial training, (2).

        kappa_i = number of points x'_0, ..., x'_{K-1} of the attack at which S is right about sample i
        w_i proportional to (1 + tanh(shift + 5 (1 - 2 kappa_i / K))) / 2, with mean 1 over the batch

    shift: Lambda of the paper, -1 in the released code. burn_in: share of the training with w = 1; there half of it.
    The attack must pass the whole batch through the model at each of its K steps, as a call of `PGD` does.
    """

    def __init__(self, attack: Attack, *, shift: float = -1.0, burn_in: float = 0.5) -> None:
        super().__init__(attack, None)
        check_number("shift", shift, "a number from -100 to 100", low=-100, high=100)
        check_number("burn_in", burn_in, "a share of the training, from 0 to 1", low=0, high=1)
        self.shift, self.burn_in = shift, burn_in

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> Logged:
        x, y = self._inputs(model, batch)
        watched = _CountsRight(model, y)
        x_adv = self.attack(x, y, model=watched, generator=ctx.generator)
        if watched.passes == 0:
            raise InputError("attack", "one that never asks the model", "an attack that passes its points through the model")
        losses = sample_cross_entropy(model(x_adv), y)
        log: dict[str, Tensor | float] = {"kappa": watched.right.double().mean()}
        if ctx.progress < self.burn_in:
            return losses.mean(), log
        weights = geometry_weights(watched.right, watched.passes, self.shift)
        weights = weights / ctx.batch_mean({"weight": float(weights.mean())})["weight"]
        return (weights.to(losses) * losses).mean(), log


class TRADES(_Robust):
    """The clean loss plus beta times how far an attack moves the prediction, (3). beta = 6 in the paper's main table.

    The attack must have an objective that uses `reference` (the model's own logits on x, in evaluation mode), such as
    `PGD(budget, objective=kl_to_reference, start="gaussian")`. From the clean point itself it cannot start: its gradient
    is 0 there. Gradients flow through both arguments of the KL, as in the released code.
    """

    def __init__(self, attack: Attack, *, beta: float = 6.0, weights: SampleWeights | None = None) -> None:
        super().__init__(attack, weights)
        check_number("beta", beta, "a finite number >= 0", low=0)
        self.beta = beta

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> Logged:
        x, y = self._inputs(model, batch)
        with torch.no_grad(), evaluating(model, verify=False):
            reference = check_logits(model(x), len(x), finite=False)
        x_adv = self.attack(x, y, model=model, generator=ctx.generator, reference=reference)
        clean = model(x)
        natural = sample_cross_entropy(clean, y)
        moved = kl(clean, model(x_adv), reduction="none")
        log: dict[str, Tensor | float] = {"loss_clean": natural.detach().mean(), "loss_robust": moved.detach().mean()}
        return weighted_mean(natural + self.beta * moved, self.weights, y, ctx), log


class MART(_Robust):
    """Misclassification-aware adversarial training, (4) and (5). beta (lambda in the paper) = 5 there, 6 in released code.

    The KL of a sample counts 1 - p_y(x): most where the clean input is misclassified. The weight has a gradient, as in the
    released code; the small constants that code adds inside logarithms are not needed here.
    """

    def __init__(self, attack: Attack, *, beta: float = 5.0, weights: SampleWeights | None = None) -> None:
        super().__init__(attack, weights)
        check_number("beta", beta, "a finite number >= 0", low=0)
        self.beta = beta

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> Logged:
        x, y = self._inputs(model, batch)
        x_adv = self.attack(x, y, model=model, generator=ctx.generator)
        clean = check_logits(model(x), len(x), finite=False)
        attacked = check_logits(model(x_adv), len(x), finite=False)
        boosted = boosted_cross_entropy(attacked, y)  # (5)
        uncertain = 1 - clean.softmax(1).gather(1, y.long()[:, None]).squeeze(1)
        moved = uncertain * kl(clean, attacked, reduction="none")
        log: dict[str, Tensor | float] = {"loss_boosted": boosted.detach().mean(), "loss_robust": moved.detach().mean()}
        return weighted_mean(boosted + self.beta * moved, self.weights, y, ctx), log


def sample_cross_entropy(outputs: object, y: Tensor) -> Tensor:
    """CE of a model's outputs, one a sample (B,); wrong shapes and labels are told here, what is not finite by `fit`."""
    logits = check_logits(outputs, len(y), finite=False)
    check_labels(y, len(y), logits.shape[1])
    return F.cross_entropy(logits, y.long(), reduction="none")


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(5): -log p_y - log(1 - max_{k != y} p_k), one a sample (B,). For two classes it is twice the cross-entropy."""
    log_p = logits.log_softmax(1)
    own = y.long()[:, None]
    rival = log_p.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    # log(1 - p_k) as the log of the sum of all others: no cancellation where p_k is near 1
    rest = log_p.scatter(1, rival, -torch.inf).logsumexp(1)
    return -log_p.gather(1, own).squeeze(1) - rest


class _CountsRight(nn.Module):
    """The model, counting for each sample at how many passes it was classified right."""

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model, self.y = model, y
        self.right, self.passes = torch.zeros_like(y, dtype=torch.long), 0
        self.training = model.training  # not train(): parts of the model may have modes of their own

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if len(logits) != len(self.y):
            raise InputError("attack", f"{len(logits)} of {len(self.y)} samples in a pass", "an attack on the whole batch")
        self.right += logits.detach().argmax(1) == self.y
        self.passes += 1
        return logits
