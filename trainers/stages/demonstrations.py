"""The stage `demonstrations`: the expert plays, or recorded gold is played, and good episodes are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...agents.rollouts import EpisodeSpec, rollout
from ...agents.scripts import scripted
from ...tools.plans import FaultPlan
from ...trajectories.curation import gold
from ...trajectories.errors import ConfigError
from ...trajectories.trajectory import Trajectory
from ..stage import EPISODES, STAGES, Work

__all__ = ["Demonstrations"]


@STAGES.register("demonstrations")
@dataclass(frozen=True, slots=True)
class Demonstrations:
    """Leaves `episodes`."""

    about = "the expert, or recorded gold, is played"

    n: int
    """Episodes, over all environments."""
    faults: str = ""
    """A plan for all of them, such as `count=1:{kinds}`; empty: none."""
    agent: str = "expert"
    """Who plays: `expert` (the environment's `solve`), or `gold` (what its tasks have recorded)."""
    shift: int = 0
    """Other tasks and other faults than those of another shift, as far as there are any."""

    def __post_init__(self) -> None:
        if self.agent not in ("expert", "gold"):
            raise ConfigError(f"who demonstrates is expert or gold, got {self.agent!r}")

    def uses(self) -> Sequence[str]:
        return ()

    def run(self, work: Work) -> None:
        count = work.counting(self.n)
        played: list[Trajectory] = []
        for on, n in work.split(self.n):
            plan = FaultPlan.parse(f"{on.plan(self.faults)}@{work.seed + self.shift}") if self.faults else FaultPlan()
            specs = [EpisodeSpec(task, plan) for task in work.tasks(on.env, n, self.shift)]
            played += rollout(on.env, scripted(self.agent), specs, on_done=count)
        kept = gold(played)
        work.watcher.say(str(kept.card))
        work.write(EPISODES, kept.items)
