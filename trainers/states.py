"""The states that an episode went through: played again from its record, told apart by a hash, and asked of the expert.

A record holds what was done and said, not the world. The same task, faults and actions give the same world again, so
that the state before each turn is had without having been kept.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from typing import Any

from ..agents.replay import replay
from ..envs.env import ToolEnv
from ..envs.episode import Snapshot
from ..envs.experts import SAID, expert, play
from ..envs.registry import make_recorded
from ..tools.plans import FaultPlan
from ..trajectories.errors import ConfigError, DataError
from ..trajectories.messages import Action
from ..trajectories.trajectory import Trajectory

__all__ = ["States", "failures", "state_key"]


class States:
    """Plays episodes again, in environments of its own."""

    def __init__(self) -> None:
        self._envs: dict[str, ToolEnv] = {}

    def before_turns(self, trajectory: Trajectory) -> list[Snapshot]:
        """The state before each turn.

        Raises `DataError` where the environment now answers otherwise than it did, `ConfigError` where its world cannot
        be copied.
        """
        return list(replay(self._env(trajectory), trajectory))

    def keys(self, trajectory: Trajectory) -> list[str]:
        """`state_key` of the state before each turn. Raises as `before_turns`."""
        return [state_key(snapshot) for snapshot in self.before_turns(trajectory)]

    def expert_ahead(self, trajectory: Trajectory) -> list[tuple[int, float]]:
        """For the state before each turn: turns that the expert needs from there, final message included, and the
        reward that it gets for them. (1, 0.0) where the expert fails. Raises as `before_turns`, and `ConfigError` for
        an environment without an expert."""
        env = self._with_expert(trajectory)
        out: list[tuple[int, float]] = []
        for snapshot in self.before_turns(trajectory):
            env.restore(snapshot)
            try:
                turns = len(play(env))
                out.append((turns, sum(env.judge()[1].values())))
            except Exception:  # the author's expert, in a state that the author did not think of
                out.append((1, 0.0))
        return out

    def expert_actions(self, trajectory: Trajectory) -> list[Action]:
        """What the expert does in the state before each turn: as many actions as it can be asked for.

        It goes along with the agent as long as that does the same. So it knows which call has just failed, and waits or
        takes another route as it would have of its own. Where the agent does something else, it begins anew from the
        state as it is then. The list ends early where the expert fails.

        Raises `DataError` where the environment now answers otherwise than it did, `ConfigError` for an environment
        without an expert.
        """
        env = self._with_expert(trajectory)
        env.start(trajectory.task, FaultPlan.parse(trajectory.faults))
        labels: list[Action] = []
        course, last = None, None
        for number, turn in enumerate(trajectory.turns):
            try:
                if course is None or last is None:
                    course = expert(env)
                    label = next(course)
                else:
                    label = course.send(last)
            except Exception:  # as in `expert_ahead`
                break
            labels.append(label)
            results = env.act(turn.action).turn.results
            if [(r.outcome, r.content) for r in results] != [(r.outcome, r.content) for r in turn.results]:
                raise DataError(f"trajectory {trajectory.id} does not replay: turn {number} has other results now")
            last = (results[0] if results else SAID) if same_action(label, turn.action) else None
        return labels

    def _env(self, trajectory: Trajectory) -> ToolEnv:
        if trajectory.env not in self._envs:
            self._envs[trajectory.env] = make_recorded(trajectory.env)
        env = self._envs[trajectory.env]
        if not env.copyable:
            raise ConfigError(
                f"the world of {trajectory.env} cannot be copied (copyable = False): its states cannot be gone back to"
            )
        return env

    def _with_expert(self, trajectory: Trajectory) -> ToolEnv:
        env = self._env(trajectory)
        if type(env).solve is ToolEnv.solve:
            raise ConfigError(f"{trajectory.env} has no expert: its class needs solve(self, task)")
        return env


def same_action(one: Action, other: Action) -> bool:
    """Whether they make the same calls; of two messages without calls, always."""
    return [(c.name, c.arguments) for c in one.tool_calls] == [(c.name, c.arguments) for c in other.tool_calls]


def failures(trajectory: Trajectory) -> list[int]:
    """Turns before which a call had just failed: where an agent has to recover."""
    return [k for k, turn in enumerate(trajectory.turns[:-1], 1) if any(not r.ok for r in turn.results)]


def state_key(snapshot: Snapshot) -> str:
    """A hash of all that decides what follows: the world, its random generator, the faults in force and to come.

    What was said, and how many turns it took, are no part of it. Raises `ConfigError` for a world that holds what
    cannot be compared.
    """
    faults = snapshot.toolbox.faults
    ahead: Any = None
    if faults is not None:
        to_come = bool(faults.pending or faults.rates)  # only then it matters how many calls there were
        ahead = (faults.memory, faults.lost, faults.pending, faults.rates, faults.calls if to_come else 0)
    digest = hashlib.blake2b(digest_size=12)
    for part in (snapshot.world, ahead, snapshot.rng, snapshot.toolbox.offered, snapshot.user_turns):
        digest.update(_canonical(part, ()).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _canonical(value: Any, within: tuple[int, ...]) -> str:
    """The same text for equal values, whatever the order in which dictionaries and sets were filled."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | date() | time() | timedelta() | Enum():
            return f"{type(value).__name__}:{value!r}"
        case sqlite3.Connection():
            return f"sqlite:{hashlib.blake2b(value.serialize()).hexdigest()}"
    if id(value) in within:
        return f"again:{len(within) - within.index(id(value))}"
    deeper = (*within, id(value))
    match value:
        case Mapping():
            items = sorted((_canonical(k, deeper), _canonical(v, deeper)) for k, v in value.items())
            return f"map{items}"
        case list() | tuple():
            return f"row{[_canonical(item, deeper) for item in value]}"
        case set() | frozenset():
            return f"set{sorted(_canonical(item, deeper) for item in value)}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if is_dataclass(value):
        return f"{kind}{[_canonical(getattr(value, f.name), deeper) for f in fields(value)]}"
    if hasattr(value, "__dict__") and not callable(value):
        return f"{kind}{_canonical(vars(value), deeper)}"
    raise ConfigError(
        f"the state holds a {kind}, which cannot be compared: keep plain data and dataclasses in self.state"
    )
