"""Pictures of a distillation: rows of made images, and the distance over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from tutelage.auditing.figures import MARKERS, SERIES, new_figure
from tutelage.core.errors import InputError


def image_rows(rows: Mapping[str, Tensor], columns: Sequence[str] = (), *, width: float = 7.0) -> Figure:
    """A row of images (N, C, H, W) in [0, 1] for each name; the same N in all. columns: what stands above each image."""
    counts = {len(images) for images in rows.values()}
    if len(counts) != 1 or 0 in counts:
        raise InputError("rows", {name: len(images) for name, images in rows.items()}, "as many images in every row")
    n = counts.pop()
    if columns and len(columns) != n:
        raise InputError("columns", f"{len(columns)} names", f"{n}, one for each image of a row")
    titles = [title.replace(" ", "\n") for title in columns]
    left, gap = 1.9, 0.06
    head = 0.1 + 0.13 * max((1 + title.count("\n") for title in titles), default=0)
    side = (width - left) / n
    height = (side + gap) * len(rows) + head
    figure = Figure(figsize=(width, height))
    for i, (name, images) in enumerate(rows.items()):
        top = height - head - i * (side + gap)
        for j, image in enumerate(images):
            where = ((left + j * side) / width, (top - side) / height, 0.94 * side / width, 0.94 * side / height)
            axes = figure.add_axes(where)
            pixels = image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()
            axes.imshow(
                pixels if pixels.shape[2] == 3 else pixels[..., 0], interpolation="nearest", vmin=0, vmax=1, cmap="gray"
            )
            axes.set_axis_off()
            if titles and i == 0:
                axes.set_title(titles[j], fontsize=7.5, pad=3)
        figure.text((left - 0.1) / width, (top - side / 2) / height, name, ha="right", va="center", fontsize=9)
    return figure


def stability_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], what: str = "Fréchet distance") -> Figure:
    """The distance over training steps: a panel for each backbone, a line for each way of guidance (at most six)."""
    if not curves or any(not lines or len(lines) > len(SERIES) for lines in curves.values()):
        raise InputError("curves", {name: len(lines) for name, lines in curves.items()}, f"1 to {len(SERIES)} curves a panel")
    figure, panels = new_figure(2.1 * len(curves) + 0.6, (1.0,) * len(curves))
    for axes, (panel, lines) in zip(panels, curves.items(), strict=True):
        for i, (name, points) in enumerate(lines.items()):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=SERIES[i], marker=MARKERS[i], markersize=3.5, linewidth=1.4, label=name)
        axes.set_yscale("log")
        axes.set_ylabel(f"{what}\n{panel}", fontsize=9)
    panels[-1].set_xlabel("steps")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
