"""Checks of point clouds: shapes, masks, finite coordinates, enough points."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.core.errors import InputError

LEAST = 16  # points of a cloud; fewer say nothing about a shape


def check_cloud(points: object, mask: object = None, name: str = "points") -> tuple[Tensor, Tensor]:
    """(points, mask): points (B, N, 3) floats, N >= 16; mask (B, N) bool, True where a point is real; None: all are.

    Raises InputError for other shapes and types, an empty cloud, N < 16, NaN or infinity, and a cloud without any real point.
    """
    if not isinstance(points, Tensor) or not points.is_floating_point():
        got = f"dtype {points.dtype}" if isinstance(points, Tensor) else type(points).__name__
        raise InputError(name, got, "a floating-point tensor (B, N, 3)")
    if points.dim() != 3 or points.shape[2] != 3 or len(points) == 0:
        raise InputError(name, f"shape {tuple(points.shape)}", "clouds (B, N, 3), at least one")
    if points.shape[1] < LEAST:
        what = "an empty cloud" if points.shape[1] == 0 else f"{points.shape[1]} points"
        raise InputError(name, what, f"at least {LEAST} points a cloud")
    finite = torch.isfinite(points.detach()).flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(name, f"NaN or infinity in cloud {int((~finite).nonzero()[0])}", "finite coordinates")
    if mask is None:
        return points, torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != points.shape[:2]:
        got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError("mask", got, f"a bool tensor of shape {tuple(points.shape[:2])}, True where a point is real")
    if not bool(mask.any(1).all()):
        raise InputError("mask", f"cloud {int((~mask.any(1)).nonzero()[0])} with all points dropped", "a real point a cloud")
    return points, mask
