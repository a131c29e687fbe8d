"""The claim of ALP-GMM: does a learner master more of a space of tasks when its learning progress chooses the next task?

Three settings, a unit is a seed for all of them. (1) The toy grid, 10 x 10 cubes of tasks that unlock one another, with the
teachers of the paper, and once more with two dimensions that do nothing (arms that end in -irrelevant). (2) Real physics
(rl-...): CartPole in a wind that is too strong in half of the space; the student is PPO from Stable-Baselines3. (3) A
supervised curriculum (digits-...): noise and rotation of digits as tasks.

The control `shuffled-returns` is ALP-GMM that is told, in place of each return, that of a random episode so far. All arms of
a setting have the same student, budget and test tasks, which are fixed before training; only the teacher differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.claims.claim import Cell, Claim, Sentence
from tutelage.claims.tutor.alp_gmm.config import Config
from tutelage.claims.tutor.alp_gmm.physics import on_physics, rl_world
from tutelage.claims.tutor.alp_gmm.supervised import on_digits
from tutelage.claims.tutor.alp_gmm.teachers import keep_history, teacher
from tutelage.core.rng import derive
from tutelage.data.sets import digits
from tutelage.data.worlds.toy_grid import ToyGrid
from tutelage.teaching.curricula.run import History, run_curriculum

TOY = ("alp-gmm", "random-teacher", "riac", "covar-gmm", "adr", "oracle", "shuffled-returns")
ARMS = (
    *TOY,
    "alp-gmm-irrelevant", "random-teacher-irrelevant",
    "rl-alp-gmm", "rl-random-teacher", "rl-shuffled-returns",
    "digits-alp-gmm", "digits-random-teacher",
)  # fmt: skip
CONTROLS = ("shuffled-returns",)


def cell(cell: Cell) -> Mapping[str, float]:
    """Teach one learner and test it. Shares and accuracies in per cent."""
    if cell.arm.startswith("rl-"):
        return on_physics(cell)
    if cell.arm.startswith("digits-"):
        return on_digits(cell)
    world, history = toy(cell.config, cell.arm, cell.unit)
    if cell.unit == 0:
        keep_history(cell, history)
    return {
        "mastered_share": 100 * world.mastered_share,
        "unlocked_share": 100 * float((world.competence > 0).mean()),
        "mean_return": float(history.returns.mean()),
    }


def toy(config: Config, arm: str, unit: int) -> tuple[ToyGrid, History]:
    world = ToyGrid(config.cubes, 2, config.irrelevant if arm.endswith("-irrelevant") else 0)
    seed = derive(unit, "alp-gmm", "toy")
    sampler = teacher(arm, world.task_space, seed, fit_rate=config.fit_rate, random_ratio=config.random_ratio)
    return world, run_curriculum(sampler, world, config.episodes)


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
