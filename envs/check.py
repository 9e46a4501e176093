"""`check_env`: what is wrong with an environment, and how to fix it.

A superset of Gymnasium's checker, which is run too. It plays some tasks with the environment's expert, with random
calls and with nothing, clean and under each kind of fault, next to each other and from snapshots: about a second for a
small environment. Defines `check_env` and `Finding`; each check is a generator below, and `CHECKS` is their list.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import orjson
from gymnasium.utils.env_checker import check_env as gymnasium_check

from ..tools.definition import Tool
from ..tools.faults import FAULTS
from ..tools.plans import FaultPlan
from ..tools.sets import tools_of
from ..trajectories.errors import DataError, EnvError
from ..trajectories.messages import Action, Observation, Outcome
from ..trajectories.trajectory import StopReason, Task, Turn
from .env import Step, ToolEnv, Verdict
from .experts import play
from .facets import FaultHooks, overridden
from .registry import make
from .spaces import ActionSpace
from .task import SPLITS, Split, task_set

__all__ = ["CHECKS", "Finding", "check_env", "check_names", "run_checks"]

HEADINGS = ("## Tools", "## Rewards", "## Episode End", "## Version History")
_SAMPLES = 60
"""Random calls that are tried."""
_WHILE = ", while checking: "
_LISTED = 200
"""Tasks of each split that are compared; `tasks` of them are played."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Literal["error", "warning"]
    """An error breaks training or makes its numbers false; a warning costs something, or may be meant."""
    what: str
    how_to_fix: str


@dataclass
class _Subject:
    """The environment under check, and what several checks need of it."""

    env: ToolEnv
    n: int
    listed: dict[Split, list[Task]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @cached_property
    def tasks(self) -> list[Task]:
        """`n` tasks, taken from the splits and their levels in turn."""
        by_level: dict[tuple[str, int], list[Task]] = {}
        for split, tasks in self.listed.items():
            for task in tasks:
                by_level.setdefault((split, task.level), []).append(task)
        longest = max(map(len, by_level.values()), default=0)
        rounds = [tasks[i] for i in range(longest) for tasks in by_level.values() if i < len(tasks)]
        return rounds[: self.n]

    @property
    def playable(self) -> bool:
        return bool(self.tasks and self.env.toolbox.tools)

    @cached_property
    def other(self) -> ToolEnv | None:
        """Another environment like it; None where the class cannot be made without options."""
        try:
            return type(self.env)()
        except TypeError:
            return None

    @property
    def has_expert(self) -> bool:
        return type(self.env).solve is not ToolEnv.solve


Check = Callable[[_Subject], Iterator[Finding]]


def check_env(env: str | ToolEnv | type[ToolEnv], *, tasks: int = 24) -> list[Finding]:
    """All findings, errors first; empty when all is well.

    Args:
        env: A registered name, `module:Class`, a class, or an environment. It is reset many times.
        tasks: How many tasks are played in each check.

    Raises `UnknownName` when there is no such environment. What an environment's own code raises becomes a finding.
    """
    findings = [finding for _, found in run_checks(env, tasks=tasks) for finding in found or ()]
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)  # stable: "error" < "warning"


def run_checks(env: str | ToolEnv | type[ToolEnv], *, tasks: int = 24) -> Iterator[tuple[str, list[Finding] | None]]:
    """The name of each check in turn (`check_names()`) and what it found. None: it was left out, because one that it
    relies on found an error. Arguments and errors are those of `check_env`."""
    first, *names = check_names()
    try:
        made = make(env) if isinstance(env, str) else env if isinstance(env, ToolEnv) else env()
    except EnvError as error:  # "what is wrong; how to fix it"
        what, _, fix = str(error).partition("; ")
        yield first, [_error(what, fix or "see the example in the README")]
        yield from ((name, None) for name in names)
        return
    yield first, []
    subject = _Subject(made, tasks)
    findings: list[Finding] = []
    broken: set[Check] = set()
    playable = True
    for name, check in zip(names, CHECKS, strict=True):
        if not playable or broken & set(_AFTER.get(check, ())):
            yield name, None
            continue
        found: list[Finding] = []
        try:
            found.extend(check(subject))
        except Exception as error:
            raised = _raised(subject, error, (check.__doc__ or "").splitlines()[0])
            begun = raised.what.partition(_WHILE)[0]
            if not any(finding.what.partition(_WHILE)[0] == begun for finding in findings):
                found.append(raised)
            broken.add(check)
        findings += found
        if any(finding.severity == "error" for finding in found):
            broken.add(check)
        yield name, found
        if check is _tasks and any(f.severity == "error" for f in findings):
            playable = subject.playable  # without tasks or tools there is no episode to look at


def check_names() -> tuple[str, ...]:
    """Of all checks, in their order; the first is that the environment can be made."""
    return ("make", *(check.__name__.lstrip("_") for check in CHECKS))


def _error(what: str, how_to_fix: str) -> Finding:
    return Finding("error", what, how_to_fix)


def _warning(what: str, how_to_fix: str) -> Finding:
    return Finding("warning", what, how_to_fix)


def _raised(subject: _Subject, error: Exception, during: str) -> Finding:
    """An exception of the author's code, with the line that raised it."""
    if isinstance(error, (EnvError, DataError)):
        what, _, fix = str(error).partition("; ")
        return _error(what, fix or "define it as in the README's example")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == inspect.getfile(type(subject.env))]
    last = (own or list(frames))[-1]
    place = f"{last.filename.rsplit('/', 1)[-1]}, line {last.lineno}, in {last.name}"
    return _error(
        f"{type(error).__name__}: {error} ({place}){_WHILE}{during}",
        "fix that line; an environment's own methods never raise, only its tools do, and those a ToolError",
    )


# ---- the checks ------------------------------------------------------------------------------------------------------


def _documentation(subject: _Subject) -> Iterator[Finding]:
    """the class's docstring"""
    doc = type(subject.env).__dict__.get("__doc__") or ""
    missing = [heading for heading in HEADINGS if heading not in doc]
    if missing:
        yield _warning(
            f"the docstring of {subject.name} lacks {', '.join(missing)}",
            "add these headings (see the Library example): users and the documentation look there",
        )


def _tools(subject: _Subject) -> Iterator[Finding]:
    """the tools"""
    owner: type = type(subject.env)
    tools = subject.env.toolbox.tools
    if not tools:
        yield _error(f"{subject.name} has no tools", "put @tool above the methods that the agent may call")
    for name in set(tools) - {tool.name for tool in tools_of(owner)}:
        yield _error(f"{name!r} is offered to the agent but is no @tool method", "decorate it, or do not offer it")
    for tool in tools.values():
        if tool.alternative and tool.alternative not in tools:
            yield _error(
                f"the tool {tool.name!r} names the alternative {tool.alternative!r}, which does not exist",
                f"name one of {', '.join(tools)}",
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", tool.name):
            yield _warning(
                f"the tool {tool.name!r} has a name that model providers refuse",
                "name it with at most 64 letters, digits, _ and -",
            )
        for parameter in tool.ids:
            if parameter not in tool.spec.parameters["properties"]:
                yield _error(
                    f"the tool {tool.name!r} lists the id {parameter!r}, which is none of its parameters",
                    f"list some of {', '.join(tool.spec.parameters['properties']) or 'none'}",
                )
    if any(tool.ids for tool in tools.values()) and not overridden(subject.env.fault_hooks, FaultHooks, "rotate_id"):
        yield _warning(
            "tools have ids=..., but no fault_hooks with rotate_id",
            "write fault_hooks = ... with a FaultHooks that has it, or the fault stale_id cannot strike",
        )
    if tools and not any(tool.effect for tool in tools.values()):
        yield _warning(
            "no tool changes the world", "say @tool(effect=True) where one does: timeouts and retries hang on it"
        )


def _helpers(subject: _Subject) -> Iterator[Finding]:
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
                yield _warning(
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


def _tasks(subject: _Subject) -> Iterator[Finding]:
    """the tasks and their splits"""
    told: set[str] = set()
    for finding in _splits(subject):  # what is wrong in one split is told once
        if finding.how_to_fix not in told:
            told.add(finding.how_to_fix)
            yield finding
    if not subject.listed:
        raise EnvError("no split has any task; let tasks(split, rng) give some")


def _splits(subject: _Subject) -> Iterator[Finding]:
    seen: dict[str, Split] = {}
    worded: dict[bytes, Split] = {}
    for split in SPLITS:
        try:
            tasks = task_set(subject.env, split, _LISTED)
        except DataError:
            yield _error(
                f"the split {split!r} has no tasks",
                f"let tasks({split!r}, rng) give some; each of {', '.join(SPLITS)} has to have its own",
            )
            continue
        subject.listed[split] = tasks
        if task_set(subject.env, split, _LISTED) != tasks:
            yield _error(
                f"tasks({split!r}, rng) gives other tasks for the same rng",
                "draw from rng alone: no global random, no clock, no order of a set",
            )
        for task in tasks:
            if orjson.loads(orjson.dumps(task.data, default=str, option=orjson.OPT_NON_STR_KEYS)) != task.data:
                yield _error(
                    f"a task's data is not the same after a way through JSON: {str(task.data)[:120]}",
                    "use dicts with string keys, lists (no tuples), strings, numbers, booleans and None",
                )
                break
        if any(task.level < 1 for task in tasks):
            yield _error("a task has a level below 1", "count levels from 1")
        for task in tasks:
            body = orjson.dumps([task.instruction, task.data], default=str, option=_SORTED)
            there, wording = seen.setdefault(task.id, split), worded.setdefault(body, split)
            fix = "split by what the task is about (a hash of it, or slices of one list), not by the random order"
            if there != split:
                yield _error(f"the splits {there!r} and {split!r} share a task: {task.instruction[:80]!r}", fix)
                break
            if wording != split:
                yield _warning(
                    f"tasks of {wording!r} and {split!r} differ in their seed alone: {task.instruction[:80]!r}",
                    f"if the seed does not make it another task, {fix}",
                )
                break
        yield from _same_id(subject, split)


def _same_id(subject: _Subject, split: Split) -> Iterator[Finding]:
    """Ids that the author chose, and that two tasks of a split share (a task set would drop the second)."""
    by_id: dict[str, Task] = {}
    for task in islice(subject.env.tasks(split, random.Random(0)), _LISTED):
        if by_id.setdefault(task.id, task) != task:
            yield _error(f"two tasks have the id {task.id!r}", "leave id empty: it is made from the content")
            return


def _gymnasium(subject: _Subject) -> Iterator[Finding]:
    """Gymnasium's own checker"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gymnasium_check(subject.env, skip_render_check=True)
        except Exception as error:
            yield _error(
                f"Gymnasium's checker: {type(error).__name__}: {error}", "see gymnasium.Env for what it expects"
            )
    for warning in caught:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(warning.message)).removeprefix("WARN: ")
        yield _warning(f"Gymnasium's checker: {text}", "see gymnasium.Env for what it expects")


def _spaces(subject: _Subject) -> Iterator[Finding]:
    """the spaces"""
    env = subject.env
    space = env.action_space
    observation = env.start(subject.tasks[0])
    if not isinstance(space, ActionSpace) or space.tools != env.toolbox.specs:
        yield _error(
            "the action space is not made of the tools on offer",
            "leave action_space as it is; tools that come and go are those of tool_rules.offered(env)",
        )
        return
    action, sampled = space.sample(), env.observation_space.sample()
    if action not in space or not isinstance(sampled, Observation) or observation not in env.observation_space:
        yield _error(
            "the spaces do not contain what they sample, or what start() gives",
            "leave action_space and observation_space as they are",
        )
    if not observation.messages or observation.messages[-1].role != "user" or not observation.messages[-1].content:
        yield _error(
            "an episode does not begin with a message of the user", "let prompt(task) end with one; give tasks a text"
        )


def _nothing(subject: _Subject) -> Iterator[Finding]:
    """success and reward of doing nothing, and of giving up"""
    solved, excused = [], []
    for task in subject.tasks:
        body = copy.deepcopy(task)
        subject.env.start(task)
        before, again = _verdict(subject.env), _verdict(subject.env)
        if before != again:
            yield _error(
                f"judged twice, an episode comes to {before} and then to {again}",
                "let success(task) and the reward terms look, and change nothing",
            )
            return
        step = subject.env.act(Action("Done."))
        if before[0] or subject.env.judge()[0]:
            solved.append(task)
        yield from _reward(subject, step)
        subject.env.start(task)
        subject.env.act(Action("Cannot do it."))
        if subject.env.judge()[0] and task not in solved:
            excused.append(task)
        if task != body:
            yield _error(
                f"an episode changes its task: {str(body.data)[:80]} became {str(task.data)[:80]}",
                "copy what setup(task, rng) takes out of task.data: the same task is started again and again",
            )
            return
    if solved:
        yield _error(
            f"{_share(solved, subject)} succeed when nothing is done",
            "let success(task) look at what the task asks to change, and let setup leave it undone",
        )
    if excused:
        yield _error(
            f"{_share(excused, subject)} succeed when the agent gives up at once",
            "where a task is impossible, let success(task) ask for a try: self.episode.tick > 1",
        )


def _reward(subject: _Subject, step: Step) -> Iterator[Finding]:
    success, parts = subject.env.judge()
    found = subject.env.success(subject.env.episode.task)
    if not isinstance(found, (bool, Verdict)):
        yield _warning(f"success(task) gives {found!r}", "return True or False, or a Verdict")
    wrong = [name for name, value in parts.items() if not isinstance(value, (int, float)) or not math.isfinite(value)]
    if wrong:
        yield _error(f"the reward part {wrong[0]!r} is {parts[wrong[0]]!r}", "let the reward terms give finite numbers")
        return
    total = sum(parts.values())
    if not math.isclose(total, step.turn.reward, abs_tol=1e-9):
        yield _error(
            f"the reward's parts sum to {total:g}, and the episode was given {step.turn.reward:g}",
            "let the reward terms depend on the episode alone, and change nothing",
        )
    if not -1 <= total <= 1:
        yield _warning(f"an episode's reward is {total:g}", "keep it between -1 and 1: learning rates are set for that")
    if success and total <= 0:
        yield _error(f"a success is rewarded with {total:g}", "reward success with more than 0")
    if not success and total >= 1:
        yield _error(f"a failure is rewarded with {total:g}", "keep the full reward for success")


def _determinism(subject: _Subject) -> Iterator[Finding]:
    """the same task twice, clean and under faults, and after another one"""
    env = subject.env
    before = random.getstate(), _numpy_state()
    for plan in (FaultPlan(), FaultPlan(count=2)):
        for index, task in enumerate(subject.tasks[:6]):
            actions = _walk(subject, task, plan)
            first, second = (_episode(env, task, plan, actions) for _ in range(2))
            if first != second:
                yield _error(
                    f"the same task does not go the same way twice: {_difference(first, second)}",
                    "set all up in setup(task, rng), from task and rng: no clock, no global random, no order of a set",
                )
                return
            between = subject.tasks[(index + 1) % len(subject.tasks)]
            _episode(env, between, FaultPlan(), actions)
            if (third := _episode(env, task, plan, actions)) != first:
                yield _error(
                    f"a task goes another way after another task: {_difference(first, third)}",
                    "set everything up anew in setup(task, rng): what an episode changes must not outlive it",
                )
                return
    if (random.getstate(), _numpy_state()) != before:
        yield _warning(
            "the environment draws from the global random generator, or seeds it",
            "draw from the rng that tasks and setup are given, and after that from self.episode.rng",
        )


def _snapshots(subject: _Subject) -> Iterator[Finding]:
    """snapshot and restore in mid-episode, on random walks"""
    env, other = subject.env, subject.other
    wheres = [("the same environment", env), ("the same environment", env)]
    wheres += [("another one", other)] if other is not None else []
    for plan in (FaultPlan(), FaultPlan(count=2)):
        for number, task in enumerate(subject.tasks[:6]):
            calls = _walk(subject, task, plan)
            env.start(task, plan)
            middle = (len(calls) // 2, 0, 2 * len(calls) // 3)[number % 3]
            for call in calls[:middle]:
                env.act(call)
            frozen = env.snapshot()
            straight = _follow(env, calls[middle:])
            verdict = _verdict(env)
            for where, again in wheres:
                again.restore(frozen)
                turns = _follow(again, calls[middle:])
                if turns != straight or _verdict(again) != verdict:
                    difference = _difference(straight, turns) if turns != straight else "another verdict"
                    yield _error(
                        f"an episode that is restored in {where} goes another way: {difference}",
                        "keep the whole episode in self.state; what deepcopy cannot copy defines __deepcopy__ itself",
                    )
                    return


def _beside(subject: _Subject) -> Iterator[Finding]:
    """two episodes at the same time"""
    env, other = subject.env, subject.other
    for task in subject.tasks[:4] if other is not None else ():
        assert other is not None
        calls = _walk(subject, task, FaultPlan())
        alone = _episode(env, task, FaultPlan(), calls)
        env.start(task)
        other.start(task)
        turns: list[object] = []
        for call in calls:
            other.act(call)
            step = env.act(call)
            turns.append(_comparable(step.turn))
            if step.stop is not None:
                break
        if [*turns, _verdict(env)] != alone[1:]:
            yield _error(
                f"two episodes at the same time disturb each other: {_difference(alone[1:], [*turns, _verdict(env)])}",
                "keep the episode in self.state: no class attributes, no globals, no file or table that all share",
            )
            return


def _samples(subject: _Subject) -> Iterator[Finding]:
    """random calls that fit the schemas"""
    env = subject.env
    env.action_space.seed(0)
    env.start(subject.tasks[0])
    reported: set[tuple[str, Outcome]] = set()
    for index in range(_SAMPLES * max(1, len(env.toolbox.tools) // 4)):
        if env.episode.stop is not None:
            env.start(subject.tasks[index % len(subject.tasks)])
        action = env.action_space.sample()
        if not action.tool_calls:
            return
        step = env.act(action)
        result = step.turn.results[0]
        if result.fault is not None:
            continue  # an environment may bring faults of its own
        if result.outcome in (Outcome.INVALID_ARGUMENTS, Outcome.MALFORMED) and _new(
            reported, result.tool, result.outcome
        ):
            yield _error(
                f"the tool {result.tool!r} refuses arguments that fit its schema: {result.content}",
                "let the type hints say all that is asked (Literal, Annotated[int, Field(ge=0)], ...)",
            )
        if result.outcome is Outcome.TOOL_ERROR and result.error and _new(reported, result.tool, result.outcome):
            last = result.error.strip().splitlines()[-1]
            yield _error(
                f"the tool {result.tool!r} raised {last[:200]} for {str(action.tool_calls[0].arguments)[:120]}",
                "raise a ToolError with a message for the agent (NotFound, Conflict, ...), for an unknown id, say",
            )


def _expert(subject: _Subject) -> Iterator[Finding]:
    """the expert, clean, from the middle of an episode, and under each kind of fault"""
    env = subject.env
    if not subject.has_expert:
        yield _warning(
            f"{subject.name} has no expert", "define solve(self, task): gold traces and corrections come from it"
        )
        return
    clean = list(_solved(subject, FaultPlan(), 0.99, "clean", "let solve(task) reach what success(task) asks for"))
    yield from clean
    for kind in FAULTS if not clean else ():
        fix = f"{FAULTS[kind].recovers}; solve(task) is started again from the state as it then is"
        yield from _solved(subject, FaultPlan((kind,), 1), 0.95, f"under the fault {kind}", fix)
    failed = [task for task in subject.tasks if not clean and not _resumed(env, task)]
    if len(failed) > 0.05 * len(subject.tasks):
        yield _error(
            f"started again in mid-episode, the expert fails {_share(failed, subject)}",
            "let solve(task) look at the state and skip what is already done",
        )


def _solved(subject: _Subject, plan: FaultPlan, least: float, when: str, fix: str) -> Iterator[Finding]:
    failed: list[Task] = []
    cut = 0
    for task in subject.tasks:
        subject.env.start(task, plan)
        play(subject.env)
        if not subject.env.judge()[0]:
            failed.append(task)
            cut += subject.env.episode.stop is StopReason.TURN_LIMIT
    if failed and cut == len(failed) and not str(plan):
        fix = f"it needs more than max_turns = {subject.env.max_turns}: raise that, or let solve(task) end"
    if len(failed) > (1 - least) * len(subject.tasks):
        yield Finding(
            "error" if not str(plan) else "warning",
            f"{when}, the expert fails {_share(failed, subject)}",
            fix,
        )


def _resumed(env: ToolEnv, task: Task) -> bool:
    """Whether a second expert succeeds where a first one was stopped half-way."""
    env.start(task)
    calls = [turn.action for turn in play(env)]
    env.start(task)
    for call in calls[: len(calls) // 2]:
        env.act(call)
    play(env)
    return env.judge()[0]


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _follow(env: ToolEnv, actions: Sequence[Action]) -> list[Turn]:
    """What the actions come to, up to the end of the episode."""
    turns: list[Turn] = []
    for action in actions:
        step = env.act(action)
        turns.append(_comparable(step.turn))
        if step.stop is not None:
            break
    return turns


def _comparable(turn: Turn) -> Turn:
    """NaN is not equal to itself; it is a finding of its own."""
    return turn if math.isfinite(turn.reward) else replace(turn, reward=0.0)


def _verdict(env: ToolEnv) -> tuple[bool, dict[str, str]]:
    success, parts = env.judge()
    return success, {name: repr(value) for name, value in parts.items()}


def _share(tasks: list[Task], subject: _Subject) -> str:
    return f"{len(tasks)} of {len(subject.tasks)} tasks (such as {tasks[0].instruction[:80]!r})"


def _new(reported: set[tuple[str, Outcome]], tool: str, outcome: Outcome) -> bool:
    known = (tool, outcome) in reported
    reported.add((tool, outcome))
    return not known


def _walk(subject: _Subject, task: Task, plan: FaultPlan) -> list[Action]:
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


def _episode(env: ToolEnv, task: Task, plan: FaultPlan, actions: Sequence[Action]) -> list[object]:
    """All that an agent who acts so sees and gets in one episode."""
    seen: list[object] = [env.start(task, plan)]
    return [*seen, *_follow(env, actions), _verdict(env)]


def _numpy_state() -> bytes:
    return repr(np.random.get_state()).encode()


def _difference(first: Sequence[object], second: Sequence[object]) -> str:
    """The first place where two episodes part."""
    for one, two in zip(first, second, strict=False):
        if one != two:
            return f"{_text(one)} and then {_text(two)}"
    return f"{len(first)} and then {len(second)} turns"


def _text(part: object) -> str:
    if isinstance(part, Turn) and part.results:
        return f"{part.results[0].tool} gave {part.results[0].content[:80]!r}"
    return repr(part)[:120]


_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS

CHECKS: tuple[Check, ...] = (
    _documentation, _tools, _helpers, _tasks, _spaces, _nothing, _determinism, _gymnasium, _snapshots, _beside,
    _samples, _expert,
)  # fmt: skip
"""In this order: each may rely on what those before it found in order."""

_AFTER: dict[Check, tuple[Check, ...]] = {
    _determinism: (_spaces,),
    _gymnasium: (_spaces, _determinism),
    _snapshots: (_spaces, _determinism),
    _beside: (_spaces, _determinism, _snapshots),
    _samples: (_spaces,),
    _expert: (_nothing,),
}
"""Left out where one of these has found an error: it would only find the same again."""
