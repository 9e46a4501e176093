"""What of a plan is still to strike in an episode, and what is in force. Defines `FaultState`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...trajectories.messages import Json
from ..definition import Tool
from .base import FAULTS, FaultMemory, FaultSite, Injection, Struck
from .target import target_of

__all__ = ["FaultState"]

_WAIT = 5
"""Ticks that a tool which waits lets pass."""


@dataclass(slots=True)
class FaultState(FaultMemory):
    """The faults of one episode: what is still to strike, what is in force. Copied by `snapshot`."""

    pending: list[tuple[str, int]] = field(default_factory=list)
    """(entry, earliest call index), by count plans."""
    rates: dict[str, float] = field(default_factory=dict)
    """Entry -> probability."""
    hit: list[str] = field(default_factory=list)
    """Kinds that have struck, in order."""

    def copy(self) -> FaultState:
        return FaultState(
            self.key,
            self.calls,
            self.ticks,
            dict(self.per_tool),
            {kind: dict(left) for kind, left in self.memory.items()},
            set(self.lost),
            list(self.pending),
            dict(self.rates),
            list(self.hit),
        )

    @property
    def impossible(self) -> bool:
        """Whether the task can no longer be done."""
        return any(not FAULTS[kind].solvable for kind in self.memory)

    def translate(self, tool: Tool, arguments: dict[str, Json]) -> dict[str, Json] | Injection:
        """The arguments as the tool knows them, where a fault has renamed some; an injection where it refuses them."""
        for kind in self.memory:
            translated = FAULTS[kind].translate(tool, arguments, self)
            if isinstance(translated, Injection):
                return translated
            arguments = translated
        return arguments

    def before(
        self, tool: Tool, arguments: dict[str, Json], tools: Mapping[str, Tool], site: FaultSite
    ) -> Injection | None:
        """What is in this call's way; None lets it run. Called once for each valid call."""
        index, self.calls = self.calls, self.calls + 1
        self.ticks += 1
        nth = self.per_tool[tool.name] = self.per_tool.get(tool.name, 0) + 1
        call = Struck(tool, arguments, tools, site, self, nth)
        if self.memory:
            for fault in FAULTS.values():
                injection = fault.holds(call) if fault.kind in self.memory else None
                if injection is not None:
                    return injection
        for entry in self._due(call, index):
            kind = target_of(entry).kind
            injection = FAULTS[kind].strike(call)
            if injection is not None:
                self.hit.append(kind)
                self.pending = [waiting for i, waiting in enumerate(self.pending) if i != self._first(entry)]
                return replace(injection, first=True, entry=entry)
        return None

    def after(self, tool: Tool) -> None:
        """Told of each call that ran well."""
        if tool.waits:
            self.ticks += _WAIT
        for kind in list(self.memory):
            FAULTS[kind].after(tool, self)

    def missed(self, injection: Injection) -> None:
        """Told when the agent saw nothing of a blow, because the struck call failed by itself or its result gave the
        fault nothing to bite on: it is still to come."""
        if injection.first:
            self.hit.pop()
            if injection.entry not in self.rates:
                self.pending.append((injection.entry, 0))

    def _first(self, entry: str) -> int:
        return next((i for i, (e, _) in enumerate(self.pending) if e == entry), -1)

    def _due(self, call: Struck, index: int) -> list[str]:
        name = call.tool.name
        due = [entry for entry, earliest in self.pending if index >= earliest and target_of(entry).meets(name, index)]
        for entry, rate in self.rates.items():  # the draw is the kind's: narrowing an entry changes no other blow
            target = target_of(entry)
            if target.meets(name, index) and call.draw(target.kind) < rate:
                due.append(entry)
        return due
