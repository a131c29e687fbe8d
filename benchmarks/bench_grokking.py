"""One training step of the quadratic net against a straightforward one-hot PyTorch version of the same net.

The peer is what most would write: one-hot inputs and targets, made once, `nn.Linear`, a square, `nn.MSELoss`, AdamW as it
comes. Ours gathers rows and takes loss and gradients in one pass over blocks (`QuadraticMLP.mean_squared_error`), with AdamW's
fused step. A round is as many steps of each from the same weights; after the first of them both have the same weights, up to
float error. A second race trains with `fit` around our step, its checks, history and set-up included, against the same bare
peer. Each race is run twice: with the memory allocator as it comes, and with one that keeps its memory, as the `tutelage`
command does.
"""

from __future__ import annotations

from functools import partial

import torch
from common import Outcome, race, report, settings
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from tutelage.core.memory import keep_memory
from tutelage.core.rng import generator
from tutelage.methods.understand.grokking import GrokConfig, ModularData, QuadraticMLP, modular_dataset
from tutelage.methods.understand.grokking.training import GrokLoss, _loader
from tutelage.teaching.fit import fit

# name -> p, N, alpha, xi, steps a round
SIZES = {"p 53, N 200": (53, 200, 0.65, 0.2, 100), "p 97, N 500": (97, 500, 0.5, 0.35, 30)}
ADAM = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 5.0}


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


def net_of(p: int, width: int) -> QuadraticMLP:
    return QuadraticMLP(p, width, generator=generator(0, "race"))


def one_hot(net: QuadraticMLP) -> nn.Sequential:
    """The same net as others write it, with the same weights."""
    first, last = nn.Linear(2 * net.p, net.width, bias=False), nn.Linear(net.width, net.p, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.cat([net.u, net.v]).T)
        last.weight.copy_(net.w)
    return nn.Sequential(first, Square(), last)


def theirs(data: ModularData, width: int, steps: int) -> nn.Sequential:
    x, y = data.train
    inputs = torch.cat([F.one_hot(x[:, 0], data.p), F.one_hot(x[:, 1], data.p)], dim=1).float()
    targets = F.one_hot(y, data.p).float()
    net, loss_of = one_hot(net_of(data.p, width)), nn.MSELoss()
    optimizer = AdamW(net.parameters(), **ADAM)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(net(inputs), targets)
        loss.backward()
        optimizer.step()
    return net


def ours(data: ModularData, width: int, steps: int) -> QuadraticMLP:
    x, y = data.train
    net = net_of(data.p, width)
    optimizer = AdamW(net.parameters(), **ADAM, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net.mean_squared_error(x, y)
        assert loss is not None
        loss.backward()
        optimizer.step()
    return net


def fitted(data: ModularData, width: int, steps: int) -> QuadraticMLP:
    net = net_of(data.p, width)
    config = GrokConfig(steps, ADAM["weight_decay"], log_every=steps)
    optimizer = AdamW(net.parameters(), **ADAM, fused=True)
    fit(net, GrokLoss("mse", data.p), _loader(*data.train, config, 0), optimizer=optimizer, steps=steps, log_every=steps)
    return net


def apart(mine: QuadraticMLP, peer: nn.Sequential) -> float:
    """The largest difference of two weights, over the largest weight."""
    want = one_hot(mine)
    pairs = zip(want.parameters(), peer.parameters(), strict=True)
    with torch.no_grad():
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main() -> None:
    how = settings(__doc__)
    for allocator in ("default", "keeps its memory"):
        if allocator != "default" and not keep_memory():
            print("this allocator cannot be told to keep its memory: races with one that does are left out")
            break
        for name, (p, width, alpha, xi, steps) in SIZES.items():
            if how.quick:
                p, width, steps = 13, 24, 2
            data = modular_dataset(p, alpha, xi)
            peer = theirs(data, width, 1)
            difference = max(apart(work(data, width, 1), peer) for work in (ours, fitted))
            if difference > 1e-3:
                raise SystemExit(f"{name}: after one step the weights differ by {difference:.1e}, so this is no race")
            found = race(
                {key: partial(work, data, width, steps) for key, work in (("ours", ours), ("fit", fitted), ("theirs", theirs))},
                how.rounds,
            )
            for key, what in (("ours", "a step"), ("fit", "a step inside fit")):
                outcome = Outcome(
                    f"grokking, {what}, {name}" + (", memory kept" if allocator != "default" else ""),
                    "grokking",
                    f"{steps} steps, gathered rows, one pass",
                    "one-hot PyTorch",
                    [[r[key], r["theirs"]] for r in found],
                    wanted="<= 0.33",
                    notes={"largest difference after a step": f"{difference:.1e}", "allocator": allocator},
                )
                report(outcome, how)


if __name__ == "__main__":
    main()
