"""Mean corruption error (mCE): errors relative to those of a stated baseline (Hendrycks and Dietterich 2019, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.threats.corruptions.table import COMMON

Errors = Mapping[str, float | Sequence[float]]

# AlexNet on ImageNet-C, as released with the paper: means over the five severities; and its error on clean images
ALEXNET = "AlexNet on ImageNet-C"
ALEXNET_ERRORS: dict[str, float] = dict(
    zip(
        COMMON,
        (
            *(0.886428, 0.894468, 0.922640),
            *(0.819880, 0.826268, 0.785948, 0.798360),
            *(0.866816, 0.826572, 0.819324, 0.564592),
            *(0.853204, 0.646056, 0.717840, 0.606500),
        ),
        strict=True,
    )
)
ALEXNET_CLEAN_ERROR = 0.435


@dataclass(frozen=True)
class CorruptionError:
    """mce: the mean of `each`, 1 for the baseline itself (papers print it times 100). each: CE of every corruption."""

    mce: float
    each: dict[str, float]
    baseline: str
    relative: bool = False

    def __str__(self) -> str:
        kind = "relative mCE" if self.relative else "mCE"
        return f"{kind} {100 * self.mce:.1f} % of {self.baseline} ({len(self.each)} corruptions)"


def mce(errors: Errors, baseline_errors: Errors, *, baseline: str) -> CorruptionError:
    """CE_c = sum_s E(s, c) / sum_s E_baseline(s, c), mCE = mean over c.

    errors, baseline_errors: name -> error rates in [0, 1], one a severity or their mean, of the same corruptions.
    baseline: the name of the model that `baseline_errors` were measured on. For ImageNet-C: ALEXNET_ERRORS and ALEXNET.
    """
    return _mce(errors, 0.0, baseline_errors, 0.0, baseline, relative=False)


def relative_mce(
    errors: Errors, clean_error: float, baseline_errors: Errors, baseline_clean_error: float, *, baseline: str
) -> CorruptionError:
    """As `mce`, of what corruption adds: sum_s (E(s, c) - E_clean) / sum_s (E_baseline(s, c) - E_baseline_clean)."""
    for name, value in (("clean_error", clean_error), ("baseline_clean_error", baseline_clean_error)):
        check_number(name, value, "an error rate in [0, 1]", low=0, high=1)
    return _mce(errors, clean_error, baseline_errors, baseline_clean_error, baseline, relative=True)


def _mce(
    errors: Errors, clean: float, baseline_errors: Errors, baseline_clean: float, baseline: str, *, relative: bool
) -> CorruptionError:
    if not isinstance(baseline, str) or not baseline.strip():
        raise InputError("baseline", baseline, "the name of the model that the baseline errors were measured on")
    if not errors or set(errors) != set(baseline_errors):
        odd = sorted(set(errors) ^ set(baseline_errors)) or "no corruption"
        raise InputError("errors", odd, "errors and baseline_errors of the same corruptions")
    each = {}
    for name in errors:
        mine, n = _mean("errors", name, errors[name])
        theirs, m = _mean("baseline_errors", name, baseline_errors[name])
        if n != m and 1 not in (n, m):
            raise InputError("errors", f"{n} severities of {name}, {m} of the baseline", "the same severities on both sides")
        if theirs <= baseline_clean:
            wanted = "a baseline that corruption makes worse" if relative else "a baseline with errors"
            raise InputError("baseline_errors", f"{theirs:g} for {name}", wanted)
        each[name] = (mine - clean) / (theirs - baseline_clean)
    return CorruptionError(sum(each.values()) / len(each), each, baseline, relative)


def _mean(argument: str, name: str, value: float | Sequence[float]) -> tuple[float, int]:
    rates = list(value) if isinstance(value, Sequence) else [value]
    for rate in rates:
        check_number(f"{argument}[{name!r}]", rate, "an error rate in [0, 1]", low=0, high=1)
    if not rates:
        raise InputError(f"{argument}[{name!r}]", value, "an error rate in [0, 1]")
    return float(sum(rates)) / len(rates), len(rates)
