"""A language model behind an HTTP endpoint that speaks OpenAI's protocol: llama.cpp, vLLM, TGI, Ollama, a provider.

Prompts are sent as they are, nothing is cached (wrap it in `Recorded`). What fails is tried again where that may help, and
reported in one sentence otherwise. The key comes from a named environment variable when a request is sent; it is in no
attribute, no message and no log.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.core.files import canonical_json, sha256_text
from tutelage.core.rng import derive
from tutelage.models.language.protocol import (
    Backend,
    Capability,
    Finish,
    Generation,
    GenRequest,
    LogLik,
    cut_at_stop,
    turns,
)
from tutelage.models.remote import EARLIER, LONGEST_WAIT, MB, EndpointError, _opener, _said, check_url, is_loopback


class _AgainError(Exception):
    """This try failed; the next one may not. pause: what the server asked for, seconds."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Patience:
    """How long an answer is waited for.

    timeout: seconds without a byte after which a try has failed. attempts: tries of a request, with `pause` seconds before the
    second, twice as long before each further one (at most 30 s, times a random factor from 0.5 to 1.5; a Retry-After of the
    server counts if it is longer). total: seconds for a request with all its tries.
    """

    timeout: float = 60.0
    attempts: int = 5
    pause: float = 0.5
    total: float = 600.0

    def __post_init__(self) -> None:
        check_integer("attempts", self.attempts)
        for name in ("timeout", "pause", "total"):
            check_positive(name, getattr(self, name), "a number of seconds > 0")


class OpenAIEndpoint(Backend):
    """A model that an endpoint serves under `base_url`, for instance "http://127.0.0.1:8080/v1".

    model: its name there. api: "chat" (/chat/completions; a plain prompt is sent as one turn of the user) or "completions"
        (/completions: a plain prompt is continued as it is, conversations are refused).
    key_env: name of the environment variable that holds the key; None: no key is sent. A key is not sent over plain http to
        another machine, unless `allow_http`.
    logprobs: whether the server gives log-probabilities. echo: whether it scores a prompt (completions with "echo"), which
        `loglikelihood` needs; the first token of a context has no score, so an empty context is refused.
    max_context: tokens, for the record; the server checks it. workers: requests at a time. per_minute: most requests of a
        minute.
    extra: more fields of each request, for instance {"top_k": 20}; part of the fingerprint. send_seed: whether a seed is sent,
        from the request's seed and the sample's index. Whether it is honoured is the server's affair. Each sample is a request
        of its own.
    requests, retries, tokens: what was sent and paid so far (completion tokens, where the server counts them).

    Tried again: no connection, a broken one, no answer in time, JSON that breaks off, 408, 425, 429, 5xx. Raises InputError for
    arguments and EndpointError for the rest; answers that had come before are handed out first (`stream`), so `Recorded` keeps
    them.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api: Literal["chat", "completions"] = "chat",
        key_env: str | None = None,
        allow_http: bool = False,
        logprobs: bool = False,
        echo: bool = False,
        max_context: int | None = None,
        workers: int = 4,
        per_minute: float | None = None,
        extra: Mapping[str, Any] | None = None,
        send_seed: bool = True,
        patience: Patience = Patience(),
    ) -> None:
        address = check_url(base_url)
        check_choice("api", api, ("chat", "completions"))
        check_integer("workers", workers)
        if not isinstance(model, str) or not model:
            raise InputError("model", model, "the model's name at the endpoint")
        if key_env is not None and (not isinstance(key_env, str) or not key_env.isidentifier()):
            # what was given may be the key itself: it is not shown
            raise InputError(
                "key_env", "something that is no name", "the name of an environment variable, never the key itself"
            )
        parts = urlsplit(base_url)
        if key_env and parts.scheme == "http" and not is_loopback(parts.hostname or "") and not allow_http:
            raise InputError("base_url", address, "https, since a key is sent with it (or allow_http=True)")
        if parts.query or parts.fragment:
            raise InputError("base_url", f"{address} with a query", "an address without ? and #")
        if max_context is not None:
            check_integer("max_context", max_context)
        if per_minute is not None:
            check_positive("per_minute", per_minute, "a number of requests > 0")
        if echo and api != "completions":
            raise InputError("echo", echo, 'api="completions": a chat endpoint scores no prompt')
        self.extra = dict(extra or {})
        try:
            spelled = canonical_json(self.extra)
        except (TypeError, ValueError) as error:
            raise InputError("extra", f"what JSON does not hold ({error})", "texts, finite numbers, lists and dicts") from error
        offered: dict[Capability, bool] = {"chat": api == "chat", "logprobs": logprobs, "loglikelihood": echo}
        self.capabilities = frozenset({"generate", *(capability for capability, there in offered.items() if there)})
        self.name, self.model, self.api, self.key_env = model, model, api, key_env
        self.base_url, self._max_context = address.rstrip("/"), max_context
        self.workers, self.patience, self.send_seed = workers, patience, send_seed
        self._fingerprint = sha256_text(canonical_json(["openai", self.base_url, model, api, spelled, send_seed]))
        self.per_minute = per_minute
        self._pace, self._count = _Pace(per_minute), threading.Lock()
        self.requests = self.retries = self.tokens = 0

    @property
    def fingerprint(self) -> str:
        """Of the address, the model's name and the settings. An endpoint may change its weights and not say so."""
        return self._fingerprint

    @property
    def max_context(self) -> int | None:
        return self._max_context

    def __repr__(self) -> str:
        return f"OpenAIEndpoint({self.base_url!r}, {self.model!r}, api={self.api!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_pace", "_count")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pace, self._count = _Pace(self.per_minute), threading.Lock()  # locks do not travel to another process

    # ------------------------------------------------------------------------------------------------------ requests

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        key = self._key()
        parts: list[list[Generation | None]] = [[None] * request.n for request in requests]
        jobs = ((index, sample) for index, request in enumerate(requests) for sample in range(request.n))
        failure: Exception | None = None
        with ThreadPoolExecutor(self.workers) as pool:
            running: dict[Future[Generation], tuple[int, int]] = {}
            while True:
                while failure is None and len(running) < self.workers and (job := next(jobs, None)):
                    index, sample = job
                    one = replace(requests[index], n=1, first=requests[index].first + sample)
                    running[pool.submit(self._complete, one, key)] = job
                if not running:
                    break
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    index, sample = running.pop(done)
                    if error := done.exception():
                        if not isinstance(error, Exception):
                            raise error
                        failure = failure or error  # those under way may still come, no new one is sent
                        continue
                    parts[index][sample] = done.result()
                    whole = [part for part in parts[index] if part is not None]
                    if len(whole) == requests[index].n:
                        yield index, whole
        if failure is not None:
            raise failure

    def _complete(self, request: GenRequest, key: str) -> Generation:
        body: dict[str, Any] = {"model": self.model, "max_tokens": request.max_tokens, "temperature": request.temperature}
        if request.top_p < 1.0:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        if self.send_seed:
            body["seed"] = derive(request.seed, "endpoint", request.first) % 2**31
        if self.api == "chat":
            prompt = request.prompt
            body["messages"] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else turns(prompt)
            body |= {"logprobs": True} if request.logprobs else {}
        else:
            body["prompt"] = request.prompt
            body |= {"logprobs": 1} if request.logprobs else {}
        answer = self._ask({**body, **self.extra}, key)
        choice = self._choice(answer)
        message = choice.get("message") if self.api == "chat" else choice
        text = (
            (message.get("content") or message.get("refusal") or "") if self.api == "chat" and message else choice.get("text")
        )
        if not isinstance(message, Mapping) or not isinstance(text, str):
            raise EndpointError(f"{self.base_url} answered, but: a choice without a text")
        usage = answer.get("usage")
        count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        n_tokens = count if isinstance(count, int) and count >= 0 else None
        with self._count:
            self.tokens += n_tokens or 0
        said = choice.get("finish_reason")
        finish: Finish = "length" if said == "length" else "filtered" if said == "content_filter" else "stop"
        text, stopped = cut_at_stop(text, request.stop)  # some servers leave the stop text in
        logprobs = self._logprobs(choice) if request.logprobs else None
        return Generation(text, n_tokens, "stop" if stopped else finish, (), logprobs)

    def _choice(self, answer: Any) -> Mapping[str, Any]:
        choices = answer.get("choices") if isinstance(answer, Mapping) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            shown = self._clean(json.dumps(answer))[:80]
            raise EndpointError(f"{self.base_url} answered {shown}, wanted an object with choices")
        return choices[0]

    def _logprobs(self, choice: Mapping[str, Any]) -> tuple[float, ...]:
        found = choice.get("logprobs")
        values: Any = None
        if isinstance(found, Mapping):
            values = found.get("token_logprobs")
            if isinstance(content := found.get("content"), list):
                values = [token.get("logprob") if isinstance(token, Mapping) else None for token in content]
        if not isinstance(values, list) or not all(_is_number(value) for value in values):
            raise EndpointError(
                f"{self.base_url} answered without log-probabilities of the tokens; {self.model} may not offer them"
            )
        return tuple(map(float, values))

    def _score(self, pairs: list[tuple[str, str]]) -> list[LogLik]:
        for index, (context, _) in enumerate(pairs):
            if not context:
                raise InputError("pairs", f"pair {index} with an empty context", "a context: an endpoint scores no first token")
        key = self._key()
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda pair: self._scored(pair, key), pairs))

    def _scored(self, pair: tuple[str, str], key: str) -> LogLik:
        context, continuation = pair
        whole = context + continuation
        # one token more than the prompt: not every server takes max_tokens=0; it lies behind the text and is left out
        body = {"model": self.model, "prompt": whole, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        found = self._choice(self._ask({**body, **self.extra}, key)).get("logprobs")
        fields = ("tokens", "token_logprobs", "text_offset")
        lists: list[Any] = [found.get(field) for field in fields] if isinstance(found, Mapping) else []
        if len(lists) != 3 or not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
            raise EndpointError(f"{self.base_url} answered without {', '.join(fields)} of the prompt; it may not offer echo")
        tokens, values, offsets = lists
        top = found.get("top_logprobs") if isinstance(found, Mapping) else None
        # a token that reaches over the border belongs to the continuation: it could not be scored in halves
        ends = [*offsets[1:], len(whole)]
        scored = [i for i in range(len(tokens)) if offsets[i] < len(whole) and ends[i] > len(context)]
        if not scored or not all(_is_number(values[i]) for i in scored):
            raise EndpointError(f"{self.base_url} answered without a score of each token of the continuation")
        logprobs = tuple(float(values[i]) for i in scored)
        greedy = isinstance(top, list) and all(
            isinstance(top[i], Mapping) and bool(top[i]) and values[i] >= max(top[i].values()) - 1e-9 for i in scored
        )
        return LogLik(float(np.sum(logprobs)), len(logprobs), greedy, logprobs)

    # ---------------------------------------------------------------------------------------------------------- wire

    def _key(self) -> str:
        if self.key_env is None:
            return ""
        key = os.environ.get(self.key_env, "")
        if not key:
            raise InputError("key_env", f"{self.key_env}, which is not set", "the name of an environment variable that is")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InputError("key_env", f"{self.key_env}, whose value is no key", "one line of ASCII letters, digits and signs")
        return key

    def _clean(self, text: str) -> str:
        """A text of the server without the key: some servers repeat it in their errors."""
        key = os.environ.get(self.key_env, "") if self.key_env else ""
        return text.replace(key, "[key]") if key else text

    def _ask(self, body: Mapping[str, Any], key: str) -> Any:
        content = json.dumps(body, allow_nan=False).encode()
        end = time.monotonic() + self.patience.total
        reason, tries = "no answer", self.patience.attempts
        for attempt in range(tries):
            self._pace.wait(end)
            try:
                return self._try(content, key, end)
            except _AgainError as error:
                reason = str(error)
                spread = random.Random().uniform(0.5, 1.5)  # not the global generator: a seeded run stays as it is
                pause = max(error.pause, min(self.patience.pause * 2**attempt, LONGEST_WAIT) * spread)
            if attempt + 1 == tries:
                break
            if time.monotonic() + pause >= end:
                raise EndpointError(f"{self.base_url}: {reason}; gave up after {self.patience.total:g} s. {_GO_ON}")
            with self._count:
                self.retries += 1
            time.sleep(pause)
        raise EndpointError(f"{self.base_url}: {reason}, {'once' if tries == 1 else f'{tries} times in a row'}. {_GO_ON}")

    def _try(self, content: bytes, key: str, end: float) -> Any:
        with self._count:
            self.requests += 1
        url = f"{self.base_url}/{'chat/completions' if self.api == 'chat' else 'completions'}"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(url, data=content, headers=headers, method="POST")
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        limit = max(0.001, min(self.patience.timeout, end - time.monotonic()))
        try:
            with _opener(url).open(request, timeout=limit) as response:
                found = _read(response, end)
        except urllib.error.HTTPError as error:
            with error:
                refusal = self._refusal(error)
            raise refusal from None
        except (TimeoutError, http.client.HTTPException, ValueError, OSError) as error:
            reason: object = error.reason if isinstance(error, urllib.error.URLError) else error
            said = self._clean(_said(reason))
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise EndpointError(f"{self.base_url}: {said}") from None
            raise _AgainError(said) from None
        try:
            return json.loads(found)
        except (ValueError, RecursionError):
            shown = self._clean(found[:80].decode(errors="replace"))
            raise _AgainError(f"an answer that is no whole JSON, {shown!r}") from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        said = f"HTTP {error.code} {error.reason}".strip()
        try:
            detail = self._clean(error.read(2000).decode(errors="replace"))
        except (OSError, http.client.HTTPException):
            detail = ""
        with suppress(ValueError, KeyError, TypeError):  # OpenAI's form of an error; anything else is shown as it came
            detail = str(json.loads(detail)["error"]["message"])
        detail = " ".join(detail.split())[:200]
        if error.code in EARLIER or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            return _AgainError(said, min(float(after), LONGEST_WAIT) if after.isdigit() else 0.0)
        if 300 <= error.code < 400:
            return EndpointError(f"{self.base_url}: {said} to another address; give that one")
        return EndpointError(f"{self.base_url}: {said} for the model {self.model!r}{f': {detail}' if detail else ''}")


class _Pace:
    """Lets requests through one after another, so many a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = -math.inf, threading.Lock()

    def wait(self, end: float) -> None:
        with self._lock:
            at = max(self._next, time.monotonic())
            self._next = at + self._gap
        if at >= end:
            raise EndpointError("the rate limit per_minute leaves no time for this request before `total`; raise one of them")
        time.sleep(max(0.0, at - time.monotonic()))


_GO_ON = "What had come is kept where it is recorded (Recorded); the same call asks for the rest"


def _read(response: http.client.HTTPResponse, end: float) -> bytes:
    content = bytearray()
    while block := response.read1(1 << 16):
        content += block
        if len(content) > 16 * MB:
            raise EndpointError("an answer of more than 16 MB")
        if time.monotonic() > end:
            raise _AgainError("an answer that did not end in time")
    expected = response.headers.get("Content-Length", "")
    if expected.isdigit() and len(content) < int(expected):
        raise _AgainError(f"the connection ended after {len(content)} of {expected} bytes")
    return bytes(content)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
