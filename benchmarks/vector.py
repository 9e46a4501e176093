"""10,000 episodes of `orders` in a Gymnasium vector environment, played by the expert: speed, and whether memory grows.

`gymnasium.make_vec` makes 64 environments, one after the other in this process; one that is done begins its next
task in the same step. Tasks of all four levels in turn, each once. The expert's generators give the actions, through
`step` as any agent's would go; schema check and record are on. Peak memory is the process's.

    python benchmarks/vector.py [--episodes 10000] [--envs 64] [--faults count=1] [--env sparring/Orders-v0]
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import sparring.envs  # registers the environments
from sparring import Action, FaultPlan, Observation, ToolEnv
from sparring.envs.experts import SAID, Calls, expert


class EachTask(gymnasium.Wrapper[Observation, Action, Observation, Action]):
    """Begins a new task of the training split at each reset."""

    def __init__(self, env: gymnasium.Env[Observation, Action], numbers: Any, plan: FaultPlan) -> None:
        super().__init__(env)
        assert isinstance(env.unwrapped, ToolEnv)
        self.tasks = iter(env.unwrapped.tasks("train", random.Random(next(numbers))))
        self.plan = plan

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        return self.env.reset(seed=seed, options={"task": next(self.tasks), "faults": self.plan})


def peak_mib() -> float:
    """Of this process since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main(env: str, episodes: int, n: int, faults: str) -> None:
    plan = FaultPlan.parse(faults)
    numbers = iter(range(n))
    vector = gymnasium.make_vec(
        env,
        n,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        wrappers=[lambda inner: EachTask(inner, numbers, plan)],
    )
    assert isinstance(vector, SyncVectorEnv)
    worlds: list[Any] = [inner.unwrapped for inner in vector.envs]
    start, wall = time.process_time(), time.perf_counter()
    vector.reset(seed=0)
    experts: list[Calls] = [expert(world) for world in worlds]
    actions = [next(each) for each in experts]
    done = won = turns = 0
    marks = [m for m in (episodes // 10, episodes // 2, episodes) if m]
    print(f"{env}, {n} environments, faults: {faults or 'none'}")
    print(
        f"{'episodes':>9} {'won':>7} {'turns':>8} {'CPU s':>7} {'episodes/s':>11} {'ms CPU a turn':>14} {'peak MiB':>9}"
    )
    while done < episodes:
        _, _, ended, cut, info = vector.step(tuple(actions))
        turns += n
        for i in range(n):
            if ended[i] or cut[i]:
                done += 1
                won += bool(ended[i] and info["final_info"]["success"][i])
                experts[i] = expert(worlds[i])
                actions[i] = next(experts[i])
            else:
                actions[i] = experts[i].send(worlds[i].episode.last_result or SAID)
        while marks and done >= marks[0]:
            marks.pop(0)
            cpu = time.process_time() - start
            print(
                f"{done:9,} {won / done:7.1%} {turns:8,} {cpu:7.1f} {done / cpu:11.0f} {cpu / turns * 1e3:14.3f} "
                f"{peak_mib():9.1f}"
            )
    vector.close()
    print(f"{time.perf_counter() - wall:.1f} s by the wall clock")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--env", default="sparring/Orders-v0")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--faults", default="", help="a fault plan, such as count=1")
    asked = parser.parse_args()
    assert sparring.envs.registered()
    main(asked.env, asked.episodes, asked.envs, asked.faults)
