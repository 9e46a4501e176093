"""What happened: plain data, and pure functions over it. No models, no environments."""

from .errors import (
    ConfigError,
    DataError,
    EnvError,
    InfrastructureError,
    MissingExtra,
    SparringError,
    UnknownName,
)
from .messages import Action, Cause, Json, Message, Observation, Outcome, ToolCall, ToolResult, ToolSpec
from .trajectory import Fork, StopReason, Task, Tokens, Trajectory, TrajectoryGroup, Turn

__all__ = [
    "Action",
    "Cause",
    "ConfigError",
    "DataError",
    "EnvError",
    "Fork",
    "InfrastructureError",
    "Json",
    "Message",
    "MissingExtra",
    "Observation",
    "Outcome",
    "SparringError",
    "StopReason",
    "Task",
    "Tokens",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Trajectory",
    "TrajectoryGroup",
    "Turn",
    "UnknownName",
]
