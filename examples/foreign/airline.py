"""A foreign suite as an environment: methods of a stateful object, a user who speaks in mid-episode, tools that go.

Try it:  sparring check examples/foreign/airline.py:Airline
"""

from random import Random
from typing import Any

import airline_suite as suite  # next to this file; a real suite is installed

from sparring.envs import Others, Solution, Split, Task, ToolEnv, ToolRules, UserTurns, Verdict
from sparring.tools import Conflict, NotFound, methods


def turns(env: Any) -> list[Any]:
    first, second, *more = env.episode.task.data["lines"]
    confirms = ("passenger", "confirm_passport", {"passenger": env.episode.task.data["passenger"]})
    return [first, {"text": second, "does": [confirms]}, *more]


class Airline(ToolEnv):
    """Rebook a passenger, check them in, give them a seat."""

    system = "Serve the passenger with the tools, one call at a time. Answer Done when you have done what was asked."
    tools = methods(suite.Desk, where=suite.is_tool, effect=suite.is_write, at="state.desk")
    user, others = UserTurns(turns), Others({"passenger": methods(suite.Phone, "confirm_passport", at="state")})
    errors = {suite.NoSuch: NotFound, suite.Refused: Conflict}  # noqa: RUF012  # never changed
    tool_rules = ToolRules(fidelity="suite", errors=errors, offered=lambda env: env.state.desk.tools())

    def tasks(self, split: Split, rng: Random) -> list[Task]:
        rows = {"train": suite.TASKS[:24], "validation": suite.TASKS[24:32], "test": suite.TASKS[32:40]}[split]
        return [Task(row["lines"][0], row) for row in rng.sample(rows, len(rows))]

    def setup(self, task: Task, rng: Random) -> None:
        self.state = suite.Phone(suite.fresh(task.data))

    def success(self, task: Task) -> Verdict:
        return Verdict(*suite.grade(suite.fresh(task.data), self.state.desk, task.data))

    def solve(self, task: Task) -> Solution:
        while True:
            for call in suite.reference(self.state.desk, task.data, self.episode.answers):  # noqa: UP028
                yield call
            yield "Done."
