"""MOTA: how many objects a tracker misses, makes up and confuses.

Bernardin, Stiefelhagen: Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics, EURASIP 2008.

    MOTA = 1 - (FN + FP + IDSW) / GT                                                                        (1)

In each frame tracks are matched with objects of the same class that are at most `threshold` away: first the pairs of the frame
before are kept, then the matching of least total distance is taken. An object that is matched to another track than the last
time is a switch (IDSW). The counts are those of TrackEval's CLEAR, which `tracking_scores` calls, with its HOTA and IDF1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tutelage.core.checks import check_positive
from tutelage.core.errors import InputError, MissingError


@dataclass(frozen=True, eq=False)
class TrackFrame:
    """What is in one frame: numbers (K,), places (K, D) in metres, and classes (K,), all 0 by default."""

    ids: NDArray[np.int64]
    places: NDArray[np.float64]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.asarray(self.ids, np.int64).reshape(-1))
        n = len(self.ids)
        places = np.asarray(self.places, np.float64)
        object.__setattr__(self, "places", places.reshape(n, -1) if n else places.reshape(0, places.shape[-1] or 1))
        labels = np.asarray(self.labels, np.int64).reshape(-1)
        object.__setattr__(self, "labels", labels if len(labels) else np.zeros(n, np.int64))
        if len(set(self.ids.tolist())) != n:
            raise InputError("ids", self.ids.tolist(), "each number once a frame")
        if len(self.labels) != n or not np.isfinite(self.places).all():
            raise InputError("places", f"{self.places.shape} with labels {self.labels.shape}", f"{n} finite places and labels")


@dataclass(frozen=True)
class MotaResult:
    """Counts over all frames. distance: mean over the matches, in metres (0 without any)."""

    mota: float
    misses: int
    false_positives: int
    switches: int
    objects: int
    matches: int
    distance: float


def mota(tracks: Sequence[TrackFrame], gt: Sequence[TrackFrame], *, threshold: float = 2.0) -> MotaResult:
    """(1) of tracks against what was there, frame by frame. threshold: metres. The result may be negative.

    Raises InputError for sequences of different lengths and for a ground truth without any object.
    """
    _check(tracks, gt, threshold)
    misses = wrong = switches = objects = matches = 0
    total = 0.0
    last: dict[int, int] = {}  # object -> the track it was matched with last
    before: dict[int, int] = {}  # the pairs of the last frame in which there was anything to match
    for found, there in zip(tracks, gt, strict=True):
        objects += len(there.ids)
        if not len(found.ids) or not len(there.ids):
            misses, wrong = misses + len(there.ids), wrong + len(found.ids)
            continue
        score = similarity(found, there, threshold)
        kept = np.array([[before.get(int(i)) == int(j) for j in found.ids] for i in there.ids])
        weight = np.where(score >= 0.5 - 1e-12, 1000.0 * kept + score, 0.0)
        rows, columns = linear_sum_assignment(-weight)
        good = weight[rows, columns] > 0
        before = {}
        for i, j in zip(rows[good], columns[good], strict=True):
            thing, track = int(there.ids[i]), int(found.ids[j])
            switches += thing in last and last[thing] != track
            last[thing] = before[thing] = track
            total += float(np.linalg.norm(there.places[i] - found.places[j]))
        n = int(good.sum())
        matches, misses, wrong = matches + n, misses + len(there.ids) - n, wrong + len(found.ids) - n
    value = 1 - (misses + wrong + switches) / objects
    return MotaResult(value, misses, wrong, switches, objects, matches, total / max(1, matches))


def tracking_scores(tracks: Sequence[TrackFrame], gt: Sequence[TrackFrame], *, threshold: float = 2.0) -> dict[str, float]:
    """MOTA, MOTP, IDF1 and HOTA as TrackEval counts them (pip install trackeval), on a similarity of 1 - d / (2 threshold).

    Raises MissingError if TrackEval is not installed, else as `mota`.
    """
    _check(tracks, gt, threshold)
    try:
        metrics = import_module("trackeval.metrics")
    except ImportError as error:
        raise MissingError("these scores need TrackEval, which is not installed: pip install trackeval") from error
    numbers = [{one: i for i, one in enumerate(sorted({int(n) for f in s for n in f.ids}))} for s in (tracks, gt)]
    ids = [[np.array([names[int(n)] for n in f.ids], int) for f in s] for names, s in zip(numbers, (tracks, gt), strict=True)]
    data: dict[str, Any] = {
        "num_timesteps": len(gt),
        "num_gt_ids": len(numbers[1]), "num_tracker_ids": len(numbers[0]),
        "num_gt_dets": sum(map(len, ids[1])), "num_tracker_dets": sum(map(len, ids[0])),
        "gt_ids": ids[1], "tracker_ids": ids[0],
        "similarity_scores": [similarity(found, there, threshold) for found, there in zip(tracks, gt, strict=True)],
    }  # fmt: skip
    quiet = {"PRINT_CONFIG": False}
    clear = metrics.CLEAR(quiet).eval_sequence(data)
    identity, hota = metrics.Identity(quiet).eval_sequence(data), metrics.HOTA().eval_sequence(data)
    return {
        "MOTA": float(clear["MOTA"]), "MOTP": float(clear["MOTP"]), "IDSW": float(clear["IDSW"]),
        "FN": float(clear["CLR_FN"]), "FP": float(clear["CLR_FP"]),
        "IDF1": float(identity["IDF1"]), "HOTA": float(np.mean(hota["HOTA"])),
    }  # fmt: skip


def similarity(found: TrackFrame, there: TrackFrame, threshold: float) -> NDArray[np.float64]:
    """(objects, tracks): 1 - d / (2 threshold), at least 0, so that 0.5 is the threshold; 0 for another class."""
    if not len(found.ids) or not len(there.ids):
        return np.zeros((len(there.ids), len(found.ids)))
    distance = np.linalg.norm(there.places[:, None] - found.places[None], axis=2)
    score = np.clip(1 - distance / (2 * threshold), 0, 1)
    return np.asarray(np.where(there.labels[:, None] == found.labels[None], score, 0.0), np.float64)


def _check(tracks: Sequence[TrackFrame], gt: Sequence[TrackFrame], threshold: float) -> None:
    check_positive("threshold", threshold, "a distance above 0, in metres")
    if len(tracks) != len(gt):
        raise InputError("tracks", f"{len(tracks)} frames", f"{len(gt)}, as many as the ground truth has")
    if not any(len(frame.ids) for frame in gt):
        raise InputError("gt", "no object in any frame", "at least one: without any, MOTA is not defined")
