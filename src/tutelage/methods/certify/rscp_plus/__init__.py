"""RSCP+: prediction sets that keep their coverage under attack, the sampling error of the smoothing paid for.

For whoever has a classifier (better one that was trained with Gaussian noise), calibration data and an L2 attack size eps,
and wants sets that hold the true label with a probability of at least 1 - alpha even if every test input was moved by eps.

    Yan, Romano, Weng: Provably Robust Conformal Prediction with Improved Efficiency, arXiv 2404.19651 (ICLR 2024).

S(x, y) in [0, 1] is a score of non-conformity, d ~ N(0, sigma^2 I), N the number of draws.

    S_RS(x, y) = E S(x + d, y); Phi^-1(S_RS) is 1/sigma-Lipschitz in x, in L2                                   (1)
    S^(x, y)   = 1/N sum_i S(x + d_i, y)                                                                        (2)
    RSCP:  {y : Phi^-1(S^(x~, y)) - eps/sigma <= Phi^-1(tau)}, tau the quantile of S^ at 1 - alpha              (3)
    RSCP+: {y : Phi^-1(max(S^(x~, y) - b, 0)) - eps/sigma <= Phi^-1(min(tau_MC + b_H, 1))}                      (4)
           tau_MC: the ceil((n + 1)(1 - alpha + 2 beta))-th smallest of n calibration values S^
           b_H = sqrt(ln(1/beta) / 2N)                                                           Hoeffding      (5)
           b = b_H, or sqrt(2 V ln(2/beta) / N) + 7 ln(2/beta) / 3(N - 1), V the sample variance Bernstein      (6)
    PTT:   S replaced by Q_sig(Q_rank(S)), Q_rank(s) = share of hold-out scores <= s                            (7)
           Q_sig(q) = 1 / (1 + exp(-(q - b) / T)), b = 1 - alpha, T = 1/400
    RCT:   the last layer trained through a differentiable (3), see `RCTLoss`                                   (8)

(3) treats the mean (2) as if it were (1), so its guarantee does not hold; with few draws it can fail badly. (4) is sound:
one beta pays for S_RS <= S^ + b_H at the clean test point, the other for S_RS >= S^ - b at the attacked one; (6) may
replace (5) only there. Plain RSCP+ sets are often all labels; (7), which must be applied before the mean, and (8) make them
small again. The rank transformation needs a hold-out set of its own. Where the released code differs: it interpolates the
quantile, which is a little too low; here it is the order statistic.

Example::

    import torch
    from torch import nn
    from tutelage.guarantees.noise import GaussianNoise
    from tutelage.guarantees.conformal import evaluate
    from tutelage.methods.certify.rscp_plus import PTT, RobustConformal, SmoothedScore

    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))                  # your classifier, images -> logits
    x, y = torch.rand(300, 1, 2, 2), torch.arange(300) % 2                # your data, not used in training
    score = SmoothedScore(model, GaussianNoise(0.25), base="hps", draws=64)
    score = score.transformed(PTT.fit(score.holdout(x[:50], y[:50])))     # hold-out
    robust = RobustConformal(score, eps=0.125, alpha=0.1).calibrate(x[50:200], y[50:200])
    print(robust.guarantee)
    print(evaluate(robust.predict(x[200:]), y[200:]))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder, write_json
from tutelage.core.stats import conformal_quantile
from tutelage.guarantees.conformal import SCORES, check_enough, get_score, read_state
from tutelage.guarantees.noise import GaussianNoise
from tutelage.methods.certify.rscp_plus.attack import attack_sets
from tutelage.methods.certify.rscp_plus.scores import PTT, Part, SmoothedScore
from tutelage.methods.certify.rscp_plus.training import RCTConfig, RCTLoss, fit_rct, retrain_head
from tutelage.models.checks import check_inputs, check_labels
from tutelage.models.loading import fingerprint

__all__ = [
    "PTT",
    "Bound",
    "Part",
    "RCTConfig",
    "RCTLoss",
    "RobustConformal",
    "SmoothedScore",
    "attack_sets",
    "bernstein_radius",
    "calibration_alpha",
    "fit_rct",
    "hoeffding_radius",
    "retrain_head",
    "robust_sets",
]

Bound = Literal["bernstein", "hoeffding", "none"]


class RobustConformal:
    """Prediction sets by (4): at least 1 - alpha of them hold the label, even if every test input was moved by L2 eps.

    score: a SmoothedScore. beta: probability that each of the two bounds on the sampling error fails; 2 beta < alpha.
    bound: "bernstein" (6), "hoeffding" (5), or "none": RSCP as published (3), without any correction and so without a
    guarantee. With eps = 0 and "none" it is the usual conformal prediction on smoothed scores.
    """

    def __init__(
        self, score: SmoothedScore, eps: float, alpha: float = 0.1, *, beta: float = 0.001, bound: Bound = "bernstein"
    ) -> None:
        if not isinstance(score, SmoothedScore):
            raise InputError("score", type(score).__name__, "a SmoothedScore")
        check_number("eps", eps, "an L2 attack size >= 0, in units of the inputs", low=0)
        _check_levels(alpha, beta, bound)
        self.score, self.eps, self.alpha, self.beta, self.bound = score, float(eps), float(alpha), float(beta), bound
        self.threshold, self.n, self.classes = float("nan"), 0, 0

    def calibrate(
        self, x: Tensor, y: Tensor, *, ids: Sequence[int] | Tensor | None = None, allow_full_sets: bool = False
    ) -> RobustConformal:
        """Find tau on n clean labelled points x (n, ...), y (n,), not those of training or hold-out. Returns itself.

        Raises InputError, before any pass, where n is too small for alpha - 2 beta, unless `allow_full_sets`.
        """
        check_inputs(x, self.score.bounds)
        n = len(x)
        check_labels(y, n)
        level = calibration_alpha(self.alpha, self.beta, self.bound)
        check_enough(n, level, allow_full_sets)
        mean = self.score.moments(x, ids=ids, stream="calibration").mean
        check_labels(y, n, mean.shape[1])
        own = mean.gather(1, y.cpu().long()[:, None]).squeeze(1)
        self.threshold, self.n, self.classes = conformal_quantile(own, level), n, mean.shape[1]
        return self

    def predict(self, x: Tensor, *, ids: Sequence[int] | Tensor | None = None) -> Tensor:
        """The sets of x (B, ...), clean or attacked: (B, classes) bool on the CPU. Empty sets are legal."""
        if not self.n:
            raise InputError("self", "a predictor without a threshold", "calibrate(...) first")
        found = self.score.moments(x, ids=ids)
        if found.mean.shape[1] != self.classes:
            raise InputError("model", f"{found.mean.shape[1]} classes", f"{self.classes}, as in the calibration")
        return robust_sets(
            found.mean, found.variance, self.threshold, ratio=self.eps / self.score.noise.sigma, draws=self.score.draws,
            beta=self.beta, bound=self.bound,
        )  # fmt: skip

    @property
    def guarantee(self) -> str:
        """What is proved, with all its constants."""
        setting = (
            f"{get_score(self.score.base).name}{' + PTT' if self.score.transform else ''}, sigma {self.score.noise.sigma:g}, "
            f"{self.score.draws} draws, {self.n} calibration points, threshold {self.threshold:.6g}"
        )
        if self.bound == "none":
            name = "RSCP as published" if self.eps else "smoothed conformal prediction"
            hold = "it ignores the sampling error of the scores" if self.eps else "on clean inputs only, P >= 1 - alpha"
            return f"empirical: {name}, {hold} ({setting})"
        return (
            f"sound: P(label in set) >= {1 - self.alpha:g} for every shift of the test input by L2 <= {self.eps:g}, over "
            f"calibration and test point, if they are exchangeable, and noise that is unknown to the attacker; beta "
            f"{self.beta:g}, {self.bound} ({setting})"
        )

    def save(self, folder: Path | str) -> Path:
        """Write rscp-plus.json into `folder`: all but the model, of which it keeps the hash."""
        base, transform = get_score(self.score.base), self.score.transform
        if type(base) is not SCORES.get(base.name):
            raise InputError("score", type(base).__name__, f"one of {', '.join(SCORES)}, to be saved")
        check_folder(Path(folder), "folder")
        path = Path(folder) / "rscp-plus.json"
        ptt = transform and {
            "holdout": transform.holdout.tolist(), "temperature": transform.temperature, "bias": transform.bias,
            "parts": list(transform.parts),
        }  # fmt: skip
        write_json(path, {
            "model": fingerprint(self.score.model), "noise": asdict(self.score.noise), "score": base.name,
            "constants": asdict(base), "draws": self.score.draws, "ptt": ptt, "eps": self.eps, "alpha": self.alpha,
            "beta": self.beta, "bound": self.bound, "threshold": str(self.threshold), "n": self.n, "classes": self.classes,
        })  # fmt: skip
        return path

    @classmethod
    def load(cls, folder: Path | str, model: nn.Module, **settings: Any) -> RobustConformal:
        """What `save` wrote, for the same model. settings: batch_size, bounds, budget, progress of the SmoothedScore.

        Raises MissingError, or InputError for another kind of file or a model with other weights.
        """
        state = read_state(Path(folder) / "rscp-plus.json")
        if not isinstance(model, nn.Module) or state.get("model") != fingerprint(model):
            raise InputError("model", type(model).__name__, "the model that was calibrated, with the same weights")
        try:
            ptt = state["ptt"] and PTT(
                torch.tensor(state["ptt"]["holdout"], dtype=torch.float64), state["ptt"]["temperature"], state["ptt"]["bias"],
                tuple(state["ptt"]["parts"]),
            )  # fmt: skip
            base = SCORES[state["score"]](**state["constants"])
            score = SmoothedScore(model, GaussianNoise(**state["noise"]), base, state["draws"], ptt, **settings)
            found = cls(score, state["eps"], state["alpha"], beta=state["beta"], bound=state["bound"])
            found.threshold, found.n, found.classes = float(state["threshold"]), int(state["n"]), int(state["classes"])
        except (KeyError, TypeError) as error:
            raise InputError("folder", f"{folder} with {error}", "what RobustConformal.save wrote") from error
        return found


def robust_sets(
    mean: Tensor, variance: Tensor, threshold: float, *, ratio: float, draws: int, beta: float = 0.001, bound: Bound
) -> Tensor:
    """The sets (4), or (3) with bound "none": (B, classes) bool.

    mean, variance: of the scores over `draws` draws, each (B, classes). threshold: tau, may be infinite. ratio: eps/sigma.
    """
    left, right = mean.double(), torch.tensor(min(threshold, 1.0), dtype=torch.float64)
    if bound != "none":
        right = (right + hoeffding_radius(draws, beta)).clamp_max(1.0)
        radius = bernstein_radius(variance.double(), draws, beta) if bound == "bernstein" else hoeffding_radius(draws, beta)
        left = left - radius
    # Phi^-1(0) = -inf: always inside; Phi^-1(1) = inf on the right: everything is
    inside: Tensor = torch.special.ndtri(left.clamp(0.0, 1.0)) - ratio <= torch.special.ndtri(right)
    return inside


def hoeffding_radius(draws: int, beta: float) -> float:
    """(5): a mean of `draws` values in [0, 1] is further than this from its expectation, on one side, with P <= beta."""
    return math.sqrt(math.log(1 / beta) / (2 * draws))


def bernstein_radius(variance: Tensor, draws: int, beta: float) -> Tensor:
    """(6), elementwise: the same by the sample variance (n - 1 in its denominator), Maurer & Pontil 2009, theorem 4."""
    log = math.log(2 / beta)
    return (2 * log / draws * variance).sqrt() + 7 * log / (3 * (draws - 1))


def calibration_alpha(alpha: float, beta: float, bound: Bound) -> float:
    """The miscoverage at which the threshold is taken: alpha - 2 beta, so that both bounds may fail."""
    return alpha if bound == "none" else alpha - 2 * beta


def _check_levels(alpha: float, beta: float, bound: str) -> None:
    check_choice("bound", bound, get_args(Bound))
    check_number("alpha", alpha, "a miscoverage between 0 and 1, such as 0.1", low=1e-9, high=1 - 1e-9)
    if bound != "none":
        check_number("beta", beta, f"a probability in (0, alpha / 2) = (0, {alpha / 2:g})", low=1e-300, high=alpha / 2)
        if alpha - 2 * beta <= 0:
            raise InputError("beta", beta, f"a probability in (0, alpha / 2) = (0, {alpha / 2:g})")
