"""What the readers of all forms share: messages, calls, tools, weights, and the checks of a record's shape.

Defines `SourceMessage`, `SourceEpisode`; `chat_message`, `weighted`, `messages_or_text`, `system_of`, `reasoning_of`;
`masked`, `weight_of`; `tool_call`, `called_with`, `tool_specs`, `tools_of`; `columns_next_to`, `both_sides`;
`not_read`, `parsed`; the checks `need`, `as_object`, `as_list`, `as_text`, `as_number`.

A field is read, or harmless, or counted: what else a record says is in `lost`, by the field's name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..errors import DataError
from ..messages import Cause, Json, Message, Outcome, Role, ToolCall, ToolResult, ToolSpec
from ..strict_json import finite, int64, no_constant
from ..trajectory import StopReason
from ._form import Row

MAX_DEPTH = 64
"""Arguments nested deeper are a malformed call, as they are when sampled."""

BEYOND = "more than Sparring holds: "
"""How the error of a call begins whose arguments are JSON that is not held here: our limit, no fault of the policy."""


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """One message of a source, and what the source says next to it."""

    message: Message
    weight: float = 1.0
    ended: tuple[Outcome, Cause | None, str] | None = None
    """Of a result: outcome, cause, error; None: the source does not say."""
    result: ToolResult | None = None
    """All of a result, where the source is a record of ours."""
    ids: tuple[int, ...] = ()
    mask: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Of the sampled tokens alone."""
    reasoning: str = ""
    """What the model thought, where that is apart from what it said."""
    refused: bool = False
    """Whether the source calls this message a refusal."""
    fields: Mapping[str, Json] = field(default_factory=dict)
    """The message as it is in the source."""
    lost: frozenset[str] = frozenset()
    """What of it is not held."""


@dataclass(slots=True)
class SourceEpisode:
    """One conversation of a source, before it is checked and cut into turns."""

    messages: list[SourceMessage]
    tools: tuple[ToolSpec, ...] = ()
    source: str = ""
    """Id in the source, where it has one."""
    env: str = ""
    agent: str = ""
    instruction: str = ""
    data: dict[str, Json] = field(default_factory=dict)
    task_id: str = ""
    """Empty: the source does not say of which task this is."""
    attempt: int | None = None
    """Which attempt at the task; None: the source does not say."""
    stop: StopReason | None = None
    success: bool | None = None
    reward: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    weight: float = 1.0
    """Of the whole episode: a factor of each turn's weight."""
    inferred: list[str] = field(default_factory=list)
    meta: dict[str, Json] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    in_order: bool = False
    """Whether the form itself says that results come in the order of their calls."""
    record: Json = None
    """Where the fields are that a caller names (`read(task_key=)`); None: the record."""
    whole: dict[str, Any] = field(default_factory=dict)
    """Further fields of the trajectory, its task among them, where the source is a record of ours."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """With `whole`: the same of each turn."""


# --- fields ------------------------------------------------------------------------------------------------------

_HARMLESS = frozenset(
    """id object created created_at timestamp time date model provider usage index type metadata response_metadata
    system_fingerprint service_tier temperature top_p n stream stream_options max_tokens max_completion_tokens seed user
    stop store source split dataset url lang language""".split()
)
"""Fields that change nothing of what was said or is trained."""


def not_read(row: Mapping[str, Json], known: Iterable[str], what: str) -> set[str]:
    """The fields that say something and are not `known`, each as "`what` 'name'"."""
    read = set(known) | _HARMLESS
    return {
        f"{what} {clean(str(name))[:40]!r}"
        for name, value in row.items()
        if name not in read and value is not None and not (isinstance(value, str | list | dict) and not value)
    }


def parsed(text: bytes) -> Any:
    """The value, or the `DataError` that it is none. Integers keep all their digits."""
    try:
        value = orjson.loads(text)
        return json.loads(text) if _LONG.search(text) else value
    except (orjson.JSONDecodeError, ValueError, RecursionError) as error:
        return DataError(f"not JSON: {_not_finite(text) or error}")


def _not_finite(text: bytes) -> str:
    """What is wrong with a text that is JSON but for its NaN or Infinity, as Python writes them; else empty."""
    try:
        json.loads(text, parse_constant=no_constant)
    except RecursionError:
        return ""
    except ValueError as error:
        return f"{error}; write null for it" if "JSON value" in str(error) else ""
    return ""


_LONG = re.compile(rb"\d{19}")
"""Integers that may be beyond 64 bits: orjson rounds these to floats."""


def fitting(value: Json) -> Json:
    """The value with integers beyond 64 bits as floats: nothing but a call's text holds more."""
    if isinstance(value, dict):
        return {name: fitting(v) for name, v in value.items()}
    if isinstance(value, list):
        return [fitting(v) for v in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    return value


# --- messages ----------------------------------------------------------------------------------------------------

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool"}  # fmt: skip

REASONING = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
"""Fields next to `content` that hold what the model thought; the first that says something counts."""
_THOUGHTS = frozenset({"thinking", "reasoning", "redacted_thinking", "thought", "reasoning.text", "reasoning.summary"})
"""Types of content parts that do."""
_WEIGHTS = ("weight", "train", "training", "loss", "loss_mask")
"""Fields that say whether a message is trained."""
_SWITCHES = _WEIGHTS[1:4]
"""Those that are yes or no; a number there is something else, such as a loss that was measured."""
_READ = frozenset({"role", "content", "tool_calls", "function_call", "tool_call_id", "name", "refusal", "audio"})
_UNTOLD = frozenset({"artifact", "additional_kwargs"})
"""Of a result, next to its text: the model never saw it, and it does not say how the call ended."""
_RESULTS_OWN = _UNTOLD | {"is_error", "isError", "status", "error"}
_YES_NO = {True: True, False: False, "true": True, "false": False}
"""1 and 0 are these, too."""


def chat_message(raw: Json) -> SourceMessage:
    """A message of OpenAI's form, or of the forms near it: calls flat, as JSON text, or the single one of old."""
    raw = as_object(raw, "a message")
    role = raw.get("role")
    need(isinstance(role, str) and role in _ROLES, f"unknown role {shown(role)}: expected one of {', '.join(_ROLES)}")
    told = _told(raw) if _ROLES[role] == "tool" else None
    own = _RESULTS_OWN if told is not None else _UNTOLD if _ROLES[role] == "tool" else ()
    lost = not_read(raw, {*_READ, *REASONING, *_WEIGHTS, *own}, "message field")
    said = _Said(raw.get("content"), lost)
    if raw.get("refusal"):
        said.refuses(as_text(raw["refusal"], "refusal"))
    if raw.get("audio"):
        said.speaks(as_object(raw["audio"], "audio"))
    calls = _calls(raw, lost)
    need(not calls or role == "assistant", f"a message of {role} has tool calls; only an assistant's can")
    answered, name = raw.get("tool_call_id"), raw.get("name")
    need(answered is None or isinstance(answered, str), f"expected a text as tool_call_id, got {shown(answered)}")
    need(name is None or isinstance(name, str), f"expected a text as name, got {shown(name)}")
    if role == "assistant" and name:
        lost.add("speakers' names")
    reasoning = reasoning_of(raw) or said.thought
    if role != "assistant" and reasoning:
        lost.add("reasoning")
        reasoning = ""
    message = Message(_ROLES[role], said.text, calls, answered or None, name or None)
    return SourceMessage(
        message,
        weight_of(raw, role == "assistant", lost),
        told,
        reasoning=reasoning,
        refused=said.refused and role == "assistant",
        fields=raw,
        lost=frozenset(lost),
    )


def _told(raw: Row) -> tuple[Outcome, Cause | None, str] | None:
    """How a call ended, where the result has the field for it of MCP and Anthropic, or that of LangChain."""
    said = [raw[name] for name in ("is_error", "isError") if isinstance(raw.get(name), bool | int | str)]
    said = [_YES_NO[value.lower() if isinstance(value, str) else value] for value in said if _is_yes_no(value)]
    if said:
        failed = any(said)
    elif raw.get("status") in ("error", "success"):
        failed = raw["status"] == "error"
    else:
        return None
    return (Outcome.TOOL_ERROR, Cause.TOOL, "") if failed else (Outcome.OK, None, "")


def _is_yes_no(value: Json) -> bool:
    return (value.lower() if isinstance(value, str) else value) in _YES_NO


class _Said:
    """What a message says: its text, what was thought, and whether that is a refusal."""

    def __init__(self, content: Json, lost: set[str]) -> None:
        self.lost, self.thought, self.refused = lost, "", False
        self.text = ""
        texts: list[str] = []
        for part in content if isinstance(content, list) else ():
            text = self._part(part)
            if text is not None:
                texts.append(text)
        self._is("\n".join(texts) if isinstance(content, list) else "" if content is None else content)

    def _part(self, part: Json) -> str | None:
        """The text of a part; None: it is a thought, which is kept apart."""
        kind = kind_of_part(part)
        if isinstance(part, dict):
            if kind in _THOUGHTS or part.get("thought") is True:
                self.thought += ("\n" if self.thought else "") + (_thought([part]) or "")
                return None
            if kind == "refusal":
                self.refused = True
                return as_text(part.get("refusal"), "refusal")
            if isinstance(part.get("text"), str):
                self.lost |= not_read(part, {"text", "annotations", "logprobs", "cache_control"}, "part field")
                return str(part["text"])
            if isinstance(part.get("transcript"), str):
                self.lost.add("sound (its transcript is read)")
                return str(part["transcript"])
        raise DataError(f"a content part of type {kind!r}: only text can be read")

    def refuses(self, text: str) -> None:
        self.refused = True
        self._add(text)

    def speaks(self, audio: Row) -> None:
        transcript = audio.get("transcript")
        need(isinstance(transcript, str) or bool(self.text), "an audio without its transcript: only text can be read")
        self.lost.add("sound (its transcript is read)" if isinstance(transcript, str) else "sound")
        if isinstance(transcript, str):
            self._add(transcript)

    def _add(self, text: str) -> None:
        if text != self.text:
            self._is(f"{self.text}\n{text}" if self.text else text)

    def _is(self, text: Json) -> None:
        need(isinstance(text, str), f"expected a text as content, got {shown(text)}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError("a lone surrogate in a message's content") from None
        self.text = str(text)


def reasoning_of(raw: Row) -> str:
    """What the fields of a message hold of thoughts; empty: nothing."""
    return next((text for key in REASONING if (text := _thought(raw.get(key)))), "")


_HIDDEN = "\x00"
"""A thought that was there and has no text."""


def _thought(value: Json) -> str:
    """The text of a field or a list of parts that holds reasoning; empty: there is none."""
    if isinstance(value, str):
        return clean(value)
    texts = []
    for part in value if isinstance(value, list) else [value] if isinstance(value, dict) and value else ():
        names = ("thinking", "reasoning", "text", "content", "summary")
        held = next((part[n] for n in names if part.get(n)), None) if isinstance(part, dict) else part
        texts.append(held if isinstance(held, str) else _thought(held) if held else _HIDDEN)
    return clean("\n".join(texts))


def thought_text(reasoning: str) -> str | None:
    """What was thought, as text; None where some of it was hidden."""
    return None if _HIDDEN in reasoning else reasoning


def kind_of_part(part: Json) -> str:
    return str(part.get("type")) if isinstance(part, dict) else type(part).__name__


def messages_or_text(value: Json, role: Role, what: str) -> list[SourceMessage]:
    """Messages, one message, or one as text."""
    if value is None:
        return []
    if isinstance(value, str):
        return [SourceMessage(Message(role, value))]
    if isinstance(value, dict):
        value = [value]
    return [chat_message(m) for m in as_list(value, what)]


def system_of(row: Row, entries: Sequence[Json]) -> list[SourceMessage]:
    """The system message that is a column of its own, where the messages have none."""
    text = row.get("system")
    if not isinstance(text, str) or not text:
        need(text is None or text == "" or text == [], f"expected a text as system, got {shown(text)}")
        return []
    roles = [m.get("role") for m in entries if isinstance(m, dict)]
    need("system" not in roles, "a system message next to the messages and another in them")
    return [SourceMessage(Message("system", clean(text)))]


def weighted(entries: Sequence[Json], row: Row, lost: set[str]) -> list[SourceMessage]:
    """Chat messages, with what columns next to them say of their training."""
    agent = [isinstance(m, dict) and m.get("role") == "assistant" for m in entries]
    return [chat_message(m) for m in masked(entries, row, agent, lost)]


# --- weights -----------------------------------------------------------------------------------------------------


def weight_of(raw: Row, agent: bool, lost: set[str]) -> float:
    """What the fields of a message say of its training; 1 where they say nothing. Raises `DataError` where two of them
    contradict each other."""
    told: dict[str, float] = {}
    for name in _WEIGHTS:
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, list | dict) or (name in _SWITCHES and value not in (0, 1)):
            lost.add(f"message field {name!r}")
            continue
        need(isinstance(value, int | float), f"expected a number as {name}, got {shown(value)}")
        need(0 <= value < math.inf, f"expected 0 or more as {name}, got {shown(value)}")
        told[name] = float(value)
    need(len(set(told.values())) < 2, f"of one message {' and '.join(f'{n} is {v:g}' for n, v in told.items())}")
    weight = next(iter(told.values()), 1.0)
    if not agent and told and weight:
        lost.add("weight of a message that is not the agent's")
    return weight


def masked(entries: Sequence[Json], row: Row, agent: Iterable[bool], lost: set[str]) -> list[Json]:
    """The entries of a conversation, each with what a list next to them says of its training: `loss_mask: [0, 1]`,
    one for each entry or for each of the agent's. A list that is neither is lost."""
    out, of_agent = list(entries), [i for i, own in enumerate(agent) if own]
    for name in (*_WEIGHTS, "weights", "loss_masks"):
        told = row.get(name)
        if not isinstance(told, list):
            continue
        places = range(len(out)) if len(told) == len(out) else of_agent if len(told) == len(of_agent) else None
        if places is None or not all(isinstance(v, int | float) for v in told):
            lost.add(f"column {name!r} (it fits neither the messages nor the actions)")
            continue
        for i, value in zip(places, told, strict=True):
            if isinstance(out[i], dict):
                key = "weight" if "weight" not in out[i] or out[i]["weight"] is None else "loss_mask"
                need(out[i].get(key) is None, f"{name} is told next to the messages and in them")
                out[i] = {**out[i], key: float(value)}
    return out


MASKS = frozenset({*_WEIGHTS, "weights", "loss_masks"})
"""Columns that say what is trained: a list next to the messages, or a value for the whole record."""


def _weight_of_row(row: Row, lost: set[str]) -> float:
    """The weight of a whole record."""
    told = {name: row[name] for name in ("weight", "train") if isinstance(row.get(name), int | float)}
    need(len(set(told.values())) < 2, f"of one record {' and '.join(f'{n} is {v}' for n, v in told.items())}")
    weight = float(next(iter(told.values()), 1.0))
    need(0 <= weight < math.inf, f"expected a weight of 0 or more, got {weight}")
    lost |= {
        f"column {n!r}" for n in MASKS if row.get(n) is not None and not isinstance(row[n], list) and n not in told
    }
    return weight


# --- calls and tools ---------------------------------------------------------------------------------------------


def _calls(raw: Row, lost: set[str]) -> tuple[ToolCall, ...]:
    sent = raw.get("tool_calls") or ()
    calls = tuple(_sent_call(c, lost) for c in (as_list(sent, "tool_calls") if sent else ()))
    if not raw.get("function_call"):
        return calls
    old = _sent_call({"function": raw["function_call"]}, lost)
    if calls:
        same = len(calls) == 1 and replace(calls[0], id="") == old
        need(same, "a message has tool_calls and another function_call: expected one of the two")
        return calls
    return (old,)


def _sent_call(raw: Json, lost: set[str]) -> ToolCall:
    if isinstance(raw, str):  # verifiers writes each call as JSON text
        raw = parsed(raw.encode("utf-8", "replace"))
        if isinstance(raw, DataError):
            raise DataError(f"a tool call is text, but {raw}")
    raw = as_object(raw, "a tool call")
    about = as_object(raw.get("function") or raw, "a call's function")
    name, id = as_text(about.get("name"), "a call's name"), as_text(raw.get("id") or "", "a call's id")
    if about.get("error"):  # of `parquet.table`: known to be malformed
        return ToolCall(name, None, str(about.get("arguments") or ""), id, str(about["error"]))
    lost |= not_read(raw, {"function", "name", *_ARGUMENTS}, "call field")
    return tool_call(name, called_with(about), id)


_ARGUMENTS = ("arguments", "parameters", "args", "input", "error")


def called_with(about: Row) -> Json:
    """The arguments of a call, by any of the names that they go by. Raises `DataError` where two are there."""
    told = [name for name in _ARGUMENTS[:-1] if about.get(name) is not None]
    need(len(told) < 2, f"a call with {' and '.join(told)}: expected one of them")
    return about[told[0]] if told else None


def tool_call(name: str, arguments: Json, id: str = "") -> ToolCall:
    """A call from arguments as an object or as text. Where these are no object it is malformed, its text kept verbatim;
    where they are one that cannot be held here, its text is kept and the error begins with `BEYOND`."""
    text = arguments if isinstance(arguments, str) else None
    given = arguments
    try:
        if arguments is None or text == "":
            arguments = {}
        elif text is not None:
            arguments = json.loads(
                text, object_pairs_hook=_once, parse_constant=no_constant, parse_int=int64, parse_float=finite
            )
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments are no object but {type(arguments).__name__}")
        if _depth(arguments) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        orjson.dumps(arguments)  # a lone surrogate, a number without end
    except (ValueError, TypeError, RecursionError) as error:
        raw = text if text is not None else dumped(given)
        why = clean(str(error)) or "nested too deeply"
        return ToolCall(clean(name), None, clean(raw), id, (BEYOND if _is_object(given) else "") + why)
    return ToolCall(clean(name), arguments, id=id)


def _is_object(arguments: Json) -> bool:
    """Whether arguments are an object for a reader without our limits."""
    if not isinstance(arguments, str):
        return isinstance(arguments, dict)
    try:
        return isinstance(json.loads(arguments, parse_constant=no_constant), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def dumped(value: Json) -> str:
    try:
        return clean(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):
        return ""


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is there twice")
    return out


def _depth(value: Json) -> int:
    """Levels of nesting; one beyond the limit is told from no other."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        level = [
            v for at in level if isinstance(at, dict | list) for v in (at.values() if isinstance(at, dict) else at)
        ]
        deepest += 1
    return deepest


_SCHEMAS = ("parameters", "input_schema", "inputSchema")
"""What OpenAI, Anthropic and MCP call the schema of a tool's arguments."""


def tool_specs(raw: Json, lost: set[str] | None = None) -> tuple[ToolSpec, ...]:
    """Tools in OpenAI's form, or without its wrapping; a list, or the list as JSON text. A tool that is no function (a
    search that the provider has built in) goes to `lost`; without it, it is refused."""
    if isinstance(raw, str):
        raw = parsed(raw.encode("utf-8", "replace")) if raw.strip() else None
        if isinstance(raw, DataError):
            raise DataError(f"tools are text, but {raw}")
    out: list[ToolSpec] = []
    for item in as_list(raw, "tools") if raw else ():
        item = as_object(item, "a tool")
        about = as_object(item.get("function") or item, "a tool's function")
        kind = item.get("type")
        if lost is not None and about.get("name") is None and isinstance(kind, str) and kind != "function":
            lost.add(f"tool of type {clean(kind)[:40]!r}")
            continue
        need(isinstance(about.get("name"), str), f"a tool has a name, got {shown(about.get('name'))}")
        held = [name for name in _SCHEMAS if about.get(name)]
        need(len(held) < 2, f"a tool with {' and '.join(held)}: expected one of them")
        schema = as_object(about[held[0]] if held else {}, "a tool's parameters")
        spec = ToolSpec(about["name"], str(about.get("description") or ""), fitting(schema))
        if lost is not None:
            lost |= not_read(about, {"name", "description", "function", "title", *_SCHEMAS}, "tool field")
            if any(other.name == spec.name and other != spec for other in out):
                lost.add("a tool of a name that a later one has")
        out.append(spec)
    return tuple(out)


def tools_of(*rows: Row, lost: set[str]) -> tuple[ToolSpec, ...]:
    """The tools of the first of `rows` that has any: in `tools`, or in the `functions` of old; of both, once each."""
    for row in rows:
        found = {s.name: s for name in ("functions", "tools") for s in tool_specs(row.get(name), lost)}
        if found:
            return tuple(found.values())
    return ()


# --- columns next to the messages --------------------------------------------------------------------------------

_COLUMNS = frozenset({"tools", "functions", "success", "reward", "label", "kto_tag", "task_id", "attempt", "trial"})


def columns_next_to(row: Row, known: Iterable[str], lost: set[str]) -> dict[str, Any]:
    """What the columns next to the messages say, as fields of a `SourceEpisode`; those that are neither read nor
    `known` are lost."""
    about: dict[str, Any] = {"source": str(row.get("id") or ""), "weight": _weight_of_row(row, lost)}
    for name in ("kto_tag", "label", "success"):
        if isinstance(row.get(name), bool):
            about["success"] = row[name]
        elif row.get(name) is not None:
            lost.add(f"column {name!r}")
    if isinstance(row.get("reward"), int | float) and math.isfinite(row["reward"]):
        about["reward"] = float(row["reward"])
    elif row.get("reward") is not None:
        lost.add("column 'reward'")
    if row.get("task_id") is not None:
        about["task_id"] = task_name(row["task_id"], "task_id")
    for name in ("trial", "attempt"):
        if row.get(name) is not None:
            about["attempt"] = attempt_number(row[name], name)
    lost |= not_read(row, {*_COLUMNS, *MASKS, *known}, "column")
    about["lost"] = lost
    return about


def task_name(value: Json, what: str) -> str:
    value = _whole(value)
    fits = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    need(fits, f"expected a text or a whole number as {what}, got {shown(value)}")
    return clean(str(value))


def attempt_number(value: Json, what: str) -> int:
    value = _whole(value)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    fits = isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}", text) is not None
    need(fits, f"expected a number of 0 or more as {what}, got {shown(value)}")
    return int(text)


def _whole(value: Json) -> Json:
    """Whole numbers that a table has made floats, as whole numbers again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def both_sides(
    before: list[SourceMessage],
    sides: Mapping[str, list[SourceMessage]],
    tools: tuple[ToolSpec, ...],
    about: Mapping[str, Any],
) -> list[SourceEpisode]:
    """The two episodes of a pair: the chosen one has reward 1, the other 0. What both begin with weighs 0."""
    before = [replace(m, weight=0.0) for m in before]
    out = []
    for side, reward in (("chosen", 1.0), ("rejected", 0.0)):
        need(bool(sides[side]), f"nothing was {side}")
        messages = _after(before, sides[side], side)
        own = {**about, "reward": reward, "lost": set(about.get("lost", ()))}
        episode = SourceEpisode(messages, tools, **own)
        episode.inferred, episode.meta = ["reward"], {"preference": side}
        out.append(episode)
    return out


def _after(before: list[SourceMessage], messages: list[SourceMessage], side: str) -> list[SourceMessage]:
    """The conversation of one side: behind what both begin with, or all of it where the side begins anew."""
    systems = [m for m in before if m.message.role == "system"]
    opening = _opening(before)
    if opening and _opening(messages) == opening:  # the side holds the whole conversation
        return messages if any(m.message.role == "system" for m in messages) else [*systems, *messages]
    begins = messages[0].message.role
    need(begins == "assistant" or not before or (before[-1].message.role == "assistant" and begins == "user"),
         f"{side} begins with a message of {begins}, and the prompt is another one")  # fmt: skip
    return [*before, *messages]


def _opening(messages: Sequence[SourceMessage]) -> list[Message]:
    """What was said to the agent before its first action, without the system's messages."""
    first = next((i for i, m in enumerate(messages) if m.message.role == "assistant"), len(messages))
    return [m.message for m in messages[:first] if m.message.role != "system"]


# --- checks ------------------------------------------------------------------------------------------------------


def need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(otherwise)


def as_object(value: Json, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"expected {what} as an object, got {shown(value)}")
    return value


def as_number(value: Json) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"expected a number, got {shown(value)}")
    return float(value)


def as_text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected {what} as a text, got {shown(value)}")
    return value


def as_list(value: Json, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"expected {what} as a list, got {shown(value)}")
    return value


def named(row: Iterable[str]) -> str:
    return clean(", ".join(sorted(map(str, row)))[:200]) or "nothing"


def shown(value: Json) -> str:
    return clean(repr(value)[:60])
