"""Reference nets for point clouds, called as model(points (B, N, 3), mask (B, N)), and the wrapper for nets without masks."""

from tutelage.models.points.dgcnn import DGCNN
from tutelage.models.points.maskless import WithoutMask
from tutelage.models.points.pointnet import PointNet, masked_max

__all__ = ["DGCNN", "PointNet", "WithoutMask", "masked_max"]
