"""Sparring: train language-model agents to use tools that fail.

Everything public is in `__all__`; each name is loaded from its home when it is first used, so that
`import sparring` costs nothing. The five folders are packages of their own: `sparring.envs`, `sparring.tools`, ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .lazy_names import lazy

__version__ = "0.1.0"

_here = os.path.dirname(os.path.abspath(__file__))
if not os.path.isfile(os.path.join(_here, "trajectories", "errors.py")):
    # A checkout whose links did not survive (an archive, a file system without links): the folders lie two levels up.
    _root = os.path.dirname(os.path.dirname(_here))
    if os.path.isfile(os.path.join(_root, "trajectories", "errors.py")):
        __path__.append(_root)

if TYPE_CHECKING:  # the same names, for type checkers and editors; a test compares the three lists
    from .envs import (
        Solution,
        Step,
        ToolEnv,
        make,
        register,
        registered,
    )
    from .tools import (
        Conflict,
        FaultPlan,
        Forbidden,
        Gone,
        NotFound,
        RateLimited,
        Tool,
        ToolError,
        ToolTimeout,
        Unauthenticated,
        Unavailable,
        tool,
    )
    from .trajectories import (
        Action,
        Cause,
        ConfigError,
        DataError,
        EnvError,
        InfrastructureError,
        Message,
        MissingExtra,
        Observation,
        Outcome,
        SparringError,
        StopReason,
        Task,
        Tokens,
        ToolCall,
        ToolResult,
        Trajectory,
        TrajectoryGroup,
        Turn,
        UnknownName,
    )

__all__ = [
    "Action",
    "Cause",
    "ConfigError",
    "Conflict",
    "DataError",
    "EnvError",
    "FaultPlan",
    "Forbidden",
    "Gone",
    "InfrastructureError",
    "Message",
    "MissingExtra",
    "NotFound",
    "Observation",
    "Outcome",
    "RateLimited",
    "Solution",
    "SparringError",
    "Step",
    "StopReason",
    "Task",
    "Tokens",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolError",
    "ToolResult",
    "ToolTimeout",
    "Trajectory",
    "TrajectoryGroup",
    "Turn",
    "Unauthenticated",
    "Unavailable",
    "UnknownName",
    "make",
    "register",
    "registered",
    "tool",
]

_HOMES: dict[str, str] = {
    "Solution": "envs",
    "Step": "envs",
    "ToolEnv": "envs",
    "make": "envs",
    "register": "envs",
    "registered": "envs",
    "Conflict": "tools",
    "FaultPlan": "tools",
    "Forbidden": "tools",
    "Gone": "tools",
    "NotFound": "tools",
    "RateLimited": "tools",
    "Tool": "tools",
    "ToolError": "tools",
    "ToolTimeout": "tools",
    "Unauthenticated": "tools",
    "Unavailable": "tools",
    "tool": "tools",
    "Action": "trajectories",
    "Cause": "trajectories",
    "ConfigError": "trajectories",
    "DataError": "trajectories",
    "EnvError": "trajectories",
    "InfrastructureError": "trajectories",
    "Message": "trajectories",
    "MissingExtra": "trajectories",
    "Observation": "trajectories",
    "Outcome": "trajectories",
    "SparringError": "trajectories",
    "StopReason": "trajectories",
    "Task": "trajectories",
    "Tokens": "trajectories",
    "ToolCall": "trajectories",
    "ToolResult": "trajectories",
    "Trajectory": "trajectories",
    "TrajectoryGroup": "trajectories",
    "Turn": "trajectories",
    "UnknownName": "trajectories",
}
"""Public name -> the package that it comes from."""


__getattr__, __dir__ = lazy(globals(), _HOMES)
