"""The training loop. One for every method: a method is an objective, and `fit` does the rest.

`fit` owns schedules, averaging, validation and selection, metrics, checkpoints and clean stops. It runs on Accelerate, so
a user's Accelerator brings devices, mixed precision and gradient accumulation.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from tutelage.core.checks import check_callable, check_integer, check_number
from tutelage.core.errors import CheckpointError, InputError, Interrupted, NotFinite
from tutelage.core.files import check_folder, write_atomic, writing
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator, rng_state, seeded, set_rng_state
from tutelage.core.runs import read_jsonl
from tutelage.data.checks import check_in_memory
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.models.guard import evaluating
from tutelage.models.sharding import gathered, is_sharded, load_gathered, sharded_like
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint
from tutelage.teaching.processes import Processes, accelerator_of
from tutelage.teaching.schedules import Schedule, constant

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Context:
    """What an objective may know besides model and batch."""

    step: int
    total: int
    lr_scale: float  # the schedule's factor now: other rates that follow the schedule multiply by it
    generator: torch.Generator
    # {name: mean over the samples at hand} -> the same over the whole batch. It is the identity with one process; with
    # several, what an objective decides by its losses must be decided by these, or the processes drift apart
    batch_mean: Callable[[Mapping[str, float]], dict[str, float]] = dict

    @property
    def progress(self) -> float:
        """Share of the training done, from 0 to 1."""
        return self.step / self.total


class Objective(Protocol):
    """The loss of one batch: a scalar tensor with a gradient, and things to log. May have a state_dict."""

    def __call__(self, model: nn.Module, batch: Any, ctx: Context, /) -> tuple[Tensor, Mapping[str, Tensor | float]]: ...


Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass
class FitResult:
    """What came of a training.

    history: one dict a logged step. epochs: one dict an epoch, with what `validate` said. best: the epoch whose weights
    the model holds (None without selection). steps: optimiser steps taken. resumed_from: the step it was resumed at.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None
    steps: int = 0
    seconds: float = 0.0
    resumed_from: int | None = None


def fit(
    model: nn.Module,
    objective: Objective,
    loader: DataLoader[Any],
    *,
    optimizer: Optimizer,
    epochs: int | None = None,
    steps: int | None = None,
    schedule: Schedule = constant,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    ema: float | None = None,
    validate: Validate | None = None,
    select: str | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    log: Path | str | None = None,
    log_every: int = 1,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: Progress = QUIET,
    name: str = "training",
) -> FitResult:
    """Train `model` in place by `objective`; it comes back in eval mode with the last, averaged or selected weights.

    epochs or steps: the length, one of them (steps are optimiser steps).
    optimizer: over the model's parameters; its learning rates are the base that `schedule(step, total)` multiplies.
    augment: applied to the first element of each batch, (B, ...), row by row, with the run's generator.
    ema: decay of an exponential moving average of the weights; validation and the result are then the average's.
    validate: model -> metrics, called after each epoch in evaluation mode; it must not read test data (SplitError).
    select: the metric of `validate` whose highest value decides which epoch's weights are kept.
    checkpoint: a folder. Written every `checkpoint_every` steps (default: each epoch) and on interruption; if it holds
        a checkpoint, training goes on from it to the same final weights as an uninterrupted run. This needs a DataLoader
        over a map-style data set; others are refused.
    log: a JSONL file, one line every `log_every` steps and one an epoch (default: metrics.jsonl beside the checkpoint).
    seed: of the run's generator and, while it lasts, of the global generators.
    accelerator: devices, precision and gradient accumulation. Launched by torchrun, each batch of the loader is split
        among the processes and gradients are averaged, so that the result is that of one process up to float error; see
        `teaching.processes`. A model that `fully_shard` has cut stays so. Checkpoints do not depend on the processes.

    Raises NotFinite when loss or gradient is not finite (the step is not taken and the model keeps the last good
    weights), Interrupted on Ctrl-C (after a checkpoint), InputError and SplitError before anything is computed.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    if not hasattr(optimizer, "param_groups"):  # Accelerate's wrapper has them too
        raise InputError("optimizer", type(optimizer).__name__, "a torch optimizer over the model's parameters")
    _check(model, loader, epochs, steps, ema, validate, select, checkpoint)
    for argument, every in (("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        if every is not None:
            check_integer(argument, every)
    check_integer("seed", seed, low=-(2**63))
    check_callable("objective", objective, "a function of (model, batch, ctx) that gives (loss, things to log)")
    check_callable("schedule", schedule, "a function of (step, total steps) that gives a factor")
    for argument, function in (("augment", augment), ("validate", validate)):
        if function is not None:
            check_callable(argument, function, "a function")
    own = {id(parameter) for parameter in model.parameters()}
    if accelerator is None and not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "optimizer", "parameters of another model", "an optimizer over the parameters of the model that is trained"
        )
    with _modes_kept(model), nullcontext() if accelerator else _accumulation_kept():
        training = _Training(
            model, objective, loader, optimizer, schedule, augment, ema, validate, select,
            Path(checkpoint) if checkpoint else None, checkpoint_every, Path(log) if log else None, log_every, seed,
            accelerator, progress, name,
        )  # fmt: skip
        with seeded(seed, "fit"), training_only(), _sigint() as interrupted:
            return training.run(epochs, steps, interrupted)


def _check(
    model: nn.Module,
    loader: Any,
    epochs: int | None,
    steps: int | None,
    ema: float | None,
    validate: Validate | None,
    select: str | None,
    checkpoint: Path | str | None,
) -> None:
    if (epochs is None) == (steps is None):
        raise InputError("epochs", f"epochs={epochs}, steps={steps}", "one of epochs and steps")
    check_integer("epochs" if epochs is not None else "steps", epochs if epochs is not None else steps)
    if isinstance(loader, Iterator) or not hasattr(loader, "__len__") or len(loader) == 0:
        raise InputError("loader", type(loader).__name__, "a DataLoader with at least one batch and a length")
    if ema is not None:
        check_number("ema", ema, "a decay between 0 and 1", low=1e-12, high=1 - 1e-12)
    if select is not None and validate is None:
        raise InputError("select", select, "a validate function to select by")
    if checkpoint is not None and not _replayable(loader):
        raise InputError(
            "loader",
            type(loader).__name__,
            "a DataLoader over a map-style data set with torch's own samplers: no other can be resumed exactly",
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("model", "no parameter that requires a gradient", "something to train")
    with training_only():
        refuse_test_data(loader)
    if checkpoint is not None:
        check_folder(Path(checkpoint), "checkpoint")
    check_in_memory(loader)


class _Training:
    """The state of one call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: DataLoader[Any],
        optimizer: Optimizer,
        schedule: Schedule,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None,
        ema: float | None,
        validate: Validate | None,
        select: str | None,
        checkpoint: Path | None,
        checkpoint_every: int | None,
        log: Path | None,
        log_every: int,
        seed: int,
        accelerator: Accelerator | None,
        progress: Progress,
        name: str,
    ) -> None:
        self.accelerator = accelerator_of(accelerator)
        self.processes = Processes(self.accelerator, seed)
        self.objective, self.schedule, self.augment = objective, schedule, augment
        self.validate, self.select = validate, select
        self.folder, self.every, self.log_every = checkpoint, checkpoint_every, log_every
        self.log = log or (checkpoint / "metrics.jsonl" if checkpoint else None)
        self.log_is_ours = log is None
        self.progress, self.name = progress, name
        self.raw_loader, self.seed = loader, seed
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.model, self.optimizer = self.processes.prepare(model, optimizer)
        # Accelerate's wrapper searches the disk for an optimiser library at every step; a gradient scaler needs the wrapper
        bare = self.accelerator.scaler is None and str(self.accelerator.distributed_type.value) not in ("XLA", "DEEPSPEED")
        self.stepper = getattr(self.optimizer, "optimizer", self.optimizer) if bare else self.optimizer
        self.loader = self.processes.split(loader)
        self.plain = self.accelerator.unwrap_model(self.model)
        self.compute = self.processes.parallel(self.model, objective)
        self.average = _Average(self.plain, ema) if ema is not None else None
        self.generator = generator(seed, "fit")
        self.result = FitResult()
        self.best_state: dict[str, Tensor] | None = None
        self.step = self.epoch = self.batches_done = 0
        self.group_loss = 0.0
        self.epoch_start: dict[str, Any] = {}

    def run(self, epochs: int | None, steps: int | None, interrupted: threading.Event) -> FitResult:
        start = time.monotonic()
        per_epoch = max(1, math.ceil(len(self.loader) / self.accelerator.gradient_accumulation_steps))
        self.total = steps if steps is not None else (epochs or 0) * per_epoch
        self.optimizer.zero_grad()
        self.accelerator.gradient_state.sync_gradients = True
        try:
            self._resume()
            # looked up once: to walk through the modules of a net at every step takes time
            self.buffers = list(self.plain.buffers())
            self.buffers_before = [buffer.detach().clone() for buffer in self.buffers]
            self.trained = [p for group in self.stepper.param_groups for p in group["params"]]
            self.whole = not any(is_sharded(p) for p in self.trained) and len({p.device for p in self.trained}) == 1
            with self.progress.task(self.name, self.total) as task:
                task.advance(self.step)
                if self.batches_done and self.step >= self.total:  # stopped between the last step and the end of its epoch
                    self._end_of_epoch()
                while self.step < self.total:
                    self._one_epoch(task.advance, interrupted)
        finally:
            self._set_rates(1.0)  # the optimiser goes back to its owner with the rates it came with
        if self.best_state is not None:
            load_gathered(self.plain, self.best_state)
        elif self.average is not None:
            self.average.copy_to(self.plain)
        self.processes.same_buffers(self.plain)
        self.plain.eval()
        self.result.steps = self.step
        self.result.seconds = time.monotonic() - start
        return self.result

    def _one_epoch(self, advance: Callable[..., None], interrupted: threading.Event) -> None:
        resuming = self.batches_done
        if resuming:
            now = rng_state(), self.generator.get_state()
            self._restore_epoch_start()
        else:
            self.epoch_start = {"rng": rng_state(), "loader": [g.get_state() for g in _generators(self.raw_loader)]}
        batches = self.processes.batches(self.loader, self.epoch)
        if resuming:
            for _ in range(resuming):
                next(batches)
            set_rng_state(now[0])
            self.generator.set_state(now[1])
        self.model.train()
        for batch in batches:
            logged = self._one_batch(batch)
            self.batches_done += 1
            if logged is None:  # gradients accumulate; no step was taken
                continue
            advance(1, f"loss {logged['loss']:.4f}")
            last = self.batches_done == len(self.loader)
            if self.every and self.step % self.every == 0 and not last:
                self._save()
            if self.processes.any(interrupted.is_set()):
                self._save()
                where = f"; run it again to go on from {self.folder}" if self.folder else ""
                raise Interrupted(f"{self.name} stopped after step {self.step} of {self.total}{where}")
            if self.step >= self.total:
                break
        self._end_of_epoch()

    def _one_batch(self, batch: Any) -> dict[str, float] | None:
        batch = self.processes.moved(batch)
        if self.augment is not None:
            batch = (self.processes.augmented(self.augment, batch[0], self.generator), *batch[1:])
        scale = self.schedule(self.step, self.total)
        self._set_rates(scale)
        # groups of micro-batches end with the epoch, so that no checkpoint falls between two halves of a gradient
        group_size, done, length = self.accelerator.gradient_accumulation_steps, self.batches_done, len(self.loader)
        members = min(group_size, length - done // group_size * group_size)
        stepping = (done + 1) % group_size == 0 or done + 1 == length
        self._remember_buffers()
        ctx = Context(self.step, self.total, scale, self.generator, self.processes.batch_mean)
        with nullcontext() if stepping else self.processes.unsynchronised(self.model):
            try:
                with self.processes.sharing():
                    loss, extra = _loss_of(self.compute(batch, ctx))
            except BaseException:
                self._put_buffers_back()  # a batch that is refused has moved no running statistics
                raise
            value = self.processes.batch_mean({"loss": float(loss.detach())})["loss"]
            if not math.isfinite(value):
                self._stop("the loss")
            loss = self.processes.weighted(loss)
            # Accelerate divides by the size of a full group
            self.processes.backward(loss if members == group_size else loss * (group_size / members))
        self.group_loss += value / members
        if not stepping:
            return None
        norm = self._gradient_norm()
        # a gradient scaler meets overflows as a matter of course and skips those steps itself
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            self._stop("the gradient")
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            self.average.update(self.plain)
        values = self.processes.batch_mean({key: float(value) for key, value in extra.items()})
        values |= {"step": self.step, "epoch": self.epoch, "loss": self.group_loss, "grad_norm": norm, "lr_scale": scale}
        self.group_loss = 0.0
        if self.step % self.log_every == 0:
            self.result.history.append(values)
            self._write(values)
        self.step += 1
        return values

    def _set_rates(self, scale: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * scale

    @torch.no_grad()
    def _gradient_norm(self) -> float:
        """The 2-norm of all gradients, of all processes' shards together."""
        gradients = [p.grad for p in self.trained if p.grad is not None]
        if self.whole and gradients:  # the same numbers as below, without sorting the tensors by device and type
            return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0))
        total = torch.nn.utils.get_total_norm(gradients)
        return float(gathered(total) if is_sharded(total) else total)

    @torch.no_grad()
    def _remember_buffers(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.buffers_before, self.buffers)

    @torch.no_grad()
    def _put_buffers_back(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.buffers_before)

    def _stop(self, what: str) -> NoReturn:
        """No step is taken; statistics that this batch has already moved are put back."""
        self.optimizer.zero_grad()
        self._put_buffers_back()
        raise NotFinite(self.step, what)

    def _end_of_epoch(self) -> None:
        self.processes.rejoin()
        values: dict[str, float] = {"epoch": self.epoch, "step": self.step}
        if self.validate is not None:
            with self._averaged(), evaluating(self.plain):
                measured = {key: float(value) for key, value in self.validate(self.plain).items()}
                values |= self.processes.from_main(lambda: measured)  # buffers may differ; the choice of an epoch may not
                if self.select is not None:
                    if self.select not in values:
                        raise InputError("select", self.select, f"one of the metrics of validate: {', '.join(values)}")
                    value, best = values[self.select], self.result.best
                    if not math.isnan(value) and (best is None or value > best[self.select]):
                        self.result.best = values
                        state = gathered(dict(self.plain.state_dict()))
                        self.best_state = {k: v.detach().cpu().clone() for k, v in state.items()}
        self.result.epochs.append(values)
        self._write({"end_of_epoch": 1, **values})
        self.epoch += 1
        self.batches_done = 0
        self._save()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        own = {k: v.detach().clone() for k, v in self.plain.state_dict().items()}
        self.average.copy_to(self.plain)
        try:
            yield
        finally:
            self.plain.load_state_dict(own)

    def _write(self, values: Mapping[str, float]) -> None:
        if self.log is None or not self.processes.is_main:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.log), self.log.open("a") as file:
            file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in values.items()}) + "\n")

    def _save(self) -> None:
        if self.folder is None:
            return
        state = {
            "run": self._identity(),
            "step": self.step,
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "epoch_start": self.epoch_start if self.batches_done else {},
            "loader": [g.get_state() for g in _generators(self.raw_loader)],
            "model": gathered(dict(self.plain.state_dict())),
            "optimizer": gathered(self.optimizer.state_dict()),
            "objective": _state_of(self.objective),
            "average": gathered(self.average.state) if self.average else None,
            "generator": self.generator.get_state(),
            "rng": self.processes.common or rng_state(),
            "best": self.result.best,
            "best_state": self.best_state,
            "epochs": self.result.epochs,
        }
        folder = self.folder
        self.processes.from_main(lambda: save_checkpoint(folder, self.step, state))

    def _resume(self) -> None:
        if (folder := self.folder) is None:
            return
        found = self.processes.from_main(lambda: load_checkpoint(folder))
        if found is None:
            if self.log is not None and self.log_is_ours and self.processes.is_main:
                self.log.unlink(missing_ok=True)  # of a run that ended before its first checkpoint
            return
        self.step, state = found
        for key, mine in self._identity().items():
            if (saved := state["run"].get(key)) != mine:
                what = "its shapes are others" if key == "model" else f"its {key}: {saved}, here: {mine}"
                kind = "model" if key == "model" else "run"
                raise CheckpointError(
                    f"the checkpoint in {self.folder} is of another {kind} ({what}); give another folder or delete it"
                )
        try:
            load_gathered(self.plain, state["model"])
            self.optimizer.load_state_dict(self._sharded_state(state["optimizer"]))
            _load_state_of(self.objective, state["objective"])
        except (ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"the checkpoint in {self.folder} does not fit this run: {error}") from error
        if self.average is not None:
            own = self.average.state
            self.average.state = {k: sharded_like(v, own[k]).to(self.accelerator.device) for k, v in state["average"].items()}
        self.generator.set_state(state["generator"])
        for g, order in zip(_generators(self.raw_loader), state["loader"], strict=True):
            g.set_state(order)
        set_rng_state(state["rng"])
        self.epoch, self.batches_done, self.epoch_start = state["epoch"], state["batches_done"], state["epoch_start"]
        self.result.best, self.best_state, self.result.epochs = state["best"], state["best_state"], state["epochs"]
        self.result.resumed_from = self.step
        lines = self.processes.from_main(lambda: read_jsonl(self.log) if self.log is not None and self.log.exists() else None)
        if lines is not None:
            # lines written after the checkpoint will be written again
            kept = [row for row in lines if (row["step"] <= self.step if "end_of_epoch" in row else row["step"] < self.step)]
            self.result.history = [row for row in kept if "end_of_epoch" not in row]
            if self.log is not None and self.processes.is_main:
                write_atomic(self.log, "".join(json.dumps(row) + "\n" for row in kept))

    def _sharded_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state, cut as its parameters are."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        cut = {
            index: {key: sharded_like(value, parameters[index]) for key, value in one.items()}
            for index, one in state["state"].items()
        }
        return {**state, "state": cut}

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from."""
        return {
            "model": {key: list(value.shape) for key, value in self.plain.state_dict().items()},
            "number of steps": self.total,
            "batches an epoch": len(self.raw_loader),
            "number of samples": len(self.raw_loader.dataset) if hasattr(self.raw_loader.dataset, "__len__") else None,
            "seed": self.seed,
            "learning rates": list(self.base_rates),
            "weight average": self.average.decay if self.average else None,
        }

    def _restore_epoch_start(self) -> None:
        set_rng_state(self.epoch_start["rng"])
        for g, saved in zip(_generators(self.raw_loader), self.epoch_start["loader"], strict=True):
            g.set_state(saved)


class _Average:
    """Exponential moving average of parameters; buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.learned = {k for k, _ in model.named_parameters(remove_duplicate=False)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for key, value in model.state_dict().items():
            if key in self.learned and value.is_floating_point():
                self.state[key].lerp_(value, 1 - self.decay)
            else:
                self.state[key].copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        model.load_state_dict(self.state)


def _state_of(thing: Any) -> Any:
    return thing.state_dict() if hasattr(thing, "state_dict") else None


def _load_state_of(thing: Any, state: Any) -> None:
    if state is not None and hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)


def _loss_of(answer: Any) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    """What an objective must give: a scalar loss with a gradient, and things to log."""
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not isinstance(answer[1], Mapping):
        raise InputError("objective", f"a result of type {type(answer).__name__}", "(loss, {name: value to log})")
    loss = answer[0]
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
        raise InputError("objective", f"a loss of {got}", "one number in a tensor (a mean over the batch)")
    if not loss.requires_grad:
        raise InputError("objective", "a loss without a gradient", "a loss that depends on the model's parameters")
    return loss, answer[1]


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """A training that fails hands the model back in the modes in which it came; one that ends leaves it in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, mode in modes:
            module.training = mode
        raise


@contextmanager
def _accumulation_kept() -> Iterator[None]:
    """A new Accelerator resets process-wide accumulation settings, which belong to the user's own: put them back."""
    from accelerate.state import GradientState

    before = dict(GradientState().plugin_kwargs)
    try:
        yield
    finally:
        GradientState().plugin_kwargs = before


def _replayable(loader: Any) -> bool:
    """Whether the order of a loader follows from the generators that `_generators` finds, or from the global ones."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    known = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, BatchSampler, type(None))
    samplers = [loader.sampler, loader.batch_sampler]
    samplers += [getattr(sampler, "sampler", None) for sampler in samplers]
    return all(type(sampler) in known for sampler in samplers)


def _generators(loader: Any) -> list[torch.Generator]:
    """Every generator that decides a loader's order, each once."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    holders = [loader, sampler, getattr(sampler, "sampler", None), batches, getattr(batches, "sampler", None)]
    found: list[torch.Generator] = []
    for holder in holders:
        one = getattr(holder, "generator", None)
        if isinstance(one, torch.Generator) and not any(one is other for other in found):
            found.append(one)
    return found


@contextmanager
def _sigint() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that training stops at a clean point; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
