"""From hidden states to logits: the output layer, and what a model does to its logits afterwards.

Some families scale their logits (Granite, Cohere), some cap them (Gemma 2), and their configuration says so. The engine
and the trainer both take their logits from here; `agents/proof.py` compares them with the model's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Head"]

_FACTORS, _DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)
_CAPS = ("final_logit_softcapping", "logits_soft_cap")


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """logits = cap * tanh(scale * (h W^T + b) / cap)."""

    table: Tensor
    """W, (V, width)."""
    bias: Tensor | None = None
    """(V,)"""
    scale: float = 1.0
    cap: float | None = None
    """None: no cap."""
    product: Callable[[Tensor], Tensor] | None = None
    """h -> h W^T, where the layer has a faster way."""

    @classmethod
    def of(cls, model: Any) -> Head:
        """A model's, adapters (PEFT) around it or not; by its text configuration."""
        layer, config = model.get_output_embeddings(), model.config.get_text_config(decoder=True)
        scale = 1.0
        for name in _FACTORS:
            scale *= _number(config, name) or 1.0
        for name in _DIVISORS:
            scale /= _number(config, name) or 1.0
        cap = next((value for name in _CAPS if (value := _number(config, name))), None)
        return cls(layer.weight, getattr(layer, "bias", None), scale, cap, getattr(layer, "product", None))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., V) in float32; the product in the dtype of `hidden`."""
        if self.product is not None:
            return self.finish(self.product(hidden))
        return self.finish(hidden @ self.table.to(hidden.dtype).T)

    def finish(self, products: Tensor) -> Tensor:
        """Logits in float32 of the products h W^T (..., V)."""
        logits = products.float()
        if self.bias is not None:
            logits = logits + self.bias.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def slope(self, logits: Tensor) -> Tensor | float | None:
        """Of the logits, by the products that they were made of; None: 1."""
        if self.cap is not None:
            return self.scale * (1 - (logits / self.cap) ** 2)
        return None if self.scale == 1.0 else self.scale


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else None
