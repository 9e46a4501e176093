"""The names under which an agent saw an episode, and the way back to the true ones. Defines `Disguise` and `Swaps`.

A disguise is a set of swaps. Each exchanges two texts for each other and leaves all others alone, so it is a bijection
of *all* texts whatever they are, and its own inverse: a shown name that is at the same time a true name of something
else leads to no confusion. Tools, keys (parameters and keys of results), values (enumerated ones) and codes (of
errors) have swaps of their own; ids are exchanged by their form: `o123` and `TK-123`.

Only plain data is here, enough to read a record. How a disguise is drawn, and worn, is in `sparring.tools.disguise`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from .errors import DataError
from .messages import Action, Json, Message, Outcome, ToolCall, ToolResult, ToolSpec

__all__ = [
    "DEEP", "DIGIT", "DISGUISE", "ID", "INNER", "MAY_NAME", "Content", "Disguise", "Swaps", "content_of", "renamed",
    "written",
]  # fmt: skip

DISGUISE = "disguise"
"""Where an episode's `meta` holds it."""

ID = re.compile(r"(?<![\w#-])([A-Za-z]{1,8}[-_#]?)([0-9]{1,12})(?![\w-])", re.ASCII)
"""A text that may be an id: its form, and its digits. Exchanging the form keeps where it begins and ends."""

DIGIT = re.compile(r"[0-9]")
MAY_NAME = re.compile(r"[`\"'_-]|[a-z0-9][A-Z]|(?:[Uu]se|[Cc]all|[Ss]ee|[Tt]ool|quota of) ")
"""Without any of these a text holds no name."""
_MARKED = re.compile(
    r"`(?P<code>[^`\n]{1,200})`"
    r"|\"(?P<quoted>[^\"\n]{1,80})\"|(?<!\w)'(?P<single>[^'\n]{1,80})'(?!\w)"
    r"|\b(?P<verb>[Uu]se|[Cc]all|[Ss]ee|[Tt]ool|quota of)(?P<gap> )(?!the\b|tools?\b)(?P<named>[A-Za-z_][\w-]*)"
    r"|(?P<word>[A-Za-z_][\w-]*)"
)
_WORD = re.compile(r"[A-Za-z_][\w-]*")
INNER = re.compile(r"\w_\w|\w-\w|[a-z0-9][A-Z]")
DEEP = 200
"""Levels of a value that are read; one that is deeper is left as it is."""

Content = tuple[Json, int]
"""A JSON value, and how it was written (an index of `_STYLES`)."""


class Swaps:
    """Pairs of texts that are exchanged for each other."""

    __slots__ = ("get", "pairs", "partner")

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        self.pairs: dict[str, str] = {}
        """true -> shown, in the order in which they were drawn."""
        self.partner: dict[str, str] = {}
        """Each of both -> the other."""
        self.get = self.partner.get
        for true, shown in (pairs or {}).items():
            self.add(true, shown)

    def add(self, true: str, shown: str) -> None:
        """Raises `DataError` where one of the two has a partner already, or is its own."""
        if true == shown or true in self.partner or shown in self.partner:
            raise DataError(f"a disguise exchanges each name for one other name, got {true!r} and {shown!r}")
        self.pairs[true] = shown
        self.partner[true], self.partner[shown] = shown, true

    def __getitem__(self, text: str) -> str:
        return self.partner.get(text, text)

    def copy(self) -> Swaps:
        made = Swaps()
        made.pairs, made.partner = dict(self.pairs), dict(self.partner)
        made.get = made.partner.get
        return made


class Disguise:
    """The names of one episode. Every exchange is its own inverse: `value`, `call` and `ids` lead both ways."""

    def __init__(self) -> None:
        self.tools, self.keys, self.values, self.codes = Swaps(), Swaps(), Swaps(), Swaps()
        self.forms = Swaps()
        """Of ids: what is before the digits."""
        self.wrapper: tuple[str, ...] = ()
        """Keys around a result: (data,) or (mark, data). Empty: none."""
        self.nest = ""
        """The key under which all of a record but its first field is nested; empty: records are flat."""
        self.clutter: tuple[str, ...] = ()
        """Keys of fields that mean nothing, at the end of each record; a text result has a log line before it."""

    # ---- the record --------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Json]:
        """What a record keeps of it."""
        kept = {name: dict(getattr(self, name).pairs) for name in _SWAPS}
        shape = {"wrapper": list(self.wrapper), "nest": self.nest, "clutter": list(self.clutter)}
        return {name: part for name, part in {**kept, **shape}.items() if part}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Disguise:
        """The inverse of `to_json`. Raises `DataError` for what is none."""
        made = Disguise()
        try:
            for name in _SWAPS:
                pairs = data.get(name, {})
                if not all(isinstance(text, str) for pair in pairs.items() for text in pair):
                    raise TypeError("a name is a text")
                setattr(made, name, Swaps(pairs))
            made.wrapper = tuple(map(str, data.get("wrapper", ())))
            made.nest, made.clutter = str(data.get("nest", "")), tuple(map(str, data.get("clutter", ())))
        except (AttributeError, TypeError) as error:
            raise DataError(f"a record's disguise holds pairs of names, got {str(data)[:120]} ({error})") from None
        return made

    def legend(self) -> str:
        """The mapping in one line, for readers: `find_order = lookupTicket, ...`. Of ids it is what is before the
        digits."""
        pairs = (pair for name in _SWAPS for pair in getattr(self, name).pairs.items())
        return ", ".join(f"{true} = {shown}" for true, shown in pairs if true not in self.clutter)

    # ---- exchanges that lead both ways -------------------------------------------------------------------------------

    def ids(self, text: str) -> str:
        """A text with its ids in the other form."""
        return ID.sub(self._id, text) if self.forms.partner and DIGIT.search(text) else text

    def _id(self, found: re.Match[str]) -> str:
        form: str = found[1]
        return self.forms[form] + found[2]

    def text(self, text: str) -> str:
        """A text that is a value: an enumerated one, or with ids in it."""
        other = self.values.get(text)
        return other if other is not None else self.ids(text) if DIGIT.search(text) else text

    def key(self, name: str) -> str:
        other = self.keys.get(name)
        return self.ids(name) if other is None else other

    def value(self, value: Json, depth: int = 0) -> Json:
        """A JSON value with its keys, enumerated values and ids exchanged."""
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is dict:
            if depth > DEEP:
                return value
            out: dict[Any, Json] = {}
            keys, text = self.keys.get, self.text
            for name, inner in value.items():
                other = keys(name)
                if other is None:
                    other = self.ids(name) if type(name) is str else name
                out[other] = text(inner) if type(inner) is str else self.value(inner, depth + 1)
            return out
        if kind is list:
            return value if depth > DEEP else [self.value(v, depth + 1) for v in value]
        return value

    def call(self, call: ToolCall) -> ToolCall:
        """A call with its tool, and its arguments where it has some."""
        name = self.tools[call.name] if isinstance(call.name, str) else call.name
        arguments = call.arguments
        if isinstance(arguments, dict):
            arguments = self.value(arguments)
        return ToolCall(name, arguments, call.raw, call.id, call.error)

    def action(self, action: Action) -> Action:
        """What an agent did. Of what it thought and said only ids are exchanged."""
        calls = tuple(map(self.call, action.tool_calls))
        return Action(self.ids(action.content), calls, self.ids(action.thinking))

    # ---- back to the true names --------------------------------------------------------------------------------------

    def true_prose(self, text: str) -> str:
        """A text for readers (a prompt, a description, an error), with the true names where it holds shown ones. Its
        wording stays."""
        return self._prose(text, lambda word: bool(INNER.search(word) or INNER.search(self._name(word))))

    def true_spec(self, spec: ToolSpec) -> ToolSpec:
        parameters = renamed(spec.parameters, self.key, self.value, self.true_prose)
        return ToolSpec(self.tools[spec.name], self.true_prose(spec.description), parameters)

    def true_message(self, message: Message) -> Message:
        if message.role == "assistant":
            calls = tuple(self.call(call) for call in message.tool_calls)
            content, thinking = self.ids(message.content), self.ids(message.thinking)
            return replace(message, content=content, tool_calls=calls, thinking=thinking)
        return replace(message, content=self.true_prose(message.content))

    def true_result(self, result: ToolResult) -> ToolResult:
        """Its text as the world gave it: exactly where it was JSON or a plain text, in the disguise's wording where it
        tells of a failure. `value` was never disguised."""
        content = self.true_content(result.content) if result.outcome is Outcome.OK else self.true_error(result.content)
        return replace(result, tool=self.tools[result.tool], content=content)

    def true_content(self, content: str) -> str:
        """The text of a result that ran well."""
        found = content_of(content)
        if found is None:
            return self.ids_or_value(content.partition("\n")[2] if self.clutter else content)
        value, style = found
        return written(self.value(self._unshaped(value)), style)

    def true_error(self, content: str) -> str:
        """The text of a result that tells of a failure."""
        found = content_of(content)
        if found is None or not isinstance(found[0], dict):
            return self.true_prose(content)
        true: dict[str, Json] = {}
        for key, value in found[0].items():
            if key not in self.clutter:
                name = self.keys[key]
                if type(value) is not str:
                    true[name] = self.value(value)
                elif name == "error" and value in self.codes.partner:
                    true[name] = self.codes[value]
                else:
                    true[name] = self.true_prose(value)
        return written(true, found[1])

    def ids_or_value(self, text: str) -> str:
        """A result that is a text and no JSON. What looks like broken JSON has its keys exchanged too."""
        other = self.values.get(text)
        if other is not None:
            return other
        text = self.ids(text)
        return _KEY.sub(lambda found: f'"{self.keys[found[1]]}":', text) if text[:1] in ("{", "[") else text

    def _unshaped(self, value: Json) -> Json:
        if self.wrapper:
            if not isinstance(value, dict) or tuple(value) != self.wrapper:
                return value
            value = value[self.wrapper[-1]]
        if isinstance(value, dict):
            return self._unrecorded(value)
        return [self._unrecorded(v) if isinstance(v, dict) else v for v in value] if isinstance(value, list) else value

    def _unrecorded(self, record: dict[str, Json]) -> dict[str, Json]:
        if self.nest and len(record) == 2:
            (first, value), (last, rest) = record.items()
            if last == self.nest != first and isinstance(rest, dict):
                record = {first: value, **rest}
        return {k: v for k, v in record.items() if k not in self.clutter} if self.clutter else record

    # ---- names in free text ------------------------------------------------------------------------------------------

    def _name(self, word: str) -> str:
        other = self.tools.get(word) or self.keys.get(word) or self.values.get(word)
        return word if other is None else other

    def _prose(self, text: str, is_name: Callable[[str], bool]) -> str:
        def one(found: re.Match[str]) -> str:
            match found.lastgroup:
                case "code":
                    return f"`{_WORD.sub(lambda word: self._name(word[0]), found[0][1:-1])}`"
                case "quoted" | "single":
                    return f"{found[0][0]}{self._name(found[0][1:-1])}{found[0][-1]}"
                case "named":
                    word = found["named"]
                    return found["verb"] + " " + (self.tools.get(word) or (self._name(word) if is_name(word) else word))
            word = found[0]
            return self._name(word) if is_name(word) else word

        return _MARKED.sub(one, self.ids(text))


_SWAPS = ("tools", "keys", "values", "codes", "forms")
_KEY = re.compile(r'"([^"\n]{1,80})":')


# ---- JSON text, exactly as it was written ----------------------------------------------------------------------------


def _compact(value: Json) -> str:
    return orjson.dumps(value).decode()


_STYLES: tuple[Callable[[Json], str], ...] = (
    _compact,
    json.dumps,
    lambda value: json.dumps(value, ensure_ascii=False),
    lambda value: json.dumps(value, indent=2),
    lambda value: json.dumps(value, indent=2, ensure_ascii=False),
)
_BEGINNING = frozenset("{[-0123456789tfn")


def content_of(text: str) -> Content | None:
    """The JSON value that a text is, and how it is written; None for a text that is none, and for one that could not be
    written again to the last character."""
    if text[:1] not in _BEGINNING:
        return None
    try:
        value = orjson.loads(text)
        if isinstance(value, str):
            return None
        for style, write in enumerate(_STYLES):
            if write(value) == text:
                return value, style
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def written(value: Json, style: int) -> str:
    """A value as `content_of` found it written."""
    return _STYLES[style](value)


# ---- schemas ---------------------------------------------------------------------------------------------------------

_NAMED = ("properties", "dependentRequired", "dependentSchemas", "dependencies")
_FREE = ("$defs", "definitions", "patternProperties")
_VALUES = ("default", "const", "enum", "examples", "example")


def renamed(
    schema: dict[str, Json],
    key: Callable[[str], str],
    value: Callable[[Json], Json],
    prose: Callable[[str], str],
    ordered: Callable[[dict[str, Json]], list[str]] = list,
) -> dict[str, Json]:
    """A JSON Schema with other names.

    Args:
        key: Of properties, wherever they are named.
        value: Of values: `enum`, `const`, `default`, examples.
        prose: Of descriptions. Titles are left out: they would tell the true names.
        ordered: The names of an object's properties in the order in which they are to be.
    """

    def names(listed: Json) -> Json:
        return [key(n) if isinstance(n, str) else n for n in listed] if isinstance(listed, list) else listed

    def part(node: Json) -> Json:
        if isinstance(node, list):
            return [part(item) for item in node]
        if not isinstance(node, dict):
            return node
        out: dict[str, Any] = {}
        for word, inner in node.items():
            if word == "title" and isinstance(inner, str):
                continue
            if word in _NAMED and isinstance(inner, dict):
                order = ordered(inner) if word == "properties" else list(inner)
                out[word] = {key(n): names(inner[n]) if _is_names(inner[n]) else part(inner[n]) for n in order}
            elif word in _FREE and isinstance(inner, dict):
                out[word] = {n: part(v) for n, v in inner.items()}
            elif word == "required":
                out[word] = names(inner)
            elif word == "propertyNames" and isinstance(inner, dict) and isinstance(inner.get("enum"), list):
                out[word] = {**inner, "enum": names(inner["enum"])}
            elif word == "discriminator" and isinstance(inner, dict):
                out[word] = {
                    k: key(v) if k == "propertyName" and isinstance(v, str)
                    else {value(n): r for n, r in v.items()} if k == "mapping" and isinstance(v, dict) else v
                    for k, v in inner.items()
                }  # fmt: skip
            elif word in _VALUES:
                out[word] = value(inner)
            elif word == "description" and isinstance(inner, str):
                out[word] = prose(inner)
            else:
                out[word] = part(inner)
        return out

    made: dict[str, Json] = part(schema)
    return made


def _is_names(node: Json) -> bool:
    return isinstance(node, list) and all(isinstance(item, str) for item in node)
