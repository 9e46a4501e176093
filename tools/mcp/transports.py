"""How messages go to an MCP server and come from it: a child process (`stdio`), or HTTP (`http`).

Both give the official client the pair of streams that it speaks over. Unlike its own transports they bound what a
server sends, know why a connection ended, and end a call at once when its answer cannot be read (`wire`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from .wire import Inbox, JsonRpc

if TYPE_CHECKING:
    import httpx2

__all__ = ["EXIT_S", "REFUSED", "LinkState", "Lost", "http", "stdio"]

_log = logging.getLogger(__name__)

EXIT_S = 2.0
"""A server may take this long to end by itself once its input is closed, and as long again after SIGTERM."""
_PATIENCE_S = 0.5
"""Seconds that a server may take to send an answer after it has printed the same in another form."""
_TAIL = 2000
"""Bytes of a server's stderr that are kept, for the message of its death."""

REFUSED: ContextVar[list[str]] = ContextVar("refused")
"""How something other than the MCP server answered this call: its HTTP status. (The client carries the caller's context
to where the request is sent.)"""


class Lost(Exception):
    """The connection is gone; says why."""


@dataclass
class LinkState:
    """What a transport knows of its connection, and the protocol's client does not."""

    why: str = ""
    """Why the connection ended; empty while it lives."""
    too_large: bool = False
    """The server sent a message that is larger than is taken."""
    hung: bool = False
    """Set when the server does not answer: it is ended without a grace period."""
    stderr: bytes = field(default=b"", repr=False)
    """The end of what it wrote there."""


# ---- HTTP ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def http(
    url: str, headers: Mapping[str, str], *, connect_s: float, read_s: float, max_bytes: int, watch: LinkState
) -> AsyncIterator[Any]:
    """A server that is already running.

    Args:
        url: Its address.
        headers: Sent with each request.
        connect_s: Seconds for a connection.
        read_s: Seconds without a byte after which an answer is given up.
        max_bytes: Of one message.
        watch: Is told what happens.
    """
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    client = httpx2.AsyncClient(
        headers={"accept-encoding": "identity", **headers},
        timeout=httpx2.Timeout(connect_s, read=read_s),
        transport=_reading_transport(max_bytes, watch),
        event_hooks={"response": [_note]},
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        streams = streamable_http_client(url, http_client=client, max_sse_event_size=max_bytes)
        yield await stack.enter_async_context(streams)


async def _note(response: httpx2.Response) -> None:
    """Sees what is no answer of the protocol: a gateway's error or page, or the end of a session."""
    from mcp.types import METHOD_NOT_FOUND

    refused = REFUSED.get(None)
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
        words = f"HTTP status {response.status_code}"
        refused.append(words if response.status_code >= 300 else f"{words} of content type {kind or 'none'}")


def _reading_transport(limit: int, watch: LinkState) -> httpx2.AsyncBaseTransport:
    """An HTTP transport whose answers are read before the client gets them; their bodies and events are bounded."""
    import httpx2

    def too_large() -> httpx2.ReadError:
        watch.too_large = True
        watch.why = f"it sent an answer of more than {limit} bytes"
        return httpx2.ReadError(watch.why)

    class Body(httpx2.AsyncByteStream):
        """A bounded body, given on in parts."""

        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = 0
            async for chunk in self.stream:
                total += len(chunk)
                if total > limit:
                    raise too_large()
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Answer(Body):
        """The answer to one request, read as a whole."""

        def __init__(self, stream: httpx2.AsyncByteStream, inbox: Inbox) -> None:
            super().__init__(stream)
            self.inbox = inbox

        async def __aiter__(self) -> AsyncIterator[bytes]:
            body = b"".join([chunk async for chunk in super().__aiter__()])
            read = self.inbox.read(body) + self.inbox.unanswered(_no_answer(body))
            answers = [message for message in read if "method" not in message]
            yield json.dumps(answers[0]).encode() if answers else body

    resumable: dict[bytes, Inbox] = {}
    """Id of the last event of a stream that may be gone on with -> what is asked there."""

    class Events(Answer):
        """Server-sent events, each read when it is whole."""

        async def __aiter__(self) -> AsyncIterator[bytes]:
            lines: list[bytes] = []
            size, last, junk = 0, b"", b""
            async for line in _lines(self.stream):
                size += len(line)
                if size > limit:
                    raise too_large()
                ends = not line.strip(b"\r\n") and (not lines or lines[-1].endswith((b"\r", b"\n")))
                lines.append(line)
                if ends:
                    fields = b"".join(lines).splitlines()
                    lines, size = [], 0
                    if ids := [field[3:].strip() for field in fields if field.startswith(b"id:")]:
                        resumable.pop(last, None)
                        last = ids[-1]
                        resumable[last] = self.inbox
                    data = b"\n".join(field[5:].removeprefix(b" ") for field in fields if field.startswith(b"data:"))
                    messages = self.inbox.read(data)
                    junk = junk if messages else data
                    yield _events(fields, messages)
                    if not self.inbox.waits:
                        resumable.pop(last, None)
            if junk and not last:
                yield _events([], self.inbox.unanswered(_no_answer(junk)))

    class Transport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise httpx2.DecodingError("the answer is compressed, which was not asked for")
            stream, kind = response.stream, response.headers.get("content-type", "").lower()
            assert isinstance(stream, httpx2.AsyncByteStream)
            inbox = resumable.get(request.headers.get("last-event-id", "").encode())
            if request.method == "POST":
                inbox = Inbox()
                inbox.sent(json.loads(request.content))
            good = response.status_code < 300
            if good and kind.startswith("text/event-stream"):
                if inbox is not None:  # else what the server says unasked: the client bounds it
                    response.stream = Events(stream, inbox)
            elif good and inbox is not None and kind.startswith("application/json"):
                response.stream = Answer(stream, inbox)
                response.headers.pop("content-length", None)
            else:
                response.stream = Body(stream)
            return response

    return Transport()


async def _lines(stream: httpx2.AsyncByteStream) -> AsyncIterator[bytes]:
    """The lines of a stream with their ends; a line without one comes in parts."""
    left = b""
    async for chunk in stream:
        *whole, left = (left + chunk).splitlines(keepends=True) or [b""]
        if left.endswith(b"\n"):  # a lone \r may be half of a \r\n
            whole, left = [*whole, left], b""
        for line in whole:
            yield line
        if len(left) > 65536 and not left.endswith(b"\r"):
            yield left
            left = b""
    if left:
        yield left


def _events(fields: list[bytes], messages: list[JsonRpc]) -> bytes:
    """One event for each message, with the other fields of the one that they came in."""
    others = [field for field in fields if field and not field.startswith((b"data:", b":"))]
    blocks = [[*others, b"data: " + json.dumps(message).encode()] for message in messages] or [others]
    return b"".join(b"\n".join(block) + b"\n\n" for block in blocks if block)


def _no_answer(body: bytes) -> str:
    start = body[:80].decode("utf-8", "replace")
    return f"it is no answer of the protocol, but {start!r}" if start.strip() else "it is empty"


# ---- a child process -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stdio(
    command: tuple[str, ...],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    *,
    max_bytes: int,
    watch: LinkState,
) -> AsyncIterator[Any]:
    """The server as a child process. Its death is known at once, and its last words are kept.

    Args:
        command: The words that start it.
        env: Environment variables, next to the few that every child gets.
        cwd: Where it runs.
        max_bytes: Of one message.
        watch: Is told what happens.
    """
    import anyio
    from mcp.client.stdio import get_default_environment
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**get_default_environment(), **env},
            cwd=cwd,
            start_new_session=sys.platform != "win32",
            limit=max_bytes,
        )
    except (OSError, ValueError) as error:
        raise Lost(f"{error.strerror or error}" if isinstance(error, OSError) else str(error)) from None
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    to_session, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    inbox = Inbox()

    async def give(messages: list[JsonRpc]) -> None:
        for message in messages:
            try:
                parsed = jsonrpc_message_adapter.validate_python(message, by_name=False)
            except ValueError as error:
                _log.debug("a message of %s is passed over: %s", command[0], error)
                continue
            await to_session.send(SessionMessage(parsed))

    async def read() -> None:
        async with to_session:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                while True:
                    try:
                        async with asyncio.timeout(_PATIENCE_S if inbox.doubts else None):
                            line = await stdout.readline()
                    except TimeoutError:
                        await give(inbox.settle())
                        continue
                    except ValueError:  # longer than `limit`
                        watch.too_large = True
                        watch.why = f"it sent a message of more than {max_bytes} bytes"
                        return
                    whole = line.endswith(b"\n") or _is_json(line)
                    if not whole:  # the end, perhaps in the middle of a message
                        with suppress(TimeoutError):  # its last words, and how it ended
                            async with asyncio.timeout(0.5):
                                await process.wait()
                        watch.why = watch.why or f"it ended{_how(process.returncode)}"
                        return
                    await give(inbox.read(line))

    async def write() -> None:
        async with from_session:
            try:
                async for sent in from_session:
                    message = sent.message.model_dump(mode="json", by_alias=True, exclude_unset=True)
                    inbox.sent(message)
                    stdin.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
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


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


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

    if not hung and await gone(EXIT_S):
        _signal(process, kill=True)  # what it may have left behind in its group
    else:
        _signal(process, kill=hung)
        if not await gone(EXIT_S):
            _signal(process, kill=True)
            if not await gone(EXIT_S):
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
