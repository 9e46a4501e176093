"""A toy kind of stage, whole in this file: keeps the shortest of a stage's episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.trainers.stage import EPISODES, STAGES, Work


@STAGES.register("shortest")
@dataclass(frozen=True, slots=True)
class Shortest:
    """Leaves `episodes`."""

    about = "the shortest episodes"

    of: str
    """The stage whose episodes they are."""
    n: int = 1
    """How many."""

    def uses(self) -> Sequence[str]:
        return (self.of,)

    def run(self, work: Work) -> None:
        episodes = sorted(work.inputs[self.of].read(), key=lambda t: len(t.turns))
        work.write(EPISODES, episodes[: self.n])
