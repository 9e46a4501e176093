"""Settings that every objective has. No torch here: the command line makes its options of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from ..trajectories.errors import ConfigError

__all__ = ["Optim", "Precision", "TrainSettings", "in_range"]

Precision = Literal["fp32", "bf16"]
"""fp32: everything in float32. bf16: float32 master weights, bfloat16 autocast and generation."""


def in_range(settings: Any, *, at_least: Mapping[str, float], above: Mapping[str, float], endless: str = "") -> None:
    """Raises `ConfigError` for a number of a dataclass that is not finite, or out of its range.

    Args:
        settings: The dataclass.
        at_least: Field -> its smallest value.
        above: Field -> what it has to be more than.
        endless: Fields, with spaces between them, that may be infinite; none may be a NaN.
    """
    for name in (f.name for f in fields(settings)):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        bound = f" of {at_least[name]:g} or more" if name in at_least else ""
        bound = f" above {above[name]:g}" if name in above else bound
        if math.isnan(value) or (math.isinf(value) and name not in endless.split()):
            raise ConfigError(f"{name} is a finite number{bound}, got {value}")
        if value < at_least.get(name, -math.inf) or (name in above and value <= above[name]):
            raise ConfigError(f"{name} is a number{bound}, got {value}")


@dataclass(frozen=True, slots=True)
class Optim:
    """AdamW and its schedule."""

    lr: float = 1e-5
    """Learning rate after the warm-up."""
    schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up: stay, or fall to 0 at the last step."""
    warmup: int = 0
    """Steps over which the learning rate rises."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and the second moment."""
    weight_decay: float = 0.0
    """Decoupled from the gradient, as AdamW has it."""
    max_grad_norm: float = 1.0
    """A longer gradient is scaled down to this norm."""
    micro_tokens: int = 2048
    """Distinct tokens of one forward pass: less needs less memory, and the gradient of the step is the same."""

    def __post_init__(self) -> None:
        least = {"lr": 0, "warmup": 0, "weight_decay": 0, "micro_tokens": 1}
        in_range(self, at_least=least, above={"max_grad_norm": 0}, endless="max_grad_norm")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas are from 0 to below 1, got {self.betas}")

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step 0..steps-1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        return self.lr * (steps - step) / max(1, steps - self.warmup)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Of one training run, whatever its objective."""

    steps: int = 10
    """Optimiser steps of the whole run."""
    optim: Optim = field(default_factory=Optim)
    """Optimiser and schedule."""
    max_context: int = 4096
    """Tokens of an episode; a longer one is refused, never cut."""
    save_every: int = 10
    """Steps between checkpoints; 0: only when the run is interrupted."""
    seed: int = 0
    """Of the order of the data, of adapters' first weights and of all that is drawn: same seed, same run."""

    at_least: ClassVar[dict[str, float]] = {"steps": 1, "max_context": 1, "save_every": 0}
    """Field -> its smallest value. Objectives add theirs."""
    above: ClassVar[dict[str, float]] = {}
    """Field -> what it has to be more than."""
    endless: ClassVar[str] = ""
    """Fields that may be infinite, with spaces between them."""

    def __post_init__(self) -> None:
        in_range(self, at_least=self.at_least, above=self.above, endless=self.endless)
