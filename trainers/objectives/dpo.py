"""Direct preference optimisation on pairs of trajectories of one task under one fault seed.

Only tokens that the policy sampled count, and of these only what follows the fork: the shared prefix is the same on
both sides and cancels. Next to the preference loss there are the likelihood of the chosen side and replay of gold
episodes, both against forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...agents.chat_format import tokens_of
from ...trajectories.curation import Pair
from ...trajectories.errors import DataError
from ..batch import Sample, TreeBatch, common_prefix
from ..losses import DpoVariant, Loss, dpo_loss, sequence_sums
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..run import Run
from ..samples import Replay, epoch_indices, say_rendered_anew
from ..settings import Optim, TrainSettings

__all__ = ["WAYS_TO_PAIRS", "Dpo", "DpoSettings", "StepPairs"]


WAYS_TO_PAIRS = (
    "more episodes of each task (sparring rollout ENV --model MODEL --group 8), a higher --temperature, tasks or "
    "--faults that the model sometimes fails, or the expert's corrections (sparring curate FILE --rule "
    "'pairs by=correction' --out pairs.jsonl)"
)
"""What gives pairs where there are none."""


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
    """The loss: DPO's sigmoid (2305.18290), or IPO (2310.12036)."""
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
        "nll": 0,
        "replay": 0,
        "replay_weight": 0,
    }
    above: ClassVar[dict[str, float]] = {"beta": 0}
    endless: ClassVar[str] = "min_chosen"


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
        self._sides: list[tuple[Sample, Sample]] = []
        self._reference: dict[int, Tensor] = {}
        self._kept: list[int] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        say_rendered_anew(policy.chat, (side for pair in self.data.pairs for side in (pair.chosen, pair.rejected)))
        sides = [_sides(policy, pair, policy.room(s.max_context)) for pair in self.data.pairs]
        self._sides = sides = [both for both in sides if both[0].weight and both[1].weight]
        if not sides:
            raise DataError(
                f"none of {len(self.data.pairs)} pairs has a divergent turn on both sides: make pairs of episodes that "
                f"went differently; {WAYS_TO_PAIRS}"
            )
        for indices in _micro(sides, range(len(sides)), s.optim.micro_tokens):
            with torch.no_grad():
                self._reference |= zip(indices, _sums(policy, sides, indices)[0].T, strict=True)
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
            sums, lengths = _sums(policy, self._sides, indices)
            ref = torch.stack([self._reference[i] for i in indices], 1)
            return dpo_loss(
                sums[0],
                sums[1],
                ref[0],
                ref[1],
                beta=s.beta,
                variant=s.variant,
                nll_alpha=s.nll,
                chosen_tokens_P=lengths[0],
                rejected_tokens_P=lengths[1],
                denominator=len(batch.pairs),
            )

        for indices in _micro(self._sides, batch.pairs, s.optim.micro_tokens):
            yield lambda indices=indices: preference(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, batch.step, s.optim.micro_tokens)


def _sides(policy: Policy, pair: Pair, max_context: int) -> tuple[Sample, Sample]:
    """Chosen and rejected, with weight on sampled tokens after the fork."""
    out = []
    for trajectory in (pair.chosen, pair.rejected):
        tokens, spans = tokens_of(policy.chat, trajectory, pair.rejected if trajectory is pair.chosen else None)
        if len(tokens) > max_context:
            raise DataError(f"trajectory {trajectory.id} has {len(tokens)} tokens, over the limit of {max_context}")
        start = spans[pair.fork][0] if pair.fork < len(spans) else len(tokens)
        out.append(Sample.of(tokens, weights=[float(t >= start) for t in range(len(tokens))]))
    return out[0], out[1]


def _micro(sides: Sequence[tuple[Sample, Sample]], chosen: Iterable[int], micro_tokens: int) -> Iterable[list[int]]:
    """Indices in batches that keep both sides of a pair together."""
    batch: list[int] = []
    size = 0
    for i in chosen:
        chosen_ids, rejected_ids = sides[i][0].ids, sides[i][1].ids
        new = len(chosen_ids) + len(rejected_ids) - common_prefix(chosen_ids, rejected_ids)
        if batch and size + new > micro_tokens:
            yield batch
            batch, size = [], 0
        batch.append(i)
        size += new
    if batch:
        yield batch


def _sums(policy: Policy, sides: Sequence[tuple[Sample, Sample]], indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities (2, P) of chosen and rejected, and their numbers of tokens (2, P)."""
    samples = [sides[i][0] for i in indices] + [sides[i][1] for i in indices]
    batch = TreeBatch.build(samples, policy.device)
    sums = sequence_sums(policy.predict(batch).logps_M, batch.owner_M, batch.n)
    lengths = sequence_sums(batch.weights_M, batch.owner_M, batch.n)
    return sums.view(2, -1), lengths.view(2, -1)
