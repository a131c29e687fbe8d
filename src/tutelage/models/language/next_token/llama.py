"""Small Llamas without the way through the library's own forward, which takes longer than their sums.

The same weights and equations (Llama: Touvron et al., arXiv 2302.13971; rotary positions: Su et al., arXiv 2104.09864):

    (1)  h += W_o Attention(R_t W_q x, R_s W_k x, W_v x),  x = RMSNorm(h);   h += W_d (SiLU(W_g x) * W_u x),  x = RMSNorm(h)

W_q, W_k and W_v are one matrix, and so are W_g and W_u. A rotation is R_t z = z cos_t + J z sin_t, where J swaps the halves of
a head and turns the sign of one; J W is a matrix, too, and stands in the same product. Up to the rounding of sums this is what
`LlamaForCausalLM` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_WEIGHTS = 200_000_000  # beyond, sums take the time, and a second copy of the weights takes memory


def is_plain_llama(module: nn.Module) -> bool:
    """Whether (1) is all that the module does: no adapter, bias, hook, quantised or sharded weight, or scaled rotation."""
    if type(module).__name__ != "LlamaForCausalLM" or not type(module).__module__.startswith("transformers."):
        return False
    inner: Any = module
    if getattr(inner.config, "hidden_act", "") != "silu" or getattr(inner.model.rotary_emb, "rope_type", "") != "default":
        return False
    plain = {"LlamaForCausalLM", "LlamaModel", "LlamaDecoderLayer", "LlamaAttention", "LlamaMLP", "LlamaRMSNorm"}
    plain |= {"LlamaRotaryEmbedding", "Embedding", "Linear", "ModuleList", "SiLU", "SiLUActivation"}
    for one in module.modules():
        own: Any = one
        if type(one).__name__ not in plain or one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one):
            return False
        if isinstance(one, nn.Linear) and (type(one) is not nn.Linear or own.bias is not None):
            return False
    parameters = list(module.parameters())
    if module.training and inner.config.attention_dropout:
        return False
    one_place = len({(p.device, p.dtype) for p in parameters}) == 1 and all(type(p.data) is Tensor for p in parameters)
    return one_place and sum(p.numel() for p in parameters) <= MOST_WEIGHTS


@dataclass
class _Layer:
    before: Tensor
    attend: Tensor
    out: Tensor
    behind: Tensor
    gates: Tensor
    down: Tensor


class LlamaState:
    """Keys and values of a batch, and (1) for what comes next; see `rolling.Stepping`. Weights are those of this moment."""

    def __init__(self, module: nn.Module, ids: Tensor, mask: Tensor | None, max_new: int, *, cached: bool = True) -> None:
        """ids: (B, P) prompts, padded on the left where mask (B, P) is False; None: nowhere. Without `cached`, nothing is kept
        and gradients pass.
        """
        inner: Any = module
        config = inner.config
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps, self.embed, self.head = config.rms_norm_eps, inner.model.embed_tokens.weight, inner.lm_head.weight
        self.last = inner.model.norm.weight
        self.layers = [self._fused(layer) for layer in inner.model.layers]
        rows, width = ids.shape
        length, kind = width + max_new, self.embed.dtype
        places = torch.arange(length, device=ids.device)
        cos, sin = inner.model.rotary_emb(self.embed[:1, None], places[None])
        self.cos, self.sin = cos[0], sin[0]  # (L, D)
        self.cached, self.at = cached, 0
        if cached:
            shape = (len(self.layers), rows, self.shared, length, self.size)
            self.keys = torch.empty(shape, device=ids.device, dtype=kind)
            self.values = torch.empty(shape, device=ids.device, dtype=kind)
        self.seen: Tensor | None = None
        self.shift: Tensor | None = None
        if mask is not None:
            self.seen = torch.cat([mask, mask.new_ones(rows, max_new)], 1)
            self.shift = (~mask).sum(1)
        if cached:
            self.logits = self.run(ids)[:, 0]

    def step(self, tokens: Tensor) -> Tensor:
        return self.run(tokens[:, None])[:, 0]

    def select(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        if self.seen is not None and self.shift is not None:
            self.seen, self.shift = self.seen[rows], self.shift[rows]

    def _fused(self, layer: Any) -> _Layer:
        q, k, v = (getattr(layer.self_attn, name).weight for name in ("q_proj", "k_proj", "v_proj"))
        first, second = torch.cat([q, k]).view(self.heads + self.shared, 2, self.size // 2, -1).unbind(1)
        turned = torch.stack([-second, first], 1).reshape(-1, q.shape[1])  # J W
        return _Layer(
            layer.input_layernorm.weight,
            torch.cat([q, k, turned, v]),
            layer.self_attn.o_proj.weight,
            layer.post_attention_layernorm.weight,
            torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]),
            layer.mlp.down_proj.weight,
        )

    def run(self, ids: Tensor, last: int = 1) -> Tensor:
        """Logits (B, last, V) behind the last of these tokens (B, T)."""
        (rows, count), start = ids.shape, self.at
        end = self.at = start + count
        both, shape = self.heads + self.shared, (self.embed.shape[1],)
        mask = None
        if self.shift is None or self.seen is None:
            cos, sin = self.cos[start:end, None], self.sin[start:end, None]
        else:
            places = (torch.arange(start, end, device=ids.device) - self.shift[:, None]).clamp(min=0)
            cos, sin = self.cos[places][:, :, None], self.sin[places][:, :, None]
            mask = self.seen[:, None, None, :end]
            if count > 1:
                square = torch.ones(count, end, dtype=torch.bool, device=ids.device).tril()
                # a padded place sees itself: a row of nothing has no softmax
                mask = mask & square | torch.eye(count, end, dtype=torch.bool, device=ids.device)
        h = F.embedding(ids, self.embed)
        for i, layer in enumerate(self.layers):
            found = F.linear(F.rms_norm(h, shape, layer.before, self.eps), layer.attend).view(rows, count, -1, self.size)
            plain, turned, value = torch.split(found, [both, both, self.shared], 2)
            rotated = torch.addcmul(plain * cos, turned, sin)
            keys, values = rotated[:, :, self.heads :].transpose(1, 2), value.transpose(1, 2)
            if self.cached:
                self.keys[i, :, :, start:end], self.values[i, :, :, start:end] = keys, values
                keys, values = self.keys[i, :, :, :end], self.values[i, :, :, :end]
            mixed = F.scaled_dot_product_attention(
                rotated[:, :, : self.heads].transpose(1, 2), keys, values, attn_mask=mask,
                is_causal=mask is None and count > 1, enable_gqa=self.heads != self.shared,
            )  # fmt: skip
            h = h + F.linear(mixed.transpose(1, 2).reshape(rows, count, -1), layer.out)
            gate, up = F.linear(F.rms_norm(h, shape, layer.behind, self.eps), layer.gates).chunk(2, 2)
            h = h + F.linear(F.silu(gate) * up, layer.down)
        return F.linear(F.rms_norm(h[:, -last:], shape, self.last, self.eps), self.head)


def llama_logits(module: nn.Module, ids: Tensor, mask: Tensor | None, last: int) -> Tensor:
    """Logits (B, last, V) behind the last tokens of ids (B, L), with gradients; mask: as for `LlamaState`."""
    return LlamaState(module, ids, mask, 0, cached=False).run(ids, last)
