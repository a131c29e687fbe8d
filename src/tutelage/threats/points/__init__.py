"""Everything that can go wrong with a point cloud: sensor noise, lost points, strangers, another pose; and attacks."""

from tutelage.threats.points.corruptions import (
    NAMES,
    Corrupted,
    PointCorruption,
    corrupt_points,
    point_corruptions,
)
from tutelage.threats.points.pgd import PointPGD, within_balls

__all__ = ["NAMES", "Corrupted", "PointCorruption", "PointPGD", "corrupt_points", "point_corruptions", "within_balls"]
