"""One pass of interval bounds against a plain forward pass of the same net on the same batch.

The pass is what a step of IBP training adds: the boxes of all layers, then the margins of the labels, without outward
rounding; boxes that nothing needs any more are given up, as a forward pass does with its maps. What outward rounding adds is
told too. A box is two numbers where a forward pass has one, so 2 is the least. A turn is several passes, as one takes
milliseconds. Each race is run twice: with the memory allocator as it comes, and with one that keeps its memory
(`core.memory.keep_memory`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import Outcome, race, report, settings

from tutelage.core.memory import keep_memory
from tutelage.core.rng import seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.guarantees.bounds import Box, data_box, margin_box, propagate
from tutelage.guarantees.layers import layers_of
from tutelage.models.cnn import SmallCNN
from tutelage.models.resnet import resnet


def main() -> None:
    how = settings(__doc__)
    images, labels = fashion_mnist_subset("train")[list(range(128))]
    batch = 8 if how.quick else 128
    x, y = images[:batch], labels[:batch]
    with seeded(0):
        nets = {"SmallCNN(32)": (SmallCNN(32).eval(), 20), "ResNet-20": (resnet(20, channels=1).eval(), 2)}
    for allocator in ("default", "keeps its memory"):
        if allocator != "default" and not keep_memory():
            print("this allocator cannot be told to keep its memory: races with one that does are left out")
            break
        for name, (net, passes) in nets.items():
            graph, ends = layers_of(net, x), data_box(x, 0.1)

            def bounds(outward: bool, graph=graph, ends=ends) -> None:  # type: ignore[no-untyped-def]
                boxes = propagate(graph, Box.between(*ends, outward), outward=outward, keep=False)
                margin_box(graph, boxes, y, outward=outward)

            def turn(one: Callable[[], object], passes: int = 1 if how.quick else passes) -> Callable[[], None]:
                def run() -> None:
                    for _ in range(passes):
                        one()

                return run

            with torch.no_grad():
                found = race(
                    {
                        "bounds": turn(lambda bounds=bounds: bounds(False)),
                        "outward": turn(lambda bounds=bounds: bounds(True)),
                        "forward": turn(lambda net=net: net(x)),
                    },
                    how.rounds,
                )
            careful = Outcome("", "bounds", "", "", [[r["outward"], r["forward"]] for r in found])
            outcome = Outcome(
                f"IBP, {name}, batch {batch}" + (", memory kept" if allocator != "default" else ""),
                "bounds",
                "boxes of all layers and margins",
                "a forward pass",
                [[r["bounds"], r["forward"]] for r in found],
                wanted="<= 2.5",
                notes={
                    "ratio with outward rounding": round(careful.ratio, 3),
                    "passes a turn": passes,
                    "allocator": allocator,
                },
            )
            report(outcome, how)


if __name__ == "__main__":
    main()
