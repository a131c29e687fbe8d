"""Backends on transformers, with tiny random models: equal to transformers' own results, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, MissingError
from tutelage.core.rng import seeded
from tutelage.data.fetch import weights_folder
from tutelage.models.language import (
    GenRequest,
    HFCausalLM,
    HFSeq2SeqLM,
    LanguageModel,
    Recorded,
    TinyGPT,
    check_same_vocabulary,
    require,
)
from tutelage.models.language.tiny import character_tokenizer

transformers = pytest.importorskip("transformers", reason="pip install 'tutelage[lm]'")
tokenizers = pytest.importorskip("tokenizers", reason="pip install 'tutelage[lm]'")

ALPHABET = "0123456789+=.abc \n"
PROMPTS = ["1+1=", "12+34=46. 5+5=", "", "abc", "7+8=15. 1+2=3. 4+4="]


def llama(**settings) -> TinyGPT:
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,  # large: the answers of a random model differ
    )
    return TinyGPT.new(ALPHABET, config=config, seed=1, **settings)


def gpt2(**settings) -> TinyGPT:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)
    return TinyGPT.new(ALPHABET, config=config, seed=2, **settings)


def t5(**settings) -> HFSeq2SeqLM:
    tokenizer = character_tokenizer(ALPHABET)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
        initializer_factor=3.0,
        tie_word_embeddings=False,
    )
    with seeded(3):
        model = transformers.T5ForConditionalGeneration(config)
    return HFSeq2SeqLM(model.eval(), tokenizer, **settings)


@pytest.fixture(params=[llama, gpt2], ids=["llama", "gpt2"])
def lm(request) -> TinyGPT:
    return request.param()


@contextmanager
def shapes(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """The (rows, tokens) of every call of a model."""
    seen: list[tuple[int, int]] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield seen
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------ equal to transformers' own


def reference(lm, prompt: str, max_tokens: int, **inputs) -> list[int]:
    """What transformers' own generate says to one prompt."""
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
    return out[0, (0 if lm.model.config.is_encoder_decoder else ids.shape[1]) :].tolist()


def test_greedy_completions_are_those_of_transformers(lm):
    assert isinstance(lm, LanguageModel)
    found = lm.generate([GenRequest(prompt, max_tokens=12) for prompt in PROMPTS])
    for prompt, (one,) in zip(PROMPTS, found, strict=True):
        assert list(one.tokens) == reference(lm, prompt, 12), prompt
        assert one.finish == ("stop" if one.tokens[-1] == 2 else "length")
        assert one.text == lm.tokenizer.decode(one.tokens, skip_special_tokens=True)
    assert len({one.tokens for (one,) in found}) >= 3  # the test would be idle if all were the same


def logprobs_of(lm, context: str, continuation: str) -> Tensor:
    """Token log-probabilities of one unpadded pass in float64."""
    ids = lm.tokenizer(context)["input_ids"] + lm.tokenizer(continuation, add_special_tokens=False)["input_ids"]
    n = len(lm.tokenizer(continuation, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        z = lm.model(torch.tensor([ids])).logits[0].double()
    return torch.log_softmax(z, 1)[range(len(ids) - n - 1, len(ids) - 1), ids[-n:]]


def test_loglikelihoods_are_those_of_one_pass(lm):
    pairs = [("1+1=", "2"), ("", "abc"), ("12+34=46. 5+5=", "10."), ("1+1=", "3."), ("a", "bca bca bca")]
    for pair, found in zip(pairs, lm.loglikelihood(pairs), strict=True):
        wanted = logprobs_of(lm, *pair)
        assert found.token_logprobs == pytest.approx(wanted.tolist(), abs=1e-5)
        assert found.logprob == pytest.approx(float(wanted.sum()), abs=1e-5)
        assert found.n_tokens == len(pair[1])
    lm.ends = frozenset()  # no end token is looked for: the text is all
    done = lm.generate([GenRequest(prompt, max_tokens=3, logprobs=True) for prompt in PROMPTS])
    prompt, best = next((p, one) for p, (one,) in zip(PROMPTS, done, strict=True) if not {0, 1, 2} & set(one.tokens))
    again = lm.loglikelihood([(prompt, best.text), (prompt, "0" if best.text[0] != "0" else "1")])
    assert [one.is_greedy for one in again] == [True, False]
    assert again[0].token_logprobs == pytest.approx(best.token_logprobs, abs=1e-5)
    assert best.logprob == pytest.approx(again[0].logprob, abs=1e-5)


# ---------------------------------------------------------------------------------- whatever the batch, order and reuse


def test_completions_do_not_depend_on_the_batch(lm):
    requests = [
        GenRequest(prompt, n=3, max_tokens=8, temperature=temperature, top_p=top_p, seed=5, logprobs=True)
        for prompt, temperature, top_p in zip(PROMPTS, (1.0, 0.7, 2.0, 0.0, 1.0), (1.0, 0.9, 1.0, 1.0, 0.5), strict=True)
    ]
    together = lm.generate(requests)
    for size in (1, 4):
        lm.batch_size = size
        for found, wanted in zip(lm.generate(requests[::-1])[::-1], together, strict=True):
            assert [one.tokens for one in found] == [one.tokens for one in wanted]
            for a, b in zip(found, wanted, strict=True):
                assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-5)
    assert len({one.tokens for one in together[0]}) > 1
    assert len(set(together[3])) == 1  # greedy
    alone = lm.generate([GenRequest(PROMPTS[2], first=2, max_tokens=8, temperature=2.0, seed=5)])[0][0]
    assert alone.tokens == together[2][2].tokens
    other = lm.generate([GenRequest(PROMPTS[2], n=3, max_tokens=8, temperature=2.0, seed=6)])[0]
    assert [one.tokens for one in other] != [one.tokens for one in together[2]]


def test_what_prompts_share_is_read_once(lm):
    head = "1+2=3. 4+4=8. "  # with BOS 15 tokens; then 4, 5 and 4 more
    requests = [GenRequest(head + tail, max_tokens=3) for tail in ("2+2=", "10+1=", "3+3=")]
    with shapes(lm.model) as calls:
        together = lm.generate(requests)
    assert calls[:2] == [(1, 15), (3, 5)]
    assert all(call[1] == 1 for call in calls[2:])
    lm.batch_size = 1
    assert lm.generate(requests) == together
    lm.batch_size = 16
    pairs = [(head + "2+2=", answer) for answer in ("4", "5", "12")]
    with shapes(lm.model) as calls:
        found = lm.loglikelihood(pairs)
    assert calls == [(1, 18), (3, 2)]  # the context's last token is read in each row: it predicts the first of the answer
    for pair, one in zip(pairs, found, strict=True):
        assert one.token_logprobs == pytest.approx(logprobs_of(lm, *pair).tolist(), abs=1e-5)


def test_equal_prompts_are_read_once_and_greedy_samples_are_one(lm):
    lm.ends = frozenset()
    with shapes(lm.model) as calls:
        lm.generate([GenRequest("1+1=", n=4, temperature=1.0, max_tokens=2)])
    assert calls == [(1, 5), (4, 1)]
    with shapes(lm.model) as calls:
        done = lm.generate([GenRequest("1+1=", n=4, max_tokens=2)])[0]
    assert {rows for rows, _ in calls} == {1}
    assert len(done) == 4


def test_a_row_that_ends_leaves_the_batch(lm):
    lm.ends = frozenset()
    lengths = (1, 2, 5, 5)
    with shapes(lm.model) as calls:
        done = lm.generate([GenRequest(f"{i}+", max_tokens=n) for i, n in enumerate(lengths)])
    assert calls == [(4, 3), (3, 1), (2, 1), (2, 1), (2, 1)]
    assert [one[0].n_tokens for one in done] == list(lengths)


def test_stop_texts_end_a_completion_and_are_not_part_of_it(lm):
    lm.ends = frozenset()
    (free,) = lm.generate([GenRequest("abc", max_tokens=12)])[0]
    stop = free.text[3:5]
    (cut,) = lm.generate([GenRequest("abc", max_tokens=12, stop=("no such", stop))])[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish == "stop"
    assert cut.n_tokens == free.text.index(stop) + 2
    assert cut.tokens == free.tokens[: cut.n_tokens]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_padding_token_that_is_the_end_token_or_none_does_no_harm(lm):
    requests = [GenRequest(prompt, max_tokens=6) for prompt in PROMPTS]
    wanted, scores = lm.generate(requests), lm.loglikelihood([("1", "2"), ("12+3", "45")])
    for pad in (lm.tokenizer.eos_token, None):
        lm.tokenizer.pad_token = pad
        assert lm.generate(requests) == wanted
        assert lm.loglikelihood([("1", "2"), ("12+3", "45")]) == scores


def test_a_prompt_longer_than_the_context_is_refused_or_cut_as_said(lm):
    assert lm.max_context == 64
    long = "12+34=46. " * 7  # 70 characters and BOS
    with pytest.raises(InputError, match=r"prompt: got request 1 of 71 tokens and 8 more, wanted 64 together"):
        lm.generate([GenRequest("1", max_tokens=2), GenRequest(long, max_tokens=8)])
    with pytest.raises(InputError, match="pair 0 of 71 tokens and 1 more"):
        lm.loglikelihood([(long, "12")])
    with pytest.raises(InputError, match="max_tokens: got 64 tokens for request 0, wanted fewer than the context of 64"):
        lm.generate([GenRequest("1", max_tokens=64)])
    fits = GenRequest(long[:55], max_tokens=8)
    assert lm.generate([fits])[0][0].dropped == 0  # 56 + 8 = 64
    cutting = type(lm)(lm.model, lm.tokenizer, on_long="left")
    (one,) = cutting.generate([GenRequest(long, max_tokens=8)])[0]
    assert one.dropped == 15
    (same,) = lm.generate([GenRequest(long[15:], max_tokens=8)])[0]  # BOS stays, the oldest characters go
    assert one.tokens == same.tokens
    # the last token of a continuation is predicted, never read
    assert cutting.loglikelihood([(long, "12")])[0].logprob == pytest.approx(
        lm.loglikelihood([(long[8:], "12")])[0].logprob, abs=1e-5
    )


def test_a_vocabulary_that_does_not_fit_is_refused():
    small = TinyGPT.new("ab", layers=1, width=16, heads=2, context=16)
    large = character_tokenizer(ALPHABET)
    with pytest.raises(InputError, match=r"tokenizer: got one whose ids go up to 20, wanted one that fits the model's 5 embed"):
        HFCausalLM(small.model, large)
    with pytest.raises(InputError, match=r"prompt: got 'ax', which the tokenizer does not take"):
        small.generate([GenRequest("ax")])
    with pytest.raises(InputError, match=r"student: got '\.' at id 5, where teacher has '\+', wanted the same vocabulary"):
        check_same_vocabulary(llama(), TinyGPT.new("\n .0", layers=1, width=16, heads=2))
    with pytest.raises(InputError, match="without a tokenizer"):
        check_same_vocabulary(small, object())
    check_same_vocabulary(small, TinyGPT.new("ba", layers=1, width=16, heads=2))


def test_an_empty_prompt_begins_with_the_first_or_the_end_token():
    lm = TinyGPT.new("ab", layers=1, width=16, heads=2, context=16)
    assert lm.generate([GenRequest("", max_tokens=3)])[0][0].tokens == tuple(reference(lm, "", 3))
    lm.tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A", special_tokens=[])
    with torch.no_grad():
        for first in (1, 2):
            wanted = torch.log_softmax(lm.model(torch.tensor([[first]])).logits[0, -1], 0)[3]
            assert lm.loglikelihood([("", "a")])[0].logprob == pytest.approx(float(wanted), abs=1e-5)
            lm.tokenizer.bos_token = None
    lm.tokenizer.eos_token = None
    with pytest.raises(MissingError, match="request 0 is empty, and the tokenizer has neither"):
        lm.generate([GenRequest("")])


def test_arguments_are_checked(tmp_path):
    lm = TinyGPT.new("ab", layers=1, width=16, heads=2)
    for settings, argument in (({"batch_size": 0}, "batch_size"), ({"on_long": "right"}, "on_long")):
        with pytest.raises(InputError) as wrong:
            HFCausalLM(lm.model, lm.tokenizer, **settings)
        assert wrong.value.argument == argument
    for model, tokenizer, argument in ((nn.Linear(1, 1), lm.tokenizer, "model"), (lm.model, "gpt2", "tokenizer")):
        with pytest.raises(InputError) as wrong:
            HFCausalLM(model, tokenizer)
        assert wrong.value.argument == argument
    for settings, argument in (({"alphabet": ""}, "alphabet"), ({"width": 10}, "width"), ({"layers": 0}, "layers")):
        with pytest.raises(InputError) as wrong:
            TinyGPT.new(**{"alphabet": "ab", **settings})
        assert wrong.value.argument == argument
    with pytest.raises(InputError, match=r"a folder with config\.json or one \.gguf file; it has 0"):
        HFCausalLM.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="path_or_id"):
        HFCausalLM.load(tmp_path)
    with pytest.raises(InputError, match="dtype"):
        HFCausalLM.load(tmp_path, dtype="int8")


# -------------------------------------------------------------------------------------------- hidden states, soft prompts


def test_hidden_states_are_those_of_one_text_alone(lm):
    texts = ["1+1=", "12+34=46.", "a"]
    block = "model.layers.0" if lm.name == "tiny-llama" else "transformer.h.0"
    for layer in (0, 1, -1, block):
        for text, state in zip(texts, lm.hidden(texts, layer), strict=True):
            with torch.no_grad():
                out = lm.model(torch.tensor([lm.tokenizer(text)["input_ids"]]), output_hidden_states=True)
            wanted = out.hidden_states[1 if layer == block else layer][0]
            assert state.shape == (len(text) + 1, 32)
            assert torch.allclose(state, wanted, atol=1e-5), layer
    with pytest.raises(InputError, match=r"layer: got 3, wanted an integer from -3 to 2"):
        lm.hidden(texts, 3)
    with pytest.raises(InputError, match="the name of a module"):
        lm.hidden(texts, "block")
    with pytest.raises(InputError, match="texts"):
        lm.hidden("text", 0)


def test_a_soft_prompt_stands_before_every_text(lm):
    soft = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    other = lm.with_soft_prompt(soft)
    pairs = [("1+1=", "2."), ("12+34=4", "6"), ("1+1=", "3")]
    embed = lm.model.get_input_embeddings()
    for (context, continuation), found in zip(pairs, other.loglikelihood(pairs), strict=True):
        ids = lm.tokenizer(context + continuation)["input_ids"]
        with torch.no_grad():
            z = lm.model(inputs_embeds=torch.cat([soft, embed(torch.tensor(ids))])[None]).logits[0].log_softmax(1)
        n = len(continuation)
        wanted = z[range(len(z) - n - 1, len(z) - 1), ids[-n:]]
        assert found.token_logprobs == pytest.approx(wanted.tolist(), abs=1e-5)
    requests = [GenRequest(prompt, max_tokens=5) for prompt in PROMPTS]
    together = other.generate(requests)
    other.batch_size = 1
    assert other.generate(requests) == together != lm.generate(requests)
    assert other.hidden(["1+1="], -1)[0].shape == (5, 32)
    assert (lm.max_context, other.max_context) == (64, 61)
    assert other.fingerprint not in (lm.fingerprint, lm.with_soft_prompt(soft + 1).fingerprint)
    assert other.fingerprint == lm.with_soft_prompt(soft).fingerprint
    with pytest.raises(InputError, match="which soft prompts needs"):
        require(other, "soft_prompt", by="soft prompts")
    for wrong in (soft[0], soft[:, :5], soft[:0], torch.full((1, 32), math.nan), torch.zeros(64, 32)):
        with pytest.raises(InputError, match="embeddings"):
            lm.with_soft_prompt(wrong)
    # a prefix of embeddings of real tokens is those tokens
    ids = torch.tensor(lm.tokenizer("12")["input_ids"])
    lm.tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A", special_tokens=[])
    hard = lm.with_soft_prompt(embed(ids).detach()).generate([GenRequest("+3", max_tokens=5)])[0][0]
    assert (
        list(hard.tokens)
        == lm.model.generate(
            torch.tensor([[*ids.tolist(), *lm.tokenizer("+3")["input_ids"]]]), do_sample=False, max_new_tokens=5
        )[0, 5:].tolist()
    )


# --------------------------------------------------------------------------------------- weights, adapters, fingerprints


def test_fingerprints_follow_the_weights_and_survive_the_disk(tmp_path):
    lm = llama()
    before = lm.fingerprint
    assert lm.fingerprint == before == llama().fingerprint
    lm.save(tmp_path / "lm")
    again = HFCausalLM.load(tmp_path / "lm")
    requests = [GenRequest(prompt, max_tokens=5) for prompt in PROMPTS]
    assert again.name == "lm"
    assert again.generate(requests) == lm.generate(requests)
    assert TinyGPT.load(tmp_path / "lm").fingerprint == before
    recorded = Recorded(lm, tmp_path / "a.sqlite")
    recorded.generate([GenRequest("1", max_tokens=2)])
    loss = lm.model(torch.tensor([[1, 4, 5]]), labels=torch.tensor([[1, 4, 5]])).loss
    loss.backward()
    torch.optim.SGD(lm.model.parameters(), 1.0).step()
    assert lm.fingerprint != before
    recorded.generate([GenRequest("1", max_tokens=2)])
    assert (recorded.hits, recorded.misses) == (0, 2)  # what the old weights said is not taken for the new ones'
    assert HFCausalLM(lm.model, lm.tokenizer, fingerprint="given").fingerprint != lm.fingerprint
    half = HFCausalLM.load(tmp_path / "lm", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half.fingerprint != again.fingerprint
    assert half.generate([GenRequest("1", max_tokens=2)])[0][0].n_tokens == 2
    assert half.hidden(["1"], 1)[0].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # between peft and transformers
def test_a_peft_adapter_is_loaded_and_switched_off(tmp_path):
    peft = pytest.importorskip("peft", reason="pip install 'tutelage[lm]'")
    lm = llama()
    lm.save(tmp_path / "lm")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with seeded(0):
        adapted = peft.get_peft_model(llama().model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    found = HFCausalLM.load(tmp_path / "lm", adapter=tmp_path / "adapter")
    pairs = [("1+1=", "2"), ("7+8=", "15.")]
    base = lm.loglikelihood(pairs)
    assert found.loglikelihood(pairs) == HFCausalLM(adapted, lm.tokenizer).loglikelihood(pairs)
    assert found.loglikelihood(pairs)[0].logprob != pytest.approx(base[0].logprob, abs=1e-3)
    on = found.fingerprint
    with found.without_adapter() as reference:
        assert reference.fingerprint != on
        assert [one.logprob for one in reference.loglikelihood(pairs)] == pytest.approx([one.logprob for one in base], abs=1e-5)
    assert found.fingerprint == on
    assert found.generate([GenRequest("1+1=", max_tokens=3)])[0][0].n_tokens in (1, 2, 3)
    with pytest.raises(InputError, match="without an adapter"), lm.without_adapter():
        pass
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter: .* wanted a folder of peft with adapter_model\.safetensors"):
        HFCausalLM.load(tmp_path / "lm", adapter=tmp_path / "adapter")


def test_the_model_is_handed_back_as_it_was():
    lm = gpt2()
    wanted = lm.loglikelihood([("1+1=", "2")])
    lm.model.train()  # with dropout
    lm.model.transformer.wte.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in lm.model.parameters()]
    assert lm.loglikelihood([("1+1=", "2")]) == wanted
    assert lm.model.training
    assert lm.model.transformer.drop.training
    assert [parameter.requires_grad for parameter in lm.model.parameters()] == flags


def test_a_conversation_goes_through_the_chat_template():
    lm = TinyGPT.new("abc:\n", layers=1, width=16, heads=2, context=32)
    with pytest.raises(InputError, match="which cannot"):
        lm.chat([[{"role": "user", "content": "a"}]])
    turn, answer = "{% for m in messages %}{{ m.content }}:\n{% endfor %}", "{% if add_generation_prompt %}c:{% endif %}"
    lm.tokenizer.chat_template = turn + answer
    lm = HFCausalLM(lm.model, lm.tokenizer)
    found = lm.chat([[{"role": "user", "content": "ab"}]], max_tokens=4)[0][0]
    ids = lm.tokenizer("ab:\nc:", add_special_tokens=False)["input_ids"]
    out = lm.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=4)
    assert list(found.tokens) == out[0, len(ids) :].tolist()


# --------------------------------------------------------------------------------------------------------------- spelling


def bpe() -> HFCausalLM:
    """A byte-level BPE of a few merges below a random model."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["def f(x):\n    return x + 1\n"] * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    with seeded(0):
        return HFCausalLM(transformers.GPT2LMHeadModel(config).eval(), tokenizer)


def test_text_is_taken_byte_for_byte_and_borders_are_kept():
    lm = bpe()
    for text in ("\t if  x:\n\n    y ", "naïve 猫🙂", " lead"):
        ids = lm._ids(text)
        assert lm._decode(ids) == text
        for cut in range(1, len(ids)):  # also inside a character of several bytes, where the parts are no text
            if "�" not in lm._decode(ids[:cut]):
                assert lm._decode(ids[:cut]) + lm._spell(ids[:cut], ids[cut:]) == text
    whole = lm._ids("return")
    assert len(whole) < 6  # merged
    one = lm.loglikelihood([("ret", "urn")])[0]  # "return" would be one token: the border is kept
    assert one.n_tokens == len(lm._ids("urn"))
    two = lm.loglikelihood([("return x", " + 1")])[0]
    assert two.n_tokens == len(lm._ids("return x + 1")) - len(lm._ids("return x"))


def test_a_tokenizer_that_drops_the_first_space_is_spelled_behind_the_prompt():
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "▁b": 1, "<eos>": 2}, unk_token="<eos>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    core.decoder = tokenizers.decoders.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    config = transformers.GPT2Config(vocab_size=3, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    lm = HFCausalLM(transformers.GPT2LMHeadModel(config).eval(), tokenizer)
    assert lm._decode([1]) == "b"
    assert lm._spell([0], [1]) == " b"
    assert lm._ids("a b") == [0, 1]
    assert lm.loglikelihood([("a", " b")])[0].n_tokens == 1


# ------------------------------------------------------------------------------------------------------ encoder-decoder


def test_an_encoder_decoder_is_a_language_model():
    lm = t5()
    assert isinstance(lm, LanguageModel)
    prompts = [prompt for prompt in PROMPTS if prompt]
    found = lm.generate([GenRequest(prompt, max_tokens=8) for prompt in prompts])
    for prompt, (one,) in zip(prompts, found, strict=True):
        assert [0, *one.tokens] == reference(lm, prompt, 8)
    assert len({one.tokens for (one,) in found}) >= 2
    pairs = [("1+1=", "2."), ("12+34=", "46 abc"), ("a", "b")]
    for (context, continuation), one in zip(pairs, lm.loglikelihood(pairs), strict=True):
        ids = torch.tensor([lm.tokenizer(context)["input_ids"]])
        target = torch.tensor([lm.tokenizer(continuation, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            z = lm.model(input_ids=ids, labels=target).logits[0].log_softmax(1)
        assert one.token_logprobs == pytest.approx(z.gather(1, target.T)[:, 0].tolist(), abs=1e-4)


def test_an_encoder_decoder_does_not_depend_on_the_batch():
    lm = t5()
    requests = [GenRequest(prompt, n=2, max_tokens=6, temperature=1.0) for prompt in ("1+1=", "12+34=46. 5+5=", "a")]
    together = lm.generate(requests)
    texts = ["1+1=", "12+34=46."]
    soft = lm.with_soft_prompt(torch.ones(2, 32))
    states, softly = lm.hidden(texts, -1), soft.generate(requests)
    assert [len(state) for state in states] == [5, 10]
    assert softly != together
    assert torch.allclose(lm.hidden(texts, "encoder.final_layer_norm")[1], states[1], atol=1e-5)
    lm.batch_size = soft.batch_size = 1
    assert lm.generate(requests) == together
    assert soft.generate(requests) == softly
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(lm.hidden(texts, -1), states, strict=True))
    assert lm.max_context is None  # relative positions
    with pytest.raises(InputError, match="which cannot"):
        lm.chat([[{"role": "user", "content": "a"}]])


# --------------------------------------------------------------------------------------------------------------- training


def test_a_tiny_gpt_learns_a_text_in_seconds():
    lm = TinyGPT.new("abcdefgh", layers=1, width=32, heads=2, context=32)
    ids = torch.tensor([[*lm.tokenizer("abacadaeafag")["input_ids"], lm.tokenizer.eos_token_id]])
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        lm.model(ids, labels=ids).loss.backward()
        optimizer.step()
    (done,) = lm.generate([GenRequest("aba", max_tokens=16)])[0]
    assert (done.text, done.finish) == ("cadaeafag", "stop")
    (empty,) = lm.generate([GenRequest("abacadaeafag", max_tokens=16)])[0]
    assert (empty.text, empty.n_tokens, empty.finish) == ("", 1, "stop")  # it ends at once: an empty completion


# ------------------------------------------------------------------------------------------------------------ real weights


@pytest.mark.slow
@pytest.mark.data
def test_smollm2_answers_as_in_transformers():
    try:
        folder = weights_folder("smollm2-135m")
    except MissingError as error:
        pytest.skip(str(error))
    lm = HFCausalLM.load(folder)
    require(lm, "chat", "loglikelihood")
    prompts = ["The capital of France is", "def add(a, b):\n    return"]
    found = lm.generate([GenRequest(prompt, max_tokens=8) for prompt in prompts])
    for prompt, (one,) in zip(prompts, found, strict=True):
        assert list(one.tokens) == reference(lm, prompt, 8)
    answer = lm.chat([[{"role": "user", "content": "What is the capital of France?"}]], max_tokens=12)[0][0]
    assert "Paris" in answer.text
    right, wrong = lm.loglikelihood([("The capital of France is", " Paris"), ("The capital of France is", " London")])
    assert right.logprob == pytest.approx(float(logprobs_of(lm, "The capital of France is", " Paris").sum()), abs=1e-3)
    assert right.logprob > wrong.logprob
