"""The embedded engine on whole episodes: sampled tokens a CPU second, with its weights packed and as torch has them.

48 episodes of `orders` (levels 1 and 2, one fault each) are played at once, the engine in bfloat16, one thread. The
same tokens are drawn in both ways: the products are the same to the last bit. An episode ends after 8 turns at most.

    python benchmarks/engine.py [MODEL]        default: smollm2-135m, which is fetched once
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from unittest.mock import patch

import torch

from sparring.agents import Limits, LLMAgent
from sparring.agents.engines.transformers import EngineStats, TransformersEngine, engine
from sparring.agents.evaluation import Condition, evaluate
from sparring.agents.loading import AgentSettings, load_agent

FAULTS = "count=1:tool_removed,session_expired,unavailable,stale_id,timeout_landed"


def played(model: str) -> tuple[EngineStats, float]:
    """What was computed, and the CPU seconds that it took."""
    agent = load_agent(model, AgentSettings(precision="bf16", tool_style="signature", parallel=48))
    condition = Condition("one fault", "orders", FAULTS, n=48, levels=(1, 2), limits=Limits(turns=8))
    started = time.process_time()
    evaluate(agent, [condition])
    assert isinstance(agent, LLMAgent)
    assert isinstance(agent.engine, TransformersEngine)
    return agent.engine.stats, time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
    for name in ("as torch has them", "packed"):
        with nullcontext() if name == "packed" else patch.object(engine, "pack", lambda model: None):
            s, seconds = played(model)
        print(
            f"{name:18} {s.sampled} sampled, {s.prefilled} prefilled in {s.forwards} forwards, {seconds:.1f} CPU s: "
            f"{s.sampled / seconds:.0f} sampled a CPU second"
        )


if __name__ == "__main__":
    main()
