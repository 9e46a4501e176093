"""Files that appear whole or not at all and survive a power failure, and rows of one that grows.

Defines `write_lines`, `write_whole`, `read_rows`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["read_rows", "write_lines", "write_whole"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that gets one JSON object a line, such as a run's `metrics.jsonl`; none where there is none.

    A line that is none is left out: a process that was killed, or met a full disk, left it half-written.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def write_lines(lines: Iterable[bytes], path: Path) -> None:
    """Lines as they are, each with its end. The file appears whole or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes next to the file, then renames: who reads it sees the old one or the new one, also after a power failure.
    When this returns, the disk has the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        sync(part)  # before the rename: else the name may survive and the content not
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        if error.filename == str(part):  # nobody knows that name
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """What was written of a file, or renamed in a folder, survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
