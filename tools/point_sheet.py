"""The pictures of docs/systems/intact.md: corrupted clouds, and clouds coloured by saliency. Needs furniture (data get)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from tutelage.core.rng import generator, seeded
from tutelage.data.points.cloud import PointSet, normalised, turned
from tutelage.data.points.furniture import CLASSES, furniture, shapes
from tutelage.methods.harden.intact import Plain, intact_train, meta_teacher, saliency_map
from tutelage.models.guard import evaluating
from tutelage.models.points import PointNet
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.points import NAMES, PointCorruption

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SHOWN = ("chair", "lamp", "plant")
SEVERITY = {"jitter": 0.5, "range_noise": 0.4, "outliers": 0.4, "tilt": 0.35, "scale": 0.8}


def draw(figure: Figure, place: tuple[int, int, int], x: Tensor, mask: Tensor, colour: Any, title: str) -> None:
    axes = figure.add_subplot(*place, projection="3d")
    x = x[mask]
    axes.scatter(x[:, 0], x[:, 1], x[:, 2], c=colour, cmap="viridis", s=3, linewidths=0)
    axes.set_xlim(-0.8, 0.8)
    axes.set_ylim(-0.8, 0.8)
    axes.set_zlim(-0.8, 0.8)
    axes.set_box_aspect((1, 1, 1), zoom=1.5)
    axes.view_init(elev=15, azim=-60)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, y=0.92)


def save(figure: Figure, name: str) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(IMAGES / name, dpi=80)
    with Image.open(IMAGES / name) as picture:  # 64 colours are enough, and a quarter of the bytes
        small = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(IMAGES / name, optimize=True)


def corruptions_sheet() -> None:
    found = shapes()
    figure = Figure(figsize=(13, 4.2))
    for row, kind in enumerate(("chair", "car")):
        at = int((found.labels == CLASSES.index(kind)).nonzero()[3])
        x = turned(normalised(found.points[at : at + 1]), torch.tensor([2.2]))
        for column, name in enumerate(("clean", *NAMES)):
            severity = 0.0 if name == "clean" else SEVERITY.get(name, 0.5)
            points, mask = PointCorruption("jitter" if name == "clean" else name)(x, severity, seeds=[7])
            draw(figure, (2, 11, 11 * row + column + 1), points[0], mask[0], points[0][mask[0]][:, 2], name)
    figure.subplots_adjust(0, 0, 1, 0.97, 0, 0)
    save(figure, "point-corruptions.png")


def saliency_sheet() -> None:
    """A plainly trained and a meta-trained teacher on the same validation clouds, clean and jittered."""
    train, val = furniture("train", unit=100), furniture("validation", unit=100)
    noise = {PointCorruption("jitter"): (0.0, 0.2, 0.8), PointCorruption("drop"): (0.5,), PointCorruption("outliers"): (0.2,)}
    nets = {}
    for name in ("trained on clean clouds", "meta-trained on corruptions"):
        with seeded(0, "sheet"):
            nets[name] = PointNet(len(CLASSES), (32, 64, 192), head=64)
        if name.startswith("meta"):
            meta_teacher(nets[name], train, noise, steps=60, classes=8, n_points=128, lr=3e-3)
        else:
            intact_train(
                nets[name], None, train, objective=Plain(), n_points=128, epochs=30, batch_size=16, lr=3e-3,
                schedule=warmup_cosine(0.05),
            )  # fmt: skip
    rows = [int((val.labels == CLASSES.index(kind)).nonzero()[0]) for kind in SHOWN]
    part: PointSet = val.take(rows)
    points, mask, labels = part[slice(0, len(part))]
    noisy, left = PointCorruption("jitter")(points, 0.4, generator(0, "sheet"), mask=mask)
    figure = Figure(figsize=(12, 4.6))
    for row, (name, net) in enumerate(nets.items()):
        for half, (x, m) in enumerate(((points, mask), (noisy, left))):
            with evaluating(net):
                p = saliency_map(net, x, labels, m, n_aug=4, generator=generator(0, "copies")).p
            for i, kind in enumerate(SHOWN):
                rank = p[i].argsort().argsort().double() / p.shape[1]
                title = f"{kind}{', noisy' if half else ''}" + (f"\n{name}" if i == half == 0 else "")
                draw(figure, (2, 6, 6 * row + 3 * half + i + 1), x[i], m[i], rank[m[i]], title)
    figure.subplots_adjust(0, 0, 1, 0.95, 0, 0)
    save(figure, "intact-saliency.png")


if __name__ == "__main__":
    corruptions_sheet()
    saliency_sheet()
