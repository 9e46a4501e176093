"""Difficulty knobs: each makes tasks harder as it says, the expert still solves them, and zero changes nothing."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.agents import replay
from sparring.agents.rollouts import EpisodeSpec, rollout
from sparring.agents.scripts import scripted
from sparring.envs import ToolEnv, check_env, make, play, register, task_set
from sparring.envs.episode import Verdict
from sparring.envs.knobs import Knobs, harder
from sparring.tools import FaultPlan, tool
from sparring.trajectories import Action, ConfigError, EnvError, Outcome, StopReason, Task, ToolResult, UnknownName

WORLDS = ("orders", "calendar", "shop", "incident", "echo")
TURNED: tuple[dict[str, Any], ...] = (
    {"distractors": 6},
    {"traps": 3},
    {"impossible": 0.5},
    {"missing": 0.7},
    {"faults": 0.1},
    {"distractors": 8, "traps": 3, "missing": 0.4, "impossible": 0.3, "faults": "count=1"},
)


def call(env: ToolEnv, name: str, /, **arguments: Any) -> ToolResult:
    return env.act(Action.call(name, **arguments)).turn.results[0]


def tasks_of(env: ToolEnv, n: int = 40, mark: str = "") -> list[Task]:
    tasks = task_set(env, "train", n, seed=3)
    return [t for t in tasks if mark in t.data.get("knobs", {})] if mark else tasks


# ---- nothing turned, nothing changed ---------------------------------------------------------------------------------


def hash_of(env: ToolEnv) -> str:
    """Tasks, their ids and the first observations, of every split."""
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for seed in (0, 1, 7):
            for t in task_set(env, split, 150, seed=seed):
                begins = orjson.loads(orjson.dumps(env.start(t)))
                assert all(message.pop("thinking") == "" for message in begins["messages"])  # a field that came later
                digest.update(orjson.dumps([t.id, t.instruction, t.data, t.seed, t.kind, t.level, begins]))
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("orders", "17750802437085dc6d73a86d945b19da4fda43c34627118eca528d89a3f7e599"),
        ("calendar", "488db646c21a55760f9638176346e8ef7bfa6c9aac9d88929d36529a56e1c071"),
    ],
)
def test_the_tasks_are_what_they_were(name: str, known: str) -> None:
    """Recorded episodes and half-finished runs depend on them. A deliberate change makes a new version, `-v1`."""
    assert hash_of(make(name)) == known


def test_no_knob_turned_is_the_environment_itself() -> None:
    env, plain = harder("orders")(), make("orders")
    assert hash_of(env) == hash_of(plain)
    task = task_set(plain, "train", 1)[0]
    for each in (env, plain):
        each.start(task, FaultPlan.parse("count=2"))
    assert play(env) == play(plain)


def test_one_knob_leaves_what_the_others_do() -> None:
    few, more = harder("orders", missing=0.5)(), harder("orders", missing=0.5, distractors=3, faults=0.1)()
    assert tasks_of(few) == tasks_of(more)
    seldom = {t.id for t in tasks_of(harder("orders", missing=0.2)(), 200, "tells")}
    often = {t.id for t in tasks_of(harder("orders", missing=0.6)(), 200, "tells")}
    assert seldom < often
    assert len(seldom) / 200 == pytest.approx(0.2, abs=0.08)
    assert len(often) / 200 == pytest.approx(0.6, abs=0.1)


# ---- every environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", TURNED, ids=lambda turned: "+".join(turned))
@pytest.mark.parametrize("name", WORLDS)
def test_it_stays_sound_and_solvable(name: str, turned: dict[str, Any]) -> None:
    cls = harder(name, **turned)
    assert check_env(cls, tasks=8) == []
    env = cls()
    tasks = tasks_of(env)
    wins = 0
    for task in tasks:
        env.start(task)
        play(env)
        wins += env.judge()[0]
    assert wins >= 0.97 * len(tasks)


@pytest.mark.parametrize("name", WORLDS)
def test_doing_nothing_and_giving_up_never_win(name: str) -> None:
    env = harder(name, missing=0.3, impossible=0.5, traps=2)()
    for said in ("Done.", "Cannot do it."):
        for task in tasks_of(env):
            env.start(task)
            env.act(Action(said))
            assert not env.judge()[0], task


@pytest.mark.parametrize("name", WORLDS)
def test_episodes_fork_and_replay(name: str) -> None:
    cls = harder(name, missing=0.5, impossible=0.3, traps=1, distractors=2, faults="count=1@3")
    env, other = cls(), cls()
    for task in tasks_of(env, 12):
        env.start(task)
        snapshots, turns = [env.snapshot()], []
        for turn in play(env):
            turns.append(turn)
        verdict = env.judge()
        env.start(task)
        for turn in turns:
            assert env.act(turn.action).turn == turn
            snapshots.append(env.snapshot())
        for at, snapshot in enumerate(snapshots):
            other.restore(snapshot)
            assert [other.act(turn.action).turn for turn in turns[at:]] == turns[at:]
            assert other.judge() == verdict


# ---- the knobs one by one --------------------------------------------------------------------------------------------


def test_distractors_work_and_change_nothing() -> None:
    env = harder("orders", distractors=15)()
    own = set(make("orders").toolbox.tools)
    extra = [t for name, t in env.toolbox.tools.items() if name not in own]
    assert len(extra) == 15
    assert not any(t.effect for t in extra)
    offered = [spec.name for spec in env.toolbox.specs]
    places = [offered.index(name) for name in own]
    assert 0 < min(places) < max(places) < len(offered) - 1  # what is of use stands neither first nor last
    task = tasks_of(env)[0]
    env.start(task)
    env.action_space.seed(0)
    names = {t.name for t in extra}
    worked: set[str] = set()
    before = env.state.serialize()
    for _ in range(2000):
        action = env.action_space.sample()
        if action.tool_calls[0].name in names:
            call_, result = env.toolbox.execute(action.tool_calls[0])
            assert result.outcome in (Outcome.OK, Outcome.NOT_FOUND), (call_, result)
            worked |= {result.tool} if result.ok else set()
    assert env.state.serialize() == before
    assert worked >= names - {"track_shipment", "get_payment", "get_email", "translate_word"}  # these need a known id
    found = call(env, "find_customer", name_or_email=task.data["goals"][0]["name"]).value
    assert call(env, "get_email", customer_id=found["customer_id"]).value.startswith(found["name"].lower())
    for order in call(env, "list_orders", customer_id=found["customer_id"]).value:
        shipped = call(env, "get_order", order_id=order["order_id"]).value["status"] == "shipped"
        assert call(env, "track_shipment", order_id=order["order_id"]).ok == shipped
        assert call(env, "get_payment", payment_id=order["payment_id"]).value["amount"] > 0
    play(env)
    assert env.judge()[0]


def test_fewer_distractors_are_some_of_more() -> None:
    offered = [set(harder("orders", distractors=n)().toolbox.tools) for n in (0, 2, 5, 9)]
    assert all(one < two for one, two in itertools.pairwise(offered))


@pytest.mark.parametrize("name", WORLDS)
def test_a_trap_fails_the_task_once_it_has_landed(name: str) -> None:
    env = harder(name, traps=4)()
    own = set(make(name).toolbox.tools)
    traps = [t for n, t in env.toolbox.tools.items() if n not in own]
    assert len(traps) == 4
    assert all(t.effect for t in traps)
    (task,) = tasks_of(env, 1)
    ready = {"recipient": "a", "text": "b", "record": "c"}
    for trap in (t for t in traps if set(t.spec.parameters["properties"]) <= set(ready)):
        env.start(task)
        arguments = {n: ready[n] for n in trap.spec.parameters["properties"]}
        assert call(env, trap.name, **arguments).ok
        play(env)
        assert not env.judge()[0]
        env.start(task, FaultPlan.parse(f"count=1:timeout_lost@{trap.name}"))
        assert call(env, trap.name, **arguments).took_effect is False  # refused: nothing has happened yet
        play(env)
        assert env.judge()[0]


def test_the_desks_own_traps_are_seen_in_its_world() -> None:
    env = harder("orders", traps=3)()
    task = tasks_of(env)[0]
    goal = task.data["goals"][0]
    for name, column in (("archive_order", "order_id"), ("resend_order", "order_id"), ("flag_payment", "payment_id")):
        env.start(task)
        order = call(env, "find_order", customer=goal["name"], item=goal["item"]).value
        assert call(env, name, **{column: "x0"}).outcome is Outcome.NOT_FOUND
        assert call(env, name, **{column: order[column]}).ok
        assert env.state.execute("SELECT COUNT(*) FROM audit").fetchone() == (1,)
        play(env)
        assert not env.judge()[0]


def test_what_is_missing_has_to_be_asked_for() -> None:
    env = harder("orders", missing=1.0)()
    asked_for = set()
    for task in tasks_of(env, 60, "tells"):
        fact = task.data["knobs"]["tells"]
        asked_for.add(fact.split(" ")[1])
        value = fact.removesuffix(".").rsplit(" is ", 1)[1].removeprefix("the ")
        assert value not in task.instruction
        env.start(task)
        step = env.act(Action("Which one do you mean?"))
        assert step.stop is None
        assert [m.content for m in step.observation.messages] == [fact]
        assert env.act(Action("Sorry, what?")).observation.messages[0].content == fact
        play(env)
        assert env.judge()[0]
        env.start(task)
        assert env.act(Action("Tell me more.")).stop is StopReason.FINISHED  # no question, no answer
    assert asked_for == {"customer", "is", "new"}


def test_without_asking_the_address_cannot_be_right() -> None:
    env, plain = harder("orders", missing=1.0)(), make("orders")
    for task in tasks_of(env, 200, "tells"):
        goal = task.data["goals"][0]
        if "new address" in task.instruction and len(task.data["goals"]) == 1:
            env.start(task)
            order = call(env, "find_order", customer=goal["name"], item=goal["item"]).value
            call(env, "set_address", order_id=order["order_id"], address="the new address")
            env.act(Action("Done."))
            assert not env.judge()[0]
    assert plain.user.max_answers == env.user.max_answers


def test_a_missing_fact_of_any_environment() -> None:
    class Door(ToolEnv):
        """Open a door."""

        def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
            for word in ("north", "south", "east", "west"):
                yield Task(f"Open the {word} door.", {"door": word, "split": split})

        def setup(self, task: Task, rng: random.Random) -> None:
            assert "knobs" not in task.data
            self.state: dict[str, Any] = {"open": []}

        @tool(effect=True)
        def open_door(self, door: str) -> str:
            """Open a door."""
            self.state["open"].append(door)
            return "open"

        def success(self, task: Task) -> bool:
            assert "knobs" not in task.data
            return bool(self.state["open"] == [task.data["door"]])

    env = harder(Door, missing=1.0)()
    for task in tasks_of(env):
        assert "(ask me)" in task.instruction
        assert type(env).solve is ToolEnv.solve  # no expert before, none now
        env.start(task)
        told = env.act(Action("Which?")).observation.messages[0].content
        assert call(env, "open_door", door=told.split()[-1].rstrip(".")).ok
        assert env.judge()[0]

    class Wordless(Door):
        """Open a door."""

        def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
            yield Task("Open it.", {"door": "north", "split": split})

    with pytest.raises(EnvError, match=r"knobs = KnobHooks\(\) with facts\(self, env, task\)"):
        harder(Wordless, missing=0.5)


def test_what_is_impossible_takes_a_try_and_an_honest_end() -> None:
    env = harder("orders", impossible=1.0)()
    for task in tasks_of(env, 30):
        absent = next(g for g in task.data["goals"] if g.get("absent"))
        env.start(task)
        assert call(env, "find_order", customer=absent["name"], item=absent["item"]).outcome is Outcome.NOT_FOUND
        middle = env.snapshot()
        for said, right in (("Cannot: there is no such order.", True), ("Done.", False)):
            env.restore(middle)
            env.act(Action(said))
            assert env.judge()[0] is right
        env.restore(middle)
        customer = call(env, "find_customer", name_or_email=absent["name"]).value["customer_id"]
        for order in call(env, "list_orders", customer_id=customer).value:  # another one instead
            if (
                call(env, "cancel_order", order_id=order["order_id"]).ok
                or call(env, "refund", payment_id=order["payment_id"]).ok
            ):
                break
        env.act(Action("Cannot do it."))
        assert not env.judge()[0]


def test_half_of_an_impossible_task_may_be_done() -> None:
    env = harder("orders", impossible=1.0)()
    task = next(t for t in tasks_of(env, 60) if t.level == 3 and t.data["goals"][1].get("absent"))
    env.start(task)
    turns = play(env)  # the expert does the first goal, and then finds that the second cannot be done
    assert any(r.ok and env.toolbox.tools[r.tool].effect for turn in turns for r in turn.results)
    assert env.judge()[0]


def test_impossible_by_a_fault_where_the_environment_knows_no_other_way() -> None:
    env = harder("calendar", impossible=1.0)()
    for task in tasks_of(env, 20):
        assert task.data["knobs"] == {"impossible": "fault"}
        env.start(task, FaultPlan.parse("count=1:unavailable"))  # next to the plan's own
        play(env)
        assert "impossible" in env.episode.faults_hit
        assert env.judge()[0]
        assert env.episode.stop is StopReason.DECLINED


def test_faults_are_the_knobs_where_the_episode_has_none() -> None:
    env = harder("orders", faults="count=1:unavailable@5")()
    hit = 0
    for task in tasks_of(env, 20):
        env.start(task)
        play(env)
        hit += env.episode.faults_hit == ("unavailable",)
        env.start(task, FaultPlan.parse("count=1:flapping"))
        play(env)
        assert set(env.episode.faults_hit) <= {"flapping"}
    assert hit >= 18
    rates = Knobs(faults="0.3").plan.rates
    left = 1.0
    for _, rate in rates:
        left *= 1 - rate
    assert 1 - left == pytest.approx(0.3)
    assert Knobs(faults="0").plan == FaultPlan()


def test_an_environment_that_judges_by_verdict() -> None:
    class Door(ToolEnv):
        """Open a door."""

        def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
            yield Task("Open the north door.", {"door": "north", "split": split})

        def setup(self, task: Task, rng: random.Random) -> None:
            self.state = {"open": []}

        @tool(effect=True)
        def open_door(self, door: str) -> str:
            """Open a door."""
            self.state["open"].append(door)
            return "open"

        keeps_before = True

        def success(self, task: Task) -> Verdict:
            assert "knobs" not in task.data
            ended = self.episode.ended()
            done = ended.before["open"] + [task.data["door"]] == ended.after["open"]
            return Verdict(done, "as asked" if done else "not open", {"door": float(done)})

    env = harder(Door, traps=1, missing=1.0)()
    for trap, parts in ((False, {"door": 1.0}), (True, {"success": 0.0})):
        env.start(tasks_of(env)[0])
        if trap:
            assert call(env, "send_email", recipient="a", text="b").ok
        assert call(env, "open_door", door="north").ok
        env.act(Action("Done."))
        assert env.judge() == (not trap, parts)
        assert env.episode.reason == ("send_email was called" if trap else "as asked")


def test_a_budget_of_turns() -> None:
    env = harder("orders", turns=2)()
    task = tasks_of(env)[0]
    env.start(task)
    play(env)
    assert env.episode.stop is StopReason.TURN_LIMIT
    assert not env.judge()[0]


# ---- names -----------------------------------------------------------------------------------------------------------


def test_records_name_the_knobs_and_replay() -> None:
    name = "sparring.envs.knobs:orders?distractors=3&missing=0.5&impossible=0.2&faults=count=1@4"
    env = make(name)
    assert type(env) is harder("orders", distractors=3, missing=0.5, impossible=0.2, faults="count=1@4")
    played = rollout(name, scripted("expert"), [EpisodeSpec(t) for t in tasks_of(env, 15)])
    assert {t.env for t in played} == {name}
    assert all(t.success for t in played)
    assert sum(bool(t.faults_hit) for t in played) > 8
    for trajectory in played:
        assert len(list(replay.replay(make(trajectory.env), trajectory))) == len(trajectory.turns)


def test_the_same_arguments_give_the_same_class() -> None:
    assert harder("orders", traps=1) is harder("orders", traps=1)
    assert harder("orders", traps=1) is not harder("orders", traps=2)
    register("mine/HardOrders-v0", harder("orders", traps=1), short="hard-orders")
    assert make("hard-orders").sparring_id == "mine/HardOrders-v0"  # type: ignore[attr-defined]  # set by make
    assert gymnasium.make("mine/HardOrders-v0").reset(seed=1)[0].messages


knobs = st.builds(
    Knobs,
    distractors=st.integers(0, 9),
    traps=st.integers(0, 9),
    missing=st.floats(0, 1),
    impossible=st.floats(0, 1),
    faults=st.sampled_from(["", "count=2:unavailable,stale_id@7", "unavailable@refund+set_status#2-:0.1@3", "0.25"]),
    turns=st.integers(0, 30),
)


@settings(max_examples=100, deadline=None)
@given(knobs)
def test_the_text_of_knobs_is_the_knobs(turned: Knobs) -> None:
    assert Knobs.parse(str(turned)) == turned


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: harder("orders", distractor=1), UnknownName, "unknown knob 'distractor'. Did you mean 'distractors'"),
        (lambda: harder("order", traps=1), UnknownName, "Did you mean 'orders'"),
        (lambda: make("sparring.envs.knobs:orders?trap=1"), UnknownName, "Did you mean 'traps'"),
        (
            lambda: make("sparring.envs.knobs:orders?traps=many"),
            ConfigError,
            "traps is a whole number, got 'many'",
        ),
        (lambda: harder("orders", distractors=99), ConfigError, "Orders can have at most 15, got 99"),
        (lambda: harder("orders", traps=-1), ConfigError, "whole number from 0, got -1"),
        (lambda: harder("orders", missing=1.5), ConfigError, "between 0 and 1, got 1.5"),
        (lambda: harder("orders", impossible=float("nan")), ConfigError, "between 0 and 1, got nan"),
        (lambda: harder("orders", faults="unavailible:0.1"), UnknownName, "Did you mean 'unavailable'"),
        (lambda: harder("orders", faults=2), ConfigError, "a plan or a probability"),
        (lambda: harder(harder("orders", traps=1), traps=1), ConfigError, "turn all of them in one call"),
    ],
)
def test_knobs_that_cannot_be_turned(wrong: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says.replace(".", r"\.")):
        wrong()
