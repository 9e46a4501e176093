"""What a disguise costs: CPU milliseconds of an episode's start and of a turn, with it and without, on the same tasks.

The actions are the expert's, as an agent sees them. Each task is played many times, the environments in turns, and the
least of its times counts; what is printed is the mean over tasks. One thread, no model.

    python benchmarks/disguise.py                       the environments below
    python benchmarks/disguise.py orders shop           these
"""

from __future__ import annotations

import argparse
import statistics
import time

from sparring import Action, Task, ToolEnv
from sparring.envs import make, play, task_set

ENVS = ("orders", "calendar", "shop", "incident", "echo")
KNOBS = ("", "?disguise=1", "?disguise=1&clutter=1")
TASKS, TIMES = 12, 60


def actions_of(env: ToolEnv, task: Task) -> list[Action]:
    env.start(task)
    return [turn.action for turn in play(env)]


def once(env: ToolEnv, task: Task, actions: list[Action]) -> tuple[float, float]:
    """Seconds of the start, and of a turn."""
    before = time.process_time()
    env.start(task)
    started = time.process_time()
    for action in actions:
        env.act(action)
    return started - before, (time.process_time() - started) / len(actions)


def measure(name: str) -> list[tuple[float, float]]:
    """For each of `KNOBS`: milliseconds of a start, and of a turn."""
    envs = [make(name + knobs) for knobs in KNOBS]
    found: list[list[tuple[float, float]]] = [[] for _ in envs]
    for task in task_set(envs[0], "train", TASKS):
        actions = [actions_of(env, task) for env in envs]
        times: list[list[tuple[float, float]]] = [[] for _ in envs]
        for _ in range(TIMES):
            for i, env in enumerate(envs):
                times[i].append(once(env, task, actions[i]))
        for i, of_env in enumerate(times):
            found[i].append((min(start for start, _ in of_env), min(turn for _, turn in of_env)))
    return [(1e3 * statistics.mean(s for s, _ in f), 1e3 * statistics.mean(t for _, t in f)) for f in found]


def main(names: list[str]) -> None:
    print("| environment | start, ms | more in disguise | with clutter | turn, ms | more in disguise | with clutter |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        (start, turn), *rest = measure(name)
        starts = " | ".join(f"{other - start:+.3f}" for other, _ in rest)
        turns = " | ".join(f"{other - turn:+.4f}" for _, other in rest)
        print(f"| {name} | {start:.3f} | {starts} | {turn:.4f} | {turns} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("envs", nargs="*", default=list(ENVS), help="names of environments")
    main(parser.parse_args().envs)
