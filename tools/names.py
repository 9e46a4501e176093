"""Names that models may call tools by, made from the names that others gave. Defines `callable_names`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["MAX_NAME", "callable_names"]

MAX_NAME = 64
"""Characters of a tool's name, prefix included: providers refuse more, and all but ASCII letters, digits, _ and -."""


def callable_names(given: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Each given name -> the name that a model calls the tool by: no two of them alike.

    One that fits stays as it is. Letters lose their accents, any other character becomes `_`, and what is too long is
    cut. Of names that come out alike, the later ones get a number: `users_list`, `users_list_2`.

    Args:
        given: Names, each counted once. Their order decides who gets which number.
        prefix: Put before each of them.
    """
    names = list(dict.fromkeys(given))
    begin = _plain(prefix)
    made: dict[str, str] = {name: begin + name for name in names if name and _fits(begin + name)}
    taken = set(made.values())
    for name in names:
        if name in made:
            continue
        base = begin + (_plain(name) or "tool")
        made[name], number = base[:MAX_NAME], 1
        while made[name] in taken:
            number += 1
            made[name] = f"{base[: MAX_NAME - len(str(number)) - 1]}_{number}"
        taken.add(made[name])
    return {name: made[name] for name in names}


def _fits(name: str) -> bool:
    return len(name) <= MAX_NAME and all(map(_allowed, name))


def _allowed(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char in "_-")


def _plain(name: str) -> str:
    bare = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    return "".join(char if _allowed(char) else "_" for char in bare)
