"""The first stage as a program: decisions, second stages and scenarios, shared by Neur2RO and the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.core.errors import InputError
from tutelage.data.worlds.two_stage import TwoStageProblem
from tutelage.data.worlds.two_stage.problem import Vector
from tutelage.guarantees.programs import Columns, ProgramBuilder
from tutelage.guarantees.solvers import Solution


@dataclass
class Master:
    """min a'x + z over x in X. builder: the program so far. x: columns (n,). z: the column (1,) of the second-stage cost."""

    problem: TwoStageProblem
    builder: ProgramBuilder
    x: Columns
    z: Columns

    @classmethod
    def of(cls, problem: TwoStageProblem) -> Master:
        builder = ProgramBuilder()
        x = builder.variables(problem.n_items, 0, 1, integer=True)
        z = builder.variables(1)
        rows, high = problem.first_stage_rows
        if len(high):
            builder.rows(x, rows, high=high)
        builder.cost(x, problem.first_stage_cost)
        builder.cost(z, 1.0)
        return cls(problem, builder, x, z)

    def second_stage(self) -> Columns:
        """New second-stage decisions (m,) of 0 and 1, without rows yet."""
        return self.builder.variables(self.problem.recourse.m, 0, 1, integer=True)

    def follow(self, y: Columns, xi: Vector, switch: Any = None) -> None:
        """y is a feasible answer to xi and z is at least its cost; with a binary column `switch`, only if that is 1
        (`certain` adds the rows that need no switch).

        The big numbers are the ranges of the rows over x and y in [0, 1].
        """
        recourse = self.problem.recourse
        columns = np.concatenate([self.x, y])
        x_rows, y_rows = recourse.rows(xi)
        matrix, high = np.concatenate([x_rows, y_rows], 1), recourse.high
        cost = np.concatenate(recourse.costs(xi))
        if switch is None:
            self.builder.rows(columns, matrix, high=high)
            self.builder.rows(np.concatenate([self.z, columns]), np.concatenate([[1.0], -cost]), low=0.0)
            return
        most = np.maximum(matrix, 0).sum(1)
        # the others hold for any x and y, or are the same in all scenarios and stand there once
        loose = (most > high + 1e-9) & ~self._certain_rows
        if loose.any():
            room = (most - high)[loose]
            self.builder.rows(np.append(columns, switch), np.concatenate([matrix[loose], room[:, None]], 1), high=most[loose])
        reach = float(np.maximum(cost, 0).sum()) - self.least_cost
        # z >= cost - reach (1 - switch)
        self.builder.rows(np.concatenate([self.z, columns, [switch]]), np.concatenate([[1.0], -cost, [-reach]]), low=-reach)

    @property
    def _certain_rows(self) -> NDArray[np.bool_]:
        """(r,): the rows of the second stage that xi does not move."""
        recourse = self.problem.recourse
        moved = np.zeros(len(recourse.high), dtype=bool)
        for part in (recourse.x_rows_xi, recourse.y_rows_xi):
            if part is not None:
                moved |= np.abs(part).sum((0, 2)) > 0
        return ~moved

    def certain(self, y: Columns) -> None:
        """The rows of the second stage that are the same in every scenario."""
        recourse, rows = self.problem.recourse, self._certain_rows
        matrix = np.concatenate([recourse.x_rows, recourse.y_rows], 1)
        if rows.any():
            self.builder.rows(np.concatenate([self.x, y]), matrix[rows], high=recourse.high[rows])

    @property
    def least_cost(self) -> float:
        """A lower bound of every second-stage cost."""
        recourse, uncertainty = self.problem.recourse, self.problem.uncertainty
        moves = np.concatenate([recourse.cost_x_xi, recourse.cost_y_xi])
        low = np.minimum(moves * uncertainty.lower, moves * uncertainty.upper).sum(1)
        cost = np.concatenate([recourse.cost_x, recourse.cost_y]) + low
        return float(np.minimum(cost, 0).sum())

    def bound_below(self) -> None:
        self.builder.rows(self.z, [1.0], low=self.least_cost)

    def decision(self, found: Solution) -> Vector:
        """x (n,) of 0 and 1. Raises InputError if there is none."""
        if found.point is None:
            if found.status == "infeasible":
                raise InputError(
                    "problem", "an infeasible instance: no first stage can be followed", "rows that some x satisfies"
                )
            raise InputError("time_limit", "a limit that was reached before the first plan", "a longer time or more nodes")
        return np.rint(found.point[self.x])
