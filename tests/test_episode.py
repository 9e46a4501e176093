"""The author's class and the running episode: names, facets, giving up, and what a class may not say."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import pytest

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.agents.replay import Kind, replay_check
from sparring.envs import (
    FaultHooks,
    KnobHooks,
    Others,
    ToolEnv,
    ToolRules,
    User,
    Verdict,
    check_env,
    expert_turns,
    harder,
    make,
    play,
    task_set,
)
from sparring.envs.experts import expert_turns_for
from sparring.envs.rewards import Ended, false_success, wrong_give_up
from sparring.tools import FaultPlan, methods, tool
from sparring.trajectories import Action, ConfigError, EnvError, StopReason, Task, Trajectory
from sparring.trajectories.giving_up import says_it_cannot

TASK = Task("Answer Ada's mail.", {"to": "Ada"})


def test_an_author_has_few_names_to_know() -> None:
    own = {n for n in dir(ToolEnv) if not n.startswith("_")} - set(dir(gymnasium.Env))
    own |= {n for n in ToolEnv.__annotations__ if not n.startswith("_")} - {"metadata"}
    assert own == {
        "tasks", "setup", "success", "solve", "prompt", "system", "max_turns", "blocking", "copyable", "state",
        "keeps_before", "gold", "user", "others", "fault_hooks", "tool_rules", "reward_terms", "knobs",
        "toolbox", "episode", "start", "act", "judge", "snapshot", "restore",
    }  # fmt: skip
    assert len(own) <= 25


class Mail(ToolEnv):
    """Answer a mail, with tools whose names were taken once.

    ## Tools
    `reply` answers; `history`, `look`, `rewards`, `offered` and others read.

    ## Rewards
    1 when Ada was answered, once.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    def tasks(self, split: Any, rng: random.Random) -> list[Task]:
        return [Task(f"Answer {who}'s {split} mail.", {"to": who}) for who in ("Ada", "Ben", "Cora")]

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"sent": []}

    @tool(effect=True)
    def reply(self, to: str) -> str:
        """Answer somebody."""
        self.state["sent"].append(to)
        return "sent"

    @tool
    def look(self) -> str:
        """Look around."""
        return "a desk"

    @tool
    def history(self) -> list[str]:
        """List what was sent."""
        return list(self.state["sent"])

    @tool
    def rewards(self) -> int:
        """Count the points."""
        return len(self.state["sent"])

    @tool
    def offered(self) -> str:
        """Read the offers."""
        return "none"

    @tool
    def task(self) -> str:
        """Read the task."""
        return self.episode.task.instruction

    @tool
    def cut(self) -> str:
        """Cut."""
        return "cut"

    @tool
    def hooks(self) -> str:
        """Show the hooks."""
        return "two"

    def success(self, task: Task) -> bool:
        return bool(self.state["sent"] == [task.data["to"]])

    def solve(self, task: Task) -> Any:
        yield "look", {}
        if not self.state["sent"]:
            yield "reply", {"to": task.data["to"]}
        yield "history", {}


def test_tools_may_have_the_names_that_an_author_does_not_need() -> None:
    assert check_env(Mail) == []
    env = Mail()
    env.start(TASK, FaultPlan.parse("count=1:unavailable"))
    turns = play(env)
    assert env.judge() == (True, {"success": 1.0})
    assert turns[-1].action.content == "Done."
    env.start(TASK)
    for name, told in (("task", TASK.instruction), ("rewards", "0"), ("offered", "none"), ("cut", "cut")):
        assert env.act(Action.call(name)).turn.results[0].content == told


@pytest.mark.parametrize(
    "name", ["reset", "step", "act", "episode", "toolbox", "user", "close", "action_space", "_box"]
)
def test_a_name_that_every_environment_has_is_no_tool(name: str) -> None:
    @tool
    def method(self: Any) -> str:
        """Do."""
        return ""

    with pytest.raises(EnvError) as told:
        type("Mine", (ToolEnv,), {name: method})
    text = str(told.value)
    assert text.startswith(f"Mine.{name} cannot be a tool: every environment has that name")
    assert f"@tool(name={name!r})" in text
    assert "Taken are act, action_space, " in text
    with pytest.raises(EnvError, match=f"Mine.{name} cannot be a tool"):  # from a class that it is mixed with, too
        type("Mine", (ToolEnv,), {name: methods(Box, "put")})
    with pytest.raises(EnvError, match=f"Mine.{name} cannot be a tool"):
        type("Mine", (type("Mixed", (), {name: method}), ToolEnv), {})


class Box:
    def put(self, thing: str) -> str:
        """Put a thing in."""
        return thing


def test_the_agent_may_see_such_a_name_all_the_same() -> None:
    class Machine(ToolEnv):
        def setup(self, task: Task, rng: random.Random) -> None:
            self.state = 3

        @tool(name="reset", effect=True)
        def set_back(self) -> str:
            """Set it back."""
            self.state = 0
            return "set back"

        def success(self, task: Task) -> bool:
            return bool(self.state == 0)

    env = Machine()
    env.start(TASK)
    assert env.act(Action.call("reset")).turn.results[0].ok
    env.act(Action("Done."))
    assert env.judge()[0]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("user", lambda said: "yes", "User"),
        ("others", {"mouse": ()}, "Others"),
        ("fault_hooks", FaultHooks, "FaultHooks"),
        ("tool_rules", {"validation": "off"}, "ToolRules"),
        ("knobs", None, "KnobHooks"),
        ("fault_hooks", FaultHooks(default_plan="count=1"), "FaultPlan"),  # type: ignore[arg-type]  # what is tested
    ],
)
def test_a_facet_is_an_object_of_its_class(name: str, value: Any, kind: str) -> None:
    with pytest.raises(EnvError, match=rf"Mine\.{name}(\.default_plan)? is an object of the class {kind}, got"):
        type("Mine", (ToolEnv,), {name: value})


def test_facets_take_functions_as_well_as_methods() -> None:
    class Polite(User):
        max_answers = 1

        def reply(self, env: Any, said: str) -> str | None:
            return "please"

    for user, answers in ((Polite(), 1), (Polite(max_answers=3), 3), (User(lambda env, said: "please"), 8)):
        env = type("Talk", (Mail,), {"user": user})()
        env.start(TASK)
        said = [env.act(Action("Hello.")).turn.messages for _ in range(answers + 1)]
        assert [m[0].content if m else "" for m in said] == ["please"] * answers + [""]
        assert env.episode.answers == answers
    seen: list[tuple[int, str]] = []
    rules = ToolRules(max_output=3, after_call=lambda env, call, result: seen.append((env.episode.tick, call.name)))
    others = Others(elapse=lambda env: seen.append((env.episode.tick, "elapse")))
    env = type("Watched", (Mail,), {"tool_rules": rules, "others": others})()
    env.start(TASK)
    assert env.act(Action.call("look")).turn.results[0].content.startswith("a d... [cut")
    env.act(Action("Done."))
    assert seen == [(1, "look"), (1, "elapse")]


def test_knobs_may_be_given_as_functions() -> None:
    hooks = KnobHooks(spoil=lambda env, task, rng: None, facts=lambda env, task: [])
    cls = type("Knobbed", (Mail,), {"knobs": hooks})
    assert harder(cls, impossible=1.0)()  # by the fault, where nothing can be spoilt
    with pytest.raises(EnvError, match="knob missing"):
        harder(cls, missing=1.0)


# ---- the running episode ---------------------------------------------------------------------------------------------


def test_there_is_no_episode_before_the_first() -> None:
    with pytest.raises(ConfigError, match=r"no episode yet: call reset\(\) first"):
        _ = Mail().episode


def test_what_the_episode_knows() -> None:
    env = Mail()
    env.start(TASK, FaultPlan.parse("unavailable@look:1"))
    episode = env.episode
    assert (episode.task, episode.tick, episode.history, episode.last_result) == (TASK, 0, (), None)
    env.act(Action.call("look"))
    assert episode.faults_hit == ("unavailable",)
    assert episode.tick == len(episode.history) == 1
    assert episode.last_result is episode.history[0].results[0]
    middle = env.snapshot()
    drawn = episode.rng.random()
    env.act(Action("Done."))
    assert (episode.said, episode.stop) == ("Done.", StopReason.FINISHED)
    other = Mail()
    for where in (env, other):
        where.restore(middle)
        assert where.episode.rng.random() == drawn  # a fork goes on with its own
        assert (where.episode.tick, where.episode.stop, where.episode.said) == (1, None, "")
        assert where.episode.history == episode.history[:1]
    env.start(TASK)
    assert env.episode.history == ()


def test_is_gone_follows_what_the_agent_was_told() -> None:
    env = make("orders")
    task = task_set(env, "train", 1, levels=[1])[0]
    env.start(task, FaultPlan.parse("tool_removed@find_order:1"))
    assert not env.episode.is_gone("find_order")
    goal = task.data["goals"][0]
    env.act(Action.call("find_order", customer=goal["name"], item=goal["item"]))
    assert env.episode.is_gone("find_order")


def test_the_world_before_is_kept_where_it_is_asked_for() -> None:
    class Compared(Mail):
        keeps_before = True

        def success(self, task: Task) -> Verdict:  # type: ignore[override]  # more than its parent's bool
            ended = self.episode.ended()
            new = len(ended.after["sent"]) - len(ended.before["sent"])
            return Verdict(new == 1, f"{new} sent", {"sent": float(new)})

    env = Compared()
    env.start(TASK)
    env.act(Action.call("reply", to="Ada"))
    env.act(Action("Done."))
    assert env.judge() == (True, {"sent": 1.0})
    assert env.episode.notes == {"reason": "1 sent"}

    class Forgot(Compared):
        keeps_before = False

    env = Forgot()
    env.start(TASK)
    with pytest.raises(EnvError, match=r"Forgot asks for the world as it was at first, .*; set keeps_before = True"):
        env.judge()


def test_a_world_is_copied_only_where_somebody_needs_it() -> None:
    class Whole:
        def __init__(self) -> None:
            self.sent: list[str] = []

        def __deepcopy__(self, memo: Any) -> Whole:
            copies.append(1)
            made = Whole()
            made.sent = copy.copy(self.sent)
            return made

    class Held(Mail):
        def setup(self, task: Task, rng: random.Random) -> None:
            self.state = Whole()

        def success(self, task: Task) -> bool:
            return True

    copies: list[int] = []
    env = Held()
    env.start(TASK)
    env.act(Action("Done."))
    assert copies == []
    env.restore(env.snapshot())
    assert len(copies) == 2


def test_expert_turns_on_an_instance_of_its_own() -> None:
    env, plan = make("orders"), FaultPlan.parse("count=1")
    for task in task_set(env, "train", 8):
        env.start(task, plan)
        assert expert_turns_for(make("orders"), task, plan) == expert_turns(env)
    assert expert_turns_for(type("NoExpert", (Mail,), {"solve": ToolEnv.solve})(), TASK, plan) is None


def test_importing_the_base_class_runs_no_code_of_tests() -> None:
    code = "import sys, sparring.envs.env; print('sparring.envs.code_tests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---- giving up -------------------------------------------------------------------------------------------------------

GIVES_UP = (
    "Cannot do it.", "Cannot.", "cannot", "Cannot find it.", "Cannot: not permitted.", "Cannot work it out.",
    "I cannot do it.", "Unable to do it.", "I am unable to refund it.", "can't", "I can’t find it",
    "We can not do this.",
    "not possible", "This is not possible.", "Impossible.", "It is impossible to refund this.", "**Cannot** do it.",
    "Sorry, the order can't be cancelled.", "I'm sorry, but I cannot help with that.", "It cannot be done.",
    "Unfortunately, I could not find the order.", "I tried both routes. I cannot cancel it.", "I couldn't find it.",
    "The refund tool is forbidden, so it cannot be done.", "Ada's order o12.5 cannot be refunded.", "No, I cannot.",
    "Cannot find the mug, but the rest is done.", "Not able to do it", "Cannot do it. Nothing was changed.",
    "I am not permitted to do this.",
)  # fmt: skip
DOES_NOT = (
    "", "Done.", "cannot wait to help, done", "I cannot wait to help. Here it is.", "Can't you tell me which one?",
    "Cannot do it. Done.", "Done. I cannot do more.", "You cannot get it back now, it is cancelled.",
    "The answer is 17.",
    "I could not find it by name, so I used the e-mail: it is cancelled.", "Nothing is impossible! All set.", "42",
    "It is not impossible.", "I refunded it. You can't undo this.", "An item that I cannot name was removed.",
    "I can do it.", "Cancelled the candle.", "The cannoli are ordered.", "I cannot thank you enough.",
    "If it cannot be done I will say so.", "Could you say where to?", "It is sold out. What else?",
)  # fmt: skip


@pytest.mark.parametrize("message", GIVES_UP)
def test_a_message_that_says_it_cannot_be_done(message: str) -> None:
    assert says_it_cannot(message)


@pytest.mark.parametrize("message", DOES_NOT)
def test_a_message_that_does_not(message: str) -> None:
    assert not says_it_cannot(message)


@pytest.mark.parametrize("message", ["cannot " * 3000, "a " * 20000 + "cannot", "no, " * 20000, "." * 50000])
def test_a_long_message_takes_no_time(message: str) -> None:
    begun = time.perf_counter()
    says_it_cannot(message)
    assert time.perf_counter() - begun < 1


class Paid(Mail):
    reward_terms = {"claimed": false_success(0.5), "gave up": wrong_give_up(0.25)}  # noqa: RUF012  # never changed

    @tool(effect=True)
    def hand_over(self) -> str:
        """Hand over to a human: it cannot be done."""
        self.episode.decline()
        return "handed over"


@pytest.mark.parametrize(
    ("actions", "stop", "claimed", "gave_up"),
    [
        ([Action("Done.")], StopReason.FINISHED, -0.5, 0.0),
        ([Action("I cannot do it.")], StopReason.DECLINED, 0.0, -0.25),
        ([Action("Unable to do it.")], StopReason.DECLINED, 0.0, -0.25),
        ([Action("Cannot wait to help, done")], StopReason.FINISHED, -0.5, 0.0),
        ([Action.call("hand_over")], StopReason.DECLINED, 0.0, -0.25),
        ([Action.call("reply", to="Ada"), Action("I cannot do it.")], StopReason.DECLINED, 0.0, 0.0),
    ],
)
def test_giving_up_is_a_stop_reason(
    actions: Sequence[Action], stop: StopReason, claimed: float, gave_up: float
) -> None:
    env = Paid()
    env.start(TASK)
    for action in actions:
        step = env.act(action)
    assert step.stop is env.episode.stop is stop
    assert stop.terminated
    assert stop.by_agent
    parts = env.judge()[1]
    assert (parts["claimed"], parts["gave up"]) == (claimed, gave_up)
    with pytest.raises(ConfigError, match="over"):
        env.act(action)


def test_what_is_impossible_is_declined_in_any_words() -> None:
    for words, right in (("I am unable to do it.", True), ("It can’t be done.", True), ("Done.", False)):
        env = Paid()
        env.start(TASK, FaultPlan.parse("impossible:1"))
        env.act(Action.call("reply", to="Ada"))
        assert not env.judge()[0]  # it has not said so yet
        env.act(Action(words))
        assert env.judge()[0] is right


def test_a_declined_episode_is_recorded_stored_and_replayed() -> None:
    tasks = task_set(make("orders"), "train", 4)
    plan = FaultPlan.parse("impossible:1")
    played = rollout("orders", scripted("expert"), [EpisodeSpec(task, plan) for task in tasks])
    for t in played:
        assert t.stop is StopReason.DECLINED
        assert t.success
        assert Trajectory.from_json(t.to_json()) == t
        assert replay_check(make("orders"), t) is None
    changed = Trajectory.from_json(played[0].to_json().replace(b'"declined"', b'"finished"'))
    difference = replay_check(make("orders"), changed)
    assert difference is not None
    assert (difference.kind, difference.recorded, difference.now) == (Kind.ENDING, "finished", "declined")


def test_a_term_sees_who_declined() -> None:
    ended = Ended(TASK, False, None, None, (), "Cannot.", StopReason.DECLINED)
    assert ended.declined
    assert not Ended(TASK, False, None, None, (), "Cannot.", StopReason.FINISHED).declined  # the stop reason alone
