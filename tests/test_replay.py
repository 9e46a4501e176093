"""Recorded episodes replay as they were; a changed environment shows in the first place where it does otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring import NotFound, Task, ToolEnv, tool
from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.agents.agent import Decision
from sparring.agents.replay import Difference, Kind, Replayer, corrections, replay_check
from sparring.cli.root import app
from sparring.envs import User, Verdict, make, task_set
from sparring.envs.orders.env import Orders
from sparring.tools import FaultPlan
from sparring.trajectories.errors import ConfigError, EnvError, InfrastructureError
from sparring.trajectories.messages import Action, Observation, Outcome
from sparring.trajectories.store import Store
from sparring.trajectories.trajectory import StopReason, Trajectory, dump_jsonl


def played(env: Any, agent: str, n: int = 4, faults: str = "count=1@3", seed: int = 0) -> list[Trajectory]:
    """Episodes, as they come back from a file."""
    tasks = task_set(make(env) if isinstance(env, str) else env(), "train", n, seed=seed)
    found = rollout(env, scripted(agent), [EpisodeSpec(t, FaultPlan.parse(faults), i) for i, t in enumerate(tasks)])
    return [Trajectory.from_json(t.to_json()) for t in found]


def no_wait(_: float) -> None: ...


class Counter(ToolEnv):
    """Count to a number, one step a call; a small world whose every part a test can change."""

    system = "Count."
    text = "now {}"
    refuses = 0

    def tasks(self, split: Any, rng: Any) -> Any:
        return [Task("Count to 3.", {"to": 3}, id=f"{split}-{i}", seed=i) for i in range(4)]

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {"n": 0}

    @tool(effect=True)
    def up(self) -> str:
        """One more."""
        if self.state["n"] + 1 == self.refuses:
            raise NotFound("no more")
        self.state["n"] += 1
        return self.text.format(self.state["n"])

    @tool
    def read(self, what: str) -> Any:
        """What is there."""
        if what != "n":
            raise NotFound(f"no {what}")
        return {"n": self.state["n"]}

    def success(self, task: Task) -> bool:
        return bool(self.state["n"] == task.data["to"])

    def solve(self, task: Task) -> Any:
        while self.state["n"] < task.data["to"]:
            yield "up", {}
        yield "read", {"what": "n"}


# ---- as they were ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["expert", "blind-retry", "give-up", "random", "do-nothing"])
@pytest.mark.parametrize("env", ["orders", "calendar", "shop", "incident", "worlds"])
def test_recorded_episodes_replay_identically_under_faults(env: str, agent: str) -> None:
    replayer = Replayer(wait=no_wait)
    for faults in ("", "count=1@3", "count=2@5", "unavailable:0.3,stale_id:0.2@7"):
        for t in played(env, agent, 3, faults):
            found = replayer(t)
            assert found.identical, (faults, found.difference, found.unreplayable)


def test_episodes_that_a_limit_cut_replay_identically() -> None:
    class Tired:
        """Two calls, and then no room for another turn."""

        name, parallel, version = "tired", 1, 0

        def begin(self, env: ToolEnv, seed: int) -> Any:
            inner = scripted("expert").begin(env, seed)

            class Session:
                turns = 0

                async def act(self, observation: Observation) -> Decision:
                    self.turns += 1
                    if self.turns > 2:
                        return Decision(None, cut=StopReason.TOKEN_LIMIT)
                    return await inner.act(observation)

                def tokens(self) -> None:
                    return None

                def close(self) -> None:
                    inner.close()

            return Session()

    tasks = task_set(make("orders"), "train", 2)
    cut = rollout("orders", Tired(), [EpisodeSpec(t) for t in tasks])
    assert {t.stop for t in cut} == {StopReason.TOKEN_LIMIT}
    limited = [t for t in played("orders", "random", 12) if t.stop is StopReason.TURN_LIMIT]
    assert limited
    assert all(replay_check(make("orders"), t) is None for t in [*cut, *limited])


def test_forks_replay_from_their_lineage() -> None:
    failed = [t for t in played("orders", "give-up", 8) if t.success is False]
    forks = [corrected for _, corrected in corrections(failed)]
    assert forks
    assert all(t.forked_from is not None for t in forks)
    assert any(t.forked_from.turn > 0 for t in forks if t.forked_from)
    replayer = Replayer(wait=no_wait)
    for t in forks:
        assert replayer(Trajectory.from_json(t.to_json())).identical
        again = replayer(replace(t, turns=t.turns[t.forked_from.turn :])) if t.forked_from else None
        if t.forked_from and t.forked_from.turn:  # its own turns alone are another episode
            assert again is not None
            assert not again.identical


# ---- a changed environment -------------------------------------------------------------------------------------------


def test_an_altered_tool_shows_at_the_first_turn_that_uses_it() -> None:
    class Altered(Orders):
        @tool(effect=True, ids=["payment_id"])
        def refund(self, payment_id: str) -> str:
            """Refund a payment."""
            super().refund(payment_id)
            return "refund is on its way"

    episodes = played("orders", "expert", 6, "")
    replayer = Replayer(Altered, wait=no_wait)
    seen = 0
    for t in episodes:
        at = next((i for i, turn in enumerate(t.turns) if any(r.tool == "refund" for r in turn.results)), None)
        found = replayer(replace(t, tools=())).difference  # whose docstring differs is not what is asked here
        if at is None:
            assert found is None
            continue
        seen += 1
        assert found is not None
        assert (found.kind, found.turn) == (Kind.OBSERVATION, at)
        assert (found.recorded, found.now) == ("refunded", "refund is on its way")
        assert found.where.startswith('refund({"payment_id":')
    assert seen


def change(**members: Any) -> Callable[[], ToolEnv]:
    return type("Changed", (Counter,), members)


def broken(self: Any, task: Task, rng: Any) -> None:
    raise KeyError("to")


@pytest.mark.parametrize(
    ("members", "kind", "turn", "recorded", "now"),
    [
        ({"text": "at {}"}, Kind.OBSERVATION, 0, "now 1", "at 1"),
        ({"refuses": 2}, Kind.OUTCOME, 1, "ok", "not_found, cause tool"),
        ({"system": "Count!"}, Kind.OBSERVATION, None, "system: Count.", "system: Count!"),
        ({"setup": broken}, Kind.ERROR, None, "no exception", "KeyError: 'to'"),
        ({"success": lambda self, task: False}, Kind.STATE, None, "success", "failure"),
        ({"max_turns": 2}, Kind.ENDING, 1, "3 more turns", "ends: turn_limit"),
        ({"user": User(lambda env, said: "And now?")}, Kind.OBSERVATION, 4, "nothing", "user: And now?"),
        ({"reward_terms": {"success": lambda ended: 2.0}}, Kind.REWARD, None, "1", "2"),
        ({"success": lambda self, task: Verdict(True, parts={"done": 1.0})}, Kind.REWARD, None, "1", "not there"),
    ],
)
def test_each_kind_of_difference(members: Any, kind: Kind, turn: int | None, recorded: str, now: str) -> None:
    t = played(Counter, "expert", 1, "")[0]
    assert Replayer(Counter, wait=no_wait)(t).identical
    found = Replayer(change(**members), wait=no_wait)(t).difference
    assert found is not None
    assert (found.kind, found.turn, found.recorded, found.now) == (kind, turn, recorded, now)


def test_a_value_that_changed_behind_the_same_text_is_a_difference_of_state() -> None:
    t = played(Counter, "expert", 1, "")[0]
    turn = t.turns[3]
    altered = replace(turn, results=(replace(turn.results[0], value={"n": 4}),))
    found = replay_check(Counter(), replace(t, turns=(*t.turns[:3], altered, *t.turns[4:])))
    assert found == Difference(Kind.STATE, 3, 'read({"what":"n"}), the value behind the text', '{"n":4}', '{"n":3}')


def test_the_ending_and_the_faults_that_struck_are_compared() -> None:
    t = played(Counter, "expert", 1, "")[0]
    env = Counter()
    terminated = replay_check(env, replace(t, stop=StopReason.TERMINATED))
    assert terminated == Difference(Kind.ENDING, len(t.turns) - 1, "the episode's end", "terminated", "finished")
    shorter = replay_check(env, replace(t, turns=t.turns[:-1]))
    assert shorter == Difference(Kind.ENDING, len(t.turns) - 2, "the episode's end", "finished", "goes on")
    struck = replay_check(env, replace(t, faults_hit=("gone",)))
    assert struck == Difference(Kind.OUTCOME, None, "the faults that struck", "gone", "none")


def test_a_tool_that_was_renamed_is_a_difference_before_the_first_turn() -> None:
    t = played(Counter, "expert", 1, "")[0]
    other = tuple(replace(spec, name="look") if spec.name == "read" else spec for spec in t.tools)
    found = replay_check(Counter(), replace(t, tools=other))
    assert found is not None
    assert (found.kind, found.turn, found.where) == (Kind.OBSERVATION, None, "the tools")
    told = tuple(replace(spec, description="Other.") if spec.name == "up" else spec for spec in t.tools)
    found = replay_check(Counter(), replace(t, tools=told))
    assert found is not None
    assert found.where == "the tool up, as it is described"


EPISODES = [t for env in ("orders", "shop") for t in played(env, "expert", 3, "count=1@3")]
FIELDS: dict[str, tuple[Kind, Any]] = {
    "content": (Kind.OBSERVATION, lambda r: r.content + "?"),
    "outcome": (Kind.OUTCOME, lambda r: Outcome.GONE if r.outcome is not Outcome.GONE else Outcome.OK),
    "fault": (Kind.OUTCOME, lambda r: (r.fault or "") + "x"),
    "took_effect": (Kind.STATE, lambda r: not r.took_effect),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_one_change_of_a_record_is_found_where_it_is(data: st.DataObject) -> None:
    t = data.draw(st.sampled_from(EPISODES))
    at = data.draw(st.sampled_from([i for i, turn in enumerate(t.turns) if turn.results]))
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    kind, alter = FIELDS[name]
    turn = t.turns[at]
    result = replace(turn.results[0], **{name: alter(turn.results[0])})
    changed = replace(t, turns=(*t.turns[:at], replace(turn, results=(result, *turn.results[1:])), *t.turns[at + 1 :]))
    found = replay_check(make(t.env), changed)
    assert found is not None
    assert (found.kind, found.turn) == (kind, at)


# ---- what cannot be replayed -----------------------------------------------------------------------------------------


def test_an_environment_with_a_live_clock_is_told_from_a_changed_one() -> None:
    class Clock(Counter):
        @tool(effect=True)
        def up(self) -> str:
            """One more."""
            self.state["n"] += 1
            return f"now {self.state['n']} at {time.monotonic_ns()}"

    t = played(Clock, "expert", 1, "")[0]
    waits: list[float] = []
    replayer = Replayer(Clock, wait=waits.append)
    for _ in range(3):
        assert "not repeatable" in replayer(t).unreplayable
    assert len(waits) == 1  # enough for a clock that tells seconds; paid once
    assert waits[0] > 1


def test_what_nothing_can_be_said_of_is_counted_apart() -> None:
    t = played("orders", "expert", 1)[0]
    replayer = Replayer(wait=no_wait)
    assert "unknown environment 'sparring/Ordes-v0'" in replayer(replace(t, env="sparring/Ordes-v0")).unreplayable
    assert "nowhere" in replayer(replace(t, env="nowhere:Env")).unreplayable
    assert "cannot be read" in replayer(replace(t, faults="count=1:no_such_fault@3")).unreplayable
    dead = replace(t, stop=StopReason.INFRASTRUCTURE, success=None, error="the engine died")
    assert replayer(dead).unreplayable == "recorded as infrastructure"

    def dies(self: Any, task: Task, rng: Any) -> None:
        raise InfrastructureError("no sandbox")

    small = played(Counter, "expert", 1, "")[0]
    assert Replayer(change(setup=dies), wait=no_wait)(small).unreplayable == "infrastructure: no sandbox"


def test_a_record_whose_outcomes_are_guesses_is_held_to_its_texts_only() -> None:
    t = played(Counter, "expert", 1, "")[0]
    turn = t.turns[0]
    guessed = replace(turn.results[0], outcome=Outcome.TOOL_ERROR, took_effect=None, inferred=True)
    assert replay_check(Counter(), replace(t, turns=(replace(turn, results=(guessed,)), *t.turns[1:]))) is None


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["replay", *arguments])


def test_a_store_is_a_regression_test(tmp_path: Path) -> None:
    episodes = [*played("orders", "expert", 4), *played("shop", "give-up", 4)]
    with Store(tmp_path / "store") as store:
        for t in episodes:
            store.append(t)
        store.append(replace(episodes[0], id="dead", stop=StopReason.INFRASTRUCTURE, success=None))
    done = run(str(tmp_path / "store"))
    assert done.exit_code == 0, done.output
    assert "8 identical, 0 different, 1 not replayed" in done.stdout
    assert "1 not replayed: recorded as infrastructure" in done.stdout

    turn = episodes[1].turns[0]
    evil = "\x1b[2J</script>\u202e" + "x" * 1_000_000
    other = replace(turn, results=(replace(turn.results[0], content=evil), *turn.results[1:]))
    wrong = replace(episodes[1], id="wrong", turns=(other, *episodes[1].turns[1:]))
    with Store(tmp_path / "store") as store:
        store.append(wrong)
        store.append(replace(episodes[2], id="paid", reward=9.0, reward_parts={}))
    done = run(str(tmp_path / "store"), "--show", "1")
    assert done.exit_code == 1
    assert "8 identical, 2 different, 1 not replayed" in done.stdout
    assert "1 first differ in what the agent is shown" in done.stdout
    assert "1 first differ in the reward" in done.stdout
    assert "1 difference not shown: --show 2" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "\\x1b[2J</script>\\u202exxx" in done.stdout
    assert len(done.stdout) < 4000
    assert f"turn 1 of {len(wrong.turns)}" in done.stdout
    margin = [line for line in done.stdout.splitlines() if line.startswith("x")]
    assert margin == []  # a text never begins where our own lines do


def test_one_episode_by_its_id_and_another_environment(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    episodes = played("orders", "expert", 3)
    file.write_bytes(dump_jsonl(episodes))
    assert "1 identical, 0 different" in run(str(file), episodes[1].id[:10]).stdout
    unknown = run(str(file), "zz")
    assert unknown.exit_code == 1
    assert f"unknown episode 'zz'. Known: {min(t.id for t in episodes)}" in unknown.stderr
    other = run(str(file), "--env", "calendar")
    assert other.exit_code == 1
    assert "3 different" in other.stdout
    none = run(str(file), "--env", "calender")
    assert none.exit_code == 1
    assert "no episode of it could be replayed" in none.stderr
    assert "Did you mean 'calendar'" in none.stdout
    assert run(str(tmp_path / "nothing")).exit_code == 1


def test_the_action_that_was_recorded_is_played_not_a_new_one() -> None:
    """A call that could not be parsed is a call in the replay, too."""
    from sparring.trajectories.messages import ToolCall

    env = Counter()
    env.start(task := next(iter(env.tasks("train", None))))
    first = env.act(Action("", (ToolCall("up", None, "{up", error="not JSON"),))).turn
    last = env.act(Action("Done.")).turn
    t = Trajectory(
        "m",
        "x",
        task,
        env.prompt(task),
        (first, last),
        StopReason.FINISHED,
        success=False,
        tools=env.toolbox.specs,
        reward_parts={"success": 0.0},
    )
    assert first.results[0].outcome is Outcome.MALFORMED
    assert replay_check(Counter(), Trajectory.from_json(t.to_json())) is None


@pytest.mark.parametrize("env", ["trap:Env", "trap.py:run", "sparring.envs.knobs:trap:Env?traps=1"])
def test_a_record_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str) -> None:
    """What a file names is imported only when somebody has asked for it."""
    (tmp_path / "trap.py").write_text("open('ran', 'w').close()\ndef run(): open('ran', 'w').close()\nEnv = run\n")
    monkeypatch.chdir(tmp_path)
    evil = [replace(t, env=env) for t in played("orders", "give-up", 4) if not t.success]
    assert "whose code is not loaded" in Replayer(wait=no_wait)(evil[0]).unreplayable
    with pytest.raises(ConfigError, match="whose code is not loaded; if you trust it"):
        corrections(evil)
    assert not (tmp_path / "ran").exists()


def test_only_classes_of_environments_are_called() -> None:
    for name in ("os:abort", "sparring.cli.root:main"):
        with pytest.raises(EnvError, match="not a class of environments"):
            make(name)


def test_a_record_that_does_not_fit_is_passed_over() -> None:
    failed = [t for t in played("orders", "give-up", 8) if t.success is False]
    broken = [replace(failed[0], task=replace(failed[0].task, data={})), *failed[1:]]
    assert len(corrections(broken)) == len(corrections(failed[1:])) > 0
