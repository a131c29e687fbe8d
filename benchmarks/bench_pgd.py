"""PGD-20 without retirement against the bare passes that it needs.

The bare side makes the same 20 gradients and 2 forward passes (is the sample right at the start, is it wrong at the end) and
nothing else: no checks, no noise, no projection, no bookkeeping, no verification. What the 2 forward passes weigh is told too.
Each race is run twice: with the memory allocator as it comes, and with one that keeps its memory (`core.memory.keep_memory`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from common import Outcome, Settings, race, report, settings
from torch import Tensor, nn

from tutelage.core.memory import keep_memory
from tutelage.core.rng import generator, seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.models.guard import evaluating
from tutelage.models.resnet import resnet
from tutelage.threats import APGD, PGD, Linf

STEPS = 20


def gradients(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    with evaluating(net):
        for _ in range(steps):
            leaf = x.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(net(leaf), y, reduction="sum")
            torch.autograd.grad(loss, leaf)


def passes(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    gradients(net, x, y, steps)
    with evaluating(net), torch.no_grad():
        net(x)
        net(x)


def race_with_passes(
    attack: PGD | APGD, said: str, name: str, net: nn.Module, x: Tensor, y: Tensor, how: Settings, *, memory_kept: bool
) -> None:
    """One race of an attack, made without retirement, with as many gradients as it has steps and 2 forward passes."""
    rounds = race(
        {
            "ours": lambda: attack.run(net, x, y, generator(0)),
            "passes": lambda: passes(net, x, y, attack.steps),
            "gradients": lambda: gradients(net, x, y, attack.steps),
        },
        how.rounds,
    )
    alone = Outcome("", "pgd", "", "", [[r["ours"], r["gradients"]] for r in rounds])
    outcome = Outcome(
        f"{name}, batch {len(x)}" + (", memory kept" if memory_kept else ""),
        "pgd",
        f"{said}, retire=False",
        f"its {attack.steps} gradients and 2 forward passes",
        [[r["ours"], r["passes"]] for r in rounds],
        wanted="<= 1.05",
        notes={
            f"ratio to the {attack.steps} gradients alone": round(alone.ratio, 3),
            "allocator": "keeps its memory" if memory_kept else "default",
        },
    )
    report(outcome, how)


def allocators() -> Iterator[bool]:
    """Once as the memory allocator comes (False), then, where it can be told to, keeping its memory (True)."""
    yield False
    if keep_memory():
        yield True
    else:
        print("this allocator cannot be told to keep its memory: races with one that does are left out")


def main() -> None:
    how = settings(__doc__)
    steps = 2 if how.quick else STEPS
    images, labels = fashion_mnist_subset("train")[list(range(256))]
    with seeded(0):
        nets = {"SmallCNN(32)": (SmallCNN(32), (128, 256)), "ResNet-20": (resnet(20, channels=1), (128,))}
    attack = PGD(Linf(0.1), steps=steps, retire=False)
    for memory_kept in allocators():
        for net_name, (net, batches) in nets.items():
            for batch in (8,) if how.quick else batches:
                x, y = images[:batch], labels[:batch]
                name = f"PGD-{steps}, {net_name}"
                race_with_passes(attack, f"PGD-{steps} Linf", name, net, x, y, how, memory_kept=memory_kept)


if __name__ == "__main__":
    main()
