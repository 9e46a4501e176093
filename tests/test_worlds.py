"""Generated worlds: words, schemas, the verdict, the expert against a search, and what a user adds."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from typing import Any, ClassVar

import pytest

from sparring.envs import SPLITS, ToolEnv, check_env, make, play, task_set
from sparring.envs.worlds import GOALS, LEXICONS, TEMPLATES, Change, Draft, Goal, Graph, Template, Worlds
from sparring.envs.worlds.lexicons import invented
from sparring.tools import FAULTS, FaultPlan
from sparring.trajectories import Action, Outcome, Task, ToolResult, metrics


def worlds(name: str = "worlds") -> Worlds:
    env = make(name)
    assert isinstance(env, Worlds)
    return env


@pytest.fixture(scope="module")
def env() -> Worlds:
    return worlds()


@pytest.fixture(scope="module")
def tasks(env: Worlds) -> list[Task]:
    return task_set(env, "train", 400, seed=3)


def call(env: Worlds, role: str, /, **arguments: Any) -> ToolResult:
    """A call by the roles of a tool and of its parameters."""
    schema = env.state.schema
    named = {schema.keys[key]: value for key, value in arguments.items()}
    return env.act(Action.call(schema.names[role], **named)).turn.results[0]


def task_with(env: Worlds, kind: str, *roles: str, split: Any = "train") -> Task:
    """One task of a single goal of this kind, whose world has these tools."""
    return next(
        task
        for task in env.tasks(split, random.Random(1))
        if task.kind == kind and len(task.data["goals"]) == 1 and set(roles) <= set(task.data["tools"])
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def test_no_word_is_in_two_lexicons() -> None:
    pieces = {
        name: {piece for word in lexicon.words() for piece in re.split(r"[^a-z]+", word)}
        for name, lexicon in LEXICONS.items()
    }
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not pieces[one] & pieces[other], (one, other)
    assert all(len(LEXICONS[split].words()) > 100 for split in SPLITS)


def test_every_word_can_stand_in_a_name() -> None:
    for lexicon in LEXICONS.values():
        assert all(re.fullmatch(r"[a-z_.]+", word) for word in lexicon.words())


def test_the_words_are_new_to_who_has_learnt_orders_and_calendar(env: Worlds) -> None:
    from sparring.envs.calendar import world as calendar
    from sparring.envs.orders import world as orders

    others = {name.lower() for name in (*orders.NAMES, *calendar.NAMES)}
    others |= {tool for name in ("orders", "calendar") for tool in make(name).toolbox.tools} - {"wait"}
    for lexicon in LEXICONS.values():
        assert not {name.lower() for name in lexicon.names} & others
    for split in SPLITS:
        named = {name for task in task_set(env, split, 300) for name in env._schema(task).names.values()}
        assert not named & others


def test_made_up_words_belong_to_one_split() -> None:
    words: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for number in range(60):
            made = invented(LEXICONS[split], split, random.Random(number))
            words[split] |= made.words() - LEXICONS[split].words()
    assert all(len(found) > 1000 for found in words.values())
    assert not words["train"] & words["validation"]
    assert not words["train"] & words["test"]
    assert not words["validation"] & words["test"]


# ---- schemas and tasks -----------------------------------------------------------------------------------------------

SCRIPT = """
import hashlib, random, sys
from itertools import islice
from sparring.envs import make, play
from sparring.tools import FaultPlan
seen = hashlib.blake2b(digest_size=8)
env = make("worlds")
for split in ("train", "validation", "test"):
    for task in islice(env.tasks(split, random.Random("7")), 60):
        seen.update(repr((task, env.start(task, FaultPlan.parse("count=1@3")))).encode())
        for turn in play(env):
            seen.update(repr([(r.tool, r.content) for r in turn.results]).encode())
print(seen.hexdigest())
"""


def test_a_seed_gives_the_same_worlds_whatever_the_order_of_hashes() -> None:
    found = set()
    for seed in ("0", "1", "4242"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout.strip())
    assert len(found) == 1


def test_there_is_no_float_in_a_world(env: Worlds, tasks: list[Task]) -> None:
    def walk(value: Any) -> Iterator[Any]:
        if isinstance(value, (list, tuple, dict)):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from walk(inner)
        else:
            yield value

    for task in tasks[:100]:
        assert not any(isinstance(one, float) for one in walk(task.data))
        env.start(task)
        assert not any(isinstance(v, float) for turn in play(env) for r in turn.results for v in walk(r.value))


def test_schemas_are_endless(env: Worlds) -> None:
    seen = Counter(
        (tuple(schema.names.items()), tuple(schema.keys.items()))
        for task in islice(env.tasks("train", random.Random(5)), 4000)
        for schema in [env._schema(task)]
    )
    assert len(seen) == 4000


def test_a_world_is_of_its_size_and_level(env: Worlds, tasks: list[Task]) -> None:
    calls: dict[int, list[int]] = {1: [], 2: [], 3: [], 4: []}
    sizes: set[int] = set()
    for task in tasks:
        sizes.add(len(env.start(task).tools))
        calls[task.level].append(len(play(env)) - 1)
    assert sizes == set(range(5, 15))
    assert (min(calls[1]), max(calls[1])) == (1, 3)
    assert max(calls[2]) <= 5
    means = [sum(some) / len(some) for some in calls.values()]
    assert means == sorted(means)
    assert means[3] > 6


def test_names_in_a_world_are_distinct(env: Worlds) -> None:
    for split in SPLITS:
        for task in task_set(env, split, 200, seed=8):
            schema = env._schema(task)
            assert len(set(schema.names.values())) == len(schema.names)
            assert len(set(schema.keys.values())) == len(schema.keys)
            assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in schema.names.values())
            for tool in env._schemas.tools(schema):
                assert not tool.alternative or tool.alternative in schema.names.values()


def test_a_split_has_goals_that_train_has_not(env: Worlds) -> None:
    kinds = {split: {kind for task in task_set(env, split, 400) for kind in task.kind.split("+")} for split in SPLITS}
    assert kinds["test"] - kinds["train"] == {"copy"} == set(env.held_out)
    assert kinds["train"] == {goal.kind for goal in GOALS} - {"copy"}


def test_the_texts_name_all_that_a_task_needs(env: Worlds) -> None:
    for split in SPLITS:
        for task in task_set(env, split, 200, seed=2):
            assert "{" not in task.instruction
            assert "<<" not in task.instruction
            for goal in task.data["goals"]:
                told = [goal[key] for key in ("thing", "value", "site", "name2", "thing2") if key in goal]
                who = env._schema(task).contact_of(goal["name"]) if goal["by_contact"] else goal["name"]
                assert all(word in task.instruction for word in [*told, who])


# ---- the verdict -----------------------------------------------------------------------------------------------------


def located(env: Worlds, what: str) -> str:
    record = env.state.record_of(what)
    assert record is not None
    return record.id


def test_a_change_made_twice_fails(env: Worlds) -> None:
    task = task_with(env, "act", "find")
    env.start(task)
    play_until = env.state
    goal = task.data["goals"][0]
    what = f"{goal['name']}/{goal['thing']}"
    for role in ("unlock", "approve"):
        if env.state.schema.has(role):
            pytest.fail("the first such task has a gate")
    assert call(env, "act0", record_id=located(env, what)).ok
    assert env.judge()[0] is not play_until.schema.has("verify")
    assert call(env, "act0", record_id=located(env, what)).ok  # nothing stops it
    assert not env.judge()[0]
    assert "not asked for" in env.episode.reason


def test_the_second_route_counts(env: Worlds) -> None:
    task = task_with(env, "act", "find", "set_status")
    env.start(task)
    goal = task.data["goals"][0]
    found = call(env, "find", person=goal["name"], thing=goal["thing"])
    id = found.value[env.state.schema.keys["record_id"]]
    assert call(env, "set_status", record_id=id, status="nonsense").outcome is Outcome.CONFLICT
    assert call(env, "set_status", record_id=id, status=env.state.schema.words["done0"]).ok
    assert env.judge()[0]


def test_a_trap_fails(env: Worlds) -> None:
    task = task_with(env, "act", "trap")
    env.start(task)
    assert call(env, "trap", record_id=env.state.records[0].id).ok
    play(env)
    assert not env.judge()[0]


@pytest.mark.parametrize(("gate", "kind"), [("approve", "decide"), ("unlock", "link")])
def test_what_has_to_come_first_comes_first(env: Worlds, gate: str, kind: str) -> None:
    task = task_with(env, kind, gate)
    env.start(task)
    goal = task.data["goals"][0]
    what, world = f"{goal['name']}/{goal['thing']}", env.state
    change = {"record_id": located(env, what)}
    if kind == "link":
        change["place_id"] = next(place.id for place in world.places if place.name == goal["site"])
    role = "link" if kind == "link" else f"act{goal['state']}"
    refused = call(env, role, **change)
    assert refused.outcome is Outcome.CONFLICT
    assert world.schema.names[gate] in refused.content  # says what to call first
    other = next(p for p in world.people if p.name != goal["name"]) if gate == "unlock" else None
    if other is not None:
        assert call(env, "unlock", person_id=other.id).ok
    else:
        assert call(env, "approve", record_id=next(r.id for r in world.records if world.what(r) != what)).ok
    play(env)
    assert not env.judge()[0]  # one was let in that no goal asked for
    env.start(task)
    play(env)
    assert env.judge()[0]
    assert any(one.kind == gate for one in env.state.audit)


def test_what_has_to_be_verified_is_verified_last(env: Worlds) -> None:
    task = next(t for t in env.tasks("train", random.Random(2)) if "verify" in t.data["tools"] and "act" in t.kind)
    env.start(task)
    verified = Counter(change.what for change in env.state.audit if change.kind == "verify")
    assert not verified
    turns = play(env)
    assert env.judge()[0]
    name = env.state.schema.names["verify"]
    env.start(task)
    for turn in turns:
        if not turn.action.tool_calls or turn.action.tool_calls[0].name != name:
            env.act(turn.action)
    assert not env.judge()[0]
    assert env.episode.reason == "a change was not verified"


# ---- the expert ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAULTS)
def test_the_expert_recovers(env: Worlds, kind: str) -> None:
    failed, struck = [], 0
    for split in SPLITS:
        for task in task_set(env, split, 60, seed=4):
            env.start(task, FaultPlan((kind,), 1))
            play(env)
            struck += bool(env.episode.faults_hit)
            if not env.judge()[0]:
                failed.append(task)
    assert not failed
    assert struck > 20


def test_the_expert_recovers_from_three(env: Worlds) -> None:
    tasks = task_set(env, "train", 120, seed=6)
    solved = 0
    for task in tasks:
        env.start(task, FaultPlan.parse("count=3"))
        play(env)
        solved += env.judge()[0]
    assert solved >= 0.99 * len(tasks)


def test_scripts_do_worse(env: Worlds) -> None:
    from sparring.agents import rollout, scripted
    from sparring.agents.rollouts import EpisodeSpec

    tasks = task_set(env, "test", 80)
    share = {}
    for name in ("do-nothing", "blind-retry", "give-up", "expert"):
        specs = [EpisodeSpec(task, FaultPlan.parse("count=1"), 0) for task in tasks]
        played = rollout("worlds", scripted(name), specs)
        share[name] = sum(bool(t.success) for t in played) / len(played)
    assert share["do-nothing"] == 0
    assert share["expert"] == 1
    assert share["blind-retry"] < 0.8
    assert share["give-up"] < 0.6


def candidates(env: Worlds, task: Task) -> Iterator[Action]:
    """Every call that who has read the task and the results so far could make with sense."""
    schema, goals = env.state.schema, task.data["goals"]
    seen = {task.instruction, *(r.content for turn in env.episode.history for r in turn.results)}
    text = " ".join(seen)

    def ids(some: Any) -> list[str]:
        return [one.id for one in some if f'"{one.id}"' in text]

    names = [goal["name"] for goal in goals if not goal["by_contact"]]
    pool: dict[str, list[Any]] = {
        "person": names,
        "contact": names + [schema.contact_of(goal["name"]) for goal in goals if goal["by_contact"]],
        "thing": [goal["thing"] for goal in goals],
        "place": [goal["site"] for goal in goals if "site" in goal],
        "person_id": ids(env.state.people),
        "record_id": ids(env.state.records),
        "place_id": ids(env.state.places),
        "status": [schema.words["done0"], schema.words["done1"]],
        "value": [goal["value"] for goal in goals if "value" in goal],
        "field": [schema.keys["field0"]],
        "page": [],  # on which one something is, is luck
    }
    for role in schema.names:
        tool = env._schemas.templates[role]
        if tool.logs_in or tool.waits or env.episode.is_gone(schema.names[role]):
            continue
        for values in product(*(pool[parameter] for parameter in tool.parameters)):
            yield Action.call(
                schema.names[role], **{schema.keys[p]: v for p, v in zip(tool.parameters, values, strict=True)}
            )


def reached(env: Worlds, task: Task, depth: int) -> bool:
    """Whether some `depth` calls or fewer reach the goal."""
    if env.judge()[0]:
        return True
    if depth == 0:
        return False
    here = env.snapshot()
    for action in list(candidates(env, task)):
        env.restore(here)
        if env.act(action).turn.results[0].ok and reached(env, task, depth - 1):
            return True
    return False


def test_no_search_finds_a_shorter_way_than_the_expert(env: Worlds) -> None:
    """From the start, and from the middle of an episode in which a tool is gone."""
    looked = 0
    for number, task in enumerate(t for t in task_set(env, "train", 200, seed=9) if t.kind not in ("decide", "follow")):
        env.start(task)
        schema = env.state.schema
        spare = [t.name for t in env.toolbox.tools.values() if t.alternative]
        if number % 2 and spare:
            env.toolbox.state.gone.add(spare[number % len(spare)])
        if number % 3 == 0 and schema.has("find_owner"):
            call(env, "find_owner", contact=schema.contact_of(task.data["goals"][0]["name"]))
        here = env.snapshot()
        calls = len(play(env)) - 1
        assert env.judge()[0]
        browsed = schema.names.get("browse") in {r.tool for turn in env.episode.history for r in turn.results}
        if browsed or not 1 < calls <= 3:
            continue
        env.restore(here)
        assert not reached(env, task, calls - 1), task
        looked += 1
    assert looked >= 40


def test_what_is_known_is_not_asked_again(env: Worlds) -> None:
    task = task_with(env, "act", "find")
    env.start(task)
    turns = play(env)
    env.start(task)
    env.act(turns[0].action)
    assert len(play(env)) == len(turns) - 1


# ---- knobs, records --------------------------------------------------------------------------------------------------


def test_a_record_that_is_not_there_has_to_be_declined() -> None:
    env = worlds("worlds?impossible=1")
    declined = 0
    for task in task_set(env, "train", 60):
        env.start(task)
        play(env)
        assert env.judge()[0], task
        declined += env.episode.declined
        env.start(task)
        env.act(Action("Done."))
        assert not env.judge()[0]
    assert declined == 60


def test_the_user_tells_what_is_missing() -> None:
    env = worlds("worlds?missing=1&distractors=2&traps=1")
    asked = 0
    for task in task_set(env, "train", 40):
        observation = env.start(task)
        asked += "ask me" in observation.messages[-1].content
        assert {"today", "send_email"} & {spec.name for spec in observation.tools}
        play(env)
        assert env.judge()[0], task
    assert asked > 30


def test_a_record_says_what_its_tools_are_for() -> None:
    from sparring.agents import rollout, scripted
    from sparring.agents.rollouts import EpisodeSpec
    from sparring.trajectories import Trajectory

    for kind in ("session_expired", "tool_removed", "rate_limited"):
        specs = [EpisodeSpec(t, FaultPlan((kind,), 1), 0) for t in task_set(worlds(), "test", 40)]
        played = [Trajectory.from_json(t.to_json()) for t in rollout("worlds", scripted("expert"), specs)]
        struck = [t for t in played if t.faults_hit]
        assert len(struck) > 10
        blocked = [b for t in struck for b in metrics.blockages(t) if b.fault == kind]
        right = [b.right and b.resolved is not None for b in blocked]
        assert sum(right) >= 0.9 * len(right) > 9  # the rest knew already what the second route tells, and went on


# ---- what a user adds ------------------------------------------------------------------------------------------------


def _ring(world: Graph, person_id: str) -> str:
    world.note(world.person(person_id).name, "ring")
    return "ok"


RING = Template(
    "ring",
    ("ring {person}",),
    "Ring a {person} up.",
    ("person_id",),
    _ring,
    effect=True,
    makes="ring",
    values=lambda world, to: {},
)


class Ring(Goal):
    kind, needs = "ring", ("ring", "find_owner")

    def draw(self, draft: Draft) -> dict[str, Any]:
        return {**draft.record(), "text": draft.say("Ring <<who>> up.")}

    def wanted(self, world: Graph, goal: dict[str, Any]) -> list[Change]:
        return [Change(goal["name"], "ring")]


class Ringing(Worlds):
    __doc__ = Worlds.__doc__

    templates = (*TEMPLATES, RING)
    goals = (*GOALS, Ring())
    made_up = 0


def test_a_template_and_a_goal_of_ones_own() -> None:
    env = Ringing()
    assert check_env(env) == []
    tasks = [task for task in task_set(env, "train", 400) if "ring" in task.kind]
    assert len(tasks) > 20
    for task in tasks:
        env.start(task, FaultPlan.parse("count=1"))
        play(env)
        assert env.judge()[0], task
    assert task_set(worlds(), "train", 50) == task_set(worlds(), "train", 50)
    assert not any("ring" in task.kind for task in task_set(worlds(), "train", 200))  # the house's are as they were


def test_a_lexicon_of_ones_own() -> None:
    from dataclasses import replace

    class Dairies(Worlds):
        lexicons: ClassVar = {**LEXICONS, "train": replace(LEXICONS["train"], people=("milkman",), records=("cheese",))}
        made_up = 0

    env: ToolEnv = Dairies()
    for task in task_set(env, "train", 40):
        assert "cheese" in env.start(task).messages[0].content
        play(env)
        assert env.judge()[0]
