"""From a call's arguments to the request that is sent: path, query, headers, cookies and body."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import orjson

from ...trajectories.messages import Json
from ..errors import InvalidArguments
from .document import Operation, Parameter, placeholders

__all__ = ["Request", "request_of", "scalar"]


@dataclass(slots=True)
class Request:
    """One request under way."""

    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: dict[str, Json] | None = None
    content: bytes | None = None


def request_of(operation: Operation, arguments: dict[str, Json]) -> Request:
    """The request that the arguments make. Raises `InvalidArguments`."""
    request = Request(operation.path)
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
    unfilled = placeholders(request.path)
    if unfilled:
        raise InvalidArguments(f"the path needs {unfilled[0]!r}")
    properties = any(p.place == "property" for p in operation.parameters.values())
    if request.body is not None or (properties and request.content is None and _needs_body(operation)):
        request.content = _encode(operation.media, request.body or {})
    if request.content is not None:
        request.headers["content-type"] = "application/json" if operation.media == "*/*" else operation.media
    return request


def _needs_body(operation: Operation) -> bool:
    return operation.method in ("post", "put", "patch")


def scalar(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()


def _simple(parameter: Parameter, value: Json) -> str:
    if parameter.as_json:
        return orjson.dumps(value).decode()
    if isinstance(value, list):
        return ",".join(scalar(v) for v in value)
    if isinstance(value, dict):
        if parameter.explode:
            return ",".join(f"{k}={scalar(v)}" for k, v in value.items())
        return ",".join(part for k, v in value.items() for part in (k, scalar(v)))
    return scalar(value)


def _segment(argument: str, parameter: Parameter, value: Json) -> str:
    text = _simple(parameter, value)
    if text in ("", ".", ".."):  # another address than the operation's
        raise InvalidArguments(f"{argument}: {text!r} cannot be in an address")
    return quote(text, safe="")


def _query(parameter: Parameter, value: Json) -> list[tuple[str, str]]:
    name = parameter.name
    if value is None:
        return []
    if parameter.as_json or not isinstance(value, list | dict):
        return [(name, _simple(parameter, value))]
    if isinstance(value, list):
        if parameter.style == "form" and parameter.explode:
            return [(name, scalar(v)) for v in value]
        joint = {"spaceDelimited": " ", "pipeDelimited": "|"}.get(parameter.style, ",")
        return [(name, joint.join(scalar(v) for v in value))]
    if parameter.style == "deepObject":
        return [(f"{name}[{k}]", scalar(v)) for k, v in value.items()]
    if parameter.explode:
        return [(k, scalar(v)) for k, v in value.items()]
    return [(name, _simple(parameter, value))]


def _header(argument: str, text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise InvalidArguments(f"{argument}: a header holds printable ASCII only")
    return text


def _encode(media: str, value: Json) -> bytes:
    kind = media.split(";")[0].strip().lower()
    if kind == "text/plain":
        return scalar(value).encode("utf-8", "replace")
    if kind == "application/x-www-form-urlencoded":
        if not isinstance(value, dict):
            raise InvalidArguments("a form has to be an object")
        pairs = [(k, scalar(i)) for k, v in value.items() for i in (v if isinstance(v, list) else [v])]
        return urlencode(pairs).encode()
    return orjson.dumps(value)
