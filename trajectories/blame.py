"""Whose line an exception came from: a mistake in a user's own code is told with that user's file and line.

Defines `told` (an exception in one line), `line_of` (its place) and `place_of` (where a function is defined).
"""

from __future__ import annotations

import inspect
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from .errors import SparringError

__all__ = ["is_users", "line_of", "place_of", "told", "trace_of"]

_LONGEST = 160
"""Characters of an exception's text that are told."""


def told(error: BaseException, own: Collection[str] = ()) -> str:
    """`KeyError: 'door' (kiosk.py, line 12, in success)`, on one line.

    Args:
        error: What was raised.
        own: Files that are the user's, though they are in this package: an environment of the house.
    """
    where = line_of(error, own)
    error = _meant(error)
    text = " ".join(_text(error).split())
    if isinstance(error, StopIteration | StopAsyncIteration):
        text = text or "next() found nothing there; give it a default, next(..., None)"
    kind = type(error).__name__
    said = f"{kind}: {text[:_LONGEST]}" if text else kind
    return f"{said} ({where})" if where else said


def line_of(error: BaseException, own: Collection[str] = ()) -> str:
    """`kiosk.py, line 12, in success`: the last line of the user's own code that an exception came through, or else the
    last of all; empty where it has come through none.

    Args:
        error: What was raised. Where it has no line of the user's, its cause is asked.
        own: As for `told`.
    """
    last: traceback.FrameSummary | None = None
    for one in (*_chain(_meant(error)), error):  # a group has come a way that its members have not
        frames = list(traceback.extract_tb(one.__traceback__))
        users = [frame for frame in frames if frame.filename in own or is_users(frame.filename)]
        if users:  # what was made at run time, as dataclasses are, is in no file
            best = next((frame for frame in reversed(users) if not frame.filename.startswith("<")), users[-1])
            return _place(best.filename, best.lineno, best.name)
        if not isinstance(one, SparringError):  # what we say ourselves is no help to find
            last = last or (frames[-1] if frames else None)
    return _place(last.filename, last.lineno, last.name) if last is not None else ""


def place_of(function: Callable[..., Any] | type) -> str:
    """`kiosk.py, line 9, in success`: where a function or a class is defined; empty where that is not known."""
    while isinstance(function, partial):
        function = function.func
    found: Any = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(found, "__code__", None)
    if code is not None:
        return _place(code.co_filename, code.co_firstlineno, code.co_name)
    try:
        return _place(inspect.getsourcefile(found) or "", inspect.getsourcelines(found)[1], found.__name__)
    except (OSError, TypeError, AttributeError):
        return ""


def trace_of(error: BaseException) -> str:
    """The traceback of an exception, also of one whose own text raises."""
    try:
        text = "".join(traceback.format_exception(_meant(error)))
    except Exception as second:  # an exception whose own text raises
        text = f"{type(error).__name__}, whose text cannot be made: {type(second).__name__}"
    return text.encode("utf-8", "replace").decode()


def _meant(error: BaseException) -> BaseException:
    """What an author's code raised: Python tells a stray `StopIteration` as a `RuntimeError`."""
    while isinstance(error, BaseExceptionGroup):  # the first is the cause, the others fell with it
        error = error.exceptions[0]
    if type(error) is RuntimeError and isinstance(error.__cause__, StopIteration | StopAsyncIteration):
        return error.__cause__
    return error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"its text cannot be made, {type(second).__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what caused it, and so on."""
    seen: set[int] = set()
    next_: BaseException | None = error
    while next_ is not None and id(next_) not in seen:
        seen.add(id(next_))
        yield next_
        next_ = next_.__cause__ or (None if next_.__suppress_context__ else next_.__context__)


def _place(file: str, line: int | None, name: str) -> str:
    return f"{Path(file).name}, line {line}, in {name}" if file else ""


def is_users(file: str) -> bool:
    """Whether a file is none of this package, of Python, and of what is installed next to it."""
    return not file.startswith("<frozen") and not os.path.realpath(file).startswith(_not_users())


@lru_cache(maxsize=1)
def _not_users() -> tuple[str, ...]:
    """Folders of this package, of Python, and of what is installed next to it."""
    here = Path(__file__).resolve().parent.parent
    ours = [here / name for name in ("agents", "envs", "tools", "trainers", "trajectories", "src")]
    package = sys.modules[__name__.partition(".")[0]].__file__
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [*map(str, ours), str(Path(package or __file__).parent), *python, *site.getsitepackages()]
    return tuple({os.path.realpath(folder) + os.sep for folder in folders if folder})
