"""Checks of an episode's world: whether it is its own, is set up anew, and is changed by tools that say so."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...tools.definition import Tool
from ...tools.plans import FaultPlan
from ...trajectories.messages import Action, Json, ToolCall
from ..copies import SHARED
from ..env import ToolEnv
from ..facets import Others, ToolRules, overridden
from ..hooks import at
from .episodes import comparable, difference, follow, verdict, walk
from .findings import Finding, Subject, found_error, found_warning

__all__ = ["apart", "reads"]

_ANEW = "set everything up anew in setup(task, rng): what an episode changes must not outlive it"
_LOOKS = 6
"""Calls that look at a world."""


def apart(subject: Subject) -> Iterator[Finding]:
    """what the expert has done in one instance, looked at from another"""
    env, other = subject.env, subject.other
    for index, task in enumerate(subject.some(subject.tasks[:4] if other is not None else ())):
        assert other is not None
        actions = [*walk(subject, task, FaultPlan()), Action("Done.")]
        looks = _looks(env, actions)
        between = subject.tasks[(index + 1) % len(subject.tasks)]
        env.start(task)
        if verdict(env)[0] and task.id not in subject.done:  # it was not when nobody had played yet
            yield found_error(
                f"what one episode has done is still there in the next{at(env.setup)}: the task "
                f"{task.instruction[:80]!r} has been played, and is done as it begins",
                _ANEW,
            )
            return
        untouched = _seen(env, looks)
        env.start(task)
        other.start(task)
        follow(other, actions)
        if env.copyable:
            here = _seen(env, looks)
            if here != untouched:
                yield found_error(
                    f"{SHARED.partition(';')[0]}{at(type(env))}: an episode was played in one, and in the other "
                    f"{difference(untouched, here)}",
                    "keep the episode in self.state; where the world is outside of it (a server, a folder, a database, "
                    "a global), set copyable = False in the class: nobody plays next to the agent then",
                )
                return
            env.start(task)
            other.start(between)
            here = _seen(env, looks)
            if here != untouched:
                yield found_error(
                    f"an episode that begins in one instance changes the world of another{at(type(env))}: "
                    f"{difference(untouched, here)}",
                    "keep the episode in self.state, or set copyable = False in the class",
                )
                return
        env.start(task)
        after = _seen(env, looks)
        if after != untouched:
            yield found_error(
                f"what one episode has done is still there in the next{at(env.setup)}: {difference(untouched, after)}",
                _ANEW,
            )
            return


def _looks(env: ToolEnv, actions: Sequence[Action]) -> list[Action]:
    """Calls of tools that only read: as they are among `actions`, and those that take nothing."""
    reading = _reading(env)
    looks: dict[str, Action] = {}
    for action in actions:
        for call in action.tool_calls:
            if env.toolbox.true_name(call.name) in reading and call.arguments is not None:
                looks.setdefault(str(call), Action(tool_calls=(ToolCall(call.name, call.arguments),)))
    for tool in reading.values():
        if not tool.spec.parameters.get("required"):
            looks.setdefault(tool.name, env.toolbox.shown_action(Action.call(tool.name)))
    return list(looks.values())[: min(_LOOKS, max(0, env.max_turns - 2))]


def _reading(env: ToolEnv) -> Mapping[str, Tool]:
    return {name: tool for name, tool in env.toolbox.tools.items() if not (tool.effect or tool.logs_in or tool.waits)}


def _seen(env: ToolEnv, looks: list[Action]) -> list[object]:
    """What there is to see of the running episode."""
    seen: list[object] = [verdict(env)]
    for look in looks:
        if env.episode.stop is not None:
            break
        seen.append(comparable(env.act(look).turn))
    return seen


def reads(subject: Subject) -> Iterator[Finding]:
    """tools that say that they only read"""
    env = subject.env
    moves = overridden(env.others, Others, "elapse") | overridden(env.tool_rules, ToolRules, "after_call")
    if moves or not any(tool.effect for tool in env.toolbox.tools.values()):
        return
    told: set[str] = set()
    for task in subject.some(subject.tasks[:4]):
        for look in _looks(env, walk(subject, task, FaultPlan())):
            env.start(task)
            name = env.toolbox.true_name(look.tool_calls[0].name)
            before = _picture(env.state)
            env.act(look)
            if name not in told and (where := _changed(before, _picture(env.state), "self.state")):
                told.add(name)
                yield found_warning(
                    f"the tool {name!r} changes {where}, and says that it only reads{at(env.toolbox.tools[name].fn)}",
                    "write @tool(effect=True): timeouts, retries and what the expert does about them hang on it",
                )


def _picture(value: Any, depth: int = 0) -> Any:
    """A world as plain data that can be compared; what cannot be looked into is its type's name."""
    if depth > 12:
        return type(value).__name__
    if isinstance(value, Mapping):
        return {str(key): _picture(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_picture(part, depth + 1) for part in value]
    if isinstance(value, set | frozenset):
        return dict(Counter(repr(_picture(part, depth + 1)) for part in value))
    if value is None or isinstance(value, str | bytes | int | float):
        return value if value == value else "nan"
    if isinstance(value, random.Random):
        return hash(value.getstate())
    inside: dict[str, Json] = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        names = getattr(cls, "__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(value, name):
                inside[name] = getattr(value, name)
    shown = {name: part for name, part in inside.items() if not name.startswith("_")}  # the rest is how it is made
    return {"": type(value).__name__, **{name: _picture(part, depth + 1) for name, part in shown.items()}}


def _changed(before: Any, after: Any, name: str) -> str:
    """The first part in which two pictures differ; empty where they are equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            if key not in before or key not in after:
                return f"{name}[{key!r}]"
            if found := _changed(before[key], after[key], f"{name}[{key!r}]"):
                return found
        return ""
    return "" if type(before) is type(after) and before == after else name
