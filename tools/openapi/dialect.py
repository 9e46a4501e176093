"""OpenAPI's schemas as JSON Schema 2020-12, for requests. Defines `Schemas`.

What 3.0 and older drafts write in their own way is translated. A keyword that is wrong is left out by itself: the
schema then allows more, and the service is still there to refuse. What the service alone sets (`readOnly`) is asked of
nobody.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import jsonschema_rs

from ...trajectories.messages import Json
from ..names import clean
from .parts import DocumentPart, Omissions, Sources, Wrong
from .reading import kind_of, told

__all__ = ["Schemas", "is_nullable"]

_MAX_NODES = 100_000
"""Schema nodes of one tool. More is an error, or a document that was written to exhaust memory."""
_MAX_ALL = 3_000_000
"""Schema nodes of all tools of a document."""

_MAX_DEPTH = 64
"""Of a value (a default, a choice), and of a schema inside of another one."""

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MAPS = ("properties", "patternProperties", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = (
    "items", "additionalProperties", "not", "contains", "if", "then", "else", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
_SAME = ("allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas")
"""Schemas in these are about the same value as the schema that holds them."""
_GIVEN = frozenset({"readOnly", "$ref", "allOf", "anyOf", "oneOf"})
_OF_OBJECTS = ("properties", "required", "$ref", *_SAME)
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Set:
    """Properties that only the service sets."""

    dropped: frozenset[str] = _NONE
    """Not shown at all."""
    lifted: frozenset[str] = _NONE
    """Not required. More than `dropped`: in some alternative the service sets them."""

    def within(self, names: frozenset[str]) -> _Set:
        return _Set(self.dropped & names, self.lifted & names)


@dataclass(slots=True)
class _Work:
    """One schema under way."""

    uses: set[str] = field(default_factory=set)
    """Definitions that it refers to."""
    nodes: int = 0
    deepest: int = 0
    """Steps of a pointer at most."""


def _deepest(part: DocumentPart) -> int:
    return part.pointer.count("/") + 2 * _MAX_DEPTH


class Schemas:
    """The schemas of a document, converted once for all its tools."""

    def __init__(self, files: Sources, report: Omissions, *, old: bool) -> None:
        """
        Args:
            files: The document.
            report: Told of keywords that are left out.
            old: 3.0, or an older draft of JSON Schema: what is next to a reference has no meaning.
        """
        self.files, self.report, self.old = files, report, old
        self._names: dict[tuple[str, _Set], str] = {}
        self._made: dict[str, Json] = {}
        self._work: dict[str, _Work] = {}
        self._failed: dict[str, Wrong] = {}
        self._todo: list[tuple[str, DocumentPart, _Set]] = []
        self._all = 0
        self._read: dict[tuple[str, int], tuple[Json, frozenset[str]]] = {}
        """(question, id of a schema) -> the schema, so that no other gets its id, and the answer."""
        self._given: dict[int, tuple[Json, bool]] = {}

    def convert(self, part: DocumentPart) -> tuple[Json, set[str]]:
        """A schema, and the names of the definitions that it refers to. Raises `Wrong` for one that is too large or too
        deep."""
        work = _Work(deepest=_deepest(part))
        try:
            made = self._convert(part, _Set(), work)
            self._finish()
        except RecursionError:
            raise Wrong(part.where, "it is nested too deep") from None
        return made, work.uses

    def definitions(self, uses: set[str]) -> tuple[dict[str, Json], int]:
        """The definitions by these names and all that they refer to, and of how many nodes they are. Raises `Wrong` for
        what is too large."""
        found: dict[str, Json] = {}
        todo, nodes = sorted(uses, reverse=True), 0
        while todo:
            name = todo.pop()
            if name in found:
                continue
            if name in self._failed:
                raise self._failed[name]
            found[name] = self._made[name]
            nodes += self._work[name].nodes
            if nodes > _MAX_NODES:
                raise Wrong("#", f"a tool's schema has more than {_MAX_NODES} parts")
            todo += sorted(self._work[name].uses - found.keys(), reverse=True)
        return found, nodes

    def _finish(self) -> None:
        """Converts what was referred to."""
        while self._todo:
            name, part, given = self._todo.pop()
            self._work[name] = work = _Work(deepest=_deepest(part))
            try:
                self._made[name] = self._convert(part, given, work)
            except Wrong as wrong:
                self._failed[name] = wrong
            except RecursionError:
                self._failed[name] = Wrong(part.where, "it is nested too deep")

    # ---- one schema --------------------------------------------------------------------------------------------------

    def _convert(self, part: DocumentPart, above: _Set, work: _Work) -> Json:
        work.nodes += 1
        self._all += 1
        if part.pointer.count("/") > work.deepest:
            raise Wrong(part.where, "it is nested too deep")
        if work.nodes > _MAX_NODES:
            raise Wrong(part.where, f"a tool's schema has more than {_MAX_NODES} parts")
        if self._all > _MAX_ALL:
            raise Wrong(part.where, f"the document's schemas have more than {_MAX_ALL} parts")
        node = part.value
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            if node is not None:
                self.report.add(part.where, "a schema", f"{kind_of(node)} where a schema should be")
            return {}
        given = _Set(above.dropped | self._dropped(part), above.lifted | self._lifted(part))
        out = self._plain(part, node)
        if "required" in out:
            kept = [name for name in out.pop("required") if name not in given.lifted]
            if kept:
                out["required"] = kept
        self._map(part, node, given, out, work)
        self._list(part, node, given, out, work)
        self._one(part, node, given, out, work)
        if "$ref" in node or "$dynamicRef" in node:
            key = "$ref" if "$ref" in node else "$dynamicRef"
            out = self._referred(part, key, given, out, work)
        return self._nullable(node, out)

    def _referred(
        self, part: DocumentPart, key: str, given: _Set, out: dict[str, Json], work: _Work
    ) -> dict[str, Json]:
        try:
            target = self.files.at(part, key)
        except Wrong as wrong:
            self.report.add(wrong.where, "a schema", wrong.why)
            return out
        name = self._define(target, given.within(self._mentioned(target)))
        work.uses.add(name)
        if self.old:
            out = {key: value for key, value in out.items() if key == "description"}
        return {"$ref": f"#/$defs/{name}", **out}

    def _define(self, target: DocumentPart, given: _Set) -> str:
        """The name under which what a reference leads to is in `$defs`."""
        key = target.where, given
        if key not in self._names:
            stem = clean(target.pointer.rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~"))[:60] or "schema"
            name, number = stem, 1
            while name in self._work or name in self._made:
                number += 1
                name = f"{stem}_{number}"
            self._names[key] = name
            self._made[name] = True  # taken
            self._todo.append((name, target, given))
        return self._names[key]

    def _plain(self, part: DocumentPart, node: dict[str, Json]) -> dict[str, Json]:
        """The keywords that hold no schema."""
        out: dict[str, Json] = {}
        for key, check in _CHECKS.items():
            if key not in node or (node[key] is None and key not in ("default", "const")):
                continue
            try:
                out[key] = check(node[key])
            except _Bad as bad:
                self._leave(part, key, node[key], str(bad))
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if isinstance(out.get(exclusive), bool) and out.pop(exclusive) and bound in out:  # 3.0's and draft 4's
                out[exclusive] = out.pop(bound)
        pattern = out.get("pattern")
        if isinstance(pattern, str) and not _is_usable(pattern):
            del out["pattern"]
            lengths = _LENGTHS.fullmatch(pattern)
            if lengths is None:
                self._leave(part, "pattern", pattern, f"{pattern[:100]!r} is no pattern that can be checked")
            else:  # a count that is too large for the validator
                out.setdefault("minLength", int(lengths[1]))
                if lengths[2]:
                    out.setdefault("maxLength", int(lengths[2]))
        self._agree(part, node, out)
        return out

    def _agree(self, part: DocumentPart, node: dict[str, Json], out: dict[str, Json]) -> None:
        """Makes choices and default fit the type: YAML and its writers mix `1.0` and `"1.0"`."""
        kinds = out.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if isinstance(kinds, list) and is_nullable(node):
            kinds = [*kinds, "null"]
        if isinstance(kinds, list) and isinstance(out.get("enum"), list):
            choices = [_as(kinds, choice) for choice in out["enum"]]
            fitting = [choice for choice, fits in choices if fits or choice is None]
            if any(choice is not None for choice in fitting):
                out["enum"] = fitting
                if len(fitting) < len(choices):
                    self._leave(part, "enum", 0, "some of its values are not of the schema's type")
            else:
                self._leave(part, "enum", out.pop("enum"), "its values are not of the schema's type")
        if "default" in out:
            default, fits = _as(kinds, out["default"]) if isinstance(kinds, list) else (out["default"], True)
            if fits and (default is None or not isinstance(out.get("enum"), list) or default in out["enum"]):
                out["default"] = default
            else:
                del out["default"]  # the service's affair: nothing is lost by not showing it

    def _map(self, part: DocumentPart, node: dict[str, Json], given: _Set, out: dict[str, Json], work: _Work) -> None:
        for key in _MAPS:
            if node.get(key) is None:
                continue
            if not isinstance(node[key], dict):
                self._leave(part, key, node[key], f"{kind_of(node[key])} where an object should be")
                continue
            made = {}
            for name, inner in part.inner(key, node[key]).members():
                if key == "properties" and name in given.dropped:
                    continue
                if key == "patternProperties" and not _is_usable(name):
                    self._leave(part, key, name, f"{name[:100]!r} is no pattern that can be checked")
                    continue
                made[name] = self._convert(inner, given if key in _SAME else _Set(), work)
            if key == "patternProperties" and len(made) < len(node[key]):
                made[""] = True  # the properties that the pattern named stay allowed
            out[key] = made
        self._dependencies(part, node, given, out, work)

    def _dependencies(
        self, part: DocumentPart, node: dict[str, Json], given: _Set, out: dict[str, Json], work: _Work
    ) -> None:
        """Draft 7's `dependencies`, and lists of names."""
        names = out.pop("dependentRequired", {})
        old = node.get("dependencies")
        for name, inner in part.inner("dependencies", old).members() if isinstance(old, dict) else ():
            if isinstance(inner.value, list):
                names.setdefault(name, [item for item in inner.value if isinstance(item, str)])
            else:
                out.setdefault("dependentSchemas", {}).setdefault(name, self._convert(inner, given, work))
        names = {name: [n for n in wanted if n not in given.lifted] for name, wanted in names.items()}
        if any(names.values()):
            out["dependentRequired"] = {name: wanted for name, wanted in names.items() if wanted}

    def _list(self, part: DocumentPart, node: dict[str, Json], given: _Set, out: dict[str, Json], work: _Work) -> None:
        for key in _LISTS:
            if node.get(key) is None:
                continue
            if not isinstance(node[key], list) or not node[key]:
                wrong = "an empty list" if node[key] == [] else f"{kind_of(node[key])} where a list should be"
                self._leave(part, key, node[key], wrong)
                continue
            inner = given if key in _SAME else _Set()
            if key == "oneOf" and isinstance(node.get("discriminator"), (dict, str)) and "anyOf" not in node:
                # A property says which one is meant. What they have in common fits several, and is no mistake.
                out["anyOf"] = [
                    self._convert(_without_null(item), inner, work) for item in part.inner(key, node[key]).items()
                ]
                continue
            out[key] = [self._convert(_without_null(item), inner, work) for item in part.inner(key, node[key]).items()]

    def _one(self, part: DocumentPart, node: dict[str, Json], given: _Set, out: dict[str, Json], work: _Work) -> None:
        for key in _SCHEMAS:
            if node.get(key) is None:
                continue
            if key == "items" and isinstance(node[key], list):  # a tuple, before 2020-12
                if node[key] and "prefixItems" not in out:
                    out["prefixItems"] = [
                        self._convert(item, _Set(), work) for item in part.inner(key, node[key]).items()
                    ]
                if node.get("additionalItems") is not None:
                    out["items"] = self._convert(part.inner("additionalItems", node["additionalItems"]), _Set(), work)
                continue
            if not isinstance(node[key], (dict, bool)):
                self._leave(part, key, node[key], f"{kind_of(node[key])} where a schema should be")
                continue
            out[key] = self._convert(part.inner(key, node[key]), given if key in _SAME else _Set(), work)

    def _nullable(self, node: dict[str, Json], out: dict[str, Json]) -> dict[str, Json]:
        """3.0's null. Written in 3.1 documents too, by habit."""
        if not is_nullable(node):
            return out
        if isinstance(out.get("type"), str) and not any(key in out for key in (*_LISTS, "not", "$ref", "const")):
            out["type"] = [out["type"], "null"]
            if "enum" in out and None not in out["enum"]:
                out["enum"] = [*out["enum"], None]
            return out
        if isinstance(out.get("type"), list) and "null" in out["type"]:
            return out
        said = {"description": out.pop("description")} if "description" in out else {}
        return {"anyOf": [out, {"type": "null"}], **said} if out else said

    def _leave(self, part: DocumentPart, key: str, value: Json, why: str) -> None:
        self.report.add(part.inner(key, value).where, f"keyword {key!r}", why)

    # ---- what only the service sets ----------------------------------------------------------------------------------

    def is_given(self, part: DocumentPart) -> bool:
        """Whether a property is set by the service alone: it says so, or all that it is made of does."""
        node = part.value
        if not isinstance(node, dict):
            return False
        if node.get("readOnly") is True:
            return True
        if not _may_be_given(node):
            return False
        if id(node) not in self._given:
            self._given[id(node)] = node, False  # while it is asked: a circle adds nothing
            self._given[id(node)] = node, self._is_made_of_given(part)
        return self._given[id(node)][1]

    def _is_made_of_given(self, part: DocumentPart) -> bool:
        if any(map(self.is_given, [*self._targets(part), *_inner(part, "allOf")])):
            return True
        for key in ("anyOf", "oneOf"):
            branches = [
                b for b in _inner(part, key) if not (isinstance(b.value, dict) and b.value.get("type") == "null")
            ]
            if branches and all(map(self.is_given, branches)):
                return True
        return False

    def _dropped(self, part: DocumentPart) -> frozenset[str]:
        """Properties that are certainly the service's own, by the schema and all that it is put together from."""
        return self._names_in("dropped", part, ("allOf",), lambda inner: self.is_given(inner))

    def _lifted(self, part: DocumentPart) -> frozenset[str]:
        """Properties that are the service's own in some alternative."""
        return self._names_in("lifted", part, _SAME, lambda inner: self.is_given(inner))

    def _mentioned(self, part: DocumentPart) -> frozenset[str]:
        """All properties that a schema speaks of."""
        return self._names_in("mentioned", part, _SAME, lambda inner: True)

    def _names_in(
        self, kind: str, part: DocumentPart, ways: tuple[str, ...], wanted: Callable[[DocumentPart], bool]
    ) -> frozenset[str]:
        node = part.value
        if not isinstance(node, dict) or not any(key in node for key in _OF_OBJECTS):
            return _NONE
        key = kind, id(node)
        if key not in self._read:
            found: set[str] = set()
            todo, seen = [part], {id(node)}
            while todo:
                one = todo.pop()
                if not isinstance(one.value, dict):
                    continue
                properties, required = one.value.get("properties"), one.value.get("required")
                if isinstance(properties, dict):
                    inner = one.inner("properties", properties)
                    for name, value in properties.items():
                        if name in found or not (kind == "mentioned" or _may_be_given(value)):
                            continue
                        if wanted(inner.inner(name, value)):
                            found.add(name)
                if kind == "mentioned" and isinstance(required, list):
                    found.update(n for n in required if isinstance(n, str))
                for other in (*self._targets(one), *(s for way in ways for s in _inner(one, way))):
                    if id(other.value) not in seen:
                        seen.add(id(other.value))
                        todo.append(other)
            self._read[key] = node, frozenset(found)
        return self._read[key][1]

    def _targets(self, part: DocumentPart) -> Iterator[DocumentPart]:
        if isinstance(part.value, dict) and "$ref" in part.value:
            try:
                yield self.files.at(part)
            except Wrong:
                return


def is_nullable(node: Json) -> bool:
    """Whether a schema allows null in the way of 3.0, or in that of Swagger 2.0's documents."""
    return isinstance(node, dict) and (node.get("nullable") is True or node.get("x-nullable") is True)


def _may_be_given(node: Json) -> bool:
    """Whether a property can be the service's own; cheap, and no for most."""
    return isinstance(node, dict) and not _GIVEN.isdisjoint(node)


def _inner(part: DocumentPart, key: str) -> list[DocumentPart]:
    """The schemas under a keyword, in any form."""
    value = part.value.get(key) if isinstance(part.value, dict) else None
    if isinstance(value, list):
        return part.inner(key, value).items()
    if isinstance(value, dict):
        inner = part.inner(key, value)
        return [p for _, p in inner.members()] if key == "dependentSchemas" else [inner]
    return []


def _without_null(part: DocumentPart) -> DocumentPart:
    """`type: null` among alternatives: YAML reads the word as nothing."""
    node = part.value
    if isinstance(node, dict) and "type" in node and node["type"] is None:
        return DocumentPart({**node, "type": "null"}, part.file, part.pointer)
    return part


# ---- keywords without schemas ----------------------------------------------------------------------------------------


class _Bad(Exception):
    """Why a keyword's value cannot be used."""


def _type(value: Json) -> Json:
    if isinstance(value, list):
        kinds = ["null" if kind is None else kind for kind in value]
        known = list(dict.fromkeys(kind for kind in kinds if isinstance(kind, str) and kind in _TYPES))
        if not known or len(known) < len(kinds):
            raise _Bad(f"{', '.join(map(told, value))[:100]} are not types; they are {', '.join(_TYPES)}")
        return known
    if not isinstance(value, str) or value not in _TYPES:
        raise _Bad(f"{told(value)!r} is no type; types are {', '.join(_TYPES)}")
    return value


def _any(value: Json) -> Json:
    todo = [(value, 0)]
    nodes = 0
    while todo:
        one, depth = todo.pop()
        nodes += 1
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            raise _Bad("it is nested too deep" if depth > _MAX_DEPTH else "it is too large")
        if isinstance(one, dict):
            todo += [(inner, depth + 1) for inner in one.values()]
        elif isinstance(one, list):
            todo += [(inner, depth + 1) for inner in one]
        elif (isinstance(one, float) and not math.isfinite(one)) or (
            isinstance(one, int) and not -(2**63) <= one < 2**64
        ):
            raise _Bad("it holds a number that no JSON reader keeps")
    return value


def _choices(value: Json) -> Json:
    if not isinstance(value, list) or not value:
        raise _Bad(f"{kind_of(value)} where a list of values should be" if value != [] else "it has no values")
    return _any(value)


def _examples(value: Json) -> Json:
    if not isinstance(value, list):
        raise _Bad(f"{kind_of(value)} where a list should be")
    return _any(value)


def _text(value: Json) -> Json:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _Bad(f"{kind_of(value)} where a text should be")
    return str(value)


def _string(value: Json) -> Json:
    if not isinstance(value, str):
        raise _Bad(f"{kind_of(value)} where a text should be")
    return value


def _names(value: Json) -> Json:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _Bad("it is a list of properties' names, next to `properties`")
    return list(dict.fromkeys(value))


def _names_of(value: Json) -> Json:
    if not isinstance(value, dict):
        raise _Bad(f"{kind_of(value)} where an object should be")
    return {name: _names(names) for name, names in value.items()}


def _number(value: Json) -> Json:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Bad(f"{kind_of(value)} where a number should be")
    if not math.isfinite(value):
        raise _Bad("a number that is not finite")
    return value if isinstance(value, float) or -(2**63) <= value < 2**64 else float(value)


def _bound(value: Json) -> Json:
    return value if isinstance(value, bool) else _number(value)


def _step(value: Json) -> Json:
    if _number(value) <= 0:
        raise _Bad("it is more than 0")
    return value


def _count(value: Json) -> Json:
    number = _number(value)
    if number < 0 or number != int(number):
        raise _Bad("it is a whole number from 0")
    return min(int(number), 2**63 - 1)


def _truth(value: Json) -> Json:
    if not isinstance(value, bool):
        raise _Bad(f"{kind_of(value)} where true or false should be")
    return value


_CHECKS: Mapping[str, Callable[[Json], Json]] = {
    "type": _type, "enum": _choices, "const": _any, "default": _any, "description": _text, "format": _text,
    "pattern": _string, "required": _names, "minimum": _number, "maximum": _number, "exclusiveMinimum": _bound,
    "exclusiveMaximum": _bound, "multipleOf": _step, "minLength": _count, "maxLength": _count, "minItems": _count,
    "maxItems": _count, "uniqueItems": _truth, "minProperties": _count, "maxProperties": _count, "minContains": _count,
    "maxContains": _count, "dependentRequired": _names_of, "examples": _examples,
}  # fmt: skip
"""JSON Schema's keywords that hold no schemas. What else OpenAPI writes (xml, discriminator ...) is left out."""

_LENGTHS = re.compile(r"\^(?:\.|\[\\s\\S\]|\[\\S\\s\]|\[\^\]|\(\.\)|\(\?:\.\))\{(\d{1,9}),?(\d{1,9})?\}\$")
"""A pattern that says how long a text is, and nothing else."""


@lru_cache(maxsize=4096)
def _is_usable(pattern: str) -> bool:
    """Whether a pattern can be checked."""
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, offline=True)
    except ValueError:
        return False
    return True


def _as(kinds: list[str], value: Json) -> tuple[Json, bool]:
    """A value by a schema's types: (the value, perhaps written in another way; whether it fits)."""
    if any(_is_a(kind, value) for kind in kinds):
        return value, True
    if "string" in kinds and isinstance(value, (bool, int, float)):
        return ("true" if value else "false") if isinstance(value, bool) else str(value), True
    if isinstance(value, str):
        for kind in kinds:
            try:
                if kind == "integer":
                    return int(value), True
                if kind == "number" and math.isfinite(float(value)):
                    return float(value), True
            except ValueError:
                continue
            if kind == "boolean" and value in ("true", "false"):
                return value == "true", True
    return value, False


def _is_a(kind: str, value: Json) -> bool:
    match kind:
        case "integer":
            return not isinstance(value, bool) and isinstance(value, (int, float)) and value == int(value)
        case "number":
            return not isinstance(value, bool) and isinstance(value, (int, float))
        case "null":
            return value is None
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool}
    return isinstance(value, kinds[kind])
