"""One process at a time is at work in a folder: refusals that name it, locks that a killed process does not keep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sparring.trajectories.errors import ConfigError
from sparring.trajectories.interrupts import as_ctrl_c, last_signal
from sparring.trajectories.locks import LOCK, at_work_in, only_process_in, only_writer_of

ROOT = Path(os.path.realpath(__file__)).parent.parent

HOLDS = """
import os, sys, time
from pathlib import Path
from sparring.trajectories import locks

with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    if len(sys.argv) > 3 and os.fork() == 0:  # a child that outlives it
        print("held", flush=True)
        time.sleep(20)
        os._exit(0)
    if len(sys.argv) == 3:
        print("held", flush=True)
    time.sleep(60)
"""

Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Starts a process that holds something, and ends it."""
    started: list[subprocess.Popen[str]] = []

    def start(how: str, path: Path, *more: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-c", HOLDS, how, str(path), *more]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=bool(more)
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def test_the_second_process_is_refused_and_told_which_is_the_first(holder: Holder, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = holder("only_process_in", folder)
    worker = at_work_in(folder)
    assert worker is not None
    assert worker.pid == first.pid
    began = time.monotonic()
    with pytest.raises(ConfigError) as raised, only_process_in(folder):
        pass
    assert time.monotonic() - began < 5
    said = str(raised.value)
    assert said.startswith(f"another process is at work in {folder} (process {first.pid}: ")
    assert said.endswith("wait until it ends, or choose another folder")
    assert "only_process_in" in said  # its command line
    first.kill()
    first.wait()
    assert at_work_in(folder) is None
    with only_process_in(folder):  # at once
        own = at_work_in(folder)
        assert own is not None
        assert own.pid == os.getpid()


def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(holder: Holder, tmp_path: Path) -> None:
    first = holder("only_process_in", tmp_path, "and forks")
    assert at_work_in(tmp_path) is not None
    first.kill()
    first.wait()
    assert at_work_in(tmp_path) is None
    with only_process_in(tmp_path):
        pass
    os.killpg(first.pid, signal.SIGKILL)  # its child


def test_what_is_below_a_folder_is_its_own(holder: Holder, tmp_path: Path) -> None:
    """A recipe deletes and writes stages below its folder."""
    holder("only_process_in", tmp_path)
    with pytest.raises(ConfigError, match=f"at work in {tmp_path} "), only_process_in(tmp_path / "sft"):
        pass
    with pytest.raises(ConfigError, match="choose another --out"), only_writer_of(tmp_path / "sft" / "episodes.jsonl"):
        pass


def test_files_of_one_folder_have_writers_of_their_own(holder: Holder, tmp_path: Path) -> None:
    first = holder("only_writer_of", tmp_path / "a.jsonl")
    with (
        pytest.raises(ConfigError, match=rf"another process is writing {tmp_path}/a\.jsonl \(process {first.pid}: "),
        only_writer_of(tmp_path / "a.jsonl"),
    ):
        pass
    with only_writer_of(tmp_path / "b.jsonl"), only_process_in(tmp_path):
        pass


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with only_process_in(tmp_path / "new"), only_process_in(tmp_path / "new"):  # the thread that holds it may again
        assert (tmp_path / "new" / LOCK).exists()
    assert not (tmp_path / "new").exists()  # nothing was written
    with only_process_in(tmp_path / "new"):
        (tmp_path / "new" / "metrics.jsonl").touch()
    with only_writer_of(tmp_path / "new" / "a.jsonl"):
        pass
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["metrics.jsonl"]
    assert at_work_in(tmp_path / "new") is None
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="is a file, or is below one"), only_process_in(path):
            pass


def test_another_thread_is_refused_as_another_process_is(tmp_path: Path) -> None:
    said: list[str] = []

    def work() -> None:
        try:
            with only_process_in(tmp_path):
                said.append("in")
        except ConfigError as error:
            said.append(str(error))

    with only_process_in(tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert at_work_in(tmp_path) is not None
    assert len(said) == 1
    assert "another process is at work" in said[0]


RACES = """
import sys
from pathlib import Path
from sparring.trajectories.errors import ConfigError
from sparring.trajectories.locks import only_process_in

done = 0
while done < 40:
    try:
        with only_process_in(Path(sys.argv[1])):
            count = Path(sys.argv[2])
            count.write_text(str(int(count.read_text()) + 1))
            done += 1
    except ConfigError:
        pass
"""


def test_many_processes_are_never_in_at_once(tmp_path: Path) -> None:
    """Each adds 1 to a number in a file, 40 times, while the lock's file comes and goes: none is lost."""
    count = tmp_path / "count"
    count.write_text("0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", RACES, str(tmp_path / "run"), str(count)]
    racing = [subprocess.Popen(command, env=environment) for _ in range(4)]
    while any(process.poll() is None for process in racing):
        at_work_in(tmp_path / "run")  # who only looks makes nobody fail
    assert [process.wait() for process in racing] == [0] * 4
    assert count.read_text() == "160"


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_signals() -> Iterator[None]:
    """The handlers of a fresh process: an earlier test may have left others."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("plain_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_these_signals_do_what_ctrl_c_does(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), as_ctrl_c():
        signal.raise_signal(number)
    assert last_signal() == number
    assert signal.getsignal(number) is signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt), as_ctrl_c():
        signal.raise_signal(signal.SIGINT)
    assert last_signal() == signal.SIGINT


@pytest.mark.usefixtures("plain_signals")
def test_a_job_in_the_background_is_ended_too() -> None:
    """A shell has it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), as_ctrl_c():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_of_the_program_and_nohup_stay() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_ctrl_c():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, ignored)
    assert seen == [signal.SIGTERM]


def test_another_thread_may_ask_for_it() -> None:
    done: list[int] = []

    def work() -> None:
        with as_ctrl_c():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.parametrize("hold", [only_process_in, only_writer_of])
def test_a_place_without_files_is_refused_at_once(hold: Callable[[Path], AbstractContextManager[None]]) -> None:
    place = Path("/proc") if hold is only_process_in else Path("/proc/x.jsonl")
    began = time.monotonic()
    with pytest.raises(ConfigError, match="no file can be made in /proc: choose another"), hold(place):
        raise AssertionError("it was held")
    assert time.monotonic() - began < 5
