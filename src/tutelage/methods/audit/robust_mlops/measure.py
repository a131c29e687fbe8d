"""From audits, files of predictions or models to the evidence that is judged. Both models are measured on the same items."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_text
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import numpy_generator
from tutelage.core.stats.distances import texts
from tutelage.core.stats.means import mean_t
from tutelage.core.stats.proportions import wilson
from tutelage.methods.audit.robust_mlops.columns import Column, Columns, as_columns, is_number, rows, sha256_columns, take
from tutelage.methods.audit.robust_mlops.estimate import calibration_error
from tutelage.methods.audit.robust_mlops.judge import Evidence, Measured
from tutelage.methods.audit.robust_mlops.lineage import hash_of
from tutelage.methods.audit.robust_mlops.policy import Policy, Source

if TYPE_CHECKING:
    from tutelage.auditing.result import AuditResult

ECE_RESAMPLES = 500
LATENCY_CALLS = 30
SMALLEST_SLICE = 5


def evidence_from(source: Source, policy: Policy, role: str, *, progress: Progress = QUIET) -> Evidence:
    """The evidence of one source of the policy. Raises InputError, MissingError for what cannot be read."""
    ways = [way for way in ("audit", "predictions", "model") if getattr(source, way)]
    if len(ways) != 1:
        raise InputError(f"policy.{role}", ways or "nothing", "one of audit, predictions, model")
    if ways[0] == "audit":
        from tutelage.auditing.result import AuditResult

        found = evidence_of_audit(AuditResult.load(source.audit, examples=False), policy, name=source.name)
    elif ways[0] == "predictions":
        found = evidence_of_predictions(source, policy, role)
    else:
        found = _of_model(source, policy, role, progress)
    return _with_metrics(found, source.metrics) if source.metrics else found


def evidence_of_audit(result: AuditResult, policy: Policy, *, name: str = "") -> Evidence:
    """Of an audit: "clean", each threat's worst case, each corruption and their mean, "shift:NAME", classes and slices."""
    metrics: dict[str, Measured] = {}
    sets: dict[str, str] = {}
    attacks = {str(one): about for one, about in zip(result.threats, result.settings.get("threats", ()), strict=False)}
    shifts = {str(one["shift"]): str(one["sha256"]) for one in result.settings.get("shifts", ())}
    data = str(result.data["sha256"])
    corrupted: list[str] = []
    for under, right in result.predictions.items():
        doubt = "; ".join(flag.message for flag in result.doubts(under)) if under in ("clean", *result.threats) else ""
        key = f"shift:{under}" if under in shifts else under
        metrics[key] = Measured.share(right, doubt)
        if under in shifts:
            sets[key] = shifts[under]
        elif under in attacks:  # an attack with other settings is another measurement
            sets[key] = sha256_text(f"{data} {json.dumps(attacks[under], sort_keys=True, default=str)}")
        elif under != "clean":
            corrupted.append(under)
    constants = {
        key: value for key, value in (result.settings.get("corruptions") or {}).items() if key in ("constants", "frost")
    }
    for key in corrupted:
        sets[key] = sha256_text(f"{data} {key} {json.dumps(constants, sort_keys=True, default=str)} {result.settings['seed']}")
    if corrupted:
        each = np.mean([result.predictions[one] for one in corrupted], 0)
        metrics["corruptions"] = _mean(each, policy.alpha)
        sets["corruptions"] = sha256_text(" ".join(sets[one] for one in sorted(corrupted)))
    for row in result.rows:
        if row.category in ("class", "slice"):
            key = f"shift:{row.under}" if row.under in shifts else row.under or "clean"
            metrics.setdefault(f"{key}/{row.name}", _counted(row.value, row.n, policy.alpha))
    table = _slice_table(policy, len(result.predictions["clean"]))
    _add_slices(metrics, table, policy)
    clusters = _clusters(table, policy)
    facts = {"source": "audit", **{key: result.model.get(key) for key in ("parameters",)}, "data": result.data}
    if result.status != "reliable":
        facts["unreliable"] = list(result.warnings)
    return Evidence(name or str(result.model["name"]), str(result.model["sha256"]), data, metrics, facts, sets, clusters)


def evidence_of_predictions(source: Source, policy: Policy, role: str) -> Evidence:
    """Of a .csv or .parquet with the columns prediction, label (or a test table that has it), and perhaps confidence and an id.

    Rows are joined by `data.id`, with `data.test` if there is one; without an id they are taken in their order. A row without
    an answer counts as wrong; a row without a label is refused, and so are answers none of which is a label.
    """
    columns = as_columns(source.predictions, role)
    watch, identity = policy.monitor, policy.data.id
    if identity in columns and not (policy.data.test or policy.data.slices):  # two files in two orders are the same items
        columns = take(columns, np.argsort(texts(columns[identity]), kind="stable"))
        _places(columns[identity], identity, role)
    label = policy.data.label or watch.label
    if watch.prediction not in columns:
        raise InputError(role, f"columns {', '.join(columns)}", f"a column {watch.prediction}")
    test: Columns = columns
    if policy.data.test:
        test = as_columns(policy.data.test, "test")
        columns = _joined(columns, test, identity, role)
    if label not in test:
        raise InputError(role, f"columns {', '.join(test)}", f"a column {label} in the predictions or in data.test")
    answers, truth = columns[watch.prediction], texts(test[label])
    if missing := int((truth == "").sum()):
        raise InputError(role, f"{missing} rows without a {label}", "a label in each row")
    as_numbers = is_number(answers) and is_number(test[label])  # 1 and 1.0 are one answer
    said, meant = (answers.astype(np.float64), test[label].astype(np.float64)) if as_numbers else (texts(answers), truth)
    if not np.isin(said, meant).any():  # another spelling; beside such a champion any model would look good
        raise InputError(
            role, f"answers such as {said.tolist()[0]!r}", f"the spelling of the labels, such as {meant.tolist()[0]!r}"
        )
    right = said == meant
    metrics = {"clean": Measured.share(right)}
    if watch.confidence in columns:
        metrics["ece"] = ece_of(_confidences(columns[watch.confidence], watch.confidence, role), right, policy)
    table = {**test, **(as_columns(policy.data.slices, "slices") if policy.data.slices else {})}
    if policy.data.slices:
        _add_slices(metrics, _slice_table(policy, len(right)), policy)
    items = sha256_columns(test if policy.data.test else {label: truth, **({identity: test[identity]} if identity else {})})
    about = {"name": Path(policy.data.test or source.predictions).name, "n": len(right), "sha256": items}
    facts = {"source": "predictions", "file": Path(source.predictions).name, "data": about}
    digest = hash_of(source.weights or source.predictions)
    name = source.name or Path(source.predictions).stem
    return Evidence(name, digest, items, metrics, facts, clusters=_clusters(table, policy))


def _confidences(values: Column, name: str, role: str) -> npt.NDArray[np.float64]:
    if values.dtype.kind not in "iufb":
        raise InputError(f"{role}, column {name}", f"{values[0]!r}", "numbers in [0, 1]")
    found = values.astype(np.float64)
    low, high = (float(np.nanmin(found)), float(np.nanmax(found))) if not np.isnan(found).all() else (0.0, 0.0)
    if low < 0 or high > 1:
        raise InputError(f"{role}, column {name}", f"values from {low:.4g} to {high:.4g}", "numbers in [0, 1]")
    return found


def evidence_of_answers(
    name: str,
    right: npt.ArrayLike,
    *,
    sha256: str = "",
    data: str = "",
    confidence: npt.ArrayLike | None = None,
    policy: Policy | None = None,
    **more: npt.ArrayLike,
) -> Evidence:
    """Of masks (n,) of what was right, as Python has them: `right` is "clean", `more` other metrics of the same name."""
    metrics = {"clean": Measured.share(right), **{key: Measured.share(mask) for key, mask in more.items()}}
    if confidence is not None:
        metrics["ece"] = ece_of(np.asarray(confidence, np.float64), np.asarray(right, np.bool_), policy or Policy())
    return Evidence(name, sha256, data, metrics)


def ece_of(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], policy: Policy) -> Measured:
    """Calibration error with percentile limits of a bootstrap over items, less the upward bias that resampling adds."""
    if not np.isfinite(confidence).all():
        return Measured(math.nan, len(right))
    value = calibration_error(confidence, right)
    rng = numpy_generator(policy.seed, "ece")
    found = np.empty(ECE_RESAMPLES)
    for i in range(ECE_RESAMPLES):
        drawn = rng.integers(0, len(right), len(right))
        found[i] = calibration_error(confidence[drawn], right[drawn])
    low, high = np.quantile(2 * value - found, (policy.alpha, 1 - policy.alpha))  # basic bootstrap: it turns the bias round
    return Measured(value, len(right), (max(0.0, min(value, float(low))), max(value, float(high))))


def _of_model(source: Source, policy: Policy, role: str, progress: Progress) -> Evidence:
    from tutelage.auditing.audit import audit
    from tutelage.auditing.measure import predict
    from tutelage.data.readers import read_images
    from tutelage.models.checks import same_classes
    from tutelage.models.loading import load_model

    if not policy.data.test:
        raise InputError("policy.data.test", "nothing", "labelled images to measure a model on")
    model = load_model(source.model, source.weights or None)
    images = read_images(Path(policy.data.test))
    with same_classes(model):
        result = audit(
            model, images, threats=list(policy.data.threats), corruptions=policy.data.corruptions or None,
            shifts={name: Path(path) for name, path in policy.data.shifts.items()}, n=policy.data.n or None, seed=policy.seed,
            curve=False, force=True, name=source.name or source.model, progress=progress,
        )  # fmt: skip
    found = evidence_of_audit(result, policy)
    metrics = dict(found.metrics)
    if not policy.data.n:
        logits = predict(model, images)
        confidence, right = logits.softmax(1).max(1).values.double().numpy(), (logits.argmax(1) == images.labels).numpy()
        metrics["ece"] = ece_of(confidence, right, policy)
    if source.latency:
        x = images[:1][0]
        taken = []
        for _ in range(LATENCY_CALLS + 5):
            start = time.perf_counter()
            model(x)
            taken.append(1000 * (time.perf_counter() - start))
        mean, interval = mean_t(taken[5:], 1 - 2 * policy.alpha)
        metrics["latency_ms"] = Measured(mean, LATENCY_CALLS, (interval.lo, interval.hi))
    facts = {
        **found.facts,
        "source": "model",
        "model": source.model,
        "weights": Path(source.weights).name if source.weights else "",
    }
    return Evidence(found.name, found.sha256, found.data, metrics, facts, found.sets, found.clusters)


def _with_metrics(found: Evidence, file: str) -> Evidence:
    path = Path(file)
    if not path.is_file():
        raise MissingError(f"metrics: there is no file {path}")
    wanted = 'name -> {"right": "0110"}, {"value", "ci95", "n"} or {"values": [...]}'
    metrics = dict(found.metrics)
    try:
        for name, about in json.loads(path.read_text(encoding="utf-8")).items():
            name.encode()  # a half of a pair of surrogates cannot be written
            if "right" in about:
                if set(about["right"]) - {"0", "1"} or not about["right"]:
                    raise ValueError(f"{name}.right is not made of 0 and 1")
                metrics[name] = Measured.share([digit == "1" for digit in about["right"]])
            elif "values" in about:
                values = np.asarray(about["values"], np.float64)
                if values.ndim != 1 or not values.size:
                    raise ValueError(f"{name}.values is no list of numbers")
                metrics[name] = Measured(float(values.mean()), len(values), None, None, tuple(values.tolist()))
            else:
                value, ends = float(about["value"]), about.get("ci95")
                low, high = map(float, ends) if ends is not None else (value, value)
                if math.isfinite(value) and not low <= value <= high:
                    raise ValueError(f"{name}: {value:g} is outside of its own interval [{low:g}, {high:g}]")
                n = int(about.get("n", 0)) if ends is not None else 0
                if n < 0:
                    raise ValueError(f"{name}.n is {n}")
                metrics[name] = Measured(value, n, (low, high) if ends is not None else None)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError("metrics", f"{path.name} ({error})", wanted) from error
    return Evidence(found.name, found.sha256, found.data, metrics, found.facts, found.sets, found.clusters)


def _mean(values: npt.NDArray[np.float64], alpha: float) -> Measured:
    interval = None
    if len(values) > 1:
        interval = (lambda one: (one.lo, one.hi))(mean_t(values, 1 - 2 * alpha)[1])
    return Measured(float(values.mean()), len(values), interval, None, tuple(values.tolist()))


def _counted(value: float, n: int, alpha: float) -> Measured:
    interval = wilson(round(value * n), n, 1 - 2 * alpha)
    return Measured(value, n, (interval.lo, interval.hi))


def _slice_table(policy: Policy, n: int) -> Columns:
    if not policy.data.slices:
        return {}
    table = as_columns(policy.data.slices, "slices")
    if rows(table) != n:
        raise InputError("slices", f"{rows(table)} rows", f"{n}, one an item")
    return table


def _add_slices(metrics: dict[str, Measured], table: Columns, policy: Policy) -> None:
    """ "clean/column=value" for each value, paired item by item, and the worst of them with limits for all of them jointly."""
    whole = {key: one for key, one in metrics.items() if one.right is not None and len(one.right) == rows(table)}
    for key, one in whole.items():
        right, parts = np.array(one.right), []
        for name, values in table.items():
            words = texts(values)
            different = np.unique(words)
            if name == policy.data.cluster or len(different) > 50:
                continue
            for word in different.tolist():
                mask = words == word
                if mask.sum() >= SMALLEST_SLICE:
                    metrics[f"{key}/{name}={word}"] = part = Measured.share(right[mask], one.doubt)
                    parts.append(part)
        if parts:
            worst = min(parts, key=lambda part: part.value)
            hits = [int(sum(part.right or ())) for part in parts]
            # the true worst is below x only if some slice is: Bonferroni for the lower end, the worst one's own for the upper
            lower = min(wilson(k, part.n, 1 - 2 * policy.alpha / len(parts)).lo for k, part in zip(hits, parts, strict=True))
            upper = min(wilson(k, part.n, 1 - 2 * policy.alpha / len(parts)).hi for k, part in zip(hits, parts, strict=True))
            metrics[f"{key}/worst slice"] = Measured(worst.value, worst.n, (lower, upper), doubt=one.doubt)


def _clusters(table: Columns, policy: Policy) -> tuple[str, ...]:
    name = policy.data.cluster
    if not name:
        return ()
    if name not in table:
        raise InputError("policy.data.cluster", name, f"a column of the test table or of slices: {', '.join(table) or 'none'}")
    return tuple(texts(table[name]).tolist())


def _places(identities: Column, name: str, role: str) -> dict[str, int]:
    """Where each id stands. Raises InputError if one stands twice: which of its answers counts?"""
    found = texts(identities).tolist()
    places = {one: i for i, one in enumerate(found)}
    if len(places) < len(found):
        twice = next(one for i, one in enumerate(found) if places[one] != i)
        raise InputError(role, f"{name} {twice!r} twice", "each id once")
    return places


def _joined(columns: Columns, test: Columns, identity: str, role: str) -> dict[str, Any]:
    if not identity or identity not in columns:
        if rows(columns) != rows(test):
            raise InputError(
                role, f"{rows(columns)} predictions", f"{rows(test)}, one a row of data.test (or data.id to join by)"
            )
        return dict(columns)
    if identity not in test:
        raise InputError("policy.data.id", identity, f"a column of data.test: {', '.join(test)}")
    places = _places(columns[identity], identity, role)
    wanted = texts(test[identity]).tolist()
    if missing := [one for one in wanted if one not in places]:
        raise InputError(
            role, f"no prediction for {identity} {missing[0]} ({len(missing)} missing)", "one for each row of data.test"
        )
    order = [places[one] for one in wanted]
    return {name: values[order] for name, values in columns.items()}
