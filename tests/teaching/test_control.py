"""Environments, SAC, logged sets, policies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import line_world
from tutelage.core.errors import CheckpointError, InputError, MissingError
from tutelage.core.rng import generator
from tutelage.data.offline import read_offline
from tutelage.models.ensembles import EnsembleMLP
from tutelage.teaching.control import collect as collecting
from tutelage.teaching.control.collect import CollectConfig, collect, make_sets
from tutelage.teaching.control.environments import evaluate, film, make_environment, start
from tutelage.teaching.control.policies import Policy, member
from tutelage.teaching.control.sac import SAC, SACConfig

LINE = line_world.register()
SMALL = CollectConfig(
    LINE, steps=240, random_steps=40, update_every=3, snapshot_every=80, episodes=3, sac=SACConfig(hidden=16, batch_size=32)
)


def test_a_return_by_hand() -> None:
    """Going straight to 0 costs nothing more; standing still costs ten times x^2."""
    starts = torch.stack([start(make_environment(LINE), 3, "episode", i) for i in range(4)])[:, 0].double()
    home = evaluate(lambda s: -s, LINE, episodes=4, seed=3)
    still = evaluate(lambda s: 0 * s, LINE, episodes=4, seed=3)
    torch.testing.assert_close(home, torch.zeros(4, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(still, -10 * starts.square(), atol=1e-4, rtol=1e-4)
    # actions are cut to 2: from x the point goes x + 2, x + 4, and ends beyond 4 on its way
    away = evaluate(lambda s: torch.full_like(s, 9.0), LINE, episodes=4, seed=3)
    expected = [-sum((x + 2 * k) ** 2 for k in range(1, 3 if x > 0 else 4)) for x in starts.tolist()]
    torch.testing.assert_close(away, torch.tensor(expected, dtype=torch.float64), atol=1e-3, rtol=1e-4)


def test_frames_of_an_episode() -> None:
    frames = film(lambda s: 0 * s, LINE, frames=3, every=2, seed=0)
    assert [frame.shape for frame in frames] == [(4, 6, 3)] * 3


@pytest.mark.parametrize(
    ("policy", "environment", "message"),
    [
        (lambda s: s, "NoSuchWorld-v0", "environment: got NoSuchWorld-v0"),
        (lambda s: s, "CartPole-v1", "action_space"),
        (lambda s: s[:, :0], LINE, "policy: got actions"),
        (lambda s: s * math.nan, LINE, "policy: got actions that are not finite"),
        (None, LINE, "policy: got None"),
        (lambda s: s, lambda: line_world.Line(reward=math.nan), "environment: got a reward of nan"),
        (lambda s: s, 5, "environment: got 5"),
    ],
)
def test_bad_environments_and_policies(policy: Any, environment: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(policy, environment, episodes=2)


def test_the_density_of_a_squashed_gaussian() -> None:
    """The log-density of SAC against torch's own transform."""
    agent = SAC(2, 1, SACConfig(hidden=8), seed=0)
    obs = torch.randn(5, 2, generator=generator(0))
    action, density = agent._sample(obs)
    mean, log_std = agent._moments(obs)
    law = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(density, law.log_prob(action), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(agent.mean_net()(obs)[0], mean)


def test_sac_learns_the_line() -> None:
    found = collect(SMALL)
    assert set(found.sets) == {"random", "replay", "medium"}
    data = found.sets["replay"]
    assert data.expert_return is not None
    assert data.random_return is not None
    assert data.expert_return > data.random_return + 5
    assert data.normalised(data.expert_return) == pytest.approx(100)
    assert data.normalised(data.random_return) == pytest.approx(0)
    assert len(data) == len(found.sets["medium"]) == len(found.sets["random"]) <= 240
    # x' = x + a, and the reward is -x'^2
    torch.testing.assert_close(data.next_observations, data.observations + data.actions)
    torch.testing.assert_close(data.rewards, -data.next_observations[:, 0].square())
    assert torch.equal(data.terminals, data.next_observations[:, 0].abs() > 4)
    assert bool((data.actions.abs() <= 2).all())


def test_a_run_that_is_killed_logs_the_same_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_sets(SMALL, tmp_path / "whole")
    assert not (tmp_path / "whole" / "checkpoint").exists()
    assert (tmp_path / "whole" / "expert" / "policy.json").is_file()
    step, taken = collecting._step, 0

    def stopping(*arguments: Any) -> tuple[Tensor, bool]:
        nonlocal taken
        taken += 1
        if taken > 187:  # in the middle of an episode
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            make_sets(SMALL, tmp_path / "killed")
    resumed = make_sets(SMALL, tmp_path / "killed")
    for quality, file in whole.items():
        assert read_offline(resumed[quality]).sha256 == read_offline(file).sha256
    before = {file: file.stat().st_mtime_ns for file in resumed.values()}
    assert make_sets(SMALL, tmp_path / "killed") == resumed
    assert {file: file.stat().st_mtime_ns for file in resumed.values()} == before
    with pytest.raises(InputError, match="other settings"):
        make_sets(CollectConfig(LINE, seed=1), tmp_path / "killed")


def test_a_policy_acts_the_same_after_it_was_saved(tmp_path: Path) -> None:
    nets = EnsembleMLP((2, 8, 8, 1), 3, generator=generator(0))
    policy = Policy(
        member(nets, 1), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([-2.0]), torch.tensor([4.0])
    )
    x = torch.randn(6, 2, generator=generator(1))
    expected = 1 + 3 * nets((x - policy.mean) / policy.std)[1].tanh()
    torch.testing.assert_close(policy(x), expected)
    again = Policy.load(policy.save(tmp_path / "policy"))
    assert torch.equal(again(x), policy(x))
    assert not any(p.requires_grad for p in again.net.parameters())
    with pytest.raises(MissingError):
        Policy.load(tmp_path)
    file = tmp_path / "policy" / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError):
        Policy.load(tmp_path / "policy")


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: SACConfig(lr=0), "lr"),
        (lambda: SACConfig(discount=1.5), "discount"),
        (lambda: CollectConfig(steps=0), "steps"),
        (lambda: CollectConfig(steps=1500), "steps"),
        (lambda: collect(CollectConfig("NoSuchWorld-v0")), "environment"),
    ],
)
def test_bad_settings(make: Any, argument: str) -> None:
    with pytest.raises(InputError, match=argument):
        make()
