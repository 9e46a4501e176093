"""Llama 3.1, 3.2 and 3.3: a call is the whole answer, as JSON with `parameters`, or as Python; `<|python_tag|>` may
stand before it."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from ...tools.calls import parse_call
from ...trajectories.messages import Action, Message, ToolCall
from ..chat_format import FORMATS
from ._answers import Piece
from ._template import TemplateFormat

__all__ = ["LlamaFormat"]

_TAG = "<|python_tag|>"
_DECODER = json.JSONDecoder()


@FORMATS.register("llama")
class LlamaFormat(TemplateFormat):
    """The template's prompts; calls as `{"name": .., "parameters": {..}}` or `[name(key=value)]`."""

    name = "llama"
    known_by = ("<|start_header_id|>", "ipython")
    marks = (_TAG,)
    ends = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>")
    options = {"date_string": "26 Jul 2024"}  # noqa: RUF012  # as the base class has it

    def read(self, pieces: Sequence[Piece]) -> Action:
        tagged = next((i for i, piece in enumerate(pieces) if piece == (_TAG, True)), None)
        if tagged is not None and not _text(pieces[:tagged]).startswith("{"):  # in a call it stands in a string
            said, rest = _text(pieces[:tagged]), _text(pieces[tagged + 1 :])
            return Action(
                said, _json_calls(rest) or _python_calls(rest) or (ToolCall("", None, rest, error="no call"),)
            )
        text = _text(pieces)
        calls = _json_calls(text) or _python_calls(text)
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


def _json_calls(text: str) -> tuple[ToolCall, ...]:
    """Calls one after the other, with `;` or space between them. None: the text is no call. What is cut or followed by
    more text is a malformed one."""
    if not text.startswith("{"):
        return ()
    calls: list[ToolCall] = []
    at = 0
    while at < len(text):
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = None, len(text)
        call = parse_call(text[at:end])
        if value is not None and not (isinstance(value, dict) and "name" in value):
            if not calls:
                return ()
            call = ToolCall("", None, text[at:end], error='no "name"')
        elif value is None and not calls and '"name"' not in text:
            return ()
        calls.append(call)
        while end < len(text) and text[end] in "; \n\t":
            end += 1
        at = end
    return tuple(calls)


def _python_calls(text: str) -> tuple[ToolCall, ...]:
    """`[name(key=value), ..]`, or one `name.call(key=value)`. None: the text is something else."""
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    nodes = body.elts if isinstance(body, ast.List) else [body]
    if not nodes or not all(isinstance(node, ast.Call) for node in nodes):
        return ()
    if not isinstance(body, ast.List) and not ast.unparse(nodes[0]).split("(")[0].endswith(".call"):
        return ()
    return tuple(_python_call(node, text) for node in nodes if isinstance(node, ast.Call))


def _python_call(node: ast.Call, text: str) -> ToolCall:
    name = ast.unparse(node.func).removesuffix(".call")
    raw = ast.get_source_segment(text, node) or ""
    try:
        if node.args or any(word.arg is None for word in node.keywords):
            raise ValueError("arguments need names")
        arguments = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
        if len(arguments) < len(node.keywords):
            raise ValueError("an argument is given twice")
        checked = parse_call(json.dumps({"name": name, "arguments": arguments}, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        return ToolCall(name, None, raw, error=str(error))
    return ToolCall(name, checked.arguments, raw, error=checked.error)
