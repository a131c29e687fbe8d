"""Balancing several teachers or several losses while a student learns. Each works alone, with any number of names.

Both come from MTARD (Zhao, Wang, Wei, arXiv 2306.16170), see `tutelage.methods.distill.mtard`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.core.errors import InputError


class LossBalancer:
    """Normalization Loss Balance: more weight for the loss that has fallen less since the first batch.

        r_k = L_k / L_k(0),   target_k = r_k^b / sum_j r_j^b,   w_k <- w_k - rate (w_k - target_k)

    clamped at 0 and renormalised to sum 1. The first call remembers L(0), so it leaves equal weights as they are.

    >>> balancer = LossBalancer(("clean", "robust"), rate=0.025)
    >>> weights = balancer.update({"clean": 0.9, "robust": 1.4})
    """

    def __init__(
        self, names: Sequence[str], *, rate: float = 0.025, b: float = 1.0, weights: Mapping[str, float] | None = None
    ) -> None:
        if not names or len(set(names)) != len(names):
            raise InputError("names", names, "at least one name, each once")
        if not 0 <= rate <= 1:
            raise InputError("rate", rate, "a number from 0 to 1")
        if not (math.isfinite(b) and b >= 0):
            raise InputError("b", b, "a finite number >= 0")
        start = dict.fromkeys(names, 1 / len(names)) if weights is None else dict(weights)
        if set(start) != set(names) or min(start.values()) < 0 or not math.isclose(sum(start.values()), 1, abs_tol=1e-6):
            raise InputError("weights", dict(start), f"weights >= 0 that sum to 1 for {', '.join(names)}")
        self.rate, self.b = rate, b
        self.weights: dict[str, float] = {name: float(start[name]) for name in names}
        self.initial: dict[str, float] | None = None

    def update(self, losses: Mapping[str, float], *, scale: float = 1.0) -> dict[str, float]:
        """New weights after this batch's losses (detached, finite, >= 0). `scale` multiplies the rate, as a schedule may."""
        _same_names(losses, self.weights)
        if self.rate == 0:
            return dict(self.weights)
        if any(not math.isfinite(value) or value < 0 for value in losses.values()):
            raise InputError("losses", dict(losses), "finite numbers >= 0")
        if self.initial is None:
            if min(losses.values()) == 0:
                raise InputError("losses", dict(losses), "losses above 0 in the first batch: L / L(0) is undefined")
            self.initial = dict(losses)
        relative = {name: (losses[name] / self.initial[name]) ** self.b for name in self.weights}
        total = sum(relative.values())
        if total > 0:
            step = self.rate * scale
            moved = {name: max(0.0, w - step * (w - relative[name] / total)) for name, w in self.weights.items()}
            norm = sum(moved.values())
            self.weights = {name: w / norm for name, w in moved.items()}
        return dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": dict(self.weights), "initial": None if self.initial is None else dict(self.initial)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _same_names(state["weights"], self.weights)
        self.weights, self.initial = dict(state["weights"]), state["initial"]


class EntropyBalancer:
    """Entropy-Based Balance: one temperature a teacher, moved until all teachers speak with the same entropy.

        T_k <- clamp(T_k - rate * sign(H_k - mean_{j != k} H_j), low, high)

    The softer teacher is sharpened, the sharper one softened. For two teachers this is the paper's rule
    sign(H_k / H_j - 1); comparing differences also covers H_j = 0. More than two teachers is our extension.
    """

    def __init__(self, names: Sequence[str], *, rate: float = 0.001, bounds: tuple[float, float] = (1.0, 10.0)) -> None:
        if len(names) < 2 or len(set(names)) != len(names):
            raise InputError("names", names, "at least two names, each once")
        if not (math.isfinite(rate) and rate >= 0):
            raise InputError("rate", rate, "a finite number >= 0")
        if not (0 < bounds[0] <= bounds[1] < math.inf):
            raise InputError("bounds", bounds, "0 < low <= high")
        self.rate, self.bounds = rate, bounds
        self.temperatures: dict[str, float] = dict.fromkeys(names, min(bounds[1], max(1.0, bounds[0])))

    def update(self, entropies: Mapping[str, float], *, scale: float = 1.0) -> dict[str, float]:
        """New temperatures after this batch's mean entropies, each measured at its current temperature."""
        _same_names(entropies, self.temperatures)
        if any(not math.isfinite(value) for value in entropies.values()):
            raise InputError("entropies", dict(entropies), "finite numbers")
        low, high = self.bounds
        total, others = sum(entropies.values()), len(entropies) - 1
        for name, own in entropies.items():
            gap = own - (total - own) / others
            # rounding of the mean must not pass for a difference
            sign = 0.0 if math.isclose(gap, 0, abs_tol=1e-12) else math.copysign(1, gap)
            self.temperatures[name] = min(high, max(low, self.temperatures[name] - self.rate * scale * sign))
        return dict(self.temperatures)

    def state_dict(self) -> dict[str, Any]:
        return {"temperatures": dict(self.temperatures)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _same_names(state["temperatures"], self.temperatures)
        self.temperatures = dict(state["temperatures"])


def _same_names(given: Mapping[str, float], own: Mapping[str, float]) -> None:
    if set(given) != set(own):
        raise InputError("names", sorted(given), f"a value for each of {', '.join(own)}")
