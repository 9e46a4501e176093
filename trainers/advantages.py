"""From rewards to advantages: pure functions on plain floats. No tensors, no model, no batch.

Defines `Estimator`, `group_advantages`, `has_signal`; `Gae`, `gae`.

A group is n trajectories of one task under one fault seed; one advantage per trajectory is stamped on all its sampled
tokens. Groups without signal are dropped before the forward pass, and replaced: ask `has_signal`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..trajectories.errors import ConfigError, DataError, UnknownName

__all__ = ["Estimator", "Gae", "gae", "group_advantages", "has_signal"]

Estimator = Literal["grpo", "dr_grpo", "rloo"]


def has_signal(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards differ, so that it can teach anything.

    By equality, not by a comparison with the mean: three rewards of 0.1 have a floating-point mean of
    0.10000000000000002, and would pass for a group with signal. Raises `DataError` for rewards that are not finite.
    """
    _finite(rewards)
    return any(reward != rewards[0] for reward in rewards)


def group_advantages(
    rewards: Sequence[float], estimator: Estimator = "grpo", *, eps: float = 1e-4
) -> tuple[float, ...]:
    """One advantage per trajectory of one group, relative to the others of that group.

        grpo      (R - mean) / (std + eps)              2402.03300; std of the sample (n - 1), as TRL and verl take it
        dr_grpo   R - mean                              2503.20783; goes with the constant divisor in the loss
        rloo      R - mean of the others                2402.14740; equals n / (n - 1) * dr_grpo

    `eps` keeps rounding dust in rewards (0.1 + 0.2 against 0.3) from being blown up to advantages of 1. Rewards that
    are all equal give exact zeros. Raises `DataError` for a group of one, which has nothing to be relative to, and for
    rewards that are not finite; `UnknownName` for an estimator that is none.
    """
    if estimator not in get_args(Estimator):
        raise UnknownName("advantage estimator", estimator, get_args(Estimator))
    n = len(rewards)
    if n < 2:
        raise DataError(f"a group needs two trajectories or more to compare, got {n}: raise the group size")
    if not has_signal(rewards):
        return (0.0,) * n
    mean = math.fsum(rewards) / n
    centred = [reward - mean for reward in rewards]
    if estimator == "dr_grpo":
        return tuple(centred)
    if estimator == "rloo":
        return tuple(n / (n - 1) * c for c in centred)
    std = math.sqrt(math.fsum(c * c for c in centred) / (n - 1))
    return tuple(c / (std + eps) for c in centred)


@dataclass(frozen=True, slots=True)
class Gae:
    """Per token, aligned with the input; 0.0 wherever the policy did not sample."""

    advantages: tuple[float, ...]
    returns: tuple[float, ...]
    """Targets of the value head: advantage + value."""


def gae(
    rewards: Sequence[float],
    values: Sequence[float],
    mask: Sequence[int],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: float = 0.0,
) -> Gae:
    """Generalised advantage estimation (1506.02438, eq. 16) over the *sampled* tokens of one trajectory.

        delta_t = r_t + gamma V_next - V_t,    A_t = delta_t + gamma lam A_next

    where "next" is the next token with mask 1: tool output in between is no decision, so it neither discounts nor has a
    value of its own. Three lines, with a tool's answer in the middle (mask 0; its value, 9, is never read):

        mask     1    0    1          gamma = lam = 1, terminal reward on the last sampled token
        reward   0    0    1          A_2 = 1 - .6 = .4
        value    .5   9    .6         A_0 = (0 + .6 - .5) + .4 = .5

    `bootstrap` is the value after the last sampled token: 0 for an episode that terminated, the value head's estimate
    for one that was cut off. Raises `DataError` for lengths that differ, and for a reward on a token that the policy
    did not sample, which would be lost in silence: put the terminal reward on the last sampled token.
    """
    if not len(rewards) == len(values) == len(mask):
        raise DataError(f"must align: {len(rewards)} rewards, {len(values)} values, {len(mask)} mask")
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ConfigError(f"gamma and lam lie within 0..1, got {gamma} and {lam}")
    _finite(rewards)
    advantages = [0.0] * len(rewards)
    returns = [0.0] * len(rewards)
    next_value, next_advantage = bootstrap, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        if not mask[t]:
            if rewards[t] != 0:
                raise DataError(f"a reward of {rewards[t]} at token {t}, which the policy did not sample")
            continue
        delta = rewards[t] + gamma * next_value - values[t]
        next_value, next_advantage = values[t], delta + gamma * lam * next_advantage
        advantages[t] = next_advantage
        returns[t] = next_advantage + values[t]
    return Gae(tuple(advantages), tuple(returns))


def _finite(rewards: Sequence[float]) -> None:
    for i, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise DataError(f"reward {i} is {reward}: an episode that could not be judged has no reward; leave it out")
