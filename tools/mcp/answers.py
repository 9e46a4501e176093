"""What an MCP server's answers say: its list of tools, and the results of calls.

Defines `fit`, which brings an answer into a form that the official client takes, and `listed` and `result_of`, which
read it behind the client. The client checks each answer as a whole: one tool without a `type` would refuse the list,
one kind of content that is new to it a result. So it gets the least of what it asks for, and the answer itself goes
along in `_meta`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import orjson

from ...trajectories.messages import Json, Outcome
from ..digits import Exact, read_json
from ..errors import BY_OUTCOME, RateLimited, ToolError

if TYPE_CHECKING:
    from mcp import types

__all__ = [
    "HALF",
    "MAX_DEPTH",
    "META",
    "CallResult",
    "Listed",
    "Unreadable",
    "depth",
    "fit",
    "listed",
    "packed",
    "result_of",
    "short",
    "unpacked",
]

META = "sparring/result"
"""Key in a result's `_meta` under which a served Sparring environment says how the call ended."""
_KEPT = "sparring/kept"
"""Key in `_meta` under which what the server wrote passes the official client."""
_NUMBER = f"sparring/number {secrets.token_hex(8)}"
"""Key under which the digits of a number pass the official client, which makes floats of numbers."""
_WRONG = "sparring/wrong"
"""Key in a listed tool under which it says why it cannot be used."""
MAX_DEPTH = 200
"""Of a JSON value. Recorders and providers take less than the 1,000 or so that can be read."""
HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair."""


class Unreadable(Exception):
    """An answer cannot be read; says why."""


def fit(method: str, result: dict[str, Json], flaw: str = "") -> dict[str, Json]:
    """The result of a request as the official client takes it. Raises `Unreadable`.

    Args:
        method: Of the request.
        result: Of the answer.
        flaw: What is wrong with some of its texts; only in a list of tools.
    """
    if method == "tools/list":
        return _fit_list(result, flaw)
    return _fit_result(result) if method == "tools/call" else result


# ---- lists of tools --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """One tool as a server lists it."""

    name: str
    """The server's own name for it; empty where it has none."""
    description: str
    parameters: dict[str, Json]
    """JSON Schema of its arguments, of type object."""
    output: dict[str, Json] | None
    """JSON Schema of its structured content."""
    reads: bool
    """The server says that it changes nothing."""
    idempotent: bool
    """The server says that a second identical call changes nothing more."""
    wrong: str = ""
    """Why it cannot be used."""


def listed(page: types.ListToolsResult) -> list[Listed]:
    """The tools of one page that has passed the client."""
    passed = {tool.name for tool in page.tools}
    found = []
    for raw in (page.meta or {}).get(_KEPT, ()):
        tool = _listed(raw)
        if not tool.wrong and tool.name not in passed:
            tool = _refused(tool.name, "its x-mcp-header annotations are wrong")
        found.append(tool)
    return found


def _fit_list(result: dict[str, Json], flaw: str) -> dict[str, Json]:
    tools, cursor = result.get("tools"), result.get("nextCursor")
    if not isinstance(tools, list):
        raise Unreadable("it has no list of tools")
    if flaw:
        if HALF.search(json.dumps(cursor, ensure_ascii=False)):
            raise Unreadable(flaw)
        tools = [_fixed(tool, flaw) for tool in tools]
    plain = [
        {"name": tool.name, "inputSchema": tool.parameters if _is_simple(tool.parameters) else {"type": "object"}}
        for tool in map(_listed, tools)
        if not tool.wrong
    ]
    fitting = {"tools": plain, "_meta": {_KEPT: tools}}
    if cursor not in (None, ""):
        fitting["nextCursor"] = cursor if isinstance(cursor, str) else json.dumps(cursor)
    return fitting | {key: result[key] for key in ("resultType", "ttlMs", "cacheScope") if key in result}


def _fixed(raw: Json, flaw: str) -> Json:
    """A listed tool with descriptions that can be recorded; one that cannot be used where the flaw is elsewhere."""
    name = raw.get("name") if isinstance(raw, dict) else None
    name = HALF.sub("\ufffd", name) if isinstance(name, str) else name
    if depth(raw) > MAX_DEPTH - 10:
        return {"name": name, _WRONG: "it is nested too deep"}
    text = json.dumps(raw, ensure_ascii=False)
    fixed = json.loads(HALF.sub("\ufffd", text))
    if "\ufffd" not in json.dumps(_undescribed(fixed), ensure_ascii=False):
        return fixed
    return {"name": name, _WRONG: "it holds half a character" if HALF.search(text) else flaw}


def _undescribed(node: Json) -> Json:
    if isinstance(node, list):
        return [_undescribed(item) for item in node]
    if not isinstance(node, dict):
        return node
    texts = ("description", "title")
    return {k: _undescribed(v) for k, v in node.items() if not (k in texts and isinstance(v, str))}


def depth(value: Json) -> int:
    """How deep a JSON value is nested."""
    levels, level = 0, [value]
    while level:
        levels += 1
        level = [i for v in level if isinstance(v, (dict, list)) for i in (v.values() if isinstance(v, dict) else v)]
    return levels


def _listed(raw: Json) -> Listed:
    if not isinstance(raw, dict):
        return _refused("", f"it is no object, but {short(raw)}")
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        return _refused("", f"its name is no text, but {short(name)}")
    if isinstance(wrong := raw.get(_WRONG), str):
        return _refused(name, wrong)
    schema = raw.get("inputSchema", {})
    if schema is None or schema is True:
        schema = {}
    if not isinstance(schema, dict):
        return _refused(name, f"its inputSchema is no object, but {short(schema)}")
    kind = schema.get("type")
    if kind is None or (isinstance(kind, list) and "object" in kind):
        schema = {"type": "object", **{key: value for key, value in schema.items() if key != "type"}}
    output, hints = raw.get("outputSchema"), raw.get("annotations")
    hints = hints if isinstance(hints, dict) else {}
    texts = [text for text in (raw.get("description"), raw.get("title"), hints.get("title")) if isinstance(text, str)]
    return Listed(
        name,
        next((text for text in texts if text.strip()), name),
        schema,
        output if isinstance(output, dict) else None,
        hints.get("readOnlyHint") is True,
        hints.get("idempotentHint") is True,
    )


def _refused(name: str, why: str) -> Listed:
    return Listed(name, "", {}, None, reads=False, idempotent=False, wrong=why)


def _is_simple(schema: dict[str, Json]) -> bool:
    """Whether the client takes a schema as it is."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        schema["type"] == "object"
        and isinstance(schema.get("$schema", ""), str)
        and isinstance(properties, dict)
        and all(isinstance(inner, (dict, bool)) for inner in properties.values())
        and isinstance(required, list)
        and all(isinstance(inner, str) for inner in required)
    )


# ---- results of calls ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call came to."""

    failed: bool
    text: str
    """Its content; what is no text is named."""
    structured: Json
    """Its structured content; None for none."""
    meta: dict[str, Json]
    """What a served Sparring environment says of it; empty from any other server."""

    @property
    def value(self) -> Json:
        """What a good result comes to: structured content where there is some, else the text."""
        if self.meta.get("outcome") == Outcome.OK and "value" in self.meta:
            return self.meta["value"]
        return self.text if self.structured is None else self.structured

    @property
    def words(self) -> str:
        """What a failed result says: its text, and its structured content where that is not the same."""
        if self.structured is None:
            return self.text or "the server says that the call failed, and not why"
        with suppress(ValueError):
            if read_json(self.text.encode()) == self.structured:
                return self.text
        told = self.structured if isinstance(self.structured, str) else _json(self.structured)
        return "\n".join(part for part in (self.text, told) if part)

    def error(self) -> ToolError | None:
        """The failure as a served Sparring environment describes it; None from any other server."""
        child = BY_OUTCOME.get(str(self.meta.get("outcome")))
        if child is None:
            return None
        message, hint = self.text, ""
        with suppress(ValueError):
            told = orjson.loads(message)
            if isinstance(told, dict):
                message, hint = str(told.get("message", "")), str(told.get("hint", ""))
        error = child(message, hint=hint)
        took_effect = self.meta.get("took_effect")
        error.took_effect = took_effect if isinstance(took_effect, bool) else None
        if isinstance(error, RateLimited):
            after = self.meta.get("retry_after")
            error.retry_after = after if isinstance(after, int) and not isinstance(after, bool) else None
        return error


def result_of(result: types.CallToolResult) -> CallResult:
    """A result that has passed the client."""
    meta = result.meta or {}
    told = meta.get(META)
    text = "\n".join(block.text for block in result.content if block.type == "text")
    return CallResult(result.is_error, text, unpacked(meta.get(_KEPT)), told if isinstance(told, dict) else {})


def _fit_result(result: dict[str, Json]) -> dict[str, Json]:
    if result.get("resultType", "complete") != "complete" or "task" in result:
        return result  # no result yet, but something between the client and the server
    structured, failed, meta = result.get("structuredContent"), result.get("isError"), result.get("_meta")
    content = result.get("content")
    if content is None:
        if structured is None and not failed:
            raise Unreadable("it has neither content nor structuredContent")
        content = []
    if not isinstance(content, list):
        raise Unreadable(f"its content is no list, but {short(content)}")
    meta = {key: value for key, value in meta.items() if key != _KEPT} if isinstance(meta, dict) else {}
    return {
        "content": [{"type": "text", "text": text} for text in _texts(content)],
        "isError": failed if isinstance(failed, bool) else str(failed).lower() not in ("none", "false", "0", ""),
        "_meta": meta if structured is None else {**meta, _KEPT: packed(structured)},
        **({"resultType": "complete"} if "resultType" in result else {}),
    }


def _texts(content: list[Json]) -> Iterator[str]:
    """The text of each part of a content; what is no text is named."""
    for block in content:
        if not isinstance(block, dict):
            raise Unreadable(f"a part of its content is no object, but {short(block)}")
        kind, text, resource = block.get("type"), block.get("text"), block.get("resource")
        if kind == "resource" and isinstance(resource, dict):
            inner = resource.get("text")
            yield inner if isinstance(inner, str) else f"[resource {resource.get('uri', '')}]"
        elif kind == "resource_link":
            yield f"[resource {block.get('uri', '')}]"
        elif isinstance(text, str):
            yield text
        elif kind in ("text", None):
            raise Unreadable(f"a part of its content has no text: {short(block)}")
        elif isinstance(block.get("data"), str):
            yield f"[{kind} {block.get('mimeType', 'of unknown form')}, {len(block['data']) * 3 // 4} bytes]"
        else:  # a kind that came later than this
            yield _json(block)


def packed(value: Json) -> Json:
    """A value with each number that a float does not hold as an object that holds its digits."""
    if isinstance(value, Exact):
        return {_NUMBER: str(value.number)}
    if isinstance(value, dict):
        return {key: packed(inner) for key, inner in value.items()}
    return [packed(inner) for inner in value] if isinstance(value, list) else value


def unpacked(value: Json) -> Json:
    """The inverse of `packed`, with numbers as `Decimal`."""
    if isinstance(value, dict):
        if _NUMBER in value:
            return Decimal(value[_NUMBER])
        return {key: unpacked(inner) for key, inner in value.items()}
    return [unpacked(inner) for inner in value] if isinstance(value, list) else value


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def short(value: Json) -> str:
    """A JSON value in words of an error."""
    text = _json(value)
    return text if len(text) <= 200 else text[:200] + "..."
