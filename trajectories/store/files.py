"""What the store asks of the disk: whole writes, atomic replacement, locks that die with their process.

Everything goes through `os` and `fcntl`, one call for one effect: a test lets each of them fail, or kills the process
there.

Defines `write_all`, `sync_folder`, `replace_file`, `try_lock`, `locked`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DataError

__all__ = ["locked", "replace_file", "sync_folder", "try_lock", "write_all"]

_log = logging.getLogger(__name__)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Writes all of it, or raises OSError: a full disk first answers with a short count and no exception."""
    view = memoryview(data)
    while view:
        count = os.write(fd, view)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[count:]


def sync_folder(folder: Path) -> None:
    """Makes new, renamed and removed names in a folder survive a power failure."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """The file holds either what it held or all of `data`, whenever the process or the machine stops."""
    temp = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temp, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temp)
        raise
    sync_folder(path.parent)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Takes the lock of an open file unless another holds it. The kernel frees it when its process ends, however."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, what: str, *, shared: bool = False, wait_s: float = 60.0) -> Iterator[None]:
    """Holds the lock of a file. Raises `DataError` when others held it for `wait_s` seconds; `what` says with what."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if not shared or error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        fd = os.open(path, os.O_RDONLY)  # a store that may only be read
    try:
        began = time.monotonic()
        said = False
        while not try_lock(fd, shared=shared):
            waited = time.monotonic() - began
            if waited > wait_s:
                raise DataError(f"{path.parent}: another process has been busy with {what} for {waited:.0f} s")
            if waited > 1 and not said:
                said = True
                _log.info("%s: waiting for another process to end %s, %.0f s at most", path.parent, what, wait_s)
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)
