"""Which tasks of which environments are played, under which faults, and how often; and groups drawn from it.

Mixture.of("orders")
Mixture((Part("orders", weight=3), Part("shop", levels=(1, 2))))
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..agents.agent import Agent
from ..agents.evaluation import seed_of
from ..agents.rollouts import SLACK, EpisodeSpec, rollout
from ..envs.registry import make
from ..envs.task import task_set
from ..tools.plans import FaultPlan
from ..trajectories.errors import ConfigError, InfrastructureError
from ..trajectories.trajectory import Trajectory, TrajectoryGroup

__all__ = ["Mixture", "Part", "sample_groups"]

Shares = tuple[tuple[str, float], ...]
"""(one-line fault plan, weight); "" is no fault."""


@dataclass(frozen=True, slots=True)
class Part:
    """One environment of a mixture."""

    env: str
    """What `make` takes."""
    faults: Shares = (("", 0.25), ("count=1", 0.5), ("count=2", 0.25))
    """One-line fault plans with their weights. Seeds are the step's own."""
    levels: tuple[int, ...] = ()
    """Only tasks of these levels; empty: all."""
    weight: float = 1.0
    """How often it is drawn, relative to the other parts."""

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ConfigError(f"a part's weight is above 0, got {self.weight} for {self.env}")
        if wrong := [share for share in self.faults if not (share[1] >= 0 and math.isfinite(share[1]))]:
            raise ConfigError(f"the weight of a fault plan is a finite number of 0 or more, got {wrong[0]}")
        if not self.faults or not any(weight > 0 for _, weight in self.faults):
            raise ConfigError(f"a part needs a fault plan with a weight above 0 ('' is none), got {self.faults}")

    @classmethod
    def parse(cls, text: str, **rest: object) -> Part:
        """Reads `orders` or, with a weight, `2*orders`. Raises `ConfigError`."""
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)\s*\*\s*)?(\S.*)", text.strip())
        if match is None:
            raise ConfigError(f"expected an environment such as 'orders', or with a weight '2*orders'; got {text!r}")
        return replace(cls(match[2], weight=float(match[1] or 1)), **rest)  # type: ignore[arg-type]  # checked there

    def draw(self, n: int, *, seed: int, without: Iterable[str] = ()) -> list[EpisodeSpec]:
        """`n` different tasks, each with a plan; plans in their shares, rounded by chance. An environment with fewer
        tasks gives all it has."""
        tasks = task_set(make(self.env), "train", n, seed=seed, levels=self.levels, without=without)
        rng = random.Random(seed)
        chosen = rng.choices([text for text, _ in self.faults], [weight for _, weight in self.faults], k=len(tasks))
        plans = [FaultPlan.parse(f"{text}@{seed}") if text else FaultPlan() for text in chosen]
        return [EpisodeSpec(task, plan, env=self.env) for task, plan in zip(tasks, plans, strict=True)]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several environments, by weight."""

    parts: tuple[Part, ...]
    """At least one."""
    slack: int | None = SLACK
    """Turns over the expert's number before an episode is cut; None: the environment's `max_turns` alone."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("a mixture needs at least one environment: Mixture.of('orders')")

    @classmethod
    def of(
        cls, *envs: str, faults: Shares | None = None, levels: tuple[int, ...] = (), slack: int | None = SLACK
    ) -> Mixture:
        """Of environments with optional weights (`2*orders`), all under the same faults."""
        rest: dict[str, object] = {"levels": levels} | ({} if faults is None else {"faults": faults})
        return cls(tuple(Part.parse(env, **rest) for env in envs), slack)

    def draw(self, n: int, *, seed: int, without: Iterable[str] = ()) -> list[EpisodeSpec]:
        """`n` different tasks with plans, of all parts in their shares, rounded by chance. Same seed, same draw."""
        if len(self.parts) == 1:
            return self.parts[0].draw(n, seed=seed, without=without)
        weights = [part.weight for part in self.parts]
        chosen = random.Random(f"parts/{seed}").choices(range(len(self.parts)), weights, k=n)
        left_out = list(without)
        drawn = {
            i: iter(part.draw(k, seed=seed_of(seed, part.env, i) % 2**31, without=left_out))
            for i, part in enumerate(self.parts)
            if (k := chosen.count(i))
        }
        return [spec for i in chosen if (spec := next(drawn[i], None)) is not None]


def sample_groups(
    mixture: Mixture,
    agent: Agent,
    n: int,
    size: int,
    *,
    seed: int,
    on_done: Callable[[int, Trajectory], None] | None = None,
) -> list[TrajectoryGroup]:
    """`n` groups of `size` episodes; a group shares its task and its faults. Groups of fewer than two are left out.

    Args:
        mixture: What is played.
        agent: Who plays.
        n: Groups.
        size: Episodes of a group; they differ in the seed of sampling alone.
        seed: Of tasks, faults and sampling.
        on_done: Told of each trajectory as it ends, with its index.

    Raises `InfrastructureError` when not one group could be played.
    """
    episodes = [
        replace(spec, seed=seed_of(seed, spec.task.id, member))
        for spec in mixture.draw(n, seed=seed)
        for member in range(size)
    ]
    played: Sequence[Trajectory] = rollout(mixture.parts[0].env, agent, episodes, slack=mixture.slack, on_done=on_done)
    groups = [g for g in TrajectoryGroup.by_task(played) if len(g.trajectories) > 1]
    if not groups:
        failed = next((t.error for t in played if t.error), "no episode could be judged")
        raise InfrastructureError(f"none of {len(played)} episodes could be used: {failed}")
    return groups
