"""Episodes in files: reading them, and playing episodes into one so that a stopped run can go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..agents.agent import SESSION_NOTES, Agent
from ..agents.rollouts import TRACEBACK, EpisodeSpec, Limits, limited, limits_note, planned
from ..agents.rollouts import rollout as play
from ..envs.env import name_of
from ..envs.episode import NOTES
from ..envs.registry import make
from ..trajectories.errors import ConfigError, DataError
from ..trajectories.files import write_lines
from ..trajectories.locks import only_writer_of
from ..trajectories.messages import Json
from ..trajectories.metrics import PLAYED_S
from ..trajectories.trajectory import StopReason, Trajectory

__all__ = ["Recorder", "episodes_in", "play_into", "read", "refuse_other"]

_SHOWN = 6
_WHOLE = 100_000_000
"""Bytes of a file that is read whole to say what it is."""

Key = tuple[str, str, str, int]
"""Environment, task, faults and seed: what makes an episode this one."""


def read(paths: Iterable[Path]) -> list[Trajectory]:
    """All episodes of `.jsonl` files. Raises `DataError` for a line that is none, for an episode that is twice in a
    file, and where there are none at all."""
    out: list[Trajectory] = []
    names = [str(path) for path in paths]
    for name in names:
        path = Path(name)
        if path.is_dir():
            raise DataError(f"{name} is a folder; expected a file of episodes, such as `sparring rollout --out` writes")
        if not path.exists():
            raise DataError(f"there is no file {name}")
        data = path.read_bytes()
        lines = data.splitlines()
        seen: dict[tuple[str, int], int] = {}
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    out.append(t := Trajectory.from_json(line))
                except DataError as error:
                    cut = number == len(lines) and not data.endswith(b"\n") and number > 1
                    why = "cut short while it was written; the command that wrote it fixes that"
                    raise DataError(f"{name}, line {number}: {why if cut else _what(line, name, error)}") from None
                if (first := seen.setdefault((t.id, t.attempt), number)) != number:
                    raise DataError(f"{name}, line {number}: the episode {t.id} of line {first} once more")
    if not out:
        raise DataError(f"{', '.join(names) or 'no file'}: no episode in it")
    return out


def episodes_in(path: Path) -> Iterator[Trajectory]:
    """The episodes of a store, a file, or a folder of files, one in memory at a time. Raises `DataError` for a path
    that is none of them, and for a line that is no episode."""
    if (path / "manifest.json").is_file() or (path / "live").is_dir():
        from ..trajectories.store import Store

        return Store(path, create=False).read()
    if path.is_file():
        return _lines(path)
    if not path.is_dir():
        raise DataError(f"there is nothing at {path}: expected a store, a file of episodes, or a folder of such files")
    files = _files(path)
    if files:
        return chain.from_iterable(map(_lines, files))
    below = sorted({str(p.parent) for depth in ("*", "*/*") for p in path.glob(f"{depth}/*.jsonl") if _files(p.parent)})
    shown = ", ".join(below[:_SHOWN]) + (", ..." if len(below) > _SHOWN else "")
    hint = f"; below it there are {shown}" if below else ""
    raise DataError(f"{path} holds no episodes (.jsonl), and is no store{hint}")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.jsonl") if p.name != "metrics.jsonl")


def _lines(file: Path) -> Iterator[Trajectory]:
    from ..trajectories.store.records import trajectory

    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield trajectory(line.strip(), None)
                except (ValueError, AttributeError) as error:
                    reason = error if isinstance(error, DataError) else "not a trajectory"
                    raise DataError(f"{file}, line {number}: {_what(line, str(file), reason)}") from None


def _what(line: bytes, file: str, error: object) -> str:
    """What a line is that is no episode, and what to do with it."""
    import orjson

    try:
        held = orjson.loads(line)
    except orjson.JSONDecodeError:
        held = _whole(file, line)
        if held is None:
            begins = line.strip()[:40].decode("utf-8", "replace")
            return f"not a trajectory: expected a line of JSON, as `sparring rollout --out` writes it, got {begins!r}"
    several = isinstance(held, list) and bool(held) and isinstance(held[0], dict)
    row = held[0] if several else held
    if not isinstance(row, dict):
        return f"not a trajectory: expected a JSON object on each line, got {type(held).__name__}"
    forms = {"messages": "openai", "conversations": "sharegpt", "prompt": "trl"}
    form = next((of for key, of in forms.items() if key in row and "turns" not in row), None)
    if {"chosen", "rejected"} <= row.keys():
        if isinstance(row["chosen"], dict) and "turns" in row["chosen"]:
            return "a pair, and no episode; pairs are for: sparring train dpo --data"
        return (
            "a pair of texts, and no episode; pairs of episodes come from: sparring curate FILE --rule 'pairs "
            "by=reward'; `sparring import --forms` lists what else can be read"
        )
    if form is not None:
        return (
            f"{'chat logs' if several else 'a chat log'}, and no episode; to read it: sparring import {file} "
            f"--from {form} --out episodes.jsonl"
        )
    if several:
        return "not a trajectory: expected a JSON object on each line, got a list of them"
    if not {"id", "turns"} & row.keys():
        names = ", ".join(map(str, list(row)[:_SHOWN])) or "nothing in it"
        return (
            "not a trajectory: expected an episode, as `sparring rollout --out` writes it, got an object with "
            f"{names}; `sparring import --forms` lists what else can be read"
        )
    return str(error)


def _whole(file: str, line: bytes) -> Any:
    """A file that is one JSON value over several lines; None where it is none. Only one that begins as such is read."""
    import orjson

    if line.lstrip()[:1] not in (b"[", b"{") or Path(file).stat().st_size > _WHOLE:
        return None
    try:
        return orjson.loads(Path(file).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class Recorder:
    """Where episodes go, and what is written with each."""

    path: Path | None
    """None: nowhere."""
    meta: dict[str, Json]
    """How the agent was set up. Episodes of another set-up are not mixed into the file."""
    newer: float = 0.0
    """When the agent's weights were written; a file of before is of another model. Seconds since the epoch."""
    overwrite: bool = False
    timed: bool = False
    """Whether each record says its share of the clock (`PLAYED_S`): two runs then differ in that."""

    def known(
        self, envs: Collection[str], agent: str, wanted: Mapping[Key, Mapping[str, Json]]
    ) -> dict[Key, Trajectory]:
        """What the file holds already. `wanted`: what the records of this run say of their limits. Raises `ConfigError`
        when it is of another run."""
        path = self.path
        if path is None or not path.is_file() or self.overwrite:
            return {}
        whole, _, _ = path.read_bytes().rpartition(b"\n")  # one that was killed in a line left a part of it
        held = [Trajectory.from_json(line) for line in whole.splitlines() if line.strip()]
        own = (*NOTES, "roles", *SESSION_NOTES, "limits", TRACEBACK, PLAYED_S)
        other = next(
            (
                what
                for t in held
                for what, same in (
                    (f"environment {t.env}", t.env in envs),
                    (f"agent {t.agent}", t.agent == agent),
                    ("other settings of the agent", {k: v for k, v in t.meta.items() if k not in own} == self.meta),
                    ("other tasks, faults or seeds", _key(t) in wanted),
                    ("other limits", t.meta.get("limits") == wanted.get(_key(t), {}).get("limits")),
                )
                if not same
            ),
            "",
        )
        if not other and held and self.newer > path.stat().st_mtime:
            other = "an older model of this name"
        if other:
            raise ConfigError(
                f"{path} holds episodes of {other}: choose another --out, or pass --overwrite to delete them"
            )
        return {_key(t): t for t in held}


def refuse_other(
    recorder: Recorder, env: str, agent: str, episodes: Sequence[EpisodeSpec], limits: Limits | None = None
) -> None:
    """Raises `ConfigError` where the file is of another run, or is being written: before an agent is loaded.

    Args:
        recorder: Where the episodes will go.
        env: Its name.
        agent: What the agent is called.
        episodes: What will be played.
        limits: When episodes are cut.
    """
    if recorder.path is not None and recorder.path.is_file():
        names, specs, keys = _to_play(env, episodes, limits, None)
        with only_writer_of(recorder.path):
            recorder.known(names, agent, _notes(specs, keys))


def _to_play(
    env: str, episodes: Sequence[EpisodeSpec], limits: Limits | None, slack: int | None
) -> tuple[set[str], list[EpisodeSpec], list[Key]]:
    """Names of the environments; the episodes with their faults and limits; what makes each of them this one."""
    made = {name: make(name) for name in dict.fromkeys(e.env or env for e in episodes)}
    names = {name: name_of(of) for name, of in made.items()}
    specs = [limited(planned(made[e.env or env], e), limits, slack) for e in episodes]
    return set(names.values()), specs, [(names[e.env or env], e.task.id, str(e.plan), e.seed) for e in specs]


def _notes(specs: Sequence[EpisodeSpec], keys: Sequence[Key]) -> dict[Key, dict[str, Json]]:
    """What the record of each episode says of its limits."""
    return {key: limits_note(e) for key, e in zip(keys, specs, strict=True)}


def play_into(
    recorder: Recorder,
    env: str,
    agent: Agent,
    episodes: Sequence[EpisodeSpec],
    *,
    group: int = 1,
    slack: int | None = None,
    limits: Limits | None = None,
    on_done: Callable[[int, Trajectory], None] = lambda done, trajectory: None,
    began: Callable[[], None] = lambda: None,
) -> tuple[list[Trajectory], int]:
    """Plays what the recorder's file does not hold yet; all, in the order of `episodes`, and how many it held.

    Each episode is written and flushed as it ends. One that a bug of the environment had ended is played again.

    Args:
        recorder: Where they go.
        env: Of the episodes that name none.
        agent: Who plays.
        episodes: What is played, in one rollout, whatever their environments.
        group: Episodes of each task that stand next to each other.
        slack: Turns over the expert's before an episode is cut, as `rollout` takes it.
        limits: When episodes are cut, as `rollout` takes them.
        on_done: Told how many episodes there are now, and the newest.
        began: Called when the file has turned out to be of this run.
    """
    with only_writer_of(recorder.path) if recorder.path is not None else nullcontext():
        return _play_into(recorder, env, agent, episodes, group, slack, limits, on_done, began)


def _play_into(
    recorder: Recorder,
    env: str,
    agent: Agent,
    episodes: Sequence[EpisodeSpec],
    group: int,
    slack: int | None,
    limits: Limits | None,
    on_done: Callable[[int, Trajectory], None],
    began: Callable[[], None],
) -> tuple[list[Trajectory], int]:
    names, episodes, keys = _to_play(env, episodes, limits, slack)
    attempts = {key: i % group for i, key in enumerate(keys)}
    known = recorder.known(names, agent.name, _notes(episodes, keys))
    began()
    again = [key for key, t in known.items() if t.stop is StopReason.BUG]  # the author may have fixed it
    for key in again:
        del known[key]
    missing = [e for e, key in zip(episodes, keys, strict=True) if key not in known]
    file: Any = None
    if recorder.path is not None and recorder.path.is_file():
        _cut_part(recorder.path)
    if recorder.path is not None and (missing or recorder.overwrite):
        file = recorder.path.open("ab")
        if recorder.overwrite:
            file.truncate(0)
        elif again:
            file.close()
            write_lines((t.to_json() for t in known.values()), recorder.path)
            file = recorder.path.open("ab")

    ended = time.monotonic()

    def done(_: int, trajectory: Trajectory) -> None:
        nonlocal ended
        before, ended = ended, time.monotonic()
        took: dict[str, Json] = {PLAYED_S: round(ended - before, 6)} if recorder.timed else {}
        key = _key(trajectory)
        meta = {**trajectory.meta, **recorder.meta, **took}
        known[key] = full = replace(trajectory, meta=meta, attempt=attempts[key])
        if file is not None:
            file.write(full.to_json() + b"\n")
            file.flush()
        on_done(len(known), full)

    try:
        play(env, agent, missing, on_done=done)
    except OSError as error:
        error.filename = error.filename or (str(recorder.path) if file is not None else None)
        raise
    finally:
        if file is not None:
            with suppress(OSError):  # the disk is full, which has been said: what could be written is written
                file.close()
    return [known[key] for key in keys], len(episodes) - len(missing)


def _cut_part(path: Path) -> None:
    """Takes away the part of a line that a killed process left at the end."""
    whole, _, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)


def _key(t: Trajectory) -> Key:
    return t.env, t.task.id, t.faults, t.seed
