"""Two-stage capital budgeting of Hanasusanto, Kuhn and Wiesemann: invest now, or later at a lower return.

Costs and revenues of n projects depend on k risk factors xi in [-1, 1]^k:

    c_i(xi) = (1 + phi_i'xi / 2) c_i,      r_i(xi) = (1 + psi_i'xi / 2) r_i                                     (1)
    min_x max_xi min_y -r(xi)'(x + eta y),   c(xi)'(x + y) <= B,   x + y <= 1,   eta = 0.8                      (2)

The constraint is uncertain too. X holds the x that can be paid for in every scenario, c(xi)'x <= B for all xi; then y = 0 is
always left, and no plan is infeasible. phi_i, psi_i >= 0, so the dearest scenario is xi = 1 and X is one linear row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_atomic
from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.two_stage.choices import by_states
from tutelage.data.worlds.two_stage.problem import Polytope, Recourse, TwoStageProblem, Vector, no_recourse

SLACK = 1e-9  # of the budget, for rounding


@dataclass(frozen=True, eq=False)
class CapitalBudgetInstance(TwoStageProblem):
    """cost, revenue: (n,) > 0. phi, psi: (n, k) >= 0, rows of sum <= 1. budget >= 0. late: eta, in [0, 1]."""

    cost: Vector
    revenue: Vector
    phi: Vector
    psi: Vector
    budget: float
    late: float = 0.8

    name = "capital budgeting"

    def __post_init__(self) -> None:
        for word in ("cost", "revenue", "phi", "psi"):
            object.__setattr__(self, word, np.asarray(getattr(self, word), dtype=float))
        n = len(self.cost)
        for word in ("cost", "revenue"):
            vector = getattr(self, word)
            if not n or vector.shape != (n,) or not np.isfinite(vector).all() or (vector <= 0).any():
                raise InputError(word, vector, f"{max(n, 1)} finite numbers > 0")
        for word in ("phi", "psi"):
            matrix = getattr(self, word)
            right = matrix.ndim == 2 and matrix.shape == (n, self.phi.shape[-1]) and matrix.shape[-1] > 0
            if not right or not np.isfinite(matrix).all() or (matrix < 0).any() or (matrix.sum(1) > 1 + 1e-9).any():
                raise InputError(word, f"shape {matrix.shape}", f"({n}, k) numbers >= 0 with rows of sum <= 1")
        check_number("budget", self.budget, "a finite number >= 0", low=0)
        check_number("late", self.late, "a number from 0 to 1", low=0, high=1)

    @classmethod
    def random(cls, n: int, k: int = 4, *, seed: int = 0) -> CapitalBudgetInstance:
        """c ~ U(1, 10), r = c / 5, B = half of sum c, phi and psi uniform on the simplex."""
        check_integer("n", n)
        check_integer("k", k)
        rng = numpy_generator(seed, "capital budgeting", n, k)
        cost = rng.uniform(1, 10, n)
        phi, psi = rng.dirichlet(np.ones(k), n), rng.dirichlet(np.ones(k), n)
        return cls(cost, cost / 5, phi, psi, float(cost.sum() / 2))

    @classmethod
    def load(cls, path: Path | str, *, late: float = 0.8) -> CapitalBudgetInstance:
        """Read the published format: a line 'number n k budget ...', costs, revenues, then n lines phi and n lines psi."""
        path = Path(path)
        if not path.is_file():
            raise MissingError(f"there is no instance at {path}")
        try:
            lines = [
                [float(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
            n, k, budget = int(lines[0][1]), int(lines[0][2]), lines[0][3]
            phi, psi = np.array(lines[3 : 3 + n]), np.array(lines[3 + n : 3 + 2 * n])
            if phi.shape != (n, k) or psi.shape != (n, k):
                raise ValueError("too few rows")
        except (ValueError, IndexError) as error:
            wanted = "a capital budgeting instance: 'number n k budget', costs, revenues, n rows phi, n rows psi"
            raise InputError("path", str(path), wanted) from error
        return cls(np.array(lines[1]), np.array(lines[2]), phi, psi, budget, late)

    def save(self, path: Path | str, *, number: int = 0) -> None:
        """Write the published format (fifth number of the first line: the greatest loan, which is not used here)."""
        loan = 1.5 * float(self.cost.sum()) - self.budget
        rows = [self.cost, self.revenue, *self.phi, *self.psi]
        first = f"{number} {self.n_items} {self.phi.shape[1]} {float(self.budget)!r} {loan!r}"
        write_atomic(Path(path), "\n".join([first, *(" ".join(repr(float(v)) for v in row) for row in rows)]) + "\n")

    @cached_property
    def first_stage_cost(self) -> Vector:
        return np.zeros(len(self.cost))

    @cached_property
    def uncertainty(self) -> Polytope:
        return Polytope.box(self.phi.shape[1])

    @cached_property
    def item_uncertainty(self) -> Vector:
        """What moves the cost and what moves the revenue of each project: (n, 2, k)."""
        return np.stack([self.phi, self.psi], axis=1)

    @cached_property
    def first_stage_rows(self) -> tuple[Vector, Vector]:
        return (self.cost * (1 + self.phi.sum(1) / 2))[None], np.array([self.budget])

    @cached_property
    def recourse(self) -> Recourse:
        n, k = self.phi.shape
        eye = np.eye(n)
        slope = -self.revenue[:, None] * self.psi / 2
        moves = np.zeros((k, n + 1, n))
        moves[:, n] = (self.cost[:, None] * self.phi / 2).T
        return Recourse(
            cost_x=-self.revenue,
            cost_x_xi=slope,
            cost_y=-self.late * self.revenue,
            cost_y_xi=self.late * slope,
            x_rows=np.concatenate([eye, self.cost[None]]),
            y_rows=np.concatenate([eye, self.cost[None]]),
            high=np.concatenate([np.ones(n), [self.budget]]),
            x_rows_xi=moves,
            y_rows_xi=moves,
        )

    def item_features(self) -> Vector:
        """(n, 3 + 2 k): c, r, B and the risks phi, psi of each project."""
        columns = np.stack([self.cost, self.revenue, np.full(self.n_items, self.budget)], axis=1)
        return np.concatenate([columns, self.phi, self.psi], axis=1)

    def sample_x(self, rng: np.random.Generator) -> Vector:
        """Projects in random order with a random rate, each taken if the dearest scenario still allows it."""
        (row,), (budget,) = self.first_stage_rows
        x, rate, spent = np.zeros(self.n_items), rng.uniform(), 0.0
        for i in rng.permutation(self.n_items):
            if rng.uniform() < rate and spent + row[i] <= budget:
                x[i], spent = 1.0, spent + row[i]
        return x

    def sample_xi(self, rng: np.random.Generator) -> Vector:
        return rng.uniform(-1, 1, (self.phi.shape[1],))

    def second_stage(self, x: Vector, xi: Vector) -> tuple[Vector, Vector]:
        x, xi = np.asarray(x, dtype=float), np.asarray(xi, dtype=float)
        cost, revenue = (1 + xi @ self.phi.T / 2) * self.cost, (1 + xi @ self.psi.T / 2) * self.revenue
        room = self.budget + SLACK * (1 + self.budget) - (cost * x).sum(1)
        if (room < 0).any():
            raise no_recourse(self)
        y = np.zeros_like(x)
        for s in range(len(x)):
            free = np.flatnonzero(x[s] < 0.5)
            if len(free) and self.late > 0:
                chosen = by_states(cost[s, free, None], revenue[s, free, None], float(room[s]))[1]
                y[s, free] = chosen > 0
        values: Vector = -(revenue * (x + self.late * y)).sum(1)
        return values, y
