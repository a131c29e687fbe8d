"""Ship decisions: one equal pair and one pair with a planted drop, on the same fresh sample; and the case of electricity."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tutelage.claims.audit.robust_mlops.config import Config
from tutelage.claims.audit.robust_mlops.world import World
from tutelage.core.errors import MissingError
from tutelage.core.rng import numpy_generator
from tutelage.core.stats.distances import bins_of, psi
from tutelage.core.stats.noninferiority import Status, noninferiority
from tutelage.methods.audit.robust_mlops.columns import as_columns, numbers

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
ELECTRICITY = "drift-streams/elec.parquet"
DAY = 48  # half hours


def trial(arm: str, unit: int, config: Config, world: World) -> dict[str, float]:
    """Per cent. Blocked: the status is fail. A trial is wrong where it blocks the equal model or does not block the worse one.

    strict_error_rate takes inconclusive for blocked: wrong where the equal model does not pass, or the worse one does.
    """
    rng = numpy_generator(unit, "robust-mlops trial")
    first, second = rng.permutation(len(world.right))[:2]
    champion, sure = world.right[first], world.confidence[first]
    equal, equal_sure = _planted(world.right[second], world.confidence[second], int(champion.sum()), rng)
    worse, worse_sure = _planted(equal, equal_sure, int(champion.sum()) - round(config.drop * len(champion)), rng)
    drawn = rng.integers(0, len(champion), config.n)
    draws = numpy_generator(unit, "robust-mlops bootstrap")
    pairs = {"equal": (equal, equal_sure), "worse": (worse, worse_sure)}
    if arm not in ("always-pass", "always-block"):  # whose answer is known
        for name, drop in (("limit", config.delta), ("drop2", 0.02), ("drop10", 0.1)):
            pairs[name] = _planted(equal, equal_sure, int(champion.sum()) - round(drop * len(champion)), rng)
    found: dict[str, Status] = {}
    for name, (candidate, own) in pairs.items():
        found[name] = decide(arm, candidate[drawn], champion[drawn], own[drawn], sure[drawn], config, draws)
    blocked = {name: status == "fail" for name, status in found.items()}
    passed = {name: status == "pass" for name, status in found.items()}
    return {
        "gate_error_rate": 50.0 * (blocked["equal"] + (not blocked["worse"])),
        "strict_error_rate": 50.0 * ((not passed["equal"]) + passed["worse"]),
        "equal_blocked": 100.0 * blocked["equal"],
        "equal_passed": 100.0 * passed["equal"],
        "worse_blocked": 100.0 * blocked["worse"],
        "worse_passed": 100.0 * passed["worse"],
        **{f"{name}_passed": 100.0 * passed[name] for name in passed if name in ("limit", "drop2")},
        **{f"{name}_blocked": 100.0 * blocked[name] for name in blocked if name in ("drop2", "drop10")},
    }


def decide(
    arm: str, new: Bools, old: Bools, new_sure: Floats, old_sure: Floats, config: Config, rng: np.random.Generator
) -> Status:
    """What an arm says of one candidate."""
    if arm == "always-pass":
        return "pass"
    if arm == "always-block":
        return "fail"
    if arm == "single-shot-mean-threshold":
        return "pass" if new.mean() - old.mean() >= -config.delta else "fail"
    if arm == "fixed-psi-threshold":
        bins = bins_of(old_sure)
        return "pass" if psi(bins.shares(old_sure), bins.shares(new_sure)) <= config.psi_limit else "fail"
    if arm == "bootstrap-gate":
        return noninferiority(new, old, delta=config.delta, alpha=config.alpha, method="bootstrap", rng=rng).status
    return noninferiority(new, old, delta=config.delta, alpha=config.alpha).status


def _planted(right: Bools, sure: Floats, wanted: int, rng: np.random.Generator) -> tuple[Bools, Floats]:
    """The same answers, but for as few items as make exactly `wanted` right. An item that is turned gets the confidence of one
    that the model really has right (or wrong), so that what a monitor sees is what such a model would show."""
    turned, confidence = right.copy(), sure.copy()
    missing = wanted - int(right.sum())
    items = rng.permutation(np.flatnonzero(~right if missing > 0 else right))[: abs(missing)]
    donors = np.flatnonzero(right if missing > 0 else ~right)
    turned[items] = missing > 0
    confidence[items] = sure[rng.choice(donors, len(items))]
    return turned, confidence


# ------------------------------------------------------------------------------------------------------------ electricity


def electricity_trial(arm: str, unit: int, config: Config) -> dict[str, float]:
    """Two real candidates on days of the third quarter: a retrained model for an old champion, and the old one for the new.

    Per cent over the two; truth: their difference on the whole third quarter.
    """
    old, new = _answers(config.electricity)
    days = len(old) // DAY
    drawn = numpy_generator(unit, "robust-mlops electricity").integers(0, days, config.days)
    rows = (drawn[:, None] * DAY + np.arange(DAY)).ravel()
    clusters = np.repeat(np.arange(config.days), DAY)
    found: list[Status] = []
    for number, (candidate, champion) in enumerate(((new, old), (old, new))):
        a, b = candidate[rows], champion[rows]
        if arm == "electricity-mean-threshold":
            found.append("pass" if a.mean() - b.mean() >= -config.delta else "fail")
        elif arm == "electricity-gate-of-rows":
            found.append(noninferiority(a, b, delta=config.delta, alpha=config.alpha).status)
        else:
            rng = numpy_generator(unit, "robust-mlops days", number)
            found.append(
                noninferiority(
                    a, b, delta=config.delta, alpha=config.alpha, clusters=clusters, rng=rng, n_resamples=1000
                ).status
            )
    whole = days * DAY
    return {
        "better_passed": 100.0 * (found[0] == "pass"),
        "worse_blocked": 100.0 * (found[1] == "fail"),
        "worse_passed": 100.0 * (found[1] == "pass"),
        "wrong_decisions": 50.0 * ((found[0] == "fail") + (found[1] == "pass")),
        "undecided": 50.0 * sum(status == "inconclusive" for status in found),
        "true_difference": 100.0 * float(new[:whole].mean() - old[:whole].mean()),
    }


def electricity_file() -> Path:
    """The electricity stream, or a MissingError that says where it goes."""
    root = os.environ.get("TUTELAGE_DATA")
    path = Path(root).expanduser() / ELECTRICITY if root else None
    if path is None or not path.is_file():
        raise MissingError(
            f"data: the electricity stream is not here: put it as $TUTELAGE_DATA/{ELECTRICITY} (columns x0 to x5 and label, in "
            "the order of time; Harries 1999, New South Wales)"
        )
    return path


@cache
def _answers(real: bool) -> tuple[Bools, Bools]:
    """What logistic regressions trained on the first and on the second quarter get right in the third."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _rows(real)
    quarter = len(y) // 4
    answers = []
    for start in (0, quarter):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        model.fit(x[start : start + quarter], y[start : start + quarter])
        answers.append(np.asarray(model.predict(x[2 * quarter : 3 * quarter]) == y[2 * quarter : 3 * quarter]))
    return answers[0], answers[1]


def _rows(real: bool) -> tuple[Floats, npt.NDArray[np.int64]]:
    if real:
        columns = as_columns(electricity_file())
        return numbers(columns, [f"x{i}" for i in range(6)]), columns["label"].astype(np.int64)
    rng = numpy_generator(0, "robust-mlops generated stream")  # the direction that decides turns slowly
    x = rng.normal(size=(4 * DAY * 30, 2))
    angle = np.linspace(0, 1.2, len(x))
    return x, (np.cos(angle) * x[:, 0] + np.sin(angle) * x[:, 1] + 0.3 * rng.normal(size=len(x)) > 0).astype(np.int64)
