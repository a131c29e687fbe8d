"""An audit by several workers: the numbers of one process, workers that are killed, Ctrl-C, models that do not travel."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shard_nets import SIDE, Net, hidden, inverted
from torch import Tensor, nn

import tutelage
from tutelage.app.cli import run
from tutelage.auditing import AuditResult
from tutelage.auditing.shards import tasks_of
from tutelage.core import workers
from tutelage.core.errors import InputError, Interrupted, TutelageError
from tutelage.core.progress import Progress
from tutelage.data.images import ImageSet
from tutelage.threats import PGD, Linf
from tutelage.threats.objectives import AttackBatch, margin
from tutelage.threats.suite import Suite

THREATS = ("pgd-3:linf@0.1", "square-20:linf@0.15", "fgsm:l2@2")


def data(n: int = 60) -> ImageSet:
    rng = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % 2
    lightness = 0.05 + 0.3 * labels + 0.25 * torch.rand(n, generator=rng)
    return ImageSet(
        torch.rand(n, 1, SIDE, SIDE, generator=rng) * 0.4 + lightness[:, None, None, None], labels, ("dark", "bright")
    )


def audited(model: nn.Module, state: Path | None = None, **options: Any) -> AuditResult:
    return tutelage.audit(model, data(), **{"threats": THREATS, "batch_size": 16, "seed": 5, "state": state, **options})


def same(a: AuditResult, b: AuditResult) -> None:
    """To the last bit, but for seconds and the number of workers."""
    for key, value in vars(a).items():
        other = getattr(b, key)
        if key == "examples":
            assert len(value) == len(other)
            for x, y in zip(value, other, strict=True):
                assert torch.equal(x.clean, y.clean)
                assert torch.equal(x.adversarial, y.adversarial)
                plain = [{k: v for k, v in vars(e).items() if not isinstance(v, Tensor)} for e in (x, y)]
                assert plain[0] == plain[1]
        elif key == "environment":
            assert {**value, "jobs": 0, "on": ""} == {**other, "jobs": 0, "on": ""}
        elif key != "seconds":
            assert value == other, key


@pytest.fixture(scope="module")
def alone() -> Net:
    return Net()


@pytest.fixture(scope="module")
def whole(alone: Net) -> AuditResult:
    result = audited(alone)
    assert 0.0 < result.row("linf@0.1 PGD-3").value < result.clean_accuracy
    assert result.examples
    assert [len(curve.eps) for curve in result.curves] == [13, 8]
    return result


class Listening(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def print(self, text: str) -> None:
        self.said.append(text)


def test_two_workers_give_the_numbers_of_one_process(whole: AuditResult, alone: Net) -> None:
    model = Net()
    found = audited(model, jobs=2)
    same(found, whole)
    assert (found.environment["jobs"], found.environment["on"]) == (2, "local")
    assert "jobs" not in whole.environment
    assert model.seen < alone.seen / 3  # here: clean data, flags and pictures only


def test_corruptions_and_a_model_from_its_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model cannot be pickled, and its factory gives other weights each time: they travel."""
    model, asked = hidden(), {"threats": ["pgd-2:linf@0.1"], "corruptions": ["fog@1,3", "brightness@2"], "curve": False}
    monkeypatch.chdir(Path(__file__).parent)
    same(audited(model, jobs=2, factory="shard_nets:hidden", **asked), audited(model, **asked))


def test_on_ray_too(whole: AuditResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = audited(Net(), tmp_path, jobs=2, on="ray")
    same(found, whole)
    assert found.environment["on"] == "ray"


def test_a_killed_worker_costs_a_part_and_the_same_call_goes_on(whole: AuditResult, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    with pytest.raises(TutelageError) as caught:
        audited(Net(tmp_path / "killed"), tmp_path / "state", jobs=2)
    assert str(caught.value).startswith(
        f"a worker process was killed, perhaps for its memory; its finished parts are in {tmp_path / 'state'}: run it again"
    )
    assert list((tmp_path / "killed").iterdir())
    assert list((tmp_path / "state").rglob("curve-*.safetensors"))
    # `killed` is no part of a model's identity; one process, which is no worker, is not killed
    model, listening = Net(tmp_path / "killed"), Listening()
    same(audited(model, tmp_path / "state", progress=listening), whole)
    assert any(text.startswith("going on from") for text in listening.said)


def test_ctrl_c_says_how_to_go_on(whole: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = workers.wait, []

    def pressed(*arguments: Any, **options: Any) -> Any:
        calls.append(real(*arguments, **options))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(workers, "wait", pressed)
    with pytest.raises(Interrupted, match=rf"finished parts are in {tmp_path}.*goes on from there"):
        audited(Net(), tmp_path, jobs=2)
    done = len(list(tmp_path.rglob("*.safetensors")))
    assert done > 2
    monkeypatch.undo()
    same(audited(Net(), tmp_path), whole)
    # finished parts start no worker
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    same(audited(Net(), tmp_path, jobs=2), whole)


def test_the_command_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    images = data()
    np.savez(tmp_path / "data.npz", image=images.images.numpy(), label=images.labels.numpy())
    (tmp_path / "my_net.py").write_text((Path(__file__).parent / "shard_nets.py").read_text())
    monkeypatch.chdir(tmp_path)
    asked = ["audit", "my_net.py:Net", "--data", "data.npz", "--threats", "fgsm:linf@0.1", "--batch-size", "16", "--no-curve"]
    for jobs in ("1", "2"):
        assert run([*asked, "--jobs", jobs, "--out", f"audit-{jobs}"]) == 0, capsys.readouterr().err
        assert not Path(f"audit-{jobs}", "state").exists()
    one, two = (json.loads(Path(f"audit-{jobs}", "audit.json").read_text()) for jobs in "12")
    assert (two["environment"].pop("jobs"), two["environment"].pop("on")) == (2, "local")
    assert one.pop("seconds") > 0 < two.pop("seconds")
    assert one == two


# what does not travel, and bad input


def test_a_model_that_cannot_be_pickled_is_told_before_it_runs() -> None:
    model = hidden()
    with pytest.raises(InputError, match=r"jobs: got a model that cannot be pickled \(.*Hidden.*a factory, or jobs=1"):
        audited(model, jobs=2)
    assert isinstance(model, Net)
    assert model.seen == 0

    def objective(logits: Tensor, batch: AttackBatch) -> Tensor:
        return margin(logits, batch)

    with pytest.raises(InputError, match="jobs: got a threat that cannot be pickled"):
        audited(Net(), jobs=2, threats=[PGD(Linf(0.2), steps=2, objective=objective)])


def test_a_model_that_is_another_in_a_worker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(InputError, match="gives other logits in a worker than here, wanted a model that is the same"):
        audited(Net(), jobs=2, factory="shard_nets:inverted", threats=["fgsm:linf@0.1"], batch_size=64, curve=False)
    assert isinstance(inverted(), nn.Module)


def test_a_class_that_a_worker_cannot_find_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("nowhere_else")
    exec("from shard_nets import Net as Base\nclass Net(Base): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere_else", module)
    with pytest.raises(InputError, match=r"no worker can make again \(ModuleNotFoundError: No module named 'nowhere_else'\)"):
        audited(module.Net(), jobs=2, threats=["fgsm:linf@0.1"], batch_size=64, curve=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs: got 0"),
        ({"jobs": 1.5}, "jobs: got 1.5"),
        ({"on": "slurm"}, "on: got slurm, wanted local or ray"),
        ({"factory": 3}, "factory: got 3, wanted what load_model takes"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    model = Net()
    with pytest.raises(InputError, match=message):
        audited(model, **options)
    assert model.seen == 0


def test_without_ray_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["audit", "my_net.py:Net", "--data", "nowhere.npz", "--on", "ray"]) == 2
    assert capsys.readouterr().err == "error: on: ray is not installed; pip install 'tutelage[ray]'\n"
    assert run(["audit", "my_net.py:Net", "--data", "nowhere.npz", "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "error: jobs: got 0, wanted at least 1\n"


def test_the_tasks_cover_every_part_once_and_long_ones_come_first() -> None:
    suites = [Suite.standard(Linf(0.1)), Suite(Linf(0.2), (("PGD", PGD(Linf(0.2))),))]
    tasks = list(tasks_of(33, suites, {"linf": [suite.budget for suite in suites]}, (), 16))
    assert [task.kind for task in tasks] == ["curve"] + ["batch"] * 6
    assert [(task.number, task.batch) for task in tasks[1:]] == [(number, batch) for number in (0, 1) for batch in (0, 1, 2)]
    names = [part for task in tasks for part in task.parts]
    assert len(names) == len(set(names)) == 6 + 9  # 0.1 and 0.2 share the eps 0.025, 0.05, 0.1, 0.15 and 0.2
    assert any(re.fullmatch(r"linf-51-255-PGD-\w{8}-000002", name) for name in names)  # 0.2 is shown as 51/255
