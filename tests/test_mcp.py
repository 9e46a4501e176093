"""Tools from MCP servers, and environments as MCP servers: real servers, real deaths."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("mcp")

from no_world import World

from sparring.tools import (
    InvalidArguments,
    NotFound,
    Tool,
    Toolbox,
    ToolError,
    ToolTimeout,
    Unavailable,
)
from sparring.tools.errors import UnknownTool
from sparring.tools.mcp import mcp_tools
from sparring.trajectories import ConfigError, EnvError, InfrastructureError, Outcome, ToolCall

OFFICIAL = '''
import os, sys, time
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent, ToolAnnotations

server = MCPServer("demo", log_level="CRITICAL")
READ = ToolAnnotations(read_only_hint=True)
LOG = sys.argv[1]

def note(word):
    with open(LOG, "a") as file:
        file.write(word + "\\n")

@server.tool(annotations=READ)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

@server.tool(annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=True))
def store(word: str) -> str:
    """Store a word."""
    note(word)
    return "stored"

@server.tool(structured_output=False)
def refuse(why: str) -> str:
    """Refuse, with a reason."""
    raise ToolError(why)

@server.tool(annotations=READ, structured_output=False)
def mixed() -> list:
    """Text and a picture."""
    return [TextContent(type="text", text="seen"), ImageContent(type="image", data="AAAA", mime_type="image/png")]

@server.tool(annotations=READ, structured_output=False)
def pid() -> str:
    """The server's process id."""
    note("pid")
    return str(os.getpid())

@server.tool(annotations=READ, structured_output=False)
def slow_read(seconds: float) -> str:
    """Take long to read."""
    note("slow_read")
    time.sleep(seconds)
    return f"read by {os.getpid()}"

@server.tool(structured_output=False)
def slow_write(seconds: float) -> str:
    """Take long to write."""
    note("slow_write")
    time.sleep(seconds)
    return "written"

@server.tool(structured_output=False)
def vanish(name: str) -> str:
    """Take a tool away."""
    server.remove_tool(name)
    return "gone"

@server.tool(annotations=READ, structured_output=False)
def large(size: int) -> str:
    """A large answer."""
    return "x" * size

if len(sys.argv) > 2:
    server.run("streamable-http", port=int(sys.argv[2]))
else:
    server.run()
'''
"""A server as people write them, with the official SDK."""

BARE = """
import json, os, sys, time

def say(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()

NAMES = ["missing", "wrong", "nosuch", "custom", "hang", "flood", "chatter", "slam", "echo"]
print("this line is no message", flush=True)
print("token", os.environ.get("TOKEN", "none"), file=sys.stderr, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    id, method = message["id"], message["method"]
    if method == "initialize":
        say(id=id, result={"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                           "serverInfo": {"name": "bare", "version": "1"}})
    elif method == "tools/list":
        cursor = (message.get("params") or {}).get("cursor")
        names = NAMES[:5] if cursor is None else NAMES[5:]
        page = {"tools": [{"name": n, "inputSchema": {"type": "object"},
                           "annotations": {"readOnlyHint": n in ("hang", "flood", "chatter")}} for n in names]}
        say(id=id, result=page if cursor else {**page, "nextCursor": "2"})
    elif method == "tools/call":
        name = message["params"]["name"]
        if name == "missing":
            say(id=id, error={"code": -32601, "message": "Method not found"})
        elif name == "wrong":
            say(id=id, error={"code": -32602, "message": "word: expected a string"})
        elif name == "nosuch":
            NAMES.remove("nosuch")
            say(id=id, error={"code": -32602, "message": "no such tool"})
        elif name == "custom":
            say(id=id, error={"code": -32000, "message": "out of paper"})
        elif name == "hang":
            time.sleep(3600)
        elif name == "flood":
            while True:
                sys.stdout.write("x" * 65536)
        elif name == "chatter":
            while True:
                say(method="notifications/message", params={"level": "info", "data": "x" * 100})
        elif name == "slam":
            os._exit(3)
        else:
            say(id=id, result={"content": [{"type": "text", "text": "Unknown tool: echo"}], "isError": True})
    else:
        say(id=id, error={"code": -32601, "message": "Method not found"})
"""
"""The protocol by hand, and everything that a server should not do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "official.py").write_text(OFFICIAL, "utf-8")
    (folder / "bare.py").write_text(BARE, "utf-8")
    return folder


def official(folder: Path, log: Path) -> list[str]:
    return [sys.executable, str(folder / "official.py"), str(log)]


def bare(folder: Path) -> list[str]:
    return [sys.executable, str(folder / "bare.py")]


def by_name(tools: tuple[Tool, ...]) -> dict[str, Tool]:
    return {t.name: t for t in tools}


def lines(log: Path) -> list[str]:
    return log.read_text("utf-8").split() if log.exists() else []


def wait_for(log: Path, word: str) -> None:
    end = time.monotonic() + 10
    while word not in lines(log):
        assert time.monotonic() < end, f"{word} was never called"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_http(command: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 40
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        assert process.poll() is None, "the server ended"
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the server did not listen")


@pytest.fixture
def http_server(folder: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    process = start_http([*official(folder, tmp_path / "log"), str(port)], port)
    yield process, port
    process.kill()
    process.wait(10)


# ------------------------------------------------------------------------------------------------------- good servers


def test_a_server_over_stdio(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with mcp_tools(official(folder, log), prefix="demo_", read_only=["refuse"]) as tools:
        named = by_name(tools)
        add, store = named["demo_add"], named["demo_store"]
        assert add.spec.description == "Add two numbers."
        assert add.spec.parameters["required"] == ["a", "b"]
        assert (add.effect, add.idempotent) == (False, True)
        assert (store.effect, store.idempotent) == (True, True)
        assert (named["demo_vanish"].effect, named["demo_vanish"].idempotent) == (True, False)  # no hint: an effect
        assert not named["demo_refuse"].effect
        assert add.fn(a=2, b=3) == {"result": 5}
        assert named["demo_mixed"].fn() == "seen\n[image image/png, 3 bytes]"
        with pytest.raises(ToolError, match=r"not today$") as raised:
            named["demo_refuse"].fn(why="not today")
        assert type(raised.value) is ToolError
        assert named["demo_vanish"].fn(name="add") == "gone"
        with pytest.raises(UnknownTool, match="Unknown tool: add"):
            add.fn(a=1, b=1)

        box = Toolbox(tools, World())
        assert box.execute(ToolCall("demo_store", {"word": "amber"}))[1].ok
        assert box.execute(ToolCall("demo_store", {}))[1].outcome is Outcome.INVALID_ARGUMENTS
        assert box.execute(ToolCall("demo_add", {"a": 1, "b": 1}))[1].outcome is Outcome.UNKNOWN_TOOL
        assert lines(log) == ["amber"]
        pid = int(named["demo_pid"].fn())
        assert alive(pid)
    assert not alive(pid)
    with pytest.raises(InfrastructureError, match="is closed"):
        add.fn(a=1, b=1)


def test_a_server_over_http(http_server: tuple[subprocess.Popen[bytes], int], tmp_path: Path) -> None:
    process, port = http_server
    url = f"http://127.0.0.1:{port}/mcp"
    with mcp_tools(url=url, timeout=10, max_bytes=200_000, headers={"X-Token": "canary-9431"}) as tools:
        named = by_name(tools)
        assert named["add"].fn(a=2, b=3) == {"result": 5}
        with pytest.raises(ToolError, match=r"no$"):
            named["refuse"].fn(why="no")
        with pytest.raises(ToolError, match="larger than 200000 bytes"):
            named["large"].fn(size=1_000_000)
        assert named["add"].fn(a=2, b=2) == {"result": 4}  # a new connection
        # It dies in the middle of a call, and nobody starts it again.
        threading.Timer(1.0, process.kill).start()
        began = time.monotonic()
        with pytest.raises(InfrastructureError) as raised:
            named["slow_read"].fn(seconds=60)
        assert time.monotonic() - began < 10
        assert "canary" not in str(raised.value)
        with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1"):
            named["add"].fn(a=1, b=1)


def test_several_threads_share_a_server(folder: Path, tmp_path: Path) -> None:
    with mcp_tools(official(folder, tmp_path / "log"), only=["add"]) as (add,):
        sums: dict[int, Any] = {}

        def work(n: int) -> None:
            sums[n] = add.fn(a=n, b=n)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sums == {n: {"result": 2 * n} for n in range(16)}


# -------------------------------------------------------------------------------------------------------- bad servers


def test_a_killed_server_is_connected_to_once_more_for_a_read_and_never_for_a_write(
    folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with mcp_tools(official(folder, log), timeout=20) as tools:
        named = by_name(tools)
        first = int(named["pid"].fn())

        def kill(pid: int, word: str) -> None:
            wait_for(log, word)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill, args=(first, "slow_read"))
        killer.start()
        assert named["slow_read"].fn(seconds=0.5).startswith("read by ")
        killer.join(10)
        second = int(named["pid"].fn())
        assert second != first
        assert lines(log).count("slow_read") == 2

        killer = threading.Thread(target=kill, args=(second, "slow_write"))
        killer.start()
        with pytest.raises(InfrastructureError, match="ended by signal 9"):
            named["slow_write"].fn(seconds=1)
        killer.join(10)
        assert lines(log).count("slow_write") == 1

        # Killed between two calls: the write is sent for the first time, to a new server.
        third = int(named["pid"].fn())
        os.kill(third, signal.SIGKILL)
        time.sleep(0.7)
        assert named["slow_write"].fn(seconds=0) == "written"
        assert lines(log).count("slow_write") == 2


def test_slow_is_a_timeout_and_hanging_is_infrastructure(folder: Path, tmp_path: Path) -> None:
    with mcp_tools(official(folder, tmp_path / "log"), timeout=0.5) as tools:
        named = by_name(tools)
        with pytest.raises(ToolTimeout) as slow:
            named["slow_write"].fn(seconds=1.5)
        assert slow.value.took_effect is None
        with pytest.raises(ToolTimeout) as read:
            named["slow_read"].fn(seconds=1.5)
        assert read.value.took_effect is False
    with mcp_tools(bare(folder), timeout=0.5) as tools:
        began = time.monotonic()
        with pytest.raises(InfrastructureError, match="did not answer"):
            by_name(tools)["hang"].fn()
        assert time.monotonic() - began < 8
        with pytest.raises(InvalidArguments):  # the next call has a server again
            by_name(tools)["wrong"].fn()


def test_a_server_that_floods(folder: Path) -> None:
    with mcp_tools(bare(folder), timeout=3, max_bytes=1 << 20) as tools:
        named = by_name(tools)
        with pytest.raises(ToolError, match="larger than 1048576 bytes"):
            named["flood"].fn()
        began = time.monotonic()
        with pytest.raises((ToolTimeout, InfrastructureError)):
            named["chatter"].fn()
        assert time.monotonic() - began < 15
        with pytest.raises(InvalidArguments):
            named["wrong"].fn()


def test_the_protocol_decides_what_a_call_came_to(folder: Path) -> None:
    with mcp_tools(bare(folder)) as tools:
        named = by_name(tools)
        assert len(named) == 9  # both pages
        with pytest.raises(UnknownTool):
            named["missing"].fn()
        with pytest.raises(InvalidArguments, match="expected a string"):
            named["wrong"].fn()
        with pytest.raises(UnknownTool, match="no such tool"):  # the same code; the server lists it no more
            named["nosuch"].fn()
        with pytest.raises(ToolError, match="out of paper") as raised:  # a code that the client uses for a lost line
            named["custom"].fn()
        assert raised.value.took_effect is None
        with pytest.raises(ToolError) as raised:  # the fixed words, but the server lists it
            named["echo"].fn()
        assert raised.value.outcome is Outcome.TOOL_ERROR


class Gateway(BaseHTTPRequestHandler):
    """The protocol over HTTP by hand; `replies` says what comes back to a call: status, content type, body."""

    protocol_version = "HTTP/1.1"
    replies: ClassVar[list[tuple[int, str, bytes]]] = []
    calls: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method = asked["method"]
        if "id" not in asked:
            self.reply(202, "text/plain", b"")
        elif method == "initialize":
            version = asked["params"]["protocolVersion"]
            told = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "g", "version": "1"},
            }
            self.result(asked["id"], told, {"mcp-session-id": "s1"})
        elif method == "tools/list":
            read = {"readOnlyHint": True}
            tools = [{"name": n, "inputSchema": {"type": "object"}, "annotations": read} for n in ("ask", "do")]
            tools[1].pop("annotations")
            self.result(asked["id"], {"tools": tools})
        elif method == "tools/call":
            self.calls.append(asked["params"]["name"])
            status, kind, body = self.replies.pop(0)
            self.reply(status, kind, body)
        else:
            self.reply(404, "text/html", b"<p>what?</p>")

    def do_GET(self) -> None:
        self.reply(405, "text/plain", b"")

    do_DELETE = do_GET

    def result(self, id: Any, result: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode()
        self.reply(200, "application/json", body, headers)

    def reply(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


def rpc_error(code: int) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "no"}}).encode()


HTML, JSON = "text/html", "application/json"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((404, HTML, b"<p>nothing here</p>"), InfrastructureError),
        ((404, JSON, b'{"detail": "no route"}'), InfrastructureError),
        ((404, JSON, rpc_error(-32600)), InfrastructureError),  # the session is gone
        ((401, JSON, b'{"error": "who are you?"}'), InfrastructureError),
        ((503, HTML, b""), InfrastructureError),
        ((200, HTML, b"<p>sign in</p>"), InfrastructureError),
        ((404, JSON, rpc_error(-32601)), UnknownTool),
        ((400, JSON, rpc_error(-32602)), InvalidArguments),
        ((500, JSON, rpc_error(-32603)), ToolError),
        ((400, JSON, rpc_error(-32000)), ToolError),
    ],
)
def test_a_gateway_in_between_is_told_from_the_server(reply: tuple[int, str, bytes], error: type[Exception]) -> None:
    Gateway.calls.clear()
    Gateway.replies[:] = [reply] * 3
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            with mcp_tools(url=f"http://127.0.0.1:{server.server_port}/mcp", timeout=10) as (ask, do):
                with pytest.raises(error) as raised:
                    do.fn()
                assert type(raised.value) is error
                with pytest.raises(error):
                    ask.fn()
        finally:
            server.shutdown()
            thread.join(10)
    twice = error is InfrastructureError
    assert Gateway.calls == (["do", "ask", "ask"] if twice else ["do", "ask"])


def test_a_dead_server_says_its_last_words_without_secrets(folder: Path) -> None:
    with (
        mcp_tools(bare(folder), env={"TOKEN": "canary-5127"}) as tools,
        pytest.raises(InfrastructureError, match=r"exit code 3.*last said: token \*\*\*"),
    ):
        by_name(tools)["slam"].fn()


@pytest.mark.parametrize("code", ["import sys; sys.exit('no port')", "import time; time.sleep(60)"])
def test_a_server_that_never_comes_up(code: str) -> None:
    began = time.monotonic()
    with (
        pytest.raises(InfrastructureError, match=r"no port|no connection"),
        mcp_tools([sys.executable, "-c", code], start_timeout=3),
    ):
        pass
    assert time.monotonic() - began < 15


def test_wrong_settings(folder: Path) -> None:
    wrong: dict[str, Any]
    for wrong in ({}, {"command": ["x"], "url": "http://x"}, {"command": "python x.py"}, {"command": []}):
        with pytest.raises(ConfigError), mcp_tools(**wrong):
            pass
    with pytest.raises(ConfigError, match="no tool 'ad'"), mcp_tools(bare(folder), only=["ad"]):
        pass
    with pytest.raises(InfrastructureError, match="No such file"), mcp_tools(["no-such-program-here"]):
        pass


def test_a_wrong_schema_is_named(tmp_path: Path) -> None:
    foreign = BARE.replace('{"type": "object"}', '{"type": "string"}')
    (tmp_path / "foreign.py").write_text(foreign, "utf-8")
    with (
        pytest.raises(EnvError, match=r"none of the 9 tools .*'missing': .* of type object, not 'string'"),
        mcp_tools([sys.executable, str(tmp_path / "foreign.py")]),
    ):
        pass
    broken = BARE.replace(
        '{"type": "object"}', '{"type": "object", "$schema": "http://json-schema.org/draft-03/schema"}'
    )
    (tmp_path / "broken.py").write_text(broken, "utf-8")
    with (
        pytest.raises(EnvError, match="'missing' has a wrong JSON Schema"),
        mcp_tools([sys.executable, str(tmp_path / "broken.py")]),
    ):
        pass


# --------------------------------------------------------------------------------------------- environments as servers

SERVE = "import sys; from sparring.envs.bridges.mcp_server import serve; serve(sys.argv[1], faults=sys.argv[2])"


def served(name: str, faults: str = "") -> dict[str, Any]:
    return {"command": [sys.executable, "-c", SERVE, name, faults], "env": {"PYTHONPATH": os.pathsep.join(sys.path)}}


def test_an_environment_is_served() -> None:
    from sparring.envs import make

    with mcp_tools(**served("echo")) as tools:
        named = by_name(tools)
        assert list(named) == ["begin", "finish", "say"]
        assert named["say"].effect
        assert named["say"].idempotent
        with pytest.raises(ToolError, match="call begin first") as early:
            named["say"].fn(word="dune")
        assert early.value.outcome is Outcome.CONFLICT
        text = named["begin"].fn(seed=3)
        env = make("echo")
        observation, _ = env.reset(seed=3, options={"split": "test"})
        assert text == "\n\n".join(m.content for m in observation.messages)
        with pytest.raises(ToolError, match="call finish first"):
            named["begin"].fn()
        with pytest.raises(InvalidArguments):
            named["say"].fn(worm="dune")
        assert named["say"].fn(word=env.episode.task.data["word"]) == env.episode.task.data["word"]
        assert "Success: yes" in named["finish"].fn(message="Done.")
        named["begin"].fn(seed=4)
        assert "Success: no" in named["finish"].fn()


def test_typed_outcomes_survive_the_way_and_hide_what_a_model_must_not_see() -> None:
    """The same calls, here and over MCP, end alike; the wire's visible part names neither fault nor cause."""
    from sparring.envs import make

    env = make("orders")
    env.reset(seed=1, options={"split": "test", "faults": "unavailable:1.0@3"})
    task = env.episode.task
    goal = task.data["goals"][0]
    arguments = {"customer": goal["name"], "item": goal["item"]}
    here = env.toolbox.execute(ToolCall("find_order", arguments))[1]
    assert here.outcome is Outcome.UNAVAILABLE
    with mcp_tools(**served("orders", "unavailable:1.0@3")) as tools:
        named = by_name(tools)
        named["begin"].fn(seed=1)
        box = Toolbox(tools, World())
        there = box.execute(ToolCall("find_order", arguments))[1]
        assert (there.outcome, there.took_effect, there.content) == (here.outcome, here.took_effect, here.content)
        with pytest.raises(Unavailable):
            named["find_order"].fn(**arguments)
    with mcp_tools(**served("orders")) as tools:
        named = by_name(tools)
        named["begin"].fn(seed=1)
        with pytest.raises(NotFound):
            named["find_order"].fn(customer="Nobody", item="nothing")


def test_what_a_model_sees_of_a_served_call() -> None:
    from sparring.envs import make
    from sparring.envs.bridges.mcp_server import Session

    session = Session(make("orders"), faults="timeout_landed:1.0@3")
    assert session.call("begin", {"seed": 1}).outcome is Outcome.OK
    goal = session.env.episode.task.data["goals"][0]
    reply = session.call("find_order", {"customer": goal["name"], "item": goal["item"]})
    assert set(reply.shown) == {"outcome", "stop"}
    assert {"cause", "fault", "took_effect"} <= set(reply.record)
    assert session.call("begin", {"seed": "x"}).outcome is Outcome.INVALID_ARGUMENTS
    done = session.call("finish", {})
    assert done.shown["success"] is False
    assert session.call("finish", {}).outcome is Outcome.CONFLICT


def test_an_environment_over_http() -> None:
    port = free_port()
    code = f"from sparring.envs.bridges.mcp_server import serve; serve('echo', port={port})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment["PYTHONPATH"])
        process = start_http([sys.executable, "-c", code], port)
    try:
        with mcp_tools(url=f"http://127.0.0.1:{port}/mcp") as tools:
            named = by_name(tools)
            assert "Say " in named["begin"].fn(seed=0)
            assert "Success: no" in named["finish"].fn()
    finally:
        process.terminate()
        process.wait(10)


def test_the_command_line() -> None:
    from typer.testing import CliRunner

    from sparring.cli.mcp import mcp

    runner = CliRunner()
    for words in (["--help"], ["serve", "--help"]):
        shown = runner.invoke(mcp, words)
        assert shown.exit_code == 0
        assert "Example" in shown.output
    wrong = runner.invoke(mcp, ["serve", "ordrs"])
    assert "Did you mean" in str(wrong.exception)
    wrong = runner.invoke(mcp, ["serve", "echo", "--faults", "nonsense:2"])
    assert isinstance(wrong.exception, ConfigError | LookupError)
