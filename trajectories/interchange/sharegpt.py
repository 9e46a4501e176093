"""ShareGPT's conversations, with tools; and LLaMA-Factory's own kind of them.

Defines `export`, `llama_factory`, `write_llama_factory`; `episodes` reads both.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError, DataError
from ..files import write_whole
from ..messages import Json, Message, Role, ToolCall
from ..trajectory import Trajectory
from ._form import FORMS, Exported, ForeignForm, Row, Writer
from ._messages import (
    REASONING,
    SourceEpisode,
    SourceMessage,
    as_list,
    as_object,
    as_text,
    both_sides,
    called_with,
    columns_next_to,
    masked,
    named,
    need,
    not_read,
    parsed,
    reasoning_of,
    shown,
    tool_call,
    tools_of,
    weight_of,
)
from ._writing import EVERYWHERE, all_messages, exported, tools_text, without_turn, write_jsonl

__all__ = ["episodes", "export", "llama_factory", "write_llama_factory"]

_JOINT = "\n</tool_response>\n<tool_response>\n"
"""Between several results that are one observation, as LLaMA-Factory joins them."""


_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


# --- out ---------------------------------------------------------------------------------------------------------


def export(trajectories: Iterable[Trajectory]) -> Exported:
    """ShareGPT with tools: `conversations` of `from` and `value`, and `tools` as JSON text.

    From: system, human, gpt, function_call, observation. Text next to calls is a gpt entry right before them. A
    function_call is one call or a list of calls; arguments that are text are a malformed call's, verbatim.
    """
    held = list(trajectories)
    rows: list[Row] = [
        {"conversations": _conversation(all_messages(t)), "tools": tools_text(t.tools)} for t in held if t.turns
    ]
    return exported("sharegpt", rows, held, EVERYWHERE, without_turn(held))


def llama_factory(trajectories: Iterable[Trajectory]) -> Exported:
    """LLaMA-Factory's sharegpt form: `conversations`, `system`, `tools`; `write_llama_factory` adds the entry.

    It wants human or observation, then gpt or function_call, in turn, ending with the latter. So what follows the last
    action is cut, several results become one observation as its own converter joins them, and messages of one side are
    joined by an empty line. What it would drop in silence is left out here with the reason: malformed calls (it stops
    at the first), an action that follows an action, a system message later than the first message.
    """
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for t in held:
        try:
            entries, dropped = _alternating(t)
        except ValueError as why:
            left_out[str(why)] += 1
            continue
        lost.update(dropped)
        system = "\n".join(m.content for m in t.prompt if m.role == "system")
        rows.append({"conversations": entries, "system": system, "tools": tools_text(t.tools)})
    return exported("llama-factory", rows, held, EVERYWHERE, left_out, lost)


def write_llama_factory(rows: Sequence[Row], folder: Path, name: str = "sparring") -> None:
    """`NAME.json` and the entry NAME in `dataset_info.json`; other entries of the folder are kept.

    Raises `DataError` when the `dataset_info.json` that is there is no JSON object.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"a data set's name is letters, digits, '_', '-' and '.', got {name!r}")
    listing = folder / "dataset_info.json"
    info: Any = {}
    if listing.exists():
        try:
            info = orjson.loads(listing.read_bytes())
        except orjson.JSONDecodeError as error:
            raise DataError(f"{listing} is not JSON ({error}): fix it or choose another folder") from None
        if not isinstance(info, dict):
            raise DataError(f"{listing}: expected an object of data sets, got {type(info).__name__}")
    info[name] = {
        "file_name": f"{name}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
    }
    write_whole(folder / f"{name}.json", lambda part: part.write_bytes(_indented(list(rows))))
    write_whole(listing, lambda part: part.write_bytes(_indented(info)))


def _indented(value: Json) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def _entry(who: str, value: str) -> Row:
    return {"from": who, "value": value}


def _conversation(messages: Sequence[Message]) -> list[Row]:
    out: list[Row] = []
    plain = False  # the last entry is a whole action: text without calls
    for message in messages:
        if message.tool_calls:
            if message.content or plain:  # else the action before would read as the text next to these calls
                out.append(_entry("gpt", message.content))
            out.append(_entry("function_call", _function_call(message.tool_calls)))
        else:
            out.append(_entry(_FROM[message.role], message.content))
        plain = message.role == "assistant" and not message.tool_calls
    return out


def _function_call(calls: Sequence[ToolCall]) -> str:
    sent = [{"name": c.name, "arguments": c.raw if c.arguments is None else c.arguments} for c in calls]
    return json.dumps(sent[0] if len(sent) == 1 else sent, ensure_ascii=False)


def _alternating(t: Trajectory) -> tuple[list[Row], set[str]]:
    """Entries that alternate, and what was lost for that. Raises `ValueError` with why there are none."""
    messages = all_messages(t)
    lost: set[str] = set()
    while messages and messages[-1].role != "assistant":
        messages.pop()
        lost.add("what came after the last action")
    systems = 0
    while messages and messages[0].role == "system":
        messages.pop(0)
        systems += 1
    if systems > 1:
        lost.add("where one joined message ends and the next begins")
    if not messages:
        raise ValueError("no turn")
    out: list[Row] = []
    sides: list[bool] = []  # True: the agent's
    for message in messages:
        agent = message.role == "assistant"
        if message.role == "system":
            raise ValueError("a system message later than the first message")
        if any(call.arguments is None for call in message.tool_calls):
            raise ValueError("a malformed call")
        if agent and (not sides or sides[-1]):
            raise ValueError("an action that follows no message")
        if message.tool_calls:
            if message.content:
                lost.add("text next to calls")
            out.append(_entry("function_call", _function_call(message.tool_calls)))
        elif agent or not sides or sides[-1]:
            out.append(_entry(_FROM[message.role], message.content))
        else:
            out[-1]["value"] += (_JOINT if message.role == "tool" else "\n\n") + message.content
            if message.role != "tool":
                lost.add("where one joined message ends and the next begins")
            continue
        sides.append(agent)
    return out, lost


# --- in ----------------------------------------------------------------------------------------------------------

_SPEAKERS: dict[str, Role] = {"system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "observation": "tool", "tool": "tool"}  # fmt: skip


_ENTRY = {"from", "value", "weight", "train", "training", "loss", "loss_mask", "name", *REASONING}
_AGENT = ("gpt", "assistant", "function_call")


def episodes(row: Json) -> list[SourceEpisode]:
    """`conversations` of `from` and `value`, `system` and `tools` next to it. Text right before a function_call is the
    text of the same message. An observation answers the next open call. With `chosen` and `rejected`: a preference."""
    row = as_object(row, "a record")
    need("conversations" in row, 'expected "conversations", got ' + named(row))
    lost: set[str] = set()
    entries = as_list(row["conversations"], "conversations")
    agent = [isinstance(e, dict) and e.get("from") in _AGENT for e in entries]
    messages = _messages(masked(entries, row, agent, lost), lost)
    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, SourceMessage(Message("system", row["system"])))
    known = {"conversations", "system"}
    tools = tools_of(row, lost=lost)
    if row.get("chosen") is None and row.get("rejected") is None:
        made = [SourceEpisode(messages, tools, **columns_next_to(row, known, lost))]
    else:
        sides = {side: _messages(_side(row.get(side), side), lost) for side in ("chosen", "rejected")}
        made = both_sides(messages, sides, tools, columns_next_to(row, known | {"chosen", "rejected"}, lost))
    for episode in made:
        episode.in_order = True
    return made


def _side(value: Json, side: str) -> list[Json]:
    """The entries of one side of a preference: a list, one entry, or its text."""
    if isinstance(value, str):
        return [{"from": "gpt", "value": value}]
    return [value] if isinstance(value, dict) else as_list(value, side)


def _messages(entries: Sequence[Json], lost: set[str]) -> list[SourceMessage]:
    messages: list[SourceMessage] = []
    joins = False  # the last entry is text that a function_call may belong to
    calls: tuple[ToolCall, ...] = ()  # of the last function_call
    for raw in entries:
        entry = as_object(raw, "an entry")
        who, value = as_text(entry.get("from"), "from"), as_text(entry.get("value"), "value")
        need(
            who in _SPEAKERS or who == "function_call",
            f"unknown speaker {shown(who)}: expected one of {', '.join([*_SPEAKERS, 'function_call'])}",
        )
        own = not_read(entry, _ENTRY, "entry field")
        weight = weight_of(entry, who in _AGENT, own)
        thought = reasoning_of(entry) if who in _AGENT else ""
        if who not in _AGENT and reasoning_of(entry):
            own.add("reasoning")
        if who == "function_call":
            calls = _function_calls(value)
            before = messages.pop() if joins else SourceMessage(Message("assistant", ""), weight)
            if before.weight != weight:
                lost.add("a weight of its own of the text next to a call")
            made = SourceMessage(
                replace(before.message, tool_calls=calls),
                weight,
                reasoning="\n".join(text for text in (before.reasoning, thought) if text),
                fields=entry,
                lost=before.lost | own,
            )
            messages.append(made)
            joins = False
            continue
        role = _SPEAKERS[who]
        name = entry.get("name") if role == "tool" and isinstance(entry.get("name"), str) else None
        if entry.get("name") and name is None:
            lost.add("speakers' names")
        parts = value.split(_JOINT) if role == "tool" else []
        several = len(calls) > 1 and len(parts) == len(calls) and messages[-1].message.role == "assistant"
        messages += [
            SourceMessage(Message(role, part, name=name), weight, reasoning=thought, fields=entry, lost=frozenset(own))
            for part in (parts if several else [value])
        ]
        joins = role == "assistant"
    return messages


def _function_calls(value: str) -> tuple[ToolCall, ...]:
    calls = parsed(value.encode("utf-8", "replace"))
    if isinstance(calls, dict):
        calls = [calls]
    fits = (
        isinstance(calls, list) and calls and all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls)
    )
    if not fits:
        return (ToolCall("", None, value, error="not a call, nor a list of calls"),)
    return tuple(tool_call(c["name"], called_with(c), str(c.get("id") or "")) for c in calls)


FORM = FORMS.register("sharegpt")(
    ForeignForm(
        episodes,
        {"sharegpt": Writer(export, write_jsonl), "llama-factory": Writer(llama_factory, write_llama_factory)},
    )
)
