"""A folder of episodes: append, read, query, seal, verify, clean up. Any number of processes at once, on a local disk.

    store/
      manifest.json     which parts count; replaced as a whole
      live/*.jsonl      segments: appended to by one writer each, one line an episode (`records`, `segments`)
      sealed/*.parquet  parts: Parquet (`parts`)
      damaged/          segments in which a line was not what had been written, kept as they were found
      upkeep.lock       held while sealing or cleaning up
      reading.lock      shared by readers: nothing that they may still open is removed

An episode that `append` has taken survives kill -9 of any process: the kernel has it. It survives a power failure once
it is sealed, or at once with `Store(path, sync=True)`. Readers meet each (episode id, attempt) once: who was stopped
before it knew of an append may repeat it.

Defines `Store`, `Result`, `Sealed`, `Cleaned`, `Verified`, `StoreWriteError`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, MissingExtra, is_full_disk
from ..trajectory import Trajectory
from . import parts as sealed_parts
from .files import locked, try_lock
from .parts import Manifest, PartWriter, StorePart, Where, arrow, read_part, rows_table
from .records import Damaged, Stored, encode, episode_key
from .segments import Segment, fix, scan, segments

__all__ = ["Cleaned", "Result", "Sealed", "Store", "StoreWriteError", "Verified"]

_UPKEEP, _READING = "upkeep.lock", "reading.lock"
_LIVE, _SEALED, _DAMAGED = "live", "sealed", "damaged"
_ABANDONED_S = 3600.0
"""Age at which a file that was never given its final name is taken for left over."""


class StoreWriteError(DataError, OSError):
    """The disk did not take what was written: it is full, say. What was acknowledged before is still there."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a query answered."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        """One dict a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What sealing did."""

    episodes: int = 0
    """That are in a part now."""
    repeated: int = 0
    """Copies of episodes that were there already."""
    segments: int = 0
    busy: int = 0
    """Segments that another process still writes; their turn comes when it closes them."""
    damaged: int = 0
    """Lines that were not what had been written; their segments are kept in `damaged`."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a clean-up did."""

    dropped: int = 0
    """Episodes that were too old, or too many."""
    merged: int = 0
    """Parts that were rewritten."""
    removed: int = 0
    """Files that nothing needs any more."""
    waiting: int = 0
    """Files that nothing needs but a reader that is under way; the next clean-up removes them."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of everything found."""

    episodes: int
    parts: int
    segments: int
    problems: tuple[str, ...] = ()
    """What is damaged or missing, one line each."""

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What counted at one moment."""

    manifest: Manifest
    live: tuple[str, ...]


class Store:
    """Episodes in a folder.

    store = Store("runs/store")
    store.append(trajectory)
    store.query("select env, avg(success::int) from episodes group by env")
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        sync: bool = False,
        segment_bytes: int = 64 << 20,
        part_episodes: int = 50_000,
    ) -> None:
        """Opens a store, or makes one; fixes what writers that were killed left behind.

        `create`: False refuses a folder that is no store yet. `sync`: an append returns once the disk has it.
        `segment_bytes`: where a writer begins its next segment; `part_episodes`: the most that one sealed file holds.
        Raises `DataError` for a folder that is something else, OSError for one that cannot be read.
        """
        if segment_bytes < 1 or part_episodes < 1:
            raise ConfigError(f"segment_bytes and part_episodes have to be positive: {segment_bytes}, {part_episodes}")
        self.path = Path(path)
        self.sync = sync
        self.segment_bytes = segment_bytes
        self.part_episodes = part_episodes
        self._segment: Segment | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        if not (self.path / sealed_parts.MANIFEST).is_file():
            self._make(create)
        Manifest.load(self.path)
        for name in segments(self.path / _LIVE):
            with suppress(FileNotFoundError, PermissionError):  # sealed by another; or we may only read
                fix(self.path / _LIVE / name)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def append(self, t: Trajectory) -> None:
        """Adds a finished episode. Once this returns, kill -9 of this process does not lose it.

        Raises `StoreWriteError` when the disk does not take it, and nothing of it is there; `DataError` for an episode
        that could not be read back (a reward that is NaN, say).
        """
        if self._pid != os.getpid():
            self._begin_child()
        line = encode(t, time.time())
        with self._lock, self._writing(f"append episode {t.id!r}"):
            if self._segment is not None and (self._segment.broken or self._segment.size >= self.segment_bytes):
                self._close_segment()
            if self._segment is None:
                self._segment = Segment(self.path / _LIVE, sync=self.sync)
            self._segment.append(line)

    def close(self) -> None:
        """Ends this writer's segment, so that anyone may seal it. Appending again begins another."""
        if self._pid != os.getpid():
            self._begin_child()
        with self._lock:
            self._close_segment()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        """Travels to another process as its settings."""
        return _reopen, (str(self.path), self.sync, self.segment_bytes, self.part_episodes)

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read(
        self,
        *,
        env: str | None = None,
        agent: str | None = None,
        success: bool | None = None,
        fault: str | None = None,
        outcome: str | None = None,
    ) -> Iterator[Trajectory]:
        """The episodes that are there now, each once: sealed ones, then live ones.

        `fault`: a kind that struck. `outcome`: of any of its calls. Memory does not grow with what is sealed; a live
        episode takes about 100 bytes while it is read. Raises `DataError` for a record that is damaged.
        """
        where = Where(env, agent, success, fault, outcome)
        with self._snapshot() as snapshot:
            for part in snapshot.manifest.parts:
                yield from read_part(self.path / _SEALED / part.name, where)
            for stored in self._live(snapshot):
                if where.admits(stored.record):
                    yield stored.trajectory()

    def __iter__(self) -> Iterator[Trajectory]:
        return self.read()

    def __len__(self) -> int:
        with self._snapshot() as snapshot:
            sealed = sum(part.episodes for part in snapshot.manifest.parts)
            return sealed + sum(1 for _ in self._live(snapshot))

    def __bool__(self) -> bool:
        """An empty store is a store."""
        return True

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Result:
        """Answers SQL over the views `episodes` (a row an episode) and `calls` (a row a tool call), by DuckDB.

        `?` in the SQL stands for the parameters in turn. A query sees this store and nothing else: no file, no network.
        Raises `DataError` for SQL that DuckDB refuses, `MissingExtra` where DuckDB is not installed.
        """
        try:
            import duckdb
        except ImportError:
            raise MissingExtra("duckdb", "store") from None
        with self._snapshot() as snapshot, duckdb.connect(":memory:") as connection:
            self._views(connection, snapshot)
            try:
                cursor = connection.execute(sql, list(parameters))
                if cursor is None:
                    raise DataError("the query is empty: give one statement of SQL")
                columns = tuple(column[0] for column in cursor.description or ())
                return Result(columns, cursor.fetchall())
            except duckdb.Error as error:
                raise DataError(f"the query cannot be answered: {error}") from None

    def sizes(self) -> list[tuple[str, int, int]]:
        """(file, episodes, bytes) of each part and segment, in the order in which they are read."""
        with self._snapshot() as snapshot:
            out = [(f"{_SEALED}/{p.name}", p.episodes, p.bytes) for p in snapshot.manifest.parts]
            for name in snapshot.live:
                path = self.path / _LIVE / name
                out.append((f"{_LIVE}/{name}", sum(1 for _ in scan(path)), path.stat().st_size))
        return out

    # ---- upkeep ------------------------------------------------------------------------------------------------------

    def seal(self) -> Sealed:
        """Moves the episodes of all segments that nobody writes any more into Parquet; ends this writer's own first.

        Stopped at any point, all is there, and the next call does the rest. Raises `StoreWriteError` on a full disk.
        """
        self.close()
        with self._upkeep("seal the store") as manifest:
            free = [n for n in segments(self.path / _LIVE) if n not in manifest.covered]
            ready = [n for n in free if fix(self.path / _LIVE / n)]
            snapshot = _Snapshot(manifest, tuple(ready))
            keys, damaged = self._live_keys(snapshot)
            repeated = self._sealed_among(keys, manifest)
            count = copies = 0
            with self._new_parts() as writer:
                seen: set[bytes] = set()
                for name in ready:
                    for line in scan(self.path / _LIVE / name):
                        if line.stored is None:
                            continue
                        if line.stored.key in seen or line.stored.key in repeated:
                            copies += 1
                            continue
                        seen.add(line.stored.key)
                        writer.add(line.stored)
                        count += 1
                for name in damaged:
                    self._set_aside(name)
                added = writer.finish()
                if ready:
                    manifest = self._replace(manifest, manifest.parts + added, (*manifest.covered, *ready))
            self._remove_unneeded(manifest)
        return Sealed(count, copies, len(ready), len(free) - len(ready), sum(damaged.values()))

    def gc(
        self, *, max_age_days: float | None = None, max_episodes: int | None = None, merge_below: int = 10_000
    ) -> Cleaned:
        """Drops what is too old, merges small parts, and removes what nothing needs. Looks at sealed episodes only.

        `max_age_days`: since the append. `max_episodes`: the newest that stay. `merge_below`: parts of fewer episodes
        are merged. Raises `StoreWriteError` on a full disk, and then all is as before.
        """
        if (max_age_days is not None and max_age_days < 0) or (max_episodes is not None and max_episodes < 0):
            raise ConfigError(f"expected nothing below 0, got max_age_days={max_age_days}, max_episodes={max_episodes}")
        with self._upkeep("clean up the store") as manifest:
            since = self._oldest_kept(manifest, max_age_days, max_episodes)
            kept = {p.name: self._newer(p, since) for p in manifest.parts}
            rewrite = {p.name for p in manifest.parts if 0 < kept[p.name] < p.episodes}
            small = [p.name for p in manifest.parts if kept[p.name] and min(kept[p.name], p.episodes) < merge_below]
            if len(small) > 1:
                rewrite.update(small)
            dropped = sum(p.episodes - kept[p.name] for p in manifest.parts)
            if rewrite or dropped:
                with self._new_parts() as writer:
                    for name in (p.name for p in manifest.parts if p.name in rewrite):
                        for table in sealed_parts.whole_tables(self.path / _SEALED / name):
                            writer.add_table(sealed_parts.renewed(_since(table, since)))
                    stay = tuple(p for p in manifest.parts if kept[p.name] and p.name not in rewrite)
                    manifest = self._replace(manifest, stay + writer.finish(), manifest.covered)
            removed, waiting = self._remove_unneeded(manifest)
        return Cleaned(dropped, len(rewrite), removed, waiting)

    def verify(self) -> Verified:
        """Reads every byte: checksums, counts, keys, and whether each record is an episode. Changes nothing."""
        problems: list[str] = []
        seen: set[bytes] = set()
        with self._snapshot() as snapshot:
            for part in snapshot.manifest.parts:
                problems += self._part_problems(part, seen)
            for name in snapshot.live:
                for line in scan(self.path / _LIVE / name):
                    try:
                        if line.stored is None:
                            raise Damaged(line.problem)
                        t = line.stored.trajectory()
                        if episode_key(t.id, t.attempt) != line.stored.key:
                            raise Damaged("its key is another episode's")
                        seen.add(line.stored.key)
                    except (Damaged, DataError) as error:
                        problems.append(f"{_LIVE}/{name}, line {line.number}: {error}")
            return Verified(len(seen), len(snapshot.manifest.parts), len(snapshot.live), tuple(problems))

    # ---- inside: writing ---------------------------------------------------------------------------------------------

    def _make(self, create: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; expected the folder of a store")
        if not create:
            raise DataError(f"there is no store in {self.path}: `sparring store import FILE.jsonl` makes one")
        known = {_UPKEEP, _READING, _LIVE, _SEALED}
        with self._writing("make the store"):
            self.path.mkdir(parents=True, exist_ok=True)
            strange = [n for n in os.listdir(self.path) if n not in known and not n.startswith(sealed_parts.MANIFEST)]
            if strange:
                raise DataError(f"{self.path} holds other things ({strange[0]}); expected a store, or an empty folder")
            with locked(self.path / _UPKEEP, "making the store"):
                for folder in (_LIVE, _SEALED):
                    (self.path / folder).mkdir(exist_ok=True)
                (self.path / _READING).touch()
                if not (self.path / sealed_parts.MANIFEST).is_file():  # another process may have been first
                    Manifest().save(self.path)

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _begin_child(self) -> None:
        """After a fork: the segment is the parent's."""
        segment, self._segment = self._segment, None
        self._lock, self._pid = threading.Lock(), os.getpid()
        if segment is not None:
            segment.forget()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, DataError):
                raise
            hint = "make room and do it again" if is_full_disk(error) else "do it again once that is fixed"
            said = error.strerror or str(error)
            failure = StoreWriteError(f"{self.path}: cannot {what}: {said}; what was stored before is safe, {hint}")
            failure.errno = error.errno
            raise failure from error

    # ---- inside: reading ---------------------------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self) -> Iterator[_Snapshot]:
        """What counts now; nothing of it is removed meanwhile."""
        with locked(self.path / _READING, "removing files", shared=True):
            live = segments(self.path / _LIVE)  # before the manifest: what is sealed in between is read there
            manifest = Manifest.load(self.path)
            yield _Snapshot(manifest, tuple(n for n in live if n not in manifest.covered))

    def _live(self, snapshot: _Snapshot) -> Iterator[Stored]:
        """The live episodes, each once, without those that are sealed too. Raises `DataError` for a damaged line."""
        seen: set[bytes] = set()
        if snapshot.manifest.parts and snapshot.live:
            seen = self._sealed_among(self._live_keys(snapshot)[0], snapshot.manifest)
        for name in snapshot.live:
            for line in scan(self.path / _LIVE / name):
                if line.stored is None:
                    raise DataError(
                        f"{self.path / _LIVE / name}, line {line.number}: {line.problem}; "
                        f"`sparring store seal` sets it aside"
                    )
                if line.stored.key not in seen:
                    seen.add(line.stored.key)
                    yield line.stored

    def _live_keys(self, snapshot: _Snapshot) -> tuple[set[bytes], dict[str, int]]:
        """Keys of the live episodes, and the number of damaged lines of segments that have some."""
        keys: set[bytes] = set()
        damaged: dict[str, int] = {}
        for name in snapshot.live:
            for line in scan(self.path / _LIVE / name):
                if line.stored is None:
                    damaged[name] = damaged.get(name, 0) + 1
                else:
                    keys.add(line.stored.key)
        return keys, damaged

    def _sealed_among(self, keys: set[bytes], manifest: Manifest) -> set[bytes]:
        """Which of them are sealed."""
        found: set[bytes] = set()
        for part in manifest.parts if keys else ():
            found.update(key for key in sealed_parts.keys_of(self.path / _SEALED / part.name) if key in keys)
        return found

    def _views(self, connection: Any, snapshot: _Snapshot) -> None:
        """Defines `episodes` and `calls`, then closes the door."""
        connection.register("live_episodes", rows_table(list(self._live(snapshot))))
        source = "select * from live_episodes"
        if snapshot.manifest.parts:
            files = [str((self.path / _SEALED / part.name).absolute()) for part in snapshot.manifest.parts]
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            source = f"select * from read_parquet([{listed}], union_by_name = true) union all by name {source}"
            connection.execute(f"set allowed_paths = [{listed}]")
        connection.execute("set timezone = 'UTC'")
        connection.execute("set python_enable_replacements = false")
        connection.execute("set enable_external_access = false")
        connection.execute(f"create view episodes as {source}")
        connection.execute(
            "create view calls as select id, attempt, env, agent, task, success, "
            "unnest(calls, max_depth := 2) from episodes"
        )
        connection.execute("set lock_configuration = true")

    def _part_problems(self, part: StorePart, seen: set[bytes]) -> list[str]:
        """Adds the part's keys to `seen`."""
        path = self.path / _SEALED / part.name
        place = f"{_SEALED}/{part.name}"
        try:
            if path.stat().st_size != part.bytes or sealed_parts.file_hash(path) != part.blake2b:
                return [f"{place}: the file is not what was sealed (size or checksum)"]
            keys = sealed_parts.keys_of(path)
            problems = []
            if len(keys) != part.episodes:
                problems.append(f"{place}: holds {len(keys)} episodes, the manifest says {part.episodes}")
            for key, t in zip(keys, read_part(path, Where()), strict=True):
                if episode_key(t.id, t.attempt) != key:
                    problems.append(f"{place}: episode {t.id!r}: its key is another episode's")
                if key in seen:
                    problems.append(f"{place}: episode {t.id!r}, attempt {t.attempt}, is sealed twice")
                seen.add(key)
        except FileNotFoundError:
            return [f"{place}: is not there"]
        except DataError as error:
            return [f"{place}: {error}"]
        return problems

    # ---- inside: upkeep ----------------------------------------------------------------------------------------------

    @contextmanager
    def _upkeep(self, what: str) -> Iterator[Manifest]:
        """The manifest, which nobody else changes meanwhile."""
        with self._writing(what), locked(self.path / _UPKEEP, "sealing or cleaning up"):
            yield Manifest.load(self.path)

    @contextmanager
    def _new_parts(self) -> Iterator[PartWriter]:
        """What it wrote is removed again unless the manifest came to name it."""
        writer = PartWriter(self.path / _SEALED, self.part_episodes)
        try:
            yield writer
        except BaseException:
            with suppress(OSError, DataError):
                named = {p.name for p in Manifest.load(self.path).parts}
                if not named & {p.name for p in writer.parts}:
                    writer.discard()
            raise

    def _replace(self, manifest: Manifest, parts: tuple[StorePart, ...], covered: tuple[str, ...]) -> Manifest:
        there = set(segments(self.path / _LIVE))
        new = Manifest(parts, tuple(n for n in covered if n in there), manifest.generation + 1)
        new.save(self.path)
        return new

    def _oldest_kept(self, manifest: Manifest, max_age_days: float | None, max_episodes: int | None) -> int | None:
        """Time of append, microseconds since the epoch, of the oldest episode that stays; None: all stay."""
        import numpy as np

        limits: list[int] = []
        if max_age_days is not None:
            limits.append(round((time.time() - max_age_days * 86400) * 1e6))
        if max_episodes is not None and sum(p.episodes for p in manifest.parts) > max_episodes:
            times = [sealed_parts.times_of(self.path / _SEALED / p.name) for p in manifest.parts]
            newest = np.sort(np.concatenate(times))[::-1]
            limits.append(int(newest[max_episodes - 1]) if max_episodes else int(newest[0]) + 1)
        return max(limits, default=None)

    def _newer(self, part: StorePart, since: int | None) -> int:
        """How many episodes of the part stay."""
        if since is None:
            return part.episodes
        return int((sealed_parts.times_of(self.path / _SEALED / part.name) >= since).sum())

    def _set_aside(self, segment: str) -> None:
        """Keeps a damaged segment under a second name; the first goes when its good lines are sealed."""
        folder = self.path / _DAMAGED
        folder.mkdir(exist_ok=True)
        with suppress(FileExistsError):  # by a seal that was stopped
            os.link(self.path / _LIVE / segment, folder / segment)

    def _remove_unneeded(self, manifest: Manifest) -> tuple[int, int]:
        """Removes segments that are sealed, parts that do not count and files without a final name; (removed, waiting).

        Only while we hold the upkeep lock: nobody else is writing a part. Files that may be read are left while anyone
        reads, and so is what the disk refuses to remove.
        """
        live, sealed = self.path / _LIVE, self.path / _SEALED
        named = {p.name for p in manifest.parts}
        unneeded = [live / n for n in segments(live) if n in manifest.covered]
        unneeded += [sealed / n for n in sorted(os.listdir(sealed)) if n not in named]
        left_over = [self.path / n for n in os.listdir(self.path) if n.endswith(".new")]
        for name in os.listdir(live):
            with suppress(OSError):
                if name.endswith(".new") and time.time() - (live / name).stat().st_mtime > _ABANDONED_S:
                    left_over.append(live / name)
        removed = 0
        with ExitStack() as stack:
            fd = os.open(self.path / _READING, os.O_RDWR | os.O_CREAT, 0o644)
            stack.callback(os.close, fd)
            alone = try_lock(fd)
            for path in [*left_over, *(unneeded if alone else ())]:
                with suppress(OSError):
                    os.unlink(path)
                    removed += 1
        return removed, 0 if alone else len(unneeded)


def _reopen(path: str, sync: bool, segment_bytes: int, part_episodes: int) -> Store:
    return Store(path, sync=sync, segment_bytes=segment_bytes, part_episodes=part_episodes)


def _since(table: Any, since: int | None) -> Any:
    """The rows that were appended at that time (microseconds since the epoch) or later."""
    if since is None:
        return table
    pa = arrow()
    return table.filter(pa.array(table["at"].cast(pa.int64()).to_numpy() >= since))
