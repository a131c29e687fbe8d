"""The two-stage robust knapsack of Arslan and Detienne: produce, outsource or repair.

Item i has weight c_i, nominal profit p_i, greatest loss of profit q_i, a cost f_i of outsourcing and a weight t_i of repair.
x_i says that its order is taken. Then nature takes xi in [0, 1]^n, sum xi <= Gamma, and item i loses q_i xi_i. Then y_i <= x_i
says that it is made here (otherwise it is outsourced) and r_i <= y_i that it is repaired (no loss). As costs:

    min_x (f - p)'x + max_xi min_{y, r} sum_i (q_i xi_i - f_i) y_i - q_i xi_i r_i,   c'y + t'r <= C             (1)

For given x and xi it is a knapsack with three choices an item: skip; weight c_i, value f_i - q_i xi_i; weight c_i + t_i, value
f_i.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_atomic
from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.two_stage.choices import Choices, by_states, by_weight
from tutelage.data.worlds.two_stage.problem import Polytope, Recourse, TwoStageProblem, Vector

Correlation = Literal["UN", "WC", "ASC", "SC"]
CORRELATIONS: tuple[Correlation, ...] = ("UN", "WC", "ASC", "SC")
LARGEST_TABLE = 4_000_000  # entries of one dynamic program; more samples are solved in parts
LARGEST_CAPACITY = 200_000


@dataclass(frozen=True, eq=False)
class KnapsackInstance(TwoStageProblem):
    """One instance; vectors of n numbers > 0 (losses >= 0), capacity >= 0, gamma in [0, n]. See the module for the words."""

    weight: Vector
    profit: Vector
    loss: Vector
    outsourcing: Vector
    repair: Vector
    capacity: float
    gamma: float

    name = "knapsack"

    def __post_init__(self) -> None:
        n = len(np.asarray(self.weight))
        if not n:
            raise InputError("weight", "no items", "at least one item")
        for word in ("weight", "profit", "loss", "outsourcing", "repair"):
            vector = np.asarray(getattr(self, word), dtype=float)
            least = 0.0 if word == "loss" else np.nextafter(0, 1)
            if vector.shape != (n,) or not np.isfinite(vector).all() or (vector < least).any():
                raise InputError(word, vector, f"{n} finite numbers {'>= 0' if word == 'loss' else '> 0'}")
            object.__setattr__(self, word, vector)
        check_number("capacity", self.capacity, "a finite number >= 0", low=0)
        check_number("gamma", self.gamma, f"a number from 0 to {n}", low=0, high=n)

    @classmethod
    def random(
        cls,
        n: int,
        correlation: Correlation = "UN",
        delta: float = 0.5,
        h: float = 40,
        beta: float = 0.1,
        *,
        seed: int = 0,
        whole: bool = True,
    ) -> KnapsackInstance:
        """An instance by the published generator, with R = 1000 and H = 100.

        c ~ U(1, R), C = h / (H + 1) sum c. p: UN U(1, R), WC c +- R/20, ASC c + R/10 +- R/1000, SC c + R/10.
        q = p U((1 - delta)/2, (1 + delta)/2). f = p U(1.1, 1.5). t: UN U(1, c), WC q/2 +- R/40,
        ASC q/2 + c/10 +- R/1000, SC q/2 + c/10. Gamma = beta n. Numbers below 1 become 1 (ours). whole: weights c, t and
        C are rounded to integers (ours), so that the inner problem is a fast dynamic program.
        """
        check_integer("n", n)
        check_choice("correlation", correlation, CORRELATIONS)
        check_number("delta", delta, "a number from 0 to 1", low=0, high=1)
        check_number("h", h, "a number from 0 to 101", low=0, high=101)
        check_number("beta", beta, "a share from 0 to 1", low=0, high=1)
        rng = numpy_generator(seed, "knapsack", n, correlation, delta, h, beta)
        r = 1000.0
        c = rng.uniform(1, r, n)
        p = {
            "UN": lambda: rng.uniform(1, r, n),
            "WC": lambda: rng.uniform(c - r / 20, c + r / 20),
            "ASC": lambda: rng.uniform(c + r / 10 - r / 1000, c + r / 10 + r / 1000),
            "SC": lambda: c + r / 10,
        }[correlation]()
        p = np.maximum(p, 1.0)
        q = p * rng.uniform((1 - delta) / 2, (1 + delta) / 2, n)
        f = p * rng.uniform(1.1, 1.5, n)
        t = {
            "UN": lambda: rng.uniform(1, c),
            "WC": lambda: rng.uniform(q / 2 - r / 40, q / 2 + r / 40),
            "ASC": lambda: rng.uniform(q / 2 + c / 10 - r / 1000, q / 2 + c / 10 + r / 1000),
            "SC": lambda: q / 2 + c / 10,
        }[correlation]()
        t = np.maximum(t, 1.0)
        capacity = h / 101 * float(c.sum())
        if whole:
            c, t, capacity = np.maximum(np.rint(c), 1), np.maximum(np.rint(t), 1), float(np.floor(capacity))
        return cls(c, p, q, f, t, capacity, beta * n)

    @classmethod
    def load(cls, path: Path | str, beta: float | None = None) -> KnapsackInstance:
        """Read a file of the published format, such as RKP_UN_n20_R1000_H100_h40_dev0.1_d0.5.

        The first line holds the number of items and C; then a line an item: number, p, q, t, c, f. beta: by default from
        the name ("_dev0.1_").
        """
        path = Path(path)
        if not path.is_file():
            raise MissingError(f"there is no instance at {path}")
        if beta is None:
            found = re.search(r"_dev([0-9.]+?)(?:_|$)", path.name)
            if found is None:
                raise InputError("beta", path.name, "a share, since the name of the file does not tell one (_dev0.1_)")
            beta = float(found[1])
        try:
            lines = [
                [float(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
            capacity, rows = lines[0][1], np.array([line[1:6] for line in lines[1:]])
            p, q, t, c, f = rows.T
        except (ValueError, IndexError) as error:
            raise InputError("path", str(path), "a knapsack instance: a line 'n C', then lines 'i p q t c f'") from error
        return cls(c, p, q, f, np.maximum(t, np.nextafter(0, 1)), capacity, beta * len(c))

    def save(self, path: Path | str) -> None:
        """Write the published format; floats are written exactly."""
        columns = (self.profit, self.loss, self.repair, self.weight, self.outsourcing)
        rows = [f"{i} " + " ".join(repr(float(v)) for v in row) for i, row in enumerate(zip(*columns, strict=True))]
        write_atomic(Path(path), "\n".join([f"{self.n_items} {float(self.capacity)!r}", *rows]) + "\n")

    @cached_property
    def first_stage_cost(self) -> Vector:
        return self.outsourcing - self.profit

    @cached_property
    def uncertainty(self) -> Polytope:
        return Polytope.budgeted(len(self.weight), self.gamma)

    @cached_property
    def item_uncertainty(self) -> Vector:
        return np.eye(len(self.weight))[:, None, :]

    @cached_property
    def recourse(self) -> Recourse:
        """y and r as 2 n decisions; rows: y <= x, r <= y, capacity."""
        n = len(self.weight)
        eye, none = np.eye(n), np.zeros((n, n))
        return Recourse(
            cost_x=np.zeros(n),
            cost_x_xi=none,
            cost_y=np.concatenate([-self.outsourcing, np.zeros(n)]),
            cost_y_xi=np.concatenate([np.diag(self.loss), -np.diag(self.loss)]),
            x_rows=np.concatenate([-eye, none, np.zeros((1, n))]),
            y_rows=np.block([[eye, none], [-eye, eye], [self.weight[None], self.repair[None]]]),
            high=np.concatenate([np.zeros(2 * n), [self.capacity]]),
        )

    def item_features(self) -> Vector:
        """(n, 6): c, p, q, f, t and C of each item."""
        columns = (self.weight, self.profit, self.loss, self.outsourcing, self.repair)
        return np.stack([*columns, np.full(len(self.weight), self.capacity)], axis=1)

    def sample_x(self, rng: np.random.Generator) -> Vector:
        """Each item with a probability that is itself uniform in [0, 1]."""
        return (rng.uniform(size=self.n_items) < rng.uniform()).astype(float)

    def sample_xi(self, rng: np.random.Generator) -> Vector:
        """A random direction, scaled to a share of the budget: 1 half of the time, else uniform.

        The direction is uniform as published, or its 4th or 16th power (ours): worst cases put the budget on few items, and
        a network that has only seen it spread knows nothing of them.
        """
        direction = rng.uniform(size=self.n_items) ** rng.choice((1, 4, 16))
        budget = self.gamma * (1.0 if rng.uniform() < 0.5 else rng.uniform())
        xi = np.zeros(self.n_items)
        for _ in range(self.n_items):  # what is cut at 1 goes to the others, in proportion
            left, free = budget - xi.sum(), xi < 1
            if left <= 1e-12 or not direction[free].sum() > 0:
                break
            xi[free] = np.minimum(xi[free] + direction[free] * (left / direction[free].sum()), 1.0)
        return xi

    def second_stage(self, x: Vector, xi: Vector) -> tuple[Vector, Vector]:
        """(values (S,), [y, r] (S, 2 n)): exact, by dynamic programming for integer weights, else by states."""
        decided = self._solved(x, xi, decisions=True)[1]
        y = np.concatenate([decided > 0, decided > 1], axis=1).astype(float)
        own, n = self.loss * np.asarray(xi, dtype=float), self.n_items
        return ((own - self.outsourcing) * y[:, :n] - own * y[:, n:]).sum(1), y

    def second_stage_values(self, x: Vector, xi: Vector) -> Vector:
        return -self._solved(x, xi, decisions=False)[0]

    def _solved(self, x: Vector, xi: Vector, *, decisions: bool) -> tuple[Vector, Choices]:
        x, xi = np.asarray(x, dtype=float), np.asarray(xi, dtype=float)
        made = np.stack([self.outsourcing - self.loss * xi, np.broadcast_to(self.outsourcing, xi.shape)], axis=2)
        values = np.where(x[:, :, None] > 0.5, made, -np.inf)
        weights = np.stack([self.weight, self.weight + self.repair], axis=1)
        if not self._whole:
            parts = [by_states(weights, one, self.capacity) for one in values]
            return np.array([value for value, _ in parts]), np.array([chosen for _, chosen in parts])
        capacity = min(int(self.capacity), int(weights[:, 1].sum()))
        part = max(1, LARGEST_TABLE // ((capacity + 1) * self.n_items))
        found = [
            by_weight(weights.astype(np.int64), values[start : start + part], capacity, decisions=decisions)
            for start in range(0, len(x), part)
        ]
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    @cached_property
    def _whole(self) -> bool:
        weights = np.concatenate([self.weight, self.repair])
        return bool((weights == np.rint(weights)).all()) and self.capacity <= LARGEST_CAPACITY
