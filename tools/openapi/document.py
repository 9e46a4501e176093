"""What a document of OpenAPI 3 or Swagger 2.0 says: its operations, their parameters and schemas. Sends nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...trajectories.errors import ConfigError, EnvError
from ...trajectories.messages import Json, ToolSpec
from ..names import MAX_NAME, apart
from .dialect import Schemas, is_nullable
from .parts import DocumentPart, Omissions, Sources, Wrong
from .reading import kind_of, read_document, told
from .servers import Servers
from .swagger import is_swagger, operation_of, root_of

__all__ = [
    "SAFE", "Document", "Encoding", "Named", "Operation", "Parameter", "is_form", "is_json", "is_multipart",
    "placeholders",
]  # fmt: skip

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
SAFE = ("get", "head", "options")
_OTHER_FIELDS = ("$ref", "summary", "description", "servers", "parameters")
"""Of a path, next to its methods."""
_PLACES = ("path", "query", "header", "cookie")
_STYLES = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
_RESERVED_HEADERS = ("accept", "content-type", "authorization")
"""Header parameters of these names are to be ignored, says the specification."""
_FLAT = (
    "type", "properties", "required", "title", "description", "example", "examples", "additionalProperties", "xml",
    "externalDocs", "deprecated", "discriminator", "default", "nullable", "$schema", "$id", "$defs", "definitions",
)  # fmt: skip
"""What a body may say whose properties are arguments of their own. Anything else is about the body as a whole."""
_MAX_PREFIX = 40
_LARGE = 300
"""Nodes of the definitions of a tool's schema: its validator takes half a megabyte then."""


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
    reserved: bool = False
    """Characters such as `/` and `:` go as they are."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one property of a form is written."""

    style: str = ""
    """form, spaceDelimited, pipeDelimited, deepObject; empty for the content type's own way."""
    explode: bool = True
    media: str = ""
    """Content type of its part; empty for the usual one."""
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, ready to be sent."""

    name: str
    """Of its tool, the prefix included."""
    method: str
    path: str
    parameters: dict[str, Parameter]
    """Argument name -> where it goes."""
    media: str = ""
    """Content type of the body; empty for none."""
    security: tuple[str, ...] = ()
    """Schemes whose credentials are sent along."""
    server: str = ""
    """Address that the path is added to."""
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    """Property of a form -> how it is written."""

    @property
    def effect(self) -> bool:
        return self.method not in SAFE


@dataclass(frozen=True, slots=True)
class Named:
    """An operation of the document, and the name of its tool."""

    name: str
    """With the prefix."""
    given: str
    """Its operationId, or empty."""
    method: str
    path: str
    item: DocumentPart
    part: DocumentPart

    @property
    def what(self) -> str:
        return f"operation {self.name!r}"


class Document:
    """An OpenAPI document, and the tools in it."""

    def __init__(self, document: Mapping[str, Json] | str | Path, report: Omissions) -> None:
        root, path = read_document(
            document, lambda key: report.add("#", f"the first {key!r} of an object", "it is twice")
        )
        self.swagger = is_swagger(root)
        if self.swagger:
            root = {**root_of(root), "openapi": "3.0"}
        version = told(root.get("openapi", ""))
        if not re.match(r"3(\.|$)", version):
            found = f"Swagger {told(root['swagger'])}" if "swagger" in root else f"openapi: {version or 'missing'}"
            raise EnvError(
                f"expected a document of OpenAPI 3 or Swagger 2.0, got {found}: convert it to OpenAPI 3 first"
            )
        self.report = report
        self.files = Sources(root, path, report)
        self.root = self.files.root
        dialect = told(root.get("jsonSchemaDialect", ""))
        self.schemas = Schemas(
            self.files, report, old=version.startswith("3.0") or re.search(r"draft-0[3-7]", dialect) is not None
        )

    # ---- credentials -------------------------------------------------------------------------------------------------

    def scheme(self, name: str) -> dict[str, Json]:
        """A security scheme. Raises `ConfigError` for a name that the document does not have."""
        try:
            listed = self._components().get("securitySchemes")
            known = dict(listed.members()) if listed is not None else {}
            if name in known:
                return self.files.follow(known[name]).fields()
        except Wrong as wrong:
            raise ConfigError(f"the document's security scheme {name!r} cannot be used: {wrong.why}") from None
        raise ConfigError(f"the document has no security scheme {name!r}; it has: {', '.join(known) or 'none'}")

    def _components(self) -> DocumentPart:
        return self.root.get("components") or self.root.inner("components", {})

    def _security(self, operation: DocumentPart, credentials: Collection[str], what: str) -> tuple[str, ...]:
        """The schemes to send: the first alternative for which there are credentials."""
        holder = operation if operation.fields().get("security") is not None else self.root
        try:
            listed = holder.get("security")
            for alternative in listed.items() if listed is not None else ():
                names = tuple(alternative.fields())
                if names and all(name in credentials for name in names):
                    return names
        except Wrong as wrong:
            self.report.add(wrong.where, "security" if holder is self.root else f"security of {what}", wrong.why)
        return ()

    # ---- operations --------------------------------------------------------------------------------------------------

    def named(self, prefix: str) -> list[Named]:
        """All operations, with the names of their tools. Raises `ConfigError` for a prefix that no name may begin with,
        `EnvError` where the document's paths are none."""
        if len(prefix) > _MAX_PREFIX or re.fullmatch(r"[A-Za-z0-9_-]*", prefix) is None:
            raise ConfigError(f"a prefix is at most {_MAX_PREFIX} ASCII letters, digits, _ and -, got {prefix!r:.80}")
        found = list(self._each())
        wanted = [given or _by_path(method, path) for given, method, path, _, _ in found]
        order = [(path, _METHODS.index(method)) for _, method, path, _, _ in found]
        names = apart(wanted, order, MAX_NAME - len(prefix))
        return [Named(prefix + name, *one) for name, one in zip(names, found, strict=True)]

    def _each(self) -> Iterator[tuple[str, str, str, DocumentPart, DocumentPart]]:
        """(operationId, method, path, the path's part, the operation's part) of each operation."""
        try:
            paths = self.root.get("paths")
            members = list(paths.members()) if paths is not None else []
        except Wrong as wrong:
            raise EnvError(f"the document's paths are {wrong.why}") from None
        seen: set[str] = set()
        for path, part in members:
            if path.startswith("x-") or part.value is None:
                continue
            try:
                item = self._item(part)
            except Wrong as wrong:
                self.report.add(part.where, f"path {path!r}", wrong.why)
                continue
            for key in item.fields():
                if key not in (*_METHODS, *_OTHER_FIELDS) and not key.startswith("x-"):
                    self.report.add(item.where, f"{key!r} of path {path!r}", "it is no method that a tool can have")
            for method in _METHODS:
                operation = item.get(method)
                if operation is None:
                    continue
                if not isinstance(operation.value, dict):
                    why = f"{kind_of(operation.value)} where an object should be"
                    self.report.add(operation.where, f"operation {method.upper()} {path}", why)
                    continue
                given = operation.value.get("operationId")
                if given is not None and (not isinstance(given, str) or not re.search("[A-Za-z0-9]", given)):
                    if not isinstance(given, str):
                        self.report.add(operation.where, f"operationId of {method.upper()} {path}", "it is no text")
                    given = None
                if given in seen:
                    self.report.add(operation.where, f"operationId {given!r}", "another operation has it: numbered")
                seen.add(given or "")
                yield given or "", method, path, item, operation

    def _item(self, part: DocumentPart) -> DocumentPart:
        """A path's item: what its reference leads to, with what it says itself."""
        own = part.fields()
        if "$ref" not in own:
            return part
        target = self.files.follow(part)
        further = {key: value for key, value in own.items() if key != "$ref"}
        if further and target.file == part.file:
            return DocumentPart({**target.fields(), **further}, part.file, part.pointer)
        target.fields()
        return target

    def operation(
        self, named: Named, servers: Servers, credentials: Collection[str]
    ) -> tuple[Operation, ToolSpec, bool]:
        """One operation, its tool, and whether its schema is large. Raises `Wrong` where it cannot be one."""
        uses: set[str] = set()
        part, what = named.part, repr(named.name)
        if not named.path.startswith("/"):
            raise Wrong(named.item.where, f"the path {named.path!r} does not begin with a slash")
        if self.swagger:
            item, part = operation_of(self.root.fields(), named.item, part, self.files.follow)
            named = replace(named, item=item, part=part)
        server = servers.of(named.item, part)
        found = self._parameters(named, uses)
        sent = self._security(part, credentials, named.what)
        for scheme in map(self.scheme, sent):
            key = told(scheme.get("in")), told(scheme.get("name")).lower()
            for place, name in [k for k in found if (k[0], k[1].lower()) == key]:
                del found[place, name]  # a credential is not the agent's affair
        media, body, encodings = self._body(part, uses, what)
        missing = [name for name in placeholders(named.path) if ("path", name) not in found]
        if missing:
            raise Wrong(part.where, f"the path {named.path!r} has no parameter for {missing[0]!r}")
        parameters = _flat([*found.values(), *body])
        schema: dict[str, Json] = {
            "type": "object",
            "properties": {argument: p.schema for argument, p in parameters.items()},
            "required": [argument for argument, p in parameters.items() if p.required],
            "additionalProperties": False,
        }
        if not schema["required"]:
            del schema["required"]
        definitions, nodes = self.schemas.definitions(uses)
        if definitions:
            schema["$defs"] = definitions
        made = Operation(named.name, named.method, named.path, parameters, media, sent, server, encodings)
        return made, ToolSpec(named.name, self._description(named), schema), nodes > _LARGE

    def _description(self, named: Named) -> str:
        said = []
        for key in ("summary", "description"):
            try:
                said.append(named.part.text(key).strip())
            except Wrong as wrong:
                self.report.add(wrong.where, f"{key} of {named.what}", wrong.why)
        text = " ".join(dict.fromkeys(s for s in said if s)) or f"{named.method.upper()} {named.path}"
        return text + " (deprecated)" if named.part.flag("deprecated") else text

    # ---- parameters --------------------------------------------------------------------------------------------------

    def _parameters(self, named: Named, uses: set[str]) -> dict[tuple[str, str], Parameter]:
        """(place, name) -> parameter; an operation's own replaces its path's."""
        found: dict[tuple[str, str], Parameter] = {}
        for holder in (named.item, named.part):
            listed = holder.get("parameters")
            for raw in listed.items() if listed is not None else ():
                part = self.files.follow(raw)
                fields = part.fields()
                try:
                    place, name = part.text("in"), part.text("name")
                    if place in _PLACES and place == "header" and name.lower() in _RESERVED_HEADERS:
                        continue
                    made = self._parameter(part, place, name, uses)
                except Wrong as wrong:
                    if part.flag("required") or fields.get("in") in ("path", "body", "formData"):
                        raise
                    self.report.add(wrong.where, f"parameter {told(fields.get('name'))!r} of {named.what}", wrong.why)
                    continue
                if place == "path" and name not in placeholders(named.path):
                    why = f"the path {named.path!r} has no place for it"
                    self.report.add(part.where, f"parameter {name!r} of {named.what}", why)
                    continue
                found[place, name] = made
        return found

    def _parameter(self, part: DocumentPart, place: str, name: str, uses: set[str]) -> Parameter:
        if place not in _PLACES:
            raise Wrong(part.where, f"a parameter in {place!r}; known are {', '.join(_PLACES)}")
        if not name:
            raise Wrong(part.where, "a parameter without a name")
        if place == "header" and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is None:
            raise Wrong(part.where, f"{name!r:.80} is no name of a header")
        style = part.text("style") or ("form" if place in ("query", "cookie") else "simple")
        if style not in _STYLES[place]:
            raise Wrong(part.where, f"parameter {name!r} in style {style!r}; known are {', '.join(_STYLES[place])}")
        schema, as_json = part.get("schema"), False
        content = part.get("content")
        if content is not None and content.fields():
            media, inner = next(iter(content.members()))
            as_json = is_json(media)
            if not as_json and not media.startswith("text/"):
                raise Wrong(content.where, f"parameter {name!r} as {media}")
            schema = inner.get("schema") if isinstance(inner.value, dict) else None
        converted = self._schema(schema, uses)
        try:
            said = part.text("description")
        except Wrong:
            said = ""
        if said and "description" not in converted:
            converted = {**converted, "description": said}
        explode = part.fields().get("explode")
        return Parameter(
            name,
            place,
            converted,
            place == "path" or part.flag("required"),
            style,
            explode if isinstance(explode, bool) else style in ("form", "deepObject"),
            as_json,
            part.flag("allowReserved"),
        )

    def _schema(self, part: DocumentPart | None, uses: set[str]) -> dict[str, Json]:
        if part is None:
            return {}
        converted, used = self.schemas.convert(part)
        uses |= used
        return converted if isinstance(converted, dict) else {}

    # ---- bodies ------------------------------------------------------------------------------------------------------

    def _body(
        self, operation: DocumentPart, uses: set[str], what: str
    ) -> tuple[str, list[Parameter], dict[str, Encoding]]:
        """The body's content type, its parameters (its properties, or all of it as `body`), and how a form of it is
        written. Raises `Wrong` for one that cannot be sent; if it may be left out, it is."""
        raw = operation.get("requestBody")
        if raw is None:
            return "", [], {}
        body = self.files.follow(raw)
        required = body.flag("required")
        content = body.get("content")
        listed = dict(content.members()) if content is not None else {}
        media = _best(listed)
        if media is None:
            why = f"a body of type {', '.join(listed) or 'nothing'}"
            if required or listed:
                raise Wrong(body.where, why)
            return "", [], {}
        holder = listed[media]
        schema = holder.get("schema") if holder.value is not None else None
        encodings = self._encodings(holder, schema, what) if is_form(media) or is_multipart(media) else {}
        if schema is None:
            return media, [Parameter("body", "body", {}, required)], encodings
        top = schema
        try:
            top = self.files.follow(schema)
        except Wrong as wrong:
            self.report.add(wrong.where, "a schema", wrong.why)
            return media, [Parameter("body", "body", {}, required)], encodings
        if not _is_flat(top, required):
            return media, [Parameter("body", "body", self._schema(schema, uses), required)], encodings
        converted = self._schema(top, uses)
        needed = converted.get("required") or ()
        return (
            media,
            [
                Parameter(name, "property", inner if isinstance(inner, dict) else {}, name in needed)
                for name, inner in converted.get("properties", {}).items()
            ],
            encodings,
        )

    def _encodings(self, holder: DocumentPart, schema: DocumentPart | None, what: str) -> dict[str, Encoding]:
        """How the properties of a form are written."""
        found: dict[str, Encoding] = {}
        try:
            properties = self._properties(schema) if schema is not None else {}
            found = {name: Encoding(is_file=True) for name, inner in properties.items() if self._is_file(inner)}
            listed = holder.get("encoding")
            for name, part in listed.members() if listed is not None else ():
                fields = part.fields()
                style, explode = part.text("style"), fields.get("explode")
                if style not in ("", *_STYLES["query"]):
                    raise Wrong(part.where, f"property {name!r} in style {style!r}")
                if not style and isinstance(explode, bool):
                    style = "form"
                media = part.text("contentType").split(",")[0].strip()
                binary = bool(media) and not is_json(media) and not media.startswith("text/plain")
                found[name] = Encoding(
                    style,
                    explode if isinstance(explode, bool) else style in ("", "form", "deepObject"),
                    "" if "*" in media or not (media.isascii() and media.isprintable()) else media,
                    binary or (name in found and not media),
                )
        except Wrong as wrong:
            self.report.add(wrong.where, f"encoding of the body of {what}", wrong.why)
        return found

    def _properties(self, schema: DocumentPart) -> dict[str, DocumentPart]:
        """The properties of a schema and of what it is put together from."""
        found: dict[str, DocumentPart] = {}
        todo, seen = [schema], set[int]()
        while todo:
            part = self.files.follow(todo.pop())
            if not isinstance(part.value, dict) or id(part.value) in seen:
                continue
            seen.add(id(part.value))
            if isinstance(part.value.get("properties"), dict):
                found = dict(part.inner("properties", part.value["properties"]).members()) | found
            for key in ("allOf", "anyOf", "oneOf"):
                if isinstance(part.value.get(key), list):
                    todo += part.inner(key, part.value[key]).items()
        return found

    def _is_file(self, part: DocumentPart) -> bool:
        """Whether a property is a file: binary in 3.0, of a content type of its own in 3.1; or a list of these."""
        for _ in range(2):
            part = self.files.follow(part)
            node = part.value if isinstance(part.value, dict) else {}
            if node.get("format") == "binary" or (
                isinstance(node.get("contentMediaType"), str) and "contentEncoding" not in node
            ):
                return True
            if not isinstance(node.get("items"), dict):
                return False
            part = part.inner("items", node["items"])
        return False


def is_json(media: str) -> bool:
    kind = _kind(media)
    return kind in ("application/json", "text/json", "*/*", "application/*") or kind.endswith("+json")


def is_form(media: str) -> bool:
    return _kind(media) == "application/x-www-form-urlencoded"


def is_multipart(media: str) -> bool:
    return _kind(media) == "multipart/form-data"


def _kind(media: str) -> str:
    return media.split(";")[0].strip().lower()


def _best(content: Mapping[str, DocumentPart]) -> str | None:
    """The content type to send: JSON before forms before text. None where none can be written."""
    ways = (
        lambda m: _kind(m) == "application/json",
        lambda m: _kind(m).endswith("merge-patch+json"),
        is_json,
        is_form,
        is_multipart,
        lambda m: _kind(m).startswith("text/") or _kind(m) == "application/octet-stream",
    )
    usable = [m for m, part in content.items() if m.isascii() and m.isprintable()
              and (part.value is None or isinstance(part.value, dict))]  # fmt: skip
    return next((m for way in ways for m in usable if way(m)), None)


def _is_flat(part: DocumentPart, required: bool) -> bool:
    """Whether a body's properties can be arguments of their own, with nothing lost."""
    node = part.value if isinstance(part.value, dict) else {}
    kinds = node.get("type", "object")
    extra = node.get("additionalProperties")
    return (
        isinstance(node.get("properties"), dict)
        and bool(node["properties"])
        and kinds in ("object", ["object"])
        and all(key in _FLAT or key.startswith("x-") or node[key] is None for key in node)
        and (extra is None or extra is False)
        and not is_nullable(node)
        and (required or not node.get("required"))
    )


def _by_path(method: str, path: str) -> str:
    parts = [
        f"by_{part[1:-1]}" if part.startswith("{") and part.endswith("}") else part for part in path.split("/") if part
    ]
    return "_".join([method, *parts])


def placeholders(path: str) -> list[str]:
    return [part.split("}")[0] for part in path.split("{")[1:] if "}" in part]


def _flat(parameters: list[Parameter]) -> dict[str, Parameter]:
    """Argument name -> parameter; clashing names get their place in front, and are numbered if that is not enough."""
    names = [p.name for p in parameters]
    wanted = []
    for parameter in parameters:
        place = "body" if parameter.place == "property" else parameter.place
        wanted.append(f"{place}_{parameter.name}" if names.count(parameter.name) > 1 else parameter.name or "_")
    return dict(zip(apart(wanted, range(len(wanted))), parameters, strict=True))
