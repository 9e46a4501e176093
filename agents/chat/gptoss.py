"""gpt-oss: OpenAI's harmony. An answer is messages with channels; a call is a message to `functions.name`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...tools.calls import parse_call
from ...trajectories.messages import Action, Message, ToolCall
from ..chat_format import FORMATS
from ._answers import Piece
from ._template import TemplateFormat

__all__ = ["GptOssFormat"]

_CHANNEL, _MESSAGE, _START, _CLOSE, _TYPE = "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"
_CALL = "<|call|>"
_HEADER = re.compile(r"\s*(to=[^\s\x00]+\s*)?(\x00.*)?", re.DOTALL)


@FORMATS.register("gptoss")
class GptOssFormat(TemplateFormat):
    """The template's prompts. One call ends an answer; what is said on the analysis channel is thought."""

    name = "gptoss"
    known_by = ("<|start|>assistant", "<|channel|>commentary", _CALL)
    marks = (_CHANNEL, _MESSAGE, _START, _CLOSE, _TYPE)
    ends = ("<|return|>", _CALL, "<|endoftext|>")
    closes = (_CLOSE,)
    fixed = "{%- macro strftime_now(form) %}2025-08-05{% endmacro %}"

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """One call a message, and its result after it: the template names a result by the call before it."""
        out: list[Message] = []
        i = 0
        while i < len(messages):
            message = messages[i]
            i += 1
            if len(message.tool_calls) < 2:
                out.append(message)
                continue
            results = []
            while i < len(messages) and messages[i].role == "tool":
                results.append(messages[i])
                i += 1
            for n, call in enumerate(message.tool_calls):
                said = message if n == 0 else Message("assistant")
                out += [replace(said, tool_calls=(call,)), *results[n : n + 1]]
            out += results[len(message.tool_calls) :]
        return super().conversation(out)

    def message(self, message: Message) -> dict[str, Any]:
        """What is said next to a call is thought: the template has no other place for it."""
        out = super().message(message)
        thought = out.pop("reasoning_content", "")
        if "tool_calls" in out:
            thought = "\n".join(part for part in (thought, out.pop("content")) if part)
        if thought:
            out["thinking"] = thought
        return out

    def continuation(self, messages: Sequence[Message], *, stopped: bool = True) -> list[int]:
        """Results of several calls (an answer that code made) follow each other."""
        results = [m for m in messages if m.role == "tool"]
        if len(results) < 2:
            return super().continuation(messages, stopped=stopped)
        opening = self._ids(f"{_START}assistant")
        ids: list[int] = []
        for n, result in enumerate(results):
            shown = super().continuation([result], stopped=stopped or n > 0)
            ids += shown[: -len(opening)]
        others = [m for m in messages if m.role != "tool"]
        return ids + (super().continuation(others) if others else opening)

    def answer(self, action: Action) -> list[int]:
        """Several calls (code makes such answers) follow each other; a model's answer ends with the first."""
        if len(action.tool_calls) < 2:
            return super().answer(action)
        first, *others = action.tool_calls
        ids = super().answer(replace(action, tool_calls=(first,)))
        for call in others:
            ids += [*self._ids(f"{_START}assistant"), *super().answer(Action("", (call,)))]
        return ids

    def parse(self, ids: Sequence[int]) -> Action:
        end = next((id for id in ids if id in self.stop_ids), None)
        called = end is not None and end == self.tokenizer.get_added_vocab().get(_CALL)
        thought: list[str] = []
        said: list[str] = []
        calls: list[ToolCall] = []
        for header, body, closed in _messages(list(self._pieces.of(ids))):
            if body is None and not _HEADER.fullmatch(header):
                said.append(header.replace("\x00", _CHANNEL))  # a text without harmony's form
            elif to := re.search(r"\bto=([^\s\x00]+)", header):
                calls.append(_call(to[1].removeprefix("functions."), body, closed=called and not closed))
            elif re.search(r"\x00\s*analysis\b", header):
                thought.append(body or "")
            else:
                said.append(body or "")
        content = "\n".join(part for part in map(str.strip, said) if part)
        return Action(content, tuple(calls), "\n\n".join(part for part in map(str.strip, thought) if part))


def _messages(pieces: list[Piece]) -> list[tuple[str, str | None, bool]]:
    """(header, body, whether `<|end|>` closed it) of each message; no body: the header was cut.

    In a header the mark of a channel is a NUL, for which no text is taken.
    """
    segments: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece == (_START, True):
            segments.append([])
        else:
            segments[-1].append(piece)
    out: list[tuple[str, str | None, bool]] = []
    for n, segment in enumerate(segments):
        if n:  # the prompt wrote the first one's role
            if not segment or segment[0][1] or not segment[0][0].startswith("assistant"):
                break  # somebody else's turn
            segment[0] = (segment[0][0].removeprefix("assistant"), False)
        close = next((k for k, piece in enumerate(segment) if piece == (_CLOSE, True)), len(segment))
        at = next((k for k, piece in enumerate(segment[:close]) if piece == (_MESSAGE, True)), None)
        header = "".join(
            ("\x00" if text == _CHANNEL else " ") if marked else text.replace("\x00", " ")
            for text, marked in segment[: close if at is None else at]
        )
        body = None if at is None else "".join(text for text, _ in segment[at + 1 : close])
        if header.strip() or body is not None:
            out.append((header, body, close < len(segment)))
    return out


def _call(name: str, body: str | None, *, closed: bool) -> ToolCall:
    if body is None:
        return ToolCall(name, None, f"to={name}", error=f"no {_MESSAGE}")
    call = parse_call(f'{{"name": {json.dumps(name)}, "arguments": {body}}}')
    error = call.error or ("" if closed else f"no {_CALL}")
    return ToolCall(name, None if error else call.arguments, body, error=error)
