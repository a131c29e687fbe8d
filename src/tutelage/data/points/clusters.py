"""Clusters of a LiDAR scan: what stands above a flat ground, cut into pieces that lie apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.data.points.checks import LEAST


def clusters(scan: Tensor, *, ground: float = 0.25, gap: float = 0.7, least: int = LEAST) -> list[Tensor]:
    """The clusters (n_i, 3) of a scan (P, 3) with z = 0 on the ground, by DBSCAN in x and y; largest first.

    ground: metres below which a point is taken for ground. gap: metres between neighbours of one cluster. least: points.
    """
    return [scan[index] for index in cluster_indices(scan, ground=ground, gap=gap, least=least)]


def cluster_indices(scan: Tensor, *, ground: float = 0.25, gap: float = 0.7, least: int = LEAST) -> list[Tensor]:
    """The same as positions (n_i,) in the scan."""
    from sklearn.cluster import DBSCAN

    if not isinstance(scan, Tensor) or scan.dim() != 2 or scan.shape[1] < 3:
        raise InputError("scan", getattr(scan, "shape", type(scan).__name__), "points (P, 3)")
    if not bool(torch.isfinite(scan).all()):
        raise InputError("scan", "NaN or infinity", "finite coordinates")
    check_positive("gap", gap, "metres above 0")
    check_integer("least", least)
    above = (scan[:, 2] > ground).nonzero().squeeze(1)
    if len(above) < least:
        return []
    found = DBSCAN(eps=gap, min_samples=5).fit_predict(scan[above, :2].double().numpy())
    parts = [above[torch.from_numpy(np.flatnonzero(found == c))] for c in range(found.max() + 1)]
    return sorted((part for part in parts if len(part) >= least), key=len, reverse=True)
