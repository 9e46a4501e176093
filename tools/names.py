"""Names that models may call tools by: ASCII letters, digits, `_` and `-`, of a bounded length, no two alike.

Defines `clean`, `apart` and `callable_names`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["MAX_NAME", "apart", "callable_names", "clean"]

MAX_NAME = 64
"""Characters of a tool's (its prefix included) or an argument's name that providers take."""


def clean(text: str) -> str:
    """`text` with `_` for each character that no name may have; accents are dropped before."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text)


def apart(wanted: Sequence[str], order: Sequence[Any], limit: int = MAX_NAME) -> list[str]:
    """A name for each wanted one. Where several come to the same, the first keeps it and the others are numbered.

    Args:
        wanted: Any texts; not empty.
        order: Of those that come to the same name: the smallest is first. One that needs no change comes before all
            others, so that what an author wrote stays.
        limit: Characters of a name.
    """
    cleaned = [clean(text)[:limit] for text in wanted]
    taken: set[str] = set()
    reserved = set(cleaned)
    names = [""] * len(wanted)
    for index in sorted(range(len(wanted)), key=lambda i: (cleaned[i] != wanted[i], order[i])):
        name = cleaned[index]
        number = 1
        while name in taken or (number > 1 and name in reserved):
            number += 1
            end = f"_{number}"
            name = cleaned[index][: limit - len(end)] + end
        taken.add(name)
        names[index] = name
    return names


def callable_names(given: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Each given name -> the name that a model calls the tool by, `prefix` before it: see `apart`.

    Args:
        given: Names, each counted once. Their order decides who gets which number.
        prefix: Put before each of them.
    """
    names = list(dict.fromkeys(given))
    begin = clean(prefix)
    return dict(zip(names, apart([begin + (name or "tool") for name in names], range(len(names))), strict=True))
