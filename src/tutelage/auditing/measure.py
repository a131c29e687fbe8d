"""Measuring a classifier on a whole set: what it gets right, and what is left under a threat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs, check_labels, check_logits
from tutelage.models.guard import evaluating
from tutelage.threats.engine import AttackResult
from tutelage.threats.suite import SuiteResult


class Runnable(Protocol):
    """An attack or a suite of attacks."""

    @property
    def name(self) -> str: ...

    def run_seeded(self, model: nn.Module, x: Tensor, y: Tensor, seeds: Tensor) -> AttackResult: ...


@dataclass
class Measured:
    """One threat over a whole set of N samples, in the set's order.

    broken: (N,) bool, misclassified inside the budget (clean errors included). stages: the same after each attack of a
    suite. x_adv: (N, ...) the adversarial inputs, on the CPU. forward, backward: samples passed; spent: of each attack of a
    suite. search: in what form the model was searched.
    """

    name: str
    broken: Tensor
    stages: dict[str, Tensor]
    x_adv: Tensor
    forward: int
    backward: int
    warnings: list[str]
    spent: dict[str, tuple[int, int]] = field(default_factory=dict)
    search: str = "float32"

    @property
    def robust_accuracy(self) -> float:
        return float((~self.broken).double().mean())


def device_of(model: nn.Module) -> torch.device:
    """Where a model lives: the device of its first parameter or buffer, else the CPU."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@torch.no_grad()
def predict(model: nn.Module, data: ImageSet, *, batch_size: int = 256, progress: Progress = QUIET) -> Tensor:
    """Logits (N, classes) of a whole set, on the CPU, in evaluation mode."""
    device = device_of(model)
    parts = []
    with evaluating(model), progress.task("clean accuracy", len(data)) as task:
        for x, y in data.loader(batch_size):
            check_inputs(x)
            logits = check_logits(model(x.to(device)), len(x))
            check_labels(y, len(x), logits.shape[1], name="label")
            parts.append(logits.float().cpu())
            task.advance(len(x))
    return torch.cat(parts)


def attack_set(
    model: nn.Module,
    data: ImageSet,
    threat: Runnable,
    *,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress = QUIET,
) -> Measured:
    """Run `threat` on every sample. The same seed gives the same noise for each sample at any batch size."""
    device, seeds, results = device_of(model), noise_seeds(len(data), seed), []
    with progress.task(threat.name, len(data)) as task:
        for part, (x, y) in zip(torch.split(seeds, batch_size), data.loader(batch_size), strict=True):
            results.append(threat.run_seeded(model, x.to(device), y.to(device), part))
            task.advance(len(x))
    return joined(threat.name, results)


def noise_seeds(n: int, seed: int) -> Tensor:
    """One seed a sample, (n,): what its noise depends on."""
    return torch.randint(2**61, (n,), generator=generator(seed, "attack"))


def joined(name: str, results: Sequence[AttackResult]) -> Measured:
    """The batches of a set, in order, as one."""
    stages: dict[str, list[Tensor]] = {}
    spent: dict[str, tuple[int, int]] = {}
    suites = [result for result in results if isinstance(result, SuiteResult)]
    for stage in (stage for result in suites for stage in result.stages):
        stages.setdefault(stage.name, []).append(stage.success.cpu())
        forward, backward = spent.get(stage.name, (0, 0))
        spent[stage.name] = forward + stage.forward, backward + stage.backward
    return Measured(
        name,
        torch.cat([result.success.cpu() for result in results]),
        {stage: torch.cat(parts) for stage, parts in stages.items()},
        torch.cat([result.x_adv.cpu() for result in results]),
        sum(result.forward for result in results),
        sum(result.backward for result in results),
        list(dict.fromkeys(warning for result in results for warning in result.warnings)),
        spent,
        ", ".join(dict.fromkeys(result.search for result in suites)) or "float32",
    )


def clean_and_robust(
    model: nn.Module, data: ImageSet, threat: Runnable, *, seed: int = 0, batch_size: int = 256
) -> dict[str, float]:
    """clean and robust accuracy and their mean, W-Robust, each in [0, 1]: what to select a robust model by."""
    clean = float((predict(model, data, batch_size=batch_size).argmax(1) == data.labels).double().mean())
    robust = attack_set(model, data, threat, seed=seed, batch_size=batch_size).robust_accuracy
    return {"clean": clean, "robust": robust, "w_robust": (clean + robust) / 2}
