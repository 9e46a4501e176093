"""Export and import: what goes out is what comes back, what is lost is said, and what cannot be read is refused."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
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
from sparring.trajectories.curation import Pair
from sparring.trajectories.interchange import openai, parquet, read, readable, sharegpt, to_dataset, trl, write_jsonl
from sparring.trajectories.messages import Role, ToolSpec

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


often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
