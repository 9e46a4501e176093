"""`compare`: is B better than A? Pairs, tests, intervals, and a verdict in words that claims no more than they hold.

Episodes meet in pairs of the same environment, task, fault plan and sampling seed; what is left over of a task and plan
that both have meets in order of attempts, and that is said. Tasks are what is independent: intervals draw whole tasks,
and the test swaps the two sides within tasks. Every condition (clean, one fault, ...) is a comparison of its own, and
their p values are corrected for each other.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, DataError
from ..trajectory import Trajectory, TrajectoryGroup
from .paired import detectable, holm, mcnemar_exact, newcombe_paired, sign_flip_exact
from .rates import Estimate, Excluded, PassK, Rate, excluded, pass_at_k, pass_hat_k, rate, resampled, task_of
from .recovery import Roles
from .summaries import MEASURES, not_measured, seen

__all__ = ["Comparison", "Contrast", "MeasureRow", "compare"]

_FEW_TASKS = 10
"""Below, percentile bootstrap intervals are too narrow."""
_FLIPS = 20_000
_UNEVEN = 0.05
"""A gap between the sides' excluded shares that is worth a warning."""

Pair = tuple[Trajectory, Trajectory]
_Cells = defaultdict[tuple[str, str, str], list[Trajectory]]


@dataclass(frozen=True, slots=True)
class Contrast:
    """B against A under one condition."""

    condition: str
    paired: bool
    """False: the two share tasks and no fault plan, so tasks are compared and not episodes."""
    a: Rate
    b: Rate
    """Success of the episodes that were compared. Wilson intervals take them as independent."""
    pairs: int
    """Pairs of episodes; 0 when not paired."""
    tasks: int
    both: int
    only_a: int
    only_b: int
    neither: int
    """Pairs by who succeeded; all 0 when not paired."""
    difference: float
    """Success of B minus success of A, in [-1, 1]."""
    low: float | None
    high: float | None
    """Its 95 % interval: see `interval`."""
    interval: Literal["bootstrap", "newcombe", ""]
    """bootstrap: tasks resampled. newcombe: all pairs are alike, so the bootstrap has no width; one pair a task."""
    effect: float
    """Cohen's h: 2 asin √b - 2 asin √a. About .2 is small, .5 medium, .8 large."""
    effect_low: float | None
    effect_high: float | None
    """Its 95 % interval, of the same draws; None where they have no width."""
    p: float
    """Two-sided."""
    p_adjusted: float
    """By Holm's method for all conditions compared."""
    test: str
    """exact McNemar; exact sign flips by task (several pairs a task); sampled sign flips by task (not paired)."""
    detectable: float | None
    """The true difference that these tasks would have shown with a chance of 80 %; None: none."""
    other_seeds: int
    """Pairs whose sampling seeds differ."""
    as_failures: float | None
    """The difference if every episode that was not judged counted as a failure; None when there is none."""
    winner: Literal["a", "b", ""]
    """Empty: no difference shown."""
    sentence: str


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """Another metric of the same episodes. An observation: it is not tested."""

    name: str
    over: str
    better: str
    a: Estimate
    b: Estimate
    difference: float | None
    low: float | None
    high: float | None
    """Of the difference, tasks resampled with the episodes of both sides. None where that cannot be known."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found."""

    names: tuple[str, str]
    contrasts: tuple[Contrast, ...]
    excluded: tuple[Excluded, Excluded]
    """Episodes of A and of B that could not be judged, by reason."""
    left_out: tuple[dict[str, int], dict[str, int]]
    """Other episodes that are in no comparison, by reason, of A and of B."""
    measures: tuple[MeasureRow, ...]
    """Over the compared episodes of all conditions."""
    pass_at: tuple[tuple[PassK, PassK], ...]
    pass_hat: tuple[tuple[PassK, PassK], ...]
    """pass@k and pass^k of A and of B, over the compared episodes: for each k from 2 to the fewest attempts that either
    made at a task under one fault plan."""
    warnings: tuple[str, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def compare(
    a: Iterable[Trajectory],
    b: Iterable[Trajectory],
    *,
    names: tuple[str, str] = ("A", "B"),
    roles: Roles | None = None,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """B against A. Same data and seed, same result.

    Args:
        a, b: Episodes of two agents.
        names: What they are called in sentences.
        roles: What tools are for, by environment; for the measures of recovery.
        alpha: A difference is shown when its adjusted p is below.
        resamples, seed: Of the bootstrap.

    Raises `DataError` where the two share no task under a common condition, or no pair of them was judged.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha lies between 0 and 1, got {alpha}")
    sides = (_once(a), _once(b))
    for name, side in zip(names, sides, strict=True):
        if not side:
            raise DataError(f"{name} has no episode")
    left_out: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    labels = _conditions(*sides)
    found: list[tuple[str, _Matched]] = []
    for key, label in labels.items():
        here = tuple([t for t in side if _condition_key(t) == key] for side in sides)
        if not (here[0] and here[1]):
            for out, held in zip(left_out, here, strict=True):
                out["of a condition that the other side did not play"] += sum(t.judged for t in held)
            continue
        matched = _match(here[0], here[1], left_out)
        if matched is not None:
            found.append((label, matched))
    if not found:
        raise DataError(_nothing_shared(names, sides, labels))
    raw = [_contrast(label, m, resamples, seed) for label, m in found]
    adjusted = holm([c["p"] for c in raw])
    contrasts = tuple(_with_verdict(c, p, names, alpha) for c, p in zip(raw, adjusted, strict=True))
    compared = (
        [t for _, m in found for t in m.a],
        [t for _, m in found for t in m.b],
    )
    k = min(len(g.trajectories) for side in compared for g in TrajectoryGroup.by_task(side))
    return Comparison(
        names=names,
        contrasts=contrasts,
        excluded=(excluded(sides[0]), excluded(sides[1])),
        left_out=(_nonzero(left_out[0]), _nonzero(left_out[1])),
        measures=_measures(*compared, roles, resamples, seed),
        pass_at=tuple((pass_at_k(compared[0], i), pass_at_k(compared[1], i)) for i in range(2, k + 1)),
        pass_hat=tuple((pass_hat_k(compared[0], i), pass_hat_k(compared[1], i)) for i in range(2, k + 1)),
        warnings=tuple(_warnings(names, sides, found, contrasts, alpha)),
        verdict=_verdict(contrasts, names),
    )


# ---- who meets whom --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Matched:
    """What of one condition is compared."""

    pairs: list[Pair]
    """Both judged. Empty when not paired."""
    a: list[Trajectory]
    b: list[Trajectory]
    """The judged episodes compared: of the pairs, or of the shared tasks."""
    other_seeds: int
    with_failures: list[tuple[Trajectory, Trajectory]]
    """All pairs, those that were not judged too."""


def _match(
    a: Sequence[Trajectory], b: Sequence[Trajectory], left_out: tuple[Counter[str], Counter[str]]
) -> _Matched | None:
    cells = {(t.env, t.task.id, t.faults) for t in a} & {(t.env, t.task.id, t.faults) for t in b}
    if not cells:
        return _match_tasks(a, b, left_out)
    every: list[Pair] = []
    other_seeds = 0
    by_cell: tuple[_Cells, _Cells] = (defaultdict(list), defaultdict(list))
    for of_side, side, out in zip(by_cell, (a, b), left_out, strict=True):
        for t in side:
            if (t.env, t.task.id, t.faults) in cells:
                of_side[t.env, t.task.id, t.faults].append(t)
            else:
                out["of a task or fault plan that the other side did not play"] += t.judged
    for cell in sorted(cells):
        here = [sorted(of_side[cell], key=lambda t: (t.seed, t.attempt, t.id)) for of_side in by_cell]
        same, rest = _by_seed(*here)
        more = list(zip(*(sorted(r, key=lambda t: (t.attempt, t.seed, t.id)) for r in rest), strict=False))
        every += same + more
        other_seeds += sum(x.judged and y.judged for x, y in more)
        for r, out in zip(rest, left_out, strict=True):
            out["of more attempts than the other side made"] += sum(
                t.judged for t in sorted(r, key=lambda t: (t.attempt, t.seed, t.id))[len(more) :]
            )
    pairs = [(x, y) for x, y in every if x.judged and y.judged]
    for x, y in every:
        left_out[0]["whose partner was not judged"] += x.judged and not y.judged
        left_out[1]["whose partner was not judged"] += y.judged and not x.judged
    if not pairs:
        return None
    return _Matched(pairs, [x for x, _ in pairs], [y for _, y in pairs], other_seeds, every)


def _by_seed(
    a: Sequence[Trajectory], b: Sequence[Trajectory]
) -> tuple[list[Pair], tuple[list[Trajectory], list[Trajectory]]]:
    """Pairs with the same seed, and what is left of both; in order of seeds."""
    waiting: dict[int, list[Trajectory]] = defaultdict(list)
    for t in b:
        waiting[t.seed].append(t)
    pairs, rest = [], []
    for t in a:
        if waiting[t.seed]:
            pairs.append((t, waiting[t.seed].pop(0)))
        else:
            rest.append(t)
    return pairs, (rest, [t for of_seed in waiting.values() for t in of_seed])


def _match_tasks(
    a: Sequence[Trajectory], b: Sequence[Trajectory], left_out: tuple[Counter[str], Counter[str]]
) -> _Matched | None:
    """Without a common fault plan: the tasks that both sides have judged episodes of."""
    shared = {task_of(t) for t in a if t.judged} & {task_of(t) for t in b if t.judged}
    kept = [[t for t in side if t.judged and task_of(t) in shared] for side in (a, b)]
    for side, held, out in zip((a, b), kept, left_out, strict=True):
        out["of a task or fault plan that the other side did not play"] += sum(t.judged for t in side) - len(held)
    return _Matched([], kept[0], kept[1], 0, []) if shared else None


def _once(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Each (id, attempt) once: a store and a file of it may be given together."""
    return list({(t.id, t.attempt, t.env, t.task.id, t.faults): t for t in trajectories}.values())


def _condition_key(t: Trajectory) -> tuple[str, str]:
    """The environment, and the fault plan without its seed."""
    return t.env, re.sub(r"@\d+$", "", t.faults)


def _conditions(a: Sequence[Trajectory], b: Sequence[Trajectory]) -> dict[tuple[str, str], str]:
    """What the conditions are called, in order of first appearance: short where that is clear."""
    keys = list(dict.fromkeys(map(_condition_key, [*a, *b])))
    several = len({t.env for t in a} & {t.env for t in b}) > 1
    names = {}
    for env, plan in keys:
        name = plan or "clean"
        counted = re.fullmatch(r"count=(\d+)(?::(.*))?", plan)
        if counted and (counted[2] or ",,,,,").count(",") >= 5:  # all kinds, or nearly
            name = {"1": "one fault", "2": "two faults"}.get(counted[1], f"{counted[1]} faults")
        names[env, plan] = f"{env}: {name}" if several else name
    shared = Counter((name, env) for (env, _), name in names.items())
    return {key: name if shared[name, key[0]] == 1 else f"{name} ({key[1]})" for key, name in names.items()}


def _nothing_shared(
    names: tuple[str, str], sides: tuple[list[Trajectory], list[Trajectory]], labels: dict[tuple[str, str], str]
) -> str:
    """Why nothing can be compared, and what to do."""
    envs = [sorted({t.env for t in side}) for side in sides]
    if not set(envs[0]) & set(envs[1]):
        return f"{names[0]} played {', '.join(envs[0])} and {names[1]} {', '.join(envs[1])}: nothing to compare"
    if not {task_of(t) for t in sides[0]} & {task_of(t) for t in sides[1]}:
        return (
            f"{names[0]} and {names[1]} share no task: play both with the same --split, --n, --levels and --seed, "
            f"`sparring evaluate` does"
        )
    played = [{labels[_condition_key(t)] for t in side} for side in sides]
    if not played[0] & played[1]:
        return (
            f"{names[0]} and {names[1]} share tasks and no condition: {', '.join(sorted(played[0]))} against "
            f"{', '.join(sorted(played[1]))}; play both with the same --faults"
        )
    if not all(any(t.judged for t in side) for side in sides):
        return "; ".join(f"{name}: {excluded(side)}" for name, side in zip(names, sides, strict=True))
    return f"{names[0]} and {names[1]} share no task that was judged on both sides under the same condition"


# ---- what the numbers are --------------------------------------------------------------------------------------------


def _contrast(condition: str, m: _Matched, resamples: int, seed: int) -> dict[str, Any]:
    """All of a `Contrast` but what depends on the other conditions and on names."""
    a, b = rate(t.success is True for t in m.a), rate(t.success is True for t in m.b)
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for at, side in ((0, m.a), (2, m.b)):
        for t in side:
            sums[task_of(t)][at] += t.success is True
            sums[task_of(t)][at + 1] += 1
    rows = np.array(list(sums.values()), dtype=np.float64)  # (tasks, 4): successes and episodes of A, then of B
    each = rows[:, 2] / rows[:, 3] - rows[:, 0] / rows[:, 1]  # (tasks,)
    out: dict[str, Any] = {
        "condition": condition, "paired": bool(m.pairs), "a": a, "b": b, "pairs": len(m.pairs), "tasks": len(rows),
        "other_seeds": m.other_seeds, "detectable": detectable(each.tolist()), "as_failures": None,
    }  # fmt: skip
    counts = Counter((x.success is True, y.success is True) for x, y in m.pairs)
    cells = {"both": counts[True, True], "only_b": counts[False, True], "only_a": counts[True, False],
             "neither": counts[False, False]}  # fmt: skip
    out |= cells
    if m.pairs:
        out["difference"] = (cells["only_b"] - cells["only_a"]) / len(m.pairs)
        one_each = len(m.pairs) == len(rows)
        out["test"] = "exact McNemar" if one_each else "exact sign flips by task"
        out["p"] = sign_flip_exact([round(d) for d in rows[:, 2] - rows[:, 0]])
        if one_each:
            assert out["p"] == mcnemar_exact((y.success is True, x.success is True) for x, y in m.pairs).p
        if len(m.with_failures) > len(m.pairs):
            gaps = [(y.judged and y.success is True) - (x.judged and x.success is True) for x, y in m.with_failures]
            out["as_failures"] = sum(gaps) / len(gaps)
    else:
        one_each = False
        out["difference"] = float(each.mean())
        out["test"] = "sampled sign flips by task"
        out["p"] = _sampled_flips(each, seed)
    out |= _intervals(rows, each, cells if m.pairs and one_each else None, bool(m.pairs), resamples, seed)
    if m.pairs:
        out["effect"] = float(_h(b.value, a.value))
    else:
        out["effect"] = float(_h((rows[:, 2] / rows[:, 3]).mean(), (rows[:, 0] / rows[:, 1]).mean()))
    return out


def _intervals(
    rows: np.ndarray[Any, Any],
    each: np.ndarray[Any, Any],
    cells: dict[str, int] | None,
    paired: bool,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Of the difference and of Cohen's h; of the same draws of tasks."""
    out: dict[str, Any] = dict.fromkeys(("low", "high", "effect_low", "effect_high"), None) | {"interval": ""}
    if len(rows) > 1 and np.ptp(each) > 0:
        if not paired:  # each task weighs the same
            ones = np.ones(len(rows))
            rows = np.stack([rows[:, 0] / rows[:, 1], ones, rows[:, 2] / rows[:, 3], ones], axis=1)
        totals = resampled(rows, resamples=resamples, seed=seed)  # (resamples, 4)
        a, b = totals[:, 0] / totals[:, 1], totals[:, 2] / totals[:, 3]
        out["low"], out["high"] = map(float, np.quantile(b - a, [0.025, 0.975]))
        out["effect_low"], out["effect_high"] = map(float, np.quantile(_h(b, a), [0.025, 0.975]))
        out["interval"] = "bootstrap"
    elif cells is not None and len(rows) > 1:
        out["low"], out["high"] = newcombe_paired(**cells)
        out["interval"] = "newcombe"
    return out


def _h(b: Any, a: Any) -> Any:
    return 2 * np.arcsin(np.sqrt(np.clip(b, 0, 1))) - 2 * np.arcsin(np.sqrt(np.clip(a, 0, 1)))


def _sampled_flips(each: np.ndarray[Any, Any], seed: int) -> float:
    """Two-sided p of swapping the sides within tasks, by sampled signs; never 0 (Phipson and Smyth, 2010)."""
    rng = np.random.default_rng(seed)
    at, beyond = abs(each.sum()) - 1e-9, 0
    for _ in range(0, _FLIPS, 1000):
        signs = rng.integers(0, 2, size=(1000, len(each)), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ each) >= at).sum())
    return (beyond + 1) / (_FLIPS + 1)


def _measures(
    a: Sequence[Trajectory], b: Sequence[Trajectory], roles: Roles | None, resamples: int, seed: int
) -> tuple[MeasureRow, ...]:
    sides = seen(a, roles), seen(b, roles)
    tasks = {task: i for i, task in enumerate(dict.fromkeys(task_of(s.t) for side in sides for s in side))}
    asked = MEASURES[1:]  # success is what the contrasts are about
    rows = np.zeros((len(tasks), len(asked), 4))  # numerator and denominator of A, then of B
    for at, side in ((0, sides[0]), (2, sides[1])):
        for s in side:
            rows[tasks[task_of(s.t)], :, at : at + 2] += [m.part(s) for m in asked]
    drawn = resampled(rows.reshape(len(tasks), -1), resamples=resamples, seed=seed).reshape(resamples, len(asked), 4)
    out = []
    for i, m in enumerate(asked):
        of_a, of_b = (_estimate(rows[:, i, at : at + 2], drawn[:, i, at : at + 2]) for at in (0, 2))
        difference = low = high = None
        if of_a.value is not None and of_b.value is not None:
            difference = of_b.value - of_a.value
            low, high = _ends(*(_ratios(drawn[:, i, at : at + 2]) for at in (2, 0)))
        if of_a.value is not None or of_b.value is not None:
            out.append(MeasureRow(m.name, m.over, m.better, of_a, of_b, difference, low, high))
    return tuple(out)


def _estimate(rows: np.ndarray[Any, Any], drawn: np.ndarray[Any, Any]) -> Estimate:
    """Of (tasks, 2), and of its draws."""
    over, under = (float(v) for v in rows.sum(axis=0))
    held = int((rows[:, 1] > 0).sum())
    if not under:
        return Estimate(None, None, None, 0, 0)
    low, high = _ends(_ratios(drawn)) if held > 1 else (None, None)
    return Estimate(over / under, low, high, under, held)


def _ratios(drawn: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(resamples, 2) -> (resamples,); NaN where nothing of the denominator was drawn."""
    out = np.full(len(drawn), np.nan)
    np.divide(drawn[:, 0], drawn[:, 1], out=out, where=drawn[:, 1] > 0)
    return out


def _ends(values: np.ndarray[Any, Any], minus: np.ndarray[Any, Any] | None = None) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws; None where they all agree, or more than one in twenty is undefined."""
    values = values if minus is None else values - minus
    known = values[~np.isnan(values)]
    if len(known) < 0.95 * len(values) or not np.ptp(known) > 1e-12:
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


# ---- what is said ----------------------------------------------------------------------------------------------------


def _with_verdict(raw: dict[str, Any], adjusted: float, names: tuple[str, str], alpha: float) -> Contrast:
    shown = adjusted < alpha
    winner: Literal["a", "b", ""] = ("b" if raw["difference"] > 0 else "a") if shown else ""
    numbers = _signed(raw["difference"])
    if raw["low"] is not None:
        numbers += f" [{_bare(raw['low'])}, {_bare(raw['high'])}]"
    numbers += f", {_p(adjusted)}"
    if raw["paired"]:
        per_task = "" if raw["pairs"] == raw["tasks"] else f"{raw['pairs']} pairs of "
        on = f"on {per_task}{raw['tasks']} paired task{'s' * (raw['tasks'] != 1)}"
    else:
        on = f"on {raw['tasks']} shared task{'s' * (raw['tasks'] != 1)} whose faults differ (not paired)"
    if winner:
        sentence = f"{names[winner == 'b']} is better: {numbers}, {on}"
        if winner == "a":
            sentence += f" (the difference is {names[1]} minus {names[0]})"
    else:
        able = raw["detectable"]
        power = "too few to show any" if able is None else f"could detect {_bare(able)} at 80 % power"
        sentence = f"no difference shown: {numbers}, {on}; {power}"
    return Contrast(**raw, p_adjusted=adjusted, winner=winner, sentence=sentence)


def _verdict(contrasts: Sequence[Contrast], names: tuple[str, str]) -> str:
    if len(contrasts) == 1:
        return contrasts[0].sentence
    said = []
    for winner, name in (("b", names[1]), ("a", names[0])):
        won = [c.condition for c in contrasts if c.winner == winner]
        if won:
            said.append(f"{name} is better under {_listed(won)}")
    none = [c.condition for c in contrasts if not c.winner]
    if none:
        said.append(f"no difference shown under {_listed(none)}")
    return f"{'; '.join(said)} (p corrected for {len(contrasts)} conditions by Holm's method)"


def _warnings(
    names: tuple[str, str],
    sides: tuple[list[Trajectory], list[Trajectory]],
    found: Sequence[tuple[str, _Matched]],
    contrasts: Sequence[Contrast],
    alpha: float,
) -> Iterable[str]:
    held = {(t.id, t.attempt): t for t in sides[0]}
    same = sum(held.get((t.id, t.attempt)) == t for t in sides[1])
    if same and same == min(map(len, sides)):
        yield f"all {same} episodes of one side are on the other too: an agent was compared with itself"
    for name, side in zip(names, sides, strict=True):
        for what, of in (("agents", _agents(side)), ("policy versions", {str(t.policy_version) for t in side})):
            if len(of) > 1:
                yield f"{name} mixes {len(of)} {what}: {', '.join(sorted(of)[:4])}{', ...' * (len(of) > 4)}"
        for said in not_measured(t for t in side if t.judged):
            yield f"{name}: {said}"
    out = [excluded(side) for side in sides]
    if abs((out[0].share or 0.0) - (out[1].share or 0.0)) > _UNEVEN:
        counts = " and ".join(
            f"{e.episodes - e.judged} of {e.episodes} of {n}" for e, n in zip(out, names, strict=True)
        )
        yield f"{counts} were not judged: what was excluded may not be like the rest"
    for c in contrasts:
        under = f"under {c.condition}: " if len(contrasts) > 1 else ""
        if not c.paired:
            yield f"{under}the sides share no fault plan, only tasks: part of the difference may be luck of the faults"
        if c.other_seeds:
            yield f"{under}{c.other_seeds} of {c.pairs} pairs share task and faults but not the sampling seed"
        if 1 < c.tasks < _FEW_TASKS and c.interval == "bootstrap":
            yield f"{under}{c.tasks} tasks are few: the interval is narrower than it should be; trust p"
    for (_, m), c in zip(found, contrasts, strict=True):
        if c.as_failures is not None and _changes(m, c, alpha):
            under = f"under {c.condition}: " if len(contrasts) > 1 else ""
            yield f"{under}the verdict changes if what was not judged counts as failures ({_signed(c.as_failures)})"


def _changes(m: _Matched, c: Contrast, alpha: float) -> bool:
    """Whether a difference would be shown, or shown no more, with all that was not judged as failures."""
    sums: Counter[tuple[str, str]] = Counter()
    for x, y in m.with_failures:
        sums[task_of(x)] += (y.judged and y.success is True) - (x.judged and x.success is True)
    p = sign_flip_exact(list(sums.values()))
    if p >= alpha:
        return bool(c.winner)
    return c.winner != ("b" if (c.as_failures or 0.0) > 0 else "a")


def _agents(side: Sequence[Trajectory]) -> set[str]:
    return {t.agent for t in side if t.agent}


def _nonzero(counts: Counter[str]) -> dict[str, int]:
    return {reason: n for reason, n in counts.most_common() if n}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _bare(value: float) -> str:
    """.23, -.08, 1.00"""
    text = f"{value:.2f}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _signed(value: float) -> str:
    text = _bare(value)
    return text if text.startswith("-") or text == ".00" else f"+{text}"


def _p(p: float) -> str:
    if p < 0.001:
        return "p < .001"
    return f"p = {p:.3f}".replace("0.", ".", 1) if p < 0.9995 else "p = 1"
