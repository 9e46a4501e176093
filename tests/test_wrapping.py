"""Wrapping a foreign suite: tools that come and go, hooks, others who act, verdicts, tasks from files, plug-ins."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import foreign_suites as suites
import gymnasium
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.agents.chat_format import tokens_of
from sparring.agents.replay import replay, replay_check
from sparring.agents.rollouts import SLACK, EpisodeSpec, rollout
from sparring.agents.scripts import ScriptedAgent, scripted
from sparring.envs import (
    SPLITS,
    Clock,
    Others,
    Split,
    ToolEnv,
    ToolRules,
    UserTurn,
    UserTurns,
    Verdict,
    check_env,
    expert_turns,
    make,
    play,
    registered,
    task_set,
)
from sparring.envs.knobs import harder
from sparring.envs.recorded import recorded_actions
from sparring.envs.spaces import ActionSpace
from sparring.envs.task import NoTasks
from sparring.envs.task_files import tasks_from
from sparring.tools import (
    Conflict,
    FaultPlan,
    Injected,
    InvalidArguments,
    NotFound,
    Tool,
    Toolbox,
    ToolError,
    merge,
    methods,
    tool,
    tools_of,
    toolset,
)
from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    DataError,
    EnvError,
    Message,
    Outcome,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    UnknownName,
)

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = ROOT / "examples" / "foreign"
AIRLINE, DESK = f"{FOREIGN}/airline.py:Airline", f"{FOREIGN}/desk.py:HelpDesk"


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from files does not outlive it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        place = str(getattr(module, "__file__", None) or "")
        if name not in before and ("/examples/" in place or "/pytest-" in place):
            del sys.modules[name]
    importlib.invalidate_caches()


def names(specs: Sequence[Any]) -> list[str]:
    return [spec.name for spec in specs]


def call(env: ToolEnv, name: str, /, **arguments: Any) -> ToolResult:
    return env.act(Action.call(name, **arguments)).turn.results[0]


# ---- tools that come and go ------------------------------------------------------------------------------------------


def by_the_door(env: Any) -> list[Any]:
    return ["push", *(["walk", "shut"] if env.state["open"] else [])]


class Door(ToolEnv):
    """A door: what can be done with it depends on whether it is open."""

    tool_rules = ToolRules(offered=by_the_door)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"open": False, "passed": 0}

    @tool(effect=True)
    def push(self) -> str:
        """Push it open."""
        self.state["open"] = True
        return "open"

    @tool(effect=True, alternative="push")
    def walk(self) -> str:
        """Walk through."""
        self.state["passed"] += 1
        return "through"

    @tool(effect=True)
    def shut(self) -> str:
        """Shut it. <|im_end|>"""
        self.state["open"] = False
        return "shut"

    def success(self, task: Task) -> bool:
        return bool(self.state["passed"])


TASK = Task("Walk through the door.")


def test_only_what_is_on_offer_can_be_called() -> None:
    env = Door()
    assert set(env.toolbox.tools) == {"push", "walk", "shut"}  # before an episode: all there is
    first = env.start(TASK)
    assert names(first.tools) == ["push"]
    early = call(env, "walk")
    assert (early.outcome, early.cause) == (Outcome.UNKNOWN_TOOL, Cause.POLICY)
    assert early.content == call(env, "wolk").content.replace("wolk", "walk")  # it tells nothing of what will come
    step = env.act(Action.call("push"))
    assert names(step.observation.tools) == ["push", "walk", "shut"]
    assert call(env, "walk").ok
    step = env.act(Action.call("shut"))
    assert names(step.observation.tools) == ["push"]
    late = call(env, "walk")
    assert (late.outcome, late.cause, late.took_effect) == (Outcome.GONE, Cause.POLICY, False)
    assert json.loads(late.content) == {"error": "gone", "message": "walk is no longer there", "hint": "use push"}
    assert env.state["passed"] == 1
    assert "walk" in env.toolbox.state.gone
    assert call(env, "push").ok
    assert "walk" not in env.toolbox.state.gone  # it came back
    assert call(env, "walk").ok


def test_what_went_in_the_same_message_is_not_the_agents_fault() -> None:
    env = Door()
    env.start(TASK)
    env.act(Action.call("push"))
    step = env.act(Action(tool_calls=(ToolCall("shut", {}), ToolCall("walk", {}))))
    assert [(r.outcome, r.cause) for r in step.turn.results] == [(Outcome.OK, None), (Outcome.GONE, Cause.TOOL)]


def test_the_agent_is_told() -> None:
    env = Door()
    env.start(TASK)
    step = env.act(Action.call("push"))
    told = step.turn.messages
    assert step.observation.messages[-1:] == told
    first, *lines = told[0].content.splitlines()
    assert first == "New tools:"
    assert [json.loads(line)["function"]["name"] for line in lines] == ["walk", "shut"]
    assert env.act(Action.call("push")).turn.messages == ()
    assert env.act(Action.call("shut")).turn.messages == (Message("user", "No longer there: walk, shut."),)


def test_an_environment_may_tell_it_otherwise_or_not_at_all() -> None:
    class Quiet(ToolRules):
        def announce(self, env: Any, came: Sequence[Any], went: Sequence[str]) -> str:
            return f"gone: {len(went)}" if went else ""

    class Silent(Door):
        tool_rules = Quiet(offered=by_the_door)

    env = Silent()
    env.start(TASK)
    assert env.act(Action.call("push")).turn.messages == ()
    assert env.act(Action.call("shut")).turn.messages == (Message("user", "gone: 2"),)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_fork_has_the_tools_of_its_place(elsewhere: bool) -> None:
    env = Door()
    env.start(TASK)
    closed = env.snapshot()
    call(env, "push")
    opened = env.snapshot()
    call(env, "shut")
    shut = env.snapshot()
    where = Door() if elsewhere else env
    for _ in range(2):
        where.restore(opened)
        assert names(where.toolbox.present) == ["push", "walk", "shut"]
        assert call(where, "walk").ok
        assert where.state["passed"] == 1
        where.restore(shut)
        assert call(where, "walk").outcome is Outcome.GONE
        where.restore(closed)
        assert call(where, "walk").outcome is Outcome.UNKNOWN_TOOL
        assert isinstance(where.action_space, ActionSpace)
        assert names(where.toolbox.specs) == names(where.action_space.tools) == ["push"]


def test_sources_beside_the_class_come_and_go_too() -> None:
    def knock(times: int) -> int:
        """Knock."""
        return times

    def in_the_hall(env: Any) -> list[Any]:
        bell = Tool.from_schema("ring", lambda: "ring", {"type": "object"}, description="Ring.")
        return [*by_the_door(env), "knock", *([bell] if env.state["open"] else [])]

    class Hall(Door):
        extra = toolset(knock)
        tool_rules = ToolRules(offered=in_the_hall)

    env = Hall()
    env.start(TASK)
    assert call(env, "knock", times=2).value == 2
    assert call(env, "ring").outcome is Outcome.UNKNOWN_TOOL
    call(env, "push")
    assert call(env, "ring").value == "ring"
    opened = env.snapshot()
    call(env, "shut")
    assert call(env, "ring").outcome is Outcome.GONE
    other = Hall()
    other.restore(opened)
    assert call(other, "ring").value == "ring"
    env.start(TASK)
    assert call(env, "ring").outcome is Outcome.UNKNOWN_TOOL


LETTERS = "abcd"
MOVE = st.one_of(
    st.tuples(st.just("offer"), st.frozensets(st.sampled_from(LETTERS))),
    st.tuples(st.just("call"), st.sampled_from([*LETTERS, "x"])),
    st.tuples(st.just("told"), st.none()),
    st.tuples(st.just("save"), st.none()),
    st.tuples(st.just("back"), st.none()),
)


@settings(max_examples=80, deadline=None)
@given(given_first=st.frozensets(st.sampled_from("ab")), moves=st.lists(MOVE, max_size=24))
def test_outcomes_follow_from_what_was_on_offer(given_first: frozenset[str], moves: list[tuple[str, Any]]) -> None:
    """Against a model of three sets. `a` and `b` the toolbox is made with; the others come from outside."""
    tools = {n: Tool.from_schema(n, lambda: "ok", {"type": "object"}, description="Do.") for n in LETTERS}
    box = Toolbox([tools["a"], tools["b"]], world=None)  # type: ignore[arg-type]  # no world
    box.begin(None, tools=[tools[n] for n in sorted(given_first)])
    now, past, told = set(given_first), set[str](), set(given_first)
    saved: Any = None
    for what, value in moves:
        if what == "offer":
            past, now = (past | now) - value, set(value)
            box.offer([tools[n] for n in sorted(value)])
        elif what == "call":
            result = box.execute(ToolCall(value, {}))[1]
            wanted = Outcome.OK if value in now else Outcome.GONE if value in past else Outcome.UNKNOWN_TOOL
            assert result.outcome is wanted
            if wanted is Outcome.GONE:
                assert result.cause is (Cause.TOOL if value in told else Cause.POLICY)
        elif what == "told":
            came, went = box.changes()
            assert (set(names(came)), set(went)) == (now - told, told - now)
            told = set(now)
        elif what == "save":
            saved = box.state.copy(), set(now), set(past), set(told)
        elif saved is not None:
            box.resume(saved[0])
            now, past, told = (set(part) for part in saved[1:])
            box.offer([tools[n] for n in sorted(now)])  # as an environment does, whatever the toolbox knows itself
        assert names(box.present) == sorted(now)
        assert names(box.specs) == sorted(given_first)
        assert set(box.tools) >= now


def test_bound_methods_of_the_state_may_be_offered_as_they_are() -> None:
    class Rules(ToolRules):
        def offered(self, env: Any) -> list[Any]:
            return [env.state.put, *([env.state.peek, env.state.rules] if env.state.items else [])]

    class Boxes(ToolEnv):
        tool_rules = Rules()

        def setup(self, task: Task, rng: random.Random) -> None:
            self.state = Box()

    env = Boxes()
    assert names(env.start(TASK).tools) == ["put"]
    assert call(env, "peek").outcome is Outcome.UNKNOWN_TOOL
    assert call(env, "put", item="tea").ok
    middle = env.snapshot()
    assert call(env, "put", item="milk").ok
    assert call(env, "peek", count=9).value == ["tea", "milk"]
    other = Boxes()
    other.restore(middle)
    assert call(other, "peek", count=9).value == ["tea"]  # its own object
    assert call(other, "rules").value == "none"
    specs = env.toolbox.present
    env.act(Action.call("rules"))
    assert all(new is old for new, old in zip(env.toolbox.present[:2], specs, strict=False))  # read once, bound anew


def test_what_is_offered_has_to_exist() -> None:
    class Wrong(Door):
        tool_rules = ToolRules(offered=lambda env: ["pull"])

    with pytest.raises(UnknownName, match="tool of Wrong 'pull'"):
        Wrong().start(TASK)

    class Twice(Door):
        tool_rules = ToolRules(offered=lambda env: ["push", "push"])

    with pytest.raises(EnvError, match="two tools are named 'push'"):
        Twice().start(TASK)


def test_a_second_route_that_is_not_there_is_none() -> None:
    """Faults that need one leave the tool alone, whatever its declaration says."""

    class Lone(Door):
        tool_rules = ToolRules(offered=lambda env: ["walk"])

    env: Door = Lone()
    env.start(TASK, FaultPlan.parse("tool_removed:1.0"))
    assert call(env, "walk").ok
    env = Door()
    env.start(TASK, FaultPlan.parse("tool_removed:1.0"))
    call(env, "push")
    assert call(env, "walk").fault == "tool_removed"


def script(*actions: Action) -> ScriptedAgent:
    def play(env: ToolEnv, seed: int) -> Any:
        for action in actions:  # noqa: UP028  # results are sent
            yield action

    return ScriptedAgent("script", play)


MOVES = (Action.call("push"), Action.call("walk"), Action.call("shut"), Action.call("walk"), Action("Done."))


def test_the_record_has_it_all_and_replays() -> None:
    (t,) = rollout(Door, script(*MOVES), [EpisodeSpec(TASK)])
    assert t.success
    assert names(t.tools) == ["push"]  # what the first prompt shows
    assert [r.outcome.value for r in t.results()] == ["ok", "ok", "ok", "gone"]
    assert Trajectory.from_json(t.to_json()) == t
    assert len(list(replay(Door(), t))) == len(t.turns)


@pytest.fixture(scope="module")
def chat(tiny_qwen3: Path) -> Any:
    from sparring.agents.chat.hermes import HermesFormat
    from sparring.agents.models import load_tokenizer

    return HermesFormat(load_tokenizer(tiny_qwen3))


def test_a_scripted_episode_as_tokens(chat: Any) -> None:
    (t,) = rollout(Door, script(*MOVES), [EpisodeSpec(TASK)])
    tokens, spans = tokens_of(chat, t)
    env = Door()
    seen = env.start(TASK)
    ids = chat.start(seen.messages, seen.tools)
    for action, span in zip(MOVES, spans, strict=True):
        assert tokens.ids[: span[0]] == tuple(ids)
        ids += chat.answer(action)
        step = env.act(action)
        ids += [] if step.stop else chat.continuation(step.observation.messages)
    assert tokens.ids == tuple(ids)
    told = chat.tokenizer.decode(list(tokens.ids[spans[0][1] : spans[1][0]]))
    assert '"name":"walk"' in told
    # The description of a new tool spells a control token out; it stays text.
    assert tokens.ids[spans[0][1] : spans[1][0]].count(chat.end_id) == 2


def test_a_models_episode_is_exact(tiny_qwen3: Path) -> None:
    from sparring.agents.agent import LLMAgent
    from sparring.agents.chat.hermes import HermesFormat
    from sparring.agents.engines.transformers import TransformersEngine
    from sparring.agents.models import load_model, load_tokenizer

    class Led(HermesFormat):
        """Takes whatever was sampled for the next of the moves."""

        def parse(self, ids: Sequence[int]) -> Action:
            return next(moves)

    moves = iter(MOVES)
    chat = Led(load_tokenizer(tiny_qwen3))
    agent = LLMAgent(TransformersEngine(load_model(tiny_qwen3), parallel=1, max_context=8192), chat, max_turn_tokens=6)
    (t,) = rollout(Door, agent, [EpisodeSpec(TASK)])
    assert [r.outcome.value for r in t.results()] == ["ok", "ok", "ok", "gone"]
    assert t.tokens is not None
    ids = chat.start(t.prompt, t.tools)
    for i, turn in enumerate(t.turns):
        assert turn.span is not None
        assert turn.span[0] == len(ids)
        sampled = t.tokens.ids[slice(*turn.span)]
        ids += sampled
        if i + 1 < len(t.turns):
            results = [Message("tool", r.content, tool_call_id=r.call_id, name=r.tool) for r in turn.results]
            ids += chat.continuation([*results, *turn.messages], stopped=sampled[-1] in chat.stop_ids)
    assert t.tokens.ids == tuple(ids)
    assert sum(t.tokens.sampled) == sum(end - start for start, end in (turn.span or (0, 0) for turn in t.turns))


# ---- declared tools, hooks, settings ---------------------------------------------------------------------------------


class Box:
    """A foreign object."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def put(self, item: str) -> int:
        """Put an item in."""
        if item == "stone":
            raise KeyError("no stones")
        if item == "ghost":
            raise RuntimeError("boo")
        self.items.append(item)
        return len(self.items)

    async def peek(self, count: int = 1) -> list[str]:
        """Look at the first items.

        Args:
            count: How many.
        """
        return self.items[:count]

    @staticmethod
    def rules() -> str:
        """Tell the rules."""
        return "none"

    def helper(self, x: int) -> int:
        """Not a tool."""
        return x

    def silent(self) -> int:
        return 1


def stamp(text: str, clock: Any, ink: str = "black") -> str:
    return f"{clock():%H:%M} {ink} {text}"


STAMP = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
    "description": "Stamp a text.",
}


class Rules(ToolRules):
    errors = {LookupError: NotFound}  # noqa: RUF012  # never changed

    def injected(self, env: Any) -> dict[str, Any]:
        return {"clock": env.state.clock}

    def after_call(self, env: Any, call: ToolCall, result: ToolResult) -> None:
        env.state.seen.append((call.name, result.outcome.value))
        env.state.clock.advance(hours=1)
        if call.arguments == {"item": "bomb"}:
            env.episode.cut(StopReason.TERMINATED)


class Mouse(Others):
    tools = {"mouse": methods(Box, "put", at="state.box")}  # noqa: RUF012  # never changed

    def elapse(self, env: Any) -> None:
        if env.state.box.items[-1:] == ["cheese"]:
            env.episode.act_as("mouse", "put", item="crumb")
            env.episode.act_as("mouse", "put", item="stone")


class Store(ToolEnv):
    reads = methods(Box, "peek", "rules", at="state.box")
    writes = methods(Box, "put", at=lambda env: env.state.box, effect=True)
    stamps = toolset(("stamp", partial(stamp, ink="red"), STAMP), injects=("clock",))
    others = Mouse()
    tool_rules = Rules()
    keeps_before = True

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = type("World", (), {})()
        self.state.box, self.state.clock, self.state.seen = Box(), Clock(), []

    def success(self, task: Task) -> Verdict:
        ended = self.episode.ended()
        new = len(ended.after.box.items) - len(ended.before.box.items)
        return Verdict(new > 1, f"{new} more", {"items": new / 4, "calls": -0.1 * sum(1 for _ in ended.calls())})


def store(**data: Any) -> Store:
    env = Store()
    env.start(Task("Store.", data))
    return env


def test_methods_of_an_object_of_the_episode() -> None:
    env = store()
    assert [t.name for t in tools_of(Store)] == ["peek", "rules", "put", "stamp"]
    assert env.toolbox.tools["put"].effect
    assert not env.toolbox.tools["peek"].effect
    assert call(env, "put", item="tea").value == 1
    assert call(env, "peek", count=5).value == ["tea"]
    assert call(env, "rules").value == "none"
    assert call(env, "helper", x=1).outcome is Outcome.UNKNOWN_TOOL
    middle = env.snapshot()
    call(env, "put", item="milk")
    other = Store()
    other.restore(middle)
    assert call(other, "peek", count=5).value == ["tea"]  # its own object, found at the call
    assert call(env, "peek", count=5).value == ["tea", "milk"]
    assert call(env, "put", item="x", y=1).outcome is Outcome.INVALID_ARGUMENTS


def test_injected_values_follow_a_fork() -> None:
    env = store()
    assert call(env, "stamp", text="a").value == "00:00 red a"
    middle = env.snapshot()
    assert call(env, "stamp", text="b").value == "01:00 red b"
    assert call(env, "stamp", text="c").value == "02:00 red c"
    other = Store()
    for where in (other, env):
        where.restore(middle)
        assert call(where, "stamp", text="b").value == "01:00 red b"
    assert call(env, "stamp", text="a", clock="x").outcome is Outcome.INVALID_ARGUMENTS


def test_a_suites_own_exceptions() -> None:
    env = store()
    refused = call(env, "put", item="stone")
    assert (refused.outcome, refused.cause) == (Outcome.NOT_FOUND, Cause.TOOL)
    assert "no stones" in refused.content
    bug = call(env, "put", item="ghost")
    assert bug.outcome is Outcome.TOOL_ERROR
    assert "boo" not in bug.content
    assert "RuntimeError: boo" in str(bug.error)


def test_exceptions_become_the_first_that_fits() -> None:
    def fail(kind: str) -> str:
        """Fail."""
        raise {"own": NotFound("own"), "type": TypeError("t"), "value": ValueError("v")}[kind]

    async def later(kind: str) -> str:
        """Fail."""
        return fail(kind)

    def odd() -> object:
        """Return what is no JSON."""
        return object()

    box = Toolbox(
        toolset(fail, later, odd),
        world=None,  # type: ignore[arg-type]  # no world
        errors={TypeError: Conflict, Exception: NotFound},
    )
    for name in ("fail", "later"):
        outcomes = [box.execute(ToolCall(name, {"kind": kind}))[1].outcome for kind in ("own", "type", "value")]
        assert outcomes == [Outcome.NOT_FOUND, Outcome.CONFLICT, Outcome.NOT_FOUND]
    assert box.execute(ToolCall("odd", {}))[1].outcome is Outcome.TOOL_ERROR  # raised by ours: not the tool's own


def test_after_each_call() -> None:
    env = store()
    env.act(Action(tool_calls=(ToolCall("put", {"item": "tea"}), ToolCall("nope", {}), ToolCall("", None, "{"))))
    assert env.state.seen == [("put", "ok"), ("nope", "unknown_tool"), ("", "malformed")]
    step = env.act(Action.call("put", item="bomb"))
    assert step.stop is StopReason.TERMINATED
    assert env.judge()[0]
    with pytest.raises(ConfigError, match="over"):
        env.act(Action("Done."))


def test_after_call_on_a_toolbox_alone() -> None:
    seen: list[tuple[str, bool]] = []
    box = Toolbox(
        toolset(Box.rules),
        world=None,  # type: ignore[arg-type]  # no world
        after_call=lambda call, result: seen.append((call.id, result.ok)),
    )
    box.execute_all([ToolCall("rules", {}), ToolCall("x", {})])
    assert seen == [("c1", True), ("c2", False)]


def test_others_act_on_the_same_world_and_are_recorded() -> None:
    env = store()
    middle = env.snapshot()
    step = env.act(Action.call("put", item="cheese"))
    assert len(step.turn.results) == 1  # the agent sees nothing of it
    assert env.state.box.items == ["cheese", "crumb"]
    assert [(who, c.name, r.outcome) for who, c, r in env.episode.calls_of_others] == [
        ("mouse", "put", Outcome.OK),
        ("mouse", "put", Outcome.NOT_FOUND),
    ]
    assert env.state.seen == [("put", "ok")]
    noted = env.episode.notes["others"]
    assert noted[0] == {"who": "mouse", "tool": "put", "arguments": {"item": "crumb"}, "outcome": "ok", "content": "2"}
    assert json.loads(json.dumps(env.episode.notes)) == env.episode.notes
    env.restore(middle)
    assert env.episode.calls_of_others == ()
    with pytest.raises(UnknownName, match="Did you mean 'mouse'"):
        env.episode.act_as("mose", "put", item="x")


def test_no_fault_strikes_others() -> None:
    env = Store()
    env.start(Task("Store."), FaultPlan.parse("internal_error:1.0"))
    assert not call(env, "put", item="cheese").ok
    assert env.episode.act_as("mouse", "put", item="x").ok


def test_a_verdict_with_reason_and_parts() -> None:
    env = store()
    call(env, "put", item="tea")
    assert env.judge() == (False, {"success": 0.0})  # it is not over
    call(env, "put", item="milk")
    step = env.act(Action("Done."))
    assert env.judge() == (True, {"items": 0.5, "calls": -0.2})
    assert step.turn.reward == pytest.approx(0.3)
    assert env.episode.notes == {"reason": "2 more"}
    assert env.success(env.episode.task) == Verdict(True, "2 more", {"items": 0.5, "calls": -0.2})
    env.start(env.episode.task)
    assert env.episode.notes == {}
    env.max_turns = 1
    env.act(Action.call("put", item="tea"))
    assert env.judge() == (False, {"success": 0.0})
    assert env.episode.reason == "cut: turn_limit"


def test_a_clock_stands_still() -> None:
    clock = Clock()
    assert clock() == clock() == clock.now
    assert clock.advance(days=1, minutes=30).isoformat() == "2026-01-02T00:30:00+00:00"
    naive = datetime(2020, 1, 1)
    assert Clock(naive)() == naive


def test_names_that_clash_are_told_with_their_places() -> None:
    class Clash(ToolEnv):
        boxes = methods(Box, "put")

        @tool
        def put(self) -> str:
            """Put."""
            return ""

    with pytest.raises(EnvError, match="Clash has two tools named 'put': boxes and put"):
        Clash()

    class Sets(ToolEnv):
        one = methods(Box, "put")
        two = methods(Box, "put", at="other")

    with pytest.raises(EnvError, match=r"two tools named 'put': one and two; .*merge\(\.\.\., prefix"):
        Sets()

    class Told(ToolEnv):
        both = merge(methods(Box, "put"), methods(Box, "put", at="other"), prefix=("a_", "b_"))

    assert set(Told().toolbox.tools) == {"a_put", "b_put"}

    class Replaced(Sets):
        two = ()

    assert set(Replaced().toolbox.tools) == {"put"}


def test_wrong_declarations_say_what_is_right() -> None:
    with pytest.raises(EnvError, match="Box has no method 'pit'"):
        methods(Box, "pit")
    with pytest.raises(EnvError, match="no docstring"):
        methods(Box, "silent")

    with pytest.raises(TypeError, match="'validate'"):
        Rules(validate="off")  # type: ignore[call-arg]  # what is tested

    with pytest.raises(EnvError, match=r"Settings\.tool_rules is an object of the class ToolRules, got <class .*Rules"):

        class Settings(Store):
            tool_rules = Rules  # type: ignore[assignment]  # what is tested


def test_settings_reach_the_toolbox() -> None:
    class Loose(Store):
        tool_rules = Rules(validation="off", render=lambda value: f"<{value}>")

    env = Loose()
    env.start(Task("Store."))
    result = call(env, "put", item="tea")
    assert (result.content, result.value) == ("<1>", 1)


def test_injection_by_mark_still_takes_what_setup_wrote() -> None:
    class Marked(ToolEnv):
        def setup(self, task: Task, rng: random.Random) -> None:
            self.toolbox.inject["desk"] = ["x"]

        @tool
        def read(self, desk: Annotated[list[str], Injected]) -> list[str]:
            """Read."""
            return desk

    env = Marked()
    env.start(TASK)
    assert call(env, "read").value == ["x"]


@pytest.mark.parametrize("faults", [5, 0, ["unavailable"], FaultPlan])
def test_a_fault_plan_that_is_none(faults: Any) -> None:
    env = make("echo")
    with pytest.raises(ConfigError, match="faults is a FaultPlan or its one-line form such as 'count=1', got"):
        env.reset(options={"faults": faults})


def test_options_of_reset() -> None:
    env = make("echo")
    with pytest.raises(ConfigError, match="task is a sparring Task, got 'Say dune"):
        env.reset(options={"task": "Say dune."})
    for plan in (None, "", "count=1", FaultPlan(count=1)):
        env.reset(options={"faults": plan})
    assert env.episode.faults is not None


# ---- the two suites --------------------------------------------------------------------------------------------------


def lines_of_code(text: str) -> int:
    """Without blank lines, comments and docstrings."""
    tree = ast.parse(text)
    documented = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    told = [n.body[0] for n in documented if ast.get_docstring(n) is not None]
    silent = {line for doc in told for line in range(doc.lineno, (doc.end_lineno or 0) + 1)}
    written = [n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")]
    return len(set(written) - silent)


@pytest.mark.parametrize("name", ["airline", "desk"])
def test_a_wrapper_has_thirty_lines_of_code_at_most(name: str) -> None:
    wrapper = (FOREIGN / f"{name}.py").read_text("utf-8")
    assert lines_of_code(wrapper) <= 30
    assert len(wrapper.splitlines()) <= 45
    assert "sparring" not in (FOREIGN / f"{name}_suite.py").read_text("utf-8").split('"""', 2)[2]


@pytest.mark.parametrize("name", [AIRLINE, DESK])
def test_a_wrapped_suite_passes_the_check(name: str) -> None:
    assert [f for f in check_env(name) if f.severity == "error"] == []


@pytest.mark.parametrize("name", [AIRLINE, DESK])
def test_the_expert_solves_a_wrapped_suite(name: str) -> None:
    env = make(name)
    for split in SPLITS:
        for task in task_set(env, split, 40):
            env.start(task)
            play(env)
            success, parts = env.judge()
            assert success, (task, env.episode.reason)
            assert sum(parts.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [AIRLINE, DESK])
def test_faults_strike_a_wrapped_suite_and_the_expert_recovers(name: str) -> None:
    env = make(name)
    kinds = "unavailable,internal_error,timeout_lost,timeout_landed,empty_result,schema_drift,malformed_output"
    tasks = task_set(env, "train", 24)
    episodes = [EpisodeSpec(task, FaultPlan.parse(f"count=1:{kinds}@{i}")) for i, task in enumerate(tasks)]
    done = rollout(name, scripted("expert"), episodes, slack=SLACK)
    assert sum(bool(t.success) for t in done) >= 0.95 * len(done)
    assert len({kind for t in done for kind in t.faults_hit}) >= 4
    blind = rollout(name, scripted("blind-retry"), episodes, slack=SLACK)
    assert sum(bool(t.success) for t in blind) < sum(bool(t.success) for t in done)
    for t in done:
        assert all(result.value is not None for result in t.results() if result.ok and result.fault is None)
        assert Trajectory.from_json(t.to_json()) == t
        list(replay(make(name), t))
        assert t.expert_turns == len(t.turns)


def test_the_airlines_tools_go_when_the_gate_takes_over() -> None:
    env = make(AIRLINE)
    task = task_set(env, "test", 1)[0]
    (t,) = rollout(AIRLINE, scripted("expert"), [EpisodeSpec(task)])
    told = [m.content for turn in t.turns for m in turn.messages if m.content.startswith("No longer")]
    assert len(told) == 1
    assert told[0].startswith("No longer there: rebook, cancel.\nNew tools:\n")
    assert '"name":"seat"' in told[0]
    assert "seat" not in names(t.tools)
    said = [m.content for turn in t.turns for m in turn.messages if not m.content.startswith("No longer")]
    assert said == task.data["lines"][1:]
    env.start(task)
    play(env)
    assert [(who, c.name) for who, c, _ in env.episode.calls_of_others] == [("passenger", "confirm_passport")]
    assert env.episode.reason == "all done"


def test_the_airline_says_why_not() -> None:
    env = make(AIRLINE)
    env.start(task_set(env, "test", 1)[0])
    for _ in env.episode.task.data["lines"]:
        step = env.act(Action("Done."))
    assert step.stop is StopReason.FINISHED
    assert env.judge() == (False, {"flight": 0.0, "in": 0.0, "seat": 0.0})
    assert env.episode.reason == "not as it should be: flight, in, seat"


def test_the_desks_time_is_its_own() -> None:
    env = make(DESK)
    env.start(task_set(env, "test", 1)[0])
    assert expert_turns(env) == 4
    before = env.snapshot()
    env.max_turns = 50
    hours = [call(env, "get_ticket", ticket=11).value["waited_hours"] for _ in range(40)]
    assert hours[0] < hours[-1]  # two minutes a call
    env.restore(before)
    assert call(env, "get_ticket", ticket=11).value["waited_hours"] == hours[0]


# ---- suites in miniature, brought in by the one setting --------------------------------------------------------------


class Retail(ToolEnv):
    """A shop: methods that the suite marks itself, exceptions as text, gold actions in each task."""

    tools = methods(suites.Toolkit, where=lambda f: hasattr(f, "tool_kind"), effect=lambda f: f.tool_kind == "write")
    tool_rules = ToolRules(fidelity="suite", wording="Error: {}".format)

    def tasks(self, split: Split, rng: random.Random) -> list[Task]:
        def make(row: dict[str, Any]) -> Task:
            return Task(row["says"], row["criteria"], id=row["id"])

        return tasks_from(suites.RETAIL, split, splits=suites.RETAIL_SPLITS, make=make)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = suites.Toolkit(suites.orders())

    def gold(self, task: Task) -> Any:
        return task.data["actions"]

    def success(self, task: Task) -> bool:
        wanted = suites.Toolkit(suites.orders())
        for action in task.data["actions"]:
            getattr(wanted, action["name"])(**action["arguments"])
        return bool(self.state.orders == wanted.orders)


def kit(env: Any) -> list[Any]:
    """The tools of the classes that a task involves, each found in the episode's own object."""
    return [
        methods(suites.CLASSES[name], where=suites.is_public, effect=suites.writes, at=partial(held, name))
        for name in env.state
    ]


def held(name: str, env: Any) -> Any:
    return env.state[name]


def python_call(text: str) -> tuple[str, dict[str, Any]]:
    node: Any = ast.parse(text, mode="eval").body
    return node.func.id, {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}


def as_the_gold(env: Any, turn: int) -> bool:
    wanted = suites.fresh(env.episode.task.data)
    for name, arguments in itertools.chain(*env.gold(env.episode.task)[: turn + 1]):
        next(getattr(one, name) for one in wanted.values() if hasattr(one, name))(**arguments)
    return suites.same(wanted, env.state)


def of_row(row: dict[str, Any]) -> Task:
    held_back = row.get("missed_function", {})
    texts = [question[0]["content"] if question else "" for question in row["question"]]
    turns = [{"text": text, "tools": held_back.get(str(i), [])} for i, text in enumerate(texts)]
    return Task(texts[0], {**row, "turns": turns}, id=row["id"])


class Multi(ToolEnv):
    """Classes for each task, several user turns, tools held back, a check per turn, gold in a second file."""

    folder = Path()
    user = UserTurns(check=as_the_gold)
    tool_rules = ToolRules(
        fidelity="suite",
        offered=kit,
        render=json.dumps,
        is_error=lambda value: isinstance(value, dict) and "error" in value,
    )

    def tasks(self, split: Split, rng: random.Random) -> list[Task]:
        gold = self.folder / "gold.json"
        return tasks_from(self.folder / "multi.json", split, splits="test", gold=gold, make=of_row)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = suites.fresh(task.data)

    def gold(self, task: Task) -> Any:
        return [[python_call(text) for text in turn] for turn in task.data["gold"]]


class Phone(ToolEnv):
    """Functions of a context, a test split alone, a task where nothing is to be done."""

    tools = toolset(
        suites.send_message, suites.set_cellular, suites.search_contacts,
        injects="context", effect=("send_message", "set_cellular"),
    )  # fmt: skip
    tool_rules = ToolRules(
        fidelity="suite",
        injected=lambda env: {"context": env.state},
        errors={suites.TypeCheckError: InvalidArguments},
    )

    def tasks(self, split: Split, rng: random.Random) -> list[Task]:
        return tasks_from(suites.PHONE, split, splits="test")

    def setup(self, task: Task, rng: random.Random) -> None:
        contacts = [{"name": "Ada", "phone": "+1234"}]
        self.state = {"contacts": contacts, "cellular": True, "low_battery": True, "sent": []}

    def success(self, task: Task) -> bool:
        return bool(self.state["sent"] == task.data["wants"])


def by_status(error: suites.Refused) -> ToolError:
    return {404: NotFound, 422: InvalidArguments}.get(error.status, ToolError)(str(error))


class Bank(ToolEnv):
    """Endpoints with pydantic models, a status in each failure, a session that is injected."""

    tools = (
        Tool.from_model(suites.Transfer, suites.transfer, name="transfer", injects="session", effect=True),
        Tool.from_model(suites.Balance, suites.balance, name="balance", injects="session"),
    )
    tool_rules = ToolRules(
        fidelity="suite", injected=lambda env: {"session": env.state}, errors={suites.Refused: by_status}
    )

    def tasks(self, split: Split, rng: random.Random) -> list[Task]:
        gold = {"a": [["transfer", {"receiver_email": "a@x", "amount": 5}]]}
        return tasks_from([{"instruction": "Send 5 to a@x.", "id": "a"}], split, splits={"test": ["a"]}, gold=gold)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"friends": ["a@x"], "balance": 100.0}

    def success(self, task: Task) -> bool:
        return bool(self.state["balance"] == 95)


SUITES: list[type[ToolEnv]] = [Retail, Multi, Phone, Bank]
of_all_suites = pytest.mark.parametrize("cls", SUITES, ids=[cls.__name__ for cls in SUITES])


@pytest.fixture(autouse=True)
def files_of_multi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON lines in files that end in .json, as that suite has them."""
    for name, rows in (("multi", suites.MULTI), ("gold", suites.MULTI_GOLD)):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    monkeypatch.setattr(Multi, "folder", tmp_path)


def begun(cls: type[ToolEnv], number: int = 0, faults: str = "") -> ToolEnv:
    env = cls()
    env.start(task_set(env, "test", 9)[number], FaultPlan.parse(faults) if faults else None)
    return env


@of_all_suites
def test_a_suite_is_brought_in_by_thirty_lines(cls: type[ToolEnv]) -> None:
    assert len(inspect.getsource(cls).strip().splitlines()) <= 30
    assert check_env(cls) == []


@of_all_suites
def test_recorded_gold_is_played_by_an_agent(cls: type[ToolEnv]) -> None:
    tasks = task_set(cls(), "test", 9)
    played = rollout(cls, scripted("gold"), [EpisodeSpec(task) for task in tasks])
    assert all(t.success for t in played)
    idle = rollout(cls, scripted("do-nothing"), [EpisodeSpec(task) for task in tasks])
    right = [task.instruction.endswith(("not like it.", "Bob hi.")) for task in tasks]
    assert [bool(t.success) for t in idle] == right
    for t in played:
        assert t.agent == "gold"
        assert t.expert_turns is None  # recorded gold is no expert
        assert Trajectory.from_json(t.to_json()) == t
        assert replay_check(cls(), t) is None


@of_all_suites
def test_recorded_gold_is_played_in_disguise(cls: type[ToolEnv]) -> None:
    hidden = harder(cls, disguise=1.0)
    tasks = task_set(hidden(), "test", 9)
    for t in rollout(hidden, scripted("gold"), [EpisodeSpec(task) for task in tasks]):
        assert t.success
        assert replay_check(hidden(), t) is None
        told = [call.name for turn in t.undisguised.turns for call in turn.action.tool_calls]
        bare = rollout(cls, scripted("gold"), [EpisodeSpec(t.task)])[0]
        assert told == [call.name for turn in bare.turns for call in turn.action.tool_calls]
    assert check_env(hidden, tasks=3) == []


@pytest.mark.parametrize(
    ("cls", "name", "arguments", "outcome", "cause", "words"),
    [
        (Retail, "get_order", {"order_id": "#X"}, "tool_error", "tool", "Error: Order not found"),
        (
            Retail, "get_order", {}, "invalid_arguments", "policy",
            "Error: Toolkit.get_order() missing 1 required positional argument: 'order_id'",
        ),
        (
            Retail, "get_order", {"order_id": "#W1", "x": 1}, "invalid_arguments", "policy",
            "Error: Toolkit.get_order() got an unexpected keyword argument 'x'",
        ),
        (Retail, "get_order", {"order_id": ["#W1"]}, "invalid_arguments", "policy", "Error: unhashable type: 'list'"),
        (Retail, "get_order", {"order_id": 5}, "invalid_arguments", "policy", "Error: Order not found"),
        (Retail, "cancel_order", {"order_id": "#W1", "reason": "so"}, "tool_error", "tool", "Error: Invalid reason"),
        (
            Retail, "statistics", {}, "unknown_tool", "policy",
            "Error: no tool is called 'statistics'; use one of the tools given",
        ),
        (
            Multi, "mv", {"source": "zz", "destination": "b"}, "tool_error", "tool",
            '{"error": "mv: cannot move \'zz\': No such file or directory"}',
        ),
        (
            Multi, "mv", {"source": "zz"}, "invalid_arguments", "policy",
            "Disk.mv() missing 1 required positional argument: 'destination'",
        ),
        (
            Phone, "send_message", {"phone": 12, "content": "x"}, "invalid_arguments", "policy",
            'argument "phone" (int) is not an instance of str',
        ),
        (
            Phone, "send_message", {"phone": "12", "content": "x"}, "tool_error", "tool",
            "'12' is not a valid phone number",
        ),
        (
            Phone, "set_cellular", {"on": True}, "forbidden", "tool",
            "Cellular service cannot be turned on in low battery mode",
        ),
        (Phone, "search_contacts", {"name": 3}, "invalid_arguments", "policy", "'int' object has no attribute 'lower'"),
        (
            Bank, "transfer", {"receiver_email": "q@x", "amount": 5}, "not_found", "tool",
            'Response status code is 404: {"message":"no such user"}',
        ),
        (
            Bank, "transfer", {"receiver_email": "a@x", "amount": 500}, "invalid_arguments", "policy",
            'Response status code is 422: {"message":"balance too low"}',
        ),
    ],
)  # fmt: skip
def test_a_suites_words_are_what_the_agent_sees(
    cls: type[ToolEnv], name: str, arguments: dict[str, Any], outcome: str, cause: str, words: str
) -> None:
    result = begun(cls).act(Action.call(name, **arguments)).turn.results[0]
    assert (result.outcome, result.cause, result.content) == (outcome, cause, words)


def made_up(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A call of the shop: right, wrong in a value, in a name, or in a type."""
    name = rng.choice(["get_order", "cancel_order"])
    odd: list[Any] = ["#X", "", 5, None, ["#W1"], {"id": 1}, 7.0, True]
    arguments: dict[str, Any] = {"order_id": rng.choice(["#W0", "#W1", "#W2"] if rng.random() < 0.7 else odd)}
    if name == "cancel_order" and rng.random() < 0.9:
        arguments["reason"] = rng.choice(["no longer needed", "ordered by mistake", "so", 3, ["a"], None])
    if rng.random() < 0.1:
        arguments[rng.choice(["x", "id"])] = 1
    if rng.random() < 0.1:
        del arguments["order_id"]
    return name, arguments


def test_made_up_calls_come_to_what_the_suite_itself_makes_of_them() -> None:
    rng, refused = random.Random(0), 0
    for _ in range(40):
        env, own = begun(Retail), suites.Toolkit(suites.orders())
        env.max_turns = 99
        for _ in range(25):
            name, arguments = made_up(rng)
            try:
                shown = json.dumps(getattr(own, name)(**arguments), separators=(",", ":"))
            except Exception as error:
                shown, refused = f"Error: {error}", refused + 1
            result = call(env, name, **arguments)
            assert (result.content, result.ok) == (shown, not shown.startswith("Error"))
            fits = env.toolbox.tools[name].validator.is_valid(arguments)
            assert result.ok or (result.cause is Cause.POLICY) == (not fits)
            assert env.state.orders == own.orders
    assert 300 < refused < 900


def test_a_suites_model_refuses_in_its_own_words() -> None:
    env = begun(Bank)
    wrong = call(env, "transfer", receiver_email="a@x", amount=-5)
    assert (wrong.outcome, wrong.cause, wrong.took_effect) == (Outcome.INVALID_ARGUMENTS, Cause.POLICY, False)
    assert wrong.content.startswith("1 validation error for Transfer\namount\n  Input should be greater than 0")
    assert call(env, "transfer", receiver_email="a@x", amount="5", odd=1, session={"balance": 10**9}).ok
    assert env.state["balance"] == 95.0


def test_a_suites_output_is_not_cut() -> None:
    assert len(call(begun(Retail), "get_order", order_id="#W1").content) > 5000
    assert len(call(begun(Bank), "balance").content) > 20_000


def test_a_suites_failures_keep_their_traceback_and_may_have_taken_effect() -> None:
    env = begun(Phone)
    env.state["cellular"] = False
    late = call(env, "send_message", phone="+1", content="x")
    assert (late.outcome, late.took_effect) == (Outcome.UNAVAILABLE, None)
    assert "ConnectionError: Cellular service is not enabled" in str(late.error)
    assert call(env, "search_contacts", name=3).took_effect is False


def test_a_suites_failure_that_is_injected_has_its_form() -> None:
    struck = call(begun(Retail, faults="unavailable:1.0"), "get_order", order_id="#W1")
    assert (struck.outcome, struck.cause) == (Outcome.UNAVAILABLE, Cause.INJECTED)
    assert struck.content.startswith("Error: ")
    assert begun(Multi, faults="unavailable:1.0").act(Action.call("ls")).turn.results[0].fault == "unavailable"


def test_arguments_reach_a_suite_as_they_were_written() -> None:
    seen: list[Any] = []

    def keep(n: int, day: date | None = None) -> str:
        """Keep."""
        seen.append((n, day))
        return "kept"

    for more, wanted in (({}, (7.0, "2026-01-02")), ({"validation": "schema"}, (7, date(2026, 1, 2)))):
        box = Toolbox(toolset(keep), None, fidelity="suite", **more)  # type: ignore[arg-type]  # no world
        assert box.execute(ToolCall("keep", {"n": 7.0, "day": "2026-01-02"}))[1].ok
        assert seen.pop() == wanted
        assert isinstance(wanted[0], int) == bool(more)


def test_settings_go_before_a_suites_fidelity() -> None:
    def fail() -> str:
        """Fail."""
        raise KeyError("no such")

    def box(**more: Any) -> ToolResult:
        return Toolbox(toolset(fail), None, fidelity="suite", **more).execute(ToolCall("fail", {}))[1]  # type: ignore[arg-type]  # no world

    assert box().content == "'no such'"
    assert box(max_output=3).content.startswith("'no... [cut: 6")
    assert box(hint_level=0).content == "failed"
    assert box(hint_level=1).content == "tool_error"
    assert box(errors={KeyError: NotFound}).outcome is Outcome.NOT_FOUND
    assert box(errors={KeyError: lambda error: None, LookupError: Conflict}).outcome is Outcome.CONFLICT
    assert box(errors={KeyError: lambda error: NotFound(repr(error))}).content == "KeyError('no such')"
    with pytest.raises(ConfigError, match="fidelity is one of house, suite, got 'suit'"):
        Toolbox((), None, fidelity="suit")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(
        EnvError, match=r"fidelity is a setting of the tools; write tool_rules = ToolRules\(fidelity='suite'"
    ):
        type("Wrong", (ToolEnv,), {"fidelity": "suite"})


def test_a_refusal_of_arguments_is_the_policys_in_any_house() -> None:
    def even(n: int) -> int:
        """Take an even number."""
        raise InvalidArguments("n must be even")

    result = Toolbox(toolset(even), None).execute(ToolCall("even", {"n": 1}))[1]  # type: ignore[arg-type]  # no world
    assert (result.outcome, result.cause) == (Outcome.INVALID_ARGUMENTS, Cause.POLICY)
    assert json.loads(result.content) == {"error": "invalid_arguments", "message": "n must be even"}


# ---- what the check says of a suite ----------------------------------------------------------------------------------


def found(cls: type[ToolEnv]) -> list[str]:
    return [f"{finding.severity}: {finding.what}" for finding in check_env(cls)]


def test_a_house_environment_still_needs_all_splits_and_an_effect() -> None:
    class House(Phone):
        tool_rules = ToolRules(validation="off", injected=lambda env: {"context": env.state})

    what = " ".join(found(House))
    assert "the split 'train' has no tasks" in what
    assert "lacks ## Tools" in what


def test_inaction_is_right_only_where_the_gold_does_nothing() -> None:
    class Lazy(Phone):
        def success(self, task: Task) -> bool:
            return True

    assert any(
        "error: 1 of 2 tasks (such as 'Text Ada hi.') succeed when nothing is done" in line for line in found(Lazy)
    )

    class Silent(Lazy):
        def gold(self, task: Task) -> None:
            return None

    assert any("error: 2 of 2 tasks" in line for line in found(Silent))

    class Unknown(Phone):
        def gold(self, task: Task) -> None:
            return None

    lines = found(Unknown)
    assert not any(line.startswith("error") for line in lines)
    assert any("1 of 2 tasks (such as 'Text Bob hi.') succeed when nothing is done" in line for line in lines)


def test_gold_that_fails_is_found() -> None:
    class Wrong(Phone):
        def gold(self, task: Task) -> Any:
            return [["send_massage", {}]]

    (line,) = [line for line in found(Wrong) if "gold" in line]
    assert line.startswith("error: the recorded gold fails 2 of 2 tasks") or "fails 1 of 2 tasks" in line
    assert "send_massage ended in unknown_tool" in line


def test_tools_that_are_only_offered_are_checked_like_any() -> None:
    def odd(env: Any) -> list[Any]:
        return [
            Tool.from_function(suites.set_cellular, name="set cellular", injects="context", ids=("sim",)),
            Tool.from_function(suites.search_contacts, injects="context", alternative="ask"),
        ]

    class Offered(Phone):
        tools = ()
        tool_rules = ToolRules(fidelity="suite", offered=odd, injected=lambda env: {"context": env.state})

    lines = found(Offered)
    assert any("'set cellular' has a name that model providers refuse" in line for line in lines)
    assert any("lists the id 'sim', which is none of its parameters" in line for line in lines)
    assert any("no tool changes the world" in line for line in lines)
    assert not any("has no tools" in line or "is no @tool method" in line for line in lines)


def test_a_wrapper_that_finds_no_object_is_told_of() -> None:
    class Lost(Retail):
        tools = methods(suites.Toolkit, "get_order", "cancel_order", at="state.desk", effect="cancel_order")

    lines = found(Lost)
    assert any("raised AttributeError: 'Toolkit' object has no attribute 'desk'" in line for line in lines)
    assert any("the recorded gold fails" in line for line in lines)


def test_a_broken_file_of_tasks_is_not_an_empty_split(tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text('[\n {"instruction": "A"},\n {"instruction": 3}\n]')

    class Broken(Phone):
        def tasks(self, split: Split, rng: random.Random) -> list[Task]:
            return tasks_from(tmp_path / "tasks.json", split, splits="test")

    assert any("tasks.json, line 3: instruction is of type str, got 3" in line for line in found(Broken))


def test_a_split_without_tasks_names_those_with_some() -> None:
    with pytest.raises(NoTasks, match=r"none of its 2 tasks falls into the split 'train'.*there are some in test"):
        task_set(Phone(), "train", 1)
    assert Phone().reset(seed=1)[0].messages[-1].content.startswith("Text ")  # the split that there is


# ---- user turns as data ----------------------------------------------------------------------------------------------


def test_tools_come_with_a_turn_and_each_turn_is_checked() -> None:
    env = begun(Multi, 1)
    assert "rm" not in names(env.toolbox.present)
    assert call(env, "rm", file_name="x").outcome is Outcome.UNKNOWN_TOOL
    call(env, "add_note", text="x goes")
    step = env.act(Action("Done."))
    assert [m.content.splitlines()[0] for m in step.turn.messages] == ["New tools:"]  # an empty text says nothing
    assert "rm" in names(step.observation.tools)
    middle = env.snapshot()
    assert call(env, "rm", file_name="x").ok
    assert env.act(Action("Done.")).stop is StopReason.FINISHED
    assert env.judge()[0]
    other = Multi()
    other.restore(middle)
    assert "rm" in names(other.toolbox.present)
    other.act(Action("Done."))
    assert not other.judge()[0]
    assert other.episode.notes == {
        "reason": "turn 2 of 2: its check failed",
        "checks": [{"passed": True, "reason": ""}, {"passed": False, "reason": ""}],
    }


def test_a_failed_turn_cannot_be_made_good_later() -> None:
    env = begun(Multi)
    env.act(Action("Done."))
    call(env, "mv", source="a", destination="b")
    call(env, "mv", source="b", destination="c")
    env.act(Action("Done."))
    assert env.judge() == (False, {"success": 0.0})
    assert env.episode.reason == "turn 1 of 2: its check failed"


def test_an_episode_that_ends_early_has_not_done_all() -> None:
    env = begun(Multi)
    call(env, "mv", source="a", destination="b")
    env.episode.cut(StopReason.TERMINATED)
    assert not env.judge()[0]
    assert env.episode.reason == "ended in turn 1 of 2"


def test_what_a_turn_is_read_from() -> None:
    read = UserTurn.read
    assert read("Hi.") == UserTurn("Hi.")
    assert read({"text": "Hi.", "tools": ["rm"]}) == UserTurn("Hi.", ("rm",))
    assert read([{"role": "user", "content": "A"}, {"role": "user", "content": "B"}]) == UserTurn("A\n\nB")
    for wrong, told in (
        (3, "a turn of the user's is a text"),
        ({"txt": "a"}, "Did you mean 'text'"),
        ({"text": "a", "tools": "rm"}, "a list"),
        ({"text": "a", "does": ["x"]}, "who, tool, arguments"),
        ([{"role": "system", "content": "A"}], "of the role user"),
    ):
        with pytest.raises(DataError, match=told):
            read(wrong)


def test_turns_that_cannot_be_meant() -> None:
    def with_turns(turns: Any) -> ToolEnv:
        env: ToolEnv = type("Told", (Door,), {"user": UserTurns(lambda env: turns)})()
        return env

    for nothing in (list[str](), "Hi.", None):
        with pytest.raises(EnvError, match="has no turns of the user's"):
            with_turns(nothing).start(TASK)
    with pytest.raises(UnknownName, match="tool of Told 'pull'"):
        with_turns(["Hi.", {"text": "Now.", "tools": ["pull"]}]).start(TASK)
    env = with_turns(["Hi.", "Now.", "Bye."])
    env.start(TASK)
    said = [env.act(Action("Done.")) for _ in range(3)]
    assert [[m.content for m in step.turn.messages] for step in said] == [["Now."], ["Bye."], []]
    assert said[-1].stop is StopReason.FINISHED
    with pytest.raises(EnvError, match="defines no success"):
        begun(type("Unjudged", (Multi,), {"user": UserTurns()})).judge()


def test_turns_without_the_first_are_found() -> None:
    class Late(Multi):
        user = UserTurns(lambda env: env.episode.task.data["turns"][1:], check=as_the_gold)

    assert any("the user's first turn is none of the first messages" in line for line in found(Late))


def test_calls_of_an_episode_in_one_list_with_the_texts_shown() -> None:
    env = begun(Multi)
    call(env, "ls")
    env.act(Action("Done."))
    call(env, "mv", source="zz", destination="b")
    shown = [(c.name, c.arguments, result.content) for c, result in env.episode.calls]
    assert shown == [
        ("ls", {}, '{"current_directory_content": ["a"]}'),
        ("mv", {"source": "zz", "destination": "b"}, '{"error": "mv: cannot move \'zz\': No such file or directory"}'),
    ]


# ---- recorded gold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "actions"),
    [
        ([], ["Done."]),
        (["Hello."], ["Hello."]),
        ([["a", {"x": 1}]], [("a", {"x": 1}), "Done."]),
        ([{"name": "a"}, "Bye."], [("a", {}), "Bye."]),
        ([{"name": "a", "kwargs": {"x": 1}}], [("a", {"x": 1}), "Done."]),
        ([{"type": "function", "function": {"name": "a", "arguments": '{"x": 1}'}}], [("a", {"x": 1}), "Done."]),
        ([[["a", {}]], [["b", {}], "Bye."]], [("a", {}), "Done.", ("b", {}), "Bye."]),
        ([[["a", {}]], []], [("a", {}), "Done.", "Done."]),
        ([["Hi.", {"name": "a", "arguments": {}}]], ["Hi.", ("a", {}), "Done."]),
        ([["create", {"name": "Ada"}]], [("create", {"name": "Ada"}), "Done."]),
        ([Action.call("a"), ToolCall("b", {})], [("a", {}), ("b", {}), "Done."]),
    ],
)
def test_gold_is_read_as_suites_write_it(gold: Any, actions: list[Any]) -> None:
    class Recorded(Door):
        def gold(self, task: Task) -> Any:
            return gold

    read = recorded_actions(Recorded(), TASK)
    assert read is not None
    assert [a.content or (a.tool_calls[0].name, a.tool_calls[0].arguments) for a in read] == actions


@pytest.mark.parametrize("gold", [[3], [["a", 3]], [{"tool": "a"}], [{"name": "a", "arguments": "x"}]])
def test_gold_that_cannot_be_read(gold: Any) -> None:
    with pytest.raises(DataError, match=f"the gold of the task {TASK.id}"):
        recorded_actions(Door(), Task(TASK.instruction, {"gold": gold}, id=TASK.id))


def test_an_agent_without_gold_says_what_to_do() -> None:
    env = Door()
    env.start(TASK)
    script = scripted("gold").script(env, 0)
    with pytest.raises(EnvError, match=r"the task \w+ of Door has no recorded gold; give it in data\['gold'\]"):
        next(script)
    assert recorded_actions(Door(), Task("Answer.", {"gold": 4})) is None  # another suite's answer


def test_gold_goes_on_from_a_fork() -> None:
    tasks = task_set(Multi(), "test", 2)
    (whole,) = rollout(Multi, scripted("gold"), [EpisodeSpec(tasks[0])])
    middle = list(replay(Multi(), whole))[2]
    (rest,) = rollout(Multi, scripted("gold"), [EpisodeSpec(tasks[0], start=middle, parent=whole, fork=2)])
    assert rest.success
    assert [turn.action for turn in rest.turns] == [turn.action for turn in whole.turns]


# ---- tools from methods and models -----------------------------------------------------------------------------------


def wrapped(fn: Any) -> Any:
    @functools.wraps(fn)
    def inner(*given: Any, **named: Any) -> Any:
        return fn(*given, **named)

    vars(inner)["tool_kind"] = "write"
    return inner


class Inherits(suites.Toolkit):
    @wrapped
    def ship(self, order_id: str) -> str:
        """Ship an order."""
        return order_id

    @property
    def broken(self) -> int:
        raise RuntimeError

    @staticmethod
    def rules() -> str:
        """Tell the rules."""
        return "none"

    async def later(self) -> str:
        """Answer later."""
        return "later"


def test_methods_are_chosen_by_what_they_are() -> None:
    marked = methods(Inherits, where=lambda f: hasattr(f, "tool_kind"), effect=lambda f: f.tool_kind == "write")
    assert [(t.name, t.effect) for t in marked] == [("get_order", False), ("cancel_order", True), ("ship", True)]
    every = methods(Inherits, where=lambda f: f.__doc__ != "Not for the agent.", effect=("ship",), idempotent="rules")
    assert names([t.spec for t in every]) == ["get_order", "cancel_order", "ship", "rules", "later"]
    assert [t.name for t in every if t.effect] == ["ship"]
    assert [t.name for t in every if t.idempotent] == ["rules"]
    assert methods(Inherits, "rules", where=lambda f: hasattr(f, "tool_kind"))[0].name == "rules"
    for options, told in (
        ({}, r"no methods of Inherits become tools; name some of its methods, or say where=\.\.\."),
        ({"where": lambda f: False}, "is true of none"),
        ({"where": lambda f: hasattr(f, "tool_kind"), "effect": ("shipp",)}, "effect= names 'shipp', which is none of"),
    ):
        with pytest.raises(EnvError, match=told):
            methods(Inherits, **options)


def test_a_set_of_functions_says_which_of_them_write() -> None:
    made = toolset(
        suites.send_message,
        ("note", lambda: 1, {"type": "object", "description": "Note."}),
        injects="context",
        effect=("note",),
    )
    assert [(t.name, t.effect) for t in made] == [("send_message", False), ("note", True)]
    with pytest.raises(EnvError, match="effect= names 'note', which is none of send_message"):
        toolset(suites.send_message, injects="context", effect=("note",))


# ---- tasks and gold in files of other forms --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('[{"instruction": "A"},\n {"instruction": "B"}]', ["A", "B"]),
        ('\ufeff[{"instruction": "A"}]', ["A"]),
        ('{"instruction": "A"}\n{"instruction": "B"}\n', ["A", "B"]),
        ('{"instruction": "A", "data": {"k": [1]}}', ["A"]),
        ('{"t1": {"instruction": "A"}, "t2": {"instruction": "B"}}', ["A", "B"]),
        ('{"version": 2, "tasks": [{"instruction": "A"}]}', ["A"]),
    ],
)
def test_forms_of_a_json_file(tmp_path: Path, text: str, read: list[str]) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text, "utf-8")
    assert [task.instruction for task in tasks_from(path, "test", splits="test")] == read
    assert [task.instruction for task in tasks_from(str(path), "test", splits="test")] == read


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[\n {"instruction": "A"},\n {"instruction": 3}\n]', "line 3: instruction is of type str, got 3"),
        ('[\n {"instruction": "A"},\n {"instruc', "line 3: not JSON"),
        ('[{"instruction": "A"}\n{"instruction": "B"}]', "line 2: not JSON: a comma or the array's end was expected"),
        ('[{"instruction": "A"}] x', "there is more after the array's end"),
        ('[{"instruction": "A"},]', "not JSON: Expecting value"),
        ('[{"instruction": "A", "data": {"x": NaN}}]', "NaN is no JSON value"),
        ("[]", "holds no task"),
        ("3", "tasks are an array or an object, got int"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_json_files_are_told_by_their_lines(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError) as told:
        tasks_from(path, "test", splits="test")
    assert error in str(told.value)
    assert "\n" not in str(told.value)


ROWS = [{"instruction": "A", "id": "a", "s": "dev"}, {"instruction": "B", "id": "b", "s": "hard"}]


def test_splits_of_a_suite(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "s"} for row in ROWS]
    (tmp_path / "splits.json").write_text('{"train": ["a"], "test": ["b"], "base": ["a", "b"]}')
    for splits in ({"train": ["a"], "test": ["b"], "base": ["a", "b"]}, tmp_path / "splits.json"):
        assert [t.id for t in tasks_from(rows, "test", splits=splits)] == ["b"]
        with pytest.raises(NoTasks):
            tasks_from(rows, "validation", splits=splits)
    named = {"dev": "validation", "hard": "test"}
    assert [t.id for t in tasks_from(ROWS, "validation", field="s", splits=named)] == ["a"]
    with pytest.raises(DataError, match="s is one of train, validation, test, dev, got 'hard'"):
        tasks_from(ROWS, "test", field="s", splits={"dev": "validation"})
    with pytest.raises(DataError, match="the task 'a' is in 'train' and in 'test'"):
        tasks_from(rows, "test", splits={"train": ["a"], "test": ["a"]})
    with pytest.raises(ConfigError, match="splits is one of train, validation, test, ids by split"):
        tasks_from(rows, "test", splits="tset")
    with pytest.raises(DataError, match="row 1: an id is a text"):
        tasks_from([{"instruction": "A"}], "test", splits={"test": ["a"]})


def test_gold_comes_from_a_second_file(tmp_path: Path) -> None:
    rows = [{"instruction": "A", "id": "a"}]
    for name, text, gold in (
        ("g.json", '[{"id": "a", "ground_truth": [["x", {}]]}]', [["x", {}]]),
        ("g.json", '{"id": "a", "answer": [1]}', [1]),
        ("g.jsonl", '{"id": "a", "gold": [2], "more": 2}', [2]),
        ("g.json", '{"a": [3], "z": [4]}', [3]),
    ):
        (tmp_path / name).write_text(text)
        (task,) = tasks_from(rows, "test", splits="test", gold=tmp_path / name)
        assert task.data == {"gold": gold}
    numbered = [{"q": "A", "id": 1}]
    (task,) = tasks_from(numbered, "test", splits="test", gold={1: ["x"]}, make=lambda row: Task(row["q"], row))  # type: ignore[dict-item]  # ids as a file in Python may have them
    assert task.data["gold"] == ["x"]
    with pytest.raises(DataError, match="row 1: there is no gold for the id 'a'; gold is found by id"):
        tasks_from(rows, "test", splits="test", gold={"b": []})
    with pytest.raises(DataError, match="row 1: an id is a text, by which a row is found"):
        tasks_from([{"instruction": "A"}], "test", splits="test", gold={"a": []})
    (tmp_path / "g.jsonl").write_text('{"id": "a", "x": 1, "y": 2}')
    with pytest.raises(DataError, match=r"g.jsonl, line 1: gold is an id and one other field.*got id, x, y"):
        tasks_from(rows, "test", splits="test", gold=tmp_path / "g.jsonl")
    (tmp_path / "g.jsonl").write_text('{"id": "a", "gold": 1}\n{"id": "a", "gold": 2}')
    with pytest.raises(DataError, match="line 2: the gold of 'a' is there already"):
        tasks_from(rows, "test", splits="test", gold=tmp_path / "g.jsonl")


# ---- tasks from files ------------------------------------------------------------------------------------------------

JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn"), exclude_characters="\ufeff\x85\u2028\u2029")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn"), exclude_characters="\ufeff\x85\u2028\u2029"), min_size=1
)
ROW = st.fixed_dictionaries(
    {"instruction": WORDS},
    optional={
        "data": st.dictionaries(st.text("xyz"), JSONISH, max_size=3),
        "seed": st.integers(0, 99),
        "kind": st.text("k"),
        "level": st.integers(1, 4),
    },
)


def written(folder: Path, rows: Sequence[Any], suffix: str) -> Path:
    path = folder / f"tasks{random.randrange(10**12)}{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(yaml.safe_dump(list(rows), allow_unicode=True) if suffix == ".yaml" else lines, "utf-8")
    return path


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=8, unique_by=lambda row: row["instruction"]),
    suffix=st.sampled_from([".jsonl", ".yaml"]),
)
def test_every_row_is_a_task_of_one_split(
    rows: list[dict[str, Any]], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.getbasetemp(), rows, suffix)
    found: dict[str, str] = {}
    for split in SPLITS:
        for task in _or_none(path, split):
            assert task.id not in found
            found[task.id] = split
    path.unlink()
    assert set(found) == {Task(**row).id for row in rows}


def test_a_hash_splits_as_it_says_and_stays(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do {n}.", "data": {"n": n}} for n in range(2000)]
    path = written(tmp_path, rows, ".jsonl")
    sizes = {split: len(tasks_from(path, split)) for split in SPLITS}
    assert sum(sizes.values()) == 2000
    assert 150 < sizes["test"] < 250
    assert 150 < sizes["validation"] < 250
    more = written(tmp_path, [*rows, {"instruction": "Another."}], ".jsonl")
    assert {t.id for t in tasks_from(path, "test")} <= {t.id for t in tasks_from(more, "test")}


def test_a_field_splits(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do {s}.", "part": s} for s in SPLITS]
    for suffix in (".jsonl", ".yaml"):
        path = written(tmp_path, rows, suffix)
        assert [tasks_from(path, s, field="part")[0].instruction for s in SPLITS] == [f"Do {s}." for s in SPLITS]


def test_other_fields_are_made_into_tasks(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "2 + 2?", "gold": 4}], ".jsonl")

    def tasks(make: Any) -> list[Task]:
        return [task for split in SPLITS for task in _or_none(path, split, make)]

    assert tasks(lambda row: Task(row["question"], {"gold": row["gold"]})) == [Task("2 + 2?", {"gold": 4})]
    with pytest.raises(DataError, match=r"line 1: make\(row\) raised KeyError: 'answer'"):
        tasks(lambda row: Task(row["answer"]))


def _or_none(path: Path, split: Any, make: Any = None) -> list[Task]:
    """The tasks of a split that may have none."""
    try:
        return tasks_from(path, split, make=make)
    except DataError as error:
        if "none of its" in str(error):
            return []
        raise


def test_a_task_belongs_to_who_asked(tmp_path: Path) -> None:
    path = written(tmp_path, [{"instruction": "Do.", "data": {"x": [1]}, "part": "test"}], ".jsonl")
    tasks_from(path, "test", field="part")[0].data["x"].append(2)
    assert tasks_from(path, "test", field="part")[0].data == {"x": [1]}
    path.write_text('{"instruction": "Now.", "part": "test"}')
    assert tasks_from(path, "test", field="part")[0].instruction == "Now."


def test_the_order_is_drawn_from_the_rng(tmp_path: Path) -> None:
    path = written(tmp_path, [{"instruction": f"Do {n}.", "part": "test"} for n in range(30)], ".jsonl")
    drawn = [[t.instruction for t in tasks_from(path, "test", field="part", rng=random.Random(s))] for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[0]) == sorted(drawn[2])


@pytest.mark.parametrize(
    ("suffix", "text", "error"),
    [
        (".jsonl", '{"instruction": "A"}\n\n{"instruction": 3}', "line 3: instruction is of type str, got 3"),
        (".jsonl", '{"instruction": "A"}\n{oops', "line 2: not JSON: Expecting property name"),
        (".jsonl", '{"instruction": "A", "data": {"x": NaN}}', "line 1: not JSON: NaN is no JSON value"),
        (".jsonl", '{"instruction": "A", "data": {"x": 1e999}}', "line 1: not JSON: 1e999 is no finite number"),
        (".jsonl", '{"instruction": "A"}\n[1]', "line 2: a task is an object with an instruction, got list"),
        (".jsonl", '{"instrucion": "A"}', "line 1: unknown field of a task 'instrucion'. Did you mean 'instruction'?"),
        (".jsonl", '{"data": {}}', "line 1: a task needs an instruction"),
        (".jsonl", '{"instruction": "A", "level": 0}', "line 1: levels count from 1, got 0"),
        (".jsonl", '{"instruction": "A", "level": true}', "line 1: level is of type int, got True"),
        (".jsonl", '{"instruction": "A", "id": "x"}\n{"instruction": "B", "id": "x"}', "line 2: the task 'x'"),
        (".jsonl", "\n", "holds no task"),
        (".jsonl", "[" * 100000, "line 1: not JSON"),
        (".yaml", "- instruction: A\n- instruction: B\n  data: {on: 2026-01-02}", "line 2: the row holds what JSON"),
        (".yaml", "- instruction: A\n- instruction: B\n  data: {1: 2}", "line 2: the row holds what JSON cannot"),
        (".yaml", "- instruction: A\n- 7", "line 2: a task is an object with an instruction, got int"),
        (".yaml", "- instruction: A\n- instruction: [B", "line 2: not YAML: expected"),
        (".yaml", "instruction: A", "a YAML file of tasks is a list"),
        (".yaml", "- !!python/object/apply:os.system [ls]", "line 1: not YAML: could not determine a constructor"),
        (".yaml", "", "holds no task"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_told_by_its_line(tmp_path: Path, suffix: str, text: str, error: str) -> None:
    path = tmp_path / f"tasks{suffix}"
    path.write_text(text)
    with pytest.raises(DataError) as told:
        tasks_from(path, "train")
    assert error in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_wrong_files_and_splits(tmp_path: Path) -> None:
    path = written(tmp_path, [{"instruction": "Do.", "part": "tset"}, {"instruction": "Go."}], ".jsonl")
    with pytest.raises(DataError, match="line 1: part is one of train, validation, test, got 'tset'"):
        tasks_from(path, "test", field="part")
    path.write_text('{"instruction": "Do.", "part": "test"}\n{"instruction": "Go."}')
    with pytest.raises(DataError, match="line 2: part is one of train, validation, test, got none"):
        tasks_from(path, "test", field="part")
    path.write_text('{"instruction": "Do.", "part": "test"}\n{"instruction": "Do.", "part": "train", "seed": 1}')
    with pytest.raises(DataError, match="line 2: the same task is in line 1 in the split 'test'; splits share none"):
        tasks_from(path, "test", field="part")
    path.write_text('{"instruction": "Do.", "part": "test"}')
    with pytest.raises(DataError, match="none of its 1 tasks falls into the split 'train'; give some rows part: train"):
        tasks_from(path, "train", field="part")
    with pytest.raises(ConfigError, match=r"cannot read the tasks in .*none\.jsonl: No such file"):
        tasks_from(tmp_path / "none.jsonl", "train")
    (tmp_path / "tasks.csv").write_text("a,b")
    with pytest.raises(ConfigError, match=r"ends in \.json, \.jsonl, \.yaml, \.yml, got tasks\.csv"):
        tasks_from(tmp_path / "tasks.csv", "train")
    with pytest.raises(ConfigError, match="a split is one of"):
        tasks_from(path, "dev")  # type: ignore[arg-type]  # what is tested
    (tmp_path / "latin.jsonl").write_bytes(b'{"instruction": "\xe9"}')
    with pytest.raises(DataError, match="no UTF-8"):
        tasks_from(tmp_path / "latin.jsonl", "train")


# ---- environments of other packages ----------------------------------------------------------------------------------

PLUGIN = '''
from sparring import Task, ToolEnv, tool

class Lamp(ToolEnv):
    """Light a lamp."""

    def __init__(self, bright=False):
        super().__init__()

    def tasks(self, split, rng):
        yield Task(f"Light the lamp of {split}.")

    def setup(self, task, rng):
        self.state = {"lit": False}

    @tool(effect=True)
    def light(self) -> str:
        """Light it."""
        self.state["lit"] = True
        return "lit"

    def success(self, task):
        return self.state["lit"]
'''


def install(site: Path, package: str, points: dict[str, str], **files: str) -> None:
    """What `pip install --target` leaves behind."""
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[sparring.envs]\n{lines}")
    for name, text in files.items():
        (site / f"{name}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    sys.path.append(str(folder))
    known = set(gymnasium.registry)
    yield folder
    for id in set(gymnasium.registry) - known:
        del gymnasium.registry[id]


def test_an_installed_package_is_found_and_imported_late(site: Path) -> None:
    install(site, "lamp-envs", {"lamp": "lamp_envs:Lamp", "light/Bright-v1": "lamp_envs:Lamp"}, lamp_envs=PLUGIN)
    listed = registered()
    assert listed["lamp/Lamp-v0"] == "lamp"
    assert listed["light/Bright-v1"] == ""
    assert "lamp_envs" not in sys.modules
    for name in ("lamp", "lamp/Lamp-v0", "light/Bright-v1"):
        env = make(name, bright=True)
        env.reset(seed=0)
        assert call(env, "light").ok
    assert isinstance(gymnasium.make("lamp/Lamp-v0").unwrapped, type(env))
    (t,) = rollout("lamp", script(Action.call("light"), Action("Done.")), [EpisodeSpec(Task("Light it."))])
    assert t.success
    assert t.env == "lamp/Lamp-v0"
    with pytest.raises(UnknownName, match="Did you mean 'lamp'"):
        make("lamb")
    with pytest.raises(EnvError, match=r"lamp/Lamp-v0 cannot be made with \{'dim': 1\}"):
        make("lamp", dim=1)


@pytest.mark.parametrize(
    ("value", "module", "told"),
    [
        ("broken_envs:Lamp", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this"),
        ("broken_envs:Lamp", "raise SystemExit(3)", "SystemExit: 3"),
        ("broken_envs:Lamp", "def broken(:", "SyntaxError"),
        ("broken_envs:Lump", PLUGIN, "AttributeError: module 'broken_envs' has no attribute 'Lump'"),
        ("broken_envs:Lamp", "Lamp = dict", "is a dict, not a ToolEnv"),
        ("broken_envs:Lamp", "class Lamp:\n  def __init__(self): 1 / 0", "division by zero"),
        ("broken_envs", PLUGIN, "its entry point is 'broken_envs', and not 'module:Class'"),
    ],
)
def test_a_broken_package_is_named_and_breaks_no_other(site: Path, value: str, module: str, told: str) -> None:
    install(site, "broken-envs", {"broken": value}, broken_envs=module)
    install(site, "lamp-envs", {"lamp": "lamp_envs:Lamp"}, lamp_envs=PLUGIN)
    with pytest.raises(EnvError, match="of the package 'broken-envs' cannot be made: ") as error:
        make("broken")
    assert told in str(error.value)
    assert "uninstall that package" in str(error.value)
    assert isinstance(make("lamp"), ToolEnv)
    assert isinstance(make("echo"), ToolEnv)
    assert "lamp/Lamp-v0" in registered()
    assert [f.severity for f in check_env("broken")] == ["error"]


def test_a_broken_package_in_the_list_of_environments(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparring.cli.envs import envs

    install(site, "broken-envs", {"broken": "broken_envs:Lamp"}, broken_envs="import nothing_of_this_name")
    install(site, "lamp-envs", {"lamp": "lamp_envs:Lamp"}, lamp_envs=PLUGIN)
    envs()
    printed = " ".join(capsys.readouterr().out.split())
    assert "lamp (lamp/Lamp-v0) Light a lamp. tools: light" in printed
    assert "cannot be made: the environment 'broken/Lamp-v0' of the package 'broken-envs'" in printed


def test_names_that_two_packages_give(site: Path) -> None:
    install(site, "lamp-envs", {"lamp": "lamp_envs:Lamp"}, lamp_envs=PLUGIN)
    install(site, "old-lamps", {"lamp": "old_lamps:Lamp", "orders": "old_lamps:Lamp"}, old_lamps=PLUGIN)
    with pytest.raises(EnvError, match=r"the package '.*' offers it too; uninstall one of them"):
        make("lamp")
    assert make("orders").sparring_id == "sparring/Orders-v0"  # type: ignore[attr-defined]  # set by make
    assert registered()["orders/Lamp-v0"] == ""
    assert isinstance(make("orders/Lamp-v0"), ToolEnv)


def test_one_short_name_for_two_environments(site: Path) -> None:
    install(site, "lamp-envs", {"lamp": "lamp_envs:Lamp"}, lamp_envs=PLUGIN)
    install(site, "other-lamps", {"lamp": "other_lamps:Torch"}, other_lamps=PLUGIN.replace("Lamp", "Torch"))
    with pytest.raises(EnvError, match=r"the name 'lamp' is that of 'lamp/Lamp-v0' .* and 'lamp/Torch-v0' .*whole id"):
        make("lamp")
    assert type(make("lamp/Torch-v0")).__name__ == "Torch"


def test_a_name_that_gymnasium_would_refuse(site: Path) -> None:
    install(site, "odd-envs", {"odd/lamp": "odd_envs:Lamp"}, odd_envs=PLUGIN)
    with pytest.raises(EnvError, match="its name is 'odd/lamp', and neither a short name nor an id"):
        make("odd/lamp")
    assert isinstance(make("echo"), ToolEnv)


def test_what_a_process_registered_goes_before(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.envs import registry
    from sparring.envs.echo import Echo

    monkeypatch.setattr(registry, "_ENTRIES", {**registry._ENTRIES, "lamp/Lamp-v0": Echo})
    install(site, "lamp-envs", {"lamp": "lamp_envs:Lamp"}, lamp_envs=PLUGIN)
    assert isinstance(make("lamp/Lamp-v0"), Echo)
