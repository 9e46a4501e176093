"""Settings that every objective has. No torch here: the command line makes its options of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Optim", "Precision", "TrainSettings"]

Precision = Literal["fp32", "bf16"]
"""fp32: everything in float32. bf16: float32 master weights, bfloat16 autocast and generation."""


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
    """Of the order of the data and of all that is drawn: same seed, same run."""
