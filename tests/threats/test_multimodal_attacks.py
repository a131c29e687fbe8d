"""Attacks on several modalities: joint balls, balls of their own, and what must not move."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.core.modalities import MultiModalBatch
from tutelage.threats.budgets import L1, L2, Linf
from tutelage.threats.engine import PGD
from tutelage.threats.multimodal import (
    Joint,
    MultiModalFGM,
    MultiModalPGD,
    PerModality,
    ProductBudget,
    multimodal_pgd,
    threat_of,
)


class Two(nn.Module):
    """Two classes; the second logit is u . sound + v . sight, the first 0. Absent modalities count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor([3.0, 0.0, 0.0, 0.0]))
        self.v = nn.Parameter(torch.full((1, 2, 2), 2.0))

    def forward(self, batch: MultiModalBatch | dict) -> torch.Tensor:
        batch = batch if isinstance(batch, MultiModalBatch) else MultiModalBatch(batch)
        sound = (batch.tensor("sound").flatten(1) @ self.u) * batch.has("sound")
        sight = (batch.tensor("sight") * self.v).flatten(1).sum(1) * batch.has("sight")
        return torch.stack([torch.zeros_like(sound), sound + sight], 1)


def inputs(n: int = 3) -> dict[str, torch.Tensor]:
    return {"sound": torch.zeros(n, 4), "sight": torch.full((n, 1, 2, 2), 0.5)}


Y = torch.ones(3, dtype=torch.long)


def sizes(x, new):
    return [torch.linalg.vector_norm((new[k] - x[k]).flatten(1), dim=1) for k in x]


def test_one_step_goes_along_the_joint_gradient():
    """The gradient is (3, 0, 0, 0 | 2, 2, 2, 2), of length 5: a step of 1 moves sound by -0.6 and each pixel by -0.4."""
    found = MultiModalFGM(Joint(L2(1.0))).run(Two(), inputs(), Y, torch.Generator())
    assert torch.allclose(found.inputs.tensor("sound"), torch.tensor([-0.6, 0, 0, 0]).expand(3, 4), atol=1e-6)
    assert torch.allclose(found.inputs.tensor("sight"), torch.full((3, 1, 2, 2), 0.1), atol=1e-6)
    assert torch.allclose(found.moved["sound"], torch.full((3,), 0.6), atol=1e-6)
    assert torch.allclose(found.moved["sight"], torch.full((3,), 0.8), atol=1e-6)


def test_a_ball_of_its_own_for_each_uses_all_of_each():
    found = MultiModalFGM(PerModality({"sound": L2(0.3), "sight": Linf(0.1)})).run(Two(), inputs(), Y, torch.Generator())
    assert torch.allclose(found.inputs.tensor("sound")[:, 0], torch.full((3,), -0.3))
    assert torch.allclose(found.inputs.tensor("sight"), torch.full((3, 1, 2, 2), 0.4))


@pytest.mark.parametrize("budget", [L2(0.7), Linf(0.2), L1(0.9)])
def test_the_joint_change_lies_in_the_joint_ball_and_reaches_its_edge(budget):
    x = inputs()
    found = MultiModalPGD(Joint(budget), steps=20).run(Two(), x, Y, torch.Generator().manual_seed(0)).inputs
    flat = [torch.cat([b.tensor(k).flatten(1) for k in x], 1) for b in (MultiModalBatch(x), found)]
    size = budget.size(*flat)
    assert float(size.max()) <= budget.eps * (1 + 1e-5)
    assert float(size.min()) >= 0.9 * budget.eps


def test_with_one_modality_it_is_ordinary_pgd():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x):
            return self.net(x.tensor("a") if isinstance(x, MultiModalBatch) else x)

    x, y = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(3)), torch.arange(6) % 3
    plain = PGD(L2(0.5), steps=7, restarts=2, bounds=None).run(One(), x, y, torch.Generator().manual_seed(5))
    ours = MultiModalPGD(Joint(L2(0.5)), steps=7, restarts=2).run(One(), {"a": x}, y, torch.Generator().manual_seed(5))
    assert torch.equal(ours.inputs.tensor("a"), plain.x_adv)
    assert torch.equal(ours.success, plain.success)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_eps_0_returns_the_input(norm, joint):
    x = inputs()
    for start in ("uniform", "clean"):
        found = multimodal_pgd(Two(), x, Y, eps=0.0, norm=norm, joint=joint, steps=3, restarts=2, start=start)
        assert all(torch.equal(found[k], x[k]) for k in x)


def test_only_the_modality_named_moves():
    x = inputs()
    for threat in (Joint(L2(0.5), over=("sight",)), PerModality({"sight": L2(0.5)})):
        found = MultiModalPGD(threat, steps=5).run(Two(), x, Y, torch.Generator())
        assert torch.equal(found.inputs.tensor("sound"), x["sound"])
        assert set(found.moved) == {"sight"}
        assert float(found.moved["sight"].min()) > 0.4


def test_clip_holds_one_modality_in_its_range_and_not_the_other():
    x = inputs()
    found = MultiModalPGD(Joint(L2(3.0)), steps=10, clip={"sight": (0.0, 1.0)}).run(Two(), x, Y, torch.Generator())
    assert float(found.inputs.tensor("sight").min()) >= 0
    assert float(found.inputs.tensor("sound").min()) < 0
    size = torch.stack(sizes(x, found.inputs.inputs)).norm(dim=0)
    assert float(size.max()) <= 3 * (1 + 1e-5)
    with pytest.raises(InputError, match="as clip says"):
        MultiModalPGD(Joint(L2(1.0)), clip={"sight": (0.6, 1.0)}).run(Two(), x, Y, torch.Generator())


def test_what_a_sample_lacks_and_what_is_padding_does_not_move():
    present = torch.tensor([[True, True], [False, True], [True, False]])
    x = {**inputs(), "sound": torch.ones(3, 4)}
    batch = MultiModalBatch(x, present, {"sound": torch.tensor([4, 4, 2])})
    found = MultiModalPGD(Joint(L2(0.5)), steps=4).run(Two(), batch, Y, torch.Generator().manual_seed(0))
    change = found.inputs.tensor("sound") - batch.tensor("sound")
    assert bool((change[0] != 0).all())
    assert bool((change[1] == 0).all())
    assert bool((change[2, :2] != 0).all())
    assert bool((change[2, 2:] == 0).all())
    assert torch.equal(found.inputs.tensor("sight")[2], batch.tensor("sight")[2])
    assert found.inputs.present is not None
    assert torch.equal(found.inputs.present, present)
    assert found.inputs.lengths["sound"].tolist() == [4, 4, 2]


def test_the_boundary_is_found_where_it_is():
    """Logit 2 * 0.5 * 4 = 4 along a gradient of length 5: the label flips beyond 0.8 and not before."""
    for eps, wanted in ((0.79, False), (0.81, True)):
        found = MultiModalPGD(Joint(L2(eps)), steps=40, relative_step=0.3).run(Two(), inputs(), Y, torch.Generator())
        assert bool(found.success.all()) is wanted, eps


def test_the_inner_loop_of_a_training_gives_a_batch_and_leaves_the_model_as_it_was():
    net = Two().train()
    found = MultiModalPGD(Joint(L2(0.5)), steps=3)(inputs(), Y, model=net, generator=torch.Generator().manual_seed(0))
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert float(found.tensor("sound")[:, 0].max()) < 0


def test_a_product_of_budgets_measures_in_its_own_units():
    budget = ProductBudget(1.0, ((0, 2, L2(2.0)), (2, 3, Linf(0.5))))
    x = torch.zeros(2, 4)
    new = torch.tensor([[3.0, 4.0, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert torch.allclose(budget.size(x, new), torch.tensor([2.5, 2.0]))
    assert torch.allclose(budget.project(x, new), torch.tensor([[1.2, 1.6, 0.1, 0.0], [0.0, 0.0, 0.5, 0.0]]))
    assert budget.size(x, x + torch.tensor([0.0, 0, 0, 1])).tolist() == [math.inf] * 2
    assert torch.allclose(budget.scaled(0.5).project(x, new)[0], torch.tensor([0.6, 0.8, 0.1, 0.0]))
    drawn = budget.sample(torch.zeros(500, 4), torch.Generator().manual_seed(0))
    assert float(budget.size(torch.zeros(500, 4), drawn).max()) <= 1
    assert bool((drawn[:, 3] == 0).all())


def test_threats_say_what_is_wrong():
    with pytest.raises(InputError, match="smell"):
        MultiModalPGD(Joint(L2(1.0), over=("smell",))).run(Two(), inputs(), Y, torch.Generator())
    with pytest.raises(InputError, match="threat"):
        MultiModalPGD(L2(1.0))
    with pytest.raises(InputError, match="numbers >= 0"):
        multimodal_pgd(Two(), inputs(), Y, eps=-1.0)
    with pytest.raises(InputError, match="norm"):
        multimodal_pgd(Two(), inputs(), Y, eps=1.0, norm="l3")
    with pytest.raises(InputError, match="Budget"):
        Joint(0.5)
    with pytest.raises(InputError, match="strings"):
        MultiModalPGD(Joint(L2(1.0))).run(Two(), {"sound": ("a",), "sight": torch.zeros(1, 1, 2, 2)}, Y[:1], torch.Generator())
    whole = {"sound": torch.zeros(3, 4, dtype=torch.long), "sight": inputs()["sight"]}
    with pytest.raises(InputError, match="floating point"):
        MultiModalPGD(Joint(L2(1.0))).run(Two(), whole, Y, torch.Generator())
    assert isinstance(threat_of(MultiModalBatch(inputs()), {"sound": 1.0}), PerModality)
    assert "sight l2@1" in str(threat_of(MultiModalBatch(inputs()), 1.0, joint=False))
