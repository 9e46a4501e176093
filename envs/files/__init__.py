"""A real folder on disk: find files, read them, change what is asked for and nothing else."""

from .env import Files

__all__ = ["Files"]
