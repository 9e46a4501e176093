"""Advantages: by hand, by property, and against the formulas of the papers."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.trainers.advantages import (
    Estimator,
    bi_level_gae,
    gae,
    group_advantages,
    has_signal,
    lite_advantages,
    step_advantages,
    turn_gae,
)
from sparring.trajectories.errors import ConfigError, DataError, UnknownName

ESTIMATORS: tuple[Estimator, ...] = ("grpo", "dr_grpo", "rloo")
relaxed = settings(max_examples=50, deadline=None)  # no deadline: others may be using the machine
rewards = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def approx(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def test_by_hand() -> None:
    # mean .25; std of the sample: sqrt((.75^2 + 3 * .25^2) / 3) = sqrt(.75 / 3) = .5
    group = [1.0, 0.0, 0.0, 0.0]
    assert group_advantages(group, "dr_grpo") == (0.75, -0.25, -0.25, -0.25)
    assert group_advantages(group, "grpo", eps=0) == approx((1.5, -0.5, -0.5, -0.5))
    assert group_advantages(group) == approx(tuple(a / 0.5001 for a in (0.75, -0.25, -0.25, -0.25)))
    # leave one out: 1 - 0, and 0 - 1/3
    assert group_advantages(group, "rloo") == approx((1, -1 / 3, -1 / 3, -1 / 3))


@relaxed
@given(rewards)
def test_against_the_formulas(group: list[float]) -> None:
    mean = statistics.fmean(group)
    assert group_advantages(group, "dr_grpo") == approx(tuple(r - mean for r in group))
    left_out = tuple(r - statistics.fmean(group[:i] + group[i + 1 :]) for i, r in enumerate(group))
    assert group_advantages(group, "rloo") == approx(left_out)
    std = statistics.stdev(group)
    assert group_advantages(group, "grpo", eps=0.01) == approx(tuple((r - mean) / (std + 0.01) for r in group))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@relaxed
@given(group=rewards, order=st.randoms(use_true_random=False))
def test_sum_to_zero_and_follow_permutations(estimator: Estimator, group: list[float], order: Any) -> None:
    advantages = group_advantages(group, estimator)
    assert math.fsum(advantages) == approx(0)
    places = list(range(len(group)))
    order.shuffle(places)
    assert group_advantages([group[i] for i in places], estimator) == approx(tuple(advantages[i] for i in places))
    best = max(range(len(group)), key=group.__getitem__)
    assert advantages[best] == max(advantages)


@relaxed
@given(group=rewards, shift=st.floats(-100, 100))
def test_a_constant_added_to_all_rewards_changes_nothing(group: list[float], shift: float) -> None:
    moved = group_advantages([r + shift for r in group], "dr_grpo")
    assert moved == approx(group_advantages(group, "dr_grpo"))


def test_signal_is_judged_by_equality_and_not_by_the_mean() -> None:
    assert sum([0.1] * 3) / 3 != 0.1  # the trap
    assert not has_signal([0.1] * 3)
    assert group_advantages([0.1] * 3) == (0.0, 0.0, 0.0)
    assert has_signal([0.0, 0.0, 1.0])
    assert not has_signal([])
    assert not has_signal([1.0])


def test_rounding_dust_is_not_blown_up() -> None:
    dust = [0.1 + 0.2, 0.3]  # differ by 5.6e-17
    assert has_signal(dust)
    assert max(map(abs, group_advantages(dust))) < 1e-9
    assert max(map(abs, group_advantages(dust, eps=0))) > 0.5  # what eps is for


@pytest.mark.parametrize("group", [[], [1.0]])
def test_a_group_of_one_is_refused(group: list[float]) -> None:
    with pytest.raises(DataError, match="two trajectories or more"):
        group_advantages(group)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="reward 1 is"):
        group_advantages([0.0, bad])
    with pytest.raises(DataError, match="reward 0 is"):
        has_signal([bad, bad])


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'dr_grpo'"):
        group_advantages([0, 1], "drgrpo")  # type: ignore[arg-type]


# --- GAE ---------------------------------------------------------------------------------------------------------


def test_gae_by_hand_with_tool_output_in_the_middle() -> None:
    # gamma = .9, lam = .5, gamma lam = .45; sampled: 0, 1, 4. Tool tokens 2 and 3 have absurd values: never read.
    #   t=4  delta = 1 + 0 - .6 = .4                A = .4
    #   t=1  delta = 0 + .9 * .6 - .4 = .14         A = .14 + .45 * .4 = .32
    #   t=0  delta = 0 + .9 * .4 - .2 = .16         A = .16 + .45 * .32 = .304
    result = gae([0, 0, 0, 0, 1], [0.2, 0.4, 99, -99, 0.6], [1, 1, 0, 0, 1], gamma=0.9, lam=0.5)
    assert result.advantages == approx((0.304, 0.32, 0, 0, 0.4))
    assert result.returns == approx((0.504, 0.72, 0, 0, 1.0))


tokens = st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 1)), max_size=12)


@relaxed
@given(tokens=tokens, gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_equals_its_defining_sum_over_sampled_tokens(
    tokens: list[tuple[float, float, int]], gamma: float, lam: float
) -> None:
    reward = [r if m else 0.0 for r, _, m in tokens]
    value = [v for _, v, _ in tokens]
    mask = [m for *_, m in tokens]
    got = gae(reward, value, mask, gamma=gamma, lam=lam)
    # 1506.02438, eq. 16, on the sampled tokens alone: A_t = sum_l (gamma lam)^l delta_{t+l}
    at = [i for i, m in enumerate(mask) if m]
    following = [*(value[i] for i in at[1:]), 0.0]
    deltas = [reward[i] + gamma * nxt - value[i] for i, nxt in zip(at, following, strict=False)]
    for k, i in enumerate(at):
        expected = sum((gamma * lam) ** step * delta for step, delta in enumerate(deltas[k:]))
        assert got.advantages[i] == approx(expected)
        assert got.returns[i] == approx(expected + value[i])
    assert all(got.advantages[i] == got.returns[i] == 0 for i, m in enumerate(mask) if not m)


@relaxed
@given(tokens=tokens)
def test_gae_with_lambda_1_is_return_minus_value_and_with_lambda_0_the_td_error(
    tokens: list[tuple[float, float, int]],
) -> None:
    reward = [r for r, *_ in tokens]
    value = [v for _, v, _ in tokens]
    mask = [1] * len(tokens)
    assert gae(reward, value, mask, lam=1).returns == approx(tuple(sum(reward[i:]) for i in range(len(reward))))
    td = tuple(r + nxt - v for r, v, nxt in zip(reward, value, [*value[1:], 0.0], strict=False))
    assert gae(reward, value, mask, lam=0).advantages == approx(td)


def test_gae_refuses_what_would_be_lost_in_silence() -> None:
    with pytest.raises(DataError, match="token 1, which the policy did not sample"):
        gae([0, 1], [0, 0], [1, 0])
    with pytest.raises(DataError, match="must align: 1 rewards, 2 values, 1 mask"):
        gae([0], [0, 0], [1])
    with pytest.raises(DataError, match="reward 0 is nan"):
        gae([math.nan], [0], [1])
    with pytest.raises(ConfigError, match="gamma and lam"):
        gae([0], [0], [1], gamma=1.5)


def test_turn_gae_by_hand() -> None:
    # turns of 2 and 1 tokens, a tool's answer between; gamma = .9, lam = .5; values at 0 and 3: .2, .6
    #   turn 1  delta = 1 - .6 = .4                    A = .4
    #   turn 0  delta = .9 * .6 - .2 = .34             A = .34 + .45 * .4 = .52
    got = turn_gae([0, 0, 0, 1, 0], [0.2, 99, 99, 0.6, 99], [(0, 2), (3, 4), (5, 5)], gamma=0.9, lam=0.5)
    assert got.advantages == approx((0.52, 0.52, 0, 0.4, 0))
    assert got.returns == approx((0.72, 0, 0, 1.0, 0))
    assert got.learned == (1, 0, 0, 1, 0)


def test_bi_level_gae_by_hand() -> None:
    # values at the turns' last tokens: .4 and .6; over turns (gamma .9, lam .5): A = .4, then .54 - .4 + .45 * .4 = .32
    # within turn 0 (gamma 1, lam .5): the last token's return is .32 + .4 = .72
    #   token 1  delta = .72 - .4 = .32                A = .32: the turn's own
    #   token 0  delta = .4 - .2 = .2                  A = .2 + .5 * .32 = .36
    got = bi_level_gae(
        [0, 0, 0, 1], [0.2, 0.4, 99, 0.6], [(0, 2), (3, 4)], gamma=1, lam=0.5, turn_gamma=0.9, turn_lam=0.5
    )
    assert got.advantages == approx((0.36, 0.32, 0, 0.4))
    assert got.returns == approx((0.56, 0.72, 0, 1.0))
    assert got.learned == (1, 1, 0, 1)


@relaxed
@given(tokens=tokens)
def test_with_lambda_1_every_level_is_return_minus_value(tokens: list[tuple[float, float, int]]) -> None:
    spans = [(i, i + 1) for i in range(len(tokens))]
    reward, value = [r for r, *_ in tokens], [v for _, v, _ in tokens]
    expected = gae(reward, value, [1] * len(tokens), lam=1)
    assert turn_gae(reward, value, spans, lam=1).advantages == approx(expected.advantages)
    assert bi_level_gae(reward, value, spans, turn_lam=1).advantages == approx(expected.advantages)


def test_turns_follow_explicit_boundaries() -> None:
    with pytest.raises(DataError, match="token 1, which is in no turn"):
        turn_gae([0, 1], [0, 0], [(0, 1)])
    with pytest.raises(DataError, match="turns follow each other"):
        bi_level_gae([0, 0], [0, 0], [(0, 2), (1, 2)])


# --- Lite PPO and GiGPO ------------------------------------------------------------------------------------------


def test_lite_takes_one_std_for_the_batch() -> None:
    # rewards 1 0 | 1 1 1 0: mean 4/6; std of the sample: sqrt((4 / 9 + 2 * 16 / 36) / 5) -> 4 * (1/3)^2 + 2 * (2/3)^2
    std = math.sqrt((4 / 9 + 8 / 9) / 5)
    got = lite_advantages([[1, 0], [1, 1, 1, 0]], eps=0)
    assert got[0] == approx((0.5 / std, -0.5 / std))
    assert got[1] == approx((0.25 / std, 0.25 / std, 0.25 / std, -0.75 / std))
    assert lite_advantages([]) == []
    with pytest.raises(DataError, match="two trajectories"):
        lite_advantages([[1.0]])


def test_step_advantages_by_hand() -> None:
    # returns at state a: .5 and 0; mean .25, std of the sample sqrt(2 * .0625) = .35355; b and c are met once
    got = step_advantages([1, 0], [["a", "b"], ["a", "c"]], gamma=0.5, eps=0)
    assert got[0] == approx((0.25 / math.sqrt(0.125), 0))
    assert got[1] == approx((-0.25 / math.sqrt(0.125), 0))
    # a detour: the same state twice in one episode; the return is .25 the first time and .5 the second
    (loop,) = step_advantages([1], [["a", "a", "b"]], gamma=0.5, eps=0)
    assert loop[0] < 0 < loop[1]
    assert loop[2] == 0
    with pytest.raises(DataError, match="must align"):
        step_advantages([1], [])
