"""ALP-GMM and the other teachers: the invariants of the paper, limit cases, values by hand, and the parts of the claim."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from tutelage.claims.claim import Cell, ClaimResult, Row
from tutelage.claims.report import write_claim_report
from tutelage.claims.tutor.alp_gmm import CLAIM
from tutelage.claims.tutor.alp_gmm.config import Config
from tutelage.claims.tutor.alp_gmm.physics import taught, unseen_tasks
from tutelage.claims.tutor.alp_gmm.supervised import change_digits, digit_splits
from tutelage.claims.tutor.alp_gmm.teachers import ShuffledReturns
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError
from tutelage.data.worlds.control import WindyCartPole
from tutelage.data.worlds.toy_grid import ToyGrid
from tutelage.methods.tutor.alp_gmm import (
    ADR,
    ALPGMM,
    RIAC,
    CovarGMM,
    History,
    Oracle,
    TaskSampler,
    TaskSpace,
    Uniform,
    episode_frames,
    frame_strip,
    run_curriculum,
    task_space_figure,
)
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint
from tutelage.teaching.curricula.mixture import Mixture

BOX = TaskSpace((-1.0, 0.0), (1.0, 10.0))
LINE = TaskSpace([0.0], [1.0])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def teachers(space: TaskSpace) -> list[TaskSampler]:
    small = {"fit_rate": 40, "ks": (2, 3)}
    return [
        Uniform(space, rng=rng()),
        ALPGMM(space, rng=rng(), **small),
        CovarGMM(space, rng=rng(), **small),
        RIAC(space, rng=rng(), region_size=40, window=40),
        Oracle(space, rng=rng(), step=[0.2] * space.dims, threshold=0.4, patience=10),
        ADR(space, rng=rng(), start=space.low, patience=5),
    ]


def half_changes(task, step: int) -> float:
    """Only the upper half of the space is learnt; the lower half always returns 0.3."""
    return min(1.0, step / 300) if task[0] > 0.5 else 0.3


# ------------------------------------------------------------------------------------------------------------- invariants


def test_the_first_tasks_are_uniform():
    teacher = ALPGMM(BOX, rng=rng())
    tasks = []
    for _ in range(250):
        task = teacher.sample()
        tasks.append(task)
        if len(tasks) < 250:
            teacher.update(task, float(task[1]) / 10)
    assert teacher.mixture is None
    for axis, (low, high) in enumerate(zip(BOX.low, BOX.high, strict=True)):
        assert kstest(np.array(tasks)[:, axis], "uniform", (low, high - low)).pvalue > 0.01


@pytest.mark.parametrize("teacher", teachers(BOX), ids=lambda one: type(one).__name__)
def test_every_task_of_every_teacher_lies_in_the_box(teacher: TaskSampler):
    for step in range(150):
        task = teacher.sample()
        assert task.shape == (2,)
        BOX.check(task)
        teacher.update(task, min(1.0, step / 100) if task[0] > 0 else 0.0)
    assert isinstance(teacher, TaskSampler)


def test_constant_returns_have_no_progress_and_do_no_harm():
    teacher = ALPGMM(BOX, rng=rng(), fit_rate=50, ks=(2, 3))
    for _ in range(120):
        teacher.update(teacher.sample(), 0.5)
    assert not teacher.progress.alps.any()
    probabilities = teacher.component_probabilities()
    np.testing.assert_allclose(probabilities, 1 / len(probabilities))


def test_a_teacher_that_only_explores_is_the_random_teacher():
    explores, random = ALPGMM(BOX, rng=rng(3), fit_rate=20, ks=(2,), random_ratio=1.0), Uniform(BOX, rng=rng(3))
    for step in range(70):
        task, other = explores.sample(), random.sample()
        assert task.tolist() == other.tolist()
        explores.update(task, step % 3)
        random.update(other, step % 3)
    assert explores.mixture is not None


@pytest.mark.parametrize("kind", [ALPGMM, CovarGMM, RIAC])
def test_tasks_come_from_where_returns_change(kind):
    options = {"region_size": 60, "window": 60} if kind is RIAC else {"fit_rate": 100, "ks": (2, 3, 4)}
    teacher, chosen = kind(LINE, rng=rng(), **options), []
    for step in range(300):
        task = teacher.sample()
        teacher.update(task, half_changes(task, step))
        if step >= 200:
            chosen.append(task[0] > 0.5)
    # a fifth is uniform; of the others more than 70 % lie in the half that changes
    assert np.mean(chosen) > 0.2 * 0.5 + 0.8 * 0.7


def test_a_component_is_weighed_by_its_mean_progress_alone():
    teacher = ALPGMM(LINE, rng=rng(), random_ratio=0.0)
    weights, means = np.array([0.9, 0.05, 0.05]), np.array([[0.2, 0.1], [0.8, 0.3], [0.5, -0.02]])
    teacher.mixture = Mixture(weights, means, np.tile(1e-6 * np.eye(2), (3, 1, 1)), 0.0)
    np.testing.assert_allclose(teacher.component_probabilities(), [0.25, 0.75, 0.0])
    tasks = np.array([teacher.sample()[0] for _ in range(400)])
    assert abs(np.mean(tasks > 0.7) - 0.75) < 0.07
    assert not np.any(abs(tasks - 0.5) < 0.1), "a mean below 0 is never drawn"


def test_covar_gmm_prefers_rising_returns():
    rising = np.array([[1e-4, 0, 0], [0, 0.08, 0.05], [0, 0.05, 0.08]])
    falling = rising * np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1]])
    mixture = Mixture(np.array([0.5, 0.5]), np.array([[0.2, 0.5, 0.5], [0.8, 0.5, 0.5]]), np.stack([rising, falling]), 0.0)
    teacher = CovarGMM(LINE, rng=rng())
    teacher.mixture = mixture
    assert teacher.component_probabilities().tolist() == [1.0, 0.0]
    both = CovarGMM(LINE, rng=rng(), absolute=True)
    both.mixture = mixture
    assert both.component_probabilities().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("index", range(6))
def test_a_teacher_saved_and_loaded_proposes_the_same_tasks(index: int, tmp_path: Path):
    teacher = teachers(BOX)[index]
    for step in range(100):
        task = teacher.sample()
        teacher.update(task, min(1.0, step / 80) if task[0] > 0 else 0.0)
    save_checkpoint(tmp_path, 1, teacher.state_dict())
    found = load_checkpoint(tmp_path)
    assert found is not None
    again = teachers(BOX)[index]
    again.load_state_dict(found[1])
    for step in range(100):
        task, other = teacher.sample(), again.sample()
        assert task.tobytes() == other.tobytes()
        teacher.update(task, math.sin(step))
        again.update(other, math.sin(step))


def test_regions_of_riac_tile_the_box():
    teacher = RIAC(BOX, rng=rng(), region_size=40, window=40)
    for step in range(600):
        task = teacher.sample()
        teacher.update(task, min(1.0, step / 500) if task[0] > 0 else 0.0)
    assert len(teacher.regions) > 4
    volumes = [float(np.prod(region.high - region.low)) for region in teacher.regions]
    assert sum(volumes) == pytest.approx(1.0)
    assert min(float((region.high - region.low).min()) for region in teacher.regions) >= 1 / 15 - 1e-12
    for point in [*rng().random((200, 2)), np.ones(2), np.zeros(2)]:
        assert sum(region.contains(point) for region in teacher.regions) == 1
    assert all(region.contains(np.array(row[:-1])) for region in teacher.regions for row in region.rows)


def test_the_progress_of_a_region_by_hand():
    teacher = RIAC(LINE, rng=rng(), region_size=40, window=4)
    rows = [(0.1, r) for r in (9.0, 0.0, 0.2, 0.6, 1.0)]
    assert teacher.progress(rows) == pytest.approx(0.7), "of the last four: |mean(0, 0.2) - mean(0.6, 1)|"
    assert teacher.progress(rows[:1]) == 0.0


# --------------------------------------------------------------------------------------------------------- oracle and ADR


def test_the_window_of_the_oracle_moves_when_the_mean_return_is_high_enough():
    space = TaskSpace((0.0, 0.0), (3.0, 6.0))
    teacher = Oracle(space, rng=rng(), step=(0.1, -0.2), threshold=230.0, patience=3)
    np.testing.assert_allclose(space.from_unit(teacher.low), (0.0, 5.0), err_msg="low stumps, wide gaps")
    for ret in (230.0, 230.0, 230.0, 229.0):
        teacher.update((0.0, 6.0), ret)
    np.testing.assert_allclose(space.from_unit(teacher.low), (0.0, 5.0))
    teacher.update((0.0, 6.0), 250.0)
    np.testing.assert_allclose(space.from_unit(teacher.low), (0.1, 4.8))
    for _ in range(300):
        teacher.update((0.0, 6.0), 300.0)
    np.testing.assert_allclose(space.from_unit(teacher.low), (2.5, 0.0), err_msg="it stops at the border")


def test_the_box_of_adr_grows_and_shrinks():
    teacher = ADR(LINE, rng=rng(), start=[0.2], step=0.1, boundary_ratio=1.0, patience=2)
    assert teacher.sample().tolist() == [0.2]
    for ret, wanted in ((0.9, (0.1, 0.3)), (0.5, (0.1, 0.3)), (0.9, (0.0, 0.4)), (0.0, (0.1, 0.3))):
        moved: dict[int, int] = {0: 0, 1: 0}
        while min(moved.values()) < 2:  # two episodes at each border
            task = teacher.sample()
            side = int(task[0] > 0.2) if teacher.borders[0, 0] < 0.2 else None
            pending = teacher._pending[LINE.to_unit(task).tobytes()][0]
            assert side in (None, pending)
            if moved[pending] < 2:
                moved[pending] += 1
                teacher.update(task, ret)
        np.testing.assert_allclose(teacher.borders[:, 0], wanted)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ALPGMM(LINE, rng=rng(), fit_rate=3), "fit_rate"),
        (lambda: ALPGMM(LINE, rng=rng(), random_ratio=1.5), "random_ratio"),
        (lambda: ALPGMM(LINE, rng=rng(), ks=()), "ks"),
        (lambda: ALPGMM(LINE, rng=rng(), fit_rate=10, ks=(20,)), "ks"),
        (lambda: ALPGMM(LINE, rng=rng(), criterion="mdl"), "criterion"),
        (lambda: RIAC(LINE, rng=rng(), region_size=5), "region_size"),
        (lambda: Oracle(LINE, rng=rng(), step=(0.0,)), "step"),
        (lambda: ADR(LINE, rng=rng(), start=(3.0,)), "start"),
        (lambda: ADR(LINE, rng=rng(), start=(0.0,), thresholds=(0.5, 0.5)), "thresholds"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(make, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        make()


# ----------------------------------------------------------------------------------------------------- pictures and claim


def test_the_figure_shows_each_task_once_and_what_cannot_be_learnt():
    space = TaskSpace((0.0, 0.0), (2.0, 1.0), ("wind", "length"))
    history = History(space)
    for task, ret in zip(space.uniform(rng(), 90), rng(1).random(90), strict=True):
        history.add(task, ret)
    figure = task_space_figure(history, windows=3, learnable=lambda task: bool(task[0] < 1))
    panels = figure.axes[:3]
    drawn = np.concatenate([panel.collections[0].get_offsets() for panel in panels])
    np.testing.assert_allclose(np.asarray(drawn), history.tasks)
    ground = np.asarray(panels[0].images[0].get_array())
    assert ground[:, :30].max() == 0
    assert ground[:, 30:].min() == 1
    line = History(LINE)
    line.add([0.3], 0.7)
    one = task_space_figure(line, windows=1).axes[0].collections[0].get_offsets()
    assert np.asarray(one).tolist() == [[0.3, 0.7]], "one parameter is drawn against the return"
    with pytest.raises(InputError, match=r"^history"):
        task_space_figure(line)


def test_a_strip_of_frames_of_an_episode(tmp_path: Path):
    env = WindyCartPole(steps=9, render_mode="rgb_array")
    frames, total = episode_frames(env, lambda state: 1, (0.0, 0.5), frames=4)
    env.close()
    assert len(frames) == 4
    assert 0 < total <= 1
    assert (frames[0] != frames[-1]).any(), "the cart has moved"
    strip = frame_strip(frames, tmp_path / "strip.png", width=60, gap=2)
    assert strip.shape == (40, 4 * 60 + 3 * 2, 3)
    assert (strip[:, 60:62] == 255).all()
    assert (tmp_path / "strip.png").stat().st_size > 100
    with pytest.raises(InputError, match="render_mode"):
        episode_frames(WindyCartPole(), lambda state: 1, (0.0, 0.5))
    with pytest.raises(InputError, match=r"^frames"):
        frame_strip([])


def test_the_report_of_the_claim_shows_the_task_space_and_a_strip_of_frames(tmp_path: Path):
    only = replace(CLAIM, arms=("alp-gmm", "rl-random-teacher"))
    cache, config = Cache.default(), CLAIM.scales["smoke"]
    rows = []
    for arm in only.arms:
        metrics = dict(CLAIM.cell(Cell(arm, 0, config, cache)))
        rows.append(Row(arm=arm, unit_id=0, status="ok", metrics=metrics, seconds=1.0))
    result = ClaimResult(
        slug="alp-gmm", scale="smoke", verdict="incomplete", claims=[], rows=rows, controls=[], data=[],
        config=config.model_dump(), environment={"threads": torch.get_num_threads()}, commit="", dirty=True,
        code_sha256="", started="", seconds=2.0,
    )  # fmt: skip
    page = write_claim_report(tmp_path / "report.html", only, result).read_text()
    assert "The toy grid under ALP-GMM, unit 0" in page
    assert "The toy grid under random tasks" not in page, "only what the cells have left is drawn"
    assert "Grey: tasks that cannot be learnt." in page
    assert "The student taught by random tasks" in page
    assert page.count("data:image/png") >= 3


def test_a_cell_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, steps = CLAIM.scales["smoke"], 0
    step = WindyCartPole.step

    def killed(self, action):
        nonlocal steps
        steps += 1
        if steps == 70:
            raise KeyboardInterrupt
        return step(self, action)

    wanted = taught(config.model_copy(update={"rl_steps": 64}), "rl-alp-gmm", 0, Cache(tmp_path / "whole"))
    monkeypatch.setattr(WindyCartPole, "step", killed)
    monkeypatch.setattr("tutelage.claims.tutor.alp_gmm.physics.PPO_SAVES", 64)
    with pytest.raises(KeyboardInterrupt):
        taught(config, "rl-alp-gmm", 0, Cache(tmp_path / "killed"))
    steps = 100
    found = taught(config, "rl-alp-gmm", 0, Cache(tmp_path / "killed"))
    assert found.model.num_timesteps == config.rl_steps
    assert steps - 100 == config.rl_steps - 64, "what was learnt before the kill was not learnt again"
    np.testing.assert_array_equal(found.history.tasks[: len(wanted.history)], wanted.history.tasks)
    assert not list((tmp_path / "killed" / "curricula-running").glob("*/step-*"))


def test_shuffled_returns_are_returns_of_other_episodes():
    told: list[float] = []

    class Listens(Uniform):
        def _learn(self, where, ret):
            told.append(ret)

    sampler = ShuffledReturns(Listens(LINE, rng=rng()), rng(1))
    for step in range(200):
        sampler.update(sampler.sample(), float(step))
    assert told[0] == 0.0
    assert all(ret <= step for step, ret in enumerate(told)), "of episodes so far only"
    assert np.mean([ret == step for step, ret in enumerate(told)]) < 0.2


def test_test_tasks_are_fixed_and_learnable():
    tasks, judge = unseen_tasks(Config(rl_tasks=20))
    assert judge is not None
    assert all(judge(task) for task in tasks)
    np.testing.assert_array_equal(tasks, unseen_tasks(Config(rl_tasks=20))[0])


def test_digits_are_changed_as_the_task_says():
    train, validation, test = digit_splits()
    assert (len(train), len(validation), len(test)) == (997, 300, 500)
    assert test.split == "test"
    x = test.images[:4]
    torch.testing.assert_close(change_digits(x, np.array([0.0, 0.0]), torch.Generator()), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(change_digits(x, np.array([0.0, 180.0]), torch.Generator()), x.flip(2, 3), atol=1e-4, rtol=0)
    noisy = change_digits(x, np.array([2.0, 0.0]), torch.Generator().manual_seed(0))
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert (noisy - x).abs().mean() > 0.3


def test_the_teacher_of_the_claim_learns_the_toy_grid_sooner_than_the_random_one():
    """A grid of 5 x 5 cubes: random tasks need 75 x 25 visits for each step away from the origin."""
    shares = []
    for kind, options in ((ALPGMM, {"fit_rate": 250, "ks": (2, 4, 6)}), (Uniform, {})):
        world = ToyGrid(n=5, d=2)
        run_curriculum(kind(world.task_space, rng=rng(), **options), world, 4000)
        shares.append(world.mastered_share)
    assert shares[0] > shares[1]
    assert CLAIM.units["claim"] == CLAIM.system.claim.n_units
