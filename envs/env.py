"""`ToolEnv`: a Gymnasium environment whose actions are assistant messages with tool calls.

An author writes `tasks`, `setup`, some `@tool` methods, `success`, and if possible `solve`; all else stands here.
`step` keeps Gymnasium's five values; `act` is the same with a named result, and is what rollouts use. Whatever else a
foreign suite of tasks needs of its wrapper is a hook: `offered`, `injected`, `after_call`, `reply`, `elapse`, `others`,
`verdict`, and a `Clock` that stands still.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import gymnasium
import orjson

from ..tools.definition import Tool, tools_of, toolset
from ..tools.faults import FaultState
from ..tools.plans import FaultPlan
from ..tools.toolbox import Toolbox, ToolboxState
from ..trajectories.errors import ConfigError, EnvError, UnknownName
from ..trajectories.messages import Action, Json, Message, Observation, ToolCall, ToolResult, ToolSpec
from ..trajectories.trajectory import StopReason, Task, Turn
from .rewards import Ended, RewardTerm
from .spaces import ActionSpace, ObservationSpace
from .task import Split, task_set

__all__ = ["NOTES", "Clock", "Snapshot", "Solution", "Step", "ToolEnv", "Verdict", "name_of"]

NOTES = ("reason", "others")
"""What `ToolEnv.notes` holds at most."""

_HOOKS = ("rotate_id", "distort")
_OPTIONS = ("task", "split", "faults")
_AMONG = 16
"""Tasks among which `reset` chooses by its seed."""

Solution = Generator[tuple[str, dict[str, Json]] | str, ToolResult, None]
"""What `solve` returns: it yields (tool, arguments) and is sent the result; a yielded string is the final message."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one action came to."""

    turn: Turn
    observation: Observation
    stop: StopReason | None
    """Why the episode ended; None while it goes on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verdict` makes of an episode."""

    success: bool
    reason: str = ""
    """Why, for whoever reads the record. The agent never sees it."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The reward by parts, once the episode has ended by itself; empty: what `reward` gives."""


@dataclass(slots=True)
class Clock:
    """A time that stands still until it is told to go on. Call it for the time. Keep it in `self.state`, so that a fork
    has its own."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> datetime:
        """Goes on by so many `days`, `hours`, `minutes`, `seconds`; the time then."""
        self.now += timedelta(**by)
        return self.now


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An episode frozen in the middle. Restoring it twice gives two independent episodes."""

    task: Task
    plan: FaultPlan
    world: Any
    toolbox: ToolboxState
    rng: Any
    turns: int
    answers: int
    stop: StopReason | None
    said: str
    history: tuple[Turn, ...]
    before: Any
    others: Mapping[str, ToolboxState] = field(default_factory=dict)
    other_calls: tuple[tuple[str, ToolCall, ToolResult], ...] = ()


class ToolEnv(gymnasium.Env[Observation, Action]):
    """Base class of all environments. Subclass it, then `register("mine/Name-v0", Name)`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]  # Gymnasium declares it per instance

    system: ClassVar[str] = ""
    """Standing instructions, in the system prompt next to the tools."""
    max_turns: int = 24
    """An episode is cut here. Rollouts may be asked to cut it earlier."""
    max_answers: int = 8
    """Times that the user answers at most; the agent's next message without calls ends the episode."""
    hint_level: ClassVar[int] = 3
    """How much an error tells the agent: 0 that it failed, 1 the code, 2 the cause, 3 the repair."""

    rewards: ClassVar[Mapping[str, RewardTerm]] = {}
    """Further parts of the reward by name, next to those of `reward`: see `sparring.envs.rewards`."""

    toolbox_settings: ClassVar[Mapping[str, Any]] = {}
    """Of the toolbox: validation, max_output, render, is_error, errors; see `sparring.tools.Toolbox`."""
    others: ClassVar[Mapping[str, Sequence[Tool]]] = {}
    """Tools of others who act in the same world, by who it is: see `act_as`. The agent never sees them."""

    blocking: bool = False
    """Whether a call may take long without computing: a tool, the user, a hook or the judge waits for a network, a
    process, a model. Rollouts then run the environment in a thread, next to generation. Async tools, tools with a
    deadline and `rewards` are known to wait."""
    copyable: bool = True
    """Whether a second instance has a world of its own. False where all instances reach the same one (a server, a
    folder, a database): rollouts then play one episode at a time, and no expert plays for `expert_turns`."""

    default_faults: ClassVar[FaultPlan] = FaultPlan()
    """The fault plan of episodes that rollouts start without one."""

    state: Any = None
    """The episode's world, set by `setup`. What `snapshot` copies."""

    # ---- what an author writes -------------------------------------------------------------------------------------

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        """Tasks of a split, finite or endless. Splits must not share tasks."""
        raise EnvError(f"{type(self).__name__} defines no tasks(self, split, rng)")

    def setup(self, task: Task, rng: random.Random) -> None:
        """Sets `self.state` up for `task`. Everything random comes from `rng`."""
        raise EnvError(f"{type(self).__name__} defines no setup(self, task, rng)")

    def success(self, task: Task) -> bool:
        """Whether the end state fulfils the task."""
        if self._has("verdict"):
            return self.verdict(self._ended(success=False)).success
        raise EnvError(f"{type(self).__name__} defines no success(self, task)")

    def verdict(self, ended: Ended) -> Verdict:
        """In place of `success` where that is not enough: from the world before and after, all calls and texts, to
        success, its reason, and the reward's parts. (`ended.success` is not known yet, and False.)"""
        return Verdict(bool(self.success(ended.task)))

    def solve(self, task: Task) -> Solution | None:
        """Optional: an expert that works from any state; see `sparring.envs.experts`."""
        return None

    def reply(self, task: Task, said: str) -> str | None:
        """The user's answer to a message without calls. None: the user has nothing to say, and the episode ends. What a
        simulated user remembers belongs in `self.state`."""
        return None

    def elapse(self) -> None:
        """What happens by itself after each of the agent's turns: the moves of others in the same world, say."""

    def after_call(self, call: ToolCall, result: ToolResult) -> None:
        """What happens after each of the agent's calls, when its result is settled. `self.cut(StopReason.TERMINATED)`
        ends the episode with this turn."""

    def offered(self) -> Iterable[Any]:
        """The tools on offer now, from `self.state`: names of this class's tools, or sources as `toolset` takes them.
        Asked after `setup`, each call, each turn and each `restore`. By default all tools of the class, always."""
        return tuple(self._own)

    def announce(self, came: Sequence[ToolSpec], went: Sequence[str]) -> str:
        """What the agent is told, in a message, when tools have come or gone since it last acted. "": nothing."""
        lines = [f"No longer there: {', '.join(went)}."] if went else []
        if came:
            lines += ["New tools:", *(orjson.dumps(spec.openai()).decode() for spec in came)]
        return "\n".join(lines)

    def injected(self) -> Mapping[str, Any]:
        """Values of the tools' `Injected` parameters by key, from `self.state`; asked at each call that needs some."""
        return {}

    def look(self, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        """Hook of the expert: a call that shows whether an earlier one, which timed out, took effect."""
        return None

    def reward(self, task: Task, success: bool) -> dict[str, float]:
        """The episode's reward as named parts; their sum is the reward."""
        return {"success": float(success)}

    def rotate_id(self, tool: str, arguments: dict[str, Json]) -> bool:
        """Hook of the fault stale_id: renames the record that a call refers to. False: this environment cannot."""
        return False

    def distort(self, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        """Hook of the fault silent_wrong_value: another record's data, which an attentive agent can tell from what it
        asked for. None: this environment cannot."""
        return None

    @property
    def hooks(self) -> frozenset[str]:
        """Which hooks of faults this environment has."""
        own = type(self)
        return frozenset(name for name in _HOOKS if getattr(own, name) is not getattr(ToolEnv, name))

    def copy_world(self, world: Any) -> Any:
        """A copy of `self.state`, independent of it. Override where `deepcopy` cannot (a database connection, say)."""
        return copy.deepcopy(world)

    # ---- the episode -----------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        cls: type = type(self)
        self._own = {t.name: t.bind(self) for t in tools_of(cls)}
        self._changing = self._has("offered")
        settings = {"hint_level": self.hint_level, "inject": lambda: self.injected(), **self.toolbox_settings}
        watched = self._changing or self._has("after_call")
        try:
            self.toolbox = Toolbox(
                tuple(self._own.values()), self, after_call=self._called if watched else None, **settings
            )
            self._others = {
                who: Toolbox([t.bind(self) for t in tools_of(_holder(tools))], self, **settings)
                for who, tools in self.others.items()
            }
        except TypeError as error:
            if isinstance(error, EnvError):
                raise
            raise EnvError(f"{cls.__name__}.toolbox_settings: {error}; see sparring.tools.Toolbox") from None
        self.observation_space = ObservationSpace()
        self.action_space = self._actions = ActionSpace(self.toolbox.specs)
        self._task: Task | None = None
        self._plan = FaultPlan()
        self._rng = random.Random(0)
        self._turns = self._answers = 0
        self._stop: StopReason | None = None
        self._results: tuple[ToolResult, ...] = ()
        self._history: list[Turn] = []
        self._before: Any = None
        self._verdict: tuple[bool, dict[str, float]] | None = None
        self._other_calls: list[tuple[str, ToolCall, ToolResult]] = []
        self.said = ""
        """The agent's final message, once it has handed over. Seen by `success`."""
        self.reason = ""
        """Why the episode was judged as it was, where `verdict` says so."""

    @property
    def task(self) -> Task:
        """The current task. Raises `ConfigError` before the first reset."""
        if self._task is None:
            raise ConfigError("the environment has no episode yet: call reset() first")
        return self._task

    @property
    def faults(self) -> FaultState | None:
        """The faults of this episode."""
        return self.toolbox.state.faults

    @property
    def faults_hit(self) -> tuple[str, ...]:
        """Kinds of the faults that have struck so far."""
        return tuple(self.faults.hit) if self.faults else ()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Chooses the task where `options` names none.
            options: `task` (a `Task`), `split` (default "train"), `faults` (a `FaultPlan` or its one-line form).

        Raises `UnknownName` for another option, `ConfigError` for a value that is none.
        """
        super().reset(seed=seed)
        options = options or {}
        for option in options:
            if option not in _OPTIONS:
                raise UnknownName("option of reset()", option, _OPTIONS)
        faults = options.get("faults")
        plan = FaultPlan.parse(faults) if isinstance(faults, str) else FaultPlan() if faults is None else faults
        if not isinstance(plan, FaultPlan):
            raise ConfigError(f"faults is a FaultPlan or its one-line form such as 'count=1', got {faults!r:.80}")
        task = options.get("task")
        if task is not None and not isinstance(task, Task):
            raise ConfigError(f"task is a sparring Task, got {task!r:.80}: task_set(env, 'train', 1)[0]")
        if task is None:
            number = int(self.np_random.integers(2**31)) if seed is None else seed
            some = task_set(self, options.get("split", "train"), _AMONG, seed=number)
            task = some[number % len(some)]  # the first of a split may always be an easy one
        return self.start(task, plan), {}

    def start(self, task: Task, plan: FaultPlan | None = None) -> Observation:
        """Starts an episode of `task`; the same task and plan always give the same world and the same faults."""
        self._task, self._plan = task, plan or FaultPlan()
        self._rng = random.Random(f"{task.seed}/{task.id}")
        self._turns, self._answers, self._stop, self._results, self.said = 0, 0, None, (), ""
        self._history, self._verdict, self.reason, self._other_calls = [], None, "", []
        for toolbox in (self.toolbox, *self._others.values()):
            toolbox.begin(None, episode=task.id)
        self.setup(task, self._rng)
        if self._changing:
            self.toolbox.begin(None, episode=task.id, tools=self._offered())
            self._actions.tools = self.toolbox.specs
        if str(self._plan):
            self.toolbox.state.faults = self._plan.begin(task, self.toolbox.tools, self)
        self._before = self.copy_world(self.state) if self._looks_back else None
        return Observation(self.prompt(task), self.toolbox.present)

    def prompt(self, task: Task) -> tuple[Message, ...]:
        """The first messages."""
        head = (Message("system", self.system),) if self.system else ()
        return (*head, Message("user", task.instruction))

    def act(self, action: Action) -> Step:
        """Executes one action. Calls run in order; a message without calls hands over to the user, whose answer goes on
        with the episode; without an answer it ends. Tools that came or went meanwhile are announced in a message."""
        if self._stop is not None or self._task is None:
            raise ConfigError("the episode is over, or has not begun: call reset() first")
        self._turns += 1
        executed = self.toolbox.execute_all(action.tool_calls)
        calls = tuple(call for call, _ in executed)
        results = self._results = tuple(result for _, result in executed)
        answer = None
        if not calls:
            self.said = action.content
            answer = self.reply(self._task, action.content) if self._answers < self.max_answers else None
            self._answers += answer is not None
        if self._stop is not None:
            pass  # a hook has ended it
        elif not calls and answer is None:
            self._stop = StopReason.FINISHED
        elif self._turns >= self.max_turns:
            self._stop = StopReason.TURN_LIMIT
        else:
            self.elapse()
        said = () if answer is None else (Message("user", answer),)
        if self._changing and self._stop is None:
            said = (*self._announced(), *said)
        messages = (*(Message("tool", r.content, tool_call_id=r.call_id, name=r.tool) for r in results), *said)
        turn = Turn(Action(action.content, calls), results, said)
        self._history.append(turn)
        if self._stop:
            turn = replace(turn, reward=sum(self.judge()[1].values()))
        return Step(turn, Observation(messages, self.toolbox.present), self._stop)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Gymnasium's form of `act`. `info` holds `success` at the end."""
        if isinstance(action, ToolCall):
            action = Action(tool_calls=(action,))
        if not isinstance(action, Action):
            raise ConfigError(f"an action is a sparring Action, got {type(action).__name__}: Action.call('tool', x=1)")
        step = self.act(action)
        info = {"success": self.judge()[0]} if step.stop else {}
        terminated = step.stop is not None and step.stop.terminated
        truncated = step.stop is not None and step.stop.truncated
        return step.observation, step.turn.reward, terminated, truncated, info

    def cut(self, reason: StopReason) -> StopReason:
        """Ends the episode from outside, at a limit say."""
        self._stop, self._verdict = reason, None
        return reason

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns of the episode so far."""
        return tuple(self._history)

    @property
    def last_result(self) -> ToolResult | None:
        """The result of the latest call; None after a message without calls."""
        return self._results[-1] if self._results else None

    def judge(self) -> tuple[bool, dict[str, float]]:
        """Success and the reward's parts, from the state as it is now. An episode that had to be cut is no success.
        One that is over is judged once: a term may ask a model."""
        if self._verdict is not None:
            return self._verdict
        if self._stop is not None and self._stop.truncated:
            verdict = Verdict(False, f"cut: {self._stop.value}")
        else:
            verdict = self.verdict(self._ended(success=False))
            if not self._possible:
                verdict = Verdict(self.stopped_honestly() and not verdict.success, "a fault made it impossible")
        success, self.reason = bool(verdict.success), verdict.reason
        parts = {name: float(part) for name, part in verdict.parts.items()} if self._stop is not None else {}
        parts = parts or self.reward(self.task, success)
        if self.rewards:
            ended = self._ended(success=success)
            parts |= {name: float(term(ended)) for name, term in self.rewards.items()}
        if self._stop is not None and self._looks_back:
            self._verdict = success, parts
        return success, parts

    def stopped_honestly(self) -> bool:
        """Whether the agent's last message says that the task could not be done."""
        return self.said.lower().lstrip().startswith(("cannot", "can't", "not possible", "impossible"))

    # ---- users, others, and what there is to note ------------------------------------------------------------------

    @property
    def answers(self) -> int:
        """How often the user has answered in this episode: the index of what a user who reads from a list says next."""
        return self._answers

    def act_as(self, who: str, tool: str, /, **arguments: Json) -> ToolResult:
        """A call by one of `others`, for `reply`, `elapse` and `after_call`. It runs as the agent's calls do (checked,
        failing with an outcome), but no fault strikes it; it is kept in `other_calls`. Raises `UnknownName`."""
        if who not in self._others:
            raise UnknownName("actor", who, self._others)
        call, result = self._others[who].execute(ToolCall(tool, arguments))
        self._other_calls.append((who, call, result))
        if self._changing:
            self.toolbox.offer(self._offered())
        return result

    @property
    def other_calls(self) -> tuple[tuple[str, ToolCall, ToolResult], ...]:
        """(who, call, result) of what others than the agent did in this episode, in order."""
        return tuple(self._other_calls)

    @property
    def notes(self) -> dict[str, Json]:
        """What a record of the episode keeps next to its turns: `reason` of the verdict, `others` who acted."""
        notes: dict[str, Json] = {"reason": self.reason} if self.reason else {}
        if self._other_calls:
            notes["others"] = [
                {
                    "who": who, "tool": call.name, "arguments": call.arguments, "outcome": result.outcome.value,
                    "content": result.content,
                }
                for who, call, result in self._other_calls
            ]  # fmt: skip
        return notes

    # ---- fork ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole episode, independent of what follows."""
        return Snapshot(
            self.task,
            self._plan,
            self.copy_world(self.state),
            self.toolbox.state.copy(),
            self._rng.getstate(),
            self._turns,
            self._answers,
            self._stop,
            self.said,
            tuple(self._history),
            self._before,
            {who: toolbox.state.copy() for who, toolbox in self._others.items()},
            tuple(self._other_calls),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`, which stays usable."""
        self._task, self._plan = snapshot.task, snapshot.plan
        self.state = self.copy_world(snapshot.world)
        self.toolbox.resume(snapshot.toolbox)
        for who, toolbox in self._others.items():
            toolbox.resume(snapshot.others[who])
        self._rng.setstate(snapshot.rng)
        self._turns, self._answers = snapshot.turns, snapshot.answers
        self._stop, self.said = snapshot.stop, snapshot.said
        self._history, self._before, self._verdict = list(snapshot.history), snapshot.before, None
        self._other_calls, self.reason = list(snapshot.other_calls), ""
        if self._changing:
            self.toolbox.offer(self._offered())
            self._actions.tools = self.toolbox.specs

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _has(self, hook: str) -> bool:
        """Whether a subclass defines the hook."""
        return getattr(type(self), hook) is not getattr(ToolEnv, hook)

    @property
    def _looks_back(self) -> bool:
        """Whether the verdict may need the world as it was at first, or may cost something."""
        return bool(self.rewards) or self._has("verdict")

    @property
    def _possible(self) -> bool:
        return self.faults is None or not self.faults.impossible

    def _ended(self, *, success: bool) -> Ended:
        turns = tuple(self._history)
        return Ended(self.task, success, self._before, self.state, turns, self.said, self._stop, self._possible)

    def _offered(self) -> tuple[Tool, ...]:
        """The tools on offer now."""
        found: list[Any] = []
        for source in self.offered():
            if isinstance(source, str) and source not in self._own:
                raise UnknownName(f"tool of {type(self).__name__}", source, self._own)
            found.append(self._own[source] if isinstance(source, str) else source)
        return tuple(toolset(*found))

    def _called(self, call: ToolCall, result: ToolResult) -> None:
        self.after_call(call, result)
        if self._changing:
            self.toolbox.offer(self._offered())

    def _announced(self) -> tuple[Message, ...]:
        """The message that tells of the tools that came or went, if any."""
        self.toolbox.offer(self._offered())
        came, went = self.toolbox.changes()
        text = self.announce(came, went) if came or went else ""
        return (Message("user", text),) if text else ()


def _holder(tools: Sequence[Tool]) -> type:
    """A class with these tools alone, which binds them as an environment's are."""
    return type("Others", (), {"tools": tuple(tools)})


def name_of(env: ToolEnv) -> str:
    """The id under which an environment was made, or its class name."""
    return str(getattr(env, "sparring_id", type(env).__name__))
