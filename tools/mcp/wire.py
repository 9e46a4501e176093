"""From what an MCP server wrote to messages of the protocol: JSON-RPC, one JSON value a line, body or event.

Defines `Inbox`. The official client drops what it cannot read, and the call that waits for it waits until its deadline.
Here such a call gets an error answer at once, which says what is wrong (`UNREADABLE`). Everything else that a server
writes is ignored.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ...trajectories.messages import Json
from ..digits import Exact, read_number
from .answers import HALF, MAX_DEPTH, Unreadable, depth, fit, packed, short

__all__ = ["UNREADABLE", "Inbox", "JsonRpc"]

UNREADABLE = f"unreadable {secrets.token_hex(8)}"
"""`data` of the error answers that are made here. No server knows it."""

JsonRpc = dict[str, Json]
"""A message of JSON-RPC."""
Id = int | str

_PARSE_ERROR = -32700
_IDLE = ("notifications/message", "notifications/progress")
"""Nobody here waits for these, and the official client complains where one is wrong."""
_STARTS = re.compile(r'\{\s*"jsonrpc"\s*:')
_ID = r'"id"\s*:\s*(-?\d+(?:\.0)?|"(?:[^"\\]|\\.)*")'
_ID_FIRST = re.compile(r'[\[{\s]*(?:"jsonrpc"\s*:\s*"[^"]*"\s*,\s*)?' + _ID)
_ID_LAST = re.compile(_ID + r'\s*(?:,\s*"jsonrpc"\s*:\s*"[^"]*"\s*)?[}\]\s]*$')
_BEGINS = re.compile(r"\{|\[\s*\{")
_HALF_WRITTEN = re.compile(r"\\u[dD][89a-fA-F]")


def _number(text: str) -> float:
    number = read_number(text)
    return Exact(number) if isinstance(number, Decimal) else number


_DECODER = json.JSONDecoder(parse_float=_number)


class Inbox:
    """What was asked and not yet answered on one connection. Reads what the server writes."""

    def __init__(self) -> None:
        self._asked: dict[Id, str] = {}
        """Id of a request that waits -> its method."""
        self._known: set[Id] = set()
        """All ids ever asked: an answer to one that waits no more came late."""
        self._told = 0
        """Notifications sent since the last answer. Some servers answer them, with an error to no id."""
        self._strays: list[JsonRpc] = []
        """Errors for answers that name no request of ours."""
        self._doubts: list[JsonRpc] = []
        """The same for lines that look like an answer in another form: the answer itself may follow."""

    @property
    def waits(self) -> bool:
        """Whether a request still waits for its answer."""
        return bool(self._asked)

    def sent(self, message: JsonRpc) -> None:
        """Notes a message that is about to be sent to the server."""
        method, id = message.get("method"), _same(message.get("id"))
        if isinstance(method, str) and id is not None:
            self._asked[id] = method
            self._known.add(id)
        elif method == "notifications/cancelled":
            self._told += 1
            if self._asked.pop(_same((message.get("params") or {}).get("requestId")), None) is not None:
                del self._strays[:1]  # it may have been this one's
        elif method is not None:
            self._told += 1

    def read(self, data: bytes) -> list[JsonRpc]:
        """The messages in one line, body or event, as the official client takes them."""
        try:
            text, wrong = data.decode(), ""
        except UnicodeDecodeError as error:
            text = data.decode("utf-8", "replace")
            wrong = f"it is no UTF-8 (byte 0x{data[error.start]:02x} at {error.start})"
        text = text.strip("\ufeff\0 \t\r\n")
        if text.startswith('"jsonrpc"'):
            self._strays.append(_error(0, "it is spread over several lines, and a message is one line"))
        values, rest, broken = _values(text)
        read = [message for value in values for message in self._messages(value, wrong or _flaw(text, value))]
        if rest:
            read += self._broken(rest, wrong or broken)
        return read + list(self._settled())

    @property
    def doubts(self) -> bool:
        """Whether something came that is an answer if no better one follows: see `settle`."""
        return bool(self._doubts)

    def settle(self) -> list[JsonRpc]:
        """No better answer followed."""
        self._strays += self._doubts
        self._doubts = []
        return list(self._settled())

    def unanswered(self, why: str) -> list[JsonRpc]:
        """An error answer to each request that still waits."""
        asked, self._asked = list(self._asked), {}
        return [_error(id, why) for id in asked]

    def _messages(self, value: Any, wrong: str) -> Iterator[JsonRpc]:
        if isinstance(value, list):  # a batch, as earlier versions of the protocol have it
            for item in value:
                if isinstance(item, dict):
                    yield from self._messages(item, wrong)
            return
        if not isinstance(value, dict):
            return
        answers = "result" in value or "error" in value
        if "method" in value and not answers:
            if not wrong and _is_call(value) and value["method"] not in _IDLE:
                yield value
            return
        if "jsonrpc" not in value and not (answers and value.keys() <= {"id", "result", "error"}):
            return  # a line of a log, say
        id = _same(value.get("id"))
        if id in self._asked:
            yield self._answered(id, value, wrong)
        elif id is None or id not in self._known:
            stray = _stray(value, wrong)
            if self._told and stray["error"].get("data") != UNREADABLE:
                self._told -= 1
            else:
                self._strays.append(stray)

    def _answered(self, id: Id, value: JsonRpc, wrong: str) -> JsonRpc:
        method = self._asked.pop(id)
        self._told = 0  # a server takes what it is sent one after the other
        del self._doubts[:1]  # it was the echo of this one
        try:
            return _answer(id, method, value, wrong)
        except Unreadable as error:
            return _error(id, str(error))

    def _broken(self, text: str, why: str) -> Iterator[JsonRpc]:
        """For a text that is no JSON: an answer that was broken on its way, or a line of a log."""
        if text.startswith("{") and "'jsonrpc'" in text and "'method'" not in text:
            self._doubts.append(_error(0, why))
        if not _BEGINS.match(text):
            return
        named, answers = '"jsonrpc"' in text, '"result"' in text or '"error"' in text
        found = _ID_FIRST.match(text) or (_ID_LAST.search(text) if named else None)
        if not (named or (found and answers)) or ('"method"' in text and not answers):
            return
        id = _same(json.loads(found[1])) if found else None
        if id in self._asked:
            yield self._answered(id, {}, why)
        elif id is None or id not in self._known:
            self._strays.append(_error(0, why))

    def _settled(self) -> Iterator[JsonRpc]:
        """Ends the requests that wait when as many answers came that name none: they were meant for these."""
        if self._strays and len(self._asked) <= len(self._strays):
            for id, stray in zip(list(self._asked), self._strays, strict=False):
                del self._asked[id]
                yield {**stray, "id": id}
            self._strays = []
        if not self._asked:
            self._doubts = []


def _values(text: str) -> tuple[list[Any], str, str]:
    """The JSON values in a text, the rest of it, and why that is none. A message may stand behind a text that has no
    end of line, or before one."""
    if not text:
        return [], "", ""
    first = None if text.startswith("{") else _STARTS.search(text)
    start = 0
    found: list[Any] = []
    while start < len(text):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if first is None or first.start() < start:
                return found, text[start:], _why(error)
            start, first = first.start(), None
            continue
        found.append(value)
        start = len(text) - len(text[end:].lstrip())
    return found, "", ""


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
    return "it is nested too deep" if isinstance(error, RecursionError) else "it holds a number of too many digits"


def _same(id: Any) -> Any:
    """An id as it is compared: "7" and 7.0 are 7, as to the official client. None for what is no id."""
    if isinstance(id, str):
        return int(id) if re.fullmatch(r"-?\d{1,18}", id) else id
    if isinstance(id, float) and id.is_integer():
        return int(id)
    return id if isinstance(id, int) and not isinstance(id, bool) else None


def _is_call(value: JsonRpc) -> bool:
    """Whether it is a request or a notification by its form."""
    return (
        value.get("jsonrpc") == "2.0"
        and isinstance(value["method"], str)
        and ("id" not in value or type(value["id"]) in (int, str))
        and isinstance(value.get("params"), (dict, type(None)))
    )


def _answer(id: Id, method: str, value: JsonRpc, wrong: str) -> JsonRpc:
    """An answer in the form that the official client takes. Raises `Unreadable`."""
    error = value.get("error")
    if wrong and not (method == "tools/list" and "result" in value):  # where the tools that are right can be kept
        raise Unreadable(wrong)
    if value.get("jsonrpc") != "2.0":
        raise Unreadable('it has no "jsonrpc": "2.0"')
    if error is not None:
        if value.get("result") is not None:
            raise Unreadable(f"it has both a result and an error: {short(error)}")
        code = error.get("code") if isinstance(error, dict) else None
        if _same(code) is None or isinstance(code, str) or not isinstance(error.get("message"), str):
            raise Unreadable(f"its error is no object with a code and a message: {short(error)}")
        return {"jsonrpc": "2.0", "id": id, "error": packed({**error, "code": _same(code)})}
    result = value.get("result")
    if not isinstance(result, dict):
        raise Unreadable(f"its result is no object: {short(result)}" if "result" in value else "it has no result")
    return {"jsonrpc": "2.0", "id": id, "result": fit(method, result, wrong)}


def _stray(value: JsonRpc, wrong: str) -> JsonRpc:
    """The error for an answer that names no request of ours; its own where it is one."""
    try:
        read = _answer(0, "", value, wrong)
    except Unreadable as error:
        return _error(0, str(error))
    if "error" in read:
        return read
    id = value.get("id")
    return _error(
        0, "it does not say which request it answers" if id is None else f"its id is {short(id)}, of no request"
    )


def _error(id: Id, why: str) -> JsonRpc:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": _PARSE_ERROR, "message": why, "data": UNREADABLE}}


def _flaw(text: str, value: Any) -> str:
    """What is wrong with a value that JSON allows and that no record can hold, or ""."""
    if text.count("{") + text.count("[") > MAX_DEPTH and depth(value) > MAX_DEPTH:
        return "it is nested too deep"
    if _HALF_WRITTEN.search(text) and (found := HALF.search(json.dumps(value, ensure_ascii=False))):
        return f"it holds half a character (\\u{ord(found[0]):04x})"
    return ""
