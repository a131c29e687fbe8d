from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.claims.claim import ClaimResult, load_claim
from tutelage.claims.runner import load_result, record, run_claim
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, MissingError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def smoke(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[ClaimResult, Path]:
    out = tmp_path_factory.mktemp("run")
    return run_claim("mtard", scale="smoke", cache=cache, out=out), out


def test_every_arm_has_every_unit(smoke):
    result, _ = smoke
    claim = load_claim("mtard")
    assert {(r.arm, r.unit_id) for r in result.rows} == {(arm, unit) for arm in claim.arms for unit in range(2)}
    assert all(r.status == "ok" for r in result.rows), [r.error for r in result.rows]
    assert [s.sentence for s in claim.sentences] == [c.sentence for c in result.claims]
    assert result.config["attack_steps"] == 2
    assert {d["kind"] for d in result.data} == {"generated"}


def test_the_run_folder_reads_back_the_same(smoke):
    result, out = smoke
    assert load_result(out) == result
    assert (out / "run.json").is_file()


def test_finished_cells_are_not_computed_again(smoke, cache):
    again = run_claim("mtard", scale="smoke", cache=cache)
    assert again.rows == smoke[0].rows  # the seconds too: they are the first run's


def test_two_workers_give_the_rows_of_one(smoke, tmp_path):
    small = {"epochs": "1", "long_epochs": "1"}
    one = run_claim("mtard", scale="smoke", cache=Cache(tmp_path / "a"), changes=small, seeds=1)
    two = run_claim("mtard", scale="smoke", cache=Cache(tmp_path / "b"), changes=small, seeds=1, jobs=2)
    assert [(r.arm, r.unit_id) for r in one.rows] == [(r.arm, r.unit_id) for r in two.rows]
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4), a.arm


def test_failed_cells_are_kept_with_their_reason_and_tried_again(cache):
    broken = run_claim("mtard", scale="smoke", cache=cache, changes={"robust_teacher": "no-such-net"}, seeds=1)
    failed = {r.arm: r.error for r in broken.rows if r.status == "failed"}
    assert "pgd-at" not in failed
    assert "net: got no-such-net, wanted one of" in (failed["b-mtard"] or "")
    assert broken.verdict == "incomplete"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": "3"}, "set: got epoch, wanted one of"),
        ({"epochs": "three"}, "set: got epochs=three"),
        ({"epochs": "0"}, "set: got epochs=0"),
        ({"eps": "-1"}, "set: got eps=-1"),
        ({"data": "imagenet"}, "set: got data=imagenet"),
        ({"robust_teacher": ""}, "robust_teacher: got none, wanted --set robust_teacher=module:function"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_claim("mtard", changes=changes, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_and_planned_systems():
    with pytest.raises(InputError, match="such as mtard"):
        run_claim("mtrd")
    with pytest.raises(MissingError, match="planned"):
        run_claim("w2s-deception")


def test_only_a_whole_clean_claim_scale_result_is_recorded(smoke, tmp_path):
    result, _ = smoke
    with pytest.raises(InputError, match="scale claim"):
        record(result, tmp_path)
    at_claim = result.model_copy(update={"scale": "claim", "commit": "abc", "dirty": False})
    with pytest.raises(InputError, match="no --set"):
        record(at_claim, tmp_path)
    own = load_claim("mtard").scales["claim"].model_dump()
    with pytest.raises(InputError, match="no --seeds"):
        record(at_claim.model_copy(update={"config": own}), tmp_path)
    with pytest.raises(InputError, match="uncommitted"):
        record(at_claim.model_copy(update={"config": own, "dirty": True}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_set_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    with pytest.raises(MissingError, match=r"cifar10.*is not there; put cifar10 from https"):
        run_claim("mtard", scale="paper", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
