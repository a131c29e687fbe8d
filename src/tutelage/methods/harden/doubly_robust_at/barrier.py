"""The inner problem of DONE, an attack in a box whose edge is a log barrier, and what it adds to the gradient.

Equations (3) to (5) of `tutelage.methods.harden.doubly_robust_at`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise, normal
from tutelage.models.guard import evaluating
from tutelage.teaching.robust import sample_cross_entropy
from tutelage.threats.budgets import Linf

MARGIN = 1e-3  # of eps: how far from the edge of the box an iterate stays, so that (3) and (4) are finite
LEAST = 1e-30  # of c: a sample whose gradient is 0 everywhere has a barrier, too
SampleLoss = Callable[[Tensor], Tensor]  # inputs (B, ...) -> losses (B,)


@dataclass(frozen=True)
class Box:
    """The box of (3) around each sample, its barrier's strength, and the barrier's derivatives.

    low, high: the lowest and highest inputs x + a and x + b, (B, ...). c: (B, 1, ...). margin: in input units.
    """

    low: Tensor
    high: Tensor
    c: Tensor
    margin: float

    def inside(self, x_adv: Tensor) -> Tensor:
        """The nearest point at least `margin` from the edge."""
        return x_adv.clamp(self.low + self.margin, self.high - self.margin)

    def push(self, x_adv: Tensor) -> Tensor:
        """d/ddelta c [log(b - delta) + log(delta - a)]: away from the edge."""
        return self.c / (x_adv - self.low) - self.c / (self.high - x_adv)

    def curvature(self, x_adv: Tensor) -> Tensor:
        """D of (4), above 0 everywhere; InputError on or outside the edge."""
        below, above = x_adv - self.low, self.high - x_adv
        if not bool((below > 0).all() and (above > 0).all()):
            raise InputError("x_adv", "a point on the edge of its box", "points strictly inside: box.inside(x_adv)")
        return self.c / below.square() + self.c / above.square()


@dataclass(frozen=True)
class BarrierAttack:
    """The inner problem (3): K sign steps from 0.001 N(0, 1) beside the input, each projected strictly inside the box.

    The first step is `step_size` long (default 2.5 eps / steps), the others fall linearly, so that the last point lies
    near the balance of gradient and barrier. barrier, barrier_c: see `DONEConfig`. It can be passed wherever an attack can.
    """

    budget: Linf
    steps: int = 10
    step_size: float | None = None
    barrier: float = 0.1
    barrier_c: float | None = None

    def __post_init__(self) -> None:
        if type(self.budget) is not Linf or isinstance(self.budget.eps, Tensor) or not 0 < self.budget.eps <= 1:
            raise InputError("threat", self.budget, "an Linf budget with one eps above 0 and up to 1: (3) needs a box")
        check_integer("steps", self.steps)
        if self.step_size is not None:
            check_positive("step_size", self.step_size, "a number > 0, in input units")
        check_barrier(self.barrier, self.barrier_c)

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        """x + delta*, (B, ...)."""
        return self.search(x, y, model=model, generator=generator)[0]

    def search(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise) -> tuple[Tensor, Box]:
        """(x + delta*, the box of each sample) after `steps` forward and backward passes in evaluation mode."""
        eps = float(self.budget.eps)
        step = self.step_size if self.step_size is not None else 2.5 * eps / self.steps
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        box = Box(low, high, torch.ones_like(x[:, :1]), MARGIN * eps)
        x_adv = box.inside(x + 0.001 * normal(x.shape, generator).to(x))
        with evaluating(model, verify=False):
            for k in range(self.steps):
                grad = _input_gradient(model, x_adv, y)
                if k == 0:
                    box = Box(low, high, self._strength(grad, eps), MARGIN * eps)
                x_adv = box.inside(x_adv + step * (1 - k / self.steps) * (grad + box.push(x_adv)).sign())
        return x_adv, box

    def _strength(self, grad: Tensor, eps: float) -> Tensor:
        """c for each sample, (B, 1, ...), from the gradient at the start of its search."""
        one_each = (-1, *[1] * (grad.dim() - 1))
        if self.barrier_c is not None:
            return grad.new_full((len(grad),), self.barrier_c).reshape(one_each)
        size = grad.abs().flatten(1)
        middle = size.masked_fill(size == 0, torch.nan).nanmedian(1).values.nan_to_num(0)
        return (self.barrier * eps * middle).clamp_min(LEAST).reshape(one_each)


def implicit_term(loss: SampleLoss, x_adv: Tensor, box: Box, weights: Tensor, *, curvature_steps: int = 0) -> Tensor:
    """A scalar of value 0 whose gradient is mean_i w_i d/dtheta <dl_i/ddelta, v_i>, the implicit part of (5) and (7).

    loss: inputs (B, ...) -> l (B,), differentiable twice. x_adv: (B, ...) strictly inside `box`. weights: (B,).
    """
    at = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(loss(at).sum(), at, create_graph=True)

    def times_hessian(v: Tensor) -> Tensor:
        if not grad.requires_grad:  # a loss that is linear in its input
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(grad, at, v, retain_graph=True, allow_unused=True, materialize_grads=True)
        return product

    v = _solve(box.curvature(at.detach()), times_hessian, grad.detach(), curvature_steps)
    if curvature_steps == 0:
        # where (3) is solved, x + delta + v lies in the box: (1/d - 1/e) / (1/d^2 + 1/e^2) < d. K steps may not solve it
        v = v.clamp(box.low - at.detach(), box.high - at.detach())
    term = (weights * (grad * v).flatten(1).sum(1)).mean()
    return term - term.detach()


def _solve(D: Tensor, times_hessian: Callable[[Tensor], Tensor], grad: Tensor, steps: int) -> Tensor:  # noqa: N803
    """v = (D - H)^-1 grad of (4) for each sample: D^-1 grad, then `steps` of conjugate gradients preconditioned by D.

    A sample stops where D - H is not positive along a direction: there (3) has no minimum that depends smoothly on theta.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.dim() - 1))

    v = grad / D
    if steps == 0:
        return v
    residual = times_hessian(v)  # grad - (D - H) v
    z = residual / D
    direction, size = z, dot(residual, z)
    for _ in range(steps):
        image = D * direction - times_hessian(direction)
        along = dot(direction, image)
        length = torch.where((along > 0) & (size > 0), size / along.clamp_min(LEAST), torch.zeros_like(size))
        v, residual = v + length * direction, residual - length * image
        z = residual / D
        before, size = size, dot(residual, z)
        direction = z + torch.where(length > 0, size / before.clamp_min(LEAST), torch.zeros_like(size)) * direction
    return v


def check_barrier(barrier: float, barrier_c: float | None) -> None:
    check_positive("barrier", barrier, "a share of eps above 0 and below 1")
    check_number("barrier", barrier, "a share of eps above 0 and below 1", high=0.999)
    if barrier_c is not None:
        check_positive("barrier_c", barrier_c, "a number > 0, in units of the loss, or None")


def _input_gradient(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    x_adv = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(sample_cross_entropy(model(x_adv), y).sum(), x_adv)
    return grad
