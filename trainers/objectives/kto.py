"""KTO (2402.01306): learns from episodes that were good or bad, one by one; no pairs are needed.

The anchor is the mean change of log-probability of mismatched episodes: what was said in one, after the prompt of
another. It is an estimate of the KL to the reference, from below 0 cut off, and without gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...agents.chat_format import tokens_of
from ...trajectories.errors import DataError
from ...trajectories.trajectory import Tokens, Trajectory
from ..batch import Sample, TreeBatch, micro_batches
from ..losses import Loss, kto_loss, sequence_sums
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..run import Run
from ..samples import Replay, epoch_indices, say_rendered_anew
from ..settings import Optim, TrainSettings

__all__ = ["Kto", "KtoSettings"]


@dataclass(frozen=True, slots=True)
class KtoSettings(TrainSettings):
    """Of one KTO run."""

    steps: int = 4
    """Optimiser steps of the whole run."""
    batch: int = 32
    """Episodes in a step."""
    beta: float = 0.1
    """How firmly the policy is held to where it began."""
    good: float = 1.0
    """Weight of each success."""
    bad: float = 1.0
    """Weight of each failure; good x successes is to be about bad x failures."""
    replay: int = 4
    """Gold episodes in a step, trained by cross-entropy next to the others."""
    replay_weight: float = 0.2
    """Weight of their cross-entropy."""
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "batch": 2,
        "good": 0,
        "bad": 0,
        "replay": 0,
        "replay_weight": 0,
    }
    above: ClassVar[dict[str, float]] = {"beta": 0}


@OBJECTIVES.register("kto")
class Kto:
    """Learns `data.episodes` by their success; the reference is the policy as it was given. `data.gold` is replayed.

    Episodes without a verdict, or in which nothing was said, are left out and counted.
    """

    Settings: ClassVar[type[TrainSettings]] = KtoSettings
    needs: ClassVar[Needs] = "outcomes"
    metric: ClassVar[str] = "accuracy"

    def __init__(self, settings: KtoSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._samples: list[Sample] = []
        self._mismatched: list[Sample] = []
        self._good: list[float] = []
        self._reference: list[float] = []
        self._reference_of_mismatched: list[float] = []

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        kept = [t for t in self.data.episodes if t.judged and t.turns]
        self._good = [float(bool(t.success)) for t in kept]
        if not 0 < sum(self._good) < len(kept):
            raise DataError(
                f"KTO needs successes and failures, got {sum(self._good):.0f} successes of {len(kept)} judged "
                "episodes: give episodes of both kinds (sparring rollout ENV --model MODEL --group 8)"
            )
        say_rendered_anew(policy.chat, kept)
        room = policy.room(s.max_context)
        played = [_tokens(policy, t, room) for t in kept]
        self._samples = [Sample.of(tokens) for tokens, _ in played]
        self._mismatched = [_joined(played[i], played[_partner(kept, i)], room) for i in range(len(played))]
        self._reference, self._reference_of_mismatched = (
            _changes(policy, samples, [0.0] * len(samples), s.optim.micro_tokens)
            for samples in (self._samples, self._mismatched)
        )
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[tuple[int, list[int]]]:
        n = len(self._samples)
        chosen = epoch_indices(n, min(self.settings.batch, n), step, self.settings.seed)
        return Drawn((step, chosen), {"left_out": float(len(self.data.episodes) - n)})

    def losses(self, policy: Policy, batch: tuple[int, list[int]]) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        step, chosen = batch
        samples = [self._samples[i] for i in chosen]
        changes = _changes(
            policy,
            [self._mismatched[i] for i in chosen],
            [self._reference_of_mismatched[i] for i in chosen],
            s.optim.micro_tokens,
        )
        anchor = max(0.0, sum(changes) / len(changes))

        def compute(indices: list[int]) -> Loss:
            sums_B = _sums(policy, [samples[i] for i in indices])
            reference_B = sums_B.new_tensor([self._reference[chosen[i]] for i in indices])
            loss = kto_loss(
                sums_B - reference_B,
                sums_B.new_tensor([self._good[chosen[i]] for i in indices]),
                anchor,
                beta=s.beta,
                good_weight=s.good,
                bad_weight=s.bad,
                denominator=len(chosen),
            )
            return Loss(loss.value, {**loss.logs, "anchor": anchor}, loss.weight)

        for indices in micro_batches(samples, s.optim.micro_tokens):
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, step, s.optim.micro_tokens)


def _tokens(policy: Policy, trajectory: Trajectory, room: int) -> tuple[Tokens, int]:
    """And where the first turn begins."""
    tokens, spans = tokens_of(policy.chat, trajectory)
    if len(tokens) > room:
        raise DataError(f"trajectory {trajectory.id} has {len(tokens)} tokens, over the limit of {room}")
    return tokens, spans[0][0]


def _partner(episodes: Sequence[Trajectory], i: int) -> int:
    """The next episode of another task, after the last one the first; where all are of one task, the next."""
    n = len(episodes)
    task = episodes[i].env, episodes[i].task.id
    others = ((i + k) % n for k in range(1, n))
    return next((j for j in others if (episodes[j].env, episodes[j].task.id) != task), (i + 1) % n)


def _joined(prompt: tuple[Tokens, int], said: tuple[Tokens, int], room: int) -> Sample:
    """The prompt of one episode, and all that came after it in another; cut off where there is no more room."""
    (before, end), (after, start) = prompt, said
    ids = (before.ids[:end] + after.ids[start:])[:room]
    sampled = (before.sampled[:end] + after.sampled[start:])[:room]
    return Sample(ids, tuple(map(float, sampled)), encoding=after.encoding)


def _sums(policy: Policy, samples: Sequence[Sample]) -> Tensor:
    batch = TreeBatch.build(samples, policy.device)
    return sequence_sums(policy.predict(batch).logps_M, batch.owner_M, batch.n)


@torch.no_grad()
def _changes(policy: Policy, samples: Sequence[Sample], reference: Sequence[float], micro_tokens: int) -> list[float]:
    """Log-probability of each sample's sampled tokens, less the reference's."""
    out = [0.0] * len(samples)
    for indices in micro_batches(samples, micro_tokens):
        sums = _sums(policy, [samples[i] for i in indices]).tolist()
        for i, value in zip(indices, sums, strict=True):
            out[i] = value - reference[i]
    return out
