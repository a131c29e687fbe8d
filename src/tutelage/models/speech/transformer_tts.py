"""An autoregressive transformer that speaks: phonemes and frames so far to the next frames (Li et al., arXiv 1809.08895).

Its encoder is a stack of feed-forward transformer blocks, as FastSpeech's; in the decoder the position-wise network is one
of causal convolutions (kernel 1: the plain one). `generate` decodes with cached keys and values, or computes the whole
prefix anew at every step, as an implementation without a cache does; both give the same frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.models.speech.blocks import Attention, ConvolutionNet, Stack, check_block, sinusoids, valid
from tutelage.models.speech.fastspeech import check_tokens


@dataclass(frozen=True)
class TeacherConfig:
    """Sizes. symbols: of the vocabulary, 0 is padding. blocks: encoder blocks, and as many of the decoder.

    kernel: of the encoder's convolutions; decoder_kernel: of the decoder's, which are causal. reduction: frames a decoder
    step. prenet, prenet_dropout: of the two layers that each step's last frame goes through; the dropout, in training only,
    makes the decoder listen to the text. The paper's own: blocks 6, width 384, heads 2, hidden 1536, 80 bands.
    """

    symbols: int
    bands: int = 40
    blocks: int = 2
    width: int = 128
    heads: int = 2
    hidden: int = 512
    kernel: int = 3
    decoder_kernel: int = 1
    reduction: int = 2
    prenet: int = 64
    prenet_dropout: float = 0.5
    dropout: float = 0.1
    postnet: int = 128
    postnet_kernel: int = 5

    def __post_init__(self) -> None:
        check_integer("symbols", self.symbols, low=2)
        for name in ("bands", "blocks", "reduction", "prenet", "postnet"):
            check_integer(name, getattr(self, name))
        check_block(self.width, self.heads, self.hidden, self.kernel, self.dropout)
        check_integer("decoder_kernel", self.decoder_kernel)
        check_block(self.width, self.heads, self.hidden, self.postnet_kernel, self.dropout)
        check_number("prenet_dropout", self.prenet_dropout, "a share in [0, 1)", low=0.0, high=1 - 1e-9)


@dataclass(frozen=True, eq=False)
class TeacherOut:
    """A teacher-forced pass. before, after (B, S, bands): mel in front of and behind the post-net, 0 at padding.

    stop (B, ceil(S / r)): logits of "this step is the last one". attention (B, L, H, ceil(S / r), T): a row a decoder
    step, each summing to 1.
    """

    before: Tensor
    after: Tensor
    stop: Tensor
    attention: Tensor


@dataclass(frozen=True, eq=False)
class Generated:
    """What the teacher said alone. mel (B, S, bands), 0 at padding; mel_lens (B,); stopped (B,) bool: False where the
    limit of frames cut it off; attention (B, L, H, steps, T): rows behind a row's own end mean nothing."""

    mel: Tensor
    mel_lens: Tensor
    stopped: Tensor
    attention: Tensor


Past = dict[str, Any]


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the text, causal convolutions; add and norm after each."""

    def __init__(self, c: TeacherConfig) -> None:
        super().__init__()
        self.itself, self.text = Attention(c.width, c.heads), Attention(c.width, c.heads)
        self.net = ConvolutionNet(c.width, c.hidden, c.decoder_kernel, causal=True)
        self.norms = nn.ModuleList(nn.LayerNorm(c.width) for _ in range(3))
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None, causal: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norms[0](x + self.dropout(self.itself(x, self.itself.keys(x), causal)))
        heard, weights = self.text.shown(x, memory, mask)
        x = self.norms[1](x + self.dropout(heard))
        return self.norms[2](x + self.dropout(self.net(x))), weights

    def step(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None, past: Past, at: int) -> tuple[Tensor, Tensor]:
        """One position (B, 1, width), after the `at` positions in `past`, which then holds it too."""
        key, value = self.itself.keys(x)
        past["key"][:, :, at], past["value"][:, :, at] = key[:, :, 0], value[:, :, 0]
        seen = (past["key"][:, :, : at + 1], past["value"][:, :, : at + 1])
        x = self.norms[0](x + self.itself(x, seen, None))
        heard, weights = self.text.shown(x, memory, mask)
        x = self.norms[1](x + heard)
        out, past["net"] = self.net.step(x, past.get("net"))
        return self.norms[2](x + out), weights


class TransformerTTS(nn.Module):
    """The teacher: encoder, decoder, stop token, post-net."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        if not isinstance(config, TeacherConfig):
            raise InputError("config", type(config).__name__, "a TeacherConfig")
        self.config = config
        c = config
        self.embedding = nn.Embedding(c.symbols, c.width, padding_idx=0)
        self.phonemes = Stack(c.blocks, c.width, c.heads, c.hidden, c.kernel, c.dropout)
        self.prenet = nn.ModuleList([nn.Linear(c.bands, c.prenet), nn.Linear(c.prenet, c.prenet)])
        self.into = nn.Linear(c.prenet, c.width)
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(c.dropout)
        self.decoder = nn.ModuleList(DecoderBlock(c) for _ in range(c.blocks))
        self.out = nn.Linear(c.width, c.reduction * c.bands)
        self.stop = nn.Linear(c.width, 1)
        sizes = (c.bands, c.postnet, c.postnet, c.bands)
        around = c.postnet_kernel // 2
        self.postnet = nn.ModuleList(nn.Conv1d(a, b, c.postnet_kernel, padding=around) for a, b in pairwise(sizes))

    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    def forward(self, tokens: Tensor, token_lens: Tensor, mel: Tensor, mel_lens: Tensor) -> TeacherOut:
        """A teacher-forced pass over recordings. tokens (B, T), token_lens (B,), mel (B, S, bands), mel_lens (B,)."""
        text = check_tokens(tokens, token_lens, self.config.symbols)
        check_mel(mel, mel_lens, self.config.bands, len(tokens))
        inside = valid(mel_lens, mel.shape[1])[:, :, None].to(mel.dtype)
        states, attention = self._decode(*self._read(tokens, text), self._shifted(mel))
        before = self._frames(states)[:, : mel.shape[1]] * inside
        after = (before + self._polish(before, inside)) * inside
        return TeacherOut(before, after, self.stop(states).squeeze(2), attention)

    def _read(self, tokens: Tensor, text: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """Keys and values of the text for every decoder block, and the mask (B, 1, 1, T) over it."""
        whole = bool(text.all())
        h = self.phonemes(self.embedding(tokens), None if whole else text)
        return [block.text.keys(h) for block in self.decoder], None if whole else text[:, None, None, :]  # type: ignore[operator, union-attr]

    def _shifted(self, mel: Tensor) -> Tensor:
        """(B, ceil(S / r), bands): what each step sees, the last frame of the step before; zeros first."""
        r = self.config.reduction
        steps = -(-mel.shape[1] // r)
        last = mel[:, r - 1 :: r][:, : steps - 1]
        return torch.cat([mel.new_zeros(len(mel), 1, mel.shape[2]), last], dim=1)

    def _decode(self, memory: list[tuple[Tensor, Tensor]], mask: Tensor | None, seen: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, steps, width) and attention (B, L, H, steps, T) for given last frames (B, steps, bands)."""
        steps = seen.shape[1]
        x = self._into(seen)
        x = self.dropout(x + self.scale * sinusoids(steps, self.config.width, device=x.device))
        causal = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
        shown = []
        for block, keys in zip(self.decoder, memory, strict=True):
            x, weights = block(x, keys, mask, causal)
            shown.append(weights)
        return x, torch.stack(shown, dim=1)

    def _into(self, seen: Tensor) -> Tensor:
        for layer in self.prenet:
            seen = F.dropout(F.relu(layer(seen)), self.config.prenet_dropout, self.training)
        out: Tensor = self.into(seen)
        return out

    def _frames(self, states: Tensor) -> Tensor:
        out: Tensor = self.out(states)
        return out.reshape(len(states), -1, self.config.bands)

    def _polish(self, mel: Tensor, inside: Tensor) -> Tensor:
        """The post-net's correction (B, S, bands); padding stays out of it."""
        x = mel
        for i, layer in enumerate(self.postnet):
            x = layer(x.transpose(1, 2)).transpose(1, 2)
            if i + 1 < len(self.postnet):
                x = self.dropout(torch.tanh(x))
            x = x * inside
        return x

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        token_lens: Tensor,
        *,
        max_frames: int,
        cache: bool = True,
        threshold: float = 0.5,
        min_frames: int = 0,
        each: Callable[[int], None] | None = None,
    ) -> Generated:
        """Speak, frame after frame, until the stop token's probability passes `threshold` or `max_frames` are there.

        cache: keep the keys and values of earlier steps; False computes all of them anew at every step. min_frames: no stop
        before. each: called with the number of steps done. The model must be in evaluation mode. Raises InputError.
        """
        text = check_tokens(tokens, token_lens, self.config.symbols)
        check_integer("max_frames", max_frames)
        check_number("threshold", threshold, "a probability", low=0.0, high=1.0)
        if self.training:
            raise InputError("model", "training mode", "evaluation mode: teacher.eval()")
        c, rows = self.config, len(tokens)
        memory, mask = self._read(tokens, text)
        limit = -(-max_frames // c.reduction)
        past = [
            {
                "key": tokens.new_zeros(rows, c.heads, limit, c.width // c.heads, dtype=self.out.weight.dtype),
                "value": tokens.new_zeros(rows, c.heads, limit, c.width // c.heads, dtype=self.out.weight.dtype),
            }
            for _ in self.decoder
        ]
        positions = self.scale * sinusoids(limit, c.width, device=tokens.device)
        seen = self.out.weight.new_zeros(rows, 1, c.bands)
        lengths = torch.full((rows,), max_frames, device=tokens.device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=tokens.device)
        frames, shown = [], []
        for at in range(limit):
            if cache:
                x = self._into(seen[:, -1:]) + positions[at]
                weights = []
                for block, keys, kept in zip(self.decoder, memory, past, strict=True):
                    x, row = block.step(x, keys, mask, kept, at)  # type: ignore[operator]
                    weights.append(row)
                attention = torch.stack(weights, dim=1)
            else:
                states, whole = self._decode(memory, mask, seen)
                x, attention = states[:, -1:], whole[:, :, :, -1:]
            group = self._frames(x)
            frames.append(group)
            shown.append(attention)
            seen = torch.cat([seen, group[:, -1:]], dim=1)
            ends = (at + 1) * c.reduction
            over = (torch.sigmoid(self.stop(x)[:, 0, 0]) > threshold) & ~stopped if ends >= min_frames else stopped & False
            lengths = torch.where(over, min(ends, max_frames), lengths)
            stopped = stopped | over
            if each is not None:
                each(at + 1)
            if bool(stopped.all()):
                break
        longest = int(lengths.max())
        inside = valid(lengths, longest)[:, :, None]
        before = torch.cat(frames, dim=1)[:, :longest] * inside
        mel = (before + self._polish(before, inside.to(before.dtype))) * inside
        return Generated(mel, lengths, stopped, torch.cat(shown, dim=3))


def check_mel(mel: Tensor, mel_lens: Tensor, bands: int, rows: int) -> None:
    """mel (B, S, bands) and mel_lens (B,), from 1 to S."""
    if not isinstance(mel, Tensor) or mel.ndim != 3 or mel.shape[0] != rows or mel.shape[2] != bands or mel.shape[1] == 0:
        got = f"shape {tuple(mel.shape)}" if isinstance(mel, Tensor) else type(mel).__name__
        raise InputError("mel", got, f"a tensor ({rows}, S, {bands})")
    if not isinstance(mel_lens, Tensor) or tuple(mel_lens.shape) != (rows,) or mel_lens.is_floating_point():
        raise InputError("mel_lens", getattr(mel_lens, "shape", mel_lens), f"int64 ({rows},)")
    if int(mel_lens.min()) < 1 or int(mel_lens.max()) > mel.shape[1]:
        raise InputError("mel_lens", mel_lens.tolist(), f"lengths from 1 to {mel.shape[1]}")
