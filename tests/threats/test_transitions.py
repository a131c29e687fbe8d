"""Corruption of logged transitions: what changes, how far, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.offline import OfflineDataset
from tutelage.data.offline.transitions import ARRAYS
from tutelage.threats.dataset.transitions import FIELDS, corrupt


def logged(n: int = 1000) -> OfflineDataset:
    g = generator(0, "transitions")
    scale = torch.tensor([1.0, 10.0])
    return OfflineDataset(
        torch.randn(n, 2, generator=g) * scale, torch.rand(n, 1, generator=g) * 2 - 1, torch.randn(n, generator=g),
        torch.randn(n, 2, generator=g) * scale, torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool),
        torch.tensor([-1.0]), torch.tensor([1.0]),
    )  # fmt: skip


def critic(observations: Tensor, actions: Tensor) -> Tensor:
    """Two critics, (2, B): one is highest at s = (1, 10), a = 0.5, the other a little beside it."""
    s = observations / torch.tensor([1.0, 10.0])
    q = -(s - 1).square().sum(1) - (actions[:, 0] - 0.5).square()
    return torch.stack((q, q - 0.1 * s[:, 0]))


def policy(observations: Tensor) -> Tensor:
    return observations[:, :1].tanh()


def same_but(before: OfflineDataset, after: OfflineDataset, *changed: str) -> None:
    for name in ARRAYS:
        if name not in changed:
            assert torch.equal(getattr(before, name), getattr(after, name)), name


@pytest.mark.parametrize("mode", ["random", "adversarial"])
@pytest.mark.parametrize("field", [f for f in FIELDS if f != "rewards"])
def test_chosen_rows_move_by_at_most_eps_standard_deviations_and_nothing_else_moves(field: str, mode: Any) -> None:
    data, array = logged(), FIELDS[field]
    before = {name: getattr(data, name).clone() for name in ARRAYS}
    got = corrupt(data, field, mode=mode, rate=0.3, scale=0.5, critic=critic, policy=policy, generator=generator(1), steps=20)
    mask, old, new = got.mask, getattr(data, array), getattr(got.dataset, array)
    same_but(data, got.dataset, array)
    assert torch.equal(old[~mask], new[~mask])
    assert bool((old[mask] != new[mask]).all())
    moved = ((new - old) / old.std(0, correction=0)).abs()
    assert float(moved.max()) <= 0.5 + 1e-5
    assert float(moved[mask].amax(0).min()) > 0.45
    assert abs(int(mask.sum()) - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5
    assert all(torch.equal(before[name], getattr(data, name)) for name in ARRAYS), "the set itself was changed"


@pytest.mark.parametrize("field", ["observations", "actions", "dynamics"])
def test_an_adversarial_corruption_lowers_the_value(field: str) -> None:
    data = logged()

    def value(at: OfflineDataset, rows: Tensor) -> float:
        part = at.take(rows)
        if field == "dynamics":
            return float(critic(part.next_observations, policy(part.next_observations)).mean())
        return float(critic(part.observations, part.actions).mean())

    found = {
        mode: corrupt(data, field, mode=mode, critic=critic, policy=policy, generator=generator(2))
        for mode in ("random", "adversarial")
    }
    rows = found["random"].mask
    assert torch.equal(rows, found["adversarial"].mask)  # the same seed, the same rows
    drop = {mode: value(data, rows) - value(one.dataset, rows) for mode, one in found.items()}
    # the nearest corner: of s at 0 the best d is -1, the value falls by 3 where a random d takes 1/3 off
    assert drop["adversarial"] > 0.5 + 2 * max(drop["random"], 0) if field != "actions" else drop["adversarial"] > 0.3


def test_the_end_of_an_attack_by_hand() -> None:
    """Q = -(a - 0.5)^2, eps 1, one row at a = 0: 100 steps of 0.01 std to the left reach the edge, from any d <= 1/2."""
    data = logged(4000)
    got = corrupt(data, "actions", mode="adversarial", rate=1.0, critic=critic, generator=generator(3))
    std = float(data.actions.std(0, correction=0))
    moved = (got.dataset.actions - data.actions)[:, 0] / std
    far_left = data.actions[:, 0] < 0.5 - std  # every d is on the left of the maximum: d goes down by 1 and is cut at -1
    assert bool((moved[far_left] <= 0 + 1e-4).all())
    assert float((moved[far_left] <= -1 + 1e-4).float().mean()) > 0.4  # those that began at d <= 0
    assert float(moved.abs().max()) <= 1 + 1e-5


def test_rewards() -> None:
    data = logged()
    at_random = corrupt(data, "rewards", rate=0.5, scale=0.5, generator=generator(4))
    same_but(data, at_random.dataset, "rewards")
    new = at_random.dataset.rewards[at_random.mask]
    assert 14 < float(new.abs().max()) <= 15  # U(-0.5, 0.5) * 30
    assert abs(float(torch.corrcoef(torch.stack((new, data.rewards[at_random.mask])))[0, 1])) < 0.2
    against = corrupt(data, "rewards", mode="adversarial", scale=2.0, generator=generator(4))
    torch.testing.assert_close(against.dataset.rewards[against.mask], -2 * data.rewards[against.mask])


def test_no_rate_no_change_and_the_same_seed_the_same_set() -> None:
    data = logged()
    for field in FIELDS:
        for mode in ("random", "adversarial"):
            none = corrupt(data, field, mode=mode, rate=0.0, critic=critic, policy=policy, generator=generator(5), steps=2)
            same_but(data, none.dataset)
            assert not none.mask.any()
    first, again, other = (corrupt(data, "dynamics", generator=generator(seed)) for seed in (6, 6, 7))
    assert first.dataset.sha256 == again.dataset.sha256 != other.dataset.sha256


def test_mixed_corruption_draws_its_rows_anew() -> None:
    got = corrupt(logged(), list(FIELDS), generator=generator(8))
    assert list(got.masks) == list(FIELDS)
    assert len({int(mask.sum()) for mask in got.masks.values()}) > 1
    assert abs(float(got.mask.float().mean()) - (1 - 0.7**4)) < 0.06


@pytest.mark.parametrize(
    ("fields", "options", "argument"),
    [
        ("states", {}, "fields"),
        ([], {}, "fields"),
        (["actions", "actions"], {}, "fields"),
        ("actions", {"rate": 1.1}, "rate"),
        ("actions", {"rate": -0.1}, "rate"),
        ("actions", {"rate": float("nan")}, "rate"),
        ("actions", {"scale": 0.0}, "scale"),
        ("actions", {"mode": "worst"}, "mode"),
        ("actions", {"mode": "adversarial"}, "critic"),
        ("dynamics", {"mode": "adversarial", "critic": critic}, "policy"),
        ("rewards", {"reward_range": -1.0}, "reward_range"),
        ("actions", {"steps": 0}, "steps"),
    ],
)
def test_bad_input(fields: Any, options: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError, match=argument):
        corrupt(logged(10), fields, generator=generator(0), **options)
