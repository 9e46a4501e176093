"""Parts of an OpenAPI document, each with the place where it is; and the list of those that are left out.

Documents are written by people. What has another form than it should raises `Wrong`, which names the place and the
reason. Who reads a part decides how much is left out: a keyword, a parameter, or the whole operation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ...trajectories.errors import ConfigError
from ...trajectories.messages import Json
from ..wholes import at
from .reading import kind_of, read_file

__all__ = ["DocumentPart", "LeftOut", "Omissions", "Sources", "Wrong"]

_log = logging.getLogger(__name__)
_MAX_HOPS = 32
"""References that lead to references."""
_MAX_FILES = 1000
_MAX_TEXT = 400
"""Characters of each text in a warning."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a document that its tools do without."""

    where: str
    """Its place: a JSON pointer into the document, `#/paths/~1items/get`; the file in front where it is another."""
    what: str
    """operation 'upload', parameter 'q' of 'search', keyword 'pattern' ..."""
    why: str

    def __str__(self) -> str:
        return f"{self.what} is left out: {self.why} ({self.where})"


class Omissions:
    """What was left out so far: each part once, with one warning in the log."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], LeftOut] = {}

    def add(self, where: str, what: str, why: str) -> None:
        """Notes a part. What a document has in it may be long: it is cut."""
        where, what, why = (" ".join(text.split())[:_MAX_TEXT] for text in (where, what, why))
        if (where, what) not in self.found:
            self.found[where, what] = left = LeftOut(where, what, why)
            _log.warning("%s", left)


class Wrong(Exception):
    """A part that cannot be used."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(why)
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A value of a document."""

    value: Json
    file: str
    """The file, relative to the document's folder; empty for the document itself."""
    pointer: str
    """Place in its file."""

    @property
    def where(self) -> str:
        return f"{self.file}#{self.pointer}"

    def inner(self, key: str | int, value: Json) -> DocumentPart:
        return DocumentPart(value, self.file, f"{self.pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def get(self, key: str) -> DocumentPart | None:
        """A member of an object; None where it is absent or null."""
        value = self.fields().get(key)
        return None if value is None else self.inner(key, value)

    def fields(self) -> dict[str, Json]:
        if not isinstance(self.value, dict):
            raise Wrong(self.where, f"{kind_of(self.value)} where an object should be")
        return self.value

    def members(self) -> Iterator[tuple[str, DocumentPart]]:
        for key, value in self.fields().items():
            yield key, self.inner(key, value)

    def items(self) -> list[DocumentPart]:
        if not isinstance(self.value, list):
            raise Wrong(self.where, f"{kind_of(self.value)} where a list should be")
        return [self.inner(index, value) for index, value in enumerate(self.value)]

    def text(self, key: str, default: str = "") -> str:
        """A member that is a text (or a number, which is read as one)."""
        value = self.fields().get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise Wrong(self.inner(key, value).where, f"{key} is {kind_of(value)}, not a text")
        return value if isinstance(value, str) else str(value)

    def flag(self, key: str) -> bool:
        value = self.fields().get(key)
        return value is True or (isinstance(value, str) and value.lower() == "true")


class Sources:
    """A document and the files next to it that its references lead to."""

    def __init__(self, root: dict[str, Json], path: Path | None, report: Omissions) -> None:
        self.root = DocumentPart(root, "", "")
        self.report = report
        self._path = path
        self._read: dict[str, Json] = {"": root}
        self._ids: dict[str, DocumentPart] | None = None

    def follow(self, part: DocumentPart) -> DocumentPart:
        """What a part is, through its references. Raises `Wrong` for one that leads nowhere or in a circle."""
        seen: set[str] = set()
        while isinstance(part.value, dict) and "$ref" in part.value:
            if part.where in seen or len(seen) > _MAX_HOPS:
                raise Wrong(part.where, "its references go round in a circle")
            seen.add(part.where)
            part = self.at(part)
        return part

    def at(self, part: DocumentPart, key: str = "$ref") -> DocumentPart:
        """What the reference of a part leads to. Raises `Wrong`."""
        ref = part.fields().get(key)
        if not isinstance(ref, str):
            raise Wrong(part.where, f"a reference is a text, not {kind_of(ref)}")
        name, _, pointer = ref.partition("#")
        if pointer and not pointer.startswith("/"):
            base, pointer = self._named(ref), ""
        elif name:
            base = self._named(name) or self._file(part, ref, name)
        else:
            base = DocumentPart(self._read[part.file], part.file, "")
        nowhere = Wrong(part.where, f"reference {ref!r} leads nowhere in the document")
        if base is None:
            raise nowhere
        try:
            return DocumentPart(at(base.value, "#" + pointer), base.file, base.pointer + unquote(pointer))
        except LookupError:
            found = None if name else self._around(part, pointer)
            if found is None:
                raise nowhere from None
            return found

    def _file(self, part: DocumentPart, ref: str, name: str) -> DocumentPart:
        """The file that a reference names, read."""
        outside = f"reference {ref!r} leads out of the document"
        if "://" in name or name.startswith("//") or self._path is None:
            raise Wrong(part.where, f"{outside}: bundle it into one file first")
        try:
            folder = self._path.parent.resolve()
            target = ((folder / part.file).parent if part.file else folder) / unquote(name)
            target = target.resolve()
        except (OSError, ValueError, RuntimeError):
            raise Wrong(part.where, f"{outside}: that is no file's name") from None
        if not target.is_relative_to(folder):
            raise Wrong(part.where, f"{outside}, and out of its folder: only files next to it are read")
        file = "" if target == self._path.resolve() else target.relative_to(folder).as_posix()
        if file not in self._read:
            if len(self._read) > _MAX_FILES:
                raise Wrong(part.where, f"{outside}: more than {_MAX_FILES} files")
            try:
                self._read[file] = read_file(target, lambda k: self.report.add(file, f"the first {k!r}", "it is twice"))
            except ConfigError as error:
                raise Wrong(part.where, f"{outside}: {error}") from None
        return DocumentPart(self._read[file], file, "")

    def _named(self, name: str) -> DocumentPart | None:
        """The schema of the document with that `$id`, or that `$anchor` behind a `#`."""
        if self._ids is None:
            self._ids = _identified(self.root)
        return self._ids.get(name)

    def _around(self, part: DocumentPart, pointer: str) -> DocumentPart | None:
        """What a pointer leads to from a schema that the part is in: pasted schemas bring their own `$defs`."""
        if not pointer.startswith(("/$defs/", "/definitions/")):
            return None
        steps = part.pointer.split("/")
        for end in range(len(steps), 0, -1):
            above = "/".join(steps[:end])
            try:
                value = at(self._read[part.file], f"#{above}{pointer}")
            except LookupError:
                continue
            return DocumentPart(value, part.file, above + pointer)
        return None


def _identified(root: DocumentPart) -> dict[str, DocumentPart]:
    """All that has an identifier: `$id`, or `#` and its `$anchor`."""
    found: dict[str, DocumentPart] = {}
    todo, seen = [root], set()
    while todo:
        part = todo.pop()
        if not isinstance(part.value, (dict, list)) or id(part.value) in seen:
            continue
        seen.add(id(part.value))
        if isinstance(part.value, list):
            todo += part.items()
            continue
        for key, sign in (("$id", ""), ("$anchor", "#"), ("$dynamicAnchor", "#")):
            name = part.value.get(key)
            if isinstance(name, str) and name:
                found.setdefault(sign + name.removesuffix("#"), part)
        todo += [inner for _, inner in part.members()]
    return found
