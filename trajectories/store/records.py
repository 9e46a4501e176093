"""One episode as one line of a segment, and back. Migration of records of older schema versions.

A line is JSON with a fixed order of fields, so that `jq` and DuckDB can read a segment and the store need not parse it:

    {"crc":"3f0a9c11","key":"<32 hex>","at":1700000000.123456,"tokens":"<base64>" or null,"record":{...}}

`record` is `Trajectory.to_json()` without its tokens. Those are packed as binary arrays: 1,200 numbers three times as
decimal text would take longer than everything else. They are not compressed, which would make an append a third slower
for bytes that sealing compresses anyway. `crc` covers all that follows it.

Defines `Stored`, `encode`, `decode`, `trajectory`, `upgraded`, `parsed`, `episode_key`, `Damaged`, `MIGRATIONS`.
"""

from __future__ import annotations

import array
import base64
import binascii
import hashlib
import json
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from ..errors import DataError
from ..messages import Json
from ..trajectory import SCHEMA_VERSION, Tokens, Trajectory

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "MIGRATIONS",
    "Damaged",
    "Packed",
    "Stored",
    "decode",
    "encode",
    "episode_key",
    "parsed",
    "trajectory",
    "upgraded",
]

MIGRATIONS: dict[int, Callable[[dict[str, Json]], dict[str, Json]]] = {}
"""Schema version -> what turns a record of it (a dict of JSON) into one of the next version. Raising `SCHEMA_VERSION`
from n to n + 1 takes one entry here, for n; `schema_version` itself is set by the store."""

_LINE = re.compile(
    rb'\{"crc":"([0-9a-f]{8})",("key":"([0-9a-f]{32})","at":([0-9.]+),"tokens":(?:null|"([^"]*)"),"record":(\{.*\})\})\n',
    re.DOTALL,
)
_VERSION = re.compile(rb'"schema_version":(\d+)\}$')
_HEAD = struct.Struct("<BI")
_WIDE_IDS, _WIDE_LOGPROBS, _ENCODED = 1, 2, 4


class Damaged(Exception):
    """A line that is complete and not what was written. Never leaves the store's package."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Tokens as binary arrays."""

    ids: np.ndarray[Any, Any]  # (n,) int32 or int64
    sampled: np.ndarray[Any, Any]  # (n,) uint8
    logprobs: np.ndarray[Any, Any]  # (n,) float64
    encoding: str = ""

    def tokens(self) -> Tokens:
        arrays = (self.ids, self.sampled, self.logprobs)
        ids, sampled, logprobs = (tuple(array.tolist()) for array in arrays)
        return Tokens(ids, sampled, logprobs, self.encoding)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a line holds."""

    key: bytes
    """16 bytes that mean (episode id, attempt)."""
    at: float
    """When it was appended, seconds since the epoch."""
    packed: bytes | Packed | None
    """The tokens, if any; bytes: base64, as in the line."""
    record: bytes
    """`Trajectory.to_json()` without tokens."""

    def unpack(self) -> Packed | None:
        """Raises `DataError`."""
        return _unpack(self.packed) if isinstance(self.packed, bytes) else self.packed

    def trajectory(self) -> Trajectory:
        """Raises `DataError`."""
        packed = self.unpack()
        return trajectory(self.record, packed.tokens() if packed else None)


def episode_key(id: str, attempt: int) -> bytes:
    """What makes two records the same episode. 128 bits of a hash: equal keys mean equal episodes."""
    return hashlib.blake2b(f"{attempt}/{id}".encode(), digest_size=16).digest()


def encode(t: Trajectory, at: float) -> bytes:
    """The line of an episode. Raises `DataError` for one that could not be read back."""
    try:
        record = _adapter().dump_json(t, exclude={"tokens"}, warnings="error")
    except (PydanticSerializationError, UnicodeEncodeError):
        record = _odd(t)
    if not _finite(t):
        raise DataError(
            f"episode {t.id!r} has a reward, weight, latency or log-probability that is no finite number; JSON cannot "
            f"say it: replace it before the episode is stored"
        )
    tokens = b"null" if t.tokens is None else b'"%s"' % _pack(t.id, t.tokens)
    key = episode_key(t.id, t.attempt).hex().encode()
    body = b'"key":"%s","at":%.6f,"tokens":%s,"record":%s}' % (key, at, tokens, record)
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body)


def decode(line: bytes) -> Stored:
    """The inverse of `encode`, the episode not yet parsed. Raises `Damaged`."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise Damaged("not a line that the store writes")
    crc, body, key, at, packed, record = match.groups()
    if int(crc, 16) != zlib.crc32(body):
        raise Damaged("the checksum does not agree")
    return Stored(bytes.fromhex(key.decode()), float(at), packed, record)


def trajectory(record: bytes | str, tokens: Tokens | None) -> Trajectory:
    """The episode of a record of any known schema version. Raises `DataError`."""
    whole = Trajectory.from_json(upgraded(record.encode() if isinstance(record, str) else record))
    return whole if tokens is None else replace(whole, tokens=tokens)


def upgraded(record: bytes) -> bytes:
    """The record in the current schema version. Raises `DataError` for an older version that nothing migrates."""
    match = _VERSION.search(record)  # written last; elsewhere in a record that was not written by this code
    if match is not None and int(match[1]) >= SCHEMA_VERSION:
        return record
    body = json.loads(record)
    version = body.get("schema_version", SCHEMA_VERSION)
    if version >= SCHEMA_VERSION:
        return record
    while version < SCHEMA_VERSION:
        step = MIGRATIONS.get(version)
        if step is None:
            raise DataError(
                f"episode {body.get('id')!r} has schema version {version}, and nothing migrates that to {version + 1}: "
                f"read it with the Sparring that wrote it"
            )
        version += 1
        body = {**step(body), "schema_version": version}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def parsed(record: bytes) -> dict[str, Any]:
    """A record of the current schema version as a dict of JSON. Raises `DataError` for a newer one."""
    try:
        body: dict[str, Any] = orjson.loads(record)
    except orjson.JSONDecodeError:  # orjson reads a little less than pydantic writes
        body = json.loads(record)
    if body.get("schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise DataError(
            f"episode {body.get('id')!r} has schema version {body['schema_version']}, this Sparring reads up to "
            f"{SCHEMA_VERSION}: upgrade sparring"
        )
    return body


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Trajectory]:
    return TypeAdapter(Trajectory)


def _odd(t: Trajectory) -> bytes:
    """The record of an episode with values of other types than declared (a list for a tuple): kept if it reads back."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = _adapter().dump_json(t, exclude={"tokens"})
        Trajectory.from_json(record)
    except (PydanticSerializationError, UnicodeEncodeError, DataError) as error:
        raise DataError(f"episode {t.id!r} cannot be written as JSON and read back: {error}") from None
    return record


def _finite(t: Trajectory) -> bool:
    numbers = [t.reward, *t.reward_parts.values()]
    for turn in t.turns:
        numbers += (turn.reward, turn.weight)
        numbers += [result.latency_s for result in turn.results]
    return all(map(math.isfinite, numbers))


def _pack(id: str, tokens: Tokens) -> bytes:
    """base64 of flags and count, ids, a bit a token for `sampled`, log-probabilities in 4 bytes where that is exact,
    and the name of the encoding, where there is one."""
    import numpy as np

    try:
        try:
            ids, flags = array.array("i", tokens.ids), 0
        except OverflowError:
            ids, flags = array.array("q", tokens.ids), _WIDE_IDS
        sampled = bytes(tokens.sampled)
        exact = np.frombuffer(array.array("d", tokens.logprobs), np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise DataError(f"the tokens of episode {id!r} are no numbers as expected: {error}") from None
    if sampled.translate(None, b"\0\1"):
        raise DataError(f"the tokens of episode {id!r}: expected 0 or 1 in `sampled`, got {max(sampled)}")
    with np.errstate(over="ignore"):
        short = exact.astype(np.float32)
    if not np.isfinite(exact).all():
        raise DataError(f"episode {id!r} has a log-probability that is no finite number; JSON cannot say it")
    logprobs = short.tobytes()
    if not np.array_equal(short, exact):
        flags, logprobs = flags | _WIDE_LOGPROBS, exact.tobytes()
    bits = np.packbits(np.frombuffer(sampled, np.uint8)).tobytes()
    encoding = tokens.encoding.encode("utf-8", "replace")
    flags |= _ENCODED if encoding else 0
    return base64.b64encode(b"".join((_HEAD.pack(flags, len(sampled)), ids.tobytes(), bits, logprobs, encoding)))


def _unpack(packed: bytes) -> Packed:
    import numpy as np

    try:
        data = base64.b64decode(packed, validate=True)
        flags, n = _HEAD.unpack_from(data)
        wide_ids, wide_logprobs = np.dtype("<i8" if flags & _WIDE_IDS else "<i4"), flags & _WIDE_LOGPROBS
        at = _HEAD.size
        ids = np.frombuffer(data, wide_ids, n, at)
        at += ids.nbytes
        bits = np.frombuffer(data, np.uint8, (n + 7) // 8, at)
        at += bits.nbytes
        logprobs = np.frombuffer(data, np.dtype("<f8" if wide_logprobs else "<f4"), n, at)
        encoding = data[at + logprobs.nbytes :].decode() if flags & _ENCODED else ""
    except (binascii.Error, struct.error, ValueError):
        raise DataError("the packed tokens of an episode cannot be read") from None
    return Packed(ids, np.unpackbits(bits, count=n), logprobs.astype(np.float64), encoding)
