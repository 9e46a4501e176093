"""The store: what was taken is there, once, whatever is killed, full, failing or damaged in between."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import random
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    DataError,
    Fork,
    Message,
    Outcome,
    StopReason,
    Task,
    Tokens,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    Turn,
)
from sparring.trajectories.store import MIGRATIONS, Store
from sparring.trajectories.store.records import Damaged, decode, encode

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")

ROOT = Path(__file__).resolve().parent.parent


def episode(i: int, *, n_turns: int = 2, n_tokens: int = 40, **fields: Any) -> Trajectory:
    """The i-th of a series that never changes."""
    rng = random.Random(i)
    made = []
    for k in range(n_turns):
        outcome = Outcome.OK if (i + k) % 3 else Outcome.TIMEOUT
        call = ToolCall("find", {"name": f"Zoë {rng.random()}", "n": [k, None, {"a": 1}]}, id=f"c{k}")
        result = ToolResult(
            f"c{k}", "find", outcome, "line one\nline two", cause=None if outcome is Outcome.OK else Cause.INJECTED
        )
        made.append(Turn(Action("I look.", (call,)), (result,), span=(k, k + 1)))
    numbers = Tokens(
        tuple(rng.randrange(150_000) for _ in range(n_tokens)),
        tuple(rng.randrange(2) for _ in range(n_tokens)),
        tuple(-rng.random() for _ in range(n_tokens)),
        f"hermes/schema/{i:016x}" if i % 3 else "",
    )
    settled: dict[str, Any] = {
        "id": f"e{i}",
        "env": "a/A-v0" if i % 2 else "b/B-v0",
        "task": Task(f"Do {i}.", {"i": i}, seed=i, kind="k"),
        "prompt": (Message("system", "You work."), Message("user", f"Do {i}.")),
        "turns": tuple(made),
        "stop": StopReason.FINISHED,
        "reward": float(i % 4 == 0),
        "reward_parts": {"state": float(i % 4 == 0)},
        "success": i % 4 == 0,
        "faults_hit": ("stale_id",) if i % 5 == 0 else (),
        "tools": (ToolSpec("find", "Finds.", {"type": "object"}),),
        "tokens": numbers if n_tokens else None,
        "agent": f"agent-{i % 3}",
        "meta": {"note": "ü\u2028"},
    }
    return Trajectory(**{**settled, **fields})


def ids(store: Store, **filters: Any) -> list[str]:
    return [t.id for t in store.read(**filters)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


# ---------------------------------------------------------------------------------------------------- what comes back


def test_what_was_appended_is_read_live_and_sealed(store: Store) -> None:
    all_ = [episode(i, n_turns=i % 4, n_tokens=(i % 3) * 20) for i in range(30)]
    odd = episode(
        99, error="boom", success=None, stop=StopReason.INFRASTRUCTURE, forked_from=Fork("e1", 1), expert_turns=4
    )
    for t in [*all_, odd]:
        store.append(t)
    assert list(store.read()) == [*all_, odd]
    assert len(store) == 31
    done = store.seal()
    assert (done.episodes, done.repeated, done.segments) == (31, 0, 1)
    assert list(store.read()) == [*all_, odd]
    assert [t.to_json() for t in store] == [t.to_json() for t in [*all_, odd]]
    store.append(episode(100))
    assert len(store) == 32
    assert [t.id for t in store][-2:] == ["e99", "e100"]
    assert store.verify().ok


finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(
    id=text,
    attempt=st.integers(0, 10),
    data=st.dictionaries(text, values, max_size=3),
    arguments=st.none() | st.dictionaries(text, values, max_size=3),
    reward=finite,
    tokens=st.none() | st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 1), finite), max_size=20),
)
def test_any_episode_survives_its_line_and_its_part(
    tmp_path_factory: pytest.TempPathFactory,
    id: str,
    attempt: int,
    data: dict[str, Any],
    arguments: dict[str, Any] | None,
    reward: float,
    tokens: list[tuple[int, int, float]] | None,
) -> None:
    columns: Any = tuple(zip(*tokens, strict=True)) if tokens else ((), (), ())
    turn = Turn(
        Action(id, (ToolCall("t", arguments, raw=id, id="c"),)), (ToolResult("c", "t", Outcome.OK, id, value=data),)
    )
    t = episode(
        1,
        id=id,
        attempt=attempt,
        task=Task(id, data, id="t"),
        reward=reward,
        turns=(turn,),
        tokens=None if tokens is None else Tokens(*columns),
    )
    line = encode(t, 1.5)
    assert line.count(b"\n") == 1
    json.loads(line)  # a segment is JSON lines
    assert decode(line).trajectory() == Trajectory.from_json(t.to_json())
    with Store(tmp_path_factory.mktemp("any") / "s") as store:
        store.append(t)
        store.seal()
        (back,) = store
        assert back == Trajectory.from_json(t.to_json())
        assert store.query("select id, attempt from episodes").rows == [(id, attempt)]


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(1, 10_000), flip=st.integers(0, 255), noise=st.binary(max_size=30))
def test_a_line_that_was_changed_is_never_read(cut: int, flip: int, noise: bytes) -> None:
    line = encode(episode(3), 1.5)
    place = cut % (len(line) - 1)
    for changed in (line[:place], line[:place] + bytes([line[place] ^ (flip or 1)]) + line[place + 1 :], noise):
        with pytest.raises(Damaged):
            decode(changed)


def test_an_episode_that_json_cannot_say_is_refused_and_leaves_nothing(store: Store) -> None:
    store.append(episode(0))
    nan = float("nan")
    for bad in (
        episode(1, reward=nan),
        episode(1, reward_parts={"a": float("inf")}),
        episode(1, turns=(Turn(Action("x"), reward=nan),)),
        episode(1, tokens=Tokens((1,), (1,), (float("-inf"),))),
        episode(1, tokens=Tokens((1,), (2,), (0.0,))),
        episode(1, agent="\ud800"),
        episode(1, meta={"x": object()}),
        episode(1, stop="weary"),
    ):
        with pytest.raises(DataError, match="e1"):
            store.append(bad)
    assert ids(store) == ["e0"]


def test_each_attempt_is_met_once(store: Store) -> None:
    for i in (0, 1, 0, 1):
        store.append(episode(i))
    store.append(episode(0, attempt=1))
    assert len(store) == 3
    assert store.seal().repeated == 2
    with Store(store.path) as again:
        for i in (1, 2):
            again.append(episode(i))
        store.append(episode(2))
        assert ids(store) == ["e0", "e1", "e0", "e2"]
        assert store.query("select count(*), count(distinct (id, attempt)) from episodes").rows == [(4, 4)]
    assert store.seal().repeated == 2
    assert len(store) == 4
    assert store.verify().ok


# ------------------------------------------------------------------------------------------------ filters and queries


def test_filters_agree_live_sealed_and_with_the_episodes(store: Store) -> None:
    all_ = [episode(i) for i in range(60)]
    for t in all_[:30]:
        store.append(t)
    for sealed in (False, True, True):
        for filters, keep in (
            ({"env": "a/A-v0"}, lambda t: t.env == "a/A-v0"),
            ({"agent": "agent-1"}, lambda t: t.agent == "agent-1"),
            ({"success": False}, lambda t: t.success is False),
            ({"fault": "stale_id"}, lambda t: "stale_id" in t.faults_hit),
            ({"outcome": "timeout"}, lambda t: any(r.outcome == "timeout" for r in t.results())),
            ({"outcome": "gone"}, lambda t: False),
            (
                {"env": "b/B-v0", "success": True, "outcome": Outcome.TIMEOUT},
                lambda t: t.env == "b/B-v0" and t.success and any(r.outcome == "timeout" for r in t.results()),
            ),
        ):
            expected = [t.id for t in store if keep(t)]  # type: ignore[no-untyped-call]
            assert ids(store, **filters) == expected
        if not sealed:
            store.seal()
        else:
            for t in all_[30:]:
                store.append(t)


def test_a_query_sees_sealed_and_live_and_nothing_else(store: Store, tmp_path: Path) -> None:
    assert store.query("select count(*) from episodes").rows == [(0,)]
    for i in range(8):
        store.append(episode(i))
        if i == 4:
            store.seal()
    by_env = store.query("select env, avg(success::int) as rate from episodes group by env order by env")
    assert by_env.columns == ("env", "rate")
    assert by_env.dicts() == [{"env": "a/A-v0", "rate": 0.0}, {"env": "b/B-v0", "rate": 0.5}]
    assert store.query("select count(*) from calls where outcome = ?", ["timeout"]).rows == [(5,)]
    (row,) = store.query("select * from calls where id = 'e3' and turn = 0").dicts()
    assert json.loads(row["arguments"])["n"] == [0, None, {"a": 1}]
    assert row["outcome"] == "timeout"
    assert row["cause"] == "injected"
    (numbers,) = store.query("select ids, logprobs, record from episodes where id = 'e2'").rows
    assert tuple(numbers[0]) == episode(2).tokens.ids  # type: ignore[union-attr]
    assert tuple(numbers[1]) == episode(2).tokens.logprobs  # type: ignore[union-attr]
    assert json.loads(numbers[2])["id"] == "e2"
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(DataError, match="cannot be answered"):
        store.query(f"select * from '{secret}'")
    with pytest.raises(DataError, match="cannot be answered"):
        store.query(f"copy episodes to '{tmp_path / 'out.csv'}'")
    with pytest.raises(DataError, match="nonsense"):
        store.query("select nonsense from episodes")


# ------------------------------------------------------------------------------------------------------------- upkeep


def test_clean_up_merges_and_drops(store: Store) -> None:
    for i in range(12):
        store.append(episode(i))
        if i % 4 == 3:
            store.seal()
    assert len(os.listdir(store.path / "sealed")) == 3
    before = sorted(ids(store))
    done = store.gc()
    assert (done.merged, done.dropped) == (3, 0)
    assert len(os.listdir(store.path / "sealed")) == 1
    assert sorted(ids(store)) == before
    assert store.gc().merged == 0
    assert store.gc(max_episodes=5).dropped == 7
    assert ids(store) == [f"e{i}" for i in range(7, 12)]
    assert store.gc(max_age_days=1).dropped == 0
    assert store.gc(max_age_days=0).dropped == 5
    assert len(store) == 0
    assert store.verify().ok
    with pytest.raises(ConfigError):
        store.gc(max_episodes=-1)


def test_parts_and_segments_are_cut_to_size(tmp_path: Path) -> None:
    with Store(tmp_path / "s", segment_bytes=5_000, part_episodes=600) as store:
        for i in range(1300):
            store.append(episode(i, n_turns=0, n_tokens=0))
        assert len(os.listdir(store.path / "live")) > 10
        store.seal()
        assert [n for _, n, _ in store.sizes()] == [1024, 276]
        assert len(store) == 1300


def test_nothing_is_removed_under_a_reader(store: Store) -> None:
    for i in range(6):
        store.append(episode(i))
        if i == 2:
            store.seal()
    reader = store.read()
    assert next(reader).id == "e0"
    assert store.seal().episodes == 3
    assert store.gc().waiting > 0
    assert [t.id for t in reader] == [f"e{i}" for i in range(1, 6)]
    assert store.gc().removed > 0
    assert not os.listdir(store.path / "live")
    assert len(os.listdir(store.path / "sealed")) == 1
    assert sorted(ids(store)) == [f"e{i}" for i in range(6)]


def test_a_segment_that_is_being_written_is_not_sealed(store: Store) -> None:
    other = Store(store.path)
    other.append(episode(1))
    store.append(episode(2))
    done = store.seal()
    assert (done.episodes, done.busy) == (1, 1)
    other.append(episode(3))
    assert sorted(ids(store)) == ["e1", "e2", "e3"]
    other.close()
    assert store.seal().episodes == 2


# ----------------------------------------------------------------------------------------------------- older versions


def test_a_store_of_an_older_schema_version_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of version 0, in which the reason for the end had another name and a turn had no results of its own."""
    import zlib

    old = {
        "id": "old", "env": "a/A-v0", "task": {"instruction": "Do.", "data": {"big": 2**70}, "id": "t"},
        "prompt": [{"role": "user", "content": "Do."}], "turns": [{"action": {"content": "Done."}}],
        "end": "finished", "success": True, "schema_version": 0,
    }  # fmt: skip
    key = encode(episode(1, id="old", attempt=0), 1.0)[25:57]
    body = b'"key":"%s","at":1.000000,"tokens":null,"record":%s}' % (key, json.dumps(old).encode())
    (store.path / "live" / "0-0-old.jsonl").write_bytes(b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body))
    with pytest.raises(DataError, match="'old' has schema version 0"):
        list(store)
    monkeypatch.setitem(MIGRATIONS, 0, lambda record: {**record, "stop": record["end"], "env": "moved/A-v0"})
    for _ in range(2):
        (t,) = store
        assert (t.id, t.env, t.stop, t.schema_version) == ("old", "moved/A-v0", StopReason.FINISHED, 1)
        assert t.task.data == {"big": 2**70}
        assert ids(store, env="moved/A-v0") == ["old"]
        assert store.query("select env, stop, schema_version from episodes").rows == [("moved/A-v0", "finished", 1)]
        store.seal()
    assert store.verify().ok


def test_parts_that_do_not_say_whose_their_ids_are_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.trajectories.store import parts

    now = parts.schema()
    with monkeypatch.context() as before:
        before.setattr(parts, "schema", lambda: now.remove(now.get_field_index("encoding")))
        store.append(episode(1))
        store.seal()
    store.append(episode(2))
    first, second = store
    assert first == replace(episode(1), tokens=replace(own(episode(1)), encoding=""))
    assert second == episode(2)
    assert store.query("select encoding from episodes order by id").rows == [(None,), (own(episode(2)).encoding,)]
    store.seal()
    store.gc()
    assert list(store) == [first, second]


def own(t: Trajectory) -> Tokens:
    assert t.tokens is not None
    return t.tokens


def test_what_a_newer_version_wrote_is_refused(store: Store) -> None:
    store.append(replace(episode(1), schema_version=99))
    for read in (lambda: list(store), lambda: store.query("select 1"), store.seal):
        with pytest.raises(DataError, match="upgrade sparring"):
            read()
    manifest = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(DataError, match="format 2"):
        Store(store.path)


# ------------------------------------------------------------------------------------------------------------- damage


def test_a_torn_tail_is_mended(store: Store) -> None:
    for i in range(3):
        store.append(episode(i))
    store.close()
    (segment,) = (store.path / "live").iterdir()
    whole = segment.read_bytes()
    line = encode(episode(9), 1.0)
    for cut in (1, 17, len(line) // 2, len(line) - 1):
        segment.write_bytes(whole + line[:cut])
        assert ids(store) == ["e0", "e1", "e2"]
        assert ids(Store(store.path)) == ["e0", "e1", "e2"]
        assert segment.read_bytes() == whole


def test_damage_is_said_and_set_aside(store: Store) -> None:
    for i in range(4):
        store.append(episode(i))
    store.close()
    (segment,) = (store.path / "live").iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 4
    segment.write_bytes(data)
    with pytest.raises(DataError, match=r"line 2: .*store seal"):
        list(store)
    found = store.verify()
    assert not found.ok
    assert "line 2" in found.problems[0]
    done = store.seal()
    assert (done.episodes, done.damaged) == (3, 1)
    assert ids(store) == ["e0", "e2", "e3"]
    assert (store.path / "damaged" / segment.name).read_bytes() == data
    assert store.verify().ok


@settings(max_examples=25, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_verify_sees_a_flipped_bit_in_a_part(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    with Store(tmp_path_factory.mktemp("bit") / "s") as store:
        store.append(episode(1))
        store.seal()
        (part,) = (store.path / "sealed").iterdir()
        data = bytearray(part.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        part.write_bytes(data)
        assert not store.verify().ok


def test_a_part_that_is_gone_or_cut_is_said(store: Store) -> None:
    store.append(episode(1))
    store.seal()
    (part,) = (store.path / "sealed").iterdir()
    data = part.read_bytes()
    part.write_bytes(data[:100])
    with pytest.raises(DataError, match="verify"):
        list(store)
    part.unlink()
    with pytest.raises(DataError, match="not there"):
        list(store)
    assert "not there" in store.verify().problems[0]


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        Store(tmp_path / "other")
    with pytest.raises(DataError, match="there is no store"):
        Store(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with Store(tmp_path / "s"):
        pass
    (tmp_path / "s" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="no manifest"):
        Store(tmp_path / "s")


# ------------------------------------------------------------------------------------------ full disks, failing calls


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """A child may write files of 40 kB: the kernel cuts the write that crosses the limit, then refuses."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "src")!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from sparring.trajectories.store import Store, StoreWriteError
from test_store import episode
store = Store({str(tmp_path / "s")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
count = 0
try:
    while True:
        store.append(episode(count))
        count += 1
except StoreWriteError as error:
    failure = error
assert isinstance(failure, OSError) and isinstance(failure, ValueError)
big = episode(10**6, n_turns=100)  # a part beyond the limit too
store.close()
store.append(episode(10**5))
try:
    for i in range(100):
        store.append(episode(10**4 + i))
except StoreWriteError:
    pass
print(count, i, failure.errno, failure)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, more, number, message = done.stdout.split(maxsplit=3)
    assert int(count) > 5
    assert int(number) == errno.EFBIG
    assert "what was stored before is safe" in message
    with Store(tmp_path / "s") as store:
        kept = ids(store)
        assert kept == [f"e{i}" for i in range(int(count))] + ["e100000"] + [f"e{10**4 + i}" for i in range(int(more))]
        for segment in (store.path / "live").iterdir():
            assert segment.read_bytes().endswith(b"\n")  # the part of a line that was written was taken back


def test_sealing_on_a_full_disk_leaves_all_as_it_was(tmp_path: Path) -> None:
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "src")!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from sparring.trajectories.store import Store, StoreWriteError
from test_store import episode
store = Store({str(tmp_path / "s")!r})
for i in range(40):
    store.append(episode(i, n_tokens=500))
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    store.seal()
except StoreWriteError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "cannot seal the store" in done.stdout, done.stderr
    with Store(tmp_path / "s") as store:
        assert not os.listdir(store.path / "sealed")
        assert len(store) == 40
        assert store.seal().episodes == 40


def test_a_small_disk_that_fills_up(tmp_path: Path) -> None:
    """A real file system of 2 MB, in a mount namespace of its own, with a filler that makes room later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=2m tmpfs {shlex.quote(str(disk))}"
    try:
        able = subprocess.run([*private, mount], capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this machine lets nobody mount a file system of his own")
    code = f"""
import errno, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "src")!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from sparring.trajectories.store import Store, StoreWriteError
from test_store import episode, ids
disk = Path({str(disk)!r})
(disk / "filler").write_bytes(bytes(1_000_000))
store, count = Store(disk / "s"), 0
try:
    while True:
        store.append(episode(count, n_tokens=500))
        count += 1
except StoreWriteError as error:
    assert error.errno == errno.ENOSPC, error
    assert "what was stored before is safe" in str(error), error
try:
    store.seal()
except StoreWriteError as error:
    assert error.errno == errno.ENOSPC, error
with Store(disk / "s") as again:
    assert sorted(ids(again)) == sorted(f"e{{i}}" for i in range(count))
(disk / "filler").unlink()
for i in range(5):
    store.append(episode(count + i, n_tokens=500))
store.seal()
store.close()
with Store(disk / "s") as again:
    assert sorted(ids(again)) == sorted(f"e{{i}}" for i in range(count + 5))
print(count)
"""
    command = f"{mount} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    done = subprocess.run([*private, command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


CALLS = {
    os: ("open", "write", "fsync", "ftruncate", "replace", "rename", "unlink", "link", "listdir", "pread"),
    fcntl: ("flock",),
}


def counted(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> list[int]:
    """Does `act` before the n-th call that touches the disk; the list's only number counts them.

    Nothing waits for the disk itself: what a process leaves behind when it is killed does not depend on it.
    """
    count = [0]
    monkeypatch.setattr(os, "fsync", lambda fd: None)

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == at:
                act()
            return real(*args, **kwargs)

        return call

    for module, names in CALLS.items():
        for name in names:
            monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    return count


def session(path: Path, taken: Callable[[str], None]) -> None:
    """Appends, seals, merges; says what was taken."""
    with Store(path, segment_bytes=6_000) as store:
        for i in range(9):
            store.append(episode(i, n_tokens=10))
            taken(f"e{i}")
            if i in (3, 6):
                store.seal()
        store.append(episode(2, n_tokens=10))
        store.seal()
        store.gc()


def test_whichever_call_fails_nothing_is_lost(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "the disk failed")

    with pytest.MonkeyPatch.context() as patch:
        count = counted(patch, -1, fail)
        session(tmp_path / "whole", lambda id: None)
        total = count[0]
    assert total > 60
    failed = 0
    for n in range(1, total + 1):
        path, taken = tmp_path / str(n), list[str]()
        with pytest.MonkeyPatch.context() as patch:
            counted(patch, n, fail)
            try:
                session(path, taken.append)
            except (OSError, DataError):
                failed += 1
        with Store(path) as store:
            held = ids(store)
            assert len(held) == len(set(held)), f"call {n}"
            assert set(taken) <= set(held), f"call {n}"
            assert store.verify().ok, f"call {n}"
            session(path, lambda id: None)
            assert sorted(ids(store)) == [f"e{i}" for i in range(9)]
            assert not [p for p in path.rglob("*.new") if p.parent == path]
    assert failed > total // 2


# --------------------------------------------------------------------------------------------------------------- kill


def test_killed_at_any_call_nothing_is_lost(tmp_path: Path) -> None:
    """A forked child kills itself with SIGKILL at its n-th call; every third n, the rest is for the slow test."""
    assert_survives_kills_at(tmp_path, step=3)


@pytest.mark.slow
def test_killed_at_every_call_nothing_is_lost(tmp_path: Path) -> None:
    assert_survives_kills_at(tmp_path, step=1)


def assert_survives_kills_at(tmp_path: Path, step: int) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "src")!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
import pyarrow, pyarrow.parquet, numpy, pytest
from pathlib import Path
from test_store import counted, session
root, n, alive = Path({str(tmp_path)!r}), {step}, True
real_write, real_open = os.write, os.open
while alive:
    child = os.fork()
    if child == 0:
        acknowledged = real_open(root / f"{{n}}.ack", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        counted(pytest.MonkeyPatch(), n, lambda: os.kill(os.getpid(), signal.SIGKILL))
        session(root / str(n), lambda id: real_write(acknowledged, id.encode() + b" "))
        os._exit(0)
    alive = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    n += {step}
print(n)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    runs = [int(p.stem) for p in tmp_path.glob("*.ack")]
    assert len(runs) > 60 // step
    for n in runs:
        taken = set((tmp_path / f"{n}.ack").read_text().split())
        with Store(tmp_path / str(n)) as store:
            held = ids(store)
            assert len(held) == len(set(held)), f"killed at call {n}"
            assert taken <= set(held), f"killed at call {n}"
            assert store.verify().ok, f"killed at call {n}"
            store.seal()
            store.gc()
            assert sorted(ids(store)) == sorted(held)


def test_four_writers_killed_at_random(tmp_path: Path) -> None:
    """The script of the benchmarks, for a few rounds: writers, one of which seals and merges, and kill -9 of all."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "store.py"),
            "kill",
            "--rounds",
            "6",
            "--folder",
            str(tmp_path / "k"),
        ],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    assert "0 lost, 0 doubled" in done.stdout


# ------------------------------------------------------------------------------------- processes, threads, and forking


def test_threads_share_a_store(store: Store) -> None:
    def write(k: int) -> None:
        for i in range(30):
            store.append(episode(100 * k + i, n_tokens=5))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(store)) == sorted(f"e{100 * k + i}" for k in range(4) for i in range(30))


def test_a_forked_child_writes_a_segment_of_its_own(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "src")!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from sparring.trajectories.store import Store
from test_store import episode
store = Store({str(tmp_path / "s")!r})
store.append(episode(1))
child = os.fork()
store.append(episode(2 if child else 3))
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.append(episode(4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "s") as store:
        assert sorted(ids(store)) == ["e1", "e2", "e3", "e4"]
        assert len(os.listdir(store.path / "live")) == 2


def test_a_store_travels_as_its_settings(store: Store) -> None:
    store.append(episode(1))
    with pickle.loads(pickle.dumps(store)) as other:
        other.append(episode(2))
    assert sorted(ids(store)) == ["e1", "e2"]


def test_sync_and_a_store_that_may_only_be_read(tmp_path: Path) -> None:
    with Store(tmp_path / "s", sync=True) as store:
        store.append(episode(1))
    assert ids(Store(tmp_path / "s")) == ["e1"]


# --------------------------------------------------------------------------------------------------- the command line


def run(command: str, code: int = 0) -> str:
    from sparring.cli.store import store as app

    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == code, f"{command}: {result.output} {result.exception!r}"
    return result.output + (str(result.exception) if code else "")


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    all_ = [episode(i) for i in range(10)]
    Path("in.jsonl").write_bytes(b"".join(t.to_json() + b"\n" for t in all_))
    assert "10 of them new" in run("import in.jsonl")
    assert "0 of them new; 10 in" in run("import in.jsonl")
    Path("other.jsonl").write_bytes(b"".join(replace(t, agent="other").to_json() + b"\n" for t in all_[:3]))
    assert "3 not added: the store holds other episodes of their ids; 10 in" in run("import other.jsonl")
    assert "10" in run("ls").splitlines()[-1]
    assert "sealed 10 episodes" in run("seal")
    assert json.loads(run("query 'select count(*) as n from episodes' --json")) == {"n": 10}
    assert "a/A-v0" in run("query 'select env, avg(success::int) from episodes group by env'")
    assert "all is well" in run("verify")
    assert "dropped 0" in run("gc")
    assert "10 episodes" in run("export out.jsonl")
    assert Path("out.jsonl").read_bytes() == Path("in.jsonl").read_bytes()
    run("export out.jsonl", 1)
    assert "5 episodes" in run("export out.jsonl --overwrite --env a/A-v0")
    for command, says in (
        ("export none.jsonl --outcome timout", "Did you mean 'timeout'"),
        ("export none.jsonl --env nope", "no episode of runs/store is like that"),
        ("query ''", "the query is empty"),
    ):
        assert says in run(command, 1)
    assert not Path("none.jsonl").exists()
    (part,) = Path("runs/store/sealed").iterdir()
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert "1 damaged" in run("verify", 1)
    Path("bad.jsonl").write_bytes(all_[0].to_json() + b"\n[]\n")
    run("import bad.jsonl", 1)
    run("ls --store elsewhere", 1)
    for command in ("ls", "query", "verify", "seal", "gc", "import", "export"):
        assert "Example" in run(f"{command} --help")


def test_an_outcome_that_was_inferred_is_no_outcome_to_a_query(tmp_path: Path) -> None:
    """What an import does not know is null in SQL, live and sealed, and no filter finds it."""
    guessed = episode(1, n_turns=1)
    (turn,) = guessed.turns
    told = replace(turn.results[0], outcome=Outcome.OK, cause=None, inferred=True)
    store = Store(tmp_path)
    store.append(replace(guessed, turns=(replace(turn, results=(told,)),)))
    store.append(episode(2, n_turns=1))
    for _ in range(2):
        rows = store.query("select outcome, count(*) as n from calls group by all order by outcome nulls last").dicts()
        known = episode(2, n_turns=1).turns[0].results[0].outcome.value
        assert rows == [{"outcome": known, "n": 1}, {"outcome": None, "n": 1}]
        failed = store.query("select n_failed, outcomes from episodes order by n_failed nulls last").dicts()
        assert failed == [{"n_failed": int(known != "ok"), "outcomes": [known]}, {"n_failed": None, "outcomes": [None]}]
        assert [t.id for t in store.read(outcome=known)] == [episode(2).id]
        store.seal()
