"""One race against a peer, run by bench_peers.py inside the peer's own environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from common import Outcome, race, report, settings
from torch import Tensor, nn

from tutelage.core.rng import generator
from tutelage.core.stats import newcombe_paired
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN
from tutelage.models.loading import load_weights
from tutelage.threats import L2, PGD, Budget, Linf

Batches = list[tuple[Tensor, Tensor]]
# images and labels of a batch -> adversarial images, and which of them are broken
Attack = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
HIGHEST_ROBUST_ACCURACY = 0.7
TOLERANCE = 0.01  # of robust accuracy, where the paired interval is narrower


def ours(net: nn.Module, budget: Budget, steps: int, retire: bool) -> Attack:
    attack = PGD(budget, steps=steps, retire=retire)
    source = generator(0, "race")

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        result = attack.run(net, x, y, source)
        return result.x_adv, result.success

    return run


def torchattacks(net: nn.Module, budget: Budget, steps: int) -> Attack:
    import torchattacks

    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[budget.norm]
    attack = kind(net, eps=budget.eps, alpha=2.5 / steps * budget.eps, steps=steps, random_start=True)

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x_adv = attack(x, y)
        with torch.no_grad():
            return x_adv, net(x_adv).argmax(1) != y

    return run


def foolbox(net: nn.Module, budget: Budget, steps: int) -> Attack:
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[budget.norm]
    attack = kind(rel_stepsize=2.5 / steps, steps=steps, random_start=True)

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        _, x_adv, success = attack(model, x, y, epsilons=budget.eps)
        return x_adv, success

    return run


def over(attack: Attack, batches: Batches) -> tuple[Tensor, Tensor]:
    found = [attack(x, y) for x, y in batches]
    return torch.cat([x_adv for x_adv, _ in found]), torch.cat([broken for _, broken in found])


def checked(name: str, budget: Budget, net: nn.Module, batches: Batches, x_adv: Tensor, broken: Tensor) -> None:
    """What a side claims is true: its images are inside the budget and the range, and those that it calls broken are."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if float(budget.size(x, x_adv).max()) > float(budget.eps) * (1 + 1e-4) or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise SystemExit(f"{name}: an image left the budget {budget} or the range [0, 1]")
    with torch.no_grad():
        wrong = net(x_adv).argmax(1) != y
    # float error may decide an image that lies on the border when it is looked at in another batch
    if int((wrong != broken).sum()) > 0.002 * len(y):
        raise SystemExit(f"{name}: {int((wrong != broken).sum())} images are not what was said of them")


def main() -> None:
    how = settings(__doc__, ("peer", {"choices": ["torchattacks", "foolbox"]}), ("weights", {"type": Path}))
    peer, make = how.options.peer, {"torchattacks": torchattacks, "foolbox": foolbox}[how.options.peer]
    net = SmallCNN(32).to(memory_format=torch.channels_last)
    load_weights(net, how.options.weights)
    net.eval().requires_grad_(False)
    steps, size, n = (20, 128, 1024) if not how.quick else (4, 32, 64)
    images, labels = fashion_mnist_subset("test").split_off(n, split="test")[1][list(range(n))]
    batches = list(zip(images.split(size), labels.split(size), strict=True))

    for budget in (Linf(0.1), L2(1.5)):
        last: dict[str, tuple[Tensor, Tensor]] = {}
        attacks = {
            "retired": ours(net, budget, steps, retire=True),
            "whole": ours(net, budget, steps, retire=False),
            peer: make(net, budget, steps),
        }

        def work(name: str, attack: Attack, last: dict[str, tuple[Tensor, Tensor]] = last) -> Callable[[], None]:
            def run() -> None:
                last[name] = over(attack, batches)

            return run

        torch.manual_seed(0)  # the peers draw their starts from the global generator
        rounds = race({name: work(name, attack) for name, attack in attacks.items()}, how.rounds)
        for name, (x_adv, broken) in last.items():
            checked(name, budget, net, batches, x_adv, broken)
        with torch.no_grad():
            clean = float((net(images).argmax(1) == labels).double().mean())
        mine, whole, theirs = (~last[name][1] for name in ("retired", "whole", peer))
        robust = {"ours": mine, "ours without retirement": whole, peer: theirs}
        shares = {name: round(float(held.double().mean()), 4) for name, held in robust.items()}
        interval = newcombe_paired(mine.numpy(), theirs.numpy())
        difference = shares["ours"] - shares[peer]
        if shares["ours"] > HIGHEST_ROBUST_ACCURACY:
            raise SystemExit(f"robust accuracy {shares['ours']:.3f}, wanted at most {HIGHEST_ROBUST_ACCURACY}: not this race")
        if abs(difference) > TOLERANCE and not interval.lo <= 0 <= interval.hi and not how.quick:
            raise SystemExit(f"{budget}: robust accuracies differ by {difference:+.4f}, so this is no race: {shares}")
        notes = {
            "clean accuracy": round(clean, 4),
            "robust accuracy": shares,
            "paired difference": f"{difference:+.4f} [{interval.lo:+.4f}, {interval.hi:+.4f}]",
            "images that only ours breaks": int((~mine & theirs).sum()),
            f"images that only {peer} breaks": int((mine & ~theirs).sum()),
            "images": n,
        }
        for side, name in (("retired", "with"), ("whole", "without")):
            outcome = Outcome(
                f"PGD-{steps} {budget}, batch {size}, {name} retirement, against {peer}",
                "peers",
                f"tutelage PGD-{steps}, retire={side == 'retired'}",
                f"{peer} PGD-{steps}",
                [[r[side], r[peer]] for r in rounds],
                wanted="<= 0.77" if side == "retired" else "",
                notes=notes if side == "retired" else {},
            )
            report(outcome, how)


if __name__ == "__main__":
    main()
