"""Pairs of trajectories as tokens: both sides of each, in micro-batches that keep them together, and their sums.

What the pairwise objectives have in common. Where both sides share a prefix it is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..agents.chat_format import tokens_of
from ..trajectories.curation import Pair
from ..trajectories.errors import DataError
from .batch import Sample, TreeBatch, common_prefix
from .losses import sequence_sums
from .model import Policy
from .samples import say_rendered_anew

__all__ = [
    "WAYS_TO_PAIRS",
    "Sides",
    "TurnWeight",
    "after_fork",
    "pairs_in_tokens",
    "reference_sums",
    "side_batches",
    "side_sums",
]

WAYS_TO_PAIRS = (
    "more episodes of each task (sparring rollout ENV --model MODEL --group 8), a higher --temperature, tasks or "
    "--faults that the model sometimes fails, or the expert's corrections (sparring curate FILE --rule "
    "'pairs by=correction' --out pairs.jsonl)"
)
"""What gives pairs where there are none."""

TurnWeight = Callable[[int, int, int], float]
"""(turn, turns of the side, fork) -> weight of each token that was sampled in that turn."""


class Sides(NamedTuple):
    """A pair in tokens."""

    chosen: Sample
    rejected: Sample


def after_fork(turn: int, turns: int, fork: int) -> float:
    """1 from the first difference on: what is before it is the same on both sides and cancels."""
    return float(turn >= fork)


def pairs_in_tokens(
    policy: Policy, pairs: Sequence[Pair], max_context: int, weight: TurnWeight = after_fork
) -> list[Sides]:
    """The pairs that have a weighted token on both sides. Raises `DataError` where there is none, and for a trajectory
    of more than `max_context` tokens."""
    say_rendered_anew(policy.chat, (side for pair in pairs for side in (pair.chosen, pair.rejected)))
    room = policy.room(max_context)
    sides = [_sides(policy, pair, room, weight) for pair in pairs]
    kept = [both for both in sides if both.chosen.weight and both.rejected.weight]
    if not kept:
        raise DataError(
            f"none of {len(pairs)} pairs has a divergent turn on both sides: make pairs of episodes that "
            f"went differently; {WAYS_TO_PAIRS}"
        )
    return kept


def side_batches(sides: Sequence[Sides], chosen: Iterable[int], micro_tokens: int) -> Iterable[list[int]]:
    """Indices in batches that keep both sides of a pair together."""
    batch: list[int] = []
    size = 0
    for i in chosen:
        chosen_ids, rejected_ids = sides[i].chosen.ids, sides[i].rejected.ids
        new = len(chosen_ids) + len(rejected_ids) - common_prefix(chosen_ids, rejected_ids)
        if batch and size + new > micro_tokens:
            yield batch
            batch, size = [], 0
        batch.append(i)
        size += new
    if batch:
        yield batch


def side_sums(
    policy: Policy, sides: Sequence[Sides], indices: Sequence[int], *, reference: bool = False
) -> tuple[Tensor, Tensor]:
    """Weighted sums of log-probabilities (2, P) of chosen and rejected, and of their weights (2, P).

    `reference`: those of the frozen reference, without gradient.
    """
    samples = [sides[i].chosen for i in indices] + [sides[i].rejected for i in indices]
    batch = TreeBatch.build(samples, policy.device)
    logps_M = policy.reference(batch) if reference else policy.predict(batch).logps_M
    sums = sequence_sums(logps_M, batch.owner_M, batch.n, weights_N=batch.weights_M)
    lengths = sequence_sums(batch.weights_M, batch.owner_M, batch.n)
    return sums.view(2, -1), lengths.view(2, -1)


@torch.no_grad()
def reference_sums(policy: Policy, sides: Sequence[Sides], micro_tokens: int) -> list[Tensor]:
    """(2,) of each pair, chosen and rejected, under the policy as it is now."""
    sums: list[Tensor] = []
    for indices in side_batches(sides, range(len(sides)), micro_tokens):
        sums += side_sums(policy, sides, indices)[0].T
    return sums


def _sides(policy: Policy, pair: Pair, max_context: int, weight: TurnWeight) -> Sides:
    out = []
    for trajectory in (pair.chosen, pair.rejected):
        tokens, spans = tokens_of(policy.chat, trajectory, pair.rejected if trajectory is pair.chosen else None)
        if len(tokens) > max_context:
            raise DataError(f"trajectory {trajectory.id} has {len(tokens)} tokens, over the limit of {max_context}")
        weights = [0.0] * len(tokens)
        for turn, (start, end) in enumerate(spans):
            weights[start:end] = [weight(turn, len(spans), pair.fork)] * (end - start)
        out.append(Sample.of(tokens, weights=weights))
    return Sides(*out)
