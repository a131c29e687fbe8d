"""FastSpeech against its autoregressive teacher: seconds for a spectrogram of 100 to 800 frames, batch 1, one thread.

The peer is our own `TransformerTTS`, with as many blocks of the same width as the student and one frame a step, as in the
paper: once with the keys and values of earlier steps kept, as one should, and once with the whole prefix computed at every
step, as implementations without a cache do. Both count; a speed-up that does not say which means little. A third race is
against the teacher of the claim, two frames a step, with a cache. All have random weights: the teacher never stops by itself
and the duration predictor says five frames a phoneme, so that both sides make as many frames. The student's time has its
duration predictor in it, the teacher's its post-net. Griffin-Lim, the same for both, is left out.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from common import Outcome, race, report, settings

from tutelage.core.rng import seeded
from tutelage.models.speech import FastSpeech, FastSpeechConfig, TeacherConfig, TransformerTTS

LENGTHS = (100, 200, 400, 600, 800)
A_PHONEME = 5
SYMBOLS = 60
WANTED = {("without a cache", 600): "<= 0.01"}


def student(blocks: int, width: int, hidden: int) -> FastSpeech:
    with seeded(0, "student"):
        net = FastSpeech(FastSpeechConfig(SYMBOLS, blocks=blocks, width=width, hidden=hidden))
    torch.nn.init.zeros_(net.predictor.out.weight)
    torch.nn.init.constant_(net.predictor.out.bias, math.log1p(A_PHONEME))
    return net.eval()


def teacher(blocks: int, width: int, hidden: int, reduction: int, kernel: int) -> TransformerTTS:
    with seeded(0, "teacher"):
        config = TeacherConfig(SYMBOLS, blocks=blocks, width=width, hidden=hidden, reduction=reduction, decoder_kernel=kernel)
        net = TransformerTTS(config)
    torch.nn.init.zeros_(net.stop.weight)
    torch.nn.init.constant_(net.stop.bias, -20.0)
    return net.eval()


def text(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    n = frames // A_PHONEME
    return 1 + torch.arange(n)[None] % (SYMBOLS - 1), torch.tensor([n])


@torch.no_grad()
def parallel(net: FastSpeech, frames: int) -> int:
    return net(*text(frames)).mel.shape[1]


@torch.no_grad()
def stepwise(net: TransformerTTS, frames: int, cache: bool) -> int:
    return net.generate(*text(frames), max_frames=frames, cache=cache).mel.shape[1]


def main() -> None:
    how = settings(__doc__)
    if not how.options.threads:
        torch.set_num_threads(1)
    blocks, width, hidden = (1, 16, 16) if how.quick else (3, 128, 512)
    fast, slow = student(blocks, width, hidden), teacher(blocks, width, hidden, 1, 3)
    small, small_slow = student(1 if how.quick else 2, width, hidden // 2), teacher(2, width, hidden // 2, 2, 1)
    for frames in (20, 40) if how.quick else LENGTHS:
        sides = {
            "student": partial(parallel, fast, frames),
            "with a cache": partial(stepwise, slow, frames, True),
            "without a cache": partial(stepwise, slow, frames, False),
            "claim's student": partial(parallel, small, frames),
            "claim's teacher, with a cache": partial(stepwise, small_slow, frames, True),
        }
        if any(side() != frames for side in sides.values()):
            raise SystemExit(f"not every side makes {frames} frames, so this is no race")
        found = race(sides, how.rounds)
        for peer in ("with a cache", "without a cache", "claim's teacher, with a cache"):
            ours = "claim's student" if "claim" in peer else "student"
            rounds = [[r[ours], r[peer]] for r in found]
            wanted = WANTED.get((peer, frames), "< 1")
            outcome = Outcome(
                f"speech, {frames} frames, {peer}", "speech", f"FastSpeech, all {frames} frames at once",
                f"TransformerTTS {peer}", rounds, wanted=wanted,
            )  # fmt: skip
            report(Outcome(**{**vars(outcome), "notes": {"times as fast": f"{1 / outcome.ratio:.1f}"}}), how)


if __name__ == "__main__":
    main()
