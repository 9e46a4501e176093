"""Going back into a recorded episode: replay it, compare it with the record, find where the agent first went wrong.

`replay` gives the states before each turn; `replay_check` says where an environment now does otherwise than it did,
which makes a store of episodes a regression test of an environment; `corrections` lets the expert go on from a mistake.

Defines `Difference`, `Kind`, `Replayed`, `Replayer`, `corrections`, `first_mistake`, `replay`, `replay_check`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from ..envs.copies import worlds_apart
from ..envs.env import Step, ToolEnv
from ..envs.episode import Snapshot
from ..envs.experts import play
from ..envs.hooks import files_of
from ..envs.registry import make, make_recorded
from ..tools.plans import FaultPlan
from ..trajectories.blame import line_of, told
from ..trajectories.errors import DataError, InfrastructureError, SparringError
from ..trajectories.messages import Cause, Json, Message, Outcome, ToolResult
from ..trajectories.trajectory import StopReason, Trajectory, Turn
from .agent import Agent
from .evaluation import seed_of
from .rollouts import EpisodeSpec, rollout
from .scripts import scripted

__all__ = ["Difference", "Kind", "Replayed", "Replayer", "corrections", "first_mistake", "replay", "replay_check"]

_TICK_S = 1.1
"""Longer than a second: an environment that tells the time in seconds then contradicts itself."""


def replay(env: ToolEnv, trajectory: Trajectory) -> Iterator[Snapshot]:
    """Re-executes a recorded episode in `env`; a snapshot before each turn.

    Raises `DataError` when the environment now answers otherwise than it did.
    """
    env.start(trajectory.task, FaultPlan.parse(trajectory.faults))
    for number, turn in enumerate(trajectory.turns):
        yield env.snapshot()
        got = env.act(turn.action).turn.results
        if [(r.outcome, r.content) for r in got] != [(r.outcome, r.content) for r in turn.results]:
            raise DataError(
                f"trajectory {trajectory.id} does not replay: turn {number} now gives "
                f"{[r.content[:80] for r in got]}, recorded was {[r.content[:80] for r in turn.results]}"
            )


# ---- an environment against its records ------------------------------------------------------------------------------


class Kind(StrEnum):
    """In what a replay first differs from the record. Where one turn differs in several, the first of this list."""

    ERROR = "error"
    """The environment now raises an exception."""
    OUTCOME = "outcome"
    """How a call ended, whose doing it was, which fault struck it."""
    OBSERVATION = "observation"
    """What the agent is shown: prompt, tools, the text of a result, the user's words."""
    STATE = "state"
    """What the record holds of the world: whether an effect took place, a result's value, success at the end."""
    ENDING = "ending"
    """When and why the episode ends."""
    REWARD = "reward"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a replay is not what was recorded."""

    kind: Kind
    turn: int | None
    """Counted from 0; None: before the first turn, or about the whole episode."""
    where: str
    """In words: which call, or which part."""
    recorded: str
    now: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to: identical where both other fields are empty."""

    trajectory: Trajectory
    difference: Difference | None = None
    unreplayable: str = ""
    """Why nothing can be said: the environment is not there, or gives other answers each time."""

    @property
    def identical(self) -> bool:
        return self.difference is None and not self.unreplayable


def replay_check(env: ToolEnv, trajectory: Trajectory) -> Difference | None:
    """Re-executes a recorded episode in `env` and compares all that the record holds: prompt, tools, each result, user
    turns, faults, the ending, success and the reward's parts. Not compared: latencies, call ids, tracebacks.

    A forked episode holds the turns of its parent that lead to the fork, and is replayed from the task's start. Raises
    what the environment raises for infrastructure, and `ConfigError` for a fault plan that cannot be read.
    """
    t = trajectory
    plan = FaultPlan.parse(t.faults)
    at: int | None = None
    try:
        observation = env.start(t.task, plan)
        if found := _prompt(t, observation.messages) or _tools(t, env):
            return found
        step: Step | None = None
        for at, turn in enumerate(t.turns):
            step = env.act(turn.action)
            if found := _turn(turn, step, at):
                return found
            last = at == len(t.turns) - 1
            if step.stop is not None and not last:
                return Difference(
                    Kind.ENDING, at, "the episode's end", f"{len(t.turns) - at - 1} more turns", f"ends: {step.stop}"
                )
        at = None
        return _end(t, env, step)
    except (InfrastructureError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # of the environment's own code: that it did not raise before is the difference
        place = line_of(error, files_of(type(env)))
        where = "the environment's code" + (f" ({place})" if place else "")
        return Difference(Kind.ERROR, at, where, "no exception", f"{type(error).__name__}: {error}")


def _prompt(t: Trajectory, now: tuple[Message, ...]) -> Difference | None:
    recorded = [(m.role, m.content) for m in t.prompt]
    got = [(m.role, m.content) for m in now]
    if recorded == got:
        return None
    for i, (x, y) in enumerate(zip(recorded, got, strict=False)):
        if x != y:
            return Difference(
                Kind.OBSERVATION, None, f"the prompt, message {i + 1}", f"{x[0]}: {x[1]}", f"{y[0]}: {y[1]}"
            )
    return Difference(Kind.OBSERVATION, None, "the prompt", f"{len(recorded)} messages", f"{len(got)} messages")


def _tools(t: Trajectory, env: ToolEnv) -> Difference | None:
    if not t.tools:  # some records do not say
        return None
    recorded, got = ({spec.name: spec for spec in specs} for specs in (t.tools, env.toolbox.specs))
    if list(recorded) != list(got):
        return Difference(Kind.OBSERVATION, None, "the tools", ", ".join(recorded), ", ".join(got))
    for name, spec in recorded.items():
        if _plain(spec.openai()) != _plain(got[name].openai()):
            return Difference(
                Kind.OBSERVATION,
                None,
                f"the tool {name}, as it is described",
                _json(spec.openai()),
                _json(got[name].openai()),
            )
    return None


def _turn(turn: Turn, step: Step, at: int) -> Difference | None:
    now = step.turn.results
    if len(turn.results) != len(now):
        return Difference(Kind.OUTCOME, at, "the calls", f"{len(turn.results)} results", f"{len(now)} results")
    for i, (x, y) in enumerate(zip(turn.results, now, strict=True)):
        call = turn.action.tool_calls[i]
        text = f"{call.name}({call.raw if call.arguments is None else _json(call.arguments)})"
        if found := _result(x, y, at, text):
            return found
    recorded = [(m.role, m.content) for m in turn.messages]
    got = [(m.role, m.content) for m in step.turn.messages]
    if recorded != got:
        one, other = ("\n".join(f"{role}: {said}" for role, said in m) or "nothing" for m in (recorded, got))
        return Difference(Kind.OBSERVATION, at, "what was said after the turn", one, other)
    return None


def _result(x: ToolResult, y: ToolResult, at: int, call: str) -> Difference | None:
    if not x.inferred and _ended(x) != _ended(y):
        return Difference(Kind.OUTCOME, at, call, _ended(x), _ended(y))
    if x.content != y.content:
        return Difference(Kind.OBSERVATION, at, call, x.content, y.content)
    if not x.inferred and x.took_effect != y.took_effect:
        words = {
            True: "the effect took place",
            False: "no effect took place",
            None: "not known whether the effect took place",
        }
        return Difference(Kind.STATE, at, call, words[x.took_effect], words[y.took_effect])
    if x.value is not None and x.outcome is Outcome.OK and _plain(x.value) != _plain(y.value):
        return Difference(Kind.STATE, at, f"{call}, the value behind the text", _json(x.value), _json(y.value))
    return None


def _ended(r: ToolResult) -> str:
    parts = [r.outcome.value, r.cause and f"cause {r.cause}", r.fault and f"fault {r.fault}"]
    after = r.retry_after is not None and f"retry after {r.retry_after}"
    return ", ".join(str(part) for part in (*parts, after) if part)


def _end(t: Trajectory, env: ToolEnv, step: Step | None) -> Difference | None:
    stop = step.stop if step is not None else None
    if t.stop.no_verdict:
        return None  # what it would have come to was never known
    limit = t.stop in (StopReason.TURN_LIMIT, StopReason.TOKEN_LIMIT, StopReason.DEADLINE)
    if limit and (stop is None or (stop.by_agent and t.stop is StopReason.TOKEN_LIMIT)):
        stop = env.episode.cut(t.stop)  # the rollout's limit, not the environment's
    last = len(t.turns) - 1
    if stop is not t.stop:
        return Difference(Kind.ENDING, last, "the episode's end", t.stop.value, stop.value if stop else "goes on")
    if t.faults_hit != env.episode.faults_hit:
        one, other = (", ".join(kinds) or "none" for kinds in (t.faults_hit, env.episode.faults_hit))
        return Difference(Kind.OUTCOME, None, "the faults that struck", one, other)
    success, parts = env.judge()
    if t.success is not None and t.success != success:
        return Difference(
            Kind.STATE, None, "the end state, judged", *("success" if s else "failure" for s in (t.success, success))
        )
    if not t.judged:
        return None
    if t.reward_parts:
        for name in dict.fromkeys((*t.reward_parts, *parts)):
            before, now = t.reward_parts.get(name), parts.get(name)
            if before is None or now is None or not _equal(before, now):
                one, other = ("not there" if v is None else f"{v:.17g}" for v in (before, now))
                return Difference(Kind.REWARD, None, f"the part {name}", one, other)
    total = sum(parts.values())
    if not _equal(t.reward, total):
        return Difference(Kind.REWARD, None, "the reward", f"{t.reward:.17g}", f"{total:.17g}")
    return None


def _equal(x: float, y: float) -> bool:
    return math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)


def _plain(value: Json) -> Any:
    """As JSON has it: a tuple is a list, a key is a text."""
    try:
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str))
    except (TypeError, ValueError):  # an integer beyond 64 bits, a lone surrogate
        return repr(value)


def _json(value: Json) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else orjson.dumps(plain).decode()


class Replayer:
    """Replays one episode after the other, each in its environment, and tells a changed environment from one that never
    gives the same answer twice (a live clock, a network, chance without a seed)."""

    def __init__(
        self,
        env: str | Callable[[], ToolEnv] | None = None,
        *,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """`env`: in place of the recorded one, by name or as what makes it. `wait`: what sleeps, for seconds."""
        self._given = env
        self._wait = wait
        self._envs: dict[str, ToolEnv | str] = {}
        self._waited: set[str] = set()

    def __call__(self, trajectory: Trajectory) -> Replayed:
        """Replays one episode. Nothing an environment raises comes through, except what is no `Exception`."""
        t = trajectory
        if t.stop.no_verdict:
            return Replayed(t, unreplayable=f"recorded as {t.stop.value}")
        env = self._env(t)
        if isinstance(env, str):
            return Replayed(t, unreplayable=env)
        try:
            found = replay_check(env, t)
            if found is None:
                return Replayed(t)
            if t.env not in self._waited:  # once for each: time passes anyway while the next are replayed
                self._wait(_TICK_S)
                self._waited.add(t.env)
            again = replay_check(self._fresh(t), t)
        except InfrastructureError as error:
            return Replayed(t, unreplayable=f"infrastructure: {error}")
        except SparringError as error:
            return Replayed(t, unreplayable=f"the fault plan cannot be read: {error}")
        if again != found:
            return Replayed(t, unreplayable="the environment is not repeatable: two replays differ from each other")
        return Replayed(t, found)

    def _env(self, t: Trajectory) -> ToolEnv | str:
        """Its environment, made once; a text: why there is none."""
        if t.env not in self._envs:
            try:
                self._envs[t.env] = self._make(t)
            except Exception as error:  # a module of the user's that no longer imports, say
                said = str(error) if isinstance(error, SparringError | SyntaxError) else told(error)
                self._envs[t.env] = f"the environment cannot be made: {' '.join(said.split())}"
        return self._envs[t.env]

    def _fresh(self, t: Trajectory) -> ToolEnv:
        """A second one for the second look: nothing may have stayed behind in the first."""
        env = self._envs[t.env] = self._make(t)
        return env

    def _make(self, t: Trajectory) -> ToolEnv:
        if self._given is None:
            return make_recorded(t.env)
        return make(self._given) if isinstance(self._given, str) else self._given()


# ---- corrections -----------------------------------------------------------------------------------------------------


def first_mistake(env: ToolEnv, trajectory: Trajectory) -> tuple[int, Snapshot] | None:
    """The first turn with a call that failed through no injected fault, or after which even the expert cannot succeed;
    else the last turn. None when the task was beyond the expert from the start."""
    found: tuple[int, Snapshot] | None = None
    for number, snapshot in enumerate(list(replay(env, trajectory))):
        env.restore(snapshot)
        play(env)
        if not env.judge()[0]:
            break
        found = number, snapshot
        if any(r.cause in (Cause.POLICY, Cause.TOOL) for r in trajectory.turns[number].results):
            break
    return found


def corrections(
    failed: Iterable[Trajectory], agent: Agent | None = None, *, tries: int = 1
) -> list[tuple[Trajectory, Trajectory]]:
    """(failed, corrected) for each episode that can be fixed from the turn of the first mistake.

    Args:
        agent: Who goes on from there; by default the expert. A model with the failed agent's tokenizer and format keeps
            its ids; another's tokens are left out, for they mean nothing to the model that is to learn.
        tries: Times that it tries each, at seeds of their own. The best success counts: most reward, then fewest turns.
    """
    agent = agent or scripted("expert")
    forked: list[tuple[Trajectory, EpisodeSpec]] = []
    for trajectory in failed:
        env = make_recorded(trajectory.env)
        try:
            if worlds_apart(env, make_recorded(trajectory.env), (trajectory.task,)) is False:
                continue  # the expert cannot go on in a world that is as the last episode left it
            fork = first_mistake(env, trajectory)
        except (MemoryError, InfrastructureError, KeyboardInterrupt):
            raise
        except BaseException:  # a record that does not fit its environment; `replay_check` tells why
            continue
        if fork is None:
            continue
        number, snapshot = fork
        plan = FaultPlan.parse(trajectory.faults)
        for attempt in range(tries):
            seed = trajectory.seed if attempt == 0 else seed_of(trajectory.seed, "correction", attempt)
            episode = EpisodeSpec(trajectory.task, plan, seed, snapshot, trajectory, number, trajectory.env)
            forked.append((trajectory, episode))
    best: dict[tuple[str, int], tuple[Trajectory, Trajectory]] = {}
    played = rollout(forked[0][0].env, agent, [episode for _, episode in forked]) if forked else []
    for (trajectory, _), corrected in zip(forked, played, strict=True):
        if corrected.success:
            key = trajectory.id, trajectory.attempt
            if key not in best or _merit(corrected) > _merit(best[key][1]):
                best[key] = trajectory, _own_tokens(trajectory, corrected)
    return list(best.values())


def _merit(t: Trajectory) -> tuple[float, int]:
    return t.reward, -len(t.turns)


def _own_tokens(parent: Trajectory, t: Trajectory) -> Trajectory:
    """Without its tokens where they do not go on from the parent's."""
    if t.tokens is None or t.forked_from is None:
        return t
    following = parent.turns[t.forked_from.turn].span
    shared = following[0] if following else 0
    if parent.tokens is not None and shared and t.tokens.ids[:shared] == parent.tokens.ids[:shared]:
        return t
    return replace(t, tokens=None, turns=tuple(replace(turn, span=None) for turn in t.turns))
