"""From trajectories to training data: pure functions, deterministic by seed, that account for whatever they leave out.

Defines `Card`, `Curated`; for SFT `turn_weights`, `gold`, `successes`, `best_of`; for preferences `Pair`,
`shared_turns`, `on_policy_pairs`, `correction_pairs`; for both `mixture`.

What makes a data set returns `Curated(items, card)`; the card says how many came in, and why others were dropped. Where
nothing would be left of something it raises `DataError` with that account: an empty data set is never what was meant.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from .errors import ConfigError, DataError, UnknownName
from .messages import Cause, Outcome, ToolResult
from .trajectory import Trajectory, TrajectoryGroup, Turn

__all__ = [
    "Card",
    "Curated",
    "Pair",
    "best_of",
    "correction_pairs",
    "gold",
    "mixture",
    "on_policy_pairs",
    "shared_turns",
    "successes",
    "turn_weights",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_SAYS_NOTHING_AGAINST_THE_CALL = frozenset(
    {Outcome.UNAVAILABLE, Outcome.RATE_LIMITED, Outcome.TIMEOUT, Outcome.CRASHED, Outcome.GONE}
)
"""What a tool may come to whatever it is asked. The rest (not_found, conflict, tool_error, ...), raised by the tool of
its own and not by a fault, says that the call was wrong: a made-up id, say."""

_MAY_PASS = frozenset({Outcome.UNAVAILABLE, Outcome.TIMEOUT, Outcome.TOOL_ERROR, Outcome.CRASHED})
"""Failures after which the very same call is a sensible next move, a bounded number of times. After any other the agent
has been told that something else has to come first: wait, log in, look the id up again, repair, switch, or stop."""


@dataclass(frozen=True, slots=True)
class Card:
    """The account of one curation: came_in + repeated = kept + dropped."""

    came_in: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    """Count by reason; each item is counted once, under the first reason that applies."""
    repeated: int = 0
    """Copies beyond the first, where a mixture needed more than there was."""
    unit: str = "trajectories"

    def __str__(self) -> str:
        parts = [f"kept {self.kept} of {self.came_in} {self.unit}"]
        if self.dropped:
            parts.append("dropped: " + ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()))
        if self.repeated:
            parts.append(f"repeated: {self.repeated}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Curated(Generic[T_co]):
    """What was kept, and the account of it."""

    items: tuple[T_co, ...]
    card: Card

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trajectories of one task under one fault plan, of which one went better."""

    chosen: Trajectory
    rejected: Trajectory
    fork: int
    """Number of leading turns that are identical in actions and results; the first difference is turn `fork`."""
    source: str
    """How the pair came about: on_policy, correction."""
    margin: float
    """Reward of chosen minus reward of rejected."""

    def __post_init__(self) -> None:
        sides = {(t.env, t.task.id, t.faults) for t in (self.chosen, self.rejected)}
        if len(sides) > 1:  # else the luck of the draw, not the policy, may be what separates them
            raise DataError(f"a pair shares environment, task and fault plan, got {sorted(sides)}")
        if not 0 <= self.fork < min(len(self.chosen.turns), len(self.rejected.turns)):
            raise DataError(
                f"fork {self.fork} leaves a side without turns of its own: chosen has {len(self.chosen.turns)}, "
                f"rejected {len(self.rejected.turns)}"
            )


# --- for SFT -----------------------------------------------------------------------------------------------------


def turn_weights(trajectory: Trajectory, *, patience: int = 2) -> tuple[float, ...]:
    """The weight of each turn in supervised losses: 0 where imitating the turn would teach a mistake, else as it was.

    A failed call is a mistake if it was the wrong thing to send *given what the agent knew*:
      - its cause is the policy: malformed, a made-up tool or argument;
      - or the tool itself refused what was asked (not_found, conflict, forbidden, tool_error, ...), no fault having
        been injected: a made-up id, an order violated;
      - or it uses a tool that an earlier turn reported gone;
      - or it repeats a call (`retry_of`) and fails as before, though that failure called for something else first: a
        stale id once more, a rate limit not waited out, a route that is forbidden;
      - or it is more than the `patience`-th repeat in a row of a failure that may pass (unavailable, timeout, tool
        error, crash).
    All other failures were right to try: nobody can know that a fault is about to strike. They keep their weight, and
    so do the retries within patience, or the model would learn neither to set out nor to persist.

        lend(Dune)             unavailable, injected                  1   the right call; the fault was not its doing
        lend(Dune)             unavailable, injected, retry           1   may pass
        find(titel="Dune")     invalid_arguments, policy              0   context for the repair
        find(title="Dune")     ok                                     1   the repair

    A turn has one weight, so one wrong call among several takes the whole turn out: missing a right call costs less
    than teaching a wrong one. Turns that a fork inherited (`forked_from`) weigh 0: they led to what was corrected.
    """
    inherited = trajectory.forked_from.turn if trajectory.forked_from is not None else 0
    told: dict[str, ToolResult] = {}  # by call id; earlier turns only: calls of one message are sent without an answer
    gone: set[str] = set()
    weights = []
    for i, turn in enumerate(trajectory.turns):
        wrong = i < inherited or any(_mistaken(result, told, gone, patience) for result in turn.results)
        weights.append(0.0 if wrong else turn.weight)
        told.update((result.call_id, result) for result in turn.results)
        gone.update(result.tool for result in turn.results if result.outcome is Outcome.GONE)
    return tuple(weights)


def _mistaken(result: ToolResult, told: Mapping[str, ToolResult], gone: set[str], patience: int) -> bool:
    if result.ok:
        return False
    if result.cause is Cause.POLICY or result.tool in gone:
        return True
    if result.cause is Cause.TOOL and result.outcome not in _SAYS_NOTHING_AGAINST_THE_CALL:
        return True
    before = told.get(result.retry_of or "")
    if before is not None and before.outcome not in _MAY_PASS:
        return before.outcome is result.outcome  # another failure than before: what had been called for was done
    retries = 0
    while before is not None and before.outcome in _MAY_PASS:
        retries += 1
        before = told.get(before.retry_of or "")
    return retries > patience


def gold(trajectories: Iterable[Trajectory], *, patience: int = 2) -> Curated[Trajectory]:
    """Successful trajectories with the weights of `turn_weights`: mistakes stay as context, recoveries are trained."""
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for t in trajectories:
        came_in += 1
        weights = turn_weights(t, patience=patience)
        if reason := _not_successful(t):
            dropped[reason] += 1
        elif not any(weights):
            dropped["no turn to learn from"] += 1
        else:
            turns = (replace(turn, weight=weight) for turn, weight in zip(t.turns, weights, strict=True))
            kept.append(replace(t, turns=tuple(turns)))
    return _curated("gold", kept, came_in, dropped)


def successes(trajectories: Iterable[Trajectory]) -> Curated[Trajectory]:
    """Successful trajectories as they are: every sampled turn is trained, failed calls too. The baseline of `gold`."""
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for t in trajectories:
        came_in += 1
        if reason := _not_successful(t):
            dropped[reason] += 1
        else:
            kept.append(t)
    return _curated("successes", kept, came_in, dropped)


def best_of(groups: Iterable[TrajectoryGroup], k: int = 1) -> Curated[Trajectory]:
    """Rejection sampling: of each group the k best *successful* trajectories, k at most.

    Best is the higher reward, then fewer turns, then the earlier in the group. The same course taken twice counts once.
    A group without success gives nothing; the weights of turns are left alone (`gold` sets them).
    """
    if k < 1:
        raise ConfigError(f"k must be 1 or more, got {k}")
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for group in groups:
        came_in += len(group.trajectories)
        best: list[Trajectory] = []
        dropped.update(reason for t in group.trajectories if (reason := _not_successful(t)))
        solved = [t for t in group.trajectories if not _not_successful(t)]
        for t in sorted(solved, key=lambda t: (-_reward(t), len(t.turns))):  # stable: ties keep the group's order
            if any(_same_course(t, other) for other in best):
                dropped["same course as a kept one"] += 1
            elif len(best) == k:
                dropped[f"beyond the best {k}"] += 1
            else:
                best.append(t)
        kept.extend(best)
    return _curated("best_of", kept, came_in, dropped)


def _not_successful(t: Trajectory) -> str:
    """The reason to drop it; empty: it succeeded."""
    return _not_judged(t) or ("" if t.success else "without success")


def _not_judged(t: Trajectory) -> str:
    return "" if t.judged else "not judged (infrastructure, cancelled)"


def _reward(t: Trajectory) -> float:
    if not math.isfinite(t.reward):  # NaN would make every comparison False, in silence
        raise DataError(f"trajectory {t.id} was judged, but its reward is {t.reward}")
    return t.reward


# --- for preferences ---------------------------------------------------------------------------------------------


def shared_turns(a: Trajectory, b: Trajectory) -> int:
    """Number of leading turns that are identical in actions and results; 0 where the prompts or tools differ.

    Compared is what the model wrote and saw: not latencies, and not call ids. Where both turns know their tokens, these
    have to be equal too: the same text can be sampled as other tokens, and then nothing is shared for a trainer.
    """
    if a.prompt != b.prompt or a.tools != b.tools:
        return 0
    n, start_a, start_b = 0, 0, 0
    for turn_a, turn_b in zip(a.turns, b.turns, strict=False):  # up to the end of the shorter
        if _seen(turn_a) != _seen(turn_b):
            break
        if a.tokens is not None and b.tokens is not None and turn_a.span is not None and turn_b.span is not None:
            if a.tokens.ids[start_a : turn_a.span[1]] != b.tokens.ids[start_b : turn_b.span[1]]:
                break
            start_a, start_b = turn_a.span[1], turn_b.span[1]
        n += 1
    return n


def _seen(turn: Turn) -> object:
    """A turn as far as the model wrote or saw it."""
    calls = [(call.name, call.arguments, call.raw) for call in turn.action.tool_calls]
    results = [(result.tool, result.outcome, result.content) for result in turn.results]
    said = [(message.role, message.content) for message in turn.messages]
    return turn.action.content, calls, results, said


def _same_course(a: Trajectory, b: Trajectory) -> bool:
    return len(a.turns) == len(b.turns) == shared_turns(a, b)


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
    those whose trajectories are used least; then the wider margin; then by lot, drawn from `seed` and the group, so
    that it does not matter what other groups there are.

    The card counts pairs: every two trajectories of a group came in.
    """
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
                reason = _not_judged(a) or _not_judged(b) or _off_policy(a) or _off_policy(b)
                if reason:
                    dropped[reason] += 1
                    continue
                margin = _reward(a) - _reward(b)
                fork = shared_turns(a, b)
                if margin == 0:
                    dropped["tied"] += 1
                elif abs(margin) < min_margin:
                    dropped[f"with a margin below {min_margin:g}"] += 1
                elif fork == min(len(a.turns), len(b.turns)):
                    dropped["without a fork"] += 1
                else:
                    chosen, rejected = (a, b) if margin > 0 else (b, a)
                    candidates.append((i, j, Pair(chosen, rejected, fork, "on_policy", abs(margin))))
        if not candidates:
            continue
        rng = random.Random(f"{seed}:{members[0].env}:{members[0].task.id}:{members[0].faults}")
        rng.shuffle(candidates)  # min() below takes the first of equals
        used: Counter[int] = Counter()
        for _ in range(min(max_per_group, len(candidates))):
            at = min(
                range(len(candidates)),
                key=lambda c: (
                    -candidates[c][2].fork, used[candidates[c][0]] + used[candidates[c][1]], -candidates[c][2].margin
                ),
            )  # fmt: skip
            i, j, pair = candidates.pop(at)
            used.update((i, j))
            kept.append(pair)
        if candidates:
            dropped[f"beyond {max_per_group} of a group"] += len(candidates)
    return _curated("on_policy_pairs", kept, came_in, dropped, unit="pairs")


def _off_policy(t: Trajectory) -> str:
    if t.tokens is None or not any(t.tokens.sampled):
        return "with a side that no policy sampled"
    return "with a side forked from another episode" if t.forked_from is not None else ""


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
        if reason := _not_judged(failed) or _not_judged(corrected):
            dropped[reason] += 1
        elif lineage is None or lineage.parent != failed.id:
            dropped["not forked from the failed one"] += 1
        elif shared_turns(failed, corrected) < lineage.turn:
            dropped["whose turns before the fork differ"] += 1
        elif not corrected.success:
            dropped["whose correction did not succeed"] += 1
        elif failed.success:
            dropped["whose original succeeded"] += 1
        elif _reward(corrected) <= _reward(failed):
            dropped["whose correction has no better reward"] += 1
        elif lineage.turn >= min(len(failed.turns), len(corrected.turns)):
            dropped["with nothing after the fork"] += 1
        else:
            margin = corrected.reward - failed.reward
            kept.append(Pair(corrected, failed, lineage.turn, "correction", margin))
    return _curated("correction_pairs", kept, came_in, dropped, unit="pairs")


# --- for both ----------------------------------------------------------------------------------------------------


def mixture(parts: Mapping[str, Sequence[T]], shares: Mapping[str, float], n: int, *, seed: int = 0) -> Curated[T]:
    """n items drawn from named parts in the given shares (any positive scale), in random order.

    Counts are exact: the largest remainders are rounded up. A part is drawn without replacement; one that is smaller
    than its share is gone through again and again, each item as often as the others (give or take one), and the card
    counts the copies as `repeated`. Which items a part gives depends on the part and the seed only.

        mixture({"gold": clean.items, "recovery": demos.items}, {"gold": 0.88, "recovery": 0.12}, n=400)

    Raises `UnknownName` for a share of no part, `ConfigError` for a part without share, a share that is negative or not
    finite, shares that are all 0, or n < 1; `DataError` for an empty part that has a share.
    """
    for name in shares:
        if name not in parts:
            raise UnknownName("part", name, parts)
    if missing := [name for name in parts if name not in shares]:
        raise ConfigError(f"no share for {', '.join(missing)}: give 0 to leave a part out")
    if any(not (math.isfinite(share) and share >= 0) for share in shares.values()):
        raise ConfigError(f"shares must be finite and not negative, got {dict(shares)}")
    total = math.fsum(shares.values())
    if total == 0:
        raise ConfigError("all shares are 0")
    if n < 1:
        raise ConfigError(f"n must be 1 or more, got {n}")

    names = sorted(parts)  # not by the order in which a dict was filled
    exact = {name: n * shares[name] / total for name in names}
    counts = {name: math.floor(exact[name]) for name in names}
    short = n - sum(counts.values())
    by_remainder = sorted((name for name in names if shares[name] > 0), key=lambda name: counts[name] - exact[name])
    for name in by_remainder[:short]:
        counts[name] += 1

    out: list[T] = []
    dropped: dict[str, int] = {}
    repeated = 0
    for name in names:
        items, count = parts[name], counts[name]
        if count and not items:
            raise DataError(f"part {name!r} is empty, but {count} of {n} items are to come from it")
        rng = random.Random(f"{seed}:{name}")
        order: list[int] = []
        while len(order) < count:
            order.extend(rng.sample(range(len(items)), len(items)))
        out.extend(items[i] for i in order[:count])
        repeated += max(0, count - len(items))
        if count < len(items):
            dropped[f"of {name} not drawn"] = len(items) - count
    random.Random(f"{seed}:").shuffle(out)
    came_in = sum(len(items) for items in parts.values())
    return Curated(tuple(out), Card(came_in, len(out), dropped, repeated, unit="items"))


def _curated(
    what: str, kept: Sequence[T], came_in: int, dropped: Counter[str], *, unit: str = "trajectories"
) -> Curated[T]:
    card = Card(came_in, len(kept), dict(dropped.most_common()), unit=unit)
    if came_in and not kept:
        raise DataError(f"{what} has nothing left: {card}")
    return Curated(tuple(kept), card)
