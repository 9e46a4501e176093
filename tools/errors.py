"""What a tool may raise to tell the agent of a failure.

    ToolError                 outcome tool_error; raise a child where one fits
    |-- NotFound              no such id or record
    |-- InvalidArguments      arguments that fit the schema and are wrong all the same
    |-- Conflict              stale id or version: read again, redo what depends on it
    |-- Forbidden             never allowed by this route
    |-- Unavailable           transient: the same call may work in a moment
    |-- RateLimited           too many calls; `retry_after` in virtual ticks
    |-- Unauthenticated       log in, then go on
    |-- Gone                  the tool or resource was removed; names its successor or does not
    |-- UnknownTool           a server has no such tool (any more)
    `-- ToolTimeout           no answer in time; `took_effect` says whether the effect happened, None if unknown

Any other exception in a tool's body is a bug of the tool: recorded as tool_error, shown to the agent without internals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ..trajectories.messages import Outcome

__all__ = [
    "BY_OUTCOME",
    "BY_STATUS",
    "Conflict",
    "Forbidden",
    "Gone",
    "InvalidArguments",
    "NotFound",
    "RateLimited",
    "ToolError",
    "ToolTimeout",
    "Unauthenticated",
    "Unavailable",
    "UnknownTool",
]


class ToolError(Exception):
    """A failure that the agent is told of, and may recover from."""

    outcome: ClassVar[Outcome] = Outcome.TOOL_ERROR

    def __init__(self, message: str = "", *, hint: str = "", took_effect: bool | None = False) -> None:
        super().__init__(message)
        self.hint = hint
        """How to go on; shown to the agent at hint level 3."""
        self.took_effect = took_effect
        """Whether the effect happened all the same; None: it cannot be known."""


class NotFound(ToolError):
    outcome = Outcome.NOT_FOUND


class InvalidArguments(ToolError):
    outcome = Outcome.INVALID_ARGUMENTS


class Conflict(ToolError):
    outcome = Outcome.CONFLICT


class Forbidden(ToolError):
    outcome = Outcome.FORBIDDEN


class Unavailable(ToolError):
    outcome = Outcome.UNAVAILABLE


class RateLimited(ToolError):
    outcome = Outcome.RATE_LIMITED

    def __init__(self, message: str = "", *, retry_after: int | None = 1, hint: str = "") -> None:
        super().__init__(message or f"retry after {retry_after} ticks", hint=hint)
        self.retry_after = retry_after
        """Virtual ticks; None: waiting does not help."""


class Unauthenticated(ToolError):
    outcome = Outcome.UNAUTHENTICATED


class Gone(ToolError):
    outcome = Outcome.GONE

    def __init__(self, message: str = "", *, successor: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint or (f"use {successor}" if successor else ""))
        self.successor = successor


class ToolTimeout(ToolError):
    outcome = Outcome.TIMEOUT


class UnknownTool(ToolError):
    """The server has no such tool (any more)."""

    outcome = Outcome.UNKNOWN_TOOL


BY_OUTCOME: dict[str, type[ToolError]] = {
    made.outcome.value: made
    for made in (
        Conflict, Forbidden, Gone, InvalidArguments, NotFound, RateLimited, ToolError, ToolTimeout, Unauthenticated,
        Unavailable, UnknownTool,
    )
}  # fmt: skip
"""Outcome -> the error that brings it about."""

BY_STATUS: dict[int, Callable[[str], ToolError]] = {
    400: InvalidArguments,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: Conflict,
    422: InvalidArguments,
}
"""HTTP status -> what it means, where the status alone says it. None of these has taken effect."""
