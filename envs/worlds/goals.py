"""What a task of a generated world may ask for: `GOALS`. And what tasks are made of, by level.

To add a kind of goal: subclass `Goal`, and give `goals = (*GOALS, Mine())` in a subclass of `Worlds`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ...trajectories.messages import Json
from .graph import Change, Graph
from .schema import Schema

__all__ = ["GOALS", "Draft", "Goal", "kinds_of", "roles_of"]

Data = dict[str, Json]
"""A goal, as a task holds it: `kind`, `name` and `thing` of its record, `by_contact`, and what its kind adds."""


@dataclass(slots=True)
class Draft:
    """A task that is being made."""

    schema: Schema
    rng: random.Random
    taken: set[tuple[str, str]] = field(default_factory=set)
    """Records that it speaks of."""

    def record(self, name: str = "") -> Data:
        """A record that nothing else of the task speaks of: {"name", "thing"}. `name`: of its owner."""
        lexicon = self.schema.lexicon
        while True:
            pair = (name or self.rng.choice(lexicon.names), self.rng.choice(lexicon.things))
            if pair not in self.taken:
                self.taken.add(pair)
                return {"name": pair[0], "thing": pair[1]}

    def say(self, *wordings: str) -> str:
        """One of the wordings, with the words of this world. What is in << >> is left for `Goal.told`."""
        words = {key: word.replace("_", " ") for key, word in self.schema.words.items()}
        text = self.rng.choice(wordings).format(**words)
        return text.replace("<<", "{").replace(">>", "}")

    def ref(self, who: str = "who", thing: str = "thing") -> str:
        """How a record is spoken of."""
        return self.rng.choice((f"<<{who}>>'s <<{thing}>> {{record}}", f"the <<{thing}>> {{record}} of <<{who}>>"))


class Goal:
    """One kind of goal."""

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Roles of the tools that it takes, besides those that find its record."""

    def draw(self, draft: Draft) -> Data:
        """A goal of this kind, with a `text` in which {who} and {thing} (and {who2}, {thing2}) are still to fill in."""
        raise NotImplementedError

    def prepare(self, world: Graph, goal: Data) -> None:
        """Sets the goal's records up, so that it is still to do."""

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        """The changes that it asks for, in the world as it is. Approvals and the like are not among them."""
        raise NotImplementedError

    def reads(self, goal: Data) -> list[str]:
        """Records that have to be read before it is known what to do, as `what`."""
        return []

    def records(self, goal: Data) -> list[tuple[str, str]]:
        """The records that have to be there, as (name, thing); (name, "") is a person alone."""
        return [(goal["name"], goal["thing"])]

    def absent(self, goal: Data) -> list[tuple[str, str]]:
        """The records that must not be there at first."""
        return []

    def via(self, goal: Data) -> dict[str, str]:
        """Records that can be found in one way alone: `what` -> that of the record that links to it."""
        return {}


def _what(goal: Data) -> str:
    return f"{goal['name']}/{goal['thing']}"


class _Act(Goal):
    kind, needs = "act", ("act0",)

    def draw(self, draft: Draft) -> Data:
        r = draft.ref()
        return {
            **draft.record(),
            "text": draft.say(f"{{verb0}} {r}.", f"Please {{verb0}} {r}.", f"{r} has to be {{done0}}."),
        }

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        return [Change(_what(goal), "status", world.schema.words["done0"])]


class _Set(Goal):
    kind, needs = "set", ("set0",)

    def draw(self, draft: Draft) -> Data:
        value = draft.rng.choice(draft.schema.fields[0][1])
        r = draft.ref()
        text = draft.say(
            f"Set the {{field0}} of {r} to {value}.", f"The {{field0}} of {r} should be {value}.",
            f"{r} needs another {{field0}}: {value}.",
        )  # fmt: skip
        return {**draft.record(), "value": value, "text": text}

    def prepare(self, world: Graph, goal: Data) -> None:
        record = world.record_of(_what(goal))
        values = world.schema.fields[0][1]
        if record is not None and record.values[0] == goal["value"]:
            record.values[0] = values[(values.index(goal["value"]) + 1) % len(values)]

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        return [Change(_what(goal), "field0", goal["value"])]


class _Decide(Goal):
    kind, needs = "decide", ("act0", "act1")

    def draw(self, draft: Draft) -> Data:
        r, first = draft.ref(), draft.schema.states[0]
        text = draft.say(
            f"If {r} is {first}, {{verb0}} it, else {{verb1}} it.",
            f"{{verb1}} {r}, but {{verb0}} it if it is {first}.",
        )
        return {**draft.record(), "state": draft.rng.randrange(2), "text": text}

    def prepare(self, world: Graph, goal: Data) -> None:
        record = world.record_of(_what(goal))
        if record is not None:
            record.status = world.schema.states[goal["state"]]

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        return [Change(_what(goal), "status", world.schema.words[f"done{goal['state']}"])]

    def reads(self, goal: Data) -> list[str]:
        return [_what(goal)]


class _Link(Goal):
    kind, needs = "link", ("link", "find_place")

    def draw(self, draft: Draft) -> Data:
        site = draft.rng.choice(draft.schema.lexicon.sites)
        r = draft.ref()
        text = draft.say(f"{{link}} {r} to the {{place}} {site}.", f"{r} belongs to the {{place}} {site}: {{link}} it.")
        return {**draft.record(), "site": site, "text": text}

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        return [Change(_what(goal), "link", goal["site"])]


class _Create(Goal):
    kind = "create"
    needs: ClassVar[tuple[str, ...]] = ("create",)

    def draw(self, draft: Draft) -> Data:
        text = draft.say(
            "{create} a <<thing>> {record} for <<who>>.", "<<who>> needs a new <<thing>> {record}: {create} it."
        )
        return {**draft.record(), "text": text}

    def records(self, goal: Data) -> list[tuple[str, str]]:
        return [(goal["name"], "")]

    def absent(self, goal: Data) -> list[tuple[str, str]]:
        return [(goal["name"], goal["thing"])]

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        return [Change(_what(goal), "create")]


class _CreateFor(_Create):
    kind, needs = "create_for", ("create_for", "find")


class _Follow(Goal):
    """What a record is linked to is to be changed, and nothing but the record tells what that is."""

    kind, needs = "follow", ("act0",)

    def draw(self, draft: Draft) -> Data:
        record = draft.record()
        r = draft.ref()
        linked = draft.schema.keys["linked"].replace("_", " ")
        text = draft.say(
            f"{{verb0}} the {{record}} that {r} has as {linked}.", f"See the {linked} of {r}, and {{verb0}} that one."
        )
        return {**record, "target": draft.record(record["name"])["thing"], "text": text}

    def records(self, goal: Data) -> list[tuple[str, str]]:
        return [(goal["name"], goal["thing"]), (goal["name"], goal["target"])]

    def prepare(self, world: Graph, goal: Data) -> None:
        record = world.record_of(_what(goal))
        if record is not None:
            record.linked = self._target(goal)

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        return [Change(self._target(goal), "status", world.schema.words["done0"])]

    def via(self, goal: Data) -> dict[str, str]:
        return {self._target(goal): _what(goal)}

    def _target(self, goal: Data) -> str:
        return f"{goal['name']}/{goal['target']}"


class _Copy(Goal):
    """A value is to be that of another record: read one, write the other."""

    kind, needs = "copy", ("set0",)

    def draw(self, draft: Draft) -> Data:
        record, other = draft.record(), draft.record()
        r, s = draft.ref(), draft.ref("who2", "thing2")
        text = draft.say(
            f"Give {r} the {{field0}} of {s}.", f"The {{field0}} of {r} should be the same as that of {s}: set it."
        )
        return {**record, "name2": other["name"], "thing2": other["thing"], "text": text}

    def records(self, goal: Data) -> list[tuple[str, str]]:
        return [(goal["name"], goal["thing"]), (goal["name2"], goal["thing2"])]

    def prepare(self, world: Graph, goal: Data) -> None:
        record, other = world.record_of(_what(goal)), world.record_of(self._other(goal))
        values = world.schema.fields[0][1]
        if record is not None and other is not None and record.values[0] == other.values[0]:
            record.values[0] = values[(values.index(other.values[0]) + 1) % len(values)]

    def wanted(self, world: Graph, goal: Data) -> list[Change]:
        other = world.record_of(self._other(goal))
        return [Change(_what(goal), "field0", other.values[0] if other is not None else "")]

    def reads(self, goal: Data) -> list[str]:
        return [self._other(goal)]

    def _other(self, goal: Data) -> str:
        return f"{goal['name2']}/{goal['thing2']}"


GOALS: tuple[Goal, ...] = (
    _Act(), _Set(), _Decide(), _Link(), _Create(), _CreateFor(), _Follow(), _Copy(),
)  # fmt: skip


# ---- by level --------------------------------------------------------------------------------------------------------

_SIMPLE = ("act", "act", "set", "create_for")
_LONGER = ("decide", "link", "follow", "create", "copy")
_SIZES = {1: (5, 10), 2: (6, 12), 3: (8, 14), 4: (10, 15)}
"""Level -> range of the number of tools, where the goals do not need more."""


def kinds_of(level: int, goals: Mapping[str, Goal], rng: random.Random) -> list[tuple[str, bool]]:
    """(kind of goal, whether its person is told by contact) of a task's goals.

    Level 1: one simple goal, person by name. 2: one by contact, or a longer one. 3: two. 4: two or three, longer ones
    among them. Kinds that are not in `goals` are not drawn; those that no level knows are drawn like longer ones.
    """
    simple = [kind for kind in _SIMPLE if kind in goals]
    longer = [kind for kind in goals if kind not in _SIMPLE]
    by_contact = rng.randrange(2) == 0
    if level == 1:
        return [(rng.choice(simple), False)]
    if level == 2:
        kind = rng.choice(simple[:-1]) if by_contact else rng.choice(longer)
        return [(kind, by_contact)]
    drawn = [(rng.choice(longer), by_contact), (rng.choice(simple), False)]
    if level == 4:
        drawn[1] = (rng.choice(longer if by_contact else [*simple[:-1], *longer]), not by_contact)
        drawn += [(rng.choice(simple[:-1]), False)] * rng.randrange(2)
    return [(kind, contact and kind not in ("create_for",)) for kind, contact in drawn]


def roles_of(level: int, drawn: Sequence[tuple[str, bool]], goals: Mapping[str, Goal], rng: random.Random) -> list[str]:
    """The roles of the tools of a world in which these goals can be reached, in random order."""
    roles = {"read", "act0", *(role for kind, _ in drawn for role in goals[kind].needs)}
    people = any(contact for _, contact in drawn) or bool(roles & {"create"})
    gate = rng.choice(("approve", "unlock", "", "")) if level > 1 and len(drawn) < 3 else ""
    if gate == "unlock" or (gate and any(kind in ("act", "decide", "follow") for kind, _ in drawn)):
        roles.add(gate)
        people = people or gate == "unlock"
    if level > 2 and rng.randrange(3) == 0:
        roles.add("verify")
    routes = [["find"], ["find_owner", "list"], ["browse"]]
    if people:
        roles |= {"find_owner", "list"}
    elif not roles & {"find"}:
        roles |= set(rng.choice(routes[:2]))
    size = rng.randrange(*_SIZES[level])
    usual, others = [["log_in"], ["wait"], *routes], [["edit"], ["trap"], ["act1"], ["set0"], ["link", "find_place"]]
    rng.shuffle(usual)
    rng.shuffle(others)
    usual.insert(rng.randrange(4), ["set_status"])
    for some in [*usual, *others, *usual]:
        if len(roles | set(some)) <= size and not (some == ["edit"] and "set0" not in roles):
            roles |= set(some)
    ordered = sorted(roles)
    rng.shuffle(ordered)
    return ordered
