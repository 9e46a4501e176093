"""Direct preference optimisation on pairs of trajectories of one task under one fault seed.

Only tokens that the policy sampled count, and of these only what follows the fork: the shared prefix is the same on
both sides and cancels. Next to the preference loss stand the likelihood of the chosen side and replay of gold
episodes, both against forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..trajectories.curation import Pair
from ..trajectories.errors import DataError
from ..trajectories.trajectory import Trajectory
from .batch import Sample, TreeBatch, common_prefix
from .losses import DpoVariant, Loss, dpo_loss, sequence_sums
from .model import Policy
from .run import Optim, Run
from .sft import OnStep, epoch_indices, samples_of, sft_losses

__all__ = ["DpoSettings", "dpo"]


@dataclass(frozen=True, slots=True)
class DpoSettings:
    """Of one DPO run."""

    steps: int = 4
    batch: int = 16
    """Pairs a step."""
    beta: float = 0.1
    variant: DpoVariant = "sigmoid"
    nll: float = 0.2
    """Weight of the chosen side's cross-entropy (2404.19733)."""
    min_chosen: float = -12.0
    """Pairs whose chosen side has less than this log-probability (nats, summed after the fork) under the reference are
    left out: there DPO gains its margin by pushing everything else down, and what was known is lost."""
    replay: int = 4
    """Gold trajectories a step, trained by cross-entropy next to the pairs."""
    replay_weight: float = 0.2
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))
    max_context: int = 4096
    save_every: int = 10
    seed: int = 0


def dpo(
    policy: Policy,
    pairs: Sequence[Pair],
    settings: DpoSettings,
    folder: Path,
    *,
    gold: Sequence[Trajectory] = (),
    on_step: OnStep | None = None,
) -> Path:
    """Trains and returns the model's folder; the reference is the policy as it is given. Resumes like `sft`.

    Raises `DataError` when no pair has something to learn from on both sides.
    """
    sides = [_sides(policy, pair, settings.max_context) for pair in pairs]
    sides = [both for both in sides if both[0].weight and both[1].weight]
    if not sides:
        raise DataError(f"none of {len(pairs)} pairs has a divergent turn on both sides")
    micro = list(_micro(sides, range(len(sides)), settings.optim.micro_tokens))
    reference: dict[int, Tensor] = {}
    for indices in micro:  # before training touches the policy, and before a checkpoint is taken up
        with torch.no_grad():
            reference |= zip(indices, _sums(policy, sides, indices)[0].T, strict=True)
    kept = [i for i in range(len(sides)) if float(reference[i][0]) >= settings.min_chosen]
    if not kept:
        raise DataError(
            f"the chosen side of all {len(sides)} pairs is less likely than {settings.min_chosen} nats: train on "
            "demonstrations first, or lower min_chosen (--min-chosen)"
        )
    replay = samples_of(policy.chat, gold, settings.max_context) if gold and settings.replay else []
    run = Run(folder, policy, settings.optim, settings.steps, settings=settings, save_every=settings.save_every)

    def preference(indices: list[int], n: int) -> Loss:
        sums, lengths = _sums(policy, sides, indices)
        ref = torch.stack([reference[i] for i in indices], 1)
        return dpo_loss(
            sums[0],
            sums[1],
            ref[0],
            ref[1],
            beta=settings.beta,
            variant=settings.variant,
            nll_alpha=settings.nll,
            chosen_tokens_P=lengths[0],
            rejected_tokens_P=lengths[1],
            denominator=n,
        )

    def losses(step: int) -> Iterable[Callable[[], Loss]]:
        size = min(settings.batch, len(kept))
        chosen = [kept[i] for i in epoch_indices(len(kept), size, step, settings.seed)]
        for indices in _micro(sides, chosen, settings.optim.micro_tokens):
            yield lambda indices=indices: preference(indices, size)  # type: ignore[misc]  # mypy cannot type a default
        if replay:
            again = [replay[i] for i in epoch_indices(len(replay), settings.replay, step, settings.seed + 1)]
            yield from sft_losses(
                policy, again, settings.optim.micro_tokens, scale=settings.replay_weight, prefix="replay_"
            )

    with run.saving_on_interrupt():
        for step in run.steps():
            row = run.update(losses(step)) | {
                "pairs": float(len(kept)),
                "pairs_left_out": float(len(sides) - len(kept)),
            }
            run.log(row)
            if on_step:
                on_step(run, row)
    return run.finish()


def _sides(policy: Policy, pair: Pair, max_context: int) -> tuple[Sample, Sample]:
    """Chosen and rejected, with weight on sampled tokens after the fork."""
    out = []
    for trajectory in (pair.chosen, pair.rejected):
        tokens, spans = policy.chat.tokens(trajectory, pair.rejected if trajectory is pair.chosen else None)
        if len(tokens) > max_context:
            raise DataError(f"trajectory {trajectory.id} has {len(tokens)} tokens, over the limit of {max_context}")
        start = spans[pair.fork][0] if pair.fork < len(spans) else len(tokens)
        out.append(Sample.of(tokens, weights=[float(t >= start) for t in range(len(tokens))]))
    return out[0], out[1]


def _micro(sides: Sequence[tuple[Sample, Sample]], chosen: Iterable[int], max_context: int) -> Iterable[list[int]]:
    """Indices in batches that keep both sides of a pair together."""
    batch: list[int] = []
    size = 0
    for i in chosen:
        chosen_ids, rejected_ids = sides[i][0].ids, sides[i][1].ids
        new = len(chosen_ids) + len(rejected_ids) - common_prefix(chosen_ids, rejected_ids)
        if batch and size + new > max_context:
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
