"""Column-and-constraint generation with a learned value: (5) to (8) of the package's docstring."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.data.worlds.two_stage import TwoStageProblem, check_problem
from tutelage.data.worlds.two_stage.problem import Vector
from tutelage.guarantees.programs import Columns, require_highs
from tutelage.guarantees.solvers import SOLVERS, Solver
from tutelage.guarantees.worst_case import WorstCase, exact_worst_case
from tutelage.methods.decide.neur2ro.master import Master
from tutelage.methods.decide.neur2ro.network import ValueNet
from tutelage.methods.decide.neur2ro.predictors import NetPredictor, Predictor, Search, SearchConfig


@dataclass(frozen=True)
class CCGConfig:
    """The constants of CCG; the defaults are the published ones, except node limits (none there) and what is said below.

    search: of the adversary (7). keep: "last" returns the x of the last iteration, as published; "best" certifies the x of
    every iteration and returns the best one (ours). gap: relative, of both programs. node_limit: of each program, for results
    that do not depend on the speed of the machine. time_limit: of everything, in seconds.
    """

    search: Search = "milp"
    keep: Literal["last", "best"] = "last"
    tolerance: float = 1e-4
    max_scenarios: int = 20
    gap: float = 1e-3
    node_limit: int | None = None
    time_limit: float = 10800.0
    starts: int = 5
    steps: int = 100
    lr: float = 0.05
    samples: int = 1000

    def __post_init__(self) -> None:
        check_choice("search", self.search, ("milp", "gradient", "sampling"))
        check_choice("keep", self.keep, ("last", "best"))
        check_number("tolerance", self.tolerance, "a finite number >= 0", low=0)
        check_number("gap", self.gap, "a share >= 0", low=0)
        check_positive("time_limit", self.time_limit, "seconds > 0")
        check_positive("lr", self.lr, "a finite number > 0")
        for name in ("max_scenarios", "starts", "steps", "samples"):
            check_integer(name, getattr(self, name))
        if self.node_limit is not None:
            check_integer("node_limit", self.node_limit)


@dataclass(frozen=True)
class Iteration:
    """x: of the main problem (6). known: the greatest prediction for x among the scenarios so far (-inf without any). found:
    that of the adversary. seconds: since the start."""

    x: Vector
    known: float
    found: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """x: (n,) of 0 and 1. worst: its exact worst case. scenarios: (T, k), as they were found. history: one entry an iteration.

    predicted: the network's prediction for x in its worst scenario, in units of cost, first stage included (NaN if the model of
    the value has no units). stopped: "converged", "repeated", "scenarios" or "time". seconds: with the certificate.
    """

    x: Vector
    worst: WorstCase
    scenarios: Vector
    predicted: float
    history: list[Iteration] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The exact worst-case cost."""
        return self.worst.value


class MLCCG:
    """CCG for one problem with a value network, or with any `Predictor`.

    Raises InputError for an infeasible problem or a net of another family, MissingError if the solver is not installed.
    """

    def __init__(
        self,
        problem: TwoStageProblem,
        model: ValueNet | Predictor,
        *,
        config: CCGConfig | None = None,
        solver: Solver = "highs",
        seed: int = 0,
    ) -> None:
        check_problem(problem)
        check_choice("solver", solver, SOLVERS)
        require_highs()  # the certificate needs it with every solver
        if config is not None and not isinstance(config, CCGConfig):
            raise InputError("config", type(config).__name__, "a CCGConfig")
        self.problem, self.config, self.solver = problem, config or CCGConfig(), solver
        self.model: Predictor
        self.net = model if isinstance(model, ValueNet) else None
        if isinstance(model, ValueNet):
            c = self.config
            how = SearchConfig(c.search, c.gap, c.node_limit, c.starts, c.steps, c.lr, c.samples, solver)
            self.model = NetPredictor(problem, model, how, seed=seed)
        elif all(hasattr(model, name) for name in ("values", "embed", "worst")):
            self.model = model
        else:
            raise InputError("model", type(model).__name__, "a ValueNet: train_value_net(samples).net")

    def solve(self) -> Plan:
        """The loop: main problem, adversary, until no scenario is predicted to be worse; then the exact worst case."""
        start = time.monotonic()
        deadline = start + self.config.time_limit
        scenarios: list[Vector] = []
        history: list[Iteration] = []
        stopped = "scenarios"
        while True:
            x = self._main(scenarios, deadline)
            known = float(self.model.values(x, np.array(scenarios)).max()) if scenarios else -math.inf
            xi, found = self.model.worst(x, deadline - time.monotonic())
            history.append(Iteration(x, known, found, time.monotonic() - start))
            if scenarios and abs(found - known) <= self.config.tolerance * abs(found):  # (8)
                stopped = "converged"
                break
            if any(np.abs(xi - other).max() <= 1e-6 for other in scenarios):
                stopped = "repeated"
                break
            if len(scenarios) == self.config.max_scenarios:
                break
            if time.monotonic() > deadline:
                stopped = "time"
                break
            scenarios.append(xi)
        known_bad = np.array(scenarios)
        candidates = [history[-1].x]
        if self.config.keep == "best":
            candidates = list({one.x.tobytes(): one.x for one in history}.values())
        worst = [exact_worst_case(self.problem, one, start=known_bad) for one in candidates]
        at = int(np.argmin([one.value for one in worst]))
        return Plan(
            candidates[at],
            worst[at],
            known_bad.reshape(len(scenarios), self.problem.uncertainty.n),
            self._predicted(candidates[at], known_bad),
            history,
            stopped,
            time.monotonic() - start,
        )

    def _main(self, scenarios: list[Vector], deadline: float) -> Vector:
        """(6): the network picks the worst known scenario of x; the cost in it is exact. Without scenarios, the nominal one."""
        master = Master.of(self.problem)
        builder = master.builder
        y = master.second_stage()
        if len(scenarios) <= 1:  # nothing to choose from
            master.follow(y, scenarios[0] if scenarios else self.problem.uncertainty.nominal)
        else:
            self._choose(master, y, np.array(scenarios))
        left = deadline - time.monotonic()
        found = builder.solve(
            self.solver,
            gap=self.config.gap if scenarios else 0.0,
            time_limit=max(left, 1.0),
            node_limit=self.config.node_limit,
        )
        return master.decision(found)

    def _choose(self, master: Master, y: Columns, scenarios: Vector) -> None:
        """w_t = 1 for the scenario with the greatest prediction; y answers to it and pays its cost."""
        builder = master.builder
        out = self.model.embed(builder, master.x, scenarios)
        w = builder.variables(len(scenarios), 0, 1, integer=True)
        builder.rows(w, np.ones(len(w)), 1, 1)
        top = float(out.upper.max())
        m = builder.variables(1, float(out.lower.max()), top)
        columns = np.concatenate([m, out.columns])
        for t, xi in enumerate(scenarios):
            row, base, reach = np.append(1.0, -out.matrix[t]), out.constant[t], top - float(out.lower[t])
            builder.rows(columns, row, low=base)  # m >= out_t
            builder.rows(np.append(columns, w[t]), np.append(row, reach), high=base + reach)  # m <= out_t + reach (1 - w_t)
            master.follow(y, xi, switch=w[t])
        master.certain(y)
        master.bound_below()

    def _predicted(self, x: Vector, scenarios: Vector) -> float:
        if self.net is None or not len(scenarios):
            return math.nan
        low, width = self.net.label_range(self.problem.n_items)
        return float(self.problem.first_stage_cost @ x + low + width * self.model.values(x, scenarios).max())
