"""Segments: the append-only files in which episodes are until they are sealed. One writer each, and never reopened.

A writer holds the lock of its segment; a segment whose lock is free is complete. A line counts once its newline is
there: what is after the last newline was never acknowledged.

Defines `Segment`, `segments`, `scan`, `fix`, `Line`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .files import sync_folder, try_lock, write_all
from .records import Damaged, Stored, decode

__all__ = ["SUFFIX", "Line", "Segment", "fix", "scan", "segments"]

SUFFIX = ".jsonl"
_BLOCK = 1 << 16


class Segment:
    """A segment being written. Not for several threads, nor for a forked child."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        """`sync`: each append reaches the disk before it returns, not only the kernel. Raises OSError."""
        name = f"{time.time_ns():019d}-{os.getpid()}-{secrets.token_hex(4)}"
        temp, self.path = folder / f"{name}.new", folder / f"{name}{SUFFIX}"
        self.sync = sync
        self.size = 0
        self.broken = False
        """Whether a failed append may have left part of a line: nothing may follow it."""
        self._fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            if not try_lock(self._fd):
                raise BlockingIOError(f"{temp} was locked by another process as it was made")
            os.rename(temp, self.path)  # locked before others can see it
            if sync:
                sync_folder(folder)
        except BaseException:
            self.close()
            with suppress(OSError):
                os.unlink(temp)
            raise

    def append(self, line: bytes) -> None:
        """All of the line, or nothing of it and OSError."""
        self.broken = True  # until it is known where the file ends: Ctrl-C may come between any two of these lines
        try:
            write_all(self._fd, line)
            if self.sync:
                os.fsync(self._fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
                self.broken = False
            raise
        self.size += len(line)
        self.broken = False

    def close(self) -> None:
        """Nothing more will be written: others may seal it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # forked children may still hold the file open, and with it the lock
            with suppress(OSError):
                os.close(fd)

    def forget(self) -> None:
        """In a forked child: the parent goes on writing it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def segments(folder: Path) -> list[str]:
    """Names of the segments there, oldest first."""
    return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))


@dataclass(frozen=True, slots=True)
class Line:
    """A complete line of a segment."""

    number: int
    """From 1."""
    stored: Stored | None
    """None: damaged."""
    problem: str = ""


def scan(path: Path) -> Iterator[Line]:
    """The complete lines, one after the other. Raises OSError."""
    start = number = 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            number += 1
            try:
                yield Line(number, decode(line))
            except Damaged:
                # A writer may have taken back part of a line (a full disk) and written another while we read.
                again = _line_at(path, start)
                if not again.endswith(b"\n"):
                    return
                try:
                    yield Line(number, decode(again))
                except Damaged as error:
                    yield Line(number, None, str(error))
                else:
                    file.seek(start + len(again))
                    line = again
            start += len(line)


def fix(path: Path) -> bool:
    """Cuts what is after the last newline, if the writer is gone. Whether it is gone. Raises OSError."""
    fd = os.open(path, os.O_RDWR)
    try:
        if not try_lock(fd):
            return False
        size = end = os.fstat(fd).st_size
        while end > 0:
            begin = max(0, end - _BLOCK)
            at = os.pread(fd, end - begin, begin).rfind(b"\n")
            if at >= 0:
                end = begin + at + 1
                break
            end = begin
        if end < size:
            os.ftruncate(fd, end)
        return True
    finally:
        os.close(fd)


def _line_at(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.readline()
