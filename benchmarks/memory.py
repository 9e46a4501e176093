"""Memory and speed of training: SFT on episodes of varied length, in micro-batches, step by step.

Episodes are the expert's, of `orders`, levels 1 to 4. Each step is one micro-batch of up to `--tokens` tokens (their
number varies from step to step) and one AdamW update. Printed: resident memory of the process now and at its
highest, CPU seconds of the program (user) and of the kernel (system), and tokens a CPU second. One thread.

    python benchmarks/memory.py                              40 steps, as a run decides for itself
    python benchmarks/memory.py --steps 200 --checkpointing on
    python benchmarks/memory.py --lora 16 --checkpointing off
"""

from __future__ import annotations

import argparse
import random
import resource
from collections.abc import Iterator
from itertools import islice

import torch

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.agents.chat_format import tokens_of
from sparring.envs import make, task_set
from sparring.trainers.batch import Sample, TreeBatch, micro_batches
from sparring.trainers.losses import sft_loss
from sparring.trainers.model import Lora, Policy

CHOICES = {"auto": None, "on": True, "off": False}


def status(name: str) -> int:
    """A line of /proc/self/status, in MB."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) // 1000 for line in lines if line.startswith(name))


def batches(policy: Policy, tokens: int, steps: int) -> list[list[Sample]]:
    """One micro-batch a step; the last of a shuffle is often a short one, as in training."""
    tasks = task_set(make("orders"), "train", 160, levels=(1, 2, 3, 4))
    played = rollout("orders", scripted("expert"), [EpisodeSpec(t) for t in tasks])
    samples = [Sample.of(tokens_of(policy.chat, t)[0]) for t in played]
    rng = random.Random(0)

    def stream() -> Iterator[list[Sample]]:
        while True:
            chosen = rng.sample(samples, 8)
            for indices in micro_batches(chosen, tokens):
                yield [chosen[i] for i in indices]

    return list(islice(stream(), steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=2048, help="Of a micro-batch.")
    parser.add_argument("--lora", type=int, default=0, help="Rank; 0: all weights are trained.")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--checkpointing", choices=CHOICES, default="auto")
    parser.add_argument("--every", type=int, default=10, help="Steps between rows.")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    policy = Policy.load(
        chosen.model,
        tool_style="signature",
        precision=chosen.precision,
        lora=Lora(chosen.lora) if chosen.lora else None,
        checkpointing=CHOICES[chosen.checkpointing],
    )
    work = batches(policy, chosen.tokens, chosen.steps)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)
    print(f"{status('VmRSS')} MB with the model and the episodes; micro-batches of", end=" ")
    sizes = [len(TreeBatch.build(samples).ids_N) for samples in work]
    print(f"{min(sizes)} to {max(sizes)} tokens")
    print(
        f"{'step':>5} {'tokens':>7} {'RSS MB':>7} {'peak MB':>8} {'user s':>7} {'system s':>9} {'tokens/s':>9} "
        f"{'loss':>9}"
    )
    start = before = resource.getrusage(resource.RUSAGE_SELF)
    done = last = 0
    for step, samples in enumerate(work, 1):
        batch = TreeBatch.build(samples, policy.device)
        loss = sft_loss(policy.predict(batch).logps_M, batch.weights_M)
        loss.value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += len(batch.ids_N)
        if step <= 3 or step % chosen.every == 0 or step == chosen.steps:
            now = resource.getrusage(resource.RUSAGE_SELF)
            user, system = now.ru_utime - before.ru_utime, now.ru_stime - before.ru_stime
            print(
                f"{step:5} {len(batch.ids_N):7} {status('VmRSS'):7} {status('VmHWM'):8} {user:7.1f} {system:9.1f} "
                f"{(done - last) / (user + system):9.1f} {float(loss.value.detach()):9.6f}",
                flush=True,
            )
            before, last = now, done
    end = resource.getrusage(resource.RUSAGE_SELF)
    user, system = end.ru_utime - start.ru_utime, end.ru_stime - start.ru_stime
    print(
        f"a step: {user / chosen.steps:.2f} s user, {system / chosen.steps:.2f} s system; "
        f"{done / (user + system):.0f} tokens a CPU second; peak {status('VmHWM')} MB"
    )


if __name__ == "__main__":
    main()
