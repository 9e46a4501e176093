"""One process at a time writes a run's folder or a file of episodes, and anybody can ask which process it is.

    with only_process_in(Path("runs/sft")):
        ...                                  # a second process is refused, in one line that names this one

The lock is the kernel's, on a file next to what is written: a process that ended, however it ended, holds nothing. The
file says who holds it. Defines `Worker`, `only_process_in`, `only_writer_of`, `at_work_in`, `writer_of`, `LOCK`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

__all__ = ["LOCK", "Worker", "at_work_in", "only_process_in", "only_writer_of", "writer_of"]

LOCK = ".lock"
"""Name of the lock file in a folder."""

_PATIENCE_S = 0.3
"""Whoever only asks who is at work holds the lock for a moment: that is no reason to refuse."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system without locks answers. There the work goes on without one."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that is at work somewhere."""

    pid: int
    """0: not known."""
    command: str
    """Its command line."""

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command}" if self.pid else "not known which"


@dataclass(slots=True)
class _Held:
    """A lock of this process."""

    fd: int
    thread: int
    times: int = 1


_held: dict[str, _Held] = {}
"""By the real path of the lock file."""


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made if need be, against other processes. The thread that holds it may take it again.

    Raises `ConfigError` where another process is at work in it or in a folder around it, or where it is a file.
    """
    for above in folder.absolute().parents:  # a recipe holds its whole folder: what is below is its own
        _refuse_in(above, "folder")
    new = not folder.exists()
    _make(folder)
    try:
        with _holding(folder / LOCK, f"is at work in {folder}", "folder"):
            yield
    finally:
        if new:
            with suppress(OSError):  # nothing was written: not even the folder is left
                folder.rmdir()


@contextmanager
def only_writer_of(path: Path) -> Iterator[None]:
    """Holds a file that is there or will be; several processes may write different files of one folder.

    Raises `ConfigError` where another process writes it, or is at work in a folder around it.
    """
    for above in path.absolute().parents:
        _refuse_in(above, "--out")
    _make(path.parent)
    with _holding(path.with_name(f".{path.name}{LOCK}"), f"is writing {path}", "--out"):
        yield


def at_work_in(folder: Path) -> Worker | None:
    """The process that holds a folder now; None: no process does. Not for deciding whether to write: take the lock."""
    return _holder(folder / LOCK)


def writer_of(path: Path) -> Worker | None:
    """The process that writes a file now, or is at work in its folder; None: no process does. As `at_work_in`."""
    return _holder(path.with_name(f".{path.name}{LOCK}")) or at_work_in(path.parent)


def _holder(lock: Path) -> Worker | None:
    if (own := _held.get(os.path.realpath(lock))) is not None:
        return _worker(own.fd)
    try:
        fd = os.open(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _try(fd, fcntl.LOCK_SH) else _worker(fd)
    finally:
        os.close(fd)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{folder} is a file, or is below one: expected a folder") from None


def _refuse_in(folder: Path, other: str) -> None:
    if os.path.realpath(folder / LOCK) not in _held and (worker := at_work_in(folder)) is not None:
        here = Path.cwd()
        shown = folder.relative_to(here) if folder != here and folder.is_relative_to(here) else folder
        raise _refusal(worker, f"is at work in {shown}", other)


@contextmanager
def _holding(lock: Path, doing: str, other: str) -> Iterator[None]:
    key = os.path.realpath(lock)
    own = _held.get(key)
    if own is not None and own.thread == threading.get_ident():
        own.times += 1
    else:
        _held[key] = own = _Held(_taken(lock, doing, other), threading.get_ident())
    try:
        yield
    finally:
        own.times -= 1
        if not own.times:
            del _held[key]
            with suppress(OSError):  # while it is held: who opened it before looks whether it is still there
                os.unlink(lock)
            os.close(own.fd)


def _taken(lock: Path, doing: str, other: str) -> int:
    """The open file whose lock was taken."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # whoever made the folder had nothing to leave in it, and took it away
            if time.monotonic() > until:  # no: no file can be made there, as in /proc, or where a mount is gone
                raise ConfigError(f"no file can be made in {lock.parent}: choose another {other}") from None
            _make(lock.parent)
            time.sleep(0.01)
            continue
        try:
            if _try(fd, fcntl.LOCK_EX):
                if _is_still(fd, lock):
                    _sign(fd)
                    return fd
            elif time.monotonic() > until:
                raise _refusal(_worker(fd), doing, other)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        time.sleep(0.01)


def _refusal(worker: Worker, doing: str, other: str) -> ConfigError:
    return ConfigError(f"another process {doing} ({worker}): wait until it ends, or choose another {other}")


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_still(fd: int, lock: Path) -> bool:
    """Whether the open file is the one that has the name now: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(lock))
    except FileNotFoundError:
        return False


def _sign(fd: int) -> None:
    command = shlex.join([os.path.basename(sys.argv[0]) or "python", *sys.argv[1:]])
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "command": command[:200]}).encode(), 0)


def _worker(fd: int) -> Worker:
    try:
        said = json.loads(os.pread(fd, 4096, 0))
        return Worker(int(said["pid"]), str(said["command"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Worker(0, "")


def _forget() -> None:
    """In a child of a fork: it does not work here, and must not keep a lock that its parent lost by being killed."""
    for own in _held.values():
        with suppress(OSError):
            os.close(own.fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
