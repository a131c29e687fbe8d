"""MAML: weights from which one step on a task is a good one, of first order or whole.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400, ICML 2017.

    theta_i = theta - a grad l_support_i(theta), `inner_steps` times                                        (1)
    theta <- theta - b grad_theta mean_i l_query_i(theta_i)                                                 (2)

First order (FOMAML): the gradient of (2) is taken at theta_i and applied to theta as it is; whole: through (1), which
multiplies it by I - a H for one step, H the Hessian of the support loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from tutelage.core.checks import check_callable, check_integer, check_number
from tutelage.core.errors import InputError, NotFinite
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator, seeded
from tutelage.data.guard import training_only
from tutelage.teaching.schedules import Schedule, constant

Inputs = tuple[Any, ...]  # what the model is called with
Loss = Callable[[Tensor, Tensor], Tensor]
Call = Callable[..., Tensor]  # the model with the weights of a task


@dataclass(frozen=True)
class Task:
    """Two disjoint halves of labelled examples of one task: (inputs, labels). extra: what a regulariser may need."""

    support: tuple[Inputs, Tensor]
    query: tuple[Inputs, Tensor]
    extra: Any = None
    name: str = ""


@dataclass
class MetaReport:
    """history: one dict a meta step (loss, support and query accuracy are means over its tasks).

    gradients: how many examples went forward and backward.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    gradients: int = 0


def adapted(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    batch: tuple[Inputs, Tensor],
    *,
    inner_lr: float,
    inner_steps: int = 1,
    first_order: bool = True,
    loss: Loss = F.cross_entropy,
) -> dict[str, Tensor]:
    """(1): the weights after `inner_steps` on a batch; differentiable, with respect to `parameters`, unless of first order."""
    now = dict(parameters)
    inputs, labels = batch
    if inner_lr == 0:
        return now
    for _ in range(inner_steps):
        value = loss(functional_call(model, now, inputs), labels)
        gradients = torch.autograd.grad(value, list(now.values()), create_graph=not first_order)
        now = {name: weight - inner_lr * g for (name, weight), g in zip(now.items(), gradients, strict=True)}
    return now


def meta_loss(
    model: nn.Module,
    tasks: Sequence[Task],
    *,
    inner_lr: float,
    inner_steps: int = 1,
    first_order: bool = True,
    loss: Loss = F.cross_entropy,
    regulariser: Callable[[Call, Task], Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of (2) over the tasks, with a gradient to the model's own parameters, and things to log."""
    own = dict(model.named_parameters())
    terms: list[Tensor] = []
    extra, right, seen = 0.0, 0, 0
    for task in tasks:
        weights = adapted(
            model, own, task.support, inner_lr=inner_lr, inner_steps=inner_steps, first_order=first_order, loss=loss
        )
        inputs, labels = task.query
        logits = functional_call(model, weights, inputs)
        terms.append(loss(logits, labels))
        right, seen = right + int((logits.detach().argmax(-1) == labels).sum()), seen + len(labels)
        if regulariser is not None:

            def call(*inputs: Any, weights: Mapping[str, Tensor] = weights) -> Tensor:
                found: Tensor = functional_call(model, dict(weights), inputs)
                return found

            term = regulariser(call, task)
            terms[-1] = terms[-1] + term
            extra += float(term.detach())
    log = {"query_accuracy": right / max(1, seen)} | ({"regulariser": extra / len(tasks)} if regulariser else {})
    return torch.stack(terms).mean(), log


def maml_train(
    model: nn.Module,
    task_sampler: Callable[[torch.Generator], Task],
    *,
    steps: int,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    first_order: bool = True,
    tasks_per_step: int = 4,
    lr: float = 1e-3,
    optimizer: Optimizer | None = None,
    loss: Loss = F.cross_entropy,
    schedule: Schedule = constant,
    regulariser: Callable[[Call, Task], Tensor] | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
) -> MetaReport:
    """Meta-train `model` in place by (1) and (2); it comes back in eval mode.

    task_sampler: generator -> Task. inner_lr: a of (1); 0 makes it joint training on the query halves. lr: b of (2), of Adam
    unless an optimizer is given. schedule: (meta step, steps) -> a factor on its rates. regulariser: (the adapted model, task)
    -> a scalar that is added to a task's query loss.

    Raises InputError for nets with running statistics (BatchNorm): what one half of a task leaves in them leaks into the
    other; use LayerNorm or GroupNorm, or `track_running_stats=False`. NotFinite if the loss is no number.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    if any(getattr(module, "track_running_stats", False) for module in model.modules()):
        raise InputError("model", "running statistics (BatchNorm)", "LayerNorm, GroupNorm or track_running_stats=False")
    check_callable("task_sampler", task_sampler, "a function of a generator that gives a Task")
    check_callable("schedule", schedule, "a function of (step, total steps) that gives a factor")
    check_number("inner_lr", inner_lr, "a rate >= 0", low=0)
    check_number("lr", lr, "a rate >= 0", low=0)
    for name, count in (("steps", steps), ("inner_steps", inner_steps), ("tasks_per_step", tasks_per_step)):
        check_integer(name, count)
    optimizer = optimizer or Adam(model.parameters(), lr=lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    g, report = generator(seed, "maml"), MetaReport()
    model.train()
    with seeded(seed, "maml"), training_only(), progress.task("meta-training", steps) as task:
        for step in range(steps):
            tasks = [task_sampler(g) for _ in range(tasks_per_step)]
            value, log = meta_loss(
                model, tasks, inner_lr=inner_lr, inner_steps=inner_steps, first_order=first_order, loss=loss,
                regulariser=regulariser,
            )  # fmt: skip
            if not bool(torch.isfinite(value)):
                raise NotFinite(step, "the loss")
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step, steps)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            report.history.append({"step": step, "loss": float(value.detach()), **log})
            inner = inner_steps if inner_lr else 0
            report.gradients += sum(inner * len(one.support[1]) + len(one.query[1]) for one in tasks)
            task.advance(1, f"loss {report.history[-1]['loss']:.3f}")
    model.eval()
    return report
