"""Gemma 4: calls as `<|tool_call>call:name{key:value}<tool_call|>`, strings between `<|"|>` marks, thoughts in a
channel."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ...tools.calls import parse_call
from ...trajectories.messages import Action, ToolCall
from ..chat_format import FORMATS
from ._answers import Piece
from ._template import TemplateFormat

__all__ = ["Gemma4Format"]

_OPEN, _CLOSE, _QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_THINK, _UNTHINK = "<|channel>", "<channel|>"
_KEY = re.compile(r"(?<=[{,])\s*([^{}\[\],:\s][^{}\[\],:]*?)\s*:")
_NONE = re.compile(r"(?<=[:\[,])None(?=[,\]}])")
"""What early templates print for null."""


@FORMATS.register("gemma4")
class Gemma4Format(TemplateFormat):
    """The template's prompts. A model ends its calls with the beginning of their results."""

    name = "gemma4"
    known_by = ("<|turn>", f"{_OPEN}call:")
    marks = (_OPEN, _CLOSE, _QUOTE, _THINK, _UNTHINK)
    ends = ("<turn|>", "<|tool_response>", "<eos>", "<|turn>")

    def read(self, pieces: Sequence[Piece]) -> Action:
        thought: list[str] = []
        said: list[str] = []
        calls: list[ToolCall] = []
        i = 0
        while i < len(pieces):
            piece = pieces[i]
            i += 1
            if piece == (_THINK, True):
                end = _index(pieces, _UNTHINK, i)
                thought.append(_text(pieces[i:end]))
                i = end + 1
            elif piece == (_UNTHINK, True):  # the prompt began the thought: all before is of it
                thought.append(_text(pieces[: i - 1]))
                said, calls = [], []
            elif piece == (_OPEN, True):
                end = _end_of_call(pieces, i)
                calls.append(_call(pieces[i:end], closed=end < len(pieces) and pieces[end][0] == _CLOSE))
                i = end + (end < len(pieces) and pieces[end][0] == _CLOSE)
            elif piece != (_CLOSE, True):
                said.append(piece[0])
        thoughts = (part.strip().removeprefix("thought\n").strip() for part in thought)
        return Action("".join(said).strip(), tuple(calls), "\n\n".join(filter(None, thoughts)))

    def spell(self, raw: str) -> str:
        return f"{_OPEN}{raw.strip()}{_CLOSE}"


def _index(pieces: Sequence[Piece], mark: str, start: int) -> int:
    return next((k for k in range(start, len(pieces)) if pieces[k] == (mark, True)), len(pieces))


def _end_of_call(pieces: Sequence[Piece], start: int) -> int:
    """The first mark outside of strings that is no string's, or the end."""
    inside = False
    for k in range(start, len(pieces)):
        text, marked = pieces[k]
        if marked and text == _QUOTE:
            inside = not inside
        elif marked and not inside:
            return k
    return len(pieces)


def _call(pieces: Sequence[Piece], *, closed: bool) -> ToolCall:
    raw = _text(pieces)
    head = re.match(r"\s*call:([^{}]*)\{", pieces[0][0]) if pieces and not pieces[0][1] else None
    if head is None:
        return ToolCall("", None, raw, error="no call:name{")
    name = head[1].strip()
    rest = [(pieces[0][0][head.end() - 1 :], False), *pieces[1:]]
    text, string = "", None
    for piece, marked in rest:
        if marked and piece == _QUOTE:
            if string is not None:
                text += json.dumps(string, ensure_ascii=False)
            string = "" if string is None else None
        elif string is not None:
            string += piece
        elif '"' in piece:
            return ToolCall(name, None, raw, error=f"a string that is not between {_QUOTE} marks")
        else:
            text += _NONE.sub("null", _KEY.sub(lambda key: f"{json.dumps(key[1], ensure_ascii=False)}:", piece))
    call = parse_call(f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {text}}}')
    error = call.error or ("" if closed else f"no {_CLOSE}")
    return ToolCall(name, None if error else call.arguments, raw, error=error)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(text for text, _ in pieces)
