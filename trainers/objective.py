"""What an objective is, and the registry of them: one file in `trainers/objectives/` each.

    train(policy, Sft(SftSettings(steps=40), Data(episodes=gold)), "runs/sft")

`train` calls `prepare` once, then for each step `sample` (what this step learns from: a piece of the data, or episodes
that the policy plays now) and `losses` (one for each micro-batch). An objective keeps nothing between steps: what a
step does follows from its number, the seed and the weights, so that a run which was killed resumes to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from ..trajectories.curation import Pair
from ..trajectories.registry import Registry
from ..trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    from .losses import Loss
    from .model import Policy
    from .run import Run

__all__ = ["OBJECTIVES", "Data", "Drawn", "Measures", "Needs", "Objective"]

B = TypeVar("B")

Needs = Literal["episodes", "pairs", "mixture"]
"""What an objective learns from: given episodes, given pairs, or episodes that it plays in its settings' mixture."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a run is given. An objective reads what it needs."""

    episodes: Sequence[Trajectory] = ()
    """To learn from as they are."""
    pairs: Sequence[Pair] = ()
    """Of a better and a worse episode."""
    gold: Sequence[Trajectory] = ()
    """Good episodes that are replayed a little next to another objective."""
    held_out: Sequence[Trajectory] = ()
    """Episodes whose loss is measured, and which are never learned."""


@dataclass(frozen=True, slots=True)
class Drawn(Generic[B]):
    """What one step learns from."""

    batch: B
    """For the objective's own `losses`."""
    logs: Mapping[str, float] = field(default_factory=dict)
    """What there is to say of it, for the step's row of metrics."""


class Objective(Protocol[B]):
    """One way to learn from trajectories, made as `Kind(settings, data)`.

    Its class says three things more, which the command line and recipes read:

        Settings   dataclass of its settings, a `TrainSettings`: the command line makes options of the fields
        needs      what it learns from: `Needs`
        metric     of the rows of metrics, the one that tells most in one number
    """

    settings: Any
    """An instance of `Settings`."""

    def prepare(self, policy: Policy) -> None:
        """Before the first step, with the policy as it was given: data into tokens, references. Raises `DataError`
        where there is nothing to learn from."""
        ...

    def sample(self, run: Run, step: int) -> Drawn[B]:
        """What step `step` (from 0) learns from."""
        ...

    def losses(self, policy: Policy, batch: B) -> Iterable[Callable[[], Loss]]:
        """The losses of the step's micro-batches; their values add up to that of the step."""
        ...


@runtime_checkable
class Measures(Protocol):
    """An objective that measures something else than its loss now and then, such as the loss of held-out episodes."""

    def measure(self, policy: Policy, step: int) -> Mapping[str, float]:
        """After the update of step `step` (from 1): what goes into the step's row of metrics."""
        ...


OBJECTIVES: Registry[type[Any]] = Registry(
    "objective", package="sparring.trainers.objectives", group="sparring.objectives"
)
"""Objectives by name: `sft`, `dpo`, `grpo`, and yours by `@OBJECTIVES.register("name")`."""
