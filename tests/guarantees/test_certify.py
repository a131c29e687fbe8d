"""The cascade: counts add up, later stages only add, exact decides, wrong samples never count."""

from __future__ import annotations

import pytest
import torch
from nets import mlp
from torch import nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.guarantees.certify import certify, lower_margin
from tutelage.threats import PGD, Linf


def problem(n: int = 60) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    net = mlp(3, 12, 12, 3)
    with torch.no_grad():
        net[4].bias.copy_(-net[4].weight @ net[3](net[2](net[1](net[0](torch.full((1, 3), 0.5)))))[0])
    x = torch.rand(n, 3, generator=generator(0))
    y = net(x).argmax(1)
    y[:5] = (y[:5] + 1) % 3  # five samples that the net gets wrong
    return net, x, y


def test_a_linear_net_by_hand():
    # margin z_0 - z_1 = x_0 - x_1 >= 0.4 - 2 eps: robust below 0.2
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[0.7, 0.3]]), torch.tensor([0])
    assert lower_margin(net, x, y, 0.15).item() == pytest.approx(0.1, abs=1e-5)
    for eps, held in ((0.19, 1), (0.21, 0)):
        assert certify(net, x, y, eps, ("ibp",)).counts == {"misclassified": 0, "ibp": held, "broken": 0, "open": 1 - held}
    # cut to valid inputs, the same ball is smaller
    assert lower_margin(net, torch.tensor([[1.0, 0.9]]), y, 0.15).item() == pytest.approx(0.85 - 1.0, abs=1e-5)


def test_stages_add_up_and_the_exact_one_leaves_nothing_open():
    net, x, y = problem()
    eps = 0.02
    alone = {stage: certify(net, x, y, eps, (stage,)) for stage in ("ibp", "crown-ibp", "crown", "milp")}
    assert [int(alone[a].certified.sum()) for a in ("ibp", "crown-ibp", "crown", "milp")] == sorted(
        int(one.certified.sum()) for one in alone.values()
    )
    found = certify(net, x, y, eps, ("ibp", "crown", "milp"))
    assert sum(found.counts.values()) == len(x)
    assert found.counts["misclassified"] == 5
    assert found.counts["open"] == 0
    assert all(found.counts[stage] > 0 for stage in ("ibp", "crown", "broken"))
    assert torch.equal(found.certified, alone["milp"].certified)
    assert not bool(found.certified[:5].any())
    assert found.certified_accuracy == found.upper_accuracy
    assert "certified accuracy" in str(found)
    attacked = PGD(Linf(eps), steps=40, restarts=3).run(net, x, y, generator(0))
    assert not bool((found.certified & attacked.success).any())
    assert not bool((found.margins[found.decided.ge(0) & found.decided.le(1)] <= 0).any())


def test_at_radius_zero_what_is_right_is_certified():
    net, x, y = problem()
    found = certify(net, x, y, 0.0, ("ibp",))
    clear = net(x).topk(2).values.diff(dim=1).abs().squeeze(1) > 1e-3  # a tie is nobody's
    assert torch.equal(found.certified & clear, found.right & clear)


def test_bad_arguments():
    net, x, y = problem(6)
    for cascade in ((), ("ibp", "ibp"), ("exact",), "ibp"):
        with pytest.raises(InputError, match="cascade"):
            certify(net, x, y, 0.1, cascade)
    with pytest.raises(InputError, match="eps"):
        certify(net, x, y, -0.1)
    with pytest.raises(InputError, match="values from"):
        certify(net, 255 * x, y, 0.1)
    with pytest.raises(InputError, match="y"):
        certify(net, x, y + 3, 0.1)
