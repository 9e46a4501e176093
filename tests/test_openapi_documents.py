"""OpenAPI documents as vendors publish them, written by generators; with one wrong value anywhere; and what is sent.

Requests are compared with what a real HTTP server got.
"""

from __future__ import annotations

import email
import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema
import orjson
import pytest

pytest.importorskip("httpx")

from no_world import World

from sparring.tools import Tool, Toolbox
from sparring.tools.openapi import openapi_tools
from sparring.trajectories import ConfigError, EnvError, ToolCall
from sparring.trajectories.errors import SparringError


class Service(ThreadingHTTPServer):
    """Keeps what it was asked, as it came; answers `reply`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Seen] = []
        self.reply = b"{}"
        self.kind = "application/json"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def last(self) -> Seen:
        return self.seen[-1]


@dataclass
class Seen:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append(Seen(self.command, self.path, headers, body))
        self.send_response(200)
        self.send_header("content-type", self.server.kind)
        self.send_header("content-length", str(len(self.server.reply)))
        self.end_headers()
        self.wfile.write(self.server.reply)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = any

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def serving() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as server:
        yield server


Doc = dict[str, Any]
WORDS = ("account", "charge", "customer", "invoice", "item", "message", "order", "project", "user", "webhook")
HERE = "http://127.0.0.1:9"


# ---------------------------------------------------------------------------------------------- documents by generators


def text(**more: Any) -> Doc:
    return {"type": "string", **more}


def ref(name: str) -> Doc:
    return {"$ref": f"#/components/schemas/{name}"}


def param(name: str, place: str = "query", **more: Any) -> Doc:
    return {"name": name, "in": place, "required": place == "path", "schema": text(), **more}


def body(schema: Doc, media: str = "application/json", **more: Any) -> Doc:
    return {"required": True, "content": {media: {"schema": schema, **more}}}


def api(paths: Doc, version: str = "3.0.3", schemas: Doc | None = None, **more: Any) -> Doc:
    components = {"schemas": schemas or {}, **more.pop("components", {})}
    return {
        "openapi": version,
        "info": {"title": "t", "version": "1"},
        "servers": [{"url": HERE}],
        "paths": paths,
        "components": components,
        **more,
    }


def stripe(rng: random.Random) -> Doc:
    """Forms with deep objects, and lists in them; everything may be expanded."""
    paths: Doc = {}
    for word in WORDS:
        fields: Doc = {
            "amount": {"type": "integer"},
            "metadata": {"anyOf": [{"type": "object", "additionalProperties": text()}, text(enum=[""])]},
            "expand": {"type": "array", "items": text(maxLength=5000)},
            "items": {
                "type": "array",
                "items": {"type": "object", "properties": {"price": text(), "quantity": {"type": "integer"}}},
            },
            "description": text(maxLength=5000),
        }
        deep = {n: {"style": "deepObject", "explode": True} for n in ("metadata", "expand", "items")}
        form = body({"type": "object", "properties": fields}, "application/x-www-form-urlencoded", encoding=deep)
        created = param(
            "created",
            style="deepObject",
            explode=True,
            schema={
                "anyOf": [
                    {"type": "object", "properties": {"gt": {"type": "integer"}, "lt": {"type": "integer"}}},
                    {"type": "integer"},
                ]
            },
        )
        expand = param("expand", style="deepObject", explode=True, schema={"type": "array", "items": text()})
        paths[f"/v1/{word}s"] = {
            "get": {"operationId": f"Get{word.title()}s", "parameters": [created, expand]},
            "post": {"operationId": f"Post{word.title()}s", "requestBody": form},
        }
        paths[f"/v1/{word}s/{{{word}}}"] = {
            "delete": {"operationId": f"Delete{word.title()}s{word.title()}", "parameters": [param(word, "path")]}
        }
    return api(paths)


def twilio(rng: random.Random) -> Doc:
    """Names such as `CreateMessage`, paths that end in `.json`, forms in CamelCase, ids with patterns."""
    paths: Doc = {}
    for word in WORDS:
        sid = text(minLength=34, maxLength=34, pattern=f"^{word[:2].upper()}[0-9a-fA-F]{{32}}$")
        form = body(
            {
                "type": "object",
                "required": ["To"],
                "properties": {
                    "To": text(),
                    "MediaUrl": {"type": "array", "items": text(format="uri")},
                    "ValidityPeriod": {"type": "integer"},
                },
            },
            "application/x-www-form-urlencoded",
        )
        paths[f"/2010-04-01/Accounts/{{AccountSid}}/{word.title()}s.json"] = {
            "servers": [{"url": HERE}],
            "get": {
                "operationId": f"List{word.title()}",
                "parameters": [
                    param("AccountSid", "path", schema=sid),
                    param("DateSent<", schema=text(format="date-time")),
                    param("DateSent>"),
                ],
            },
            "post": {
                "operationId": f"Create{word.title()}",
                "parameters": [param("AccountSid", "path", schema=sid)],
                "requestBody": form,
            },
        }
    return api(
        paths,
        components={"securitySchemes": {"accountSid_authToken": {"type": "http", "scheme": "basic"}}},
        security=[{"accountSid_authToken": []}],
    )


def github(rng: random.Random) -> Doc:
    """Several hundred operations with slashes in their ids, shared parameters, an upload elsewhere."""
    paths: Doc = {}
    shared = {
        "owner": param("owner", "path"),
        "repo": param("repo", "path"),
        "page": param("page", schema={"type": "integer", "default": 1}),
    }
    common = [{"$ref": f"#/components/parameters/{n}"} for n in ("owner", "repo")]
    for index in range(250):
        word = rng.choice(WORDS)
        paths[f"/repos/{{owner}}/{{repo}}/{word}s/{index}"] = {
            "get": {
                "operationId": f"{word}s/list-for-repo-{index}",
                "parameters": [*common, {"$ref": "#/components/parameters/page"}],
            },
            "patch": {
                "operationId": f"{word}s/update-{index}",
                "parameters": common,
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "title": text(nullable=True),
                                    "labels": {"type": "array", "items": {"oneOf": [text(), ref("label")]}},
                                },
                            }
                        }
                    }
                },
            },
        }
    paths["/repos/{owner}/{repo}/releases/assets"] = {
        "post": {
            "operationId": "repos/upload-release-asset",
            "parameters": common,
            "servers": [{"url": "http://127.0.0.1:10/up"}],
            "requestBody": {"content": {"application/octet-stream": {"schema": text(format="binary")}}},
        }
    }
    return api(
        paths,
        schemas={"label": {"type": "object", "properties": {"name": text(), "parent": ref("label")}}},
        components={"parameters": shared},
    )


def slack(rng: random.Random) -> Doc:
    """Dots in names, tokens as header parameters, forms and JSON next to each other."""
    paths: Doc = {}
    for word in WORDS:
        schema = {
            "type": "object",
            "required": ["channel"],
            "properties": {"channel": text(), "blocks": text(), "as_user": {"type": "boolean"}},
        }
        paths[f"/{word}.post"] = {
            "post": {
                "operationId": f"{word}_post",
                "parameters": [param("token", "header", required=True)],
                "requestBody": {
                    "content": {
                        "application/x-www-form-urlencoded": {"schema": schema},
                        "application/json": {"schema": schema},
                    }
                },
            }
        }
        paths[f"/{word}.list"] = {
            "get": {"operationId": f"{word}.list", "parameters": [param("limit", schema={"type": "integer"})]}
        }
    return api(paths)


def kubernetes(rng: random.Random) -> Doc:
    """Ids that are longer than a name may be, schemas that refer to themselves, several kinds of patches."""
    stem = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1"
    props = f"{stem}.JSONSchemaProps"
    schemas: Doc = {
        props: {
            "type": "object",
            "properties": {
                "items": ref(props),
                "properties": {"type": "object", "additionalProperties": ref(props)},
                "allOf": {"type": "array", "items": ref(props)},
                "default": {},
            },
        },
        f"{stem}.Meta": {
            "type": "object",
            "properties": {"name": text(), "labels": {"type": "object", "additionalProperties": text()}},
        },
        f"{stem}.Patch": {"type": "object", "description": "A patch."},
    }
    paths: Doc = {}
    for word in WORDS:
        schemas[f"{stem}.{word}"] = {
            "type": "object",
            "properties": {
                "metadata": ref(f"{stem}.Meta"),
                "spec": ref(props),
                "status": {"allOf": [ref(props)], "readOnly": True},
            },
        }
        patch = {
            m: {"schema": ref(f"{stem}.Patch")} for m in ("application/json-patch+json", "application/merge-patch+json")
        }
        names = [param("name", "path"), param("namespace", "path")]
        long = "CertificatesV1alpha1NamespacedCustomResourceDefinitionsForAllNamespaces"
        paths[f"/apis/{stem}/namespaces/{{namespace}}/{word}s/{{name}}"] = {
            "parameters": names,
            "get": {"operationId": f"read{long}{word.title()}"},
            "put": {"operationId": f"replace{long}{word.title()}", "requestBody": body(ref(f"{stem}.{word}"), "*/*")},
            "patch": {"operationId": f"patch{long}{word.title()}", "requestBody": {"required": True, "content": patch}},
        }
    return api(paths, schemas=schemas)


def digitalocean(rng: random.Random) -> Doc:
    """`oneOf` bodies with discriminators, `allOf` everywhere, examples in YAML's manner."""
    schemas = {
        "base": {
            "type": "object",
            "required": ["id", "name"],
            "properties": {"id": {"type": "integer", "readOnly": True}, "name": text()},
        },
        "droplet": {
            "allOf": [
                ref("base"),
                {"type": "object", "required": ["region"], "properties": {"region": text(enum=["nyc3", "ams3"])}},
            ]
        },
        "volume": {
            "allOf": [ref("base"), {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}}]
        },
    }
    choice = {
        "oneOf": [ref("droplet"), ref("volume")],
        "discriminator": {"propertyName": "type", "mapping": {"droplet": "#/x"}},
    }
    return api(
        {f"/v2/{w}s": {"post": {"operationId": f"{w}s_create", "requestBody": body(choice)}} for w in WORDS},
        schemas=schemas,
    )


def azure(rng: random.Random) -> Doc:
    """`Resources_CreateOrUpdate`, versions as parameters, a server with variables, ids read only by reference."""
    schemas = {
        "Id": text(readOnly=True),
        "Resource": {
            "type": "object",
            "required": ["id", "location"],
            "properties": {
                "id": ref("Id"),
                "location": text(),
                "systemData": {"allOf": [ref("Id")]},
                "tags": {"type": "object", "additionalProperties": text()},
            },
        },
    }
    server = {
        "url": "http://{host}:{port}/",
        "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "9", "enum": ["9", "10"]}},
    }
    common = [param("subscriptionId", "path", schema=text(format="uuid")), param("api-version", required=True)]
    return api(
        {
            f"/subscriptions/{{subscriptionId}}/{w}s": {
                "parameters": common,
                "put": {"operationId": f"{w.title()}s_CreateOrUpdate", "requestBody": body(ref("Resource"))},
            }
            for w in WORDS
        },
        schemas=schemas,
        servers=[server],
    )


def google(rng: random.Random) -> Doc:
    """Converted from discovery: `$.xgafv`, global parameters by reference, `{+name}` paths, colons."""
    shared = {
        "xgafv": param("$.xgafv", schema=text(enum=["1", "2"])),
        "alt": param("alt", schema=text(default="json", enum=["json", "media"])),
        "prettyPrint": param("prettyPrint", schema={"type": "boolean", "default": "true"}),
    }
    refs = [{"$ref": f"#/components/parameters/{n}"} for n in shared]
    return api(
        {
            f"/v1/projects/{{projectsId}}/{w}s:batchGet": {
                "parameters": refs,
                "get": {
                    "operationId": f"{w}.projects.{w}s.batchGet",
                    "parameters": [
                        param("projectsId", "path"),
                        param("names", schema={"type": "array", "items": text()}),
                    ],
                },
            }
            for w in WORDS
        },
        components={"parameters": shared},
    )


def asana(rng: random.Random) -> Doc:
    """Bodies in an envelope `data`, read-only ids everywhere, `opt_fields` with commas."""
    schemas = {
        "Compact": {"type": "object", "properties": {"gid": text(readOnly=True), "name": text()}},
        "Request": {
            "allOf": [
                ref("Compact"),
                {"type": "object", "required": ["gid", "workspace"], "properties": {"workspace": text()}},
            ]
        },
    }
    fields = param(
        "opt_fields", style="form", explode=False, schema={"type": "array", "items": text(enum=["name", "gid"])}
    )
    envelope = {"type": "object", "properties": {"data": ref("Request")}}
    return api(
        {
            f"/{w}s": {
                "post": {"operationId": f"create{w.title()}", "parameters": [fields], "requestBody": body(envelope)}
            }
            for w in WORDS
        },
        schemas=schemas,
    )


def zoom(rng: random.Random) -> Doc:
    """Choices written as numbers in texts, the same operationId for several operations."""
    return api(
        {
            f"/{w}s/{{id}}": {
                "get": {
                    "operationId": "getThing",
                    "parameters": [param("id", "path"), param("type", schema=text(enum=[1, 2, 3]))],
                }
            }
            for w in WORDS
        }
    )


def shopify(rng: random.Random) -> Doc:
    """No operationIds at all; versions in paths; long paths that differ at their end."""
    stem = "/admin/api/2024-01/customer_saved_searches/{id}/price_rules/discount_codes/fulfillment_orders"
    return api(
        {f"{stem}/{w}.json": {m: {"parameters": [param("id", "path")]} for m in ("get", "delete")} for w in WORDS}
    )


def openai(rng: random.Random) -> Doc:
    """3.1, uploads, `anyOf` with null, lists in forms."""
    upload = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": text(format="binary"),
            "purpose": text(enum=["batch"]),
            "expires": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "include": {"type": "array", "items": text()},
        },
    }
    chat = {
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": {"anyOf": [text(), text(enum=["a", "b"])]},
            "stop": {"oneOf": [text(), {"type": "null"}]},
        },
    }
    return api(
        {
            p: {"post": {"operationId": f"{k}{w.title()}", "requestBody": b}}
            for w in WORDS
            for p, k, b in (
                (f"/{w}s/files", "upload", body(upload, "multipart/form-data")),
                (f"/{w}s/chat", "chat", body(chat)),
            )
        },
        "3.1.0",
    )


def box(rng: random.Random) -> Doc:
    """Servers for single operations, enums with null, header parameters."""
    attributes = {
        "type": "object",
        "required": ["attributes", "file"],
        "properties": {
            "attributes": {"type": "object", "required": ["name"], "properties": {"name": text()}},
            "file": text(format="binary"),
        },
    }
    paths: Doc = {
        f"/{w}s": {
            "get": {
                "operationId": f"get_{w}s",
                "parameters": [
                    param("if-match", "header"),
                    param("sort", schema=text(enum=["id", None], nullable=True)),
                ],
            }
        }
        for w in WORDS
    }
    paths["/files/content"] = {
        "post": {
            "operationId": "post_files_content",
            "servers": [{"url": "http://127.0.0.1:11/api"}],
            "requestBody": body(attributes, "multipart/form-data"),
        }
    }
    return api(paths)


def notion(rng: random.Random) -> Doc:
    """A version header, recursive filters."""
    filters = {
        "oneOf": [
            {"type": "object", "properties": {"and": {"type": "array", "items": ref("filter")}}},
            {"type": "object", "properties": {"property": text()}},
        ]
    }
    version = param("Notion-Version", "header", schema=text(enum=["2022-06-28"]), required=True)
    return api(
        {
            f"/v1/{w}s/query": {
                "post": {
                    "operationId": f"query-{w}",
                    "parameters": [version],
                    "requestBody": body({"type": "object", "properties": {"filter": ref("filter")}}),
                }
            }
            for w in WORDS
        },
        schemas={"filter": filters},
    )


def jira(rng: random.Random) -> Doc:
    """Fully qualified ids, `additionalProperties` in bodies, patterns of Java."""
    return api(
        {
            f"/rest/api/3/{w}": {
                "put": {
                    "operationId": f"com.atlassian.jira.rest.v2.issue.{w.title()}Resource.edit_put",
                    "requestBody": body(
                        {
                            "type": "object",
                            "properties": {"key": text(pattern=r"\A[A-Z]++\Z")},
                            "additionalProperties": {},
                        }
                    ),
                }
            }
            for w in WORDS
        }
    )


def xero(rng: random.Random) -> Doc:
    """Headers that every operation needs, dates of a format of its own, numbers with decimals."""
    return api(
        {
            f"/{w.title()}s": {
                "parameters": [param("xero-tenant-id", "header", required=True)],
                "post": {
                    "operationId": f"create{w.title()}s",
                    "requestBody": body(
                        {
                            "type": "object",
                            "properties": {
                                "UnitAmount": {"type": "number", "format": "double", "x-is-money": True},
                                "Date": text(format="date", **{"x-is-msdate": True}),
                            },
                        }
                    ),
                },
            }
            for w in WORDS
        }
    )


def plaid(rng: random.Random) -> Doc:
    """Everything is a POST; credentials are properties; `$ref` next to other keywords, in 3.0."""
    schemas = {
        "Secret": text(description="Yours."),
        "Options": {
            "type": "object",
            "nullable": True,
            "properties": {"count": {"type": "integer", "maximum": 500, "exclusiveMaximum": True}},
        },
    }
    return api(
        {
            f"/{w}/get": {
                "post": {
                    "operationId": f"{w}Get",
                    "requestBody": body(
                        {
                            "type": "object",
                            "required": ["access_token"],
                            "properties": {
                                "access_token": {**ref("Secret"), "description": "Theirs."},
                                "options": {**ref("Options"), "nullable": True},
                            },
                        }
                    ),
                }
            }
            for w in WORDS
        },
        schemas=schemas,
    )


def mailchimp(rng: random.Random) -> Doc:
    """A server by data centre, titles everywhere, `$ref`s to definitions that bring their own."""
    schemas = {
        "Merge": {
            "type": "object",
            "title": "Merge",
            "properties": {"a": {"$ref": "#/$defs/Deep"}},
            "$defs": {"Deep": {"type": "integer"}},
        }
    }
    server = {"url": "http://{dc}:9/3.0", "variables": {"dc": {"default": "127.0.0.1", "description": "Data centre."}}}
    return api(
        {f"/{w}s": {"post": {"operationId": f"post{w.title()}s", "requestBody": body(ref("Merge"))}} for w in WORDS},
        "3.1.0",
        schemas,
        servers=[server],
    )


def spotify(rng: random.Random) -> Doc:
    """Ids with commas in a path, path parameters with a style, deprecated fields."""
    ids = param("ids", "path", style="simple", schema={"type": "array", "items": text()})
    return api(
        {
            f"/{w}s/{{ids}}": {
                "get": {
                    "operationId": f"get-several-{w}s",
                    "deprecated": True,
                    "parameters": [ids, param("market", required=False)],
                }
            }
            for w in WORDS
        }
    )


def pagerduty(rng: random.Random) -> Doc:
    """`include[]`, lists in queries, a body of one property."""
    include = param("include[]", explode=True, schema={"type": "array", "items": text(enum=["users", "teams"])})
    return api(
        {
            f"/{w}s": {
                "get": {
                    "operationId": f"list{w.title()}s",
                    "parameters": [include, param("since", schema=text(format="date-time"))],
                },
                "post": {
                    "operationId": f"create{w.title()}",
                    "requestBody": body(
                        {
                            "type": "object",
                            "required": [w],
                            "properties": {
                                w: {
                                    "type": "object",
                                    "required": ["type"],
                                    "properties": {"type": text(default=w, enum=[w])},
                                }
                            },
                        }
                    ),
                },
            }
            for w in WORDS
        }
    )


VENDORS: tuple[Callable[[random.Random], Doc], ...] = (
    stripe,
    twilio,
    github,
    slack,
    kubernetes,
    digitalocean,
    azure,
    google,
    asana,
    zoom,
    shopify,
    openai,
    box,
    notion,
    jira,
    xero,
    plaid,
    mailchimp,
    spotify,
    pagerduty,
)
EXPECTED_LEFT: dict[Callable[[random.Random], Doc], str] = {zoom: "operationId", jira: "keyword 'pattern'"}
"""What of a vendor's document is left out."""


def operations(document: Doc) -> list[tuple[str, str]]:
    return [(path, method) for path, item in document["paths"].items() for method in item if method in METHODS]


METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


def moved(document: Doc, url: str) -> Doc:
    """The document with all servers at `url`."""

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: [{"url": url}] if k == "servers" else walk(v) for k, v in node.items()}
        return [walk(v) for v in node] if isinstance(node, list) else node

    made: Doc = walk(document)
    return made


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda v: v.__name__)
def test_documents_in_the_manner_of_vendors(vendor: Callable[[random.Random], Doc], service: Service) -> None:
    """Every operation is a tool, what is left out is known, and calls arrive as they were meant."""
    document = vendor(random.Random(3))
    with openapi_tools(document) as tools:
        assert len(tools) == len(operations(document))
        names = [t.name for t in tools]
        assert len(set(names)) == len(names)
        assert all(0 < len(n) <= 64 and n.isascii() and n.replace("_", "").replace("-", "").isalnum() for n in names)
        left = EXPECTED_LEFT.get(vendor)
        assert {told.what.split(" ")[0] for told in tools.left_out} == ({left.split(" ")[0]} if left else set())
        for made in tools:
            jsonschema.Draft202012Validator.check_schema(made.spec.parameters)
            orjson.dumps(made.spec.parameters)
    rng = random.Random(5)
    with openapi_tools(moved(document, service.url)) as tools:
        assert [t.name for t in tools] == names
        toolbox = Toolbox(tools, World())
        for made in rng.sample(tools, min(12, len(tools))):
            arguments = _arguments(made, rng)
            before = len(service.seen)
            result = toolbox.execute(ToolCall(made.name, arguments))[1]
            assert result.ok, (made.name, arguments, result.content)
            assert len(service.seen) == before + 1


def _arguments(made: Tool, rng: random.Random) -> Doc:
    """Arguments that fit a tool's schema, and that a path can hold."""
    for _ in range(300):
        found: Doc = sample(made.spec.parameters, made.spec.parameters, rng, 0)
        if made.validator.is_valid(found):
            return found
    pytest.fail(f"no arguments for {made.spec.parameters}")


def sample(schema: Any, root: Doc, rng: random.Random, depth: int) -> Any:
    """Some value for a schema; most fit."""
    if schema is True or not schema:
        return "anything"
    if "$ref" in schema:
        return sample(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, rng, depth + 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return sample(rng.choice(schema[key]), root, rng, depth + 1)
    if "allOf" in schema:
        parts = [sample({**part}, root, rng, depth + 1) for part in schema["allOf"]]
        return {k: v for part in parts for k, v in part.items()} if isinstance(parts[0], dict) else parts[0]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match rng.choice(kind) if isinstance(kind, list) else kind:
        case "object":
            needed = schema.get("required", ())
            named = schema.get("properties", {})
            return {
                name: sample(inner, root, rng, depth + 1)
                for name, inner in named.items()
                if name in needed or (depth < 4 and rng.random() < 0.6)
            }
        case "array":
            return [sample(schema.get("items", True), root, rng, depth + 1) for _ in range(rng.randrange(1, 3))]
        case "integer":
            return rng.randrange(1, 100)
        case "number":
            return rng.randrange(1, 100) / 4
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    if schema.get("pattern", "").endswith("{32}$"):
        return schema["pattern"][1:3] + "0" * 32
    return rng.choice(["abc", "a b", "a/b?c#d", "x,y", "1"])[: schema.get("maxLength", 99)]


# --------------------------------------------------------------------------------------------- one wrong value anywhere

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    5,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    2**70,
    "",
    "text",
    "\ud800",
    "\0",
    "NO",
    "é" * 70,
    "#",
    "#/",
    "a" * 100_000,
    [],
    {},
    [None],
    [[]],
    ["a", "a"],
    {"x": None},
    {"": {}},
    {"$ref": 5},
    {"$ref": "#"},
    {"$ref": "#/none"},
    {"$ref": "../../etc/passwd"},
    {"$ref": "http://127.0.0.1:9/x"},
    {"type": "int"},
    {"pattern": "["},
    {"allOf": []},
    {"url": "file:///etc/passwd"},
    {"url": "//evil/"},
    "http://u:p@evil/",
    "/x/{",
    "}{",
    [1] * 3000,
)


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def wronged(document: Doc, rng: random.Random) -> tuple[Doc, tuple[Any, ...]]:
    """The document with one wrong value: another kind, nothing, a circle, something huge; and where."""
    made: Doc = json.loads(json.dumps(document))  # nothing is shared: one place is one place
    at = rng.choice(list(places(made)))
    node: Any = made
    for key in at[:-1]:
        node = node[key]
    way = rng.random()
    if way < 0.1:
        del node[at[-1]]
    elif way < 0.2:
        node[at[-1]] = node  # a circle
    elif way < 0.25:
        deep: Any = {}
        for _ in range(3000):
            deep = rng.choice([{"allOf": [deep]}, {"properties": {"a": deep}}, {"items": deep}])
        node[at[-1]] = deep
    else:
        node[at[-1]] = rng.choice(ODD)
    return made, at


def untouched(document: Doc, at: tuple[Any, ...]) -> set[tuple[str, str]]:
    """Operations that do not meet the place, not by a reference either: (path, method)."""
    where = "#/" + "/".join(str(k).replace("~", "~0").replace("/", "~1") for k in at)

    def meets(node: Any, seen: set[str]) -> bool:
        if isinstance(node, list):
            return any(meets(value, seen) for value in node)
        if not isinstance(node, dict):
            return False
        target = node.get("$ref")
        if isinstance(target, str) and target not in seen:
            seen.add(target)
            if f"{where}/".startswith(f"{target}/") or target.startswith(f"{where}/"):
                return True
            inner: Any = document
            for key in target[2:].split("/"):
                inner = inner.get(key.replace("~1", "/").replace("~0", "~"), {})  # one vendor's is relative
            if meets(inner, seen):
                return True
        return any(meets(value, seen) for value in node.values())

    if at[0] in ("openapi", "servers") or (at[0] in ("paths", "components") and len(at) == 1):
        return set()
    if at[:2] == ("components", "securitySchemes"):  # a credential that cannot be sent is the user's affair
        return set()
    found = set()
    for path, method in operations(document):
        item = document["paths"][path]
        own = at[:2] == ("paths", path) and (len(at) < 3 or at[2] not in METHODS or at[2] == method)
        if not own and not meets([item[method], item.get("parameters", [])], set()):
            found.add((path, method))
    return found


def tried(seed: int) -> str:
    """One wrong document: "" where all is well. An error of Sparring's is right only where nothing else was left."""
    rng = random.Random(seed)
    document, at = wronged(base := rng.choice(SMALL)(random.Random(seed)), rng)
    right = untouched(base, at)
    try:
        with openapi_tools(
            document, auth={"key": "canary"} if "key" in base["components"].get("securitySchemes", ()) else None
        ) as tools:
            orjson.dumps([t.spec.parameters for t in tools])
            for made in tools:
                made.validator.is_valid({})
            calls = {(told, m) for told, m in map(_called, tools)}
    except SparringError as error:
        return f"{at}: {type(error).__name__}: {error}" if right else ""
    except Exception as error:
        return f"{at}: untyped {type(error).__name__}: {error}"
    lost = right - calls
    return f"{at}: lost {sorted(lost)[:3]}: {[str(told) for told in tools.left_out][:3]}" if lost else ""


def _called(made: Tool) -> tuple[str, str]:
    """(path, method) of a tool."""
    cells: Any = made.fn.__closure__
    operation = next(c.cell_contents for c in cells if hasattr(c.cell_contents, "encodings"))
    return operation.path, operation.method


def small(rng: random.Random) -> Doc:
    """One of everything."""
    parameters = {"P": {"name": "p", "in": "header", "content": {"application/json": {"schema": {}}}}}
    schemas = {
        "S": {"allOf": [{"type": "object", "required": ["id"], "properties": {"z": ref("S"), "id": ref("Id")}}]},
        "Id": text(readOnly=True),
        "T": {
            "oneOf": [ref("S"), text(pattern="^a+$", enum=["a"], default="a")],
            "discriminator": {"propertyName": "z"},
        },
    }
    server = {
        "url": "http://127.0.0.1:{port}/{v}",
        "variables": {"v": {"default": "v1"}, "port": {"default": "9", "enum": ["9"]}},
    }
    form = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": text()},
            "f": text(format="binary"),
            "o": {"type": "object", "properties": {"b": text()}},
        },
    }
    paths: Doc = {
        "/a/{id}": {
            "parameters": [param("id", "path", schema={"type": "integer"})],
            "get": {
                "operationId": "g",
                "summary": "s",
                "parameters": [
                    {"$ref": "#/components/parameters/P"},
                    param("q", schema={"type": "array", "items": text(enum=["a"])}),
                ],
            },
            "post": {
                "operationId": "p",
                "requestBody": body(
                    {
                        "type": "object",
                        "required": ["x"],
                        "properties": {
                            "x": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "nullable": True},
                            "y": ref("S"),
                        },
                    }
                ),
            },
        },
        "/b": {
            "servers": [{"url": HERE}],
            "post": {
                "operationId": "f",
                "requestBody": body(form, "multipart/form-data", encoding={"a": {"style": "form", "explode": True}}),
            },
            "put": {"operationId": "t", "requestBody": body(ref("T"))},
        },
        "/c": {
            "get": {
                "parameters": [
                    param(
                        "deep",
                        style="deepObject",
                        schema={"type": "object", "additionalProperties": {"type": "integer"}},
                    )
                ],
                "security": [{}],
            },
            "patch": {
                "operationId": "u",
                "requestBody": body(
                    form, "application/x-www-form-urlencoded", encoding={"o": {"style": "deepObject", "explode": True}}
                ),
            },
        },
        "/d": {"delete": {"operationId": "d"}},
    }
    return api(
        paths,
        rng.choice(["3.0.3", "3.1.0"]),
        schemas,
        servers=[server],
        security=[{"key": []}],
        components={
            "parameters": parameters,
            "securitySchemes": {"key": {"type": "apiKey", "in": "query", "name": "key"}},
        },
    )


SMALL = (small, small, small, *(v for v in VENDORS if v not in (github,)))


def test_one_wrong_value_anywhere_costs_no_other_operation(caplog: pytest.LogCaptureFixture) -> None:
    """More of it: python -m pytest, with SPARRING_DOCUMENTS=1000."""
    caplog.set_level(logging.CRITICAL)
    wrong = [found for seed in range(int(os.environ.get("SPARRING_DOCUMENTS", "60"))) if (found := tried(seed))]
    assert wrong == []


# --------------------------------------------------------------------------------------------------- values on the wire


def tool_of(document: Doc, **options: Any) -> Tool:
    with openapi_tools(document, **options) as tools:
        return tools[0]


def sent(service: Service, document: Doc, arguments: Doc, **options: Any) -> Seen:
    """What the service gets for a call of the document's one tool."""
    with openapi_tools(moved(document, service.url), **options) as tools:
        result = Toolbox(tools, World()).execute(ToolCall(tools[0].name, arguments))[1]
    assert result.ok, result.content
    return service.last


def lists(**more: Any) -> Doc:
    return {"schema": {"type": "array", "items": {}}, **more}


def objects(**more: Any) -> Doc:
    return {"schema": {"type": "object"}, **more}


RGB: list[Any] = ["blue", "bl,ack", 7.0]
BOX: Doc = {"R": 100, "G": "a b"}


@pytest.mark.parametrize(
    ("place", "more", "value", "target"),
    [
        ("path", text(), "a/b c,d", "/x/a%2Fb%20c%2Cd/y"),
        ("path", lists(), RGB, "/x/blue,bl%2Cack,7.0/y"),
        ("path", objects(explode=True), BOX, "/x/R=100,G=a%20b/y"),
        ("path", lists(style="label"), RGB[:2], "/x/.blue,bl%2Cack/y"),
        ("path", lists(style="label", explode=True), RGB[:2], "/x/.blue.bl%2Cack/y"),
        ("path", lists(style="matrix"), RGB[:2], "/x/;p=blue,bl%2Cack/y"),
        ("path", lists(style="matrix", explode=True), RGB[:2], "/x/;p=blue;p=bl%2Cack/y"),
        ("path", objects(style="matrix", explode=True), BOX, "/x/;R=100;G=a%20b/y"),
        ("query", lists(), RGB[:2], "/x?p=blue&p=bl%2Cack"),
        ("query", lists(explode=False), RGB[:2], "/x?p=blue,bl%2Cack"),
        ("query", lists(style="spaceDelimited"), RGB[:2], "/x?p=blue%20bl%2Cack"),
        ("query", lists(style="pipeDelimited"), RGB[:2], "/x?p=blue%7Cbl%2Cack"),
        ("query", lists(style="pipeDelimited", explode=True), RGB[:2], "/x?p=blue&p=bl%2Cack"),
        ("query", objects(), BOX, "/x?R=100&G=a%20b"),
        ("query", objects(explode=False), BOX, "/x?p=R,100,G,a%20b"),
        (
            "query",
            objects(style="deepObject"),
            {"a": {"b": [1, {"c": True}]}},
            "/x?p%5Ba%5D%5Bb%5D%5B0%5D=1&p%5Ba%5D%5Bb%5D%5B1%5D%5Bc%5D=true",
        ),
        ("query", lists(style="deepObject"), ["a", "b"], "/x?p%5B0%5D=a&p%5B1%5D=b"),
        ("query", {"allowReserved": True}, "a/b:c&d=e#f", "/x?p=a/b:c%26d=e%23f"),
        ("query", {"schema": {"type": "integer"}}, 7.0, "/x?p=7"),
        ("query", {"schema": {"type": "integer"}}, 1e25, "/x?p=10000000000000000000000000"),
        ("query", {"schema": {"type": "number"}}, 7.0, "/x?p=7.0"),
        ("query", {"schema": {"type": "boolean"}}, False, "/x?p=false"),
        ("query", {}, "é&ü", "/x?p=%C3%A9%26%C3%BC"),
        ("query", {}, "", "/x?p="),
        (
            "query",
            {"schema": {"type": "array", "items": {"type": "integer"}}, "explode": False},
            [1.0, 2.0],
            "/x?p=1,2",
        ),
    ],
)
def test_parameters_are_written_as_their_style_says(
    service: Service, place: str, more: Doc, value: Any, target: str
) -> None:
    path = "/x/{p}/y" if place == "path" else "/x"
    more = more if "type" not in more else {"schema": more}
    assert (
        sent(service, api({path: {"get": {"parameters": [param("p", place, **more)]}}}), {"p": value}).target == target
    )


def form(schema: Doc, media: str = "application/x-www-form-urlencoded", **encoding: Any) -> Doc:
    more = {"encoding": encoding} if encoding else {}
    return api({"/f": {"post": {"requestBody": body({"type": "object", "properties": schema}, media, **more)}}})


def test_forms_as_stripe_wants_them(service: Service) -> None:
    deep: Doc = {"style": "deepObject", "explode": True}
    names = ("metadata", "items", "expand")
    encodings: Doc = dict.fromkeys(names, deep)
    document = form({"amount": {"type": "integer"}, **{n: {} for n in names}}, **encodings)
    arguments = {
        "amount": 5.0,
        "metadata": {"a&b": "1 +2"},
        "items": [{"price": "p", "n": 2}, {"price": "q"}],
        "expand": ["x"],
    }
    got = sent(service, document, arguments)
    assert got.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(got.body.decode()) == [
        ("amount", "5"),
        ("metadata[a&b]", "1 +2"),
        ("items[0][price]", "p"),
        ("items[0][n]", "2"),
        ("items[1][price]", "q"),
        ("expand[0]", "x"),
    ]


@pytest.mark.parametrize(
    ("encoding", "value", "pairs"),
    [
        ({}, ["a", "b"], [("v", "a"), ("v", "b")]),
        ({}, {"a": 1}, [("v", '{"a":1}')]),
        ({"v": {"style": "form", "explode": False}}, ["a", "b"], [("v", "a,b")]),
        ({"v": {"style": "spaceDelimited", "explode": False}}, ["a", "b"], [("v", "a b")]),
        ({"v": {"contentType": "application/json"}}, ["a"], [("v", '["a"]')]),
        ({"v": {"explode": True}}, {"a": 1}, [("a", "1")]),
    ],
)
def test_forms_by_their_encoding(service: Service, encoding: Doc, value: Any, pairs: list[tuple[str, str]]) -> None:
    assert parse_qsl(sent(service, form({"v": {}}, **encoding), {"v": value}).body.decode()) == pairs


def test_files_and_values_in_parts(service: Service) -> None:
    document = form(
        {
            "file": text(format="binary"),
            "meta": {"type": "object"},
            "n": {"type": "integer"},
            "tags": {"type": "array", "items": text()},
        },
        "multipart/form-data",
        file={"contentType": "text/csv"},
    )
    got = sent(service, document, {"file": 'a,b\r\n1,"é"', "meta": {"k": [1]}, "n": 7.0, "tags": ["x", "y"]})
    message = email.message_from_bytes(
        b"content-type: " + got.headers["content-type"].encode() + b"\r\n\r\n" + got.body
    )
    parts = [
        (
            p.get_param("name", header="content-disposition"),
            p.get_filename(),
            p.get_content_type(),
            p.get_payload(decode=True),
        )
        for p in message.walk()
        if not p.is_multipart()
    ]
    assert parts == [
        ("file", "file", "text/csv", 'a,b\r\n1,"é"'.encode()),
        ("meta", None, "application/json", b'{"k":[1]}'),
        ("n", None, "text/plain", b"7"),
        ("tags", None, "text/plain", b"x"),
        ("tags", None, "text/plain", b"y"),
    ]


def test_a_content_type_that_the_schema_fits_is_chosen(service: Service) -> None:
    content = {
        m: {"schema": {"type": "object"}} for m in ("application/json-patch+json", "application/merge-patch+json")
    }
    document = api({"/x": {"patch": {"requestBody": {"required": True, "content": content}}}})
    got = sent(service, document, {"body": {"a": 2**53}})
    assert (got.headers["content-type"], got.body) == ("application/merge-patch+json", b'{"a":9007199254740992}')


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (b'{"id":123456789012345678901234567890}', '{"id":123456789012345678901234567890}'),
        (b"[18446744073709551616,-9223372036854775809]", "[18446744073709551616,-9223372036854775809]"),
        (b'{"price":12345678901234567890.12}', '{"price":"12345678901234567890.12"}'),
        (b'{"x":0.10000000000000000555,"y":1e400}', '{"x":0.1,"y":"1E+400"}'),
        (b'{"x":NaN,"y":[Infinity,-Infinity,null]}', '{"x":"NaN","y":["Infinity","-Infinity",null]}'),
        (b"12345678901234567890123", "12345678901234567890123"),
        (b'{"n":1.0,"m":7}', '{"n":1.0,"m":7}'),
    ],
)
def test_answers_keep_their_digits(service: Service, reply: bytes, shown: str) -> None:
    service.reply = reply
    with openapi_tools(api({"/x": {"get": {}}}), base_url=service.url, headers={"X-Key": "sec-ret"}) as tools:
        result = Toolbox(tools, World()).execute(ToolCall("get_x", {}))[1]
    assert result.content == shown
    orjson.dumps(result.value)


# -------------------------------------------------------------------------------------------------------------- servers


def test_servers_of_every_level_get_what_is_theirs(service: Service) -> None:
    with serving() as other:
        document = api(
            {
                "/a": {"get": {}, "post": {"servers": [{"url": other.url + "/up/"}]}},
                "/b": {"servers": [{"url": other.url + "/{v}", "variables": {"v": {"default": "img"}}}], "get": {}},
                "/c": {"get": {"servers": [{"url": "/v2"}]}},
                "/d": {"get": {"servers": [{"url": "ftp://x"}]}},
                "/e": {"get": {"servers": [{"url": "wss://x"}, {"url": other.url}]}},
                "/f": {"get": {"servers": []}},
            },
            servers=[{"url": service.url + "/v1"}],
        )
        with openapi_tools(document) as tools:
            box_ = Toolbox(tools, World())
            assert all(box_.execute(ToolCall(t.name, {}))[1].ok for t in tools)
            assert [told.what for told in tools.left_out] == ["operation 'get_d'"]
        assert [seen.target for seen in service.seen] == ["/v1/a", "/v2/c", "/v1/f"]
        assert [seen.target for seen in other.seen] == ["/up/a", "/img/b", "/e"]


def test_an_address_of_the_users_own_is_for_the_documents_own_server_alone(service: Service) -> None:
    """What is served elsewhere is not called with credentials for a test server, and not sent there either."""
    with serving() as other:
        document = api(
            {
                "/a": {"get": {}},
                "/b": {"get": {"servers": [{"url": other.url}]}},
                "/c": {"get": {"servers": [{"url": "/v2"}]}},
            },
            servers=[{"url": "https://api.example.org/v1"}],
            security=[{"k": []}],
            components={"securitySchemes": {"k": {"type": "http", "scheme": "bearer"}}},
        )
        with openapi_tools(document, base_url=service.url, auth={"k": "canary"}) as tools:
            assert [t.name for t in tools] == ["get_a", "get_c"]
            assert "give base_url=" in tools.left_out[0].why
        both = {"https://api.example.org/v1": service.url, other.url: service.url + "/other"}
        with openapi_tools(document, base_url=both, auth={"k": "canary"}) as tools:
            box_ = Toolbox(tools, World())
            for name in ("get_a", "get_b"):
                assert box_.execute(ToolCall(name, {}))[1].ok
        assert [(seen.target, seen.headers["authorization"]) for seen in service.seen] == [
            ("/a", "Bearer canary"),
            ("/other/b", "Bearer canary"),
        ]
        assert other.seen == []
        with (
            pytest.raises(ConfigError, match="no server 'http://x'"),
            openapi_tools(document, base_url={"http://x": HERE}),
        ):
            pass


def test_variables_of_servers(service: Service) -> None:
    port = service.url.rsplit(":", 1)[1]
    region = {"default": "eu", "enum": ["eu", "us"]}
    server = {"url": "http://127.0.0.1:{port}/{region}", "variables": {"port": {"default": port}, "region": region}}
    document = api({"/a": {"get": {}}}, servers=[server])
    for variables, target in (({}, "/eu/a"), ({"region": "us"}, "/us/a")):
        with openapi_tools(document, variables=variables) as tools:
            assert Toolbox(tools, World()).execute(ToolCall("get_a", {}))[1].ok
        assert service.last.target == target
    for wrong, error in (({"region": "mars"}, "one of eu, us"), ({"zone": "x"}, "no server variable 'zone'")):
        with pytest.raises(ConfigError, match=error), openapi_tools(document, variables=wrong):
            pass
    for servers, error in (
        ([{"url": "/api/v3"}], "relative"),
        ([{"url": "https://{x}"}], "'x' has no default"),
        ([], "names no server"),
        ("text", "a text where a list should be"),
        ([{"url": "https://ada:pw@x"}], "credentials"),
    ):
        with pytest.raises(ConfigError, match=error), openapi_tools({**document, "servers": servers}):
            pass


# --------------------------------------------------------------------------------------------- what a document may hold


def test_what_the_service_sets_is_asked_of_nobody(service: Service) -> None:
    """By reference, across `allOf`, in alternatives, in lists, and where the same base is written elsewhere."""
    schemas = {
        "Id": text(readOnly=True),
        "Base": {"type": "object", "required": ["id"], "properties": {"id": text()}},
        "Derived": {"allOf": [ref("Base"), {"properties": {"id": ref("Id"), "name": text()}, "required": ["name"]}]},
        "Either": {
            "type": "object",
            "required": ["id", "name"],
            "properties": {"name": text()},
            "oneOf": [{"properties": {"id": ref("Id")}}, {"required": ["x"], "properties": {"x": text()}}],
        },
        "Loop": {"allOf": [ref("Loop"), {"properties": {"id": ref("Id")}, "required": ["id"]}]},
    }
    rows: list[tuple[str, Any, bool]] = [
        ("Derived", {"name": "n"}, True),
        ("Derived", {}, False),
        ("Base", {}, False),
        ("Base", {"id": "x"}, True),
        ("Either", {"name": "n"}, True),
        ("Loop", {}, True),
    ]
    for name, value, good in rows:
        wrapped = {"type": "object", "properties": {"v": ref(name), "many": {"type": "array", "items": ref(name)}}}
        made = tool_of(api({"/x": {"post": {"requestBody": body(wrapped)}}}, schemas=schemas))
        assert made.validator.is_valid({"v": value}) is good, (name, value)
        assert made.validator.is_valid({"many": [value]}) is good, (name, value)


def test_yaml_is_read_as_json_is(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"""
openapi: 3.1.0
servers: [{{url: "{HERE}"}}]
x-common: &common {{type: string, description: d}}
paths:
  /on:
    get:
      operationId: on
      parameters:
        - name: n
          in: query
          schema: {{enum: [NO, off, y, 12:30, 2022-11-28, 1_000, 0o17, 0x1F, 017, ~, true, 1e3, .5]}}
        - {{name: yes, in: query, schema: {{<<: *common, default: 2022-11-28T10:00:00Z}}}}
        - {{name: 5, in: query, schema: {{type: string, enum: [1.0, 2, no]}}}}
      responses: {{200: {{description: ok}}}}
"""
    )
    shown = tool_of(tmp_path / "a.yaml").spec.parameters["properties"]  # type: ignore[arg-type]  # a file
    assert shown["n"]["enum"] == [
        "NO",
        "off",
        "y",
        "12:30",
        "2022-11-28",
        "1_000",
        15,
        31,
        17,
        None,
        True,
        1000.0,
        0.5,
    ]
    assert shown["yes"] == {"type": "string", "description": "d", "default": "2022-11-28T10:00:00Z"}
    assert shown["5"]["enum"] == ["1.0", "2", "no"]
    for name, wrong in (
        ("tabs.yaml", "a:\n\t- b"),
        ("tag.yaml", "a: !Ref x"),
        ("two.yaml", "a: 1\n---\nb: 2"),
        ("bytes.yaml", b"a: \xff"),
        ("list.yaml", "? [a]\n: b"),
    ):
        (tmp_path / name).write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        with pytest.raises(ConfigError, match="is no YAML"), openapi_tools(tmp_path / name):
            pass
    (tmp_path / "twice.yaml").write_text((tmp_path / "a.yaml").read_text() + "  /off: {get: {}}\n  /off: {put: {}}\n")
    with openapi_tools(tmp_path / "twice.yaml") as tools:
        assert [told.what for told in tools.left_out] == ["the first '/off' of an object"]


def test_references_to_files_stay_in_the_documents_folder(tmp_path: Path) -> None:
    folder = tmp_path / "api"
    (folder / "parts").mkdir(parents=True)
    (tmp_path / "secret.json").write_text('{"S": {"type": "string"}}')
    (folder / "parts" / "paths.yaml").write_text(
        "item:\n  get: {operationId: read, parameters: [{name: q, in: query, schema: {$ref: 'schemas.json#/S'}}]}\n"
        "  post: {operationId: add, requestBody: {content: "
        "{application/json: {schema: {$ref: '../main.yaml#/components/schemas/T'}}}}}\n"
    )
    (folder / "parts" / "schemas.json").write_text('{"S": {"type": "integer", "maximum": 9}}')
    (folder / "main.yaml").write_text(
        f"openapi: 3.0.3\nservers: [{{url: '{HERE}'}}]\npaths:\n  /a: {{$ref: 'parts/paths.yaml#/item'}}\n"
        "  /b: {$ref: '../secret.json#/S'}\n  /c: {$ref: 'http://127.0.0.1:9/x.json'}\n  /d: {$ref: 'gone.yaml'}\n"
        "components: {schemas: {T: {type: object, properties: {t: {$ref: 'parts/schemas.json#/S'}}}}}\n"
    )
    with openapi_tools(folder / "main.yaml") as tools:
        assert [t.name for t in tools] == ["read", "add"]
        assert not tools[0].validator.is_valid({"q": 10})
        assert not tools[1].validator.is_valid({"t": 10})
        assert [told.what for told in tools.left_out] == ["path '/b'", "path '/c'", "path '/d'"]
        assert "out of its folder" in tools.left_out[0].why


@pytest.mark.parametrize(
    ("version", "schema", "good", "bad"),
    [
        ("3.1.0", {"type": "number", "minimum": 0, "exclusiveMinimum": True}, [1], [0]),
        ("3.0.3", {"type": "number", "maximum": 9, "exclusiveMaximum": False}, [9], [10]),
        ("3.1.0", {"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, [[1]], [["x"], [1, 2]]),
        ("3.1.0", {"type": "object", "dependencies": {"a": ["b"]}}, [{"b": 1}], [{"a": 1}]),
        ("3.1.0", {"anyOf": [{"type": "string"}, {"type": None}]}, ["x", None], [5]),
        ("3.1.0", {"type": "string", "nullable": True}, ["x", None], [5]),
        ("3.0.3", {"type": "string", "enum": ["a"], "nullable": True, "default": None}, ["a", None], ["b"]),
        ("3.0.3", {"type": "string", "enum": [1, True, "x"]}, ["1", "true", "x"], [1]),
        ("3.0.3", {"type": "integer", "enum": ["1", "2"]}, [1, 2], ["1", 3]),
        ("3.1.0", {"type": "string", "pattern": "^.{2,262144}$"}, ["ab"], ["a"]),
        ("3.1.0", {"type": "string", "pattern": r"^\p{Lu}+$"}, ["ÄB"], ["ab"]),
        ("3.1.0", {"type": "string", "pattern": r"\A(?<!x)[A-Z]++\Z(", "maxLength": 2}, ["ab"], ["abc"]),
        ("3.1.0", {"type": "integer", "maximum": 18446744073709551616}, [1], ["x"]),
        ("3.1.0", {"type": "int", "minimum": "0", "maximum": 5}, [1, "x"], [6]),
        ("3.1.0", {"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a"}, [1], ["x"]),
        (
            "3.1.0",
            {
                "type": "array",
                "items": {
                    "$anchor": "node",
                    "anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#node"}}],
                },
            },
            [[1, [2, [3]]]],
            [["x"], [[["x"]]]],
        ),
    ],
)
def test_schemas_of_every_draft(version: str, schema: Doc, good: list[Any], bad: list[Any]) -> None:
    made = tool_of(
        api({"/x": {"post": {"requestBody": body({"type": "object", "properties": {"v": schema}})}}}, version)
    )
    assert [value for value in good if not made.validator.is_valid({"v": value})] == []
    assert [value for value in bad if made.validator.is_valid({"v": value})] == []
    shown = made.spec.parameters["properties"]["v"]
    assert "default" not in shown or made.validator.is_valid({"v": shown["default"]})


def test_names_are_apart_and_stay_so() -> None:
    """Numbered by path, in any order of the document; what an author wrote keeps its name."""
    ids = {
        "/b": "users.list",
        "/a": "users/list",
        "/c": "users_list",
        "/d": "users_list_2",
        "/e": "größe",
        "/f": "取得",
        "/g": "x" * 80,
    }
    paths: Doc = {path: {"get": {"operationId": given}} for path, given in ids.items()}
    for order in (list(paths), list(reversed(paths))):
        with openapi_tools(api({path: paths[path] for path in order}), prefix="my-") as tools:
            names = dict(zip(order, [t.name for t in tools], strict=True))
            assert tools.left_out == ()
        assert names == {
            "/a": "my-users_list_3",
            "/b": "my-users_list_4",
            "/c": "my-users_list",
            "/d": "my-users_list_2",
            "/e": "my-gro_e",
            "/f": "my-get_f",
            "/g": "my-" + "x" * 61,
        }
    with openapi_tools(api(paths), only=["users/list", "get_f"]) as tools:
        assert [t.name for t in tools] == ["users_list_3", "get_f"]
    for prefix in ("p" * 41, "é", "a b"):
        with pytest.raises(ConfigError, match="a prefix is at most 40"), openapi_tools(api(paths), prefix=prefix):
            pass


def test_arguments_of_one_name_are_apart(service: Service) -> None:
    properties = {
        "名": text(),
        "前": text(),
        "a.b": text(),
        "a_b": text(),
        "n" * 70 + "1": text(),
        "n" * 70 + "2": text(),
    }
    document = api({"/x": {"post": {"requestBody": body({"type": "object", "properties": properties})}}})
    made = tool_of(document)
    names = list(made.spec.parameters["properties"])
    assert len(names) == 6
    assert all(n.isascii() and len(n) <= 64 for n in names)
    got = sent(service, document, {name: str(index) for index, name in enumerate(names)})
    assert json.loads(got.body) == {name: str(index) for index, name in enumerate(properties)}


def test_parts_are_left_out_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    """One entry and one line in the log for each; a shared part counts once."""
    bad = {"type": "string", "pattern": "[", "minLength": -1}
    document = api(
        {
            "/a": {
                "get": {"parameters": [param("q", schema=ref("Bad")), param("r", "querry"), param("s", style="odd")]}
            },
            "/b": {
                "get": {"parameters": [param("q", schema=ref("Bad")), param("gone", "path")]},
                "gett": {},
                "trace": {},
            },
            "/c/{id}": {"get": {}},
            "/d": {"get": {"parameters": [{"$ref": "#/components/parameters/none"}]}},
            "/e": {"post": {"requestBody": body({"type": "object"}, "application/xml")}},
            "f": {"get": {}},
            "/g": {"get": {"security": "text"}},
            "/h": {"get": {"summary": ["x"], "parameters": None, "deprecated": "no"}},
            "/i": 5,
        },
        schemas={"Bad": bad},
    )
    with openapi_tools(document) as tools:
        assert [t.name for t in tools] == ["get_a", "get_b", "get_g", "get_h"]
        assert list(tools[0].spec.parameters["properties"]) == ["q"]
        told = [left.what for left in tools.left_out]
    assert sorted(told) == sorted(
        [
            "'gett' of path '/b'",
            "'trace' of path '/b'",
            "path '/i'",
            "keyword 'minLength'",
            "keyword 'pattern'",
            "parameter 'r' of operation 'get_a'",
            "parameter 's' of operation 'get_a'",
            "parameter 'gone' of operation 'get_b'",
            "operation 'get_c_by_id'",
            "operation 'get_d'",
            "operation 'post_e'",
            "operation 'get_f'",
            "security of operation 'get_g'",
            "summary of operation 'get_h'",
        ]
    )
    lines = [record.message for record in caplog.records if "is left out" in record.message]
    assert lines == [str(left) for left in tools.left_out]


def test_values_that_nothing_can_write_are_told_in_one_line() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    huge = 10**6000
    for odd in (deep, huge):
        for key in ("openapi", "jsonSchemaDialect", "servers", "security", "paths", "components"):
            refused = ""
            try:
                with openapi_tools({**api({"/x": {"get": {}}}), key: odd}, base_url=HERE) as tools:
                    assert [made.name for made in tools] == ["get_x"]
            except SparringError as error:
                refused = str(error)
            assert bool(refused) is (key in ("openapi", "paths"))
            assert len(refused) < 1000
        broken = {
            "minimum": odd,
            "type": odd,
            "enum": odd,
            "default": odd,
            "required": odd,
            "properties": odd,
            "pattern": odd,
        }
        with openapi_tools(api({"/x": {"get": {"summary": odd, "parameters": [param("q", schema=broken)]}}})) as tools:
            assert tools[0].spec.parameters["properties"]["q"] == {}


def test_a_credential_that_may_be_left_away_is_sent() -> None:
    with serving() as service:
        document = api(
            {"/x": {"get": {"security": [{}, {"k": []}]}}},
            servers=[{"url": service.url}],
            components={"securitySchemes": {"k": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
        )
        with openapi_tools(document, auth={"k": "s3cret"}) as tools:
            assert Toolbox(tools, World()).execute(ToolCall("get_x", {}))[1].ok
        assert service.last.headers["x-key"] == "s3cret"
        for scheme in (
            {"type": "apiKey", "in": "path", "name": "x"},
            {"type": "apiKey", "in": "header"},
            {"type": 5},
            "text",
        ):
            document["components"]["securitySchemes"]["k"] = scheme
            with pytest.raises(ConfigError, match="'k'"), openapi_tools(document, auth={"k": "s3cret"}):
                pass


def test_no_value_changes_where_a_request_goes(service: Service) -> None:
    """A value never fills another's place in the path, and a path never continues the host's name."""
    document = api({"/x/{a}/{b}": {"get": {"parameters": [param("a", "path"), param("b", "path")]}}})
    assert sent(service, document, {"a": "{b}", "b": "//evil"}).target == "/x/%7Bb%7D/%2F%2Fevil"
    with pytest.raises(EnvError, match="does not begin with a slash"), openapi_tools(api({".evil.org/x": {"get": {}}})):
        pass
    several = api({"/#Action=A": {"get": {"parameters": [param("q")]}}, "/?v=1": {"get": {"parameters": [param("q")]}}})
    with openapi_tools(moved(several, service.url)) as tools:
        assert all(Toolbox(tools, World()).execute(ToolCall(made.name, {"q": "x"}))[1].ok for made in tools)
    assert [seen.target for seen in service.seen[-2:]] == ["/?q=x", "/?v=1&q=x"]


# ---------------------------------------------------------------------------------------------------------- Swagger 2.0


def swagger(rng: random.Random) -> Doc:
    """One of everything, as Swagger 2.0 writes it."""
    words = {"type": "array", "items": text()}
    return {
        "swagger": "2.0",
        "host": "127.0.0.1:9",
        "basePath": "/v2/",
        "schemes": ["http"],
        "consumes": ["application/json", "application/xml"],
        "securityDefinitions": {
            "key": {"type": "apiKey", "name": "api_key", "in": "header"},
            "user": {"type": "basic"},
        },
        "security": [{"key": []}],
        "parameters": {
            "Limit": {"name": "limit", "in": "query", "type": "integer", "maximum": 100},
            "Pet": {"name": "pet", "in": "body", "required": True, "schema": {"$ref": "#/definitions/Pet"}},
        },
        "definitions": {
            "Id": {"type": "integer", "readOnly": True},
            "Pet": {
                "type": "object",
                "required": ["id", "name"],
                "properties": {
                    "id": {"$ref": "#/definitions/Id"},
                    "name": text(),
                    "nick": {**text(), "x-nullable": True},
                },
            },
        },
        "paths": {
            "/pet": {
                "post": {"operationId": "add", "parameters": [{"$ref": "#/parameters/Pet"}]},
                "get": {
                    "operationId": "find",
                    "parameters": [
                        {"$ref": "#/parameters/Limit"},
                        {"name": "status", "in": "query", "required": True, "collectionFormat": "multi", **words},
                        {"name": "ids", "in": "query", "type": "array", "items": {"type": "integer"}},
                        {"name": "kinds", "in": "query", "collectionFormat": "pipes", **words},
                        {"name": "tabs", "in": "query", "collectionFormat": "tsv", **words},
                    ],
                },
            },
            "/pet/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": True, "type": "integer"}],
                "post": {
                    "operationId": "change",
                    "security": [{"user": []}],
                    "parameters": [
                        {"name": "name", "in": "formData", "type": "string", "required": True, "description": "Whole."},
                        {"name": "many", "in": "formData", "collectionFormat": "multi", **words},
                        {"name": "few", "in": "formData", **words},
                    ],
                },
                "put": {
                    "operationId": "upload",
                    "parameters": [{"name": "photo", "in": "formData", "type": "file", "required": True}],
                },
            },
            "/xml": {"post": {"operationId": "xml", "consumes": ["image/png", "application/xml"],
                              "parameters": [{"name": "b", "in": "body", "required": True, "schema": {}}]}},
            "/both": {"post": {"operationId": "both", "parameters": [
                {"name": "b", "in": "body", "schema": {}}, {"name": "f", "in": "formData", "type": "string"}]}},
        },
    }  # fmt: skip


def test_swagger_2_is_read_as_it_is_meant(service: Service) -> None:
    document = {**swagger(random.Random(0)), "host": service.url.removeprefix("http://")}
    with openapi_tools(document, auth={"key": "k", "user": "u:p"}) as tools:
        box = Toolbox(tools, World())

        def seen(tool: str, /, **arguments: Any) -> Seen:
            result = box.execute(ToolCall(tool, arguments))[1]
            assert result.ok, result.content
            return service.last

        assert sorted(tool.name for tool in tools) == ["add", "change", "find", "upload"]
        assert [(left.what, left.where.split("/")[2]) for left in tools.left_out] == [
            ("parameter 'tabs' of operation 'find'", "~1pet"),
            ("operation 'xml'", "~1xml"),
            ("operation 'both'", "~1both"),
        ]
        made = seen("add", name="Ada", nick=None)
        assert (made.target, made.body) == ("/v2/pet", b'{"name":"Ada","nick":null}')
        assert (made.headers["api_key"], made.headers["content-type"]) == ("k", "application/json")
        found = seen("find", limit=5.0, status=["a", "b"], ids=[1.0, 2], kinds=["x", "y"]).target.removeprefix(
            "/v2/pet?"
        )
        assert sorted(found.split("&")) == ["ids=1,2", "kinds=x%7Cy", "limit=5", "status=a", "status=b"]
        changed = seen("change", id=3.0, name="Ada L", many=["1", "2"], few=["a,b", "c"])
        assert (changed.target, changed.body) == ("/v2/pet/3", b"name=Ada+L&many=1&many=2&few=a%2Cb,c")
        assert changed.headers["authorization"] == "Basic dTpw"
        assert "api_key" not in changed.headers
        sent = seen("upload", id=3, photo="bytes")
        assert sent.headers["content-type"].startswith("multipart/form-data")
        assert b'filename="photo"' in sent.body
        assert box.execute(ToolCall("find", {"status": ["a"], "limit": 101}))[1].outcome == "invalid_arguments"
    with openapi_tools({**document, "host": None}, base_url=service.url + "/z", only=["add"]) as tools:
        assert Toolbox(tools, World()).execute(ToolCall("add", {"name": "x"}))[1].ok
        assert service.last.target == "/z/pet"


def test_one_wrong_value_in_a_swagger_document_raises_nothing_untyped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for seed in range(150):
        document, at = wronged(swagger(random.Random(seed)), random.Random(seed))
        try:
            with openapi_tools(document) as tools:
                orjson.dumps([t.spec.parameters for t in tools])
                # What a wrong value does not touch is there.
                names = {_called(t)[0] for t in tools}
        except SparringError:
            continue
        path = next((p for p in document.get("paths") or () if p == "/pet"), None)
        if at[:2] != ("paths", "/pet") and at[0] in ("info", "security", "paths") and path is not None:
            assert "/pet" in names, at


# ------------------------------------------------------------------------------------------------- answers and nothing


@pytest.mark.parametrize(
    ("kind", "reply", "shown"),
    [
        ("text/plain; charset=iso-8859-1", "café".encode("latin-1"), "café"),
        ("application/json; charset=iso-8859-1", '{"a":"é"}'.encode("latin-1"), '{"a":"é"}'),
        ("application/json; charset=utf-16", '{"a":"é"}'.encode("utf-16"), '{"a":"é"}'),
        ("text/plain; charset=no-such", b"plain", "plain"),
        ("application/json", b'{"cut":"\\ud83d","\\ude00":"\\ud83d\\ude00"}', '{"cut":"?","?":"😀"}'),
    ],
)
def test_an_answer_is_read_in_its_own_encoding(service: Service, kind: str, reply: bytes, shown: str) -> None:
    service.reply, service.kind = reply, kind
    with openapi_tools(api({"/x": {"get": {}}}), base_url=service.url) as tools:
        assert Toolbox(tools, World()).execute(ToolCall("get_x", {}))[1].content == shown


def test_null_for_what_may_be_left_out_sends_nothing(service: Service) -> None:
    listed = [
        param(n, place, schema=text(nullable=True)) for n, place in (("q", "query"), ("X-H", "header"), ("c", "cookie"))
    ]
    seen = sent(service, api({"/x": {"get": {"parameters": listed}}}), {"q": None, "X-H": None, "c": None})
    assert seen.target == "/x"
    assert not {"x-h", "cookie"} & seen.headers.keys()


def test_a_body_that_a_property_tells_apart_may_fit_several(service: Service) -> None:
    cat = {"type": "object", "required": ["t"], "properties": {"t": text(), "n": {"type": "integer"}}}
    either = {"oneOf": [ref("Cat"), ref("Dog")], "discriminator": {"propertyName": "t"}}
    document = api(
        {"/x": {"post": {"requestBody": body(either)}}},
        schemas={"Cat": cat, "Dog": {**cat, "properties": {"t": text()}}},
    )
    assert sent(service, document, {"body": {"t": "Cat", "n": 7.0}}).body == b'{"t":"Cat","n":7}'
