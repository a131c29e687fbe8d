"""kill -9 at any moment, then the same call again: the same weights, the same log, as if nothing had happened."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_job import EVERY, PER_EPOCH, STEPS, run, student
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from tutelage.core.errors import CheckpointError, InputError
from tutelage.core.runs import read_jsonl
from tutelage.models.loading import fingerprint
from tutelage.teaching import CrossEntropy, FitResult, fit

# five moments from a fixed seed: before the first checkpoint, in the first epoch, ... , in the last epoch
_random = random.Random(2306_16170)
_windows = [(1, EVERY - 1), (EVERY + 1, PER_EPOCH), (PER_EPOCH + 1, 2 * PER_EPOCH), (18, 30), (34, STEPS)]
LINES = [f"lines={_random.randint(low, high)}" for low, high in _windows]
# and between the two files of the second checkpoint, and before the first file of the third
MOMENTS = [*LINES, "rename=4", "rename=5"]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[FitResult, nn.Module, Any, str]:
    """The training that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    result, net, objective = run(folder)
    return result, net, objective, (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each moment, left behind by a process that was killed."""
    root = tmp_path_factory.mktemp("killed")
    script = Path(__file__).parent / "resume_job.py"
    done = subprocess.run([sys.executable, str(script), str(root), *MOMENTS], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == [f"{moment} killed" for moment in MOMENTS], done.stderr
    return root


def test_the_whole_training_uses_what_must_survive(whole: Any) -> None:
    result, _, objective, log = whole
    assert result.steps == STEPS
    assert objective.temperatures.temperatures["clean"] > 1.2
    assert objective.weights.weights["clean"] != pytest.approx(0.5, abs=1e-3)
    assert len({row["w_robust"] for row in result.epochs}) > 1
    assert len(log.splitlines()) == STEPS + STEPS // PER_EPOCH


@pytest.mark.parametrize("index", range(len(MOMENTS)), ids=MOMENTS)
def test_a_killed_training_goes_on_to_the_same_weights_and_log(index: int, killed: Path, whole: Any) -> None:
    expected, net, objective, log = whole
    folder = killed / str(index)
    before = read_jsonl(folder / "metrics.jsonl")
    assert 0 < len(before) < STEPS + STEPS // PER_EPOCH
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "epo')  # the line that a kill tears in two
    result, resumed, again = run(folder)
    if index:
        assert result.resumed_from is not None
        assert 0 < result.resumed_from <= max(row["step"] for row in before) + 1
    for (name, a), b in zip(resumed.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert again.state_dict() == objective.state_dict()
    assert (result.history, result.epochs, result.best) == (expected.history, expected.epochs, expected.best)
    assert (folder / "metrics.jsonl").read_text() == log


def test_a_finished_training_is_not_done_again(tmp_path: Path, whole: Any, one_thread: None) -> None:
    expected, net, _, log = whole
    run(tmp_path)
    result, again, objective = run(tmp_path)
    assert result.resumed_from == STEPS
    assert fingerprint(again) == fingerprint(net)
    assert result.best == expected.best
    assert objective.teachers["clean"].spent == STEPS * 8
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_a_damaged_newest_checkpoint_costs_some_steps_only(tmp_path: Path, whole: Any, one_thread: None) -> None:
    _, net, _, log = whole
    run(tmp_path)
    newest = max(tmp_path.glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="the one before"):
        result, again, _ = run(tmp_path)
    assert result.resumed_from == STEPS - 1  # 39 is a multiple of EVERY
    assert fingerprint(again) == fingerprint(net)
    assert (tmp_path / "metrics.jsonl").read_text() == log


# short trainings of a plain net


def points(n: int = 16) -> TensorDataset:
    rng = torch.Generator().manual_seed(4)
    return TensorDataset(torch.rand(n, 4, generator=rng), torch.randint(3, (n,), generator=rng))


def net(hidden: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 3))


class CrashError(Exception):
    pass


class Crashing:
    """Cross-entropy that fails at one step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def __call__(self, model: nn.Module, batch: Any, ctx: Any) -> Any:
        if ctx.step == self.step:
            raise CrashError
        return CrossEntropy()(model, batch, ctx)


def train(folder: Path | None, loader: Any, crash: int | None = None, model: nn.Module | None = None, **options: Any) -> Any:
    model = model or net()
    options = {"epochs": 3, "checkpoint_every": 2, **options}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return fit(model, Crashing(crash), loader, optimizer=optimizer, checkpoint=folder, **options), model


def crash_then_resume(folder: Path, loaders: Any, crash: int, **options: Any) -> tuple[str, str]:
    """(weights without interruption, weights after a crash and a resume); `loaders` makes a fresh loader."""
    _, whole = train(None, loaders(), **options)
    with pytest.raises(CrashError):
        train(folder, loaders(), crash, **options)
    _, resumed = train(folder, loaders(), **options)
    return fingerprint(whole), fingerprint(resumed)


LOADERS = {
    "shuffled by the global generator": lambda: DataLoader(points(), batch_size=4, shuffle=True, num_workers=0),
    "shuffled by its own generator": lambda: DataLoader(
        points(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "weighted sampling": lambda: DataLoader(
        points(), batch_size=4, sampler=torch.utils.data.WeightedRandomSampler(torch.ones(16), 16, generator=torch.Generator())
    ),
    "in order, last batch smaller": lambda: DataLoader(points(14), batch_size=4),
    "a batch sampler": lambda: DataLoader(
        points(),
        batch_sampler=torch.utils.data.BatchSampler(
            torch.utils.data.RandomSampler(points(), generator=torch.Generator().manual_seed(3)), 4, False
        ),
    ),
}


@pytest.mark.parametrize("crash", [3, 4, 7, 11])
@pytest.mark.parametrize("kind", LOADERS)
def test_every_loader_that_is_accepted_resumes_exactly(kind: str, crash: int, tmp_path: Path) -> None:
    whole, resumed = crash_then_resume(tmp_path, LOADERS[kind], crash)
    assert resumed == whole


class Noisy(TensorDataset):
    """Augments by the global generator, as torchvision's transforms do."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x + torch.rand(4), y


def test_random_transforms_inside_the_data_set_resume_exactly(tmp_path: Path) -> None:
    whole, resumed = crash_then_resume(tmp_path, lambda: DataLoader(Noisy(*points().tensors), batch_size=4, shuffle=True), 7)
    assert resumed == whole


class Private(Sampler[int]):
    """Shuffles by a generator that nobody else can see."""

    def __init__(self) -> None:
        self.random = random.Random(3)

    def __iter__(self) -> Iterator[int]:
        return iter(self.random.sample(range(16), 16))

    def __len__(self) -> int:
        return 16


def test_a_sampler_with_a_state_of_its_own_is_refused_or_resumes_exactly(tmp_path: Path) -> None:
    loaders = lambda: DataLoader(points(), batch_size=4, sampler=Private())  # noqa: E731
    refused = False
    try:
        train(tmp_path / "accepted", loaders())
    except InputError:
        refused = True
    if not refused:
        whole, resumed = crash_then_resume(tmp_path / "cut", loaders, 7)
        assert resumed == whole


def test_accumulated_gradients_resume_exactly(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    loaders = lambda: DataLoader(points(), batch_size=1, shuffle=True)  # noqa: E731
    whole, resumed = crash_then_resume(tmp_path, loaders, 7, accelerator=Accelerator(gradient_accumulation_steps=4))
    for singleton in (AcceleratorState, GradientState, PartialState):
        singleton._reset_state()
    assert resumed == whole


@pytest.mark.parametrize("options", [{"epochs": None, "steps": 6, "checkpoint_every": 2}, {"checkpoint_every": 5}])
def test_a_crash_in_the_last_validation_does_not_lose_it(options: dict[str, Any], tmp_path: Path) -> None:
    """The last epoch is the best one here, so it must be validated, also when the process died while it was."""
    validated = [0]

    def validate(model: nn.Module) -> dict[str, float]:
        validated[0] += 1
        if validated[0] == crash_at:
            raise CrashError
        return {"score": validated[0]}

    loader = DataLoader(points(), batch_size=4)
    crash_at = 0
    expected, whole = train(None, loader, validate=validate, select="score", **options)
    validated[0], crash_at = 0, len(expected.epochs)
    with pytest.raises(CrashError):
        train(tmp_path, loader, validate=validate, select="score", **options)
    result, resumed = train(tmp_path, loader, validate=validate, select="score", **options)
    assert [row["epoch"] for row in result.epochs] == [row["epoch"] for row in expected.epochs]
    assert fingerprint(resumed) == fingerprint(whole)


def test_another_model_is_refused_and_left_alone(tmp_path: Path) -> None:
    train(tmp_path, DataLoader(points(), batch_size=4))
    other = net(hidden=9)
    before, files = fingerprint(other), sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="another model"):
        train(tmp_path, DataLoader(points(), batch_size=4), model=other)
    assert fingerprint(other) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == files


@pytest.mark.parametrize("options", [{"epochs": 4}, {"epochs": None, "steps": 11}])
def test_another_length_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path, DataLoader(points(), batch_size=4))
    model = net()
    before = fingerprint(model)
    with pytest.raises(CheckpointError, match="number of steps: 12"):
        train(tmp_path, DataLoader(points(), batch_size=4), model=model, **options)
    assert fingerprint(model) == before


def test_an_average_that_the_checkpoint_does_not_have_is_refused(tmp_path: Path) -> None:
    train(tmp_path, DataLoader(points(), batch_size=4))
    with pytest.raises(CheckpointError, match=r"average|ema"):
        train(tmp_path, DataLoader(points(), batch_size=4), ema=0.9)


def test_an_optimizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    train(tmp_path, DataLoader(points(), batch_size=4))
    model = net()
    groups = [{"params": model[0].parameters()}, {"params": model[3].parameters()}]
    with pytest.raises(CheckpointError, match="optimizer"):
        fit(
            model, CrossEntropy(), DataLoader(points(), batch_size=4), epochs=3, checkpoint=tmp_path,
            optimizer=torch.optim.SGD(groups, lr=0.5, momentum=0.9),
        )  # fmt: skip


def test_another_length_of_the_student_job_is_refused(tmp_path: Path, one_thread: None) -> None:
    run(tmp_path, epochs=1)
    model = student()
    before = fingerprint(model)
    with pytest.raises(CheckpointError, match=f"number of steps: {PER_EPOCH}, here: {2 * PER_EPOCH}"):
        run(tmp_path, epochs=2, net=model)
    assert fingerprint(model) == before


def test_the_checkpoint_folder_holds_two_checkpoints_and_the_log(tmp_path: Path, one_thread: None) -> None:
    run(tmp_path, epochs=1)
    names = sorted(re.sub(r"(step-\d{8})-[0-9a-f]{8}", r"\1", p.name) for p in tmp_path.iterdir())
    assert names == ["metrics.jsonl"] + [f"step-{n:08d}.{end}" for n in (6, 8) for end in ("json", "safetensors")]
    header = json.loads((tmp_path / "step-00000008.json").read_text())
    assert (header["format"], header["step"]) == ("tutelage-checkpoint-1", 8)
