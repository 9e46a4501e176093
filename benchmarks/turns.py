"""Overhead of a turn: schema check, fault plan and full record on, for a tool that does nothing.

Beside it in the same run: a bare Gymnasium environment whose step does nothing and records nothing. CPU milliseconds a
turn, median of the repeats, one thread.

    python benchmarks/turns.py
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import gymnasium

from sparring import Action, FaultPlan, Task, ToolEnv, tool

EPISODES, TURNS, REPEATS = 400, 5, 7


class Counter(ToolEnv):
    """Adds, four times, then answers."""

    def tasks(self, split: str, rng: Any) -> Any:
        yield Task("Add.")

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {"sum": 0}

    @tool
    def add(self, a: int, b: int) -> int:
        """Add two integers."""
        self.state["sum"] = a + b
        return a + b

    def success(self, task: Task) -> bool:
        return bool(self.state["sum"] == 7)


class Bare(gymnasium.Env[int, int]):
    """Five steps of nothing."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.turns = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.turns += 1
        return 0, 0.0, self.turns == TURNS, False, {}


def ours(plan: FaultPlan | None) -> None:
    env = Counter()
    task = Task("Add.")
    call, done = Action.call("add", a=3, b=4), Action("7")
    for _ in range(EPISODES):
        env.start(task, plan)
        for _ in range(TURNS - 1):
            env.act(call)
        assert env.act(done).stop is not None


def bare() -> None:
    env = Bare()
    for _ in range(EPISODES):
        env.reset()
        for _ in range(TURNS):
            env.step(1)


def measure(run: Any) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) / EPISODES / TURNS * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    base = measure(bare)
    plan = FaultPlan.parse("unavailable:0.0,timeout_landed:0.0")
    for name, value in (
        ("Gymnasium, no tools, no record", base),
        ("Sparring, no fault plan", measure(lambda: ours(None))),
        ("Sparring, fault plan with two rates", measure(lambda: ours(plan))),
    ):
        print(f"{name:38} {value:.4f} ms CPU a turn   {value / base:5.1f}x")
