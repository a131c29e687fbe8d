"""What a language model is, whatever is behind it: requests in, completions and log-probabilities out.

Everything that needs a language model takes a `LanguageModel`. Weights on disk, an HTTP endpoint, a table of counts, a recorded
session and a plain function all are one. A backend says in `capabilities` what it can do; a method that needs more calls
`require`, and the user reads one sentence before anything is computed.

Sampling is a pure function of the request: the noise of a sample is drawn from (seed, prompt, index of the sample) and from
nothing else, so a completion does not depend on the batch it was computed in (up to float error, see
`models.language.sampling`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import canonical_json
from tutelage.core.rng import numpy_generator

Capability = Literal["generate", "loglikelihood", "chat", "logprobs", "hidden", "soft_prompt"]
Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "filtered"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        check_choice("messages", self.role, get_args(Role))
        if not isinstance(self.content, str):
            raise InputError("messages", f"content of type {type(self.content).__name__}", "a text")


@dataclass(frozen=True)
class GenRequest:
    """What to complete, and how.

    prompt: a text, taken byte for byte, or a conversation, a sequence of `Message` or of {"role": …, "content": …}.
    n: completions wanted. first: index of the first one; samples 2 and 3 of n=4 are those of first=2, n=2.
    max_tokens: most tokens of a completion. stop: texts at which it ends; they are not part of it.
    temperature: 0 is greedy decoding; else logits are divided by it. top_p: tokens are drawn from the smallest set that holds
        this share of the probability (1: from all).
    seed: of the noise. logprobs: whether the log-probability of each token is wanted, too.
    Raises InputError.
    """

    prompt: str | tuple[Message, ...]
    n: int = 1
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: bool = False
    first: int = 0

    def __post_init__(self) -> None:
        given: object = self.prompt
        if not isinstance(given, str):
            object.__setattr__(self, "prompt", _conversation(given))
        check_unicode("prompt", "".join([self.prompt] if isinstance(self.prompt, str) else [m.content for m in self.prompt]))
        check_integer("n", self.n)
        check_integer("max_tokens", self.max_tokens)
        check_number("temperature", self.temperature, "a number >= 0; 0 is greedy decoding", low=0.0)
        check_number("top_p", self.top_p, "a share in (0, 1]", low=1e-9, high=1.0)
        check_integer("seed", self.seed, low=0)
        check_integer("first", self.first, low=0)
        if not isinstance(self.logprobs, bool):
            raise InputError("logprobs", self.logprobs, "True or False")
        stop: object = self.stop
        stops = (stop,) if isinstance(stop, str) else tuple(self.stop)
        if not all(isinstance(text, str) and text for text in stops):
            raise InputError("stop", stops, "texts that are not empty")
        object.__setattr__(self, "stop", stops)

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a conversation."""
        return not isinstance(self.prompt, str)

    def spelled(self) -> dict[str, Any]:
        """The request as plain JSON, without `n` and `first`: what all its samples share."""
        return {
            "prompt": self.prompt if isinstance(self.prompt, str) else turns(self.prompt),
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "stop": list(self.stop),
            "seed": self.seed,
            "logprobs": self.logprobs,
        }

    def streams(self) -> list[np.random.Generator]:
        """One generator a sample, from the seed, the prompt and the sample's index alone."""
        spelled = self.spelled()["prompt"]
        prompt = hashlib.sha256(canonical_json(spelled).encode()).hexdigest()
        return [numpy_generator(self.seed, "generate", prompt, i) for i in range(self.first, self.first + self.n)]


@dataclass(frozen=True)
class Generation:
    """One completion.

    text: without the prompt, the stop text and special tokens. It may be empty: the model ended at once.
    n_tokens: tokens that were generated, the end token and a cut-off stop text included; None where a backend does not tell.
    finish: "stop" (end token or stop text), "length" (max_tokens reached) or "filtered" (withheld by an endpoint).
    tokens: their ids, () where a backend has none. token_logprobs: log-probability of each in nats, under the model itself
        (temperature 1, no top_p), if it was asked for.
    dropped: tokens that were cut from the beginning of the prompt, because it was longer than the context.
    """

    text: str
    n_tokens: int | None = None
    finish: Finish = "stop"
    tokens: tuple[int, ...] = ()
    token_logprobs: tuple[float, ...] | None = None
    dropped: int = 0

    @property
    def logprob(self) -> float | None:
        """Sum of the tokens' log-probabilities, in nats."""
        return None if self.token_logprobs is None else float(np.sum(np.asarray(self.token_logprobs, dtype=np.float64)))


@dataclass(frozen=True)
class LogLik:
    """log p(continuation | context): sum and parts, in nats, and whether greedy decoding gives the continuation."""

    logprob: float
    n_tokens: int
    is_greedy: bool
    token_logprobs: tuple[float, ...] = ()

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.logprob / self.n_tokens


@runtime_checkable
class LanguageModel(Protocol):
    """One interface for every language model. What `capabilities` lacks raises InputError when it is called.

    name: short, for tables. fingerprint: changes when the model's answers may change; keys of caches are made of it.
    max_context: most tokens of prompt and completion together; None: no limit is known.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def max_context(self) -> int | None: ...
    @property
    def capabilities(self) -> frozenset[Capability]: ...

    def generate(self, requests: Sequence[GenRequest]) -> list[list[Generation]]:
        """n completions for each request, in order."""
        ...

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLik]:
        """log p(continuation | context) for each pair (context, continuation), in order."""
        ...

    def chat(self, conversations: Sequence[Sequence[Message | Mapping[str, str]]], **settings: Any) -> list[list[Generation]]:
        """n answers for each conversation; settings are those of `GenRequest`."""
        ...

    def hidden(self, texts: Sequence[str], layer: int | str) -> list[Tensor]:
        """The hidden states of each text: (tokens of the text, width), float32, on the CPU."""
        ...

    def with_soft_prompt(self, embeddings: Tensor) -> LanguageModel:
        """The same model behind a prefix of virtual tokens, embeddings (P, width), before each text."""
        ...


class Backend:
    """What backends share: checks of requests, order of answers, and one sentence for what a backend cannot do.

    A backend sets `name` and `capabilities`, and gives `_stream` (and `_score` for log-likelihoods).
    """

    name: str = "language model"
    capabilities: frozenset[Capability] = frozenset({"generate"})

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError

    @property
    def max_context(self) -> int | None:
        return None

    def generate(self, requests: Sequence[GenRequest]) -> list[list[Generation]]:
        answers = dict(self.stream(requests))
        return [answers[index] for index in range(len(answers))]

    def stream(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        """(index of the request, its completions) as they are done, in any order: what is done can be kept at once."""
        requests = self._checked(requests)
        return self._stream(requests)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLik]:
        require(self, "loglikelihood")
        return self._score(check_pairs(pairs))

    def chat(self, conversations: Sequence[Sequence[Message | Mapping[str, str]]], **settings: Any) -> list[list[Generation]]:
        require(self, "chat")
        return self.generate([GenRequest(_conversation(conversation), **settings) for conversation in conversations])

    def hidden(self, texts: Sequence[str], layer: int | str) -> list[Tensor]:
        require(self, "hidden")
        raise NotImplementedError

    def with_soft_prompt(self, embeddings: Tensor) -> LanguageModel:
        require(self, "soft_prompt")
        raise NotImplementedError

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        raise NotImplementedError

    def _score(self, pairs: list[tuple[str, str]]) -> list[LogLik]:
        raise NotImplementedError

    def _checked(self, requests: Sequence[GenRequest]) -> list[GenRequest]:
        if isinstance(requests, GenRequest) or not isinstance(requests, Iterable):
            raise InputError("requests", type(requests).__name__, "a sequence of GenRequest")
        found = list(requests)
        for request in found:
            if not isinstance(request, GenRequest):
                raise InputError("requests", f"one of type {type(request).__name__}", "GenRequest each")
            if request.is_chat:
                require(self, "chat")
            if request.logprobs:
                require(self, "logprobs")
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


_WORDS: dict[Capability, str] = {
    "generate": "generate text",
    "loglikelihood": "score given continuations (loglikelihood)",
    "chat": "take conversations (chat)",
    "logprobs": "give log-probabilities of generated tokens (logprobs)",
    "hidden": "show hidden states (hidden)",
    "soft_prompt": "take a soft prompt (with_soft_prompt)",
}


def require(lm: object, *capabilities: Capability, by: str = "", argument: str = "lm") -> None:
    """Refuse, in one sentence, a language model that lacks one of `capabilities`. by: who needs it."""
    if not isinstance(lm, LanguageModel):
        raise InputError(argument, type(lm).__name__, "a LanguageModel, such as HFCausalLM or OpenAIEndpoint")
    for capability in capabilities:
        if capability not in lm.capabilities:
            wanted = f"a language model that can {_WORDS[capability]}{f', which {by} needs' if by else ''}"
            raise InputError(argument, f"{lm.name} ({type(lm).__name__}), which cannot", wanted)


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A conversation in the form that endpoints and chat templates take."""
    return [{"role": message.role, "content": message.content} for message in messages]


def check_pairs(pairs: object) -> list[tuple[str, str]]:
    """(context, continuation) pairs of texts; InputError names the first wrong one. A continuation must not be empty."""
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise InputError("pairs", type(pairs).__name__, "a sequence of (context, continuation)")
    found: list[tuple[str, str]] = []
    for index, one in enumerate(pairs):
        if not (isinstance(one, tuple | list) and len(one) == 2 and all(isinstance(text, str) for text in one)):
            raise InputError("pairs", f"pair {index}, which is {one!r}", "two texts (context, continuation)")
        check_unicode("pairs", one[0] + one[1])
        if not one[1]:
            raise InputError("pairs", f"pair {index} with an empty continuation", "a continuation of one token at least")
        found.append((one[0], one[1]))
    return found


def check_unicode(argument: str, text: str) -> None:
    """A text that can be written as UTF-8: half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(argument, f"{text[error.start : error.end]!r} at character {error.start}", "Unicode text") from error


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    places = [at for one in stop if (at := text.find(one)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _conversation(messages: object) -> tuple[Message, ...]:
    wanted = 'a text, or turns such as [{"role": "user", "content": "Hello"}]'
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        raise InputError("prompt", type(messages).__name__, wanted)
    found = []
    for turn in messages:
        if isinstance(turn, Mapping):
            if set(turn) != {"role", "content"}:
                raise InputError("prompt", f"a turn of {', '.join(map(str, turn)) or 'nothing'}", wanted)
            found.append(Message(turn["role"], turn["content"]))
        elif isinstance(turn, Message):
            found.append(turn)
        else:
            raise InputError("prompt", f"a turn of type {type(turn).__name__}", wanted)
    if not found:
        raise InputError("prompt", "a conversation without turns", wanted)
    return tuple(found)
