"""Pictures of a curriculum: the task space over time, and strips of frames of a trained agent."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from tutelage.auditing.figures import GRID, MUTED
from tutelage.core.checks import check_callable, check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder
from tutelage.data.worlds.task_space import Floats
from tutelage.teaching.curricula.run import History

Frames = list[NDArray[np.uint8]]


def task_space_figure(
    history: History,
    *,
    windows: int = 4,
    axes: tuple[int, int] = (0, 1),
    learnable: Callable[[Floats], bool] | None = None,
) -> Figure:
    """Where the tasks lay, in `windows` equal parts of the episodes, each task coloured by its return.

    axes: the two parameters that are drawn (a space of one is drawn against the return). learnable: says of a task whether
    it can be learnt; where it cannot, the ground is grey (the other parameters in the middle of their range).
    Raises InputError for a history of fewer episodes than windows, or axes that the space does not have.
    """
    check_integer("windows", windows)
    if len(history) < windows:
        raise InputError("history", f"{len(history)} episodes", f"at least {windows}, one for each window")
    space, tasks, returns = history.space, history.tasks, history.returns
    if len(axes) != 2 or not all(0 <= axis < max(2, space.dims) for axis in axes):
        raise InputError("axes", axes, f"two of the {space.dims} parameters, from 0")
    x, y = axes
    figure = Figure(figsize=(2.5 * windows + 0.9, 2.9), layout="constrained")
    panels = figure.subplots(1, windows, sharex=True, sharey=True, squeeze=False)[0]
    range_of_returns = (float(returns.min()), float(max(returns.max(), returns.min() + 1e-9)))
    edges = np.linspace(0, len(history), windows + 1).astype(int)
    ground = _ground(history, axes, learnable) if learnable is not None and space.dims > 1 else None
    for panel, start, end in zip(panels, edges[:-1], edges[1:], strict=True):
        if ground is not None:
            extent = (space.low[x], space.high[x], space.low[y], space.high[y])
            panel.imshow(
                ground.T, extent=extent, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=4, interpolation="nearest"
            )
        heights = tasks[start:end, y] if space.dims > 1 else returns[start:end]
        points = panel.scatter(
            tasks[start:end, x], heights, c=returns[start:end], s=5, alpha=0.7, linewidths=0, cmap="viridis",
            vmin=range_of_returns[0], vmax=range_of_returns[1], rasterized=True,
        )  # fmt: skip
        panel.set_title(f"episodes {start + 1} to {end}", fontsize=9, color=MUTED)
        panel.set_xlim(space.low[x], space.high[x])
        if space.dims > 1:
            panel.set_ylim(space.low[y], space.high[y])
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GRID)
        panel.tick_params(color=GRID, labelsize=8)
    panels[0].set_ylabel(space.names[y] if space.dims > 1 else "return", fontsize=9)
    figure.supxlabel(space.names[x], fontsize=9)
    bar = figure.colorbar(points, ax=list(panels), fraction=0.03, pad=0.01)
    bar.set_label("return", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if bar.solids is not None:
        bar.solids.set_alpha(1.0)
    return figure


def _ground(history: History, axes: tuple[int, int], learnable: Callable[[Floats], bool], n: int = 60) -> Floats:
    """1 where a task cannot be learnt, else 0; (n, n) over the two axes."""
    middle = np.full(history.space.dims, 0.5)
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            where = middle.copy()
            where[list(axes)] = (i + 0.5) / n, (j + 0.5) / n
            found[i, j] = float(not learnable(history.space.from_unit(where)))
    return found


def episode_frames(
    env: Any, act: Callable[[Any], Any], task: ArrayLike, *, frames: int = 8, seed: int = 0
) -> tuple[Frames, float]:
    """Play one episode on `task` and keep about evenly spaced frames. -> (frames, each (H, W, 3) uint8; the return).

    env: a Gymnasium environment with tasks, made with render_mode="rgb_array". act: observation -> action. The first frame
    is the start, the last one the end. Raises InputError for an environment that does not render arrays.
    """
    check_integer("frames", frames, low=2)
    check_callable("act", act, "a function from an observation to an action, such as student.predict")
    if getattr(env, "render_mode", None) != "rgb_array":
        raise InputError("env", f"render_mode {getattr(env, 'render_mode', None)}", 'one made with render_mode="rgb_array"')
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame opens a display even to draw into an array
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    env.unwrapped.set_task(task)
    state, _ = env.reset(seed=seed)
    kept, every, steps, total, over = [_frame(env)], 1, 0, 0.0, False
    while not over:
        state, reward, ended, late, _ = env.step(act(state))
        steps, total, over = steps + 1, total + float(reward), ended or late
        if over or steps % every == 0:
            kept.append(_frame(env))
        if len(kept) >= 8 * frames and not over:  # a long episode: every second frame is enough
            kept, every = kept[::2], 2 * every
    chosen = np.linspace(0, len(kept) - 1, min(frames, len(kept))).round().astype(int)
    return [kept[i] for i in chosen], total


def _frame(env: Any) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame's own, of packages it is made with
        return np.array(env.render(), dtype=np.uint8)


def frame_strip(frames: Frames, path: Path | str | None = None, *, width: int = 200, gap: int = 4) -> NDArray[np.uint8]:
    """Frames side by side, each scaled to `width` pixels, `gap` white pixels between. -> (H, W, 3) uint8; a PNG at `path`."""
    if not frames or any(one.ndim != 3 or one.shape != frames[0].shape or one.shape[2] != 3 for one in frames):
        raise InputError("frames", [one.shape for one in frames], "at least one, all of the same shape (H, W, 3)")
    check_integer("width", width)
    check_integer("gap", gap, low=0)
    height = max(1, round(frames[0].shape[0] * width / frames[0].shape[1]))
    strip = np.full((height, len(frames) * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, one in enumerate(frames):
        small = Image.fromarray(one).resize((width, height), Image.Resampling.BOX)
        strip[:, i * (width + gap) : i * (width + gap) + width] = np.asarray(small)
    if path is not None:
        check_folder(Path(path).parent, "path")
        Image.fromarray(strip).save(path)
    return strip
