"""What a generated world calls things: `Schema`, drawn from a lexicon by a number, and its tools, kept by schema.

A name is made of words of the lexicon by a pattern, and written in a style (snake_case, camelCase, with hyphens). It
all follows from the lexicon's name, the number and the roles of the tools alone: the same on every machine.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...tools.definition import Tool
from ...trajectories.messages import Json
from .lexicons import ACTIONS, Lexicon, invented

__all__ = ["Schema", "Template", "WorldSchemas"]

_ID_FORMS = ("{p}{n}", "{p}-{n}", "{P}{n}", "{P}-{n}", "{n}", "{w}-{n}", "{p}_{n}")


@dataclass(frozen=True, slots=True)
class Template:
    """A tool that a world may have. Its names differ from world to world; here are its roles."""

    role: str
    """What it is for, unique among the templates."""
    patterns: tuple[str, ...]
    """How its name is made of words: "{find} {record}". See `Schema.words`."""
    about: str
    """Its description, of the same words."""
    parameters: tuple[str, ...]
    """Roles of its parameters: keys of `Schema.keys`. All are texts; `page` is a number."""
    run: Callable[..., Any]
    """Called with the `Graph`, and the arguments by role. Raises a `ToolError`."""
    effect: bool = False
    idempotent: bool = False
    logs_in: bool = False
    waits: bool = False
    second: tuple[str, ...] = ()
    """Roles of tools by which a record can be reached without it: the first one that the world has is its second route.
    It is none where a change needs the very id that this tool reveals."""
    reveals: str = ""
    """What it tells: person, record or place (their ids), or read (what a record holds)."""
    makes: str = ""
    """The kind of `Change` that it makes."""
    values: Callable[[Any, str], dict[str, Json] | None] = lambda world, to: None
    """Given the world and what to change to: the arguments, besides ids, names and things, that make the change; None
    where it cannot."""


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """The words and the tools of one world. Never changed; forks share it."""

    lexicon: Lexicon
    words: Mapping[str, str]
    """Role of a word in patterns -> the word: record -> "invoice", verb0 -> "freeze"."""
    keys: Mapping[str, str]
    """Role of a parameter, or of a part of a result -> its name in this world."""
    states: tuple[str, ...]
    """That a record may be in at first."""
    fields: tuple[tuple[str, tuple[str, ...]], ...]
    """The two fields of its records, with their values."""
    contact: str
    """Form of a person's address."""
    id_form: str
    names: Mapping[str, str]
    """Role of a tool -> its name; in the order in which the tools are shown."""
    system: str
    """The system prompt, with the rules of this world."""

    def __deepcopy__(self, memo: object) -> Schema:
        return self

    def has(self, *roles: str) -> bool:
        return all(role in self.names for role in roles)

    def contact_of(self, name: str) -> str:
        """The address of a person."""
        return self.contact.format(n=name.lower(), k="abcdefgh"[zlib.crc32(name.encode()) % 8])

    def role_of(self, tool: str) -> str:
        """Of a tool, by its name; "" where the world has none of it."""
        return next((role for role, name in self.names.items() if name == tool), "")

    def new_id(self, kind: str, number: int) -> str:
        """An id of a person, record or place."""
        word = self.words[kind]
        return self.id_form.format(p=word[0], P=word[:3].upper(), w=word, n=number)


class WorldSchemas:
    """WorldSchemas by number, each drawn once while it is kept."""

    def __init__(self, lexicons: Mapping[str, Lexicon], templates: Sequence[Template]) -> None:
        self.lexicons = lexicons
        self.templates = {template.role: template for template in templates}
        self._kept = lru_cache(maxsize=4096)(self._draw)
        self.tools = lru_cache(maxsize=1024)(self._tools)

    def draw(self, name: str, *, made_up: bool, number: int, roles: Sequence[str]) -> Schema:
        """The schema of a number; the same object for the same arguments, while it is kept.

        Args:
            name: Of the lexicon.
            made_up: Whether its nouns and verbs are made up for this world.
            number: Any.
            roles: Of the tools, in the order in which they are shown.
        """
        return self._kept(name, made_up, number, tuple(roles))

    def _tools(self, schema: Schema) -> tuple[Tool, ...]:
        """The tools of a world, unbound. Made when they are first asked for: a task needs their names alone."""
        here = [self.templates[role] for role in schema.names]
        return tuple(_tool(template, _second(template, here), schema) for template in here)

    def _draw(self, name: str, made_up: bool, number: int, roles: tuple[str, ...]) -> Schema:
        rng = random.Random(f"{name}/{made_up}/{number}")
        lexicon = self.lexicons[name]
        if made_up:
            lexicon = invented(lexicon, name, rng)
        words = _words(lexicon, rng)
        style = rng.choice(_STYLES)
        keys = _keys(lexicon, words, rng)
        by_role = self.templates
        names: dict[str, str] = {}
        for role in roles:
            patterns = list(by_role[role].patterns)
            rng.shuffle(patterns)
            made = [style(pattern.format(**words).replace("_", " ").split()) for pattern in patterns]
            made.append(f"{made[0]}_{len(names)}")  # never taken: two words of a lexicon may make the same name
            names[role] = next(one for one in made if one not in names.values())
        return Schema(
            lexicon=lexicon,
            words=words,
            keys=keys,
            states=tuple(rng.sample(lexicon.states, 3)),
            fields=tuple((keys[f"field{i}"], dict(lexicon.fields)[words[f"field{i}"]]) for i in range(2)),
            contact=rng.choice(("{n}@{end}", "{n}.{k}@{end}", "@{n}", "{n}_{k}@{end}")).replace(
                "{end}", rng.choice(lexicon.contacts)
            ),
            id_form=rng.choice(_ID_FORMS),
            names=names,
            system=_system(words, set(roles), rng),
        )


def _words(lexicon: Lexicon, rng: random.Random) -> dict[str, str]:
    words: dict[str, str] = {}
    for index, (verb, done) in enumerate(rng.sample(lexicon.verbs, 2)):
        words |= {f"verb{index}": verb, f"done{index}": done}
    for index, (called, _) in enumerate(rng.sample(lexicon.fields, 2)):
        words[f"field{index}"] = called
    words |= {"person": rng.choice(lexicon.people), "record": rng.choice(lexicon.records)}
    words |= {"place": rng.choice(lexicon.places), "trap": rng.choice(lexicon.traps)}
    for kind in ACTIONS:
        words[kind] = rng.choice(getattr(lexicon, kind))
    second = [one for one in lexicon.find if one != words["find"]]
    words["find2"] = rng.choice(second) if second else words["find"]
    words["state"] = rng.choice(lexicon.states_called)
    words["id"] = rng.choice(lexicon.ids)
    return words


def _keys(lexicon: Lexicon, words: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """Names of parameters and of parts of results. An id has one form of name in the whole world."""
    form = rng.choice(("{noun}_{id}", "{noun}_{id}", "{noun}{Id}", "{id}_of_{noun}", "{noun}"))

    def id_of(noun: str) -> str:
        return form.format(noun=words[noun], id=words["id"], Id=words["id"].capitalize())

    title = rng.choice(lexicon.titles)
    named = rng.choice(lexicon.named)
    person = words["person"]
    keys = {
        "person": rng.choice((person, f"{person}_{named}", named)),
        "contact": rng.choice((f"{named}_or_contact", "contact", f"{person}_contact")),
        "thing": title,
        "person_id": id_of("person"),
        "record_id": id_of("record"),
        "place_id": id_of("place"),
        "place": rng.choice((words["place"], f"{words['place']}_{named}")),
        "status": words["state"],
        "value": rng.choice(lexicon.value),
        "field": rng.choice(lexicon.field),
        "page": rng.choice(lexicon.page),
        "more": rng.choice(lexicon.more),
        "linked": f"{rng.choice(lexicon.other)}_{words['record']}",
        "approved": f"{words['approve']}d" if words["approve"].endswith("e") else f"{words['approve']}ed",
        "access": f"{words['unlock']}d" if words["unlock"].endswith("e") else f"{words['unlock']}ed",
        "verified": f"{words['verify']}_done",
        "field0": words["field0"],
        "field1": words["field1"],
    }
    taken: dict[str, str] = {}
    for role, key in keys.items():  # two roles of one name would hide each other
        noun = role.removesuffix("_id")
        for candidate in (key, f"{words.get(noun, noun)}_{words['id']}", role):
            if candidate not in taken.values():
                taken[role] = candidate
                break
    return taken


def _snake(words: Sequence[str]) -> str:
    return "_".join(words)


def _camel(words: Sequence[str]) -> str:
    return words[0] + "".join(word.capitalize() for word in words[1:])


def _pascal(words: Sequence[str]) -> str:
    return "".join(word.capitalize() for word in words)


def _kebab(words: Sequence[str]) -> str:
    return "-".join(words)


def _turned(words: Sequence[str]) -> str:
    return "_".join((*words[1:], words[0]))


_STYLES: tuple[Callable[[Sequence[str]], str], ...] = (_snake, _snake, _snake, _camel, _turned, _kebab, _pascal)


def _tool(template: Template, second: str, schema: Schema) -> Tool:
    roles = {schema.keys[role]: role for role in template.parameters}
    properties = {key: {"type": "integer" if role == "page" else "string"} for key, role in roles.items()}

    def run(self: Any, **arguments: Any) -> Any:
        return template.run(self.state, **{roles[key]: value for key, value in arguments.items()})

    run.__name__ = template.role
    return Tool.from_schema(
        schema.names[template.role],
        run,
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
        description=template.about.format(**schema.words),
        effect=template.effect,
        idempotent=template.idempotent,
        logs_in=template.logs_in,
        waits=template.waits,
        alternative=schema.names.get(second, ""),
        ids=tuple(key for key, role in roles.items() if role.endswith("_id")),
    )


def _second(template: Template, here: Sequence[Template]) -> str:
    """The role of a tool's second route in a world of these tools, or ""."""
    if template.reveals != "record" and any(one.makes and f"{template.reveals}_id" in one.parameters for one in here):
        return ""
    roles = {one.role for one in here}
    return next((role for role in template.second if role in roles), "")


def _system(words: Mapping[str, str], roles: set[str], rng: random.Random) -> str:
    head = rng.choice(
        (
            "Work with the {record}s by the tools, one call at a time.",
            "You keep the {record}s of {person}s. Use the tools, one call at a time.",
            "Handle {record}s with the tools, one call in each message.",
        )
    )
    rules = []
    if "approve" in roles:
        early = "First {approve} a {record}, then change its {state}."
        rules.append(rng.choice((early, "{approve} a {record} before its {state} changes.")))
    if "unlock" in roles:
        rules.append("First {unlock} a {person}, then change their {record}s.")
    if "verify" in roles:
        rules.append("At last {verify} each {record} that you changed.")
    end = "When all is done answer Done. If it cannot be done answer Cannot."
    text = " ".join([head, *rules]).format(**{key: word.replace("_", " ") for key, word in words.items()})
    return " ".join(s[:1].upper() + s[1:] for s in (*_sentences(text), end))


def _sentences(text: str) -> list[str]:
    return [part if part.endswith(".") else f"{part}." for part in text.split(". ")]
