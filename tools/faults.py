"""Failure on purpose: seeded, recorded, replayable.

A `FaultPlan` says which kinds of fault may strike, and either how many an episode gets (`count`) or how often a call is
struck (`rates`). What happens follows from hash(plan seed, task id) or hash(plan seed, task id, tool, nth call)
alone, so every agent that does the same task under the same plan meets the same faults (common random numbers), and a
group shares them. Time is virtual: nothing sleeps; every call lets one tick pass, a tool that `waits` several.

To add a kind of fault: write one `Fault` below and list it in `FAULTS`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

import orjson

from ..trajectories.errors import ConfigError, UnknownName
from ..trajectories.messages import Json
from ..trajectories.trajectory import Task
from .tool import (
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

__all__ = ["FAULTS", "Curriculum", "Fault", "FaultPlan", "FaultState", "World"]

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
    """(kind, earliest call index), by count plans."""
    rates: dict[str, float] = field(default_factory=dict)
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
            list(self.pending), dict(self.rates), self.key, self.calls, self.ticks, dict(self.per_tool),
            {kind: dict(left) for kind, left in self.memory.items()}, set(self.lost), list(self.hit),
        )  # fmt: skip

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
        """What stands in this call's way; None lets it run. Called once for each valid call."""
        index, self.calls = self.calls, self.calls + 1
        self.ticks += 1
        nth = self.per_tool[tool.name] = self.per_tool.get(tool.name, 0) + 1
        call = Struck(tool, arguments, tools, world, self, nth)
        if self.memory:
            for fault in FAULTS.values():
                injection = fault.holds(call) if fault.kind in self.memory else None
                if injection is not None:
                    return injection
        for kind in self._due(call, index):
            injection = FAULTS[kind].strike(call)
            if injection is not None:
                self.hit.append(kind)
                self.pending = [entry for i, entry in enumerate(self.pending) if i != self._first(kind)]
                return replace(injection, first=True)
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
            if injection.fault not in self.rates:
                self.pending.append((injection.fault, 0))

    def _first(self, kind: str) -> int:
        return next((i for i, (k, _) in enumerate(self.pending) if k == kind), -1)

    def _due(self, call: Struck, index: int) -> list[str]:
        due = [kind for kind, earliest in self.pending if index >= earliest]
        due += [kind for kind, rate in self.rates.items() if call.draw(kind) < rate]
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
    """What the toolbox does instead of, or beside, running the tool."""

    fault: str
    error: ToolError | None = None
    """Raised in place of the result."""
    run: bool = False
    """Run the tool all the same (its effect lands), then report `error`."""
    alter: Alter | None = None
    """Run the tool and change what it returned."""
    first: bool = False
    """The blow itself, and not what is left of an earlier one. Set by `FaultState`."""


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

    def strike(self, call: Struck) -> Injection | None:
        stale = next((call.arguments[name] for name in call.tool.ids if name in call.arguments), None)
        if stale is None or not call.world.rotate_id(call.tool.name, call.arguments):
            return None
        return Injection(self.kind, Conflict(f"{stale} is stale", hint="look it up again"))


class _Timeout(Fault):
    def fits(self, tools: Mapping[str, Tool], world: World) -> bool:
        return any(t.effect for t in tools.values())

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

_SOLVABLE = tuple(kind for kind in FAULTS if kind != "impossible")


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Which faults an episode meets.

    One-line forms: `count=1`, `count=2:unavailable,stale_id`, `unavailable:0.2,stale_id:0.1`; each may end in `@SEED`.
    """

    kinds: tuple[str, ...] = _SOLVABLE
    """What `count` draws from; empty where there is no count."""
    count: int = 0
    """How many faults strike an episode, kinds drawn without repetition while they last."""
    rates: tuple[tuple[str, float], ...] = ()
    """(kind, probability for each call that it can strike)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in (*self.kinds, *(k for k, _ in self.rates)):
            if kind not in FAULTS:
                raise UnknownName("fault", kind, FAULTS)
        if self.count and self.rates:
            raise ConfigError("a fault plan has either a count or rates, not both")
        if self.count < 0:
            raise ConfigError(f"a fault plan's count is 0 or more, got {self.count}")
        if self.count and not self.kinds:
            raise ConfigError(f"a plan of {self.count} faults needs at least one kind; known: {', '.join(FAULTS)}")
        if not all(0 <= rate <= 1 for _, rate in self.rates):
            raise ConfigError(f"a fault's rate lies between 0 and 1, got {dict(self.rates)}")
        if not self.count:  # one form for each meaning: equal plans compare equal, and parse(str(plan)) == plan
            object.__setattr__(self, "kinds", ())

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """Reads the one-line form. Raises `ConfigError` or `UnknownName`."""
        body, _, seed = text.strip().partition("@")
        try:
            plan_seed = int(seed) if seed else 0
            if body.startswith("count="):
                count, _, kinds = body.removeprefix("count=").partition(":")
                chosen = tuple(k.strip() for k in kinds.split(",") if k.strip()) or _SOLVABLE
                return cls(chosen, int(count), (), plan_seed)
            rates = [part.split(":") for part in body.split(",") if part.strip()]
            return cls((), 0, tuple((kind.strip(), float(rate)) for kind, rate in rates), plan_seed)
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(
                f"cannot read the fault plan {text!r}; expected 'count=1', 'count=2:unavailable,stale_id' or "
                "'unavailable:0.2,stale_id:0.1', with '@SEED' at the end if wanted"
            ) from None

    def __str__(self) -> str:
        if self.rates:
            body = ",".join(f"{kind}:{rate!r}" for kind, rate in self.rates)
        elif not self.count:
            return ""
        else:
            body = f"count={self.count}:{','.join(self.kinds)}"  # spelt out: a new kind must not change a replay
        return f"{body}@{self.seed}"

    def begin(self, task: Task, tools: Mapping[str, Tool], world: World) -> FaultState:
        """The faults that this plan holds for `task`: the same for every agent. A count is drawn from the kinds that
        can strike in this environment."""
        key = f"{self.seed}/{task.id}"
        state = FaultState(rates=dict(self.rates), key=key)
        able = [kind for kind in self.kinds if FAULTS[kind].fits(tools, world)]
        if self.count and able:
            rng = random.Random(f"{key}/plan")
            kinds: list[str] = []
            while len(kinds) < self.count:
                kinds += rng.sample(able, min(len(able), self.count - len(kinds)))
            # A level's shortest solution has at least level + 1 calls: nearly every fault finds a call to strike.
            state.pending = [(kind, rng.randrange(task.level + 1)) for kind in kinds]
        return state


@dataclass(frozen=True, slots=True)
class Curriculum:
    """A fault plan that changes with progress, e.g. from one fault to two.

    Curriculum(((0.0, "count=1:unavailable"), (0.3, "count=1"), (0.7, "count=2")))
    """

    steps: tuple[tuple[float, str], ...]
    """(progress from which it holds, one-line plan), ascending; the first from 0."""

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.steps]
        if not starts or starts[0] != 0 or starts != sorted(starts):
            raise ConfigError(f"a curriculum's steps begin at 0 and ascend, got {starts}")
        for _, line in self.steps:
            FaultPlan.parse(line)

    def at(self, progress: float, seed: int = 0) -> FaultPlan:
        """The plan at `progress` (0 to 1)."""
        line = [line for start, line in self.steps if start <= max(progress, 0.0)][-1]
        return replace(FaultPlan.parse(line), seed=seed)


def _uniform(*parts: object) -> float:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
