"""Pairs of which one side went better: by reward, a scorer, a judge, people; at forks; corrections; in style.

Defines `Pair`, `on_policy_pairs`, `scored_pairs`, `judged_pairs`, `people_pairs`, `pairs_from_labels`,
`correction_pairs`, `step_pairs`, `style_pairs`. A pair shares its task and its fault plan, so that luck does not
separate the sides.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ..errors import ConfigError, DataError
from ..labels import Label, key_of
from ..messages import Json
from ..trajectory import Fork, Trajectory, TrajectoryGroup
from .card import Curated, draw_key, not_judged, reward_of, with_card
from .equality import shared_turns

__all__ = [
    "Pair",
    "PairJudge",
    "Scorer",
    "correction_pairs",
    "judged_pairs",
    "on_policy_pairs",
    "pairs_from_labels",
    "people_pairs",
    "scored_pairs",
    "step_pairs",
    "style_pairs",
]

Scorer = Callable[[Trajectory], float]
"""How good an episode is, on any scale: a reward model, say. One that also has a method `many(list of episodes) ->
list of numbers` is asked once for all."""

PairJudge = Callable[[Trajectory, Trajectory], Literal["a", "b", "tie"] | None]
"""Which of two episodes is better, the first (a) or the second (b); None: no verdict. A judge that also has a method
`many(list of pairs) -> list of verdicts` is asked once for all."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trajectories of one task under one fault plan, of which one went better."""

    chosen: Trajectory
    rejected: Trajectory
    fork: int
    """Number of leading turns that are identical in actions and results; the first difference is turn `fork`."""
    source: str
    """How the pair came about: on_policy, score, judge, people, correction, step, style."""
    margin: float
    """How much better chosen is, in the measure of its source: reward, score, or share of the votes."""

    def __post_init__(self) -> None:
        sides = {(t.env, t.task.id, t.faults) for t in (self.chosen, self.rejected)}
        if len(sides) > 1:  # else the luck of the draw, not the policy, may be what separates them
            raise DataError(f"a pair shares environment, task and fault plan, got {sorted(sides)}")
        if not 0 <= self.fork < min(len(self.chosen.turns), len(self.rejected.turns)):
            raise DataError(
                f"fork {self.fork} leaves a side without turns of its own: chosen has {len(self.chosen.turns)}, "
                f"rejected {len(self.rejected.turns)}"
            )


def on_policy_pairs(
    groups: Iterable[TrajectoryGroup],
    *,
    max_per_group: int = 1,
    min_margin: float = 0.0,
    seed: int = 0,
) -> Curated[Pair]:
    """Pairs of sampled trajectories of the same task and faults, the better reward chosen.

    Dropped, in this order: a side not judged; a side without sampled tokens (scripted agents, experts: off-policy); a
    side with a part that it did not sample itself (`forked_from`); equal rewards; a margin below `min_margin`; no
    difference but the end (one is the beginning of the other, or both are the same). Of the rest each group gives at
    most `max_per_group`: first those that share most turns, since what differs is then down to few decisions; then
    those whose trajectories are used least; then the wider margin; then at random, by `seed` and the group, so that
    it does not matter what other groups there are.

    The card counts pairs: every two trajectories of a group came in.
    """
    return _ranked(
        "on_policy_pairs",
        groups,
        "on_policy",
        reward_of,
        _off_policy,
        max_per_group=max_per_group,
        min_margin=min_margin,
        seed=seed,
    )


def scored_pairs(
    groups: Iterable[TrajectoryGroup],
    score: Scorer,
    *,
    max_per_group: int = 1,
    min_margin: float = 0.0,
    seed: int = 0,
) -> Curated[Pair]:
    """Pairs by any scorer, a reward model say: `on_policy_pairs` with its scores in place of rewards.

    Each judged episode is scored once. A side need not have been sampled by a policy. Raises `DataError` for a score
    that is not a finite number, and for a scorer that gives every episode the same.
    """
    held = list(groups)
    judged = [t for group in held for t in group.trajectories if t.judged]
    many = getattr(score, "many", None)
    values = many(judged) if many is not None else [score(t) for t in judged]
    scores: dict[int, float] = {}
    for t, value in zip(judged, values, strict=True):
        try:
            scores[id(t)] = float(value)
        except (TypeError, ValueError):
            scores[id(t)] = math.nan
        if not math.isfinite(scores[id(t)]):
            raise DataError(f"the scorer gave trajectory {t.id} the score {value!r:.80}; expected a finite number")
    if len(scores) > 1 and len(set(scores.values())) == 1:
        raise DataError(f"the scorer gave all {len(scores)} episodes {next(iter(scores.values())):g}: it tells nothing")
    return _ranked(
        "scored_pairs",
        held,
        "score",
        lambda t: scores[id(t)],
        lambda t: "",
        max_per_group=max_per_group,
        min_margin=min_margin,
        seed=seed,
    )


def _ranked(
    what: str,
    groups: Iterable[TrajectoryGroup],
    source: str,
    value: Callable[[Trajectory], float],
    unfit: Callable[[Trajectory], str],
    *,
    max_per_group: int,
    min_margin: float,
    seed: int,
) -> Curated[Pair]:
    """The pairs of `on_policy_pairs` by any value; `unfit` gives the reason why a side cannot be taken, or nothing."""
    if max_per_group < 1:
        raise ConfigError(f"max_per_group must be 1 or more, got {max_per_group}")
    if not min_margin >= 0:
        raise ConfigError(f"min_margin must be 0 or more, got {min_margin}")
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for group in groups:
        members = group.trajectories
        candidates: list[tuple[int, int, Pair]] = []
        for i, a in enumerate(members):
            for j in range(i + 1, len(members)):
                came_in += 1
                b = members[j]
                reason = not_judged(a) or not_judged(b) or unfit(a) or unfit(b)
                if reason:
                    dropped[reason] += 1
                    continue
                margin = value(a) - value(b)
                fork = shared_turns(a, b)
                if margin == 0:
                    dropped["tied"] += 1
                elif abs(margin) < min_margin:
                    dropped[f"with a margin below {min_margin:g}"] += 1
                elif fork == min(len(a.turns), len(b.turns)):
                    dropped["without a fork"] += 1
                else:
                    chosen, rejected = (a, b) if margin > 0 else (b, a)
                    candidates.append((i, j, Pair(chosen, rejected, fork, source, abs(margin))))
        if not candidates:
            continue
        rng = random.Random(f"{seed}:{members[0].env}:{members[0].task.id}:{members[0].faults}")
        rng.shuffle(candidates)  # min() below takes the first of equals
        used: Counter[int] = Counter()
        for _ in range(min(max_per_group, len(candidates))):
            at = min(
                range(len(candidates)),
                key=lambda c: (
                    -candidates[c][2].fork,
                    used[candidates[c][0]] + used[candidates[c][1]],
                    -candidates[c][2].margin,
                ),
            )
            i, j, pair = candidates.pop(at)
            used.update((i, j))
            kept.append(pair)
        if candidates:
            dropped[f"beyond {max_per_group} of a group"] += len(candidates)
    return with_card(what, kept, came_in, dropped, unit="pairs")


def _off_policy(t: Trajectory) -> str:
    if t.tokens is None or not any(t.tokens.sampled):
        return "with a side that no policy sampled"
    return "with a side forked from another episode" if t.forked_from is not None else ""


def judged_pairs(
    groups: Iterable[TrajectoryGroup], judge: PairJudge, *, max_per_group: int = 1, seed: int = 0
) -> Curated[Pair]:
    """Pairs by a judge that compares two episodes, asked in both orders.

    A judge favours a place: only a verdict that stays when the sides are exchanged counts. Of each group at most
    `max_per_group` pairs are shown to it, drawn at random from `seed` among those that differ; a pair that it does not
    decide is dropped and not replaced. The card counts pairs: every two trajectories of a group came in.
    """
    _at_least_one("max_per_group", max_per_group)
    dropped: Counter[str] = Counter()
    came_in = 0
    asked: list[tuple[Trajectory, Trajectory, int]] = []
    for group in groups:
        members = sorted(group.trajectories, key=lambda t: draw_key(seed, t))
        fit: list[tuple[Trajectory, Trajectory, int]] = []
        for a, b in _twos(members):
            came_in += 1
            fork = shared_turns(a, b)
            if reason := not_judged(a) or not_judged(b):
                dropped[reason] += 1
            elif fork == min(len(a.turns), len(b.turns)):
                dropped["without a fork"] += 1
            else:
                fit.append((a, b, fork))
        random.Random(f"{seed}:{_place(members)}").shuffle(fit)
        asked += fit[:max_per_group]
        if len(fit) > max_per_group:
            dropped[f"beyond {max_per_group} of a group"] += len(fit) - max_per_group
    shown = [both for a, b, _ in asked for both in ((a, b), (b, a))]
    many = getattr(judge, "many", None)
    verdicts = many(shown) if many is not None else [judge(a, b) for a, b in shown]
    kept: list[Pair] = []
    for (a, b, fork), said, exchanged in zip(asked, verdicts[::2], verdicts[1::2], strict=True):
        for verdict in (said, exchanged):
            if verdict not in ("a", "b", "tie", None):
                raise DataError(f"a judge says 'a', 'b', 'tie' or None, got {verdict!r}")
        if said is None or exchanged is None:
            dropped["without a verdict"] += 1
        elif said == exchanged == "tie":
            dropped["tied"] += 1
        elif {said, exchanged} != {"a", "b"}:
            dropped["whose verdict changed with the order"] += 1
        else:
            chosen, rejected = (a, b) if said == "a" else (b, a)
            kept.append(Pair(chosen, rejected, fork, "judge", 1.0))
    return with_card("judged_pairs", kept, came_in, dropped, unit="pairs")


def people_pairs(
    trajectories: Iterable[Trajectory], labels: Iterable[Mapping[str, Json]], *, min_share: float = 0.5
) -> Curated[Pair]:
    """Pairs by people: for two episodes that were labelled, the one that more than `min_share` of the labellers chose.

    A label is `{"a": id, "b": id, "label": "a" | "b" | "tie" | "bad", "labeller": name, "time": ..}`, with `attempt_a`
    and `attempt_b` where several episodes have one id. Of one labeller only the last word on two episodes counts.
    Dropped are two whose episodes are not here, tied, without the majority, or of a task that as many called bad as
    chose a side. The card counts labelled twos. Raises `DataError` for a record that is no label.
    """
    if not 0.5 <= min_share < 1:
        raise ConfigError(f"min_share must be 0.5 or more and below 1, got {min_share}")
    known: dict[tuple[str, int | None], Trajectory] = {}
    for t in trajectories:
        known[t.id, t.attempt] = t
        known.setdefault((t.id, None), t)
    votes: dict[tuple[_Side, _Side], dict[str, _Side | str]] = {}
    for number, label in sorted(enumerate(labels, 1), key=lambda nl: (_time(nl[1]), nl[0])):
        a, b, said = (label.get(name) for name in ("a", "b", "label"))
        if not (isinstance(a, str) and isinstance(b, str) and said in ("a", "b", "tie", "bad")):
            raise DataError(
                f"label {number}: expected two episode ids 'a' and 'b', and a 'label' of a, b, tie or bad; got "
                f"{str(dict(label))[:200]}"
            )
        sides = [_Side(a, label.get("attempt_a")), _Side(b, label.get("attempt_b"))]
        if sides[0] == sides[1]:
            raise DataError(f"label {number} compares the episode {a} with itself")
        first, second = sorted(sides, key=lambda side: (side.id, side.attempt or 0))
        winner: _Side | str = sides[0] if said == "a" else sides[1] if said == "b" else str(said)
        votes.setdefault((first, second), {})[str(label.get("labeller", ""))] = winner
    if not votes:
        raise DataError("no label in it: sparring label writes them")
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    for both, said_by in votes.items():
        tally = Counter(said_by.values())
        better, worse = sorted(both, key=lambda side: -tally[side])
        most = tally[better]
        chosen, rejected = (known.get(side) for side in (better, worse))
        if chosen is None or rejected is None:
            dropped["whose episodes are not here"] += 1
        elif tally["bad"] and tally["bad"] >= most:
            dropped["of a bad task"] += 1
        elif most == tally[worse]:
            dropped["tied"] += 1
        elif most <= min_share * len(said_by):
            dropped["without a majority"] += 1
        elif (chosen.env, chosen.task.id, chosen.faults) != (rejected.env, rejected.task.id, rejected.faults):
            dropped["of different tasks or faults"] += 1
        elif (fork := shared_turns(chosen, rejected)) == min(len(chosen.turns), len(rejected.turns)):
            dropped["without a fork"] += 1
        else:
            kept.append(Pair(chosen, rejected, fork, "people", (most - tally[worse]) / len(said_by)))
    return with_card("people_pairs", kept, len(votes), dropped, unit="pairs")


def pairs_from_labels(labels: Iterable[Label], trajectories: Iterable[Trajectory]) -> Curated[Pair]:
    """Pairs from a file of labels: `people_pairs` over the episodes that the labels name.

    Raises `DataError` where no pair is left, or where two attempts of one episode have labels: a pair's episodes are
    told apart by their ids.
    """
    held = list(labels)
    wanted = {key for label in held for key in label.pair}
    found = {t.id: t for t in trajectories if key_of(t) in wanted}
    twice = [id for id, n in Counter(id for id, _ in wanted).items() if n > 1]
    if twice:
        raise DataError(f"several attempts of the episode {twice[0]} have labels: keep the labels of one")
    return people_pairs(found.values(), [label.record() for label in held])


class _Side(NamedTuple):
    """An episode as a label names it."""

    id: str
    attempt: int | None


def _time(label: Mapping[str, Json]) -> tuple[int, Any]:
    """Seconds or ISO text; a label without a time counts as the earliest."""
    at = label.get("time")
    if isinstance(at, bool) or not isinstance(at, int | float | str):
        return 0, 0
    return (1, at) if not isinstance(at, str) else (2, at)


def correction_pairs(corrections: Iterable[tuple[Trajectory, Trajectory]]) -> Curated[Pair]:
    """Pairs (corrected over failed) from (failed trajectory, a corrected one that was forked from it).

    The fork is the one of the lineage (`forked_from.turn`): before it both are one episode, only what follows differs.
    Dropped: a side not judged; a corrected one that did not fork from the failed one, or whose inherited turns (or
    their tokens) are not those of the failed one; a correction that did not succeed, an original that did, no better
    reward; and a fork at the very end, where there is nothing to reject. The card counts pairs.
    """
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for failed, corrected in corrections:
        came_in += 1
        lineage = corrected.forked_from
        if reason := not_judged(failed) or not_judged(corrected):
            dropped[reason] += 1
        elif lineage is None or lineage.parent != failed.id:
            dropped["not forked from the failed one"] += 1
        elif shared_turns(failed, corrected) < lineage.turn:
            dropped["whose turns before the fork differ"] += 1
        elif not corrected.success:
            dropped["whose correction did not succeed"] += 1
        elif failed.success:
            dropped["whose original succeeded"] += 1
        elif reward_of(corrected) <= reward_of(failed):
            dropped["whose correction has no better reward"] += 1
        elif lineage.turn >= min(len(failed.turns), len(corrected.turns)):
            dropped["with nothing after the fork"] += 1
        else:
            margin = corrected.reward - failed.reward
            kept.append(Pair(corrected, failed, lineage.turn, "correction", margin))
    return with_card("correction_pairs", kept, came_in, dropped, unit="pairs")


def step_pairs(trajectories: Iterable[Trajectory], *, max_per_fork: int = 1, min_margin: float = 0.0) -> Curated[Pair]:
    """Pairs at forks: an episode against the one it branched off, and branches of one fork against each other.

    The better reward is chosen, and the loss begins where both differ: a pair that credits a step. Of one fork at most
    `max_per_fork`: the widest margin, then the smaller ids. Dropped: a side not judged, equal rewards, a margin below
    `min_margin`, turns before the fork that differ, nothing after it. The card counts pairs.
    """
    _at_least_one("max_per_fork", max_per_fork)
    held = list(trajectories)
    by_id = {t.id: t for t in held}
    forks: dict[tuple[str, int], list[Trajectory]] = {}
    for t in held:
        if t.forked_from is not None:
            forks.setdefault((t.forked_from.parent, t.forked_from.turn), []).append(t)
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for (parent, at), branches in forks.items():
        found: list[Pair] = []
        for a, b in _twos([*([by_id[parent]] if parent in by_id else []), *branches]):
            came_in += 1
            if reason := not_judged(a) or not_judged(b):
                dropped[reason] += 1
                continue
            fork = shared_turns(a, b)
            margin = reward_of(a) - reward_of(b)
            if fork < at:
                dropped["whose turns before the fork differ"] += 1
            elif margin == 0:
                dropped["tied"] += 1
            elif abs(margin) < min_margin:
                dropped[f"with a margin below {min_margin:g}"] += 1
            elif fork == min(len(a.turns), len(b.turns)):
                dropped["with nothing after the fork"] += 1
            else:
                chosen, rejected = (a, b) if margin > 0 else (b, a)
                found.append(Pair(chosen, rejected, fork, "step", abs(margin)))
        found.sort(key=lambda pair: (-pair.margin, pair.chosen.id, pair.rejected.id))
        kept += found[:max_per_fork]
        if len(found) > max_per_fork:
            dropped[f"beyond {max_per_fork} of a fork"] += len(found) - max_per_fork
    if held and not forks:
        raise DataError(f"none of {len(held)} episodes is a fork of another: step pairs need `forked_from`")
    return with_card("step_pairs", kept, came_in, dropped, unit="pairs")


def style_pairs(
    trajectories: Iterable[Trajectory], rewrite: Callable[[Trajectory], Trajectory | None]
) -> Curated[Pair]:
    """Pairs that shift how an agent speaks, and not what it does: the rewritten episode over the one that was played.

    `rewrite` gives the episode with other words in its actions' texts, or None to pass. Calls and results have to stay
    as they were: results of calls that nobody made would be made up. Dropped: what was passed, what did not change,
    changed calls or results, and a side not judged.
    """
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for t in trajectories:
        came_in += 1
        if reason := not_judged(t):
            dropped[reason] += 1
            continue
        new = rewrite(t)
        if new is None:
            dropped["passed by the rewriter"] += 1
            continue
        both = list(zip(t.turns, new.turns, strict=False))
        if len(new.turns) != len(t.turns) or any(
            old.action.tool_calls != turn.action.tool_calls or old.results != turn.results for old, turn in both
        ):
            dropped["whose calls or results were changed"] += 1
            continue
        fork = next((i for i, (old, turn) in enumerate(both) if old.action.content != turn.action.content), None)
        if fork is None:
            dropped["not changed by the rewriter"] += 1
            continue
        turns = tuple(
            replace(old, action=turn.action, span=None) for old, turn in both
        )  # the tokens were the old words'
        chosen = replace(t, id=f"{t.id}-style", turns=turns, tokens=None, forked_from=Fork(t.id, fork))
        kept.append(Pair(chosen, t, fork, "style", 1.0))
    return with_card("style_pairs", kept, came_in, dropped, unit="pairs")


def _twos(items: list[Trajectory]) -> Iterator[tuple[Trajectory, Trajectory]]:
    for i, a in enumerate(items):
        for b in items[i + 1 :]:
            yield a, b


def _place(members: list[Trajectory]) -> str:
    """What the random draw of a group depends on, next to the seed: it does not matter what other groups there are."""
    return f"{members[0].env}:{members[0].task.id}:{members[0].faults}" if members else ""


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be 1 or more, got {value}")
