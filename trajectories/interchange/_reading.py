"""What the readers of all forms share: files of records, messages and calls, and from messages to turns.

Defines `read`, `Imported`; `SourceMessage`, `SourceEpisode`; `json_records`, `chat_message`, `tool_call`, `tool_specs`;
the checks `need`, `as_object`, `as_list`, `as_text`, `as_number`.

What a source does not say is not made up: an outcome that only the text of a result could tell is `ok` with
`inferred=True`, whether it took effect is unknown, success is None unless the caller says what to take for it.
`Trajectory.meta["inferred"]` names the fields of the episode that are guesses.

A record that cannot be one conversation (an unknown role, a result without its call, a picture) raises `DataError` with
file and line; `skip_bad=True` leaves it out and counts it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError, UnknownName
from ..giving_up import says_it_cannot
from ..messages import Action, Cause, Json, Message, Outcome, Role, ToolCall, ToolResult, ToolSpec
from ..strict_json import finite, int64, no_constant
from ..trajectory import StopReason, Task, Tokens, Trajectory, Turn
from . import parquet
from ._form import ExchangeReport, Row, SourceRecord, readable

MAX_DEPTH = 64
"""Arguments nested deeper are a malformed call, as they are when sampled."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read, and the account of it."""

    trajectories: tuple[Trajectory, ...]
    report: ExchangeReport


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """One message of a source, and what the source says next to it."""

    message: Message
    weight: float = 1.0
    ended: tuple[Outcome, Cause | None, str] | None = None
    """Of a result: outcome, cause, error; None: the source does not say."""
    ids: tuple[int, ...] = ()
    mask: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Of the sampled tokens alone."""


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
    attempt: int = 0
    stop: StopReason | None = None
    success: bool | None = None
    reward: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    inferred: list[str] = field(default_factory=list)
    meta: dict[str, Json] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


def read(path: Path, form: str, *, success: bool | None = None, skip_bad: bool = False) -> Imported:
    """All episodes of a file.

    Args:
        path: JSON lines, one JSON array, Parquet, or what the form has of its own.
        form: One of `readable()`, such as "openai".
        success: What to take for the success of episodes whose source does not tell; None: not judged.
        skip_bad: Leave out records that cannot be read, instead of raising.

    Raises `UnknownName` for another form; `DataError` for a record that cannot be read (file and line are named), for
    a file that cannot be opened as one of this form, and where there is no episode in it at all.
    """
    known = readable()
    if form not in known:
        raise UnknownName("form", form, known)
    reader = known[form]
    assert reader.episodes is not None  # `readable`
    if not path.is_file():
        raise DataError(f"{path} is a folder; expected a file" if path.is_dir() else f"there is no file {path}")
    out: list[Trajectory] = []
    lost: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    came_in = 0
    for where, record in (reader.records or json_records)(path):
        came_in += 1
        try:
            if isinstance(record, Exception):
                raise record
            episodes = reader.episodes(record)
            made = [_trajectory(e, f"{path.name}/{where}/{i}", form, success) for i, e in enumerate(episodes)]
        except (DataError, RecursionError) as error:
            if not skip_bad:
                raise DataError(f"{path}, {where}: {str(error) or 'nested too deeply'}") from None
            left_out["an error in it"] += 1
            continue
        out += made
        for episode, t in zip(episodes, made, strict=True):
            lost.update(episode.lost)
            inferred.update(t.meta.get("inferred", ()))
    if not out:
        raise DataError(f"{path}: no episode in it" + (f"; {came_in} records cannot be read" if came_in else ""))
    report = ExchangeReport(f"from {form}", came_in, len(out), "episodes", dict(lost), dict(left_out), dict(inferred))
    return Imported(tuple(out), report)


# --- records of files --------------------------------------------------------------------------------------------


def json_records(path: Path) -> Iterator[SourceRecord]:
    """JSON lines; one JSON array; or, by its ending, Parquet."""
    if path.suffix == ".parquet":
        yield from parquet.records(path)
        return
    if path.suffix == ".json":
        value = parsed(path.read_bytes())
        if isinstance(value, list):
            yield from ((f"item {number}", row) for number, row in enumerate(value, 1))
            return
        if isinstance(value, dict):
            yield "the object", value
            return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f"line {number}", parsed(text)


def parsed(text: bytes) -> Any:
    """The value, or the `DataError` that it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return DataError(f"not JSON: {error}")


# --- messages ----------------------------------------------------------------------------------------------------

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool"}  # fmt: skip


def chat_message(raw: Json) -> SourceMessage:
    """A message of OpenAI's form, or of the forms near it: calls flat, as JSON text, or the single one of old."""
    raw = as_object(raw, "a message")
    role = raw.get("role")
    need(isinstance(role, str) and role in _ROLES, f"unknown role {shown(role)}: expected one of {', '.join(_ROLES)}")
    content = text_of(raw.get("content"))
    sent = raw.get("tool_calls") or ()
    if raw.get("function_call"):
        sent = [{"function": raw["function_call"]}]
    calls = tuple(_sent_call(c) for c in (as_list(sent, "tool_calls") if sent else ()))
    need(not calls or role == "assistant", f"a message of {role} has tool calls; only an assistant's can")
    answered, name = raw.get("tool_call_id"), raw.get("name")
    need(answered is None or isinstance(answered, str), f"expected a text as tool_call_id, got {shown(answered)}")
    need(name is None or isinstance(name, str), f"expected a text as name, got {shown(name)}")
    weight = raw.get("weight")
    need(weight is None or isinstance(weight, int | float), f"expected a number as weight, got {shown(weight)}")
    message = Message(_ROLES[role], content, calls, answered or None, name or None)
    return SourceMessage(message, 1.0 if weight is None else float(weight))


def text_of(content: Json) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        texts = []
        for part in content:
            known = isinstance(part, dict) and isinstance(part.get("text"), str)
            need(known, f"a content part of type {kind_of_part(part)!r}: only text can be read")
            texts.append(part["text"])
        content = "\n".join(texts)
    need(isinstance(content, str), f"expected a text as content, got {shown(content)}")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise DataError("a lone surrogate in a message's content") from None
    return str(content)


def kind_of_part(part: Json) -> str:
    return str(part.get("type")) if isinstance(part, dict) else type(part).__name__


def messages_or_text(value: Json, role: Role, what: str) -> list[SourceMessage]:
    """Messages, or one message as text."""
    if value is None:
        return []
    return (
        [SourceMessage(Message(role, value))]
        if isinstance(value, str)
        else [chat_message(m) for m in as_list(value, what)]
    )


def columns_next_to(row: Row) -> dict[str, Any]:
    """The few columns next to the messages whose meaning is plain, as `table` writes them."""
    known: dict[str, Any] = {"source": str(row.get("id") or "")}
    if isinstance(row.get("success"), bool):
        known["success"] = row["success"]
    if isinstance(row.get("reward"), int | float):
        known["reward"] = float(row["reward"])
    return known


def _sent_call(raw: Json) -> ToolCall:
    if isinstance(raw, str):  # verifiers writes each call as JSON text
        raw = parsed(raw.encode("utf-8", "replace"))
        if isinstance(raw, DataError):
            raise DataError(f"a tool call is text, but {raw}")
    raw = as_object(raw, "a tool call")
    about = as_object(raw.get("function") or raw, "a call's function")
    name, id = as_text(about.get("name"), "a call's name"), as_text(raw.get("id") or "", "a call's id")
    if about.get("error"):  # of `parquet.table`: known to be malformed
        return ToolCall(name, None, str(about.get("arguments") or ""), id, str(about["error"]))
    return tool_call(name, about.get("arguments", {}), id)


def tool_call(name: str, arguments: Json, id: str = "") -> ToolCall:
    """A call from arguments as an object or as text. Malformed, its text kept verbatim, where these are no object."""
    text = arguments if isinstance(arguments, str) else None
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
        raw = text if text is not None else dumped(arguments)
        return ToolCall(clean(name), None, clean(raw), id, clean(str(error)) or "nested too deeply")
    return ToolCall(clean(name), arguments, id=id)


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


def tool_specs(raw: Json) -> tuple[ToolSpec, ...]:
    """Tools in OpenAI's form, or without its wrapping; a list, or the list as JSON text."""
    if isinstance(raw, str):
        raw = parsed(raw.encode("utf-8", "replace")) if raw.strip() else None
        if isinstance(raw, DataError):
            raise DataError(f"tools are text, but {raw}")
    out = []
    for item in as_list(raw, "tools") if raw else ():
        item = as_object(item, "a tool")
        about = as_object(item.get("function") or item, "a tool's function")
        need(isinstance(about.get("name"), str), f"a tool has a name, got {shown(about.get('name'))}")
        schema = as_object(about.get("parameters") or {}, "a tool's parameters")
        out.append(ToolSpec(about["name"], str(about.get("description") or ""), schema))
    return tuple(out)


# --- from messages to turns --------------------------------------------------------------------------------------


def _trajectory(e: SourceEpisode, where: str, form: str, success: bool | None) -> Trajectory:
    source = _numbered(e.messages)
    first = next((i for i, m in enumerate(source) if m.message.role == "assistant"), len(source))
    need(first < len(source), "no message of an assistant in it: nothing was done")
    turns = _cut(source[first:], {spec.name for spec in e.tools})
    prompt = tuple(m.message for m in source[:first])
    need(all(m.role != "tool" for m in prompt), "a tool's result before any call")
    tokens, spans = _tokens(source)
    if spans is not None:
        turns = [replace(turn, span=span) for turn, span in zip(turns, spans, strict=True)]
    inferred = list(e.inferred)
    if any(r.inferred for turn in turns for r in turn.results):
        inferred.append("outcomes")
    stop = e.stop
    if stop is None:
        last = turns[-1].action
        stop = StopReason.DECLINED if says_it_cannot(last.content) else StopReason.FINISHED
        stop = StopReason.TERMINATED if last.tool_calls else stop
        if stop is StopReason.TERMINATED:  # the record ends with a call; whose doing that was it does not say
            inferred.append("stop")
    judged = e.success
    if judged is None and not stop.no_verdict and success is not None:
        judged = success
        inferred.append("success")
    instruction = e.instruction or next((m.content for m in prompt if m.role == "user"), "")
    reward = e.reward
    if reward is None:
        reward = float(bool(judged))
        if judged is not None:
            inferred.append("reward")
    meta: dict[str, Json] = {"from": form, **e.meta} | ({"source": e.source} if e.source else {})
    if inferred:
        meta["inferred"] = list(dict.fromkeys(inferred))
    return Trajectory(
        id=_hash([form, where, e.source], (m.message for m in source)),
        env=e.env or f"imported/{form}",
        task=Task(instruction, e.data, id=e.task_id or _hash([form], prompt)),
        prompt=prompt,
        turns=tuple(turns),
        stop=stop,
        reward=reward,
        reward_parts=e.parts,
        success=judged,
        tools=e.tools,
        tokens=tokens,
        agent=e.agent,
        attempt=e.attempt,
        error=e.error,
        meta=meta,
    )


def _hash(parts: list[str], messages: Iterable[Message]) -> str:
    """Of its place and its messages: files of one name in two folders give no id twice."""
    body = orjson.dumps([[clean(part) for part in parts], [message.openai() for message in messages]])
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def _numbered(source: Sequence[SourceMessage]) -> list[SourceMessage]:
    """Each call with an id of its own in the episode, and each result with the id and the name of its call.

    Raises `DataError` for a result without its call, one too many, or a call that was never answered in mid-episode.
    """
    out: list[SourceMessage] = []
    seen: set[str] = set()
    n = 0
    waiting: dict[str, tuple[ToolCall, str]] = {}  # id in the source -> call, as renamed
    for m in source:
        message = m.message
        if message.role == "assistant":
            need(not waiting, f"the call {next(iter(waiting), '')!r} got no result before the next action")
            calls = []
            for call in message.tool_calls:
                n += 1
                id = call.id or f"call-{n}"
                need(id not in waiting, f"two calls of one message have the id {id!r}")
                own = id
                while own in seen:  # some logs count anew in each message
                    own = f"{own}-{n}"
                seen.add(own)
                calls.append(replace(call, id=own))
                waiting[id] = (calls[-1], own)
            m = replace(m, message=replace(message, tool_calls=tuple(calls)))
        elif message.role == "tool":
            id = message.tool_call_id or next(iter(waiting), "")
            need(id in waiting, f"a tool's result (of {id!r}) without its call in the message before")
            call, own = waiting.pop(id)
            m = replace(m, message=replace(message, tool_call_id=own, name=call.name))
        out.append(m)
    return out


def _cut(source: Sequence[SourceMessage], offered: set[str]) -> list[Turn]:
    """Turns, each an action with its results in the order of its calls."""
    turns: list[Turn] = []
    failed: dict[tuple[str, bytes], str] = {}
    starts = [i for i, m in enumerate(source) if m.message.role == "assistant"]
    for start, end in zip(starts, [*starts[1:], len(source)], strict=True):
        action = source[start]
        after = source[start + 1 : end]
        results = {m.message.tool_call_id: m for m in after if m.message.role == "tool"}
        last = max((i for i, m in enumerate(after) if m.message.role == "tool"), default=-1)
        need(last < len(results), "a result behind another message: expected results right after the calls")
        made = []
        for call in action.message.tool_calls:
            if call.id in results:
                key = (call.name, orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS) + call.raw.encode())
                made.append(_result(call, results[call.id], offered, failed.get(key)))
                if made[-1].ok:
                    failed.pop(key, None)
                else:
                    failed[key] = call.id
        messages = tuple(m.message for m in after if m.message.role != "tool")
        taken = Action(action.message.content, action.message.tool_calls, action.message.thinking)
        turns.append(Turn(taken, tuple(made), messages, weight=action.weight))
    return turns


def _result(call: ToolCall, source: SourceMessage, offered: set[str], retry_of: str | None) -> ToolResult:
    """What the source says of it, else what the call itself tells, else ok; never what the text seems to mean."""
    why = ""
    if source.ended is not None:
        outcome, cause, why = source.ended
    elif call.arguments is None:
        outcome, cause = Outcome.MALFORMED, Cause.POLICY
    elif offered and call.name not in offered:
        outcome, cause = Outcome.UNKNOWN_TOOL, Cause.POLICY
    else:
        outcome, cause = Outcome.OK, None
    refused = cause is Cause.POLICY
    return ToolResult(
        call.id,
        call.name,
        outcome,
        source.message.content,
        cause=cause,
        took_effect=False if refused else None,
        retry_of=retry_of,
        error=why or None,
        inferred=source.ended is None,
    )


def _tokens(source: Sequence[SourceMessage]) -> tuple[Tokens | None, list[tuple[int, int]] | None]:
    """The episode's tokens and each turn's span, where every message up to the last action has its own."""
    ids: list[int] = []
    sampled: list[int] = []
    logprobs: list[float] = []
    spans: list[tuple[int, int]] = []
    for m in source:
        agent = m.message.role == "assistant"
        if not m.ids and agent:
            return None, None
        start = len(ids) + (m.mask.index(1) if 1 in m.mask else len(m.mask))
        given = iter(m.logprobs)
        ids += m.ids
        sampled += m.mask
        logprobs += [next(given) if one else 0.0 for one in m.mask]
        if agent:
            spans.append((start, len(ids)))
    return Tokens(tuple(ids), tuple(sampled), tuple(logprobs)), spans


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
