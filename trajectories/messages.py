"""What is said in an episode: messages, tool calls, tool results. Plain frozen data, no behaviour beyond reading it.

Defines `Message`, `ToolSpec`, `ToolCall`, `ToolResult`, `Action`, `Observation`, and the two closed vocabularies
`Outcome` (how a call ended) and `Cause` (whose doing that was). Both are set where a failure arises and are never
read out of message text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import orjson

__all__ = ["Action", "Cause", "Json", "Message", "Observation", "Outcome", "Role", "ToolCall", "ToolResult", "ToolSpec"]

Json = Any
"""A JSON value. (Python's type system cannot check it without a cost in every signature.)"""

Role = Literal["system", "user", "assistant", "tool"]


class Outcome(StrEnum):
    """How one tool call ended. A closed list."""

    OK = "ok"
    MALFORMED = "malformed"
    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    GONE = "gone"
    TOOL_ERROR = "tool_error"
    CRASHED = "crashed"


class Cause(StrEnum):
    """Whose doing a failed call is. Failures of different causes never share a denominator."""

    POLICY = "policy"
    TOOL = "tool"
    INJECTED = "injected"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model is told of it."""

    name: str
    description: str
    parameters: dict[str, Json]
    """JSON Schema of the arguments object."""

    def openai(self) -> dict[str, Json]:
        """The form of OpenAI's `tools` parameter, which Hermes templates use too."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.parameters},
        }


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the policy wrote it. What could not be parsed is still a call: no `arguments`, and `error` says why."""

    name: str
    arguments: dict[str, Json] | None
    raw: str = ""
    """The sampled text between the call's marks, verbatim; empty for calls made by code."""
    id: str = ""
    """Unique in the episode. The agent's own where it gave one, else set when the call is executed."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one call came to."""

    call_id: str
    tool: str
    outcome: Outcome
    content: str
    """The text that the agent sees."""
    value: Json = None
    """The raw result next to the text; None for a failed call."""
    cause: Cause | None = None
    """None exactly when the outcome is ok."""
    took_effect: bool | None = False
    """Whether the call's effect happened; None: it cannot be known."""
    fault: str | None = None
    """Kind of the injected fault that shaped this result, seen by the agent or not."""
    retry_of: str | None = None
    """Id of the latest earlier call with the same tool and arguments that failed."""
    latency_s: float = field(default=0.0, compare=False)
    """Seconds, wall clock. Never compared: two equal runs differ in it."""
    error: str | None = None
    """For the programmer: exception type and traceback. Never shown to the agent."""
    retry_after: int | None = None
    """Virtual ticks after which a rate-limited call may work; None: not limited, or for good."""
    inferred: bool = False
    """Whether `outcome` is a guess: an imported record did not say how the call ended."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    thinking: str = ""
    """What an assistant thought before it spoke."""

    def openai(self) -> dict[str, Json]:
        """OpenAI's wire form; arguments travel as JSON text, as there. It has no place for thinking."""
        out: dict[str, Json] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            out["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.raw if call.arguments is None else orjson.dumps(call.arguments).decode(),
                    },
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            out["name"] = self.name
        return out


@dataclass(frozen=True, slots=True)
class Action:
    """One assistant message: text, tool calls, or both. Without calls it hands over, which ends the episode."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    """What was thought before; no user, tool or judge is told. A call that is drafted in it is text."""

    @classmethod
    def call(cls, name: str, /, **arguments: Json) -> Action:
        """An action with one call: `Action.call("find_book", title="Dune")`."""
        return cls(tool_calls=(ToolCall(name, arguments),))

    @property
    def message(self) -> Message:
        return Message("assistant", self.content, self.tool_calls, thinking=self.thinking)

    @property
    def shown(self) -> str:
        """Thinking and content, as people are shown them."""
        return f"<think>{self.thinking}</think>\n{self.content}".strip() if self.thinking else self.content


@dataclass(frozen=True, slots=True)
class Observation:
    """The messages that are new since the agent's last action, and the tools on offer now."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
