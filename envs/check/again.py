"""Checks of what is played twice: the same again, from a snapshot, and next to another episode."""

from __future__ import annotations

import inspect
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ...tools.plans import FaultPlan
from ...trajectories.messages import Action
from ...trajectories.trajectory import Task
from .episodes import comparable, difference, episode, follow, numpy_state, verdict, walk
from .findings import Finding, Subject, found_error, found_warning

__all__ = ["beside", "determinism", "snapshots"]


def determinism(subject: Subject) -> Iterator[Finding]:
    """the same task twice, clean and under faults, and after another one"""
    before, outside = (random.getstate(), numpy_state()), (os.getcwd(), {**os.environ})
    yield from _twice(subject)
    if (random.getstate(), numpy_state()) != before:
        yield found_warning(
            "the environment draws from the global random generator, or seeds it",
            "draw from the rng that tasks and setup are given, and after that from self.episode.rng",
        )
    if (folder := os.getcwd()) != outside[0]:
        yield found_error(
            f"an episode changes the working folder of the process to {folder}: files with a relative path, such as "
            "those of --out, would go there",
            "give the folder to what needs it (cwd=..., root / name); all episodes of a program have one",
        )
    if changed := sorted({name for name, _ in {**os.environ}.items() ^ outside[1].items()}):
        yield found_warning(
            f"an episode changes the environment variable {changed[0]}, which all episodes of a program share",
            "keep it in self.state, and pass it to what needs it (env=...)",
        )


def _twice(subject: Subject) -> Iterator[Finding]:
    env = subject.env
    for plan in (FaultPlan(), FaultPlan(count=2)):
        for index, task in enumerate(subject.some(subject.tasks[:6])):
            actions = walk(subject, task, plan)
            first, second = (episode(env, task, plan, actions) for _ in range(2))
            if first != second:
                found = found_error(
                    f"the same task does not go the same way twice: {difference(first, second, env)}",
                    "set all up in setup(task, rng), from task and rng: no clock, no global random, no order of a set",
                )
                yield from _by_a_second(subject, task, plan, actions) or (found,)
                return
            between = subject.tasks[(index + 1) % len(subject.tasks)]
            episode(env, between, FaultPlan(), actions)
            if (third := episode(env, task, plan, actions)) != first:
                found = found_error(
                    f"a task goes another way after another task: {difference(first, third, env)}",
                    "set everything up anew in setup(task, rng): what an episode changes must not outlive it",
                )
                yield from _by_a_second(subject, task, plan, actions) or (found,)
                return
    yield from _by_the_clock(subject)


def _by_a_second(subject: Subject, task: Task, plan: FaultPlan, actions: Sequence[Action]) -> list[Finding]:
    """What there is to say of the clock, where two plays differ because a second has turned between them; else nothing:
    played at once, they differ too, or a second makes no difference."""
    env = subject.env
    if not _clocks(type(env)) or episode(env, task, plan, actions) != episode(env, task, plan, actions):
        return []
    return [finding for finding in _by_the_clock(subject) if finding.severity == "error"]


def _by_the_clock(subject: Subject) -> Iterator[Finding]:
    """Where the author's file reads a clock: the same episode before and after a full second."""
    env, task = subject.env, subject.tasks[0]
    read = _clocks(type(env))
    if not read:
        return
    actions = walk(subject, task, FaultPlan())
    first = episode(env, task, FaultPlan(), actions)
    time.sleep(1.05 - time.time() % 1)
    if (second := episode(env, task, FaultPlan(), actions)) != first:
        yield found_error(
            f"the same task goes another way a second later, by the clock of {read}: {difference(first, second, env)}",
            "keep the time in self.state: sparring.envs.Clock stands still until it is told to go on",
        )
    elif "today" in read:
        yield found_warning(
            f"the environment asks what day it is ({read}): a record of today may not replay tomorrow",
            "keep the date in self.state: sparring.envs.Clock stands still until it is told to go on",
        )


_CLOCK = re.compile(r"\b(?:datetime|date|time|_time|dt)\.(now|today|utcnow|time|time_ns|localtime|gmtime|ctime)\(")


def _clocks(env: type) -> str:
    """`time.time() in kiosk.py, line 9`: the first clock that the classes of an environment read; empty: none."""
    for cls in env.__mro__:
        if cls.__module__.partition(".")[0] in ("builtins", "gymnasium") or cls.__name__ == "ToolEnv":
            continue
        with suppress(OSError, TypeError):  # made at run time
            lines, first = inspect.getsourcelines(cls)
            for number, line in enumerate(lines, first):
                if found := _CLOCK.search(line.partition("#")[0]):
                    return f"{found[0]}) in {Path(inspect.getfile(cls)).name}, line {number}"
    return ""


def snapshots(subject: Subject) -> Iterator[Finding]:
    """snapshot and restore in mid-episode, on random walks"""
    env, other = subject.env, subject.other
    if not env.copyable:
        return
    wheres = [("the same environment", env), ("the same environment", env)]
    wheres += [("another one", other)] if other is not None else []
    for plan in (FaultPlan(), FaultPlan(count=2)):
        for number, task in enumerate(subject.some(subject.tasks[:6], 3)):
            calls = walk(subject, task, plan)
            env.start(task, plan)
            middle = (len(calls) // 2, 0, 2 * len(calls) // 3)[number % 3]
            for call in calls[:middle]:
                env.act(call)
            frozen = env.snapshot()
            straight = follow(env, calls[middle:])
            came_to = verdict(env)
            for where, again in wheres:
                again.restore(frozen)
                turns = follow(again, calls[middle:])
                if turns != straight or verdict(again) != came_to:
                    parts = difference(straight, turns) if turns != straight else "another verdict"
                    yield found_error(
                        f"an episode that is restored in {where} goes another way: {parts}",
                        "keep the whole episode in self.state; what deepcopy cannot copy defines __deepcopy__ itself",
                    )
                    return


def beside(subject: Subject) -> Iterator[Finding]:
    """two episodes at the same time"""
    env, other = subject.env, subject.other
    for task in subject.some(subject.tasks[:4] if other is not None and env.copyable else ()):
        assert other is not None
        calls = walk(subject, task, FaultPlan())
        alone = episode(env, task, FaultPlan(), calls)
        env.start(task)
        other.start(task)
        turns: list[object] = []
        for call in calls:
            other.act(call)
            step = env.act(call)
            turns.append(comparable(step.turn))
            if step.stop is not None:
                break
        if [*turns, verdict(env)] != alone[1:]:
            yield found_error(
                f"two episodes at the same time disturb each other: {difference(alone[1:], [*turns, verdict(env)])}",
                "keep the episode in self.state: no class attributes, no globals, no file or table that all share",
            )
            return
