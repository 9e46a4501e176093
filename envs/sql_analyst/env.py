"""`SqlAnalyst`: its tools, its verdict and its expert."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable
from typing import Any

from ...tools import InvalidArguments, NotFound, ToolError, tool
from ...tools.builtin import sql_tools
from ...trajectories import Json, Task
from ..databases import Database
from ..env import Solution, ToolEnv
from ..experts import Asked, ask
from ..facets import FaultHooks
from ..task import Split
from .questions import QUESTIONS, compare, prepared, statement, tasks
from .world import DOMAINS, Names, notes

__all__ = ["SqlAnalyst"]

MAX_ROWS = 20
MAX_BYTES = 2000
DEADLINE = 0.5
"""Seconds for one statement."""


class _Faults(FaultHooks):
    def rotate_id(self, env: SqlAnalyst, tool: str, arguments: dict[str, Json]) -> bool:
        old, names = arguments.get("table"), env._names
        if old not in names.tables:
            return False
        new = f"{old}_v{env.episode.rng.randrange(2, 10)}"
        if new in names.tables:
            return False
        db = env._database()
        db.execute(f"ALTER TABLE {old} RENAME TO {new}")
        env._loaded = env.state["image"] = db.serialize()
        env.state["names"] = names.renamed(old, new)
        return True

    def distort(self, env: SqlAnalyst, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        others = [table for table in env._names.tables if table != arguments.get("table")]
        other = env.episode.rng.choice(others)
        if tool in ("describe", "sample", "read_notes"):  # another table's
            return getattr(env, tool)(other)
        if tool in ("query", "query_replica"):  # what nobody asked for: its columns say so
            columns = [c.split()[0] for c in env._names.columns(env._names.tables[other])]
            return {"columns": columns, "rows": env._run(f"SELECT * FROM {other} LIMIT 2")}
        return None

    def look(self, env: SqlAnalyst, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        return ("get_answer", {}) if tool == "answer" else None


class SqlAnalyst(ToolEnv):
    """Answer a question in words about a database that nobody has explained: find its tables, read its notes, query.

    The world is an SQLite database in memory, one per episode: a shop's, a clinic's or a library's, four tables, a few
    hundred rows, whose tables and columns are called otherwise each time. Values are missing, some rows do not count or
    are there twice, and an event has two dates: what holds is in the notes. The database is only read. The truth
    is computed from the records, without SQL, and a wrong reading of the notes gives another answer.

    ## Tools
    `list_tables`, `describe`, `sample`, `read_notes`, `query`, `query_replica`, `get_answer` read; `answer` gives the
    answer, and the last one counts; `log_in`, `wait`. `sample` shows a table's columns too and is the second route of
    `describe`; `query` and `query_replica` are each other's. Table names are what may go stale.

    ## Rewards
    1 when the answer is right: a number to half a hundredth, a name, or a list of names in any order.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = (
        "Answer the question from the database with the tools, one call at a time. Look at the tables and read their "
        "notes, query, give the answer with the tool answer. Then say Done. If it cannot be done say Cannot."
    )
    state: dict[str, Any]
    fault_hooks = _Faults()

    def __init__(self) -> None:
        super().__init__()
        # No statement outlives its image: prepared for one, it would read another's tables at the pages of the first.
        self._db = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=0, factory=Database
        )
        self._loaded = b""
        """The image that `_db` holds now: another episode, or a fork, may want another one."""
        tools = sql_tools(self._db, parallel=MAX_ROWS, max_bytes=MAX_BYTES, deadline=DEADLINE)
        self._reader = next(t for t in tools if t.name == "query")

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        made = prepared(task)
        self.state = {
            "image": made.image, "names": made.names, "rules": made.rules, "truth": made.truth, "answer": None,
        }  # fmt: skip

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool
    def list_tables(self) -> Json:
        """List the tables."""
        names = self._names
        return [{"table": t, "rows": self._run(f"SELECT count(*) FROM {t}")[0][0]} for t in names.tables]

    @tool(alternative="sample", ids=["table"])
    def describe(self, table: str) -> Json:
        """List a table's columns."""
        return {"table": table, "columns": self._names.columns(self._logical(table))}

    @tool(alternative="describe", ids=["table"])
    def sample(self, table: str) -> Json:
        """Show a table's first rows."""
        columns = [c.split()[0] for c in self._names.columns(self._logical(table))]
        return {"table": table, "columns": columns, "rows": self._run(f"SELECT * FROM {table} LIMIT 2")}

    @tool(ids=["table"])
    def read_notes(self, table: str) -> Json:
        """Read what has to be known about a table."""
        domain = DOMAINS[self.episode.task.data["domain"]]
        return {"table": table, "notes": notes(self._logical(table), domain, self._names, self.state["rules"])}

    @tool(alternative="query_replica")
    def query(self, sql: str) -> Json:
        """Run one SELECT statement (SQLite)."""
        return self._select(sql)

    @tool(alternative="query")
    def query_replica(self, sql: str) -> Json:
        """Run one SELECT statement on the replica, which holds the same."""
        return self._select(sql)

    @tool(effect=True, idempotent=True)
    def answer(self, answer: str | float | list[str]) -> str:
        """Give the answer: a number, a name, or a list of names."""
        self.state["answer"] = answer
        return "noted"

    @tool
    def get_answer(self) -> Json:
        """Read the answer that was given."""
        return {"answer": self.state["answer"]}

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the database ----------------------------------------------------------------------------------------------

    @property
    def _names(self) -> Names:
        names: Names = self.state["names"]
        return names

    def _logical(self, table: str) -> str:
        logical = self._names.tables.get(table)
        if logical is None:
            raise NotFound(f"no table {table}", hint="list the tables")
        return logical

    def _database(self) -> sqlite3.Connection:
        """The connection, with this episode's database in it."""
        if self._loaded is not self.state["image"]:
            self._loaded = self.state["image"]
            self._db.deserialize(self._loaded)
        return self._db

    def _run(self, sql: str) -> list[list[Json]]:
        """Rows for the environment's own use."""
        return [list(row) for row in self._database().execute(sql)]

    def _select(self, sql: str) -> Json:
        self._database()
        try:
            found = self._reader.fn(sql=sql)
        except InvalidArguments as error:  # its argument is a text, as its schema says; the database refuses it
            raise ToolError(str(error), hint=error.hint) from None
        if "columns" not in found:
            raise ToolError("that is no SELECT statement", hint="correct the statement")
        if not found["more"]:
            del found["more"]
        return found

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        form = QUESTIONS[task.data["question"]].form
        return compare(form, self.state["answer"], self.state["truth"])

    def solve(self, task: Task) -> Solution:
        try:
            if not self.success(task):
                yield from self._work(task)
            yield "Done."
        except (LookupError, TypeError, ValueError):  # a result of which nothing can be made
            yield "Cannot find it."

    def _work(self, task: Task) -> Solution:
        """From the tables to the answer. Raises `LookupError`, `TypeError` or `ValueError` for a result that is not
        what was asked for."""
        question = QUESTIONS[task.data["question"]]
        names = self._names
        yield from ask(
            self, "list_tables", {}, lambda v: {names[t] for t in question.tables} <= {t["table"] for t in v}
        )
        for table in question.tables:
            yield from self._describe(names[table])
        if "event" in question.tables:
            events = {"table": names["event"]}
            yield from ask(self, "read_notes", events, lambda v: v["table"] == events["table"])
        sql = {"sql": names.sql(statement(task.data["question"], self.state["rules"], task.data["params"]))}
        first, second = ("query", "query_replica") if not self.episode.is_gone("query") else ("query_replica", "query")
        found = yield from ask(self, first, sql)
        if found is None and self.episode.is_gone(first):
            found = yield from ask(self, second, sql)
        rows = found["rows"]
        yield "answer", {"answer": [row[0] for row in rows] if question.form == "list" else rows[0][0]}

    def _describe(self, table: str) -> Asked:
        """Finds out a table's columns, by the route that is left."""
        wanted = {c.split()[0] for c in self._names.columns(self._logical(table))}

        def right(value: Json) -> bool:
            return value["table"] == table and {c.split()[0] for c in value["columns"]} == wanted

        known = (
            None if self.episode.is_gone("describe") else (yield from ask(self, "describe", {"table": table}, right))
        )
        return known or (yield from ask(self, "sample", {"table": table}, right))
