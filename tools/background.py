"""Between threads and event loops: `Background` does async work for plain code, `Lane` plain work for async code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

__all__ = ["Background", "Lane"]

_P = ParamSpec("_P")
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

    def run(self, work: Coroutine[Any, Any, _T], seconds: float | None) -> _T:
        """Waits for `work`, from any thread but the loop's own. Raises `TimeoutError` after `seconds` (None: never),
        `RuntimeError` when closed; in both cases, and when the caller is interrupted, `work` is cancelled."""
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


class Lane:
    """A thread in which one call runs after the other, each awaited on an event loop.

    A call cannot be stopped. Who no longer waits for one closes the lane and takes another: the thread ends with the
    call, or with the program, which does not wait for it.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    async def run(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `fn` returns or raises, from the thread. It may not raise `StopIteration`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        work = partial(contextvars.copy_context().run, fn, *args, **kwargs)

        def call() -> None:
            try:
                settle = partial(_settle, future, future.set_result, work())
            except BaseException as error:
                settle = partial(_settle, future, future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and nobody waits
                loop.call_soon_threadsafe(settle)

        self._calls.put(call)
        return await future

    def close(self) -> None:
        """Ends the thread when what it does now has ended."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # and with it what it was called with, which may be large


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():  # cancelled meanwhile
        settle(outcome)
