"""Neur2RO against plain column-and-constraint generation to the same quality; labels against one program a sample.

Knapsacks of 20 items that no network was trained on. Ours: the best
certified iterate under the published network, its adversary the gradient. Peer: plain CCG with a copy of the second stage for
every scenario and the same exact adversary, stopped as soon as one of its plans is at least as good as ours, or after its time
limit. The notes name the instances where ours is slower, and those that the limit cut (there the ratio is an upper bound). The
network is trained before, once for the family; its time is told apart.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from common import LEAST_ROUNDS, Outcome, Settings, race, report, settings

from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.two_stage import KnapsackInstance, TwoStageProblem
from tutelage.data.worlds.two_stage.knapsack import CORRELATIONS
from tutelage.methods.decide.neur2ro import (
    CCGConfig,
    TrainingConfig,
    plain_ccg,
    robust_plan,
    sample_values,
    train_value_net,
)


def instance(n: int, i: int, purpose: str) -> KnapsackInstance:
    rng = numpy_generator(i, "bench", purpose)
    delta, h, beta = float(rng.choice((0.1, 0.5, 1.0))), float(rng.choice((40, 80))), float(rng.choice((0.1, 0.15, 0.2)))
    seed = int(rng.integers(2**31))
    return KnapsackInstance.random(n, CORRELATIONS[i % len(CORRELATIONS)], delta, h, beta, seed=seed)


def main() -> None:
    how = settings(
        __doc__,
        ("--instances", {"type": int, "default": 12, "help": "instances that are planned, each one round"}),
        ("--items", {"type": int, "default": 20}),
        ("--limit", {"type": float, "default": 600.0, "help": "seconds of plain CCG an instance"}),
    )
    labels(how)
    plans(how)


def labels(how: Settings) -> None:
    """Second stages of one instance: all at once by dynamic programming, or one program each."""
    n, count = (5, 4) if how.quick else (10, 100)
    problem = instance(n, 0, "labels")
    rng = numpy_generator(0, "bench labels")
    x = [problem.sample_x(rng) for _ in range(count)]
    xi = [problem.sample_xi(rng) for _ in range(count)]
    both = np.array(x), np.array(xi)
    fast, slow = problem.second_stage_values(*both), TwoStageProblem.second_stage(problem, *both)[0]
    assert np.allclose(fast, slow), "both must find the same values"
    found = race(
        {
            "dynamic program": lambda: problem.second_stage_values(*both),
            "programs": lambda: TwoStageProblem.second_stage(problem, *both),
        },
        how.rounds,
    )
    rounds = [[one["dynamic program"], one["programs"]] for one in found]
    name = f"Neur2RO: {count} second stages of {n} items"
    report(Outcome(name, "decide", "one dynamic program", "a mixed-integer program each (HiGHS)", rounds, "<= 0.1"), how)


def plans(how: Settings) -> None:
    n, count = (5, 1) if how.quick else (how.options.items, how.options.instances)
    if not how.quick and count < LEAST_ROUNDS:
        raise SystemExit(f"--instances: got {count}, wanted at least {LEAST_ROUNDS}")
    size = {"n_x": 3, "n_xi": 3} if how.quick else {"n_x": 5, "n_xi": 20}
    start = time.perf_counter()
    training = [instance(n - 1 + i % 3, i, "train") for i in range(6 if how.quick else 150)]
    samples = sample_values(training, **size)
    sampled = time.perf_counter() - start
    config = TrainingConfig(epochs=2 if how.quick else 200, validate_every=5)
    net = train_value_net(samples, config).net
    trained = time.perf_counter() - start
    rounds, slower, cut, quality = [], [], [], []
    for i in range(count):
        problem = instance(n, i, "test")
        start = time.perf_counter()
        plan = robust_plan(problem, net, CCGConfig(search="gradient", keep="best", time_limit=60.0))
        ours = time.perf_counter() - start
        start = time.perf_counter()
        peer = plain_ccg(problem, target=plan.value, time_limit=5.0 if how.quick else how.options.limit)
        theirs = time.perf_counter() - start
        rounds.append([ours, theirs])
        reached = peer.value <= plan.value + 1e-6 * (1 + abs(plan.value))
        name = f"{i} ({CORRELATIONS[i % len(CORRELATIONS)]}, {ours:.2f} s against {theirs:.2f} s)"
        if ours >= theirs:
            slower.append(name)
        if not reached:
            cut.append(name)
        quality.append(round(100 * (plan.value - peer.bound) / abs(peer.bound), 2))
    notes: dict[str, Any] = {
        "instances where ours is slower": slower or "none",
        "instances that the limit cut": cut or "none",
        "ours above the bound of plain CCG, %": quality,
        "seconds of labels and of labels and training": [round(sampled, 1), round(trained, 1)],
    }
    name = f"Neur2RO: plan of {n} items to the same quality"
    report(Outcome(name, "decide", "Neur2RO with certificate", "plain CCG", rounds, "<= 0.01", notes), how)


if __name__ == "__main__":
    main()
