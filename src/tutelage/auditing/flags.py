"""Flags: signs that the number of an audit is not what it seems, each with what to run next.

An attack that fails says little about the model. The field has learned what a failure of the attack looks like:

    Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security, arXiv 1802.00420
    Carlini et al.: On Evaluating Adversarial Robustness, arXiv 1902.06705
    Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses, arXiv 2002.08347
    Pintor et al.: Indicators of Attack Failure, arXiv 2106.09947

Survivors are the samples that are classified right and that no attack of the threat broke: only they can be counted as robust
by mistake. The checks look at up to 128 of them, drawn by the audit's seed. With L the margin, g its gradient at the clean
input x, B(eps) the budget, and lo(k, n) the lower end of Wilson's 95 % interval of k >= 2 in n samples:

    zero gradients      lo(#{g = 0}, n) > 1 %                                                                       (1)
    shattered           lo(#{L(x + d) - L(x) < <g, d> / 4}, n) > 10 %,  d one step of length eps / 8 along g        (2)
    black box better    lo(#{broken without gradients}, #{left by gradients}) > 1 %                                 (3)
    not saturated       lo(#{broken by twice the steps}, n) > 1 %, or lo(#{L rises by a quarter more}, n) > 50 %    (4)
    eps -> range        lo(#{unbroken by 20 steps in B(the range of inputs)}, 64) > 5 %                             (5)

A flag of a model or a threat makes its numbers unreliable; a note only tells something. Cost of a threat: about twice the steps
of one of its attacks, on 128 samples, 20 steps on 64, and eight passes.

Example::

    import tutelage

    data = tutelage.fashion_mnist_subset("test").take(slice(0, 100))
    model = tutelage.models.SmallCNN(8)
    for flag in tutelage.audit(model, data, threats=["pgd-5:linf@0.1"], force=True).flags:
        print(flag.slug, flag.threat, flag.seen, flag.run_next)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.auditing.measure import Measured, device_of
from tutelage.core.rng import generator
from tutelage.core.stats import wilson
from tutelage.data.images import ImageSet
from tutelage.models.checks import is_differentiable, look_like_probabilities
from tutelage.models.guard import evaluating
from tutelage.threats.apgd import APGD
from tutelage.threats.black_box import UPPER_BOUND
from tutelage.threats.budgets import L1, L2, Budget, Linf
from tutelage.threats.engine import PGD, Attack
from tutelage.threats.objectives import AttackBatch, margin
from tutelage.threats.randomised import Randomised
from tutelage.threats.suite import Suite
from tutelage.threats.targeted import TargetedAPGD

SAMPLES = 128  # survivors that are looked at
RANGE_SAMPLES = 64  # of them, for (5)
LEAST, LEAST_SHARE = 5, 0.02  # survivors, and of all samples; of fewer nothing is said, as the number is low anyway
RARE = 0.01  # share that (1), (3) and (4) forgive
SHATTERED = 0.1
IN_RANGE = 0.05
STEP = 1 / 8  # of eps: a step of PGD-20
PROMISE = 0.25  # share of the first-order term that the loss must rise by
RISE = 0.25  # of what the attacks gained; more with twice the steps means that they had not ended
RANGE_STEPS = 20
EOT = 10  # draws averaged, from which on a random model is attacked as one

# flags of the model that concern every number, not only those under threats
EVERYWHERE = ("random-model", "buffers-changed", "chance-accuracy")


@dataclass(frozen=True)
class Flag:
    """One sign of failure. slug: its name, and that of its page, docs/flags/<slug>.md.

    seen: what was seen, with its number, on n samples. why: why the number is not to be trusted. run_next: a threat, a
    setting or a change. threat: whose numbers; all of them if empty. unreliable: False for a note.
    """

    slug: str
    seen: str
    n: int
    why: str
    run_next: str
    threat: str = ""
    unreliable: bool = True

    @property
    def page(self) -> str:
        return f"docs/flags/{self.slug}.md"

    @property
    def message(self) -> str:
        """All of it in a line, but for whether it is a flag or a note."""
        return f"{f'{self.threat}: ' if self.threat else ''}{self.seen}; {self.why}. Run next: {self.run_next} ({self.page})"

    def concerns(self, category: str, threats: Sequence[str]) -> bool:
        """Whether a row of this category is one that the flag makes unreliable; threats: names of all in the audit."""
        if not self.unreliable:
            return False
        return category == self.threat if self.threat else category in threats or self.slug in EVERYWHERE


# ------------------------------------------------------------------------------------------------------- of the model


def random_model(model: nn.Module, first: Tensor, again: Tensor, suites: Sequence[Suite]) -> Flag | None:
    """The same inputs give other logits, (B, classes), when they are given again.

    A note where what is attacked is a mean: of the model's draws (`Randomised`), or of the gradients of all searches (eot).
    """
    if torch.allclose(first, again, atol=1e-4, rtol=1e-4):
        return None
    change = float((first - again).abs().max())
    turned = int((first.argmax(1) != again.argmax(1)).sum())
    searches = [attack for suite in suites for attack in gradient_attacks(suite)]
    averaged = bool(searches) and all(getattr(attack, "eot", 1) >= EOT for attack in searches)
    averaged |= any(isinstance(module, Randomised) and module.draws >= EOT for module in model.modules())
    return Flag(
        "random-model",
        f"the model is random: the same input gave logits that differ by up to {change:.3g}, and other answers for {turned} of "
        f"{len(first)} samples",
        len(first),
        "a draw may break a sample or hide a gradient by luck, and other draws give another number",
        "the audit with several seeds"
        if averaged
        else f"the audit of threats.Randomised(model, draws={2 * EOT}), with several seeds",
        unreliable=not averaged,
    )


def probabilities(model: nn.Module, logits: Tensor) -> Flag | None:
    """The model's outputs (B, classes) lie in [0, 1] and sum to 1."""
    if not look_like_probabilities(logits):
        return None
    if is_differentiable(model):
        why = "the gradients of a softmax vanish where the model is sure"
        remedy = "the audit of the model without its softmax, or of tutelage.models.LogProbabilities(model)"
    else:
        why = "a search takes them for logits, and their differences hardly change where the model is sure"
        remedy = 'the audit of the model with gives="probabilities", as in Endpoint(url, gives="probabilities")'
        remedy += "; --gives probabilities for an address"
    seen = f"the model returns probabilities (rows in [0, 1] that sum to 1) for all of {len(logits)} samples"
    return Flag("probabilities", seen, len(logits), why, remedy)


def optimises(calls: int, n: int) -> Flag | None:
    """calls: how often the model asked for gradients by itself while it classified n samples."""
    if calls == 0:
        return None
    return Flag(
        "test-time-optimisation",
        f"the model called autograd {calls} times while it classified {n} samples",
        n,
        "it optimises or uses gradients at test time, and an attack does not see through that as through a plain net",
        "an attack on the net inside, whose points are given to the whole model; then square-5000 on the whole",
    )


def buffers_changed(what: str, n: int) -> Flag:
    """what: the message of the mode guard."""
    return Flag(
        "buffers-changed",
        f"{what}, on {n} samples",
        n,
        "what the model says depends on what it saw before; here its buffers were put back after each pass",
        "the audit of a model whose buffers stay as they are in evaluation mode",
    )


def chance_accuracy(right: Tensor, labels: Tensor) -> Flag | None:
    """Right answers (N,) that are not more than those of always naming the largest class."""
    n, hits = len(right), int(right.sum())
    chance = float(labels.bincount().max()) / n
    if wilson(hits, n).lo > chance or (hits == n and n > 1):
        return None
    above = hits / n > chance
    return Flag(
        "chance-accuracy",
        f"clean accuracy, right on {of(hits, n)}, is not above {100 * chance:.1f} %{' beyond chance' if above else ''}; that "
        "is what always naming the largest class gives",
        n,
        "whatever is measured on top of it means nothing",
        f"{'more images; or ' if above else ''}check weights, label order, value range and normalisation, then the same audit",
    )


def more_outputs(outputs: int, classes: int, n: int) -> Flag | None:
    """The model has more outputs than the data classes: a note, since the clean accuracy is above chance."""
    if outputs <= classes:
        return None
    return Flag(
        "more-outputs",
        f"the model has {outputs} outputs, the data {classes} classes",
        n,
        "if the labels are not in the model's order, the clean accuracy is too low",
        "compare the class names with the model's own",
        unreliable=False,
    )


# ------------------------------------------------------------------------------------------------------- of a threat


@dataclass(frozen=True)
class Survivors:
    """What the checks look at: clean inputs x (n, ...), labels y (n,), the best points found x_adv (n, ...), a seed each."""

    model: nn.Module
    suite: Suite
    threat: str
    x: Tensor
    y: Tensor
    x_adv: Tensor
    seeds: Tensor
    batch_size: int

    def __len__(self) -> int:
        return len(self.y)

    def _batches(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        return [torch.split(tensor, self.batch_size) for tensor in tensors]

    def margins(self, points: Tensor) -> Tensor:
        """L (n,) at points (n, ...), on their device."""
        parts = zip(*self._batches(points, self.x, self.y), strict=True)
        with torch.no_grad(), evaluating(self.model):
            return torch.cat([margin(self.model(at), AttackBatch(x, y)) for at, x, y in parts])

    def gradients(self, objective: Any) -> tuple[Tensor, Tensor]:
        """(values (n,), gradients (n, ...)) of an objective at the clean inputs."""
        values, grads = [], []
        with evaluating(self.model), torch.enable_grad():
            for x, y in zip(*self._batches(self.x, self.y), strict=True):
                leaf = x.detach().requires_grad_()
                value = objective(self.model(leaf), AttackBatch(x, y))
                grads += torch.autograd.grad(value.sum(), leaf)
                values.append(value.detach())
        return torch.cat(values), torch.cat(grads)

    def attacked(self, attack: Attack, n: int) -> tuple[Tensor, Tensor]:
        """(success (n,), points (n, ...)) of an attack on the first n."""
        found = [
            attack.run_seeded(self.model, x, y, seeds)
            for x, y, seeds in zip(*self._batches(self.x[:n], self.y[:n], self.seeds[:n]), strict=True)
        ]
        return torch.cat([one.success for one in found]), torch.cat([one.x_adv for one in found])


def zero_gradients(survivors: Survivors) -> Flag | None:
    """(1): no objective of the threat has a gradient. Where only some have none, a note."""
    n = len(survivors)
    dead = {_name_of(objective): _is_zero(survivors.gradients(objective)[1]) for objective in _objectives(survivors.suite)}
    everywhere = torch.stack(list(dead.values())).all(0)
    if beyond(k := int(everywhere.sum()), n, RARE):
        return Flag(
            "zero-gradients",
            f"the gradient is exactly zero for {of(k, n)} of those left",
            n,
            "an attack that follows gradients does not move where there is none",
            f"square-5000:{survivors.suite.budget}; or a differentiable stand-in for the part that has no gradient",
            survivors.threat,
        )
    single = {name: int(zero.sum()) for name, zero in dead.items() if beyond(int(zero.sum()), n, RARE)}
    if not single:
        return None
    name, k = max(single.items(), key=lambda pair: pair[1])
    return Flag(
        "zero-gradients",
        f"the gradient of {name} is exactly zero for {of(k, n)} of those left, that of another objective is not",
        n,
        "only the attacks with the other objective have searched there",
        f"targeted-apgd-100:{survivors.suite.budget}",
        survivors.threat,
        unreliable=False,
    )


def shattered_gradients(survivors: Survivors) -> Flag | None:
    """(2): a step of a usual length does not raise the margin as its gradient promises."""
    value, grad = survivors.gradients(margin)
    step = _step(survivors, grad)
    promise = (step * grad).flatten(1).sum(1)
    told = promise > 1e-5 * (1 + value.abs())  # less is lost in rounding
    n = int(told.sum())
    rise = survivors.margins(survivors.x + step) - value
    k = int((rise < PROMISE * promise)[told].sum())
    if not beyond(k, n, SHATTERED):
        return None
    ratio = float((rise / promise)[told].median())
    return Flag(
        "shattered-gradients",
        f"a step of eps / {1 / STEP:g} along the gradient raises the margin by less than {PROMISE:.0%} of what the gradient "
        f"promises for {of(k, n)} of those left (median {ratio:.0%})",
        n,
        "such a gradient points nowhere, and attacks that follow it get lost",
        f"square-5000:{survivors.suite.budget}; or a smooth stand-in for the part that shatters the gradient",
        survivors.threat,
    )


def black_box_better(suite: Suite, threat: str, stages: dict[str, Tensor]) -> Flag | None:
    """(3), from what is broken after each attack, name -> (N,) bool."""
    searched = False
    before: Tensor | None = None
    broken = 0
    for name, attack in suite.attacks:
        if needs_gradients(attack):
            searched, before, broken = True, stages[name], 0
        elif searched and before is not None:
            broken = int((stages[name] & ~before).sum())
    if before is None or few(left := int((~before).sum()), len(before)) or not beyond(broken, left, RARE):
        return None
    return Flag(
        "black-box-better",
        f"an attack without the model's gradients broke {of(broken, left)} that those with gradients had left",
        left,
        "gradients should find more than random search; here they mislead, or their attacks were too weak",
        f"targeted-apgd-100:{suite.budget}, then square-20000:{suite.budget}",
        threat,
    )


def not_saturated(survivors: Survivors) -> Flag | None:
    """(4): the last attack with gradients, given twice the steps, one start and one target, still gets on."""
    attack = next((one for one in reversed(gradient_attacks(survivors.suite)) if hasattr(one, "steps")), None)
    if attack is None:
        return None
    n = len(survivors)
    success, points = survivors.attacked(_longer(attack), n)
    clean, reached, height = (survivors.margins(at) for at in (survivors.x, survivors.x_adv, points))
    gained = (reached - clean).clamp_min(0)
    rose = (height - reached > RISE * gained) & (height - reached > 1e-4 * (1 + clean.abs()))
    k, growing = int(success.sum()), int((rose | success).sum())
    if beyond(k, n, RARE):
        seen = f"twice the steps ({2 * attack.steps}) break {of(k, n)} of those left"
    elif beyond(growing, n, 0.5):
        seen = f"with twice the steps ({2 * attack.steps}) the margin still rises for {of(growing, n)} of those left"
    else:
        return None
    return Flag(
        "not-saturated",
        seen,
        n,
        "the attack had not come to its end, so that more steps or a better step size give a lower number",
        _stronger(survivors.suite, attack.steps),
        survivors.threat,
    )


def range_not_reached(survivors: Survivors) -> Flag | None:
    """(5): from the clean inputs, within the whole range of inputs, gradients do not lead to a mistake."""
    attack = next((one for one in reversed(gradient_attacks(survivors.suite)) if isinstance(one, PGD)), None)
    budget = None if attack is None else whole_range(survivors.suite.budget, survivors.x, attack.bounds)
    if attack is None or budget is None or attack.project is not None:
        return None
    n = min(len(survivors), RANGE_SAMPLES)
    steps = {"steps": max(RANGE_STEPS, attack.steps), "restarts": 1, "start": "clean", "step_size": None}
    free = replace(_one_target(attack), budget=budget, relative_step=None, **steps)
    success, _ = survivors.attacked(free, n)
    k = n - int(success.sum())
    if not beyond(k, n, IN_RANGE):
        return None
    return Flag(
        "range-not-reached",
        f"with eps as wide as the whole range of inputs ({budget.norm}@{budget.eps:g}), {of(k, n)} of those left stay right",
        n,
        "any image may become any other there, so that the search fails, not the budget",
        f"square-5000:{survivors.suite.budget}; then find the part of the model that hides the gradient",
        survivors.threat,
    )


def fewer_classes(suite: Suite, threat: str, outputs: int, n: int) -> Flag | None:
    """An attack aims at more classes than there are: a note, since it then aims at all others."""
    names = [name for name, attack in suite.attacks if isinstance(attack, TargetedAPGD) and attack.targets > outputs - 1]
    if not names:
        return None
    return Flag(
        "fewer-classes",
        f"{names[0]} aims at more classes than the {outputs - 1} others that the model has",
        n,
        "nothing is lost: all of them were targeted, but the attack is not the one of a model with ten classes",
        f"nothing, or apgd-100:{suite.budget}, which needs no targets",
        threat,
        unreliable=False,
    )


def black_box_only(model: nn.Module, suite: Suite, threat: str, n: int) -> Flag | None:
    """The model gives no gradients: a note, since the number is an upper bound as all are, but a weaker one."""
    if is_differentiable(model) or gradient_attacks(suite):
        return None
    return Flag(
        "black-box-only",
        f"all {n} samples were attacked without gradients",
        n,
        UPPER_BOUND,
        f"square-20000:{suite.budget}; or the net itself, if you can have it",
        threat,
        unreliable=False,
    )


def gradients_not_used(model: nn.Module, images: ImageSet, suite: Suite, threat: str, suites: Sequence[Suite]) -> Flag | None:
    """The model gives gradients, and no attack of the audit used them within this budget.

    suites: all of the audit. Only in norms that have a standard suite.
    """
    if type(suite.budget) not in (Linf, L2, L1) or _searched(suite, suites) or not _has_gradient(model, images):
        return None
    return Flag(
        "gradients-not-used",
        f"the model gives gradients, and all {len(images)} samples were attacked without them",
        len(images),
        "search without gradients finds much less, so that this is no worst case",
        f"{suite.budget} (the standard suite)",
        threat,
    )


def one_step(suite: Suite, threat: str, suites: Sequence[Suite], n: int) -> Flag | None:
    """All that searched within this budget is one step along the gradient: a note; `not_saturated` looks at what it left."""
    searches = _searched(suite, suites)
    if type(suite.budget) not in (Linf, L2, L1) or not searches or any(getattr(one, "steps", 0) != 1 for one in searches):
        return None
    return Flag(
        "one-step",
        f"all {n} samples were attacked with one step along the gradient",
        n,
        "one step is no worst case: several break more of most models",
        f"{suite.budget} (the standard suite)",
        threat,
        unreliable=False,
    )


def _has_gradient(model: nn.Module, images: ImageSet) -> bool:
    """Whether the logits depend on the input for autograd."""
    if not is_differentiable(model):
        return False
    x, _ = images[:1]
    with torch.enable_grad(), evaluating(model):
        return bool(model(x.to(device_of(model)).requires_grad_()).requires_grad)


def _searched(suite: Suite, suites: Sequence[Suite]) -> list[Any]:
    """The attacks with gradients within the budget of a suite, of all suites."""
    return [attack for one in (suite, *suites) if one.budget == suite.budget for attack in gradient_attacks(one)]


def said_by_attacks(threat: str, warnings: Sequence[str], n: int) -> Flag | None:
    """What attacks themselves warned of, batch by batch, but for zero gradients, which are looked at on their own."""
    others = [warning for warning in warnings if "the gradient is zero for" not in warning]
    if not others:
        return None
    seen = "; ".join(others[:3]) + (f"; and {len(others) - 3} more warnings" if len(others) > 3 else "")
    return Flag("attack-warning", seen, n, "the attack itself says that something is wrong", "an attack that does not", threat)


def not_checked(threat: str, reason: str, n: int) -> Flag:
    """The checks of a threat ended in an error."""
    return Flag(
        "attack-warning",
        f"the search for signs of failed attacks ended in an error ({reason})",
        n,
        "nobody knows whether the attacks of this threat failed",
        "the audit of a model with finite logits on all inputs in the range",
        threat,
    )


def threat_flags(
    model: nn.Module,
    images: ImageSet,
    suite: Suite,
    threat: str,
    measured: Measured,
    outputs: int,
    *,
    suites: Sequence[Suite] = (),
    random: bool = False,
    seed: int = 0,
    batch_size: int = 256,
) -> list[Flag]:
    """All flags of one threat. suites: all of the audit. random: of a random model, whose differences are luck,
    only gradients are looked at.
    """
    n = len(images)
    found = [
        fewer_classes(suite, threat, outputs, n),
        black_box_only(model, suite, threat, n),
        gradients_not_used(model, images, suite, threat, suites),
        one_step(suite, threat, suites, n),
        said_by_attacks(threat, measured.warnings, n),
    ]
    if not random and measured.stages:
        found.append(black_box_better(suite, threat, measured.stages))
    if gradient_attacks(suite) and not few(int((~measured.broken).sum()), n):
        survivors = _survivors(model, images, suite, threat, measured, seed, batch_size)
        found.append(zero_gradients(survivors))
        found.append(range_not_reached(survivors))
        if not random:
            found += [shattered_gradients(survivors), not_saturated(survivors)]
    return [flag for flag in found if flag is not None]


def _survivors(
    model: nn.Module, images: ImageSet, suite: Suite, threat: str, measured: Measured, seed: int, batch_size: int
) -> Survivors:
    left = (~measured.broken).nonzero().squeeze(1)
    order = torch.randperm(len(left), generator=generator(seed, "flags", threat))[:SAMPLES].sort().values
    chosen, device = left[order], device_of(model)
    x, y = images[chosen]
    # seeds of places in the set, so that a sample has the same noise whoever else is left
    seeds = torch.randint(2**61, (len(images),), generator=generator(seed, "flags", "noise"))[chosen]
    return Survivors(
        model, suite, threat, x.to(device), y.to(device), measured.x_adv[chosen].to(device), seeds, max(1, batch_size)
    )


# ------------------------------------------------------------------------------------------------------------ helpers


def needs_gradients(attack: Attack) -> bool:
    return bool(getattr(attack, "needs_gradients", True))


def gradient_attacks(suite: Suite) -> list[Any]:
    """The attacks of a suite that use the model's gradients, in their order."""
    return [attack for _, attack in suite.attacks if needs_gradients(attack)]


def few(left: int, n: int) -> bool:
    """Whether so few of n samples are left that nothing is to be said of them."""
    return left < max(LEAST, LEAST_SHARE * n)


def beyond(k: int, n: int, share: float) -> bool:
    """Whether k of n is more than a share beyond chance: at least two, and the lower end of Wilson's interval is above it."""
    return n >= k > 1 and wilson(k, n).lo > share


def of(k: int, n: int) -> str:
    """ "12 of 60 samples (20.0 % [11.8, 31.8])"."""
    interval = wilson(k, n)
    return f"{k} of {n} samples ({100 * k / n:.1f} % [{100 * interval.lo:.1f}, {100 * interval.hi:.1f}])"


def whole_range(budget: Budget, x: Tensor, bounds: tuple[float, float] | None) -> Budget | None:
    """The budget of x's norm in which every input of the range lies; None where there is no range, or for other budgets."""
    if bounds is None or type(budget) not in (Linf, L2, L1):
        return None
    width, d = bounds[1] - bounds[0], x[0].numel()
    return replace(budget, eps=width * {"linf": 1.0, "l2": d**0.5, "l1": float(d)}[budget.norm])


@contextmanager
def counting_autograd() -> Iterator[list[int]]:
    """Counts calls of `torch.autograd.grad` and `backward` (which `Tensor.backward` and `torch.func.grad` are) in this thread.

    Only looks: what the model runs is not touched. Yields a list that holds the count at the end.
    """
    # whoever has put something else in their place may have no Python code to be seen
    codes: set[CodeType] = {f.__code__ for f in (torch.autograd.grad, torch.autograd.backward) if hasattr(f, "__code__")}
    count = [0]

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            count[0] += 1

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(before)


def _objectives(suite: Suite) -> list[Any]:
    return list(dict.fromkeys(attack.objective for attack in gradient_attacks(suite)))


def _name_of(objective: Any) -> str:
    return str(getattr(objective, "__name__", type(objective).__name__))


def _is_zero(grad: Tensor) -> Tensor:
    zero: Tensor = grad.flatten(1).abs().amax(1) == 0
    return zero


def _step(survivors: Survivors, grad: Tensor) -> Tensor:
    """The change (n, ...) by a step of eps / 8 along the gradient that stays in the range of inputs."""
    budget, bounds = survivors.suite.budget, gradient_attacks(survivors.suite)[-1].bounds
    if bounds is not None:
        grad = grad.masked_fill(((grad > 0) & (survivors.x >= bounds[1])) | ((grad < 0) & (survivors.x <= bounds[0])), 0)
    # the steepest step of L1 is one coordinate, which tells little: there the step goes along the gradient itself
    way = grad if isinstance(budget, L1) else budget.steepest(grad)
    size = budget.size(torch.zeros_like(way), way).clamp_min(1e-12)
    step = way * (STEP * budget.eps / size).to(way).reshape(-1, *[1] * (way.dim() - 1))
    return step if bounds is None else (survivors.x + step).clamp(*bounds) - survivors.x


def _one_target(attack: Any) -> Any:
    return replace(attack, targets=1) if isinstance(attack, TargetedAPGD) else attack


def _longer(attack: Any) -> Any:
    """The attack with twice the steps of the length they have, one start and one target."""
    longer = replace(_one_target(attack), steps=2 * attack.steps, restarts=1)
    if isinstance(attack, PGD) and not isinstance(attack, APGD) and attack.step_size is None:
        return replace(longer, relative_step=attack.relative_step or 2.5 / attack.steps)
    return longer


def _stronger(suite: Suite, steps: int) -> str:
    """A threat that searches longer than this suite."""
    return f"targeted-apgd-{max(100, 5 * steps)}:{suite.budget}" if suite.label else f"{suite.budget} (the standard suite)"
