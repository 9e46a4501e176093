"""OpenAI's chat messages: fine-tuning files, chat logs, logged requests with their responses.

Defines `export`, `refusals`, `episodes`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from ..messages import Json, ToolSpec
from ..trajectory import StopReason, Trajectory
from ._form import FORMS, Exported, ForeignForm, Row, Writer
from ._messages import (
    SourceEpisode,
    SourceMessage,
    as_list,
    as_object,
    both_sides,
    chat_message,
    columns_next_to,
    messages_or_text,
    named,
    need,
    not_read,
    system_of,
    tools_of,
    weighted,
)
from ._writing import NOT_IN_MESSAGES, exported, message_objects, turn_messages, write_jsonl

__all__ = ["episodes", "export", "refusals"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MOST_TOOLS = 128
_LONGEST = 1024
"""Characters of a tool's description."""


def export(trajectories: Iterable[Trajectory], *, skip_refused: bool = False) -> Exported:
    """OpenAI's chat fine-tuning: `messages`, `tools`; a turn of weight 0 has `weight: 0`. Arguments are JSON text.

    With `skip_refused`, rows that a service's upload refuses (`refusals`) are left out; else the report names them.
    """
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    refused: dict[str, list[int]] = {}
    for t in held:
        if not t.turns:
            left_out["no turn"] += 1
            continue
        messages = [_unweighted(m) for m in message_objects(list(t.prompt), "text")]
        for turn, of_turn in zip(t.turns, turn_messages(t), strict=True):
            objects = message_objects(of_turn, "text")
            messages += objects if turn.weight else [_unweighted(m) for m in objects]
        row = {"messages": messages} | ({"tools": [spec.openai() for spec in t.tools]} if t.tools else {})
        reasons = refusals(row)
        if reasons and skip_refused:
            left_out[reasons[0]] += 1
            continue
        rows.append(row)
        for why in reasons:
            refused.setdefault(why, []).append(len(rows))
    names = (NOT_IN_MESSAGES - {"turn weights"}) | {"turn weights between 0 and 1"}
    done = exported("openai", rows, held, names, left_out)
    return Exported(done.rows, replace(done.report, refused=refused))


def _unweighted(message: Row) -> Row:
    return message | {"weight": 0} if message["role"] == "assistant" else message


def refusals(row: Row) -> list[str]:
    """Why an upload of OpenAI's, Fireworks' or Together's fine-tuning refuses a row of `export`; empty: it does not.

    These services refuse a whole file for one such row. What only one of them refuses is said so.
    """
    messages, tools = row["messages"], [tool["function"] for tool in row.get("tools", ())]
    actions = [m for m in messages if m["role"] == "assistant"]
    calls = [c["function"] for m in actions for c in m.get("tool_calls", ())]
    names = [f["name"] for f in (*tools, *calls)]
    found = {
        "no message of the assistant": not actions,
        "no message of the assistant that is trained": bool(actions) and not any(m.get("weight", 1) for m in actions),
        "a last message that is not the assistant's": bool(actions) and messages[-1]["role"] != "assistant",
        "a message of the assistant without text or call": any(
            not m["content"] and not m.get("tool_calls") for m in actions
        ),
        "an empty message of the system or the user": any(
            not m["content"] for m in messages if m["role"] in ("system", "user")
        ),
        "results that are not those of the calls before them": not _answers(messages),
        "arguments that are no JSON object": not all(_is_object(c["arguments"]) for c in calls),
        "names of tools beyond [a-zA-Z0-9_-]{1,64}": not all(map(_NAME.fullmatch, names)),
        f"more than {_MOST_TOOLS} tools": len(tools) > _MOST_TOOLS,
        "two tools of one name": len({f["name"] for f in tools}) < len(tools),
        f"a tool's description beyond {_LONGEST} characters": any(len(f["description"]) > _LONGEST for f in tools),
        "two messages of one role in a row (Together)": any(
            a["role"] == b["role"] for a, b in itertools.pairwise(messages)
        ),
    }
    return [why for why, holds in found.items() if holds]


def _answers(messages: Sequence[Row]) -> bool:
    """Whether each call has its result right after it, and each result its call right before."""
    waiting: set[str] = set()
    for m in messages:
        if m["role"] == "tool":
            if m.get("tool_call_id") not in waiting:
                return False
            waiting.discard(m["tool_call_id"])
        elif waiting:
            return False
        waiting |= {c["id"] for c in m.get("tool_calls", ())}
    return not waiting


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


_ASKED = {"messages", "traj", "tools", "functions", "system"}
_LOGGED = {"request", "response", "body", "choices", "input", "preferred_output", "non_preferred_output", "error"}
_FINISHED = {"length": StopReason.TOKEN_LIMIT, "max_tokens": StopReason.TOKEN_LIMIT,
    "content_filter": StopReason.TERMINATED}  # fmt: skip
"""What a provider says of a message that the model did not end itself."""


def episodes(row: Json) -> list[SourceEpisode]:
    """`{"messages": [...], "tools": [...]}`, or `functions` of old; a logged request with its response, each of its
    choices an attempt; a preference (`input`, `preferred_output`, `non_preferred_output`); or the bare list of
    messages. A column `chosen` and `rejected` makes a preference too."""
    if isinstance(row, list):
        row = {"messages": row}
    row = as_object(row, "a record")
    lost: set[str] = set()
    if "preferred_output" in row:
        return _preference(row, lost)
    asked = as_object(row.get("request") or row.get("body") or row, "request")
    asked = as_object(asked.get("body") or asked, "request body")
    entries = asked.get("messages", asked.get("traj"))  # tau-bench's name for them
    need(entries is not None, 'expected "messages", a list of chat messages, got ' + named(row))
    entries = as_list(entries, "messages")
    tools = tools_of(asked, row, lost=lost)
    if asked is not row:
        lost |= not_read(asked, _ASKED, "request field")
    before = [*system_of(asked, entries), *weighted(entries, {**asked, **row}, lost)]
    if row.get("chosen") is not None and row.get("rejected") is not None:
        about = columns_next_to(row, _ASKED | _LOGGED | {"chosen", "rejected"}, lost)
        return both_sides(
            before, {k: messages_or_text(row[k], "assistant", k) for k in ("chosen", "rejected")}, tools, about
        )
    about = columns_next_to(row, _ASKED | _LOGGED, lost)
    logged = "response" in row or "choices" in row
    if not logged:
        return [SourceEpisode(before, tools, **about)]
    return _answered(row, before, tools, about)


def _answered(
    row: Row, before: list[SourceMessage], tools: tuple[ToolSpec, ...], about: dict[str, Any]
) -> list[SourceEpisode]:
    """An episode for each choice of a logged response; without any, an episode that an infrastructure failure ended."""
    answer = as_object(row["response"] or {} if "response" in row else row, "response")
    answer = as_object(answer.get("body") or answer, "response body")
    choices = [as_object(choice, "a choice") for choice in as_list(answer.get("choices") or [], "choices")]
    if not choices:
        error = answer.get("error") or row.get("error")
        why = error.get("message") if isinstance(error, dict) else error
        need(any(m.message.role == "assistant" for m in before), "a request without a response: nothing was done")
        return [SourceEpisode(before, tools, stop=StopReason.INFRASTRUCTURE, error=str(why or "no response"), **about)]
    out = []
    for number, choice in enumerate(choices):
        own = {**about, "lost": {*about["lost"], *not_read(choice, _CHOICE, "choice field")}}
        if len(choices) > 1:
            own["attempt"] = number
        message = chat_message(as_object(choice.get("message"), "a choice's message"))
        episode = SourceEpisode([*before, message], tools, **own)
        episode.stop = _FINISHED.get(str(choice.get("finish_reason")))
        out.append(episode)
    return out


_CHOICE = {"message", "finish_reason"}


def _preference(row: Row, lost: set[str]) -> list[SourceEpisode]:
    asked = as_object(row.get("input"), "input")
    lost |= not_read(asked, _ASKED, "input field")
    entries = as_list(asked.get("messages"), "messages")
    before = [*system_of(asked, entries), *weighted(entries, asked, lost)]
    names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    sides = {side: messages_or_text(row.get(name), "assistant", name) for side, name in names.items()}
    about = columns_next_to(row, _ASKED | _LOGGED, lost)
    return both_sides(before, sides, tools_of(asked, row, lost=lost), about)


FORM = FORMS.register("openai")(ForeignForm(episodes, {"openai": Writer(export, write_jsonl)}))
