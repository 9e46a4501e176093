"""Warnings silenced for a moment, from several threads at once. Defines `quiet`."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

__all__ = ["quiet"]

# Python keeps one list of filters for the process: two threads that change and restore it at once would lose filters.
_lock = threading.RLock()


@contextmanager
def quiet(category: type[Warning], message: str = "") -> Iterator[None]:
    """Within, no warning of this category whose text begins as `message` (a regular expression) is shown."""
    with _lock, warnings.catch_warnings():
        _watch_forks()
        warnings.filterwarnings("ignore", message, category)
        yield


def _forget() -> None:
    """In a forked child, where the thread that holds the lock may not exist."""
    global _lock
    _lock = threading.RLock()


@lru_cache(maxsize=1)
def _watch_forks() -> None:
    """From the first use on, and not when this module is imported."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
