"""What every engine is: token ids in, sampled token ids and their log-probabilities out.

An engine knows nothing of messages: a `ChatFormat` does. One that can be trained takes new weights too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..trajectories.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DEFAULT_CONTEXT", "Engine", "Generated", "Sampling", "TrainableEngine", "context_within", "end_ids_of"]

DEFAULT_CONTEXT = 4096
"""Tokens of an episode where nobody names a limit."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample."""

    temperature: float = 1.0
    """From 0; 0 takes the most likely token."""
    max_tokens: int = 64
    """Of one turn, stop token included."""
    stop_ids: tuple[int, ...] = ()
    """Each ends the turn."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What was sampled."""

    ids: tuple[int, ...]
    """Stop token included."""
    logprobs: tuple[float, ...]
    """One for each id, in nats, of the distribution that it was drawn from: at the sampling temperature. At temperature
    0 that of temperature 1."""
    stopped: bool
    """False: cut at `max_tokens`."""


class Engine(Protocol):
    """A model that generates. Many calls may be under way at once; the engine batches them.

    An engine that knows the end tokens of its model has them as `end_ids`: see `end_ids_of`.
    """

    version: int
    """Counts the loads of new weights."""
    max_context: int
    """Tokens of a prompt and its answer together; a longer one is refused."""

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        """Continues `prompt`. Calls of one `session` extend each other: what was seen is not computed again.

        Sampling depends on `seed` and the prompt's length alone, not on what else is in the batch. Raises `ConfigError`
        for a prompt that does not fit, `InfrastructureError` when the model cannot be reached.
        """
        ...

    def release(self, session: str) -> None:
        """The session is over; its cache may go."""
        ...


class TrainableEngine(Engine, Protocol):
    """An engine whose weights can be replaced between rollouts."""

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes over new weights one by one (names as in `state_dict`, any dtype), forgets what it has cached, and
        counts `version` up. Raises `ConfigError` for an unknown name, and while something is being generated."""
        ...


def end_ids_of(engine: Engine) -> tuple[int, ...]:
    """The end tokens of the engine's model: each ends an answer, in any chat format. () where not known."""
    return tuple(getattr(engine, "end_ids", ()))


def context_within(wanted: int | None, limit: int | None, whose: str = "the model") -> int:
    """The context to use, in tokens: `wanted`, or `DEFAULT_CONTEXT` where that fits.

    Args:
        wanted: What a user set; None: nothing.
        limit: The most that is possible; None: not known.
        whose: What has the limit, for the message.

    Raises `ConfigError` when more is wanted than there is.
    """
    if wanted is None:
        return min(DEFAULT_CONTEXT, limit or DEFAULT_CONTEXT)
    if wanted < 1:
        raise ConfigError(f"max_context must be 1 token or more, got {wanted}")
    if limit is not None and wanted > limit:
        raise ConfigError(f"max_context is {wanted} tokens, but {whose} takes {limit} at most: set {limit} or less")
    return wanted
