"""Where it happens: environments of tools, tasks and checks. Loads no model library."""

from .check import CheckProgress, Finding, check_env
from .env import Clock, Solution, Step, ToolEnv, name_of
from .episode import Episode, Snapshot, Verdict
from .experts import expert, expert_turns, play
from .facets import Fact, FaultHooks, KnobHooks, Others, ToolRules, User
from .knobs import Knobs, harder
from .registry import make, register, registered
from .task import SPLITS, Split, Task, task_set
from .task_files import tasks_from
from .user_turns import UserTurn, UserTurns

register("sparring/Orders-v0", "sparring.envs.orders:Orders", short="orders")
register("sparring/Calendar-v0", "sparring.envs.calendar:Calendar", short="calendar")
register("sparring/Shop-v0", "sparring.envs.shop:Shop", short="shop")
register("sparring/Incident-v0", "sparring.envs.incident:Incident", short="incident")
register("sparring/SqlAnalyst-v0", "sparring.envs.sql_analyst:SqlAnalyst", short="sql-analyst")
register("sparring/Files-v0", "sparring.envs.files:Files", short="files")
register("sparring/CodeRepair-v0", "sparring.envs.code_repair:CodeRepair", short="code-repair")
register("sparring/MathTools-v0", "sparring.envs.math_tools:MathTools", short="math-tools")
register("sparring/Worlds-v0", "sparring.envs.worlds:Worlds", short="worlds")
register("sparring/InventedWorlds-v0", "sparring.envs.worlds:InventedWorlds", short="worlds-invented")
register("sparring/Echo-v0", "sparring.envs.echo:Echo", short="echo")

__all__ = [
    "SPLITS",
    "CheckProgress",
    "Clock",
    "Episode",
    "Fact",
    "FaultHooks",
    "Finding",
    "KnobHooks",
    "Knobs",
    "Others",
    "Snapshot",
    "Solution",
    "Split",
    "Step",
    "Task",
    "ToolEnv",
    "ToolRules",
    "User",
    "UserTurn",
    "UserTurns",
    "Verdict",
    "check_env",
    "expert",
    "expert_turns",
    "harder",
    "make",
    "name_of",
    "play",
    "register",
    "registered",
    "task_set",
    "tasks_from",
]
