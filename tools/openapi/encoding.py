"""From a call's arguments to the request that is sent: path, query, headers, cookies and body.

Styles are those of OpenAPI, which are RFC 6570's: each value is escaped by itself, so that a comma in a value is never
taken for one between values. Deep objects and their lists are written as `a[b][0]`: PHP, Rails, Stripe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

from ...trajectories.messages import Json
from ..digits import write_json
from ..errors import InvalidArguments
from .document import Encoding, Operation, Parameter, is_form, is_json, is_multipart, placeholders

__all__ = ["Request", "request_of", "scalar"]

_RESERVED = ":/?[]@!$'()*,;="
"""Sent as they are where a parameter allows it. `&`, `#` and `+` would end or change the value."""


@dataclass(slots=True)
class Request:
    """One request under way."""

    path: str
    query: list[str] = field(default_factory=list)
    """`name=value`, escaped."""
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: dict[str, Json] | None = None
    content: bytes | None = None

    @property
    def target(self) -> str:
        """Path and query."""
        if not self.query:
            return self.path
        return f"{self.path}{'&' if '?' in self.path else '?'}{'&'.join(self.query)}"


def request_of(operation: Operation, arguments: dict[str, Json]) -> Request:
    """The request that the arguments make. Raises `InvalidArguments`."""
    request = Request(operation.path)
    segments: dict[str, str] = {}
    for argument, value in arguments.items():
        parameter = operation.parameters.get(argument)
        if parameter is None:
            raise InvalidArguments(f"no parameter is called {argument!r}")
        if value is None and parameter.place in ("query", "header", "cookie"):
            continue  # nothing, and no empty text
        match parameter.place:
            case "path":
                segments[parameter.name] = _segment(argument, parameter, value)
            case "query":
                request.query += _query(parameter, value)
            case "header":
                request.headers[parameter.name] = _header(argument, _simple(parameter, value))
            case "cookie":
                request.cookies.append(f"{parameter.name}={_simple(parameter, value, quoted=True)}")
            case "property":
                request.body = {**(request.body or {}), parameter.name: value}
            case _:
                _write(request, operation, value)
    for name in placeholders(operation.path):
        if name not in segments:
            raise InvalidArguments(f"the path needs {name!r}")
    request.path = _filled(operation.path, segments).partition("#")[0]  # what is behind it tells operations apart
    properties = any(p.place == "property" for p in operation.parameters.values())
    if request.body is not None or (properties and request.content is None and _needs_body(operation)):
        _write(request, operation, request.body or {})
    return request


def _filled(path: str, segments: dict[str, str]) -> str:
    """The path with its values. One value never fills the place of another."""
    parts = path.split("{")
    filled = parts[0]
    for part in parts[1:]:
        name, closed, rest = part.partition("}")
        filled += segments[name] + rest if closed and name in segments else "{" + part
    return filled


def _needs_body(operation: Operation) -> bool:
    return operation.method in ("post", "put", "patch")


def scalar(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else write_json(value).decode()


def _escaped(value: Json) -> str:
    return quote(scalar(value), safe="", errors="replace")


# ---- parameters ------------------------------------------------------------------------------------------------------


def _simple(parameter: Parameter, value: Json, *, quoted: bool = False) -> str:
    """Style simple, and what cookies have of style form: values with commas between them."""
    one = _escaped if quoted else scalar
    if parameter.as_json:
        text = write_json(value).decode()
        return quote(text, safe="") if quoted else text
    return ",".join(_listed(value, parameter.explode, one))


def _listed(value: Json, explode: bool, one: Callable[[Json], str]) -> list[str]:
    """The values of a list or an object: its names and values one after the other, or `name=value`."""
    if isinstance(value, list):
        return [one(v) for v in value]
    if isinstance(value, dict):
        if explode:
            return [f"{one(k)}={one(v)}" for k, v in value.items()]
        return [part for k, v in value.items() for part in (one(k), one(v))]
    return [one(value)]


def _segment(argument: str, parameter: Parameter, value: Json) -> str:
    if parameter.as_json:
        return quote(write_json(value).decode(), safe="")
    plain = scalar(value) if not isinstance(value, list | dict) else None
    if plain in ("", ".", "..") or value in ([], {}):  # another address than the operation's
        raise InvalidArguments(f"{argument}: {plain or ''!r} cannot be in an address")
    several = isinstance(value, list | dict)
    values = _listed(value, parameter.explode, _escaped)
    if parameter.style == "label":
        return "." + ("." if several and parameter.explode else ",").join(values)
    if parameter.style == "matrix":
        name = quote(parameter.name, safe="")
        if isinstance(value, dict) and parameter.explode:
            return "".join(f";{v}" for v in values)
        if isinstance(value, list) and parameter.explode:
            return "".join(f";{name}={v}" for v in values)
        return f";{name}={','.join(values)}"
    text = ",".join(values)
    if text in (".", ".."):
        raise InvalidArguments(f"{argument}: {text!r} cannot be in an address")
    return text


def _query(parameter: Parameter, value: Json) -> list[str]:
    name = parameter.name

    def one(text: str) -> str:
        return quote(text, safe=_RESERVED if parameter.reserved else "", errors="replace")

    if parameter.as_json:
        return [f"{_escaped(name)}={one(write_json(value).decode())}"]
    return [f"{_escaped(k)}={v}" for k, v in _pairs(name, parameter.style, parameter.explode, value, one)]


def _pairs(name: str, style: str, explode: bool, value: Json, one: Callable[[str], str]) -> list[tuple[str, str]]:
    """(name, escaped value) of a parameter of a query or a property of a form."""
    if style == "deepObject":
        return [(path, one(text)) for path, text in _deep(name, value)]
    if not isinstance(value, (dict, list)):
        return [(name, one(scalar(value)))]
    if explode:
        if isinstance(value, list):
            return [(name, one(scalar(v))) for v in value]
        return [(k, one(scalar(v))) for k, v in value.items()]
    joint = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get(style, ",")
    return [(name, joint.join(_listed(value, False, lambda v: one(scalar(v)))))]


def _deep(name: str, value: Json) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in _deep(f"{name}[{k}]", v)]
    if isinstance(value, list):
        return [pair for index, v in enumerate(value) for pair in _deep(f"{name}[{index}]", v)]
    return [(name, scalar(value))]


def _header(argument: str, text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise InvalidArguments(f"{argument}: a header holds printable ASCII only")
    return text


# ---- bodies ----------------------------------------------------------------------------------------------------------


def _write(request: Request, operation: Operation, value: Json) -> None:
    """Sets the request's body and its content type."""
    media = operation.media
    if is_json(media):
        request.content = write_json(value)
        media = "application/json" if "*" in media else media
    elif is_form(media):
        request.content = _form(operation.encodings, value)
    elif is_multipart(media):
        request.content, boundary = _multipart(operation.encodings, value)
        media = f"multipart/form-data; boundary={boundary}"
    else:
        request.content = scalar(value).encode("utf-8", "replace")
    request.headers["content-type"] = media


def _form(encodings: Mapping[str, Encoding], value: Json) -> bytes:
    if not isinstance(value, dict):
        raise InvalidArguments("a form has to be an object")
    pairs: list[tuple[str, str]] = []
    for name, inner in value.items():
        pairs += _fields(name, encodings.get(name, Encoding()), inner)
    return "&".join(f"{quote_plus(k, errors='replace')}={v}" for k, v in pairs).encode()


def _fields(name: str, encoding: Encoding, value: Json) -> list[tuple[str, str]]:
    """(name, escaped value) of a property: by its style, or each item by itself, with objects as JSON."""

    def one(text: str) -> str:
        return quote_plus(text, errors="replace")

    if encoding.style:
        return _pairs(name, encoding.style, encoding.explode, value, one)
    if encoding.media and is_json(encoding.media):
        return [(name, one(write_json(value).decode()))]
    return [(name, one(scalar(item))) for item in (value if isinstance(value, list) else [value])]


def _multipart(encodings: Mapping[str, Encoding], value: Json) -> tuple[bytes, str]:
    """The parts of a form, and what is between them: the same for the same form."""
    if not isinstance(value, dict):
        raise InvalidArguments("a form has to be an object")
    parts: list[tuple[str, bytes]] = []
    for name, inner in value.items():
        encoding = encodings.get(name, Encoding())
        if encoding.style and isinstance(inner, (dict, list)):
            named = _pairs(name, encoding.style, encoding.explode, inner, str)
            parts += [(_disposition(key), text.encode("utf-8", "replace")) for key, text in named]
        elif encoding.media and is_json(encoding.media):
            parts.append((_disposition(name) + f"\r\nContent-Type: {encoding.media}", write_json(inner)))
        else:
            parts += [_one_part(name, encoding, item) for item in (inner if isinstance(inner, list) else [inner])]
    boundary = hashlib.sha256(b"\0".join(data for _, data in parts)).hexdigest()[:40]
    body = b"".join(
        f"--{boundary}\r\n".encode() + head.encode("utf-8", "replace") + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return body + f"--{boundary}--\r\n".encode(), boundary


def _one_part(name: str, encoding: Encoding, value: Json) -> tuple[str, bytes]:
    if encoding.is_file:
        media = encoding.media or "application/octet-stream"
        return f'{_disposition(name)}; filename="{_in_quotes(name)}"\r\nContent-Type: {media}', _text(value)
    if isinstance(value, (dict, list)):
        return f"{_disposition(name)}\r\nContent-Type: application/json", write_json(value)
    return _disposition(name) + (f"\r\nContent-Type: {encoding.media}" if encoding.media else ""), _text(value)


def _text(value: Json) -> bytes:
    return scalar(value).encode("utf-8", "replace")


def _disposition(name: str) -> str:
    return f'Content-Disposition: form-data; name="{_in_quotes(name)}"'


def _in_quotes(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
