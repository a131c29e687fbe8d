"""The training loop `fit` against a bare PyTorch loop with the same batches, net and optimiser."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import SGD

from tutelage.core.rng import generator, seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.teaching import CrossEntropy, fit

ROUNDS = 7


def net() -> nn.Module:
    with seeded(0):
        return SmallCNN(16)


def bare() -> None:
    model, data = net(), fashion_mnist_subset("train")
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in data.loader(128, generator=generator(0)):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ours() -> None:
    model, data = net(), fashion_mnist_subset("train")
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    fit(model, CrossEntropy(), data.loader(128, generator=generator(0)), epochs=1, optimizer=optimizer)


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    bare(), ours()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(ROUNDS)]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"fit, SmallCNN(16), one epoch of 79 batches, {torch.get_num_threads()} thread(s): ratio to a bare loop {ratio:.3f}")


if __name__ == "__main__":
    main()
