"""The expert of generated worlds: tasks of all splits, clean, then under each kind of fault, then under three at once.

Prints how many were solved, in how many calls, and in how many CPU seconds of one thread, the making of all tools in
them.

    python benchmarks/worlds.py [tasks, default 10000] [tasks of each kind of fault, default 2000]
"""

from __future__ import annotations

import sys
import time
from itertools import zip_longest

from sparring.envs import SPLITS, make, play, task_set
from sparring.tools import FAULTS, FaultPlan
from sparring.trajectories import Task

ENV = make("worlds")


def drawn(n: int) -> list[Task]:
    """So many tasks, the splits in turn."""
    rounds = zip_longest(*(task_set(ENV, split, -(-n // len(SPLITS))) for split in SPLITS))
    return [task for some in rounds for task in some if task is not None][:n]


def measured(name: str, tasks: list[Task], plan: FaultPlan) -> None:
    """Plays them and prints a line."""
    begun = time.process_time()
    solved = calls = struck = 0
    for task in tasks:
        ENV.start(task, plan)
        play(ENV)
        solved += ENV.judge()[0]
        calls += len(ENV.episode.calls)
        struck += bool(ENV.episode.faults_hit)
    print(
        f"{name:<22} {solved:>6} of {len(tasks)} solved, {struck:>6} struck, {calls:>7} calls, "
        f"{time.process_time() - begun:6.1f} s",
        flush=True,
    )


def main(n: int = 10_000, of_each: int = 2_000) -> None:
    begun = time.process_time()
    tasks = drawn(n)
    print(f"{len(tasks)} tasks drawn in {time.process_time() - begun:.1f} s")
    measured("clean", tasks, FaultPlan())
    for kind in FAULTS:
        measured(kind, tasks[:of_each], FaultPlan((kind,), 1))
    measured("three at once", tasks[:of_each], FaultPlan(count=3))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
