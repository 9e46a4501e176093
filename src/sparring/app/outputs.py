"""Where a command writes: what is wrong with --out is said before anything is played or read.

Defines `file_to_write`, `file_to_replace`, `folder_to_write` and `nothing_written`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..trajectories.errors import ConfigError

__all__ = ["file_to_replace", "file_to_write", "folder_to_write", "nothing_written"]

_DATA = (".json", ".jsonl", ".parquet")
"""What a folder may be read for; a page in it is not."""
_RESULTS = (".jsonl", ".safetensors")
"""What a run is resumed from."""

_last: list[Path] = []
"""Where the command writes, once that is known."""


def file_to_write(out: Path, example: str, option: str = "--out") -> None:
    """Raises `ConfigError` where no file can be at `out`.

    Args:
        out: The file.
        example: What it may be called: "episodes.jsonl".
        option: What it was given by.
    """
    if out == Path():  # what an empty name comes to
        raise ConfigError(f"{option} names no file, but the present folder; expected a file, such as {example}")
    if out.is_dir():
        raise ConfigError(f"{option} {out} is a folder; expected a file, such as {out / example}")
    _parents(out, option)
    _last[:] = [out]


def file_to_replace(
    out: Path, example: str, overwrite: bool, option: str = "--out", *, reads: Iterable[Path] = (), also: Path = Path()
) -> None:
    """Of a command that writes its file at once: one that is there is replaced only where that was asked for, and one
    that the command reads never. Raises `ConfigError`, as `file_to_write` does.

    Args:
        out: The file.
        example: What it may be called: "episodes.jsonl".
        overwrite: Whether a file that is there is replaced.
        option: What it was given by.
        reads: What the command reads: files, or folders of files.
        also: A second file that is written with it, such as its card.
    """
    file_to_write(out, example, option)
    read = [path.resolve() for path in reads]
    for place in [out] if also == Path() else [out, also]:
        if not place.exists():
            continue
        if not place.is_file():  # a device: it would be renamed away
            raise ConfigError(f"{option} {place} is no regular file: choose another")
        if any(_is_of(place, path) for path in read):
            raise ConfigError(
                f"{place} is there already, and is one of the files that are read: choose another {option}"
            )
        if not overwrite:
            raise ConfigError(f"{place} is there already: choose another {option}, or pass --overwrite to replace it")


def _is_of(place: Path, read: Path) -> bool:
    """Whether a file is this one, or data in this folder."""
    if not read.is_dir():
        return read.exists() and place.samefile(read)
    return place.suffix in _DATA and place.resolve().is_relative_to(read)


def folder_to_write(out: Path, what: str, option: str = "--out") -> None:
    """Raises `ConfigError` where no folder can be at `out`.

    Args:
        out: The folder.
        what: What it is for: "for a file of episodes for each agent".
        option: What it was given by.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{option} {out} is a file; expected a folder, {what}")
    _parents(out / "in it", option, out)
    _last[:] = [out]


def nothing_written() -> bool:
    """Whether it is known that a stopped command has left nothing to go on from: it was still loading a model, say."""
    if not _last:
        return False
    place = _last[0]
    files = [f for f in place.rglob("*") if f.suffix in _RESULTS] if place.is_dir() else [place]
    return not any(f.is_file() and f.stat().st_size for f in files)


def _parents(out: Path, option: str, shown: Path | None = None) -> None:
    """The folder that is there, of those around `out`, has to be one in which something can be written."""
    shown = shown or out
    for folder in out.parents:
        if folder.exists():
            if not folder.is_dir():
                raise ConfigError(f"{option} {shown}: {folder} is a file; expected a folder")
            try:
                tempfile.TemporaryFile(dir=folder).close()  # rights do not tell: a file system may be read-only
            except OSError as error:
                raise ConfigError(
                    f"{option} {shown}: nothing can be written in {folder} ({error.strerror}); choose another place"
                ) from None
            return
