"""What episodes cost: tokens, money and time of agents whose models count them. Defines `Spent`, `spent`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..messages import Json
from ..trajectory import Trajectory

__all__ = ["Spent", "spent"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Sums over episodes, those that were not judged included: they were paid for too."""

    episodes: int
    """Episodes that say what they took."""
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    """Answers whose tokens the server did not count."""
    cost: float
    """US dollars, of the answers whose price is known."""
    unpriced: int
    """Answers whose price is not known."""
    answers: int
    seconds: float
    """Spent waiting for the model; episodes that ran at once each count."""


def spent(trajectories: Iterable[Trajectory]) -> Spent | None:
    """What the model's answers took, by `meta["usage"]` of the records; None where none says it (scripts, engines)."""
    held = [usage for t in trajectories if isinstance(usage := t.meta.get("usage"), dict)]
    if not held:
        return None

    def whole(name: str) -> int:
        return sum(int(_number(usage, name)) for usage in held)

    return Spent(
        episodes=len(held),
        prompt_tokens=whole("prompt_tokens"),
        completion_tokens=whole("completion_tokens"),
        uncounted=whole("uncounted"),
        cost=sum(_number(usage, "cost") for usage in held),
        unpriced=whole("unpriced"),
        answers=whole("answers"),
        seconds=sum(_number(usage, "seconds") for usage in held),
    )


def _number(usage: dict[str, Json], name: str) -> float:
    value = usage.get(name, 0)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
