"""`Worlds`: an environment whose tasks each have a world of their own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ...tools.definition import Tool
from ...tools.sets import tools_of
from ...trajectories.messages import Json, Message, Outcome
from ...trajectories.trajectory import Task
from ..env import Solution, ToolEnv
from ..episode import Verdict
from ..facets import Fact, FaultHooks, KnobHooks, ToolRules
from ..task import Split
from .goals import GOALS, Data, Draft, Goal, kinds_of, roles_of
from .graph import Change, Graph
from .lexicons import LEXICONS, Lexicon
from .planner import Planner
from .schema import Schema, Template, WorldSchemas
from .templates import TEMPLATES

__all__ = ["InventedWorlds", "Worlds"]

_HELPERS = ("approve", "unlock", "verify")
"""Changes that are no goal of their own."""


class _Rules(ToolRules):
    def offered(self, env: Worlds) -> Iterable[Any]:
        owner: type = type(env)
        return [*(t.name for t in tools_of(owner)), *env._tools()]  # the first: what knobs have added


class _Faults(FaultHooks):
    def rotate_id(self, env: Worlds, tool: str, arguments: dict[str, Json]) -> bool:
        world = env.state
        for kind, some in (("record", world.records), ("person", world.people), ("place", world.places)):
            for one in some:
                if one.id == arguments.get(world.schema.keys[f"{kind}_id"]):
                    one.id = world.new_id(kind)
                    return True
        return False

    def distort(self, env: Worlds, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        world, keys, rng = env.state, env.state.schema.keys, env.episode.rng
        match world.schema.role_of(tool):
            case "find":
                others = [r for r in world.records if r.thing != value[keys["thing"]]]
                other = rng.choice(others) if others else None
                return other and {keys["thing"]: other.thing, keys["record_id"]: other.id}
            case "find_owner":
                person = rng.choice([p for p in world.people if p.name != value[keys["person"]]])
                return {**value, keys["person"]: person.name, keys["person_id"]: person.id}
            case "find_place":
                place = rng.choice([p for p in world.places if p.name != value[keys["place"]]])
                return {keys["place"]: place.name, keys["place_id"]: place.id}
        return None

    def look(self, env: Worlds, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        """Read the record that a call changes, or look for the one that it makes."""
        world, keys, names = env.state, env.state.schema.keys, env.state.schema.names
        if record_id := arguments.get(keys["record_id"]):
            return (names["read"], {keys["record_id"]: record_id}) if "read" in names else None
        if person_id := arguments.get(keys["person_id"]):
            if world.schema.role_of(tool) == "unlock":
                person = next((p for p in world.people if p.id == person_id), None)
                return (names["find_owner"], {keys["contact"]: person.name}) if person else None
            return (names["list"], {keys["person_id"]: person_id}) if "list" in names else None
        if keys["thing"] in arguments and "find" in names and not env.episode.is_gone(names["find"]):
            return names["find"], dict(arguments)
        return None


class _Knobs(KnobHooks):
    def facts(self, env: Worlds, task: Task) -> list[Fact]:
        """A goal's person, thing, value or place."""
        found = []
        for goal in task.data["goals"]:
            who = env._schema(task).contact_of(goal["name"]) if goal["by_contact"] else goal["name"]
            found.append(Fact(who, "(ask me)", f"It is {who}."))
            found += [
                Fact(goal[key], "(ask me)", f"It is {goal[key]}.") for key in ("thing", "value", "site") if key in goal
            ]
        return found

    def spoil(self, env: Worlds, task: Task, rng: random.Random) -> Task | None:
        """The same task, but a record that it speaks of does not exist."""
        goals = [dict(goal) for goal in task.data["goals"]]
        able = [goal for goal in goals if not env._kinds[goal["kind"]].absent(goal)]
        if not able:
            return None
        rng.choice(able)["absent"] = True
        return replace(task, data={**task.data, "goals": goals})


class Worlds(ToolEnv):
    """A generated desk in every task: people, their records, places; tools and words of its own.

    Each task draws a schema (what there is and what it is called), 5 to 14 tools from templates, and one to three
    goals. The words come from the lexicon of the task's split, and no word is in two of them; in a share of the worlds,
    nouns, names and verbs are made up. So what can be learnt here is to read a tool list, and nothing by heart.

    ## Tools
    Of these, under other names in each world: find a record, find a person, list a person's records, browse page by
    page, find a place, read; two changes of state, set the state, set a field, edit any field, link, create, approve,
    unlock, verify, one that does harm; log in, wait. Finding, listing and browsing are second routes of each other;
    setting the state is that of the changes, editing that of setting a field.

    ## Rewards
    1 when the changes that the task asks for were made once each and nothing else was changed.

    ## Episode End
    A message without a call, or the turn limit.

    ## Knobs
    `harder("worlds", ...)` leaves a name, a thing, a value or a place out of the instruction; asks for a record that
    does not exist. A subclass brings words, templates and goals of its own: see docs/worlds.md.

    ## Version History
    v0: first.
    """

    state: Graph
    max_turns = 32
    fault_hooks = _Faults()
    tool_rules = _Rules()
    knobs = _Knobs()

    lexicons: ClassVar[Mapping[str, Lexicon]] = LEXICONS
    """By split: train, validation and test."""
    templates: ClassVar[Sequence[Template]] = TEMPLATES
    goals: ClassVar[Sequence[Goal]] = GOALS
    held_out: ClassVar[frozenset[str]] = frozenset({"copy"})
    """Kinds of goal that no task of the split train has."""
    made_up: ClassVar[int] = 25
    """Of 100 worlds, those whose nouns, names and verbs are made up."""

    _kinds: ClassVar[dict[str, Goal]]
    _schemas: ClassVar[WorldSchemas]
    _bound: tuple[Schema, tuple[Tool, ...]] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._set_up()

    @classmethod
    def _set_up(cls) -> None:
        cls._kinds = {goal.kind: goal for goal in cls.goals}
        cls._schemas = WorldSchemas(cls.lexicons, cls.templates)

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, rng: random.Random) -> Iterator[Task]:
        """Endless, levels in turn.

        Level 1: one simple goal, person by name (1 to 3 calls). 2: by contact, or a longer goal (3 to 5). 3: two goals
        (5 to 7). 4: two or three goals, most of them longer (6 to 12).
        """
        known = {kind: goal for kind, goal in self._kinds.items() if split != "train" or kind not in self.held_out}
        level = 0
        while True:
            level = level % 4 + 1
            made_up = rng.randrange(100) < self.made_up
            number = rng.randrange(2**31)
            drawn = kinds_of(level, known, rng)
            roles = roles_of(level, drawn, known, rng)
            schema = self._schemas.draw(split, made_up=made_up, number=number, roles=roles)
            draft = Draft(schema, rng)
            goals, texts = [], []
            for kind, by_contact in drawn:
                goal = {"kind": kind, "by_contact": by_contact, **known[kind].draw(draft)}
                texts.append(_told(schema, goal))
                goals.append(goal)
            data = {"lexicon": split, "made_up": made_up, "number": number, "tools": roles, "goals": goals}
            family = "+".join(sorted({kind for kind, _ in drawn}))
            yield Task(" ".join(texts), data, seed=rng.randrange(2**31), kind=family, level=level)

    def setup(self, task: Task, rng: random.Random) -> None:
        goals = [(self._kinds[goal["kind"]], goal) for goal in task.data["goals"]]
        wanted = [pair for goal, data in goals for pair in goal.records(data)]
        absent = [pair for goal, data in goals for pair in goal.absent(data)]
        missing = {(data["name"], data["thing"]) for _, data in goals if data.get("absent")}
        wanted = [(name, "") if (name, thing) in missing else (name, thing) for name, thing in wanted]
        self.state = Graph.filled(self._schema(task), wanted, [*absent, *missing], rng)
        for goal, data in goals:
            goal.prepare(self.state, data)

    def prompt(self, task: Task) -> tuple[Message, ...]:
        return Message("system", self.state.schema.system), Message("user", task.instruction)

    def _schema(self, task: Task) -> Schema:
        data = task.data
        return self._schemas.draw(data["lexicon"], made_up=data["made_up"], number=data["number"], roles=data["tools"])

    def _tools(self) -> tuple[Tool, ...]:
        """Those of the present world, bound to this environment."""
        schema = self.state.schema
        if self._bound is None or self._bound[0] is not schema:
            self._bound = schema, tuple(tool.bind(self) for tool in self._schemas.tools(schema))
        return self._bound[1]

    # ---- verdict and expert ------------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool | Verdict:
        world, goals = self.state, self._goals(task)
        made = Counter(change for change in world.audit if change.kind not in _HELPERS)
        asked = [change for goal, data in goals for change in goal.wanted(world, data)]
        wanted = [change for goal, data in goals if not data.get("absent") for change in goal.wanted(world, data)]
        if any(data.get("absent") for _, data in goals):  # what is there may be done or left: all cannot be done
            if not self.episode.declined:
                return Verdict(False, "it did not say that the task cannot be done")
            wanted = [change for change in wanted if change in made]
        if made != Counter(wanted):
            missing, more = Counter(wanted) - made, made - Counter(wanted)
            return Verdict(
                False, "; ".join(filter(None, (_listed("not done", missing), _listed("not asked for", more))))
            )
        may = {
            "approve": {change.what for change in asked if change.kind == "status"},
            "unlock": {change.what.partition("/")[0] for change in asked},
            "verify": {change.what for change in wanted if "/" in change.what},
        }
        if wrong := [change for change in world.audit if change.kind in may and change.what not in may[change.kind]]:
            return Verdict(False, _listed("not asked for", Counter(wrong)))
        records = [world.record_of(what) for what in sorted(may["verify"])]
        if world.schema.has("verify") and not all(record is not None and record.verified for record in records):
            return Verdict(False, "a change was not verified")
        return True

    def solve(self, task: Task) -> Solution:
        while True:
            planner = self._planner(task)
            plan = planner.plan()
            if plan is None:
                yield "Cannot do it."
                return
            for call in plan:
                arguments = planner.arguments(call)
                if arguments is None:
                    yield "Cannot find it."
                    return
                result = yield self.state.schema.names[call.role], arguments
                if result.outcome is Outcome.GONE:
                    break  # plan anew, without it
                if not result.ok:
                    yield "Cannot find it."
                    return
            else:
                yield "Done."
                return

    def _planner(self, task: Task) -> Planner:
        gone = {tool for tool in self.state.schema.names.values() if self.episode.is_gone(tool)}
        return Planner(self.state, self._goals(task), self._schemas.templates, gone, self.episode.history)

    def _goals(self, task: Task) -> list[tuple[Goal, Data]]:
        return [(self._kinds[data["kind"]], data) for data in task.data["goals"]]


Worlds._set_up()


class InventedWorlds(Worlds):
    """`Worlds` in which the nouns, names, verbs and values of every world are made up.

    ## Tools
    Those of `Worlds`.

    ## Rewards
    Those of `Worlds`.

    ## Episode End
    That of `Worlds`.

    ## Version History
    v0: first.
    """

    made_up = 100


def _told(schema: Schema, goal: Data) -> str:
    """The goal's sentence."""
    who = schema.contact_of(goal["name"]) if goal["by_contact"] else goal["name"]
    text: str = goal.pop("text").format(
        who=who, thing=goal["thing"], who2=goal.get("name2", ""), thing2=goal.get("thing2", "")
    )
    return text if text.startswith(who) else text[0].upper() + text[1:]


def _listed(head: str, changes: Mapping[Change, int]) -> str:
    return f"{head}: {', '.join(' '.join(filter(None, change)) for change in changes)}" if changes else ""
