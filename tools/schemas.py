"""JSON Schema for arguments: validators, made once for each schema in a process, and the schema of a pydantic model.

Defines `validator_of` and `schema_of`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import jsonschema
import jsonschema_rs
import orjson
from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning

from ..trajectories.errors import EnvError
from ..trajectories.messages import Json
from .quiet import quiet

__all__ = ["KEPT", "schema_of", "validator_of"]

KEPT = 4096
"""Definitions of each kind that a process keeps; the one that was used longest ago goes first."""

_PLAIN_JSON = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_VALUES = ("default", "const", "enum", "examples")
_MAPS = ("properties", "$defs")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def validator_of(name: str, parameters: dict[str, Json]) -> jsonschema_rs.Validator:
    """The validator of a tool's arguments; the same one for equal schemas.

    Raises `EnvError` for a schema that is none, or that does not describe an object.
    """
    try:
        key = _key(parameters)
        return _compiled(parameters) if key is None else _kept(key)
    except jsonschema.SchemaError as error:
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {error.message}") from None
    except ValueError as error:  # a reference that leads nowhere, a pattern that is none, a number beyond 64 bits
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {str(error).partition(chr(10))[0]}") from None
    except (RecursionError, AttributeError, TypeError) as error:
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {type(error).__name__} while reading it") from None
    except _NoObject as error:
        raise EnvError(
            f"tool {name!r}: arguments come by name, so their JSON Schema is of type object, not {error.kind!r}"
        ) from None


class _NoObject(Exception):
    def __init__(self, kind: Json) -> None:
        self.kind = kind


def _key(parameters: dict[str, Json]) -> bytes | None:
    """The schema in one form, member order kept: it decides which error is named first. None for what is not plain
    JSON. Raises `ValueError` for a number that no JSON holds."""
    try:
        key = orjson.dumps(parameters, option=_PLAIN_JSON)
    except TypeError:  # orjson's error for all that it refuses; whether it is a schema is found out below
        return None
    if key.count(b"null") > key.count(b'"null"') and not _finite(parameters):  # orjson writes them as null
        raise ValueError("it holds a number that is not finite, and JSON has none")
    return key


@lru_cache(maxsize=KEPT)
def _kept(key: bytes) -> jsonschema_rs.Validator:
    return _compiled(orjson.loads(key))


def _compiled(parameters: dict[str, Json]) -> jsonschema_rs.Validator:
    if not _is_flat(parameters):
        jsonschema.Draft202012Validator.check_schema(parameters)
    kind = parameters.get("type", "object")
    # offline: no remote $ref is ever fetched. Backtracking in patterns is bounded.
    validator = jsonschema_rs.validator_for(parameters, offline=True)
    if kind != "object":
        raise _NoObject(kind)
    return validator


def _is_flat(parameters: dict[str, Json]) -> bool:
    """Whether it is an object of plain values, as most tools have: then it is a right schema, and need not be checked
    against the schema of schemas, which takes a millisecond."""
    if not parameters.keys() <= {"type", "properties", "required", "additionalProperties"}:
        return False
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    return (
        parameters.get("type") == "object"
        and isinstance(parameters.get("additionalProperties", False), bool)
        and isinstance(properties, dict)
        and all(
            isinstance(one, dict) and one.keys() == {"type"} and one["type"] in _FLAT for one in properties.values()
        )
        and isinstance(required, list)
        and all(isinstance(name, str) for name in required)
        and len(set(required)) == len(required)
    )


_FLAT = ("string", "integer", "number", "boolean")


def _finite(node: Any) -> bool:
    """Whether all numbers in a JSON value are finite."""
    kind = type(node)
    if kind is str:
        return True
    if kind is dict:
        return all(map(_finite, node.values()))
    if kind is list or kind is tuple:
        return all(map(_finite, node))
    return kind is not float or math.isfinite(node)


def schema_of(model: type[BaseModel], name: str) -> dict[str, Json]:
    """The JSON Schema of a model's fields, for the tool `name`. Raises `EnvError` for a type that has none."""
    try:
        with quiet(PydanticJsonSchemaWarning):  # a default that is no JSON is not shown
            schema = _tidy(model.model_json_schema())
    except PydanticUserError as error:
        raise EnvError(f"tool {name!r}: a parameter's type has no JSON Schema: {error.message}") from None
    schema.setdefault("properties", {})
    schema["additionalProperties"] = False
    for part in (schema, *schema.get("$defs", {}).values()):
        _drop_wrong_defaults(part, schema.get("$defs", {}))
    return schema


def _tidy(schema: dict[str, Json]) -> dict[str, Json]:
    """Drops the titles that pydantic writes, which are tokens without meaning, and bounds that are infinite, which are
    none. Values (defaults, enums) stay as they are."""

    def walk(node: Any, named: bool = False) -> Any:
        if isinstance(node, dict):
            return {
                k: v if k in _VALUES and not named else walk(v, not named and k in _MAPS)
                for k, v in node.items()
                if named or not (k == "title" or (k in _BOUNDS and isinstance(v, float) and math.isinf(v)))
            }
        return [walk(v) for v in node] if isinstance(node, list) else node

    tidy: dict[str, Json] = walk(schema)
    tidy.pop("description", None)
    return tidy


def _drop_wrong_defaults(part: dict[str, Json], definitions: dict[str, Json]) -> None:
    """Takes away each default that the agent may not send itself: one that its own schema refuses, or that is no JSON.
    The body still gets it where the argument is left out."""
    for name, shown in part.get("properties", {}).items():
        if "default" not in shown:
            continue
        default = shown["default"]
        fits = _finite(default)
        if fits:
            whole = {"type": "object", "properties": {name: shown}, "$defs": definitions}
            try:
                fits = jsonschema_rs.validator_for(whole, offline=True).is_valid({name: default})
            except ValueError:  # the schema itself is wrong: this is told where the tool is made
                continue
        if not fits:
            del shown["default"]
