"""Objects in LiDAR scans: points above the ground are clustered, a point-cloud classifier says what each cluster is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.auditing.points import point_logits
from tutelage.auditing.tracking.mota import TrackFrame
from tutelage.auditing.tracking.sort import Tracker
from tutelage.core.checks import check_integer
from tutelage.data.points.checks import LEAST
from tutelage.data.points.cloud import normalised, padded
from tutelage.data.points.clusters import clusters


def detect(
    model: nn.Module, scan: Tensor, tracked: Sequence[int], *, n_points: int = 128, generator: torch.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Places (K, 2), x and y in metres, and classes (K,) of the clusters of a scan (P, 3) that are of a tracked class.

    model: called as model(points (B, n_points, 3) in the unit sphere, mask); its other classes are what is not wanted.
    """
    check_integer("n_points", n_points, low=LEAST)
    found = clusters(scan)
    if not found:
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    points, mask = padded(found, n_points, generator)
    kind = point_logits(model, normalised(points, mask), mask).argmax(1)
    wanted = torch.isin(kind, torch.tensor(list(tracked)))
    # the middle of what is seen of it
    middle = torch.stack([(c[:, :2].amax(0) + c[:, :2].amin(0)) / 2 for c in found])
    return middle[wanted].double().numpy(), kind[wanted].numpy()


def track_scans(
    model: nn.Module,
    scans: Sequence[Tensor],
    tracked: Sequence[int],
    *,
    n_points: int = 128,
    seed: int = 0,
    tracker: Tracker | None = None,
) -> list[TrackFrame]:
    """Detection and tracking over the scans (P_t, 3) of a sequence; nothing here is trained."""
    tracker, g = tracker or Tracker(), torch.Generator().manual_seed(seed)
    return [tracker.update(*detect(model, scan, tracked, n_points=n_points, generator=g)) for scan in scans]
