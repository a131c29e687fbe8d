"""Files of KITTI's format: velodyne `.bin`, labels of the object and of the tracking benchmark, calibration; boxes.

LiDAR axes: x forward, y left, z up, in metres. Camera axes, in which KITTI labels: x right, y down, z forward; a box stands on
its location. A folder holds `velodyne/000000.bin`, `label_2/000000.txt`, `calib/000000.txt` (object benchmark); the three
frames of `$TUTELAGE_DATA/kitti-3-frames` come as one Parquet file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.errors import InputError, MissingError

PAGE = "https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=3d"


@dataclass(frozen=True)
class KittiBox:
    """One labelled object. kind: "Car", "Pedestrian", ..., "DontCare". image: left, top, right, bottom in pixels.

    centre (x, y, z), size (length, width, height) in metres and yaw (radians, from x to y) are in LiDAR axes; a DontCare has
    none (NaN). track: its number in the tracking benchmark, -1 elsewhere; frame: the frame there.
    """

    kind: str
    image: tuple[float, float, float, float]
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    truncated: float = 0.0
    occluded: int = 0
    track: int = -1
    frame: int = -1

    def inside(self, points: Tensor) -> Tensor:
        """(N,) bool: which of the points (N, 3 or more) in LiDAR axes lie in the box."""
        offset = points[:, :3].double() - torch.tensor(self.centre, dtype=torch.float64)
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        along, across = c * offset[:, 0] + s * offset[:, 1], -s * offset[:, 0] + c * offset[:, 1]
        length, width, height = self.size
        found: Tensor = (along.abs() <= length / 2) & (across.abs() <= width / 2) & (offset[:, 2].abs() <= height / 2)
        return found


@dataclass(frozen=True, eq=False)
class KittiFrame:
    """points: (N, 4) float32: x, y, z in metres, reflectance. calib: P2 (3, 4), R0_rect (3, 3), Tr_velo_to_cam (3, 4)."""

    points: Tensor
    boxes: tuple[KittiBox, ...] = ()
    calib: dict[str, Tensor] = field(default_factory=dict)
    name: str = ""

    def projected(self, points: Tensor) -> Tensor:
        """(N, 3): column and row of LiDAR points (N, 3) in the left colour image, in pixels, and their depth in metres."""
        camera = _to_camera(points[:, :3].double(), self.calib)
        seen = torch.cat((camera, torch.ones(len(camera), 1, dtype=torch.float64)), 1) @ self.calib["P2"].T
        return torch.cat((seen[:, :2] / seen[:, 2:], seen[:, 2:]), 1)


def read_velodyne(source: Path | str | bytes) -> Tensor:
    """(N, 4) float32 of a velodyne scan: x, y, z in metres and reflectance. Raises MissingError, InputError."""
    if isinstance(source, bytes):
        content, name = source, "the scan"
    else:
        path = Path(source)
        if not path.is_file():
            raise MissingError(f"there is no scan at {path}; KITTI is at {PAGE}")
        content, name = path.read_bytes(), path.name
    if not content or len(content) % 16:
        raise InputError("velodyne", f"{name} of {len(content)} bytes", "four float32 a point: x, y, z, reflectance")
    points = torch.from_numpy(np.frombuffer(content, dtype="<f4").reshape(-1, 4).copy())
    if not bool(torch.isfinite(points).all()):
        raise InputError("velodyne", f"{name} with NaN or infinity", "finite coordinates")
    return points


def read_calib(text: str) -> dict[str, Tensor]:
    """The matrices of a calibration file (float64) under the names of the object benchmark, whichever benchmark it is of."""
    found: dict[str, Tensor] = {}
    names = {"R_rect": "R0_rect", "Tr_velo_cam": "Tr_velo_to_cam", "Tr_imu_velo": "Tr_imu_to_velo"}
    for line in text.splitlines():
        name, *numbers = line.replace(":", " ").split() or [""]
        if not name:
            continue
        try:
            values = [float(one) for one in numbers]
        except ValueError as error:
            raise InputError("calib", line[:60], "a name and 9 or 12 numbers a line") from error
        if len(values) not in (9, 12):
            raise InputError("calib", f"{name} of {len(values)} numbers", "matrices of 9 or 12 numbers")
        found[names.get(name, name)] = torch.tensor(values, dtype=torch.float64).reshape(3, -1)
    for name in ("P2", "R0_rect", "Tr_velo_to_cam"):
        if name not in found:
            raise InputError("calib", f"{', '.join(found) or 'nothing'}", f"the matrix {name} among others")
    return found


def read_labels(text: str, calib: dict[str, Tensor]) -> tuple[KittiBox, ...]:
    """The boxes of a label file of the object benchmark (15 or 16 fields a line) or of the tracking benchmark (17 or 18)."""
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        frame = track = -1
        try:
            if len(fields) in (17, 18):
                frame, track = int(fields[0]), int(fields[1])
                fields = fields[2:]
            if len(fields) not in (15, 16):
                raise ValueError(f"{len(fields)} fields")
            truncated, occluded, _, *rest = (float(one) for one in fields[1:15])
        except ValueError as error:
            raise InputError("label", f"line {number}: {error}", "the fields of KITTI's labels, 15 or 17 a line") from error
        left, top, right, bottom, h, w, length, x, y, z, ry = rest
        centre = size = (float("nan"),) * 3
        if fields[0] != "DontCare":
            at = _to_lidar(torch.tensor([[x, y, z]], dtype=torch.float64), calib)[0].tolist()
            centre, size = (at[0], at[1], at[2] + h / 2), (length, w, h)
        boxes.append(
            KittiBox(
                fields[0], (left, top, right, bottom), centre, size, -ry - np.pi / 2, truncated, int(occluded), track, frame
            )
        )
    return tuple(boxes)


def read_kitti_frame(folder: Path | str, name: str) -> KittiFrame:
    """A frame of the object benchmark: `velodyne/<name>.bin`, `calib/<name>.txt`, `label_2/<name>.txt` where there is one."""
    root = Path(folder)
    points = read_velodyne(root / "velodyne" / f"{name}.bin")
    place = root / "calib" / f"{name}.txt"
    if not place.is_file():
        raise MissingError(f"there is no calibration at {place}; KITTI is at {PAGE}")
    calib = read_calib(place.read_text())
    label = root / "label_2" / f"{name}.txt"
    return KittiFrame(points, read_labels(label.read_text(), calib) if label.is_file() else (), calib, name)


def kitti_frames(folder: Path | str | None = None) -> Iterator[KittiFrame]:
    """Every frame of a folder in KITTI's layout, or of `frames.parquet` in it; default `$TUTELAGE_DATA/kitti-3-frames`.

    Raises MissingError with the home page if there is neither.
    """
    if folder is None:
        root = os.environ.get("TUTELAGE_DATA")
        if not root:
            raise MissingError(f"data: TUTELAGE_DATA is not set; give a folder in KITTI's layout ({PAGE})")
        folder = Path(root).expanduser() / "kitti-3-frames"
    place = Path(folder)
    if (place / "frames.parquet").is_file():
        import pyarrow.parquet as pq

        for i, row in enumerate(pq.read_table(place / "frames.parquet").to_pylist()):
            yield _row(row, i)
        return
    scans = sorted((place / "velodyne").glob("*.bin"))
    if not scans:
        raise MissingError(f"data: no velodyne/*.bin and no frames.parquet in {place}; KITTI is at {PAGE}")
    for scan in scans:
        yield read_kitti_frame(place, scan.stem)


def _row(row: dict[str, Any], i: int) -> KittiFrame:
    calib = read_calib(row["calib"])
    points = read_velodyne(np.asarray(row["points"], dtype="<f4").tobytes())
    return KittiFrame(points, read_labels(row["label"], calib), calib, f"{i:06d}")


def _to_camera(points: Tensor, calib: dict[str, Tensor]) -> Tensor:
    move = calib["Tr_velo_to_cam"]
    return (points @ move[:, :3].T + move[:, 3]) @ calib["R0_rect"].T


def _to_lidar(points: Tensor, calib: dict[str, Tensor]) -> Tensor:
    move = calib["Tr_velo_to_cam"]
    raw = points @ torch.linalg.inv(calib["R0_rect"]).T
    found: Tensor = (raw - move[:, 3]) @ torch.linalg.inv(move[:, :3]).T
    return found
