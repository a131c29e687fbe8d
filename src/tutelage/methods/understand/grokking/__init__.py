"""Grokking: did the network learn the rule, or memorise the labels? Both can be seen in its weights.

For whoever trains on labels of which some are wrong, and wants to know which neurons hold the rule and which the wrong
labels, and to take the latter out. Where this can be seen exactly is modular arithmetic.

    Doshi, Das, He, Gromov: To grok or not to grok: Disentangling generalization and memorization on corrupted algorithmic
    datasets, arXiv 2310.13061 (2023), ICLR 2024. Analytic weights: Gromov, arXiv 2301.02679 (2023).

A quadratic net of N neurons without biases answers m + n mod p, from e_m and e_n one-hot:

    f(m, n) = W (U e_m + V e_n)^2,   all weights N(0, (16 N)^(-2/3))                                        (1)
    loss = mean over training pairs and p outputs of (f - e_label)^2                                        (2)
    AdamW: w <- w (1 - lr wd) - lr step; full batch, lr 0.01, betas (0.9, 0.98)                             (3)

A share xi of the training labels is drawn anew from all p classes. A neuron's weight vector x of length p is periodic where
its inverse participation ratio is high; z = |rfft(x)|, p // 2 + 1 numbers, the constant part among them:

    IPR(x) = sum z^4 / (sum z^2)^2, from 1 / (p // 2 + 1) to 1                                              (4)
    IPR of neuron k = mean of IPR(U_k.), IPR(V_k.), IPR(W_.k)                                               (5)

Pruning sets U_k., V_k. and W_.k of the neurons of lowest (highest, random) IPR to zero, on a copy, without training again (6).
Phases by accuracy: coexistence (test and train >= 0.9), partial and full inversion (test >= 0.9, train < 0.9, below
1.05 - xi for full), memorisation (only train >= 0.9), confusion (7). Weight decay, dropout (on the pre-activations) and
BatchNorm (after the square) move the net towards inversion.

Where paper and released code differ: the paper's text gives IPR in [1/p, 1], the code takes the one-sided transform (4), which
is followed (`ipr(one_sided=False)` is the other); random pruning is our control, the code never runs it. Frequencies and
phases are those of the analytic solution in `models.modular.analytic_mlp`.

Example::

    from tutelage.core.rng import generator
    from tutelage.methods.understand.grokking import GrokConfig, QuadraticMLP, examine, modular_dataset, repair, train_grok

    data = modular_dataset(p=23, alpha=0.8, xi=0.2)  # 20 % of the training labels are drawn at random
    net = QuadraticMLP(23, width=128, generator=generator(0, "net"))
    history = train_grok(data, net, GrokConfig(steps=300, weight_decay=5, log_every=50))
    found = examine(net, data, history=history, draws=1)
    print(found.phase, found.accuracies.test, found.curve.at("low", 0.6).corrupted)
    better = repair(net, data, fraction=0.6)
"""

from tutelage.methods.understand.grokking.data import ModularData, modular_dataset
from tutelage.methods.understand.grokking.diagram import DiagramCell, PhaseDiagram, phase_diagram
from tutelage.methods.understand.grokking.measure import PHASES, Accuracies, Phase, accuracies, classify_phase
from tutelage.methods.understand.grokking.microscope import Examination, examine, repair
from tutelage.methods.understand.grokking.pruning import Order, PruningCurve, PruningRow, prune_by, pruning_curve
from tutelage.methods.understand.grokking.spectrum import ipr, neuron_ipr, rank_correlation
from tutelage.methods.understand.grokking.training import GrokConfig, GrokLoss, History, train_grok
from tutelage.models.modular import PairMLP, PairTransformer, QuadraticMLP, analytic_mlp
from tutelage.models.neurons import Neurons, without_neurons

__all__ = [
    "PHASES",
    "Accuracies",
    "DiagramCell",
    "Examination",
    "GrokConfig",
    "GrokLoss",
    "History",
    "ModularData",
    "Neurons",
    "Order",
    "PairMLP",
    "PairTransformer",
    "Phase",
    "PhaseDiagram",
    "PruningCurve",
    "PruningRow",
    "QuadraticMLP",
    "accuracies",
    "analytic_mlp",
    "classify_phase",
    "examine",
    "ipr",
    "modular_dataset",
    "neuron_ipr",
    "phase_diagram",
    "prune_by",
    "pruning_curve",
    "rank_correlation",
    "repair",
    "train_grok",
    "without_neurons",
]
