"""Word problems whose facts have to be looked up and whose figures have to be computed, each by tools."""

from .env import MathTools

__all__ = ["MathTools"]
