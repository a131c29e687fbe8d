"""Simulated streets: cars and people that move, things that stand about, seen by a simulated LiDAR; with exact places.

Objects are real meshes (`data.points.furniture`); which shapes a sequence uses is the caller's choice, so that tests can be on
shapes that no training saw. Needs mujoco and trimesh (the extra `points`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.core.cache import Cache
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.data.fetch import verified_folder
from tutelage.data.points.checks import LEAST
from tutelage.data.points.cloud import PointSet, Split, normalised, padded
from tutelage.data.points.clusters import cluster_indices
from tutelage.data.points.furniture import CLASSES, LIGHT, Model, Shapes, model_mesh
from tutelage.data.points.lidar import GROUND, Lidar, Placed, Scan, simulate
from tutelage.data.points.meshes import coarsened, require

KINDS = ("car", "person", "other")  # the classes of a detector here; the last one is what is not tracked
CLUTTER = ("plant", "lamp", "chair", "table", "cabinet")
SENSOR = Lidar(rings=24, columns=220, low=-14.0, high=3.0, span=100.0, reach=40.0)
SPEED = {"car": 0.5, "person": 0.12, "other": 0.0}  # metres a frame, at most


@dataclass(frozen=True, eq=False)
class Sequenced:
    """A sequence: scans, the class of each object (K,), where each is in each frame (T, K, 2), its points (T, K)."""

    scans: tuple[Scan, ...]
    labels: NDArray[np.int64]
    places: NDArray[np.float64]
    seen: NDArray[np.int64]


def usable(shapes: Shapes, index: Sequence[int]) -> dict[str, list[int]]:
    """Which of the shapes fit a street, by kind: cars up to 6.5 m, people who stand, clutter between 0.5 and 4 m in height."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for i in index:
        name, (width, depth, height) = CLASSES[int(shapes.labels[i])], (s / 100 for s in shapes.models[i].size)
        if name == "car" and max(width, depth) <= 6.5:
            found["car"].append(i)
        elif name == "person" and height >= 1.1:
            found["person"].append(i)
        elif name in CLUTTER and 0.5 <= height <= 4 and max(width, depth) <= 3:
            found["other"].append(i)
    for kind, own in found.items():
        if not own:
            raise InputError("index", f"shapes without any {kind}", "shapes of all three kinds")
    return found


def street(
    shapes: Shapes, index: Sequence[int], *, seed: int, frames: int = 12, objects: int = 8, cache: Cache, sensor: Lidar = SENSOR
) -> Sequenced:
    """One sequence with objects drawn from the shapes `index`: about a third each of cars, people and clutter."""
    check_integer("frames", frames)
    check_integer("objects", objects, low=3)
    rng, kinds = numpy_generator(seed, "street"), usable(shapes, index)
    scene, labels, taken = [], [], list[NDArray[np.float64]]()
    for k in range(objects):
        kind = KINDS[k % 3]
        which = kinds[kind][int(rng.integers(len(kinds[kind])))]
        start = _free_place(rng, taken)
        taken.append(start)
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.0) * SPEED[kind]
        along = np.arange(frames)[:, None] * speed * np.array([[np.cos(heading), np.sin(heading)]])
        facing = np.full((frames, 1), heading - np.pi / 2 if kind == "car" else heading)
        scene.append(Placed(_light(shapes.models[which], cache), KINDS.index(kind), np.hstack((start + along, facing))))
        labels.append(KINDS.index(kind))
    scans = simulate(scene, sensor)
    places = np.stack([one.poses[:, :2] for one in scene], 1)
    seen = np.stack([[int(((s.objects == k) & (s.points[:, 2] > 0.25)).sum()) for k in range(objects)] for s in scans])
    return Sequenced(tuple(scans), np.array(labels), places, seen)


def _free_place(rng: np.random.Generator, taken: Sequence[NDArray[np.float64]], gap: float = 4.0) -> NDArray[np.float64]:
    """Somewhere in the view, at least `gap` metres from the others if that can be had."""
    for _ in range(200):
        r, angle = rng.uniform(6, 20), rng.uniform(-0.7, 0.7)
        place = np.array([r * np.cos(angle), r * np.sin(angle)])
        if all(np.linalg.norm(place - other) >= gap for other in taken):
            return place
    return place


@lru_cache(maxsize=256)
def _light(model: Model, cache: Cache) -> Any:
    """The coarsened mesh of a model, made once."""

    def build(folder: Path) -> None:
        mesh = coarsened(model_mesh(verified_folder("furniture"), model), LIGHT)
        tensors = {"vertices": torch.from_numpy(np.array(mesh.vertices)), "faces": torch.from_numpy(np.array(mesh.faces))}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "mesh.safetensors")

    key = {"library": model.library, "path": model.path, "size": list(model.size), "cell": LIGHT, "version": 1}
    found = load_file(cache.get("light-meshes", key, build) / "mesh.safetensors")
    return require("trimesh").Trimesh(found["vertices"].numpy(), found["faces"].numpy(), process=False)


def cluster_set(sequences: Sequence[Sequenced], n_points: int, split: Split, *, seed: int = 0) -> PointSet:
    """The clusters of all scans as labelled clouds in the unit sphere, n_points each, padded with a mask.

    A cluster is of the object that most of its points hit; groups: the sequence it is of.
    """
    clouds, labels, groups = list[Tensor](), list[int](), list[int]()
    for number, sequence in enumerate(sequences):
        for scan in sequence.scans:
            for index in cluster_indices(scan.points):
                hit = scan.objects[index]
                hit = hit[hit != GROUND]
                if len(hit) >= LEAST:
                    clouds.append(scan.points[index])
                    labels.append(int(sequence.labels[int(hit.mode().values)]))
                    groups.append(number)
    points, mask = padded(clouds, n_points, torch.Generator().manual_seed(seed))
    return PointSet(
        normalised(points, mask), torch.tensor(labels), KINDS, mask=mask, groups=torch.tensor(groups),
        name="clusters of simulated LiDAR scans", split=split, kind="generated",
        origin={"generator": "tutelage.data.points.traffic", "version": "1"},
    )  # fmt: skip
