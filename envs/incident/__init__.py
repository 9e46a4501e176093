"""Services that fail because of what they depend on: look first, then act."""

from .env import Incident

__all__ = ["Incident"]
