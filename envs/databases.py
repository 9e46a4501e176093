"""Databases in memory that an episode's state may hold."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

__all__ = ["Database"]


class Database(sqlite3.Connection):
    """A connection that is closed when nobody holds it any more: `sqlite3.connect(..., factory=Database)`.

    An episode's state is dropped, and never ended by a call. From Python 3.13, a connection that is dropped while it is
    open is warned of.
    """

    def __del__(self) -> None:
        with suppress(sqlite3.Error):  # collected in another thread than its own
            self.close()
