"""Every subset of the modalities: the numbers are those of full passes, from one pass of each encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.auditing.subsets import all_subsets, evaluate_subsets
from tutelage.core.errors import InputError
from tutelage.data.multimodal import MultiModalSet
from tutelage.models.fusion import ConcatFusion, FusionModel, MLPEncoder, Standardised

NAMES = ("a", "b", "c")


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x):
        self.rows += len(x) if len(x) > 1 else 0  # single rows are the missing input
        return self.inner(x)


def world(n: int = 50, present: torch.Tensor | None = None) -> tuple[FusionModel, MultiModalSet]:
    torch.manual_seed(0)
    encoders = {name: Standardised(Counted(MLPEncoder(4, 5)), 0.1 * i, 1.0, (4,)) for i, name in enumerate(NAMES)}
    data = MultiModalSet(
        {name: torch.randn(n, 4) for name in NAMES}, torch.randint(0, 3, (n,)), ("x", "y", "z"), present=present
    )
    return FusionModel(encoders, ConcatFusion((5, 5, 5), 3)).eval(), data


def test_each_row_is_what_full_passes_give_and_each_encoder_runs_once():
    model, data = world()
    table = evaluate_subsets(model, data, batch_size=20)
    assert [encoder.encoder.rows for encoder in model.encoders.values()] == [50] * 3
    assert [row.modalities for row in table.rows] == all_subsets(NAMES)
    assert len(table.rows) == 7
    batch, y = data[list(range(50))]
    for row in table.rows:
        wanted = float((model(batch.only(row.modalities)).argmax(1) == y).float().mean())
        assert row.accuracy == pytest.approx(wanted)
        assert row.ci95[0] <= row.accuracy <= row.ci95[1]
    assert table.without("b") is table["c", "a"]
    assert "a + b + c" in table.table().rows[0][0]


def test_samples_that_have_none_of_a_subset_are_left_out():
    present = torch.ones(50, 3, dtype=torch.bool)
    present[:10, 0] = False
    model, data = world(present=present)
    table = evaluate_subsets(model, data, subsets=[("a",), ("b", "a")])
    assert [row.n for row in table.rows] == [40, 50]


def test_what_cannot_be_evaluated_is_named():
    model, data = world()
    with pytest.raises(InputError, match="encode, fuse"):
        evaluate_subsets(nn.Linear(2, 2), data)
    with pytest.raises(InputError, match="no c"):
        evaluate_subsets(model, MultiModalSet({"a": torch.zeros(2, 4), "b": torch.zeros(2, 4)}, torch.zeros(2).long(), ("x",)))
    with pytest.raises(InputError, match="subsets"):
        evaluate_subsets(model, data, subsets=[("d",)])
    with pytest.raises(InputError, match="one of"):
        evaluate_subsets(model, data, subsets=[("a",)])["b"]


def test_the_race_against_full_passes_runs(root: Path, tmp_path: Path):
    results = tmp_path / "results.json"
    command = [sys.executable, str(root / "benchmarks" / "bench_subsets.py"), "--quick", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    assert {row["group"] for row in rows} == {"subsets"}
    assert len(rows) == 2
