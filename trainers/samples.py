"""What trajectories teach, as `Sample`s; what a model says of their tokens; the order in which a run goes through them;
and gold that is replayed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..agents.chat_format import ChatFormat, edited, encoding_in, encoding_of, owns, tokens_of
from ..trajectories.errors import DataError
from ..trajectories.trajectory import Trajectory
from .batch import Sample, TreeBatch, micro_batches
from .losses import Loss, sft_loss
from .model import Policy

__all__ = [
    "Replay",
    "epoch_indices",
    "likelihood_losses",
    "parts_of",
    "samples_of",
    "say_rendered_anew",
    "split_tasks",
    "with_channels",
]

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


def samples_of(chat: ChatFormat, trajectories: Iterable[Trajectory], max_context: int) -> list[Sample]:
    """What each trajectory teaches: its sampled tokens, by the weight of their turn. Ids of another vocabulary or
    format are rendered anew, with a word in the log.

    Raises `DataError` for a trajectory of more than `max_context` tokens, and where nothing has a weight.
    """
    samples = []
    trajectories = list(trajectories)
    say_rendered_anew(chat, trajectories)
    for trajectory in trajectories:
        if trajectory.tokens is not None and not trajectory.turns:
            continue  # it did not get to its first turn
        tokens, spans = tokens_of(chat, trajectory)
        if len(tokens) > max_context:
            raise DataError(
                f"trajectory {trajectory.id} has {len(tokens)} tokens, over the limit of {max_context}: raise it, "
                "if the model takes more, or leave it out"
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


def say_rendered_anew(chat: ChatFormat, trajectories: Iterable[Trajectory]) -> None:
    """Logs a warning where recorded ids are not `chat`'s own, or not what the messages say: then the messages are
    trained on, and not these."""
    recorded = [t for t in trajectories if t.tokens is not None]
    foreign = [t for t in recorded if not owns(chat, t)]
    changed = [t for t in recorded if owns(chat, t) and edited(chat, t)]
    if changed:
        _log.warning(
            "%d of %d episodes with token ids are rendered anew from their messages, such as %s: an answer says "
            "something else than its ids",
            len(changed),
            len(recorded),
            changed[0].id,
        )
    if foreign:
        _log.warning(
            "%d of %d episodes with token ids are rendered anew from their messages: their ids are of %s, "
            "the model's of %s",
            len(foreign),
            len(recorded),
            ", ".join(dict.fromkeys(map(encoding_in, foreign))),
            encoding_of(chat),
        )


def likelihood_losses(
    policy: Policy, samples: Sequence[Sample], micro_tokens: int, *, weight: float = 1.0, prefix: str = ""
) -> Iterable[Callable[[], Loss]]:
    """One loss for each micro-batch; together the cross-entropy per token of all `samples`, times `weight`.

    Args:
        policy: Whose log-probabilities they are.
        samples: All of the step.
        micro_tokens: Distinct tokens of one forward pass.
        weight: Of this loss among the others of the step.
        prefix: Before the names in the logs: "replay_" where it goes along with another objective, which makes it a
            part of the loss of its own.
    """
    total = sum(s.weight for s in samples)

    def compute(indices: list[int]) -> Loss:
        batch = TreeBatch.build([samples[i] for i in indices], policy.device)
        loss = sft_loss(policy.predict(batch).logps_M, batch.weights_M, denominator=total, weight=weight)
        logs = {prefix + name: value for name, value in loss.logs.items()}
        return Loss(loss.value, logs, loss.weight, prefix.rstrip("_") or loss.part)

    for indices in micro_batches(samples, micro_tokens):
        yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default


@torch.no_grad()
def with_channels(
    samples: Sequence[Sample],
    micro_tokens: int,
    device: torch.device,
    compute: Callable[[TreeBatch], Mapping[str, Tensor]],
) -> list[Sample]:
    """The samples with more channels, such as the policy's log-probabilities before it is trained.

    Args:
        samples: Of the step.
        micro_tokens: Distinct tokens of one forward pass.
        device: Of the policy.
        compute: Names and (M,) values of a batch. Tokens without a weight get 0.
    """
    out = list(samples)
    for indices in micro_batches(samples, micro_tokens):
        tree = TreeBatch.build([samples[i] for i in indices], device)
        computed = {name: values_M.float().cpu() for name, values_M in compute(tree).items()}
        owner_M = tree.owner_M.cpu()
        for place, i in enumerate(indices):
            sample, mine = samples[i], owner_M == place
            at = [t for t in range(1, len(sample.ids)) if sample.weights[t]]
            channels = dict(sample.channels)
            for name, values_M in computed.items():
                channel = [0.0] * len(sample.ids)
                for t, value in zip(at, values_M[mine].tolist(), strict=True):
                    channel[t] = value
                channels[name] = channel
            out[i] = replace(sample, channels=channels)
    return out


def parts_of(n: int, parts: int, seed: int) -> list[list[int]]:
    """The indices 0..n-1 in a random order, in `parts` parts of nearly one size; no part is empty."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    parts = min(parts, n)
    return [order[k * n // parts : (k + 1) * n // parts] for k in range(parts)]


@dataclass(frozen=True, slots=True)
class Replay:
    """Gold episodes that are trained a little next to another objective, against forgetting."""

    samples: tuple[Sample, ...]
    each_step: int
    weight: float
    seed: int

    @classmethod
    def of(cls, policy: Policy, gold: Sequence[Trajectory], each_step: int, weight: float, seed: int) -> Replay:
        """No samples where `gold` is empty or `each_step` is 0. Gold of any length is taken."""
        samples = samples_of(policy.chat, gold, policy.room(1 << 20)) if gold and each_step else []
        return cls(tuple(samples), each_step, weight, seed + 1)

    def losses(self, policy: Policy, step: int, micro_tokens: int) -> Iterable[Callable[[], Loss]]:
        """Of this step's episodes; nothing where there are none."""
        if self.samples:
            chosen = [self.samples[i] for i in epoch_indices(len(self.samples), self.each_step, step, self.seed)]
            yield from likelihood_losses(policy, chosen, micro_tokens, weight=self.weight, prefix="replay_")


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


def split_tasks(
    items: Sequence[Item], episode_of: Callable[[Item], Trajectory], share: float, seed: int
) -> tuple[Sequence[Item], Sequence[Item]]:
    """Items to learn, and `share` of their tasks to hold out: whole tasks, so that none is on both sides.

    Raises `DataError` where nothing would be left to learn.
    """
    task_of = [(t.env, t.task.id) for t in map(episode_of, items)]
    tasks = sorted(set(task_of))
    n = max(1, round(share * len(tasks)))
    if n >= len(tasks):
        raise DataError(f"{len(tasks)} tasks cannot be split: a validation_share of {share:g} leaves none to train on")
    held_out = set(random.Random(f"validation/{seed}").sample(tasks, n))
    sides: tuple[list[Item], list[Item]] = ([], [])
    for item, task in zip(items, task_of, strict=True):
        sides[task in held_out].append(item)
    return sides
