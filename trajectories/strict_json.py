"""What JSON allows and no record of ours can hold, refused while it is parsed: hooks for `json.loads`."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["finite", "int64", "no_constant"]


def no_constant(text: str) -> Any:
    """For `parse_constant`: NaN and Infinity are no JSON."""
    raise ValueError(f"{text} is no JSON value")


def int64(text: str) -> int:
    """For `parse_int`: what fits 64 bits."""
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError("an integer beyond 64 bits")
    return value


def finite(text: str) -> float:
    """For `parse_float`: 1e999 is no finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value
