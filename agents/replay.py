"""Going back into a recorded episode: replay it, find where the agent first went wrong, and let the expert go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..envs.env import Snapshot, ToolEnv
from ..envs.expert import play
from ..envs.registry import make
from ..tools.faults import FaultPlan
from ..trajectories.errors import DataError
from ..trajectories.messages import Cause
from ..trajectories.trajectory import Trajectory
from .rollout import Episode, rollout
from .scripted import scripted

__all__ = ["corrections", "first_mistake", "replay"]


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


def corrections(failed: Iterable[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
    """(failed, corrected) for each episode that the expert can mend from the turn of the first mistake."""
    out = []
    oracle = scripted("oracle")
    for trajectory in failed:
        env = make(trajectory.env)
        fork = first_mistake(env, trajectory)
        if fork is None:
            continue
        number, snapshot = fork
        episode = Episode(
            trajectory.task, FaultPlan.parse(trajectory.faults),
            trajectory.seed, snapshot, trajectory, number,
        )  # fmt: skip
        corrected = rollout(trajectory.env, oracle, [episode])[0]
        if corrected.success:
            out.append((trajectory, corrected))
    return out
