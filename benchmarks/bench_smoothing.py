"""Certificates of randomized smoothing, 10,000 noise draws an image, against the Adversarial Robustness Toolbox (ART).

The same net, images, noise deviation, batch size, draws that choose a class (100) and draws that certify it. Needs the peer's
environment: python benchmarks/peers.py art. Both sides pass the same number of noisy images through the same net, so the
larger the net, the nearer the ratio to 1: what differs is how noise is drawn, moved and counted. The noise is not the same, so
votes differ by chance; classes must agree wherever both sides certify one, and each radius must be the one that ART's own
formula gives for our votes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import Outcome, race, report, settings
from peers import inside, race_in
from torch import nn

from tutelage.core.memory import keep_memory
from tutelage.core.rng import seeded
from tutelage.data.sets import fashion_mnist_subset
from tutelage.guarantees.noise import GaussianNoise
from tutelage.guarantees.smoothing import Certificates, certify
from tutelage.models.cnn import SmallCNN
from tutelage.teaching import CrossEntropy, fit

PEER, SIGMA, ALPHA, CHOOSING = "art", 0.25, 0.001, 100


def trained(net: nn.Module, quick: bool) -> nn.Module:
    """One epoch on noisy images: votes that are neither all alike nor even."""
    train = fashion_mnist_subset("train").take(slice(0, 200 if quick else 2000))
    with seeded(0):
        fit(net, CrossEntropy(), train.loader(50), epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    return net.eval()


def main() -> None:
    if not inside(PEER):
        race_in(PEER)
        return
    how = settings(__doc__)
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    keep_memory()
    draws, batch, images = (200, 64, 2) if how.quick else (10_000, 1024, 2)
    x, _ = fashion_mnist_subset("test")[list(range(images))]
    with seeded(0):
        nets: dict[str, nn.Module] = {
            "linear": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
            "SmallCNN(8)": SmallCNN(8),
            "SmallCNN(32)": SmallCNN(32),
        }
    for name, net in nets.items():
        trained(net, how.quick)
        smooth = PyTorchRandomizedSmoothing(
            model=net, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=10, device_type="cpu",
            sample_size=CHOOSING, scale=SIGMA, alpha=ALPHA,
        )  # fmt: skip
        last: dict[str, Any] = {}

        def ours(net: nn.Module = net, last: dict[str, Any] = last) -> None:
            noise = GaussianNoise(SIGMA, seed=0)
            last["ours"] = certify(net, x, noise, draws=draws, selection_draws=CHOOSING, alpha=ALPHA, batch_size=batch)

        def theirs(smooth: Any = smooth, last: dict[str, Any] = last) -> None:
            last["peer"] = smooth.certify(x.numpy(), draws, batch_size=batch)

        np.random.seed(0)
        rounds = race({"ours": ours, "peer": theirs}, how.rounds)
        found: Certificates = last["ours"]
        classes, radii = last["peer"]
        sure = (found.classes.numpy() >= 0) & (classes >= 0)
        # ART's formula on our votes; a class that wins by less than chance allows is refused by both
        votes = found.votes.gather(1, found.classes.clamp_min(0)[:, None]).squeeze(1).tolist()
        limits = [smooth._lower_confidence_bound(k, draws) for k in votes]
        formula = np.array([SIGMA * float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64))) for p in limits])
        mine = found.radius.numpy()
        held = found.classes.numpy() >= 0
        worst = float(np.abs(mine[held] - formula[held]).max(initial=0.0))
        if (found.classes.numpy() != classes)[sure].any() or worst > 1e-9:
            raise SystemExit(f"{name}: classes differ, or radii are {worst:.1e} from ART's formula: this is no race")
        report(
            Outcome(
                f"smoothing, {draws:,} draws, {name}, {images} images",
                "smoothing",
                "certify",
                "ART PyTorchRandomizedSmoothing.certify",
                [[one["ours"], one["peer"]] for one in rounds],
                wanted="<= 0.33",
                notes={
                    "batch": batch,
                    "radii": {"ours": [round(r, 4) for r in mine.tolist()], "theirs": [round(float(r), 4) for r in radii]},
                    "largest difference to ART's formula on our votes": f"{worst:.0e}",
                },
            ),
            how,
        )


if __name__ == "__main__":
    main()
