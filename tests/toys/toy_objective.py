"""A toy objective, whole in this file: the likelihood of each episode, weighted by its reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sparring.trainers import OBJECTIVES, Data, Policy, TrainSettings
from sparring.trainers.batch import Sample
from sparring.trainers.losses import Loss
from sparring.trainers.objective import Drawn
from sparring.trainers.run import Run
from sparring.trainers.samples import epoch_indices, likelihood_losses, samples_of


@dataclass(frozen=True, slots=True)
class ToySettings(TrainSettings):
    """Of one run of the toy."""

    floor: float = 0.1
    """Reward that counts at least."""


@OBJECTIVES.register("toy")
class Toy:
    """Learns `data.episodes`, the more the higher their reward."""

    Settings = ToySettings
    needs = "episodes"
    metric = "nll"

    def __init__(self, settings: ToySettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._samples: list[tuple[Sample, float]] = []

    def prepare(self, policy: Policy) -> None:
        for t in self.data.episodes:
            (sample,) = samples_of(policy.chat, [t], self.settings.max_context)
            self._samples.append((sample, max(t.reward, self.settings.floor)))

    def sample(self, run: Run, step: int) -> Drawn[tuple[Sample, float]]:
        (index,) = epoch_indices(len(self._samples), 1, step, self.settings.seed)
        return Drawn(self._samples[index])

    def losses(self, policy: Policy, batch: tuple[Sample, float]) -> Iterable[Callable[[], Loss]]:
        sample, weight = batch
        return likelihood_losses(policy, [sample], self.settings.optim.micro_tokens, weight=weight)
