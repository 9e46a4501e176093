"""JSON Schema for arguments: validators, made once for each schema in a process, and the schema of a pydantic model.

Defines `validator_of`, `LaterValidator`, `schema_of`, and `without_wrong_keywords` for schemas that others wrote.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import re
from collections.abc import Callable, Iterator
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
from .wholes import at

__all__ = ["KEPT", "LaterValidator", "schema_of", "validator_of", "without_wrong_keywords"]

_log = logging.getLogger(__name__)

KEPT = 4096
"""Definitions of each kind that a process keeps; the one that was used longest ago goes first."""

_MOST_FIXES = 100
_PLAIN_JSON = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_VALUES = ("default", "const", "enum", "examples")
_MAPS = ("properties", "$defs", "definitions", "dependentSchemas")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


_NEWEST = "2020-12"
_DRAFTS: dict[str, tuple[Any, type[jsonschema_rs.Validator]]] = {
    "2020-12": (jsonschema.Draft202012Validator, jsonschema_rs.Draft202012Validator),
    "2019-09": (jsonschema.Draft201909Validator, jsonschema_rs.Draft201909Validator),
    "draft-07": (jsonschema.Draft7Validator, jsonschema_rs.Draft7Validator),
    "draft-06": (jsonschema.Draft6Validator, jsonschema_rs.Draft6Validator),
    "draft-04": (jsonschema.Draft4Validator, jsonschema_rs.Draft4Validator),
}
"""JSON Schema's drafts: what checks a schema, and what checks values quickly."""
_DRAFT = re.compile(r"https?://json-schema\.org/(?:draft/)?(20\d\d-\d\d|draft-\d\d)/(?:hyper-)?schema#?", re.IGNORECASE)


def validator_of(name: str, parameters: dict[str, Json], *, kind: str = "object") -> jsonschema_rs.Validator:
    """The validator of a tool's arguments; the same one for equal schemas.

    `kind` is what the schema has to describe, "" for any kind of value: an answer, say.

    The draft that `$schema` names is followed. Without one it is 2020-12, or where the schema is none by that, draft 7
    or 4. A regular expression that the validator cannot use (it is too large, say) is not checked.

    Raises `EnvError` for a schema that is none, or that does not describe an object.
    """
    try:
        key = _key(parameters)
        validator = _by_draft(parameters) if key is None else _kept(key)
    except jsonschema.SchemaError as error:
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {error.message}") from None
    except ValueError as error:  # a reference that leads nowhere, a pattern that is none, a number beyond 64 bits
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {str(error).partition(chr(10))[0]}") from None
    except (RecursionError, AttributeError, TypeError) as error:
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {type(error).__name__} while reading it") from None
    if kind and (given := parameters.get("type", kind)) != kind:
        raise EnvError(f"tool {name!r}: arguments come by name, so their JSON Schema is of type {kind}, not {given!r}")
    return validator


class LaterValidator:
    """A validator that is made when it is first asked. Raises what `validator_of` does, then."""

    def __init__(self, name: str, parameters: dict[str, Json]) -> None:
        self.name, self.parameters = name, parameters
        self._made: jsonschema_rs.Validator | None = None

    def is_valid(self, value: Any) -> bool:
        return self._validator().is_valid(value)

    def iter_errors(self, value: Any) -> Iterator[jsonschema_rs.ValidationError]:
        return self._validator().iter_errors(value)

    def _validator(self) -> jsonschema_rs.Validator:
        if self._made is None:
            self._made = validator_of(self.name, self.parameters)
        return self._made


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
    return _by_draft(orjson.loads(key))


def _by_draft(parameters: dict[str, Json]) -> jsonschema_rs.Validator:
    declared = _declared(parameters)
    try:
        return _made(parameters, declared or _NEWEST)
    except (jsonschema.SchemaError, ValueError):
        for draft in () if declared else ("draft-07", "draft-04"):  # their tuples and bounds are none of 2020-12
            with contextlib.suppress(jsonschema.SchemaError, ValueError):
                return _made(parameters, draft)
        raise


def _declared(parameters: dict[str, Json]) -> str | None:
    """The draft that a schema names, None for an unknown one. Raises `ValueError` for one that cannot be followed."""
    named = parameters.get("$schema")
    found = _DRAFT.fullmatch(named.strip()) if isinstance(named, str) else None
    if found is None:
        return None
    draft = found[1].lower()
    if draft == "draft-05":  # its metaschema is draft 4's
        return "draft-04"
    if draft not in _DRAFTS:
        raise ValueError(f"it is of {draft}; known are {', '.join(_DRAFTS)}")
    return draft


def _made(parameters: dict[str, Json], draft: str) -> jsonschema_rs.Validator:
    reference, fast = _DRAFTS[draft]
    # offline: no remote $ref is ever fetched. Backtracking in patterns is bounded.
    try:
        return fast(parameters, offline=True)
    except ValueError as error:
        reference.check_schema(parameters)  # much slower, and says more plainly what is wrong
        if "regex" not in str(error):
            raise
        validator = fast(_without_patterns(parameters, _is_unusable), offline=True)
        _log.warning("a pattern is not checked, as the validator cannot use it: %s", str(error).partition(chr(10))[0])
        return validator


def _without_patterns(parameters: Json, leave_out: Callable[[str], bool]) -> Json:
    """The same schema without some of its regular expressions: it allows more."""

    def walk(node: Any, named: bool = False) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        kept: dict[str, Any] = {}
        for key, value in node.items():
            if named:
                kept[key] = walk(value)
            elif key == "patternProperties" and isinstance(value, dict):
                # What it names is to stay allowed: any name fits the empty pattern.
                kept[key] = {"" if leave_out(n) else n: True if leave_out(n) else walk(v) for n, v in value.items()}
            elif not (key == "pattern" and isinstance(value, str) and leave_out(value)):
                kept[key] = value if key in _VALUES else walk(value, key in _MAPS)
        return kept

    return walk(parameters)


def _is_wrong(pattern: str) -> bool:
    """Whether the validator takes no such regular expression."""
    try:
        jsonschema_rs.validator_for({"pattern": pattern}, offline=True)
    except ValueError:
        return True
    return False


def _is_unusable(pattern: str) -> bool:
    """Whether the validator takes no such regular expression, though to Python it is one."""
    with contextlib.suppress(re.error, RecursionError, OverflowError):
        re.compile(pattern)
        return _is_wrong(pattern)
    return False


def without_wrong_keywords(parameters: dict[str, Json]) -> tuple[dict[str, Json], list[str]]:
    """A schema without the keywords that its draft refuses, and where these were. It allows more than was meant, so it
    is for the tools of a server, which checks arguments itself."""
    try:
        reference = _DRAFTS[_declared(parameters) or _NEWEST][0]
    except ValueError:  # a draft that is unknown here
        return parameters, []
    meta = reference(reference.META_SCHEMA)
    lighter: dict[str, Json] = _without_patterns(copy.deepcopy(parameters), _is_wrong)
    dropped = [] if lighter == parameters else ["pattern"]
    for ref in _lost_references(lighter, lighter):
        dropped.append(f"$ref {ref.pop('$ref')}")
    for _ in range(_MOST_FIXES):
        wrong = min(meta.iter_errors(lighter), key=lambda error: len(error.absolute_path), default=None)
        if wrong is None or not wrong.absolute_path:
            break
        *above, last = wrong.absolute_path
        parent: Any = lighter
        for part in above:
            parent = parent[part]
        if above and above[-1] in _MAPS and not isinstance(wrong.instance, dict):
            parent[last] = True  # what it names stays allowed
        else:
            del parent[last]
        if last in ("properties", "patternProperties") and isinstance(parent, dict):  # what these named, too
            for rest in ("additionalProperties", "unevaluatedProperties"):
                parent.pop(rest, None)
        dropped.append("/".join(map(str, wrong.absolute_path)))
    return lighter, dropped


def _lost_references(root: Json, node: Any) -> Iterator[dict[str, Json]]:
    """The parts of a schema with a `$ref` to outside of it, or to nothing."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _lost_references(root, value)
    if isinstance(node, dict) and isinstance(node.get("$ref"), str):
        try:
            at(root, node["$ref"])
        except LookupError:
            yield node


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
