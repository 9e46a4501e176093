"""`http_tool`: requests to hosts on a list, and to no address that the list did not mean.

A host is resolved once; the addresses are checked, and the connection goes to the checked address. Redirects are
followed here, each through the same checks. One deadline holds for all of it: at its end the socket is shut down, so
that a server which sends one byte a second ends too. Compressed bodies are unpacked up to the limit and no further.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from ...trajectories.errors import ConfigError, MissingExtra
from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import (
    BY_STATUS,
    Forbidden,
    InvalidArguments,
    RateLimited,
    ToolError,
    ToolTimeout,
    Unavailable,
    refused,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["http_tool"]

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2000
MAX_REDIRECTS = 3
MAX_BODY = 64 * 1024
"""Bytes that a request sends."""
_SAFE = ("GET", "HEAD")
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def http_tool(
    *,
    allow: Sequence[str],
    private: Sequence[str] = (),
    methods: Sequence[Method] = ("GET",),
    headers: Mapping[str, str] | None = None,
    max_bytes: int = 256 * 1024,
    deadline: float = 10.0,
) -> Tool:
    """The tool `http_request`.

    Args:
        allow: Hosts: `api.example.org`, `*.example.org` (not itself), with a port where it is not the scheme's own:
            `localhost:8080`.
        private: Networks of addresses that are not public and may be reached all the same: `127.0.0.0/8`.
        methods: What may be sent; any but GET and HEAD makes it a tool with an effect.
        headers: Sent with every request to the host that was asked for, and to no other. The model never sees them.
        max_bytes: Bytes of a body, unpacked; the rest is cut off.
        deadline: Seconds for a request, redirects and resolving included.

    Raises:
        ConfigError: a list says something that cannot be meant.
        MissingExtra: httpx is not installed.
    """
    try:
        import httpx  # noqa: F401  # needed by the first request: better said now
    except ImportError:
        raise MissingExtra("httpx", "openapi") from None
    if not allow:
        raise ConfigError("http needs at least one host in `allow`")
    if wrong := [h for h in allow if "/" in h or "*" in h.removeprefix("*.") or h != h.lower() or not h]:
        raise ConfigError(f"hosts are written as example.org, *.example.org or localhost:8080, not {wrong[0]!r}")
    if wrong := [m for m in methods if m not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")]:
        raise ConfigError(f"no method {wrong[0]!r}")
    try:
        networks = [ipaddress.ip_network(n) for n in private]
    except ValueError as error:
        raise ConfigError(f"a private network is written as 10.0.0.0/8: {error}") from None
    client = _Client(frozenset(allow), networks, dict(headers or {}), max_bytes, deadline)
    choices = tuple(methods)

    def http_request(url: str, method: str = "GET", body: str = "") -> Json:
        """Send one HTTP request. Returns status, content type and text; a failure comes back as an error.

        Args:
            url: http:// or https://, to a permitted host.
            method: GET, or another permitted method.
            body: Text to send; JSON is sent as JSON.
        """
        if method not in choices:
            raise Forbidden(f"the method {method[:20]!r} is not permitted", hint=f"permitted: {', '.join(choices)}")
        if body and method in _SAFE:
            raise InvalidArguments(f"a {method} request has no body")
        data = body.encode("utf-8", "replace")
        if len(data) > MAX_BODY:
            raise InvalidArguments(f"the body has {len(data)} bytes; at most {MAX_BODY} are sent")
        return client.request(url, method, data)

    effect = any(m not in _SAFE for m in choices)
    return Tool.from_function(http_request, effect=effect, idempotent=not effect, blocking=True)


@dataclass(slots=True)
class _Call:
    """One request with its redirects, until its deadline."""

    method: str
    end: float
    sent: bool = False
    """Whether the server may have acted on it."""
    late: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def left(self) -> float:
        return max(0.001, self.end - time.monotonic())

    @property
    def took_effect(self) -> bool | None:
        return None if self.sent and self.method not in _SAFE else False

    def timeout(self) -> ToolTimeout:
        return ToolTimeout("no whole answer in time", took_effect=self.took_effect)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by the HTTP library as it goes: keeps a second handle of each socket, to shut it down by."""
        if event == "connection.connect_tcp.complete":
            own = info["return_value"].get_extra_info("socket")
            with self.lock:
                handle = socket.socket(fileno=os.dup(own.fileno()))
                self.sockets.append(handle)
                if self.late:
                    _shut(handle)
        elif event.endswith("send_request_headers.started"):
            self.sent = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, the deadline shuts the sockets down."""
        timer = threading.Timer(self.left, self._stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self.lock:
                for handle in self.sockets:
                    handle.close()
                self.sockets.clear()

    def _stop(self) -> None:
        with self.lock:
            self.late = True
            for handle in self.sockets:
                _shut(handle)


def _shut(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class _Client:
    allow: frozenset[str]
    private: list[Network]
    headers: dict[str, str]
    max_bytes: int
    deadline: float
    tls: Any = None
    """The TLS settings: 20 ms to make, so made once."""

    def request(self, url: str, method: str, body: bytes) -> Json:
        import httpx

        call = _Call(method, time.monotonic() + self.deadline)
        target = self._target(url)
        first = target.host
        with call.watched():
            for _ in range(MAX_REDIRECTS + 1):
                address = self._address(target, call)
                try:
                    outcome = self._send(target, address, call, body, target.host == first)
                except httpx.HTTPError as error:
                    raise self._failed(error, call) from None
                if not isinstance(outcome, str):
                    return outcome
                try:
                    target = self._target(str(target.join(outcome)), redirect=True)
                except InvalidArguments as error:  # the server's doing
                    raise refused(str(error)) from None
                if call.method not in _SAFE:  # as browsers do; 307 and 308 never come here for such methods
                    call.method, body = "GET", b""
        raise ToolError(f"more than {MAX_REDIRECTS} redirects")

    def _target(self, url: str, *, redirect: bool = False) -> httpx.URL:
        """The URL, when it may be asked for."""
        import httpx

        what = "a redirect to" if redirect else "the URL"
        if len(url) > MAX_URL:
            raise InvalidArguments(f"{what} has {len(url)} characters; at most {MAX_URL} are used")
        try:
            target = httpx.URL(url)
            host = target.raw_host.decode("ascii")
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise InvalidArguments(f"{what} {url[:100]!r} is none: {error}") from None
        if target.scheme not in _PORTS or not host:
            raise InvalidArguments(f"{what} {url[:100]!r} has to begin with http:// or https:// and name a host")
        if target.userinfo:
            raise InvalidArguments("a URL holds no user name or password here")
        port = target.port or _PORTS[target.scheme]
        names = {host.lower().rstrip(".")}
        names |= {f"*.{host.lower().rstrip('.').split('.', n)[n]}" for n in range(1, host.rstrip(".").count(".") + 1)}
        allowed = {f"{n}:{port}" for n in names} | (names if port == _PORTS[target.scheme] else set())
        if not allowed & self.allow:
            where = f"{host}:{port}" if port != _PORTS[target.scheme] else host
            raise Forbidden(f"{what} leads to {where[:100]!r}, which is not permitted")
        return target

    def _address(self, target: httpx.URL, call: _Call) -> str:
        """The address to connect to: resolved once, every answer checked."""
        port = target.port or _PORTS[target.scheme]
        answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

        def resolve() -> None:
            try:
                found = socket.getaddrinfo(target.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
                answers.put([str(entry[4][0]) for entry in found])
            except (OSError, UnicodeError) as error:
                answers.put(error if isinstance(error, OSError) else OSError(str(error)))

        threading.Thread(target=resolve, daemon=True).start()  # getaddrinfo has no deadline of its own
        try:
            found = answers.get(timeout=call.left)
        except queue.Empty:
            raise call.timeout() from None
        if isinstance(found, OSError) or not found:
            raise Unavailable(f"the host {target.host[:100]!r} is not found", hint="look at the host's name")
        for text in found:
            if not self._reachable(ipaddress.ip_address(text.partition("%")[0])):
                raise Forbidden(f"the host {target.host[:100]!r} has an address that is not public")
        return found[0]

    def _reachable(self, address: Address) -> bool:
        """Whether an address, and the one that it may stand for, is public or explicitly allowed."""
        if isinstance(address, ipaddress.IPv6Address):
            inner: Address | None = address.ipv4_mapped or address.sixtofour
            if address.teredo is not None:
                inner = address.teredo[1]
            if address in _NAT64:
                inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
            if inner is not None:
                return self._reachable(inner)
        if any(address in network for network in self.private):
            return True
        return address.is_global and not address.is_multicast

    def _send(self, target: httpx.URL, address: str, call: _Call, body: bytes, own: bool) -> Json | str:
        """One exchange. Returns the answer, or where a redirect leads; raises what an error status means."""
        import httpx

        if self.tls is None:
            self.tls = httpx.create_ssl_context(trust_env=False)
        default = target.port is None
        headers = {"User-Agent": "sparring", "Accept-Encoding": "gzip, deflate"}
        if body:
            headers["Content-Type"] = "application/json" if body[:1] in (b"{", b"[") else "text/plain; charset=utf-8"
        if own:
            headers |= self.headers
        name = target.raw_host.decode("ascii")
        shown = f"[{name}]" if ":" in name else name
        headers["Host"] = shown if default else f"{shown}:{target.port}"
        # The request goes to the address; the certificate has to be the name's.
        extensions: dict[str, Any] = {"trace": call.trace, "sni_hostname": name}
        pinned = target.copy_with(host=address, fragment=None)
        timeout = httpx.Timeout(call.left)
        with (
            httpx.Client(verify=self.tls, trust_env=False, timeout=timeout, follow_redirects=False) as client,
            client.stream(call.method, pinned, headers=headers, content=body or None, extensions=extensions) as answer,
        ):
            status = answer.status_code
            if status in (301, 302, 303) or (status in (307, 308) and call.method in _SAFE):
                if "location" not in answer.headers:
                    raise ToolError(f"status {status} without a Location")
                return str(answer.headers["location"])
            data, cut = self._body(answer, call)
        kind = answer.headers.get("content-type", "")[:200]
        text = data.decode(_charset(answer), "replace").encode("utf-8", "replace").decode()
        if status >= 300:
            raise _meaning(status, text, answer.headers, call)
        return {"status": status, "content_type": kind, "text": text, "cut": cut}

    def _body(self, answer: httpx.Response, call: _Call) -> tuple[bytes, bool]:
        """The body, unpacked, up to the limit; and whether there was more."""
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise ToolError(
                f"the answer is packed as {encoding[:50]!r}, which is not read", took_effect=call.took_effect
            )
        unpack = None if encoding in ("identity", "") else zlib.decompressobj(zlib.MAX_WBITS | 32)
        data = bytearray()
        for raw in answer.iter_raw():
            if time.monotonic() >= call.end:
                raise call.timeout()
            room = self.max_bytes - len(data) + 1
            try:
                data += unpack.decompress(raw, room) if unpack else raw[:room]
            except zlib.error:
                raise ToolError("the answer is packed wrongly", took_effect=call.took_effect) from None
            if len(data) > self.max_bytes:
                return bytes(data[: self.max_bytes]), True
        if call.late:  # a socket that was shut down looks like a body without a length that ended
            raise call.timeout()
        return bytes(data), False

    def _failed(self, error: httpx.HTTPError, call: _Call) -> ToolError:
        import httpx

        if call.late or isinstance(error, httpx.TimeoutException):
            return call.timeout()
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return InvalidArguments(f"this cannot be sent: {error}")
        return Unavailable(
            f"the connection failed ({type(error).__name__})", hint="try again", took_effect=call.took_effect
        )


def _charset(answer: httpx.Response) -> str:
    """The encoding that the server names, when it is one of text."""
    try:
        return answer.charset_encoding if answer.charset_encoding and "x".encode(answer.charset_encoding) else "utf-8"
    except (LookupError, UnicodeError, ValueError):
        return "utf-8"


def _meaning(status: int, text: str, headers: Mapping[str, str], call: _Call) -> ToolError:
    """What an error status tells the agent."""
    told = f"status {status}" + (f": {text[:300]}" if text.strip() else "")
    match status:
        case 429:
            return RateLimited(told, retry_after=_retry_after(headers.get("retry-after", "")))
        case 408 | 504:
            return ToolTimeout(told, took_effect=call.took_effect)
        case 502 | 503:
            return Unavailable(told, hint="try again", took_effect=call.took_effect)
        case _ if status >= 500 or status < 400:
            return ToolError(told, took_effect=call.took_effect)
    return BY_STATUS.get(status, refused)(told)


def _retry_after(text: str) -> int:
    """Seconds, as ticks, from a Retry-After header: a number, or a date; 1 where it says nothing of use."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return max(1, int(text))
    try:
        return max(1, min(10**6, round(parsedate_to_datetime(text).timestamp() - time.time())))
    except (TypeError, ValueError, OverflowError):
        return 1
