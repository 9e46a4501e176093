"""Reading a file of another program: records, what the caller says of them, and the account of what was read.

Defines `read`, `Imported`, `json_records`.

What a source does not say is not made up: an outcome that only the text of a result could tell is `ok` with
`inferred=True`, whether it took effect is unknown, success is None unless the caller says what to take for it.
`Trajectory.meta["inferred"]` names the fields of the episode that are guesses; `meta["task_from"]` is "prompt" where
nothing but the prompt tells the task from another.

A record that cannot be one conversation (an unknown role, a result without its call, a picture) raises `DataError` with
file and line; `skip_bad=True` leaves it out and counts it.
"""

from __future__ import annotations

import codecs
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError, UnknownName
from ..messages import Json
from ..trajectory import Trajectory
from . import parquet
from ._failures import Failures, field_of
from ._form import FORMS, ExchangeReport, SourceRecord, readable
from ._messages import SourceEpisode, attempt_number, parsed, shown, task_name
from ._turns import Reasoning, episode_of


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read, and the account of it."""

    trajectories: tuple[Trajectory, ...]
    report: ExchangeReport


def read(
    path: Path,
    form: str,
    *,
    success: bool | None = None,
    skip_bad: bool = False,
    task_key: str = "",
    attempt_key: str = "",
    success_key: str = "",
    failures: Failures | None = None,
    reasoning: Reasoning = "drop",
) -> Imported:
    """All episodes of a file.

    Args:
        path: JSON lines, one JSON array, Parquet, or what the form has of its own.
        form: One of `readable()`, such as "openai".
        success: What to take for the success of episodes whose source does not tell; None: not judged.
        skip_bad: Leave out records that cannot be read, instead of raising.
        task_key: The field of a record that says of which task it is: "task_id", "metadata.task". Empty: what the form
            has for it; where it has nothing, episodes with the same prompt are of one task.
        attempt_key: The field that says which attempt at the task it is, from 0. Empty: what the form has for it, else
            the order in the file.
        success_key: The field that says whether it succeeded: true or false, or a number; 1 and more is success.
        failures: Which results failed, where the form does not say how calls ended.
        reasoning: What becomes of thoughts that a source keeps apart from the text: dropped and counted, or kept as
            `Action.thinking`.

    Raises `UnknownName` for another form; `DataError` for a record that cannot be read (file and line are named), for
    a file that cannot be opened as one of this form, where there is no episode in it at all, and for a rule of
    `failures` whose field no result has.
    """
    reader = FORMS.get(form)
    if reader.episodes is None:
        raise UnknownName("form", form, readable())
    if not path.is_file():
        raise DataError(f"{path} is a folder; expected a file" if path.is_dir() else f"there is no file {path}")
    rules = failures or Failures()
    out: list[Trajectory] = []
    told: list[bool] = []  # whether the source says which attempt it is
    lost: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    came_in = 0
    for where, record in (reader.records or json_records)(path):
        came_in += 1
        try:
            if isinstance(record, Exception):
                raise record
            episodes = reader.episodes(record)
            for e in episodes:
                _named(e, record if e.record is None else e.record, task_key, attempt_key, success_key)
                _rewarded(e, success)
            made = [episode_of(e, f"{path.name}/{where}/{i}", form, rules, reasoning) for i, e in enumerate(episodes)]
        except (DataError, RecursionError, OverflowError) as error:
            if not skip_bad:
                raise DataError(f"{path}, {where}: {str(error) or 'nested too deeply'}") from None
            left_out["an error in it"] += 1
            continue
        out += made
        told += [e.attempt is not None for e in episodes]
        for e, t in zip(episodes, made, strict=True):
            lost.update(sorted(e.lost - {f"message field {field!r}" for field in rules.fields}))
            inferred.update(t.meta.get("inferred", ()))
    if not out:
        raise DataError(f"{path}: no episode in it" + (f"; {came_in} records cannot be read" if came_in else ""))
    rules.check_met()
    out = _attempts(out, told)
    report = ExchangeReport(
        f"from {form}",
        came_in,
        len(out),
        "episodes",
        dict(lost),
        dict(left_out),
        dict(inferred),
        (*_warnings(out), *rules.silent()),
    )
    return Imported(tuple(out), report)


def _named(e: SourceEpisode, record: Json, task_key: str, attempt_key: str, success_key: str) -> None:
    """What the caller has said where to find."""
    if task_key:
        e.task_id = task_name(field_of(record, task_key, "--task-key"), task_key)
        e.lost.discard(f"column {task_key!r}")
        e.whole.get("meta", {}).pop("task_from", None)
    if attempt_key:
        e.attempt = attempt_number(field_of(record, attempt_key, "--attempt-key"), attempt_key)
        e.lost.discard(f"column {attempt_key!r}")
    if success_key and not (e.stop and e.stop.no_verdict):
        value = field_of(record, success_key, "--success-key")
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise DataError(f"expected true, false, a number or null as {success_key}, got {shown(value)}")
        e.success = None if value is None else value >= 1
        e.inferred = [what for what in e.inferred if what != "success"]
        e.lost.discard(f"column {success_key!r}")
        if "inferred" in e.whole.get("meta", {}):
            e.whole["meta"]["inferred"] = [what for what in e.whole["meta"]["inferred"] if what != "success"]


def _rewarded(e: SourceEpisode, success: bool | None) -> None:
    """Success by what the caller takes for it, and reward by success, where the source tells neither."""
    if e.success is None and not (e.stop and e.stop.no_verdict) and success is not None:
        e.success = success
        e.inferred.append("success")
    if e.reward is None:
        e.reward = float(bool(e.success))
        if e.success is not None:
            e.inferred.append("reward")


def _attempts(trajectories: Sequence[Trajectory], told: Sequence[bool]) -> list[Trajectory]:
    """Attempts whose number nobody told are numbered by their order in the file, past those that are told."""
    taken: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for t, known in zip(trajectories, told, strict=True):
        if known:
            taken[t.env, t.task.id].add(t.attempt)
    out = []
    for t, known in zip(trajectories, told, strict=True):
        if not known:
            used = taken[t.env, t.task.id]
            n = len(used) if len(used) not in used else next(n for n in range(len(used) + 1) if n not in used)
            used.add(n)
            t = t if t.attempt == n else replace(t, attempt=n)
        out.append(t)
    return out


def _warnings(trajectories: Sequence[Trajectory]) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    by_prompt = [t for t in trajectories if t.meta.get("task_from") == "prompt"]
    if len(by_prompt) > 1:
        tasks = Counter(t.task.id for t in by_prompt)
        alone = sum(n == 1 for n in tasks.values())
        yield (
            f"tasks of {len(by_prompt)} episodes are told apart by their prompt alone: that makes {len(tasks)} tasks, "
            f"{alone} of them with one episode; pass^k and intervals go by tasks. --task-key names the field that says "
            "the task"
        )
    results = [r for t in trajectories for r in t.results()]
    guessed = sum(r.inferred for r in results)
    if guessed:
        yield (
            f"how {guessed} of {len(results)} calls ended is not told: metrics of failures leave them out. --errors "
            "says which results failed"
        )
    empty = sum(not turn.action.content and not turn.action.tool_calls for t in trajectories for turn in t.turns)
    if empty:
        yield f"{empty} turns say nothing and call nothing: training on them teaches that"
    silent = sum(t.success is None for t in trajectories)
    if silent == len(trajectories):
        yield "success is not told, so no episode is judged: --success-key names the field that says it"


# --- records of files --------------------------------------------------------------------------------------------


def json_records(path: Path) -> Iterator[SourceRecord]:
    """JSON lines; one JSON array; or, by its ending, Parquet."""
    if path.suffix == ".parquet":
        yield from parquet.records(path)
        return
    with path.open("rb") as file:
        begins = file.read(4096)
    if begins.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        raise DataError(f"{path} is compressed: unpack it first")
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is written in UTF-16: write it in UTF-8")
    array = path.suffix == ".json"
    if array or begins.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        value = parsed(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        if isinstance(value, list) and (array or not _is_conversation(value)):
            yield from ((f"item {number}", row) for number, row in enumerate(value, 1))
            return
        if isinstance(value, dict):
            yield "the object", value
            return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text.strip():
                yield f"line {number}", parsed(text)


def _is_conversation(value: Sequence[Json]) -> bool:
    """Whether a list is the bare messages of one conversation: the only line of a file, say."""
    return bool(value) and all(isinstance(m, dict) and "role" in m for m in value)
