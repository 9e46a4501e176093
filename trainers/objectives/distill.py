"""On-policy distillation: a stronger model's probabilities on what the policy itself says.

A step: the policy plays tasks of the mixture. At each token that it sampled, the loss is an estimate of the reverse KL
from the policy to the teacher, KL(policy || teacher), whose gradient is the policy gradient with the advantage
log teacher - log policy (2306.13649, 2306.08543). So every token of every episode teaches, whatever the reward was. To
learn from the environment's expert instead, take `dagger`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ...agents.chat_format import encoding_of, sampled_tokens
from ...trajectories.errors import ConfigError
from ...trajectories.trajectory import Trajectory
from ..batch import Sample, TreeBatch, micro_batches
from ..losses import Loss, kl_loss, weighted_mean
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..playing import PlaySettings, play_step
from ..run import Run
from ..samples import Replay
from ..settings import Optim, TrainSettings

__all__ = ["Distill", "DistillSettings", "StepPlayed"]


@dataclass(frozen=True, slots=True)
class DistillSettings(PlaySettings):
    """Of one distillation run."""

    teacher: str = ""
    """The stronger model: a known name, a folder, or a hub name. Of the policy's own tokenizer and chat format."""
    only_successes: bool = False
    """Whether only episodes that succeeded are learned from."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, warmup=1))
    """Optimiser and schedule."""


@dataclass(frozen=True, slots=True)
class StepPlayed:
    """What one step of distillation learns from."""

    step: int
    episodes: list[Trajectory]


@OBJECTIVES.register("distill")
class Distill:
    """Plays in `settings.mixture`; `settings.teacher` says how likely each token is. `data.gold` is replayed."""

    Settings: ClassVar[type[TrainSettings]] = DistillSettings
    needs: ClassVar[Needs] = "mixture"
    metric: ClassVar[str] = "success"
    example: ClassVar[str] = "--teacher runs/dagger/model"

    def __init__(self, settings: DistillSettings, data: Data) -> None:
        self.settings, self.data = settings, data

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        if not s.teacher:
            raise ConfigError("distillation needs a teacher: the name or folder of a stronger model (--teacher)")
        teacher = Policy.load(
            s.teacher,
            tool_style=policy.chat.tool_style,
            thinking=getattr(policy.chat, "thinking", "on"),
            precision=policy.precision,
            device=str(policy.device),
            checkpointing=False,
        )
        if encoding_of(teacher.chat) != encoding_of(policy.chat):
            raise ConfigError(
                f"the teacher {s.teacher} reads token ids as {encoding_of(teacher.chat)}, the policy as "
                f"{encoding_of(policy.chat)}: take a teacher with the policy's tokenizer and chat format, or train on "
                "its episodes by sft"
            )
        teacher.module.requires_grad_(False)
        self._teacher = teacher
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[StepPlayed]:
        episodes, logs = play_step(run, self.settings, step)
        if self.settings.only_successes:
            episodes = [t for t in episodes if t.success]
        episodes = [t for t in episodes if t.tokens and any(t.tokens.sampled)]
        return Drawn(StepPlayed(step, episodes), logs)

    def losses(self, policy: Policy, batch: StepPlayed) -> Iterable[Callable[[], Loss]]:
        """Logs `kl_k1` and `kl_k3`, both to the teacher, in nats per token."""
        s = self.settings
        samples = [Sample.of(sampled_tokens(policy.chat, t), temperature=t.temperature) for t in batch.episodes]
        total = sum(sample.weight for sample in samples)

        def compute(indices: list[int]) -> Loss:
            tree = TreeBatch.build([samples[i] for i in indices], policy.device)
            with torch.no_grad():
                teacher_M = self._teacher.predict(tree).logps_M
            seen = policy.predict(tree)
            loss = kl_loss(seen.logps_M, teacher_M, tree.weights_M, denominator=total)
            entropy = float(weighted_mean(seen.entropy_M, tree.weights_M))
            return Loss(loss.value, {**loss.logs, "entropy": entropy}, loss.weight)

        for indices in micro_batches(samples, s.optim.micro_tokens) if samples else ():
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, batch.step, s.optim.micro_tokens)
