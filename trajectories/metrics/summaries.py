"""All metrics at once: `summary` for the tables of a report, `MEASURES` and `measure` with an interval each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ..messages import Cause, Outcome
from ..trajectory import StopReason, Trajectory, TrajectoryGroup
from .behaviour import (
    blind_retries,
    cannot_be_done,
    duplicate_effects,
    false_success,
    outcome_mix,
    repeated_failures,
    steps_over_optimal,
    wasted_calls,
)
from .rates import Estimate, PassK, Rate, mean, pass_at_k, pass_hat_k, ratio, split, success_rate, task_of
from .recovery import (
    Blockage,
    Roles,
    blockages,
    declined,
    failed,
    recovery_by_cause,
    recovery_rate,
    success_by_fault,
)

__all__ = ["MEASURES", "EvalSummary", "Measure", "Seen", "measure", "seen", "summary"]


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


def summary(trajectories: Iterable[Trajectory]) -> EvalSummary:
    """The metrics of one arm under one condition."""
    every = list(trajectories)
    judged, _ = split(every)
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
        reward=mean(t.reward for t in judged if math.isfinite(t.reward)),
        turns=mean(len(t.turns) for t in judged),
        sampled_tokens=mean(sum(t.tokens.sampled) for t in judged if t.tokens is not None),
        steps_over_optimal=steps_over_optimal(judged),
        blind_retries=mean(blind_retries(t) for t in judged),
        duplicate_effects=mean(duplicate_effects(t) for t in judged),
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A judged episode, with what several measures ask of it worked out once."""

    t: Trajectory
    blockages: list[Blockage]
    roles: Roles | None

    @property
    def told(self) -> list[Blockage]:
        """Blockages that the agent was told of."""
        return [one for one in self.blockages if one.told]

    @property
    def gave_up(self) -> bool:
        return declined(self.t)

    @property
    def won(self) -> bool:
        return self.t.success is True


Part = tuple[float, float]
"""What one episode adds to (numerator, denominator); a denominator of 0: it says nothing."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as a ratio of two sums over episodes: one function says what an episode adds to each."""

    name: str
    over: str
    """The denominator, in a word or two. Episodes are judged ones throughout."""
    better: Literal["more", "less", ""]
    part: Callable[[Seen], Part]


_NOTHING: Part = (0.0, 0.0)


def _when(condition: bool, value: float) -> Part:
    return (float(value), 1.0) if condition else _NOTHING


def _tokens(s: Seen) -> Part:
    return _NOTHING if s.t.tokens is None else (float(sum(s.t.tokens.sampled)), 1.0)


def _over_optimal(s: Seen) -> Part:
    return _NOTHING if s.t.expert_turns is None or not s.won else (float(len(s.t.turns) - s.t.expert_turns), 1.0)


def _of(count: Callable[[Blockage], bool], among: Callable[[Seen], list[Blockage]]) -> Callable[[Seen], Part]:
    return lambda s: (float(sum(map(count, among(s)))), float(len(among(s))))


def _mean_of(value: Callable[[Blockage], int | None]) -> Callable[[Seen], Part]:
    def part(s: Seen) -> Part:
        held = [v for one in s.told if (v := value(one)) is not None]
        return float(sum(held)), float(len(held))

    return part


MEASURES: tuple[Measure, ...] = (
    Measure("success", "episodes", "more", lambda s: _when(True, s.won)),
    Measure("recovery", "episodes with a failed call", "more", lambda s: _when(failed(s.t), s.won)),
    Measure(
        "fault recovery", "failures", "more",
        _of(lambda one: one.resolved is not None, lambda s: s.told),
    ),
    Measure("right strategy", "faults", "more",
            _of(lambda one: one.right, lambda s: [one for one in s.blockages if one.fault is not None])),
    Measure("turns to recovery", "failures recovered from", "less", _mean_of(lambda one: one.turns)),
    Measure("tokens to recovery", "recovered, tokens known", "less", _mean_of(lambda one: one.tokens)),
    Measure(
        "unresolved", "failures", "less",
        _of(lambda one: one.resolved is None, lambda s: s.told),
    ),
    Measure(
        "false success", "ended by it, not given up", "less",
        lambda s: _when(s.t.stop is StopReason.FINISHED, not s.won),
    ),
    Measure("abstention precision", "episodes given up", "more",
            lambda s: _when(s.gave_up, cannot_be_done(s.t))),
    Measure("abstention recall", "impossible episodes", "more",
            lambda s: _when(cannot_be_done(s.t), s.gave_up)),
    Measure("premature give-up", "possible episodes", "less",
            lambda s: _when(not cannot_be_done(s.t), s.gave_up and not s.won)),
    Measure("steps over optimal", "successes, expert_turns known", "less", _over_optimal),
    Measure("wasted calls", "calls", "less",
            lambda s: (float(wasted_calls(s.t, s.roles)), float(sum(1 for _ in s.t.results())))),
    Measure("repeated failures", "episodes", "less", lambda s: _when(True, repeated_failures(s.t))),
    Measure("blind retries", "episodes", "less", lambda s: _when(True, blind_retries(s.t))),
    Measure("duplicate effects", "episodes", "less", lambda s: _when(True, duplicate_effects(s.t))),
    Measure("failed calls", "calls", "", lambda s: (float(s.t.failed_calls()), float(sum(1 for _ in s.t.results())))),
    Measure("calls", "episodes", "", lambda s: _when(True, sum(1 for _ in s.t.results()))),
    Measure("turns", "episodes", "", lambda s: _when(True, len(s.t.turns))),
    Measure("sampled tokens", "episodes with tokens", "", _tokens),
    Measure("reward", "episodes, reward finite", "more",
            lambda s: _when(True, s.t.reward) if math.isfinite(s.t.reward) else _NOTHING),
)  # fmt: skip
"""Every metric that is a ratio of sums over episodes, in the order of tables. To add one: an entry here."""


def seen(trajectories: Iterable[Trajectory], roles: Roles | None = None) -> list[Seen]:
    """The judged episodes, ready to be measured."""
    return [Seen(t, blockages(t, roles), roles) for t in split(trajectories)[0]]


def measure(trajectories: Iterable[Trajectory], roles: Roles | None = None) -> dict[str, Estimate]:
    """Every one of `MEASURES` by name, with the interval of a bootstrap over tasks."""
    held = seen(trajectories, roles)
    return {m.name: ratio((task_of(s.t), *m.part(s)) for s in held) for m in MEASURES}
