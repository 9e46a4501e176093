"""The command line, one file a command. `root` brings them together."""

from .root import app, main

__all__ = ["app", "main"]
