"""Questions about a real SQLite database, answered by reading it: what a row means is in its notes."""

from .env import SqlAnalyst

__all__ = ["SqlAnalyst"]
