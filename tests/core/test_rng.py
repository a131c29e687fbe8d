"""Randomness is passed: named streams, noise for each sample, and global generators that are put back."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.core.rng import derive, generator, normal, numpy_generator, rng_state, seeded, set_rng_state, uniform


def everything() -> tuple[Any, ...]:
    """A few numbers of each global generator, all kinds of them."""
    return (
        torch.rand(2).tolist(),
        torch.randn(3).tolist(),
        np.random.rand(2).tolist(),
        float(np.random.randn()),
        random.random(),
        random.gauss(0, 1),
    )


def test_derived_seeds_by_hand() -> None:
    # the first 8 bytes of SHA-256 of "7/attack/3", without the last bit
    first = int(hashlib.sha256(b"7/attack/3").hexdigest()[:16], 16)
    assert derive(7, "attack", 3) == first // 2
    assert derive(7) == int(hashlib.sha256(b"7").hexdigest()[:16], 16) // 2


def test_streams_differ_by_seed_and_by_name() -> None:
    seeds = {derive(seed, *names) for seed in range(20) for names in ((), ("a",), ("b",), ("a", 0), ("a", 1), ("a", "b"))}
    assert len(seeds) == 20 * 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_themselves_and_leave_the_global_ones_alone() -> None:
    state = rng_state()
    first = torch.rand(3, generator=generator(1, "x"))
    assert torch.equal(first, torch.rand(3, generator=generator(1, "x")))
    assert not torch.equal(first, torch.rand(3, generator=generator(1, "y")))
    assert numpy_generator(1, "x").random() == numpy_generator(1, "x").random()
    assert numpy_generator(1, "x").random() != numpy_generator(2, "x").random()
    assert torch.equal(torch.get_rng_state(), state["torch"])
    assert np.random.get_state()[2] == state["numpy"][2]
    assert generator(1).device.type == "cpu"


@pytest.mark.parametrize("draw", [uniform, normal])
def test_noise_of_a_sample_does_not_depend_on_its_batch(draw: Any) -> None:
    whole = draw((3, 2, 4), [generator(i) for i in range(3)])
    parts = [draw((1, 2, 4), [generator(i)]) for i in range(3)]
    assert whole.shape == (3, 2, 4)
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole[0], whole[1])


def test_noise_of_one_generator() -> None:
    assert torch.equal(uniform((3, 2), generator(5)), torch.rand(3, 2, generator=generator(5)))
    assert torch.equal(normal((3, 2), generator(5)), torch.randn(3, 2, generator=generator(5)))


def test_noise_has_its_distribution() -> None:
    u, n = uniform((2, 2000), [generator(0), generator(1)]), normal((2, 2000), [generator(0), generator(1)])
    assert 0 <= float(u.min()) < float(u.max()) < 1
    # standard errors of 4000: 0.289 / 63.2 = 0.0046 for the mean of uniform, 0.0158 of normal numbers; four of them
    assert float(u.mean()) == pytest.approx(0.5, abs=0.019)
    assert float(n.mean()) == pytest.approx(0, abs=0.064)
    assert float(n.std()) == pytest.approx(1, abs=0.045)


def test_state_round_trip() -> None:
    with seeded(0, "a test of its own"):
        everything()  # leaves a second normal number waiting in numpy's and Python's generator
        np.random.randn()
        random.gauss(0, 1)
        state = rng_state()
        first = everything()
        everything()
        set_rng_state(state)
        assert everything() == first


def test_the_state_keeps_the_waiting_normal_number() -> None:
    """numpy and Python draw normal numbers in pairs: after an odd number of them the second one is part of the state."""
    with seeded(3):
        np.random.randn()
        random.gauss(0, 1)
        state = rng_state()
        second = np.random.randn(), random.gauss(0, 1)
        np.random.seed(99)
        random.seed(99)
        set_rng_state(state)
        assert (np.random.randn(), random.gauss(0, 1)) == second


def test_the_state_is_of_plain_types() -> None:
    """A checkpoint holds tensors, numbers, texts, lists and None."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (int, float, str, bool, torch.Tensor)

    assert plain(rng_state())


def test_seeded_blocks_repeat_themselves() -> None:
    with seeded(4, "init"):
        first = everything()
    with seeded(4, "init"):
        assert everything() == first
    with seeded(4, "other"):
        other = everything()
    with seeded(5, "init"):
        another = everything()
    for one, two, three in zip(first, other, another, strict=True):
        assert one != two
        assert one != three


def test_seeded_puts_back_what_was_there() -> None:
    before = rng_state()
    expected = everything()
    set_rng_state(before)
    with seeded(1):
        everything()
        with seeded(2):
            everything()
    assert everything() == expected
    set_rng_state(before)
    with pytest.raises(KeyboardInterrupt), seeded(1):
        raise KeyboardInterrupt
    assert everything() == expected


def test_a_block_inside_does_not_move_the_one_outside() -> None:
    with seeded(1):
        plain = everything(), everything()
    with seeded(1):
        first = everything()
        with seeded(2):
            everything()
        assert (first, everything()) == plain
