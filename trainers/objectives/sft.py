"""Supervised fine-tuning on trajectories: masked cross-entropy on what the agent should say, weighted by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ...trajectories.errors import ConfigError
from ..batch import Sample
from ..losses import Loss, merge_logs
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..run import Run
from ..samples import epoch_indices, likelihood_losses, samples_of, split_tasks
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
    validation_share: float = 0.0
    """Share of the tasks, from 0 to below 1, that are not trained on: the loss of their episodes is measured."""
    validate_every: int = 10
    """Steps between measurements of the held-out loss, where there are held-out episodes; the last step has one too."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "batch": 1,
        "validation_share": 0,
        "validate_every": 1,
    }

    def __post_init__(self) -> None:
        if self.validation_share >= 1:
            raise ConfigError(f"validation_share is below 1: something is trained on; got {self.validation_share}")
        TrainSettings.__post_init__(self)


@OBJECTIVES.register("sft")
class Sft:
    """Learns `data.episodes` as they are: curate them first (`gold`, `successes`, ...).

    Measures the loss of `data.held_out`, or of a share of the tasks of `data.episodes`, which then are not learned.
    """

    Settings: ClassVar[type[TrainSettings]] = SftSettings
    needs: ClassVar[Needs] = "episodes"
    metric: ClassVar[str] = "nll"

    def __init__(self, settings: SftSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._samples: list[Sample] = []
        self._held_out: list[Sample] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        learned, held_out = self.data.episodes, self.data.held_out
        if s.validation_share:
            if held_out:
                raise ConfigError("give episodes to validate on, or a validation_share of those that are trained on")
            learned, held_out = split_tasks(learned, lambda t: t, s.validation_share, s.seed)
        room = policy.room(s.max_context)
        self._samples = samples_of(policy.chat, learned, room)
        self._held_out = samples_of(policy.chat, held_out, room) if held_out else []

    def sample(self, run: Run, step: int) -> Drawn[list[Sample]]:
        s = self.settings
        return Drawn([self._samples[i] for i in epoch_indices(len(self._samples), s.batch, step, s.seed)])

    def losses(self, policy: Policy, batch: list[Sample]) -> Iterable[Callable[[], Loss]]:
        return likelihood_losses(policy, batch, self.settings.optim.micro_tokens)

    def measure(self, policy: Policy, step: int) -> Mapping[str, float]:
        """`held_out_nll`, in nats per token, where it is due; nothing where nothing is held out."""
        s = self.settings
        if not self._held_out or (step % s.validate_every and step < s.steps):
            return {}
        with torch.no_grad():
            losses = [compute() for compute in likelihood_losses(policy, self._held_out, s.optim.micro_tokens)]
        return {"held_out_nll": merge_logs(losses)["nll"]}
