"""Linear layers with their weights in the order that oneDNN computes in.

A decoding step multiplies a few dozen tokens by every weight of the model. torch brings each weight into that order
anew in each product; here it is done once for each load of weights. In bfloat16 the products are the same to the last
bit; one of 8 tokens takes half of the time, one of 48 three quarters (whole episodes: benchmarks/engine.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["pack"]

_ROWS = 128
"""Tokens of a product that the order is chosen for; it is as good for 1 and for 1,000."""


class _PackedLinear(nn.Linear):
    """What an `nn.Linear` becomes: its weight stays, for reading and loading, and the packed one computes."""

    packed: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return self._computed(input, self.bias)

    def product(self, input: Tensor) -> Tensor:
        """Without the bias: see `agents.head.Head`."""
        return self._computed(input, None)

    def _computed(self, input: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = _ops()._linear_pointwise(input, self.packed, bias, "none", [], "")
        return out


def pack(model: nn.Module) -> None:
    """Packs the linear layers of `model` (in place), and packs anew after its weights changed.

    Does nothing for a layer that is not in bfloat16, that is not on a CPU, or where torch has no oneDNN.
    """
    for module in model.modules():
        if type(module) is nn.Linear and _can_be(module.weight):
            module.__class__ = _PackedLinear
        if isinstance(module, _PackedLinear):
            # No buffer: it is neither saved nor loaded.
            object.__setattr__(module, "packed", _ops()._reorder_linear_weight(module.weight.detach(), _ROWS))


def _can_be(weight: Tensor) -> bool:
    known = hasattr(_ops(), "_reorder_linear_weight")  # not where torch was built without oneDNN
    return known and weight.device.type == "cpu" and weight.dtype == torch.bfloat16


def _ops() -> Any:
    return torch.ops.mkldnn
