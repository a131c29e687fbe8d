"""Logged decisions: the set, its files, the exact chain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError, MissingError
from tutelage.data.offline import OfflineDataset, read_offline, write_minari, write_npz
from tutelage.data.offline.chain import chain_dataset
from tutelage.data.offline.transitions import ARRAYS


def episodes(**changes: Any) -> OfflineDataset:
    """Two episodes: of 3 steps, ended; of 2 steps, cut by time."""
    path = torch.arange(7.0)[:, None] * torch.tensor([1.0, 0.5])
    rows = [0, 1, 2, 4, 5]
    fields: dict[str, Any] = {
        "observations": path[rows],
        "actions": torch.tensor([[0.5], [-0.5], [1.0], [0.0], [2.0]]),
        "rewards": torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0]),
        "next_observations": path[[row + 1 for row in rows]],
        "terminals": torch.tensor([False, False, True, False, False]),
        "timeouts": torch.tensor([False, False, False, False, True]),
        "action_low": torch.tensor([-2.0]),
        "action_high": torch.tensor([2.0]),
        "name": "steps",
        "environment": "World-v0",
        "random_return": -10.0,
        "expert_return": 30.0,
    }
    return OfflineDataset(**{**fields, **changes})


def flat(path: Path, *, without: tuple[str, ...] = (), **more: Any) -> Path:
    """A file as D4RL writes it, of one row an observation."""
    arrays = {
        "observations": np.arange(6.0)[:, None],
        "actions": np.zeros((6, 1)),
        "rewards": np.arange(6.0),
        "terminals": np.array([0, 0, 1, 0, 0, 0]),
        "timeouts": np.array([0, 0, 0, 0, 1, 0]),
        **more,
    }
    with h5py.File(path, "w") as store:
        for name, value in arrays.items():
            if name not in without:
                store[name] = value
    return path


def test_returns_and_scores_by_hand() -> None:
    data = episodes()
    assert data.returns.tolist() == [6.0, 30.0]
    assert data.normalised(10.0) == 50.0
    assert data.take(slice(0, 2)).returns.tolist() == [3.0]
    assert data.describe()["n"] == 5
    with pytest.raises(InputError, match="references"):
        episodes(expert_return=None).normalised(1.0)


@pytest.mark.parametrize("kind", ["minari", "npz"])
def test_what_is_written_is_read_again(tmp_path: Path, kind: str) -> None:
    data = episodes(kind="environment", origin={"generator": "SAC"})
    file = write_minari(data, tmp_path / "a.hdf5") if kind == "minari" else write_npz(data, tmp_path / "a.npz")
    again = read_offline(file)
    for name in (*ARRAYS, "action_low", "action_high"):
        assert torch.equal(getattr(again, name), getattr(data, name)), name
    assert again.describe() == data.describe()
    assert (again.random_return, again.expert_return, again.environment) == (-10.0, 30.0, "World-v0")


def test_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = (write_minari(episodes(), tmp_path / f"{i}.hdf5").read_bytes() for i in range(2))
    assert first == second


def test_a_folder_of_minari(tmp_path: Path) -> None:
    """As Minari itself writes it: no word of ours, scores and spaces in metadata.json."""
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    with h5py.File(folder / "main_data.hdf5", "w") as store:
        for i, steps in enumerate((2, 12)):
            group = store.create_group(f"episode_{i}")
            group["observations"] = np.arange(steps + 1.0)[:, None] + 100 * i
            group["actions"], group["rewards"] = np.full((steps, 1), 3.0), np.ones(steps)
            group["terminations"], group["truncations"] = np.arange(steps) == steps, np.arange(steps) == steps - 1
    space = json.dumps({"type": "Box", "low": [-4], "high": [4]})
    about = {"dataset_id": "world/v0", "action_space": space, "ref_min_score": 1.0, "ref_max_score": 3.0}
    (folder / "metadata.json").write_text(json.dumps(about))
    data = read_offline(tmp_path / "set")
    assert (len(data), data.name, data.action_high.tolist(), data.expert_return) == (14, "world/v0", [4.0], 3.0)
    assert data.next_observations[:3, 0].tolist() == [1.0, 2.0, 101.0]
    assert data.returns.tolist() == [2.0, 12.0]
    assert read_offline(tmp_path / "set", expert_return=5.0).expert_return == 5.0


def test_d4rl_files_lose_what_was_not_logged(tmp_path: Path) -> None:
    """Rows 0-2 end truly; 3-4 are cut after 4, whose next row is another episode's; 5 is the last of all."""
    data = read_offline(flat(tmp_path / "a.hdf5"))
    assert data.observations[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert data.next_observations[:2, 0].tolist() == [1.0, 2.0]
    assert data.next_observations[3, 0] == 4.0
    assert data.terminals.tolist() == [False, False, True, False]
    assert data.timeouts.tolist() == [False, False, False, True]
    whole = read_offline(flat(tmp_path / "b.hdf5", next_observations=np.arange(1.0, 7.0)[:, None]))
    assert len(whole) == 6
    bare = read_offline(flat(tmp_path / "c.hdf5", without=("timeouts",)))
    assert len(bare) == 5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"without": ("terminals",)}, "without 'terminals'"),
        ({"without": ("rewards",)}, "without 'rewards'"),
        ({"actions": np.full((6, 1), 2.0)}, "action_low: got none, and actions outside"),
        ({"rewards": np.array([0, 1, math.nan, 3, 4, 5])}, "rewards: got NaN or infinity in row 2"),
        ({"actions": np.zeros((4, 1)), "next_observations": np.ones((6, 1))}, "actions: got"),
    ],
)
def test_bad_files(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_offline(flat(tmp_path / "a.hdf5", **how))


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no data set"):
        read_offline(tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("text")
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "set.pkl").write_text("text")
    for name in ("text.hdf5", "text.npz", "set.pkl"):
        with pytest.raises(InputError, match="path"):
            read_offline(tmp_path / name)
    with h5py.File(tmp_path / "nested.hdf5", "w") as store:
        group = store.create_group("episode_0")
        group.create_group("observations")["camera"] = np.zeros(3)
        for name in ("actions", "rewards", "terminations", "truncations"):
            group[name] = np.zeros(2)
    with pytest.raises(InputError, match="nested observations"):
        read_offline(tmp_path / "nested.hdf5")
    moved = episodes()
    with pytest.raises(InputError, match="write_npz"):
        write_minari(replace(moved, next_observations=moved.next_observations + 1), tmp_path / "a.hdf5")
    with pytest.raises(InputError, match="ends in"):
        write_npz(moved, tmp_path / "a.hdf5")


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"rewards": torch.zeros(4)}, "rewards"),
        ({"rewards": torch.zeros(5, 1)}, "rewards"),
        ({"observations": torch.zeros(5)}, "observations"),
        ({"observations": torch.full((5, 2), math.inf)}, "observations"),
        ({"next_observations": torch.zeros(5, 3)}, "next_observations"),
        ({"terminals": torch.zeros(5)}, "terminals"),
        ({"actions": None}, "actions"),
        ({"action_low": torch.zeros(2)}, "action_low"),
        ({"action_low": torch.tensor([3.0])}, "action_low"),
        ({"random_return": math.nan}, "random_return"),
    ],
)
def test_bad_sets(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError, match=argument):
        episodes(**changes)


def test_the_values_of_the_chain_by_hand() -> None:
    """Two states, gamma 1/2, expectile 1: Q(1, right) = 8, Q(0, right) = 4, Q(1, left) = V(0) / 2 = 2 = Q(0, left)."""
    data, q = chain_dataset(400, states=2, reward=8.0, discount=0.5, expectile=1.0)
    torch.testing.assert_close(q, torch.tensor([[2.0, 4.0], [2.0, 8.0]]))
    state, after = data.observations.argmax(1), data.next_observations.argmax(1)
    right = data.actions[:, 0] > 0
    assert torch.equal(after, torch.where(right, 1, 0))
    assert torch.equal(data.rewards, torch.where(right & (state == 1), 8.0, 0.0))
    assert torch.equal(data.terminals, right & (state == 1))
    wrong = chain_dataset(400, states=2, wrong=1.0)[0].next_observations.argmax(1)
    assert 0.4 < float((wrong == after).float().mean()) < 0.6
    # tau = 1/2 is the mean of both actions: v = 0.25 (v0 + v1), V(1) = 0.5 (0.5 v0 + 8)
    _, mean = chain_dataset(4, states=2, reward=8.0, discount=0.5, expectile=0.5)
    v0 = 0.5 * float(mean[0].sum())
    assert v0 == pytest.approx(0.25 * (v0 + 0.5 * (0.5 * v0 + 8)), abs=1e-5)
