"""F2, drift: each column by its own test, all columns together, and what a model answers.

A column drifts where its test says so after adjustment for the number of columns *and* its effect is large enough to matter:
with many rows a test alone finds differences that nobody cares about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.stats.discrepancy import mmd
from tutelage.core.stats.distances import (
    bins_of,
    chi_squared,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    psi,
    wasserstein,
)
from tutelage.core.stats.many import holm
from tutelage.core.stats.sequential import benjamini_hochberg
from tutelage.methods.audit.robust_mlops.columns import Column, Columns, as_columns, is_number, numbers, rows

Floats = npt.NDArray[np.float64]
Adjust = Literal["holm", "bh"]
MULTIVARIATE = ("mmd", "domain-classifier", "pca")
# from which on a change matters: half of what is called a small effect (Wasserstein over std), and PSI's lower guide
EFFECTS = {"wasserstein": 0.1, "psi": 0.1}


@dataclass(frozen=True)
class ColumnDrift:
    """One column. statistic, p_value: of the KS test (numbers) or chi-squared (categories); p_adjusted: over all columns.

    psi, js, hellinger: of shares over the reference's bins. wasserstein: over the reference's std, 0 for categories.
    """

    column: str
    test: str
    statistic: float
    p_value: float
    p_adjusted: float
    psi: float
    js: float
    hellinger: float
    wasserstein: float
    drifted: bool


@dataclass(frozen=True)
class JointDrift:
    """All number columns together. test: "mmd", "domain-classifier" (AUC of telling new rows from old, minus 1/2) or "pca"
    (mean error of reconstruction over the reference's). effect: the statistic.
    """

    test: str
    effect: float
    p_value: float
    drifted: bool


@dataclass(frozen=True)
class DriftReport:
    """columns and joint tests. drifted: any of them. p_value: the smallest adjusted one, over columns and joint tests."""

    columns: tuple[ColumnDrift, ...]
    joint: tuple[JointDrift, ...]
    n: int
    alpha: float
    adjust: str

    @property
    def drifted(self) -> bool:
        return any(one.drifted for one in self.columns) or any(one.drifted for one in self.joint)

    @property
    def which(self) -> tuple[str, ...]:
        return tuple([one.column for one in self.columns if one.drifted] + [one.test for one in self.joint if one.drifted])

    @property
    def p_value(self) -> float:
        return min([1.0, *(one.p_adjusted for one in self.columns), *(one.p_value for one in self.joint)])

    def describe(self) -> dict[str, Any]:
        return {"drifted": self.drifted, "which": list(self.which), "p_value": self.p_value, **asdict(self)}


def drift(
    reference: Any,
    current: Any,
    *,
    tests: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    alpha: float = 0.05,
    adjust: Adjust = "holm",
    bins: int = 10,
    effect: float = 1.0,
    permutations: int = 200,
    seed: int = 0,
) -> DriftReport:
    """Compare current rows with reference rows, column by column and (`tests`: mmd, domain-classifier, pca) all together.

    columns: which to look at, default all that both have. alpha: level after adjustment by Holm (any false drift) or
    Benjamini-Hochberg (share of false ones). effect: factor on the least effect: of Wasserstein over std 0.1 or PSI 0.1, one of
    them must be reached; 0 asks for significance alone. seed: of permutations and folds. Raises InputError.
    """
    old, new = as_columns(reference, "reference"), as_columns(current, "current")
    names = list(columns) if columns is not None else [name for name in old if name in new]
    if not names or any(name not in old or name not in new for name in names):
        raise InputError("columns", names, f"columns of both tables, of {', '.join(old)}")
    check_number("alpha", alpha, "a level between 0 and 1", low=1e-12, high=1)
    check_number("effect", effect, "a factor of 0 or more", low=0)
    check_choice("adjust", adjust, ("holm", "bh"))
    check_integer("permutations", permutations)
    for test in tests:
        check_choice("tests", test, MULTIVARIATE)
    found = [_column(name, old[name], new[name], bins) for name in names]
    adjusted = (holm if adjust == "holm" else benjamini_hochberg)([one[3] for one in found])
    judged = []
    for (name, test, statistic, p, distances), p_adjusted in zip(found, adjusted.tolist(), strict=True):
        large = any(distances[key] >= effect * least for key, least in EFFECTS.items())
        drifted = p_adjusted <= alpha and (large or effect == 0)
        judged.append(ColumnDrift(name, test, statistic, p, p_adjusted, **distances, drifted=drifted))
    joint: list[JointDrift] = []
    if tests:
        rng = np.random.default_rng(seed)
        x, y = _standardised(old, new, names)
        joint = [_joint(test, x, y, alpha / len(tests), effect, permutations, rng) for test in tests]
    return DriftReport(tuple(judged), tuple(joint), rows(new), alpha, adjust)


def _column(name: str, old: Column, new: Column, bins: int) -> tuple[str, str, float, float, dict[str, float]]:
    of_numbers = is_number(old) and is_number(new)
    own = bins_of(old if of_numbers else old.astype(object), bins)
    before, after = own.counts(old), own.counts(new if of_numbers else new.astype(object))
    p, q = before / before.sum(), after / after.sum()
    distances = {"psi": psi(p, q), "js": jensen_shannon(p, q), "hellinger": hellinger(p, q), "wasserstein": 0.0}
    if of_numbers:
        first, second = (values.astype(np.float64) for values in (old, new))
        first, second = first[np.isfinite(first)], second[np.isfinite(second)]
        gone = chi_squared([before[:-1].sum(), before[-1]], [after[:-1].sum(), after[-1]])[1]  # more or fewer missing
        if not (first.size and second.size):
            return name, "missing", 0.0, gone, distances
        distances["wasserstein"] = wasserstein(first, second)
        statistic, p_value = kolmogorov_smirnov(first, second)
        both = p_value if before[-1] == after[-1] == 0 else min(1.0, 2 * min(p_value, gone))
        return name, "ks", statistic, both, distances
    statistic, p_value = chi_squared(before, after)
    return name, "chi-squared", statistic, p_value, distances


def _standardised(old: Columns, new: Columns, names: Sequence[str]) -> tuple[Floats, Floats]:
    usable = [name for name in names if is_number(old[name]) and is_number(new[name])]
    if not usable:
        raise InputError("tests", "no number columns", "number columns for tests of all columns together")
    x, y = numbers(old, usable), numbers(new, usable)
    middle = np.nanmean(x, 0)
    x, y = np.where(np.isfinite(x), x, middle), np.where(np.isfinite(y), y, middle)
    spread = x.std(0)
    spread[spread == 0] = 1.0
    return (x - middle) / spread, (y - middle) / spread


def _joint(
    test: str, x: Floats, y: Floats, alpha: float, effect: float, permutations: int, rng: np.random.Generator
) -> JointDrift:
    if test == "mmd":
        found = mmd(_some(x, 200, rng), _some(y, 200, rng), rng=rng, permutations=permutations)
        return JointDrift("mmd", found.mmd2, found.p_value, found.p_value <= alpha)
    if test == "domain-classifier":
        probability, is_new = domain_probabilities(_some(x, 2 * len(y), rng), y, rng=rng)
        from scipy.stats import mannwhitneyu

        told = mannwhitneyu(probability[is_new], probability[~is_new], alternative="greater")
        auc = float(told.statistic) / (int(is_new.sum()) * int((~is_new).sum()))
        return JointDrift(test, auc - 0.5, float(told.pvalue), float(told.pvalue) <= alpha and auc - 0.5 >= 0.05 * effect)
    half = rng.permutation(len(x))
    fit, held = x[half[: len(x) // 2]], x[half[len(x) // 2 :]]
    middle = fit.mean(0)
    _, sizes, axes = np.linalg.svd(fit - middle, full_matrices=False)
    kept = axes[: max(1, int(np.searchsorted(np.cumsum(sizes**2) / (sizes**2).sum(), 0.9)))]

    def errors(rows_: Floats) -> Floats:
        away = rows_ - middle
        return np.asarray(((away - away @ kept.T @ kept) ** 2).sum(1))

    before, after = errors(held), errors(y)
    statistic, p = kolmogorov_smirnov(before, after)
    ratio = float(after.mean() / max(1e-12, before.mean()))
    return JointDrift("pca", ratio, p, p <= alpha and (statistic >= 0.1 * effect))


def domain_probabilities(
    x: npt.ArrayLike, y: npt.ArrayLike, *, rng: np.random.Generator, folds: int = 5, c: float = 1.0
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(p, is_new): out-of-fold probability of being a row of y, by logistic regression with classes of equal weight."""
    from sklearn.linear_model import LogisticRegression

    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    both = np.concatenate([first, second])
    is_new = np.arange(len(both)) >= len(first)
    fold = np.empty(len(both), np.int64)
    for part in (~is_new, is_new):
        fold[part] = rng.permutation(int(part.sum())) % folds
    if min(int((~is_new).sum()), int(is_new.sum())) < folds:
        raise InputError("current", f"{len(second)} rows", f"at least {folds} rows on both sides")
    found = np.empty(len(both))
    for k in range(folds):
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=200)
        model.fit(both[fold != k], is_new[fold != k])
        found[fold == k] = model.predict_proba(both[fold == k])[:, 1]
    return found, is_new


def _some(x: Floats, n: int, rng: np.random.Generator) -> Floats:
    return x if len(x) <= n else x[np.sort(rng.permutation(len(x))[:n])]
