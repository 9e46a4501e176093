"""What people say of episodes is kept, counted and turned into pairs; the page is blind, works by keyboard, and shows
hostile text as text."""

from __future__ import annotations

import errno
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring.cli.root import app
from sparring.trajectories.curation import pairs_from_labels
from sparring.trajectories.errors import ConfigError, DataError
from sparring.trajectories.labels import (
    Label,
    LabelFile,
    agreement,
    cohen_kappa,
    krippendorff_alpha,
    majority,
    read_labels,
)
from sparring.trajectories.messages import Action, Cause, Message, Outcome, ToolCall, ToolResult
from sparring.trajectories.pages.labelling import LabelPair, LabelServer, label_pairs
from sparring.trajectories.pages.labelling.queue import left_side
from sparring.trajectories.pages.labelling.server import LabelSession
from sparring.trajectories.store import Store
from sparring.trajectories.trajectory import StopReason, Task, Tokens, Trajectory, Turn, dump_jsonl

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><|im_end|>& <!--"
    "\x1b[31mred\x1b]0;t\x07\x9b2J\u202eevil\ud800\u2028"
)


def episode(id: str, said: str, task: str = "t0", text: str = "fine", **more: Any) -> Trajectory:
    """Two turns: a call that all episodes of a task share, and a last message of its own."""
    call = ToolCall("find", {"what": text})
    result = ToolResult(
        "c1", "find", Outcome.TIMEOUT, text, cause=Cause.INJECTED, took_effect=None, fault="timeout_lost"
    )
    turns = (Turn(Action(text, (call,)), (result,)), Turn(Action(said)))
    prompt = (Message("system", "Be brief."), Message("user", f"Do {task} {text}"))
    base = Trajectory(
        id,
        "test/Say-v0",
        Task(f"Do {task} {text}", id=task),
        prompt,
        turns,
        StopReason.FINISHED,
        success=True,
        agent=f"agent-{id}",
        reward=1.0,
        faults="count=1:timeout_lost@3",
    )
    return replace(base, **more)


def group(n: int = 3, tasks: int = 2, text: str = "fine") -> list[Trajectory]:
    return [episode(f"e{k}{i}", f"Answer {i}", f"t{k}", text) for k in range(tasks) for i in range(n)]


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_label_is_there_for_the_next_reader_in_the_agreed_form(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "labels.jsonl"
    file = LabelFile(path)
    file.add(Label("x", "y", "a", "ada", "clearer"))
    record = json.loads(path.read_text())
    assert {k: record[k] for k in ("a", "b", "label", "labeller", "note", "schema_version")} == {
        "a": "x",
        "b": "y",
        "label": "a",
        "labeller": "ada",
        "note": "clearer",
        "schema_version": 1,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", record["time"])
    assert read_labels(path) == file.labels()


def test_an_undo_is_another_line_and_the_last_word_counts(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    file, other = LabelFile(path), LabelFile(path)
    file.add(Label("x", "y", "a", "ada"))
    other.add(Label("y", "x", "bad", "bob"))
    file.add(Label("y", "x", "tie", "ada", "on second thoughts"))
    assert [(x.labeller, x.label) for x in read_labels(path)] == [("bob", "bad"), ("ada", "tie")]
    before = path.read_bytes()
    taken = file.undo("ada")
    assert taken is not None
    assert taken.note == "on second thoughts"
    assert path.read_bytes().startswith(before)  # nothing is rewritten
    assert [(x.labeller, x.label) for x in read_labels(path)] == [("ada", "a"), ("bob", "bad")]
    assert file.undo("ada") is not None
    assert file.undo("ada") is None
    assert [x.labeller for x in other.labels()] == ["bob"]


def test_labels_written_by_others_are_read_and_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text(
        '{"a": "x", "b": "y", "label": "b", "labeller": "eve", "note": "", "time": "2026-01-01T00:00:00"}\n\n'
    )
    assert read_labels(path) == [Label("x", "y", "b", "eve", "", "2026-01-01T00:00:00", id="line 1")]
    for line, message in (
        ('{"a": "x", "b": "y", "label": "better"}', "line 3: label 'better'; expected"),
        ('{"a": "x", "label": "a"}', "no usable b"),
        ('{"a": 1, "b": "y", "label": "a"}', "no usable a"),
        ("[1]", "expected a label as a JSON object"),
        ("torn", "expected a label"),
        ('{"schema_version": 2, "a": "x"}', "upgrade sparring"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text(path.read_text() + line + "\n")
        with pytest.raises(DataError, match=re.escape(message)):
            read_labels(bad)
    with pytest.raises(DataError, match="there is no file of labels"):
        read_labels(tmp_path / "none")
    with pytest.raises(ConfigError, match="a, b, tie, bad"):
        LabelFile(path).add(Label("x", "y", "best", "eve"))  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ConfigError, match="two episodes"):
        LabelFile(path).add(Label("x", "x", "a", "eve"))


words = st.text(st.characters(exclude_categories=()), max_size=8)
acts = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ada", "bob"]), st.sampled_from("xyz"), st.sampled_from("xyz"), words),
        st.sampled_from(["undo ada", "undo bob", "torn", "reopen"]),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=60)
@given(acts)
def test_the_file_is_what_a_list_would_be(tmp_path_factory: pytest.TempPathFactory, done: list[Any]) -> None:
    """Any text in notes, torn ends, readers that come late: the labels are those of a plain list."""
    path = tmp_path_factory.mktemp("labels") / "l.jsonl"
    file = LabelFile(path)
    model: list[tuple[str, frozenset[str], str]] = []
    for act in done:
        if act == "torn":
            with path.open("ab") as out:
                out.write(b'{"a":"x","b":"y","la')
        elif act == "reopen":
            file = LabelFile(path)
        elif isinstance(act, str):
            who = act.removeprefix("undo ")
            at = max((i for i, x in enumerate(model) if x[0] == who), default=None)
            assert (file.undo(who) is None) == (at is None)
            if at is not None:
                model.pop(at)
        elif act[1] != act[2]:
            file.add(Label(act[1], act[2], "tie", act[0], act[3]))
            model.append((act[0], frozenset(act[1:3]), act[3]))
    last = {(who, pair): note for who, pair, note in model}
    for labels in (file.labels(), LabelFile(path).labels()):
        assert {(x.labeller, frozenset((x.a, x.b))): x.note for x in labels} == last


WRITER = """
import os, sys
from sparring.trajectories.labels import Label, LabelFile
file = LabelFile(sys.argv[1])
for i in range(100000):
    file.add(Label(f"{sys.argv[2]}-{i}", "other", "a", sys.argv[2], "n" * 200))
    os.write(1, b"%d\\n" % i)
"""


def test_kill_9_loses_no_acknowledged_label(tmp_path: Path) -> None:
    """Two writers at once in one file, killed at a random moment, 10 times."""
    path = tmp_path / "l.jsonl"
    rng = random.Random(0)
    said: dict[str, int] = {}
    for turn in range(10):
        writers = {
            f"w{turn}{k}": subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), f"w{turn}{k}"],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            )
            for k in range(2)
        }
        for writer in writers.values():
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"0\n"
        time.sleep(rng.random() * 0.1)
        for name, writer in writers.items():
            writer.send_signal(signal.SIGKILL)
            rest, _ = writer.communicate()
            said[name] = 1 + rest.count(b"\n")
        if turn % 3 == 0:  # a kill inside the write itself is too rare to wait for
            with path.open("ab") as out:
                out.write(b'{"schema_version":1,"id":"77","a":"w')
        there = {name: [x for x in read_labels(path) if x.labeller == name] for name in said}
        for name, count in said.items():
            assert [x.a for x in there[name]][:count] == [f"{name}-{i}" for i in range(count)]
            assert len(there[name]) in (count, count + 1)  # one may be there that nobody was told of
    assert sum(said.values()) > 100
    assert LabelFile(path).add(Label("x", "y", "b", "after")) in read_labels(path)


@pytest.mark.parametrize("kept", [0, 30])
def test_a_full_disk_takes_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    path = tmp_path / "l.jsonl"
    file = LabelFile(path)
    file.add(Label("x", "y", "a", "ada"))
    real, room = os.write, [kept]

    def short(fd: int, data: Any) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count, room[0] = real(fd, bytes(data)[: room[0]]), 0
        return count

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space"):
        file.add(Label("x", "z", "b", "ada"))
    monkeypatch.setattr(os, "write", real)
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")
    file.add(Label("x", "z", "tie", "ada"))
    assert [x.label for x in read_labels(path)] == ["a", "tie"]


def test_a_label_is_synced_before_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.jsonl"
    synced: list[int] = []
    real = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.fstat(fd).st_size if os.path.samestat(os.fstat(fd), path.stat()) else -1)
        real(fd)

    monkeypatch.setattr(os, "fsync", watched)
    LabelFile(path).add(Label("x", "y", "a", "ada"))
    assert synced == [path.stat().st_size, -1]  # the line, and the file's name in its folder
    assert synced[0] > 0


# ---- agreement -------------------------------------------------------------------------------------------------------


def test_cohens_kappa_by_hand() -> None:
    # 50 items: both yes 20, first alone 5, second alone 10, both no 15. p_o = 35/50 = .7; the first says yes 25 of 50,
    # the second 30 of 50: p_e = .5 * .6 + .5 * .4 = .5. kappa = (.7 - .5) / (1 - .5) = .4
    first = ["y"] * 20 + ["y"] * 5 + ["n"] * 10 + ["n"] * 15
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4, abs=1e-12)
    # they never agree, and each gives both labels equally often: (0 - .5) / .5
    assert cohen_kappa(["a", "b"], ["b", "a"]) == -1
    assert cohen_kappa([], []) is None
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    with pytest.raises(ConfigError, match="got 1 and 2"):
        cohen_kappa(["a"], ["a", "b"])


def test_krippendorffs_alpha_by_hand() -> None:
    # The example of "Computing Krippendorff's alpha-reliability" (2011), C: four observers, twelve units, gaps;
    # nominal alpha = .743. Of 40 values in 11 units with two or more: n_1..5 = 9, 13, 10, 5, 3.
    table = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[row[i] for row in table if row[i] != "."] for i in range(12)]
    assert sum(len(u) for u in units if len(u) > 1) == 40
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    # Two units, [a, a] and [a, b]: unlike ordered pairs 2 / (2 - 1) = 2, D_o = 2/4; among all four values a, a, a, b
    # 16 - 10 = 6 ordered pairs are unlike, D_e = 6/12. alpha = 1 - .5 / .5 = 0.
    assert krippendorff_alpha([["a", "a"], ["a", "b"], ["b"]]) == 0
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a"], []]) is None


ratings = st.integers(2, 5).flatmap(
    lambda raters: st.lists(
        st.lists(st.sampled_from(["a", "b", "tie", "bad", None]), min_size=raters, max_size=raters),
        min_size=1,
        max_size=25,
    )
)


@settings(deadline=None, max_examples=60)
@given(ratings)
def test_alpha_is_that_of_the_library(units: list[list[str | None]]) -> None:
    krippendorff = pytest.importorskip("krippendorff")
    ours = krippendorff_alpha([[v for v in unit if v is not None] for unit in units])
    if ours is None:
        return
    codes = {"a": 0.0, "b": 1.0, "tie": 2.0, "bad": 3.0, None: np.nan}
    data = np.array([[codes[v] for v in unit] for unit in units]).T
    assert ours == pytest.approx(krippendorff.alpha(data, level_of_measurement="nominal"), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_kappa_is_that_of_the_library(both: list[tuple[str, str]]) -> None:
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    ours = cohen_kappa([x for x, _ in both], [y for _, y in both])
    if ours is None:
        return
    table = np.zeros((4, 4))
    for x, y in both:
        table["abcd".index(x), "abcd".index(y)] += 1
    assert ours == pytest.approx(inter_rater.cohens_kappa(table, return_results=False), abs=1e-9)


def test_agreement_does_not_depend_on_which_episode_was_called_a() -> None:
    labels = [
        Label("x", "y", "a", "ada", left="a"), Label("y", "x", "b", "bob", left="b"),
        Label("x", "z", "tie", "ada"), Label("x", "z", "bad", "bob"),
        Label("y", "z", "b", "ada", left="a"), Label("u", "v", "a", "eve"),
    ]  # fmt: skip
    found = agreement(labels)
    assert found.labellers == {"ada": 3, "bob": 2, "eve": 1}
    assert (found.pairs, found.same) == (2, 0.5)
    # ada a, tie; bob a, bad: p_o = 1/2, p_e = 1/2 * 1/2, kappa = (1/2 - 1/4) / (3/4)
    ((between, (kappa, both)),) = found.kappa.items()
    assert (between, both) == (("ada", "bob"), 2)
    assert kappa == pytest.approx(1 / 3)
    # unlike pairs 2, n = 4; a a tie bad: 16 - 6 = 10; alpha = 1 - 2 * 3 / 10
    assert found.alpha == pytest.approx(0.4)
    assert (found.low, found.high) == (None, None)  # two pairs are too few for an interval
    assert found.left == (2, 3)
    assert agreement([]).alpha is None


def test_the_interval_holds_the_value_and_follows_from_the_seed() -> None:
    rng = random.Random(1)
    labels = []
    for i in range(60):
        true = rng.choice("ab")
        for who in ("ada", "bob", "eve"):
            said = true if rng.random() < 0.8 else rng.choice("ab")
            labels.append(Label(f"x{i}", f"y{i}", said, who))  # type: ignore[arg-type]  # "a" or "b"
    found = agreement(labels)
    assert found.low is not None
    assert found.alpha is not None
    assert found.high is not None
    assert found.low < found.alpha < found.high
    assert found.high - found.low < 0.4
    assert agreement(labels) == found
    units = [[x.label for x in labels[i : i + 3]] for i in range(0, len(labels), 3)]
    drawn = sorted(krippendorff_alpha(rng.choices(units, k=60)) or 0.0 for _ in range(400))  # the plain way
    assert found.low == pytest.approx(drawn[10], abs=0.04)
    assert found.high == pytest.approx(drawn[389], abs=0.04)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_follow_the_majority_and_the_card_accounts_for_the_rest() -> None:
    held = group(4, tasks=1)
    labels = [
        Label("e00", "e01", "b", "ada"), Label("e01", "e00", "a", "bob"), Label("e00", "e01", "a", "eve"),
        Label("e00", "e02", "tie", "ada"),
        Label("e00", "e03", "bad", "ada"),
        Label("e01", "e02", "a", "ada"), Label("e01", "e02", "b", "bob"),
        Label("e01", "gone", "a", "ada"),
    ]  # fmt: skip
    said = {(v.a[0], v.b[0]): v.label for v in majority(labels)}
    assert said[("e00", "e01")] == "b"
    assert said[("e01", "e02")] == "conflict"
    assert {v.votes["a"] for v in majority(labels) if v.label == "conflict"} == {1}
    pairs = pairs_from_labels(labels, held)
    assert [(p.chosen.id, p.rejected.id, p.fork, p.source) for p in pairs] == [("e01", "e00", 1, "people")]
    assert pairs.card.came_in == 5
    assert sum(pairs.card.dropped.values()) == 4
    with pytest.raises(DataError, match="nothing left"):
        pairs_from_labels([Label("e00", "e02", "tie", "ada")], held)
    second = [Label("e00", "e01", "a", "ada"), Label("e00", "e01", "b", "bob", attempt_a=1)]
    with pytest.raises(DataError, match="several attempts of the episode e00"):
        pairs_from_labels(second, [*held, replace(held[0], attempt=1)])


# ---- what is compared ------------------------------------------------------------------------------------------------


def test_only_episodes_of_one_task_under_one_plan_that_differ_are_compared() -> None:
    held = [
        *group(3, tasks=2),
        episode("same", "Answer 0", "t0"),
        episode("other", "Answer 9", "t0", faults="count=2@1"),
        episode("dead", "x", "t0", stop=StopReason.INFRASTRUCTURE, success=None),
        episode("alone", "x", "t9"),
        episode("e00", "again", "t0", attempt=1),
    ]
    reads = []

    def read() -> Iterator[Trajectory]:
        reads.append(1)
        yield from (replace(t, tokens=Tokens((1,), (1,), (0.0,))) for t in held)

    found = label_pairs(read, n=100, per_task=100)
    assert len(reads) == 2
    assert len({frozenset(c.keys) for c in found}) == len(found)
    for c in found:
        assert (c.a.task.id, c.a.faults) == (c.b.task.id, c.b.faults)
        assert c.a.turns != c.b.turns
        assert c.a.id != c.b.id
        assert c.a.tokens is None
    ids = {id for c in found for id, _ in c.keys}
    assert not ids & {"other", "dead", "alone"}
    assert frozenset({("e00", 0), ("same", 0)}) not in {frozenset(c.keys) for c in found}  # the same course
    with pytest.raises(DataError, match="nothing to compare among 1 episodes"):
        label_pairs(lambda: held[:1])


def test_every_task_comes_once_before_one_comes_twice_and_the_seed_decides() -> None:
    held = group(4, tasks=6)
    first = label_pairs(lambda: held, n=8, per_task=2, seed=1)
    assert len({c.a.task.id for c in first[:6]}) == 6
    assert len(first) == 8
    assert first == label_pairs(lambda: reversed(held), n=8, per_task=2, seed=1)
    assert [c.keys for c in first] != [c.keys for c in label_pairs(lambda: held, n=8, per_task=2, seed=2)]
    sides = [left_side(c, who, 0) for c in label_pairs(lambda: held) for who in ("ada", "bob", "eve", "dan")]
    assert 0.3 < sides.count("a") / len(sides) < 0.7


# ---- the session -----------------------------------------------------------------------------------------------------


def session(tmp_path: Path, held: list[Trajectory] | None = None, **more: Any) -> LabelSession:
    queue = label_pairs(lambda: held or group(), per_task=3)
    return LabelSession(queue, LabelFile(tmp_path / "labels.jsonl"), labeller="ada", **more)


def test_answers_are_about_what_was_shown_where_it_was_shown(tmp_path: Path) -> None:
    held = {t.id: t for t in group()}
    one = session(tmp_path)
    for answer in ("left", "right", "left", "right"):
        shown = one.state()["shown"]
        texts = [side["turns"][0]["text"] for side in shown["sides"]]
        one.label(shown["id"], answer, "why")
        label = read_labels(tmp_path / "labels.jsonl")[-1]
        better = label.a if label.label == "a" else label.b
        assert held[better].final_text == texts[answer == "right"]
        assert (label.left == label.label) == (answer == "left")
        assert label.note == "why"
    assert one.state()["done"] == 4
    assert session(tmp_path).state()["done"] == 4  # started again, it goes on


def test_the_page_is_blind_unless_asked(tmp_path: Path) -> None:
    blind = json.dumps(session(tmp_path).state())
    assert "agent-e" not in blind
    assert "success" not in blind
    assert "reward" not in blind
    seeing = json.dumps(session(tmp_path, names=True, verdicts=True).state())
    assert "agent-e" in seeing
    assert "success, reward 1" in seeing


def test_skips_come_last_and_undo_goes_back_step_by_step(tmp_path: Path) -> None:
    one = session(tmp_path)
    first = one.state()["shown"]["id"]
    second = one.skip(first)["shown"]["id"]
    assert second != first
    assert one.undo()["shown"]["id"] == first
    one.label(first, "tie", "a note")
    back = one.undo()
    assert (back["shown"]["id"], back["note"], back["done"]) == (first, "a note", 0)
    assert one.undo()["said"] == "There is nothing to take back."
    one.skip(first)
    for _ in range(5):
        last = one.label(one.state()["shown"]["id"], "bad", "")
    assert last["shown"]["id"] == first
    end = one.label(first, "left", "")
    assert (end["shown"], end["done"], end["total"]) == (None, 6, 6)
    assert one.undo()["shown"]["id"] == first
    with pytest.raises(ConfigError, match="reload"):
        one.label("nothing", "left", "")


# ---- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(one: LabelSession) -> Iterator[LabelServer]:
    server = LabelServer(one, title="a <b>store</b>")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)
        assert not thread.is_alive()


def ask(
    server: LabelServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_only_this_machine_with_the_token_may_ask(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    with serving(session(tmp_path)) as server:
        assert server.url.startswith(f"http://127.0.0.1:{server.port}/")
        base = f"/{server.token}/"
        assert len(server.token) >= 32
        shown = json.loads(ask(server, "GET", base + "state")[2])["shown"]["id"]
        body = json.dumps({"shown": shown, "label": "left", "note": ""}).encode()
        kind = {"Content_Type": "application/json"}
        refused: list[tuple[int, tuple[Any, ...], dict[str, str]]] = [
            (404, ("GET", "/"), {}),
            (404, ("GET", "/wrong/state"), {}),
            (404, ("GET", f"/{server.token}"), {}),
            (404, ("GET", f"/{server.token[:-1]}/state"), {}),
            (404, ("POST", "/wrong/label", body), kind),
            (403, ("GET", base), {"Host": "evil.example"}),
            (403, ("GET", base), {"Host": f"evil.example:{server.port}"}),
            (403, ("POST", base + "label", body), {"Origin": "http://evil.example", **kind}),
            (403, ("POST", base + "label", body), {"Origin": "null", **kind}),
            (415, ("POST", base + "label", body), {"Content_Type": "text/plain"}),
            (413, ("POST", base + "label", b"{}"), {"Content_Length": "99999999", **kind}),
            (413, ("POST", base + "label", b"{}"), {"Content_Length": "-1", **kind}),
            (400, ("POST", base + "label", b"[" * 100_000), kind),
            (400, ("POST", base + "label", b'["label"]'), kind),
            (400, ("POST", base + "label", json.dumps({"shown": shown, "note": 3}).encode()), kind),
            (404, ("POST", base + "label", json.dumps({"shown": shown, "label": "a"}).encode()), kind),
            (404, ("POST", base + "state", body), kind),
            (404, ("GET", base + "label"), {}),
            (409, ("POST", base + "label", json.dumps({"shown": "no", "label": "tie"}).encode()), kind),
            (405, ("PUT", base + "label", body), kind),
            (405, ("DELETE", base), {}),
            (405, ("OPTIONS", base + "label"), {"Origin": "http://evil.example"}),
        ]
        for code, request, headers in refused:
            method, path, sent = (*request, None)[:3]
            got, _, said = ask(server, method, path, sent, **headers)
            assert got == code, (request, headers, got, said)
            assert server.token.encode() not in said
        assert not file.exists()
        code, headers, _ = ask(server, "POST", base + "label", body, Origin=f"http://127.0.0.1:{server.port}", **kind)
        assert code == 200
        assert len(read_labels(file)) == 1
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"


def test_what_is_not_saved_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(session(tmp_path)) as server:
        base = f"/{server.token}/"
        shown = json.loads(ask(server, "GET", base + "state")[2])["shown"]["id"]

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        body = json.dumps({"shown": shown, "label": "left"}).encode()
        code, _, said = ask(server, "POST", base + "label", body, Content_Type="application/json")
        assert code == 500
        assert "not saved" in json.loads(said)["error"]
        assert read_labels(tmp_path / "labels.jsonl") == []


def test_the_page_loads_nothing_and_admits_only_its_own_code(tmp_path: Path) -> None:
    with serving(session(tmp_path)) as server:
        _, headers, page = ask(server, "GET", f"/{server.token}/")
    text = page.decode()
    assert "http:" not in text
    assert "https:" not in text
    assert "innerHTML" not in text
    assert "a &lt;b&gt;store&lt;/b&gt;" in text
    assert not re.search(r"<(link|img|iframe|base|form)\b| (src|style|on\w+)=", text.split("<script>")[0])
    assert "connect-src 'self'" in headers["Content-Security-Policy"]


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if path is None and not Path(play.chromium.executable_path).exists():
            pytest.skip("no Chromium on this machine")
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Opened = Callable[..., Any]


@contextmanager
def label_command(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sparring label` in a process of its own, and the address that it prints."""
    command = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from sparring.cli.root import main; main()",
            "label",
            str(path),
            "--no-open",
            "--labeller",
            "ada",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    try:
        assert command.stdout is not None
        match = re.search(r"6 pairs of \S+ at (\S+)", command.stdout.readline())
        assert match
        yield command, match[1]
    finally:
        command.kill()
        command.communicate()


@pytest.fixture
def opened(browser: Any) -> Opened:
    """Opens a server's page, and closes it before the server ends; nothing may be said on its console meanwhile."""

    @contextmanager
    def open_(server: LabelServer, width: int = 1400) -> Iterator[Any]:
        said: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda r: None if r.url.startswith(server.url) else said.append(r.url))
        page.goto(server.url)
        page.wait_for_selector("#answers:not([hidden])")
        try:
            yield page
        finally:
            context.close()
        assert said == []

    return open_


def test_a_whole_session_by_keyboard(tmp_path: Path, opened: Opened) -> None:
    file = tmp_path / "labels.jsonl"
    held = {t.id: t for t in group()}
    with serving(session(tmp_path)) as server, opened(server) as page:

        def press(key: str, words: str) -> None:
            with page.expect_response(lambda r: r.request.method == "POST"):  # the same words may stand there already
                page.keyboard.press(key)
            page.wait_for_selector("body:not([aria-busy])")
            assert page.text_content("#said") == words

        assert page.text_content("#where") == "0 of 6 · ada"
        left = page.text_content(".side-of >> nth=0 >> .said.assistant >> nth=0 >> pre")
        press("1", "Saved: 1 is better.")
        label = read_labels(file)[-1]
        assert held[label.a if label.label == "a" else label.b].final_text == left
        assert page.text_content("#where") == "1 of 6 · ada"

        press("ArrowRight", "Saved: 2 is better.")
        press("u", "Taken back.")
        assert len(read_labels(file)) == 1
        press("2", "Saved: 2 is better.")

        task = page.text_content("#task h2")
        press("s", "Skipped; it comes again at the end.")
        press("b", "Saved: bad task.")

        page.keyboard.press("n")
        page.keyboard.type("1 2 b: keys in a note are text")
        assert len(read_labels(file)) == 3
        page.keyboard.press("Escape")
        press("0", "Saved: no difference.")
        assert read_labels(file)[-1].note == "1 2 b: keys in a note are text"
        assert page.input_value("#note") == ""

        press("=", "Saved: no difference.")
        assert page.text_content("#task h2") == task  # the skipped one
        LabelFile(file).add(replace(read_labels(file)[0], labeller="bob\x1b"))
        press("ArrowLeft", "Saved: 1 is better.")
        assert page.is_visible("#done")
        page.get_by_text("Over 1 pair with two labels or more: the same answer on 100%").wait_for()
        assert page.is_visible("text=ada, bob\\x1b")
        assert page.text_content("#where") == "6 of 6 · ada"
        assert page.is_disabled("[data-answer=left]")
        page.keyboard.press("1")
        press("u", "Taken back.")
        assert page.is_visible("#sides")
        assert len([x for x in read_labels(file) if x.labeller == "ada"]) == 5
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body")


def test_every_button_can_be_reached_and_pressed_without_a_mouse(tmp_path: Path, opened: Opened) -> None:
    with serving(session(tmp_path)) as server, opened(server) as page:
        met = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            met.add(page.evaluate("document.activeElement.dataset.answer || ''"))
            if met >= {"left", "tie", "right"} and page.evaluate("document.activeElement.dataset.answer") == "bad":
                page.keyboard.press("Enter")
                break
        page.get_by_text("Saved: bad task.", exact=True).wait_for()
    assert {"left", "tie", "right", "bad"} <= met


def test_an_answer_that_was_shown_as_saved_survives_kill_9_and_the_next_is_not_lost_in_silence(
    tmp_path: Path, browser: Any
) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(dump_jsonl(group()))
    context = browser.new_context()
    with label_command(path) as (command, url):
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector(".side-of")
        page.keyboard.press("1")
        page.get_by_text("Saved: 1 is better.", exact=True).wait_for()
        command.kill()
        command.wait()
        page.keyboard.press("2")
        page.get_by_text("Not saved: the command that serves this page has ended.").wait_for()
        assert page.text_content("#where") == "1 of 6 · ada"
    context.close()
    assert len(read_labels(tmp_path / "some.labels")) == 1


def test_hostile_text_is_inert_in_the_browser(tmp_path: Path, opened: Opened) -> None:
    long = HOSTILE + "x" * 1_000_000 + "<b>end</b>"
    held = [
        episode(f"{HOSTILE}{i}", f"{long}{i}", HOSTILE, long, agent=HOSTILE, env=HOSTILE, faults=HOSTILE)
        for i in range(2)
    ]
    bad = ToolCall(HOSTILE, None, long, error=HOSTILE)
    result = ToolResult("c", HOSTILE, Outcome.TOOL_ERROR, long, cause=Cause.TOOL, fault=HOSTILE)
    held[1] = replace(held[1], turns=(*held[1].turns, Turn(Action(long, (bad,)), (result,), (Message("user", long),))))
    one = session(tmp_path, held, names=True, verdicts=True)
    with serving(one) as server, opened(server) as page:
        assert page.title() == "a <b>store</b>: which went better?"
        assert page.query_selector_all("img") == []
        assert len(page.query_selector_all("script")) == 1
        text = page.text_content("#main")
        assert "</script><script>document.title='owned'" in text
        assert "\\x1b[31mred" in text
        assert "\\u202eevil\\ud800\\u2028" in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", text)
        assert "more characters, not shown" in text
        assert len(text) < 400_000
        page.keyboard.press("n")
        page.evaluate("note => { document.getElementById('note').value = note }", "<script>" + "\u202e")
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        page.get_by_text("Saved: 1 is better.", exact=True).wait_for()
        assert page.title() == "a <b>store</b>: which went better?"
    (label,) = read_labels(tmp_path / "labels.jsonl")
    assert label.note == "<script>\u202e"
    assert {label.a, label.b} == {t.id for t in held}


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_its_window(tmp_path: Path, opened: Opened, width: int) -> None:
    held = group(text="w" * 300)
    with serving(session(tmp_path, held)) as server, opened(server, width) as page:
        page.wait_for_selector(".side-of")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = [page.locator(".side-of").nth(i).bounding_box() for i in range(2)]
        assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1400)  # side by side where there is room


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["label", *arguments])


def test_the_summary_of_a_file_and_of_a_store(tmp_path: Path) -> None:
    held = group(3, tasks=2)
    path = tmp_path / "some.jsonl"
    path.write_bytes(dump_jsonl(held))
    assert "no labels in" in run(str(path), "--summary").stdout
    with Store(tmp_path / "store") as store:
        for t in held:
            store.append(t)
    for place, labels in ((path, tmp_path / "some.labels"), (tmp_path / "store", tmp_path / "store" / "labels.jsonl")):
        file = LabelFile(labels)
        for who, said in (("ada", "a"), ("bob\x1b[2J", "b")):
            file.add(Label("e00", "e01", said, who))  # type: ignore[arg-type]  # "a" or "b"
            file.add(Label("e10", "e11", "a", who))
        out = run(str(place), "--summary")
        assert out.exit_code == 0, out.output
        assert "4 labels: ada 2, bob\\x1b[2J 2" in out.stdout
        assert "agreement over 2 pairs: the same answer on 50%" in out.stdout
        assert "at odds: a e00, b e01: a 1, b 1" in out.stdout
        assert "pairs: kept 1 of 2 pairs" in out.stdout
    wrong = run(str(tmp_path / "none"))
    assert wrong.exit_code == 1
    assert "there is nothing at" in wrong.stderr


def test_the_command_serves_until_ctrl_c_and_says_where_the_labels_are(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(dump_jsonl(group()))
    with label_command(path) as (command, url):
        port, place = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\S+/)", url).groups()  # type: ignore[union-attr]  # or it fails
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", place + "state")
        shown = json.loads(connection.getresponse().read())["shown"]["id"]
        body = json.dumps({"shown": shown, "label": "tie"})
        connection.request("POST", place + "label", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()
        assert len(read_labels(tmp_path / "some.labels")) == 1
        command.send_signal(signal.SIGINT)
        rest, errors = command.communicate(timeout=20)
    assert command.returncode == 0, errors
    assert "1 label of ada is in" in rest
    assert "Traceback" not in errors


def test_comparisons_of_a_large_store_are_soon_there(tmp_path: Path) -> None:
    """The queue holds what is compared, not what there is."""
    held = group(4, tasks=250)
    queue = label_pairs(lambda: iter(held), n=20, per_task=1)
    assert len(queue) == 20
    assert all(isinstance(c, LabelPair) for c in queue)
    began = time.process_time()
    one = LabelSession(queue, LabelFile(tmp_path / "l.jsonl"), labeller="ada")
    for _ in range(20):
        one.label(one.state()["shown"]["id"], "tie", "")
    assert one.state()["done"] == 20
    assert time.process_time() - began < 2
