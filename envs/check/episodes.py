"""Episodes that checks play: which actions, and what an agent sees of them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np

from ...tools.definition import Tool
from ...tools.plans import FaultPlan
from ...trajectories.messages import Action
from ...trajectories.trajectory import Task, Turn
from ..env import ToolEnv
from ..experts import play
from ..hooks import at
from .findings import Subject

__all__ = ["comparable", "difference", "episode", "follow", "numpy_state", "verdict", "walk"]


def follow(env: ToolEnv, actions: Sequence[Action]) -> list[Turn]:
    """What the actions come to, up to the end of the episode."""
    turns: list[Turn] = []
    for action in actions:
        step = env.act(action)
        turns.append(comparable(step.turn))
        if step.stop is not None:
            break
    return turns


def comparable(turn: Turn) -> Turn:
    """NaN is not equal to itself; it is a finding of its own."""
    return turn if math.isfinite(turn.reward) else replace(turn, reward=0.0)


def verdict(env: ToolEnv) -> tuple[bool, dict[str, str]]:
    success, parts = env.judge()
    return success, {name: repr(value) for name, value in parts.items()}


def walk(subject: Subject, task: Task, plan: FaultPlan) -> list[Action]:
    """Actions for one episode: what the expert does, in two of three tasks after a random walk through the tools, of
    which every second call has words that the agent has seen. Without an expert, the random walk alone."""
    env = subject.env
    rng = random.Random(f"walk/{task.id}")
    env.action_space.seed(task.seed % 2**31)
    length = (0 if subject.tasks.index(task) % 3 == 0 else 3) if subject.has_expert else 8
    env.start(task, plan)
    seen = [word.strip(".,:;?!'\"") for word in task.instruction.split()]
    actions: list[Action] = []
    for number in range(min(length, env.max_turns - 1)):
        action = env.action_space.sample()
        if not action.tool_calls:
            break
        if number % 2:
            call = action.tool_calls[0]
            familiar = {
                n: rng.choice(seen) if isinstance(v, str) and seen else v for n, v in (call.arguments or {}).items()
            }
            wanted = Action.call(call.name, **familiar)
            true = env.toolbox.true_action(wanted).tool_calls[0]
            if env.toolbox.tools[true.name].validator.is_valid(true.arguments):
                action = wanted
        step = env.act(action)
        actions.append(action)
        seen += [word for result in step.turn.results for word in re.findall(r"\w[\w@.-]*", result.content)]
        if step.stop is not None:
            return actions
    if subject.has_expert:
        actions += [turn.action for turn in play(env)]
    return actions


def episode(env: ToolEnv, task: Task, plan: FaultPlan, actions: Sequence[Action]) -> list[object]:
    """All that an agent who acts so sees and gets in one episode."""
    seen: list[object] = [env.start(task, plan)]
    return [*seen, *follow(env, actions), verdict(env)]


def numpy_state() -> bytes:
    return repr(np.random.get_state()).encode()


def difference(first: Sequence[object], second: Sequence[object], env: ToolEnv | None = None) -> str:
    """The first place where two episodes part; with the line of the tool, or of `setup`, where `env` is given."""
    for one, two in zip(first, second, strict=False):
        if one != two:
            line = "" if env is None else _line(env, one)
            return f"{_parted(one, two)}{line}"
    return f"{len(first)} and then {len(second)} turns"


def _parted(one: object, two: object, name: str = "") -> str:
    """`buy gave "bought" and then "none left"`, `reward 1.0 and then 0.0`: the smallest part in which they differ."""
    if isinstance(one, Turn) and isinstance(two, Turn):
        for result, other in zip(one.results, two.results, strict=False):
            if result.content != other.content:
                return f"{result.tool} gave {_cut(result.content, other.content)}"
    if type(one) is type(two):
        parts: list[tuple[str, object, object]] = []
        if is_dataclass(one):
            parts = [(field.name, getattr(one, field.name), getattr(two, field.name)) for field in fields(one)]
        elif isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
            parts = [(str(key), one[key], two[key]) for key in one]
        elif isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
            names = _VERDICT if len(one) == 2 and isinstance(one[0], bool) else [name] * len(one)
            parts = list(zip(names, one, two, strict=True))
        for part, a, b in parts:
            if a != b:
                return _parted(a, b, part)
    return f"{name} {_cut(one, two)}".strip()


_VERDICT = ("success", "reward")
_SHOWN = 80


def _cut(one: object, two: object) -> str:
    """Both as text, from shortly before where they differ."""
    a, b = (part if isinstance(part, str) else repr(part) for part in (one, two))
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    begin = same - _SHOWN // 2 if same > _SHOWN // 2 and max(len(a), len(b)) > _SHOWN else 0
    texts = [
        ("..." if begin else "") + t[begin : begin + _SHOWN] + ("..." if len(t) > begin + _SHOWN else "")
        for t in (a, b)
    ]
    shown = [repr(t) if isinstance(part, str) else t for t, part in zip(texts, (one, two), strict=True)]
    return f"{shown[0]} and then {shown[1]}"


def _line(env: ToolEnv, part: object) -> str:
    if isinstance(part, Turn) and part.results and (tool := _called(env, part)):
        return at(tool.fn)
    return at(env.success if isinstance(part, tuple) else env.setup)


def _called(env: ToolEnv, turn: Turn) -> Tool | None:
    return env.toolbox.tools.get(env.toolbox.true_name(turn.results[0].tool))
