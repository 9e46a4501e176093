"""Environments that a checker called well, and that died later: each is found, with the author's file and line."""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest

from sparring.envs import FaultHooks, KnobHooks, Others, Task, ToolEnv, ToolRules, User, check_env
from sparring.envs.check import again
from sparring.envs.check.episodes import episode
from sparring.tools import tool
from sparring.trajectories import ConfigError, EnvError

DOC = "Open a door by its number.\n\n## Tools\n\n## Rewards\n\n## Episode End\n\n## Version History\n"
WORLD: dict[int, int] = {}


class Doors(ToolEnv):
    __doc__ = DOC

    def tasks(self, split: Any, rng: Any) -> Iterable[Task]:
        first = {"train": 0, "validation": 100, "test": 200}[split]
        return [Task(f"Open door {number}.", {"door": number}) for number in range(first, first + 50)]

    def setup(self, task: Task, rng: Any) -> Any:
        self.state: Any = {"open": []}

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return "open"

    @tool
    def doors(self) -> Any:
        """List the open doors."""
        return list(self.state["open"])

    @tool(ids=["door"])
    def peek(self, door: int) -> str:
        """Look behind a door."""
        return f"{self.state.get('behind', 'nothing')}"

    fault_hooks = FaultHooks(rotate_id=lambda env, name, arguments: False)

    def success(self, task: Task) -> Any:
        return self.state["open"] == [task.data["door"]]

    def solve(self, task: Task) -> Any:
        if self.state["open"] != [task.data["door"]]:
            yield "open_door", {"door": task.data["door"]}


def test_the_ground_that_all_of_them_stand_on_is_well() -> None:
    assert check_env(Doors) == []


# ---- what raises -----------------------------------------------------------------------------------------------------


def deep(n: int) -> int:
    return deep(n + 1)


def thrown(error: BaseException) -> NoReturn:
    raise error


class NextInHook(Doors):
    __doc__ = DOC
    fault_hooks = FaultHooks(rotate_id=lambda env, n, a: next(d for d in env.state["open"] if d == a["door"]) < 0)


class KeyInReply(Doors):
    __doc__ = DOC
    user = User(lambda env, said: {"Done.": None, "Cannot do it.": None}[said])


class KeyAfterCall(Doors):
    __doc__ = DOC
    tool_rules = ToolRules(after_call=lambda env, call, result: (call.arguments or {})["door"] if result.ok else None)


class Recursive(Doors):
    __doc__ = DOC

    def success(self, task: Task) -> Any:
        return super().success(task) and (len(self.state["open"]) < 1 or deep(0))


class ExitsWell(Doors):
    __doc__ = DOC

    def success(self, task: Task) -> Any:
        return super().success(task) and sys.exit(0)


class Cancels(Doors):
    __doc__ = DOC
    others = Others(elapse=lambda env: thrown(asyncio.CancelledError()) if len(env.state["open"]) > 2 else None)


class Loud(BaseException):
    pass


class LoudTool(Doors):
    __doc__ = DOC

    @tool
    def peek(self, door: int) -> str:
        """Look behind a door."""
        raise Loud(door)

    fault_hooks = FaultHooks()


class Thread(Doors):
    __doc__ = DOC

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        thread = threading.Thread(target=lambda: [][door])
        thread.start()
        thread.join()
        self.state["open"].append(door)
        return "open"


class Unmakeable(Doors):
    __doc__ = DOC

    def __init__(self) -> None:
        super().__init__()
        dict[str, int]()["x"]


class Leaves(Doors):
    __doc__ = DOC

    def __init__(self) -> None:
        sys.exit(0)


class WrongRoute(Doors):
    __doc__ = DOC
    tool_rules = ToolRules(offered=lambda env: ["open_door", *(["trapdoor"] if env.state["open"] else [])])


class Spoils(Doors):
    __doc__ = DOC
    knobs = KnobHooks(facts=lambda env, task: task.data["fact"])


# ---- what gives something else ---------------------------------------------------------------------------------------


class Words(Doors):
    __doc__ = DOC

    def success(self, task: Task) -> Any:
        return "yes" if super().success(task) else "no"


class Later(Doors):
    __doc__ = DOC

    async def success(self, task: Task) -> Any:  # type: ignore[override]  # what is tested
        return False

    def solve(self, task: Task) -> Any:
        yield "open_door", {"door": task.data["door"]}


class NeverSetUp(Doors):
    __doc__ = DOC

    def setup(self, task: Task, rng: Any) -> Any:
        super().setup(task, rng)
        yield


class ListOfCalls(Doors):
    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        return [("open_door", {"door": task.data["door"]})]


class OddCall(Doors):
    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        if not self.success(task):
            yield {"open_door": task.data["door"]}


class TextTasks(Doors):
    __doc__ = DOC

    def tasks(self, split: Any, rng: Any) -> Any:
        return [f"Open {split}."]


class NumberTasks(Doors):
    __doc__ = DOC

    def tasks(self, split: Any, rng: Any) -> Any:
        yield Task(f"Open {split}.", {"door": 1}, level="1")  # type: ignore[arg-type]  # what is tested


class NoTasks(Doors):
    __doc__ = DOC

    def tasks(self, split: Any, rng: Any) -> Any:
        [Task(f"Open {split}.")]


class Distorts(Doors):
    __doc__ = DOC
    fault_hooks = FaultHooks(rotate_id=Doors.fault_hooks.rotate_id, distort=lambda env, n, a, value: {1, 2})


class RotatesInSilence(Doors):
    __doc__ = DOC
    fault_hooks = FaultHooks(rotate_id=lambda env, n, a: env.state.update(behind="a wall"))


class Opaque(Doors):
    __doc__ = DOC

    @tool
    def doors(self) -> Any:
        """List the open doors."""
        return object()


class NotANumber(Doors):
    __doc__ = DOC
    reward_terms = {"doors": lambda ended: float("nan") if ended.after["open"] else 0.0}  # noqa: RUF012  # as documented


# ---- where the world is, and what moves it ---------------------------------------------------------------------------


class Locked(Doors):
    __doc__ = DOC

    def setup(self, task: Task, rng: Any) -> Any:
        super().setup(task, rng)
        self.state["keys"] = [threading.Lock()]


class LookChanges(Doors):
    __doc__ = DOC

    @tool
    def doors(self) -> Any:
        """List the open doors."""
        self.state["looked"] = self.state.get("looked", 0) + 1
        return list(self.state["open"])


class ByTheClock(Doors):
    __doc__ = DOC

    @tool
    def doors(self) -> Any:
        """Say when it is."""
        return datetime.datetime.now().isoformat(timespec="seconds")

    def solve(self, task: Task) -> Any:
        yield "doors", {}
        yield from super().solve(task)


class ByChanceUnderAFault(Doors):
    __doc__ = DOC
    fault_hooks = FaultHooks(rotate_id=lambda env, n, a: env.state.update(behind=uuid.uuid4().hex) is None)


class OneWorld(Doors):
    """Nothing that reads shows it."""

    __doc__ = DOC

    def setup(self, task: Task, rng: Any) -> Any:
        WORLD.clear()
        self.state = {}

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        WORLD[door] = 1
        return "open"

    doors = None  # type: ignore[assignment]  # taken away

    def success(self, task: Task) -> Any:
        return list(WORLD) == [task.data["door"]]

    def solve(self, task: Task) -> Any:
        if not self.success(task):
            yield "open_door", {"door": task.data["door"]}


class OneWorldThatSaysSo(OneWorld):
    __doc__ = DOC
    copyable = False


class NeverTidied(Doors):
    __doc__ = DOC
    kept: ClassVar[set[int]] = set()

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.kept.add(door)
        return "open"

    def success(self, task: Task) -> Any:
        return task.data["door"] in self.kept

    def solve(self, task: Task) -> Any:
        yield "open_door", {"door": task.data["door"]}


HERE = r"\(test_check_hostile.py, line \d+, in {}\)"
BAD: list[tuple[type[ToolEnv], str, str]] = [
    (NextInHook, r"StopIteration: next\(\) found nothing there; .* under the faults stale_id", "<lambda>"),
    (KeyInReply, "KeyError: ", "<lambda>"),
    (KeyAfterCall, "KeyError: 'door'", "<lambda>"),
    (Recursive, "RecursionError: maximum recursion", "deep"),
    (ExitsWell, "SystemExit: 0", "success"),
    (Cancels, "CancelledError", "thrown"),
    (LoudTool, "the tool 'peek' raised .*Loud: ", "peek"),
    (Thread, "a thread died of IndexError: list index out of range", "<lambda>"),
    (Unmakeable, "KeyError: 'x'", "__init__"),
    (Leaves, "SystemExit: 0", "__init__"),
    (WrongRoute, "unknown tool of WrongRoute 'trapdoor'", "<lambda>"),
    (Spoils, "KeyError: 'fact'", "<lambda>"),
    (Words, r"success\(task\) gives 'no'", "success"),
    (Later, "success.* gives a coroutine, which nobody awaits", "success"),
    (NeverSetUp, "setup.* gives a generator, which nobody runs", "setup"),
    (ListOfCalls, "solve.* gives \\[", "solve"),
    (OddCall, "solve.* yields {'open_door'", "solve"),
    (TextTasks, "tasks.* gives 'Open train.'", "tasks"),
    (NumberTasks, "gives a Task whose level is '1'", "tasks"),
    (NoTasks, "tasks.* gives None", "tasks"),
    (Distorts, "distort.* gives {1, 2} .* under the faults .*silent_wrong_value", "<lambda>"),
    (RotatesInSilence, "rotate_id.* gives None .* under the faults stale_id", "<lambda>"),
    (Opaque, "the tool 'doors' returned no JSON: a value of type object", "doors"),
    (NotANumber, "the reward part 'doors' is nan", "<lambda>"),
    (Locked, r"Locked.state\['keys'\]\[0\] cannot be copied: TypeError", "setup"),
    (LookChanges, r"the tool 'doors' changes self.state\['looked'\], and says that it only reads", "doors"),
    (ByTheClock, "another way a second later, by the clock of datetime.now", "doors"),
    (ByChanceUnderAFault, "do not come to the same thing twice under the faults stale_id", "peek"),
    (OneWorld, "its instances share one world", "OneWorld"),
    (NeverTidied, "what one episode has done is still there in the next", "setup"),
]


@pytest.mark.parametrize(("cls", "what", "name"), BAD, ids=[case[0].__name__ for case in BAD])
def test_it_is_found_with_the_authors_line(cls: type[ToolEnv], what: str, name: str) -> None:
    found = check_env(cls)
    assert found
    said = [f.what for f in found]
    matching = [f for f in found if re.search(what, f.what)]
    assert matching, said
    assert re.search(HERE.format(re.escape(name)), matching[0].what), said
    lines = [f.line for f in found if f.line]
    assert len(lines) == len(set(lines))  # each line is told once


def test_a_second_that_turns_between_two_plays_is_told_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 0

    def late(*args: Any) -> list[object]:
        nonlocal number
        number += 1
        if number == 2:
            time.sleep(1.05 - time.time() % 1)
        return episode(*args)

    monkeypatch.setattr(again, "episode", late)
    said = [f.what for f in check_env(ByTheClock)]
    assert [what for what in said if "another way a second later, by the clock of datetime.now" in what], said
    assert not [what for what in said if "twice" in what or "after another task" in what], said


def test_a_world_that_says_that_all_share_it_is_well() -> None:
    assert check_env(OneWorldThatSaysSo) == []


def test_a_finding_keeps_the_traceback() -> None:
    (found,) = [f for f in check_env(KeyAfterCall) if "KeyError" in f.what]
    assert found.trace.startswith("Traceback (most recent call last)")
    assert "KeyError: 'door'" in found.trace


def test_a_record_of_today_may_not_replay_tomorrow() -> None:
    class Dated(Doors):
        __doc__ = DOC

        @tool
        def doors(self) -> Any:
            """Say what day it is."""
            return datetime.date.today().isoformat()

    (found,) = check_env(Dated)
    assert found.severity == "warning"
    assert re.search(r"what day it is \(date.today\(\) in test_check_hostile.py, line \d+\)", found.what)


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    yield
    NeverTidied.kept.clear()
    WORLD.clear()


def test_calls_that_change_the_task_are_found() -> None:
    """Whoever changes what is asked for has done it: a wrong success that doing nothing does not show."""

    class Moving(Doors):
        @tool(effect=True)
        def open_door(self, door: int) -> str:
            """Open a door."""
            self.episode.task.data["door"] = door
            self.state["open"].append(door)
            return "open"

    assert "an episode changes its task: {'door':" in str(check_env(Moving))


@pytest.mark.parametrize(
    ("does", "said"),
    [("os.chdir('/')", "changes the working folder of the process to /"), ("os.environ['X'] = '1'", "variable X,")],
)
def test_what_all_episodes_of_a_program_share_is_left_alone(
    does: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reaching(Doors):
        @tool(effect=True)
        def open_door(self, door: int) -> str:
            """Open a door."""
            exec(does, {"os": os})
            self.state["open"].append(door)
            return "open"

    monkeypatch.setenv("X", "0")
    here = Path.cwd()
    assert said in str(check_env(Reaching))
    assert Path.cwd() == here


@pytest.mark.parametrize("most", [0, -1, 2.5, True, "24", None])
def test_max_turns_that_cannot_be_meant_are_refused_with_the_class(most: Any) -> None:
    with pytest.raises(EnvError, match=r"Wrong\.max_turns is a whole number of 1 or more, got"):
        type("Wrong", (Doors,), {"max_turns": most})


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        ("time.sleep(1e6)", "in put"),
        ("while True:\n            pass", "in put"),
        (
            "while True:\n            try:\n                time.sleep(1e6)\n"
            "            except Exception:\n                pass",
            "in put",
        ),
        ("lock = threading.Lock()\n        lock.acquire()\n        lock.acquire()", "in put"),
    ],
    ids=["sleeps", "spins", "swallows", "deadlock"],
)  # fmt: skip
def test_a_tool_that_never_returns_is_named_with_its_line(tool: str, line: str, tmp_path: Path) -> None:
    """One finding, the last: every other check would wait for it too."""
    _hangs(tmp_path, tool, rf"the tool 'put' has not returned after 0\.3 s \(hangs\.py, line \d+, {line}\)")


def test_an_async_tool_and_a_hook_that_never_return_are_named(tmp_path: Path) -> None:
    _hangs(
        tmp_path, "await asyncio.sleep(1e6)", r"the tool 'put' has not returned .*hangs\.py, line \d+, in put", "async "
    )
    _hangs(tmp_path, "return 'ok'", r"setup has not returned after 0\.3 s \(hangs\.py", setup="time.sleep(1e6)")


def test_many_slow_calls_are_no_hang_and_a_deadline_ends_by_itself(tmp_path: Path) -> None:
    """What takes long is one call, and not an action of several, an episode or a check."""
    path = tmp_path / "slow.py"
    path.write_text(HANGS.format(a="", setup="pass", tool="time.sleep(0.02)\n        return 'ok'", n=2))
    assert "has not returned" not in str(check_env(f"{path}:Hangs", tasks=2, seconds=0.6))
    sys.modules.pop("slow")


def test_patience_is_a_number_above_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        check_env("echo", seconds=0)


HANGS = """
import asyncio, threading, time
from sparring import Task, ToolEnv, tool

class Hangs(ToolEnv):
    def tasks(self, split, rng):
        yield from (Task(f"Do {{split}} {{i}}.", {{"i": f"{{split}}{{i}}"}}) for i in range({n}))

    def setup(self, task, rng):
        {setup}
        self.state = {{}}

    @tool(effect=True)
    {a}def put(self) -> str:
        "Put."
        {tool}

    def success(self, task):
        return False

    def solve(self, task):
        yield "put", {{}}
"""


def _hangs(folder: Path, tool: str, said: str, a: str = "", setup: str = "pass") -> None:
    path = folder / "hangs.py"
    path.write_text(HANGS.format(a=a, setup=setup, tool=tool, n=4))
    began = time.monotonic()
    last = check_env(f"{path}:Hangs", seconds=0.3)
    assert time.monotonic() - began < 15
    (found,) = [finding for finding in last if "has not returned" in finding.what]
    assert re.search(said, found.what), found.what
    assert found.severity == "error"
    assert "deadline=10" in found.how_to_fix
    sys.modules.pop("hangs")  # the next file has the same name
