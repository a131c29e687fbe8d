"""APGD-100 without retirement against the bare passes that it needs: its step sizes, momentum and checkpoints ought to be free.

As in bench_pgd.py: the bare side makes the same 100 gradients and 2 forward passes and nothing else. Batches of 128.
"""

from __future__ import annotations

from bench_pgd import allocators, race_with_passes
from common import settings

from tutelage.core.rng import generator, seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.models.resnet import resnet
from tutelage.threats import APGD, L2, Linf

STEPS, BATCH = 100, 128


def main() -> None:
    how = settings(__doc__)
    steps, batch = (4, 8) if how.quick else (STEPS, BATCH)
    x, y = fashion_mnist_subset("train")[list(range(batch))]
    with seeded(0):
        small, deep = SmallCNN(32), resnet(20, channels=1)
    for memory_kept in allocators():
        for net_name, net, budget in (
            ("SmallCNN(32)", small, Linf(0.1)),
            ("SmallCNN(32)", small, L2(1.0)),
            ("ResNet-20", deep, Linf(0.1)),
        ):
            if net is deep and memory_kept:  # its passes are so long that the allocator does not matter
                continue
            attack = APGD(budget, steps, retire=False)
            found = attack.run(net, x, y, generator(0))
            if (found.forward, found.backward) != ((steps + 2) * batch, steps * batch):
                raise SystemExit(f"APGD made {found.forward // batch} forward passes, {found.backward // batch} gradients")
            name = f"APGD-{steps} {budget}, {net_name}"
            race_with_passes(attack, f"APGD-{steps}", name, net, x, y, how, memory_kept=memory_kept)


if __name__ == "__main__":
    main()
