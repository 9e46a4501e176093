"""Reward model: a number for a whole episode, learned from pairs by Bradley-Terry.

-log sigmoid(r_chosen - r_rejected) + centre (r_chosen + r_rejected)^2. The number is a head's, read at the last token
that the agent said. Pairs come from success, from a judge or from people; `RewardModel` then scores with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ...trajectories.curation import Pair
from ...trajectories.errors import ConfigError, DataError
from ..losses import Loss, merge_logs, reward_loss
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..preferences import WAYS_TO_PAIRS, Sides, side_batches
from ..reward_model import HEAD, rewards_of, scored_sample
from ..run import Run
from ..samples import epoch_indices, say_rendered_anew, split_tasks
from ..settings import Optim, TrainSettings

__all__ = ["BradleyTerry", "RewardModelSettings"]


@dataclass(frozen=True, slots=True)
class RewardModelSettings(TrainSettings):
    """Of one run of a reward model."""

    steps: int = 20
    """Optimiser steps of the whole run."""
    batch: int = 16
    """Pairs in a step."""
    centre: float = 0.01
    """Weight of the square of both rewards' sum, which keeps them around 0 (2312.09244)."""
    validation_share: float = 0.0
    """Share of the tasks, from 0 to below 1, whose pairs are not trained on: the accuracy on them is measured."""
    validate_every: int = 10
    """Steps between measurements on held-out pairs, where there are any; the last step has one too."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, warmup=2))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "batch": 1,
        "centre": 0,
        "validation_share": 0,
        "validate_every": 1,
    }

    def __post_init__(self) -> None:
        if self.validation_share >= 1:
            raise ConfigError(f"validation_share is below 1: something is trained on; got {self.validation_share}")
        TrainSettings.__post_init__(self)


@OBJECTIVES.register("reward-model")
class BradleyTerry:
    """Learns from `data.pairs`. The model's folder then is a `RewardModel`'s."""

    Settings: ClassVar[type[TrainSettings]] = RewardModelSettings
    needs: ClassVar[Needs] = "pairs"
    metric: ClassVar[str] = "accuracy"

    def __init__(self, settings: RewardModelSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._learned: list[Sides] = []
        self._held_out: list[Sides] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        if HEAD not in policy.heads:
            policy.add_head(HEAD)
        learned: Sequence[Pair] = self.data.pairs
        held_out: Sequence[Pair] = ()
        if s.validation_share:
            learned, held_out = split_tasks(learned, lambda pair: pair.chosen, s.validation_share, s.seed)
        if not learned:
            raise DataError(f"no pairs to learn a reward from: give some; {WAYS_TO_PAIRS}")
        say_rendered_anew(policy.chat, (t for pair in self.data.pairs for t in (pair.chosen, pair.rejected)))
        room = policy.room(s.max_context)
        self._learned, self._held_out = (
            [
                Sides(
                    scored_sample(policy.chat, pair.chosen, room, pair.rejected),
                    scored_sample(policy.chat, pair.rejected, room),
                )
                for pair in pairs
            ]
            for pairs in (learned, held_out)
        )

    def sample(self, run: Run, step: int) -> Drawn[list[int]]:
        n = len(self._learned)
        return Drawn(epoch_indices(n, min(self.settings.batch, n), step, self.settings.seed), {"pairs": float(n)})

    def losses(self, policy: Policy, batch: list[int]) -> Iterable[Callable[[], Loss]]:
        return self._losses(policy, self._learned, batch)

    def measure(self, policy: Policy, step: int) -> Mapping[str, float]:
        """`held_out_accuracy` and `held_out_margin`, where they are due."""
        s = self.settings
        if not self._held_out or (step % s.validate_every and step < s.steps):
            return {}
        with torch.no_grad():
            losses = [compute() for compute in self._losses(policy, self._held_out, range(len(self._held_out)))]
        logs = merge_logs(losses)
        return {f"held_out_{name}": logs[name] for name in ("accuracy", "margin")}

    def _losses(self, policy: Policy, sides: Sequence[Sides], chosen: Sequence[int]) -> Iterable[Callable[[], Loss]]:
        def compute(indices: list[int]) -> Loss:
            samples = [sides[i].chosen for i in indices] + [sides[i].rejected for i in indices]
            rewards = rewards_of(policy, samples).view(2, -1)
            return reward_loss(rewards[0], rewards[1], centre=self.settings.centre, denominator=len(chosen))

        for indices in side_batches(sides, chosen, self.settings.optim.micro_tokens):
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
