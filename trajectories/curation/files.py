"""Pairs in files: JSON lines. Defines `write_pairs`, `read_pairs`, `holds_pairs`, `pair_line`.

A pair is `{"chosen": episode, "rejected": episode, "fork": 2, "source": "judge", "margin": 1.0}`, with both episodes as
`Trajectory.to_json` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError
from ..files import write_lines
from ..trajectory import Trajectory
from .preferences import Pair

__all__ = ["holds_pairs", "pair_line", "read_pairs", "write_pairs"]

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "chosen": dict,
    "rejected": dict,
    "fork": int,
    "source": str,
    "margin": (int, float),
}


def pair_line(pair: Pair) -> bytes:
    """One line of JSON, without its end."""
    rest = orjson.dumps({"fork": pair.fork, "source": pair.source, "margin": pair.margin})
    return b'{"chosen":' + pair.chosen.to_json() + b',"rejected":' + pair.rejected.to_json() + b"," + rest[1:]


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """One pair a line. The file appears whole or not at all."""
    write_lines((pair_line(pair) for pair in pairs), path)


def read_pairs(paths: Iterable[Path]) -> list[Pair]:
    """The inverse of `write_pairs`, for several files. Raises `DataError` for a line that is no pair, and for none."""
    out: list[Pair] = []
    names = []
    for path in paths:
        names.append(str(path))
        for number, value in _records(path):
            where = f"{path}, line {number}"
            for name, kind in _FIELDS.items():
                if not isinstance(value.get(name), kind):
                    raise DataError(f"{where}: no pair of episodes: {name!r} is missing, or not what it should be")
            try:
                sides = [Trajectory.from_json(orjson.dumps(value[name])) for name in ("chosen", "rejected")]
                out.append(Pair(sides[0], sides[1], value["fork"], value["source"], float(value["margin"])))
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
    if not out:
        raise DataError(f"{', '.join(names) or 'no file'}: no pair in it")
    return out


def holds_pairs(path: Path) -> bool:
    """Whether the first line of a file is a pair; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            first: Any = orjson.loads(next((line for line in file if line.strip()), b"null"))
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(first, dict) and "chosen" in first and "rejected" in first


def _records(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: expected an object, got {type(value).__name__}")
        yield number, value
