"""Sandboxes: what code can do in them, what it cannot, and that nothing is left behind. Both kinds face one suite."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparring.tools.sandbox import BubblewrapSandbox, MontySandbox, RunOutcome, Sandbox, SandboxLimits, SandboxResult
from sparring.trajectories import ConfigError, InfrastructureError, MissingExtra, SparringError

MIB = 1024 * 1024
DEADLINE = 1.0
SECRET = "canary-5d1c"
KINDS: dict[str, Callable[[], Sandbox]] = {"monty": MontySandbox, "bubblewrap": BubblewrapSandbox}


@pytest.fixture(scope="module", params=list(KINDS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each kind; one that cannot work here is skipped with the probe's own words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_SECRET", SECRET)
        try:
            made = KINDS[request.param]()
        except SparringError as error:
            pytest.skip(f"{request.param}: {error}")
        with made:
            yield made


@pytest.fixture(scope="module")
def bubblewrap() -> Iterator[BubblewrapSandbox]:
    try:
        made = BubblewrapSandbox()
    except SparringError as error:
        pytest.skip(str(error))
    with made:
        yield made


def processes() -> set[int]:
    """All processes below this one, by id."""
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        try:
            tasks = list(Path(f"/proc/{todo.pop()}/task").glob("*/children"))
        except OSError:  # it has ended meanwhile
            continue
        for task in tasks:
            try:
                children = {int(word) for word in task.read_text().split()}
            except OSError:
                continue
            todo += children - found
            found |= children
    return found


def steady() -> set[int]:
    """The processes, once the sandbox that waits for the next run has all of its own."""
    before, now = set[int](), processes()
    while before != now:
        time.sleep(0.15)
        before, now = now, processes()
    return now


def settled(count: int) -> None:
    """Waits until there are no more than `count` processes: how many ended a moment ago is not the question."""
    end = time.monotonic() + 2
    while len(processes()) > count and time.monotonic() < end:
        time.sleep(0.01)
    assert len(processes()) <= count


# ----------------------------------------------------------------------------------------------------- what works


def test_value_output_and_files(sandbox: Sandbox) -> None:
    files: dict[str, str | bytes] = {"numbers.txt": "1\n2\n3\n", "deep/er.txt": b"x"}
    result = sandbox.run("print('héllo')\nsum(int(n) for n in open('numbers.txt').read().split())", files=files)
    assert (result.outcome, result.stdout, result.value, result.error) == (RunOutcome.OK, "héllo\n", 6, "")
    assert sandbox.run("open('deep/er.txt').read()", files=files).value == "x"
    assert sandbox.run("open('/workspace/numbers.txt').read()", files=files).value == files["numbers.txt"]


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("", None),
        ("x = 1", None),
        ("(1, 2.5, 'a', None, True)", [1, 2.5, "a", None, True]),
        ("{'a': [1]}", {"a": [1]}),
        ("2 ** 100", str(2**100)),
        ("float('nan')", "nan"),
        ("{1}", "{1}"),
        ("b'a'", "b'a'"),
    ],
)
def test_values_are_json(sandbox: Sandbox, code: str, value: object) -> None:
    result = sandbox.run(code)
    assert (result.outcome, result.value) == (RunOutcome.OK, value)


def test_an_error_has_its_traceback_and_keeps_what_was_printed(sandbox: Sandbox) -> None:
    result = sandbox.run("print('before')\ndef f():\n    return 1 / 0\nf()")
    assert result.outcome is RunOutcome.ERROR
    assert result.stdout == "before\n"
    assert result.error.endswith("ZeroDivisionError: division by zero")
    assert "line 3" in result.error
    assert "guest" not in result.error


@pytest.mark.parametrize("code", ["x =", "(" * 5000, "a\0b", "x = '\ud800'", "#" * 300_000, "\t x\n y"])
def test_text_that_is_no_python(sandbox: Sandbox, code: str) -> None:
    result = sandbox.run(code)
    assert result.outcome in (RunOutcome.ERROR, RunOutcome.MEMORY)  # deep nesting ends CPython's parser for memory
    assert result.error


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(code=st.text(max_size=60))
def test_any_text_is_a_result(sandbox: Sandbox, code: str) -> None:
    result = sandbox.run(code, deadline=DEADLINE)
    assert isinstance(result, SandboxResult)
    assert (result.error == "") == result.ok


def test_runs_share_nothing(sandbox: Sandbox) -> None:
    assert sandbox.run("leak = 1\nopen('left.txt', 'w').write('x')").ok
    assert "NameError" in sandbox.run("leak").error
    assert "FileNotFoundError" in sandbox.run("open('left.txt').read()").error


def test_sleeping_is_waited_for_and_counts(sandbox: Sandbox) -> None:
    slept = sandbox.run("import time\ntime.sleep(0.2)\n'slept'")
    assert slept.value == "slept"
    assert slept.seconds >= 0.2
    assert sandbox.run("import time\ntime.sleep(30)", deadline=0.3).outcome is RunOutcome.TIMEOUT


def test_threads_may_share_a_sandbox(sandbox: Sandbox) -> None:
    sandbox.run("0")
    before = steady()
    values: list[object] = []
    threads = [
        threading.Thread(target=lambda n=n: values.append(sandbox.run(f"{n} * 2").value)) for n in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, values)) == ["0", "2", "4", "6"]
    assert sandbox.run("1").value == 1
    settled(len(before))  # the spare sandboxes of threads that ended are ended too


# ------------------------------------------------------------------------------------------------------- the escapes

READS = {
    "host file": "open('/etc/passwd').read()",
    "host file by detour": "open('/workspace/../etc/passwd').read()",
    "host file of ours": "open({here!r}).read()",
    "environment": "import os\nv = os.environ['SPARRING_SECRET']\nv",
    "environment by /proc": "[open(f'/proc/{{p}}/environ').read() for p in ('self', 1, 2)]",
    "memory by /proc": "[open(f'/proc/{{p}}/mem', 'rb').read(10) for p in (1,)]",
    "root by /proc": "open('/proc/1/root{here}').read()",
    "command by os.system": "import os\nos.system('cat {here}')\nopen({here!r}).read()",
    "symlink": "import os\nos.symlink({here!r}, 'link')\nopen('link').read()",
    "hard link": "import os\nos.link({here!r}, 'link')\nopen('link').read()",
}
"""Each tries to bring something of the host into its output."""


@pytest.mark.parametrize("attack", READS)
def test_nothing_of_the_host_is_read(sandbox: Sandbox, attack: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    os.environ["SPARRING_SECRET"] = SECRET
    try:
        result = sandbox.run(READS[attack].format(here=str(secret)), deadline=DEADLINE)
    finally:
        del os.environ["SPARRING_SECRET"]
    said = f"{result.stdout}{result.value}{result.error}"
    assert SECRET not in said
    assert "root:x:0" not in said
    if attack != "environment by /proc":  # there the clean environment is read, and is clean
        assert result.outcome is RunOutcome.ERROR


WRITES = {
    "absolute": "open({here!r}, 'w').write('harm')",
    "by detour": "open('../..{here}', 'w').write('harm')",
    "by /proc": "open('/proc/1/root{here}', 'w').write('harm')",
    "by symlink": "import os\nos.symlink({here!r}, 'l')\nopen('l', 'w').write('harm')",
    "by command": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo harm > {here}'], check=True)",
    "system folder": "open('/usr/harm', 'w').write('harm')",
    "root folder": "open('/harm', 'w').write('harm')",
    "devices": "open('/dev/harm', 'w').write('harm')",
    "kernel": "open('/proc/sys/kernel/hostname', 'w').write('harm')",
}


@pytest.mark.parametrize("attack", WRITES)
def test_nothing_of_the_host_is_written(sandbox: Sandbox, attack: str, tmp_path: Path) -> None:
    target = tmp_path / "target.txt"
    target.write_text("whole")
    result = sandbox.run(WRITES[attack].format(here=str(target)), deadline=DEADLINE)
    assert result.outcome is RunOutcome.ERROR
    assert target.read_text() == "whole"
    assert not any(Path(folder, "harm").exists() for folder in ("/", "/usr", "/dev"))


def test_there_is_no_network(sandbox: Sandbox) -> None:
    with __import__("socket").create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).send(b'x')"
        assert sandbox.run(code, deadline=DEADLINE).outcome is RunOutcome.ERROR
        with pytest.raises(TimeoutError):
            server.accept()
    assert sandbox.run("import socket\nsocket.getaddrinfo('example.org', 80)").outcome is RunOutcome.ERROR


BOMBS = {
    "infinite loop": "while True:\n    pass",
    "loop that catches all": "while True:\n    try:\n        while True:\n            pass\n"
    "    except BaseException:\n        pass",
    "ignored SIGTERM": "import signal\nfor s in range(1, 32):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass",
    "one huge list": "x = [0] * 10**9",
    "memory bomb": "x = []\nwhile True:\n    x.append('a' * 1000000)",
    "memory bomb that catches": "x = []\nwhile True:\n    try:\n        x.append('a' * 1000000)\n"
    "    except MemoryError:\n        pass",
    "fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "fork bomb of memory": "import os\nfor i in range(8):\n    try:\n        os.fork()\n"
    "    except OSError:\n        pass\nx = []\nwhile True:\n    try:\n        x.append('a' * 1000000)\n"
    "    except MemoryError:\n        pass",
    "thread bomb": "import threading, time\nwhile True:\n    try:\n"
    "        threading.Thread(target=time.sleep, args=(60,)).start()\n    except RuntimeError:\n        pass",
    "setsid child": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    "        while True:\n            time.sleep(0.01)\n'parent is done'",
    "daemon that holds the pipes": "import os, time\nfor i in range(5):\n    if os.fork() == 0:\n        os.setsid()\n"
    "        time.sleep(60)\nos._exit(0)",
    "output flood": "while True:\n    print('a' * 1000)",
    "flood without newline": "import sys\nwhile True:\n    sys.stdout.write('a' * 100000)",
    "flood of errors": "import sys\nwhile True:\n    print('a' * 1000, file=sys.stderr)",
    "huge value": "'a' * 5000000",
    "huge error": "raise ValueError('a' * 5000000)",
    "deep recursion": "def f():\n    return f()\nf()",
    "long arithmetic": "10 ** 10 ** 8",
    "disk bomb": "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'w').write('a' * 1000000)",
    "inode bomb": "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'w').close()",
    "shared memory bomb": "import os\nfds = []\nwhile True:\n    fds.append(os.memfd_create('x'))\n"
    "    os.write(fds[-1], b'a' * 10000000)",
    "kill all": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kill the first": "import os, signal\nos.kill(1, signal.SIGKILL)\nos.kill(os.getppid(), signal.SIGKILL)\n"
    "while True:\n    pass",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "exit": "import os\nos._exit(0)",
    "nested namespaces": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "assert libc.unshare(0x10000000) == 0, ctypes.get_errno()",
    "nested namespaces by clone": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "assert libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0, ctypes.get_errno()",
    "mount": "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0",
    "ptrace": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "keyring": "import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, -3, 0) > 0",
    "more limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}  # fmt: skip
FINE = {"setsid child"}
"""Those that may end well: what counts is that nothing stays."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_end_in_time_and_leave_nothing(sandbox: Sandbox, bomb: str) -> None:
    sandbox.run("0")
    before = steady()
    began = time.monotonic()
    result = sandbox.run(BOMBS[bomb], deadline=DEADLINE, memory=128 * MIB)
    took = time.monotonic() - began
    assert took < DEADLINE + 1
    assert len(result.stdout.encode()) <= SandboxLimits().output
    assert len(result.error) <= 4000
    assert result.ok == (bomb in FINE and isinstance(sandbox, BubblewrapSandbox))
    assert sandbox.run("6 * 7").value == 42
    settled(len(before))  # one sandbox waits for the next run, in place of the one before


@pytest.mark.parametrize(
    ("bomb", "outcome"),
    [
        ("infinite loop", RunOutcome.TIMEOUT),
        ("one huge list", RunOutcome.MEMORY),
        ("memory bomb", RunOutcome.MEMORY),
        ("output flood", RunOutcome.OUTPUT),
        ("huge value", RunOutcome.OUTPUT),
    ],
)
def test_a_limit_has_its_name(sandbox: Sandbox, bomb: str, outcome: RunOutcome) -> None:
    assert sandbox.run(BOMBS[bomb], deadline=DEADLINE, memory=128 * MIB).outcome is outcome


def test_memory_is_counted_over_all_processes(bubblewrap: BubblewrapSandbox) -> None:
    result = bubblewrap.run(BOMBS["fork bomb of memory"], deadline=20, memory=128 * MIB)
    assert result.outcome is RunOutcome.MEMORY
    assert "all processes" in result.error


def test_files_are_counted(bubblewrap: BubblewrapSandbox) -> None:
    result = bubblewrap.run(BOMBS["inode bomb"], deadline=20)
    assert result.outcome is RunOutcome.MEMORY
    assert "files" in result.error


def test_code_cannot_fake_more_than_its_own_result(bubblewrap: BubblewrapSandbox) -> None:
    """It can write what it likes into the result's pipe: data, checked as data."""
    code = (
        "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, {!r})\n"
        "    except OSError:\n        pass\nos._exit(0)"
    )
    for forged in (b"{", b'{"outcome": "great", "value": 1, "error": ""}', b"[1]", b"\xff" * 100, b"[" * 50_000):
        assert bubblewrap.run(code.format(forged)).outcome is RunOutcome.CRASHED
    assert bubblewrap.run(code.format(b"x" * 65_000) + "\n" * 3).outcome is not RunOutcome.OK


def test_the_view_from_inside(bubblewrap: BubblewrapSandbox) -> None:
    code = (
        "import os\nseen = [p for p in os.listdir('/proc') if p.isdigit()]\n"
        "[os.getuid(), sorted(os.listdir('/')), sorted(os.environ), len(seen)]"
    )
    uid, root, environment, seen = bubblewrap.run(code).value
    assert uid == 65534
    assert set(root) <= {
        "bin",
        "dev",
        "lib",
        "lib32",
        "lib64",
        "proc",
        "tmp",
        "usr",
        "workspace",
        "root",
        "home",
        "opt",
    }
    assert set(environment) <= {"HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "PYTHONHASHSEED"}
    assert seen <= 3


# ---------------------------------------------------------------------------------------------- failing closed, closing


def test_kill_9_of_the_host_leaves_nothing(sandbox: Sandbox) -> None:
    """What a dead driver had started dies with it; a busy Monty worker at its run's deadline."""
    kind = type(sandbox).__name__
    deadline = 3 if kind == "MontySandbox" else 60
    code = (
        f"from sparring.tools.sandbox import {kind}\n"
        f"s = {kind}()\nprint('up', flush=True)\ns.run('while True: pass', deadline={deadline})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    time.sleep(0.3)
    below = processes() - {driver.pid}
    mine = {p for p in below if _descends(p, driver.pid)}
    assert mine
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    end = time.monotonic() + 5
    while any(_runs(p) for p in mine) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [p for p in mine if _runs(p)]


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_is_the_codes_end_and_the_next_run_works(bubblewrap: BubblewrapSandbox) -> None:
    bubblewrap.run("0")
    for pid in processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(shutil.which("bwrap").encode()):  # type: ignore[union-attr]  # the fixture found it
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert bubblewrap.run("6 * 7").value == 42  # the spare was dead; another was made


@pytest.mark.parametrize("kind", KINDS)
def test_closing(kind: str) -> None:
    before = steady()
    try:
        made = KINDS[kind]()
    except SparringError as error:
        pytest.skip(str(error))
    made.close()
    made.close()
    settled(len(before))
    with pytest.raises(InfrastructureError, match="closed"):
        made.run("1")


def test_auto_takes_what_works_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InfrastructureError, match="install bubblewrap"):
        Sandbox.auto(cpython=True)
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(MissingExtra, match=r"sparring\[sandbox\]"):
        MontySandbox()
    with pytest.raises(InfrastructureError, match="never run without one") as raised:
        Sandbox.auto()
    assert "MontySandbox" in str(raised.value)
    assert "BubblewrapSandbox" in str(raised.value)


def test_a_program_that_isolates_nothing_is_refused(tmp_path: Path) -> None:
    """A `bwrap` that only runs the command passes no probe."""
    if not sys.platform.startswith("linux"):
        pytest.skip("bubblewrap is for Linux")
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != "-s" ]; do last="$1"; shift; done\nexec "$last" "$@"\n')
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    with pytest.raises(InfrastructureError):
        BubblewrapSandbox(program=str(fake))
    fake.write_text("#!/bin/sh\necho 'no permission for namespaces' >&2\nexit 1\n")
    with pytest.raises(InfrastructureError, match=r"no permission for namespaces|bubblewrap"):
        BubblewrapSandbox(program=str(fake))


@pytest.mark.parametrize(
    "arguments",
    [
        {"deadline": 0},
        {"deadline": float("inf")},
        {"deadline": float("nan")},
        {"memory": 1000},
        {"files": {"../x": ""}},
        {"files": {"/x": ""}},
        {"files": {"a/../../x": ""}},
        {"files": {"": ""}},
        {"files": {"a\0b": ""}},
        {"files": {"big": b"x" * 17 * MIB}},
    ],
    ids=str,
)
def test_limits_that_cannot_be_meant(sandbox: Sandbox, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        sandbox.run("1", **arguments)  # type: ignore[arg-type]  # the test is of wrong ones
    with pytest.raises(ConfigError, match="output"):
        SandboxLimits(output=0)
