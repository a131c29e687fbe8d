"""Furniture: point clouds sampled from the real models of Sweet Home 3D (`tutelage data get furniture`).

820 OBJ models in five libraries (`.sh3f`, which are zip archives with a catalogue). Twelve classes are made of the names of
the models; what no rule names is left out. Models that are the same but for their size or colour are one family and stay in
one split. Needs trimesh (the extra `points`).
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.core.cache import Cache, default_cache_dir
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import canonical_json, sha256_text, write_atomic
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator, numpy_generator
from tutelage.data.fetch import verified_folder
from tutelage.data.homes import HOMES
from tutelage.data.points.cloud import PointSet, Split, normalised, random_turn
from tutelage.data.points.meshes import read_mesh, sample_mesh, upright

SAMPLED = 1024  # points kept of each model
SAME = 0.045  # mean distance of two samples of one shape, both in the unit cube, is about 0.03
SHARES = {"train": 0.5, "validation": 0.15, "test": 0.35}  # of the families of a class

LIGHT = 0.03  # metres: meshes for simulated scans are coarsened to this, about the distance of two rays at 10 m
# class -> (names that belong to it, names that do not all the same); the first class that fits is taken
RULES: dict[str, tuple[str, str]] = {
    "bed": (r"\bbed\b|\bcrib\b|\bfuton$", r"bedside"),
    "cabinet": (r"cabinet|wardrobe|cupboard|\bchest\b|dresser|bookcase|shelves|locker|fridge|refrigerator", r"sink|freezer"),
    "car": (r"\bcar\b|sedan|\bbus\b|\bvan\b|\bsuv\b|truck|chevrolet|ford|peugeot|renault|leon|beetle", r"model|parking"),
    "chair": (r"chair|pool lounge", r"wheelchair|ottoman|high chair"),
    "door": (r"\bdoor\b|elevator door|screen door", r"cabinet|shower|garage|french"),
    "lamp": (r"lamp\b|lamppost|\blight\b|chandelier|lantern", r"wall|track|hanging|pendant|ceiling"),
    "person": (r"male|\bboy\b|\bgirl\b", r""),
    "plant": (
        r"plant\b|tree\b|bamboo|cactus|ficus|flowers|orchid|tulips|lily|yucca|spathi|acacia|pine\b|bush|poplar|cypress|beech|"
        r"maple|peach",
        r"box",
    ),
    "sofa": (r"sofa|couch", r""),
    "table": (r"\btable\b|\bdesk\b", r"fan|tennis|football|pool|lamp|bedside|changing|dressing"),
    "vessel": (
        r"bottle|\bglass\b|\bcup\b|mug\b|vase\b|\bpot\b|\bjar\b|creamer|flacon|pottery",
        r"door|plate|holder|lamp|table|utensils|cake",
    ),
    "window": (r"window\b", r"blind|shutter"),
}  # fmt: skip
CLASSES = tuple(RULES)


@dataclass(frozen=True)
class Model:
    """One entry of a catalogue: library, name, category, path in it, size in cm (width, depth, height), rotation (9)."""

    library: str
    name: str
    category: str
    path: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...]

    @property
    def kind(self) -> str:
        """The class that the rules give it, or ""."""
        return class_of(self.name)


def class_of(name: str) -> str:
    """The class of a model by its name, or "" if no rule names it."""
    low = name.lower()
    for kind, (wanted, unwanted) in RULES.items():
        if re.search(wanted, low) and not (unwanted and re.search(unwanted, low)):
            return kind
    return ""


def catalogue(folder: Path) -> list[Model]:
    """Every model of the libraries in a folder, in the order of files and entries. Raises InputError for damaged ones."""
    found = []
    for path in sorted(folder.glob("*.sh3f")):
        try:
            with zipfile.ZipFile(path) as library:
                text = library.read("PluginFurnitureCatalog.properties").decode("latin-1")
        except (zipfile.BadZipFile, KeyError) as error:
            raise InputError("furniture", f"{path.name}, which is damaged ({error})", "a library of Sweet Home 3D") from error
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
        entries: dict[int, dict[str, str]] = {}
        for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.M):
            entries.setdefault(int(number), {})[key] = value.strip()
        for _, one in sorted(entries.items()):
            width, depth, height = (float(one[key]) for key in ("width", "depth", "height"))
            rotation = tuple(float(part) for part in one.get("modelRotation", "1 0 0 0 1 0 0 0 1").split())
            place = one["model"].lstrip("/")
            found.append(Model(path.name, one["name"], one["category"], place, (width, depth, height), rotation))
    return found


def model_mesh(folder: Path, model: Model) -> Any:
    """The trimesh of a model, z up, in metres, in the size that the catalogue gives, standing on z = 0, centred in x and y."""
    with zipfile.ZipFile(folder / model.library) as library:
        mesh = read_mesh(io.BytesIO(library.read(model.path)), "obj")
    turned = np.asarray(mesh.vertices) @ np.array(model.rotation).reshape(3, 3).T
    points = upright(torch.from_numpy(turned)).numpy()
    low, high = points.min(0), points.max(0)
    scale = np.array(model.size) / 100 / np.maximum(high - low, 1e-9)
    points = (points - (low + high) / 2) * scale
    points[:, 2] -= points[:, 2].min()
    mesh.vertices = points
    return mesh


class Shapes:
    """All sampled models of the twelve classes: points (M, 1024, 3) in metres, labels (M,), families (M,), names."""

    def __init__(self, tensors: Mapping[str, Tensor], models: tuple[Model, ...], sha256: str) -> None:
        self.points, self.labels, self.families = tensors["points"], tensors["labels"], tensors["families"]
        self.models, self.sha256 = models, sha256

    def split(self, split: Split, unit: int) -> Tensor:
        """Positions of the models in one split of a unit: families are dealt out by `unit`, class by class."""
        if split not in SHARES:
            raise InputError("split", split, "train, validation or test")
        check_integer("unit", unit, low=-1)
        rng = numpy_generator(unit, "furniture")
        parts: dict[str, list[int]] = {name: [] for name in SHARES}
        for c in range(len(CLASSES)):
            own = np.unique(self.families[self.labels == c].numpy())
            order = rng.permutation(own)
            test = max(1, round(SHARES["test"] * len(own)))
            validation = max(1, round(SHARES["validation"] * len(own)))
            cut = np.split(order, [test, test + validation])
            for name, families in zip(("test", "validation", "train"), cut, strict=True):
                parts[name] += families.tolist()
        return torch.isin(self.families, torch.tensor(parts[split])).nonzero().squeeze(1)


def shapes(cache: Cache | None = None, progress: Progress = QUIET) -> Shapes:
    """The sampled models; made once (about a minute), then from the cache.

    Raises MissingError, with the command that gets them, if the libraries are not at hand.
    """
    return _shapes(cache or Cache(default_cache_dir()), progress, os.environ.get("TUTELAGE_DATA", ""))


@lru_cache(maxsize=2)
def _shapes(cache: Cache, progress: Progress, root: str) -> Shapes:
    folder = verified_folder("furniture")
    sha256 = sha256_text("".join(file.sha256 for file in HOMES["furniture"].files))
    models = tuple(model for model in catalogue(folder) if model.kind)

    def build(place: Path) -> None:
        clouds, labels, kept = [], [], []
        with progress.task("sampling furniture", len(models)) as task:
            for model in models:
                task.advance(1, model.name)
                try:
                    mesh = model_mesh(folder, model)
                except InputError:
                    continue  # a model without a surface
                clouds.append(sample_mesh(mesh, SAMPLED, derive(0, model.library, model.path)))
                labels.append(CLASSES.index(model.kind))
                kept.append([model.library, model.path])
        points, label = torch.stack(clouds), torch.tensor(labels)
        save_file({"points": points, "labels": label, "families": families(points, label)}, place / "clouds.safetensors")
        write_atomic(place / "models.json", canonical_json({"models": kept}))

    key = {"furniture": sha256, "rules": {k: list(v) for k, v in RULES.items()}, "points": SAMPLED, "same": SAME, "version": 1}
    place = cache.get("furniture", key, build)
    there = {(library, path) for library, path in json.loads((place / "models.json").read_text())["models"]}
    kept = tuple(model for model in models if (model.library, model.path) in there)
    return Shapes(load_file(place / "clouds.safetensors"), kept, sha256)


def families(points: Tensor, labels: Tensor) -> Tensor:
    """(M,) int64: clouds (M, N, 3) of one class that are the same shape, stretched to the unit cube, have the same number.

    Two are the same if the mean distance from a point of one to the nearest of the other, both ways, is below SAME.
    """
    from scipy.spatial import cKDTree

    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    cubes = ((points - low) / (high - low).clamp(min=1e-6)).double().numpy()
    trees = [cKDTree(cube) for cube in cubes]
    family = np.arange(len(points))
    for c in sorted(set(labels.tolist())):
        own = (labels == c).nonzero().squeeze(1).tolist()
        for i, a in enumerate(own):
            for b in own[i + 1 :]:
                if family[a] == family[b]:
                    continue
                rough = trees[a].query(cubes[b][:64])[0].mean()
                if rough > 2 * SAME:
                    continue
                if (trees[a].query(cubes[b])[0].mean() + trees[b].query(cubes[a])[0].mean()) / 2 < SAME:
                    family[family == family[b]] = family[a]
    return torch.from_numpy(family)


def furniture(
    split: Split, *, unit: int = 0, views: int = 1, cache: Cache | None = None, progress: Progress = QUIET
) -> PointSet:
    """Clouds of one split, 1024 points each, in the unit sphere: shapes are split by family, dealt anew for each `unit`.

    views: how often each shape is there; each view is turned about the vertical axis by an angle of its own and thinned by
    whoever trains. groups: the family. Raises MissingError, InputError.
    """
    check_integer("views", views)
    found = shapes(cache, progress)
    index = found.split(split, unit).repeat_interleave(views)
    points = random_turn(normalised(found.points[index]), generator(unit, "views", split))
    return PointSet(
        points, found.labels[index], CLASSES, groups=found.families[index], name="furniture (Sweet Home 3D)", split=split,
        origin={"files_sha256": found.sha256, "shapes": str(len(index) // views), "views": str(views)},
    )  # fmt: skip
