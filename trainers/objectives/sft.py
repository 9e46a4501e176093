"""Supervised fine-tuning on trajectories: masked cross-entropy on what the agent should say, weighted by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from ..batch import Sample
from ..losses import Loss
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..run import Run
from ..samples import epoch_indices, likelihood_losses, samples_of
from ..settings import Optim, TrainSettings

__all__ = ["Sft", "SftSettings"]


@dataclass(frozen=True, slots=True)
class SftSettings(TrainSettings):
    """Of one SFT run."""

    steps: int = 22
    """Optimiser steps of the whole run."""
    batch: int = 16
    """Trajectories in a step."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, schedule="linear", warmup=2))
    """Optimiser and schedule."""
    save_every: int = 20
    """Steps between checkpoints; 0: only when the run is interrupted."""


@OBJECTIVES.register("sft")
class Sft:
    """Learns `data.episodes` as they are: curate them first (`gold`, `successes`, ...)."""

    Settings: ClassVar[type[TrainSettings]] = SftSettings
    needs: ClassVar[Needs] = "episodes"
    metric: ClassVar[str] = "nll"

    def __init__(self, settings: SftSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._samples: list[Sample] = []

    def prepare(self, policy: Policy) -> None:
        self._samples = samples_of(policy.chat, self.data.episodes, policy.room(self.settings.max_context))

    def sample(self, run: Run, step: int) -> Drawn[list[Sample]]:
        s = self.settings
        return Drawn([self._samples[i] for i in epoch_indices(len(self._samples), s.batch, step, s.seed)])

    def losses(self, policy: Policy, batch: list[Sample]) -> Iterable[Callable[[], Loss]]:
        return likelihood_losses(policy, batch, self.settings.optim.micro_tokens)
