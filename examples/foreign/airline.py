"""A foreign suite as an environment: methods of a stateful object, a user who speaks in mid-episode, tools that go.

Try it:  sparring check examples/foreign/airline.py:Airline
"""

from random import Random

import airline_suite as suite  # next to this file; a real suite is installed

from sparring import Conflict, NotFound, Solution, Task, ToolEnv
from sparring.envs import Verdict
from sparring.envs.rewards import Ended
from sparring.tools.definition import methods


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
    others = {"passenger": methods(suite.Phone, "confirm_passport", at="state")}  # noqa: RUF012  # never changed
    toolbox_settings = {"errors": {suite.NoSuch: NotFound, suite.Refused: Conflict}}  # noqa: RUF012  # as above

    def tasks(self, split: str, rng: Random) -> list[Task]:
        rows = {"train": suite.TASKS[:24], "validation": suite.TASKS[24:32], "test": suite.TASKS[32:40]}[split]
        return [Task(row["lines"][0], row) for row in rng.sample(rows, len(rows))]

    def setup(self, task: Task, rng: Random) -> None:
        self.state = suite.Phone(suite.fresh(task.data))

    def offered(self) -> list[str]:
        return list(self.state.desk.tools())

    def reply(self, task: Task, said: str) -> str | None:
        if self.answers == 0:
            self.act_as("passenger", "confirm_passport", passenger=task.data["passenger"])
        return next(iter(task.data["lines"][self.answers + 1 :]), None)

    def verdict(self, ended: Ended) -> Verdict:
        return Verdict(*suite.grade(ended.before.desk, ended.after.desk, ended.task.data))

    def solve(self, task: Task) -> Solution:
        while True:
            for call in suite.reference(self.state.desk, task.data, self.answers):  # noqa: UP028  # results are sent
                yield call
            yield "Done."
