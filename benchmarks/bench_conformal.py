"""Split conformal prediction against TorchCP and MAPIE: 50,000 x 1,000 logits, half to calibrate, half to predict.

All sides start from the same logits in memory and end with the prediction sets. Needs the peers' environments: python
benchmarks/peers.py torchcp mapie. TorchCP: scores LAC, APS and RAPS without random numbers, as it draws one for each label
where the definition has one for each example; thresholds and sets must be ours, up to rounding. MAPIE: LAC, and APS with
its "randomized" last label; it draws other random numbers than ours does, so its sets are compared with those that ours gives,
outside of the race, for MAPIE's numbers. Its RAPS chooses lambda and k_reg on a part of the calibration data, which is other
work, and is left out. MAPIE wants a classifier: it gets one whose `predict_proba` is torch's softmax of its inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Outcome, Settings, race, report, settings
from peers import inside, race_in
from torch import Tensor

from tutelage.core.memory import keep_memory
from tutelage.core.rng import generator
from tutelage.guarantees.conformal import APS, HPS, RAPS, Score, SplitConformal, evaluate

PEERS, ALPHA = ("mapie", "torchcp"), 0.1
# calibration and test logits, labels -> (threshold, sets)
Work = Callable[[], tuple[float, Any]]


def data(n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits of a classifier that is often right, and less sure on some inputs than on others; labels."""
    g = generator(0, "logits")
    y = torch.randint(classes, (n,), generator=g)
    logits = torch.randn(n, classes, generator=g) * (1 + torch.rand(n, 1, generator=g))
    logits[torch.arange(n), y] += 9 + 2 * torch.randn(n, generator=g)
    return logits, y


class MapiesNumbers(SplitConformal):
    """With the random numbers that MAPIE draws for random_state=0, the same for calibration and test."""

    def _u(self, stream: str, n: int, ids: Any) -> Any:
        return np.random.RandomState(0).uniform(size=n)


def ours(score: Score, calibration: tuple[Tensor, Tensor], logits: Tensor, kind: type[SplitConformal] = SplitConformal) -> Work:
    def run() -> tuple[float, Tensor]:
        conformal = kind(score, ALPHA).calibrate(*calibration)
        return conformal.threshold, conformal.predict(logits)

    return run


def torchcp(score: Any, calibration: tuple[Tensor, Tensor], logits: Tensor) -> Work:
    from torchcp.classification.predictor import SplitPredictor

    def run() -> tuple[float, Tensor]:
        predictor = SplitPredictor(score, alpha=ALPHA)
        predictor.calculate_threshold(*calibration)
        return float(predictor.q_hat), predictor.predict_with_logits(logits)

    return run


class Softmax:
    """A fitted scikit-learn classifier whose inputs are logits already."""

    _estimator_type = "classifier"

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)
        self.n_features_in_ = classes

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags(), input_tags=InputTags())

    def fit(self, X: Any, y: Any) -> Softmax:  # noqa: N803
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"classes": self.classes}

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        return torch.from_numpy(X).softmax(1).numpy()

    def predict(self, X: Any) -> Any:  # noqa: N803
        return X.argmax(1)


def mapie(score: str, calibration: tuple[Tensor, Tensor], logits: Tensor) -> Work:
    from mapie.classification import SplitConformalClassifier

    x, y, test = calibration[0].numpy(), calibration[1].numpy(), logits.numpy()
    last: dict[str, Any] = {"include_last_label": "randomized"} if score == "aps" else {}

    def run() -> tuple[float, Any]:
        found = SplitConformalClassifier(
            Softmax(x.shape[1]), confidence_level=1 - ALPHA, conformity_score=score, prefit=True, random_state=0
        )
        _, sets = found.conformalize(x, y).predict_set(test, conformity_score_params=last)
        return float(np.ravel(found._conformity_score.quantiles_)[0]), sets[:, :, 0]

    return run


def compared(name: str, mine: tuple[float, Any], theirs: tuple[float, Any], y: Tensor) -> dict[str, Any]:
    """What the sets have in common. Ends the race where they are not the same, up to rounding."""
    sets, other = mine[1], torch.as_tensor(theirs[1]).bool()
    a, b = evaluate(sets, y), evaluate(other, y)
    differing = int((sets != other).sum())
    notes = {
        "coverage": {"ours": round(a.coverage, 4), "theirs": round(b.coverage, 4)},
        "labels a set": {"ours": round(a.mean_size, 3), "theirs": round(b.mean_size, 3)},
        "thresholds": {"ours": round(mine[0], 6), "theirs": round(theirs[0], 6)},
        "labels in one side's sets alone": f"{differing} of {int(sets.sum())}",
    }
    if abs(mine[0] - theirs[0]) > 1e-4 or differing > 1e-3 * int(sets.sum()) + 1:
        raise SystemExit(f"{name}: the sets differ, so this is no race: {notes}")
    return notes


def race_against(peer: str, how: Settings) -> None:
    import stand_ins  # noqa: F401

    n, classes = (1200, 20) if how.quick else (50_000, 1000)
    logits, labels = data(n, classes)
    half = n // 2
    calibration, test, y = (logits[:half], labels[:half]), logits[half:], labels[half:]
    if peer == "torchcp":
        from torchcp.classification import score as scores

        races = {
            "LAC": (HPS(), torchcp(scores.LAC(), calibration, test)),
            "APS": (APS(u=0.0), torchcp(scores.APS(randomized=False), calibration, test)),
            "RAPS": (RAPS(u=0.0), torchcp(scores.RAPS(randomized=False, penalty=0.01, kreg=5), calibration, test)),
        }
    else:
        races = {
            "LAC": (HPS(), mapie("lac", calibration, test)),
            "APS, randomized": (APS(), mapie("aps", calibration, test)),
        }
    for name, (score, theirs) in races.items():
        last: dict[str, tuple[float, Any]] = {}

        def side(which: str, work: Work, last: dict[str, tuple[float, Any]] = last) -> Callable[[], None]:
            def run() -> None:
                last.pop(which, None)  # not the memory of two results at once
                last[which] = work()

            return run

        rounds = race({"ours": side("ours", ours(score, calibration, test)), "peer": side("peer", theirs)}, how.rounds)
        if score.randomized:
            last["ours"] = ours(score, calibration, test, MapiesNumbers)()
        report(
            Outcome(
                f"conformal {name}, {n:,} x {classes}, against {peer}",
                "conformal",
                f"SplitConformal, {score.name}",
                {"torchcp": "TorchCP SplitPredictor", "mapie": "MAPIE SplitConformalClassifier"}[peer],
                [[one["ours"], one["peer"]] for one in rounds],
                wanted="<= 0.33",
                notes=compared(name, last["ours"], last["peer"], y),
            ),
            how,
        )


def main() -> None:
    how = settings(__doc__, ("--peer", {"choices": PEERS, "help": "only this peer"}))
    for peer in [how.options.peer] if how.options.peer else PEERS:
        if inside(peer):
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            keep_memory()
            race_against(peer, how)
        else:
            race_in(peer, *([] if how.options.peer else ["--peer", peer]))


if __name__ == "__main__":
    main()
