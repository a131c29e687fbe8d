"""Pictures of plans: what becomes of each item in the worst scenario of each plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tutelage.core.errors import InputError
from tutelage.data.worlds.two_stage import CapitalBudgetInstance, KnapsackInstance, TwoStageProblem
from tutelage.data.worlds.two_stage.problem import Vector
from tutelage.methods.decide.neur2ro.baselines import Baseline
from tutelage.methods.decide.neur2ro.ccg import Plan

KNAPSACK = {"not taken": "#ffffff", "outsourced": "#f2b134", "made": "#4c8dbf", "repaired": "#2f6b4f"}
PROJECTS = {"not taken": "#ffffff", "later": "#f2b134", "now": "#4c8dbf"}


def fates(problem: TwoStageProblem, x: Vector, y: Vector) -> tuple[list[int], dict[str, str]]:
    """For each item the number of its fate, and the names and colours of fates."""
    n = problem.n_items
    if isinstance(problem, KnapsackInstance):
        return [int(x[i] * (1 + y[i] + y[n + i])) for i in range(n)], KNAPSACK
    if isinstance(problem, CapitalBudgetInstance):
        return [2 if x[i] > 0.5 else int(y[i] > 0.5) for i in range(n)], PROJECTS
    raise InputError("problem", type(problem).__name__, "a KnapsackInstance or a CapitalBudgetInstance")


def plan_figure(problem: TwoStageProblem, plans: Mapping[str, Plan | Baseline]) -> Figure:
    """A column a plan, a row an item: its fate when the worst scenario of that plan comes; for a knapsack with its xi.

    Below each name stands the exact worst-case cost.
    """
    if not plans:
        raise InputError("plans", "none", "at least one plan, such as {'Neur2RO': plan}")
    found = [fates(problem, plan.x, plan.worst.y) for plan in plans.values()]
    words = found[0][1]
    grid = np.array([one[0] for one in found]).T
    figure = Figure(figsize=(1.6 + 1.25 * len(plans), 1.4 + 0.28 * problem.n_items), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap=ListedColormap(list(words.values())), vmin=-0.5, vmax=len(words) - 0.5, aspect="auto")
    for column, plan in enumerate(plans.values()):
        for item in range(problem.n_items):
            if isinstance(problem, KnapsackInstance) and plan.worst.xi[item] > 0.005:
                colour = "white" if grid[item, column] == len(words) - 1 else "black"
                axes.text(column, item, f"ξ {plan.worst.xi[item]:.2g}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(plans)), [f"{name}\n{plan.value:.4g}" for name, plan in plans.items()], fontsize=8)
    axes.set_yticks(range(problem.n_items), [str(i + 1) for i in range(problem.n_items)], fontsize=8)
    axes.set_ylabel("item")
    axes.set_xticks(np.arange(len(plans) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(problem.n_items + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#bbbbbb", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    handles = [Patch(facecolor=colour, edgecolor="#888888", label=word) for word, colour in words.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(words), fontsize=8, frameon=False)
    return figure
