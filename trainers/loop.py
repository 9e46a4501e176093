"""The loop of every training run, whatever its objective: sample, losses, update, log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .model import Policy
from .objective import Objective
from .run import OnEpisode, OnStep, Run
from .world import World

__all__ = ["train"]


def train(
    policy: Policy,
    objective: Objective[Any],
    folder: str | Path,
    *,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
    world: World | None = None,
) -> Path:
    """Trains `policy` and returns the model's folder. Resumes where an earlier call in `folder` was stopped.

    Args:
        policy: The model; trained in place.
        objective: What it learns, and its settings.
        folder: Metrics, checkpoints and, in the end, `model/`.
        on_step: Told of each step's row of metrics.
        on_episode: Told within a step how many of how many episodes have been played, where the objective plays.
        world: The processes that train together; one by default.

    Raises `DataError` when there is nothing to learn from, `ConfigError` for a folder with a run of other settings,
    `Interrupted` after Ctrl-C, when a checkpoint was written.
    """
    objective.prepare(policy)  # with the policy as it was given, before a checkpoint is taken up
    s = objective.settings
    run = Run(
        Path(folder), policy, s.optim, s.steps, settings=s, save_every=s.save_every, world=world, on_episode=on_episode
    )
    with run.saving_on_interrupt():
        for step in run.steps():
            drawn = objective.sample(run, step)
            sampled = time.monotonic()
            row = run.update(objective.losses(policy, drawn.batch))
            row |= {**drawn.logs, "update_seconds": time.monotonic() - sampled}
            run.log(row)
            if on_step is not None:
                on_step(run, row)
    return run.finish()
