"""Checks of what is played once: nothing at all, random calls, the expert."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterator, Sequence

from ...tools.faults import FAULTS
from ...tools.plans import FaultPlan
from ...trajectories.messages import Outcome
from ...trajectories.trajectory import StopReason, Task, Turn
from ..env import Step, ToolEnv
from ..episode import Verdict
from ..experts import play
from ..hooks import at
from ..recorded import recorded_actions
from ..spaces import ActionSpace
from .episodes import verdict
from .findings import Finding, Subject, found_error, found_warning, share
from .hostile import changed_task, tool_bug
from .suites import not_meant, of_suite, offered, said

__all__ = ["expert", "nothing", "samples"]

_SAMPLES = 60
"""Random calls that are tried."""
_FEW_SAMPLES = 20
"""In a slow world."""
_OF_A_FAULT_S = 0.4
"""Of the expert's time. There are some twenty kinds."""


def nothing(subject: Subject) -> Iterator[Finding]:
    """success and reward of doing nothing, and of giving up"""
    solved, excused = [], []
    for task in subject.some(subject.tasks, len(subject.tasks)):  # all, however long: others rely on it
        body = copy.deepcopy(task)
        subject.env.start(task)
        before, again = verdict(subject.env), verdict(subject.env)
        if before != again:
            yield found_error(
                f"judged twice, an episode comes to {before} and then to {again}",
                "let success(task) and the reward terms look, and change nothing",
            )
            return
        if before[0]:
            subject.done.add(task.id)
        step = said(subject.env, "Done.")
        if before[0] or subject.env.judge()[0]:
            solved.append(task)
        yield from _reward(subject, step)
        subject.env.start(task)
        said(subject.env, "Cannot do it.")
        if subject.env.judge()[0] and task not in solved:
            excused.append(task)
        if task != body:
            subject.moving = True
            yield changed_task(body, task)
            return
    if of_suite(subject.env):
        solved, excused, unknown = not_meant(subject, solved, excused)
        if unknown:
            yield found_warning(
                f"{share(unknown, subject)} succeed when nothing is done",
                "if nothing is to be done there, record it: data['gold'] = []",
            )
    if solved:
        yield found_error(
            f"{share(solved, subject)} succeed when nothing is done",
            "let success(task) look at what the task asks to change, and let setup leave it undone",
        )
    if excused:
        yield found_error(
            f"{share(excused, subject)} succeed when the agent gives up at once",
            "where a task is impossible, let success(task) ask for a try: self.episode.tick > 1",
        )


def _reward(subject: Subject, step: Step) -> Iterator[Finding]:
    success, parts = subject.env.judge()
    found = subject.env.success(subject.env.episode.task)
    if not isinstance(found, (bool, Verdict)):
        yield found_warning(f"success(task) gives {found!r}", "return True or False, or a Verdict")
    wrong = [name for name, value in parts.items() if not isinstance(value, (int, float)) or not math.isfinite(value)]
    if wrong:
        yield found_error(
            f"the reward part {wrong[0]!r} is {parts[wrong[0]]!r}", "let the reward terms give finite numbers"
        )
        return
    total = sum(parts.values())
    if not math.isclose(total, step.turn.reward, abs_tol=1e-9):
        yield found_error(
            f"the reward's parts sum to {total:g}, and the episode was given {step.turn.reward:g}",
            "let the reward terms depend on the episode alone, and change nothing",
        )
    if not -1 <= total <= 1:
        yield found_warning(
            f"an episode's reward is {total:g}", "keep it between -1 and 1: learning rates are set for that"
        )
    if success and total <= 0:
        yield found_error(f"a success is rewarded with {total:g}", "reward success with more than 0")
    if not success and total >= 1:
        yield found_error(f"a failure is rewarded with {total:g}", "keep the full reward for success")


def samples(subject: Subject) -> Iterator[Finding]:
    """random calls that fit the schemas"""
    env = subject.env
    env.start(subject.tasks[0])
    space = ActionSpace(env.toolbox.present)
    space.seed(0)
    reported: set[tuple[str, Outcome]] = set()
    changing = bool(offered(subject))
    for index in subject.some(range(_SAMPLES * max(1, len(env.toolbox.tools) // 4)), _FEW_SAMPLES, "call"):
        if env.episode.stop is not None or (changing and index % 10 == 0):  # each task may have tools of its own
            env.start(subject.tasks[(index // 10 if changing else index) % len(subject.tasks)])
        space.tools = env.toolbox.present
        action = space.sample()
        if not action.tool_calls:
            continue
        step = env.act(action)
        result = step.turn.results[0]
        if result.fault is not None:
            continue  # an environment may bring faults of its own
        refused = result.outcome in (Outcome.INVALID_ARGUMENTS, Outcome.MALFORMED)
        tool = env.toolbox.true_name(result.tool)
        if refused and not of_suite(env) and _new(reported, tool, result.outcome):
            yield found_error(
                f"the tool {tool!r} refuses arguments that fit its schema: {result.content}",
                "let the type hints say all that is asked (Literal, Annotated[int, Field(ge=0)], ...)",
            )
        yield from tool_bug(subject, [step.turn])


def _new(reported: set[tuple[str, Outcome]], tool: str, outcome: Outcome) -> bool:
    known = (tool, outcome) in reported
    reported.add((tool, outcome))
    return not known


def expert(subject: Subject) -> Iterator[Finding]:
    """the expert, clean, from the middle of an episode, and under each kind of fault"""
    env = subject.env
    if not subject.has_expert:
        if all(recorded_actions(env, task) is None for task in subject.tasks):
            yield found_warning(
                f"{subject.name} has no expert", "define solve(self, task): gold traces and corrections come from it"
            )
        return
    clean = list(_solved(subject, FaultPlan(), 0.99, "clean", "let solve(task) reach what success(task) asks for"))
    yield from clean
    for kind in FAULTS if not clean else ():
        fix = f"{FAULTS[kind].recovers}; solve(task) is started again from the state as it then is"
        subject.begin(_OF_A_FAULT_S)
        yield from _solved(subject, FaultPlan((kind,), 1), 0.95, f"under the fault {kind}", fix)
    if clean:
        return
    subject.begin()
    resumed = [(task, _resumed(env, task)) for task in subject.some(subject.tasks, what="from the middle, task")]
    failed = [task for task, well in resumed if not well]
    if len(failed) > 0.05 * len(resumed):
        yield found_error(
            f"started again in mid-episode, the expert fails {share(failed, subject, len(resumed))}",
            "let solve(task) look at the state and skip what is already done",
        )


def _solved(subject: Subject, plan: FaultPlan, least: float, when: str, fix: str) -> Iterator[Finding]:
    failed: list[Task] = []
    cut = played = 0
    why = ""
    for task in subject.some(subject.tasks, what=f"{when}, task"):
        played += 1
        subject.env.start(task, plan)
        turns = play(subject.env)
        if not subject.env.judge()[0]:
            failed.append(task)
            cut += subject.env.episode.stop is StopReason.TURN_LIMIT
            why = why or _refused(subject.env, turns)
    if why and not str(plan):
        why, _, fix = why.partition("; ")
    elif failed and cut == len(failed) and not str(plan):
        fix = f"it needs more than max_turns = {subject.env.max_turns}: raise that, or let solve(task) end"
    if len(failed) > (1 - least) * played:
        yield Finding(
            "error" if not str(plan) else "warning",
            f"{when}, the expert fails {share(failed, subject, played)}" + (f": {why}" if why else ""),
            fix,
        )


def _refused(env: ToolEnv, turns: Sequence[Turn]) -> str:
    """The call by which the expert came to a stop, and the fix; empty where none was refused but by a fault."""
    results = [result for turn in turns for result in turn.results if not result.ok and result.fault is None]
    if not results:
        return ""
    result = next((r for r in results if r.outcome is Outcome.UNKNOWN_TOOL), results[-1])
    name = env.toolbox.true_name(result.tool)
    if result.outcome is Outcome.UNKNOWN_TOOL:
        names = sorted(env.toolbox.tools)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        fix = f"did you mean {near[0]!r}? The tools are {', '.join(names)}" if near else "put @tool above its method"
        return f"it calls {name!r}, which is no tool{at(env.solve)}; {fix}"
    told = (result.error or result.content).strip().splitlines()
    last = f": {told[-1][:200]}" if told else ""
    fix = f"look at the tool {name!r}" if result.error else "let solve(task) call it otherwise, or not at all"
    return f"its call of {name!r} ended in {result.outcome.value}{last.replace('; ', ', ')}{at(env.solve)}; {fix}"


def _resumed(env: ToolEnv, task: Task) -> bool:
    """Whether a second expert succeeds where a first one was stopped half-way."""
    env.start(task)
    calls = [turn.action for turn in play(env)]
    env.start(task)
    for call in calls[: len(calls) // 2]:
        env.act(call)
    play(env)
    return env.judge()[0]
