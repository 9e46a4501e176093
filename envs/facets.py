"""What an environment may have besides tasks, tools and a judge. Each facet is an object, a class attribute of the
environment. What it does is given where it is made, or is a method of a subclass:

    class Kiosk(ToolEnv):
        user = User(lambda env, said: "To Oslo." if "where" in said.lower() else None)

    class Customer(User):
        max_answers = 2

        def reply(self, env, said):
            return "To Oslo."

A facet is given the environment, and serves all episodes of it at once. So it keeps nothing of an episode: what it
remembers belongs in `env.state`, and what it draws at random comes from `env.episode.rng`. A fork then has its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ..tools.definition import Tool
from ..tools.errors import ToolError
from ..tools.plans import FaultPlan
from ..tools.sets import tools_of
from ..tools.toolbox import Errors, Fidelity, Validation
from ..trajectories.messages import Json, ToolCall, ToolResult, ToolSpec
from ..trajectories.trajectory import Task
from .episode import Verdict

__all__ = ["Fact", "FaultHooks", "KnobHooks", "Others", "ToolRules", "User", "overridden"]


class _Facet:
    def _give(self, **given: Any) -> None:
        """Sets what was given; the rest is as the class has it."""
        vars(self).update({name: value for name, value in given.items() if value is not None})


class User(_Facet):
    """Who is on the other side. A message without calls is said to the user."""

    max_answers: int = 8
    """Times that the user answers in an episode at most. The agent's next message without calls ends it."""

    def __init__(
        self, reply: Callable[[Any, str], str | None] | None = None, *, max_answers: int | None = None
    ) -> None:
        self._give(reply=reply, max_answers=max_answers)

    def reply(self, env: Any, said: str) -> str | None:
        """The answer to a message. None: the user has nothing to say, and the episode ends.

        `env.episode.answers` is how often the user has answered. A user who says one text after the other is
        `sparring.envs.UserTurns`.
        """
        return None

    def tools(self, env: Any, offered: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """The tools on offer now, of those that `ToolRules.offered` gives: what the user said may bring some."""
        return offered

    def verdict(self, env: Any) -> Verdict | None:
        """Whether all is done that the user asked for: what counts where the environment defines no `success`. None:
        the user does not know."""
        return None


class Others(_Facet):
    """Who else acts in the same world, next to the agent."""

    tools: Mapping[str, Sequence[Tool]] = {}
    """Their tools, by who it is. The agent never sees these: see `Episode.act_as`."""

    def __init__(
        self,
        tools: Mapping[str, Sequence[Tool]] | None = None,
        *,
        elapse: Callable[[Any], object] | None = None,
    ) -> None:
        self._give(tools=tools, elapse=elapse)

    def elapse(self, env: Any) -> None:
        """What happens by itself after each of the agent's turns that does not end the episode."""


Arguments = dict[str, Json]


class FaultHooks(_Facet):
    """What lets more kinds of fault strike, and lets the expert recover from them."""

    default_plan: FaultPlan = FaultPlan()
    """The fault plan of episodes that rollouts start without one."""

    def __init__(
        self,
        *,
        default_plan: FaultPlan | None = None,
        rotate_id: Callable[[Any, str, Arguments], bool] | None = None,
        distort: Callable[[Any, str, Arguments, Json], Json] | None = None,
        look: Callable[[Any, str, Arguments], tuple[str, Arguments] | None] | None = None,
    ) -> None:
        self._give(default_plan=default_plan, rotate_id=rotate_id, distort=distort, look=look)

    def rotate_id(self, env: Any, tool: str, arguments: Arguments) -> bool:
        """For the fault stale_id: renames the record that a call refers to. False: it cannot."""
        return False

    def distort(self, env: Any, tool: str, arguments: Arguments, value: Json) -> Json:
        """For the fault silent_wrong_value: another record's data in place of `value`, which an attentive agent can
        tell from what it asked for. None: it cannot."""
        return None

    def look(self, env: Any, tool: str, arguments: Arguments) -> tuple[str, Arguments] | None:
        """For the expert: a call that shows whether an earlier one, which timed out, took effect. None: there is
        none."""
        return None


class ToolRules(_Facet):
    """How the tools are offered and run."""

    fidelity: Fidelity = "house"
    """"suite": the tools and tasks are those of a foreign suite, and keep its rules. One setting for all of this:
    arguments reach a tool as the agent wrote them, and what the tool refuses of them is the policy's fault; results are
    not cut; what the suite says of a failure is what the agent sees, and each of its exceptions is a typed failure
    (see `sparring.tools.Toolbox`). For `sparring check`, splits without tasks are no error, nor are tasks where doing
    nothing is right. The settings below still go before."""
    validation: Validation | None = None
    """schema (extra arguments refused), binding (names only), or off. None: schema; of a suite off."""
    max_output: int | None = None
    """Characters of a result that the agent sees, from 1. None: 4000; of a suite all."""
    hint_level: int = 3
    """How much an error tells the agent: 0 that it failed, 1 the code, 2 the cause, 3 the repair."""
    render: Callable[[Any], str] | None = None
    """The text of a result. By default a string is its own text, and anything else compact JSON."""
    wording: Callable[[str], str] | None = None
    """From what is said of a failure to what the agent sees, `"Error: {}".format` say. By default JSON; of a suite the
    message alone."""
    is_error: Callable[[Any], ToolError | str | bool | None] | None = None
    """For tools that return their errors: see `sparring.tools.Toolbox`."""
    errors: Errors = {}  # noqa: RUF012  # never changed
    """For tools that raise errors of their own: which `ToolError` each becomes, as a class or as a function of the
    exception. The first that fits counts."""

    def __init__(
        self,
        *,
        fidelity: Fidelity | None = None,
        validation: Validation | None = None,
        max_output: int | None = None,
        hint_level: int | None = None,
        render: Callable[[Any], str] | None = None,
        wording: Callable[[str], str] | None = None,
        is_error: Callable[[Any], ToolError | str | bool | None] | None = None,
        errors: Errors | None = None,
        offered: Callable[[Any], Iterable[Any]] | None = None,
        announce: Callable[[Any, Sequence[ToolSpec], Sequence[str]], str] | None = None,
        injected: Callable[[Any], Mapping[str, Any]] | None = None,
        after_call: Callable[[Any, ToolCall, ToolResult], object] | None = None,
    ) -> None:
        """
        Args:
            fidelity: In place of the class's own setting, like all others. None: the class's.
            validation: schema, binding or off.
            max_output: Characters.
            hint_level: 0 to 3.
            render: From a tool's value to its text.
            wording: From what is said of a failure to its text.
            is_error: From a tool's value to the error that it is.
            errors: Exception -> `ToolError`.
            offered: A function in place of the method below, like all that follow. It is given the environment first.
            announce: Words a change of tools.
            injected: Values of `Injected` parameters.
            after_call: Told of each call.
        """
        self._give(fidelity=fidelity, validation=validation, max_output=max_output, hint_level=hint_level)
        self._give(render=render, wording=wording, is_error=is_error, errors=errors)
        self._give(offered=offered, announce=announce, injected=injected, after_call=after_call)

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


class KnobHooks(_Facet):
    """What suits a harder version of the environment better than what is ready-made: see `sparring.envs.knobs`."""

    distractors: Sequence[Callable[..., Any]] = ()
    """Methods marked `@tool` that no task needs, and that read only. Their `self` is the environment."""
    traps: Sequence[Callable[..., Any]] = ()
    """Methods marked `@tool` whose effect fails every task."""

    def __init__(
        self,
        *,
        distractors: Sequence[Callable[..., Any]] | None = None,
        traps: Sequence[Callable[..., Any]] | None = None,
        facts: Callable[[Any, Task], list[Fact]] | None = None,
        spoil: Callable[[Any, Task, random.Random], Task | None] | None = None,
    ) -> None:
        self._give(distractors=distractors, traps=traps, facts=facts, spoil=spoil)

    def facts(self, env: Any, task: Task) -> list[Fact]:
        """What the instruction of a task may lack."""
        return []

    def spoil(self, env: Any, task: Task, rng: random.Random) -> Task | None:
        """A version of the task that cannot be done. None: it cannot be made so."""
        return None


def overridden(facet: object, base: type, *names: str) -> frozenset[str]:
    """Which of these methods of `base` the facet, or its class, has defined anew."""
    own = vars(facet)
    return frozenset(name for name in names if name in own or getattr(type(facet), name) is not getattr(base, name))
