"""Residual blocks by name, and additions to the stream that leaves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.blocks import layer_name, perturbed, residual_blocks, residual_norms, residual_states

transformers = pytest.importorskip("transformers", reason="pip install 'tutelage[lm]'")
SIZES = {"vocab_size": 20}
MODELS: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=16, **SIZES),
    "llama": lambda: transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, **SIZES
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, **SIZES
    ),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=16, ffn_dim=32, num_hidden_layers=3, num_attention_heads=2, word_embed_proj_dim=8,
        max_position_embeddings=16, **SIZES,
    ),
}  # fmt: skip
PLACES = {
    "gpt2": ("transformer.wte", "transformer.h.2"),
    "llama": ("model.embed_tokens", "model.layers.2"),
    "qwen2": ("model.embed_tokens", "model.layers.2"),
    "opt": ("model.decoder.embed_tokens", "model.decoder.layers.2"),
}


def model_of(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MODELS[kind]()
        config.bos_token_id = config.eos_token_id = config.pad_token_id = 1
        return transformers.AutoModelForCausalLM.from_config(config).eval()


IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])


def logits(model: nn.Module, ids: Tensor = IDS, **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).logits
    return found


@pytest.mark.parametrize("kind", list(MODELS))
def test_blocks_and_embedding_are_found_by_name(kind: str) -> None:
    model = model_of(kind)
    embedding, last = PLACES[kind]
    assert (layer_name(model, "embedding"), layer_name(model, 2), layer_name(model, -1)) == (embedding, last, last)
    assert len(residual_blocks(model).names) == 3
    assert layer_name(model, last) == last


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_perturbation_is_added_to_the_stream_and_its_hooks_are_gone(kind: str) -> None:
    model = model_of(kind)
    before = logits(model)
    states = residual_states(model, ["embedding", 1], lambda: logits(model))
    delta = {layer: torch.randn(state.shape, generator=torch.Generator().manual_seed(1)) for layer, state in states.items()}
    with perturbed(model, delta):
        moved = residual_states(model, ["embedding"], lambda: logits(model))["embedding"]
        other = logits(model)
    torch.testing.assert_close(moved, states["embedding"] + delta["embedding"])
    assert not torch.equal(other, before)
    assert torch.equal(logits(model), before)  # bitwise
    # block 1's output, by transformers' own account of it
    with perturbed(model, {1: delta[1]}), torch.no_grad():
        out = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), output_hidden_states=True)
    torch.testing.assert_close(out.hidden_states[2], states[1] + delta[1])


def test_hooks_are_gone_after_an_exception() -> None:
    model = model_of("llama")
    before = logits(model)
    with pytest.raises(RuntimeError, match="stop"), perturbed(model, {0: torch.ones(2, 5, 16)}):
        raise RuntimeError("stop")
    with pytest.raises(InputError, match="delta"), perturbed(model, {0: torch.ones(3, 5, 16)}):
        logits(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_cached_decoding_perturbs_the_prompt_and_nothing_else(kind: str) -> None:
    """Generation with a cache, one token a step, is what passes over the whole text give."""
    model = model_of(kind)
    states = residual_states(model, ["embedding", 0], lambda: logits(model))
    delta = {layer: 3 * torch.randn(state.shape, generator=torch.Generator().manual_seed(2)) for layer, state in states.items()}
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    with perturbed(model, delta):
        cached = model.generate(IDS, use_cache=True, **options)  # type: ignore[operator]
        text = IDS
        for _ in range(4):
            z = logits(model, text, use_cache=False)[:, -1]
            z[:, 1] = -torch.inf  # the end token
            text = torch.cat([text, z.argmax(1)[:, None]], dim=1)
    assert cached.tolist() == text.tolist()
    plain = model.generate(IDS, **options)  # type: ignore[operator]
    assert plain.tolist() != cached.tolist()


def test_a_prompt_of_one_token_is_perturbed_once() -> None:
    model = model_of("llama")
    ids = IDS[:, :1]
    delta = {0: 3 * torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(3))}
    with perturbed(model, delta), torch.no_grad():
        first = model(input_ids=ids, use_cache=True)
        second = model(input_ids=IDS[:, 1:2], past_key_values=first.past_key_values).logits[:, -1]
        whole = logits(model, IDS[:, :2], use_cache=False)[:, -1]
    torch.testing.assert_close(second, whole)


def test_a_vit_and_a_bare_torch_encoder_have_blocks_too() -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    vit = transformers.ViTModel(config).eval()
    images = torch.rand(2, 3, 8, 8)
    states = residual_states(vit, ["embedding", 0], lambda: vit(pixel_values=images))
    assert states["embedding"].shape == (2, 4, 16)  # patches
    assert states[0].shape == (2, 5, 16)  # and the class token
    with torch.no_grad(), perturbed(vit, {0: torch.ones(2, 5, 16)}):
        moved = vit(pixel_values=images, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(moved, states[0] + 1)

    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, norm_first=True, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    assert residual_blocks(net).names == ("layers.0", "layers.1")


def test_norms_are_means_over_the_tokens_that_count() -> None:
    model = model_of("gpt2")
    state = residual_states(model, [0], lambda: logits(model))[0]
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 1], mask[1, 4] = True, True
    wanted = (state[0, 1].norm() + state[1, 4].norm()) / 2
    assert residual_norms(model, [0], lambda: logits(model), mask)[0] == pytest.approx(float(wanted), rel=1e-6)


def test_what_cannot_be_found_is_named() -> None:
    model = model_of("llama")
    for layer, got in ((3, "3"), ("model.layers.9", "model.layers.9"), (True, "True")):
        with pytest.raises(InputError, match=got):
            layer_name(model, layer)
    with pytest.raises(InputError, match="none"):
        residual_blocks(nn.Linear(2, 2))
    t5 = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=20, decoder_start_token_id=0)
    with pytest.raises(InputError, match=r"2: encoder\.block, decoder\.block"):
        residual_blocks(transformers.T5ForConditionalGeneration(t5))
    with pytest.raises(InputError, match="delta"), perturbed(model, {0: torch.ones(5)}):
        pass
