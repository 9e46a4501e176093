"""`leaderboard`: several agents on the same episodes, in order, with the ranks that paired tests leave open."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import ConfigError
from ..trajectory import Trajectory, TrajectoryGroup
from .paired import holm, sign_flip_exact
from .rates import Estimate, PassK, pass_at_k, pass_hat_k, resampled, split, task_of, wilson
from .spending import Spent, spent

__all__ = ["PLAYED_S", "Standing", "leaderboard"]

PLAYED_S = "seconds"
"""Under this name a record's `meta` may have its share of the clock: seconds since the episode before it ended."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One agent's place."""

    name: str
    best: int
    worst: int
    """Its rank, from 1, lies between these: 1 + the agents that are shown to be better; all agents but those that are
    shown to be worse."""
    score: Estimate
    """Mean over the conditions (environment and fault plan) of the share that succeeded: each counts the same. The 95 %
    interval draws tasks; where all or no episodes succeeded it is Wilson's for as many tasks."""
    p: float | None
    """Against the first: two-sided, exact sign flips by task, corrected by Holm's method for all pairs of agents. None
    for the first itself, and where the two share no judged pair."""
    pairs: int
    """Pairs of judged episodes with the first."""
    judged: int
    excluded: int
    """Episodes that could not be judged."""
    attempts: int
    """Judged attempts at each task under one fault plan: the fewest."""
    pass_at: PassK | None
    pass_hat: PassK | None
    """One of all attempts succeeds, all of them do; None with one attempt."""
    spent: Spent | None
    """Tokens and cost, where the agent's model counts them."""
    seconds: float | None
    """By the clock, all episodes; None where the records do not say."""


def leaderboard(
    agents: Mapping[str, Iterable[Trajectory]], *, alpha: float = 0.05, resamples: int = 2000, seed: int = 0
) -> list[Standing]:
    """The agents, best score first; one without a judged episode comes last. Same data and seed, same result.

    Episodes of two agents meet in pairs of the same environment, task, fault plan and sampling seed. The test swaps the
    two within tasks, over all conditions at once: neither attempts nor conditions pass for independent evidence.

    Args:
        agents: Name -> episodes.
        alpha: One is shown to be better than another when their adjusted p is below.
        resamples, seed: Of the bootstrap of the score.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha lies between 0 and 1, got {alpha}")
    held = {name: list(ts) for name, ts in agents.items()}
    scores = {name: _score(split(ts)[0], resamples, seed) for name, ts in held.items()}
    order = sorted(held, key=lambda name: -math.inf if (v := scores[name].value) is None else v, reverse=True)
    keyed = {name: {_key(t): t for t in ts if t.judged} for name, ts in held.items()}
    met = {(a, b): _met(keyed[a], keyed[b]) for a, b in combinations(order, 2)}
    tested = [pair for pair, of in met.items() if of.pairs]
    adjusted = dict(zip(tested, holm([met[pair].p for pair in tested]), strict=True))
    better: dict[str, set[str]] = {name: set() for name in order}  # those that are shown to be better than it
    for (a, b), p in adjusted.items():
        if p < alpha:
            better[b if met[a, b].ahead > 0 else a].add(a if met[a, b].ahead > 0 else b)
    out = []
    for name in order:
        worse = sum(name in others for others in better.values())
        attempts = min((len(g.trajectories) for g in TrajectoryGroup.by_task(held[name])), default=0)
        pair = (order[0], name)
        out.append(
            Standing(
                name=name,
                best=1 + len(better[name]),
                worst=len(order) - worse,
                score=scores[name],
                p=adjusted.get(pair),
                pairs=met[pair].pairs if pair in met else 0,
                judged=len(keyed[name]),
                excluded=split(held[name])[1],
                attempts=attempts,
                pass_at=pass_at_k(held[name], attempts) if attempts > 1 else None,
                pass_hat=pass_hat_k(held[name], attempts) if attempts > 1 else None,
                spent=spent(held[name]),
                seconds=_seconds(held[name]),
            )
        )
    return out


@dataclass(frozen=True, slots=True)
class _Met:
    pairs: int
    ahead: int
    """Pairs that the first alone won, minus those that the second alone won."""
    p: float


_Key = tuple[str, str, str, int, int]


def _key(t: Trajectory) -> _Key:
    return t.env, t.task.id, t.faults, t.seed, t.attempt


def _met(a: Mapping[_Key, Trajectory], b: Mapping[_Key, Trajectory]) -> _Met:
    by_task: dict[Hashable, int] = defaultdict(int)
    pairs = 0
    for key in a.keys() & b.keys():
        pairs += 1
        by_task[task_of(a[key])] += (a[key].success is True) - (b[key].success is True)
    return _Met(pairs, sum(by_task.values()), sign_flip_exact(list(by_task.values())))


def _score(judged: Sequence[Trajectory], resamples: int, seed: int) -> Estimate:
    """Mean over conditions of their success rates; tasks are drawn within each environment, with all that was played of
    them."""
    if not judged:
        return Estimate(None, None, None, 0, 0)
    conditions = sorted({(t.env, _plan(t)) for t in judged})
    means, drawn, tasks = [], [], 0
    for env in sorted({env for env, _ in conditions}):
        here = [plan for of, plan in conditions if of == env]
        rows: dict[str, list[float]] = {}
        for t in judged:
            if t.env == env:
                row = rows.setdefault(t.task.id, [0.0] * (2 * len(here)))
                at = 2 * here.index(_plan(t))
                row[at] += t.success is True
                row[at + 1] += 1
        table = np.array([rows[task] for task in sorted(rows)])  # (tasks, 2 * conditions)
        tasks += len(table)
        total = table.sum(axis=0)
        means += (total[0::2] / total[1::2]).tolist()
        sums = resampled(table, resamples=resamples, seed=seed)
        with np.errstate(invalid="ignore"):  # a draw may have no episode of a condition
            drawn.append(sums[:, 0::2] / sums[:, 1::2])
    value = math.fsum(means) / len(means)
    each = np.concatenate(drawn, axis=1)  # (resamples, conditions)
    each = each[~np.isnan(each).any(axis=1)].mean(axis=1)
    low: float | None = None
    high: float | None = None
    if value in (0.0, 1.0):
        low, high = wilson(tasks if value else 0, tasks)
    elif tasks > 1 and len(each) and np.ptp(each) > 1e-12:
        low, high = map(float, np.quantile(each, [0.025, 0.975]))
    return Estimate(value, low, high, len(judged), tasks)


def _plan(t: Trajectory) -> str:
    """The fault plan without its seed."""
    plan, at, _ = t.faults.rpartition("@")
    return plan if at else t.faults


def _seconds(trajectories: Sequence[Trajectory]) -> float | None:
    each = [s for t in trajectories if isinstance(s := t.meta.get(PLAYED_S), int | float)]
    return math.fsum(each) if each else None
