"""DMPO (2406.14868): DPO over whole episodes, in which a turn weighs less the later it is and the longer the episode.

Turn k of T (from 0) weighs g^k (1 - g^(T-k)) / (1 - g^T); (T - k) / T for g = 1. All turns count, those before the
fork too: on sides of different length they do not cancel. A small g mutes late turns, which are the recoveries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...trajectories.errors import ConfigError
from ..losses import Loss, dpo_loss
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..preferences import Sides, pairs_in_tokens, reference_sums, side_batches, side_sums
from ..run import Run
from ..samples import Replay, epoch_indices
from ..settings import Optim, TrainSettings

__all__ = ["Dmpo", "DmpoSettings", "turn_weight"]


@dataclass(frozen=True, slots=True)
class DmpoSettings(TrainSettings):
    """Of one DMPO run."""

    steps: int = 4
    """Optimiser steps of the whole run."""
    batch: int = 16
    """Pairs in a step."""
    beta: float = 0.1
    """How firmly the policy is held to where it began."""
    gamma: float = 0.95
    """Discount of later turns, above 0 and up to 1; 0.9 or more where late turns are recoveries."""
    replay: int = 4
    """Gold episodes in a step, trained by cross-entropy next to the pairs."""
    replay_weight: float = 0.2
    """Weight of their cross-entropy."""
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {"batch": 1, "replay": 0, "replay_weight": 0}
    above: ClassVar[dict[str, float]] = {"beta": 0, "gamma": 0}

    def __post_init__(self) -> None:
        if self.gamma > 1:
            raise ConfigError(f"gamma is a discount of 1 at most, got {self.gamma}")
        TrainSettings.__post_init__(self)


def turn_weight(turn: int, turns: int, gamma: float) -> float:
    """phi(k, T): from 1 at the first turn down to about 1/T at the last."""
    if gamma == 1:
        return (turns - turn) / turns
    return gamma**turn * (1 - gamma ** (turns - turn)) / (1 - gamma**turns)


@OBJECTIVES.register("dmpo")
class Dmpo:
    """Learns from `data.pairs`; the reference is the policy as it was given. `data.gold` is replayed."""

    Settings: ClassVar[type[TrainSettings]] = DmpoSettings
    needs: ClassVar[Needs] = "pairs"
    metric: ClassVar[str] = "accuracy"

    def __init__(self, settings: DmpoSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._sides: list[Sides] = []
        self._reference: list[Tensor] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings

        def weight(turn: int, turns: int, fork: int) -> float:
            return turn_weight(turn, turns, s.gamma)

        self._sides = pairs_in_tokens(policy, self.data.pairs, s.max_context, weight)
        self._reference = reference_sums(policy, self._sides, s.optim.micro_tokens)
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[tuple[int, list[int]]]:
        n = len(self._sides)
        chosen = epoch_indices(n, min(self.settings.batch, n), step, self.settings.seed)
        return Drawn((step, chosen), {"pairs": float(n)})

    def losses(self, policy: Policy, batch: tuple[int, list[int]]) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        step, pairs = batch

        def preference(indices: list[int]) -> Loss:
            sums, _ = side_sums(policy, self._sides, indices)
            reference = torch.stack([self._reference[i] for i in indices], 1)
            return dpo_loss(*sums, *reference, beta=s.beta, denominator=len(pairs))

        for indices in side_batches(self._sides, pairs, s.optim.micro_tokens):
            yield lambda indices=indices: preference(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, step, s.optim.micro_tokens)
