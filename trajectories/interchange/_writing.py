"""What the writers of all forms share: messages as objects, what a form cannot hold, and files.

Defines `exported`, `without_turn`, `EVERYWHERE`, `NOT_IN_MESSAGES`; `turn_messages`, `all_messages`,
`message_objects`, `with_tools`, `tools_text`; `write_jsonl`, `to_dataset`.

No other form holds all of a trajectory. What is lost is in the report, counted by episode, and is never lost in
silence: an episode that a form cannot take at all is left out with the reason.

A call's arguments are an object in TRL's rows, since chat templates print them as JSON, and text elsewhere: in Arrow
a column of objects would give each call the keys of all others, with nulls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson

from ..errors import DataError, MissingExtra
from ..files import write_lines
from ..messages import Json, Message, ToolCall, ToolSpec
from ..trajectory import Trajectory
from ._form import ExchangeReport, Exported, Row

Arguments = Literal["object", "text"]
"""How a call's arguments are in a row: as an object, or as JSON text. A malformed call's are its text either way."""

# --- what a form may lose ----------------------------------------------------------------------------------------

_FACTS: dict[str, Callable[[Trajectory], bool]] = {
    "token ids and log-probabilities": lambda t: t.tokens is not None,
    "calls' outcomes and causes": lambda t: any(turn.results for turn in t.turns),
    "results' raw values": lambda t: any(r.value is not None for r in t.results()),
    "faults": lambda t: bool(t.faults or t.faults_hit),
    "rewards": lambda t: bool(t.reward or t.reward_parts or any(turn.reward for turn in t.turns)),
    "success": lambda t: t.success is not None,
    "stop reason": lambda t: True,
    "thinking": lambda t: any(turn.action.thinking for turn in t.turns),
    "sampling temperature": lambda t: t.temperature != 1,
    "turn weights": lambda t: any(turn.weight != 1 for turn in t.turns),
    "turn weights between 0 and 1": lambda t: any(turn.weight not in (0, 1) for turn in t.turns),
    "task, environment, agent and attempt": lambda t: True,
    "seeds, expert's turns and policy version": lambda t: bool(
        t.seed or t.task.seed or t.policy_version or t.expert_turns is not None
    ),
    "instruction (no message says it)": lambda t: t.task.instruction != _first_words(t),
    "task data": lambda t: bool(t.task.data),
    "error that ended the episode": lambda t: t.error is not None,
    "notes (meta)": lambda t: bool(t.meta),
    "that messages of the agent are the prompt's": lambda t: any(m.role == "assistant" for m in t.prompt),
    "lineage": lambda t: t.forked_from is not None,
    "well-formed calls' sampled text": lambda t: any(c.raw and c.arguments is not None for c in calls_of(t)),
    "call ids": lambda t: any(c.id for c in calls_of(t)),
    "speakers' names": lambda t: any(m.name for m in _others(t)),
    "why calls are malformed": lambda t: any(c.arguments is None and c.error for c in calls_of(t)),
    "that a call is malformed (its text reads as arguments)": lambda t: any(map(_passes_for_arguments, calls_of(t))),
}

EVERYWHERE = frozenset(_FACTS) - {"turn weights between 0 and 1"}
"""Facts that a form loses unless it says that it holds them."""

NOT_IN_MESSAGES = EVERYWHERE - {"call ids", "speakers' names"}
"""What is lost in a list of OpenAI's messages."""


def calls_of(t: Trajectory) -> Iterable[ToolCall]:
    """All calls of an episode, in order."""
    return (call for turn in t.turns for call in turn.action.tool_calls)


def _first_words(t: Trajectory) -> str:
    return next((m.content for m in t.prompt if m.role == "user"), "")


def _others(t: Trajectory) -> Iterable[Message]:
    return (*t.prompt, *(m for turn in t.turns for m in turn.messages))


def _passes_for_arguments(call: ToolCall) -> bool:
    if call.arguments is not None:
        return False
    try:
        return not call.raw or isinstance(orjson.loads(call.raw), dict)
    except orjson.JSONDecodeError:
        return False


def _lost(trajectories: Iterable[Trajectory], names: Iterable[str]) -> dict[str, int]:
    held = list(trajectories)
    counts = {name: sum(_FACTS[name](t) for t in held) for name in _FACTS if name in set(names)}
    return {name: n for name, n in counts.items() if n}


def exported(
    form: str,
    rows: list[Row],
    held: Sequence[Trajectory],
    names: Iterable[str],
    left_out: Mapping[str, int] | None = None,
    lost: Mapping[str, int] | None = None,
) -> Exported:
    """Rows with their report.

    Args:
        form: Its name, for the report.
        rows: What was made.
        held: The episodes that came in; those that have a fact named in `names` are counted as losing it.
        names: Facts that this form cannot hold: of `EVERYWHERE`.
        left_out: Why an episode made no row -> number of episodes.
        lost: What else this way of writing loses -> number of episodes.
    """
    of_form = {what: n for what, n in (lost or {}).items() if n} | _lost(held, names)
    return Exported(tuple(rows), ExchangeReport(form, len(held), len(rows), "rows", of_form, dict(left_out or {})))


def without_turn(held: Iterable[Trajectory]) -> dict[str, int]:
    """Episodes in which nothing was done: there is nothing to write of them."""
    n = sum(not t.turns for t in held)
    return {"no turn": n} if n else {}


# --- messages ----------------------------------------------------------------------------------------------------


def turn_messages(t: Trajectory) -> list[list[Message]]:
    """The messages of each turn, the action first. A call made by code that never got an id is numbered."""
    out: list[list[Message]] = []
    n = 0
    for turn in t.turns:
        calls = []
        for call in turn.action.tool_calls:
            n += 1
            calls.append(call if call.id else replace(call, id=f"call-{n}"))
        of_turn = [replace(turn.action.message, tool_calls=tuple(calls))]
        for i, r in enumerate(turn.results):
            of_turn.append(Message("tool", r.content, tool_call_id=r.call_id or calls[i].id, name=r.tool))
        out.append([*of_turn, *turn.messages])
    return out


def all_messages(t: Trajectory) -> list[Message]:
    """Prompt and turns, with the calls numbered as `turn_messages` does."""
    return [*t.prompt, *(m for of_turn in turn_messages(t) for m in of_turn)]


def message_objects(messages: Iterable[Message], arguments: Arguments) -> list[Row]:
    """Messages as OpenAI's objects, the arguments of calls as `arguments` says."""
    out = []
    for message in messages:
        sent_message = message.openai()
        if arguments == "object":
            for call, sent in zip(message.tool_calls, sent_message.get("tool_calls", ()), strict=True):
                if call.arguments is not None:
                    sent["function"]["arguments"] = call.arguments
        out.append(sent_message)
    return out


def with_tools(row: Row, t: Trajectory) -> Row:
    """As JSON text: the schemas of two tools have no common Arrow type."""
    return row | {"tools": json.dumps([spec.openai() for spec in t.tools], ensure_ascii=False)}


def tools_text(tools: Sequence[ToolSpec]) -> str:
    """Tools without OpenAI's wrapping, as JSON text; empty where there are none."""
    specs = [{"name": s.name, "description": s.description, "parameters": s.parameters} for s in tools]
    return json.dumps(specs, ensure_ascii=False) if specs else ""


def as_json(value: Json) -> str:
    """A value as JSON text."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


# --- files -------------------------------------------------------------------------------------------------------


def write_jsonl(rows: Iterable[Row], path: Path) -> None:
    """One JSON object a line. The file appears whole or not at all. Raises `DataError` for what is no JSON."""
    write_lines((_line(number, row) for number, row in enumerate(rows, 1)), path)


def _line(number: int, row: Row) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits
        raise DataError(f"row {number} cannot be written as JSON: {error}") from None


def to_dataset(rows: Sequence[Row]) -> Any:
    """Rows of any form but `table` as a `datasets.Dataset`: message lists keep their objects as they are.

    Raises `MissingExtra` without `datasets`, `DataError` for one older than 4.7, where objects cannot be kept.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "store") from None
    if not hasattr(datasets, "Json"):
        raise DataError(f"this needs datasets 4.7 or newer, got {datasets.__version__}: pip install -U datasets")
    if not rows:
        raise DataError("no row to make a data set of")
    kinds: dict[type, Any] = {str: datasets.Value("string"), bool: datasets.Value("bool")}
    names = list(dict.fromkeys(name for row in rows for name in row))
    features = {}
    for name in names:
        kind = type(next(row[name] for row in rows if name in row))
        features[name] = datasets.List(datasets.Json()) if kind is list else kinds[kind]
    columns = {name: [row.get(name) for row in rows] for name in names}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
