"""What to imitate: per-turn loss weights, gold, successes, recoveries, best of k, rejection sampling, distillation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigError, UnknownName
from ..messages import Cause, Outcome, ToolResult
from ..trajectory import Trajectory, TrajectoryGroup
from .card import Curated, draw_key, not_successful, reward_of, with_card
from .equality import same_turns

__all__ = [
    "best_of",
    "distillation",
    "gold",
    "mistaken",
    "recoveries",
    "rejection_sampling",
    "successes",
    "turn_weights",
    "weighted",
]

_SAYS_NOTHING_AGAINST_THE_CALL = frozenset(
    {Outcome.UNAVAILABLE, Outcome.RATE_LIMITED, Outcome.TIMEOUT, Outcome.CRASHED, Outcome.GONE}
)
"""What a tool may come to for any request. The rest (not_found, conflict, tool_error, ...), raised by the tool of
its own and not by a fault, says that the call was wrong: a made-up id, say."""

_MAY_PASS = frozenset({Outcome.UNAVAILABLE, Outcome.TIMEOUT, Outcome.TOOL_ERROR, Outcome.CRASHED})
"""Failures after which the very same call is a sensible next move, a bounded number of times. After any other the agent
has been told that something else has to come first: wait, log in, look the id up again, repair, switch, or stop."""


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
        wrong = i < inherited or any(mistaken(result, told, gone, patience) for result in turn.results)
        weights.append(0.0 if wrong else turn.weight)
        told.update((result.call_id, result) for result in turn.results)
        gone.update(result.tool for result in turn.results if result.outcome is Outcome.GONE)
    return tuple(weights)


def mistaken(result: ToolResult, told: Mapping[str, ToolResult], gone: set[str], patience: int) -> bool:
    """Whether it was the wrong thing to send, as `turn_weights` has it, given what earlier turns had told."""
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
        if reason := not_successful(t):
            dropped[reason] += 1
        elif not any(weights):
            dropped["no turn to learn from"] += 1
        else:
            turns = (replace(turn, weight=weight) for turn, weight in zip(t.turns, weights, strict=True))
            kept.append(replace(t, turns=tuple(turns)))
    return with_card("gold", kept, came_in, dropped)


def successes(trajectories: Iterable[Trajectory]) -> Curated[Trajectory]:
    """Successful trajectories as they are: every sampled turn is trained, failed calls too. The baseline of `gold`."""
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for t in trajectories:
        came_in += 1
        if reason := not_successful(t):
            dropped[reason] += 1
        else:
            kept.append(t)
    return with_card("successes", kept, came_in, dropped)


def best_of(groups: Iterable[TrajectoryGroup], k: int = 1) -> Curated[Trajectory]:
    """Rejection sampling: of each group the k best *successful* trajectories, k at most.

    Best is the higher reward, then fewer turns, then the earlier in the group. Of two with the same turns one counts.
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
        dropped.update(reason for t in group.trajectories if (reason := not_successful(t)))
        solved = [t for t in group.trajectories if not not_successful(t)]
        for t in sorted(solved, key=lambda t: (-reward_of(t), len(t.turns))):  # stable: ties keep the group's order
            if any(same_turns(t, other) for other in best):
                dropped["same turns as a kept one"] += 1
            elif len(best) == k:
                dropped[f"beyond the best {k}"] += 1
            else:
                best.append(t)
        kept.extend(best)
    return with_card("best_of", kept, came_in, dropped)


def weighted(trajectories: Iterable[Trajectory], *, patience: int = 2) -> Curated[Trajectory]:
    """All trajectories, with the weights of `turn_weights`; dropped is what then has no turn to learn from."""
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for t in trajectories:
        came_in += 1
        weights = turn_weights(t, patience=patience)
        if any(weights):
            turns = (replace(turn, weight=weight) for turn, weight in zip(t.turns, weights, strict=True))
            kept.append(replace(t, turns=tuple(turns)))
        else:
            dropped["no turn to learn from"] += 1
    return with_card("turn_weights", kept, came_in, dropped)


def recoveries(trajectories: Iterable[Trajectory], *, patience: int = 2) -> Curated[Trajectory]:
    """Demonstrations of recovery: `gold` of the episodes that succeeded although something went wrong on the way.

    Something went wrong: a call failed, or a fault struck (one that the agent had to notice itself counts too).
    """
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for t in trajectories:
        came_in += 1
        if reason := not_successful(t):
            dropped[reason] += 1
        elif not t.faults_hit and not t.failed_calls():
            dropped["with nothing to recover from"] += 1
        else:
            kept.append(t)
    return _then(weighted, with_card("recoveries", kept, came_in, dropped), patience=patience)


def rejection_sampling(
    groups: Iterable[TrajectoryGroup], *, k: int = 4, hardest: float = 1.0, seed: int = 0
) -> Curated[Trajectory]:
    """Of each group up to `k` different successes, drawn at random: what the policy does when it is right.

    `best_of` prefers the higher reward; this keeps the policy's own variety. A group of which more than the share
    `hardest` succeeded is passed over: what is solved nearly always has little left to teach. A group without success
    gives nothing; the weights of turns are left alone (`gold` sets them).
    """
    if k < 1:
        raise ConfigError(f"k must be 1 or more, got {k}")
    if not 0 < hardest <= 1:
        raise ConfigError(f"hardest is a share of successes above 0 and up to 1, got {hardest}")
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    came_in = 0
    for group in groups:
        members = group.trajectories
        came_in += len(members)
        dropped.update(reason for t in members if (reason := not_successful(t)))
        solved = [t for t in members if not not_successful(t)]
        judged = sum(t.judged for t in members)
        if judged and len(solved) / judged > hardest:
            dropped[f"of a task solved more often than {hardest:g}"] += len(solved)
            continue
        drawn: list[Trajectory] = []
        for t in sorted(solved, key=lambda t: draw_key(seed, t)):
            if any(same_turns(t, other) for other in drawn):
                dropped["same turns as a kept one"] += 1
            elif len(drawn) == k:
                dropped[f"beyond {k} of a group"] += 1
            else:
                drawn.append(t)
        kept.extend(drawn)
    return with_card("rejection_sampling", kept, came_in, dropped)


def distillation(
    trajectories: Iterable[Trajectory], *, teacher: str, student: str = "", patience: int = 2
) -> Curated[Trajectory]:
    """A stronger agent's successful episodes, made ready for another model: `gold`, in the student's own form.

    Args:
        teacher: The agent's name, as its trajectories have it.
        student: Another agent's name: only tasks (under the same faults) that it has tried and never solved are kept.

    The teacher's token ids are of its own vocabulary and are dropped, and so is the verbatim text of well-formed calls:
    the student's chat format writes them anew. Raises `UnknownName` for an agent that played none of the episodes.
    """
    held = list(trajectories)
    agents = {t.agent for t in held}
    for name in (teacher, student) if student else (teacher,):
        if held and name not in agents:
            raise UnknownName("agent among these episodes", name, agents)
    if teacher == student:
        raise ConfigError(f"teacher and student are both {teacher!r}")
    tried: dict[tuple[str, str, str], bool] = {}
    for t in held:
        if t.agent == student and t.judged:
            key = (t.env, t.task.id, t.faults)
            tried[key] = tried.get(key, False) or bool(t.success)
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    for t in held:
        solved = tried.get((t.env, t.task.id, t.faults))
        if t.agent != teacher:
            dropped["of another agent"] += 1
        elif reason := not_successful(t):
            dropped[reason] += 1
        elif student and solved is None:
            dropped["of a task that the student has not tried"] += 1
        elif solved:
            dropped["of a task that the student solves"] += 1
        else:
            kept.append(_in_no_vocabulary(t))
    return _then(weighted, with_card("distillation", kept, len(held), dropped), patience=patience)


def _in_no_vocabulary(t: Trajectory) -> Trajectory:
    turns = []
    for turn in t.turns:
        calls = tuple(replace(c, raw="") if c.arguments is not None else c for c in turn.action.tool_calls)
        turns.append(replace(turn, action=replace(turn.action, tool_calls=calls), span=None))
    return replace(t, turns=tuple(turns), tokens=None)


def _then(rule: Callable[..., Curated[Trajectory]], first: Curated[Trajectory], **settings: Any) -> Curated[Trajectory]:
    """A second rule on what the first one kept, with one card for both."""
    second = rule(first.items, **settings)
    dropped = Counter(first.card.dropped) + Counter(second.card.dropped)
    return with_card("it", second.items, first.card.came_in, dropped)
