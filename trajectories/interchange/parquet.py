"""One row an episode, every column of one type: for Parquet and data frames.

Defines `table`, `write`; `records` reads the rows of any Parquet file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson

from ..errors import DataError, MissingExtra
from ..files import write_whole
from ..trajectory import Trajectory
from ._form import FORMS, Exported, ForeignForm, Row, SourceRecord, Writer
from ._writing import EVERYWHERE, all_messages, as_json, exported, tools_text

__all__ = ["records", "table", "write"]

_HELD = {
    "calls' outcomes and causes", "faults", "rewards", "success", "stop reason", "turn weights", "call ids",
    "speakers' names", "token ids and log-probabilities", "that a call is malformed (its text reads as arguments)",
    "task data",
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
    result = [(name, text) for name in ("call_id", "tool", "outcome", "cause")]
    result += [("took_effect", pa.bool_()), ("fault", text), ("retry_of", text), ("latency_s", real), ("error", text)]
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
            "name": m.name,
        }
        for m in held
    ]
    calls = [
        {
            "call_id": r.call_id, "tool": r.tool, "outcome": r.outcome.value, "cause": r.cause and r.cause.value,
            "took_effect": r.took_effect, "fault": r.fault, "retry_of": r.retry_of,
            "latency_s": r.latency_s, "error": r.error,
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
    }  # fmt: skip


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


FORM = FORMS.register("parquet")(ForeignForm(writers={"parquet": Writer(table, write)}))
