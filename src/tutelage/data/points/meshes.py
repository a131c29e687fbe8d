"""Point clouds from meshes: one file, or a folder of meshes by class (ModelNet's layout or a plain one).

Needs trimesh (the extra `points`).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_file, sha256_text
from tutelage.core.rng import derive
from tutelage.data.points.checks import LEAST
from tutelage.data.points.cloud import PointSet, Split, normalised

FORMS = (".off", ".obj", ".ply", ".stl")


def require(package: str) -> Any:
    """trimesh or mujoco, or a MissingError that says how to get them."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingError(f"point clouds need {package}, which is not installed: pip install 'tutelage[points]'") from error


def read_mesh(source: Path | str | Any, form: str = "") -> Any:
    """A trimesh.Trimesh from a file (OFF, OBJ, PLY, STL) or an open binary file of format `form`. Materials are left out.

    Raises MissingError if there is no such file, InputError for one without a surface.
    """
    trimesh = require("trimesh")
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise MissingError(f"there is no mesh at {path}")
        form = path.suffix.removeprefix(".").lower()
        source = str(path)
    try:
        mesh = trimesh.load(source, file_type=form, force="mesh", skip_materials=True, process=False)
    except Exception as error:  # trimesh raises whatever its parsers raise
        raise InputError("mesh", f"a file that cannot be read ({error})", f"a mesh in {', '.join(FORMS)}") from error
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all() or not mesh.area > 0:
        raise InputError("mesh", f"{len(mesh.vertices)} points without a surface", "a mesh with faces of some area")
    return mesh


def sample_mesh(mesh: Any, n: int, seed: int) -> Tensor:
    """n points (n, 3) float32, uniform over the surface of a trimesh.Trimesh, the same for the same seed; units of the mesh."""
    check_integer("n", n, low=LEAST)
    found, _ = require("trimesh").sample.sample_surface(mesh, n, seed=seed % 2**32)
    return torch.from_numpy(np.asarray(found, dtype=np.float32).copy())


def mesh_folder(
    folder: Path | str, n: int = 1024, *, split: Literal["train", "test", ""] = "", up: Literal["z", "y"] = "z", seed: int = 0
) -> PointSet:
    """A PointSet of a folder of meshes by class: `<class>/<split>/*.off` as ModelNet has it, or `<class>/*.obj` and so on.

    n: points a cloud. up: the axis that points up in the files (ModelNet: z); clouds have z up. Clouds are normalised to the
    unit sphere. split "": every file below the class's folder. Raises MissingError, InputError for damaged files.
    """
    check_choice("up", up, ("z", "y"))
    root = Path(folder)
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir())) if root.is_dir() else ()
    clouds, labels, hashes = [], [], []
    for label, name in enumerate(classes):
        inside = root / name / split if split and (root / name / split).is_dir() else root / name
        pattern = "**/*" if not split else "*"
        for path in sorted(p for p in inside.glob(pattern) if p.suffix.lower() in FORMS):
            try:
                cloud = sample_mesh(read_mesh(path), n, derive(seed, name, path.name))
            except InputError as error:
                raise InputError("folder", f"{path}: {error}", "meshes with a surface") from error
            clouds.append(upright(cloud) if up == "y" else cloud)
            labels.append(label)
            hashes.append(sha256_file(path))
    if not clouds:
        raise MissingError(f"there are no meshes ({', '.join(FORMS)}) in folders by class below {root}")
    kind: Split = split
    return PointSet(
        normalised(torch.stack(clouds)), torch.tensor(labels), classes, groups=torch.arange(len(clouds)), name=root.name,
        split=kind, origin={"files_sha256": sha256_text("".join(hashes)), "points": str(n), "seed": str(seed)},
    )  # fmt: skip


def upright(points: Tensor) -> Tensor:
    """(N, 3) with y up -> z up."""
    x, y, z = points.unbind(-1)
    return torch.stack((x, -z, y), -1)


def coarsened(mesh: Any, cell: float) -> Any:
    """The same surface with the vertices of each cube of side `cell` merged: far fewer triangles, moved by less than a cell."""
    check_positive("cell", cell, "a length above 0")
    vertices = np.asarray(mesh.vertices)
    keys = np.floor((vertices - vertices.min(0)) / cell).astype(np.int64)
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = place.reshape(-1)[np.asarray(mesh.faces)]
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = np.unique(np.sort(faces[proper], axis=1), axis=0)
    if len(faces) == 0:
        return mesh
    return require("trimesh").Trimesh(vertices[first], faces, process=False)
