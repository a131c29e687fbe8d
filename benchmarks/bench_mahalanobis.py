"""Fit and score Mahalanobis distances against pytorch-ood: 50,000 features of 512 numbers, 100 classes.

Both fit class means and a tied covariance on the same features and score as many others by the distance to the nearest class.
Needs the peer's environment: python benchmarks/peers.py pytorch_ood. Ours works in float64 and whitens once; the peer works in
float32 and evaluates one quadratic form a class. Its covariance is the sum of the outer products, not their mean, so its
scores are ours divided by the number of samples; the race checks that they are, and that the order is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
import torch
from common import Outcome, race, report, settings
from peers import inside, race_in

from tutelage.core.memory import keep_memory
from tutelage.core.rng import generator
from tutelage.models.gaussians import TiedGaussians

PEER = "pytorch_ood"


def main() -> None:
    if not inside(PEER):
        race_in(PEER)
        return
    how = settings(__doc__)
    import stand_ins  # noqa: F401
    from pytorch_ood.detector import Mahalanobis

    keep_memory()
    n, d, classes = (600, 16, 10) if how.quick else (50_000, 512, 100)
    g = generator(0, "features")
    centres = torch.randn(classes, d, generator=g)
    spread = torch.randn(d, d, generator=g) / d**0.5

    def features() -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randperm(n, generator=g) % classes
        return centres[y] + torch.randn(n, d, generator=g) @ spread + 0.3 * torch.randn(n, d, generator=g), y

    (train, labels), (test, _) = features(), features()
    last: dict[str, Any] = {}

    def ours() -> None:
        fitted = TiedGaussians.fit(train, labels, classes=classes)
        last["ours"] = fitted.nearest(test)[0] / 2

    def theirs() -> None:
        last["peer"] = Mahalanobis(None).fit_features(train, labels).predict_features(test)

    rounds = race({"ours": ours, "peer": theirs}, how.rounds)
    mine, found = last["ours"].numpy(), last["peer"].double().numpy() * n
    worst = float(np.abs(found / mine - 1).max())
    order = float(scipy.stats.spearmanr(mine, found)[0])
    if worst > 0.01 or order < 0.9999:
        raise SystemExit(f"scores are up to {worst:.2%} apart, rank correlation {order}: this is no race")
    report(
        Outcome(
            f"Mahalanobis, fit and score, {n:,} x {d}, {classes} classes",
            "detection",
            "TiedGaussians.fit, .nearest, float64",
            "pytorch-ood Mahalanobis, float32",
            [[one["ours"], one["peer"]] for one in rounds],
            wanted="<= 0.33",
            notes={"largest relative difference of a score": f"{worst:.1e}", "rank correlation": round(order, 7)},
        ),
        how,
    )


if __name__ == "__main__":
    main()
