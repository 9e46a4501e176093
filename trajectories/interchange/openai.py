"""OpenAI's chat messages: fine-tuning files, chat logs, logged requests with their responses.

Defines `export`, `episodes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from ..messages import Json
from ..trajectory import Trajectory
from ._form import FORMS, Exported, ForeignForm, Row, Writer
from ._reading import SourceEpisode, as_list, as_object, chat_message, columns_next_to, named, need, tool_specs
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


def episodes(row: Json) -> list[SourceEpisode]:
    """`{"messages": [...], "tools": [...]}`; a logged request with its response; or the bare list of messages."""
    if isinstance(row, list):
        row = {"messages": row}
    row = as_object(row, "a record")
    asked = as_object(row.get("request") or row.get("body") or row, "request")
    answer = as_object(row.get("response") or row, "response")
    answer = as_object(answer.get("body") or answer, "response body")
    need("messages" in asked, 'expected "messages", a list of chat messages, got ' + named(row))
    messages = [chat_message(m) for m in as_list(asked["messages"], "messages")]
    for choice in as_list(answer.get("choices") or [], "choices")[:1]:
        messages.append(chat_message(as_object(as_object(choice, "a choice").get("message"), "a choice's message")))
    return [SourceEpisode(messages, tool_specs(asked.get("tools") or row.get("tools")), **columns_next_to(row))]


FORM = FORMS.register("openai")(ForeignForm(episodes, {"openai": Writer(export, write_jsonl)}))
