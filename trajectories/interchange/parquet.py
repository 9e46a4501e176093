"""One row an episode, every column of one type: for Parquet and data frames.

Defines `table`, `write`; `episodes` reads what these wrote, `records` the rows of any Parquet file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from ..errors import DataError, MissingExtra
from ..files import write_whole
from ..messages import Cause, Json, Outcome, ToolResult
from ..trajectory import StopReason, Task, Tokens, Trajectory
from ._form import FORMS, Exported, ForeignForm, Row, SourceRecord, Writer
from ._messages import (
    SourceEpisode,
    SourceMessage,
    as_object,
    as_text,
    chat_message,
    named,
    need,
    not_read,
    parsed,
    tool_specs,
)
from ._writing import EVERYWHERE, all_messages, as_json, exported, tools_text

__all__ = ["episodes", "records", "table", "write"]

_HELD = {
    "calls' outcomes and causes", "faults", "rewards", "success", "stop reason", "turn weights", "call ids",
    "speakers' names", "token ids and log-probabilities",
    "that a call is malformed (its text reads as arguments)", "task data",
    "task, environment, agent and attempt", "seeds, expert's turns and policy version",
    "instruction (no message says it)", "thinking", "sampling temperature", "why calls are malformed",
    "error that ended the episode", "notes (meta)",
}  # fmt: skip


def table(trajectories: Iterable[Trajectory]) -> Exported:
    """One row an episode, every column of one type: for Parquet and data frames. Arguments and tools are JSON text.

    Holds nearly all: messages, outcomes by call, faults, rewards, turns, token ids. Not: raw values, lineage.
    """
    held = list(trajectories)
    rows = [_table_row(t) for t in held]
    return exported("parquet", rows, held, EVERYWHERE - _HELD)


def write(rows: Sequence[Row], path: Path) -> None:
    """The rows of `table` as one Parquet file, compressed. Raises `MissingExtra` without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "store") from None
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    call = pa.struct([("id", text), ("name", text), ("arguments", text), ("error", text)])
    message = [("role", text), ("content", text), ("tool_calls", pa.list_(call)), ("tool_call_id", text)]
    message += [("thinking", text)]
    result = [(name, text) for name in ("call_id", "tool", "outcome", "cause")]
    result += [("took_effect", pa.bool_()), ("fault", text), ("retry_of", text), ("latency_s", real), ("error", text)]
    result += [("retry_after", whole), ("inferred", pa.bool_())]
    turn = [("reward", real), ("weight", real), ("start", whole), ("end", whole)]
    kinds = dict.fromkeys(("level", "task_seed", "seed", "attempt", "expert_turns", "policy_version"), whole) | {
        "success": pa.bool_(),
        "reward": real,
        "faults_hit": pa.list_(text),
        "messages": pa.list_(pa.struct([*message, ("name", text)])),
        "results": pa.list_(pa.struct(result)),
        "turns": pa.list_(pa.struct(turn)),
        "token_ids": pa.list_(pa.int32()),
        "sampled": pa.list_(pa.int8()),
        "logprobs": pa.list_(real),
        "temperature": real,
    }
    if not rows:
        raise DataError("no episode to write")
    try:
        columns = pa.Table.from_pylist(
            list(rows), schema=pa.schema([(name, kinds.get(name, text)) for name in rows[0]])
        )
    except (pa.ArrowInvalid, UnicodeEncodeError, OverflowError) as error:
        raise DataError(f"an episode cannot be written as Parquet: {error}") from None
    write_whole(path, lambda part: pq.write_table(columns, part, compression="zstd"))


def _table_row(t: Trajectory) -> Row:
    held = all_messages(t)
    messages = [
        {
            "role": m.role,
            "content": m.content,
            "tool_calls": [
                {
                    "id": c.id,
                    "name": c.name,
                    "arguments": c.raw if c.arguments is None else orjson.dumps(c.arguments).decode(),
                    "error": (c.error or "malformed") if c.arguments is None else "",
                }
                for c in m.tool_calls
            ],
            "tool_call_id": m.tool_call_id,
            "thinking": m.thinking,
            "name": m.name,
        }
        for m in held
    ]
    calls = [
        {
            "call_id": r.call_id, "tool": r.tool, "outcome": r.outcome.value, "cause": r.cause and r.cause.value,
            "took_effect": r.took_effect, "fault": r.fault, "retry_of": r.retry_of,
            "latency_s": r.latency_s, "error": r.error, "retry_after": r.retry_after, "inferred": r.inferred,
        }
        for r in t.results()
    ]  # fmt: skip
    turns = [
        {"reward": turn.reward, "weight": turn.weight, "start": turn.span and turn.span[0],
         "end": turn.span and turn.span[1]}
        for turn in t.turns
    ]  # fmt: skip
    return {
        "id": t.id, "env": t.env, "agent": t.agent, "task_id": t.task.id, "instruction": t.task.instruction,
        "kind": t.task.kind, "level": t.task.level, "task_data": as_json(t.task.data), "task_seed": t.task.seed,
        "success": t.success, "reward": t.reward, "reward_parts": as_json(t.reward_parts), "stop": t.stop.value,
        "seed": t.seed, "attempt": t.attempt, "faults": t.faults, "faults_hit": list(t.faults_hit),
        "expert_turns": t.expert_turns, "policy_version": t.policy_version, "error": t.error, "meta": as_json(t.meta),
        "tools": tools_text(t.tools), "messages": messages, "results": calls, "turns": turns,
        "token_ids": list(t.tokens.ids) if t.tokens else None,
        "sampled": list(t.tokens.sampled) if t.tokens else None,
        "logprobs": list(t.tokens.logprobs) if t.tokens else None,
        "encoding": t.tokens.encoding if t.tokens else None,
        "temperature": t.temperature,
    }  # fmt: skip


_COLUMNS = frozenset(
    """id env agent task_id instruction kind level task_data task_seed success reward reward_parts stop seed attempt
    faults faults_hit expert_turns policy_version error meta tools messages results turns token_ids sampled
    logprobs encoding temperature""".split()
)


_MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "thinking", "name")


def episodes(row: Json) -> list[SourceEpisode]:
    """A row of `table`: all that it holds, outcomes, faults and tokens too."""
    row = as_object(row, "a record")
    missing = sorted(_COLUMNS - row.keys())
    need(
        not missing,
        f"no table of `sparring export --to parquet`: no column {named(missing)}; TRL's columns are read by --from trl",
    )
    try:
        return [_episode(row)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"a column holds another type than `sparring export --to parquet` writes: {error}") from None


def _episode(row: Row) -> SourceEpisode:
    lost = not_read(row, _COLUMNS, "column")
    results = [_result(r) for r in row["results"]]
    lost |= {what for raw in row["messages"] for what in not_read(raw, _MESSAGE, "message field")}
    messages = [_message(raw) for raw in row["messages"]]
    places = [i for i, m in enumerate(messages) if m.message.role == "tool"]
    for i, result in zip(places, results, strict=True):
        messages[i] = replace(messages[i], result=result)
    tokens = None
    if row["token_ids"] is not None:
        tokens = Tokens(tuple(row["token_ids"]), tuple(row["sampled"]), tuple(row["logprobs"]), row["encoding"] or "")
    task = Task(
        row["instruction"], _json(row, "task_data"), row["task_id"], row["task_seed"], row["kind"], row["level"]
    )
    own = ("id", "env", "agent", "seed", "faults", "expert_turns", "policy_version", "error", "temperature")
    whole = {name: row[name] for name in own} | {
        "task": task,
        "tokens": tokens,
        "stop": StopReason(row["stop"]),
        "faults_hit": tuple(row["faults_hit"]),
        "reward_parts": _json(row, "reward_parts"),
        "meta": _json(row, "meta"),
    }
    turns = [{"reward": t["reward"], "weight": t["weight"], "span": _span(t)} for t in row["turns"]]
    return SourceEpisode(
        messages,
        tool_specs(row["tools"]),
        task_id=row["task_id"],
        attempt=row["attempt"],
        success=row["success"],
        reward=row["reward"],
        stop=whole["stop"],
        lost=lost,
        whole=whole,
        turns=turns,
    )


def _message(raw: Row) -> SourceMessage:
    said = chat_message({name: value for name, value in raw.items() if name != "thinking"})
    return replace(said, message=replace(said.message, thinking=raw.get("thinking") or ""))


def _result(raw: Row) -> ToolResult:
    cause = None if raw["cause"] is None else Cause(raw["cause"])
    more = {k: raw[k] for k in ("took_effect", "fault", "retry_of", "latency_s", "error", "retry_after", "inferred")}
    return ToolResult(raw["call_id"], raw["tool"], Outcome(raw["outcome"]), "", cause=cause, **more)


def _span(turn: Row) -> tuple[int, int] | None:
    return None if turn["start"] is None else (turn["start"], turn["end"])


def _json(row: Row, name: str) -> Json:
    value = parsed(as_text(row[name], name).encode())
    if isinstance(value, DataError):
        raise DataError(f"{name} is text, but {value}")
    return value


def records(path: Path) -> Iterator[SourceRecord]:
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


FORM = FORMS.register("parquet")(ForeignForm(episodes, {"parquet": Writer(table, write)}, records))
