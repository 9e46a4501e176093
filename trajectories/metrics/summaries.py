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
    turns_over_expert,
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

__all__ = ["MEASURES", "EvalSummary", "Measure", "Seen", "measure", "not_measured", "seen", "summary", "untold_calls"]


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
    untold: int
    """Calls of them whose outcome was inferred: in no other number here."""
    outcomes: dict[Outcome, float]
    """Per 100 calls whose outcome is known."""
    reward: float | None
    turns: float | None
    sampled_tokens: float | None
    """Tokens that the policy sampled, per episode that has tokens."""
    turns_over_expert: float | None
    blind_retries: float | None
    """Per episode whose outcomes are known."""
    duplicate_effects: float | None
    """Per episode whose effects are known."""


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
        untold=untold_calls(judged)[0],
        outcomes=outcome_mix(judged),
        reward=mean(t.reward for t in judged if math.isfinite(t.reward)),
        turns=mean(len(t.turns) for t in judged),
        sampled_tokens=mean(sum(t.tokens.sampled) for t in judged if t.tokens is not None),
        turns_over_expert=turns_over_expert(judged),
        blind_retries=mean(blind_retries(t) for t in judged if t.outcomes_known),
        duplicate_effects=mean(duplicate_effects(t) for t in judged if t.effects_known),
    )


def untold_calls(trajectories: Iterable[Trajectory]) -> tuple[int, int]:
    """Calls whose outcome was inferred, since an imported record does not say it; and all calls."""
    told = [r.inferred for t in trajectories for r in t.results()]
    return sum(told), len(told)


def not_measured(trajectories: Iterable[Trajectory]) -> list[str]:
    """What of these episodes was inferred at import and not measured, a sentence each."""
    held = list(trajectories)
    said = []
    untold, calls = untold_calls(held)
    if untold:
        said.append(
            f"the record does not say how {untold} of {calls} calls ended: they are in no number of failures, recovery "
            "or waste"
        )
    for what, means in (("success", "was inferred at import"), ("reward", "was inferred from success at import")):
        n = sum(what in t.meta.get("inferred", ()) for t in held)
        if n:
            said.append(f"{what} of {n} of {len(held)} episodes {means}, not measured")
    prompts = sum(t.meta.get("task_from") == "prompt" for t in held)
    if prompts:
        said.append(
            f"tasks of {prompts} of {len(held)} episodes are told apart by their prompt alone: pass@k, pass^k and "
            "intervals may go by wrong tasks"
        )
    return said


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


def _when_told(count: Callable[[Seen], float], over: Callable[[Seen], float] = lambda s: 1.0) -> Callable[[Seen], Part]:
    """A count of failures says nothing where outcomes were inferred."""
    return lambda s: (float(count(s)), float(over(s))) if s.t.outcomes_known else _NOTHING


def _calls(s: Seen) -> float:
    return float(sum(1 for _ in s.t.results()))


def _failed_calls(s: Seen) -> Part:
    told = [r for r in s.t.results() if not r.inferred]
    return float(sum(not r.ok for r in told)), float(len(told))


def _tokens(s: Seen) -> Part:
    return _NOTHING if s.t.tokens is None else (float(sum(s.t.tokens.sampled)), 1.0)


def _over_expert(s: Seen) -> Part:
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
    Measure("turns over expert", "successes, expert_turns known", "less", _over_expert),
    Measure("wasted calls", "calls", "less", _when_told(lambda s: wasted_calls(s.t, s.roles), _calls)),
    Measure("repeated failures", "episodes", "less", _when_told(lambda s: repeated_failures(s.t))),
    Measure("blind retries", "episodes", "less", _when_told(lambda s: blind_retries(s.t))),
    Measure("duplicate effects", "episodes", "less",
            lambda s: _when(s.t.effects_known, duplicate_effects(s.t))),
    Measure("failed calls", "calls", "", _failed_calls),
    Measure("calls", "episodes", "", lambda s: _when(True, _calls(s))),
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
