"""The speech nets: length regulator, FastSpeech, the autoregressive teacher, the recogniser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.core.rng import seeded
from tutelage.models.speech import (
    FastSpeech,
    FastSpeechConfig,
    Recogniser,
    RecogniserConfig,
    TeacherConfig,
    TransformerTTS,
    length_regulate,
    scaled_durations,
)
from tutelage.models.speech.blocks import Attention, ConvolutionNet, sinusoids
from tutelage.models.speech.fastspeech import predicted_frames


def student(**changes: object) -> FastSpeech:
    with seeded(0, "student"):
        settings = {"symbols": 9, "bands": 6, "blocks": 2, "width": 16, "hidden": 24, "predictor": 16, "dropout": 0.2}
        return FastSpeech(FastSpeechConfig(**{**settings, **changes})).eval()


def teacher(**changes: object) -> TransformerTTS:
    with seeded(0, "teacher"):
        settings = {"symbols": 9, "bands": 6, "blocks": 2, "width": 16, "hidden": 24, "prenet": 8, "postnet": 8}
        return TransformerTTS(TeacherConfig(**{**settings, **changes})).eval()


def texts() -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [2, 2, 1, 8, 0]])
    return tokens, torch.tensor([5, 3, 4])


# The length regulator


@pytest.mark.parametrize(("alpha", "wanted"), [(1.0, [2, 2, 3, 1]), (1.3, [3, 3, 4, 1]), (0.5, [1, 1, 2, 1])])
def test_the_papers_three_examples(alpha: float, wanted: list[int]) -> None:
    durations = torch.tensor([[2, 2, 3, 1]])
    assert scaled_durations(durations, alpha).tolist() == [wanted]
    h = torch.arange(1.0, 5.0).reshape(1, 4, 1)
    frames, lengths = length_regulate(h, durations, alpha)
    assert frames.flatten().tolist() == [float(t + 1) for t in range(4) for _ in range(wanted[t])]
    assert lengths.tolist() == [sum(wanted)]


def test_halves_go_up_and_floating_point_does_not_decide() -> None:
    # torch.round would give 0, 2, 2: half to even; 1.1 * 15 is 16.499999999999996 in floating point
    assert scaled_durations(torch.tensor([[1, 3, 5]]), 0.5).tolist() == [[1, 2, 3]]
    assert scaled_durations(torch.tensor([[15]]), 1.1).tolist() == [[17]]


def test_carried_error_keeps_the_total_and_single_rounding_does_not() -> None:
    durations = torch.tensor([[3, 3, 3, 3]])  # 0.5 * 3 = 1.5, rounded alone 2 each
    assert scaled_durations(durations, 0.5).tolist() == [[2, 2, 2, 2]]
    assert scaled_durations(durations, 0.5, carry_error=True).tolist() == [[2, 1, 2, 1]]
    many = torch.randint(0, 9, (4, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        scaled_durations(many, 0.7, carry_error=True).sum(1), torch.floor(0.7 * many.sum(1).double() + 0.5).long()
    )
    assert torch.equal(scaled_durations(many, 1.0, carry_error=True), many)


def test_regulator_is_the_identity_on_ones_and_as_long_as_the_formula_says() -> None:
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(3, 7, 4, generator=generator)
    frames, lengths = length_regulate(h, torch.ones(3, 7, dtype=torch.int64))
    assert torch.equal(frames, h)
    assert lengths.tolist() == [7, 7, 7]
    durations = torch.randint(0, 6, (3, 7), generator=generator)
    for alpha in (0.5, 0.8, 1.0, 1.3, 2.0):
        frames, lengths = length_regulate(h, durations, alpha)
        wanted = [sum(int(alpha * d + 0.5 + 1e-9) for d in row) for row in durations.tolist()]
        assert lengths.tolist() == wanted
        slow = [torch.cat([h[b, t].repeat(int(alpha * d + 0.5 + 1e-9), 1) for t, d in enumerate(row)]) for b, row in
                enumerate(durations.tolist())]  # fmt: skip
        for b, row in enumerate(slow):
            assert torch.equal(frames[b, : len(row)], row)
            assert not frames[b, len(row) :].any()


def test_gradient_of_a_phoneme_is_the_sum_over_its_frames() -> None:
    h = torch.randn(1, 4, 3, requires_grad=True)
    frames, _ = length_regulate(h, torch.tensor([[2, 0, 3, 1]]))
    frames.sum().backward()
    assert h.grad is not None
    assert torch.equal(h.grad[0], torch.tensor([2.0, 0.0, 3.0, 1.0])[:, None].expand(4, 3))


def test_one_factor_a_phoneme_stretches_that_one_alone() -> None:
    factors = torch.tensor([[1.0, 3.0, 1.0, 1.0]])
    assert scaled_durations(torch.tensor([[2, 2, 3, 1]]), factors).tolist() == [[2, 6, 3, 1]]


@pytest.mark.parametrize(
    ("argument", "durations", "alpha"),
    [
        ("alpha", torch.tensor([[1, 1]]), 0.0),
        ("alpha", torch.tensor([[1, 1]]), -1.0),
        ("alpha", torch.tensor([[1, 1]]), float("nan")),
        ("alpha", torch.tensor([[1, 1]]), torch.tensor([[1.0, 0.0]])),
        ("durations", torch.tensor([[1.0, 1.0]]), 1.0),
        ("durations", torch.tensor([[1, -1]]), 1.0),
        ("durations", torch.tensor([[1, 1, 1]]), 1.0),
        ("durations", torch.tensor([[0, 0]]), 1.0),
        ("durations", torch.tensor([[9, 9]]), 1.0),
    ],
)
def test_regulator_refuses(argument: str, durations: Tensor, alpha: float) -> None:
    with pytest.raises(InputError, match=f"^{argument}"):
        length_regulate(torch.zeros(1, 2, 3), durations, alpha, max_len=10)


# FastSpeech


def test_given_durations_give_exactly_their_frames() -> None:
    tokens, lens = texts()
    durations = torch.tensor([[1, 2, 3, 0, 4], [5, 1, 1, 0, 0], [2, 2, 2, 2, 0]])
    out = student()(tokens, lens, durations, torch.tensor([10, 7, 8]))
    assert out.mel.shape == (3, 10, 6)
    assert out.mel_lens.tolist() == [10, 7, 8]
    assert not out.mel[1, 7:].any()
    assert not out.log_durations[1, 3:].any()
    with pytest.raises(InputError, match=r"^durations: got sums \[10, 7, 8\]"):
        student()(tokens, lens, durations, torch.tensor([10, 7, 9]))
    with pytest.raises(InputError, match=r"^durations: got frames on padding"):
        student()(tokens, lens, durations + 1, None)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_padding_and_the_order_of_rows_change_nothing(alpha: float) -> None:
    net = student()
    torch.nn.init.constant_(net.predictor.out.bias, 1.5)  # some frames a phoneme
    tokens, lens = texts()
    with torch.no_grad():
        together = net(tokens, lens, alpha=alpha)
        shuffled = net(tokens[[2, 0, 1]], lens[[2, 0, 1]], alpha=alpha)
        for i in range(3):
            alone = net(tokens[i : i + 1, : lens[i]], lens[i : i + 1], alpha=alpha)
            n = int(alone.mel_lens)
            assert n == int(together.mel_lens[i]) > 3
            torch.testing.assert_close(together.mel[i, :n], alone.mel[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled.mel, together.mel[[2, 0, 1]], atol=1e-5, rtol=0)


def test_predicted_durations_round_half_up_and_never_vanish_altogether() -> None:
    logs = torch.log1p(torch.tensor([[2.51, 2.49, 0.0, 7.0]]))
    logs[0, 2] = -3.0  # below 0 frames
    mask = torch.tensor([[True, True, True, False]])
    assert predicted_frames(logs, mask).tolist() == [[3, 2, 0, 0]]
    net = student()
    torch.nn.init.constant_(net.predictor.out.bias, -9.0)
    tokens, lens = texts()
    assert net(tokens, lens).mel_lens.tolist() == [5, 3, 4]  # one frame a phoneme
    assert net(tokens, lens, alpha=0.25).mel_lens.tolist() == [5, 3, 4]


def test_detached_predictor_leaves_the_encoder_alone() -> None:
    tokens, lens = texts()
    for detach in (False, True):
        net = student(detach_durations=detach).train()
        net(tokens, lens, torch.ones_like(tokens) * (tokens > 0)).log_durations.sum().backward()
        assert (net.embedding.weight.grad is None) == detach


@pytest.mark.parametrize(
    ("argument", "tokens", "lens"),
    [
        ("tokens", torch.zeros(1, 0, dtype=torch.int64), torch.tensor([0])),
        ("tokens", torch.tensor([[1, 9]]), torch.tensor([2])),
        ("tokens", torch.tensor([[1, 0]]), torch.tensor([2])),
        ("tokens", torch.tensor([[1.0]]), torch.tensor([1])),
        ("token_lens", torch.tensor([[1, 2]]), torch.tensor([0])),
        ("token_lens", torch.tensor([[1, 2]]), torch.tensor([3])),
    ],
)
def test_models_refuse_texts(argument: str, tokens: Tensor, lens: Tensor) -> None:
    with pytest.raises(InputError, match=f"^{argument}"):
        student()(tokens, lens)
    with pytest.raises(InputError, match=f"^{argument}"):
        teacher().generate(tokens, lens, max_frames=4)


# The teacher


@pytest.mark.parametrize(("reduction", "kernel"), [(1, 1), (2, 3), (3, 1)])
def test_decoding_with_and_without_a_cache_is_the_same(reduction: int, kernel: int) -> None:
    net = teacher(reduction=reduction, decoder_kernel=kernel)
    torch.nn.init.constant_(net.stop.bias, -9.0)
    tokens, lens = texts()
    fast = net.generate(tokens, lens, max_frames=11)
    slow = net.generate(tokens, lens, max_frames=11, cache=False)
    assert fast.mel.shape == (3, 11, 6)
    assert not fast.stopped.any()
    torch.testing.assert_close(fast.mel, slow.mel, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.attention, slow.attention, atol=1e-5, rtol=0)
    # told its own frames, a teacher-forced pass is the same again
    r = reduction
    unpolished = net._frames(net._decode(*net._read(tokens, tokens > 0), net._shifted(_before(net, tokens, lens, 12)))[0])
    torch.testing.assert_close(unpolished[:, : 12 // r * r], _before(net, tokens, lens, 12), atol=1e-5, rtol=0)


def _before(net: TransformerTTS, tokens: Tensor, lens: Tensor, frames: int) -> Tensor:
    """What the decoder said in front of the post-net."""
    for layer in (net.postnet[-1],):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return net.generate(tokens, lens, max_frames=frames).mel


def test_the_decoder_sees_nothing_of_the_future_and_rows_of_attention_sum_to_one() -> None:
    net = teacher(decoder_kernel=3)
    tokens, lens = texts()
    mel = torch.randn(3, 12, 6)
    changed = mel.clone()
    changed[:, 8:] += 1
    mel_lens = torch.tensor([12, 12, 12])
    with torch.no_grad():
        one, two = net(tokens, lens, mel, mel_lens), net(tokens, lens, changed, mel_lens)
    # step s of two frames sees frame 2 s - 1: the change at frame 8 is first seen by step 5, frames 10 and 11
    torch.testing.assert_close(one.before[:, :10], two.before[:, :10])
    assert not torch.allclose(one.before[:, 10:], two.before[:, 10:])
    torch.testing.assert_close(one.attention.sum(-1), torch.ones(3, 2, 2, 6))
    assert not one.attention[1, :, :, :, 3:].any()


def test_padding_changes_nothing_for_the_teacher() -> None:
    net = teacher()
    tokens, lens = texts()
    mel, mel_lens = torch.randn(3, 10, 6), torch.tensor([10, 5, 8])
    with torch.no_grad():
        together = net(tokens, lens, mel, mel_lens)
        for i in range(3):
            n, t = int(mel_lens[i]), int(lens[i])
            alone = net(tokens[i : i + 1, :t], lens[i : i + 1], mel[i : i + 1, :n], mel_lens[i : i + 1])
            torch.testing.assert_close(together.after[i, :n], alone.after[0], atol=1e-5, rtol=0)
            steps = -(-n // 2)
            torch.testing.assert_close(together.attention[i, :, :, :steps, :t], alone.attention[0], atol=1e-5, rtol=0)


def test_generation_stops_at_the_token_and_at_the_limit() -> None:
    net = teacher()
    torch.nn.init.constant_(net.stop.bias, 9.0)
    tokens, lens = texts()
    at_once = net.generate(tokens, lens, max_frames=20)
    assert at_once.mel_lens.tolist() == [2, 2, 2]
    assert at_once.stopped.all()
    later = net.generate(tokens, lens, max_frames=20, min_frames=7)
    assert later.mel_lens.tolist() == [8, 8, 8]
    with pytest.raises(InputError, match=r"^model: got training mode"):
        net.train().generate(tokens, lens, max_frames=3)


def test_the_student_takes_one_pass_where_the_teacher_takes_one_a_step() -> None:
    calls = {"teacher": 0, "student": 0}
    net, fast = teacher(), student()
    torch.nn.init.constant_(net.stop.bias, -9.0)
    step = net.decoder[0].step

    def counted(*arguments: object) -> object:
        calls["teacher"] += 1
        return step(*arguments)

    net.decoder[0].step = counted  # type: ignore[method-assign, assignment]
    fast.frames.register_forward_hook(lambda *_: calls.__setitem__("student", calls["student"] + 1))
    tokens, lens = torch.tensor([[1, 2]]), torch.tensor([2])
    for frames in (10, 80):
        net.generate(tokens, lens, max_frames=frames)
        fast(tokens, lens, torch.tensor([[frames // 2, frames // 2]]))
    assert calls == {"teacher": (10 + 80) // 2, "student": 2}


# Pieces


def test_sinusoids_by_hand() -> None:
    table = sinusoids(2, 4, start=1)
    wanted = [[0.8414710, 0.5403023, 0.0099998, 0.9999500], [0.9092974, -0.4161468, 0.0199987, 0.9998000]]
    torch.testing.assert_close(table, torch.tensor(wanted), atol=1e-6, rtol=0)


def test_shown_attention_is_the_same_attention() -> None:
    with seeded(0, "attention"):
        net = Attention(8, 2)
        x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    shown, weights = net.shown(x, net.keys(memory), mask)
    torch.testing.assert_close(shown, net(x, net.keys(memory), mask), atol=1e-6, rtol=0)
    assert not weights[1, :, :, 2:].any()


def test_causal_convolutions_step_by_step() -> None:
    with seeded(0, "convolution"):
        net = ConvolutionNet(4, 6, 5, causal=True)
        x = torch.randn(2, 7, 4)
    past, rows = None, []
    for s in range(7):
        row, past = net.step(x[:, s : s + 1], past)
        rows.append(row)
    torch.testing.assert_close(torch.cat(rows, 1), net(x), atol=1e-6, rtol=0)


def test_recogniser_joins_repetitions_and_drops_blanks() -> None:
    with seeded(0, "recogniser"):
        net = Recogniser(RecogniserConfig(5, bands=3, width=8, layers=2)).eval()
    scores = torch.full((1, 8, 5), -9.0)
    for step, symbol in enumerate([0, 2, 2, 0, 2, 3, 3, 4]):
        scores[0, step, symbol] = 0.0
    net.forward = lambda mel, lens: (scores, torch.tensor([7]))  # type: ignore[method-assign]
    assert net.hear(torch.zeros(1, 15, 3), torch.tensor([14])) == [[2, 2, 3]]


def test_recogniser_does_not_hear_padding() -> None:
    with seeded(0, "recogniser"):
        net = Recogniser(RecogniserConfig(5, bands=3, width=8, layers=3)).eval()
        mel = torch.randn(2, 12, 3)
    lens = torch.tensor([12, 7])
    together, lengths = net(mel, lens)
    alone, _ = net(mel[1:, :7], lens[1:])
    assert lengths.tolist() == [6, 4]
    torch.testing.assert_close(together[1, :4], alone[0], atol=1e-5, rtol=0)
