"""What an OpenAPI 3.0 or 3.1 document says: its operations, their parameters and schemas. Nothing is sent here."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import orjson

from ...trajectories.errors import ConfigError, EnvError
from ...trajectories.messages import Json, ToolSpec

__all__ = ["SAFE", "Document", "Operation", "Parameter", "is_json", "placeholders", "read_document"]

_log = logging.getLogger(__name__)

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
SAFE = ("get", "head", "options")
_PLACES = ("path", "query", "header", "cookie")
_RESERVED_HEADERS = ("accept", "content-type", "authorization")
"""Header parameters of these names are to be ignored, says the specification."""
_MAX_NAME = 64
_MAX_NODES = 100_000
"""Schema nodes of one tool. More is an error, or a document that was written to exhaust memory."""
_MAX_DOCUMENT = 32 << 20

_MAPS = ("properties", "patternProperties", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = (
    "items", "additionalProperties", "not", "contains", "if", "then", "else", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
_PLAIN = (
    "type", "enum", "const", "default", "description", "format", "pattern", "required", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems",
    "uniqueItems", "minProperties", "maxProperties", "minContains", "maxContains", "dependentRequired", "examples",
)  # fmt: skip
"""JSON Schema's keywords. Whatever else OpenAPI writes (xml, discriminator, example ...) is left out."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument, and where in the request it goes."""

    name: str
    """On the wire."""
    place: str
    """path, query, header, cookie; property (of the body) or body (all of it)."""
    schema: dict[str, Json]
    required: bool
    style: str = ""
    explode: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, ready to be sent."""

    name: str
    method: str
    path: str
    parameters: dict[str, Parameter]
    """Argument name -> where it goes."""
    media: str = ""
    """Content type of the body; empty for none."""
    security: tuple[str, ...] = ()
    """Schemes whose credentials are sent along."""

    @property
    def effect(self) -> bool:
        return self.method not in SAFE


def read_document(document: Mapping[str, Json] | str | Path) -> dict[str, Json]:
    if isinstance(document, Mapping):
        return dict(document)
    path = Path(document)
    try:
        if path.stat().st_size > _MAX_DOCUMENT:
            raise ConfigError(f"{path} is larger than {_MAX_DOCUMENT >> 20} MiB: is it an OpenAPI document?")
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the OpenAPI document {path}: {error.strerror}") from None
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            try:
                read = yaml.safe_load(text)
            except (yaml.YAMLError, RecursionError) as error:
                raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
        else:
            read = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path} is no JSON: {error}; a YAML document ends in .yaml") from None
    if not isinstance(read, dict):
        raise EnvError(f"{path} holds no OpenAPI document, but a {type(read).__name__}")
    return read


class Unsupported(Exception):
    """An operation needs what is not supported."""


class Document:
    """An OpenAPI document, and the tools in it."""

    def __init__(self, root: dict[str, Json]) -> None:
        version = str(root.get("openapi", ""))
        if not version.startswith("3."):
            found = f"Swagger {root['swagger']}" if "swagger" in root else f"openapi: {version or 'missing'}"
            raise EnvError(f"expected an OpenAPI 3 document, got {found}: convert it to OpenAPI 3 first")
        self.root = root
        self.old = version.startswith("3.0")
        """3.0 writes null and exclusive bounds in a way of its own."""
        components = root.get("components") or {}
        self.schemes: dict[str, dict[str, Json]] = {
            str(name): self.resolve(scheme) for name, scheme in (components.get("securitySchemes") or {}).items()
        }

    def check_schemes(self, names: Collection[str]) -> None:
        for name in names:
            if name not in self.schemes:
                known = ", ".join(self.schemes) or "none"
                raise ConfigError(f"the document has no security scheme {name!r}; it has: {known}")

    def server(self) -> str:
        servers = self.root.get("servers") or []
        url = str(servers[0].get("url", "")) if servers else ""
        for name, variable in (servers[0].get("variables") or {}).items() if servers else ():
            url = url.replace("{" + str(name) + "}", str(variable.get("default", "")))
        return url

    def names(self) -> list[str]:
        return [_operation_name(method, path, operation) for path, method, _, operation in self._each()]

    def _each(self) -> Iterator[tuple[str, str, dict[str, Json], dict[str, Json]]]:
        for path, item in (self.root.get("paths") or {}).items():
            item = self.resolve(item)
            for method in _METHODS:
                if isinstance(item.get(method), dict):
                    yield str(path), method, item, item[method]

    def operations(
        self, only: Collection[str] | None, credentials: Collection[str]
    ) -> Iterator[tuple[Operation, ToolSpec]]:
        for path, method, item, operation in self._each():
            name = _operation_name(method, path, operation)
            if only is not None and name not in only:
                continue
            try:
                yield self._operation(name, path, method, item, operation, credentials)
            except Unsupported as error:
                if only is not None:
                    raise EnvError(f"operation {name!r} cannot be a tool: {error}") from None
                _log.warning("operation %r is left out: %s", name, error)
            except RecursionError:
                raise EnvError(f"operation {name!r} is nested too deep") from None

    def _operation(
        self,
        name: str,
        path: str,
        method: str,
        item: dict[str, Json],
        operation: dict[str, Json],
        credentials: Collection[str],
    ) -> tuple[Operation, ToolSpec]:
        schemas = Schemas(self)
        found: dict[tuple[str, str], Parameter] = {}
        for raw in (*(item.get("parameters") or ()), *(operation.get("parameters") or ())):
            parameter = self._parameter(self.resolve(raw), schemas)
            found[parameter.place, parameter.name] = parameter  # an operation's own replaces its path's
        sent = self._security(operation, credentials)
        for scheme in (self.schemes[s] for s in sent):
            found.pop((str(scheme.get("in")), str(scheme.get("name"))), None)  # a credential is not the agent's affair
        found = {key: p for key, p in found.items() if p.place != "header" or p.name.lower() not in _RESERVED_HEADERS}
        media, body = self._body(operation, schemas)
        parameters = _flat(name, [*found.values(), *body])
        missing = [n for n in placeholders(path) if ("path", n) not in found]
        if missing:
            raise EnvError(f"operation {name!r}: the path {path!r} has no parameter for {missing[0]!r}")
        schema: dict[str, Json] = {
            "type": "object",
            "properties": {argument: p.schema for argument, p in parameters.items()},
            "required": [argument for argument, p in parameters.items() if p.required],
            "additionalProperties": False,
        }
        if not schema["required"]:
            del schema["required"]
        if schemas.definitions:
            schema["$defs"] = schemas.definitions
        said = [str(operation.get(key) or "").strip() for key in ("summary", "description")]
        text = " ".join(dict.fromkeys(s for s in said if s)) or f"{method.upper()} {path}"
        if operation.get("deprecated") is True:
            text += " (deprecated)"
        made = Operation(name, method, path, parameters, media, sent)
        return made, ToolSpec(name, text, schema)

    def _parameter(self, raw: dict[str, Json], schemas: Schemas) -> Parameter:
        place, name = str(raw.get("in")), str(raw.get("name"))
        if place not in _PLACES:
            raise Unsupported(f"a parameter in {place!r}")
        style = str(raw.get("style") or ("form" if place in ("query", "cookie") else "simple"))
        supported = {
            "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
            "cookie": ("form",),
        }.get(place, ("simple",))
        if style not in supported:
            raise Unsupported(f"parameter {name!r} in style {style!r}")
        content = raw.get("content") or {}
        as_json = bool(content)
        if as_json and not is_json(next(iter(content))):
            raise Unsupported(f"parameter {name!r} as {next(iter(content))}")
        schema = next(iter(content.values())).get("schema") if as_json else raw.get("schema")
        converted = schemas.convert(schema if schema is not None else {})
        if not isinstance(converted, dict):
            converted = {}
        if raw.get("description") and "description" not in converted:
            converted = {**converted, "description": str(raw["description"])}
        return Parameter(
            name,
            place,
            converted,
            place == "path" or raw.get("required") is True,
            style,
            bool(raw.get("explode", style == "form")),
            as_json,
        )

    def _body(self, operation: dict[str, Json], schemas: Schemas) -> tuple[str, list[Parameter]]:
        """The body's content type, and its parameters: its properties, or all of it as `body`."""
        if not operation.get("requestBody"):
            return "", []
        body = self.resolve(operation["requestBody"])
        content = body.get("content") or {}
        form = "application/x-www-form-urlencoded"
        media = next((m for m in content if is_json(m)), None) or next(
            (m for m in content if m.split(";")[0].strip() in (form, "text/plain")), None
        )
        if media is None:
            raise Unsupported(f"a body of type {', '.join(content) or 'nothing'}")
        raw = (content[media] or {}).get("schema") or {}
        required = body.get("required") is True
        top = self.resolve(raw)
        extra = top.get("additionalProperties")
        flat = (
            isinstance(top.get("properties"), dict)
            and top.get("type", "object") == "object"
            and not any(key in top for key in (*_LISTS, "not", "if", "patternProperties", "minProperties"))
            and (extra is None or extra is False)
            and top.get("nullable") is not True
            and (required or not top.get("required"))
        )
        if not flat:
            schema = schemas.convert(raw)
            return media, [Parameter("body", "body", schema if isinstance(schema, dict) else {}, required)]
        converted = schemas.convert(top)
        assert isinstance(converted, dict)
        needed = converted.get("required") or ()
        return media, [
            Parameter(name, "property", schema if isinstance(schema, dict) else {}, name in needed)
            for name, schema in converted.get("properties", {}).items()
        ]

    def _security(self, operation: dict[str, Json], credentials: Collection[str]) -> tuple[str, ...]:
        """The schemes to send: the first alternative for which there are credentials."""
        wanted = operation.get("security", self.root.get("security")) or []
        for alternative in wanted:
            if all(str(name) in credentials for name in alternative):
                return tuple(str(name) for name in alternative)
        return ()

    def resolve(self, node: Json) -> dict[str, Json]:
        """What a node is, through its references. Raises `EnvError` for one that leads out of the document."""
        for _ in range(32):
            if not isinstance(node, dict):
                raise EnvError(f"the document has a {type(node).__name__} where an object should be")
            if "$ref" not in node:
                return node
            node = self.at(node["$ref"])
        raise EnvError("the document's references go round in a circle")

    def at(self, ref: Json) -> Json:
        """What stands at a reference."""
        if not isinstance(ref, str) or not ref.startswith("#/"):
            raise EnvError(f"reference {ref!r} leads out of the document: bundle it into one file first")
        node: Json = self.root
        for part in ref[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, dict) and key in node:
                node = node[key]
            else:
                raise EnvError(f"reference {ref!r} leads nowhere in the document")
        return node


class Schemas:
    """The schemas of one tool, as JSON Schema with local definitions."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.definitions: dict[str, Json] = {}
        self._names: dict[str, str] = {}
        self._nodes = 0

    def convert(self, node: Json) -> Json:
        """OpenAPI's dialect as JSON Schema 2020-12."""
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise EnvError(f"a tool's schema has more than {_MAX_NODES} parts")
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise EnvError(f"the document has a {type(node).__name__} where a schema should be")
        out: dict[str, Json] = {key: node[key] for key in _PLAIN if key in node}
        if "$ref" in node:
            ref = {"$ref": f"#/$defs/{self._define(node['$ref'])}"}
            if self.document.old:
                return ref  # in 3.0 what stands next to a reference has no meaning
            out.update(ref)
        for key in _MAPS:
            if isinstance(node.get(key), dict):
                out[key] = {str(name): self.convert(value) for name, value in node[key].items() if not _given(value)}
        for key in _LISTS:
            if isinstance(node.get(key), list):
                out[key] = [self.convert(value) for value in node[key]]
        for key in _SCHEMAS:
            if key in node:
                out[key] = self.convert(node[key])
        if "required" in out:
            kept = [name for name in out["required"] if not _given((node.get("properties") or {}).get(name))]
            out.pop("required")
            if kept:
                out["required"] = kept
        return self._modern(out, node) if self.document.old else out

    def _modern(self, out: dict[str, Json], node: dict[str, Json]) -> dict[str, Json]:
        """What 3.0 writes in its own way."""
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if isinstance(out.get(exclusive), bool) and out.pop(exclusive) and bound in out:
                out[exclusive] = out.pop(bound)
        if node.get("nullable") is True:
            if isinstance(out.get("type"), str) and not any(key in out for key in (*_LISTS, "not")):
                out["type"] = [out["type"], "null"]
                if "enum" in out and None not in out["enum"]:
                    out["enum"] = [*out["enum"], None]
            else:
                out = {"anyOf": [out, {"type": "null"}]}
        return out

    def _define(self, ref: Json) -> str:
        """The name under which what a reference points to is in `$defs`."""
        target = self.document.at(ref)
        if ref not in self._names:
            stem = _clean(unquote(ref.rsplit("/", 1)[-1])) or "schema"
            name, number = stem, 2
            while name in self.definitions:
                name, number = f"{stem}_{number}", number + 1
            self._names[ref] = name
            self.definitions[name] = True  # taken, and where a schema refers to itself, there already
            self.definitions[name] = self.convert(target)
        return self._names[ref]


def _given(schema: Json) -> bool:
    """Whether a property is set by the service alone."""
    return isinstance(schema, dict) and schema.get("readOnly") is True


def is_json(media: str) -> bool:
    kind = media.split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json") or kind == "*/*"


def _clean(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text)


def _operation_name(method: str, path: str, operation: dict[str, Json]) -> str:
    given = operation.get("operationId")
    if given:
        return _clean(str(given))[:_MAX_NAME]
    parts = [f"by_{part[1:-1]}" if part.startswith("{") else part for part in path.split("/") if part]
    return _clean("_".join([method, *parts]))[:_MAX_NAME]


def placeholders(path: str) -> list[str]:
    return [part.split("}")[0] for part in path.split("{")[1:] if "}" in part]


def _flat(operation: str, parameters: list[Parameter]) -> dict[str, Parameter]:
    """Argument name -> parameter; clashing names get their place in front."""
    names = [_clean(p.name) for p in parameters]
    flat: dict[str, Parameter] = {}
    for name, parameter in zip(names, parameters, strict=True):
        place = "body" if parameter.place == "property" else parameter.place
        argument = f"{place}_{name}" if names.count(name) > 1 else name
        if argument in flat:
            raise EnvError(f"operation {operation!r} has two parameters that come to the name {argument!r}")
        flat[argument] = parameter
    return flat
