"""Where a call runs that may not end: a process that can be killed with all that it started.

Defines `run_forked` and `CallEnd`. Not a sandbox: a forked call sees all that this process sees. It is for
tools that are trusted and may hang, spin, crash, or leave processes behind; model-written code runs elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

from .quiet import quiet

__all__ = ["GRACE", "MAX_PAYLOAD", "CallEnd", "run_forked"]

GRACE = 0.5
"""Seconds after a deadline within which everything that the call started is gone."""
MAX_PAYLOAD = 64 * 2**20
"""Bytes that may come back from a forked call."""

_HEADER = 8
_LOOK = 20
"""Milliseconds between looks where the system cannot tell when a process ends."""
_SIGNALLED = 128
"""Added to a signal's number in an exit code, as shells do."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_USUAL = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a forked call ended."""

    how: Literal["done", "late", "died", "too_much", "no_process"]
    """`late`: killed at its deadline. `no_process`: the system gave none, nothing has run."""
    payload: bytes = b""
    """What `work` returned; empty unless done."""
    detail: str = ""
    """Of what it died."""


# ---- a process that can be killed ------------------------------------------------------------------------------------
#
#   this process ── supervisor ── worker ── whatever the tool starts
#
# The worker runs the tool. The supervisor adopts what the tool orphans, however it does that (setsid, double fork), so
# that nothing leaves the tree; it kills the tree when the worker ends, when it is told to, and when this process dies.


def run_forked(work: Callable[[], bytes], seconds: float) -> CallEnd:
    """Runs `work` in a fork of this process and brings back what it returns; takes `seconds` + `GRACE` at most.

    Everything that `work` started has been killed by then, whether it ended well or not. Its standard streams lead
    nowhere. `work` sees this process's memory as it is now, and cannot change it. (Where there is no Linux, what leaves
    the worker's process group survives.)
    """
    end = time.monotonic() + seconds
    _libc()  # loaded before the fork: nothing is imported after it
    try:
        pid, out, told_end = _started(work)
    except OSError as error:
        return CallEnd("no_process", detail=str(error))
    status: int | None = None
    try:
        got, status = _receive(out, pid, end)
    finally:
        _close(told_end, out)  # the supervisor ends everything
        if status is None:
            _reap(pid)
    if _missing(got) == 0:
        return CallEnd("done", bytes(got[_HEADER:]))
    if _missing(got) > MAX_PAYLOAD or len(got) > MAX_PAYLOAD:
        return CallEnd("too_much")
    return CallEnd("late") if status is None else CallEnd("died", detail=_cause_of_death(status))


_pipes = threading.RLock()
"""Held while pipes come and go, and at every fork of this process: a child closes those of the calls that run in other
threads. With a copy of one open, a supervisor would not be told to end its worker, not even by this process's death."""
_held: set[int] = set()
"""This process's ends of the pipes of all forked calls that run now."""


def _started(work: Callable[[], bytes]) -> tuple[int, int, int]:
    """The supervisor's pid, the pipe by which the result comes, and the one whose end tells the supervisor to end.
    Raises `OSError` where the system gives no pipe or process."""
    fds: list[int] = []
    with _pipes:
        _watch_forks()
        try:
            fds += os.pipe()
            fds += os.pipe()
            out, out_end, told, told_end = fds
            _held.update((out, told_end))
            pid = _fork()
        except OSError:
            _close(*fds)
            raise
        if pid == 0:  # `_held` has been closed here, see `_forget`
            try:
                _supervise(work, out_end, told)
            finally:
                os._exit(1)
        os.close(out_end)
        os.close(told)
    return pid, out, told_end


def _close(*fds: int) -> None:
    with _pipes:
        for fd in fds:
            _held.discard(fd)
            os.close(fd)


def _fork() -> int:
    if sys.version_info < (3, 12):
        return os.fork()
    # Python 3.12 warns where other threads live, whose locks nobody will release in the child. A child that waits for
    # one is killed at its deadline like any other.
    with quiet(DeprecationWarning):
        return os.fork()


def _forget() -> None:
    """In a forked child: the calls that run in other threads of its parent are none of its own."""
    global _pipes
    _pipes = threading.RLock()
    for fd in _held:
        os.close(fd)
    _held.clear()


@lru_cache(maxsize=1)
def _watch_forks() -> None:
    """From the first call on, and not when this module is imported: a process that never forks a call has no hooks."""
    os.register_at_fork(
        before=lambda: _pipes.acquire(), after_in_parent=lambda: _pipes.release(), after_in_child=_forget
    )


def _receive(out: int, pid: int, end: float) -> tuple[bytearray, int | None]:
    """What came until the message was whole or too long, the supervisor gone (then its status), or time up."""
    got = bytearray()
    os.set_blocking(out, False)
    poll = select.poll()
    poll.register(out, select.POLLIN)
    with _watched(pid) as watch:
        if watch is not None:
            poll.register(watch, select.POLLIN)
        open_ = True
        while True:
            status = _status(pid)  # asked before the pipe is read: what the dead wrote is in it
            if open_ and not (open_ := _drain(out, got)):
                poll.unregister(out)
            left = end - time.monotonic()
            if status is not None or not 0 < _missing(got) <= MAX_PAYLOAD or len(got) > MAX_PAYLOAD or left <= 0:
                return got, status
            poll.poll(left * 1000 if watch is not None else min(left * 1000, _LOOK))


def _drain(out: int, got: bytearray) -> bool:
    """Reads what there is. False: nothing more can come."""
    try:
        while len(got) <= MAX_PAYLOAD:
            chunk = os.read(out, 1 << 20)
            if not chunk:
                return False
            got += chunk
    except BlockingIOError:
        pass
    return True


def _missing(got: bytearray) -> int:
    """Bytes that are still to come, as far as is known; never 0 for what is no message of `_work`."""
    if len(got) < _HEADER:
        return 1
    missing = int.from_bytes(got[:_HEADER], "big") + _HEADER - len(got)
    return missing if missing >= 0 else MAX_PAYLOAD + 1


def _status(pid: int) -> int | None:
    """The wait status of a child that has ended; None while it lives."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # somebody else in this process waits for all children
        return 0
    return status if ended else None


def _reap(pid: int) -> None:
    """Waits for the supervisor to end everything; if it cannot, kills it, and the kernel then kills the worker."""
    end = time.monotonic() + GRACE
    with _watched(pid) as watch:
        while _status(pid) is None:
            left = end - time.monotonic()
            if left <= 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                return
            select.select([] if watch is None else [watch], [], [], left if watch is not None else _LOOK / 1000)


def _cause_of_death(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else code - _SIGNALLED
    if number > 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(number).name}"
    return f"exit code {code}"


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[int | None]:
    """A descriptor that is readable once the process has ended; None where the system has none."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


# ---- in the child processes: no exception may leave these functions --------------------------------------------------


def _supervise(work: Callable[[], bytes], out: int, told: int) -> NoReturn:
    os.setsid()
    _usual_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()
    worker = os.fork()
    if worker == 0:
        try:
            os.close(told)
            os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == me:
                _work(work, out)
        finally:
            os._exit(1)
    os.close(out)
    with contextlib.suppress(OSError):
        os.setpgid(worker, worker)  # here too, so that the group is there before it is killed
    status = _wait(worker, told)
    _kill_all(worker)
    os._exit(0 if status is None else _SIGNALLED + os.WTERMSIG(status) if os.WIFSIGNALED(status) else status >> 8)


def _work(work: Callable[[], bytes], out: int) -> NoReturn:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # open until the process ends
    faulthandler.disable()  # it keeps a descriptor of its own; of what this process died is in the record
    payload = work()
    header = len(payload).to_bytes(_HEADER, "big")
    message = memoryview(header + payload if len(payload) <= MAX_PAYLOAD else header)
    while message:
        message = message[os.write(out, message) :]
    os._exit(0)


def _wait(worker: int, told: int) -> int | None:
    """Until the worker has ended (its status), or this process is told to end it, or nobody is left to tell (None)."""
    with _watched(worker) as watch:
        waited = [told] if watch is None else [told, watch]
        while True:
            if (status := _status(worker)) is not None:
                return status
            ready, _, _ = select.select(waited, [], [], _LOOK / 1000 if watch is None else None)
            if told in ready:
                return None


def _kill_all(worker: int) -> None:
    """Kills the worker's group and every descendant: the orphans of those that die become this process's children."""
    with contextlib.suppress(OSError):
        os.killpg(worker, signal.SIGKILL)
    while True:
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    me = os.getpid()
    with contextlib.suppress(OSError), open(f"/proc/self/task/{me}/children") as file:
        return [int(pid) for pid in file.read().split()]
    found = []
    with contextlib.suppress(OSError):  # a kernel without that list
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                    if int(file.read().rsplit(b")", 1)[1].split()[1]) == me:
                        found.append(int(entry))
    return found


def _usual_signals() -> None:
    """Undoes what this process's program has set: handlers, masks, an event loop that is told of signals."""
    signal.set_wakeup_fd(-1)
    for name in _USUAL:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> None:
    if _libc() is not None:
        _libc().prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)
