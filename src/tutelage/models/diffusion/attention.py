"""The processor slot of cross-attention layers, as diffusers' models have it: what happens between query and output.

A processor is called as diffusers calls it. Here it is a `Combine`: a function of the attention to the prompt and the
attention to a second prompt. The tokens of both stand side by side in one Condition (`side_by_side`), so that whatever a
network does to its prompt, token by token, is done to both, in one call and with the network's own projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tutelage.core.errors import InputError
from tutelage.models.diffusion.denoiser import Condition

Combine = Callable[[Tensor, Tensor], Tensor]  # (Z+, Z-) (B, N, C) each -> Z (B, N, C)
SLOT = ("to_q", "to_k", "to_v", "to_out", "processor", "set_processor", "heads")


def cross_attentions(net: nn.Module) -> dict[str, Any]:
    """name -> layer, of every cross-attention layer that has a processor slot. Self-attention is not among them."""
    found = {}
    for name, module in net.named_modules():
        if all(hasattr(module, one) for one in SLOT) and getattr(module, "is_cross_attention", False):
            found[name] = module
    return found


@contextmanager
def processors(net: nn.Module, processor: Any) -> Iterator[int]:
    """Put `processor` into every cross-attention layer; gives how many there are, and puts back what was there.

    Raises InputError if the network has none: then it would change nothing.
    """
    layers = cross_attentions(net)
    if not layers:
        raise InputError("net", "no cross-attention layer with a processor slot", "a network that looks at its prompt by one")
    before = [(layer, layer.processor) for layer in layers.values()]
    try:
        for layer, _ in before:
            layer.set_processor(processor)
        yield len(before)
    finally:
        for layer, own in before:
            layer.set_processor(own)


def side_by_side(prompt: Condition, second: Condition) -> Condition:
    """The tokens of a second prompt after those of the first: (B, L + L2, D)."""
    second = second.expand(len(prompt))
    if second.features.shape[2] != prompt.features.shape[2]:
        raise InputError("condition", f"{second.features.shape[2]} features a token", f"{prompt.features.shape[2]}")
    features = torch.cat([prompt.features, second.features.to(prompt.features)], 1)
    return Condition(features, torch.cat([prompt.mask, second.mask], 1))


class TwoPrompts:
    """A processor: attention to the first `length` tokens and to the rest, each with its own softmax, made one by `combine`.

    The output projection, with its bias, is applied once, on what `combine` gives. `calls` counts the layers passed.
    """

    def __init__(self, length: int, combine: Combine) -> None:
        self.length, self.combine, self.calls = length, combine, 0

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] <= self.length:
            raise InputError("condition", "tokens of one prompt", "two prompts side by side")
        self.calls += 1
        residual, hidden, shape = hidden_states, hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden = attn.spatial_norm(hidden, temb)
        if hidden.dim() == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
        query = _heads(attn.to_q(hidden), attn.heads)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        found = []
        for part in (slice(0, self.length), slice(self.length, None)):
            context = encoder_hidden_states[:, part].contiguous()
            if attn.norm_cross:
                context = attn.norm_encoder_hidden_states(context)
            key, value = _heads(attn.to_k(context), attn.heads), _heads(attn.to_v(context), attn.heads)
            if attn.norm_k is not None:
                key = attn.norm_k(key)
            bias = None if attention_mask is None else attention_mask[..., part].reshape(len(hidden), 1, -1, key.shape[2])
            seen = scaled_dot_product_attention(query, key, value, attn_mask=bias)
            found.append(seen.transpose(1, 2).flatten(2))
        out = attn.to_out[1](attn.to_out[0](self.combine(found[0], found[1])))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor  # type: ignore[no-any-return]


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads x d) -> (B, heads, N, d)."""
    b, n, width = x.shape
    return x.reshape(b, n, heads, width // heads).transpose(1, 2)
