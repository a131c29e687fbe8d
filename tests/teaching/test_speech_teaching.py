"""Losses and batches of speech models."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.models.speech.fastspeech import Out
from tutelage.models.speech.transformer_tts import TeacherOut
from tutelage.teaching.fit import Context
from tutelage.teaching.speech import (
    CTCLoss,
    FastSpeechLoss,
    Pair,
    TeacherLoss,
    check_pairs,
    collate,
    guided_attention,
    masked_mean,
)
from tutelage.teaching.speech.batches import by_length
from tutelage.teaching.speech.recognition import roughened

CONTEXT = Context(0, 1, 1.0, torch.Generator().manual_seed(0))


def test_means_leave_padding_out() -> None:
    values = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
    lengths = torch.tensor([2, 1])
    assert float(masked_mean(values, lengths)) == 2.0
    assert float(masked_mean(values[:, :, None].expand(2, 3, 4), lengths)) == 2.0


def test_guided_attention_by_hand() -> None:
    lens = torch.tensor([2])
    diagonal = torch.eye(2)[None, None, None]
    assert float(guided_attention(diagonal, lens, lens)) == 0.0
    off = diagonal.flip(-1)
    wanted = 1 - math.exp(-(0.5**2) / (2 * 0.4**2))
    assert float(guided_attention(off, lens, lens)) == pytest.approx(wanted, rel=1e-6)
    padded = torch.zeros(1, 1, 1, 5, 4)
    padded[..., :2, :2] = off
    padded[..., 2:, :] = 0.25  # behind the end of the row
    assert float(guided_attention(padded, lens, lens)) == pytest.approx(wanted, rel=1e-6)


def test_the_teachers_loss_is_zero_for_what_is_right() -> None:
    mel, lens = torch.randn(1, 5, 3), torch.tensor([5])
    batch = collate([Pair(torch.tensor([1, 2, 3]), mel[0])])
    stop = torch.tensor([[-30.0, -30.0, 30.0]])  # five frames, two a step: the third step is the last
    attention = torch.eye(3)[None, None, None]
    model = SimpleNamespace(config=SimpleNamespace(reduction=2))

    class Perfect(nn.Module):
        config = model.config

        def forward(self, *_: object) -> TeacherOut:
            return TeacherOut(mel, mel, stop, attention)

    loss, logged = TeacherLoss()(Perfect(), batch, CONTEXT)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    assert set(logged) == {"mel", "stop", "guide"}
    stop[0, 1] = 30.0  # stops too early
    assert float(TeacherLoss()(Perfect(), batch, CONTEXT)[0]) == pytest.approx(30 / 3, rel=1e-4)
    assert lens.tolist() == batch.mel_lens.tolist()


def test_the_students_loss_by_hand() -> None:
    durations = torch.tensor([[1, 3]])
    batch = collate([Pair(torch.tensor([1, 2]), torch.zeros(4, 2), durations[0])])

    class Off(nn.Module):
        def forward(self, *_: object) -> Out:
            logs = torch.log1p(durations.float()) + torch.tensor([[0.0, 2.0]])
            return Out(torch.full((1, 4, 2), 3.0), logs, torch.tensor([4]), durations)

    loss, logged = FastSpeechLoss()(Off(), batch, CONTEXT)
    assert float(logged["mel"]) == 9.0
    assert float(logged["duration"]) == pytest.approx(2.0, rel=1e-5)
    assert float(loss) == pytest.approx(11.0, rel=1e-5)
    assert float(FastSpeechLoss(distance="l1", duration_weight=0.5)(Off(), batch, CONTEXT)[0]) == pytest.approx(4.0, rel=1e-5)
    with pytest.raises(InputError, match=r"^batch"):
        FastSpeechLoss()(Off(), collate([Pair(torch.tensor([1, 2]), torch.zeros(4, 2))]), CONTEXT)


def test_batches_hold_every_utterance_once_and_like_lengths() -> None:
    lengths = [10 * (i % 7) + i for i in range(50)]
    drawn = by_length(lengths, 4, 30, torch.Generator().manual_seed(0))
    first, second = drawn[:13], drawn[13:26]
    for one in (first, second):
        assert sorted(i for batch in one for i in batch) == list(range(50))
    assert len(drawn) == 30
    assert first != second
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in first]
    assert sum(spread) / len(spread) < 30  # of random ones: some 70


@pytest.mark.parametrize(
    "pair",
    [
        Pair(torch.zeros(0, dtype=torch.int64), torch.zeros(3, 2)),
        Pair(torch.tensor([0, 1]), torch.zeros(3, 2)),
        Pair(torch.tensor([1]), torch.zeros(0, 2)),
        Pair(torch.tensor([1]), torch.full((3, 2), torch.nan)),
        Pair(torch.tensor([1, 2]), torch.zeros(3, 2), torch.tensor([1, 1])),
        Pair(torch.tensor([1, 2]), torch.zeros(3, 2), torch.tensor([3])),
    ],
)
def test_faulty_pairs_are_named(pair: Pair) -> None:
    with pytest.raises(InputError, match=r"^pairs: got number 0"):
        check_pairs([pair])
    with pytest.raises(InputError, match=r"^pairs"):
        check_pairs([])


def test_roughening_changes_rows_apart_and_pauses_are_no_targets() -> None:
    mel = torch.randn(2, 6, 5)
    again = [roughened(mel, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.allclose(again[0], mel)

    class Sure(nn.Module):
        def forward(self, mel: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = torch.full((1, 4, 4), -30.0)
            scores[0, [0, 1, 2, 3], [2, 0, 3, 0]] = 30.0  # 2, blank, 3, blank
            return scores.log_softmax(2), torch.tensor([4])

    batch = collate([Pair(torch.tensor([2, 1, 3]), torch.zeros(8, 5))])
    assert float(CTCLoss(silent=[1], rough=0.0)(Sure(), batch, CONTEXT)[0]) == pytest.approx(0.0, abs=1e-5)
    assert float(CTCLoss(rough=0.0)(Sure(), batch, CONTEXT)[0]) > 5
