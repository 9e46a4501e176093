"""What an agent can do: tools, their execution, and failure on purpose."""

from .calls import parse_call
from .faults import FAULTS, Curriculum, Fault, FaultPlan, FaultState
from .tool import (
    Conflict,
    Forbidden,
    Gone,
    IdempotencyKey,
    Injected,
    InvalidArguments,
    NotFound,
    RateLimited,
    Tool,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
    merge,
    tool,
    tools_of,
    toolset,
)
from .toolbox import Toolbox, Validation

__all__ = [
    "FAULTS",
    "Conflict",
    "Curriculum",
    "Fault",
    "FaultPlan",
    "FaultState",
    "Forbidden",
    "Gone",
    "IdempotencyKey",
    "Injected",
    "InvalidArguments",
    "NotFound",
    "RateLimited",
    "Tool",
    "ToolError",
    "ToolTimeout",
    "Toolbox",
    "Unauthenticated",
    "Unavailable",
    "Validation",
    "merge",
    "parse_call",
    "tool",
    "tools_of",
    "toolset",
]
