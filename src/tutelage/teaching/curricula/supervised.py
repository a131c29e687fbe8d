"""A supervised learner under a curriculum: the task is how the training images are changed, such as corruption strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from tutelage.core.checks import check_callable, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.worlds.task_space import Floats

# images (B, C, H, W) or features (B, F), a task (d,), a generator -> the same shape, changed as the task says
Change = Callable[[Tensor, Floats, torch.Generator], Tensor]


class SupervisedLearner:
    """One episode on a task: a training step on a batch changed by it, then the accuracy on another batch changed by it.

    The return is that accuracy, 0..1; learning progress is then the accuracy gained since the nearest task before. model:
    inputs -> logits (B, classes), taught in place. train, validation: (inputs, integer labels), inputs as the model takes
    them; no test data. batch_size, validation_size: drawn with replacement in each episode. steps: of training an episode.
    """

    def __init__(
        self,
        model: nn.Module,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        change: Change,
        optimizer: Optimizer,
        *,
        seed: int = 0,
        batch_size: int = 64,
        validation_size: int = 128,
        steps: int = 1,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
        check_callable("change", change, "a function of (inputs, task, generator)")
        for name, part in (("train", train), ("validation", validation)):
            if len(part) != 2 or len(part[0]) == 0 or len(part[0]) != len(part[1]):
                raise InputError(name, [len(one) for one in part], "inputs and as many labels, at least one")
        for name, number in (("batch_size", batch_size), ("validation_size", validation_size), ("steps", steps)):
            check_integer(name, number)
        self.model, self.train, self.validation, self.change, self.optimizer = model, train, validation, change, optimizer
        self.batch_size, self.validation_size, self.steps = batch_size, validation_size, steps
        self.generator = generator(seed, "supervised curriculum")

    def __call__(self, task: Floats) -> float:
        self.model.train()
        for _ in range(self.steps):
            x, y = self._batch(self.train, self.batch_size, task)
            self.optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(self.model(x), y).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.model.eval()
        with torch.no_grad():
            x, y = self._batch(self.validation, self.validation_size, task)
            return float((self.model(x).argmax(1) == y).double().mean())

    def _batch(self, part: tuple[Tensor, Tensor], n: int, task: Floats) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(part[0]), (n,), generator=self.generator)
        return self.change(part[0][rows], task, self.generator), part[1][rows]

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
