"""From sampled text to a `ToolCall`. Strict, bounded, and never raising: what cannot be parsed is still a call."""

from __future__ import annotations

import json
from typing import Any

from ..trajectories.messages import ToolCall
from ..trajectories.strict_json import finite, int64, no_constant

__all__ = ["MAX_CALL_BYTES", "MAX_DEPTH", "parse_call"]

MAX_CALL_BYTES = 1_000_000
MAX_DEPTH = 64
_ARGUMENTS = ("arguments", "parameters")
"""Where a call has its arguments: Llama 3's own word is the second."""


def parse_call(raw: str) -> ToolCall:
    """Parses `{"name": ..., "arguments": {...}}`, or "parameters" for "arguments". Neither: a call without arguments.

    Refused as malformed, with the reason in `error`: text over 1 MB, nesting over 64, duplicate keys, NaN and Infinity
    (1e999 too), integers beyond 64 bits, lone surrogates, anything but an object with a name and arguments. A key of
    another name is refused too: what is there may be what the call was about.
    """
    name = ""
    try:
        if len(raw) > MAX_CALL_BYTES:
            raise ValueError(f"a call of {len(raw)} characters; at most {MAX_CALL_BYTES}")
        raw.encode()  # a lone surrogate has no place in any record or wire form
        if raw.count("[") + raw.count("{") > MAX_DEPTH:
            _check_depth(raw)
        value = json.loads(
            raw, object_pairs_hook=_no_duplicates, parse_constant=no_constant, parse_int=int64, parse_float=finite
        )
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        named = value.get("name")
        if not isinstance(named, str) or not named:
            raise ValueError('no "name"')
        name = named
        if value.get("type") == "function":  # of OpenAI's wire form; all that it says is that this is a call
            del value["type"]
        if (other := next((key for key in value if key not in ("name", *_ARGUMENTS)), None)) is not None:
            raise ValueError(f'the key {other[:40]!r}: expected "name" and "arguments"')
        given = [key for key in _ARGUMENTS if key in value]
        if len(given) > 1:
            raise ValueError('"arguments" and "parameters": expected one of them')
        arguments = value[given[0]] if given else {}
        if not isinstance(arguments, dict):
            raise ValueError(f'"{given[0]}" is not an object')
        json.dumps(value, ensure_ascii=False).encode()  # escapes such as \ud800 come out as lone surrogates here
    except UnicodeEncodeError:
        return ToolCall(_clean(name), None, _clean(raw), error="a lone surrogate")
    except json.JSONDecodeError as error:
        return ToolCall(name, None, raw, error=f"not JSON: {error.msg} at character {error.pos}")
    except (ValueError, RecursionError) as error:
        return ToolCall(_clean(name), None, raw, error=_clean(str(error)))
    return ToolCall(name, arguments, raw)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _check_depth(text: str) -> None:
    depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
        elif char in "]}":
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]  # add() returns None
        raise ValueError(f"the key {twice!r} stands twice")
    return out
