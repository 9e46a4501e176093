"""GRPO: groups of episodes of one task under one fault seed, and the reward of the whole episode.

A step: draw tasks and fault plans from the mixture, let the policy play each `group` times, keep the groups whose
rewards differ (and draw again for the others, up to a limit), one advantage for each episode, one update or several.
KL to the policy that the run began with and a little replay of gold episodes hold what was known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...agents.agent import Agent
from ...agents.chat_format import ChatFormat, sampled_tokens
from ...agents.evaluation import seed_of
from ...envs.episode import Snapshot
from ...trajectories.errors import ConfigError, DataError
from ...trajectories.trajectory import Trajectory, TrajectoryGroup, dump_jsonl
from ..advantages import group_advantages, has_signal, lite_advantages, step_advantages
from ..batch import SAMPLER, Sample, TreeBatch, micro_batches
from ..losses import Aggregation, KlEstimator, Loss, Mismatch, Ratio, kl_loss, policy_gradient_loss, weighted_mean
from ..mixture import Mixture, forked_groups, sample_groups
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..playing import episodes_file, summary
from ..run import Run
from ..samples import Replay, parts_of, with_channels
from ..settings import Optim, TrainSettings
from ..states import States, failures

__all__ = ["Advantage", "Grpo", "GrpoSettings", "StepGroups"]

Advantage = Literal["grpo", "dr_grpo", "rloo", "lite", "gigpo"]

OLD = "old"
"""The channel of the log-probabilities that the policy had before the first update of a step."""


@dataclass(frozen=True, slots=True)
class GrpoSettings(TrainSettings):
    """Of one GRPO run."""

    mixture: Mixture = field(kw_only=True)
    """What is played."""
    steps: int = 10
    """Steps of the whole run; each plays anew."""
    groups: int = 8
    """Groups with signal wanted in a step."""
    group: int = 8
    """Episodes of a group, two or more."""
    redraws: int = 0
    """How often groups without signal are replaced by new ones."""
    forked: float = 0.0
    """Share of the groups that begin after a failure, in an episode that this step has played: from 0 to below 1."""
    fork_at: Literal["first", "last", "any"] = "any"
    """After which failed call of an episode a forked group may begin."""
    estimator: Advantage = "grpo"
    """How the rewards of a group become advantages: grpo (2402.03300), dr_grpo (2503.20783), rloo (2402.14740), lite
    (2508.08221), gigpo (2505.10978)."""
    step_weight: float = 1.0
    """Weight of gigpo's advantage among turns in the same state."""
    step_gamma: float = 0.95
    """Discount of a turn in gigpo, from 0 to 1."""
    ratio: Ratio = "token"
    """What is clipped: the ratio of each token, of a whole sequence (GSPO, 2507.18071), or the weight of each token's
    gradient (cispo, 2506.13585). With sequence take clip_low 3e-4 and clip_high 4e-4."""
    clip_low: float = 0.2
    """How far the ratio may fall below 1."""
    clip_high: float = 0.28
    """How far the ratio may rise above 1: more than it may fall (2503.14476)."""
    epochs: int = 1
    """How often each step's episodes are gone through. With 1 and one minibatch nothing is clipped."""
    minibatches: int = 1
    """Updates in an epoch."""
    aggregation: Aggregation = "token-mean"
    """How tokens become one number: token-mean (2503.14476), sequence-mean (2402.03300), constant (2503.20783)."""
    constant: float = 1000.0
    """Tokens that aggregation `constant` divides by, for each episode."""
    overlong: Literal["keep", "mask"] = "keep"
    """Episodes that a limit has cut: keep teaches from them as from any other; mask counts them in their group's mean
    and does not learn from them (2503.14476)."""
    kl: float = 0.02
    """Weight of KL to the policy that the run began with, nats per token; 0: off, and no reference is kept."""
    kl_place: Literal["loss", "reward"] = "loss"
    """In the loss; or (k1, summed over the episode) taken from its reward before advantages are made."""
    kl_estimator: KlEstimator = "k2"
    """Of the loss: k2 or k3-ratio. Both have the gradient of KL (2510.01555)."""
    tis: float = 2.0
    """Truncated importance sampling: cap of trainer's over sampler's probability of a token; 0: measured alone."""
    mismatch: Mismatch = "truncate"
    """Tokens beyond the cap: truncate caps their weight, mask leaves them out."""
    replay: int = 4
    """Gold episodes in an update."""
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
        "forked": 0,
        "step_weight": 0,
        "step_gamma": 0,
        "clip_low": 0,
        "clip_high": 0,
        "epochs": 1,
        "minibatches": 1,
        "kl": 0,
        "tis": 0,
        "replay": 0,
        "replay_weight": 0,
        "max_turn_tokens": 1,
        "parallel": 1,
    }
    above: ClassVar[dict[str, float]] = {"temperature": 0, "constant": 0}
    endless: ClassVar[str] = "clip_high"

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ConfigError(f"a group needs two episodes or more to compare, got {self.group}")
        if self.temperature == 0:
            raise ConfigError(
                "at temperature 0 all episodes of a group are the same, and nothing can be learned from how they "
                "differ: sample above 0, such as at 1"
            )
        if self.forked >= 1:
            raise ConfigError(f"forked is below 1: some groups have to begin at the start; got {self.forked}")
        if self.step_gamma > 1:
            raise ConfigError(f"step_gamma is from 0 to 1, got {self.step_gamma}")
        TrainSettings.__post_init__(self)


@dataclass(frozen=True, slots=True)
class StepGroups:
    """What one step of GRPO learns from."""

    step: int
    groups: list[TrajectoryGroup]
    """Those with signal."""
    states: list[list[list[str]]] = field(default_factory=list)
    """For gigpo: of each group, of each episode, the key of the state before each turn."""


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
        self._states = States()

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        if s.kl:
            policy.freeze_reference()
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    # ---- what is played ----------------------------------------------------------------------------------------------

    def sample(self, run: Run, step: int) -> Drawn[StepGroups]:
        s = self.settings
        started = time.monotonic()
        agent = run.policy.agent(
            temperature=s.temperature, max_turn_tokens=s.max_turn_tokens, parallel=s.parallel, version=step
        )
        count = run.counting_episodes(s.groups * s.group)
        begun = max(1, s.groups - round(s.forked * s.groups))
        wanted = begun
        groups: list[TrajectoryGroup] = []
        drawn: list[TrajectoryGroup] = []
        for attempt in range(s.redraws + 1):
            seed = seed_of(s.seed, step, attempt) % 2**31
            fresh = sample_groups(s.mixture, agent, wanted, s.group, seed=seed, on_done=count)
            drawn += fresh
            groups += [g for g in fresh if has_signal(g.rewards())]
            wanted = begun - len(groups)
            if wanted <= 0:
                break
        if begun < s.groups:
            forked = self._forked(agent, drawn, s.groups - begun, step, count)
            drawn += forked
            groups += [g for g in forked if has_signal(g.rewards())]
        episodes = [t for g in drawn for t in g.trajectories]
        run.write(episodes_file(step), dump_jsonl(episodes))
        logs = {
            **summary(episodes),
            "groups": float(len(drawn)),
            "signal": len(groups) / max(1, len(drawn)),
            "rollout_seconds": time.monotonic() - started,
        }
        if s.estimator != "gigpo":
            return Drawn(StepGroups(step, groups), logs)
        states = [[self._keys(t) for t in g.trajectories] for g in groups]
        return Drawn(StepGroups(step, groups, states), {**logs, "anchored": _anchored(states)})

    def _forked(
        self,
        agent: Agent,
        drawn: Sequence[TrajectoryGroup],
        n: int,
        step: int,
        count: Callable[[int, Trajectory], None],
    ) -> list[TrajectoryGroup]:
        """At most `n` groups that begin after a failed call of an episode just played; different failures first."""
        s = self.settings
        seed = seed_of(s.seed, step, "forks") % 2**31
        found: list[tuple[Trajectory, int]] = []
        for t in (t for g in drawn for t in g.trajectories):
            at = failures(t)
            found += [(t, k) for k in {"first": at[:1], "last": at[-1:], "any": at}[s.fork_at]]
        random.Random(seed).shuffle(found)
        seen: set[tuple[str, str, str]] = set()
        other: list[tuple[bool, int, Trajectory, int]] = []  # tasks without a fork come first
        for t, k in found:
            key = (t.env, t.task.id, t.faults)
            other.append((key in seen, len(other), t, k))
            seen.add(key)
        starts: list[tuple[Trajectory, int, Snapshot]] = []
        for _, _, t, k in sorted(other, key=lambda item: item[:2]):
            if len(starts) == n:
                break
            try:
                starts.append((t, k, self._states.before_turns(t)[k]))
            except DataError:  # it does not play the same again: another one
                continue
        return forked_groups(s.mixture, agent, starts, s.group, seed=seed, on_done=count)

    def _keys(self, t: Trajectory) -> list[str]:
        try:
            return self._states.keys(t)
        except DataError:  # it does not play the same again: in no state that others were in
            return [f"{t.id}/{k}" for k in range(len(t.turns))]

    # ---- what is learned ---------------------------------------------------------------------------------------------

    def rounds(self, policy: Policy, batch: StepGroups) -> Iterable[Iterable[Callable[[], Loss]]]:
        """One update; or epochs x minibatches, each against the policy as it was before the first."""
        s = self.settings
        updates = s.epochs * s.minibatches
        if updates == 1:
            yield self.losses(policy, batch)
            return
        samples = self._samples(policy, batch)
        samples = with_channels(
            samples, s.optim.micro_tokens, policy.device, lambda tree: {OLD: policy.predict(tree).logps_M}
        )
        done = batch.step * updates
        for epoch in range(s.epochs):
            for part in parts_of(len(samples), s.minibatches, seed_of(s.seed, batch.step, "epoch", epoch)):
                yield self._losses(policy, [samples[i] for i in part], done)
                done += 1

    def losses(self, policy: Policy, batch: StepGroups) -> Iterable[Callable[[], Loss]]:
        return self._losses(policy, self._samples(policy, batch), batch.step)

    def _losses(self, policy: Policy, samples: list[Sample], update: int) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        total = sum(sample.weight for sample in samples)
        divisor = {
            "token-mean": total,
            "sequence-mean": float(len(samples)),
            "constant": s.constant * len(samples),
        }[s.aggregation]

        def compute(indices: list[int]) -> Loss:
            tree = TreeBatch.build([samples[i] for i in indices], policy.device)
            seen = policy.predict(tree)
            old = tree.channels_M.get(OLD)
            loss = policy_gradient_loss(
                seen.logps_M,
                old,
                tree.channels_M["advantages"],
                tree.weights_M,
                clip_low=s.clip_low,
                clip_high=s.clip_high,
                ratio=s.ratio,
                aggregation=s.aggregation,
                owner_N=tree.owner_M,
                sampler_logps_N=tree.channels_M[SAMPLER],
                tis_cap=s.tis or None,
                mismatch=s.mismatch,
                denominator=divisor,
            )
            value, logs = loss.value, {**loss.logs, "entropy": float(weighted_mean(seen.entropy_M, tree.weights_M))}
            if s.kl:
                weight = s.kl if s.kl_place == "loss" else 0.0
                kl = kl_loss(
                    seen.logps_M,
                    policy.reference(tree),
                    tree.weights_M,
                    estimator=s.kl_estimator,
                    old_logps_N=old,
                    denominator=total,
                    weight=weight,
                )
                value, logs = value + kl.value, {**logs, **kl.logs}
            return Loss(value, logs, loss.weight)

        for indices in micro_batches(samples, s.optim.micro_tokens) if samples else ():
            yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, update, s.optim.micro_tokens)

    def _samples(self, policy: Policy, batch: StepGroups) -> list[Sample]:
        """Each episode's sampled tokens at the temperature that sampled them, with an advantage on every one."""
        s = self.settings
        rewards = [list(g.rewards()) for g in batch.groups]
        if s.kl and s.kl_place == "reward":
            rewards = self._less_kl(policy, batch.groups, rewards)
        if s.estimator == "lite":
            whole = lite_advantages(rewards)
        else:
            per_group = "grpo" if s.estimator == "gigpo" else s.estimator
            whole = [group_advantages(r, per_group) for r in rewards]
        samples = []
        for g, (group, advantages) in enumerate(zip(batch.groups, whole, strict=True)):
            turns = step_advantages(rewards[g], batch.states[g], gamma=s.step_gamma) if s.estimator == "gigpo" else None
            for i, (t, advantage) in enumerate(zip(group.trajectories, advantages, strict=True)):
                if s.overlong == "mask" and t.stop.truncated:
                    continue
                each = [advantage] * len(t.tokens or ())
                for turn, more in zip(t.turns, turns[i] if turns else (), strict=False):
                    for at in range(*(turn.span or (0, 0))):
                        each[at] += s.step_weight * more
                samples.append(_sample(policy.chat, t, advantages=each))
        return [sample for sample in samples if sample.weight]

    def _less_kl(
        self, policy: Policy, groups: Sequence[TrajectoryGroup], rewards: Sequence[Sequence[float]]
    ) -> list[list[float]]:
        """Rewards less `kl` times the sum of log pi - log ref over the episode's sampled tokens."""
        s = self.settings
        samples = [_sample(policy.chat, t) for g in groups for t in g.trajectories]
        seen = with_channels(
            samples,
            s.optim.micro_tokens,
            policy.device,
            lambda tree: {"kl": policy.predict(tree).logps_M - policy.reference(tree)},
        )
        sums = iter([sum(sample.channels["kl"]) for sample in seen])
        return [[reward - s.kl * next(sums) for reward in group] for group in rewards]


def _sample(chat: ChatFormat, t: Trajectory, **channels: Sequence[float]) -> Sample:
    """Its sampled tokens; those before a fork are context, and not learned. Raises `ConfigError` for tokens of another
    encoding."""
    tokens = sampled_tokens(chat, t)
    start = 0
    if t.forked_from is not None:
        following = t.turns[t.forked_from.turn].span if t.forked_from.turn < len(t.turns) else None
        start = following[0] if following else len(tokens)
    weights = [float(at >= start) for at in range(len(tokens))]
    return Sample.of(tokens, weights=weights, temperature=t.temperature, **channels)


def _anchored(states: Sequence[Sequence[Sequence[str]]]) -> float:
    """Share of the turns whose state another turn of their group was in, too."""
    turns = shared = 0
    for group in states:
        keys = [key for mine in group for key in mine]
        turns += len(keys)
        shared += sum(keys.count(key) > 1 for key in keys)
    return shared / max(1, turns)
