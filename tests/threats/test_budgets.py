"""Budgets: geometry by hand, what must hold for every input, and the strings that name them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tutelage.core.errors import InputError
from tutelage.threats import L1, L2, Budget, Linf, parse_budget

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)
norms = pytest.mark.parametrize("norm", [Linf, L2, L1])
# (x, x_adv, another point) of 1 to 3 samples with 1 to 4 coordinates each, in steps of 1/64: differences are exact in float32
points = st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        *[
            st.lists(st.integers(-128, 128), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
                lambda values: torch.tensor(values).div(64).reshape(shape)
            )
        ]
        * 3
    )
)
radii = st.one_of(st.just(0.0), st.floats(0.01, 3))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(norm: type[Budget], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """In double precision, and not through the code under test."""
    delta = (a.double() - b.double()).flatten(1)
    if norm is L1:
        return delta.abs().sum(1)
    return delta.abs().amax(1) if norm is Linf else delta.square().sum(1).sqrt()


# By hand


def test_linf_projection_by_hand() -> None:
    x = torch.tensor([[0.5, 0.5, 0.5]])
    # eps 0.1: 0.9 is cut to 0.5 + 0.1, 0.45 is inside, 0.0 is cut to 0.5 - 0.1
    torch.testing.assert_close(Linf(0.1).project(x, torch.tensor([[0.9, 0.45, 0.0]])), torch.tensor([[0.6, 0.45, 0.4]]))


def test_l2_projection_by_hand() -> None:
    x = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    # first: delta (3, 4) has length 5, cut to length 1 it is (0.6, 0.8); second: length 0.5 is inside
    projected = L2(1.0).project(x, torch.tensor([[4.0, 5.0], [0.3, 0.4]]))
    torch.testing.assert_close(projected, torch.tensor([[1.6, 1.8], [0.3, 0.4]]))


def test_l1_projection_by_hand() -> None:
    x = torch.zeros(2, 3)
    # first: (3, -2, 0.5) to sum 2: (3 - t) + (2 - t) = 2 at t = 1.5, which is above 0.5, so the third stays 0;
    # second: 0.5 + 0.25 + 0.25 = 1 is inside
    projected = L1(2.0).project(x, torch.tensor([[3.0, -2.0, 0.5], [0.5, -0.25, 0.25]]))
    torch.testing.assert_close(projected, torch.tensor([[1.5, -0.5, 0.0], [0.5, -0.25, 0.25]]))


def test_l1_projection_within_a_range_by_hand() -> None:
    x = torch.tensor([[0.8, 0.5, 0.5]])
    # room upwards 0.2, 0.5, 0.5; wanted 2, 0.4, 0.3, to sum 0.6: the first is full at 0.2, so 0.4 is left for the others:
    # (0.4 - t) + (0.3 - t) = 0.4 at t = 0.15. To project and then to clamp would lose the second and third altogether.
    x_adv = torch.tensor([[2.8, 0.9, 0.8]])
    torch.testing.assert_close(L1(0.6).project_within(x, x_adv, (0.0, 1.0)), torch.tensor([[1.0, 0.75, 0.65]]))
    torch.testing.assert_close(L1(0.6).project(x, x_adv).clamp(0, 1), torch.tensor([[1.0, 0.5, 0.5]]))


@light
@given(points, radii)
def test_l1_projection_within_a_range_is_the_nearest_point(given_points: Any, eps: float) -> None:
    # for a convex set: <x_adv - p, b - p> <= 0 for the projection p and every point b of the set
    x, x_adv, b = (point.clamp(-1, 1) if i == 0 else point for i, point in enumerate(given_points))
    p = L1(eps).project_within(x, x_adv, (-1.0, 1.0))
    assert bool((p.abs() <= 1).all())
    assert bool((distance(L1, p, x) <= eps * (1 + 1e-5) + 1e-6).all())
    inside = L1(eps).project_within(x, b, (-1.0, 1.0))
    assert bool((((x_adv - p) * (inside - p)).sum(1) <= 1e-5).all())


def test_sizes_by_hand() -> None:
    x, x_adv = torch.zeros(2, 1, 1, 2), torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.5]]]])
    assert Linf(1.0).size(x, x_adv).tolist() == [4.0, 0.5]
    assert L2(1.0).size(x, x_adv).tolist() == [5.0, 0.5]
    assert L1(1.0).size(x, x_adv).tolist() == [7.0, 0.5]


def test_steepest_directions_by_hand() -> None:
    grad = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert Linf(1.0).steepest(grad).tolist() == [[1.0, -1.0], [0.0, 0.0]]
    torch.testing.assert_close(L2(1.0).steepest(grad), torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    assert L1(1.0).steepest(grad).tolist() == [[0.0, -1.0], [0.0, 0.0]]  # all on the coordinate that matters most


@pytest.mark.parametrize(("norm", "dual"), [(Linf, 1), (L2, 2), (L1, math.inf)])
def test_steepest_rises_by_the_dual_norm(norm: type[Budget], dual: int) -> None:
    # max over |d| <= 1 of <g, d> is the dual norm of g: the sum of absolutes for Linf, the Euclidean length for L2, the
    # largest absolute for L1
    grad = torch.randn(5, 2, 3, generator=generator())
    direction = norm(1.0).steepest(grad)
    torch.testing.assert_close(distance(norm, direction, torch.zeros_like(direction)), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((grad * direction).flatten(1).sum(1), grad.flatten(1).norm(dual, dim=1))


@norms
def test_eps_per_sample(norm: type[Budget]) -> None:
    x, far = torch.zeros(3, 1, 2, 2), torch.full((3, 1, 2, 2), 9.0)
    budget = norm(torch.tensor([0.0, 0.5, 2.0]))
    torch.testing.assert_close(budget.size(x, budget.project(x, far)), torch.tensor([0.0, 0.5, 2.0]))
    assert torch.equal(budget.sample(x, generator())[0], x[0])
    part = budget.take(torch.tensor([2, 0]))
    torch.testing.assert_close(part.size(x[:2], part.project(x[:2], far[:2])), torch.tensor([2.0, 0.0]))


def test_take_and_scaled_of_one_number() -> None:
    budget = Linf(0.2)
    assert budget.take(torch.tensor([1, 0])).eps == 0.2
    assert budget.scaled(0.5) == Linf(0.1)
    assert L2(torch.tensor([1.0, 2.0])).scaled(3).eps.tolist() == [3.0, 6.0]


# What holds for every input


@norms
@light
@given(points, radii)
def test_projection_is_inside_and_idempotent(norm: type[Budget], given_points: Any, eps: float) -> None:
    x, x_adv, _ = given_points
    once = norm(eps).project(x, x_adv)
    assert bool((distance(norm, once, x) <= eps * (1 + 1e-5) + 1e-6).all())
    torch.testing.assert_close(norm(eps).project(x, once), once, rtol=1e-5, atol=1e-6)


@norms
@light
@given(points, radii)
def test_projection_leaves_what_is_inside(norm: type[Budget], given_points: Any, eps: float) -> None:
    x, x_adv, _ = given_points
    inside = distance(norm, x_adv, x) <= eps
    torch.testing.assert_close(norm(eps).project(x, x_adv)[inside], x_adv[inside], rtol=0, atol=1e-6)


@norms
@light
@given(points, radii)
def test_projection_brings_a_point_no_farther_from_the_budget(norm: type[Budget], given_points: Any, eps: float) -> None:
    # the projection on a convex set is non-expansive; a point b of the budget is its own projection
    x, x_adv, b = given_points
    budget = norm(eps)
    b = budget.project(x, b)
    measure = Linf if norm is Linf else L2  # L1's projection is the Euclidean one
    after = distance(measure, budget.project(x, x_adv), b)
    assert bool((after <= distance(measure, x_adv, b) + 1e-5).all())


@norms
@light
@given(points, radii, st.integers(0, 2**32))
def test_samples_are_inside(norm: type[Budget], given_points: Any, eps: float, seed: int) -> None:
    x = given_points[0]
    drawn = norm(eps).sample(x, generator(seed))
    assert drawn.shape == x.shape
    assert drawn.dtype == x.dtype
    assert bool((distance(norm, drawn, torch.zeros_like(x)) <= eps * (1 + 1e-5)).all())


# Samples


def test_linf_samples_are_uniform() -> None:
    drawn = Linf(0.2).sample(torch.zeros(4000, 2), generator())
    # 8000 numbers, uniform in (-0.2, 0.2): P(|d| < 0.1) = P(d > 0) = 1/2; 4 standard errors = 4 * sqrt(1/4 / 8000) = 0.022
    assert float((drawn.abs() < 0.1).double().mean()) == pytest.approx(0.5, abs=0.022)
    assert float((drawn > 0).double().mean()) == pytest.approx(0.5, abs=0.022)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_l2_samples_are_uniform_in_the_ball(d: int) -> None:
    radius = L2(2.0).sample(torch.zeros(8000, d), generator()).norm(dim=1)
    # half the radius holds 2^-d of the volume; 4 standard errors = 4 * sqrt(1/4 / 8000) = 0.022 at the most
    assert float((radius < 1).double().mean()) == pytest.approx(0.5**d, abs=0.022)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_l1_samples_are_uniform_in_the_ball(d: int) -> None:
    drawn = L1(2.0).sample(torch.zeros(8000, d), generator())
    # half the radius holds 2^-d of the volume, and a first coordinate beyond 1 leaves a ball of half the radius on each
    # side: 2 * 2^-d / 2. 4 standard errors = 0.022 at the most
    assert float((drawn.abs().sum(1) < 1).double().mean()) == pytest.approx(0.5**d, abs=0.022)
    assert float((drawn[:, 0].abs() > 1).double().mean()) == pytest.approx(0.5**d, abs=0.022)
    assert float((drawn[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.022)


@norms
def test_noise_of_a_sample_does_not_depend_on_its_neighbours(norm: type[Budget]) -> None:
    x = torch.zeros(3, 1, 2, 2)
    together = norm(0.3).sample(x, [generator(s) for s in (5, 6, 7)])
    alone = norm(0.3).sample(x[:1], [generator(7)])
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])


@norms
def test_shapes_and_dtypes_are_kept(norm: type[Budget]) -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=generator())
    budget = norm(torch.tensor([0.1, 0.2]))  # float32 eps, float64 inputs
    for out in (budget.project(x, x + 1), budget.sample(x, generator()), budget.steepest(x)):
        assert out.shape == x.shape
        assert out.dtype == torch.float64
    assert budget.size(x, x + 1).shape == (2,)


# Bad input and names


@pytest.mark.parametrize(
    "eps", [-0.1, math.nan, math.inf, "8/255", None, torch.tensor([0.1, -0.1]), torch.tensor([0.1, math.nan]), torch.ones(2, 2)]
)
@norms
def test_bad_eps(norm: type[Budget], eps: Any) -> None:
    with pytest.raises(InputError, match=r"^eps: got .*, wanted a finite number"):
        norm(eps)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("linf@8/255", Linf(8 / 255)),
        ("l2@0.5", L2(0.5)),
        (" L2@1e-2 ", L2(0.01)),
        ("LINF@.25", Linf(0.25)),
        ("linf@1e-1/2e+0", Linf(0.05)),
        ("l2@+3", L2(3.0)),
        ("L1@12", L1(12.0)),
    ],
)
def test_good_budget_strings(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linf",
        "linf@",
        "@0.1",
        "l3@0.1",
        "linf 0.1",
        "linf@0",
        "linf@-0.1",
        "linf@0/255",
        "linf@8/0",
        "linf@8/255/2",
        "linf@nan",
        "linf@inf",
        "linf@1e999",
        "linf@.",
        "linf@1e",
        "linf@0.1 l2@0.1",
        "linf@1_0",
    ],
)
def test_bad_budget_strings(text: str) -> None:
    with pytest.raises(InputError, match=r"^threats: got .*, wanted "):
        parse_budget(text)


@light
@given(st.sampled_from(["linf", "l2", "l1", "Linf", "L2", "L1"]), st.integers(1, 999), st.integers(1, 999))
def test_fractions_are_divided(norm: str, numerator: int, denominator: int) -> None:
    assume(norm.lower() != "linf" or numerator < denominator)  # wider than all pixels: refused
    budget = parse_budget(f"{norm}@{numerator}/{denominator}")
    assert budget.eps == numerator / denominator
    assert budget.norm == norm.lower()


@pytest.mark.parametrize("text", ["linf@1", "linf@8", "linf@255/255"])
def test_linf_budgets_as_wide_as_all_pixels_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="below 1, as pixels are in"):
        parse_budget(text)


@light
@given(st.sampled_from([Linf, L2, L1]), st.one_of(st.integers(1, 255).map(lambda i: i / 255), st.floats(1e-4, 100)))
@example(Linf, 8 / 255)
def test_a_budget_can_be_read_back_from_its_name(norm: type[Budget], eps: float) -> None:
    assume(norm is not Linf or eps < 1)
    read = parse_budget(str(norm(eps)))
    assert type(read) is norm
    assert read.eps == pytest.approx(eps, rel=1e-5)  # six digits are shown


@light
@given(
    st.one_of(
        st.text(max_size=12), st.text("linf2@/.+-e0189 ", max_size=12), st.text("/.+-e018", max_size=8).map("l2@".__add__)
    )
)
@example("linf@²")
@example("linf@--1")
def test_any_text_is_a_budget_above_zero_or_an_input_error(text: str) -> None:
    try:
        budget = parse_budget(text)
    except InputError:
        return
    assert isinstance(budget.eps, float)
    assert 0 < budget.eps < math.inf


def test_names() -> None:
    assert str(Linf(8 / 255)) == "linf@8/255"
    assert str(L2(0.5)) == "l2@0.5"
    assert str(L2(1)) == "l2@1"
    assert str(Linf(torch.tensor([0.1]))) == "linf@per-sample"


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("eps", [0.25, torch.tensor([0.0, 0.1, 0.6])])
def test_a_clamp_to_the_box_is_the_projection(eps: float | torch.Tensor, bounds: tuple[float, float] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 5, generator=generator)
    x_adv = 4 * torch.rand(3, 2, 5, generator=generator) - 1.5
    box = Linf(eps).box(x, bounds)
    assert box is not None
    assert torch.equal(x_adv.clamp(*box), Linf(eps).project_within(x, x_adv, bounds))


def test_the_box_by_hand_and_who_has_none() -> None:
    x = torch.tensor([[0.1, 0.5, 0.9]])
    box = Linf(0.25).box(x, (0.0, 1.0))
    assert box is not None
    assert torch.allclose(box[0], torch.tensor([[0.0, 0.25, 0.65]]))
    assert torch.allclose(box[1], torch.tensor([[0.35, 0.75, 1.0]]))

    class Mine(Linf):
        """May project otherwise than its parent."""

    for other in (L2(0.25), L1(0.25), Mine(0.25)):
        assert other.box(x, (0.0, 1.0)) is None
