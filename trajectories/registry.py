"""A registry: things by name, from this package, from installed packages, and from whoever registers one.

    ENGINES: Registry[Loader] = Registry("engine", package="sparring.agents.engines", group="sparring.engines")

    @ENGINES.register("toy")          in any file of yours
    def load(...): ...

A module of `package` is an entry of its own: `online_dpo.py` is found as `online-dpo` and imported when that name is
asked for; it registers itself then. So an addition is one file, and listing the names imports nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Generic, TypeVar, cast

from .errors import EnvError, UnknownName

__all__ = ["Registry"]

T = TypeVar("T")
V = TypeVar("V")


class Registry(Generic[T]):
    """Things of one kind, by name."""

    def __init__(self, kind: str, *, package: str = "", group: str = "") -> None:
        """
        Args:
            kind: What is kept here, for messages: "engine".
            package: Each public module of this package (no leading underscore) registers an entry of its own name.
            group: Entry points of installed packages, as `name = "module:object"`.
        """
        self.kind = kind
        self._package, self._group = package, group
        self._known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[V], V]:
        """A decorator that keeps what it decorates under `name`. The last one registered counts."""

        def keep(value: V) -> V:
            self._known[name] = cast("T", value)
            return value

        return keep

    def names(self) -> list[str]:
        """All names, sorted. Imports no entry."""
        return sorted({*self._known, *self._modules(), *self._offers()})

    def get(self, name: str) -> T:
        """What is registered under `name`. Raises `UnknownName` with the nearest one, `EnvError` for an installed
        package whose entry cannot be loaded."""
        if name not in self._known:
            if (module := self._modules().get(name)) is not None:
                importlib.import_module(module)
            elif (point := self._offers().get(name)) is not None:
                try:  # another package's code: it may raise anything
                    self._known[name] = point.load()
                except Exception as error:
                    package = point.dist.name if point.dist is not None else "(unknown)"
                    raise EnvError(
                        f"the {self.kind} {name!r} of the package {package!r} cannot be loaded: "
                        f"{type(error).__name__}: {error}; fix, upgrade or uninstall that package"
                    ) from error
        if name not in self._known:
            raise UnknownName(self.kind, name, self.names())
        return self._known[name]

    def all(self) -> dict[str, T]:
        """Every entry by name; imports those of this package and of installed ones."""
        return {name: self.get(name) for name in self.names()}

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _modules(self) -> dict[str, str]:
        if not self._package:
            return {}
        paths = importlib.import_module(self._package).__path__
        found = (info.name for info in pkgutil.iter_modules(paths))
        return {name.replace("_", "-"): f"{self._package}.{name}" for name in found if not name.startswith("_")}

    def _offers(self) -> dict[str, metadata.EntryPoint]:
        return {point.name: point for point in metadata.entry_points(group=self._group)} if self._group else {}
