"""Sealed parts: Parquet files of whole episodes with columns to search by, and the manifest that says which ones count.

A part is written next to the others, synced, and only then named in the manifest, which is replaced as a whole. A file
that the manifest does not name does not count: a seal or a compaction that was killed left it, and the next one removes
it.

Defines `StorePart`, `Manifest`, `PartWriter`, `Where`, `rows_table`, `renewed`,
`read_part`, `whole_tables`, `keys_of`, `times_of`, `file_hash`, `arrow`, `parquet`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError, MissingExtra
from ..messages import Outcome
from ..trajectory import SCHEMA_VERSION, StopReason, Trajectory
from .files import replace_file, sync_folder, write_all
from .records import Packed, Stored, parsed, trajectory, upgraded

__all__ = [
    "FORMAT",
    "Manifest",
    "PartWriter",
    "StorePart",
    "Where",
    "arrow",
    "file_hash",
    "keys_of",
    "parquet",
    "read_part",
    "renewed",
    "rows_table",
    "schema",
    "times_of",
    "whole_tables",
]

FORMAT = 1
"""Of the folder; a newer one is refused."""

MANIFEST = "manifest.json"
_GROUP_ROWS, _GROUP_BYTES = 512, 8 << 20
_SINK_BYTES = 1 << 20
_TOKEN_COLUMNS = ("ids", "sampled", "logprobs")
_ENCODING = "encoding"
"""Of the tokens; parts that an earlier version wrote have no such column."""


def arrow() -> Any:
    """pyarrow, or `MissingExtra`."""
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra("pyarrow", "store") from None
    return pyarrow


def parquet() -> Any:
    """pyarrow.parquet, or `MissingExtra`."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "store") from None
    return pyarrow.parquet


# ---- the manifest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StorePart:
    """A sealed file."""

    name: str
    episodes: int
    bytes: int
    blake2b: str
    """Of the file, 16 bytes in hex."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What counts. Read and replaced as a whole."""

    parts: tuple[StorePart, ...] = ()
    covered: tuple[str, ...] = ()
    """Segments whose episodes are in the parts, and which may not have been removed yet."""
    generation: int = 0
    format: int = field(default=FORMAT)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Raises `DataError` for a file that is none, or of a newer format, OSError where there is none."""
        path = folder / MANIFEST
        data = path.read_bytes()
        try:
            body = json.loads(data)
            format = int(body["format"])
            if format > FORMAT:
                raise DataError(
                    f"{folder} is a store of format {format}, this Sparring reads {FORMAT}: upgrade sparring"
                )
            parts = tuple(StorePart(**part) for part in body["parts"])
            return cls(parts, tuple(body["covered"]), int(body["generation"]), format)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is no manifest of a store: {error}; restore it from a copy") from None

    def save(self, folder: Path) -> None:
        """Replaces the manifest there. Raises OSError, and then the old one counts."""
        replace_file(folder / MANIFEST, json.dumps(asdict(self), indent=1).encode() + b"\n")


# ---- columns ---------------------------------------------------------------------------------------------------------


def schema() -> Any:
    """Columns of a part. What a query needs not look at (`record`, tokens) comes last."""
    pa = arrow()
    call = pa.struct(
        {
            "turn": pa.int32(),
            "tool": pa.string(),
            "arguments": pa.string(),
            "outcome": pa.string(),
            "cause": pa.string(),
            "took_effect": pa.bool_(),
            "fault": pa.string(),
            "retry_of": pa.string(),
            "latency_s": pa.float64(),
        }
    )
    return pa.schema(
        {
            "key": pa.binary(16),
            "id": pa.string(),
            "attempt": pa.int64(),
            "at": pa.timestamp("us"),
            "env": pa.string(),
            "agent": pa.string(),
            "policy_version": pa.int64(),
            "task": pa.string(),
            "kind": pa.string(),
            "level": pa.int64(),
            "seed": pa.int64(),
            "faults": pa.string(),
            "faults_hit": pa.list_(pa.string()),
            "outcomes": pa.list_(pa.string()),
            "stop": pa.string(),
            "success": pa.bool_(),
            "judged": pa.bool_(),
            "reward": pa.float64(),
            "reward_parts": pa.string(),
            "n_turns": pa.int32(),
            "n_calls": pa.int32(),
            "n_failed": pa.int32(),
            "n_tokens": pa.int32(),
            "expert_turns": pa.int64(),
            "forked_from": pa.string(),
            "error": pa.string(),
            "schema_version": pa.int32(),
            "calls": pa.list_(call),
            "record": pa.large_string(),
            "ids": pa.list_(pa.int64()),
            "sampled": pa.list_(pa.uint8()),
            "logprobs": pa.list_(pa.float64()),
            "encoding": pa.string(),
        }
    )


def _light(stored: Stored, n_tokens: int | None) -> dict[str, Any]:
    """All columns but record and tokens. Raises `DataError`."""
    body = parsed(stored.record)
    results = [(i, action, r) for i, (action, turn) in enumerate(_turns(body)) for r in turn.get("results", ())]
    calls = []
    for i, action, r in results:
        made = next((c for c in action.get("tool_calls", ()) if c.get("id") == r["call_id"]), None)
        arguments = made["arguments"] if made else None
        calls.append(
            {
                "turn": i,
                "tool": r["tool"],
                "arguments": None if arguments is None else _json(arguments),
                "outcome": _outcome(r),
                **{name: r.get(name) for name in ("cause", "took_effect", "fault", "retry_of", "latency_s")},
            }
        )
    ended = [_outcome(r) for _, _, r in results]
    task = body["task"]
    success = body.get("success")
    fork = body.get("forked_from")
    return {
        "key": stored.key,
        "id": body["id"],
        "attempt": body.get("attempt", 0),
        "at": round(stored.at * 1e6),
        "env": body["env"],
        "agent": body.get("agent", ""),
        "policy_version": body.get("policy_version", 0),
        "task": task.get("id", ""),
        "kind": task.get("kind", ""),
        "level": _int64(task.get("level", 1)),
        "seed": _int64(body.get("seed", 0)),
        "faults": body.get("faults", ""),
        "faults_hit": body.get("faults_hit", []),
        "outcomes": ended,
        "stop": body["stop"],
        "success": success,
        "judged": success is not None and not StopReason(body["stop"]).no_verdict,
        "reward": body.get("reward", 0.0),
        "reward_parts": _json(body.get("reward_parts", {})),
        "n_turns": len(body["turns"]),
        "n_calls": len(results),
        "n_failed": None if None in ended else sum(outcome != Outcome.OK for outcome in ended),
        "n_tokens": n_tokens,
        "expert_turns": body.get("expert_turns"),
        "forked_from": fork["parent"] if fork else None,
        "error": body.get("error"),
        "schema_version": body["schema_version"],
        "calls": calls,
    }


def _outcome(result: dict[str, Any]) -> str | None:
    """How a call ended; None where that was inferred at import: it was not measured."""
    return None if result.get("inferred") else result["outcome"]


def rows_table(rows: Sequence[Stored]) -> Any:
    """An Arrow table in `schema()`, its records in the current schema version. Raises `DataError`."""
    import numpy as np

    pa = arrow()
    rows = [replace(stored, record=upgraded(stored.record)) for stored in rows]
    packed = [stored.unpack() for stored in rows]
    light = [_light(s, len(p.ids) if p else None) for s, p in zip(rows, packed, strict=True)]
    columns: list[Any] = []
    for column in schema():
        if column.name == "record":
            columns.append(pa.array([s.record.decode() for s in rows], column.type))
        elif column.name == _ENCODING:
            columns.append(pa.array([p.encoding if p else None for p in packed], column.type))
        elif column.name in _TOKEN_COLUMNS:
            held = [np.asarray(getattr(p, column.name)) if p else np.empty(0) for p in packed]
            offsets = np.concatenate([[0], np.cumsum([len(part) for part in held])]).astype(np.int32)
            dtype = column.type.value_type.to_pandas_dtype()
            values = np.concatenate([part.astype(dtype) for part in held]) if held else np.empty(0, dtype)
            missing = pa.array([p is None for p in packed], pa.bool_())
            columns.append(
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=column.type, mask=missing)
            )
        else:
            columns.append(pa.array([row[column.name] for row in light], column.type))
    return pa.Table.from_arrays(columns, schema=schema())


def renewed(table: Any) -> Any:
    """A part's rows with records and columns as this version writes them. Raises `DataError`."""
    versions = set(table["schema_version"].to_pylist())
    if versions <= {SCHEMA_VERSION} and table.schema.equals(schema()):
        return table
    pa = arrow()
    keys, times = table["key"].to_pylist(), table["at"].cast(pa.int64()).to_numpy()
    rows = zip(keys, times, _packed(table), table["record"].to_pylist(), strict=True)
    return rows_table([Stored(key, at / 1e6, packed, record.encode()) for key, at, packed, record in rows])


def _packed(table: Any) -> Iterator[Packed | None]:
    """The tokens of each row."""
    columns = [table[name].combine_chunks() for name in _TOKEN_COLUMNS]
    named = _ENCODING in table.column_names
    encodings = table[_ENCODING].to_pylist() if named else [None] * table.num_rows
    for i in range(table.num_rows):
        held = [column[i] for column in columns]
        if held[0].is_valid:
            ids, sampled, logprobs = (list_.values.to_numpy() for list_ in held)
            yield Packed(ids, sampled, logprobs, encodings[i] or "")
        else:
            yield None


def _turns(body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for turn in body["turns"]:
        yield turn["action"], turn


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(value)


def _int64(value: int) -> int | None:
    """None for what the column cannot hold; the record has it."""
    return value if -(2**63) <= value < 2**63 else None


# ---- writing ---------------------------------------------------------------------------------------------------------


class _Sink:
    """The file that Parquet is written to: counted, hashed, and complete or an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._waiting = bytearray()
        self.hash = hashlib.blake2b(digest_size=16)
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self.closed = False
        self.given_up = False
        """Whether what comes is thrown away: the library writes a footer when its writer is deleted, error or not."""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._waiting += view
        self.size += len(view)
        if len(self._waiting) >= _SINK_BYTES:
            self.drain()
        return len(view)

    def drain(self) -> None:
        """Writes what waits. Raises OSError."""
        data, self._waiting = self._waiting, bytearray()
        if not self.given_up:
            write_all(self.fd, data)
            self.hash.update(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None: ...

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Of the library: the file is closed by `PartWriter`, after it was synced."""


class PartWriter:
    """Writes episodes to parts of at most `part_rows`. What it wrote counts once the manifest names it."""

    def __init__(self, folder: Path, part_rows: int) -> None:
        self.folder = folder
        self.part_rows = part_rows
        self.parts: list[StorePart] = []
        self._waiting: list[Stored] = []
        self._bytes = 0
        self._sink: _Sink | None = None
        self._writer: Any = None
        self._rows = 0

    def add(self, stored: Stored) -> None:
        """Raises OSError, `DataError` for a record that cannot be read."""
        self._waiting.append(stored)
        self._bytes += len(stored.record) + (len(stored.packed) if isinstance(stored.packed, bytes) else 0)
        if len(self._waiting) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def add_table(self, table: Any) -> None:
        """Rows of another part."""
        self._flush()
        for begin in range(0, table.num_rows, _GROUP_ROWS):
            self._write(table.slice(begin, _GROUP_ROWS))

    def finish(self) -> tuple[StorePart, ...]:
        """All parts, on the disk. Raises OSError."""
        self._flush()
        self._end_part()
        if self.parts:
            sync_folder(self.folder)
        return tuple(self.parts)

    def discard(self) -> None:
        """After an error: removes what it can of what was written."""
        paths = [self.folder / part.name for part in self.parts]
        if self._sink is not None:
            self._sink.given_up = True
            with suppress(OSError):
                os.close(self._sink.fd)
            paths.append(self._sink.path)
        self._writer = self._sink = None
        for path in paths:
            with suppress(OSError):
                os.unlink(path)

    def _flush(self) -> None:
        if self._waiting:
            rows, self._waiting, self._bytes = self._waiting, [], 0
            self._write(rows_table(rows))

    def _write(self, table: Any) -> None:
        if self._sink is None:
            pa, pq = arrow(), parquet()
            name = f"{time.time_ns():019d}-{secrets.token_hex(4)}.parquet"
            self._sink = _Sink(self.folder / name)
            plain = ("key", "record", *_TOKEN_COLUMNS)
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._sink, mode="w"),
                schema(),
                compression="zstd",
                use_dictionary=[c.name for c in schema() if c.name not in plain],
                column_encoding={"logprobs.list.element": "BYTE_STREAM_SPLIT"},
            )
        self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        self._rows += table.num_rows
        if self._rows >= self.part_rows:
            self._end_part()

    def _end_part(self) -> None:
        if self._sink is None:
            return
        self._writer.close()
        self._sink.drain()
        os.fsync(self._sink.fd)
        os.close(self._sink.fd)
        sink, rows = self._sink, self._rows
        self.parts.append(StorePart(sink.path.name, rows, sink.size, sink.hash.hexdigest()))
        self._sink = self._writer = None
        self._rows = 0


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Where:
    """What to read; None: any."""

    env: str | None = None
    agent: str | None = None
    success: bool | None = None
    fault: str | None = None
    """A kind that struck."""
    outcome: str | None = None
    """Of any call."""

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())

    def admits(self, record: bytes) -> bool:
        """Whether a record passes. Raises `DataError`."""
        if not self:
            return True
        body = parsed(upgraded(record))
        return (
            self.env in (None, body["env"])
            and self.agent in (None, body.get("agent", ""))
            and (self.success is None or self.success == body.get("success"))
            and (self.fault is None or self.fault in body.get("faults_hit", ()))
            and (
                self.outcome is None
                or any(self.outcome == _outcome(r) for _, turn in _turns(body) for r in turn.get("results", ()))
            )
        )

    def mask(self, file: Any) -> Any:
        """(rows of the part,) bool numpy array, from the columns alone."""
        import numpy as np

        plain = {
            n: v for n, v in (("env", self.env), ("agent", self.agent), ("success", self.success)) if v is not None
        }
        lists = {n: v for n, v in (("faults_hit", self.fault), ("outcomes", self.outcome)) if v is not None}
        table = file.read(columns=[*plain, *lists], use_threads=False)
        mask = np.ones(table.num_rows, bool)
        import pyarrow.compute as pc

        for name, value in plain.items():
            mask &= pc.fill_null(pc.equal(table[name], value), False).to_numpy().astype(bool)
        for name, value in lists.items():
            column = table[name].combine_chunks()
            parents = pc.list_parent_indices(column).to_numpy()
            hit = (
                pc.fill_null(pc.equal(pc.list_flatten(column), value), False)
                .to_numpy(zero_copy_only=False)
                .astype(bool)
            )
            found = np.zeros(table.num_rows, bool)
            found[parents[hit]] = True
            mask &= found
        return mask


def read_part(path: Path, where: Where) -> Iterator[Trajectory]:
    """The episodes of a part that pass, a few hundred in memory at a time. Raises `DataError`."""
    for table in _tables(path, where, ["record", *_TOKEN_COLUMNS, _ENCODING]):
        for record, packed in zip(table["record"], _packed(table), strict=True):
            yield trajectory(record.as_py(), packed.tokens() if packed else None)


def whole_tables(path: Path) -> Iterator[Any]:
    """All columns, a row group at a time."""
    yield from _tables(path, Where(), None)


def keys_of(path: Path) -> list[bytes]:
    """The keys of a part, in order."""
    with _opened(path) as file:
        keys: list[bytes] = file.read(columns=["key"], use_threads=False)["key"].to_pylist()
    return keys


def times_of(path: Path) -> Any:
    """(rows,) int64: when each was appended, microseconds since the epoch."""
    pa = arrow()
    with _opened(path) as file:
        return file.read(columns=["at"], use_threads=False)["at"].cast(pa.int64()).to_numpy()


def file_hash(path: Path) -> str:
    """As in `StorePart.blake2b`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _tables(path: Path, where: Where, columns: list[str] | None) -> Iterator[Any]:
    pa = arrow()
    with _opened(path) as file:
        mask = where.mask(file) if where else None
        begin = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            here = None if mask is None else mask[begin : begin + rows]
            begin += rows
            if here is None or here.any():
                table = file.read_row_group(group, columns=columns, use_threads=False)
                yield table if here is None or here.all() else table.filter(pa.array(here))


def _opened(path: Path) -> Any:
    pa, pq = arrow(), parquet()
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} is named in the manifest and is not there: restore it from a copy") from None
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read ({error}): `sparring store verify` says what is damaged") from None
