"""The loop of every training run, whatever its objective: sample, losses, update, log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..agents.models import not_finite
from ..trajectories.errors import DataError
from ..trajectories.locks import only_process_in
from .model import Policy
from .objective import Measures, Objective, Rounds
from .run import OnEpisode, OnStep, Run
from .world import World

__all__ = ["train"]

_log = logging.getLogger(__name__)


def train(
    policy: Policy,
    objective: Objective[Any],
    folder: str | Path,
    *,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
    on_note: Callable[[str], None] | None = None,
    world: World | None = None,
) -> Path:
    """Trains `policy` and returns the model's folder. Resumes where an earlier call in `folder` was stopped.

    Args:
        policy: The model; trained in place.
        objective: What it learns, and its settings.
        folder: Metrics, checkpoints and, in the end, `model/`. One process at a time is at work in it.
        on_step: Told of each step's row of metrics.
        on_episode: Told within a step how many of how many episodes have been played, where the objective plays.
        on_note: Told at the end what went wrong without being an error: no step had a signal, say. None: it is logged.
        world: The processes that train together; one by default.

    Raises `DataError` when there is nothing to learn from or the model's weights are not finite, `ConfigError` for a
    folder with a run of other settings or with another process at work in it, `TrainingError` when a loss or a weight
    is not finite, `Interrupted` after Ctrl-C, SIGTERM or SIGHUP, when a checkpoint was written.
    """
    with only_process_in(Path(folder)):
        if broken := not_finite(policy.module):
            raise DataError(
                f"the model's weights are not finite ({broken}): nothing can be trained from it; take another model, "
                "or an earlier version of this one"
            )
        objective.prepare(policy)  # with the policy as it was given, before a checkpoint is taken up
        s = objective.settings
        run = Run(
            Path(folder),
            policy,
            s.optim,
            s.steps,
            settings=s,
            save_every=s.save_every,
            world=world,
            on_episode=on_episode,
        )
        with run.saving_on_interrupt():
            for step in run.steps():
                drawn = objective.sample(run, step)
                sampled = time.monotonic()
                if isinstance(objective, Rounds):
                    row = run.update_each(objective.rounds(policy, drawn.batch))
                else:
                    row = run.update(objective.losses(policy, drawn.batch))
                row |= {**drawn.logs, "update_seconds": time.monotonic() - sampled}
                if isinstance(objective, Measures):
                    row |= objective.measure(policy, step + 1)
                run.log(row)
                run.check(row)
                if on_step is not None:
                    on_step(run, row)
            model = run.finish()
        for note in _notes(run.rows):
            (on_note or _log.warning)(note)
    return model


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a finished run has to say of itself, from all of its rows of metrics."""
    notes = []
    signals = [row["signal"] for row in rows if isinstance(row.get("signal"), int | float)]
    if signals and not any(signals):
        rest = "; what changed comes from replay" if any("replay_nll" in row for row in rows) else ""
        notes.append(
            f"no group had a signal in any of {len(signals)} steps: all episodes of each group had the same reward, so "
            f"that the policy learned nothing from it{rest}. Try other levels or faults, more episodes of a group, a "
            "higher temperature, more tokens a turn, or SFT first"
        )
    if bugs := sum(int(row["bugs"]) for row in rows if isinstance(row.get("bugs"), int | float)):
        notes.append(
            f"{bugs} episodes were ended by a bug of the environment, and nothing was learned from them: what is left "
            "is no fair draw of its tasks; sparring check says which line, then train again"
        )
    if rows and all(row.get("lr") == 0 or row.get("grad_norm") == 0 for row in rows) and (not signals or any(signals)):
        why = "the learning rate" if all(row.get("lr") == 0 for row in rows) else "the gradient"
        notes.append(
            f"{why} was 0 in each of {len(rows)} steps: the weights are as they were; look at --lr and at the data"
        )
    skipped = sum(bool(row.get("skipped")) for row in rows)
    if skipped:
        notes.append(f"{skipped} of {len(rows)} steps were skipped: their gradients were not finite")
    return notes
