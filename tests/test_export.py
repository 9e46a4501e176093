"""Export and import: what goes out is what comes back, what is lost is said, and what cannot be read is refused."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
import zlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring import (
    Action,
    Cause,
    ConfigError,
    DataError,
    Message,
    Outcome,
    StopReason,
    Task,
    Tokens,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
    UnknownName,
)
from sparring.agents import Decision, EpisodeSpec, rollout
from sparring.envs import make, task_set
from sparring.trajectories.curation import Pair
from sparring.trajectories.interchange import (
    Failures,
    Imported,
    chat_message,
    openai,
    parquet,
    read,
    readable,
    sharegpt,
    to_dataset,
    trl,
    write_jsonl,
)
from sparring.trajectories.messages import Role, ToolSpec
from sparring.trajectories.trajectory import Fork

TOOLS = (
    ToolSpec("find", "Find é.", {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}),
    ToolSpec("lend", "", {"type": "object", "properties": {"id": {"type": "integer"}, "to": {"enum": ["a", "b"]}}}),
)


def episode(*turns: Turn, **more: Any) -> Trajectory:
    prompt = (Message("system", "Lend."), Message("user", "Lend 'Dune' to Ada."))
    known = {"env": "Library-v0", "task": Task("Lend 'Dune' to Ada.", {"k": 1}), "prompt": prompt, "tools": TOOLS}
    known |= {"stop": StopReason.FINISHED, "reward": 1.0, "success": True}
    return Trajectory(**{"id": "e", "turns": turns, **known, **more})


def call(name: str, id: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments, id=id)


def ok(id: str, tool: str, content: str) -> ToolResult:
    return ToolResult(id, tool, Outcome.OK, content, took_effect=True)


BAD = ToolCall("find", None, '{"title": "Du', "c1", "not JSON")
STORY = episode(
    Turn(
        Action("I look.", (BAD, call("find", "c2", title="Dune"))),
        (ToolResult("c1", "find", Outcome.MALFORMED, "not JSON", cause=Cause.POLICY), ok("c2", "find", "7")),
        weight=0.0,
    ),
    Turn(Action("", (call("lend", "c3", id=7, to="a"),)), (ok("c3", "lend", ""),), (Message("user", "And?"),)),
    Turn(Action("Done.")),
)


# ------------------------------------------------------------------------------------------------- there and back again

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
NO_ARGUMENTS = ['{"a": 1, "a": 2}', '{"x": ', "NaN", '{"a": NaN}', "[1]", '{"a": 1e999}', '"{}"', "null", " ",
    '{"n": 123456789012345678901234567890}', '{"s": "\\ud800"}', "é\x00", '{"a":' * 70 + "1" + "}" * 70]  # fmt: skip


def reads_as_arguments(text: str) -> bool:
    try:
        return not text or isinstance(json.loads(text), dict)
    except ValueError:
        return False


malformed = st.sampled_from(NO_ARGUMENTS) | texts.filter(lambda t: not reads_as_arguments(t))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Any conversation that the environments can record, and some that they cannot."""
    roles: list[Role] = draw(st.lists(st.sampled_from(["system", "user"]), max_size=3))
    prompt = tuple(Message(role, draw(texts)) for role in roles)
    turns = []
    n = 0
    count = draw(st.integers(1, 4))
    for i in range(count):
        calls, results = [], []
        for _ in range(draw(st.integers(0, 3))):
            n += 1
            name = draw(st.sampled_from(["find", "lend", "made up"]) | texts)
            if draw(st.booleans()):
                calls.append(ToolCall(name, draw(st.dictionaries(texts, values, max_size=3)), id=f"c{n}"))
            else:
                calls.append(ToolCall(name, None, draw(malformed), f"c{n}", "why"))
            results.append(ToolResult(f"c{n}", name, Outcome.OK, draw(texts), inferred=True))
        if i == count - 1 and draw(st.booleans()):
            results = results[: draw(st.integers(0, 1))]  # cut off
        after = tuple(Message("user", text) for text in draw(st.lists(texts, max_size=2)))
        action = Action(draw(texts), tuple(calls))
        turns.append(Turn(action, tuple(results), after, weight=float(draw(st.booleans()))))
    return episode(*turns, prompt=prompt, success=draw(st.booleans()))


def said(t: Trajectory, *, ids: bool = True) -> list[Any]:
    """All that a form has to bring back of the messages. Why a call is malformed is not among it."""
    own = {c.id: f"{n}" for n, c in enumerate((c for turn in t.turns for c in turn.action.tool_calls), 1)}
    out = []
    for m in t.messages():
        calls = [
            (c.id if ids else own[c.id], c.name, c.arguments, c.raw if c.arguments is None else "")
            for c in m.tool_calls
        ]
        answered = m.tool_call_id if ids or m.tool_call_id is None else own[m.tool_call_id]
        out.append((m.role, m.content, calls, answered, m.name))
    return out


def back(rows: Any, form: str, path: Path) -> list[Trajectory]:
    write_jsonl(rows, path)
    return list(read(path, form).trajectories)


often = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@often
@given(t=trajectories())
def test_openai_brings_back_what_went_out(t: Trajectory, tmp_path: Path) -> None:
    (again,) = back(openai.export([t]).rows, "openai", tmp_path / "x.jsonl")
    assert said(again) == said(t)
    assert again.tools == t.tools
    assert [turn.weight for turn in again.turns] == [turn.weight for turn in t.turns]
    assert again == Trajectory.from_json(again.to_json())


@often
@given(t=trajectories(), arguments=st.sampled_from(["object", "text"]))
def test_trl_brings_back_what_went_out(t: Trajectory, arguments: Any, tmp_path: Path) -> None:
    (again,) = back(trl.sft([t], arguments=arguments).rows, "trl", tmp_path / "x.jsonl")
    assert said(again) == said(t)
    assert again.tools == t.tools
    (again,) = back(trl.unpaired([t], arguments=arguments).rows, "trl", tmp_path / "x.jsonl")
    assert said(again) == said(t)
    assert again.success is t.success
    rows = trl.prompt_completion([t], arguments=arguments).rows
    assert len(rows) == sum(turn.weight for turn in t.turns)
    for row, trained in zip(rows, (i for i, turn in enumerate(t.turns) if turn.weight), strict=True):
        (again,) = back([row], "trl", tmp_path / "x.jsonl")
        ends = sum(1 + len(u.results) + len(u.messages) for u in t.turns[:trained]) + len(t.prompt) + 1
        assert said(again) == said(t)[:ends]
        assert [turn.weight for turn in again.turns] == [0.0] * trained + [1.0]


@often
@given(t=trajectories())
def test_sharegpt_brings_back_all_but_call_ids(t: Trajectory, tmp_path: Path) -> None:
    (again,) = back(sharegpt.export([t]).rows, "sharegpt", tmp_path / "x.jsonl")
    assert said(again, ids=False) == said(t, ids=False)
    assert again.tools == t.tools


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ts=st.lists(trajectories(), min_size=1, max_size=3))
def test_parquet_brings_back_what_went_out(ts: list[Trajectory], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet.write(parquet.table(ts).rows, tmp_path / "x.parquet")
    again = read(tmp_path / "x.parquet", "trl").trajectories
    assert [said(t) for t in again] == [said(t) for t in ts]
    assert [t.success for t in again] == [t.success for t in ts]


@pytest.mark.parametrize("raw", ["", '{"name": "find", "arguments": {}}'])
def test_a_malformed_call_that_reads_as_arguments_is_reported(raw: str, tmp_path: Path) -> None:
    """Nothing in these forms tells it from a good one; a table keeps it apart."""
    t = episode(Turn(Action("", (ToolCall("find", None, raw, "c1", "no closing mark"),))))
    done = openai.export([t])
    assert any("malformed" in what and "reads as" in what for what in done.report.lost)
    (again,) = back(done.rows, "openai", tmp_path / "x.jsonl")
    assert again.turns[0].action.tool_calls[0].arguments is not None
    pytest.importorskip("pyarrow")
    parquet.write(parquet.table([t]).rows, tmp_path / "x.parquet")
    (again,) = read(tmp_path / "x.parquet", "trl").trajectories
    assert again.turns[0].action.tool_calls[0].arguments is None
    assert again.turns[0].action.tool_calls[0].raw == raw


# ---------------------------------------------------------------------------------------------------- the forms as such


def test_openai_rows_are_what_the_fine_tuning_takes() -> None:
    (row,) = openai.export([STORY]).rows
    assert row["tools"][0] == {
        "type": "function",
        "function": {"name": "find", "description": "Find é.", "parameters": TOOLS[0].parameters},
    }
    actions = [m for m in row["messages"] if m["role"] == "assistant"]
    assert [m.get("weight") for m in actions] == [0, None, None]
    sent = [c["function"]["arguments"] for m in actions for c in m.get("tool_calls", [])]
    assert sent == ['{"title": "Du', '{"title":"Dune"}', '{"id":7,"to":"a"}']
    answered = [m["tool_call_id"] for m in row["messages"] if m["role"] == "tool"]
    assert answered == ["c1", "c2", "c3"]


def test_arguments_are_objects_for_templates_and_text_for_arrow() -> None:
    def sent(row: Any) -> list[Any]:
        return [c["function"]["arguments"] for m in row["messages"] for c in m.get("tool_calls", [])]

    (as_object,), (as_text,) = trl.sft([STORY]).rows, trl.sft([STORY], arguments="text").rows
    assert sent(as_object) == ['{"title": "Du', {"title": "Dune"}, {"id": 7, "to": "a"}]
    assert sent(as_text) == ['{"title": "Du', '{"title":"Dune"}', '{"id":7,"to":"a"}']
    assert json.loads(as_object["tools"])[1]["function"]["name"] == "lend"


def test_prompt_completion_trains_the_weighted_turns_alone() -> None:
    first, second = trl.prompt_completion([STORY]).rows
    assert [m["role"] for m in first["prompt"]] == ["system", "user", "assistant", "tool", "tool"]
    assert [m["role"] for m in first["completion"]] == ["assistant"]
    assert second["completion"][0]["content"] == "Done."
    assert second["prompt"][-1] == {"role": "user", "content": "And?"}
    nothing = episode(Turn(Action("Done."), weight=0.0))
    assert trl.prompt_completion([nothing]).report.left_out == {"no turn that has weight": 1}


def test_a_preference_shares_its_prompt_up_to_the_fork() -> None:
    other = episode(STORY.turns[0], Turn(Action("Cannot.")), id="f", reward=0.0, success=False)
    pair = Pair(STORY, other, 1, "on_policy", 1.0)
    whole = trl.preference([pair])
    (row,) = whole.rows
    assert [m["role"] for m in row["prompt"]] == ["system", "user", "assistant", "tool", "tool"]
    assert [m["role"] for m in row["chosen"]] == ["assistant", "tool", "user", "assistant"]
    assert [m["content"] for m in row["rejected"]] == ["Cannot."]
    assert whole.report.came_in == 1
    assert any("tool results" in what for what in whole.report.lost)
    alone = trl.preference([pair], span="turn")
    assert [m["role"] for m in alone.rows[0]["chosen"]] == ["assistant"]
    assert not any("tool results" in what for what in alone.report.lost)


def test_a_preference_comes_back_as_two_episodes(tmp_path: Path) -> None:
    other = episode(STORY.turns[0], Turn(Action("Cannot.")), id="f", reward=0.0, success=False)
    rows = trl.preference([Pair(STORY, other, 1, "on_policy", 1.0)]).rows
    chosen, rejected = back(rows, "trl", tmp_path / "x.jsonl")
    assert said(chosen) == said(STORY)
    assert said(rejected) == said(other)
    assert (chosen.reward, rejected.reward) == (1.0, 0.0)
    assert "reward" in chosen.meta["inferred"]
    assert chosen.task == rejected.task


def test_what_a_form_cannot_hold_is_counted() -> None:
    tokens = Tokens((1, 2), (0, 1), (0.0, -0.5))
    rich = episode(
        Turn(Action("Done."), span=(1, 2), weight=0.5), tokens=tokens, faults="count=1", faults_hit=("gone",)
    )
    lost = openai.export([rich, STORY]).report.lost
    assert lost["token ids and log-probabilities"] == 1
    assert lost["faults"] == 1
    assert lost["turn weights between 0 and 1"] == 1
    assert lost["success"] == lost["stop reason"] == 2
    assert "call ids" not in lost
    assert "call ids" in sharegpt.export([STORY]).report.lost
    table = parquet.table([rich, STORY])
    assert "token ids and log-probabilities" not in table.report.lost
    assert table.rows[0]["token_ids"] == [1, 2]
    assert table.rows[0]["turns"] == [{"reward": 0.0, "weight": 0.5, "start": 1, "end": 2}]


def alternates(entries: list[dict[str, str]]) -> bool:
    """What LLaMA-Factory's reader demands: else it drops the row with a warning."""
    sides = (("human", "observation"), ("gpt", "function_call"))
    return len(entries) % 2 == 0 and all(e["from"] in sides[i % 2] for i, e in enumerate(entries))


@often
@given(ts=st.lists(trajectories(), max_size=3))
def test_llama_factory_rows_are_such_as_it_reads(ts: list[Trajectory]) -> None:
    done = sharegpt.llama_factory(ts)
    assert done.report.wrote + sum(done.report.left_out.values()) == len(ts)
    for row in done.rows:
        assert alternates(row["conversations"])
        for entry in row["conversations"]:
            if entry["from"] == "function_call":
                calls = json.loads(entry["value"])
                assert all(set(c) == {"name", "arguments"} for c in (calls if isinstance(calls, list) else [calls]))
        assert all("name" in spec for spec in json.loads(row["tools"] or "[]"))


def test_llama_factory_joins_results_and_reads_back(tmp_path: Path) -> None:
    both = (call("find", "c1", title="Dune"), call("find", "c2", title="Emma"))
    t = episode(Turn(Action("", both), (ok("c1", "find", "7"), ok("c2", "find", "8"))), Turn(Action("Done.")))
    done = sharegpt.llama_factory([t, STORY])
    assert done.report.left_out == {"a malformed call": 1}
    sharegpt.write_llama_factory(done.rows, tmp_path, "first")
    sharegpt.write_llama_factory(done.rows, tmp_path, "second")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert sorted(info) == ["first", "second"]
    assert info["first"]["columns"] == {"messages": "conversations", "system": "system", "tools": "tools"}
    (again,) = read(tmp_path / info["first"]["file_name"], "sharegpt").trajectories
    assert said(again, ids=False) == said(t, ids=False)


def test_llama_factory_keeps_what_is_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{broken")
    with pytest.raises(DataError, match="is not JSON"):
        sharegpt.write_llama_factory([], tmp_path)
    assert (tmp_path / "dataset_info.json").read_text() == "{broken"
    with pytest.raises(ConfigError, match="name"):
        sharegpt.write_llama_factory([], tmp_path, "../up")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl([{"a": 1}], path)
    with pytest.raises(DataError, match="row 2"):
        write_jsonl([{"a": 2}, {"a": "\ud800"}], path)
    assert path.read_text() == '{"a":1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure may leave the name and not the content."""
    did: list[tuple[str, bool]] = []
    sync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        did.append(("sync", stat.S_ISDIR(os.fstat(handle).st_mode)))
        sync(handle)

    def renamed(old: Any, new: Any) -> None:
        did.append(("rename", False))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_jsonl([{"a": 1}], tmp_path / "x.jsonl")
    assert did == [("sync", False), ("rename", False), ("sync", True)]


def test_datasets_keeps_each_call_as_it_is(tmp_path: Path) -> None:
    """Calls of different arguments in one column: none gets the keys of another, none becomes a date."""
    datasets = pytest.importorskip("datasets")
    dated = episode(Turn(Action("", (call("find", "c1", title="2026-01-01"),)), (ok("c1", "find", "2026-01-01"),)))
    for done in (trl.sft([STORY, dated]), trl.sft([STORY, dated], arguments="text")):
        made = to_dataset(done.rows)
        assert [dict(row) for row in made] == list(done.rows)
        made.to_parquet(tmp_path / "x.parquet")
    pairs = [Pair(STORY, episode(Turn(Action("No.")), id="f", reward=0.0, success=False), 0, "on_policy", 1.0)]
    for done in (
        trl.preference(pairs),
        trl.unpaired([STORY]),
        openai.export([STORY]),
        sharegpt.export([STORY]),
    ):
        assert [dict(row) for row in to_dataset(done.rows)] == list(done.rows)
    write_jsonl(trl.sft([dated, STORY]).rows, tmp_path / "x.jsonl")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "x.jsonl"), split="train", cache_dir=str(tmp_path / "c")
    )
    sent = [c["function"]["arguments"] for m in loaded[0]["messages"] for c in m.get("tool_calls") or ()]
    assert sent == [{"title": "2026-01-01"}]


# --------------------------------------------------------------------------------------------- what others have written


def lines(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def test_outcomes_are_not_read_out_of_text(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "Lend."},
        {"role": "user", "content": [{"type": "text", "text": "Lend"}, {"type": "text", "text": "Dune"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "find", "arguments": "{\"title\": \"Dune\"}"}},
            {"id": "b", "type": "function", "function": {"name": "lost", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "b", "content": "error: 500"},
        {"role": "tool", "tool_call_id": "a", "content": "Error: not found"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    done = read(lines(tmp_path / "x.jsonl", {"messages": messages, "tools": tools}), "openai")
    (t,) = done.trajectories
    assert [m.role for m in t.prompt] == ["system", "user"]
    assert t.task.instruction == "Lend\nDune"
    first, second = t.turns[0].results  # in the order of the calls
    assert (first.call_id, first.outcome, first.cause, first.took_effect, first.inferred) == (
        "a",
        "ok",
        None,
        None,
        True,
    )
    assert (second.outcome, second.cause, second.inferred) == (Outcome.UNKNOWN_TOOL, Cause.POLICY, True)
    assert t.success is None
    assert t.stop is StopReason.TERMINATED
    assert t.meta["inferred"] == ["outcomes", "stop"]
    assert done.report.inferred == {"outcomes": 1, "stop": 1}
    assert not t.judged
    (t,) = read(tmp_path / "x.jsonl", "openai", success=True).trajectories
    assert (t.success, t.reward) == (True, 1.0)
    assert {"success", "reward"} <= set(t.meta["inferred"])


def test_a_logged_request_and_its_response(tmp_path: Path) -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    answer = {"choices": [{"message": {"role": "assistant", "content": "Hello", "function_call": None}}]}
    for row in (
        {"request": asked, "response": answer},
        {"request": asked, "response": {"body": answer}},
        asked | answer,
    ):
        (t,) = read(lines(tmp_path / "x.jsonl", row), "openai").trajectories
        assert t.final_text == "Hello"
        assert t.stop is StopReason.FINISHED
    old = [{"role": "user", "content": "Hi"},
           {"role": "assistant", "content": "", "function_call": {"name": "find", "arguments": "{}"}},
           {"role": "function", "name": "find", "content": "7"}]  # fmt: skip
    (t,) = read(lines(tmp_path / "x.jsonl", old), "openai").trajectories
    assert t.turns[0].results[0].call_id == t.turns[0].action.tool_calls[0].id == "call-1"


def test_files_of_one_name_give_different_ids_and_the_same_tasks(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Hi"}
    made = []
    for folder, text in (("a", "Hello"), ("b", "Hey")):
        (tmp_path / folder).mkdir()
        row = {"messages": [asked, {"role": "assistant", "content": text}]}
        made.append(read(lines(tmp_path / folder / "x.jsonl", row), "openai").trajectories[0])
    again = read(tmp_path / "a" / "x.jsonl", "openai").trajectories[0]
    assert made[0].id == again.id != made[1].id
    assert made[0].task.id == made[1].task.id


def test_ids_that_begin_anew_in_each_message(tmp_path: Path) -> None:
    asks = {"role": "assistant", "tool_calls": [{"id": "0", "function": {"name": "find", "arguments": "{}"}}]}
    tells = {"role": "tool", "tool_call_id": "0", "content": "7"}
    (t,) = read(lines(tmp_path / "x.jsonl", {"messages": [asks, tells, asks, tells]}), "openai").trajectories
    ids = [c.id for turn in t.turns for c in turn.action.tool_calls]
    assert len(set(ids)) == 2
    assert [r.call_id for r in t.results()] == ids


INSPECT: dict[str, Any] = {
    "version": 2, "status": "success",
    "eval": {"run_id": "r", "task": "library", "task_id": "t", "model": "mockllm/model"},
    "samples": [{
        "id": 1, "epoch": 2, "input": "attachment://h1", "target": "7", "metadata": {"shelf": float("nan")},
        "messages": [
            {"id": "m1", "role": "user", "content": "attachment://h1", "source": "input"},
            {"id": "m2", "role": "assistant",
             "content": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "I look."}],
             "tool_calls": [
                {"id": "a", "function": "find", "arguments": {"title": "Dune"}, "type": "function"},
                {"id": "b", "function": "find", "arguments": {}, "type": "function", "parse_error": "bad JSON"},
                {"id": "c", "function": "lost", "arguments": {}, "type": "function"}]},
            {"id": "m3", "role": "tool", "tool_call_id": "a", "function": "find", "content": ""},
            {"id": "m4", "role": "tool", "tool_call_id": "b", "function": "find", "content": "",
             "error": {"type": "parsing", "message": "bad JSON"}},
            {"id": "m5", "role": "tool", "tool_call_id": "c", "function": "lost", "content": "",
             "error": {"type": "parsing", "message": "Tool lost not found"}},
            {"id": "m6", "role": "assistant", "content": "", "tool_calls": [
                {"id": "d", "function": "find", "arguments": {"title": "Dune"}, "type": "function"}]},
            {"id": "m7", "role": "tool", "tool_call_id": "d", "function": "find", "content": "",
             "error": {"type": "timeout", "message": "slow"}},
            {"id": "m8", "role": "assistant", "content": "", "tool_calls": [
                {"id": "e", "function": "find", "arguments": {"title": "Dune"}, "type": "function"}]},
            {"id": "m9", "role": "tool", "tool_call_id": "e", "function": "find", "content": "7"},
            {"id": "m10", "role": "assistant", "content": "7"}],
        "scores": {"match": {"value": "C", "answer": "7"}, "style": {"value": {"short": 0.5, "kind": float("nan")}}},
        "events": [{"event": "sample_init"}, {"event": "model", "tools": [
            {"name": "find", "description": "Find.", "parameters": {"type": "object"}}]}],
        "attachments": {"h1": "Lend 'Dune'."},
    }],
}  # fmt: skip


def eval_log(path: Path, *, zstd: bool = False, **samples: bytes) -> Path:
    """As inspect_ai lays an .eval file out: a zip of JSON; its newer versions compress with zstandard."""
    log = {k: v for k, v in INSPECT.items() if k != "samples"}
    members = {"_journal/start.json": json.dumps(log).encode(), "header.json": json.dumps(log).encode()}
    members |= {f"samples/{name}.json": text for name, text in samples.items()} or {
        "samples/1_epoch_2.json": json.dumps(INSPECT["samples"][0]).encode()
    }
    if not zstd:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        return path
    pa = pytest.importorskip("pyarrow")
    body, listing = b"", b""
    for name, text in members.items():
        packed = pa.compress(text, codec="zstd", asbytes=True)
        known = struct.pack("<HHHHHLLLHH", 20, 0, 93, 0, 33, zlib.crc32(text), len(packed), len(text), len(name), 0)
        listing += (
            b"PK\1\2" + struct.pack("<H", 20) + known + struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + name.encode()
        )
        body += b"PK\3\4" + known + name.encode() + packed
    end = struct.pack("<HHHHLLH", 0, 0, len(members), len(members), len(listing), len(body), 0)
    path.write_bytes(body + listing + b"PK\5\6" + end)
    return path


@pytest.mark.parametrize("kind", ["json", "eval", "zstd"])
def test_inspect_logs_say_how_calls_ended(kind: str, tmp_path: Path) -> None:
    if kind == "json":
        path = tmp_path / "log.json"
        path.write_text(json.dumps(INSPECT))
    else:
        path = eval_log(tmp_path / "log.eval", zstd=kind == "zstd")
    done = read(path, "inspect")
    (t,) = done.trajectories
    assert t.task.instruction == t.prompt[0].content == "Lend 'Dune'."
    assert t.turns[0].action.content == "I look."
    assert done.report.lost == {"reasoning": 1}
    ends = [(r.outcome, r.cause, r.inferred) for r in t.results()]
    assert ends == [
        (Outcome.OK, None, False),
        (Outcome.MALFORMED, Cause.POLICY, False),
        (Outcome.UNKNOWN_TOOL, Cause.POLICY, False),
        (Outcome.TIMEOUT, Cause.TOOL, False),
        (Outcome.OK, None, False),
    ]
    assert [r.content for r in t.results()] == ["", "bad JSON", "Tool lost not found", "slow", "7"]
    assert [r.retry_of for r in t.results()] == [None, None, None, None, "d"]
    assert (t.success, t.reward, t.reward_parts) == (True, 1.0, {"match": 1.0, "style/short": 0.5})
    assert (t.env, t.agent, t.attempt) == ("inspect/library", "mockllm/model", 1)
    assert [spec.name for spec in t.tools] == ["find"]
    assert "inferred" not in t.meta
    assert Trajectory.from_json(t.to_json()) == t


@pytest.mark.parametrize(
    ("more", "stop"),
    [
        ({"limit": {"type": "message", "limit": 3}}, StopReason.TURN_LIMIT),
        ({"limit": {"type": "token", "limit": 3}}, StopReason.TOKEN_LIMIT),
        ({"limit": {"type": "time", "limit": 3}}, StopReason.DEADLINE),
        ({"error": {"message": "sandbox died", "traceback": "", "traceback_ansi": ""}}, StopReason.INFRASTRUCTURE),
    ],
)
def test_inspect_samples_that_were_stopped(more: dict[str, Any], stop: StopReason, tmp_path: Path) -> None:
    sample: dict[str, Any] = dict(INSPECT["samples"][0])
    path = eval_log(tmp_path / "log.eval", s=json.dumps(sample | more).encode())
    (t,) = read(path, "inspect", success=True).trajectories
    assert t.stop is stop
    assert (t.success is None) == (not t.judged) == (stop is StopReason.INFRASTRUCTURE)


def test_verifiers_results(tmp_path: Path) -> None:
    """Version 0: one rollout a line, each call as JSON text."""
    sent = json.dumps({"id": "a", "function": {"name": "find", "arguments": '{"title": "Dune"}'}, "type": "function"})
    row = {
        "example_id": 3, "task": "library", "reward": 0.5, "generation_ms": 1.5, "answer": "7", "found": 1.0,
        "error": None,
        "prompt": [{"role": "user", "content": "Lend."}],
        "completion": [{"role": "assistant", "content": "", "tool_calls": [sent]},
                       {"role": "tool", "content": "7", "tool_call_id": "a"},
                       {"role": "assistant", "content": "Done."}],
    }  # fmt: skip
    path = lines(tmp_path / "results.jsonl", row, row | {"reward": 1.0}, row | {"error": "EngineDied()"})
    half, whole, died = read(path, "verifiers").trajectories
    assert (half.success, whole.success, died.success) == (False, True, None)
    assert (half.reward, half.reward_parts, half.task.id) == (0.5, {"found": 1.0}, "verifiers/library/3")
    assert half.meta["inferred"] == ["success", "outcomes"]
    assert half.turns[0].action.tool_calls[0] == call("find", "a", title="Dune")
    assert died.stop is StopReason.INFRASTRUCTURE
    assert not died.judged


def node(parent: int | None, message: dict[str, Any], ids: list[int], sampled: int = 0) -> dict[str, Any]:
    mask = [False] * (len(ids) - sampled) + [True] * sampled
    logprobs = [-0.5] * sampled
    return {
        "parent": parent,
        "message": message,
        "sampled": bool(sampled),
        "token_ids": ids,
        "mask": mask,
        "logprobs": logprobs,
    }


def test_verifiers_traces_bring_their_tokens(tmp_path: Path) -> None:
    """Version 1: a graph of messages for each agent."""
    sent = [{"id": "a", "type": "function", "name": "find", "arguments": '{"title": '}]
    nodes = [
        node(None, {"role": "user", "content": "Lend."}, [1, 2]),
        node(0, {"role": "assistant", "content": None, "tool_calls": sent}, [3, 4, 5], 2),
        node(1, {"role": "tool", "tool_call_id": "a", "content": "bad call"}, [6]),
        node(0, {"role": "assistant", "content": "A branch."}, [7], 1),
        node(2, {"role": "assistant", "content": "Cannot."}, [8, 9], 1),
    ]
    trace = {
        "id": "x", "nodes": nodes, "task": {"type": "T", "key": "k", "data": {"prompt": "Lend."}}, "ok": True,
        "rewards": {"exact": {"score": 1.0, "weight": 0.5}, "late": None}, "stop_condition": "max_turns",
        "agent": {"config": {"model": "m"}}, "tools": [{"type": "function", "name": "find", "parameters": {}}],
    }  # fmt: skip
    done = read(lines(tmp_path / "traces.jsonl", {"id": "e", "env": {"id": "lib"}, "traces": [trace]}), "verifiers")
    (t,) = done.trajectories
    assert t.tokens == Tokens((1, 2, 3, 4, 5, 6, 8, 9), (0, 0, 0, 1, 1, 0, 0, 1), (0, 0, 0, -0.5, -0.5, 0, 0, -0.5))
    assert [turn.span for turn in t.turns] == [(3, 5), (7, 8)]
    assert t.turns[0].results[0].outcome is Outcome.MALFORMED
    assert (t.reward, t.success, t.stop, t.agent) == (0.5, False, StopReason.TURN_LIMIT, "m")
    assert done.report.lost == {"branches of the message graph but the longest": 1}
    assert Trajectory.from_json(t.to_json()) == t


# -------------------------------------------------------------------------------------------------------- hostile input

USER = {"role": "user", "content": "Hi"}
DONE = {"role": "assistant", "content": "Done."}
ASKS: dict[str, Any] = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}
TELLS = {"role": "tool", "tool_call_id": "a", "content": "7"}

DONE_OR_SO = st.sampled_from(
    [
        USER,
        DONE,
        ASKS,
        TELLS,
        {"message": DONE, "parent": None},
        {"nodes": [{"message": DONE}]},
        {"from": "gpt", "value": "Hi"},
        {"from": "function_call", "value": "[7]"},
    ]
)

HOSTILE: dict[str, tuple[str, bytes | Any, str]] = {
    "no JSON": ("openai", b"{nonsense", "not JSON"),
    "cut off": ("openai", b'{"messages": [{"role": "us', "not JSON"),
    "no object": ("openai", 7, "expected a record as an object, got 7"),
    "no UTF-8": ("openai", b'{"messages": "\xff"}', "not JSON"),
    "a lone surrogate": ("openai", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not JSON"),
    "nested without end": ("openai", b'{"messages": ' + b"[" * 5000, "not JSON"),
    "nothing known": ("openai", {"text": "Hi"}, 'expected "messages"'),
    "no list": ("openai", {"messages": "Hi"}, "expected messages as a list"),
    "a role of nobody": ("openai", {"messages": [{"role": "wizard", "content": "Hi"}]}, "unknown role 'wizard'"),
    "no role": ("openai", {"messages": [{"content": "Hi"}]}, "unknown role None"),
    "a role that is a list": ("openai", {"messages": [{"role": ["user"]}]}, "unknown role"),
    "a number as content": ("openai", {"messages": [{"role": "user", "content": 7}]}, "expected a text as content"),
    "a picture": ("openai", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
    "a result without call": ("openai", {"messages": [USER, TELLS, DONE]}, "without its call"),
    "a result of another": ("openai", {"messages": [ASKS, TELLS | {"tool_call_id": "b"}]}, "'b'"),
    "a result twice": ("openai", {"messages": [ASKS, TELLS, TELLS]}, "without its call"),
    "a late result": ("openai", {"messages": [ASKS, USER, TELLS, DONE]}, "right after the calls"),
    "a call not answered": ("openai", {"messages": [ASKS, USER, DONE]}, "no result before the next action"),
    "two calls of one id": ("openai", {"messages": [ASKS | {"tool_calls": ASKS["tool_calls"] * 2}]}, "two calls"),
    "a call of a user": ("openai", {"messages": [ASKS | {"role": "user"}]}, "only an assistant's"),
    "a call without name": ("openai", {"messages": [ASKS | {"tool_calls": [{"id": "a"}]}]}, "a call's name"),
    "nothing done": ("openai", {"messages": [USER]}, "nothing was done"),
    "tools of text": ("openai", {"messages": [DONE], "tools": "nonsense"}, "tools are text"),
    "tools without name": ("openai", {"messages": [DONE], "tools": [{}]}, "a tool has a name"),
    "no speaker": ("sharegpt", {"conversations": [{"from": "wizard", "value": "Hi"}]}, "unknown speaker 'wizard'"),
    "no conversations": ("sharegpt", {"messages": []}, 'expected "conversations"'),
    "an observation of nothing": ("sharegpt", {"conversations": [{"from": "tool", "value": "7"}]}, "without its call"),
    "a value of none": ("sharegpt", {"conversations": [{"from": "gpt", "value": None}]}, "expected value as a text"),
    "half a preference": ("trl", {"prompt": [USER], "chosen": [DONE]}, "chosen and rejected"),
    "a label of text": ("trl", {"prompt": [USER], "completion": [DONE], "label": "good"}, "label"),
    "no verifiers row": ("verifiers", {"messages": [DONE]}, "expected traces"),
    "a graph in a circle": ("verifiers", {"nodes": [{"parent": 0, "message": DONE}]}, "node 0 has the parent 0"),
    "a trace of nothing": ("verifiers", {"traces": [{"nodes": []}]}, "without messages"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_read_is_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    form, row, why = HOSTILE[case]
    good: dict[str, Any] = {"messages": [DONE]}
    if form == "sharegpt":
        good = {"conversations": [{"from": "gpt", "value": "Done."}]}
    elif form == "verifiers":
        good = {"prompt": "Hi", "completion": "Done."}
    path = lines(tmp_path / "bad.jsonl", good)
    path.write_bytes(path.read_bytes() + b"\n" + (row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 3: ") as caught:
        read(path, form)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    done = read(path, form, skip_bad=True)
    assert len(done.trajectories) == 1
    assert done.report.left_out == {"an error in it": 1}


KEYS = """
    messages role content tool_calls function arguments name id conversations from value prompt completion chosen
    rejected nodes message traces tools eval samples scores error limit label reward rewards task data parent events
    epoch request response choices token_ids mask logprobs attachments type text weight info agent config""".split()
WORDS = ["assistant", "tool", "user", "gpt", "function_call", "", "x", "{}"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=25,
)
some = {"sharegpt": ["conversations"], "trl": ["messages", "prompt", "completion", "label"],
    "openai": ["messages", "tools", "request"],
    "verifiers": ["prompt", "completion", "nodes", "traces", "reward", "info"],
    "inspect": ["messages", "scores", "events", "limit", "error", "epoch", "attachments", "input"],
    "parquet": ["messages", "results", "turns", "meta", "stop"]}  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(sorted(readable())), bare=st.booleans(), data=st.data())
def test_no_row_brings_a_reader_down(form: str, bare: bool, data: st.DataObject, tmp_path: Path) -> None:
    """Whatever JSON is there: episodes that can be written, or the one kind of error."""
    nearly = st.dictionaries(st.sampled_from(some[form]), anything | st.lists(anything | DONE_OR_SO, max_size=3))
    row = data.draw(anything if bare else nearly)
    path = tmp_path / ("x.json" if form == "inspect" else "x.jsonl")
    path.write_text(
        json.dumps(
            {"eval": row if bare and isinstance(row, dict) else {}, "samples": [row]} if form == "inspect" else row
        )
    )
    try:
        done = read(path, form)
    except DataError as error:
        refused = str(error)
    else:
        refused = ""
        for t in done.trajectories:
            assert said(Trajectory.from_json(t.to_json())) == said(t)
    assert str(path) in refused or not refused


def test_a_megabyte_of_content_is_content(tmp_path: Path) -> None:
    long = "é\x00" * 500_000
    t = episode(Turn(Action("", (call("find", "c1", title=long),)), (ok("c1", "find", long),)), Turn(Action(long)))
    for form, done in (
        ("openai", openai.export([t])),
        ("sharegpt", sharegpt.export([t])),
        ("trl", trl.sft([t])),
    ):
        (again,) = back(done.rows, form, tmp_path / "x.jsonl")
        assert said(again, ids=False) == said(t, ids=False)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'openai'"):
        read(tmp_path / "x", "open-ai")
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "x", "openai")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path, "openai")
    (tmp_path / "x").write_bytes(b"\n\n")
    with pytest.raises(DataError, match="no episode"):
        read(tmp_path / "x", "openai")
    for content in (b"", b"PK\3\4nonsense", b"[]", b'{"samples": []}', b'{"eval": {}, "samples": 7}'):
        (tmp_path / "x.eval").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.eval"):
            read(tmp_path / "x.eval", "inspect")
    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"x\.parquet"):
        read(tmp_path / "x.parquet", "trl")


@pytest.mark.parametrize("zstd", [False, True])
def test_damaged_archives(zstd: bool, tmp_path: Path) -> None:
    whole = eval_log(tmp_path / "whole.eval", zstd=zstd).read_bytes()
    path = tmp_path / "x.eval"
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            read(path, "inspect")
            refused = "x.eval"  # nothing that matters was hit
        except DataError as error:
            refused = str(error)
        assert "x.eval" in refused
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"x\.eval"):
            read(path, "inspect")


def test_one_bad_sample_of_an_archive(tmp_path: Path) -> None:
    sample = json.dumps(INSPECT["samples"][0]).encode()
    path = eval_log(tmp_path / "x.eval", a=sample, b=b'{"id": 2, "messages": [{"role": "user", "content": "\\ud800"}]}')
    with pytest.raises(DataError, match=r"x\.eval, samples/b\.json: .*surrogate"):
        read(path, "inspect")
    assert len(read(path, "inspect", skip_bad=True).trajectories) == 1


# ----------------------------------------------------------- one suite for every form: what is dropped is never silent

Rows = list[dict[str, Any]]

ASK: dict[str, Any] = {"role": "user", "content": "Order tea."}
TWICE: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "a", "type": "function", "function": {"name": "find", "arguments": '{"title": "tea"}'}},
    {"id": "b", "type": "function", "function": {"name": "lend", "arguments": '{"id": 7}'}}]}  # fmt: skip
FOUND = {"role": "tool", "tool_call_id": "a", "name": "find", "content": "7"}
LENT = {"role": "tool", "tool_call_id": "b", "name": "lend", "content": "Error: none left"}
OVER = {"role": "assistant", "content": "Ordered."}
PLAIN = [ASK, TWICE, FOUND, LENT, OVER]


def with_fields(messages: Rows, place: int, **fields: Any) -> Rows:
    return [m | fields if i == place else m for i, m in enumerate(messages)]


def _sharegpt(messages: Rows, columns: dict[str, Any]) -> dict[str, Any]:
    entries = []
    for m in messages:
        own = {k: v for k, v in m.items() if k not in ("role", "content", "tool_calls", "tool_call_id")}
        if m.get("tool_calls"):
            sent = [c["function"] | {"arguments": json.loads(c["function"]["arguments"])} for c in m["tool_calls"]]
            entries.append({"from": "function_call", "value": json.dumps(sent), **own})
        else:
            who = {"user": "human", "assistant": "gpt", "tool": "observation"}[m["role"]]
            entries.append({"from": who, "value": m["content"], **own})
    return {"conversations": entries, **columns}


def _inspect(messages: Rows, columns: dict[str, Any]) -> dict[str, Any]:
    told = []
    for m in messages:
        own = {k: v for k, v in m.items() if k not in ("tool_calls", "name")}
        if m.get("tool_calls"):
            own["tool_calls"] = [{"id": c["id"], **c["function"]} for c in m["tool_calls"]]
            for c in own["tool_calls"]:
                c["function"] = c.pop("name")
        told.append(own | ({"function": m["name"]} if "name" in m else {}))
    sample = {"id": 1, "epoch": 1, "input": "Order tea.", "messages": told, **columns}
    return {"eval": {"task": "shop", "model": "m"}, "samples": [sample]}


def record_in(form: str, messages: Rows, columns: dict[str, Any], folder: Path) -> Path:
    """A file of a form that holds one conversation, with fields and columns that the form may not know."""
    if form == "inspect":
        path = folder / "x.json"
        path.write_text(json.dumps(_inspect(messages, columns)))
        return path
    if form == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        plain = [
            {k: v for k, v in m.items() if k in ("role", "content", "tool_calls", "tool_call_id")} for m in messages
        ]
        (row,) = parquet.table(read(lines(folder / "plain.jsonl", {"messages": plain}), "openai").trajectories).rows
        for held, m in zip(row["messages"], messages, strict=True):
            held |= {k: v for k, v in m.items() if k not in plain[0] and not held.get(k)}
        pq.write_table(pa.Table.from_pylist([row | columns]), folder / "x.parquet")
        return folder / "x.parquet"
    rows: dict[str, Any] = {
        "openai": {"messages": messages, **columns},
        "trl": {"messages": messages, **columns},
        "sharegpt": _sharegpt(messages, columns),
        "verifiers": {"prompt": messages[:1], "completion": messages[1:], **columns},
    }
    return lines(folder / "x.jsonl", rows[form])


every_form = pytest.mark.parametrize("form", sorted(readable()))
"""A new form is in this suite once `record_in` can write it."""


@every_form
def test_a_plain_record_loses_nothing(form: str, tmp_path: Path) -> None:
    done = read(record_in(form, PLAIN, {}, tmp_path), form)
    assert done.report.lost == {}
    (t,) = done.trajectories
    assert [r.content for r in t.results()] == ["7", "Error: none left"]


@every_form
@pytest.mark.parametrize(
    "thoughts",
    [
        {"reasoning_content": "Tea is hot."},
        {"reasoning": "Tea is hot."},
        {"thinking": "Tea is hot."},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Tea is hot.", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "Tea is hot."}]},
    ],
)
def test_reasoning_next_to_the_text_is_counted_or_kept(form: str, thoughts: dict[str, Any], tmp_path: Path) -> None:
    path = record_in(form, with_fields(PLAIN, 4, **thoughts), {}, tmp_path)
    done = read(path, form)
    own = form == "parquet" and "thinking" in thoughts  # a column of our own tables
    assert own or any("reasoning" in what or "thinking" in what for what in done.report.lost), str(done.report)
    assert done.trajectories[0].final_text == "Ordered."
    kept = read(path, form, reasoning="keep")
    if form != "parquet":
        assert kept.report.lost == {}
    if form != "parquet" or own:
        assert kept.trajectories[0].final_text == "Ordered."
        assert kept.trajectories[0].turns[-1].action.thinking == "Tea is hot."


@pytest.mark.parametrize("form", sorted({*readable()} - {"sharegpt", "parquet"}))
def test_reasoning_parts_are_no_text(form: str, tmp_path: Path) -> None:
    for part in (
        {"type": "thinking", "thinking": "Tea is hot."},
        {"type": "reasoning", "reasoning": "Tea is hot."},
        {"type": "reasoning", "text": "Tea is hot."},
        {"text": "Tea is hot.", "thought": True},
    ):
        messages = with_fields(PLAIN, 4, content=[part, {"type": "text", "text": "Ordered."}])
        path = record_in(form, messages, {}, tmp_path)
        done = read(path, form)
        assert done.trajectories[0].final_text == "Ordered."
        assert done.report.lost == {"reasoning": 1}
        (t,) = read(path, form, reasoning="keep").trajectories
        assert (t.final_text, t.turns[-1].action.thinking) == ("Ordered.", "Tea is hot.")
    hidden = with_fields(PLAIN, 4, content=[{"type": "redacted_thinking", "data": "xyz"}, {"text": "Ordered."}])
    done = read(record_in(form, hidden, {}, tmp_path), form, reasoning="keep")
    assert (done.trajectories[0].final_text, done.report.lost) == ("Ordered.", {"reasoning": 1})


@every_form
def test_thoughts_within_the_text_are_kept_and_do_not_decline(form: str, tmp_path: Path) -> None:
    said = "<think>I cannot find milk.</think>\n\nOrdered."
    (t,) = read(record_in(form, with_fields(PLAIN, 4, content=said), {}, tmp_path), form).trajectories
    assert t.final_text == said
    assert t.stop is StopReason.FINISHED


@every_form
@pytest.mark.parametrize("field", ["weight", "train", "training", "loss", "loss_mask"])
def test_a_turn_that_is_not_to_be_trained_weighs_nothing(form: str, field: str, tmp_path: Path) -> None:
    value: Any = 0 if field in ("weight", "loss_mask") else False
    done = read(record_in(form, with_fields(PLAIN, 1, **{field: value}), {}, tmp_path), form)
    weights = [turn.weight for turn in done.trajectories[0].turns]
    assert weights == [0.0, 1.0] or (form == "parquet" and f"message field '{field}'" in done.report.lost)


@pytest.mark.parametrize("form", ["openai", "trl", "sharegpt"])
def test_masks_next_to_the_messages(form: str, tmp_path: Path) -> None:
    def weights(columns: dict[str, Any]) -> tuple[list[float], dict[str, int]]:
        done = read(record_in(form, PLAIN, columns, tmp_path), form)
        return [turn.weight for turn in done.trajectories[0].turns], done.report.lost

    assert weights({"loss_mask": [0, 0, 0, 0, 1]}) == ([0.0, 1.0], {})  # one for each message
    assert weights({"weights": [0.5, 0]}) == ([0.5, 0.0], {})  # one for each action
    assert weights({"weight": 0.5}) == ([0.5, 0.5], {})  # of the whole record
    assert weights({"train": False}) == ([0.0, 0.0], {})
    found, lost = weights({"loss_mask": [0] * 57})  # of tokens, perhaps
    assert found == [1.0, 1.0]
    assert list(lost) == ["column 'loss_mask' (it fits neither the messages nor the actions)"]
    _, lost = weights({"loss_mask": [1, 1, 1, 1, 1]})
    assert list(lost) == ["weight of a message that is not the agent's"]


@every_form
def test_weights_that_contradict_each_other_are_refused(form: str, tmp_path: Path) -> None:
    path = record_in(form, with_fields(PLAIN, 1, weight=0, train=True), {}, tmp_path)
    with pytest.raises(DataError, match="weight is 0 and train is 1"):
        read(path, form)


@every_form
def test_what_no_reader_knows_is_counted_by_name(form: str, tmp_path: Path) -> None:
    columns = {"quality_rank": 3, "rejected_response": "No."}
    done = read(record_in(form, with_fields(PLAIN, 4, mood="merry"), columns, tmp_path), form)
    assert sorted(what.split()[-1] for what in done.report.lost) == [
        "'mood'",
        "'quality_rank'",
        "'rejected_response'",
    ] or (form == "verifiers" and done.trajectories[0].reward_parts == {"quality_rank": 3.0})


@every_form
def test_a_preference_is_two_episodes_or_is_counted(form: str, tmp_path: Path) -> None:
    good, poor = {"role": "assistant", "content": "Sure."}, {"role": "assistant", "content": "No."}
    columns: dict[str, Any] = {"chosen": good, "rejected": poor}
    if form == "sharegpt":
        columns = {side: {"from": "gpt", "value": m["content"]} for side, m in columns.items()}
    messages = [*PLAIN, {"role": "user", "content": "And sugar?"}]
    done = read(record_in(form, messages, columns, tmp_path), form)
    if form in ("openai", "sharegpt"):
        chosen, rejected = done.trajectories
        assert (chosen.final_text, rejected.final_text) == ("Sure.", "No.")
        assert (chosen.reward, rejected.reward) == (1.0, 0.0)
        assert [turn.weight for turn in chosen.turns] == [0.0, 0.0, 1.0]
        assert chosen.task == rejected.task
        assert (chosen.attempt, rejected.attempt) == (0, 1)
    else:
        assert {what.split()[-1] for what in done.report.lost} == {"'chosen'", "'rejected'"}


@pytest.mark.parametrize("form", sorted({*readable()} - {"inspect", "parquet"}))
def test_tools_of_old_are_tools(form: str, tmp_path: Path) -> None:
    spec = {"name": "find", "description": "Find.", "parameters": {"type": "object"}}
    (t,) = read(record_in(form, PLAIN, {"functions": [spec]}, tmp_path), form).trajectories
    assert t.tools == (ToolSpec("find", "Find.", {"type": "object"}),)
    assert [r.outcome for r in t.results()] == [Outcome.OK, Outcome.UNKNOWN_TOOL]
    search = {"type": "web_search"}
    done = read(record_in(form, PLAIN, {"tools": [search, {"type": "function", "function": spec}]}, tmp_path), form)
    assert ([s.name for s in done.trajectories[0].tools], list(done.report.lost)) == (
        ["find"],
        ["tool of type 'web_search'"],
    )


@pytest.mark.parametrize("form", sorted({*readable()} - {"sharegpt", "parquet"}))
def test_results_go_to_their_calls_by_id_then_by_name(form: str, tmp_path: Path) -> None:
    def without(*fields: str) -> Rows:
        return [{k: v for k, v in m.items() if m["role"] != "tool" or k not in fields} for m in PLAIN]

    for messages in (PLAIN, without("name"), without("tool_call_id")):
        turned = [*messages[:2], messages[3], messages[2], messages[4]]
        (t,) = read(record_in(form, turned, {}, tmp_path), form).trajectories
        assert [(r.call_id, r.tool, r.content) for r in t.results()] == [
            ("a", "find", "7"),
            ("b", "lend", "Error: none left"),
        ]
    with pytest.raises(DataError, match="2 results without tool_call_id for 2 calls: which is whose cannot be told"):
        read(record_in(form, without("name", "tool_call_id"), {}, tmp_path), form)
    same = json.loads(json.dumps(without("tool_call_id")).replace('"lend"', '"find"'))
    with pytest.raises(DataError, match="2 results of 'find' without tool_call_id for 2 calls"):
        read(record_in(form, same, {}, tmp_path), form)
    other = with_fields(without("tool_call_id"), 3, name="pay")
    with pytest.raises(DataError, match=r"'pay'.* without its call"):
        read(record_in(form, other, {}, tmp_path), form)


def test_results_that_only_their_order_gives_to_calls_are_inferred(tmp_path: Path) -> None:
    nameless = [{k: v for k, v in m.items() if k != "name"} for m in PLAIN]
    done = read(lines(tmp_path / "x.jsonl", _sharegpt(nameless, {})), "sharegpt")
    assert [r.tool for r in done.trajectories[0].results()] == ["find", "lend"]
    assert done.report.inferred["which result is of which call (by their order)"] == 1


@every_form
def test_our_limits_are_not_the_policys_fault(form: str, tmp_path: Path) -> None:
    """JSON that others carry out and that no record of ours can hold: kept as text, counted, no malformed call."""
    for text in ('{"id": 123456789012345678901234567890}', '{"id": 1, "id": 2}', '{"id":' * 70 + "1" + "}" * 70):
        if form == "sharegpt" and "2}" in text:
            continue  # the value of a function_call is parsed before
        sent = {"id": "a", "type": "function", "function": {"name": "find", "arguments": text}}
        messages = [ASK, {"role": "assistant", "content": "", "tool_calls": [sent]}, FOUND, OVER]
        done = read(record_in(form, messages, {}, tmp_path), form)
        (result,) = done.trajectories[0].results()
        assert (result.outcome, result.cause) == (Outcome.OK, None)
        (made,) = done.trajectories[0].turns[0].action.tool_calls
        assert json.loads(made.raw) == json.loads(text)
        assert any("kept as text" in what for what in done.report.lost)


def test_an_object_of_arguments_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    sent = '{"name": "find", "arguments": {"id": 123456789012345678901234567890}}'
    path.write_text(f'{{"messages": [{{"role": "assistant", "tool_calls": [{{"id": "a", "function": {sent}}}]}}]}}\n')
    (t,) = read(path, "trl").trajectories
    assert "123456789012345678901234567890" in t.turns[0].action.tool_calls[0].raw


@pytest.mark.parametrize("field", ["is_error", "isError"])
def test_results_that_say_themselves_that_they_failed(field: str, tmp_path: Path) -> None:
    messages = with_fields(with_fields(PLAIN, 3, **{field: True}), 2, **{field: False})
    done = read(record_in("openai", messages, {}, tmp_path), "openai")
    assert [(r.outcome, r.cause, r.inferred) for r in done.trajectories[0].results()] == [
        (Outcome.OK, None, False),
        (Outcome.TOOL_ERROR, Cause.TOOL, False),
    ]
    assert "inferred" not in done.trajectories[0].meta


FAILED = [(Outcome.OK, None, False), (Outcome.TOOL_ERROR, Cause.TOOL, False)]


@pytest.mark.parametrize("form", ["openai", "trl", "verifiers", "sharegpt"])
@pytest.mark.parametrize(
    ("errors", "prefixes", "fields"),
    [
        (["^Error"], [], {}),
        (["/none left/"], [], {}),
        ([], ["Error:"], {}),
        (["failed"], [], {"failed": True}),
        (["failed"], [], {"failed": "yes"}),
        (["!fine"], [], {"fine": False}),
        (["how=error"], [], {"how": "error"}),
        (["extra.code=500"], [], {"extra": {"code": 500}}),
        (["content_is_json.error"], [], {"content": '{"content_is_json": {"error": "none left"}}'}),
        (["nothing like it.", "none left"], [], {}),
    ],
)
def test_what_a_failed_result_looks_like_is_declared(
    form: str, errors: list[str], prefixes: list[str], fields: dict[str, Any], tmp_path: Path
) -> None:
    messages = with_fields(PLAIN, 3, **fields)
    if "fine" in fields:
        messages = with_fields(messages, 2, fine=True)
    path = record_in(form, messages, {}, tmp_path)
    done = read(path, form, failures=Failures.parse(errors, prefixes))
    assert [(r.outcome, r.cause, r.inferred) for r in done.trajectories[0].results()] == FAILED
    assert not any("ended is not told" in warning for warning in done.report.warnings)


def test_a_field_that_no_result_has_declares_nothing(tmp_path: Path) -> None:
    path = record_in("openai", PLAIN, {}, tmp_path)
    with pytest.raises(DataError, match=r"no result has a field 'Error'.*--errors '/Error/'"):
        read(path, "openai", failures=Failures.parse(["Error"]))
    with pytest.raises(ConfigError, match="regular expression"):
        Failures.parse(["(unclosed"])


def test_a_declared_failure_of_a_call_that_tells_of_what(tmp_path: Path) -> None:
    tools = [{"name": "find", "parameters": {}}]
    path = record_in("openai", PLAIN, {"functions": tools}, tmp_path)
    (t,) = read(path, "openai", failures=Failures.parse(["^Error"])).trajectories
    assert [(r.outcome, r.inferred) for r in t.results()] == [(Outcome.OK, False), (Outcome.UNKNOWN_TOOL, False)]


@every_form
def test_the_caller_names_task_attempt_and_success(form: str, tmp_path: Path) -> None:
    columns = {"about": {"task": "t7"}, "which": "3", "score": 1.0}
    path = record_in(form, PLAIN, columns, tmp_path)
    done = read(path, form, task_key="about.task", attempt_key="which", success_key="score")
    (t,) = done.trajectories
    assert (t.task.id, t.attempt, t.success) == ("t7", 3, True)
    assert "success" not in t.meta.get("inferred", ())
    assert not any("prompt" in warning or "success" in warning for warning in done.report.warnings)
    with pytest.raises(DataError, match=r"nothing at 'about\.name', which --task-key names; there is .*about"):
        read(path, form, task_key="about.name")
    with pytest.raises(DataError, match="expected a number of 0 or more as about"):
        read(path, form, attempt_key="about")


def test_tasks_that_only_their_prompt_tells_apart_are_warned_of(tmp_path: Path) -> None:
    """50 tasks four times, the user's words a little different each time: by prompts that is not 50 tasks."""
    rows = [
        {"task": n % 50, "trial": n // 50, "messages": [{"role": "user", "content": f"Do {n % 50}, at {n % 7}"}, OVER]}
        for n in range(200)
    ]
    path = lines(tmp_path / "x.jsonl", *rows)
    by_prompt = read(path, "openai")
    tasks = {t.task.id for t in by_prompt.trajectories}
    assert len(tasks) > 50
    assert any(
        f"makes {len(tasks)} tasks" in warning and "--task-key" in warning for warning in by_prompt.report.warnings
    )
    told = read(path, "openai", task_key="task")
    assert len({t.task.id for t in told.trajectories}) == 50
    assert {t.attempt for t in told.trajectories} == {0, 1, 2, 3}
    assert not any("--task-key" in warning for warning in told.report.warnings)


def test_attempts_that_nobody_numbers_are_numbered_past_those_that_are(tmp_path: Path) -> None:
    rows = [{"task_id": "t", "messages": [ASK, OVER]} | ({"attempt": 0} if n == 2 else {}) for n in range(4)]
    done = read(lines(tmp_path / "x.jsonl", *rows), "openai")
    assert [t.attempt for t in done.trajectories] == [1, 2, 0, 3]


def test_each_choice_of_a_response_is_an_attempt(tmp_path: Path) -> None:
    choices = [
        {"message": {"role": "assistant", "content": text}, "finish_reason": why}
        for text, why in (("Tea.", "stop"), ("Milk and", "length"))
    ]
    row: dict[str, Any] = {"request": {"messages": [ASK]}, "response": {"choices": choices}}
    first, second = read(lines(tmp_path / "x.jsonl", row), "openai").trajectories
    assert (first.final_text, first.attempt, first.stop) == ("Tea.", 0, StopReason.FINISHED)
    assert (second.final_text, second.attempt, second.stop) == ("Milk and", 1, StopReason.TOKEN_LIMIT)
    died = row | {"response": None, "error": {"message": "503"}, "request": {"messages": [ASK, OVER, ASK]}}
    (t,) = read(lines(tmp_path / "x.jsonl", died), "openai", success=True).trajectories
    assert (t.stop, t.success, t.error) == (StopReason.INFRASTRUCTURE, None, "503")


def test_openais_own_preferences_and_a_system_column(tmp_path: Path) -> None:
    row = {
        "input": {"messages": [ASK], "tools": []},
        "preferred_output": [{"role": "assistant", "content": "Tea."}],
        "non_preferred_output": [{"role": "assistant", "content": "Milk."}],
    }
    chosen, rejected = read(lines(tmp_path / "x.jsonl", row), "openai").trajectories
    assert (chosen.final_text, rejected.final_text) == ("Tea.", "Milk.")
    (t,) = read(lines(tmp_path / "x.jsonl", {"system": "Be kind.", "messages": [ASK, OVER]}), "openai").trajectories
    assert [m.role for m in t.prompt] == ["system", "user"]


def test_a_call_by_another_name_for_arguments_is_never_empty(tmp_path: Path) -> None:
    for name in ("parameters", "args", "input"):
        sent = [{"id": "a", "function": {"name": "find", name: {"title": "tea"}}}]
        row = {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": sent}]}
        (t,) = read(lines(tmp_path / "x.jsonl", row), "openai").trajectories
        assert t.turns[0].action.tool_calls[0].arguments == {"title": "tea"}
        entry = {"from": "function_call", "value": json.dumps({"name": "find", name: {"title": "tea"}})}
        (t,) = read(lines(tmp_path / "x.jsonl", {"conversations": [entry]}), "sharegpt").trajectories
        assert t.turns[0].action.tool_calls[0].arguments == {"title": "tea"}


def test_a_refusal_of_the_model_is_what_it_said(tmp_path: Path) -> None:
    refusal = "I will not."
    message: dict[str, Any]
    for message in (
        {"role": "assistant", "content": None, "refusal": refusal},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": refusal}]},
        {"role": "assistant", "content": refusal, "refusal": refusal},
    ):
        done = read(lines(tmp_path / "x.jsonl", {"messages": [ASK, message]}), "openai")
        assert (done.trajectories[0].final_text, done.trajectories[0].stop) == (refusal, StopReason.DECLINED)
    for message in (
        {"role": "assistant", "content": None, "audio": {"id": "x", "transcript": "Tea."}},
        {"role": "assistant", "content": [{"type": "output_audio", "transcript": "Tea."}]},
    ):
        done = read(lines(tmp_path / "x.jsonl", {"messages": [ASK, message]}), "openai")
        assert done.trajectories[0].final_text == "Tea."
        assert list(done.report.lost) == ["sound (its transcript is read)"]
    with pytest.raises(DataError, match="without its transcript"):
        read(lines(tmp_path / "x.jsonl", {"messages": [ASK, {"role": "assistant", "audio": {"id": "x"}}]}), "openai")


def test_a_batch_that_was_cut_in_its_middle_is_refused(tmp_path: Path) -> None:
    """Results are held in the order of the calls: one that is missing in the middle would shift the others."""
    messages = [ASK, TWICE, LENT]
    with pytest.raises(DataError, match="a call got no result, and 'b' after it did"):
        read(lines(tmp_path / "x.jsonl", {"messages": messages}), "openai")
    (t,) = read(lines(tmp_path / "x.jsonl", {"messages": [ASK, TWICE, FOUND]}), "openai").trajectories
    assert [r.call_id for r in t.results()] == ["a"]


def test_turns_that_say_nothing_are_warned_of(tmp_path: Path) -> None:
    done = read(lines(tmp_path / "x.jsonl", {"messages": [ASK, {"role": "assistant", "content": None}]}), "openai")
    assert any(warning.startswith("1 turns say nothing") for warning in done.report.warnings)


def test_success_that_is_null_is_not_judged(tmp_path: Path) -> None:
    rows = [{"won": won, "n": 1.0, "messages": [ASK, OVER]} for won in (None, 0.5, 1, True)]
    done = read(lines(tmp_path / "x.jsonl", *rows), "openai", success_key="won", task_key="n")
    assert [t.success for t in done.trajectories] == [None, False, True, True]
    assert {t.task.id for t in done.trajectories} == {"1"}
    with pytest.raises(DataError, match="expected true, false, a number or null as won, got 'yes'"):
        read(lines(tmp_path / "x.jsonl", rows[0] | {"won": "yes"}), "openai", success_key="won")


# ------------------------------------------------------------------- the report of an export names exactly what is lost

RICH = replace(
    STORY,
    turns=(
        replace(STORY.turns[0], span=(2, 4)),
        replace(STORY.turns[1], span=(5, 6)),
        replace(STORY.turns[2], span=(7, 8), reward=0.5),
    ),
    tokens=Tokens(tuple(range(8)), (0, 0, 1, 1, 0, 1, 0, 1), (0.0, 0.0, -0.5, -0.5, 0.0, -0.5, 0.0, -0.5)),
    reward_parts={"found": 1.0},
)


def _first_turn(t: Trajectory, **more: Any) -> Trajectory:
    return replace(t, turns=(replace(t.turns[0], **more), *t.turns[1:]))


def _first_result(t: Trajectory, **more: Any) -> Trajectory:
    results = t.turns[0].results
    return _first_turn(t, results=(replace(results[0], **more), *results[1:]))


def _second_result(t: Trajectory, **more: Any) -> Trajectory:
    results = t.turns[0].results
    return _first_turn(t, results=(results[0], replace(results[1], **more)))


def _second_call(t: Trajectory, **more: Any) -> Trajectory:
    calls = t.turns[0].action.tool_calls
    return _first_turn(t, action=replace(t.turns[0].action, tool_calls=(calls[0], replace(calls[1], **more))))


def _bad_call(t: Trajectory, **more: Any) -> Trajectory:
    calls = t.turns[0].action.tool_calls
    return _first_turn(t, action=replace(t.turns[0].action, tool_calls=(replace(calls[0], **more), calls[1])))


CHANGES: dict[str, tuple[str, Trajectory]] = {
    "id": ("task, environment, agent and attempt", replace(RICH, id="other")),
    "env": ("task, environment, agent and attempt", replace(RICH, env="Other-v0")),
    "agent": ("task, environment, agent and attempt", replace(RICH, agent="other")),
    "attempt": ("task, environment, agent and attempt", replace(RICH, attempt=3)),
    "task.id": ("task, environment, agent and attempt", replace(RICH, task=replace(RICH.task, id="x"))),
    "task.kind": ("task, environment, agent and attempt", replace(RICH, task=replace(RICH.task, kind="x"))),
    "task.level": ("task, environment, agent and attempt", replace(RICH, task=replace(RICH.task, level=3))),
    "task.seed": ("seeds, expert's turns and policy version", replace(RICH, task=replace(RICH.task, seed=3))),
    "task.data": ("task data", replace(RICH, task=replace(RICH.task, data={"k": 2}))),
    "task.instruction": (
        "instruction (no message says it)", replace(RICH, task=replace(RICH.task, instruction="Be good.")),
    ),
    "seed": ("seeds, expert's turns and policy version", replace(RICH, seed=3)),
    "policy_version": ("seeds, expert's turns and policy version", replace(RICH, policy_version=3)),
    "expert_turns": ("seeds, expert's turns and policy version", replace(RICH, expert_turns=3)),
    "stop": ("stop reason", replace(RICH, stop=StopReason.TURN_LIMIT)),
    "success": ("success", replace(RICH, success=False)),
    "reward": ("rewards", replace(RICH, reward=0.25)),
    "reward_parts": ("rewards", replace(RICH, reward_parts={"found": 0.5})),
    "turn.reward": ("rewards", _first_turn(RICH, reward=0.25)),
    "turn.weight": ("turn weights", _first_turn(RICH, weight=1.0)),
    "turn.weight of a half": ("turn weights between 0 and 1|turn weights", _first_turn(RICH, weight=0.5)),
    "turn.span": ("token ids and log-probabilities", _first_turn(RICH, span=(2, 3))),
    "tokens": ("token ids and log-probabilities", replace(RICH, tokens=None)),
    "faults": ("faults", replace(RICH, faults="count=1@0")),
    "faults_hit": ("faults", replace(RICH, faults_hit=("gone",))),
    "forked_from": ("lineage", replace(RICH, forked_from=Fork("p", 1))),
    "thinking": ("thinking", _first_turn(RICH, action=replace(RICH.turns[0].action, thinking="Hm."))),
    "temperature": ("sampling temperature", replace(RICH, temperature=0.5)),
    "error": ("error that ended the episode", replace(RICH, error="503")),
    "meta": ("notes (meta)", replace(RICH, meta={"limits": 3})),
    "result.outcome": ("calls' outcomes and causes", _first_result(RICH, outcome=Outcome.TOOL_ERROR)),
    "result.cause": ("calls' outcomes and causes", _first_result(RICH, cause=Cause.TOOL)),
    "result.took_effect": ("calls' outcomes and causes", _first_result(RICH, took_effect=None)),
    "result.fault": ("calls' outcomes and causes", _first_result(RICH, fault="gone")),
    "result.retry_of": ("calls' outcomes and causes", _first_result(RICH, retry_of="c1")),
    "result.error": ("calls' outcomes and causes", _first_result(RICH, error="Traceback")),
    "result.retry_after": ("calls' outcomes and causes", _first_result(RICH, retry_after=3)),
    "result.inferred": ("calls' outcomes and causes", _first_result(RICH, inferred=True)),
    "result.value": ("results' raw values", _first_result(RICH, value=[7])),
    "call.raw": ("well-formed calls' sampled text", _second_call(RICH, raw='{"title" :"Dune"}')),
    "call.error": ("why calls are malformed", _bad_call(RICH, error="cut")),
    "call.raw that reads as arguments": (
        "that a call is malformed (its text reads as arguments)",
        _second_call(RICH, arguments=None, raw='{"title":"Dune"}', error="no end"),
    ),
    "prompt": ("", replace(RICH, prompt=(*RICH.prompt, Message("user", "Please.")))),
    "prompt's role": (
        "that messages of the agent are the prompt's",
        replace(RICH, prompt=(*RICH.prompt, Message("assistant", "Yes?"))),
    ),
    "name": ("speakers' names", replace(RICH, prompt=(RICH.prompt[0], replace(RICH.prompt[1], name="Ada")))),
    "tools": ("", replace(RICH, tools=TOOLS[:1])),
    "call.name": ("", _second_call(_second_result(RICH, tool="lend"), name="lend")),
    "call.arguments": ("", _second_call(RICH, arguments={"title": "Emma"})),
    "content": ("", _first_turn(RICH, action=replace(RICH.turns[0].action, content="I see."))),
    "result.content": ("", _first_result(RICH, content="not JSON!")),
    "turn.messages": ("", _first_turn(RICH, messages=(Message("user", "And?"),))),
}  # fmt: skip

UNVARIED = {"result.call_id", "call.id", "result.tool", "result.latency_s", "schema_version", "role", "tool_calls"}


def test_every_field_of_an_episode_is_varied() -> None:
    """A field that is new has to be said of each form whether it holds it."""
    named = {name.split(" of ")[0].split(" that ")[0].removeprefix("prompt's ").split(".")[-1] for name in CHANGES}
    named |= {name.split(".")[-1] for name in UNVARIED} | {"task", "turns", "action", "results", "outcome"}
    kinds = (Trajectory, Task, Turn, Action, ToolCall, ToolResult, Message)
    assert {f.name for kind in kinds for f in fields(kind)} - named == {"tool_call_id"}  # the call's id, on both sides


EXPORTS = {
    "openai": lambda t: openai.export([t]),
    "sharegpt": lambda t: sharegpt.export([t]),
    "trl-sft": lambda t: trl.sft([t]),
    "trl-unpaired": lambda t: trl.unpaired([t]),
    "parquet": lambda t: parquet.table([t]),
}


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_report_names_what_the_rows_do_not_hold_and_nothing_else(form: str, change: str) -> None:
    """Two episodes that differ in one field: their rows differ, or the report says that the field is lost."""
    what, other = CHANGES[change]
    of = _first_turn(RICH, weight=1.0) if change == "turn.weight of a half" else RICH
    one, two = EXPORTS[form](of), EXPORTS[form](other)
    lost = {*one.report.lost, *two.report.lost} & {*what.split("|")}
    assert (one.rows == two.rows) == bool(lost) or (one.rows != two.rows and what in PARTLY[form])


_SIDES = "that messages of the agent are the prompt's"
_READS = "that a call is malformed (its text reads as arguments)"
PARTLY: dict[str, set[str]] = {"openai": {_SIDES}, "sharegpt": {_SIDES, _READS}, "trl-sft": {_SIDES, _READS},
    "trl-unpaired": {_SIDES, _READS}, "parquet": {_SIDES}}  # fmt: skip
"""What rows show, and no reader of the form can tell."""


@pytest.mark.parametrize("change", [c for c, (what, _) in CHANGES.items() if c != "prompt's role"])
def test_a_table_is_read_back_whole(change: str, tmp_path: Path) -> None:
    """All that Parquet holds comes back, tokens, outcomes and faults too: what does not is in the report."""
    pytest.importorskip("pyarrow")
    t = CHANGES[change][1]
    done = parquet.table([t, replace(RICH, id="other one")])
    parquet.write(done.rows, tmp_path / "x.parquet")
    again = read(tmp_path / "x.parquet", "parquet")
    assert again.report.lost == again.report.inferred == {} or change == "result.inferred"
    bare = replace(t, forked_from=None)
    turns = []
    for turn in bare.turns:
        calls = tuple(c if c.arguments is None else replace(c, raw="") for c in turn.action.tool_calls)
        results = tuple(replace(r, value=None) for r in turn.results)
        turns.append(replace(turn, action=replace(turn.action, tool_calls=calls), results=results))
    assert again.trajectories[0] == replace(bare, turns=tuple(turns))


def test_an_episode_without_a_turn_is_written_to_a_table_alone(tmp_path: Path) -> None:
    t = episode(stop=StopReason.INFRASTRUCTURE, success=None, error="503")
    for form in ("openai", "sharegpt", "trl-sft", "trl-unpaired"):
        done = EXPORTS[form](t)
        assert (done.rows, sum(done.report.left_out.values())) == ((), 1)
    pytest.importorskip("pyarrow")
    parquet.write(parquet.table([t]).rows, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", "parquet").trajectories == (t,)


def test_tables_of_others_are_refused_in_a_line(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([{"messages": [DONE]}]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 1: no table of .sparring export.*--from trl"):
        read(tmp_path / "x.parquet", "parquet")
    (row,) = parquet.table([STORY]).rows
    wrong: dict[str, Any] = {"turns": [], "stop": "tired", "meta": "{", "seed": "x", "results": [{"call_id": "c1"}],
        "task_id": 7, "messages": None, "faults_hit": [7], "attempt": "x"}  # fmt: skip
    for name, value in wrong.items():
        pq.write_table(pa.Table.from_pylist([row | {name: value}]), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"x\.parquet, row 1: "):
            read(tmp_path / "x.parquet", "parquet")


# --------------------------------------------------------------------------------------- rows that a service refuses

REFUSED: dict[str, tuple[Trajectory, str]] = {
    "ends with a result": (episode(Turn(Action("", (call("find", "c1"),)), (ok("c1", "find", "7"),))),
        "a last message"),
    "ends with a call": (episode(Turn(Action("", (call("find", "c1"),)))), "results that are not those"),
    "says nothing": (episode(Turn(Action(""))), "without text or call"),
    "all of weight 0": (episode(Turn(Action("Done."), weight=0.0)), "that is trained"),
    "a malformed call": (STORY, "arguments that are no JSON object"),
    "an odd name": (
        episode(Turn(Action("", (call("find it", "c1"),)), (ok("c1", "find it", "7"),)), Turn(Action("Done."))),
        "names of tools"),
    "too many tools": (episode(Turn(Action("Done.")), tools=tuple(ToolSpec(f"t{i}", "", {}) for i in range(129))),
        "more than 128 tools"),
    "tools of one name": (episode(Turn(Action("Done.")), tools=(TOOLS[0], TOOLS[0])), "two tools of one name"),
    "a long description": (episode(Turn(Action("Done.")), tools=(ToolSpec("t", "x" * 1025, {}),)), "beyond 1024"),
    "an empty prompt": (episode(Turn(Action("Done.")), prompt=(Message("user", ""),)), "an empty message of the"),
    "two of one role": (episode(Turn(Action("So.")), Turn(Action("Done."))), "of one role in a row (Together)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_an_upload_refuses_are_named_or_left_out(case: str) -> None:
    t, why = REFUSED[case]
    good = episode(Turn(Action("", (call("find", "c1"),)), (ok("c1", "find", "7"),)), Turn(Action("Done.")))
    done = openai.export([good, t])
    assert len(done.rows) == 2
    assert [at for reason, at in done.report.refused.items() if why in reason] == [[2]]
    assert "an upload is refused for" in str(done.report)
    assert "row 2" in str(done.report)
    kept = openai.export([good, t], skip_refused=True)
    assert kept.rows == openai.export([good]).rows
    assert sum(kept.report.left_out.values()) == 1
    assert kept.report.refused == openai.export([good]).report.refused == {}


def test_what_llama_factory_and_trl_drop_is_said() -> None:
    cut = episode(Turn(Action("", (call("find", "c1"),)), (ok("c1", "find", "7"),)))
    assert sharegpt.llama_factory([cut]).report.lost["what came after the last action"] == 1
    joined = episode(Turn(Action("Done.")), prompt=(Message("user", "Hi."), Message("user", "Lend.")))
    assert sharegpt.llama_factory([joined]).report.lost["where one joined message ends and the next begins"] == 1
    assert trl.prompt_completion([cut]).report.lost["what came after the last trained turn"] == 1
    assert trl.prompt_completion([STORY]).report.lost["which rows are of one episode"] == 1
    other = replace(cut, id="f", tools=())
    pairs = [Pair(cut, other, 0, "on_policy", 1.0)]
    lost = trl.preference(pairs, span="turn").report.lost
    assert lost["what came after the first action that differs"] == 2
    assert lost["tools of the rejected side"] == 1


class Mine:
    """An agent of a user's own: its endpoint gives calls their ids, and wants results to name them."""

    name, parallel, version = "mine", 1, 0

    def __init__(self) -> None:
        self.told: list[str | None] = []

    def begin(self, env: Any, seed: int) -> Mine:
        return self

    async def act(self, observation: Any) -> Decision:
        results = [m.openai() for m in observation.messages if m.role == "tool"]
        self.told += [m["tool_call_id"] for m in results]
        if results:
            return Decision(Action("Done."))
        sent = {"id": "call_Xy1", "function": {"name": observation.tools[0].name, "arguments": '{"word": "tea"}'}}
        own = chat_message({"role": "assistant", "content": None, "tool_calls": [sent]}).message
        return Decision(Action(own.content, own.tool_calls))

    def resume(self, parent: Trajectory, fork: int) -> tuple[Turn, ...]:
        raise NotImplementedError

    def tokens(self) -> None:
        return None

    def close(self) -> None:
        pass


def test_call_ids_survive_an_agent_of_the_users_own(tmp_path: Path) -> None:
    """From its own endpoint, through the environment and back to it, into the record, out to a file and in again."""
    mine = Mine()
    (played,) = rollout("echo", mine, [EpisodeSpec(task_set(make("echo"), "test", 1)[0])])
    assert mine.told == ["call_Xy1"]
    (again,) = back(openai.export([played]).rows, "openai", tmp_path / "x.jsonl")
    assert [r.call_id for r in again.results()] == ["call_Xy1"]


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def app() -> typer.Typer:
    from sparring.cli.export import export as write
    from sparring.cli.import_ import import_

    app = typer.Typer(rich_markup_mode=None)
    app.command("export")(write)
    app.command("import")(import_)
    return app


def test_the_commands_export_and_import(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(STORY.to_json() + b"\n")
    runner = CliRunner()
    for form, source in (("trl-sft", "trl"), ("openai", "openai"), ("sharegpt", "sharegpt"), ("trl-unpaired", "trl")):
        out, again = tmp_path / f"{form}.jsonl", tmp_path / f"{form}-back.jsonl"
        done = runner.invoke(app, ["export", str(tmp_path / "in.jsonl"), "--to", form, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "not held" in done.stderr
        done = runner.invoke(app, ["import", str(out), "--from", source, "--out", str(again)])
        assert done.exit_code == 0, done.output
        assert "inferred" in done.stderr
        assert said(Trajectory.from_json(again.read_bytes()), ids=False) == said(STORY, ids=False)


def test_the_command_keeps_what_is_asked_for(app: typer.Typer, tmp_path: Path) -> None:
    failed = episode(Turn(Action("Cannot.")), id="f", reward=0.0, success=False)
    (tmp_path / "in.jsonl").write_bytes(STORY.to_json() + b"\n" + failed.to_json() + b"\n")
    asked = ["export", str(tmp_path / "in.jsonl"), "--to", "trl-prompt-completion", "--keep", "gold"]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out.jsonl")])
    assert done.exit_code == 0, done.output
    assert "kept 1 of 2" in done.stderr
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2
    only_bad = [*asked[:3], "llama-factory", "--out", str(tmp_path / "lf"), "--keep", "successes"]
    done = CliRunner().invoke(app, only_bad)
    assert isinstance(done.exception, DataError)
    assert "nothing is left" in str(done.exception)
    assert not (tmp_path / "lf").exists()


def test_the_command_pairs_groups(app: typer.Typer, tmp_path: Path) -> None:
    tokens = Tokens((1, 2), (0, 1), (0.0, -0.5))
    good = episode(Turn(Action("Done."), span=(1, 2)), tokens=tokens)
    poor = episode(
        Turn(Action("Cannot."), span=(1, 2)),
        tokens=Tokens((1, 3), (0, 1), (0.0, -0.5)),
        id="f",
        reward=0.0,
        success=False,
    )
    (tmp_path / "in.jsonl").write_bytes(good.to_json() + b"\n" + poor.to_json() + b"\n")
    done = CliRunner().invoke(
        app, ["export", str(tmp_path / "in.jsonl"), "--to", "trl-preference", "--out", str(tmp_path / "p.jsonl")]
    )
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "p.jsonl").read_text())
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Done.", "Cannot.")


def test_a_side_that_holds_the_whole_conversation_is_not_put_behind_it(tmp_path: Path) -> None:
    """Ultrafeedback's columns: `messages` is the chosen side. And a prompt as text next to sides that begin with it."""
    asked, system = {"role": "user", "content": "Hi."}, {"role": "system", "content": "Be kind."}
    good, poor = {"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "What?"}
    rows: dict[str, dict[str, Any]] = {
        "openai": {"messages": [asked, good], "chosen": [asked, good], "rejected": [asked, poor]},
        "trl": {"prompt": "Hi.", "chosen": [system, asked, good], "rejected": [system, asked, poor]},
        "sharegpt": {
            "conversations": [{"from": "human", "value": "Hi."}],
            "chosen": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}],
            "rejected": {"from": "gpt", "value": "What?"},
        },
    }
    for form, row in rows.items():
        chosen, rejected = read(lines(tmp_path / f"{form}.jsonl", row), form).trajectories
        for t, last in ((chosen, good), (rejected, poor)):
            start = ["system", "user"] if form == "trl" else ["user"]
            assert [m.role for m in t.messages()] == [*start, "assistant"], form
            assert t.messages()[-1].content == last["content"]
    odd = {"prompt": "Hi.", "chosen": [{"role": "user", "content": "Ho."}, good], "rejected": [asked, poor]}
    with pytest.raises(DataError, match="chosen begins with a message of user"):
        read(lines(tmp_path / "odd.jsonl", odd), "trl")


def test_tools_have_their_schema_by_any_of_its_names(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for name in ("parameters", "input_schema", "inputSchema"):
        row = {"messages": PLAIN, "tools": [{"name": "f", "description": "F.", name: schema, "strict": True}]}
        done = read(lines(tmp_path / f"{name}.jsonl", row), "openai")
        assert done.trajectories[0].tools == (ToolSpec("f", "F.", schema),)
        assert done.report.lost == {"tool field 'strict'": 1}
    twice = {"messages": PLAIN, "tools": [{"name": "f", "parameters": schema}, {"name": "f", "parameters": {}}]}
    assert "a tool of a name that a later one has" in read(lines(tmp_path / "2.jsonl", twice), "openai").report.lost


def test_how_a_call_ended_in_other_words_is_read_or_counted(tmp_path: Path) -> None:
    def done(**more: Any) -> Imported:
        sent = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
        told = {"role": "tool", "tool_call_id": "1", "content": "Error: no", **more}
        return read(
            lines(tmp_path / "x.jsonl", {"messages": [{"role": "user", "content": "Go."}, sent, told]}),
            "openai",
            failures=rules,
        )

    rules = Failures()
    for yes in (True, 1, "true", "True"):
        (result,) = done(is_error=yes).trajectories[0].results()
        assert (result.outcome, result.inferred) == ("tool_error", False)
    for name, value in (("status", "failed"), ("error", {"type": "timeout"}), ("is_error", "perhaps")):
        made = done(**{name: value})
        assert made.report.lost == {f"message field {name!r}": 1}
        assert all(r.inferred for r in made.trajectories[0].results())
    rules = Failures.parse(errors=["status=failed"])
    assert done(status="failed").report.lost == {}  # the rule reads it


def test_a_rule_that_no_result_fits_is_told(tmp_path: Path) -> None:
    sent = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    told = {"role": "tool", "tool_call_id": "1", "content": "Error: no"}
    path = lines(tmp_path / "x.jsonl", {"messages": [{"role": "user", "content": "Go."}, sent, told]})
    for rule, silent in (("^error", 1), ("^Error", 0)):
        warnings = read(path, "openai", failures=Failures.parse(errors=[rule])).report.warnings
        assert sum("no result is a failure by" in text for text in warnings) == silent


def test_files_in_other_clothes(tmp_path: Path) -> None:
    """A byte order mark, an array in .jsonl; and one line for what cannot be read, with what to do."""
    text = json.dumps([{"messages": PLAIN}] * 2, indent=1).encode()
    for name, data in (
        ("bom.json", b"\xef\xbb\xbf" + text),
        ("array.jsonl", text),
        ("array", b"\xef\xbb\xbf\n" + text),
    ):
        (tmp_path / name).write_bytes(data)
        assert len(read(tmp_path / name, "openai").trajectories) == 2
    assert len(read(lines(tmp_path / "bare.jsonl", PLAIN), "openai").trajectories) == 1
    for data, why in (
        (text.decode().encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08", "compressed"),
        (b'{"messages":[],"reward":NaN}', "NaN is no JSON value; write null"),
    ):
        (tmp_path / "odd").write_bytes(data)
        with pytest.raises(DataError, match=why):
            read(tmp_path / "odd", "openai")


def test_labels_of_tables_are_true_and_false(tmp_path: Path) -> None:
    row = {"prompt": "Hi.", "completion": "Hello.", "label": 1}
    assert read(lines(tmp_path / "x.jsonl", row), "trl").trajectories[0].success is True
    with pytest.raises(DataError, match="a label of true or false"):
        read(lines(tmp_path / "y.jsonl", {**row, "label": 2}), "trl")
