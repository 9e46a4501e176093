"""GRPO as a bare loop, nothing hidden: play groups, compare their rewards, take a step.

    python examples/grpo_loop.py                                  a tiny random model learns to echo a word, on a CPU
    python examples/grpo_loop.py --env orders --model runs/sft/model --faults count=1 --lr 5e-6

What `train(policy, Grpo(...), folder)` does besides: checkpoints that resume bit for bit, KL to where the run began,
replay of gold episodes, metrics and episodes on disk.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.envs import make, task_set
from sparring.tools import FaultPlan
from sparring.trainers import Data, Optim, Policy, Sft, SftSettings, train
from sparring.trainers.advantages import group_advantages, has_signal
from sparring.trainers.batch import SAMPLER, Sample, TreeBatch, micro_batches
from sparring.trainers.losses import policy_gradient_loss
from sparring.trajectories import Trajectory, TrajectoryGroup


def play(policy: Policy, env: str, faults: str, step: int, groups: int, size: int) -> list[TrajectoryGroup]:
    """`groups` tasks, each played `size` times under the same faults: only the seed of sampling differs."""
    agent = policy.agent(temperature=1.0, max_turn_tokens=64, parallel=groups * size, version=step)
    plan = FaultPlan.parse(faults, seed=step) if faults else FaultPlan()
    tasks = task_set(make(env), "train", groups, seed=step)
    specs = [EpisodeSpec(task, plan, seed=1000 * step + member) for task in tasks for member in range(size)]
    return TrajectoryGroup.by_task(rollout(env, agent, specs))


def learn(policy: Policy, optimizer: torch.optim.Optimizer, groups: list[TrajectoryGroup]) -> float:
    """One optimiser step; the loss. Groups whose rewards are all alike teach nothing and are left out."""
    samples: list[Sample] = []
    for group in groups:
        if has_signal(group.rewards()):
            for t, advantage in zip(group.trajectories, group_advantages(group.rewards()), strict=True):
                assert t.tokens is not None  # a model's episodes hold the ids that it sampled
                # on every token that the policy sampled, at the temperature that it sampled at
                samples.append(Sample.of(t.tokens, temperature=t.temperature, advantages=advantage))
    if not samples:
        return 0.0
    total = sum(sample.weight for sample in samples)  # sampled tokens of the step: each counts alike
    value = 0.0
    for indices in micro_batches(samples, 2048):  # what fits into memory; the gradients add up
        batch = TreeBatch.build([samples[i] for i in indices], policy.device)  # shared prefixes are computed once
        loss = policy_gradient_loss(
            policy.predict(batch).logps_M,
            None,  # the policy that sampled is the policy now: one step for each batch
            batch.channels_M["advantages"],
            batch.weights_M,
            sampler_logps_N=batch.channels_M[SAMPLER],  # corrects for sampler and trainer being different programs
            denominator=total,
        )
        loss.value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        value += float(loss.value.detach())
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def begin(model: str, env: str) -> Policy:
    """The model; one with random weights is first shown a few demonstrations, or it would never succeed by chance."""
    policy = Policy.load(model, tool_style="signature", precision="fp32")
    if model.startswith("tiny"):
        tasks = task_set(make(env), "train", 4)
        shown: list[Trajectory] = []
        for name in ("expert", "do-nothing"):  # it is to be right about half of the time: something is left to learn
            shown += rollout(env, scripted(name), [EpisodeSpec(task) for task in tasks])
        settings = SftSettings(steps=100, batch=8, optim=Optim(lr=1e-2, schedule="linear", warmup=2), save_every=0)
        train(policy, Sft(settings, Data(shown)), tempfile.mkdtemp())
    return policy


def main() -> None:
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--env", default="echo", help="what sparring.make takes")
    about.add_argument("--model", default="tiny-qwen3", help="a known name, a folder, or a hub name")
    about.add_argument("--faults", default="", help="a fault plan such as count=1; none by default")
    about.add_argument("--steps", type=int, default=8)
    about.add_argument("--groups", type=int, default=4, help="tasks of a step")
    about.add_argument("--size", type=int, default=8, help="episodes of each task")
    about.add_argument("--lr", type=float, default=3e-4)
    about.add_argument("--out", help="save the model here")
    given = about.parse_args()

    policy = begin(given.model, given.env)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=given.lr, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(given.steps):
        groups = play(policy, given.env, given.faults, step, given.groups, given.size)
        episodes = [t for group in groups for t in group.trajectories]
        success = sum(bool(t.success) for t in episodes) / len(episodes)
        signal = sum(has_signal(group.rewards()) for group in groups)
        loss = learn(policy, optimizer, groups)
        print(f"step {step + 1}  success {success:.2f}  groups with signal {signal}/{len(groups)}  loss {loss:+.4f}")
    if given.out:
        Path(given.out).mkdir(parents=True, exist_ok=True)
        policy.save(Path(given.out))


if __name__ == "__main__":
    main()
