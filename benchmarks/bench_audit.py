"""An audit's start-up, and its total against the bare passes that it makes.

Start-up is from the start of the process of `tutelage audit` to the first attack's first gradient: imports, the factory, the
weights, the data, the sanity check and the clean accuracy; against a process that only imports torch. The whole command, with
report and pictures, is timed as well.

The bare side of the total replays the audit's own forward and backward passes, with the same batch sizes in the same order, and
does nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Outcome, race, report, settings
from torch import nn
from torch.optim import SGD

from tutelage.auditing import audit
from tutelage.core.rng import generator, seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.models.guard import evaluating
from tutelage.models.loading import save_weights
from tutelage.teaching import CrossEntropy, fit

NET = """
from tutelage.models.cnn import SmallCNN


def build():
    return SmallCNN(16)
"""
# `tutelage audit` that stops at the first gradient of an attack, and says so by its exit code
FIRST_GRADIENT = """
import os
from tutelage.app.cli import run
from tutelage.threats.engine import PGD


def stop(*_):
    os._exit(7)


PGD._gradient = stop
run(ARGUMENTS)
"""


def trained(images: int) -> nn.Module:
    """Above chance, as an audit wants it."""
    with seeded(0):
        net = SmallCNN(16)
    data = fashion_mnist_subset("train").take(slice(0, images))
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    fit(net, CrossEntropy(), data.loader(64, generator=generator(0)), epochs=2, optimizer=optimizer)
    return net


def passes_of(net: nn.Module, work: Callable[[], object]) -> list[tuple[int, bool]]:
    """(batch size, with a gradient) of each pass that `work()` makes through `net`, in their order."""
    found: list[tuple[int, bool]] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: found.append((len(inputs[0]), inputs[0].requires_grad)))
    try:
        work()
    finally:
        hook.remove()
    return found


def replay(net: nn.Module, passes: list[tuple[int, bool]], x: torch.Tensor, y: torch.Tensor) -> None:
    with evaluating(net):
        for size, with_gradient in passes:
            if with_gradient:
                leaf = x[:size].clone().requires_grad_()
                loss = nn.functional.cross_entropy(net(leaf), y[:size], reduction="sum")
                torch.autograd.grad(loss, leaf)
            else:
                with torch.no_grad():
                    net(x[:size])


def race_of_starts(folder: Path, net: nn.Module, n: int, rounds: int) -> list[dict[str, float]]:
    test = fashion_mnist_subset("test")
    np.savez(folder / "test.npz", image=test.images[:, 0].numpy(), label=test.labels.numpy())
    (folder / "bench_net.py").write_text(NET)
    save_weights(net, folder / "net.safetensors")
    arguments = ["audit", "bench_net.py:build", "--weights", "net.safetensors", "--data", "test.npz", "--threats", "linf@0.1"]
    arguments += ["--n", str(n)]

    def process(command: list[str], wanted: int) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != wanted:
            raise SystemExit(f"{command[:3]} ended with {done.returncode}: {done.stderr}")

    outputs = iter(range(10_000))  # a finished audit is not gone on with: each gets a folder of its own

    def out() -> list[str]:
        return ["--out", f"audit-{next(outputs)}"]

    first = FIRST_GRADIENT
    return race(
        {
            "first gradient": lambda: process(
                [sys.executable, "-c", first.replace("ARGUMENTS", repr([*arguments, *out()]))], wanted=7
            ),
            "whole": lambda: process([str(Path(sys.executable).with_name("tutelage")), *arguments, *out()], wanted=0),
            "torch": lambda: process([sys.executable, "-c", "import torch"], wanted=0),
        },
        rounds,
    )


def main() -> None:
    how = settings(__doc__)
    n_start, n = (32, 48) if how.quick else (64, 1000)
    net = trained(512 if how.quick else 5000)
    with tempfile.TemporaryDirectory() as folder:
        rounds = race_of_starts(Path(folder), net, n_start, how.rounds)
    for side, name in (("first gradient", "to the first gradient"), ("whole", "whole command")):
        pairs = [[r[side], r["torch"]] for r in rounds]
        report(Outcome(f"tutelage audit --n {n_start}, {name}", "audit", "`tutelage audit`", "`import torch`", pairs), how)

    test = fashion_mnist_subset("test").split_off(n, split="test")[1]
    x, y = test[list(range(len(test)))]

    def ours() -> None:
        audit(net, test, threats=["linf@0.1"], curve=False)

    passes = passes_of(net, ours)
    rounds = race({"ours": ours, "bare": lambda: replay(net, passes, x, y)}, how.rounds)
    outcome = Outcome(
        f"audit(), SmallCNN(16), {n} images, linf@0.1",
        "audit",
        "audit, standard suite, without the curve",
        "its bare passes",
        [[r["ours"], r["bare"]] for r in rounds],
        notes={
            "passes": len(passes),
            "with a gradient": sum(gradient for _, gradient in passes),
            "samples passed": sum(size for size, _ in passes),
        },
    )
    report(outcome, how)


if __name__ == "__main__":
    main()
