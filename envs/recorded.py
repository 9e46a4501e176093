"""Recorded solutions: what `ToolEnv.gold` gives, as actions. They are played as they stand, by the agent "gold".

    [["find", {"city": "Oslo"}], {"name": "book", "arguments": {"id": 7}}, "Done."]     one turn of the user's
    [[["find", {"city": "Oslo"}]], [["book", {"id": 7}]]]                                  two turns

A call is (tool, arguments), an object with `name` and `arguments` (or `args`, `kwargs`; OpenAI's form too), a
`ToolCall` or an `Action`. A text is said to the user. A list of calls and texts is one turn of the user's; where it has
no text at its end, "Done." follows.

Defines `recorded_actions`, `play_recorded`, `changes_nothing`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from ..trajectories.errors import DataError
from ..trajectories.messages import Action, Json, ToolCall
from ..trajectories.trajectory import Task, Turn
from .env import ToolEnv

__all__ = ["DONE", "changes_nothing", "play_recorded", "recorded_actions"]

DONE = "Done."
"""What is said where the record has no text."""
_ARGUMENTS = ("arguments", "args", "kwargs", "parameters")


def recorded_actions(env: ToolEnv, task: Task) -> list[Action] | None:
    """The recorded solution of a task; None where there is none. Raises `DataError` for what is no call and no text."""
    gold = env.gold(task)
    if gold is None:
        return None
    items = [gold] if isinstance(gold, (str, Mapping)) else list(gold)
    actions = [action for item in items for action in _read(item, task)]
    return actions if actions and not actions[-1].tool_calls else [*actions, Action(DONE)]


def _read(item: Any, task: Task) -> list[Action]:
    """An item of the list as actions: one, or those of a user's turn."""
    if isinstance(item, (list, tuple)) and not _is_call(item):
        inner = [action for one in item for action in _read(one, task)]
        return inner if inner and not inner[-1].tool_calls else [*inner, Action(DONE)]
    if isinstance(item, Action):
        return [item]
    if isinstance(item, str):
        return [Action(item)]
    if isinstance(item, ToolCall):
        return [Action(tool_calls=(item,))]
    if _is_call(item):
        return [Action.call(item[0], **_arguments(item[1], task))]
    if isinstance(item, Mapping):
        held: Mapping[str, Any] = item["function"] if isinstance(item.get("function"), Mapping) else item
        name = held.get("name")
        found = [key for key in _ARGUMENTS if key in held]
        if isinstance(name, str) and len(found) <= 1:
            return [Action.call(name, **_arguments(held[found[0]] if found else {}, task))]
    raise DataError(
        f"the gold of the task {task.id} holds {item!r:.80}, which is no call and no text: a call is [tool, "
        'arguments], or {"name": ..., "arguments": {...}}'
    )


def _is_call(item: Any) -> bool:
    """(tool, arguments), and no turn of a text and a call."""
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        return False
    name, arguments = item
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return False
    return not (isinstance(arguments.get("name"), str) and any(key in arguments for key in _ARGUMENTS))


def _arguments(given: Any, task: Task) -> dict[str, Json]:
    if isinstance(given, str):  # OpenAI writes them as text
        try:
            given = json.loads(given)
        except ValueError as error:
            raise DataError(f"the gold of the task {task.id} has arguments that are no JSON: {error}") from None
    if not isinstance(given, Mapping):
        raise DataError(f"the gold of the task {task.id} has arguments that are no object: {given!r:.80}")
    return dict(given)


def play_recorded(env: ToolEnv, actions: Sequence[Action]) -> list[Turn]:
    """Plays recorded actions in the present episode, and says "Done." until it ends; the turns."""
    turns: list[Turn] = []
    for action in chain(actions, repeat(Action(DONE))):
        step = env.act(env.toolbox.shown_action(action))  # the record is in true names
        turns.append(step.turn)
        if step.stop is not None:
            break
    return turns


def changes_nothing(env: ToolEnv, actions: Iterable[Action]) -> bool:
    """Whether none of the recorded calls has an effect: then doing nothing may be right. Asked in an episode, for the
    tools that it has."""
    calls = [call.name for action in actions for call in action.tool_calls]
    known = env.toolbox.tools
    return not any(name not in known or known[name].effect for name in calls)
