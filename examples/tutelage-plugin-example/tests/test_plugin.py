"""What the plug-in promises. Tutelage's own tests look at how it is found and used."""

from __future__ import annotations

import torch
from torch import nn
from tutelage_plugin_example.label_smoothing import Smoothed
from tutelage_plugin_example.models import tiny_net
from tutelage_plugin_example.threats import corner, raster

from tutelage import Linf


def test_smoothing_has_the_loss_of_its_equation():
    logits = torch.tensor([[2.0, 0.0]])
    loss, _ = Smoothed(0.2)(nn.Identity(), (logits, torch.tensor([0])), None)
    log_p = torch.log_softmax(logits, 1)[0]
    assert torch.isclose(loss, -(0.9 * log_p[0] + 0.1 * log_p[1]))  # (1) with K = 2


def test_a_raster_takes_half_of_the_rows():
    x = torch.ones(2, 1, 4, 4)
    changed = raster(x, generator=torch.Generator().manual_seed(0))
    assert changed.sum() == 16
    assert x.sum() == 32, "the given images stay as they are"


def test_the_attack_stays_in_its_budget_and_the_model_is_always_the_same():
    x, y, net = torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2]), tiny_net().eval()
    found = corner(Linf(0.1)).run(net, x, y, torch.Generator().manual_seed(0))
    assert (found.x_adv - x).abs().max() <= 0.1 + 1e-6
    assert torch.equal(net(x), tiny_net().eval()(x))
