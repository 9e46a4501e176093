"""Tools from OpenAPI documents: against a real HTTP service in a thread, and what must not happen to it."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

pytest.importorskip("httpx")

from no_world import World

from sparring.tools import (
    Conflict,
    Forbidden,
    Gone,
    InvalidArguments,
    NotFound,
    RateLimited,
    Tool,
    Toolbox,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
)
from sparring.tools.openapi import openapi_tools
from sparring.tools.openapi.document import Operation, Parameter
from sparring.tools.openapi.encoding import request_of
from sparring.trajectories import ConfigError, EnvError, Outcome, ToolCall

CANARY = "canary-7c1f/9 +b"

SHOP: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Shop", "version": "1"},
    "security": [{"token": []}],
    "paths": {
        "/items/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "get": {
                "operationId": "getItem",
                "summary": "Read an item.",
                "parameters": [
                    {"name": "fields", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                ],
            },
            "put": {
                "operationId": "putItem",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Item"}}},
                },
            },
            "delete": {"deprecated": True},
        },
        "/items": {
            "post": {
                "operationId": "addItems",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}}
                        }
                    },
                },
            },
        },
        "/search": {
            "get": {
                "operationId": "search",
                "security": [{"key": []}],
                "parameters": [
                    {"name": "q", "in": "query", "required": True, "schema": {"type": "string"}},
                    {"name": "api_key", "in": "query", "schema": {"type": "string"}},
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array"}},
                    {"name": "filter", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
                    {
                        "name": "box",
                        "in": "query",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                    {"name": "deep", "in": "query", "schema": {"type": "boolean"}},
                ],
            }
        },
        "/login": {
            "post": {
                "operationId": "login",
                "security": [{"password": []}],
                "requestBody": {
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {"type": "object", "properties": {"remember": {"type": "boolean"}}}
                        }
                    }
                },
            }
        },
        "/upload": {
            "post": {
                "operationId": "upload",
                "requestBody": {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
            }
        },
    },
    "components": {
        "parameters": {
            "Id": {"name": "id", "in": "path", "required": True, "description": "Which.", "schema": {"type": "string"}}
        },
        "schemas": {
            "Item": {
                "type": "object",
                "required": ["id", "name"],
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": "string"},
                    "made": {"type": "string", "readOnly": True},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
                },
            }
        },
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "query", "name": "api_key"},
            "password": {"type": "http", "scheme": "basic"},
        },
    },
}
AUTH: dict[str, str | SecretStr] = {"token": SecretStr(CANARY), "key": CANARY, "password": f"ada:{CANARY}"}


class Service(ThreadingHTTPServer):
    """Keeps what it was asked; `answer` says what it does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, Any]] = []
        self.answer: Callable[[Handler, dict[str, Any]], None] = lambda handler, asked: handler.reply(200, asked)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def send(reply: tuple[Any, ...], handler: Handler, asked: dict[str, Any]) -> None:
    handler.reply(*reply)


def send_back(
    status: int, kind: str, body: Callable[[dict[str, Any]], bytes], handler: Handler, asked: dict[str, Any]
) -> None:
    """A body made from what was asked."""
    handler.reply(status, body(asked), kind)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        asked = {
            "method": self.command,
            "path": parts.path,
            "query": parse_qsl(parts.query, keep_blank_values=True),
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "body": self.rfile.read(length).decode(),
        }
        self.server.seen.append(asked)
        self.server.answer(self, asked)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_any

    def reply(self, status: int, body: Any = None, kind: str = "application/json", **headers: str) -> None:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def by_name(tools: tuple[Tool, ...]) -> dict[str, Tool]:
    return {t.name: t for t in tools}


def one(path: str = "/x", method: str = "get", **operation: Any) -> dict[str, Any]:
    """A document with one operation, `op`."""
    return {"openapi": "3.0.3", "paths": {path: {method: {"operationId": "op", **operation}}}}


def schema_of(document: dict[str, Any]) -> dict[str, Any]:
    with openapi_tools(document, base_url="http://127.0.0.1:1") as (tool,):
        return tool.spec.parameters


# ------------------------------------------------------------------------------------------- what the document becomes


def test_operations_become_tools(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with openapi_tools(SHOP, base_url=service.url, auth=AUTH) as tools:
        named = by_name(tools)
    assert list(named) == ["getItem", "putItem", "delete_items_by_id", "addItems", "search", "login"]
    assert "'upload' is left out" in caplog.text
    assert [(left.what, left.where) for left in tools.left_out] == [
        ("operation 'upload'", "#/paths/~1upload/post/requestBody")
    ]
    assert "image/png" in tools.left_out[0].why
    assert [(t.effect, t.idempotent) for t in tools] == [
        (False, True),
        (True, True),
        (True, True),
        (True, False),
        (False, True),
        (True, False),
    ]
    get = named["getItem"].spec
    assert get.description == "Read an item."
    assert set(get.parameters["properties"]) == {"id", "fields", "X-Trace"}
    assert get.parameters["required"] == ["id"]
    assert get.parameters["properties"]["id"] == {"type": "string", "description": "Which."}
    assert named["delete_items_by_id"].spec.description == "DELETE /items/{id} (deprecated)"
    put = named["putItem"].spec.parameters
    assert set(put["properties"]) == {"path_id", "body_id", "name", "parts"}  # a clash; `made` is the service's own
    assert set(put["required"]) == {"path_id", "body_id", "name"}
    assert "api_key" not in named["search"].spec.parameters["properties"]
    assert put["$defs"]["Item"]["properties"]["parts"]["items"] == {"$ref": "#/$defs/Item"}


def test_requests_are_what_the_document_says(service: Service) -> None:
    with openapi_tools(SHOP, base_url=service.url + "/v1/", auth=AUTH) as tools:
        named = by_name(tools)
        asked = named["getItem"].fn(**{"id": "a/../b ü?", "fields": ["x", "y"], "X-Trace": "7"})
        assert unquote(asked["path"]) == "/v1/items/a/../b ü?"
        assert asked["path"].count("/") == 3
        assert asked["query"] == [["fields", "x"], ["fields", "y"]]
        seen = service.seen[-1]
        assert seen["headers"]["x-trace"] == "7"
        assert seen["headers"]["authorization"] == f"Bearer {CANARY}"

        named["putItem"].fn(path_id="p", body_id=3, name="n", parts=[{"id": 4, "name": "m"}])
        seen = service.seen[-1]
        assert (seen["method"], seen["path"]) == ("PUT", "/v1/items/p")
        assert json.loads(seen["body"]) == {"id": 3, "name": "n", "parts": [{"id": 4, "name": "m"}]}
        assert seen["headers"]["content-type"] == "application/json"

        named["addItems"].fn(body=[{"id": 1, "name": "n"}])
        assert json.loads(service.seen[-1]["body"]) == [{"id": 1, "name": "n"}]

        named["search"].fn(q="a&b=c", ids=[1, 2], filter={"size": 3}, box={"a": [1]}, deep=True)
        assert service.seen[-1]["query"] == [
            ("q", "a&b=c"),
            ("ids", "1,2"),
            ("filter[size]", "3"),
            ("box", '{"a":[1]}'),
            ("deep", "true"),
            ("api_key", CANARY),
        ]
        assert "authorization" not in service.seen[-1]["headers"]

        named["login"].fn(remember=True)
        assert service.seen[-1]["body"] == "remember=true"
        assert service.seen[-1]["headers"]["authorization"].startswith("Basic ")


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda t: t.encode("utf-8", "ignore").decode() == t))
def test_no_argument_leaves_its_place_in_the_path(text: str) -> None:
    operation = Operation("op", "get", "/a/{id}/b", {"id": Parameter("id", "path", {}, True, "simple")})
    if text in (".", ".."):
        with pytest.raises(InvalidArguments):
            request_of(operation, {"id": text})
        return
    path = request_of(operation, {"id": text}).path
    assert unquote(urlsplit("http://h" + path).path) == f"/a/{text}/b"
    assert path.count("/") == 3
    assert not set(path) & set("?#\\ \r\n")


def test_three_zero_is_translated() -> None:
    document = one(
        method="post",
        requestBody={
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["n"],
                        "properties": {
                            "n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "example": 3},
                            "colour": {"type": "string", "enum": ["red"], "nullable": True},
                            "nullable": {"type": "string"},
                            "any": {"nullable": True, "allOf": [{"type": "string"}]},
                        },
                    }
                }
            },
        },
    )
    schema = schema_of(document)
    good = jsonschema.Draft202012Validator(schema).is_valid
    assert good({"n": 1, "colour": None, "any": None, "nullable": "x"})
    assert good({"n": 1, "colour": "red", "any": "x"})
    for wrong in ({"n": 0}, {"n": 1, "colour": "blue"}, {"n": 1, "any": 2}, {"n": 1, "extra": 1}, {}):
        assert not good(wrong), wrong
    assert "example" not in json.dumps(schema)


def test_an_optional_body_with_required_properties_stays_whole() -> None:
    item = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    schema = schema_of(one(method="post", requestBody={"content": {"application/json": {"schema": item}}}))
    good = jsonschema.Draft202012Validator(schema).is_valid
    assert good({})
    assert good({"body": {"a": 1}})
    assert not good({"body": {}})


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"swagger": "1.2"}, "got Swagger 1.2"),
        ({}, "openapi: missing"),
        (one(parameters=[{"$ref": "other.yaml#/x"}]), "leads out of the document"),
        (one(parameters=[{"$ref": "http://evil/x"}]), "leads out of the document"),
        (one(parameters=[{"$ref": "#/components/none"}]), "leads nowhere"),
        (one(path="/x/{id}"), "no parameter for 'id'"),
        (
            {**one(parameters=[{"$ref": "#/a"}]), "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}},
            "round in a circle",
        ),
        (one(parameters=[{"name": "a", "in": "body", "schema": {"type": "object"}}]), "a parameter in 'body'"),
        ({"openapi": "3.0.0", "paths": [1]}, "a list where an object should be"),
        ({"openapi": "3.0.0", "paths": {"/a": 5}}, "a number where an object should be"),
    ],
)  # fmt: skip
def test_wrong_documents(document: dict[str, Any], error: str) -> None:
    with pytest.raises(EnvError, match=error), openapi_tools(document, base_url="http://127.0.0.1:1"):
        pass


def test_wrong_settings(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"auth": {"tokn": "x"}}, "no security scheme 'tokn'"),
        ({"auth": {"token": ""}}, "a credential is empty"),
        ({"auth": {"password": "x"}}, "user:password"),
        ({"auth": {"token": "a\r\nb"}}, "line break"),
        ({"only": ["getitem"]}, "no operation 'getitem'"),
        ({"base_url": "ftp://x"}, "http or https"),
        ({"base_url": "http://ada:secret@x"}, "give credentials by `auth`"),
        ({"base_url": ""}, "http or https"),
    ]
    for options, error in cases:
        with pytest.raises(ConfigError, match=error), openapi_tools(SHOP, **{"base_url": "http://x", **options}):
            pass
    with pytest.raises(EnvError, match="image/png"), openapi_tools(SHOP, base_url="http://x", only=["upload"]):
        pass
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"), openapi_tools(tmp_path / "no.json"):
        pass
    with pytest.raises(ConfigError, match="No such file"), openapi_tools(tmp_path / "none.yaml"):
        pass


def test_documents_from_files(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    document = {**SHOP, "servers": [{"url": "http://{host}/v1", "variables": {"host": {"default": "127.0.0.1:1"}}}]}
    for name, text in (("shop.yaml", yaml.safe_dump(document)), ("shop.json", json.dumps(document))):
        (tmp_path / name).write_text(text, "utf-8")
        with openapi_tools(tmp_path / name, only=["getItem"]) as (tool,):
            assert tool.name == "getItem"
    bomb = "a: &a {type: object}\n" + "".join(
        f"{n}: &{n} {{allOf: [{', '.join([f'*{p}'] * 9)}]}}\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    operation = "openapi: 3.1.0\npaths: {/x: {get: {parameters: [{name: q, in: query, schema: *i}]}}}\n"
    (tmp_path / "bomb.yaml").write_text(bomb + operation, "utf-8")
    began = time.monotonic()
    with openapi_tools(tmp_path / "bomb.yaml", base_url="http://x") as tools:
        assert "q" not in tools[0].spec.parameters["properties"]
        assert "more than 100000 parts" in tools.left_out[0].why
    needed = operation.replace("name: q", "required: true, name: q")
    (tmp_path / "bomb.yaml").write_text(bomb + needed, "utf-8")
    with (
        pytest.raises(EnvError, match="more than 100000 parts"),
        openapi_tools(tmp_path / "bomb.yaml", base_url="http://x"),
    ):
        pass
    assert time.monotonic() - began < 20


# ------------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize(
    ("status", "error", "took_effect"),
    [
        (400, InvalidArguments, False), (422, InvalidArguments, False), (401, Unauthenticated, False),
        (403, Forbidden, False), (404, NotFound, False), (409, Conflict, False), (412, Conflict, False),
        (410, Gone, False), (429, RateLimited, False), (502, Unavailable, None), (503, Unavailable, False),
        (504, Unavailable, None), (408, ToolTimeout, None), (500, ToolError, None), (501, ToolError, None),
        (418, ToolError, False), (302, ToolError, None),
    ],
)  # fmt: skip
def test_statuses(service: Service, status: int, error: type[ToolError], took_effect: bool | None) -> None:
    service.answer = lambda handler, asked: handler.reply(status, {"message": "so it is"}, location="/elsewhere")
    with openapi_tools(SHOP, base_url=service.url, auth=AUTH) as tools:
        named = by_name(tools)
        with pytest.raises(ToolError) as raised:
            named["addItems"].fn(body=[])
        assert type(raised.value) is error
        assert raised.value.took_effect is took_effect
        assert str(status) in str(raised.value)
        assert status == 302 or "so it is" in str(raised.value)
        with pytest.raises(error) as read:
            named["getItem"].fn(id="x")
        assert read.value.took_effect is False
    assert len(service.seen) == 2  # nothing was sent twice, no redirect followed


def test_retry_after(service: Service) -> None:
    told = {"Retry-After": "7"}
    service.answer = lambda handler, asked: handler.reply(429, None, "text/plain", **told)
    with openapi_tools(SHOP, base_url=service.url) as tools:
        get = by_name(tools)["getItem"]
        for text, ticks in (("7", 7), (formatdate(time.time() + 30, usegmt=True), 30), ("soon", 1), ("", 1)):
            told["Retry-After"] = text
            with pytest.raises(RateLimited) as raised:
                get.fn(id="x")
            assert raised.value.retry_after is not None
            assert abs(raised.value.retry_after - ticks) <= 1


def test_answers(service: Service) -> None:
    with openapi_tools(SHOP, base_url=service.url, max_bytes=1000) as tools:
        get, add = by_name(tools)["getItem"], by_name(tools)["addItems"]
        for reply, value in (
            ((200, [1, None]), [1, None]),
            ((200, b"plain", "text/plain"), "plain"),
            ((204, None), {"status": 204}),
            ((200, b"\0\1\2", "image/png"), "[image/png, 3 bytes]"),
        ):
            service.answer = partial(send, reply)
            assert get.fn(id="x") == value
        service.answer = lambda handler, asked: handler.reply(200, b"{broken")
        with pytest.raises(ToolError, match="no valid JSON"):
            get.fn(id="x")
        service.answer = lambda handler, asked: handler.reply(201, b"x" * 2000, "text/plain")
        with pytest.raises(ToolError, match="larger than 1000 bytes") as raised:
            add.fn(body=[])
        assert raised.value.took_effect is True
        service.answer = lambda handler, asked: handler.reply(200, b"x", "text/plain", content_encoding="gzip")
        with pytest.raises(ToolError, match="compressed"):
            get.fn(id="x")


def test_the_deadline_is_total(service: Service) -> None:
    """A service that sends a byte now and then never trips a timeout of one read."""
    stop = threading.Event()

    def drip(handler: Handler, asked: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    def drip_headers(handler: Handler, asked: dict[str, Any]) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not stop.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    def silent(handler: Handler, asked: dict[str, Any]) -> None:
        stop.wait(20)

    def quiet(call: Callable[[Handler, dict[str, Any]], None]) -> Callable[[Handler, dict[str, Any]], None]:
        def answer(handler: Handler, asked: dict[str, Any]) -> None:
            handler.close_connection = True
            try:
                call(handler, asked)
            except OSError:  # the client has gone, as it should
                return

        return answer

    try:
        with openapi_tools(SHOP, base_url=service.url, timeout=0.5) as tools:
            for answer in (drip, drip_headers, silent):
                service.answer = quiet(answer)
                for name, arguments, took_effect in (("getItem", {"id": "x"}, False), ("addItems", {"body": []}, None)):
                    began = time.monotonic()
                    with pytest.raises(ToolTimeout) as raised:
                        by_name(tools)[name].fn(**arguments)
                    assert 0.4 < time.monotonic() - began < 4
                    assert raised.value.took_effect is took_effect
        assert len(service.seen) == 6
    finally:
        stop.set()


def test_broken_connections(service: Service) -> None:
    def reset(handler: Handler, asked: dict[str, Any]) -> None:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    service.answer = reset
    with openapi_tools(SHOP, base_url=service.url, auth=AUTH) as tools:
        with pytest.raises(Unavailable) as raised:
            by_name(tools)["addItems"].fn(body=[])
        assert raised.value.took_effect is None
        with pytest.raises(Unavailable) as raised:
            by_name(tools)["getItem"].fn(id="x")
        assert raised.value.took_effect is False
    assert len(service.seen) == 2
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with (
            openapi_tools(SHOP, base_url=address) as tools,
            pytest.raises(Unavailable, match="cannot be reached") as none,
        ):
            by_name(tools)["addItems"].fn(body=[])
        assert none.value.took_effect is False


def test_credentials_are_nowhere(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A canary as every credential, a service that sends back what it got in many forms, and every log on."""
    caplog.set_level(logging.DEBUG)
    parts = [CANARY, CANARY.split("/")[1]]  # the second half alone would be a leak too
    bodies: list[tuple[str, Callable[[dict[str, Any]], bytes]]] = [
        ("application/json", lambda asked: json.dumps(asked).encode()),
        ("application/json", lambda asked: json.dumps({"message": " " * 480 + str(asked)}).encode()),
        ("application/json", lambda asked: json.dumps({asked["headers"].get("authorization", "x"): 1}).encode()),
        ("application/json", lambda asked: json.dumps({"detail": asked}).replace("/", "\\/").encode()),
        ("text/plain", lambda asked: str(asked).encode()),
        ("text/plain", lambda asked: f"{'x' * 487}{asked['headers'].get('authorization')}".encode()),
    ]
    texts: list[str] = []
    with openapi_tools(SHOP, base_url=service.url, auth=AUTH, headers={"X-Team": f"team {CANARY}"}) as tools:
        box = Toolbox(tools, World())
        for status in (200, 400, 401, 500, 429):
            for kind, body in bodies:
                service.answer = partial(send_back, status, kind, body)
                for call in (
                    ToolCall("getItem", {"id": "x"}),
                    ToolCall("search", {"q": "x"}),
                    ToolCall("login", {"remember": True}),
                ):
                    result = box.execute(call)[1]
                    assert result.ok is (status == 200), result
                    texts.append(repr(result))
    assert "HTTP Request: GET" in caplog.text  # the log is on
    assert all("x-team" in seen["headers"] for seen in service.seen)
    assert any(("api_key", CANARY) in seen["query"] for seen in service.seen)
    assert any("***" in text for text in texts)
    everything = "\n".join([*texts, caplog.text, *(repr(t) for t in tools)])
    hidden = base64.b64encode(f"ada:{CANARY}".encode()).decode()
    for secret in (*parts, hidden, "canary"):
        assert secret not in everything


def test_calls_in_a_toolbox(service: Service) -> None:
    with openapi_tools(SHOP, base_url=service.url, auth=AUTH) as tools:
        box = Toolbox(tools, World())
        assert box.execute(ToolCall("getItem", {"id": "x"}))[1].ok
        assert box.execute(ToolCall("getItem", {}))[1].outcome is Outcome.INVALID_ARGUMENTS
        service.answer = lambda handler, asked: handler.reply(404, {"message": "no item x"})
        missing = box.execute(ToolCall("getItem", {"id": "x"}))[1]
        assert missing.outcome is Outcome.NOT_FOUND
        assert "no item x" in missing.content
    assert len(service.seen) == 2


def test_several_threads_share_a_service(service: Service) -> None:
    with openapi_tools(SHOP, base_url=service.url, only=["getItem"]) as (get,):
        got: dict[int, str] = {}

        def work(n: int) -> None:
            got[n] = get.fn(id=str(n))["path"]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert got == {n: f"/items/{n}" for n in range(16)}
