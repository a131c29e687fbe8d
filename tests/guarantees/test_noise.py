"""The noise engine: the same noise for every batch size, exact reductions, nothing spent that was not allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, QueryBudgetExceeded
from tutelage.core.progress import Progress, Task
from tutelage.guarantees.noise import BLOCK, GaussianNoise, Moments, PassBudget, Votes, monte_carlo

NOISE = GaussianNoise(0.5, seed=3)


class Keeper:
    """A reduction that keeps everything: (B, n, classes)."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Tensor]] = {}

    def __call__(self, rows: slice, outputs: Tensor) -> None:
        for row, part in zip(range(rows.start, rows.stop), outputs, strict=True):
            self.seen.setdefault(row, []).append(part.clone())

    @property
    def all(self) -> Tensor:
        return torch.stack([torch.cat(self.seen[row]) for row in sorted(self.seen)])


def outputs(x: Tensor, draws: int, batch_size: int, model: nn.Module | None = None, **settings: object) -> Tensor:
    keeper = Keeper()
    monte_carlo(model or nn.Flatten(), x, NOISE, draws=draws, into=[keeper], batch_size=batch_size, **settings)  # type: ignore[arg-type]
    return keeper.all


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (1, 5, 7), (3, 60, 60)])
def test_the_noise_is_the_same_for_every_batch_size(shape: tuple[int, ...]) -> None:
    x, draws = torch.rand(5, *shape), 37
    expected = torch.stack([NOISE.draws(shape, draws, example=i) for i in range(5)]) + x[:, None]
    for batch_size in (1, 7, 37, 38, 80, 1000):
        assert torch.equal(outputs(x, draws, batch_size), expected.flatten(2)), batch_size


def test_more_draws_begin_with_the_same_ones() -> None:
    numel = 10
    many = NOISE.draws((numel,), 3 * BLOCK // numel)
    for n in (1, 2, BLOCK // numel - 1, BLOCK // numel, BLOCK // numel + 1, 2 * BLOCK // numel + 5):
        assert torch.equal(NOISE.draws((numel,), n), many[:n])


def test_noise_follows_the_id_of_an_example_not_its_place() -> None:
    x = torch.zeros(3, 4)
    ids = [7, 0, 4_000_000_000]
    got = outputs(x, 5, 100, ids=torch.tensor(ids))
    for row, example in enumerate(ids):
        assert torch.equal(got[row], NOISE.draws((4,), 5, example=example))
    assert not torch.equal(NOISE.draws((4,), 5), NOISE.fresh("again").draws((4,), 5))
    assert not torch.equal(NOISE.draws((4,), 5), GaussianNoise(0.5, seed=4).draws((4,), 5))


def test_no_two_examples_share_a_seed() -> None:
    """torch keeps 32 bits of a seed: drawn at random, 300,000 seeds would hold about ten pairs of equal ones."""
    seeds = NOISE.seeds(range(300_000))
    assert len(set(seeds)) == 300_000
    assert all(0 <= seed < 2**32 for seed in seeds)
    a, b = (torch.rand(4, generator=torch.Generator().manual_seed(1 + k * 2**32)) for k in (0, 1))
    assert torch.equal(a, b)  # why: if torch ever takes all 64 bits, seeds may be wider


def test_the_noise_is_gaussian_of_that_sigma_and_independent() -> None:
    draws = torch.cat([NOISE.draws((2,), 2000, example=i) for i in range(10)]).double()
    assert draws.mean().abs() < 4 * 0.5 / 200
    assert draws.std().item() == pytest.approx(0.5, rel=0.02)
    first, second = (NOISE.draws((1,), 20_000, example=i).flatten().double() for i in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03


def test_votes_and_moments_by_hand() -> None:
    given = {0: [[3.0, 1.0], [0.0, 2.0], [5.0, 5.0]], 1: [[0.0, 1.0], [0.0, 1.0], [2.0, 1.0]]}
    votes, moments = Votes(), Moments()
    for part in (slice(0, 1), slice(1, 3)):  # two draws come later than the first
        chunk = torch.tensor([given[0][part], given[1][part]])
        votes(slice(0, 2), chunk)
        moments(slice(0, 2), chunk)
    assert votes.counts.tolist() == [[2, 1], [1, 2]]  # of the equal outputs, the first
    torch.testing.assert_close(moments.mean, torch.tensor([[8 / 3, 8 / 3], [2 / 3, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(moments.variance, torch.tensor([[19 / 3, 13 / 3], [4 / 3, 0.0]], dtype=torch.float64))
    assert moments.n == 3


def test_reductions_do_not_depend_on_the_batch_size_and_lose_no_digits() -> None:
    torch.manual_seed(0)
    x, model = torch.rand(6, 9), nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3))
    results = []
    for batch_size in (11, 50, 4096):
        votes, moments = Votes(), Moments(of=lambda rows, z: z + 1e6)
        monte_carlo(model, x, NOISE, draws=50, into=[votes, moments], batch_size=batch_size)
        results.append((votes.counts, moments.mean, moments.variance))
    everything = outputs(x, 50, 300, model).add(1e6).double().numpy()
    for counts, mean, variance in results:
        assert torch.equal(counts, results[0][0])
        np.testing.assert_allclose(mean, everything.mean(1), atol=0.05)
        np.testing.assert_allclose(variance, everything.var(1, ddof=1), rtol=0.1)
    assert results[0][0].sum(1).tolist() == [50] * 6


def test_the_model_comes_back_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, state = torch.rand(2, 1, 4, 4), torch.get_rng_state()
    assert monte_carlo(model, x, NOISE, draws=10, into=[Votes()]) == 20
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.passed = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passed += len(x)
        return x.flatten(1)


def test_the_budget_is_checked_before_a_pass_is_spent() -> None:
    model, budget = Counting(), PassBudget(100)
    monte_carlo(model, torch.rand(3, 4), NOISE, draws=20, into=[Votes()], budget=budget, batch_size=7)
    assert (budget.spent, model.passed) == (60, 60)
    with pytest.raises(QueryBudgetExceeded, match="60 of 100"):
        monte_carlo(model, torch.rand(3, 4), NOISE, draws=20, into=[Votes()], budget=budget)
    assert (budget.spent, model.passed) == (60, 60)


class Told(Progress):
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.total, self.done = 0.0, 0.0

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        self.total, outer = total, self

        class Counter(Task):
            def advance(self, amount: float = 1, note: str = "") -> None:
                outer.done += amount

        yield Counter()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_progress_counts_every_pass_once(batch_size: int) -> None:
    progress = Told()
    monte_carlo(nn.Flatten(), torch.rand(5, 3), NOISE, draws=10, into=[Votes()], batch_size=batch_size, progress=progress)
    assert (progress.total, progress.done) == (50, 50)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", {"x": torch.rand(2, 4) * 3}),
        ("x", {"x": torch.zeros(0, 4)}),
        ("draws", {"draws": 0}),
        ("batch_size", {"batch_size": 0}),
        ("ids", {"ids": [1]}),
        ("ids", {"ids": [1, 2**32]}),
        ("ids", {"ids": [1, -1]}),
        ("noise", {"noise": 0.25}),
        ("into", {"into": [3]}),
        ("model", {"model": lambda x: x}),
        ("budget", {"budget": 100}),
    ],
)
def test_bad_input_is_named_before_any_pass(argument: str, change: dict[str, object]) -> None:
    model = Counting()
    settings = {"model": model, "x": torch.rand(2, 4), "noise": NOISE, "draws": 3, "into": [Votes()], **change}
    first = [settings.pop(key) for key in ("model", "x", "noise")]
    with pytest.raises(InputError, match=f"^{argument}: "):
        monte_carlo(*first, **settings)  # type: ignore[arg-type]
    assert model.passed == 0


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), "0.5", True])
def test_sigma_must_be_a_positive_number(sigma: object) -> None:
    with pytest.raises(InputError, match="sigma"):
        GaussianNoise(sigma)  # type: ignore[arg-type]


def test_a_variance_needs_two_draws() -> None:
    moments = Moments()
    monte_carlo(nn.Flatten(), torch.rand(2, 4), NOISE, draws=1, into=[moments])
    with pytest.raises(InputError, match="draws"):
        moments.variance  # noqa: B018
