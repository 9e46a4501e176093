"""Losses: pure functions on flat tensors. No model, no batch building, no optimiser; torch only.

Defines `Loss`, `merge_logs`, `weighted_mean`, `sequence_sums`; the objectives `sft_loss`, `dpo_loss`,
`policy_gradient_loss`, `kl_loss`; the estimators `k1`, `k2`, `k3`, and `entropy`.

Shapes are in the names. N: weighted positions of a batch. B: its trajectories. P: its pairs. V: the vocabulary.
`logps_N` holds log-probabilities in nats, `owner_N` (int64) the trajectory 0..B-1 that a position belongs to, and
`weights_N` its weight, 0 or more. Where trajectories share a prefix a position stands once per owner:

    tokens      a b c d        trajectory 0 = a b c,  trajectory 1 = a b d,  all four sampled
    logps_N     a b c a b d    from one computation of a and b
    owner_N     0 0 0 1 1 1

Positions of weight 0 never matter, not even where their value is infinite or NaN, and get a gradient of exactly 0.
Everything is computed in float32, or in float64 where the inputs are.

**Accumulation.** `denominator` is the divisor of the *whole* step: the total over all of its micro-batches of tokens,
pairs or trajectories (each function says which). Then the micro-batches' values and gradients add up to those of one
big batch, however unequal they are. Under DDP, which averages gradients over R ranks, pass the total of all ranks
divided by R. Without it a batch is divided by its own total.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..trajectories.errors import ConfigError, DataError, UnknownName

__all__ = [
    "Aggregation",
    "Loss",
    "dpo_loss",
    "entropy",
    "k1",
    "k2",
    "k3",
    "kl_loss",
    "merge_logs",
    "policy_gradient_loss",
    "sequence_sums",
    "sft_loss",
    "weighted_mean",
]

Aggregation = Literal["token-mean", "constant", "sequence-mean"]
DpoVariant = Literal["sigmoid", "ipo"]
Normalise = Literal["sum", "tokens"]
Mismatch = Literal["truncate", "mask"]
KlEstimator = Literal["k2", "k3-ratio"]

_LOG_RATIO_LIMIT = 20.0
"""exp(20) = 5e8: beyond it a ratio carries no information, and exp would overflow to inf and then NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What a loss came to on one micro-batch."""

    value: Tensor
    """(), to call `backward` on; already divided by the step's denominator, so micro-batches add up."""
    logs: dict[str, float] = field(default_factory=dict)
    """Means over this micro-batch (`*_max`, `*_min`: extremes), to be combined by `merge_logs`."""
    weight: float = 0.0
    """What the means are over: total token weight, or the number of pairs."""
    part: str = "policy"
    """Which part of the step's loss it is: the objective's own, or that of what is replayed next to it ("replay")."""


def merge_logs(losses: Sequence[Loss]) -> dict[str, float]:
    """The logs of one step from those of its micro-batches: means by weight; `*_max` and `*_min` by extreme."""
    counted = [loss for loss in losses if loss.weight > 0]  # a micro-batch without weight has nothing to say
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for loss in counted for name in loss.logs):
        have = [(loss.logs[name], loss.weight) for loss in counted if name in loss.logs]
        if name.endswith("_max"):
            out[name] = max(value for value, _ in have)
        elif name.endswith("_min"):
            out[name] = min(value for value, _ in have)
        else:
            out[name] = math.fsum(value * weight for value, weight in have) / math.fsum(weight for _, weight in have)
    return out


def weighted_mean(values_N: Tensor, weights_N: Tensor, *, denominator: float | None = None) -> Tensor:
    """sum(w * value) / sum(w), or / `denominator`: the token mean under accumulation. Returns ().

    Raises `DataError` where all weights are 0 and no denominator is given.
    """
    weights_N, weight = _weights(weights_N, values_N=values_N)
    return (weights_N * _kept(values_N, weights_N)).sum() / _divisor(denominator, weight)


def sequence_sums(values_N: Tensor, owner_N: Tensor, n: int, *, weights_N: Tensor | None = None) -> Tensor:
    """Sums of `values_N` (times `weights_N`) per trajectory: (n,). A trajectory without positions has 0.

    With sampled log-probabilities this is log pi(trajectory): the sum, not the mean, that DPO is about. Turn weights of
    DMPO (2406.14868) go into `weights_N`.
    """
    values_N = _wide(values_N)
    if weights_N is not None:
        weights_N, _ = _weights(weights_N, values_N=values_N, owner_N=owner_N)
        values_N = weights_N * _kept(values_N, weights_N)
    else:
        _aligned(values_N=values_N, owner_N=owner_N)
    return values_N.new_zeros(n).index_add(0, owner_N, values_N)


def sft_loss(logps_N: Tensor, weights_N: Tensor, *, denominator: float | None = None, weight: float = 1.0) -> Loss:
    """Masked cross-entropy: sum(-w log p) / sum(w).

    Args:
        logps_N: log-probability of each target token under the policy.
        weights_N: 1 to learn the token, 0 for context, anything between to learn it less.
        denominator: total weight of *all* micro-batches of the step.
        weight: of this loss among the others of the step.

    Logs: `nll` (nats per unit of weight). Raises `DataError` where there is nothing to learn and no denominator.
    """
    weights_N, own = _weights(weights_N, logps_N=logps_N)
    nll_N = -_kept(logps_N, weights_N)
    total = (weights_N * nll_N).sum()
    return Loss(total / _divisor(denominator, own, weight), _logs(nll=_mean(nll_N, weights_N, own)), own)


def dpo_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    ref_chosen_P: Tensor,
    ref_rejected_P: Tensor,
    *,
    beta: float = 0.1,
    variant: DpoVariant = "sigmoid",
    normalise: Normalise = "sum",
    nll_alpha: float = 0.0,
    chosen_tokens_P: Tensor | None = None,
    rejected_tokens_P: Tensor | None = None,
    denominator: float | None = None,
) -> Loss:
    """Direct preference optimisation over pairs, from summed log-probabilities of sampled tokens.

    With Delta = log pi - log ref of a side, and h = Delta(chosen) - Delta(rejected):

        sigmoid   -log sigmoid(beta h)                     2305.18290; gradient on chosen: -beta sigmoid(-beta h)
        ipo       (h - 1 / (2 beta))^2                     2310.12036
        + nll     nll_alpha * -log pi(chosen) / |chosen|   2404.19733, against likelihood displacement

    Args:
        chosen_P, rejected_P: the policy's sums (`sequence_sums`); for step pairs, over positions after the fork only.
        ref_chosen_P, ref_rejected_P: the reference's sums over the same positions; no gradient flows into them.
        beta: for `normalise="sum"` about 0.1; for "tokens" larger by about the number of tokens of a side.
        normalise: "sum" is DPO and IPO as published. "tokens" divides each side's Delta by its own token weight before
            the difference: length-normalised DPO, and for IPO the per-token form that other libraries train.
        nll_alpha: weight of the chosen side's cross-entropy per token; 0 leaves it out.
        chosen_tokens_P, rejected_tokens_P: token weight of each side, needed by "tokens" and (chosen) by `nll_alpha`.
        denominator: number of pairs in *all* micro-batches of the step.

    Logs: `preference` (the loss without NLL), `margin` (beta h), `accuracy` (share with h > 0: a tie is no success),
    `chosen_change` and `rejected_change` (Delta of each side, summed over its tokens; nats), `displaced` (share of
    pairs in which both fell: likelihood displacement, 2410.08847), `nll` (per token; only where lengths are given).

    Raises `ConfigError` for settings that cannot be meant, `DataError` for a side of length 0.
    """
    _known("DPO variant", variant, DpoVariant)
    _known("normalisation", normalise, Normalise)
    if not beta > 0:
        raise ConfigError(f"beta must be above 0, got {beta}")
    _aligned(
        chosen_P=chosen_P,
        rejected_P=rejected_P,
        ref_chosen_P=ref_chosen_P,
        ref_rejected_P=ref_rejected_P,
        chosen_tokens_P=chosen_tokens_P,
        rejected_tokens_P=rejected_tokens_P,
    )
    chosen_P, rejected_P = _wide(chosen_P), _wide(rejected_P)
    chosen_change_P = chosen_P - _wide(ref_chosen_P).detach()
    rejected_change_P = rejected_P - _wide(ref_rejected_P).detach()
    if normalise == "tokens":
        if chosen_tokens_P is None or rejected_tokens_P is None:
            raise ConfigError("normalise='tokens' needs chosen_tokens_P and rejected_tokens_P")
        h_P = chosen_change_P / _lengths(chosen_tokens_P) - rejected_change_P / _lengths(rejected_tokens_P)
    else:
        h_P = chosen_change_P - rejected_change_P
    loss_P = -F.logsigmoid(beta * h_P) if variant == "sigmoid" else (h_P - 1 / (2 * beta)) ** 2
    logs = {
        "preference": loss_P,
        "margin": beta * h_P,
        "accuracy": h_P > 0,
        "chosen_change": chosen_change_P,
        "rejected_change": rejected_change_P,
        "displaced": (chosen_change_P < 0) & (rejected_change_P < 0),
    }
    if chosen_tokens_P is not None:
        logs["nll"] = -chosen_P / _lengths(chosen_tokens_P)
    if nll_alpha:
        if chosen_tokens_P is None:
            raise ConfigError("nll_alpha needs chosen_tokens_P: the term is per token of the chosen side")
        loss_P = loss_P + nll_alpha * logs["nll"]
    pairs = float(chosen_P.numel())
    means = {name: value.to(chosen_P.dtype).sum() / max(pairs, 1.0) for name, value in logs.items()}
    return Loss(loss_P.sum() / _divisor(denominator, pairs), _logs(**means), pairs)


def policy_gradient_loss(
    logps_N: Tensor,
    old_logps_N: Tensor | None,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    aggregation: Aggregation = "token-mean",
    owner_N: Tensor | None = None,
    sampler_logps_N: Tensor | None = None,
    tis_cap: float | None = 2.0,
    mismatch: Mismatch = "truncate",
    denominator: float | None = None,
) -> Loss:
    """The clipped surrogate of PPO (1707.06347, eq. 7) and GRPO (2402.03300), per token, to be minimised:

        -tis * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old

    with DAPO's higher upper bound (2503.14476) and, where the sampler's own log-probabilities are given, the factor
    tis = min(pi_old / pi_sampler, tis_cap), without gradient. Sampler and trainer are different programs: the same
    weights give slightly different probabilities, so pi_old as the *trainer* computes it is not what the tokens were
    drawn from.

    Args:
        logps_N: the policy now; gradients flow into it alone.
        old_logps_N: the policy that sampled, as the trainer computes it. None: the policy now (one optimiser step per
            batch), so r = 1, and the gradient is that of REINFORCE.
        advantages_N: the owner's advantage at each of its positions (`advantages_B[owner_N]`), or one per token.
        weights_N: 1 on sampled tokens, else 0.
        clip_low, clip_high: distance of the bounds from 1; `math.inf` as clip_high never clips above.
        aggregation: how tokens become one number.
            token-mean: sum(w l) / tokens of the step (DAPO).
            constant: sum(w l) / `denominator`, which is required: trajectories x token limit in Dr.GRPO (2503.20783).
            sequence-mean: each trajectory's own token mean, then / trajectories of the step (GRPO as published). It
                under-penalises long failures. Needs `owner_N`, and every trajectory whole within one micro-batch.
        owner_N: needed by sequence-mean only.
        sampler_logps_N: from the engine that sampled (`Tokens.logprobs`). None: no correction.
        tis_cap: C of truncated importance sampling; None: measure the mismatch, correct nothing.
        mismatch: "truncate" caps the factor at C; "mask" drops tokens above C from the sum, not from the denominator.
        denominator: tokens (token-mean), the constant, or trajectories (sequence-mean) of the *whole* step.

    Logs, means over token weight: `ratio_mean|min|max` (r); `clip_fraction` (tokens that the clip leaves without
    gradient), of these `clip_low_fraction` and `clip_high_fraction`; `policy_kl` (k3 of KL(old || now)); with sampler
    log-probabilities also `mismatch_kl` (k3 of KL(sampler || trainer)), `mismatch_ratio_max` and `tis_fraction` (tokens
    beyond the cap).
    """
    _known("aggregation", aggregation, Aggregation)
    _known("mismatch rule", mismatch, Mismatch)
    if clip_low < 0 or clip_high < 0:
        raise ConfigError(f"clip_low and clip_high are distances from 1 and not negative: got {clip_low}, {clip_high}")
    if tis_cap is not None and not tis_cap > 0:
        raise ConfigError(f"tis_cap must be above 0 (None turns it off), got {tis_cap}")
    weights_N, weight = _weights(
        weights_N,
        logps_N=logps_N,
        old_logps_N=old_logps_N,
        advantages_N=advantages_N,
        owner_N=owner_N,
        sampler_logps_N=sampler_logps_N,
    )
    logps_N = _kept(logps_N, weights_N)
    advantages_N = _kept(advantages_N, weights_N).detach()
    old_N = (logps_N if old_logps_N is None else _kept(old_logps_N, weights_N)).detach()

    log_ratio_N = (logps_N - old_N).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss_N = -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)

    seen_N = ratio_N.detach()
    low_N = (seen_N < 1 - clip_low) & (advantages_N < 0)
    high_N = (seen_N > 1 + clip_high) & (advantages_N > 0)
    means = {
        "ratio_mean": seen_N,
        "clip_fraction": low_N | high_N,
        "clip_low_fraction": low_N,
        "clip_high_fraction": high_N,
        "policy_kl": k3(old_N, logps_N.detach()),
    }
    extremes = {}
    if weight > 0:  # else there is no position to have an extreme; masked ones hold r = 1, which bounds nothing here
        on_N = weights_N > 0
        extremes = {"ratio_min": seen_N[on_N].min(), "ratio_max": seen_N[on_N].max()}

    if sampler_logps_N is not None:
        sampler_N = _kept(sampler_logps_N, weights_N).detach()
        gap_N = (old_N - sampler_N).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()
        means["mismatch_kl"] = k3(sampler_N, old_N)
        if weight > 0:
            extremes["mismatch_ratio_max"] = gap_N[weights_N > 0].max()
        if tis_cap is not None:
            beyond_N = gap_N > tis_cap
            means["tis_fraction"] = beyond_N
            loss_N = loss_N * (gap_N.clamp(max=tis_cap) if mismatch == "truncate" else gap_N * ~beyond_N)

    coefficients_N = weights_N
    own = weight
    if aggregation == "sequence-mean":
        if owner_N is None:
            raise ConfigError("aggregation='sequence-mean' needs owner_N")
        n = int(owner_N.max()) + 1 if owner_N.numel() else 0
        totals_B = sequence_sums(weights_N, owner_N, n)
        coefficients_N = weights_N / torch.where(totals_B > 0, totals_B, 1.0)[owner_N]
        own = float((totals_B > 0).sum())
    elif aggregation == "constant" and denominator is None:
        raise ConfigError("aggregation='constant' needs a denominator: trajectories of the step x token limit, say")
    logs = _logs(**{name: _mean(_wide(value_N), weights_N, weight) for name, value_N in means.items()}, **extremes)
    return Loss((coefficients_N * loss_N).sum() / _divisor(denominator, own), logs, weight)


def kl_loss(
    logps_N: Tensor,
    ref_logps_N: Tensor,
    weights_N: Tensor,
    *,
    estimator: KlEstimator = "k2",
    old_logps_N: Tensor | None = None,
    denominator: float | None = None,
    weight: float = 1.0,
) -> Loss:
    """A penalty whose expected *gradient* is that of KL(pi || ref), over tokens that the policy sampled.

    An unbiased estimate of a value need not have an unbiased gradient, since the samples depend on pi too (2506.09477,
    2510.01555). With d = log pi - log ref, the gradient of KL(pi || ref) = E[d] is E[d grad log pi]. k1 as a loss has
    E[grad log pi] = 0: no penalty at all. k3 alone has E[(1 - ref / pi) grad log pi], the gradient of KL(ref || pi):
    another objective. These two are right, and have the same gradient on every token:

        k2         r.detach() * d^2 / 2      gradient r d grad log pi; as a value only close to KL
        k3-ratio   r * (ref / pi - 1 + d)    gradient r d grad log pi; as a value unbiased

    with r = pi / pi_old, which is 1 where `old_logps_N` is None (the tokens were sampled by the policy as it is now).
    To put KL into the reward instead, subtract `k1`.

    Args:
        logps_N, ref_logps_N: policy and reference; gradients flow into the first alone.
        weights_N: 1 on sampled tokens, else 0.
        estimator: k2 or k3-ratio, as above.
        old_logps_N: of the policy that sampled; None: the policy now.
        denominator: total weight of *all* micro-batches of the step.
        weight: of the penalty among the losses of the step.

    Logs: `kl_k1` and `kl_k3` (both unbiased for KL(pi || ref) where r = 1, nats per token).
    """
    _known("KL estimator", estimator, KlEstimator)
    weights_N, own = _weights(weights_N, logps_N=logps_N, ref_logps_N=ref_logps_N, old_logps_N=old_logps_N)
    logps_N = _kept(logps_N, weights_N)
    ref_N = _kept(ref_logps_N, weights_N).detach()
    old_N = (logps_N if old_logps_N is None else _kept(old_logps_N, weights_N)).detach()
    ratio_N = (logps_N - old_N).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()
    loss_N = ratio_N.detach() * k2(logps_N, ref_N) if estimator == "k2" else ratio_N * k3(logps_N, ref_N)
    seen_N = logps_N.detach()
    logs = _logs(
        kl_k1=_mean(k1(seen_N, ref_N), weights_N, own),
        kl_k3=_mean(k3(seen_N, ref_N), weights_N, own),
    )
    return Loss((weights_N * loss_N).sum() / _divisor(denominator, own, weight), logs, own)


# Estimators of KL(p || q) from samples of p, per sample; r = q / p. John Schulman, "Approximating KL divergence",
# http://joschu.net/blog/kl-approx.html. They estimate a *value*; what to differentiate is `kl_loss`.


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """-log r: unbiased, of high variance, often negative."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """(log r)^2 / 2: biased, but by little where p and q are close; never negative."""
    return (logps - ref_logps) ** 2 / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """(r - 1) - log r: unbiased, of low variance, never negative. log r above 20 counts as 20."""
    log_r = (ref_logps - logps).clamp(max=_LOG_RATIO_LIMIT)
    return torch.expm1(log_r) - log_r


def entropy(logits_N_V: Tensor) -> Tensor:
    """Entropy of each row's softmax: (N,), nats, from 0 to log V. Logits of -inf (forbidden tokens) count as p = 0."""
    logits_N_V = _wide(logits_N_V)
    log_z_N = logits_N_V.logsumexp(-1)
    p_N_V = (logits_N_V - log_z_N[:, None]).exp()
    # 0 * -inf is NaN, in the gradient too: put any finite number where p is 0.
    finite_N_V = torch.where(logits_N_V == -math.inf, 0.0, logits_N_V)
    return log_z_N - (p_N_V * finite_N_V).sum(-1)


def _wide(values: Tensor) -> Tensor:
    """At least float32: sums over thousands of bfloat16 log-probabilities lose all that a loss is about."""
    return values if values.dtype == torch.float64 else values.float()


def _kept(values_N: Tensor, weights_N: Tensor) -> Tensor:
    """The values, with 0 (and a gradient of 0) where the weight is 0."""
    return torch.where(weights_N != 0, _wide(values_N), 0.0)


def _aligned(**tensors: Tensor | None) -> None:
    """Broadcasting (N, 1) against (N,) would silently make (N, N)."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ConfigError(f"expected flat tensors of one length, got {shapes}")


def _weights(weights_N: Tensor, **others: Tensor | None) -> tuple[Tensor, float]:
    """The checked weights and their sum."""
    _aligned(weights_N=weights_N, **others)
    weights_N = _wide(weights_N).detach()
    if not weights_N.numel():
        return weights_N, 0.0
    total, least = torch.stack([weights_N.sum(), weights_N.min()]).tolist()  # one transfer from the device, not two
    if not (least >= 0 and math.isfinite(total)):
        raise DataError(f"weights must be finite and not negative, got a minimum of {least} and a sum of {total}")
    return weights_N, total


def _lengths(tokens_P: Tensor) -> Tensor:
    tokens_P = _wide(tokens_P).detach()
    if tokens_P.numel() and not tokens_P.min().item() > 0:
        raise DataError("a pair has a side without tokens to learn from: leave it out before the forward pass")
    return tokens_P


def _divisor(denominator: float | None, own: float, weight: float = 1.0) -> float:
    """What a sum is divided by, so that it becomes the mean of the step times `weight`."""
    if not (weight >= 0 and math.isfinite(weight)):
        raise ConfigError(f"a loss's weight must be finite and not negative, got {weight}")
    if weight == 0:
        return math.inf
    if denominator is None:
        if own == 0:
            raise DataError("nothing to learn from: every weight of the batch is 0 (give `denominator` to allow that)")
        return own / weight
    if not (denominator > 0 and math.isfinite(denominator)):
        raise ConfigError(f"denominator must be finite and above 0, got {denominator}")
    return float(denominator) / weight


def _mean(values_N: Tensor, weights_N: Tensor, weight: float) -> Tensor:
    return (weights_N * values_N.detach()).sum() / (weight or 1.0)


def _logs(**scalars: Tensor) -> dict[str, float]:
    """Python floats, by one transfer from the device."""
    values = torch.stack([value.detach() for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))


def _known(kind: str, name: str, choices: object) -> None:
    if name not in get_args(choices):
        raise UnknownName(kind, name, get_args(choices))
