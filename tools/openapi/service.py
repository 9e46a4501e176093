"""Tools that call an HTTP service, one for each operation of its OpenAPI document. Defines `openapi_tools`.

    with openapi_tools("shop.yaml", base_url="http://127.0.0.1:8000", auth={"token": secret}) as tools:
        box = Toolbox(tools, world)

An operation's parameters (path, query, header, cookie) and the properties of its body form one flat schema; names that
clash get their place in front (`path_id`, `body_id`). GET, HEAD and OPTIONS have no effect; PUT and DELETE are
idempotent. No request is ever sent twice and no redirect is followed. Credentials are added below everything that logs
or records, go to no server that the document or the user does not name, and are struck out of all that comes back.

Documents are large and seldom right in all parts. A part that cannot be used is left out by itself, with one warning in
the log and an entry in `tools.left_out`; the rest is there.

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
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import SecretStr

from ...trajectories.errors import ConfigError, EnvError, InfrastructureError, MissingExtra
from ...trajectories.messages import Json
from ..background import Background
from ..definition import Tool
from ..digits import read_json
from ..errors import BY_STATUS, InvalidArguments, RateLimited, ToolError, ToolTimeout, Unavailable
from .document import SAFE, Document, Named, Operation, is_json
from .encoding import Request, request_of, scalar
from .parts import LeftOut, Omissions, Wrong
from .reading import told
from .servers import Servers

if TYPE_CHECKING:
    import httpx

__all__ = ["OpenAPITools", "openapi_tools"]

_IDEMPOTENT = (*SAFE, "put", "delete")
_SNIPPET = 500
"""Characters of an error answer that the agent is told."""
_CONNECT_S = 10.0
_STRUCK = "***"
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Perhaps half of a surrogate pair."""


class OpenAPITools(tuple[Tool, ...]):
    """The tools of one document, and what of it they do without."""

    left_out: tuple[LeftOut, ...]
    """Parts of the document that are in no tool: operations, parameters, keywords of schemas. Each with its place and
    the reason, in the order in which they were found."""

    def __new__(cls, tools: Iterable[Tool], left_out: Iterable[LeftOut] = ()) -> OpenAPITools:
        made = super().__new__(cls, tools)
        made.left_out = tuple(left_out)
        return made


@contextmanager
def openapi_tools(
    document: Mapping[str, Json] | str | Path,
    *,
    base_url: str | Mapping[str, str] = "",
    variables: Mapping[str, str] | None = None,
    auth: Mapping[str, str | SecretStr] | None = None,
    headers: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    prefix: str = "",
    timeout: float = 30.0,
    max_bytes: int = 1 << 20,
) -> Iterator[OpenAPITools]:
    """The tools of one HTTP service, while its connections are open.

    Args:
        document: The OpenAPI document, or its file (JSON or YAML). Its references lead into it, or into files of its
            folder.
        base_url: Where the service is; by default the first server that the document names, for all or for a path or
            an operation. An operation with a server of its own elsewhere is then left out. For a document of several
            servers: server, as in the document -> address.
        variables: Values for the variables in the servers' addresses; by default the document's defaults.
        auth: Security scheme of the document -> credential: a token, an API key, or `user:password` for basic. Appears
            in no result, error or log; a service that sends it back finds it struck out.
        headers: Sent with each request; treated like credentials.
        only: Names of the tools to take (before the prefix), or their operationIds; all by default.
        prefix: Put before each tool's name; at most 40 characters.
        timeout: Seconds for one call, from the connection to the last byte of the answer.
        max_bytes: A larger answer is an error.

    Raises:
        ConfigError: No such file, no address, a scheme, server or variable that the document does not name.
        EnvError: The document is not OpenAPI 3, or none of its operations can be a tool. Of operations that cannot be
            one, only those named in `only` raise; the others are in `left_out`.
        MissingExtra: A package is missing.
    """
    try:
        import httpx  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingExtra("httpx", "openapi") from error
    report = Omissions()
    api = Document(document, report)
    secrets = {name: _reveal(value) for name, value in (auth or {}).items()}
    servers = Servers(api.root, base_url, variables or {}, report)
    service = Service(
        {name: (api.scheme(name), secret) for name, secret in secrets.items()}, dict(headers or {}), timeout, max_bytes
    )
    try:
        named = api.named(prefix)
        if not servers.main and not any(part.fields().get("servers") for one in named for part in (one.item, one.part)):
            raise ConfigError(f"base_url has to be an http or https address: {servers.why}")
        tools = [
            tool
            for one in _wanted(named, only, prefix)
            if (tool := _tool(service, api, one, servers, frozenset(secrets), raising=only is not None)) is not None
        ]
        if only is None:
            servers.check()
            if not tools:
                _refuse(report)
        yield OpenAPITools(tools, report.found.values())
    finally:
        service.close()


def _wanted(named: list[Named], only: Collection[str] | None, prefix: str) -> list[Named]:
    """The operations to take. Raises `ConfigError` for a name that is none."""
    if only is None:
        return named
    known = [one.name.removeprefix(prefix) for one in named]
    for wanted in only:
        if wanted not in known and all(one.given != wanted for one in named):
            raise ConfigError(f"the document has no operation {wanted!r}; it has: {', '.join(known) or 'none'}")
    return [one for one, name in zip(named, known, strict=True) if name in only or (one.given and one.given in only)]


def _refuse(report: Omissions) -> None:
    """Says why a document has no tool at all. One without operations has none."""
    first = next((told for told in report.found.values() if told.what.startswith(("operation ", "path "))), None)
    if first is not None:
        raise EnvError(f"no operation of the document can be a tool; the first of {len(report.found)} reasons: {first}")


def _tool(
    service: Service, api: Document, named: Named, servers: Servers, credentials: frozenset[str], *, raising: bool
) -> Tool | None:
    """The tool of an operation; None, and an entry in the report, where it cannot be one.

    Args:
        service: What sends its requests.
        api: The document.
        named: The operation.
        servers: Where it is served.
        credentials: Security schemes that there are credentials for.
        raising: Raise `EnvError` instead: it was asked for by name.
    """
    try:
        operation, spec, large = api.operation(named, servers, credentials)

        def run(**arguments: Json) -> Json:
            return service.call(operation, arguments)

        idempotent = operation.method in _IDEMPOTENT
        return Tool(spec, run, effect=operation.effect, idempotent=idempotent, blocking=True, proven=large)
    except Wrong as wrong:
        where, why = wrong.where, wrong.why
    except EnvError as error:  # what the validator refuses all the same
        where, why = named.part.where, str(error)
    except (ValueError, RecursionError) as error:
        where, why = named.part.where, f"it has a wrong JSON Schema: {type(error).__name__}"
    if raising:
        raise EnvError(f"operation {named.name!r} cannot be a tool: {why} ({where})")
    api.report.add(where, named.what, why)
    return None


def _reveal(value: str | SecretStr) -> str:
    secret = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not secret:
        raise ConfigError("a credential is empty: leave its scheme out of `auth`, or set it")
    return secret


class Service:
    """An HTTP service: its credentials and connections."""

    def __init__(
        self, auth: dict[str, tuple[dict[str, Json], str]], headers: dict[str, str], timeout: float, max_bytes: int
    ) -> None:
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

    def call(self, operation: Operation, arguments: dict[str, Json]) -> Json:
        """Sends one request, once. Raises `ToolError`, as the module says."""
        request = request_of(operation, arguments)
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

    async def _send(self, operation: Operation, request: Request) -> tuple[int, Mapping[str, str], bytes]:
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
        url = operation.server + request.target
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

    async def _body(self, operation: Operation, answer: httpx.Response) -> bytes:
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

    def _failure(self, operation: Operation, status: int, headers: Mapping[str, str], said: str) -> ToolError:
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
        return BY_STATUS.get(status, ToolError)(message)

    def _value(self, operation: Operation, status: int, headers: Mapping[str, str], body: bytes) -> Json:
        if not body:
            return {"status": status}
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind and is_json(kind):
            try:
                value = read_json(_utf8(body, headers))
                if _HALF.search(body):
                    value = _whole(value)
                return self._strike_json(value) if self.secrets else value
            except (ValueError, RecursionError):
                raise ToolError("the answer is no valid JSON", took_effect=operation.effect) from None
        if kind and not kind.startswith("text/") and b"\0" in body[:1024]:
            return f"[{kind}, {len(body)} bytes]"
        return self._strike(_utf8(body, headers).decode("utf-8", "replace"))

    def _said(self, headers: Mapping[str, str], body: bytes) -> str:
        """What an error answer says, in one line: its message where it is JSON that has one."""
        body = _utf8(body, headers)
        text, kind = body.decode("utf-8", "replace"), headers.get("content-type", "").lower()
        if "html" in kind:
            return ""  # markup tells an agent nothing
        if kind and is_json(kind):
            with suppress(ValueError):
                told = read_json(body)
                for key in ("message", "detail", "error_description", "error", "title"):
                    if isinstance(told, dict) and told.get(key):
                        text = scalar(_whole(told[key]))
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
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and scalar(value) in self.secrets:
            return _STRUCK
        return value


def _utf8(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A body in UTF-8, from the encoding that its content type names."""
    charset = Message()
    charset["content-type"] = headers.get("content-type", "")
    name = charset.get_content_charset("utf-8")
    if name in ("utf-8", "utf8", "us-ascii"):
        return body
    with suppress(LookupError, ValueError):  # no such encoding, or not what it says
        return body.decode(name).encode("utf-8", "replace")
    return body


def _whole(value: Json) -> Json:
    """The value with each half of a surrogate pair, which no record can hold, as U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return {_whole(k): _whole(v) for k, v in value.items()} if isinstance(value, dict) else value


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
    kind, http = told(scheme.get("type")), told(scheme.get("scheme", "")).lower()
    if not secret.isprintable():
        raise ConfigError(f"the credential for {name!r} holds a line break or a control character")
    if kind == "apiKey":
        place, key = scheme.get("in"), scheme.get("name")
        if place not in ("header", "query", "cookie") or not isinstance(key, str) or not key:
            raise ConfigError(
                f"security scheme {name!r} is sent in {told(place)!r} under {told(key)!r}, which is not supported"
            )
        if place == "header" and not secret.isascii():
            raise ConfigError(f"the credential for {name!r} is sent in a header: it is ASCII only")
        return place, key, secret
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
