"""From the teacher's attention to durations: which phoneme each frame belongs to, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError

ROWS = 1e-3  # how far a row of attention may be from summing to 1


Route = Literal["argmax", "monotonic"]


@dataclass(frozen=True, eq=False)
class AlignmentResult:
    """Durations of one utterance and how good the alignment is.

    durations: (T,) int64, sum S. path: (S,) int64, the phoneme of each frame. focus: the focus rate (1) of the head that was
    taken, head: (layer, head). monotone: the path never goes back. coverage: share of phonemes with at least one frame.
    backward: how often the path goes back by two phonemes or more.
    """

    durations: Tensor
    path: Tensor
    focus: float
    head: tuple[int, int]
    monotone: bool
    coverage: float
    backward: int

    def skipped(self, silent: Tensor | None = None) -> int:
        """Phonemes without a frame; silent: (T,) bool, pauses that do not count."""
        empty = self.durations == 0
        return int((empty if silent is None else empty & ~silent).sum())

    @property
    def longest_gap(self) -> int:
        """Most phonemes without a frame next to each other. One alone may be shorter than a step of the decoder."""
        longest = run = 0
        for frames in self.durations.tolist():
            run = 0 if frames else run + 1
            longest = max(longest, run)
        return longest


def focus_rate(attn: Tensor) -> Tensor:
    """F = (1/S) sum_s max_t A[s, t], eq. (1): of each head (L, H, S, T) -> (L, H), or of one (S, T) -> a scalar.

    From 1 / T, where every frame looks at all phonemes alike, to 1, where each looks at one. Raises InputError unless rows
    sum to 1: attention under dropout does not, and says nothing about durations.
    """
    if not isinstance(attn, Tensor) or attn.ndim not in (2, 4) or 0 in attn.shape or not attn.is_floating_point():
        got = f"shape {tuple(attn.shape)}" if isinstance(attn, Tensor) else type(attn).__name__
        raise InputError("attn", got, "attention (L, H, S, T) or (S, T), rows over the phonemes")
    sums = attn.sum(-1)
    if not bool(((sums - 1).abs() <= ROWS).all()):
        worst = float(sums.flatten()[(sums - 1).abs().flatten().nan_to_num(nan=torch.inf).argmax()])
        raise InputError("attn", f"a row that sums to {worst:.4g}", "rows that sum to 1 (evaluation mode, no padding cut off)")
    return attn.amax(-1).mean(-1)


def durations_from_attention(
    attn: Tensor,
    *,
    text_len: int,
    mel_len: int,
    head: Literal["best"] | tuple[int, int] = "best",
    reduction: int = 1,
    path: Route = "argmax",
) -> AlignmentResult:
    """d_t = how many frames look most at phoneme t, in the head of the highest focus rate: eqs. (1), (2).

    attn: (L, H, steps, T) or (steps, T) of one utterance, rows over phonemes; rows and columns behind the given lengths are
    cut off first. text_len: T; mel_len: S frames. reduction: frames a decoder step: the path of steps is stretched by it and
    cut to S, so that the durations sum to S exactly. head: "best", or (layer, head). path: "argmax" is the paper's;
    "monotonic" (ours, for teachers of little training) is the most probable path from the first phoneme to the last that
    leaves none out and never goes back; it needs at least as many steps as phonemes. Raises InputError.
    """
    check_choice("path", path, ("argmax", "monotonic"))
    check_integer("text_len", text_len)
    check_integer("mel_len", mel_len)
    check_integer("reduction", reduction)
    if not isinstance(attn, Tensor) or attn.ndim not in (2, 4):
        raise InputError("attn", getattr(attn, "shape", type(attn).__name__), "attention (L, H, steps, T) or (steps, T)")
    if attn.ndim == 2:
        attn = attn[None, None]
    steps = -(-mel_len // reduction)
    if attn.shape[2] < steps or attn.shape[3] < text_len:
        raise InputError("attn", f"shape {tuple(attn.shape)}", f"at least {steps} steps and {text_len} phonemes")
    attn = attn[:, :, :steps, :text_len]
    focus = focus_rate(attn)
    if head == "best":
        best = int(focus.argmax())
        layer, number = best // attn.shape[1], best % attn.shape[1]
    else:
        layer, number = head
        check_integer("head", layer, low=0, high=attn.shape[0] - 1)
        check_integer("head", number, low=0, high=attn.shape[1] - 1)
    chosen = attn[layer, number].argmax(1) if path == "argmax" else monotonic_path(attn[layer, number])
    frames = chosen.repeat_interleave(reduction)[:mel_len]
    durations = torch.bincount(frames, minlength=text_len)
    moves = torch.diff(chosen)
    return AlignmentResult(
        durations,
        frames,
        float(focus[layer, number]),
        (layer, number),
        bool((moves >= 0).all()),
        float((durations > 0).double().mean()),
        int((moves <= -2).sum()),
    )


def monotonic_path(attn: Tensor) -> Tensor:
    """(S,) int64: the path of largest sum log A[s, path[s]] that starts at phoneme 0, ends at T - 1 and moves by 0 or 1.

    attn: (S, T) with S >= T, or InputError. Every phoneme gets at least one step.
    """
    steps, text_len = attn.shape
    if steps < text_len:
        raise InputError("attn", f"{steps} steps for {text_len} phonemes", "as many steps as phonemes for a monotonic path")
    score = attn.double().clamp(min=1e-12).log()
    best = torch.full((text_len,), -torch.inf, dtype=torch.float64)
    best[0] = score[0, 0]
    moved = torch.zeros(steps, text_len, dtype=torch.bool)
    for s in range(1, steps):
        before = torch.cat([best.new_full((1,), -torch.inf), best[:-1]])
        moved[s] = before > best
        best = torch.maximum(before, best) + score[s]
    path, at = [text_len - 1], text_len - 1
    for s in range(steps - 1, 0, -1):
        at -= int(moved[s, at])
        path.append(at)
    return torch.tensor(path[::-1])
