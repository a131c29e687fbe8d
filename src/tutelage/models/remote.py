"""A model behind an HTTP prediction endpoint: batched, retried, without gradients.

A request is a POST of JSON, an answer is JSON, in the form that KServe, TensorFlow Serving and MLflow share:

    {"instances": [[[[0.0, 0.5, ...], ...], ...], ...]}       B samples as nested lists, (C, H, W) each, in [0, 1]
    {"predictions": [[0.1, 2.3, ...], ...]}                   B rows of scores, in the same order

Other forms are two functions, `encode` and `decode`. Nothing is cached: every sample that a model is asked is sent, in order,
so that an endpoint that changes its answers is seen to do so.

Example::

    model = Endpoint("http://127.0.0.1:8000/predict", gives="probabilities", batch_size=32)
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from tutelage.core.checks import check_callable, check_integer, check_positive
from tutelage.core.errors import InputError, TutelageError
from tutelage.models.adapters import name_of
from tutelage.models.black_box import BlackBox, Gives, check_gives, to_logits

MB = 1_000_000
BLOCK = 1 << 16
LONGEST_WAIT = 30.0  # seconds between two tries
EARLIER = {408, 425, 429}  # of the client errors, those that another try may mend; of the server's errors, all


class EndpointError(TutelageError):
    """An endpoint gave no answer, or one that is no prediction."""

    exit_code = 1


class _AgainError(Exception):
    """This try failed; the next one may not. wait: what the server asked for, seconds. remedy: what the user can do."""

    def __init__(self, reason: str, remedy: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.remedy, self.wait = remedy, wait


class _TooLargeError(Exception):
    """The server takes no request of this size."""


def instances(x: Tensor) -> object:
    """The body of a request for x (B, ...): {"instances": nested lists}. No digit of a float32 is lost."""
    return {"instances": x.tolist()}


def predictions(answer: Any) -> object:
    """The rows of an answer {"predictions": rows}."""
    if not isinstance(answer, Mapping) or "predictions" not in answer:
        found = f"an object of {', '.join(answer) or 'nothing'}" if isinstance(answer, Mapping) else type(answer).__name__
        raise InputError("model", f"an answer that is {found}", 'an object with "predictions", or a function `decode`')
    return answer["predictions"]


class Endpoint(BlackBox):
    """A model that answers POST requests at `url` (http or https). It has no gradients: black-box attacks only.

    gives, classes: what a prediction is, as for `from_function`: "logits", "probabilities" or "labels".
    headers: sent with each request, for instance an authorisation; they are shown nowhere, while the address is.
    batch_size: most samples of a request. max_bytes: most bytes of a request, and of an answer; a larger request, and one
        that the server calls too large (413), is sent in halves.
    encode: x (B, ...) -> the body, anything that JSON holds. decode: the answer -> B predictions.
    timeout: seconds without a byte after which a try has failed. attempts: tries of a request, with `wait` seconds before
        the second, twice as long before each further one (at most 30 s, times a random factor from 0.5 to 1.5; a
        Retry-After of the server counts if it is longer). Tried again: no connection, a broken one, no answer in time,
        408, 425, 429 and 5xx. total: seconds for a request with all its tries.
    requests, samples, retries: what was sent so far.

    Raises InputError for arguments, EndpointError if there is no answer, or one that is no prediction of finite numbers.
    An audit that meets it stops; with `state` its finished parts are kept, and the same call goes on.
    """

    def __init__(
        self,
        url: str,
        *,
        gives: Gives = "logits",
        classes: int | None = None,
        headers: Mapping[str, str] | None = None,
        batch_size: int = 64,
        max_bytes: int = 16 * MB,
        encode: Callable[[Tensor], object] = instances,
        decode: Callable[[Any], object] = predictions,
        timeout: float = 30.0,
        attempts: int = 5,
        wait: float = 0.5,
        total: float = 300.0,
    ) -> None:
        super().__init__()
        self.address = check_url(url)
        check_gives(gives, classes)
        check_integer("batch_size", batch_size)
        check_integer("max_bytes", max_bytes)
        check_integer("attempts", attempts)
        for name, seconds in (("timeout", timeout), ("wait", wait), ("total", total)):
            check_positive(name, seconds, "a number of seconds > 0")
        check_callable("encode", encode, "a function of a batch that gives what JSON holds")
        check_callable("decode", decode, "a function of the answer that gives predictions")
        self._url, self._headers = url, _checked(headers or {})
        self.gives, self.classes = gives, classes
        self.batch_size, self.max_bytes, self.encode, self.decode = batch_size, max_bytes, encode, decode
        self.timeout, self.attempts, self.wait, self.total = timeout, attempts, wait, total
        self.requests = self.samples = self.retries = 0

    def answer(self, x: Tensor) -> Tensor:
        parts = [row for part in torch.split(x.cpu(), self.batch_size) for row in self._rows(part)]
        if len({part.shape[1] for part in parts}) > 1:
            counts = sorted({part.shape[1] for part in parts})
            raise EndpointError(f"{self.address} answered, but: predictions of {counts} classes, wanted one number of classes")
        return torch.cat(parts)

    def _rows(self, x: Tensor) -> list[Tensor]:
        """Logits of x (B, ...), in one part if a request can hold it, else in halves, in order."""
        try:
            body = json.dumps(self.encode(x), allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(
                "encode", f"what JSON does not hold ({error})", "dicts, lists, texts and finite numbers"
            ) from error
        try:
            if len(body) > self.max_bytes:
                raise _TooLargeError(f"{len(body)} bytes, more than max_bytes={self.max_bytes}")
            found = self._ask(body)
        except _TooLargeError as error:
            if len(x) == 1:
                raise InputError("model", f"a request of one sample of {error}", f"one that {self.address} takes") from error
            half = len(x) // 2
            return [*self._rows(x[:half]), *self._rows(x[half:])]
        self.samples += len(x)
        try:
            return [to_logits(self.decode(found), len(x), self.gives, self.classes)]
        except InputError as error:
            raise EndpointError(f"{self.address} answered, but: {error}") from error
        except Exception as error:  # decode is the user's own code
            raise InputError("decode", f"{type(error).__name__}: {error}", "predictions") from error

    def _ask(self, body: bytes) -> Any:
        """The answer to one request, tried again as long as that may help."""
        end = time.monotonic() + self.total
        reason, remedy = "no answer", _SILENT
        for attempt in range(self.attempts):
            try:
                return self._try(body, end)
            except _AgainError as error:
                reason, remedy = str(error), error.remedy
                spread = random.Random().uniform(0.5, 1.5)  # not the global generator: a seeded run stays as it is
                pause = max(error.wait, min(self.wait * 2**attempt, LONGEST_WAIT) * spread)
            if attempt + 1 == self.attempts:
                break
            if time.monotonic() + pause >= end:
                raise EndpointError(f"{self.address}: {reason}; gave up after {self.total:g} s. {remedy}, {_AGAIN}")
            self.retries += 1
            time.sleep(pause)
        tries = "once" if self.attempts == 1 else f"{self.attempts} times in a row"
        raise EndpointError(f"{self.address}: {reason}, {tries}. {remedy}, {_AGAIN}")

    def _try(self, body: bytes, end: float) -> Any:
        self.requests += 1
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._headers}
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        try:
            with _opener(self._url).open(request, timeout=max(0.001, min(self.timeout, end - time.monotonic()))) as response:
                content = self._read(response, end)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (TimeoutError, http.client.HTTPException, ValueError, OSError) as error:
            reason: object = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise EndpointError(f"{self.address}: {_said(reason)}") from error
            absent = isinstance(reason, ConnectionRefusedError)
            raise _AgainError(_said(reason), _ABSENT if absent else _SILENT) from error
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            shown = content[:80].decode(errors="replace")
            raise EndpointError(f"{self.address} answered {shown!r}, wanted JSON ({error})") from error

    def _read(self, response: http.client.HTTPResponse, end: float) -> bytes:
        content = bytearray()
        while block := response.read1(BLOCK):
            content += block
            if len(content) > self.max_bytes:
                raise EndpointError(f"{self.address} answered with more than max_bytes={self.max_bytes} bytes")
            if time.monotonic() > end:
                raise _AgainError("an answer that did not end in time", _SILENT)
        expected = response.headers.get("Content-Length", "")
        if expected.isdigit() and len(content) < int(expected):
            raise _AgainError(f"the connection ended after {len(content)} of {expected} bytes", _SILENT)
        return bytes(content)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        said = f"HTTP {error.code} {error.reason}".strip()
        if error.code == 413:
            return _TooLargeError(f"{said}")
        if error.code in EARLIER or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            return _AgainError(said, _FAILING, min(float(after), LONGEST_WAIT) if after.isdigit() else 0.0)
        if 300 <= error.code < 400:
            return EndpointError(f"{self.address}: {said} to {error.headers.get('Location', 'nowhere')}; give that address")
        try:
            detail = error.read(200).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):
            detail = ""
        return EndpointError(f"{self.address}: {said}{f': {detail}' if detail else ''}")

    def extra_repr(self) -> str:
        form = "".join(f", {key}={name_of(f)}" for key, f in (("encode", self.encode), ("decode", self.decode)))
        return f"{self.address}, gives={self.gives!r}, classes={self.classes}{form}"


_ABSENT = "Start it"
_SILENT = "See whether it runs and how long it takes"
_FAILING = "It runs and answers with errors: see what it says of them"
_AGAIN = "then give the same call or command again"


def check_url(url: object) -> str:
    """The address as it may be shown: without query. InputError for anything but http or https with a host."""
    wanted = "an address such as http://127.0.0.1:8000/predict"
    if not isinstance(url, str):
        raise InputError("url", type(url).__name__, wanted)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError("url", url, f"{wanted} ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError("url", url, wanted)
    if parts.username is not None or parts.password is not None:
        raise InputError("url", f"an address of {parts.hostname} with a user in it", "a header instead, which no report shows")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{parts.path or '/'}"


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@lru_cache(maxsize=16)  # not kept in the model: what it holds can be neither copied nor sent to another process
def _opener(url: str) -> urllib.request.OpenerDirector:
    """http and https only, no redirects: a redirected POST would lose its body. The user's proxies, but not to loopback."""
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ]
    if not is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise InputError("headers", type(headers).__name__, "a mapping of names to texts")
    for name, value in headers.items():
        plain = (
            isinstance(name, str) and isinstance(value, str) and f"{name}{value}".isascii() and f"{name}{value}".isprintable()
        )
        if not plain:  # the value is not shown: it may be a secret
            raise InputError("headers", f"the header {name!r}", "one line of ASCII text each")
    return dict(headers)


def _said(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    text = (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
    return " ".join(text.split())
