"""Task sets: the same name, split, number and seed always give the same tasks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

from ..trajectories.errors import ConfigError, DataError
from ..trajectories.trajectory import Task
from .hooks import must

__all__ = ["SPLITS", "TASK_FIELDS", "HasTasks", "NoTasks", "Split", "Task", "task_set"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_MOST_REPEATS = 1000
TASK_FIELDS: dict[str, type] = {"instruction": str, "data": dict, "id": str, "seed": int, "kind": str, "level": int}
"""Of a task, with their types."""


class NoTasks(DataError):
    """A split has no task."""


class HasTasks(Protocol):
    """Whatever gives tasks: an environment, as a rule."""

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        """Tasks of a split, finite or endless."""
        ...


def task_set(
    env: HasTasks, split: Split, n: int, *, seed: int = 0, levels: Sequence[int] = (), without: Iterable[str] = ()
) -> list[Task]:
    """The first `n` distinct tasks of a split, in the order that `seed` gives.

    Args:
        levels: Only these difficulties; empty: all.
        without: Task ids to leave out.

    An environment with a finite list gives all it has when `n` is larger. Raises `NoTasks` (a `DataError`) when no task
    fits.
    """
    if split not in SPLITS:
        raise ConfigError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
    seen = set(without)
    tasks: list[Task] = []
    repeats = 0
    for task in _given(env, split, seed):
        if task.id in seen or (levels and task.level not in levels):
            repeats += 1
        else:
            repeats = 0
            seen.add(task.id)
            tasks.append(task)
        if len(tasks) == n or repeats > _MOST_REPEATS:  # a generator that has run dry repeats itself for ever
            break
    if not tasks:
        wanted = f" of level {', '.join(map(str, levels))}" if levels else ""
        others = [] if levels else [other for other in SPLITS if other != split and _any(env, other)]
        there = f"; there are some in {' and '.join(others)}" if others else ""
        raise NoTasks(f"{type(env).__name__}.tasks({split!r}) gave no task{wanted}{there}")
    return tasks


def _given(env: HasTasks, split: Split, seed: int) -> Iterator[Task]:
    """What `tasks` gives, once it is sure that these are tasks. Where a split has none, it is told which have some.

    Raises `EnvError`, or `NoTasks`.
    """
    label = f"{type(env).__name__}.tasks({split!r}, rng)"
    try:
        given: Any = env.tasks(split, random.Random(f"{seed}/{split}"))
        several = isinstance(given, Iterable) and not isinstance(given, str | bytes | dict)
        must(several, env.tasks, f"{label} gives", given, "a list of Tasks, or yield them")
        for task in given:
            expected = "Tasks alone: Task('Open door 3.', {'door': 3})"
            must(isinstance(task, Task), env.tasks, f"{label} gives", task, expected)
            for name, kind in TASK_FIELDS.items():
                value = getattr(task, name)
                fits = isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
                label_of = f"{label} gives a Task whose {name} is"
                must(fits, env.tasks, label_of, value, f"a {name} of type {kind.__name__}")
            yield task
    except NoTasks as error:
        others = [other for other in SPLITS if other != split and _any(env, other)]
        raise NoTasks(f"{error}; there are some in {' and '.join(others)}" if others else str(error)) from None


def _any(env: HasTasks, split: Split) -> bool:
    try:
        return next(iter(env.tasks(split, random.Random(0))), None) is not None
    except Exception:  # it is told of where this split is asked for
        return False
