"""Tasks from a file: `tasks_from` reads JSON lines, JSON and YAML, with splits and recorded gold.

def tasks(self, split, rng):
    return tasks_from(FOLDER / "tasks.json", split, gold=FOLDER / "answers.json", splits="test", rng=rng)
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from ..trajectories.errors import ConfigError, DataError, UnknownName
from ..trajectories.messages import Json
from ..trajectories.strict_json import finite, int64, no_constant
from .task import SPLITS, TASK_FIELDS, NoTasks, Split, Task

__all__ = ["tasks_from"]

_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml")
Rows = Sequence[Mapping[str, Json]]


def tasks_from(
    source: str | Path | Rows,
    split: Split,
    *,
    field: str | None = None,
    splits: str | Path | Mapping[str, str | Collection[str]] | None = None,
    gold: str | Path | Mapping[str, Json] | None = None,
    make: Callable[[dict[str, Json]], Task] | None = None,
    rng: random.Random | None = None,
) -> list[Task]:
    """The tasks of a split from a file: JSON lines, a JSON array, an object of rows by id, or a YAML list.

    Args:
        source: Ends in .json, .jsonl, .yaml or .yml; or the rows themselves. Each row is an object with `instruction`
            and, if wanted, other fields of `Task`: data, id, seed, kind, level.
        field: Field of each row that names its split.
        splits: With `field`, which split each of its values is: `{"dev": "validation", "test_hard": "test"}`. Without
            one, the split that all rows are in: `"test"`; or the ids of each split, `{"train": ["a", "b"], ...}`,
            which may be a JSON file. Rows that it does not list are in no split. With neither `field` nor `splits`,
            a row's split follows from a hash of its instruction and data: about 8 in 10 are train, one validation, one
            test, and rows that are added move none.
        gold: A second file, with the recorded solution of each row: rows with `id` and one other field, or an object of
            solutions by id. It is in `task.data["gold"]`; `make` finds it in `row["gold"]`.
        make: Makes the task from a row, where a file has other fields.
        rng: Shuffles the tasks; else they stand as in the file.

    Raises `DataError`, with the line, for a row that is no task, repeats an id, has no gold, or is in two splits;
    `NoTasks` where a split has no row; `ConfigError` for a file that cannot be read.
    """
    if split not in SPLITS:
        raise ConfigError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
    rows, file, word = _source_rows(source)
    solutions = None if gold is None else _solutions(gold)
    chosen: list[Task] = []
    ids: dict[str, int] = {}
    contents: dict[bytes, tuple[int, str]] = {}
    assigned = _Assigned(field, splits)
    for line, row in rows:
        where = f"{file}, {word} {line}"
        row = copy.deepcopy(row)
        named = assigned.split_of(row, where)
        if named is None:
            continue
        if solutions is not None:
            _add_gold(row, solutions, where, made=make is not None)
        task = _task_of(row, where) if make is None else _made(make, row, where)
        body = orjson.dumps([task.instruction, task.data], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
        own = named or _hashed_split(body)
        first = ids.setdefault(task.id, line)
        if first != line:
            raise DataError(f"{where}: the task {task.id!r} is in {word} {first} already; take one of them out")
        first, other = contents.setdefault(body, (line, own))
        if other != own:
            raise DataError(f"{where}: the same task is in {word} {first} in the split {other!r}; splits share none")
        if own == split:
            chosen.append(task)
    if not chosen:
        if field:
            fix = f"give some rows {field}: {split}"
        elif splits is not None:
            fix = f"splits={splits!r:.60} gives it none"
        else:
            fix = "name a field of each row that says its split: field=..."
        raise NoTasks(f"{file}: none of its {len(rows)} tasks falls into the split {split!r}; {fix}")
    if rng is not None:
        rng.shuffle(chosen)
    return chosen


def _source_rows(source: str | Path | Rows) -> tuple[list[tuple[int, dict[str, Json]]], str, str]:
    """(number, row) of each row, what holds them, and what the numbers count."""
    if not isinstance(source, (str, Path)):
        rows = [(number, _checked(row, f"row {number}")) for number, row in enumerate(source, 1)]
        if not rows:
            raise DataError("the rows hold no task")
        return rows, "the rows", "row"
    file = Path(source)
    return _rows(file, _changed(file, "tasks")), str(file), "line"


def _changed(file: Path, what: str) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"cannot read the {what} in {file}: {error.strerror or error}") from None


@dataclass(slots=True)
class _Assigned:
    """Which split each row is in."""

    field: str | None
    splits: str | Path | Mapping[str, str | Collection[str]] | None
    _by_id: dict[str, str] = dataclass_field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.splits, (str, Path)) and self.splits not in SPLITS:
            if self.field is not None or Path(self.splits).suffix.lower() != ".json":
                raise ConfigError(
                    f"splits is one of {', '.join(SPLITS)}, ids by split, or a .json file of these, got "
                    f"{str(self.splits)!r:.60}"
                )
            file = Path(self.splits)
            self.splits = _object(file, _changed(file, "splits"))
        if isinstance(self.splits, Mapping) and self.field is None:
            for name, ids in self.splits.items():
                if name not in SPLITS:
                    continue  # a suite may have other lists, of all tasks say
                if isinstance(ids, str) or not isinstance(ids, Collection):
                    raise ConfigError(f"splits: {name} has a list of ids, got {ids!r:.60}")
                for id in ids:
                    if self._by_id.setdefault(str(id), name) != name:
                        raise DataError(f"splits: the task {id!r} is in {self._by_id[str(id)]!r} and in {name!r}")

    def split_of(self, row: dict[str, Json], where: str) -> str | None:
        """ "": its hash decides. None: none of them."""
        if self.field is not None:
            names = self.splits if isinstance(self.splits, Mapping) else {}
            return _named_split(row, self.field, names, where)
        if self.splits is None:
            return ""
        if isinstance(self.splits, (str, Path)):
            return str(self.splits)
        return self._by_id.get(_id_of(row, where))


def _id_of(row: Mapping[str, Json], where: str) -> str:
    if not isinstance(id := row.get("id"), (str, int)) or isinstance(id, bool):
        raise DataError(f"{where}: an id is a text, by which a row is found in another file; got {id!r:.60}")
    return str(id)


def _solutions(gold: str | Path | Mapping[str, Json]) -> dict[str, Json]:
    """Recorded solutions by id."""
    if isinstance(gold, Mapping):
        return {str(id): solution for id, solution in gold.items()}
    file = Path(gold)
    changed = _changed(file, "gold")
    if file.suffix.lower() == ".json":
        with suppress(DataError):
            held = _object(file, changed)
            if "id" not in held:  # else it is one row
                return {str(id): solution for id, solution in held.items()}
    found: dict[str, Json] = {}
    for line, row in _rows(file, changed):
        where = f"{file}, line {line}"
        id, others = _id_of(row, where), [name for name in row if name != "id"]
        name = "gold" if "gold" in others else others[0] if len(others) == 1 else ""
        if not name:
            raise DataError(f"{where}: gold is an id and one other field, or a field named gold; got {', '.join(row)}")
        if id in found:
            raise DataError(f"{where}: the gold of {id!r} is there already; take one of them out")
        found[id] = row[name]
    return found


def _add_gold(row: dict[str, Json], solutions: dict[str, Json], where: str, *, made: bool) -> None:
    id = _id_of(row, where)
    if id not in solutions:
        raise DataError(f"{where}: there is no gold for the id {id!r}; gold is found by id")
    holder = row if made else row.setdefault("data", {})
    if isinstance(holder, dict):
        holder["gold"] = copy.deepcopy(solutions[id])


@lru_cache(maxsize=8)
def _rows(file: Path, changed: int) -> list[tuple[int, dict[str, Json]]]:
    """(line, row) of each row. Read once for each state of the file."""
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(f"tasks are in a file that ends in {', '.join(_SUFFIXES)}, got {file.name}")
    text = _text(file)
    read = {".json": _json_items, ".jsonl": _json_lines}.get(suffix, _yaml_items)(file, text)
    rows = [(line, _checked(row, f"{file}, line {line}")) for line, row in read]
    if not rows:
        raise DataError(f"{file} holds no task")
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text: byte {error.start} cannot be read") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None


def _checked(row: Any, where: str) -> dict[str, Json]:
    """A row that JSON holds as it is."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a task is an object with an instruction, got {type(row).__name__}")
    try:
        same = orjson.loads(orjson.dumps(dict(row))) == row
    except (TypeError, orjson.JSONDecodeError):
        same = False
    if not same:
        raise DataError(
            f"{where}: the row holds what JSON cannot (a date without quotes, a key that is no text, "
            "a number that is not finite or too large)"
        )
    return dict(row)


_DECODER = json.JSONDecoder(parse_constant=no_constant, parse_int=int64, parse_float=finite)
_SPACE = re.compile(r"[ \t\n\r]*")


@lru_cache(maxsize=8)
def _object(file: Path, changed: int) -> dict[str, Json]:
    """A JSON file that is one object. Raises `DataError`."""
    text = _text(file)
    try:
        held = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    if not isinstance(held, dict):
        raise DataError(f"{file}: an object was expected, got {type(held).__name__}")
    return held


def _json_items(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The rows of a .json file: an array, an object of rows by id, an object with one array, or JSON lines."""
    begin = _end(_SPACE, text, 0)
    if text[begin : begin + 1] == "[":
        yield from _array(file, text, begin)
        return
    try:
        held = _DECODER.decode(text)
    except (ValueError, RecursionError):
        yield from _json_lines(file, text)
        return
    if not isinstance(held, dict):
        raise DataError(f"{file}: tasks are an array or an object, got {type(held).__name__}")
    lists = [(name, value) for name, value in held.items() if isinstance(value, list)]
    if held and all(isinstance(value, dict) for value in held.values()):
        for id, row in held.items():
            yield _line(text, max(text.find(json.dumps(id)), 0)), {"id": id, **row}
    elif len(lists) == 1 and "instruction" not in held and lists[0][1] and isinstance(lists[0][1][0], dict):
        name, _ = lists[0]
        at = text.index("[", text.index(json.dumps(name)) + len(json.dumps(name)))
        yield from _array(file, text, at, whole=False)
    else:
        yield 1, held


def _array(file: Path, text: str, at: int, *, whole: bool = True) -> Iterator[tuple[int, Any]]:
    """The items of the array that begins at `at`, each with its line."""
    at = _end(_SPACE, text, at + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        line = _line(text, at)
        try:
            item, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {line}: not JSON: {error}") from None
        yield line, item
        at = _end(_SPACE, text, at)
        sign = text[at : at + 1]
        if sign == "]":
            break
        if sign != ",":
            raise DataError(f"{file}, line {_line(text, at)}: not JSON: a comma or the array's end was expected")
        at = _end(_SPACE, text, at + 1)
    if whole and text[at + 1 :].strip():
        raise DataError(f"{file}, line {_line(text, at)}: not JSON: there is more after the array's end")


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            try:
                yield line, json.loads(row, parse_constant=no_constant, parse_int=int64, parse_float=finite)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {line}: not JSON: {error}") from None


def _yaml_items(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    import yaml

    try:
        nodes, items = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{file}{where}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not YAML: {str(error) or type(error).__name__}") from None
    if nodes is None:
        return
    if not isinstance(items, list):
        raise DataError(f"{file}: a YAML file of tasks is a list (each begins with '- '), got {type(items).__name__}")
    yield from ((node.start_mark.line + 1, item) for node, item in zip(nodes.value, items, strict=True))


def _named_split(row: dict[str, Json], field: str, names: Mapping[str, Any], where: str) -> str:
    named = row.pop(field, None)
    split = names.get(named, named) if isinstance(named, str) else named
    if split not in SPLITS:
        got = "none" if named is None else repr(named)
        raise DataError(f"{where}: {field} is one of {', '.join(dict.fromkeys((*SPLITS, *names)))}, got {got:.80}")
    return str(split)


def _hashed_split(body: bytes) -> Split:
    share = hashlib.blake2b(body, digest_size=2).digest()[0] / 256
    return "test" if share < 0.1 else "validation" if share < 0.2 else "train"


def _made(make: Callable[[dict[str, Json]], Task], row: dict[str, Json], where: str) -> Task:
    try:
        return make(row)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{where}: make(row) raised {type(error).__name__}: {error}") from error


def _task_of(row: dict[str, Json], where: str) -> Task:
    for name, value in row.items():
        if name not in TASK_FIELDS:
            raise DataError(f"{where}: {UnknownName('field of a task', name, TASK_FIELDS)}")
        if type(value) is not TASK_FIELDS[name]:
            raise DataError(f"{where}: {name} is of type {TASK_FIELDS[name].__name__}, got {value!r:.80}")
    if not row.get("instruction"):
        raise DataError(f"{where}: a task needs an instruction")
    if row.get("level", 1) < 1:
        raise DataError(f"{where}: levels count from 1, got {row['level']}")
    return Task(**row)
