"""A two-stage robust problem with binary decisions, as data: what a new problem has to write.

    min_{x in X}  a'x + max_{xi in U}  min_{y in Y(x, xi)}  (p + P xi)'x + (q + Q xi)'y                      (1)
    Y(x, xi) = {y binary: (T + sum_k xi_k T_k) x + (W + sum_k xi_k W_k) y <= h}                              (2)

x is decided first, then nature takes xi from a polytope U, then y repairs what it can. All costs are minimised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Polytope:
    """U = {xi: lower <= xi <= upper, matrix xi <= high}. lower, upper: (k,), finite; matrix: (r, k); high: (r,).

    Raises InputError if it has no point or no bounds: the worst case of an unbounded U is not defined.
    """

    lower: Vector
    upper: Vector
    matrix: Vector = field(default_factory=lambda: np.zeros((0, 0)))
    high: Vector = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        lower, upper = np.asarray(self.lower, dtype=float), np.asarray(self.upper, dtype=float)
        if lower.ndim != 1 or lower.shape != upper.shape or not len(lower):
            raise InputError(
                "uncertainty", f"bounds of shapes {lower.shape} and {upper.shape}", "two vectors of the same length"
            )
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            raise InputError("uncertainty", "a set without bounds", "finite lower and upper bounds of every coordinate")
        if (lower > upper).any():
            raise InputError("uncertainty", "a lower bound above its upper bound", "lower <= upper")
        matrix, high = np.asarray(self.matrix, dtype=float), np.asarray(self.high, dtype=float)
        if matrix.size == 0:
            matrix = np.zeros((0, len(lower)))
        if matrix.ndim != 2 or matrix.shape != (len(high), len(lower)):
            raise InputError("uncertainty", f"rows of shape {matrix.shape}", f"({len(high)}, {len(lower)})")
        if not (np.isfinite(matrix).all() and np.isfinite(high).all()):
            raise InputError("uncertainty", "rows that are not finite", "finite numbers")
        for name, value in (("lower", lower), ("upper", upper), ("matrix", matrix), ("high", high)):
            object.__setattr__(self, name, value)
        if len(high) and (np.where(matrix > 0, lower * matrix, upper * matrix).sum(1) > high + 1e-9).any():
            raise InputError("uncertainty", "a set without a point", "rows that a point within the bounds satisfies")
        if (
            len(high) > 1
            and linprog(
                np.zeros(len(lower)), matrix, high, bounds=list(zip(lower.tolist(), upper.tolist(), strict=True))
            ).status
            == 2
        ):
            raise InputError("uncertainty", "a set without a point", "rows that a point within the bounds satisfies")

    @classmethod
    def budgeted(cls, n: int, gamma: float) -> Polytope:
        """{xi in [0, 1]^n: sum xi <= gamma}: at most gamma of n coordinates may be at their worst."""
        check_integer("n", n)
        check_number("gamma", gamma, "a finite number >= 0", low=0)
        return cls(np.zeros(n), np.ones(n), np.ones((1, n)), np.array([float(gamma)]))

    @classmethod
    def box(cls, n: int, low: float = -1.0, high: float = 1.0) -> Polytope:
        check_integer("n", n)
        return cls(np.full(n, float(low)), np.full(n, float(high)))

    @property
    def n(self) -> int:
        return len(self.lower)

    def contains(self, xi: Vector, tolerance: float = 1e-6) -> bool:
        inside = (xi >= self.lower - tolerance).all() and (xi <= self.upper + tolerance).all()
        return bool(inside and (self.matrix @ xi <= self.high + tolerance * (1 + np.abs(self.high))).all())

    @property
    def nominal(self) -> Vector:
        """0 if it is in U, else the middle of the bounds: what one plans with who does not think of uncertainty."""
        zero = np.zeros(self.n)
        return zero if self.contains(zero) else (self.lower + self.upper) / 2

    def project(self, xi: Vector) -> Vector:
        """The nearest point of U to xi (k,), for a box, or a box cut by one row; others raise InputError."""
        inside: Vector = np.clip(xi, self.lower, self.upper)
        if not len(self.high) or (self.matrix @ inside <= self.high).all():
            return inside
        if len(self.high) > 1:
            raise InputError("uncertainty", f"{len(self.high)} rows", "a box with at most one row, for a projection")
        row, high = self.matrix[0], float(self.high[0])
        left, right = 0.0, 1.0
        while float(row @ np.clip(xi - right * row, self.lower, self.upper)) > high:
            left, right = right, 2 * right
            if right > 1e12:  # the set is one face of the box
                break
        for _ in range(60):
            middle = (left + right) / 2
            if float(row @ np.clip(xi - middle * row, self.lower, self.upper)) > high:
                left = middle
            else:
                right = middle
        inside = np.clip(xi - right * row, self.lower, self.upper)
        return inside


@dataclass(frozen=True, eq=False)
class Recourse:
    """The second stage of (1) and (2), for n first-stage and m second-stage decisions, r rows and k uncertain numbers.

    cost_x: p (n,). cost_x_xi: P (n, k). cost_y: q (m,). cost_y_xi: Q (m, k). x_rows: T (r, n). y_rows: W (r, m). high: h (r,).
    x_rows_xi, y_rows_xi: T_k (k, r, n), W_k (k, r, m), or None if the constraints are certain.
    """

    cost_x: Vector
    cost_x_xi: Vector
    cost_y: Vector
    cost_y_xi: Vector
    x_rows: Vector
    y_rows: Vector
    high: Vector
    x_rows_xi: Vector | None = None
    y_rows_xi: Vector | None = None

    @property
    def n(self) -> int:
        return len(self.cost_x)

    @property
    def m(self) -> int:
        return len(self.cost_y)

    @property
    def certain(self) -> bool:
        """Whether the constraints do not depend on xi, so that the value of (1) is concave in xi."""
        return self.x_rows_xi is None and self.y_rows_xi is None

    def costs(self, xi: Vector) -> tuple[Vector, Vector]:
        """(p + P xi, q + Q xi)."""
        return self.cost_x + self.cost_x_xi @ xi, self.cost_y + self.cost_y_xi @ xi

    def rows(self, xi: Vector) -> tuple[Vector, Vector]:
        """The matrices (r, n) and (r, m) of (2) at xi."""
        x_rows = self.x_rows if self.x_rows_xi is None else self.x_rows + np.tensordot(xi, self.x_rows_xi, 1)
        y_rows = self.y_rows if self.y_rows_xi is None else self.y_rows + np.tensordot(xi, self.y_rows_xi, 1)
        return x_rows, y_rows

    def value(self, x: Vector, y: Vector, xi: Vector) -> float:
        cost_x, cost_y = self.costs(xi)
        return float(cost_x @ x + cost_y @ y)

    def feasible(self, x: Vector, y: Vector, xi: Vector, tolerance: float = 1e-6) -> bool:
        x_rows, y_rows = self.rows(xi)
        return bool((x_rows @ x + y_rows @ y <= self.high + tolerance * (1 + np.abs(self.high))).all())


class TwoStageProblem(ABC):
    """What a new problem writes. Subclass it, set the attributes, write the three methods; the rest has defaults.

    name: of the family, such as "knapsack"; a value network is for one family. first_stage_cost: a (n,). uncertainty: U.
    recourse: the second stage. item_uncertainty: (n, e, k), the e uncertain numbers of each first-stage item as linear maps of
    xi, which is what a set network sees of xi. first_stage_rows: X = {x binary: rows x <= high}.
    """

    name: str

    @property
    @abstractmethod
    def first_stage_cost(self) -> Vector: ...

    @property
    @abstractmethod
    def uncertainty(self) -> Polytope: ...

    @property
    @abstractmethod
    def recourse(self) -> Recourse: ...

    @property
    @abstractmethod
    def item_uncertainty(self) -> Vector: ...

    @abstractmethod
    def item_features(self) -> Vector:
        """(n, F): what is known of each item."""

    @abstractmethod
    def sample_x(self, rng: np.random.Generator) -> Vector:
        """A random first stage (n,) of 0 and 1 in X."""

    @abstractmethod
    def sample_xi(self, rng: np.random.Generator) -> Vector:
        """A random scenario (k,) in U."""

    @property
    def first_stage_rows(self) -> tuple[Vector, Vector]:
        return np.zeros((0, self.n_items)), np.zeros(0)

    @property
    def n_items(self) -> int:
        return len(self.first_stage_cost)

    def feasible(self, x: Vector) -> bool:
        """Whether x is in X."""
        rows, high = self.first_stage_rows
        return bool(np.isin(x, (0.0, 1.0)).all() and (rows @ x <= high + 1e-6 * (1 + np.abs(high))).all())

    def second_stage(self, x: Vector, xi: Vector) -> tuple[Vector, Vector]:
        """Exact values (S,) and decisions y (S, m) of the second stage at x (S, n) and xi (S, k).

        The default solves S programs by HiGHS; write a faster one, such as a dynamic program, where there is one.
        Raises InputError where no y is feasible.
        """
        recourse = self.recourse
        values, decisions = np.zeros(len(x)), np.zeros((len(x), recourse.m))
        for s in range(len(x)):
            _, cost_y = recourse.costs(xi[s])
            x_rows, y_rows = recourse.rows(xi[s])
            found: Any = milp(
                cost_y,
                integrality=np.ones(recourse.m, dtype=np.int64),
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(y_rows, -np.inf, recourse.high - x_rows @ x[s]),
                options={"mip_rel_gap": 0.0},
            )
            if found.x is None:
                raise no_recourse(self)
            decisions[s] = np.rint(found.x)
            values[s] = recourse.value(x[s], decisions[s], xi[s])
        return values, decisions

    def second_stage_values(self, x: Vector, xi: Vector) -> Vector:
        """The values alone (S,); for problems where they come faster without the decisions."""
        return self.second_stage(x, xi)[0]


def no_recourse(problem: TwoStageProblem) -> InputError:
    return InputError(
        "problem", f"a {problem.name} with a first stage that no second stage can follow", "complete recourse: rows on x in X"
    )


def check_problem(problem: TwoStageProblem) -> None:
    """Shapes and numbers of a problem, before anything is computed. Raises InputError."""
    if not isinstance(problem, TwoStageProblem):
        raise InputError("problem", type(problem).__name__, "a TwoStageProblem such as KnapsackInstance.random(10)")
    recourse, uncertainty, n = problem.recourse, problem.uncertainty, problem.n_items
    if not isinstance(uncertainty, Polytope):
        raise InputError("uncertainty", type(uncertainty).__name__, "a Polytope")
    k, m, r = uncertainty.n, recourse.m, len(recourse.high)
    rows, high = problem.first_stage_rows
    features = problem.item_features()
    for name, array, shape in (
        ("first_stage_cost", problem.first_stage_cost, (n,)),
        ("cost_x", recourse.cost_x, (n,)),
        ("cost_x_xi", recourse.cost_x_xi, (n, k)),
        ("cost_y_xi", recourse.cost_y_xi, (m, k)),
        ("x_rows", recourse.x_rows, (r, n)),
        ("y_rows", recourse.y_rows, (r, m)),
        ("x_rows_xi", recourse.x_rows_xi, (k, r, n)),
        ("y_rows_xi", recourse.y_rows_xi, (k, r, m)),
        ("first_stage_rows", rows, (len(high), n)),
        ("item_features", features, (n, *features.shape[1:])),
        ("item_uncertainty", problem.item_uncertainty, (n, *problem.item_uncertainty.shape[1:2], k)),
        ("high", recourse.high, (r,)),
        ("cost_y", recourse.cost_y, (m,)),
    ):
        if array is None:
            continue
        if array.shape != shape:
            raise InputError(name, f"shape {array.shape}", f"shape {shape}")
        if not np.isfinite(array).all():
            raise InputError(name, "a number that is not finite", "finite numbers")
    if features.ndim != 2:
        raise InputError("item_features", f"shape {features.shape}", "(items, features)")
    low = np.where(rows > 0, 0.0, rows).sum(1)
    if (low > high + 1e-9).any():
        raise InputError("problem", "a first stage without a feasible decision", "rows that some x of 0 and 1 satisfies")


def check_first_stage(problem: TwoStageProblem, x: Any) -> Vector:
    """x as a float vector of 0 and 1, or InputError."""
    plan: Vector = np.asarray(x, dtype=float)
    if plan.shape != (problem.n_items,):
        raise InputError("x", f"shape {plan.shape}", f"shape ({problem.n_items},)")
    if not np.isin(plan, (0.0, 1.0)).all():
        raise InputError("x", "numbers other than 0 and 1", "a first stage of 0 and 1")
    if not problem.feasible(plan):
        raise InputError("x", "a first stage outside X", "one that satisfies the rows of the first stage")
    return plan
