"""DONE against its card: the invariants, single steps worked out independently, and the refusals."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.errors import InputError, Interrupted
from tutelage.core.rng import Noise
from tutelage.data import ImageSet, fashion_mnist_subset
from tutelage.methods.harden.doubly_robust_at import (
    DONE,
    BarrierAttack,
    Box,
    DONEConfig,
    fit_done,
    implicit_term,
    worst_case_weights,
)
from tutelage.models import SmallCNN
from tutelage.models.loading import fingerprint
from tutelage.teaching.fit import Context
from tutelage.teaching.objectives import AdversarialTraining
from tutelage.teaching.robust import WeightedAdversarialTraining
from tutelage.teaching.weights import KLDROWeights
from tutelage.threats import L2, PGD, Linf

CLASSES = 3


class Shift:
    """An attack that adds a constant, and counts its calls."""

    def __init__(self, by: float = 0.1) -> None:
        self.by, self.calls = by, 0

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        self.calls += 1
        return x + self.by


def net(seed: int = 0, *, norm: bool = False) -> nn.Module:
    """Images (B, 1, 4, 4) -> logits."""
    torch.manual_seed(seed)
    first: list[nn.Module] = [nn.BatchNorm2d(1)] if norm else []
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, CLASSES))


def batch(seed: int = 0, n: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=rng) * 0.7, torch.randint(CLASSES, (n,), generator=rng)


def context(step: int = 5, total: int = 10) -> Context:
    return Context(step, total, 1.0, torch.Generator().manual_seed(7))


def loader_of(x: Tensor, y: Tensor, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


# the implicit gradient, (4) and (5)


def test_the_implicit_part_by_hand() -> None:
    # l = theta x, x = 2, box delta in (-1, 1), c = 1. delta* = 1/2 solves theta = 1/(1 - delta) - 1/(1 + delta) at theta = 4/3.
    # D = 1/(1/2)^2 + 1/(3/2)^2 = 40/9, so dl/dtheta = (x + delta*) + theta / D = 2.5 + 0.3
    theta = torch.tensor(4 / 3, dtype=torch.float64, requires_grad=True)
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    box = Box(x - 1, x + 1, torch.ones_like(x), 1e-3)
    at = x + 0.5
    torch.testing.assert_close(theta.detach() + box.push(at), torch.zeros_like(x), rtol=0, atol=1e-12)
    assert float(box.curvature(at)) == pytest.approx(40 / 9)
    term = implicit_term(lambda z: (theta * z).flatten(), at, box, torch.ones(1, dtype=torch.float64))
    assert float(term.detach()) == 0
    (explicit,) = torch.autograd.grad((theta * at).mean(), theta)
    (implicit,) = torch.autograd.grad(term, theta)
    assert float(explicit) == pytest.approx(2.5)
    assert float(implicit) == pytest.approx(0.3)


def quadratic(W: Tensor, target: Tensor):  # noqa: N803
    """l_i = |W z_i - t|^2 / 2 for z (B, d): a linear model with quadratic loss, of Hessian W' W in its input."""
    return lambda z: 0.5 * (z @ W.T - target).square().sum(1)


def solved(W: Tensor, target: Tensor, x: Tensor, box: Box) -> Tensor:  # noqa: N803
    """x + delta*: the exact solution of (3) for the quadratic loss, by damped Newton steps on each sample."""
    points = []
    for i in range(len(x)):
        low, high, c, z = box.low[i], box.high[i], box.c[i], x[i].clone()
        for _ in range(200):
            slope = W.T @ (W @ z - target) + c / (z - low) - c / (high - z)
            curve = W.T @ W - torch.diag(c / (z - low) ** 2 + c / (high - z) ** 2)
            step = -torch.linalg.solve(curve, slope)
            while bool(((z + step) <= low).any() or ((z + step) >= high).any()):
                step = step / 2
            z = z + step
        assert float(slope.abs().max()) < 1e-9
        points.append(z)
    return torch.stack(points)


def test_invariant_6_the_gradient_equals_finite_differences_through_the_attack() -> None:
    rng = torch.Generator().manual_seed(3)
    W = 0.5 * torch.randn(3, 4, generator=rng, dtype=torch.float64)
    target = torch.randn(3, generator=rng, dtype=torch.float64)
    x = torch.rand(5, 4, generator=rng, dtype=torch.float64)
    weights = torch.tensor([2.0, 0.5, 1.0, 0.1, 1.4], dtype=torch.float64)
    box = Box(x - 0.4, x + 0.4, torch.full((5, 1), 0.3, dtype=torch.float64), 1e-4)

    def outer(W: Tensor) -> Tensor:  # noqa: N803
        return (weights * quadratic(W, target)(solved(W, target, x, box))).mean()

    W.requires_grad_()
    at = solved(W.detach(), target, x, box)
    loss = quadratic(W, target)
    (explicit,) = torch.autograd.grad((weights * loss(at)).mean(), W)
    (implicit,) = torch.autograd.grad(implicit_term(loss, at, box, weights, curvature_steps=30), W)
    (without_H,) = torch.autograd.grad(implicit_term(loss, at, box, weights), W)
    numeric = torch.zeros_like(explicit)
    for index in range(W.numel()):
        h = torch.zeros(W.numel(), dtype=torch.float64)
        h[index] = 1e-5
        h = h.reshape(W.shape)
        numeric.view(-1)[index] = (outer(W.detach() + h) - outer(W.detach() - h)) / 2e-5
    torch.testing.assert_close(explicit + implicit, numeric, rtol=1e-6, atol=1e-7)
    assert float(implicit.abs().max()) > 0.05  # and it matters
    wrong, wrong_without_H = (float((g - numeric).abs().max()) for g in (explicit, explicit + without_H))
    assert wrong_without_H < 0.5 * wrong


def test_invariant_6_without_a_mixed_derivative_it_vanishes() -> None:
    theta = torch.tensor([0.7, -0.2], requires_grad=True)
    x = torch.full((3, 2), 0.5)
    box = Box(x - 0.1, x + 0.1, torch.full((3, 1), 0.01), 1e-4)
    term = implicit_term(lambda z: theta.square().sum() + z.square().sum(1), x + 0.05, box, torch.ones(3))
    (grad,) = torch.autograd.grad(term + theta.sum(), theta)
    assert grad.tolist() == [1, 1]


def test_without_curvature_the_point_it_looks_at_stays_in_the_box() -> None:
    # at the middle of the box, where nothing is solved, v = g / D = 5 would lead far out; it is cut at the edge, 1
    theta = torch.tensor(10.0, requires_grad=True)
    x = torch.zeros(1, 1)
    box = Box(x - 1, x + 1, torch.ones(1, 1), 1e-3)
    (grad,) = torch.autograd.grad(implicit_term(lambda z: (theta * z).flatten(), x, box, torch.ones(1)), theta)
    assert float(grad) == pytest.approx(1.0)


def test_conjugate_gradients_stop_where_the_inner_problem_is_not_convex() -> None:
    # H = 100 > D: no minimum of (3) there; v stays finite
    theta = torch.tensor(1.0, requires_grad=True)
    x = torch.full((1, 1), 0.5)
    box = Box(x - 1, x + 1, torch.ones(1, 1), 1e-3)
    term = implicit_term(lambda z: (50 * theta * z.square()).flatten(), x, box, torch.ones(1), curvature_steps=5)
    (grad,) = torch.autograd.grad(term, theta)
    assert math.isfinite(float(grad))


def test_the_edge_of_the_box_is_refused() -> None:
    x = torch.full((1, 2), 0.5)
    box = Box(x - 0.1, x + 0.1, torch.ones(1, 1), 1e-3)
    with pytest.raises(InputError, match="edge"):
        box.curvature(x + 0.1)


# the inner problem (3)


def test_invariant_5_the_attack_ends_strictly_inside_the_box() -> None:
    x, y = batch()
    x[0], x[1] = 0.0, 1.0  # one-sided boxes
    model = net()
    for steps in (1, 2, 10):
        x_adv, box = BarrierAttack(Linf(0.1), steps=steps).search(x, y, model=model, generator=torch.Generator())
        delta, low, high = x_adv - x, torch.maximum(-x, torch.tensor(-0.1)), torch.minimum(1 - x, torch.tensor(0.1))
        assert bool((delta > low).all())
        assert bool((delta < high).all())
        assert bool((box.curvature(x_adv) > 0).all())


def test_the_strength_of_the_barrier_is_a_share_of_the_median_gradient() -> None:
    # logits (w z, 0) with w = (1, -2, 4), label 1: dCE/dz = p w; the median of |.| is 2 p, p = sigmoid(w z) at the start
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 4.0], [0.0, 0.0, 0.0]]))
    x, y = torch.full((1, 3), 0.5), torch.ones(1, dtype=torch.long)
    _, box = BarrierAttack(Linf(0.2), steps=3, barrier=0.05).search(x, y, model=model, generator=torch.Generator())
    p = 1 / (1 + math.exp(-1.5))
    assert float(box.c) == pytest.approx(0.05 * 0.2 * 2 * p, rel=2e-3)
    _, box = BarrierAttack(Linf(0.2), steps=3, barrier_c=0.7).search(x, y, model=model, generator=torch.Generator())
    assert float(box.c) == pytest.approx(0.7)


def test_the_attack_balances_gradient_and_barrier() -> None:
    # a coordinate of median gradient rests where 1/d - 1/(2 eps - d) = 1/(barrier eps): for barrier 0.1, d = 0.095 eps
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.01, -0.01, 0.01], [0.0, 0.0, 0.0]]))
    x, y = torch.full((1, 3), 0.5), torch.ones(1, dtype=torch.long)
    x_adv = BarrierAttack(Linf(0.2), steps=100)(x, y, model=model, generator=torch.Generator())
    d = 0.1 * 0.2 + 0.2 - math.sqrt((0.1 * 0.2) ** 2 + 0.2**2)
    assert d == pytest.approx(0.095 * 0.2, rel=2e-3)
    torch.testing.assert_close(x_adv - x, torch.tensor([[0.2 - d, d - 0.2, 0.2 - d]]), rtol=0, atol=2e-3)


def test_the_attack_climbs_nearly_as_high_as_pgd() -> None:
    model, (x, y) = net(), batch()
    losses = {}
    for name, attack in (("none", None), ("pgd", PGD(Linf(0.1), steps=10)), ("barrier", BarrierAttack(Linf(0.1)))):
        at = x if attack is None else attack(x, y, model=model, generator=torch.Generator().manual_seed(0))
        losses[name] = float(F.cross_entropy(model(at), y).detach())
    gain = losses["pgd"] - losses["none"]
    assert losses["barrier"] > losses["none"] + 0.8 * gain
    assert losses["barrier"] < losses["pgd"]  # it is held back from the edge


def test_a_sample_without_a_gradient_does_no_harm() -> None:
    class Half(nn.Module):
        """Blind to the first sample."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.ones(len(x), 1)
            mask[0] = 0
            out: Tensor = self.inner(x) * mask
            return out

    model, (x, y) = Half(), batch()
    total, _ = DONE(BarrierAttack(Linf(0.1)))(model, (x, y), context())
    assert all(bool(torch.isfinite(g).all()) for g in gradient(model, total))


# the objective


def test_invariant_1_a_large_r_is_plain_adversarial_training() -> None:
    model, other, attack = net(norm=True).train(), net(norm=True).train(), PGD(Linf(0.1), steps=3)
    ours, log = DONE(attack, DONEConfig(r=1e6, mode="plain"))(model, batch(), context())
    theirs, _ = AdversarialTraining(attack)(other, batch(), context())
    for a, b in zip(gradient(model, ours), gradient(other, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert float(log["effective_share"]) == pytest.approx(1)


def test_invariant_2_a_small_r_learns_from_the_worst_sample_alone() -> None:
    model, (x, y) = net(), batch()
    ours, log = DONE(Shift(), DONEConfig(r=1e-5, eta=1.0, mode="plain"))(model, (x, y), context())
    worst = F.cross_entropy(model(x + 0.1), y, reduction="none").max()
    for a, b in zip(gradient(model, ours), gradient(model, worst), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert float(log["weight_max"]) == pytest.approx(12, rel=1e-3)
    assert float(log["effective_share"]) == pytest.approx(1 / 12, rel=1e-3)


def test_plain_mode_is_adversarial_training_with_these_weights_over_several_batches() -> None:
    model = net()
    ours = DONE(Shift(), DONEConfig(r=0.5, eta=0.3, mode="plain"))
    theirs = WeightedAdversarialTraining(Shift(), weights=KLDROWeights(0.5, eta=0.3))
    for step in (3, 4, 5):
        a, b = (objective(model, batch(step), context(step))[0] for objective in (ours, theirs))
        torch.testing.assert_close(a, b)


def test_a_full_step_by_hand() -> None:
    """(7) written out: one weighted mean of CE at x + delta*, and of <dCE/ddelta, v> with the network in eval mode."""
    trained, model, (x, y) = net(norm=True).train(), net(norm=True).train(), batch()
    config = DONEConfig(r=0.4, eta=1.0, burn_in=0.0)
    attack = BarrierAttack(Linf(0.1), steps=4)
    ours, log = DONE(attack, config)(trained, (x, y), context())
    x_adv, box = attack.search(x, y, model=model, generator=torch.Generator().manual_seed(7))

    losses = F.cross_entropy(model(x_adv), y, reduction="none")
    weights = 12 * torch.softmax(losses.detach() / 0.4, 0)
    model.eval()
    at = x_adv.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(at), y, reduction="sum"), at, create_graph=True)
    D = box.c / (x_adv - box.low) ** 2 + box.c / (box.high - x_adv) ** 2
    v = torch.minimum(torch.maximum(g.detach() / D, box.low - x_adv), box.high - x_adv)
    expected = (weights * losses).mean() + (weights * (g * v).flatten(1).sum(1)).mean()
    full = gradient(trained, ours)
    for a, b in zip(full, gradient(model, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert float(ours.detach()) == pytest.approx(float((weights * losses).mean().detach()), rel=1e-5)  # the value is (2)'s
    assert float(log["dro_value"]) == pytest.approx(0.4 * math.log(float((losses / 0.4).exp().mean().detach())), rel=1e-5)
    plain = gradient(model, (weights * F.cross_entropy(model.train()(x_adv), y, reduction="none")).mean())
    assert max(float((a - b).abs().max()) for a, b in zip(full, plain, strict=True)) > 1e-3


def test_the_running_statistics_see_the_attacked_batch_once_and_modes_are_kept() -> None:
    model, (x, y) = net(norm=True).train(), batch()
    model[3].eval()
    DONE(BarrierAttack(Linf(0.1), steps=3))(model, (x, y), context())
    assert int(model[0].num_batches_tracked) == 1
    assert [module.training for module in model] == [True, True, True, False, True]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_all_samples_count_the_same_during_the_burn_in() -> None:
    model = net()
    objective = DONE(Shift(), DONEConfig(r=0.05, mode="plain", burn_in=0.3))
    logs = [objective(model, batch(step), context(step))[1] for step in (1, 2, 3)]
    assert [float(log["weight_max"]) == 1 for log in logs] == [True, True, False]


def test_a_net_with_batch_norm_and_inplace_relu_trains() -> None:
    data = fashion_mnist_subset("train").take(slice(0, 96))
    model = SmallCNN(4)
    before = fingerprint(model)
    result = fit_done(
        model, data.loader(32), threat=Linf(0.1), epochs=2,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05), config=DONEConfig(curvature_steps=2),
    )  # fmt: skip
    assert fingerprint(model) != before
    assert all(math.isfinite(row["loss"]) for row in result.history)
    assert not model.training


def test_validation_keeps_the_epoch_of_the_best_tail() -> None:
    data = fashion_mnist_subset("train")
    model = SmallCNN(4)
    result = fit_done(
        model, data.take(slice(0, 128)).loader(32), threat=Linf(0.05), epochs=3,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        validation=data.take(slice(1000, 1100), "validation"),
    )  # fmt: skip
    assert result.best is not None
    assert result.best["tail"] == max(epoch["tail"] for epoch in result.epochs)
    assert all(epoch["tail"] <= epoch["robust"] + 1e-9 or epoch["tail"] <= epoch["clean"] for epoch in result.epochs)


def test_the_largest_worst_case_weight_finds_the_wrong_label() -> None:
    # a model that reads the class off the image, and one sample whose label is wrong
    images = torch.full((6, 1, 4, 4), 0.2)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    images[labels == 1] = 0.8
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]) / 4)
        model[1].bias.copy_(torch.tensor([2.0, -2.0]))
    labels[3] = 0
    weights = worst_case_weights(model, ImageSet(images, labels, ("dark", "bright")), Linf(0.05), r=0.5)
    assert int(weights.argmax()) == 3
    assert float(weights.sum()) == pytest.approx(6)
    with pytest.raises(InputError, match="r: got 0"):
        worst_case_weights(model, ImageSet(images, labels, ("dark", "bright")), Linf(0.05), r=0)


# refusals: each before the model is updated, and before an attack is computed

X, Y = batch(n=8)
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "probabilities": ({"model": nn.Sequential(net(), nn.Softmax(1))}, "model: got outputs that are probabilities"),
    "no module": ({"model": "model.pt"}, "model: got"),
    "inputs up to 255": ({"x": X * 255}, "x: got values .* divide 0-255 images by 255"),
    "NaN input": ({"x": X.masked_fill(X > 0.6, math.nan)}, "loader: got NaN"),
    "label too high": ({"y": Y.clamp_min(CLASSES)}, "y: got label 3"),
    "float labels": ({"y": Y.float()}, "y: got dtype torch.float32"),
    "an L2 ball": ({"threat": L2(0.5)}, "threat: got .*, wanted an Linf budget"),
    "eps 0": ({"threat": Linf(0.0)}, "threat: got"),
    "one eps a sample": ({"threat": Linf(torch.full((4,), 0.1))}, "threat: got"),
    "no budget": ({"threat": 0.1}, "threat: got 0.1"),
    "another attack with the implicit part": ({"attack": Shift()}, "attack: got Shift, wanted a BarrierAttack"),
    "no config": ({"config": {"r": 1}}, "config: got dict"),
    "test data for selection": ({"validation": fashion_mnist_subset("test").take(slice(0, 8))}, "test data inside a fit"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_come_before_any_update(case: str) -> None:
    changes, message = REFUSALS[case]
    model = changes.get("model", net())
    before = fingerprint(model) if isinstance(model, nn.Module) else ""
    arguments = {key: value for key, value in changes.items() if key not in ("x", "y", "model")}
    with pytest.raises(InputError, match=message):
        fit_done(model, loader_of(changes.get("x", X), changes.get("y", Y)), epochs=1, **{"threat": Linf(0.1), **arguments})
    if isinstance(model, nn.Module):
        assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("constants", "name"),
    [
        ({"r": 0.0}, "r"),
        ({"eta": 0.0}, "eta"),
        ({"mode": "full"}, "mode"),
        ({"burn_in": 1.5}, "burn_in"),
        ({"barrier": 0.0}, "barrier"),
        ({"barrier": 1.0}, "barrier"),
        ({"barrier_c": 0.0}, "barrier_c"),
        ({"curvature_steps": -1}, "curvature_steps"),
        ({"normalise": "minmax"}, "eta"),
    ],
)
def test_wrong_constants_are_refused(constants: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got"):
        DONEConfig(**constants)


def test_plain_mode_takes_any_budget() -> None:
    model = net()
    result = fit_done(model, loader_of(X, Y), threat=L2(0.5), config=DONEConfig(mode="plain"), epochs=1)
    assert result.steps == 2


class StopsAt:
    """An attack that presses Ctrl-C at one of its calls."""

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
        model = net()
        config = DONEConfig(r=0.3, eta=0.2, mode="plain")
        return fit_done(model, loader_of(x, y), attack=StopsAt(stop), config=config, epochs=2, checkpoint=folder), model

    whole, expected = once(tmp_path / "whole", None)
    with pytest.raises(Interrupted):
        once(tmp_path / "cut", 5)
    resumed, model = once(tmp_path / "cut", None)
    assert resumed.resumed_from == 6
    assert resumed.history == whole.history
    assert fingerprint(model) == fingerprint(expected)


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    job, found = str(Path(__file__).parent / "done_job.py"), []
    for processes in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        command = [sys.executable, *(launcher if processes > 1 else []), job, str(tmp_path / f"{processes}.json")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / f"{processes}.json").read_text()))
    for name, losses in found[0].items():
        assert found[1][name] == pytest.approx(losses, abs=3e-4), name
        assert len(set(losses)) > 1
