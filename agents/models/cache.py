"""The cache folder: where a model lies, and how a folder gets there whole or not at all.

A model folder in the cache is complete or absent: it is built under a temporary name, flushed to disk and renamed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
from platformdirs import user_cache_path

from ...trajectories.errors import ConfigError, InfrastructureError, SparringError, is_full_disk
from .known import KNOWN_MODELS
from .packages import need

__all__ = ["building", "fetched", "home", "model_folder", "no_space", "publish"]

"""How programs say it."""

_MARKER = "sparring-model.json"
_FORMAT = 1  # raised when the conversion changes, so that older folders are built anew
_TINY_BYTES = 2_000_000


def home() -> Path:
    """Sparring's cache folder: `SPARRING_HOME`, or the platform's user cache."""
    chosen = os.environ.get("SPARRING_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("sparring")


def model_folder(name: str) -> Path:
    """Where the known or tiny model `name` lies once it was fetched."""
    return home() / "models" / name


def fetched(name: str) -> bool:
    """Whether the known or tiny model `name` is complete in the cache."""
    marker = model_folder(name) / _MARKER
    try:
        return bool(orjson.loads(marker.read_bytes())["format"] == _FORMAT)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return False


@contextmanager
def building(name: str) -> Iterator[Path]:
    """A fresh work folder next to the target, for one process at a time; gone afterwards, whatever happened.

    Turns a full disk into one sentence, wherever it was met: Python's OSError, pip's output, or safetensors' own error.
    """
    need("filelock")
    from filelock import FileLock

    models = home() / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
        lock = FileLock(models / f".{name}.lock")
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"cannot write to {models} ({error.strerror or error}): set SPARRING_HOME to a folder of yours"
        ) from None
    try:
        for left_over in models.glob(f".{name}-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=models))
        try:
            yield work
        except Exception as error:
            if not isinstance(error, SparringError) and is_full_disk(error):
                raise no_space(name, models) from None
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def no_space(name: str, where: Path) -> InfrastructureError:
    need = KNOWN_MODELS[name].disk_bytes if name in KNOWN_MODELS else _TINY_BYTES
    free = shutil.disk_usage(where).free
    return InfrastructureError(
        f"no space left on the device: {name} needs {need / 1e6:,.0f} MB in {where}, {free / 1e6:,.0f} MB are free. "
        "Make room, or set SPARRING_HOME to a folder on another disk"
    )


def publish(built: Path, name: str, about: dict[str, str]) -> Path:
    """Marks the folder complete, flushes it to disk and moves it to its place. The caller holds the lock."""
    (built / _MARKER).write_bytes(
        orjson.dumps({"format": _FORMAT, "name": name, **about}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    )
    for file in [*built.iterdir(), built]:
        _flush(file)
    target = model_folder(name)
    if target.exists():  # of an older format, or damaged
        shutil.rmtree(target)
    built.rename(target)
    _flush(target.parent)
    return target


def _flush(path: Path) -> None:
    with suppress(PermissionError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
