"""PPO: a value for each token or turn, and advantages from it; no groups.

A step: the policy plays tasks of the mixture; generalised advantage estimation (GAE) runs over its sampled tokens
alone; several updates of the clipped surrogate and of the value head follow. The values are those of a head on the
policy, or those of the expert, which plays every state that was visited to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...agents.chat_format import sampled_tokens
from ...agents.evaluation import seed_of
from ...trajectories.errors import ConfigError, DataError
from ...trajectories.trajectory import Trajectory
from ..advantages import Gae, bi_level_gae, gae, turn_gae
from ..batch import SAMPLER, Sample, TreeBatch, micro_batches
from ..losses import KlEstimator, Loss, Mismatch, kl_loss, policy_gradient_loss, value_loss, weighted_mean
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..playing import PlaySettings, play_step
from ..run import Run
from ..samples import Replay, parts_of, with_channels
from ..settings import Optim, TrainSettings
from ..states import States

__all__ = ["VALUE", "Ppo", "PpoSettings", "StepEpisodes"]

VALUE = "value"
"""Name of the head, and of the channel of what it said before the first update of a step."""
OLD, KL = "old", "kl"
"""Channels of the policy's log-probabilities before the first update, and of log pi - log ref."""


@dataclass(frozen=True, slots=True)
class PpoSettings(PlaySettings):
    """Of one PPO run."""

    level: Literal["token", "turn", "bi-level"] = "token"
    """What has a value: each token (1506.02438); each turn, whose tokens share its advantage; or turns first and then
    the tokens in each (2510.16907)."""
    baseline: Literal["head", "expert"] = "head"
    """Whose values: of a head that is learned, or of the expert's remaining turns, with level `turn`: they are exact,
    and nothing is learned for them."""
    gamma: float = 1.0
    """Discount of a token, from 0 to 1."""
    lam: float = 0.95
    """GAE's lambda of a token, from 0 to 1."""
    turn_gamma: float = 1.0
    """Discount of a turn, from 0 to 1. The expert's values tell a wasted turn only below 1."""
    turn_lam: float = 0.95
    """GAE's lambda of a turn, from 0 to 1."""
    whiten: bool = True
    """Whether a step's advantages are brought to mean 0 and standard deviation 1, over its sampled tokens."""
    epochs: int = 2
    """How often each step's episodes are gone through."""
    minibatches: int = 2
    """Updates in an epoch."""
    clip_low: float = 0.2
    """How far a token's ratio may fall below 1."""
    clip_high: float = 0.2
    """How far a token's ratio may rise above 1."""
    value_clip: float = 0.2
    """How far a value may move in a step; inf: as far as it will."""
    value_weight: float = 0.5
    """Weight of the value head's loss."""
    share: bool = False
    """Whether the value's loss trains the model too, and not the head alone."""
    critic_warmup: int = 0
    """Steps at the beginning in which the value head alone is trained."""
    kl: float = 0.02
    """Weight of KL to the policy that the run began with, nats per token; 0: off, and no reference is kept."""
    kl_place: Literal["loss", "reward"] = "loss"
    """In the loss, or (k1) taken from the reward of each token."""
    kl_estimator: KlEstimator = "k2"
    """Of the loss: k2 or k3-ratio."""
    tis: float = 2.0
    """Truncated importance sampling: cap of trainer's over sampler's probability of a token; 0: measured alone."""
    mismatch: Mismatch = "truncate"
    """Tokens beyond the cap: truncate caps their weight, mask leaves them out."""
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-6, head_scale=100.0, warmup=1))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = PlaySettings.at_least | {
        "gamma": 0,
        "lam": 0,
        "turn_gamma": 0,
        "turn_lam": 0,
        "epochs": 1,
        "minibatches": 1,
        "clip_low": 0,
        "clip_high": 0,
        "value_weight": 0,
        "critic_warmup": 0,
        "kl": 0,
        "tis": 0,
    }
    above: ClassVar[dict[str, float]] = PlaySettings.above | {"value_clip": 0}
    endless: ClassVar[str] = "clip_high value_clip"

    def __post_init__(self) -> None:
        for name in ("gamma", "lam", "turn_gamma", "turn_lam"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is from 0 to 1, got {getattr(self, name)}")
        if self.baseline == "expert" and (self.level != "turn" or self.critic_warmup):
            raise ConfigError(
                "the expert's values are of turns, and there is no head to warm up: baseline 'expert' goes with level "
                f"'turn' and critic_warmup 0, got {self.level!r} and {self.critic_warmup}"
            )
        PlaySettings.__post_init__(self)


@dataclass(frozen=True, slots=True)
class StepEpisodes:
    """What one step of PPO learns from."""

    step: int
    episodes: list[Trajectory]
    values: list[list[float]] = field(default_factory=list)
    """Of the expert: for each episode, for the state before each turn."""


@OBJECTIVES.register("ppo")
class Ppo:
    """Plays in `settings.mixture`; the whole episode's reward is on its last sampled token. `data.gold` is replayed."""

    Settings: ClassVar[type[TrainSettings]] = PpoSettings
    needs: ClassVar[Needs] = "mixture"
    metric: ClassVar[str] = "success"

    def __init__(self, settings: PpoSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._states = States()

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        if s.baseline == "head":
            policy.add_head(VALUE)
        if s.kl:
            policy.freeze_reference()
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[StepEpisodes]:
        episodes, logs = play_step(run, self.settings, step)
        episodes = [t for t in episodes if t.tokens and any(t.tokens.sampled)]
        if self.settings.baseline == "head":
            return Drawn(StepEpisodes(step, episodes), logs)
        known: list[tuple[Trajectory, list[float]]] = []
        for t in episodes:
            try:
                known.append((t, [self._worth(*ahead) for ahead in self._states.expert_ahead(t)]))
            except DataError:  # it does not play the same again, so that no value of it is known
                continue
        logs["not_replayed"] = float(len(episodes) - len(known))
        return Drawn(StepEpisodes(step, [t for t, _ in known], [values for _, values in known]), logs)

    def _worth(self, turns: int, reward: float) -> float:
        """Of a state from which the expert needs `turns` turns: the reward comes with the last of them."""
        return float(self.settings.turn_gamma ** (turns - 1) * reward)

    # ---- what is learned ---------------------------------------------------------------------------------------------

    def rounds(self, policy: Policy, batch: StepEpisodes) -> Iterable[Iterable[Callable[[], Loss]]]:
        """Epochs x minibatches, each against policy and values as they were before the first."""
        s = self.settings
        samples = self._samples(policy, batch)
        done = batch.step * s.epochs * s.minibatches
        for epoch in range(s.epochs):
            for part in parts_of(len(samples), s.minibatches, seed_of(s.seed, batch.step, "epoch", epoch)):
                chosen = [samples[i] for i in part]
                if batch.step < s.critic_warmup:
                    yield self._critic_losses(policy, chosen)
                else:
                    yield self._losses(policy, chosen, done)
                done += 1

    def losses(self, policy: Policy, batch: StepEpisodes) -> Iterable[Callable[[], Loss]]:
        """Of the first update."""
        return next(iter(self.rounds(policy, batch)), ())

    def _samples(self, policy: Policy, batch: StepEpisodes) -> list[Sample]:
        """Each episode with its advantages, returns, and what policy and head say of it now."""
        s = self.settings
        heads = [VALUE] if s.baseline == "head" else []
        with_kl = bool(s.kl) and s.kl_place == "reward"

        def seen(tree: TreeBatch) -> dict[str, Tensor]:
            now = policy.predict(tree, heads)
            out = {OLD: now.logps_M} | {name: now.heads[name].squeeze(-1) for name in heads}
            return out | ({KL: now.logps_M - policy.reference(tree)} if with_kl else {})

        plain = [Sample.of(sampled_tokens(policy.chat, t), temperature=t.temperature) for t in batch.episodes]
        samples = with_channels(plain, s.optim.micro_tokens, policy.device, seen)
        made = []
        for i, (t, sample) in enumerate(zip(batch.episodes, samples, strict=True)):
            rewards = [-s.kl * kl for kl in sample.channels[KL]] if with_kl else [0.0] * len(sample.ids)
            rewards[max(at for at, w in enumerate(sample.weights) if w)] += t.reward
            if s.baseline == "head":
                values = list(sample.channels[VALUE])
            else:
                values = [0.0] * len(sample.ids)
                for turn, value in zip(t.turns, batch.values[i], strict=True):
                    start, end = turn.span or (0, 0)
                    values[start:end] = [value] * (end - start)
            made.append(self._gae(t, sample, rewards, values))
        advantages = [each.advantages for each in made]
        if s.whiten:
            advantages = _whitened(samples, advantages)
        return [
            replace(
                sample,
                channels={
                    **sample.channels,
                    "advantages": advantage,
                    "returns": each.returns,
                    "learned": each.learned,
                },
            )
            for sample, advantage, each in zip(samples, advantages, made, strict=True)
        ]

    def _gae(self, t: Trajectory, sample: Sample, rewards: Sequence[float], values: Sequence[float]) -> Gae:
        s = self.settings
        spans = [turn.span for turn in t.turns if turn.span is not None]
        match s.level:
            case "token":
                return gae(rewards, values, [int(w > 0) for w in sample.weights], gamma=s.gamma, lam=s.lam)
            case "turn":
                return turn_gae(rewards, values, spans, gamma=s.turn_gamma, lam=s.turn_lam)
            case "bi-level":
                return bi_level_gae(
                    rewards, values, spans, gamma=s.gamma, lam=s.lam, turn_gamma=s.turn_gamma, turn_lam=s.turn_lam
                )

    def _losses(self, policy: Policy, samples: list[Sample], update: int) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        total = sum(sample.weight for sample in samples)
        targets = _targets(samples)

        def compute(indices: list[int]) -> Loss:
            tree = TreeBatch.build([samples[i] for i in indices], policy.device)
            seen = policy.predict(tree, [VALUE] if s.baseline == "head" else [], heads_alone=not s.share)
            loss = policy_gradient_loss(
                seen.logps_M,
                tree.channels_M[OLD],
                tree.channels_M["advantages"],
                tree.weights_M,
                clip_low=s.clip_low,
                clip_high=s.clip_high,
                sampler_logps_N=tree.channels_M[SAMPLER],
                tis_cap=s.tis or None,
                mismatch=s.mismatch,
                denominator=total,
            )
            value, logs = loss.value, {**loss.logs, "entropy": float(weighted_mean(seen.entropy_M, tree.weights_M))}
            if s.baseline == "head":
                critic = self._critic_loss(tree, seen.heads[VALUE], targets)
                value, logs = value + critic.value, {**logs, **critic.logs}
            if s.kl:
                kl = kl_loss(
                    seen.logps_M,
                    policy.reference(tree),
                    tree.weights_M,
                    estimator=s.kl_estimator,
                    old_logps_N=tree.channels_M[OLD],
                    denominator=total,
                    weight=s.kl if s.kl_place == "loss" else 0.0,
                )
                value, logs = value + kl.value, {**logs, **kl.logs}
            return Loss(value, logs, loss.weight)

        for indices in micro_batches(samples, s.optim.micro_tokens):
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, update, s.optim.micro_tokens)

    def _critic_losses(self, policy: Policy, samples: list[Sample]) -> Iterable[Callable[[], Loss]]:
        """Of the head alone: the model does not move."""
        targets = _targets(samples)

        def compute(indices: list[int]) -> Loss:
            tree = TreeBatch.build([samples[i] for i in indices], policy.device)
            return self._critic_loss(tree, policy.predict(tree, [VALUE], heads_alone=True).heads[VALUE], targets)

        for indices in micro_batches(samples, self.settings.optim.micro_tokens):
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # as above

    def _critic_loss(self, tree: TreeBatch, values: Tensor, targets: float) -> Loss:
        s = self.settings
        return value_loss(
            values.squeeze(-1),
            tree.channels_M["returns"],
            tree.weights_M * tree.channels_M["learned"],
            old_values_N=tree.channels_M[VALUE],
            clip=s.value_clip,
            denominator=targets,
            weight=s.value_weight,
        )


def _targets(samples: Sequence[Sample]) -> float:
    """How many values of the samples are learned."""
    return sum(
        w * target
        for sample in samples
        for w, target in zip(sample.weights[1:], sample.channels["learned"][1:], strict=True)
    )


def _whitened(samples: Sequence[Sample], advantages: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Less their mean over all sampled tokens, by their standard deviation there; 0 where the policy did not sample."""
    pairs = zip(samples, advantages, strict=True)
    said = [a for sample, each in pairs for w, a in zip(sample.weights, each, strict=True) if w]
    mine = torch.tensor(said, dtype=torch.float64)
    mean, std = (float(mine.mean()), float(mine.std())) if len(mine) > 1 else (0.0, math.inf)
    return [
        tuple((a - mean) / (std + 1e-8) if w else 0.0 for w, a in zip(sample.weights, each, strict=True))
        for sample, each in zip(samples, advantages, strict=True)
    ]
