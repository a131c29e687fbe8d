"""What the backends on transformers share: loading, tokens, limits, fingerprints, batches."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, sha256_tensors, sha256_text
from tutelage.models.guard import evaluating
from tutelage.models.language.decoding import Row
from tutelage.models.language.extras import extra
from tutelage.models.language.protocol import (
    Backend,
    Capability,
    Generation,
    GenRequest,
    LanguageModel,
    LogLik,
    turns,
)
from tutelage.models.taps import taps

OnLong = Literal["refuse", "left"]
Dtype = Literal["float32", "float16", "bfloat16", "auto"]
_LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
_HUGE = 10**9  # tokenizers without a limit say 10**30


class HFBackend(Backend):
    """A model and a tokenizer of transformers, or objects with their surface.

    model, tokenizer: as `from_pretrained` gives them. The model is used in evaluation mode and handed back as it was. Its
        tokenizer may have no padding token, or one that is the end token: padding is masked by position, not by id.
    batch_size: rows (samples) at a time. on_long: a prompt that leaves no room for max_tokens in the context is refused
        ("refuse"), or its beginning is cut off ("left"), which `Generation.dropped` tells.
    fingerprint: instead of the hash of all weights, for a model too large to be hashed.
    Raises InputError where the tokenizer gives ids that the model has no embedding for.
    """

    _auto = ""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str = "",
        batch_size: int = 16,
        on_long: OnLong = "refuse",
        fingerprint: str | None = None,
    ) -> None:
        check_integer("batch_size", batch_size)
        check_choice("on_long", on_long, ("refuse", "left"))
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise InputError("model", type(model).__name__, "a model of transformers")
        if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
            raise InputError("tokenizer", type(tokenizer).__name__, "a tokenizer of transformers")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.on_long = batch_size, on_long
        self.name = name or str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        self._given = fingerprint
        self._hashed: tuple[tuple[Any, ...], str] = ((), "")
        self._soft: Tensor | None = None
        self._adapter_off = False
        rows, highest = self._embed.weight.shape[0], max(tokenizer.get_vocab().values(), default=-1)
        if highest >= rows:
            raise InputError(
                "tokenizer",
                f"one whose ids go up to {highest}",
                f"one that fits the model's {rows} embeddings (ids below {rows})",
            )
        ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = frozenset(int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None)
        self.capabilities = self._can()

    @classmethod
    def load(
        cls,
        path_or_id: Path | str,
        *,
        dtype: Dtype = "float32",
        device_map: Any = None,
        adapter: Path | str | None = None,
        revision: str | None = None,
        gguf_file: str | None = None,
        **settings: Any,
    ) -> Self:
        """From a folder, or from the hub by its id: safetensors, or a .gguf file, which is dequantised (it is found by itself
        where it is the only one of a folder without config.json). No pickled weights, and no code that comes with a model, are
        loaded.

        dtype: of the weights; "auto" is what the file holds. device_map: of transformers, for instance "auto" or "cuda:0".
        adapter: a folder of peft, put on top. settings: those of the class. Raises MissingError, InputError.
        """
        transformers = extra("transformers", cls.__name__)
        check_choice("dtype", dtype, ("float32", "float16", "bfloat16", "auto"))
        folder = Path(path_or_id)
        if folder.is_dir() and gguf_file is None and not (folder / "config.json").is_file():
            files = sorted(path.name for path in folder.glob("*.gguf"))
            if len(files) != 1:
                raise InputError(
                    "path_or_id", str(path_or_id), f"a folder with config.json or one .gguf file; it has {len(files)}"
                )
            gguf_file = files[0]
        if gguf_file is not None:
            extra("gguf", "a .gguf file")
        where: dict[str, Any] = {"revision": revision} if revision else {}
        where |= {"gguf_file": gguf_file} if gguf_file else {}
        options = {**where, "dtype": dtype, **({"device_map": device_map} if device_map is not None else {})}
        if not gguf_file:
            options["use_safetensors"] = True
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path_or_id), **where)
            model = getattr(transformers, cls._auto).from_pretrained(str(path_or_id), **options)
        except (OSError, ValueError, KeyError) as error:
            raise InputError("path_or_id", str(path_or_id), f"a model that transformers can load ({error})") from error
        if adapter is not None:
            if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").is_file():
                raise InputError("adapter", str(adapter), "a folder of peft with adapter_model.safetensors")
            try:
                model = extra("peft", "an adapter").PeftModel.from_pretrained(model, str(adapter))
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError("adapter", str(adapter), f"an adapter of this model ({error})") from error
        settings.setdefault("name", folder.name if folder.is_dir() else str(path_or_id))
        return cls(model.eval(), tokenizer, **settings)

    # ------------------------------------------------------------------------------------------------------ identity

    @property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer and settings. Weights that are trained further give another one."""
        return sha256_text(canonical_json([type(self).__name__, self._weights(), self._spelling(), *self._settings()]))

    def _weights(self) -> str:
        if self._given is not None:
            return self._given
        state = dict(self.model.state_dict())
        # an optimiser's step raises the version of a tensor: then, and only then, the weights are read again
        versions = tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in state.items())
        if self._hashed[0] != versions:
            self._hashed = (versions, sha256_tensors(state))
        return self._hashed[1]

    def _spelling(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else canonical_json(self.tokenizer.get_vocab())
        return sha256_text(f"{text}\n{getattr(self.tokenizer, 'chat_template', None)}")

    def _settings(self) -> list[Any]:
        soft = "" if self._soft is None else sha256_tensors({"soft": self._soft})
        return [str(self._embed.weight.dtype), self.on_long, soft, self._adapter_off]

    @property
    def max_context(self) -> int | None:
        """Tokens of prompt and completion, without the soft prompt; None where neither model nor tokenizer has a limit."""
        limits = [getattr(self.model.config, name, None) for name in _LIMITS]
        limits.append(getattr(self.tokenizer, "model_max_length", None))
        found = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _HUGE]
        return min(found) - self._virtual if found else None

    @property
    def _virtual(self) -> int:
        return 0 if self._soft is None else len(self._soft)

    @property
    def _embed(self) -> nn.Embedding:
        embed: nn.Embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        return embed

    @property
    def _device(self) -> torch.device:
        return self._embed.weight.device

    def _can(self) -> frozenset[Capability]:
        can: set[Capability] = {"generate", "loglikelihood", "logprobs", "hidden"}
        can |= {"soft_prompt"} if self._soft is None else set()
        return frozenset(can | ({"chat"} if getattr(self.tokenizer, "chat_template", None) else set()))

    # ------------------------------------------------------------------------------------------------------ variants

    def with_soft_prompt(self, embeddings: Tensor) -> LanguageModel:
        """The same weights behind virtual tokens (P, width). InputError: another shape, NaN, a second soft prompt."""
        if self._soft is not None:
            raise InputError("embeddings", "a second soft prompt", "a language model without one")
        width = self._embed.weight.shape[1]
        if not isinstance(embeddings, Tensor) or embeddings.dim() != 2 or embeddings.shape[1] != width or not len(embeddings):
            got = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
            raise InputError("embeddings", got, f"a tensor (P, {width})")
        if not bool(torch.isfinite(embeddings).all()):
            raise InputError("embeddings", "NaN or infinity", "finite numbers")
        if (limit := self.max_context) is not None and len(embeddings) >= limit:
            raise InputError("embeddings", f"{len(embeddings)} virtual tokens", f"fewer than the context of {limit}")
        other = copy.copy(self)
        other._soft = embeddings.detach().clone().to(self._device, self._embed.weight.dtype)
        other.capabilities = other._can()
        return other

    @contextmanager
    def without_adapter(self) -> Iterator[Self]:
        """The base model below its peft adapter, inside the block: a reference policy without a second copy."""
        if not hasattr(self.model, "disable_adapter"):
            raise InputError("lm", f"{self.name} without an adapter", "a language model with an adapter of peft")
        with self.model.disable_adapter():  # type: ignore[operator]
            self._adapter_off = True
            try:
                yield self
            finally:
                self._adapter_off = False

    # -------------------------------------------------------------------------------------------------------- tokens

    def _ids(self, text: str) -> list[int]:
        try:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:  # tokenizers raises bare Exceptions
            raise InputError(
                "prompt", f"{text[:60]!r}, which the tokenizer does not take", f"text it knows ({error})"
            ) from error
        return ids

    def _start(self) -> list[int]:
        """What the tokenizer itself puts before a text, without what it puts after."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and bos in self.tokenizer("")["input_ids"] else []

    def _prompt_ids(self, request: GenRequest) -> list[int]:
        if isinstance(request.prompt, str):
            return self._start() + self._ids(request.prompt)
        text = self.tokenizer.apply_chat_template(turns(request.prompt), tokenize=False, add_generation_prompt=True)
        return self._ids(text)

    def _tail_ids(self, context: str, continuation: str, ids: list[int]) -> list[int]:
        """Ids of a continuation behind a context of `ids`.

        As in the whole text, where that begins with the context's ids; else of the continuation alone: a token across the
        border would change what the model was conditioned on.
        """
        whole = self._ids(context + continuation)
        return whole[len(ids) :] if len(whole) > len(ids) and whole[: len(ids)] == ids else self._ids(continuation)

    def _fit(self, ids: list[int], room: int, what: str) -> tuple[list[int], int]:
        """The ids, cut from the left if that is allowed, and how many were cut; `room` tokens are needed behind them."""
        limit = self.max_context
        if limit is None or len(ids) + room <= limit:
            return ids, 0
        if room >= limit:
            raise InputError("max_tokens", f"{room} tokens for {what}", f"fewer than the context of {limit} tokens")
        if self.on_long == "refuse":
            raise InputError(
                "prompt",
                f"{what} of {len(ids)} tokens and {room} more",
                f"{limit} together, the context of {self.name} (or on_long='left')",
            )
        start = self._start()
        head = start if start and ids[: len(start)] == start and limit - room > len(start) else []
        return head + ids[len(ids) - (limit - room - len(head)) :], len(ids) - (limit - room)

    def _spell(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of `tokens` behind `prompt`: spelled together, for a tokenizer may drop the space before a first word."""
        tail = list(prompt[-8:])
        before, both = self._decode(tail), self._decode([*tail, *tokens])
        return both[len(before) :] if both.startswith(before) else self._decode(tokens)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    # ------------------------------------------------------------------------------------------------------- batches

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        rows: list[tuple[int, int, Row]] = []
        for index, request in enumerate(requests):
            ids, dropped = self._checked_prompt(request, f"request {index}")
            streams = request.streams()
            # greedy samples are one: it is decoded once
            for sample, stream in enumerate(streams[:1] if request.temperature == 0 else streams):
                rows.append((index, sample, Row(request, stream, ids, dropped)))
        # equal prompts side by side: each is read once; the longest first: memory runs out at once or not at all
        rows.sort(key=lambda one: (-len(one[2].prompt), one[2].prompt, one[0], one[1]))
        parts: list[dict[int, Generation]] = [{} for _ in requests]
        for at in range(0, len(rows), self.batch_size):
            batch = rows[at : at + self.batch_size]
            with torch.no_grad(), evaluating(self.model, verify=False):
                found = self._complete([row for _, _, row in batch])
            for (index, sample, _), generation in zip(batch, found, strict=True):
                parts[index][sample] = generation
                request = requests[index]
                if len(parts[index]) == (1 if request.temperature == 0 else request.n):
                    done = [parts[index][sample] for sample in sorted(parts[index])]
                    yield index, done * request.n if request.temperature == 0 else done

    def _score(self, pairs: list[tuple[str, str]]) -> list[LogLik]:
        rows = [self._checked_pair(pair, f"pair {index}") for index, pair in enumerate(pairs)]
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]), rows[i][0], -len(rows[i][1]), i))
        found: dict[int, LogLik] = {}
        for at in range(0, len(order), self.batch_size):
            batch = order[at : at + self.batch_size]
            with torch.no_grad(), evaluating(self.model, verify=False):
                found |= dict(zip(batch, self._scored([rows[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(rows))]

    def hidden(self, texts: Sequence[str], layer: int | str) -> list[Tensor]:
        """Hidden states of each text, (tokens, width), float32, on the CPU; special tokens that the tokenizer adds are among
        them.

        layer: an integer k: 0 are the embeddings, k the output of block k, -1 of the last one (behind the final normalisation,
            as transformers gives it); or the name of a module, whose output is taken. Raises InputError.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError("texts", type(texts).__name__, "a list of texts")
        if isinstance(layer, bool) or not isinstance(layer, int | str):
            raise InputError("layer", layer, "an integer or the name of a module")
        rows = [self._checked_text(text, f"text {index}") for index, text in enumerate(texts)]
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
        found: dict[int, Tensor] = {}
        for at in range(0, len(order), self.batch_size):
            batch = order[at : at + self.batch_size]
            with torch.no_grad(), evaluating(self.model, verify=False):
                states = self._states([rows[i] for i in batch], layer)
            found |= {i: state.detach().float().cpu() for i, state in zip(batch, states, strict=True)}
        return [found[i] for i in range(len(rows))]

    def _checked_prompt(self, request: GenRequest, what: str) -> tuple[list[int], int]:
        raise NotImplementedError

    def _checked_pair(self, pair: tuple[str, str], what: str) -> tuple[list[int], list[int]]:
        raise NotImplementedError

    def _checked_text(self, text: str, what: str) -> list[int]:
        raise NotImplementedError

    def _complete(self, rows: list[Row]) -> list[Generation]:
        raise NotImplementedError

    def _scored(self, rows: list[tuple[list[int], list[int]]]) -> list[LogLik]:
        raise NotImplementedError

    def _states(self, rows: list[list[int]], layer: int | str) -> list[Tensor]:
        raise NotImplementedError

    def _seen(self, call: Mapping[str, Any], layer: int | str, run: Any, field: str) -> Tensor:
        """The hidden states (B, T, width) of one call: of a block by number, or of a module by name."""
        if isinstance(layer, str):
            with taps(self.model, layer) as seen:
                run(**call)
            value = seen[layer]
            value = value[0] if isinstance(value, tuple | list) else value
            if not isinstance(value, Tensor) or value.dim() != 3:
                raise InputError(
                    "layer", f"{layer!r}, which gives {type(value).__name__}", "a module with outputs (B, T, width)"
                )
            return value
        states = getattr(run(**call, output_hidden_states=True), field)
        if not -len(states) <= layer < len(states):
            raise InputError("layer", layer, f"an integer from {-len(states)} to {len(states) - 1}")
        found: Tensor = states[layer]
        return found


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has this argument (that of the model inside, for one of peft)."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return argument in inspect.signature(inner.forward).parameters


def scores(logits: Tensor, ids: Sequence[int]) -> LogLik:
    """The log-likelihood of ids (T,) under logits (T, V): in float32, gathered before the normaliser is taken off."""
    z = logits.detach().float()
    target = torch.tensor(list(ids), device=z.device)
    values = (z.gather(1, target[:, None])[:, 0] - torch.logsumexp(z, 1)).double().cpu()
    greedy = bool((z.argmax(1) == target).all())
    return LogLik(float(values.sum()), len(target), greedy, tuple(values.tolist()))


def check_same_vocabulary(first: Any, second: Any, *, arguments: tuple[str, str] = ("teacher", "student")) -> None:
    """Refuse two language models whose token ids mean different things: no divergence between them is defined.

    Both have a `tokenizer`. Raises InputError with the first id that differs.
    """
    for argument, lm in zip(arguments, (first, second), strict=True):
        if not hasattr(lm, "tokenizer"):
            raise InputError(argument, f"{type(lm).__name__} without a tokenizer", "a language model such as HFCausalLM")
    ones, others = ({i: token for token, i in lm.tokenizer.get_vocab().items()} for lm in (first, second))
    for i in sorted(ones.keys() | others.keys()):
        if ones.get(i) != others.get(i):
            got = f"{others.get(i, 'no token')!r} at id {i}, where {arguments[0]} has {ones.get(i, 'no token')!r}"
            raise InputError(arguments[1], got, "the same vocabulary")


def not_there(what: str) -> MissingError:
    """The error for a tokenizer that cannot begin a text."""
    return MissingError(
        f"{what} is empty, and the tokenizer has neither a first nor an end token to begin with; give it a text"
    )
