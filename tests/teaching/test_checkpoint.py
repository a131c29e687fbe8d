"""Checkpoints: what goes in comes out, and damage is seen and survived."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.core.errors import CheckpointError
from tutelage.core.rng import rng_state
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint


def back(folder: Path, state: dict[str, Any], step: int = 1) -> dict[str, Any]:
    save_checkpoint(folder, step, state)
    found = load_checkpoint(folder)
    assert found is not None
    assert found[0] == step
    return found[1]


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure, dtype, shape and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


STATE: dict[str, Any] = {
    "ints": {0: {"momentum": torch.arange(6.0).reshape(2, 3)}, 7: {"momentum": None}},
    "tuple": (0.9, 0.999, (1, "two", [3])),
    "empty": {"dict": {}, "list": [], "tuple": (), "string": "", "tensor": torch.empty(0, 3)},
    "floats": [math.inf, -math.inf, math.nan, -0.0, 0.1, 1e-310, 2.0],
    "plain": [None, True, False, 2**70, -3, 'quote " and \n é'],
    "tensors": {
        "scalar": torch.tensor(3.25),
        "count": torch.tensor(5, dtype=torch.int64),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "bits": torch.tensor([True, False]),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "extremes": torch.tensor([math.inf, -math.inf, 0.0]),
    },
    "!": {"!": "tensor", "at": "no such tensor"},
}


def test_a_nested_state_comes_back_the_same(tmp_path: Path) -> None:
    assert same(back(tmp_path, STATE), STATE)


def test_the_states_of_generators_and_optimizers_come_back_the_same(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.8, 0.9))
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"rng": rng_state(), "optimizer": optimizer.state_dict(), "g": torch.Generator().manual_seed(3).get_state()}
    assert same(back(tmp_path, state), state)


def test_keys_that_look_alike_as_text_do_not_share_a_tensor(tmp_path: Path) -> None:
    state = {0: torch.tensor(1.0), "0": torch.tensor(2.0), "a/b": torch.tensor(3.0), "a": {"b": torch.tensor(4.0)}}
    assert same(back(tmp_path, state), state)


def test_numbers_of_numpy_that_are_not_finite_come_back(tmp_path: Path) -> None:
    state = back(tmp_path, {"best": np.float64(-np.inf), "worst": np.float64("nan"), "fine": np.float64(0.5)})
    assert state["best"] == -math.inf
    assert math.isnan(state["worst"])
    assert state["fine"] == 0.5


def test_what_is_saved_is_a_copy(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    save_checkpoint(tmp_path, 1, {"a": tensor, "b": tensor, "view": tensor[:1]})
    tensor.zero_()
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert [found[1][k].tolist() for k in ("a", "b", "view")] == [[1.0, 1.0], [1.0, 1.0], [1.0]]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", torch.nn.Linear(1, 1), lambda: 0])
def test_what_cannot_be_held_is_refused_by_its_path_and_nothing_is_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"/outer/1.*cannot hold"):
        save_checkpoint(tmp_path, 1, {"outer": [0, value]})
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_cannot_be_held_is_refused_when_saving_not_when_loading(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path, 1, {("a", 1): 2})
    assert load_checkpoint(tmp_path) is None


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (3, 20, 100, 101):
        save_checkpoint(tmp_path, step, {"step": torch.tensor(step)})
    names = sorted(re.sub(r"(step-\d{8})-[0-9a-f]{8}", r"\1", p.name) for p in tmp_path.iterdir())
    assert names == [f"step-{n:08d}.{end}" for n in (100, 101) for end in ("json", "safetensors")]
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], int(found[1]["step"])) == (101, 101)


def _tensors(folder: Path) -> Path:
    (path,) = folder.glob("step-00000002-*.safetensors")
    return path


def _truncate(folder: Path) -> None:
    path = _tensors(folder)
    path.write_bytes(path.read_bytes()[:-4])


def _tamper(folder: Path) -> None:
    path = _tensors(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _lose(folder: Path) -> None:
    _tensors(folder).unlink()


def _foreign(folder: Path) -> None:
    (folder / "step-00000002.json").write_text(json.dumps({"format": "somebody-else-9", "state": {}}))


def _torn_json(folder: Path) -> None:
    path = folder / "step-00000002.json"
    path.write_text(path.read_text()[:-20])


def _other_json(folder: Path) -> None:
    (folder / "step-00000002.json").write_text("[1, 2]")


def _unknown_kind(folder: Path) -> None:
    path = folder / "step-00000002.json"
    path.write_text(path.read_text().replace('"tensor"', '"tensr"'))


DAMAGE = [_truncate, _tamper, _lose, _foreign, _torn_json, _other_json, _unknown_kind]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"w": torch.tensor(float(step))})
    damage(tmp_path)
    with pytest.warns(UserWarning, match=r"step-00000002\.json.*the one before"):
        found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], float(found[1]["w"])) == (1, 1.0)


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_damaged_checkpoints_are_an_error_that_names_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save_checkpoint(tmp_path, 2, {"w": torch.tensor(1.0)})
    damage(tmp_path)
    with (
        pytest.warns(UserWarning, match="the one before"),
        pytest.raises(CheckpointError, match=r"step-00000002\.json.*no earlier one"),
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("renames_done", [0, 1])
@pytest.mark.parametrize("second_step", [1, 2])
def test_a_save_that_is_cut_off_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_done: int, second_step: int
) -> None:
    """Cut off at either rename; `fit` also saves the same step twice, in the middle and at the end of an epoch."""
    save_checkpoint(tmp_path, 1, {"w": torch.tensor(1.0)})
    real, calls = os.replace, [0]

    def replace(source: Any, target: Any) -> None:
        if calls[0] == renames_done:
            raise KeyboardInterrupt
        calls[0] += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, second_step, {"w": torch.tensor(2.0)})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], float(found[1]["w"])) == (1, 1.0)


def test_what_killed_writers_left_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    for name in (".step-00000001.json.abc123", ".metrics.jsonl.abc123", ".mine"):
        (tmp_path / name).write_text("half of a file")
    save_checkpoint(tmp_path, 2, {"x": 1})
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".mine"]
