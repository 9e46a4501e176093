"""The analyst's databases: three kinds of business, their rows, and the rules by which a row counts.

A world is drawn as plain Python `Records`, from which `questions` computes the truth, and is then written into
SQLite under names that change from episode to episode (`Names`). Inside this package tables and columns have one
logical name each, such as `event.amount`; `Names.sql` translates.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from ..databases import Database

__all__ = [
    "COLUMNS",
    "DOMAINS",
    "TOWNS",
    "Domain",
    "Event",
    "Names",
    "Records",
    "Rules",
    "build",
    "draw",
    "notes",
]

TOWNS = ("Bern", "Graz", "Lyon", "Oslo", "Porto", "Riga", "Turin", "Vigo")
FIRST = (
    "Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gus", "Hana", "Ivan", "June", "Kofi", "Lena", "Mila", "Noah",
    "Omar", "Pia", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Vera", "Wim", "Zoe",
)  # fmt: skip
LAST = ("Adler", "Bauer", "Costa", "Dubois", "Eriksen", "Fischer", "Gallo", "Hansen", "Ito", "Jansen", "Klein", "Lopez")
PLACES = (
    "Elm", "Oak", "Pine", "Lake", "Hill", "Mill", "Park", "River", "Rose", "King", "Bridge", "Harbour", "Market",
    "Station", "Castle", "Garden",
)  # fmt: skip
ENDS = ("Street", "Square", "Gate", "Corner", "Side", "Yard")

_DATES = [(date(2024, 1, 1) + timedelta(days=n)).isoformat() for n in range(366 + 60)]


@dataclass(frozen=True, slots=True)
class Domain:
    """One kind of business. Each logical name has the names that a database may give it."""

    persons: str
    things: str
    events: str
    sites: str
    names: Mapping[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    things_named: tuple[tuple[str, ...], tuple[str, ...]]
    """First and second words of the names of things."""
    made: str
    """What happens on the first of an event's two dates."""
    settled: str
    amount: str
    count: str
    void: str
    """The mark of events that do not count."""
    fine: str


COLUMNS: dict[str, tuple[str, ...]] = {
    "person": ("id INTEGER PRIMARY KEY", "name TEXT", "town TEXT"),
    "thing": ("id INTEGER PRIMARY KEY", "name TEXT", "kind TEXT"),
    "site": ("id INTEGER PRIMARY KEY", "name TEXT", "town TEXT"),
    "event": (
        "ref TEXT", "person INTEGER", "thing INTEGER", "site INTEGER", "made TEXT", "settled TEXT", "amount INTEGER",
        "count INTEGER", "mark TEXT",
    ),
}  # fmt: skip
"""Logical table -> its logical columns with their types."""

DOMAINS: dict[str, Domain] = {
    "shop": Domain(
        "customers", "products", "sales", "stores",
        {
            "person": ("customers", "clients", "buyers"), "thing": ("products", "articles", "goods"),
            "site": ("stores", "outlets"), "event": ("sales", "purchases"), "person.town": ("town", "city"),
            "thing.kind": ("category", "department"), "event.person": ("customer_id", "buyer_id"),
            "event.thing": ("product_id", "article_id"), "event.site": ("store_id",),
            "event.made": ("ordered_on", "order_date"), "event.settled": ("paid_on", "payment_date"),
            "event.amount": ("revenue", "amount"), "event.count": ("pieces", "quantity"),
            "event.mark": ("status", "mark"),
        },
        ("toys", "garden", "kitchen", "sports"),
        (("red", "blue", "green", "black", "white", "golden", "small", "large"),
         ("lamp", "chair", "clock", "mirror", "rug", "vase", "kettle", "tent", "bike", "scarf", "drum", "basket")),
        "ordered", "paid", "revenue", "pieces", "returned", "kept",
    ),
    "clinic": Domain(
        "patients", "treatments", "visits", "wards",
        {
            "person": ("patients", "clients"), "thing": ("treatments", "procedures", "services"),
            "site": ("wards", "units"), "event": ("visits", "appointments"), "person.town": ("town", "residence"),
            "thing.kind": ("field", "specialty"), "event.person": ("patient_id", "client_id"),
            "event.thing": ("treatment_id", "procedure_id"), "event.site": ("ward_id", "unit_id"),
            "event.made": ("booked_on", "booking_date"), "event.settled": ("billed_on", "billing_date"),
            "event.amount": ("fee", "charge"), "event.count": ("minutes", "duration"),
            "event.mark": ("status", "state"),
        },
        ("surgery", "imaging", "therapy", "dental"),
        (("hand", "knee", "hip", "back", "neck", "foot", "elbow", "shoulder"),
         ("scan", "massage", "check", "brace", "bath", "cast", "test", "injection", "screening", "exercise", "wrap",
          "repair")),
        "booked", "billed", "fee", "minutes", "cancelled", "held",
    ),
    "library": Domain(
        "members", "books", "loans", "branches",
        {
            "person": ("members", "readers", "borrowers"), "thing": ("books", "titles"),
            "site": ("branches", "houses"), "event": ("loans", "lendings"), "person.town": ("town", "home"),
            "thing.kind": ("genre", "shelf"), "event.person": ("member_id", "reader_id"),
            "event.thing": ("book_id", "title_id"), "event.site": ("branch_id", "house_id"),
            "event.made": ("lent_on", "loan_date"), "event.settled": ("back_on", "return_date"),
            "event.amount": ("fine", "penalty"), "event.count": ("pages", "pages_read"),
            "event.mark": ("status", "note"),
        },
        ("crime", "poetry", "history", "travel"),
        (("silver", "silent", "broken", "distant", "burning", "hollow", "frozen", "crooked"),
         ("harbour", "winter", "letter", "mountain", "orchard", "promise", "crown", "shadow", "voyage", "garden",
          "mirror", "bell")),
        "lent", "brought back", "fine", "pages", "withdrawn", "regular",
    ),
}  # fmt: skip


# ---- the records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Person:
    id: int
    name: str
    town: str | None


@dataclass(frozen=True, slots=True)
class Thing:
    id: int
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Site:
    id: int
    name: str
    town: str | None


@dataclass(frozen=True, slots=True)
class Event:
    ref: str
    person: int
    thing: int
    site: int
    made: str
    """ISO date."""
    settled: str | None
    amount: int | None
    count: int
    mark: str | None


@dataclass(frozen=True, slots=True)
class Rules:
    """How the events are to be read. The notes say so; each has a wrong reading that is close at hand."""

    dated: Literal["made", "settled"] = "made"
    """Which of the two dates is the date of an event."""
    void: str = ""
    """Events with this mark do not count; ""; all count."""
    once: bool = False
    """Several rows with one ref are one event."""
    unknown: bool = False
    """A count of 0 stands for one that was not recorded."""
    cents: bool = False
    """Amounts are in cents, else in euros."""


@dataclass(frozen=True, slots=True)
class Records:
    persons: dict[int, Person]
    things: dict[int, Thing]
    sites: dict[int, Site]
    events: list[Event]

    def counted(self, rules: Rules, first: str, last: str) -> list[Event]:
        """The events from `first` to `last`, both included, that count by the rules."""
        found, refs = [], set()
        for event in self.events:
            day = event.made if rules.dated == "made" else event.settled
            if day is None or not first <= day <= last or (rules.void and event.mark == rules.void):
                continue
            if rules.once and event.ref in refs:
                continue
            refs.add(event.ref)
            found.append(event)
        return found


def draw(domain: Domain, rng: random.Random, rules: Rules, towns: list[str], most: int) -> Records:
    """Random records of `most` persons at most. `towns` are those of the question; there are three next to them.
    Sizes and shares vary widely, so that no figure is a good guess."""
    towns = [*towns, *rng.sample([town for town in TOWNS if town not in towns], 3)]
    weights = [rng.uniform(0.2, 3) for _ in towns]
    names = rng.sample([f"{first} {last}" for first in FIRST for last in LAST], rng.randrange(24, most))
    one, two = domain.things_named
    titles = rng.sample([f"{a} {b}" for a in one for b in two], rng.randrange(20, 96))
    places = [f"{a} {b}" for a in PLACES for b in ENDS]
    kinds = [rng.uniform(0.2, 3) for _ in domain.kinds]
    persons = {
        n: Person(n, name, None if rng.random() < 0.1 else rng.choices(towns, weights)[0])
        for n, name in enumerate(names, 1)
    }
    things = {n: Thing(n, title, rng.choices(domain.kinds, kinds)[0]) for n, title in enumerate(titles, 1)}
    sites = {
        n: Site(n, name, None if n == 1 else rng.choice(towns))
        for n, name in enumerate(rng.sample(places, rng.randrange(8, 12)), 1)
    }
    number = rng.randrange(150, 500)

    def column(values: Sequence[Any], weights: Sequence[float] | None = None) -> list[Any]:
        return rng.choices(values, weights, k=number)  # all at once: most of an episode's set-up is spent here

    rows = zip(
        rng.sample(range(1000, 10000), number),
        column(range(1, len(persons) + 1)),
        column(range(1, len(things) + 1)),
        column(range(1, len(sites) + 1)),
        column(range(366)),
        column([None, *range(60)], [6, *[1] * 60]),
        column(range(300, 20000) if rules.cents else range(3, 200)),
        column((True, False), (1, 12)),
        column(range(90)),
        column((True, False), (1, 5)),
        column((domain.void, domain.fine, None), (2, 6, 2)),
        strict=True,
    )
    events = [
        Event(
            f"r{ref}", person, thing, site, _DATES[made], None if later is None else _DATES[made + later],
            None if free else amount, 0 if uncounted else count, mark,
        )
        for ref, person, thing, site, made, later, amount, free, count, uncounted, mark in rows
    ]  # fmt: skip
    if rules.once:
        for event in rng.sample(events, len(events) // 6):
            events.insert(rng.randrange(len(events) + 1), event)
    return Records(persons, things, sites, events)


# ---- the database ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Names:
    """What the tables and columns are called in one database, by their logical names."""

    of: dict[str, str]

    @classmethod
    def draw(cls, domain: Domain, rng: random.Random) -> Names:
        of: dict[str, str] = {}
        for table, columns in COLUMNS.items():
            of[table] = rng.choice(domain.names[table])
            for column in columns:
                name = f"{table}.{column.split()[0]}"
                of[name] = rng.choice(domain.names.get(name, (name.split(".")[1],)))
        return cls(of)

    def __getitem__(self, logical: str) -> str:
        return self.of[logical]

    @property
    def tables(self) -> dict[str, str]:
        """What a table is called -> its logical name."""
        return {self.of[table]: table for table in COLUMNS}

    def columns(self, table: str) -> list[str]:
        """The columns of a logical table, with their types."""
        return [f"{self.of[f'{table}.{name}']} {kind}" for name, kind in (c.split(" ", 1) for c in COLUMNS[table])]

    def renamed(self, old: str, new: str) -> Names:
        """The same with another name for a table."""
        return Names({logical: new if (logical in COLUMNS and n == old) else n for logical, n in self.of.items()})

    def sql(self, text: str) -> str:
        """A statement in logical names (`event.amount`) in those of this database. Its literals must hold none."""

        def name(found: re.Match[str]) -> str:
            table, column = found.group(1), found.group(2)
            return f"{self.of[table]}.{self.of[f'{table}.{column}']}" if column else self.of[table]

        return re.sub(rf"\b({'|'.join(COLUMNS)})\b(?:\.(\w+))?", name, text)


def build(records: Records, names: Names) -> bytes:
    """The image of a database that holds the records."""
    db = sqlite3.connect(":memory:", isolation_level=None, factory=Database)
    tables: dict[str, list[tuple[str | int | None, ...]]] = {
        "person": [(p.id, p.name, p.town) for p in records.persons.values()],
        "thing": [(t.id, t.name, t.kind) for t in records.things.values()],
        "site": [(s.id, s.name, s.town) for s in records.sites.values()],
        "event": [
            (e.ref, e.person, e.thing, e.site, e.made, e.settled, e.amount, e.count, e.mark) for e in records.events
        ],
    }
    db.execute("BEGIN")
    for table, rows in tables.items():
        db.execute(f"CREATE TABLE {names[table]} ({', '.join(names.columns(table))})")
        db.executemany(f"INSERT INTO {names[table]} VALUES ({', '.join('?' * len(COLUMNS[table]))})", rows)
    db.execute("COMMIT")
    image = db.serialize()
    db.close()
    return image


def notes(table: str, domain: Domain, names: Names, rules: Rules) -> str:
    """What has to be known about a logical table."""
    if table != "event":
        what = {"person": domain.persons, "thing": domain.things, "site": domain.sites}[table]
        more = {
            "person": f" An empty {names['person.town']} is one that was not told.",
            "thing": "",
            "site": f" One without a {names['site.town']} is in no town.",
        }[table]
        return f"One row for each of the {what}.{more}"
    dated = domain.made if rules.dated == "made" else domain.settled
    lines = [
        f"Of the {domain.events}, those marked {rules.void} do not count; those without a mark do.",
        f"A date means the day on which it was {dated} ({names[f'event.{rules.dated}']}).",
        f"{names['event.amount']} is in {'cents' if rules.cents else 'euros'}, empty where none is known.",
        f"0 in {names['event.count']} stands for not recorded.",
    ]
    if rules.once:
        lines.append("Several rows with one ref are one and the same, loaded twice.")
    return " ".join(lines)
