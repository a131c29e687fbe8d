"""Randomness is passed, never global: CPU generators derived from a seed and a name.

Noise is drawn on the CPU and moved, so that results do not depend on the device. Code that knows only the
global generators (initialisation, dropout, third-party code) runs inside `seeded`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.shares import current_share

# one generator for a whole batch, or one a sample (then the noise of a sample does not depend on its batch)
Noise = torch.Generator | Sequence[torch.Generator]


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for a named stream: `derive(0, "attack", 3)` is unrelated to `derive(0, "attack", 4)`."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the stream `names` of `seed`."""
    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: object) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *names))


def uniform(shape: Sequence[int], noise: Noise) -> Tensor:
    """Numbers in [0, 1) of the given shape (B, ...), on the CPU."""
    return _drawn(torch.rand, shape, noise)


def normal(shape: Sequence[int], noise: Noise) -> Tensor:
    """Standard normal numbers of the given shape (B, ...), on the CPU."""
    return _drawn(torch.randn, shape, noise)


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], noise: Noise) -> Tensor:
    if not isinstance(noise, torch.Generator):
        return torch.stack([draw(tuple(shape[1:]), generator=g) for g in noise])
    share = current_share()
    if share is None:
        return draw(tuple(shape), generator=noise)
    if shape[0] == share.rows:  # the noise of the whole batch is drawn, so that it does not depend on who computes a row
        return draw((share.whole, *shape[1:]), generator=noise)[share.start : share.stop]
    # another number of rows, perhaps not the same on every process: one draw keeps their generators in step
    own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=noise)) + share.start)
    return draw(tuple(shape), generator=own)


def rng_state() -> dict[str, Any]:
    """The state of the global generators, of types that our checkpoints can hold."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Run a block with the global generators of torch, numpy and Python seeded; put back what was there."""
    before = rng_state()
    value = derive(seed, *names)
    try:
        torch.manual_seed(value)
        np.random.seed(value % 2**32)
        random.seed(value)
        yield
    finally:
        set_rng_state(before)
