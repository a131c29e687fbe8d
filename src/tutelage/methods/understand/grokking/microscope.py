"""One look at a trained net: the phase, the IPR of every neuron, pruning curves against a random control, a repaired net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from tutelage.methods.understand.grokking.data import ModularData
from tutelage.methods.understand.grokking.measure import Accuracies, Phase, accuracies, classify_phase
from tutelage.methods.understand.grokking.pruning import FRACTIONS, PruningCurve, prune_by, pruning_curve
from tutelage.methods.understand.grokking.spectrum import neuron_ipr, rank_correlation
from tutelage.methods.understand.grokking.training import History
from tutelage.models.neurons import Neurons, matrices, neurons_of


@dataclass(frozen=True, eq=False)
class Examination:
    """What `examine` found.

    phase: of the net as it is. ipr: (N,), one a neuron. curve: pruning by IPR, and at random. gain: (N,), the absolute scale
    of each neuron in the model's norm layer, and gain_correlation its rank correlation with IPR; None without such a layer.
    incoming: the first matrix into the neurons, (N, p) a block, for pictures. warnings: reasons to distrust it.
    """

    data: ModularData
    accuracies: Accuracies
    phase: Phase
    ipr: Tensor
    curve: PruningCurve
    incoming: Tensor
    gain: Tensor | None = None
    gain_correlation: float | None = None
    history: History | None = None
    warnings: list[str] = field(default_factory=list)

    def to_report(self, path: Path | str) -> Path:
        """Write one self-contained HTML page with the phase, neurons, curves and figures; returns its path."""
        from tutelage.methods.understand.grokking.report import write_report

        return write_report(Path(path), self)


def examine(
    model: nn.Module,
    data: ModularData,
    *,
    neurons: Neurons | None = None,
    history: History | None = None,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 5,
    seed: int = 0,
) -> Examination:
    """Which neurons of `model` learnt the rule and which memorised wrong labels; the model is not changed.

    model: from pairs (B, 2) to p logits, trained on `data`. neurons: where the weights of its hidden layer lie, by default
    the model's own. history: of its training, for the report. fractions, draws, seed: see `pruning_curve`.
    """
    places = neurons_of(model, neurons)
    found = accuracies(model, data)
    scores = neuron_ipr(model, data.p, neurons=places)
    curve = pruning_curve(model, data, scores=scores, fractions=fractions, draws=draws, seed=seed, neurons=places)
    gain, correlation = None, None
    if places.gain:
        gain = dict(model.named_parameters(remove_duplicate=False))[places.gain].detach().abs().cpu()
        correlation = rank_correlation(gain, scores)
    warnings = list(data.warnings)
    if not bool(data.is_corrupted.any()):
        warnings.append("no label was corrupted: memorising and learning the rule look alike on the training data")
    if found.train < 0.5 and found.test < 0.5:
        warnings.append("the net answers neither training nor test questions: there is nothing to see in its neurons")
    incoming = matrices(model, places.incoming[:1])[0].cpu().clone()
    phase = classify_phase(found.train, found.test, data.xi)
    return Examination(data, found, phase, scores, curve, incoming, gain, correlation, history, warnings)


def repair(model: nn.Module, data: ModularData, fraction: float = 0.6, *, neurons: Neurons | None = None) -> nn.Module:
    """A copy of `model` without the `fraction` of neurons of lowest IPR: what memorised is forgotten, the rule stays.

    Labels are not looked at. 0.6 is the paper's example in coexistence, not a law: look at the curve of `examine`.
    """
    return prune_by(model, neuron_ipr(model, data.p, neurons=neurons), fraction, "low", neurons=neurons)
