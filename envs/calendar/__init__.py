"""People, meetings, rooms and slots on a plain dict: the held-out environment."""

from .env import Calendar

__all__ = ["Calendar"]
