"""Certified accuracy: on how many samples does the class provably not change within an Linf ball, by which means?

A cascade of verifiers, each on what the ones before it left open: IBP (one pass), CROWN-IBP and CROWN (linear bounds), MILP
(exact, small nets). A sample counts only if it is classified right, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.guarantees.bounds import Box, data_box, margin_box, margin_rows, propagate
from tutelage.guarantees.layers import LayerGraph, layers_of
from tutelage.guarantees.linear_bounds import crown_bounds
from tutelage.guarantees.milp import decide
from tutelage.guarantees.solvers import Solver
from tutelage.models.checks import check_inputs, check_labels, run_model
from tutelage.models.guard import evaluating

STAGES = ("ibp", "crown-ibp", "crown", "milp")


@dataclass(frozen=True)
class CertReport:
    """What was proved about each of N samples, in their order.

    stages: the cascade. right: (N,) classified correctly. decided: (N,) int, position in `stages` of the verifier that
    proved the sample robust, -1 for none. broken: (N,) misclassified, or shown by MILP not to be robust. What is right, not
    decided and not broken is open. margins: (N,) the best proved lower bound of the margin to any other class, by IBP and
    CROWN.
    """

    eps: float
    stages: tuple[str, ...]
    right: Tensor
    decided: Tensor
    broken: Tensor
    margins: Tensor

    @property
    def certified(self) -> Tensor:
        """(N,) bool."""
        return self.decided >= 0

    @property
    def certified_accuracy(self) -> float:
        """Share of samples that are right and proved robust: a sound lower bound of the robust accuracy on these samples."""
        return float(self.certified.double().mean())

    @property
    def natural_accuracy(self) -> float:
        return float(self.right.double().mean())

    @property
    def upper_accuracy(self) -> float:
        """Share of samples that nobody has shown to be wrong or broken; with "milp" last and nothing open, the exact one."""
        return float((~self.broken).double().mean())

    @property
    def counts(self) -> dict[str, int]:
        """Samples by what became of them: misclassified, proved by each stage, broken (by MILP), open."""
        wrong = ~self.right
        open_ = self.right & ~self.broken & ~self.certified
        return {
            "misclassified": int(wrong.sum()),
            **{name: int((self.decided == i).sum()) for i, name in enumerate(self.stages)},
            "broken": int((self.broken & self.right).sum()),
            "open": int(open_.sum()),
        }

    def __str__(self) -> str:
        found = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return (
            f"certified accuracy {self.certified_accuracy:.1%} at Linf {self.eps:g} (sound; {len(self.right)} samples: {found})"
        )


def certify(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    cascade: Sequence[str] = ("ibp", "crown"),
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 256,
    solver: Solver = "highs",
    time_limit: float | None = None,
    node_limit: int | None = None,
    progress: Progress = QUIET,
) -> CertReport:
    """Certify `net` on x (N, ...) with labels y (N,) within Linf `eps`, cut to `bounds`.

    cascade: some of "ibp", "crown-ibp", "crown", "milp", cheapest first. Bounds are those of float32 with outward rounding;
    MILP answers up to the tolerance of `solver`, its limits are for one program (one class of one sample).
    Raises InputError for a layer without bounds, wrong inputs and labels, unknown stages.
    """
    stages = tuple(cascade)
    if isinstance(cascade, str) or not stages or any(one not in STAGES for one in stages) or len(set(stages)) < len(stages):
        raise InputError("cascade", cascade, f"some of {', '.join(STAGES)}, each once")
    check_number("eps", eps, "a radius >= 0, in input units", low=0)
    check_integer("batch_size", batch_size)
    check_inputs(x, bounds)
    check_labels(y, len(x))
    graph = layers_of(net, x)
    with evaluating(net), torch.no_grad():
        logits = torch.cat([run_model(net, x[start : start + batch_size]) for start in range(0, len(x), batch_size)])
        classes = logits.shape[1]
        check_labels(y, len(x), classes)
        right = logits.argmax(1) == y
        decided = torch.full_like(y, -1)
        broken = ~right
        margins = torch.full((len(x),), -torch.inf, dtype=logits.dtype, device=x.device)
        for i, stage in enumerate(stages):
            open_ = (right & (decided < 0) & ~broken).nonzero().squeeze(1)
            with progress.task(f"certify by {stage}", len(open_)) as task:
                # linear bounds of every neuron are wide: few samples at once
                for start in range(0, len(open_), size := {"ibp": batch_size, "crown-ibp": 32, "crown": 4, "milp": 1}[stage]):
                    part = open_[start : start + size]
                    if stage == "milp":
                        decision = decide(
                            net, x[part], y[part], eps,
                            bounds=bounds, solver=solver, time_limit=time_limit, node_limit=node_limit,
                        )  # fmt: skip
                        if decision.status == "certified":
                            decided[part] = i
                        broken[part] = decision.status == "broken"
                    else:
                        found = lower_margin(graph, x[part], y[part], eps, stage, bounds)
                        margins[part] = torch.maximum(margins[part], found)
                        decided[part[found > 0]] = i
                    task.advance(len(part))
    return CertReport(float(eps), stages, right.cpu(), decided.cpu(), broken.cpu(), margins.cpu())


def lower_margin(
    graph: nn.Module | LayerGraph,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    by: str = "ibp",
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """The proved lower bound (B,) of the margin z_y - max z_j over the ball; by "ibp", "crown-ibp" or "crown"."""
    graph = layers_of(graph, x)
    lower, upper = data_box(x, eps, bounds)
    if by == "ibp":
        boxes = propagate(graph, Box.between(lower, upper, outward=True))
        return margin_box(graph, boxes, y).ends(True)[0].amin(1)
    rows = margin_rows(y, graph.layers[-1].shape[0]).to(x)
    return crown_bounds(graph, lower, upper, rows, refine=by == "crown")[0].amin(1)
