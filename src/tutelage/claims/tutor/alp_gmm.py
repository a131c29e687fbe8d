"""The claim of ALP-GMM: does a learner master more of a space of tasks when its learning progress chooses the next task?

Three settings, a unit is a seed for all of them. (1) The toy grid, 10 x 10 cubes of tasks that unlock one another, with the
teachers of the paper, and once more with two dimensions that do nothing (arms that end in -irrelevant). (2) Real physics
(rl-...): CartPole in a wind that is too strong in half of the space; the student is PPO from Stable-Baselines3. (3) A
supervised curriculum (digits-...): noise and rotation of digits as tasks.

The control `shuffled-returns` is ALP-GMM that is told, in place of each return, that of a random episode so far. All arms of
a setting have the same student, budget and test tasks, which are fixed before training; only the teacher differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.cache import Cache
from tutelage.core.rng import derive, generator, numpy_generator, seeded
from tutelage.data.images import ImageSet
from tutelage.data.sets import digits
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.data.worlds.toy_grid import ToyGrid
from tutelage.methods.tutor.alp_gmm.mixtures import ALPGMM, CovarGMM
from tutelage.methods.tutor.alp_gmm.riac import RIAC
from tutelage.methods.tutor.alp_gmm.windows import ADR, Oracle
from tutelage.teaching.checkpoint import save_checkpoint
from tutelage.teaching.curricula.run import History, run_curriculum
from tutelage.teaching.curricula.sampler import TaskSampler, Uniform
from tutelage.teaching.curricula.supervised import SupervisedLearner


class Config(ClaimConfig):
    """What `--set` may change."""

    cubes: int = Field(10, ge=2, description="of the toy grid, a dimension")
    irrelevant: int = Field(2, ge=1, description="dimensions that do nothing, in the arms that end so")
    episodes: int = Field(20_000, ge=1, description="on the toy grid")
    fit_rate: int = Field(250, ge=10, description="episodes between fits of a mixture")
    random_ratio: float = Field(0.2, ge=0, le=1)
    rl_world: Literal["windy-cartpole", "weak-pendulum", "stump-track"] = "windy-cartpole"
    rl_student: Literal["PPO", "SAC"] = "PPO"
    rl_steps: int = Field(60_000, ge=1, description="environment steps of a student")
    rl_episode: int = Field(200, ge=5, description="longest episode, steps")
    rl_rollout: int = Field(128, ge=2, description="PPO: steps of each of the 8 environments between updates")
    rl_fit_rate: int = Field(100, ge=10, description="as fit_rate; an RL student has fewer episodes")
    rl_tasks: int = Field(60, ge=1, description="fixed test tasks, all learnable where that is known")
    digits_episodes: int = Field(2000, ge=1)
    digits_fit_rate: int = Field(250, ge=10)
    digits_tasks: int = Field(60, ge=1, description="fixed test tasks, drawn uniformly")


TOY = ("alp-gmm", "random-teacher", "riac", "covar-gmm", "adr", "oracle", "shuffled-returns")
ARMS = (
    *TOY,
    "alp-gmm-irrelevant", "random-teacher-irrelevant",
    "rl-alp-gmm", "rl-random-teacher", "rl-shuffled-returns",
    "digits-alp-gmm", "digits-random-teacher",
)  # fmt: skip
CONTROLS = ("shuffled-returns",)
UNSEEN = "test tasks"  # name of the stream that test tasks are drawn from, the same ones for every unit


class ShuffledReturns:
    """A sampler that is told the return of a random episode so far, the present one included, in place of the true one."""

    def __init__(self, inner: TaskSampler, rng: np.random.Generator) -> None:
        self.inner, self.rng, self.space = inner, rng, inner.space
        self.told: list[float] = []

    def sample(self) -> Floats:
        return self.inner.sample()

    def update(self, task: ArrayLike, ret: float) -> None:
        self.told.append(float(ret))
        self.inner.update(task, self.told[int(self.rng.integers(len(self.told)))])

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "told": list(self.told), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.told, self.rng.bit_generator.state = list(state["told"]), state["rng"]


def cell(cell: Cell) -> Mapping[str, float]:
    """Teach one learner and test it. Shares and accuracies in per cent."""
    if cell.arm.startswith("rl-"):
        return _rl(cell)
    if cell.arm.startswith("digits-"):
        return _digits(cell)
    world, history = toy(cell.config, cell.arm, cell.unit)
    if cell.unit == 0:
        keep_history(cell, history)
    return {
        "mastered_share": 100 * world.mastered_share,
        "unlocked_share": 100 * float((world.competence > 0).mean()),
        "mean_return": float(history.returns.mean()),
    }


def teacher(arm: str, space: TaskSpace, seed: int, *, fit_rate: int, random_ratio: float = 0.2, **options: Any) -> TaskSampler:
    """The teacher that the name of an arm says, seeded. options: of all teachers."""
    rng = numpy_generator(seed, "teacher")
    name = arm.removeprefix("rl-").removeprefix("digits-").removesuffix("-irrelevant")
    start = [*space.low]
    if name == "random-teacher":
        return Uniform(space, rng=rng, **options)
    if name == "riac":
        return RIAC(space, rng=rng, **options)
    if name == "adr":
        return ADR(space, rng=rng, start=start, **options)
    if name == "oracle":
        steps = [0.1 * (b - a) for a, b in zip(space.low, space.high, strict=True)]
        return Oracle(space, rng=rng, step=steps, threshold=0.75, **options)
    mixture: dict[str, Any] = {"fit_rate": fit_rate, "random_ratio": random_ratio, **options}
    if name == "covar-gmm":
        return CovarGMM(space, rng=rng, **mixture)
    found = ALPGMM(space, rng=rng, **mixture)
    return ShuffledReturns(found, numpy_generator(seed, "shuffled")) if name == "shuffled-returns" else found


def kept(config: Config, arm: str, unit: int, threads: int) -> dict[str, Any]:
    """The key under which the cache keeps what an arm has taught: for later cells, and for the pictures of the report."""
    code = code_sha256("tutelage.claims.tutor.alp_gmm")
    return {
        "arm": arm, "unit": unit, "config": config.model_dump(), "code": code, "torch": torch.__version__, "threads": threads,
    }  # fmt: skip


def keep_history(cell: Cell, history: History) -> None:
    def build(folder: Path) -> None:
        save_checkpoint(folder, len(history), {"history": history.state_dict()})

    cell.cache.get("curricula", kept(cell.config, cell.arm, cell.unit, torch.get_num_threads()), build)


# --------------------------------------------------------------------------------------------------------------- toy grid


def toy(config: Config, arm: str, unit: int) -> tuple[ToyGrid, History]:
    world = ToyGrid(config.cubes, 2, config.irrelevant if arm.endswith("-irrelevant") else 0)
    seed = derive(unit, "alp-gmm", "toy")
    sampler = teacher(arm, world.task_space, seed, fit_rate=config.fit_rate, random_ratio=config.random_ratio)
    return world, run_curriculum(sampler, world, config.episodes)


# ------------------------------------------------------------------------------------------------------------ real physics


def _rl(cell: Cell) -> dict[str, float]:
    config: Config = cell.config
    student = taught(config, cell.arm, cell.unit, cell.cache)
    tasks, judge = unseen_tasks(config)
    found = student.evaluate(tasks, seed=derive(0, UNSEEN, "starts"))
    measured = {"success": 100 * float(found.success.mean()), "test_return": float(found.returns.mean())}
    if judge is not None:
        measured["unlearnable_share"] = 100 * student.history.share(lambda task: not judge(task))
    return {**measured, "episodes": float(len(student.history))}


def taught(config: Config, arm: str, unit: int, cache: Cache) -> Any:
    """The SB3Student of an arm, taught; kept in the cache with its teacher and history, for the pictures too."""
    from tutelage.teaching.curricula.students import SB3Student

    seed = derive(unit, "alp-gmm", "rl")
    space = rl_world(config)().task_space
    returns = (-150.0, 350.0) if config.rl_world == "stump-track" else None
    sampler = teacher(
        arm, space, seed, fit_rate=config.rl_fit_rate, random_ratio=config.random_ratio, returns=returns
    )  # fmt: skip
    student = SB3Student(config.rl_student, rl_world(config), sampler, seed=seed, **_student(config))

    def build(folder: Path) -> None:
        student.learn(config.rl_steps)
        student.save(folder)

    student.load(cache.get("curricula", kept(config, arm, unit, torch.get_num_threads()), build))
    return student


def rl_world(config: Config, **options: Any) -> Callable[[], Any]:
    """What makes an environment of the RL arms."""
    if config.rl_world == "stump-track":
        from tutelage.data.worlds.stump_track import StumpTrack

        return lambda: StumpTrack(config.rl_episode, **options)
    from tutelage.data.worlds.control import WeakPendulum, WindyCartPole

    world = WindyCartPole if config.rl_world == "windy-cartpole" else WeakPendulum
    return lambda: world(config.rl_episode, **options)


def _student(config: Config) -> dict[str, Any]:
    if config.rl_student == "SAC":  # the paper's
        return {
            "n_envs": 1, "learning_rate": 1e-3, "ent_coef": 0.005, "batch_size": 1000, "buffer_size": 2_000_000,
            "train_freq": 10, "gradient_steps": 10, "gamma": 0.99, "tau": 0.005, "learning_starts": 10_000,
            "policy_kwargs": {"net_arch": [400, 300]}, "save_every": 200_000,
        }  # fmt: skip
    return {
        "n_envs": 8, "n_steps": config.rl_rollout, "batch_size": min(256, 8 * config.rl_rollout), "n_epochs": 10,
        "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.9,
    }  # fmt: skip


def unseen_tasks(config: Config) -> tuple[Floats, Callable[[Floats], bool] | None]:
    """(tasks (n, d), what says whether a task is learnable, where anyone knows)."""
    world = rl_world(config)()
    judge = getattr(world, "learnable", None)
    rng = numpy_generator(0, UNSEEN, "rl")
    tasks: list[Floats] = []
    while len(tasks) < config.rl_tasks:
        task = world.task_space.uniform(rng)
        if judge is None or judge(task):
            tasks.append(task)
    return np.array(tasks), judge


# ---------------------------------------------------------------------------------------------------- supervised curriculum

DIGITS_SPACE = TaskSpace((0.0, 0.0), (2.0, 180.0), ("standard deviation of the noise", "rotation, degrees"))


def change_digits(x: Tensor, task: Floats, rng: torch.Generator) -> Tensor:
    """Images (B, 1, 8, 8) in [0, 1], turned by the task's angle to either side, with its noise, clamped to [0, 1]."""
    sides = torch.randint(2, (len(x),), generator=rng).mul(2).sub(1)
    angles = sides * math.radians(float(task[1]))
    zeros = torch.zeros_like(angles)
    rows = [torch.stack(row, 1) for row in ((angles.cos(), -angles.sin(), zeros), (angles.sin(), angles.cos(), zeros))]
    turned = F.grid_sample(x, F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False), align_corners=False)
    noise = torch.randn(x.shape, generator=rng)
    return (turned + float(task[0]) * noise).clamp(0, 1)


def digit_splits() -> tuple[ImageSet, ImageSet, ImageSet]:
    """(train, validation, test), the same for every unit."""
    rest, test = digits().split_off(500, split="test")
    train, validation = rest.split_off(300)
    return train, validation, test


def _digits(cell: Cell) -> dict[str, float]:
    config: Config = cell.config
    train, validation, test = digit_splits()
    seed = derive(cell.unit, "alp-gmm", "digits")
    with seeded(seed, "net"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    learner = SupervisedLearner(
        net, (train.images, train.labels), (validation.images, validation.labels), change_digits,
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), seed=seed,
    )  # fmt: skip
    sampler = teacher(
        cell.arm, DIGITS_SPACE, seed, fit_rate=config.digits_fit_rate, random_ratio=config.random_ratio
    )  # fmt: skip
    history = run_curriculum(sampler, learner, config.digits_episodes)
    net.eval()
    right = []
    with torch.no_grad():
        for i, task in enumerate(DIGITS_SPACE.uniform(numpy_generator(0, UNSEEN, "digits"), config.digits_tasks)):
            x = change_digits(test.images, task, generator(0, UNSEEN, "digits", i))
            right.append(float((net(x).argmax(1) == test.labels).double().mean()))
    easy = np.array(right)[np.argsort(-np.array(right))[: max(1, len(right) // 2)]]
    return {
        "accuracy": 100 * float(np.mean(right)),
        "accuracy_easier_half": 100 * float(easy.mean()),
        "mean_noise": float(history.tasks[:, 0].mean()),
    }


def data(config: Config) -> list[dict[str, Any]]:
    rl = rl_world(config)()  # an extra that is missing is told before anything runs
    grid = {"name": f"ToyGrid, {config.cubes} x {config.cubes}", "n": config.episodes, "split": ""}
    made = {"kind": "generated", "generator": "tutelage.data.worlds.toy_grid", "version": 1}
    world = {"name": type(rl).__name__, "kind": "environment", "split": "", "n": config.rl_steps}
    return [{**grid, **made}, {**world, "generator": type(rl).__module__, "version": 1}, digits().describe()]


CLAIM = Claim(
    slug="alp-gmm",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            cubes=2, episodes=200, fit_rate=100, rl_steps=128, rl_episode=20, rl_rollout=8, rl_fit_rate=10, rl_tasks=3,
            digits_episodes=30, digits_fit_rate=20, digits_tasks=2,
        ),
        "claim": Config(),
        "paper": Config(
            rl_world="stump-track", rl_student="SAC", rl_steps=20_000_000, rl_episode=2000, rl_fit_rate=250, rl_tasks=50,
        ),
    },
    units={"smoke": 2, "claim": 10, "paper": 32},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "With two further dimensions that do nothing, ALP-GMM masters a larger share of the toy grid than random tasks.",
            "mastered_share", "alp-gmm-irrelevant", "random-teacher-irrelevant",
        ),
        Sentence(
            "On the toy grid ALP-GMM masters at most 5 points less than RIAC.",
            "mastered_share", "alp-gmm", "riac", kind="noninferiority", margin=-5.0,
        ),
        Sentence(
            "On the toy grid ALP-GMM masters at most 5 points less than Covar-GMM.",
            "mastered_share", "alp-gmm", "covar-gmm", kind="noninferiority", margin=-5.0,
        ),
        Sentence(
            "On the toy grid ALP-GMM masters at most 5 points less than a box that grows from the origin (ADR).",
            "mastered_share", "alp-gmm", "adr", kind="noninferiority", margin=-5.0,
        ),
        Sentence(
            "On CartPole in wind, a PPO student taught by ALP-GMM succeeds on at most 5 points less of the learnable test "
            "tasks than one taught by random tasks.",
            "success", "rl-alp-gmm", "rl-random-teacher", kind="noninferiority", margin=-5.0,
        ),
        Sentence(
            "On CartPole in wind, a PPO student taught by ALP-GMM succeeds on more of the learnable test tasks than one "
            "taught by random tasks.",
            "success", "rl-alp-gmm", "rl-random-teacher",
        ),
        Sentence(
            "On CartPole in wind, fewer than 35 % of ALP-GMM's episodes are on tasks that cannot be learnt.",
            "unlearnable_share", "rl-alp-gmm", kind="threshold", better="lower", margin=35.0,
        ),
        Sentence(
            "On CartPole in wind, ALP-GMM spends fewer episodes on tasks that cannot be learnt than with shuffled returns.",
            "unlearnable_share", "rl-alp-gmm", "rl-shuffled-returns", better="lower",
        ),
        Sentence(
            "On digits with noise and rotation, a net taught by ALP-GMM is more accurate over the whole space than one taught "
            "by random tasks.",
            "accuracy", "digits-alp-gmm", "digits-random-teacher",
        ),
    ),
    axes=("mean_return", "mastered_share"),
    metric_labels={
        "mean_return": "mean return of the episodes",
        "mastered_share": "cubes mastered, %",
        "unlocked_share": "cubes with any competence, %",
        "success": "learnable test tasks solved, %",
        "unlearnable_share": "episodes on tasks that cannot be learnt, %",
        "accuracy": "mean test accuracy over the space, %",
        "accuracy_easier_half": "mean test accuracy on the easier half, %",
    },
)  # fmt: skip
