"""Split conformal prediction: sets that hold the true label with a probability of at least 1 - alpha, for any classifier.

Scores of non-conformity, from the probabilities p of a classifier; low where a label fits. r(y): rank of label y, 1 for
the most probable one (of equal ones the first class); u: uniform in [0, 1), one an example.

    HPS   s(x, y) = 1 - p_y                                                         (1) Sadinle et al., arXiv 1609.00451
    APS   s(x, y) = sum of p_j with r(j) <= r(y), - u p_y                           (2) Romano et al., arXiv 2006.02544
    RAPS  s(x, y) = APS + lambda max(r(y) - k_reg, 0)                               (3) Angelopoulos et al., arXiv 2009.14193
    set(x) = {y : s(x, y) <= the ceil((n + 1)(1 - alpha))-th smallest score of n calibration points}              (4)

The guarantee of (4) is *sound*: it needs nothing but that calibration and test points are exchangeable. It holds on average
over both; `conformal_coverage` of `core.stats` says how far the coverage of one calibration set may lie from it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import check_folder, write_json
from tutelage.core.stats import Interval, clopper_pearson, conformal_quantile, conformal_rank
from tutelage.guarantees.noise import uniforms
from tutelage.models.checks import check_labels, check_logits, look_like_probabilities

ROWS = 2048  # examples whose probabilities are held at once
ROUNDING = 1e-12  # of a sum of probabilities in float64, with room to spare
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score(ABC):
    """A score of non-conformity: larger is stranger. `u`: one number an example, (B,), for the scores that use one."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def randomized(self) -> bool:
        """Whether each example needs a uniform number of its own."""
        return False

    def upper(self, classes: int) -> float:
        """The largest value it can take; the smallest is 0."""
        return 1.0

    @abstractmethod
    def all(self, p: Tensor, u: Array | None = None) -> Tensor:
        """The score of every label: p (B, classes) -> (B, classes) in the type of p."""

    @abstractmethod
    def of(self, p: Tensor, y: Tensor, u: Array | None = None) -> Array:
        """The score of one label each, (B,); faster than to pick them from `all`."""

    @abstractmethod
    def within(self, p: Tensor, threshold: float, u: Array | None = None) -> Tensor:
        """Whether the score of a label is at most `threshold`, (B, classes) bool; faster than to compare `all`."""


@dataclass(frozen=True)
class HPS(Score):
    """1 - p_y, equation (1), also called LAC or THR: the smallest sets on average."""

    @property
    def name(self) -> str:
        return "hps"

    def all(self, p: Tensor, u: Array | None = None) -> Tensor:
        return 1 - p

    def of(self, p: Tensor, y: Tensor, u: Array | None = None) -> Array:
        return _numpy(1 - p.gather(1, y[:, None]).squeeze(1)).astype(np.float64)

    def within(self, p: Tensor, threshold: float, u: Array | None = None) -> Tensor:
        return 1 - p <= threshold


@dataclass(frozen=True)
class APS(Score):
    """The mass of the labels up to y in order of their probability, less u p_y, equation (2): sets adapt to each input.

    u: None draws it for each example; a number in [0, 1] is the same for all (0: the mass up to and with y; 1: without).
    """

    u: float | None = None

    def __post_init__(self) -> None:
        if self.u is not None:
            check_number("u", self.u, "a number in [0, 1], or None for one drawn for each example", low=0, high=1)

    @property
    def name(self) -> str:
        return "aps"

    @property
    def randomized(self) -> bool:
        return self.u is None

    def penalty(self, classes: int) -> Array | None:
        """What is added to the score of rank 1, 2, ..., (classes,); None for nothing."""
        return None

    def all(self, p: Tensor, u: Array | None = None) -> Tensor:
        ordered, labels = p.sort(dim=1, descending=True, stable=True)
        scores = ordered.double().cumsum(1) - torch.from_numpy(self._u(u, len(p))).to(p.device)[:, None] * ordered
        if (extra := self.penalty(p.shape[1])) is not None:
            scores += torch.from_numpy(extra).to(p.device)
        return torch.empty_like(p).scatter_(1, labels, scores.to(p.dtype))

    def of(self, p: Tensor, y: Tensor, u: Array | None = None) -> Array:
        own = p.gather(1, y[:, None])
        above = p > own
        mass = _numpy((p * above).sum(1, dtype=torch.float64))
        # of equal probabilities, those of earlier classes rank first
        ties = (p == own) & (torch.arange(p.shape[1], device=p.device) < y[:, None])
        number_of_ties, mine = _numpy(ties.sum(1)), _numpy(own.squeeze(1)).astype(np.float64)
        scores: Array = mass + mine * (1 + number_of_ties - self._u(u, len(p)))
        if (extra := self.penalty(p.shape[1])) is not None:
            scores += extra[_numpy(above.sum(1)) + number_of_ties]
        return scores

    def within(self, p: Tensor, threshold: float, u: Array | None = None) -> Tensor:
        # the score rises with the rank, so a set is the labels of the first ranks: values are sorted, labels are not
        values = _numpy(p)
        ordered = np.sort(values, axis=1)[:, ::-1]
        scores = np.cumsum(ordered, axis=1, dtype=np.float64)
        scores -= self._u(u, len(p))[:, None] * ordered
        if (extra := self.penalty(p.shape[1])) is not None:
            scores += extra
        # outwards, as `of` adds the same numbers in another order
        size = (scores <= threshold + ROUNDING * self.upper(p.shape[1])).sum(1)
        lowest = np.where(size > 0, np.take_along_axis(ordered, np.maximum(size - 1, 0)[:, None], 1)[:, 0], np.inf)
        inside: npt.NDArray[np.bool_] = values >= lowest[:, None]
        for row in np.flatnonzero(inside.sum(1) != size):  # equal probabilities on both sides of the cut
            inside[row] = False
            inside[row, np.argsort(-values[row], kind="stable")[: size[row]]] = True
        return torch.from_numpy(inside).to(p.device)

    def _u(self, u: Array | None, n: int) -> Array:
        if self.u is not None:
            return np.full(n, float(self.u))
        if u is None or np.shape(u) != (n,):
            raise InputError("u", None if u is None else f"shape {np.shape(u)}", f"one uniform number an example, ({n},)")
        return u


@dataclass(frozen=True)
class RAPS(APS):
    """APS with a penalty for every rank beyond k_reg, equation (3): long tails of unlikely labels are cut.

    weight: lambda >= 0. The score can exceed 1: `upper` says by how much.
    """

    weight: float = 0.01
    k_reg: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("weight", self.weight, "lambda, a number >= 0", low=0)
        check_integer("k_reg", self.k_reg, low=0)

    @property
    def name(self) -> str:
        return "raps"

    def upper(self, classes: int) -> float:
        return 1.0 + self.weight * max(classes - self.k_reg, 0)

    def penalty(self, classes: int) -> Array:
        return self.weight * np.maximum(np.arange(1, classes + 1) - self.k_reg, 0).astype(np.float64)


SCORES: dict[str, type[Score]] = {"hps": HPS, "aps": APS, "raps": RAPS}


def get_score(score: Score | str) -> Score:
    """A score, given as such or by its name with its default constants."""
    if isinstance(score, Score):
        return score
    if not isinstance(score, str) or score not in SCORES:
        raise InputError("score", score, f"one of {', '.join(SCORES)}, or a Score such as APS()")
    return SCORES[score]()


class SplitConformal:
    """A classifier's outputs -> prediction sets, by (4).

    >>> conformal = SplitConformal(APS(), alpha=0.1).calibrate(calibration_logits, calibration_labels)
    >>> sets = conformal.predict(test_logits)                   # (B, classes) bool
    >>> evaluate(sets, test_labels).coverage

    score: a Score, or its name. alpha: miscoverage, in (0, 1). seed: of the numbers u of randomized scores, which are tied
    to the ids of the examples. Use other data than those the classifier was trained or chosen on.
    """

    def __init__(self, score: Score | str = "hps", alpha: float | Fraction = 0.1, *, seed: int = 0) -> None:
        self.score = get_score(score)
        conformal_rank(1, alpha)  # raises InputError
        check_integer("seed", seed, low=-(2**63))
        self.alpha, self.seed = float(alpha), seed
        self.threshold, self.n, self.classes = float("nan"), 0, 0

    def calibrate(self, logits: Tensor, y: Tensor, *, allow_full_sets: bool = False) -> SplitConformal:
        """Find the threshold on n labelled points: logits (n, classes), labels y (n,). Returns itself.

        Raises InputError where n is below 1/alpha - 1, as then every set would have to hold all labels;
        `allow_full_sets` accepts that.
        """
        logits, y = _checked(logits), y.cpu() if isinstance(y, Tensor) else y
        check_labels(y, len(logits), logits.shape[1])
        check_enough(len(logits), self.alpha, allow_full_sets)
        u = self._u("calibration", len(logits), None)
        scores = [self.score.of(p, y[rows].long().to(p.device), _part(u, rows)) for rows, p in _probabilities(logits)]
        self.threshold = conformal_quantile(np.concatenate(scores), self.alpha)
        self.n, self.classes = len(logits), logits.shape[1]
        return self

    def predict(self, logits: Tensor, *, ids: Sequence[int] | Tensor | None = None, nonempty: bool = False) -> Tensor:
        """The sets of logits (B, classes): (B, classes) bool, on their device.

        ids: what the numbers u are tied to (default: the place). nonempty: add the most probable label to empty sets;
        empty ones are legal and count in the guarantee.
        """
        if not self.n:
            raise InputError("self", "a predictor without a threshold", "calibrate(...) first")
        logits = _checked(logits)
        if logits.shape[1] != self.classes:
            raise InputError("logits", f"{logits.shape[1]} classes", f"{self.classes}, as in the calibration")
        u = self._u("test", len(logits), ids)
        sets = torch.empty(logits.shape, dtype=torch.bool, device=logits.device)
        for rows, p in _probabilities(logits):
            sets[rows] = self.score.within(p, self.threshold, _part(u, rows))
            if nonempty:
                sets[rows] |= ~sets[rows].any(1, keepdim=True) & _first_largest(p)
        return sets

    @property
    def guarantee(self) -> str:
        return (
            f"sound: P(label in set) >= {1 - self.alpha:g} over calibration ({self.n} points) and test point, if they are "
            f"exchangeable ({self.score.name}, threshold {self.threshold:.6g}); not under attack"
        )

    def save(self, folder: Path | str) -> Path:
        """Write conformal.json into `folder`, whole or not at all."""
        if type(self.score) is not SCORES.get(self.score.name):
            raise InputError("score", type(self.score).__name__, f"one of {', '.join(SCORES)}, to be saved")
        check_folder(Path(folder), "folder")
        path = Path(folder) / "conformal.json"
        write_json(path, {
            "score": self.score.name, "constants": asdict(self.score), "alpha": self.alpha, "seed": self.seed,
            "threshold": str(self.threshold), "n": self.n, "classes": self.classes,
        })  # fmt: skip
        return path

    @classmethod
    def load(cls, folder: Path | str) -> SplitConformal:
        """What `save` wrote. Raises MissingError, or InputError for another kind of file."""
        state = read_state(Path(folder) / "conformal.json")
        try:
            found = cls(SCORES[state["score"]](**state["constants"]), state["alpha"], seed=state["seed"])
            found.threshold, found.n, found.classes = float(state["threshold"]), int(state["n"]), int(state["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("folder", f"{folder} with {error}", "what SplitConformal.save wrote") from error
        return found

    def _u(self, stream: str, n: int, ids: Sequence[int] | Tensor | None) -> Array | None:
        if not self.score.randomized:
            return None
        return uniforms(self.seed, stream, id_array(ids, n))


@dataclass(frozen=True, eq=False)
class SetReport:
    """What prediction sets are worth on n labelled points.

    coverage: share of the sets that hold the label, in [0, 1], with its exact 95 % interval. mean_size: labels a set.
    histogram: (classes + 1,) how many sets have 0, 1, 2, ... labels. by_class: coverage of each class, NaN without points.
    """

    n: int
    coverage: float
    interval: Interval
    mean_size: float
    histogram: tuple[int, ...]
    by_class: tuple[float, ...]

    @property
    def empty(self) -> float:
        """Share of empty sets."""
        return self.histogram[0] / self.n

    @property
    def singletons(self) -> float:
        """Share of the sets with one label."""
        return self.histogram[1] / self.n

    @property
    def worst_class(self) -> float:
        """The lowest coverage of a class."""
        return float(np.nanmin(self.by_class))

    def __str__(self) -> str:
        return (
            f"coverage {self.coverage:.4f} [{self.interval.lo:.4f}, {self.interval.hi:.4f}], {self.mean_size:.3f} labels, "
            f"{self.empty:.1%} empty, {self.singletons:.1%} with one label, worst class {self.worst_class:.4f} (n = {self.n})"
        )


def evaluate(sets: Tensor, y: Tensor) -> SetReport:
    """Coverage and size of sets (B, classes) bool for labels y (B,). Raises InputError."""
    if not isinstance(sets, Tensor) or sets.dim() != 2 or sets.dtype != torch.bool or not len(sets):
        got = f"{sets.dtype} of shape {tuple(sets.shape)}" if isinstance(sets, Tensor) else type(sets).__name__
        raise InputError("sets", got, "a bool tensor (B, classes)")
    n, classes = sets.shape
    check_labels(y, n, classes)
    sets, y = sets.cpu(), y.cpu().long()
    held, sizes = sets.gather(1, y[:, None]).squeeze(1), sets.sum(1)
    of_class = torch.bincount(y, minlength=classes).double()
    by_class = torch.bincount(y, weights=held.double(), minlength=classes) / of_class
    covered = int(held.sum())
    return SetReport(
        n, covered / n, clopper_pearson(covered, n), float(sizes.double().mean()),
        tuple(torch.bincount(sizes, minlength=classes + 1).tolist()), tuple(by_class.tolist()),
    )  # fmt: skip


def check_enough(n: int, alpha: float, allow_full_sets: bool) -> None:
    """Raise InputError if n calibration points are too few for alpha."""
    if not allow_full_sets and conformal_rank(n, alpha) > n:
        needed = int(np.ceil(1 / alpha)) - 1
        while conformal_rank(needed, alpha) > needed:
            needed += 1
        wanted = f"at least {needed} for a level of 1 - {alpha:g} (or allow_full_sets=True: every set is all labels)"
        raise InputError("calibration", f"{n} points", wanted)


def id_array(ids: Sequence[int] | Tensor | None, n: int) -> npt.NDArray[np.int64]:
    """One id an example as an array; by default the places."""
    if ids is None:
        return np.arange(n)
    found = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if found.shape != (n,) or found.dtype.kind not in "iu" or (n and int(found.min()) < 0):
        raise InputError("ids", f"{found.dtype} of shape {found.shape}", f"whole numbers >= 0 of shape ({n},)")
    return found


def read_state(path: Path) -> dict[str, Any]:
    """The JSON object in a file; MissingError or InputError otherwise."""
    if not path.is_file():
        raise MissingError(f"folder: there is no {path}")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("folder", str(path), f"a readable JSON file ({error})") from error
    if not isinstance(state, dict):
        raise InputError("folder", str(path), "a JSON object")
    return state


def _checked(logits: Tensor) -> Tensor:
    found = check_logits(logits, len(logits) if isinstance(logits, Tensor) and logits.dim() else 0, "logits")
    if not len(found):
        raise InputError("logits", "no examples", "at least one")
    if look_like_probabilities(found[:256]):
        raise InputError("logits", "probabilities (rows in [0, 1] that sum to 1)", "logits; of probabilities take the log")
    return found.detach()


def _probabilities(logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their softmax), a part at a time; half precision is widened."""
    for start in range(0, len(logits), ROWS):
        rows = slice(start, start + ROWS)
        part = logits[rows]
        yield rows, part.float().softmax(1) if part.dtype in (torch.float16, torch.bfloat16) else part.softmax(1)


def _part(u: Array | None, rows: slice) -> Array | None:
    return None if u is None else u[rows]


def _first_largest(p: Tensor) -> Tensor:
    return torch.zeros(p.shape, dtype=torch.bool, device=p.device).scatter_(1, p.argmax(1, keepdim=True), True)


def _numpy(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.cpu().numpy()
