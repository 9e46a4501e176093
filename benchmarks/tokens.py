"""Training and generation against the plain Hugging Face way, on the same model, episodes and machine, one thread.

Training: an SFT step over 16 episodes as a prefix tree, against one padded batch with `labels`. Generation: 32
episodes with the engine's cache, against a full prefill for each turn. CPU seconds, medians of alternating repeats.

    python benchmarks/tokens.py [MODEL]        default: tiny-llama, random weights
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from sparring.agents import EpisodeSpec, HermesFormat, LLMAgent, rollout, scripted
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.models import load_model, load_tokenizer
from sparring.envs import make, task_set
from sparring.trainers.model import Policy
from sparring.trainers.samples import likelihood_losses, samples_of

REPEATS = 3


def alternate(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:  # the first round warms up
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, seconds: dict[str, float]) -> None:
    print(title)
    slowest = max(seconds.values())
    for name, value in seconds.items():
        print(f"  {name:44} {value:8.2f} CPU s   {slowest / value:4.1f}x")


def training(name: str) -> None:
    env = make("orders")
    tasks = task_set(env, "train", 16, levels=(1, 2))
    gold = rollout("orders", scripted("expert"), [EpisodeSpec(t) for t in tasks])
    policy = Policy.load(name, tool_style="signature", precision="fp32")
    samples = samples_of(policy.chat, gold, 4096)
    plain = load_model(name)
    longest = max(len(s.ids) for s in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    attention = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        n = len(sample.ids)
        ids[row, :n] = torch.tensor(sample.ids)
        attention[row, :n] = 1
        wanted = torch.tensor(sample.weights) > 0
        labels[row, :n][wanted] = ids[row, :n][wanted]

    def tree() -> None:
        for loss in likelihood_losses(policy, samples, 1 << 20):
            loss().value.backward()  # type: ignore[no-untyped-call]

    def padded() -> None:
        plain(input_ids=ids, attention_mask=attention, labels=labels).loss.backward()

    report("SFT step, 16 episodes of orders", alternate({"padded, Hugging Face": padded, "prefix tree": tree}))


def generation(name: str) -> None:
    chat = HermesFormat(load_tokenizer(name), tool_style="signature")
    tasks = task_set(make("orders"), "train", 32, levels=(1, 2))
    episodes = [EpisodeSpec(t, seed=i) for i, t in enumerate(tasks)]
    engine = TransformersEngine(load_model(name), parallel=32)

    class Forgetful(TransformersEngine):
        """Prefills the whole prompt in each turn."""

        async def generate(self, session, prompt, sampling, seed):  # type: ignore[no-untyped-def]
            result = await super().generate(session, prompt, sampling, seed)
            self._by_session[session].ids = []
            return result

        def _best_prefix(self, prompt: list[int]) -> tuple[None, int]:
            return None, 0

    forgetful = Forgetful(load_model(name), parallel=32)

    def play(engine: TransformersEngine) -> None:
        engine.reset()
        rollout("orders", LLMAgent(engine, chat, max_turn_tokens=24, parallel=32), episodes)

    seconds = alternate({"prefill in each turn": lambda: play(forgetful), "cache kept": lambda: play(engine)})
    report("Rollout, 32 episodes of orders", seconds)
    for label, stats in (("prefill in each turn", forgetful.stats), ("cache kept", engine.stats)):
        runs = REPEATS + 1
        print(f"  {label:44} {stats.prefilled // runs:8} prefilled, {stats.sampled // runs} sampled")


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1] if len(sys.argv) > 1 else "tiny-llama"
    training(chosen)
    generation(chosen)
