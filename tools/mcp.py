"""Tools from a server that speaks MCP (Model Context Protocol), over stdio or streamable HTTP. Defines `mcp_tools`.

    with mcp_tools(["python", "server.py"]) as tools:      # or mcp_tools(url="http://127.0.0.1:8000/mcp")
        box = Toolbox(tools, world)

The protocol is the official client's (extra `mcp`); it runs in a background thread, and the tools are plain functions.
What a call came to is decided by the protocol, not by reading texts:

    the result says isError                 ToolError
    error -32601 on a call                  UnknownTool
    error -32602 on a call                  UnknownTool if the server lists no such tool any more, else InvalidArguments
    isError with an SDK's fixed message     UnknownTool if, again, the server lists no such tool any more
    any other error answer                  ToolError
    no answer in time                       ToolTimeout if the server still answers a listing, else InfrastructureError
    an answer that is too large             ToolError; the connection is given up
    server dead, refusing, unreachable      InfrastructureError, after one reconnect for calls that are no effects

A call that changes the world is sent once, whatever happens. A Sparring environment that is served over MCP says itself
how a call ended (in `_meta`), and that is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import orjson
from pydantic import ValidationError

from ..trajectories.errors import ConfigError, EnvError, InfrastructureError, MissingExtra, SparringError
from ..trajectories.messages import Json, Outcome, ToolSpec
from .background import Background
from .definition import Tool
from .errors import BY_OUTCOME, InvalidArguments, RateLimited, ToolError, ToolTimeout, UnknownTool

if TYPE_CHECKING:
    import httpx2
    from mcp import Client, MCPError, types
    from mcp.client import Transport

__all__ = ["META", "mcp_tools"]

META = "sparring/result"
"""Key in a result's `_meta` under which a served Sparring environment says how the call ended."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PROBE_S = 2.0
_EXIT_S = 2.0
"""A server may take this long to end by itself once its input is closed, and as long again after SIGTERM."""
_GRACE_S = _PROBE_S + 2 * _EXIT_S + 6.0
"""Beyond its own deadline a call may take this long for what follows: a probe, and the end of a server that hangs."""
_MAX_PAGES = 100
_TAIL = 2000
"""Bytes of a server's stderr that are kept, for the message of its death."""

_REFUSED: ContextVar[list[int]] = ContextVar("refused")
"""HTTP statuses by which something other than the MCP server answered this call. (The client carries the caller's
context to where the request is sent.)"""


class _Lost(Exception):
    """The connection is gone; says why."""


@dataclass
class _Watch:
    """What a transport knows of its connection, and the protocol's client does not."""

    why: str = ""
    """Why the connection ended; empty while it lives."""
    too_large: bool = False
    hung: bool = False
    """Set when the server does not answer: it is ended without a grace period."""
    stderr: bytes = b""


@dataclass
class _Link:
    """One live connection."""

    client: Client
    watch: _Watch
    stop: asyncio.Event
    host: asyncio.Task[None] = field(repr=False)
    """The task in which the connection was opened, and in which it has to be closed."""

    @property
    def dead(self) -> bool:
        return self.host.done() or bool(self.watch.why)


@contextmanager
def mcp_tools(
    command: Sequence[str] | None = None,
    *,
    url: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    headers: Mapping[str, str] | None = None,
    prefix: str = "",
    only: Collection[str] | None = None,
    read_only: Collection[str] = (),
    trust_hints: bool = True,
    timeout: float = 30.0,
    start_timeout: float = 30.0,
    max_bytes: int = 4 << 20,
) -> Iterator[tuple[Tool, ...]]:
    """The tools of one MCP server, while the connection is open.

    Args:
        command: Starts a server that speaks over its stdin and stdout. It inherits PATH, HOME and the like, no more.
        url: A server that is already running. Exactly one of `command` and `url` is given.
        env: Further environment variables for `command`. Their values appear in no error.
        cwd: Where `command` runs.
        headers: Sent with each HTTP request (a token, say). Their values appear in no error.
        prefix: Put before each tool's name, to tell several servers apart.
        only: The server's names of the tools to take; all by default.
        read_only: The server's names of tools that change nothing, for a server that does not say so itself.
        trust_hints: Believe the server's own hints: readOnlyHint (no effect) and idempotentHint. A tool without hints
            is taken to change the world.
        timeout: Seconds for one call, waiting included.
        start_timeout: Seconds for a connection, to the list of its tools.
        max_bytes: A larger message of the server is refused.

    Raises:
        ConfigError: Neither or both of `command` and `url`; a name in `only` or `read_only` that is no tool.
        EnvError: A tool whose JSON Schema is wrong, or two tools of one name.
        InfrastructureError: The server could not be reached.
        MissingExtra: The package mcp is missing.
    """
    if (command is None) == (url is None):
        raise ConfigError("mcp_tools takes a command or a url: exactly one of them")
    if isinstance(command, str) or (command is not None and not command):
        raise ConfigError(f"command is a list of words, ['python', 'server.py'] say, got {command!r}")
    try:
        import mcp  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingExtra("mcp", "mcp") from error
    server = _Server(
        command=tuple(command or ()),
        url=url or "",
        env=dict(env or {}),
        cwd=cwd,
        headers=dict(headers or {}),
        timeout=timeout,
        start_timeout=start_timeout,
        max_bytes=max_bytes,
    )
    try:
        listed = server.list_tools()
        names = [spec.name for spec in listed]
        for wanted in (*(only or ()), *read_only):
            if wanted not in names:
                raise ConfigError(f"the server has no tool {wanted!r}; it has: {', '.join(names) or 'none'}")
        tools = [
            _tool(server, spec, prefix, read_only, trust_hints) for spec in listed if only is None or spec.name in only
        ]
        taken = [t.name for t in tools]
        double = next((n for n in taken if taken.count(n) > 1), None)
        if double is not None:
            raise EnvError(f"the server has two tools that come to the name {double!r}; choose with `only`")
        yield tuple(tools)
    finally:
        server.close()


def _tool(server: _Server, spec: types.Tool, prefix: str, read_only: Collection[str], trust: bool) -> Tool:
    hints = spec.annotations if trust else None
    harmless = spec.name in read_only or bool(hints and hints.read_only_hint)
    name = prefix + "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in spec.name)
    description = spec.description or spec.title or spec.name
    effect = not harmless

    def run(**arguments: Json) -> Json:
        return server.call(spec.name, arguments, effect=effect)

    try:
        return Tool(
            ToolSpec(name, description, spec.input_schema),
            run,
            effect=effect,
            idempotent=harmless or bool(hints and hints.idempotent_hint),
            blocking=True,
        )
    except (ValueError, RecursionError) as error:  # what the fast validator refuses and the reference does not
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {error}") from None


class _Server:
    """One MCP server, spoken to from any thread; the connection lives in a thread of its own."""

    def __init__(
        self,
        *,
        command: tuple[str, ...],
        url: str,
        env: dict[str, str],
        cwd: str | os.PathLike[str] | None,
        headers: dict[str, str],
        timeout: float,
        start_timeout: float,
        max_bytes: int,
    ) -> None:
        self.command, self.url, self.env, self.cwd, self.headers = command, url, env, cwd, headers
        self.timeout, self.start_timeout, self.max_bytes = timeout, start_timeout, max_bytes
        self.link: _Link | None = None
        self.connecting = asyncio.Lock()
        self.background = Background("sparring-mcp")

    # ---- from any thread -------------------------------------------------------------------------------------------

    def list_tools(self) -> list[types.Tool]:
        async def listing() -> list[types.Tool]:
            link = await self._connected()
            try:
                async with asyncio.timeout(self.start_timeout):
                    return await _listing(link)
            except ValidationError as error:
                await self._drop(link)
                first = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in first["loc"])
                raise EnvError(f"the list of tools of {self.name} is no MCP: {where}: {first['msg']}") from None
            except Exception as error:
                await self._drop(link, hung=isinstance(error, TimeoutError))
                raise self._unreachable(_leaf(error), link.watch) from None

        return self._wait(listing(), 2 * self.start_timeout)

    def call(self, name: str, arguments: dict[str, Json], *, effect: bool) -> Json:
        """Calls one tool. Raises `ToolError` and `InfrastructureError` as the module says."""
        return self._wait(self._call(name, arguments, effect), 2 * self.timeout + self.start_timeout)

    def close(self) -> None:
        """Ends the connection, the server if it was started here, and the thread. Bounded."""

        async def end() -> None:
            async with self.connecting:
                if self.link is not None:
                    await self._drop(self.link)

        with suppress(InfrastructureError):
            self._wait(end(), _GRACE_S)
        self.background.close()

    def _wait(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        if self.background.closed:
            work.close()
            raise InfrastructureError(f"the connection to {self.name} is closed; use its tools inside `with mcp_tools`")
        try:
            return self.background.run(work, seconds + _GRACE_S)
        except TimeoutError as error:
            raise InfrastructureError(f"{self.name} is not let go of: {error}") from None

    # ---- in the loop -----------------------------------------------------------------------------------------------

    async def _call(self, name: str, arguments: dict[str, Json], effect: bool) -> Json:
        end = self.background.loop.time() + self.timeout
        repeated = False
        while True:
            link = await self._connected()
            try:
                return await self._once(link, name, arguments, effect, max(end - self.background.loop.time(), 0.05))
            except _Lost as lost:
                await self._drop(link, hung=link.watch.too_large)
                if link.watch.too_large:
                    raise ToolError(
                        f"the answer is larger than {self.max_bytes} bytes", took_effect=None if effect else False
                    ) from None
                if effect or repeated or self.background.loop.time() >= end:
                    raise self._unreachable(lost, link.watch, f"in a call of {name!r}") from None
                _log.warning("%s was lost in a call of %r, which is made once more: %s", self.name, name, lost)
                repeated = True

    async def _once(self, link: _Link, name: str, arguments: dict[str, Json], effect: bool, seconds: float) -> Json:
        """One request. Raises `_Lost` where the connection is to blame."""
        from mcp import MCPError

        refused: list[int] = []
        _REFUSED.set(refused)
        unknown = None if effect else False
        try:
            async with asyncio.timeout(seconds) as limit:
                result = await link.client.call_tool(name, arguments)
        except TimeoutError:
            if not limit.expired():
                raise _Lost("the transport gave up waiting") from None
            if not await self._answers(link):
                await self._drop(link, hung=True)
                raise InfrastructureError(
                    f"{self.name} did not answer a call of {name!r} in {seconds:.1f} s, nor anything else since"
                ) from None
            raise ToolTimeout(f"no answer in {seconds:.1f} s", took_effect=unknown) from None
        except MCPError as error:
            if link.dead or refused or _from_transport(error):
                why = f"HTTP status {refused[-1]}" if refused else link.watch.why or error.message
                raise _Lost(why) from None
            raise await self._refusal(link, name, error, unknown) from None
        except (RuntimeError, ValueError) as error:
            if link.dead:
                raise _Lost(link.watch.why or str(error)) from None
            # The tool ran, and answered with what its own output schema or the protocol forbids.
            _log.warning("%s answered a call of %r with what cannot be used: %s", self.name, name, error)
            raise ToolError("the answer does not fit what the server itself declares", took_effect=effect) from None
        if not result.is_error:
            return _value(result)
        raise await self._told(link, name, result, unknown)

    async def _refusal(self, link: _Link, name: str, error: MCPError, unknown: bool | None) -> ToolError:
        """What an error answer to a call means."""
        from mcp.types import INVALID_PARAMS, METHOD_NOT_FOUND

        if error.code == METHOD_NOT_FOUND:
            return UnknownTool(error.message)
        if error.code == INVALID_PARAMS:
            return InvalidArguments(error.message) if await self._lists(link, name) else UnknownTool(error.message)
        return ToolError(error.message, took_effect=unknown)

    async def _told(self, link: _Link, name: str, result: types.CallToolResult, unknown: bool | None) -> ToolError:
        """The failure that a result tells of."""
        typed = _typed(result)
        if typed is not None:
            return typed
        text = _text(result)
        fixed = (f"Unknown tool: {name}", f"MCP error -32602: Tool {name} not found")  # Python's SDK, TypeScript's
        if text in fixed and not await self._lists(link, name):
            return UnknownTool(text)
        return ToolError(text, took_effect=unknown)

    async def _lists(self, link: _Link, name: str) -> bool:
        """Whether the server lists the tool now. True, the cautious answer, where it cannot be asked."""
        try:
            async with asyncio.timeout(_PROBE_S):
                return any(spec.name == name for spec in await _listing(link))
        except Exception:
            return True

    async def _answers(self, link: _Link) -> bool:
        """Whether the server answers anything at all."""
        from mcp import MCPError

        try:
            async with asyncio.timeout(_PROBE_S):
                await link.client.list_tools(cache_mode="refresh")
        except MCPError as error:
            return not (link.dead or _from_transport(error))
        except Exception:
            return False
        return True

    async def _connected(self) -> _Link:
        """The connection; a new one where there is none that lives."""
        async with self.connecting:
            if self.link is not None and self.link.dead:
                await self._drop(self.link)
            if self.link is None:
                self.link = await self._connect()
            return self.link

    async def _connect(self) -> _Link:
        from mcp import Client

        watch, stop = _Watch(), asyncio.Event()
        opened: asyncio.Future[Client] = self.background.loop.create_future()

        async def host() -> None:
            try:
                async with Client(self._transport(watch), cache=None) as client:
                    if not opened.done():
                        opened.set_result(client)
                    await stop.wait()
            except BaseException as error:
                leaf = _leaf(error)
                watch.why = watch.why or self._clean(str(leaf)) or type(leaf).__name__
                if not opened.done():
                    opened.set_exception(_Lost(watch.why))
            finally:
                watch.why = watch.why or "closed"

        task = self.background.loop.create_task(host(), name="sparring-mcp-host")
        try:
            async with asyncio.timeout(self.start_timeout):
                client = await asyncio.shield(opened)
        except BaseException as error:
            watch.hung = True
            opened.cancel()
            task.cancel()
            await asyncio.wait([task], timeout=_GRACE_S)
            if isinstance(error, TimeoutError):
                raise self._unreachable(_Lost(f"no connection in {self.start_timeout:.0f} s"), watch) from None
            if isinstance(error, _Lost):
                raise self._unreachable(error, watch) from None
            raise
        return _Link(client, watch, stop, task)

    async def _drop(self, link: _Link, *, hung: bool = False) -> None:
        """Ends a connection. The next call makes another."""
        if self.link is link:
            self.link = None
        link.watch.hung = link.watch.hung or hung
        link.stop.set()
        done, _ = await asyncio.wait([link.host], timeout=_GRACE_S / 2)
        if not done:
            _log.warning("the connection to %s does not end; cancelling it", self.name)
            link.host.cancel()
            await asyncio.wait([link.host], timeout=_GRACE_S / 2)

    # ---- for people ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The server, without what may be secret in its address or arguments."""
        if self.url:
            parts = urlsplit(self.url)
            return f"the MCP server {urlunsplit((parts.scheme, parts.netloc.rpartition('@')[2], parts.path, '', ''))}"
        return f"the MCP server {os.path.basename(self.command[0])!r}"

    def _unreachable(self, error: BaseException, watch: _Watch, when: str = "") -> SparringError:
        if isinstance(error, SparringError):
            return error
        why = self._clean(str(error)) or type(error).__name__
        last = self._clean(watch.stderr.decode("utf-8", "replace")).strip().splitlines()
        said = f"; it last said: {last[-1][:300]}" if last else ""
        return InfrastructureError(f"{self.name} was lost{f' {when}' if when else ''}: {why}{said}")

    def _clean(self, text: str) -> str:
        """Without the values that were given to be kept."""
        for secret in (*self.env.values(), *self.headers.values(), urlsplit(self.url).query):
            for part in (secret, *secret.split()):
                if len(part) >= 6:
                    text = text.replace(part, "***")
        return text

    # ---- transports ------------------------------------------------------------------------------------------------

    def _transport(self, watch: _Watch) -> Transport:
        return self._http(watch) if self.url else self._stdio(watch)

    @asynccontextmanager
    async def _http(self, watch: _Watch) -> AsyncIterator[Any]:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client
        from mcp.types import METHOD_NOT_FOUND

        async def note(response: httpx2.Response) -> None:
            """Sees what is no answer of the protocol: a gateway's error or page, or the end of a session."""
            refused = _REFUSED.get(None)
            if refused is None or response.status_code == 202:
                return
            kind = response.headers.get("content-type", "").lower()
            if response.status_code < 400 and kind.startswith(("application/json", "text/event-stream")):
                return
            code = None
            if kind.startswith("application/json"):
                with suppress(ValueError, TypeError, KeyError):
                    code = orjson.loads(await response.aread())["error"]["code"]
            lost = response.status_code == 404 and "mcp-session-id" in response.request.headers
            if not isinstance(code, int) or (lost and code != METHOD_NOT_FOUND):
                refused.append(response.status_code)

        client = httpx2.AsyncClient(
            headers={"accept-encoding": "identity", **self.headers},
            timeout=httpx2.Timeout(self.start_timeout, read=max(self.timeout, 60.0) * 2),
            transport=_bounded_transport(self.max_bytes, watch),
            event_hooks={"response": [note]},
        )
        async with client, streamable_http_client(
            self.url, http_client=client, max_sse_event_size=self.max_bytes
        ) as streams:  # fmt: skip
            yield streams

    @asynccontextmanager
    async def _stdio(self, watch: _Watch) -> AsyncIterator[Any]:
        """The server as a child process. Unlike the official transport it bounds the length of a message, knows of
        the server's death at once, and keeps the server's last words."""
        import anyio
        from mcp.client.stdio import get_default_environment
        from mcp.shared.message import SessionMessage
        from mcp.types import jsonrpc_message_adapter

        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**get_default_environment(), **self.env},
                cwd=self.cwd,
                start_new_session=sys.platform != "win32",
                limit=self.max_bytes,
            )
        except (OSError, ValueError) as error:
            raise _Lost(f"{error.strerror or error}" if isinstance(error, OSError) else str(error)) from None
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        to_session, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, from_session = anyio.create_memory_object_stream[SessionMessage](0)

        async def read() -> None:
            async with to_session:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    while True:
                        try:
                            line = await stdout.readline()
                        except ValueError:  # longer than `limit`
                            watch.too_large = True
                            watch.why = f"it sent a message of more than {self.max_bytes} bytes"
                            return
                        if not line:
                            with suppress(TimeoutError):  # its last words, and how it ended
                                async with asyncio.timeout(0.5):
                                    await process.wait()
                            watch.why = watch.why or f"it ended{_how(process.returncode)}"
                            return
                        try:
                            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                        except ValueError:
                            if line.strip():
                                _log.debug("%s wrote a line that is no message", self.name)
                            continue
                        await to_session.send(SessionMessage(message))

        async def write() -> None:
            async with from_session:
                try:
                    async for sent in from_session:
                        stdin.write(sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                        await stdin.drain()
                except OSError as error:
                    watch.why = watch.why or f"it reads no more ({type(error).__name__})"
                    await to_session.aclose()

        async def listen() -> None:
            while chunk := await stderr.read(4096):
                watch.stderr = (watch.stderr + chunk)[-_TAIL:]

        pumps = [asyncio.create_task(pump()) for pump in (read, write, listen)]
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                incoming.close()
                outgoing.close()
                await _end(process, hung=watch.hung)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                to_session.close()
                from_session.close()


def _how(returncode: int | None) -> str:
    if returncode is None:
        return ""
    return f" by signal {-returncode}" if returncode < 0 else f" with exit code {returncode}"


async def _end(process: asyncio.subprocess.Process, *, hung: bool) -> None:
    """Ends a server and its children: closes its input, then SIGTERM, then SIGKILL. Every wait is bounded."""
    if process.stdin is not None:
        process.stdin.close()

    async def gone(seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
        return process.returncode is not None

    if not hung and await gone(_EXIT_S):
        _signal(process, kill=True)  # what it may have left behind in its group
    else:
        _signal(process, kill=hung)
        if not await gone(_EXIT_S):
            _signal(process, kill=True)
            if not await gone(_EXIT_S):
                _log.warning("process %d of an MCP server does not die; leaving it", process.pid)
    transport = getattr(process, "_transport", None)  # a grandchild may hold the pipes open: nothing public closes them
    if transport is not None:
        transport.close()


def _signal(process: asyncio.subprocess.Process, *, kill: bool) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill() if kill else process.terminate()
        else:
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)  # it leads a group of its own


def _bounded_transport(limit: int, watch: _Watch) -> httpx2.AsyncBaseTransport:
    """An HTTP transport whose bodies are bounded, event streams excepted (their events are, by the client)."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = 0
            async for chunk in self.stream:
                total += len(chunk)
                if total > limit:
                    watch.too_large = True
                    watch.why = f"it sent an answer of more than {limit} bytes"
                    raise httpx2.ReadError(watch.why)
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Transport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise httpx2.DecodingError("the answer is compressed, which was not asked for")
            if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
                assert isinstance(response.stream, httpx2.AsyncByteStream)
                response.stream = Bounded(response.stream)
            return response

    return Transport()


async def _listing(link: _Link) -> list[types.Tool]:
    """All tools, page by page."""
    found: list[types.Tool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await link.client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            return found
    raise EnvError(f"the server's list of tools has more than {_MAX_PAGES} pages")


def _from_transport(error: MCPError) -> bool:
    """Whether the client made this error up because no answer can come. A server may use the code -32000 for its own
    errors, so that the client's own messages tell the two apart."""
    from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST

    if error.code == INVALID_REQUEST:
        return error.message == "Session terminated"
    ours = error.message == "Connection closed" or error.message.startswith("SSE stream ")
    return error.code == CONNECTION_CLOSED and ours


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _value(result: types.CallToolResult) -> Json:
    """What a good result comes to: structured content where there is some, else the text."""
    meta = (result.meta or {}).get(META)
    if isinstance(meta, dict) and meta.get("outcome") == Outcome.OK and "value" in meta:
        return meta["value"]
    return _text(result) if result.structured_content is None else result.structured_content


def _text(result: types.CallToolResult) -> str:
    """The text of a result; what is no text is named."""
    parts = []
    for block in result.content:
        match block.type:
            case "text":
                parts.append(block.text)
            case "image" | "audio":
                parts.append(f"[{block.type} {block.mime_type}, {len(block.data) * 3 // 4} bytes]")
            case "resource_link":
                parts.append(f"[resource {block.uri}]")
            case "resource":
                text = getattr(block.resource, "text", None)
                parts.append(f"[resource {block.resource.uri}]" if text is None else text)
    # A lone surrogate would break every record.
    return "\n".join(parts).encode("utf-8", "replace").decode()


def _typed(result: types.CallToolResult) -> ToolError | None:
    """The failure as a served Sparring environment describes it; None from any other server."""
    meta = (result.meta or {}).get(META)
    child = BY_OUTCOME.get(str(meta.get("outcome"))) if isinstance(meta, dict) else None
    if child is None or not isinstance(meta, dict):
        return None
    message, hint = _text(result), ""
    with suppress(ValueError):
        told = orjson.loads(message)
        if isinstance(told, dict):
            message, hint = str(told.get("message", "")), str(told.get("hint", ""))
    error = child(message, hint=hint)
    took_effect = meta.get("took_effect")
    error.took_effect = took_effect if isinstance(took_effect, bool) else None
    if isinstance(error, RateLimited):
        after = meta.get("retry_after")
        error.retry_after = after if isinstance(after, int) and not isinstance(after, bool) else None
    return error
