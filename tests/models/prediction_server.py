"""A real prediction endpoint on this machine: JSON in, JSON out, and the faults that such servers have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Fault = Callable[["Handler"], None]


class Service:
    """f: what it serves, instances (B, ...) -> predictions. faults: what the next requests get instead, in order.

    dies_after: requests after which it closes every connection without an answer.
    """

    def __init__(self, f: Callable[[np.ndarray], Any]) -> None:
        self.f = f
        self.faults: list[Fault] = []
        self.batches: list[np.ndarray] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.dies_after = 10**9
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/predict"

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def start(self) -> None:
        handler = type("ServiceHandler", (Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


class Handler(BaseHTTPRequestHandler):
    service: Service

    def do_POST(self) -> None:
        service = self.service
        service.requests += 1
        service.headers.append(dict(self.headers.items()))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if service.requests > service.dies_after:
            return
        try:
            if service.faults:
                service.faults.pop(0)(self)
                return
            batch = np.array(json.loads(body)["instances"], dtype=np.float32)
            service.batches.append(batch)
            self.reply(200, json.dumps({"predictions": np.asarray(service.f(batch)).tolist()}).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client went away

    def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(f: Callable[[np.ndarray], Any]) -> Iterator[Service]:
    """An endpoint that serves f until the block ends."""
    service = Service(f)
    service.start()
    try:
        yield service
    finally:
        service.stop()


# ---------------------------------------------------------------------------------------------------------- faults


def status(code: int, content: bytes = b"", **headers: str) -> Fault:
    return lambda handler: handler.reply(code, content, **headers)


def says(answer: object) -> Fault:
    """A good answer of other content; Python's JSON knows NaN."""
    return lambda handler: handler.reply(200, json.dumps(answer).encode())


def raw(content: bytes) -> Fault:
    return lambda handler: handler.reply(200, content)


def hangs_up(handler: Handler) -> None:
    """No answer at all."""


def cut(handler: Handler) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"predictions": [[')


def stalls(seconds: float) -> Fault:
    return lambda handler: time.sleep(seconds)


def drips(pause: float, times: int) -> Fault:
    """A byte now and then, so that no single wait is long."""

    def fault(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(times):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(pause)

    return fault
