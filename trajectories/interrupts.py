"""SIGTERM and SIGHUP do what Ctrl-C does: a scheduler, `docker stop` or a closed terminal ends work as a person would.

Defines `as_ctrl_c`, `last_signal`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["as_ctrl_c", "last_signal"]

_LIKE_CTRL_C = (signal.SIGTERM, signal.SIGHUP)

_last: list[int] = [signal.SIGINT]


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Within it these signals raise `KeyboardInterrupt`, as Ctrl-C does. Not where the program has a handler of its own
    for one or ignores it (`nohup`), and not outside of the main thread, where Python handles no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _LIKE_CTRL_C if signal.getsignal(number) is signal.SIG_DFL]
    if signal.SIGTERM in ours:
        _last[:] = [signal.SIGINT]
    for number in ours:
        signal.signal(number, _pass_on)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def last_signal() -> int:
    """The number of the signal that stopped the work: SIGINT, unless it was another. An exit code is 128 more."""
    return _last[-1]


def _pass_on(number: int, frame: Any) -> None:
    """To whoever handles Ctrl-C now: an event loop, or one that puts it off."""
    _last[:] = [number]
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # a shell has its background jobs ignore Ctrl-C
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _forget() -> None:
    """In a child of a fork, which is no work to be saved: there the signals end it again."""
    for number in _LIKE_CTRL_C:
        if signal.getsignal(number) is _pass_on:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
