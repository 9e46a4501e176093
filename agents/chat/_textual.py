"""A template that knows no tools: they are described in the system text, and calls and results are blocks of text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...trajectories.messages import Action, Message, ToolCall, ToolSpec
from ._answers import Piece
from ._calls import json_calls, python_calls
from ._template import TemplateFormat

__all__ = ["TextualFormat", "described"]

_CALL, _RESULT, _CLOSE = "```tool_code", "```tool_output", "```"
_MOST = 256
"""Ends that are tried for one block."""
_BEFORE = "You have access to functions:"
_AFTER = f"""\
To call one, answer with
{_CALL}
{{"name": function name, "parameters": dictionary of argument name and its value}}
{_CLOSE}
Results come back as {_RESULT}."""

_PRELUDE = """\
{%- set ns = namespace(system=[], out=[]) %}
{%- for m in messages if m["role"] == "system" %}{% set ns.system = ns.system + [m["content"]] %}{% endfor %}
{%- if tools %}
{%- set shown = namespace(text=BEFORE) %}
{%- for tool in tools %}{% set shown.text = shown.text + "\\n" + (tool["function"] or tool) | tojson %}{% endfor %}
{%- set ns.system = ns.system + [shown.text + "\\n" + AFTER] %}
{%- endif %}
{%- for m in messages if m["role"] != "system" %}
{%- set one = namespace(text=m["content"] or "") %}
{%- if m["role"] == "tool" %}{% set one.text = "```tool_output\\n" + one.text + "\\n```" %}{% endif %}
{%- for call in m["tool_calls"] or [] %}
{%- set call = call["function"] or call %}
{%- set given = call["arguments"] if call["arguments"] is string else call["arguments"] | tojson %}
{%- set given = '{"name": ' + call["name"] | tojson + ', "parameters": ' + given + "}" %}
{%- set one.text = one.text + ("\\n" if one.text else "") + "```tool_code\\n" + given + "\\n```" %}
{%- endfor %}
{%- set role = "user" if m["role"] == "tool" else m["role"] %}
{%- if ns.out and ns.out[-1]["role"] == role %}
{%- set ns.out = ns.out[:-1] + [{"role": role, "content": ns.out[-1]["content"] + "\\n" + one.text}] %}
{%- else %}{% set ns.out = ns.out + [{"role": role, "content": one.text}] %}{% endif %}
{%- endfor %}
{%- set ns.system = ns.system | join("\\n") %}
{%- if ns.system %}{% set ns.out = [{"role": "system", "content": ns.system}] + ns.out %}{% endif %}
{%- set messages = ns.out %}{{- "" }}"""
"""`conversation` as the beginning of a chat template."""


class TextualFormat(TemplateFormat):
    """Calls in blocks of `tool_code`, as JSON or as Python; results in blocks of `tool_output`, in the user's name."""

    prelude = _PRELUDE.replace("BEFORE", json.dumps(_BEFORE)).replace("AFTER", json.dumps(_AFTER))

    def whole(self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, opening: bool) -> str:
        if tools:
            messages = [*messages, Message("system", described(tools))]
        return super().whole(messages, (), opening=opening)

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """What follows each other in one role is one message: such templates want roles by turns."""
        out: list[dict[str, Any]] = []
        for one in super().conversation(messages):
            if out and out[-1]["role"] == one["role"]:
                out[-1] = {**out[-1], "content": f"{out[-1]['content']}\n{one['content']}"}
            else:
                out.append(one)
        return out

    def message(self, message: Message) -> dict[str, Any]:
        if message.role == "tool":
            return {"role": "user", "content": f"{_RESULT}\n{message.content}\n{_CLOSE}"}
        calls = [f"{_CALL}\n{_shown(call)}\n{_CLOSE}" for call in message.tool_calls]
        content = [message.content] if message.content or not calls else []
        return {"role": message.role, "content": "\n".join([*content, *calls])}

    def read(self, pieces: Sequence[Piece]) -> Action:
        """A whole answer that is calls is read too, without a block around it."""
        text = "".join(text for text, _ in pieces).strip()
        if any(word in text for word in ('"parameters"', '"arguments"')) and (calls := json_calls(text)):
            return Action("", calls)
        said: list[str] = []
        found: list[ToolCall] = []
        rest = text
        while rest:
            before, mark, after = rest.partition(_CALL)
            own = before.partition(_RESULT)  # a result is not the model's to write: it ends the answer
            said.append(own[0])
            if own[1] or not mark:
                break
            calls, rest = _block(after)
            found += calls
        return Action("".join(said).strip(), tuple(found))


def described(tools: Sequence[ToolSpec]) -> str:
    """What the system says of these tools."""
    listed = "\n".join(json.dumps(tool.openai()["function"], ensure_ascii=False) for tool in tools)
    return f"{_BEFORE}\n{listed}\n{_AFTER}"


def _block(text: str) -> tuple[tuple[ToolCall, ...], str]:
    """The calls of the block that `text` begins with, and what follows it. A close inside of a string is text."""
    at, first = -1, -1
    for _ in range(_MOST):
        at = text.find(_CLOSE, at + 1)
        if at < 0:
            break
        first = at if first < 0 else first
        calls = _calls(text[:at].strip())
        if calls and not any(call.error for call in calls):
            return calls, text[at + len(_CLOSE) :]
    if first < 0:
        return (ToolCall("", None, text.strip(), error=f"no {_CLOSE}"),), ""
    raw = text[:first].strip()
    return _calls(raw) or (ToolCall("", None, raw, error="no call"),), text[first + len(_CLOSE) :]


def _calls(text: str) -> tuple[ToolCall, ...]:
    if calls := json_calls(text):
        return calls
    return python_calls(text) or python_calls(f"[{text}]")


def _shown(call: ToolCall) -> str:
    if call.arguments is None:
        return call.raw.strip()
    return json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False)
