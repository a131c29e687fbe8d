"""Simulated LiDAR: scans of scenes of moving meshes, with the object that every ray hit. Needs mujoco (the extra `points`).

A scene is objects on a flat ground at z = 0; the sensor stands at (0, 0, height) and looks along x. Rays are traced by MuJoCo
against the triangles of the meshes. What a scan holds is exact; noise, fog and lost points are threats (`threats.points`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.data.points.meshes import require

GROUND = -1  # the number of the ground in `Scan.objects`


@dataclass(frozen=True)
class Lidar:
    """A rotating LiDAR: rings between two elevations and columns over a span of azimuth around x, in degrees; metres."""

    rings: int = 32
    columns: int = 256
    low: float = -20.0
    high: float = 6.0
    span: float = 120.0
    height: float = 1.8
    reach: float = 50.0

    def __post_init__(self) -> None:
        check_integer("rings", self.rings)
        check_integer("columns", self.columns)
        check_positive("span", self.span, "degrees above 0")
        check_positive("reach", self.reach, "metres above 0")
        if not -90 <= self.low < self.high <= 90:
            raise InputError("low", f"{self.low} to {self.high}", "two elevations in degrees, the lower one first")

    @property
    def rays(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(rings x columns, 3) unit vectors."""
        up = np.deg2rad(np.linspace(self.low, self.high, self.rings))[:, None]
        around = np.deg2rad(np.linspace(-self.span / 2, self.span / 2, self.columns))[None]
        rays = np.stack((np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up) + 0 * around), -1)
        return rays.reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Placed:
    """An object of a scene: a trimesh (z up, standing on z = 0), its class, and where it is in each frame.

    poses: (T, 3): x, y in metres and yaw in radians.
    """

    mesh: Any
    label: int
    poses: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Scan:
    """points: (P, 3) float32 in metres, relative to the ground below the sensor. objects: (P,) int64, which object was hit."""

    points: Tensor
    objects: Tensor


def simulate(scene: Sequence[Placed], sensor: Lidar = Lidar()) -> list[Scan]:
    """The scans of all frames. Raises InputError for an empty scene and for objects with different numbers of frames."""
    if not scene:
        raise InputError("scene", "no objects", "at least one")
    frames = len(scene[0].poses)
    for i, one in enumerate(scene):
        if one.poses.shape != (frames, 3) or frames == 0 or not np.isfinite(one.poses).all():
            raise InputError("poses", f"shape {one.poses.shape} of object {i}", f"finite numbers of shape ({frames}, 3)")
    mujoco = require("mujoco")
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    for i, one in enumerate(scene):
        vertices, faces = np.asarray(one.mesh.vertices, np.float32), np.asarray(one.mesh.faces, np.int32)
        shape = spec.add_mesh(name=f"mesh {i}", uservert=vertices.ravel(), userface=faces.ravel())
        shape.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # open surfaces have no volume
        body = spec.worldbody.add_body(name=f"object {i}", mocap=True)
        body.add_geom(name=f"object {i}", type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"mesh {i}", contype=0, conaffinity=0)
    model = spec.compile()
    data = mujoco.MjData(model)
    rays = sensor.rays
    origin = np.array([0.0, 0.0, sensor.height])
    hit, distance = np.zeros(len(rays), np.int32), np.zeros(len(rays))
    owner = np.full(model.ngeom, GROUND)
    for i in range(len(scene)):
        owner[model.geom(f"object {i}").id] = i
    scans = []
    for t in range(frames):
        for i, one in enumerate(scene):
            x, y, yaw = one.poses[t]
            data.mocap_pos[i] = (x, y, 0.0)
            data.mocap_quat[i] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        mujoco.mj_kinematics(model, data)
        _multi_ray(mujoco, model, data, origin, rays, hit, distance, sensor.reach)
        seen = hit >= 0
        points = origin + rays[seen] * distance[seen, None]
        scans.append(Scan(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(owner[hit[seen]].astype(np.int64))))
    return scans


def _multi_ray(mujoco: Any, model: Any, data: Any, origin: Any, rays: Any, hit: Any, distance: Any, reach: float) -> None:
    arguments = [model, data, origin, rays.ravel(), None, 1, -1, hit, distance]
    if int(mujoco.__version__.split(".")[0]) >= 4:
        arguments.append(None)  # normals, new in version 4
    mujoco.mj_multiRay(*arguments, len(rays), reach)
