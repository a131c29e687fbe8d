"""A few trainings whose weights need the whole batch, for one process or for two; run by test_doubly_robust_at.py.

done_job.py OUT   writes the losses of each training (main process)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data import fashion_mnist_subset
from tutelage.methods.harden.doubly_robust_at import DONE, BarrierAttack, DONEConfig
from tutelage.teaching import fit
from tutelage.teaching.robust import GAIRAT, TRADES
from tutelage.teaching.weights import KLDROWeights
from tutelage.threats import PGD, Linf, kl_to_reference

BUDGET = Linf(0.1)


def objectives() -> dict[str, Any]:
    away = PGD(BUDGET, steps=2, start="gaussian", objective=kl_to_reference)
    return {
        "done": DONE(BarrierAttack(BUDGET, steps=3), DONEConfig(r=0.3, eta=0.4)),
        "trades": TRADES(away, weights=KLDROWeights(0.4, eta=1, normalise="minmax")),
        "gairat": GAIRAT(PGD(BUDGET, steps=3), burn_in=0),
    }


def main(out: Path) -> None:
    torch.set_num_threads(1)
    data = fashion_mnist_subset("train").take(slice(0, 131))  # batches of 33: an odd number of rows for two processes
    found = {}
    for name, objective in objectives().items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Tanh(), nn.Linear(16, 10))
        result = fit(model, objective, data.loader(33), epochs=2, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))
        found[name] = [row["loss"] for row in result.history]
    if os.environ.get("RANK", "0") == "0":
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
