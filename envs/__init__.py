"""Where it happens: environments of tools, tasks and checks. Loads no model library."""

from .check import Finding, check_env
from .env import Snapshot, Solution, Step, ToolEnv, name_of
from .expert import expert, optimum, play
from .registry import make, register, registered
from .task import SPLITS, Split, Task, task_set

register("sparring/Orders-v0", "sparring.envs.orders:Orders", short="orders")
register("sparring/Calendar-v0", "sparring.envs.calendar:Calendar", short="calendar")
register("sparring/Shop-v0", "sparring.envs.shop:Shop", short="shop")
register("sparring/Incident-v0", "sparring.envs.incident:Incident", short="incident")
register("sparring/Echo-v0", "sparring.envs.echo:Echo", short="echo")

__all__ = [
    "SPLITS",
    "Finding",
    "Snapshot",
    "Solution",
    "Split",
    "Step",
    "Task",
    "ToolEnv",
    "check_env",
    "expert",
    "make",
    "name_of",
    "optimum",
    "play",
    "register",
    "registered",
    "task_set",
]
