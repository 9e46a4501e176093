"""GRPO: groups of episodes of one task under one fault seed, and the reward of the whole episode.

A step: draw tasks and fault plans from the mixture, let the policy play each `group` times, keep the groups whose
rewards differ (and draw again for the others, up to a limit), one advantage for each episode, one update. KL to the
policy that the run began with and a little replay of gold episodes hold what was known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ...agents.chat_format import ChatFormat, sampled_tokens
from ...agents.evaluation import seed_of
from ...trajectories.errors import ConfigError
from ...trajectories.trajectory import StopReason, Trajectory, TrajectoryGroup, dump_jsonl
from ..advantages import Estimator, group_advantages, has_signal
from ..batch import SAMPLER, Sample, TreeBatch, micro_batches
from ..losses import Aggregation, Loss, kl_loss, policy_gradient_loss, weighted_mean
from ..mixture import Mixture, sample_groups
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..run import Run
from ..samples import Replay
from ..settings import Optim, TrainSettings

__all__ = ["Grpo", "GrpoSettings", "StepGroups"]


@dataclass(frozen=True, slots=True)
class GrpoSettings(TrainSettings):
    """Of one GRPO run."""

    mixture: Mixture = field(kw_only=True)
    """What is played."""
    steps: int = 10
    """Optimiser steps of the whole run."""
    groups: int = 8
    """Groups with signal wanted in a step."""
    group: int = 8
    """Episodes of a group, two or more."""
    redraws: int = 0
    """How often groups without signal are replaced by new ones."""
    estimator: Estimator = "grpo"
    """How the rewards of a group become advantages: grpo (2402.03300), dr_grpo (2503.20783), rloo (2402.14740)."""
    aggregation: Aggregation = "token-mean"
    """How tokens become one number: token-mean (2503.14476), sequence-mean (2402.03300), constant (2503.20783)."""
    constant: float = 1000.0
    """Tokens that aggregation `constant` divides by, for each episode."""
    kl: float = 0.02
    """Weight of KL to the policy that the run began with, nats per token; 0: off, and no reference is kept."""
    replay: int = 4
    """Gold episodes in a step."""
    replay_weight: float = 0.1
    """Weight of their cross-entropy."""
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-6, warmup=1))
    """Optimiser and schedule."""
    temperature: float = 1.0
    """Of sampling, above 0. The policy, its KL and its entropy are those of this temperature."""
    max_turn_tokens: int = 64
    """Tokens that the policy may say in one turn."""
    parallel: int = 64
    """Episodes that are played at once."""
    save_every: int = 5
    """Steps between checkpoints; 0: only when the run is interrupted."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "groups": 1,
        "redraws": 0,
        "kl": 0,
        "replay": 0,
        "replay_weight": 0,
        "max_turn_tokens": 1,
        "parallel": 1,
    }
    above: ClassVar[dict[str, float]] = {"temperature": 0, "constant": 0}

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ConfigError(f"a group needs two episodes or more to compare, got {self.group}")
        if self.temperature == 0:
            raise ConfigError(
                "at temperature 0 all episodes of a group are the same, and nothing can be learned from how they "
                "differ: sample above 0, such as at 1"
            )
        TrainSettings.__post_init__(self)


@dataclass(frozen=True, slots=True)
class StepGroups:
    """What one step of GRPO learns from."""

    step: int
    groups: list[TrajectoryGroup]
    """Those with signal."""


@OBJECTIVES.register("grpo")
class Grpo:
    """Plays in `settings.mixture` and learns from the reward of whole episodes. `data.gold` is replayed.

    Writes each step's episodes to `episodes/step-000001.jsonl` in the run's folder. A step raises `InfrastructureError`
    when its episodes all failed for reasons that are not the policy's.
    """

    Settings: ClassVar[type[TrainSettings]] = GrpoSettings
    needs: ClassVar[Needs] = "mixture"
    metric: ClassVar[str] = "success"

    def __init__(self, settings: GrpoSettings, data: Data) -> None:
        self.settings, self.data = settings, data

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        if s.kl:
            policy.freeze_reference()
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[StepGroups]:
        s = self.settings
        started = time.monotonic()
        agent = run.policy.agent(
            temperature=s.temperature, max_turn_tokens=s.max_turn_tokens, parallel=s.parallel, version=step
        )
        counted = run.counting_episodes(s.groups * s.group)
        bugs = 0

        def count(index: int, trajectory: Trajectory) -> None:
            nonlocal bugs
            bugs += trajectory.stop is StopReason.BUG
            counted(index, trajectory)

        wanted = s.groups
        groups: list[TrajectoryGroup] = []
        drawn: list[TrajectoryGroup] = []
        for attempt in range(s.redraws + 1):
            seed = seed_of(s.seed, step, attempt) % 2**31
            fresh = sample_groups(s.mixture, agent, wanted, s.group, seed=seed, on_done=count)
            drawn += fresh
            groups += [g for g in fresh if has_signal(g.rewards())]
            wanted = s.groups - len(groups)
            if wanted <= 0:
                break
        episodes = [t for g in drawn for t in g.trajectories]
        run.write(f"episodes/step-{step + 1:06d}.jsonl", dump_jsonl(episodes))
        logs = {
            **_summary(drawn, episodes),
            "signal": len(groups) / max(1, len(drawn)),
            "rollout_seconds": time.monotonic() - started,
        } | ({"bugs": float(bugs)} if bugs else {})
        return Drawn(StepGroups(step, groups), logs)

    def losses(self, policy: Policy, batch: StepGroups) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        samples = _samples(policy.chat, batch.groups, s.estimator)
        total = sum(sample.weight for sample in samples)
        divisor = {
            "token-mean": total,
            "sequence-mean": float(len(samples)),
            "constant": s.constant * len(samples),
        }[s.aggregation]

        def compute(indices: list[int]) -> Loss:
            tree = TreeBatch.build([samples[i] for i in indices], policy.device)
            seen = policy.predict(tree)
            loss = policy_gradient_loss(
                seen.logps_M,
                None,
                tree.channels_M["advantages"],
                tree.weights_M,
                aggregation=s.aggregation,
                owner_N=tree.owner_M,
                sampler_logps_N=tree.channels_M[SAMPLER],
                denominator=divisor,
            )
            value, logs = loss.value, {**loss.logs, "entropy": float(weighted_mean(seen.entropy_M, tree.weights_M))}
            if s.kl:
                kl = kl_loss(seen.logps_M, policy.reference(tree), tree.weights_M, denominator=total, weight=s.kl)
                value, logs = value + kl.value, {**logs, **kl.logs}
            return Loss(value, logs, loss.weight)

        for indices in micro_batches(samples, s.optim.micro_tokens) if samples else ():
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, batch.step, s.optim.micro_tokens)


def _samples(chat: ChatFormat, groups: Sequence[TrajectoryGroup], estimator: Estimator) -> list[Sample]:
    """Each episode's sampled tokens at the temperature that sampled them, with its advantage on every one.

    Raises `ConfigError` for tokens of another encoding.
    """
    samples = []
    for group in groups:
        advantages = group_advantages(group.rewards(), estimator)
        for trajectory, advantage in zip(group.trajectories, advantages, strict=True):
            tokens = sampled_tokens(chat, trajectory)
            samples.append(Sample.of(tokens, temperature=trajectory.temperature, advantages=advantage))
    return samples


def _summary(groups: Sequence[TrajectoryGroup], episodes: Sequence[Trajectory]) -> dict[str, float]:
    n = len(episodes)
    out = {
        "reward": sum(t.reward for t in episodes) / n,
        "success": sum(bool(t.success) for t in episodes) / n,
        "turns": sum(len(t.turns) for t in episodes) / n,
        "sampled_tokens": sum(sum(t.tokens.sampled) for t in episodes if t.tokens) / n,
        "groups": float(len(groups)),
    }
    for faults, name in ((0, "success_clean"), (1, "success_one_fault"), (2, "success_two_faults")):
        mine = [bool(t.success) for t in episodes if len(t.faults_hit) == faults]
        if mine:
            out[name] = sum(mine) / len(mine)
    if len(envs := dict.fromkeys(t.env for t in episodes)) > 1:
        for env in envs:
            mine = [bool(t.success) for t in episodes if t.env == env]
            out[f"success {env}"] = sum(mine) / len(mine)
    return out
