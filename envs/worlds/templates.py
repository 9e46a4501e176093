"""The tools that a generated world may have: `TEMPLATES`.

To add one: write a `Template`, and give `templates = (*TEMPLATES, mine)` in a subclass of `Worlds`. The expert finds
out how to use it from what it `reveals` or `makes`, and from its parameters.
"""

from __future__ import annotations

from ...tools.errors import Conflict, NotFound
from ...trajectories.messages import Json
from .graph import PAGE, Graph, PersonNode, RecordNode
from .schema import Template

__all__ = ["TEMPLATES"]


def _line(world: Graph, record: RecordNode, *, owner: bool = False) -> dict[str, Json]:
    """A record in a list. The id comes after what it belongs to."""
    keys = world.schema.keys
    head = {keys["person"]: world.people[record.owner].name} if owner else {}
    return {**head, keys["thing"]: record.thing, keys["record_id"]: record.id}


# ---- looking ---------------------------------------------------------------------------------------------------------


def _find(world: Graph, person: str, thing: str) -> Json:
    record = world.record_of(f"{person}/{thing}")
    if record is None:
        raise NotFound(f"{person} has no {thing}")
    return _line(world, record)


def _find_owner(world: Graph, contact: str) -> Json:
    keys = world.schema.keys
    for person in world.people:
        if contact in (person.name, person.contact):
            found = {keys["person"]: person.name, keys["person_id"]: person.id}
            return {**found, keys["access"]: _yes(person.unlocked)} if world.schema.has("unlock") else found
    raise NotFound(f"no {world.schema.words['person']} {contact}")


def _list(world: Graph, person_id: str) -> Json:
    owner = world.people.index(world.person(person_id))
    return [_line(world, record) for record in world.records if record.owner == owner]


def _browse(world: Graph, page: int) -> Json:
    first = (page - 1) * PAGE
    if not 0 <= first < len(world.records):
        raise NotFound(f"there is no {world.schema.keys['page']} {page}")
    rows = [_line(world, record, owner=True) for record in world.records[first : first + PAGE]]
    more = page + 1 if first + PAGE < len(world.records) else 0
    return {f"{world.schema.words['record']}s": rows, world.schema.keys["more"]: more}


def _find_place(world: Graph, place: str) -> Json:
    for one in world.places:
        if one.name == place:
            return {world.schema.keys["place"]: one.name, world.schema.keys["place_id"]: one.id}
    raise NotFound(f"no {world.schema.words['place']} {place}")


def _read(world: Graph, record_id: str) -> Json:
    schema, record = world.schema, world.record(record_id)
    keys = schema.keys
    shown: dict[str, Json] = {keys["status"]: record.status, keys["field0"]: record.values[0]}
    if schema.has("edit"):
        shown[keys["field1"]] = record.values[1]
    if schema.has("approve"):
        shown[keys["approved"]] = _yes(record.approved)
    if schema.has("verify"):
        shown[keys["verified"]] = _yes(record.verified)
    if record.linked:
        shown[keys["linked"]] = next(one.id for one in world.records if world.what(one) == record.linked)
    if record.place:
        shown[keys["place_id"]] = next(place.id for place in world.places if place.name == record.place)
    return {**shown, keys["record_id"]: record.id}


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


# ---- changing --------------------------------------------------------------------------------------------------------
# Nothing protects against a change that is made twice, as real desks often do not: a blind retry makes it twice.


def _open(world: Graph, record: RecordNode) -> None:
    """Raises `Conflict` where the record's owner has not been unlocked."""
    _may_change(world, world.people[record.owner])


def _may_change(world: Graph, person: PersonNode) -> None:
    if world.schema.has("unlock") and not person.unlocked:
        raise Conflict(
            f"{person.name} is not {world.schema.keys['access']}", hint=f"call {world.schema.names['unlock']}"
        )


def _status(world: Graph, record: RecordNode, status: str) -> str:
    _open(world, record)
    if world.schema.has("approve") and not record.approved:
        raise Conflict(
            f"{record.id} is not {world.schema.keys['approved']}", hint=f"call {world.schema.names['approve']}"
        )
    record.status, record.verified = status, False
    world.note(world.what(record), "status", status)
    return status


def _act0(world: Graph, record_id: str) -> str:
    return _status(world, world.record(record_id), world.schema.words["done0"])


def _act1(world: Graph, record_id: str) -> str:
    return _status(world, world.record(record_id), world.schema.words["done1"])


def _set_status(world: Graph, record_id: str, status: str) -> str:
    record = world.record(record_id)
    known = [world.schema.words[f"done{i}"] for i in range(2) if world.schema.has(f"act{i}")]
    if status not in known:
        raise Conflict(f"{world.schema.keys['status']} is {' or '.join(known)}, not {status}")
    return _status(world, record, status)


def _set(world: Graph, record: RecordNode, index: int, value: str) -> str:
    _open(world, record)
    called, values = world.schema.fields[index]
    if value not in values:
        raise Conflict(f"{called} is {', '.join(values)}, not {value}")
    record.values[index], record.verified = value, False
    world.note(world.what(record), f"field{index}", value)
    return "ok"


def _set0(world: Graph, record_id: str, value: str) -> str:
    return _set(world, world.record(record_id), 0, value)


def _edit(world: Graph, record_id: str, field: str, value: str) -> str:
    called = [name for name, _ in world.schema.fields]
    record = world.record(record_id)
    if field not in called:
        raise Conflict(f"{world.schema.keys['field']} is {' or '.join(called)}, not {field}")
    return _set(world, record, called.index(field), value)


def _link(world: Graph, record_id: str, place_id: str) -> str:
    record, place = world.record(record_id), world.place(place_id)
    _open(world, record)
    record.place, record.verified = place.name, False
    world.note(world.what(record), "link", place.name)
    return "ok"


def _made(world: Graph, person: PersonNode, thing: str) -> Json:
    if thing not in world.schema.lexicon.things:
        raise NotFound(f"no {world.schema.keys['thing']} {thing}")
    _may_change(world, person)
    values = [values[0] for _, values in world.schema.fields]
    record = world.add_record(world.people.index(person), thing, world.schema.states[0], values)
    world.note(world.what(record), "create")
    return _line(world, record)


def _create(world: Graph, person_id: str, thing: str) -> Json:
    return _made(world, world.person(person_id), thing)


def _create_for(world: Graph, person: str, thing: str) -> Json:
    owner = world.person_of(person)
    if owner is None:
        raise NotFound(f"no {world.schema.words['person']} {person}")
    return _made(world, owner, thing)


def _approve(world: Graph, record_id: str) -> str:
    record = world.record(record_id)
    _open(world, record)
    if not record.approved:
        record.approved = True
        world.note(world.what(record), "approve")
    return "ok"


def _unlock(world: Graph, person_id: str) -> str:
    person = world.person(person_id)
    if not person.unlocked:
        person.unlocked = True
        world.note(person.name, "unlock")
    return "ok"


def _verify(world: Graph, record_id: str) -> str:
    record = world.record(record_id)
    if not record.verified:
        record.verified = True
        world.note(world.what(record), "verify")
    return "ok"


def _trap(world: Graph, record_id: str) -> str:
    world.note(world.what(world.record(record_id)), "trap")
    return "ok"


def _log_in(world: Graph) -> str:
    return "welcome"


def _wait(world: Graph) -> str:
    return "ok"


def _always(world: Graph, to: str) -> dict[str, Json]:
    return {}


def _done(index: int, world: Graph, to: str) -> dict[str, Json] | None:
    return {} if to == world.schema.words[f"done{index}"] else None


TEMPLATES: tuple[Template, ...] = (
    Template(
        "find",
        ("{find} {record}", "{find2} {record}", "{find} {record} of {person}"),
        "Find a {record} by its {person} and what it is about.",
        ("person", "thing"),
        _find,
        second=("find_owner", "browse"),
        reveals="record",
    ),
    Template(
        "find_owner",
        ("{find} {person}", "{find2} {person}"),
        "Find a {person} by name or contact.",
        ("contact",),
        _find_owner,
        second=("find", "browse"),
        reveals="person",
    ),
    Template(
        "list",
        ("{list} {record}s", "{record}s of {person}", "{list} {record}s of {person}"),
        "List a {person}'s {record}s.",
        ("person_id",),
        _list,
        second=("find", "browse"),
        reveals="record",
    ),
    Template(
        "browse",
        ("{browse} {record}s", "{browse} all {record}s"),
        "All {record}s with their {person}s, page by page, from 1.",
        ("page",),
        _browse,
        second=("find", "find_owner"),
        reveals="record",
    ),
    Template(
        "find_place",
        ("{find} {place}", "{find2} {place}"),
        "Find a {place} by its name.",
        ("place",),
        _find_place,
        reveals="place",
    ),
    Template("read", ("{read} {record}", "{read} {record}"), "Read a {record}.", ("record_id",), _read, reveals="read"),
    Template(
        "act0",
        ("{verb0} {record}", "{verb0}"),
        "{verb0} a {record}.",
        ("record_id",),
        _act0,
        effect=True,
        second=("set_status",),
        makes="status",
        values=lambda world, to: _done(0, world, to),
    ),
    Template(
        "act1",
        ("{verb1} {record}", "{verb1}"),
        "{verb1} a {record}.",
        ("record_id",),
        _act1,
        effect=True,
        second=("set_status",),
        makes="status",
        values=lambda world, to: _done(1, world, to),
    ),
    Template(
        "set_status",
        ("{set} {state}", "{set} {record} {state}"),
        "Set a {record}'s {state}.",
        ("record_id", "status"),
        _set_status,
        effect=True,
        makes="status",
        values=lambda world, to: {"status": to},
    ),
    Template(
        "set0",
        ("{set} {field0}", "{set} {record} {field0}"),
        "Set a {record}'s {field0}.",
        ("record_id", "value"),
        _set0,
        effect=True,
        second=("edit",),
        makes="field0",
        values=lambda world, to: {"value": to},
    ),
    Template(
        "edit",
        ("{edit} {record}", "{edit} {record} {field1}"),
        "Set a {record}'s {field0} or {field1}.",
        ("record_id", "field", "value"),
        _edit,
        effect=True,
        makes="field0",
        values=lambda world, to: {"field": world.schema.keys["field0"], "value": to},
    ),
    Template(
        "link",
        ("{link} {record}", "{link} {record} {place}"),
        "{link} a {record} to a {place}.",
        ("record_id", "place_id"),
        _link,
        effect=True,
        makes="link",
        values=_always,
    ),
    Template(
        "create",
        ("{create} {record}",),
        "{create} a {record} for a {person}.",
        ("person_id", "thing"),
        _create,
        effect=True,
        makes="create",
        values=_always,
    ),
    Template(
        "create_for",
        ("{create} {record}", "{create} {record} of {person}"),
        "{create} a {record} for a {person}.",
        ("person", "thing"),
        _create_for,
        effect=True,
        makes="create",
        values=_always,
    ),
    Template(
        "approve",
        ("{approve} {record}", "{approve}"),
        "{approve} a {record}.",
        ("record_id",),
        _approve,
        effect=True,
        idempotent=True,
        makes="approve",
        values=_always,
    ),
    Template(
        "unlock",
        ("{unlock} {person}", "{unlock}"),
        "{unlock} a {person}.",
        ("person_id",),
        _unlock,
        effect=True,
        idempotent=True,
        makes="unlock",
        values=_always,
    ),
    Template(
        "verify",
        ("{verify} {record}", "{verify}"),
        "{verify} a {record}.",
        ("record_id",),
        _verify,
        effect=True,
        idempotent=True,
        makes="verify",
        values=_always,
    ),
    Template("trap", ("{trap} {record}", "{trap}"), "{trap} a {record}.", ("record_id",), _trap, effect=True),
    Template("log_in", ("{login}",), "Start a new session.", (), _log_in, logs_in=True),
    Template("wait", ("{wait}",), "Let some time pass.", (), _wait, waits=True),
)
