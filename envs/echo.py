"""The smallest environment: say a word back through one call."""

from __future__ import annotations

import random
from collections.abc import Iterable

from ..tools import tool
from ..trajectories import Task
from .env import Solution, ToolEnv
from .task import SPLITS, Split

WORDS = ("apple", "brick", "cloud", "dune", "ember", "fjord", "grape", "house", "inlet", "jade", "kite", "lemon")


class Echo(ToolEnv):
    """Say the given word back with one call. For smoke tests, and to learn the interface.

    ## Tools
    `say(word)`.

    ## Rewards
    1 when the word said last is the one asked for, else 0.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = "Use the tool, then answer Done."
    max_turns = 4

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        words = list(WORDS[SPLITS.index(split) :: len(SPLITS)])
        rng.shuffle(words)
        yield from (Task(f"Say {word}.", {"word": word}, kind="say") for word in words)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"said": None}

    @tool(effect=True, idempotent=True)
    def say(self, word: str) -> str:
        """Say a word."""
        self.state["said"] = word
        return word

    def success(self, task: Task) -> bool:
        return bool(self.state["said"] == task.data["word"])

    def solve(self, task: Task) -> Solution:
        if not self.success(task):
            yield "say", {"word": task.data["word"]}
