"""Suites: worst case over attacks, told apart stage by stage; and the strings that name threats."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.stand_ins import Quick, stand_in
from tutelage.threats import (
    APGD,
    FGSM,
    FMN,
    L2,
    PGD,
    Attack,
    AttackBatch,
    AttackResult,
    Decision,
    Linf,
    Square,
    Suite,
    TargetedAPGD,
    cross_entropy,
    margin,
    parse_threat,
)

light = settings(max_examples=80, deadline=None, database=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(n: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    """A small net with kinks, samples that it gets right, but for the first four."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
        x = torch.rand(n, 5)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    return model, x, y


def weak_to_strong() -> Suite:
    """Three attacks of growing strength within one budget, the first two far from its edge."""
    budget = Linf(0.12)
    weak = PGD(budget, steps=1, step_size=0.03, start="clean")
    middle = PGD(budget, steps=2, step_size=0.04, start="clean", objective=margin)
    return Suite(budget, (("weak", weak), ("middle", middle), ("strong", PGD(budget, steps=10, restarts=2))))


def test_the_standard_suite_is_what_it_says() -> None:
    suite = Suite.standard(Linf(0.1))
    assert [name for name, _ in suite.attacks] == ["FGSM", "APGD-20 CE", "T9-APGD-20", "T9-APGD-100 near", "Square"]
    fgsm, ce, targeted, nearest, square = (attack for _, attack in suite.attacks)
    assert (fgsm.steps, fgsm.start) == (1, "clean")
    assert (ce.steps, ce.objective) == (20, cross_entropy)
    assert (targeted.steps, targeted.targets) == (20, 9)
    assert (nearest.steps, nearest.targets, nearest.near) == (100, 9, 0.25)
    assert (square.queries, square.patience) == (5000, 200)
    assert [attack.needs_gradients for _, attack in suite.attacks] == [True, True, True, True, False]
    assert all(attack.budget == Linf(0.1) for _, attack in suite.attacks)
    assert suite.fast


def test_stages_are_cumulative_and_monotone() -> None:
    model, x, y = problem()
    result = weak_to_strong().run(model, x, y, seeded())
    weak, middle, strong = result.stages
    assert [stage.name for stage in result.stages] == ["weak", "middle", "strong"]
    assert bool((weak.success <= middle.success).all())
    assert bool((middle.success <= strong.success).all())
    assert torch.equal(strong.success, result.success)
    counts = [int(stage.success.sum()) for stage in result.stages]
    assert 4 <= counts[0] < counts[1] < counts[2] < 24  # otherwise this test says nothing
    assert result.forward == sum(stage.forward for stage in result.stages)
    assert result.backward == sum(stage.backward for stage in result.stages)
    with torch.no_grad():
        assert torch.equal(model(result.x_adv).argmax(1) != y, result.success)


def test_a_stage_sees_only_what_is_left() -> None:
    model, x, y = problem()
    result = weak_to_strong().run(model, x, y, seeded())
    weak, middle, _ = result.stages
    # weak: 24 clean, 20 at the start (4 are wrong already), 20 last looks, 20 judged
    assert (weak.forward, weak.backward) == (24 + 20 + 20 + 20, 20)
    left = 24 - int(weak.success.sum())
    assert middle.forward <= left * (3 + 1)
    assert middle.backward <= left * 2


def test_a_suite_that_breaks_everything_stops_asking() -> None:
    model, x, _ = problem()
    with torch.no_grad():
        wrong = (model(x).argmax(1) + 1) % 3
    result = weak_to_strong().run(model, x, wrong, seeded())
    assert bool(result.success.all())
    assert torch.equal(result.x_adv, x)
    assert [(stage.forward, stage.backward) for stage in result.stages] == [(24, 0), (0, 0), (0, 0)]


def test_the_worst_case_is_the_union_of_the_attacks() -> None:
    model, x, y = problem()
    suite = weak_to_strong()
    clean_starts = tuple((name, replace(attack, start="clean", restarts=1)) for name, attack in suite.attacks)
    suite = replace(suite, attacks=clean_starts)
    alone = [attack.run(model, x, y, seeded()).success for _, attack in suite.attacks]
    union = torch.stack(alone).any(0)
    result = suite.run(model, x, y, seeded())
    assert torch.equal(result.success, union)
    for i, stage in enumerate(result.stages):
        assert torch.equal(stage.success, torch.stack(alone[: i + 1]).any(0))


@dataclass(frozen=True)
class Remembering(PGD):
    """PGD that notes which samples it was given with which seeds."""

    given: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def run_seeded(self, model: nn.Module, x: Tensor, y: Tensor, seeds: Tensor, **extra: Any) -> AttackResult:
        assert bool((extra["reached"] <= 0).all())  # the margin that others reached, of samples that they left unbroken
        self.given.append((x.clone(), seeds.clone()))
        return super().run_seeded(model, x, y, seeds, **extra)


def test_the_union_holds_with_random_starts_and_the_same_seeds() -> None:
    model, x, y = problem()
    budget = Linf(0.06)
    attacks = [Remembering(budget, steps=1), Remembering(budget, steps=2, objective=margin), Remembering(budget, steps=8)]
    result = Suite(budget, tuple((str(i), attack) for i, attack in enumerate(attacks))).run(model, x, y, seeded(3))
    alone = torch.arange(24) < 4  # wrong from the start
    for attack, stage in zip(attacks, result.stages, strict=True):
        (given, seeds), *_ = attack.given
        rows = torch.tensor([int((x == row).all(1).nonzero()) for row in given])
        for row, seed in zip(rows, seeds, strict=True):  # one at a time: neighbours do not matter
            one = PGD.run_seeded(attack, model, x[row : row + 1], y[row : row + 1], seed[None])
            alone[row] |= one.success[0]
        assert torch.equal(alone, stage.success)
    assert torch.equal(alone, result.success)
    assert 4 < int(alone.sum()) < 24


def test_survivors_do_not_depend_on_their_neighbours() -> None:
    """A sample gets the same noise at the same place, whether a neighbour was broken by an earlier stage or not."""
    model, x, y = problem()
    suite = Suite(Linf(0.05), (("a", FGSM(Linf(0.05))), ("b", PGD(Linf(0.05), steps=3))))
    one = suite.run(model, x, y, seeded(4))
    other = y.clone()
    other[:12] = (other[:12] + 1) % 3  # breaks most of the first half from the start, or mends it
    two = suite.run(model, x, other, seeded(4))
    torch.testing.assert_close(one.x_adv[12:], two.x_adv[12:], rtol=0, atol=1e-6)
    assert torch.equal(one.success[12:], two.success[12:])


def test_every_restart_of_every_attack_draws_starts_of_its_own() -> None:
    starts: list[Tensor] = []

    def watch(x: Tensor, x_adv: Tensor) -> Tensor:
        starts.append(x_adv.clone())
        return x_adv

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1)

    attack = PGD(Linf(0.1), steps=1, restarts=2, project=watch)
    suite = Suite(Linf(0.1), (("a", attack), ("b", attack)))
    suite.run(Flat(), torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.long), seeded())
    assert len(starts) == 8  # two stages of two restarts, each with a start and a step
    for one, other in itertools.combinations(starts[::2], 2):
        assert not torch.isclose(one, other).any()


def test_eps_per_sample_in_a_suite() -> None:
    model, x, y = problem()
    budget = Linf(torch.linspace(0, 0.3, 24))
    suite = Suite(budget, (("one", PGD(budget, steps=2)), ("two", PGD(budget, steps=10, objective=margin))))
    result = suite.run(model, x, y, seeded())
    assert bool(((result.x_adv - x).abs().amax(1) <= budget.eps * (1 + 1e-5) + 1e-6).all())


def test_warnings_name_their_stage() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1)

    result = Suite.standard(Linf(0.1)).run(Flat(), torch.rand(4, 3), torch.zeros(4, dtype=torch.long), seeded())
    assert [warning.split(":")[0] for warning in result.warnings] == ["FGSM", "APGD-20 CE", "T9-APGD-20"]


# Quicker stand-ins


def conv_net(width: int = 48) -> nn.Module:
    """Convolutions with BatchNorms between them whose statistics are not trivial, large enough to be worth a stand-in."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 3, stride=2), nn.BatchNorm2d(4 * width), nn.ReLU(),
            nn.Conv2d(4 * width, 2 * width, 3, stride=2, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4),
        )  # fmt: skip
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.3, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
        return net


def images(net: nn.Module, n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 12, 12, generator=seeded(5))
    with torch.no_grad():
        return x, net.eval()(x).argmax(1)


def test_a_stand_in_follows_the_model() -> None:
    net = conv_net()
    x, _ = images(net)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        logits = net(x)
        one = stand_in(net, x, logits)
        assert one is not None
        assert one.folded
        assert not any(isinstance(module, nn.BatchNorm2d) for module in one.modules())
        spread = float(logits.abs().amax())
        torch.testing.assert_close(one(x), logits, rtol=0, atol=0.05 * (1 + spread))
        one.dtype = torch.float32
        torch.testing.assert_close(one(x), logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_no_stand_in_where_it_would_not_follow_or_not_pay() -> None:
    class Random(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(len(x), 4)

    class Labels(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(super().forward(x).argmax(1), 4).float()

    class Uncopied(nn.Sequential):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("one of a kind")

    whole = conv_net()
    x, _ = images(whole)
    with torch.no_grad():
        for net in (Random(*whole), Labels(*whole), Uncopied(*whole), conv_net(8), conv_net().double()):
            inputs = x.to(next(net.parameters()).dtype)
            assert stand_in(net.eval(), inputs, net(inputs)) is None, net


@pytest.mark.parametrize("norm", [Linf(0.01), L2(0.3)])
def test_what_is_found_with_a_stand_in_is_judged_by_the_model(norm: Any) -> None:
    net = conv_net()
    x, y = images(net)
    y[0] = (y[0] + 1) % 4
    suite = Suite.standard(norm)
    result = suite.run(net, x, y, seeded())
    slow = replace(suite, fast=False).run(net, x, y, seeded())
    assert result.search.startswith("BatchNorm folded")
    assert slow.search == "float32"
    with torch.no_grad():
        logits = net(result.x_adv)
    assert torch.equal(logits.argmax(1) != y, result.success)
    torch.testing.assert_close(result.loss, margin(logits, AttackBatch(x, y)), rtol=1e-4, atol=1e-5)
    assert 1 < int(result.success.sum()) < 12  # otherwise this test says nothing
    assert torch.equal(result.success, slow.success)


def test_a_softmax_at_the_end_does_not_hide_the_slopes() -> None:
    """softmax(600 z) is one-hot in float32, and its slopes are 0: only the stand-in sees where to go."""

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 32), nn.Tanh(), nn.Linear(32, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (600 * self.net(x)).softmax(1)

    sure = Sure()
    x, y = images(sure, 40)
    eps = Linf(0.02)
    suite = Suite(eps, (("APGD-20 CE", APGD(eps, 20)), ("Square", Square(eps, 20))), fast=True)
    seen, blind = suite.run(sure, x, y, seeded()), replace(suite, fast=False).run(sure, x, y, seeded())
    plain = suite.run(sure.net, x, y, seeded())
    assert seen.search == "logarithms of its probabilities, float64"
    assert int(blind.success.sum()) < int(seen.success.sum()) < len(x)
    assert int(plain.success.sum()) <= int(seen.success.sum())  # no worse than if it returned its logits
    with torch.no_grad():
        assert torch.equal(sure(seen.x_adv).argmax(1) != y, seen.success)


def test_a_success_that_the_model_does_not_confirm_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = conv_net()
    x, y = images(net)

    class Gullible(Quick):
        """Takes everything for class 0 after the first look."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0.01 + torch.tensor([9.0, 0, 0, 0])

    y = torch.where(y == 0, 1, y)
    with torch.no_grad():
        wrong = net(x).argmax(1) != y
    monkeypatch.setattr("tutelage.threats.suite.stand_in", lambda model, x, logits: Gullible(model, torch.float32, False))
    suite = Suite(Linf(0.02), (("APGD", APGD(Linf(0.02), 10, objective=margin)),), fast=True)
    result = suite.run(net, x, y, seeded())
    slow = replace(suite, fast=False).run(net, x, y, seeded())
    assert torch.equal(result.success, slow.success)
    assert int(wrong.sum()) < int(result.success.sum()) < len(x)


# Patience


class Lying(nn.Module):
    """Two classes, told apart by the mean, rounded so that there is no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        mean = (x.mean((1, 2, 3)) * 255).round() / 255
        return torch.stack([0.52 - mean, mean - 0.52], 1) * 30 + 0 * x.mean((1, 2, 3))[:, None]


def test_square_goes_on_where_gradients_lie() -> None:
    x = torch.full((4, 1, 6, 6), 0.5)
    y = torch.zeros(4, dtype=torch.long)
    result = Suite.standard(Linf(0.03)).run(Lying(), x, y, seeded())
    assert [int(stage.success.sum()) for stage in (result.stages[0], result.stages[-1])] == [0, 4]
    assert any("zero" in warning for warning in result.warnings)


def test_square_gives_up_behind_the_others() -> None:
    model, x, y = problem()
    x, y = x[4:], y[4:]
    square = Square(Linf(0.01), queries=30, patience=7)
    seeds = torch.arange(20)
    high, low = torch.full((20,), 99.0), torch.full((20,), -99.0)
    alone = square.run_seeded(model, x, y, seeds)
    assert int(alone.success.sum()) < 10
    assert square.run_seeded(model, x, y, seeds, reached=high).forward <= 20 + 20 * 7
    assert square.run_seeded(model, x, y, seeds, reached=low).forward == alone.forward
    half = torch.where(torch.arange(20) < 10, high, low)
    mixed = square.run_seeded(model, x, y, seeds, reached=half)
    assert torch.equal(mixed.x_adv[10:], alone.x_adv[10:])
    with torch.no_grad():
        logits = model(x)
    assert square.run_seeded(model, x, y, seeds, logits=logits).forward == alone.forward - 20


# Names


@pytest.mark.parametrize(("text", "budget"), [("linf@8/255", Linf(8 / 255)), (" l2@0.5 ", L2(0.5))])
def test_a_bare_budget_is_the_standard_suite(text: str, budget: Any) -> None:
    assert parse_threat(text) == Suite.standard(budget)


def test_one_attack_by_name() -> None:
    (fgsm,) = parse_threat("fgsm:linf@8/255").attacks
    assert fgsm == ("FGSM", FGSM(Linf(8 / 255)))
    named = {
        "pgd-50": ("PGD-50", PGD(L2(0.5), steps=50)),
        "apgd-50": ("APGD-50", APGD(L2(0.5), steps=50)),
        "targeted-apgd-30": ("T9-APGD-30", TargetedAPGD(L2(0.5), steps=30)),
        "fmn-60": ("FMN-60", FMN(L2(0.5), steps=60)),
        "square-700": ("Square-700", Square(L2(0.5), queries=700)),
        "decision-80": ("Decision-80", Decision(L2(0.5), queries=80)),
    }
    for text, attack in named.items():
        assert parse_threat(f"{text}:l2@0.5").attacks == (attack,)


def test_a_threat_has_the_name_of_what_it_runs() -> None:
    assert parse_threat("linf@8/255").name == "linf@8/255 standard suite"
    names = {text: parse_threat(text).name for text in ("linf@8/255", "fgsm:linf@8/255", "pgd-50:linf@8/255")}
    assert len(set(names.values())) == 3
    assert "standard" not in names["fgsm:linf@8/255"]
    assert "PGD-50" in names["pgd-50:linf@8/255"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "linf",
        ":linf@0.1",
        "fgsm:",
        "fgsm",
        "fgsm@0.1",
        "square:linf@0.1",
        "square-0:linf@0.1",
        "swirl-5:linf@0.1",
        "pgd:linf@0.1",
        "pgd-:linf@0.1",
        "pgd-0:linf@0.1",
        "pgd--1:linf@0.1",
        "pgd-1.5:linf@0.1",
        "pgd-²:linf@0.1",
        "pgd-20:linf@0",
        "pgd-20:l7@0.1",
        "fgsm:pgd-20:linf@0.1",
    ],
)
def test_bad_threat_strings(text: str) -> None:
    with pytest.raises(InputError, match=r"^threats: got .*, wanted "):
        parse_threat(text)


@light
@given(
    st.one_of(
        st.text(max_size=14),
        st.text("pgdfsmlin:@0189/-.e ", max_size=16),
        st.text("0123456789-.", max_size=4).map(lambda steps: f"pgd-{steps}:linf@0.1"),
    )
)
def test_any_text_is_a_suite_or_an_input_error(text: str) -> None:
    try:
        suite = parse_threat(text)
    except InputError:
        return
    assert suite.attacks
    assert all(isinstance(attack, Attack) for _, attack in suite.attacks)


def test_what_is_far_from_broken_is_not_searched_again() -> None:
    """Of two samples the second has lost half of its margin to the attacks before: `near` takes it from 0.5 on."""
    model, x, y = problem()
    with torch.no_grad():
        clean = margin(model(x), AttackBatch(x, y))
    rows = (clean < 0).nonzero().squeeze(1)[:2]
    x, y, clean = x[rows], y[rows], clean[rows]
    reached = clean * torch.tensor([1.0, 0.5])
    seeds = torch.arange(2)
    found = {}
    for near in (1.0, 0.6, 0.4):
        attack = TargetedAPGD(Linf(0.01), steps=5, near=near, retire=False)
        found[near] = attack.run_seeded(model, x, y, seeds, reached=reached)
    assert (found[1.0].x_adv != x).flatten(1).any(1).tolist() == [True, True]
    assert (found[0.6].x_adv != x).flatten(1).any(1).tolist() == [False, True]
    assert torch.equal(found[0.6].x_adv[1], found[1.0].x_adv[1])  # neighbours change nothing
    assert torch.equal(found[0.4].x_adv, x)
    assert found[0.4].backward == 0
    with pytest.raises(InputError, match=r"near: got 1\.5, wanted a share from 0 to 1"):
        TargetedAPGD(Linf(0.1), near=1.5)
