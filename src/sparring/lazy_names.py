"""Public names that are loaded from their home when they are first used, so that a package costs nothing to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: dict[str, Any], homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: Its `globals()`.
        homes: Public name -> the module below the package that it comes from.
    """
    name = package["__name__"]

    def get(attribute: str) -> Any:
        if attribute not in homes:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        value = getattr(import_module(f".{homes[attribute]}", name), attribute)
        package[attribute] = value  # found at once from now on
        return value

    return get, lambda: sorted([*package, *homes])
