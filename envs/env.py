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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

import gymnasium
import orjson

from ..tools.definition import Tool
from ..tools.disguise import DrawnDisguise
from ..tools.plans import FaultPlan
from ..tools.sets import bound, is_tool, tools_of, toolset
from ..tools.toolbox import Toolbox
from ..trajectories.blame import place_of
from ..trajectories.errors import ConfigError, EnvError, UnknownName
from ..trajectories.giving_up import says_it_cannot
from ..trajectories.messages import Action, Json, Message, Observation, ToolCall, ToolResult
from ..trajectories.trajectory import StopReason, Task, Turn
from .episode import Episode, Host, Snapshot, Verdict
from .facets import FaultHooks, KnobHooks, Others, ToolRules, User, overridden
from .hooks import copied, must, number, parts, run, truth
from .rewards import RewardTerm
from .spaces import ActionSpace, ObservationSpace
from .task import SPLITS, NoTasks, Split, task_set

__all__ = ["Clock", "Solution", "Step", "ToolEnv", "name_of"]

_OPTIONS = ("task", "split", "faults")
_AMONG = 16
"""Tasks among which `reset` chooses by its seed."""
_FACETS: dict[str, type] = {
    "user": User, "others": Others, "fault_hooks": FaultHooks, "tool_rules": ToolRules, "knobs": KnobHooks,
}  # fmt: skip
"""Of what class each facet is."""

_playing: WeakKeyDictionary[type, ref[ToolEnv]] = WeakKeyDictionary()
"""Which instance plays, of classes whose instances share one world."""

Solution = Generator[tuple[str, dict[str, Json]] | str, ToolResult, None]
"""What `solve` returns: it yields (tool, arguments) and is sent the result; a yielded string is the final message."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one action came to."""

    turn: Turn
    observation: Observation
    stop: StopReason | None
    """Why the episode ended; None while it goes on."""


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
    folder, a database): rollouts then play one episode at a time, no expert plays for `expert_turns`, nothing is
    restored, and an instance whose world another one has taken over refuses to go on."""
    keeps_before: ClassVar[bool] = False
    """The world as `setup` left it is kept for `success`: see `Episode.ended`. Reward terms always have it."""

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
        the world before and after, all calls and texts. By default what the user's checks come to: see `UserTurns`."""
        verdict = self.user.verdict(self)
        if verdict is None:
            raise EnvError(f"{type(self).__name__} defines no success(self, task)")
        return verdict

    def solve(self, task: Task) -> Solution | None:
        """Optional: an expert that works from any state; see `sparring.envs.experts`."""
        return None

    def gold(self, task: Task) -> Iterable[Any] | None:
        """The recorded solution of a task, as the agent "gold" plays it: (tool, arguments) and texts in order; a list
        of these for each of the user's turns. It looks at no result, so no fault is survived: `solve` is another
        thing. By default `task.data["gold"]`, where that is a list. None: nothing is recorded. See
        `sparring.envs.recorded`."""
        gold = task.data.get("gold")
        return gold if isinstance(gold, list) else None

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
        most = cls.max_turns
        if not isinstance(most, property) and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise EnvError(f"{cls.__name__}.max_turns is a whole number of 1 or more, got {most!r:.80}")
        for name, kind in _FACETS.items():
            if not isinstance(facet := getattr(cls, name), kind):
                raise EnvError(
                    f"{cls.__name__}.{name} is an object of the class {kind.__name__}, got {facet!r:.80}; "
                    f"see sparring.envs.facets"
                )
        if not isinstance(plan := cls.fault_hooks.default_plan, FaultPlan):
            raise EnvError(
                f"{cls.__name__}.fault_hooks.default_plan is an object of the class FaultPlan, got {plan!r:.80}; write "
                "FaultPlan.parse('count=1')"
            )
        if isinstance(given := vars(cls).get("fidelity"), str):
            raise EnvError(
                f"{cls.__name__}.fidelity is a setting of the tools; write tool_rules = ToolRules(fidelity={given!r})"
            )

    # ---- the episode -------------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        cls: type = type(self)
        rules = self.tool_rules
        self._own = {t.name: t.bind(self) for t in tools_of(cls)}
        self._world = _World(self)
        self._changing = bool(overridden(rules, ToolRules, "offered") or overridden(self.user, User, "tools"))
        watched = self._changing or bool(overridden(rules, ToolRules, "after_call"))
        self.toolbox = self._box(tuple(self._own.values()), self._called if watched else None)
        others = {
            who: self._box([t.bind(self) for t in tools_of(_holder(tools))]) for who, tools in self.others.tools.items()
        }
        self._host = Host(
            cls.__name__,
            self.toolbox,
            frozenset(self._own),
            others,
            state=lambda: self.state,
            copy=lambda: copied(self.state, self.setup, f"{cls.__name__}.state"),
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
            options: `task` (a `Task`), `split` (default "train"; of a foreign suite the first that has tasks), `faults`
                (a `FaultPlan` or its one-line form).

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
            some = self._some(options.get("split"), number)
            task = some[number % len(some)]  # the first of a split may always be an easy one
        return self.start(task, plan), {}

    def start(self, task: Task, plan: FaultPlan | None = None) -> Observation:
        """Starts an episode of `task`; the same task and plan always give the same world and the same faults."""
        if not self.copyable:
            _playing[type(self)] = ref(self)
        episode = self._episode = Episode(self._host, task, plan or FaultPlan())
        for toolbox in (self.toolbox, *self._host.others.values()):
            toolbox.begin(None, episode=task.id)
        run(self.setup, f"{type(self).__name__}.setup(task, rng) gives", task, episode.rng)
        if self._changing:
            self.toolbox.begin(None, episode=task.id, tools=self._offered())
        if str(episode.plan):
            self.toolbox.state.faults = episode.plan.begin(task, self.toolbox.tools, self._world)
        if self._host.keeps_before():
            episode.before = self._host.copy()
        prompt = _prompted(self, task)
        if (disguise := self._disguise(task)) is not None:
            self.toolbox.wear(disguise, prompt)
        self._actions.tools = self.toolbox.specs
        episode.prompt = self.toolbox.shown_messages(prompt)
        return Observation(episode.prompt, self.toolbox.present)

    def act(self, action: Action) -> Step:
        """Executes one action. Calls run in order; a message without calls hands over to the user, whose answer goes on
        with the episode; without an answer it ends. Tools that came or went meanwhile are announced in a message."""
        episode = self._episode
        if episode is None or episode.stop is not None:
            raise ConfigError("the episode is over, or has not begun: call reset() first")
        if not self.copyable and _playing[type(self)]() is not self:
            raise ConfigError(
                f"another instance of {name_of(self)} has begun an episode since, in the world that all share "
                "(copyable = False): play one episode at a time"
            )
        if not isinstance(action, Action):
            raise ConfigError(f"an action is a sparring Action, got {type(action).__name__}: Action.call('tool', x=1)")
        episode.tick += 1
        toolbox, seen = self.toolbox, action
        action = toolbox.true_action(seen)
        executed = toolbox.run(action.tool_calls)
        calls = tuple(call for call, _ in executed)
        results = episode.results = tuple(result for _, result in executed)
        answer = None
        if not calls:
            episode.said = action.content
            answer = _answered(self, action.content) if episode.answers < self.user.max_answers else None
            episode.answers += answer is not None
        if episode.stop is not None:
            pass  # a tool or a facet has ended it
        elif not calls and answer is None:
            episode.stop = StopReason.DECLINED if says_it_cannot(action.content) else StopReason.FINISHED
        elif episode.tick >= self.max_turns:
            episode.stop = StopReason.TURN_LIMIT
        else:
            run(self.others.elapse, "others.elapse(env) gives", self)
        said: tuple[Message, ...] = () if answer is None else (Message("user", answer),)
        told: tuple[Message, ...] = ()
        if self._changing and episode.stop is None:
            news, told = self._announced()
            said = (*news, *said) if answer or not news else news
        turn = Turn(Action(action.content, calls, action.thinking), results, said)
        episode.add(turn)
        turn = toolbox.shown_turn(turn, seen, told)
        if episode.stop:
            turn = replace(turn, reward=sum(self.judge()[1].values()))
        return Step(turn, Observation(turn.observation, toolbox.present), episode.stop)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Gymnasium's form of `act`. `info` holds `success` at the end."""
        if isinstance(action, ToolCall):
            action = Action(tool_calls=(action,))
        step = self.act(action)
        info = {"success": self.judge()[0]} if step.stop else {}
        terminated = step.stop is not None and step.stop.terminated
        truncated = step.stop is not None and step.stop.truncated
        return step.observation, step.turn.reward, terminated, truncated, info

    def judge(self) -> tuple[bool, dict[str, float]]:
        """Success and the reward's parts, from the state as it is now. An episode that had to be cut is no success.
        One that is over is judged once: there is one verdict, and a judge may ask a model."""
        episode = self.episode
        if episode.judged is not None:
            return episode.judged
        if episode.stop is not None and episode.stop.truncated:
            found: bool | Verdict = Verdict(False, f"cut: {episode.stop.value}")
        else:
            found = _judged(self, episode.task)
            if not episode.possible:
                done = found.success if isinstance(found, Verdict) else found
                found = Verdict(episode.declined and not done, "a fault made it impossible")
        earned: dict[str, float] = {}
        if isinstance(found, Verdict):
            success, episode.reason = found.success, found.reason
            if episode.stop is not None:
                earned = dict(found.parts)
        else:
            success, episode.reason = found, ""
        earned = earned or {"success": float(success)}
        if self.reward_terms:
            ended = replace(episode.ended(), success=success)
            for name, term in self.reward_terms.items():
                earned[name] = number(term(ended), term, f"the reward part {name!r} is")
        if episode.stop is not None:
            episode.judged = success, earned
        return success, earned

    # ---- fork --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole episode, independent of what follows."""
        return self.episode.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`, which stays usable. Raises `ConfigError` where the world cannot be copied."""
        if not self.copyable:
            raise ConfigError(
                f"{name_of(self)} says that its world cannot be copied (copyable = False): an episode begins at its "
                "task's start there, and not at a snapshot"
            )
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
            fidelity=rules.fidelity,
            hint_level=rules.hint_level,
            validation=rules.validation,
            max_output=rules.max_output,
            render=rules.render,
            wording=rules.wording,
            is_error=rules.is_error,
            errors=rules.errors,
            inject=lambda: _injected(self),
            after_call=after_call,
        )

    def _disguise(self, task: Task) -> DrawnDisguise | None:
        """What the agent's names are drawn from; None: it sees the true ones. A knob gives it."""
        return None

    def _offered(self) -> tuple[Tool, ...]:
        """The tools on offer now."""
        found: list[Any] = []
        given = self.tool_rules.offered(self)
        expected = "a list of tools, or of their names"
        must(_is_some(given), self.tool_rules.offered, "tool_rules.offered(env) gives", given, expected)
        for source in given:
            if isinstance(source, str) and source not in self._own:
                error = UnknownName(f"tool of {type(self).__name__}", source, self._own)
                error.args = (f"{error} ({place_of(self.tool_rules.offered)})",)
                raise error
            found.append(self._own[source] if isinstance(source, str) else source)
        return self.user.tools(self, bound(toolset(*found), self))

    def _some(self, split: Split | None, seed: int) -> list[Task]:
        """Tasks of a split to choose from. None: of the usual one."""
        if split is not None or self.tool_rules.fidelity == "house":
            return task_set(self, split or "train", _AMONG, seed=seed)
        for among in SPLITS:
            try:
                return task_set(self, among, _AMONG, seed=seed)
            except NoTasks as error:
                none = error
        raise none

    def _offer(self) -> None:
        if self._changing:
            self.toolbox.offer(self._offered())

    def _called(self, call: ToolCall, result: ToolResult) -> None:
        run(self.tool_rules.after_call, "tool_rules.after_call(env, call, result) gives", self, call, result)
        self._offer()

    def _announced(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """The message that tells of the tools that came or went, if any: in true names, and as the agent sees it."""
        self.toolbox.offer(self._offered())
        came, went = self.toolbox.changes()
        text = self.tool_rules.announce(self, came, went) if came or went else ""
        must(
            isinstance(text, str),
            self.tool_rules.announce,
            "tool_rules.announce(env, came, went) gives",
            text,
            "a text",
        )
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
        hook = self._env.fault_hooks.rotate_id
        given = hook(self._env, tool, arguments)
        return truth(
            given, hook, "fault_hooks.rotate_id(env, tool, arguments) gives", "True where it renamed one, else False"
        )

    def distort(self, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        hook = self._env.fault_hooks.distort
        given = hook(self._env, tool, arguments, value)
        label = "fault_hooks.distort(env, tool, arguments, value) gives"
        must(_is_json(given), hook, label, given, "a value that JSON can hold, or None")
        return given


# ---- what an author's functions give ---------------------------------------------------------------------------------


def _prompted(env: ToolEnv, task: Task) -> tuple[Message, ...]:
    """The first messages."""
    given: Any = env.prompt(task)
    fits = isinstance(given, tuple | list) and all(_is_said(message) for message in given)
    must(fits, env.prompt, f"{type(env).__name__}.prompt(task) gives", given, "a tuple of Messages, each with a text")
    return tuple(given)


def _answered(env: ToolEnv, said: str) -> str | None:
    """What the user says to a message."""
    answer: Any = env.user.reply(env, said)
    fits = answer is None or isinstance(answer, str)
    must(fits, env.user.reply, "user.reply(env, said) gives", answer, "a text, or None")
    return answer if answer is None else str(answer)


def _judged(env: ToolEnv, task: Task) -> bool | Verdict:
    """What `success` says, once it is sure that it is a verdict."""
    label = f"{type(env).__name__}.success(task)"
    found: Any = env.success(task)
    if not isinstance(found, Verdict):
        return truth(found, env.success, f"{label} gives", "True, False or a Verdict")
    must(isinstance(found.reason, str), env.success, f"{label} gives the reason", found.reason, "a text")
    success = truth(found.success, env.success, f"{label} gives a Verdict whose success is")
    return Verdict(success, found.reason, parts(found.parts, env.success, f"{label} gives the parts"))


def _injected(env: ToolEnv) -> Mapping[str, Any]:
    given: Any = env.tool_rules.injected(env)
    fits = isinstance(given, Mapping)
    must(fits, env.tool_rules.injected, "tool_rules.injected(env) gives", given, "a mapping by key")
    return {**given}


def _is_said(message: Any) -> bool:
    return isinstance(message, Message) and isinstance(message.content, str)


def _is_some(value: Any) -> bool:
    """Whether it is several of something, and no text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _is_json(value: Any) -> bool:
    try:
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _holder(tools: Sequence[Tool]) -> type:
    """A class with these tools alone, which binds them as an environment's are."""
    return type("Others", (), {"tools": tuple(tools)})


def name_of(env: ToolEnv) -> str:
    """The id under which an environment was made, or its class name."""
    return str(getattr(env, "sparring_id", type(env).__name__))
