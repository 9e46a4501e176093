"""A suite of tasks as one finds them: it knows nothing of Sparring. A help desk on SQLite.

The tools are functions whose arguments pydantic models describe; the connection and the clock are handed in by whoever
calls them. Failures are returned, not raised: {"error": ..., "message": ...}.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Clock = Callable[[], datetime]


class Desk(sqlite3.Connection):
    """Closed when nobody holds it any more."""

    def __del__(self) -> None:
        self.close()


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ListTickets(Arguments):
    """List the tickets of a customer."""

    customer: str = Field(description="First name.")


class GetTicket(Arguments):
    """Show a ticket, and for how many hours it has waited."""

    ticket: int = Field(description="Its number.")


class SetPriority(Arguments):
    """Set the priority of a ticket."""

    ticket: int
    priority: Literal["low", "normal", "urgent"]


class Escalate(Arguments):
    """Hand a ticket to the second line. They get one call for each time."""

    ticket: int


def list_tickets(db: sqlite3.Connection, clock: Clock, customer: str) -> Any:
    rows = db.execute("SELECT subject, number FROM tickets WHERE customer = ? ORDER BY number", (customer,)).fetchall()
    return [{"subject": subject, "ticket": number} for subject, number in rows] or _no(f"no customer {customer!r}")


def get_ticket(db: sqlite3.Connection, clock: Clock, ticket: int) -> Any:
    row = db.execute("SELECT subject, priority, opened FROM tickets WHERE number = ?", (ticket,)).fetchone()
    if row is None:
        return _no(f"no ticket {ticket}")
    waited = clock() - datetime.fromisoformat(row[2])
    calls = db.execute("SELECT COUNT(*) FROM escalations WHERE number = ?", (ticket,)).fetchone()[0]
    return {"subject": row[0], "priority": row[1], "waited_hours": waited // timedelta(hours=1), "escalated": calls}


def set_priority(db: sqlite3.Connection, clock: Clock, ticket: int, priority: str) -> Any:
    changed = db.execute("UPDATE tickets SET priority = ? WHERE number = ?", (priority, ticket)).rowcount
    return "set" if changed else _no(f"no ticket {ticket}")


def escalate(db: sqlite3.Connection, clock: Clock, ticket: int) -> Any:
    if db.execute("SELECT 1 FROM tickets WHERE number = ?", (ticket,)).fetchone() is None:
        return _no(f"no ticket {ticket}")
    db.execute("INSERT INTO escalations VALUES (?, ?)", (ticket, clock().isoformat()))
    return "escalated"


def _no(message: str) -> dict[str, str]:
    return {"error": "not found", "message": message}


TOOLS: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("list_tickets", list_tickets, ListTickets.model_json_schema()),
    ("get_ticket", get_ticket, GetTicket.model_json_schema()),
    ("set_priority", set_priority, SetPriority.model_json_schema()),
    ("escalate", escalate, Escalate.model_json_schema()),
]


def fresh(task: dict[str, Any], now: datetime) -> sqlite3.Connection:
    """The database as a task finds it."""
    db = sqlite3.connect(":memory:", isolation_level=None, factory=Desk)
    db.execute("CREATE TABLE tickets (number INTEGER PRIMARY KEY, customer, subject, priority, opened)")
    db.execute("CREATE TABLE escalations (number, at)")
    for number, (customer, subject, hours) in enumerate(task["tickets"], 11):
        opened = (now - timedelta(hours=hours)).isoformat()
        db.execute("INSERT INTO tickets VALUES (?, ?, ?, 'normal', ?)", (number, customer, subject, opened))
    return db


def clone(db: sqlite3.Connection) -> sqlite3.Connection:
    """The same database once more."""
    copy = sqlite3.connect(":memory:", isolation_level=None, factory=Desk)
    db.backup(copy)
    return copy


def reference(db: sqlite3.Connection, task: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The calls that are still to be made."""
    number, late = _wanted(task)
    last = ("escalate", {"ticket": number}) if late else ("set_priority", {"ticket": number, "priority": "urgent"})
    looks = [("list_tickets", {"customer": task["about"][0]}), ("get_ticket", {"ticket": number})]
    return [] if done(db, task) else [*looks, last]


def done(db: sqlite3.Connection, task: dict[str, Any]) -> bool:
    """Whether exactly what was asked for has been done, and once."""
    number, late = _wanted(task)
    changed = db.execute("SELECT number, priority FROM tickets WHERE priority != 'normal'").fetchall()
    escalated = db.execute("SELECT number FROM escalations").fetchall()
    return (changed, escalated) == (([], [(number,)]) if late else ([(number, "urgent")], []))


def _wanted(task: dict[str, Any]) -> tuple[int, bool]:
    """The number of the ticket that a task is about, and whether it has waited for too long."""
    found = next(i for i, (who, what, _) in enumerate(task["tickets"]) if [who, what] == task["about"])
    return 11 + found, bool(task["tickets"][found][2] > 24)
