"""`sql_tools`: SQL on an SQLite connection, with an allow-list of what statements may do.

Four limits hold at once: SQLite's authorizer refuses all that is not listed (ATTACH, PRAGMA, extensions, changes of the
schema, transactions); a progress handler ends a statement at its deadline; SQLite's own limits bound what one step may
build, since no handler runs inside a step; rows and bytes of a result are counted. All are set for a call and taken
off after it: the environment's own use of the connection is not touched.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import Conflict, Forbidden, InvalidArguments, ToolError, ToolTimeout, Unavailable

__all__ = ["sql_tools"]

MAX_STATEMENT = 10_000
"""Characters of a statement."""
MAX_VALUE = 200_000
"""Bytes of one value, stored or built: what bounds a single function call."""
STEPS = 1000
"""Steps of SQLite's machine between two looks at the clock."""

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "writable_schema"}
_ACTIONS = {
    getattr(sqlite3, name): name.removeprefix("SQLITE_").replace("_", " ")
    for name in dir(sqlite3)
    if name.startswith(("SQLITE_CREATE_", "SQLITE_DROP_", "SQLITE_ALTER_"))
    or name in (
        "SQLITE_ANALYZE", "SQLITE_ATTACH", "SQLITE_DELETE", "SQLITE_DETACH", "SQLITE_FUNCTION", "SQLITE_INSERT",
        "SQLITE_PRAGMA", "SQLITE_READ", "SQLITE_REINDEX", "SQLITE_SAVEPOINT", "SQLITE_TRANSACTION", "SQLITE_UPDATE",
    )
}  # fmt: skip
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * MAX_STATEMENT,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 50_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


def sql_tools(
    connection: sqlite3.Connection,
    *,
    tables: Sequence[str] | None = None,
    writable: bool = False,
    parallel: int = 100,
    max_bytes: int = 64 * 1024,
    deadline: float = 2.0,
) -> tuple[Tool, ...]:
    """The tools `list_tables` and `query`, and with `writable` also `execute` (INSERT, UPDATE, DELETE).

    A statement that fails changes nothing. One that succeeds is committed, unless the environment has a transaction
    open on the connection.

    Args:
        connection: Used in the thread that calls the tools.
        tables: Those that statements may name; None: all but SQLite's own.
        writable: Whether rows may be changed.
        parallel: Rows of a result.
        max_bytes: Characters of all values of a result, about.
        deadline: Seconds for one statement.
    """
    allowed = None if tables is None else {t.lower() for t in tables}

    def visible(table: str) -> bool:
        name = table.lower()
        return not name.startswith(("sqlite_", "pragma_")) and (allowed is None or name in allowed)

    def list_tables() -> Json:
        """List the tables and their columns."""
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        return {
            name: [f"{c[1]} {c[2]}".strip() for c in connection.execute("SELECT * FROM pragma_table_info(?)", (name,))]
            for name in names
            if visible(name)
        }

    def query(sql: str) -> Json:
        """Run one SELECT statement.

        Args:
            sql: SQLite's SQL.
        """
        return run(sql, _READS)

    def execute(sql: str) -> Json:
        """Run one INSERT, UPDATE or DELETE statement.

        Args:
            sql: SQLite's SQL.
        """
        return run(sql, _READS | _WRITES)

    def run(sql: str, actions: set[int]) -> Json:
        if len(sql) > MAX_STATEMENT:
            raise InvalidArguments(f"the statement has {len(sql)} characters; at most {MAX_STATEMENT} are run")
        denied: list[str] = []

        def authorize(action: int, first: str | None, second: str | None, _database: Any, _trigger: Any) -> int:
            fine = action in actions
            if action in (sqlite3.SQLITE_READ, *_WRITES):
                # A read without a table is of a subquery, which was itself read from what is allowed.
                fine = fine and (not first or visible(first))
            elif action == sqlite3.SQLITE_FUNCTION:
                fine = fine and (second or "").lower() not in _FORBIDDEN_FUNCTIONS
            if not fine:
                what = second if action == sqlite3.SQLITE_FUNCTION else first
                denied.append(f"{_ACTIONS.get(action, 'this')} {what or ''}".strip())
            return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY

        end = time.monotonic() + deadline
        with _savepoint(connection), _guarded(connection, authorize, lambda: time.monotonic() >= end):
            try:
                return _rows(connection.execute(sql), parallel, max_bytes)
            except sqlite3.IntegrityError as error:
                raise Conflict(str(error)) from None
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:  # ValueError: a NUL in the statement
                code = getattr(error, "sqlite_errorcode", None)
                if denied:
                    raise Forbidden(f"not allowed here: {denied[0]}") from None
                if code == sqlite3.SQLITE_INTERRUPT:
                    told = f"stopped after {deadline:g} s; nothing was changed"
                    raise ToolTimeout(told, hint="ask for less", took_effect=False) from None
                if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise Unavailable("the database is busy", hint="try again") from None
                if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM):
                    raise ToolError(f"the database failed: {error}") from None
                raise InvalidArguments(str(error), hint="correct the statement") from None

    tools = [Tool.from_function(f, idempotent=True) for f in (list_tables, query)]
    if writable:
        tools.append(Tool.from_function(execute, effect=True))
    return tuple(tools)


def _rows(cursor: sqlite3.Cursor, parallel: int, max_bytes: int) -> Json:
    """The result; without columns for a statement that gives none. All steps run, so that a write is whole."""
    if cursor.description is None:
        return {"changed": max(cursor.rowcount, 0)}
    columns = [c[0] for c in cursor.description]
    rows: list[list[Json]] = []
    size = 0
    more = False
    while (row := cursor.fetchone()) is not None:
        values = [_plain(v) for v in row]
        size += sum(len(v) if isinstance(v, str) else 8 for v in values)
        if len(rows) >= parallel or size > max_bytes:
            more = True
            break
        rows.append(values)
    cursor.close()
    return {"columns": columns, "rows": rows, "more": more}


def _plain(value: Any) -> Json:
    if isinstance(value, bytes):
        return f"x'{value[:1000].hex()}'" + ("..." if len(value) > 1000 else "")
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block's changes, or none."""
    connection.execute("SAVEPOINT sparring_tool")
    try:
        yield
    except BaseException:
        # Some failures (a full disk) have rolled everything back already.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK TO sparring_tool")
        raise
    finally:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("RELEASE sparring_tool")


@contextmanager
def _guarded(connection: sqlite3.Connection, authorize: Callable[..., int], stop: Callable[[], bool]) -> Iterator[None]:
    """The limits, for the block."""
    before = {limit: connection.setlimit(limit, value) for limit, value in _LIMITS.items()}
    factory, text = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, lambda data: data.decode("utf-8", "replace")
    connection.set_authorizer(authorize)
    connection.set_progress_handler(stop, STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        connection.row_factory, connection.text_factory = factory, text
        for limit, value in before.items():
            connection.setlimit(limit, value)
