"""MTARD against its card: the invariants, single steps worked out independently, and the refusals."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.errors import InputError, Interrupted, NotFinite, SplitError
from tutelage.core.rng import Noise, generator
from tutelage.data import fashion_mnist_subset
from tutelage.methods.distill.mtard import MTARD, MTARDConfig, fit_mtard
from tutelage.models import SmallCNN
from tutelage.models.loading import fingerprint
from tutelage.teaching.fit import Context, fit
from tutelage.teaching.schedules import multistep
from tutelage.teaching.teachers import Teacher
from tutelage.threats import L2, PGD, Budget, Linf

CLASSES = 3


class Shift:
    """An attack that adds a constant, whatever model and labels are, and counts its calls."""

    def __init__(self, by: float = 0.25) -> None:
        self.by, self.calls = by, 0

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        self.calls += 1
        return x + self.by


class Spy(nn.Module):
    """Remembers its inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        out: Tensor = self.inner(x)
        return out


class Fixed(nn.Module):
    """The same logits for every sample."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + torch.zeros(len(x), 1)


def net(seed: int, *, norm: bool = True, classes: int = CLASSES) -> nn.Module:
    """Images (B, 1, 4, 4) -> logits."""
    torch.manual_seed(seed)
    first: list[nn.Module] = [nn.BatchNorm2d(1)] if norm else []
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))


def batch(seed: int = 0, n: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=rng) * 0.7, torch.randint(CLASSES, (n,), generator=rng)


def context(step: int = 0, scale: float = 1.0) -> Context:
    return Context(step, 10, scale, torch.Generator().manual_seed(7))


def objective(clean: nn.Module, robust: nn.Module, attack: Any = None, **config: Any) -> MTARD:
    teachers = {"clean": Teacher(clean, name="clean teacher"), "robust": Teacher(robust, name="robust teacher")}
    return MTARD(teachers, attack or Shift(), MTARDConfig(**config))


def divergence(teacher: Tensor, student: Tensor, tau: float = 1.0) -> Tensor:
    """sum_c p log(p / q), mean over samples; p at temperature tau, q at 1. Independent of the package."""
    p = torch.softmax(teacher.detach() / tau, 1)
    return (p * (torch.log(p) - torch.log(torch.softmax(student, 1)))).sum(1).mean()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def loader_of(x: Tensor, y: Tensor, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


# the card's invariants


def test_invariant_6_two_uniform_teachers() -> None:
    student, uniform = net(0), Fixed(0.0, 0.0, 0.0)
    x, y = batch()
    total, log = objective(uniform, uniform)(student, (x, y), context())
    total.backward()
    # KL(u || q) = -ln C - mean_c ln q_c
    for key, at in (("loss_robust", x + 0.25), ("loss_clean", x)):
        expected = (-math.log(CLASSES) - student(at).log_softmax(1).mean(1)).mean()
        assert float(log[key]) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert float(log["entropy_clean"]) == pytest.approx(math.log(CLASSES), abs=1e-6)
    assert uniform.logits.grad is None
    assert all(p.grad is not None for p in student.parameters())


def independent_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int, seed: int) -> Tensor:
    """(1) of the card, written out: start 0.001 N(0, I) away, sign steps on CE, cut to the ball and to [0, 1], eval mode."""
    model.eval()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    x_adv = (x + (0.001 * noise).clamp(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = torch.minimum(torch.maximum(x_adv.detach() + step * grad.sign(), x - eps), x + eps).clamp(0, 1)
    model.train()
    return x_adv


def test_invariant_7_all_weight_on_the_robust_teacher_is_single_teacher_robust_distillation() -> None:
    x, y = batch()
    ours, theirs = net(0).train(), net(0).train()
    clean, robust = net(1).eval(), net(2).eval()
    sgd = {"lr": 0.5, "momentum": 0.9, "weight_decay": 2e-4}
    optimizer = torch.optim.SGD(ours.parameters(), **sgd)
    attack = PGD(Linf(0.1), steps=3, step_size=0.025, start="gaussian")
    mtard = objective(clean, robust, attack, eta_w=0, clean_weight=0, balance=("loss",))
    total, log = mtard(ours, (x, y), context())
    total.backward()
    optimizer.step()

    reference = torch.optim.SGD(theirs.parameters(), **sgd)
    x_adv = independent_pgd(theirs, x, y, 0.1, 0.025, 3, seed=7)
    loss = divergence(robust(x_adv), theirs(x_adv))
    loss.backward()
    reference.step()

    assert float((x_adv - x).abs().max()) == pytest.approx(0.076, abs=0.005)  # it moved: 3 steps of 0.025 and the start
    assert (log["weight_robust"], log["weight_clean"]) == (1.0, 0.0)
    assert float(total.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7, msg=name)
    assert not torch.equal(ours[2].weight, net(0)[2].weight)


# order of the passes, and who sees what


def test_the_student_passes_the_attacked_batch_first_then_the_clean_one() -> None:
    # BatchNorm on the input, momentum 0.1, from running mean 0: after x + 0.25 it is 0.1 (m + 0.25), after x it is
    # 0.9 * 0.1 (m + 0.25) + 0.1 m = 0.19 m + 0.0225. The other order would give 0.19 m + 0.025; one joint pass 0.1 m + ...
    student, (x, y) = net(0).train(), batch()
    objective(net(1), net(2))(student, (x, y), context())
    assert int(student[0].num_batches_tracked) == 2
    assert float(student[0].running_mean) == pytest.approx(0.19 * float(x.mean()) + 0.0225, abs=1e-6)


def test_a_real_attack_leaves_the_running_statistics_alone() -> None:
    student, (x, y) = net(0).train(), batch()
    objective(net(1), net(2), PGD(Linf(0.1), steps=4))(student, (x, y), context())
    assert int(student[0].num_batches_tracked) == 2
    assert student.training


def test_the_supervision_of_each_batch_is_robust_on_attacked_and_clean_on_clean_inputs() -> None:
    clean, robust = Spy(net(1)), Spy(net(2))
    mtard, student = objective(clean, robust), net(0)
    mtard(student, batch(0), context())
    clean.seen.clear()
    robust.seen.clear()
    for step in (1, 2):
        mtard(student, batch(step), context(step))
    assert [torch.equal(seen, batch(step)[0]) for seen, step in zip(clean.seen, (1, 2), strict=True)] == [True, True]
    assert [torch.equal(seen, batch(step)[0] + 0.25) for seen, step in zip(robust.seen, (1, 2), strict=True)] == [True, True]


def test_every_question_to_a_teacher_is_metered_and_of_its_own_kind_the_first_batch_included() -> None:
    clean, robust = Spy(net(1)), Spy(net(2))
    mtard, student = objective(clean, robust), net(0)
    for step in range(3):
        mtard(student, batch(step), context(step))
    kinds = {torch.equal(seen, batch(step)[0]) for step, seen in zip(range(3), robust.seen, strict=False)}
    assert sum(len(seen) for seen in clean.seen) == mtard.teachers["clean"].spent == 36
    assert sum(len(seen) for seen in robust.seen) == mtard.teachers["robust"].spent == 36
    assert kinds == {False}


def test_teachers_are_not_changed_whatever_mode_they_come_in() -> None:
    clean, robust, (x, y) = net(1).train(), net(2).train(), batch(n=16)
    before = fingerprint(clean), fingerprint(robust)
    frozen = clean(x)  # builds running statistics in train mode, so that eval mode differs
    clean.load_state_dict(net(1).state_dict())
    student = net(0)
    fit(student, objective(clean, robust), loader_of(x, y), epochs=2, optimizer=torch.optim.SGD(student.parameters(), lr=0.5))
    assert (fingerprint(clean), fingerprint(robust)) == before
    assert clean.training
    assert robust.training
    assert all(p.grad is None and p.requires_grad for m in (clean, robust) for p in m.parameters())
    assert not torch.equal(frozen, clean.eval()(x))


# the two balances inside the objective


def test_a_temperature_takes_effect_from_the_next_batch() -> None:
    # H(clean) < H(robust): tau_clean goes 1 -> 1.5, tau_robust is held at 1
    clean, robust, student = Fixed(4.0, 0.0, 0.0), Fixed(2.0, 1.0, 1.0), Fixed(0.0, 0.5, 0.0)
    mtard = objective(clean, robust, eta_tau=0.5, balance=("entropy",))
    first, second = (mtard(student, batch(step), context(step))[1] for step in (0, 1))
    q = torch.tensor([[0.0, 0.5, 0.0]])
    assert (first["temperature_clean"], second["temperature_clean"]) == (1.0, 1.5)
    assert (first["temperature_robust"], second["temperature_robust"]) == (1.0, 1.0)
    assert first["loss_clean"] == pytest.approx(float(divergence(torch.tensor([[4.0, 0.0, 0.0]]), q)), abs=1e-6)
    assert second["loss_clean"] == pytest.approx(float(divergence(torch.tensor([[4.0, 0.0, 0.0]]), q, 1.5)), abs=1e-6)
    # the entropy logged is the one at the temperature that was used: logits (4, 0, 0)/1.5
    p = torch.softmax(torch.tensor([4.0, 0.0, 0.0]) / 1.5, 0)
    assert second["entropy_clean"] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-6)


def test_a_weight_is_used_in_the_batch_that_moved_it() -> None:
    clean, robust, student = Fixed(2.0, 0.0, 0.0), Fixed(1.0, 2.0, 1.0), Fixed(0.0, 0.0, 0.0)
    mtard = objective(clean, robust, eta_w=1.0, balance=("loss",))
    total, log = mtard(student, batch(0), context(0))
    first = {name: float(log[f"loss_{name}"]) for name in ("clean", "robust")}
    assert log["weight_clean"] == pytest.approx(0.5)
    assert float(total.detach()) == pytest.approx((first["clean"] + first["robust"]) / 2, abs=1e-6)
    with torch.no_grad():
        student.logits.copy_(torch.tensor([1.5, 0.0, 0.0]))  # it learned from the clean teacher only
    total, log = mtard(student, batch(1), context(1))
    second = {name: float(log[f"loss_{name}"]) for name in ("clean", "robust")}
    relative = {name: second[name] / first[name] for name in first}
    w_clean = relative["clean"] / sum(relative.values())
    assert w_clean < 0.2  # the clean loss fell more, so it gets less weight
    assert log["weight_clean"] == pytest.approx(w_clean, abs=1e-9)
    expected = w_clean * second["clean"] + (1 - w_clean) * second["robust"]
    assert float(total.detach()) == pytest.approx(expected, abs=1e-6)


def test_the_weights_carry_no_gradient() -> None:
    student, clean, robust = net(0).double(), net(1).double().eval(), net(2).double().eval()
    (x, y), (x0, y0) = batch(), batch(1)
    x = x.double()
    mtard = objective(clean, robust, eta_w=1.0, balance=("loss",))
    mtard(net(5).double(), (x0.double(), y0), context())
    total, log = mtard(student, (x, y), context())
    assert log["weight_clean"] != pytest.approx(0.5, abs=0.01)
    by_robust, by_clean = divergence(robust(x + 0.25), student(x + 0.25)), divergence(clean(x), student(x))
    expected = log["weight_robust"] * by_robust + log["weight_clean"] * by_clean
    parameters = list(student.parameters())
    for ours, theirs in zip(torch.autograd.grad(total, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_schedule_scales_both_rates() -> None:
    def after(scale: float) -> tuple[float, float]:
        clean, robust, student = Fixed(4.0, 0.0, 0.0), Fixed(2.0, 1.0, 1.0), Fixed(0.0, 0.5, 0.0)
        mtard = objective(clean, robust, eta_w=0.5, eta_tau=0.2)
        mtard.weights.initial = {"clean": 1.0, "robust": 1.0}
        mtard(student, batch(), context(3, scale))
        return mtard.weights.weights["clean"] - 0.5, mtard.temperatures.temperatures["clean"] - 1

    full, tenth = after(1.0), after(0.1)
    assert full[1] == pytest.approx(0.2)
    assert tenth == pytest.approx((full[0] / 10, full[1] / 10), rel=1e-6)
    assert abs(full[0]) > 0.05


def test_the_schedule_of_fit_reaches_the_temperatures() -> None:
    # 4 steps, milestone at half: 1 + 0.2 + 0.2 + 0.02 + 0.02 = 1.44
    student, (x, y) = net(0), batch(n=16)
    mtard = objective(Fixed(9.0, 0.0, 0.0), Fixed(0.1, 0.0, 0.0), eta_tau=0.2)
    sgd = torch.optim.SGD(student.parameters(), lr=0.1)
    result = fit(student, mtard, loader_of(x, y), epochs=1, optimizer=sgd, schedule=multistep((0.5,)))
    assert [row["temperature_clean"] for row in result.history] == pytest.approx([1.0, 1.2, 1.4, 1.42])
    assert mtard.temperatures.temperatures["clean"] == pytest.approx(1.44)


@pytest.mark.parametrize(
    ("balance", "fixed_w", "fixed_tau"), [((), True, True), (("loss",), False, True), (("entropy",), True, False)]
)
def test_each_balance_can_be_switched_off(balance: tuple[str, ...], fixed_w: bool, fixed_tau: bool) -> None:
    mtard, student = objective(net(1), net(2), balance=balance, eta_w=0.5, eta_tau=0.5, clean_weight=0.25), net(0)
    for step in range(3):
        mtard(student, batch(step), context(step))
    assert (mtard.weights.weights["clean"] == 0.25) is fixed_w
    assert (mtard.temperatures.temperatures == {"clean": 1.0, "robust": 1.0}) is fixed_tau


def test_without_balances_it_is_two_teachers_at_fixed_weights() -> None:
    student, (x, y) = net(0), batch()
    mtard = objective(net(1), net(2), balance=(), clean_weight=0.25)
    for step in range(3):
        total, _ = mtard(student, (x, y), context(step))
        expected = 0.75 * divergence(net(2).eval()(x + 0.25), student(x + 0.25)) + 0.25 * divergence(
            net(1).eval()(x), student(x)
        )
        assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_labels_matter_only_through_the_attack() -> None:
    x, y = batch()
    totals = []
    for labels in (y, (y + 1) % CLASSES):
        totals.append(float(objective(net(1), net(2))(net(0), (x, labels), context())[0].detach()))
    assert totals[0] == totals[1]
    attacked = [
        float(objective(net(1), net(2), PGD(Linf(0.1), steps=2))(net(0), (x, labels), context())[0].detach())
        for labels in (y, (y + 1) % CLASSES)
    ]
    assert attacked[0] != attacked[1]


def test_reduction_mean_is_one_over_the_classes_of_batchmean() -> None:
    totals = [
        float(objective(net(1), net(2), reduction=r)(net(0), batch(), context())[0].detach()) for r in ("batchmean", "mean")
    ]
    assert totals[1] == pytest.approx(totals[0] / CLASSES, rel=1e-6)


@pytest.mark.parametrize("balance", [(), ("loss", "entropy")])
def test_a_student_that_starts_as_a_copy_of_its_clean_teacher_can_be_taught_at_fixed_weights(balance: tuple[str, ...]) -> None:
    """L_n(0) = 0: the loss balance is undefined and says so; fixed weights need no L(0)."""
    student = net(1, norm=False)
    mtard = objective(net(1, norm=False), net(2, norm=False), balance=balance)
    if balance:
        with pytest.raises(InputError, match="above 0 in the first batch"):
            mtard(student, batch(), context())
    else:
        total, log = mtard(student, batch(), context())
        assert log["loss_clean"] == pytest.approx(0, abs=1e-7)
        assert float(total.detach()) > 0


def test_a_student_that_nearly_equals_its_teacher_is_no_error() -> None:
    """In float32 the KL of nearly equal predictions rounds to about -1e-8 every other time; that is a loss of 0."""
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(200):
        logits = 3 * torch.randn(CLASSES, generator=rng)
        near = logits + 1e-4 * torch.randn(CLASSES, generator=rng)
        mtard = objective(Fixed(*logits.tolist()), Fixed(0.0, 0.0, 0.0))
        mtard.weights.initial = {"clean": 1.0, "robust": 1.0}  # as after a first batch
        _, log = mtard(Fixed(*near.tolist()), batch(n=2), context(1))
        worst = min(worst, float(log["loss_clean"]))
    assert worst >= 0


# refusals: each before the student is updated, and before an attack is computed


class Softmax(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(1)


def _with(x: Tensor, value: float) -> Tensor:
    out = x.clone()
    out[0, 0, 0, 0] = value
    return out


X, Y = batch(n=8)
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "clean teacher of 4 classes": ({"clean": net(1, classes=4)}, "clean teacher: got 4 classes, wanted 3"),
    "robust teacher of 2 classes": ({"robust": net(1, classes=2)}, "robust teacher: got 2 classes, wanted 3"),
    "clean teacher of probabilities": ({"clean": Softmax(net(1))}, "clean teacher: got outputs that are probabilities"),
    "robust teacher of probabilities": ({"robust": Softmax(net(1))}, "robust teacher: got outputs that are probabilities"),
    "student of probabilities": ({"student": Softmax(net(0))}, "student: got outputs that are probabilities"),
    "inputs up to 255": ({"x": X * 255}, "x: got values .* divide 0-255 images by 255"),
    "normalised inputs": ({"x": X - 0.5}, "x: got values .* normalisation inside the model"),
    "NaN input": ({"x": _with(X, math.nan)}, "loader: got NaN"),
    "infinite input": ({"x": _with(X, math.inf)}, "loader: got NaN or infinity in sample 0"),
    "bytes": ({"x": (X * 255).to(torch.uint8)}, "x: got dtype torch.uint8"),
    "label too high": ({"y": Y.clamp_min(CLASSES)}, "y: got label 3"),
    "negative label": ({"y": Y - CLASSES}, "y: got label -"),
    "float labels": ({"y": Y.float()}, "y: got dtype torch.float32"),
    "one-hot labels": ({"y": F.one_hot(Y)}, "y: got shape"),
    "only one teacher": ({"teachers": ("clean",)}, r"teachers: got \['clean'\]"),
    "other teacher names": ({"teachers": ("natural", "robust")}, r"teachers: got \['natural', 'robust'\]"),
    "a third teacher": ({"teachers": ("clean", "robust", "other")}, "teachers: got"),
    "a teacher that is no module": ({"clean": "model.pt"}, "clean teacher: got str"),
    "unknown balance": ({"config": {"balance": ("losses",)}}, "balance: got"),
    "weight above 1": ({"config": {"clean_weight": 1.5}}, "clean_weight: got 1.5"),
    "eta_w above 1": ({"config": {"eta_w": 1.5}}, "1.5"),
    "negative eta_tau": ({"config": {"eta_tau": -0.1}}, "-0.1"),
    "unknown reduction": ({"config": {"reduction": "sum"}}, "reduction: got sum"),
    "one eps a sample": ({"threat": Linf(torch.full((4,), 0.1))}, "threat: got one eps a sample"),
    "test data for selection": ({"validation": fashion_mnist_subset("test").take(slice(0, 8))}, "test data inside a fit"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_come_before_any_update(case: str) -> None:
    changes, message = REFUSALS[case]
    student: nn.Module = changes.get("student", net(0))
    before, attack = state(student), Shift(0.01)
    models = {"clean": changes.get("clean", net(1)), "robust": changes.get("robust", net(2))}
    teachers = {name: models.get(name, net(3)) for name in changes.get("teachers", ("clean", "robust"))}
    with pytest.raises(InputError, match=message):
        fit_mtard(
            student,
            teachers,
            loader_of(changes.get("x", X), changes.get("y", Y)),
            threat=changes.get("threat", Linf(0.1)),
            attack=None if "threat" in changes else attack,
            config=MTARDConfig(**changes.get("config", {})),
            validation=changes.get("validation"),
            epochs=1,
        )
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())
    # the robust teacher is only ever asked about attacked inputs, so its first answer comes after one attack
    assert attack.calls == (1 if case.startswith("robust teacher of") else 0)


def test_test_data_in_the_loader_is_refused() -> None:
    student = SmallCNN(2)
    before = fingerprint(student)
    with pytest.raises(SplitError):
        fit_mtard(student, {"clean": SmallCNN(2), "robust": SmallCNN(2)}, fashion_mnist_subset("test").loader(8), epochs=1)
    assert fingerprint(student) == before


def test_nan_inputs_in_a_later_batch_stop_before_the_update_that_they_would_spoil() -> None:
    student, (x, y) = net(0, norm=False), batch(n=8)
    after_one = net(0, norm=False)
    sgd = {"lr": 0.1}
    fit(
        after_one, objective(net(1), net(2)), loader_of(x[:4], y[:4]), epochs=1,
        optimizer=torch.optim.SGD(after_one.parameters(), **sgd),
    )  # fmt: skip
    spoiled = x.clone()
    spoiled[5] = math.nan
    with pytest.raises((NotFinite, InputError)):
        fit(
            student, objective(net(1), net(2)), DataLoader(list(zip(spoiled, y, strict=True)), batch_size=4), epochs=1,
            optimizer=torch.optim.SGD(student.parameters(), **sgd),
        )  # fmt: skip
    for a, b in zip(student.parameters(), after_one.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("budget", [Linf(0.1), L2(0.5)])
def test_a_student_that_diverges_is_reported_as_such_and_its_teachers_are_not_blamed(budget: Budget) -> None:
    class Diverges(nn.Module):
        """Finite in the first step, NaN ever after, as weights that overflowed are."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = net(0, norm=False)
            self.diverged = False

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x) * (math.nan if self.diverged else 1.0)
            return out

    student, (x, y) = Diverges(), batch(n=8)
    mtard = objective(net(1), net(2), PGD(budget, steps=2))

    def spoil(model: nn.Module, value: Any, ctx: Context) -> Any:
        student.diverged = ctx.step >= 1
        return mtard(model, value, ctx)

    with pytest.raises(NotFinite, match="step 1"):
        fit(student, spoil, loader_of(x, y), epochs=1, optimizer=torch.optim.SGD(student.parameters(), lr=0.1))


# the method, called by a user


def test_fit_mtard_in_ten_lines() -> None:
    train = fashion_mnist_subset("train").take(range(0, 6400, 100))
    validation = fashion_mnist_subset("train").take(range(1, 3200, 100), "validation")
    student, clean, robust = SmallCNN(2), SmallCNN(4), SmallCNN(3)
    before = fingerprint(student), fingerprint(clean), fingerprint(robust)
    result = fit_mtard(
        student, {"clean": clean, "robust": robust}, train.loader(16, generator=generator(0, "order")),
        threat=Linf(0.1), validation=validation, epochs=1,
    )  # fmt: skip
    assert result.steps == len(result.history) == 4
    assert fingerprint(student) != before[0]
    assert (fingerprint(clean), fingerprint(robust)) == before[1:]
    assert result.best is not None
    assert result.best["w_robust"] == pytest.approx((result.best["clean"] + result.best["robust"]) / 2)
    for row in result.history:
        assert row["weight_clean"] + row["weight_robust"] == pytest.approx(1)
        assert {f"{what}_{who}" for what in ("loss", "entropy", "temperature") for who in ("clean", "robust")} <= row.keys()
        expected = sum(row[f"weight_{who}"] * row[f"loss_{who}"] for who in ("clean", "robust"))
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert not student.training


def test_the_default_optimizer_attack_and_schedule_are_those_of_the_paper() -> None:
    """One step of fit_mtard by default equals one step written out: PGD-10 of eps/4, SGD 0.1/0.9/2e-4, both at weight 1/2."""
    (x, y), ours, theirs = batch(n=8), net(0, norm=False), net(0, norm=False)
    clean, robust = net(1), net(2)
    fit_mtard(ours, {"clean": clean, "robust": robust}, loader_of(x, y, 8), threat=Linf(0.1), epochs=1, seed=11)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    x_adv = independent_pgd(theirs, x, y, 0.1, 0.025, 10, seed=generator(11, "fit").initial_seed())
    with torch.no_grad():
        taught_robust, taught_clean = robust.eval()(x_adv), clean.eval()(x)
    (divergence(taught_robust, theirs(x_adv)) / 2 + divergence(taught_clean, theirs(x)) / 2).backward()
    optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class StopsAt:
    """A shift that presses Ctrl-C at one of its calls."""

    def __init__(self, call: int | None) -> None:
        self.stop, self.calls = call, 0

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        if self.calls == self.stop:
            os.kill(os.getpid(), signal.SIGINT)
        self.calls += 1
        return x + 0.01 * torch.rand(x.shape, generator=generator)


def test_its_state_survives_an_interruption(tmp_path: Path) -> None:
    x, y = batch(n=16)

    def once(folder: Path, stop: int | None) -> tuple[Any, nn.Module]:
        student = net(0)
        result = fit_mtard(
            student, {"clean": net(1), "robust": net(2)}, loader_of(x, y), attack=StopsAt(stop), epochs=2,
            config=MTARDConfig(eta_w=0.2, eta_tau=0.1), checkpoint=folder,
        )  # fmt: skip
        return result, student

    whole, expected = once(tmp_path / "whole", None)
    with pytest.raises(Interrupted):
        once(tmp_path / "cut", 5)
    resumed, student = once(tmp_path / "cut", None)
    assert resumed.resumed_from == 6
    assert resumed.history == whole.history
    assert whole.history[-1]["temperature_clean"] != 1 or whole.history[-1]["temperature_robust"] != 1
    assert fingerprint(student) == fingerprint(expected)


def test_state_dict_round_trip_of_the_objective() -> None:
    first, student = objective(net(1), net(2), eta_w=0.5, eta_tau=0.1), net(0)
    for step in range(3):
        first(student, batch(step), context(step))
    second = objective(net(1), net(2), eta_w=0.5, eta_tau=0.1)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    a, b = (m(student, batch(3), context(3)) for m in (first, second))
    assert float(a[0].detach()) == float(b[0].detach())
    assert a[1] == b[1]
