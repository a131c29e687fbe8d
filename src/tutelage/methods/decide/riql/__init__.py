"""RIQL: a policy from logged decisions of which a part is corrupted.

For whoever has transitions that somebody else's policy logged, cannot try things out, and cannot trust every row: sensors
failed, rewards were entered wrongly, the next state was not the next.

    Yang, Zhong, Xu, Zhang, Zhang, Han, Zhang: Towards Robust Offline Reinforcement Learning under Diverse Data Corruption,
    arXiv 2310.12955 (2023), ICLR 2024.

It is implicit Q-learning (IQL, arXiv 2110.06169) and three changes: observations are normalised, the critics' loss is Huber's,
and a low quantile of K critics takes the place of the smaller of two. With transitions (s, a, r, s', d), observations
normalised by mean and deviation (+ 0.001) of all corrupted s and s', critics Q_k, their moving averages Q'_k, a value V:

    q = Quantile_alpha over k of Q'_k(s, a), linear between order statistics                                          (1)
    minimise |tau - 1[u < 0]| u^2, u = q - V(s)                                                                       (2)
    y = clip(r + gamma (1 - d) V(s'));  minimise mean_k H_beta(y - Q_k(s, a)), beta = 1 / sigma^2                     (3)
        H_beta(x) = x^2 / (2 beta) if |x| < beta, else |x| - beta / 2
    Q' <- (1 - rho) Q' + rho Q                                                                                        (4)
    minimise w ||pi(s) - a||^2, or -w log pi(a|s) of a Gaussian;  w = min(exp(beta_adv u), 100)                       (5)

All of them use V, Q and pi from before the step. The rate of the actor falls to 0 by a cosine. IQL is (1) with the minimum
of two critics, (3) with x^2 / 2, and no normalisation. Where the released code differs: it clips y to (-100, 1000), which cuts
real values where rewards are negative; here the bounds are what the rewards of the data can sum up to (`target_clip`).

Example::

    import torch
    from tutelage.methods.decide.riql import RIQL, RIQLConfig, chain_dataset

    logged, exact = chain_dataset(500)               # or read_offline("your.hdf5"): Minari, D4RL or .npz
    learner = RIQL(logged, RIQLConfig(hidden=16, batch_size=32))
    learner.fit(20)
    print(learner.policy(logged.observations[:3]))   # actions, (3, 1)
    learner.policy.save("policy")                    # Policy.load("policy") acts the same
"""

from tutelage.data.offline.chain import chain_dataset
from tutelage.methods.decide.riql.diagnostics import (
    Matrix,
    TailStats,
    corruption_matrix,
    make_learner,
    suspects,
    target_errors,
    target_tail_stats,
)
from tutelage.methods.decide.riql.learner import RIQL, RIQLConfig, huber, quantile

__all__ = [
    "RIQL",
    "Matrix",
    "RIQLConfig",
    "TailStats",
    "chain_dataset",
    "corruption_matrix",
    "huber",
    "make_learner",
    "quantile",
    "suspects",
    "target_errors",
    "target_tail_stats",
]
