"""Trajectories in the forms that other tools read: pure functions that make rows, and writers of files.

Defines `Report`, `Exported`; for SFT `trl_sft`, `trl_prompt_completion`, `openai`, `sharegpt`, `llama_factory`; for
preferences `trl_preference`, `trl_unpaired`; for analysis `table`; the writers `write_jsonl`, `write_lines`,
`write_llama_factory`, `write_parquet`, and `to_dataset`. The way back is `sparring.trajectories.interchange.imports`.

No other form holds all of a trajectory. What is lost is in the report, counted by episode, and is never lost in
silence: an episode that a form cannot take at all is left out with the reason.

A call's arguments are an object in TRL's rows, since chat templates print them as JSON, and text elsewhere: in Arrow
a column of objects would give each call the keys of all others, with nulls.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from ..curation import Pair
from ..errors import ConfigError, DataError, MissingExtra
from ..messages import Json, Message, ToolCall, ToolSpec
from ..trajectory import Trajectory

__all__ = [
    "Exported",
    "Report",
    "Row",
    "llama_factory",
    "openai",
    "sharegpt",
    "table",
    "to_dataset",
    "trl_preference",
    "trl_prompt_completion",
    "trl_sft",
    "trl_unpaired",
    "write_jsonl",
    "write_lines",
    "write_llama_factory",
    "write_parquet",
]

Row = dict[str, Json]

Arguments = Literal["object", "text"]
"""How a call's arguments are in a row: as an object, or as JSON text. A malformed call's are its text either way."""

Span = Literal["episode", "turn"]
"""Of a preference: all that follows the fork, tool results included; or the first action that differs, alone."""


@dataclass(frozen=True, slots=True)
class Report:
    """The account of one export or import."""

    form: str
    came_in: int
    wrote: int
    unit: str = "rows"
    lost: dict[str, int] = field(default_factory=dict)
    """What the other side cannot hold -> number of episodes that had it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why an item made nothing -> number of items."""
    inferred: dict[str, int] = field(default_factory=dict)
    """Of an import: what its source did not say and was guessed -> number of episodes."""

    def __str__(self) -> str:
        parts = [f"{self.form}: {self.wrote} {self.unit} from {self.came_in}"]
        if self.left_out:
            parts.append("left out: " + ", ".join(f"{n} with {why}" for why, n in self.left_out.items()))
        if self.lost:
            parts.append("not held: " + ", ".join(f"{what} ({n})" for what, n in self.lost.items()))
        if self.inferred:
            parts.append("inferred: " + ", ".join(f"{what} ({n})" for what, n in self.inferred.items()))
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows of one form, each a JSON object, and the account of them."""

    rows: tuple[Row, ...]
    report: Report


# --- what a form may lose ----------------------------------------------------------------------------------------

_FACTS: dict[str, Callable[[Trajectory], bool]] = {
    "token ids and log-probabilities": lambda t: t.tokens is not None,
    "calls' outcomes and causes": lambda t: any(turn.results for turn in t.turns),
    "results' raw values": lambda t: any(r.value is not None for r in t.results()),
    "faults": lambda t: bool(t.faults or t.faults_hit),
    "rewards": lambda t: bool(t.reward or t.reward_parts or any(turn.reward for turn in t.turns)),
    "success": lambda t: t.success is not None,
    "stop reason": lambda t: True,
    "turn weights": lambda t: any(turn.weight != 1 for turn in t.turns),
    "turn weights between 0 and 1": lambda t: any(turn.weight not in (0, 1) for turn in t.turns),
    "task data": lambda t: bool(t.task.data),
    "lineage": lambda t: t.forked_from is not None,
    "well-formed calls' sampled text": lambda t: any(c.raw and c.arguments is not None for c in _calls(t)),
    "call ids": lambda t: any(c.id for c in _calls(t)),
    "speakers' names": lambda t: any(m.name for m in _others(t)),
    "that a call is malformed (its text reads as arguments)": lambda t: any(map(_passes_for_arguments, _calls(t))),
}
_EVERYWHERE = frozenset(_FACTS) - {"turn weights between 0 and 1"}
_OPENAI_WIRE = _EVERYWHERE - {"call ids", "speakers' names"}
_IN_TABLE = {
    "calls' outcomes and causes", "faults", "rewards", "success", "stop reason", "turn weights", "call ids",
    "speakers' names", "token ids and log-probabilities", "that a call is malformed (its text reads as arguments)",
    "task data",
}  # fmt: skip


def _calls(t: Trajectory) -> Iterable[ToolCall]:
    return (call for turn in t.turns for call in turn.action.tool_calls)


def _others(t: Trajectory) -> Iterable[Message]:
    return (*t.prompt, *(m for turn in t.turns for m in turn.messages))


def _passes_for_arguments(call: ToolCall) -> bool:
    if call.arguments is not None:
        return False
    try:
        return not call.raw or isinstance(orjson.loads(call.raw), dict)
    except orjson.JSONDecodeError:
        return False


def _lost(trajectories: Iterable[Trajectory], names: Iterable[str]) -> dict[str, int]:
    held = list(trajectories)
    counts = {name: sum(_FACTS[name](t) for t in held) for name in _FACTS if name in set(names)}
    return {name: n for name, n in counts.items() if n}


# --- rows --------------------------------------------------------------------------------------------------------


def trl_sft(trajectories: Iterable[Trajectory], *, arguments: Arguments = "object") -> Exported:
    """TRL's conversational SFT: `messages`, and `tools` as JSON text.

    Train with `assistant_only_loss=True`, or tool results are trained too; turn weights are lost. A form that keeps
    them is `trl_prompt_completion`.
    """
    held = list(trajectories)
    rows = [_with_tools({"messages": _wires(_said(t), arguments)}, t) for t in held]
    return _exported("trl-sft", rows, held, _OPENAI_WIRE)


def trl_prompt_completion(trajectories: Iterable[Trajectory], *, arguments: Arguments = "object") -> Exported:
    """TRL's prompt-completion SFT: one row for each turn that has weight, the messages before it as its prompt.

    So nothing but sampled turns is trained (TRL computes the loss on completions), and turns of weight 0 stay context.
    The price is length: a row repeats what came before it.
    """
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for t in held:
        if not any(turn.weight for turn in t.turns):
            left_out["no turn that has weight"] += 1
        before = _wires(_prompt(t), arguments)
        for turn, said in zip(t.turns, _turns(t), strict=True):
            wires = _wires(said, arguments)
            if turn.weight:
                rows.append(_with_tools({"prompt": list(before), "completion": wires[:1]}, t))
            before += wires
    names = (_OPENAI_WIRE - {"turn weights"}) | {"turn weights between 0 and 1"}
    return _exported("trl-prompt-completion", rows, held, names, left_out)


def trl_preference(pairs: Iterable[Pair], *, span: Span = "episode", arguments: Arguments = "object") -> Exported:
    """TRL's preferences: `prompt` up to the fork, then `chosen` and `rejected`.

    TRL trains every token of a side. With `span="episode"` these are tool results too, which no policy wrote; the
    report counts the pairs concerned. `span="turn"` gives the first action that differs, and nothing else.
    """
    held = list(pairs)
    rows: list[Row] = []
    concerned = 0
    for pair in held:
        chosen, rejected = _turns(pair.chosen), _turns(pair.rejected)
        shared = [m for said in chosen[: pair.fork] for m in said]
        sides = []
        for turns in (chosen, rejected):
            rest = [m for said in turns[pair.fork :] for m in said]
            sides.append(rest[:1] if span == "turn" else rest)
        concerned += any(m.role != "assistant" for side in sides for m in side)
        row = {
            "prompt": _wires([*_prompt(pair.chosen), *shared], arguments),
            "chosen": _wires(sides[0], arguments),
            "rejected": _wires(sides[1], arguments),
        }
        rows.append(_with_tools(row, pair.chosen))
    both = [t for pair in held for t in (pair.chosen, pair.rejected)]
    done = _exported("trl-preference", rows, both, _OPENAI_WIRE)
    lost = {"which tokens the policy wrote (tool results inside a side are trained)": concerned} if concerned else {}
    return Exported(done.rows, replace(done.report, came_in=len(held), lost=lost | done.report.lost))


def trl_unpaired(trajectories: Iterable[Trajectory], *, arguments: Arguments = "object") -> Exported:
    """TRL's unpaired preferences (KTO): `prompt`, `completion` and `label`, which is success. Only judged episodes."""
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for t in held:
        if not t.judged or not t.turns:
            left_out["no judgement" if t.turns else "no turn"] += 1
            continue
        rest = [m for said in _turns(t) for m in said]
        row: Row = {"prompt": _wires(_prompt(t), arguments), "completion": _wires(rest, arguments), "label": t.success}
        rows.append(_with_tools(row, t))
    return _exported("trl-unpaired", rows, held, _OPENAI_WIRE - {"success"}, left_out)


_OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def openai(trajectories: Iterable[Trajectory]) -> Exported:
    """OpenAI's chat fine-tuning: `messages`, `tools`; a turn of weight 0 has `weight: 0`. Arguments are JSON text."""
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for t in held:
        if not t.turns:
            left_out["no turn"] += 1
            continue
        messages = _wires(_prompt(t), "text")
        for turn, said in zip(t.turns, _turns(t), strict=True):
            wires = _wires(said, "text")
            if not turn.weight:
                wires[0]["weight"] = 0
            messages += wires
        rows.append({"messages": messages} | ({"tools": [spec.openai() for spec in t.tools]} if t.tools else {}))
    names = (_OPENAI_WIRE - {"turn weights"}) | {"turn weights between 0 and 1"}
    done = _exported("openai", rows, held, names, left_out)
    refused = sum(any(not _OPENAI_NAME.fullmatch(c.name) or c.arguments is None for c in _calls(t)) for t in held)
    lost = {"malformed calls and odd tool names: an upload may be refused": refused} if refused else {}
    return Exported(done.rows, replace(done.report, lost=lost | done.report.lost))


def sharegpt(trajectories: Iterable[Trajectory]) -> Exported:
    """ShareGPT with tools: `conversations` of `from` and `value`, and `tools` as JSON text.

    From: system, human, gpt, function_call, observation. Text next to calls is a gpt entry right before them. A
    function_call is one call or a list of calls; arguments that are text are a malformed call's, verbatim.
    """
    held = list(trajectories)
    rows = [{"conversations": _conversation(_said(t)), "tools": _tools_text(t.tools)} for t in held]
    return _exported("sharegpt", rows, held, _EVERYWHERE)


def llama_factory(trajectories: Iterable[Trajectory]) -> Exported:
    """LLaMA-Factory's sharegpt form: `conversations`, `system`, `tools`; `write_llama_factory` adds the entry.

    It wants human or observation, then gpt or function_call, in turn, ending with the latter. So what follows the last
    action is cut, several results become one observation as its own converter joins them, and messages of one side are
    joined by an empty line. What it would drop in silence is left out here with the reason: malformed calls (it stops
    at the first), an action that follows an action, a system message later than the first message.
    """
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    texts = 0
    for t in held:
        try:
            entries, dropped = _alternating(t)
        except ValueError as why:
            left_out[str(why)] += 1
            continue
        texts += dropped
        system = "\n".join(m.content for m in t.prompt if m.role == "system")
        rows.append({"conversations": entries, "system": system, "tools": _tools_text(t.tools)})
    done = _exported("llama-factory", rows, held, _EVERYWHERE, left_out)
    lost = {"text next to calls": texts} if texts else {}
    return Exported(done.rows, replace(done.report, lost=lost | done.report.lost))


def table(trajectories: Iterable[Trajectory]) -> Exported:
    """One row an episode, every column of one type: for Parquet and data frames. Arguments and tools are JSON text.

    Holds nearly all: messages, outcomes by call, faults, rewards, turns, token ids. Not: raw values, lineage.
    """
    held = list(trajectories)
    rows = [_table_row(t) for t in held]
    return _exported("parquet", rows, held, _EVERYWHERE - _IN_TABLE)


def _exported(
    form: str, rows: list[Row], held: Sequence[Trajectory], names: Iterable[str], left_out: Counter[str] | None = None
) -> Exported:
    return Exported(tuple(rows), Report(form, len(held), len(rows), "rows", _lost(held, names), dict(left_out or {})))


# --- pieces of rows ----------------------------------------------------------------------------------------------


def _prompt(t: Trajectory) -> list[Message]:
    return list(t.prompt)


def _turns(t: Trajectory) -> list[list[Message]]:
    """The messages of each turn, the action first. A call made by code that never got an id is numbered."""
    out: list[list[Message]] = []
    n = 0
    for turn in t.turns:
        calls = []
        for call in turn.action.tool_calls:
            n += 1
            calls.append(call if call.id else replace(call, id=f"call-{n}"))
        said = [Message("assistant", turn.action.content, tuple(calls))]
        for i, r in enumerate(turn.results):
            said.append(Message("tool", r.content, tool_call_id=r.call_id or calls[i].id, name=r.tool))
        out.append([*said, *turn.messages])
    return out


def _said(t: Trajectory) -> list[Message]:
    return [*_prompt(t), *(m for said in _turns(t) for m in said)]


def _wires(messages: Iterable[Message], arguments: Arguments) -> list[Row]:
    out = []
    for message in messages:
        wire = message.openai()
        if arguments == "object":
            for call, sent in zip(message.tool_calls, wire.get("tool_calls", ()), strict=True):
                if call.arguments is not None:
                    sent["function"]["arguments"] = call.arguments
        out.append(wire)
    return out


def _with_tools(row: Row, t: Trajectory) -> Row:
    """As JSON text: the schemas of two tools have no common Arrow type."""
    return row | {"tools": json.dumps([spec.openai() for spec in t.tools], ensure_ascii=False)}


def _tools_text(tools: Sequence[ToolSpec]) -> str:
    specs = [{"name": s.name, "description": s.description, "parameters": s.parameters} for s in tools]
    return json.dumps(specs, ensure_ascii=False) if specs else ""


def _entry(who: str, value: str) -> Row:
    return {"from": who, "value": value}


SHAREGPT_JOINT = "\n</tool_response>\n<tool_response>\n"
"""Between several results that are one observation, as LLaMA-Factory joins them."""

_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _conversation(messages: Sequence[Message]) -> list[Row]:
    out: list[Row] = []
    plain = False  # the last entry is a whole action: text without calls
    for message in messages:
        if message.tool_calls:
            if message.content or plain:  # else the action before would read as the text next to these calls
                out.append(_entry("gpt", message.content))
            out.append(_entry("function_call", _function_call(message.tool_calls)))
        else:
            out.append(_entry(_FROM[message.role], message.content))
        plain = message.role == "assistant" and not message.tool_calls
    return out


def _function_call(calls: Sequence[ToolCall]) -> str:
    sent = [{"name": c.name, "arguments": c.raw if c.arguments is None else c.arguments} for c in calls]
    return json.dumps(sent[0] if len(sent) == 1 else sent, ensure_ascii=False)


def _alternating(t: Trajectory) -> tuple[list[Row], bool]:
    """Entries that alternate, and whether text next to calls was lost. Raises `ValueError` with why there are none."""
    messages = _said(t)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    while messages and messages[0].role == "system":
        messages.pop(0)
    if not messages:
        raise ValueError("no turn")
    out: list[Row] = []
    lost = False
    sides: list[bool] = []  # True: the agent's
    for message in messages:
        agent = message.role == "assistant"
        if message.role == "system":
            raise ValueError("a system message later than the first message")
        if any(call.arguments is None for call in message.tool_calls):
            raise ValueError("a malformed call")
        if agent and (not sides or sides[-1]):
            raise ValueError("an action that follows no message")
        if message.tool_calls:
            lost = lost or bool(message.content)
            out.append(_entry("function_call", _function_call(message.tool_calls)))
        elif agent or not sides or sides[-1]:
            out.append(_entry(_FROM[message.role], message.content))
        else:
            out[-1]["value"] += (SHAREGPT_JOINT if message.role == "tool" else "\n\n") + message.content
            continue
        sides.append(agent)
    return out, lost


def _table_row(t: Trajectory) -> Row:
    said = _said(t)
    messages = [
        {
            "role": m.role,
            "content": m.content,
            "tool_calls": [
                {
                    "id": c.id,
                    "name": c.name,
                    "arguments": c.raw if c.arguments is None else orjson.dumps(c.arguments).decode(),
                    "error": (c.error or "malformed") if c.arguments is None else "",
                }
                for c in m.tool_calls
            ],
            "tool_call_id": m.tool_call_id,
            "name": m.name,
        }
        for m in said
    ]
    calls = [
        {
            "call_id": r.call_id, "tool": r.tool, "outcome": r.outcome.value, "cause": r.cause and r.cause.value,
            "took_effect": r.took_effect, "fault": r.fault, "retry_of": r.retry_of,
            "latency_s": r.latency_s, "error": r.error,
        }
        for r in t.results()
    ]  # fmt: skip
    turns = [
        {"reward": turn.reward, "weight": turn.weight, "start": turn.span and turn.span[0],
         "end": turn.span and turn.span[1]}
        for turn in t.turns
    ]  # fmt: skip
    return {
        "id": t.id, "env": t.env, "agent": t.agent, "task_id": t.task.id, "instruction": t.task.instruction,
        "kind": t.task.kind, "level": t.task.level, "task_data": _text(t.task.data), "task_seed": t.task.seed,
        "success": t.success, "reward": t.reward, "reward_parts": _text(t.reward_parts), "stop": t.stop.value,
        "seed": t.seed, "attempt": t.attempt, "faults": t.faults, "faults_hit": list(t.faults_hit),
        "expert_turns": t.expert_turns, "policy_version": t.policy_version, "error": t.error, "meta": _text(t.meta),
        "tools": _tools_text(t.tools), "messages": messages, "results": calls, "turns": turns,
        "token_ids": list(t.tokens.ids) if t.tokens else None,
        "sampled": list(t.tokens.sampled) if t.tokens else None,
        "logprobs": list(t.tokens.logprobs) if t.tokens else None,
    }  # fmt: skip


def _text(value: Json) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


# --- files -------------------------------------------------------------------------------------------------------


def write_jsonl(rows: Iterable[Row], path: Path) -> None:
    """One JSON object a line. The file appears whole or not at all. Raises `DataError` for what is no JSON."""
    write_lines((_line(number, row) for number, row in enumerate(rows, 1)), path)


def _line(number: int, row: Row) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits
        raise DataError(f"row {number} cannot be written as JSON: {error}") from None


def write_lines(lines: Iterable[bytes], path: Path) -> None:
    """Lines as they are, each with its end. The file appears whole or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)

    _whole(path, write)


def write_llama_factory(rows: Sequence[Row], folder: Path, name: str = "sparring") -> None:
    """`NAME.json` and the entry NAME in `dataset_info.json`; other entries of the folder are kept.

    Raises `DataError` when the `dataset_info.json` that is there is no JSON object.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"a data set's name is letters, digits, '_', '-' and '.', got {name!r}")
    listing = folder / "dataset_info.json"
    info: Any = {}
    if listing.exists():
        try:
            info = orjson.loads(listing.read_bytes())
        except orjson.JSONDecodeError as error:
            raise DataError(f"{listing} is not JSON ({error}): fix it or choose another folder") from None
        if not isinstance(info, dict):
            raise DataError(f"{listing}: expected an object of data sets, got {type(info).__name__}")
    info[name] = {
        "file_name": f"{name}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
    }
    _whole(folder / f"{name}.json", lambda part: _put(part, orjson.dumps(list(rows), option=orjson.OPT_INDENT_2)))
    _whole(listing, lambda part: _put(part, orjson.dumps(info, option=orjson.OPT_INDENT_2)))


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """The rows of `table` as one Parquet file, compressed. Raises `MissingExtra` without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "store") from None
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    call = pa.struct([("id", text), ("name", text), ("arguments", text), ("error", text)])
    message = [("role", text), ("content", text), ("tool_calls", pa.list_(call)), ("tool_call_id", text)]
    result = [(name, text) for name in ("call_id", "tool", "outcome", "cause")]
    result += [("took_effect", pa.bool_()), ("fault", text), ("retry_of", text), ("latency_s", real), ("error", text)]
    turn = [("reward", real), ("weight", real), ("start", whole), ("end", whole)]
    kinds = dict.fromkeys(("level", "task_seed", "seed", "attempt", "expert_turns", "policy_version"), whole) | {
        "success": pa.bool_(),
        "reward": real,
        "faults_hit": pa.list_(text),
        "messages": pa.list_(pa.struct([*message, ("name", text)])),
        "results": pa.list_(pa.struct(result)),
        "turns": pa.list_(pa.struct(turn)),
        "token_ids": pa.list_(pa.int32()),
        "sampled": pa.list_(pa.int8()),
        "logprobs": pa.list_(real),
    }
    if not rows:
        raise DataError("no episode to write")
    try:
        columns = pa.Table.from_pylist(
            list(rows), schema=pa.schema([(name, kinds.get(name, text)) for name in rows[0]])
        )
    except (pa.ArrowInvalid, UnicodeEncodeError, OverflowError) as error:
        raise DataError(f"an episode cannot be written as Parquet: {error}") from None
    _whole(path, lambda part: pq.write_table(columns, part, compression="zstd"))


def to_dataset(rows: Sequence[Row]) -> Any:
    """Rows of any form but `table` as a `datasets.Dataset`: message lists keep their objects as they are.

    Raises `MissingExtra` without `datasets`, `DataError` for one older than 4.7, where objects cannot be kept.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "store") from None
    if not hasattr(datasets, "Json"):
        raise DataError(f"this needs datasets 4.7 or newer, got {datasets.__version__}: pip install -U datasets")
    if not rows:
        raise DataError("no row to make a data set of")
    kinds: dict[type, Any] = {str: datasets.Value("string"), bool: datasets.Value("bool")}
    names = list(dict.fromkeys(name for row in rows for name in row))
    features = {}
    for name in names:
        kind = type(next(row[name] for row in rows if name in row))
        features[name] = datasets.List(datasets.Json()) if kind is list else kinds[kind]
    columns = {name: [row.get(name) for row in rows] for name in names}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes next to the file, then renames: who reads it sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
