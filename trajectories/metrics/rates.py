"""Shares, means and their intervals: `Rate`, `Estimate`, `PassK`, `Excluded`, and the functions that make them.

A share of independent yes/no trials has a Wilson interval. Everything else (means, ratios, several trials an episode)
has a percentile bootstrap that draws whole tasks, since attempts at one task are not independent evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..trajectory import StopReason, Trajectory, TrajectoryGroup

__all__ = [
    "Estimate",
    "Excluded",
    "PassK",
    "Rate",
    "across_seeds",
    "excluded",
    "mean",
    "pass_at_k",
    "pass_hat_k",
    "rate",
    "ratio",
    "split",
    "success_rate",
    "task_of",
    "wilson",
]

_KINDS = 4
"""Kinds of fault that are listed; more are counted."""
_Z = 1.959963984540054  # 97.5 % quantile of the standard normal
_RESAMPLES = 2000
_BATCH = 250


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of n independent trials, with its 95 % Wilson interval."""

    successes: int
    n: int
    value: float | None
    """successes / n; None when n is 0."""
    low: float
    high: float
    """The interval's ends, in [0, 1]; 0 and 1 when n is 0: nothing is known."""
    excluded: int = 0
    """Episodes that could not be judged and are in no denominator."""

    def __str__(self) -> str:
        if self.value is None:
            return "none (n=0)"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] n={self.n}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of two sums over episodes, a mean for one, with its 95 % bootstrap interval."""

    value: float | None
    """None where nothing was measured: the denominator is 0."""
    low: float | None
    high: float | None
    """None where the bootstrap cannot know: fewer than two tasks, or all of them alike."""
    n: float
    """The denominator: how many episodes, calls, failures ... the value is over."""
    tasks: int
    """Different tasks among them: what the interval is made of."""

    def __str__(self) -> str:
        if self.value is None:
            return "none (n=0)"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{interval} n={self.n:g}"


@dataclass(frozen=True, slots=True)
class PassK:
    """pass@k or pass^k, averaged over tasks."""

    k: int
    value: float | None
    """None when no task was tried k times."""
    tasks: int
    """Tasks in the mean."""
    too_small: int
    """Tasks left out because they have fewer than k judged attempts."""
    low: float | None = None
    high: float | None = None
    """95 % bootstrap interval over tasks; None with fewer than two tasks, or all alike."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """What is in no denominator, and why. episodes = judged + the sum of `reasons`."""

    episodes: int
    judged: int
    reasons: dict[str, int]
    """Reason -> episodes; reasons that did not occur are left out."""

    @property
    def share(self) -> float | None:
        """Of all episodes; None when there is none."""
        return (self.episodes - self.judged) / self.episodes if self.episodes else None

    def __str__(self) -> str:
        why = ", ".join(f"{n} {reason}" for reason, n in self.reasons.items())
        return f"{self.judged} of {self.episodes} episodes judged" + (f"; excluded: {why}" if why else "")


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a binomial share: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    E. B. Wilson, JASA 22 (1927). Honest near 0 and 1 and for small n, where p ± z √(p(1-p)/n) is not.
    """
    if not 0 <= successes <= n:
        raise ConfigError(f"successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, _Z * _Z
    centre = p + z2 / (2 * n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    # The ends are exactly 0 and 1 there; floating point would leave 1e-17 over.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def rate(flags: Iterable[bool], *, excluded: int = 0) -> Rate:
    """The share of true flags. They are taken as independent: several attempts at one task make the interval too
    narrow, for which `ratio` and `paired_difference` resample whole tasks."""
    values = [bool(flag) for flag in flags]
    wins, n = sum(values), len(values)
    low, high = wilson(wins, n)
    return Rate(wins, n, wins / n if n else None, low, high, excluded)


def success_rate(trajectories: Iterable[Trajectory]) -> Rate:
    """Share of the judged episodes that succeeded; the others are counted in `excluded`."""
    judged, out = split(trajectories)
    return rate((t.success is True for t in judged), excluded=out)


def ratio(parts: Iterable[tuple[Hashable, float, float]], *, resamples: int = _RESAMPLES, seed: int = 0) -> Estimate:
    """Sum of numerators / sum of denominators, of (task, numerator, denominator) per episode.

    The interval is the 95 % percentile bootstrap that draws whole tasks with replacement (Efron and Tibshirani, 1993,
    §8); draws without any denominator are left out. Same seed, same interval.
    """
    sums: dict[Hashable, list[float]] = {}
    for task, over, under in parts:
        if under:
            held = sums.setdefault(task, [0.0, 0.0])
            held[0] += over
            held[1] += under
    above = np.array([s[0] for s in sums.values()], dtype=np.float64)  # (tasks,)
    below = np.array([s[1] for s in sums.values()], dtype=np.float64)
    total = math.fsum(below)
    if not total:
        return Estimate(None, None, None, 0, 0)
    value = math.fsum(above) / total
    low, high = bootstrap(above, below, resamples=resamples, seed=seed)
    return Estimate(value, low, high, total, len(sums))


def bootstrap(
    above: np.ndarray[Any, Any], below: np.ndarray[Any, Any], *, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of sum(above) / sum(below), both (tasks,), by drawing tasks; None where all agree."""
    if len(above) < 2 or not np.ptp(above / below) > 0:
        return None, None
    drawn = resampled(np.stack([above, below], axis=1), resamples=resamples, seed=seed)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


def resampled(rows: np.ndarray[Any, Any], *, resamples: int, seed: int) -> np.ndarray[Any, Any]:
    """Sums over tasks, as many drawn with replacement as there are: (tasks, columns) -> (resamples, columns)."""
    tasks, rng = len(rows), np.random.default_rng(seed)
    chances = np.full(tasks, 1 / tasks)
    parts = []
    for start in range(0, resamples, _BATCH):  # how often each task is drawn, (batch, tasks), is large
        counts = rng.multinomial(tasks, chances, size=min(_BATCH, resamples - start))
        parts.append(counts.astype(np.float64) @ rows)
    return np.concatenate(parts)


def across_seeds(values: Iterable[float | None]) -> Estimate:
    """Mean over training seeds with its 95 % Student-t interval: what one number per training run says of the method.

    One run says nothing of how runs differ, so there is no interval with fewer than two. None values are left out.
    """
    held = [value for value in values if value is not None]
    if not held:
        return Estimate(None, None, None, 0, 0)
    centre = fmean(held)
    if len(held) < 2:
        return Estimate(centre, None, None, len(held), len(held))
    spread = math.sqrt(math.fsum((v - centre) ** 2 for v in held) / (len(held) - 1) / len(held))
    half = _t_quantile(len(held) - 1) * spread
    return Estimate(centre, centre - half, centre + half, len(held), len(held))


def pass_at_k(trajectories: Iterable[Trajectory], k: int) -> PassK:
    """Probability that at least one of k attempts succeeds: mean over tasks of 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. (2107.03374), n judged attempts of which c succeeded; the attempts at one
    task under one fault plan are one group.
    """
    return _pass(trajectories, k, lambda n, c: 1 - math.comb(n - c, k) / math.comb(n, k))


def pass_hat_k(trajectories: Iterable[Trajectory], k: int) -> PassK:
    """Probability that all of k attempts succeed: mean over tasks of C(c, k) / C(n, k) (tau-bench, 2406.12045)."""
    return _pass(trajectories, k, lambda n, c: math.comb(c, k) / math.comb(n, k))


def excluded(trajectories: Iterable[Trajectory]) -> Excluded:
    """How many episodes are in no denominator, by reason (an infrastructure failure, a bug of the environment, ...)."""
    reasons: Counter[str] = Counter()
    episodes = 0
    for t in trajectories:
        episodes += 1
        if not t.judged:
            reasons[_REASONS.get(t.stop, "not judged")] += 1
    return Excluded(episodes, episodes - reasons.total(), dict(reasons.most_common()))


_REASONS = {
    StopReason.INFRASTRUCTURE: "infrastructure failure",
    StopReason.BUG: "bug of the environment",
    StopReason.CANCELLED: "cancelled",
}


def short_plan(plan: str) -> str:
    """A fault plan for people: many kinds are counted, not listed."""
    body, at, seed = plan.rpartition("@")
    count, _, kinds = body.partition(":")
    listed = kinds.split(",")
    if not count.startswith("count=") or len(listed) <= _KINDS:
        return plan
    return f"{count} of {len(listed)} kinds{at}{seed}"


def not_struck(trajectories: Iterable[Trajectory]) -> str:
    """Said where episodes had a fault plan, and it struck none of them: what is measured is then no recovery. Else
    empty."""
    with_plan = [t for t in trajectories if t.faults]
    if not with_plan or any(t.faults_hit for t in with_plan):
        return ""
    plans = ", ".join(dict.fromkeys(short_plan(t.faults) for t in with_plan))
    n = len(with_plan)
    called = any(result.ok for t in with_plan for result in t.results())
    why = "no call was one that it can strike" if called else "no call was made that a tool ran"
    return f"0 of {n} {'episode' if n == 1 else 'episodes'} were struck by {plans}: {why}"


def split(trajectories: Iterable[Trajectory]) -> tuple[list[Trajectory], int]:
    """The judged episodes, and how many were not."""
    every = list(trajectories)
    judged = [t for t in every if t.judged]
    return judged, len(every) - len(judged)


def mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    numbers = list(values)
    return fmean(numbers) if numbers else None


def task_of(t: Trajectory) -> tuple[str, str]:
    """What a bootstrap draws as one: all that was played of one task."""
    return t.env, t.task.id


def _pass(trajectories: Iterable[Trajectory], k: int, share: Callable[[int, int], float]) -> PassK:
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    groups = TrajectoryGroup.by_task(trajectories)
    large = [g.trajectories for g in groups if len(g.trajectories) >= k]
    values = [share(len(ts), sum(t.success is True for t in ts)) for ts in large]
    found = ratio((task_of(ts[0]), value, 1.0) for ts, value in zip(large, values, strict=True))
    return PassK(k, mean(values), len(values), len(groups) - len(values), found.low, found.high)


def _t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t, for a whole number of degrees of freedom."""
    low, high = _Z, 13.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _t_inside(t: float, degrees: int) -> float:
    """P(|T| < t), in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 or not odd else 0.0
    for i in range(3 - (not odd), degrees - 1, 2):
        term *= cosine * cosine * ((i - 1) / i)
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
