"""A chain of states whose values are known exactly: the smallest set on which a learner's critics can be checked."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.rng import generator
from tutelage.data.offline.transitions import OfflineDataset


def chain_dataset(
    n: int = 2000,
    *,
    states: int = 5,
    reward: float = 10.0,
    discount: float = 0.9,
    expectile: float = 0.7,
    wrong: float = 0.0,
    seed: int = 0,
) -> tuple[OfflineDataset, Tensor]:
    """(n transitions, exact Q (states, 2)): a chain on which -1 steps left and +1 right, both tried equally often.

    Observations are one-hot states. The step right from the last state pays `reward` and ends; the left end keeps who steps
    left. Q is what implicit Q-learning with this expectile converges to on the uncorrupted chain: of two equally frequent
    actions the expectile is tau max + (1 - tau) min, so

        V(s) = tau max_a Q(s, a) + (1 - tau) min_a Q(s, a),  Q(s, a) = r + gamma V(s')                                (1)

    expectile 1 gives the best policy's values. wrong: share of the rows whose next state is replaced by a uniform one (dynamics
    corruption); Q is that of the true chain all the same. Raises InputError.
    """
    check_integer("n", n)
    check_integer("states", states, low=2)
    check_number("discount", discount, "a number from 0 to 1", low=0, high=1)
    check_number("expectile", expectile, "a number from 0 to 1", low=0, high=1)
    check_number("wrong", wrong, "a share from 0 to 1", low=0, high=1)
    g = generator(seed, "chain")
    state = torch.randint(states, (n,), generator=g)
    right = torch.rand(n, generator=g) < 0.5
    ends = right & (state == states - 1)
    after = (state + torch.where(right, 1, -1)).clamp(0, states - 1)
    moved, chosen = torch.randint(states, (n,), generator=g), torch.rand(n, generator=g) < wrong
    after = torch.where(chosen, moved, after)
    eye = torch.eye(states)
    data = OfflineDataset(
        eye[state], torch.where(right, 1.0, -1.0)[:, None], torch.where(ends, reward, 0.0), eye[after], ends,
        torch.ones(n, dtype=torch.bool) & ~ends, torch.tensor([-1.0]), torch.tensor([1.0]), name="chain", kind="generated",
        origin={"generator": f"a chain of {states} states, seed {seed}", "version": "1"},
    )  # fmt: skip
    value, q = torch.zeros(states, dtype=torch.float64), torch.zeros(states, 2, dtype=torch.float64)
    for _ in range(10_000):
        q = discount * torch.stack((torch.cat((value[:1], value[:-1])), torch.cat((value[1:], torch.zeros(1)))), 1)
        q[-1, 1] = reward
        new = expectile * q.amax(1) + (1 - expectile) * q.amin(1)
        if bool((new - value).abs().max() < 1e-12):
            break
        value = new
    return data, q.float()
