"""What is played, and what came of it: tasks and fault plans from options, episodes into files, why episodes failed."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..agents.agent import Agent
from ..agents.evaluation import seed_of
from ..agents.rollouts import TRACEBACK, EpisodeSpec, Limits, bugs, telling
from ..agents.scripts import cannot_play
from ..envs import make, task_set
from ..envs.task import Split
from ..tools.plans import FaultPlan
from ..trajectories.errors import ConfigError
from ..trajectories.trajectory import StopReason, Trajectory
from .console import Watch
from .players import Player
from .records import Recorder, play_into
from .wording import condition_name, count

__all__ = ["Tasks", "by_condition", "fault_plan", "must_be_playable", "play", "say_bugs", "why_failed"]

_WAY_OUT = {
    StopReason.TOKEN_LIMIT: "raise --max-turn-tokens or --max-context, or --tokens if it was given",
    StopReason.TURN_LIMIT: "the environment's max_turns, or --turns if it was given",
    StopReason.DEADLINE: "its time was up",
}
"""What a limit that ends episodes asks for."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """Which tasks are played."""

    env: str
    n: int
    split: Split
    levels: tuple[int, ...]
    seed: int
    group: int = 1

    def episodes(self, plan: FaultPlan) -> list[EpisodeSpec]:
        """The same for every agent; those of a group are next to each other. The first of a group is the one that is
        played alone, so that a larger group goes on where a smaller one ended."""
        tasks = task_set(make(self.env), self.split, self.n, seed=self.seed, levels=self.levels)
        return [
            EpisodeSpec(task, plan, seed_of(self.seed, task.id, *([member] if member else [])), env=self.env)
            for task in tasks
            for member in range(self.group)
        ]

    def say_if_fewer(self, episodes: Sequence[EpisodeSpec], watch: Watch) -> None:
        """An environment may have fewer tasks than were asked for."""
        tasks = len({episode.task.id for episode in episodes})
        if tasks < self.n:
            level = f" of level {', '.join(map(str, self.levels))}" if self.levels else ""
            watch.say(f"{self.env} has {count(tasks, f'{self.split} task')}{level}: each is played once, not {self.n}")


def must_be_playable(players: Iterable[Player], env: str, wanted: Sequence[EpisodeSpec]) -> None:
    """Raises `ConfigError` for a scripted agent that can play none of the episodes: before anybody plays."""
    made = make(env)
    for player in players:
        name = "" if player.model else player.agent or "expert"
        if why := cannot_play(name, made, (episode.task for episode in wanted)):
            raise ConfigError(why)


def fault_plan(text: str, seed: int) -> FaultPlan:
    """Of one --faults; "clean" and nothing mean none. Its seed is the command's, unless it names its own."""
    text = text.strip()
    if text in ("", "clean"):
        return FaultPlan()
    return FaultPlan.parse(text, seed=seed)


def play(
    player: Player,
    agent: Agent,
    env: str,
    wanted: Sequence[EpisodeSpec],
    path: Path | None,
    watch: Watch,
    *,
    index: int = 1,
    of: int = 1,
    limits: Limits | None = None,
    overwrite: bool = False,
    group: int = 1,
    timed: bool = False,
) -> list[Trajectory]:
    """Plays what the file does not hold yet, and shows how it goes; all episodes, in the order of `wanted`.

    Args:
        player: Whose settings are written with each episode.
        agent: Who plays: `player`, loaded.
        env: Of the episodes that name none; several, as words, where each names its own.
        path: A file to go on with; None: nowhere.
        index, of: The place of this stage among those of the command.
        limits: When episodes are cut.
        overwrite: Delete what the file holds.
        group: Episodes of each task.
        timed: Whether each record says its share of the clock.
    """
    successes = 0

    def on_done(done: int, trajectory: Trajectory) -> None:
        nonlocal successes
        successes += trajectory.success is True
        watch.progress(done, len(wanted), f"{count(successes, 'success', 'successes')}")

    recorder = Recorder(path, player.meta, player.written, overwrite, timed)
    with telling(lambda text: watch.say(f"note: {text}"), bugs=False):  # of those the command speaks at its end
        played, before = play_into(
            recorder,
            env,
            agent,
            wanted,
            group=group,
            limits=limits,
            on_done=on_done,
            began=lambda: watch.stage(f"{agent.name} plays {env}", index, of),
        )
    if before:
        watch.say(f"{count(before, 'episode')} of {len(wanted)} were in {path} already")
    return played


def say_bugs(played: Sequence[Trajectory], *, debug: bool) -> bool:
    """Says on standard error that a bug of the environment ended some episodes; whether it has.

    Args:
        played: All episodes of the command.
        debug: Whether the traceback of the first is shown.
    """
    from ..trajectories.pages.report import visible

    said = bugs(played)
    if said:
        first = next(t for t in played if t.stop is StopReason.BUG)
        if debug:
            print(visible(str(first.meta.get(TRACEBACK, ""))), file=sys.stderr)
        hint = "" if debug else f"; for the traceback: {shlex.join(['sparring', '--debug', *sys.argv[1:]])}"
        print(visible(f"error: {said}{hint}"), file=sys.stderr)
    return bool(said)


def by_condition(trajectories: Iterable[Trajectory], *, several: bool = False) -> dict[str, Sequence[Trajectory]]:
    """Episodes by their fault plans; with their environment where there are several."""
    out: dict[str, list[Trajectory]] = {}
    for t in trajectories:
        name = condition_name(t.faults)
        out.setdefault(f"{t.env}: {name}" if several else name, []).append(t)
    return {**out}


def why_failed(trajectories: Iterable[Trajectory]) -> str:
    """How the failed episodes ended, commonest first, and what to do about a limit; empty where none failed."""
    failed = [t for t in trajectories if t.success is False]
    stops = Counter(t.stop for t in failed).most_common()
    return ", ".join(
        f"{stop.value} {n} of {len(failed)}" + (f" ({_WAY_OUT[stop]})" if stop in _WAY_OUT else "") for stop, n in stops
    )
