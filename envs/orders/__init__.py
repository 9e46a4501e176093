"""An order desk on a real SQLite database: the flagship environment."""

from .env import Orders

__all__ = ["Orders"]
