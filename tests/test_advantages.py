"""Advantages: by hand, by property, and against the formulas of the papers."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.trainers.advantages import Estimator, gae, group_advantages, has_signal
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


def test_gae_bootstraps_an_episode_that_was_cut_off() -> None:
    # delta = 0 + .9 * 2 - .5 = 1.3; the tool token after the last sampled one changes nothing
    assert gae([0, 0], [0.5, 7], [1, 0], gamma=0.9, bootstrap=2).advantages == approx((1.3, 0))


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
