"""robust-mlops: the card's invariants, and each of its ten features (F1 to F10)."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.files import canonical_json, sha256_text
from tutelage.methods.audit.robust_mlops import (
    Bundle,
    Evidence,
    Hysteresis,
    InputGuard,
    Lineage,
    Measured,
    MlflowRegistry,
    Monitor,
    Profile,
    Registry,
    as_columns,
    check_model_file,
    chunks,
    column_predictor,
    drift,
    estimate_accuracy,
    evidence_of_answers,
    find_leakage,
    find_leaking_columns,
    gate,
    hash_of,
    judge,
    model_card,
    read_policy,
    replay,
    sha256_columns,
    validate,
    write_reports,
)
from tutelage.methods.audit.robust_mlops.monitor_page import write_monitor_page
from tutelage.methods.audit.robust_mlops.policy import Rollback
from tutelage.models.loading import save_weights

NONINFERIOR = {"metric": "clean", "rule": "noninferior"}


def pair(
    n: int, accuracy: float, gained: float, lost: float, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(champion, candidate): right with `accuracy`; then shares of all items that only one of them gets right."""
    rng = np.random.default_rng(seed)
    champion = rng.random(n) < accuracy
    u = rng.random(n)
    candidate = np.where(champion, u >= lost / accuracy, u < gained / (1 - accuracy))
    return champion, candidate


def counted(n: int, gained: int, lost: int) -> tuple[Evidence, Evidence]:
    """(candidate, champion) with exactly so many items that only one of them gets right; the others right 9 times in 10."""
    champion = np.arange(n) % 10 > 0
    candidate = champion.copy()
    candidate[np.flatnonzero(~champion)[:gained]] = True
    candidate[np.flatnonzero(champion)[:lost]] = False
    return evidence_of_answers("new", candidate), evidence_of_answers("old", champion)


def policy(*gates: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"gates": list(gates), **more}


# ------------------------------------------------------------------------------------------------------------ F4: the gate


def test_the_same_model_passes_whatever_the_order():
    right = np.random.default_rng(0).random(300) < 0.9
    one, other = (evidence_of_answers(name, right, sha256="same") for name in "AB")
    for delta in (1e-6, 0.01, 1.0):
        for first, second in ((one, other), (other, one)):
            found = judge(read_policy(policy({**NONINFERIOR, "delta": delta})), first, second)
            assert (found.status, found.outcomes[0].difference) == ("pass", 0.0)
    # another model with the same answers: 300 items say no more than "not worse by z²/(n + z²)"
    stranger = evidence_of_answers("C", right, sha256="other")
    assert judge(read_policy(policy({**NONINFERIOR, "delta": 0.001})), stranger, one).status == "inconclusive"
    by_bootstrap = judge(read_policy(policy({**NONINFERIOR, "delta": 0.001, "method": "bootstrap"})), stranger, one)
    assert by_bootstrap.status == "pass"


def test_pass_fail_and_inconclusive_and_their_exit_codes():
    rules = read_policy(policy(NONINFERIOR))  # alpha 0.05, delta 0.01
    for counts, status, code in (
        ((20_000, 400, 400), "pass", 0),
        ((5_000, 50, 300), "fail", 1),
        ((300, 6, 6), "inconclusive", 2),
    ):
        found = judge(rules, *counted(*counts))
        assert (found.status, found.exit_code) == (status, code)
    assert found.outcomes[0].needed > 300  # and it says how many items an equal model would need


def test_power_grows_with_n_and_with_the_drop_and_an_infinite_margin_passes():
    rules = read_policy(policy(NONINFERIOR))

    def failed(n: int, drop: float) -> int:
        found = 0
        for seed in range(40):
            champion, candidate = pair(n, 0.9, 0.01, 0.01 + drop, seed)
            found += judge(rules, evidence_of_answers("n", candidate), evidence_of_answers("o", champion)).status == "fail"
        return found

    grid = [[failed(n, drop) for drop in (0.0, 0.02, 0.05)] for n in (200, 1500)]
    assert grid[1][0] <= 2  # an equal model
    assert grid[1][2] >= 36
    assert grid[0][1] <= grid[1][1] <= grid[1][2]
    assert grid[0][2] < grid[1][2]
    champion, candidate = pair(100, 0.9, 0.0, 0.8)
    wide = read_policy(policy({**NONINFERIOR, "delta": 1.0}))
    assert judge(wide, evidence_of_answers("n", candidate), evidence_of_answers("o", champion)).status == "pass"


def test_what_cannot_be_judged_fails():
    champion, candidate = pair(500, 0.9, 0.02, 0.02)
    new, old = evidence_of_answers("new", candidate, data="a"), evidence_of_answers("old", champion, data="a")
    assert judge(read_policy({}), new, old).status == "fail"  # zero checks
    assert judge(read_policy(policy({**NONINFERIOR, "metric": "no such"})), new, old).status == "fail"
    assert judge(read_policy(policy(NONINFERIOR)), new, None).status == "fail"
    nan = Evidence("new", "", "a", {"clean": Measured(math.nan, 500, (0.0, 1.0))})
    for rule in ({"rule": "min", "value": 0.1}, {"rule": "noninferior"}):
        assert judge(read_policy(policy({"metric": "clean", **rule})), nan, old).status == "fail"
    bare = Evidence("new", "", "a", {"clean": Measured(0.99, 0)})
    assert "uncertainty" in judge(read_policy(policy({"metric": "clean", "rule": "min", "value": 0.5})), bare).reasons[0]
    elsewhere = evidence_of_answers("old", champion, data="b")
    assert "different items" in judge(read_policy(policy(NONINFERIOR)), new, elsewhere).reasons[0]
    doubted = Evidence("new", "", "a", {"clean": Measured.share(candidate, "gradients vanish")})
    assert "gradients vanish" in judge(read_policy(policy(NONINFERIOR)), doubted, old).reasons[0]


def test_absolute_and_relative_rules_use_limits_and_not_the_number_alone():
    one = evidence_of_answers("new", [True] * 93 + [False] * 7)
    for value, status in ((0.8, "pass"), (0.92, "inconclusive"), (0.99, "fail")):
        assert judge(read_policy(policy({"metric": "clean", "rule": "min", "value": value})), one).status == status
    slow = Evidence("n", "", "", {"latency_ms": Measured(12.0, 30, (11.0, 13.0))})
    fast = Evidence("o", "", "", {"latency_ms": Measured(10.0, 30, (9.5, 10.5))})
    for delta, status in ((4.0, "pass"), (2.0, "inconclusive"), (0.5, "fail")):
        rule = {"metric": "latency_ms", "rule": "relative", "better": "lower", "delta": delta}
        found = judge(read_policy(policy(rule)), slow, fast)
        assert found.status == status
        # distances to the limits in squares: 2 ± hypot(1, 0.5)
        assert found.outcomes[0].lower == pytest.approx(2 - math.hypot(1, 0.5))
    assert judge(read_policy(policy({"metric": "latency_ms", "rule": "max", "value": 20})), slow).status == "pass"


def test_a_family_shares_its_false_alarms_by_holm():
    candidate, champion = (one.metrics["clean"].right or () for one in counted(1500, 18, 48))  # worse by two points
    new, old = (
        evidence_of_answers(name, right, **{f"m{i}": right for i in range(8)})
        for name, right in (("n", candidate), ("o", champion))
    )
    alone = [{"metric": f"m{i}", "rule": "noninferior"} for i in range(8)]
    assert judge(read_policy(policy(*alone)), new, old).status == "fail"
    together = judge(read_policy(policy(*({**one, "family": "all"} for one in alone))), new, old)
    assert together.status == "inconclusive"  # p about 0.02, times 8
    assert together.outcomes[0].p_holm == pytest.approx(min(1, 8 * (together.outcomes[0].p_fail or 0)))


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"gate": []}, "policy.gate"),
        ({"gates": [{"metric": "clean", "rule": "min"}]}, "value"),
        ({"gates": [{"metric": "clean", "rule": "atleast", "value": 1}]}, "rule"),
        ({"gates": [{**NONINFERIOR, "detla": 0.1}]}, "detla"),
        ({"rollback": {"k": 4, "m": 3}}, "rollback.k"),
        ({"alpha": 0}, "alpha"),
    ],
)
def test_a_wrong_policy_is_told_with_its_place(wrong: dict[str, Any], where: str):
    with pytest.raises(InputError, match=where):
        read_policy(wrong)


def test_a_policy_file_runs_nothing(tmp_path: Path):
    (tmp_path / "p.yaml").write_text("name: !!python/object/apply:os.system ['touch ran']\n")
    with pytest.raises(InputError, match="YAML"):
        read_policy(tmp_path / "p.yaml")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------------ F1: the data


def table(n: int = 400, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    return {
        "age": age, "years": (age - 18) * rng.random(n), "colour": rng.choice(["red", "green", "blue"], n),
        "income": np.where(rng.random(n) < 0.02, np.nan, rng.normal(50, 10, n)), "label": rng.choice(["no", "yes"], n),
    }  # fmt: skip


def test_a_profile_accepts_what_it_was_made_of_and_survives_the_disk(tmp_path: Path):
    profile = Profile.fit(table(), label="label", cross=["years <= age", "age >= 18"])
    assert profile.check(table()) == []
    profile.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == profile
    (tmp_path / "p.json").write_text((tmp_path / "p.json").read_text().replace("blue", "grey"))
    with pytest.raises(InputError, match="changed after"):
        Profile.load(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.pop("age"), "missing column"),
        (lambda t: t.update(age=np.full(400, 500)), "range"),
        (lambda t: t.update(age=[str(one) for one in t["age"]]), "kind"),
        (lambda t: t["colour"].__setitem__(0, "pink"), "unknown category"),
        (lambda t: t["income"].__setitem__(slice(0, 100), np.nan), "missing values"),
        (lambda t: t.update(years=t["age"] + 1.0), "rule years <= age"),
        (lambda t: t.update(label=["maybe"] + ["no"] * 399), "unknown label"),
        (lambda t: t.update(label=["no"] * 400), "one label only"),
        (lambda t: t["income"].__setitem__(3, np.inf), "infinite"),
        (lambda t: t.update(when=np.arange(400)[::-1]), "monotonic"),
        (lambda t: t.update(key=np.zeros(400, int)), "unique"),
    ],
)
def test_each_planted_fault_is_found(change: Any, rule: str):
    good = table() | {"when": np.arange(400), "key": np.arange(400)}
    schema = {"when": {"monotonic": True}, "key": {"unique": True}}
    profile = Profile.fit(good, label="label", cross=["years <= age"], schema=schema)
    assert profile.check(good) == []
    assert profile.check({**good, "when": np.arange(900, 1300), "key": np.arange(5000, 5400)}) == []
    new = {name: np.array(values) for name, values in good.items()}
    change(new)
    assert rule in {one.rule for one in profile.check(new) if one.level == "error"}


def test_cross_rules_are_compared_and_never_run():
    for bad in ("__import__('os')", "age <", "age <= __import__('os')", "1 < 2"):
        with pytest.raises(InputError, match="cross"):
            Profile.fit(table(), cross=[bad])


def test_leakage_between_train_and_test_and_from_a_column():
    train, test = table(400, 1), table(300, 2)
    assert find_leakage(train, test) == []
    planted = {name: np.concatenate([values, train[name][:3]]) for name, values in test.items()}
    (found,) = find_leakage(train, planted)
    assert (found.level, found.rule) == ("error", "leakage")
    assert "3 test rows (1.0 %)" in found.value
    assert find_leaking_columns(train, "label") == []
    tells = {**train, "paid": (np.array(train["label"]) == "yes") + 0.001 * np.arange(400) / 400}
    assert [one.column for one in find_leaking_columns(tells, "label")] == ["paid"]


# ------------------------------------------------------------------------------------------------------------- F2, F3: drift


def test_a_sample_does_not_drift_from_itself_and_a_constant_sensor_does():
    rng = np.random.default_rng(0)
    old = {"a": rng.normal(size=2000), "b": rng.normal(size=2000), "c": rng.choice(["x", "y"], 2000)}
    same = drift(old, old, tests=["mmd", "domain-classifier", "pca"])
    assert not same.drifted
    assert all(one.psi == one.js == one.wasserstein == 0 for one in same.columns)
    broken = drift(old, {"a": rng.normal(size=500), "b": np.full(500, 0.3), "c": rng.choice(["x", "y"], 500)})
    assert broken.which == ("b",)
    words = drift(old, {**{key: old[key][:500] for key in "ab"}, "c": np.array(["x"] * 450 + ["new"] * 50)})
    assert words.which == ("c",)


def test_a_correlation_that_turns_is_seen_only_by_all_columns_together():
    rng = np.random.default_rng(0)

    def rows(sign: int, n: int) -> dict[str, Any]:
        a = rng.normal(size=n)
        return {"a": a, "b": 0.9 * sign * a + math.sqrt(0.19) * rng.normal(size=n)}

    found = drift(rows(1, 1000), rows(-1, 500), tests=["mmd"])
    assert not any(one.drifted for one in found.columns)
    assert found.which == ("mmd",)


def test_many_rows_make_trifles_significant_and_the_effect_keeps_them_out():
    rng = np.random.default_rng(0)
    old, new = {"a": rng.normal(size=100_000)}, {"a": rng.normal(0.02, 1, 100_000)}
    found = drift(old, new)
    assert found.columns[0].p_adjusted < 0.01
    assert not found.drifted
    assert drift(old, new, effect=0).drifted


def test_adjustment_over_columns_keeps_false_drift_rare():
    rng = np.random.default_rng(0)
    wrong = {"holm": 0, "bh": 0}
    for _ in range(60):
        old, new = ({str(i): rng.normal(size=300) for i in range(10)} for _ in range(2))
        for adjust in wrong:
            wrong[adjust] += drift(old, new, adjust=adjust, effect=0).drifted  # type: ignore[arg-type]
    assert all(count <= 9 for count in wrong.values())  # 3 expected; unadjusted 24


def test_atc_returns_the_accuracy_of_its_own_reference_and_cbpe_that_of_a_calibrated_model():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 4000)
    right = rng.random(4000) < confidence  # calibrated by construction
    own = estimate_accuracy(confidence, right, confidence)
    assert abs(own.accuracy - right.mean()) <= 1 / 4000
    new = rng.uniform(0.5, 0.8, 3000)
    truth = rng.random(3000) < new
    for method in ("cbpe", "doc"):
        found = estimate_accuracy(confidence, right, new, method)  # type: ignore[arg-type]
        assert found.trusted
        assert abs(found.accuracy - truth.mean()) < 3 * math.sqrt(truth.var() / 3000) + 0.02 * (method == "doc")
    overconfident = estimate_accuracy(np.full(1000, 0.99), rng.random(1000) < 0.8, np.full(500, 0.99), "cbpe")
    assert not overconfident.trusted


def test_importance_weights_follow_a_shift_and_say_when_they_rest_on_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 1)), rng.normal(0.7, 1, size=(3000, 1))

    def right(rows: Any) -> Any:
        return rng.random(len(rows)) < 1 / (1 + np.exp(-1 + 1.5 * rows[:, 0]))

    before, after = right(x), right(y)
    ones = np.ones(3000)
    found = estimate_accuracy(ones, before, ones, "importance", features=x, new_features=y)
    assert abs(found.accuracy - after.mean()) < abs(before.mean() - after.mean()) / 4
    far = estimate_accuracy(ones, before, ones, "importance", features=x, new_features=y + 4)
    assert not far.trusted
    assert far.effective < 300


# -------------------------------------------------------------------------------------------------------- F5, F6: the record


def test_hashes_follow_bytes_and_not_names(tmp_path: Path):
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"weights")
    assert hash_of(tmp_path / "a.bin") == hash_of(tmp_path / "b.bin")
    (tmp_path / "b.bin").write_bytes(b"weighty")
    assert hash_of(tmp_path / "a.bin") != hash_of(tmp_path / "b.bin")
    one = {"x": np.array([0.0, np.nan]), "y": np.array(["a", "b"])}
    assert sha256_columns(one) == sha256_columns({"y": one["y"], "x": np.array([-0.0, -np.nan])})
    assert sha256_columns(one) != sha256_columns({"x": one["x"][::-1], "y": one["y"][::-1]})


def test_the_lineage_is_only_added_to(tmp_path: Path):
    lineage = Lineage(tmp_path / "lineage.jsonl")
    data = lineage.record("data", {"sha256": "d"})
    model = lineage.record("model", {"sha256": "m"}, parent=data)
    assert [one["kind"] for one in lineage.trace(model)] == ["model", "data"]
    with pytest.raises(InputError, match="parent"):
        lineage.record("gate", {}, parent="nobody")
    lines = (tmp_path / "lineage.jsonl").read_text().splitlines()
    for tampered in (lines[1:], [lines[0].replace('"d"', '"e"'), lines[1]], lines[::-1]):
        (tmp_path / "lineage.jsonl").write_text("\n".join(tampered) + "\n")
        with pytest.raises(InputError, match="line 1"):
            lineage.records()


def weights(path: Path, value: float) -> Path:
    from safetensors.torch import save_file

    save_file({"w": torch.full((3,), value)}, path)
    return path


def test_the_registry_promotes_with_a_gate_and_goes_back(tmp_path: Path):
    registry = Registry(tmp_path / "registry")
    for value in (1.0, 2.0):
        registry.register(weights(tmp_path / "w.safetensors", value), info={"value": value})
    with pytest.raises(InputError, match="gate"):
        registry.promote(1, gate="")
    registry.promote(1, gate="bundle-1")
    registry.promote(2, gate="bundle-2")
    assert [one.stage for one in registry.versions()] == ["archived", "champion"]
    registry.alias("stable", 1)
    assert registry.get("stable").number == 1
    assert registry.rollback(1, reason="errors").stage == "champion"
    assert registry.get("champion").name == "v1"
    assert registry.get("v2").stage == "archived"
    with pytest.raises(InputError, match="archived"):
        registry.rollback(1, reason="again")
    kinds = [one["kind"] for one in registry.lineage.records()]
    assert kinds == ["register", "register", "promote", "promote", "alias", "rollback"]
    weights(registry.check(registry.get("v1")), 9.0)
    with pytest.raises(InputError, match="hash has changed"):
        registry.check(registry.get("v1"))


def test_a_registry_that_points_outside_is_refused(tmp_path: Path):
    registry = Registry(tmp_path / "registry")
    registry.register(weights(tmp_path / "w.safetensors", 1.0))
    file = tmp_path / "registry" / "registry.json"
    file.write_text(file.read_text().replace("v1/w.safetensors", "../w.safetensors"))
    with pytest.raises(InputError, match="leaves its folder"):
        registry.versions()


def test_the_mlflow_registry_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mlflow")
        registry = MlflowRegistry("net", (tmp_path / "mlruns").as_uri())
        for value in (1.0, 2.0):
            registry.register(weights(tmp_path / f"{value}.safetensors", value), info={"value": value})
        registry.promote(1, gate="bundle-1")
        registry.promote(2, gate="bundle-2")
        assert [one.stage for one in registry.versions()] == ["archived", "champion"]
        registry.rollback(1, reason="errors")
        assert (registry.get("champion").number, registry.get("champion").gate) == (1, "bundle-1")
        assert registry.get(1).sha256 == hash_of(tmp_path / "1.0.safetensors")


# ------------------------------------------------------------------------------------------------------- F7, F9: the monitor


def test_alternating_alarms_never_trigger_two_of_two_and_the_cool_down_is_kept():
    state = Hysteresis(Rollback(k=2, m=2, cooldown=3))
    assert not any(state.observe(i % 2 == 0) for i in range(40))
    state = Hysteresis(Rollback(k=2, m=3, cooldown=3))
    assert [state.observe(True) for _ in range(12)] == [i in (1, 6, 11) for i in range(12)]
    held = Hysteresis(Rollback(k=1, m=1, hold=True))
    assert not any(held.observe(True) for _ in range(5))


def stream(n: int, rng: Any, *, shift: float = 0.0, flip: bool = False) -> dict[str, Any]:
    """Two features; the label is the sign of their sum, 5 % of it turned; two versions answer: by both features, or by one."""
    x = rng.normal(size=(n, 2))
    x[:, 0] += shift
    label = ((x.sum(1) > 0) ^ (rng.random(n) < 0.05) ^ flip).astype(np.int64)
    score = x[:, 0] + x[:, 1]
    return {
        "x0": x[:, 0], "x1": x[:, 1], "label": label, "prediction": (score > 0).astype(np.int64),
        "confidence": 1 / (1 + np.exp(-3 * np.abs(score))), "old": (x[:, 1] > 0).astype(np.int64),
    }  # fmt: skip


def watcher(reference: Any, **changes: Any) -> Monitor:
    rules = read_policy({"monitor": {"versions": {"v1": "old"}, **changes}, "rollback": {"k": 2, "m": 3, "cooldown": 2}})
    versions = {"v2": column_predictor("prediction", "confidence"), "v1": column_predictor("old")}
    return Monitor(rules, reference, versions)


@pytest.mark.parametrize("fall", ["e-process", "adwin", "ddm", "page-hinkley"])
def test_a_quiet_stream_is_quiet_and_a_turned_concept_is_told_from_drift(fall: str):
    rng = np.random.default_rng(0)
    watch = watcher(stream(2000, rng), fall=fall)
    quiet = [watch.observe(stream(500, rng)) for _ in range(12)]
    if fall != "ddm":  # which controls no error: it may warn of nothing
        assert {one.action for one in quiet} == {"quiet"}
        assert watch.summary()["average_run_length"] == 12
    turned = [watch.observe(stream(500, rng, flip=True)) for _ in range(2)]
    assert "concept" in {one.action for one in turned}
    assert turned[0].drift is not None
    assert not turned[0].drift.drifted
    assert any("must not be trusted" in reason for one in turned for reason in one.reasons)


def test_drift_that_costs_nothing_is_watched_and_invalid_data_are_blocked():
    rng = np.random.default_rng(0)
    watch = watcher(stream(2000, rng))
    assert watch.observe(stream(500, rng, shift=1.0)).action == "watch"
    broken = stream(500, rng)
    broken["x0"][:] = np.nan
    assert watch.observe(broken).action == "block"
    assert watch.observe({"x1": broken["x1"]}).action == "block"
    assert watch.champion == "v2"


def test_a_broken_input_leads_back_to_the_version_that_does_not_use_it(tmp_path: Path):
    rng = np.random.default_rng(0)
    reference = stream(2000, rng)
    asked: list[str] = []
    rules = read_policy({"rollback": {"k": 2, "m": 3, "cooldown": 2}})
    versions = {"v2": column_predictor("prediction"), "v0": column_predictor("bad"), "v1": column_predictor("old")}
    watch = Monitor(
        rules, {**reference, "bad": 1 - reference["label"]}, versions, log=tmp_path / "log", on_rollback=asked.append
    )
    for i in range(8):
        chunk = stream(500, rng)
        chunk["bad"] = 1 - chunk["label"]
        if i >= 3:
            chunk["prediction"] = rng.integers(0, 2, 500)  # the feature of v2 is broken; v1 does not use it
        watch.observe(chunk)
    assert asked == ["v1"]  # not v0, which is newer and worse
    assert watch.champion == "v1"
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [one["target"] for one in lines if one["decided"]] == ["v1"]
    assert [one["action"] for one in lines][:3] == ["quiet"] * 3


def test_the_page_of_a_monitor_has_what_there_is_and_names_stay_text(tmp_path: Path):
    rng, name = np.random.default_rng(0), "<b>x$y$</b>"
    table = {name: rng.normal(size=400), "prediction": np.zeros(400, int), "label": np.zeros(400, int)}
    watcher = Monitor(read_policy({"name": "<i>m</i>"}), table, {"<v>": column_predictor("prediction")})
    empty = write_monitor_page(watcher, tmp_path / "empty.html").read_text()
    assert "0 decisions in 0 chunks" in empty
    assert "<svg" not in empty
    for chunk in range(205):  # neither labels nor confidences; the last five have drifted
        watcher.observe({name: rng.normal(size=100) + (chunk >= 200), "prediction": np.zeros(100, int)})
    page = write_monitor_page(watcher, tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "&lt;b&gt;x$y$&lt;/b&gt;" in page
    assert not [bad for bad in ("<b>x", "<i>m", "<v>") if bad in page]
    quiet = sum(one.action == "quiet" for one in watcher.decisions)
    assert quiet >= 190
    assert f"{quiet:,} other chunks are in decisions.jsonl" in page
    assert len(page) < 300_000


def test_looks_that_are_counted_alarm_less_often():
    rng = np.random.default_rng(0)
    found = {}
    for looks in ("fixed", "spending", "e-detector"):
        rng = np.random.default_rng(1)
        watch = watcher(stream(300, rng), looks=looks, alpha=0.2, effect=0)
        for _ in range(40):
            watch.observe(stream(100, rng))
        found[looks] = watch.summary()["watched"]
    assert found["spending"] < found["fixed"]
    assert found["e-detector"] < found["fixed"]


def test_files_are_read_in_chunks_in_their_order(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    whole = pa.table({"i": np.arange(1050), "w": [None if i % 7 else "seven" for i in range(1050)]})
    pq.write_table(whole, tmp_path / "s.parquet", row_group_size=64)
    csv.write_csv(whole, tmp_path / "s.csv")
    for name in ("s.parquet", "s.csv"):
        parts = list(chunks(tmp_path / name, 500))
        assert [len(one["i"]) for one in parts] == [500, 500, 50]
        assert np.concatenate([one["i"] for one in parts]).tolist() == list(range(1050))
        assert as_columns(tmp_path / name)["i"].tolist() == list(range(1050))
    with pytest.raises(MissingError):
        next(chunks(tmp_path / "none.csv", 10))


# -------------------------------------------------------------------------------------------------- F8: bundle and reports


def example(tmp_path: Path, **more: Any) -> Bundle:
    champion, candidate = pair(1500, 0.9, 0.02, 0.03)
    rules = policy(
        {"metric": "clean", "rule": "min", "value": 0.8}, NONINFERIOR, {"metric": "fog@3", "rule": "max", "value": 0.5},
        name='<b>"net"|', card={"license": "mit", "intended_use": "Sorting <script>alert(1)</script> letters."},
    )  # fmt: skip
    new = evidence_of_answers("new & better", candidate, sha256="n" * 64, **{"fog@3": candidate})
    old = evidence_of_answers("old", champion, sha256="o" * 64, **{"fog@3": champion})
    return gate({**rules, **more}, new, old, out=tmp_path / "gate").bundle


def test_a_bundle_is_judged_again_to_the_same_verdict_and_refuses_changes(tmp_path: Path):
    bundle = example(tmp_path)
    file = tmp_path / "gate" / "bundle.json"
    again = replay(file)
    assert again.describe() == bundle.verdict.describe()
    assert again.status == "fail"
    assert Bundle.load(tmp_path / "gate").sha256 == bundle.sha256
    file.write_text(file.read_text().replace('"delta": 0.01', '"delta": 0.5'))
    with pytest.raises(InputError, match="changed after"):
        replay(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("verdict"),
        lambda a: a.pop("lineage"),
        lambda a: a["lineage"].update(code="x"),
        lambda a: a["candidate"].update(metrics=[1]),
        lambda a: a["candidate"].update(sets=None),
        lambda a: a["candidate"]["metrics"]["clean"].update(interval=[1]),
        lambda a: a["candidate"]["metrics"]["clean"].update(value=0.99),  # not what its own answers give
        lambda a: a["champion"]["metrics"]["clean"].update(right="01"),
        lambda a: a.update(policy="/etc/policy.yaml"),
        lambda a: a.update(version=99),
        lambda a: a["verdict"]["outcomes"][0].update(status="fail"),
        lambda a: a["verdict"]["outcomes"].pop(),
    ],
)  # fmt: skip
def test_a_bundle_that_was_sealed_again_is_read_with_care(change: Any, tmp_path: Path):
    example(tmp_path)
    file = tmp_path / "gate" / "bundle.json"
    about = json.loads(file.read_text())
    about.pop("sha256")
    change(about)
    file.write_text(json.dumps({**about, "sha256": sha256_text(canonical_json(about))}))
    with pytest.raises(InputError, match=r"^bundle: "):
        Bundle.load(file)


@pytest.mark.parametrize(
    "about",
    ["[]", '{"a": 1}', '{"a": {"value": 1, "ci95": [1], "n": 3}}', '{"a": {"value": 0.5, "ci95": [0.6, 1], "n": 3}}',
     '{"a": {"value": 0.5, "ci95": [0, 1], "n": -3}}', '{"a": {"values": []}}', '{"a": {"values": [[1, 2], [3, 4]]}}',
     '{"a": {"right": ""}}', '{"a\\ud800": {"value": 1, "ci95": [1, 1], "n": 3}}'],
)  # fmt: skip
def test_a_file_of_metrics_that_makes_no_sense_is_refused(about: str, tmp_path: Path):
    (tmp_path / "m.json").write_text(about)
    (tmp_path / "p.csv").write_text("label,prediction\n1,1\n2,2\n")
    source = {"predictions": str(tmp_path / "p.csv"), "metrics": str(tmp_path / "m.json")}
    with pytest.raises(InputError, match=r"^metrics: got m\.json"):
        gate(policy({"metric": "a", "rule": "min", "value": 0.1}, candidate=source))


def test_names_from_files_are_words_in_every_report(tmp_path: Path):
    name = "a|b<i>\x1b[31m\x00`c`~~d~~$e$#1\n# f"
    new = Evidence(name, "h`x`", "d`y`", {name: Measured(0.5, 9, (0.4, 0.6))}, {"data": {"n": "<b>9</b>"}})
    files = gate(policy({"metric": name, "rule": "min", "value": 0.1}, name=name), new, out=tmp_path).files
    for file in ("summary", "card", "prometheus", "junit"):
        text = files[file].read_text()
        assert "\x1b" not in text
        assert "\x00" not in text
    written = r"a\|b\<i\>?\[31m?\`c\`\~\~d\~\~\$e\$\#1 \# f"
    assert files["summary"].read_text().count(written) == 3
    assert r"h\`x\`" in files["summary"].read_text()
    assert r"\<b\>9\</b\> items" in files["card"].read_text()
    assert ElementTree.parse(files["junit"]).getroot().attrib["name"].startswith("gate a|b<i>?[31m?`c`")


def test_a_nan_is_kept_as_nan(tmp_path: Path):
    new = Evidence("new", "", "", {"clean": Measured(math.nan, 10, (math.nan, math.nan))})
    found = gate(policy({"metric": "clean", "rule": "min", "value": 0.1}), new, out=tmp_path)
    assert found.exit_code == 1
    assert replay(tmp_path / "bundle.json").status == "fail"


def test_every_report_says_the_verdict_and_escapes_what_it_was_given(tmp_path: Path):
    import yaml

    bundle = example(tmp_path)
    files = write_reports(bundle, tmp_path / "again")
    suite = ElementTree.fromstring(files["junit"].read_text())
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("4", "1", "1")
    assert len(suite.findall("testcase/failure")) == 1
    markdown = files["summary"].read_text()
    assert markdown.startswith('## Gate \\<b\\>"net"\\|: FAIL')
    lines = files["prometheus"].read_text().splitlines()
    assert 'tutelage_gate_exit_code{policy="<b>\\"net\\"|"} 1' in lines
    assert all(line.startswith("#") or float(line.rsplit(" ", 1)[1]) is not None for line in lines)
    page = files["html"].read_text()
    assert "<b>" not in page.split("<body")[1].split("</h1>")[0]
    assert "FAIL" in page
    assert "new &amp; better" in page
    card = files["card"].read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "mit"
    assert head["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    assert "<script>" not in card
    for section in ("Intended use", "Evaluation data", "Metrics", "Gate", "Limits", "Provenance"):
        assert f"## {section}" in card
    from huggingface_hub import ModelCard

    assert ModelCard(card).data.model_name == "new & better"
    assert model_card(bundle, {"license": "apache-2.0"}).count("apache-2.0") == 1


def test_the_gate_stops_on_bad_data_names_the_rollback_target_and_writes_the_lineage(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.csv as csv

    test = table(300, 5)
    for name, columns in (("test", test), ("train", table(400, 6))):
        csv.write_csv(pa.table(columns), tmp_path / f"{name}.csv")
    registry = Registry(tmp_path / "registry")
    registry.register(weights(tmp_path / "w.safetensors", 1.0))
    registry.promote(1, gate="first")
    right = np.random.default_rng(0).random(300) < 0.95
    new = evidence_of_answers("new", right)
    data = {"test": str(tmp_path / "test.csv"), "train": str(tmp_path / "train.csv"), "label": "label"}
    rules = policy({"metric": "clean", "rule": "min", "value": 0.8}, data=data, registry=str(tmp_path / "registry"))
    good = gate(rules, new)
    assert (good.status, good.bundle.rollback[:2]) == ("pass", "v1")
    assert set(good.bundle.lineage["files"]) == {"test", "train"}
    promoted = registry.promote(registry.register().number, gate=good.bundle.sha256)
    assert promoted.gate == next(one for one in registry.lineage.records() if one["kind"] == "gate")["content"]["bundle"]
    rows = as_columns(tmp_path / "train.csv")
    csv.write_csv(
        pa.table({name: np.concatenate([values[:1], rows[name][:1]]) for name, values in test.items()}), tmp_path / "test.csv"
    )
    leaked = gate(rules, new)
    assert leaked.status == "fail"
    assert "leakage" in leaked.verdict.reasons[0]
    broken = gate({**rules, "candidate": {"predictions": "not opened"}})  # nothing is measured on broken data
    assert broken.verdict.outcomes[0].reason == "not measured: the data are broken"


def test_new_rows_may_have_new_ids(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.csv as csv

    for name, start in (("reference", 0), ("test", 10_000)):
        csv.write_csv(pa.table({"id": np.arange(start, start + 300), **table(300, start)}), tmp_path / f"{name}.csv")
    data = {"test": str(tmp_path / "test.csv"), "reference": str(tmp_path / "reference.csv"), "id": "id", "label": "label"}
    assert not [one for one in validate(read_policy({"data": data})) if one.level == "error"]
    asked = {"data": {**data, "cross": ["age >= 30"]}}
    assert [one.rule for one in validate(read_policy(asked)) if one.level == "error"] == ["rule age >= 30"]


def test_predictions_are_joined_by_id_and_slices_are_gated(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.csv as csv

    rng = np.random.default_rng(0)
    n = 2000
    label, group = rng.integers(0, 3, n), rng.choice(["big", "small"], n, p=[0.9, 0.1])
    csv.write_csv(pa.table({"id": np.arange(n), "label": label}), tmp_path / "test.csv")
    csv.write_csv(pa.table({"group": group}), tmp_path / "slices.csv")
    old = np.where(rng.random(n) < 0.9, label, (label + 1) % 3)
    new = np.where((group == "small") & (rng.random(n) < 0.4), (label + 1) % 3, old)  # worse, but only for the few
    for name, answers in (("old", old), ("new", new)):
        order = rng.permutation(n)
        csv.write_csv(
            pa.table({"id": order, "prediction": answers[order], "confidence": np.full(n, 0.9)}), tmp_path / f"{name}.csv"
        )
    data = {"test": str(tmp_path / "test.csv"), "id": "id", "slices": str(tmp_path / "slices.csv")}
    rules = policy(
        {**NONINFERIOR, "delta": 0.06}, {**NONINFERIOR, "delta": 0.06, "slice": "group=small"},
        {"metric": "clean", "slice": "worst slice", "rule": "min", "value": 0.75},
        {"metric": "ece", "rule": "max", "value": 0.2},
        data=data, candidate={"predictions": str(tmp_path / "new.csv")}, champion={"predictions": str(tmp_path / "old.csv")},
    )  # fmt: skip
    found = gate(rules)
    assert [one.status for one in found.verdict.outcomes] == ["pass", "fail", "fail", "pass"]
    assert found.verdict.outcomes[0].value == pytest.approx((new == label).mean())
    csv.write_csv(pa.table({"id": np.arange(5), "prediction": np.zeros(5, int)}), tmp_path / "new.csv")
    with pytest.raises(InputError, match="1995 missing"):
        gate(rules)


def nets_of(x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.nn.Module:
    """A linear classifier by least squares."""
    a = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1)
    w = torch.linalg.solve(a.T @ a + ridge * torch.eye(a.shape[1]), a.T @ torch.nn.functional.one_hot(y, 10).float()) * 10
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    net.load_state_dict({"1.weight": w[:-1].T.contiguous(), "1.bias": w[-1]})
    return net.eval()


def test_saved_audits_are_read_and_models_are_audited(tmp_path: Path):
    import tutelage

    data = tutelage.fashion_mnist_subset("test").take(slice(0, 60))
    np.savez(tmp_path / "test.npz", image=data.images.numpy(), label=data.labels.numpy())
    nets = {}
    x, y = tutelage.fashion_mnist_subset("train").take(slice(0, 1500))[:]
    for name, ridge in (("new", 10.0), ("old", 30.0)):
        nets[name] = nets_of(x, y, ridge)
        result = tutelage.audit(
            nets[name],
            tmp_path / "test.npz",
            threats=["fgsm:linf@0.1"],
            corruptions="fog@3",
            force=True,
            name=name,
            curve=False,
        )
        result.save(tmp_path / name)
    gates = [
        {"metric": metric, "rule": "noninferior", "delta": 0.9} for metric in ("clean", "linf@0.1 FGSM", "fog@3", "corruptions")
    ]
    rules = policy(*gates, candidate={"audit": str(tmp_path / "new")}, champion={"audit": str(tmp_path / "old")})
    found = gate(rules)
    names = {one.gate: one for one in found.verdict.outcomes}
    assert names["clean"].n == names["corruptions"].n == 60
    assert found.bundle.candidate.sha256 != found.bundle.champion.sha256  # type: ignore[union-attr]
    assert set(found.bundle.lineage["files"]) == {"candidate audit", "champion audit"}
    reasons = [one.reason for one in found.verdict.outcomes]
    assert not [one for one in reasons if "no metric" in one or "different items" in one]
    code = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    (tmp_path / "net.py").write_text(code)
    save_weights(nets["new"], tmp_path / "new.safetensors")
    model = {"model": f"{tmp_path}/net.py:build", "weights": str(tmp_path / "new.safetensors"), "latency": True}
    plain = {"audit": str(tmp_path / "old")}
    rules = policy(
        {**NONINFERIOR, "delta": 0.9}, {"metric": "ece", "rule": "max", "value": 1},
        {"metric": "latency_ms", "rule": "max", "value": 1e6},
        data={"test": str(tmp_path / "test.npz")}, candidate=model, champion=plain,
    )  # fmt: skip
    found = gate(rules)
    assert [one.status for one in found.verdict.outcomes] == ["pass"] * 3
    assert found.bundle.candidate.metrics["clean"] == Measured.share(nets["new"](data[:][0]).argmax(1) == data.labels)


def test_trackers_get_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from accelerate import tracking

    seen: dict[str, Any] = {}

    class Fake(tracking.GeneralTracker):
        name = "mlflow"
        requires_logging_directory = True

        def __init__(self, run: str, folder: Path) -> None:
            super().__init__()
            seen["run"] = run

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            seen["status"] = values["status"]

        def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
            seen.update(values)

    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", {"mlflow": Fake})
    example(tmp_path, trackers=["mlflow"])
    assert seen["status"] == "fail"
    assert 0.8 < seen["candidate/clean"] < 1
    with pytest.raises(InputError, match="trackers"):
        example(tmp_path, trackers=["nobody"])


# ------------------------------------------------------------------------------------------------------- F10: the surface


def test_requests_that_are_none_are_refused():
    guard = InputGuard.calibrate(lambda x: -x.flatten(1).std(1), torch.rand(400, 1, 4, 4) * 0.5, keep=0.95)
    assert guard.check(torch.rand(50, 1, 4, 4) * 0.5).float().mean() > 0.8
    assert not guard.check((torch.rand(50, 1, 4, 4) > 0.5).float()).any()  # strange, though in range
    for bad, word in (
        (torch.rand(2, 1, 4, 5), "shape"),
        (torch.full((1, 1, 4, 4), math.nan), "NaN"),
        (torch.rand(1, 1, 4, 4) * 300, "values from"),
        (torch.rand(5000, 1, 4, 4), "samples"),
        ([[1.0]], "list"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), "floating-point"),
    ):
        with pytest.raises(InputError, match=word):
            guard.check(bad)


def test_model_files_are_checked_before_anyone_opens_them(tmp_path: Path):
    good = weights(tmp_path / "w.safetensors", 1.0)
    digest = check_model_file(good)
    assert check_model_file(good, digest) == digest
    with pytest.raises(InputError, match="sha256"):
        check_model_file(good, "0" * 64)
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    disguised = tmp_path / "x.safetensors"
    disguised.write_bytes((tmp_path / "w.pt").read_bytes())
    for path in (tmp_path / "w.pt", disguised):
        with pytest.raises(InputError, match="a pickle"):
            check_model_file(path)
    with pytest.raises(InputError, match="sha256 too"):
        check_model_file(tmp_path / "w.pt", allow_pickle=True)
    assert check_model_file(tmp_path / "w.pt", hash_of(tmp_path / "w.pt"), allow_pickle=True)
    good.write_bytes(good.read_bytes()[:-4])
    with pytest.raises(TutelageError, match="whole safetensors"):
        check_model_file(good)
