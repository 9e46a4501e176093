"""What an environment may have besides tasks, tools and a judge. Each facet is an object that an author makes a class
attribute of the environment, and overrides what is needed:

    class Customer(User):
        def reply(self, env, said):
            return "To Oslo." if "where" in said.lower() else None

    class Kiosk(ToolEnv):
        user = Customer()

A facet is given the environment, and serves all episodes of it at once. So it keeps nothing of an episode: what it
remembers belongs in `env.state`, and what it draws at random comes from `env.episode.rng`. A fork then has its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from ..tools.definition import Tool, ToolError, tools_of
from ..tools.toolbox import Validation
from ..trajectories.messages import Json, ToolCall, ToolResult, ToolSpec
from ..trajectories.trajectory import Task

__all__ = ["Fact", "FaultHooks", "KnobHooks", "Others", "ToolRules", "User", "overridden"]


class User:
    """Who is on the other side. A message without calls is said to the user."""

    max_answers: int = 8
    """Times that the user answers in an episode at most. The agent's next message without calls ends it."""

    def reply(self, env: Any, said: str) -> str | None:
        """The answer to a message. None: the user has nothing to say, and the episode ends.

        `env.episode.answers` is how often the user has answered: the index of what one who reads from a list says next.
        """
        return None


class Others:
    """Who else acts in the same world, next to the agent."""

    def __init__(self, tools: Mapping[str, Sequence[Tool]] | None = None) -> None:
        """
        Args:
            tools: Their tools, by who it is. The agent never sees these: see `Episode.act_as`.
        """
        self.tools: Mapping[str, Sequence[Tool]] = tools or {}

    def elapse(self, env: Any) -> None:
        """What happens by itself after each of the agent's turns that does not end the episode."""


class FaultHooks:
    """What lets more kinds of fault strike, and lets the expert recover from them."""

    def rotate_id(self, env: Any, tool: str, arguments: dict[str, Json]) -> bool:
        """For the fault stale_id: renames the record that a call refers to. False: it cannot."""
        return False

    def distort(self, env: Any, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        """For the fault silent_wrong_value: another record's data in place of `value`, which an attentive agent can
        tell from what it asked for. None: it cannot."""
        return None

    def look(self, env: Any, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        """For the expert: a call that shows whether an earlier one, which timed out, took effect. None: there is
        none."""
        return None


@dataclass
class ToolRules:
    """How the tools are offered and run. A subclass overrides the methods; the fields are given where it is made:
    `tool_rules = ToolRules(errors={Missing: NotFound})`."""

    validation: Validation = "schema"
    """schema (extra arguments refused), binding (names only), or off."""
    max_output: int = 4000
    """Characters of a result that the agent sees, from 1."""
    render: Callable[[Any], str] | None = None
    """The text of a result. By default a string is its own text, and anything else compact JSON."""
    is_error: Callable[[Any], ToolError | str | bool | None] | None = None
    """For tools that return their errors: see `sparring.tools.Toolbox`."""
    errors: Mapping[type[Exception], type[ToolError]] = field(default_factory=dict)
    """For tools that raise errors of their own: which `ToolError` each becomes. The first that fits counts."""

    def offered(self, env: Any) -> Iterable[Any]:
        """The tools on offer now, from `env.state`: names of the class's tools, or sources as `toolset` takes them.
        Asked after `setup`, each call, each turn and each `restore`. By default all tools of the class, always."""
        owner: type = type(env)
        return [t.name for t in tools_of(owner)]

    def announce(self, env: Any, came: Sequence[ToolSpec], went: Sequence[str]) -> str:
        """What the agent is told, in a message, when tools have come or gone since it last acted. "": nothing."""
        lines = [f"No longer there: {', '.join(went)}."] if went else []
        if came:
            lines += ["New tools:", *(orjson.dumps(spec.openai()).decode() for spec in came)]
        return "\n".join(lines)

    def injected(self, env: Any) -> Mapping[str, Any]:
        """Values of the tools' `Injected` parameters by key, from `env.state`. Asked at each call that needs some."""
        return {}

    def after_call(self, env: Any, call: ToolCall, result: ToolResult) -> None:
        """What happens after each of the agent's calls, when its result is settled.
        `env.episode.cut(StopReason.TERMINATED)` ends the episode with this turn."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that an instruction may lack, and the user says when asked."""

    text: str
    """As it is in the instruction, once."""
    instead: str
    """What is there when it lacks."""
    answer: str
    """What the user says when asked."""


class KnobHooks:
    """What suits a harder version of the environment better than what is ready-made: see `sparring.envs.knobs`."""

    distractors: ClassVar[tuple[Callable[..., Any], ...]] = ()
    """Methods marked `@tool` that no task needs, and that read only. Their `self` is the environment."""
    traps: ClassVar[tuple[Callable[..., Any], ...]] = ()
    """Methods marked `@tool` whose effect fails every task."""

    def facts(self, env: Any, task: Task) -> list[Fact]:
        """What the instruction of a task may lack."""
        return []

    def spoil(self, env: Any, task: Task, rng: random.Random) -> Task | None:
        """A version of the task that cannot be done. None: it cannot be made so."""
        return None


def overridden(facet: object, base: type, *names: str) -> frozenset[str]:
    """Which of these methods of `base` the facet's own class defines anew."""
    return frozenset(name for name in names if getattr(type(facet), name) is not getattr(base, name))
