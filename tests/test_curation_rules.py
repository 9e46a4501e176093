"""Curation's rules one by one, by examples and properties; several in a row; files of pairs and labels."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    DataError,
    Fork,
    Message,
    Outcome,
    StopReason,
    Task,
    Tokens,
    ToolCall,
    ToolResult,
    Trajectory,
    TrajectoryGroup,
    Turn,
    UnknownName,
)
from sparring.trajectories.curation import (
    PAIRS,
    RULES,
    Card,
    Curated,
    Pair,
    Quality,
    balanced,
    coverage,
    curate,
    decontaminated,
    difficulty,
    digest,
    distillation,
    diverse,
    duplicates,
    gold,
    holds_pairs,
    judged_pairs,
    near_duplicates,
    parse_rule,
    people_pairs,
    quality,
    quality_of,
    read_pairs,
    read_rules,
    recoveries,
    rejection_sampling,
    sample,
    scored_pairs,
    step_pairs,
    style_pairs,
    write_pairs,
)

relaxed = settings(max_examples=40, deadline=None)  # no deadline: others may be using the machine

BAD = Outcome.UNAVAILABLE


def turn(
    tool: str,
    argument: str = "",
    outcome: Outcome = Outcome.OK,
    *,
    cause: Cause | None = None,
    took_effect: bool = False,
    content: str = "",
) -> Turn:
    cause = cause or (None if outcome is Outcome.OK else Cause.INJECTED)
    call = ToolCall(tool, {"x": argument}, id=f"{tool}-{argument}")
    done = ToolResult(
        call.id, tool, outcome, content or outcome.value, cause=cause, took_effect=took_effect, latency_s=0.1
    )
    return Turn(Action("", (call,)), (done,))


def say(text: str) -> Turn:
    return Turn(Action(text))


def episode(id: str, *turns: Turn, success: bool | None = True, task: str = "t", **fields: Any) -> Trajectory:
    known = fields.pop("the_task", None) or Task(f"Do {task}.", id=task, kind=fields.pop("kind", ""))
    fields.setdefault("reward", float(bool(success)))
    fields.setdefault("stop", StopReason.FINISHED if success is not None else StopReason.INFRASTRUCTURE)
    return Trajectory(id, "test/E-v0", known, (Message("user", known.instruction),), turns, success=success, **fields)


def ids(curated: Curated[Trajectory]) -> list[str]:
    return [t.id for t in curated]


def sides(curated: Curated[Pair]) -> list[tuple[str, str]]:
    return [(pair.chosen.id, pair.rejected.id) for pair in curated]


def balances(card: Card) -> bool:
    return card.came_in + card.repeated == card.kept + sum(card.dropped.values())


def grouped(*trajectories: Trajectory) -> list[TrajectoryGroup]:
    return TrajectoryGroup.by_task(trajectories)


# --- what to imitate ---------------------------------------------------------------------------------------------


def test_recoveries_are_successes_after_something_went_wrong() -> None:
    clean = episode("clean", turn("a"), say("done"))
    failed_call = episode("failed", turn("a", "1", BAD), turn("a", "1"), say("done"))
    silent = episode("silent", turn("a"), say("done"), faults_hit=("silent_wrong_value",))
    lost = episode("lost", turn("a", "1", BAD), say("cannot"), success=False)
    mistake = episode("mistake", turn("a", "1", Outcome.NOT_FOUND, cause=Cause.TOOL), turn("a", "2"), say("done"))
    done = recoveries([clean, failed_call, silent, lost, mistake])
    assert ids(done) == ["failed", "silent", "mistake"]
    assert [t.weight for t in done.items[2].turns] == [0, 1, 1]
    assert done.card == Card(5, 3, {"without success": 1, "with nothing to recover from": 1})
    with pytest.raises(DataError, match=r"recoveries has nothing left: .* 1 with nothing to recover from"):
        recoveries([clean])


def test_rejection_sampling_keeps_different_successes() -> None:
    one, same = (episode(id, turn("a"), say("done")) for id in "ab")
    other, third = episode("c", turn("b"), say("done")), episode("d", turn("c"), say("done"))
    lost = episode("e", say("no"), success=False)
    done = rejection_sampling(grouped(one, same, other, third, lost), k=2, seed=3)
    assert len(done) == 2
    assert done.card.dropped.keys() <= {"without success", "same turns as a kept one", "beyond 2 of a group"}
    assert balances(done.card)
    everything = rejection_sampling(grouped(one, same, other, third, lost), k=4)
    assert {*ids(everything)} in ({"a", "c", "d"}, {"b", "c", "d"})
    easy = [one, other]
    hard = [episode("f", turn("a"), say("done"), task="hard"), episode("g", say("no"), success=False, task="hard")]
    assert ids(rejection_sampling(grouped(*easy, *hard), hardest=0.5)) == ["f"]
    with pytest.raises(ConfigError, match="hardest"):
        rejection_sampling([], hardest=0)


def test_distillation_speaks_no_vocabulary() -> None:
    call = ToolCall("a", {"x": 1}, raw='{"name": "a", "arguments": {"x": 1}} ')
    broken = ToolCall("", None, raw="{oops", error="no JSON")
    turns = (
        Turn(Action("", (broken,)), (ToolResult("1", "", Outcome.MALFORMED, "no", cause=Cause.POLICY),), span=(1, 2)),
        Turn(Action("", (call,)), (ToolResult("2", "a", Outcome.OK, "ok"),), span=(3, 4)),
    )
    tokens = Tokens((0, 1, 2, 3), (0, 1, 0, 1), (0.0,) * 4)
    big = episode("big", *turns, agent="big", tokens=tokens)
    small = episode("small", say("no"), success=False, agent="small")
    (got,) = distillation([big, small], teacher="big", student="small")
    assert got.tokens is None
    assert [t.span for t in got.turns] == [None, None]
    assert [t.weight for t in got.turns] == [0, 1]
    assert got.turns[0].action.tool_calls[0].raw == "{oops"  # it cannot be written otherwise
    assert got.turns[1].action.tool_calls[0].raw == ""

    solved = episode("solved", say("done"), agent="small")
    untried = episode("untried", say("done"), agent="big", task="other")
    with pytest.raises(DataError, match="1 of a task that the student solves") as caught:
        distillation([big, solved, untried], teacher="big", student="small")
    assert "1 of a task that the student has not tried" in str(caught.value)
    with pytest.raises(UnknownName, match="Did you mean 'big'"):
        distillation([big], teacher="bigg")
    with pytest.raises(ConfigError, match="both 'big'"):
        distillation([big], teacher="big", student="big")


# --- the same twice ----------------------------------------------------------------------------------------------


def test_duplicates_do_not_differ_in_what_was_written_and_seen() -> None:
    first = episode("b", turn("a", "1"), say("done"))
    slower = replace(
        episode(
            "a", replace(turn("a", "1"), results=(replace(turn("a", "1").results[0], latency_s=9.0),)), say("done")
        ),
        seed=7,
    )
    other_answer = episode("c", turn("a", "1", content="else"), say("done"))
    better = episode("d", turn("a", "1"), say("done"), reward=2.0)
    assert ids(duplicates([first, slower, other_answer])) == ["a", "c"]
    assert ids(duplicates([first, better, slower, other_answer])) == ["d", "c"]
    assert duplicates([first, slower]).card.dropped == {"the same as a kept one": 1}


def words_of(n: int, changed: int = 0) -> str:
    return " ".join(f"w{i}" if i >= changed else f"x{i}" for i in range(n))


def test_near_duplicates_share_their_runs_of_words() -> None:
    base = episode("a", say(words_of(100)))
    near = episode("b", say(words_of(100, 3)))  # its first runs differ
    far = episode("c", say(words_of(100, 60)))
    done = near_duplicates([far, near, base], threshold=0.8)
    assert ids(done) == ["c", "a"]
    assert done.card.dropped == {"0.8 like a kept one or more": 1}
    assert len(near_duplicates([far, near, base], threshold=1.0)) == 3
    assert ids(near_duplicates([base, episode("z", say(words_of(100).upper()))], threshold=1.0)) == ["a"]  # at least
    elsewhere = replace(near, env="test/F-v0")
    assert len(near_duplicates([base, elsewhere], threshold=0.8)) == 2
    for wrong in (0, 1.1):
        with pytest.raises(ConfigError, match="threshold"):
            near_duplicates([base], threshold=wrong)


def test_minhash_overlooks_next_to_nothing() -> None:
    """Against the comparison of all with all, on texts that lie around the threshold."""
    rng = random.Random(5)
    texts = []
    for _ in range(30):
        base = [f"w{rng.randrange(10_000)}" for _ in range(60)]
        for _ in range(4):
            copy = list(base)
            for at in rng.sample(range(60), rng.randrange(1, 8)):
                copy[at] = f"y{rng.randrange(10_000)}"
            texts.append(" ".join(copy))
    held = [episode(f"{i:03}", say(text)) for i, text in enumerate(texts)]

    def runs(t: Trajectory) -> set[tuple[str, ...]]:
        text = [*t.task.instruction.lower().rstrip(".").split(), "|", *t.turns[0].action.content.split()]
        return {tuple(text[i : i + 3]) for i in range(len(text) - 2)}

    kept: list[Trajectory] = []
    for t in held:
        if all(len(runs(t) & runs(k)) < 0.6 * len(runs(t) | runs(k)) for k in kept):
            kept.append(t)
    assert 30 < len(kept) < 110
    assert ids(near_duplicates(held, threshold=0.6)) == [t.id for t in kept]


# --- variety -----------------------------------------------------------------------------------------------------


def test_coverage_takes_what_has_been_met_least() -> None:
    common = [episode(f"c{i}", turn("a"), say("done"), kind="easy") for i in range(8)]
    rare = episode("r", turn("b"), say("done"), kind="rare", faults_hit=("gone",))
    assert "r" in ids(coverage([*common, rare], n=2))
    assert len(coverage([*common, rare], n=2)) == 2
    assert len(coverage(common, n=20)) == 8
    by_env = coverage([*common, replace(rare, env="test/F-v0")], n=2, of=("env",))
    assert "r" in ids(by_env)


def test_diverse_takes_the_farthest() -> None:
    alike = [episode(f"a{i}", turn("a"), turn("a"), turn("a"), say("done")) for i in range(5)]
    other = episode("b", turn("b"), turn("b"), say("done"))
    failing = episode("f", turn("a", "", BAD), turn("a", "", BAD), turn("a", "", BAD), say("cannot"), success=False)
    done = diverse([*alike, other, failing], n=3)
    assert {"b", "f"} < {*ids(done)}
    assert len(diverse([*alike, other, failing], n=6)) == 3  # the others are exactly like a chosen one
    assert done.card.dropped == {"close to a kept one": 4}


# --- quality -----------------------------------------------------------------------------------------------------


def test_quality_by_hand() -> None:
    wasteful = episode(
        "w",
        turn("look", "1", content="x"),
        turn("look", "1", content="x"),  # nothing new
        turn("pay", "1", took_effect=True),
        turn("look", "1", content="x"),  # the world changed: looking again is no waste
        turn("look", "2", Outcome.NOT_FOUND, cause=Cause.TOOL),  # a made-up id
        turn("pay", "2", BAD),  # nobody could know
        turn("pay", "2"),
        say("done"),
        expert_turns=4,
    )
    got = quality_of(wasteful, [episode("x", say("no"), success=False), episode("y", say("done"))])
    assert (got.length, got.margin) == (0.5, 0.75)
    assert got.thrift == pytest.approx(5 / 7)
    assert got.score == pytest.approx((0.5 + 5 / 7 + 0.75) / 3)
    assert quality_of(episode("z", say("done"))) == Quality(None, None, None)
    assert Quality(None, None, None).score == 0


def test_quality_drops_below_a_score_or_a_share() -> None:
    good = episode("g", turn("a"), say("done"), expert_turns=2)
    long = episode("l", turn("a"), turn("b"), turn("c"), say("done"), expert_turns=2, task="u")
    unknown = episode("i", say("x"), success=None)
    assert ids(quality([good, long, unknown], min=0.9)) == ["g"]
    done = quality([long, good, unknown], top=0.5)
    assert ids(done) == ["g"]
    assert done.card.dropped == {"not among the best 0.5": 1, "not judged (infrastructure, cancelled)": 1}
    with pytest.raises(ConfigError, match="needs min"):
        quality([good])
    with pytest.raises(ConfigError, match="top is a number"):
        quality([good], top=2)
    with pytest.raises(DataError, match=r"nothing left.*below 1"):
        quality([long], min=1.0)


def test_difficulty_by_pass_rate() -> None:
    easy = [episode(f"e{i}", say("x"), task="easy") for i in range(2)]
    mixed = [episode(f"m{i}", say("x"), success=bool(i), task="mixed") for i in range(2)]
    hopeless = [episode(f"h{i}", say("x"), success=False, task="hopeless") for i in range(2)]
    alone = [episode("a", say("x"), task="alone")]
    done = difficulty([*easy, *mixed, *hopeless, *alone])
    assert ids(done) == ["m0", "m1"]
    assert done.card.dropped == {
        "of a task solved more often than 0.9": 2,
        "of a task solved less often than 0.1": 2,
        "of a task with fewer than 2 judged episodes": 1,
    }
    assert ids(difficulty([*easy, *mixed, *hopeless], min=0, max=0)) == ["h0", "h1"]
    with pytest.raises(ConfigError, match="pass rates"):
        difficulty(easy, min=0.9, max=0.1)


# --- shares and held-out tasks -----------------------------------------------------------------------------------


def test_balanced_takes_as_many_of_each() -> None:
    held = [episode(f"{kind}{i}", turn(tool), kind=kind) for kind, tool, n in (("p", "a", 5), ("q", "b", 2))
            for i in range(n)]  # fmt: skip
    for by in ("family", "tool"):
        done = balanced(held, by=by)
        assert Counter(t.task.kind for t in done) == {"p": 2, "q": 2}
        assert done.card.dropped == {f"beyond 2 of a {by}": 3}
    assert len(balanced(held, by="family", at_most=4)) == 6
    with pytest.raises(DataError, match="all 7 episodes have level '1': there is nothing to balance"):
        balanced(held, by="level")
    with pytest.raises(DataError, match="all 2 episodes have success 'yes'"):
        balanced(held[:2], by="success")


def test_decontaminated_knows_a_task_by_id_set_up_and_words() -> None:
    long = "Please find the order of Ada and refund it, then tell Ben that it was done."
    held_out = [Task("Lend Dune.", id="x"), Task("Same world.", {"w": 1}, id="y"), Task(long, {"w": 2}, id="z")]
    same_id = episode("1", say("d"), the_task=Task("Other words entirely.", id="x"))
    renamed = episode("2", say("d"), the_task=Task("Same world.", {"w": 1}, id="new"))
    reworded = episode("3", say("d"), the_task=Task(long.upper() + " Now!", {"w": 3}, id="3"))
    fresh = episode("4", say("d"), the_task=Task("Please find the order of Cora.", id="4"))
    done = decontaminated([same_id, renamed, reworded, fresh], against=held_out, share=0.8)
    assert ids(done) == ["4"]
    assert done.card.dropped == {"of a held-out task": 2, "with the instruction of a held-out task": 1}
    assert ids(decontaminated([same_id, reworded, fresh], against=held_out, by="id")) == ["3", "4"]
    with pytest.raises(DataError, match="no held-out task"):
        decontaminated([fresh], against=[])


# --- pairs -------------------------------------------------------------------------------------------------------


def test_scored_pairs_follow_the_scorer_and_not_the_reward() -> None:
    short, long = episode("s", turn("a"), say("ok")), episode("l", turn("a"), turn("b"), say("ok"), success=False)
    (pair,) = scored_pairs(grouped(short, long), lambda t: len(t.turns))
    assert (pair.chosen.id, pair.rejected.id, pair.fork, pair.source, pair.margin) == ("l", "s", 1, "score", 1.0)
    with pytest.raises(DataError, match="gave all 2 episodes 3: it tells nothing"):
        scored_pairs(grouped(short, long), lambda t: 3)
    with pytest.raises(DataError, match="the score nan"):
        scored_pairs(grouped(short, long), lambda t: float("nan"))

    class AllAtOnce:
        """A reward model that scores in batches."""

        def many(self, held: Sequence[Trajectory]) -> list[float]:
            return [float(len(t.turns)) for t in held]

        def __call__(self, t: Trajectory) -> float:
            raise AssertionError("asked one by one")

    assert sides(scored_pairs(grouped(short, long), AllAtOnce())) == [("l", "s")]
    with pytest.raises(DataError, match="1 with a margin below 5"):
        scored_pairs(grouped(short, long), lambda t: len(t.turns), min_margin=5)


def test_a_judge_is_asked_in_both_orders() -> None:
    short, long = episode("s", turn("a"), say("ok")), episode("l", turn("a"), turn("b"), say("ok"))
    groups = grouped(short, long)
    asked = []

    def shorter(a: Trajectory, b: Trajectory) -> Any:
        asked.append((a.id, b.id))
        return "a" if len(a.turns) < len(b.turns) else "b"

    assert sides(judged_pairs(groups, shorter)) == [("s", "l")]
    assert sorted(asked) == [("l", "s"), ("s", "l")]
    for answer, why in (
        ("a", "whose verdict changed with the order"),  # the first place always wins
        ("tie", "tied"),
        (None, "without a verdict"),
    ):
        with pytest.raises(DataError, match=f"1 {why}"):
            judged_pairs(groups, lambda a, b, answer=answer: answer)  # type: ignore[misc]
    with pytest.raises(DataError, match="got 'A'"):
        judged_pairs(groups, lambda a, b: "A")  # type: ignore[arg-type, return-value]


def test_half_a_tie_is_no_verdict() -> None:
    short, long = episode("s", turn("a"), say("ok")), episode("l", turn("a"), turn("b"), say("ok"))
    verdicts = iter(["a", "tie"])
    with pytest.raises(DataError, match="whose verdict changed with the order"):
        judged_pairs(grouped(short, long), lambda a, b: next(verdicts))  # type: ignore[arg-type]


def label(a: str, b: str, said: str, who: str = "ann", time: Any = 0) -> dict[str, Any]:
    return {"a": a, "b": b, "label": said, "labeller": who, "note": "", "time": time}


def test_people_decide_by_majority() -> None:
    held = [episode(id, turn(id), say("ok"), success=False) for id in ("p", "q", "r")]
    labels = [
        label("p", "q", "a"), label("q", "p", "b", "ben"), label("p", "q", "b", "cora"),  # 2 of 3 for p
        label("p", "r", "a"), label("p", "r", "b", "ben"),  # one each
        label("q", "r", "bad"),
        label("q", "gone", "a"),
    ]  # fmt: skip
    done = people_pairs(held, labels)
    assert sides(done) == [("p", "q")]
    assert done.items[0].margin == pytest.approx(1 / 3)
    assert done.card.dropped == {"tied": 1, "of a bad task": 1, "whose episodes are not here": 1}
    assert done.card.came_in == 4
    with pytest.raises(DataError, match="of a bad task"):  # as many as chose a side
        people_pairs(held, [label("p", "q", "a"), label("p", "q", "bad", "ben")])
    with pytest.raises(DataError, match="without a majority"):
        people_pairs(held, [label("p", "q", "a"), label("p", "q", "tie", "ben")])
    with pytest.raises(DataError, match=r"label 1: expected two episode ids"):
        people_pairs(held, [label("p", "q", "better")])
    with pytest.raises(DataError, match="no label"):
        people_pairs(held, [])


def test_the_last_word_of_a_labeller_counts() -> None:
    held = [episode(id, turn(id), say("ok")) for id in ("p", "q")]
    assert sides(people_pairs(held, [label("p", "q", "a", time=5), label("q", "p", "a", time=9)])) == [("q", "p")]
    assert sides(people_pairs(held, [label("q", "p", "a", time=9), label("p", "q", "a", time=5)])) == [("q", "p")]


def test_step_pairs_stand_at_forks() -> None:
    parent = episode("p", turn("a"), turn("b"), say("no"), success=False)
    good = episode("g", turn("a"), turn("c"), say("done"), forked_from=Fork("p", 1))
    bad = episode("b", turn("a"), turn("d"), say("no"), success=False, reward=-1.0, forked_from=Fork("p", 1))
    done = step_pairs([parent, good, bad])
    assert sides(done) == [("g", "b")]  # the widest margin
    assert done.items[0].fork == 1
    assert sides(step_pairs([parent, good, bad], max_per_fork=3)) == [("g", "b"), ("g", "p"), ("p", "b")]
    stranger = replace(good, turns=(turn("z"), *good.turns[1:]))
    with pytest.raises(DataError, match="1 whose turns before the fork differ"):
        step_pairs([parent, stranger])
    with pytest.raises(DataError, match="none of 1 episodes is a fork"):
        step_pairs([parent])


def polite(t: Trajectory) -> Trajectory | None:
    last = t.turns[-1]
    return replace(t, turns=(*t.turns[:-1], replace(last, action=Action(last.action.content + " Thank you."))))


def test_style_pairs_change_words_only() -> None:
    tokens = Tokens((0, 1, 2), (0, 1, 1), (0.0,) * 3)
    turns = (replace(turn("a"), span=(1, 2)), replace(say("Done."), span=(2, 3)))
    (pair,) = style_pairs([episode("e", *turns, tokens=tokens)], polite)
    assert pair.chosen.final_text == "Done. Thank you."
    assert (pair.fork, pair.chosen.tokens, pair.chosen.forked_from) == (1, None, Fork("e", 1))
    assert pair.rejected.tokens is tokens

    def cheat(t: Trajectory) -> Trajectory:
        return replace(t, turns=(turn("b"), *t.turns[1:]))

    rewriters: list[tuple[Callable[[Trajectory], Trajectory | None], str]] = [
        (cheat, "whose calls or results were changed"),
        (lambda t: replace(t, turns=t.turns[:1]), "whose calls or results were changed"),
        (lambda t: t, "not changed by the rewriter"),
        (lambda t: None, "passed by the rewriter"),
    ]
    for rewrite, why in rewriters:
        with pytest.raises(DataError, match=f"1 {why}"):
            style_pairs([episode("e", *turns)], rewrite)


# --- properties --------------------------------------------------------------------------------------------------

OUTCOMES = st.sampled_from([(Outcome.OK, None), (BAD, Cause.INJECTED), (Outcome.NOT_FOUND, Cause.TOOL)])


@st.composite
def episodes(draw: st.DrawFn, n: int | None = None) -> list[Trajectory]:
    out = []
    for i in range(n or draw(st.integers(1, 14))):
        turns = []
        for _ in range(draw(st.integers(0, 4))):
            outcome, cause = draw(OUTCOMES)
            turns.append(turn(draw(st.sampled_from("abc")), draw(st.sampled_from("12")), outcome, cause=cause))
        turns.append(say(draw(st.sampled_from(["done", "all is done now", "cannot"]))))
        success = draw(st.sampled_from([True, True, False, None]))
        task = draw(st.sampled_from("pqr"))
        hit = tuple(draw(st.lists(st.sampled_from(["gone", "timeout"]), max_size=2)))
        expert_turns = draw(st.sampled_from([None, 1, 2]))
        agent = draw(st.sampled_from(["one", "two"]))
        fields: dict[str, Any] = {"faults_hit": hit, "expert_turns": expert_turns, "agent": agent, "kind": task}
        out.append(episode(f"e{i}", *turns, success=success, task=task, **fields))
    return out


ORDERLESS: dict[str, Callable[[Sequence[Trajectory]], Curated[Trajectory]]] = {
    "gold": gold,
    "recoveries": recoveries,
    "rejection_sampling": lambda ts: rejection_sampling(TrajectoryGroup.by_task(ts), k=2, seed=1),
    "duplicates": duplicates,
    "near_duplicates": lambda ts: near_duplicates(ts, threshold=0.7),
    "coverage": lambda ts: coverage(ts, n=4, seed=1),
    "diverse": lambda ts: diverse(ts, n=4, seed=1),
    "quality": lambda ts: quality(ts, min=0.2, top=0.5),
    "difficulty": lambda ts: difficulty(ts, min=0.2, max=1.0),
    "balanced": lambda ts: balanced(ts, by="family", seed=1),
    "sample": lambda ts: sample(ts, n=4, seed=1),
    "decontaminated": lambda ts: decontaminated(ts, against=[Task("Do p.", id="p")]),
    "distillation": lambda ts: distillation(ts, teacher="one", student="two"),
}


@pytest.mark.parametrize("name", ORDERLESS)
@relaxed
@given(held=episodes(), order=st.randoms(use_true_random=False))
def test_what_is_kept_does_not_hang_on_the_order(name: str, held: list[Trajectory], order: random.Random) -> None:
    rule = ORDERLESS[name]
    before = [t.to_json() for t in held]
    shuffled = list(held)
    order.shuffle(shuffled)
    try:
        first, again, mixed = rule(held), rule(held), rule(shuffled)
    except (DataError, UnknownName) as error:  # nothing left, one class, nobody of that name: then in any order
        with pytest.raises(type(error)):
            rule(shuffled)
        return
    assert first == again
    assert first.content == mixed.content
    assert first.card.dropped == mixed.card.dropped
    assert balances(first.card)
    assert [t.to_json() for t in held] == before  # pure
    places = {t.id: i for i, t in enumerate(held)}
    if name != "rejection_sampling":  # which goes group by group
        assert ids(first) == sorted(ids(first), key=places.__getitem__)


PAIRED: dict[str, Callable[[Sequence[Trajectory]], Curated[Pair]]] = {
    "score": lambda ts: scored_pairs(TrajectoryGroup.by_task(ts), lambda t: len(t.turns), max_per_group=2, seed=1),
    "judge": lambda ts: judged_pairs(
        TrajectoryGroup.by_task(ts),
        lambda a, b: "tie" if len(a.turns) == len(b.turns) else "a" if len(a.turns) < len(b.turns) else "b",
        max_per_group=2,
        seed=1,
    ),
    "people": lambda ts: people_pairs(ts, [label("e0", f"e{i}", "ab"[i % 2]) for i in range(1, 9)]),
    "style": lambda ts: style_pairs(ts, polite),
}


@pytest.mark.parametrize("name", PAIRED)
@relaxed
@given(held=episodes())
def test_pairs_are_accounted_for(name: str, held: list[Trajectory]) -> None:
    try:
        done, again = PAIRED[name](held), PAIRED[name](held)
    except DataError:
        return
    assert done == again
    assert balances(done.card)
    for pair in done:
        assert pair.margin > 0
        mine, other = (side.turns[pair.fork] for side in (pair.chosen, pair.rejected))
        assert mine.action != other.action or mine.results != other.results
        assert [t.action for t in pair.chosen.turns[: pair.fork]] == [
            t.action for t in pair.rejected.turns[: pair.fork]
        ]


@relaxed
@given(held=episodes(n=6), order=st.randoms(use_true_random=False))
def test_judged_pairs_do_not_hang_on_the_order(held: list[Trajectory], order: random.Random) -> None:
    shuffled = list(held)
    order.shuffle(shuffled)
    try:
        first = PAIRED["judge"](held)
    except DataError:
        with pytest.raises(DataError):
            PAIRED["judge"](shuffled)
        return
    assert first.content == PAIRED["judge"](shuffled).content


# --- several rules ---------------------------------------------------------------------------------------------------

HELD = [
    episode("a", turn("a"), turn("a", "2"), say("done"), agent="one"),
    episode("b", turn("a"), say("cannot"), success=False, agent="one"),
    episode("c", turn("b", "1", BAD), turn("b", "1"), say("done"), task="u", faults_hit=("unavailable",), agent="two"),
    episode("d", say("x"), success=None, task="u", agent="two"),
]


def test_rules_run_one_after_the_other_and_tells_it_all() -> None:
    done = curate(HELD, ["successes", {"near_duplicates": {"threshold": 0.9}}, {"sample": {"n": 1}}], seed=4)
    card = done.card()
    assert [step["rule"] for step in card["rules"]] == ["successes", "near_duplicates", "sample"]
    assert [(step["came_in"], step["kept"]) for step in card["rules"]] == [(4, 2), (2, 2), (2, 1)]
    assert card["rules"][1]["settings"] == {"threshold": 0.9, "seed": 4}
    assert card["content"] == done.content == digest(done.items)
    assert card["source"] == digest(reversed(HELD))
    assert card["unit"] == "episodes"
    assert json.loads(json.dumps(card)) == card
    by_text = curate(HELD, ["successes", parse_rule("near_duplicates threshold=0.9"), parse_rule("sample n=1")], seed=4)
    assert by_text == done


def test_rules_count_what_a_group_rule_never_saw() -> None:
    (one,) = curate(HELD, [{"best_of": {"k": 1}}]).applied
    assert one.card.came_in == 4
    assert balances(one.card)
    assert one.card.dropped == {"without success": 1, "not judged (infrastructure, cancelled)": 1}


def test_episodes_that_are_given_twice_go_in_once() -> None:
    done = curate([*HELD, *HELD], ["successes"])
    assert (done.came_in, done.repeated, len(done.items)) == (8, 4, 2)


def test_rules_make_pairs() -> None:
    shorter = {"by": "score", "score": lambda t: -len(t.turns)}
    done = curate(HELD, ["duplicates", {"pairs": shorter}])
    assert isinstance(done.items[0], Pair)
    assert done.card()["unit"] == "pairs"
    assert done.card()["rules"][1]["rule"] == "pairs by score"
    assert "<lambda>" in done.card()["rules"][1]["settings"]["score"]
    fixed = episode("m", *HELD[1].turns[:1], say("done"), forked_from=Fork("b", 1))
    made = curate(HELD, [{"pairs": {"by": "correction"}}], helpers={"corrections": lambda ts: [(ts[0], fixed)]})
    pairs = [item for item in made.items if isinstance(item, Pair)]
    assert len(pairs) == len(made.items)
    assert sides(Curated(tuple(pairs), Card(0, 0))) == [("m", "b")]
    assert balances(made.applied[0].card)
    again = curate(HELD, ["corrections"], helpers={"corrections": lambda ts: [(ts[0], fixed)]})
    assert [turn.weight for turn in again.items[0].turns] == [0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rules", "error", "says"),
    [
        (["golden"], UnknownName, "unknown rule 'golden'. Did you mean 'gold'?"),
        ([{"gold": {"patient": 1}}], UnknownName, "Did you mean 'patience'?"),
        ([{"pairs": {"by": "jugde"}}], UnknownName, "Did you mean 'judge'?"),
        ([{"gold": {"patience": "lots"}}], ConfigError, "gold: patience=lots"),
        ([{"balanced": {"by": "colour"}}], ConfigError, "balanced: by=colour"),
        (["balanced"], ConfigError, "balanced needs by: by="),
        ([{"pairs": {"by": "score"}}], ConfigError, "pairs by score needs score: score=module:function"),
        ([{"pairs": {"by": "correction"}}], ConfigError, "helpers={'corrections': function}"),
        ([{"pairs": {"by": "correction", "corrections": 1}}], UnknownName, "setting"),
        ([{"pairs": {"by": "score", "score": "nowhere_at_all:f"}}], UnknownName, "unknown module"),
        ([{"pairs": {"by": "score", "score": "json:dumpz"}}], UnknownName, "Did you mean 'dump"),
        ([{"pairs": {"by": "step"}}, "gold"], ConfigError, "put it last"),
        ([{"gold": 3}], ConfigError, "settings of gold"),
        ([7], ConfigError, "a rule is a name"),
        ([], ConfigError, "no rule"),
        ([{"best_of": {"k": 0}}], ConfigError, "k must be 1 or more"),
        ([{"pairs": {"by": "reward"}}], DataError, "no policy sampled"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_meant(rules: list[Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says.replace("?", r"\?").replace("{", r"\{").replace("}", r"\}")):
        curate(HELD, rules)


def test_nothing_to_curate_or_to_compare() -> None:
    with pytest.raises(DataError, match="no episode to curate"):
        curate([], ["gold"])
    with pytest.raises(DataError, match="no task was played twice"):
        curate(HELD[2:3], [{"pairs": {"by": "score", "score": lambda t: len(t.turns)}}])


def test_leaked_tasks_are_refused() -> None:
    test_task = HELD[2].task
    with pytest.raises(DataError, match=r"1 of 2 are of held-out tasks: test/E-v0 task u\."):
        curate(HELD, ["successes"], held_out=[test_task])
    clean = curate(HELD, ["successes", {"decontaminated": {"against": [test_task]}}], held_out=[test_task])
    assert clean.card()["held_out_tasks"] == 1
    assert [t.id for t in clean.items] == ["a"]  # type: ignore[union-attr]


def test_rules_in_files(tmp_path: Path) -> None:
    yaml, plain = tmp_path / "rules.yaml", tmp_path / "rules.json"
    yaml.write_text("seed: 3\nrules:\n- successes\n- near_duplicates: {threshold: 0.8}\n")
    plain.write_text('["successes", {"near_duplicates": {"threshold": 0.8}}]')
    rules, seed = read_rules(yaml)
    assert (rules, seed) == (["successes", {"near_duplicates": {"threshold": 0.8}}], 3)
    assert read_rules(plain) == (rules, None)
    assert curate(HELD, rules).applied[1].settings["threshold"] == 0.8
    for text, says in (
        ("rules: gold", "expected a list of rules"),
        ("- gold\n -x: [", "is not YAML"),
        ("rules: [gold]\nseed: x", "seed is a whole number"),
        ("rules: [gold]\nsed: 1", "Did you mean 'seed'"),
    ):
        yaml.write_text(text)
        with pytest.raises((ConfigError, UnknownName), match=says):
            read_rules(yaml)
    yaml.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_rules(yaml)
    plain.write_text("[")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_rules(plain)
    with pytest.raises(ConfigError, match="no file"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["gold patience", "gold =3", "gold 'patience=1", "gold patience=1 patience=2", ""])
def test_a_rule_in_words_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rule(text)


@given(st.text())
def test_any_text_is_a_rule_or_a_config_error(text: str) -> None:
    try:
        ((name, given_settings),) = parse_rule(text).items()
    except ConfigError:
        return
    assert isinstance(name, str)
    assert all(isinstance(value, str) for value in given_settings.values())


def test_every_rule_can_be_named_with_its_settings() -> None:
    """Each rule of the tables runs, or says what it needs: none is only listed."""
    ready: dict[str, dict[str, Any]] = {
        "pairs by people": {"labels": [label("a", "b", "a")]}, "pairs by score": {"score": lambda t: len(t.turns)},
        "pairs by judge": {"judge": lambda a, b: "a" if a.success else "b"}, "pairs by style": {"rewrite": polite},
        "balanced": {"by": "agent"}, "coverage": {"n": 1}, "diverse": {"n": 1}, "sample": {"n": 1},
        "quality": {"top": 0.5}, "decontaminated": {"against": [Task("Else.")]}, "difficulty": {"min": 0.5},
        "distillation": {"teacher": "two"},
    }  # fmt: skip
    fixed = episode("m", turn("a"), say("done"), forked_from=Fork("b", 1))
    sampled = [
        replace(t, tokens=Tokens((1,), (1,), (0.0,)), turns=tuple(replace(x, span=None) for x in t.turns)) for t in HELD
    ]
    for name in [*RULES, *(f"pairs by {by}" for by in PAIRS)]:
        rule: Any = {"pairs": {"by": name[9:], **ready.get(name, {})}} if name[9:] in PAIRS else {name: ready.get(name)}
        held = [*HELD, fixed] if name == "pairs by step" else sampled if name == "pairs by reward" else HELD
        done = curate(held, [rule], helpers={"corrections": lambda ts: [(ts[0], fixed)]})
        assert done.items, name
        assert balances(done.applied[0].card), name


# --- files -------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(held=episodes(n=8))
def test_pairs_come_back_as_they_were(held: list[Trajectory], tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        pairs = PAIRED["score"](held).items
    except DataError:
        pairs = ()
    if not pairs:
        return
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs(pairs, path)
    assert holds_pairs(path)
    assert read_pairs([path]) == list(pairs)
    assert digest(read_pairs([path])) == digest(pairs)


def test_files_that_hold_no_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert not holds_pairs(path)
    for text, says in (
        ("", "no pair in it"),
        ("{", "line 1: not JSON"),
        ("[]", "expected an object"),
        ('{"chosen": {}, "rejected": {}}', "'fork' is missing"),
        ('{"chosen": {}, "rejected": {}, "fork": 0, "source": "x", "margin": 1}', "line 1: not a trajectory"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            read_pairs([path])
    path.write_bytes(HELD[0].to_json() + b"\n")
    assert not holds_pairs(path)


def test_labels_of_a_page_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    whole = json.dumps(label("a", "b", "a", time="2026-01-01T00:00:00Z"))
    path.write_text(whole + "\n" + whole[:20])
    rules = [parse_rule(f"pairs by=people labels={path}")]
    done = curate(HELD, rules)
    assert [(pair.chosen.id, pair.rejected.id) for pair in done.items] == [("a", "b")]  # type: ignore[union-attr]
    assert done.applied[0].settings == {"labels": str(path)}
    path.write_text(whole[:20] + "\n" + whole + "\n")
    with pytest.raises(DataError, match="line 1"):
        curate(HELD, rules)
    with pytest.raises(DataError, match="no file"):
        curate(HELD, [parse_rule("pairs by=people labels=nowhere.jsonl")])


def test_attempts_of_one_episode_are_told_apart() -> None:
    held = [replace(episode("p", turn(name), say("ok")), attempt=i) for i, name in enumerate("xyz")]
    said = {**label("p", "p", "b"), "attempt_a": 0, "attempt_b": 2}
    (pair,) = people_pairs(held, [said])
    assert (pair.chosen.attempt, pair.rejected.attempt) == (2, 0)
    with pytest.raises(DataError, match="the episode p with itself"):
        people_pairs(held, [label("p", "p", "a")])


def test_the_hash_is_of_the_content() -> None:
    slow = replace(
        HELD[0],
        turns=tuple(replace(t, results=tuple(replace(r, latency_s=99.0) for r in t.results)) for t in HELD[0].turns),
    )
    assert digest([slow, HELD[1]]) == digest([HELD[1], HELD[0]])
    assert digest([HELD[0]]) != digest([HELD[0], HELD[0]]) != digest([HELD[1]])
    assert digest([replace(HELD[0], reward=0.5)]) != digest([HELD[0]])


def test_text_that_no_file_can_hold_is_curated_like_any_other() -> None:
    odd = episode("odd", turn("a", "\ud800", content="\ud800"), say("\ud800 \x1b[31m"))
    done = curate([odd, *HELD], ["duplicates", {"near_duplicates": {}}, {"diverse": {"n": 9}}])
    assert odd in done.items
    assert digest([odd]) != digest(HELD[:1])
