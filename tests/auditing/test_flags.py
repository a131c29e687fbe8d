"""Signs of failed attacks: each is seen on a model that shows it, none on ordinary models, and the numbers are right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor, nn
from torch.optim import SGD

import tutelage
from tutelage.app.cli import audit_table
from tutelage.auditing import AuditResult, flags
from tutelage.auditing.buffers import KeptBuffers
from tutelage.auditing.flags import Flag
from tutelage.auditing.measure import attack_set
from tutelage.core.errors import AuditError, InputError, ModelChanged
from tutelage.core.rng import generator, seeded
from tutelage.data.images import ImageSet
from tutelage.models import from_sklearn
from tutelage.models.cnn import SmallCNN
from tutelage.threats import APGD, FGSM, L2, PGD, Linf, Randomised, Square, Suite
from tutelage.threats.budgets import L1, Budget
from tutelage.threats.objectives import margin
from tutelage.threats.targeted import TargetedAPGD

EPS = 0.08


def data(n: int = 60) -> ImageSet:
    """Dark and bright images of 4 x 4 pixels; every other one is bright."""
    labels = torch.arange(n) % 2
    images = torch.rand(n, 1, 4, 4, generator=generator(3)) * 0.5 + 0.3 * labels[:, None, None, None]
    return ImageSet(images, labels, ("dark", "bright"))


class Net(nn.Module):
    """Logits of a sum over the pixels, less their usual mean; `change` is done to the images first, `after` to the logits."""

    def __init__(
        self, change: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.change, self.after, self.seen = change, after, 0
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        x = self.change(x) if self.change else x
        score = self.scale * (x.flatten(1).sum(1) - 6.4)
        logits = torch.stack([-score, score], 1)
        return self.after(logits) if self.after else logits


def suite(budget: Budget | None = None, queries: int = 200) -> Suite:
    """The standard suite in small."""
    budget = budget or Linf(EPS)
    attacks = (
        ("FGSM", FGSM(budget)),
        ("APGD", APGD(budget, 10)),
        ("targeted", TargetedAPGD(budget, 10, targets=1, candidates=1)),
        ("Square", Square(budget, queries=queries)),
    )
    return Suite(budget, attacks)


def audited(model: nn.Module, threat: Any = None, images: ImageSet | None = None, **options: Any) -> AuditResult:
    return tutelage.audit(
        model, data() if images is None else images, **{"threats": [threat or suite()], "curve": False, "seed": 2, **options}
    )


def test_gradients_that_nobody_used_are_flagged_unless_another_threat_did():
    square, fgsm = Suite(Linf(0.08), (("Square", Square(Linf(0.08), queries=2)),)), FGSM(Linf(0.08))
    alone = audited(Net(), square)
    (flag,) = [one for one in alone.flags if one.slug == "gradients-not-used"]
    assert (flag.unreliable, flag.run_next, alone.status) == (True, "linf@0.08 (the standard suite)", "unreliable")
    assert "gradients-not-used" in slugs(audited(Net(), "decision-5:l2@0.1"))
    # of another eps they say nothing of this one
    assert "gradients-not-used" in slugs(audited(Net(), threats=[square, "pgd-2:linf@0.07"]))
    both = audited(Net(), threats=[square, PGD(Linf(0.08), steps=10)])
    assert not {"gradients-not-used", "one-step"} & {one.slug for one in both.flags}
    (note,) = [one for one in audited(Net(), fgsm).flags if one.slug == "one-step"]
    assert not note.unreliable
    assert "one-step" not in {one.slug for one in audited(Net(), threats=[fgsm, PGD(Linf(0.08), steps=10)]).flags}
    x, y = data()[:]
    black_box = from_sklearn(RidgeClassifier().fit(x.flatten(1).numpy(), y.numpy()))
    assert not {"gradients-not-used", "one-step"} & {one.slug for one in audited(black_box, square).flags}


def test_an_accuracy_above_chance_that_may_be_chance_is_told_with_its_interval():
    labels = (torch.arange(100) >= 26).long() + (torch.arange(100) >= 50).long() + (torch.arange(100) >= 75).long()
    above = flags.chance_accuracy(torch.arange(100) < 32, labels)
    assert above is not None
    assert "right on 32 of 100 samples (32.0 % [23.7, 41.7]), is not above 26.0 % beyond chance" in above.seen
    assert above.run_next.startswith("more images; or check weights")
    below = flags.chance_accuracy(torch.arange(100) < 20, labels)
    assert below is not None
    assert "is not above 26.0 %; that is what" in below.seen
    assert below.run_next.startswith("check weights")
    assert flags.chance_accuracy(torch.arange(100) < 40, labels) is None


def slugs(result: AuditResult) -> set[str]:
    return {flag.slug for flag in result.flags if flag.unreliable}


class Rounded(torch.autograd.Function):
    """Eight grey levels; `slope` is what the backward pass says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.slope, None


class Reversed(torch.autograd.Function):
    """Tells gradients of the wrong sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def optimised(x: Tensor) -> Tensor:
    """One step towards grey, by autograd."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad((point - 0.5).square().sum(), point)
    return x - 0.01 * grad


class Counting(Net):
    """Counts its passes in a buffer, and says other logits the more it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x) / self.passes


# ------------------------------------------------------------------------------------------------- no false alarms


@pytest.fixture(scope="module")
def garments() -> ImageSet:
    return tutelage.fashion_mnist_subset("test").split_off(60, split="test")[1]


@cache
def trained(eps: float = 0.0) -> nn.Module:
    """A small CNN on 1,000 images; adversarially (Madry et al. 2018) with eps."""
    with seeded(0):
        model = SmallCNN(4)
    source, attack = generator(0), PGD(Linf(eps), steps=2)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for x, y in tutelage.fashion_mnist_subset("train").take(slice(0, 1000)).loader(40, generator=source):
            inputs = attack(x, y, model=model, generator=source) if eps else x
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), y).backward()
            optimizer.step()
    return model.eval()


def linear() -> nn.Module:
    train = tutelage.fashion_mnist_subset("train").take(slice(0, 600))
    x, y = train[:]
    fitted = RidgeClassifier(alpha=300.0).fit(x.flatten(1).numpy(), y.numpy())
    layer = nn.Linear(784, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.coef_))
        layer.bias.copy_(torch.from_numpy(fitted.intercept_))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize(
    ("make", "budget"),
    [
        (trained, Linf(0.03)),
        (trained, L2(0.4)),
        (lambda: trained(0.1), Linf(0.1)),
        (linear, Linf(0.01)),
        (linear, L1(2.0)),
    ],
    ids=["CNN linf", "CNN l2", "adversarially trained", "linear linf", "linear l1"],
)
def test_ordinary_models_raise_no_flag(make, budget, garments):
    steps = 50 if isinstance(budget, L1) else 20
    attacks = (
        ("FGSM", FGSM(budget)),
        ("APGD", APGD(budget, steps)),
        ("targeted", TargetedAPGD(budget, steps, targets=2, candidates=2)),
        ("Square", Square(budget, queries=100)),
    )
    result = audited(make(), Suite(budget, attacks), garments)
    assert 0.1 < result.row(result.threats[0]).value < result.clean_accuracy
    assert result.flags == []
    assert result.status == "reliable"


def test_a_flat_model_of_scikit_learn_raises_no_flag(garments):
    x, y = tutelage.fashion_mnist_subset("train").take(slice(0, 400))[:]
    model = from_sklearn(RidgeClassifier(alpha=300.0).fit(x.flatten(1).numpy(), y.numpy()))
    result = audited(model, Square(Linf(0.02), queries=50), garments)
    assert result.status == "reliable"
    assert [flag.slug for flag in result.flags] == ["black-box-only"]
    assert "upper bound" in result.notes[0]


# ---------------------------------------------------------------------------------------------- each has its model


def noise(logits: Tensor) -> Tensor:
    return logits + 0.3 * torch.randn_like(logits)


SHOWN: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "random-model": (lambda: Net(after=noise), None, {}),
    "probabilities": (lambda: Net(after=lambda z: z.softmax(1)), None, {"force": True}),
    "test-time-optimisation": (lambda: Net(optimised), None, {}),
    "buffers-changed": (Counting, None, {"force": True}),
    "chance-accuracy": (lambda: Net(after=lambda z: z.flip(1)), None, {"force": True}),
    "zero-gradients": (lambda: Net(lambda x: Rounded.apply(x, 0.0)), None, {}),
    "shattered-gradients": (lambda: Net(lambda x: x + 0.004 * torch.sin(2000 * x)), None, {}),
    "black-box-better": (lambda: Net(lambda x: Reversed.apply(x)), suite(Linf(0.2)), {}),
    "not-saturated": (Net, PGD(Linf(EPS), steps=5, step_size=EPS / 50, start="clean"), {}),
    "range-not-reached": (lambda: Net(lambda x: Reversed.apply(x)), None, {}),
}


@pytest.mark.parametrize("slug", SHOWN)
def test_a_model_that_shows_it_is_flagged(slug):
    make, threat, options = SHOWN[slug]
    with seeded(5):  # the noise of the random model
        result = audited(make(), threat, **options)
    (flag,) = [flag for flag in result.flags if flag.slug == slug]
    assert flag.unreliable
    assert flag.n > 0
    assert re.search(r"\d", flag.seen)
    assert flag.run_next
    assert result.status == "unreliable"
    assert flag.message in result.warnings
    assert f"Run next: {flag.run_next}" in flag.message


@pytest.mark.parametrize("slug", SHOWN)
def test_every_flag_has_its_page(slug, root):
    page = (root / "docs" / "flags" / f"{slug}.md").read_text()
    assert page.startswith(f"# {slug}\n")
    assert "Run next." in page
    assert f"({slug}.md)" in (root / "docs" / "flags" / "README.md").read_text()


@pytest.mark.parametrize("slug", ["probabilities", "chance-accuracy", "buffers-changed"])
def test_without_force_the_audit_stops_and_says_how_to_go_on(slug):
    make, threat, _ = SHOWN[slug]
    with pytest.raises(ModelChanged if slug == "buffers-changed" else AuditError, match="--force"):
        audited(make(), threat)


def test_a_net_behind_a_softmax_is_told_of_the_wrapper():
    with pytest.raises(AuditError, match=r"gradients of a softmax vanish.*LogProbabilities\(model\)"):
        audited(Net(after=lambda z: z.softmax(1)), None)


def test_a_rounding_model_with_a_true_slope_is_not_flagged_for_its_gradient():
    """Backward passes through a rounding as if it were not there (BPDA): the attack sees what it needs."""
    found = slugs(audited(Net(lambda x: Rounded.apply(x, 1.0)), suite(Linf(0.2))))
    assert not found & {"zero-gradients", "shattered-gradients", "range-not-reached"}


# -------------------------------------------------------------------------------------------------- numbers by hand


def test_black_box_better_counts_what_was_left():
    """40 samples; 20 left by gradients, of which Square breaks 5: 25 %, Wilson [11.2, 46.9]."""
    gradients = torch.arange(40) < 20
    square = torch.arange(40) < 25
    one = Suite(Linf(0.1), (("PGD", PGD(Linf(0.1))), ("Square", Square(Linf(0.1)))))
    flag = flags.black_box_better(one, "linf@0.1", {"PGD": gradients, "Square": square})
    assert flag is not None
    assert flag.n == 20
    assert "5 of 20 samples (25.0 % [11.2, 46.9])" in flag.seen
    # one of 20: the interval begins at 0.9 %, which may be chance
    assert flags.black_box_better(one, "linf@0.1", {"PGD": gradients, "Square": torch.arange(40) < 21}) is None
    # two of six are more than chance, but of 400 samples that hardly matters
    rest = torch.arange(400) < 394
    assert flags.black_box_better(one, "linf@0.1", {"PGD": rest, "Square": torch.arange(400) < 396}) is None
    alone = Suite(Linf(0.1), (("Square", Square(Linf(0.1))),))
    assert flags.black_box_better(alone, "linf@0.1", {"Square": square}) is None
    first = Suite(Linf(0.1), one.attacks[::-1])  # what Square broke first, gradients were never given
    assert flags.black_box_better(first, "linf@0.1", {"Square": gradients, "PGD": square}) is None


def survivors(model: nn.Module, threat: Suite, n: int = 40) -> flags.Survivors:
    """Samples with the margins 2 * |sum - 6.4| that no attack moved."""
    x, y = data(n)[:]
    return flags.Survivors(model.eval(), threat, "linf@0.08", x, y, x.clone(), torch.arange(n), 16)


def test_the_promise_of_a_linear_net_is_kept_exactly():
    """L = -2 |sum - 6.4|: sixteen slopes of 2, a step of 0.01 in each promises and gives 0.32."""
    one = survivors(Net(), suite())
    value, grad = one.gradients(margin)
    assert torch.allclose(grad.abs(), torch.full_like(grad, 2.0))
    step = flags._step(one, grad)
    assert torch.allclose(step.abs(), torch.full_like(step, EPS / 8))
    assert torch.allclose((step * grad).flatten(1).sum(1), torch.tensor(0.32), atol=1e-5)
    assert torch.allclose(one.margins(one.x + step) - value, torch.tensor(0.32), atol=1e-4)
    assert flags.shattered_gradients(one) is None
    # the same gradient told of a net that does not move: nothing of the promise is kept
    still = flags.shattered_gradients(survivors(Net(lambda x: Rounded.apply(x / 100, 100.0)), suite()))
    assert still is not None
    assert "40 of 40 samples" in still.seen
    assert "median 0%" in still.seen


def test_zero_gradients_tells_a_dead_objective_from_a_dead_model():
    """Logits a thousand times as large: the cross-entropy is exactly 0, the margin is not."""
    x, y = data(40)[:]
    far = ((x.flatten(1).sum(1) - 6.4).abs() > 0.2).nonzero().squeeze(1)
    steep = Net(after=lambda z: 1000 * z)
    one = replace(survivors(steep, suite()), x=x[far], y=y[far], x_adv=x[far], seeds=torch.arange(len(far)))
    note = flags.zero_gradients(one)
    assert note is not None
    assert not note.unreliable
    assert f"cross_entropy is exactly zero for {len(far)} of {len(far)} samples" in note.seen
    only = replace(one, suite=Suite(Linf(EPS), (("PGD", PGD(Linf(EPS))),)))
    flag = flags.zero_gradients(only)
    assert flag is not None
    assert flag.unreliable
    assert flags.zero_gradients(replace(only, suite=Suite(Linf(EPS), (("PGD", PGD(Linf(EPS), objective=margin)),)))) is None


def test_twice_the_steps_of_a_linear_net_break_what_is_in_reach():
    """Steps of 0.02 with sixteen pixels raise L by 0.64 each: five reach 3.2, ten reach 6.4, the budget 8 x 0.64 = 5.12."""
    budget = Linf(0.16)
    slow = PGD(budget, steps=5, step_size=0.02, start="clean")
    model = Net().eval()
    x, y = data(60)[:]
    inner = (x > 0.17).flatten(1).all(1) & (x < 0.83).flatten(1).all(1)  # no pixel meets the end of its range
    height = -margin(model(x), flags.AttackBatch(x, y)).detach()
    left = (height > 3.25) & inner
    assert int(left.sum()) >= 3
    reach = slow.run_seeded(model, x[left], y[left], torch.arange(int(left.sum())))
    assert not bool(reach.success.any())
    one = flags.Survivors(
        model, Suite(budget, (("PGD", slow),)), "t", x[left], y[left], reach.x_adv, torch.arange(int(left.sum())), 16
    )
    flag = flags.not_saturated(one)
    within = int((height[left] < 5.1).sum())
    assert flag is not None
    assert f"twice the steps (10) break {within} of {int(left.sum())} samples" in flag.seen
    done = replace(one, suite=Suite(budget, (("PGD", replace(slow, steps=8)),)))
    done = replace(done, x_adv=replace(slow, steps=8, retire=False).run_seeded(model, one.x, one.y, one.seeds).x_adv)
    tough = (height[left] > 5.2).nonzero().squeeze(1)
    assert len(tough) > 0
    # eight steps reach the corner of the budget: nothing is left to gain
    corner = replace(done, x=one.x[tough], y=one.y[tough], x_adv=done.x_adv[tough], seeds=one.seeds[tough])
    assert flags.not_saturated(corner) is None


@pytest.mark.parametrize(("budget", "eps"), [(Linf(0.1), 2.0), (L2(0.1), 8.0), (L1(0.1), 32.0)])
def test_the_whole_range_holds_every_input(budget, eps):
    """16 values in [-1, 1]: 2 in Linf, 2 sqrt(16) in L2, 2 x 16 in L1, the distance of two opposite corners."""
    x = -torch.ones(3, 1, 4, 4)
    wide = flags.whole_range(budget, x, (-1.0, 1.0))
    assert wide is not None
    assert wide.eps == eps
    assert float(wide.size(x, -x).max()) == pytest.approx(eps)
    assert flags.whole_range(budget, x, None) is None


def test_a_note_changes_no_status():
    found = audited(Net(), Suite(Linf(EPS), (("T9", TargetedAPGD(Linf(EPS), 20)),)))
    (note,) = found.flags
    assert note.slug == "fewer-classes"
    assert "1 others" in note.seen
    assert found.status == "reliable"
    assert found.warnings == []
    assert found.notes == [note.message]
    wide = audited(Net(after=lambda z: torch.cat([z, z[:, :1] - 1000], 1)), APGD(Linf(EPS), 20))
    assert {flag.slug for flag in wide.flags} == {"more-outputs"}
    assert wide.status == "reliable"


def test_a_random_model_that_is_attacked_as_one_is_noted_only():
    quiet = Net(after=lambda z: z + 0.02 * torch.randn_like(z))
    with seeded(1):
        plain, averaged = (audited(quiet, PGD(Linf(EPS), steps=8, eot=eot)) for eot in (1, 10))
    voted = audited(Randomised(quiet, draws=10), PGD(Linf(EPS), steps=8))
    assert "random-model" in slugs(plain)
    for result in (averaged, voted):
        assert slugs(result) == set()
        assert "the model is random" in result.notes[0]


def test_what_an_attack_says_is_a_flag_but_for_zero_gradients():
    zero = "APGD: the gradient is zero for 40% of the samples"
    found = flags.said_by_attacks("t", ["the surrogate is far off", zero], 9)
    assert found is not None
    assert found.seen == "the surrogate is far off"
    assert flags.said_by_attacks("t", [zero], 9) is None
    many = flags.said_by_attacks("t", [f"batch {i}" for i in range(5)], 9)
    assert many is not None
    assert many.seen == "batch 0; batch 1; batch 2; and 2 more warnings"


# ------------------------------------------------------------------------------------------------------- the audit


def test_flags_do_not_depend_on_the_batch_size():
    model = Net(lambda x: x + 0.004 * torch.sin(2000 * x))
    slow = PGD(Linf(EPS), steps=4)
    whole, small = (audited(model, slow, batch_size=size) for size in (64, 7))
    assert "shattered-gradients" in slugs(whole)
    assert whole.flags == small.flags


def test_the_checks_cost_what_the_docs_say():
    """128 of 300 survivors: twice 10 steps, and twenty on 64; a margin and three points, two objectives, one step."""
    images = data(300)
    model = Net().eval()
    budget = Linf(0.001)
    threat = Suite(budget, (("APGD", APGD(budget, 10)), ("margin", APGD(budget, 10, objective=margin))))
    measured = attack_set(model, images, threat)
    assert int((~measured.broken).sum()) > 128
    model.seen = 0
    assert flags.threat_flags(model, images, threat, "t", measured, 2) == []
    # zero: 2, shattered: 2, margins: 3; attacks begin with a clean pass; points that broke leave the search
    assert model.seen <= 128 * (2 + 2 + 3 + 1 + 21) + 64 * 22
    model.seen = 0
    few = replace(measured, broken=torch.arange(300) >= 5, stages={})  # 5 of 300, below 2 %: nothing is said of so few
    assert flags.threat_flags(model, images, threat, "t", few, 2) == []
    assert model.seen == 0


def test_a_flag_marks_the_numbers_that_it_concerns(tmp_path):
    slow = PGD(Linf(EPS), steps=5, step_size=EPS / 50, start="clean")
    result = audited(Net(), threats=[slow, APGD(L2(0.3), 20)])
    first, second = result.threats
    assert [flag.slug for flag in result.doubts(first)] == ["not-saturated"]
    assert result.doubts(second) == result.doubts("clean") == []
    back = AuditResult.load(result.save(tmp_path / "audit").parent)
    assert back.flags == result.flags
    about = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert about["flags"][0]["slug"] == "not-saturated"
    assert about["flags"][0]["run_next"]
    page = (tmp_path / "audit" / "report.html").read_text()
    marked = (
        '<span class="tag">unreliable</span>',
        "Unreliable: do not rely on the marked numbers",
        "Run next: linf@0.08 (the standard",
    )
    for said in ("Signs of attacks that fail", "docs/flags/not-saturated.md", *marked):
        assert said in page
    cells = [str(cell) for cell in audit_table({"net": result}).columns[1]._cells]
    assert [("unreliable" in cell) for cell in cells] == [False, True, False]
    del about["flags"]  # an audit of an earlier version
    (tmp_path / "audit" / "audit.json").write_text(json.dumps(about))
    assert AuditResult.load(tmp_path / "audit").flags == []


def test_a_random_model_makes_its_clean_accuracy_unreliable_too():
    flag = Flag("random-model", "seen", 3, "why", "next")
    assert flag.concerns("clean", ["linf@0.1"])
    assert not Flag("probabilities", "seen", 3, "why", "next").concerns("clean", ["linf@0.1"])
    assert Flag("probabilities", "seen", 3, "why", "next").concerns("linf@0.1", ["linf@0.1"])


def test_a_changing_model_forgets_between_passes_and_comes_back_as_it_was():
    model = Counting().eval()
    kept = KeptBuffers(model)
    x, _ = data(8)[:]
    with torch.no_grad():
        assert torch.equal(kept(x), kept(x))
        assert torch.equal(kept(x), Net()(x))  # the first pass divides by 1
    leaf = x.clone().requires_grad_()
    one, two = kept(leaf), kept(leaf)  # a pass between a pass and its backward
    one.sum().backward()
    assert two.requires_grad
    before = model.passes
    result = audited(model, PGD(Linf(EPS), steps=3), force=True)
    assert model.passes is before
    assert float(before) == 0
    assert result.model["name"] == "Counting"
    assert result.row("clean").value == audited(Net(), PGD(Linf(EPS), steps=1)).row("clean").value


def test_autograd_is_counted_in_every_form_and_left_alone():
    x = torch.ones(2, requires_grad=True)
    with flags.counting_autograd() as calls:
        torch.autograd.grad((x * x).sum(), x)
        (x * x).sum().backward()
        torch.autograd.backward((x * x).sum())
    assert calls[0] == 3
    (x * x).sum().backward()
    assert calls[0] == 3
    with flags.counting_autograd() as calls:
        Net()(torch.rand(2, 1, 4, 4))
    assert calls[0] == 0


def test_a_model_that_cuts_its_gradient_is_told_before_any_attack():
    model = Net(lambda x: x.detach(), after=lambda z: z.detach())
    with pytest.raises(InputError, match=r"model: got logits that do not depend on the input .*from_function"):
        audited(model)
    assert audited(model, Square(Linf(EPS), queries=20)).status == "reliable"


def test_the_example_of_the_page_runs(root: Path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "flags" / "README.md").read_text(), flags=re.S)
    exec(compile(code, "flags", "exec"), {})
    assert "chance-accuracy" in capsys.readouterr().out
