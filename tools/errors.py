"""What a tool may raise to tell the agent of a failure.

    ToolError                 outcome tool_error; raise a child where one fits
    |-- NotFound              no such id or record
    |-- InvalidArguments      arguments that fit the schema and are wrong all the same: the policy's fault
    |-- Conflict              stale id or version: read again, redo what depends on it
    |-- Forbidden             never allowed by this route
    |-- Unavailable           transient: the same call may work in a moment
    |-- RateLimited           too many calls; `retry_after` in virtual ticks
    |-- Unauthenticated       log in, then go on
    |-- Gone                  the tool or resource was removed; names its successor or does not
    |-- UnknownTool           a server has no such tool (any more)
    `-- ToolTimeout           no answer in time; `took_effect` says whether the effect happened, None if unknown

Any other exception in a tool's body is a bug of the tool: recorded as tool_error, shown to the agent without internals.
The tools of a foreign suite raise what they like: see `Toolbox(fidelity="suite")`, and `FOREIGN` for what that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pydantic import ValidationError

from ..trajectories.messages import Cause, Outcome

__all__ = [
    "BY_OUTCOME",
    "BY_STATUS",
    "FOREIGN",
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
    "refused",
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
        self.cause = Cause.POLICY if self.outcome is Outcome.INVALID_ARGUMENTS else Cause.TOOL
        """Whose fault it is."""


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


def refused(message: str) -> ToolError:
    """What a server outside did not take. That the policy is to blame is not known: it may be the server's own bug."""
    error = InvalidArguments(message)
    error.cause = Cause.TOOL
    return error


BY_STATUS: dict[int, Callable[[str], ToolError]] = {
    400: refused,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: Conflict,
    422: refused,
}
"""HTTP status -> what it means, where the status alone says it. None of these has taken effect."""

FOREIGN: dict[type[Exception], type[ToolError]] = {
    ValidationError: InvalidArguments,
    PermissionError: Forbidden,
    FileNotFoundError: NotFound,
    FileExistsError: Conflict,
    ConnectionError: Unavailable,
    TimeoutError: ToolTimeout,
    Exception: ToolError,
}
"""What an exception of a foreign suite means where nobody says otherwise; the first that fits."""
