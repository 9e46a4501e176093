"""Files that appear whole or not at all. Defines `write_lines`, `write_whole`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["write_lines", "write_whole"]


def write_lines(lines: Iterable[bytes], path: Path) -> None:
    """Lines as they are, each with its end. The file appears whole or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes next to the file, then renames: who reads it sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
