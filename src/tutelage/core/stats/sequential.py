"""Looking again and again at a stream without crying wolf: e-processes, spending, ADWIN, DDM, Page-Hinkley."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.core.stats.checks import integer, vector

Floats = npt.NDArray[np.float64]
BETS = 32  # how many bets an e-process spreads its capital over


def spending(alpha: float, look: int) -> float:
    """The level of look 1, 2, ...: alpha 6 / (pi² look²). All of them together spend alpha, however long the stream is."""
    check_number("alpha", alpha, "a level between 0 and 1", low=1e-12, high=1)
    if integer("look", look) < 1:
        raise InputError("look", look, "1, 2, ...")
    return 6 * alpha / (math.pi * look) ** 2


def average_run_length(alarms: int, looks: int) -> float:
    """Looks between false alarms: looks / alarms; without an alarm, looks (it is at least that in this stream)."""
    return looks / max(1, alarms)


@dataclass
class EProcess:
    """Has the mean of values in [0, 1] fallen below `mean`? Valid at every look (Waudby-Smith & Ramdas, arXiv 2010.09686, eq.
    24).

    The capital of a bet b on a fall is prod (1 + b (mean - x)), 0 <= b < 1/(1 - mean); `value` is the mean over a grid of
    bets. While the mean has not fallen it exceeds 1/alpha ever with probability alpha at most (Ville's inequality).
    """

    mean: float
    logs: Floats = field(init=False, repr=False)
    bets: Floats = field(init=False, repr=False)
    largest: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        check_number("mean", self.mean, "a mean between 0 and 1", low=1e-6, high=1 - 1e-6)
        self.bets = np.linspace(0, 0.95, BETS + 1)[1:] / (1 - self.mean)
        self.logs = np.zeros(BETS)

    @property
    def value(self) -> float:
        top = float(self.logs.max())
        return float(min(1e300, math.exp(min(690.0, top)) * float(np.exp(self.logs - top).mean())))

    def update(self, values: npt.ArrayLike) -> float:
        """Take the next values, in their order; returns the largest value so far (1 at the start)."""
        x = vector("values", np.asarray(values, np.float64))
        if x.min() < 0 or x.max() > 1:
            raise InputError("values", f"values from {x.min():g} to {x.max():g}", "values in [0, 1]")
        steps = np.cumsum(np.log1p(self.bets[:, None] * (self.mean - x)), 1) + self.logs[:, None]
        top = steps.max(0)
        means = np.exp(np.minimum(690.0, top)) * np.exp(steps - top).mean(0)
        self.logs = steps[:, -1].copy()
        self.largest = max(self.largest, float(means.max()))
        return self.largest


@dataclass
class EDetector:
    """Alarms over independent p-values, one a look, whose average run length is at least 1/alpha (Shin, Ramdas, Rinaldo, arXiv
    2203.03532). A p-value becomes the e-value 1 / (2 sqrt(p)); m <- e max(1, m), an alarm where m >= 1/alpha.
    """

    alpha: float
    value: float = 0.0

    def update(self, p_value: float) -> bool:
        check_number("p_value", p_value, "a probability", low=0, high=1)
        self.value = min(1e300, max(1.0, self.value) * 0.5 / math.sqrt(max(p_value, 1e-300)))
        return self.value >= 1 / self.alpha


@dataclass
class Adwin:
    """Adaptive windowing (Bifet & Gavalda 2007): the older part is dropped where its mean differs from that of the newer.

    A cut is made where |mean1 - mean2| > sqrt(2/m s² ln(2/d')) + 2/(3m) ln(2/d'), 1/m the sum of 1/size of both parts, s²
    the variance of the window, d' = delta / ln(n). Values in [0, 1]. largest: how many values are kept at most.
    """

    delta: float = 0.002
    least: int = 5
    largest: int = 5000
    window: list[float] = field(default_factory=list)

    def update(self, value: float) -> bool:
        """Whether something was dropped."""
        check_number("value", value, "a value in [0, 1]", low=0, high=1)
        self.window = [*self.window[-(self.largest - 1) :], float(value)]
        dropped = False
        while (cut := self._cut()) is not None:
            self.window, dropped = self.window[cut:], True
        return dropped

    def _cut(self) -> int | None:
        x = np.array(self.window)
        n = x.size
        if n < 2 * self.least:
            return None
        left = np.arange(self.least, n - self.least + 1)
        sums = np.cumsum(x)
        first, second = sums[left - 1] / left, (sums[-1] - sums[left - 1]) / (n - left)
        harmonic = 1 / (1 / left + 1 / (n - left))
        log = math.log(2 * math.log(n) / self.delta)
        limit = np.sqrt(2 / harmonic * x.var() * log) + 2 / (3 * harmonic) * log
        over = np.flatnonzero(np.abs(first - second) > limit)
        return int(left[over[np.argmax(np.abs(first - second)[over])]]) if over.size else None


@dataclass
class Ddm:
    """Drift detection method (Gama et al. 2004) on errors (1 wrong, 0 right): "warning" at 2, "drift" at 3 deviations."""

    least: int = 30
    n: int = 0
    rate: float = 0.0
    best: tuple[float, float] = (math.inf, math.inf)

    def update(self, error: float) -> str:
        check_number("error", error, "0 or 1", low=0, high=1)
        self.n += 1
        self.rate += (error - self.rate) / self.n
        spread = math.sqrt(self.rate * (1 - self.rate) / self.n)
        if self.n < self.least:
            return "in control"
        if self.rate + spread < sum(self.best):
            self.best = self.rate, spread
        if self.rate + spread > self.best[0] + 3 * self.best[1] and self.rate > self.best[0]:
            self.n, self.rate, self.best = 0, 0.0, (math.inf, math.inf)
            return "drift"
        return "warning" if self.rate + spread > self.best[0] + 2 * self.best[1] and self.rate > self.best[0] else "in control"


@dataclass
class PageHinkley:
    """Page-Hinkley test (Page 1954) for a mean that rises: the sum of (x - mean - slack), over its minimum, passes `limit`."""

    limit: float = 50.0
    slack: float = 0.005
    n: int = 0
    mean: float = 0.0
    total: float = 0.0
    lowest: float = 0.0

    def update(self, value: float) -> bool:
        check_number("value", value, "a finite number")
        self.n += 1
        self.mean += (value - self.mean) / self.n
        self.total += value - self.mean - self.slack
        self.lowest = min(self.lowest, self.total)
        if self.total - self.lowest > self.limit:
            self.n, self.mean, self.total, self.lowest = 0, 0.0, 0.0, 0.0
            return True
        return False


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """Adjusted p-values (Benjamini & Hochberg 1995), in the order given: min over j >= i of m p_(j) / j, at most 1.

    Rejecting where the result is <= alpha keeps the expected share of false rejections at alpha. Raises `InputError`.
    """
    p = vector("p_values", p_values)
    if p.min() < 0 or p.max() > 1:
        raise InputError("p_values", f"values from {p.min():g} to {p.max():g}", "probabilities in [0, 1]")
    order = np.argsort(p)
    stepped = np.minimum.accumulate((p[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
