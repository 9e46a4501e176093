"""Measuring an agent: the same tasks, fault seeds and sampling seeds for every agent that is compared."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..envs.registry import make
from ..envs.task import Split, task_set
from ..tools.plans import FaultPlan
from ..trajectories.metrics import not_struck
from ..trajectories.trajectory import Trajectory
from .agent import Agent
from .rollouts import EpisodeSpec, Limits, RolloutWarning, rollout

__all__ = ["Condition", "evaluate", "seed_of"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One column of the table."""

    name: str
    env: str
    faults: str = ""
    """One-line fault plan; empty: none."""
    n: int = 64
    split: Split = "test"
    levels: tuple[int, ...] = ()
    seed: int = 0
    """Of the choice of tasks, of the faults and of sampling."""
    slack: int | None = None
    """Turns over the expert's before an episode is cut; None: the environment's `max_turns` alone."""
    limits: Limits | None = None

    def episodes(self) -> list[EpisodeSpec]:
        """What every agent plays."""
        tasks = task_set(make(self.env), self.split, self.n, seed=self.seed, levels=self.levels)
        plan = FaultPlan.parse(f"{self.faults}@{self.seed}") if self.faults else FaultPlan()
        return [
            EpisodeSpec(
                task,
                plan,
                seed_of(self.seed, task.id),
                env=self.env,
                limits=self.limits,
                slack=self.slack,
            )
            for task in tasks
        ]


def evaluate(
    agent: Agent, conditions: Sequence[Condition], on_done: Callable[[int, Trajectory], None] | None = None
) -> dict[str, list[Trajectory]]:
    """Plays all conditions in one rollout, so that the long episodes of one overlap with the next.

    By the condition's name: one trajectory a task, in the order of the tasks. A `RolloutWarning` says so where a
    condition's faults struck nobody, and where a bug of an environment ended episodes.
    """
    episodes = [condition.episodes() for condition in conditions]
    played = iter(rollout(conditions[0].env, agent, [e for of_one in episodes for e in of_one], on_done=on_done))
    by_name = {c.name: [next(played) for _ in of_one] for c, of_one in zip(conditions, episodes, strict=True)}
    for name, of_one in by_name.items():
        if said := not_struck(of_one):
            warnings.warn(f"{name}: {said}", RolloutWarning, stacklevel=2)
    return by_name


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that has a text."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
