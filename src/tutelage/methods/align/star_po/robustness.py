"""Numbers of a method over its grid: not the best cell, but what one may expect who tunes a little, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.stats.checks import vector

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """The distribution of a score over n configurations: mean, standard deviation (n - 1), worst, lower quartile, best."""

    n: int
    mean: float
    sd: float
    worst: float
    q25: float
    best: float


def spread(scores: npt.ArrayLike) -> Spread:
    """The distribution of the scores (n,) of n >= 2 configurations. Raises InputError."""
    z = _scores("scores", scores)
    if z.size < 2:
        raise InputError("scores", "1 configuration", "2 at least")
    return Spread(
        int(z.size), float(z.mean()), float(z.std(ddof=1)), float(z.min()), float(np.quantile(z, 0.25)), float(z.max())
    )


def expected_best(scores: npt.ArrayLike, k: int, *, by: npt.ArrayLike | None = None) -> float:
    """The expected score of the best of k of the n configurations, drawn without replacement: exact.

    With the scores in ascending order z_(1) … z_(n):

        (1)  E_k = Σ_j z_(j) [C(j, k) - C(j-1, k)] / C(n, k)

    by: what the best one is chosen by, for instance the scores on validation prompts; then the order is theirs, and E_k is what
    the chosen one scores. Among equals each is chosen as often. k: 1 to n. Raises InputError.

    Example::

        >>> from tutelage.methods.align.star_po.robustness import expected_best
        >>> [expected_best([1.0, 2.0, 6.0], k) for k in (1, 2, 3)]    # by hand: 3, (2 + 6 + 6) / 3, 6
        [3.0, 4.666666666666667, 6.0]
    """
    z = _scores("scores", scores)
    check_integer("k", k, high=z.size)
    order = z if by is None else _scores("by", by)
    if order.shape != z.shape:
        raise InputError("by", f"{order.size} numbers", f"{z.size}, one a configuration")
    return float(best_weights(z.size, k) @ _in_order(z, order))


def best_weights(n: int, k: int) -> FloatArray:
    """(n,): the probability that the best of k out of n is the j-th in ascending order."""
    return np.array([(comb(j, k) - comb(j - 1, k)) / comb(n, k) for j in range(1, n + 1)])


def _in_order(z: FloatArray, order: FloatArray) -> FloatArray:
    """The scores by ascending `order`; equals share the mean of their scores, as each of them is chosen as often."""
    _, group = np.unique(order, return_inverse=True)
    means = np.bincount(group, weights=z) / np.bincount(group)
    found: FloatArray = means[np.sort(group)]
    return found


def regret(scores: npt.ArrayLike, k: int, *, by: npt.ArrayLike | None = None) -> float:
    """What is lost by trying only k configurations: the largest score less E_k. Not negative."""
    return float(np.max(_scores("scores", scores))) - expected_best(scores, k, by=by)


def _scores(name: str, values: npt.ArrayLike) -> FloatArray:
    found = vector(name, values)
    if not found.size:
        raise InputError(name, "none", "the score of one configuration at least")
    return found


@dataclass(frozen=True)
class Recommendation:
    """Which method to take if k configurations can be tried, and how sure that is.

    value: its expected score E_k. runner_up: the next one; lead: by how much it is behind, with `interval`, the 95 % bootstrap
    limits. shares: for each method the share of the resamples in which it is best. clear: whether the interval is above 0.
    """

    k: int
    method: str
    value: float
    runner_up: str
    lead: float
    interval: tuple[float, float]
    shares: dict[str, float]

    @property
    def clear(self) -> bool:
        return self.interval[0] > 0

    def __str__(self) -> str:
        tries = "one configuration" if self.k == 1 else f"the best of {self.k} configurations"
        low, high = self.interval
        text = (
            f"For {tries}: {self.method}, expected score {self.value:.3f}, {self.lead:+.3f} [{low:+.3f}, {high:+.3f}] against "
            f"{self.runner_up}; best in {100 * self.shares[self.method]:.0f} % of resamples."
        )
        return text if self.clear else f"{text} That is no clear lead."


def recommend(
    scores: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    k: int = 1,
    by: Mapping[str, Sequence[npt.ArrayLike]] | None = None,
    n_resamples: int = 2000,
    rng: np.random.Generator,
) -> Recommendation:
    """The method with the highest E_k, averaged over seeds.

    scores: {method: for each seed the scores (n,) of its configurations, in one order}. by: the same for what one chooses by.
    The uncertainty is that of other seeds and other configurations from the same ranges: seeds are drawn with replacement, the
    same for all methods, and configurations of each method, the same in all seeds. Raises InputError.
    """
    if len(scores) < 2:
        raise InputError("scores", ", ".join(scores) or "none", "two methods at least")
    check_integer("n_resamples", n_resamples)
    tables = {name: _table(name, values) for name, values in scores.items()}
    orders = {name: _table(name, values) for name, values in by.items()} if by is not None else tables
    seeds = {table.shape[0] for table in tables.values()}
    if len(seeds) != 1:
        raise InputError("scores", f"{sorted(seeds)} seeds", "the same seeds for every method")
    n_seeds = seeds.pop()
    for name, table in tables.items():
        check_integer("k", k, high=table.shape[1])
        if name not in orders or orders[name].shape != table.shape:
            raise InputError("by", f"another shape for {name}", "as many numbers as scores")
    means = {name: _mean_best(table, orders[name], k) for name, table in tables.items()}
    ranked = sorted(means, key=lambda name: -means[name])
    drawn = np.empty((n_resamples, len(ranked)))
    for i in range(n_resamples):
        which = rng.integers(0, n_seeds, n_seeds)
        for j, name in enumerate(ranked):
            columns = rng.integers(0, tables[name].shape[1], tables[name].shape[1])
            at = np.ix_(which, columns)
            drawn[i, j] = _mean_best(tables[name][at], orders[name][at], k)
    best = drawn == drawn.max(1, keepdims=True)
    shares = (best / best.sum(1, keepdims=True)).mean(0)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], (0.025, 0.975))
    return Recommendation(
        k, ranked[0], means[ranked[0]], ranked[1], means[ranked[0]] - means[ranked[1]], (float(low), float(high)),
        {name: float(share) for name, share in zip(ranked, shares, strict=True)},
    )  # fmt: skip


def _mean_best(table: FloatArray, order: FloatArray, k: int) -> float:
    weights = best_weights(table.shape[1], k)
    return float(np.mean([weights @ _in_order(z, o) for z, o in zip(table, order, strict=True)]))


def _table(name: str, values: Sequence[npt.ArrayLike]) -> FloatArray:
    rows = [_scores(name, row) for row in values]
    if not rows or len({row.size for row in rows}) != 1:
        raise InputError("scores", f"rows of other lengths for {name}", "the same configurations in every seed")
    return np.stack(rows)
