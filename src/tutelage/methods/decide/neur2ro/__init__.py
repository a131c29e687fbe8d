r"""Neur2RO: robust first-stage decisions in seconds, by a network that predicts what the second stage will cost.

For whoever decides in two stages under an uncertainty set (produce or not, then repair or outsource) and cannot wait hours for
an exact method: a network learns the inner value once for a family of problems; then each instance takes a few small programs,
and the answer comes with its exact worst case.

    Dumouchelle, Julien, Kurtz, Khalil: Neur2RO: Neural Two-Stage Robust Optimization, arXiv 2310.04345 (2023), ICLR 2024.

The problem is min_{x in X} a'x + max_{xi in U} V(x, xi), V(x, xi) the optimal second-stage cost
(`tutelage.data.worlds.two_stage`). Item j has features phi_j; u_j is what it sees of xi. The network, made to be embedded in a
program (all ReLU, no bias in Emb):

    e_x  = Post_x( mean_j Emb_x(x_j, phi_j) )                                                                    (1)
    e_xi = Post_xi( mean_j Emb_xi(u_j, phi_j) )                                                                  (2)
    N(x, xi) = Value(e_x, e_xi), near V(x, xi) min-max scaled for each number of items                           (3)
    min over the weights of  mean (N(x, xi) - V(x, xi))^2  over random instances, x and xi, V solved exactly     (4)

Then column-and-constraint generation, over the scenarios xi_1 ... xi_T found so far:

    out_t = N(x, xi_t),  e_xi of each a constant                                                                 (5)
    min a'x + z,  z >= second-stage cost of y in xi_s, y feasible there,  s = argmax_t out_t                     (6)
    xi_{T+1} = argmax over U of N(x, xi), with e_x a constant                                                    (7)
    stop if |N(x, xi_{T+1}) - max_t out_t| <= 1e-4 |N(x, xi_{T+1})|, or xi_{T+1} is known                        (8)

So the network only picks which scenario counts; costs are exact. The argmax is a binary w_t a scenario; its big numbers come
from interval bounds. The exact worst case of the final x is computed by cuts (`guarantees.worst_case`).

Where this differs from the released code: x_j is binary, so Emb_x is linear in it and needs no binaries; bounds of neurons are
tightened by linear programs; the second stage follows the chosen scenario by switches instead of products. Ours: whole
instances are held out for validation; sampled xi of the knapsack are often concentrated on few items;
`TrainingConfig(joint=True)` lets Emb_xi see x_j; `CCGConfig(keep="best")` certifies every iterate. Problems whose second stage
can be infeasible are refused: X must hold complete recourse, as it does in our capital budgeting, instead of a second output.

Example::

    from tutelage.data.worlds.two_stage import KnapsackInstance
    from tutelage.methods.decide.neur2ro import TrainingConfig, robust_plan, sample_values, train_value_net

    instances = [KnapsackInstance.random(5, seed=seed) for seed in range(6)]  # or your own TwoStageProblem
    samples = sample_values(instances, n_x=4, n_xi=4)
    net = train_value_net(samples, TrainingConfig(embed=(4, 4), post=(4, 2), value=(4,), epochs=2)).net
    plan = robust_plan(KnapsackInstance.random(5, seed=100), net)
    print(plan.x, plan.value, plan.worst.exact)
"""

from __future__ import annotations

from tutelage.data.worlds.two_stage import TwoStageProblem
from tutelage.guarantees.solvers import Solver
from tutelage.methods.decide.neur2ro.baselines import Baseline, adaptable_plan, nominal_plan, plain_ccg, random_plans
from tutelage.methods.decide.neur2ro.ccg import MLCCG, CCGConfig, Iteration, Plan
from tutelage.methods.decide.neur2ro.network import ValueNet
from tutelage.methods.decide.neur2ro.predictors import NetPredictor, Predictor, SearchConfig
from tutelage.methods.decide.neur2ro.training import Samples, Trained, TrainingConfig, sample_values, train_value_net

__all__ = [
    "MLCCG",
    "Baseline",
    "CCGConfig",
    "Iteration",
    "NetPredictor",
    "Plan",
    "Predictor",
    "Samples",
    "SearchConfig",
    "Trained",
    "TrainingConfig",
    "ValueNet",
    "adaptable_plan",
    "nominal_plan",
    "plain_ccg",
    "random_plans",
    "robust_plan",
    "sample_values",
    "train_value_net",
]


def robust_plan(
    problem: TwoStageProblem,
    net: ValueNet | Predictor,
    config: CCGConfig | None = None,
    *,
    solver: Solver = "highs",
    seed: int = 0,
) -> Plan:
    """A robust first stage of `problem`, with its exact worst case.

    net: from `train_value_net`, for the same family of problems. seed: of the gradient's starts. Raises InputError for a net of
    another family, shapes that do not fit or an infeasible problem; MissingError if highspy is not installed.
    """
    return MLCCG(problem, net, config=config, solver=solver, seed=seed).solve()
