"""Streams of chunks with known truth: no drift, growing blur, label shift, a dead sensor, a turned concept; and incidents.

Each unit divides the test items anew: some are the labelled reference of its monitor, the streams draw from the others. So the
quiet stream has no drift; a reference of the training part would have some, as other people wrote those digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.claims.audit.robust_mlops.config import Config
from tutelage.claims.audit.robust_mlops.world import SENSORS, VERSIONS, World
from tutelage.core.rng import numpy_generator
from tutelage.core.stats.distances import bins_of, psi
from tutelage.methods.audit.robust_mlops.estimate import estimate_accuracy
from tutelage.methods.audit.robust_mlops.monitor import Decision, Monitor, column_predictor
from tutelage.methods.audit.robust_mlops.policy import Policy, read_policy
from tutelage.methods.audit.robust_mlops.profile import find_leakage

Chunk = dict[str, npt.NDArray[Any]]
STREAMS = ("quiet", "blur", "label-shift", "sensor", "concept")


def policy(config: Config) -> Policy:
    watch = {"alpha": config.monitor_alpha, "chunk": config.chunk, "columns": SENSORS}
    return read_policy({"monitor": watch, "rollback": {"k": 2, "m": 3}})


def monitored(unit: int, config: Config, world: World) -> dict[str, float]:
    """The monitor on every kind of stream, and on one incident. Rates in per cent, accuracies in points."""
    found = {"leak_found": _leak(unit, config, world)}
    if unit >= config.streams:
        return found
    reference, others = divided(unit, config, world)
    for kind in STREAMS:
        watch = _monitor(config, reference)
        chunks = stream(kind, unit, config, world, others)
        decisions = [watch.observe(chunk) for chunk in chunks]
        found |= _read(kind, decisions, config)
        if kind == "blur":
            found |= _other_estimates(reference, chunks, config)
    return found | incident(unit, config, world, reference, others)


def divided(unit: int, config: Config, world: World) -> tuple[Chunk, npt.NDArray[np.int64]]:
    """(rows of the reference, the other items)."""
    order = numpy_generator(unit, "robust-mlops reference").permutation(len(world.labels))
    return rows(world, order[: config.reference], "clean"), order[config.reference :]


def psi_monitored(unit: int, config: Config, world: World) -> dict[str, float]:
    """The baseline: an alarm where the PSI of any column is above its limit. No labels, no decision, no target."""
    if unit >= config.streams:
        return {}
    reference, others = divided(unit, config, world)
    own = {name: bins_of(values) for name, values in reference.items() if name not in ("label", *VERSIONS)}
    shares = {name: bins.shares(reference[name]) for name, bins in own.items()}

    def alarm(chunk: Chunk) -> bool:
        return any(psi(shares[name], bins.shares(chunk[name])) > config.psi_limit for name, bins in own.items())

    found: dict[str, float] = {}
    for kind in STREAMS:
        alarms = [alarm(chunk) for chunk in stream(kind, unit, config, world, others)]
        found |= _rates(kind, alarms, config)
    return found


def stream(kind: str, unit: int, config: Config, world: World, items: npt.NDArray[np.int64]) -> list[Chunk]:
    """Chunks drawn from `items`, with replacement; the change begins at chunk `onset`."""
    rng = numpy_generator(unit, "robust-mlops stream", kind)
    weights = np.where(world.labels[items] < 3, 4.0, 1.0)
    chunks = []
    for number in range(config.chunks):
        changed = number >= config.onset and kind != "quiet"
        shares = weights / weights.sum() if changed and kind == "label-shift" else None
        drawn = rng.choice(items, config.chunk, p=shares)
        condition = "clean"
        if changed and kind == "blur":
            left = config.chunks - config.onset
            condition = f"blur{1 + 5 * (number - config.onset) // left}"
        elif changed and kind == "sensor":
            condition = "sensor"
        chunk = rows(world, drawn, condition)
        if changed and kind == "concept":  # from now on 4 is called 9, 9 is called 4, and 3 and 5 likewise
            chunk["label"] = np.array([0, 1, 2, 5, 9, 3, 6, 7, 8, 4])[chunk["label"]]
        chunks.append(chunk)
    return chunks


def rows(world: World, drawn: npt.NDArray[np.int64], condition: str) -> Chunk:
    """What a log of these items holds: sensors, the label, and what each version answers."""
    found: Chunk = {name: world.sensors[condition][drawn, i] for i, name in enumerate(SENSORS)}
    found["label"] = world.labels[drawn]
    for version in VERSIONS:
        found[version] = world.answers[f"{condition}/{version}"][drawn]
    found["confidence"] = world.certainty[f"{condition}/v3"][drawn]
    return found


def incident(unit: int, config: Config, world: World, reference: Chunk, items: npt.NDArray[np.int64]) -> dict[str, float]:
    """Half of the image dies at a random chunk; only the version that never looked at that half is right to go back to."""
    rng = numpy_generator(unit, "robust-mlops incident")
    half, start = ("upper", "lower")[int(rng.integers(2))], int(rng.integers(2, 6))
    right = "v2" if half == "upper" else "v1"
    watch = _monitor(config, reference)
    for number in range(start + 8):
        watch.observe(rows(world, rng.choice(items, config.chunk), half if number >= start else "clean"))
    targets = [(one.chunk, one.target) for one in watch.decisions if one.target]
    first = targets[0] if targets else (start + 8, "")
    return {
        "rollback_right": 100.0 * (len(targets) == 1 and first[1] == right and first[0] >= start),
        "rollback_delay": float(first[0] - start + 1),
    }


def _monitor(config: Config, reference: Chunk) -> Monitor:
    versions = {version: column_predictor(version, "confidence" if version == "v3" else "") for version in VERSIONS}
    return Monitor(policy(config), reference, versions)


def _other_estimates(reference: Chunk, chunks: list[Chunk], config: Config) -> dict[str, float]:
    """Mean absolute errors of the estimates beside ATC after the onset, in points."""
    right = reference["v3"] == reference["label"]
    found: dict[str, float] = {}
    for method in ("doc", "cbpe"):
        gaps = []
        for chunk in chunks[config.onset :]:
            estimate = estimate_accuracy(reference["confidence"], right, chunk["confidence"], method)
            gaps.append(abs(estimate.accuracy - float((chunk["v3"] == chunk["label"]).mean())))
        found[f"blur_{method}_error"] = 100.0 * float(np.mean(gaps))
    return found


def _read(kind: str, decisions: list[Decision], config: Config) -> dict[str, float]:
    """What a stream showed. An alarm: whatever is not quiet (drift that costs nothing is also said, as "watch")."""
    found = _rates(kind, [one.action != "quiet" for one in decisions], config)
    if kind == "quiet":
        found["false_rollbacks_per_500"] = 500.0 * sum(bool(one.target) for one in decisions) / len(decisions)
        found["false_decisions_per_1000"] = 1000.0 * sum(one.decided for one in decisions) / len(decisions)
    later = decisions[config.onset :]
    gaps: dict[str, list[float]] = {"atc": [], "source": []}
    for one in later:
        if one.estimate is not None and one.accuracy is not None:
            gaps["atc"].append(abs(one.estimate.accuracy - one.accuracy))
            gaps["source"].append(abs(one.estimate.reference - one.accuracy))
    if kind != "quiet":
        for name, values in gaps.items():
            found[f"{kind}_{name}_error"] = 100.0 * float(np.mean(values))
    if kind == "blur":
        found["half_source_less_atc_error"] = found["blur_source_error"] / 2 - found["blur_atc_error"]
        mild = max(1, 2 * len(later) // 5)  # the two weakest strengths
        found |= {f"mild_blur_{name}_error": 100.0 * float(np.mean(values[:mild])) for name, values in gaps.items()}
        found["mild_half_source_less_atc_error"] = found["mild_blur_source_error"] / 2 - found["mild_blur_atc_error"]
    if kind == "concept":
        told = [one for one in later if any("must not be trusted" in reason for reason in one.reasons)]
        found["concept_called_concept"] = 100.0 * any(one.action == "concept" and one.decided for one in later)
        found["concept_estimate_refused"] = 100.0 * bool(told)
    return found


def _rates(kind: str, alarms: list[bool], config: Config) -> dict[str, float]:
    if kind == "quiet":
        rate = 1000.0 * sum(alarms) / len(alarms)
        return {"false_alarms_per_1000": rate, "average_run_length": len(alarms) / max(1, sum(alarms))}
    later = alarms[config.onset :]
    return {f"{kind}_delay": float(later.index(True) + 1) if any(later) else float(len(later) + 1)}


def _leak(unit: int, config: Config, world: World) -> float:
    """Per cent: three test rows that are in the training table are found, and none where none was planted."""
    rng = numpy_generator(unit, "robust-mlops leak")
    order = rng.permutation(len(world.labels))
    size = min(config.chunk, len(order) // 3)
    train, test = (rows(world, places, "clean") for places in (order[:size], order[size : 2 * size]))
    planted = {name: np.concatenate([values[:-3], train[name][:3]]) for name, values in test.items()}
    errors = [[one.rule for one in find_leakage(train, table) if one.level == "error"] for table in (test, planted)]
    return 100.0 * (errors == [[], ["leakage"]])
