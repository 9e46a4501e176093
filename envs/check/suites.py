"""What checks ask of a foreign suite (`fidelity="suite"`), of tools that come and go, and of recorded gold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...tools.definition import Tool
from ...trajectories.errors import DataError
from ...trajectories.messages import Action
from ...trajectories.trajectory import StopReason, Task, Turn
from ..env import Step, ToolEnv
from ..facets import ToolRules, User, overridden
from ..recorded import changes_nothing, play_recorded, recorded_actions
from ..task import SPLITS, task_set
from .findings import Finding, Subject, found_error, share

__all__ = ["hardly_meant", "not_meant", "of_suite", "offered", "recorded", "said"]

_BUGS = ("AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "UnboundLocalError", "TypeError")


def of_suite(env: ToolEnv) -> bool:
    """Whether it keeps a foreign suite's rules."""
    return env.tool_rules.fidelity == "suite"


def hardly_meant(last: str) -> bool:
    """Whether an exception (the last line of its traceback) is hardly one that a suite raises to tell the agent."""
    return last.partition(":")[0] in _BUGS


def offered(subject: Subject) -> dict[str, Tool]:
    """The tools that tasks begin with, where they are not always those of the class."""
    env, found = subject.env, dict[str, Tool]()
    if not overridden(env.tool_rules, ToolRules, "offered") and not overridden(env.user, User, "tools"):
        return found
    for split in SPLITS:
        try:
            tasks = task_set(env, split, subject.n)
        except DataError:  # told of where tasks are looked at
            continue
        for task in tasks:
            env.start(task)
            found |= {spec.name: env.toolbox.tools[spec.name] for spec in env.toolbox.state.first}
    return found


def said(env: ToolEnv, text: str) -> Step:
    """The last step of an episode in which nothing else is said."""
    step = env.act(Action(text))
    while step.stop is None:
        step = env.act(Action(text))
    return step


def not_meant(subject: Subject, solved: list[Task], excused: list[Task]) -> tuple[list[Task], list[Task], list[Task]]:
    """Of a suite's tasks that succeed when nothing is done, and when the agent gives up: those where its own gold acts.
    And those where it has none, as long as not all succeed."""
    judged = {id(task): _idle(subject.env, task) for task in (*solved, *excused)}
    unknown = [task for task in (*solved, *excused) if judged[id(task)] is None]
    if len(solved) == len(subject.tasks):
        return [t for t in solved if not judged[id(t)]], excused, []
    return [t for t in solved if judged[id(t)] is False], [t for t in excused if judged[id(t)] is False], unknown


def _idle(env: ToolEnv, task: Task) -> bool | None:
    """Whether doing nothing is right by the task's own gold. None: it has none. Leaves a new episode of the task."""
    actions = recorded_actions(env, task)
    if actions is None:
        return None
    env.start(task)
    return changes_nothing(env, actions)


def recorded(subject: Subject) -> Iterator[Finding]:
    """the recorded gold"""
    failed: list[Task] = []
    why = ""
    for task in subject.tasks:
        actions = recorded_actions(subject.env, task)
        if actions is None:
            continue
        subject.env.start(task)
        turns = play_recorded(subject.env, actions)
        if not subject.env.judge()[0]:
            failed.append(task)
            why = why or _why(subject.env, turns)
    if failed:
        yield found_error(
            f"the recorded gold fails {share(failed, subject)}: {why}",
            "let tools, setup and success(task) do as the suite does; where its gold is wrong, leave the task out",
        )


def _why(env: ToolEnv, turns: Sequence[Turn]) -> str:
    if env.episode.stop is StopReason.TURN_LIMIT:
        return f"cut at max_turns = {env.max_turns}"
    results = [result for turn in turns for result in turn.results if not result.ok]
    call = f"; {results[0].tool} ended in {results[0].outcome.value}: {results[0].content[:120]}" if results else ""
    return f"{env.episode.reason or 'its verdict is a failure'}{call}"
