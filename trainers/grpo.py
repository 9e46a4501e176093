"""GRPO: groups of episodes of one task under one fault seed, and the reward of the whole episode.

A step: draw tasks and fault plans from the mixture, let the policy play each `group` times, keep the groups whose
rewards differ (and draw again for the others, up to a limit), one advantage for each episode, one update. KL to the
policy that the run began with and a little replay of gold episodes hold what was known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..agents.agent import Agent
from ..agents.evaluation import seed_of
from ..agents.rollouts import SLACK, EpisodeSpec, rollout
from ..envs.registry import make
from ..envs.task import task_set
from ..tools.plans import FaultPlan
from ..trajectories.errors import ConfigError, InfrastructureError
from ..trajectories.trajectory import Trajectory, TrajectoryGroup
from .advantages import Estimator, group_advantages, has_signal
from .batch import Sample, TreeBatch, micro_batches
from .losses import Aggregation, Loss, kl_loss, policy_gradient_loss, weighted_mean
from .model import Policy
from .run import Optim, Run
from .sft import OnStep, epoch_indices, samples_of, sft_losses

__all__ = ["GrpoSettings", "Mixture", "grpo", "sample_groups"]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Which tasks under which faults, and how often."""

    env: str
    plans: tuple[tuple[str, float], ...] = (("", 0.25), ("count=1", 0.5), ("count=2", 0.25))
    """(one-line fault plan, weight)."""
    levels: tuple[int, ...] = ()
    slack: int | None = SLACK
    """Turns over the expert's before an episode is cut; None: the environment's `max_turns` alone."""

    def draw(self, n: int, *, seed: int, without: Iterable[str] = ()) -> list[tuple[EpisodeSpec, str]]:
        """`n` (task, plan) with the plan's text, all different; plans in their shares, rounded by chance."""
        tasks = task_set(make(self.env), "train", n, seed=seed, levels=self.levels, without=without)
        rng = random.Random(seed)
        texts = [text for text, _ in self.plans]
        chosen = rng.choices(texts, [weight for _, weight in self.plans], k=len(tasks))
        plans = [FaultPlan.parse(f"{text}@{seed}") if text else FaultPlan() for text in chosen]
        return [(EpisodeSpec(task, plan), text) for task, plan, text in zip(tasks, plans, chosen, strict=True)]


@dataclass(frozen=True, slots=True)
class GrpoSettings:
    """Of one GRPO run."""

    mixture: Mixture
    steps: int = 10
    groups: int = 8
    """Groups with signal wanted in a step."""
    group: int = 8
    """Episodes of a group."""
    redraws: int = 0
    """How often groups without signal are replaced by new ones."""
    estimator: Estimator = "grpo"
    aggregation: Aggregation = "token-mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.02
    """Weight of KL to the policy that the run began with, nats per token; 0: off, and no reference is kept."""
    replay: int = 4
    """Gold trajectories a step."""
    replay_weight: float = 0.1
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-6, warmup=1))
    temperature: float = 1.0
    max_turn_tokens: int = 64
    parallel: int = 64
    save_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ConfigError(f"a group needs two episodes or more to compare, got {self.group}")


def grpo(
    policy: Policy,
    settings: GrpoSettings,
    folder: Path,
    *,
    gold: Sequence[Trajectory] = (),
    on_step: OnStep | None = None,
    on_episode: Callable[[Run, int, int], None] | None = None,
) -> Path:
    """Trains and returns the model's folder. Resumes like `sft`.

    `on_episode` is told within a step how many of how many episodes have been played.

    Writes each step's episodes to `episodes/step-000001.jsonl`. Raises `InfrastructureError` when a step's episodes all
    failed for reasons that are not the policy's.
    """
    if settings.kl:
        policy.freeze_reference()
    replay = samples_of(policy.chat, gold, 1 << 20) if gold and settings.replay else []
    run = Run(folder, policy, settings.optim, settings.steps, settings=settings, save_every=settings.save_every)
    (folder / "episodes").mkdir(exist_ok=True)
    with run.saving_on_interrupt():
        for step in run.steps():
            row = _step(run, policy, settings, replay, step, on_episode)
            run.log(row)
            if on_step:
                on_step(run, row)
    return run.finish()


def _step(
    run: Run,
    policy: Policy,
    settings: GrpoSettings,
    replay: Sequence[Sample],
    step: int,
    on_episode: Callable[[Run, int, int], None] | None,
) -> dict[str, float]:
    started = time.monotonic()
    played = 0

    def count(_: int, trajectory: Trajectory) -> None:
        nonlocal played
        played += 1
        if on_episode:
            on_episode(run, played, settings.groups * settings.group)

    agent = policy.agent(
        temperature=settings.temperature,
        max_turn_tokens=settings.max_turn_tokens,
        parallel=settings.parallel,
        version=step,
    )
    wanted, groups, drawn = settings.groups, [], []
    for attempt in range(settings.redraws + 1):
        fresh = sample_groups(
            settings.mixture,
            agent,
            wanted,
            settings.group,
            seed=seed_of(settings.seed, step, attempt) % 2**31,
            on_done=count,
        )
        drawn += fresh
        groups += [g for g in fresh if has_signal(g.rewards())]
        wanted = settings.groups - len(groups)
        if wanted <= 0:
            break
    episodes = [t for g in drawn for t in g.trajectories]
    lines = b"".join(t.to_json() + b"\n" for t in episodes)
    (run.folder / "episodes" / f"step-{step + 1:06d}.jsonl").write_bytes(lines)
    sampled = time.monotonic()
    row = run.update(_losses(policy, groups, settings, replay, step))
    return {
        **row,
        **_summary(drawn, episodes),
        "signal": len(groups) / max(1, len(drawn)),
        "rollout_seconds": sampled - started,
        "update_seconds": time.monotonic() - sampled,
    }


def sample_groups(
    mixture: Mixture,
    agent: Agent,
    n: int,
    size: int,
    *,
    seed: int,
    on_done: Callable[[int, Trajectory], None] | None = None,
) -> list[TrajectoryGroup]:
    """`n` groups of `size` episodes; a group shares its task and its faults. Groups of fewer than two are left out.

    Raises `InfrastructureError` when not one group could be played.
    """
    episodes = [
        replace(episode, seed=seed_of(seed, episode.task.id, member))
        for episode, _ in mixture.draw(n, seed=seed)
        for member in range(size)
    ]
    played = rollout(mixture.env, agent, episodes, slack=mixture.slack, on_done=on_done)
    groups = [g for g in TrajectoryGroup.by_task(played) if len(g.trajectories) > 1]
    if not groups:
        failed = next((t.error for t in played if t.error), "no episode could be judged")
        raise InfrastructureError(f"none of {len(played)} episodes could be used: {failed}")
    return groups


def _losses(
    policy: Policy, groups: Sequence[TrajectoryGroup], settings: GrpoSettings, replay: Sequence[Sample], step: int
) -> Iterable[Callable[[], Loss]]:
    samples: list[Sample] = []
    advantages: list[float] = []
    for group in groups:
        for trajectory, advantage in zip(
            group.trajectories, group_advantages(group.rewards(), settings.estimator), strict=True
        ):
            if trajectory.tokens is None:
                raise ConfigError(f"trajectory {trajectory.id} has no sampled tokens: RL needs a model's own episodes")
            samples.append(Sample.of(trajectory.tokens))
            advantages.append(advantage)
    total = sum(s.weight for s in samples)
    divisor = {"token-mean": total, "sequence-mean": float(len(samples)), "constant": 1000.0 * len(samples)}

    def compute(indices: list[int]) -> Loss:
        batch = TreeBatch.build([samples[i] for i in indices], policy.device)
        seen = policy.predict(batch)
        each_B = batch.weights_M.new_tensor([advantages[i] for i in indices])
        loss = policy_gradient_loss(
            seen.logps_M,
            None,
            each_B[batch.owner_M],
            batch.weights_M,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            aggregation=settings.aggregation,
            owner_N=batch.owner_M,
            sampler_logps_N=batch.sampler_M,
            denominator=divisor[settings.aggregation],
        )
        value, logs = loss.value, {**loss.logs, "entropy": float(weighted_mean(seen.entropy_M, batch.weights_M))}
        if settings.kl:
            kl = kl_loss(seen.logps_M, policy.reference(batch), batch.weights_M, denominator=total / settings.kl)
            value, logs = value + kl.value, {**logs, **kl.logs}
        return Loss(value, logs, loss.weight)

    for indices in micro_batches(samples, settings.optim.micro_tokens) if samples else ():
        yield lambda indices=indices: compute(indices)  # type: ignore[misc]  # mypy cannot type a default
    if replay:
        again = [replay[i] for i in epoch_indices(len(replay), settings.replay, step, settings.seed + 1)]
        yield from sft_losses(
            policy, again, settings.optim.micro_tokens, scale=settings.replay_weight, prefix="replay_"
        )


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
    return out
