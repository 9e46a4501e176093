"""How well agents did: pure functions over trajectories. No models, no plots, numpy and the standard library only.

Defines the named results `Rate`, `PassK`, `McNemar`, `PairedDifference`, `EvalSummary`, and the functions that make
them. One rule holds everywhere: only `Trajectory.judged` episodes enter a denominator; the others (infrastructure
failure, cancelled, not judged) are counted as `excluded`, never as failures. A rate over nothing is None, never 0 or 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from .errors import ConfigError
from .messages import Cause, Outcome, ToolCall, ToolResult
from .trajectory import StopReason, Trajectory, TrajectoryGroup

__all__ = [
    "EvalSummary",
    "McNemar",
    "PairedDifference",
    "PassK",
    "Rate",
    "blind_retries",
    "duplicate_effects",
    "false_success",
    "holm",
    "mcnemar_exact",
    "outcome_mix",
    "paired_difference",
    "pass_at_k",
    "pass_hat_k",
    "rate",
    "recovery_by_cause",
    "recovery_rate",
    "resilience",
    "steps_over_optimal",
    "success_by_fault",
    "success_rate",
    "summary",
    "wilson",
]

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


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
class PassK:
    """pass@k or pass^k, averaged over tasks."""

    k: int
    value: float | None
    """None when no task was tried k times."""
    tasks: int
    """Tasks in the mean."""
    too_small: int
    """Tasks left out because they have fewer than k judged attempts."""


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact test of two paired yes/no results."""

    b: int
    """Pairs in which only the first succeeded."""
    c: int
    """Pairs in which only the second succeeded."""
    n: int
    """All pairs, the agreeing ones included."""
    p: float
    """Two-sided exact p; 1 when no pair disagrees."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Success of one arm minus that of another, on the same tasks under the same faults."""

    difference: float | None
    """In [-1, 1]; None when there is no pair."""
    low: float | None
    high: float | None
    """95 % bootstrap interval, whole tasks resampled. None where the bootstrap cannot know: fewer than two tasks, or
    every task with the same difference (the interval would have no width, however few the tasks)."""
    pairs: int
    tasks: int
    left_out: int
    """Episodes of either side in no pair: no partner, or one of the two was not judged."""
    mcnemar: McNemar


@dataclass(frozen=True, slots=True)
class EvalSummary:
    """What the tables show of one arm under one condition. Means are over judged episodes; None where undefined."""

    episodes: int
    """All episodes, the excluded ones too."""
    success: Rate
    recovery: Rate
    recovery_by_cause: dict[Cause, Rate]
    false_success: Rate
    by_fault: dict[str, Rate]
    pass_at: PassK | None
    """With k = the commonest number of attempts per task; None when that is 1."""
    pass_hat: PassK | None
    stops: dict[StopReason, int]
    """Over all episodes."""
    calls: int
    outcomes: dict[Outcome, float]
    """Per 100 calls."""
    reward: float | None
    turns: float | None
    sampled_tokens: float | None
    """Tokens that the policy sampled, per episode that has tokens."""
    steps_over_optimal: float | None
    blind_retries: float | None
    """Per episode."""
    duplicate_effects: float | None
    """Per episode."""


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
    narrow, for which `paired_difference` resamples whole tasks."""
    values = [bool(flag) for flag in flags]
    wins, n = sum(values), len(values)
    low, high = wilson(wins, n)
    return Rate(wins, n, wins / n if n else None, low, high, excluded)


def success_rate(trajectories: Iterable[Trajectory]) -> Rate:
    """Share of the judged episodes that succeeded; the others are counted in `excluded`."""
    judged, excluded = _split(trajectories)
    return rate((t.success is True for t in judged), excluded=excluded)


def pass_at_k(trajectories: Iterable[Trajectory], k: int) -> PassK:
    """Probability that at least one of k attempts succeeds: mean over tasks of 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. (2107.03374), n judged attempts of which c succeeded; the attempts at one
    task under one fault plan are one group.
    """
    return _pass(trajectories, k, lambda n, c: 1 - math.comb(n - c, k) / math.comb(n, k))


def pass_hat_k(trajectories: Iterable[Trajectory], k: int) -> PassK:
    """Probability that all of k attempts succeed: mean over tasks of C(c, k) / C(n, k) (tau-bench, 2406.12045)."""
    return _pass(trajectories, k, lambda n, c: math.comb(c, k) / math.comb(n, k))


def recovery_rate(trajectories: Iterable[Trajectory], cause: Cause | None = None) -> Rate:
    """P(success | at least one call failed), over episodes. Its value is None when no call failed, never 1.

    With `cause`, only failures of that cause count; without, those of every cause but infrastructure, which is nobody's
    policy. An episode with failures of two causes is in both causes' denominators. A fault that the agent is not told
    of (a call that says ok) is no failed call: see `success_by_fault`.
    """
    judged, excluded = _split(trajectories)
    return rate((t.success is True for t in judged if _failed(t, cause)), excluded=excluded)


def recovery_by_cause(trajectories: Sequence[Trajectory]) -> dict[Cause, Rate]:
    """`recovery_rate` of each cause that occurs."""
    rates = {cause: recovery_rate(trajectories, cause) for cause in Cause}
    return {cause: r for cause, r in rates.items() if r.n}


def success_by_fault(trajectories: Iterable[Trajectory]) -> dict[str, Rate]:
    """Success of the episodes that each kind of fault struck (`faults_hit`), sorted by kind; "" holds those that none
    struck. An episode struck by two kinds is in both rows, so the rows do not add up."""
    flags: dict[str, list[bool]] = {}
    for t in _split(trajectories)[0]:
        for kind in set(t.faults_hit) or {""}:
            flags.setdefault(kind, []).append(t.success is True)
    return {kind: rate(flags[kind]) for kind in sorted(flags)}


def false_success(trajectories: Iterable[Trajectory], gave_up: Callable[[Trajectory], bool] | None = None) -> Rate:
    """Share of episodes that the agent ended of its own accord (`StopReason.FINISHED`) though the task was not done.

    An honest "I could not do it" looks the same in a trajectory; `gave_up` says which episodes those are, and they are
    left out of numerator and denominator.
    """
    judged, excluded = _split(trajectories)
    finished = (t for t in judged if t.stop is StopReason.FINISHED and not (gave_up is not None and gave_up(t)))
    return rate((t.success is not True for t in finished), excluded=excluded)


def resilience(clean: Iterable[Trajectory], faulty: Iterable[Trajectory]) -> float | None:
    """Success under faults / clean success, over the tasks that have judged episodes of both kinds. None when there is
    no such task, or no clean success to keep."""
    sides = [_split(clean)[0], _split(faulty)[0]]
    shared = set.intersection(*({(t.env, t.task.id) for t in side} for side in sides))
    before, after = (success_rate(t for t in side if (t.env, t.task.id) in shared).value for side in sides)
    return after / before if before and after is not None else None


def mcnemar_exact(pairs: Iterable[tuple[bool, bool]]) -> McNemar:
    """McNemar's test, exact and two-sided: p = min(1, 2 Σ_{i ≤ min(b,c)} C(b+c, i) / 2^(b+c)).

    Q. McNemar, Psychometrika 12 (1947). It takes pairs as independent: with several attempts at one task, read p with
    the task-clustered interval of `paired_difference` beside it.
    """
    counts = Counter((bool(first), bool(second)) for first, second in pairs)
    b, c = counts[True, False], counts[False, True]
    # Integers of any size: Python divides them correctly rounded, so no p is lost to underflow before 1e-308.
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return McNemar(b, c, counts.total(), min(1.0, 2 * tail / 2 ** (b + c)))


def paired_difference(
    arm: Iterable[Trajectory], baseline: Iterable[Trajectory], *, resamples: int = 2000, seed: int = 0
) -> PairedDifference:
    """Success of `arm` minus success of `baseline` over pairs with the same environment, task, fault plan and attempt.

    The interval is the 95 % percentile interval of a paired bootstrap that resamples tasks with all their pairs (Efron
    and Tibshirani, 1993, §8), so repeated attempts at one task do not pass for independent evidence. Same seed, same
    interval.
    """
    left, right = _by_key(arm), _by_key(baseline)
    found = [pair for key, side in left.items() for pair in zip(side, right.get(key, ()), strict=False)]
    pairs = [(a, b) for a, b in found if a.judged and b.judged]
    episodes = sum(map(len, left.values())) + sum(map(len, right.values()))
    test = mcnemar_exact((a.success is True, b.success is True) for a, b in pairs)

    clusters: dict[tuple[str, str], list[int]] = {}
    for a, b in pairs:
        clusters.setdefault((a.env, a.task.id), []).append((a.success is True) - (b.success is True))
    sums = np.array([sum(values) for values in clusters.values()], dtype=np.float64)  # (tasks,)
    sizes = np.array([len(values) for values in clusters.values()], dtype=np.float64)
    low: float | None = None
    high: float | None = None
    if len(clusters) > 1 and np.ptp(sums / sizes) > 0:
        rng = np.random.default_rng(seed)
        # How often each task is drawn when as many tasks are drawn with replacement: (resamples, tasks).
        drawn = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=resamples)
        low, high = (float(q) for q in np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975]))
    difference = (test.b - test.c) / len(pairs) if pairs else None
    return PairedDifference(difference, low, high, len(pairs), len(clusters), episodes - 2 * len(pairs), test)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing all of them at once, in the given order: the i-th smallest of m becomes the running
    maximum of min(1, (m - i) p), i from 0 (S. Holm, Scand. J. Stat. 6, 1979). Valid whatever their dependence."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for i, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - i) * p_values[at]))
        adjusted[at] = running
    return adjusted


def blind_retries(trajectory: Trajectory) -> int:
    """Calls that repeat, in the very next turn, a call that had just failed, and fail again with the same outcome.

    A repetition that succeeds was no waste. Twins within one turn are not retries: the agent had not seen the failure.
    """
    count = 0
    before: list[tuple[ToolCall, ToolResult]] = []
    for turn in trajectory.turns:
        now = list(zip(turn.action.tool_calls, turn.results, strict=False))
        count += sum(
            not result.ok and any(same.outcome is result.outcome and _identical(call, old) for old, same in before)
            for call, result in now
        )
        before = now
    return count


def duplicate_effects(trajectory: Trajectory) -> int:
    """Calls whose effect landed although an identical earlier call, reported to the agent as failed, had landed too:
    the payment made twice because the first one's reply was lost."""
    count = 0
    lost: list[ToolCall] = []
    for call, result in _calls(trajectory):
        if result.landed:
            count += any(_identical(call, earlier) for earlier in lost)
            if not result.ok:
                lost.append(call)
    return count


def outcome_mix(trajectories: Iterable[Trajectory]) -> dict[Outcome, float]:
    """Each outcome's number per 100 calls of judged episodes, in the order of `Outcome`; absent ones are left out."""
    counts = Counter(r.outcome for t in _split(trajectories)[0] for r in t.results())
    return {outcome: 100 * counts[outcome] / counts.total() for outcome in Outcome if counts[outcome]}


def steps_over_optimal(trajectories: Iterable[Trajectory]) -> float | None:
    """Mean of turns - optimum over the *successful* episodes whose optimum is known. Failures are left out: giving up
    in the first turn is no economy."""
    return _mean(
        len(t.turns) - t.optimum for t in _split(trajectories)[0] if t.success is True and t.optimum is not None
    )


def summary(trajectories: Iterable[Trajectory]) -> EvalSummary:
    """All of the above for one arm under one condition."""
    every = list(trajectories)
    judged, _ = _split(every)
    sizes = Counter(len(g.trajectories) for g in TrajectoryGroup.by_task(judged))
    k = sizes.most_common(1)[0][0] if sizes else 1
    stops = Counter(t.stop for t in every)
    return EvalSummary(
        episodes=len(every),
        success=success_rate(every),
        recovery=recovery_rate(every),
        recovery_by_cause=recovery_by_cause(every),
        false_success=false_success(every),
        by_fault=success_by_fault(judged),
        pass_at=pass_at_k(judged, k) if k > 1 else None,
        pass_hat=pass_hat_k(judged, k) if k > 1 else None,
        stops={stop: stops[stop] for stop in StopReason if stops[stop]},
        calls=sum(len(turn.results) for t in judged for turn in t.turns),
        outcomes=outcome_mix(judged),
        reward=_mean(t.reward for t in judged),
        turns=_mean(len(t.turns) for t in judged),
        sampled_tokens=_mean(sum(t.tokens.sampled) for t in judged if t.tokens is not None),
        steps_over_optimal=steps_over_optimal(judged),
        blind_retries=_mean(blind_retries(t) for t in judged),
        duplicate_effects=_mean(duplicate_effects(t) for t in judged),
    )


def _split(trajectories: Iterable[Trajectory]) -> tuple[list[Trajectory], int]:
    """The judged episodes, and how many were not."""
    every = list(trajectories)
    judged = [t for t in every if t.judged]
    return judged, len(every) - len(judged)


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None


def _pass(trajectories: Iterable[Trajectory], k: int, share: Callable[[int, int], float]) -> PassK:
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    groups = [[t.success is True for t in g.trajectories] for g in TrajectoryGroup.by_task(trajectories)]
    values = [share(len(flags), sum(flags)) for flags in groups if len(flags) >= k]
    return PassK(k, _mean(values), len(values), len(groups) - len(values))


def _failed(t: Trajectory, cause: Cause | None) -> bool:
    failed = (r.cause for r in t.results() if not r.ok)
    return any(c is not Cause.INFRASTRUCTURE if cause is None else c is cause for c in failed)


def _calls(t: Trajectory) -> Iterator[tuple[ToolCall, ToolResult]]:
    for turn in t.turns:
        yield from zip(turn.action.tool_calls, turn.results, strict=False)


def _identical(a: ToolCall, b: ToolCall) -> bool:
    """Same tool, same arguments; two calls that could not be parsed are the same when their text is."""
    return a.name == b.name and a.arguments == b.arguments and (a.arguments is not None or a.raw == b.raw)


def _by_key(trajectories: Iterable[Trajectory]) -> dict[tuple[str, str, str, int], list[Trajectory]]:
    """Episodes by what makes two of them a pair; should several share a key, they meet in the order of their seeds."""
    out: dict[tuple[str, str, str, int], list[Trajectory]] = {}
    for t in trajectories:
        out.setdefault((t.env, t.task.id, t.faults, t.attempt), []).append(t)
    for group in out.values():
        group.sort(key=lambda t: t.seed)
    return out
