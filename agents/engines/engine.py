"""What every engine is: one asynchronous method from token ids to sampled token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Engine", "Generated", "Sampling"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample."""

    temperature: float = 1.0
    """0: the most likely token."""
    max_tokens: int = 64
    """A turn, stop token included."""
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """What was sampled."""

    ids: tuple[int, ...]
    """Stop token included."""
    logprobs: tuple[float, ...]
    """Nats, at temperature 1, whatever the sampling temperature."""
    stopped: bool
    """False: cut at `max_tokens`."""


class Engine(Protocol):
    """A model that generates. Many calls may be under way at once; the engine batches them."""

    version: int
    """Counts the loads of new weights."""

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        """Continues `prompt`. Calls of one `session` extend each other: what was seen is not computed again.

        Sampling depends on `seed` and the prompt's length alone, not on what else is in the batch.
        """
        ...

    def release(self, session: str) -> None:
        """The session is over; its cache may go."""
        ...
