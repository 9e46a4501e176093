"""A toy environment, whole in this file: open a box, then take what is in it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sparring import Conflict, Solution, Task, ToolEnv, tool


class Box(ToolEnv):
    """Open the box and take what is in it."""

    system = "Use the tools, then answer Done."

    def tasks(self, split: str, rng: random.Random) -> Iterator[Task]:
        first = {"train": 0, "validation": 50, "test": 100}[split]
        for number in range(first, first + 50):
            yield Task(f"Take what is in box {number}.", {"number": number})

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"open": False, "taken": False}

    @tool(effect=True)
    def open_box(self, number: int) -> str:
        """Open a box."""
        self.state["open"] = number == self.episode.task.data["number"]
        return "it is open"

    @tool(effect=True)
    def take(self) -> str:
        """Take what is in the box."""
        if not self.state["open"]:
            raise Conflict("the box is shut")
        self.state["taken"] = True
        return "taken"

    def success(self, task: Task) -> bool:
        return bool(self.state["taken"])

    def solve(self, task: Task) -> Solution:
        if not self.state["open"]:
            yield "open_box", {"number": task.data["number"]}
        if not self.state["taken"]:
            yield "take", {}
