"""How well a one-step generator obeys a negative prompt: the removal test, over strengths and ways to forbid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.auditing.generated import Suppression, suppression
from tutelage.core.checks import check_callable, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import generator, normal
from tutelage.methods.distill.snoopi.generator import Mode, OneStepGenerator

Seen = Callable[[Tensor, Sequence[str]], Tensor]  # (pictures (N, C, H, W), what each must show or not) -> bool (N,)


@dataclass(frozen=True)
class Removal:
    """A prompt and what must not be there: Removal("7", "red")."""

    prompt: str
    negative: str


@dataclass(frozen=True)
class RemovalRow:
    """One way and strength: the suppression, and the share of pictures that show what was asked for, before and after."""

    mode: str
    alpha: float
    suppression: Suppression
    right_before: float
    right_after: float

    @property
    def lost(self) -> float:
        """Accuracy of the prompt that the negative one costs, a share."""
        return self.right_before - self.right_after


def removal_test(
    student: OneStepGenerator,
    removals: Sequence[Removal],
    shows: Seen,
    *,
    alphas: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5),
    modes: Sequence[Mode] = ("nasa",),
    each: int = 100,
    seed: int = 0,
) -> list[RemovalRow]:
    """The paper's removal test: `each` pictures of every pair, the same noise for all strengths and modes.

    shows(pictures, words): whether a judge sees word i in picture i; it is asked for the negative word and for the prompt.
    Choose alpha on other prompts or another seed than those you report.
    """
    if not removals or not all(isinstance(one, Removal) for one in removals):
        raise InputError("removals", removals, 'pairs such as [Removal("7", "red")]')
    check_callable("shows", shows, "a function of (pictures, words) that gives booleans")
    check_integer("each", each)
    for alpha in alphas:
        check_number("alphas", alpha, "strengths >= 0", low=0)
    prompts = [one.prompt for one in removals for _ in range(each)]
    forbidden = [one.negative for one in removals for _ in range(each)]
    noise = normal((len(prompts), *student.shape), generator(seed, "removal test"))
    plain = student.generate(prompts, noise=noise)
    seen, right = shows(plain, forbidden), shows(plain, prompts)
    rows = []
    for mode in modes:
        for alpha in alphas:
            made = student.generate(prompts, negative=forbidden, alpha=alpha, mode=mode, noise=noise)
            if alpha > 0 and torch.equal(made, plain):
                raise InputError(
                    "negative", f"a negative prompt that changed no pixel in mode {mode}", "one that has an effect"
                )
            after = float(shows(made, prompts).double().mean())
            found = suppression(seen, shows(made, forbidden))
            rows.append(RemovalRow(mode, float(alpha), found, float(right.double().mean()), after))
    return rows


def chosen(rows: Sequence[RemovalRow], mode: str, *, allowed_loss: float = 0.03) -> RemovalRow:
    """The row of `mode` with the least of the forbidden thing among those that lose at most `allowed_loss` of the prompt.

    If every strength loses more, the row that loses least. Of equals, the weaker strength.
    """
    own = [row for row in rows if row.mode == mode]
    if not own:
        raise InputError("mode", mode, f"a mode of the rows: {', '.join(sorted({row.mode for row in rows}))}")
    good = [row for row in own if row.lost <= allowed_loss + 1e-12]
    if not good:
        return min(own, key=lambda row: (row.lost, row.alpha))
    return min(good, key=lambda row: (row.suppression.after, row.alpha))
