"""Losses: numbers worked out by hand, gradients in closed form, expectations by enumeration, the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.trainers.losses import (
    Loss,
    dpo_loss,
    entropy,
    k1,
    k2,
    k3,
    kl_loss,
    kto_loss,
    merge_logs,
    policy_gradient_loss,
    reward_loss,
    sequence_sums,
    sft_loss,
    simpo_loss,
    weighted_mean,
)
from sparring.trajectories.errors import ConfigError, DataError, UnknownName

INF = math.inf


def t(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def gradient(value: Tensor, of: Tensor) -> list[float]:
    (grad,) = torch.autograd.grad(value, of)
    return list(grad.tolist())


def number(value: Tensor) -> float:
    return value.detach().item()


def approx(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


# --- sums and means ----------------------------------------------------------------------------------------------


def test_sequence_sums_count_a_shared_position_once_per_owner() -> None:
    # the docstring's example: a=1 b=2 c=4 d=8; abc = 7, abd = 11; trajectory 2 has no position
    values = t(1, 2, 4, 1, 2, 8, grad=True)
    sums = sequence_sums(values, ints(0, 0, 0, 1, 1, 1), 3)
    assert sums.tolist() == [7, 11, 0]
    assert gradient(sums @ t(1, 10, 100), values) == [1, 1, 1, 10, 10, 10]


def test_sequence_sums_are_weighted_and_masked() -> None:
    sums = sequence_sums(t(-1, -INF, -3), ints(0, 0, 1), 2, weights_N=t(0.5, 0, 2))
    assert sums.tolist() == [-0.5, -6]


def test_sums_of_bfloat16_are_taken_in_float32() -> None:
    # 512 + 1 is 512 in bfloat16 (8 bits of mantissa)
    sums = sequence_sums(torch.tensor([512.0, 1.0], dtype=torch.bfloat16), ints(0, 0), 1)
    assert sums.dtype is torch.float32
    assert sums.tolist() == [513]


def test_weighted_mean() -> None:
    # (1*2 + 3*4) / (1 + 3) = 3.5; of a step with weight 8: 14 / 8 = 1.75
    assert number(weighted_mean(t(2, 4), t(1, 3))) == 3.5
    assert number(weighted_mean(t(2, 4), t(1, 3), denominator=8)) == 1.75


# --- SFT ---------------------------------------------------------------------------------------------------------


def test_sft_by_hand() -> None:
    # -(1*-1 + .5*-2 + 0*-9) / (1 + .5) = 2 / 1.5 = 4/3; d/dlogp = -w / 1.5
    logps = t(-1, -2, -9, grad=True)
    loss = sft_loss(logps, t(1, 0.5, 0))
    assert number(loss.value) == approx(4 / 3)
    assert loss.logs == {"nll": approx(4 / 3)}
    assert loss.weight == 1.5
    assert gradient(loss.value, logps) == approx([-2 / 3, -1 / 3, 0])


def test_sft_equals_torch_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64)
    targets = torch.tensor([0, 4, -100, 2, -100, 1, 3])
    reference = torch.nn.functional.cross_entropy(logits, targets)  # -100 is torch's mark for "ignored"
    logps = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[:, None])[:, 0]
    assert number(sft_loss(logps, (targets >= 0).double()).value) == approx(number(reference))


@pytest.mark.parametrize("bad", [-INF, INF, math.nan])
def test_masked_positions_matter_nowhere(bad: float) -> None:
    logps = t(-1, bad, grad=True)
    weights, other = t(1, 0), t(-1.5, bad)
    for loss in (
        sft_loss(logps, weights),
        kl_loss(logps, other, weights),
        kl_loss(logps, other, weights, estimator="k3-ratio", old_logps_N=other),
        policy_gradient_loss(logps, other, t(1, bad), weights, sampler_logps_N=other),
        policy_gradient_loss(
            logps, None, t(1, bad), weights, aggregation="sequence-mean", owner_N=ints(0, 1), sampler_logps_N=other
        ),
    ):
        assert math.isfinite(number(loss.value))
        assert all(math.isfinite(value) for value in loss.logs.values())
        assert gradient(loss.value, logps)[1] == 0


# --- accumulation ------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**31),
    cut=st.integers(0, 12),
    kind=st.sampled_from(["sft", "k2", "k3-ratio", "token-mean", "constant", "sequence-mean", "mean"]),
)
@settings(max_examples=60, deadline=None)
def test_micro_batches_add_up_to_one_batch(seed: int, cut: int, kind: str) -> None:
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    n = 12
    logps = (-normal(n).abs()).requires_grad_()
    old, ref, sampler = (logps.detach() + 0.3 * normal(n) for _ in range(3))
    advantages, owner = normal(n), ints(0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3, 3)
    weights = (torch.rand(n, generator=make, dtype=torch.float64) * 2 - 0.5).clamp(min=0)
    weights[0] = 1.0
    if kind == "sequence-mean":  # trajectories stay whole
        cut = min((0, 3, 7, 8, 12), key=lambda edge: abs(edge - cut))

    def loss(at: slice, denominator: float | None) -> Tensor:
        lp, w = logps[at], weights[at]
        if kind == "sft":
            return sft_loss(lp, w, denominator=denominator).value
        if kind == "mean":
            return weighted_mean(lp, w, denominator=denominator)
        if kind in ("k2", "k3-ratio"):
            return kl_loss(lp, ref[at], w, estimator=kind, old_logps_N=old[at], denominator=denominator).value  # type: ignore[arg-type]
        return policy_gradient_loss(
            lp,
            old[at],
            advantages[at],
            w,
            aggregation=kind,  # type: ignore[arg-type]  # one of its names
            owner_N=owner[at],
            sampler_logps_N=sampler[at],
            denominator=denominator,
        ).value

    if kind == "sequence-mean":
        total = number((sequence_sums(weights, owner, 4) > 0).sum())
    else:
        total = 40.0 if kind == "constant" else number(weights.sum())
    whole = loss(slice(0, n), 40.0 if kind == "constant" else None)
    parts = [loss(slice(0, cut), total), loss(slice(cut, n), total)]
    assert number(parts[0] + parts[1]) == approx(number(whole))
    accumulated = [a + b for a, b in zip(*(gradient(part, logps) for part in parts), strict=True)]
    assert accumulated == approx(gradient(whole, logps))


def test_dpo_micro_batches_add_up() -> None:
    torch.manual_seed(1)
    sides = torch.randn(4, 5, dtype=torch.float64)
    whole = number(dpo_loss(*sides).value)
    parts = [dpo_loss(*sides[:, :2], denominator=5), dpo_loss(*sides[:, 2:], denominator=5)]
    assert number(parts[0].value + parts[1].value) == approx(whole)
    assert merge_logs(parts) == approx(dpo_loss(*sides).logs)


def test_merge_logs_weighs_means_and_keeps_extremes() -> None:
    a = Loss(torch.zeros(()), {"nll": 1.0, "ratio_max": 3.0, "ratio_min": 0.5}, weight=1)
    b = Loss(torch.zeros(()), {"nll": 2.0, "ratio_max": 2.0, "ratio_min": 0.9, "only_b": 7.0}, weight=3)
    silent = Loss(torch.zeros(()), {"nll": 0.0}, weight=0)
    assert merge_logs([a, silent, b]) == {"nll": 1.75, "ratio_max": 3.0, "ratio_min": 0.5, "only_b": 7.0}
    assert merge_logs([silent]) == {}


def test_a_micro_batch_without_weight_adds_nothing() -> None:
    logps = t(-1, -2, grad=True)
    for loss in (
        sft_loss(logps, t(0, 0), denominator=10),
        policy_gradient_loss(logps, None, t(1, 1), t(0, 0), sampler_logps_N=t(0, 0), denominator=10),
    ):
        assert number(loss.value) == 0
        assert gradient(loss.value, logps) == [0, 0]
        assert loss.weight == 0
    assert number(sft_loss(t(), t(), denominator=10).value) == 0


# --- DPO ---------------------------------------------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    # Delta_w = -10 + 12 = 2, Delta_l = -20 + 17 = -3, h = 5, beta h = .5; -log sigmoid(.5) = log(1 + e^-.5) = .474077
    chosen, rejected = t(-10, grad=True), t(-20, grad=True)
    loss = dpo_loss(chosen, rejected, t(-12), t(-17), beta=0.1)
    assert number(loss.value) == pytest.approx(0.474077, abs=1e-6)
    slope = 0.1 / (1 + math.exp(0.5))  # beta sigmoid(-margin) = .0377541
    assert gradient(loss.value, chosen) == approx([-slope])
    assert gradient(dpo_loss(chosen, rejected, t(-12), t(-17)).value, rejected) == approx([slope])
    assert loss.logs == {
        "preference": approx(number(loss.value)),
        "margin": approx(0.5),
        "accuracy": 1,
        "chosen_change": 2,
        "rejected_change": -3,
        "displaced": 0,
    }


def test_dpo_shows_likelihood_displacement() -> None:
    # pair 0: both fall, but the rejected one further: the margin grows all the same. Pair 1: both rise, the wrong way.
    loss = dpo_loss(t(-11, -8), t(-15, -5), t(-10, -9), t(-10, -9))
    assert loss.logs["accuracy"] == 0.5
    assert loss.logs["displaced"] == 0.5
    assert loss.logs["chosen_change"] == 0  # (-1 + 1) / 2
    assert loss.logs["rejected_change"] == -0.5  # (-5 + 4) / 2


@given(
    sums=st.lists(st.tuples(st.floats(-500, 0), st.floats(-500, 0)), min_size=1, max_size=6),
    beta=st.floats(0.01, 1),
)
@settings(max_examples=50, deadline=None)  # no deadline: others may be using the machine
def test_dpo_at_the_reference_is_log_2_and_ipo_a_quarter_of_beta_squared(
    sums: list[tuple[float, float]], beta: float
) -> None:
    chosen, rejected = (t(*side) for side in zip(*sums, strict=True))
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=beta)
    assert number(loss.value) == approx(math.log(2))
    assert loss.logs["accuracy"] == 0  # a tie is no success
    ipo = dpo_loss(chosen, rejected, chosen, rejected, beta=beta, variant="ipo")
    assert number(ipo.value) == approx(1 / (4 * beta**2))


def test_ipo_by_hand_and_its_two_normalisations() -> None:
    # h = 5 as above; target 1 / (2 * .1) = 5: the loss is 0. With beta = .25 the target is 2: (5 - 2)^2 = 9.
    sides = t(-10), t(-20), t(-12), t(-17)
    assert number(dpo_loss(*sides, variant="ipo").value) == approx(0)
    assert number(dpo_loss(*sides, variant="ipo", beta=0.25).value) == approx(9)
    # per token: 2/4 - (-3)/6 = 1; (1 - 2)^2 = 1
    loss = dpo_loss(*sides, variant="ipo", beta=0.25, normalise="tokens", chosen_tokens_P=t(4), rejected_tokens_P=t(6))
    assert number(loss.value) == approx(1)


def test_length_normalised_dpo_by_hand() -> None:
    # h = 2/4 + 3/6 = 1, beta = 2: log(1 + e^-2) = .126928; d/d chosen = -beta sigmoid(-2) / 4
    chosen = t(-10, grad=True)
    loss = dpo_loss(
        chosen, t(-20), t(-12), t(-17), beta=2, normalise="tokens", chosen_tokens_P=t(4), rejected_tokens_P=t(6)
    )
    assert number(loss.value) == pytest.approx(0.126928, abs=1e-6)
    assert gradient(loss.value, chosen) == approx([-2 / (1 + math.exp(2)) / 4])
    assert loss.logs["chosen_change"] == 2  # changes are logged as sums, whatever the loss divides by


def test_dpo_with_nll_on_the_chosen() -> None:
    # .474077 + .5 * 10 / 4 = 1.724077; gradient on chosen gains -.5 / 4
    chosen = t(-10, grad=True)
    loss = dpo_loss(chosen, t(-20), t(-12), t(-17), nll_alpha=0.5, chosen_tokens_P=t(4))
    assert number(loss.value) == pytest.approx(1.724077, abs=1e-6)
    assert loss.logs["nll"] == 2.5
    assert loss.logs["preference"] == pytest.approx(0.474077, abs=1e-6)
    assert gradient(loss.value, chosen) == approx([-0.1 / (1 + math.exp(0.5)) - 0.125])


def test_dpo_gradient_flows_into_the_policy_only() -> None:
    ref = t(-12, grad=True)
    loss = dpo_loss(t(-10, grad=True), t(-20), ref, t(-17))
    assert list(torch.autograd.grad(loss.value, ref, allow_unused=True)) == [None]


def test_shared_prefix_terms_cancel_in_the_gradient_of_a_pair() -> None:
    # positions: a (shared), b (chosen), c (rejected); a stands once per owner
    shared, own = t(-1, grad=True), t(-2, -3)
    sums = sequence_sums(torch.cat([shared, own[:1], shared, own[1:]]), ints(0, 0, 1, 1), 2)
    loss = dpo_loss(sums[:1], sums[1:], t(-3), t(-4))
    assert gradient(loss.value, shared) == [0]


def test_dpo_survives_extreme_margins() -> None:
    chosen = t(0, -1e5, grad=True)
    loss = dpo_loss(chosen, t(-1e5, 0), t(0, 0), t(0, 0))
    assert number(loss.value) == approx(1e4 / 2)  # 0 and beta * 1e5
    assert gradient(loss.value, chosen) == approx([0, -0.05])


def test_hinge_by_hand() -> None:
    # h = 5, beta h = .5: 1 - .5 = .5, gradient -beta. With beta = .4 the margin of 2 is beyond 1: 0, and no gradient.
    chosen = t(-10, grad=True)
    loss = dpo_loss(chosen, t(-20), t(-12), t(-17), beta=0.1, variant="hinge")
    assert number(loss.value) == approx(0.5)
    assert gradient(loss.value, chosen) == approx([-0.1])
    loss = dpo_loss(chosen, t(-20), t(-12), t(-17), beta=0.4, variant="hinge")
    assert number(loss.value) == 0
    assert gradient(loss.value, chosen) == [0]


def test_label_smoothing_by_hand() -> None:
    # beta h = .5: L(h) = .474077, L(-h) = .974077. e = .1: conservative .9 * .474077 + .1 * .974077 = .524077;
    # robust (.9 * .474077 - .1 * .974077) / .8 = .411577
    sides = t(-10), t(-20), t(-12), t(-17)
    assert number(dpo_loss(*sides, label_smoothing=0.1).value) == pytest.approx(0.524077, abs=1e-6)
    robust = dpo_loss(*sides, variant="robust", label_smoothing=0.1)
    assert number(robust.value) == pytest.approx(0.411577, abs=1e-6)
    assert robust.logs["preference"] == pytest.approx(0.411577, abs=1e-6)
    assert number(dpo_loss(*sides, variant="robust").value) == approx(number(dpo_loss(*sides).value))


def test_robust_dpo_is_unbiased_under_wrong_labels() -> None:
    """With a share e of the pairs the wrong way round, its expectation is the plain loss on right ones (2403.00409)."""
    e, right = 0.2, (t(-10), t(-20), t(-12), t(-17))
    wrong = (right[1], right[0], right[3], right[2])
    seen = [number(dpo_loss(*sides, variant="robust", label_smoothing=e).value) for sides in (right, wrong)]
    assert (1 - e) * seen[0] + e * seen[1] == approx(number(dpo_loss(*right).value))


def test_smoothed_dpo_is_least_at_a_finite_margin() -> None:
    # sigmoid(beta h) = 1 - e: beta h = log 9 for e = .1, where the gradient is 0
    chosen = t(math.log(9) / 0.1, grad=True)
    loss = dpo_loss(chosen, t(0), t(0), t(0), label_smoothing=0.1)
    assert gradient(loss.value, chosen) == pytest.approx([0], abs=1e-12)


# --- SimPO, KTO, reward models -----------------------------------------------------------------------------------


def test_simpo_by_hand() -> None:
    # -10/4 = -2.5, -20/5 = -4: 2 * 1.5 = 3, less a target of 1: log(1 + e^-2) = .126928; slope -2 sigmoid(-2) / 4
    chosen = t(-10, grad=True)
    loss = simpo_loss(chosen, t(-20), t(4), t(5), beta=2, target=1)
    assert number(loss.value) == pytest.approx(0.126928, abs=1e-6)
    assert gradient(loss.value, chosen) == approx([-2 / (1 + math.exp(2)) / 4])
    assert loss.logs == {"preference": approx(number(loss.value)), "margin": 3, "accuracy": 1, "nll": 2.5}
    assert number(simpo_loss(chosen, t(-20), t(4), t(5), nll_alpha=0.2).value) == pytest.approx(0.626928, abs=1e-6)


def test_kto_by_hand() -> None:
    # beta (2 - 1) = .1: 1 - sigmoid(.1) = .475021. beta (1 - -3) = .4: 1 - sigmoid(.4) = .401312, twice; mean .638823
    changes = t(2, -3, grad=True)
    loss = kto_loss(changes, t(1, 0), 1.0, beta=0.1, bad_weight=2)
    assert number(loss.value) == pytest.approx(0.638823, abs=1e-6)
    slopes = [-0.1 * 0.475021 * 0.524979 / 2, 2 * 0.1 * 0.401312 * 0.598688 / 2]
    assert gradient(loss.value, changes) == pytest.approx(slopes, abs=1e-6)
    assert loss.logs == {"good_change": 1, "bad_change": -1.5, "good_share": 0.5, "accuracy": 1}
    parts = [kto_loss(changes[i : i + 1], t(1 - i), 1.0, beta=0.1, bad_weight=2, denominator=2) for i in (0, 1)]
    assert sum(number(part.value) for part in parts) == approx(number(loss.value))
    assert merge_logs(parts) == approx(loss.logs)


def test_bradley_terry_by_hand() -> None:
    # r_w - r_l = 2: log(1 + e^-2) = .126928; .01 (3 + 1)^2 = .16; slopes -sigmoid(-2) + .08, sigmoid(-2) + .08
    chosen, rejected = t(3, grad=True), t(1, grad=True)
    loss = reward_loss(chosen, rejected)
    assert number(loss.value) == pytest.approx(0.286928, abs=1e-6)
    assert gradient(loss.value, chosen) == pytest.approx([-0.119203 + 0.08], abs=1e-6)
    assert gradient(reward_loss(chosen, rejected).value, rejected) == pytest.approx([0.119203 + 0.08], abs=1e-6)
    assert loss.logs == {"preference": approx(math.log1p(math.exp(-2))), "margin": 2, "accuracy": 1, "reward_mean": 2}
    assert number(reward_loss(t(5), t(5), centre=0).value) == approx(math.log(2))


def test_preference_settings_that_cannot_be_meant_are_refused() -> None:
    sides = t(-1), t(-1), t(-1), t(-1)
    with pytest.raises(ConfigError, match="0 to below"):
        dpo_loss(*sides, variant="robust", label_smoothing=0.5)
    with pytest.raises(ConfigError, match="goes with sigmoid and robust"):
        dpo_loss(*sides, variant="ipo", label_smoothing=0.1)
    with pytest.raises(ConfigError, match="beta"):
        simpo_loss(t(-1), t(-1), t(1), t(1), beta=0)
    with pytest.raises(DataError, match="side without tokens"):
        simpo_loss(t(-1), t(-1), t(1), t(0))
    with pytest.raises(ConfigError, match="anchor"):
        kto_loss(t(1), t(1), -0.1)
    with pytest.raises(ConfigError, match="centre"):
        reward_loss(t(1), t(1), centre=math.nan)


# --- policy gradient ---------------------------------------------------------------------------------------------


def test_policy_gradient_is_reinforce_where_the_policy_has_not_moved() -> None:
    # r = 1: value = -(1*2 + 1*(-1) + 0) / 2 = -.5; gradient = -A / 2
    logps = t(-1, -2, -3, grad=True)
    loss = policy_gradient_loss(logps, None, t(2, -1, 5), t(1, 1, 0))
    assert number(loss.value) == -0.5
    assert gradient(loss.value, logps) == [-1, 0.5, 0]
    assert loss.logs == {
        "ratio_mean": 1,
        "ratio_min": 1,
        "ratio_max": 1,
        "clip_fraction": 0,
        "clip_low_fraction": 0,
        "clip_high_fraction": 0,
        "policy_kl": 0,
    }
    assert loss.weight == 2


def test_clipping_by_hand() -> None:
    # clip to [.8, 1.28]; r and A of five tokens:
    #   r 1.5   A  1   clipped above: min(1.5, 1.28) = 1.28, gradient 0
    #   r 1.5   A -1   not clipped: min(-1.5, -1.28) = -1.5, gradient of -r A = 1.5
    #   r  .5   A  1   not clipped: min(.5, .8) = .5, gradient -.5
    #   r  .5   A -1   clipped below: min(-.5, -.8) = -.8, gradient 0
    #   r 1.25  A  1   within: 1.25 (a symmetrical clip at 1.2 would have cut it: DAPO's clip-higher), gradient -1.25
    ratios = t(1.5, 1.5, 0.5, 0.5, 1.25)
    old = t(-1, -2, -3, -1, -2)
    logps = (old + ratios.log()).requires_grad_()
    loss = policy_gradient_loss(logps, old, t(1, -1, 1, -1, 1), t(1, 1, 1, 1, 1), clip_low=0.2, clip_high=0.28)
    assert number(loss.value) == approx(-(1.28 - 1.5 + 0.5 - 0.8 + 1.25) / 5)
    assert gradient(loss.value, logps) == approx([0, 1.5 / 5, -0.5 / 5, 0, -1.25 / 5])
    assert loss.logs["clip_fraction"] == approx(0.4)
    assert loss.logs["clip_low_fraction"] == approx(0.2)
    assert loss.logs["clip_high_fraction"] == approx(0.2)
    assert loss.logs["ratio_mean"] == approx(5.25 / 5)
    assert (loss.logs["ratio_min"], loss.logs["ratio_max"]) == (approx(0.5), approx(1.5))
    # k3 of KL(old || now): (r - 1) - log r
    assert loss.logs["policy_kl"] == approx(sum(r - 1 - math.log(r) for r in ratios.tolist()) / 5)


def test_extremes_ignore_masked_positions() -> None:
    loss = policy_gradient_loss(t(-1, -1), t(-1 - math.log(2), -9), t(1, 1), t(1, 0))
    assert (loss.logs["ratio_min"], loss.logs["ratio_max"]) == (approx(2), approx(2))


def test_aggregations_by_hand() -> None:
    # trajectory 0 has 1 token, trajectory 1 has 3, trajectory 2 none; r = 1, so l = -A = -4, +1, +1, +1
    logps, owner = t(-1, -1, -1, -1, -1, grad=True), ints(0, 1, 1, 1, 2)
    advantages, weights = t(4, -1, -1, -1, 9), t(1, 1, 1, 1, 0)

    def value(**kwargs: Any) -> Loss:
        return policy_gradient_loss(logps, None, advantages, weights, owner_N=owner, **kwargs)

    assert number(value().value) == -0.25  # (-4 + 3) / 4 tokens
    assert number(value(aggregation="constant", denominator=10).value) == approx(-0.1)  # (-4 + 3) / 10
    assert number(value(aggregation="sequence-mean").value) == approx(-1.5)  # (-4/1 + 3/3) / 2 trajectories
    assert number(value(aggregation="sequence-mean", denominator=3).value) == approx(-1)
    # the length bias: a token of the long failure weighs a third of a token of the short success
    grads = gradient(value(aggregation="sequence-mean").value, logps)
    assert grads == approx([-4 / 2, 1 / 6, 1 / 6, 1 / 6, 0])


def test_truncated_importance_sampling_by_hand() -> None:
    # pi_old / pi_sampler = 1.5, 3, .5; capped at 2: 1.5, 2, .5; A = 1 and r = 1: value = -(1.5 + 2 + .5) / 3
    logps = t(-1, -1, -1, grad=True)
    sampler = t(-1, -1, -1) - t(1.5, 3, 0.5).log()
    args = logps, logps.detach(), t(1, 1, 1), t(1, 1, 1)
    loss = policy_gradient_loss(*args, sampler_logps_N=sampler)
    assert number(loss.value) == approx(-4 / 3)
    assert gradient(loss.value, logps) == approx([-0.5, -2 / 3, -1 / 6])
    assert loss.logs["tis_fraction"] == approx(1 / 3)
    assert loss.logs["mismatch_ratio_max"] == approx(3)
    assert loss.logs["mismatch_kl"] == approx(sum(r - 1 - math.log(r) for r in (1.5, 3, 0.5)) / 3)
    # masking: the second token is left out, the divisor stays
    masked = policy_gradient_loss(*args, sampler_logps_N=sampler, mismatch="mask")
    assert gradient(masked.value, logps) == approx([-0.5, 0, -1 / 6])
    # measured only
    off = policy_gradient_loss(*args, sampler_logps_N=sampler, tis_cap=None)
    assert number(off.value) == approx(-1)
    assert "tis_fraction" not in off.logs
    assert off.logs["mismatch_kl"] == loss.logs["mismatch_kl"]


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_policy_gradient_equals_the_papers_formula_token_by_token(seed: int) -> None:
    make = torch.Generator().manual_seed(seed)
    now, old, sampler, advantage = (
        torch.randn(20, generator=make, dtype=torch.float64).mul(s) for s in (0.5, 0.5, 0.5, 1)
    )
    weights = (torch.rand(20, generator=make) < 0.7).double()
    weights[0] = 1
    low, high, cap = 0.2, 0.28, 2.0
    total, tokens = 0.0, 0.0
    for i in range(20):
        if weights[i]:
            r = math.exp(now[i] - old[i])
            a = advantage[i].item()
            surrogate = min(r * a, max(min(r, 1 + high), 1 - low) * a)
            total += -min(math.exp(old[i] - sampler[i]), cap) * surrogate
            tokens += 1
    loss = policy_gradient_loss(
        now, old, advantage, weights, clip_low=low, clip_high=high, sampler_logps_N=sampler, tis_cap=cap
    )
    assert number(loss.value) == approx(total / tokens)


def test_sampler_and_policy_that_left_each_other_stay_finite() -> None:
    logps = t(-1, -900, grad=True)
    loss = policy_gradient_loss(logps, t(-900, -1), t(-1, -1), t(1, 1), sampler_logps_N=t(-1, -900))
    assert math.isfinite(number(loss.value))
    assert all(math.isfinite(g) for g in gradient(loss.value, logps))
    assert all(math.isfinite(value) for value in loss.logs.values())


def test_no_gradient_into_old_sampler_or_advantages() -> None:
    old, sampler, advantages = (t(-1, grad=True) for _ in range(3))
    loss = policy_gradient_loss(t(-1, grad=True), old, advantages, t(1), sampler_logps_N=sampler)
    assert list(torch.autograd.grad(loss.value, [old, sampler, advantages], allow_unused=True)) == [None] * 3


# --- KL ----------------------------------------------------------------------------------------------------------

# One token from a vocabulary of three: expectations are sums, so estimators can be checked exactly.
LOGITS, REF, OLD = (0.3, -0.5, 1.1), (1.0, 0.2, -0.4), (-0.2, 0.4, 0.5)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum()


def test_estimators_by_hand_and_in_expectation() -> None:
    # log p = -1, log q = -1.5: k1 = .5, k2 = .125, k3 = e^-.5 - 1 + .5 = .106531
    assert number(k1(t(-1), t(-1.5))) == 0.5
    assert number(k2(t(-1), t(-1.5))) == 0.125
    assert number(k3(t(-1), t(-1.5))) == pytest.approx(0.106531, abs=1e-6)
    p, q = t(*LOGITS).log_softmax(0), t(*REF).log_softmax(0)
    kl = number(exact_kl(p, q))
    assert number((p.exp() * k1(p, q)).sum()) == approx(kl)
    assert number((p.exp() * k3(p, q)).sum()) == approx(kl)
    assert abs(number((p.exp() * k2(p, q)).sum()) - kl) > 0.01  # biased, as documented


def expected_gradient(loss_V: Tensor, sampled_from: Tensor, logits: Tensor) -> list[float]:
    """Mean over samples of the gradient of each one's loss: the sampling itself is not differentiated."""
    return gradient((sampled_from.detach().exp() * loss_V).sum(), logits)


@pytest.mark.parametrize("estimator", ["k2", "k3-ratio"])
@pytest.mark.parametrize("on_policy", [True, False])
def test_the_expected_gradient_of_kl_loss_is_that_of_kl(estimator: str, on_policy: bool) -> None:
    logits = t(*LOGITS, grad=True)
    p, ref = logits.log_softmax(0), t(*REF).log_softmax(0)
    old = p.detach() if on_policy else t(*OLD).log_softmax(0)
    # weights = probability of being sampled: the weighted loss over the vocabulary is the expectation
    loss = kl_loss(p, ref, old.exp(), estimator=estimator, old_logps_N=None if on_policy else old)  # type: ignore[arg-type]
    assert gradient(loss.value, logits) == approx(gradient(exact_kl(logits.log_softmax(0), ref), logits))
    if estimator == "k3-ratio":  # the value is unbiased too, off-policy included
        assert number(loss.value) == approx(number(exact_kl(p, ref)))


def test_k1_and_k3_alone_are_wrong_losses() -> None:
    logits = t(*LOGITS, grad=True)
    ref = t(*REF).log_softmax(0)
    right = gradient(exact_kl(logits.log_softmax(0), ref), logits)
    p = logits.log_softmax(0)
    assert expected_gradient(k1(p, ref), p, logits) == approx([0, 0, 0])
    p = logits.log_softmax(0)
    of_k3 = expected_gradient(k3(p, ref), p, logits)
    assert max(abs(a - b) for a, b in zip(of_k3, right, strict=True)) > 0.01
    assert of_k3 == approx(gradient(exact_kl(ref, logits.log_softmax(0)), logits))  # that of the other direction


def test_both_kl_losses_have_the_same_gradient_on_every_token() -> None:
    logps = t(-1, -2, -3, grad=True)
    args = logps, t(-1.5, -1, -3), t(1, 2, 1)
    old = t(-1.2, -2.2, -2.5)
    a, b = (gradient(kl_loss(*args, estimator=name, old_logps_N=old).value, logps) for name in ("k2", "k3-ratio"))
    # r d w / sum(w): e^.2 * .5 / 4, e^.2 * -1 * 2 / 4, 0
    assert a == approx([math.exp(0.2) * 0.5 / 4, -math.exp(0.2) * 0.5, 0])
    assert b == approx(a)


def test_kl_logs() -> None:
    loss = kl_loss(t(-1, -1), t(-1.5, -1), t(1, 3))
    assert loss.logs == {"kl_k1": approx(0.125), "kl_k3": approx((math.exp(-0.5) - 0.5) / 4)}
    assert number(loss.value) == approx(0.125 / 4)


# --- entropy -----------------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    # uniform over 4: log 4; certain: 0; (1/2, 1/4, 1/4): 1.5 log 2; two forbidden of four: log 2
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0, -INF], [7.0, 7.0, -INF, -INF]],
        dtype=torch.float64,
        requires_grad=True,
    )
    rows = entropy(logits)
    assert rows.tolist() == approx([math.log(4), 0, 1.5 * math.log(2), math.log(2)])
    (grad,) = torch.autograd.grad(rows.sum(), logits)
    assert bool(grad.isfinite().all())
    # dH/dz_i = -p_i (log p_i + H): third row, first logit: -1/2 (-log 2 + 1.5 log 2)
    assert number(grad[2, 0]) == approx(-0.25 * math.log(2))


def test_entropy_equals_torch_distributions() -> None:
    torch.manual_seed(2)
    logits = torch.randn(6, 9, dtype=torch.float64) * 3
    reference = torch.distributions.Categorical(logits=logits).entropy()  # type: ignore[no-untyped-call]
    assert entropy(logits).tolist() == approx(reference.tolist())


# --- refusals ----------------------------------------------------------------------------------------------------


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to learn from"):
        sft_loss(t(-1), t(0))
    with pytest.raises(DataError, match="nothing to learn from"):
        dpo_loss(t(), t(), t(), t())


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (math.nan, 1.0), (INF, 1.0)])
def test_weights_that_cannot_be_meant_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="weights must be finite and not negative"):
        sft_loss(t(-1, -1), t(*weights))


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'logps_N': \(2, 1\)"):
        sft_loss(t(-1, -1)[:, None], t(1, 1))
    with pytest.raises(ConfigError, match="flat tensors of one length"):
        policy_gradient_loss(t(-1, -1), None, t(1), t(1, 1))
    with pytest.raises(ConfigError, match="flat tensors of one length"):
        dpo_loss(t(-1, -1), t(-1), t(-1), t(-1))


def test_settings_that_cannot_be_meant_are_refused() -> None:
    one = t(-1), None, t(1), t(1)
    with pytest.raises(UnknownName, match="Did you mean 'token-mean'"):
        policy_gradient_loss(*one, aggregation="token_mean")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="mismatch rule"):
        policy_gradient_loss(*one, mismatch="drop")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="KL estimator"):
        kl_loss(t(-1), t(-1), t(1), estimator="k3")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="DPO variant"):
        dpo_loss(t(-1), t(-1), t(-1), t(-1), variant="exo")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a denominator"):
        policy_gradient_loss(*one, aggregation="constant")
    with pytest.raises(ConfigError, match="needs owner_N"):
        policy_gradient_loss(*one, aggregation="sequence-mean")
    with pytest.raises(ConfigError, match="not negative"):
        policy_gradient_loss(*one, clip_low=-0.1)
    with pytest.raises(ConfigError, match="tis_cap"):
        policy_gradient_loss(*one, tis_cap=0)
    with pytest.raises(ConfigError, match="denominator"):
        sft_loss(t(-1), t(1), denominator=0)
    with pytest.raises(ConfigError, match="beta"):
        dpo_loss(t(-1), t(-1), t(-1), t(-1), beta=0)
    with pytest.raises(ConfigError, match="chosen_tokens_P and rejected_tokens_P"):
        dpo_loss(t(-1), t(-1), t(-1), t(-1), normalise="tokens")
    with pytest.raises(ConfigError, match="nll_alpha needs"):
        dpo_loss(t(-1), t(-1), t(-1), t(-1), nll_alpha=1)
    with pytest.raises(DataError, match="side without tokens"):
        dpo_loss(t(-1), t(-1), t(-1), t(-1), nll_alpha=1, chosen_tokens_P=t(0))
