"""RIQL against its card: the invariants, one update worked out independently, limits, resumption, and the refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.errors import CheckpointError, InputError, NotFinite
from tutelage.core.rng import generator
from tutelage.data.offline import OfflineDataset
from tutelage.data.offline.chain import chain_dataset
from tutelage.methods.decide.riql import (
    RIQL,
    RIQLConfig,
    corruption_matrix,
    huber,
    make_learner,
    quantile,
    suspects,
    target_tail_stats,
)
from tutelage.methods.decide.riql.diagnostics import _auroc, kurtosis
from tutelage.teaching.control.offline import BehaviourCloning, OfflineConfig

TINY: dict[str, Any] = {"hidden": 16, "batch_size": 32}


def logged(seed: int = 0, n: int = 200, **changes: Any) -> OfflineDataset:
    g = generator(seed, "logged")
    fields: dict[str, Any] = {
        "observations": torch.randn(n, 3, generator=g) * torch.tensor([1.0, 5.0, 0.1]) + 2,
        "actions": torch.rand(n, 2, generator=g) * 4 - 1,
        "rewards": torch.randn(n, generator=g),
        "next_observations": torch.randn(n, 3, generator=g) * torch.tensor([1.0, 5.0, 0.1]) + 2,
        "terminals": torch.rand(n, generator=g) < 0.2,
        "timeouts": torch.zeros(n, dtype=torch.bool),
        "action_low": torch.tensor([-1.0, -1.0]),
        "action_high": torch.tensor([3.0, 3.0]),
    }
    return OfflineDataset(**{**fields, **changes})


def weights(learner: Any, *names: str) -> list[Tensor]:
    return [p.detach().clone() for name in names or learner.nets for p in learner.nets[name].parameters()]


def close(a: list[Tensor], b: list[Tensor], **how: float) -> None:
    for ours, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(ours, theirs, **how)


# the pieces


def test_the_quantile_is_torchs_and_its_ends_are_the_extremes() -> None:
    values = torch.randn(2, 5, 7, generator=generator(0))
    for level in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        torch.testing.assert_close(quantile(values, level), torch.quantile(values, level, dim=1))
    assert torch.equal(quantile(values, 0.25), values.sort(1).values[:, 1])  # the second smallest of five
    assert torch.equal(quantile(values, 0.0), values.amin(1))
    assert torch.equal(quantile(values, 1.0), values.amax(1))
    same = values[:, :1].expand(2, 5, 7)
    for level in (0.0, 0.3, 1.0):
        torch.testing.assert_close(quantile(same, level), values[:, 0])


def test_hubers_loss_by_hand() -> None:
    """sigma 1/2: beta 4; 2 lies in the quadratic zone, 2^2 / 8; 6 does not, 6 - 2."""
    x = torch.tensor([2.0, -6.0], requires_grad=True)
    loss = huber(x, 0.5)
    assert loss.tolist() == [0.5, 4.0]
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.tolist() == [0.5, -1.0]  # x / beta, then the sign
    assert huber(x, None).tolist() == [2.0, 18.0]
    far = torch.tensor([-300.0, 70.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(huber(far, 0.01).sum(), far)
    torch.testing.assert_close(gradient, far.detach() / 10_000)  # sigma to 0: the squared loss, scaled


def test_the_bounds_of_the_targets_by_hand() -> None:
    data = logged(rewards=torch.linspace(-4, 2, 200))
    learner = RIQL(data, RIQLConfig(discount=0.9, reward_scale=0.5, **TINY))
    torch.testing.assert_close(learner.clip, torch.tensor([[-20.0, 10.0]]))  # 0.5 * (-4, 2) / (1 - 0.9)
    positive = RIQL(logged(rewards=torch.ones(200)), RIQLConfig(discount=0.5, **TINY))
    torch.testing.assert_close(positive.clip, torch.tensor([[0.0, 2.0]]))
    fixed = RIQL(data, RIQLConfig(target_clip=(-1.0, 0.5), **TINY))
    y = fixed.targets_of(data)
    assert float(y.min()) == -1.0
    assert float(y.max()) == 0.5


def test_only_true_ends_stop_the_bootstrap() -> None:
    ended = torch.arange(200) < 100
    for name, stops in (("terminals", True), ("timeouts", False)):
        learner = RIQL(logged(**{"terminals": torch.zeros(200, dtype=torch.bool), name: ended}), RIQLConfig(**TINY))
        with torch.no_grad():
            learner.nets["value"].biases[-1].add_(7.0)
        extra = learner.targets_of(learner.sets[0]) - learner.sets[0].rewards
        assert bool((extra[:100].abs() < 1e-6).all()) is stops
        assert float(extra[100:].min()) > 4


# one update, worked out with nothing of the package


def one_update(learner: RIQL, config: RIQLConfig) -> dict[str, float]:
    """Losses on the batch that comes next, by loops over critics."""
    index = torch.randint(200, (config.batch_size,), generator=learner.generator)
    data = learner.sets[0]
    both = torch.cat((data.observations, data.next_observations)).numpy()
    mean, std = (both.mean(0), both.std(0) + 1e-3) if config.normalise else (0.0, 1.0)
    s, after = ((x[index] - torch.tensor(mean)) / torch.tensor(std) for x in (data.observations, data.next_observations))
    a = (data.actions[index] - 1) / 2  # [-1, 3] to [-1, 1]

    def net(name: str, k: int, x: Tensor) -> Tensor:
        layers = learner.nets[name]
        for i in range(3):
            x = x @ layers.weights[i][k] + layers.biases[i][k]
            x = x.clamp(min=0) if i < 2 else x
        return x

    with torch.no_grad():
        targets = torch.stack([net("target", k, torch.cat((s, a), 1))[:, 0] for k in range(config.critics)])
        q = torch.quantile(targets, config.quantile, dim=0)
        u = q - net("value", 0, s)[:, 0]
        y = data.rewards[index] + config.discount * torch.where(data.terminals[index], 0.0, net("value", 0, after)[:, 0])
        error = torch.stack([y - net("critic", k, torch.cat((s, a), 1))[:, 0] for k in range(config.critics)])
        beta = math.inf if config.sigma is None else config.sigma**-2
        small = error.abs() < beta
        by_hand = torch.where(small, 0.5 * error**2 / (1 if math.isinf(beta) else beta), error.abs() - 0.5 * beta)
        weight = torch.minimum((config.temperature * u).exp(), torch.tensor(100.0))
        return {
            "value_loss": float((torch.where(u < 0, 1 - config.expectile, config.expectile) * u**2).mean()),
            "critic_loss": float(by_hand.mean() if not math.isinf(beta) else (0.5 * error**2).mean()),
            "policy_loss": float((weight * ((net("actor", 0, s).tanh() - a) ** 2).sum(1)).mean()),
            "q": float(q.mean()),
        }


@pytest.mark.parametrize(
    "config",
    [
        RIQLConfig(critics=3, quantile=0.25, sigma=2.0, target_clip=None, **TINY),
        RIQLConfig.iql(target_clip=None, **TINY),
    ],
    ids=["riql", "iql"],
)
def test_an_update_is_that_of_the_paper(config: RIQLConfig) -> None:
    learner, twin = (RIQL(logged(), config, seed=1) for _ in range(2))
    for one in (learner, twin):  # away from the start, where the critics are nearly equal
        with torch.no_grad():
            for name in ("critic", "target", "value"):
                one.nets[name].weights[-1].mul_(100.0 if name != "value" else 3.0)
    expected = one_update(twin, config)
    before, critic = weights(learner, "target"), weights(learner, "critic")
    learner.fit(1)
    assert {name: values[0] for name, values in learner.history[0].items() if name != "step"} == pytest.approx(
        expected, rel=1e-4
    )
    moved = weights(learner, "critic")
    assert any(not torch.equal(a, b) for a, b in zip(critic, moved, strict=True))
    expected_target = [0.995 * old + 0.005 * new for old, new in zip(before, moved, strict=True)]
    close(weights(learner, "target"), expected_target)


def test_two_critics_their_minimum_and_a_squared_loss_are_iql() -> None:
    pair = [
        RIQL(logged(), config, seed=2)
        for config in (
            RIQLConfig.iql(**TINY),
            RIQLConfig(critics=2, quantile=0.0, sigma=None, normalise=False, **TINY),
        )
    ]
    for learner in pair:
        learner.fit(20)
    close(weights(pair[0]), weights(pair[1]), rtol=0, atol=0)


def test_without_a_temperature_the_policy_is_behaviour_cloning() -> None:
    cloned = BehaviourCloning(logged(), OfflineConfig(**TINY), seed=3)
    ours, weighted = (RIQL(logged(), RIQLConfig(temperature=t, **TINY), seed=3) for t in (0.0, 3.0))
    for learner in (cloned, ours, weighted):
        learner.fit(40)
    close(weights(ours, "actor"), weights(cloned, "actor"))
    assert not torch.allclose(weights(weighted, "actor")[0], weights(cloned, "actor")[0])


def test_an_expectile_of_one_half_is_half_the_squared_error() -> None:
    learner = RIQL(logged(), RIQLConfig(expectile=0.5, **TINY), seed=4)
    expected = one_update(RIQL(logged(), RIQLConfig(expectile=0.5, **TINY), seed=4), learner.config)
    learner.fit(1)
    assert learner.history[0]["value_loss"][0] == pytest.approx(expected["value_loss"], rel=1e-4)
    u = torch.tensor([-3.0, 1.0])
    assert float((0.5 * u.square()).mean()) == float(((0.5 - (u < 0).float()).abs() * u.square()).mean())


def test_the_gaussian_policy_has_its_density() -> None:
    learner = RIQL(logged(), RIQLConfig(policy="gaussian", **TINY))
    actor = learner.nets["actor"]
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([[[0.3, -9.0]]]))  # the second is cut at -5
    s, a = torch.randn(1, 4, 3, generator=generator(0)), torch.zeros(1, 4, 2)
    law = torch.distributions.Normal(actor(s).tanh(), torch.tensor([0.3, -5.0]).exp())
    torch.testing.assert_close(learner.imitation(s, a), -law.log_prob(a).sum(-1))
    learner.fit(3)
    assert learner.policy(logged().observations).shape == (200, 2)


# several sets at once


def test_a_set_among_others_is_learned_as_alone() -> None:
    sets, config = [logged(0), logged(1), logged(2)], RIQLConfig(**TINY)
    together = RIQL(sets, config, seed=5)
    together.fit(30)
    x = logged(9).observations
    for i, data in enumerate(sets):
        alone = RIQL(data, config, seed=5)
        alone.fit(30)
        torch.testing.assert_close(together.policies[i](x), alone.policy(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(together.values(x, data.actions, i), alone.values(x, data.actions), rtol=1e-3, atol=1e-4)
        assert [row["q"][i] for row in together.history] == pytest.approx([row["q"][0] for row in alone.history], rel=1e-3)
    with pytest.raises(InputError, match="policies"):
        _ = together.policy


# known values


def chain_error(config: RIQLConfig, steps: int) -> tuple[float, float]:
    """mean |Q - exact Q| over states and actions, learned on the chain as it is, and with 30 % wrong next states."""
    (clean, exact), (wrong, _) = (chain_dataset(2000, wrong=w, expectile=0.7, discount=0.5) for w in (0.0, 0.3))
    learner = RIQL([clean, wrong], config, seed=0)
    learner.fit(steps)
    states, errors = torch.eye(5), []
    for run in (0, 1):
        q = torch.stack([learner.values(states, torch.full((5, 1), a), run).mean(0) for a in (-1.0, 1.0)], 1)
        errors.append(float((q - exact).abs().mean().detach()))
    return errors[0], errors[1]


def test_the_chain_converges_to_its_exact_values_and_huber_resists_wrong_next_states() -> None:
    """Values lie between 0.3 and 10. Wrong next states pull a mean far, a median hardly."""
    shared: dict[str, Any] = {"hidden": 32, "batch_size": 128, "lr": 3e-3, "discount": 0.5, "polyak": 0.05}
    squared = chain_error(RIQLConfig.iql(**shared), 400)
    robust = chain_error(RIQLConfig(sigma=3.0, quantile=0.25, **shared), 400)
    assert squared[0] < 0.15
    assert robust[0] < 0.15
    assert squared[1] > 0.25
    assert robust[1] < 0.5 * squared[1]


# resuming


def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RIQLConfig(**TINY)
    whole = RIQL([logged(0), logged(1)], config, seed=6)
    whole.fit(40)
    killed = RIQL([logged(0), logged(1)], config, seed=6)
    update = killed._update

    def stopping() -> dict[str, Tensor]:
        if killed.step == 33:
            raise KeyboardInterrupt
        return update()

    monkeypatch.setattr(killed, "_update", stopping)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(40, checkpoint=tmp_path, every=10)
    resumed = RIQL([logged(0), logged(1)], config, seed=6)
    resumed.fit(40, checkpoint=tmp_path, every=10)
    close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert resumed.history == whole.history
    for other in (
        RIQL([logged(0), logged(1)], config, seed=7),
        RIQL([logged(1), logged(0)], config, seed=6),
        RIQL([logged(0), logged(1)], RIQLConfig.iql(**TINY), seed=6),
    ):
        with pytest.raises(CheckpointError, match="another run"):
            other.fit(40, checkpoint=tmp_path)
    with pytest.raises(InputError, match="steps: got 50"):
        resumed.fit(50)


# what hurts


def test_kurtosis_and_auroc_by_hand() -> None:
    assert kurtosis(torch.tensor([1.0, -1.0, 1.0, -1.0])) == pytest.approx(-2.0)
    # (4, 0, 0, 0) less its mean 1: (3, -1, -1, -1); fourth moment 21, variance 3
    assert kurtosis(torch.tensor([4.0, 0, 0, 0])) == pytest.approx(21 / 9 - 3)
    assert kurtosis(torch.ones(3)) == 0.0
    # positives 0.9 and 0.5, negatives 0.5 and 0.1: 4 pairs, one tie
    score, positive = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([True, True, False, False])
    assert _auroc(score, positive) == pytest.approx(3.5 / 4)
    assert _auroc(score, torch.ones(4, dtype=torch.bool)) is None


def test_wrong_rows_stand_out() -> None:
    rewards = torch.zeros(200)
    rewards[:20] = 50.0 * (-1.0) ** torch.arange(20)
    data, mask = logged(rewards=rewards), torch.arange(200) < 20
    learner = RIQL(data, RIQLConfig(**TINY))
    learner.fit(30)
    stats = target_tail_stats(learner, mask)
    assert stats.auroc is not None
    assert stats.auroc > 0.99
    assert stats.kurtosis > 3
    assert stats.error_corrupted is not None
    assert stats.error_clean is not None
    assert stats.error_corrupted > 10 * stats.error_clean
    assert set(suspects(learner, 20).tolist()) == set(range(20))
    assert target_tail_stats(learner).auroc is None
    none = target_tail_stats(learner, torch.zeros(200, dtype=torch.bool))
    assert (none.auroc, none.error_corrupted) == (None, None)
    for bad in (torch.zeros(199, dtype=torch.bool), torch.zeros(200), None):
        if bad is not None:
            with pytest.raises(InputError, match="mask"):
                target_tail_stats(learner, bad)


def test_the_matrix_of_corruptions_and_learners() -> None:
    n = 60
    g = generator(0, "pendulum")
    data = logged(
        n=n, actions=torch.rand(n, 1, generator=g) * 4 - 2, action_low=torch.tensor([-2.0]),
        action_high=torch.tensor([2.0]), random_return=-1200.0, expert_return=-150.0,
    )  # fmt: skip
    learners = {"RIQL": RIQLConfig(**TINY), "BC": OfflineConfig(**TINY)}
    matrix = corruption_matrix(data, "Pendulum-v1", learners, fields=("rewards", "dynamics"), steps=3, episodes=1, seeds=(0,))
    assert matrix.corruptions == ("none", "rewards", "dynamics")
    assert all(math.isfinite(score) for values in matrix.scores.values() for score in values)
    # rewards do not reach behaviour cloning
    assert matrix.scores["none", "BC"] == pytest.approx(matrix.scores["rewards", "BC"])
    assert matrix.worst("RIQL") in ("rewards", "dynamics")
    assert "dynamics" in matrix.table()
    reference = RIQL(data, RIQLConfig(**TINY))
    against = corruption_matrix(
        data, "Pendulum-v1", {"BC": learners["BC"]}, fields=("actions",), mode="adversarial", reference=reference, steps=3,
        episodes=1,
    )  # fmt: skip
    assert ("actions", "BC") in against.scores


# refusals


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: RIQLConfig(critics=0), "critics"),
        (lambda: RIQLConfig(quantile=1.5), "quantile"),
        (lambda: RIQLConfig(sigma=0.0), "sigma"),
        (lambda: RIQLConfig(expectile=1.0), "expectile"),
        (lambda: RIQLConfig(temperature=-1.0), "temperature"),
        (lambda: RIQLConfig(discount=1.1), "discount"),
        (lambda: RIQLConfig(target_clip="paper"), "target_clip"),
        (lambda: RIQLConfig(target_clip=(1.0, -1.0)), "target_clip"),
        (lambda: RIQLConfig(reward_scale=0.0), "reward_scale"),
        (lambda: RIQLConfig(policy="softmax"), "policy"),  # type: ignore[arg-type]
        (lambda: RIQLConfig(normalise="yes"), "normalise"),  # type: ignore[arg-type]
        (lambda: RIQL([]), "data"),
        (lambda: RIQL("data.hdf5"), "data"),  # type: ignore[arg-type]
        (lambda: RIQL([logged(), logged(n=100)]), "data"),
        (lambda: RIQL([logged(), logged(action_high=torch.tensor([3.0, 4.0]))]), "data"),
        (lambda: RIQL(logged(), RIQLConfig(**TINY)).fit(0), "steps"),
        (lambda: RIQL(logged(), RIQLConfig(**TINY)).values(torch.zeros(1, 3), torch.zeros(1, 2), 1), "run"),
        (lambda: make_learner(logged(), {"critics": 3}), "config"),  # type: ignore[arg-type]
        (lambda: corruption_matrix(logged(), "Pendulum-v1", {}), "learners"),
        (lambda: suspects(RIQL(logged(), RIQLConfig(**TINY)), 300), "n"),
    ],
)
def test_bad_input(make: Any, argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        make()


def test_one_critic_has_no_quantile() -> None:
    with pytest.warns(UserWarning, match="one critic"):
        RIQLConfig(critics=1)
    RIQLConfig(critics=1, quantile=0.0)


def test_a_loss_that_overflows_stops_the_run() -> None:
    learner = RIQL(logged(rewards=torch.full((200,), 3e38)), RIQLConfig.iql(lr=1.0, target_clip=None, **TINY))
    before = weights(learner)
    with pytest.raises(NotFinite, match="step 0: critic_loss"):
        learner.fit(20)
    close(weights(learner), before, rtol=0, atol=0)


def test_the_initial_net_is_the_papers() -> None:
    learner = RIQL(logged(), RIQLConfig(**TINY))
    for bias in learner.nets["critic"].biases[:2]:
        assert bool((bias == 0.1).all())
    assert float(learner.nets["critic"].weights[2].detach().abs().max()) <= 0.003
    assert learner.optimizer.param_groups[0]["lr"] == 3e-4
    assert F.mse_loss(*[torch.cat([p.flatten() for p in weights(learner, n)]) for n in ("critic", "target")]) == 0
