"""The calculator: the best linear classifier under attack, in closed form for Gaussian and for stable classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtr

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError

Norm = Literal["linf", "l2"]
Vector = npt.NDArray[np.float64]

SWEEPS = 10_000  # of coordinate descent; a few dozen are enough unless the covariance is nearly singular


@dataclass(frozen=True, eq=False)
class TradeOff:
    """The linear classifier of least robust risk, and what it does to the two classes.

    Predicts the minority if w . x > tau (x centred between the class means). w: (d,) of length 1, all 0 if `constant`.
    tau: in the units of x, infinite if `constant`. distance: a, from the centre to a class mean along w.
    robust_distance: D, what an attack leaves of it. Accuracies are shares in [0, 1] of each class, on clean data and under
    attack. constant: the best classifier always names the majority; it then has the accuracies 0 and 1.
    """

    w: Vector
    tau: float
    ratio: float
    distance: float
    robust_distance: float
    acc_minority: float
    acc_majority: float
    robust_acc_minority: float
    robust_acc_majority: float
    constant: bool = False

    @property
    def disparity(self) -> float:
        """AD: clean accuracy of the majority minus that of the minority."""
        return self.acc_majority - self.acc_minority

    @property
    def accuracy(self) -> float:
        """Clean accuracy where the majority is `ratio` times as frequent."""
        return (self.ratio * self.acc_majority + self.acc_minority) / (1 + self.ratio)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of both clean class accuracies."""
        return (self.acc_majority + self.acc_minority) / 2

    @property
    def robust_acc(self) -> float:
        """Accuracy under attack where the majority is `ratio` times as frequent: 1 minus the robust risk (1)."""
        return (self.ratio * self.robust_acc_majority + self.robust_acc_minority) / (1 + self.ratio)


def gaussian_tradeoff(
    mu: npt.ArrayLike,
    sigma: float = 1.0,
    ratio: float = 1.0,
    eps: float = 0.0,
    norm: Norm = "linf",
    cov: npt.ArrayLike | None = None,
) -> TradeOff:
    """The best robust linear classifier of two Gaussian classes, (2) to (5).

    mu: (d,), half the difference of the class means, minority minus majority. sigma: standard deviation; the covariance
    of both classes is sigma^2 times `cov`, (d, d) and positive definite (default: identity). ratio: majority over
    minority, R >= 1. eps >= 0: size of the attack in `norm`, in the units of x.

    If no direction is left under the attack (eps >= |mu| in that norm), the majority is predicted and `constant` says so,
    at R = 1 too. Raises InputError.
    """
    mean = _vector(mu)
    check_positive("sigma", sigma, "a standard deviation above 0")
    _check_ratio_and_eps(ratio, eps)
    check_choice("norm", norm, get_args(Norm))
    covariance = None if cov is None else sigma**2 * _covariance(cov, len(mean))
    size = float(np.abs(mean).max() if norm == "linf" else np.linalg.norm(mean))
    if eps >= size:
        return _majority(len(mean), ratio)
    isotropic = soft(mean, eps) if norm == "linf" else mean  # (3)
    w = isotropic if covariance is None else _direction(mean, covariance, eps, norm)  # (4)
    w = w / np.linalg.norm(w)
    spread = sigma if covariance is None else math.sqrt(float(w @ covariance @ w))
    dual = float(np.abs(w).sum() if norm == "linf" else np.linalg.norm(w))
    a = float(w @ mean)
    d = a - eps * dual
    tau = spread**2 * math.log(ratio) / (2 * d)  # (5)
    clean = _class_accuracies(lambda u: float(ndtr(u / spread)), a, tau)
    robust = _class_accuracies(lambda u: float(ndtr(u / spread)), d, tau)
    return TradeOff(w, tau, ratio, a, d, *clean, *robust)


def stable_tradeoff(distance: float, scale: float = 1.0, alpha: float = 1.0, ratio: float = 1.0, eps: float = 0.0) -> TradeOff:
    """The best robust threshold between two symmetric stable classes on a line, (6).

    distance: half the difference of the class centres. scale: of the stable law, whose characteristic function is
    exp(-|scale t|^alpha). alpha: 1 is Cauchy, 1.5 Holtsmark, 2 Gaussian with standard deviation sqrt(2) scale; from 0.5.
    ratio: R >= 1. eps >= 0: how far an attack moves a point.

    For alpha < 2 the ratio of the densities is bounded, so from some R on the best threshold is infinite: `constant`.
    The stationary threshold is compared with that constant classifier, which can win earlier. Raises InputError.
    """
    check_positive("distance", distance, "half the distance of the centres, above 0")
    check_positive("scale", scale, "a scale above 0")
    check_number("alpha", alpha, "a stability index from 0.5 to 2", low=0.5, high=2)
    _check_ratio_and_eps(ratio, eps)
    if alpha == 2:
        return gaussian_tradeoff([distance], math.sqrt(2) * scale, ratio, eps)
    d = distance - eps
    if d <= 0:
        return _majority(1, ratio)
    cdf, density = _stable(alpha, scale)
    tau = _cauchy_threshold(d, scale, ratio) if alpha == 1 else _stationary(density, d, scale, ratio)
    if tau is None:
        return _majority(1, ratio)
    found = TradeOff(
        np.ones(1), tau, ratio, distance, d, *_class_accuracies(cdf, distance, tau), *_class_accuracies(cdf, d, tau)
    )
    # a tie goes to the constant: it is as good, and simpler
    return _majority(1, ratio) if ratio > 1 and found.robust_acc <= ratio / (1 + ratio) else found


@dataclass(frozen=True)
class Decomposition:
    """What robustness costs at a ratio R and an eps, in shares.

    inherent: the balanced accuracy that robustness takes at R = 1, where no class is favoured. added_disparity: the gap
    that it adds at R over the gap of the standard classifier at R. accuracy_loss: the accuracy it takes at R.
    """

    inherent: float
    added_disparity: float
    accuracy_loss: float


def decompose(law: Callable[[float, float], TradeOff], ratio: float, eps: float) -> Decomposition:
    """Split the effect of robustness into (7), what is inherent, and (8), what imbalance makes of it.

    law: (ratio, eps) -> TradeOff, such as `lambda ratio, eps: gaussian_tradeoff(mu, 1.0, ratio, eps, "linf")`.
    """
    _check_ratio_and_eps(ratio, eps)
    inherent = law(1.0, 0.0).balanced_accuracy - law(1.0, eps).balanced_accuracy  # (7)
    standard, robust = law(ratio, 0.0), law(ratio, eps)
    return Decomposition(inherent, robust.disparity - standard.disparity, standard.accuracy - robust.accuracy)  # (8)


def soft(m: Vector, e: float) -> Vector:
    """Soft thresholding: sign(m_k) max(|m_k| - e, 0), the mean that a Linf attack of size e leaves."""
    left: Vector = np.sign(m) * np.maximum(np.abs(m) - e, 0.0)
    return left


def _direction(mean: Vector, cov: Vector, eps: float, norm: Norm) -> Vector:
    """(4): the minimiser of w'Cw/2 - mu.w + eps |w|_q, which has the direction of the largest (w.mu - eps |w|_q) / |w|_C.

    q = 2: (C + eps/t I) w = mu with t = |w|, one equation in t. q = 1: a lasso, by coordinate descent.
    """
    if eps == 0:
        return np.asarray(np.linalg.solve(cov, mean), dtype=np.float64)
    if norm == "l2":
        values, axes = np.linalg.eigh(cov)
        part = axes.T @ mean

        def excess(t: float) -> float:
            return float(np.sum((part / (values * t + eps)) ** 2) - 1)

        t = brentq(excess, 0.0, float(np.linalg.norm(mean)) / float(values.min()), xtol=1e-15, rtol=1e-14)
        w: Vector = axes @ (part / (values + eps / t))
        return w
    w = np.zeros_like(mean)
    for _ in range(SWEEPS):
        before = w.copy()
        for k in range(len(w)):
            rest = mean[k] - cov[k] @ w + cov[k, k] * w[k]
            w[k] = math.copysign(max(abs(rest) - eps, 0.0), rest) / cov[k, k]
        if float(np.abs(w - before).max()) <= 1e-13 * float(np.abs(w).max()):
            return w
    raise InputError("cov", f"a condition number of {np.linalg.cond(cov):.1e}", "a covariance farther from singular")


def _stable(alpha: float, scale: float) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Distribution function and density of the symmetric stable law, each of one number."""
    from scipy.stats import cauchy, levy_stable

    if alpha == 1:
        return lambda u: float(cauchy.cdf(u, scale=scale)), lambda u: float(cauchy.pdf(u, scale=scale))
    law = levy_stable(alpha, 0.0, scale=scale)
    return lambda u: float(law.cdf(u)), lambda u: float(law.pdf(u))


def _cauchy_threshold(d: float, scale: float, ratio: float) -> float | None:
    """The smaller root of f(tau - D) / f(tau + D) = R, written so that R = 1 gives 0; None if there is none."""
    root = 4 * ratio * d**2 - (ratio - 1) ** 2 * scale**2
    return None if root < 0 else (ratio - 1) * (d**2 + scale**2) / (d * (ratio + 1) + math.sqrt(root))


def _stationary(density: Callable[[float], float], d: float, scale: float, ratio: float) -> float | None:
    """The smallest root of f(tau - D) / f(tau + D) = R for a density whose ratio rises to a peak and falls back to 1."""
    if ratio == 1:
        return 0.0

    def excess(tau: float) -> float:
        return math.log(density(tau - d)) - math.log(density(tau + d)) - math.log(ratio)

    # outwards until the ratio is reached or has begun to fall
    step = min(d, scale) / 4
    left, at = 0.0, step
    while excess(at) < 0:
        step *= 1.25
        if excess(at + step) < excess(at):
            peak = minimize_scalar(lambda tau: -excess(tau), bounds=(left, at + step), method="bounded")
            if -float(peak.fun) < 0:
                return None
            at = float(peak.x)
            break
        left, at = at, at + step
    return float(brentq(excess, left if excess(left) < 0 else 0.0, at))


def _class_accuracies(cdf: Callable[[float], float], distance: float, tau: float) -> tuple[float, float]:
    """(minority, majority): P(u > tau) around +distance and P(u < tau) around -distance, for a symmetric law."""
    return cdf(distance - tau), cdf(distance + tau)


def _majority(dimensions: int, ratio: float) -> TradeOff:
    return TradeOff(np.zeros(dimensions), math.inf, ratio, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, constant=True)


def _check_ratio_and_eps(ratio: float, eps: float) -> None:
    check_number("ratio", ratio, "majority over minority, >= 1 (below 1: swap the names of the classes)", low=1)
    check_number("eps", eps, "the size of the attack, a finite number >= 0", low=0)


def _vector(mu: npt.ArrayLike) -> Vector:
    mean = np.asarray(mu, dtype=np.float64)
    if mean.ndim != 1 or mean.size == 0 or not np.isfinite(mean).all():
        raise InputError("mu", f"shape {mean.shape}", "a vector (d,) of finite numbers, half the difference of the means")
    return mean


def _covariance(cov: npt.ArrayLike, d: int) -> Vector:
    matrix = np.asarray(cov, dtype=np.float64)
    if matrix.shape != (d, d) or not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12):
        raise InputError("cov", f"shape {matrix.shape}", f"a symmetric matrix ({d}, {d}) of finite numbers")
    if float(np.linalg.eigvalsh(matrix).min()) <= 0:
        raise InputError("cov", "a matrix that is not positive definite", "a covariance (add a small ridge to the diagonal)")
    return matrix
