"""Task sets: the same name, split, number and seed always give the same tasks. `tasks_from` reads them from a file.

def tasks(self, split, rng):
    return tasks_from(FOLDER / "tasks.jsonl", split, rng=rng)
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from ..trajectories.errors import ConfigError, DataError, UnknownName
from ..trajectories.messages import Json
from ..trajectories.strict_json import finite, int64, no_constant
from ..trajectories.trajectory import Task
from .hooks import must

__all__ = ["SPLITS", "HasTasks", "Split", "Task", "task_set", "tasks_from"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_MOST_REPEATS = 1000
_FIELDS: dict[str, type] = {"instruction": str, "data": dict, "id": str, "seed": int, "kind": str, "level": int}
"""Of a task, with their types."""


class HasTasks(Protocol):
    """Whatever gives tasks: an environment, as a rule."""

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        """Tasks of a split, finite or endless."""
        ...


def task_set(
    env: HasTasks, split: Split, n: int, *, seed: int = 0, levels: Sequence[int] = (), without: Iterable[str] = ()
) -> list[Task]:
    """The first `n` distinct tasks of a split, in the order that `seed` gives.

    Args:
        levels: Only these difficulties; empty: all.
        without: Task ids to leave out.

    An environment with a finite list gives all it has when `n` is larger. Raises `DataError` when no task fits.
    """
    if split not in SPLITS:
        raise ConfigError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
    seen = set(without)
    tasks: list[Task] = []
    repeats = 0
    for task in _given(env, split, seed):
        if task.id in seen or (levels and task.level not in levels):
            repeats += 1
        else:
            repeats = 0
            seen.add(task.id)
            tasks.append(task)
        if len(tasks) == n or repeats > _MOST_REPEATS:  # a generator that has run dry repeats itself for ever
            break
    if not tasks:
        wanted = f" of level {', '.join(map(str, levels))}" if levels else ""
        raise DataError(f"{type(env).__name__}.tasks({split!r}) gave no task{wanted}")
    return tasks


def _given(env: HasTasks, split: Split, seed: int) -> Iterator[Task]:
    """What `tasks` gives, once it is sure that these are tasks. Raises `EnvError`."""
    label = f"{type(env).__name__}.tasks({split!r}, rng)"
    given: Any = env.tasks(split, random.Random(f"{seed}/{split}"))
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | dict)
    must(several, env.tasks, f"{label} gives", given, "a list of Tasks, or yield them")
    for task in given:
        must(
            isinstance(task, Task), env.tasks, f"{label} gives", task, "Tasks alone: Task('Open door 3.', {'door': 3})"
        )
        for name, kind in _FIELDS.items():
            value = getattr(task, name)
            fits = isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
            must(fits, env.tasks, f"{label} gives a Task whose {name} is", value, f"a {name} of type {kind.__name__}")
        yield task


# ---- from files ------------------------------------------------------------------------------------------------------

_SUFFIXES = (".jsonl", ".yaml", ".yml")


def tasks_from(
    path: str | Path,
    split: Split,
    *,
    field: str | None = None,
    make: Callable[[dict[str, Json]], Task] | None = None,
    rng: random.Random | None = None,
) -> list[Task]:
    """The tasks of a split from a file: JSON lines, or a YAML list.

    Args:
        path: Ends in .jsonl, .yaml or .yml. Each row is an object with `instruction` and, if wanted, other fields of
            `Task`: data, id, seed, kind, level.
        field: Field of each row that names its split. Without one, a row's split follows from a hash of its instruction
            and data: about 8 in 10 are train, one validation, one test, and rows that are added move none.
        make: Makes the task from a row, where a file has other fields.
        rng: Shuffles the tasks; else they stand as in the file.

    Raises `DataError`, with the line, for a row that is no task, repeats an id, or is in two splits; `DataError`
    where a split has no row; `ConfigError` for a file that cannot be read.
    """
    if split not in SPLITS:
        raise ConfigError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
    file = Path(path)
    try:
        changed = file.stat().st_mtime_ns
        rows = _rows(file, changed)
    except OSError as error:
        raise ConfigError(f"cannot read the tasks in {file}: {error.strerror or error}") from None
    chosen: list[Task] = []
    ids: dict[str, int] = {}
    contents: dict[bytes, tuple[int, str]] = {}
    for line, row in rows:
        where = f"{file}, line {line}"
        row = copy.deepcopy(row)
        named = _named_split(row, field, where)
        task = _task_of(row, where) if make is None else _made(make, row, where)
        body = orjson.dumps([task.instruction, task.data], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
        own = named or _hashed_split(body)
        first = ids.setdefault(task.id, line)
        if first != line:
            raise DataError(f"{where}: the task {task.id!r} is in line {first} already; take one of them out")
        first, other = contents.setdefault(body, (line, own))
        if other != own:
            raise DataError(f"{where}: the same task is in line {first} in the split {other!r}; splits share none")
        if own == split:
            chosen.append(task)
    if not chosen:
        fix = f"give some rows {field}: {split}" if field else "name a field of each row that says its split: field=..."
        raise DataError(f"{file}: none of its {len(rows)} tasks falls into the split {split!r}; {fix}")
    if rng is not None:
        rng.shuffle(chosen)
    return chosen


@lru_cache(maxsize=8)
def _rows(file: Path, changed: int) -> list[tuple[int, dict[str, Json]]]:
    """(line, row) of each row. Read once for each state of the file."""
    if file.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"tasks are in a file that ends in {', '.join(_SUFFIXES)}, got {file.name}")
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text: byte {error.start} cannot be read") from None
    read = _json_lines(file, text) if file.suffix.lower() == ".jsonl" else _yaml_items(file, text)
    rows: list[tuple[int, dict[str, Json]]] = []
    for line, row in read:
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {line}: a task is an object with an instruction, got {type(row).__name__}")
        try:
            same = orjson.loads(orjson.dumps(row)) == row
        except (TypeError, orjson.JSONDecodeError):
            same = False
        if not same:
            raise DataError(
                f"{file}, line {line}: the row holds what JSON cannot (a date without quotes, a key that is no text, "
                "a number that is not finite or too large)"
            )
        rows.append((line, row))
    if not rows:
        raise DataError(f"{file} holds no task")
    return rows


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


def _named_split(row: dict[str, Json], field: str | None, where: str) -> str:
    if field is None:
        return ""
    named = row.pop(field, None)
    if named not in SPLITS:
        got = "none" if named is None else repr(named)
        raise DataError(f"{where}: {field} is one of {', '.join(SPLITS)}, got {got:.80}")
    return str(named)


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
        if name not in _FIELDS:
            raise DataError(f"{where}: {UnknownName('field of a task', name, _FIELDS)}")
        if type(value) is not _FIELDS[name]:
            raise DataError(f"{where}: {name} is of type {_FIELDS[name].__name__}, got {value!r:.80}")
    if not row.get("instruction"):
        raise DataError(f"{where}: a task needs an instruction")
    if row.get("level", 1) < 1:
        raise DataError(f"{where}: levels count from 1, got {row['level']}")
    return Task(**row)
