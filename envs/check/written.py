"""Checks of what is written: the docstring, the tools, the tasks, the spaces."""

from __future__ import annotations

import inspect
import random
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import islice

import orjson
from gymnasium.utils.env_checker import check_env as gymnasium_check

from ...tools.definition import Tool
from ...tools.sets import tools_of
from ...trajectories.errors import EnvError
from ...trajectories.messages import Observation
from ...trajectories.trajectory import Task
from ..env import ToolEnv
from ..facets import FaultHooks, overridden
from ..spaces import ActionSpace
from ..task import SPLITS, NoTasks, Split, task_set
from ..user_turns import UserTurns
from .findings import Finding, Subject, found_error, found_warning
from .suites import of_suite, offered

__all__ = ["documentation", "gymnasium", "helpers", "spaces", "tasks", "tools"]

HEADINGS = ("## Tools", "## Rewards", "## Episode End", "## Version History")
_LISTED = 200
"""Tasks of each split that are compared; `tasks` of them are played."""
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


def documentation(subject: Subject) -> Iterator[Finding]:
    """the class's docstring"""
    if of_suite(subject.env):  # which has documents of its own
        return
    doc = type(subject.env).__dict__.get("__doc__") or ""
    missing = [heading for heading in HEADINGS if heading not in doc]
    if missing:
        yield found_warning(
            f"the docstring of {subject.name} lacks {', '.join(missing)}",
            "add these headings (see the Library example): users and the documentation look there",
        )


def tools(subject: Subject) -> Iterator[Finding]:
    """the tools"""
    owner: type = type(subject.env)
    own = dict(subject.env.toolbox.tools)
    coming = offered(subject)
    tools = own | coming
    if not tools:
        yield found_error(f"{subject.name} has no tools", "put @tool above the methods that the agent may call")
    for name in own.keys() - coming.keys() - {tool.name for tool in tools_of(owner)}:
        yield found_error(f"{name!r} is offered to the agent but is no @tool method", "decorate it, or do not offer it")
    for tool in tools.values():
        if tool.alternative and tool.alternative not in tools:
            yield found_error(
                f"the tool {tool.name!r} names the alternative {tool.alternative!r}, which does not exist",
                f"name one of {', '.join(tools)}",
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", tool.name):
            yield found_warning(
                f"the tool {tool.name!r} has a name that model providers refuse",
                "name it with at most 64 letters, digits, _ and -",
            )
        for parameter in tool.ids:
            if parameter not in tool.spec.parameters.get("properties", {}):
                yield found_error(
                    f"the tool {tool.name!r} lists the id {parameter!r}, which is none of its parameters",
                    f"list some of {', '.join(tool.spec.parameters.get('properties', ())) or 'none'}",
                )
    if any(tool.ids for tool in tools.values()) and not overridden(subject.env.fault_hooks, FaultHooks, "rotate_id"):
        yield found_warning(
            "tools have ids=..., but no fault_hooks with rotate_id",
            "write fault_hooks = ... with a FaultHooks that has it, or the fault stale_id cannot strike",
        )
    if tools and not any(tool.effect for tool in tools.values()):
        yield found_warning(
            "no tool changes the world", "say @tool(effect=True) where one does: timeouts and retries hang on it"
        )


def helpers(subject: Subject) -> Iterator[Finding]:
    """public methods that look like tools"""
    known = {tool.fn.__name__ for tool in subject.env.toolbox.tools.values()}
    for owner in type(subject.env).__mro__:
        if not issubclass(owner, ToolEnv) or owner is ToolEnv:
            continue
        for name, value in vars(owner).items():
            if name.startswith("_") or name in known or hasattr(ToolEnv, name) or not inspect.isfunction(value):
                continue
            base: type = owner
            if any(tool.fn is value for tool in tools_of(base)):
                continue  # one that a class below takes away
            if _looks_like_a_tool(value) and not _is_used(owner, name):
                yield found_warning(
                    f"the method {name!r} looks like a tool, and is none: it is public, typed, described, and nothing "
                    "in its file calls it",
                    f"put @tool above it if the agent is to call it, else name it _{name}",
                )


def _looks_like_a_tool(method: Callable[..., object]) -> bool:
    if {"task", "rng", "env"} & set(inspect.signature(method).parameters):
        return False  # what the framework calls, or a part of it
    try:
        Tool.from_function(method)
    except EnvError:
        return False
    return True


def _is_used(owner: type, name: str) -> bool:
    module = inspect.getmodule(owner)
    try:
        return module is None or re.search(rf"\.{name}\b", inspect.getsource(module)) is not None
    except (OSError, TypeError):  # made at run time: there is no source to look at
        return True


def tasks(subject: Subject) -> Iterator[Finding]:
    """the tasks and their splits"""
    told: set[str] = set()
    for finding in _splits(subject):  # what is wrong in one split is told once
        if finding.how_to_fix not in told:
            told.add(finding.how_to_fix)
            yield finding
    if not subject.listed:
        raise EnvError("no split has any task; let tasks(split, rng) give some")


def _splits(subject: Subject) -> Iterator[Finding]:
    seen: dict[str, Split] = {}
    worded: dict[bytes, Split] = {}
    for split in SPLITS:
        try:
            tasks = task_set(subject.env, split, _LISTED)
        except NoTasks:
            if of_suite(subject.env):  # which may be there to test alone
                continue
            yield found_error(
                f"the split {split!r} has no tasks",
                f"let tasks({split!r}, rng) give some; each of {', '.join(SPLITS)} has to have its own",
            )
            continue
        subject.listed[split] = tasks
        if task_set(subject.env, split, _LISTED) != tasks:
            yield found_error(
                f"tasks({split!r}, rng) gives other tasks for the same rng",
                "draw from rng alone: no global random, no clock, no order of a set",
            )
        for task in tasks:
            if orjson.loads(orjson.dumps(task.data, default=str, option=orjson.OPT_NON_STR_KEYS)) != task.data:
                yield found_error(
                    f"a task's data is not the same after a way through JSON: {str(task.data)[:120]}",
                    "use dicts with string keys, lists (no tuples), strings, numbers, booleans and None",
                )
                break
        if any(task.level < 1 for task in tasks):
            yield found_error("a task has a level below 1", "count levels from 1")
        for task in tasks:
            body = orjson.dumps([task.instruction, task.data], default=str, option=_SORTED)
            there, wording = seen.setdefault(task.id, split), worded.setdefault(body, split)
            fix = "split by what the task is about (a hash of it, or slices of one list), not by the random order"
            if there != split:
                yield found_error(f"the splits {there!r} and {split!r} share a task: {task.instruction[:80]!r}", fix)
                break
            if wording != split:
                yield found_warning(
                    f"tasks of {wording!r} and {split!r} differ in their seed alone: {task.instruction[:80]!r}",
                    f"if the seed does not make it another task, {fix}",
                )
                break
        yield from _same_id(subject, split)


def _same_id(subject: Subject, split: Split) -> Iterator[Finding]:
    """Ids that the author chose, and that two tasks of a split share (a task set would drop the second)."""
    by_id: dict[str, Task] = {}
    for task in islice(subject.env.tasks(split, random.Random(0)), _LISTED):
        if by_id.setdefault(task.id, task) != task:
            yield found_error(f"two tasks have the id {task.id!r}", "leave id empty: it is made from the content")
            return


def gymnasium(subject: Subject) -> Iterator[Finding]:
    """Gymnasium's own checker"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gymnasium_check(subject.env, skip_render_check=True)
        except Exception as error:
            yield found_error(
                f"Gymnasium's checker: {type(error).__name__}: {error}", "see gymnasium.Env for what it expects"
            )
    for warning in caught:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(warning.message)).removeprefix("WARN: ")
        yield found_warning(f"Gymnasium's checker: {text}", "see gymnasium.Env for what it expects")


def spaces(subject: Subject) -> Iterator[Finding]:
    """the spaces"""
    env = subject.env
    space = env.action_space
    observation = env.start(subject.tasks[0])
    if not isinstance(space, ActionSpace) or space.tools != env.toolbox.specs:
        yield found_error(
            "the action space is not made of the tools on offer",
            "leave action_space as it is; tools that come and go are those of tool_rules.offered(env)",
        )
        return
    action, sampled = space.sample(), env.observation_space.sample()
    if action not in space or not isinstance(sampled, Observation) or observation not in env.observation_space:
        yield found_error(
            "the spaces do not contain what they sample, or what start() gives",
            "leave action_space and observation_space as they are",
        )
    if not observation.messages or observation.messages[-1].role != "user" or not observation.messages[-1].content:
        yield found_error(
            "an episode does not begin with a message of the user", "let prompt(task) end with one; give tasks a text"
        )
    if isinstance(env.user, UserTurns):
        first = env.user.turns(env)[0].text
        if not any(first in message.content for message in env.prompt(subject.tasks[0])):
            yield found_error(
                f"the user's first turn is none of the first messages: {first[:80]!r}",
                "give UserTurns all turns: the first is what the episode begins with, and is not said again",
            )
