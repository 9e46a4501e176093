"""Tools from an OpenAPI 3.0 or 3.1 document: each operation of an HTTP service becomes one. Defines `openapi_tools`.

    with openapi_tools("shop.yaml", base_url="http://127.0.0.1:8000", auth={"token": secret}) as tools:
        box = Toolbox(tools, world)

An operation's parameters (path, query, header, cookie) and the properties of its body form one flat schema; names that
clash get their place in front (`path_id`, `body_id`). GET, HEAD and OPTIONS have no effect; PUT and DELETE are
idempotent. No request is ever sent twice and no redirect is followed. Credentials are added below everything that logs
or records, and struck out of whatever comes back.

    400 422         InvalidArguments        409 412         Conflict
    401             Unauthenticated         410             Gone
    403             Forbidden               429             RateLimited, by Retry-After (a second is a tick)
    404             NotFound                502 503 504     Unavailable, as is a connection refused or reset
    no answer within the deadline, 408      ToolTimeout
    any other status but 2xx                ToolError

An effect may have took_effect (`took_effect=None`) where no answer, or a gateway's or server's failure, came back.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlencode, urlsplit

import orjson
from pydantic import SecretStr

from ..trajectories.errors import ConfigError, EnvError, InfrastructureError, MissingExtra
from ..trajectories.messages import Json, ToolSpec
from .background import Background
from .definition import (
    Conflict,
    Forbidden,
    Gone,
    InvalidArguments,
    NotFound,
    RateLimited,
    Tool,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["openapi_tools"]

_log = logging.getLogger(__name__)

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
_SAFE = ("get", "head", "options")
_IDEMPOTENT = (*_SAFE, "put", "delete")
_PLACES = ("path", "query", "header", "cookie")
_RESERVED_HEADERS = ("accept", "content-type", "authorization")
"""Header parameters of these names are to be ignored, says the specification."""
_MAX_NAME = 64
_MAX_NODES = 100_000
"""Schema nodes of one tool. More is an error, or a document that was written to exhaust memory."""
_MAX_DOCUMENT = 32 << 20
_SNIPPET = 500
"""Characters of an error answer that the agent is told."""
_CONNECT_S = 10.0
_STRUCK = "***"

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
class _Parameter:
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
class _Operation:
    """One operation, ready to be sent."""

    name: str
    method: str
    path: str
    parameters: dict[str, _Parameter]
    """Argument name -> where it goes."""
    media: str = ""
    """Content type of the body; empty for none."""
    security: tuple[str, ...] = ()
    """Schemes whose credentials are sent along."""

    @property
    def effect(self) -> bool:
        return self.method not in _SAFE


@contextmanager
def openapi_tools(
    document: Mapping[str, Json] | str | Path,
    *,
    base_url: str = "",
    auth: Mapping[str, str | SecretStr] | None = None,
    headers: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    prefix: str = "",
    timeout: float = 30.0,
    max_bytes: int = 1 << 20,
) -> Iterator[tuple[Tool, ...]]:
    """The tools of one HTTP service, while its connections are open.

    Args:
        document: The OpenAPI document, or its file (JSON or YAML). Its references must stay inside it.
        base_url: Where the service is; the document's first server by default.
        auth: Security scheme of the document -> credential: a token, an API key, or `user:password` for basic. Appears
            in no result, error or log; a service that sends it back finds it struck out.
        headers: Sent with each request; treated like credentials.
        only: Names of the tools to take (before the prefix); all by default.
        prefix: Put before each tool's name.
        timeout: Seconds for one call, from the connection to the last byte of the answer.
        max_bytes: A larger answer is an error.

    Raises:
        ConfigError: No such file, no address, a scheme that the document does not name.
        EnvError: The document is not OpenAPI 3, or has an operation that cannot be described. Of operations that need
            something unsupported (a file upload, say) only those named in `only` raise; others are left out, with a
            warning in the log.
        MissingExtra: A package is missing.
    """
    try:
        import httpx  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingExtra("httpx", "openapi") from error
    api = _Document(_read(document))
    secrets = {name: _reveal(value) for name, value in (auth or {}).items()}
    api.check_schemes(secrets)
    service = _Service(
        base_url or api.server(),
        {name: (api.schemes[name], secret) for name, secret in secrets.items()},
        dict(headers or {}),
        timeout,
        max_bytes,
    )
    try:
        tools: dict[str, Tool] = {}
        for made in api.operations(only, frozenset(secrets)):
            operation, spec = made
            if operation.name in tools:
                raise EnvError(f"two operations come to the name {operation.name!r}: give them different operationIds")
            tools[operation.name] = _tool(service, operation, spec, prefix)
        for wanted in only or ():
            if wanted not in tools:
                raise ConfigError(
                    f"the document has no operation {wanted!r}; it has: {', '.join(api.names()) or 'none'}"
                )
        yield tuple(tools.values())
    finally:
        service.close()


def _tool(service: _Service, operation: _Operation, spec: ToolSpec, prefix: str) -> Tool:
    def run(**arguments: Json) -> Json:
        return service.call(operation, arguments)

    named = ToolSpec(prefix + spec.name, spec.description, spec.parameters)
    try:
        idempotent = operation.method in _IDEMPOTENT
        return Tool(named, run, effect=operation.effect, idempotent=idempotent, blocking=True)
    except (ValueError, RecursionError) as error:  # what the fast validator refuses and the reference does not
        raise EnvError(f"tool {named.name!r} has a wrong JSON Schema: {error}") from None


def _reveal(value: str | SecretStr) -> str:
    secret = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not secret:
        raise ConfigError("a credential is empty: leave its scheme out of `auth`, or set it")
    return secret


def _read(document: Mapping[str, Json] | str | Path) -> dict[str, Json]:
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


# ------------------------------------------------------------------------------------------------ reading the document


class _Unsupported(Exception):
    """An operation needs what is not supported."""


class _Document:
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
    ) -> Iterator[tuple[_Operation, ToolSpec]]:
        for path, method, item, operation in self._each():
            name = _operation_name(method, path, operation)
            if only is not None and name not in only:
                continue
            try:
                yield self._operation(name, path, method, item, operation, credentials)
            except _Unsupported as error:
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
    ) -> tuple[_Operation, ToolSpec]:
        schemas = _Schemas(self)
        found: dict[tuple[str, str], _Parameter] = {}
        for raw in (*(item.get("parameters") or ()), *(operation.get("parameters") or ())):
            parameter = self._parameter(self.resolve(raw), schemas)
            found[parameter.place, parameter.name] = parameter  # an operation's own replaces its path's
        sent = self._security(operation, credentials)
        for scheme in (self.schemes[s] for s in sent):
            found.pop((str(scheme.get("in")), str(scheme.get("name"))), None)  # a credential is not the agent's affair
        found = {key: p for key, p in found.items() if p.place != "header" or p.name.lower() not in _RESERVED_HEADERS}
        media, body = self._body(operation, schemas)
        parameters = _flat(name, [*found.values(), *body])
        missing = [n for n in _placeholders(path) if ("path", n) not in found]
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
        made = _Operation(name, method, path, parameters, media, sent)
        return made, ToolSpec(name, text, schema)

    def _parameter(self, raw: dict[str, Json], schemas: _Schemas) -> _Parameter:
        place, name = str(raw.get("in")), str(raw.get("name"))
        if place not in _PLACES:
            raise _Unsupported(f"a parameter in {place!r}")
        style = str(raw.get("style") or ("form" if place in ("query", "cookie") else "simple"))
        supported = {
            "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
            "cookie": ("form",),
        }.get(place, ("simple",))
        if style not in supported:
            raise _Unsupported(f"parameter {name!r} in style {style!r}")
        content = raw.get("content") or {}
        as_json = bool(content)
        if as_json and not _is_json(next(iter(content))):
            raise _Unsupported(f"parameter {name!r} as {next(iter(content))}")
        schema = next(iter(content.values())).get("schema") if as_json else raw.get("schema")
        converted = schemas.convert(schema if schema is not None else {})
        if not isinstance(converted, dict):
            converted = {}
        if raw.get("description") and "description" not in converted:
            converted = {**converted, "description": str(raw["description"])}
        return _Parameter(
            name,
            place,
            converted,
            place == "path" or raw.get("required") is True,
            style,
            bool(raw.get("explode", style == "form")),
            as_json,
        )

    def _body(self, operation: dict[str, Json], schemas: _Schemas) -> tuple[str, list[_Parameter]]:
        """The body's content type, and its parameters: its properties, or all of it as `body`."""
        if not operation.get("requestBody"):
            return "", []
        body = self.resolve(operation["requestBody"])
        content = body.get("content") or {}
        form = "application/x-www-form-urlencoded"
        media = next((m for m in content if _is_json(m)), None) or next(
            (m for m in content if m.split(";")[0].strip() in (form, "text/plain")), None
        )
        if media is None:
            raise _Unsupported(f"a body of type {', '.join(content) or 'nothing'}")
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
            return media, [_Parameter("body", "body", schema if isinstance(schema, dict) else {}, required)]
        converted = schemas.convert(top)
        assert isinstance(converted, dict)
        needed = converted.get("required") or ()
        return media, [
            _Parameter(name, "property", schema if isinstance(schema, dict) else {}, name in needed)
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


class _Schemas:
    """The schemas of one tool, as JSON Schema with local definitions."""

    def __init__(self, document: _Document) -> None:
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


def _is_json(media: str) -> bool:
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


def _placeholders(path: str) -> list[str]:
    return [part.split("}")[0] for part in path.split("{")[1:] if "}" in part]


def _flat(operation: str, parameters: list[_Parameter]) -> dict[str, _Parameter]:
    """Argument name -> parameter; clashing names get their place in front."""
    names = [_clean(p.name) for p in parameters]
    flat: dict[str, _Parameter] = {}
    for name, parameter in zip(names, parameters, strict=True):
        place = "body" if parameter.place == "property" else parameter.place
        argument = f"{place}_{name}" if names.count(name) > 1 else name
        if argument in flat:
            raise EnvError(f"operation {operation!r} has two parameters that come to the name {argument!r}")
        flat[argument] = parameter
    return flat


# ------------------------------------------------------------------------------------------------------- making a call


@dataclass(slots=True)
class _Request:
    """One request under way."""

    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: dict[str, Json] | None = None
    content: bytes | None = None


class _Service:
    """An HTTP service: its address, credentials and connections."""

    def __init__(
        self,
        base_url: str,
        auth: dict[str, tuple[dict[str, Json], str]],
        headers: dict[str, str],
        timeout: float,
        max_bytes: int,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"base_url has to be an http or https address, got {base_url!r}")
        if parts.username or parts.password or parts.query:
            raise ConfigError("base_url holds credentials or a query: give credentials by `auth`")
        self.base = base_url.rstrip("/")
        self.auth = {name: _credential(scheme, name, secret) for name, (scheme, secret) in auth.items()}
        self.headers, self.timeout, self.max_bytes = headers, timeout, max_bytes
        self.secrets = _spellings([*(secret for _, secret in auth.values()), *headers.values()])
        self.background = Background("sparring-openapi")
        self.client: httpx.AsyncClient | None = None

    def close(self) -> None:
        async def end() -> None:
            if self.client is not None:
                await self.client.aclose()

        with suppress(RuntimeError, TimeoutError):
            self.background.run(end(), 5.0)
        self.background.close()

    def call(self, operation: _Operation, arguments: dict[str, Json]) -> Json:
        """Sends one request, once. Raises `ToolError`, as the module says."""
        request = _request(operation, arguments)
        if self.background.closed:
            raise InfrastructureError("the connection to the service is closed; use its tools inside `with`")
        try:
            status, headers, body = self.background.run(self._send(operation, request), self.timeout + 5.0)
        except TimeoutError:
            raise ToolTimeout(
                f"no answer in {self.timeout:g} s", took_effect=None if operation.effect else False
            ) from None
        if not 200 <= status < 300:
            raise self._failure(operation, status, headers, self._said(headers, body))
        return self._value(operation, status, headers, body)

    async def _send(self, operation: _Operation, request: _Request) -> tuple[int, Mapping[str, str], bytes]:
        import httpx

        if self.client is None:
            # Credentials are added below the client, whose log names the address of each request.
            self.client = httpx.AsyncClient(
                transport=_signing_transport(),
                timeout=httpx.Timeout(None, connect=min(self.timeout, _CONNECT_S)),
                follow_redirects=False,
                trust_env=False,
            )
        headers = {"accept": "application/json, */*;q=0.5", "accept-encoding": "identity", **request.headers}
        if request.cookies:
            headers["cookie"] = "; ".join(request.cookies)
        url = self.base + request.path + (f"?{urlencode(request.query, quote_via=quote)}" if request.query else "")
        secret = [("header", name, value) for name, value in self.headers.items()]
        secret += [self.auth[name] for name in operation.security]
        maybe = None if operation.effect else False
        async with asyncio.timeout(self.timeout):
            try:
                async with self.client.stream(
                    operation.method.upper(), url, headers=headers, content=request.content,
                    extensions={"sparring_auth": secret},
                ) as answer:  # fmt: skip
                    return answer.status_code, answer.headers, await self._body(operation, answer)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                raise Unavailable("the service cannot be reached") from None
            except httpx.TransportError as error:
                raise Unavailable(f"the connection broke ({type(error).__name__})", took_effect=maybe) from None
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
                raise InvalidArguments("the arguments do not make an address") from None

    async def _body(self, operation: _Operation, answer: httpx.Response) -> bytes:
        took_effect = operation.effect and answer.is_success
        if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise ToolError("the answer is compressed, which was not asked for", took_effect=took_effect)
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > self.max_bytes:
                if not answer.is_success:
                    break  # of an error, the beginning will do
                raise ToolError(f"the answer is larger than {self.max_bytes} bytes", took_effect=took_effect)
        return bytes(body[: self.max_bytes])

    def _failure(self, operation: _Operation, status: int, headers: Mapping[str, str], said: str) -> ToolError:
        message = f"HTTP {status}{': ' if said else ''}{said}"
        maybe = None if operation.effect else False
        if status == 429:
            return RateLimited(message, retry_after=_retry_after(headers))
        if status in (502, 503, 504):
            return Unavailable(message, took_effect=False if status == 503 else maybe)
        if status == 408:
            return ToolTimeout(message, took_effect=maybe)
        if 300 <= status < 400:
            return ToolError(f"HTTP {status}: a redirect, which is not followed", took_effect=maybe)
        if status >= 500:
            return ToolError(message, took_effect=maybe)
        return _STATUS.get(status, ToolError)(message)

    def _value(self, operation: _Operation, status: int, headers: Mapping[str, str], body: bytes) -> Json:
        if not body:
            return {"status": status}
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind and _is_json(kind):
            try:
                value = orjson.loads(body)
                return self._strike_json(value) if self.secrets else value
            except (orjson.JSONDecodeError, RecursionError):
                raise ToolError("the answer is no valid JSON", took_effect=operation.effect) from None
        if kind and not kind.startswith("text/") and b"\0" in body[:1024]:
            return f"[{kind}, {len(body)} bytes]"
        return self._strike(body.decode("utf-8", "replace"))

    def _said(self, headers: Mapping[str, str], body: bytes) -> str:
        """What an error answer says, in one line: its message where it is JSON that has one."""
        text, kind = body.decode("utf-8", "replace"), headers.get("content-type", "").lower()
        if "html" in kind:
            return ""  # markup tells an agent nothing
        if kind and _is_json(kind):
            with suppress(orjson.JSONDecodeError):
                told = orjson.loads(body)
                for key in ("message", "detail", "error_description", "error", "title"):
                    if isinstance(told, dict) and told.get(key):
                        text = _scalar(told[key])
                        break
        return " ".join(self._strike(text).split())[:_SNIPPET]  # cut last: half a secret is one too

    def _strike(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, _STRUCK)
        return text

    def _strike_json(self, value: Json) -> Json:
        if isinstance(value, str):
            return self._strike(value)
        if isinstance(value, list):
            return [self._strike_json(v) for v in value]
        if isinstance(value, dict):
            return {self._strike(k): self._strike_json(v) for k, v in value.items()}
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self.secrets:
            return _STRUCK
        return value


_STATUS: dict[int, Callable[[str], ToolError]] = {
    400: InvalidArguments,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: Conflict,
    422: InvalidArguments,
}


def _signing_transport() -> httpx.AsyncBaseTransport:
    """Adds credentials to a request at the last moment."""
    import httpx

    class Signing(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            extensions = dict(request.extensions)
            secret = extensions.pop("sparring_auth", ())
            signed = httpx.Request(
                request.method, request.url, headers=request.headers, stream=request.stream, extensions=extensions
            )
            for place, name, value in secret:
                if place == "query":
                    signed.url = signed.url.copy_merge_params({name: value})
                elif place == "cookie":
                    signed.headers["cookie"] = "; ".join(
                        part for part in (signed.headers.get("cookie", ""), f"{name}={value}") if part
                    )
                else:
                    signed.headers[name] = value
            return await super().handle_async_request(signed)

    return Signing()


def _credential(scheme: dict[str, Json], name: str, secret: str) -> tuple[str, str, str]:
    """(header | query | cookie, name, value) by which a security scheme sends a credential."""
    kind, http = str(scheme.get("type")), str(scheme.get("scheme", "")).lower()
    if not secret.isprintable():
        raise ConfigError(f"the credential for {name!r} holds a line break or a control character")
    if kind == "apiKey":
        return str(scheme.get("in")), str(scheme.get("name")), secret
    if kind == "http" and http == "basic":
        if ":" not in secret:
            raise ConfigError(f"the credential for {name!r} is for basic authentication: write user:password")
        return "header", "Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}"
    if (kind == "http" and http == "bearer") or kind in ("oauth2", "openIdConnect"):
        return "header", "Authorization", f"Bearer {secret}"
    raise ConfigError(f"security scheme {name!r} is of a kind that is not supported: {kind} {http}".rstrip())


def _spellings(secrets: list[str]) -> tuple[str, ...]:
    """The forms in which a service may send a secret back, longest first."""
    forms: set[str] = set()
    for secret in secrets:
        forms |= {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
        forms.add(base64.b64encode(secret.encode()).decode())
        if ":" in secret:
            forms.add(secret.split(":", 1)[1])  # the password of basic authentication
        if " " in secret:
            forms.add(secret.split(" ", 1)[1])  # the token of a header that names its kind
    return tuple(sorted((f for f in forms if f), key=lambda f: (-len(f), f)))


def _request(operation: _Operation, arguments: dict[str, Json]) -> _Request:
    """The request that the arguments make. Raises `InvalidArguments`."""
    request = _Request(operation.path)
    for argument, value in arguments.items():
        parameter = operation.parameters.get(argument)
        if parameter is None:
            raise InvalidArguments(f"no parameter is called {argument!r}")
        match parameter.place:
            case "path":
                request.path = request.path.replace("{" + parameter.name + "}", _segment(argument, parameter, value))
            case "query":
                request.query += _query(parameter, value)
            case "header":
                request.headers[parameter.name] = _header(argument, _simple(parameter, value))
            case "cookie":
                request.cookies.append(f"{parameter.name}={quote(_simple(parameter, value), safe='')}")
            case "property":
                request.body = {**(request.body or {}), parameter.name: value}
            case _:
                request.content = _encode(operation.media, value)
    unfilled = _placeholders(request.path)
    if unfilled:
        raise InvalidArguments(f"the path needs {unfilled[0]!r}")
    properties = any(p.place == "property" for p in operation.parameters.values())
    if request.body is not None or (properties and request.content is None and _needs_body(operation)):
        request.content = _encode(operation.media, request.body or {})
    if request.content is not None:
        request.headers["content-type"] = "application/json" if operation.media == "*/*" else operation.media
    return request


def _needs_body(operation: _Operation) -> bool:
    return operation.method in ("post", "put", "patch")


def _scalar(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()


def _simple(parameter: _Parameter, value: Json) -> str:
    if parameter.as_json:
        return orjson.dumps(value).decode()
    if isinstance(value, list):
        return ",".join(_scalar(v) for v in value)
    if isinstance(value, dict):
        if parameter.explode:
            return ",".join(f"{k}={_scalar(v)}" for k, v in value.items())
        return ",".join(part for k, v in value.items() for part in (k, _scalar(v)))
    return _scalar(value)


def _segment(argument: str, parameter: _Parameter, value: Json) -> str:
    text = _simple(parameter, value)
    if text in ("", ".", ".."):  # another address than the operation's
        raise InvalidArguments(f"{argument}: {text!r} cannot are in an address")
    return quote(text, safe="")


def _query(parameter: _Parameter, value: Json) -> list[tuple[str, str]]:
    name = parameter.name
    if value is None:
        return []
    if parameter.as_json or not isinstance(value, list | dict):
        return [(name, _simple(parameter, value))]
    if isinstance(value, list):
        if parameter.style == "form" and parameter.explode:
            return [(name, _scalar(v)) for v in value]
        joint = {"spaceDelimited": " ", "pipeDelimited": "|"}.get(parameter.style, ",")
        return [(name, joint.join(_scalar(v) for v in value))]
    if parameter.style == "deepObject":
        return [(f"{name}[{k}]", _scalar(v)) for k, v in value.items()]
    if parameter.explode:
        return [(k, _scalar(v)) for k, v in value.items()]
    return [(name, _simple(parameter, value))]


def _header(argument: str, text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise InvalidArguments(f"{argument}: a header holds printable ASCII only")
    return text


def _encode(media: str, value: Json) -> bytes:
    kind = media.split(";")[0].strip().lower()
    if kind == "text/plain":
        return _scalar(value).encode("utf-8", "replace")
    if kind == "application/x-www-form-urlencoded":
        if not isinstance(value, dict):
            raise InvalidArguments("a form has to be an object")
        pairs = [(k, _scalar(i)) for k, v in value.items() for i in (v if isinstance(v, list) else [v])]
        return urlencode(pairs).encode()
    return orjson.dumps(value)


def _retry_after(headers: Mapping[str, str]) -> int:
    """Seconds, by the service's own clock where it tells it."""
    told = headers.get("retry-after", "").strip()
    if told.isdigit():
        return min(int(told), 10**9)
    with suppress(ValueError, TypeError):
        until = parsedate_to_datetime(told).timestamp()
        now = time.time()
        with suppress(ValueError, TypeError):
            now = parsedate_to_datetime(headers.get("date", "")).timestamp()
        return max(0, min(round(until - now), 10**9))
    return 1
