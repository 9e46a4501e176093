"""Requests over HTTP: one total deadline for an answer, retries where no answer can have been made, and a name for each
way in which there is none.

    again, at most `retries` times      no connection; 408, 409, 425, 429, 503, 529; a connection that was kept open and
                                        turned out to be closed
    again with resend=yes alone         500, 502, 504, a broken connection: an answer may have been made, and billed
    never again                         anything else
    the end of the run (`ConfigError`)  401, 402, 403, 404, 405, 3xx, no credit, a certificate that does not hold; and
                                        400 or 422 as long as the server has taken no question at all

Defines `Sender`, `ContextFull`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ....trajectories.errors import ConfigError
from ...chat_model import BadAnswer, EndpointError
from .address import Address

if TYPE_CHECKING:
    import httpx

__all__ = ["ContextFull", "Sender", "Unsupported"]

_LOG = logging.getLogger("sparring.endpoint")
_CONNECT_S = 10.0
_LIST_S = 5.0
"""To ask which models there are, for a message."""
_MAX_BYTES = 16 << 20
_SHOWN = 12
"""Models that a message names."""
_SNIPPET = 300
"""Characters of what a server said, in a message."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_LONGEST_PAUSE_S = 3600.0
"""That one answer of the server can hold up all questions."""
_SHORTEST_SECRET = 8
"""Shorter ones ("EMPTY" is a custom) are no secrets, and words of their own."""

_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|context[ _]length|context[ _]window|context[ _]size"
    r"|prompt is too long|input is too long|prompt too long|too many (?:input )?tokens"
    r"|(?:input|prompt) token count .{0,40}exceeds|longer than the (?:model|maximum)|`?inputs`? tokens \+ "
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(
    r"insufficient_quota|billing_hard_limit|insufficient (?:balance|credit)|exceeded your current quota", re.IGNORECASE
)
_FILTER = re.compile(
    r"content_filter|content management policy|moderation|flagged|content_policy|responsible ?ai|safety system"
    r"|usage policy",
    re.IGNORECASE,
)
_LIMITED = re.compile(r"rate_limit|too_many_requests|RESOURCE_EXHAUSTED")
_BUSY = re.compile(r"overloaded|\"UNAVAILABLE\"|service_unavailable")
"""Codes of errors that come with the status of an answer."""
_NOT_TAKEN = re.compile(
    r"unsupported|not supported|unknown|unrecognized|unexpected|extra|not permitted|not allowed|invalid_argument",
    re.IGNORECASE,
)


class ContextFull(Exception):
    """The conversation does not fit into the model's context: a limit of the episode, and no failure."""


class Unsupported(Exception):
    """The server does not take a parameter, and says so."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class _NotThere(ConfigError):
    """No such model, or no such URL."""


class _Again(Exception):
    """A failure after which the question may be sent again."""

    def __init__(self, failure: EndpointError, wait: float | None = None, *, once: bool = False) -> None:
        self.failure = failure
        self.wait = wait
        """Seconds that the server asks for."""
        self.once = once
        """Sent again at once, for nothing is wrong with the server."""


class Sender:
    """The connections to one endpoint. Used on one event loop."""

    def __init__(self, address: Address, at_once: int) -> None:
        self.address = address
        self.answered = False
        """Whether the server has taken any question."""
        self._at_once = at_once
        self._secret = address.key.get_secret_value() if address.key is not None else ""
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        self._not_before = 0.0
        """By the monotonic clock: when the server wants the next request at the earliest."""
        self._fatal: str = ""

    async def ask(self, body: Mapping[str, Any], sent: list[int]) -> dict[str, Any]:
        """The answer, as a JSON object. Counts each request in `sent[0]`.

        Raises `ContextFull`, `Unsupported`, `EndpointError`, and `ConfigError` for what would meet every question.
        """
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        content = json.dumps(body).encode()
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._at_once)
        async with self._slots:
            last: EndpointError | None = None
            limit = asyncio.timeout(self.address.timeout)
            try:
                async with limit:
                    for attempt in range(self.address.retries + 1):
                        try:
                            return await self._try(content, sent, limit)
                        except _Again as again:
                            last = again.failure
                            if attempt == self.address.retries:
                                break
                            await self._wait(again, attempt, limit)
            except _NotThere as error:
                there = await self._models()
                if not there or self.address.model in there:
                    raise
                shown = ", ".join(there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
                self._fatal = f"{error}; it has: {shown}"
                raise ConfigError(self._fatal) from None
            except TimeoutError:
                if not limit.expired():
                    raise
                said = f"; before that: {last}" if last is not None else ""
                kind = last.kind if last is not None else BadAnswer.TIMEOUT
                raise self._failed(kind, f"no whole answer in {self.address.timeout:g} s{said}") from None
            assert last is not None
            times = f" ({sent[0]} requests)" if sent[0] > 1 else ""
            raise EndpointError(last.kind, f"{last}{times}") from None

    async def close(self) -> None:
        """Ends the questions under way, and then the connections: one that is just being made is left to nobody."""
        asking = [task for task in self._asking if not task.done()]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def strike(self, text: str) -> str:
        """Without the key, should a server send it back."""
        return text.replace(self._secret, "[key]") if len(self._secret) >= _SHORTEST_SECRET else text

    # ---- one request -------------------------------------------------------------------------------------------------

    async def _try(self, content: bytes, sent: list[int], limit: asyncio.Timeout) -> dict[str, Any]:
        import httpx

        while (pause := self._not_before - time.monotonic()) > 0:
            if _after(limit, pause):
                raise self._failed(BadAnswer.RATE_LIMITED, f"it wants no question for another {pause:.0f} s")
            await asyncio.sleep(pause)
        if self._fatal:
            raise ConfigError(self._fatal)
        seen = _Seen()
        sent[0] += 1
        url = f"{self.address.url}/chat/completions"
        headers = {"content-type": "application/json"}
        try:
            async with self._open().stream(
                "POST", url, content=content, headers=headers, auth=self._sign, extensions={"trace": seen}
            ) as response:
                raw = await self._read(response)
                status, given = response.status_code, response.headers
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self._end(f"its certificate does not hold: {self._said(str(error))}") from None
            text = f"no connection ({self._said(str(error)) or type(error).__name__})"
            raise _Again(self._failed(BadAnswer.UNREACHABLE, text)) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise self._end("this is no address that can be asked") from None
        except httpx.TransportError as error:
            kind = BadAnswer.CUT if seen.answered else BadAnswer.RESET
            failure = self._failed(kind, f"the connection broke ({self._said(str(error)) or type(error).__name__})")
            stale = seen.reused and not seen.answered
            if stale or self.address.resend:
                raise _Again(failure, once=stale) from None
            raise failure from None
        return self._answer(status, given, raw)

    def _open(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            try:
                plain = self.address.local and self.address.url.startswith("http:")
                self._client = httpx.AsyncClient(
                    # Where nothing is encrypted, reading the certificates is time for nothing: this one trusts nobody.
                    verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True,
                    headers={"accept": "application/json", "accept-encoding": "identity"},
                    timeout=httpx.Timeout(None, connect=_CONNECT_S),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._at_once),
                    follow_redirects=False,
                    trust_env=not self.address.local,  # proxies, as everywhere; none to this machine
                )
            except (ImportError, ValueError) as error:
                raise self._end(f"the proxy of the environment cannot be used: {self._said(str(error))}") from None
        return self._client

    def _sign(self, request: httpx.Request) -> httpx.Request:
        """Adds the key at the last moment. No redirect is followed, so it goes nowhere else."""
        if self._secret:
            request.headers["authorization"] = f"Bearer {self._secret}"
        return request

    async def _read(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise self._failed(BadAnswer.UNREADABLE, "the answer is compressed, which was not asked for")
        raw = bytearray()
        async for chunk in response.aiter_raw():
            raw += chunk
            if len(raw) > _MAX_BYTES:
                raise self._failed(BadAnswer.TOO_LARGE, f"the answer is larger than {_MAX_BYTES >> 20} MiB")
        return bytes(raw)

    async def _wait(self, again: _Again, attempt: int, limit: asyncio.Timeout) -> None:
        """Until the question may be sent again. Raises the failure where that would be after the deadline."""
        if again.once:
            return
        wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1.0)
        if again.wait is not None:
            wait = again.wait + random.uniform(0.0, 0.1)
            self._not_before = max(self._not_before, time.monotonic() + min(again.wait, _LONGEST_PAUSE_S))
        if _after(limit, wait):
            failure = again.failure
            raise EndpointError(
                failure.kind,
                f"{failure}; it asks to wait {wait:.0f} s, and timeout={self.address.timeout:g} s is over then",
            )
        _LOG.info("%s; again in %.1f s", again.failure, wait)
        await asyncio.sleep(wait)

    # ---- what came ---------------------------------------------------------------------------------------------------

    def _answer(self, status: int, headers: Mapping[str, str], raw: bytes) -> dict[str, Any]:
        text = self.strike(raw.decode("utf-8", "replace"))
        data: Any = None
        with suppress(ValueError, RecursionError):
            data = json.loads(text, parse_constant=lambda _: None)
        if 300 <= status < 400:
            to = self._said(headers.get("location", "")) or "nowhere"
            raise self._end(
                f"it sends us on (HTTP {status}) to {to}, which is not followed: name that URL if it is meant"
            )
        if not 200 <= status < 300:
            raise self._refusal(status, headers, data, text)
        if not isinstance(data, dict):
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            what = (
                "a page of HTML" if "html" in kind or text.lstrip()[:1] == "<" else
                "a stream, which was not asked for" if kind == "text/event-stream" else
                "nothing" if not text.strip() else
                "JSON that is no object" if data is not None else
                "no whole JSON"
            )  # fmt: skip
            raise self._failed(BadAnswer.NOT_JSON, f"HTTP {status}, and the answer is {what}: {self._said(text)}")
        error = data.get("error") or (data if data.get("object") == "error" else None)
        if error and not data.get("choices"):  # an error that came with the status of an answer
            code = error.get("code") if isinstance(error, dict) else None
            known = isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600
            raise self._refusal(int(code) if known and code is not None else 200, headers, data, text)
        self.answered = self.answered or "choices" in data
        return data

    def _refusal(self, status: int, headers: Mapping[str, str], data: Any, text: str) -> Exception:
        """What an error answer is."""
        error = _error_of(data)
        message = self._said(_message_of(error) or _message_of(data) or ("" if text.lstrip()[:1] == "<" else text))
        said = f"HTTP {status}{': ' if message else ''}{message}"
        whole = f"{json.dumps(error)} {message}" if error is not None else message
        if status in (200, 400, 413, 422, 500) and _CONTEXT.search(whole):
            return ContextFull(said)
        if status == 402 or _NO_CREDIT.search(whole):
            return self._end(f"there is no credit: {said}")
        if status in (400, 403, 422, 451, 200) and _FILTER.search(whole):
            return self._failed(BadAnswer.FILTERED, f"the provider's filter withheld the question: {said}")
        if status == 401:
            key = self.address.key_from
            way = (
                f"see the key in {key}"
                if key
                else "no key was sent; name the variable that holds it: openai:URL?key=NAME#MODEL"
            )
            return self._end(f"it asks for another key ({said}): {way}")
        if status == 404:
            self._end(said)
            return _NotThere(self._fatal)
        if status in (403, 405):
            return self._end(said)
        if status == 429 or (status == 200 and _LIMITED.search(whole)):
            return _Again(self._failed(BadAnswer.RATE_LIMITED, said), _retry_after(headers))
        if status in (408, 409, 425, 503, 529) or (status == 200 and _BUSY.search(whole)):
            return _Again(self._failed(BadAnswer.OVERLOADED, said), _retry_after(headers))
        if status in (400, 422):
            for parameter in ("seed", "max_tokens"):
                if re.search(rf"\b{parameter}\b", whole) and (
                    _NOT_TAKEN.search(whole) or "max_completion_tokens" in whole
                ):
                    return Unsupported(parameter, self._failed(BadAnswer.REJECTED, said).args[0])
        if 400 <= status < 500:
            if not self.answered:
                return self._end(f"it does not take the question: {said}", latch=False)
            return self._failed(BadAnswer.REJECTED, said)
        failure = self._failed(
            BadAnswer.SERVER_ERROR, said if status != 200 else f"an error in place of an answer: {message}"
        )
        return _Again(failure, _retry_after(headers)) if self.address.resend else failure

    async def _models(self) -> list[str]:
        """Names of the models that the server has, where it says so; else none."""
        import httpx

        with suppress(httpx.HTTPError, ValueError, TimeoutError, RecursionError, EndpointError, ConfigError):
            async with asyncio.timeout(_LIST_S), self._open().stream(
                "GET", f"{self.address.url}/models", auth=self._sign
            ) as response:  # fmt: skip
                raw = await self._read(response)
            data = json.loads(raw) if response.status_code == 200 else None
            listed = data.get("data") if isinstance(data, dict) else None
            if isinstance(listed, list):
                return [self._said(m["id"]) for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]
        return []

    # ---- words -------------------------------------------------------------------------------------------------------

    def _failed(self, kind: BadAnswer, text: str) -> EndpointError:
        return EndpointError(kind, f"{self.address.label}: {text}")

    def _end(self, text: str, *, latch: bool = True) -> ConfigError:
        """The end of the run: what would meet every question is said once."""
        said = f"{self.address.label}: {text}"
        if latch:
            self._fatal = said
        return ConfigError(said)

    def _said(self, text: str) -> str:
        """What a server said, in one line that has an end."""
        line = " ".join(self.strike(text).split())  # struck before it is cut: half a key is one too
        return line if len(line) <= _SNIPPET else f"{line[:_SNIPPET]}..."


def _after(limit: asyncio.Timeout, seconds: float) -> bool:
    """Whether the deadline is over in so many seconds."""
    end = limit.when()
    return end is not None and asyncio.get_running_loop().time() + seconds >= end


class _Seen:
    """What happened to a request, as httpcore tells it."""

    def __init__(self) -> None:
        self.reused = True
        """Whether the connection was there before."""
        self.answered = False
        """Whether the beginning of an answer came."""

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.startswith("connection.connect_"):
            self.reused = False
        elif event.endswith("receive_response_headers.complete"):
            self.answered = True


def _error_of(data: Any) -> Any:
    """The part of an error answer that says what it is."""
    if isinstance(data, list) and data:  # Google's
        data = data[0]
    return (data.get("error") or data) if isinstance(data, dict) else data


def _message_of(error: Any) -> str:
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for name in ("message", "detail", "error", "msg"):
            if value := error.get(name):
                return value if isinstance(value, str) else json.dumps(value)
    return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    with suppress(ValueError):
        return max(0.0, _finite(headers.get("retry-after-ms", "")) / 1000)
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, _finite(text))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _finite(text: str) -> float:
    if not -1e9 < (value := float(text)) < 1e9:
        raise ValueError(text)
    return value
