"""A page and its data for the person at this machine, and for nobody else.

Served on 127.0.0.1 under an address that holds a secret; what comes under another name, from another page or by another
method is refused. Who serves something (`LabelServer`, `ViewServer`) says only what the page is and may ask for.

Defines `LocalServer`, `Refused`, `Reply`.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs

from ..errors import ConfigError

__all__ = ["LocalServer", "Refused", "Reply"]

_MAX_BODY = 1 << 18


@dataclass(frozen=True)
class Reply:
    """What is sent back. With status 204 nothing follows the headers."""

    body: bytes
    kind: str = "application/json"
    status: int = 200

    @classmethod
    def html(cls, page: bytes) -> Reply:
        return cls(page, "text/html; charset=utf-8")

    @classmethod
    def of(cls, value: dict[str, Any], status: int = 200) -> Reply:
        return cls(json.dumps(value, ensure_ascii=True).encode(), status=status)


class Refused(Exception):
    """A request is not answered, with this status and reason, and the connection ends."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class LocalServer:
    """Serves `page` at `url`, and beneath it what `get` and `post` answer. Both are called in several threads."""

    methods: ClassVar[tuple[str, ...]] = ("GET",)
    """Of these two; any other is refused."""

    def __init__(self, page: bytes, policy: str, port: int = 0) -> None:
        """`policy`: the Content-Security-Policy. `port` 0: any that is free. Raises `ConfigError` for one that cannot
        be had."""
        self.page, self.policy = page, policy
        self.token = secrets.token_urlsafe(24)
        try:
            self._http = _Http(("127.0.0.1", port), self)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} cannot be had ({error}): choose another, or 0 for any that is free"
            ) from None

    def get(self, what: str, query: dict[str, str]) -> Reply | None:
        """What is at `what`, a path beneath `url`; None: nothing."""
        return None

    def post(self, what: str, body: dict[str, Any]) -> Reply | None:
        """Does `what`. None: there is no such thing to do."""
        return None

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def run(self) -> None:
        """Serves until `close` is called in another thread, or Ctrl-C."""
        try:
            self._http.serve_forever(poll_interval=0.2)
        finally:
            self._http.server_close()

    def close(self) -> None:
        self._http.shutdown()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: LocalServer) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who went away in the middle is no error; a bug is, and the command's output is the place for it."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sparring", ""
    timeout = 30
    """Seconds that a client may be silent in the middle of a request."""

    def _serve(self) -> None:
        owner = self.server.owner
        try:
            what, query = self._admitted()
            if self.command == "POST":
                reply = owner.post(what, self._body())
            else:
                reply = owner.get(what, query) if what else Reply.html(owner.page)
            self._answer(reply or Reply.of({"error": "not found"}, 404))
        except Refused as refused:
            self.close_connection = True  # what a body may hold is not read as a request
            self._answer(Reply.of({"error": str(refused)}, refused.status))

    def __getattr__(self, name: str) -> Any:
        """Every method comes here, known to the library or not."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _admitted(self) -> tuple[str, dict[str, str]]:
        """What is asked for, and the query. Raises `Refused`."""
        owner = self.server.owner
        if self.command not in owner.methods:
            raise Refused(405, f"only {' and '.join(owner.methods)}")
        hosts = (f"127.0.0.1:{owner.port}", f"localhost:{owner.port}")
        named = self.headers.get_all("Host") or []
        if len(named) != 1 or named[0] not in hosts:  # a name that was bent to this address
            raise Refused(403, "this server answers to 127.0.0.1 only")
        path, _, query = self.path.partition("?")
        token, slash, what = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), owner.token.encode()) or not slash:
            raise Refused(404, "not found: the address is in the output of the command")
        if self.headers.get("Origin", f"http://{hosts[0]}") not in [f"http://{host}" for host in hosts]:
            raise Refused(403, "another page may not ask this server")
        return what, {name: values[-1] for name, values in parse_qs(query).items()}

    def _body(self) -> dict[str, Any]:
        """The JSON object that was sent. Raises `Refused`."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "expected application/json")
        if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= _MAX_BODY):
            raise Refused(413, "expected a length, of a small body")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "expected a JSON object")
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library answers to a request that is none; nothing of it is repeated."""
        self.close_connection = True
        self._answer(Reply.of({"error": "not a request that is served here"}, int(code)))

    def _answer(self, reply: Reply) -> None:
        owner = self.server.owner
        empty = reply.status == 204
        self.send_response(reply.status)
        for name, value in (
            *(() if empty else (("Content-Type", reply.kind), ("Content-Length", str(len(reply.body))))),
            ("Content-Security-Policy", owner.policy),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            *((("Allow", ", ".join(owner.methods)),) if reply.status == 405 else ()),
            *((("Connection", "close"),) if self.close_connection else ()),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and not empty:
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""
