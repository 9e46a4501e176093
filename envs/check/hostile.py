"""Checks by calls that no good agent makes: made up, out of date, malformed, under every kind of fault.

A model in training makes all of them. What an environment's code raises then would end an episode days into a run.
"""

from __future__ import annotations

import copy
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ...tools.definition import Tool
from ...tools.faults import FAULTS
from ...tools.plans import FaultPlan
from ...tools.toolbox import NotJson
from ...trajectories.blame import is_users, place_of
from ...trajectories.messages import Action, Cause, Json, Outcome, ToolCall, ToolResult
from ...trajectories.trajectory import Task
from ..env import ToolEnv
from ..experts import play
from ..facets import Fact, KnobHooks, overridden
from ..hooks import at, files_of, must
from ..spaces import sample_json
from .episodes import difference, episode
from .findings import Finding, Subject, found_error, found_warning, raised
from .suites import hardly_meant, of_suite

__all__ = ["changed_task", "hooks", "hostile", "tool_bug"]

_EPISODES = 10
"""Of each kind of fault, and without one."""
_CALLS = 8
"""Of an episode at most."""
_ENOUGH_S = 6.0
"""After so long, one episode of each kind has to do: a slow world."""
_MOST = 6
"""Bugs that are told."""
_WORDS = ("", "?", "Done.", "Cannot do it.", "x" * 3000, "Näher, my \N{GRINNING FACE} {}")
_ODD: tuple[Json, ...] = (
    None, "", " ", "nobody", "x" * 5000, "\x00", "../..", "1; drop table x", -1, 0, 1, 2**53, 0.5, 1e15, True, [],
    ["nobody"], {}, {"nobody": None},
)  # fmt: skip
"""What a model's call may hold; a number beyond 64 bits or half an emoji never gets as far as a tool."""


def hostile(subject: Subject) -> Iterator[Finding]:
    """made-up, stale and malformed calls, clean and under each kind of fault"""
    env, until = subject.env, time.monotonic() + _ENOUGH_S
    known = _known(subject)
    kinds = [kind for kind, fault in FAULTS.items() if fault.fits(env.toolbox.tools, env._world)]
    told: set[str] = set()
    differs = False
    for plan in (FaultPlan(), *(FaultPlan(rates=((kind, 0.4),)) for kind in kinds)):
        for number in range(_EPISODES):
            if number and time.monotonic() > until:
                subject.on_progress("", True)
                break
            subject.on_progress(f"{plan or 'no fault'}, episode {number + 1} of {_EPISODES}", False)
            task = subject.tasks[number % len(subject.tasks)]
            body = copy.deepcopy(task)
            try:
                env.start(task, plan)  # its tools may be its own
                actions = _actions(env, task, known, random.Random(f"{plan}/{number}"))
                actions = [env.toolbox.shown_action(action) for action in actions]
                seen = _played(subject, task, plan, actions)
                yield from tool_bug(subject, seen)
                if task != body and not subject.moving:
                    subject.moving = True
                    yield changed_task(body, task)
                    return
                if not differs and (again := episode(env, task, plan, actions)) != seen:
                    differs, parts = True, difference(seen, again, env)
                    yield found_error(
                        f"the same calls do not come to the same thing twice{_under(plan)}: {parts}",
                        "draw from self.episode.rng alone, in hooks too: no clock, no global random, no order of a set",
                    )
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:
                found = raised(subject, error, (hostile.__doc__ or ""))
                if found.bug not in told and len(told) < _MOST:
                    told.add(found.bug)
                    yield found


def changed_task(before: Task, after: Task) -> Finding:
    """An agent whose calls change the task has changed what it is asked for."""
    return found_error(
        f"an episode changes its task: {str(before.data)[:80]} became {str(after.data)[:80]}",
        "copy what setup(task, rng) takes out of task.data: the same task is started again and again, and judged by it",
    )


def hooks(subject: Subject) -> Iterator[Finding]:
    """the hooks of knobs, and the way to look after a timeout"""
    env = subject.env
    own = overridden(env.knobs, KnobHooks, "facts", "spoil")
    for task in subject.tasks[:6]:
        env.start(task)
        if "facts" in own:
            facts: Any = env.knobs.facts(env, task)
            fits = isinstance(facts, list | tuple) and all(isinstance(fact, Fact) for fact in facts)
            must(fits, env.knobs.facts, "knobs.facts(env, task) gives", facts, "a list of Facts")
            for fact in () if "knobs" in task.data else facts:  # a knob has taken one out of the instruction
                if task.instruction.count(fact.text) != 1:
                    yield found_error(
                        f"knobs.facts(env, task) gives a fact that is not in the instruction once: {fact.text!r:.80}"
                        f"{at(env.knobs.facts)}",
                        "let its text be a part of task.instruction, word for word",
                    )
                    return
        if "spoil" in own:
            spoilt: Any = env.knobs.spoil(env, task, random.Random(0))
            fits = spoilt is None or isinstance(spoilt, Task)
            must(fits, env.knobs.spoil, "knobs.spoil(env, task, rng) gives", spoilt, "a Task, or None")


_NOT_JSON = f"{NotJson.__module__}.{NotJson.__qualname__}: "
"""How the traceback ends of a tool that has returned something else than JSON."""


def tool_bug(subject: Subject, seen: Sequence[object]) -> Iterator[Finding]:
    """What tools raised that is no `ToolError`, once a tool.

    Args:
        subject: What is checked, and which tools have been told of.
        seen: Of turns, what has to do with it; anything else is passed over.
    """
    for turn in seen:
        for call, result in zip(_calls_of(turn), getattr(turn, "results", ()), strict=False):
            name = subject.env.toolbox.true_name(result.tool)
            if result.outcome is Outcome.TOOL_ERROR and result.error and name not in subject.raising:
                last = result.error.strip().splitlines()[-1]
                if of_suite(subject.env):  # what it raises is what it says to the agent; some of it is hardly meant so
                    if hardly_meant(last) and result.cause is Cause.TOOL:
                        subject.raising.add(name)
                        yield found_warning(
                            f"the tool {name!r} raised {last[:200]} ({_place(subject, result)}) for "
                            f"{str(call.arguments)[:120]}",
                            "look whether the suite does so itself, or the wrapper is wrong: at=, injected, setup",
                        )
                    continue
                subject.raising.add(name)
                if last.startswith(_NOT_JSON):
                    yield found_error(
                        f"the tool {name!r} returned no JSON: {last.removeprefix(_NOT_JSON)[:200]} "
                        f"({_place(subject, result)})",
                        "return strings, numbers, booleans, None, and lists, dicts, dataclasses or models of these",
                        result.error,
                    )
                    continue
                yield found_error(
                    f"the tool {name!r} raised {last[:200]} ({_place(subject, result)}) for "
                    f"{str(call.arguments)[:120]}",
                    "raise a ToolError with a message for the agent (NotFound, Conflict, ...), for an unknown id, say",
                    result.error,
                )


def _calls_of(turn: object) -> tuple[ToolCall, ...]:
    action = getattr(turn, "action", None)
    return action.tool_calls if isinstance(action, Action) else ()


def _place(subject: Subject, result: ToolResult) -> str:
    """Where a tool raised, from the text that is kept of it: it may have run in another process."""
    lines = re.findall(r'^\s*File "(.+)", line (\d+), in (.+)$', result.error or "", re.MULTILINE)
    own = files_of(type(subject.env))
    for file, line, name in reversed(lines):
        if file in own or is_users(file):
            return f"{file.rsplit('/', 1)[-1]}, line {line}, in {name}"
    tool = subject.env.toolbox.tools.get(subject.env.toolbox.true_name(result.tool))
    return place_of(tool.fn) if tool is not None else "no line of yours"


def _under(plan: FaultPlan) -> str:
    return f" under the faults {plan}" if str(plan) else ""


def _played(subject: Subject, task: Task, plan: FaultPlan, actions: Sequence[Action]) -> list[object]:
    """An episode, judged and frozen at its end; as `episode` gives it."""
    seen = episode(subject.env, task, plan, actions)
    subject.env.episode.snapshot()
    return seen


def _known(subject: Subject) -> dict[str, list[dict[str, Json]]]:
    """Arguments by tool that are right for some task: the expert's."""
    known: dict[str, list[dict[str, Json]]] = {}
    for task in subject.tasks[:3] if subject.has_expert else ():
        with suppress(Exception):  # an expert that fails is another check's
            subject.env.start(task)
            play(subject.env)
            for turn in subject.env.episode.history[:40]:
                for call in turn.action.tool_calls:
                    known.setdefault(call.name, []).append(dict(call.arguments or {}))
    return known


def _actions(
    env: ToolEnv, task: Task, known: Mapping[str, Sequence[dict[str, Json]]], rng: random.Random
) -> list[Action]:
    """Up to `_CALLS` bad calls and a last message."""
    tools = list(env.toolbox.tools.values())
    often = rng.choice(tools)  # what comes of a second call shows in the same tool, as a rule
    many = rng.randint(1, _CALLS)
    calls = [_call(often if rng.random() < 0.5 else rng.choice(tools), known, rng) for _ in range(many)]
    if rng.random() < 0.2:
        return [Action("", tuple(calls)), Action("Done.")]
    said = [Action(word) for word in rng.sample(_WORDS, 2)]
    return [*(Action(tool_calls=(call,)) for call in calls), *said, *[Action("Done.")] * 12]


def _call(tool: Tool, known: Mapping[str, Sequence[dict[str, Json]]], rng: random.Random) -> ToolCall:
    drawn = rng.random()
    if drawn < 0.04:
        return ToolCall("no_such_tool", {"x": 1})
    if drawn < 0.08:
        return ToolCall(tool.name, None, raw="{", error="the JSON ends too early")
    made_up = sample_json(tool.spec.parameters, np.random.default_rng(rng.randrange(2**31)))
    arguments = dict(rng.choice(known[tool.name]) if tool.name in known and rng.random() < 0.6 else made_up)
    if drawn > 0.5 and arguments:  # right in form and in part, or not at all
        name = rng.choice(sorted(arguments))
        if rng.random() < 0.3:
            del arguments[name]
        else:
            arguments[name] = _like(arguments[name], rng)
    elif drawn > 0.45:
        arguments["no_such_parameter"] = rng.choice(_ODD)
    return ToolCall(tool.name, arguments)


def _like(value: Json, rng: random.Random) -> Json:
    """Another value, mostly of the same type: what a schema lets through."""
    same = [odd for odd in _ODD if type(odd) is type(value)]
    return rng.choice(same if same and rng.random() < 0.7 else _ODD)
