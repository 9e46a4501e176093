"""A foreign suite as an environment: methods of a stateful object, a user who speaks in mid-episode, tools that go.

Try it:  sparring check examples/foreign/airline.py:Airline
"""

from random import Random
from typing import Any

import airline_suite as suite  # next to this file; a real suite is installed

from sparring.envs import Others, Solution, Task, ToolEnv, ToolRules, User, Verdict
from sparring.tools import Conflict, NotFound, methods


def passenger(env: Any, said: str) -> str | None:
    if env.episode.answers == 0:
        env.episode.act_as("passenger", "confirm_passport", passenger=env.episode.task.data["passenger"])
    return next(iter(env.episode.task.data["lines"][env.episode.answers + 1 :]), None)


class Airline(ToolEnv):
    """Rebook a passenger, check them in, give them a seat.

    ## Tools
    Those of the desk; when a passenger is checked in, `rebook` and `cancel` go and `seat` comes.

    ## Rewards
    A third for each part of the suite's own grade.

    ## Episode End
    A message to which the passenger has nothing more to say, or the turn limit.

    ## Version History
    v0: first.
    """

    system = "Serve the passenger with the tools, one call at a time. Answer Done when you have done what was asked."
    reads = methods(suite.Desk, "find_flight", "find_booking", at="state.desk")
    writes = methods(suite.Desk, "rebook", "cancel", "check_in", "seat", at="state.desk", effect=True)
    user, others = User(passenger), Others({"passenger": methods(suite.Phone, "confirm_passport", at="state")})
    errors = {suite.NoSuch: NotFound, suite.Refused: Conflict}  # noqa: RUF012  # never changed
    tool_rules = ToolRules(offered=lambda env: env.state.desk.tools(), errors=errors)
    keeps_before = True  # the suite's grade compares

    def tasks(self, split: str, rng: Random) -> list[Task]:
        rows = {"train": suite.TASKS[:24], "validation": suite.TASKS[24:32], "test": suite.TASKS[32:40]}[split]
        return [Task(row["lines"][0], row) for row in rng.sample(rows, len(rows))]

    def setup(self, task: Task, rng: Random) -> None:
        self.state = suite.Phone(suite.fresh(task.data))

    def success(self, task: Task) -> Verdict:
        return Verdict(*suite.grade(self.episode.ended().before.desk, self.state.desk, task.data))

    def solve(self, task: Task) -> Solution:
        while True:
            for call in suite.reference(self.state.desk, task.data, self.episode.answers):  # noqa: UP028
                yield call
            yield "Done."
