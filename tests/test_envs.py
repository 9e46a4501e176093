"""Environments: one suite for all that are registered, then what is particular to some, the checker, the registry."""

from __future__ import annotations

import importlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from sparring.envs import (
    SPLITS,
    Finding,
    ToolEnv,
    check_env,
    expert,
    expert_turns,
    make,
    play,
    register,
    registered,
    task_set,
)
from sparring.tools import FaultPlan, NotFound, tool
from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    EnvError,
    Outcome,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    UnknownName,
)

ROOT = Path(__file__).resolve().parent.parent
NAMES = [*registered(), f"{ROOT / 'examples' / 'library.py'}:Library"]
"""A new environment is tested by being registered."""


@pytest.fixture(params=NAMES, ids=lambda name: name.rsplit(":", 1)[-1])
def env(request: pytest.FixtureRequest, clean_imports: None) -> ToolEnv:
    return make(request.param)


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from files does not outlive it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        if not name.startswith("sparring"):
            del sys.modules[name]
    importlib.invalidate_caches()


def some_tasks(env: ToolEnv, n: int = 12, split: Any = "train") -> list[Task]:
    return task_set(env, split, n, seed=11)


def busy(env: ToolEnv, rng: random.Random, seen: list[str]) -> Action:
    """A random call with words that the agent has seen: unlike a random string, it often changes the world."""
    spec = rng.choice(env.toolbox.specs)
    arguments: dict[str, Any] = {}
    for name, schema in spec.parameters["properties"].items():
        if schema.get("type") == "integer":
            arguments[name] = rng.randrange(100)
        else:
            arguments[name] = rng.choice(seen)
    return Action.call(spec.name, **arguments)


def words(results: tuple[ToolResult, ...]) -> list[str]:
    """Every string in the results."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, str):
            yield value

    return [word for result in results for word in walk(result.value)]


def wander(env: ToolEnv, task: Task, rng: random.Random, n: int) -> list[Action]:
    """Plays `n` turns: the expert's moves and busy ones, mixed. Gives the actions."""
    seen = [w.strip(".,:'") for w in task.instruction.split()]
    done: list[Action] = []
    actions = expert(env)
    wanted = next(actions)
    for _ in range(n):
        by_expert = rng.random() < 0.6 and bool(wanted.tool_calls)
        action = wanted if by_expert else busy(env, rng, seen)
        results = env.act(action).turn.results
        done.append(action)
        seen += words(results)
        if by_expert:
            wanted = actions.send(results[0])
    return done


# ---- every environment -----------------------------------------------------------------------------------------------


def test_it_passes_the_check(env: ToolEnv) -> None:
    assert check_env(env) == []


def test_gymnasium_makes_it(env: ToolEnv) -> None:
    name = getattr(env, "sparring_id", "")
    made = gymnasium.make("mine/Library-v0" if ":" in name else name)
    observation, info = made.reset(seed=3)
    assert observation == made.reset(seed=3)[0]
    assert observation.messages[-1].role == "user"
    assert info == {}
    action = made.action_space.sample()
    assert action in made.action_space
    observation, reward, terminated, truncated, info = made.step(action)
    assert observation in made.observation_space
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    _, reward, terminated, truncated, info = made.step(Action("Done."))
    assert (reward, terminated, truncated, info) == (0.0, True, False, {"success": False})
    made.close()


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_it(env: ToolEnv, split: Any) -> None:
    tasks = some_tasks(env, 40, split)
    for task in tasks:
        env.start(task)
        turns = play(env)
        assert env.judge() == (True, {"success": 1.0}), task
        assert turns[-1].reward == 1.0
        assert all(result.cause in (None, Cause.TOOL) for turn in turns for result in turn.results)


def test_the_expert_takes_over_anywhere(env: ToolEnv) -> None:
    """Whatever an agent did short of a wrong write, the expert ends it well."""
    rng = random.Random(0)
    for task in some_tasks(env):
        env.start(task)
        effects = {t.name for t in env.toolbox.tools.values() if t.effect}
        seen = task.instruction.split()
        for _ in range(4):
            action = busy(env, rng, seen)
            if action.tool_calls[0].name not in effects:
                seen += words(env.act(action).turn.results)
        if env.max_turns > 8:
            play(env)
            assert env.judge()[0], task


def test_tasks_are_the_same_for_the_same_seed(env: ToolEnv) -> None:
    assert task_set(env, "train", 30, seed=1) == task_set(env, "train", 30, seed=1)
    several = task_set(env, "train", 5, seed=1)
    assert several == task_set(env, "train", 30, seed=1)[:5]
    assert not {t.id for t in several} & {t.id for t in task_set(env, "train", 4, seed=1, without=[several[0].id])[:0]}
    assert several[0].id not in {t.id for t in task_set(env, "train", 3, seed=1, without=[several[0].id])}


@pytest.mark.parametrize("plan", ["", "count=2@5", "unavailable:0.3,stale_id:0.3@5"])
def test_a_fork_goes_on_as_the_whole(env: ToolEnv, plan: str) -> None:
    rng = random.Random(1)
    other = type(env)()
    for task in some_tasks(env):
        env.start(task, FaultPlan.parse(plan))
        length = min(8, env.max_turns - 1)
        snapshots = [env.snapshot()]
        whole = []
        actions = wander(env, task, rng, length)
        env.start(task, FaultPlan.parse(plan))
        for action in actions:
            whole.append(env.act(action).turn)
            snapshots.append(env.snapshot())
        verdict, hit = env.judge(), env.episode.faults_hit
        for at in (0, length // 2, length - 1):
            other.restore(snapshots[at])
            wander(other, task, rng, min(3, env.max_turns - at - 1))  # a fork of another kind leaves no trace
            for fork in (other, env):
                fork.restore(snapshots[at])
                assert [fork.act(action).turn for action in actions[at:]] == whole[at:]
                assert (fork.judge(), fork.episode.faults_hit) == (verdict, hit)


def test_the_optimum_leaves_the_episode_alone(env: ToolEnv) -> None:
    env.start(some_tasks(env)[0])
    before = env.snapshot().tick
    assert expert_turns(env) == len(play(env))
    assert before == 0


# ---- an episode ------------------------------------------------------------------------------------------------------


def test_levels_take_as_many_calls_as_they_say() -> None:
    for name in ("orders", "calendar"):
        env = make(name)
        for level, calls in {1: 2, 2: 3, 3: 5, 4: 8}.items():
            for task in task_set(env, "train", 30, levels=[level]):
                env.start(task)
                assert len(play(env)) == calls + 1, task
        kinds = {part for task in task_set(env, "train", 200) for part in task.kind.split("+")}
        assert len(kinds) == 4


def test_several_calls_in_one_message_run_in_order() -> None:
    env = make("echo")
    env.start(Task("Say dune.", {"word": "dune"}))
    step = env.act(Action(tool_calls=tuple(ToolCall("say", {"word": w}) for w in ("cloud", "dune"))))
    assert [r.content for r in step.turn.results] == ["cloud", "dune"]
    assert [m.tool_call_id for m in step.observation.messages] == ["c1", "c2"]
    assert env.judge()[0]


def test_the_turn_limit_cuts_and_is_no_success() -> None:
    env = make("echo")
    env.start(Task("Say dune.", {"word": "dune"}))
    steps = [env.act(Action.call("say", word="dune")) for _ in range(env.max_turns)]
    assert [s.stop for s in steps] == [None] * 3 + [StopReason.TURN_LIMIT]
    assert steps[-1].turn.reward == 0.0  # it never said that it was done
    with pytest.raises(ConfigError, match="reset"):
        env.act(Action("Done."))


def test_a_malformed_call_does_not_end_the_episode() -> None:
    env = make("echo")
    env.start(Task("Say dune.", {"word": "dune"}))
    step = env.act(Action(tool_calls=(ToolCall("", None, "{oops", error="not JSON"),)))
    assert step.stop is None
    assert step.turn.results[0].outcome is Outcome.MALFORMED
    assert env.act(Action.call("say", word="dune")).turn.results[0].ok


def test_wrong_use_says_what_is_right() -> None:
    env = make("echo")
    with pytest.raises(ConfigError, match=r"call reset\(\)"):
        _ = env.episode.task
    with pytest.raises(ConfigError, match=r"call reset\(\)"):
        env.act(Action("hi"))
    with pytest.raises(UnknownName, match="Did you mean 'faults'"):
        env.reset(options={"fault": "count=1"})
    env.reset(seed=1)
    with pytest.raises(ConfigError, match="got str"):
        env.step("say")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ConfigError, match="a split is one of"):
        task_set(env, "dev", 1)  # type: ignore[arg-type]  # what is tested
    assert env.reset(options={"split": "test"})[0] != env.reset(options={"split": "train"})[0]


# ---- orders ----------------------------------------------------------------------------------------------------------


def by_kind(env: ToolEnv, kind: str, level: int = 1) -> Task:
    return next(t for t in task_set(env, "train", 200, levels=[level]) if t.kind == kind)


def call(env: ToolEnv, name: str, /, **arguments: Any) -> ToolResult:
    return env.act(Action.call(name, **arguments)).turn.results[0]


@pytest.fixture
def refund() -> tuple[ToolEnv, dict[str, Any]]:
    """An order desk where one refund is asked for, and the order in question."""
    env = make("orders")
    env.start(by_kind(env, "refund"))
    goal = env.episode.task.data["goals"][0]
    return env, call(env, "find_order", customer=goal["name"], item=goal["item"]).value


def test_a_refund_made_twice_fails(refund: tuple[ToolEnv, dict[str, Any]]) -> None:
    env, order = refund
    assert call(env, "refund", payment_id=order["payment_id"]).ok
    assert env.judge()[0]
    assert call(env, "refund", payment_id=order["payment_id"]).ok  # nothing stops it: the agent has to know
    assert not env.judge()[0]


def test_the_second_route_counts_too(refund: tuple[ToolEnv, dict[str, Any]]) -> None:
    env, order = refund
    assert call(env, "set_status", order_id=order["order_id"], status="refunded").ok
    assert env.judge()[0]
    assert call(env, "get_order", order_id=order["order_id"]).value["status"] == "refunded"


def test_another_write_fails(refund: tuple[ToolEnv, dict[str, Any]]) -> None:
    env, order = refund
    assert call(env, "refund", payment_id=order["payment_id"]).ok
    others = []
    for name in ("Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gus", "Hana", "Ivan", "June", "Kofi", "Lena"):
        found = call(env, "find_customer", name_or_email=name)
        if found.ok:
            others += call(env, "list_orders", customer_id=found.value["customer_id"]).value
    for other in others:
        if call(env, "cancel_order", order_id=other["order_id"]).ok:
            break
    assert not env.judge()[0]


def test_what_the_desk_refuses_is_typed(refund: tuple[ToolEnv, dict[str, Any]]) -> None:
    env, order = refund
    assert call(env, "cancel_order", order_id=order["order_id"]).outcome is Outcome.CONFLICT  # it has shipped
    assert call(env, "refund", payment_id="p0").outcome is Outcome.NOT_FOUND
    assert call(env, "set_status", order_id=order["order_id"], status="lost").outcome is Outcome.CONFLICT
    hostile = "x' OR '1'='1'; DROP TABLE orders; --"
    assert call(env, "find_customer", name_or_email=hostile).outcome is Outcome.NOT_FOUND
    assert call(env, "get_order", order_id=hostile).outcome is Outcome.NOT_FOUND
    play(env)
    assert env.judge()[0]


def test_an_id_stands_after_what_it_belongs_to() -> None:
    looked = 0
    for name in ("orders", "calendar"):
        env = make(name)
        for task in task_set(env, "train", 40):
            env.start(task)
            for turn in play(env):
                for result in turn.results:
                    records = result.value if isinstance(result.value, list) else [result.value]
                    for record in records:
                        if isinstance(record, dict) and "status" not in record:
                            assert not next(iter(record)).endswith("_id")
                            looked += 1
                    assert " " not in result.content.split('"')[0]
    assert looked > 100


# ---- calendar --------------------------------------------------------------------------------------------------------


@pytest.fixture
def booking() -> tuple[ToolEnv, str]:
    """A calendar where one slot is to be booked, and that slot."""
    env = make("calendar")
    env.start(by_kind(env, "book", level=2))
    goal = env.episode.task.data["goals"][0]
    person = call(env, "find_person", name_or_email=goal["name"]).value["person_id"]
    slots = call(env, "free_slots", person_id=person, day=goal["day"]).value
    return env, next(s["slot_id"] for s in slots if s["time"] == goal["time"])


def test_a_slot_booked_twice_fails(booking: tuple[ToolEnv, str]) -> None:
    env, slot = booking
    assert call(env, "book", slot_id=slot).ok
    assert env.judge()[0]
    look = env.fault_hooks.look(env, "book", {"slot_id": slot})
    assert look is not None
    assert slot not in call(env, look[0], **look[1]).content  # whoever looks, sees that it is taken
    assert call(env, "edit", id=slot, change="booked").ok
    assert not env.judge()[0]


def test_the_calendar_by_its_second_route(booking: tuple[ToolEnv, str]) -> None:
    env, slot = booking
    assert call(env, "edit", id=slot, change="cancelled").outcome is Outcome.CONFLICT
    assert call(env, "edit", id=slot, change="booked").ok
    assert env.judge()[0]


def test_the_held_out_world_is_another_one() -> None:
    orders, calendar = make("orders"), make("calendar")
    shared = set(orders.toolbox.tools) & set(calendar.toolbox.tools)
    assert shared == {"log_in", "wait"}
    size = [
        len(env.system)
        + sum(len(s.name) + len(s.description) + sum(map(len, s.parameters["properties"])) for s in specs)
        for env in (orders, calendar)
        for specs in [env.toolbox.specs]
    ]
    assert size[1] <= 1.15 * size[0]  # as much to read


# ---- the checker -----------------------------------------------------------------------------------------------------

DOC = "{}\n\n## Tools\n\n## Rewards\n\n## Episode End\n\n## Version History\n"


class Good(ToolEnv):
    __doc__ = DOC.format("Open a door by its number.")

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        first = {"train": 0, "validation": 100, "test": 200}[split]
        for number in range(first, first + 100):
            yield Task(f"Open door {number}.", {"door": number}, seed=rng.randrange(99))

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"open": []}

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return "open"

    def success(self, task: Task) -> bool:
        return bool(self.state["open"] == [task.data["door"]])

    def solve(self, task: Task) -> Any:
        if not self.success(task):
            yield "open_door", {"door": task.data["door"]}


class NoHeadings(Good):
    """Open a door."""


class NothingDone(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        return True


class SharedTasks(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        return super().tasks("train", random.Random(0))


class SeedsAlone(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task("Open door 1.", {"door": 1}, seed=rng.randrange(10**9)) for _ in range(20))


class EmptySplit(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from super().tasks(split, rng) if split == "train" else ()


class SameIds(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task(t.instruction, t.data, id=split) for t in super().tasks(split, rng))


class Tuples(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task(t.instruction, {**t.data, "at": (1, 2)}) for t in super().tasks(split, rng))


class LowLevel(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task(t.instruction, t.data, level=0) for t in super().tasks(split, rng))


class OtherTasks(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        return super().tasks(split, random.Random())


class GlobalRandom(Good):
    __doc__ = DOC

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return f"open {random.random()}"


class OutsideState(Good):
    __doc__ = DOC

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.count = 0

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        self.count += 1
        return f"door {self.count}"

    @tool
    def knock(self) -> str:
        """Knock."""
        self.count += 1
        return f"{self.count}"


class Shallow(dict[str, Any]):
    def __deepcopy__(self, memo: Any) -> Shallow:
        return Shallow(self)


class ShallowCopy(Good):
    __doc__ = DOC

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.state = Shallow(self.state)


class Crashes(Good):
    __doc__ = DOC

    @tool
    def look_at(self, door: str) -> str:
        """Look at a door."""
        return {"1": "shut"}[door]


class NoTools(Good):
    __doc__ = DOC
    open_door = None  # type: ignore[assignment]  # what is tested


class WrongNames(Good):
    __doc__ = DOC

    @tool(alternative="kick", ids=["number"])
    def push(self, door: int) -> str:
        """Push a door."""
        return "pushed"


class ReadsOnly(Good):
    __doc__ = DOC

    @tool
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return "open"


class NoExpert(Good):
    __doc__ = DOC
    solve = ToolEnv.solve


class WeakExpert(Good):
    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        yield "open_door", {"door": task.data["door"] + 1}


class ForgetfulExpert(Good):
    """Opens the door twice when it is started again."""

    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        yield "open_door", {"door": task.data["door"]}


class NoSuccess(Good):
    __doc__ = DOC
    success = ToolEnv.success  # type: ignore[assignment]  # what is tested


class FailingSuccess(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        return bool(self.state["opened"])


class WrongRewards(Good):
    __doc__ = DOC

    reward_terms = {  # noqa: RUF012  # never changed
        "success": lambda ended: -float(ended.success),
        "politeness": lambda ended: 1.0,
    }


class NanReward(Good):
    __doc__ = DOC

    reward_terms = {"success": lambda ended: float("nan")}  # noqa: RUF012  # never changed


class BigReward(Good):
    __doc__ = DOC

    reward_terms = {  # noqa: RUF012  # never changed
        "success": lambda ended: 10.0 * ended.success - 5 * (not ended.success)
    }


class Untyped(Good):
    __doc__ = DOC

    @tool
    def push(self, door):  # type: ignore[no-untyped-def]  # what is tested
        """Push a door."""
        return "pushed"


class Undocumented(Good):
    __doc__ = DOC

    @tool
    def push(self, door: int) -> str:
        return "pushed"


def test_a_good_environment_passes() -> None:
    assert check_env(Good) == []


@pytest.mark.parametrize(
    ("cls", "severity", "what", "fix"),
    [
        (NoHeadings, "warning", "lacks ## Tools, ## Rewards", "headings"),
        (NothingDone, "error", "24 of 24 tasks .* succeed when nothing is done", "let success"),
        (SharedTasks, "error", "'train' and 'validation' share a task", "split by"),
        (SeedsAlone, "warning", "differ in their seed alone", "split by"),
        (EmptySplit, "error", "'test' has no tasks", "train, validation, test"),
        (SameIds, "error", "two tasks have the id 'train'", "leave id empty"),
        (Tuples, "error", "through JSON", "no tuples"),
        (LowLevel, "error", "level below 1", "from 1"),
        (OtherTasks, "error", "other tasks for the same rng", "rng alone"),
        (GlobalRandom, "error", "does not go the same way twice: open_door gave", "global random"),
        (OutsideState, "error", "restored in the same environment goes another way", r"self\.state"),
        (ShallowCopy, "error", "restored in the same environment", "__deepcopy__"),
        (Crashes, "error", "'look_at' raised KeyError", "ToolError"),
        (NoTools, "error", "has no tools", "@tool"),
        (WrongNames, "error", "alternative 'kick', which does not exist", "open_door, push"),
        (WrongNames, "error", "the id 'number', which is none", "door"),
        (ReadsOnly, "warning", "no tool changes the world", "effect=True"),
        (NoExpert, "warning", "no expert", "solve"),
        (WeakExpert, "error", "clean, the expert fails 24 of 24 tasks", "let solve"),
        (ForgetfulExpert, "warning", "under the fault timeout_landed, the expert fails", "look whether it happened"),
        (NoSuccess, "error", "defines no success", "README"),
        (FailingSuccess, "error", r"KeyError: 'opened' \(test_envs.py, line \d+, in success\)", "fix that line"),
        (WrongRewards, "error", "a failure is rewarded with 1", "full reward"),
        (NanReward, "error", "reward part 'success' is nan", "finite"),
        (BigReward, "warning", "reward is -5", "between -1 and 1"),
        (Untyped, "error", "'door' has no type hint", "write `door: str`"),
        (Undocumented, "error", "'push' has no docstring", "one line"),
        (ToolEnv, "error", "has no tools", "@tool"),
    ],
)
def test_each_fault_of_an_author_is_found(cls: type[ToolEnv], severity: str, what: str, fix: str) -> None:
    findings = check_env(cls)
    hits = [f for f in findings if re.search(what, f.what)]
    assert hits, findings
    assert hits[0].severity == severity
    assert re.search(fix, hits[0].how_to_fix), hits[0]
    assert findings == sorted(findings, key=lambda f: f.severity)
    assert len(findings) <= 6, findings  # one mistake is not told in ten ways


def test_a_finding_is_plain_data() -> None:
    assert Finding("error", "a", "b") == Finding("error", "a", "b")
    with pytest.raises(AttributeError):
        Finding("error", "a", "b").what = "c"  # type: ignore[misc]  # what is tested


# ---- names -----------------------------------------------------------------------------------------------------------

MINE = """
import sparring
from sparring import Task, ToolEnv, register, tool


class Shelf(ToolEnv):
    "Put a thing on the shelf."

    def tasks(self, split, rng):
        yield Task(f"Put a {split} on the shelf.", {"thing": split})

    def setup(self, task, rng):
        self.state = []

    @tool(effect=True)
    def put(self, thing: str) -> str:
        "Put a thing."
        self.state.append(thing)
        return "there"

    def success(self, task):
        return self.state == [task.data["thing"]]


class Broken(Shelf):
    @tool
    def find(self, thing):
        "Find a thing."


register("mine/Shelf-v0", Shelf)
"""


@pytest.mark.usefixtures("clean_imports")
def test_a_class_in_a_file_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_shelf.py").write_text(MINE)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "my_other_shelf.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    for name in (
        "my_shelf:Shelf",
        "my_shelf.py:Shelf",
        "./my_shelf.py:Shelf",
        "mine/Shelf-v0",
        "inner/my_other_shelf.py:Shelf",
        f"{tmp_path / 'inner' / 'my_other_shelf.py'}:Shelf",
    ):
        env = make(name)
        env.reset(seed=0, options={"split": "test"})
        assert call(env, "put", thing="test").ok
        assert env.judge()[0]
    with pytest.raises(EnvError, match="'thing' has no type hint"):
        make("my_shelf:Broken")
    assert "'thing' has no type hint" in check_env("my_shelf:Broken")[0].what
    with pytest.raises(UnknownName, match="Did you mean 'Shelf'"):
        make("my_shelf:Shelv")
    with pytest.raises(UnknownName, match="Did you mean 'my_shelf'"):
        make("my_shelv:Shelf")
    with pytest.raises(EnvError, match="not a class of environments"):
        make("my_shelf:Task", instruction="x")
    with pytest.raises(EnvError, match="cannot be made with"):
        make("my_shelf:Shelf", size=3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("order", "orders"), ("calender", "calendar"), ("sparring/Order-v0", "sparring/Orders-v0")],
)
def test_did_you_mean(name: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean '{meant}'"):
        make(name)


def test_registering() -> None:
    with pytest.raises(ConfigError, match="mine/Library-v0"):
        register("library", Good)
    register("mine/Good-v0", Good, short="good")
    assert registered()["mine/Good-v0"] == "good"
    assert isinstance(make("good"), Good)
    assert isinstance(gymnasium.make("mine/Good-v0").unwrapped, Good)


def test_a_tools_failure_is_an_observation() -> None:
    class Fails(Good):
        @tool
        def find(self, name: str) -> str:
            """Find a name."""
            raise NotFound(f"no {name}")

    env = Fails()
    env.reset(seed=0)
    result = call(env, "find", name="x")
    assert result.outcome is Outcome.NOT_FOUND
    assert result.content == '{"error":"not_found","message":"no x"}'
