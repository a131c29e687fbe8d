"""PGD-20 without retirement against the bare forward and backward passes that it needs.

The bare loop has the 20 gradients and nothing else: no checks, no projection, no bookkeeping, no verification.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from tutelage.core.rng import generator, seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.models.guard import evaluating
from tutelage.models.resnet import resnet
from tutelage.threats import PGD, Linf

STEPS, ROUNDS = 20, 7


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    x, y = fashion_mnist_subset("train")[list(range(256))]
    attack = PGD(Linf(0.1), steps=STEPS, retire=False)
    with seeded(0):
        nets = {"SmallCNN(32)": SmallCNN(32), "ResNet-20": resnet(20, channels=1)}
    print(f"PGD-{STEPS}, batch {len(x)}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    for name, net in nets.items():

        def bare(net: torch.nn.Module = net) -> None:
            with evaluating(net):
                for _ in range(STEPS):
                    leaf = x.clone().requires_grad_()
                    loss = torch.nn.functional.cross_entropy(net(leaf), y, reduction="sum")
                    torch.autograd.grad(loss, leaf)

        def ours(net: torch.nn.Module = net) -> None:
            attack.run(net, x, y, generator(0))

        bare(), ours()
        pairs = [(seconds(bare), seconds(ours)) for _ in range(ROUNDS)]  # side by side: a slow moment hits both
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name}: bare {1000 * statistics.median(a for a, _ in pairs):.0f} ms, PGD ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
