"""Equations (1) to (6): pass@k, robust pass, drop and relative change, from tables of what passed.

nominal (X, n): whether completion i of problem x passes its tests. perturbed (X, T, n): the same for each of T edited prompts
of the problem (transformations x seeds). valid (X, T): which of them exist; an edited prompt that failed the gate does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.core.stats import pass_at_k

Pairing = Literal["slot", "any"]
Table = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RobustScore:
    """Scores of one transformation, or of a category, over the problems that have a valid edited prompt. Shares in [0, 1].

    nominal: pass@k (1) of these problems. robust: RP_s@k (2). average: mean over edited prompts of pass@k: what one random
    edit leaves. drop: RD (4) in per cent, None where nominal is 0. relative: RR (5) in per cent. broken: of the problems with
    a right nominal completion, the share that lose one under some edited prompt, None where there are none (6).
    """

    k: int
    problems: int
    nominal: float
    robust: float
    average: float
    drop: float | None
    relative: float
    broken: float | None


def score(
    nominal: npt.ArrayLike,
    perturbed: npt.ArrayLike,
    *,
    k: int = 1,
    valid: npt.ArrayLike | None = None,
    pairing: Pairing = "slot",
) -> RobustScore | None:
    """All scores; None if no problem has a valid edited prompt. Raises InputError for tables that do not fit, and wrong k.

    pairing: "slot" compares completion i of the edited prompt with completion i of the nominal one, as the paper does; for
    samples that is an arbitrary pairing, and "any" takes the worst prompt by its own estimate of pass@k instead.
    """
    base, edited, there = _tables(nominal, perturbed, valid)
    check_choice("pairing", pairing, ("slot", "any"))
    kept = there.any(1)
    if not kept.any():
        return None
    base, edited, there = base[kept], edited[kept], there[kept]
    n = base.shape[1]
    usual = pass_at_k(n, base.sum(1), k)
    each = np.where(there, pass_at_k(n, edited.sum(2), k), np.nan)  # (X, T)
    worst = (edited | ~there[:, :, None]).all(1)  # (X, n)
    best = (edited & there[:, :, None]).any(1)
    if pairing == "slot":
        robust = pass_at_k(n, worst.sum(1), k)
        down_or_up = worst != base
        only_best = ~down_or_up & (best != base)
        relative = pass_at_k(n, only_best.sum(1), k) + pass_at_k(n, down_or_up.sum(1), k)
        had, lost = base.any(1), (base & ~worst).any(1)
    else:
        robust = np.nanmin(each, 1)
        relative = np.nanmax(np.abs(each - usual[:, None]), 1)
        had, lost = usual > 0, robust < usual
    whole, left = float(usual.mean()), float(robust.mean())
    return RobustScore(
        k=k,
        problems=len(base),
        nominal=whole,
        robust=left,
        average=float(np.nanmean(each, 1).mean()),
        drop=100 * (whole - left) / whole if whole > 0 else None,
        relative=100 * float(relative.mean()),
        broken=float((lost & had).sum() / had.sum()) if had.any() else None,
    )


def _tables(nominal: npt.ArrayLike, perturbed: npt.ArrayLike, valid: npt.ArrayLike | None) -> tuple[Table, Table, Table]:
    base, edited = np.asarray(nominal), np.asarray(perturbed)
    if base.dtype != np.bool_ or base.ndim != 2 or not base.size:
        raise InputError("nominal", f"{base.dtype} of shape {base.shape}", "booleans (problems, completions)")
    if edited.dtype != np.bool_ or edited.ndim != 3 or edited.shape[::2] != base.shape or not edited.size:
        raise InputError(
            "perturbed", f"{edited.dtype} of shape {edited.shape}", f"booleans ({base.shape[0]}, prompts, {base.shape[1]})"
        )
    there = np.ones(edited.shape[:2], dtype=bool) if valid is None else np.asarray(valid)
    if there.dtype != np.bool_ or there.shape != edited.shape[:2]:
        raise InputError("valid", f"{there.dtype} of shape {there.shape}", f"booleans {edited.shape[:2]}")
    return base, edited, there
