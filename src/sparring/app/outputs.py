"""Where a command writes: what is wrong with --out is said before anything is played or read.

Defines `file_to_write` and `folder_to_write`.
"""

from __future__ import annotations

from pathlib import Path

from ..trajectories.errors import ConfigError

__all__ = ["file_to_write", "folder_to_write"]


def file_to_write(out: Path, example: str, option: str = "--out") -> None:
    """Raises `ConfigError` where no file can be at `out`.

    Args:
        out: The file.
        example: What it may be called: "episodes.jsonl".
        option: What it was given by.
    """
    if out.is_dir():
        raise ConfigError(f"{option} {out} is a folder; expected a file, such as {out / example}")
    _parents(out, option)


def folder_to_write(out: Path, what: str, option: str = "--out") -> None:
    """Raises `ConfigError` where no folder can be at `out`.

    Args:
        out: The folder.
        what: What it is for: "for a file of episodes for each agent".
        option: What it was given by.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{option} {out} is a file; expected a folder, {what}")
    _parents(out, option)


def _parents(out: Path, option: str) -> None:
    """A file where a folder would have to be."""
    for folder in out.parents:
        if folder.exists():
            if not folder.is_dir():
                raise ConfigError(f"{option} {out}: {folder} is a file; expected a folder")
            return
