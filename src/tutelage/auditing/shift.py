"""Natural shift: accuracy on other sets, effective robustness, slices by metadata, and who bears the mistakes.

R. Taori, A. Dave, V. Shankar, N. Carlini, B. Recht and L. Schmidt, Measuring Robustness to Natural Distribution Shifts in Image
Classification, NeurIPS 2020, arXiv:2007.00644, section 3. J. Miller et al., Accuracy on the Line, ICML 2021, arXiv:2107.04649.
With acc1 the accuracy of model f on the main set, acc2 that on the shifted one, and g the scale (the identity, the logit or
the probit), a line is fitted through baseline models by least squares:

    g(acc2) = slope g(acc1) + intercept                                                                         (1)
    beta(a) = g^-1(slope g(a) + intercept)                  what a model of accuracy a is expected to have      (2)
    rho(f)  = acc2(f) - beta(acc1(f))                       effective robustness                                (3)

Example::

    from tutelage.auditing.shift import effective_robustness

    standard = [(0.55, 0.41), (0.62, 0.49), (0.70, 0.57), (0.78, 0.66)]  # (main, shifted) of models trained as usual
    found = effective_robustness([(0.70, 0.65)], standard, scale="logit")
    print(found.values[0], found.intervals[0])
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from tutelage.auditing.result import AuditResult, AuditRow, accuracy_row
from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.rng import numpy_generator
from tutelage.core.stats import Interval, wilson
from tutelage.core.stats.resampling import BOOTSTRAP_MIN_UNITS
from tutelage.data.images import ImageSet

Array = npt.NDArray[np.float64]
Scale = Literal["linear", "logit", "probit"]
Points = Sequence[tuple[float, float]]

MOST_VALUES = 50  # of a column of words
QUARTERED = 12  # a column of numbers with more values than this is cut into quarters

# ------------------------------------------------------------------------------------------------------- shifted sets


def aligned(name: str, shifted: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """The shifted set with the labels of the main set, whose class names are `classes`.

    Where both sets name their classes, labels follow the names, and the shifted set may have a part of the classes. Where
    one of them has numbers only, labels are taken as they are. Raises InputError for a class that the main set lacks.
    """
    own = shifted.classes
    numbered = any(names == tuple(map(str, range(len(names)))) for names in (own, classes))
    if numbered or own == classes:
        if (highest := int(shifted.labels.max())) >= len(classes):
            raise InputError("shifts", f"{name} with label {highest}", f"labels below {len(classes)}, the classes of the data")
        return replace(shifted, classes=classes)
    used = [own[i] for i in _present(shifted.labels).tolist()]
    if unknown := [one for one in used if classes.count(one) != 1]:
        wanted = f"class names that the data have once: {', '.join(classes)}"
        raise InputError("shifts", f"{name} with the class {unknown[0]!r}", wanted)
    to = torch.tensor([classes.index(one) if one in used else -1 for one in own])
    return replace(shifted, labels=to[shifted.labels], classes=classes)


def shift_rows(name: str, right: Tensor, labels: Tensor, main_right: Tensor, main_labels: Tensor) -> list[AuditRow]:
    """Rows of one shifted set: its accuracy, that on the main set, and the difference.

    right, labels: (M,) of the shifted set; main_right, main_labels: (N,) of the main set. Of the main set only the classes
    count that the shifted set has. The difference has Newcombe's interval for two independent samples.
    """
    theirs = main_right[torch.isin(main_labels, _present(labels))]
    if not len(theirs):
        raise InputError("shifts", f"{name} without a class of the data", "a shifted set with at least one of them")
    here, there = accuracy_row("shift", name, right), accuracy_row("shift main", name, theirs)
    between = newcombe(int(right.sum()), len(right), int(theirs.sum()), len(theirs))
    difference = AuditRow(
        "shift difference", name, "difference", here.value - there.value, (between.lo, between.hi), here.n, "clean"
    )
    return [here, there, difference]


def _present(labels: Tensor) -> Tensor:
    """The classes that are there, in order."""
    return labels.bincount().nonzero().squeeze(1)


def newcombe(a_right: int, a_n: int, b_right: int, b_n: int, level: float = 0.95) -> Interval:
    """Interval of accuracy(A) - accuracy(B) on two independent samples (Newcombe 1998, Stat. Med. 17:873, method 10).

    With d = p_A - p_B and Wilson's limits l, u of each: from d - sqrt((p_A - l_A)^2 + (u_B - p_B)^2) to
    d + sqrt((u_A - p_A)^2 + (p_B - l_B)^2). Inside [-1, 1]. Raises InputError.
    """
    a, b = wilson(a_right, a_n, level), wilson(b_right, b_n, level)
    p_a, p_b = a_right / a_n, b_right / b_n
    lo = p_a - p_b - math.hypot(p_a - a.lo, b.hi - p_b)
    hi = p_a - p_b + math.hypot(a.hi - p_a, p_b - b.lo)
    return Interval(max(-1.0, lo), min(1.0, hi), level, "newcombe")


# ----------------------------------------------------------------------------------------------- effective robustness


@dataclass(frozen=True)
class EffectiveRobustness:
    """The line through the baseline models, and how far above it the models are. Accuracies in [0, 1].

    expected: beta of each model's main accuracy, equation (2); values: rho, equation (3); intervals: of rho, from where
    the line may lie. They do not hold the uncertainty of the model's own two accuracies. r2: share of the variance of the
    baseline models on the chosen scale that the line explains. method: of the band, "bootstrap" or "student-t".
    """

    scale: Scale
    slope: float
    intercept: float
    r2: float
    n_baselines: int
    expected: tuple[float, ...]
    values: tuple[float, ...]
    intervals: tuple[Interval, ...]
    level: float
    method: str
    _band: Callable[[Array], tuple[Array, Array]] = field(repr=False, compare=False)

    def line(self, main: npt.ArrayLike) -> Array:
        """Equation (2) at main accuracies (K,)."""
        to, back = _SCALES[self.scale]
        return back(self.slope * to(np.asarray(main, dtype=np.float64)) + self.intercept)

    def band(self, main: npt.ArrayLike) -> tuple[Array, Array]:
        """Between which accuracies the line lies at main accuracies (K,), at `level` for each of them."""
        return self._band(np.asarray(main, dtype=np.float64))


def effective_robustness(
    points: Points,
    baseline_points: Points,
    scale: Scale = "logit",
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> EffectiveRobustness:
    """How much more accurate models are on a shifted set than models of their accuracy usually are, equations (1) to (3).

    points: (accuracy on the main set, accuracy on the shifted set) of the models in question; baseline_points: the same
    of at least three models that were trained as usual, of different accuracies and not among the models in question.
    scale: what the line is straight on. On "logit" and "probit" accuracies of 0 and 1 have no place.
    The band: from 20 baseline models on by a bootstrap of them (percentiles of `n_resamples` lines); below that, where a
    bootstrap is too narrow, by Student's t with n - 2 degrees of freedom on the chosen scale. Raises InputError.
    """
    scale = check_scale(scale)
    check_integer("n_resamples", n_resamples)
    if not 0 < level < 1:
        raise InputError("level", level, "a confidence level between 0 and 1, such as 0.95")
    given, line = _points("points", points, scale, 1), _points("baseline_points", baseline_points, scale, 3)
    to, back = _SCALES[scale]
    x, y = to(line[:, 0]), to(line[:, 1])
    away = x - x.mean()
    spread = float(away @ away)
    if spread <= 1e-18:
        raise InputError("baseline_points", f"{len(x)} models of one accuracy", "models of different accuracy on the main set")
    slope = float(away @ (y - y.mean())) / spread
    intercept = float(y.mean() - slope * x.mean())
    left = y - slope * x - intercept
    total = float(((y - y.mean()) ** 2).sum())
    n, tail = len(x), (1.0 - level) / 2.0

    if n >= BOOTSTRAP_MIN_UNITS:
        slopes, intercepts = _lines(x, y, numpy_generator(seed, "effective robustness"), n_resamples)

        def band(main: Array) -> tuple[Array, Array]:
            lines = back(slopes[:, None] * to(main) + intercepts[:, None])
            lo, hi = np.quantile(lines, (tail, 1.0 - tail), axis=0)
            return lo, hi
    else:
        error, t = math.sqrt(float(left @ left) / (n - 2)), float(scipy.stats.t.isf(tail, n - 2))

        def band(main: Array) -> tuple[Array, Array]:
            middle = slope * to(main) + intercept
            half = t * error * np.sqrt(1.0 / n + (to(main) - x.mean()) ** 2 / spread)
            return back(middle - half), back(middle + half)

    expected = back(slope * to(given[:, 0]) + intercept)
    method = "bootstrap" if n >= BOOTSTRAP_MIN_UNITS else "student-t"
    limits = np.stack(band(given[:, 0]), 1)
    return EffectiveRobustness(
        scale=scale,
        slope=slope,
        intercept=intercept,
        r2=1.0 - float(left @ left) / total if total else 1.0,
        n_baselines=n,
        expected=tuple(expected.tolist()),
        values=tuple((given[:, 1] - expected).tolist()),
        intervals=tuple(
            Interval(float(a - hi), float(a - lo), level, method) for a, (lo, hi) in zip(given[:, 1], limits, strict=True)
        ),
        level=level,
        method=method,
        _band=band,
    )


def check_scale(scale: object) -> Scale:
    """The scale, if it is one; otherwise InputError."""
    check_choice("scale", scale, get_args(Scale))
    return cast(Scale, scale)


def shift_points(audits: Mapping[str, AuditResult], name: str) -> list[tuple[float, float]]:
    """(accuracy on the main set, accuracy on the shifted set `name`) of each audit, on the classes that both sets have."""
    for who, result in audits.items():
        if name not in result.shifts:
            raise InputError("audits", f"{who} without the shifted set {name}", "audits with that shifted set")
    return [(result.row("shift main", name).value, result.row("shift", name).value) for result in audits.values()]


def _identity(values: Array) -> Array:
    return values


def _logit(values: Array) -> Array:
    return np.asarray(scipy.special.logit(values))


def _expit(values: Array) -> Array:
    return np.asarray(scipy.special.expit(values))


def _probit(values: Array) -> Array:
    return np.asarray(scipy.special.ndtri(values))


def _normal(values: Array) -> Array:
    return np.asarray(scipy.special.ndtr(values))


_SCALES: dict[Scale, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "linear": (_identity, _identity),
    "logit": (_logit, _expit),
    "probit": (_probit, _normal),
}


def _points(argument: str, points: Points, scale: Scale, least: int) -> Array:
    """(n, 2) accuracies, all inside the range of the scale."""
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(argument, points, "pairs (accuracy on the main set, accuracy on the shifted set)") from None
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < least:
        pairs = "pair" if least == 1 else "pairs"
        raise InputError(argument, f"shape {array.shape}", f"at least {least} {pairs} (main accuracy, shifted accuracy)")
    outside = ~((array >= 0) & (array <= 1)) if scale == "linear" else ~((array > 0) & (array < 1))
    if outside.any():
        ends = "in [0, 1]" if scale == "linear" else f"between 0 and 1, both excluded, on the {scale} scale"
        raise InputError(argument, f"{array[outside][0]:g}", f"accuracies {ends}")
    return array


def _lines(x: Array, y: Array, rng: np.random.Generator, n_resamples: int) -> tuple[Array, Array]:
    """Slopes and intercepts (R,) through models drawn with replacement; draws of one accuracy alone have no line."""
    drawn = rng.integers(0, len(x), (n_resamples, len(x)))
    xs, ys = x[drawn], y[drawn]
    away = xs - xs.mean(1, keepdims=True)
    spread = (away**2).sum(1)
    lines = spread > 1e-18
    if lines.sum() < max(1, n_resamples // 2):
        raise InputError("baseline_points", "models of nearly all one accuracy", "models of different accuracy on the main set")
    slopes = (away * (ys - ys.mean(1, keepdims=True))).sum(1)[lines] / spread[lines]
    return slopes, ys.mean(1)[lines] - slopes * xs.mean(1)[lines]


# -------------------------------------------------------------------------------------------------- slices by metadata


def read_slices(path: Path | str, labels: Tensor) -> dict[str, Tensor]:
    """Slices from a table about the images, one row an image in the order of the data: "column=value" -> mask (N,).

    path: .csv with a header, or .parquet. labels: (N,) of the images. A column of numbers with more than 12 values is cut
    into quarters, "age 20 to 35". Empty cells make no slice. A column `label` is compared with the labels, as a guard
    against another order, and makes no slice. Columns of words with more than 50 values are left out with a warning.
    Raises MissingError, or InputError for another number of rows, other labels or an unreadable file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"slices: there is no file {path}")
    if path.suffix not in (".csv", ".parquet"):
        raise InputError("slices", path.name, "a .csv or .parquet file with a row for each image")
    columns = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    masks: dict[str, Tensor] = {}
    for name, cells in columns.items():
        if len(cells) != len(labels):
            raise InputError("slices", f"{path.name} with {len(cells)} rows", f"{len(labels)}, one for each image")
        if name == "label":
            _check_order(path, cells, labels)
        else:
            masks |= _slices_of(name, cells)
    if not masks:
        raise InputError("slices", f"{path.name} without a column to slice by", "columns with few values, or numbers")
    return masks


def _read_csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("slices", path.name, f"a readable .csv file ({error})") from error
    if not lines:
        raise InputError("slices", f"{path.name}, which is empty", "a header and a row for each image")
    header = [name.strip() for name in lines[0]]
    if not all(header) or len(set(header)) < len(header):
        raise InputError("slices", f"{path.name} with the header {header}", "a name for each column, each once")
    if odd := [i for i, line in enumerate(lines) if len(line) != len(header)]:
        raise InputError("slices", f"{path.name} with {len(lines[odd[0]])} cells in row {odd[0]}", f"{len(header)} in each row")
    return {name: [line[i].strip() for line in lines[1:]] for i, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kinds = {one.name: one.type for one in file.schema_arrow}
            simple = [name for name, kind in kinds.items() if not kind.num_fields and "binary" not in str(kind)]  # no images
            return dict(file.read(columns=simple).to_pydict())
    except Exception as error:  # pyarrow raises whatever a damaged file makes it
        raise InputError("slices", path.name, f"a readable Parquet file ({error})") from error


def _check_order(path: Path, cells: list[Any], labels: Tensor) -> None:
    for row, (cell, label) in enumerate(zip(cells, labels.tolist(), strict=True)):
        if str(cell) != str(label):
            raise InputError(
                "slices", f"{path.name} with label {cell} in row {row + 1}", f"{label}, as the data have: the same order"
            )


def _slices_of(name: str, cells: list[Any]) -> dict[str, Tensor]:
    numbers = [_number(cell) for cell in cells]
    known = [cell is not None and cell != "" and number == number for cell, number in zip(cells, numbers, strict=True)]
    values = {cell if isinstance(cell, str) else _shown(cell) for cell, there in zip(cells, known, strict=True) if there}
    numeric = all(math.isfinite(number) for number, there in zip(numbers, known, strict=True) if there)
    if not values:
        return {}
    if numeric and len(values) > QUARTERED:
        return _quarters(name, np.array(numbers), np.array(known))
    if len(values) > MOST_VALUES:
        what = f"slices: the column {name} has {len(values)} values, more than {MOST_VALUES}, and is left out"
        warnings.warn(what, stacklevel=3)
        return {}
    shown = [cell if isinstance(cell, str) else _shown(cell) for cell in cells]
    order = sorted(values, key=lambda value: (float(value), value) if numeric else (0.0, value))
    return {
        f"{name}={value}": torch.tensor([there and one == value for one, there in zip(shown, known, strict=True)])
        for value in order
    }


def _quarters(name: str, numbers: Array, known: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
    """Four parts of about one size by value; fewer where values tie."""
    edges = np.unique(np.quantile(numbers[known], (0.25, 0.5, 0.75)))
    bins = np.searchsorted(edges, numbers, side="left")
    masks = {}
    for one in range(len(edges) + 1):
        mask = known & (bins == one)
        if mask.any():
            masks[f"{name} {numbers[mask].min():.6g} to {numbers[mask].max():.6g}"] = torch.from_numpy(mask)
    return masks


def _number(cell: Any) -> float:
    """The cell as a number; infinity where it is a word, NaN where it is missing."""
    if cell is None or cell == "":
        return math.nan
    try:
        return float(cell) if not isinstance(cell, bool) else math.inf
    except (TypeError, ValueError):
        return math.inf


def _shown(cell: Any) -> str:
    return f"{cell:.12g}" if isinstance(cell, float) else str(cell)


# -------------------------------------------------------------------------------------------------- tail and disparity


def disparity_rows(right: Tensor, labels: Tensor, under: str) -> list[AuditRow]:
    """Who bears the mistakes, over the K >= 2 classes that are there: the worst class, the worst tenth, the gap.

    right, labels: (n,). "worst class": the lowest accuracy of a class. "worst tenth of classes": the mean of the
    ceil(K / 10) lowest, if these are several. "gap between classes": highest less lowest. The lowest of many measured
    values is too low by chance; so the intervals come from those of all classes at 1 - 0.05 / K (Bonferroni, Wilson),
    which hold jointly. They cover at least at 95 %, whichever class is the worst.
    """
    found = [right[labels == c] for c in _present(labels).tolist()]
    k = len(found)
    if k < 2:
        return []
    values = sorted(float(part.double().mean()) for part in found)
    limits = [wilson(int(part.sum()), len(part), 1.0 - 0.05 / k) for part in found]
    low, high = sorted(one.lo for one in limits), sorted(one.hi for one in limits)

    def row(name: str, metric: str, value: float, lo: float, hi: float) -> AuditRow:
        return AuditRow("disparity", name, metric, value, (lo, hi), len(right), under)

    rows = [row("worst class", "accuracy", values[0], low[0], high[0])]
    m = math.ceil(k / 10)
    if m > 1:
        rows.append(row("worst tenth of classes", "accuracy", sum(values[:m]) / m, sum(low[:m]) / m, sum(high[:m]) / m))
    gap = values[-1] - values[0]
    rows.append(row("gap between classes", "difference", gap, max(0.0, low[-1] - high[0]), high[-1] - low[0]))
    return rows
