"""The trajectory store: appends, filters, memory of a streaming read, and kill -9 at random moments.

    python benchmarks/store.py                    all of it, on episodes of 10 turns and 1,200 tokens (minutes)
    python benchmarks/store.py speed --episodes 100000
    python benchmarks/store.py kill --rounds 50   four writers that also seal and merge, killed at random

Appends are timed in CPU seconds of the one thread that makes them; queries on the wall clock, the best of five. The
peer is what most frameworks do: `to_json` and a buffered line in a file, flushed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring import Action, Message, Outcome, StopReason, Task, Tokens, ToolCall, ToolResult, Trajectory, Turn
from sparring.trajectories import Cause, ToolSpec
from sparring.trajectories.store import Store

TURNS, TOKENS = 10, 1200
OUTCOMES = (Outcome.OK, Outcome.OK, Outcome.OK, Outcome.NOT_FOUND, Outcome.TIMEOUT, Outcome.UNAVAILABLE)
SPECS = tuple(
    ToolSpec(f"tool_{i}", "Does one thing at the desk.", {"type": "object", "properties": {"name": {"type": "string"}}})
    for i in range(6)
)


def episode(i: int, turns: int = TURNS, tokens: int = TOKENS) -> Trajectory:
    """An episode as an agent on the order desk leaves it: about 28 kB of JSON."""
    rng = random.Random(i)
    made = []
    for k in range(turns):
        outcome = rng.choice(OUTCOMES) if i % 3 == 0 else Outcome.OK
        arguments = {"customer": "Ada Lovelace", "item": f"red lamp {rng.randrange(10**6)}"}
        call = ToolCall("find_order", arguments, raw=f'{{"name": "find_order", "arguments": {arguments}}}', id=f"c{k}")
        cause = None if outcome is Outcome.OK else Cause.INJECTED
        text = (
            f"order {rng.randrange(10**6)}: red lamp, to be sent to 12 Elm Street on Monday, paid by card, not yet sent"
        )
        made.append(
            Turn(
                Action("I look it up.", (call,)),
                (ToolResult(f"c{k}", "find_order", outcome, text, cause=cause, latency_s=rng.random()),),
                span=(k * 100 + 70, k * 100 + 100),
            )
        )
    sampled = tuple(int(rng.random() < 0.3) for _ in range(tokens))
    return Trajectory(
        f"{i:016x}",
        ("orders/Orders-v0", "calendar/Calendar-v0", "echo/Echo-v0", "desk/Desk-v0")[i % 4],
        Task(f"Refund order {i} of Ada Lovelace.", {"goals": [{"name": "Ada", "item": "lamp"}]}, seed=i),
        (Message("system", "You work at an order desk. Use the tools. " * 8), Message("user", f"Refund order {i}.")),
        tuple(made),
        StopReason.FINISHED,
        reward=float(i // 4 % 2),
        success=bool(i // 4 % 2),
        tools=SPECS,
        tokens=Tokens(
            tuple(rng.randrange(49_152) for _ in range(tokens)),
            sampled,
            tuple(round(-rng.random() * 64) / 64 if s else 0.0 for s in sampled),
        ),
        agent=f"policy-{i % 5}",
    )


# ---- speed -----------------------------------------------------------------------------------------------------------


def best(run: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds, wall clock."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def cpu(run: Callable[[Trajectory], Any], episodes: list[Trajectory], repeats: int = 5) -> float:
    """CPU seconds an episode, the best of the repeats."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for t in episodes:
            run(t)
        times.append((time.process_time() - start) / len(episodes))
    return min(times)


def appends(folder: Path) -> None:
    for label, tokens in (("no tokens", 0), (f"{TOKENS} tokens", TOKENS)):
        episodes = [episode(i, tokens=tokens) for i in range(500)]
        with (folder / "peer.jsonl").open("wb") as file:

            def plain(t: Trajectory, file: Any = file) -> None:
                file.write(t.to_json() + b"\n")
                file.flush()

            peer = cpu(plain, episodes)
        with Store(folder / f"appends-{tokens}") as store:
            ours = cpu(store.append, episodes)
        print(f"append, 10 turns, {label:12} {1 / ours:7,.0f}/s   to_json and a flushed line: {1 / peer:7,.0f}/s")


def searches(folder: Path, count: int) -> None:
    base = [episode(i) for i in range(600)]
    store = Store(folder / "searches")
    start = time.process_time()
    for i in range(count):
        store.append(replace(base[i % len(base)], id=f"{i:016x}"))
    taken = time.process_time() - start
    size = sum(size for _, _, size in store.sizes())
    print(f"{count:,} episodes appended in {taken:.0f} s of CPU, {size / count / 1e3:.1f} kB each")
    sealing = best(lambda: print("   ", store.seal()), 1)
    size = sum(size for _, _, size in store.sizes())
    print(f"sealed in {sealing:.0f} s, {count / sealing:,.0f}/s, {size / count / 1e3:.1f} kB each")
    where = "env = 'orders/Orders-v0' and list_contains(outcomes, 'timeout') and success"
    question = f"select count(*) from episodes where {where}"
    found = store.query(question).rows[0][0]
    print(f"query by env, outcome and success: {best(lambda: store.query(question)) * 1e3:.0f} ms, {found:,} found")
    by_env = "select env, avg(success::int) from episodes group by env"
    print(f"success by env: {best(lambda: store.query(by_env)) * 1e3:.0f} ms")

    def first() -> Trajectory:
        return next(store.read(env="orders/Orders-v0", outcome="timeout", success=True))

    print(f"read with the same filter, first episode: {best(first) * 1e3:.0f} ms")
    print(f"open: {best(lambda: Store(store.path)) * 1e3:.1f} ms; len: {best(lambda: len(store)) * 1e3:.1f} ms")
    for part in (count // 10, count):
        code = (
            "import resource; from itertools import islice; from sparring.trajectories.store import Store\n"
            f"n = sum(1 for _ in islice(Store({str(store.path)!r}).read(), {part}))\n"
            "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        n, peak = map(int, done.stdout.split())
        seconds = time.perf_counter() - start
        print(f"streaming read of {n:7,}: peak {peak / 1024:.0f} MiB, {n / seconds:,.0f}/s")


# ---- kill -9 ---------------------------------------------------------------------------------------------------------


def writer(path: Path, acknowledged: Path, number: int, seed: int) -> None:
    """Appends for ever, what was not acknowledged first; notes each id once `append` has returned."""
    store = Store(path, segment_bytes=300_000)
    rng = random.Random(seed)
    base = [episode(i, tokens=100) for i in range(4)]
    fd = os.open(acknowledged, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    count = os.pread(fd, 1 << 24, 0).count(b"\n")
    while True:
        id = f"{number}-{count}"
        store.append(replace(base[count % 4], id=id))
        os.write(fd, f"{id}\n".encode())
        count += 1
        time.sleep(rng.random() * 0.005)  # so that 50 rounds stay a store that is read in seconds
        if number == 0 and rng.random() < 0.02:
            store.seal()
        if number == 1 and rng.random() < 0.02:
            store.seal()
            store.gc(merge_below=10**6)


def kill(folder: Path, rounds: int) -> int:
    """Rounds of four writers that are killed together after 0.05 to 0.5 s. 0 where nothing is lost or doubled."""
    path = folder / "killed"
    Store(path)
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401  # loaded once: the children are forked

    rng = random.Random(0)
    lost = doubled = 0
    slowest = 0.0
    phases: Counter[str] = Counter()
    for r in range(rounds):
        children = []
        for number in range(4):
            child = os.fork()
            if child == 0:
                writer(path, folder / f"{number}.ack", number, seed=r * 4 + number)
            children.append(child)
        time.sleep(rng.uniform(0.05, 0.5))
        for child in rng.sample(children, 4):
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        phases["in a seal or a merge"] += any(
            name not in (path / "manifest.json").read_text() for name in os.listdir(path / "sealed")
        )
        phases["in a line"] += any(not p.read_bytes().endswith(b"\n") for p in (path / "live").glob("*.jsonl"))
        start = time.perf_counter()
        store = Store(path)
        slowest = max(slowest, time.perf_counter() - start)
        held = Counter(row[0] for row in store.query("select id from episodes").rows)
        taken = {line for n in range(4) for line in (folder / f"{n}.ack").read_text().splitlines()}
        lost += len(taken - set(held))
        doubled += sum(n > 1 for n in held.values())
    doubled += len(list(store.read())) - len(held)
    found = store.verify()
    print(
        f"{rounds} rounds, {len(taken):,} acknowledged, {len(held):,} held: {lost} lost, {doubled} doubled; "
        f"opened within {slowest * 1e3:.0f} ms; killed {dict(phases)}; "
        f"verify: {'all is well' if found.ok else found.problems[:3]}"
    )
    return lost + doubled + len(found.problems)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "speed", "kill"], default="all")
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="Where the stores are made; a temporary folder by default.")
    options = parser.parse_args()
    place = options.folder or Path(tempfile.mkdtemp(prefix="sparring-store-"))
    place.mkdir(parents=True, exist_ok=True)
    wrong = 0
    try:
        if options.what in ("all", "speed"):
            appends(place)
            searches(place, options.episodes)
        if options.what in ("all", "kill"):
            wrong = kill(place, options.rounds)
    finally:
        if options.folder is None:
            shutil.rmtree(place)
    sys.exit(1 if wrong else 0)
