"""`BubblewrapSandbox`: real CPython in namespaces of its own (program `bwrap`; Linux).

It has no network, no host files but `/usr`, and no privileges. System calls that allocate beyond the limits are
refused.
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
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import orjson

from ...trajectories.errors import InfrastructureError
from . import guest
from .protocol import (
    ERROR_WIDTH,
    MIB,
    CheckedSandbox,
    RunOutcome,
    SandboxLimits,
    SandboxResult,
    finished,
    kind,
    to_bytes,
)

__all__ = ["BubblewrapSandbox"]

POLL = 0.05
"""Seconds between two looks at what the sandbox's processes use."""
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


@kind
class BubblewrapSandbox(CheckedSandbox):
    """Real CPython, with its standard library, in namespaces of its own.

    Each run has a sandbox of its own, which ends with it; the next one is started beforehand, so that a run does not
    wait for it. When the host is root, the sandbox runs as nobody: limits on processes do not hold for root.
    """

    cpython = True

    def __init__(self, *, limits: SandboxLimits | None = None, program: str = "bwrap", warm: bool = True) -> None:
        """
        Args:
            limits: What a run may use.
            program: Bubblewrap's program, by name or path.
            warm: Keep one sandbox started for each thread that runs code.
        """
        super().__init__(limits=limits)
        self.warm = warm
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

    def _run(self, code: str, files: Mapping[str, str | bytes], deadline: float, memory: int) -> SandboxResult:
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
            "files": {name: base64.b64encode(to_bytes(content)).decode() for name, content in files.items()},
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
    """(program, folder that it needs next to /usr or ""): this process's Python, or the system's where nobody may
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


def _view(interpreter: tuple[str, str], limits: SandboxLimits) -> list[str]:
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
            told = self._stdout.read(4096) or b""
            raise InfrastructureError(f"bubblewrap failed: {told.decode('utf-8', 'replace').strip()}")
        try:
            self._pid = int(json.loads(os.read(self._info, 4096))["child-pid"])
            self._init = os.pidfd_open(self._pid)
        except (OSError, ValueError, KeyError) as error:
            raise InfrastructureError(f"bubblewrap's process is gone: {error}") from error
        self._ready = True

    def run(self, job: bytes, deadline: float, memory: int, limits: SandboxLimits) -> SandboxResult:
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

    def _over(self, memory: int, limits: SandboxLimits) -> str:
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


def _read_answer(answer: bytes, stdout: str, seconds: float, limits: SandboxLimits) -> SandboxResult:
    """The result in what the sandbox wrote last: untrusted bytes."""
    try:
        answered = orjson.loads(answer)
        outcome, error = RunOutcome(answered["outcome"]), str(answered["error"])
        value = answered["value"]
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError):
        told = "it ended without a result" if len(answer) <= limits.output else "its result is too long"
        outcome = RunOutcome.CRASHED if len(answer) <= limits.output else RunOutcome.OUTPUT
        return SandboxResult(outcome, stdout, None, told, seconds)
    if outcome is RunOutcome.OK:
        return finished(value, stdout, seconds, limits)
    return SandboxResult(outcome, stdout, None, error[-ERROR_WIDTH:] or outcome.value, seconds)
