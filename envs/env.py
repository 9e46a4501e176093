"""`ToolEnv`: a Gymnasium environment whose actions are assistant messages with tool calls.

An author writes `tasks`, `setup`, some `@tool` methods, `success`, and if possible `solve`; the rest is here. The
episode that runs is an object (`self.episode`), and what only some environments have is one too: a user who answers,
others who act, hooks of faults, rules for tools, knobs (see `facets`). So nearly every name is free for a tool.

`step` keeps Gymnasium's five values; `act` is the same with a named result, and is what rollouts use.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import gymnasium

from ..tools.definition import Tool
from ..tools.disguise import DrawnDisguise
from ..tools.plans import FaultPlan
from ..tools.sets import is_tool, tools_of, toolset
from ..tools.toolbox import Toolbox
from ..trajectories.errors import ConfigError, EnvError, UnknownName
from ..trajectories.giving_up import says_it_cannot
from ..trajectories.messages import Action, Json, Message, Observation, ToolCall, ToolResult
from ..trajectories.trajectory import StopReason, Task, Turn
from .episode import Episode, Host, Snapshot
from .facets import FaultHooks, KnobHooks, Others, ToolRules, User, overridden
from .rewards import RewardTerm
from .spaces import ActionSpace, ObservationSpace
from .task import Split, task_set

__all__ = ["Clock", "Solution", "Step", "ToolEnv", "Verdict", "name_of"]

_OPTIONS = ("task", "split", "faults")
_AMONG = 16
"""Tasks among which `reset` chooses by its seed."""
_FACETS: dict[str, type] = {
    "user": User, "others": Others, "fault_hooks": FaultHooks, "tool_rules": ToolRules, "knobs": KnobHooks,
    "default_faults": FaultPlan,
}  # fmt: skip
"""Of what class each facet is."""

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
    """What `success` makes of an episode, where true or false is not enough."""

    success: bool
    reason: str = ""
    """Why, for whoever reads the record. The agent never sees it."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The reward by parts, once the episode has ended by itself; empty: {"success": 1.0 or 0.0}."""


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


class ToolEnv(gymnasium.Env[Observation, Action]):
    """Base class of all environments. Subclass it, then `register("mine/Name-v0", Name)`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]  # Gymnasium declares it per instance

    system: ClassVar[str] = ""
    """Standing instructions, in the system prompt next to the tools."""
    max_turns: int = 24
    """An episode is cut here. Rollouts may be asked to cut it earlier."""
    blocking: ClassVar[bool] = False
    """Whether a call may take long without computing: a tool, the user, a hook or the judge waits for a network, a
    process, a model. Rollouts then run the environment in a thread, next to generation. Async tools, tools with a
    deadline and `reward_terms` are known to wait."""
    copyable: ClassVar[bool] = True
    """Whether a second instance has a world of its own. False where all instances reach the same one (a server, a
    folder, a database): rollouts then play one episode at a time, and no expert plays for `expert_turns`."""
    keeps_before: ClassVar[bool] = False
    """The world as `setup` left it is kept for `success`: see `Episode.ended`. Reward terms always have it."""
    default_faults: FaultPlan = FaultPlan()
    """The fault plan of episodes that rollouts start without one."""

    user: User = User()
    """Who answers messages. By default nobody: a message without calls ends the episode."""
    others: Others = Others()
    """Who else acts in the same world."""
    fault_hooks: FaultHooks = FaultHooks()
    """What lets more kinds of fault strike."""
    tool_rules: ToolRules = ToolRules()
    """How tools are offered and run."""
    knobs: KnobHooks = KnobHooks()
    """What suits harder versions."""
    reward_terms: Mapping[str, RewardTerm] = {}
    """Parts of the reward by name, next to "success" (or in its place, under that name): see `envs.rewards`."""

    state: Any = None
    """The episode's world, set by `setup`. Forks copy it with `deepcopy`; what that cannot copy (a connection, say) is
    of a class that defines `__deepcopy__`."""
    toolbox: Toolbox
    """The tools, and where their calls are run."""

    _own: dict[str, Tool]
    _world: _World
    _host: Host
    _changing: bool
    _actions: ActionSpace
    _episode: Episode | None

    # ---- what an author writes ---------------------------------------------------------------------------------------

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        """Tasks of a split, finite or endless. Splits must not share tasks."""
        raise EnvError(f"{type(self).__name__} defines no tasks(self, split, rng)")

    def setup(self, task: Task, rng: random.Random) -> None:
        """Sets `self.state` up for `task`. Everything random comes from `rng`."""
        raise EnvError(f"{type(self).__name__} defines no setup(self, task, rng)")

    def success(self, task: Task) -> bool | Verdict:
        """Whether the end state fulfils the task. Where that is not enough a `Verdict`, from `self.episode.ended()`:
        the world before and after, all calls and texts."""
        raise EnvError(f"{type(self).__name__} defines no success(self, task)")

    def solve(self, task: Task) -> Solution | None:
        """Optional: an expert that works from any state; see `sparring.envs.experts`."""
        return None

    def prompt(self, task: Task) -> tuple[Message, ...]:
        """The first messages: by default `system` and the task's instruction."""
        head = (Message("system", self.system),) if self.system else ()
        return (*head, Message("user", task.instruction))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own: type = cls
        taken = {*dir(ToolEnv), *ToolEnv.__annotations__, "observation_space", "action_space"}
        for base in (base for base in own.__mro__ if base not in ToolEnv.__mro__):
            for name, value in vars(base).items():
                if name in taken and is_tool(value):
                    names = ", ".join(sorted(n for n in taken if not n.startswith("_")))
                    raise EnvError(
                        f"{cls.__name__}.{name} cannot be a tool: every environment has that name; call the method "
                        f"otherwise, the agent can still see {name!r}: @tool(name={name!r}). Taken are {names}"
                    )
        for name, kind in _FACETS.items():
            if not isinstance(facet := getattr(cls, name), kind):
                raise EnvError(
                    f"{cls.__name__}.{name} is an object of the class {kind.__name__}, got {facet!r:.80}; "
                    f"see sparring.envs.facets"
                )

    # ---- the episode -------------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        cls: type = type(self)
        rules = self.tool_rules
        self._own = {t.name: t.bind(self) for t in tools_of(cls)}
        self._world = _World(self)
        self._changing = bool(overridden(rules, ToolRules, "offered"))
        watched = self._changing or bool(overridden(rules, ToolRules, "after_call"))
        self.toolbox = self._box(tuple(self._own.values()), self._called if watched else None)
        others = {
            who: self._box([t.bind(self) for t in tools_of(_holder(tools))]) for who, tools in self.others.tools.items()
        }
        self._host = Host(
            cls.__name__,
            self.toolbox,
            others,
            state=lambda: self.state,
            acted=self._offer,
            keeps_before=lambda: bool(self.keeps_before or self.reward_terms),
        )
        self.observation_space = ObservationSpace()
        self.action_space = self._actions = ActionSpace(self.toolbox.specs)
        self._episode = None

    @property
    def episode(self) -> Episode:
        """The episode that runs, or was last. Raises `ConfigError` before the first reset."""
        if self._episode is None:
            raise ConfigError("the environment has no episode yet: call reset() first")
        return self._episode

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
        episode = self._episode = Episode(self._host, task, plan or FaultPlan())
        for toolbox in (self.toolbox, *self._host.others.values()):
            toolbox.begin(None, episode=task.id)
        self.setup(task, episode.rng)
        if self._changing:
            self.toolbox.begin(None, episode=task.id, tools=self._offered())
        if str(episode.plan):
            self.toolbox.state.faults = episode.plan.begin(task, self.toolbox.tools, self._world)
        if self._host.keeps_before():
            episode.before = copy.deepcopy(self.state)
        prompt = self.prompt(task)
        if (disguise := self._disguise(task)) is not None:
            self.toolbox.wear(disguise, prompt)
        self._actions.tools = self.toolbox.specs
        return Observation(self.toolbox.shown_messages(prompt), self.toolbox.present)

    def act(self, action: Action) -> Step:
        """Executes one action. Calls run in order; a message without calls hands over to the user, whose answer goes on
        with the episode; without an answer it ends. Tools that came or went meanwhile are announced in a message."""
        episode = self._episode
        if episode is None or episode.stop is not None:
            raise ConfigError("the episode is over, or has not begun: call reset() first")
        episode.tick += 1
        toolbox, seen = self.toolbox, action
        action = toolbox.true_action(seen)
        executed = toolbox.run(action.tool_calls)
        calls = tuple(call for call, _ in executed)
        results = episode.results = tuple(result for _, result in executed)
        answer = None
        if not calls:
            episode.said = action.content
            answer = self.user.reply(self, action.content) if episode.answers < self.user.max_answers else None
            episode.answers += answer is not None
        if episode.stop is not None:
            pass  # a tool or a facet has ended it
        elif not calls and answer is None:
            episode.stop = StopReason.DECLINED if says_it_cannot(action.content) else StopReason.FINISHED
        elif episode.tick >= self.max_turns:
            episode.stop = StopReason.TURN_LIMIT
        else:
            self.others.elapse(self)
        said = () if answer is None else (Message("user", answer),)
        told: tuple[Message, ...] = ()
        if self._changing and episode.stop is None:
            news, told = self._announced()
            said = (*news, *said)
        turn = Turn(Action(action.content, calls), results, said)
        episode.add(turn)
        turn = toolbox.shown_turn(turn, seen, told)
        if episode.stop:
            turn = replace(turn, reward=sum(self.judge()[1].values()))
        return Step(turn, Observation(turn.observation, toolbox.present), episode.stop)

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

    def judge(self) -> tuple[bool, dict[str, float]]:
        """Success and the reward's parts, from the state as it is now. An episode that had to be cut is no success.
        One that is over is judged once where that may cost something: a term may ask a model."""
        episode = self.episode
        if episode.judged is not None:
            return episode.judged
        if episode.stop is not None and episode.stop.truncated:
            found: bool | Verdict = Verdict(False, f"cut: {episode.stop.value}")
        else:
            found = self.success(episode.task)
            if not episode.possible:
                done = found.success if isinstance(found, Verdict) else found
                found = Verdict(episode.declined and not done, "a fault made it impossible")
        parts: dict[str, float] = {}
        if isinstance(found, Verdict):
            success, episode.reason = bool(found.success), found.reason
            if episode.stop is not None:
                parts = {name: float(part) for name, part in found.parts.items()}
        else:
            success, episode.reason = bool(found), ""
        parts = parts or {"success": float(success)}
        if self.reward_terms:
            ended = replace(episode.ended(), success=success)
            parts |= {name: float(term(ended)) for name, term in self.reward_terms.items()}
        if episode.stop is not None and (self.reward_terms or isinstance(found, Verdict)):
            episode.judged = success, parts
        return success, parts

    # ---- fork --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole episode, independent of what follows."""
        return self.episode.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`, which stays usable."""
        self.state = copy.deepcopy(snapshot.world)
        self._episode = Episode.resumed(self._host, snapshot)
        if self._changing:
            self.toolbox.offer(self._offered())
        self._actions.tools = self.toolbox.specs

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _box(self, tools: Sequence[Tool], after_call: Any = None) -> Toolbox:
        rules = self.tool_rules
        return Toolbox(
            tools,
            self._world,
            hint_level=rules.hint_level,
            validation=rules.validation,
            max_output=rules.max_output,
            render=rules.render,
            is_error=rules.is_error,
            errors=rules.errors,
            inject=lambda: rules.injected(self),
            after_call=after_call,
        )

    def _disguise(self, task: Task) -> DrawnDisguise | None:
        """What the agent's names are drawn from; None: it sees the true ones. A knob gives it."""
        return None

    def _offered(self) -> tuple[Tool, ...]:
        """The tools on offer now."""
        found: list[Any] = []
        for source in self.tool_rules.offered(self):
            if isinstance(source, str) and source not in self._own:
                raise UnknownName(f"tool of {type(self).__name__}", source, self._own)
            found.append(self._own[source] if isinstance(source, str) else source)
        return tuple(toolset(*found))

    def _offer(self) -> None:
        if self._changing:
            self.toolbox.offer(self._offered())

    def _called(self, call: ToolCall, result: ToolResult) -> None:
        self.tool_rules.after_call(self, call, result)
        self._offer()

    def _announced(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """The message that tells of the tools that came or went, if any: in true names, and as the agent sees it."""
        self.toolbox.offer(self._offered())
        came, went = self.toolbox.changes()
        text = self.tool_rules.announce(self, came, went) if came or went else ""
        news = (Message("user", text),) if text else ()
        disguise = self.toolbox.state.disguise
        if disguise is None or not text:
            return news, news
        shown, lost = tuple(map(disguise.shown_spec, came)), tuple(disguise.tools[name] for name in went)
        return news, (Message("user", self.tool_rules.announce(self, shown, lost)),)


class _World:
    """The environment as faults see it."""

    def __init__(self, env: ToolEnv) -> None:
        self._env = env

    @property
    def hooks(self) -> frozenset[str]:
        return overridden(self._env.fault_hooks, FaultHooks, "rotate_id", "distort")

    def rotate_id(self, tool: str, arguments: dict[str, Json]) -> bool:
        return self._env.fault_hooks.rotate_id(self._env, tool, arguments)

    def distort(self, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        return self._env.fault_hooks.distort(self._env, tool, arguments, value)


def _holder(tools: Sequence[Tool]) -> type:
    """A class with these tools alone, which binds them as an environment's are."""
    return type("Others", (), {"tools": tuple(tools)})


def name_of(env: ToolEnv) -> str:
    """The id under which an environment was made, or its class name."""
    return str(getattr(env, "sparring_id", type(env).__name__))
