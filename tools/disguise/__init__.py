"""Disguises: the same tools under other names, in each episode others. Defines `DrawnDisguise`."""

from .drawn import DrawnDisguise

__all__ = ["DrawnDisguise"]
