"""Point clouds: sets with masks, meshes, furniture, files of KITTI's format, simulated LiDAR."""

from tutelage.data.points.checks import LEAST, check_cloud
from tutelage.data.points.cloud import PointSet, normalised, padded, random_turn, thinned, turned
from tutelage.data.points.kitti import KittiBox, KittiFrame, kitti_frames, read_kitti_frame
from tutelage.data.points.meshes import mesh_folder, read_mesh, sample_mesh

__all__ = [
    "LEAST",
    "KittiBox",
    "KittiFrame",
    "PointSet",
    "check_cloud",
    "kitti_frames",
    "mesh_folder",
    "normalised",
    "padded",
    "random_turn",
    "read_kitti_frame",
    "read_mesh",
    "sample_mesh",
    "thinned",
    "turned",
]
