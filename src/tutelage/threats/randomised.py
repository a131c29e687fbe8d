"""Models that are random when they answer: what counts as a break, and gradients that do not follow a single draw.

A model with noise or dropout in its forward pass gives another answer each time. An attack that follows the gradient of one
draw follows its luck, and one that stops at the first wrong answer takes luck for a break. Here the answer of a random model
f_w is the class that it names most often, with k draws of its randomness w,

    votes_j(x) = 1/k sum_w [argmax f_w(x) = j],                                                                     (1)

and gradients are those of the expected probabilities, as grad E_w = E_w grad (expectation over transformation, EoT; Athalye et
al. 2018, arXiv 1802.00420),

    log p(x) = log 1/k sum_w softmax f_w(x).                                                                        (2)

`Randomised(model, draws)` is such a model, for every attack. An attack that looks at many points still meets some lucky ones;
`confirmed` judges what it found once more, with draws that no search has seen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import seeded
from tutelage.models.checks import check_labels, check_logits, run_model
from tutelage.models.guard import evaluating
from tutelage.threats.engine import AttackResult
from tutelage.threats.objectives import AttackBatch, misclassified

Combine = Literal["votes", "probabilities"]
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
LEAST = 1e-12  # a share of votes


class Randomised(nn.Module):
    """A random model as one that answers by `draws` draws: inputs (B, ...) -> logits (B, classes).

    model: random through torch's, NumPy's or Python's global generators, as with `torch.randn_like` or dropout.
    combine: "votes", log of (1), with equal shares decided by (2); its gradient is that of (2), as votes have none.
    "probabilities": (2) itself, for models that are deployed as such a mean. dropout: keep dropout active in evaluation mode.
    seed: of the draws. Every call draws anew, but each time that the model is put into a mode (`eval()`, which every attack
    does at its start) the draws begin from the start, so that a run repeats. Calls without gradients have draws of their own,
    so that a judge never sees those that a search has climbed.

    A pass costs `draws` passes of `model`, with gradients also their memory. Noise depends on a sample's place in its batch.
    The global generators are left as they were. Not for training: there, use the model itself and an attack with eot > 1.
    Raises InputError for bad settings or outputs that are no logits.

    Example::

        import torch
        from torch import nn
        from tutelage.threats import L2, PGD, Randomised, confirmed

        class Noisy(nn.Linear):
            def forward(self, x):
                return super().forward(x + 0.2 * torch.randn_like(x))

        net, x = Noisy(16, 4), torch.rand(8, 16)
        model = Randomised(net, draws=20)
        y = model(x).argmax(1)
        result = PGD(L2(0.5), retire=False).run(model, x, y, torch.Generator().manual_seed(0))
        print(confirmed(result, Randomised(net, draws=200, seed=1), y).success)
    """

    def __init__(
        self, model: nn.Module, draws: int = 20, *, combine: Combine = "votes", dropout: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
        check_integer("draws", draws)
        check_choice("combine", combine, get_args(Combine))
        check_integer("seed", seed, low=-(2**63))
        if dropout and not any(isinstance(module, DROPOUT) for module in model.modules()):
            raise InputError("dropout", "True for a model without dropout modules", "False, or a model with nn.Dropout")
        self.model, self.draws, self.combine, self.dropout, self.seed = model, draws, combine, dropout, seed
        self.train(model.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._calls = {"search": 0, "judge": 0}
        if self.dropout:
            for module in self.model.modules():
                if isinstance(module, DROPOUT):
                    module.training = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        stream = "search" if torch.is_grad_enabled() else "judge"
        call = self._calls[stream]
        self._calls[stream] += 1
        with seeded(self.seed, "randomised", stream, call):
            outputs = torch.stack([check_logits(self.model(x), len(x), finite=False) for _ in range(self.draws)])
        mean = outputs.log_softmax(2).logsumexp(0) - math.log(self.draws)  # (2)
        if self.combine == "probabilities":
            return mean
        votes = F.one_hot(outputs.argmax(2), outputs.shape[2]).sum(0)
        shares = ((votes + mean.detach().exp()) / (self.draws + 1)).clamp_min(LEAST)  # the means decide between equal votes
        return mean + (shares.log() - mean).detach()

    def extra_repr(self) -> str:
        return f"draws={self.draws}, combine={self.combine!r}, dropout={self.dropout}, seed={self.seed}"


def confirmed(result: AttackResult, model: nn.Module, y: Tensor, *, target: Tensor | None = None) -> AttackResult:
    """`result` with its successes judged once more, on fresh draws; what does not hold is no success, and a warning says so.

    model: a `Randomised` with another seed than the one that was attacked, and best with more draws. y: (B,) the labels,
    target: (B,) the classes wanted if the attack was targeted. `x_adv` and `loss` stay as they are.
    A search that stops at the first success (retire=True) ends on points that are barely broken, of which many do not hold:
    give the attack retire=False.
    """
    check_labels(y, len(result.x_adv))
    with torch.no_grad(), evaluating(model):
        logits = run_model(model, result.x_adv)
    holds = result.success & misclassified(logits, AttackBatch(result.x_adv, y, target))
    lost, n = int(result.success.sum() - holds.sum()), int(result.success.sum())
    warnings = [*result.warnings, f"{lost} of {n} successes did not hold on fresh draws"] if lost else list(result.warnings)
    return replace(result, success=holds, forward=result.forward + len(y), warnings=warnings)
