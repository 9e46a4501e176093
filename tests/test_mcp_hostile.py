"""Answers that no MCP server should give, over stdio, HTTP and server-sent events: real servers, real bytes."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mcp")

from no_world import World

from sparring.tools import Tool, Toolbox
from sparring.tools.mcp import mcp_tools
from sparring.tools.mcp.wire import UNREADABLE, Inbox
from sparring.trajectories import EnvError, InfrastructureError, Outcome, ToolCall, ToolResult

SERVER = r"""
import json, os, sys, threading, time

plan = json.load(open(sys.argv[1]))
lock = threading.Lock()

def raw(text, id=0):
    with lock:
        sys.stdout.buffer.write(text.encode("latin-1").replace(b"%ID", json.dumps(id).encode()))
        sys.stdout.buffer.flush()

def say(**message):
    raw(json.dumps({"jsonrpc": "2.0", **message}) + "\n")

def play(name, id):
    for part in plan["calls"].get(name, []):
        if isinstance(part, str):
            raw(part, id)
        elif part >= 0:
            time.sleep(part)
        else:
            os._exit(3)

raw(plan["banner"])
for line in sys.stdin.buffer:
    got = json.loads(line)
    id, method = got.get("id"), got.get("method")
    if method is None:
        say(id=plan["held"], result={"content": [{"type": "text", "text": json.dumps(got.get("error"))}]})
    elif id is None:
        raw(plan["told"])
        time.sleep(0.1 if plan["told"] else 0)
    elif method == "initialize":
        told = {"protocolVersion": got["params"]["protocolVersion"], "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "s", "version": "1"}}
        say(id=id, result=told)
    elif method == "tools/list":
        raw(plan["list"], id)
    elif method == "tools/call":
        plan["held"] = id
        threading.Thread(target=play, args=(got["params"]["name"], id)).start()
    else:
        say(id=id, error={"code": -32601, "message": "no such method"})
"""


def plan_of(calls: dict[str, list[str | float]], listed: str = "", **more: str) -> dict[str, Any]:
    """What a server does: for each of its tools what it writes to a call, and for how many seconds it waits between; -1
    ends it. `%ID` is the request's. Tools whose names begin with "look" change nothing."""
    calls = {**calls, "fine": [content({"type": "text", "text": "fine"})]}
    hints = [{"name": n, "inputSchema": OBJECT, "annotations": {"readOnlyHint": n.startswith("look")}} for n in calls]
    return {"calls": calls, "list": listed or result({"tools": hints}), "banner": "", "told": "", **more}


OBJECT = {"type": "object"}


@contextmanager
def stdio(folder: Path, plan: dict[str, Any], **options: Any) -> Iterator[tuple[Tool, ...]]:
    (folder / "server.py").write_text(SERVER, "utf-8")
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    command = [sys.executable, str(folder / "server.py"), str(folder / "plan.json")]
    with mcp_tools(command, **{"timeout": 5, "start_timeout": 10, **options}) as tools:
        yield tools


class Handler(BaseHTTPRequestHandler):
    """The same server over HTTP: each answer as a body, or as an event of a stream."""

    protocol_version = "HTTP/1.1"
    plan: ClassVar[dict[str, Any]] = {}
    events = False

    def do_POST(self) -> None:
        got = json.loads(self.rfile.read(int(self.headers["content-length"])))
        id, method = got.get("id"), got.get("method")
        if id is None:
            self.reply(b"", 202)
            return
        if method == "initialize":
            server = {"name": "s", "version": "1"}
            version = got["params"]["protocolVersion"]
            said = result({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server})
        elif method == "tools/list":
            said = self.plan["list"]
        elif method == "tools/call":
            said = "".join(map(str, self.plan["calls"][got["params"]["name"]]))
        else:
            said = error({"code": -32601, "message": "no such method"})
        body = said.encode("latin-1").replace(b"%ID", json.dumps(id).encode())
        if body.startswith((b"id:", b"data:")):
            self.reply(body, kind="text/event-stream")
        elif self.events:
            lines = b"".join(b"data: " + line + b"\r\n" for line in body.strip(b"\n").split(b"\n"))
            self.reply(b": hello\r\n\r\nevent: message\r\n" + lines + b"\r\n", kind="text/event-stream")
        else:
            self.reply(body.strip(b"\n"))

    def do_GET(self) -> None:
        held = self.plan.get("held", "")
        resumes = held and "last-event-id" in self.headers
        self.reply(held.encode("latin-1") if resumes else b"", 200 if resumes else 405, "text/event-stream")

    do_DELETE = do_GET

    def reply(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def http(plan: dict[str, Any], *, events: bool = False, **options: Any) -> Iterator[tuple[Tool, ...]]:
    handler = type("Handler", (Handler,), {"plan": plan, "events": events})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/mcp"
            with mcp_tools(url=url, **{"timeout": 5, "start_timeout": 10, **options}) as tools:
                yield tools
        finally:
            server.shutdown()
            thread.join(10)


def serve(way: str, folder: Path, plan: dict[str, Any], **options: Any) -> Any:
    return stdio(folder, plan, **options) if way == "stdio" else http(plan, events=way == "events", **options)


def run(box: Toolbox, name: str) -> tuple[ToolResult, float]:
    began = time.monotonic()
    made = box.execute(ToolCall(name, {}))[1]
    return made, time.monotonic() - began


def result(value: Any) -> str:
    return '{"jsonrpc":"2.0","id":%ID,"result":' + json.dumps(value) + "}\n"


def error(value: Any) -> str:
    return '{"jsonrpc":"2.0","id":%ID,"error":' + json.dumps(value) + "}\n"


def content(*blocks: Any, **more: Any) -> str:
    return result({"content": list(blocks), **more})


DEEP = '{{"jsonrpc":"2.0","id":%ID,"result":{{"structuredContent":{{"n":{}}}}}}}\n'
SAID = '"result":{"content":[{"type":"text","text":"ok"}]}}\n'
TEXT = {"type": "text", "text": "ok"}

UNREAD = {
    "half an emoji": (content({"type": "text", "text": "cut \ud83d"}), r"half a character \(\\ud83d\)"),
    "half an emoji in structured content": (content(structuredContent={"a\udc00": 1}), "half a character"),
    "Latin-1": ('{"jsonrpc":"2.0","id":%ID,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}\n', "no UTF-8"),
    "cut UTF-8": ('{"jsonrpc":"2.0","id":%ID,"result":{"content":[{"type":"text","text":"\xc3"}]}}\n', "no UTF-8"),
    "an error that is a text": (error("boom"), 'no object with a code and a message: "boom"'),
    "an error that is a list": (error(["boom"]), "boom"),
    "an error without a message": (error({"code": -32000}), "-32000"),
    "an error whose code is a text": (error({"code": "E1", "message": "boom"}), "boom"),
    "an error that is null": (error(None), "no result"),
    "a result and an error": (
        '{"jsonrpc":"2.0","id":%ID,"error":{"code":1,"message":"boom"},"result":{"content":[]}}\n',
        "both.*boom",
    ),
    "neither": ('{"jsonrpc":"2.0","id":%ID}\n', "no result"),
    "no id": ('{"jsonrpc":"2.0",' + SAID, "which request"),
    "another id": ('{"jsonrpc":"2.0","id":9999,' + SAID, "id is 9999"),
    "an id that is none": ('{"jsonrpc":"2.0","id":[%ID],' + SAID, "of no request"),
    "no version": ('{"id":%ID,' + SAID, "jsonrpc"),
    "another version": ('{"jsonrpc":"1.0","id":%ID,' + SAID, "jsonrpc"),
    "a result that is a text": (result("ok"), "no object"),
    "a result that is null": (result(None), "no object"),
    "an empty result": (result({}), "neither content"),
    "content that is a text": (result({"content": "ok"}), "no list"),
    "content of texts": (content("ok"), "no object"),
    "a text part without text": (content({"type": "text"}), "no text"),
    "a text that is a number": (content({"type": "text", "text": 5}), "no text"),
    "cut JSON": ('{"jsonrpc":"2.0","id":%ID,"result":{"content":[{"ty\n', "no JSON"),
    "cut JSON whose id was last": ('{"result":{"content":[}],"id":%ID,"jsonrpc":"2.0"}\n', "no JSON"),
    "cut JSON without an id": ('{"jsonrpc":"2.0","result":{"content":[{"ty\n', "no JSON"),
    "a line break in a text": (
        '{"jsonrpc":"2.0","id":%ID,"result":{"content":[{"type":"text","text":"a\nb"}]}}\n',
        "no JSON",
    ),
    "a comma too many": ('{"jsonrpc":"2.0","id":%ID,"result":{"content":[],}}\n', "no JSON"),
    "another language": ("{'jsonrpc': '2.0', 'id': %ID, 'result': {'content': []}}\n", "no JSON|no answer"),
    "nesting": (DEEP.format('{"a":' * 300 + "1" + "}" * 300), "deep"),
    "nesting beyond all bounds": (DEEP.format('{"a":' * 100_000 + "1" + "}" * 100_000), "deep"),
    "a number beyond all bounds": (DEEP.format("9" * 5000), "digits"),
}


WAYS = pytest.mark.parametrize("way", ["stdio", "json", "events"])


@WAYS
def test_an_answer_that_cannot_be_read_fails_at_once_as_that(way: str, tmp_path: Path) -> None:
    calls: dict[str, list[str | float]] = {f"do{i}": [raw] for i, (raw, _) in enumerate(UNREAD.values())}
    with serve(way, tmp_path, plan_of({**calls, "look": [UNREAD["Latin-1"][0]]})) as tools:
        box = Toolbox(tools, World())
        for i, (what, (_, message)) in enumerate(UNREAD.items()):
            made, seconds = run(box, f"do{i}")
            assert (made.outcome, made.took_effect) == (Outcome.TOOL_ERROR, None), what
            assert re.search(f"answer cannot be read: .*({message})", json.loads(made.content)["message"]), what
            assert seconds < 2, what
            assert run(box, "fine")[0].content == "fine", what  # the connection stays
        assert run(box, "look")[0].took_effect is False


READ: dict[str, tuple[str, Any]] = {
    "a whole emoji": (content({"type": "text", "text": "ok 😀"}), "ok 😀"),
    "an id as a text": ('{"jsonrpc":"2.0","id":"%ID",' + SAID, "ok"),
    "an id with a fraction": ('{"jsonrpc":"2.0","id":%ID.0,' + SAID, "ok"),
    "an error that is null": ('{"jsonrpc":"2.0","id":%ID,"error":null,' + SAID, "ok"),
    "a batch": (
        '[{"jsonrpc":"2.0","method":"notifications/message"},{"jsonrpc":"2.0","id":%ID,' + SAID[:-1] + "]\n",
        "ok",
    ),
    "a log before it": ('10:00 debug {"jsonrpc":"2.0","id":%ID,' + SAID, "ok"),
    "a log behind it": ('{"jsonrpc":"2.0","id":%ID,' + SAID[:-1] + "done\n", "ok"),
    "a byte order mark": ('\xef\xbb\xbf{"jsonrpc":"2.0","id":%ID,' + SAID, "ok"),
    "two answers": (content({"type": "text", "text": "one"}).strip() + content(TEXT), "one"),
    "structured content": (content(structuredContent={"a": 1}), {"a": 1}),
    "structured content alone": (result({"structuredContent": {"a": 1}}), {"a": 1}),
    "a list as structured content": (content(structuredContent=[1, 2]), [1, 2]),
    "decimals of many digits": (
        content(structuredContent={"p": 0.5}).replace("0.5", "0.12345678901234567890123"),
        {"p": "0.12345678901234567890123"},
    ),
    "a number beyond floats": (content(structuredContent=[0.5]).replace("0.5", "1e400"), ["1E+400"]),
    "audio": (content({"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}), "[audio audio/wav, 3 bytes]"),
    "a link": (content({"type": "resource_link", "uri": "file:///a"}, TEXT), "[resource file:///a]\nok"),
    "a resource": (content({"type": "resource", "resource": {"uri": "a:b", "text": "in"}}), "in"),
    "a resource of bytes": (content({"type": "resource", "resource": {"uri": "a:b", "blob": "AA"}}), "[resource a:b]"),
    "a kind to come": (content(TEXT, {"type": "video", "data": "AAAA"}), "ok\n[video of unknown form, 3 bytes]"),
    "another kind to come": (content({"type": "json", "json": {"a": 1}}), '{"type":"json","json":{"a":1}}'),
    "annotations that are wrong": (content({**TEXT, "annotations": {"priority": 5}}), "ok"),
    "a _meta that is none": (content(TEXT, _meta=7), "ok"),
    "a forged _meta": (content(TEXT, _meta={"sparring/kept": {"a": 1}}), "ok"),
    "isError that is null": (content(TEXT, isError=None), "ok"),
}


@WAYS
def test_what_can_be_read_is(way: str, tmp_path: Path) -> None:
    calls: dict[str, list[str | float]] = {f"do{i}": [raw] for i, (raw, _) in enumerate(READ.values())}
    with serve(way, tmp_path, plan_of(calls)) as tools:
        box = Toolbox(tools, World())
        for i, (what, (_, value)) in enumerate(READ.items()):
            made, _ = run(box, f"do{i}")
            assert made.ok, (what, made.content)
            assert made.value == value, what


FAILED = {
    "structured content alone": (content(isError=True, structuredContent={"why": "no funds"}), '{"why":"no funds"}'),
    "both": (content({"type": "text", "text": "no"}, isError=True, structuredContent={"code": 7}), 'no\n{"code":7}'),
    "both, the same": (
        content({"type": "text", "text": '{"code": 7}'}, isError=True, structuredContent={"code": 7}),
        '{"code": 7}',
    ),
    "a text in structured content": (content(isError=True, structuredContent="no funds"), "no funds"),
    "nothing": (result({"isError": True}), "the server says that the call failed, and not why"),
    "isError as a text": (content({"type": "text", "text": "no"}, isError="true"), "no"),
    "an error with data": (error({"code": -32000, "message": "failed", "data": {"why": "no"}}), 'failed: {"why":"no"}'),
    "an error with words as data": (error({"code": -32000, "message": "failed", "data": "no"}), "failed: no"),
    "an error next to no result": (
        '{"jsonrpc":"2.0","id":%ID,"result":null,"error":{"code":1,"message":"no"}}\n',
        "no",
    ),
    "an error to no id": (
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}\n',
        "Parse error",
    ),
}


@WAYS
def test_the_words_of_a_failure_reach_the_agent(way: str, tmp_path: Path) -> None:
    calls: dict[str, list[str | float]] = {f"do{i}": [raw] for i, (raw, _) in enumerate(FAILED.values())}
    with serve(way, tmp_path, plan_of(calls)) as tools:
        box = Toolbox(tools, World())
        for i, (what, (_, words)) in enumerate(FAILED.items()):
            made, seconds = run(box, f"do{i}")
            assert json.loads(made.content) == {"error": "tool_error", "message": words}, what
            assert seconds < 2, what


def test_what_is_no_answer_is_passed_over(tmp_path: Path) -> None:
    noise = [
        "debug: calling\n", "Traceback (most recent call last):\n", "{oops\n", "[1, 2]\n", '{"a": 1}\n', "null\n",
        '{"level":"info","id":%ID,"msg":"called"}\n', '{"payload":{"jsonrpc":"2.0","id":%ID,"result":{}}}\n',
        '-> {"id":%ID,"jsonrpc":"2.0","result":{}}\n', "\r10%\r100%\n", "\x1b[32mready\x1b[0m\n", "caf\xe9\n", "\n",
        '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n',
        '{"jsonrpc":"2.0","method":"notifications/odd","params":[1]}\n',
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%ID,"progress":"x"}}\n',
    ]  # fmt: skip
    echo = "{'jsonrpc': '2.0', 'id': %ID, 'result': {}}\n"  # of a server that prints what it is about to send
    plan = plan_of({"do": [*noise, content(TEXT)], "echo": [echo, 0.1, content(TEXT)]}, banner="".join(noise))
    with stdio(tmp_path, plan) as tools:
        box = Toolbox(tools, World())
        assert run(box, "do")[0].content == "ok"
        assert run(box, "echo")[0].content == "ok"
        assert run(box, "fine")[0].content == "fine"


def test_an_error_to_no_id_after_a_notification_is_about_that(tmp_path: Path) -> None:
    told = '{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"Method not found"}}\n'
    with stdio(tmp_path, plan_of({}, told=told)) as tools:  # `initialized` is answered while the list is asked for
        assert run(Toolbox(tools, World()), "fine")[0].content == "fine"


@pytest.mark.parametrize(
    "asked", ["ping", "roots/list", "sampling/createMessage", "elicitation/create", "odd/thing", "%ID"]
)
def test_a_server_that_asks_in_between(asked: str, tmp_path: Path) -> None:
    id = "%ID" if asked == "%ID" else '"s1"'
    asks = f'{{"jsonrpc":"2.0","id":{id},"method":"{asked.replace("%ID", "ping")}","params":{{}}}}\n'
    with stdio(tmp_path, plan_of({"do": [asks]})) as tools:
        made, seconds = run(Toolbox(tools, World()), "do")
        assert made.ok
        assert seconds < 2


def test_an_answer_without_an_id_among_several_calls(tmp_path: Path) -> None:
    lost = '{"jsonrpc":"2.0",' + SAID
    with stdio(tmp_path, plan_of({"slow": [0.6, content(TEXT)], "do": [lost]})) as tools:
        named = {tool.name: tool for tool in tools}
        ended: dict[str, tuple[str, float]] = {}
        began = time.monotonic()

        def work(name: str) -> None:
            try:
                said = str(named[name].fn())
            except Exception as raised:
                said = f"{type(raised).__name__}: {raised}"
            ended[name] = said, time.monotonic() - began

        threads = [threading.Thread(target=work, args=(name,)) for name in ("slow", "do")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert ended["slow"][0] == "ok"  # whose answer it was shows when the other has come
        assert "does not say which request" in ended["do"][0]
        assert ended["do"][1] < 3


def test_a_late_answer_that_is_broken_ends_no_other_call(tmp_path: Path) -> None:
    late = '{"jsonrpc":"2.0","id":%ID,"result":{"content":[{"type":"text","text":"\xe9\n'
    with stdio(tmp_path, plan_of({"late": [1.5, late], "do": [1.2, content(TEXT)]}), timeout=1.0) as tools:
        box = Toolbox(tools, World())
        assert run(box, "late")[0].outcome is Outcome.TIMEOUT
        assert run(box, "fine")[0].content == "fine"
        time.sleep(0.8)
        assert run(box, "fine")[0].content == "fine"


@pytest.mark.parametrize("last", [[], ['{"jsonrpc":"2.0","id":%ID,"result":{"content":[{"ty']])
def test_a_server_that_dies_in_the_middle_of_a_message(last: list[str | float], tmp_path: Path) -> None:
    with (
        stdio(tmp_path, plan_of({"do": [*last, -1]})) as tools,
        pytest.raises(InfrastructureError, match="exit code 3"),
    ):
        Toolbox(tools, World()).execute(ToolCall("do", {}))


def test_a_last_message_needs_no_end(tmp_path: Path) -> None:
    with stdio(tmp_path, plan_of({"do": [content(TEXT).strip(), 0.2, -1]})) as tools:
        assert run(Toolbox(tools, World()), "do")[0].content == "ok"


def test_a_stream_that_is_gone_on_with(tmp_path: Path) -> None:
    """A server may end a stream of events early; the rest comes by another, and is read like the first."""
    begin = "id: e1\nretry: 50\ndata: \n\n"
    for held, said in (
        ('{"jsonrpc":"2.0","id":7,"result":{"structuredContent":[1]}}', "[1]"),
        ('{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"\xe9"}]}}', "no UTF-8"),
    ):
        for number in range(1, 9):  # the id of the call is the client's affair
            answer = held.replace("%s", str(number)).replace(":7,", f":{number},")
            plan = plan_of({"do": [begin]}, held=f"id: e2\ndata: {answer}\n\n")
            with http(plan) as tools:
                made, seconds = run(Toolbox(tools, World()), "do")
            assert seconds < 3
            if said in made.content:
                break
        else:
            raise AssertionError(made.content)


def test_events_that_are_large_or_junk() -> None:
    plan = plan_of({"large": [content({"type": "text", "text": "x" * 100_000})], "junk": ["data: what?\n\n"]})
    with http(plan, events=True, max_bytes=50_000) as tools:
        box = Toolbox(tools, World())
        assert "larger than 50000 bytes" in run(box, "large")[0].content
        assert "'what?'" in run(box, "junk")[0].content
        assert run(box, "fine")[0].content == "fine"


# ---- lists of tools --------------------------------------------------------------------------------------------------

GOOD = {
    "name": "good",
    "description": "Good.",
    "inputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}},
}


def odd(schema: Any, **more: Any) -> dict[str, Any]:
    return {"name": "odd", "inputSchema": schema, **more}


def properties(**inner: Any) -> dict[str, Any]:
    return {"type": "object", "properties": inner}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = properties(a=schema)
    return schema


NEW = "https://json-schema.org/draft/2020-12/schema"
LEFT_OUT: dict[str, Any] = {
    "no object": odd({"type": "string"}),
    "a schema that is a list": odd([]),
    "a schema that is false": odd(False),
    "a name that is a number": {"name": 7, "inputSchema": OBJECT},
    "no name": {"inputSchema": OBJECT},
    "null": None,
    "an empty name": {"name": "", "inputSchema": OBJECT},
    "a text": "odd",
    "nesting": odd(nested(300)),
    "half a character in a choice": odd(properties(a={"enum": ["\ud83d"]})),
    "draft 3": odd({"type": "object", "$schema": "http://json-schema.org/draft-03/schema#"}),
}
FIXED: dict[str, tuple[Any, Any]] = {
    "no schema": ({"name": "odd"}, OBJECT),
    "null": (odd(None), OBJECT),
    "true": (odd(True), OBJECT),
    "no type": (odd({"properties": {"n": {}}}), properties(n={})),
    "anyOf": (odd({"anyOf": [OBJECT]}), {**OBJECT, "anyOf": [OBJECT]}),
    "two types": (odd({"type": ["object", "null"]}), OBJECT),
    "properties that are null": (odd({**OBJECT, "properties": None, "additionalProperties": False}), OBJECT),
    "required that is null": (odd({**OBJECT, "required": None}), OBJECT),
    "an unknown type": (odd(properties(a={"type": "int"})), properties(a={})),
    "required in a property": (
        odd(properties(a={"type": "string", "required": True})),
        properties(a={"type": "string"}),
    ),
    "a property that is none": (
        odd({**properties(a=5), "additionalProperties": False}),
        {**properties(a=True), "additionalProperties": False},
    ),
    "a reference to nowhere": (odd(properties(a={"$ref": "#/$defs/x"})), properties(a={})),
    "a reference to elsewhere": (odd(properties(a={"$ref": "https://example.org/a"})), properties(a={})),
    "a pattern that is none": (odd(properties(a={"pattern": "("})), properties(a={})),
    "a tuple of draft 7 in 2020-12": (
        odd({**properties(a={"items": [{}]}), "$schema": NEW}),
        {**properties(a={}), "$schema": NEW},
    ),
    "an empty anyOf": (odd(properties(a={"anyOf": []})), properties(a={})),
    "half a character in a description": (odd(OBJECT, description="cut \ud83d"), OBJECT),
    "an outputSchema that is wrong": (odd(OBJECT, outputSchema={"type": "thing"}), OBJECT),
    "an outputSchema that is none": (odd(OBJECT, outputSchema=[]), OBJECT),
    "other fields that are wrong": (odd(OBJECT, icons="x", annotations=[], execution=5, _meta=5, title=7), OBJECT),
}


def listing(*tools: Any, **more: Any) -> str:
    return result({"tools": list(tools), **more})


@pytest.mark.parametrize("way", ["stdio", "json"])
def test_one_bad_tool_leaves_the_others(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [{**tool, "name": f"bad{i}"} if isinstance(tool, dict) and tool.get("name") == "odd" else tool
           for i, tool in enumerate(LEFT_OUT.values())]  # fmt: skip
    odd_ones = [{**tool, "name": f"odd{i}"} for i, (tool, _) in enumerate(FIXED.values())]
    with serve(way, tmp_path, plan_of({}, listing(GOOD, *bad, *odd_ones, {"name": "fine"}))) as tools:
        named = {tool.name: tool for tool in tools}
        assert list(named) == ["good", *(tool["name"] for tool in odd_ones), "fine"]
        for i, (what, (_, schema)) in enumerate(FIXED.items()):
            assert named[f"odd{i}"].spec.parameters == schema, what
        assert run(Toolbox(tools, World()), "fine")[0].content == "fine"
    told = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert len(told) == len(bad)


def test_a_bad_tool_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    plan = plan_of({}, listing(GOOD, odd({"type": "string"})))
    with stdio(tmp_path, plan, only=["good"]) as tools:
        assert [tool.name for tool in tools] == ["good"]
    with pytest.raises(EnvError, match=r"'odd'.*of type object"), stdio(tmp_path, plan, only=["odd"]):
        pass
    with pytest.raises(EnvError, match=r"none of the 1 tools.*'odd'"), stdio(tmp_path, plan_of({}, listing(odd([])))):
        pass


def test_names_are_made_apart(tmp_path: Path) -> None:
    given = ["users/list", "users.list", "users_list", "a" * 200, "a" * 199 + "b", "größe", "天气", "查询", "a\nb"]
    wanted = ["users_list_2", "users_list_3", "users_list", "a" * 64, "a" * 62 + "_2", "gro_e", "__", "___2", "a_b"]
    plan = plan_of({}, listing(*({"name": name} for name in given), {"name": "users/list"}))
    with stdio(tmp_path, plan) as tools:
        assert [tool.name for tool in tools] == wanted
    with stdio(tmp_path, plan, prefix="desk.") as tools:
        names = [tool.name for tool in tools]
        assert len(set(names)) == len(given)
        assert all(name.startswith("desk_") and len(name) <= 64 and name.isascii() for name in names)


@pytest.mark.parametrize("cursor", ["same", 2, {"page": 1}])
def test_a_list_that_leads_in_a_circle_ends(cursor: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with stdio(tmp_path, plan_of({}, listing(GOOD, nextCursor=cursor))) as tools:
        assert [tool.name for tool in tools] == ["good"]
    assert "leads back" in caplog.text


@pytest.mark.parametrize(
    "listed",
    [result({}), result({"tools": {"good": {}}}), error("boom"), '{"jsonrpc":"2.0","id":%ID,"result":{"tools":[{"na\n'],
)
def test_a_list_that_cannot_be_read_is_told_at_once(listed: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(EnvError, match=r"list of tools .* cannot be read"), stdio(tmp_path, plan_of({}, listed)):
        pass
    assert time.monotonic() - began < 5


def test_what_a_tool_declares_of_its_results(tmp_path: Path) -> None:
    """An answer that breaks the tool's own output schema is a failure; one that fits a new schema is none."""
    whole = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"name": name, "outputSchema": whole} for name in ("good", "breaks", "lacks")]
    old = {"name": "old", "outputSchema": {**properties(at={"items": [{"type": "integer"}]}),
                                           "$schema": "http://json-schema.org/draft-07/schema#"}}  # fmt: skip
    calls: dict[str, list[str | float]] = {
        "good": [content(structuredContent={"n": 1})],
        "breaks": [content(structuredContent={"n": "x"})],
        "lacks": [content(TEXT)],
        "old": [content(structuredContent={"at": [1, "x"]})],
    }
    with stdio(tmp_path, plan_of(calls, listing(*tools, old))) as made:
        box = Toolbox(made, World())
        assert run(box, "good")[0].value == {"n": 1}
        assert run(box, "old")[0].ok
        broken = run(box, "breaks")[0]
        assert "is not of type" in broken.content
        assert broken.took_effect is True
        assert "no structured content" in run(box, "lacks")[0].content


# ---- without a server ------------------------------------------------------------------------------------------------


def test_messages_as_they_come() -> None:
    inbox = Inbox()
    inbox.sent({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    inbox.sent({"jsonrpc": "2.0", "id": 2, "method": "ping"})
    assert inbox.waits
    assert inbox.read(b'{"jsonrpc":"2.0","id":2,"result":{}}') == [{"jsonrpc": "2.0", "id": 2, "result": {}}]
    inbox.sent({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    assert not inbox.waits
    assert inbox.read(b'{"jsonrpc":"2.0","id":1,"result":{}}') == []  # nobody waits for it
    assert inbox.unanswered("") == []
    inbox.sent({"jsonrpc": "2.0", "id": "a", "method": "ping"})
    (read,) = inbox.unanswered("gone")
    assert read["error"] == {"code": -32700, "message": "gone", "data": UNREADABLE}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_no_bytes_raise(junk: bytes, start: int, end: int) -> None:
    inbox = Inbox()
    inbox.sent({"jsonrpc": "2.0", "id": 1, "method": "tools/call"})
    whole = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"ok"}],"structuredContent":{"a":[1]}}}'
    for data in (junk, whole[:start] + junk + whole[end:], whole[:start]):
        for message in inbox.read(data):
            json.dumps(message)
    inbox.read(whole)
    assert not inbox.waits
