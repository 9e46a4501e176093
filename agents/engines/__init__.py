"""Engines: how a model generates. The embedded one is imported where it is used; it loads torch."""

from .engine import Engine, Generated, Sampling

__all__ = ["Engine", "Generated", "Sampling"]
