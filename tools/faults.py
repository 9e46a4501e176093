"""Kinds of failure on purpose, and what of them is in force in an episode. Which may strike, a plan says: see `plans`.

What happens follows from the plan's seed, the task, the tool and the number of the call alone. Time is virtual: nothing
sleeps; every call lets one tick pass, a tool that `waits` several.

To add a kind of fault: write one `Fault` below and list it in `FAULTS`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Literal, Protocol

import orjson

from ..trajectories.errors import ConfigError, UnknownName
from ..trajectories.messages import Json
from .definition import (
    Conflict,
    Forbidden,
    Gone,
    InvalidArguments,
    RateLimited,
    Tool,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
)

__all__ = ["FAULTS", "Fault", "FaultState", "Injection", "Struck", "Target", "World", "call_range", "target_of"]

_WAIT = 5
"""Ticks that a tool which waits lets pass."""


class World(Protocol):
    """What a fault may ask of the environment it strikes."""

    @property
    def hooks(self) -> frozenset[str]:
        """Which of the methods below the environment has."""
        ...

    def rotate_id(self, tool: str, arguments: dict[str, Json]) -> bool:
        """Renames the record that the call refers to, so that the id the agent holds is stale. False: it cannot."""
        ...

    def distort(self, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        """A wrong result in place of `value`, which an attentive agent can tell from a right one. None: it cannot."""
        ...


@dataclass(slots=True)
class FaultState:
    """The faults of one episode: what is still to strike, what is in force. Copied by `snapshot`."""

    pending: list[tuple[str, int]] = field(default_factory=list)
    """(entry, earliest call index), by count plans."""
    rates: dict[str, float] = field(default_factory=dict)
    """Entry -> probability."""
    key: str = ""
    """Seed and task, hashed with tool and n for every draw."""
    calls: int = 0
    ticks: int = 0
    per_tool: dict[str, int] = field(default_factory=dict)
    memory: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Kind -> tool (or "" for the whole world) -> what is left of the blow; a kind that stands here is in force."""
    lost: set[str] = field(default_factory=set)
    """Tools that will not work again in this episode."""
    hit: list[str] = field(default_factory=list)

    def copy(self) -> FaultState:
        return FaultState(
            list(self.pending),
            dict(self.rates),
            self.key,
            self.calls,
            self.ticks,
            dict(self.per_tool),
            {kind: dict(left) for kind, left in self.memory.items()},
            set(self.lost),
            list(self.hit),
        )

    @property
    def impossible(self) -> bool:
        """Whether the task can no longer be done."""
        return "impossible" in self.memory

    def translate(self, tool: Tool, arguments: dict[str, Json]) -> dict[str, Json] | Injection:
        """The arguments as the tool knows them, where a fault has renamed some; an injection where it refuses them."""
        for kind in self.memory:
            translated = FAULTS[kind].translate(tool, arguments, self)
            if isinstance(translated, Injection):
                return translated
            arguments = translated
        return arguments

    def before(
        self, tool: Tool, arguments: dict[str, Json], tools: Mapping[str, Tool], world: World
    ) -> Injection | None:
        """What is in this call's way; None lets it run. Called once for each valid call."""
        index, self.calls = self.calls, self.calls + 1
        self.ticks += 1
        nth = self.per_tool[tool.name] = self.per_tool.get(tool.name, 0) + 1
        call = Struck(tool, arguments, tools, world, self, nth)
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


@dataclass(frozen=True, slots=True)
class Struck:
    """The call that a fault strikes, and all that it may look at or change."""

    tool: Tool
    arguments: dict[str, Json]
    """Valid ones: a wrong call reaches no fault."""
    tools: Mapping[str, Tool]
    """All tools by name."""
    world: World
    state: FaultState
    nth: int
    """How often this tool has been called, this call included."""

    def draw(self, what: str) -> float:
        """A number in [0, 1) that follows from plan seed, task, tool, nth call and `what` alone."""
        return _uniform(self.state.key, what, self.tool.name, self.nth)

    def spare(self) -> bool:
        """Whether the episode can go on without this tool: it has a second route, and is not itself one in use."""
        lost, tool = self.state.lost, self.tool
        needed = any(self.tools[name].alternative == tool.name for name in lost)
        return bool(tool.alternative) and tool.alternative not in lost and not needed


Alter = Callable[[str, Json], "tuple[str, Json] | None"]
"""(what the agent would see, the result as JSON) -> the same, changed; None where there is nothing to bite on."""


@dataclass(frozen=True, slots=True)
class Injection:
    """What the toolbox does instead of, or next to, running the tool."""

    fault: str
    error: ToolError | None = None
    """Raised in place of the result."""
    run: bool = False
    """Run the tool all the same (its effect lands), then report `error`."""
    alter: Alter | None = None
    """Run the tool and change what it returned."""
    first: bool = False
    """The blow itself, and not what is left of an earlier one. Set by `FaultState`."""
    entry: str = ""
    """The entry of the plan that struck. Set by `FaultState`."""


class Fault:
    """One kind of fault. Its first blow is `strike`; what it does to later calls, until recovered from, is `holds`,
    asked while `state.memory` has an entry of its kind."""

    kind: ClassVar[str]
    shows: ClassVar[Literal["explicit", "silent"]] = "explicit"
    """Whether the agent is told, or has to notice."""
    lasts: ClassVar[str] = "one call"
    effect: ClassVar[str] = "not applied"
    """Of the struck call."""
    recovers: ClassVar[str]
    """What a good agent does about it."""
    wrong: ClassVar[str]
    """The usual mistake."""

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        """Whether there is anything in this environment that it could strike."""
        return True

    def suits(self, tool: Tool) -> bool:
        """Whether a call of this tool could be struck, asked of tools that a plan names."""
        return True

    def strike(self, call: Struck) -> Injection | None:
        """Strikes this call; None where it gives the fault nothing to bite on."""
        raise NotImplementedError

    def holds(self, call: Struck) -> Injection | None:
        """What is left of an earlier strike; None lets the call pass."""
        return None

    def after(self, tool: Tool, state: FaultState) -> None:
        """Told of each call that ran well while the fault is in force."""

    def translate(self, tool: Tool, arguments: dict[str, Json], state: FaultState) -> dict[str, Json] | Injection:
        """The arguments as the tool knows them, before they are checked."""
        return arguments

    def left(self, state: FaultState) -> dict[str, Json]:
        """This kind's own memory."""
        return state.memory.setdefault(self.kind, {})


# ---- one route is lost -----------------------------------------------------------------------------------------------


class _LostRoute(Fault):
    """A tool with a second route stops working for good."""

    lasts, wrong = "for good", "call it again"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.alternative for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return bool(tool.alternative)

    def strike(self, call: Struck) -> Injection | None:
        if not call.spare():
            return None
        call.state.lost.add(call.tool.name)
        self.left(call.state)[call.tool.name] = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        return Injection(self.kind, self.error(call.tool)) if call.tool.name in self.left(call.state) else None

    def error(self, tool: Tool) -> ToolError:
        raise NotImplementedError


class ToolRemoved(_LostRoute):
    kind, recovers = "tool_removed", "take the second route"

    def error(self, tool: Tool) -> ToolError:
        return Gone(f"{tool.name} was removed", successor=tool.alternative)


class RouteForbidden(_LostRoute):
    kind, recovers, wrong = "forbidden", "take another, permitted route", "log in again and again"

    def error(self, tool: Tool) -> ToolError:
        return Forbidden(f"{tool.name} is not permitted", hint=f"use {tool.alternative}")


class QuotaExhausted(_LostRoute):
    kind, recovers, wrong = "quota_exhausted", "take another route; waiting does not help", "wait"

    def error(self, tool: Tool) -> ToolError:
        return RateLimited(f"the quota of {tool.name} is used up", retry_after=None, hint=f"use {tool.alternative}")


# ---- the way is barred until something is done -----------------------------------------------------------------------


class SessionExpired(Fault):
    kind, recovers, wrong = "session_expired", "log in, then go on where it stopped", "retry, or start over"
    lasts = "until logged in"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.logs_in for t in tools.values()) and not all(t.logs_in for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return not tool.logs_in

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.logs_in or not self.fits(call.tools, call.world):
            return None
        self.left(call.state)[""] = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if call.tool.logs_in:
            return None
        login = next(t.name for t in call.tools.values() if t.logs_in)
        return Injection(self.kind, Unauthenticated("session expired", hint=f"call {login}"))

    def after(self, tool: Tool, state: FaultState) -> None:
        if tool.logs_in:
            del state.memory[self.kind]


class Impossible(Fault):
    kind, recovers, wrong = "impossible", "stop, and say what was not done", "claim success"
    lasts = "for good"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.effect for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return tool.effect

    def strike(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        self.left(call.state)[""] = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        return Injection(self.kind, Forbidden("not permitted for this case", hint="say that it cannot be done"))


class RateLimitedFault(Fault):
    """Calling again too early starts the wait anew, as servers do that defend themselves."""

    kind, recovers, wrong = "rate_limited", "wait, then make the same call", "call again at once"
    lasts = "until some ticks have passed"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.waits for t in tools.values()) and not all(t.waits for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return not tool.waits

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.waits or not self.fits(call.tools, call.world):
            return None
        self.left(call.state)[call.tool.name] = call.state.ticks + 1
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = self.left(call.state)
        if call.state.ticks >= left.get(call.tool.name, 0):
            left.pop(call.tool.name, None)
            return None
        ticks = 2 + int(2 * call.draw("ticks"))
        left[call.tool.name] = call.state.ticks + ticks + 1
        wait = next(t.name for t in call.tools.values() if t.waits)
        return Injection(self.kind, RateLimited(retry_after=ticks, hint=f"call {wait}, then try again"))


class SchemaDrift(Fault):
    """The service has renamed a parameter; the tool's description still has the old name."""

    kind, recovers, wrong = "schema_drift", "repair the arguments as the error says", "the same arguments again"
    lasts = "for good"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.spec.parameters.get("properties") for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return bool(tool.spec.parameters.get("properties"))

    def strike(self, call: Struck) -> Injection | None:
        if not call.arguments or call.tool.name in self.left(call.state):
            return None
        names = sorted(call.arguments)
        old = names[int(call.draw("which") * len(names))]
        new = f"{old.removesuffix('_id')}_ref" if old.endswith("_id") else f"{old}_text"
        if new in call.tool.spec.parameters.get("properties", {}):
            return None
        self.left(call.state)[call.tool.name] = [old, new]
        return self._refused(old, new)

    def translate(self, tool: Tool, arguments: dict[str, Json], state: FaultState) -> dict[str, Json] | Injection:
        old, new = self.left(state).get(tool.name, ("", ""))
        if old and old in arguments:
            return self._refused(old, new)
        return {old if name == new else name: value for name, value in arguments.items()}

    def _refused(self, old: str, new: str) -> Injection:
        return Injection(self.kind, InvalidArguments(f"{old} is now called {new}", hint=f"write {new} for {old}"))


# ---- it passes by itself ---------------------------------------------------------------------------------------------


class UnavailableFault(Fault):
    kind, recovers, wrong = "unavailable", "retry the same call, a few times at most", "switch, or give up"
    lasts = "one or two calls, or until some time has passed"

    def strike(self, call: Struck) -> Injection | None:
        self.left(call.state)[call.tool.name] = 1 + (call.draw("more") < 0.5)
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = self.left(call.state)
        if not left.get(call.tool.name):
            return None
        left[call.tool.name] -= 1
        return Injection(self.kind, Unavailable("try again", hint="retry"))

    def after(self, tool: Tool, state: FaultState) -> None:
        if tool.waits:
            del state.memory[self.kind]


class Flapping(Fault):
    """Of the next calls, some fail and some do not."""

    kind, recovers, wrong = "flapping", "retry, a few times at most", "take one good answer for the end of it"
    lasts = "six calls, two failures at most"

    def strike(self, call: Struck) -> Injection | None:
        self.left(call.state)[call.tool.name] = [5, 1]
        return self._down()

    def holds(self, call: Struck) -> Injection | None:
        calls, failures = self.left(call.state).get(call.tool.name, (0, 0))
        if not calls or not failures:
            return None
        fails = call.draw("flap") < 0.5
        self.left(call.state)[call.tool.name] = [calls - 1, failures - fails]
        return self._down() if fails else None

    def _down(self) -> Injection:
        return Injection(self.kind, Unavailable("connection reset", hint="retry"))


class InternalError(Fault):
    """Once or twice; where there is a second route, sometimes for good."""

    kind, recovers, wrong = "internal_error", "retry twice at most, then take another route", "retry for ever"
    lasts = "one or two calls, or for good"

    def strike(self, call: Struck) -> Injection | None:
        always = call.draw("always") < 0.4 and call.spare()
        if always:
            call.state.lost.add(call.tool.name)
        self.left(call.state)[call.tool.name] = -1 if always else 1 + (call.draw("more") < 0.5)
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = self.left(call.state)
        if not left.get(call.tool.name):
            return None
        if left[call.tool.name] > 0:
            left[call.tool.name] -= 1
        other = f", or use {call.tool.alternative}" if call.tool.alternative else ""
        return Injection(self.kind, ToolError("internal error", hint=f"retry once{other}"))


class StaleId(Fault):
    kind, recovers, wrong = "stale_id", "look the id up again, redo what depends on it", "retry the old id"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return "rotate_id" in world.hooks and any(t.ids for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return bool(tool.ids)

    def strike(self, call: Struck) -> Injection | None:
        stale = next((call.arguments[name] for name in call.tool.ids if name in call.arguments), None)
        if stale is None or not call.world.rotate_id(call.tool.name, call.arguments):
            return None
        return Injection(self.kind, Conflict(f"{stale} is stale", hint="look it up again"))


class _Timeout(Fault):
    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.effect for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return tool.effect

    def strike(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        # One text for both: an agent has to look.
        error = ToolTimeout("no answer in time", hint="it may have happened, check")
        return Injection(self.kind, error, run=self.effect == "applied")


class TimeoutLost(_Timeout):
    kind, recovers, wrong = "timeout_lost", "look whether it happened, then repeat it", "take it for done"


class TimeoutLanded(_Timeout):
    kind, recovers = "timeout_landed", "look whether it happened; repeat it only if it did not"
    wrong, effect = "repeat it blindly: it happens twice", "applied"


# ---- the answer is wrong ---------------------------------------------------------------------------------------------


class _WrongAnswer(Fault):
    """The tool runs, and what it returned is changed on the way. Only tools that read: an effect's answer may be all
    that an agent has."""

    effect = "applied"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(not t.effect for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return not (tool.effect or tool.logs_in or tool.waits)

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.effect or call.tool.logs_in or call.tool.waits:
            return None
        return Injection(self.kind, alter=lambda text, value: self.alter(call, text, value))

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        raise NotImplementedError


class EmptyResult(_WrongAnswer):
    kind, shows, recovers, wrong = "empty_result", "silent", "ask again, or in another way", "invent a value"

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        return _shown(type(value)()) if value and isinstance(value, (list, dict)) else None


class PartialPage(_WrongAnswer):
    """The first half of a list, and a mark that there is more; the same call brings the rest."""

    kind, recovers, wrong = "partial_page", "page until all is there", "answer from page one"
    lasts = "until the rest is fetched"

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        if not isinstance(value, list) or len(value) < 2:
            return None
        half = len(value) // 2
        self.left(call.state)[_key(call)] = half
        return _shown({"page": value[:half], "more": "call again for the rest"})

    def holds(self, call: Struck) -> Injection | None:
        start = self.left(call.state).pop(_key(call), None)
        if start is None:
            return None

        def rest(text: str, value: Json) -> tuple[str, Json] | None:
            return _shown({"page": value[start:]}) if isinstance(value, list) else None

        return Injection(self.kind, alter=rest)


class TruncatedOutput(_WrongAnswer):
    kind, recovers, wrong = "truncated_output", "ask again, or for less", "use the fragment"

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        return (f"{text[: len(text) // 2]}... [truncated]", None) if len(text) >= 20 else None


class MalformedOutput(_WrongAnswer):
    kind, shows, recovers = "malformed_output", "silent", "ask again, else take another route"
    wrong = "use the fragment"

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        if len(text) < 20:
            return None
        cut = int(len(text) * (0.3 + 0.4 * call.draw("cut")))
        return text[:cut] + text[cut + 4 :][::-1], None


class SilentWrongValue(_WrongAnswer):
    """Another record's data. The environment says which, so that an attentive agent can see it: see `World.distort`."""

    kind, shows, recovers = "silent_wrong_value", "silent", "compare with what was asked for; ask again"
    wrong = "trust it"

    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return "distort" in world.hooks

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        other = call.world.distort(call.tool.name, call.arguments, value)
        return None if other is None else _shown(other)


def _shown(value: Json) -> tuple[str, Json]:
    return orjson.dumps(value).decode(), value


def _key(call: Struck) -> str:
    return f"{call.tool.name} {orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS).decode()}"


FAULTS: dict[str, Fault] = {
    fault.kind: fault
    for fault in (
        ToolRemoved(), RouteForbidden(), QuotaExhausted(), SessionExpired(), Impossible(), RateLimitedFault(),
        UnavailableFault(), Flapping(), InternalError(), SchemaDrift(), StaleId(), TimeoutLost(), TimeoutLanded(),
        EmptyResult(), PartialPage(), TruncatedOutput(), MalformedOutput(), SilentWrongValue(),
    )
}  # fmt: skip
"""Every kind of fault by name. Where several are in force, the first in this order is the one that the agent meets."""


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


def _uniform(*parts: object) -> float:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
