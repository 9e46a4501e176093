"""Swagger 2.0 as OpenAPI 3.0: what many vendors still publish. Defines `is_swagger`, `root_of`, `operation_of`.

Schemas stay where they are (`#/definitions/Pet`), so references need no change and places in warnings are those of the
document. Only what differs is rewritten: the address, credentials, and parameters, of which two kinds make a body.
"""

from __future__ import annotations

from collections.abc import Callable

from ...trajectories.messages import Json
from .parts import DocumentPart, Wrong
from .reading import told

__all__ = ["is_swagger", "operation_of", "root_of"]

_SCHEMA = (
    "type", "format", "items", "default", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems", "multipleOf", "nullable", "x-nullable",
    "example",
)  # fmt: skip
"""What a parameter says of its value; 3.0 has it in a schema."""
_STYLES = {"csv": "form", "ssv": "spaceDelimited", "pipes": "pipeDelimited", "multi": "form", "tsv": "tabDelimited"}
"""`collectionFormat`, and the style that writes the same. No style writes tabs: such a parameter is left out."""
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


def is_swagger(root: dict[str, Json]) -> bool:
    return told(root.get("swagger", "")).split(".")[0] == "2" and "openapi" not in root


def root_of(root: dict[str, Json]) -> dict[str, Json]:
    """The document with `servers` and `components.securitySchemes`."""
    made = {key: value for key, value in root.items() if key not in ("servers", "components")}
    address = _address(root, _scheme(root.get("schemes")))
    if address:
        made["servers"] = [{"url": address}]
    given = root.get("securityDefinitions")
    schemes = {name: _credential(value) for name, value in given.items()} if isinstance(given, dict) else given
    return {**made, "components": {"securitySchemes": schemes}}


def operation_of(
    root: dict[str, Json], item: DocumentPart, part: DocumentPart, follow: Callable[[DocumentPart], DocumentPart]
) -> tuple[DocumentPart, DocumentPart]:
    """A path's item and one operation of it, the parameters of both in the operation. Raises `Wrong`.

    Args:
        root: The document.
        item: The path's item.
        part: The operation.
        follow: Gives what a part is, through its references.
    """
    found: dict[tuple[str, str], DocumentPart] = {}
    for holder in (item, part):
        listed = holder.get("parameters")
        for raw in listed.items() if listed is not None else ():
            parameter = follow(raw)
            place = told(parameter.fields().get("in"))
            found[place, "" if place == "body" else told(parameter.fields().get("name"))] = parameter
    fields = {key: value for key, value in part.fields().items() if key not in ("servers", "requestBody")}
    fields["parameters"] = [_parameter(p.fields()) for (place, _), p in found.items() if place not in _BODY]
    body = [p for (place, _), p in found.items() if place in _BODY]
    if body:
        fields["requestBody"] = _body(body, part, _types(part.fields().get("consumes", root.get("consumes"))))
    own = part.fields().get("schemes")
    if own is not None and _scheme(root.get("schemes")) not in (own if isinstance(own, list) else ()):
        address = _address(root, _scheme(own))
        if "://" in address:
            fields["servers"] = [{"url": address}]
    above = {key: value for key, value in item.fields().items() if key not in ("parameters", "servers")}
    return DocumentPart(above, item.file, item.pointer), DocumentPart(fields, part.file, part.pointer)


_BODY = ("body", "formData")


def _scheme(listed: Json) -> str:
    """https where it is served so, or where nothing is said."""
    known = [scheme for scheme in ("https", "http") if isinstance(listed, list) and scheme in listed]
    return known[0] if known else "https"


def _address(root: dict[str, Json], scheme: str) -> str:
    host, base = root.get("host"), root.get("basePath")
    path = "/" + base.strip("/") if isinstance(base, str) and base.strip("/") else ""
    if not isinstance(host, str) or not host:
        return path
    return f"{scheme}://{host.split('://')[-1].rstrip('/')}{path}"


def _credential(scheme: Json) -> Json:
    if isinstance(scheme, dict) and scheme.get("type") == "basic":
        return {**scheme, "type": "http", "scheme": "basic"}
    return scheme


def _types(listed: Json) -> list[str]:
    return [kind for kind in listed if isinstance(kind, str)] if isinstance(listed, list) else []


def _schema(parameter: dict[str, Json]) -> Json:
    """The schema of a parameter that is not the body."""
    if "schema" in parameter:  # written by habit of 3.0
        return parameter["schema"]
    made = {key: parameter[key] for key in _SCHEMA if key in parameter}
    return {**made, "type": "string", "format": "binary"} if made.get("type") == "file" else made


def _parameter(parameter: dict[str, Json]) -> dict[str, Json]:
    made = {key: value for key, value in parameter.items() if key not in (*_SCHEMA, "collectionFormat", "schema")}
    made["schema"] = _schema(parameter)
    return {**made, **_collected(parameter, parameter.get("in") == "query")}


def _collected(parameter: dict[str, Json], named: bool) -> dict[str, Json]:
    """How a list is written: with commas where nothing is said."""
    if parameter.get("type") != "array":
        return {}
    way = told(parameter.get("collectionFormat", "csv"))
    if not named and way == "csv":
        return {"style": "simple", "explode": False}
    return {"style": _STYLES.get(way, way), "explode": way == "multi"}


def _body(parts: list[DocumentPart], operation: DocumentPart, consumes: list[str]) -> dict[str, Json]:
    """The parameters that make a body as a `requestBody`. Raises `Wrong`."""
    fields = [part.fields() for part in parts]
    whole = [one for one in fields if one.get("in") == "body"]
    if whole and len(fields) > 1:
        raise Wrong(operation.where, "it has a body and fields of a form")
    if whole:
        content = {"schema": whole[0].get("schema", {})}
        made: dict[str, Json] = {"content": dict.fromkeys(consumes or ["application/json"], content)}
        return {**made, "required": whole[0].get("required")}
    properties: dict[str, Json] = {}
    encoding: dict[str, Json] = {}
    for part, one in zip(parts, fields, strict=True):
        name, schema = part.text("name"), _schema(one)
        if not name:
            raise Wrong(part.where, "a field of a form without a name")
        said = one.get("description")
        if isinstance(schema, dict) and isinstance(said, str) and "$ref" not in schema:
            schema = {**schema, "description": said}
        properties[name] = schema
        if collected := _collected(one, True):
            if collected["style"] not in ("form", "spaceDelimited", "pipeDelimited"):
                raise Wrong(part.where, f"field {name!r} in collectionFormat {told(one.get('collectionFormat'))!r}")
            encoding[name] = collected
    required = [part.text("name") for part in parts if part.flag("required")]
    forms = [kind for kind in consumes if kind.split(";")[0].strip().lower() in (_FORM, _MULTIPART)]
    if any(one.get("type") == "file" for one in fields):
        forms = [kind for kind in forms if not kind.lower().startswith(_FORM)] or [_MULTIPART]
    schema = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    content = {"schema": schema, **({"encoding": encoding} if encoding else {})}
    return {"content": dict.fromkeys(forms or [_FORM], content), "required": bool(required)}
