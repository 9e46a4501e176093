"""What people say about two episodes: a file of labels, and how far labellers agree.

The file is JSON lines, appended to by any number of processes and never rewritten. Two kinds of line:

    {"schema_version":1,"id":"9f..","a":"EPISODE","b":"EPISODE","label":"a","labeller":"ada","note":"","time":"2026-..."}
    {"schema_version":1,"undo":"9f..","labeller":"ada","time":"2026-..."}

`label` is "a" or "b" (this one went better), "tie", or "bad" (the task itself is: no answer would mean anything). An
episode is named by its id, and by `attempt_a`, `attempt_b` where that is not 0. Of several labels that one labeller
gave the same two episodes the last counts, so that a change of mind is another label.

Defines `Label`, `LabelFile`, `read_labels`; `agreement`, `cohen_kappa`, `krippendorff_alpha`; `majority`. The pairs
are made by `curation.pairs_from_labels`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import ConfigError, DataError
from .store.files import sync_folder, write_all
from .trajectory import Trajectory

__all__ = [
    "Agreement",
    "Choice",
    "Key",
    "Label",
    "LabelFile",
    "Tally",
    "agreement",
    "cohen_kappa",
    "key_of",
    "krippendorff_alpha",
    "majority",
    "read_labels",
]

LABELS_VERSION = 1

Choice = Literal["a", "b", "tie", "bad"]
Key = tuple[str, int]
"""What makes an episode this one: its id and its attempt."""

_BLOCK = 1 << 16
_RESAMPLES = 1000


def key_of(t: Trajectory) -> Key:
    """The key of an episode."""
    return t.id, t.attempt


@dataclass(frozen=True, slots=True)
class Label:
    """One judgement of one person about two episodes of one task."""

    a: str
    """Id of an episode."""
    b: str
    label: Choice
    labeller: str
    note: str = ""
    time: str = ""
    """ISO 8601, UTC."""
    attempt_a: int = 0
    attempt_b: int = 0
    left: str = ""
    """Which side was on the left, "a" or "b": to see whether labellers lean to a side. Empty: not known."""
    id: str = ""
    """What an undo names; given by `LabelFile.add`."""

    @property
    def pair(self) -> tuple[Key, Key]:
        """The two episodes, in an order that does not depend on which was called a."""
        a, b = (self.a, self.attempt_a), (self.b, self.attempt_b)
        return (a, b) if a <= b else (b, a)

    @property
    def value(self) -> Key | Literal["tie", "bad"]:
        """What was said, in a form that is the same whichever episode was called a: the better episode, or the word."""
        if self.label == "a":
            return self.a, self.attempt_a
        return (self.b, self.attempt_b) if self.label == "b" else self.label

    def record(self) -> dict[str, Any]:
        """As it is in the file."""
        out: dict[str, Any] = {
            "schema_version": LABELS_VERSION, "id": self.id, "a": self.a, "b": self.b, "label": self.label,
            "labeller": self.labeller, "note": self.note, "time": self.time,
        }  # fmt: skip
        if self.attempt_a or self.attempt_b:
            out |= {"attempt_a": self.attempt_a, "attempt_b": self.attempt_b}
        return out | {"left": self.left} if self.left else out


# ---- the file --------------------------------------------------------------------------------------------------------


class LabelFile:
    """Labels in a file. `add` and `undo` return once the disk has the line; safe for threads and for processes.

    A process that was killed in the middle of a line leaves a torn end: it was never acknowledged, is not read, and the
    next write cuts it off.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file need not be there yet. Raises `DataError` for one that holds something else."""
        self.path = Path(path)
        self._lock = threading.Lock()
        self._at = 0
        self._lines = 0
        self._given: dict[str, Label] = {}  # in the order of the file
        self._undone: set[str] = set()
        self.labels()

    def add(self, label: Label) -> Label:
        """Appends a label; what was written, with its id and time. Raises OSError when the disk does not take it, and
        nothing of it is there; `ConfigError` for one that cannot be meant."""
        if label.label not in get_args(Choice):
            raise ConfigError(f"a label is one of {', '.join(get_args(Choice))}, got {label.label!r}")
        if not label.a or not label.b or label.a == label.b:
            raise ConfigError(f"a label compares two episodes, got {label.a!r} and {label.b!r}")
        full = replace(label, id=secrets.token_hex(8), time=label.time or _now())
        with self._lock:
            self._append(full.record())
            self._read()
            return full

    def undo(self, labeller: str) -> Label | None:
        """Takes back what this labeller said last; None where there is nothing left. Raises OSError as `add` does."""
        with self._lock:
            self._read()
            own = [x for x in self._given.values() if x.labeller == labeller and x.id not in self._undone]
            if not own:
                return None
            self._append({"schema_version": LABELS_VERSION, "undo": own[-1].id, "labeller": labeller, "time": _now()})
            self._read()
            return own[-1]

    def labels(self) -> list[Label]:
        """The labels that count: nothing undone, and of each labeller the last about the same two episodes."""
        with self._lock:
            self._read()
            last: dict[tuple[str, tuple[Key, Key]], Label] = {}
            for label in self._given.values():
                if label.id not in self._undone:
                    last.pop((label.labeller, label.pair), None)
                    last[label.labeller, label.pair] = label
            return list(last.values())

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"  # lone surrogates, too
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # held for one line
            end = _whole(fd)
            if end < os.fstat(fd).st_size:
                os.ftruncate(fd, end)
            try:
                write_all(fd, line)
                os.fsync(fd)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)
        if new:
            sync_folder(self.path.parent)

    def _read(self) -> None:
        """What has been appended since the last time, by whomever."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # torn, or still being written
                if line.strip():
                    self._take(line, self._lines + 1)
                self._at += len(line)
                self._lines += 1

    def _take(self, line: bytes, number: int) -> None:
        where = f"{self.path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a label as a JSON object, such as `sparring label` writes")
        version = record.get("schema_version", LABELS_VERSION)
        if not isinstance(version, int) or version > LABELS_VERSION:
            raise DataError(
                f"{where}: schema version {version!r}, this Sparring reads up to {LABELS_VERSION}: upgrade sparring"
            )
        if "undo" in record:
            self._undone.add(str(record["undo"]))
            return
        types = {"a": str, "b": str, "label": str, "labeller": str, "note": str, "time": str,
                 "attempt_a": int, "attempt_b": int, "left": str, "id": str}  # fmt: skip
        values = {"labeller": "", "note": "", "time": "", "id": f"line {number}"}
        values |= {name: record[name] for name in types if name in record}
        wrong = [name for name, kind in types.items() if not isinstance(values.get(name, kind()), kind)]
        wrong += [name for name in ("a", "b", "label") if not values.get(name)]
        if wrong or values["label"] not in get_args(Choice):
            said = f"label {values.get('label')!r}" if not wrong else f"no usable {', '.join(dict.fromkeys(wrong))}"
            raise DataError(f"{where}: {said}; expected a, b as episode ids and label as a, b, tie or bad")
        label = Label(**values)  # type: ignore[arg-type]  # checked above
        self._given[label.id] = label


def read_labels(path: str | os.PathLike[str]) -> list[Label]:
    """The labels of a file that count, undone and superseded ones left out. Raises `DataError` for a file that is not
    there, or holds something else."""
    if not Path(path).is_file():
        raise DataError(f"there is no file of labels at {path}: `sparring label` makes one")
    return LabelFile(path).labels()


def _whole(fd: int) -> int:
    """Where the last complete line ends."""
    end = os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - _BLOCK)
        at = os.pread(fd, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ---- agreement -------------------------------------------------------------------------------------------------------


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two labellers who labelled the same things, item by item (Cohen 1960, "A coefficient of
    agreement for nominal scales").

        kappa = (p_o - p_e) / (1 - p_e)

    p_o: share of items on which they say the same; p_e: what that share would be if each gave their own labels at
    random, the sum over labels of the product of both shares. None where nothing was measured: no item, or one label
    throughout on both sides. Raises `ConfigError` for lists of unequal length.
    """
    if len(first) != len(second):
        raise ConfigError(f"both labellers need a label for each item, got {len(first)} and {len(second)}")
    n = len(first)
    if not n:
        return None
    of_first, of_second = Counter(first), Counter(second)
    same = sum(x == y for x, y in zip(first, second, strict=True))
    by_chance = sum(count * of_second[label] for label, count in of_first.items())  # n^2 p_e: whole numbers
    if by_chance == n * n:
        return None
    return (n * same - by_chance) / (n * n - by_chance)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal labels, any number of labellers, gaps allowed (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability"). `units`: for each thing labelled, the labels it got.

        alpha = 1 - D_o / D_e
        D_o   = 1/n  sum over units of (ordered pairs of unlike labels in the unit) / (m - 1),  m labels in the unit
        D_e   = (ordered pairs of unlike labels among all n) / (n (n - 1))

    Units with fewer than two labels say nothing of agreement and do not count, neither in n. None where nothing was
    measured: no unit with two labels, or one label throughout.
    """
    totals: Counter[Hashable] = Counter()
    unlike = Fraction(0)
    for unit in units:
        m = len(unit)
        if m < 2:
            continue
        counts = Counter(unit)
        totals.update(counts)
        unlike += Fraction(m * m - sum(c * c for c in counts.values()), m - 1)
    n = totals.total()
    among_all = n * n - sum(c * c for c in totals.values())
    if not among_all:
        return None
    return float(1 - unlike * (n - 1) / among_all)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far labellers agree. Labels are a, b (the same episode for all), tie and bad, all counted alike."""

    labellers: dict[str, int] = field(default_factory=dict)
    """Name -> labels that count."""
    pairs: int = 0
    """Pairs of episodes with at least two labels: only these say anything of agreement."""
    same: float | None = None
    """Share of these on which all labels are the same."""
    alpha: float | None = None
    """Krippendorff's, over these pairs."""
    low: float | None = None
    """Of its 95 % interval, by resampling whole pairs of episodes; None with fewer than 10 of them."""
    high: float | None = None
    kappa: dict[tuple[str, str], tuple[float | None, int]] = field(default_factory=dict)
    """Two labellers -> Cohen's kappa over the pairs of episodes that both labelled, and how many these are."""
    left: tuple[int, int] = (0, 0)
    """Of labels for a side whose place is known: for the left one, and all. Far from half: labellers lean to a side."""


def agreement(labels: Iterable[Label], *, seed: int = 0) -> Agreement:
    """How far the labellers agree. `seed`: of the interval's resampling."""
    held = list(labels)
    units: dict[tuple[Key, Key], dict[str, Hashable]] = {}
    for x in held:
        side = x.value if isinstance(x.value, str) else ("a" if x.value == x.pair[0] else "b")
        units.setdefault(x.pair, {})[x.labeller] = side
    several = [unit for unit in units.values() if len(unit) > 1]
    values = [list(unit.values()) for unit in several]
    names = sorted({x.labeller for x in held})
    kappa = {}
    for one, other in combinations(names, 2):
        both = [unit for unit in several if one in unit and other in unit]
        if both:
            value = cohen_kappa([u[one] for u in both], [u[other] for u in both])
            kappa[one, other] = value, len(both)
    low, high = _interval(values, seed)
    sided = [x for x in held if x.left in ("a", "b") and x.label in ("a", "b")]
    return Agreement(
        {name: sum(x.labeller == name for x in held) for name in names},
        len(several),
        sum(len(set(unit)) == 1 for unit in values) / len(values) if values else None,
        krippendorff_alpha(values),
        low,
        high,
        kappa,
        (sum(x.left == x.label for x in sided), len(sided)),
    )


def _interval(units: Sequence[Sequence[Hashable]], seed: int) -> tuple[float | None, float | None]:
    """Of alpha, 95 %: percentile bootstrap over units of two labels or more. Draws without variety do not count."""
    if len(units) < 10:
        return None, None
    import numpy as np

    names = {value: i for i, value in enumerate(dict.fromkeys(value for unit in units for value in unit))}
    counts = np.zeros((len(units), len(names)))  # (unit, label)
    for row, unit in zip(counts, units, strict=True):
        for value in unit:
            row[names[value]] += 1
    m = counts.sum(1)
    unlike = (m * m - (counts * counts).sum(1)) / (m - 1)
    drawn = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), _RESAMPLES)
    totals = drawn @ counts  # (draw, label)
    n = totals.sum(1)
    among_all = n * n - (totals * totals).sum(1)
    some = among_all > 0
    if some.sum() < _RESAMPLES / 2:
        return None, None
    alphas = 1 - (drawn @ unlike)[some] * (n[some] - 1) / among_all[some]
    low, high = np.quantile(alphas, [0.025, 0.975])
    return float(low), float(high)


# ---- pairs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tally:
    """What all labels of two episodes come to."""

    a: Key
    b: Key
    label: Literal["a", "b", "tie", "bad", "conflict"]
    """By more than half of the labels; "conflict": no answer has more than half."""
    votes: dict[str, int]
    """Labels by a, b, tie, bad; only those that were given."""

    @property
    def unanimous(self) -> bool:
        return len(self.votes) == 1


def majority(labels: Iterable[Label]) -> list[Tally]:
    """A tally for each two episodes that have labels, in the order of their first."""
    votes: dict[tuple[Key, Key], Counter[str]] = {}
    for x in labels:
        side = x.value if isinstance(x.value, str) else ("a" if x.value == x.pair[0] else "b")
        votes.setdefault(x.pair, Counter())[side] += 1
    out = []
    for (a, b), counts in votes.items():
        best, n = counts.most_common(1)[0]
        label: Any = best if 2 * n > counts.total() else "conflict"
        out.append(Tally(a, b, label, {k: counts[k] for k in get_args(Choice) if counts[k]}))
    return out
