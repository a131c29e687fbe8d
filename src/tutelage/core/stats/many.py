"""Many at once: several tests, several seeds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import vector


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values, in the order given: max over j <= i of min(1, (m - j + 1) p_(j)).

    Rejecting where the result is <= alpha keeps the family-wise error at alpha. Raises `InputError`.
    """
    p = vector("p_values", p_values)
    if p.min() < 0.0 or p.max() > 1.0:
        raise InputError("p_values", f"values from {p.min():g} to {p.max():g}", "probabilities in [0, 1]")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
