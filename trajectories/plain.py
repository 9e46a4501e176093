"""Plain data (of YAML, JSON, a command line) into frozen dataclasses, with errors that name the field."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import ConfigError, UnknownName

__all__ = ["from_plain", "to_plain"]

T = TypeVar("T")


def from_plain(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `cls`; nested ones from mappings, tuples from lists, numbers from their text.

    `where` begins each message: "recipe.yaml, stage sft". Raises `UnknownName` for a field that is none, `ConfigError`
    for a value that does not fit.
    """
    _check_names(cls, data, where)
    try:
        made: T = _adapter(cls).validate_python(dict(data))  # type: ignore[arg-type]  # mypy doubts that types can be hashed
        return made
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r:.80}" if first["type"] not in ("missing", "value_error") else ""
        raise ConfigError(": ".join(part for part in (where, field, f"{said}{got}") if part)) from None


def to_plain(value: Any) -> Any:
    """What `from_plain` reads: dataclasses as mappings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return value


@lru_cache(maxsize=256)
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _check_names(cls: type[Any], data: Mapping[str, Any], where: str) -> None:
    """pydantic ignores fields that a dataclass does not have: a wrong name would go unseen."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a mapping of settings, got {data!r:.80}")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for name, value in data.items():
        if name not in names:
            raise UnknownName(f"setting of {where}" if where else f"setting of {cls.__name__}", str(name), names)
        inner = hints[name]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type) and isinstance(value, Mapping):
            _check_names(inner, value, f"{where}: {name}" if where else name)
