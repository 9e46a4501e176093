"""Between threads and event loops: `Background` does async work for plain code, `Lane` plain work for async code.

`run_async` does async work on the loop that all tools share.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from functools import lru_cache, partial
from typing import Any, ParamSpec, TypeVar

__all__ = ["Background", "Lane", "run_async"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_PATIENCE = 0.05
"""Seconds after which an event loop that has not turned is blocked. Taking a busy one for it costs a thread."""
_END_S = 1.0
"""Seconds that cancelled work may take to end when its loop is closed."""


class _Late(TimeoutError):
    """The wait was over before the work was: not a timeout of the work's own."""


class Background:
    """An event loop in a thread of its own, which ends with the program at the latest."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._waiting = 0
        """Threads that wait for work of theirs."""
        self._retired = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._retired or self.loop.is_closed() or not self._thread.is_alive()

    @property
    def here(self) -> bool:
        """Whether the caller is on the loop's own thread, where waiting for it would never end."""
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, _T], seconds: float | None) -> _T:
        """Waits for `work`, from any thread but the loop's own. Raises `TimeoutError` after `seconds` (None: never),
        `RuntimeError` when closed; in both cases, and when the caller is interrupted, `work` is cancelled."""
        with self._lock:
            closed = self.closed
            self._waiting += not closed
        if closed:
            work.close()
            raise RuntimeError("closed")
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
            try:
                return future.result(seconds)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise  # the work's own
                future.cancel()
                raise _Late(f"nothing came back in {seconds:.0f} s") from None
            except BaseException:
                future.cancel()  # Ctrl-C: nothing goes on behind the caller's back
                raise
        finally:
            with self._lock:
                self._waiting -= 1
                ends = self._retired and not self._waiting
            if ends:
                self._stop()

    def blocked(self) -> bool:
        """Whether something that runs on the loop does not let go of it."""
        turned = threading.Event()
        try:
            self.loop.call_soon_threadsafe(turned.set)
        except RuntimeError:  # closed meanwhile
            return True
        return not turned.wait(_PATIENCE)

    def retire(self) -> None:
        """Takes no more work, and ends when nobody waits for any: for a loop that may be blocked, while other threads
        still wait for theirs."""
        with self._lock:
            self._retired = True
            ends = not self._waiting
        if ends:
            self._stop()

    def close(self, seconds: float = 5.0) -> None:
        """Cancels what still runs and ends the thread."""
        if self._thread.is_alive():
            self._stop()
            self._thread.join(seconds)

    def _stop(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self.loop.stop)
        except RuntimeError:  # closed meanwhile
            return

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.set_exception_handler(lambda loop, context: None)  # work that never ends is told of elsewhere
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_END_S))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class Lane:
    """A thread in which one call runs after the other, each awaited on an event loop.

    A call cannot be stopped. Who no longer waits for one closes the lane and takes another: the thread ends with the
    call, or with the program, which does not wait for it.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing runs in it any more, once it has been closed."""
        return not self._thread.is_alive()

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


_shared_lock = threading.Lock()
_shared: Background | None = None


def run_async(main: Coroutine[Any, Any, _T], limit: float | None = None) -> _T:
    """Runs `main` to its end on the loop that all tools share, also where this thread has a running loop.

    One loop for all, so that clients and locks made in one call work in the next. Raises `TimeoutError` when `main` has
    not ended after `limit` seconds. Where it blocks the loop, that is given up for a new one, and ends when nobody
    waits for it any more.
    """
    global _shared
    with _shared_lock:
        _watch()
        if _shared is None or _shared.closed:
            _shared = Background("sparring-tools")
        own = _shared
    if own.here:  # a tool that calls a tool
        own = Background("sparring-tools-nested")
        try:
            return own.run(main, limit)
        finally:
            own.retire()
    try:
        return own.run(main, limit)
    except _Late:
        if own.blocked():
            own.retire()
        raise


def _end() -> None:
    if _shared is not None:
        _shared.close(1.0)


def _forget() -> None:
    """In a forked child, where the loop's thread does not exist."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


@lru_cache(maxsize=1)
def _watch() -> None:
    """From the first use on, and not when this module is imported: a process without async tools has no hooks."""
    atexit.register(_end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
