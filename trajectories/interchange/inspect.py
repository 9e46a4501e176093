"""Logs of inspect_ai: .eval archives, and .json. They say how calls ended, and what the episode scored.

Defines `records`, `episodes`.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError, MissingExtra
from ..messages import Cause, Json, Outcome, ToolCall
from ..trajectory import StopReason
from ._form import FORMS, ForeignForm, SourceRecord
from ._messages import (
    SourceEpisode,
    SourceMessage,
    as_list,
    as_object,
    chat_message,
    dumped,
    need,
    not_read,
    shown,
    tool_call,
    tool_specs,
)

__all__ = ["episodes", "records"]

MAX_MEMBER_BYTES = 2**30
"""Of one sample in an .eval archive, unpacked."""


_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, UnicodeDecodeError)
"""What reading a zip raises where its bytes are wrong (RuntimeError: it then seems to be encrypted)."""


_ZSTD = 93
"""Compression method of zip members; the standard library reads it from Python 3.14 on."""

_ENDS: dict[str, tuple[Outcome, Cause]] = {
    "timeout": (Outcome.TIMEOUT, Cause.TOOL),
    "permission": (Outcome.FORBIDDEN, Cause.TOOL),
    "approval": (Outcome.FORBIDDEN, Cause.TOOL),
    "file_not_found": (Outcome.NOT_FOUND, Cause.TOOL),
    "cancelled": (Outcome.CRASHED, Cause.INFRASTRUCTURE),
    "sandbox_unavailable": (Outcome.CRASHED, Cause.INFRASTRUCTURE),
}
"""Kinds of inspect_ai's `ToolCallError`; parsing is a matter of the call, all others are tool errors."""

_LIMITS = {
    "message": StopReason.TURN_LIMIT, "turn": StopReason.TURN_LIMIT, "token": StopReason.TOKEN_LIMIT,
    "context": StopReason.TOKEN_LIMIT, "time": StopReason.DEADLINE, "working": StopReason.DEADLINE,
    "operator": StopReason.CANCELLED,
}  # fmt: skip

_CALL = ("id", "function", "arguments", "parse_error", "view")

_SAMPLE = frozenset(
    """epoch input choices target sandbox files setup messages output scores events attachments model_usage role_usage
    uuid error error_retries limit started_at completed_at working_time total_time timelines invalidation""".split()
)
"""Fields of a sample that are read, or say nothing of the conversation."""

_GRADES = {"c": 1.0, "p": 0.5, "i": 0.0, "n": 0.0, "true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def episodes(record: Json) -> list[SourceEpisode]:
    """One sample of an inspect_ai log. It says how calls ended, and what the episode scored."""
    log, sample = record
    sample = as_object(sample, "a sample")
    about = log["eval"]
    attached = as_object(sample.get("attachments") or {}, "attachments")
    lost = not_read(sample, _SAMPLE, "sample field")
    events = [as_object(e, "an event") for e in as_list(sample.get("events") or [], "events")]
    tools = tool_specs(next((e["tools"] for e in events if e.get("event") == "model" and e.get("tools")), None), lost)
    offered = {spec.name for spec in tools}
    messages: list[SourceMessage] = []
    calls: dict[str, ToolCall] = {}
    for raw in as_list(sample.get("messages"), "messages"):
        raw = dict(as_object(raw, "a message"))
        raw["content"] = _attached(raw.get("content"), attached)
        if raw.get("role") == "user":
            raw.pop("tool_call_id", None)  # which calls a message is about; no answer to them
        if raw.get("role") == "tool":
            error = raw.get("error")
            source = chat_message({k: v for k, v in raw.items() if k != "function"} | {"name": raw.get("function")})
            if error:
                error = as_object(error, "a result's error")
                source = replace(
                    source,
                    message=replace(source.message, content=source.message.content or str(error.get("message", ""))),
                )
            call = calls.get(source.message.tool_call_id or "")
            read = source.lost - {"message field 'error'"}
            messages.append(replace(source, ended=_end(error, call, offered), lost=read))
            continue
        sent = as_list(raw.pop("tool_calls", None) or [], "tool_calls")
        source = chat_message(raw)
        made = []
        for c in sent:
            c = as_object(c, "a tool call")
            need(isinstance(c.get("function"), str), f"a call names its function, got {shown(c.get('function'))}")
            lost |= not_read(c, _CALL, "call field")
            call = tool_call(c["function"], _attached(c.get("arguments"), attached), str(c.get("id") or ""))
            if c.get("parse_error"):
                call = ToolCall(call.name, None, call.raw or dumped(c.get("arguments")), call.id, str(c["parse_error"]))
            made.append(call)
            calls[call.id] = call
        messages.append(replace(source, message=replace(source.message, tool_calls=tuple(made))))
    episode = SourceEpisode(
        messages, tools, f"{about.get('run_id', '')}/{sample.get('id')}/{sample.get('epoch')}", lost=lost, record=sample
    )
    episode.env, episode.agent = f"inspect/{about.get('task', 'task')}", str(about.get("model") or "")
    asked = _attached(sample.get("input"), attached)
    episode.instruction = asked if isinstance(asked, str) else ""
    episode.data = {"target": sample.get("target"), "metadata": sample.get("metadata") or {}}
    episode.task_id = f"{about.get('task', 'task')}/{sample.get('id')}"
    epoch = sample.get("epoch")
    episode.attempt = epoch - 1 if isinstance(epoch, int) and epoch > 0 else 0
    if sample.get("error"):
        episode.stop = StopReason.INFRASTRUCTURE
        episode.error = str(as_object(sample["error"], "a sample's error").get("message", ""))
    elif sample.get("limit"):
        kind = as_object(sample["limit"], "a sample's limit").get("type")
        episode.stop = _LIMITS.get(str(kind), StopReason.TERMINATED)
    for name, score in as_object(sample.get("scores") or {}, "scores").items():
        value = as_object(score, "a score").get("value")
        parts = value if isinstance(value, dict) else {"": value}
        for part, given in parts.items():
            number = _score(given)
            if number is not None:
                episode.parts[f"{name}/{part}" if part else name] = number
    if episode.parts and episode.stop is not StopReason.INFRASTRUCTURE:
        episode.reward = next(iter(episode.parts.values()))
        episode.success = episode.reward >= 1
    return [episode]


def _end(error: Json, call: ToolCall | None, offered: set[str]) -> tuple[Outcome, Cause | None, str]:
    if not error:
        return Outcome.OK, None, ""
    kind, why = str(error.get("type")), f"{error.get('type')}: {error.get('message', '')}"
    if kind == "parsing":
        if call is not None and call.arguments is None:
            return Outcome.MALFORMED, Cause.POLICY, why
        unknown = call is not None and bool(offered) and call.name not in offered
        return Outcome.UNKNOWN_TOOL if unknown else Outcome.INVALID_ARGUMENTS, Cause.POLICY, why
    return (*_ENDS.get(kind, (Outcome.TOOL_ERROR, Cause.TOOL)), why)


def _attached(value: Json, attached: dict[str, str]) -> Json:
    """Long texts of a log are kept apart, under their hash."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attached.get(value.removeprefix("attachment://"), value)
    if isinstance(value, list):
        return [_attached(v, attached) for v in value]
    if isinstance(value, dict):
        return {k: _attached(v, attached) for k, v in value.items()}
    return value


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


# --- files -------------------------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[SourceRecord]:
    """Of an inspect_ai log, as (where, (the log's head, the sample)): .eval, a zip of JSON; or .json, one object."""
    if not zipfile.is_zipfile(path):
        log = _lenient(path.read_bytes())
        if isinstance(log, Exception):
            raise DataError(f"{path}: expected an inspect_ai log (.eval or .json): {log}")
        need(isinstance(log, dict) and isinstance(log.get("eval"), dict), f'{path}: no inspect_ai log: no "eval" in it')
        for sample in as_list(log.get("samples"), f"{path}: samples"):
            yield _name_of_sample(sample), (log, sample)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            head = next((n for n in ("header.json", "_journal/start.json") if n in names), "")
            need(bool(head), f"{path}: no inspect_ai log: neither header.json nor _journal/start.json in it")
            log = _member(path, archive, head)
            if isinstance(log, Exception):
                raise DataError(f"{path}, {head}: {log}")
            need(isinstance(log, dict) and isinstance(log.get("eval"), dict), f'{path}, {head}: no "eval" in it')
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


FORM = FORMS.register("inspect")(ForeignForm(episodes, records=records))
