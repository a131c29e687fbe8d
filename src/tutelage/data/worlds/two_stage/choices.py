"""Exact multiple-choice knapsacks, many at once: what the inner problems of this folder come down to.

    max sum_i v_i(o_i)  over options o_i in {skip, 1, ..., m}  with  sum_i w_i(o_i) <= C                     (1)

`by_weight` is the dynamic program over integer capacities, for all samples of one instance together (they share the weights).
`by_states` keeps the states (weight, value) that no other beats, for any positive weights, one sample at a time.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Choices = NDArray[np.int64]


def by_weight(weights: Choices, values: Vector, capacity: int, *, decisions: bool = True) -> tuple[Vector, Choices]:
    """Values (S,) and options (S, n), 0 is skip, for integer weights (n, m) >= 0 and values (S, n, m); -inf forbids an option.

    Work and memory grow as S n m capacity. Without decisions the options are empty, (S, 0).
    """
    n_samples, n, options = values.shape
    best, before = np.zeros((n_samples, capacity + 1)), np.empty((n_samples, capacity + 1))
    offers = np.empty((n_samples, capacity + 1))
    taken = np.zeros((n if decisions else 0, n_samples, capacity + 1), dtype=np.int8)
    for i in range(n):
        before[:] = best
        for o in range(options):
            w = int(weights[i, o])
            if w > capacity or not (values[:, i, o] > 0).any():  # skipping is worth 0 and weighs nothing
                continue
            offer, target = offers[:, w:], best[:, w:]
            np.add(before[:, : capacity + 1 - w], values[:, i, o, None], out=offer)
            if decisions:
                taken[i][:, w:][offer > target] = o + 1
            np.maximum(target, offer, out=target)
    found = best[:, -1].copy()
    if not decisions:
        return found, np.zeros((n_samples, 0), dtype=np.int64)
    chosen = np.zeros((n_samples, n), dtype=np.int64)
    room = np.full(n_samples, capacity)
    everyone = np.arange(n_samples)
    for i in reversed(range(n)):
        chosen[:, i] = taken[i][everyone, room]
        spent = np.where(chosen[:, i] > 0, weights[i, np.maximum(chosen[:, i] - 1, 0)], 0)
        room = room - spent
    return found, chosen


def by_states(weights: Vector, values: Vector, capacity: float) -> tuple[float, Choices]:
    """Value and options (n,), 0 is skip, for weights (n, m) >= 0 and values (n, m) of one sample.

    States are cut by the bound of the linear relaxation against the best greedy answer; the answer is exact.
    """
    n, options = weights.shape
    order = np.argsort(-np.max(values / np.maximum(weights, 1e-12), axis=1), kind="stable")
    w, v = weights[order], np.where(weights[order] <= capacity, values[order], -np.inf)
    pieces = [_increments(w[i], v[i]) for i in range(n)]
    state_w, state_v, origin = np.zeros(1), np.zeros(1), []
    floor = -np.inf
    for i in range(n):
        parts_w, parts_v = [state_w], [state_v]
        for o in range(options):
            if v[i, o] > 0:
                parts_w.append(state_w + w[i, o])
                parts_v.append(state_v + v[i, o])
            else:
                parts_w.append(np.full(len(state_w), np.inf))
                parts_v.append(np.full(len(state_w), -np.inf))
        all_w, all_v = np.concatenate(parts_w), np.concatenate(parts_v)
        index = np.flatnonzero(all_w <= capacity)
        index = index[np.lexsort((-all_v[index], all_w[index]))]
        sorted_v = all_v[index]
        keep = np.concatenate([[True], sorted_v[1:] > np.maximum.accumulate(sorted_v)[:-1]])
        index = index[keep]
        rest_w, rest_v = _suffix(pieces[i + 1 :])
        low, high = _relaxed(capacity - all_w[index], rest_w, rest_v)
        floor = max(floor, float((all_v[index] + low).max()))
        index = index[all_v[index] + high >= floor - 1e-9 * (1 + abs(floor))]
        origin.append((index // len(state_w), index % len(state_w)))
        state_w, state_v = all_w[index], all_v[index]
    at = int(state_v.argmax())
    value = float(state_v[at])
    chosen = np.zeros(n, dtype=np.int64)
    for i in reversed(range(n)):
        option, parent = origin[i]
        chosen[order[i]] = option[at]
        at = int(parent[at])
    return value, chosen


def _increments(weights: Vector, values: Vector) -> list[tuple[float, float]]:
    """The concave hull of an item's options, as steps (weight, value) of falling efficiency."""
    points = sorted((float(w), float(v)) for w, v in zip(weights, values, strict=True) if v > 0)
    hull = [(0.0, 0.0)]
    for point in points:
        if point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], point) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        if len(hull) == 1 and point[0] <= 0:  # free profit
            hull = [(0.0, 0.0), point]
            continue
        hull.append(point)
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(hull)]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-12)


def _suffix(pieces: list[list[tuple[float, float]]]) -> tuple[Vector, Vector]:
    """Cumulative weights and values of all steps of the remaining items, best first; both begin with 0."""
    steps = np.array([step for piece in pieces for step in piece]).reshape(-1, 2)
    steps = steps[np.argsort(-steps[:, 1] / np.maximum(steps[:, 0], 1e-12), kind="stable")]
    return np.concatenate([[0.0], steps[:, 0].cumsum()]), np.concatenate([[0.0], steps[:, 1].cumsum()])


def _relaxed(room: Vector, weights: Vector, values: Vector) -> tuple[Vector, Vector]:
    """What is left to gain in `room` (N,): at least (whole steps, best first, stop at the first that does not fit), at most."""
    at = np.searchsorted(weights, room + 1e-12, side="right") - 1
    low = values[at]
    inside = at < len(weights) - 1
    after = np.minimum(at + 1, len(weights) - 1)
    step = np.maximum(weights[after] - weights[at], 1e-12)
    share = np.where(inside, (room - weights[at]) / step, 0.0)
    return low, low + share * (values[after] - values[at])
