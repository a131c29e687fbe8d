"""A step of test-time adaptation against the passes that it makes.

TENT makes one forward and one backward pass, the mean teacher and RMT three forward passes (the student on the batch and on its
augmentation, the teacher on the batch) and one backward pass through the student's two. The bare side makes these passes with
the same parameters learning, and nothing else: no checks, augmentation, losses, optimiser or moving average. RMT's contrastive
loss and its projector are part of its step. Each side is told against two forward passes and one backward pass, too, which is
what a mean teacher without augmentation would make.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import Outcome, race, report, settings
from torch import Tensor, nn

from tutelage.core.memory import keep_memory
from tutelage.core.rng import seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.methods.adapt.rmt import RMT
from tutelage.models.batchnorm import BatchStatistics
from tutelage.models.cnn import SmallCNN
from tutelage.models.copying import copied
from tutelage.models.resnet import resnet
from tutelage.teaching.test_time.baselines import Tent
from tutelage.teaching.test_time.mean_teacher import MeanTeacher


def bare(net: nn.Module, x: Tensor, *, student: int, teacher: int, norms_only: bool = False) -> Callable[[], None]:
    """`student` forward passes that gradients go back through, `teacher` ones without, and the backward pass."""
    model = copied(net).requires_grad_(not norms_only)
    BatchStatistics().apply(model)
    if norms_only:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_()

    def run() -> None:
        model.zero_grad(set_to_none=True)
        logits = [model(x) for _ in range(student)]
        with torch.no_grad():
            for _ in range(teacher):
                model(x)
        torch.stack([z.logsumexp(1).mean() for z in logits]).sum().backward()

    return run


def main() -> None:
    how = settings(__doc__)
    keep_memory()
    train = fashion_mnist_subset("train")
    source = train.take(slice(0, 100 if how.quick else 2000))
    batch = 8 if how.quick else 128
    x, _ = train[list(range(len(train) - batch, len(train)))]
    with seeded(0):
        nets = {"SmallCNN(32)": (SmallCNN(32), 10), "ResNet-20": (resnet(20, channels=1), 1)}
    for name, (net, steps) in nets.items():
        adapters = {
            "TENT": (Tent(net), bare(net, x, student=1, teacher=0, norms_only=True)),
            "mean teacher": (MeanTeacher(net), bare(net, x, student=2, teacher=1)),
            "RMT": (RMT(net, source=source, lam=(1, 1, 0)), bare(net, x, student=2, teacher=1)),
        }

        def turn(one: Callable[[], object], steps: int = 1 if how.quick else steps) -> Callable[[], None]:
            def run() -> None:
                for _ in range(steps):
                    one()

            return run

        sides = {"two and one": turn(bare(net, x, student=1, teacher=1))}
        for method, (adapter, passes) in adapters.items():
            sides |= {method: turn(lambda adapter=adapter: adapter.adapt(x)), f"{method}, bare": turn(passes)}
        found = race(sides, how.rounds)
        for method in adapters:
            literal = Outcome("", "adapt", "", "", [[r[method], r["two and one"]] for r in found])
            report(
                Outcome(
                    f"{method} step, {name}, batch {batch}",
                    "adapt",
                    f"a step of {method}",
                    "its forward passes and its backward pass",
                    [[r[method], r[f"{method}, bare"]] for r in found],
                    wanted="<= 1.15",
                    notes={"ratio to two forward passes and one backward pass": round(literal.ratio, 3), "steps a turn": steps},
                ),
                how,
            )


if __name__ == "__main__":
    main()
