"""Losses of preference pairs: DPO, IPO, LN-DPO and SimPO as pure functions of log-probabilities.

For a prompt with a chosen answer w and a rejected one l: S is the log-probability of an answer under the policy, R the same
under the frozen reference, |y| its number of tokens with the end token, β a strength, γ a margin.

    (1)  DPO     -log σ( β [(S_w - R_w) - (S_l - R_l)] )                          Rafailov et al., arXiv 2305.18290
    (2)  LN-DPO  -log σ( β [(S_w - R_w)/|y_w| - (S_l - R_l)/|y_l|] )              Ahrabian et al., arXiv 2407.15229
    (3)  SimPO   -log σ( β [S_w/|y_w| - S_l/|y_l|] - γ )                          Meng et al., arXiv 2405.14734
    (4)  IPO     ( [(S_w - R_w)/|y_w| - (S_l - R_l)/|y_l|] - 1/(2β) )²            Azar et al., arXiv 2310.12036

(4) is IPO over mean token log-probabilities. Each answer is divided by its own length, never both by a common one.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError

Preference = Literal["dpo", "ln_dpo", "simpo", "ipo"]


def pair_loss(
    kind: Preference,
    logp_w: Tensor,
    logp_l: Tensor,
    *,
    len_w: Tensor,
    len_l: Tensor,
    ref_w: Tensor | None = None,
    ref_l: Tensor | None = None,
    beta: float,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss (B,) of each pair, by equations (1) to (4).

    logp_w, logp_l: (B,) sums of token log-probabilities of the policy, in nats. ref_w, ref_l: of the reference; no gradient
        goes to
    them; SimPO takes none. len_w, len_l: (B,) numbers of tokens. gamma: SimPO's margin, 0 for the others. label_smoothing: ε in
    [0, 0.5), the share of labels that are thought to be flipped; the logistic losses only. Raises InputError.

    Example::

        >>> import torch
        >>> from tutelage.teaching.language import pair_loss
        >>> w, l, n = torch.tensor([-4.0]), torch.tensor([-6.0]), torch.tensor([2])
        >>> pair_loss("dpo", w, l, len_w=n, len_l=n, ref_w=w, ref_l=l, beta=0.1)    # the policy is its reference: log 2
        tensor([0.6931])
    """
    check_choice("kind", kind, get_args(Preference))
    check_positive("beta", beta, "a number > 0")
    check_number("gamma", gamma, "a number >= 0", low=0.0)
    check_number("label_smoothing", label_smoothing, "a share in [0, 0.5)", low=0.0, high=0.499999)
    if gamma and kind != "simpo":
        raise InputError("gamma", gamma, f"0 with {kind}: only SimPO has a margin")
    if label_smoothing and kind == "ipo":
        raise InputError("label_smoothing", label_smoothing, "0 with IPO, which has no logistic loss")
    _check("logp_w", logp_w, logp_w)
    for name, tensor in (("logp_l", logp_l), ("len_w", len_w), ("len_l", len_l)):
        _check(name, tensor, logp_w)
    for name, length in (("len_w", len_w), ("len_l", len_l)):
        if not bool((length > 0).all()):
            raise InputError(name, f"row {int((length <= 0).nonzero()[0])} without a token", "one token at least in each row")
    logit = beta * preference_margin(kind, logp_w, logp_l, len_w=len_w, len_l=len_l, ref_w=ref_w, ref_l=ref_l)
    if kind == "ipo":
        return (logit / beta - 1.0 / (2.0 * beta)) ** 2
    logit = logit - gamma
    return -(1.0 - label_smoothing) * F.logsigmoid(logit) - label_smoothing * F.logsigmoid(-logit)


def preference_margin(
    kind: Preference,
    logp_w: Tensor,
    logp_l: Tensor,
    *,
    len_w: Tensor,
    len_l: Tensor,
    ref_w: Tensor | None = None,
    ref_l: Tensor | None = None,
) -> Tensor:
    """What stands in the brackets of equations (1) to (4), (B,): positive where the pair is ranked as labelled."""
    w, l_ = logp_w.float(), logp_l.float()
    if kind == "simpo":
        if ref_w is not None or ref_l is not None:
            raise InputError("ref_w", "a reference", "none with SimPO, which has none")
    else:
        if ref_w is None or ref_l is None:
            raise InputError("ref_w", None, f"log-probabilities of a reference, which {kind} needs")
        _check("ref_w", ref_w, logp_w)
        _check("ref_l", ref_l, logp_w)
        w, l_ = w - ref_w.detach().float(), l_ - ref_l.detach().float()
    return w - l_ if kind == "dpo" else w / len_w - l_ / len_l


def _check(name: str, tensor: Tensor, like: Tensor) -> None:
    if not isinstance(tensor, Tensor) or tensor.dim() != 1 or tensor.shape != like.shape:
        got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(name, got, "a tensor (B,), one number a pair")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError(name, "NaN or infinity", "finite numbers")
