"""Where model-written code runs: a `Sandbox` runs one piece of Python, within limits, apart from this process.

It is no place for trusted code that needs the host, and no judge: what a sandbox reports was said by the code in it.
Defines `Sandbox`, `SandboxResult`, `RunOutcome`, `Limits`, and two implementations:

- `MontySandbox`: an interpreter for a subset of Python in worker processes (package `pydantic-monty`). Starts at once,
  needs no privileges, runs anywhere; no third-party packages, few modules of the standard library.
- `BubblewrapSandbox`: real CPython in namespaces of its own (program `bwrap`; Linux): no network, no host files but
  `/usr`, no privileges, system calls that allocate beyond the limits refused.

Each run starts from nothing: no state is shared between runs. A sandbox that cannot be made raises
`InfrastructureError` or `MissingExtra`; there is no fallback to a plain process.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

import orjson

from ..trajectories.errors import ConfigError, InfrastructureError, MissingExtra, SparringError
from ..trajectories.messages import Json
from . import guest

__all__ = ["BubblewrapSandbox", "Limits", "MontySandbox", "RunOutcome", "Sandbox", "SandboxResult"]

MIB = 1024 * 1024
DEADLINE = 5.0
MEMORY = 256 * MIB
MAX_CODE = 256 * 1024
"""Bytes of code that a run accepts; longer code is an error of the code."""
ERROR_WIDTH = 4000
"""Characters of an error, or of a value that only `repr` can show."""
GRACE = 0.25
"""Seconds past the deadline that a sandbox may use to end by itself before it is killed."""
POLL = 0.05
"""Seconds between two looks at what the sandbox's processes use."""


class RunOutcome(StrEnum):
    """How a run ended."""

    OK = "ok"
    ERROR = "error"
    """The code raised, or is no Python."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    """It printed, or returned, more than the limit."""
    CRASHED = "crashed"
    """The process in the sandbox ended without a result: a segmentation fault, `os._exit`."""


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What one run came to. All of it was said by the code: data, never a verdict."""

    outcome: RunOutcome
    stdout: str = ""
    """What it printed, on both streams, up to the limit."""
    value: Json = None
    """Value of the last expression; its `repr` where it is no JSON."""
    error: str = ""
    """Empty exactly when the outcome is ok."""
    seconds: float = 0.0
    """Wall clock, from the moment the code was handed over."""

    @property
    def ok(self) -> bool:
        return self.outcome is RunOutcome.OK


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use besides time and memory."""

    output: int = 64 * 1024
    """Bytes printed, and bytes of the value, each."""
    disk: int = 16 * MIB
    """Bytes of all files in a writable folder; nothing of them outlives the run."""
    entries: int = 4096
    """Files and folders made."""
    processes: int = 16
    """Processes and threads at one time (bubblewrap; Monty has none)."""
    open_files: int = 64

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigError(f"limit {name!r} has to be at least 1, not {getattr(self, name)}")


class Sandbox(Protocol):
    """Runs Python that nobody trusts. Safe to call from several threads."""

    def run(
        self,
        code: str,
        *,
        files: Mapping[str, str | bytes] | None = None,
        deadline: float = DEADLINE,
        memory: int = MEMORY,
    ) -> SandboxResult:
        """Runs `code` in a fresh world.

        Args:
            code: Python; the value of its last expression is the value of the run.
            files: Relative path -> content, laid into the working directory before.
            deadline: Seconds of wall clock; the run has ended at the latest one second after.
            memory: Bytes.

        Raises:
            ConfigError: limits or file names that cannot be meant.
            InfrastructureError: the sandbox itself failed; the code is not to blame.
        """

    def close(self) -> None:
        """Ends all processes. Closing twice is fine; a run after it raises `InfrastructureError`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def auto(*, cpython: bool = False, limits: Limits | None = None) -> Sandbox:
        """The first sandbox that works here, tried by a run: Monty, then bubblewrap; with `cpython` bubblewrap alone.

        Raises `InfrastructureError`, with the reason for each, when none does.
        """
        kinds: list[type[MontySandbox] | type[BubblewrapSandbox]] = [] if cpython else [MontySandbox]
        reasons = []
        for kind in [*kinds, BubblewrapSandbox]:
            try:
                return kind(limits=limits)
            except SparringError as error:
                reasons.append(f"{kind.__name__}: {error}")
        raise InfrastructureError("no sandbox works here, and code is never run without one: " + "; ".join(reasons))


def _checked(code: str, files: Mapping[str, str | bytes] | None, deadline: float, memory: int, limits: Limits) -> str:
    """What is wrong with the code as text, or "". Raises `ConfigError` for what the caller got wrong."""
    if not (math.isfinite(deadline) and 0 < deadline <= 3600):
        raise ConfigError(f"a deadline is seconds above 0 and up to 3600, not {deadline}")
    if memory < 32 * MIB:
        raise ConfigError(f"a run needs at least 32 MiB of memory ({32 * MIB}), not {memory}")
    total = 0
    for name, content in (files or {}).items():
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or path == PurePosixPath(".") or "\0" in name:
            raise ConfigError(f"a file's name is a relative path without '..', not {name!r}")
        total += len(_bytes(content))
    if total > limits.disk or len(files or {}) > limits.entries:
        raise ConfigError(f"{len(files or {})} files of {total} bytes are over the limits ({limits})")
    if "\0" in code:
        return "SyntaxError: source code cannot contain null bytes"
    try:
        size = len(code.encode())
    except UnicodeEncodeError:
        return "SyntaxError: source code holds half of a surrogate pair"
    return f"SyntaxError: {size} bytes of code; at most {MAX_CODE} are run" if size > MAX_CODE else ""


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "replace")


def _finished(raw: Json, stdout: str, seconds: float, limits: Limits) -> SandboxResult:
    """A result from what the sandbox said, when it fits the limits."""
    try:
        size = len(orjson.dumps(raw))
    except (TypeError, ValueError):  # deeper than JSON goes, or integers beyond 64 bits
        raw = repr(raw)[:ERROR_WIDTH]
        size = len(raw.encode("utf-8", "replace"))
    if size > limits.output:
        told = f"the value has {size} bytes of JSON; at most {limits.output} are taken"
        return SandboxResult(RunOutcome.OUTPUT, stdout, None, told, seconds)
    return SandboxResult(RunOutcome.OK, stdout, raw, "", seconds)


def _clean(text: str) -> str:
    """The text without lone surrogates, which no record could hold."""
    return text.encode("utf-8", "replace").decode()


# ---------------------------------------------------------------------------------------------------------------- Monty


class MontySandbox(Sandbox):
    """A subset of Python, interpreted in worker processes that have no way to the host at all.

    Each run has a worker of its own, which ends with it. `time.sleep` sleeps, and counts towards the deadline.
    """

    def __init__(self, *, limits: Limits | None = None, workers: int | None = None) -> None:
        """
        Args:
            limits: What a run may use.
            workers: Runs at one time, at most; by default one per CPU. More wait, for a minute at most.
        """
        try:
            import pydantic_monty
        except ImportError:
            raise MissingExtra("pydantic-monty", "sandbox") from None
        self.limits = limits or Limits()
        self._monty = pydantic_monty
        self._empty = tempfile.TemporaryDirectory(prefix="sparring-sandbox-")
        self._closed = False
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

    def run(
        self,
        code: str,
        *,
        files: Mapping[str, str | bytes] | None = None,
        deadline: float = DEADLINE,
        memory: int = MEMORY,
    ) -> SandboxResult:
        wrong = _checked(code, files, deadline, memory, self.limits)
        if self._closed:
            raise InfrastructureError("this sandbox is closed: make another")
        if wrong:
            return SandboxResult(RunOutcome.ERROR, error=wrong)
        if not files:
            return self._run(code, self._empty.name, deadline, memory)
        with tempfile.TemporaryDirectory(prefix="sparring-sandbox-") as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_bytes(content))
            return self._run(code, folder, deadline, memory)

    def _run(self, code: str, folder: str, deadline: float, memory: int) -> SandboxResult:
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
            stdout = _clean("".join(printed))
            return SandboxResult(outcome, stdout, None, _clean(error)[-ERROR_WIDTH:], time.monotonic() - began)

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
        stdout, seconds = _clean("".join(printed)), time.monotonic() - began
        return _finished(guest.plain(value, ERROR_WIDTH), stdout, seconds, self.limits)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._pool.__exit__(None, None, None)
            self._empty.cleanup()


class _Watch:
    """Kills one process when its time is over, whatever it is doing: the last of the limits."""

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


# ----------------------------------------------------------------------------------------------------------- bubblewrap

NOBODY = 65534
START = 20.0
"""Seconds that a sandbox may take until it is ready; measured: 0.05."""
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machine -> its number in seccomp."""
_REFUSED = """
    add_key 248 217; bpf 321 280; chroot 161 51; delete_module 176 106; finit_module 313 273; fsconfig 431 431;
    fsmount 432 432; fsopen 430 430; fspick 433 433; init_module 175 105; io_uring_enter 426 426;
    io_uring_register 427 427; io_uring_setup 425 425; kexec_file_load 320 294; kexec_load 246 104;
    keyctl 250 219; memfd_create 319 279; memfd_secret 447 447; mount 165 40; mount_setattr 442 442;
    move_mount 429 429; msgget 68 186; name_to_handle_at 303 264; open_by_handle_at 304 265; open_tree 428 428;
    perf_event_open 298 241; pivot_root 155 41; process_vm_readv 310 270; process_vm_writev 311 271;
    ptrace 101 117; request_key 249 218; semget 64 190; setns 308 268; shmget 29 194; syslog 103 116;
    umount2 166 39; unshare 272 97; userfaultfd 323 282
"""
"""System calls refused with EPERM: name, number on x86_64, number on aarch64.

Three reasons: memory that no limit of a process counts (memfd, System V memory and queues), what crosses namespaces
(keys, handles, ptrace), and what only enlarges the kernel's surface.
"""
_PROBE = """
import os, socket
try:
    open("/usr/written", "w")
    usr = "writable"
except OSError:
    usr = "read-only"
[os.getuid(), os.getcwd(), os.path.exists("/etc"), usr, [name for _, name in socket.if_nameindex()]]
"""
_ISOLATED = [NOBODY, guest.WORKSPACE, False, "read-only", ["lo"]]


class BubblewrapSandbox(Sandbox):
    """Real CPython, with its standard library, in namespaces of its own.

    Each run has a sandbox of its own, which ends with it; the next one is started beforehand, so that a run does not
    wait for it. When the host is root, the sandbox runs as nobody: limits on processes do not hold for root.
    """

    def __init__(self, *, limits: Limits | None = None, program: str = "bwrap", warm: bool = True) -> None:
        """
        Args:
            limits: What a run may use.
            program: Bubblewrap's program, by name or path.
            warm: Keep one sandbox started for each thread that runs code.
        """
        self.limits = limits or Limits()
        self.warm = warm
        self._closed = False
        self._lock = threading.Lock()
        self._boxes: set[_Box] = set()
        # By thread: a sandbox dies with the thread that started it, not with the process alone.
        self._spare = threading.local()
        found = shutil.which(program)
        if found is None:
            raise InfrastructureError(f"no program {program!r}: install bubblewrap (Debian: apt install bubblewrap)")
        machine = platform.machine()
        if sys.platform != "linux" or machine not in _MACHINES:
            known = ", ".join(_MACHINES)
            raise InfrastructureError(f"bubblewrap is used on Linux on {known}, not on {sys.platform} on {machine}")
        self._user = NOBODY if os.geteuid() == 0 else None
        self._command = [found, *_view(_interpreter(self._user), self.limits)]
        self._filter = _seccomp(machine)
        try:
            probe = self.run(_PROBE, deadline=START)
            if probe.value != _ISOLATED:
                raise InfrastructureError(f"bubblewrap isolates less than it has to: {probe.error or probe.value}")
        except BaseException:
            self.close()
            raise

    def run(
        self,
        code: str,
        *,
        files: Mapping[str, str | bytes] | None = None,
        deadline: float = DEADLINE,
        memory: int = MEMORY,
    ) -> SandboxResult:
        wrong = _checked(code, files, deadline, memory, self.limits)
        if self._closed:
            raise InfrastructureError("this sandbox is closed: make another")
        if wrong:
            return SandboxResult(RunOutcome.ERROR, error=wrong)
        limits = {
            "RLIMIT_AS": memory,
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": math.ceil(deadline) + 1,
            "RLIMIT_FSIZE": self.limits.disk,
            "RLIMIT_NOFILE": self.limits.open_files,
            # Bubblewrap's own process in the sandbox counts too.
            "RLIMIT_NPROC": self.limits.processes + 1,
        }
        job = {
            "code": code,
            "files": {name: base64.b64encode(_bytes(content)).decode() for name, content in (files or {}).items()},
            "limits": limits,
            "width": ERROR_WIDTH,
        }
        box = self._ready_box()
        try:
            return box.run(json.dumps(job).encode(), deadline, memory, self.limits)
        finally:
            self._end(box)
            if self.warm and not self._closed:
                self._spare.box = self._new_box()

    def _ready_box(self) -> _Box:
        """A sandbox that waits for its job: the spare one, when it is this thread's and alive."""
        spare: _Box | None = getattr(self._spare, "box", None)
        self._spare.box = None
        with self._lock:
            if spare is not None and spare in self._boxes and spare.made_in == os.getpid():
                spare.idle = False
            else:  # taken away meanwhile, or our parent's
                spare = None
        if spare is not None:
            try:
                spare.wait_ready()
                return spare
            except InfrastructureError:  # killed meanwhile; nothing ran in it
                self._end(spare)
        box = self._new_box()
        box.idle = False
        try:
            box.wait_ready()
        except BaseException:
            self._end(box)
            raise
        return box

    def _new_box(self) -> _Box:
        box = _Box(self._command, self._filter, self._user)
        with self._lock:
            closed = self._closed
            # A spare whose thread has ended is nobody's.
            dead = {b for b in self._boxes if b.idle and b.made_in == os.getpid() and not b.owner.is_alive()}
            self._boxes -= dead
            self._boxes.add(box)
        for spare in dead:
            spare.end()
        if closed:
            self._end(box)
            raise InfrastructureError("this sandbox was closed")
        return box

    def _end(self, box: _Box) -> None:
        with self._lock:
            self._boxes.discard(box)
        box.end()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            boxes, self._boxes = self._boxes, set()
        for box in boxes:
            if box.made_in == os.getpid():
                box.end()


def _interpreter(user: int | None) -> tuple[str, str]:
    """(program, folder that it needs besides /usr or ""): this process's Python, or the system's where nobody may
    read ours. Raises `InfrastructureError`."""
    own = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    if own.startswith("/usr/"):
        return own, ""
    if own.startswith(prefix + "/") and (user is None or _open_to_all(own)):
        return own, prefix
    system = os.path.realpath("/usr/bin/python3")
    if os.access(system, os.X_OK) and system.startswith("/usr/"):
        return system, ""
    raise InfrastructureError(
        f"root runs sandboxes as nobody, who may not read {own}, and there is no /usr/bin/python3: install it, "
        "or do not run as root"
    )


def _open_to_all(path: str) -> bool:
    """Whether every user may come to `path` and run it."""
    steps = [Path(path), *Path(path).parents]
    return all(step.stat().st_mode & 0o001 for step in steps)


def _view(interpreter: tuple[str, str], limits: Limits) -> list[str]:
    """Bubblewrap's arguments for what the sandbox sees, without the program that runs in it."""
    _, prefix = interpreter
    view = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    view += ["--cap-drop", "ALL", "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    view += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            view += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            view += ["--ro-bind", str(path), str(path)]
    if prefix:
        view += ["--ro-bind", prefix, prefix]
    view += ["--proc", "/proc", "--dev", "/dev"]
    for writable in ("/dev/shm", "/tmp", guest.WORKSPACE):
        view += ["--size", str(limits.disk), "--tmpfs", writable]
    view += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", guest.WORKSPACE]
    # No site: third-party packages of the system are not the sandbox's.
    return [*view, "--", interpreter[0], "-s", "-S", "-B", "-c", Path(guest.__file__).read_text("utf-8")]


@cache
def _seccomp(machine: str) -> bytes:
    """A filter, in the kernel's classic BPF, that refuses what `_REFUSED` lists; foreign system call tables kill."""
    number = _MACHINES[machine]
    column = 1 + list(_MACHINES).index(machine)
    refused = [int(entry.split()[column]) for entry in _REFUSED.split(";")]
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050000 | 1  # 1: EPERM
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, number), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":  # the x32 table
        program += [(at_least, 0, 1, 0x40000000), (give, 0, 0, kill)]
    for call in refused:
        program += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    program.append((give, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *step) for step in program)


class _Box:
    """One started sandbox, good for one run."""

    def __init__(self, command: list[str], seccomp: bytes, user: int | None) -> None:
        self.made_in = os.getpid()
        self.owner = threading.current_thread()
        self.idle = True
        """Waits for a run; set False by the thread that takes it."""
        self._ended = False
        self._lock = threading.Lock()
        self._init = -1
        """A pidfd of the sandbox's first process: when that has ended, all in the sandbox have."""
        self._ready = False
        self._answer, answer = os.pipe()
        self._info, info = os.pipe()
        filter_end, filter_start = os.pipe()
        os.write(filter_start, seccomp)
        os.close(filter_start)
        split = command.index("--")
        options = ["--seccomp", str(filter_end), "--info-fd", str(info)]
        try:
            self._process = subprocess.Popen(
                [*command[:split], *options, *command[split + 1 :], str(answer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=(answer, info, filter_end),
                # Nothing of ours: /proc/1/environ in the sandbox shows it.
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": guest.WORKSPACE, "PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user is not None else None,
            )
        except OSError as error:
            os.close(self._answer)
            os.close(self._info)
            raise InfrastructureError(f"bubblewrap cannot be started: {error}") from error
        finally:
            for end in (answer, info, filter_end):
                os.close(end)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)

    def wait_ready(self) -> None:
        """Waits until the sandbox can take its job. Raises `InfrastructureError`, with bubblewrap's own words."""
        if self._ready and self._process.poll() is None:
            return
        ready, _, _ = select.select([self._answer], [], [], START)
        if not ready:
            raise InfrastructureError(f"bubblewrap was not ready after {START:g} s")
        if os.read(self._answer, 1) != b"R":
            said = self._stdout.read(4096) or b""
            raise InfrastructureError(f"bubblewrap failed: {said.decode('utf-8', 'replace').strip()}")
        try:
            self._pid = int(json.loads(os.read(self._info, 4096))["child-pid"])
            self._init = os.pidfd_open(self._pid)
        except (OSError, ValueError, KeyError) as error:
            raise InfrastructureError(f"bubblewrap's process is gone: {error}") from error
        self._ready = True

    def run(self, job: bytes, deadline: float, memory: int, limits: Limits) -> SandboxResult:
        """Hands the job over and waits for what comes first: the result, the end of the sandbox, or a limit."""
        began = time.monotonic()
        end = began + deadline
        printed, answer = bytearray(), bytearray()
        outcome: RunOutcome | None = None
        error = ""
        poll = select.poll()
        stdin, stdout = self._stdin.fileno(), self._stdout.fileno()
        poll.register(stdin, select.POLLOUT)
        poll.register(stdout, select.POLLIN)
        poll.register(self._answer, select.POLLIN)
        poll.register(self._init, select.POLLIN)
        looked = began
        while outcome is None:
            now = time.monotonic()
            if now >= end:
                outcome, error = RunOutcome.TIMEOUT, f"stopped after {deadline:g} s"
                break
            if now - looked >= POLL:
                looked = now
                error = self._over(memory, limits)
                if error:
                    outcome = RunOutcome.MEMORY
                    break
            for fd, _ in poll.poll(1000 * min(POLL, end - now)):
                if fd == stdin:
                    try:
                        job = job[os.write(stdin, job) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        job = b""
                    if not job:
                        poll.unregister(stdin)
                        self._stdin.close()
                elif fd == stdout:
                    data = os.read(stdout, 65536)
                    printed += data
                    if not data:
                        poll.unregister(stdout)
                    if len(printed) > limits.output:
                        outcome, error = RunOutcome.OUTPUT, f"printed more than {limits.output} bytes"
                        break
                elif fd == self._answer:
                    data = os.read(self._answer, 65536)
                    answer += data
                    if not data or len(answer) > 8 * limits.output + 8 * ERROR_WIDTH:
                        outcome = RunOutcome.OK
                        break
                else:  # the first process has ended, and with it all others
                    outcome = RunOutcome.OK
                    break
        seconds = time.monotonic() - began
        self.end(keep_output=True)
        if outcome is RunOutcome.OK:  # what was written before the end is still in the pipes
            answer += self._rest(self._answer, 8 * limits.output + 8 * ERROR_WIDTH + 1 - len(answer))
        printed += self._rest(stdout, limits.output + 1 - len(printed))
        self._close_output()
        text = printed[: limits.output].decode("utf-8", "replace")
        if outcome is RunOutcome.OK and len(printed) > limits.output:
            outcome, error = RunOutcome.OUTPUT, f"printed more than {limits.output} bytes"
        if outcome is not RunOutcome.OK:
            return SandboxResult(outcome, text, None, error, seconds)
        return _read_answer(bytes(answer), text, seconds, limits)

    def _rest(self, fd: int, room: int) -> bytes:
        """What is left in a pipe whose writers have ended, up to `room` bytes."""
        rest = b""
        while room > 0 and select.select([fd], [], [], 0)[0]:
            data = os.read(fd, min(room, 65536))
            if not data:
                break
            rest += data
            room -= len(data)
        return rest

    def _over(self, memory: int, limits: Limits) -> str:
        """What all processes together use too much of, or "". One process's limits hold by themselves."""
        page = os.sysconf("SC_PAGE_SIZE")
        total = 0
        pids = [self._pid]
        while pids:
            pid = pids.pop()
            try:
                size = Path(f"/proc/{pid}/statm").read_text().split()
                total += (int(size[1]) - int(size[2])) * page
                for task in os.listdir(f"/proc/{pid}/task"):
                    pids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            except (OSError, ValueError, IndexError):  # ended meanwhile
                continue
        if total > memory + 32 * MIB:
            return f"all processes together used more than {memory} bytes of memory"
        entries = 0
        for folder in ("dev/shm", "tmp", guest.WORKSPACE[1:]):
            with contextlib.suppress(OSError):
                entries += (have := os.statvfs(f"/proc/{self._pid}/root/{folder}")).f_files - have.f_ffree
        return f"made more than {limits.entries} files and folders" if entries > limits.entries + 3 else ""

    def end(self, *, keep_output: bool = False) -> None:
        """Kills all in the sandbox and waits until it is gone. Raises `InfrastructureError` if it will not go."""
        with self._lock:
            if not self._ended:
                self._ended = True
                if self._init >= 0:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(self._init, signal.SIGKILL)
                else:  # not ready yet: bubblewrap's processes end with it
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(self._process.pid, signal.SIGKILL)
                try:
                    gone = self._init < 0 or select.select([self._init], [], [], START)[0]
                    self._process.wait(START)
                except subprocess.TimeoutExpired:
                    gone = []
                with contextlib.suppress(OSError):
                    self._stdin.close()
                if self._init >= 0:
                    os.close(self._init)
                os.close(self._info)
                if not gone:
                    raise InfrastructureError(f"process {self._process.pid} of a sandbox cannot be ended")
            if not keep_output:
                self._close_output()

    def _close_output(self) -> None:
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1
            self._stdout.close()


def _read_answer(answer: bytes, stdout: str, seconds: float, limits: Limits) -> SandboxResult:
    """The result in what the sandbox wrote last: untrusted bytes."""
    try:
        said = orjson.loads(answer)
        outcome, error = RunOutcome(said["outcome"]), str(said["error"])
        value = said["value"]
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError):
        told = "it ended without a result" if len(answer) <= limits.output else "its result is too long"
        outcome = RunOutcome.CRASHED if len(answer) <= limits.output else RunOutcome.OUTPUT
        return SandboxResult(outcome, stdout, None, told, seconds)
    if outcome is RunOutcome.OK:
        return _finished(value, stdout, seconds, limits)
    return SandboxResult(outcome, stdout, None, error[-ERROR_WIDTH:] or outcome.value, seconds)
