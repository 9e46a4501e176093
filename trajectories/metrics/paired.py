"""Two arms on the same tasks: exact tests, the clustered bootstrap, Holm's correction, what could have been shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..trajectory import Trajectory
from .rates import bootstrap, split, task_of, wilson

__all__ = [
    "McNemar",
    "PairedDifference",
    "detectable",
    "forgetting",
    "holm",
    "mcnemar_exact",
    "newcombe_paired",
    "paired_difference",
    "sign_flip_exact",
]

_Z, _Z_POWER = 1.959963984540054, 0.8416212335729143  # 97.5 % and 80 % quantiles of the standard normal
_FEWEST = 6
"""Tasks below which no exact two-sided test can reach p < .05: 2 / 2^5 = .0625."""


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
    p: float
    """Two-sided and exact: McNemar's where each task has one pair, else of sign flips by task."""


def mcnemar_exact(pairs: Iterable[tuple[bool, bool]]) -> McNemar:
    """McNemar's test, exact and two-sided: p = min(1, 2 Σ_{i ≤ min(b,c)} C(b+c, i) / 2^(b+c)).

    Q. McNemar, Psychometrika 12 (1947). It takes pairs as independent: with several attempts at one task, take
    `sign_flip_exact`, which is the same test where there is one pair a task.
    """
    counts = Counter((bool(first), bool(second)) for first, second in pairs)
    b, c = counts[True, False], counts[False, True]
    # Integers of any size: Python divides them correctly rounded, so no p is lost to underflow before 1e-308.
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return McNemar(b, c, counts.total(), min(1.0, 2 * tail / 2 ** (b + c)))


def sign_flip_exact(differences: Sequence[int]) -> float:
    """Two-sided exact p of the null that the two arms may be swapped within each task: P(|Σ ±d| ≥ |Σ d|).

    `differences`: for each task, successes of one arm minus those of the other over its pairs. All signs are gone
    through, by adding one task after the other to the distribution of the sum (R. A. Fisher, 1935; clustered).
    """
    sizes = [abs(d) for d in differences if d]
    if all(d == 1 for d in sizes):
        wins = sum(d > 0 for d in differences)
        return mcnemar_exact([(True, False)] * wins + [(False, True)] * (len(sizes) - wins)).p
    total, held = sum(sizes), 0
    chance = np.zeros(2 * total + 1)  # of each sum, at index sum + total
    chance[total] = 1.0
    for size in sizes:
        now = chance[total - held : total + held + 1] / 2
        held += size
        chance[total - held : total + held + 1] = 0.0
        chance[total - held : total - held + len(now)] += now
        chance[total + held + 1 - len(now) : total + held + 1] += now
    at = abs(sum(differences))
    return min(1.0, float(chance[total + at :].sum() + chance[: total - at + 1].sum())) if at else 1.0


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
        clusters.setdefault(task_of(a), []).append((a.success is True) - (b.success is True))
    sums = np.array([sum(values) for values in clusters.values()], dtype=np.float64)  # (tasks,)
    sizes = np.array([len(values) for values in clusters.values()], dtype=np.float64)
    low, high = bootstrap(sums, sizes, resamples=resamples, seed=seed)
    difference = (test.b - test.c) / len(pairs) if pairs else None
    p = test.p if len(pairs) == len(clusters) else sign_flip_exact([sum(values) for values in clusters.values()])
    return PairedDifference(difference, low, high, len(pairs), len(clusters), episodes - 2 * len(pairs), test, p)


def forgetting(before: Iterable[Trajectory], after: Iterable[Trajectory]) -> dict[str, PairedDifference]:
    """Success after training minus before, for each environment that both have episodes of, sorted: below 0 is
    forgotten. To be asked of environments that were not trained on, against the same base for every arm."""
    old, new = list(before), list(after)
    shared = sorted({t.env for t in split(old)[0]} & {t.env for t in split(new)[0]})
    return {
        env: paired_difference((t for t in new if t.env == env), (t for t in old if t.env == env)) for env in shared
    }


def newcombe_paired(both: int, only_b: int, only_a: int, neither: int) -> tuple[float, float]:
    """95 % interval of P(b) - P(a) from independent pairs, by squares of the Wilson intervals' arms and their
    correlation, continuity-corrected (R. G. Newcombe, Stat. Med. 17:2635, 1998, method 10).

    It has a width where every pair is alike, which the bootstrap has not.
    """
    n = both + only_a + only_b + neither
    of_b, of_a = both + only_b, both + only_a
    low_b, high_b = wilson(of_b, n)
    low_a, high_a = wilson(of_a, n)
    p_b, p_a = of_b / n, of_a / n
    margins = of_b * (n - of_b) * of_a * (n - of_a)
    odds = both * neither - only_a * only_b
    phi = (max(odds - n / 2, 0.0) if odds > 0 else float(odds)) / math.sqrt(margins) if margins else 0.0
    down, up = p_b - low_b, high_a - p_a
    low = math.sqrt(max(0.0, down * down - 2 * phi * down * up + up * up))
    up, down = high_b - p_b, p_a - low_a
    high = math.sqrt(max(0.0, up * up - 2 * phi * up * down + down * down))
    return max(-1.0, p_b - p_a - low), min(1.0, p_b - p_a + high)


def detectable(differences: Sequence[float]) -> float | None:
    """The smallest true difference that would have been shown (p < .05, two-sided) with a chance of 80 %, from as many
    tasks that vary as these do: δ √n = z_.975 √ψ + z_.8 √(ψ - δ²), R. J. Connor, Biometrics 43 (1987).

    `differences`: for each task the mean difference of its pairs, in [-1, 1]. ψ is their mean square, with half a pair
    added to each of the four cells, so that a few tasks that happen to agree do not promise the impossible. None where
    no difference could be shown: with fewer than six tasks none can.
    """
    n = len(differences)
    if n < _FEWEST:
        return None
    square = (math.fsum(d * d for d in differences) + 1) / (n + 2)

    def short(delta: float) -> float:
        psi = max(square, delta)  # pairs that differ are at least as many as the difference
        return delta * math.sqrt(n) - _Z * math.sqrt(psi) - _Z_POWER * math.sqrt(max(0.0, psi - delta * delta))

    low, high = 0.0, 1.0
    if short(high) < 0:
        return None
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) < 0 else (low, middle)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing all of them at once, in the given order: the i-th smallest of m becomes the running
    maximum of min(1, (m - i) p), i from 0 (S. Holm, Scand. J. Stat. 6, 1979). Valid under any dependence."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for i, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - i) * p_values[at]))
        adjusted[at] = running
    return adjusted


def _by_key(trajectories: Iterable[Trajectory]) -> dict[tuple[str, str, str, int], list[Trajectory]]:
    """Episodes by what makes two of them a pair; should several share a key, they meet in the order of their seeds."""
    out: dict[tuple[str, str, str, int], list[Trajectory]] = {}
    for t in trajectories:
        out.setdefault((t.env, t.task.id, t.faults, t.attempt), []).append(t)
    for group in out.values():
        group.sort(key=lambda t: t.seed)
    return out
