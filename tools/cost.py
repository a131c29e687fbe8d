"""How cost grows with examples, models, claims and workers: measured, drawn, and written into docs/scale-out.md.

    python tools/cost.py [--parts examples models claims workers]      # minutes on a free machine
    python tools/cost.py --page                                        # only the page and the picture, from docs/cost.json

Seconds are of the processor (user and system, of all processes that took part): they do not depend on what else the machine
does. Of workers the seconds that pass are measured too; they mean something on a free machine only, so the load before each
part is written down.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tutelage
from tutelage.core.environment import environment, git_state
from tutelage.teaching import CrossEntropy

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURES, PICTURE = DOCS / "scale-out.md", DOCS / "cost.json", DOCS / "images" / "cost.svg"
Point = dict[str, float]


def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(2 * width * 36, 10),
    )  # fmt: skip


def trained(width: int) -> nn.Module:
    """One that is right often enough for attacks to have work."""
    model, data = net(width), tutelage.fashion_mnist_subset("train").take(slice(0, 1024))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tutelage.fit(model, CrossEntropy(), data.loader(64), epochs=2, optimizer=optimizer)
    return model


def audited(model: nn.Module, n: int) -> None:
    data = tutelage.fashion_mnist_subset("test").take(slice(0, n))
    tutelage.audit(model, data, threats=["apgd-50:linf@0.01"], curve=False, force=True)


def cpu() -> float:
    """Seconds of the processor so far, of this process and of the children that have ended."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds of the processor, seconds that passed)."""
    before, begin = cpu(), time.monotonic()
    work()
    return cpu() - before, time.monotonic() - begin


def examples() -> Iterator[Point]:
    model = trained(16)
    audited(model, 64)  # the first one imports
    for n in (64, 128, 256, 512, 1024):
        yield {"x": n, "cpu": timed(lambda n=n: audited(model, n))[0]}


def models() -> Iterator[Point]:
    audited(trained(8), 64)
    for width in (8, 16, 32, 64):
        model = trained(width)
        parameters = sum(p.numel() for p in model.parameters())
        yield {"x": parameters, "cpu": timed(lambda model=model: audited(model, 256))[0]}


def run(units: int, *more: str) -> tuple[float, float]:
    """A command of its own with an empty cache: the smoke claim of mtard on so many units."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "mtard", "--seeds", str(units), "--out", f"{folder}/out", *more]
        environ = {**os.environ, "TUTELAGE_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from tutelage.app.cli import main; main()", *words]
        return timed(lambda: subprocess.run(command, env=environ, check=True, capture_output=True))


def claims() -> Iterator[Point]:
    for units in (1, 2, 4):
        yield {"x": 12 * units, "cpu": run(units)[0]}


def workers() -> Iterator[Point]:
    for jobs in (1, 2, 4):
        used, passed = run(2, "--jobs", str(jobs))
        yield {"x": jobs, "cpu": used, "passed": passed}
    if find_spec("ray"):
        used, passed = run(2, "--jobs", "2", "--on", "ray")
        yield {"x": 2, "cpu": used, "passed": passed, "ray": 1}


PARTS: dict[str, tuple[Callable[[], Iterator[Point]], str, str]] = {
    "examples": (examples, "images of an audit", "APGD with 50 steps on a small CNN, no curve"),
    "models": (models, "parameters of the audited model", "the same attack on 256 images; a CNN of growing width"),
    "claims": (claims, "cells of a claim", "the smoke claim of mtard, 12 cells a unit, one process, with its imports"),
    "workers": (workers, "workers", "24 cells of the smoke claim of mtard, with all imports; the last row: on a private Ray"),
}


def table(found: dict[str, Any]) -> str:
    lines = ["| what grows | points | seconds of the processor | seconds that passed |", "| --- | --- | --- | --- |"]
    for name, one in found["parts"].items():
        points = one["points"]
        xs = " · ".join(f"{p['x']:,.0f}{' (Ray)' if p.get('ray') else ''}" for p in points)
        used = " · ".join(f"{p['cpu']:.1f}" for p in points)
        passed = " · ".join(f"{p['passed']:.0f}" for p in points if "passed" in p)
        lines.append(f"| {PARTS[name][1]} ({PARTS[name][2]}) | {xs} | {used} | {passed} |")
    loads = ", ".join(f"{one['load']:.1f}" for one in found["parts"].values())
    about = (
        f"{found['date']}, commit `{found['commit'][:10]}`, torch {found['torch']}, {found['machine']}; load before: {loads}."
    )
    return "\n".join([*lines, "", about])


def draw(found: dict[str, Any]) -> None:
    from tutelage.auditing.figures import MARKERS, SERIES, new_figure, save_svg

    figure, panels = new_figure(2.1 * len(found["parts"]), (1.0,) * len(found["parts"]))
    for panel, (name, one) in zip(panels, found["parts"].items(), strict=True):
        own = [p for p in one["points"] if not p.get("ray")]
        panel.plot(
            [p["x"] for p in own], [p["cpu"] for p in own], color=SERIES[0], marker=MARKERS[0], markersize=4, linewidth=1.2
        )  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.set_xticks([p["x"] for p in own], [f"{p['x']:,.0f}" if p["x"] < 2000 else f"{p['x'] / 1000:.0f}k" for p in own])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel(PARTS[name][1])
        panel.set_ylabel("seconds")
    save_svg(figure, PICTURE)


def write_page() -> None:
    found = json.loads(FIGURES.read_text())
    draw(found)
    content = table(found)
    page = re.sub(r"(<!-- cost -->).*?(<!-- /cost -->)", lambda m: f"{m[1]}\n{content}\n{m[2]}", PAGE.read_text(), flags=re.S)
    PAGE.write_text(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.page:
        torch.set_num_threads(1)
        commit, dirty = git_state()
        before = json.loads(FIGURES.read_text())["parts"] if FIGURES.exists() else {}
        for name in options.parts:
            load = os.getloadavg()[0]
            before[name] = {"load": round(load, 1), "points": []}
            for point in PARTS[name][0]():
                before[name]["points"].append({key: round(value, 3) for key, value in point.items()})
                print(name, point, flush=True)
        found = {
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit + ("+" if dirty else ""),
            "torch": torch.__version__,
            "machine": f"{environment()['platform']}, {os.cpu_count()} cores",
            "parts": {name: before[name] for name in PARTS if name in before},
        }
        FIGURES.write_text(json.dumps(found, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
