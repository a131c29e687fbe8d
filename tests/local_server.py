"""A real HTTP server on this machine that serves files, counts every byte, and fails in the ways that homes of data fail."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tutelage.data.homes import File

Fault = Callable[["Handler", bytes], None]


@dataclass
class Served:
    """One request: its path, its Range header, and the bytes of content sent in answer."""

    path: str
    range: str
    sent: int = 0


@dataclass
class Server:
    """files: path -> content; faults: path -> what the next requests get instead, in order."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    log: list[Served] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(one.sent for one in self.log)


class Handler(BaseHTTPRequestHandler):
    site: Server
    served: Served
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.served = Served(self.path, self.headers.get("Range", ""))
        self.site.log.append(self.served)
        self.close_connection = True
        waiting = self.site.faults.get(self.path, [])
        content = self.site.files.get(self.path)
        try:
            if waiting:
                waiting.pop(0)(self, content or b"")
            elif content is None:
                self.head(404, 0)
            else:
                self.whole_or_rest(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader went away

    def whole_or_rest(self, content: bytes, pause: float = 0.0) -> None:
        """What a good server does: all of it, or the rest that was asked for."""
        start = int(self.served.range.removeprefix("bytes=").rstrip("-") or 0)
        if start and start >= len(content):
            self.head(416, 0)
            return
        extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.head(206 if start else 200, len(content) - start, extra)
        self.body(content[start:], pause)

    def head(self, status: int, length: int | None, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        for key, value in (extra or {}).items():
            self.send_header(key, value)
        self.end_headers()

    def body(self, content: bytes, pause: float = 0.0) -> None:
        for i in range(0, len(content), 4096):
            self.wfile.write(content[i : i + 4096])
            self.served.sent += len(content[i : i + 4096])
            if pause:
                time.sleep(pause)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(**files: bytes) -> Iterator[Server]:
    """Serve `files` until the block ends."""
    site = Server(files={f"/{name}": content for name, content in files.items()})
    handler = type("SiteHandler", (Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}/"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


# --------------------------------------------------------------------------------------------------------------- faults


def cut(after: int) -> Fault:
    """Promise everything, send `after` bytes of it, close."""

    def fault(handler: Handler, content: bytes) -> None:
        start = int(handler.served.range.removeprefix("bytes=").rstrip("-") or 0)
        extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        handler.head(206 if start else 200, len(content) - start, extra)
        handler.body(content[start : start + after])

    return fault


def status(code: int, **headers: str) -> Fault:
    """Answer with this status and no content."""
    return lambda handler, _: handler.head(code, 0, {key.replace("_", "-"): value for key, value in headers.items()})


def instead(content: bytes, length: bool = True) -> Fault:
    """Send other content; without `length`, do not say how long it is."""

    def fault(handler: Handler, _: bytes) -> None:
        handler.head(200, len(content) if length else None)
        handler.body(content)

    return fault


def all_of_it(handler: Handler, content: bytes) -> None:
    """Ignore Range."""
    handler.head(200, len(content))
    handler.body(content)


def wrong_rest(handler: Handler, content: bytes) -> None:
    """Answer a request for a rest with another rest."""
    handler.head(206, 10, {"Content-Range": f"bytes 0-9/{len(content)}"})
    handler.body(content[:10])


def stall(after: int, seconds: float) -> Fault:
    """Send `after` bytes, then nothing for a while."""

    def fault(handler: Handler, content: bytes) -> None:
        handler.head(200, len(content))
        handler.body(content[:after])
        handler.wfile.flush()
        time.sleep(seconds)

    return fault


def slowly(pause: float) -> Fault:
    """A good answer, 4 KiB every `pause` seconds."""
    return lambda handler, content: handler.whole_or_rest(content, pause)


# --------------------------------------------------------------------------------------------------------------- content


def file_of(name: str, content: bytes) -> File:
    """The entry of a file with this content."""
    return File(name, len(content), hashlib.sha256(content).hexdigest())


def idx(shape: tuple[int, ...], content: bytes, kind: int = 8) -> bytes:
    """An idx file: two zeros, the type, the number of axes, the axes as big-endian 32-bit numbers, the content."""
    return bytes([0, 0, kind, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + content


def tar_gz(*members: tarfile.TarInfo, **content: bytes) -> bytes:
    """A .tar.gz of files (name = content) after the given members."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
