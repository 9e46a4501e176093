"""What a check finds (`Finding`), and what checks are given (`Subject`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from ...trajectories.blame import line_of, trace_of
from ...trajectories.errors import DataError, EnvError
from ...trajectories.trajectory import Task
from ..env import ToolEnv
from ..hooks import bug, files_of, misfit
from ..task import Split

__all__ = ["CheckFunction", "CheckProgress", "Finding", "Subject", "found_error", "found_warning", "raised", "share"]

_WHILE = ", while checking: "
_ENOUGH_S = 2.0
"""After so long, a few plays of each kind have to do in a check: a slow world."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Literal["error", "warning"]
    """An error breaks training or makes its numbers false; a warning costs something, or may be meant."""
    what: str
    how_to_fix: str
    trace: str = field(default="", compare=False)
    """The traceback of what the author's code raised; empty where it raised nothing."""

    line: str = field(default="", compare=False)
    """Which exception, and where: one line of the author's is told once."""

    @property
    def bug(self) -> str:
        """What is wrong, whichever check found it, and with which task."""
        return self.line or self.what.partition(_WHILE)[0]


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """Where the checks are."""

    check: str
    """Its name."""
    number: int
    """Checks that were done before it."""
    of: int
    """All checks."""
    note: str = ""
    """How far it is: "task 3 of 24"; empty as it begins."""
    cut: bool = False
    """The world is slow: the check leaves out some of what it would play."""


@dataclass
class Subject:
    """The environment under check, and what several checks need of it."""

    env: ToolEnv
    another: Callable[[], ToolEnv]
    """Makes one like it. Raises `TypeError` where the class cannot be made without options."""
    n: int
    listed: dict[Split, list[Task]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """Ids of tasks that are done as they begin, as those of a suite may be where nothing is to be done."""
    moving: bool = False
    """Whether a finding says already that an episode changes its task."""
    raising: set[str] = field(default_factory=set)
    """Tools of which a finding says already that they raise."""
    on_progress: Callable[[str, bool], None] = lambda note, cut: None
    """Is told how far a check is, and whether it is cut short."""
    until: float = 0.0
    """When the check under way has had its time; by `time.monotonic()`."""

    def begin(self, seconds: float = _ENOUGH_S) -> None:
        """A check has its time from now on, or a part of one has."""
        self.until = time.monotonic() + seconds

    def some(self, items: Sequence[T], least: int = 2, what: str = "task") -> Iterator[T]:
        """All items; where the check has had its time, no more than the first `least`. `what` they are is shown."""
        for number, item in enumerate(items):
            cut = number >= least and time.monotonic() > self.until
            self.on_progress(f"{what} {number + 1} of {len(items)}", cut)
            if cut:
                return
            yield item

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @cached_property
    def tasks(self) -> list[Task]:
        """`n` tasks, taken from the splits and their levels in turn."""
        by_level: dict[tuple[str, int], list[Task]] = {}
        for split, tasks in self.listed.items():
            for task in tasks:
                by_level.setdefault((split, task.level), []).append(task)
        longest = max(map(len, by_level.values()), default=0)
        rounds = [tasks[i] for i in range(longest) for tasks in by_level.values() if i < len(tasks)]
        return rounds[: self.n]

    @property
    def playable(self) -> bool:
        return bool(self.tasks and self.env.toolbox.tools)

    @cached_property
    def other(self) -> ToolEnv | None:
        """Another environment like it; None where the class cannot be made without options."""
        try:
            return self.another()
        except TypeError:
            return None

    @property
    def has_expert(self) -> bool:
        return type(self.env).solve is not ToolEnv.solve


CheckFunction = Callable[[Subject], Iterator[Finding]]
"""Its docstring says what it looks at; its name is that of the check."""


def found_error(what: str, how_to_fix: str, trace: str = "", line: str = "") -> Finding:
    return Finding("error", what, how_to_fix, trace, line)


def found_warning(what: str, how_to_fix: str) -> Finding:
    return Finding("warning", what, how_to_fix)


def raised(subject: Subject, error: BaseException, during: str) -> Finding:
    """An exception of the author's code, with the line that raised it, the task and the faults."""
    env = subject.env
    trace = trace_of(error)
    error = misfit(type(env), error) or error
    own = bug(type(env), error)
    what, _, fix = str(own).partition("; ")
    place = line_of(error, files_of(type(env)))
    line = what if isinstance(error, EnvError) else f"{type(error).__name__} in {place}"
    if not isinstance(error, EnvError | DataError):
        what = str(own)
        fix = "fix that line; an environment's own methods never raise, only its tools do, and those a ToolError"
    begun = env._episode
    at = f", in task {begun.task.id}" if begun is not None else ""
    under = f" under the faults {begun.plan}" if begun is not None and str(begun.plan) else ""
    return found_error(
        f"{what}{_WHILE}{during.splitlines()[0]}{at}{under}",
        fix or "define it as in the README's example",
        trace,
        line,
    )


def share(tasks: list[Task], subject: Subject, played: int = 0) -> str:
    """`3 of 24 tasks (such as ...)`; of so many that were played, 0: all."""
    return f"{len(tasks)} of {played or len(subject.tasks)} tasks (such as {tasks[0].instruction[:80]!r})"
