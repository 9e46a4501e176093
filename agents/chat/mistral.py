"""Mistral: calls behind `[TOOL_CALLS]`, as a JSON list or as `name[ARGS]{..}`, with ids of nine characters."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...tools.calls import parse_call
from ...trajectories.messages import Action, Message, ToolCall
from ..chat_format import FORMATS
from ._answers import Piece
from ._template import TemplateFormat

__all__ = ["MistralFormat"]

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


@FORMATS.register("mistral")
class MistralFormat(TemplateFormat):
    """The template's prompts; calls as `[TOOL_CALLS][{"name": .., "arguments": {..}}]` or `[TOOL_CALLS]f[ARGS]{..}`."""

    name = "mistral"
    known_by = (_CALLS, "[INST]")
    marks = (_CALLS, _ARGS, _ID)
    ends = ("</s>", "[INST]", "[TOOL_RESULTS]")

    def read(self, pieces: Sequence[Piece]) -> Action:
        starts = [i for i, piece in enumerate(pieces) if piece == (_CALLS, True)]
        said = "".join(text for text, _ in pieces[: starts[0] if starts else None]).strip()
        calls: list[ToolCall] = []
        for start, end in pairwise([*starts, len(pieces)]):
            calls += _calls(pieces[start + 1 : end])
        return Action(said, tuple(calls))

    def message(self, message: Message) -> dict[str, Any]:
        out = super().message(message)
        for call in out.get("tool_calls", []):
            call["id"] = _nine(call["id"])
        if "tool_call_id" in out:
            out["tool_call_id"] = _nine(out["tool_call_id"])
        return out

    def spell(self, raw: str) -> str:
        return f"{_CALLS}{raw.strip()}"


def _nine(id: str) -> str:
    """Nine letters or digits, the same for the same id."""
    return id if re.fullmatch(r"[A-Za-z0-9]{9}", id) else hashlib.blake2b(id.encode(), digest_size=8).hexdigest()[:9]


def _calls(pieces: Sequence[Piece]) -> list[ToolCall]:
    """What follows one mark."""
    raw = "".join(text for text, _ in pieces).strip()
    marked = next((i for i, piece in enumerate(pieces) if piece == (_ARGS, True)), None)
    if marked is not None:
        head = next((i for i, piece in enumerate(pieces[:marked]) if piece == (_ID, True)), marked)
        name = "".join(text for text, _ in pieces[:head]).strip()
        arguments = "".join(text for text, _ in pieces[marked + 1 :]).strip()
        call = parse_call(f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}')
        id = "".join(text for text, _ in pieces[head + 1 : marked]).strip()
        return [ToolCall(name, call.arguments, raw, id, call.error)]
    try:
        values = json.loads(raw, object_pairs_hook=lambda pairs: pairs)
        texts = _elements(raw)
    except (ValueError, RecursionError) as error:
        return [ToolCall("", None, raw, error=f"not JSON: {error}")]
    if not raw.startswith("[") or not values:
        return [ToolCall("", None, raw, error="not a list of calls")]
    return [_call(text) for text in texts]


def _elements(raw: str) -> list[str]:
    """The texts of a JSON list's elements."""
    decoder, at, out = json.JSONDecoder(), raw.index("[") + 1, []
    while at < len(raw):
        while raw[at] in " \n\r\t,":
            at += 1
        if raw[at] == "]":
            break
        _, end = decoder.raw_decode(raw, at)
        out.append(raw[at:end])
        at = end
    return out


def _call(text: str) -> ToolCall:
    """One call, with or without an id."""
    id = ""
    with_id = re.fullmatch(r'(.*),\s*"id"\s*:\s*"([A-Za-z0-9]*)"\s*\}', text, re.DOTALL)
    call = parse_call(text)
    if call.error and with_id:
        call, id = parse_call(with_id[1] + "}"), with_id[2]
    return ToolCall(call.name, call.arguments, text, id, call.error)
