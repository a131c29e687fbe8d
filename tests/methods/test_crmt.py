"""CRMT: the eight invariants of its card, limit cases, numbers by hand, and a training that can be stopped."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.claims.claim import load_claim
from tutelage.claims.runner import run_claim
from tutelage.core.errors import InputError, MissingError, NotFinite, SplitError
from tutelage.core.modalities import MultiModalBatch
from tutelage.data.breast_groups import breast_groups
from tutelage.data.multimodal import MultiModalSet
from tutelage.methods.harden.crmt import (
    CRMT,
    OrthogonalFusion,
    certified_radius,
    crmt_fit,
    fit_fusion,
    margin_regulariser,
    maximise_radius,
    mixed_margin_regulariser,
    modality_lipschitz,
    modality_margins,
    orthogonal_rows,
    passport,
    preference,
    score_all,
)
from tutelage.methods.harden.crmt.passport import attack_curve
from tutelage.methods.harden.crmt.training import PAPER_ATTACK, Integration, dropped
from tutelage.models.fusion import ConcatFusion, ConvEncoder, FusionModel, MLPEncoder, Standardised
from tutelage.teaching.fit import Context
from tutelage.threats.budgets import L2
from tutelage.threats.multimodal import Joint, MultiModalPGD


def linear_world(seed: int = 0, n: int = 40, k: int = 4) -> tuple[FusionModel, MultiModalSet]:
    """Linear encoders and data that the model classifies mostly right: distances to the boundary are known exactly."""
    torch.manual_seed(seed)
    encoders = {name: nn.Linear(d, 8).double() for name, d in (("sound", 5), ("sight", 7))}
    head = OrthogonalFusion((8, 8), k).double()
    head.a.data = torch.rand(2, k, dtype=torch.float64) + 0.2
    head.bias.data = 0.3 * torch.randn(k, dtype=torch.float64)
    model = FusionModel(encoders, head).eval()
    inputs = {"sound": torch.randn(n, 5, dtype=torch.float64), "sight": torch.randn(n, 7, dtype=torch.float64)}
    y = model(inputs).argmax(1).detach()
    y[0] = (y[0] + 1) % k  # one that is misclassified
    return model, MultiModalSet(inputs, y, tuple("abcd"[:k]), split="train")


def slopes_of_logits(model: FusionModel, x: MultiModalBatch) -> torch.Tensor:
    """(K, D): the gradient of each logit of a linear model in all inputs side by side."""
    at = {name: x.tensor(name)[:1].clone().requires_grad_() for name in model.modalities}
    logits = model(at)[0]
    rows = [torch.autograd.grad(logit, list(at.values()), retain_graph=True) for logit in logits]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


# ------------------------------------------------------------------------------------------------- the head: 1, 2


def test_1_full_rows_are_orthonormal_and_centred_and_released_rows_have_length_1():
    torch.manual_seed(0)
    w = 3 * torch.randn(6, 20) + 1
    full, row = orthogonal_rows(w), orthogonal_rows(w, "row")
    assert torch.allclose(full @ full.T, torch.eye(6), atol=1e-5)
    assert torch.allclose(full.sum(1), torch.zeros(6), atol=1e-5)
    assert torch.allclose(row.norm(dim=1), torch.ones(6), atol=1e-6)
    assert torch.allclose(row.sum(1), torch.zeros(6), atol=1e-5)
    assert float((row @ row.T - torch.eye(6)).abs().max()) > 0.05
    for rows in OrthogonalFusion((20, 9), 6).rows():
        assert torch.allclose(rows @ rows.T, torch.eye(6), atol=1e-5)


def test_the_gradient_of_the_orthogonal_rows_is_right_also_where_eigenvalues_are_equal():
    torch.manual_seed(0)
    w = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(orthogonal_rows, (w,))
    equal = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][:3]
    equal = (equal - equal.mean(1, keepdim=True)).requires_grad_()
    orthonormal = orthogonal_rows(equal).detach().requires_grad_()  # Z Z^T = I: every eigenvalue is 1
    (g,) = torch.autograd.grad(orthogonal_rows(orthonormal).square()[:, 0].sum(), orthonormal)
    assert bool(torch.isfinite(g).all())
    assert torch.autograd.gradcheck(orthogonal_rows, (orthonormal,))


def test_too_few_features_are_refused_in_full_mode_only():
    with pytest.raises(InputError, match="ortho='row'"):
        OrthogonalFusion((10, 64), 10)
    OrthogonalFusion((10, 64), 10, ortho="row")
    OrthogonalFusion((11, 64), 10)
    with pytest.raises(InputError, match="ortho"):
        OrthogonalFusion((64,), 10, ortho="none")
    with pytest.raises(InputError, match="a_init"):
        OrthogonalFusion((64,), 10, a_init=0.0)


def test_2_one_modality_without_margin_term_is_a_linear_classifier():
    head = OrthogonalFusion((7,), 3)
    head.a.data.fill_(1.0)
    phi = torch.randn(5, 7)
    out = head([phi])
    assert torch.allclose(out.logits, nn.functional.linear(phi, head.rows()[0], head.bias), atol=1e-6)
    model = FusionModel({"only": nn.Flatten()}, head)
    y = torch.tensor([0, 1, 2, 0, 1])
    ctx = Context(0, 1, 1.0, torch.Generator())
    loss, _ = CRMT(rho=0.0)(model, ({"only": phi}, y), ctx)
    assert torch.allclose(loss, nn.functional.cross_entropy(out.logits, y))


def test_2_the_margin_term_of_two_classes_is_minus_the_margin():
    z = torch.tensor([[2.0, -1.0], [0.5, 1.5]])
    y = torch.tensor([0, 0])
    wanted = (math.log(math.exp(-3.0) + 1e-5) + math.log(math.exp(1.0) + 1e-5)) / 2
    assert float(margin_regulariser([z], y)) == pytest.approx(wanted, abs=1e-6)
    assert float(margin_regulariser([z], y)) == pytest.approx(-(3.0 - 1.0) / 2, abs=1e-3)


# ------------------------------------------------------------------------------------------------ the margin term


def test_the_margin_term_by_hand_and_without_overflow():
    """Two modalities, three classes, y = 0: log(e^-1 + e^-2 + e^1 + e^0 + 1e-5)."""
    z = [torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.0]])]
    wanted = math.log(math.exp(-1) + math.exp(-2) + math.exp(1) + 1 + 1e-5)
    assert float(margin_regulariser(z, torch.tensor([0]))) == pytest.approx(wanted, abs=1e-6)
    far = [torch.tensor([[0.0, 500.0]])]
    assert float(margin_regulariser(far, torch.tensor([0]))) == pytest.approx(500.0)
    assert float(margin_regulariser(far, torch.tensor([1]))) == pytest.approx(math.log(1e-5))


def test_the_margin_term_looks_at_the_weak_modality():
    """Only the modality with the small margin has a gradient worth the name."""
    strong, weak = torch.tensor([[9.0, 0.0]], requires_grad=True), torch.tensor([[0.1, 0.0]], requires_grad=True)
    margin_regulariser([strong, weak], torch.tensor([0])).backward()
    assert strong.grad is not None
    assert weak.grad is not None
    assert float(weak.grad.abs().max()) > 1000 * float(strong.grad.abs().max())


def test_what_a_sample_lacks_is_left_out_of_its_sum():
    z = [torch.randn(2, 3), torch.randn(2, 3)]
    y = torch.tensor([0, 2])
    present = torch.tensor([[True, False], [True, False]])
    assert float(margin_regulariser(z, y, present=present)) == pytest.approx(float(margin_regulariser(z[:1], y)), abs=1e-6)


def test_the_mixed_margin_term_by_hand_and_at_its_ends():
    """K = 3, labels 0 and 1: only class 2 is left, e^(z_2) e^-(0.25 z_0 + 0.75 z_1)."""
    z = [torch.tensor([[2.0, 1.0, 0.5]])]
    a, b = torch.tensor([0]), torch.tensor([1])
    wanted = math.log(math.exp(0.5 - (0.25 * 2 + 0.75 * 1)) + 1e-5)
    assert float(mixed_margin_regulariser(z, a, b, 0.25)) == pytest.approx(wanted, abs=1e-6)
    z = [torch.randn(4, 5), torch.randn(4, 5)]
    y = torch.tensor([0, 1, 2, 3])
    assert float(mixed_margin_regulariser(z, y, y, 0.3)) == pytest.approx(float(margin_regulariser(z, y)), abs=1e-6)


# --------------------------------------------------------------------------------------------- the radius: 3, 4, 5


def test_3_no_attack_inside_the_radius_flips_a_label_and_at_the_boundary_one_does():
    model, data = linear_world()
    tau = modality_lipschitz(model, data, method="spectral")
    scored = score_all(model, data)
    head = model.head
    radius = certified_radius(scored.scores, head.a.detach(), head.bias.detach(), tau, data.labels)
    x, y = data[slice(0, len(data))]
    logits = model(x).detach()
    rows = slopes_of_logits(model, x)
    assert float(radius[0]) == 0.0
    checked = 0
    for i in range(1, len(data)):
        assert float(radius[i]) > 0
        exact = math.inf
        for j in range(4):
            if j == int(y[i]):
                continue
            normal = rows[j] - rows[y[i]]
            distance = float(logits[i, y[i]] - logits[i, j]) / float(normal.norm())
            exact = min(exact, distance)
            for step, flips in ((0.999 * float(radius[i]), False), (distance * (1 + 1e-6), True)):
                move = normal / normal.norm() * step
                there = {"sound": x.tensor("sound")[i] + move[:5], "sight": x.tensor("sight")[i] + move[5:]}
                new = model({name: value[None] for name, value in there.items()})[0].detach()
                if flips:
                    assert float(new[j]) > float(new[y[i]])
                else:
                    assert int(new.argmax()) == int(y[i])
                checked += 1
        assert float(radius[i]) <= exact * (1 + 1e-6)
    assert checked == 39 * 6


def test_3_the_attack_engine_agrees():
    model, data = linear_world(seed=1)
    tau = modality_lipschitz(model, data, method="spectral")
    scored = score_all(model, data)
    for modality, over in ((None, None), (0, ("sound",)), (1, ("sight",))):
        radius = certified_radius(scored.scores, model.head.a, model.head.bias, tau, data.labels, modality=modality).detach()
        x, y = data[slice(0, len(data))]
        attack = MultiModalPGD(Joint(L2(radius * 0.999), over), steps=10, restarts=2)
        broken = attack.run(model, x, y, torch.Generator().manual_seed(0)).success
        assert not bool(broken[radius > 0].any())


def test_the_radius_by_hand():
    """Gaps 2 and 1 to classes 1 and 2; reach of y = 0: (1, 2), of 1: (2, 1), of 2: (3, 4) -> 2/sqrt(18), 1/sqrt(52)."""
    z = [torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])]
    a, bias = torch.ones(2, 3), torch.zeros(3)
    tau = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 4.0]])
    y = torch.tensor([0])
    assert float(certified_radius(z, a, bias, tau, y)) == pytest.approx(1 / math.sqrt(16 + 36))
    assert float(certified_radius(z, a, bias, tau, y, modality=0)) == pytest.approx(1 / 4)
    assert float(certified_radius(z, a, bias, tau, y, modality=1)) == pytest.approx(1 / 6)
    assert float(certified_radius(z, a, bias, tau, torch.tensor([1]))) == 0.0
    signed = certified_radius(z, a, bias, tau, torch.tensor([1]), signed=True)
    assert float(signed) == pytest.approx(-2 / math.sqrt(18))
    near = certified_radius(z, a, bias, tau, y, against="runner-up")
    assert float(near) == pytest.approx(1 / math.sqrt(52))
    far_tau = torch.tensor([[1.0, 20.0, 3.0], [2.0, 1.0, 4.0]])  # the runner-up is 2, the nearest boundary that of 1
    assert float(certified_radius(z, a, bias, far_tau, y)) == pytest.approx(2 / math.sqrt(21**2 + 9))
    assert float(certified_radius(z, a, bias, far_tau, y, against="runner-up")) == pytest.approx(1 / math.sqrt(52))


def test_4_scaling_all_weights_and_biases_leaves_the_radius():
    model, data = linear_world(seed=2)
    scored, tau = score_all(model, data), torch.rand(2, 4) + 0.5
    a, bias = model.head.a.detach(), model.head.bias.detach()
    first = certified_radius(scored.scores, a, bias, tau, data.labels)
    for c in (0.01, 7.0):
        assert torch.allclose(certified_radius(scored.scores, c * a, c * bias, tau, data.labels), first, atol=1e-9)
    for c in (0.5, 4.0):  # and it is inverse in the constants
        assert torch.allclose(certified_radius(scored.scores, a, bias, c * tau, data.labels), first / c, atol=1e-9)


def test_5_a_single_attack_has_no_smaller_radius_than_a_joint_one():
    g = torch.Generator().manual_seed(0)
    z = [torch.randn(200, 5, generator=g) for _ in range(3)]
    a, bias = torch.randn(3, 5, generator=g), torch.randn(5, generator=g)  # negative weights, too
    tau, y = torch.rand(3, 5, generator=g) + 0.1, torch.randint(0, 5, (200,), generator=g)
    joint = certified_radius(z, a, bias, tau, y)
    assert float(joint.max()) > 0
    for m in range(3):
        assert bool((certified_radius(z, a, bias, tau, y, modality=m) >= joint).all())


def test_a_negative_weight_does_not_shrink_the_bound():
    z = [torch.tensor([[-1.0, 1.0]])]
    tau = torch.ones(1, 2)
    plus = certified_radius([-z[0]], torch.ones(1, 2), torch.zeros(2), tau, torch.tensor([0]))
    minus = certified_radius(z, -torch.ones(1, 2), torch.zeros(2), tau, torch.tensor([0]))
    assert float(plus) == float(minus) == 1.0


def test_bad_arguments_of_the_radius_are_named():
    z, y = [torch.zeros(2, 3)], torch.tensor([0, 1])
    ones = torch.ones(1, 3)
    with pytest.raises(InputError, match="tau"):
        certified_radius(z, ones, torch.zeros(3), torch.ones(3, 1), y)
    with pytest.raises(InputError, match=">= 0"):
        certified_radius(z, ones, torch.zeros(3), -ones, y)
    with pytest.raises(InputError, match="modality"):
        certified_radius(z, ones, torch.zeros(3), ones, y, modality=1)
    with pytest.raises(InputError, match="y"):
        certified_radius(z, ones, torch.zeros(3), ones, torch.tensor([0, 3]))
    with pytest.raises(InputError, match="scores"):
        margin_regulariser([torch.zeros(2, 3), torch.zeros(2, 4)], y)


def test_both_constants_of_a_linear_model_are_the_exact_ones_and_a_comes_in_once():
    model, data = linear_world(seed=3)
    wanted = torch.stack(
        [(w @ encoder.weight).norm(dim=1) for w, encoder in zip(model.head.rows(), model.encoders.values(), strict=True)]
    ).detach()
    for method in ("empirical", "spectral"):
        assert torch.allclose(modality_lipschitz(model, data, method=method), wanted.double(), rtol=1e-6), method
    before = modality_lipschitz(model, data)
    model.head.a.data *= 5
    assert torch.equal(modality_lipschitz(model, data), before)


def test_the_empirical_constant_is_no_larger_than_the_sound_one_and_grows_with_data():
    model, data = trained()
    sound, seen = modality_lipschitz(model, data, method="spectral"), modality_lipschitz(model, data)
    assert bool((seen <= sound * (1 + 1e-5)).all())
    assert bool((modality_lipschitz(model, data, limit=10) <= seen).all())


def test_margins_and_preference_by_hand():
    z = [torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
    a = torch.tensor([[1.0, 1.0], [0.5, 0.5]])
    margins = modality_margins(z, a, torch.tensor([0, 0]))
    assert margins.tolist() == [[3.0, 0.5], [-1.0, -1.0]]
    assert preference(margins).tolist() == pytest.approx([6 / 7, 1 / 7])
    assert preference(-margins.abs()).tolist() == [0.5, 0.5]


# ------------------------------------------------------------------------------------------------- training: 6, 7, 8


def small(seed: int = 0, **head) -> FusionModel:
    torch.manual_seed(seed)
    encoders = {}
    for name in ("mean", "error", "worst"):
        inner = nn.Sequential(nn.Linear(10, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 6))
        encoders[name] = Standardised(inner, 0.0, 1.0, (10,))
    return FusionModel(encoders, OrthogonalFusion((6, 6, 6), 2, **head))


def trained(epochs: int = 2, **how) -> tuple[FusionModel, MultiModalSet]:
    model, data = small(), breast_groups("train").take(slice(0, 160))
    crmt_fit(model, data, epochs=epochs, lr=0.05, batch_size=40, **how)
    return model, data


def test_6_step_2_changes_a_and_nothing_else_and_raises_the_radius():
    model, data = trained(epochs=8, step2_epochs=0)
    model.train()  # whatever mode it comes in
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = maximise_radius(model, data, epochs=8, lr=0.01, weight_decay=0.0, batch_size=160)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["head.a"]
    assert model.training
    assert report.radius_after > report.radius_before
    assert torch.equal(report.a_after, model.head.a.detach())
    assert bool((report.a_after >= 0).all())
    assert report.step2 is not None
    assert report.step2.history[-1]["radius"] > report.step2.history[0]["radius"]
    assert sum(report.preference.values()) == pytest.approx(1.0)


def test_step_2_stops_where_validation_accuracy_would_fall():
    """With a large rate the radius alone leads away from accuracy; with validation data it may cost no more than is allowed."""
    model, data = trained(epochs=8, step2_epochs=0)
    held = breast_groups("validation")
    x, y = held[slice(0, len(held))]
    before, a = float((model(x).argmax(1) == y).double().mean()), model.head.a.detach().clone()
    state = copy.deepcopy(model.state_dict())
    how = {"epochs": 10, "lr": 0.2, "batch_size": 40}
    maximise_radius(model, data, validation=held, tolerance=0.01, **how)
    assert float((model(x).argmax(1) == y).double().mean()) >= before - 0.01
    model.load_state_dict(state)
    report = maximise_radius(model, data, validation=held, tolerance=1.0, **how)
    assert report.step2 is not None
    kept = max(row["radius"] for row in report.step2.epochs)
    assert report.step2.best is not None
    assert report.step2.best["radius"] == kept
    model.load_state_dict(state)
    impossible = held.take(slice(0, 40))
    wrong = MultiModalSet(impossible.inputs, model(impossible[slice(0, 40)][0]).argmax(1), held.classes)
    report = maximise_radius(model, data, validation=wrong, tolerance=0.0, epochs=2, lr=50.0, batch_size=40)
    assert torch.equal(report.a_after, a), "no epoch keeps the accuracy: nothing changes"
    with pytest.raises(SplitError):
        maximise_radius(model, data, validation=breast_groups("test"), **how)


def test_a_weight_that_falls_below_zero_is_put_back():
    model, data = trained(step2_epochs=0)
    report = maximise_radius(model, data, epochs=8, lr=5.0, batch_size=40)
    assert float(report.a_after.min()) == 0.0
    small_module = Integration(-torch.ones(1, 2), torch.zeros(2))
    assert set(small_module.state_dict()) == {"a", "bias"}


def test_7_and_8_the_attack_of_the_paper_is_a_joint_ball():
    model, data = trained(step2_epochs=0)
    x, y = data[slice(0, 20)]
    found = PAPER_ATTACK(x, y, model=model, generator=torch.Generator())
    size = torch.cat([found.tensor(k) - x.tensor(k) for k in x.modalities], 1).norm(dim=1)
    assert float(size.max()) <= 0.1 * (1 + 1e-5)
    assert float(size.median()) > 0.09
    nothing = MultiModalPGD(Joint(L2(0.0)), steps=3).run(model, x, y, torch.Generator()).inputs
    assert all(torch.equal(nothing.tensor(k), x.tensor(k)) for k in x.modalities)


@pytest.mark.parametrize("base", ["jt", "at", "mix"])
def test_every_base_learns(base):
    model, data = small(), breast_groups("train").take(slice(0, 160))
    report = crmt_fit(model, data, base=base, epochs=6, lr=0.05, batch_size=40, rho=0.5)
    assert report.step1.history[-1]["ce"] < report.step1.history[0]["ce"]
    test = breast_groups("test")
    x, y = test[slice(0, len(test))]
    assert float((model(x).argmax(1) == y).float().mean()) > 0.7
    assert not model.training


def test_the_margin_term_raises_the_smallest_margins():
    """At the same data, rates and seed: the least sure modality is surer with rho than without."""
    data, found = breast_groups("train").take(slice(0, 160)), {}
    for rho in (0.0, 2.0):
        model = small()
        fit_fusion(model, data, CRMT(rho), epochs=6, lr=0.05, batch_size=40)
        scored = score_all(model, data)
        found[rho] = float(modality_margins(scored.scores, torch.ones(3, 2), data.labels).mean(0).min())
    assert found[2.0] > 2 * found[0.0]


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = breast_groups("train").take(slice(0, 160))
    how = {"epochs": 3, "step2_epochs": 3, "lr": 0.05, "batch_size": 40, "base": "mix"}
    whole = small()
    crmt_fit(whole, data, **how)
    import tutelage.methods.harden.crmt.training as training

    original, calls = training.MaximiseRadius.__call__, []

    def stops(self, model, batch, ctx):
        calls.append(1)
        if len(calls) == 7:  # in the second epoch of step 2
            raise RuntimeError("power cut")
        return original(self, model, batch, ctx)

    with monkeypatch.context() as patch:
        patch.setattr(training.MaximiseRadius, "__call__", stops)
        with pytest.raises(RuntimeError, match="power cut"):
            crmt_fit(small(), data, checkpoint=tmp_path, **how)
    again = small(seed=5)
    report = crmt_fit(again, data, checkpoint=tmp_path, **how)
    assert report.step2 is not None
    assert report.step2.resumed_from == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_samples_with_missing_modalities_can_be_trained_on_and_mixing_them_is_refused():
    data = breast_groups("train").take(slice(0, 80))
    present = torch.ones(80, 3, dtype=torch.bool)
    present[:40, 1] = False
    partial = data.with_presence(present)
    model = small()
    crmt_fit(model, partial, epochs=1, lr=0.05, batch_size=40)
    with pytest.raises(InputError, match="mix with missing"):
        crmt_fit(small(), partial, base="mix", epochs=1)


def test_modality_dropout_never_takes_the_last_one():
    batch = MultiModalBatch({"a": torch.zeros(400, 1), "b": torch.zeros(400, 1)})
    left = dropped(batch, 0.5, torch.Generator().manual_seed(0))
    assert left.present is not None
    assert bool(left.present.any(1).all())
    share = left.present.float().mean(0)
    assert 0.5 < float(share.min()) < 0.75
    only_a = MultiModalBatch(batch.inputs, torch.tensor([[True, False]] * 400))
    assert torch.equal(dropped(only_a, 0.9, torch.Generator()).present, only_a.present)


def test_bad_trainings_are_refused_before_they_begin():
    data = breast_groups("train").take(slice(0, 80))
    joint = FusionModel({name: MLPEncoder(10, 6) for name in data.modalities}, ConcatFusion((6, 6, 6), 2))
    with pytest.raises(InputError, match="OrthogonalFusion head"):
        crmt_fit(joint, data, epochs=1)
    with pytest.raises(SplitError):
        crmt_fit(small(), breast_groups("test"), epochs=1)
    with pytest.raises(InputError, match="modalities of the model"):
        crmt_fit(small(), MultiModalSet({"mean": torch.zeros(4, 10)}, torch.zeros(4).long(), ("a", "b")), epochs=1)
    with pytest.raises(InputError, match="rho"):
        crmt_fit(small(), data, rho=-1.0)
    with pytest.raises(InputError, match="base"):
        crmt_fit(small(), data, base="none")
    with pytest.raises(InputError, match="additive head"):
        modality_lipschitz(nn.Linear(2, 2), data)
    with pytest.raises(NotFinite):
        crmt_fit(small(), data, epochs=3, lr=1e30, batch_size=8)


# ---------------------------------------------------------------------------------------------------- the passport


def test_the_passport_of_a_model_that_leans_on_one_modality(tmp_path: Path):
    """Labels follow the first modality; the second is weak. The passport must say so, in numbers and on the page."""
    torch.manual_seed(0)
    y = torch.arange(200) % 2
    strong = torch.randn(200, 3) * 0.5 + 2.0 * (2.0 * y[:, None] - 1)
    weak = torch.randn(200, 3) + 0.1 * (2.0 * y[:, None] - 1)
    data = MultiModalSet({"strong": strong, "weak": weak}, y, ("no", "yes"), name="made up")
    encoders = {name: MLPEncoder(3, 5) for name in data.modalities}
    model = FusionModel(encoders, ConcatFusion((5, 5), 2))
    fit_fusion(model, data, CRMT(0.0), epochs=8, lr=0.05)
    found = passport(model, data, eps=(0.5, 4.0), steps=15, restarts=2, samples=60)
    assert found.preferred() == found.weakest() == "strong"
    rows = {row.name: row for row in found.modalities}
    assert rows["strong"].share > 0.7
    assert rows["strong"].share + rows["weak"].share == pytest.approx(1.0)
    joint, single = found.curve("joint"), found.curve("strong")
    assert all(a <= b + 1e-9 for a, b in zip(joint.accuracy, single.accuracy, strict=True)), (
        "a joint ball holds the single ones"
    )
    assert list(joint.accuracy) == sorted(joint.accuracy, reverse=True)
    assert found.subsets["weak"].accuracy < 0.75 < found.subsets["strong"].accuracy
    assert found.radius["spectral"] <= found.radius["empirical"]
    held = found.certified["spectral"]
    assert all(c <= a + 1e-9 for c, a in zip(held[1:], joint.accuracy[1:], strict=True)) or found.attacked < found.n
    text = found.to_html(tmp_path / "passport.html").read_text()
    for words in ("The weak spot is strong", "a guarantee", "no guarantee", "Accuracy with every subset", "<svg"):
        assert words in text
    assert found.save(tmp_path / "passport.json").exists()
    with pytest.raises(InputError, match="attacker"):
        found.curve("smell")


def test_no_certificate_is_broken_by_the_attack():
    model, data = trained(epochs=4)
    tau = modality_lipschitz(model, data, method="spectral")
    scored = score_all(model, data)
    radius = certified_radius(scored.scores, model.head.a, model.head.bias, tau, data.labels).detach()
    assert float((radius > 0).float().mean()) > 0.8
    x, y = data[slice(0, len(data))]
    broken = MultiModalPGD(Joint(L2(radius * 0.999)), steps=20).run(model, x, y, torch.Generator().manual_seed(0)).success
    assert not bool(broken[radius > 0].any())


def test_an_attack_on_cross_entropy_alone_would_flatter_a_very_sure_net():
    """The margin comes first: where softmax rounds to 1, the gradient of cross-entropy is 0 and its attack stands still."""
    model, data = linear_world()
    model = model.float()
    model.head.a.data *= 1000
    inputs = {name: value.float() for name, value in data.inputs.items()}  # type: ignore[union-attr]
    data = MultiModalSet(inputs, data.labels, data.classes)
    x, y = data[slice(1, 40)]
    blind = MultiModalPGD(Joint(L2(3.0)), steps=10, start="clean").run(model, x, y, torch.Generator())
    assert float(blind.success.float().mean()) < 0.5
    curve, _ = attack_curve(model, data.take(slice(1, 40)), "joint", [3.0], steps=10, restarts=1)
    assert curve.accuracy[1] < 0.2


# ------------------------------------------------------------------------------------------------------- the claim


def test_the_claim_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    with pytest.raises(MissingError, match="mnist-10k"):
        run_claim("crmt", scale="claim")
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    with pytest.raises(MissingError, match="mnist"):
        run_claim("crmt", scale="claim")


def test_the_arms_of_the_claim_share_encoders_and_differ_in_the_head():
    from tutelage.claims.harden.crmt import build, sample

    config = load_claim("crmt").scales["smoke"]
    data = sample(config, "train", 0)
    nets = [build(config, data, 3, head) for head in ("concat", "full", "row")]
    first = [copy.deepcopy(net.encoders.state_dict()) for net in nets]
    for other in first[1:]:
        assert all(torch.equal(a, b) for a, b in zip(first[0].values(), other.values(), strict=True))
    assert [type(net.head).__name__ for net in nets] == ["ConcatFusion", "OrthogonalFusion", "OrthogonalFusion"]


def test_pictures_are_encoded_by_convolutions():
    encoder = ConvEncoder((1, 28, 28), 16, 4)
    assert encoder(torch.zeros(2, 1, 28, 28)).shape == (2, 16)
    with pytest.raises(InputError, match="from 8"):
        ConvEncoder((1, 4, 4))
