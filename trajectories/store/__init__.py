"""Where episodes are kept: append-only, safe against kill -9, many writers at once, queried with SQL."""

from .records import MIGRATIONS
from .store import Cleaned, Result, Sealed, Store, StoreWriteError, Verified

__all__ = ["MIGRATIONS", "Cleaned", "Result", "Sealed", "Store", "StoreWriteError", "Verified"]
