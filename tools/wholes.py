"""Whole numbers as a schema wants them: where it says integer, 7.0 becomes 7. Defines `whole_numbers`.

JSON Schema lets 7.0 pass for an integer, and models write it. Few services and function bodies take it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from ..trajectories.messages import Json

__all__ = ["at", "whole_numbers"]

_ALL = ("allOf", "anyOf", "oneOf")
_BRANCHES = ("if", "then", "else")


def whole_numbers(schema: Json, value: Any) -> Any:
    """`value` with each whole float as an integer where `schema` says integer (or lists the integer in `enum` or
    `const`, or wants a multiple of a whole number). A float that the schema may want as one stays. `value` is changed
    in place; of equal numbers only the spelling changes. Never raises.

    Args:
        schema: JSON Schema, of any draft; references inside it are followed.
        value: A JSON value that is this function's to change.
    """
    return _whole(schema, [schema], value) if _has_whole_float(value) else value


def at(root: Json, ref: Json) -> Json:
    """What a reference inside of a document leads to: `#`, or a JSON pointer behind it. Raises `LookupError`."""
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise LookupError(ref)
    node = root
    for part in ref[2:].split("/") if ref != "#" else ():
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, list):
            node = node[int(key)] if key.isascii() and key.isdigit() and int(key) < len(node) else _nowhere(ref)
        else:
            node = node[key] if isinstance(node, dict) and key in node else _nowhere(ref)
    return node


def _nowhere(ref: str) -> Json:
    raise LookupError(ref)


def _has_whole_float(value: Any) -> bool:
    kind = type(value)
    if kind is float:
        return bool(value.is_integer())
    if kind is dict:
        return any(map(_has_whole_float, value.values()))
    return kind is list and any(map(_has_whole_float, value))


def _whole(root: Json, schemas: list[Json], value: Any) -> Any:
    """`value` by all the schemas that hold for it."""
    kind = type(value)
    if kind is float:
        if value.is_integer() and any(_forces(root, schema, value, ()) for schema in schemas):
            return int(Decimal(repr(value)))  # 1e25 is 10**25: the digits that were written
        return value
    if kind is not dict and kind is not list:
        return value
    parts = [part for schema in schemas for part in _parts(root, schema, set())]
    if kind is list:
        for index, item in enumerate(value):
            if _has_whole_float(item):
                value[index] = _whole(root, [s for part in parts for s in _of_item(part, index)], item)
    else:
        for name, item in value.items():
            if _has_whole_float(item):
                value[name] = _whole(root, [s for part in parts for s in _of_property(part, name)], item)
    return value


def _parts(root: Json, schema: Json, seen: set[int]) -> Iterator[dict[str, Json]]:
    """The schema and all that may hold next to it for the same value."""
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    yield schema
    for key in ("$ref", "$dynamicRef", "$recursiveRef"):
        if key in schema:
            yield from _parts(root, _target(root, schema[key]), seen)
    for key in _ALL:
        inner = schema.get(key)
        for branch in inner if isinstance(inner, list) else ():
            yield from _parts(root, branch, seen)
    for key in _BRANCHES:
        yield from _parts(root, schema.get(key), seen)
    for key in ("dependentSchemas", "dependencies"):
        inner = schema.get(key)
        for branch in inner.values() if isinstance(inner, dict) else ():
            yield from _parts(root, branch, seen)


def _target(root: Json, ref: Json) -> Json:
    try:
        return at(root, ref)
    except LookupError:
        return None


def _of_item(part: dict[str, Json], index: int) -> Iterator[Json]:
    """What a schema says of an array's item."""
    items = part.get("items")
    first = items if isinstance(items, list) else part.get("prefixItems")
    rest = part.get("additionalItems") if isinstance(items, list) else items
    first = first if isinstance(first, list) else []
    yield first[index] if index < len(first) else rest
    yield part.get("contains")
    yield part.get("unevaluatedItems")


def _of_property(part: dict[str, Json], name: str) -> Iterator[Json]:
    """What a schema says of an object's property."""
    named, patterns = part.get("properties"), part.get("patternProperties")
    found = False
    if isinstance(named, dict) and name in named:
        found = True
        yield named[name]
    for pattern, schema in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if re.search(pattern, name):
                found = True
                yield schema
        except (re.error, RecursionError, OverflowError):  # another language's pattern
            continue
    if not found:
        yield part.get("additionalProperties")
        yield part.get("unevaluatedProperties")


def _forces(root: Json, schema: Json, value: float, above: tuple[int, ...]) -> bool:
    """Whether a whole number has to be an integer by `schema`."""
    if not isinstance(schema, dict) or id(schema) in above:
        return False
    above = (*above, id(schema))
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "integer" in kinds and "number" not in kinds:
        return True
    listed = schema.get("enum")
    listed = [*(listed if isinstance(listed, list) else ()), *([schema["const"]] if "const" in schema else ())]
    if any(type(choice) is int and choice == value for choice in listed):
        return True
    step = schema.get("multipleOf")
    if type(step) is int and step > 0:
        return True
    if any(_forces(root, _target(root, schema[key]), value, above) for key in ("$ref", "$dynamicRef") if key in schema):
        return True
    branches = schema.get("allOf")
    if isinstance(branches, list) and any(_forces(root, branch, value, above) for branch in branches):
        return True
    for key in ("anyOf", "oneOf"):
        branches = schema.get(key)
        numbers = [b for b in branches if _takes_numbers(root, b, ())] if isinstance(branches, list) else []
        if numbers and all(_forces(root, branch, value, above) for branch in numbers):
            return True
    return False


def _takes_numbers(root: Json, schema: Json, above: tuple[int, ...]) -> bool:
    """Whether a branch is one that a number may be meant for."""
    if not isinstance(schema, dict) or id(schema) in above:
        return schema is True
    above = (*above, id(schema))
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return "integer" in kinds or "number" in kinds
    listed = schema.get("enum")
    if isinstance(listed, list):
        return any(type(choice) in (int, float) for choice in listed)
    if "const" in schema:
        return type(schema["const"]) in (int, float)
    if "$ref" in schema:
        return _takes_numbers(root, _target(root, schema["$ref"]), above)
    for key in _ALL:
        inner = schema.get(key)
        if isinstance(inner, list):
            return any(_takes_numbers(root, branch, above) for branch in inner)
    return True
