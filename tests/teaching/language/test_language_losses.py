"""Sequence log-probabilities, preference losses and token divergences: values by hand, limit cases, gradients."""

from __future__ import annotations

import doctest
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.errors import InputError
from tutelage.teaching import fit
from tutelage.teaching.language import (
    SFT,
    completion_batch,
    pair_loss,
    preferences,
    sequence_logprobs,
    sequences,
    token_divergences,
    token_logprobs,
)


def logits_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


# ------------------------------------------------------------------------------------------------------------- sequences


def test_only_the_completion_is_counted_and_each_token_is_predicted_by_the_one_before():
    third = math.log(1 / 3)
    p = torch.tensor([[[1.0, 1.0, 1.0], [0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [9.0, 9.0, 9.0]]]).log()
    ids = torch.tensor([[2, 1, 0, 1]])
    assert token_logprobs(p, ids).tolist()[0] == pytest.approx([third, math.log(0.5), math.log(0.7)])
    sums, lengths = sequence_logprobs(p, ids, torch.tensor([[False, False, True, True]]))
    assert sums.tolist() == pytest.approx([math.log(0.35)])
    assert lengths.tolist() == [2]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_change_neither_values_nor_gradients(chunk):
    ids = torch.tensor([[1, 2, 3, 4, 0, 1], [4, 3, 2, 1, 0, 0]])
    logits = logits_of(2, 6, 5).requires_grad_()
    wanted = logits[:, :-1].log_softmax(2).gather(2, ids[:, 1:, None])[..., 0]
    found = token_logprobs(logits, ids, chunk=chunk)
    assert torch.allclose(found, wanted, atol=1e-6)
    weights = logits_of(2, 5, seed=1)
    (a,), (b,) = (torch.autograd.grad((weights * x).sum(), logits) for x in (found, wanted))
    assert torch.allclose(a, b, atol=1e-6)


def test_sums_of_half_precision_are_float32_and_padding_may_hold_anything():
    ids, attention, completion = completion_batch([([1], [2] * 300), ([1, 1], [0])], pad=3)
    assert attention.sum(1).tolist() == [301, 3]
    logits = torch.zeros(2, 301, 4, dtype=torch.bfloat16)
    logits[1, 3:] = float("nan")
    sums, lengths = sequence_logprobs(logits, ids, completion)
    assert sums.dtype == torch.float32
    assert sums.tolist() == pytest.approx([300 * math.log(0.25), math.log(0.25)], rel=1e-5)
    assert lengths.tolist() == [300, 1]


def test_rows_without_a_completion_are_named():
    with pytest.raises(InputError, match="row 1 with an empty completion"):
        completion_batch([([1], [2]), ([1], [])])
    with pytest.raises(InputError, match="row 0 with an empty prompt"):
        completion_batch([([], [2])])
    with pytest.raises(InputError, match="row 1 of 4 tokens, wanted at most 3"):
        completion_batch([([1], [2]), ([1, 2], [3, 4])], max_length=3)
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(InputError, match="row 1 without a token"):
        sequence_logprobs(torch.zeros(2, 3, 4), ids, torch.tensor([[False, True, True], [False] * 3]))
    with pytest.raises(InputError, match="row 0 from its first position"):
        sequence_logprobs(torch.zeros(2, 3, 4), ids, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="ids"):
        token_logprobs(torch.zeros(2, 3, 4), ids[:, :2])


def test_the_end_token_as_padding_is_counted_where_it_is_text_and_only_there():
    end = 3
    pairs = [([0], [1, end]), ([0, 2], [1, 1, 2, end])]
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    found = {}
    for pad in (end, 0):
        ids, attention, completion = completion_batch(pairs, pad=pad)
        assert completion.sum(1).tolist() == [2, 4], "the end token of a completion counts"
        assert attention.sum(1).tolist() == [3, 6], "and the same token behind it does not"
        found[pad] = sequence_logprobs(logits, ids, completion)[0].tolist()
    assert found[end] == found[0]
    p = logits.log_softmax(2)
    assert found[end][0] == pytest.approx(float(p[0, 0, 1] + p[0, 1, end]), rel=1e-5)


class Bigram(nn.Module):
    """A causal model with the surface of transformers: the next token's logits hang on this token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, 4))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def test_sft_learns_the_completions_and_not_the_prompts():
    pairs = [([0, 1], [2, 3]), ([1], [2, 3])]
    net = Bigram()
    loader = DataLoader(TensorDataset(*completion_batch(pairs)), batch_size=2)
    fit(net, SFT(), loader, optimizer=torch.optim.SGD(net.parameters(), lr=1.0), steps=100)
    p = net.table.detach().softmax(1)
    assert min(p[1, 2], p[2, 3]) > 0.95
    assert p[0].tolist() == [0.25] * 4  # 0 -> 1 stands in a prompt only
    batch = completion_batch([([0], [1]), ([0], [1, 1, 1])])
    net.table.data = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0] * 4, [0.0] * 4])
    a, b = math.log(math.e / (math.e + 3)), math.log(math.e**3 / (math.e**3 + 3))
    assert SFT()(net, batch, None)[0].item() == pytest.approx(-(a + a + 2 * b) / 4)
    assert SFT(per_sequence=True)(net, batch, None)[0].item() == pytest.approx(-(a + (a + 2 * b) / 3) / 2)


# ----------------------------------------------------------------------------------------------------------- preferences

W, L, RW, RL = (torch.tensor([value]) for value in (-4.0, -6.0, -5.0, -5.5))
NW, NL = torch.tensor([2]), torch.tensor([4])
REF = {"ref_w": RW, "ref_l": RL}
LENGTHS = {"len_w": NW, "len_l": NL}


def log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z))


@pytest.mark.parametrize(
    ("kind", "settings", "wanted"),
    [
        ("dpo", {"beta": 0.1, **REF}, -log_sigmoid(0.15)),  # 0.1 (1 + 0.5)
        ("ln_dpo", {"beta": 2.0, **REF}, -log_sigmoid(1.25)),  # 2 (1/2 + 0.5/4)
        ("simpo", {"beta": 2.0, "gamma": 0.5}, -log_sigmoid(-1.5)),  # 2 (-2 + 1.5) - 0.5
        ("ipo", {"beta": 0.1, **REF}, (0.625 - 5.0) ** 2),
        ("dpo", {"beta": 0.1, "label_smoothing": 0.2, **REF}, -0.8 * log_sigmoid(0.15) - 0.2 * log_sigmoid(-0.15)),
    ],
)
def test_losses_have_the_values_computed_by_hand(kind, settings, wanted):
    assert float(pair_loss(kind, W, L, **LENGTHS, **settings)) == pytest.approx(wanted, rel=1e-6)


def test_limit_cases_of_the_losses():
    w, l_, rw, rl = (logits_of(6, seed=seed) - 5 for seed in range(4))
    n = torch.tensor([3, 5, 1, 8, 2, 2])
    m = torch.tensor([1, 5, 4, 2, 9, 3])
    for kind in ("dpo", "ln_dpo"):  # the policy is its reference
        loss = pair_loss(kind, w, l_, len_w=n, len_l=m, ref_w=w, ref_l=l_, beta=0.7)
        assert torch.allclose(loss, torch.full((6,), math.log(2.0)))
    ipo = pair_loss("ipo", w, l_, len_w=n, len_l=m, ref_w=w, ref_l=l_, beta=0.7)
    assert torch.allclose(ipo, torch.full((6,), 1 / (4 * 0.7**2)))
    # equal lengths n: LN-DPO with n β is DPO with β, in value and gradient
    w.requires_grad_()
    five = torch.full((6,), 5)
    a = pair_loss("dpo", w, l_, len_w=five, len_l=five, ref_w=rw, ref_l=rl, beta=0.3)
    b = pair_loss("ln_dpo", w, l_, len_w=five, len_l=five, ref_w=rw, ref_l=rl, beta=1.5)
    assert torch.allclose(a, b, atol=1e-6)
    (da,), (db,) = (torch.autograd.grad(x.sum(), w) for x in (a, b))
    assert torch.allclose(da, db, atol=1e-6)
    # SimPO without a margin is LN-DPO with a reference of equal mean log-probabilities
    simpo = pair_loss("simpo", w, l_, len_w=n, len_l=m, beta=2.0)
    flat = pair_loss("ln_dpo", w, l_, len_w=n, len_l=m, ref_w=-1.5 * n, ref_l=-1.5 * m, beta=2.0)
    assert torch.allclose(simpo, flat, atol=1e-5)
    # swapping the answers flips the sign of the logit: loss(z) - loss(-z) = -z
    there = pair_loss("dpo", w, l_, len_w=n, len_l=m, ref_w=rw, ref_l=rl, beta=1.0)
    back = pair_loss("dpo", l_, w, len_w=m, len_l=n, ref_w=rl, ref_l=rw, beta=1.0)
    assert torch.allclose(there - back, -((w - rw) - (l_ - rl)), atol=1e-5)
    shifted = pair_loss("dpo", w, l_, len_w=n, len_l=m, ref_w=rw + 3, ref_l=rl + 3, beta=1.0)
    assert torch.allclose(shifted, there, atol=1e-5)


def test_no_gradient_goes_to_the_reference():
    leaves = [tensor.clone().requires_grad_() for tensor in (W, L, RW, RL)]
    w, l_, rw, rl = leaves
    pair_loss("ipo", w, l_, **LENGTHS, ref_w=rw, ref_l=rl, beta=0.5).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, True, False, False]


@pytest.mark.parametrize(
    ("kind", "settings", "argument"),
    [
        ("kto", {}, "kind"),
        ("dpo", {"beta": 0.0}, "beta"),
        ("dpo", {"gamma": 1.0}, "gamma"),
        ("dpo", {"ref_w": None}, "ref_w"),
        ("dpo", {"ref_l": torch.zeros(2)}, "ref_l"),
        ("simpo", {}, "ref_w"),
        ("ipo", {"label_smoothing": 0.1}, "label_smoothing"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing"),
        ("ln_dpo", {"len_l": torch.tensor([0])}, "len_l"),
        ("ln_dpo", {"len_w": torch.tensor([1, 2])}, "len_w"),
    ],
)
def test_wrong_arguments_are_named(kind, settings, argument):
    with pytest.raises(InputError) as wrong:
        pair_loss(kind, W, L, **{"beta": 0.1, **LENGTHS, **REF, **settings})
    assert wrong.value.argument == argument


# ----------------------------------------------------------------------------------------------------------- divergences


def test_divergences_have_the_values_computed_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    t, s = p.log().view(1, 1, 2), q.log().view(1, 1, 2)
    forward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    reverse = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    # beta 0.25: m = 0.25 p + 0.75 q = (0.6875, 0.3125)
    to_m = 0.5 * math.log(0.5 / 0.6875) + 0.5 * math.log(0.5 / 0.3125)
    from_m = 0.75 * math.log(0.75 / 0.6875) + 0.25 * math.log(0.25 / 0.3125)
    assert float(token_divergences(t, s)) == pytest.approx(forward, rel=1e-5)
    assert float(token_divergences(t, s, kind="reverse")) == pytest.approx(reverse, rel=1e-5)
    assert float(token_divergences(t, s, kind="jsd", beta=0.25)) == pytest.approx(0.25 * to_m + 0.75 * from_m, rel=1e-5)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_divergences_are_zero_at_equality_positive_elsewhere_and_the_same_in_chunks(kind):
    t, s = logits_of(2, 7, 5), logits_of(2, 7, 5, seed=1).requires_grad_()
    whole, cut = (token_divergences(t, s, kind=kind, chunk=chunk) for chunk in (100, 3))
    assert whole.shape == (2, 7)
    assert bool((whole > 0).all())
    assert torch.allclose(whole, cut, atol=1e-6)
    (a,), (b,) = (torch.autograd.grad(x.mean(), s) for x in (whole, cut))
    assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(token_divergences(t, t + 3.0, kind=kind), torch.zeros(2, 7), atol=1e-6)


def test_a_vocabulary_of_another_size_and_a_wrong_kind_are_refused():
    t = torch.zeros(1, 2, 3)
    with pytest.raises(InputError, match="one vocabulary"):
        token_divergences(t, torch.zeros(1, 2, 4))
    for settings, argument in (({"kind": "hinge"}, "kind"), ({"beta": 1.0}, "beta"), ({"chunk": 0}, "chunk")):
        with pytest.raises(InputError) as wrong:
            token_divergences(t, t, **settings)
        assert wrong.value.argument == argument


@pytest.mark.parametrize("module", [preferences, sequences])
def test_the_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
