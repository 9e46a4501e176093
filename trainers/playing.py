"""What objectives have in common that play: the settings of it, the episodes of one step, and what they came to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..agents.evaluation import seed_of
from ..trajectories.errors import ConfigError
from ..trajectories.trajectory import Trajectory, dump_jsonl
from .mixture import Mixture, sample_groups
from .run import Run
from .settings import TrainSettings

__all__ = ["PlaySettings", "episodes_file", "play_step", "summary"]


@dataclass(frozen=True, slots=True)
class PlaySettings(TrainSettings):
    """Of a run that plays some tasks in each step."""

    mixture: Mixture = field(kw_only=True)
    """What is played."""
    tasks: int = 16
    """Tasks with their faults that are drawn for a step."""
    each: int = 4
    """Episodes of each task."""
    temperature: float = 1.0
    """Of sampling, above 0. Log-probabilities are taken at it."""
    max_turn_tokens: int = 64
    """Tokens that the policy may say in one turn."""
    parallel: int = 64
    """Episodes that are played at once."""
    replay: int = 4
    """Gold episodes in an update."""
    replay_weight: float = 0.1
    """Weight of their cross-entropy."""
    save_every: int = 5
    """Steps between checkpoints; 0: only when the run is interrupted."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "tasks": 1,
        "each": 1,
        "max_turn_tokens": 1,
        "parallel": 1,
        "replay": 0,
        "replay_weight": 0,
    }
    above: ClassVar[dict[str, float]] = {"temperature": 0}

    def __post_init__(self) -> None:
        if self.temperature == 0:
            raise ConfigError(
                "at temperature 0 nothing is drawn from a distribution that could be learned: sample above 0, such as "
                "at 1"
            )
        TrainSettings.__post_init__(self)


def play_step(run: Run, settings: PlaySettings, step: int) -> tuple[list[Trajectory], dict[str, float]]:
    """The judged episodes that the policy plays in a step, and what there is to say of them.

    Writes them to `episodes/step-000001.jsonl` in the run's folder. Raises `InfrastructureError` when all failed for
    reasons that are not the policy's.
    """
    s = settings
    started = time.monotonic()
    agent = run.policy.agent(
        temperature=s.temperature, max_turn_tokens=s.max_turn_tokens, parallel=s.parallel, version=step
    )
    groups = sample_groups(
        s.mixture,
        agent,
        s.tasks,
        s.each,
        seed=seed_of(s.seed, step) % 2**31,
        least=1,
        on_done=run.counting_episodes(s.tasks * s.each),
    )
    episodes = [t for g in groups for t in g.trajectories]
    run.write(episodes_file(step), dump_jsonl(episodes))
    return episodes, {**summary(episodes), "rollout_seconds": time.monotonic() - started}


def episodes_file(step: int) -> str:
    """Where the episodes of step `step` (from 0) are, below the run's folder."""
    return f"episodes/step-{step + 1:06d}.jsonl"


def summary(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """What episodes that were just played came to. Those that begin in a fork are counted apart: they begin with a
    failure that has happened."""
    forked = [t for t in episodes if t.forked_from is not None]
    whole = [t for t in episodes if t.forked_from is None] or episodes
    n = len(whole)
    out = {
        "reward": sum(t.reward for t in whole) / n,
        "success": sum(bool(t.success) for t in whole) / n,
        "turns": sum(len(t.turns) for t in whole) / n,
        "sampled_tokens": sum(sum(t.tokens.sampled) for t in whole if t.tokens) / n,
    }
    if cut := sum(t.stop.truncated for t in whole):
        out["cut"] = cut / n
    if forked:
        out["success_forked"] = sum(bool(t.success) for t in forked) / len(forked)
    for faults, name in ((0, "success_clean"), (1, "success_one_fault"), (2, "success_two_faults")):
        mine = [bool(t.success) for t in whole if len(t.faults_hit) == faults]
        if mine:
            out[name] = sum(mine) / len(mine)
    if len(envs := dict.fromkeys(t.env for t in whole)) > 1:
        for env in envs:
            mine = [bool(t.success) for t in whole if t.env == env]
            out[f"success {env}"] = sum(mine) / len(mine)
    return out
