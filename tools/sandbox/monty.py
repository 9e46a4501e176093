"""`MontySandbox`: an interpreter for a subset of Python, in worker processes (package `pydantic-monty`).

It starts at once, needs no privileges and runs anywhere. It has no third-party packages, and few modules of the
standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...trajectories.errors import InfrastructureError, MissingExtra
from . import guest
from .protocol import (
    ERROR_WIDTH,
    CheckedSandbox,
    RunOutcome,
    SandboxLimits,
    SandboxResult,
    clean,
    finished,
    kind,
    to_bytes,
)

__all__ = ["MontySandbox"]

GRACE = 0.25
"""Seconds past the deadline that a worker may use to end by itself before it is killed."""


@kind
class MontySandbox(CheckedSandbox):
    """A subset of Python, interpreted in worker processes that have no way to the host at all.

    Each run has a worker of its own, which ends with it. `time.sleep` sleeps, and counts towards the deadline.
    """

    def __init__(self, *, limits: SandboxLimits | None = None, workers: int | None = None) -> None:
        """
        Args:
            limits: What a run may use.
            workers: Runs at one time, at most; by default one per CPU. More wait, for a minute at most.
        """
        try:
            import pydantic_monty
        except ImportError:
            raise MissingExtra("pydantic-monty", "sandbox") from None
        super().__init__(limits=limits)
        self._monty = pydantic_monty
        self._empty = tempfile.TemporaryDirectory(prefix="sparring-sandbox-")
        try:
            self._pool = pydantic_monty.Monty(
                min_processes=1,
                max_processes=workers or os.cpu_count() or 1,
                checkout_timeout=60.0,
                max_checkouts_per_worker=1,
                feed_duration_limit_grace=GRACE,
            )
            self._pool.__enter__()
        except (OSError, RuntimeError, pydantic_monty.MontyError) as error:
            self._empty.cleanup()
            raise InfrastructureError(f"the Monty workers cannot be started: {error}") from error
        try:
            probe = self.run("6 * 7")
            if probe.value != 42:
                raise InfrastructureError(f"the Monty workers do not work: {probe.error or probe.value!r}")
        except BaseException:
            self.close()
            raise

    def _run(self, code: str, files: Mapping[str, str | bytes], deadline: float, memory: int) -> SandboxResult:
        if not files:
            return self._run_in(self._empty.name, code, deadline, memory)
        with tempfile.TemporaryDirectory(prefix="sparring-sandbox-") as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(to_bytes(content))
            return self._run_in(folder, code, deadline, memory)

    def _run_in(self, folder: str, code: str, deadline: float, memory: int) -> SandboxResult:
        printed: list[str] = []
        room = self.limits.output

        def take(stream: str, text: str) -> None:
            nonlocal room
            data = text.encode("utf-8", "replace")
            printed.append(data[:room].decode("utf-8", "ignore") if room > 0 else "")
            room -= len(data)
            if room < 0 and watch is not None:
                watch.kill()  # an exception from here would reach the code only after its end

        def ask_host(*, name: str, args: tuple[Any, ...], **_: Any) -> Any:
            """Sleeping is all that the host does for the code, and never past the deadline."""
            if name not in ("time.sleep", "asyncio.sleep"):
                return self._monty.NOT_HANDLED
            wanted = float(args[0]) if args else 0.0
            time.sleep(max(0.0, min(wanted, end - time.monotonic())))
            if time.monotonic() >= end:
                raise TimeoutError("the deadline has passed")
            return args[1] if len(args) > 1 else None

        def result(outcome: RunOutcome, error: str) -> SandboxResult:
            stdout = clean("".join(printed))
            return SandboxResult(outcome, stdout, None, clean(error)[-ERROR_WIDTH:], time.monotonic() - began)

        began = time.monotonic()
        end = began + deadline
        watch: _Watch | None = None
        try:
            with (
                self._monty.MountDir(
                    host_path=folder,
                    virtual_path=guest.WORKSPACE,
                    mode="overlay",
                    write_bytes_limit=self.limits.disk,
                    memory_usage_limit=2 * self.limits.disk,
                ) as mount,
                self._pool.checkout(
                    script_name=guest.NAME,
                    limits={
                        "max_feed_duration_secs": deadline,
                        "max_memory": memory,
                        "max_recursion_depth": 1000,
                        "max_suspensions": 2 * self.limits.entries,
                    },
                    os_policy={"sleep": "call_host"},
                ) as session,
            ):
                began = time.monotonic()  # waiting for a worker is not the code's time
                end = began + deadline
                watch = _Watch(session.worker_pid, deadline + GRACE)
                value = session.feed_run(code, print_callback=take, mount=mount, os=ask_host)
        except self._monty.MontyCrashedError as error:
            if room < 0:
                return result(RunOutcome.OUTPUT, f"printed more than {self.limits.output} bytes")
            if watch is not None and (error.timed_out or time.monotonic() >= end):
                return result(RunOutcome.TIMEOUT, f"stopped after {deadline:g} s")
            return result(RunOutcome.CRASHED, f"the interpreter died: {error}")
        except self._monty.MontyError as error:
            if room < 0:
                return result(RunOutcome.OUTPUT, f"printed more than {self.limits.output} bytes")
            if time.monotonic() >= end:
                return result(RunOutcome.TIMEOUT, f"stopped after {deadline:g} s")
            kind = error.exception()
            # An uncaught MemoryError is the limit at work unless the code raised it, which comes to the same.
            outcome = RunOutcome.MEMORY if isinstance(kind, MemoryError) else RunOutcome.ERROR
            told = error.display() if hasattr(error, "display") else str(error)
            return result(outcome, told)
        except (OSError, RuntimeError) as error:  # no worker came free, or the pool is gone
            raise InfrastructureError(f"the Monty workers failed: {error}") from error
        finally:
            if watch is not None:
                watch.cancel()
        if room < 0:
            return result(RunOutcome.OUTPUT, f"printed more than {self.limits.output} bytes")
        if time.monotonic() >= end:
            return result(RunOutcome.TIMEOUT, f"stopped after {deadline:g} s")
        stdout, seconds = clean("".join(printed)), time.monotonic() - began
        return finished(guest.plain(value, ERROR_WIDTH), stdout, seconds, self.limits)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._pool.__exit__(None, None, None)
            self._empty.cleanup()


class _Watch:
    """Kills one process when its time is over, even if it hangs: the last of the limits."""

    def __init__(self, pid: int | None, seconds: float) -> None:
        if pid is None:
            raise RuntimeError("the worker has ended")
        self._pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        self._pid = pid
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = threading.Timer(seconds, self.kill)
        self._timer.daemon = True
        self._timer.start()

    def kill(self) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._timer is None:
                return
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)

    def cancel(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                if self._pidfd is not None:
                    os.close(self._pidfd)
