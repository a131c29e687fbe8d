"""Accuracy disparity: how much of a robust model's class gap is robustness, and how much is imbalance?

For whoever trains models to be robust on classes of unequal size, and wants to know, before or after, what the smaller
class pays for it.

    Hu, Wu, Zhang, Zhao: Understanding the Impact of Adversarial Robustness on Accuracy Disparity,
    arXiv 2211.15762 (2022), ICML 2023.

Two classes, +1 the minority with prior 1 / (1 + R), -1 the majority with prior R / (1 + R). x | y ~ N(y mu, sigma^2 I)
after centring. The classifier sign(w . x - tau |w|) is attacked with |delta|_p <= eps; q is dual to p. Its robust risk is

    [Phi((tau - a + eps |w|_q / |w|) / sigma) + R Phi((-tau - a + eps |w|_q / |w|) / sigma)] / (1 + R)    (1)

with a = w . mu / |w|. It is least for the direction and the threshold

    w maximises D(w) = (w . mu - eps |w|_q) / |w|                                                        (2)
    p = inf: w = soft(mu, eps), D = |soft(mu, eps)|;  p = 2: w = mu, D = |mu| - eps                      (3)
    covariance C instead of sigma^2 I: w minimises w'Cw / 2 - w . mu + eps |w|_q                         (4)
    tau = sigma^2 ln R / (2 D)                                                                           (5)

so that, on clean data, the minority is right with A_+ = Phi((a - tau) / sigma), the majority with
A_- = Phi((a + tau) / sigma), and the gap is AD = A_- - A_+. Robustness makes D smaller, tau larger, and so the gap of
R > 1. Between stable classes of density f, such as Cauchy's, tau is the smaller root of

    f(tau - D) / f(tau + D) = R,                                                                         (6)

if there is one and it beats "always the majority", which is the best classifier from some R on, with or without an attack.
What robustness costs is split into

    inherent: A(eps = 0, R = 1) - A(eps, R = 1)                                                          (7)
    added by imbalance: Delta_AD = AD(eps, R) - AD(0, R)                                                 (8)

The formulas for (3) to (6) follow from (1); we derived them, the theorems of the paper were not checked word by word.
`disparity_audit` measures (7) and (8) on models; test data are balanced and the sign of AD is kept.
Where the released code differs: it selects epochs and rates by the loss on clean validation data in robust training too
(`train_on_pair(select="clean")`), and it attacks along the gradient of cross-entropy (here: of the difference of logits,
the same direction, which does not vanish where the model is sure).

Example::

    from tutelage.methods.understand.accuracy_disparity import decompose, gaussian_tradeoff

    mu = [1.0, 0.5]  # half the difference of the class means, sigma 1
    standard = gaussian_tradeoff(mu, ratio=3)
    robust = gaussian_tradeoff(mu, ratio=3, eps=0.25, norm="linf")
    print(f"gap {standard.disparity:.3f} -> {robust.disparity:.3f}; minority {robust.acc_minority:.3f}")
    print(decompose(lambda ratio, eps: gaussian_tradeoff(mu, ratio=ratio, eps=eps), ratio=3, eps=0.25))
"""

from tutelage.methods.understand.accuracy_disparity.audit import (
    DisparityAudit,
    EffectRow,
    Estimate,
    ModelRow,
    Part,
    disparity_audit,
    summarise,
)
from tutelage.methods.understand.accuracy_disparity.measure import (
    class_accuracies,
    class_pair,
    half_mean_difference,
    make_imbalanced,
    per_class_accuracy,
)
from tutelage.methods.understand.accuracy_disparity.tradeoff import (
    Decomposition,
    TradeOff,
    decompose,
    gaussian_tradeoff,
    stable_tradeoff,
)
from tutelage.methods.understand.accuracy_disparity.training import linear_attack, train_on_pair

__all__ = [
    "Decomposition",
    "DisparityAudit",
    "EffectRow",
    "Estimate",
    "ModelRow",
    "Part",
    "TradeOff",
    "class_accuracies",
    "class_pair",
    "decompose",
    "disparity_audit",
    "gaussian_tradeoff",
    "half_mean_difference",
    "linear_attack",
    "make_imbalanced",
    "per_class_accuracy",
    "stable_tradeoff",
    "summarise",
    "train_on_pair",
]
