"""Our messages and tools as a request of chat completions, and an answer as an `Action`.

What the API is strict about is made to fit on the way out, and undone on the way in: names of tools, ids of calls,
arguments of calls that were malformed. What servers differ in is read in all its forms.

Defines `ToolNames`, `Quirks`, `Said`, `request_body`, `read_answer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....tools.calls import parse_arguments
from ....tools.names import apart, callable_names
from ....trajectories.messages import Action, Json, Message, ToolCall, ToolSpec
from ...chat_model import BadAnswer, ChatSettings, EndpointError, Usage

__all__ = ["Quirks", "Said", "ToolNames", "read_answer", "request_body", "tokens_used"]

_DONE = ("stop", "tool_calls", "function_call", "eos", "eos_token", "end_turn", "stop_sequence", "tool_use")
_CUT = ("length", "max_tokens", "max_output_tokens")
_FILTERED = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive")
_THOUGHT = ("thinking", "reasoning", "reasoning_content", "redacted_thinking")
"""Parts of a content that are thoughts."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """What a server turned out to want otherwise."""

    limit: str = "max_tokens"
    """Name of the parameter that bounds an answer; newer models want `max_completion_tokens`."""
    seed: bool = True
    """Whether it takes a seed."""


class ToolNames:
    """Names of tools as the API allows them (`tools/names.py`), and the way back."""

    def __init__(self, offered: Iterable[str]) -> None:
        self._sent = callable_names(offered)
        self._ours = {sent: name for name, sent in self._sent.items()}

    def sent(self, name: str) -> str:
        """What is sent for `name`; the same for the same, and different for different ones. One that is on offer comes
        before all that calls of the conversation have made up."""
        if name not in self._sent:
            taken = list(self._sent.values())
            self._sent[name] = apart([*taken, name or "unnamed"], range(len(taken) + 1))[-1]
        return self._sent[name]

    def ours(self, sent: str) -> str:
        return self._ours.get(sent, sent)


def request_body(
    model: str, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings, quirks: Quirks
) -> tuple[dict[str, Json], ToolNames]:
    """The request, and the names that it uses for tools.

    Args:
        model: As the server knows it.
        messages: The conversation so far.
        tools: On offer for the next answer.
        settings: Of the answer.
        quirks: Of the server.
    """
    names = ToolNames(tool.name for tool in tools)
    body: dict[str, Json] = {
        "model": model,
        "messages": _messages(messages, names),
        "temperature": settings.temperature,
        quirks.limit: settings.max_tokens,
    }
    if quirks.seed:
        body["seed"] = settings.seed & 0x7FFFFFFF  # more than 31 bits are refused here and there
    if tools:
        described = [tool.openai() for tool in tools]
        for tool, shown in zip(tools, described, strict=True):
            shown["function"]["name"] = names.sent(tool.name)
        body["tools"] = described
    return body, names


def _messages(messages: Sequence[Message], names: ToolNames) -> list[Json]:
    """Calls are numbered: nine letters and digits, which every server takes."""
    out: list[Json] = []
    ids: dict[str, str] = {}
    number = 0
    for message in messages:
        shown: dict[str, Json] = {"role": message.role, "content": _clean(message.content)}
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                number += 1
                ids[call.id] = sent = f"c{number:08d}"
                function = {"name": names.sent(call.name), "arguments": _arguments(call)}
                calls.append({"id": sent, "type": "function", "function": function})
            shown["tool_calls"] = calls
            shown["content"] = shown["content"] or None  # as servers give it themselves; an empty text some refuse
        if message.role == "tool":
            shown["tool_call_id"] = ids.get(message.tool_call_id or "", f"c{number:08d}")
        out.append(shown)
    return out


def _arguments(call: ToolCall) -> str:
    """JSON text of an object, always: servers parse the calls of the conversation, and refuse what does not parse."""
    return json.dumps({"malformed": _clean(call.raw)} if call.arguments is None else call.arguments)


# ---- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """An answer that could be read."""

    action: Action
    stopped: bool
    """False: cut at the most tokens that were asked for."""


def read_answer(data: Mapping[str, Any], names: ToolNames) -> Said:
    """The first choice of an answer. Raises `EndpointError` where it holds nothing that can be used, or was not made to
    its end: never an empty answer in place of none."""
    choice = _choice(data)
    reason = choice.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise EndpointError(BadAnswer.UNREADABLE, f"finish_reason is {_short(reason)}")
    ended = (reason or "").lower()
    if ended in _FILTERED:
        raise EndpointError(BadAnswer.FILTERED, f"the provider's filter withheld the answer (finish_reason {reason})")
    if ended and ended not in (*_DONE, *_CUT):
        raise EndpointError(
            BadAnswer.UNFINISHED, f"the answer was not made to its end (finish_reason {_short(reason)})"
        )
    message = choice.get("message")
    if not isinstance(message, dict):
        raise EndpointError(BadAnswer.EMPTY, "the first choice has no message")
    if message.get("role") not in (None, "assistant", "model"):
        raise EndpointError(BadAnswer.UNREADABLE, f"the message's role is {_short(message['role'])}")
    content, thought = _content(message.get("content"))
    thinking = thought or _text_of(message, "reasoning_content") or _text_of(message, "reasoning")
    refusal = _text_of(message, "refusal")
    cut = ended in _CUT
    calls = _calls(message, names, cut)
    if not calls and ended in ("tool_calls", "function_call", "tool_use"):
        raise EndpointError(BadAnswer.UNREADABLE, f"finish_reason is {reason}, and there is no call")
    if not (content or calls or refusal or thinking) and _says_nothing(data, message):
        raise EndpointError(BadAnswer.EMPTY, "the message is empty")
    return Said(Action(content or refusal, calls, thinking), not cut)


def _choice(data: Mapping[str, Any]) -> dict[str, Any]:
    choices = data.get("choices")
    if not isinstance(choices, list):
        raise EndpointError(BadAnswer.UNREADABLE, "the answer has no list of choices: is this the URL of an API, /v1?")
    if not choices:
        raise EndpointError(BadAnswer.EMPTY, "the answer has no choices")
    found = next((c for c in choices if isinstance(c, dict) and c.get("index") == 0), choices[0])
    if not isinstance(found, dict):
        raise EndpointError(BadAnswer.UNREADABLE, f"a choice is {_short(found)}")
    if found.get("error"):
        raise EndpointError(BadAnswer.SERVER_ERROR, f"the choice holds an error: {_short(found['error'])}")
    return found


def _says_nothing(data: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Whether an empty message is none: a model that says nothing has still said its end token."""
    counted = _number(data.get("usage"), "completion_tokens")
    return message.get("content") is None if counted is None else counted == 0


def _content(content: Any) -> tuple[str, str]:
    """Text and thoughts of a content: a text, none, or a list of parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return _clean(content), ""
    if not isinstance(content, list):
        raise EndpointError(BadAnswer.UNREADABLE, f"the content is {_short(content)}")
    text: list[str] = []
    thought: list[str] = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict) and kind in ("text", "output_text", "refusal"):
            said = part.get("text", part.get("refusal"))
            if not isinstance(said, str):
                raise EndpointError(BadAnswer.UNREADABLE, f"a part of the content is {_short(part)}")
            text.append(said)
        elif isinstance(part, dict) and kind in _THOUGHT:
            inner = part.get(kind, part.get("text", ""))
            thought.append(_content(inner)[0] if isinstance(inner, str | list) else "")
        else:
            raise EndpointError(BadAnswer.UNREADABLE, f"a part of the content is no text: {_short(part)}")
    return _clean("".join(text)), _clean("".join(thought))


def _calls(message: Mapping[str, Any], names: ToolNames, cut: bool) -> tuple[ToolCall, ...]:
    listed = message.get("tool_calls")
    if not listed:
        old = message.get("function_call")
        listed = [{"function": old}] if old else []
    if not isinstance(listed, list):
        raise EndpointError(BadAnswer.UNREADABLE, f"tool_calls is {_short(listed)}")
    return tuple(_call(entry, names, cut and i == len(listed)) for i, entry in enumerate(listed, 1))


def _call(entry: Any, names: ToolNames, cut: bool) -> ToolCall:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict):
        raise EndpointError(BadAnswer.UNREADABLE, f"a call is {_short(entry)}")
    named, arguments = function.get("name"), function.get("arguments")
    name = names.ours(_clean(named)) if isinstance(named, str) else ""
    text = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
    if cut and not text.strip():
        return ToolCall(name, None, "", error="cut before its arguments")
    return parse_arguments(name, text)


def tokens_used(data: Mapping[str, Any]) -> Usage:
    """What the server says of tokens and cost, as `Usage` of one answer."""
    usage = data.get("usage")
    prompt, completion = _number(usage, "prompt_tokens"), _number(usage, "completion_tokens")
    if prompt is None or completion is None:
        return Usage(uncounted=1, unpriced=1)
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    of_answer = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    cost = usage.get("cost") if isinstance(usage, dict) else None
    priced = isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < 1e6
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=_number(details, "cached_tokens") or 0,
        completion_tokens=completion,
        reasoning_tokens=_number(of_answer, "reasoning_tokens") or 0,
        cost=float(cost) if priced and cost is not None else 0.0,
        unpriced=int(not priced),
    )


def _number(of: Any, name: str) -> int | None:
    value = of.get(name) if isinstance(of, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _text_of(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    """Without lone surrogates, which no wire form and no record can hold."""
    return text.encode("utf-8", "replace").decode()


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
