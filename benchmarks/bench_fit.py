"""`fit` against a bare PyTorch loop with the same batches, net, optimiser and numbers: both end with the same weights.

The bare loop does what such loops do: it reads the loss of each step as a number and keeps it. `fit` also looks for losses
and gradients that are not finite, measures the gradient's norm, and keeps a history. Each race is run twice: with the memory
allocator as it comes, which on glibc hands memory back and takes it again at random moments of either side, and with one that
keeps its memory, as the `tutelage` command does.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable

import torch
from common import Outcome, race, report, settings
from torch import nn
from torch.optim import SGD

from tutelage.core.memory import keep_memory
from tutelage.core.rng import generator, seeded
from tutelage.data.images import ImageSet
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.teaching import CrossEntropy, fit

BATCH = 128


def net_and_optimizer(width: int) -> tuple[nn.Module, SGD]:
    with seeded(0):
        net = SmallCNN(width)
    return net, SGD(net.parameters(), lr=0.05, momentum=0.9)


def bare(width: int, data: ImageSet) -> nn.Module:
    net, optimizer = net_and_optimizer(width)
    losses = []
    net.train()
    for x, y in data.loader(BATCH, generator=generator(0)):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return net.eval()


def ours(width: int, data: ImageSet) -> nn.Module:
    net, optimizer = net_and_optimizer(width)
    fit(net, CrossEntropy(), data.loader(BATCH, generator=generator(0)), epochs=1, optimizer=optimizer)
    return net


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def profiled(work: Callable[[], object]) -> dict[str, float]:
    """Function -> seconds spent in it and in nothing that it calls."""
    profile = cProfile.Profile()
    profile.runcall(work)
    found: dict[str, float] = {}
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        place = function if file.startswith(("~", "<")) else f"{function} ({'/'.join(file.split('/')[-2:])})"
        found[place] = found.get(place, 0.0) + own
    return found


def print_profile(width: int, data: ImageSet, steps: int) -> None:
    """Where the extra time goes: the functions in which `fit` spends most more than the bare loop, in microseconds a step."""
    runs = [(profiled(lambda: ours(width, data)), profiled(lambda: bare(width, data))) for _ in range(3)]
    # the fastest of three runs of each function: what is left is least disturbed by the machine
    mine, theirs = ({name: min(run[i].get(name, 0.0) for run in runs) for name in runs[0][i]} for i in (0, 1))
    extra = {name: 1e6 * (mine.get(name, 0.0) - theirs.get(name, 0.0)) / steps for name in mine | theirs}
    print(f"| SmallCNN({width}): where fit spends more, us a step (with the profiler's own cost) | us |\n| --- | --- |")
    for name, value in sorted(extra.items(), key=lambda item: -abs(item[1]))[:20]:
        print(f"| `{name}` | {value:+.1f} |")
    print(f"| all | {sum(extra.values()):+.1f} |", flush=True)


def main() -> None:
    how = settings(__doc__, ("--profile", {"action": "store_true", "help": "also print where the extra time goes"}))
    data = fashion_mnist_subset("train")
    if how.quick:
        data = data.take(slice(0, 2 * BATCH))
    steps = -(-len(data) // BATCH)
    for allocator in ("default", "keeps its memory"):
        if allocator != "default" and not keep_memory():
            print("this allocator cannot be told to keep its memory: races with one that does are left out")
            break
        for width in (16, 32):
            equal = same_weights(ours(width, data), bare(width, data))
            if not equal:
                raise SystemExit(f"SmallCNN({width}): fit and the bare loop end with other weights, so this is no race")
            found = race({"ours": lambda w=width: ours(w, data), "bare": lambda w=width: bare(w, data)}, how.rounds)
            outcome = Outcome(
                f"fit, SmallCNN({width}), batch {BATCH}" + (", memory kept" if allocator != "default" else ""),
                "fit",
                f"fit, one epoch of {steps} steps",
                "a bare PyTorch loop",
                [[r["ours"], r["bare"]] for r in found],
                wanted="<= 1.03",
                notes={"final weights": "equal, bit for bit", "allocator": allocator},
            )
            report(outcome, how)
            if how.options.profile and allocator == "default":
                print_profile(width, data, steps)


if __name__ == "__main__":
    main()
