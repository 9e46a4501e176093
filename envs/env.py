"""`ToolEnv`: a Gymnasium environment whose actions are assistant messages with tool calls.

An author writes `tasks`, `setup`, some `@tool` methods, `success`, and if possible `solve`; all else stands here.
`step` keeps Gymnasium's five values; `act` is the same with a named result, and is what rollouts use.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium

from ..tools.faults import FaultPlan, FaultState
from ..tools.tool import tools_of
from ..tools.toolbox import Toolbox, ToolboxState
from ..trajectories.errors import ConfigError, EnvError, UnknownName
from ..trajectories.messages import Action, Json, Message, Observation, ToolCall, ToolResult
from ..trajectories.trajectory import StopReason, Task, Turn
from .rewards import Ended, Term
from .spaces import ActionSpace, ObservationSpace
from .task import Split, task_set

__all__ = ["Snapshot", "Solution", "Step", "ToolEnv", "name_of"]

_HOOKS = ("rotate_id", "distort")
_OPTIONS = ("task", "split", "faults")

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


class ToolEnv(gymnasium.Env[Observation, Action]):
    """Base class of all environments. Subclass it, then `register("mine/Name-v0", Name)`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]  # Gymnasium declares it per instance

    system: ClassVar[str] = ""
    """Standing instructions, in the system prompt beside the tools."""
    max_turns: int = 24
    """An episode is cut here; rollouts may set it lower."""
    max_answers: int = 8
    """Times that the user answers at most; the agent's next message without calls ends the episode."""
    hint_level: ClassVar[int] = 3
    """How much an error tells the agent: 0 that it failed, 1 the code, 2 the cause, 3 the repair."""

    rewards: ClassVar[Mapping[str, Term]] = {}
    """Further parts of the reward by name, beside those of `reward`: see `sparring.envs.rewards`."""

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
        raise EnvError(f"{type(self).__name__} defines no success(self, task)")

    def solve(self, task: Task) -> Solution | None:
        """Optional: an expert that works from any state; see `sparring.envs.expert`."""
        return None

    def reply(self, task: Task, said: str) -> str | None:
        """The user's answer to a message without calls. None: the user has nothing to say, and the episode ends. What a
        simulated user remembers belongs in `self.state`."""
        return None

    def elapse(self) -> None:
        """What happens by itself after each of the agent's turns: the moves of others in the same world, say."""

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
        self.toolbox = Toolbox([t.bind(self) for t in tools_of(cls)], self, hint_level=self.hint_level)
        self.observation_space = ObservationSpace()
        self.action_space = ActionSpace(self.toolbox.specs)
        self._task: Task | None = None
        self._plan = FaultPlan()
        self._rng = random.Random(0)
        self._turns = self._answers = 0
        self._stop: StopReason | None = None
        self._results: tuple[ToolResult, ...] = ()
        self._history: list[Turn] = []
        self._before: Any = None
        self._verdict: tuple[bool, dict[str, float]] | None = None
        self.said = ""
        """The agent's final message, once it has handed over. Seen by `success`."""

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

        Raises `UnknownName` for another option.
        """
        super().reset(seed=seed)
        options = options or {}
        for option in options:
            if option not in _OPTIONS:
                raise UnknownName("option of reset()", option, _OPTIONS)
        faults = options.get("faults") or FaultPlan()
        plan = FaultPlan.parse(faults) if isinstance(faults, str) else faults
        task = options.get("task")
        if task is None:
            number = int(self.np_random.integers(2**31)) if seed is None else seed
            task = task_set(self, options.get("split", "train"), 1, seed=number)[0]
        return self.start(task, plan), {}

    def start(self, task: Task, plan: FaultPlan | None = None) -> Observation:
        """Starts an episode of `task`; the same task and plan always give the same world and the same faults."""
        self._task, self._plan = task, plan or FaultPlan()
        self._rng = random.Random(f"{task.seed}/{task.id}")
        self._turns, self._answers, self._stop, self._results, self.said = 0, 0, None, (), ""
        faults = self._plan.begin(task, self.toolbox.tools, self) if str(self._plan) else None
        self.toolbox.begin(faults, episode=task.id)
        self.setup(task, self._rng)
        self._history, self._verdict = [], None
        self._before = self.copy_world(self.state) if self.rewards else None
        return Observation(self.prompt(task), self.toolbox.specs)

    def prompt(self, task: Task) -> tuple[Message, ...]:
        """The first messages."""
        head = (Message("system", self.system),) if self.system else ()
        return (*head, Message("user", task.instruction))

    def act(self, action: Action) -> Step:
        """Executes one action. Calls run in order; a message without calls hands over to the user, whose answer goes on
        with the episode; without an answer it ends."""
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
        if not calls and answer is None:
            self._stop = StopReason.FINISHED
        elif self._turns >= self.max_turns:
            self._stop = StopReason.TURN_LIMIT
        else:
            self.elapse()
        user = () if answer is None else (Message("user", answer),)
        messages = (*(Message("tool", r.content, tool_call_id=r.call_id, name=r.tool) for r in results), *user)
        turn = Turn(Action(action.content, calls), results, user)
        self._history.append(turn)
        if self._stop:
            turn = replace(turn, reward=sum(self.judge()[1].values()))
        return Step(turn, Observation(messages, self.toolbox.specs), self._stop)

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
    def last_result(self) -> ToolResult | None:
        """The result of the latest call; None after a message without calls."""
        return self._results[-1] if self._results else None

    def judge(self) -> tuple[bool, dict[str, float]]:
        """Success and the reward's parts, from the state as it is now. An episode that had to be cut is no success.
        One that is over is judged once: a term may ask a model."""
        if self._verdict is not None:
            return self._verdict
        possible = self.faults is None or not self.faults.impossible
        if self._stop is not None and self._stop.truncated:
            success = False
        elif not possible:
            success = self.stopped_honestly() and not self.success(self.task)
        else:
            success = bool(self.success(self.task))
        parts = self.reward(self.task, success)
        if self.rewards:
            turns = tuple(self._history)
            ended = Ended(self.task, success, self._before, self.state, turns, self.said, self._stop, possible)
            parts |= {name: float(term(ended)) for name, term in self.rewards.items()}
        if self._stop is not None and self.rewards:
            self._verdict = success, parts
        return success, parts

    def stopped_honestly(self) -> bool:
        """Whether the agent's last message says that the task could not be done."""
        return self.said.lower().lstrip().startswith(("cannot", "can't", "not possible", "impossible"))

    # ---- fork ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole episode, independent of what follows."""
        return Snapshot(
            self.task, self._plan, self.copy_world(self.state), self.toolbox.state.copy(), self._rng.getstate(),
            self._turns, self._answers, self._stop, self.said, tuple(self._history), self._before,
        )  # fmt: skip

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`, which stays usable."""
        self._task, self._plan = snapshot.task, snapshot.plan
        self.state = self.copy_world(snapshot.world)
        self.toolbox.state = snapshot.toolbox.copy()
        self._rng.setstate(snapshot.rng)
        self._turns, self._answers = snapshot.turns, snapshot.answers
        self._stop, self.said = snapshot.stop, snapshot.said
        self._history, self._before, self._verdict = list(snapshot.history), snapshot.before, None


def name_of(env: ToolEnv) -> str:
    """The id under which an environment was made, or its class name."""
    return str(getattr(env, "sparring_id", type(env).__name__))
