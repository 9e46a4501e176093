"""Direct preference optimisation on pairs of trajectories of one task under one fault seed.

Only tokens that the policy sampled count, and of these only what follows the fork: the shared prefix is the same on
both sides and cancels. Next to the preference loss there are the likelihood of the chosen side and replay of gold
episodes, both against forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...trajectories.errors import ConfigError, DataError
from ..losses import DpoVariant, Loss, Normalise, dpo_loss
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..preferences import Sides, pairs_in_tokens, reference_sums, side_batches, side_sums
from ..run import Run
from ..samples import Replay, epoch_indices
from ..settings import Optim, TrainSettings

__all__ = ["Dpo", "DpoSettings", "StepPairs"]


@dataclass(frozen=True, slots=True)
class DpoSettings(TrainSettings):
    """Of one DPO run."""

    steps: int = 4
    """Optimiser steps of the whole run."""
    batch: int = 16
    """Pairs in a step."""
    beta: float = 0.1
    """How firmly the policy is held to where it began."""
    variant: DpoVariant = "sigmoid"
    """The loss: sigmoid (2305.18290), ipo (2310.12036), hinge (2305.10425), or robust to wrong labels (2403.00409)."""
    normalise: Normalise = "sum"
    """Of each side's change: its sum, as published, or its mean over tokens. For the mean, beta is larger by about the
    tokens of a side."""
    label_smoothing: float = 0.0
    """Share of pairs that may be the wrong way round, from 0 to below 0.5; for sigmoid and robust."""
    nll: float = 0.2
    """Weight of the chosen side's cross-entropy (2404.19733)."""
    min_chosen: float = -12.0
    """Pairs whose chosen side has less than this log-probability (nats, summed after the fork) under the reference are
    left out: there DPO gains its margin by pushing everything else down, and what was known is lost."""
    replay: int = 4
    """Gold episodes in a step, trained by cross-entropy next to the pairs."""
    replay_weight: float = 0.2
    """Weight of their cross-entropy."""
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "batch": 1,
        "label_smoothing": 0,
        "nll": 0,
        "replay": 0,
        "replay_weight": 0,
    }
    above: ClassVar[dict[str, float]] = {"beta": 0}
    endless: ClassVar[str] = "min_chosen"

    def __post_init__(self) -> None:
        if self.label_smoothing >= 0.5:
            raise ConfigError(f"label_smoothing is below 0.5: most labels are right; got {self.label_smoothing}")
        if self.label_smoothing and self.variant not in ("sigmoid", "robust"):
            raise ConfigError(f"label_smoothing goes with sigmoid and robust, not with {self.variant}: leave it at 0")
        TrainSettings.__post_init__(self)


@dataclass(frozen=True, slots=True)
class StepPairs:
    """What one step of DPO learns from."""

    step: int
    pairs: list[int]
    """Indices of the pairs of this step."""


@OBJECTIVES.register("dpo")
class Dpo:
    """Learns from `data.pairs`; the reference is the policy as it was given. `data.gold` is replayed."""

    Settings: ClassVar[type[TrainSettings]] = DpoSettings
    needs: ClassVar[Needs] = "pairs"
    metric: ClassVar[str] = "accuracy"

    def __init__(self, settings: DpoSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._sides: list[Sides] = []
        self._reference: list[Tensor] = []
        self._kept: list[int] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        self._sides = sides = pairs_in_tokens(policy, self.data.pairs, s.max_context)
        self._reference = reference_sums(policy, sides, s.optim.micro_tokens)
        self._kept = [i for i in range(len(sides)) if float(self._reference[i][0]) >= s.min_chosen]
        if not self._kept:
            raise DataError(
                f"the chosen side of all {len(sides)} pairs is less likely than {s.min_chosen} nats: train on "
                "demonstrations first, or lower min_chosen (--min-chosen)"
            )
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[StepPairs]:
        kept = self._kept
        size = min(self.settings.batch, len(kept))
        chosen = [kept[i] for i in epoch_indices(len(kept), size, step, self.settings.seed)]
        logs = {"pairs": float(len(kept)), "pairs_left_out": float(len(self._sides) - len(kept))}
        return Drawn(StepPairs(step, chosen), logs)

    def losses(self, policy: Policy, batch: StepPairs) -> Iterable[Callable[[], Loss]]:
        s = self.settings

        def preference(indices: list[int]) -> Loss:
            sums, lengths = side_sums(policy, self._sides, indices)
            ref = torch.stack([self._reference[i] for i in indices], 1)
            return dpo_loss(
                sums[0],
                sums[1],
                ref[0],
                ref[1],
                beta=s.beta,
                variant=s.variant,
                normalise=s.normalise,
                label_smoothing=s.label_smoothing,
                nll_alpha=s.nll,
                chosen_tokens_P=lengths[0],
                rejected_tokens_P=lengths[1],
                denominator=len(batch.pairs),
            )

        for indices in side_batches(self._sides, batch.pairs, s.optim.micro_tokens):
            yield lambda indices=indices: preference(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, batch.step, s.optim.micro_tokens)
