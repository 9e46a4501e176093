"""The state of a generated world: people, records and places, what links them, and an audit of all changes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ...tools.errors import NotFound
from .schema import Schema

__all__ = ["PAGE", "Change", "Graph", "PersonNode", "PlaceNode", "RecordNode"]

PAGE = 4
"""Records of a page, where they are shown page by page."""
_RECORDS = 9
"""Records of a world at least."""


class Change(NamedTuple):
    """A change of the world, wanted or made."""

    what: str
    """What it concerns, by words that never change: `Dora/sofa` for a record, `Dora` for a person."""
    kind: str
    """status, field0, field1, link, create; approve, unlock, verify; or one that a template brings."""
    to: str = ""
    """The new state, value or place."""


@dataclass(slots=True)
class PersonNode:
    name: str
    contact: str
    id: str
    unlocked: bool = False


@dataclass(slots=True)
class PlaceNode:
    name: str
    id: str


@dataclass(slots=True)
class RecordNode:
    owner: int
    """Index of a person."""
    thing: str
    status: str
    values: list[str]
    """Of its two fields."""
    id: str
    approved: bool = False
    verified: bool = False
    linked: str = ""
    """To another record, by its `what`."""
    place: str = ""
    """To which it is linked, by its name."""


@dataclass(slots=True)
class Graph:
    """All of it. Plain data: a fork copies it."""

    schema: Schema
    people: list[PersonNode] = field(default_factory=list)
    records: list[RecordNode] = field(default_factory=list)
    places: list[PlaceNode] = field(default_factory=list)
    audit: list[Change] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """That ids have not yet."""

    # ---- looking -----------------------------------------------------------------------------------------------------

    def what(self, record: RecordNode) -> str:
        return f"{self.people[record.owner].name}/{record.thing}"

    def record_of(self, what: str) -> RecordNode | None:
        return next((record for record in self.records if self.what(record) == what), None)

    def person_of(self, name: str) -> PersonNode | None:
        return next((person for person in self.people if person.name == name), None)

    def record(self, record_id: str) -> RecordNode:
        """Raises `NotFound`, like the two below."""
        for record in self.records:
            if record.id == record_id:
                return record
        raise NotFound(f"no {self.schema.words['record']} {record_id}")

    def person(self, person_id: str) -> PersonNode:
        for person in self.people:
            if person.id == person_id:
                return person
        raise NotFound(f"no {self.schema.words['person']} {person_id}")

    def place(self, place_id: str) -> PlaceNode:
        for place in self.places:
            if place.id == place_id:
                return place
        raise NotFound(f"no {self.schema.words['place']} {place_id}")

    # ---- changing ----------------------------------------------------------------------------------------------------

    def note(self, what: str, kind: str, to: str = "") -> None:
        self.audit.append(Change(what, kind, to))

    def new_id(self, kind: str) -> str:
        """An id that nothing has had. `kind` is person, record or place."""
        return self.schema.new_id(kind, self.numbers.pop())

    def add_record(self, owner: int, thing: str, status: str, values: Iterable[str]) -> RecordNode:
        record = RecordNode(owner, thing, status, list(values), self.new_id("record"))
        self.records.append(record)
        return record

    @classmethod
    def filled(
        cls, schema: Schema, wanted: Iterable[tuple[str, str]], absent: Iterable[tuple[str, str]], rng: random.Random
    ) -> Graph:
        """A world of four people and nine records or more. Those `wanted`, as (name, thing), are there; (name, "") is a
        person alone. Those `absent` are not."""
        world = cls(schema, numbers=rng.sample(range(100, 1000), 200))
        lexicon = schema.lexicon
        pairs = list(dict.fromkeys(wanted))
        names = list(dict.fromkeys(name for name, _ in pairs))
        names += rng.sample([name for name in lexicon.names if name not in names], max(0, 4 - len(names)))
        rng.shuffle(names)
        for name in names:
            world.people.append(PersonNode(name, schema.contact_of(name), world.new_id("person")))
        drawn = [(name, thing) for name, thing in pairs if thing]
        taken = {*pairs, *absent}
        while len(drawn) < _RECORDS:
            pair = (rng.choice(names), rng.choice(lexicon.things))
            if pair not in taken:
                taken.add(pair)
                drawn.append(pair)
        rng.shuffle(drawn)
        for name, thing in drawn:
            values = [rng.choice(values) for _, values in schema.fields]
            world.add_record(names.index(name), thing, rng.choice(schema.states), values)
        for name in lexicon.sites:
            world.places.append(PlaceNode(name, world.new_id("place")))
        return world
