"""Faults: for each kind the expert recovers and wrong strategies do not, and every plan replays identically."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.envs import FaultHooks, ToolEnv, expert, make, play, task_set
from sparring.tools import FAULTS, Curriculum, FaultPlan, tool
from sparring.tools.faults import Target
from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    Outcome,
    Task,
    ToolResult,
    Turn,
    UnknownName,
)

WORLDS = ("orders", "calendar")
KINDS = tuple(FAULTS)
NEEDS_AN_ANSWER = {
    kind for kind, fault in FAULTS.items() if fault.effect == "applied" and kind != "timeout_landed"
}  # these strike calls that return enough to be changed, at or after an index that is drawn
Strategy = Callable[[ToolEnv], Generator[Action, ToolResult, None]]


def blind_retry(env: ToolEnv) -> Generator[Action, ToolResult, None]:
    """The expert's course; a failed call is repeated as it is, three times, and then all is called done."""
    course = env.solve(env.episode.task)
    assert course is not None
    wanted: Any = next(course)
    while not isinstance(wanted, str):
        for _ in range(4):
            result = yield Action.call(wanted[0], **wanted[1])
            if result.ok:
                break
        else:
            break
        wanted = after(course, result)
    yield Action("Done.")


def after(course: Any, result: ToolResult) -> Any:
    """What comes next; the course knows nothing of failures, and ends where it cannot use a result."""
    try:
        return course.send(result)
    except (StopIteration, LookupError, TypeError):
        return "Done."


def give_up(env: ToolEnv) -> Generator[Action, ToolResult, None]:
    """The expert's course up to the first failure."""
    course = env.solve(env.episode.task)
    assert course is not None
    wanted: Any = next(course)
    while not isinstance(wanted, str):
        result = yield Action.call(wanted[0], **wanted[1])
        if not result.ok:
            yield Action("Cannot do it.")
            return
        wanted = after(course, result)
    yield Action("Done.")


def follow(env: ToolEnv, strategy: Strategy) -> list[Turn]:
    turns = []
    actions = strategy(env)
    action = next(actions)
    while True:
        step = env.act(action)
        turns.append(step.turn)
        if step.stop is not None:
            return turns
        action = actions.send(step.turn.results[0])


def rate(env: ToolEnv, tasks: list[Task], plan: FaultPlan, strategy: Strategy | None = None) -> float:
    """Share of successes among the episodes that a fault struck."""
    wins = []
    for task in tasks:
        env.start(task, plan)
        if strategy is None:
            play(env)
        else:
            follow(env, strategy)
        if env.episode.faults_hit or not str(plan):
            wins.append(env.judge()[0])
    least = 0.9 if not set(plan.kinds) & NEEDS_AN_ANSWER else 0.4
    assert len(wins) > least * len(tasks), f"{plan} struck {len(wins)} of {len(tasks)} episodes"
    return sum(wins) / len(wins)


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> tuple[ToolEnv, list[Task]]:
    env = make(request.param)
    return env, task_set(env, "train", 80, seed=5)


# ---- recovery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_recovers(world: tuple[ToolEnv, list[Task]], kind: str) -> None:
    assert rate(*world, FaultPlan((kind,), 1)) >= 0.95


@pytest.mark.parametrize("plan", ["", "count=1", "count=2", "count=3", "unavailable:0.1,stale_id:0.1,tool_removed:0.1"])
def test_the_expert_recovers_from_several(world: tuple[ToolEnv, list[Task]], plan: str) -> None:
    env, tasks = world
    wins = 0
    for task in tasks:
        env.start(task, FaultPlan.parse(plan))
        play(env)
        wins += env.judge()[0]
    assert wins / len(tasks) >= (0.95 if plan else 0.99)


HARM = {  # (most successes of blind retrying, of giving up); None: not a wrong move for this kind
    "tool_removed": (0.1, 0.1),
    "forbidden": (0.1, 0.1),
    "quota_exhausted": (0.1, 0.1),
    "session_expired": (0.1, 0.1),
    "impossible": (0.1, None),
    "rate_limited": (0.1, 0.1),
    "unavailable": (None, 0.1),
    "flapping": (None, 0.1),
    "internal_error": (0.95, 0.1),  # where it is for good, retrying does not help
    "schema_drift": (0.1, 0.1),
    "stale_id": (0.1, 0.1),
    "timeout_lost": (None, 0.1),
    "timeout_landed": (0.6, 0.8),  # a refused cancellation is no duplicate, and a last call may have done it all
    "empty_result": (0.1, 0.1),
    "partial_page": (0.1, 0.1),
    "truncated_output": (0.1, 0.1),
    "malformed_output": (0.1, 0.1),
    "silent_wrong_value": (0.1, 0.1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_strategies_do_worse(world: tuple[ToolEnv, list[Task]], kind: str) -> None:
    plan = FaultPlan((kind,), 1)
    for strategy, most in zip((blind_retry, give_up), HARM[kind], strict=True):
        success = rate(*world, plan, strategy)
        if most is None:
            assert success >= 0.95, f"{strategy.__name__}: {success}"
        else:
            assert success <= most, f"{strategy.__name__}: {success}"


def test_without_faults_the_wrong_strategies_are_right(world: tuple[ToolEnv, list[Task]]) -> None:
    for strategy in (blind_retry, give_up):
        assert rate(*world, FaultPlan(), strategy) == 1.0


def test_every_kind_says_what_recovers() -> None:
    assert set(HARM) == set(FAULTS)
    assert all(fault.kind == kind and fault.recovers and fault.wrong for kind, fault in FAULTS.items())


# ---- what each kind does ---------------------------------------------------------------------------------------------


def rotate_id(env: ToolEnv, tool: str, arguments: dict[str, Any]) -> bool:
    env.state["id"] = "b"
    return True


class Desk(ToolEnv):
    """A world of one counter."""

    fault_hooks = FaultHooks(rotate_id=rotate_id)

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {"n": 0, "id": "a"}

    def success(self, task: Task) -> bool:
        return bool(self.state["n"] == 1)

    @tool(effect=True, alternative="increase", ids=["id"])
    def add(self, id: str) -> int:
        """Add one."""
        self.state["n"] += 1
        return int(self.state["n"])

    @tool(effect=True, alternative="add")
    def increase(self) -> int:
        """Add one, the other way."""
        self.state["n"] += 1
        return int(self.state["n"])

    @tool(logs_in=True)
    def enter(self) -> str:
        """Log in."""
        return "in"


def desk(plan: str) -> Callable[..., ToolResult]:
    """Starts a desk; gives a function that calls a tool."""
    env = Desk()
    env.start(Task("Add one.", level=1), FaultPlan.parse(plan))

    def call(name: str, /, **arguments: Any) -> ToolResult:
        return env.act(Action.call(name, **arguments)).turn.results[0]

    call.env = env  # type: ignore[attr-defined]
    return call


def outcomes(call: Callable[..., ToolResult], *names: str) -> list[Outcome]:
    return [call(name, **({"id": "a"} if name == "add" else {})).outcome for name in names]


def test_unavailable_passes_after_one_or_two_calls() -> None:
    seen = set()
    for seed in range(20):
        call = desk(f"count=1:unavailable@{seed}")
        got = outcomes(call, *["increase"] * 5)
        seen.add(got.count(Outcome.UNAVAILABLE))
        assert got[-1] is Outcome.OK
    assert seen == {1, 2}


def test_a_session_stays_expired_until_the_login() -> None:
    call = desk("count=1:session_expired")
    got = outcomes(call, "add", "add", "add", "enter", "add")
    assert got[-2:] == [Outcome.OK, Outcome.OK]
    assert Outcome.UNAUTHENTICATED in got
    assert call("enter").fault is None


def test_one_of_two_routes_is_never_removed() -> None:
    call = desk("tool_removed:1.0")
    first = call("add", id="a")
    assert first.outcome is Outcome.GONE
    assert "increase" in first.content
    assert outcomes(call, "increase", "add") == [Outcome.OK, Outcome.GONE]


def test_a_stale_id_changes_the_world_once() -> None:
    call = desk("count=1:stale_id@3")
    while (result := call("add", id="a")).ok:
        pass
    assert (result.outcome, result.cause, result.fault) == (Outcome.CONFLICT, Cause.INJECTED, "stale_id")
    assert call.env.state["id"] == "b"  # type: ignore[attr-defined]
    assert call("add", id="b").ok


def test_a_timeout_lands() -> None:
    call = desk("timeout_landed:1.0")
    result = call("add", id="a")
    assert (result.outcome, result.took_effect, result.value) == (Outcome.TIMEOUT, True, None)
    assert call.env.state["n"] == 1  # type: ignore[attr-defined]
    assert call("enter").ok


def test_a_timeout_waits_for_a_call_that_works() -> None:
    env = make("orders")
    task = next(t for t in task_set(env, "train", 50, levels=[1]) if t.kind == "cancel")
    for plan in ("count=1:timeout_landed", "timeout_landed:1.0"):
        env.start(task, FaultPlan.parse(plan))
        for _ in range(3):
            result = env.act(Action.call("cancel_order", order_id="o0")).turn.results[0]
            assert (result.outcome, result.cause, result.fault) == (Outcome.NOT_FOUND, Cause.TOOL, None)
        assert not env.episode.faults_hit
        play(env)
        assert env.episode.faults_hit == ("timeout_landed",)
        assert env.judge()[0]


def test_what_is_impossible_stays_so_and_honesty_succeeds() -> None:
    for said, success in (("Cannot do it.", True), ("Done.", False)):
        env = Desk()
        env.start(Task("Add one."), FaultPlan.parse("impossible:1"))
        for action in (Action.call("increase"), Action.call("enter"), Action.call("add", id="a")):
            result = env.act(action).turn.results[0]
            assert result.ok == (result.tool == "enter")
        step = env.act(Action(said))
        assert env.judge() == (success, {"success": float(success)})
        assert step.turn.reward == float(success)


def test_a_rate_limit_passes_by_waiting_and_not_by_asking() -> None:
    class Busy(Desk):
        @tool(waits=True)
        def wait(self) -> str:
            """Wait."""
            return "ok"

    env = Busy()
    env.start(Task("Add one."), FaultPlan.parse("count=1:rate_limited"))
    ask, wait = Action.call("increase"), Action.call("wait")
    asked = [env.act(ask).turn.results[0] for _ in range(6)]
    assert {result.outcome for result in asked} == {Outcome.RATE_LIMITED}
    assert all(result.retry_after in (2, 3) for result in asked)
    assert env.act(wait).turn.results[0].ok
    assert env.act(ask).turn.results[0].ok


def test_a_quota_does_not_come_back() -> None:
    call = desk("quota_exhausted:1.0")
    results = [call("add", id="a") for _ in range(20)]
    assert {(r.outcome, r.retry_after) for r in results} == {(Outcome.RATE_LIMITED, None)}
    assert call("increase").ok


def test_a_renamed_parameter_is_refused_under_its_old_name_for_good() -> None:
    call = desk("count=1:schema_drift")
    while (result := call("add", id="a")).ok:
        pass
    assert (result.outcome, result.cause, result.fault) == (
        Outcome.INVALID_ARGUMENTS,
        Cause.INJECTED,
        "schema_drift",
    )
    assert "id is now called id_text" in result.content
    assert call("add", id="a").fault == "schema_drift"
    assert call("add", id_text="a").ok
    assert call("add", id_text=7).cause is Cause.POLICY  # checked under its new name as under the old one
    assert call.env.episode.faults_hit == ("schema_drift",)  # type: ignore[attr-defined]


class Shelf(ToolEnv):
    """A world that is only read."""

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {"books": ["Dune", "Emma", "Ulysses"], "loans": []}

    @tool
    def books(self) -> list[str]:
        """List the books."""
        return list(self.state["books"])

    @tool
    def loans(self) -> list[str]:
        """List the loans: none."""
        return list(self.state["loans"])


def shelf(kind: str) -> Callable[[str], ToolResult]:
    env = Shelf()
    env.start(Task("Read."), FaultPlan.parse(f"count=1:{kind}@2"))
    return lambda name: env.act(Action.call(name)).turn.results[0]


def test_an_empty_answer_is_shown_once() -> None:
    call = shelf("empty_result")
    assert call("loans").fault is None  # truly empty: nothing to bite on
    results = [call("books") for _ in range(4)]
    assert [r.value for r in results if r.fault] == [[]]
    assert {str(r.value) for r in results if not r.fault} == {"['Dune', 'Emma', 'Ulysses']"}


def test_the_rest_of_a_page() -> None:
    call = shelf("partial_page")
    results = [call("books") for _ in range(4)]
    first = next(i for i, r in enumerate(results) if r.fault)
    assert [r.value for r in results[first : first + 2]] == [
        {"page": ["Dune"], "more": "call again for the rest"},
        {"page": ["Emma", "Ulysses"]},
    ]
    assert results[first + 2].value == ["Dune", "Emma", "Ulysses"]


@pytest.mark.parametrize("kind", ["truncated_output", "malformed_output"])
def test_a_broken_answer_is_broken_once(kind: str) -> None:
    call = shelf(kind)
    whole = '["Dune","Emma","Ulysses"]'
    results = [call("books") for _ in range(4)]
    struck = [r for r in results if r.fault]
    assert len(struck) == 1
    assert struck[0].ok
    assert struck[0].value is None
    assert struck[0].content != whole
    assert all(r.content == whole for r in results if not r.fault)


def test_a_wrong_value_can_be_told_from_what_was_asked() -> None:
    env = make("orders")
    seen = 0
    for task in task_set(env, "train", 60, levels=[1]):
        env.start(task, FaultPlan.parse("count=1:silent_wrong_value"))
        goal = task.data["goals"][0]
        for _ in range(3):
            result = env.act(Action.call("find_order", customer=goal["name"], item=goal["item"])).turn.results[0]
            assert (result.value["item"] == goal["item"]) == (result.fault is None)
            seen += result.fault is not None
    assert seen > 40


def test_what_cannot_strike_is_not_drawn() -> None:
    env = Shelf()
    env.start(Task("Read."), FaultPlan(count=2))
    assert env.episode.faults is not None
    drawn = {kind for kind, _ in env.episode.faults.pending}
    assert len(drawn) == 2
    assert not drawn & {"timeout_lost", "session_expired", "stale_id", "rate_limited", "silent_wrong_value"}
    env.start(Task("Read."), FaultPlan(("session_expired",), 2))
    assert env.episode.faults.pending == []


def test_a_curriculum() -> None:
    course = Curriculum(((0.0, "count=1:unavailable"), (0.5, "count=2")))
    assert course.at(0.2, seed=3) == FaultPlan(("unavailable",), 1, (), 3)
    assert course.at(0.5).count == course.at(1.0).count == 2
    for wrong in ((), ((0.1, "count=1"),), ((0.0, "count=1"), (0.7, ""), (0.5, ""))):
        with pytest.raises(ConfigError, match="begin at 0 and ascend"):
            Curriculum(wrong)
    with pytest.raises(UnknownName, match="Did you mean"):
        Curriculum(((0.0, "count=1:unavailible"),))


def test_a_wrong_call_meets_no_fault() -> None:
    call = desk("unavailable:1.0")
    assert outcomes(call, "nothing") == [Outcome.UNKNOWN_TOOL]
    assert call("add", it="a").outcome is Outcome.INVALID_ARGUMENTS
    assert call.env.episode.faults_hit == ()  # type: ignore[attr-defined]


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["count=2@7", "unavailable:0.3,stale_id:0.2,session_expired:0.2@7"])
@pytest.mark.parametrize("strategy", [None, blind_retry])
def test_the_same_plan_replays_identically(world: tuple[ToolEnv, list[Task]], plan: str, strategy: Any) -> None:
    env, tasks = world
    other = type(env)()
    for task in tasks[:20]:
        episodes = []
        for each in (env, other, env):
            each.start(task, FaultPlan.parse(plan))
            turns = play(each) if strategy is None else follow(each, strategy)
            episodes.append((turns, each.episode.faults_hit, each.judge()))
        assert episodes[0] == episodes[1] == episodes[2]


def test_another_seed_brings_other_faults(world: tuple[ToolEnv, list[Task]]) -> None:
    env, tasks = world
    plans = [
        [FaultPlan(count=2, seed=seed).begin(task, env.toolbox.tools, env.toolbox.world).pending for task in tasks]
        for seed in (0, 0, 1)
    ]
    assert plans[0] == plans[1] != plans[2]
    assert len({tuple(pending) for pending in plans[0]}) > len(tasks) / 3


def test_common_random_numbers() -> None:
    """Whether the nth call of a tool is struck does not depend on what else an agent calls, or when."""
    tasks = [Task("Add one.", {"i": i}) for i in range(30)]

    def struck(order: list[str], task: Task) -> dict[str, list[str | None]]:
        env = Desk()
        env.start(task, FaultPlan.parse("unavailable:0.4"))
        seen: dict[str, list[str | None]] = {}
        for name in order:
            result = env.act(Action.call(name)).turn.results[0]
            seen.setdefault(name, []).append(result.fault)
        return seen

    for task in tasks:
        assert struck(["increase", "enter"] * 4, task) == struck(["enter"] * 4 + ["increase"] * 4, task)
    assert len({str(struck(["increase"] * 6, task)) for task in tasks}) > 8


def test_rates_are_what_they_say() -> None:
    plan = FaultPlan.parse("timeout_landed:0.25")
    hits = 0
    for i in range(400):
        env = Desk()
        env.start(Task("Add one.", {"i": i}), plan)
        for _ in range(4):
            env.act(Action.call("increase"))
        hits += len(env.episode.faults_hit)
    assert hits / 1600 == pytest.approx(0.25, abs=0.04)


def test_a_count_is_what_it_says(world: tuple[ToolEnv, list[Task]]) -> None:
    env, tasks = world
    hard = [task for task in tasks if task.level > 1]
    for count in (1, 2, 3):
        hit = []
        for task in hard:
            env.start(task, FaultPlan(count=count))
            play(env)
            hit.append(len(env.episode.faults_hit))
            assert len(set(env.episode.faults_hit)) == len(env.episode.faults_hit)  # another kind each time
        assert sum(hit) / len(hit) == pytest.approx(count, rel=0.1)
        assert max(hit) == count


names = st.from_regex(r"[A-Za-z_][\w./-]{0,8}", fullmatch=True).filter(str.isascii)
entries = st.builds(
    lambda kind, tools, first, more: str(Target(kind, tuple(tools), first, None if more is None else first + more)),
    st.sampled_from(KINDS),
    st.lists(names, max_size=3),
    st.integers(1, 5),
    st.none() | st.integers(0, 3),
) | st.sampled_from(KINDS)
plans = st.builds(
    lambda kinds, count, seed: FaultPlan(tuple(kinds), count, (), seed),
    st.lists(entries, min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(-5, 2**40),
) | st.builds(
    lambda rates, seed: FaultPlan(rates=tuple(rates.items()), seed=seed),
    st.dictionaries(entries, st.floats(0, 1), min_size=1, max_size=4),
    st.integers(0, 99),
)


@settings(max_examples=80, deadline=None)
@given(plans)
def test_the_line_of_a_plan_is_the_plan(plan: FaultPlan) -> None:
    line = str(plan)
    assert str(FaultPlan.parse(line)) == line
    if line:
        assert FaultPlan.parse(line) == plan
        assert FaultPlan.parse(f"  {line} ") == plan


def test_lines() -> None:
    assert FaultPlan.parse("") == FaultPlan()
    solvable = "unavailable,session_expired"
    assert str(FaultPlan.parse("count=1")).startswith("count=1:")  # the kinds are spelt out
    assert FaultPlan.parse(str(FaultPlan.parse("count=1"))) == FaultPlan(count=1)
    assert str(FaultPlan.parse(f"count=1:{solvable}")) == f"count=1:{solvable}@0"
    assert FaultPlan.parse("count=2: unavailable , stale_id @4").kinds == ("unavailable", "stale_id")
    assert FaultPlan.parse("unavailable:0.2@9").seed == 9
    assert "impossible" not in FaultPlan.parse("count=1").kinds  # only on demand


@pytest.mark.parametrize(
    "line",
    ["count=x", "count=", "count=1@x", "count=1.5", "unavailable", "unavailable:often", "unavailable:2",
     "unavailable:-1", "unavailable:nan", "unavailable:0.1:0.2", "count=-1", "nonsense", "count=1:unavailable@1@2",
     "unavailable@refund", "unavailable@:0.1", "unavailable@7:0.1", "unavailable#0:0.1", "unavailable#4-2:0.1",
     "unavailable#x:0.1", "count=1000000000", "count=1:unavailable#", "unavailable@a b:0.1"],
)  # fmt: skip
def test_lines_that_cannot_be_meant(line: str) -> None:
    with pytest.raises((ConfigError, UnknownName)):
        FaultPlan.parse(line)


@pytest.mark.parametrize("line", ["count=1:unavailible", "unavailible:0.2"])
def test_did_you_mean(line: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown fault 'unavailible'\. Did you mean 'unavailable'\?"):
        FaultPlan.parse(line)


def test_a_plan_has_a_count_or_rates() -> None:
    with pytest.raises(ConfigError, match="not both"):
        FaultPlan(count=1, rates=(("unavailable", 0.1),))
    with pytest.raises(ConfigError, match="two rates"):
        FaultPlan.parse("unavailable@a+b:0.1,unavailable@b+a:0.2")
    with pytest.raises(ConfigError, match="at least one kind"):
        FaultPlan((), 1)


# ---- narrowed to tools and calls ------------------------------------------------------------------------------------


def test_a_fault_on_one_tool_strikes_no_other(world: tuple[ToolEnv, list[Task]]) -> None:
    env, tasks = world
    writers = [t.name for t in env.toolbox.tools.values() if t.effect]
    struck: set[str] = set()
    plan = FaultPlan(rates=tuple((f"unavailable@{name}", 0.4) for name in writers))
    for task in tasks[:40]:
        env.start(task, plan)
        struck |= {r.tool for turn in play(env) for r in turn.results if r.fault}
    assert struck
    assert struck <= set(writers)


def test_narrowing_changes_no_other_blow() -> None:
    """Common random numbers hold between a plan and the same plan for some of the tools."""
    task = Task("Add one.")

    def struck(plan: str, tool: str) -> list[bool]:
        call = desk(plan)
        return [call(tool).fault is not None for _ in range(12)]

    for seed in range(10):
        plain, narrow = f"unavailable:0.4@{seed}", f"unavailable@increase:0.4@{seed}"
        assert struck(plain, "increase") == struck(narrow, "increase")
        assert not any(struck(narrow, "enter"))
    assert task.id


def test_a_fault_on_some_calls() -> None:
    call = desk("unavailable#3-4:1.0")
    got = [call("increase").fault for _ in range(8)]
    assert got[:2] == [None, None]
    assert got[2] == "unavailable"
    assert got[-2:] == [None, None]
    for seed in range(8):
        call = desk(f"count=1:timeout_landed@increase#2@{seed}")
        assert [call("increase").fault for _ in range(3)] == [None, "timeout_landed", None]


def test_a_counted_fault_on_a_tool_strikes_its_first_call(world: tuple[ToolEnv, list[Task]]) -> None:
    env, tasks = world
    name = {"orders": "find_order", "calendar": "find_person"}[type(env).__name__.lower()]
    seen = 0
    for task in tasks[:40]:
        env.start(task, FaultPlan.parse(f"count=1:unavailable@{name}"))
        results = [r for turn in play(env) for r in turn.results if r.tool == name]
        if results:
            seen += 1
            assert results[0].fault == "unavailable"
    assert seen > 10


def test_a_narrowed_blow_that_missed_is_still_to_come() -> None:
    env = make("orders")
    task = next(t for t in task_set(env, "train", 50, levels=[1]) if t.kind == "cancel")
    env.start(task, FaultPlan.parse("count=1:timeout_landed@cancel_order+set_status"))
    assert env.act(Action.call("cancel_order", order_id="o0")).turn.results[0].fault is None  # failed by itself
    play(env)
    assert env.episode.faults_hit == ("timeout_landed",)


def test_so_many_of_a_kind() -> None:
    call = desk("count=3:timeout_lost,timeout_lost,session_expired@1")
    for _ in range(10):
        call("increase")
        call("enter")
    assert sorted(call.env.episode.faults_hit) == ["session_expired", "timeout_lost", "timeout_lost"]  # type: ignore[attr-defined]


def test_a_tool_that_is_not_there() -> None:
    env = make("orders")
    task = task_set(env, "train", 1)[0]
    with pytest.raises(
        UnknownName, match=r"unknown tool in the fault plan 'cancel_orders'\. Did you mean 'cancel_order'"
    ):
        env.start(task, FaultPlan.parse("unavailable@cancel_orders:0.2"))
    with pytest.raises(
        ConfigError, match="timeout_lost cannot strike find_order here; it can strike cancel_order, ref"
    ):
        env.start(task, FaultPlan.parse("timeout_lost@find_order:0.2"))
    with pytest.raises(ConfigError, match="stale_id cannot strike books here; it can strike no tool"):
        Shelf().start(task, FaultPlan.parse("count=1:stale_id@books"))


def test_what_a_kind_says_it_suits_is_what_it_strikes(world: tuple[ToolEnv, list[Task]]) -> None:
    """`suits` is asked before anything strikes; it must agree with `strike`."""
    env, tasks = world
    for kind, fault in FAULTS.items():
        able = {t.name for t in env.toolbox.tools.values() if fault.suits(t)}
        struck = set()
        for task in tasks[:40]:
            env.start(task, FaultPlan((kind,), 1))
            actions = expert(env)
            action = next(actions)
            while not env.episode.faults_hit and action.tool_calls:
                result = env.act(action).turn.results[0]
                struck |= {result.tool} if env.episode.faults_hit else set()
                action = actions.send(result)
        assert struck, kind
        assert struck <= able, kind


# ---- files -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(plans)
def test_a_plan_as_a_file_is_the_plan(plan: FaultPlan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.yaml")
        path.write_text(plan.to_yaml())
        assert FaultPlan.load(path) == plan
        assert FaultPlan.parse(str(path)) == plan
        assert FaultPlan.parse(f"{path}@77").seed == 77
        as_json = Path(folder, "plan.JSON")
        as_json.write_bytes(orjson.dumps(plan.to_dict()))
        assert FaultPlan.parse(str(as_json)) == plan
        assert FaultPlan.parse(str(FaultPlan.load(path))) == (plan if str(plan) else FaultPlan())


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "plan.yaml").write_text(text)
        return "plan.yaml"

    return write


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("faults: []", ""),
        ("count=2:unavailable,stale_id@7", "count=2:unavailable,stale_id@7"),
        ("count: 1\nfaults: [unavailable]", "count=1:unavailable@0"),
        ("{count: 2, seed: 3, faults: [unavailable, {kind: stale_id, tools: refund}]}",
         "count=2:unavailable,stale_id@refund@3"),
        ("faults:\n- {kind: unavailable, rate: 0.2, tools: [refund, cancel_order], calls: 2-5}\n- 'stale_id:0.1'",
         "unavailable@cancel_order+refund#2-5:0.2,stale_id:0.1@0"),
        ("faults: [{kind: unavailable, number: 2}, {kind: stale_id, number: 1, calls: 3-}]",
         "count=3:unavailable,unavailable,stale_id#3-@0"),
        ("faults: [{kind: unavailable, rate: 1e-3, calls: 4}]", "unavailable#4:0.001@0"),
        ("faults: [{kind: unavailable, rate: 1, calls: -4}]", "unavailable#1-4:1.0@0"),
    ],
)  # fmt: skip
def test_files(written: Callable[[str], str], text: str, line: str) -> None:
    plan = FaultPlan.parse(written(text))
    assert str(plan) == line
    assert FaultPlan.load("plan.yaml", seed=4).seed == (plan.seed if "seed" in text or "@7" in text else 4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("faults: [{kind: unavailible, rate: 0.2}]", "unknown fault 'unavailible'. Did you mean 'unavailable'"),
        ("faults: [{kind: unavailable, rates: 0.2}]", "unknown part of a fault 'rates'. Did you mean 'rate'"),
        ("", "the file holds no fault plan"),
        ("seed: 3", "the plan has neither faults nor a count"),
        ("faults: [{kind: unavailable, rate: 0.1, tools: []}]", "names no tool; leave tools away"),
        ("fault: []", "unknown part of a fault plan 'fault'. Did you mean 'faults'"),
        ("faults: {unavailable: 0.2}", "plan.yaml: the faults of a plan are a list"),
        ("faults: [unavailable]", "the fault 'unavailable' has no rate and no number, and the plan no count"),
        ("faults: [{kind: unavailable, rate: often}]", "a number between 0 and 1, got 'often'"),
        ("faults: [{kind: unavailable, rate: true}]", "a number between 0 and 1, got True"),
        ("faults: [{kind: unavailable, rate: 0.1}, {kind: stale_id, number: 2}]", "either numbers or rates"),
        ("faults: [{kind: unavailable, rate: 0.1, tools: [7]}]", "the tools of a fault are names"),
        ("faults: [{kind: unavailable, rate: 0.1, calls: soon}]", "are written 2-5, 2-, -5 or 2, got 'soon'"),
        ("faults: [{kind: unavailable, number: -1}]", "number is 0 to 1000, got -1"),
        ("faults: [{rate: 0.1}]", "a mapping with kind"),
        ("{count: 2, faults: [{kind: unavailable, rate: 0.1}]}", "draws from its faults"),
        ("{count: two}", "count is a whole number, got 'two'"),
        ("{seed: 0.5, faults: []}", "seed is a whole number, got 0.5"),
        ("{seed: 1, seed: 2}", "the key 'seed' is twice"),
        ("0.0: count=1", "read it with Curriculum.load"),
        ("[1, 2]", "a fault plan is a mapping with seed, count, faults"),
        ("a: [", "plan.yaml: no YAML"),
        ("plan.yaml", "cannot read the fault plan 'plan.yaml'"),
        ("!!python/object/apply:os.system [true]", "no YAML"),
        ("[" * 5000, "no YAML"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_meant(written: Callable[[str], str], text: str, error: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=re.escape(error)):
        FaultPlan.parse(written(text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the fault plan .*none\.yaml: No such file"):
        FaultPlan.parse(str(tmp_path / "none.yaml"))


def test_the_seed_of_a_line_goes_before_that_of_the_caller() -> None:
    assert FaultPlan.parse("count=1", seed=5).seed == 5
    assert FaultPlan.parse("count=1@0", seed=5).seed == 0
    assert FaultPlan.parse("unavailable@refund:0.2", seed=5).seed == 5
    assert FaultPlan.parse("count=1:unavailable@refund", seed=5) == FaultPlan(("unavailable@refund",), 1, (), 5)


def test_a_curriculum_as_a_file(written: Callable[[str], str]) -> None:
    text = "0.0: count=1:unavailable\n0.3: {count: 1}\n0.7: {faults: [{kind: unavailable, rate: 0.2, tools: refund}]}\n"
    course = Curriculum.load(written(text))
    assert str(course.at(0.1, seed=3)) == "count=1:unavailable@3"
    assert course.at(0.4) == FaultPlan(count=1)
    assert str(course.at(0.9)) == "unavailable@refund:0.2@0"
    assert Curriculum.load(written(course.to_yaml())) == course
    assert Curriculum.load(written("0: \n0.5: count=2")).at(0.1) == FaultPlan()
    for wrong in ("0.5: count=1", "soon: count=1", "[]", "0: count=1\n0.5: 7", ".nan: count=1"):
        with pytest.raises(ConfigError, match=r"^plan\.yaml: "):
            Curriculum.load(written(wrong))


def test_a_plan_from_a_file_replays_from_its_record(written: Callable[[str], str]) -> None:
    """What a trajectory keeps is the line: the file may change afterwards."""
    plan = FaultPlan.parse(written("{seed: 5, faults: [{kind: unavailable, rate: 0.5, tools: find_order}]}"))
    record = str(plan)
    written("count: 3")
    env = make("orders")
    for task in task_set(env, "train", 10):
        episodes = []
        for each in (plan, FaultPlan.parse(record)):
            env.start(task, each)
            episodes.append(play(env))
        assert episodes[0] == episodes[1]


# ---- whatever is written ---------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        "count=",
        "unavailable",
        "stale_id",
        "refund",
        "@",
        ":",
        ",",
        "#",
        "+",
        "-",
        "2",
        "0.5",
        "-1",
        "1e3",
        " ",
        "\n",
        "nan",
        "é",
        ".yaml",
        "²",
        "1_0",
        "@7",
        "٣",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=9).map("".join) | st.text(max_size=30))
def test_any_line_is_a_plan_or_an_error_that_says_so(line: str) -> None:
    try:
        plan = FaultPlan.parse(line)
    except (ConfigError, UnknownName):
        return
    assert str(FaultPlan.parse(str(plan))) == str(plan)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["unavailable", "refund", "2-5", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["seed", "count", "faults", "kind", "rate", "number", "tools", "calls"])
            | st.integers(0, 2),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
fault_entries = st.fixed_dictionaries(
    {"kind": st.sampled_from(KINDS) | anything},
    optional=dict.fromkeys(("rate", "number", "tools", "calls"), anything),
)
mappings = anything | st.fixed_dictionaries(
    {}, optional={"seed": anything, "count": anything, "faults": st.lists(fault_entries | anything, max_size=3)}
)


@settings(max_examples=200, deadline=None)
@given(mappings)
def test_any_mapping_is_a_plan_or_an_error_that_says_so(data: Any) -> None:
    for read in (FaultPlan.from_dict, Curriculum.from_dict):
        with contextlib.suppress(ConfigError, UnknownName):
            read(data)
    with contextlib.suppress(ConfigError, UnknownName):
        plan = FaultPlan.from_dict(data)
        assert FaultPlan.from_dict(plan.to_dict()) == plan
