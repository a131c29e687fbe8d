"""The Monte-Carlo noise engine: run a model on many noisy copies of each input, and reduce what it says as it comes.

The noise of an example depends on the seed, the name of the stream and the example's own id; not on the batch size, on
its neighbours or on how many draws are wanted in all (draw j is the same for 100 draws and for 10,000). So results are
equal for every batch size up to the float error of the model, and a clean and an attacked copy of an image can meet the
same noise (same id) or fresh noise (another stream).

>>> noise = GaussianNoise(0.25, seed=0)
>>> moments = Moments()
>>> monte_carlo(model, x, noise, draws=256, into=[moments])
>>> moments.mean, moments.variance                         # (B, classes) of the logits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_integer, check_positive
from tutelage.core.errors import InputError, QueryBudgetExceeded
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive
from tutelage.models.checks import check_inputs, run_model
from tutelage.models.guard import evaluating

# (rows of x, outputs (E, m, classes) of m further draws of each of these E examples)
Reduction = Callable[[slice, Tensor], None]

BLOCK = 8192  # numbers drawn at once, about: whole draws, always as many, so that the stream does not depend on the batch
LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class GaussianNoise:
    """N(0, sigma^2 I) in units of the inputs; each example has its own sequence of draws.

    seed, stream: which sequences; noise of another stream is fresh noise for the same examples.
    """

    sigma: float
    seed: int = 0
    stream: str = "noise"

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma, "a standard deviation > 0, in units of the inputs")
        check_integer("seed", self.seed, low=-(2**63))
        if not isinstance(self.stream, str):
            raise InputError("stream", self.stream, "the name of a stream of noise, such as 'certify'")

    def fresh(self, stream: str) -> GaussianNoise:
        """The same noise from another stream."""
        return replace(self, stream=f"{self.stream}/{stream}")

    def seeds(self, ids: Sequence[int]) -> list[int]:
        """One seed an example, no two alike for ids below 2^32: torch's CPU generator keeps 32 bits of a seed."""
        key = derive(self.seed, "gaussian", self.stream)
        return [_mixed((int(i) + key) & LOW) ^ (key >> 31 & LOW) for i in ids]

    def draws(self, shape: Sequence[int], n: int, *, example: int = 0) -> Tensor:
        """The first n draws for an example of that id, (n, *shape), float32 on the CPU."""
        check_integer("n", n)
        out = torch.empty((n, *shape))
        _Source(self.seeds([example])[0], tuple(shape), self.sigma).fill(out)
        return out


class _Source:
    """The draws of one example, in order. It draws whole blocks, always of the same size, and keeps what is left over."""

    def __init__(self, seed: int, shape: tuple[int, ...], sigma: float) -> None:
        self.generator, self.sigma = torch.Generator().manual_seed(seed), sigma
        self.block = max(1, BLOCK // max(1, torch.Size(shape).numel()))
        self.left = torch.empty((0, *shape))

    def fill(self, out: Tensor) -> None:
        """Write the next len(out) draws into `out` (m, *shape), which must be contiguous float32."""
        at = min(len(out), len(self.left))
        if at:
            out[:at] = self.left[:at]
            self.left = self.left[at:]
        while len(out) - at >= self.block:
            out[at : at + self.block].normal_(0.0, self.sigma, generator=self.generator)
            at += self.block
        if at < len(out):
            rest = torch.empty((self.block, *out.shape[1:])).normal_(0.0, self.sigma, generator=self.generator)
            out[at:] = rest[: len(out) - at]
            self.left = rest[len(out) - at :]


@dataclass
class PassBudget:
    """At most `limit` samples may go through a model; work that would pass it raises QueryBudgetExceeded before it starts."""

    limit: int
    spent: int = 0

    def __post_init__(self) -> None:
        check_integer("limit", self.limit, low=0)
        check_integer("spent", self.spent, low=0)

    def spend(self, passes: int) -> None:
        if self.spent + passes > self.limit:
            raise QueryBudgetExceeded(
                f"budget: {self.spent} of {self.limit} passes were spent; {passes} more are over it (fewer draws or examples)"
            )
        self.spent += passes


def monte_carlo(
    model: nn.Module,
    x: Tensor,
    noise: GaussianNoise,
    *,
    draws: int,
    into: Sequence[Reduction],
    ids: Sequence[int] | Tensor | None = None,
    batch_size: int = 1024,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    budget: PassBudget | None = None,
    progress: Progress = QUIET,
    name: str = "noisy passes",
) -> int:
    """Run `model` on `draws` noisy copies of each of x (B, ...) and hand the outputs to every reduction in `into`.

    A reduction is called with (rows, outputs): outputs (E, m, classes) are m more draws of each example x[rows]. Examples
    come in order, the draws of each in theirs. The noisy copies are not cut to `bounds`, the range of x itself.
    ids: one whole number an example, what its noise is tied to (default: its place). batch_size: samples a pass.
    The model is in evaluation mode, without gradients, and handed back as it was; noisy copies go to where it lives. Returns
    the number of passes.

    Raises InputError for bad arguments and QueryBudgetExceeded, both before any pass; ModelChanged as `evaluating` does.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    check_noise(noise)
    check_inputs(x, bounds)
    check_integer("draws", draws)
    check_integer("batch_size", batch_size)
    for reduction in into:
        check_callable("into", reduction, "reductions: functions of (rows, outputs)")
    seeds = noise.seeds(checked_ids(ids, len(x)))
    total = len(x) * draws
    if budget is not None:
        if not isinstance(budget, PassBudget):
            raise InputError("budget", type(budget).__name__, "a PassBudget, such as PassBudget(1_000_000)")
        budget.spend(total)

    shape = tuple(x.shape[1:])
    at_once, per_pass = max(1, batch_size // draws), min(draws, batch_size)
    buffer = torch.empty((min(at_once, len(x)) * per_pass, *shape))  # one, filled again in every pass
    in_place = x.device.type == "cpu" and x.dtype == torch.float32
    device = device_of(model, x)
    with evaluating(model), torch.no_grad(), progress.task(name, total) as task:
        for start in range(0, len(x), at_once):
            rows = slice(start, min(start + at_once, len(x)))
            sources = [_Source(seed, shape, noise.sigma) for seed in seeds[rows]]
            centres = x[rows].unsqueeze(1)
            for first in range(0, draws, per_pass):
                m = min(per_pass, draws - first)
                noisy = buffer[: len(sources) * m].view(len(sources), m, *shape)
                for source, out in zip(sources, noisy, strict=True):
                    source.fill(out)
                noisy = noisy.add_(centres) if in_place else noisy.to(x).add_(centres)
                logits = run_model(model, noisy.flatten(0, 1).to(device))
                outputs = logits.reshape(len(sources), m, logits.shape[1])
                for reduction in into:
                    reduction(rows, outputs)
                task.advance(len(sources) * m)
    return total


@dataclass
class Votes:
    """How often each class had the largest output: `counts` (B, classes) int64 on the CPU; of equal outputs, the first."""

    _parts: dict[int, Tensor] = field(default_factory=dict)  # first row -> counts

    def __call__(self, rows: slice, outputs: Tensor) -> None:
        examples, _, classes = outputs.shape
        cells = outputs.argmax(2) + classes * torch.arange(examples, device=outputs.device)[:, None]
        counts = torch.bincount(cells.flatten(), minlength=examples * classes).view(examples, classes).cpu()
        before = self._parts.get(rows.start)
        self._parts[rows.start] = counts if before is None else before + counts

    @property
    def counts(self) -> Tensor:
        return torch.cat([self._parts[row] for row in sorted(self._parts)])


@dataclass
class Moments:
    """Mean and variance over the draws, each (B, classes) float64 on the CPU, in one pass.

    of: what of the outputs (E, m, classes) to average, called on (rows, outputs); the outputs themselves without it.
    Batches of draws are joined by the update of Chan, Golub & LeVeque (1983), so that nothing is lost to cancellation.
    """

    of: Callable[[slice, Tensor], Tensor] | None = None
    _parts: dict[int, tuple[int, Tensor, Tensor]] = field(default_factory=dict)  # first row -> draws, mean, sum of squares

    def __call__(self, rows: slice, outputs: Tensor) -> None:
        values = (outputs if self.of is None else self.of(rows, outputs)).double()
        m, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square_().sum(1)
        if rows.start in self._parts:
            before, old, old_squares = self._parts[rows.start]
            gap, total = mean - old, before + m
            mean = old + gap * (m / total)
            squares = old_squares + squares + gap.square() * (before * m / total)
            m = total
        self._parts[rows.start] = m, mean, squares

    @property
    def n(self) -> int:
        """Draws of each example so far."""
        return next(iter(self._parts.values()))[0] if self._parts else 0

    @property
    def mean(self) -> Tensor:
        return torch.cat([self._parts[row][1].cpu() for row in sorted(self._parts)])

    @property
    def variance(self) -> Tensor:
        """Unbiased: n - 1 in the denominator. Raises InputError for a single draw."""
        if self.n < 2:
            raise InputError("draws", self.n, "at least 2 draws for a variance")
        return torch.cat([self._parts[row][2].cpu() for row in sorted(self._parts)]) / (self.n - 1)


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Where a model lives: the device of its first parameter or buffer, else that of x."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return x.device


def check_noise(noise: object) -> None:
    if not isinstance(noise, GaussianNoise):
        raise InputError("noise", type(noise).__name__, "a GaussianNoise, such as GaussianNoise(0.25, seed=0)")


def checked_ids(ids: Sequence[int] | Tensor | None, n: int) -> list[int]:
    """One id an example, from 0 to 2^32 - 1; by default the places 0 to n - 1."""
    if ids is None:
        return list(range(n))
    found = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if len(found) != n:
        raise InputError("ids", f"{len(found)} ids", f"{n}, one an example")
    for one in found:
        check_integer("ids", one, low=0, high=LOW)
    return found


def _mixed(value: int) -> int:
    """A bijection of 32-bit numbers that scatters neighbours (the finaliser of MurmurHash3)."""
    value ^= value >> 16
    value = value * 0x85EBCA6B & LOW
    value ^= value >> 13
    value = value * 0xC2B2AE35 & LOW
    return value ^ value >> 16


def uniforms(seed: int, stream: str, ids: Sequence[int] | Tensor | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) an example, tied to its id: the counter-based generator SplitMix64 (Steele et al. 2014)."""
    counter = np.asarray(ids).astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        z = np.uint64(derive(seed, "uniform", stream)) + counter * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
