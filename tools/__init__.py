"""What an agent can do: tools, their execution, and failure on purpose."""

from .calls import parse_call
from .definition import (
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
    methods,
    tool,
    tools_of,
    toolset,
)
from .faults import FAULTS, Fault, FaultState
from .plans import Curriculum, FaultPlan
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
    "methods",
    "parse_call",
    "tool",
    "tools_of",
    "toolset",
]
