"""Rollouts: slow worlds next to generation, limits of one episode, the expert's turns, streams, notebooks."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparring import Action, FaultPlan, StopReason, Task, ToolEnv, Trajectory, tool
from sparring.agents import (
    EpisodeSpec,
    Limits,
    ScriptedAgent,
    rollout,
    rollout_async,
    rollout_stream,
    scripted,
)
from sparring.agents.agent import Decision
from sparring.agents.evaluation import Condition, evaluate
from sparring.agents.replay import corrections
from sparring.agents.rollouts import RolloutWarning, inline, may_wait, play_episode
from sparring.app.records import Recorder, play_into
from sparring.envs import Others, ToolRules, User, Verdict, expert_turns, make, register, task_set
from sparring.envs.rewards import Ended, RewardTerm
from sparring.tools.background import run_async
from sparring.tools.deadline import run_forked
from sparring.trajectories import (
    ConfigError,
    DataError,
    EnvError,
    InfrastructureError,
    Message,
    Outcome,
    ToolCall,
    UnknownName,
)
from sparring.trajectories.metrics import excluded, success_rate

TASKS = [Task(f"Wait {i}.", {"n": i}) for i in range(64)]


class Clerk(ToolEnv):
    """Counts what is put on the desk."""

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"sum": 0}

    @tool(effect=True)
    def put(self, n: int) -> int:
        """Put a number on the desk."""
        self.state["sum"] += n
        return int(self.state["sum"])

    def success(self, task: Task) -> bool:
        return bool(self.state["sum"] == 3)


class Slow(Clerk):
    """The same, and a desk that is far away."""

    blocking = True

    @tool
    def walk(self) -> str:
        """Walk over there."""
        time.sleep(0.2)
        return threading.current_thread().name


class SlowAsync(Clerk):
    """The same as a coroutine."""

    @tool
    async def walk(self) -> str:
        """Walk over there."""
        await asyncio.sleep(0.2)
        return "there"


def acts(*actions: Action, parallel: int = 8) -> ScriptedAgent:
    """Does this in every episode."""

    def script(env: ToolEnv, seed: int) -> Iterator[Action]:
        for action in actions:  # noqa: UP028
            yield action  # it is sent results, which the tuple could not take

    return ScriptedAgent("acts", script, parallel=parallel)  # type: ignore[arg-type]


class Thinker:
    """An agent that is no script: it waits on the event loop before each of its actions."""

    version = 0

    def __init__(self, *actions: Action, seconds: float = 0.0, parallel: int = 8) -> None:
        self.name, self.parallel, self.actions, self.seconds = "thinker", parallel, actions, seconds
        self.open: set[object] = set()
        self.begun = 0

    def begin(self, env: ToolEnv, seed: int) -> Thought:
        self.begun += 1
        return Thought(self, seed)


class Thought:
    def __init__(self, agent: Thinker, seed: int) -> None:
        self.agent, self.seed, self.turn = agent, seed, 0
        agent.open.add(self)

    def resume(self, parent: Trajectory, fork: int) -> tuple[Any, ...]:
        return parent.turns[:fork]

    async def act(self, observation: object) -> Decision:
        await asyncio.sleep(self.agent.seconds * (self.seed or 1))
        self.turn += 1
        at = 10 * self.turn
        return Decision(self.agent.actions[min(self.turn, len(self.agent.actions)) - 1], (at, at + 10))

    def tokens(self) -> None:
        return None

    def close(self) -> None:
        self.agent.open.discard(self)


WALK, PUT, DONE = Action.call("walk"), Action.call("put", n=3), Action("Done.")


def specs(n: int, **fields: Any) -> list[EpisodeSpec]:
    return [EpisodeSpec(task, **fields) for task in TASKS[:n]]


# ---- next to each other ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [Slow, SlowAsync])
@pytest.mark.parametrize("agent", [acts(WALK, PUT, DONE), Thinker(WALK, PUT, DONE)])
def test_slow_tools_of_eight_episodes_overlap(env: type[ToolEnv], agent: Any) -> None:
    rollout(env, agent, specs(8))  # what is imported on first use
    start = time.monotonic()
    played = rollout(env, agent, specs(8))
    assert time.monotonic() - start < 0.9  # 1.6 s one after the other; measured: 0.21 s on a quiet machine
    assert all(t.success and t.stop is StopReason.FINISHED for t in played)
    assert [t.task for t in played] == TASKS[:8]


def test_all_calls_of_a_world_are_made_in_one_thread() -> None:
    seen: dict[int, set[str]] = {}
    kept: list[ToolEnv] = []  # a world that is gone would leave its id to another one

    class Watched(Slow):
        def setup(self, task: Task, rng: random.Random) -> None:
            super().setup(task, rng)
            kept.append(self)
            self.note()

        def note(self) -> None:
            seen.setdefault(id(self), set()).add(f"{threading.get_ident()}")

        @tool
        def look(self) -> str:
            """Look."""
            self.note()
            return "seen"

        def success(self, task: Task) -> bool:
            self.note()
            return super().success(task)

        def solve(self, task: Task) -> Any:
            self.note()
            yield "put", {"n": 3}
            yield "Done."

    played = rollout(Watched, acts(Action.call("look"), PUT, DONE, parallel=4), specs(12))
    assert all(t.success and t.expert_turns == 2 for t in played)
    assert all(len(threads) == 1 for threads in seen.values())
    assert f"{threading.get_ident()}" not in set.union(*seen.values())
    assert len(set.union(*seen.values())) <= 4
    by_expert = rollout(Watched, scripted("expert", parallel=4), specs(8))  # its script looks into the world
    assert all(t.success for t in by_expert)
    assert all(len(threads) == 1 for threads in seen.values())


def test_a_fast_world_stays_on_the_loop() -> None:
    class Here(Clerk):
        @tool
        def where(self) -> str:
            """Tell the thread."""
            return str(threading.get_ident())

    (t,) = rollout(Here, acts(Action.call("where"), DONE), specs(1))
    assert t.turns[0].results[0].content == str(threading.get_ident())
    assert not may_wait(Here())
    assert not any(may_wait(make(name)) for name in ("orders", "calendar", "shop", "echo"))


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"blocking": True}, {}),
        ({"reward_terms": {"one": lambda ended: 1.0}}, {}),
        ({}, {"deadline": 5.0}),
        ({}, {"blocking": True}),
    ],
)
def test_what_may_wait(fields: dict[str, Any], options: dict[str, Any]) -> None:
    def nap(self: object) -> str:
        """Nap."""
        return "awake"

    assert may_wait(type("Napping", (Clerk,), {"nap": tool(**options)(nap), **fields})())


def test_a_judge_that_waits_holds_up_nobody() -> None:
    def asked(ended: Ended) -> float:
        time.sleep(0.2)
        return 0.5

    class Judged(Clerk):
        reward_terms: Mapping[str, RewardTerm] = {"asked": asked}

    start = time.monotonic()
    played = rollout(Judged, acts(PUT, DONE), specs(8))
    assert time.monotonic() - start < 0.9  # 1.6 s one after the other
    assert all(t.reward_parts == {"success": 1.0, "asked": 0.5} for t in played)


class Hard(Clerk):
    """Everything at once: a process of its own, a thread, a coroutine, a judge that waits."""

    blocking = True

    @tool(deadline=5.0)
    def square(self, n: int) -> int:
        """Square a number in a process."""
        time.sleep(0.02)
        return n * n

    @tool(deadline=0.4)
    def spin(self) -> str:
        """Never end, and leave a process behind."""
        subprocess.Popen(["sleep", "61.5"], start_new_session=True)
        while True:
            time.sleep(0.01)

    @tool
    def walk(self) -> str:
        """Block."""
        time.sleep(0.05)
        return "there"

    @tool
    async def drift(self, n: int) -> int:
        """Wait as a coroutine."""
        await asyncio.sleep(0.02)
        return n

    @tool(deadline=0.2)
    async def sink(self) -> str:
        """Not heed its cancellation."""
        while True:
            try:
                await asyncio.sleep(1.5)
                return "late"
            except asyncio.CancelledError:
                pass

    @tool(concurrent=True, deadline=5.0)
    def cube(self, n: int) -> int:
        """Cube a number next to another."""
        return n**3

    def success(self, task: Task) -> bool:
        time.sleep(0.05)
        return super().success(task)


def sleepers() -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += b"61.5" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_threads_and_coroutines_of_eight_episodes_do_not_meet() -> None:
    def script(env: ToolEnv, seed: int) -> Iterator[Action]:
        n = env.episode.task.data["n"]
        for turn in range(3):
            yield Action.call("square", n=n + turn)
            yield Action.call("drift", n=n)
            yield Action("", (ToolCall("cube", {"n": n}), ToolCall("cube", {"n": turn})))
            yield Action.call("walk")
        yield Action.call("spin" if n % 2 else "sink")
        yield PUT
        yield DONE

    agent = ScriptedAgent("all", script, parallel=8)  # type: ignore[arg-type]
    before = len(os.listdir("/proc/self/fd"))
    start = time.monotonic()
    played = rollout(Hard, agent, specs(16))
    took = time.monotonic() - start
    for t in played:
        n = t.task.data["n"]
        values = [[r.value for r in turn.results] for turn in t.turns[:12]]
        assert values == [v for turn in range(3) for v in ([(n + turn) ** 2], [n], [n**3, turn**3], ["there"])]
        assert t.turns[12].results[0].outcome is Outcome.TIMEOUT
        assert t.success
    assert took < 60  # a worker that was not told to end would sleep for minutes; a large process forks slowly
    assert sleepers() == 0
    assert abs(len(os.listdir("/proc/self/fd")) - before) <= 8  # those of the private loops


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told of the end by pipes and adopted on Linux")
def test_a_forked_call_ends_at_once_though_others_run() -> None:
    """A child that held another call's pipe open would keep that call's supervisor from hearing that it is over."""
    took: list[float] = []

    def late(seconds: float) -> None:
        start = time.monotonic()
        assert run_forked(lambda: time.sleep(30) or b"", seconds).how == "late"  # type: ignore[func-returns-value]
        took.append(time.monotonic() - start - seconds)

    late(0.3)
    alone = took.pop()  # what the fork of a process as large as this one costs
    threads = [threading.Thread(target=late, args=(0.3 + 0.3 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(took) < alone + 0.45  # GRACE is 0.5: nobody had to be killed for not listening


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_all_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import threading, time
from pathlib import Path
from sparring.envs.rewards import Ended, RewardTerm
from sparring.tools.deadline import run_forked
def work(i):
    def body():
        import os
        Path({str(tmp_path)!r}, str(os.getpid())).touch()
        time.sleep(60)
        return b""
    run_forked(body, 60)
for i in range(6): threading.Thread(target=work, args=(i,), daemon=True).start()
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < 6 and time.monotonic() < end:
        time.sleep(0.05)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert len(workers) == 6
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_coroutine_that_is_given_up_takes_no_other_with_it() -> None:
    async def stubborn() -> None:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue

    async def steady() -> str:
        await asyncio.sleep(0.6)
        return "here"

    got: list[str] = []
    other = threading.Thread(target=lambda: got.append(run_async(steady())))
    other.start()
    with pytest.raises(TimeoutError):
        run_async(stubborn(), 0.1)
    other.join(5)
    assert got == ["here"]


def test_a_loop_that_is_blocked_is_left_to_those_who_wait_on_it() -> None:
    async def blocks() -> None:
        time.sleep(0.6)

    async def steady() -> str:
        await asyncio.sleep(0.2)
        return "here"

    got: list[str] = []
    other = threading.Thread(target=lambda: got.append(run_async(steady())))
    other.start()
    time.sleep(0.05)
    with pytest.raises(TimeoutError):
        run_async(blocks(), 0.1)
    start = time.monotonic()
    assert run_async(steady()) == "here"  # on a new loop
    assert time.monotonic() - start < 0.5
    other.join(5)
    assert got == ["here"]


# ---- streams and notebooks -------------------------------------------------------------------------------------------


def test_a_stream_gives_each_episode_as_it_ends() -> None:
    agent = Thinker(PUT, DONE, seconds=0.05)

    async def collect() -> list[tuple[int, bool | None]]:
        episodes = [EpisodeSpec(TASKS[i], seed=seed) for i, seed in enumerate((4, 1, 2))]
        return [(index, t.success) async for index, t in rollout_stream(Clerk, agent, episodes)]

    assert asyncio.run(collect()) == [(1, True), (2, True), (0, True)]


@pytest.mark.parametrize("env", [Clerk, Slow, SlowAsync])
def test_who_stops_early_leaves_nothing_behind(env: type[ToolEnv]) -> None:
    agent = Thinker(*([PUT] if env is Clerk else [WALK, WALK]), DONE, seconds=0.02, parallel=4)

    async def first() -> int:
        async with aclosing(rollout_stream(env, agent, specs(32))) as ended:
            index, _ = await anext(ended)
        assert len(asyncio.all_tasks()) == 1
        assert not agent.open
        return index

    assert asyncio.run(first()) < 8
    assert agent.begun < 16

    async def bare() -> None:
        async for _ in rollout_stream(env, agent, specs(32)):
            break
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1
        assert not agent.open

    asyncio.run(bare())


def test_a_cancelled_rollout_closes_its_sessions() -> None:
    agent = Thinker(PUT, DONE, seconds=5)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await rollout_async(Clerk, agent, specs(4))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert agent.begun == 4
    assert not agent.open


def test_a_rollout_within_a_running_loop_as_in_a_notebook() -> None:
    async def cell() -> list[Trajectory]:
        return rollout(Slow, acts(PUT, DONE), specs(3))

    assert [t.success for t in asyncio.run(cell())] == [True] * 3

    async def failing() -> None:
        rollout(Clerk, acts(PUT, DONE), specs(3), on_done=lambda i, t: 1 / 0)  # type: ignore[arg-type]

    with pytest.raises(ZeroDivisionError):
        asyncio.run(failing())


def test_what_on_done_raises_ends_the_rollout() -> None:
    agent = Thinker(PUT, DONE, seconds=0.01)
    with pytest.raises(ZeroDivisionError):
        rollout(Clerk, agent, specs(20), on_done=lambda i, t: 1 / 0)  # type: ignore[arg-type]
    assert not agent.open
    assert agent.begun < 20


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"turns": 0}, {"tokens": -1}, {"seconds": 0}, {"seconds": float("inf")}, {"turns": 1.5}]
)
def test_limits_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Limits.{next(iter(wrong))} is"):
        Limits(**wrong)


def test_turns_and_tokens_cut_an_episode() -> None:
    def one(limits: Limits, *actions: Action) -> Trajectory:
        return rollout(Clerk, Thinker(*actions), specs(1), limits=limits)[0]

    cut = one(Limits(turns=2), PUT)
    assert (cut.stop, len(cut.turns), cut.success, cut.judged) == (StopReason.TURN_LIMIT, 2, False, True)
    assert cut.meta["limits"] == {"turns": 2}
    cut = one(Limits(tokens=20), PUT)  # ten a turn
    assert (cut.stop, len(cut.turns)) == (StopReason.TOKEN_LIMIT, 2)
    assert (one(Limits(tokens=20), PUT, DONE).stop, one(Limits(tokens=19), PUT, DONE).stop) == (
        StopReason.FINISHED,
        StopReason.TOKEN_LIMIT,
    )
    assert "limits" not in one(Limits(), PUT, DONE).meta


def test_an_episode_may_have_limits_of_its_own() -> None:
    episodes = [EpisodeSpec(TASKS[0], limits=Limits(turns=1)), EpisodeSpec(TASKS[1])]
    played = rollout(Clerk, Thinker(PUT), episodes, limits=Limits(turns=3))
    assert [len(t.turns) for t in played] == [1, 3]
    assert [t.meta["limits"] for t in played] == [{"turns": 1}, {"turns": 3}]


class HangingUser(User):
    """Says nothing, and in the first task does not come back."""

    def reply(self, env: Any, said: str) -> str | None:
        env.hang("user")
        return None


class Stuck(Clerk):
    """A world that does not come back in its first task."""

    blocking = True
    user = HangingUser()
    where = "tool"
    event: threading.Event

    def hang(self, where: str) -> None:
        if self.where == where and self._episode is not None and self.episode.task.data["n"] == 0:
            self.event.wait()

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.hang("setup")

    @tool
    def walk(self) -> str:
        """Walk."""
        self.hang("tool")
        return "there"

    def success(self, task: Task) -> bool:
        self.hang("judge")
        return super().success(task)


@pytest.mark.parametrize("where", ["setup", "tool", "user", "judge"])
@pytest.mark.parametrize("agent", [acts(WALK, PUT, DONE, parallel=2), Thinker(WALK, PUT, DONE, parallel=2)])
def test_a_stuck_episode_ends_alone(where: str, agent: Any) -> None:
    event = threading.Event()
    made: list[ToolEnv] = []

    def factory() -> ToolEnv:
        made.append(type("Stuck", (Stuck,), {"where": where, "event": event})())
        return made[-1]

    start = time.monotonic()
    stuck, *others = rollout(factory, agent, specs(6), limits=Limits(seconds=0.5))
    assert time.monotonic() - start < 2
    assert (stuck.stop, stuck.success, stuck.reward, stuck.reward_parts) == (StopReason.INFRASTRUCTURE, None, 0.0, {})
    assert stuck.error == "the episode took over 0.5 s"
    assert len(stuck.turns) == {"setup": 0, "tool": 0, "user": 2, "judge": 2}[where]
    assert Trajectory.from_json(stuck.to_json()) == stuck
    assert all(t.success and t.stop is StopReason.FINISHED for t in others)
    assert len(made) <= 3  # a new one for the worker whose world was lost
    event.set()


def test_generation_that_never_comes_back_ends_alone() -> None:
    class Silent(Thinker):
        def begin(self, env: ToolEnv, seed: int) -> Thought:
            thought = super().begin(env, seed)
            if seed == 1000:  # waits 1000 times as long
                assert not env.episode.history
            return thought

    agent = Silent(PUT, DONE, seconds=0.01)
    episodes = [EpisodeSpec(task, seed=1000 if i == 2 else 1) for i, task in enumerate(TASKS[:5])]
    played = rollout(Clerk, agent, episodes, limits=Limits(seconds=0.4))
    assert [t.stop is StopReason.INFRASTRUCTURE for t in played] == [i == 2 for i in range(5)]
    assert not agent.open


def test_a_call_on_the_loop_is_found_to_be_late() -> None:
    class Idle(Clerk):
        @tool
        def walk(self) -> str:
            """Walk."""
            time.sleep(0.1)
            return "there"

    (t,) = rollout(Idle, acts(WALK, DONE), specs(1), limits=Limits(seconds=0.05))
    assert (t.stop, t.error) == (StopReason.INFRASTRUCTURE, "the episode took over 0.05 s")


def test_a_timeout_of_the_worlds_own_is_a_bug_and_no_limit() -> None:
    class Raises(Clerk):
        def setup(self, task: Task, rng: random.Random) -> None:
            raise TimeoutError("its own")

    with pytest.warns(RolloutWarning, match="1 of 1 episodes were ended by a bug"):
        (t,) = rollout(Raises, acts(DONE), specs(1), limits=Limits(seconds=30))
    assert t.stop is StopReason.BUG
    assert re.fullmatch(r"TimeoutError: its own \(test_rollouts.py, line \d+, in setup\)", t.error or "")


def test_a_process_with_a_stuck_world_can_end(repository: Path) -> None:
    code = """
import time
from sparring import Action, Task, ToolEnv, ToolCall, tool
from sparring.agents import EpisodeSpec, Limits, ScriptedAgent, rollout
class Stuck(ToolEnv):
    "Never ends."
    blocking = True
    def setup(self, task, rng): self.state = {}
    @tool
    def hang(self) -> str:
        "Hang."
        time.sleep(1000)
    @tool(concurrent=True)
    def hang_too(self) -> str:
        "Hang."
        time.sleep(1000)
    def success(self, task): return True
def script(env, seed):
    if seed: yield Action.call("hang")
    yield Action("", (ToolCall("hang_too", {}), ToolCall("hang_too", {})))
episodes = [EpisodeSpec(Task("x"), seed=i) for i in range(2)]
print([t.error for t in rollout(Stuck, ScriptedAgent("s", script, parallel=2), episodes, limits=Limits(seconds=0.3))])
"""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(repository / "src")},
    )  # fmt: skip
    assert done.stdout.strip() == "['the episode took over 0.3 s', 'the episode took over 0.3 s']", done.stderr
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("where", ["setup", "success", "tool"])
def test_infrastructure_that_fails_costs_its_episode_alone(where: str) -> None:
    class Failing(Clerk):
        def fail(self, at: str) -> None:
            if at == where and self.episode.task.data["n"] == 1:
                raise InfrastructureError("the server is gone")

        def setup(self, task: Task, rng: random.Random) -> None:
            super().setup(task, rng)
            self.fail("setup")

        @tool
        def walk(self) -> str:
            """Walk."""
            self.fail("tool")
            return "there"

        def success(self, task: Task) -> bool:
            self.fail("success")
            return super().success(task)

    played = rollout(Failing, acts(WALK, PUT, DONE), specs(3))
    assert [t.error for t in played] == [None, "the server is gone", None]
    assert [t.success for t in played] == [True, None, True]


# ---- the expert's turns ----------------------------------------------------------------------------------------------

WORLD: set[str] = set()


class Outside(ToolEnv):
    """Sets a key in a world of its own, which `self.state` does not hold."""

    played: list[str] = []  # noqa: RUF012  # of all instances

    def tasks(self, split: str, rng: random.Random) -> Iterator[Task]:
        yield from TASKS[:10]

    def setup(self, task: Task, rng: random.Random) -> None:
        WORLD.clear()
        self.state = {}

    @tool(effect=True)
    def put(self, key: str) -> str:
        """Set a key."""
        WORLD.add(key)
        return "done"

    def success(self, task: Task) -> bool:
        return task.id in WORLD

    def solve(self, task: Task) -> Any:
        self.played.append(task.id)
        yield "put", {"key": task.id}
        yield "Done."


@pytest.mark.parametrize("copyable", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
def test_the_expert_does_nothing_for_the_agent(copyable: bool, blocking: bool) -> None:
    """In a world outside of `self.state` too, and where the environment is wrong about that: it is found out."""
    env: Any = type("Outside", (Outside,), {"copyable": copyable, "blocking": blocking, "played": []})
    told = pytest.warns(RolloutWarning, match="share one world: .* set copyable = False") if copyable else nullcontext()
    with told:
        played = rollout(env, scripted("do-nothing"), specs(10))
    assert not any(t.success for t in played)
    assert {t.expert_turns for t in played} == {None}
    assert len(env.played) == copyable
    with told if not copyable else pytest.warns(RolloutWarning, match="one episode at a time"):
        assert all(t.success for t in rollout(env, scripted("expert"), specs(10)))
    assert len(env.played) == 10 + copyable


class Foldered(ToolEnv):
    """Keeps what is done in a folder, a database or a class, under the task's own name, and never tidies up."""

    place = "folder"
    folder: Path
    shelf: dict[str, int] = {}  # noqa: RUF012  # of all instances

    def tasks(self, split: str, rng: random.Random) -> Iterator[Task]:
        for number in range(12):
            yield Task(f"Do {split} {number}.", {"key": f"{split}{number}"})

    def setup(self, task: Task, rng: random.Random) -> None:
        self.folder.mkdir(exist_ok=True)
        self.state = {}

    @property
    def _database(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / "done.db", isolation_level=None)
        connection.execute("create table if not exists done (key text)")
        return connection

    @tool(effect=True)
    def do(self, key: str) -> str:
        """Do a thing."""
        if self.place == "folder":
            (self.folder / key).touch()
        elif self.place == "database":
            with closing(self._database) as held:
                held.execute("insert into done values (?)", [key])
        else:
            self.shelf[key] = 1
        return "done"

    def success(self, task: Task) -> bool:
        key = task.data["key"]
        if self.place == "folder":
            return bool((self.folder / key).exists())
        if self.place == "database":
            with closing(self._database) as held:
                return bool(held.execute("select 1 from done where key = ?", [key]).fetchall())
        return key in self.shelf

    def solve(self, task: Task) -> Any:
        yield "do", {"key": task.data["key"]}


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("place", ["folder", "database", "shelf"])
def test_nothing_is_earned_by_nothing_in_a_world_that_is_never_tidied_up(
    place: str, parallel: int, tmp_path: Path
) -> None:
    env: Any = type("Kept", (Foldered,), {"place": place, "folder": tmp_path / "kept", "shelf": {}})
    wanted = [EpisodeSpec(task, seed=seed) for task in task_set(env(), "test", 6) for seed in range(2)]
    with pytest.warns(RolloutWarning, match="share one world"):
        played = rollout(env, scripted("do-nothing", parallel=parallel), wanted, slack=2)
    assert [t.success for t in played] == [False] * 12
    assert {t.expert_turns for t in played} == {None}


@pytest.mark.parametrize("tidy", [False, True])
def test_a_world_that_is_apart_with_one_option_is_proven_anew_with_another(tidy: bool, tmp_path: Path) -> None:
    """A folder of its own first, then one that is given, as a user does who keeps the files of one run."""

    class Given(Foldered):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

        def setup(self, task: Task, rng: random.Random) -> None:
            super().setup(task, rng)
            for left in self.folder.iterdir() if tidy else ():
                left.unlink()

    own = iter(range(10**6))
    wanted = [EpisodeSpec(task) for task in task_set(Given(tmp_path / "first"), "test", 6)]
    apart = rollout(lambda: Given(tmp_path / f"own{next(own)}"), scripted("do-nothing", parallel=3), wanted)
    assert [(t.success, t.expert_turns) for t in apart] == [(False, 2)] * 6
    with pytest.warns(RolloutWarning, match="share one world"):
        played = rollout(lambda: Given(tmp_path / "kept"), scripted("do-nothing", parallel=3), wanted)
    assert [(t.success, t.expert_turns) for t in played] == [(False, None)] * 6


class OneDoor(ToolEnv):
    """A world of all instances, in which a call may take longer than an episode."""

    blocking, copyable = True, False
    done = False
    goes_on: threading.Event

    def setup(self, task: Task, rng: random.Random) -> None:
        type(self).done = False

    @tool(effect=True)
    def put(self) -> str:
        """Put it there, in the end."""
        self.goes_on.wait(10)
        type(self).done = True
        return "done"

    @tool
    def look(self) -> bool:
        """Look."""
        return self.done

    def success(self, task: Task) -> bool:
        return self.done


@pytest.mark.parametrize("ends", [True, False])
def test_a_call_that_was_given_up_does_nothing_for_the_next_episode(ends: bool) -> None:
    """Of the same rollout or of a later one: it waits for the call, and is not judged where that never ends."""
    late = threading.Event()
    env: Any = type("OneDoor", (OneDoor,), {"goes_on": late})
    first = [EpisodeSpec(TASKS[0], limits=Limits(seconds=0.1))]
    second = [EpisodeSpec(TASKS[1], limits=Limits(seconds=5 if ends else 0.2))]
    timer = threading.Timer(0.3, late.set)
    if ends:
        timer.start()
    try:
        (cut,) = rollout(env, acts(Action.call("put")), first)
        (after,) = rollout(env, acts(Action.call("look"), DONE), second)
    finally:
        late.set()
        timer.cancel()
    assert cut.stop is StopReason.INFRASTRUCTURE
    assert after.success is (False if ends else None)
    if not ends:
        assert after.stop is StopReason.INFRASTRUCTURE
        assert "still runs in the world that all share" in (after.error or "")


def test_an_episode_that_is_over_has_one_verdict() -> None:
    """A judge may ask a model, or change its mind: what the turn's reward says is what the record says."""

    class Fickle(ToolEnv):
        asked: list[str] = []  # noqa: RUF012  # of all instances

        def setup(self, task: Task, rng: random.Random) -> None:
            self.state = {"asked": 0}

        @tool
        def look(self) -> str:
            """Look."""
            return "nothing"

        def success(self, task: Task) -> bool:
            self.asked.append(task.id)
            self.state["asked"] += 1
            return bool(self.state["asked"] > 1)

    played = rollout(Fickle, scripted("do-nothing"), specs(3))
    assert [(t.success, t.reward, t.turns[-1].reward) for t in played] == [(False, 0, 0)] * 3
    assert len(Fickle.asked) == 3
    env = Fickle()
    env.start(TASKS[0])
    _, reward, _, _, info = env.step(DONE)
    assert (reward, info, env.judge()[0]) == (0.0, {"success": False}, False)


def test_the_experts_turns_from_here_are_refused_where_they_would_stay() -> None:
    env = Outside()
    env.start(TASKS[0])
    with pytest.raises(EnvError, match=r"part of its world is outside of self\.state; set copyable = False"):
        expert_turns(env)


def test_where_the_only_task_is_left_done_nothing_is_measured(tmp_path: Path) -> None:
    env: Any = type("Kept", (Foldered,), {"folder": tmp_path / "kept"})
    env.tasks = lambda self, split, rng: iter([Task("Do it.", {"key": "it"})])
    with pytest.raises(EnvError, match="Kept cannot be measured: its instances share one world"):
        rollout(env, scripted("do-nothing"), [EpisodeSpec(Task("Do it.", {"key": "it"}))])


def test_an_expert_that_solves_nothing_proves_nothing() -> None:
    class Weak(Register):
        def solve(self, task: Task) -> Any:
            yield "put", {"n": 4}

    (t,) = rollout(Weak, acts(PUT, DONE), specs(1))
    assert (t.success, t.expert_turns) == (True, None)


def test_two_episodes_in_one_world_are_refused() -> None:
    class Single(Outside):
        copyable = False

    first, second = Single(), Single()
    first.start(TASKS[0])
    first.act(Action.call("put", key="a"))
    second.start(TASKS[1])
    with pytest.raises(ConfigError, match="another instance of Single has begun an episode since"):
        first.act(DONE)
    assert expert_turns(second) is None
    frozen = second.snapshot()
    with pytest.raises(ConfigError, match="copyable = False"):
        second.restore(frozen)
    assert second.act(DONE).stop is StopReason.FINISHED


@pytest.mark.parametrize("blocking", [True, False])
def test_one_world_for_all_is_played_one_episode_at_a_time(blocking: bool) -> None:
    class Single(Outside):
        copyable = False

    Single.blocking = blocking

    class Own(Thinker):
        def begin(self, env: ToolEnv, seed: int) -> Thought:
            thought = super().begin(env, seed)
            thought.agent = Thinker(Action.call("put", key=env.episode.task.id), DONE, seconds=0.01)
            return thought

    assert all(t.success for t in rollout(Single, Own(DONE), specs(8)))


def test_the_expert_plays_once_for_a_task_and_a_plan() -> None:
    tasks = task_set(make("orders"), "train", 3)
    plan = FaultPlan.parse("count=1@5")
    calls: list[str] = []
    orders = type(make("orders"))

    class Counted(orders):  # type: ignore[misc,valid-type]  # its class is known at run time
        def solve(self, task: Task) -> Any:
            if not calls or calls[-1] != task.id:  # begun again after a failure
                calls.append(task.id)
            return super().solve(task)

    episodes = [EpisodeSpec(t, p, seed) for p in (FaultPlan(), plan) for t in tasks for seed in range(8)]
    for agent in (scripted("do-nothing"), Thinker(DONE, parallel=16)):
        calls.clear()
        played = rollout(Counted, agent, episodes)
        wanted = {t.id for t in tasks}
        assert len([id for id in calls if id in wanted]) == 6
        for t in played:
            env = make("orders")
            env.start(t.task, FaultPlan.parse(t.faults))
            assert t.expert_turns == expert_turns(env)


@pytest.mark.parametrize("error", [InfrastructureError("gone"), KeyError("a bug"), StopIteration(), LookupError()])
@pytest.mark.parametrize("blocking", [True, False])
def test_an_expert_that_fails_costs_its_figure_alone(error: Exception, blocking: bool) -> None:
    class Unable(Clerk):
        def solve(self, task: Task) -> Any:
            raise error

    Unable.blocking = blocking
    played = rollout(Unable, acts(PUT, DONE), specs(3), slack=1)
    assert [(t.success, t.expert_turns) for t in played] == [(True, None)] * 3


def test_an_expert_that_never_comes_back_costs_its_figure_alone() -> None:
    event = threading.Event()

    class Lost(Slow):
        def solve(self, task: Task) -> Any:
            event.wait()
            yield "Done."

    played = rollout(Lost, acts(PUT, DONE, parallel=2), specs(2), limits=Limits(seconds=0.3))
    assert [(t.success, t.expert_turns, t.error) for t in played] == [(True, None, None)] * 2
    event.set()


class Register(Clerk):
    """Has an expert of two turns."""

    def tasks(self, split: str, rng: random.Random) -> Iterator[Task]:
        yield from TASKS

    def solve(self, task: Task) -> Any:
        yield "put", {"n": 3}
        yield "Done."


def test_an_expert_is_no_limit_on_others_unless_asked_for() -> None:
    look = Action.call("put", n=0)
    (t,) = rollout(Register, acts(*[look] * 10, PUT, DONE), specs(1))
    assert (t.success, t.expert_turns) == (True, 2)
    assert "limits" not in t.meta
    (t,) = rollout(Register, acts(*[look] * 10, PUT, DONE), specs(1), slack=3)
    assert (t.stop, len(t.turns), t.meta["limits"]) == (StopReason.TURN_LIMIT, 5, {"slack": 3})


def test_a_condition_has_its_own_limits() -> None:
    register("tests/Register-v0", Register)
    name = "tests/Register-v0"
    conditions = [
        Condition("free", name, n=2),
        Condition("bound", name, n=2, slack=1),
        Condition("cut", name, n=2, limits=Limits(turns=4)),
    ]
    played = evaluate(acts(Action.call("put", n=0), *[Action.call("put", n=0)] * 5, PUT, DONE), conditions)
    assert {k: [len(t.turns) for t in v] for k, v in played.items()} == {"free": [8, 8], "bound": [3, 3], "cut": [4, 4]}


def test_a_file_keeps_episodes_of_other_limits_apart(tmp_path: Path) -> None:
    register("tests/Register-v0", Register)
    recorder = Recorder(tmp_path / "a.jsonl", {})
    agent = acts(PUT, DONE)
    play = {"env": "tests/Register-v0", "agent": agent, "episodes": specs(3)}
    first, before = play_into(recorder, **play, limits=Limits(turns=9), slack=4)  # type: ignore[arg-type]
    assert (before, first[0].meta["limits"]) == (0, {"turns": 9, "slack": 4})
    again, before = play_into(recorder, **play, limits=Limits(turns=9), slack=4)  # type: ignore[arg-type]
    assert (before, again) == (3, first)
    with pytest.raises(ConfigError, match="other limits"):
        play_into(recorder, **play, limits=Limits(turns=8), slack=4)  # type: ignore[arg-type]


def test_a_world_that_cannot_be_copied_has_no_forks() -> None:
    class Single(Register):
        copyable = False

    register("tests/Single-v0", Single)
    env = make("tests/Single-v0")
    env.start(TASKS[0])
    with pytest.raises(ConfigError, match="copyable = False"):
        rollout("tests/Single-v0", acts(DONE), [EpisodeSpec(TASKS[0], start=env.snapshot())])
    failed = rollout("tests/Single-v0", acts(DONE), specs(2))
    assert corrections(failed) == []


# ---- bugs of the author's --------------------------------------------------------------------------------------------


PLAN = FaultPlan.parse("count=1@7")


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("where", ["setup", "success", "reply"])
def test_a_bug_names_the_authors_line_the_task_and_the_faults(where: str, blocking: bool) -> None:
    def bug(self: object, *args: object) -> None:
        raise KeyError("a bug")

    fields = {"user": User(bug)} if where == "reply" else {where: bug}
    env = type("Buggy", (Clerk,), {**fields, "blocking": blocking})
    with pytest.warns(RolloutWarning) as caught:
        (t,) = rollout(env, acts(DONE), [EpisodeSpec(TASKS[3], PLAN)])
    assert (t.stop, t.success, t.reward, t.judged) == (StopReason.BUG, None, 0.0, False)
    assert re.fullmatch(r"KeyError: 'a bug' \(test_rollouts.py, line \d+, in bug\)", t.error or "")
    said = str(caught[0].message)
    assert f"a bug of the environment Buggy, without a verdict: {t.error}, first in task {TASKS[3].id}" in said
    assert f"under the faults {PLAN}" in said
    assert "in bug\n    raise KeyError" in str(t.meta["traceback"])
    assert Trajectory.from_json(t.to_json()) == t
    assert excluded([t]).reasons == {"bug of the environment": 1}


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stray_stop_iteration_names_the_authors_line(blocking: bool) -> None:
    class Stray(Clerk):
        def success(self, task: Task) -> bool:
            return next(iter(()))

    Stray.blocking = blocking
    with pytest.warns(RolloutWarning):
        (t,) = rollout(Stray, acts(DONE), specs(1))
    assert re.fullmatch(r"StopIteration: next\(\) found .* \(test_rollouts.py, line \d+, in success\)", t.error or "")


def test_a_bug_ends_its_own_episode_alone() -> None:
    class Buggy(Clerk):
        def success(self, task: Task) -> bool:
            return bool(1 / (3 - task.data["n"])) and super().success(task)

    seen: list[int] = []
    with pytest.warns(RolloutWarning, match="1 of 8 episodes"):
        played = rollout(Buggy, acts(PUT, DONE, parallel=1), specs(8), on_done=lambda i, t: seen.append(i))
    assert seen == list(range(8))
    assert [t.success for t in played] == [True, True, True, None, True, True, True, True]
    assert success_rate(played).n == 7
    assert len(played[3].turns) == 1  # what came before the bug is kept


class Own(BaseException):
    """An exception that no `except Exception` sees."""


LOUD: list[Any] = [
    SystemExit(0), SystemExit(1), asyncio.CancelledError(), GeneratorExit(), Own("own"), RecursionError("deep"),
    StopIteration(), StopAsyncIteration(), AssertionError(), DataError("a row"), ConfigError("no such thing"),
    BaseExceptionGroup("two", [Own("a"), KeyError("b")]),
]  # fmt: skip


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("where", ["setup", "prompt", "reply", "elapse", "after_call", "offered", "success", "solve"])
@pytest.mark.parametrize("error", LOUD, ids=lambda error: type(error).__name__)
def test_nothing_that_a_hook_raises_ends_the_others(error: BaseException, where: str, blocking: bool) -> None:
    def hook(env: Any, *args: object) -> Any:
        if env.episode.task.data["n"] == 1 and (where != "offered" or env.episode.tick):
            raise error
        if where == "setup":
            Clerk.setup(env, *args)  # type: ignore[arg-type]  # what a setup is given
        return {"offered": ["put"], "prompt": (Message("user", "Do it."),), "success": True}.get(where)

    facets: dict[str, Any] = {
        "reply": {"user": User(hook)},
        "elapse": {"others": Others(elapse=hook)},
        "after_call": {"tool_rules": ToolRules(after_call=hook)},
        "offered": {"tool_rules": ToolRules(offered=hook)},
    }
    env = type("Loud", (Register,), {**facets.get(where, {where: hook}), "blocking": blocking})
    agent = scripted("expert", parallel=2) if where == "solve" else acts(Action.call("put", n=3), DONE, parallel=2)
    with pytest.warns(RolloutWarning):
        played = rollout(env, agent, specs(4))
    bugs = [i for i, t in enumerate(played) if t.stop is StopReason.BUG]
    assert bugs == ([0, 1, 2, 3] if where == "solve" else [1])  # this expert is no generator
    assert "(test_rollouts.py, line" in (played[1].error or "")
    assert "in hook)" in (played[1].error or "")


async def _later(self: object, *args: object) -> bool:
    return True


def _yields(self: object, *args: object) -> Iterator[bool]:
    yield True


def wrong(value: object) -> Any:
    """What no type checker would let pass."""
    return value


WRONG: list[tuple[str, Any, str]] = [
    ("success", lambda self, task: "no", r"Wrong.success\(task\) gives 'no'"),
    ("success", lambda self, task: None, "gives None"),
    ("success", lambda self, task: [], r"gives \[\]"),
    ("success", lambda self, task: float("nan"), "gives nan"),
    ("success", _later, "gives a coroutine, which nobody awaits"),
    ("success", _yields, "gives a generator, which nobody runs"),
    ("success", lambda self, task: Verdict(wrong("no")), "whose success is 'no'"),
    ("success", lambda self, task: Verdict(True, parts={"a": float("nan")}), "reward part 'a' is nan"),
    ("success", lambda self, task: Verdict(True, parts=wrong([1])), r"gives the parts \[1\]"),
    ("setup", _later, "setup.* gives a coroutine"),
    ("setup", _yields, "setup.* gives a generator"),
    ("prompt", lambda self, task: "Go.", "prompt.* gives 'Go.'"),
    ("prompt", lambda self, task: ("Go.",), "prompt.* gives"),
    ("user", User(wrong(lambda env, said: 7)), "user.reply.* gives 7"),
    ("user", User(wrong(_later)), "user.reply.* gives a coroutine"),
    ("others", Others(elapse=_yields), "others.elapse.* gives a generator"),
    ("tool_rules", ToolRules(after_call=_later), "tool_rules.after_call.* gives a coroutine"),
    ("tool_rules", ToolRules(offered=lambda env: "put"), "tool_rules.offered.* gives 'put'"),
    ("tool_rules", ToolRules(offered=wrong(lambda env: 3)), "tool_rules.offered.* gives 3"),
    ("reward_terms", {"nan": lambda ended: float("nan")}, "reward part 'nan' is nan"),
    ("reward_terms", {"text": lambda ended: "1"}, "reward part 'text' is '1'"),
    ("reward_terms", {"later": _later}, "reward part 'later' is a coroutine"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_hook_may_not_give_is_no_verdict(name: str, value: Any, said: str) -> None:
    """Most of these are true to Python: each would be a success."""
    env = type("Wrong", (Clerk,), {name: value})
    with pytest.warns(RolloutWarning):
        played = rollout(env, acts(PUT, DONE), specs(2))
    assert [(t.stop, t.success) for t in played] == [(StopReason.BUG, None)] * 2
    assert re.search(said, played[0].error or ""), played[0].error
    assert re.search(r"\(test_rollouts.py, line \d+, in ", played[0].error or "")


@pytest.mark.parametrize("given", [True, False, 1, 0, np.True_, np.int64(0), Verdict(np.True_)])  # type: ignore[arg-type]  # NumPy's are taken
def test_a_verdict_in_numpys_words_is_one(given: Any) -> None:
    env = type("Numpy", (Clerk,), {"success": lambda self, task: given})
    (t,) = rollout(env, acts(DONE), specs(1))
    assert t.success is bool(given.success if isinstance(given, Verdict) else given)


@pytest.mark.parametrize("error", [SystemExit(0), asyncio.CancelledError(), KeyError("x")])
def test_an_environment_that_cannot_be_made_raises(error: BaseException) -> None:
    def factory() -> ToolEnv:
        raise error

    with pytest.raises((EnvError, KeyError)) as caught:
        rollout(factory, acts(DONE), specs(2))
    assert "test_rollouts.py" in str(caught.value) or isinstance(error, KeyError)


def test_a_bug_of_the_agents_is_none_of_the_environments() -> None:
    def script(env: ToolEnv, seed: int) -> Any:
        yield PUT
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        rollout(Clerk, ScriptedAgent("buggy", script), specs(2))
    assert caught.value.__notes__ == [f"in an episode of Clerk, task {TASKS[0].id}"]

    def leaves(env: ToolEnv, seed: int) -> Any:
        yield PUT
        sys.exit(0)

    with pytest.raises(RuntimeError, match=r"the agent's script raised SystemExit: 0 \(test_rollouts.py, line \d+"):
        rollout(Clerk, ScriptedAgent("leaves", leaves), specs(2))


def test_what_the_user_asks_wrongly_is_no_bug_of_the_environment() -> None:
    with pytest.raises(UnknownName, match="tool in the fault plan 'nowhere'"):
        rollout(Clerk, acts(DONE), [EpisodeSpec(TASKS[0], FaultPlan.parse("count=1:unavailable@nowhere"))])


def test_one_episode_can_be_played_by_itself() -> None:
    t = asyncio.run(play_episode(Clerk(), acts(PUT, DONE), EpisodeSpec(TASKS[0]), run=inline))
    assert (t.success, t.stop, t.expert_turns) == (True, StopReason.FINISHED, None)
