"""SimPO (2405.14734): pairs by log-probability per token, without a reference.

Only tokens that the policy sampled count, and of these only what follows the fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from ..losses import Loss, simpo_loss
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..preferences import Sides, pairs_in_tokens, side_batches, side_sums
from ..run import Run
from ..samples import Replay, epoch_indices
from ..settings import Optim, TrainSettings

__all__ = ["SimPo", "SimPoSettings"]


@dataclass(frozen=True, slots=True)
class SimPoSettings(TrainSettings):
    """Of one SimPO run."""

    steps: int = 4
    """Optimiser steps of the whole run."""
    batch: int = 16
    """Pairs in a step."""
    beta: float = 2.0
    """Scale of the log-probabilities per token."""
    target: float = 1.0
    """Margin that is wanted at least, in the scale of beta: the paper's gamma, about half of beta."""
    nll: float = 0.2
    """Weight of the chosen side's cross-entropy (2404.19733)."""
    replay: int = 4
    """Gold episodes in a step, trained by cross-entropy next to the pairs."""
    replay_weight: float = 0.2
    """Weight of their cross-entropy."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-6))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "batch": 1,
        "target": 0,
        "nll": 0,
        "replay": 0,
        "replay_weight": 0,
    }
    above: ClassVar[dict[str, float]] = {"beta": 0}


@OBJECTIVES.register("simpo")
class SimPo:
    """Learns from `data.pairs`. `data.gold` is replayed."""

    Settings: ClassVar[type[TrainSettings]] = SimPoSettings
    needs: ClassVar[Needs] = "pairs"
    metric: ClassVar[str] = "accuracy"

    def __init__(self, settings: SimPoSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._sides: list[Sides] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        self._sides = pairs_in_tokens(policy, self.data.pairs, s.max_context)
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[tuple[int, list[int]]]:
        n = len(self._sides)
        chosen = epoch_indices(n, min(self.settings.batch, n), step, self.settings.seed)
        return Drawn((step, chosen), {"pairs": float(n)})

    def losses(self, policy: Policy, batch: tuple[int, list[int]]) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        step, pairs = batch

        def preference(indices: list[int]) -> Loss:
            sums, lengths = side_sums(policy, self._sides, indices)
            return simpo_loss(*sums, *lengths, beta=s.beta, target=s.target, nll_alpha=s.nll, denominator=len(pairs))

        for indices in side_batches(self._sides, pairs, s.optim.micro_tokens):
            yield lambda indices=indices: preference(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, step, s.optim.micro_tokens)
