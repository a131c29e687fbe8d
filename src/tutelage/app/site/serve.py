"""A server for the built site on this machine: files only, and the headers that a public server should send too."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tutelage.core.errors import InputError, MissingError

# as in the pages themselves, without what only files opened from disk need
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


class _Handler(SimpleHTTPRequestHandler):
    def guess_type(self, path: Any) -> str:
        return {".atom": "application/atom+xml", ".js": "text/javascript"}.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:  # no listings: only what was built is shown
        self.send_error(404)

    def log_message(self, *args: Any) -> None:
        pass


def site_server(folder: Path, port: int = 8000, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """A server for `folder`, not yet running; port 0 takes a free one.

    Raises MissingError if there is no site in the folder, InputError if the port is taken or none.
    """
    if not (folder / "index.html").is_file():
        raise MissingError(f"there is no site in {folder}; `tutelage site build --out {folder}` makes one")
    if not 0 <= port <= 65535:
        raise InputError("port", port, "0 (any free one) to 65535")
    try:
        return ThreadingHTTPServer((host, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InputError("port", port, f"a port that is free ({error.strerror}); --port 0 finds one") from error
        raise InputError("host", host, f"an address of this machine ({error.strerror or error})") from error


def serve_site(folder: Path, port: int, host: str, say: Callable[[str], None]) -> None:
    """Serve until interrupted. `say` gets the address."""
    with site_server(folder, port, host) as server:
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{server.server_address[1]}/")
        server.serve_forever()
