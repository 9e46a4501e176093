"""The toolbox under stress: deadlines that kill, calls next to each other, injected values, and hostile calls."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from no_world import World

from sparring.envs import ToolEnv
from sparring.tools import (
    FaultPlan,
    IdempotencyKey,
    Injected,
    NotFound,
    Tool,
    Toolbox,
    ToolTimeout,
    Unavailable,
    parse_call,
    tool,
)
from sparring.tools.background import run_async
from sparring.tools.deadline import GRACE, MAX_PAYLOAD, run_forked
from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    EnvError,
    InfrastructureError,
    Outcome,
    Task,
    ToolCall,
    ToolResult,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def toolbox(*functions: Callable[..., Any], **options: Any) -> Toolbox:
    fields = {k: options.pop(k) for k in ("effect", "deadline", "concurrent", "idempotent") if k in options}
    return Toolbox([Tool.from_function(f, **fields) for f in functions], World(), **options)


def run(box: Toolbox, name: str, /, **arguments: Any) -> ToolResult:
    return box.execute(ToolCall(name, arguments))[1]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def soon_dead(pids: list[int]) -> bool:
    end = time.monotonic() + 2
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


# ---- tools that can be killed ---------------------------------------------------------------------------------------


def note(path: str) -> None:
    """Leaves this process's id behind, in one line."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


def sleep(path: str) -> str:
    """Sleep."""
    note(path)
    time.sleep(60)
    return "late"


def spin(path: str) -> str:
    """Spin."""
    note(path)
    while True:
        pass


def deaf(path: str) -> str:
    """Ignore all signals that can be ignored."""
    note(path)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)
    return "late"


def daemon(path: str) -> str:
    """Start a daemon that leaves session, group and parent, and wait."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            note(path)
            time.sleep(60)
        os._exit(0)
    note(path)
    time.sleep(60)
    return "late"


def brood(path: str) -> str:
    """Start many processes, some of which run another program."""
    for _ in range(20):
        if os.fork() == 0:
            note(path)
            time.sleep(60)
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    with open(path, "a") as file:
        file.write(f"{process.pid}\n")
    time.sleep(60)
    return "late"


def flood(path: str) -> str:
    """Write without end, to every stream there is."""
    note(path)
    while True:
        os.write(1, b"x" * 65536)
        print("y" * 65536, flush=True)
        print("z" * 65536, file=sys.stderr, flush=True)


@pytest.mark.parametrize("effect", [False, True])
@pytest.mark.parametrize("function", [sleep, spin, deaf, daemon, brood, flood], ids=lambda f: f.__name__)
def test_a_call_ends_at_its_deadline_and_leaves_nothing(
    function: Callable[..., Any], effect: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pids"
    box = toolbox(function, deadline=1.0, effect=effect)
    fds = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    start = time.monotonic()
    result = run(box, function.__name__, path=str(path))
    took = time.monotonic() - start
    assert 1.0 <= took < 2.0
    assert (result.outcome, result.cause) == (Outcome.TIMEOUT, Cause.TOOL)
    assert result.took_effect is (None if effect else False)
    pids = [int(line) for line in path.read_text().split()]
    assert pids
    if sys.platform == "linux":
        assert soon_dead(pids)
        assert len(os.listdir("/proc/self/fd")) == fds
    assert capfd.readouterr() == ("", "")


def test_an_effect_is_sent_once(tmp_path: Path) -> None:
    """Whatever becomes of it."""
    for function in (sleep, crash):
        path = tmp_path / function.__name__
        box = toolbox(function, deadline=0.5, effect=True)
        assert not run(box, function.__name__, path=str(path)).ok
        assert len(path.read_text().split()) == 1


def crash(path: str) -> str:
    """Die of a fault in memory."""
    note(path)
    os.kill(os.getpid(), signal.SIGSEGV)
    return ""


def leave(path: str) -> str:
    """Leave without a word."""
    note(path)
    os._exit(0)


def orphan(path: str) -> str:
    """Kill the process that watches over this one."""
    note(path)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return ""


@pytest.mark.parametrize(("function", "said"), [(crash, "SIGSEGV"), (leave, "exit code 0"), (orphan, "SIGKILL")])
def test_a_process_that_dies_is_a_crash(function: Callable[..., Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    for effect in (False, True):
        result = run(toolbox(function, deadline=5.0, effect=effect), function.__name__, path=str(path))
        assert (result.outcome, result.cause) == (Outcome.CRASHED, Cause.TOOL)
        assert result.took_effect is (None if effect else False)
        assert said in str(result.error)
        assert said not in result.content
    assert soon_dead([int(line) for line in path.read_text().split()])


def test_what_a_killable_tool_returns_and_raises_is_as_it_would_be_here() -> None:
    def work(how: str) -> Any:
        """Do something."""
        if how == "value":
            return {"b": [1, 2.5, None], "é": (1,)}
        if how == "text":
            return "é" * 5000
        if how == "missing":
            raise NotFound("nothing", hint="look elsewhere")
        if how == "took_effect":
            raise ToolTimeout("slow", took_effect=None)
        if how == "exit":
            sys.exit(3)
        nothing: dict[str, Any] = {}
        return nothing[how]

    here, there = toolbox(work), toolbox(work, deadline=20.0)
    for how in ("value", "text", "missing", "took_effect", "exit", "bug"):
        near, far = run(here, "work", how=how), run(there, "work", how=how)
        assert near.content == far.content
        assert (near.outcome, near.value, near.took_effect, near.cause) == (
            far.outcome,
            far.value,
            far.took_effect,
            far.cause,
        )
        assert (near.error is None) == (far.error is None)


def test_a_killable_tool_changes_nothing_here() -> None:
    seen: list[int] = []

    def add() -> int:
        """Add."""
        seen.append(1)
        return len(seen)

    box = toolbox(add, deadline=20.0)
    assert [run(box, "add").value, run(box, "add").value] == [1, 1]
    assert seen == []


def test_what_a_tool_leaves_behind_is_killed_when_it_returns_too() -> None:
    def start() -> int:
        """Start a server, and return."""
        return subprocess.Popen(["sleep", "60"], start_new_session=True).pid

    result = run(toolbox(start, deadline=20.0), "start")
    assert result.ok
    assert soon_dead([result.value])


def test_a_result_beyond_all_bounds() -> None:
    def much() -> str:
        """Return too much."""
        return "x" * (MAX_PAYLOAD + 1)

    result = run(toolbox(much, deadline=30.0), "much")
    assert result.outcome is Outcome.TOOL_ERROR
    assert "over" in str(result.error)


def test_when_this_process_is_killed_its_calls_die_with_it(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    pid = os.fork()
    if pid == 0:
        try:
            run_forked(lambda: brood(str(path)).encode(), 60)
        finally:
            os._exit(0)
    end = time.monotonic() + 20
    while not (path.exists() and len(path.read_text().split()) == 21) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pids = [int(line) for line in path.read_text().split()]
    assert len(pids) == 21
    assert soon_dead(pids)


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> str:
        """Work."""
        return "done"

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    result = run(toolbox(work, deadline=1.0, effect=True), "work")
    assert (result.outcome, result.cause, result.took_effect) == (Outcome.CRASHED, Cause.INFRASTRUCTURE, False)


# ---- asynchronous tools ---------------------------------------------------------------------------------------------


async def double(n: int) -> int:
    """Double a number."""
    await asyncio.sleep(0)
    return 2 * n


async def doze(seconds: float) -> str:
    """Sleep for some seconds."""
    await asyncio.sleep(seconds)
    return "awake"


def test_an_async_tool_runs_to_its_end() -> None:
    box = toolbox(double)
    assert run(box, "double", n=4).value == 8

    async def inside() -> Any:  # as in a rollout
        return run(box, "double", n=5).value

    assert asyncio.run(inside()) == 10


def test_async_tools_share_one_loop() -> None:
    loops: list[Any] = []

    async def where() -> int:
        """Say which loop."""
        loops.append(asyncio.get_running_loop())
        return 0

    box = toolbox(where)
    run(box, "where")
    run(box, "where")
    assert loops[0] is loops[1]


def test_a_tool_that_calls_an_async_tool() -> None:
    inner = toolbox(double)

    async def outer(n: int) -> Any:
        """Call another tool."""
        return run(inner, "double", n=n).value

    assert run(toolbox(outer), "outer", n=3).value == 6


def test_async_errors_keep_their_type() -> None:
    async def fail(how: str) -> str:
        """Fail."""
        if how == "missing":
            raise NotFound("nothing")
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "time":
            raise TimeoutError  # the tool's own, and not its deadline's
        sys.exit(1)

    box = toolbox(fail, deadline=10.0)
    assert run(box, "fail", how="missing").outcome is Outcome.NOT_FOUND
    for how in ("cancelled", "time", "exit"):
        assert run(box, "fail", how=how).outcome is Outcome.TOOL_ERROR, how
    assert run(toolbox(double), "double", n=1).ok


@pytest.mark.parametrize("how", ["waits", "blocks", "does not heed"])
def test_an_async_tool_ends_at_its_deadline(how: str) -> None:
    async def wait() -> str:
        """Wait."""
        if how == "blocks":
            time.sleep(2)
        while True:
            try:
                await asyncio.sleep(3)
                return "late"
            except asyncio.CancelledError:
                if how != "does not heed":
                    raise

    start = time.monotonic()
    result = run(toolbox(wait, deadline=0.3, effect=True), "wait")
    assert 0.3 <= time.monotonic() - start < 1.3
    assert (result.outcome, result.took_effect) == (Outcome.TIMEOUT, None)
    assert run(toolbox(double), "double", n=1).ok  # on a new loop where the old one is blocked


def test_run_async_gives_up_in_time() -> None:
    with pytest.raises(TimeoutError):
        run_async(asyncio.sleep(5), 0.05)
    with pytest.raises(ZeroDivisionError):
        run_async(_divide())


async def _divide() -> float:
    return 1 / 0


# ---- several calls in one message -----------------------------------------------------------------------------------


def calls(name: str, *arguments: dict[str, Any]) -> list[ToolCall]:
    return [ToolCall(name, a) for a in arguments]


def test_calls_run_in_order() -> None:
    seen: list[int] = []

    def put(n: int) -> int:
        """Put a number."""
        seen.append(n)
        if n == 2:
            raise Unavailable
        return n

    box = toolbox(put)
    done = box.execute_all([*calls("put", {"n": 1}, {"n": 2}), parse_call("{"), *calls("put", {"n": 2}, {"n": 3})])
    assert seen == [1, 2, 2, 3]
    assert [c.id for c, _ in done] == [r.call_id for _, r in done] == ["c1", "c2", "c3", "c4", "c5"]
    assert [r.retry_of for _, r in done] == [None, None, None, "c2", None]
    assert box.execute_all([]) == []


def test_concurrent_calls_run_beside_each_other_and_answer_in_order() -> None:
    box = toolbox(doze, concurrent=True)
    start = time.monotonic()
    naps = [{"seconds": seconds} for seconds in (1.0, 0.4, 0.8, 0.9)]
    done = box.execute_all(calls("doze", *naps))
    assert time.monotonic() - start < 2.8  # 3.1 s one after the other
    assert all(r.ok for _, r in done)
    assert [c.arguments for c, _ in done] == naps
    assert [r.call_id for _, r in done] == ["c1", "c2", "c3", "c4"]


def test_plain_and_killable_tools_run_beside_each_other() -> None:
    gate = threading.Barrier(2, timeout=10)

    def meet(n: int) -> int:
        """Wait for the other call."""
        gate.wait()
        return n

    assert [r.value for _, r in toolbox(meet, concurrent=True).execute_all(calls("meet", {"n": 1}, {"n": 2}))] == [1, 2]

    def nap(n: int) -> int:
        """Sleep a little, or too long."""
        time.sleep(n)
        return n

    box = toolbox(nap, concurrent=True, deadline=1.0)
    start = time.monotonic()
    done = [r.outcome for _, r in box.execute_all(calls("nap", {"n": 0}, {"n": 9}, {"n": 9}))]
    assert done == [Outcome.OK, Outcome.TIMEOUT, Outcome.TIMEOUT]
    assert time.monotonic() - start < 1.0 + 2 * GRACE + 1


def test_one_tool_that_is_not_concurrent_puts_all_in_order() -> None:
    running: list[str] = []

    async def a(n: int) -> int:
        """First."""
        running.append("a")
        await asyncio.sleep(0.02)
        running.remove("a")
        return n

    def b(n: int) -> int:
        """Second."""
        assert running == []
        return n

    box = Toolbox([Tool.from_function(a, concurrent=True), Tool.from_function(b)], World())
    done = box.execute_all([ToolCall("a", {"n": 1}), ToolCall("b", {"n": 2}), ToolCall("a", {"n": 3})])
    assert [r.value for _, r in done] == [1, 2, 3]


def test_a_bad_call_among_concurrent_ones() -> None:
    box = toolbox(double, concurrent=True)
    bad = [ToolCall("nothing", {}), ToolCall("double", {"n": "x"}), parse_call("{"), ToolCall(None, {})]  # type: ignore[arg-type]  # on purpose
    done = box.execute_all([ToolCall("double", {"n": 1}), *bad, ToolCall("double", {"n": 2})])
    assert [r.outcome for _, r in done] == [
        Outcome.OK,
        Outcome.UNKNOWN_TOOL,
        Outcome.INVALID_ARGUMENTS,
        Outcome.MALFORMED,
        Outcome.MALFORMED,
        Outcome.OK,
    ]
    assert [r.value for _, r in done] == [2, None, None, None, None, 4]


class Desk(ToolEnv):
    """Reads numbers."""

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"sent": []}

    @tool(concurrent=True)
    async def read(self, n: int) -> list[int]:
        """Read some numbers."""
        await asyncio.sleep(0.01 / (n + 1))
        return list(range(n))

    @tool(effect=True)
    def send(self, n: int, key: IdempotencyKey) -> str:
        """Send a number."""
        self.state["sent"].append(key)
        return key

    def success(self, task: Task) -> bool:
        return True


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_faults_strike_concurrent_calls_the_same_every_time(seed: int) -> None:
    def play() -> Any:
        env = Desk()
        env.start(Task("Read."), FaultPlan.parse(f"unavailable:0.3,empty_result:0.3,partial_page:0.3@{seed}"))
        action = Action(tool_calls=tuple(ToolCall("read", {"n": n}) for n in range(1, 6)))
        return [env.act(action).turn.results for _ in range(3)], env.episode.faults_hit

    assert play() == play()


# ---- what the toolbox fills in --------------------------------------------------------------------------------------


def test_injected_parameters() -> None:
    def query(
        text: str, db: Annotated[dict[str, int], Injected], clock: Annotated[object, Injected("time")] = None
    ) -> Any:
        """Query."""
        return [db[text], clock]

    made = Tool.from_function(query)
    assert list(made.spec.parameters["properties"]) == ["text"]
    box = Toolbox([made], World(), inject={"db": {"a": 1}})
    assert run(box, "query", text="a").value == [1, None]
    box.inject["time"] = 7
    assert run(box, "query", text="a").value == [1, 7]
    assert run(box, "query", text="a", db={"a": 2}).outcome is Outcome.INVALID_ARGUMENTS
    for validation in ("binding", "off"):
        loose = Toolbox([made], World(), inject={"db": {"a": 1}, "time": 7}, validation=validation)
        result = run(loose, "query", text="a", clock="mine")
        assert result.outcome is Outcome.INVALID_ARGUMENTS if validation == "binding" else result.value == [1, 7]
    with pytest.raises(EnvError, match="needs 'db'"):
        run(Toolbox([made], World()), "query", text="a")


def test_a_call_and_its_retries_share_a_key() -> None:
    keys: list[str] = []
    fails = [True, True, False, False]

    def pay(amount: int, key: IdempotencyKey) -> str:
        """Pay."""
        keys.append(key)
        if fails.pop(0):
            raise ToolTimeout("no answer", took_effect=None)
        return "paid"

    box = toolbox(pay, effect=True)
    box.begin(None, episode="t1")
    for _ in range(4):
        run(box, "pay", amount=1)
    assert keys == ["t1/c1", "t1/c1", "t1/c1", "t1/c4"]  # the fourth is meant: the third had worked


def test_keys_follow_a_snapshot() -> None:
    env = Desk()
    task = Task("Send.")
    env.start(task)
    frozen = env.snapshot()
    first = env.act(Action.call("send", n=1)).turn.results[0].value
    env.restore(frozen)
    assert env.act(Action.call("send", n=1)).turn.results[0].value == first == f"{task.id}/c1"


# ---- settings -------------------------------------------------------------------------------------------------------


def test_tools_that_return_their_errors() -> None:
    def ask(what: str) -> Any:
        """Ask."""
        return {"isError": what == "bad", "text": what}

    assert run(toolbox(ask, is_error=lambda r: r["isError"]), "ask", what="good").ok
    result = run(toolbox(ask, is_error=lambda r: r["isError"]), "ask", what="bad")
    assert (result.outcome, result.cause, result.value) == (Outcome.TOOL_ERROR, Cause.TOOL, None)
    assert json.loads(json.loads(result.content)["message"]) == {"isError": True, "text": "bad"}
    named = toolbox(ask, is_error=lambda r: NotFound(r["text"]) if r["isError"] else None, effect=True, deadline=9.0)
    assert run(named, "ask", what="bad").outcome is Outcome.NOT_FOUND
    said = run(toolbox(ask, is_error=lambda r: "it said no", effect=True), "ask", what="good")
    assert json.loads(said.content)["message"] == "it said no"
    assert said.took_effect is None
    assert run(toolbox(ask, is_error=lambda r: 1 / 0), "ask", what="bad").outcome is Outcome.TOOL_ERROR


def test_rendering_is_a_setting() -> None:
    def ask() -> Any:
        """Ask."""
        return {"a": 1}

    result = run(toolbox(ask, render=lambda value: f"a is {value['a']}"), "ask")
    assert (result.content, result.value) == ("a is 1", {"a": 1})
    assert run(toolbox(ask, render=lambda value: "\ud800"), "ask").outcome is Outcome.TOOL_ERROR


def test_settings_that_cannot_be_meant() -> None:
    for wrong in ({"validation": "strict"}, {"hint_level": 4}, {"max_output": 0}):
        with pytest.raises(ConfigError):
            toolbox(double, **wrong)


def test_a_long_or_broken_error_text_is_cut_and_mended() -> None:
    class Odd(NotFound):
        def __str__(self) -> str:
            raise RuntimeError

    def fail(how: str) -> str:
        """Fail."""
        if how == "odd":
            raise Odd
        raise NotFound("x" * 10**6 if how == "long" else "\ud800", hint=3)  # type: ignore[arg-type]  # on purpose

    box = toolbox(fail, max_output=50)
    long = json.loads(run(box, "fail", how="long").content)["message"]
    assert long == "x" * 50 + "... [cut: 999950 more characters]"
    assert json.loads(run(box, "fail", how="broken").content) == {"error": "not_found", "message": "?", "hint": "3"}
    assert run(box, "fail", how="odd").outcome is Outcome.NOT_FOUND


def test_results_are_the_same_in_every_run() -> None:
    """No addresses, no order of hashes."""

    def give(what: str) -> Any:
        """Give something."""
        return {"set": {"b", "a", "c"}, "object": object(), "function": give, "generator": (n for n in range(2))}[what]

    box = toolbox(give)
    assert run(box, "give", what="set").content == '["a","b","c"]'
    for what in ("object", "function", "generator"):
        result = run(box, "give", what=what)
        assert result.outcome is Outcome.TOOL_ERROR
        assert "has no text form" in str(result.error)


def test_what_a_tool_does_to_its_arguments_does_not_change_the_record() -> None:
    kept: list[Any] = []

    def keep(tags: list[str], more: Any, point: dict[str, list[int]]) -> str:
        """Keep all, and change it."""
        kept.extend([tags, more, point])
        tags.append("b")
        more["a"]["b"].clear()
        point["x"].append(2)
        return "kept"

    def same(tags: list[str], more: Any, point: dict[str, list[int]], size: set[int] = frozenset()) -> str:  # type: ignore[assignment]  # never used
        """Keep all by way of pydantic, and change it."""
        return keep(tags, more, point)

    for box in (toolbox(keep), toolbox(same), toolbox(same, validation="off")):
        name = next(iter(box.tools))
        call, result = box.execute(ToolCall(name, {"tags": ["a"], "more": {"a": {"b": [1]}}, "point": {"x": [1]}}))
        kept[-1]["x"].append(3)  # later in the episode
        assert result.ok
        assert call.arguments == {"tags": ["a"], "more": {"a": {"b": [1]}}, "point": {"x": [1]}}


# ---- hostile calls --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(repository: Path) -> Iterator[ModuleType]:
    path = repository / "benchmarks" / "hostile.py"
    spec = importlib.util.spec_from_file_location("hostile", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hostile"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["hostile"]


def test_calls_of_every_kind_end_as_they_were_made_to(hostile: ModuleType) -> None:
    rng, box = random.Random(1), hostile.box()
    played = [hostile.play(box, rng) for _ in range(5_000)]
    assert [wrong for _, _, wrong in played if wrong][:5] == []
    assert len({kind for kind, _, _ in played}) >= 25
    assert {outcome for _, outcome, _ in played} == {
        Outcome.OK,
        Outcome.MALFORMED,
        Outcome.UNKNOWN_TOOL,
        Outcome.INVALID_ARGUMENTS,
        Outcome.NOT_FOUND,
        Outcome.TOOL_ERROR,
    }


def test_the_hostile_calls_would_find_a_mistake(hostile: ModuleType) -> None:
    rng, box = random.Random(1), hostile.box(validation="off")
    assert sum(bool(hostile.play(box, rng)[2]) for _ in range(300)) > 10


@given(st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_calls_that_hypothesis_chooses(hostile: ModuleType, rng: random.Random) -> None:
    assert hostile.play(hostile.box(), rng)[2] == ""


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_call_that_ends(hostile: ModuleType, data: st.DataObject) -> None:
    """Free text, and JSON of the right shape with one piece of it cut out or doubled."""
    if data.draw(st.booleans()):
        raw = data.draw(st.text(st.characters(exclude_categories=()), max_size=80))
    else:
        names = st.sampled_from(["book", "fail"]) | st.text(max_size=5)
        shape = {"name": data.draw(names), "arguments": data.draw(ANY_JSON)}
        raw = json.dumps(shape, ensure_ascii=data.draw(st.booleans()))
        start = data.draw(st.integers(0, len(raw)))
        raw = (
            raw[:start] + data.draw(st.sampled_from(["", raw, '"', "\\"])) + raw[start + data.draw(st.integers(0, 3)) :]
        )
    call, result = hostile.box().execute(parse_call(raw))
    assert hostile.mistake(result, call, result.outcome) == ""
    assert (call.arguments is None) == (result.outcome is Outcome.MALFORMED)


def test_a_dead_server_is_nobodys_call() -> None:
    """It ends the episode and leaves every denominator."""

    class Remote(ToolEnv):
        def setup(self, task: Task, rng: Any) -> None:
            self.state = {}

        @tool
        def ask(self) -> str:
            """Ask the server."""
            raise InfrastructureError("the server died")

        def success(self, task: Task) -> bool:
            return False

    env = Remote()
    env.start(Task("Ask."))
    with pytest.raises(InfrastructureError, match="the server died"):
        env.act(Action.call("ask"))


# ---- ids -------------------------------------------------------------------------------------------------------------


def say(word: str) -> str:
    """Says a word.

    Args:
        word: What to say.
    """
    return word


def ids_of(box: Toolbox, *given: Any) -> list[str]:
    """The ids of calls after they were made; each result has its call's."""
    made = box.execute_all([ToolCall("say", {"word": "tea"}, id=id) for id in given])
    assert [result.call_id for _, result in made] == [call.id for call, _ in made]
    return [call.id for call, _ in made]


def test_the_agents_own_call_ids_are_kept_and_what_is_no_id_is_numbered() -> None:
    box = Toolbox([Tool.from_function(say)], World())
    box.begin(None)
    assert ids_of(box, "call_Ab-9", "functions.say:0", "") == ["call_Ab-9", "functions.say:0", "c3"]
    assert ids_of(box, "call_Ab-9") == ["c4"]  # twice
    assert ids_of(box, "c6", "") == ["c6", "c7"]  # the number that a call without id would have got
    assert ids_of(box, "\ud800", "x" * 129, "a b", "\x1b[31m", 7) == ["c8", "c9", "c10", "c11", "c12"]


def test_a_fork_does_not_give_an_id_twice() -> None:
    box = Toolbox([Tool.from_function(say)], World())
    box.begin(None)
    assert ids_of(box, "c2") == ["c2"]
    state = box.state.copy()
    assert ids_of(box, "", "mine") == ["c3", "mine"]
    box.resume(state)
    assert ids_of(box, "c2", "mine") == ["c3", "mine"]


# ---- whole numbers ---------------------------------------------------------------------------------------------------


def _sent(schema: dict[str, Any], value: Any) -> Any:
    """What a tool made from a schema gets for `x`."""
    got: list[Any] = []
    parameters = {"type": "object", "properties": {"x": schema}, "$defs": schema.get("$defs", {})}
    made = Tool.from_schema("t", lambda x: got.append(x), parameters, description="d")
    result = Toolbox((made,), World()).execute(ToolCall("t", {"x": value}))[1]
    assert result.ok, result.content
    return got[0]


_REF = {"$ref": "#/$defs/n"}


@pytest.mark.parametrize(
    ("schema", "value", "right"),
    [
        ({"type": "integer"}, 7.0, 7),
        ({"type": ["integer", "null"]}, -0.0, 0),
        ({"type": "integer"}, 1e25, 10**25),
        ({"type": "array", "items": {"type": "integer"}}, [1.0, 2], [1, 2]),
        ({"type": "array", "prefixItems": [{"type": "number"}], "items": {"type": "integer"}}, [1.0, 2.0], [1.0, 2]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 3.0}, {"a": 3}),
        ({"type": "object", "patternProperties": {"^n": {"type": "integer"}}},
         {"n1": 3.0, "m": 3.0}, {"n1": 3, "m": 3.0}),
        ({**_REF, "$defs": {"n": {"type": "integer"}}}, 7.0, 7),
        ({**_REF, "$defs": {"n": {"type": "object", "properties": {"n": _REF, "i": {"type": "integer"}}}}},
         {"n": {"n": {"i": 1.0}}}, {"n": {"n": {"i": 1}}}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 7.0, 7),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, 7.0, 7.0),
        ({"oneOf": [{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}, {"type": "null"}]},
         {"a": 7.0}, {"a": 7}),
        ({"allOf": [{"type": "number"}, {"type": "integer"}]}, 7.0, 7),
        ({"enum": [1, 2.5, "x"]}, 1.0, 1),
        ({"const": 1}, 1.0, 1),
        ({"type": "number", "multipleOf": 1}, 7.0, 7),
        ({"type": "number"}, 7.0, 7.0),
        ({}, {"a": 7.0}, {"a": 7.0}),
    ],
)  # fmt: skip
def test_a_whole_float_is_an_integer_where_the_schema_wants_one(schema: dict[str, Any], value: Any, right: Any) -> None:
    got = _sent(schema, value)
    assert repr(got) == repr(right)  # 7 == 7.0, and they are written differently


def test_importing_the_tools_leaves_the_process_as_it_is() -> None:
    code = """
import atexit, os
hooks = []
ours = lambda hook: getattr(hook, "__module__", "").startswith("sparring")
os.register_at_fork = lambda **hook: hooks.append(hook) if any(map(ours, hook.values())) else None
atexit.register = lambda hook, *args: hooks.append(hook) if ours(hook) else None
import sparring.envs, sparring.tools.toolbox
assert hooks == [], hooks
from sparring.tools.deadline import run_forked
for _ in range(2):
    assert run_forked(lambda: b"x", 5).payload == b"x"
assert len([hook for hook in hooks if "before" in hook]) == 1, hooks
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


def test_a_number_that_a_body_cannot_work_with_is_the_arguments_fault() -> None:
    """1e308 is a whole number of 309 digits; few bodies take it. An overflow without such a number is a bug."""

    def row(n: int) -> str:
        """A row."""
        return str(sqlite3.connect(":memory:").execute("select ?", (n,)).fetchone()[0])

    async def wait(n: int) -> str:
        """Wait."""
        return str(datetime.timedelta(days=n))

    box = toolbox(row, wait, effect=True)
    for name in ("row", "wait"):
        made = run(box, name, n=1e308)
        assert (made.outcome, made.cause) == (Outcome.INVALID_ARGUMENTS, Cause.POLICY)
        assert "n: expected a number that the tool can work with, got one of 309 digits" in made.content
        assert run(box, name, n=3.0).ok
    assert made.took_effect is None
    assert run(box, "wait", n=10**12).outcome is Outcome.TOOL_ERROR
