"""What a kind of fault is: `Fault`, the decorator `fault` that makes one known, and what a fault sees and gives back.

What happens follows from the plan's seed, the task, the tool and the number of the call alone. Time is virtual: nothing
sleeps; every call lets one tick pass, a tool that `waits` several.

To add a kind of fault, write one class in any file:

    @fault
    class Busy(Fault):
        kind, right = "busy", ("retry_same",)
        recovers, wrong = "call again", "give up"

        def strike(self, call: Struck) -> Injection | None:
            return Injection(self.kind, Unavailable("busy"))

It can then be named in plans, metrics know its right strategy, and the expert its way out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar

from ...trajectories.errors import EnvError
from ...trajectories.messages import Action, Json, ToolResult
from ...trajectories.metrics.recovery import register_fault
from ..definition import Tool
from ..errors import ToolError

__all__ = [
    "FAULTS",
    "Alter",
    "Blocked",
    "Fault",
    "FaultMemory",
    "FaultSite",
    "Injection",
    "Struck",
    "WayOut",
    "fault",
    "fault_rows",
]


class FaultSite(Protocol):
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
class FaultMemory:
    """What the faults of one episode remember. Copied by `snapshot`."""

    key: str = ""
    """Seed and task, hashed with tool and n for every draw."""
    calls: int = 0
    ticks: int = 0
    per_tool: dict[str, int] = field(default_factory=dict)
    memory: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Kind -> tool (or "" for the whole world) -> what is left of the blow; a kind that is in here is in force."""
    lost: set[str] = field(default_factory=set)
    """Tools that will not work again in this episode."""


@dataclass(frozen=True, slots=True)
class Struck:
    """The call that a fault strikes, and all that it may look at or change."""

    tool: Tool
    arguments: dict[str, Json]
    """Valid ones: a wrong call reaches no fault."""
    tools: Mapping[str, Tool]
    """All tools by name."""
    site: FaultSite
    state: FaultMemory
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


@dataclass(slots=True)
class Blocked:
    """A call of the expert that a fault struck."""

    tool: str
    arguments: dict[str, Json]
    tools: Mapping[str, Tool]
    """All tools by name."""
    result: ToolResult
    """Of the latest attempt."""
    found: list[Json] = field(default_factory=list)
    """What earlier attempts at this call have brought."""


WayOut = Generator[Action, ToolResult, "Literal['again'] | ToolResult | None"]
"""What the expert does about a blow: it yields actions and is sent their results. It returns "again" to have the
blocked call made again, a result to go on with, or None to have the result treated by its outcome."""


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
    right: ClassVar[tuple[str, ...]]
    """Classes of the first action after the blow that a good agent may take: of `ACTIONS` in the metrics."""
    solvable: ClassVar[bool] = True
    """Whether the task can still be done. Plans that name no kinds draw from those that are."""

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
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

    def after(self, tool: Tool, state: FaultMemory) -> None:
        """Told of each call that ran well while the fault is in force."""

    def translate(self, tool: Tool, arguments: dict[str, Json], state: FaultMemory) -> dict[str, Json] | Injection:
        """The arguments as the tool knows them, before they are checked."""
        return arguments

    def left(self, state: FaultMemory) -> dict[str, Json]:
        """This kind's own memory."""
        return state.memory.setdefault(self.kind, {})

    def told(self, tool: str, arguments: dict[str, Json], state: FaultMemory) -> dict[str, Json]:
        """The arguments as an agent writes them that has read what the fault told it; asked while it is in force."""
        return arguments

    def way_out(self, blocked: Blocked) -> WayOut:
        """What the environment's expert does when this fault struck its call. By default it asks again where an answer
        was changed (only the expert knows that; that it is worth it can be seen in the answer), and goes by the outcome
        where the call failed."""
        yield from ()
        return "again" if blocked.result.ok else None


FAULTS: dict[str, Fault] = {}
"""Every kind of fault by name. Where several are in force, the first in this order is the one that the agent meets."""

F = TypeVar("F", bound=type[Fault])


def fault(made: F) -> F:
    """A decorator that makes a kind of fault known. One of the same name takes the place of the earlier one.

    Raises `EnvError` for a class that lacks a part, and for a name that a plan could not hold.
    """
    for part in ("kind", "recovers", "wrong", "right"):
        if not getattr(made, part, None):
            raise EnvError(f"the fault {made.__name__} has no `{part}`; set it in the class")
    if not re.fullmatch(r"[A-Za-z_]\w*", made.kind) or made.kind == "count":
        raise EnvError(f"a kind of fault is named by a word such as 'stale_id', got {made.kind!r}")
    register_fault(made.kind, made.right)
    FAULTS[made.kind] = made()
    return made


def fault_rows() -> list[str]:
    """A row of a Markdown table for each kind: the one in docs/faults.md."""
    shows = {"explicit": "is told", "silent": "has to notice"}
    return [
        f"| `{kind}` | {shows[f.shows]} | {f.lasts} | {f.effect} | {f.recovers} | {f.wrong} |"
        for kind, f in FAULTS.items()
    ]


def _uniform(*parts: object) -> float:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
