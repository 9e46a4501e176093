"""OpenAI's chat messages: fine-tuning files, chat logs, logged requests with their responses.

Defines `export`, `episodes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

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
from ._writing import NOT_IN_MESSAGES, calls_of, exported, message_objects, turn_messages, write_jsonl

__all__ = ["episodes", "export"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def export(trajectories: Iterable[Trajectory]) -> Exported:
    """OpenAI's chat fine-tuning: `messages`, `tools`; a turn of weight 0 has `weight: 0`. Arguments are JSON text."""
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for t in held:
        if not t.turns:
            left_out["no turn"] += 1
            continue
        messages = message_objects(list(t.prompt), "text")
        for turn, of_turn in zip(t.turns, turn_messages(t), strict=True):
            objects = message_objects(of_turn, "text")
            if not turn.weight:
                objects[0]["weight"] = 0
            messages += objects
        rows.append({"messages": messages} | ({"tools": [spec.openai() for spec in t.tools]} if t.tools else {}))
    names = (NOT_IN_MESSAGES - {"turn weights"}) | {"turn weights between 0 and 1"}
    done = exported("openai", rows, held, names, left_out)
    refused = sum(any(not _NAME.fullmatch(c.name) or c.arguments is None for c in calls_of(t)) for t in held)
    lost = {"malformed calls and odd tool names: an upload may be refused": refused} if refused else {}
    return Exported(done.rows, replace(done.report, lost=lost | done.report.lost))


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
