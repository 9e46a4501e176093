"""What an agent can do: tools, their execution, and failure on purpose."""

from .calls import parse_call
from .definition import Tool, tool
from .errors import (
    Conflict,
    Forbidden,
    Gone,
    InvalidArguments,
    NotFound,
    RateLimited,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
)
from .faults import FAULTS, Fault, FaultState, fault
from .plans import Curriculum, FaultPlan
from .sets import merge, methods, tools_of, toolset
from .signature import IdempotencyKey, Injected
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
    "fault",
    "merge",
    "methods",
    "parse_call",
    "tool",
    "tools_of",
    "toolset",
]
