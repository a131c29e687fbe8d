"""What must not change a result: how a batch is cut, who loads it, how often it is run; and what may, by how much."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tutelage.core.errors import Interrupted
from tutelage.data import fashion_mnist_subset
from tutelage.methods.distill.mtard import MTARD, MTARDConfig
from tutelage.models import SmallCNN
from tutelage.models.loading import fingerprint
from tutelage.teaching import CrossEntropy, FitResult, Teacher, fit
from tutelage.threats import PGD, Linf

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core


def forget() -> None:
    """Accelerate keeps its state in singletons; no training here may see that of another."""
    for singleton in (AcceleratorState, GradientState, PartialState):
        singleton._reset_state()


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    forget()


def points(n: int, dtype: torch.dtype = torch.float64) -> TensorDataset:
    rng = torch.Generator().manual_seed(4)
    return TensorDataset(torch.rand(n, 4, generator=rng, dtype=dtype), torch.randint(3, (n,), generator=rng))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def trained(n: int, batch_size: int, accumulate: int) -> tuple[FitResult, nn.Module]:
    model = net()
    result = fit(
        model,
        CrossEntropy(),
        DataLoader(points(n), batch_size=batch_size),
        epochs=3,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-3),
        ema=0.5,
        accelerator=Accelerator(gradient_accumulation_steps=accumulate),
    )
    return result, model


# gradient accumulation


# 16 and 24 samples: whole groups of eight; 19: the last group has three
@pytest.mark.parametrize("n", [16, 24, 19])
def test_eight_batches_of_one_are_one_batch_of_eight(n: int) -> None:
    """float64, to 1e-12: only the order of sums differs."""
    small, a = trained(n, 1, 8)
    large, b = trained(n, 8, 1)
    assert small.steps == large.steps == 3 * -(-n // 8)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    for x, y in zip(small.history, large.history, strict=True):
        assert x == pytest.approx(y, rel=0, abs=1e-12)


def test_accumulated_gradients_by_hand() -> None:
    # loss w x, so the gradient is the mean of x: of 1..8 it is 4.5, of 9, 10, 11 it is 10; w = 1 - 0.1 (4.5 + 10) = -0.45
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    data = TensorDataset(torch.arange(1.0, 12.0)[:, None])
    result = fit(
        model,
        lambda model, batch, ctx: (model(batch[0]).mean(), {}),
        DataLoader(data, batch_size=1),
        epochs=1,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        accelerator=Accelerator(gradient_accumulation_steps=8),
    )
    assert float(model.weight.detach()) == pytest.approx(-0.45)
    assert [row["grad_norm"] for row in result.history] == pytest.approx([4.5, 10])
    assert [row["loss"] for row in result.history] == pytest.approx([4.5, 0.55 * 10])


# precision


def student(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return SmallCNN(4)


def teach(
    precision: str = "no", *, workers: int = 0, persistent: bool = False, folder: Path | None = None, objective: Any = None
) -> tuple[FitResult, nn.Module]:
    """A small net on bundled images with a shuffled loader of the user's own."""
    forget()
    model, data = student(), fashion_mnist_subset("train").take(slice(0, 512))
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=64,
        shuffle=True,
        num_workers=workers,
        persistent_workers=persistent,
        multiprocessing_context="fork" if workers else None,
    )
    result = fit(
        model,
        objective or CrossEntropy(),
        loader,
        epochs=3,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        checkpoint=folder,
        accelerator=Accelerator(cpu=True, mixed_precision=precision),
        seed=5,
    )
    return result, model


def mtard() -> MTARD:
    teachers = {"clean": Teacher(student(2)), "robust": Teacher(student(3))}
    return MTARD(teachers, PGD(Linf(0.1), steps=2, step_size=0.05, start="gaussian"), MTARDConfig(eta_w=0.2))


def test_bf16_trains_and_stays_near_float32() -> None:
    """bfloat16 has 8 bits: losses within 1 % in the first epoch and 15 % after three; the weights stay float32."""
    full, _ = teach()
    half, b = teach("bf16")
    assert [row["loss"] for row in half.history] != [row["loss"] for row in full.history]
    assert [row["loss"] for row in half.history[:8]] == pytest.approx([row["loss"] for row in full.history[:8]], rel=0.01)
    assert [row["loss"] for row in half.history] == pytest.approx([row["loss"] for row in full.history], rel=0.15)
    assert half.history[-1]["loss"] < 0.7 * half.history[0]["loss"]
    assert all(p.dtype == torch.float32 for p in b.parameters())


def test_bf16_with_an_attack_and_two_teachers() -> None:
    full, _ = teach(objective=mtard())
    half, _ = teach("bf16", objective=mtard())
    for key in ("loss", "loss_clean", "loss_robust", "weight_clean", "entropy_clean"):
        assert [row[key] for row in half.history] == pytest.approx([row[key] for row in full.history], rel=0.1), key


# workers


def test_workers_do_not_change_the_result() -> None:
    alone, a = teach()
    for persistent in (False, True):
        helped, b = teach(workers=2, persistent=persistent)
        assert helped.history == alone.history
        assert fingerprint(a) == fingerprint(b)


class Pressed:
    """Cross-entropy during which Ctrl-C is pressed once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, model: nn.Module, batch: Any, ctx: Any) -> Any:
        if ctx.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)
        return CrossEntropy()(model, batch, ctx)


# in the middle of the second epoch, and at its end
@pytest.mark.parametrize(("workers", "persistent", "step"), [(2, False, 10), (2, True, 10), (2, True, 15)])
def test_a_run_with_workers_is_resumed_exactly(workers: int, persistent: bool, step: int, tmp_path: Path) -> None:
    whole, a = teach()
    with pytest.raises(Interrupted):
        teach(workers=workers, persistent=persistent, folder=tmp_path, objective=Pressed(step))
    resumed, b = teach(workers=workers, persistent=persistent, folder=tmp_path)
    assert resumed.resumed_from == step + 1
    assert resumed.history == whole.history
    assert fingerprint(a) == fingerprint(b)


class Seen(Dataset[Any]):
    """Positions instead of images: what comes out is the order."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index)]), index


def test_workers_do_not_change_the_order() -> None:
    def order(workers: int) -> list[int]:
        seen: list[int] = []

        def note(model: nn.Module, batch: Any, ctx: Any) -> Any:
            seen.extend(int(i) for i in batch[1])
            return model(batch[0]).mean(), {}

        model = nn.Linear(1, 1)
        loader = DataLoader(
            Seen(), batch_size=6, shuffle=True, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        fit(model, note, loader, epochs=2, optimizer=torch.optim.SGD(model.parameters(), lr=1e-4), seed=1)
        return seen

    alone = order(0)
    assert sorted(alone[:20]) == sorted(alone[20:]) == list(range(20))
    assert alone[:20] != alone[20:]
    assert order(2) == alone


# the same again


@pytest.mark.parametrize("objective", [CrossEntropy, mtard])
def test_twice_the_same_call_gives_the_same_bits(objective: Any) -> None:
    first, a = teach(objective=objective())
    torch.rand(3)  # whatever happens to the global generator in between
    second, b = teach(objective=objective())
    assert first.history == second.history
    assert fingerprint(a) == fingerprint(b)
