"""The stage `train`: one objective, from one model to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...trajectories.curation import mixture
from ...trajectories.errors import ConfigError
from ...trajectories.plain import from_plain
from ...trajectories.trajectory import Trajectory
from ..loop import train
from ..objective import OBJECTIVES, Data
from ..run import Run
from ..stage import BASE, STAGES, Work, is_file
from .pairs import read_pairs

__all__ = ["Train"]


@STAGES.register("train")
@dataclass(frozen=True, slots=True)
class Train:
    """Leaves a model, and the run's metrics."""

    about = "one objective, from one model to the next"

    objective: str
    """Its name: sft, dpo, grpo, or one of yours."""
    model: str = BASE
    """The stage whose model it begins with, or `base`."""
    episodes: tuple[str, ...] | Mapping[str, float] = ()
    """Stages whose episodes it learns; with shares, as many of each as make up steps x batch."""
    pairs: str = ""
    """The stage whose pairs it learns."""
    gold: str = ""
    """The stage whose episodes are replayed."""
    validation: str = ""
    """Episodes whose loss is measured, and which are not learned: a stage, or a file of episodes (`held-out.jsonl`)."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Plans by share, for objectives that play; `{kinds}` are the kinds of fault that fit the environment."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the objective, by the names of its settings."""

    def uses(self) -> Sequence[str]:
        held_out = "" if is_file(self.validation) else self.validation
        return [name for name in (self.model, *self.episodes, self.pairs, self.gold, held_out) if name]

    def files(self) -> Sequence[str]:
        return (self.validation,) if is_file(self.validation) else ()

    def run(self, work: Work) -> None:
        kind = OBJECTIVES.get(self.objective)
        given: dict[str, Any] = {"seed": work.seed, **self.settings}
        if kind.needs == "mixture":
            given = {"parallel": work.how.parallel, "mixture": work.mixture(self.faults or {"": 1.0}), **given}
        settings = from_plain(kind.Settings, given, f"stage {work.name}")
        episodes = self._episodes(work, settings)
        pairs = read_pairs(work.inputs[self.pairs]) if self.pairs else ()
        gold = work.inputs[self.gold].read() if self.gold else ()
        if self.validation and not hasattr(kind, "measure"):
            raise ConfigError(
                f"stage {work.name}: the objective {self.objective} measures nothing on held-out episodes: leave "
                "validation away"
            )
        held_out = work.episodes(self.validation) if self.validation else ()
        make: Any = kind  # each kind takes (settings, data)
        objective = make(settings, Data(episodes, pairs, gold, held_out))

        def playing(run: Run, done: int, of: int) -> None:
            work.watcher.progress(run.step, run.total, f"playing episode {done} of {of}", run.seconds_left())

        train(
            work.policy(self.model),
            objective,
            work.folder,
            on_step=work.training(kind.metric),
            on_episode=playing,
            on_note=lambda note: work.watcher.say(f"warning: {work.name}: {note}"),
        )

    def _episodes(self, work: Work, settings: Any) -> Sequence[Trajectory]:
        parts = {name: work.inputs[name].read() for name in self.episodes}
        if isinstance(self.episodes, Mapping):
            n = settings.steps * settings.batch
            return mixture(parts, dict(self.episodes), n, seed=work.seed).items
        return [t for part in parts.values() for t in part]
