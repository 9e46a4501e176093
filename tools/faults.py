"""Failure on purpose: seeded, recorded, replayable.

A `FaultPlan` says which kinds of fault may strike, and either how many an episode gets (`count`) or how often a call is
struck (`rates`). What happens follows from hash(plan seed, task id) or hash(plan seed, task id, tool, nth call)
alone, so every agent that does the same task under the same plan meets the same faults (common random numbers), and a
group shares them. Time is virtual: nothing sleeps.

To add a kind of fault: write one `Fault` below and list it in `FAULTS`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ..trajectories.errors import ConfigError, UnknownName
from ..trajectories.messages import Json
from ..trajectories.trajectory import Task
from .tool import Conflict, Forbidden, Gone, Tool, ToolError, ToolTimeout, Unauthenticated, Unavailable

__all__ = ["FAULTS", "Fault", "FaultPlan", "FaultState", "World"]


class World(Protocol):
    """What a fault may ask of the environment it strikes."""

    def rotate_id(self, tool: str, arguments: dict[str, Json]) -> bool:
        """Renames the record that the call refers to, so that the id the agent holds is stale. False: it cannot."""
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
    per_tool: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)
    """Tool -> how many more calls of it fail as unavailable."""
    removed: set[str] = field(default_factory=set)
    expired: bool = False
    blocked: bool = False
    """Every effectful tool is forbidden: the task has become impossible."""
    hit: list[str] = field(default_factory=list)

    def copy(self) -> FaultState:
        return FaultState(
            list(self.pending), dict(self.rates), self.key, self.calls, dict(self.per_tool), dict(self.down),
            set(self.removed), self.expired, self.blocked, list(self.hit),
        )  # fmt: skip

    def before(
        self, tool: Tool, arguments: dict[str, Json], tools: Mapping[str, Tool], world: World
    ) -> Injection | None:
        """What stands in this call's way; None lets it run. Called once for each valid call."""
        index, self.calls = self.calls, self.calls + 1
        nth = self.per_tool[tool.name] = self.per_tool.get(tool.name, 0) + 1
        call = Struck(tool, arguments, tools, world, self, nth)
        for fault in FAULTS.values():
            injection = fault.holds(call)
            if injection is not None:
                return injection
        for kind in self._due(call, index):
            injection = FAULTS[kind].strike(call)
            if injection is not None:
                self.hit.append(kind)
                self.pending = [entry for i, entry in enumerate(self.pending) if i != self._first(kind)]
                return injection
        return None

    def after(self, tool: Tool) -> None:
        """Told of each call that ran well."""
        if tool.logs_in:
            self.expired = False

    def missed(self, kind: str) -> None:
        """Told when the struck call failed by itself: the agent saw nothing of the fault, which is still to come."""
        self.hit.pop()
        if kind not in self.rates:
            self.pending.append((kind, 0))

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


@dataclass(frozen=True, slots=True)
class Injection:
    """What the toolbox does instead of, or beside, running the tool."""

    fault: str
    error: ToolError | None
    """Raised in place of the result; None: the fault is silent or works through the world."""
    run: bool = False
    """Run the tool all the same (its effect lands), then report `error`."""


class Fault:
    """One kind of fault. Its first blow is `strike`; what it does to later calls, until recovered from, is `holds`."""

    kind: ClassVar[str]
    recovers: ClassVar[str]
    """What a good agent does about it."""

    def strike(self, call: Struck) -> Injection | None:
        """Strikes this call; None where it gives the fault nothing to bite on."""
        raise NotImplementedError

    def holds(self, call: Struck) -> Injection | None:
        """What is left of an earlier strike; None lets the call pass."""
        return None


class ToolRemoved(Fault):
    kind, recovers = "tool_removed", "take the second route"

    def strike(self, call: Struck) -> Injection | None:
        removed, tool = call.state.removed, call.tool
        # One route has to stay: a tool that stands in for a removed one is never removed itself.
        needed = any(call.tools[name].alternative == tool.name for name in removed)
        if not tool.alternative or tool.alternative in removed or needed:
            return None
        removed.add(tool.name)
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if call.tool.name not in call.state.removed:
            return None
        return Injection(self.kind, Gone(f"{call.tool.name} was removed", successor=call.tool.alternative))


class SessionExpired(Fault):
    kind, recovers = "session_expired", "log in, then go on where it stopped"

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.logs_in or not any(t.logs_in for t in call.tools.values()):
            return None
        call.state.expired = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if not call.state.expired or call.tool.logs_in:
            return None
        login = next(t.name for t in call.tools.values() if t.logs_in)
        return Injection(self.kind, Unauthenticated("session expired", hint=f"call {login}"))


class Impossible(Fault):
    kind, recovers = "impossible", "stop, and say what was not done"

    def strike(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        call.state.blocked = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if not call.state.blocked or not call.tool.effect:
            return None
        return Injection(self.kind, Forbidden("not permitted for this case", hint="say that it cannot be done"))


class UnavailableFault(Fault):
    kind, recovers = "unavailable", "retry the same call, a few times at most"

    def strike(self, call: Struck) -> Injection | None:
        call.state.down[call.tool.name] = 1 + (call.draw("more") < 0.5)  # one failure, or two
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = call.state.down.get(call.tool.name, 0)
        if not left:
            return None
        call.state.down[call.tool.name] = left - 1
        return Injection(self.kind, Unavailable("try again", hint="retry"))


class StaleId(Fault):
    kind, recovers = "stale_id", "look the id up again, redo what depends on it"

    def strike(self, call: Struck) -> Injection | None:
        stale = next((call.arguments[name] for name in call.tool.ids if name in call.arguments), None)
        if stale is None or not call.world.rotate_id(call.tool.name, call.arguments):
            return None
        return Injection(self.kind, Conflict(f"{stale} is stale", hint="look it up again"))


class TimeoutLanded(Fault):
    kind, recovers = "timeout_landed", "look whether it happened; repeat it only if it did not"

    def strike(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        return Injection(self.kind, ToolTimeout("no answer in time", hint="it may have happened, check"), run=True)


FAULTS: dict[str, Fault] = {
    fault.kind: fault
    for fault in (ToolRemoved(), SessionExpired(), Impossible(), UnavailableFault(), StaleId(), TimeoutLanded())
}
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

    def begin(self, task: Task) -> FaultState:
        """The faults that this plan holds for `task`: the same for every agent."""
        key = f"{self.seed}/{task.id}"
        state = FaultState(rates=dict(self.rates), key=key)
        if self.count:
            rng = random.Random(f"{key}/plan")
            kinds: list[str] = []
            while len(kinds) < self.count:
                kinds += rng.sample(self.kinds, min(len(self.kinds), self.count - len(kinds)))
            # A level's shortest solution has at least level + 1 calls: nearly every fault finds a call to strike.
            state.pending = [(kind, rng.randrange(task.level + 1)) for kind in kinds]
        return state


def _uniform(*parts: object) -> float:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
