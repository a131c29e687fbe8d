"""The logistic regression of detection: by hand, against scikit-learn, on separable scores; and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from tutelage.auditing.detection.weights import logistic_weights, ridge_logistic
from tutelage.core.errors import InputError


def test_without_scores_that_matter_the_bias_is_the_log_odds() -> None:
    # 3 of 4 inside, the score is 0 everywhere: b = log(3 / 1)
    x = torch.tensor([[0.0, 1.0]] * 4).double()
    found = ridge_logistic(x, torch.tensor([1.0, 1, 1, 0]).double(), torch.ones(1, 4).double(), torch.ones(1).double())
    assert found[0].tolist() == [pytest.approx(0.0), pytest.approx(math.log(3), abs=1e-6)]


def test_each_problem_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 3, generator=g), torch.ones(200, 1)], 1).double()
    y = (x @ torch.tensor([1.0, -2.0, 0.0, 0.5]).double() + torch.randn(200, generator=g) > 0).double()
    used = torch.stack([torch.ones(200), (torch.arange(200) % 3 > 0).float()]).double()
    found = ridge_logistic(x, y, used, torch.tensor([10.0, 0.01]).double())
    for i, strength in enumerate((0.1, 100.0)):
        part = used[i] > 0
        reference = LogisticRegression(C=strength, tol=1e-10, max_iter=1000).fit(x[part, :3].numpy(), y[part].numpy())
        assert found[i, :3].tolist() == pytest.approx(reference.coef_[0].tolist(), abs=1e-4)
        assert found[i, 3].item() == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_weights_are_on_the_scale_of_the_scores_and_find_the_layer_that_tells() -> None:
    g = torch.Generator().manual_seed(1)
    inside = torch.stack([1000 * torch.randn(300, generator=g), torch.randn(300, generator=g)], 1) + torch.tensor([5e4, 1.0])
    outside = torch.stack([1000 * torch.randn(250, generator=g), torch.randn(250, generator=g)], 1) + torch.tensor([5e4, -1.0])
    weights, bias = logistic_weights(inside, outside)
    assert weights[1] > 1.0
    assert abs(float(weights[0]) * 1000) < 0.5  # the first score is noise
    # Gaussians of variance 1 at 1 and -1: the log odds are 2 t + log(300 / 250)
    t = torch.tensor([[5e4, 0.5]]).double()
    assert float(t @ weights + bias) == pytest.approx(1.0 + math.log(1.2), abs=0.35)


def test_separable_scores_give_finite_weights_twice_the_same() -> None:
    inside, outside = torch.arange(10, 40).float()[:, None] * -1, torch.arange(1e4, 1e4 + 20)[:, None] * -1
    weights, bias = logistic_weights(inside, outside)
    assert math.isfinite(bias)
    assert 0 < float(weights[0]) < math.inf
    assert bool((inside.double() @ weights + bias > 0).all() and (outside.double() @ weights + bias < 0).all())
    again = logistic_weights(inside, outside)
    assert torch.equal(again[0], weights)
    assert again[1] == bias


def test_too_few_samples_are_refused() -> None:
    good = torch.rand(20, 2)
    for argument, a, b in (("inside", torch.rand(9, 2), good), ("outside", good, torch.rand(9, 2)), ("outside", good, good[0])):
        with pytest.raises(InputError, match=f"^{argument}"):
            logistic_weights(a, b)
