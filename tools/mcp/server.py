"""One MCP server: its connection, in a thread of its own, and what a call of it came to. Defines `Server`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from ...trajectories.errors import EnvError, InfrastructureError, SparringError
from ...trajectories.messages import Json
from ..background import Background
from ..errors import InvalidArguments, ToolError, ToolTimeout, UnknownTool
from ..schemas import validator_of
from .answers import CallResult, Listed, listed, result_of, short, unpacked
from .transports import EXIT_S, REFUSED, LinkState, Lost, http, stdio
from .wire import UNREADABLE

if TYPE_CHECKING:
    from mcp import Client, MCPError

__all__ = ["Server"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PROBE_S = 2.0
_GRACE_S = _PROBE_S + 2 * EXIT_S + 6.0
"""Beyond its own deadline a call may take this long for what follows: a probe, and the end of a server that hangs."""
_MAX_PAGES = 100


@dataclass
class _Link:
    """One live connection."""

    client: Client
    watch: LinkState
    stop: asyncio.Event
    host: asyncio.Task[None] = field(repr=False)
    """The task in which the connection was opened, and in which it has to be closed."""

    @property
    def dead(self) -> bool:
        return self.host.done() or bool(self.watch.why)


class Server:
    """Spoken to from any thread."""

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
        """
        Args:
            command: Starts the server; empty where there is a `url`.
            url: Where it runs; empty where there is a `command`.
            env: Environment variables of the command. Their values appear in no error.
            cwd: Where the command runs.
            headers: Of each HTTP request. Their values appear in no error.
            timeout: Seconds for one call.
            start_timeout: Seconds for a connection, and as many for the list of tools.
            max_bytes: Of one message.
        """
        self.command, self.url, self.env, self.cwd, self.headers = command, url, env, cwd, headers
        self.timeout, self.start_timeout, self.max_bytes = timeout, start_timeout, max_bytes
        self.link: _Link | None = None
        self.connecting = asyncio.Lock()
        self.background = Background("sparring-mcp")
        self._outputs: dict[str, dict[str, Json] | None] = {}
        """Tool -> what it declares of its structured content, as it was listed last."""

    # ---- from any thread -------------------------------------------------------------------------------------------

    def list_tools(self) -> list[Listed]:
        """All tools of the server, each name once. Raises `EnvError` where its list is none, `InfrastructureError`."""

        async def listing() -> list[Listed]:
            from mcp import MCPError

            link = await self._connected()
            try:
                async with asyncio.timeout(self.start_timeout):
                    return await self._listing(link)
            except ValidationError as error:
                await self._drop(link)
                first = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in first["loc"])
                raise EnvError(f"the list of tools of {self.name} is no MCP: {where}: {first['msg']}") from None
            except Exception as error:
                await self._drop(link, hung=isinstance(error, TimeoutError))
                if isinstance(error, MCPError) and _is_unreadable(error):
                    raise EnvError(f"the list of tools of {self.name} cannot be read: {error.message}") from None
                raise self._unreachable(_leaf(error), link.watch) from None

        return self._wait(listing(), 2 * self.start_timeout)

    def call(self, name: str, arguments: dict[str, Json], *, effect: bool) -> Json:
        """Calls one tool. Raises `ToolError` and `InfrastructureError` as the package says."""
        try:
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidArguments(f"the arguments are no JSON: {error}") from None
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
            except Lost as lost:
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
        """One request. Raises `Lost` where the connection is to blame."""
        from mcp import MCPError

        refused: list[str] = []
        REFUSED.set(refused)
        unknown = None if effect else False
        try:
            async with asyncio.timeout(seconds) as limit:
                result = await link.client.call_tool(name, arguments)
        except TimeoutError:
            if not limit.expired():
                raise Lost("the transport gave up waiting") from None
            if not await self._answers(link):
                await self._drop(link, hung=True)
                raise InfrastructureError(
                    f"{self.name} did not answer a call of {name!r} in {seconds:.1f} s, nor anything else since"
                ) from None
            raise ToolTimeout(f"no answer in {seconds:.1f} s", took_effect=unknown) from None
        except MCPError as error:
            if _is_unreadable(error):
                raise ToolError(f"the server's answer cannot be read: {error.message}", took_effect=unknown) from None
            if link.dead or refused or _from_transport(error):
                why = refused[-1] if refused else link.watch.why or error.message
                raise Lost(why) from None
            raise await self._refusal(link, name, error, unknown) from None
        except (RuntimeError, ValueError) as error:
            if link.dead:
                raise Lost(link.watch.why or str(error)) from None
            _log.warning("%s answered a call of %r with what cannot be used: %s", self.name, name, error)
            raise ToolError("the server's answer is none that a call has", took_effect=unknown) from None
        answer = result_of(result)
        if answer.failed:
            raise await self._told(link, name, answer, unknown)
        if broken := await self._breaks_its_word(link, name, answer):
            _log.warning("%s answered a call of %r with what it declares otherwise: %s", self.name, name, broken)
            raise ToolError(f"the answer does not fit what the server itself declares: {broken}", took_effect=effect)
        return answer.value

    async def _refusal(self, link: _Link, name: str, error: MCPError, unknown: bool | None) -> ToolError:
        """What an error answer to a call means."""
        from mcp.types import INVALID_PARAMS, METHOD_NOT_FOUND

        words = error.message
        if (data := unpacked(error.error.data)) not in (None, "", [], {}):
            words += f": {data if isinstance(data, str) else short(data)}"
        if error.code == METHOD_NOT_FOUND:
            return UnknownTool(words)
        if error.code == INVALID_PARAMS:
            return InvalidArguments(words) if await self._lists(link, name) else UnknownTool(words)
        return ToolError(words, took_effect=unknown)

    async def _told(self, link: _Link, name: str, answer: CallResult, unknown: bool | None) -> ToolError:
        """The failure that a result tells of."""
        if (typed := answer.error()) is not None:
            return typed
        fixed = (f"Unknown tool: {name}", f"MCP error -32602: Tool {name} not found")  # Python's SDK, TypeScript's
        if answer.text in fixed and not await self._lists(link, name):
            return UnknownTool(answer.text)
        return ToolError(answer.words, took_effect=unknown)

    async def _breaks_its_word(self, link: _Link, name: str, answer: CallResult) -> str:
        """How a good result differs from the tool's output schema, or "". The server may have listed another since."""
        broken = _mismatch(name, self._outputs.get(name), answer.structured)
        if broken:
            await self._lists(link, name)
            broken = _mismatch(name, self._outputs.get(name), answer.structured)
        return broken

    async def _lists(self, link: _Link, name: str) -> bool:
        """Whether the server lists the tool now. True, the cautious answer, where it cannot be asked."""
        try:
            async with asyncio.timeout(_PROBE_S):
                return any(tool.name == name for tool in await self._listing(link))
        except Exception:
            return True

    async def _listing(self, link: _Link) -> list[Listed]:
        """All tools, page by page."""
        found: dict[str, Listed] = {}
        cursor: str | None = None
        cursors: set[str] = set()
        for number in range(_MAX_PAGES):
            page = await link.client.list_tools(cursor=cursor, cache_mode="refresh")
            for at, tool in enumerate(listed(page)):
                first = found.setdefault(tool.name or f"{number}/{at}", tool)
                if first is not tool and first != tool:
                    _log.warning("%s lists the tool %r twice; the first is taken", self.name, tool.name)
            cursor = page.next_cursor
            if not cursor:
                break
            if cursor in cursors:
                _log.warning(
                    "the list of tools of %s leads back to a page that it had; the rest is left out", self.name
                )
                break
            cursors.add(cursor)
        else:
            _log.warning("the list of tools of %s has more than %d pages; the rest is left out", self.name, _MAX_PAGES)
        self._outputs = {tool.name: tool.output for tool in found.values()}
        return list(found.values())

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

        watch, stop = LinkState(), asyncio.Event()
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
                    opened.set_exception(Lost(watch.why))
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
                raise self._unreachable(Lost(f"no connection in {self.start_timeout:.0f} s"), watch) from None
            if isinstance(error, Lost):
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

    def _transport(self, watch: LinkState) -> AbstractAsyncContextManager[Any]:
        if not self.url:
            return stdio(self.command, self.env, self.cwd, max_bytes=self.max_bytes, watch=watch)
        return http(
            self.url,
            self.headers,
            connect_s=self.start_timeout,
            read_s=max(self.timeout, 60.0) * 2,
            max_bytes=self.max_bytes,
            watch=watch,
        )

    # ---- for people ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The server, without what may be secret in its address or arguments."""
        if self.url:
            parts = urlsplit(self.url)
            return f"the MCP server {urlunsplit((parts.scheme, parts.netloc.rpartition('@')[2], parts.path, '', ''))}"
        return f"the MCP server {os.path.basename(self.command[0])!r}"

    def _unreachable(self, error: BaseException, watch: LinkState, when: str = "") -> SparringError:
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


def _mismatch(name: str, schema: dict[str, Json] | None, value: Json) -> str:
    """How structured content differs from what its tool declares, or ""."""
    if schema is None:
        return ""
    try:
        validator = validator_of(name, schema, kind="")
    except EnvError:  # the schema is wrong, not the answer; it has been told of
        return ""
    if value is None:
        return "" if validator.is_valid(None) else "it has no structured content"
    error = next(iter(validator.iter_errors(value)), None)
    if error is None:
        return ""
    where = "/".join(str(part) for part in error.instance_path)
    return (f"{where}: {error.message}" if where else error.message)[:300]


def _is_unreadable(error: MCPError) -> bool:
    return bool(error.error.data == UNREADABLE)


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
