"""Next-token models: laws and samples of whole batches, whatever is padded, whoever has left, whatever the model is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError
from tutelage.models.language import NGramLM, TinyGPT
from tutelage.models.language.next_token import (
    CausalNet,
    NextTokenModel,
    NGramTable,
    Padded,
    Seq2SeqNet,
    TrainableNet,
    Trimmed,
    common_vocabulary,
    draw_rows,
    joined,
    next_token_model,
    noise_of,
    sample_in_parts,
)
from tutelage.models.language.next_token.llama import LlamaState, is_plain_llama
from tutelage.models.language.ngram import END

transformers = pytest.importorskip("transformers")

PROMPTS = [[3, 4], [5, 6, 7, 3], [4], [6, 5, 4]]
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def gpt() -> TinyGPT:
    return TinyGPT.new("abcdef", layers=2, width=16, heads=2, context=32)


@pytest.fixture(scope="module")
def t5() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=9, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0, eos_token_id=1
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def trigram() -> NGramLM:
    return NGramLM.fit(["abcab", "bca", "cabca"], order=3, strength=0.5)


# ------------------------------------------------------------------------------------------------------------ rows


def test_prompts_are_padded_on_the_left_and_answers_on_the_right():
    left, right = Padded.left([[1], [2, 3]], pad=9), Padded.right([[1], [2, 3]], pad=9)
    assert left.ids.tolist() == [[9, 1], [2, 3]]
    assert left.mask.tolist() == [[False, True], [True, True]]
    assert right.ids.tolist() == [[1, 9], [2, 3]]
    assert right.mask.tolist() == [[True, False], [True, True]]
    assert left.rows() == right.rows() == [[1], [2, 3]]
    assert right.lengths.tolist() == [1, 2]
    assert not left.whole
    assert left[torch.tensor([1])].whole
    assert right.highest() == 3
    assert joined([Padded.right([[1]]), Padded.right([[2, 3]])]).rows() == [[1], [2, 3]]
    with pytest.raises(InputError, match="mask"):
        Padded(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
    with pytest.raises(InputError, match="ids"):
        Padded(torch.zeros(2, 3))


# ------------------------------------------------------------------------------------------------------------ draws


def test_a_token_is_the_first_whose_cumulative_probability_exceeds_u():
    logits = torch.tensor([0.25, 0.25, 0.5]).log().expand(6, 3)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 1 - 1e-12], dtype=torch.float64)
    assert draw_rows(logits, u).tolist() == [0, 0, 1, 1, 2, 2]
    impossible = torch.tensor([-math.inf, 0.0, -math.inf]).expand(2, 3)
    assert draw_rows(impossible, torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)).tolist() == [1, 1]
    squared = torch.tensor([[math.log(1.0), math.log(9.0)]])  # at temperature 2: 1 to 3
    drawn = [int(draw_rows(squared, torch.tensor([u]), temperature=2.0)) for u in (0.2499, 0.2501)]
    assert drawn == [0, 1]


def test_draws_have_the_law_of_the_logits():
    logits = torch.randn(7, generator=torch.Generator().manual_seed(3)) * 2
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # every number once: what is counted is the law itself
    counts = torch.bincount(draw_rows(logits.expand(20_000, 7), u), minlength=7) / 20_000
    assert torch.allclose(counts, logits.softmax(0), atol=1e-4)


def test_logits_that_are_no_law_are_refused():
    for bad in (math.nan, -math.inf):
        logits = torch.zeros(2, 3)
        logits[1] = bad
        with pytest.raises(InputError, match="row 1"):
            draw_rows(logits, torch.zeros(2, dtype=torch.float64))


def test_the_noise_of_a_row_is_that_of_its_seed_alone():
    both, alone = noise_of([7, 8], 5), noise_of([8], 5)
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])


# ------------------------------------------------------------------------------------------------------------ nets


def answers_without_cache(net: CausalNet, prompt: list[int], max_new: int, seed: int) -> list[int]:
    """The definition: read everything again for each token."""
    u, answer = noise_of([seed], max_new)[0], []
    for at in range(max_new):
        with torch.no_grad():
            logits = net.module(input_ids=torch.tensor([[*prompt, *answer]])).logits[:, -1]
        answer.append(int(draw_rows(logits, u[at : at + 1])))
        if answer[-1] in net.ends:
            break
    return answer


@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4], [5, 6], [7, 3], [4, 4]]], ids=["ragged", "even"])
def test_cached_batches_with_retirement_give_what_the_definition_gives(gpt: TinyGPT, prompts: list[list[int]]):
    net = CausalNet(gpt.model, ends=(2, 5))  # two of nine ids end an answer: rows leave at different times
    found = net.sample(Padded.left(prompts), 12, seeds=SEEDS).rows()
    assert found == [answers_without_cache(net, prompt, 12, seed) for prompt, seed in zip(prompts, SEEDS, strict=True)]
    assert len({len(row) for row in found}) > 1
    assert all(row[-1] in net.ends or len(row) == 12 for row in found), "the end token is part of the answer"
    alone = [net.sample(Padded.left([p]), 12, seeds=[s]).rows()[0] for p, s in zip(prompts, SEEDS, strict=True)]
    assert found == alone
    assert sample_in_parts(net, Padded.left(prompts), 12, seeds=SEEDS, size=3).rows() == found


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4, 5], [5, 6, 4]]], ids=["ragged", "even"])
def test_the_short_way_through_a_llama_gives_the_logits_of_the_long_one(shared: int, prompts: list[list[int]]):
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=shared, head_dim=6
    )
    lm = TinyGPT.new("abcdef", config=config)
    with torch.no_grad():  # norms of one are no test
        for name, parameter in lm.model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3 + 0.1)
        given, more = Padded.left(prompts), [[7, 3], [4, 4], [8, 5], [6, 6]][: len(prompts)]
        state = LlamaState(lm.model, given.ids, None if given.whole else given.mask, 3)
        found = [state.logits]
        for at in range(2):
            found.append(state.step(torch.tensor([row[at] for row in more])))
        state.select(torch.tensor([1]))
        found.append(state.step(torch.tensor([3])))
        for row, prompt in enumerate(prompts):
            logits = lm.model(input_ids=torch.tensor([[*prompt, *more[row], 3]])).logits[0, len(prompt) - 1 :]
            for at in range(3):
                assert torch.allclose(found[at][row], logits[at], atol=1e-4)
            if row == 1:
                assert torch.allclose(found[3][0], logits[3], atol=1e-4)


@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4, 5], [5, 6, 4]]], ids=["ragged", "even"])
def test_the_short_way_has_the_gradients_of_the_long_one(prompts: list[list[int]]):
    lm = TinyGPT.new("abcdef", layers=2, width=16, heads=2, context=16)
    net, given = next_token_model(lm), Padded.left(prompts)
    answers = Padded.right([[3, 4, 2], [5, 6], [7], [8, 8, 8]][: len(prompts)])
    found = []
    for hooked in (False, True):
        handle = lm.model.register_forward_hook(lambda *_: None)
        if not hooked:
            handle.remove()
        logits = net.logits(given, answers)
        handle.remove()
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits) * answers.mask[..., None]
        lm.model.zero_grad()
        (logits.log_softmax(2) * weights).sum().backward()
        found.append((logits.detach()[answers.mask], [p.grad.clone() for p in lm.model.parameters() if p.grad is not None]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert len(found[0][1]) == len(list(lm.model.parameters()))
    for short, long in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(short, long, atol=1e-5, rtol=1e-4)


def test_the_short_way_is_taken_only_where_it_is_all_that_a_model_does(gpt: TinyGPT):
    assert is_plain_llama(gpt.model)
    handle = gpt.model.model.layers[0].register_forward_hook(lambda *_: None)  # type: ignore[union-attr,index]
    assert not is_plain_llama(gpt.model)
    handle.remove()
    other = TinyGPT.new("ab", layers=1, width=8, heads=2)
    other.model.model.layers[0].mlp.down_proj = torch.nn.Linear(32, 8)  # type: ignore[union-attr,index]
    assert not is_plain_llama(other.model), "a bias"
    config = transformers.LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, hidden_act="gelu")
    assert not is_plain_llama(TinyGPT.new("ab", config=config).model)
    assert not is_plain_llama(torch.nn.Linear(2, 2))
    # the long way gives the same answers
    net, found = CausalNet(gpt.model, ends=(2, 5)), []
    for hook in (False, True):
        handle = gpt.model.register_forward_hook(lambda *_: None)
        if not hook:
            handle.remove()
        found.append(net.sample(Padded.left(PROMPTS), 12, seeds=SEEDS).rows())
        handle.remove()
    assert found[0] == found[1]


def test_a_batch_that_has_ended_stops(gpt: TinyGPT):
    net = CausalNet(gpt.model, ends=range(9))  # every token ends
    assert [len(row) for row in net.sample(Padded.left(PROMPTS), 12, seeds=SEEDS).rows()] == [1, 1, 1, 1]


def test_the_law_of_a_padded_batch_is_that_of_each_row_alone(gpt: TinyGPT):
    net = next_token_model(gpt)
    answers = [[3, 4, 2], [5], [6, 2], [7, 7, 7, 7]]
    law = net.log_probs(Padded.left(PROMPTS), Padded.right(answers))
    assert law.shape == (4, 4, 9)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        with torch.no_grad():
            logits = gpt.model(input_ids=torch.tensor([prompt + answer])).logits[0]
        # the logits at position i are of token i + 1
        want = logits[len(prompt) - 1 : len(prompt) + len(answer) - 1].log_softmax(1)
        assert torch.allclose(law[row, : len(answer)], want, atol=1e-5)
    assert isinstance(net, TrainableNet)
    assert net.ends == frozenset({2})
    assert not net.log_probs(Padded.left(PROMPTS), Padded.right(answers)).requires_grad
    assert net.logits(Padded.left(PROMPTS), Padded.right(answers)).requires_grad


def test_gpt2_with_learned_positions_takes_ragged_prompts():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=9, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    net = next_token_model(transformers.GPT2LMHeadModel(config).eval())
    found = net.sample(Padded.left(PROMPTS), 8, seeds=SEEDS).rows()
    assert found == [answers_without_cache(net, prompt, 8, seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]


def test_a_seq2seq_model_writes_behind_its_start_token(t5: torch.nn.Module):
    net = next_token_model(t5)
    assert isinstance(net, Seq2SeqNet)
    found = net.sample(Padded.left(PROMPTS), 8, seeds=SEEDS)
    for prompt, answer, seed in zip(PROMPTS, found.rows(), SEEDS, strict=True):
        u, own = noise_of([seed], 8)[0], []
        for at in range(8):
            with torch.no_grad():
                ids = torch.tensor([[0, *own]])
                logits = t5(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits[:, -1]
            own.append(int(draw_rows(logits, u[at : at + 1])))
            if own[-1] == 1:
                break
        assert answer == own
    law = net.log_probs(Padded.left(PROMPTS), found)
    with torch.no_grad():
        first = t5(input_ids=torch.tensor([PROMPTS[2]]), decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
    assert torch.allclose(law[2, 0], first.log_softmax(0), atol=1e-5)
    assert isinstance(next_token_model(t5), NextTokenModel)


def test_a_model_comes_back_in_its_own_mode(gpt: TinyGPT):
    gpt.model.train()
    try:
        CausalNet(gpt.model).sample(Padded.left(PROMPTS), 2, seeds=SEEDS)
        assert gpt.model.training
        assert all(parameter.requires_grad for parameter in gpt.model.parameters())
    finally:
        gpt.model.eval()


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_holds_the_law_of_its_n_gram_model():
    lm = trigram()
    table = NGramTable.of(lm, [None, None, None, "a", "b", "c"], end=2)
    law = table.log_probs(Padded.left([[3, 4], [5]]), Padded.right([[5, 3], [3, 2]])).exp().numpy()
    kept = [lm.vocabulary.index(unit) for unit in (END, "a", "b", "c")]
    for row, at, history in ((0, 0, "ab"), (0, 1, "bc"), (1, 0, "c"), (1, 1, "ca")):
        want = lm.probabilities(list(history))[kept]
        assert np.allclose(law[row, at, 2:], want / want.sum(), atol=1e-6), history
        assert law[row, at, :2].tolist() == [0.0, 0.0]


def test_a_table_of_two_letters_by_hand():
    lm = NGramLM.fit(["ab"], order=2, strength=1.0)
    # four units (unknown, end, a, b): P1(b) = (1 + 1/4) / (3 + 1); after "a": (1 + P1(b)) / (1 + 1)
    table = NGramTable.of(lm, ["a", "b", "end"], end=2)
    p = table.log_probs(Padded.left([[0]]), Padded.right([[1]]))[0, 0].exp()
    known = torch.tensor([5 / 16, 1 + 5 / 16, 5 / 16]) / 2
    assert torch.allclose(p, known / known.sum(), atol=1e-6)


def test_samples_of_a_table_follow_it_and_end():
    table = NGramTable.of(trigram(), [None, None, None, "a", "b", "c"], end=2)
    prompts = Padded.left([[3], [3, 4, 5], [5, 3]])
    found = table.sample(prompts, 20, seeds=[1, 2, 3])
    assert [min(row[:-1], default=3) >= 3 for row in found.rows()] == [True] * 3
    for prompt, answer, seed in zip(prompts.rows(), found.rows(), [1, 2, 3], strict=True):
        u, own = noise_of([seed], 20)[0], []
        while len(own) < 20 and (not own or own[-1] != 2):
            law = table.log_probs(Padded.left([prompt]), Padded.right([[*own, 3]]))[0, -1]
            own.append(int(draw_rows(law[None], u[len(own)][None])))
        assert answer == own


def test_a_table_that_is_no_law_is_refused():
    with pytest.raises(InputError, match="sum to"):
        NGramTable(torch.zeros(4, 3), order=2)
    with pytest.raises(InputError, match="table"):
        NGramTable(torch.zeros(3, 3).log_softmax(1), order=2)
    with pytest.raises(InputError, match="units that"):
        NGramTable.of(trigram(), ["a", "z"])
    with pytest.raises(InputError, match="entries"):
        NGramTable.of(trigram(), [None] * 500)


# ------------------------------------------------------------------------------------------------------ vocabularies


def test_other_vocabularies_are_refused_and_padded_ones_trimmed_when_asked(gpt: TinyGPT):
    other = next_token_model(TinyGPT.new("abcdxy", layers=1, width=8, heads=2))
    with pytest.raises(InputError, match=r"student: got 'x' at id 7, where teacher has 'e'"):
        common_vocabulary({"teacher": next_token_model(gpt), "student": other})
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=2)
    padded = next_token_model(transformers.GPT2LMHeadModel(config).eval())
    models = {"teacher": padded, "student": next_token_model(gpt)}
    with pytest.raises(InputError, match=r"teacher 12, student 9.*trim=True"):
        common_vocabulary(models)
    cut = common_vocabulary(models, trim=True)
    assert isinstance(cut["teacher"], Trimmed)
    assert cut["student"] is models["student"]
    prompts, answers = Padded.left([[3, 4]]), Padded.right([[5]])
    whole = padded.log_probs(prompts, answers)
    assert torch.allclose(cut["teacher"].log_probs(prompts, answers), whole[..., :9].log_softmax(2), atol=1e-6)
    with pytest.raises(InputError, match="id 10 in a text"):
        cut["teacher"].log_probs(Padded.left([[10]]), answers)
    with pytest.raises(InputError, match="trim"):  # its own padding ids are drawn sooner or later
        cut["teacher"].sample(prompts, 60, seeds=[0])


def test_what_is_no_next_token_model_is_refused_in_a_sentence(gpt: TinyGPT):
    with pytest.raises(InputError, match=r"NGramTable\.of"):
        next_token_model(trigram(), "oracle")
    with pytest.raises(InputError, match="oracle"):
        next_token_model(torch.nn.Linear(2, 2), "oracle")
    with pytest.raises(InputError, match="cannot be trained"):
        next_token_model(NGramTable.of(trigram(), ["a", "b", "c"]), "student", trainable=True)
    with pytest.raises(InputError, match="soft prompt"):
        next_token_model(gpt.with_soft_prompt(torch.zeros(1, 16)))
    net = next_token_model(gpt)
    with pytest.raises(InputError, match="a row without a token"):
        net.sample(Padded.left([[], [3]]), 2, seeds=[0, 1])
    with pytest.raises(InputError, match="ids below 9"):
        net.log_probs(Padded.left([[9]]), Padded.right([[3]]))
    with pytest.raises(InputError, match="seeds"):
        net.sample(Padded.left(PROMPTS), 2, seeds=[0])
    with pytest.raises(InputError, match="max_new"):
        net.sample(Padded.left(PROMPTS), 0, seeds=SEEDS)
