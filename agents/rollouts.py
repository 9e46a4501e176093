"""The only place where an environment and an agent meet: episodes are played, and become trajectories.

    rollout(...)            plays all and returns them in order; from plain code and from a notebook
    rollout_async(...)      the same as a coroutine
    rollout_stream(...)     an async iterator that gives each trajectory as its episode ends

A fast world runs on the event loop, between the turns of the agents. A world that may wait (`ToolEnv.blocking`, async
tools, tools with a deadline, reward terms) runs next to it: each of the episodes that are played at once has a thread
of its own. The expert's turns are counted once for each task and fault plan, in an environment of the expert's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from ..envs.copies import SHARED, worlds_apart
from ..envs.env import ToolEnv, name_of
from ..envs.episode import Snapshot
from ..envs.experts import play
from ..envs.hooks import bug, came_through, guarded
from ..envs.registry import make
from ..tools.background import Background, Lane
from ..tools.definition import Tool
from ..tools.plans import FaultPlan
from ..trajectories.blame import told, trace_of
from ..trajectories.errors import ConfigError, EnvBug, EnvError, InfrastructureError
from ..trajectories.messages import Json, Message, Observation
from ..trajectories.trajectory import Fork, StopReason, Task, Trajectory, Turn
from .agent import Agent, AgentSession, Decision, NotedSession
from .scripts import ScriptedSession

__all__ = [
    "SLACK",
    "TRACEBACK",
    "BugWarning",
    "EpisodeSpec",
    "Limits",
    "RolloutWarning",
    "bugs",
    "rollout",
    "rollout_async",
    "rollout_stream",
    "telling",
]

TRACEBACK = "traceback"
"""Under this name a record's `meta` keeps the traceback of the bug that ended the episode."""
SLACK = 4
"""Turns over the expert's number of turns that training gives an episode before it is cut."""

_LOOK = 0.02
"""Seconds between looks whether a call has ended that nobody waits for."""
_PATIENCE = 60.0
"""Seconds that an episode without a limit of its own waits for such a call."""
_given_up: WeakKeyDictionary[type[ToolEnv], list[Lane]] = WeakKeyDictionary()
"""Threads in which a call of such an environment was given up at its time limit."""

EnvFactory = Callable[[], ToolEnv]
OnDone = Callable[[int, Trajectory], None]

P = ParamSpec("P")
T = TypeVar("T")


class RolloutWarning(UserWarning):
    """Something that whoever reads the figures of a rollout should know."""


class BugWarning(RolloutWarning):
    """A bug of an environment ended episodes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When an episode is cut. None: no limit but the environment's and the agent's own."""

    turns: int | None = None
    """Turns, those before a fork included; 1 or more. Ends with `turn_limit`."""
    tokens: int | None = None
    """Sampled tokens, 1 or more. The turn that goes over them is the last one. Ends with `token_limit`."""
    seconds: float | None = None
    """Wall clock, over 0. Ends with `infrastructure`: slowness is nobody's policy. A call of a world that may wait is
    left alone in its thread at once; a call on the event loop is found to be late when it has ended."""

    def __post_init__(self) -> None:
        for name in ("turns", "tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"Limits.{name} is a whole number of 1 or more, or None, got {value!r}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ConfigError(f"Limits.seconds is a number above 0, or None, got {self.seconds!r}")


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """What to play."""

    task: Task
    plan: FaultPlan = field(default_factory=FaultPlan)
    seed: int = 0
    """Of sampling; the world and the faults follow from task and plan."""
    start: Snapshot | None = None
    """Begin here and not at the task's start."""
    parent: Trajectory | None = None
    """Whose first turns lead to `start`."""
    fork: int = 0
    """How many of them."""
    env: str = ""
    """Another environment than the rollout's."""
    limits: Limits | None = None
    """In place of the rollout's."""
    slack: int | None = None
    """In place of the rollout's."""


def rollout(
    env: str | EnvFactory,
    agent: Agent,
    episodes: Iterable[EpisodeSpec],
    *,
    slack: int | None = None,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
) -> list[Trajectory]:
    """Plays `episodes`, as many at once as the agent is worth, and returns one trajectory each, in order.

    Where an event loop runs already (a notebook), it is played in a thread of its own, and waited for.

    Args:
        env: A name for `make`, or a callable that gives a new environment.
        agent: Who plays.
        episodes: What is played.
        slack: Cut an episode this many turns over the expert's number of turns (`turn_limit`), where that is known.
            None: only the environment's `max_turns` holds. What was asked for is in the record's `meta["limits"]`.
        limits: When episodes are cut; it is in the record's `meta["limits"]` too.
        on_done: Told of each trajectory as it ends, with its index.

    A failure of engine, network or clock becomes a trajectory with stop reason `infrastructure`. What an environment's
    own code raises becomes one with stop reason `bug`, whose `error` names the author's line. The others are kept, and
    a `RolloutWarning` says so at the end. A bug of the agent raises, with a note that names environment and task.
    """
    work = rollout_async(env, agent, episodes, slack=slack, limits=limits, on_done=on_done)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    background = Background("sparring-rollout")
    try:
        return background.run(work, None)
    finally:
        background.close()


async def rollout_async(
    env: str | EnvFactory,
    agent: Agent,
    episodes: Iterable[EpisodeSpec],
    *,
    slack: int | None = None,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
) -> list[Trajectory]:
    """`rollout` as a coroutine, with its arguments. Cancelled, it ends all episodes.

    Args:
        env, agent, episodes, slack, limits, on_done: As for `rollout`.
    """
    wanted = list(episodes)
    done: dict[int, Trajectory] = {}
    async with aclosing(rollout_stream(env, agent, wanted, slack=slack, limits=limits)) as ended:
        async for index, trajectory in ended:
            done[index] = trajectory
            if on_done is not None:
                on_done(index, trajectory)
    played = [done[index] for index in range(len(wanted))]
    if lost := bugs(played):
        warnings.warn(lost, BugWarning, stacklevel=2)
    return played


@contextmanager
def telling(say: Callable[[str], None], *, bugs: bool = True) -> Iterator[None]:
    """What rollouts within have to say (`RolloutWarning`) is told to `say`, each text once.

    Args:
        say: Told in place of Python's warnings.
        bugs: Whether of bugs too.
    """
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, RolloutWarning):
            others(message, category, *place, **more)
        elif str(message) not in said and (bugs or not issubclass(category, BugWarning)):
            said.add(str(message))
            say(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", RolloutWarning)
        others, warnings.showwarning = warnings.showwarning, show
        yield


def bugs(played: Sequence[Trajectory]) -> str:
    """What there is to say of episodes that a bug of their environment ended: how many, the commonest bug and the first
    episode that it ended. Empty where there are none."""
    lost = [t for t in played if t.stop is StopReason.BUG]
    if not lost:
        return ""
    counted = Counter(t.error for t in lost).most_common()
    first = next(t for t in lost if t.error == counted[0][0])
    under = f" under the faults {first.faults}" if first.faults else ""
    others = f", and {len(counted) - 1} other bugs" if len(counted) > 1 else ""
    return (
        f"{len(lost)} of {len(played)} episodes were ended by a bug of the environment {first.env}, without a verdict: "
        f"{first.error}, first in task {first.task.id}{under}{others}; sparring check {first.env} says more"
    )


async def rollout_stream(
    env: str | EnvFactory,
    agent: Agent,
    episodes: Iterable[EpisodeSpec],
    *,
    slack: int | None = None,
    limits: Limits | None = None,
) -> AsyncGenerator[tuple[int, Trajectory], None]:
    """Plays `episodes` and yields (index, trajectory) of each as it ends.

    Who stops early closes it (`contextlib.aclosing`): the episodes that are still played are then cancelled, and their
    sessions closed.

    Args:
        env, agent, episodes, slack, limits: As for `rollout`.
    """
    factory: EnvFactory = (lambda: make(env)) if isinstance(env, str) else env
    wanted = [limited(episode, limits, slack) for episode in episodes]
    shared = _Shared(factory, wanted)
    queue = iter(enumerate(wanted))
    ended: asyncio.Queue[tuple[int, Trajectory] | BaseException] = asyncio.Queue()
    seats = range(min(max(1, agent.parallel), len(wanted)))
    workers = [asyncio.create_task(_work(shared, agent, queue, ended)) for _ in seats]
    try:
        for _ in wanted:
            came = await ended.get()
            if isinstance(came, BaseException):
                raise came
            yield came
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _work(
    shared: _Shared,
    agent: Agent,
    queue: Iterator[tuple[int, EpisodeSpec]],
    ended: asyncio.Queue[tuple[int, Trajectory] | BaseException],
) -> None:
    """Plays one episode after the other, until none is left."""
    seat = _Seat(shared)
    try:
        for index, episode in queue:
            env = await seat.env(episode.env)
            episode = planned(env, episode)
            apart = await _worlds_apart(shared, seat, env, episode)
            async with shared.alone(env, apart):
                expert_turns = await _expert_turns(shared, seat, env, episode) if apart else None
                env = await seat.env(episode.env)  # another one where the expert did not come back
                run: Run = partial(seat.run, env)
                if apart is False and await _still_runs(type(env), episode):
                    run = _left_behind
                trajectory = await play_episode(env, agent, episode, expert_turns=expert_turns, run=run)
            if trajectory.stop is StopReason.BUG:
                seat.forget(episode.env)
            ended.put_nowait((index, trajectory))
            await asyncio.sleep(0)  # scripts never wait for anything: let Ctrl-C through
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        ended.put_nowait(error)
    finally:
        seat.leave()


# ---- one episode -----------------------------------------------------------------------------------------------------


class Run(Protocol):
    """Calls a function of the world where the world is run."""

    async def __call__(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


async def _left_behind(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Nowhere: what is done in this world is not only the agent's."""
    raise InfrastructureError(
        "a call of an earlier episode, which was given up at its time limit, still runs in the world that all share"
    )


async def inline(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Here and now."""
    return fn(*args, **kwargs)


async def play_episode(
    env: ToolEnv, agent: Agent, episode: EpisodeSpec, *, expert_turns: int | None = None, run: Run = inline
) -> Trajectory:
    """Plays one episode to its end.

    Args:
        env: Nobody else uses it meanwhile. After a `Limits.seconds` a call may still run in it: then it is lost.
        agent: Who plays.
        episode: What is played; its fault plan is taken as it is (see `planned`).
        expert_turns: What the expert needs from the episode's beginning, where known.
        run: How the environment's functions are called.
    """
    limits = episode.limits or Limits()
    prompt: tuple[Message, ...] = ()
    turns: list[Turn] = []
    session: AgentSession | None = None
    stop: StopReason | None = None
    error: str | None = None
    trace = ""
    success: bool | None = None
    parts: dict[str, float] = {}
    try:
        async with _within(limits.seconds) as clock:
            observation, prompt, turns = await run(guarded, type(env), _begin, env, episode)
            most = _most_turns(limits, episode.slack, expert_turns, len(turns))
            spent = 0
            session = agent.begin(env, episode.seed)
            try:
                if episode.parent is not None:
                    turns = list(session.resume(episode.parent, episode.fork))
                while stop is None:
                    decision = await _decided(session, observation, type(env), run)
                    if decision.action is None:
                        stop = env.episode.cut(decision.cut or StopReason.CANCELLED)
                        break
                    step = await run(guarded, type(env), env.act, decision.action)
                    clock.check()
                    turns.append(replace(step.turn, span=decision.span))
                    stop, observation = step.stop, step.observation
                    spent += decision.span[1] - decision.span[0] if decision.span else 0
                    if stop is not None and stop.by_agent and decision.cut is not None:
                        stop = env.episode.cut(decision.cut)
                    elif limits.tokens is not None and spent >= limits.tokens + (stop is not None):
                        stop = env.episode.cut(StopReason.TOKEN_LIMIT)
                    elif stop is None and len(turns) >= most:
                        stop = env.episode.cut(StopReason.TURN_LIMIT)
            finally:
                session.close()
            success, parts = await run(guarded, type(env), env.judge)
            clock.check()
    except InfrastructureError as failure:
        stop, error = StopReason.INFRASTRUCTURE, str(failure)
    except EnvBug as own:
        stop, error, trace = StopReason.BUG, str(own), trace_of(own.__cause__ or own)
    except Exception as other:
        if not getattr(other, "__notes__", ()):  # a bug of the engine meets all episodes
            under = f" under the faults {episode.plan}" if str(episode.plan) else ""
            other.add_note(f"in an episode of {name_of(env)}, task {episode.task.id}{under}")
        raise
    assert stop is not None
    began = session is not None
    if stop.no_verdict:
        success, parts = None, {}
    reward = sum(parts.values()) if success is not None else 0.0
    if turns:
        turns[-1] = replace(turns[-1], reward=reward)
    return Trajectory(
        id=_id(name_of(env), episode, agent),
        env=name_of(env),
        task=episode.task,
        prompt=prompt,
        turns=tuple(turns),
        stop=stop,
        reward=reward,
        reward_parts=parts,
        success=success,
        seed=episode.seed,
        faults=str(episode.plan),
        faults_hit=env.episode.faults_hit if began else (),
        tools=env.toolbox.specs if began else (),
        tokens=session.tokens() if session is not None else None,
        agent=agent.name,
        policy_version=agent.version,
        temperature=float(getattr(agent, "temperature", 1.0)),
        expert_turns=expert_turns,
        forked_from=Fork(episode.parent.id, episode.fork) if episode.parent else None,
        error=error,
        meta={
            **(_noted(env) if began else {}),
            **(session.notes() if isinstance(session, NotedSession) else {}),
            **limits_note(episode),
            **({TRACEBACK: trace} if trace else {}),
        },
    )


def _noted(env: ToolEnv) -> dict[str, Json]:
    """What an episode's record keeps next to its turns."""
    roles = env.episode.roles
    return {**env.episode.notes, **({"roles": roles} if roles else {})}


def planned(env: ToolEnv, episode: EpisodeSpec) -> EpisodeSpec:
    """The episode with the environment's own faults where it names none: what is recorded has to say what struck."""
    return episode if str(episode.plan) else replace(episode, plan=env.fault_hooks.default_plan)


def limited(episode: EpisodeSpec, limits: Limits | None, slack: int | None) -> EpisodeSpec:
    """The episode with the rollout's limits where it has none of its own."""
    if episode.limits is None or episode.slack is None:
        return replace(
            episode, limits=episode.limits or limits, slack=slack if episode.slack is None else episode.slack
        )
    return episode


def limits_note(episode: EpisodeSpec) -> dict[str, Json]:
    """What the record says of the limits that were asked for: `{"limits": {"turns": 9}}`; nothing without any."""
    limits = episode.limits or Limits()
    asked = {"turns": limits.turns, "tokens": limits.tokens, "seconds": limits.seconds, "slack": episode.slack}
    note: dict[str, Json] = {name: value for name, value in asked.items() if value is not None}
    return {"limits": note} if note else {}


def _begin(env: ToolEnv, episode: EpisodeSpec) -> tuple[Observation, tuple[Message, ...], list[Turn]]:
    if episode.start is None:
        observation = env.start(episode.task, episode.plan)
        return observation, observation.messages, []
    env.restore(episode.start)
    parent = episode.parent
    turns = list(parent.turns[: episode.fork]) if parent else []
    prompt = parent.prompt if parent else env.toolbox.shown_messages(env.prompt(episode.task))
    return Observation((), env.toolbox.present), prompt, turns


def _most_turns(limits: Limits, slack: int | None, expert_turns: int | None, before: int) -> float:
    """Turns of the whole episode, `before` of which stood before its fork."""
    by_expert = math.inf if slack is None or expert_turns is None else before + expert_turns + slack
    return min(by_expert, math.inf if limits.turns is None else limits.turns)


async def _decided(session: AgentSession, observation: Observation, env: type, run: Run) -> Decision:
    """The agent's turn. A script looks into the world, and so runs where the world does."""
    if isinstance(session, ScriptedSession):
        return await run(_scripted, session, observation, env)
    return await session.act(observation)


def _scripted(session: ScriptedSession, observation: Observation, env: type) -> Decision:
    """A script's turn. What the environment's expert raises in it is a bug of the environment."""
    try:
        return session.decide(observation)
    except (KeyboardInterrupt, MemoryError, InfrastructureError, EnvBug):
        raise
    except BaseException as error:
        if isinstance(error, EnvError) or came_through(env, error):
            raise bug(env, error) from error
        if isinstance(error, Exception):
            raise
        raise RuntimeError(f"the agent's script raised {told(error)}") from error  # sys.exit() ends no rollout


@dataclass(slots=True)
class _Clock:
    """The time that an episode has."""

    seconds: float | None
    end: float = math.inf

    def check(self) -> None:
        """Raises `InfrastructureError` when it is over: what runs on the event loop itself cannot be interrupted."""
        if self.end < math.inf and asyncio.get_running_loop().time() >= self.end:
            raise self.over()

    def over(self) -> InfrastructureError:
        return InfrastructureError(f"the episode took over {self.seconds:g} s")


@asynccontextmanager
async def _within(seconds: float | None) -> AsyncIterator[_Clock]:
    """Interrupts what is awaited within after so many seconds, as `InfrastructureError`."""
    limit = asyncio.timeout(seconds)
    clock = _Clock(seconds)
    try:
        async with limit:
            clock.end = limit.when() or math.inf
            yield clock
    except TimeoutError:
        if not limit.expired():
            raise  # somebody else's
        raise clock.over() from None


def _id(env: str, episode: EpisodeSpec, agent: Agent) -> str:
    parent = f"{episode.parent.id}/{episode.fork}" if episode.parent else ""
    text = f"{env}/{episode.task.id}/{episode.plan}/{episode.seed}/{agent.name}/{agent.version}/{parent}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ---- where worlds are run --------------------------------------------------------------------------------------------


def may_wait(env: ToolEnv) -> bool:
    """Whether a call of the environment may take long without computing, so that it is to run in a thread."""
    if env.blocking or env.reward_terms:  # a reward term may ask a model
        return True
    return any(tool.is_async or tool.blocking or tool.deadline is not None for tool in env.toolbox.tools.values())


class _Shared:
    """What the episodes of one rollout have in common."""

    def __init__(self, factory: EnvFactory, episodes: Iterable[EpisodeSpec]) -> None:
        self.factory = factory
        self.tasks = tuple({episode.task.id: episode.task for episode in episodes}.values())
        """What is played."""
        self.apart: dict[str, asyncio.Future[bool | None]] = {}
        """By an environment's name: whether its instances have worlds of their own. None: not known."""
        self.waiting: dict[str, bool] = {}
        """By an environment's name: whether it may wait. Known once the first has been made."""
        self.expert_turns: dict[tuple[str, str, str, int], asyncio.Future[int | None]] = {}
        """By environment, task, fault plan and snapshot."""
        self._alone: dict[str, asyncio.Lock] = {}

    def make(self, name: str) -> ToolEnv:
        try:
            return make(name) if name else self.factory()
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() in a constructor would end the rollout in silence
            raise EnvBug(f"the environment {name or 'of this rollout'} cannot be made: {told(error)}") from error

    def alone(self, env: ToolEnv, apart: bool | None) -> AbstractAsyncContextManager[object]:
        """One episode at a time, where all instances share one world."""
        return nullcontext() if apart is not False else self._alone.setdefault(name_of(env), asyncio.Lock())


class _Seat:
    """Where one episode at a time is played: its environments by name, and the thread that runs those that may wait.

    All calls of an environment are made in that one thread, in order.
    """

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._envs: dict[tuple[str, str], ToolEnv] = {}
        self._lane: Lane | None = None
        self._tools: Mapping[str, Tool] = {}
        self._waits = False
        """Whether the environment with these tools may wait."""

    async def env(self, name: str, of: str = "agent") -> ToolEnv:
        """The environment that the agent (or the expert) of this seat plays in."""
        if (name, of) not in self._envs:
            if self._shared.waiting.get(name):
                made = await self._in_thread(self._shared.make, name)
            else:
                made = self._shared.make(name)
                self._shared.waiting[name] = may_wait(made)
            self._envs[name, of] = made
        return self._envs[name, of]

    async def run(self, env: ToolEnv, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function of `env` where that is run."""
        if env.toolbox.tools is not self._tools:  # asked anew: tools come and go
            self._tools, self._waits = env.toolbox.tools, may_wait(env)
        if not self._waits:
            return fn(*args, **kwargs)
        lane = self._thread()
        try:
            return await self._in_thread(fn, *args, **kwargs)
        except asyncio.CancelledError:
            _given_up.setdefault(type(env), []).append(lane)
            raise

    def forget(self, name: str) -> None:
        """The next episode has a new environment: a bug has left this one as nobody knows."""
        self._envs.pop((name, "agent"), None)

    def leave(self) -> None:
        """Gives up the thread and the environments: a call that still runs there goes on alone, and nobody waits."""
        if self._lane is not None:
            self._lane.close()
        self._lane = None
        self._envs.clear()

    def _thread(self) -> Lane:
        if self._lane is None:
            self._lane = Lane("sparring-world")
        return self._lane

    async def _in_thread(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._thread().run(fn, *args, **kwargs)
        except asyncio.CancelledError:  # out of time, or the rollout ends
            self.leave()
            raise


async def _still_runs(kind: type[ToolEnv], episode: EpisodeSpec) -> bool:
    """Waits for calls that were given up in a world that all share, as long as the episode itself may take. Whether one
    goes on even then: what it does would be taken for the agent's."""
    clock = asyncio.get_running_loop().time
    end = clock() + ((episode.limits or Limits()).seconds or _PATIENCE)
    lanes = _given_up.get(kind, [])
    while lanes and clock() < end:
        lanes[:] = [lane for lane in lanes if not lane.ended]
        await asyncio.sleep(_LOOK if lanes else 0)
    return bool(lanes)


async def _worlds_apart(shared: _Shared, seat: _Seat, env: ToolEnv, episode: EpisodeSpec) -> bool | None:
    """Whether the environment's instances have worlds of their own; found out once, before anybody plays in it."""
    if not env.copyable or type(env).solve is ToolEnv.solve:
        return env.copyable
    if episode.env in shared.apart:
        return await asyncio.shield(shared.apart[episode.env])
    found = shared.apart[episode.env] = asyncio.get_running_loop().create_future()
    apart: bool | None = None
    try:
        async with _within((episode.limits or Limits()).seconds):
            own = await seat.env(episode.env, "expert")
            apart = await seat.run(env, guarded, type(env), worlds_apart, env, own, shared.tasks)
    except EnvBug as bug:
        if isinstance(bug.__cause__, EnvError) and SHARED in str(bug):
            raise bug.__cause__ from None
    except Exception:  # the expert's, or a failure of infrastructure: it costs the figure and not the episode
        pass
    finally:
        found.set_result(apart)
    if apart is False:
        said = f"{name_of(env)}: {SHARED}. No expert was played, and one episode at a time"
        warnings.warn(said, RolloutWarning, stacklevel=2)
    return apart


async def _expert_turns(shared: _Shared, seat: _Seat, env: ToolEnv, episode: EpisodeSpec) -> int | None:
    """Turns that the expert needs from the episode's beginning, final message included. None without an expert, and
    where it fails. Before the agent's world is set up: what it leaves behind is none of the agent's."""
    if type(env).solve is ToolEnv.solve:
        return None
    key = (episode.env, episode.task.id, str(episode.plan), id(episode.start))
    if key in shared.expert_turns:
        return await asyncio.shield(shared.expert_turns[key])
    found = shared.expert_turns[key] = asyncio.get_running_loop().create_future()
    turns: int | None = None
    try:
        async with _within((episode.limits or Limits()).seconds):
            own = await seat.env(episode.env, "expert")
            turns = await seat.run(own, guarded, type(own), _played_by_expert, own, episode)
    except Exception:  # the author's, or a failure of infrastructure: it costs this figure and not the episode
        pass
    finally:
        found.set_result(turns)
    return turns


def _played_by_expert(env: ToolEnv, episode: EpisodeSpec) -> int:
    _begin(env, episode)
    return len(play(env))
