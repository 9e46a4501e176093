"""Supervised fine-tuning on trajectories: masked cross-entropy on what the agent should say, weighted by turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..agents.chat import ChatFormat
from ..trajectories.errors import DataError
from ..trajectories.trajectory import Trajectory
from .batch import Sample, TreeBatch, micro_batches
from .losses import Loss, sft_loss
from .model import Policy
from .run import Optim, Run

__all__ = ["OnStep", "SftSettings", "samples_of", "sft", "sft_losses"]

OnStep = Callable[[Run, dict[str, float]], None]
"""Told of each step's metrics."""


@dataclass(frozen=True, slots=True)
class SftSettings:
    """Of one SFT run."""

    steps: int = 22
    batch: int = 16
    """Trajectories a step."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, schedule="linear", warmup=2))
    max_context: int = 4096
    """A longer trajectory is refused, never cut."""
    save_every: int = 20
    seed: int = 0


def sft(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    settings: SftSettings,
    folder: Path,
    *,
    on_step: OnStep | None = None,
) -> Path:
    """Trains and returns the model's folder. Resumes where an earlier call in `folder` stopped.

    Raises `DataError` when there is nothing to learn from, or a trajectory is too long.
    """
    samples = samples_of(policy.chat, trajectories, settings.max_context)
    run = Run(folder, policy, settings.optim, settings.steps, settings=settings, save_every=settings.save_every)
    with run.saving_on_interrupt():
        for step in run.steps():
            chosen = [samples[i] for i in epoch_indices(len(samples), settings.batch, step, settings.seed)]
            row = run.update(sft_losses(policy, chosen, settings.optim.micro_tokens))
            run.log(row)
            if on_step:
                on_step(run, row)
    return run.finish()


def samples_of(chat: ChatFormat, trajectories: Iterable[Trajectory], max_context: int) -> list[Sample]:
    """What each trajectory teaches: its sampled tokens, by the weight of their turn."""
    samples = []
    for trajectory in trajectories:
        tokens, spans = chat.tokens(trajectory)
        if len(tokens) > max_context:
            raise DataError(
                f"trajectory {trajectory.id} has {len(tokens)} tokens, over the limit of {max_context}: raise it, "
                "or leave it out"
            )
        weights = [0.0] * len(tokens)
        for turn, (start, end) in zip(trajectory.turns, spans, strict=True):
            weights[start:end] = [turn.weight] * (end - start)
        sample = Sample.of(tokens, weights=weights)
        if sample.weight:
            samples.append(sample)
    if not samples:
        raise DataError("nothing to learn from: no trajectory has a turn with weight above 0")
    return samples


def sft_losses(
    policy: Policy, samples: Sequence[Sample], micro_tokens: int, *, scale: float = 1.0, prefix: str = ""
) -> Iterable[Callable[[], Loss]]:
    """One loss for each micro-batch; together the cross-entropy per token of all `samples`, times `scale`.

    `prefix` stands before the names in the logs: "replay_" where it accompanies another objective.
    """
    total = sum(s.weight for s in samples)

    def compute(indices: list[int]) -> Loss:
        batch = TreeBatch.build([samples[i] for i in indices], policy.device)
        loss = sft_loss(policy.predict(batch).logps_M, batch.weights_M, denominator=total / scale)
        return Loss(loss.value, {prefix + name: value for name, value in loss.logs.items()}, loss.weight)

    for indices in micro_batches(samples, micro_tokens):
        yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default


def epoch_indices(n: int, size: int, step: int, seed: int) -> list[int]:
    """The indices of step `step`: every epoch a new order, each index once. Follows from its arguments alone."""
    out: list[int] = []
    at = step * size
    while len(out) < size:
        epoch, offset = divmod(at + len(out), n)
        order = list(range(n))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        out += order[offset : offset + size - len(out)]
    return out
