"""A real HTTP server on this machine that speaks OpenAI's protocol, and the faults that such servers have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tutelage.models.language import GenRequest, NGramLM

Fault = Callable[["Handler"], None]


class Service:
    """lm: what it serves. faults: what the next requests get instead, in order. bodies, headers: what it was asked."""

    def __init__(self, lm: NGramLM, model: str = "tiny") -> None:
        self.lm, self.model = lm, model
        self.faults: list[Fault] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.key = ""
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    service: Service

    def do_POST(self) -> None:
        service = self.service
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service.bodies.append(body)
        service.headers.append(dict(self.headers.items()))
        service.times.append(time.monotonic())
        service.paths.append(self.path)
        try:
            if service.faults:
                service.faults.pop(0)(self)
            elif service.key and self.headers.get("Authorization") != f"Bearer {service.key}":
                self.reply(401, {"error": {"message": f"wrong key: {self.headers.get('Authorization')}"}})
            elif body["model"] != service.model:
                self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist"}})
            else:
                self.reply(200, self.answer(body))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client went away

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = self.path == "/v1/chat/completions"
        assert chat or self.path == "/v1/completions"
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        wanted = bool(body.get("logprobs"))
        settings = {key: body[key] for key in ("max_tokens", "temperature", "top_p", "stop", "seed") if key in body}
        (made,) = self.service.lm.generate([GenRequest(prompt, logprobs=wanted, **settings)])[0]
        choice: dict[str, Any] = {"index": 0, "finish_reason": made.finish}
        if chat:
            choice["message"] = {"role": "assistant", "content": made.text}
            choice["logprobs"] = (
                {"content": [{"token": "", "logprob": p} for p in made.token_logprobs or ()]} if wanted else None
            )
        elif body.get("echo"):
            choice |= {"text": prompt + made.text, "logprobs": self.echo(prompt)}
        else:
            choice |= {"text": made.text, "logprobs": {"token_logprobs": list(made.token_logprobs or ())} if wanted else None}
        return {"model": body["model"], "choices": [choice], "usage": {"completion_tokens": made.n_tokens}}

    def echo(self, prompt: str) -> dict[str, Any]:
        lm, tokens = self.service.lm, [*prompt, "+"]
        values, top = [None], [None]
        for i in range(1, len(prompt)):
            p = lm.loglikelihood([(prompt[:i], prompt[i])])[0]
            best = max(lm.loglikelihood([(prompt[:i], c)])[0].logprob for c in lm.vocabulary[2:])
            values.append(p.logprob)
            top.append({"?": best})
        return {
            "tokens": tokens,
            "token_logprobs": [*values, -0.5],
            "text_offset": list(range(len(tokens))),
            "top_logprobs": [*top, {"+": -0.5}],
        }

    def reply(self, status: int, content: object, **headers: str) -> None:
        self.raw(status, json.dumps(content).encode(), **headers)

    def raw(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def error(status: int, content: object = "", **headers: str) -> Fault:
    return lambda handler: handler.reply(status, content, **headers)


def cut_off(handler: Handler) -> None:
    """JSON that ends in the middle, and a length that says it is all."""
    handler.raw(200, b'{"choices": [{"mess')


def hang_up(handler: Handler) -> None:
    """Half of what was announced, then nothing."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.wfile.flush()
    handler.connection.close()


def slow(seconds: float) -> Fault:
    return lambda handler: time.sleep(seconds)


@contextmanager
def served(lm: NGramLM) -> Iterator[Service]:
    service = Service(lm)
    handler = type("ServiceHandler", (Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
