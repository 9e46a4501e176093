"""The processes that train together. So far a run is one process; what depends on their number asks here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["World"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this one is."""

    rank: int = 0
    """From 0."""
    size: int = 1
    """Processes in all."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes metrics, checkpoints and the model."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """This process's share of `items`: every `size`-th one."""
        return list(items[self.rank :: self.size])

    def sum(self, value: float) -> float:
        """The sum of `value` over all processes: a step's denominators count what every process has."""
        if self.size == 1:
            return value
        import torch

        total = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return float(total)
