"""`RewardModel`: a number for an episode, by a model that `sparring train reward-model` trained.

model = RewardModel.load("runs/reward/model")
model(trajectory)                                  # a number; higher is better
scored_pairs(groups, model)                        # pairs by its scores
judged_pairs(groups, model.judge)                  # the same as a judge of two episodes
reward_terms = {"model": weigh(0.1, model.term)}   # a reward term (envs/rewards.py)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..agents.chat_format import ChatFormat, tokens_of
from ..envs.rewards import Ended
from ..trajectories.errors import ConfigError, DataError
from ..trajectories.trajectory import StopReason, Trajectory
from .batch import Sample, TreeBatch, micro_batches
from .model import Policy
from .settings import Precision

__all__ = ["HEAD", "RewardModel", "rewards_of", "scored_sample"]

HEAD = "reward"
"""Name of the head among those of the model."""


class RewardModel:
    """Scores episodes. May be asked from several threads."""

    def __init__(self, policy: Policy, *, max_context: int = 4096, micro_tokens: int = 4096) -> None:
        """
        Args:
            policy: With a head `reward`.
            max_context: Tokens of an episode; a longer one is refused.
            micro_tokens: Distinct tokens of one forward pass.
        """
        if HEAD not in policy.heads:
            raise ConfigError(f"the policy has no head {HEAD!r}: sparring train reward-model makes one")
        self.policy, self.max_context, self.micro_tokens = policy, max_context, micro_tokens
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str | Path, *, precision: Precision = "bf16", device: str | None = None) -> RewardModel:
        """From the model's folder of a run of the objective `reward-model`. Raises `ConfigError` for another model."""
        policy = Policy.load(name, precision=precision, device=device)
        if not policy.has_saved_head(HEAD):
            raise ConfigError(
                f"{name} has no reward head: give the model's folder of a run of sparring train reward-model"
            )
        policy.add_head(HEAD)
        return cls(policy)

    def __call__(self, trajectory: Trajectory) -> float:
        """The episode's score; any number. Raises `DataError` for an episode in which the agent said nothing."""
        return self.many([trajectory])[0]

    @torch.no_grad()
    def many(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """The score of each."""
        room = self.policy.room(self.max_context)
        samples = [scored_sample(self.policy.chat, t, room) for t in trajectories]
        scores = [0.0] * len(samples)
        with self._lock:
            for indices in micro_batches(samples, self.micro_tokens):
                for i, score in zip(
                    indices, rewards_of(self.policy, [samples[i] for i in indices]).tolist(), strict=True
                ):
                    scores[i] = score
        return scores

    def judge(self, a: Trajectory, b: Trajectory) -> Literal["a", "b", "tie"]:
        """Which of two episodes is better, as `judged_pairs` asks it."""
        first, second = self.many([a, b])
        return "tie" if first == second else "a" if first > second else "b"

    def term(self, ended: Ended) -> float:
        """The score as a reward term. 0 for an episode in which the agent said nothing."""
        if not ended.turns:
            return 0.0
        stop = ended.stop or StopReason.CANCELLED
        return self(
            Trajectory(
                "ended", "", ended.task, ended.prompt, ended.turns, stop, success=ended.success, tools=ended.tools
            )
        )


def scored_sample(
    chat: ChatFormat, trajectory: Trajectory, max_context: int, parent: Trajectory | None = None
) -> Sample:
    """The episode up to the last token that the agent said, where its reward is read.

    A head gives its output where a token is predicted, so one more token follows, and it alone has a weight. Which one
    is all the same: what comes later is not seen.

    Raises `DataError` for an episode that is too long, or in which nothing was said.
    """
    tokens, _ = tokens_of(chat, trajectory, parent)
    end = max((i + 1 for i, sampled in enumerate(tokens.sampled) if sampled), default=0)
    if not end:
        raise DataError(f"in trajectory {trajectory.id} the agent said nothing: there is no reward to read")
    if end >= max_context:
        raise DataError(f"trajectory {trajectory.id} has {end} tokens, over the limit of {max_context - 1}")
    return Sample((*tokens.ids[:end], tokens.ids[0]), (0.0,) * end + (1.0,), encoding=tokens.encoding)


def rewards_of(policy: Policy, samples: Sequence[Sample]) -> Tensor:
    """(B,) of samples of `scored_sample`, in float32, with gradient where it is on."""
    batch = TreeBatch.build(samples, policy.device)
    read = policy.predict(batch, (HEAD,)).heads[HEAD][:, 0]
    return read.new_zeros(batch.n).index_add(0, batch.owner_M, read)
