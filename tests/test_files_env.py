"""The environment `files`: a real folder, its borders, its verdict, its copies, and that nothing of it stays behind."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.envs import SPLITS, expert_turns, make, play, task_set
from sparring.envs.files import Files
from sparring.envs.files.folder import Folder
from sparring.tools import FAULTS, FaultPlan, ToolError
from sparring.trajectories import Action, InfrastructureError, Outcome, Task, ToolResult

Struck = Callable[..., list[bool]]


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where episodes make their folders; nothing may be left there."""
    folder = tmp_path / "room"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.fixture
def env() -> Iterator[Files]:
    made = Files()
    yield made
    made.close()


def some(env: Files, kind: str, level: int = 1, n: int = 1, **wanted: Any) -> list[Task]:
    """Tasks whose first goal is of this kind."""
    found = [
        task
        for task in task_set(env, "train", 600, levels=[level])
        if task.data["goals"][0]["kind"] == kind
        and all(task.data["goals"][0][key] == value for key, value in wanted.items())
    ]
    assert len(found) >= n
    return found[:n]


def call(env: Files, name: str, /, **arguments: Any) -> ToolResult:
    return env.act(Action.call(name, **arguments)).turn.results[0]


def path_of(env: Files, name: str) -> str:
    return str(call(env, "find_file", name=name).value["path"])


# ---- tasks -----------------------------------------------------------------------------------------------------------


def test_levels_take_as_many_calls_as_they_say(env: Files) -> None:
    for level, calls in {1: 2, 2: 3, 3: 5, 4: 8}.items():
        for task in task_set(env, "train", 40, levels=[level]):
            env.start(task)
            assert expert_turns(env) == calls + 1, task
    assert {part for task in task_set(env, "train", 100) for part in task.kind.split("+")} == {
        "append",
        "move",
        "trash",
        "set",
        "decide",
    }


def test_splits_ask_for_other_things(env: Files) -> None:
    asked = {
        split: {(g["name"], g["kind"]) for task in task_set(env, split, 400) for g in task.data["goals"]}
        for split in SPLITS
    }
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert not asked["validation"] & asked["test"]


def test_a_decision_goes_both_ways(env: Files) -> None:
    acts = {goal["act"] for task in task_set(env, "train", 60, levels=[4]) for goal in task.data["goals"][::2]}
    assert acts == {"move", "append"}


def test_a_client_is_named_in_a_second_file(env: Files) -> None:
    (task,) = some(env, "set", level=2, by_client=True)
    env.start(task)
    goal = task.data["goals"][0]
    found = call(env, "search", text=goal["client"]).value
    assert {line["line"] for line in found} == {f"client: {goal['client']}", f"partner: {goal['client']}"}
    assert len({line["path"] for line in found}) == 2


# ---- the verdict -----------------------------------------------------------------------------------------------------


def test_the_world_is_on_disk(env: Files, room: Path) -> None:
    (task,) = some(env, "append")
    env.start(task)
    goal = task.data["goals"][0]
    path = path_of(env, goal["name"])
    assert call(env, "append_line", path=path, line=goal["line"]).ok
    (folder,) = room.iterdir()
    assert (folder / path).read_text().endswith(f"\n{goal['line']}\n")
    assert env.judge()[0]
    env.close()
    assert list(room.iterdir()) == []
    assert env.judge()[0]  # what was there is still known


def test_a_line_added_twice_fails(env: Files) -> None:
    (task,) = some(env, "append")
    env.start(task)
    goal = task.data["goals"][0]
    for right in (True, False):
        assert call(env, "append_line", path=path_of(env, goal["name"]), line=goal["line"]).ok
        assert env.judge()[0] is right


@pytest.mark.parametrize("kind", ["append", "move", "trash"])
def test_one_change_besides_fails(env: Files, kind: str) -> None:
    (task,) = some(env, kind)
    env.start(task)
    actions = [turn.action for turn in play(env)]
    other = next(path for path in env.state.was if not path.endswith(task.data["goals"][0]["name"]))
    for harm in (
        Action.call("write_file", path=other, text="gone"),
        Action.call("append_line", path=other, line="x"),
        Action.call("move_file", path=other, folder="elsewhere"),
        Action.call("trash", path=other),
        Action.call("write_file", path="work/new.txt", text="hello"),
    ):
        env.start(task)
        assert env.act(harm).turn.results[0].ok
        for action in actions:
            env.act(action)
        assert not env.judge()[0], harm
        env.start(task)
        env.act(harm)
        play(env)  # the expert takes it back first
        assert env.judge()[0], harm


def test_moving_a_thing_to_and_fro_is_no_change(env: Files) -> None:
    (task,) = some(env, "move")
    env.start(task)
    goal = task.data["goals"][0]
    path = path_of(env, goal["name"])
    assert call(env, "move_file", path=path, folder="elsewhere").ok
    assert call(env, "move_file", path=f"elsewhere/{goal['name']}", folder=goal["folder"]).ok
    assert env.judge()[0]


def test_the_second_routes_count_too(env: Files) -> None:
    (task,) = some(env, "trash")
    env.start(task)
    name = task.data["goals"][0]["name"]
    path = next(path for path in call(env, "list_files").value if path.endswith(f"/{name}"))
    assert call(env, "move_file", path=path, folder="trash").ok
    assert env.judge()[0]
    (task,) = some(env, "append")
    env.start(task)
    goal = task.data["goals"][0]
    read = call(env, "read_file", path=path_of(env, goal["name"])).value
    assert call(env, "write_file", path=read["path"], text=read["text"] + goal["line"]).ok
    assert env.judge()[0]


def test_what_was_written_by_mistake_can_be_trashed(env: Files) -> None:
    (task,) = some(env, "move")
    env.start(task)
    assert call(env, "write_file", path="work/mistake.txt", text="x").ok
    assert call(env, "trash", path="work/mistake.txt").ok
    play(env)
    assert env.judge()[0]


# ---- the borders -----------------------------------------------------------------------------------------------------

HOSTILE = (
    "/etc/passwd", "../secret.txt", "work/../../secret.txt", "..", "link/secret.txt", "link.txt", "hard.txt",
    "pipe", "a\0b", "\ud800.txt", "x" * 400, "/".join("abcdefghijklmnopqrstuvwxyz"), "", ".", "//etc/passwd",
)  # fmt: skip

REFUSALS = (Outcome.FORBIDDEN, Outcome.NOT_FOUND, Outcome.INVALID_ARGUMENTS, Outcome.CONFLICT, Outcome.MALFORMED)


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_outside_is_reached(env: Files, tmp_path: Path, path: str) -> None:
    (task,) = some(env, "move")
    env.start(task)
    folder = env.state.folder.root
    secret = tmp_path / "secret.txt"
    secret.write_text("secret 4711")
    (folder.parent / "secret.txt").write_text("secret 4711")
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(secret)
    (folder / "hard.txt").hardlink_to(secret)
    os.mkfifo(folder / "pipe")
    inside = next(iter(env.state.was))
    before = {entry: entry.read_text() for entry in (secret, folder.parent / "secret.txt")}
    for name, arguments in (
        ("read_file", {"path": path}),
        ("write_file", {"path": path, "text": "owned"}),
        ("append_line", {"path": path, "line": "owned"}),
        ("move_file", {"path": path, "folder": "work"}),
        ("move_file", {"path": inside, "folder": path or "/"}),
        ("trash", {"path": path}),
    ):
        if path == "." and name == "move_file" and arguments["path"] == inside:
            continue  # the folder itself, where files may stand
        result = call(env, name, **arguments)
        assert result.outcome in REFUSALS
        assert "4711" not in result.content
        assert str(folder) not in result.content
    assert "4711" not in call(env, "search", text="secret").content
    assert {entry: entry.read_text() for entry in before} == before
    assert inside in env.state.folder.files()
    (folder.parent / "secret.txt").unlink()


def test_a_link_is_no_success(env: Files) -> None:
    (task,) = some(env, "move")
    env.start(task)
    play(env)
    assert env.judge()[0]
    env.start(task)
    (env.state.folder.root / "way_out").symlink_to("/")
    play(env)
    assert not env.judge()[0]


def test_a_folder_has_its_limits(env: Files) -> None:
    (task,) = some(env, "move")
    env.start(task)
    assert call(env, "write_file", path="work/big.txt", text="x" * 20_000).outcome is Outcome.FORBIDDEN
    for n in range(40):
        env.state.folder.write(f"work/{n}.txt", "x")
    assert call(env, "write_file", path="a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p.txt", text="x").outcome is Outcome.FORBIDDEN


names = st.sampled_from(["a.txt", "b.txt", "c/d.txt", "c/e.txt", "f/g/h.txt", "c", "f", "../x", "a.txt/b", "Ä.txt"])
steps = st.one_of(st.tuples(st.just("write"), names, st.text(max_size=20)), st.tuples(st.just("move"), names, names))


@given(st.lists(steps, max_size=12), st.integers(0, 11))
@settings(max_examples=60, deadline=None)
def test_a_copy_goes_on_as_the_whole(actions: list[tuple[str, str, str]], at: int) -> None:
    """Random writes and moves: a model in memory agrees, and a copy made in between comes to the same."""

    def act(folder: Folder, step: tuple[str, str, str]) -> str:
        try:
            getattr(folder, step[0])(*step[1:])
        except ToolError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    whole, copied = Folder({"a.txt": "a", "c/d.txt": "d"}), None
    expected = whole.files()
    for n, step in enumerate(actions):
        if n == at:
            copied = whole.copy()
        told = act(whole, step)
        if copied is not None:
            assert act(copied, step) == told
        if not told:
            kind, path, value = step
            if kind == "write":
                expected[path] = value.encode("utf-8", "replace").decode()
            else:
                expected[value] = expected.pop(path)
        assert whole.files() == dict(sorted(expected.items()))
    if copied is not None:
        assert copied.files() == whole.files()
        copied.write("only_here.txt", "x")
        assert "only_here.txt" not in whole.files()
        copied.close()
    whole.close()


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAULTS)
def test_the_expert_recovers(env: Files, kind: str, struck: Struck) -> None:
    verdicts = struck(env, task_set(env, "train", 24, seed=2), FaultPlan((kind,), 1), "expert")
    assert len(verdicts) >= 4
    assert sum(verdicts) >= 0.95 * len(verdicts)


def test_wrong_strategies_do_worse(env: Files, struck: Struck) -> None:
    tasks = task_set(env, "train", 8, seed=3)
    for agent, most in (("blind-retry", 0.45), ("give-up", 0.25)):
        plans = [FaultPlan((kind,), 1) for kind in FAULTS if kind != "impossible"]
        verdicts = [success for plan in plans for success in struck(env, tasks, plan, agent)]
        assert sum(verdicts) <= most * len(verdicts), agent


def test_a_stale_path_leads_to_the_same_end(env: Files) -> None:
    (task,) = some(env, "append")
    env.start(task, FaultPlan.parse("stale_id:1.0"))
    goal = task.data["goals"][0]
    old = path_of(env, goal["name"])
    assert call(env, "append_line", path=old, line=goal["line"]).outcome is Outcome.CONFLICT
    env.restore(env.snapshot())
    new = path_of(env, goal["name"])
    assert new != old
    assert not env.judge()[0]


# ---- what stays behind -----------------------------------------------------------------------------------------------


def test_a_folder_goes_with_its_episode(room: Path) -> None:
    env = Files()
    tasks = task_set(env, "train", 5)
    snapshots = []
    for task in tasks:
        env.start(task)
        for turn in play(env)[:-1]:
            assert turn.results
        snapshots.append(env.snapshot())
        assert len(list(room.iterdir())) == 1
    for snapshot in snapshots:
        env.restore(snapshot)
        assert env.judge()[0]
        assert len(list(room.iterdir())) <= 1  # a copy that nobody used is none on disk
    other = make("files")
    other.restore(snapshots[0])
    assert call(other, "list_files").ok if other.snapshot().stop is None else other.judge()[0]  # type: ignore[arg-type]
    del env, other


def test_a_fork_of_the_process_takes_nothing_away(env: Files) -> None:
    env.start(task_set(env, "train", 1)[0])
    folder = env.state.folder.root
    pid = os.fork()
    if pid == 0:
        env.close()
        gc.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert folder.is_dir()
    play(env)
    assert env.judge()[0]


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0"])
def test_a_process_that_ends_leaves_nothing(room: Path, end: str) -> None:
    code = (
        "from sparring.envs import make, task_set\nenv = make('files')\n"
        f"env.start(task_set(env, 'train', 1)[0])\nprint(env.state.folder.root)\n{end}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(room)}
    )
    assert str(room) in done.stdout
    assert list(room.iterdir()) == []


def test_a_killed_process_leaves_its_own_folder_alone(room: Path) -> None:
    code = (
        "import os, signal\nfrom sparring.envs import make, task_set\nenv = make('files')\n"
        "env.start(task_set(env, 'train', 1)[0])\nenv.state.folder.root\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(room)})
    assert done.returncode == -signal.SIGKILL
    (left,) = room.iterdir()
    assert sum(file.stat().st_size for file in left.rglob("*.txt")) < 1000  # under the folder for temporary files
    for file in sorted(left.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    left.rmdir()


def test_a_host_without_room_is_nobodys_fault(env: Files, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_set(env, "train", 1)[0]
    env.start(task)
    monkeypatch.setattr(tempfile, "tempdir", str(room / "missing"))
    with pytest.raises(InfrastructureError, match="cannot be made"):
        call(env, "trash", path=next(iter(env.state.was)))
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    env.start(task)
    path = next(iter(env.state.was))

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(InfrastructureError, match="No space left"):
        call(env, "write_file", path=path, text="x")
    monkeypatch.undo()
    assert env.state.folder.files() == env.state.was  # the old text, and no part of the new one
