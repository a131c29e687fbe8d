"""APGD-100 without retirement against the bare passes that it needs: its step sizes, momentum and checkpoints ought to be free.

As in bench_pgd.py: the bare side makes the same 100 gradients and 2 forward passes and nothing else. Batches of 128.
"""

from __future__ import annotations

from bench_pgd import gradients, passes
from common import Outcome, race, report, settings

from tutelage.core.memory import keep_memory
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
    for allocator in ("default", "keeps its memory"):
        if allocator != "default" and not keep_memory():
            print("this allocator cannot be told to keep its memory: races with one that does are left out")
            break
        for name, net, budget in (
            ("SmallCNN(32)", small, Linf(0.1)),
            ("SmallCNN(32)", small, L2(1.0)),
            ("ResNet-20", deep, Linf(0.1)),
        ):
            if net is deep and allocator != "default":  # its passes are so long that the allocator does not matter
                continue
            attack = APGD(budget, steps, retire=False)
            found = attack.run(net, x, y, generator(0))
            if (found.forward, found.backward) != ((steps + 2) * batch, steps * batch):
                raise SystemExit(f"APGD made {found.forward // batch} forward passes, {found.backward // batch} gradients")
            rounds = race(
                {
                    "ours": lambda net=net, attack=attack: attack.run(net, x, y, generator(0)),
                    "passes": lambda net=net: passes(net, x, y, steps),
                    "gradients": lambda net=net: gradients(net, x, y, steps),
                },
                how.rounds,
            )
            alone = Outcome("", "pgd", "", "", [[r["ours"], r["gradients"]] for r in rounds])
            outcome = Outcome(
                f"APGD-{steps} {budget}, {name}, batch {batch}" + (", memory kept" if allocator != "default" else ""),
                "pgd",
                f"APGD-{steps}, retire=False",
                f"its {steps} gradients and 2 forward passes",
                [[r["ours"], r["passes"]] for r in rounds],
                wanted="<= 1.05",
                notes={f"ratio to the {steps} gradients alone": round(alone.ratio, 3), "allocator": allocator},
            )
            report(outcome, how)


if __name__ == "__main__":
    main()
