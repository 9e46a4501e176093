"""`files_tools`: read and write files below one folder, and nowhere else.

Every path is walked one component at a time from the folder's own descriptor, without following links, so that no race
between a check and its use leads out. What is opened has to be a regular file with one name: links, symbolic and hard,
devices and pipes are refused, whoever made them.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...trajectories.errors import ConfigError
from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import Conflict, Forbidden, InvalidArguments, NotFound, ToolError

__all__ = ["files_tools"]

MAX_DEPTH = 16
"""Components of a path."""
MAX_PATH = 1000
"""Characters of a path."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def files_tools(
    root: str | Path,
    *,
    writable: bool = False,
    max_read: int = 64 * 1024,
    max_file: int = 1024 * 1024,
    max_entries: int = 1000,
) -> tuple[Tool, ...]:
    """The tools `list_files` and `read_file`, and with `writable` also `write_file` and `delete_file`.

    Args:
        root: An existing folder; paths in calls are relative to it.
        writable: Whether files may be changed.
        max_read: Bytes that one call reads.
        max_file: Bytes of a file that is written.
        max_entries: Files and folders below `root`, beyond which none is made; and entries that one listing shows.

    Raises:
        ConfigError: `root` is no folder.
    """
    try:
        top = Path(root).resolve(strict=True)
        os.close(os.open(top, _DIRECTORY))
    except OSError as error:
        raise ConfigError(f"files need an existing folder, not {str(root)!r}: {error.strerror}") from None

    def list_files(path: str = ".") -> Json:
        """List a folder: names, kinds and sizes.

        Args:
            path: Relative path of the folder.
        """
        with open_folder(top, parts_of(path), path) as folder:
            names = sorted(os.listdir(folder))
            shown = [_entry(name, folder) for name in names[:max_entries]]
        return {"entries": [e for e in shown if e is not None], "more": len(names) > max_entries}

    def read_file(path: str, offset: int = 0) -> Json:
        """Read a text file. A long one comes in pieces: pass `next_offset` on until it is null.

        Args:
            path: Relative path of the file.
            offset: Byte at which to begin.
        """
        parts = parts_of(path, file=True)
        if not 0 <= offset < 2**63:
            raise InvalidArguments(f"offset is a byte in the file, 0 or more, not {offset}")
        with open_folder(top, parts[:-1], path) as folder, open_file(parts[-1], folder, path) as file:
            size = os.fstat(file).st_size
            data = os.pread(file, max_read, offset)
        end = offset + len(data) >= size
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=end)
        # A character that was cut at the end is left for the next piece.
        following = None if end else offset + len(data) - len(decoder.getstate()[0])
        return {"text": text, "size": size, "next_offset": following}

    def write_file(path: str, content: str) -> Json:
        """Write a text file, replacing what was there. Folders on the way are made.

        Args:
            path: Relative path of the file.
            content: The whole new text.
        """
        parts = parts_of(path, file=True)
        data = content.encode("utf-8", "replace")
        if len(data) > max_file:
            raise InvalidArguments(f"the content has {len(data)} bytes; a file may have {max_file}")
        if _count(top, max_entries) + len(parts) > max_entries:
            raise ToolError(f"the folder is full: {max_entries} files and folders", hint="delete what is not needed")
        try:
            replace_file(top, parts, path, data)
        except OSError as error:
            raise told(error, path) from None
        return {"written": len(data)}

    def delete_file(path: str) -> str:
        """Delete a file.

        Args:
            path: Relative path of the file.
        """
        parts = parts_of(path, file=True)
        with open_folder(top, parts[:-1], path) as folder:
            with open_file(parts[-1], folder, path):
                pass
            try:
                os.unlink(parts[-1], dir_fd=folder)
            except OSError as error:
                raise told(error, path) from None
        return "deleted"

    tools = [Tool.from_function(f, idempotent=True) for f in (list_files, read_file)]
    if writable:
        tools.append(Tool.from_function(write_file, effect=True, idempotent=True))
        tools.append(Tool.from_function(delete_file, effect=True))
    return tuple(tools)


def parts_of(path: str, *, file: bool = False) -> list[str]:
    """The components of a relative path. Raises `InvalidArguments` or `Forbidden`."""
    if len(path) > MAX_PATH or "\0" in path:
        raise InvalidArguments(f"a path has at most {MAX_PATH} characters and no NUL")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidArguments("a path holds no half of a surrogate pair") from None
    if path.startswith("/"):
        raise Forbidden("only relative paths, below the tools' own folder", hint="take the leading / away")
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if ".." in parts:
        raise Forbidden("a path cannot go up with '..'")
    if len(parts) > MAX_DEPTH:
        raise InvalidArguments(f"a path has at most {MAX_DEPTH} components, not {len(parts)}")
    if file and not parts:
        raise InvalidArguments("this names the folder itself, not a file")
    return parts


@contextmanager
def open_folder(top: Path, parts: list[str], path: str, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder at `parts`, reached step by step without following a link."""
    try:
        current = os.open(top, _DIRECTORY)
    except OSError as error:
        raise told(error, path) from None
    try:
        for part in parts:
            try:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=current)
                following = os.open(part, _DIRECTORY, dir_fd=current)
            except OSError as error:
                raise told(error, path, _is_link(part, current)) from None
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


@contextmanager
def open_file(name: str, folder: int, path: str) -> Iterator[int]:
    """A descriptor of a regular file with one name."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for its other end.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise told(error, path, _is_link(name, folder)) from None
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise InvalidArguments(f"{path!r} is a folder", hint="list it with list_files")
        if not stat.S_ISREG(status.st_mode):
            raise Forbidden(f"{path!r} is no plain file")
        if status.st_nlink > 1:
            raise Forbidden(f"{path!r} has another name elsewhere (a hard link)")
        yield file
    finally:
        os.close(file)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def replace_file(top: Path, parts: list[str], path: str, data: bytes) -> None:
    """A new file takes the old one's name: a reader sees the one or the other, and no link is written through. Folders
    on the way are made. Raises `ToolError` for what is in the way, `OSError` where the disk does not take it."""
    with open_folder(top, parts[:-1], path, make=True) as folder:
        with contextlib.suppress(NotFound), open_file(parts[-1], folder, path):
            pass  # what is replaced has to be a plain file
        temporary = f".{secrets.token_hex(8)}.part"
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
            with os.fdopen(file, "wb") as stream:
                stream.write(data)
            os.rename(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def told(error: OSError, path: str, link: bool = False) -> ToolError:
    """The failure that the agent is told of; no path of the host is in it."""
    if link or error.errno == errno.ELOOP:
        return Forbidden(f"{path!r} leads through a link")
    match error.errno:
        case errno.ENOENT:
            return NotFound(f"no {path!r} here", hint="look with list_files")
        case errno.ENOTDIR | errno.EISDIR:
            return InvalidArguments(f"{path!r}: a file stands where a folder was named, or the other way round")
        case errno.EEXIST | errno.ENOTEMPTY:
            return Conflict(f"{path!r} is there already")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Forbidden(f"{path!r} may not be used so")
        case errno.ENAMETOOLONG:
            return InvalidArguments(f"{path[:80]!r}...: the name is too long")
    return ToolError(f"{path!r}: {error.strerror}")


def _entry(name: str, folder: int) -> Json:
    """One line of a listing; None for what vanished meanwhile. A name that is no UTF-8 is shown with marks."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    shown = os.fsencode(name).decode("utf-8", "replace")
    if stat.S_ISDIR(status.st_mode):
        return {"name": shown, "kind": "folder"}
    if stat.S_ISREG(status.st_mode):
        return {"name": shown, "kind": "file", "size": status.st_size}
    return {"name": shown, "kind": "other"}


def _count(top: Path, enough: int) -> int:
    """Entries below `top`, counted no further than `enough`."""
    total = 0
    for _, folders, files in os.walk(top, followlinks=False):
        total += len(folders) + len(files)
        if total >= enough:
            break
    return total
