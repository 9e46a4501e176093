"""How agents work: waste, duplicate effects, giving up, order of steps, resilience, forgetting."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..messages import Json, Outcome, ToolCall, ToolResult
from ..trajectory import StopReason, Trajectory
from .rates import Estimate, Rate, mean, rate, ratio, resampled, split, task_of
from .recovery import Roles, ToolRoles, calls_of, declined, roles_of, same_call

__all__ = [
    "Abstention",
    "Edge",
    "PlannedCall",
    "abstention",
    "blind_retries",
    "cannot_be_done",
    "duplicate_effects",
    "false_success",
    "kl_from_base",
    "outcome_mix",
    "plan_order",
    "precedence",
    "repeated_failures",
    "resilience",
    "turns_over_expert",
    "wasted_calls",
]

_MAY_PASS = frozenset({Outcome.UNAVAILABLE, Outcome.TIMEOUT, Outcome.TOOL_ERROR, Outcome.CRASHED})
"""Failures after which the very same call is a sensible next move, `_PATIENCE` times."""
_PATIENCE = 2
_IN_DOUBT = frozenset({Outcome.CONFLICT, Outcome.TIMEOUT, Outcome.CRASHED})
"""After these, what was read before may no longer hold."""
_TELLING = 2
"""Characters that an argument needs before its place in an earlier result says where it came from."""

Condition = Callable[[Trajectory], bool]


@dataclass(frozen=True, slots=True)
class Abstention:
    """Giving up, as a decision: right where the task could not be done, wrong where it could."""

    precision: Rate
    """Of the episodes in which the agent gave up: share that could not be done."""
    recall: Rate
    """Of the episodes that could not be done: share in which the agent gave up."""
    premature: Rate
    """Of the episodes that could be done: share in which the agent gave up and had not succeeded."""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call of a plan: the tool, and the arguments that it has to have; others are free."""

    tool: str
    arguments: tuple[tuple[str, Json], ...] = ()

    def matches(self, call: ToolCall) -> bool:
        held = call.arguments or {}
        return call.name == self.tool and all(name in held and held[name] == value for name, value in self.arguments)


Edge = tuple[PlannedCall, PlannedCall]
"""The first has to be done before the second."""


# ---- waste -----------------------------------------------------------------------------------------------------------


def blind_retries(trajectory: Trajectory) -> int:
    """Calls that repeat, in the very next turn, a call that had just failed, and fail again with the same outcome.

    A repetition that succeeds was no waste. Twins within one turn are not retries: the agent had not seen the failure.
    """
    count = 0
    before: list[tuple[ToolCall, ToolResult]] = []
    for turn in trajectory.turns:
        now = list(zip(turn.action.tool_calls, turn.results, strict=False))
        count += sum(
            not result.ok and any(same.outcome is result.outcome and same_call(call, old) for old, same in before)
            for call, result in now
        )
        before = now
    return count


def repeated_failures(trajectory: Trajectory) -> int:
    """Failed calls that an identical call of an earlier turn had already failed as, with the same outcome, where
    repeating was not the right thing.

    It is right, twice in a row, where failure may pass (unavailable, timeout, tool_error, crashed). After any other
    outcome something else has to come first: if it came and was the right thing, the call does not fail the same way.
    """
    return sum(not result.ok for _, result in _wasted(trajectory, frozenset(), ToolRoles()))


def wasted_calls(trajectory: Trajectory, roles: Roles | None = None) -> int:
    """Calls that changed nothing and told nothing new: `repeated_failures`, and good calls whose tool, arguments and
    result had all been there before.

    Waiting is no waste, nor is a login after the session had expired, nor a second look where the world may have
    changed since the first: a call came to conflict, timeout or crashed, or a tool known to change the world
    (`ToolRoles`) ran well. Those tools themselves are left out: see `duplicate_effects`. Where they are not known, a
    repeated write with the same answer counts.
    """
    of_env = roles_of(trajectory, roles)
    return sum(1 for _ in _wasted(trajectory.undisguised, of_env.effects | of_env.waits, of_env))


def _wasted(t: Trajectory, spared: frozenset[str], roles: ToolRoles) -> Iterator[tuple[ToolCall, ToolResult]]:
    seen: dict[str, list[tuple[ToolCall, ToolResult, int]]] = {}
    expired = doubted = -1  # the turns in which a session had expired, and the world may have changed, last
    for i, turn in enumerate(t.turns):
        for call, result in zip(turn.action.tool_calls, turn.results, strict=False):
            same = [(r, at) for other, r, at in seen.get(call.name, ()) if same_call(other, call)]
            seen.setdefault(call.name, []).append((call, result, i))
            if result.outcome is Outcome.UNAUTHENTICATED:
                expired = i
            if result.outcome in _IN_DOUBT or (result.ok and call.name in roles.effects):
                doubted = i
            if result.ok:
                told = [at for r, at in same if r.ok and r.content == result.content]
                since = expired if call.name in roles.logs_in else doubted
                if told and call.name not in spared and since < told[-1]:
                    yield call, result
            elif _repeats([r for r, at in same if at < i], result):
                yield call, result


def _repeats(before: Sequence[ToolResult], result: ToolResult) -> bool:
    """Whether a failure is a repetition that should not have been; `before`: results of the same call, in order."""
    if not before or before[-1].outcome is not result.outcome:
        return False
    if result.outcome not in _MAY_PASS:
        return True
    row = 0
    for earlier in reversed(before):
        if earlier.outcome not in _MAY_PASS:
            break
        row += 1
    return row > _PATIENCE


def duplicate_effects(trajectory: Trajectory) -> int:
    """Calls whose effect took place although that of an identical earlier call, reported as failed, had too:
    the payment made twice because the first one's reply was lost."""
    count = 0
    lost: list[ToolCall] = []
    for call, result in calls_of(trajectory):
        if result.took_effect:
            count += any(same_call(call, earlier) for earlier in lost)
            if not result.ok:
                lost.append(call)
    return count


def outcome_mix(trajectories: Iterable[Trajectory]) -> dict[Outcome, float]:
    """Each outcome's number per 100 calls of judged episodes, in the order of `Outcome`; absent ones are left out. Only
    calls whose record says how they ended: what was inferred is in no share."""
    counts = Counter(r.outcome for t in split(trajectories)[0] for r in t.results() if not r.inferred)
    return {outcome: 100 * counts[outcome] / counts.total() for outcome in Outcome if counts[outcome]}


def turns_over_expert(trajectories: Iterable[Trajectory]) -> float | None:
    """Mean of turns - expert_turns over the *successful* episodes where it is known. Failures are left out: giving up
    in the first turn is no economy. The count is the expert's, under the same faults."""
    return mean(
        len(t.turns) - t.expert_turns
        for t in split(trajectories)[0]
        if t.success is True and t.expert_turns is not None
    )


# ---- giving up, and claiming -----------------------------------------------------------------------------------------


def false_success(trajectories: Iterable[Trajectory]) -> Rate:
    """Of the episodes that the agent ended as if all were done (`StopReason.FINISHED`): share in which it was not.

    An honest "I could not do it" is `StopReason.DECLINED`, and in neither the numerator nor the denominator.
    """
    judged, out = split(trajectories)
    finished = (t for t in judged if t.stop is StopReason.FINISHED)
    return rate((t.success is not True for t in finished), excluded=out)


def cannot_be_done(t: Trajectory) -> bool:
    """Whether a fault had blocked every route: `impossible` struck."""
    return "impossible" in t.faults_hit


def abstention(trajectories: Iterable[Trajectory], hopeless: Condition = cannot_be_done) -> Abstention:
    """Precision and recall of giving up (`declined`), and how often it was premature. `hopeless` says which tasks could
    not be done: by default those that the fault `impossible` struck."""
    judged, out = split(trajectories)
    rows = [(declined(t), hopeless(t), t.success is True) for t in judged]
    return Abstention(
        rate((lost for quit_, lost, _ in rows if quit_), excluded=out),
        rate((quit_ for quit_, lost, _ in rows if lost), excluded=out),
        rate((quit_ and not won for quit_, lost, won in rows if not lost), excluded=out),
    )


# ---- the order of steps ----------------------------------------------------------------------------------------------


def precedence(reference: Trajectory) -> list[Edge]:
    """What has to come before what, read from a good episode: a call comes after the latest one whose result first
    showed an argument that it uses. Arguments that are in the prompt come from nowhere else.

    Steps name all their arguments, so edges hold for the same task (and its world), not for another.
    """
    reference = reference.undisguised
    said = "\n".join(message.content for message in reference.prompt) or reference.task.instruction
    edges: list[Edge] = []
    done: list[tuple[ToolCall, ToolResult]] = []
    for turn in reference.turns:
        good = [(c, r) for c, r in zip(turn.action.tool_calls, turn.results, strict=False) if r.ok and c.arguments]
        for call, _ in good:
            for value in _leaves(call.arguments):
                source = next((c for c, r in reversed(done) if _stands_in(value, r.content)), None)
                if source is not None and not _stands_in(value, said):
                    edge = (_planned(source), _planned(call))
                    if edge not in edges and edge[0] != edge[1]:
                        edges.append(edge)
        done += good
    return edges


def plan_order(trajectories: Iterable[Trajectory], edges: Callable[[Trajectory], Iterable[Edge]]) -> Estimate:
    """Share of precedence edges that were respected, over judged episodes.

    An edge (a, b) counts where b was carried out (a good call matches it), and is respected where a was carried out in
    an earlier turn. Edges whose b never came are in no denominator: failing to finish is not working in wrong order.
    `edges` gives an episode's own: `lambda t: precedence(gold[t.task.id])`.
    """
    parts = []
    for t in split(trajectories)[0]:
        respected = counted = 0
        for before, after in edges(t):
            at = _first(t, after)
            if at is not None:
                earlier = _first(t, before)
                counted += 1
                respected += earlier is not None and earlier < at
        parts.append((task_of(t), float(respected), float(counted)))
    return ratio(parts)


def _first(t: Trajectory, planned: PlannedCall) -> int | None:
    """The turn in which a step was first carried out."""
    for i, turn in enumerate(t.undisguised.turns):
        for call, result in zip(turn.action.tool_calls, turn.results, strict=False):
            if result.ok and planned.matches(call):
                return i
    return None


def _planned(call: ToolCall) -> PlannedCall:
    return PlannedCall(call.name, tuple(sorted((call.arguments or {}).items())))


def _leaves(value: Json) -> Iterator[str]:
    """Texts and numbers in a JSON value that are long enough to be told from any other."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and len(str(value)) >= _TELLING:
        yield str(value)


def _stands_in(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


# ---- against another condition, or another policy --------------------------------------------------------------------


def resilience(
    clean: Iterable[Trajectory], faulty: Iterable[Trajectory], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Success under faults / clean success, over the tasks that have judged episodes of both kinds.

    Its value is None when there is no such task, or no clean success to keep. The interval draws tasks with all their
    episodes of both kinds; draws without a clean success are left out. `n` is the number of faulty episodes.
    """
    sums: dict[tuple[str, str], list[float]] = {}  # task -> clean successes, clean, faulty successes, faulty
    for at, side in ((0, clean), (2, faulty)):
        for t in split(side)[0]:
            held = sums.setdefault(task_of(t), [0.0, 0.0, 0.0, 0.0])
            held[at] += t.success is True
            held[at + 1] += 1
    rows = np.array([s for s in sums.values() if s[1] and s[3]], dtype=np.float64).reshape(-1, 4)  # (tasks, 4)
    won, played, kept, struck = rows.sum(axis=0)
    if not won:
        return Estimate(None, None, None, float(struck), len(rows))
    value = float(kept / struck / (won / played))
    if len(rows) < 2 or not (np.ptp(rows[:, 0] / rows[:, 1]) > 0 or np.ptp(rows[:, 2] / rows[:, 3]) > 0):
        return Estimate(value, None, None, float(struck), len(rows))
    drawn = resampled(rows, resamples=resamples, seed=seed)  # (resamples, 4)
    drawn = drawn[drawn[:, 0] > 0]
    low, high = np.quantile(drawn[:, 2] / drawn[:, 3] / (drawn[:, 0] / drawn[:, 1]), [0.025, 0.975])
    return Estimate(value, float(low), float(high), float(struck), len(rows))


def kl_from_base(base: Sequence[Trajectory], logprobs: Sequence[Sequence[float]]) -> Estimate:
    """KL(π_0 ‖ π) per sampled token, in nats: mean of log π_0 - log π over the tokens that π_0 sampled.

    `base` are episodes of π_0 with tokens (on held-out environments: what was forgotten); `logprobs` holds, for each of
    them, log π of every token of `Tokens.ids`, of which those that were sampled are read, at the temperature of the
    episode, as its own are. Unbiased, so of a small sample it may be below 0. Episodes without tokens are left out.
    Raises `DataError` where the two do not align.
    """
    if len(base) != len(logprobs):
        raise DataError(f"expected log-probabilities of {len(base)} episodes, got those of {len(logprobs)}")
    parts = []
    for t, now in zip(base, logprobs, strict=True):
        if t.tokens is None:
            continue
        if len(now) != len(t.tokens):
            raise DataError(f"episode {t.id} has {len(t.tokens)} tokens, and log-probabilities of {len(now)}")
        gaps = [a - b for a, b, m in zip(t.tokens.logprobs, now, t.tokens.sampled, strict=True) if m]
        if not all(map(math.isfinite, gaps)):
            raise DataError(f"episode {t.id}: a log-probability of a sampled token is no finite number")
        parts.append((task_of(t), math.fsum(gaps), float(len(gaps))))
    return ratio(parts)
