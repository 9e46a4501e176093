"""What the page and the terminal share: `Arm`, and how numbers and results are put into words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...messages import ToolCall, ToolResult
from ...trajectory import Trajectory

__all__ = ["Arm", "arguments", "chips", "condition_names", "effect", "p_text", "percent", "points"]


@dataclass(frozen=True)
class Arm:
    """One agent that was evaluated."""

    name: str
    note: str = ""
    """One line: what it is."""
    conditions: dict[str, Sequence[Trajectory]] = field(default_factory=dict)
    """Condition ("clean", "one fault", "held-out" ...) -> its episodes."""


def condition_names(arms: Sequence[Arm]) -> list[str]:
    """Conditions of all arms, in order of first appearance."""
    return list(dict.fromkeys(name for arm in arms for name in arm.conditions))


def chips(result: ToolResult) -> Iterable[str]:
    """What is known of a result next to its text, each in words."""
    yield result.outcome.value + (" (inferred)" if result.inferred else "")
    if result.cause is not None:
        yield f"cause {result.cause.value}"
    if result.fault is not None:
        yield f"fault {result.fault}"
    if took_effect := effect(result):
        yield took_effect
    if result.retry_of is not None:
        yield f"retry of {result.retry_of}"


def effect(result: ToolResult) -> str:
    """Whether a failed call was carried out, in words that are true of a read too: it has no effect that could take
    place. Empty for a good call, which was carried out as it says."""
    if result.ok:
        return "not carried out" if result.took_effect is False and result.fault is not None else ""
    if result.took_effect is None:
        return "may have been carried out"
    return "carried out all the same" if result.took_effect else "not carried out"


def arguments(call: ToolCall, *, indent_beyond: int | None = None) -> str:
    """A call's arguments as JSON, indented where one line would be longer than `indent_beyond`; as they were sampled
    where they could not be parsed, or nest too deeply."""
    if call.arguments is None:
        return call.raw
    try:
        line = json.dumps(call.arguments, ensure_ascii=False, default=str)
        if indent_beyond is None or len(line) <= indent_beyond:
            return line
        return json.dumps(call.arguments, ensure_ascii=False, default=str, indent=2)
    except (RecursionError, ValueError):
        return call.raw or "(nested too deeply to be shown)"


def percent(share: float) -> str:
    """Whole per cent; what is not all or nothing never reads as 100% or 0%."""
    text = f"{100 * share:.0f}%"
    if text == "100%" and share < 1:
        return ">99%"
    return "<1%" if text == "0%" and share > 0 else text


def points(difference: float) -> str:
    """Signed percentage points."""
    return f"{100 * difference:+.1f}"


def p_text(p: float) -> str:
    return "p<0.0001" if p < 1e-4 else f"p={p:.4f}" if p < 1e-3 else f"p={p:.3f}"
