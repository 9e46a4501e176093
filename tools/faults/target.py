"""One entry of a fault plan: a kind, and where it is narrowed, to which tools and calls. Defines `Target`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ...trajectories.errors import ConfigError, UnknownName
from .base import FAULTS

__all__ = ["Target", "call_range", "target_of"]


@dataclass(frozen=True, slots=True)
class Target:
    """What one entry of a plan may strike. Written `kind`, `@tool+tool` where it is narrowed to tools, `#first-last`
    where it is narrowed to calls."""

    kind: str
    tools: tuple[str, ...] = ()
    """Only calls of these; empty: of all tools."""
    first: int = 1
    """The earliest call of the episode that may be struck, from 1. Calls that reach no tool are not counted."""
    last: int | None = None
    """The latest; None: no end."""

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise UnknownName("fault", self.kind, FAULTS)
        for name in self.tools:
            if not re.fullmatch(r"[^\s,:@#+]+", name) or re.fullmatch(r"-?\d+", name):
                raise ConfigError(
                    f"a fault plan cannot name the tool {name!r}: names that are numbers, or hold a space or one of "
                    ", : @ # + have no place in its one-line form; give the tool another name"
                )
        object.__setattr__(self, "tools", tuple(sorted(set(self.tools))))
        if self.first < 1 or (self.last is not None and self.last < self.first):
            raise ConfigError(f"the calls of a fault are counted from 1 and ascend, got {self.first} to {self.last}")

    @classmethod
    def parse(cls, entry: str) -> Target:
        """Reads `unavailable`, `unavailable@refund`, `unavailable@refund+cancel_order#2-5`, `unavailable#3-`."""
        body, mark, calls = entry.partition("#")
        kind, at, tools = body.partition("@")
        first, last = call_range(calls) if mark else (1, None)
        names = tuple(name.strip() for name in tools.split("+")) if at else ()
        return cls(kind.strip(), names, first, last)

    def __str__(self) -> str:
        tools = f"@{'+'.join(self.tools)}" if self.tools else ""
        return f"{self.kind}{tools}{f'#{self.calls}' if self.calls else ''}"

    @property
    def calls(self) -> str:
        """`2-5`, `2-`, `2`; empty where every call may be struck."""
        if self.last == self.first:
            return str(self.first)
        return "" if self.first == 1 and self.last is None else f"{self.first}-{self.last or ''}"

    def meets(self, tool: str, index: int) -> bool:
        """Whether the call of `tool` that is the episode's `index`th, from 0, may be struck."""
        if self.tools and tool not in self.tools:
            return False
        return self.first - 1 <= index and (self.last is None or index < self.last)


def call_range(text: str) -> tuple[int, int | None]:
    """`2-5`, `2-`, `-5`, `2` as (first, last)."""
    if not re.fullmatch(r"\s*(\d+\s*(-\s*\d*)?|-\s*\d+)\s*", text):
        raise ConfigError(f"the calls of a fault are written 2-5, 2-, -5 or 2, got {text.strip()!r}")
    first, dash, last = text.partition("-")
    start = int(first) if first.strip() else 1
    return start, int(last) if last.strip() else None if dash else start


@lru_cache(maxsize=1024)
def target_of(entry: str) -> Target:
    """An entry of a plan, read once."""
    return Target.parse(entry)
