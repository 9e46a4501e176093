"""The built-in tools, called as an agent calls them: through a toolbox, with hostile input."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gzip
import http.server
import math
import os
import random
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from no_world import World

from sparring.tools import InvalidArguments, Tool, Toolbox
from sparring.tools.builtin import calculator, files_tools, http_tool, python_tool, search_tool, sql_tools
from sparring.tools.builtin.arithmetic import calculate
from sparring.tools.builtin.http import _Client
from sparring.tools.sandbox import BubblewrapSandbox, MontySandbox, Sandbox
from sparring.trajectories import Cause, ConfigError, Outcome, SparringError, ToolCall, ToolResult


def call(tools: Tool | Sequence[Tool], name: str, /, **arguments: Any) -> ToolResult:
    box = Toolbox([tools] if isinstance(tools, Tool) else tools, World(), max_output=10**7)
    result = box.execute(ToolCall(name, arguments))[1]
    assert result.error is None, result.error  # a traceback would be a bug of the tool
    return result


# ------------------------------------------------------------------------------------------------------------- python


@pytest.fixture(scope="module", params=[MontySandbox, BubblewrapSandbox])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        made: Sandbox = request.param()
    except SparringError as error:
        pytest.skip(str(error))
    with made:
        yield made


def test_python(sandbox: Sandbox) -> None:
    tool = python_tool(sandbox, files={"data.txt": "41"}, deadline=1.0)
    done = call(tool, "python", code="print('x')\nint(open('data.txt').read()) + 1")
    assert done.value == {"stdout": "x\n", "value": 42}
    failed = call(tool, "python", code="print('so far')\n[][1]")
    assert failed.outcome is Outcome.TOOL_ERROR
    assert failed.cause is Cause.TOOL
    assert "so far" in failed.content
    assert "IndexError" in failed.content
    late = call(tool, "python", code="while True: pass")
    assert (late.outcome, late.took_effect) == (Outcome.TIMEOUT, False)
    assert call(tool, "python", code="[0] * 10**9").outcome is Outcome.TOOL_ERROR
    assert not tool.effect


# --------------------------------------------------------------------------------------------------------- calculator


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * (3 + 4)", 14),
        ("2 ** 10 - 1", 1023),
        ("7 // 2 + 7 % 4", 6),
        ("1 / 4", 0.25),
        ("-3 ** 2", -9),
        ("sqrt(16) + abs(-2)", 6.0),
        ("round(2.567, 2)", 2.57),
        ("max(1, 5, 3) - min(4, 2)", 3),
        ("2 ** 0.5", math.sqrt(2)),
        ("factorial(5)", 120),
        ("cos(pi)", -1.0),
        ("1 ** 10000000000", 1),
        ("(-1) ** 10000001", -1),
        ("2 ** -1", 0.5),
        ("2 ** 100", str(2**100)),
        ("log(8, 2)", 3.0),
        ("atan(1, 1)", math.pi / 4),
    ],
)
def test_calculator(text: str, value: float | str) -> None:
    assert call(calculator(), "calculator", expression=text).value == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "2 ^ 3",
        "1 / 0",
        "0 ** -1",
        "9 ** 9 ** 9",
        "9 ** 9 ** 9 ** 9",
        "10 ** 309 * 1.0",
        "1e308 * 10",
        "factorial(1e9)",
        "factorial(171)",
        "factorial(-1)",
        "sqrt(-1)",
        "(-8) ** 0.5",
        "sqrt(2, 3)",
        "round(1.5, 10 ** 9)",
        "10 ** 307 ** 2",
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[1, 2]",
        "'a' * 10",
        "True + 1",
        "x := 1",
        "open('x')",
        "pi.real",
        "(1).__class__",
        "1 if 1 else 2",
        "a\0b",
        "-" * 499 + "1" + "1",
        "(" * 499,
        "1" * 501,
        "1" * 500,
        "1j",
        "inf",
        "round(1e300 * 1e300)",
        "max(*[1, 2])",
        "\ud800",
    ],
)
def test_calculator_refuses(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidArguments, match=r"\w"):
        calculate(text)
    assert time.monotonic() - began < 0.5


@given(st.text(max_size=80) | st.text(alphabet="0123456789+-*/%().e ,pisqrt", max_size=80))
def test_calculator_survives_any_text(text: str) -> None:
    try:
        value = calculate(text)
    except InvalidArguments:
        return
    assert math.isfinite(value)


EXPRESSIONS = st.recursive(
    st.integers(-50, 50).map(str),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(
        lambda t: f"({' '.join(t)})"
    ),
    max_leaves=10,
)


@given(EXPRESSIONS)
def test_calculator_agrees_with_python(text: str) -> None:
    try:
        expected = eval(compile(ast.parse(text, mode="eval"), "test", "eval"), {})
    except ZeroDivisionError:
        with pytest.raises(InvalidArguments, match="zero"):
            calculate(text)
        return
    if len(text) <= 500:
        assert calculate(text) == expected


# -------------------------------------------------------------------------------------------------------------- search


DOCUMENTS = {
    "cats": "The cat sat on the mat. Cats like mats.",
    "dogs": "The dog sat on the log.",
    "long": "filler " * 500 + "a single cat " + "filler " * 500,
    "zürich": "STRASSE in Zürich",
}


def test_search() -> None:
    tool = search_tool(DOCUMENTS, most=2)
    found = call(tool, "search", query="cat mat").value
    assert [f["id"] for f in found] == ["cats", "long"]
    assert found[0]["score"] > found[1]["score"] > 0
    assert "a single cat" in found[1]["excerpt"]
    assert len(found[1]["excerpt"]) <= 308
    assert call(tool, "search", query="unicorn").value == []
    assert call(tool, "search", query="ZÜRICH straße").value[0]["id"] == "zürich"
    for wrong in ("", "?!", "x" * 1001):
        assert call(tool, "search", query=wrong).outcome is Outcome.INVALID_ARGUMENTS
    with pytest.raises(ConfigError, match="at least one document"):
        search_tool({})


def test_search_scores_are_bm25() -> None:
    """Worked out by hand: 2 documents, 'b' in one of them, twice among 3 words; mean length 2.5."""
    found = call(search_tool({"x": "a b b", "y": "a c"}), "search", query="b").value
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert found[0]["score"] == pytest.approx(idf * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2.5)), abs=1e-3)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=50), min_size=1, max_size=8), st.text(max_size=20))
def test_search_survives_any_text(documents: dict[str, str], query: str) -> None:
    result = call(search_tool(documents), "search", query=query)
    assert result.outcome in (Outcome.OK, Outcome.INVALID_ARGUMENTS)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with all that an attacker could have put there, next to a file that must stay unread."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "root"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("héllo wörld")
    (folder / "deep" / "b.txt").write_text("b")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path, target_is_directory=True)
    (folder / "inner").symlink_to("deep", target_is_directory=True)
    os.link(tmp_path / "secret.txt", folder / "hard.txt")
    os.mkfifo(folder / "pipe")
    return folder


def test_files(root: Path) -> None:
    tools = files_tools(root, writable=True, max_read=5)
    text, offset = "", 0
    while offset is not None:
        piece = call(tools, "read_file", path="a.txt", offset=offset).value
        text, offset = text + piece["text"], piece["next_offset"]
    assert text == "héllo wörld"
    listed = {e["name"]: e["kind"] for e in call(tools, "list_files").value["entries"]}
    assert listed["a.txt"] == "file"
    assert listed["deep"] == "folder"
    assert listed["link.txt"] == "other"
    assert call(tools, "write_file", path="new/er/c.txt", content="ç").value == {"written": 2}
    assert (root / "new/er/c.txt").read_text() == "ç"
    assert call(tools, "write_file", path="a.txt", content="short").ok
    assert (root / "a.txt").read_text() == "short"
    assert call(tools, "delete_file", path="a.txt").ok
    assert call(tools, "read_file", path="a.txt").outcome is Outcome.NOT_FOUND
    assert {t.name for t in files_tools(root)} == {"list_files", "read_file"}
    assert [t.effect for t in tools] == [False, False, True, True]


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("../secret.txt", Outcome.FORBIDDEN),
        ("deep/../../secret.txt", Outcome.FORBIDDEN),
        ("/etc/passwd", Outcome.FORBIDDEN),
        ("link.txt", Outcome.FORBIDDEN),
        ("out/secret.txt", Outcome.FORBIDDEN),
        ("inner/b.txt", Outcome.FORBIDDEN),
        ("hard.txt", Outcome.FORBIDDEN),
        ("pipe", Outcome.FORBIDDEN),
        ("deep", Outcome.INVALID_ARGUMENTS),
        (".", Outcome.INVALID_ARGUMENTS),
        ("", Outcome.INVALID_ARGUMENTS),
        ("a.txt\0.png", Outcome.INVALID_ARGUMENTS),
        ("a.txt/b", Outcome.INVALID_ARGUMENTS),
        ("a/" * 20 + "b", Outcome.INVALID_ARGUMENTS),
        ("x" * 300, Outcome.INVALID_ARGUMENTS),
        ("x" * 2000, Outcome.INVALID_ARGUMENTS),
    ],
)
def test_files_outside_are_not_reached(root: Path, path: str, outcome: Outcome) -> None:
    tools = files_tools(root, writable=True)
    for name, arguments in (
        ("read_file", {}),
        ("write_file", {"content": "harm"}),
        ("delete_file", {}),
    ):
        result = call(tools, name, path=path, **arguments)
        assert result.outcome is outcome, name
        assert str(root.parent) not in result.content
    assert (root.parent / "secret.txt").read_text() == "secret"
    assert (root / "deep" / "b.txt").read_text() == "b"


@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
@given(path=st.lists(st.sampled_from(["..", ".", "", "out", "inner", "link.txt", "deep", "hard.txt", "pipe", "\0"])
                     | st.text(max_size=8), max_size=6).map("/".join))  # fmt: skip
def test_no_path_leads_out(root: Path, path: str) -> None:
    tools = files_tools(root, writable=True)
    read = call(tools, "read_file", path=path)
    assert not (read.ok and "secret" in read.content)
    call(tools, "write_file", path=path, content="harm")
    call(tools, "list_files", path=path)
    assert {p.name for p in root.parent.iterdir()} == {"secret.txt", "root"}
    assert (root.parent / "secret.txt").read_text() == "secret"


def test_a_race_for_a_folder_does_not_lead_out(root: Path) -> None:
    """A folder is swapped for a link to the outside, over and over, while files in it are read and written."""
    (root.parent / "b.txt").write_text("secret")
    stop = threading.Event()
    racing = root / "race"
    racing.mkdir()
    (racing / "b.txt").write_text("b")

    decoy = root / "decoy"
    decoy.symlink_to(root.parent, target_is_directory=True)
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        pytest.skip("no renameat2 to swap two names at once")

    def swap() -> None:
        while not stop.is_set():
            exchange(-100, os.fsencode(racing), -100, os.fsencode(decoy), 2)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        tools = files_tools(root, writable=True)
        for _ in range(400):
            result = call(tools, "read_file", path="race/b.txt")
            seen.add(result.value["text"] if result.ok else result.outcome.value)
            call(tools, "write_file", path="race/b.txt", content="b")
    finally:
        stop.set()
        thread.join()
    assert (root.parent / "b.txt").read_text() == "secret"
    assert "b" in seen
    assert seen <= {"b", "forbidden", "invalid_arguments"}  # the last: a link that was a folder again when looked at


def test_files_limits(root: Path) -> None:
    tools = files_tools(root, writable=True, max_file=10, max_entries=12)
    assert call(tools, "write_file", path="big", content="ü" * 6).outcome is Outcome.INVALID_ARGUMENTS
    assert call(tools, "read_file", path="a.txt", offset=-1).outcome is Outcome.INVALID_ARGUMENTS
    assert call(tools, "read_file", path="a.txt", offset=2**64 - 1).outcome is Outcome.INVALID_ARGUMENTS
    assert call(tools, "read_file", path="a.txt", offset=10**6).value["text"] == ""
    outcomes = [call(tools, "write_file", path=f"n{i}", content="").outcome for i in range(8)]
    assert outcomes[0] is Outcome.OK
    assert outcomes[-1] is Outcome.TOOL_ERROR
    with pytest.raises(ConfigError, match="existing folder"):
        files_tools(root / "none")


# ----------------------------------------------------------------------------------------------------------------- SQL


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL, price REAL);"
        "CREATE INDEX by_item ON orders (item);"
        "CREATE TABLE hidden (answer TEXT);"
        "INSERT INTO hidden VALUES ('canary');"
    )
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(i, f"item {i}", i / 2) for i in range(1, 501)])
    connection.commit()
    yield connection
    connection.close()


def test_sql(database: sqlite3.Connection) -> None:
    tools = sql_tools(database, tables=["orders"], writable=True, parallel=3)
    assert call(tools, "list_tables").value == {"orders": ["id INTEGER", "item TEXT", "price REAL"]}
    result = call(tools, "query", sql="SELECT id, item FROM orders WHERE price > 1 ORDER BY id").value
    assert result == {"columns": ["id", "item"], "rows": [[3, "item 3"], [4, "item 4"], [5, "item 5"]], "more": True}
    deep = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n"
    assert call(tools, "query", sql=deep).value["rows"] == [[6]]
    assert call(tools, "query", sql="SELECT count(*) FROM orders").value["rows"] == [[500]]
    assert call(tools, "query", sql="SELECT x'00ff', NULL, 1.5").value["rows"] == [["x'00ff'", None, 1.5]]
    assert call(tools, "execute", sql="UPDATE orders SET price = 9 WHERE id = 1").value == {"changed": 1}
    assert not database.in_transaction
    assert call(tools, "execute", sql="INSERT INTO orders (id, item) VALUES (1, 'x')").outcome is Outcome.CONFLICT
    assert call(tools, "query", sql="SELEC 1").outcome is Outcome.INVALID_ARGUMENTS
    assert database.execute("PRAGMA user_version").fetchone() == (0,)  # the environment's own use is free
    assert [t.name for t in sql_tools(database)] == ["list_tables", "query"]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH 'x.db' AS x",
        "PRAGMA writable_schema = 1",
        "PRAGMA user_version = 7",
        "SELECT * FROM pragma_table_info('orders')",
        "SELECT load_extension('x')",
        "DROP TABLE orders",
        "CREATE TABLE t (a)",
        "CREATE TRIGGER t AFTER UPDATE ON orders BEGIN DELETE FROM hidden; END",
        "ALTER TABLE orders RENAME TO o",
        "VACUUM INTO 'x.db'",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "RELEASE sparring_tool",
        "SELECT * FROM hidden",
        "SELECT (SELECT answer FROM hidden)",
        "SELECT id FROM orders UNION SELECT answer FROM hidden",
        "SELECT count(*) FROM hidden",
        "WITH h AS (SELECT * FROM hidden) SELECT * FROM h",
        "SELECT sql FROM sqlite_master",
        "UPDATE hidden SET answer = 1",
        "DELETE FROM hidden",
        "INSERT INTO orders (item) SELECT answer FROM hidden",
        "UPDATE sqlite_master SET sql = ''",
        "REINDEX",
        "ANALYZE",
        "EXPLAIN SELECT * FROM hidden",
        "SELECT 1; DROP TABLE orders",
        "SELECT '\0'",
        "SELECT " + "1," * 6000 + "1",
    ],
)
def test_sql_refuses(database: sqlite3.Connection, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(database.iterdump())
    tools = sql_tools(database, tables=["orders"], writable=True)
    for name in ("query", "execute"):
        result = call(tools, name, sql=sql)
        assert result.outcome in (Outcome.FORBIDDEN, Outcome.INVALID_ARGUMENTS), result
        assert "canary" not in result.content
    assert list(database.iterdump()) == before
    assert not list(tmp_path.iterdir())


def test_sql_query_cannot_write(database: sqlite3.Connection) -> None:
    before = list(database.iterdump())
    for sql in (
        "DELETE FROM orders",
        "UPDATE orders SET price = 1 RETURNING id",
        "INSERT INTO orders VALUES (9, 'x', 1)",
    ):
        assert call(sql_tools(database), "query", sql=sql).outcome is Outcome.FORBIDDEN
    assert list(database.iterdump()) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT count(*) FROM orders a, orders b, orders c, orders d",
        "UPDATE orders SET price = (SELECT count(*) FROM orders a, orders b, orders c)",
        "SELECT replace(hex(zeroblob(99999)), '0', hex(zeroblob(99999)))",
        "SELECT zeroblob(1000000000)",
        "SELECT printf('%1000000000d', 1)",
        "SELECT group_concat(a.item) FROM orders a, orders b, orders c",
        "SELECT instr(hex(zeroblob(99999)), substr(hex(zeroblob(49999)), 1) || '1')",
        "SELECT hex(zeroblob(99999)) LIKE '%0%0%0%0%0%0%0%0%0%0%0%0%1'",
        "SELECT hex(zeroblob(99999)) GLOB '*0*0*0*0*0*0*0*0*1'",
    ],
)
def test_sql_ends_at_its_deadline(database: sqlite3.Connection, sql: str) -> None:
    before = list(database.iterdump())
    began = time.monotonic()
    result = call(sql_tools(database, writable=True, deadline=0.3), "execute", sql=sql)
    assert time.monotonic() - began < 3
    assert result.took_effect in (False, True)
    if result.outcome is Outcome.TIMEOUT:
        assert result.took_effect is False
    assert list(database.iterdump()) == before


def test_sql_within_a_transaction_of_the_environment(database: sqlite3.Connection) -> None:
    tools = sql_tools(database, writable=True)
    database.execute("UPDATE orders SET price = 0 WHERE id = 2")
    assert call(tools, "execute", sql="DELETE FROM orders WHERE id = 3").ok
    assert call(tools, "execute", sql="INSERT INTO orders (item) VALUES (NULL)").outcome is Outcome.CONFLICT
    assert database.in_transaction
    database.rollback()
    assert database.execute("SELECT price FROM orders WHERE id IN (2, 3)").fetchall() == [(1.0,), (1.5,)]


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(sql=st.text(max_size=60) | st.lists(st.sampled_from(
    "SELECT DELETE FROM orders hidden WHERE * ( ) , ; -- 1 'a' WITH UNION LIMIT INSERT INTO VALUES item =".split()
), max_size=12).map(" ".join))  # fmt: skip
def test_sql_survives_any_text(database: sqlite3.Connection, sql: str) -> None:
    result = call(sql_tools(database, tables=["orders"], deadline=1), "query", sql=sql)
    assert "canary" not in result.content


# ---------------------------------------------------------------------------------------------------------------- HTTP


class Handler(http.server.BaseHTTPRequestHandler):
    """A server with every bad habit, by path."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]] = []  # noqa: RUF012  # one server, one list, read by the tests

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.respond(self.path)

    do_POST = do_DELETE = do_GET

    def respond(self, path: str) -> None:
        assert isinstance(self.server, http.server.HTTPServer)
        port = self.server.server_port
        if path.startswith("/status/"):
            _, _, status, *rest = path.split("/")
            self.answer(int(status), b"sorry", **({"Retry_After": rest[0].replace("_", " ")} if rest else {}))
        elif path == "/gzip":
            self.answer(200, gzip.compress(b"packed"), Content_Encoding="gzip", Content_Type="text/plain")
        elif path == "/deflate":
            self.answer(200, zlib.compress(b"packed"), Content_Encoding="deflate")
        elif path == "/bomb":
            packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
            packed = b"".join(packer.compress(b"a" * 1_000_000) for _ in range(300)) + packer.flush()
            self.answer(200, packed, Content_Encoding="gzip")
        elif path == "/broken-gzip":
            self.answer(200, b"no gzip at all", Content_Encoding="gzip")
        elif path == "/brotli":
            self.answer(200, b"x", Content_Encoding="br")
        elif path == "/big":
            self.answer(200, b"b" * 1_000_000)
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        elif path == "/drip-headers":
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.1)
        elif path == "/silent":
            time.sleep(3)
        elif path == "/reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
        elif path == "/garbage":
            self.wfile.write(b"\0\1\2 what\r\n\r\n")
        elif path == "/to/private":
            self.answer(302, Location="http://169.254.169.254/latest/meta-data")
        elif path == "/to/localhost":
            self.answer(302, Location=f"http://localhost:{port}/ok")
        elif path == "/to/file":
            self.answer(302, Location="file:///etc/passwd")
        elif path == "/to/ok":
            self.answer(302, Location="/ok")
        elif path == "/to/loop":
            self.answer(302, Location="/to/loop")
        elif path == "/latin":
            self.answer(200, "é".encode("latin-1"), Content_Type="text/plain; charset=latin-1")
        elif path == "/wrong-charset":
            self.answer(200, b"a", Content_Type="text/plain; charset=hex")
        else:
            self.answer(200, b"fine", Content_Type="text/plain")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def local(port: int, **options: Any) -> Tool:
    return http_tool(allow=[f"127.0.0.1:{port}"], private=["127.0.0.0/8"], **{"deadline": 1.0, **options})


def get(port: int, path: str, **options: Any) -> ToolResult:
    return call(local(port, **options), "http_request", url=f"http://127.0.0.1:{port}{path}")


def test_http(port: int) -> None:
    assert get(port, "/ok").value == {"status": 200, "content_type": "text/plain", "text": "fine", "cut": False}
    assert get(port, "/gzip").value["text"] == "packed"
    assert get(port, "/deflate").value["text"] == "packed"
    assert get(port, "/to/ok").value["text"] == "fine"
    assert get(port, "/latin").value["text"] == "é"
    assert get(port, "/wrong-charset").value["text"] == "a"


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/status/400", Outcome.INVALID_ARGUMENTS),
        ("/status/401", Outcome.UNAUTHENTICATED),
        ("/status/403", Outcome.FORBIDDEN),
        ("/status/404", Outcome.NOT_FOUND),
        ("/status/408", Outcome.TIMEOUT),
        ("/status/409", Outcome.CONFLICT),
        ("/status/410", Outcome.GONE),
        ("/status/412", Outcome.CONFLICT),
        ("/status/422", Outcome.INVALID_ARGUMENTS),
        ("/status/429", Outcome.RATE_LIMITED),
        ("/status/500", Outcome.TOOL_ERROR),
        ("/status/502", Outcome.UNAVAILABLE),
        ("/status/503", Outcome.UNAVAILABLE),
        ("/status/504", Outcome.TIMEOUT),
        ("/status/302", Outcome.TOOL_ERROR),
        ("/reset", Outcome.UNAVAILABLE),
        ("/garbage", Outcome.UNAVAILABLE),
        ("/broken-gzip", Outcome.TOOL_ERROR),
        ("/brotli", Outcome.TOOL_ERROR),
        ("/to/private", Outcome.FORBIDDEN),
        ("/to/localhost", Outcome.FORBIDDEN),
        ("/to/file", Outcome.INVALID_ARGUMENTS),
        ("/to/loop", Outcome.TOOL_ERROR),
    ],
)
def test_http_failures_are_typed(port: int, path: str, outcome: Outcome) -> None:
    result = get(port, path)
    assert result.outcome is outcome, result.content
    assert result.cause is Cause.TOOL
    assert result.took_effect is False


@pytest.mark.parametrize(
    ("header", "ticks"),
    [("7", 7), ("0", 1), ("soon", 1), ("-5", 1), ("9" * 40, 1), ("Wed, 21 Oct 2015 07:28:00 GMT", 1)],
)
def test_http_says_when_to_come_back(port: int, header: str, ticks: int) -> None:
    assert get(port, f"/status/429/{header.replace(' ', '_')}").retry_after == ticks


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/silent"])
def test_http_has_one_deadline(port: int, path: str) -> None:
    began = time.monotonic()
    result = get(port, path, deadline=0.5)
    assert result.outcome is Outcome.TIMEOUT
    assert time.monotonic() - began < 1.5


def test_http_bodies_are_bounded(port: int) -> None:
    """300 MB of text packed into 300 kB are never unpacked."""
    import tracemalloc

    result = get(port, "/ok")  # loads what is loaded once
    tracemalloc.start()
    try:
        result = get(port, "/bomb", max_bytes=10_000, deadline=20.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.value["cut"] is True
    assert result.value["text"] == "a" * 10_000
    assert peak < 20_000_000  # the server's packing in this process included
    big = get(port, "/big", max_bytes=10)
    assert (big.value["text"], big.value["cut"]) == ("b" * 10, True)


def test_http_sends(port: int) -> None:
    tool = local(port, methods=["GET", "POST"], headers={"Authorization": "Bearer canary"})
    assert tool.effect
    assert "canary" not in str(tool.spec)
    sent = call(tool, "http_request", url=f"http://127.0.0.1:{port}/ok", method="POST", body='{"a": 1}')
    assert sent.ok
    method, path, headers, body = Handler.seen[-1]
    assert (method, path, body) == ("POST", "/ok", b'{"a": 1}')
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer canary"
    assert headers["Host"] == f"127.0.0.1:{port}"
    lost = call(tool, "http_request", url=f"http://127.0.0.1:{port}/reset", method="POST", body="x")
    assert (lost.outcome, lost.took_effect) == (Outcome.UNAVAILABLE, None)
    late = call(tool, "http_request", url=f"http://127.0.0.1:{port}/silent", method="POST", body="x")
    assert (late.outcome, late.took_effect) == (Outcome.TIMEOUT, None)
    refused = call(tool, "http_request", url=f"http://127.0.0.1:{port}/ok", method="DELETE")
    assert refused.outcome is Outcome.FORBIDDEN


def test_http_keeps_its_headers_from_other_hosts(port: int) -> None:
    tool = http_tool(
        allow=[f"127.0.0.1:{port}", f"localhost:{port}"],
        private=["127.0.0.0/8", "::1/128"],
        headers={"Authorization": "Bearer canary"},
    )
    result = call(tool, "http_request", url=f"http://127.0.0.1:{port}/to/localhost")
    assert result.ok, result.content
    assert "Authorization" not in Handler.seen[-1][2]
    assert Handler.seen[-1][2]["Host"] == f"localhost:{port}"


@pytest.mark.parametrize(
    ("url", "outcome"),
    [
        ("http://127.0.0.1:{port}/ok", Outcome.FORBIDDEN),  # on the list of hosts, not on that of networks
        ("http://localhost:{port}/ok", Outcome.FORBIDDEN),
        ("http://[::1]:{port}/ok", Outcome.FORBIDDEN),
        ("http://[::ffff:127.0.0.1]:{port}/ok", Outcome.FORBIDDEN),
        ("http://0.0.0.0:{port}/ok", Outcome.FORBIDDEN),
        ("http://2130706433:{port}/ok", Outcome.FORBIDDEN),
        ("http://0x7f.1:{port}/ok", Outcome.FORBIDDEN),
        ("http://example.org/", Outcome.FORBIDDEN),
        ("http://127.0.0.1/", Outcome.FORBIDDEN),
        ("http://user:word@127.0.0.1:{port}/", Outcome.INVALID_ARGUMENTS),
        ("ftp://127.0.0.1:{port}/", Outcome.INVALID_ARGUMENTS),
        ("file:///etc/passwd", Outcome.INVALID_ARGUMENTS),
        ("http://", Outcome.INVALID_ARGUMENTS),
        ("http:///ok", Outcome.INVALID_ARGUMENTS),
        ("127.0.0.1:{port}/ok", Outcome.INVALID_ARGUMENTS),
        ("http://127.0.0.1:99999/", Outcome.FORBIDDEN),
        ("http://a\r\nb/", Outcome.INVALID_ARGUMENTS),
        ("http://127.0.0.1:{port}/" + "x" * 3000, Outcome.INVALID_ARGUMENTS),
        ("", Outcome.INVALID_ARGUMENTS),
    ],
)
def test_http_reaches_no_private_address(port: int, url: str, outcome: Outcome) -> None:
    hosts = ["127.0.0.1", "localhost", "[::1]", "::1", "0.0.0.0", "2130706433", "0x7f.1", "::ffff:127.0.0.1"]
    seen = len(Handler.seen)
    result = call(http_tool(allow=[f"{h}:{port}" for h in hosts]), "http_request", url=url.format(port=port))
    assert result.outcome is outcome, result.content
    assert len(Handler.seen) == seen


def test_http_connects_to_the_address_that_was_checked(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that answers with a good address once, and with a private one ever after."""
    answers = iter([["127.0.0.1"]])
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "rebind.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in next(answers, ["10.0.0.1"])]
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    tool = http_tool(allow=[f"rebind.test:{port}"], private=["127.0.0.0/8"])
    assert call(tool, "http_request", url=f"http://rebind.test:{port}/ok").value["text"] == "fine"
    assert Handler.seen[-1][2]["Host"] == f"rebind.test:{port}"
    again = call(tool, "http_request", url=f"http://rebind.test:{port}/ok")
    assert again.outcome is Outcome.FORBIDDEN


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_http_tells_public_addresses(address: str, public: bool) -> None:
    import ipaddress

    client = _Client(frozenset(), [], {}, 1, 1.0)
    assert client._reachable(ipaddress.ip_address(address)) is public


@settings(max_examples=80, deadline=None)
@given(url=st.text(max_size=60) | st.text(max_size=30).map("http://{}".format))
def test_http_survives_any_url(url: str) -> None:
    result = call(http_tool(allow=["example.invalid"]), "http_request", url=url)
    assert result.outcome in (Outcome.INVALID_ARGUMENTS, Outcome.FORBIDDEN, Outcome.UNAVAILABLE)


def test_http_hosts(port: int) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    free = closed.getsockname()[1]
    closed.close()
    tool = http_tool(allow=[f"127.0.0.1:{free}"], private=["127.0.0.0/8"])
    refused = call(tool, "http_request", url=f"http://127.0.0.1:{free}/")
    assert (refused.outcome, refused.took_effect) == (Outcome.UNAVAILABLE, False)
    starred = http_tool(allow=["*.example.org"])
    assert call(starred, "http_request", url="http://example.org/").outcome is Outcome.FORBIDDEN
    assert call(starred, "http_request", url="http://example.org.evil/").outcome is Outcome.FORBIDDEN
    for wrong in ([], ["*"], ["a/b"], ["Example.org"], ["a.*.b"]):
        with pytest.raises(ConfigError):
            http_tool(allow=wrong)
    with pytest.raises(ConfigError, match="network"):
        http_tool(allow=["a"], private=["10.0.0.1/8"])


# ------------------------------------------------------------------------------------------------------------- together


def test_all_tools_together(tmp_path: Path, database: sqlite3.Connection) -> None:
    tools = [
        calculator(),
        search_tool(DOCUMENTS),
        http_tool(allow=["example.org"]),
        *files_tools(tmp_path, writable=True),
        *sql_tools(database, writable=True),
    ]
    names = {spec.name for spec in Toolbox(tools, World()).specs}
    assert len(names) == len(tools) == 10
    for tool in tools:
        assert tool.spec.description
        for parameter in tool.spec.parameters["properties"].values():
            assert parameter["description"]
    random.Random(0).shuffle(tools)
    assert call(tools, "calculator", expression="6 * 7").value == 42
