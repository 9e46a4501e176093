"""Task sets: the same name, split, number and seed always give the same tasks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ..trajectories.errors import ConfigError, DataError
from ..trajectories.trajectory import Task

if TYPE_CHECKING:
    from .env import ToolEnv

__all__ = ["SPLITS", "Split", "Task", "task_set"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_MOST_REPEATS = 1000


def task_set(
    env: ToolEnv, split: Split, n: int, *, seed: int = 0, levels: Sequence[int] = (), without: Iterable[str] = ()
) -> list[Task]:
    """The first `n` distinct tasks of a split, in the order that `seed` gives.

    Args:
        levels: Only these difficulties; empty: all.
        without: Task ids to leave out.

    An environment with a finite list gives all it has when `n` is larger. Raises `DataError` when no task fits.
    """
    if split not in SPLITS:
        raise ConfigError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
    seen = set(without)
    tasks: list[Task] = []
    repeats = 0
    for task in env.tasks(split, random.Random(f"{seed}/{split}")):
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
        raise DataError(f"{type(env).__name__}.tasks({split!r}) gave no task{wanted}")
    return tasks
