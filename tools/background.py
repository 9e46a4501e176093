"""Async work from plain functions: one event loop in one thread, and a deadline on every wait. Defines `Background`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Background"]

_T = TypeVar("_T")


class Background:
    """An event loop in a thread of its own, which ends with the program at the latest."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self.loop.is_closed() or not self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """Waits for `work`, from any thread but the loop's own. Raises `TimeoutError` after `seconds`, `RuntimeError`
        when closed; in both cases, and when the caller is interrupted, `work` is cancelled."""
        if self.closed:
            work.close()
            raise RuntimeError("closed")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # the work's own
            future.cancel()
            raise TimeoutError(f"nothing came back in {seconds:.0f} s") from None
        except BaseException:
            future.cancel()  # Ctrl-C: nothing goes on behind the caller's back
            raise

    def close(self, seconds: float = 5.0) -> None:
        """Cancels what still runs and ends the thread."""
        if not self.closed:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(seconds)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
