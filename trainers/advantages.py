"""From rewards to advantages: pure functions on plain floats. No tensors, no model, no batch.

Defines `Estimator`, `group_advantages`, `lite_advantages`, `step_advantages`, `has_signal`; `Gae`, `gae`, `turn_gae`,
`bi_level_gae`.

A group is n trajectories of one task under one fault seed; one advantage per trajectory is stamped on all its sampled
tokens. Groups without signal are dropped before the forward pass, and replaced: ask `has_signal`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..trajectories.errors import ConfigError, DataError, UnknownName

__all__ = [
    "Estimator",
    "Gae",
    "bi_level_gae",
    "gae",
    "group_advantages",
    "has_signal",
    "lite_advantages",
    "step_advantages",
    "turn_gae",
]

Estimator = Literal["grpo", "dr_grpo", "rloo"]
"""Of those that look at one group alone."""


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


def lite_advantages(groups: Sequence[Sequence[float]], *, eps: float = 1e-4) -> list[tuple[float, ...]]:
    """Lite PPO (2508.08221): each reward less the mean of its group, over the std of all rewards of the batch.

    One std for all: a group in which nearly all succeed is not blown up against one that is evenly mixed. The std is
    that of the sample (n - 1). Raises as `group_advantages`.
    """
    centred = [group_advantages(group, "dr_grpo") for group in groups]
    rewards = [reward for group in groups for reward in group]
    if len(rewards) < 2:
        return centred
    mean = math.fsum(rewards) / len(rewards)
    std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [tuple(c / (std + eps) for c in group) for group in centred]


def step_advantages(
    rewards: Sequence[float], states: Sequence[Sequence[Hashable]], *, gamma: float = 0.95, eps: float = 1e-4
) -> list[tuple[float, ...]]:
    """GiGPO's second level (2505.10978): turns of a group that were taken in the same state, compared.

    Args:
        rewards: Of each trajectory of one group, at its end.
        states: Of each trajectory, the state before each of its turns.
        gamma: Discount of a turn: of two ways from a state to the same end the shorter one is better.
        eps: As in `group_advantages`.

    Turn k of K has the return gamma^(K - 1 - k) R. Its advantage is (return - mean) / (std + eps) over all turns of the
    group in its state, those of its own trajectory included; 0 where it is the only one. By hand, gamma = .5:

        trajectory 0   R 1   states a b      returns .5, 1
        trajectory 1   R 0   states a c      returns  0, 0      a: .5 against 0; b and c: alone

    Returns an advantage for each turn of each trajectory.
    """
    if not len(rewards) == len(states):
        raise DataError(f"must align: {len(rewards)} rewards, states of {len(states)} trajectories")
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma lies within 0..1, got {gamma}")
    _finite(rewards)
    anchors: dict[Hashable, list[tuple[int, int]]] = {}
    for i, mine in enumerate(states):
        for k, state in enumerate(mine):
            anchors.setdefault(state, []).append((i, k))
    out = [[0.0] * len(mine) for mine in states]
    for places in anchors.values():
        if len(places) < 2:
            continue
        returns = [gamma ** (len(states[i]) - 1 - k) * rewards[i] for i, k in places]
        for (i, k), advantage in zip(places, group_advantages(returns, "grpo", eps=eps), strict=True):
            out[i][k] = advantage
    return [tuple(mine) for mine in out]


@dataclass(frozen=True, slots=True)
class Gae:
    """Per token, aligned with the input; 0.0 wherever the policy did not sample."""

    advantages: tuple[float, ...]
    returns: tuple[float, ...]
    """Targets of the value head: advantage + value."""
    learned: tuple[float, ...]
    """1 where the return is a target of the value head, else 0."""


def gae(
    rewards: Sequence[float], values: Sequence[float], mask: Sequence[int], *, gamma: float = 1.0, lam: float = 0.95
) -> Gae:
    """Generalised advantage estimation (1506.02438, eq. 16) over the *sampled* tokens of one trajectory.

        delta_t = r_t + gamma V_next - V_t,    A_t = delta_t + gamma lam A_next

    where "next" is the next token with mask 1: tool output in between is no decision, so it neither discounts nor has a
    value of its own. Three lines, with a tool's answer in the middle (mask 0; its value, 9, is never read):

        mask     1    0    1          gamma = lam = 1, terminal reward on the last sampled token
        reward   0    0    1          A_2 = 1 - .6 = .4
        value    .5   9    .6         A_0 = (0 + .6 - .5) + .4 = .5

    An episode that was cut has no value after its end: the limit is a part of the task, and what it cost is its reward.
    Raises `DataError` for lengths that differ, and for a reward on a token that the policy did not sample, which would
    be lost in silence: put the terminal reward on the last sampled token.
    """
    if not len(rewards) == len(values) == len(mask):
        raise DataError(f"must align: {len(rewards)} rewards, {len(values)} values, {len(mask)} mask")
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ConfigError(f"gamma and lam lie within 0..1, got {gamma} and {lam}")
    _finite(rewards)
    advantages = [0.0] * len(rewards)
    returns = [0.0] * len(rewards)
    next_value, next_advantage = 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        if not mask[t]:
            if rewards[t] != 0:
                raise DataError(f"a reward of {rewards[t]} at token {t}, which the policy did not sample")
            continue
        delta = rewards[t] + gamma * next_value - values[t]
        next_value, next_advantage = values[t], delta + gamma * lam * next_advantage
        advantages[t] = next_advantage
        returns[t] = next_advantage + values[t]
    return Gae(tuple(advantages), tuple(returns), tuple(float(bool(m)) for m in mask))


def turn_gae(
    rewards: Sequence[float],
    values: Sequence[float],
    spans: Sequence[tuple[int, int]],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Gae:
    """GAE in which a turn is one action: every token of a turn has the turn's advantage.

    A turn's value is that at its first token, in the state in which the turn is decided. Only this one is learned.

    Args:
        rewards, values: Of each token of one trajectory.
        spans: [start, end) of each turn's sampled tokens, in order. A turn without tokens is left out.
        gamma, lam: Of a turn.

    Raises as `gae`: a reward has to be within a span.
    """
    spans, mask = _turns(rewards, values, spans)
    each = gae(
        [math.fsum(rewards[a:b]) for a, b in spans],
        [values[a] for a, _ in spans],
        [1] * len(spans),
        gamma=gamma,
        lam=lam,
    )
    advantages, returns, learned = ([0.0] * len(mask) for _ in range(3))
    for (a, b), advantage, target in zip(spans, each.advantages, each.returns, strict=True):
        advantages[a:b] = [advantage] * (b - a)
        returns[a], learned[a] = target, 1.0
    return Gae(tuple(advantages), tuple(returns), tuple(learned))


def bi_level_gae(
    rewards: Sequence[float],
    values: Sequence[float],
    spans: Sequence[tuple[int, int]],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    turn_gamma: float = 1.0,
    turn_lam: float = 0.95,
) -> Gae:
    """Bi-level GAE (VAGEN, 2510.16907): over turns first, then over the tokens of each turn.

    A turn's value is that at its last token. Its advantage over turns plus this value is the reward at the turn's last
    token, from which GAE runs back over the turn's own tokens. So the last token has the turn's advantage, and credit
    within a turn does not fade over the turns that follow.

    Args:
        rewards, values: Of each token of one trajectory.
        spans: [start, end) of each turn's sampled tokens, in order. A turn without tokens is left out.
        gamma, lam: Of a token within its turn.
        turn_gamma, turn_lam: Of a turn.

    Raises as `gae`: a reward has to be within a span.
    """
    spans, mask = _turns(rewards, values, spans)
    each = gae(
        [math.fsum(rewards[a:b]) for a, b in spans],
        [values[b - 1] for _, b in spans],
        [1] * len(spans),
        gamma=turn_gamma,
        lam=turn_lam,
    )
    advantages, returns = [0.0] * len(mask), [0.0] * len(mask)
    for (a, b), target in zip(spans, each.returns, strict=True):
        own = gae([*[0.0] * (b - a - 1), target], values[a:b], [1] * (b - a), gamma=gamma, lam=lam)
        advantages[a:b], returns[a:b] = own.advantages, own.returns
    return Gae(tuple(advantages), tuple(returns), tuple(map(float, mask)))


def _turns(
    rewards: Sequence[float], values: Sequence[float], spans: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[int]]:
    """The spans that hold tokens, and 1 for each token in them. Raises `DataError` for a reward outside of them."""
    if len(rewards) != len(values):
        raise DataError(f"must align: {len(rewards)} rewards, {len(values)} values")
    spans = [(a, b) for a, b in spans if a < b]
    mask = [0] * len(rewards)
    end = 0
    for a, b in spans:
        if not end <= a < b <= len(rewards):
            raise DataError(f"turns follow each other within {len(rewards)} tokens, got {spans}")
        mask[a:b] = [1] * (b - a)
        end = b
    for t, reward in enumerate(rewards):
        if reward != 0 and not mask[t]:
            raise DataError(f"a reward of {reward} at token {t}, which is in no turn")
    return spans, mask


def _finite(rewards: Sequence[float]) -> None:
    for i, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise DataError(f"reward {i} is {reward}: an episode that could not be judged has no reward; leave it out")
