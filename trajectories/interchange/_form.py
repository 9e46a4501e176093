"""What a foreign form is: how its records become episodes, and what writes it. And the account of what was lost.

Defines `ForeignForm`, `Writer`, `FORMS`, `writers`, `readable`; `Row`, `Exported`, `ExchangeReport`.

One file of this folder is one form, found by its name: it registers a `ForeignForm` in `FORMS`. A file of yours can do
the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UnknownName
from ..messages import Json
from ..registry import Registry

if TYPE_CHECKING:
    from ._messages import SourceEpisode

__all__ = [
    "FORMS",
    "ExchangeReport",
    "Exported",
    "ForeignForm",
    "Row",
    "SourceRecord",
    "Writer",
    "readable",
    "writer_for",
    "writers",
]

Row = dict[str, Json]


@dataclass(frozen=True, slots=True)
class ExchangeReport:
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
    warnings: tuple[str, ...] = ()
    """Of an import: what a reader of its numbers has to know, a sentence each."""
    refused: dict[str, list[int]] = field(default_factory=dict)
    """Of an export: why a service refuses a row that was written -> numbers of the rows, from 1."""

    def __str__(self) -> str:
        parts = [f"{self.form}: {self.wrote} {self.unit} from {self.came_in}"]
        if self.left_out:
            parts.append("left out: " + ", ".join(f"{n} with {why}" for why, n in self.left_out.items()))
        for what, counts in (("not held", self.lost), ("inferred", self.inferred)):
            if counts:
                parts.append(f"{what}: {_listed({name: str(n) for name, n in counts.items()})}")
        if self.refused:
            parts.append(f"an upload is refused for: {_listed({why: _rows(at) for why, at in self.refused.items()})}")
        return "; ".join(parts)


_MOST = 24
"""Entries of one kind that a report's line shows."""


def _rows(numbers: Sequence[int]) -> str:
    some = ", ".join(map(str, numbers[:3])) + ", ..." * (len(numbers) > 3)
    return f"row {some}" if len(numbers) == 1 else f"{len(numbers)} rows: {some}"


def _listed(counts: Mapping[str, str]) -> str:
    shown = [f"{what} ({n})" for what, n in list(counts.items())[:_MOST]]
    return ", ".join(shown) + (f", and {len(counts) - _MOST} more" if len(counts) > _MOST else "")


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows of one form, each a JSON object, and the account of them."""

    rows: tuple[Row, ...]
    report: ExchangeReport


SourceRecord = tuple[str, Any]
"""Its place in the file, for errors; and the value, or the exception that came instead."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One way to write a form."""

    rows: Callable[..., Exported]
    """(episodes or pairs, settings by name) -> rows and report."""
    write: Callable[..., None]
    """(rows, path, settings by name) -> a file there."""
    takes: Literal["episodes", "pairs"] = "episodes"

    def export(self, items: Any, settings: Mapping[str, Any] | None = None) -> Exported:
        """The rows of `items`. Of `settings` each function gets those that it takes."""
        return self.rows(items, **_taken(self.rows, settings or {}))

    def save(self, rows: Sequence[Row], path: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Writes rows that `export` made."""
        self.write(rows, path, **_taken(self.write, settings or {}))


@dataclass(frozen=True, slots=True)
class ForeignForm:
    """One foreign form."""

    episodes: Callable[[Json], list[SourceEpisode]] | None = None
    """What one record holds; None: this form is only written."""
    writers: Mapping[str, Writer] = field(default_factory=dict)
    """Name, as `sparring export --to` takes it, -> how it is written; empty: this form is only read."""
    records: Callable[[Path], Iterator[SourceRecord]] | None = None
    """The records of a file; None: JSON lines, one JSON array, or Parquet."""


FORMS: Registry[ForeignForm] = Registry("form", package="sparring.trajectories.interchange", group="sparring.forms")
"""By name."""


def readable() -> dict[str, ForeignForm]:
    """The forms that can be read, by name."""
    return {name: form for name, form in FORMS.all().items() if form.episodes is not None}


def writers() -> dict[str, Writer]:
    """All ways to write, by name, in the order of their forms."""
    return {name: writer for form in FORMS.all().values() for name, writer in form.writers.items()}


def writer_for(name: str) -> Writer:
    """The way to write that has this name. Raises `UnknownName` with the nearest."""
    known = writers()
    if name not in known:
        raise UnknownName("form", name, known)
    return known[name]


def _taken(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in settings.items() if name in parameters}
