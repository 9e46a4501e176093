"""Episodes in a browser while they are written: what is in a store, a file or a run's folder, and a local server.

The page is that of `report`, which shows what models and tools wrote as text; here it asks for what is new every second
and a half.

Defines `Watched`, `watched`, `LiveView`, `ViewServer`.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import orjson

from ..errors import ConfigError, DataError, SparringError
from ..locks import at_work_in, writer_of
from ..trajectory import Tokens, Trajectory
from .report import Arm, Report
from .report.embed import Decode, Lines
from .report.report import live_page, live_summary
from .server import LocalServer, Reply

__all__ = ["LiveView", "Place", "ViewServer", "Watched", "watched"]

Place = Callable[[str, Trajectory], tuple[str, str]]
"""Where an episode stood (a file's path in its folder, without the suffix; empty in a store), and the episode -> the
arm and the condition that it is shown under."""

_SLICE_S = 0.5
"""Of reading, for one answer: a large store comes in piece by piece."""
_LINES_CHARS = 1 << 20
_BLOCK = 1 << 22
_METRICS = "metrics.jsonl"
_MANIFEST = "manifest.json"
_RUNS = (_METRICS, "recipe.json", "command.json", "run.yaml")
"""One of these is in the folder of a run or a recipe, which one process at a time writes."""


class Watched(Protocol):
    """What is looked at."""

    problems: int
    """Lines that could not be read."""

    def new(self) -> Iterator[tuple[str, Trajectory] | None]:
        """What has come since the last call, with where it stood; None: nothing yet, but it is being looked for.
        Whoever asks may stop anywhere and go on later."""
        ...

    def curves(self) -> dict[str, list[dict[str, float]]]:
        """Training stage -> its rows, as they are now."""
        ...


def watched(path: Path, newest: int) -> Watched:
    """What `path` is: a store, a file of episodes, or a folder of such. Of what is there already, about the newest
    `newest` episodes are read. Raises `DataError` where there is nothing."""
    if not path.exists():
        raise DataError(f"there is nothing at {path}: expected a store, a file of episodes, or a run's folder")
    if (path / _MANIFEST).is_file():
        return _StoreTail(path, newest)
    return _Files(path, newest)


class _Files:
    """A file of episodes, or all files and stores in a folder, the new ones too."""

    def __init__(self, path: Path, newest: int) -> None:
        self.path = path
        self.newest = newest
        self.problems = 0
        self._at: dict[Path, int] = {}
        self._stores: dict[Path, _StoreTail] = {}

    def new(self) -> Iterator[tuple[str, Trajectory] | None]:
        for folder in self._store_folders():
            if folder not in self._stores:
                self._stores[folder] = _StoreTail(folder, self.newest)
            name = folder.relative_to(self.path).as_posix()
            for found in self._stores[folder].new():
                yield found and (name, found[1])
        for file in self._files():
            label = file.stem if file == self.path else file.relative_to(self.path).with_suffix("").as_posix()
            with suppress(FileNotFoundError):  # removed since it was listed
                for t in self._tail(file):
                    yield label, t

    def curves(self) -> dict[str, list[dict[str, float]]]:
        found: dict[str, list[dict[str, float]]] = {}
        for file in sorted(self.path.rglob(_METRICS)) if self.path.is_dir() else ():
            with suppress(OSError, ValueError):  # its last line is being written
                lines = file.read_bytes().rpartition(b"\n")[0].splitlines()
                rows = [{k: v for k, v in json.loads(line).items() if v is not None} for line in lines]
                if rows:
                    found[file.parent.relative_to(self.path.parent).as_posix()] = rows
        return found

    def _store_folders(self) -> list[Path]:
        found = self.path.rglob(_MANIFEST) if self.path.is_dir() else ()
        return sorted(file.parent for file in found if (file.parent / "live").is_dir())

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        found = (f for f in self.path.rglob("*.jsonl") if f.name != _METRICS)
        return sorted(f for f in found if not any(folder in f.parents for folder in self._stores))

    def _tail(self, file: Path) -> Iterator[Trajectory]:
        size = file.stat().st_size
        if file not in self._at:
            self._at[file] = _start_of_last(file, self.newest)
        if size < self._at[file]:
            raise _Restarted
        with file.open("rb") as lines:
            lines.seek(max(0, self._at[file] - 1))
            if self._at[file] and lines.read(1) != b"\n":
                raise _Restarted
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._at[file] += len(line)
                try:
                    if line.strip():
                        yield Trajectory.from_json(line)
                except DataError:
                    self.problems += 1


class _StoreTail:
    """A store. Episodes are met once, whether they are read from a segment or, once sealed, from a part."""

    def __init__(self, path: Path, newest: int) -> None:
        from ..store import Store

        Store(path, create=False)  # says what is wrong with a folder that is none
        self.path = path
        self.newest = newest
        self.problems = 0
        self._parts: set[str] | None = None
        """Parts that were read; None: it is the first time."""
        self._at: dict[str, int] = {}
        self._seen: set[bytes] = set()

    def curves(self) -> dict[str, list[dict[str, float]]]:
        return {}

    def new(self) -> Iterator[tuple[str, Trajectory] | None]:
        from ..store.parts import Manifest, Where, read_part
        from ..store.records import episode_key
        from ..store.segments import segments

        manifest = Manifest.load(self.path)
        for name, skip in self._unread(manifest.parts):
            with suppress(FileNotFoundError):  # merged with others since; the manifest that says so comes next
                for i, t in enumerate(read_part(self.path / "sealed" / name, Where())):
                    key = episode_key(t.id, t.attempt)
                    if key not in self._seen:
                        self._seen.add(key)
                        yield ("", t) if i >= skip else None
                self._parts = (self._parts or set()) | {name}
        for name in segments(self.path / "live"):
            if name not in manifest.covered:
                with suppress(FileNotFoundError):  # sealed since
                    for t in self._segment(name):
                        yield "", t

    def _unread(self, parts: Any) -> list[tuple[str, int]]:
        """Parts to read, oldest first, and how many of each are too old to show."""
        if self._parts is not None:
            return [(p.name, 0) for p in parts if p.name not in self._parts]
        self._parts = set()
        out: list[tuple[str, int]] = []
        room = self.newest
        for part in reversed(parts):
            if room > 0:
                out.append((part.name, max(0, part.episodes - room)))
                room -= part.episodes
            else:
                self._parts.add(part.name)
        return out[::-1]

    def _segment(self, name: str) -> Iterator[Trajectory]:
        from ..store.records import Damaged, decode

        with (self.path / "live" / name).open("rb") as lines:
            lines.seek(self._at.setdefault(name, 0))
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self._at[name] += len(line)
                try:
                    stored = decode(line)
                    if stored.key not in self._seen:
                        self._seen.add(stored.key)
                        yield stored.trajectory()
                except (Damaged, DataError):
                    self.problems += 1


class _Restarted(Exception):
    """A file does not hold what was read of it: it was written anew."""


def _start_of_last(file: Path, n: int) -> int:
    """Where the last `n` lines of a file begin."""
    with file.open("rb") as data:
        end = data.seek(0, os.SEEK_END)
        left = n + 1  # the newline before the first of them
        while end > 0:
            begin = max(0, end - _BLOCK)
            data.seek(begin)
            block = data.read(end - begin)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                left -= 1
                if left == 0:
                    return begin + at + 1
            end = begin
    return 0


class LiveView:
    """What the page is told: the episodes as lines, and the numbers above them. Safe for several threads."""

    def __init__(
        self,
        path: Path,
        *,
        place: Place | None = None,
        newest: int = 5_000,
        decode: Decode | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`newest`: about how many episodes are kept; older ones are let go of when half as many have come again."""
        if newest < 1:
            raise ConfigError(f"at least one episode has to be kept, got {newest}")
        self.path = path
        self.newest = newest
        self.decode = decode
        self.place = place or _by_agent
        self._clock = clock
        self._lock = threading.Lock()
        self._epoch = 0
        self._begin()

    def _begin(self) -> None:
        self._watched = watched(self.path, self.newest)
        self._epoch += 1
        self._lines = Lines(decode=self.decode)
        self._held: deque[tuple[str, str, Trajectory]] = deque()
        self._coming: Iterator[tuple[str, Trajectory] | None] | None = None
        self._problem = ""
        self._summary, self._version, self._not_before = "", "", -math.inf

    def lines(self, start: int, epoch: int) -> dict[str, Any]:
        """The lines from `start` on, about a megabyte of them. Another `epoch` than asked for: these are from the
        beginning, and what was answered before counts no more."""
        with self._lock:
            self._read()
            if epoch != self._epoch:
                start = 0
            lines, size = [], 0
            for line in islice(self._lines.lines, max(0, start), None):
                lines.append(line)
                size += len(line)
                if size > _LINES_CHARS:
                    break
            total = len(self._lines.lines) + (self._coming is not None)  # one more than is there: ask again at once
            return {"epoch": self._epoch, "lines": lines, "total": total, "problem": self._problem}

    def summary(self, have: str) -> str | None:
        """What is above the episodes; None: it is what `have` names. Made anew when that has cost little of the
        time since the last."""
        with self._lock:
            curves = self._watched.curves()
            rows = sum(map(len, curves.values()))
            at_work = self._at_work()
            version = f"{self._epoch}-{self._lines.episodes}-{len(self._held)}-{rows}-{at_work}"
            began = self._clock()
            if version != self._version and began >= self._not_before:
                cells: dict[str, dict[str, list[Trajectory]]] = {}
                for arm, condition, t in self._held:
                    cells.setdefault(arm, {}).setdefault(condition, []).append(t)
                arms = [Arm(name, "", {**conditions}) for name, conditions in cells.items()]
                self._summary = live_summary(Report("", arms=arms, curves=curves), self._lines, version, at_work)
                self._version = version
                self._not_before = self._clock() + 10 * (self._clock() - began)
            return None if have == self._version else self._summary

    def _at_work(self) -> str:
        """Which process is at work in what is looked at, in words; empty: that is not known, as of a store."""
        worker = writer_of(self.path) if self.path.is_file() else at_work_in(self.path)
        if worker is not None:
            return f"running: {worker}"
        kept = any((self.path / name).exists() for name in _RUNS)
        return "not running" if kept else ""

    def _read(self) -> None:
        until = self._clock() + _SLICE_S
        try:
            self._coming = self._coming or self._watched.new()
            for found in self._coming:
                if found is not None:
                    arm, condition = self.place(*found)
                    self._lines.add(arm, condition, [found[1]])
                    self._held.append((arm, condition, _light(found[1])))
                if self._clock() > until:
                    break
            else:
                self._coming = None
            self._problem = (
                f"{n} line{'' if n == 1 else 's'} could not be read" if (n := self._watched.problems) else ""
            )
        except _Restarted:
            self._begin()
            self._read()
        except (OSError, SparringError) as error:
            self._coming = None
            self._problem = str(error)
        if len(self._held) > self.newest + self.newest // 2:
            old = len(self._held) - self.newest
            self._lines.forget(old)
            for _ in range(old):
                self._held.popleft()
            self._epoch += 1


def _by_agent(label: str, t: Trajectory) -> tuple[str, str]:
    return t.agent or label or "episodes", t.faults.partition("@")[0] or "clean"


def _light(t: Trajectory) -> Trajectory:
    """What the numbers need of an episode: no texts of results, and of tokens only which were sampled."""
    turns = tuple(
        replace(
            turn,
            results=tuple(replace(r, content="", value=None, error=None) for r in turn.results),
            messages=(),
        )
        for turn in t.turns
    )
    tokens = t.tokens
    if tokens is not None:
        tokens = Tokens((0,) * len(tokens), tokens.sampled, (0.0,) * len(tokens))
    return replace(t, prompt=(), tools=(), turns=turns, tokens=tokens)


# ---- the server ------------------------------------------------------------------------------------------------------


class ViewServer(LocalServer):
    """Serves a view to the person at this machine."""

    def __init__(self, view: LiveView, *, title: str, port: int = 0) -> None:
        """`port` 0: any that is free. Raises `ConfigError` for one that cannot be had."""
        self.view = view
        about = f"The newest episodes, about {view.newest:,} at most, as they are written."
        page, policy = live_page(title, about)
        super().__init__(page.encode(), policy, port)

    def get(self, what: str, query: dict[str, str]) -> Reply | None:
        if what == "lines":
            return Reply(orjson.dumps(self.view.lines(_int(query.get("from")), _int(query.get("epoch")))))
        if what == "summary":
            page = self.view.summary(query.get("have", ""))
            return Reply(b"", status=204) if page is None else Reply.html(page.encode())
        return None


def _int(text: str | None) -> int:
    try:
        return int(text or 0) if len(text or "") < 20 else 0
    except ValueError:
        return 0
