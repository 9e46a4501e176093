"""`Folder`: a tree of small text files on disk, which owns its temporary folder, and copies without touching the disk.

A copy holds the tree's content in memory until it is used; so a snapshot costs one read of each file, and only what is
played on becomes a folder. Paths are walked as `tools.builtin.files` does: below the folder, through no link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...tools import Conflict, Forbidden, InvalidArguments, NotFound
from ...tools.builtin.files import open_file, open_folder, parts_of, replace_file, told
from ...trajectories.errors import InfrastructureError

__all__ = ["Folder"]

MAX_FILE = 16_000
"""Bytes of a file that is written, and of one that is read."""
MAX_FILES = 64
_MAX_PATH = 120


class Folder:
    """A tree of files. The methods that tools use raise what an agent is to be told (`NotFound`, `Forbidden`, ...)."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """
        Args:
            files: Path -> text. Written to disk at the first use.
        """
        self._image: dict[str, bytes] | None = {path: text.encode() for path, text in files.items()}
        self._root: Path | None = None
        self._end: weakref.finalize[..., Folder] | None = None

    @property
    def root(self) -> Path:
        """The folder on disk; made when first asked for. Raises `InfrastructureError` when the host cannot."""
        if self._root is None:
            try:
                self._root = Path(tempfile.mkdtemp(prefix="sparring-files-"))
                self._end = weakref.finalize(self, _remove, self._root, os.getpid())
                for path, content in (self._image or {}).items():
                    target = self._root / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
            except OSError as error:
                if self._end is not None:
                    self._end()
                self._root = self._end = None
                raise InfrastructureError(f"an episode's folder cannot be made: {error}") from error
            self._image = None
        return self._root

    def copy(self) -> Folder:
        """An independent copy, not yet on disk. Empty folders, and what is no plain file, are left behind."""
        copied = Folder({})
        copied._image = dict(self._image) if self._image is not None else self._read_all()
        return copied

    def __deepcopy__(self, memo: object) -> Folder:
        return self.copy()

    def close(self) -> None:
        """Takes it from disk. What is asked of it later is answered from memory, or from a folder made anew."""
        if self._end is not None:
            with contextlib.suppress(OSError):  # somebody else has removed it
                self._image = self._read_all()
            self._end()
            self._image, self._root, self._end = self._image or {}, None, None

    # ---- reading ---------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, str]:
        """Path -> text of every plain file, in order. What is no UTF-8 is shown with marks."""
        content = self._image if self._image is not None else self._read_all()
        return {path: content[path].decode("utf-8", "replace") for path in sorted(content)}

    def strange(self) -> bool:
        """Whether something is there that is neither a folder nor a plain file with one name: a link, say."""
        return self._image is None and any(not _plain(status) for _, _, status in _walk(self.root))

    def read(self, path: str) -> str:
        """A file's text."""
        parts = _file(path)
        with open_folder(self.root, parts[:-1], path) as folder, open_file(parts[-1], folder, path) as file:
            if os.fstat(file).st_size > MAX_FILE:
                raise Forbidden(f"{path!r} is too long to be read")
            return os.pread(file, MAX_FILE, 0).decode("utf-8", "replace")

    # ---- writing ---------------------------------------------------------------------------------------------------

    def write(self, path: str, text: str) -> None:
        """Writes a whole file; folders on the way are made. A reader sees the old text or the new one."""
        parts, data = _file(path), text.encode("utf-8", "replace")
        if len(data) > MAX_FILE:
            raise Forbidden(f"a file has at most {MAX_FILE} bytes, not {len(data)}")
        if sum(1 for _ in _walk(self.root)) + len(parts) > MAX_FILES:
            raise Forbidden(f"at most {MAX_FILES} files and folders")
        try:
            replace_file(self.root, parts, path, data)
        except OSError as error:
            raise _failure(error, path) from None

    def move(self, path: str, to: str) -> None:
        """Gives a file another path, where nothing may stand yet; folders on the way are made."""
        source, target = _file(path), _file(to)
        with open_folder(self.root, source[:-1], path) as old:
            with open_file(source[-1], old, path):
                pass
            with open_folder(self.root, target[:-1], to, make=True) as new:
                try:
                    os.stat(target[-1], dir_fd=new, follow_symlinks=False)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    raise _failure(error, to) from None
                else:
                    raise Conflict(f"{to} is there already")
                try:
                    os.rename(source[-1], target[-1], src_dir_fd=old, dst_dir_fd=new)
                except OSError as error:
                    raise _failure(error, path) from None
        with contextlib.suppress(OSError):  # a folder ends with its last file, here as in a copy
            for depth in range(len(source) - 1, 0, -1):
                os.rmdir(self.root.joinpath(*source[:depth]))

    def _read_all(self) -> dict[str, bytes]:
        """Plain files only: a link, soft or hard, may show what lies outside."""
        there = [(path, file) for path, file, status in _walk(self.root) if _plain(status)]
        return {path: file.read_bytes() for path, file in there if not file.is_dir()}


def _failure(error: OSError, path: str) -> Exception:
    """What the agent is told; a host that has no more room is nothing to tell it of."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE):
        return InfrastructureError(f"an episode's folder cannot be written: {error.strerror}")
    return told(error, path)


def _file(path: str) -> list[str]:
    """The components of a file's path. What no file can be called, no file is: `NotFound`."""
    try:
        parts = parts_of(path, file=True)
    except InvalidArguments as error:
        raise NotFound(f"no file can have this path: {error}") from None
    if len("/".join(parts)) > _MAX_PATH:
        raise NotFound(f"no file can have this path: a path has at most {_MAX_PATH} characters")
    return parts


def _walk(root: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """(relative path, path, status) of all below `root`; links are not followed."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        status = entry.stat(follow_symlinks=False)
        yield entry.name, Path(entry.path), status
        if stat.S_ISDIR(status.st_mode):
            for name, path, below in _walk(Path(entry.path)):
                yield f"{entry.name}/{name}", path, below


def _plain(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)


def _remove(root: Path, owner: int) -> None:
    """The folder's end. A forked child, which has the object too, leaves it alone."""
    if os.getpid() == owner:
        shutil.rmtree(root, ignore_errors=True)
