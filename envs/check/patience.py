"""How long one call of an environment may take while it is checked: a tool that never returns is a finding, and no
check that never ends.

A timer asks every quarter of a second what runs. Where it is the same call for too long, the call is interrupted as by
Ctrl-C. That works in the main thread alone, and not in C code that never comes back to Python.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ...tools.deadline import run_forked
from ...tools.toolbox import Toolbox
from ...trajectories.blame import is_users, place_of
from ..env import ToolEnv
from ..hooks import files_of

__all__ = ["Hung", "patience"]

_LOOK = 0.25
"""Seconds between looks."""
_RUNS = {Toolbox._answer.__code__: "tool", Toolbox._awaited.__code__: "runs"}
"""Functions that run a tool, and their variable that holds it."""
_CALLS = {ToolEnv.act.__code__, ToolEnv.start.__code__, ToolEnv.judge.__code__, *_RUNS}
"""What an episode is made of: the innermost of these is one call."""
_BOUND = run_forked.__code__
"""What ends by itself, and must not be interrupted between its processes."""


class Hung(KeyboardInterrupt):
    """A call has not returned in time. Its text is what there is to say. As Ctrl-C it goes through all that catches
    exceptions."""


@contextmanager
def patience(env: type, seconds: float) -> Iterator[None]:
    """Raises `Hung` within where one call takes over `seconds`. Does nothing outside of the main thread.

    Args:
        env: The class of the environment that is checked.
        seconds: More than 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    files, bottom = files_of(env), len(_frames(sys._getframe()))
    now: FrameType | None = None
    since = 0.0

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal now, since
        frames = _frames(frame)[bottom:]
        if any(f.f_code is _BOUND for f in frames):
            return
        call = next((f for f in reversed(frames) if f.f_code in _CALLS), None)
        call = call or next((f for f in frames if _is_own(f, files)), None)
        if call is None or call is not now:
            now, since = call, time.monotonic()
        elif time.monotonic() - since >= seconds:
            since = time.monotonic()
            raise Hung(_said(frames, files, seconds))

    before = signal.signal(signal.SIGALRM, look)
    timer = signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
        now = None


def _said(frames: list[FrameType], files: frozenset[str], seconds: float) -> str:
    """`the tool 'pay' has not returned after 60 s (kiosk.py, line 9, in pay)`."""
    run = next((f for f in reversed(frames) if f.f_code in _RUNS), None)
    held: Any = run.f_locals.get(_RUNS[run.f_code]) if run is not None else None
    tool = held[0][0] if isinstance(held, list | tuple) and held else held
    own = next((f for f in reversed(frames) if _is_own(f, files)), None)
    if own is not None:
        code = own.f_code
        where = f"{code.co_filename.rpartition('/')[2]}, line {own.f_lineno}, in {code.co_name}"
    else:
        where = place_of(tool.fn) if tool is not None else ""
    what = f"the tool {tool.name!r}" if tool is not None else own.f_code.co_name if own is not None else "a call"
    return f"{what} has not returned after {seconds:g} s" + (f" ({where})" if where else "")


def _is_own(frame: FrameType, files: frozenset[str]) -> bool:
    return frame.f_code.co_filename in files or is_users(frame.f_code.co_filename)


def _frames(frame: FrameType | None) -> list[FrameType]:
    """From the outermost to this one."""
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]
