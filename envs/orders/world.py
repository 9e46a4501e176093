"""The order desk's database and tasks: tables, how a world is filled, what a task asks for."""

from __future__ import annotations

import random
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache

from ...trajectories.messages import Json
from ...trajectories.trajectory import Task
from ..databases import Database
from ..task import Split

__all__ = ["Desk", "new_world", "tasks"]

NAMES = (
    "Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gus", "Hana", "Ivan", "June", "Kofi", "Lena", "Mila", "Noah",
    "Omar", "Pia", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Vera", "Wim", "Zoe",
)  # fmt: skip
ITEMS = (
    "lamp", "chair", "desk", "clock", "mirror", "rug", "vase", "kettle", "toaster", "radio", "camera", "tent",
    "bike", "helmet", "scarf", "jacket", "boots", "guitar", "drum", "piano", "globe", "easel", "basket", "ladder",
)  # fmt: skip
STREETS = (
    "Elm", "Oak", "Pine", "Lake", "Hill", "Mill", "Park", "River", "Rose", "King",
)  # fmt: skip

SCHEMA = """
CREATE TABLE customers (rowid INTEGER PRIMARY KEY, customer_id TEXT UNIQUE, name TEXT UNIQUE, email TEXT UNIQUE);
CREATE TABLE orders (
    rowid INTEGER PRIMARY KEY, order_id TEXT UNIQUE, customer INTEGER REFERENCES customers, status TEXT, address TEXT);
CREATE TABLE items (order_row INTEGER REFERENCES orders, item TEXT);
CREATE TABLE payments (
    payment_id TEXT UNIQUE, order_row INTEGER REFERENCES orders, amount INTEGER, refunds INTEGER DEFAULT 0);
CREATE TABLE shipments (order_row INTEGER REFERENCES orders, carrier TEXT);
CREATE TABLE audit (order_row INTEGER, change TEXT);
"""

# The same goal is worded in several ways, so that a policy reads it and does not match one string.
WORDINGS = {
    "cancel": (
        "Cancel {who}'s {item}.",
        "{who} no longer wants the {item}. Cancel it.",
        "Please cancel the {item} of {who}.",
    ),
    "refund": (
        "Refund {who}'s {item}.",
        "{who} sent the {item} back. Refund it.",
        "Please refund the {item} of {who}.",
    ),
    "address": (
        "Send {who}'s {item} to {address}.",
        "{who}'s {item} should go to {address}.",
        "Change the address of {who}'s {item} to {address}.",
    ),
    "decide": (
        "Cancel {who}'s {item}, or refund it if it has shipped.",
        "{who} does not want the {item}: refund it if shipped, else cancel it.",
    ),
}
KINDS = ("cancel", "refund", "address")


def _split_of(name: str, item: str) -> Split:
    """Train 80 %, validation 10 %, test 10 % of all (customer, item) pairs."""
    bucket = zlib.crc32(f"{name}/{item}".encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn.

    Level 1: one goal, customer by name (2 calls). 2: by e-mail (3). 3: two goals (5).
    4: two goals by e-mail, each with a decision (8).
    """
    pairs = [(n, i) for n in NAMES for i in ITEMS if _split_of(n, i) == split]
    level = 0
    while True:
        level = level % 4 + 1
        chosen: dict[str, tuple[str, str]] = {}
        while len(chosen) < (1 if level < 3 else 2):
            name, item = rng.choice(pairs)
            chosen.setdefault(name, (name, item))
        goals = []
        for nth, (name, item) in enumerate(chosen.values()):
            kind = "decide" if level == 4 else rng.choice(KINDS)
            by_email = level in (2, 4) or (level == 3 and nth == 1)
            goals.append(_goal(kind, name, item, by_email, rng))
        text = " ".join(g.pop("text") for g in goals)
        kind = "+".join(sorted({g["kind"] for g in goals}))
        yield Task(text, {"goals": goals}, seed=rng.randrange(2**31), kind=kind, level=level)


def _goal(kind: str, name: str, item: str, by_email: bool, rng: random.Random) -> dict[str, Json]:
    address = f"{rng.randrange(1, 100)} {rng.choice(STREETS)} St" if kind == "address" else ""
    who = f"{name.lower()}@mail.com" if by_email else name
    text = rng.choice(WORDINGS[kind]).format(who=who, item=item, address=address)
    shipped = kind == "refund" or (kind == "decide" and rng.random() < 0.5)
    return {
        "kind": kind, "name": name, "item": item, "by_email": by_email, "address": address, "shipped": shipped,
        "text": text[0].upper() + text[1:] if not by_email else text,
    }  # fmt: skip


@lru_cache(maxsize=1)
def _empty() -> bytes:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        return db.serialize()


class Desk(Database):
    """A database in memory that can be copied, as a fork of an episode asks."""

    @classmethod
    def of(cls, image: bytes) -> Desk:
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=cls)
        db.deserialize(image)
        return db

    def __deepcopy__(self, memo: object) -> Desk:
        return Desk.of(self.serialize())


def new_world(task: Task, rng: random.Random) -> Desk:
    """A desk of five customers with two to four orders each, those of the task among them."""
    db = Desk.of(_empty())
    goals = task.data["goals"]
    wanted = {g["name"]: g for g in goals}
    others = rng.sample([n for n in NAMES if n not in wanted], 5 - len(wanted))
    names = [*wanted, *others]
    rng.shuffle(names)
    numbers = rng.sample(range(10, 100), 50)
    for row, name in enumerate(names):
        db.execute(
            "INSERT INTO customers VALUES (?, ?, ?, ?)", (row, f"c{numbers.pop()}", name, f"{name.lower()}@mail.com")
        )
        goal = wanted.get(name)
        items = rng.sample([i for i in ITEMS if not goal or i != goal["item"]], rng.randrange(1, 4))
        if goal and not goal.get("absent"):
            items.insert(rng.randrange(len(items) + 1), goal["item"])
        for item in items:
            mine = goal is not None and item == goal["item"]
            shipped = goal["shipped"] if goal is not None and mine else rng.random() < 0.5
            address = f"{rng.randrange(1, 100)} {rng.choice(STREETS)} St"
            number = numbers.pop()
            order = db.execute(
                "INSERT INTO orders (order_id, customer, status, address) VALUES (?, ?, ?, ?)",
                (f"o{number}", row, "shipped" if shipped else "open", address),
            ).lastrowid
            db.execute("INSERT INTO items VALUES (?, ?)", (order, item))
            db.execute(
                "INSERT INTO payments VALUES (?, ?, ?, 0)",
                (f"p{rng.randrange(10, 100)}{order}", order, rng.randrange(5, 200)),
            )
            if shipped:
                db.execute("INSERT INTO shipments VALUES (?, ?)", (order, rng.choice(("post", "van"))))
    return db
