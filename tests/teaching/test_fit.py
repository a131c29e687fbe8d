"""The training loop: what it promises, on nets small enough to follow by hand."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from tutelage.core.errors import InputError, Interrupted, NotFinite, SplitError
from tutelage.core.rng import rng_state
from tutelage.data import ImageSet
from tutelage.models.loading import fingerprint
from tutelage.teaching.fit import Context, fit
from tutelage.teaching.objectives import CrossEntropy
from tutelage.teaching.schedules import warmup_cosine


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in singletons; no test may see that of another."""
    yield
    for singleton in (AcceleratorState, GradientState, PartialState):
        singleton._reset_state()


def one_weight() -> nn.Linear:
    """w = 1, no bias: with the objective `slope` the gradient is the mean of the batch."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    return net


def slope(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
    return model(batch[0]).mean(), {}


def ones(n: int, batch_size: int = 1) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(n, 1)), batch_size=batch_size)


def sgd(net: nn.Module, lr: float = 0.1, **options: float) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=lr, **options)


def net(seed: int = 0, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def points(n: int = 16) -> TensorDataset:
    rng = torch.Generator().manual_seed(4)
    return TensorDataset(torch.rand(n, 4, generator=rng), torch.randint(3, (n,), generator=rng))


def images(n: int = 8, split: Any = "train") -> ImageSet:
    rng = torch.Generator().manual_seed(n)
    return ImageSet(torch.rand(n, 1, 2, 2, generator=rng), torch.arange(n) % 3, ("a", "b", "c"), split=split)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# steps, epochs, schedules, averages: by hand


def test_the_schedule_multiplies_every_learning_rate_at_every_step() -> None:
    # w = 1 - 0.1 (1 + 0.5 + 0.25) = 0.825
    model, calls = one_weight(), []

    def schedule(step: int, total: int) -> float:
        calls.append((step, total))
        return (1.0, 0.5, 0.25)[step]

    result = fit(model, slope, ones(3), epochs=1, optimizer=sgd(model), schedule=schedule)
    assert float(model.weight.detach()) == pytest.approx(0.825)
    assert set(calls) == {(0, 3), (1, 3), (2, 3)}
    assert [row["lr_scale"] for row in result.history] == [1.0, 0.5, 0.25]


def test_each_group_keeps_its_own_base_rate() -> None:
    # scales 1 and 1/2: 1 - 0.1 * 1.5 = 0.85 and 1 - 0.01 * 1.5 = 0.985
    model = nn.Sequential(one_weight(), one_weight())

    def both(model: Any, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return model[0].weight.sum() + model[1].weight.sum(), {}

    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.01}]
    fit(model, both, ones(2), steps=2, optimizer=torch.optim.SGD(groups), schedule=lambda step, total: 1 / (1 + step))
    assert [float(p.detach()) for p in model.parameters()] == pytest.approx([0.85, 0.985])


def test_the_context_says_where_the_training_is() -> None:
    seen: list[tuple[int, int, float, float]] = []

    def watching(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append((ctx.step, ctx.total, ctx.progress, ctx.lr_scale))
        return slope(model, batch, ctx)

    model = one_weight()
    fit(model, watching, ones(2), epochs=2, optimizer=sgd(model), schedule=lambda step, total: 1 - step / total)
    assert seen == [(0, 4, 0.0, 1.0), (1, 4, 0.25, 0.75), (2, 4, 0.5, 0.5), (3, 4, 0.75, 0.25)]


def test_epochs_and_steps_count_the_same() -> None:
    by_epochs, by_steps, part = net(), net(), net()
    loader = DataLoader(points(), batch_size=4)
    a = fit(by_epochs, CrossEntropy(), loader, epochs=2, optimizer=sgd(by_epochs))
    b = fit(by_steps, CrossEntropy(), loader, steps=8, optimizer=sgd(by_steps))
    c = fit(part, CrossEntropy(), loader, steps=6, optimizer=sgd(part))
    assert (a.steps, b.steps, c.steps) == (8, 8, 6)
    assert a.history == b.history
    assert c.history == a.history[:6]
    assert [row["epoch"] for row in c.history] == [0, 0, 0, 0, 1, 1]
    assert [(row["epoch"], row["step"]) for row in c.epochs] == [(0, 4), (1, 6)]
    assert fingerprint(by_epochs) == fingerprint(by_steps) != fingerprint(part)


def test_the_average_by_hand() -> None:
    # w: 1 -> 0.9 -> 0.8 -> 0.7; average at decay 1/2 from 1: 0.95, 0.875, 0.7875
    model, seen = one_weight(), []

    def validate(model: Any) -> dict[str, float]:
        seen.append(float(model.weight))
        return {}

    fit(model, slope, ones(1), epochs=3, optimizer=sgd(model), ema=0.5, validate=validate)
    assert seen == pytest.approx([0.95, 0.875, 0.7875])
    assert float(model.weight.detach()) == pytest.approx(0.7875)


def test_the_average_copies_buffers() -> None:
    # BatchNorm's running mean of a constant 2, momentum 0.1: 0.2, 0.38 (not averaged to anything smaller); count 2
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    data = DataLoader(TensorDataset(torch.full((4, 1), 2.0)), batch_size=2)
    fit(model, slope, data, epochs=1, optimizer=sgd(model), ema=0.9)
    assert float(model[0].running_mean) == pytest.approx(0.38)
    assert int(model[0].num_batches_tracked) == 2


def test_the_average_of_a_shared_weight_is_an_average() -> None:
    # the two layers share w; both names are in the state: 0.95 after one step at decay 1/2, as without sharing
    model = nn.Sequential(one_weight(), one_weight())
    model[1].weight = model[0].weight

    def shared(model: Any, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return model[0](batch[0]).mean(), {}

    fit(model, shared, ones(1), epochs=1, optimizer=sgd(model), ema=0.5)
    assert float(model[0].weight.detach()) == pytest.approx(0.95)


def test_augmentation_changes_the_inputs_only_with_the_runs_generator() -> None:
    seen: list[tuple[float, int]] = []

    def remember(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append((float(batch[0].sum()), int(batch[1].sum())))
        return CrossEntropy()(model, batch, ctx)

    def add_noise(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(1, generator=generator)

    model, data = net(), points(8)
    fit(model, remember, DataLoader(data, batch_size=8), epochs=2, optimizer=sgd(model), augment=add_noise)
    assert [labels for _, labels in seen] == [int(data.tensors[1].sum())] * 2
    assert seen[0][0] != seen[1][0]
    assert all(total > float(data.tensors[0].sum()) for total, _ in seen)


def test_the_model_trains_in_train_mode_and_comes_back_in_eval_mode() -> None:
    modes = []

    def watching(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        modes.append(model.training)
        return slope(model, batch, ctx)

    def validate(model: nn.Module) -> dict[str, float]:
        modes.append(model.training)
        return {}

    model = one_weight().eval()
    fit(model, watching, ones(1), epochs=2, optimizer=sgd(model), validate=validate)
    assert modes == [True, False, True, False]
    assert not model.training


def test_gradients_that_were_there_before_are_not_used() -> None:
    # one step with gradient 1: 0.9, whatever .grad was left by the user
    model = one_weight()
    model.weight.grad = torch.full((1, 1), 5.0)
    fit(model, slope, ones(1), epochs=1, optimizer=sgd(model))
    assert float(model.weight.detach()) == pytest.approx(0.9)


def test_the_optimizer_comes_back_with_its_own_learning_rate() -> None:
    # otherwise a second call would take the scaled rate for the base: 1 - 0.1 - 0.1 after two calls
    model = one_weight()
    optimizer = sgd(model)
    for _ in range(2):
        fit(model, slope, ones(2), epochs=1, optimizer=optimizer, schedule=lambda step, total: 1.0 - step)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert float(model.weight.detach()) == pytest.approx(0.8)


# validation and selection


def scripted(scores: list[float], seen: list[float]) -> Callable[[nn.Module], Mapping[str, float]]:
    def validate(model: Any) -> dict[str, float]:
        seen.append(float(model.weight))
        return {"score": scores[len(seen) - 1]}

    return validate


@pytest.mark.parametrize("ema", [None, 0.5])
def test_selection_keeps_the_weights_of_the_best_epoch_and_only_those(ema: float | None) -> None:
    model, seen = one_weight(), []
    result = fit(
        model, slope, ones(1), epochs=4, optimizer=sgd(model), ema=ema,
        validate=scripted([0.1, 0.9, 0.9, 0.5], seen), select="score",
    )  # fmt: skip
    assert seen == pytest.approx([0.9, 0.8, 0.7, 0.6] if ema is None else [0.95, 0.875, 0.7875, 0.69375])
    assert float(model.weight.detach()) == seen[1]  # the first of two equal ones
    assert result.best == {"epoch": 1, "step": 2, "score": 0.9}
    assert [row["score"] for row in result.epochs] == [0.1, 0.9, 0.9, 0.5]


def test_selection_does_not_disturb_the_training() -> None:
    plain, selected = net(dropout=0.5), net(dropout=0.5)
    loader = DataLoader(points(), batch_size=4)
    a = fit(plain, CrossEntropy(), loader, epochs=3, optimizer=sgd(plain))
    b = fit(
        selected, CrossEntropy(), loader, epochs=3, optimizer=sgd(selected), select="loss",
        validate=lambda model: {"loss": float(model(torch.ones(1, 4)).sum().detach())},
    )  # fmt: skip
    assert a.history == b.history


def test_a_metric_that_is_not_a_number_never_wins() -> None:
    model, seen = one_weight(), []
    result = fit(
        model, slope, ones(1), epochs=3, optimizer=sgd(model), validate=scripted([math.nan, 0.5, 0.4], seen), select="score"
    )
    assert result.best is not None
    assert result.best["score"] == 0.5
    assert float(model.weight.detach()) == seen[1]


def test_validation_without_selection_ends_with_the_last_weights() -> None:
    model, seen = one_weight(), []
    result = fit(model, slope, ones(1), epochs=3, optimizer=sgd(model), validate=scripted([3, 2, 1], seen))
    assert result.best is None
    assert float(model.weight.detach()) == pytest.approx(0.7)


def test_a_metric_to_select_by_that_validate_does_not_give_is_named() -> None:
    model = one_weight()
    with pytest.raises(InputError, match=r"select: got accuracy.*score"):
        fit(model, slope, ones(1), epochs=1, optimizer=sgd(model), validate=scripted([1], []), select="accuracy")


def test_validation_must_not_read_test_data() -> None:
    model, test = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), images(split="test")

    def validate(model: nn.Module) -> dict[str, float]:
        x, y = test[:]
        return {"accuracy": float((model(x).argmax(1) == y).double().mean())}

    with pytest.raises(SplitError):
        fit(model, CrossEntropy(), images().loader(4), epochs=1, optimizer=sgd(model), validate=validate)
    assert test[:][0].shape == (8, 1, 2, 2)  # outside it may be read


@pytest.mark.parametrize("wrap", [lambda s: s.loader(4), lambda s: DataLoader(s), lambda s: DataLoader(Subset(s, [0, 1]))])
def test_a_loader_over_test_data_is_refused_before_any_step(wrap: Callable[[ImageSet], Any]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    before = fingerprint(model)
    with pytest.raises(SplitError):
        fit(model, CrossEntropy(), wrap(images(split="test")), epochs=1, optimizer=sgd(model))
    assert fingerprint(model) == before
    fit(model, CrossEntropy(), images(split="validation").loader(4), epochs=1, optimizer=sgd(model))


# history and log


def test_history_and_log_hold_every_step_and_every_epoch(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        return slope(model, batch, ctx)[0], {"twice": torch.tensor(2.0 * ctx.step), "plain": 0.5}

    model = one_weight()
    result = fit(
        model, objective, ones(2), epochs=2, optimizer=sgd(model), log=tmp_path / "new" / "log.jsonl",
        validate=lambda model: {"score": 7}, schedule=lambda step, total: 1 / (1 + step),
    )  # fmt: skip
    # w: 1, 0.9, 0.85, 0.85 - 0.1/3; the loss is w, the gradient 1
    assert [row["loss"] for row in result.history] == pytest.approx([1, 0.9, 0.85, 0.85 - 0.1 / 3])
    first = {"step": 0, "epoch": 0, "loss": 1.0, "grad_norm": 1.0, "lr_scale": 1.0, "twice": 0.0, "plain": 0.5}
    assert result.history[0] == first
    assert result.history[2]["twice"] == 4.0
    lines = [json.loads(line) for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()]
    ends = [{"end_of_epoch": 1, "epoch": 0, "step": 2, "score": 7.0}, {"end_of_epoch": 1, "epoch": 1, "step": 4, "score": 7.0}]
    assert lines == [*result.history[:2], ends[0], *result.history[2:], ends[1]]
    assert result.epochs == [{k: v for k, v in end.items() if k != "end_of_epoch"} for end in ends]
    assert result.resumed_from is None


def test_log_every_thins_the_history(tmp_path: Path) -> None:
    model = one_weight()
    result = fit(model, slope, ones(5), epochs=1, optimizer=sgd(model), log=tmp_path / "log", log_every=2)
    assert [row["step"] for row in result.history] == [0, 2, 4]
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_the_log_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    model = one_weight()
    fit(model, slope, ones(2), epochs=1, optimizer=sgd(model), checkpoint=tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_gradient_norm_is_over_all_parameters() -> None:
    # d/dw of 3 w1 + 4 w2: norm 5
    model = nn.Sequential(one_weight(), one_weight())

    def both(model: Any, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return 3 * model[0].weight.sum() + 4 * model[1].weight.sum(), {}

    assert fit(model, both, ones(1), epochs=1, optimizer=sgd(model)).history[0]["grad_norm"] == pytest.approx(5)


# not finite


def _nan_loss(model: nn.Module) -> Tensor:
    return sum((p.sum() for p in model.parameters()), torch.zeros(())) * math.nan


def _infinite_loss(model: nn.Module) -> Tensor:
    return sum((p.sum() for p in model.parameters()), torch.zeros(())) + math.inf


def _nan_gradient(model: nn.Module) -> Tensor:
    total = sum((p.sum() for p in model.parameters()), torch.zeros(()))
    return (total - total.detach()).abs().sqrt()  # 0, with gradient 0 * infinity


def _infinite_gradient(model: nn.Module) -> Tensor:
    total = sum((p.sum() for p in model.parameters()), torch.zeros(()))
    return (total - total.detach()).sqrt()  # 0, with an infinite gradient


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (_nan_loss, "the loss"),
        (_infinite_loss, "the loss"),
        (_nan_gradient, "the gradient"),
        (_infinite_gradient, "the gradient"),
    ],
)
def test_what_is_not_finite_stops_with_the_step_and_the_last_good_weights(
    spoil: Callable[[nn.Module], Tensor], what: str, tmp_path: Path
) -> None:
    def spoiled(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return (spoil(model), {}) if ctx.step == 3 else CrossEntropy()(model, batch, ctx)

    model, good, loader = net(), net(), DataLoader(points(), batch_size=4)
    optimizer = sgd(model, momentum=0.9)
    with pytest.raises(NotFinite, match=rf"step 3: {what}") as caught:
        fit(model, spoiled, loader, epochs=2, optimizer=optimizer, log=tmp_path / "log")
    assert caught.value.step == 3
    fit(good, CrossEntropy(), loader, steps=3, optimizer=sgd(good, momentum=0.9))
    assert fingerprint(model) == fingerprint(good)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_the_last_good_weights_include_the_running_statistics() -> None:
    """One NaN in a batch must not leave a BatchNorm, and with it the whole model, useless."""
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))

    def spoil(batch: Tensor, generator: torch.Generator) -> Tensor:  # NaN in the data themselves is told before training
        return torch.where(batch == x[5], math.nan, batch)

    with pytest.raises(NotFinite, match="step 1"):
        fit(
            model,
            CrossEntropy(),
            DataLoader(TensorDataset(x, torch.arange(8) % 3), batch_size=4),
            epochs=1,
            augment=spoil,
            optimizer=sgd(model),
        )
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


# Ctrl-C


def pressing(step: int, times: int = 1) -> Any:
    """Cross-entropy that presses Ctrl-C while `step` is computed."""

    def objective(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if ctx.step == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return CrossEntropy()(model, batch, ctx)

    return objective


def shuffled(dataset: Any = None, batch_size: int = 4) -> DataLoader[Any]:
    """A user's own loader: shuffled by the global generator."""
    return DataLoader(dataset or points(), batch_size=batch_size, shuffle=True)


def lowest_loss(model: nn.Module) -> dict[str, float]:
    x, y = points().tensors
    return {"score": -float(nn.functional.cross_entropy(model(x), y))}


# step 2 of 12 in the middle of an epoch, 7 the last batch of an epoch, 11 the very last batch
@pytest.mark.parametrize("step", [2, 7, 11])
def test_ctrl_c_stops_at_a_clean_point_and_the_same_call_goes_on(step: int, tmp_path: Path) -> None:
    def once(objective: Any, folder: Path | None) -> tuple[Any, nn.Module]:
        model = net(dropout=0.5)
        result = fit(
            model, objective, shuffled(), epochs=3, optimizer=sgd(model, 0.5, momentum=0.9), schedule=warmup_cosine(0.2),
            checkpoint=folder, validate=lowest_loss, select="score", ema=0.5,
        )  # fmt: skip
        return result, model

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=rf"stopped after step {step + 1} of 12.*run it again"):
        once(pressing(step), tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed, model = once(CrossEntropy(), tmp_path)
    whole, expected = once(CrossEntropy(), None)
    assert resumed.resumed_from == step + 1
    assert resumed.history == whole.history
    assert resumed.epochs == whole.epochs
    assert resumed.best == whole.best
    assert fingerprint(model) == fingerprint(expected)


def test_after_ctrl_c_the_same_objects_can_go_on(tmp_path: Path) -> None:
    """As in a notebook: the cell is run again with the model and the optimizer that are there."""
    model, expected = net(dropout=0.5), net(dropout=0.5)
    optimizer = sgd(model, 0.5, momentum=0.9)
    with pytest.raises(Interrupted):
        fit(model, pressing(4), shuffled(), epochs=3, optimizer=optimizer, schedule=warmup_cosine(0.2), checkpoint=tmp_path)
    fit(model, CrossEntropy(), shuffled(), epochs=3, optimizer=optimizer, schedule=warmup_cosine(0.2), checkpoint=tmp_path)
    fit(expected, CrossEntropy(), shuffled(), epochs=3, optimizer=sgd(expected, 0.5, momentum=0.9), schedule=warmup_cosine(0.2))
    assert fingerprint(model) == fingerprint(expected)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    model = net()
    with pytest.raises(KeyboardInterrupt):
        fit(model, pressing(1, times=2), shuffled(), epochs=1, optimizer=sgd(model))


# generators


def test_the_global_generators_are_untouched() -> None:
    def noisy(model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        random.random(), np.random.rand(), torch.rand(1)
        return CrossEntropy()(model, batch, ctx) if ctx.step < 2 else (_nan_loss(model), {})

    model = net(dropout=0.5)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    before = rng_state()
    fit(model, noisy, shuffled(), steps=2, optimizer=sgd(model))
    with pytest.raises(NotFinite):
        fit(model, noisy, shuffled(), steps=3, optimizer=sgd(model))
    after = rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["numpy"][2:] == after["numpy"][2:]
    assert before["python"] == after["python"]


def test_the_same_seed_gives_the_same_training_and_another_one_another() -> None:
    def once(seed: int, disturb: int) -> tuple[list[dict[str, float]], str]:
        model = net(dropout=0.5)
        torch.manual_seed(disturb)  # what the global generators hold before does not matter
        history = fit(model, CrossEntropy(), shuffled(), epochs=2, optimizer=sgd(model), seed=seed).history
        return history, fingerprint(model)

    assert once(3, 0) == once(3, 1)
    assert once(3, 0)[0] != once(4, 0)[0]


# gradient accumulation


def _trained(data: TensorDataset, batch_size: int, accumulate: int, epochs: int = 3) -> tuple[Any, nn.Module]:
    model = net()
    accelerator = Accelerator(gradient_accumulation_steps=accumulate)
    optimizer = sgd(model, 0.5, momentum=0.9)
    result = fit(
        model,
        CrossEntropy(),
        DataLoader(data, batch_size=batch_size),
        epochs=epochs,
        optimizer=optimizer,
        accelerator=accelerator,
    )
    return result, model


@pytest.mark.parametrize("n", [16, 24])
def test_accumulating_four_batches_of_two_equals_one_of_eight(n: int) -> None:
    small, a = _trained(points(n), 2, 4)
    large, b = _trained(points(n), 8, 1)
    assert small.steps == large.steps == 3 * n // 8
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    assert [row["grad_norm"] for row in small.history] == pytest.approx([row["grad_norm"] for row in large.history], abs=1e-5)


def test_a_last_group_that_is_not_full_is_the_mean_of_what_it_has() -> None:
    # 10 samples: groups of 4 x 2 and 1 x 2 are batches of 8 and 2
    small, a = _trained(points(10), 2, 4)
    large, b = _trained(points(10), 8, 1)
    assert small.steps == large.steps == 6
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_the_logged_loss_is_that_of_the_whole_group() -> None:
    small, _ = _trained(points(), 2, 4)
    large, _ = _trained(points(), 8, 1)
    assert [row["loss"] for row in small.history] == pytest.approx([row["loss"] for row in large.history], abs=1e-5)


def test_a_users_accumulation_survives_another_training_in_between() -> None:
    model, other = net(), net()
    accelerator = Accelerator(gradient_accumulation_steps=4)
    fit(other, CrossEntropy(), DataLoader(points(4), batch_size=2), epochs=1, optimizer=sgd(other))  # such as a teacher
    result = fit(
        model, CrossEntropy(), DataLoader(points(16), batch_size=2), epochs=1, optimizer=sgd(model), accelerator=accelerator
    )
    assert result.steps == 2


# refusals


class Stream(IterableDataset[Any]):
    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        return iter(points(4))


@pytest.mark.parametrize("loader", [DataLoader(Stream(), batch_size=2), list(DataLoader(points(4)))])
def test_loaders_that_cannot_be_replayed_are_refused_with_a_checkpoint_only(loader: Any, tmp_path: Path) -> None:
    model = net()
    before = fingerprint(model)
    with pytest.raises(InputError, match=r"loader: .*resumed exactly"):
        fit(model, CrossEntropy(), loader, epochs=1, optimizer=sgd(model), checkpoint=tmp_path)
    assert fingerprint(model) == before
    fit(model, CrossEntropy(), loader, epochs=1, optimizer=sgd(model))
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"epochs": None}, "epochs"),
        ({"steps": 3}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": None, "steps": -1}, "steps"),
        ({"ema": 1.0}, "ema"),
        ({"ema": 0.0}, "ema"),
        ({"ema": math.nan}, "ema"),
        ({"select": "score"}, "select"),
        ({"loader": DataLoader(TensorDataset(torch.empty(0, 4)), batch_size=2)}, "loader"),
        ({"loader": iter([1])}, "loader"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": -1}, "checkpoint_every"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_computed(changes: dict[str, Any], argument: str, tmp_path: Path) -> None:
    model = net()
    before = fingerprint(model)
    options: dict[str, Any] = {"loader": shuffled(), "epochs": 1, "checkpoint": tmp_path, "optimizer": sgd(model), **changes}
    with pytest.raises(InputError, match=f"^{argument}: "):
        fit(model, CrossEntropy(), **options)
    assert fingerprint(model) == before


def test_a_model_without_anything_to_train_is_refused() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(InputError, match="model"):
        fit(model, CrossEntropy(), shuffled(), epochs=1, optimizer=torch.optim.SGD(net().parameters(), lr=0.1))


def test_another_world_size_than_was_launched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, accelerator = net(), Accelerator()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="accelerator"):
        fit(model, CrossEntropy(), shuffled(), epochs=1, optimizer=sgd(model), accelerator=accelerator)
