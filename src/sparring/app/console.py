"""What a command shows while it works: a live line on a terminal, plain lines in a log file.

`watching()` gives the one that fits; both are what `run_recipe` calls a `Watcher`. They write to standard error:
standard output is for results (`show`), so that it can be piped.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

__all__ = ["LiveWatch", "PlainWatch", "Watch", "duration", "show", "watching"]

_EVERY_S = 10.0
"""Between two lines of one stage in a log file."""
_TELLING = 3
"""Steps or episodes before an estimate of the time left is worth showing."""


def duration(seconds: float) -> str:
    """`42 s`, `3:07 min`, `2:15 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


@dataclass
class _Now:
    """The stage under way."""

    title: str
    index: int
    of: int
    began: float
    done: int = 0
    total: int = 0
    note: str = ""
    left: float | None = None
    left_at: float = 0.0
    """When `left` was said."""
    first: tuple[float, int] | None = None
    """Time and count of the first progress: where an estimate begins."""

    @property
    def place(self) -> str:
        return f"[{self.index}/{self.of}] " if self.of > 1 else ""


class Watch:
    """Keeps account of the stage; subclasses show it."""

    def __init__(self, file: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.file = file or sys.stderr
        self.clock = clock
        self.now: _Now | None = None

    def stage(self, title: str, index: int = 1, of: int = 1, *, reused: bool = False) -> None:
        """A stage begins, or is reused because its inputs did not change."""
        self.end()
        self.now = _Now(_clean(title), index, of, self.clock())
        if reused:
            self.say(f"{self.now.place}{self.now.title}: done before, nothing changed")
            self.now = None
        else:
            self._began(self.now)

    def progress(
        self, done: int, total: int, note: str = "", seconds_left: float | None = None, *, even: bool = True
    ) -> None:
        """Where the stage is. `even`: what is counted takes about as long each time, so that the time left is known."""
        now = self.now
        if now is None:
            return
        at = self.clock()
        if now.first is None:
            now.first = (now.began, 0) if done == 1 else (at, done)
        elif done < now.done:  # a second count within one stage
            now.first = (at, done)
        now.done, now.total, now.note = done, total, _clean(note)
        since, before = now.first
        enough = min(total, max(_TELLING, total // 50))  # the first episodes of a batch say little of the rest
        if even and seconds_left is None and done - before >= enough and at > since:
            seconds_left = (at - since) / (done - before) * (total - done)
        now.left, now.left_at = seconds_left, at
        self._moved(now)

    def say(self, text: str) -> None:
        """A line that stays."""
        print(_clean(text), file=self.file, flush=True)

    def end(self, how: str = "done") -> None:
        """The stage is over."""
        if self.now is not None:
            now, self.now = self.now, None
            note = f", {now.note}" if now.note and how == "done" else ""
            self._ended(now, f"{now.place}{now.title}: {how} after {duration(self.clock() - now.began)}{note}")

    def _began(self, now: _Now) -> None: ...

    def _moved(self, now: _Now) -> None: ...

    def _ended(self, now: _Now, text: str) -> None:
        self.say(text)


class PlainWatch(Watch):
    """Lines for a log file: at a stage's start and end, and in between one every ten seconds at most."""

    def __init__(
        self, file: TextIO | None = None, *, every: float = _EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(file, clock=clock)
        self.every = every
        self._said = 0.0

    def _began(self, now: _Now) -> None:
        self._said = now.began
        self.say(f"{now.place}{now.title} ...")

    def _moved(self, now: _Now) -> None:
        at = self.clock()
        if at - self._said >= self.every and now.done < now.total:
            self._said = at
            self.say(" " * len(now.place) + "  " + _where(now, at))


class LiveWatch(Watch):
    """One line at the bottom of a terminal that moves, and lines above it that stay."""

    def __init__(self, file: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(file, clock=clock)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=self.file, highlight=False)
        self._live: Any = Live(
            console=self._console,
            get_renderable=self._line,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
        )

    def say(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(_clean(text)), soft_wrap=True)

    def _began(self, now: _Now) -> None:
        self._live.start(refresh=True)

    def _ended(self, now: _Now, text: str) -> None:
        self._live.stop()
        super()._ended(now, text)

    def _line(self) -> Any:
        from rich.text import Text

        now = self.now
        if now is None:
            return Text()
        at = self.clock()
        head = Text.assemble((now.place, "dim"), (now.title, "bold"), " ")
        tail = _where(now, at)
        room = self._console.width - head.cell_len - len(tail) - 2
        if now.total and room >= 10:
            full = round(min(room, 30) * now.done / now.total)
            head.append("━" * full, "green").append("━" * (min(room, 30) - full), "bright_black").append(" ")
        head.append(tail)
        head.truncate(self._console.width - 1, overflow="ellipsis")
        return head


@contextmanager
def watching() -> Iterator[Watch]:
    """The watch that fits standard error; its stage is ended, and said to have stopped where an exception ends it."""
    live = sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
    watch: Watch = LiveWatch() if live else PlainWatch()
    try:
        yield watch
    except BaseException:
        watch.end("stopped")
        raise
    watch.end()


def show(what: Any) -> None:
    """A table, an episode or another result of rich, on standard output; at most 120 columns in a file."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else min(shutil.get_terminal_size().columns, 120)
    Console(file=sys.stdout, highlight=False, width=width).print(what)


def _where(now: _Now, at: float) -> str:
    """`12/64 loss 0.03, 10 s, 42 s left`."""
    parts = [f"{now.done}/{now.total}" + (f" {now.note}" if now.note else "")] if now.total else []
    parts.append(duration(at - now.began))
    if now.left is not None:
        parts.append(f"about {duration(now.left - (at - now.left_at))} left")
    return ", ".join(parts)


def _clean(text: str) -> str:
    """Nothing that a name or a note holds can move the cursor."""
    from ..trajectories.pages.report import visible

    return visible(text)
