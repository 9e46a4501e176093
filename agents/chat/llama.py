"""Llama 3.1, 3.2 and 3.3: a call is the whole answer, as JSON with `parameters`, or as Python; `<|python_tag|>` may
stand before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from ...trajectories.messages import Action, Message, ToolCall
from ..chat_format import FORMATS
from ._answers import Piece
from ._calls import json_calls, python_calls
from ._template import TemplateFormat

__all__ = ["LlamaFormat"]

_TAG = "<|python_tag|>"


@FORMATS.register("llama")
class LlamaFormat(TemplateFormat):
    """The template's prompts; calls as `{"name": .., "parameters": {..}}` or `[name(key=value)]`."""

    name = "llama"
    known_by = ("<|start_header_id|>", "ipython")
    marks = (_TAG,)
    ends = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>")
    options = MappingProxyType({"date_string": "26 Jul 2024"})

    def read(self, pieces: Sequence[Piece]) -> Action:
        tagged = next((i for i, piece in enumerate(pieces) if piece == (_TAG, True)), None)
        if tagged is not None and not _text(pieces[:tagged]).startswith("{"):  # in a call it is in a string
            said, rest = _text(pieces[:tagged]), _text(pieces[tagged + 1 :])
            return Action(said, json_calls(rest) or python_calls(rest) or (ToolCall("", None, rest, error="no call"),))
        text = _text(pieces)
        calls = json_calls(text) or python_calls(text)
        return Action("" if calls else text, calls)

    def message(self, message: Message) -> dict[str, Any]:
        """The template takes one call and no text next to it: what it cannot show is written as the model writes it."""
        out = super().message(message)
        calls = out.get("tool_calls", [])
        if calls and (len(calls) > 1 or out["content"]):
            written = "; ".join(_dump(call["function"]) for call in out.pop("tool_calls"))
            out["content"] = f"{out['content']}\n{_TAG}{written}" if out["content"] else written
        return out


def _dump(call: dict[str, Any]) -> str:
    return json.dumps({"name": call["name"], "parameters": call["arguments"]}, ensure_ascii=False)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(text for text, _ in pieces).strip()
