"""Accuracy with all subsets of M modalities from one pass of each encoder, against a pass of the model for every subset.

The peer is fair: each of its 2^M - 1 passes runs only the encoders of the modalities that the subset has. A pass that runs
all encoders on filled-in inputs, as a model without such halves must, takes longer still and is told beside it.
"""

from __future__ import annotations

import torch
from common import Outcome, race, report, settings

from tutelage.auditing.subsets import all_subsets, evaluate_subsets
from tutelage.core.modalities import MultiModalBatch
from tutelage.core.rng import generator, seeded
from tutelage.data.multimodal import MultiModalSet
from tutelage.models.fusion import ConcatFusion, ConvEncoder, FusionModel, Standardised


def main() -> None:
    how = settings(__doc__)
    n = 32 if how.quick else 512
    for m in (2, 3) if how.quick else (2, 3, 5):
        names = [f"sense {i}" for i in range(m)]
        g = generator(0, "bench subsets", m)
        inputs = {name: torch.rand(n, 1, 28, 28, generator=g) for name in names}
        data = MultiModalSet(inputs, torch.randint(0, 10, (n,), generator=g), tuple("0123456789"))
        with seeded(0):
            encoders = {name: Standardised(ConvEncoder((1, 28, 28)), 0.5, 0.3, (1, 28, 28)) for name in names}
            model = FusionModel(encoders, ConcatFusion([64] * m, 10)).eval()
        batch, y = data[slice(0, n)]
        subsets = all_subsets(names)

        def full(whole: bool, batch=batch, y=y, model=model, subsets=subsets, names=names) -> list[float]:  # type: ignore[no-untyped-def]
            found = []
            with torch.no_grad():
                for subset in subsets:
                    if whole:
                        present = torch.tensor([[name in subset for name in names]]).expand(len(y), -1)
                        x = MultiModalBatch(batch.inputs, present)
                    else:
                        x = batch.only(subset)
                    found.append(float((model(x).argmax(1) == y).float().mean()))
            return found

        table = evaluate_subsets(model, data, batch_size=n)
        assert torch.allclose(torch.tensor([row.accuracy for row in table.rows]), torch.tensor(full(False)), atol=2.5 / n)
        rounds = race(
            {
                "once": lambda data=data, model=model: evaluate_subsets(model, data, batch_size=n),
                "passes": lambda full=full: full(False),
                "filled": lambda full=full: full(True),
            },
            how.rounds,
        )
        filled = Outcome("", "subsets", "", "", [[r["once"], r["filled"]] for r in rounds])
        outcome = Outcome(
            f"all subsets of {m} modalities, {n} samples",
            "subsets",
            "each encoder once",
            f"{2**m - 1} passes",
            [[r["once"], r["passes"]] for r in rounds],
            wanted=f"<= {2 / m:.2f}",
            notes={"ratio to passes of all encoders": round(filled.ratio, 3)},
        )
        report(outcome, how)


if __name__ == "__main__":
    main()
