"""Curation: what is kept, what is dropped, and that both are accounted for."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring.agents import EpisodeSpec, HermesFormat, rollout, scripted, tokens_of
from sparring.agents.models import load_tokenizer
from sparring.cli.root import app
from sparring.envs import make, task_set
from sparring.tools import FaultPlan
from sparring.trajectories.curation import (
    Card,
    Curated,
    Pair,
    best_of,
    correction_pairs,
    digest,
    gold,
    mixture,
    on_policy_pairs,
    read_pairs,
    shared_turns,
    successes,
    turn_weights,
)
from sparring.trajectories.errors import ConfigError, DataError, UnknownName
from sparring.trajectories.messages import Action, Cause, Message, Outcome, ToolCall, ToolResult
from sparring.trajectories.store import Store
from sparring.trajectories.trajectory import (
    Fork,
    StopReason,
    Task,
    Tokens,
    Trajectory,
    TrajectoryGroup,
    Turn,
)

TASK = Task("Lend 'Dune' to Ada.", id="dune")
relaxed = settings(max_examples=50, deadline=None)  # no deadline: others may be using the machine


def result(
    call_id: str,
    outcome: Outcome = Outcome.OK,
    cause: Cause | None = None,
    *,
    tool: str = "lend",
    retry_of: str | None = None,
    content: str = "",
) -> ToolResult:
    return ToolResult(call_id, tool, outcome, content or outcome.value, cause=cause, retry_of=retry_of)


def turn(*results: ToolResult, text: str = "", weight: float = 1.0) -> Turn:
    calls = tuple(ToolCall(r.tool, {}, id=r.call_id) for r in results)
    return Turn(Action(text, calls), results, weight=weight)


def say(text: str) -> Turn:
    return Turn(Action(text))


def episode(id: str, turns: Sequence[Turn], *, success: bool | None = True, **fields: Any) -> Trajectory:
    fields.setdefault("reward", float(bool(success)))
    fields.setdefault("stop", StopReason.FINISHED)
    return Trajectory(
        id, "test/Library-v0", TASK, (Message("user", TASK.instruction),), tuple(turns), success=success, **fields
    )


def sampled(id: str, words: str, *, reward: float = 0.0, **fields: Any) -> Trajectory:
    """An episode of one-letter turns that a policy sampled: 'a b c'. Token ids are the letters."""
    turns = tuple(replace(say(word), span=(i + 1, i + 2)) for i, word in enumerate(words.split()))
    ids = (0, *(ord(word[0]) for word in words.split()))
    tokens = Tokens(ids, (0,) + (1,) * len(turns), (0.0,) * len(ids))
    return episode(id, turns, success=reward > 0, reward=reward, tokens=tokens, **fields)


def group(*trajectories: Trajectory) -> TrajectoryGroup:
    return TrajectoryGroup(trajectories)


def ids(curated: Curated[Trajectory]) -> list[str]:
    return [t.id for t in curated]


def balances(card: Card) -> bool:
    return card.came_in + card.repeated == card.kept + sum(card.dropped.values())


# --- turn weights ------------------------------------------------------------------------------------------------


def weights(*turns: Turn, **kwargs: Any) -> tuple[float, ...]:
    return turn_weights(episode("t", turns), **kwargs)


def test_the_example_of_the_docstring() -> None:
    got = weights(
        turn(result("c1", Outcome.UNAVAILABLE, Cause.INJECTED)),
        turn(result("c2", Outcome.UNAVAILABLE, Cause.INJECTED, retry_of="c1")),
        turn(result("c3", Outcome.INVALID_ARGUMENTS, Cause.POLICY, tool="find")),
        turn(result("c4", tool="find")),
        say("done"),
    )
    assert got == (1, 1, 0, 1, 1)


@pytest.mark.parametrize(
    ("outcome", "cause", "weight"),
    [
        (Outcome.MALFORMED, Cause.POLICY, 0),
        (Outcome.UNKNOWN_TOOL, Cause.POLICY, 0),
        (Outcome.INVALID_ARGUMENTS, Cause.POLICY, 0),
        (Outcome.NOT_FOUND, Cause.TOOL, 0),  # a made-up id: the environment itself refuses
        (Outcome.CONFLICT, Cause.TOOL, 0),
        (Outcome.FORBIDDEN, Cause.TOOL, 0),
        (Outcome.TOOL_ERROR, Cause.TOOL, 0),
        (Outcome.UNAVAILABLE, Cause.TOOL, 1),  # true whatever was asked
        (Outcome.TIMEOUT, Cause.TOOL, 1),
        (Outcome.RATE_LIMITED, Cause.TOOL, 1),
        (Outcome.CRASHED, Cause.INFRASTRUCTURE, 1),
        *((outcome, Cause.INJECTED, 1) for outcome in Outcome if outcome is not Outcome.OK),  # nobody could know
    ],
)
def test_a_first_failure_is_judged_by_whose_doing_it_is(outcome: Outcome, cause: Cause, weight: float) -> None:
    assert weights(turn(result("c1", outcome, cause)), say("done")) == (weight, 1)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.FORBIDDEN, Outcome.CONFLICT, Outcome.NOT_FOUND, Outcome.RATE_LIMITED, Outcome.UNAUTHENTICATED,
        Outcome.INVALID_ARGUMENTS, Outcome.GONE,
    ],
)  # fmt: skip
def test_a_blind_retry_of_a_failure_that_called_for_something_else_is_a_mistake(outcome: Outcome) -> None:
    got = weights(
        turn(result("c1", outcome, Cause.INJECTED)), turn(result("c2", outcome, Cause.INJECTED, retry_of="c1"))
    )
    assert got == (1, 0)


def test_a_retry_that_meets_another_failure_is_no_blind_one() -> None:
    # told to log in, logged in, and the same call then met an outage
    got = weights(
        turn(result("c1", Outcome.UNAUTHENTICATED, Cause.INJECTED)),
        turn(result("c2", tool="login")),
        turn(result("c3", Outcome.UNAVAILABLE, Cause.INJECTED, retry_of="c1")),
        turn(result("c4", retry_of="c3")),
    )
    assert got == (1, 1, 1, 1)


def test_patience_bounds_the_retries_that_are_taught() -> None:
    turns = [turn(result("c0", Outcome.UNAVAILABLE, Cause.INJECTED))]
    turns += [turn(result(f"c{i}", Outcome.UNAVAILABLE, Cause.INJECTED, retry_of=f"c{i - 1}")) for i in (1, 2, 3)]
    turns.append(turn(result("c4", retry_of="c3")))
    assert weights(*turns) == (1, 1, 1, 0, 1)  # the third failing retry is one too many; the one that worked is not
    assert weights(*turns, patience=3) == (1, 1, 1, 1, 1)
    assert weights(*turns, patience=0) == (1, 0, 0, 0, 1)


def test_a_tool_that_was_reported_gone_is_not_tried_again() -> None:
    got = weights(
        turn(result("c1", Outcome.GONE, Cause.INJECTED)),
        turn(result("c2", Outcome.GONE, Cause.INJECTED)),  # other arguments: no retry_of
        turn(result("c3", tool="lend_v2")),
    )
    assert got == (1, 0, 1)


def test_calls_of_one_message_were_sent_without_each_others_answers() -> None:
    both = turn(
        result("c1", Outcome.GONE, Cause.INJECTED),
        result("c2", Outcome.GONE, Cause.INJECTED, retry_of="c1"),
    )
    assert weights(both) == (1,)


def test_one_wrong_call_takes_the_turn_out() -> None:
    assert weights(turn(result("c1"), result("c2", Outcome.MALFORMED, Cause.POLICY))) == (0,)


def test_weights_that_were_set_before_are_kept() -> None:
    assert weights(turn(result("c1"), weight=0.5), turn(result("c2"), weight=0)) == (0.5, 0)


def test_inherited_turns_of_a_fork_are_context() -> None:
    t = episode("t", [turn(result("c1")), turn(result("c2")), say("done")], forked_from=Fork("p", 2))
    assert turn_weights(t) == (0, 0, 1)


# --- gold, successes, best_of ------------------------------------------------------------------------------------

FAILED_CALL = turn(result("c1", Outcome.MALFORMED, Cause.POLICY))


def test_gold_keeps_successes_with_failed_calls_as_context() -> None:
    won = episode("won", [FAILED_CALL, turn(result("c2")), say("done")])
    curated = gold(
        [
            episode("lost", [say("done")], success=False),
            won,
            episode("broken", [say("done")], success=None, stop=StopReason.INFRASTRUCTURE),
            episode("cancelled", [say("done")], stop=StopReason.CANCELLED),
            episode("nothing", [FAILED_CALL]),
        ]
    )
    assert ids(curated) == ["won"]
    assert [t.weight for t in curated.items[0].turns] == [0, 1, 1]
    assert [t.weight for t in won.turns] == [1, 1, 1]  # the input is left as it was
    assert curated.card == Card(
        came_in=5,
        kept=1,
        dropped={"not judged (infrastructure, cancelled)": 2, "without success": 1, "no turn to learn from": 1},
    )
    assert str(curated.card) == (
        "kept 1 of 5 trajectories; dropped: 2 not judged (infrastructure, cancelled), 1 without success, "
        "1 no turn to learn from"
    )


def test_successes_are_left_as_they_are() -> None:
    won = episode("won", [FAILED_CALL, say("done")])
    curated = successes([won, episode("lost", [], success=False)])
    assert curated.items == (won,)
    assert curated.card.dropped == {"without success": 1}


def test_best_of_takes_the_best_successes_of_each_group() -> None:
    solved = group(
        sampled("low", "a b", reward=0.5),
        sampled("long", "a b c", reward=1),
        sampled("short", "a d", reward=1),
        sampled("lost", "a x", reward=0),
        sampled("short again", "a d", reward=1),
    )
    unsolved = group(sampled("hopeless", "x"))
    one = best_of([solved, unsolved])
    assert ids(one) == ["short"]
    two = best_of([solved, unsolved], k=2)
    assert ids(two) == ["short", "long"]
    assert two.card == Card(
        came_in=6, kept=2, dropped={"without success": 2, "same turns as a kept one": 1, "beyond the best 2": 1}
    )
    assert ids(best_of([solved], k=9)) == ["short", "long", "low"]


def test_best_of_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="k must be 1"):
        best_of([], k=0)
    with pytest.raises(DataError, match="trajectory t was judged, but its reward is nan"):
        best_of([group(episode("t", [say("done")], reward=float("nan")))])


@pytest.mark.parametrize("curate", [gold, successes, lambda ts: best_of(TrajectoryGroup.by_task(ts))])
def test_nothing_left_is_an_error_that_says_why_and_nothing_in_is_none(curate: Any) -> None:
    with pytest.raises(DataError, match=r"nothing left: kept 0 of 2 trajectories; dropped: 2 without success"):
        curate([episode("a", [say("x")], success=False), episode("b", [say("x")], success=False)])
    assert len(curate([])) == 0


# --- shared turns ------------------------------------------------------------------------------------------------


def test_shared_turns_compares_what_was_written_and_seen() -> None:
    a = episode("a", [turn(result("c1")), turn(result("c2")), say("done")])
    same = episode("b", [turn(replace(result("x9"), latency_s=3.0, error="trace")), turn(result("c2")), say("bye")])
    assert shared_turns(a, same) == 2  # not call ids, latencies, tracebacks
    assert shared_turns(a, a) == 3
    assert shared_turns(a, episode("c", [turn(result("c1", content="other")), turn(result("c2"))])) == 0
    assert shared_turns(a, episode("d", [turn(result("c1"), text="hm"), turn(result("c2"))])) == 0
    assert shared_turns(a, episode("e", [turn(result("c1"))])) == 1
    spoken_to = replace(a.turns[0], messages=(Message("user", "wait"),))
    assert shared_turns(a, episode("f", [spoken_to, a.turns[1]])) == 0
    assert shared_turns(a, replace(a, prompt=(Message("user", "else"),))) == 0


def test_shared_turns_compares_tokens_where_there_are_any() -> None:
    a, b = sampled("a", "a b c"), sampled("b", "a b d")
    assert shared_turns(a, b) == 2
    assert b.tokens is not None
    other = Tokens((0, ord("a"), 7, ord("d")), b.tokens.sampled, b.tokens.logprobs)  # "b" sampled as another token
    assert shared_turns(a, replace(b, tokens=other)) == 1
    prompted = Tokens((9, *b.tokens.ids[1:]), b.tokens.sampled, b.tokens.logprobs)  # another prompt before it all
    assert shared_turns(a, replace(b, tokens=prompted)) == 0


# --- pairs -------------------------------------------------------------------------------------------------------


def names(pairs: Curated[Pair]) -> list[tuple[str, str, int]]:
    return [(pair.chosen.id, pair.rejected.id, pair.fork) for pair in pairs]


def test_on_policy_pairs_prefer_the_latest_fork() -> None:
    members = group(
        sampled("won", "a b c d", reward=1),
        sampled("early", "x y", reward=0),
        sampled("late", "a b c e", reward=0),
        sampled("other", "x z", reward=1),
    )
    pairs = on_policy_pairs([members])
    assert names(pairs) == [("won", "late", 3)]
    assert pairs.items[0].source == "on_policy"
    assert pairs.items[0].margin == 1
    # six pairs: won-early 0, won-late 3, won-other tied, early-late tied, early-other 1, late-other 0
    assert pairs.card == Card(came_in=6, kept=1, dropped={"beyond 1 of a group": 3, "tied": 2}, unit="pairs")
    assert names(on_policy_pairs([members], max_per_group=2)) == [("won", "late", 3), ("other", "early", 1)]
    assert len(on_policy_pairs([members], max_per_group=9)) == 4


def test_on_policy_pairs_spread_over_trajectories_then_take_the_wider_margin() -> None:
    # no turn is shared: first the widest margin (a over d), then what is used least (b over c), whatever its margin
    members = group(
        sampled("a", "a", reward=4), sampled("b", "b", reward=3), sampled("c", "c", reward=2.5), sampled("d", "d")
    )
    pairs = on_policy_pairs([members], max_per_group=2)
    assert names(pairs) == [("a", "d", 0), ("b", "c", 0)]
    assert [pair.margin for pair in pairs] == [4, 0.5]


def test_on_policy_pairs_drop_what_is_no_comparison() -> None:
    def dropped(*members: Trajectory, **kwargs: Any) -> dict[str, int]:
        fine = group(sampled("w", "a b", reward=1), sampled("l", "a c"))
        card = on_policy_pairs([fine, group(*members)], **kwargs).card
        assert card.kept == 1
        assert balances(card)
        return card.dropped

    won = sampled("won", "a b", reward=1)
    assert dropped(won, sampled("also", "a c", reward=1)) == {"tied": 1}
    assert dropped(won, sampled("near", "a c", reward=0.75), min_margin=0.5) == {"with a margin below 0.5": 1}
    assert dropped(won, sampled("start", "a")) == {"without a fork": 1}
    assert dropped(won, sampled("same", "a b")) == {"without a fork": 1}
    assert dropped(won, episode("expert", [say("z")], success=False)) == {"with a side that no policy sampled": 1}
    forked = sampled("forked", "a c", forked_from=Fork("p", 1))
    assert dropped(won, forked) == {"with a side forked from another episode": 1}
    broken = replace(sampled("broken", "a c", stop=StopReason.INFRASTRUCTURE), success=None)
    assert dropped(won, broken) == {"not judged (infrastructure, cancelled)": 1}


def test_on_policy_pairs_depend_on_the_seed_and_their_own_group_only() -> None:
    def task(n: int) -> TrajectoryGroup:
        courses = ["a", "b", "c", "d", "e", "f"]
        members = [sampled(f"{n}{w}", w, reward=float(w in "abc")) for w in courses]
        return group(*(replace(t, task=replace(TASK, id=f"task{n}")) for t in members))

    both = on_policy_pairs([task(1), task(2)], seed=3)
    assert both == on_policy_pairs([task(1), task(2)], seed=3)
    assert set(names(on_policy_pairs([task(2)], seed=3))) < set(names(both))
    drawn = {names(on_policy_pairs([task(1)], seed=seed))[0] for seed in range(20)}
    assert len(drawn) > 3  # nine are equal in all but the draw


def test_no_pairs_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match="nothing left: kept 0 of 1 pairs; dropped: 1 tied"):
        on_policy_pairs([group(sampled("a", "a"), sampled("b", "b"))])
    assert len(on_policy_pairs([])) == 0
    assert on_policy_pairs([group(sampled("a", "a"))]).card.came_in == 0  # one trajectory is no pair
    with pytest.raises(ConfigError, match="max_per_group"):
        on_policy_pairs([], max_per_group=0)
    with pytest.raises(ConfigError, match="min_margin"):
        on_policy_pairs([], min_margin=-1)


courses = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=4), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=6
)


@relaxed
@given(courses=courses, most=st.integers(1, 4), seed=st.integers(0, 9))
def test_pairs_keep_their_promises(courses: list[tuple[str, float]], most: int, seed: int) -> None:
    members = [sampled(f"t{i}", " ".join(word), reward=reward) for i, (word, reward) in enumerate(courses)]
    try:
        pairs = on_policy_pairs([group(*members)], max_per_group=most, seed=seed)
    except DataError:
        return
    assert 1 <= len(pairs) <= most
    assert balances(pairs.card)
    assert len(set(names(pairs))) == len(pairs)
    for pair in pairs:
        assert pair.margin == pair.chosen.reward - pair.rejected.reward > 0
        left, right = ([turn.action.content for turn in t.turns] for t in (pair.chosen, pair.rejected))
        assert left[: pair.fork] == right[: pair.fork]
        assert left[pair.fork] != right[pair.fork]


def test_correction_pairs_fork_where_the_lineage_says() -> None:
    failed = sampled("failed", "a b x y")
    # the expert sets in after turn 1 and happens to say b as well: the fork stays that of the lineage
    corrected = sampled("fixed", "a b c", reward=1, forked_from=Fork("failed", 1))
    pairs = correction_pairs([(failed, corrected)])
    assert names(pairs) == [("fixed", "failed", 1)]
    assert pairs.items[0].source == "correction"
    assert pairs.card == Card(came_in=1, kept=1, unit="pairs")


def test_correction_pairs_drop_what_corrects_nothing() -> None:
    failed = sampled("failed", "a x y")
    good = sampled("good", "a b", reward=1, forked_from=Fork("failed", 1))
    cases = [
        (failed, replace(good, forked_from=None)),
        (failed, replace(good, forked_from=Fork("other", 1))),
        (failed, sampled("good", "z b", reward=1, forked_from=Fork("failed", 1))),
        (failed, sampled("vain", "a z", forked_from=Fork("failed", 1))),
        (replace(failed, success=True, reward=0.5), good),
        (replace(failed, reward=1.0), good),
        (failed, sampled("end", "a x y z", reward=1, forked_from=Fork("failed", 3))),
        (failed, replace(good, success=None)),
    ]
    card = correction_pairs([(failed, good), *cases]).card
    assert card.kept == 1
    assert card.dropped == {
        "not forked from the failed one": 2,
        "whose turns before the fork differ": 1,
        "whose correction did not succeed": 1,
        "whose original succeeded": 1,
        "whose correction has no better reward": 1,
        "with nothing after the fork": 1,
        "not judged (infrastructure, cancelled)": 1,
    }
    with pytest.raises(DataError, match="nothing left: kept 0 of 8 pairs"):
        correction_pairs(cases)


def test_a_pair_shares_its_task_and_faults() -> None:
    won, lost = sampled("won", "a b", reward=1), sampled("lost", "a c")
    with pytest.raises(DataError, match="shares environment, task and fault plan"):
        Pair(won, replace(lost, faults="count=1@7"), 1, "mine", 1.0)
    with pytest.raises(DataError, match="fork 2 leaves a side without turns of its own"):
        Pair(won, lost, 2, "mine", 1.0)


# --- mixture -----------------------------------------------------------------------------------------------------


def test_mixture_has_exact_shares_and_shows_repeats() -> None:
    parts = {"gold": [f"g{i}" for i in range(10)], "recovery": ["r0", "r1"]}
    mixed = mixture(parts, {"gold": 0.6, "recovery": 0.4}, 10, seed=1)
    counts = Counter(mixed)
    assert sum(n for name, n in counts.items() if name.startswith("g")) == 6
    assert max(n for name, n in counts.items() if name.startswith("g")) == 1  # without replacement
    assert counts["r0"] == counts["r1"] == 2  # 4 of 2: each as often as the other
    assert mixed.card == Card(came_in=12, kept=10, dropped={"of gold not drawn": 4}, repeated=2, unit="items")
    assert str(mixed.card) == "kept 10 of 12 items; dropped: 4 of gold not drawn; repeated: 2"


def test_mixture_rounds_the_largest_remainder_up() -> None:
    # 4 * .1 = .4 and 4 * .9 = 3.6: the one that is left goes to b
    assert Counter(mixture({"a": ["a"] * 9, "b": ["b"] * 9}, {"a": 0.1, "b": 0.9}, 4)) == {"b": 4}


def test_mixture_depends_on_the_seed_and_not_on_the_order_of_parts() -> None:
    parts = {"a": list(range(50)), "b": list(range(100, 150))}
    shares = {"a": 1.0, "b": 1.0}
    one = mixture(parts, shares, 20, seed=1)
    assert one == mixture(dict(reversed(parts.items())), dict(reversed(shares.items())), 20, seed=1)
    assert one != mixture(parts, shares, 20, seed=2)
    of_a = [x < 100 for x in one]
    assert of_a != sorted(of_a, reverse=True)  # shuffled: not all of a, then all of b
    # the share of b decides nothing about which items come from a
    more = mixture(parts, {"a": 1.0, "b": 3.0}, 40, seed=1)
    assert {x for x in one if x < 100} == {x for x in more if x < 100}


@relaxed
@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1),
    data=st.data(),
    n=st.integers(1, 60),
)
def test_mixture_counts(sizes: dict[str, int], data: st.DataObject, n: int) -> None:
    shares = {name: data.draw(st.floats(0.01, 5), label=name) for name in sizes}
    parts = {name: [(name, i) for i in range(size)] for name, size in sizes.items()}
    mixed = mixture(parts, shares, n)
    assert len(mixed) == n
    assert balances(mixed.card)
    got = Counter(name for name, _ in mixed)
    for name in parts:
        assert abs(got[name] - n * shares[name] / sum(shares.values())) < 1 + 1e-9
        copies = [Counter(mixed)[item] for item in parts[name]]
        assert max(copies) - min(copies) <= 1


def test_mixture_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'gold'"):
        mixture({"gold": [1]}, {"golf": 1}, 1)
    with pytest.raises(ConfigError, match="no share for replay"):
        mixture({"gold": [1], "replay": [2]}, {"gold": 1}, 1)
    for share in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="finite and not negative"):
            mixture({"gold": [1]}, {"gold": share}, 1)
    with pytest.raises(ConfigError, match="all shares are 0"):
        mixture({"gold": [1]}, {"gold": 0}, 1)
    with pytest.raises(ConfigError, match="n must be 1"):
        mixture({"gold": [1]}, {"gold": 1}, 0)
    with pytest.raises(DataError, match="part 'gold' is empty, but 3 of 3"):
        mixture({"gold": []}, {"gold": 1}, 3)
    assert len(mixture({"gold": [1], "off": []}, {"gold": 1, "off": 0}, 3)) == 3


# --- each seed of data: a command makes it from orders, and the trainer it is for takes a step on it --------------

MINE = """
def score(t):
    return t.reward - 0.01 * len(t.turns)

def judge(a, b):
    good = [t.reward for t in (a, b)]
    return "tie" if good[0] == good[1] else "a" if good[0] > good[1] else "b"

def thanks(t):
    from dataclasses import replace
    last = t.turns[-1]
    said = replace(last.action, content=last.action.content + " Thank you.")
    return replace(t, turns=(*t.turns[:-1], replace(last, action=said)))
"""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3: Path) -> Path:
    """Episodes of `orders`: clean, under faults, four agents on the same ones, as a policy would have sampled them."""
    folder = tmp_path_factory.mktemp("kitchen")
    tasks = task_set(make("orders"), "train", 5)
    plan = FaultPlan.parse("count=1:unavailable,rate_limited,internal_error@3")
    episodes = {"gold": [EpisodeSpec(t) for t in tasks], "faulty": [EpisodeSpec(t, plan) for t in tasks]}
    played = {name: rollout("orders", scripted("expert"), wanted) for name, wanted in episodes.items()}
    agents = ("give-up", "do-nothing", "blind-retry")
    others = [t for agent in agents for t in rollout("orders", scripted(agent), episodes["faulty"])]
    played["groups"] = [*played["faulty"], *others]
    chat = HermesFormat(load_tokenizer(tiny_qwen3), tool_style="signature")
    for t in played["groups"]:
        tokens, spans = tokens_of(chat, t)
        turns = tuple(replace(turn, span=span) for turn, span in zip(t.turns, spans, strict=True))
        played.setdefault("sampled", []).append(replace(t, tokens=tokens, turns=turns))
    for name, items in played.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(t.to_json() + b"\n" for t in items))
    with Store(folder / "store") as store:
        for t in played["gold"]:
            store.append(t)
    good, bad = played["faulty"], [t for t in others if t.agent == "do-nothing"]
    labels = [{"a": b.id, "b": g.id, "label": "b", "labeller": "ann", "note": "", "time": f"2026-01-0{i + 1}T00:00:00Z"}
              for i, (g, b) in enumerate(zip(good, bad, strict=True))]  # fmt: skip
    (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    (folder / "mine_for_curation.py").write_text(MINE)
    (folder / "rules.yaml").write_text("seed: 2\nrules:\n- gold\n- near_duplicates: {threshold: 0.95}\n")
    return folder


@pytest.fixture
def cook(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in the kitchen; `code` is what it has to exit with."""
    monkeypatch.chdir(kitchen)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(command: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == code, f"{command}: {done.output}\n{done.exception!r}"
        return done

    yield run
    torch.set_num_threads(before)
    sys.modules.pop("mine_for_curation", None)


SEEDS = {
    "gold": ("sft", "gold.jsonl --rule gold"),
    "gold of a store, by a file of rules": ("sft", "store --rules rules.yaml"),
    "recovery demonstrations": ("sft", "gold.jsonl faulty.jsonl --rule recoveries"),
    "rejection sampling": ("sft", "sampled.jsonl --rule 'rejection_sampling k=2' --rule gold"),
    "distillation": ("sft", "sampled.jsonl --rule 'distillation teacher=expert student=do-nothing'"),
    "corrected episodes": ("sft", "sampled.jsonl --rule corrections"),
    "correction": ("dpo", "sampled.jsonl --rule 'pairs by=correction'"),
    "on-policy": ("dpo", "sampled.jsonl --rule duplicates --rule 'pairs by=reward max_per_group=2'"),
    "judge": ("dpo", "groups.jsonl --rule 'pairs by=judge judge=mine_for_curation:judge max_per_group=6'"),
    "people": ("dpo", "groups.jsonl --rule 'pairs by=people labels=labels.jsonl'"),
    "reward model": ("dpo", "groups.jsonl --rule 'pairs by=score score=mine_for_curation:score'"),
    "style": ("dpo", "sampled.jsonl --rule successes --rule 'pairs by=style rewrite=mine_for_curation:thanks'"),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_of_data_from_the_command_to_a_step_of_training(seed: str, cook: Any, kitchen: Path) -> None:
    trainer, command = SEEDS[seed]
    data, card_file = kitchen / f"{seed} data.jsonl", kitchen / f"{seed} data.card.json"
    done = cook(f"curate {command} --held-out test --out {shlex.quote(data.name)}")
    card = json.loads(card_file.read_text())
    assert card["kept"] > 0
    assert card["unit"] == ("episodes" if trainer == "sft" else "pairs")
    assert all(r["came_in"] == r["kept"] + sum(r["dropped"].values()) for r in card["rules"])
    assert f"sparring train {trainer} --data" in done.stdout
    if trainer == "dpo":
        items: Any = read_pairs([data])
        assert all(pair.margin > 0 for pair in items)
    else:
        items = [Trajectory.from_json(line) for line in data.read_bytes().splitlines()]
        assert all(t.success and any(turn.weight for turn in t.turns) for t in items)
    assert len(items) == card["kept"]
    assert digest(items) == card["content"]
    cook(f"curate {command} --held-out test --out again.jsonl --overwrite")
    if "correct" not in seed:  # which plays anew: its latencies differ
        assert (kitchen / "again.jsonl").read_bytes() == data.read_bytes()
    assert json.loads((kitchen / "again.card.json").read_text())["content"] == card["content"]

    out = kitchen / f"run {seed}"
    options = "--keep all" if trainer == "sft" else "--min-chosen -1e9"
    cook(
        f"train {trainer} --data {shlex.quote(data.name)} {options} --model tiny-qwen3 --precision fp32 --steps 1 "
        f"--batch 2 --max-context 9000 --micro-tokens 9000 --save-every 0 --out {shlex.quote(out.name)}"
    )
    (row,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert math.isfinite(row["loss"])
    assert row["loss"] > 0
    assert (out / "model" / "model.safetensors").is_file()


def test_what_curate_refuses(cook: Any, kitchen: Path) -> None:
    def fails(command: str) -> str:
        line: str = cook(f"curate {command}", 1).stderr.splitlines()[-1]
        return line

    (kitchen / "nothing").mkdir()
    for command, says in (
        ("gold.jsonl --out x.jsonl", "no rule was given"),
        ("gold.jsonl --rule golden --out x.jsonl", "Did you mean 'gold'?"),
        ("gold.jsonl --rule gold --held-out gold.jsonl --out x.jsonl", "5 of 5 are of held-out tasks"),
        ("gold.jsonl --rule gold --held-out tset --out x.jsonl", "got 'tset'"),
        ("gold.jsonl --rule gold --out gold.jsonl", "is there already"),
        ("gold.jsonl --rule gold --out gold.jsonl --overwrite", "one of the files that are read"),
        ("gold.jsonl --rule 'pairs by=reward' --out x.jsonl", "no task was played twice"),
        ("gold.jsonl --rule 'balanced by=success' --out x.jsonl", "nothing to balance"),
        ("faulty.jsonl --rule 'pairs by=correction' --out x.jsonl", "nothing left"),
        ("groups.jsonl --rule 'pairs by=judge judge=tiny-qwen3' --out x.jsonl", "without a verdict"),
        ("nothing --rule gold --out x.jsonl", "is no store"),
    ):
        assert says in fails(command), command
    assert not (kitchen / "x.jsonl").exists()


def test_pairs_and_episodes_are_not_mixed(cook: Any, kitchen: Path) -> None:
    cook("curate groups.jsonl --rule 'pairs by=score score=mine_for_curation:score' --out few.jsonl --overwrite")
    done = cook("train dpo --data few.jsonl --data sampled.jsonl --model tiny-qwen3 --steps 1 --out mixed", 1)
    assert "few.jsonl holds pairs, sampled.jsonl does not" in done.stderr


def test_decontaminated_by_a_split(cook: Any, kitchen: Path) -> None:
    """The test tasks that were played by mistake go, the others stay."""
    leaked = rollout("orders", scripted("expert"), [EpisodeSpec(t) for t in task_set(make("orders"), "test", 2)])
    (kitchen / "leaked.jsonl").write_bytes(b"".join(t.to_json() + b"\n" for t in leaked))
    assert (
        "2 of 7 are of held-out tasks"
        in cook("curate gold.jsonl leaked.jsonl --rule gold --held-out test --out clean.jsonl", 1).stderr
    )
    cook(
        "curate gold.jsonl leaked.jsonl --rule gold --rule 'decontaminated against=test' --held-out test "
        "--out clean.jsonl --overwrite"
    )
    assert json.loads((kitchen / "clean.card.json").read_text())["kept"] == 5


def test_learning_from_calls_whose_ends_nobody_tells_is_said(cook: Any, kitchen: Path) -> None:
    """An import takes a failure for a success where nobody says: gold would train it."""
    sent = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    told = {"role": "tool", "tool_call_id": "1", "content": "Error: no"}
    messages = [{"role": "user", "content": "Go."}, sent, told, {"role": "assistant", "content": "Done."}]
    (kitchen / "log.jsonl").write_text(json.dumps({"messages": messages}))
    for name, rule, note in (("untold", "", True), ("told", "--errors ^Error", False)):
        cook(f"import log.jsonl --from openai --success --out {name}.jsonl {rule}")
        made = cook(f"curate {name}.jsonl --rule gold --out {name}-data.jsonl")
        assert ("how 1 of 1 calls ended: they are taken for good" in made.stderr) is note
