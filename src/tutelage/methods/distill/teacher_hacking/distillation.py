"""Distillation of a language model, with a monitor beside it; and the two stages of the controlled set-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, Dataset

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.methods.distill.teacher_hacking.monitor import HackingMonitor, HackingReport
from tutelage.models.language.next_token import Padded, TrainableNet, Trimmed, common_vocabulary, next_token_model
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.language.on_policy import OnPolicyDistillation, Source, mean_divergence

if TYPE_CHECKING:
    from accelerate import Accelerator

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class DistillRun:
    """What came of a distillation.

    student: what was given, trained in place. report: what the monitor saw; None without one. epochs: a row an epoch.
    data_hashes: of the answers of each epoch; all equal where the data were offline. prompts: how many distinct ones were used.
    resumed_from: the step at which a stopped run went on.
    """

    student: Any
    report: HackingReport | None
    epochs: list[dict[str, float]]
    data_hashes: list[str]
    prompts: int
    steps: int
    seconds: float
    resumed_from: int | None = None


def distill(
    student: Any,
    teacher: Any,
    prompts: Rows,
    *,
    source: Source = "online_student",
    mix: float = 0.0,
    generations: int = 1,
    size: int | None = None,
    loss: str = "fkl",
    epochs: int = 1,
    batch_size: int = 32,
    max_new: int = 64,
    lr: float = 3e-4,
    warmup: int = 0,
    optimizer: Optimizer | None = None,
    monitor: HackingMonitor | None = None,
    trim: bool = False,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress = QUIET,
) -> DistillRun:
    """Train `student` by (4), in place, and watch for hacking.

    student: a causal or seq2seq model of transformers, an `HFCausalLM`, `HFSeq2SeqLM` or `TinyGPT`. teacher: the same, or any
        object with `size`, `ends`, `log_probs` and `sample` (see `NextTokenModel`). It stays as it is.
    prompts: ids, a list for each. source, mix, generations: where answers come from, see `OnPolicyDistillation`; an epoch is
        one pass over prompts x generations. size: at most so many answers, so that only the first size // generations prompts
        are used.
    loss: "fkl", "rkl" or "jsd:beta". max_new: most tokens of an answer, end token included. lr, warmup: rate, and steps until
        it is reached; Adam, unless an optimizer over the student's parameters is given.
    monitor: measures before, on the way and at the end. trim: where the models' vocabularies are padded to different sizes, use
        the ids they share; others must never occur.
    checkpoint: a folder; a run that was stopped goes on from it to the same weights and curves, given the same start.
    Raises InputError before training, NotFinite where it diverges.
    """
    net = next_token_model(student, "student", trainable=True)
    master = next_token_model(teacher, "teacher")
    check_integer("generations", generations)
    check_integer("epochs", epochs)
    check_integer("batch_size", batch_size)
    check_positive("lr", lr, "a rate above 0")
    check_integer("warmup", warmup, low=0)
    if size is not None:
        check_integer("size", size, low=generations)
        prompts = prompts[: size // generations]
    if getattr(master, "module", None) is net.module:
        raise InputError("teacher", "the student itself", "another model, or a copy: a teacher does not change")
    models = common_vocabulary({"teacher": master, "student": net}, trim=trim)
    net, master = models["student"], models["teacher"]
    if monitor is not None and monitor.size != net.size:
        if not trim:
            raise InputError("monitor", f"{monitor.size} ids for a student's {net.size}", "one vocabulary (or trim=True)")
        least = min(monitor.size, net.size)
        net, master = (one if one.size == least else Trimmed(one, least) for one in (net, master))
        monitor.trim_to(least)
    folder = Path(checkpoint) if checkpoint is not None else None
    inner = OnPolicyDistillation(
        net, master, prompts, source=source, mix=mix, generations=generations, max_new=max_new, loss=loss, epochs=epochs,
        seed=seed, cache=folder,
    )  # fmt: skip
    objective = _Watched(inner, monitor, epochs)
    if monitor is not None and not monitor.epochs:
        monitor.measure(net, 0)
    order = generator(seed, "order of prompts")
    loader = DataLoader(_Numbers(inner.rows), batch_size=batch_size, shuffle=True, generator=order)
    found: FitResult = fit(
        net.module, objective, loader,
        optimizer=Adam(net.module.parameters(), lr=lr, fused=True) if optimizer is None else optimizer,
        schedule=lambda step, total: min(1.0, (step + 1) / warmup) if warmup else 1.0,
        epochs=epochs, validate=objective.measured if monitor is not None else None,
        checkpoint=folder, seed=seed, accelerator=accelerator, progress=progress, name=f"distilling, {source}",
    )  # fmt: skip
    label = source if not mix else f"{source}, mix {mix:g}"
    return DistillRun(
        student, monitor.report(source=label) if monitor is not None else None, found.epochs, inner.data_hashes,
        len({tuple(prompt) for prompt in prompts}), found.steps, found.seconds, found.resumed_from,
    )  # fmt: skip


class _Watched:
    """The objective, with the monitor's state in its own, so that both are resumed."""

    def __init__(self, inner: OnPolicyDistillation, monitor: HackingMonitor | None, epochs: int) -> None:
        self.inner, self.monitor, self.total = inner, monitor, epochs
        self.epoch, self.losses = 0, [0.0, 0.0]  # sum and number of the losses of this epoch

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        loss, log = self.inner(model, batch, ctx)
        self.losses[0] += float(loss.detach())
        self.losses[1] += 1
        return loss, log

    def measured(self, model: nn.Module) -> dict[str, float]:
        self.epoch += 1
        train, self.losses = self.losses[0] / max(1.0, self.losses[1]), [0.0, 0.0]
        if self.monitor is None or not self.monitor.due(self.epoch, self.total):
            return {}
        return self.monitor.measure(self.inner.student, self.epoch, train=train)

    def state_dict(self) -> dict[str, Any]:
        monitor = self.monitor.state_dict() if self.monitor is not None else None
        return {"inner": self.inner.state_dict(), "monitor": monitor, "epoch": self.epoch, "losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])
        self.epoch, self.losses = state["epoch"], list(state["losses"])


def fine_tune(
    model: Any,
    prompts: Rows,
    answers: Rows,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Progress = QUIET,
) -> FitResult:
    """Stage 1, (3): maximum likelihood on given answers (their end token included), in place; any model that can be a student.

    Raises InputError.
    """
    net = next_token_model(model, "model", trainable=True)
    check_integer("batch_size", batch_size)
    check_positive("lr", lr, "a rate above 0")
    if len(prompts) != len(answers) or not len(prompts):
        raise InputError("answers", f"{len(answers)} for {len(prompts)} prompts", "one for each prompt, and one at least")
    order = generator(seed, "order of answers")
    loader = DataLoader(_Numbers(len(prompts)), batch_size=batch_size, shuffle=True, generator=order)
    return fit(
        net.module, _Likelihood(net, Padded.left(prompts), Padded.right(answers)), loader,
        optimizer=Adam(net.module.parameters(), lr=lr, fused=True), epochs=epochs, seed=seed, progress=progress,
        name="fine-tuning",
    )  # fmt: skip


class _Likelihood:
    def __init__(self, net: TrainableNet, prompts: Padded, answers: Padded) -> None:
        self.net, self.prompts, self.answers = net, prompts, answers

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        rows = torch.as_tensor(batch).cpu()
        model.eval()  # no dropout
        answers = self.answers[rows]
        z = self.net.logits(self.prompts[rows], answers, module=model).float()
        given = z.gather(2, answers.ids.to(z.device)[..., None])[..., 0] - z.logsumexp(2)
        mask = answers.mask.to(z.device)
        return -(mean_divergence(given, mask) * mask.sum(1)).sum() / mask.sum(), {}


class _Numbers(Dataset[int]):
    """Row numbers: what the rows hold is the objective's."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> int:
        if not 0 <= row < self.count:
            raise IndexError(row)
        return row
