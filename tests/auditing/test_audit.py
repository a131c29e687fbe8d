from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import tutelage
from tutelage.auditing import AuditResult
from tutelage.core.errors import AuditError, InputError
from tutelage.core.rng import generator, seeded
from tutelage.data.images import ImageSet
from tutelage.models.cnn import SmallCNN
from tutelage.teaching import CrossEntropy, fit
from tutelage.threats import PGD, Linf, Suite

THREATS = ("fgsm:linf@0.1", "pgd-5:l2@0.5")


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return tutelage.fashion_mnist_subset("test").split_off(120, split="test")[1]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with seeded(0):
        model = SmallCNN(8)
    train = tutelage.fashion_mnist_subset("train").take(slice(0, 1500))
    fit(
        model,
        CrossEntropy(),
        train.loader(50, generator=generator(0)),
        epochs=2,
        optimizer=SGD(model.parameters(), lr=0.1, momentum=0.9),
    )
    return model


@pytest.fixture(scope="module")
def result(net: nn.Module, data: ImageSet) -> AuditResult:
    return tutelage.audit(net, data, threats=THREATS, slices={"first ten": range(10)}, name="net")


def test_rows_are_the_shares_that_a_plain_loop_finds(net, data, result):
    x, y = data[:]
    clean = net(x).argmax(1) == y
    assert result.clean_accuracy == pytest.approx(float(clean.double().mean()))
    leaf = x.clone().requires_grad_()
    grad = torch.autograd.grad(nn.functional.cross_entropy(net(leaf), y, reduction="sum"), leaf)[0]
    attacked = net((x + 0.1 * grad.sign()).clamp(0, 1)).argmax(1) == y
    assert result.row(result.threats[0]).value == pytest.approx(float((clean & attacked).double().mean()))
    assert result.row("slice", "first ten").n == 10


def test_intervals_are_wilsons(result):
    row = result.row("clean")
    p, n, z = row.value, row.n, 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert row.ci95 == pytest.approx((centre - half, centre + half), abs=1e-5)


def test_classes_add_up_to_the_whole(result):
    for under in ("clean", *result.threats):
        rows = [r for r in result.rows if r.category == "class" and r.under == under]
        assert len(rows) == 10
        hits = sum(round(r.value * r.n) for r in rows)
        assert hits == round(result.row(under).value * 120)


def test_curves_start_at_clean_accuracy_and_never_rise(result):
    assert [c.norm for c in result.curves] == ["linf", "l2"]
    for curve in result.curves:
        assert curve.eps[0] == 0
        assert curve.accuracy[0] == pytest.approx(result.clean_accuracy)
        assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
        assert curve.accuracy[-1] < curve.accuracy[0]


def test_two_budgets_of_one_norm_share_a_curve_through_both(net, data):
    found = tutelage.audit(net, data.take(slice(0, 40)), threats=["fgsm:linf@0.05", "fgsm:linf@0.1"])
    (curve,) = found.curves
    assert len(curve.eps) == len(set(curve.eps))
    assert {0.0, 0.05, 0.1, 0.2} <= set(curve.eps)
    assert list(curve.eps) == sorted(curve.eps)
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
    assert {e.threat for e in found.examples} == set(found.threats)


def test_worst_examples_are_real_mistakes_inside_the_budget(net, data, result):
    worst = result.worst(5, threat=result.threats[0])
    assert len(worst) == 5
    x, y = data[:]
    for e in worst:
        assert torch.equal(e.clean, x[e.index])
        assert e.label == int(y[e.index])
        assert int(net(e.adversarial[None]).argmax()) == e.predicted != e.label
        assert float((e.adversarial - e.clean).abs().max()) <= 0.1 + 1e-6
    assert [e.breaks_at for e in worst] == sorted(e.breaks_at for e in worst)


def test_the_seed_decides_and_the_batch_size_does_not(net, data, result):
    again = tutelage.audit(net, data, threats=THREATS, name="net", curve=False)
    small = tutelage.audit(net, data, threats=THREATS, name="net", curve=False, batch_size=7)
    for threat in result.threats:
        assert result.predictions[threat] == again.predictions[threat] == small.predictions[threat]


def test_the_model_comes_back_as_it_was(net, data):
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    tutelage.audit(net, data, threats=["fgsm:linf@0.1"], curve=False)
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.eval()


def test_saved_and_loaded_it_is_the_same(result, tmp_path):
    page = result.save(tmp_path / "audit")
    assert page.is_file()
    back = AuditResult.load(tmp_path / "audit")
    assert back.rows == result.rows
    assert back.curves == result.curves
    assert back.settings == result.settings
    assert torch.equal(back.examples[3].adversarial, result.examples[3].adversarial)


def test_threats_can_be_budgets_attacks_suites_or_strings(net, data):
    part = data.take(slice(0, 30))
    rows = {}
    for threat in (Linf(0.05), PGD(Linf(0.05), steps=3), Suite(Linf(0.05), (("one", PGD(Linf(0.05), steps=3)),))):
        found = tutelage.audit(net, part, threats=[threat], curve=False)
        rows[type(threat).__name__] = found.row(found.threats[0]).value
    assert rows["PGD"] == rows["Suite"]
    assert rows["Linf"] <= rows["PGD"]


def wrapped(net: nn.Module, change) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor):
            return change(self.net(x))

    return Wrapped()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda z: z.softmax(1), AuditError, "probabilities"),
        (lambda z: z * float("nan"), InputError, "NaN"),
        (lambda z: {"logits": z}, InputError, "dict"),
        (lambda z: (z, z), InputError, "tuple"),
        (lambda z: z[:, :5], InputError, "label"),
        (lambda z: z[:, :1], InputError, "two classes"),
        (lambda z: z[:1], InputError, "shape"),
        (lambda z: z.roll(1, 1), AuditError, "not above"),
        (lambda z: z * 0, AuditError, "not above"),
    ],
)
def test_what_looks_wrong_stops_the_audit(net, data, change, error, message):
    with pytest.raises(error, match=message):
        tutelage.audit(wrapped(net, change), data, threats=["fgsm:linf@0.1"])


def test_force_goes_on_and_says_that_the_number_is_unreliable(net, data):
    forced = tutelage.audit(
        wrapped(net, lambda z: z.softmax(1)), data.take(slice(0, 40)), threats=["fgsm:linf@0.1"], curve=False, force=True
    )
    assert forced.status == "unreliable"
    assert any("probabilities" in w for w in forced.warnings)


def test_a_random_model_is_flagged(net, data):
    noisy = wrapped(net, lambda z: z + torch.randn_like(z))
    found = tutelage.audit(noisy, data.take(slice(0, 40)), threats=["fgsm:linf@0.1"], curve=False)
    assert found.status == "unreliable"
    assert any("random" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threats": ["linf@nope"]}, "threats"),
        ({"threats": [Linf(torch.full((120,), 0.1))]}, "one eps"),
        ({"threats": [3]}, "threats"),
        ({"threats": ["fgsm:linf@0.1", "fgsm:linf@0.1"]}, "each threat once"),
        ({"batch_size": 0}, "batch_size"),
        ({"n": 100000}, "n: got 100000"),
        ({"slices": {"none": []}}, "without samples"),
        ({"slices": {"far": [500]}}, "positions from 0 to 119"),
        ({"slices": {"before": [-1]}}, "position -1"),
        ({"slices": {"some": [1]}, "n": 60}, "without n"),
        ({"slices": {"mask": torch.ones(3, dtype=torch.bool)}}, "mask"),
    ],
)
def test_bad_arguments_are_named(net, data, arguments, message):
    with pytest.raises(InputError, match=message):
        tutelage.audit(net, data, **{"threats": ["fgsm:linf@0.1"], **arguments})


def test_images_that_do_not_fit_the_model_are_told(net):
    wide = (torch.rand(20, 1, 20, 20), torch.arange(20) % 10)
    with pytest.raises(InputError, match=r"model: got RuntimeError on inputs of shape \(20, 1, 20, 20\)"):
        tutelage.audit(net, wide, threats=["fgsm:linf@0.1"])


def test_whatever_a_model_raises_is_told_in_one_sentence(data):
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("mean")

    with pytest.raises(InputError, match="model: got KeyError on inputs"):
        tutelage.audit(Picky(), data, threats=["fgsm:linf@0.1"])
