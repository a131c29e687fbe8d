"""A guarded model: it answers where the input looks like its training data, and refuses elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.auditing.detection.metrics import DetectionMetrics, detection_metrics
from tutelage.auditing.detection.scores import Detector, batches
from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_json
from tutelage.core.stats import Interval, conformal_quantile, wilson
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet

FORMAT = "tutelage-guard-1"


class Answer(NamedTuple):
    """label: (B,) int64, the classifier's. accepted: (B,) bool. score: (B,) float64. All on the CPU."""

    label: Tensor
    accepted: Tensor
    score: Tensor


@dataclass(frozen=True)
class GuardReport:
    """What a guarded model does on inside data and on sets from outside; shares in [0, 1] with 95 % Wilson intervals.

    coverage: share of inside samples that get an answer. accuracy, selective_accuracy: right answers among all inside
    samples, and among the accepted ones (NaN if none is). refused: by outside set, the share that is refused.
    metrics: by outside set, at all thresholds.
    """

    coverage: float
    coverage_interval: Interval
    accuracy: float
    selective_accuracy: float
    selective_interval: Interval | None
    refused: dict[str, float]
    refused_intervals: dict[str, Interval]
    metrics: dict[str, DetectionMetrics]

    def table(self) -> str:
        """A few lines for people, in per cent."""
        lines = [
            _line("answered", self.coverage, self.coverage_interval),
            f"{'accuracy of all':<28} {100 * self.accuracy:6.2f}",
        ]
        lines.append(_line("accuracy where answered", self.selective_accuracy, self.selective_interval))
        lines += [_line(f"refused: {name}", share, self.refused_intervals[name]) for name, share in self.refused.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class GuardedModel:
    """A classifier with a detector and a threshold: inputs that score below it are refused.

    tpr: the share of inside samples that was to be accepted, n: samples the threshold was set on.
    """

    detector: Detector
    threshold: float
    tpr: float
    n: int

    @classmethod
    def calibrate(cls, detector: Detector, validation: ImageSet, *, tpr: float = 0.95, batch_size: int = 256) -> GuardedModel:
        """Set the threshold on inside data that neither the model nor the detector was fitted on.

        It is the split conformal one: if validation and new inside samples are exchangeable, a new one is accepted with a
        probability of at least `tpr` (over both draws). Nothing is promised of samples from outside. Raises SplitError for
        test data, InputError for fewer than tpr / (1 - tpr) samples (19 at 0.95).
        """
        check_number("tpr", tpr, "a rate between 0 and 1, such as 0.95", low=1e-9, high=1 - 1e-9)
        if not isinstance(detector, Detector):
            raise InputError("detector", type(detector).__name__, "a Detector such as MaxSoftmax(model)")
        if not isinstance(validation, ImageSet):
            raise InputError("validation", type(validation).__name__, "an ImageSet: as_images(data)")
        share = Fraction(tpr).limit_denominator(10**9)
        least = -(-share.numerator // (share.denominator - share.numerator))
        if len(validation) < least:
            raise InputError("validation", f"{len(validation)} samples", f"at least {least} for a TPR of {tpr:g}")
        with training_only():
            refuse_test_data(validation)
            scores = detector.scores(validation, batch_size=batch_size)
        return cls(detector, -conformal_quantile((-scores).numpy(), 1 - share), float(tpr), len(validation))

    def predict(self, x: Tensor) -> Answer:
        """Answer inputs (B, ...): the label, whether the model stands by it, and the score."""
        score = self.detector.score(x)
        return Answer(self.detector.labels(x), score >= self.threshold, score)

    def report(self, inside: ImageSet, outside: Mapping[str, ImageSet], *, batch_size: int = 256) -> GuardReport:
        """What it does on labelled inside data and on named sets from outside (their labels are not used)."""
        check_integer("batch_size", batch_size)
        answers = [(self.predict(x), y) for x, y in batches(inside, batch_size)]
        right = torch.cat([answer.label == y.cpu() for answer, y in answers])
        accepted, scores = (torch.cat(parts) for parts in zip(*((a.accepted, a.score) for a, _ in answers), strict=True))
        n, kept, hits = len(right), int(accepted.sum()), int((right & accepted).sum())
        far = {name: self.detector.scores(data, batch_size=batch_size) for name, data in outside.items()}
        refused = {name: int((s < self.threshold).sum()) for name, s in far.items()}
        return GuardReport(
            coverage=kept / n,
            coverage_interval=wilson(kept, n),
            accuracy=float(right.double().mean()),
            selective_accuracy=hits / kept if kept else float("nan"),
            selective_interval=wilson(hits, kept) if kept else None,
            refused={name: count / len(far[name]) for name, count in refused.items()},
            refused_intervals={name: wilson(count, len(far[name])) for name, count in refused.items()},
            metrics={name: detection_metrics(scores, s, tpr=self.tpr) for name, s in far.items()},
        )

    def save(self, folder: Path | str) -> None:
        """Write the threshold into `folder`, and the detector into `folder/detector`."""
        folder = Path(folder)
        self.detector.save(folder / "detector")
        about = {"format": FORMAT, "threshold": self.threshold, "tpr": self.tpr, "n": self.n}
        write_json(folder / "guard.json", {**about, "detector": self.detector.fingerprint()})

    @classmethod
    def load(cls, folder: Path | str, detector: Detector) -> GuardedModel:
        """What `save` wrote; detector: `Kind.load(folder / "detector", model)`. Another detector raises InputError."""
        path = Path(folder) / "guard.json"
        if not path.is_file():
            raise MissingError(f"guard: there is no {path}")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            made, digest = (float(about["threshold"]), float(about["tpr"]), int(about["n"])), about["detector"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("folder", str(folder), f"a guard that was saved whole ({error})") from error
        if not isinstance(detector, Detector) or detector.fingerprint() != digest:
            raise InputError("detector", "another detector than the threshold was set for", "the one in folder/detector")
        return cls(detector, *made)


def _line(text: str, share: float, interval: Interval | None) -> str:
    limits = f"  [{100 * interval.lo:.2f}, {100 * interval.hi:.2f}]" if interval else ""
    return f"{text:<28} {100 * share:6.2f}{limits}"
