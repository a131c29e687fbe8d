"""Two-stage robust optimisation problems: the parts you write for a new one, a knapsack and capital budgeting."""

from tutelage.data.worlds.two_stage.capital_budgeting import CapitalBudgetInstance
from tutelage.data.worlds.two_stage.knapsack import KnapsackInstance
from tutelage.data.worlds.two_stage.problem import Polytope, Recourse, TwoStageProblem, check_problem

__all__ = ["CapitalBudgetInstance", "KnapsackInstance", "Polytope", "Recourse", "TwoStageProblem", "check_problem"]
