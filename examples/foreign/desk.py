"""A foreign suite as an environment: functions with schemas, injected dependencies, frozen time, tasks from a file.

Try it:  sparring check examples/foreign/desk.py:HelpDesk
"""

from pathlib import Path
from random import Random
from typing import Any

import desk_suite as suite  # next to this file; a real suite is installed

from sparring.envs import Clock, Solution, Split, Task, ToolEnv, ToolRules, tasks_from
from sparring.tools import NotFound, toolset


class State(dict[str, Any]):  # what `deepcopy` cannot copy says how it is copied
    def __deepcopy__(self, memo: object) -> "State":
        return State(db=suite.clone(self["db"]), clock=Clock(self["clock"].now))


class HelpDesk(ToolEnv):
    """Escalate a ticket that has waited for too long, else raise its priority."""

    tools = toolset(suite.TOOLS, injects=("db", "clock"), effect=("set_priority", "escalate"))
    tool_rules = ToolRules(
        fidelity="suite",
        is_error=lambda value: NotFound() if isinstance(value, dict) and "error" in value else None,
        injected=lambda env: env.state,
        after_call=lambda env, call, result: env.state["clock"].advance(minutes=2),
    )

    def tasks(self, split: Split, rng: Random) -> list[Task]:
        return tasks_from(Path(__file__).with_name("desk_tasks.jsonl"), split, field="split", rng=rng)

    def setup(self, task: Task, rng: Random) -> None:
        self.state = State(db=suite.fresh(task.data, Clock().now), clock=Clock())

    def success(self, task: Task) -> bool:
        return suite.done(self.state["db"], task.data)

    def solve(self, task: Task) -> Solution:
        for call in suite.reference(self.state["db"], task.data):  # noqa: UP028  # results are sent
            yield call
