"""Two processes on CPUs that torchrun starts train what one process trains: the same weights, losses and choices."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tutelage.core.rng import generator, normal, uniform
from tutelage.core.shares import rows_of_all, share_of, sharing
from tutelage.teaching import QueryBudget, Teacher

JOB = Path(__file__).parent / "processes_job.py"
# float32 sums in another order. A step of the attack is a sign: a gradient of 0 up to rounding may send one pixel the
# other way, which moves a loss by about 1e-5
WEIGHTS, LOGGED = 1e-5, 1e-4
SAME = ["claim", "plain", "uneven", "accumulated"]
SHARDED = ["sharded", "sharded-interrupted"]
ALONE = ["dropout", "dropout-interrupted", "batchnorm", "interrupted", "workers", "plugin", "diverging"]


def torchrun(processes: int, arguments: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False, cwd=cwd)


def launch(out: Path, names: list[str], processes: int) -> subprocess.CompletedProcess[str]:
    return torchrun(processes, [str(JOB), str(out), *names])


Found = tuple[dict[str, Any], dict[str, Tensor]]


def found(out: Path, name: str, rank: int = 0) -> Found:
    return json.loads((out / f"{name}-{rank}.json").read_text()), load_file(out / f"{name}-{rank}.safetensors")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    done = launch(out, SAME, 1)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    done = launch(out, [*SAME, *SHARDED, *ALONE], 2)
    assert done.returncode == 0, done.stderr
    return out


def assert_equal(a: Found, b: Found, *, weights: float = WEIGHTS, logged: float = LOGGED) -> None:
    for key in a[1]:
        torch.testing.assert_close(a[1][key], b[1][key], rtol=0, atol=weights)
    assert len(a[0]["history"]) == len(b[0]["history"]) > 10
    for x, y in zip(a[0]["history"], b[0]["history"], strict=True):
        assert x == pytest.approx(y, rel=logged, abs=logged)
    assert a[0]["epochs"] == b[0]["epochs"]
    assert a[0]["best"] == b[0]["best"]


@pytest.mark.parametrize("name", SAME)
def test_two_processes_train_what_one_trains(name: str, one: Path, two: Path) -> None:
    """The claim's student by its recipe; a user's loader; a last batch of one row; four micro-batches a step."""
    assert found(one, name)[0]["processes"] == 1
    assert found(two, name)[0]["processes"] == 2
    for rank in (0, 1):
        assert_equal(found(one, name), found(two, name, rank))


@pytest.mark.parametrize("name", SAME)
def test_the_trainings_use_what_could_differ(name: str, one: Path) -> None:
    last = found(one, name)[0]
    weights, temperatures = last["objective"]["weights"]["weights"], last["objective"]["temperatures"]["temperatures"]
    assert abs(weights["clean"] - 0.5) > 1e-3
    assert temperatures["clean"] > 1.2
    assert last["best"]["epoch"] > 0
    assert last["history"][-1]["loss"] < last["history"][0]["loss"]


@pytest.mark.parametrize("name", [*SAME, *SHARDED, *ALONE])
def test_both_processes_end_with_the_same_weights_balances_and_meters(name: str, two: Path) -> None:
    (a, weights), (b, others) = found(two, name), found(two, name, 1)
    assert a == b
    for key in weights:
        assert torch.equal(weights[key], others[key]), key


def test_the_meters_count_the_whole_batch(one: Path, two: Path) -> None:
    for name in SAME:
        assert found(one, name)[0]["objective"]["teachers"] == found(two, name)[0]["objective"]["teachers"]


@pytest.mark.parametrize("name", SHARDED)
def test_a_fully_sharded_student_is_the_same(name: str, one: Path, two: Path) -> None:
    """The job asserts FSDPModule and DTensor before and after; through a checkpoint of whole tensors as well."""
    for rank in (0, 1):
        assert_equal(found(one, "plain"), found(two, name, rank))


@pytest.mark.parametrize(
    ("name", "whole"), [("interrupted", "plain"), ("dropout-interrupted", "dropout"), ("sharded-interrupted", "sharded")]
)
def test_ctrl_c_on_one_process_stops_all_and_the_same_call_goes_on(name: str, whole: str, two: Path) -> None:
    assert found(two, name)[0]["resumed_from"] == 7
    assert_equal(found(two, whole), found(two, name), weights=0, logged=0)


def test_the_checkpoint_of_a_sharded_student_is_that_of_a_whole_one(two: Path) -> None:
    def shapes(folder: Path) -> dict[str, Any]:
        newest = max(folder.glob("*.safetensors"))
        return {key: tuple(value.shape) for key, value in load_file(newest).items()}

    assert shapes(two / "sharded-interrupted") == shapes(two / "interrupted")


def test_workers_load_each_processes_own_rows(two: Path) -> None:
    assert_equal(found(two, "plain"), found(two, "workers"), weights=0, logged=0)


def test_dropout_is_not_the_same_on_both_halves_of_a_batch(two: Path) -> None:
    assert found(two, "dropout")[0]["history"] != found(two, "plain")[0]["history"]


def test_a_killed_training_goes_on_with_two_processes_or_with_one(tmp_path: Path, one: Path) -> None:
    killed = launch(tmp_path, ["killed"], 2)
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    shutil.copytree(tmp_path / "killed", tmp_path / "alone" / "killed")
    for out, processes in ((tmp_path, 2), (tmp_path / "alone", 1)):
        done = launch(out, ["resumed"], processes)
        assert done.returncode == 0, done.stderr
        assert found(out, "resumed")[0]["resumed_from"] == 8
        assert_equal(found(one, "plain"), found(out, "resumed"))


# refusals, in the real environment


@pytest.mark.parametrize(
    ("code", "world", "message"),
    [
        ("", {"WORLD_SIZE": "2"}, "WORLD_SIZE: got 2 without RANK, wanted processes that torchrun started"),
        ("", {"WORLD_SIZE": "two"}, "WORLD_SIZE: got two"),
        ("a = Accelerator(); os.environ['WORLD_SIZE'] = '2'", {}, "accelerator: got 1 processes, wanted the 2 that were"),
        ("a = Accelerator()", {"WORLD_SIZE": "2", "RANK": "0"}, "accelerator: got 1 processes"),
    ],
)
def test_another_world_size_than_the_accelerators_is_refused(code: str, world: dict[str, str], message: str) -> None:
    script = f"""
import os, torch
from accelerate import Accelerator
from tutelage.teaching import CrossEntropy, fit
a = None
{code}
net, data = torch.nn.Linear(2, 2), torch.utils.data.TensorDataset(torch.rand(4, 2), torch.zeros(4, dtype=torch.long))
loader = torch.utils.data.DataLoader(data)
fit(net, CrossEntropy(), loader, epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), accelerator=a)
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **world}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert message in done.stderr.strip().splitlines()[-1], done.stderr


# shares, by hand


@pytest.mark.parametrize(
    ("whole", "processes", "rows", "weights"),
    [
        (8, 2, [(0, 4), (4, 8)], [1, 1]),
        (5, 2, [(0, 2), (2, 5)], [0.8, 1.2]),
        (2, 3, [(0, 1), (0, 1), (1, 2)], [0, 1.5, 1.5]),
        (1, 2, [(0, 1), (0, 1)], [0, 2]),
    ],
)
def test_shares_are_contiguous_and_their_weights_make_the_mean_of_the_whole(
    whole: int, processes: int, rows: list[tuple[int, int]], weights: list[float]
) -> None:
    shares = [share_of(whole, rank, processes) for rank in range(processes)]
    assert [(s.start, s.stop) for s in shares] == rows
    assert [s.weight for s in shares] == pytest.approx(weights)
    x = torch.arange(whole).double()
    assert sum(s.weight * float(x[s.start : s.stop].mean()) for s in shares) / processes == pytest.approx(float(x.mean()))


@pytest.mark.parametrize("draw", [uniform, normal])
def test_the_noise_of_a_share_is_cut_from_that_of_the_batch(draw: Callable[..., Tensor]) -> None:
    noises = [generator(0) for _ in range(3)]
    expected = draw((5, 3), noises[0])
    for rank in (0, 1):
        share = share_of(5, rank, 2)
        with sharing(share):
            assert torch.equal(draw((share.rows, 3), noises[rank + 1]), expected[share.start : share.stop])
    after = [torch.rand(1, generator=noise) for noise in noises]
    assert after[0] == after[1] == after[2]


def test_noise_for_other_rows_differs_but_leaves_the_generators_in_step() -> None:
    drawn, after = [], []
    for rank, rows in ((0, 3), (1, 1)):
        noise = generator(0)
        with sharing(share_of(8, rank, 2)):
            drawn.append(uniform((rows, 2), noise))
        after.append(torch.rand(1, generator=noise))
    assert not torch.equal(drawn[0][:1], drawn[1])
    assert torch.equal(after[0], after[1])


def test_a_query_budget_is_that_of_all_processes() -> None:
    teacher = Teacher(torch.nn.Linear(2, 3), budget=QueryBudget(8))
    assert rows_of_all(4) == 4
    with sharing(share_of(5, 0, 2)):
        assert rows_of_all(2) == 5  # this process's rows of the batch
        assert rows_of_all(3) == 6  # others: as many on each process
        teacher.query(torch.rand(2, 2))
        assert teacher.spent == 5
        with pytest.raises(Exception, match="5 of 8 samples were asked; 5 more"):
            teacher.query(torch.rand(2, 2))


# the page


def test_a_process_leaves_its_group_before_it_ends(tmp_path: Path) -> None:
    script = f"""
import atexit, torch
atexit.register(lambda: print("still in a group:", torch.distributed.is_initialized()))  # what comes first is called last
import tutelage.teaching
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/group", rank=0, world_size=1)
print("in a group:", torch.distributed.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["in a group: True", "still in a group: False"], done.stderr


@pytest.mark.parametrize("script", ["train.py", "sharded.py"])
def test_the_scripts_of_the_page_run_in_two_processes(script: str, root: Path, tmp_path: Path) -> None:
    page = (root / "docs" / "scale-out.md").read_text()
    found = re.search(rf"```python file={re.escape(script)}\n(.*?)```", page, flags=re.S)
    assert found is not None
    (tmp_path / script).write_text(found[1])
    done = torchrun(2, [script], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / {"train.py": "student.safetensors"}.get(script, "sharded.safetensors"))
    assert weights["1.weight"].shape == ({"train.py": 8}.get(script, 32), 784)
