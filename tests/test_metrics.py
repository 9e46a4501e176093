"""Numbers worked out by hand; scipy and statsmodels are asked where they have a second opinion."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.envs import make, task_set
from sparring.envs.roles import tool_roles
from sparring.tools import FAULTS, FaultPlan
from sparring.trajectories.errors import ConfigError, DataError, EnvError
from sparring.trajectories.giving_up import says_it_cannot
from sparring.trajectories.messages import Action, Cause, Message, Outcome, ToolCall, ToolResult
from sparring.trajectories.metrics import (
    ACTIONS,
    MEASURES,
    RIGHT,
    RIGHT_AFTER_OUTCOME,
    PlannedCall,
    ToolRoles,
    abstention,
    across_seeds,
    after_faults,
    blind_retries,
    blockages,
    declined,
    detectable,
    duplicate_effects,
    excluded,
    false_success,
    fault_recovery,
    forgetting,
    holm,
    kl_from_base,
    mcnemar_exact,
    measure,
    newcombe_paired,
    not_measured,
    outcome_mix,
    paired_difference,
    pass_at_k,
    pass_hat_k,
    plan_order,
    precedence,
    rate,
    ratio,
    recovery_by_cause,
    recovery_by_fault,
    recovery_rate,
    register_fault,
    repeated_failures,
    resilience,
    right_after_fault,
    right_strategy,
    short_plan,
    sign_flip_exact,
    success_by_fault,
    success_rate,
    summary,
    tokens_to_recovery,
    turns_over_expert,
    turns_to_recovery,
    unresolved,
    untold_calls,
    wasted_calls,
    wilson,
)
from sparring.trajectories.trajectory import StopReason, Task, Tokens, Trajectory, Turn


def call(
    name: str = "pay",
    outcome: Outcome = Outcome.OK,
    *,
    amount: int | None = 1,
    cause: Cause = Cause.TOOL,
    took_effect: bool | None = False,
    raw: str = "",
    fault: str | None = None,
    content: str = "text",
    **arguments: object,
) -> Turn:
    """A turn with one call; amount None: a call that could not be parsed."""
    said = None if amount is None else (arguments or {"amount": amount})
    result = ToolResult(
        "c",
        name,
        outcome,
        content,
        cause=None if outcome is Outcome.OK else cause,
        took_effect=took_effect,
        fault=fault,
    )
    return Turn(Action("", (ToolCall(name, said, raw),)), (result,))


def struck(kind: str, outcome: Outcome, name: str = "pay", **more: object) -> Turn:
    """A turn whose only call a fault has struck."""
    return call(name, outcome, cause=Cause.INJECTED, fault=kind, **more)  # type: ignore[arg-type]


def episode(
    success: bool | None,
    *turns: Turn,
    task: str = "t",
    stop: StopReason | None = None,
    faults: str = "",
    hit: tuple[str, ...] = (),
    attempt: int = 0,
    expert_turns: int | None = None,
    tokens: Tokens | None = None,
) -> Trajectory:
    """An episode; without `stop` it ends as its last message says."""
    if stop is None:
        said = turns[-1].action.content if turns else ""
        stop = StopReason.DECLINED if says_it_cannot(said) else StopReason.FINISHED
    return Trajectory(
        id="e",
        env="test/Env-v0",
        task=Task("do it", id=task),
        prompt=(),
        turns=turns,
        stop=stop,
        success=success,
        faults=faults,
        faults_hit=hit,
        attempt=attempt,
        expert_turns=expert_turns,
        tokens=tokens,
        reward=float(success or 0),
    )


SAID = Turn(Action("Done."))
QUIT = Turn(Action("Cannot do it."))
unhurried = settings(deadline=None, max_examples=50)  # the first example also pays for importing scipy
DOWN = call(outcome=Outcome.UNAVAILABLE, cause=Cause.INJECTED)
LOST = episode(None, stop=StopReason.INFRASTRUCTURE)


# Rates


def test_wilson_by_hand() -> None:
    # p = .8, z² = 3.8415: centre (.8 + .19207) / 1.38415 = .71674, half 1.95996 √(.016 + .0096037) / 1.38415 = .22658
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    with pytest.raises(ConfigError, match="3 of 2"):
        wilson(3, 2)


@unhurried
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy_and_holds_the_value(counts: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    k, n = counts
    low, high = wilson(k, n)
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_unjudged_episodes_are_counted_and_never_failures() -> None:
    found = success_rate([episode(True), episode(False), LOST, episode(True, stop=StopReason.CANCELLED)])
    assert (found.successes, found.n, found.value, found.excluded) == (1, 2, 0.5, 2)
    assert str(rate([True, True])) == "1.00 [0.34, 1.00] n=2"
    assert (rate([]).value, str(rate([]))) == (None, "none (n=0)")


def test_pass_k_by_hand() -> None:
    # task a: 1 of 4, task b: 3 of 4. pass@2: 1 - 3/6 and 1 - 0/6; pass^2: 0/6 and 3/6.
    attempts = [episode(i < 1, task="a", attempt=i) for i in range(4)]
    attempts += [episode(i < 3, task="b", attempt=i) for i in range(4)]
    assert pass_at_k(attempts, 2).value == 0.75
    assert pass_hat_k(attempts, 2).value == 0.25
    assert pass_hat_k([*attempts, episode(True, task="c")], 2).too_small == 1
    assert (pass_at_k(attempts, 5).value, pass_at_k(attempts, 5).too_small) == (None, 2)
    with pytest.raises(ConfigError):
        pass_at_k(attempts, 0)


@unhurried
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=6), min_size=1, max_size=5), st.integers(1, 3))
def test_pass_hat_k_and_pass_at_k_enclose_success(flags: list[list[bool]], k: int) -> None:
    every = [episode(f, task=str(i), attempt=j) for i, fs in enumerate(flags) for j, f in enumerate(fs)]
    at, hat, one = pass_at_k(every, k).value, pass_hat_k(every, k).value, pass_at_k(every, 1).value
    assert at is not None
    assert hat is not None
    assert one is not None
    assert hat - 1e-12 <= one <= at + 1e-12
    assert one == pytest.approx(sum(sum(fs) / len(fs) for fs in flags) / len(flags))


# Recovery and faults


def test_recovery_needs_a_failed_call() -> None:
    clean = episode(True, call())
    assert recovery_rate([clean]).value is None
    recovered, stuck = episode(True, DOWN, call()), episode(False, DOWN, call(outcome=Outcome.NOT_FOUND))
    assert recovery_rate([clean, recovered, stuck, LOST]).value == 0.5
    assert {c: (r.successes, r.n) for c, r in recovery_by_cause([clean, recovered, stuck]).items()} == {
        Cause.TOOL: (0, 1),
        Cause.INJECTED: (1, 2),
    }


def test_infrastructure_failures_are_in_no_policys_denominator() -> None:
    broken = episode(True, call(outcome=Outcome.CRASHED, cause=Cause.INFRASTRUCTURE), call())
    assert recovery_rate([broken]).n == 0
    assert recovery_rate([broken], Cause.INFRASTRUCTURE).n == 1


def test_success_by_fault_counts_an_episode_once_per_kind() -> None:
    struck = [episode(True, hit=("flaky", "flaky", "gone")), episode(False, hit=("gone",)), episode(True)]
    rates = success_by_fault(struck)
    assert {kind: (r.successes, r.n) for kind, r in rates.items()} == {"": (1, 1), "flaky": (1, 1), "gone": (1, 2)}


def test_resilience_compares_the_same_tasks() -> None:
    clean = [episode(True, task="a"), episode(True, task="b"), episode(False, task="c")]
    faulty = [episode(True, task="a", faults="f"), episode(False, task="b", faults="f")]
    found = resilience(clean, faulty)
    assert (found.value, found.low, found.high, found.tasks) == (0.5, 0.0, 1.0, 2)  # tasks a and b: 1/2 of 2/2
    assert resilience([], faulty).value is None
    assert resilience([episode(False, task="a")], faulty).value is None


def test_false_success_leaves_out_giving_up() -> None:
    honest = episode(False, Turn(Action("I cannot.")))
    cut_off = episode(False, stop=StopReason.TURN_LIMIT)
    episodes = [episode(False, Turn(Action("Done."))), honest, episode(True), cut_off]
    assert (false_success(episodes).successes, false_success(episodes).n) == (1, 2)
    assert false_success(episodes).value == 0.5
    assert declined(honest)


# Paired tests


@pytest.mark.parametrize(("b", "c", "p"), [(1, 6, 0.125), (0, 5, 0.0625), (3, 3, 1.0), (0, 0, 1.0), (4, 5, 1.0)])
def test_mcnemar_by_hand(b: int, c: int, p: float) -> None:
    found = mcnemar_exact([(True, False)] * b + [(False, True)] * c + [(True, True), (False, False)])
    assert (found.b, found.c, found.n, found.p) == (b, c, b + c + 2, p)


@unhurried
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_the_binomial_test_and_is_symmetric(b: int, c: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    p = mcnemar_exact([(True, False)] * b + [(False, True)] * c).p
    assert p == mcnemar_exact([(False, True)] * b + [(True, False)] * c).p
    assert p == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_share_task_faults_and_attempt() -> None:
    arm = [episode(True, task="a"), episode(True, task="a", faults="f"), episode(True, task="b"), LOST]
    base = [episode(True, task="b"), episode(False, task="a"), episode(False, task="c"), episode(True)]
    found = paired_difference(arm, base)
    # a/a and b/b meet; a under faults and c have no partner, and the lost episode's pair is not judged.
    assert (found.pairs, found.tasks, found.left_out) == (2, 2, 4)
    assert (found.difference, found.mcnemar.b, found.mcnemar.c) == (0.5, 1, 0)


def test_the_bootstrap_resamples_tasks() -> None:
    # Two tasks with ten attempts each, all of one kind: there are two observations, and only 0, .5 and 1 can be drawn.
    arm = [episode(t == "a", task=t, attempt=i) for t in "ab" for i in range(10)]
    base = [episode(False, task=t, attempt=i) for t in "ab" for i in range(10)]
    found = paired_difference(arm, base)
    assert (found.difference, found.low, found.high, found.tasks) == (0.5, 0.0, 1.0, 2)


def test_no_interval_where_the_bootstrap_cannot_know() -> None:
    one = [episode(True, attempt=i) for i in range(3)], [episode(i > 1, attempt=i) for i in range(3)]
    assert paired_difference(*one).low is None
    same = [episode(True, task=t) for t in "abc"]
    assert (paired_difference(same, same).difference, paired_difference(same, same).high) == (0.0, None)
    assert paired_difference([], same).difference is None


@unhurried
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.integers(0, 3))
def test_the_difference_changes_sign_with_its_sides(pairs: list[tuple[bool, bool]], seed: int) -> None:
    left = [episode(a, task=str(i)) for i, (a, _) in enumerate(pairs)]
    right = [episode(b, task=str(i)) for i, (_, b) in enumerate(pairs)]
    there, back = (paired_difference(x, y, resamples=200, seed=seed) for x, y in ((left, right), (right, left)))
    assert there == paired_difference(left, right, resamples=200, seed=seed)
    assert there.difference == pytest.approx(-(back.difference or 0.0))
    if there.low is not None and there.high is not None and back.low is not None:
        assert -1 <= there.low <= there.high <= 1
        assert there.high == pytest.approx(-back.low)


# Calls and steps


def test_blind_retries() -> None:
    assert blind_retries(episode(False, DOWN, DOWN, DOWN)) == 2
    assert blind_retries(episode(True, DOWN, call())) == 0  # the retry worked
    assert blind_retries(episode(False, DOWN, call(outcome=Outcome.NOT_FOUND))) == 0  # failed in another way
    other = call(outcome=Outcome.UNAVAILABLE, amount=2, cause=Cause.INJECTED)
    assert blind_retries(episode(False, DOWN, other, DOWN)) == 0  # other arguments, then not right after
    twins = Turn(Action("", DOWN.action.tool_calls * 2), DOWN.results * 2)
    assert blind_retries(episode(False, twins)) == 0
    garbled = [call(outcome=Outcome.MALFORMED, amount=None, raw=raw) for raw in ("{", "{", "[")]
    assert blind_retries(episode(False, *garbled)) == 1


def test_an_effect_is_doubled_when_its_reply_was_lost() -> None:
    lost_reply = call(outcome=Outcome.TIMEOUT, cause=Cause.INJECTED, took_effect=True)
    paid = call(took_effect=True)
    assert duplicate_effects(episode(True, lost_reply, paid)) == 1
    assert duplicate_effects(episode(True, paid, paid)) == 0  # the agent knew, so it was meant
    assert duplicate_effects(episode(True, lost_reply, call(took_effect=True, amount=2))) == 0
    assert duplicate_effects(episode(True, DOWN, paid)) == 0


def test_outcome_mix_is_per_100_calls() -> None:
    mix = outcome_mix([episode(True, call(), call(), DOWN), episode(True, call()), episode(None, DOWN)])
    assert mix == {Outcome.OK: 75.0, Outcome.UNAVAILABLE: 25.0}
    assert outcome_mix([]) == {}


def test_turns_over_expert_is_about_successes() -> None:
    steps = [episode(True, DOWN, call(), expert_turns=1), episode(False, expert_turns=3), episode(True, call())]
    assert turns_over_expert(steps) == 1.0
    assert turns_over_expert([episode(False, expert_turns=1)]) is None


def test_summary() -> None:
    tokens = Tokens((1, 2, 3), (0, 1, 1), (0.0, -1.0, -1.0))
    every = [
        episode(True, DOWN, call(), attempt=0, tokens=tokens, hit=("flaky",)),
        episode(False, DOWN, DOWN, attempt=1, stop=StopReason.TURN_LIMIT),
        LOST,
    ]
    found = summary(iter(every))
    assert (found.episodes, found.success.n, found.success.excluded, found.calls) == (3, 2, 1, 4)
    assert (found.turns, found.sampled_tokens, found.blind_retries, found.reward) == (2.0, 2.0, 0.5, 0.5)
    assert found.pass_hat is not None
    assert (found.pass_hat.k, found.pass_hat.value) == (2, 0.0)
    assert found.stops == {StopReason.FINISHED: 1, StopReason.TURN_LIMIT: 1, StopReason.INFRASTRUCTURE: 1}
    empty = summary([])
    assert (empty.success.value, empty.turns, empty.reward, empty.pass_at) == (None, None, None, None)


# Intervals of means and ratios


def test_a_ratio_draws_whole_tasks() -> None:
    found = ratio([("a", 3, 3), ("b", 0, 1), ("c", 5, 0)])
    assert (found.value, found.n, found.tasks) == (0.75, 4, 2)  # c has no denominator
    assert (found.low, found.high) == (0.0, 1.0)  # only (a, a), (a, b) and (b, b) can be drawn
    assert (ratio([]).value, ratio([("a", 1, 0)]).value) == (None, None)
    alone = ratio([("a", 1, 2), ("a", 1, 2)])
    assert (alone.value, alone.low, alone.tasks) == (0.5, None, 1)
    assert str(found) == "0.75 [0, 1] n=4"
    assert str(ratio([])) == "none (n=0)"


def test_the_bootstrap_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(1)
    values = [rng.gauss(3, 2) for _ in range(60)]
    found = ratio([(i, v, 1) for i, v in enumerate(values)], resamples=5000)
    theirs = stats.bootstrap((values,), lambda x, axis: x.mean(axis), method="percentile", rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_across_training_seeds_by_hand_and_by_scipy() -> None:
    # mean .6, deviations ±.1 and 0: s = .1, s/√3 = .057735; t_.975 with 2 degrees of freedom is 4.30265
    found = across_seeds([0.5, 0.6, 0.7, None])
    assert found.value == pytest.approx(0.6)
    assert found.n == 3
    assert (found.low, found.high) == pytest.approx((0.6 - 0.248414, 0.6 + 0.248414), abs=1e-6)
    assert (across_seeds([0.5]).low, across_seeds([None]).value) == (None, None)
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 3, 4, 5, 6, 11, 30, 101):
        values = [float(i % 3) for i in range(n)]
        theirs = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        ours = across_seeds(values)
        assert (ours.low, ours.high) == pytest.approx(theirs)


def test_pass_k_has_an_interval_over_tasks() -> None:
    attempts = [episode(i < 1, task="a", attempt=i) for i in range(4)]
    attempts += [episode(i < 3, task="b", attempt=i) for i in range(4)]
    assert (pass_at_k(attempts, 2).low, pass_at_k(attempts, 2).high) == (0.5, 1.0)
    assert (pass_hat_k(attempts[:4], 2).low, pass_hat_k(attempts, 4).low) == (None, None)


def test_what_was_excluded_is_said_with_its_reason() -> None:
    every = [episode(True), LOST, LOST, episode(None), episode(True, stop=StopReason.CANCELLED)]
    found = excluded(every)
    assert (found.episodes, found.judged, found.share) == (5, 1, 0.8)
    assert found.reasons == {"infrastructure failure": 2, "not judged": 1, "cancelled": 1}
    assert str(found) == ("1 of 5 episodes judged; excluded: 2 infrastructure failure, 1 not judged, 1 cancelled")
    assert excluded([]).share is None


@unhurried
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=12))
def test_no_measure_is_ever_nan_and_each_counts_judged_episodes_only(rows: list[tuple[int, bool, bool]]) -> None:
    every = [episode(ok, DOWN, SAID if ok else QUIT, task=str(task)) if judged else LOST for task, ok, judged in rows]
    found = measure(every)
    assert list(found) == [m.name for m in MEASURES]
    judged = [t for t in every if t.judged]
    assert found == measure(judged)
    for one in found.values():
        assert (one.value is None) == (one.n == 0)
        assert one.value is None or one.value == one.value
        assert one.low is None or one.high is None or one.low <= one.high
    assert found["success"].value == success_rate(every).value
    assert found["recovery"].value == recovery_rate(every).value
    assert found["reward"].value == pytest.approx(summary(every).reward)
    assert found["blind retries"].value == pytest.approx(summary(every).blind_retries)


def test_the_document_names_every_measure() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs/metrics.md").read_text("utf-8")
    rows = "".join(line for line in text.splitlines() if line.startswith("| `"))
    assert not [m.name for m in MEASURES if f"`{m.name}`" not in rows]
    assert not [action for action in ACTIONS if f"`{action}`" not in rows]


# What follows a failure


def test_a_kind_of_fault_says_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trajectories.metrics.recovery.RIGHT", dict(RIGHT))
    assert right_after_fault("melted", Outcome.GONE) == RIGHT_AFTER_OUTCOME[Outcome.GONE]  # unknown: by its outcome
    register_fault("melted", ("wait", "login"))
    assert right_after_fault("melted", Outcome.GONE) == {"wait", "login"}
    assert right_after_fault(None, Outcome.GONE) == RIGHT_AFTER_OUTCOME[Outcome.GONE]
    assert right_after_fault(None) == frozenset()
    for wrong in ((), ("pray",)):
        with pytest.raises(EnvError, match="the right actions after the fault 'melted' are one or more of retry_same"):
            register_fault("melted", wrong)


def test_the_tables_cover_every_fault_and_every_outcome() -> None:
    assert set(RIGHT) == set(FAULTS)
    assert set(RIGHT_AFTER_OUTCOME) == set(Outcome) - {Outcome.OK}
    assert set().union(*RIGHT.values(), *RIGHT_AFTER_OUTCOME.values()) <= set(ACTIONS)


ROLES = {"test/Env-v0": ToolRoles(frozenset({"nap"}), frozenset({"knock"}), {"pay": frozenset({"transfer"})})}


@pytest.mark.parametrize(
    ("then", "action"),
    [
        (call(), "retry_same"),
        (call(amount=2), "retry_changed"),
        (call("transfer"), "alternative"),
        (call("knock"), "login"),
        (call("nap"), "wait"),
        (call("look"), "other_tool"),
        (call("pay", Outcome.MALFORMED, amount=None, raw="{"), "malformed"),
        (Turn(Action("Cannot: no.")), "give_up"),
        (Turn(Action("I paid it.")), "final_answer"),
        (None, "cut_off"),
    ],
)
def test_the_first_action_after_a_fault(then: Turn | None, action: str) -> None:
    turns = (struck("unavailable", Outcome.UNAVAILABLE), *([] if then is None else [then]))
    stop = StopReason.TURN_LIMIT if then is None else None
    assert after_faults([episode(False, *turns, stop=stop)], ROLES) == {("unavailable", action): 1}


def test_a_message_to_the_user_is_no_end() -> None:
    asks = Turn(Action("Shall I go on?"), messages=(Message("user", "Yes."),))
    t = episode(True, struck("unavailable", Outcome.UNAVAILABLE), asks, call(), SAID)
    assert after_faults([t]) == {("unavailable", "message"): 1}


def test_tools_are_guessed_from_their_names_where_roles_are_not_known() -> None:
    down = struck("rate_limited", Outcome.RATE_LIMITED)
    counts = after_faults([episode(True, down, call(name), call()) for name in ("wait", "log_in", "transfer")])
    assert counts == {("rate_limited", a): 1 for a in ("wait", "login", "other_tool")}
    looked = episode(True, struck("forbidden", Outcome.FORBIDDEN), call("look"), call("transfer"), SAID)
    assert [one.right for t in (looked, replace(looked, turns=looked.turns[:2])) for one in blockages(t, ROLES)] == [
        True,
        False,
    ]
    gone = episode(True, struck("tool_removed", Outcome.GONE), call("transfer"), SAID)
    assert right_strategy([gone]).value == 1.0  # it may be the second route
    assert right_strategy([gone], {"test/Env-v0": ToolRoles(alternatives={})}).value == 0.0


def test_the_call_that_is_nearest_to_the_failed_one_counts() -> None:
    both = Turn(Action("", (ToolCall("look", {}), ToolCall("pay", {"amount": 1}))), ())
    t = episode(True, struck("unavailable", Outcome.UNAVAILABLE), both)
    assert after_faults([t]) == {("unavailable", "retry_same"): 1}


def test_a_fault_counts_once_and_unjudged_episodes_do_not() -> None:
    down = struck("unavailable", Outcome.UNAVAILABLE)
    assert after_faults([episode(True, down, down, down, call())]) == {("unavailable", "retry_same"): 1}
    assert after_faults([replace(LOST, turns=(down,))]) == {}
    own = episode(False, call(outcome=Outcome.NOT_FOUND), down, QUIT)
    assert after_faults([own]) == {("unavailable", "give_up"): 1}
    assert after_faults([own], failures="own") == {("not_found", "retry_same"): 1}
    assert after_faults([own], failures="all").total() == 2


def test_right_strategy_by_hand() -> None:
    right = episode(True, struck("unavailable", Outcome.UNAVAILABLE), call(), SAID, task="a")
    wrong = episode(
        False, struck("timeout_landed", Outcome.TIMEOUT, took_effect=True), call(took_effect=True), SAID, task="b"
    )
    silent = episode(True, call(fault="empty_result"), call(), SAID, task="c")
    every = [right, wrong, silent]
    assert right_strategy(every).value == pytest.approx(2 / 3)
    assert right_strategy(every, fault="timeout_landed").value == 0.0
    assert right_strategy(every, fault="gone").value is None
    assert right_strategy([episode(True, call())]).value is None


# Blockages


def test_a_blockage_from_failure_to_recovery() -> None:
    down = struck("unavailable", Outcome.UNAVAILABLE)
    spans = [(2, 4), (5, 8), (9, 10), (11, 12)]
    turns = [replace(turn, span=span) for turn, span in zip((down, down, call(), SAID), spans, strict=True)]
    sampled = tuple(int(any(a <= i < b for a, b in spans)) for i in range(12))
    t = episode(True, *turns, tokens=Tokens(tuple(range(12)), sampled, (0.0,) * 12))
    (one,) = blockages(t)
    assert (one.tool, one.fault, one.cause, one.turn, one.resolved) == ("pay", "unavailable", Cause.INJECTED, 0, 2)
    assert (one.action, one.right, one.told, one.turns) == ("retry_same", True, True, 2)
    assert (one.failures, one.tokens) == (2, 4)  # the second call's 3 tokens and the third's 1
    assert tokens_to_recovery([t]).value == 4.0
    assert tokens_to_recovery([episode(True, down, call())]).value is None


def test_turns_to_recovery_stand_beside_what_never_was() -> None:
    down = struck("unavailable", Outcome.UNAVAILABLE)
    every = [episode(True, down, call(), task="a"), episode(True, down, down, call(), task="b"),
             episode(False, down, QUIT, task="c")]  # fmt: skip
    assert (turns_to_recovery(every).value, turns_to_recovery(every).n) == (1.5, 2)
    assert unresolved(every).value == pytest.approx(1 / 3)
    assert fault_recovery(every).value == pytest.approx(2 / 3)
    assert (unresolved([episode(True, call())]).value, turns_to_recovery([]).value) == (None, None)


@pytest.mark.parametrize(
    ("blocked", "then", "reached"),
    [
        (struck("unavailable", Outcome.UNAVAILABLE), call(amount=1), True),
        (struck("unavailable", Outcome.UNAVAILABLE), call(amount=2), False),  # for something else
        (call(outcome=Outcome.NOT_FOUND), call(amount=2), True),  # the argument was what was wrong
        (struck("stale_id", Outcome.CONFLICT), call(amount=2), True),
        (struck("schema_drift", Outcome.INVALID_ARGUMENTS), call(amount_text=1), True),
        (struck("tool_removed", Outcome.GONE), call("transfer", amount=2), True),
        (struck("tool_removed", Outcome.GONE), call("look", amount=1), False),
        (call("pya", Outcome.UNKNOWN_TOOL, cause=Cause.POLICY), call(amount=1), True),
        (call("pya", Outcome.UNKNOWN_TOOL, cause=Cause.POLICY), call(amount=2), False),
        (call("", Outcome.MALFORMED, amount=None, raw="{", cause=Cause.POLICY), call("look"), True),
        (
            struck("unavailable", Outcome.UNAVAILABLE),
            call(fault="empty_result"),
            False,
        ),  # an answer, but not a right one
        (struck("timeout_lost", Outcome.TIMEOUT), struck("timeout_landed", Outcome.TIMEOUT, took_effect=True), True),
        (struck("timeout_landed", Outcome.TIMEOUT, took_effect=True), call("look"), True),
        (struck("timeout_landed", Outcome.TIMEOUT, took_effect=True), call(took_effect=True), False),  # paid twice
    ],
)
def test_when_the_blocked_end_was_reached(blocked: Turn, then: Turn, reached: bool) -> None:
    one = blockages(episode(None, blocked, then), ROLES)[0]
    assert one.resolved == (1 if reached else None)


def test_a_second_fault_on_the_way_is_a_blockage_of_its_own_and_both_are_resolved() -> None:
    t = episode(
        True,
        struck("unavailable", Outcome.UNAVAILABLE),
        struck("stale_id", Outcome.CONFLICT),
        call("look"),
        call(amount=2),
        SAID,
    )
    assert [(one.fault, one.action, one.resolved) for one in blockages(t)] == [
        ("unavailable", "retry_same", 3),
        ("stale_id", "other_tool", 3),
    ]


def test_page_two_ends_what_page_one_began() -> None:
    page = call("list_all", fault="partial_page")
    assert [(one.told, one.resolved) for one in blockages(episode(True, page, page, SAID))] == [(False, 1)]
    assert blockages(episode(True, page, SAID))[0].resolved is None


def test_recovery_by_fault_and_cause() -> None:
    down, gone = struck("unavailable", Outcome.UNAVAILABLE), struck("tool_removed", Outcome.GONE)
    own = call("look", outcome=Outcome.NOT_FOUND, cause=Cause.TOOL)
    every = [episode(True, down, call(), own), episode(False, gone, QUIT, task="b")]
    found = recovery_by_fault(every)
    assert {kind: (one.value, one.n) for kind, one in found.items()} == {"tool_removed": (0, 1), "unavailable": (1, 1)}
    assert fault_recovery(every, cause=Cause.TOOL).value == 0.0
    assert fault_recovery(every, cause=Cause.INJECTED).value == 0.5
    broken = episode(True, call(outcome=Outcome.CRASHED, cause=Cause.INFRASTRUCTURE), call())
    assert blockages(broken) == []


@pytest.mark.parametrize("kind", sorted(set(FAULTS) - {"impossible"}))
def test_the_expert_is_right_after_every_fault_and_its_opposites_are_not(kind: str) -> None:
    tasks = task_set(make("orders"), "train", 10)
    plan = FaultPlan.parse(f"count=1:{kind}@1")
    roles = tool_roles({"sparring/Orders-v0"})
    played = {
        name: rollout("orders", scripted(name), [EpisodeSpec(task, plan) for task in tasks])
        for name in ("expert", "give-up")
    }
    expert, quits = (right_strategy(ts, roles, fault=kind) for ts in played.values())
    if expert.value is None:
        pytest.skip("nothing here that it could strike")
    assert expert.value >= 0.9
    told = [t for t in played["give-up"] if t.failed_calls()]
    if told:
        assert right_strategy(told, roles, fault=kind).value == 0.0
    recovered = recovery_by_fault(played["expert"], roles)[kind].value
    assert recovered is not None
    assert recovered >= 0.8
    assert quits.n > 0


def test_that_nothing_can_be_done_is_known_once_the_second_route_is_blocked_too() -> None:
    tasks = task_set(make("orders"), "train", 10)
    plan, roles = FaultPlan.parse("count=1:impossible@1"), tool_roles({"sparring/Orders-v0"})
    for name, share in (("expert", 1.0), ("give-up", 1.0), ("blind-retry", 0.0)):
        played = rollout("orders", scripted(name), [EpisodeSpec(task, plan) for task in tasks])
        assert right_strategy(played, roles).value == share
        assert abstention(played).recall.value == share
        assert recovery_by_fault(played, roles)["impossible"].value == 0.0


# Waste


def test_repeated_failures_by_hand() -> None:
    assert repeated_failures(episode(False, DOWN, DOWN, DOWN)) == 0  # two retries may be right
    assert repeated_failures(episode(False, *[DOWN] * 6)) == 3
    missing = call(outcome=Outcome.NOT_FOUND)
    assert repeated_failures(episode(False, missing, call("look"), missing)) == 1
    assert repeated_failures(episode(False, missing, call(outcome=Outcome.NOT_FOUND, amount=2))) == 0
    expired = call(outcome=Outcome.UNAUTHENTICATED)
    assert repeated_failures(episode(True, expired, call("log_in"), call())) == 0
    twins = Turn(Action("", missing.action.tool_calls * 2), missing.results * 2)
    assert repeated_failures(episode(False, twins)) == 0


def test_wasted_calls_by_hand() -> None:
    look = call("look")
    assert wasted_calls(episode(True, look, look, call("look", content="changed"))) == 1
    assert wasted_calls(episode(True, call("wait"), call("wait"))) == 0
    expired = call(outcome=Outcome.UNAUTHENTICATED)
    login = call("log_in")
    assert wasted_calls(episode(True, login, expired, login, login)) == 1  # the second was called for
    assert wasted_calls(episode(False, *[DOWN] * 6)) == 3
    lost = struck("timeout_lost", Outcome.TIMEOUT)
    assert wasted_calls(episode(True, look, lost, look, look)) == 1  # the second look was called for
    paid = call(took_effect=True)
    effects = {"test/Env-v0": ToolRoles(effects=frozenset({"pay"}))}
    assert wasted_calls(episode(True, look, paid, look), effects) == 0
    assert wasted_calls(episode(True, look, paid, look)) == 1
    assert wasted_calls(episode(True, paid, paid)) == 1
    assert wasted_calls(episode(True, paid, paid), effects) == 0


# Giving up


def test_abstention_by_hand() -> None:
    hopeless: dict[str, Any] = {"hit": ("impossible",)}
    every = [
        episode(True, QUIT, **hopeless), episode(True, QUIT, **hopeless), episode(False, SAID, **hopeless),
        episode(False, QUIT), episode(True, SAID), episode(False, SAID), LOST,
    ]  # fmt: skip
    found = abstention(every)
    assert (found.precision.successes, found.precision.n) == (2, 3)
    assert (found.recall.successes, found.recall.n) == (2, 3)
    assert (found.premature.successes, found.premature.n, found.premature.excluded) == (1, 3, 1)
    none = abstention([episode(True, SAID)])
    assert (none.precision.value, none.recall.value, none.premature.value) == (None, None, 0.0)
    named = measure(every)
    assert named["abstention precision"].value == found.precision.value
    assert named["premature give-up"].value == found.premature.value
    assert named["false success"].value == false_success(every).value == pytest.approx(2 / 3)


# Order


def test_precedence_follows_where_arguments_came_from() -> None:
    gold = episode(
        True,
        call("find", content='{"id":"o40"}', name_="Ada"),
        call("read", content='{"payment":"p12"}', order="o40"),
        call("refund", payment="p12", who="Ada"),
    )
    gold = replace(gold, prompt=(Message("user", "Refund what Ada bought."),))
    find, read = PlannedCall("find", (("name_", "Ada"),)), PlannedCall("read", (("order", "o40"),))
    refund = PlannedCall("refund", (("payment", "p12"), ("who", "Ada")))
    assert precedence(gold) == [(find, read), (read, refund)]  # Ada stood in the prompt
    assert plan_order([gold], lambda t: precedence(gold)).value == 1.0


def test_plan_order_by_hand() -> None:
    edges = [
        (PlannedCall("a"), PlannedCall("b")),
        (PlannedCall("b"), PlannedCall("c")),
        (PlannedCall("a"), PlannedCall("d")),
    ]
    swapped = episode(False, call("b"), call("a"), call("c"))  # a before b: no; b before c: yes; d never came
    found = plan_order([swapped], lambda t: edges)
    assert (found.value, found.n) == (0.5, 2)
    failed_first = episode(False, call("a", outcome=Outcome.NOT_FOUND), call("b"))
    assert plan_order([failed_first], lambda t: edges).value == 0.0
    together = Turn(
        Action("", (ToolCall("a", {}), ToolCall("b", {}))),
        (ToolResult("1", "a", Outcome.OK, ""), ToolResult("2", "b", Outcome.OK, "")),
    )
    assert plan_order([episode(False, together)], lambda t: edges).value == 0.0  # b was written before a had answered
    assert plan_order([episode(False, call("c", outcome=Outcome.GONE))], lambda t: edges).value is None


def test_the_expert_keeps_the_order_that_its_results_dictate() -> None:
    tasks = task_set(make("orders"), "train", 6)
    played = rollout("orders", scripted("expert"), [EpisodeSpec(task) for task in tasks])
    gold = {t.task.id: precedence(t) for t in played}
    assert all(gold.values())
    assert plan_order(played, lambda t: gold[t.task.id]).value == 1.0


# Forgetting


def test_kl_by_hand() -> None:
    tokens = Tokens((5, 6, 7), (0, 1, 1), (0.0, -1.0, -0.5))
    base = [episode(True, tokens=tokens), episode(True)]
    assert kl_from_base(base, [(9.9, -2.0, -0.5), ()]).value == 0.5  # (1 + 0) / 2 sampled tokens
    assert kl_from_base(base[:1], [tokens.logprobs]).value == 0.0
    assert kl_from_base([], []).value is None
    with pytest.raises(DataError, match="3 tokens, and log-probabilities of 2"):
        kl_from_base(base[:1], [(0.0, 0.0)])
    with pytest.raises(DataError, match="of 2 episodes, got those of 1"):
        kl_from_base(base, [()])
    with pytest.raises(DataError, match="no finite number"):
        kl_from_base(base[:1], [(0.0, float("-inf"), 0.0)])


def test_forgetting_is_a_paired_difference_for_each_environment() -> None:
    before = [episode(True, task=t) for t in "abc"]
    after = [episode(t == "a", task=t) for t in "abc"]
    other = [replace(t, env="other/Env-v0") for t in before]
    found = forgetting([*before, *other], [*after, *other])
    assert {env: one.difference for env, one in found.items()} == {
        "test/Env-v0": pytest.approx(-2 / 3),
        "other/Env-v0": 0.0,
    }
    assert forgetting(before, []) == {}


# Exact tests against others


@pytest.mark.parametrize(
    ("sums", "p"), [((2, 1, -1), 0.75), ((2, 2, 1), 0.25), ((), 1.0), ((0, 0), 1.0), ((1, -1), 1.0)]
)
def test_sign_flips_by_hand(sums: tuple[int, ...], p: float) -> None:
    # ±2 ±1 ±1 gives 4 2 2 0 0 -2 -2 -4: six of eight are 2 away from 0 or more
    assert sign_flip_exact(sums) == p


@unhurried
@given(st.lists(st.integers(-4, 4), max_size=9))
def test_sign_flips_agree_with_going_through_all(sums: list[int]) -> None:
    every = [
        abs(sum(s * d for s, d in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    assert sign_flip_exact(sums) == pytest.approx(sum(v >= abs(sum(sums)) for v in every) / len(every))


def test_the_clustered_test_keeps_its_level_where_mcnemar_does_not() -> None:
    rng = random.Random(0)
    clustered = naive = 0
    for _ in range(300):  # two equal agents; a task's four attempts end alike: 20 tasks are 20 observations, not 80
        sums = [4 * (rng.choice((0, 1)) - rng.choice((0, 1))) for _ in range(20)]
        clustered += sign_flip_exact(sums) < 0.05
        pairs = [(d > 0, d < 0) for d in sums for _ in range(4)]
        naive += mcnemar_exact(pairs).p < 0.05
    assert clustered / 300 <= 0.07
    assert naive / 300 > 0.2


def test_mcnemar_wilson_and_holm_agree_with_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    for b, c in ((1, 6), (0, 5), (13, 2), (40, 22)):
        theirs = tables.mcnemar([[7, b], [c, 9]], exact=True).pvalue
        assert mcnemar_exact([(True, False)] * b + [(False, True)] * c).p == pytest.approx(theirs)
    for k, n in ((0, 3), (8, 10), (41, 48)):
        assert wilson(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)
    p_values = [0.01, 0.04, 0.03, 0.5, 0.011]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_newcombe_by_hand_and_by_statsmodels() -> None:
    # b 8 of 10, a 5 of 10, correlation 0: .3 - √(.30984² + .26341²) and .3 + √(.14332² + .26341²)
    found = newcombe_paired(both=4, only_b=4, only_a=1, neither=1)
    assert found == pytest.approx((-0.10667, 0.59988), abs=1e-4)
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert found == pytest.approx(proportion.confint_proportions_2indep(8, 10, 5, 10, method="newcomb", compare="diff"))
    low, high = newcombe_paired(both=0, only_b=48, only_a=0, neither=0)
    assert 0.8 < low < high == 1.0
    low, high = newcombe_paired(both=30, only_b=0, only_a=0, neither=18)  # never a difference
    assert low == pytest.approx(-high)
    assert high < 0.08


def test_what_could_have_been_detected_is_detected_four_times_in_five() -> None:
    rng = random.Random(0)
    seen_ = [1] * 12 + [-1] * 10 + [0] * 38
    delta = detectable(seen_)
    assert delta is not None
    psi = (22 + 1) / 62
    shown = 0
    for _ in range(600):
        sums = [rng.choices((1, -1, 0), ((psi + delta) / 2, (psi - delta) / 2, 1 - psi))[0] for _ in range(60)]
        shown += sign_flip_exact(sums) < 0.05
    assert 0.7 < shown / 600 < 0.9
    assert detectable([1, 1, 1, 1, 1]) is None  # 2 / 2^5 > .05
    assert (detectable([0] * 1000) or 1) < (detectable([0] * 100) or 0) < (detectable([1, -1] * 50) or 0)


# ---- inferred is not measured ----------------------------------------------------------------------------------------


def told(outcome: Outcome, *, inferred: bool, took_effect: bool | None = None) -> Trajectory:
    """An imported episode of two equal calls that ended so, as the record says or as was guessed."""
    cause = None if outcome is Outcome.OK else Cause.TOOL
    turns = [
        Turn(Action("", (ToolCall("pay", {"to": "Ada"}, id=id),)),
             (ToolResult(id, "pay", outcome, "x", cause=cause, took_effect=took_effect, inferred=inferred),))
        for id in ("c1", "c2")
    ]  # fmt: skip
    return Trajectory(f"{outcome}{inferred}", "imported/openai", Task("Pay.", id=f"{outcome}{inferred}"), (),
        (*turns, Turn(Action("Done."))), StopReason.FINISHED, success=True, reward=1.0,
        meta={"from": "openai"})  # fmt: skip


OF_OUTCOMES = {
    "recovery", "fault recovery", "right strategy", "turns to recovery", "tokens to recovery", "unresolved",
    "wasted calls", "repeated failures", "blind retries", "duplicate effects", "failed calls",
}  # fmt: skip


def test_metrics_of_guessed_outcomes_are_none() -> None:
    guessed = [told(Outcome.OK, inferred=True), told(Outcome.MALFORMED, inferred=True)]
    found = measure(guessed)
    assert {name for name in OF_OUTCOMES if found[name].value is not None} == set()
    assert found["success"].value == 1
    assert found["calls"].value == 2
    s = summary(guessed)
    assert (s.outcomes, s.recovery.value, s.blind_retries, s.duplicate_effects) == ({}, None, None, None)
    assert (s.calls, s.untold) == (4, 4)
    assert recovery_by_cause(guessed) == {}
    assert fault_recovery(guessed).value is unresolved(guessed).value is None
    assert after_faults(guessed, failures="all") == {}
    assert untold_calls(guessed) == (4, 4)
    assert not_measured(guessed) == [
        "the record does not say how 4 of 4 calls ended: they are in no number of failures, recovery or waste"
    ]


def test_measured_outcomes_count_next_to_guessed_ones() -> None:
    """Only what is known is in a denominator: one guess more changes nothing but the note."""
    known = [told(Outcome.TOOL_ERROR, inferred=False), told(Outcome.OK, inferred=False)]
    mixed = [*known, told(Outcome.OK, inferred=True)]
    alone, both = measure(known), measure(mixed)
    assert {name: both[name] for name in OF_OUTCOMES} == {name: alone[name] for name in OF_OUTCOMES}
    assert both["failed calls"].value == 0.5
    assert outcome_mix(mixed) == outcome_mix(known) == {Outcome.OK: 50.0, Outcome.TOOL_ERROR: 50.0}
    assert recovery_rate(mixed).n == 1
    assert not_measured(known) == []
    assert "2 of 6 calls" in not_measured(mixed)[0]


def test_effects_that_an_import_does_not_tell_make_no_duplicates() -> None:
    assert measure([told(Outcome.TOOL_ERROR, inferred=False)])["duplicate effects"].value is None
    assert measure([told(Outcome.TOOL_ERROR, inferred=False, took_effect=True)])["duplicate effects"].value == 1


def test_what_else_was_inferred_is_said() -> None:
    meta = {"from": "openai", "inferred": ["success", "reward"], "task_from": "prompt"}
    t = replace(told(Outcome.OK, inferred=False), meta=meta)
    success, reward, tasks = not_measured([t])
    assert success == "success of 1 of 1 episodes was inferred at import, not measured"
    assert reward.startswith("reward of 1 of 1 episodes was inferred from success")
    assert tasks.startswith("tasks of 1 of 1 episodes are told apart by their prompt alone")


def test_a_plan_of_many_kinds_is_counted_for_people() -> None:
    every = str(FaultPlan(count=2, seed=3))
    assert short_plan(every) == f"count=2 of {len(FaultPlan(count=2).kinds)} kinds@3"
    for plan in ("count=1:unavailable,stale_id@3", "unavailable:0.5@1", ""):
        assert short_plan(plan) == plan
