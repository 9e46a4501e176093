"""The numbers in these tests were worked out by hand; scipy is asked for a second opinion where it has one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.trajectories.errors import ConfigError
from sparring.trajectories.messages import Action, Cause, Outcome, ToolCall, ToolResult
from sparring.trajectories.metrics import (
    blind_retries,
    duplicate_effects,
    false_success,
    holm,
    mcnemar_exact,
    outcome_mix,
    paired_difference,
    pass_at_k,
    pass_hat_k,
    rate,
    recovery_by_cause,
    recovery_rate,
    resilience,
    steps_over_optimal,
    success_by_fault,
    success_rate,
    summary,
    wilson,
)
from sparring.trajectories.trajectory import StopReason, Task, Tokens, Trajectory, Turn


def call(
    name: str = "pay",
    outcome: Outcome = Outcome.OK,
    *,
    amount: int | None = 1,
    cause: Cause = Cause.TOOL,
    landed: bool | None = False,
    raw: str = "",
) -> Turn:
    """A turn with one call; amount None: a call that could not be parsed."""
    arguments = None if amount is None else {"amount": amount}
    result = ToolResult("c", name, outcome, "text", cause=None if outcome is Outcome.OK else cause, landed=landed)
    return Turn(Action("", (ToolCall(name, arguments, raw),)), (result,))


def episode(
    success: bool | None,
    *turns: Turn,
    task: str = "t",
    stop: StopReason = StopReason.FINISHED,
    faults: str = "",
    hit: tuple[str, ...] = (),
    attempt: int = 0,
    optimum: int | None = None,
    tokens: Tokens | None = None,
) -> Trajectory:
    return Trajectory(
        id="e", env="test/Env-v0", task=Task("do it", id=task), prompt=(), turns=turns, stop=stop, success=success,
        faults=faults, faults_hit=hit, attempt=attempt, optimum=optimum, tokens=tokens, reward=float(success or 0),
    )  # fmt: skip


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
    assert resilience(clean, faulty) == 0.5
    assert resilience([], faulty) is None
    assert resilience([episode(False, task="a")], faulty) is None


def test_false_success_leaves_out_what_the_caller_knows_as_giving_up() -> None:
    honest = episode(False, Turn(Action("I cannot.")))
    cut_off = episode(False, stop=StopReason.TURN_LIMIT)
    episodes = [episode(False, Turn(Action("Done."))), honest, episode(True), cut_off]
    assert (false_success(episodes).successes, false_success(episodes).n) == (2, 3)
    assert false_success(episodes, lambda t: t is honest).value == 0.5


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
    lost_reply = call(outcome=Outcome.TIMEOUT, cause=Cause.INJECTED, landed=True)
    paid = call(landed=True)
    assert duplicate_effects(episode(True, lost_reply, paid)) == 1
    assert duplicate_effects(episode(True, paid, paid)) == 0  # the agent knew, so it was meant
    assert duplicate_effects(episode(True, lost_reply, call(landed=True, amount=2))) == 0
    assert duplicate_effects(episode(True, DOWN, paid)) == 0


def test_outcome_mix_is_per_100_calls() -> None:
    mix = outcome_mix([episode(True, call(), call(), DOWN), episode(True, call()), episode(None, DOWN)])
    assert mix == {Outcome.OK: 75.0, Outcome.UNAVAILABLE: 25.0}
    assert outcome_mix([]) == {}


def test_steps_over_optimal_is_about_successes() -> None:
    steps = [episode(True, DOWN, call(), optimum=1), episode(False, optimum=3), episode(True, call())]
    assert steps_over_optimal(steps) == 1.0
    assert steps_over_optimal([episode(False, optimum=1)]) is None


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
