"""A tracker without training: constant-velocity Kalman filters and Hungarian matching.

Bewley et al.: Simple Online and Realtime Tracking, arXiv 1602.00763, on places instead of boxes, as AB3DMOT (arXiv 1907.03961)
takes SORT to 3D.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tutelage.auditing.tracking.mota import TrackFrame
from tutelage.core.checks import check_integer, check_positive

Array = NDArray[np.float64]


@dataclass
class _Track:
    number: int
    label: int
    state: Array  # place and velocity, (2 D,)
    covariance: Array
    hits: int = 1
    missed: int = 0


@dataclass
class Tracker:
    """`update(places (K, D), labels (K,)) -> TrackFrame` for each frame in turn.

    gate: metres from the predicted place within which a detection may be the same object. min_hits: detections in a row before
    a track is reported. max_age: frames that a track outlives without a detection (it is then not reported). noise: standard
    deviations of a measurement, in metres, and of the change of velocity from frame to frame.
    """

    gate: float = 2.0
    min_hits: int = 2
    max_age: int = 2
    measurement: float = 0.3
    acceleration: float = 0.2
    _tracks: list[_Track] = field(default_factory=list)
    _next: int = 0

    def __post_init__(self) -> None:
        check_positive("gate", self.gate, "a distance above 0, in metres")
        check_integer("min_hits", self.min_hits)
        check_integer("max_age", self.max_age, low=0)

    def update(self, places: Array, labels: NDArray[np.int64]) -> TrackFrame:
        places = np.asarray(places, np.float64)
        d = places.shape[1] if places.ndim == 2 else 2
        places = places.reshape(-1, d)
        for track in self._tracks:
            _predict(track, self.acceleration)
        pairs = self._matched(places, labels)
        for t, k in pairs:
            _correct(self._tracks[t], places[k], self.measurement)
        seen = {t for t, _ in pairs}
        for t, track in enumerate(self._tracks):
            if t not in seen:
                track.missed += 1
                track.hits = 0 if track.hits < self.min_hits else track.hits
        self._tracks = [track for track in self._tracks if track.missed <= self.max_age and track.hits > 0]
        for k in sorted(set(range(len(places))) - {k for _, k in pairs}):
            state = np.concatenate((places[k], np.zeros(d)))
            covariance = np.diag([self.measurement**2] * d + [1.0] * d)
            self._tracks.append(_Track(self._next, int(labels[k]), state, covariance))
            self._next += 1
        shown = [track for track in self._tracks if track.missed == 0 and track.hits >= self.min_hits]
        where = np.array([track.state[:d] for track in shown]).reshape(len(shown), d)
        return TrackFrame(np.array([t.number for t in shown], int), where, np.array([t.label for t in shown], int))

    def _matched(self, places: Array, labels: NDArray[np.int64]) -> list[tuple[int, int]]:
        if not self._tracks or not len(places):
            return []
        d = places.shape[1]
        cost = np.linalg.norm(np.array([t.state[:d] for t in self._tracks])[:, None] - places[None], axis=2)
        cost[np.array([t.label for t in self._tracks])[:, None] != np.asarray(labels)[None]] = np.inf
        far = cost > self.gate
        rows, columns = linear_sum_assignment(np.where(far, 1e6, cost))
        return [(int(t), int(k)) for t, k in zip(rows, columns, strict=True) if not far[t, k]]


def _predict(track: _Track, acceleration: float) -> None:
    d = len(track.state) // 2
    move = np.eye(2 * d)
    move[:d, d:] = np.eye(d)
    push = np.vstack((0.5 * np.eye(d), np.eye(d))) * acceleration
    track.state = move @ track.state
    track.covariance = move @ track.covariance @ move.T + push @ push.T


def _correct(track: _Track, place: Array, measurement: float) -> None:
    d = len(place)
    seen = np.hstack((np.eye(d), np.zeros((d, d))))
    spread = seen @ track.covariance @ seen.T + measurement**2 * np.eye(d)
    gain = track.covariance @ seen.T @ np.linalg.inv(spread)
    track.state = track.state + gain @ (place - seen @ track.state)
    track.covariance = (np.eye(2 * d) - gain @ seen) @ track.covariance
    track.hits, track.missed = track.hits + 1, 0
