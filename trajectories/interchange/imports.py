"""Foreign records as trajectories: chat logs of OpenAI's form, ShareGPT, TRL's columns, inspect_ai, verifiers.

Defines `Imported`, `FORMS`, `read`. What a source does not say is not made up: an outcome that only the text of a
result could tell is `ok` with `inferred=True`, landing is unknown, success is None unless the caller says what to take
for it. `Trajectory.meta["inferred"]` names the fields of the episode that are guesses.

A record that cannot be one conversation (an unknown role, a result without its call, a picture) raises `DataError` with
file and line; `skip_bad=True` leaves it out and counts it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError, MissingExtra, UnknownName
from ..messages import Action, Cause, Json, Message, Outcome, Role, ToolCall, ToolResult, ToolSpec
from ..strict_json import finite, int64, no_constant
from ..trajectory import StopReason, Task, Tokens, Trajectory, Turn
from .export import SHAREGPT_JOINT, Report, Row

__all__ = ["FORMS", "Imported", "read"]

MAX_DEPTH = 64
"""Arguments nested deeper are a malformed call, as they are when sampled."""

MAX_MEMBER_BYTES = 2**30
"""Of one sample in an .eval archive, unpacked."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read, and the account of it."""

    trajectories: tuple[Trajectory, ...]
    report: Report


@dataclass(frozen=True, slots=True)
class _Heard:
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
class _Episode:
    """One conversation of a source, before it is checked and cut into turns."""

    heard: list[_Heard]
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
    """All episodes of a file in one of `FORMS`.

    Args:
        success: What to take for the success of episodes whose source does not tell; None: not judged.
        skip_bad: Leave out records that cannot be read, instead of raising.

    Raises `UnknownName` for another form; `DataError` for a record that cannot be read (file and line are named), for
    a file that cannot be opened as one of this form, and where there is no episode in it at all.
    """
    if form not in FORMS:
        raise UnknownName("form", form, FORMS)
    if not path.is_file():
        raise DataError(f"{path} is a folder; expected a file" if path.is_dir() else f"there is no file {path}")
    out: list[Trajectory] = []
    lost: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    came_in = 0
    for where, record in FORMS[form].records(path):
        came_in += 1
        try:
            if isinstance(record, Exception):
                raise record
            episodes = FORMS[form].episodes(record)
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
    report = Report(f"from {form}", came_in, len(out), "episodes", dict(lost), dict(left_out), dict(inferred))
    return Imported(tuple(out), report)


# --- records of files --------------------------------------------------------------------------------------------

Record = tuple[str, Any]
"""Where it stands, for errors; and the value, or the exception that came instead."""


def _lines(path: Path) -> Iterator[Record]:
    """JSON lines; one JSON array; or, by its ending, Parquet."""
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    if path.suffix == ".json":
        value = _parsed(path.read_bytes())
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
                yield f"line {number}", _parsed(text)


def _parsed(text: bytes) -> Any:
    """The value, or the `DataError` that it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return DataError(f"not JSON: {error}")


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "store") from None
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no Parquet file: {error}") from None


_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, UnicodeDecodeError)
"""What reading a zip raises where its bytes are wrong (RuntimeError: it then seems to be encrypted)."""


def _samples(path: Path) -> Iterator[Record]:
    """Of an inspect_ai log, as (where, (the log's head, the sample)): .eval, a zip of JSON; or .json, one object."""
    if not zipfile.is_zipfile(path):
        log = _lenient(path.read_bytes())
        if isinstance(log, Exception):
            raise DataError(f"{path}: expected an inspect_ai log (.eval or .json): {log}")
        _need(
            isinstance(log, dict) and isinstance(log.get("eval"), dict), f'{path}: no inspect_ai log: no "eval" in it'
        )
        for sample in _list(log.get("samples"), f"{path}: samples"):
            yield _name_of_sample(sample), (log, sample)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            head = next((n for n in ("header.json", "_journal/start.json") if n in names), "")
            _need(bool(head), f"{path}: no inspect_ai log: neither header.json nor _journal/start.json in it")
            log = _member(path, archive, head)
            if isinstance(log, Exception):
                raise DataError(f"{path}, {head}: {log}")
            _need(isinstance(log, dict) and isinstance(log.get("eval"), dict), f'{path}, {head}: no "eval" in it')
            for name in names:
                if name.startswith("samples/") and name.endswith(".json"):
                    sample = _member(path, archive, name)
                    yield name, sample if isinstance(sample, Exception) else (log, sample)
    except _DAMAGED as error:
        raise DataError(f"{path} is a damaged archive: {error}") from None


def _name_of_sample(sample: Json) -> str:
    known = isinstance(sample, dict)
    return f"sample {sample.get('id')!r}, epoch {sample.get('epoch')}" if known else "a sample"


def _lenient(text: bytes) -> Any:
    """JSON with NaN and Infinity, which inspect_ai writes for scores, as null; or the `DataError`."""
    try:
        return orjson.loads(orjson.dumps(json.loads(text)))
    except (ValueError, RecursionError) as error:
        return DataError(f"not JSON: {error}")
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits, nesting without end
        return DataError(f"no JSON that can be kept: {error}")


_ZSTD = 93
"""Compression method of zip members; the standard library reads it from Python 3.14 on."""


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(name)
    if info.file_size > MAX_MEMBER_BYTES:
        return DataError(f"{info.file_size} bytes unpacked, at most {MAX_MEMBER_BYTES} are read")
    try:
        if info.compress_type != _ZSTD:
            return _lenient(archive.read(name))
        return _lenient(_unpacked(path, info))
    except _DAMAGED as error:
        return DataError(f"cannot be unpacked: {error}")


def _unpacked(path: Path, info: zipfile.ZipInfo) -> bytes:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtra("pyarrow", "store") from None
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("no local header")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(info.compress_size)
    try:
        with pa.CompressedInputStream(pa.py_buffer(packed), "zstd") as stream:
            text: bytes = stream.read(info.file_size + 1)
    except pa.ArrowInvalid as error:
        raise zipfile.BadZipFile(str(error)) from None
    if len(text) != info.file_size or zlib.crc32(text) != info.CRC:
        raise zipfile.BadZipFile("the check sum does not match")
    return text


# --- forms -------------------------------------------------------------------------------------------------------


def _openai(row: Json) -> list[_Episode]:
    """`{"messages": [...], "tools": [...]}`; a logged request with its response; or the bare list of messages."""
    if isinstance(row, list):
        row = {"messages": row}
    row = _object(row, "a record")
    asked = _object(row.get("request") or row.get("body") or row, "request")
    answer = _object(row.get("response") or row, "response")
    answer = _object(answer.get("body") or answer, "response body")
    _need("messages" in asked, 'expected "messages", a list of chat messages, got ' + _keys(row))
    heard = [_chat(m) for m in _list(asked["messages"], "messages")]
    for choice in _list(answer.get("choices") or [], "choices")[:1]:
        heard.append(_chat(_object(_object(choice, "a choice").get("message"), "a choice's message")))
    return [_Episode(heard, _specs(asked.get("tools") or row.get("tools")), **_about(row))]


def _trl(row: Json) -> list[_Episode]:
    """`messages`; `prompt` with `completion` (and `label`); `prompt` with `chosen` and `rejected`. Turns of a prompt
    weigh 0. A preference gives two episodes: reward 1 and 0."""
    row = _object(row, "a record")
    tools = _specs(row.get("tools"))
    about = _about(row)
    if row.get("messages") is not None:
        return [_Episode([_chat(m) for m in _list(row["messages"], "messages")], tools, **about)]
    before = [replace(h, weight=0.0) for h in _side(row.get("prompt"), "user", "prompt")]
    if row.get("completion") is not None:
        label = row.get("label")
        _need(label is None or isinstance(label, bool), f"expected a label of true or false, got {_shown(label)}")
        episode = _Episode([*before, *_side(row["completion"], "assistant", "completion")], tools, **about)
        episode.success = label if label is not None else episode.success
        return [episode]
    _need(
        "chosen" in row and "rejected" in row,
        "expected messages, completion, or chosen and rejected, got " + _keys(row),
    )
    out = []
    for side, reward in (("chosen", 1.0), ("rejected", 0.0)):
        said = _side(row[side], "assistant", side)
        if not before or [h.message for h in said[: len(before)]] != [h.message for h in before]:
            said = [*before, *said]  # else the implicit-prompt form, where both sides begin with the prompt
        episode = _Episode(said, tools, reward=reward, inferred=["reward"])
        episode.meta["preference"] = side
        out.append(episode)
    return out


def _side(value: Json, role: Role, what: str) -> list[_Heard]:
    """Messages, or one message as text."""
    if value is None:
        return []
    return [_Heard(Message(role, value))] if isinstance(value, str) else [_chat(m) for m in _list(value, what)]


def _about(row: Row) -> dict[str, Any]:
    """The few columns next to the messages whose meaning is plain, as `table` writes them."""
    known: dict[str, Any] = {"source": str(row.get("id") or "")}
    if isinstance(row.get("success"), bool):
        known["success"] = row["success"]
    if isinstance(row.get("reward"), int | float):
        known["reward"] = float(row["reward"])
    return known


_SPEAKERS: dict[str, Role] = {"system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "observation": "tool", "tool": "tool"}  # fmt: skip


def _sharegpt(row: Json) -> list[_Episode]:
    """`conversations` of `from` and `value`, `system` and `tools` next to it. Text right before a function_call is the
    text of the same message. An observation answers the next open call."""
    row = _object(row, "a record")
    _need("conversations" in row, 'expected "conversations", got ' + _keys(row))
    heard: list[_Heard] = []
    if isinstance(row.get("system"), str) and row["system"]:
        heard.append(_Heard(Message("system", row["system"])))
    joins = False  # the last entry is text that a function_call may belong to
    calls: tuple[ToolCall, ...] = ()  # of the last function_call
    for entry in _list(row["conversations"], "conversations"):
        entry = _object(entry, "an entry")
        who, value = _str(entry.get("from"), "from"), _str(entry.get("value"), "value")
        if who == "function_call":
            calls = _function_calls(value)
            if joins:
                heard[-1] = _Heard(replace(heard[-1].message, tool_calls=calls))
            else:
                heard.append(_Heard(Message("assistant", "", calls)))
            joins = False
            continue
        _need(
            who in _SPEAKERS,
            f"unknown speaker {_shown(who)}: expected one of {', '.join([*_SPEAKERS, 'function_call'])}",
        )
        role = _SPEAKERS[who]
        parts = value.split(SHAREGPT_JOINT) if role == "tool" else []
        several = len(calls) > 1 and len(parts) == len(calls) and heard[-1].message.role == "assistant"
        heard += [_Heard(Message(role, part)) for part in (parts if several else [value])]
        joins = role == "assistant"
    return [_Episode(heard, _specs(row.get("tools")), **_about(row))]


def _function_calls(value: str) -> tuple[ToolCall, ...]:
    calls = _parsed(value.encode("utf-8", "replace"))
    if isinstance(calls, dict):
        calls = [calls]
    fits = (
        isinstance(calls, list) and calls and all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls)
    )
    if not fits:
        return (ToolCall("", None, value, error="not a call, nor a list of calls"),)
    return tuple(_call(c["name"], c.get("arguments", {})) for c in calls)


_INSPECT_ENDS: dict[str, tuple[Outcome, Cause]] = {
    "timeout": (Outcome.TIMEOUT, Cause.TOOL),
    "permission": (Outcome.FORBIDDEN, Cause.TOOL),
    "approval": (Outcome.FORBIDDEN, Cause.TOOL),
    "file_not_found": (Outcome.NOT_FOUND, Cause.TOOL),
    "cancelled": (Outcome.CRASHED, Cause.INFRASTRUCTURE),
    "sandbox_unavailable": (Outcome.CRASHED, Cause.INFRASTRUCTURE),
}
"""Kinds of inspect_ai's `ToolCallError`; parsing is a matter of the call, all others are tool errors."""

_INSPECT_LIMITS = {
    "message": StopReason.TURN_LIMIT, "turn": StopReason.TURN_LIMIT, "token": StopReason.TOKEN_LIMIT,
    "context": StopReason.TOKEN_LIMIT, "time": StopReason.DEADLINE, "working": StopReason.DEADLINE,
    "operator": StopReason.CANCELLED,
}  # fmt: skip


def _inspect(record: Json) -> list[_Episode]:
    """One sample of an inspect_ai log. It says how calls ended, and what the episode scored."""
    log, sample = record
    sample = _object(sample, "a sample")
    about = log["eval"]
    attached = _object(sample.get("attachments") or {}, "attachments")
    lost: set[str] = set()
    events = [_object(e, "an event") for e in _list(sample.get("events") or [], "events")]
    tools = _specs(next((e["tools"] for e in events if e.get("event") == "model" and e.get("tools")), None))
    offered = {spec.name for spec in tools}
    heard: list[_Heard] = []
    calls: dict[str, ToolCall] = {}
    for raw in _list(sample.get("messages"), "messages"):
        raw = dict(_object(raw, "a message"))
        raw["content"] = _attached(raw.get("content"), attached)
        if isinstance(raw["content"], list) and any(_kind(p) == "reasoning" for p in raw["content"]):
            raw["content"] = [p for p in raw["content"] if _kind(p) != "reasoning"]
            lost.add("reasoning")
        if raw.get("role") == "user":
            raw.pop("tool_call_id", None)  # which calls a message stands for; no answer to them
        if raw.get("role") == "tool":
            error = raw.get("error")
            said = _chat(raw | {"name": raw.get("function")})
            if error:
                error = _object(error, "a result's error")
                said = replace(
                    said, message=replace(said.message, content=said.message.content or str(error.get("message", "")))
                )
            call = calls.get(said.message.tool_call_id or "")
            heard.append(replace(said, ended=_inspect_end(error, call, offered)))
            continue
        sent = _list(raw.pop("tool_calls", None) or [], "tool_calls")
        said = _chat(raw)
        made = []
        for c in sent:
            c = _object(c, "a tool call")
            _need(isinstance(c.get("function"), str), f"a call names its function, got {_shown(c.get('function'))}")
            call = _call(c["function"], _attached(c.get("arguments"), attached), str(c.get("id") or ""))
            if c.get("parse_error"):
                call = ToolCall(
                    call.name, None, call.raw or _dumped(c.get("arguments")), call.id, str(c["parse_error"])
                )
            made.append(call)
            calls[call.id] = call
        heard.append(replace(said, message=replace(said.message, tool_calls=tuple(made))))
    episode = _Episode(heard, tools, f"{about.get('run_id', '')}/{sample.get('id')}/{sample.get('epoch')}", lost=lost)
    episode.env, episode.agent = f"inspect/{about.get('task', 'task')}", str(about.get("model") or "")
    asked = _attached(sample.get("input"), attached)
    episode.instruction = asked if isinstance(asked, str) else ""
    episode.data = {"target": sample.get("target"), "metadata": sample.get("metadata") or {}}
    episode.task_id = f"{about.get('task', 'task')}/{sample.get('id')}"
    epoch = sample.get("epoch")
    episode.attempt = epoch - 1 if isinstance(epoch, int) and epoch > 0 else 0
    if sample.get("error"):
        episode.stop = StopReason.INFRASTRUCTURE
        episode.error = str(_object(sample["error"], "a sample's error").get("message", ""))
    elif sample.get("limit"):
        kind = _object(sample["limit"], "a sample's limit").get("type")
        episode.stop = _INSPECT_LIMITS.get(str(kind), StopReason.TERMINATED)
    for name, score in _object(sample.get("scores") or {}, "scores").items():
        value = _object(score, "a score").get("value")
        parts = value if isinstance(value, dict) else {"": value}
        for part, given in parts.items():
            number = _score(given)
            if number is not None:
                episode.parts[f"{name}/{part}" if part else name] = number
    if episode.parts and episode.stop is not StopReason.INFRASTRUCTURE:
        episode.reward = next(iter(episode.parts.values()))
        episode.success = episode.reward >= 1
    return [episode]


def _inspect_end(error: Json, call: ToolCall | None, offered: set[str]) -> tuple[Outcome, Cause | None, str]:
    if not error:
        return Outcome.OK, None, ""
    kind, why = str(error.get("type")), f"{error.get('type')}: {error.get('message', '')}"
    if kind == "parsing":
        if call is not None and call.arguments is None:
            return Outcome.MALFORMED, Cause.POLICY, why
        unknown = call is not None and bool(offered) and call.name not in offered
        return Outcome.UNKNOWN_TOOL if unknown else Outcome.INVALID_ARGUMENTS, Cause.POLICY, why
    return (*_INSPECT_ENDS.get(kind, (Outcome.TOOL_ERROR, Cause.TOOL)), why)


def _attached(value: Json, attached: dict[str, str]) -> Json:
    """Long texts of a log stand apart, under their hash."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attached.get(value.removeprefix("attachment://"), value)
    if isinstance(value, list):
        return [_attached(v, attached) for v in value]
    if isinstance(value, dict):
        return {k: _attached(v, attached) for k, v in value.items()}
    return value


_GRADES = {"c": 1.0, "p": 0.5, "i": 0.0, "n": 0.0, "true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def _score(value: Json) -> float | None:
    """inspect_ai's reading of a score: letters, words, numbers; None for what is none, NaN included."""
    if isinstance(value, str):
        known = _GRADES.get(value.lower())
        if known is not None:
            return known
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_VERIFIERS_STOPS = {
    "max_turns": StopReason.TURN_LIMIT, "max_input_tokens": StopReason.TOKEN_LIMIT,
    "max_output_tokens": StopReason.TOKEN_LIMIT, "max_total_tokens": StopReason.TOKEN_LIMIT,
    "compaction_failed": StopReason.TOKEN_LIMIT,
}  # fmt: skip
_VERIFIERS_COLUMNS = {"example_id", "generation_ms", "scoring_ms", "total_ms", "reward", "id", "seed"}


def _verifiers(row: Json) -> list[_Episode]:
    """verifiers' results.jsonl (one rollout a line), or traces.jsonl (one episode a line, a trace for each agent)."""
    row = _object(row, "a record")
    if "traces" in row:
        env = str(_object(row.get("env") or {}, "env").get("id") or "verifiers")
        return [_trace(_object(t, "a trace"), env) for t in _list(row["traces"], "traces")]
    if "nodes" in row:
        return [_trace(row, "verifiers")]
    _need("completion" in row, "expected traces, or prompt and completion, got " + _keys(row))
    before = [replace(h, weight=0.0) for h in _side(row.get("prompt"), "user", "prompt")]
    info = row.get("info")
    told = _object(info if isinstance(info, dict) else {}, "info")
    tools = _specs(row.get("tool_defs") or told.get("oai_tools"))
    episode = _Episode([*before, *_side(row["completion"], "assistant", "completion")], tools)
    episode.env = f"verifiers/{row['task']}" if isinstance(row.get("task"), str) else "verifiers"
    episode.data = {"answer": row.get("answer"), "info": info}
    if row.get("example_id") is not None:
        episode.task_id = f"{episode.env}/{row['example_id']}"
    if isinstance(row.get("reward"), int | float) and math.isfinite(row["reward"]):
        episode.reward = float(row["reward"])
        episode.success, episode.inferred = episode.reward >= 1, ["success"]
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    episode.parts = {k: float(v) for k, v in numbers.items() if k not in _VERIFIERS_COLUMNS and math.isfinite(v)}
    if row.get("error"):
        episode.stop, episode.error, episode.success = StopReason.INFRASTRUCTURE, str(row["error"]), None
        episode.inferred = []
    elif row.get("is_truncated") is True:
        episode.stop = StopReason.TOKEN_LIMIT
    return [episode]


def _trace(trace: Row, env: str) -> _Episode:
    """The longest path of a trace's message graph, with its tokens where each message has them."""
    nodes = [_object(n, "a node") for n in _list(trace.get("nodes"), "nodes")]
    _need(bool(nodes), "a trace without messages")
    paths: list[list[int]] = []
    for i, node in enumerate(nodes):
        parent = node.get("parent")
        fits = parent is None or (isinstance(parent, int) and 0 <= parent < i)
        _need(fits, f"node {i} has the parent {_shown(parent)}: expected an earlier node or none")
        paths.append([*([] if parent is None else paths[parent]), i])
    parents = {node.get("parent") for node in nodes}
    leaves = [path for i, path in enumerate(paths) if i not in parents]
    path = max(leaves, key=len)
    lost = {"branches of the message graph but the longest"} if len(leaves) > 1 else set()
    heard = []
    for i in path:
        raw = _object(nodes[i].get("message"), "a node's message")
        if raw.get("reasoning_content"):
            lost.add("reasoning")
        said = _chat(raw)
        ids, mask, logprobs = (
            [_number(x) for x in _list(nodes[i].get(name) or [], name)] for name in ("token_ids", "mask", "logprobs")
        )
        if len(ids) == len(mask) and sum(map(bool, mask)) == len(logprobs):
            said = replace(
                said, ids=tuple(map(int, ids)), mask=tuple(int(m != 0) for m in mask), logprobs=tuple(logprobs)
            )
        heard.append(replace(said, weight=1.0 if nodes[i].get("sampled", True) else 0.0))
    task = _object(trace.get("task") or {}, "task")
    data = _object(task.get("data") or {}, "task data")
    episode = _Episode(heard, _specs(trace.get("tools") or nodes[path[0]].get("tools")), str(trace.get("id") or ""))
    episode.lost = lost
    episode.env = f"verifiers/{env}"
    config = _object(_object(trace.get("agent") or {}, "agent").get("config") or {}, "agent config")
    episode.agent = str(config.get("model") or "")
    episode.data, episode.task_id = data, str(task.get("key") or "")
    episode.instruction = data["prompt"] if isinstance(data.get("prompt"), str) else ""
    rewards = {k: _object(r, "a reward") for k, r in _object(trace.get("rewards") or {}, "rewards").items() if r}
    episode.parts = {k: _number(r.get("score")) * _number(r.get("weight", 1)) for k, r in rewards.items()}
    stopped = str(trace.get("stop_condition") or "")
    if trace.get("is_timeout") is True:
        episode.stop = StopReason.DEADLINE
    elif trace.get("errors") and trace.get("ok") is not True:
        episode.stop = StopReason.INFRASTRUCTURE
        episode.error = str(_object(_list(trace["errors"], "errors")[-1], "an error").get("message", ""))
    elif stopped in _VERIFIERS_STOPS:
        episode.stop = _VERIFIERS_STOPS[stopped]
    if rewards and episode.stop is not StopReason.INFRASTRUCTURE:
        episode.reward = math.fsum(episode.parts.values())
        episode.success, episode.inferred = episode.reward >= 1, ["success"]
    return episode


@dataclass(frozen=True, slots=True)
class _Form:
    records: Callable[[Path], Iterator[Record]]
    episodes: Callable[[Json], list[_Episode]]


FORMS: dict[str, _Form] = {
    "openai": _Form(_lines, _openai),
    "sharegpt": _Form(_lines, _sharegpt),
    "trl": _Form(_lines, _trl),
    "inspect": _Form(_samples, _inspect),
    "verifiers": _Form(_lines, _verifiers),
}
"""What `read` reads."""


# --- messages ----------------------------------------------------------------------------------------------------

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool"}  # fmt: skip


def _chat(raw: Json) -> _Heard:
    """A message of OpenAI's form, or of the forms near it: calls flat, as JSON text, or the single one of old."""
    raw = _object(raw, "a message")
    role = raw.get("role")
    _need(isinstance(role, str) and role in _ROLES, f"unknown role {_shown(role)}: expected one of {', '.join(_ROLES)}")
    content = _plain(raw.get("content"))
    sent = raw.get("tool_calls") or ()
    if raw.get("function_call"):
        sent = [{"function": raw["function_call"]}]
    calls = tuple(_sent_call(c) for c in (_list(sent, "tool_calls") if sent else ()))
    _need(not calls or role == "assistant", f"a message of {role} has tool calls; only an assistant's can")
    answered, name = raw.get("tool_call_id"), raw.get("name")
    _need(answered is None or isinstance(answered, str), f"expected a text as tool_call_id, got {_shown(answered)}")
    _need(name is None or isinstance(name, str), f"expected a text as name, got {_shown(name)}")
    weight = raw.get("weight")
    _need(weight is None or isinstance(weight, int | float), f"expected a number as weight, got {_shown(weight)}")
    said = Message(_ROLES[role], content, calls, answered or None, name or None)
    return _Heard(said, 1.0 if weight is None else float(weight))


def _plain(content: Json) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        texts = []
        for part in content:
            known = isinstance(part, dict) and isinstance(part.get("text"), str)
            _need(known, f"a content part of type {_kind(part)!r}: only text can be read")
            texts.append(part["text"])
        content = "\n".join(texts)
    _need(isinstance(content, str), f"expected a text as content, got {_shown(content)}")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise DataError("a lone surrogate in a message's content") from None
    return str(content)


def _kind(part: Json) -> str:
    return str(part.get("type")) if isinstance(part, dict) else type(part).__name__


def _sent_call(raw: Json) -> ToolCall:
    if isinstance(raw, str):  # verifiers writes each call as JSON text
        raw = _parsed(raw.encode("utf-8", "replace"))
        if isinstance(raw, DataError):
            raise DataError(f"a tool call is text, but {raw}")
    raw = _object(raw, "a tool call")
    about = _object(raw.get("function") or raw, "a call's function")
    name, id = _str(about.get("name"), "a call's name"), _str(raw.get("id") or "", "a call's id")
    if about.get("error"):  # of `export.table`: known to be malformed
        return ToolCall(name, None, str(about.get("arguments") or ""), id, str(about["error"]))
    return _call(name, about.get("arguments", {}), id)


def _call(name: str, arguments: Json, id: str = "") -> ToolCall:
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
        raw = text if text is not None else _dumped(arguments)
        return ToolCall(_clean(name), None, _clean(raw), id, _clean(str(error)) or "nested too deeply")
    return ToolCall(_clean(name), arguments, id=id)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _dumped(value: Json) -> str:
    try:
        return _clean(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):
        return ""


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands twice")
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


def _specs(raw: Json) -> tuple[ToolSpec, ...]:
    """Tools in OpenAI's form, or without its wrapping; a list, or the list as JSON text."""
    if isinstance(raw, str):
        raw = _parsed(raw.encode("utf-8", "replace")) if raw.strip() else None
        if isinstance(raw, DataError):
            raise DataError(f"tools are text, but {raw}")
    out = []
    for item in _list(raw, "tools") if raw else ():
        item = _object(item, "a tool")
        about = _object(item.get("function") or item, "a tool's function")
        _need(isinstance(about.get("name"), str), f"a tool has a name, got {_shown(about.get('name'))}")
        schema = _object(about.get("parameters") or {}, "a tool's parameters")
        out.append(ToolSpec(about["name"], str(about.get("description") or ""), schema))
    return tuple(out)


# --- from messages to turns --------------------------------------------------------------------------------------


def _trajectory(e: _Episode, where: str, form: str, success: bool | None) -> Trajectory:
    heard = _numbered(e.heard)
    first = next((i for i, h in enumerate(heard) if h.message.role == "assistant"), len(heard))
    _need(first < len(heard), "no message of an assistant in it: nothing was done")
    turns = _cut(heard[first:], {spec.name for spec in e.tools})
    prompt = tuple(h.message for h in heard[:first])
    _need(all(m.role != "tool" for m in prompt), "a tool's result before any call")
    tokens, spans = _tokens(heard)
    if spans is not None:
        turns = [replace(turn, span=span) for turn, span in zip(turns, spans, strict=True)]
    inferred = list(e.inferred)
    if any(r.inferred for turn in turns for r in turn.results):
        inferred.append("outcomes")
    stop = e.stop
    if stop is None:
        stop = StopReason.TERMINATED if turns[-1].action.tool_calls else StopReason.FINISHED
        if stop is StopReason.TERMINATED:  # the record ends with a call; whose doing that was it does not say
            inferred.append("stop")
    judged = e.success
    if judged is None and stop is not StopReason.INFRASTRUCTURE and success is not None:
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
        id=_hash([form, where, e.source], (h.message for h in heard)),
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
    """Of where it stands and what is said: files of one name in two folders give no id twice."""
    said = orjson.dumps([[_clean(part) for part in parts], [message.openai() for message in messages]])
    return hashlib.blake2b(said, digest_size=8).hexdigest()


def _numbered(heard: Sequence[_Heard]) -> list[_Heard]:
    """Each call with an id of its own in the episode, and each result with the id and the name of its call.

    Raises `DataError` for a result without its call, one too many, or a call that was never answered in mid-episode.
    """
    out: list[_Heard] = []
    seen: set[str] = set()
    n = 0
    waiting: dict[str, tuple[ToolCall, str]] = {}  # id in the source -> call, as renamed
    for h in heard:
        message = h.message
        if message.role == "assistant":
            _need(not waiting, f"the call {next(iter(waiting), '')!r} got no result before the next action")
            calls = []
            for call in message.tool_calls:
                n += 1
                id = call.id or f"call-{n}"
                _need(id not in waiting, f"two calls of one message have the id {id!r}")
                own = id
                while own in seen:  # some logs count anew in each message
                    own = f"{own}-{n}"
                seen.add(own)
                calls.append(replace(call, id=own))
                waiting[id] = (calls[-1], own)
            h = replace(h, message=replace(message, tool_calls=tuple(calls)))
        elif message.role == "tool":
            id = message.tool_call_id or next(iter(waiting), "")
            _need(id in waiting, f"a tool's result (of {id!r}) without its call in the message before")
            call, own = waiting.pop(id)
            h = replace(h, message=replace(message, tool_call_id=own, name=call.name))
        out.append(h)
    return out


def _cut(heard: Sequence[_Heard], offered: set[str]) -> list[Turn]:
    """Turns, each an action with its results in the order of its calls."""
    turns: list[Turn] = []
    failed: dict[tuple[str, bytes], str] = {}
    starts = [i for i, h in enumerate(heard) if h.message.role == "assistant"]
    for start, end in zip(starts, [*starts[1:], len(heard)], strict=True):
        action = heard[start]
        after = heard[start + 1 : end]
        results = {h.message.tool_call_id: h for h in after if h.message.role == "tool"}
        last = max((i for i, h in enumerate(after) if h.message.role == "tool"), default=-1)
        _need(
            last < len(results), "a result that stands behind another message: expected results right after the calls"
        )
        made = []
        for call in action.message.tool_calls:
            if call.id in results:
                key = (call.name, orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS) + call.raw.encode())
                made.append(_result(call, results[call.id], offered, failed.get(key)))
                if made[-1].ok:
                    failed.pop(key, None)
                else:
                    failed[key] = call.id
        messages = tuple(h.message for h in after if h.message.role != "tool")
        said = Action(action.message.content, action.message.tool_calls)
        turns.append(Turn(said, tuple(made), messages, weight=action.weight))
    return turns


def _result(call: ToolCall, heard: _Heard, offered: set[str], retry_of: str | None) -> ToolResult:
    """What the source says of it, else what the call itself tells, else ok; never what the text seems to mean."""
    why = ""
    if heard.ended is not None:
        outcome, cause, why = heard.ended
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
        heard.message.content,
        cause=cause,
        took_effect=False if refused else None,
        retry_of=retry_of,
        error=why or None,
        inferred=heard.ended is None,
    )


def _tokens(heard: Sequence[_Heard]) -> tuple[Tokens | None, list[tuple[int, int]] | None]:
    """The episode's tokens and each turn's span, where every message up to the last action has its own."""
    ids: list[int] = []
    sampled: list[int] = []
    logprobs: list[float] = []
    spans: list[tuple[int, int]] = []
    for h in heard:
        agent = h.message.role == "assistant"
        if not h.ids and agent:
            return None, None
        start = len(ids) + (h.mask.index(1) if 1 in h.mask else len(h.mask))
        given = iter(h.logprobs)
        ids += h.ids
        sampled += h.mask
        logprobs += [next(given) if m else 0.0 for m in h.mask]
        if agent:
            spans.append((start, len(ids)))
    return Tokens(tuple(ids), tuple(sampled), tuple(logprobs)), spans


# --- checks ------------------------------------------------------------------------------------------------------


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(otherwise)


def _object(value: Json, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"expected {what} as an object, got {_shown(value)}")
    return value


def _number(value: Json) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"expected a number, got {_shown(value)}")
    return float(value)


def _str(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected {what} as a text, got {_shown(value)}")
    return value


def _list(value: Json, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"expected {what} as a list, got {_shown(value)}")
    return value


def _keys(row: Iterable[str]) -> str:
    return _clean(", ".join(sorted(map(str, row)))[:200]) or "nothing"


def _shown(value: Json) -> str:
    return _clean(repr(value)[:60])
