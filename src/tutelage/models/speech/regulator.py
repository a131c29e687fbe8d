"""The length regulator: phoneme states become frames, each repeated as often as its duration says."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.core.checks import check_positive
from tutelage.core.errors import InputError

Alpha = float | Tensor


def check_alpha(alpha: Alpha) -> Alpha:
    """alpha > 0: a number, or a float tensor that broadcasts to (B, T), one factor a phoneme."""
    wanted = "a finite number above 0 (1 is the pace of the voice, 2 is half as fast)"
    if isinstance(alpha, Tensor):
        if not alpha.is_floating_point() or not bool((torch.isfinite(alpha) & (alpha > 0)).all()):
            raise InputError("alpha", "a tensor with other values", wanted)
        return alpha
    check_positive("alpha", alpha, wanted)
    return float(alpha)


def check_durations(durations: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, T) whole numbers of frames >= 0; returned as int64."""
    if not isinstance(durations, Tensor) or tuple(durations.shape) != shape:
        got = f"shape {tuple(durations.shape)}" if isinstance(durations, Tensor) else type(durations).__name__
        raise InputError("durations", got, f"a tensor {shape}, one number of frames a phoneme")
    if durations.is_floating_point() or durations.is_complex() or durations.dtype == torch.bool:
        raise InputError("durations", str(durations.dtype).removeprefix("torch."), "whole numbers of frames (int64)")
    if bool((durations < 0).any()):
        raise InputError("durations", int(durations.min()), "numbers of frames >= 0")
    return durations.long()


def scaled_durations(durations: Tensor, alpha: Alpha = 1.0, *, carry_error: bool = False) -> Tensor:
    """floor(alpha d + 1/2) for each phoneme, (B, T) int64: rounded half up, not half to even as `torch.round` does.

    carry_error: round the running sums instead, so that a row's total is floor(alpha S + 1/2) and no error adds up. Off
    by default: the paper rounds each phoneme alone. Raises InputError.
    """
    durations = check_durations(durations, (durations.shape[0], durations.shape[1]) if durations.ndim == 2 else (-1, -1))
    alpha = check_alpha(alpha)
    wanted = durations.double() * (alpha.double() if isinstance(alpha, Tensor) else alpha)
    # 1.3 * 5 is 6.500000000000001 and 1.1 * 15 is 16.5 less a bit: what is half but for the last digits counts as half
    if not carry_error:
        return torch.floor(wanted + (0.5 + 1e-9)).long()
    ends = torch.floor(wanted.cumsum(1) + (0.5 + 1e-9)).long()
    return torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1]))


def length_regulate(
    h: Tensor, durations: Tensor, alpha: Alpha = 1.0, *, max_len: int | None = None, carry_error: bool = False
) -> tuple[Tensor, Tensor]:
    """LR(H, D, alpha): h_t is repeated floor(alpha d_t + 1/2) times. Returns frames (B, S', d), 0 at padding, and (B,) lengths.

    h: (B, T, d) float. durations: (B, T) int64 >= 0, 0 at padding. alpha: > 0, a number or a tensor that broadcasts to
    (B, T), which stretches some phonemes alone. max_len: longer rows raise InputError. A row of no frames at all raises too.
    """
    if not isinstance(h, Tensor) or h.ndim != 3 or not h.is_floating_point():
        raise InputError("h", f"shape {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__, "a tensor (B, T, d)")
    durations = check_durations(durations, (h.shape[0], h.shape[1]))
    ends = scaled_durations(durations, alpha, carry_error=carry_error).cumsum(1)
    lengths = ends[:, -1]
    if bool((lengths == 0).any()):
        raise InputError("durations", "a row whose frames sum to 0", "at least one frame a row")
    longest = int(lengths.max())
    if max_len is not None and longest > max_len:
        raise InputError("durations", f"{longest} frames", f"at most {max_len} (max_len); a shorter text or a smaller alpha")
    frame = torch.arange(longest, device=h.device).expand(len(h), -1).contiguous()
    source = torch.searchsorted(ends, frame, right=True)  # the phoneme of each frame: the first one that ends after it
    inside = source < h.shape[1]
    index = source.clamp(max=h.shape[1] - 1)[:, :, None].expand(-1, -1, h.shape[2])
    return h.gather(1, index) * inside[:, :, None], lengths
