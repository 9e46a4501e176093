"""The expert of generated worlds: the fewest calls from any state to the goals, by the tools that are left.

What is to be done are changes; a change is made by a tool, which needs ids; an id is told by some tools, which may need
ids themselves. So each id has a few ways to it. Of all combinations of ways, the plan takes one of which the calls,
counted once, are fewest. What earlier results have told (and is still true) costs nothing.
Nobody knows on which page a record is: a way by pages counts all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import NamedTuple

from ...trajectories.messages import Json
from ...trajectories.trajectory import Turn
from .goals import Data, Goal
from .graph import PAGE, Change, Graph
from .schema import Template

__all__ = ["Call", "Planner", "Ref"]

_COMBINATIONS = 400
"""Of ways, that are compared at most."""
_USUAL, _GUESSED, _LONG = 2, 5, 3
"""What a call costs; one that uses a name which the task does not tell, and its address only suggests, costs more. So
does a list of all pages, which is long to read."""


class Ref(NamedTuple):
    """An id, by what it is of: it is looked up when the call is made."""

    kind: str
    """person, record, place; or read: that a record has been read."""
    what: str


class Call(NamedTuple):
    role: str
    arguments: tuple[tuple[str, str | int | Ref], ...]
    """By role of the parameter."""


Way = tuple[Call, ...]


class Planner:
    """What is known now, and what is to be done."""

    def __init__(
        self,
        world: Graph,
        goals: Sequence[tuple[Goal, Data]],
        templates: Mapping[str, Template],
        gone: set[str],
        history: Sequence[Turn],
    ) -> None:
        """
        Args:
            world: As it is.
            goals: Of the task.
            templates: By role.
            gone: Names of tools that are of no use any more.
            history: What the agent has seen.
        """
        self.world = world
        self.goals = goals
        self.tools = [templates[role] for role, name in world.schema.names.items() if name not in gone]
        self.tools.sort(key=lambda template: list(templates).index(template.role))
        self.named = {data["name"] for _, data in goals if not data.get("by_contact")}
        self.named |= {data["name2"] for _, data in goals if "name2" in data}
        self.via = {what: by for goal, data in goals for what, by in goal.via(data).items()}
        self.seen: set[str] = set()
        self.read: set[str] = set()
        reader = world.schema.names.get("read")
        for turn in history:
            for result in turn.results:
                if result.ok:
                    self.seen.update(_texts(result.value))
                    if result.tool == reader and result.fault is None:
                        self.read.add(result.value[world.schema.keys["record_id"]])

    def plan(self) -> list[Call] | None:
        """The calls that are still to be made, in order. None: there is no way any more."""
        items: list[Ref | Change] = []
        for goal, data in self.goals:
            items += self._items(goal, data)
        calls: list[tuple[list[Ref], Call | None]] = []
        for item in items:
            if isinstance(item, Ref):
                calls.append(([item], None))
            elif (call := self._make(item)) is None:
                return None
            else:
                calls.append(([ref for _, ref in call.arguments if isinstance(ref, Ref)], call))
        needs = list(dict.fromkeys(need for some, _ in calls for need in some))
        ways = [self._ways(need) for need in needs]
        if not all(ways):
            return None
        if prod(map(len, ways)) > 1:
            chosen = dict(zip(needs, self._cheapest(ways), strict=True))
        else:
            chosen = dict(zip(needs, (way[0] for way in ways), strict=True))
        plan: dict[Call, None] = {}  # in order, each once
        for some, call in calls:
            for need in some:
                plan |= dict.fromkeys(chosen[need])
            if call is not None:
                plan[call] = None
        return list(plan)

    def arguments(self, call: Call) -> dict[str, Json] | None:
        """By the names of this world, with ids as they are now. None: something that it needs is not there."""
        found: dict[str, Json] = {}
        for role, value in call.arguments:
            id = self._id(value) if isinstance(value, Ref) else value
            if id is None:
                return None
            found[self.world.schema.keys[role]] = id
        return found

    # ---- what is to be done ------------------------------------------------------------------------------------------

    def _items(self, goal: Goal, data: Data) -> Iterator[Ref | Change]:
        world, made = self.world, set(self.world.audit)
        wanted = goal.wanted(world, data)
        to_do = [change for change in wanted if change not in made]
        if to_do:
            yield from (Ref("read", what) for what in goal.reads(data))
        for change in to_do:
            owner = change.what.partition("/")[0]
            person, record = world.person_of(owner), world.record_of(change.what)
            if world.schema.has("unlock") and person is not None and not person.unlocked:
                yield Change(owner, "unlock")
            if world.schema.has("approve") and change.kind == "status" and not (record and record.approved):
                yield Change(change.what, "approve")
            yield change
        if world.schema.has("verify"):
            for what in dict.fromkeys(change.what for change in wanted if "/" in change.what):
                record = world.record_of(what)
                if to_do or record is None or not record.verified:
                    yield Change(what, "verify")

    def _make(self, change: Change) -> Call | None:
        """The first tool that makes a change."""
        for template in self.tools:
            if template.makes == change.kind:
                values = template.values(self.world, change.to)
                if values is not None:
                    return self._call(template, change.what, change.to, values)
        return None

    def _call(self, template: Template, what: str, to: str = "", values: Mapping[str, Json] | None = None) -> Call:
        name, _, thing = what.partition("/")
        known: dict[str, str | int | Ref] = {
            "person": name,
            "thing": thing,
            "contact": name if name in self.named else self.world.schema.contact_of(name),
            "place": what,
            "person_id": Ref("person", name),
            "record_id": Ref("record", what),
            "place_id": Ref("place", to),
            **(values or {}),
        }
        return Call(template.role, tuple((role, known[role]) for role in template.parameters))

    # ---- ways to what is needed --------------------------------------------------------------------------------------

    def _id(self, ref: Ref) -> str | None:
        if ref.kind == "person":
            person = self.world.person_of(ref.what)
            return person.id if person else None
        if ref.kind == "place":
            return next((place.id for place in self.world.places if place.name == ref.what), None)
        record = self.world.record_of(ref.what)
        return record.id if record else None

    def _ways(self, need: Ref) -> list[Way]:
        """All ways to an id, or to what a record holds, the usual one first. One that is known has the empty way."""
        id = self._id(need)
        if id is not None and id in (self.read if need.kind == "read" else self.seen):
            return [()]
        if need.kind == "record" and (by := self.via.get(need.what)) is not None:
            return self._ways_by("read", by)
        if need.kind == "record" and (made := self._created(need.what)):
            return made
        return self._ways_by(need.kind, need.what)

    def _ways_by(self, kind: str, what: str) -> list[Way]:
        ways: list[Way] = []
        for template in self.tools:
            if template.reveals != kind:
                continue
            if "page" in template.parameters:
                ways.append(tuple(Call(template.role, (("page", n),)) for n in range(1, self._page(what) + 1)))
                continue
            call = self._call(template, what)
            before = [self._ways(ref) for _, ref in call.arguments if isinstance(ref, Ref)]
            ways += [(*(c for way in some for c in way), call) for some in product(*before)]
        return sorted(ways, key=self._cost)  # stable: the usual way first where several cost the same

    def _created(self, what: str) -> list[Way]:
        """A record that is still to be created is known once it is: the call that creates it tells its id."""
        to_make = any(Change(what, "create") in goal.wanted(self.world, data) for goal, data in self.goals)
        return [()] if to_make and self.world.record_of(what) is None else []

    def _page(self, what: str) -> int:
        """On which page a record is; the last one where it is nowhere."""
        index = next((i for i, r in enumerate(self.world.records) if self.world.what(r) == what), -1)
        return (index if index >= 0 else len(self.world.records) - 1) // PAGE + 1

    def _cost(self, way: Sequence[Call]) -> int:
        return sum(self._price(call) for call in way)

    def _price(self, call: Call) -> int:
        page = dict(call.arguments).get("page")
        if page is not None:  # nobody knows beforehand how far it is: as far as it goes
            return _USUAL * self._page("") + _LONG if page == 1 else 0
        guessed = any(role == "person" and value not in self.named for role, value in call.arguments)
        return _GUESSED if guessed else _USUAL

    def _cheapest(self, ways: list[list[Way]]) -> tuple[Way, ...]:
        best: tuple[Way, ...] = tuple(some[0] for some in ways)
        least = sum(map(self._price, {call for way in best for call in way}))
        for some in islice(product(*ways), _COMBINATIONS):
            cost = sum(map(self._price, {call for way in some for call in way}))
            if cost < least:
                best, least = some, cost
        return best


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
