"""The claim of robust-mlops: does a paired non-inferiority gate make fewer wrong ship decisions than a comparison of two means?

A trial draws two of eight small nets, each trained on its own half of the training part, and 1,500 items with replacement from
the test part. The equal pair is made exactly equal on the whole test part by turning as few answers as needed, the worse one
exactly 5 points worse; so the truth of each trial is known. All arms see the same sample. The limit of all is 1 point. A trial
is wrong where an arm blocks (fails) the equal model or does not block the worse one; an inconclusive gate blocks nothing. Since
in practice it ships nothing either, `strict_error_rate` counts it as a block.

The arms `monitor` and `psi-monitor` watch streams of 40 chunks of 500 items (the first units only, as many as `streams` says),
`electricity-...` judge two real models on real drift. Nothing is tuned on test data: levels, limits and hysteresis are the
defaults of the method and its paper's usual guides; PSI's limit of 0.25 is the usual one for action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.claims.audit.robust_mlops.config import Config
from tutelage.claims.audit.robust_mlops.streams import monitored, psi_monitored
from tutelage.claims.audit.robust_mlops.trials import ELECTRICITY, electricity_file, electricity_trial, trial
from tutelage.claims.audit.robust_mlops.world import load_world, parts
from tutelage.claims.claim import Cell, Claim, Sentence
from tutelage.core.files import sha256_file

GATE, MEANS = "paired-noninferiority-gate", "single-shot-mean-threshold"
GATES = (GATE, "bootstrap-gate", MEANS, "always-pass", "always-block", "fixed-psi-threshold")
MONITORS = ("monitor", "psi-monitor")
STREAM = ("electricity-gate", "electricity-gate-of-rows", "electricity-mean-threshold")


def cell(cell: Cell) -> Mapping[str, float]:
    """One trial, stream or case of an arm."""
    config: Config = cell.config
    if cell.arm in STREAM:
        return electricity_trial(cell.arm, cell.unit, config) if cell.unit < config.streams else {}
    found = load_world(cell)
    if cell.arm in MONITORS:
        return (monitored if cell.arm == "monitor" else psi_monitored)(cell.unit, config, found)
    return trial(cell.arm, cell.unit, config, found)


def data(config: Config) -> list[dict[str, Any]]:
    """The sets, as results list them."""
    sets = [one.describe() for one in parts(config)]
    if config.electricity:
        path = electricity_file()
        sets.append({"name": f"electricity ({ELECTRICITY})", "kind": "file", "split": "first, second and third quarter",
                     "n": 45_312, "sha256": sha256_file(path)})  # fmt: skip
    else:
        sets.append({"name": "a stream whose direction turns", "kind": "generated", "split": "by time", "n": 5760,
                     "generator": "tutelage.claims.audit.robust_mlops.trials", "version": 1})  # fmt: skip
    return sets


CLAIM = Claim(
    slug="robust-mlops",
    arms=(*GATES, *MONITORS, *STREAM),
    controls=("always-pass", "always-block", "fixed-psi-threshold"),
    scales={
        "smoke": Config(
            data="digits", electricity=False, n=300, models=3, hidden=16, epochs=6, reference=300, streams=1, chunks=6, onset=2,
            chunk=120, days=20,
        ),
        "claim": Config(),
        "paper": Config(models=20, streams=500),
    },
    units={"smoke": 3, "claim": 500, "paper": 2000},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "An equal model is blocked in at most 5 % of the trials.",
            "equal_blocked", GATE, kind="threshold", better="lower", margin=5.0,
        ),
        Sentence(
            "A planted 5-point drop is blocked in at least 90 % of the trials.",
            "worse_blocked", GATE, kind="threshold", margin=90.0,
        ),
        Sentence(
            "A model that is worse by the whole margin (1 point) is passed less often than by the comparison of means.",
            "limit_passed", GATE, MEANS, better="lower",
        ),
        Sentence(
            "A planted 2-point drop is passed less often than by the comparison of means.",
            "drop2_passed", GATE, MEANS, better="lower",
        ),
        Sentence(
            "Also with inconclusive as a block, the gate makes fewer wrong decisions than the comparison of means.",
            "strict_error_rate", GATE, MEANS, better="lower",
        ),
        Sentence(
            "The score interval makes no more wrong decisions than the paired bootstrap (margin 1 point).",
            "gate_error_rate", GATE, "bootstrap-gate", kind="noninferiority", better="lower", margin=-1.0,
        ),
        Sentence(
            "The monitor gives at most 10 false alarms on 1,000 quiet chunks.",
            "false_alarms_per_1000", "monitor", kind="threshold", better="lower", margin=10.0,
        ),
        Sentence(
            "Growing blur is noticed earlier than by a fixed PSI limit.",
            "blur_delay", "monitor", "psi-monitor", better="lower",
        ),
        Sentence(
            "Label shift is noticed earlier than by a fixed PSI limit.",
            "label-shift_delay", "monitor", "psi-monitor", better="lower",
        ),
        Sentence(
            "A dead row of sensors is noticed earlier than by a fixed PSI limit.",
            "sensor_delay", "monitor", "psi-monitor", better="lower",
        ),
        Sentence(
            "A turned concept is noticed earlier than by a fixed PSI limit.",
            "concept_delay", "monitor", "psi-monitor", better="lower",
        ),
        Sentence(
            "Under blur, the error of ATC is below half of the error of the source accuracy.",
            "half_source_less_atc_error", "monitor", kind="threshold", margin=0.0,
        ),
        Sentence(
            "So it is on the two weakest strengths of blur alone, where accuracy hardly falls.",
            "mild_half_source_less_atc_error",
            "monitor",
            kind="threshold",
            margin=0.0,
        ),
        Sentence(
            "Under a turned concept ATC is wrong by more than 5 points.",
            "concept_atc_error", "monitor", kind="threshold", margin=5.0,
        ),
        Sentence(
            "Under a turned concept the monitor says that ATC must not be trusted in at least 95 % of the streams.",
            "concept_estimate_refused", "monitor", kind="threshold", margin=95.0,
        ),
        Sentence(
            "The rollback goes to the right version, once, in at least 95 % of the incidents.",
            "rollback_right", "monitor", kind="threshold", margin=95.0,
        ),
        Sentence(
            "On 500 quiet chunks there is at most one false rollback.",
            "false_rollbacks_per_500", "monitor", kind="threshold", better="lower", margin=1.0,
        ),
        Sentence(
            "Planted leakage is found, and none where there is none, in at least 99 % of the tables.",
            "leak_found", "monitor", kind="threshold", margin=99.0,
        ),
        Sentence(
            "On electricity, the worse model is passed in at most 5 % of the samples of days.",
            "worse_passed", "electricity-gate", kind="threshold", better="lower", margin=5.0,
        ),
        Sentence(
            "On electricity, the worse model is blocked in at least 80 % of the samples of days.",
            "worse_blocked", "electricity-gate", kind="threshold", margin=80.0,
        ),
        Sentence(
            "On electricity, the better model is passed in at least 80 % of the samples of days.",
            "better_passed", "electricity-gate", kind="threshold", margin=80.0,
        ),
    ),
    axes=("equal_blocked", "worse_blocked"),
    metric_labels={
        "gate_error_rate": "wrong ship decisions, %",
        "strict_error_rate": "wrong decisions, inconclusive as blocked, %",
        "equal_blocked": "equal model blocked, %",
        "equal_passed": "equal model passed, %",
        "worse_blocked": "5-point drop blocked, %",
        "worse_passed": "5-point drop passed, %",
        "limit_passed": "worse by the margin passed, %",
        "drop2_passed": "2-point drop passed, %",
    },
)  # fmt: skip
