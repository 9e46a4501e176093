"""Words that several commands print: counts, conditions, paragraphs, names of files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..trajectories import Trajectory

__all__ = ["condition_name", "count", "file_name", "paragraph", "taken_for_good"]

_WIDTH = 80


def count(n: int, one: str, many: str = "") -> str:
    """`1 episode`, `2 episodes`."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def condition_name(plan: str) -> str:
    """A fault plan's one-line form, as the head of a column."""
    from ..tools.plans import FaultPlan

    body = plan.rpartition("@")[0]
    every = {str(FaultPlan(count=n)).rpartition("@")[0]: name for n, name in ((1, "one fault"), (2, "two faults"))}
    return every.get(body, body) or "clean"


def file_name(text: str) -> str:
    """What a file may be called that is about `text`."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "run"


def paragraph(text: str, indent: str, hanging: str | None = None) -> str:
    """Lines of at most 80 characters; all but the first are indented by `hanging`, if it is given."""
    after = indent if hanging is None else hanging
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=after)


def taken_for_good(episodes: Iterable[Trajectory]) -> str:
    """What to know before learning from episodes whose source does not say how calls ended; empty: it does."""
    from ..trajectories.metrics.summaries import untold_calls

    untold, calls = untold_calls(episodes)
    if not untold:
        return ""
    return (
        f"the record does not say how {untold} of {calls} calls ended: they are taken for good, and mistakes among "
        "them would be learned; sparring import --errors says which failed"
    )
