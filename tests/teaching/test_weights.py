"""Sample weights: closed forms, limits, the running mean, and what several processes see."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.core.shares import share_of, sharing
from tutelage.teaching.fit import Context
from tutelage.teaching.weights import ClassWeights, KLDROWeights, dro_value, dro_weights, geometry_weights, weighted_mean

LOSSES = torch.tensor([0.1, 2.3, 0.0, 1.1, 4.0, 0.7], dtype=torch.float64)


def context() -> Context:
    return Context(0, 10, 1.0, torch.Generator())


def test_weights_by_hand() -> None:
    # r = 1, losses 0 and ln 3: exp gives 1 and 3, mean 2, weights 1/2 and 3/2
    weights = KLDROWeights(1.0, eta=1.0)(torch.tensor([0.0, math.log(3)]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5]))


def test_the_running_u_by_hand() -> None:
    # u = 2 after losses (0, ln 3); then losses (0, 0): mean 1, u = 0.75 * 2 + 0.25 * 1 = 1.75, weights 1 / 1.75
    weights = KLDROWeights(1.0, eta=0.25)
    weights(torch.tensor([0.0, math.log(3)]))
    torch.testing.assert_close(weights(torch.zeros(2)), torch.full((2,), 1 / 1.75))
    assert weights.value == pytest.approx(math.log(1.75))


@pytest.mark.parametrize("r", [0.05, 0.3, 1.0, 7.0])
def test_invariant_3_with_eta_1_they_are_softmax_weights(r: float) -> None:
    expected = len(LOSSES) * softmax(LOSSES.numpy() / r)
    np.testing.assert_allclose(KLDROWeights(r, eta=1)(LOSSES).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(dro_weights(LOSSES, r).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(KLDROWeights(r, eta=0.3)(LOSSES).numpy(), expected, rtol=1e-12)  # the first batch begins u


def test_invariants_1_and_2_the_limits_of_r() -> None:
    torch.testing.assert_close(KLDROWeights(1e6, eta=1)(LOSSES), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-5)
    smallest = KLDROWeights(1e-4, eta=1)(LOSSES)
    assert smallest.tolist() == pytest.approx([0, 0, 0, 0, 6, 0], abs=1e-9)


def test_they_are_the_worst_case_of_the_regularised_problem() -> None:
    # no other point of the simplex gives more of sum w l - r KL(w || uniform), whose value is F
    r, best = 0.8, dro_weights(LOSSES, 0.8) / 6

    def value(w: Tensor) -> float:
        return float((w * LOSSES).sum() - r * (w * (6 * w).log()).sum())

    assert value(best) == pytest.approx(dro_value(LOSSES, r), abs=1e-12)
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = torch.softmax(best.log() + 0.3 * torch.randn(6, generator=rng, dtype=torch.float64), 0)
        assert value(other) < value(best)


def test_invariant_4_the_value_lies_between_mean_and_maximum_and_falls_in_r() -> None:
    values = [dro_value(LOSSES, r) for r in (1e-3, 0.1, 1.0, 10.0, 1e4)]
    assert values == sorted(values, reverse=True)
    assert values[2] == pytest.approx(float(logsumexp(LOSSES.numpy())) - math.log(6))
    assert float(LOSSES.mean()) < values[-1] < values[0] < float(LOSSES.max())


def test_the_weighted_gradient_is_that_of_the_value() -> None:
    losses = LOSSES.clone().requires_grad_()
    (0.7 * ((losses / 0.7).logsumexp(0) - math.log(6))).backward()
    torch.testing.assert_close(losses.grad, dro_weights(LOSSES, 0.7) / 6)


def test_weights_carry_no_gradient() -> None:
    losses = LOSSES.clone().requires_grad_()
    weights = KLDROWeights(1.0)
    loss = weighted_mean(losses, weights, torch.zeros(6, dtype=torch.long), context())
    loss.backward()
    torch.testing.assert_close(losses.grad, KLDROWeights(1.0)(LOSSES) / 6)


@pytest.mark.parametrize("shift", [-3.0, 100.0, 5000.0])
def test_invariant_8_a_common_shift_changes_nothing_and_nothing_overflows(shift: float) -> None:
    torch.testing.assert_close(KLDROWeights(0.5, eta=1)(LOSSES + shift), KLDROWeights(0.5, eta=1)(LOSSES))


def test_no_weight_exceeds_batch_size_over_eta() -> None:
    weights = KLDROWeights(0.01, eta=0.25)
    weights(torch.zeros(4))
    assert float(weights(torch.tensor([0.0, 0.0, 0.0, 50.0])).max()) == pytest.approx(4 / 0.25)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (17.0, -3.0), (1e-3, 40.0)])
def test_invariant_7_minmax_does_not_see_affine_maps(a: float, b: float) -> None:
    # losses to [-1, 1]: 0.1 -> -0.95, 2.3 -> 0.15, 0 -> -1, 1.1 -> -0.45, 4 -> 1, 0.7 -> -0.65
    expected = 6 * softmax(np.array([-0.95, 0.15, -1.0, -0.45, 1.0, -0.65]) / 0.4)
    weights = KLDROWeights(0.4, eta=1, normalise="minmax")(a * LOSSES + b)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-8)


def test_invariant_7_minmax_of_equal_losses_is_uniform() -> None:
    assert KLDROWeights(0.4, eta=1, normalise="minmax")(torch.full((3,), 2.5)).tolist() == [1, 1, 1]


def test_the_cap_bounds_the_weights() -> None:
    free, capped = KLDROWeights(0.5, eta=1)(LOSSES), KLDROWeights(0.5, eta=1, cap=2.0)(LOSSES)
    torch.testing.assert_close(capped, free.clamp_max(2))
    assert float(free.max()) > 2


def test_state_dict_round_trip() -> None:
    first, second = KLDROWeights(0.5), KLDROWeights(0.5)
    first(LOSSES)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(LOSSES / 2), second(LOSSES / 2), rtol=0, atol=0)


def test_two_processes_agree_on_the_weights_of_the_whole_batch() -> None:
    """Each knows its rows only and means over the batch; batch_mean is played by hand: rows / whole times, then summed."""
    losses = torch.tensor([0.2, 3.0, 1.0, 0.5, 2.0])
    shares = [share_of(5, rank, 2) for rank in (0, 1)]
    filled: list[Mapping[str, float]] = []
    for share in shares:  # first, what each would send

        def remember(values: Mapping[str, float]) -> dict[str, float]:
            filled.append(dict(values))
            return dict(values)

        with sharing(share):
            KLDROWeights(0.7)(losses[share.start : share.stop], None, Context(0, 1, 1.0, torch.Generator(), remember))
    mean = {key: sum(one[key] * share.weight / 2 for one, share in zip(filled, shares, strict=True)) for key in filled[0]}
    found = []
    for share in shares:
        ctx = Context(0, 1, 1.0, torch.Generator(), lambda values: mean)
        with sharing(share):
            found.append(KLDROWeights(0.7)(losses[share.start : share.stop], None, ctx))
    torch.testing.assert_close(torch.cat(found), KLDROWeights(0.7)(losses))


def test_class_weights_by_hand() -> None:
    # counts 90 and 10: 100 / (2 n_c) is 5/9 and 5, so that both classes weigh 50 in sum
    weights = ClassWeights([90, 10])(torch.zeros(3), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(weights, torch.tensor([5 / 9, 5.0, 5.0]))
    half = ClassWeights([90, 10], power=0.5).of_class
    assert float(half[1] / half[0]) == pytest.approx(3.0)
    assert float((half * torch.tensor([90, 10])).sum()) == pytest.approx(100)
    assert ClassWeights([90, 10], power=0).of_class.tolist() == [1, 1]


def test_geometry_weights_by_hand() -> None:
    # K = 10, shift 0: kappa 5 is in the middle, (1 + tanh 0) / 2; kappa 0 gives (1 + tanh 5) / 2
    weights = geometry_weights(torch.tensor([0, 5, 10]), 10, 0.0)
    expected = [(1 + math.tanh(5)) / 2, 0.5, (1 - math.tanh(5)) / 2]
    assert weights.tolist() == pytest.approx(expected, rel=1e-9)
    assert float(geometry_weights(torch.tensor([10]), 10, -100.0)) > 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"r": 0.0}, "r"),
        ({"r": -1.0}, "r"),
        ({"r": math.inf}, "r"),
        ({"eta": 0.0}, "eta"),
        ({"eta": 1.5}, "eta"),
        ({"normalise": "z-score"}, "normalise"),
        ({"normalise": "minmax"}, "eta"),
        ({"cap": 0.5}, "cap"),
    ],
)
def test_wrong_constants_are_refused(arguments: dict, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got"):
        KLDROWeights(**arguments)


def test_wrong_inputs_are_refused() -> None:
    for losses in (torch.zeros(2, 3), torch.zeros(0), torch.zeros(3, dtype=torch.long), [1.0]):
        with pytest.raises(InputError, match="losses"):
            KLDROWeights()(losses)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="counts"):
        ClassWeights([3, 0])
    with pytest.raises(InputError, match="y: got label 2"):
        ClassWeights([3, 1])(torch.zeros(1), torch.tensor([2]))
    with pytest.raises(InputError, match="y: got None"):
        ClassWeights([3, 1])(torch.zeros(1))
