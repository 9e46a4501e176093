"""A toy chat format, whole in this file: a token is a character, a message a line, a call `!tool key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparring.agents.chat_format import FORMATS, ToolStyle
from sparring.trajectories import Action, Message, ToolCall, ToolSpec


@FORMATS.register("toy")
class ToyFormat:
    name = "toy"
    stop_ids: tuple[int, ...] = (0,)

    def __init__(self, tokenizer: Any, *, tool_style: ToolStyle = "schema") -> None:
        self.tool_style: ToolStyle = tool_style

    @staticmethod
    def fits(tokenizer: Any) -> int:
        return 2 if getattr(tokenizer, "alphabet", "") == "unicode" else 0

    def start(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        return _ids("".join(f"{t.name}\n" for t in tools) + _lines(messages))

    def continuation(self, messages: Sequence[Message], *, stopped: bool = True) -> list[int]:
        return _ids(("" if stopped else "\0") + "\n" + _lines(messages))

    def answer(self, action: Action) -> list[int]:
        calls = (
            f"!{c.name} " + " ".join(f"{k}={v}" for k, v in (c.arguments or {}).items()) for c in action.tool_calls
        )
        return _ids(action.content + "".join(calls) + "\0")

    def parse(self, ids: Sequence[int]) -> Action:
        text, bang, call = "".join(map(chr, ids)).rstrip("\0").partition("!")
        if not bang:
            return Action(text)
        name, *pairs = call.split(" ")
        return Action(text, (ToolCall(name, dict(pair.split("=", 1) for pair in pairs if "=" in pair), call),))


def _lines(messages: Sequence[Message]) -> str:
    return "".join(f"{m.role}: {m.content}\n" for m in messages)


def _ids(text: str) -> list[int]:
    return list(map(ord, text))
