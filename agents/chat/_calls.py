"""Calls that are a text of their own: JSON objects one after the other, or Python.

Defines `json_calls`, `python_calls`.
"""

from __future__ import annotations

import ast
import json

from ...tools.calls import parse_call
from ...trajectories.messages import ToolCall

__all__ = ["json_calls", "python_calls"]

_DECODER = json.JSONDecoder()


def json_calls(text: str) -> tuple[ToolCall, ...]:
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


def python_calls(text: str) -> tuple[ToolCall, ...]:
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
