"""What a check finds (`Finding`), and what checks are given (`Subject`)."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ...trajectories.errors import DataError, EnvError
from ...trajectories.trajectory import Task
from ..env import ToolEnv
from ..task import Split

__all__ = ["WHILE", "Check", "Finding", "Subject", "found_error", "found_warning", "raised", "share"]

WHILE = ", while checking: "


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Literal["error", "warning"]
    """An error breaks training or makes its numbers false; a warning costs something, or may be meant."""
    what: str
    how_to_fix: str


@dataclass
class Subject:
    """The environment under check, and what several checks need of it."""

    env: ToolEnv
    n: int
    listed: dict[Split, list[Task]] = field(default_factory=dict)

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
            return type(self.env)()
        except TypeError:
            return None

    @property
    def has_expert(self) -> bool:
        return type(self.env).solve is not ToolEnv.solve


Check = Callable[[Subject], Iterator[Finding]]
"""Its docstring says what it looks at; its name is that of the check."""


def found_error(what: str, how_to_fix: str) -> Finding:
    return Finding("error", what, how_to_fix)


def found_warning(what: str, how_to_fix: str) -> Finding:
    return Finding("warning", what, how_to_fix)


def raised(subject: Subject, error: Exception, during: str) -> Finding:
    """An exception of the author's code, with the line that raised it."""
    if isinstance(error, (EnvError, DataError)):
        what, _, fix = str(error).partition("; ")
        return found_error(what, fix or "define it as in the README's example")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == inspect.getfile(type(subject.env))]
    last = (own or list(frames))[-1]
    place = f"{last.filename.rsplit('/', 1)[-1]}, line {last.lineno}, in {last.name}"
    return found_error(
        f"{type(error).__name__}: {error} ({place}){WHILE}{during}",
        "fix that line; an environment's own methods never raise, only its tools do, and those a ToolError",
    )


def share(tasks: list[Task], subject: Subject) -> str:
    return f"{len(tasks)} of {len(subject.tasks)} tasks (such as {tasks[0].instruction[:80]!r})"
