"""A disguise that is drawn from a key, and grows as an episode shows more of its world. Defines `DrawnDisguise`.

What is known before the first message (tools, parameters, enumerated values) is drawn then. Keys of results and forms
of ids are drawn when they are first seen. What has once been seen as it is stays as it is. So at each moment the whole
is a bijection, and it never changes what was said before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...trajectories.disguise import (
    DEEP,
    DIGIT,
    ID,
    INNER,
    MAY_NAME,
    Disguise,
    Swaps,
    content_of,
    renamed,
    written,
)
from ...trajectories.messages import Action, Json, Message, Outcome, ToolCall, ToolResult, ToolSpec
from ..definition import Tool
from . import lexicon
from .wordings import CODES, described, failing, instructed

__all__ = ["DrawnDisguise"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9 _./+-]{0,63}")
"""What can have another name. The rest stays as it is: in text it could not be told from its surroundings."""
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ID_KEY = re.compile(r"(?:^|_)ids?$|[a-z]Ids?$")
_LOST = re.compile(r"(?:^|(?<=: ))([\w-]+) (?=(?:is no longer there|was removed|is not permitted)$)")
_NEW_NAME = re.compile(r"(?:^|(?<=: ))(?:(\S+)( is now called )(\S+)|write (\S+) for (\S+))$")
"""What faults say of names. A suite's wording may begin before it."""
_PATH = re.compile(r"[\w-]+(?:/[\w-]+)*(?=: )")
_RESERVED = ("begin", "finish")
"""Names of tools that the MCP server of an environment adds."""
_TRIES = 12
_SHORTEST = 4
"""Characters of an enumerated value that may have another name."""

_MIXES = ("synonyms",) * 10 + ("far",) * 4 + ("random",) * 3 + ("mixed",) * 3
"""Where an episode's names come from: synonyms in half of the episodes, words of other domains, random strings, or
each name from anywhere."""
_UNTOUCHED = 7
"""One name in so many stays as it is."""
_WRAPPERS: tuple[tuple[str, ...], ...] = (("data",), ("result",), ("ok", "data"), ("success", "payload"))
_NESTS = ("details", "record", "info", "rest")
_FIELDS = ("trace", "took_ms", "cache", "region", "related", "recent", "served_by", "api_version")
"""Keys of clutter."""
_WORDS_OF_TEXT = re.compile(r"[A-Za-z_]\w*")


class DrawnDisguise(Disguise):
    """The disguise of one episode, as its toolbox wears it. `shown_...` leads from true names to the agent's, and may
    draw more; `read_call` leads back."""

    def __init__(self, key: str, *, names: bool = True, clutter: bool = False) -> None:
        """
        Args:
            key: What it is drawn from: the same key and the same episode give the same disguise.
            names: Draw other names, wordings, orders and shapes.
            clutter: Add fields and log lines that mean nothing.
        """
        super().__init__()
        self._seeded = hashlib.blake2b(key.encode() + b"/", digest_size=6)
        self._names = names
        self._mix = _MIXES[self.pick("mix", len(_MIXES))]
        self._style = self.pick("style", 4)
        self._passed: set[str] = set()
        """Names that were seen as they are."""
        self._frozen: set[str] = set()
        """Forms of ids that were."""
        self._id_keys: set[str] = set()
        self._said = ""
        """The first messages, in lower case."""
        self._opaque: dict[str, str] = {}
        """Parameters whose shown name says nothing -> what they are, in words."""
        self._word_draws: dict[str, int] = {}
        """Synonyms that were drawn."""
        self._specs: dict[str, tuple[ToolSpec, ToolSpec]] = {}
        self._listed: tuple[Sequence[ToolSpec], tuple[ToolSpec, ...]] = ((), ())
        if names:
            shape = self.pick("shape", 4)
            if shape == 2:
                self.nest = _NESTS[self.pick("nest", len(_NESTS))]
            elif shape == 3:
                self.wrapper = _WRAPPERS[self.pick("wrapper", len(_WRAPPERS))]
        if clutter:
            first = self.pick("clutter", len(_FIELDS))
            many = 1 + self.pick("how much clutter", 3)
            self.clutter = tuple(_FIELDS[(first + 3 * i) % len(_FIELDS)] for i in range(many))

    def pick(self, what: str, n: int) -> int:
        """A number from 0 to below `n` that follows from the key and `what` alone."""
        return self._draw(what) % n

    def _draw(self, what: str) -> int:
        seeded = self._seeded.copy()
        seeded.update(what.encode())
        return int.from_bytes(seeded.digest(), "big")

    def copy(self) -> DrawnDisguise:
        """The same, that goes its own way from here: for a fork."""
        made = object.__new__(DrawnDisguise)
        made.__dict__.update(self.__dict__)
        for name in ("tools", "keys", "values", "codes", "forms"):
            setattr(made, name, getattr(self, name).copy())
        for name in ("_passed", "_frozen", "_id_keys", "_opaque", "_specs"):
            setattr(made, name, getattr(self, name).copy())
        return made

    # ---- what is known at first --------------------------------------------------------------------------------------

    def meet(self, tools: Iterable[Tool], said: Iterable[Message]) -> None:
        """Draws what is known before the episode begins: of all its tools, and of its first messages."""
        self._said = "\n".join(message.content for message in said).lower()
        self._freeze(*(message.content for message in said))
        known = list(tools)
        read = [_named(tool) for tool in known]
        keys = dict.fromkeys(name for names, _, _ in read for name in names)
        values = dict.fromkeys(value for _, values, _ in read for value in values)
        for (_, _, ids), tool in zip(read, known, strict=True):
            self._id_keys.update(ids, tool.ids)
        self._freeze(*keys, *values)
        taken = {*keys, *values, *(tool.name for tool in known)}
        for field in self.clutter:  # a true key like it gets another name, so that both can be told from each other
            self._add(self.keys, field, f"{field}__{self._draw(field):x}", taken - {field})
        if not self._names:
            return
        for tool in known:
            self._name_tool(tool.name, taken)
        for key in keys:
            self._name_key(key, taken, explained=True)
        for value in values:
            self._name_value(value, taken)

    def _freeze(self, *texts: str) -> None:
        for text in texts:
            if DIGIT.search(text):
                self._frozen.update(found[1] for found in ID.finditer(text))

    def _name_tool(self, name: str, taken: set[str] | frozenset[str] = frozenset()) -> None:
        if not self._names or name in self.tools.partner or name in self._passed or not _NAME.fullmatch(name):
            return
        for attempt in range(_TRIES):
            shown, _ = self._proposal("tool", name, attempt)
            if not shown or (shown not in _RESERVED and self._add(self.tools, name, shown, taken)):
                return

    def _name_key(self, name: str, taken: set[str] | frozenset[str] = frozenset(), *, explained: bool = False) -> None:
        """Another name for a key. Only one that the tool list explains may say nothing by itself."""
        if not self._names or name in self.keys.partner or name in self._passed or not _NAME.fullmatch(name):
            return
        for attempt in range(_TRIES):
            shown, opaque = self._proposal("key", name, attempt, opaque=explained)
            if not shown:
                return
            if self._add(self.keys, name, shown, taken):
                if opaque:
                    self._opaque[name] = " ".join(_PART.findall(name)).lower()
                return

    def _name_value(self, value: str, taken: set[str]) -> None:
        """A value keeps its sense: nothing else would explain it. One that the first messages hold keeps its word, and
        a short one (a unit, a currency) stays as it is."""
        if len(value) < _SHORTEST or not _VALUE.fullmatch(value) or ID.search(value):
            return
        if not self.pick(f"untouched value {value}", _UNTOUCHED):
            return
        styles = [value.upper(), value.capitalize(), f"{value}_type", f"is_{value}", f"{value}_value", f"X_{value}"]
        first = self.pick("style of values", len(styles))
        styles = [*styles[first:], *styles[:first]]
        words = lexicon.VALUES.get(value, ())
        if words and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", self._said):
            styles.insert(0, words[self.pick(f"value {value}", len(words))])
        for shown in styles:
            if self._add(self.values, value, shown, taken):
                return

    def _add(self, swaps: Swaps, true: str, shown: str, taken: set[str] | frozenset[str] = frozenset()) -> bool:
        """Whether the two could be made a pair."""
        partner = swaps.partner
        if true == shown or true in partner or shown in partner or shown in taken or shown in self._passed:
            return False
        if DIGIT.search(true) or DIGIT.search(shown):
            if any(found[1] in self.forms.partner for text in (true, shown) for found in ID.finditer(text)):
                return False
            self._freeze(true, shown)
        swaps.add(true, shown)
        return True

    # ---- proposals ---------------------------------------------------------------------------------------------------

    def _proposal(self, kind: str, name: str, attempt: int, *, opaque: bool = True) -> tuple[str, bool]:
        """Another name, and whether it says nothing of what it is. "": it stays as it is."""
        what = f"{kind} {name} {attempt}"
        draw, kept = divmod(self._draw(what), _UNTOUCHED)
        if not (kept or attempt):
            return "", False
        mix = self._mix
        if mix == "mixed":
            draw, chosen = divmod(draw, 3)
            mix = ("synonyms", "far", "random")[chosen]
        if mix == "synonyms" or not opaque:
            return self._synonym(kind, name, draw, attempt), False
        if mix == "random":
            syllables = lexicon.SYLLABLES
            parts = ["".join(syllables[(draw >> 6 * i) % len(syllables)] for i in range(2 + draw % 3))]
        else:
            far = lexicon.FAR
            parts = [far[draw % len(far)], far[(draw >> 12) % len(far)]][: 1 + (draw >> 24) % 2 + (kind == "tool")]
        return self._joined(kind, parts), True

    def _synonym(self, kind: str, name: str, draw: int, attempt: int) -> str:
        words = [word.lower() for word in _PART.findall(name)] or [name.lower()]
        if "".join(words) in lexicon.SYNONYMS:  # log_in
            words = ["".join(words)]
        made = []
        for word in words:  # the same word is the same in all names, until two of them would be one
            others = lexicon.SYNONYMS.get(word)
            if others is None:
                made.append(word)
                continue
            chosen = self._word_draws.get(word)
            if chosen is None:
                chosen = self._word_draws[word] = self._draw(f"word {word}")
            if attempt:
                chosen = self._draw(f"word {word} {draw}")
            chosen %= len(others) + (len(words) > 1)  # a name of one word gets another one
            made.append(others[chosen] if chosen < len(others) else word)
        if kind == "tool" and len(made) > 1 and not draw % 4:
            made = [*made[1:], made[0]]
        if attempt > 2 or (made == words and len(words) == 1):
            frames = lexicon.TOOL_FRAMES if kind == "tool" else lexicon.WORD_FRAMES
            made = frames[draw // 4 % len(frames)].format("_".join(made)).split("_")
        return self._joined(kind, made)

    def _joined(self, kind: str, parts: list[str]) -> str:
        """In the style of the episode: one service names its things in one way."""
        parts = [part for part in parts if part]
        if self._style == 0:
            return parts[0] + "".join(part.capitalize() for part in parts[1:])
        if self._style == 1 and kind == "tool":
            return "-".join(parts)
        return "_".join(parts)

    # ---- what the agent is shown -------------------------------------------------------------------------------------

    def shown_specs(self, specs: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
        """Tools, in another order."""
        before, shown = self._listed
        if before is not specs:
            made = [self.shown_spec(spec) for spec in specs]
            if self._names:
                made.sort(key=lambda spec: self._draw(f"place {spec.name}"))
            shown = tuple(made)
            self._listed = (specs, shown)
        return shown

    def shown_spec(self, spec: ToolSpec) -> ToolSpec:
        kept = self._specs.get(spec.name)
        if kept is not None and (kept[0] is spec or kept[0] == spec):
            return kept[1]
        self._name_tool(spec.name)
        names, _, ids = _named_in(spec)
        self._id_keys.update(ids)
        for name in names:
            if name not in self.keys.partner:
                self._name_key(name, explained=True)
                if name not in self.keys.partner:
                    self._passed.add(name)
        parameters = spec.parameters
        if self._names or any(name in self.keys.partner for name in names):
            parameters = renamed(parameters, self.key, self.value, self._shown_prose, self._shuffled)
        properties = parameters.get("properties", {})
        for shown, about in list(properties.items()) if isinstance(properties, dict) else ():
            words = self._opaque.get(self.keys[shown])
            if words is not None and isinstance(about, dict):
                more = about.get("description")
                properties[shown] = {**about, "description": f"The {words}." + (f" {more}" if more else "")}
        description = self._shown_prose(spec.description)
        if self._names:
            description = described(description, self.pick)
        made = ToolSpec(self.tools[spec.name], description, parameters)
        self._specs[spec.name] = (spec, made)
        return made

    def shown_tool(self, tool: Tool) -> Tool:
        """A tool as it is described to the agent."""
        return tool._with("spec", self.shown_spec(tool.spec))

    def _shuffled(self, properties: dict[str, Json]) -> list[str]:
        if not self._names or len(properties) < 2:
            return list(properties)
        return sorted(properties, key=lambda name: self._draw(f"place {name}"))

    def shown_message(self, message: Message) -> Message:
        """A message of the system or the user."""
        content = self._shown_prose(message.content)
        if message.role == "system" and self._names and content:
            content = instructed(content, self.pick)
        return message if content == message.content else replace(message, content=content)

    def shown_action(self, action: Action) -> Action:
        """What an agent that knows the true names does, as one would that sees the shown ones."""
        calls = tuple(self.call(call) for call in action.tool_calls)
        return Action(self._met_text(action.content), calls, self._met_text(action.thinking))

    def read_action(self, action: Action) -> Action:
        """What the agent does, in true names."""
        content, thinking = map(self._read_words, (action.content, action.thinking))
        return Action(content, tuple(map(self.read_call, action.tool_calls)), thinking)

    def read_call(self, call: ToolCall) -> ToolCall:
        """A call in true names. Never raises: what is no call is left as it is, for the toolbox to refuse."""
        arguments = call.arguments
        try:
            name = self.tools.get(call.name)
            if name is None:
                name = call.name
                self._passed.add(name)
            if type(arguments) is dict:
                arguments = self._read(arguments)
        except (RecursionError, TypeError, AttributeError):
            return call
        return ToolCall(name, arguments, call.raw, call.id, call.error)

    def _read(self, value: Json, depth: int = 0) -> Json:
        """As `value`, for what the agent writes. What has no other name by now keeps the one that it has."""
        kind = type(value)
        if kind is dict:
            if depth > DEEP:
                return value
            out: dict[Any, Json] = {}
            keys, values = self.keys.get, self.values.get
            for name, inner in value.items():
                other = keys(name)
                if other is None:
                    self._passed.add(name)
                    other = self._met_text(name) if type(name) is str else name
                if type(inner) is str:
                    true = values(inner)
                    out[other] = self._read_text(inner) if true is None else true
                else:
                    out[other] = self._read(inner, depth + 1)
            return out
        if kind is list:
            return value if depth > DEEP else [self._read(inner, depth + 1) for inner in value]
        if kind is str:
            return self.values.get(value) or self._read_text(value)
        return value

    def _read_words(self, text: Any) -> Any:
        """What an agent says; only code can say what is no text."""
        return self._met_text(text) if text and isinstance(text, str) else text

    def _read_text(self, text: str) -> str:
        if len(text) > 12 and " " in text:  # a query, code: its results are to have its names
            partner = self.keys.partner
            self._passed.update(word for word in _WORDS_OF_TEXT.findall(text[:2000]) if word not in partner)
        return ID.sub(self._met_id, text) if DIGIT.search(text) else text

    def shown_call(self, true: ToolCall, written_as: ToolCall) -> ToolCall:
        """A call that was run, as the agent wrote it."""
        if true.arguments is None:
            return replace(true, name=self.tools[true.name])
        return ToolCall(self.tools[true.name], written_as.arguments, true.raw, true.id, true.error)

    def shown_result(self, result: ToolResult) -> ToolResult:
        """A result as the agent sees it. Its `value` stays as it is: the agent never sees that."""
        content = result.content
        content = self.shown_content(content) if result.outcome is Outcome.OK else self.shown_error(content)
        return ToolResult(
            result.call_id,
            self.tools[result.tool],
            result.outcome,
            content,
            result.value,
            result.cause,
            result.took_effect,
            result.fault,
            result.retry_of,
            result.latency_s,
            result.error,
            result.retry_after,
            result.inferred,
        )

    def shown_content(self, content: str) -> str:
        """The text of a result that ran well."""
        found = content_of(content)
        if found is None:
            self._freeze(content)
            text = self.ids_or_value(content)
            return f"{self._log(content)}\n{text}" if self.clutter else text
        value, style = found
        return written(self._shaped(self._met(value), content), style)

    def shown_error(self, content: str) -> str:
        """The text of a result that tells of a failure."""
        found = content_of(content)
        if found is None or not isinstance(found[0], dict):  # a suite's: what is wrong; what to do
            return "; ".join(self._shown_failure(part) for part in content.split("; "))
        shown: dict[str, Json] = {}
        code = found[0].get("error")
        for key, value in found[0].items():
            if self._names:
                self._name_key(key)
            name = self.keys[key]
            if key == "error" and type(value) is str and value in CODES:
                value = self._code(value)
            elif type(value) is str:
                value = self._shown_failure(value, code == Outcome.INVALID_ARGUMENTS.value and key == "message")
            else:  # a suite tells more of its failures
                value = self._met(value, key)
            shown[name] = value
        shown |= self._noise(content)
        return written(shown, found[1])

    def _code(self, code: str) -> str:
        others = CODES.get(code)
        if others and self._names and code not in self.codes.partner and self.pick(f"untouched code {code}", 3):
            other = others[self.pick(f"code {code}", len(others))]
            if other not in self.codes.partner:
                self.codes.add(code, other)
        return self.codes[code]

    def _shown_failure(self, text: str, refused: bool = False) -> str:
        """A message or hint of a failure."""
        lost, new_name = _LOST.search(text), _NEW_NAME.search(text)
        if lost is not None and lost[1] in self.tools.partner:
            text = f"{self._shown_prose(text[: lost.start()])}{self.tools[lost[1]]} {text[lost.end() :]}"
        elif new_name is not None:
            text = self._shown_prose(text[: new_name.start()]) + self._renamed(new_name)
        else:
            path = _PATH.match(text) if refused else None
            head = "/".join(self.keys[part] for part in path[0].split("/")) if path else ""
            text = head + self._shown_prose(text[path.end() :] if path else text)
        return failing(text, self.pick) if self._names else text

    def _renamed(self, said: re.Match[str]) -> str:
        """What says that a parameter has a new name."""
        for new in (said[3], said[4]):  # a name that only now comes up
            if new and new not in self.keys.partner:
                self._name_key(new)
                if new not in self.keys.partner:
                    self._passed.add(new)
        old, between, new, first, second = said.groups()
        if between:
            return f"{self.keys[old]}{between}{self.keys[new]}"
        return f"write {self.keys[first]} for {self.keys[second]}"

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _met(self, value: Json, of: str = "", depth: int = 0) -> Json:
        """As `value`, for what the world says: draws names of keys and forms of ids that are new."""
        kind = type(value)
        if kind is str:
            return self._met_digits(value, of) if DIGIT.search(value) else self.values[value]
        if kind is dict:
            if depth > DEEP:
                return value
            out: dict[str, Any] = {}
            named, values = self.keys.get, self.values.get
            for key, inner in value.items():
                other = named(key) or self._met_key(key)
                if type(inner) is str:
                    out[other] = self._met_digits(inner, key) if DIGIT.search(inner) else values(inner, inner)
                else:
                    out[other] = self._met(inner, key, depth + 1)
            return out
        if kind is list:
            return value if depth > DEEP else [self._met(inner, of, depth + 1) for inner in value]
        return value

    def _met_digits(self, text: str, of: str) -> str:
        """A text with digits in it, under the key `of`."""
        other = self.values.get(text)
        if other is not None:
            return other
        found = ID.fullmatch(text)
        if found is None:
            return ID.sub(self._met_id, text)
        form: str = found[1]
        other = self.forms.get(form)
        if other is None and of in self._id_keys:
            self._name_form(form)
            other = self.forms.get(form)
        if other is None:
            self._frozen.add(form)
            return text
        return other + found[2]

    def _met_key(self, key: str) -> str:
        if key not in self._passed:
            if _ID_KEY.search(key):
                self._id_keys.add(key)
            if self._names and all(word.lower() in lexicon.SYNONYMS for word in _PART.findall(key)):
                self._name_key(key)
                other = self.keys.get(key)
                if other is not None:
                    return other
            self._passed.add(key)
        return self._met_text(key)

    def _met_text(self, text: str) -> str:
        return ID.sub(self._met_id, text) if DIGIT.search(text) else text

    def _met_id(self, found: re.Match[str]) -> str:
        form: str = found[1]
        other = self.forms.get(form)
        if other is None:
            self._frozen.add(form)
            return found[0]
        return other + found[2]

    def _name_form(self, form: str) -> None:
        if not self._names or form in self._frozen:
            return
        draw, kept = divmod(self._draw(f"id {form}"), _UNTOUCHED)
        if not kept:
            return
        first = draw % len(lexicon.FORMS)
        for shown in (*lexicon.FORMS[first:], *lexicon.FORMS[:first]):
            if shown != form and shown not in self.forms.partner and shown not in self._frozen:
                self.forms.add(form, shown)
                return

    def _name(self, word: str) -> str:
        other = self.tools.get(word) or self.keys.get(word) or self.values.get(word)
        if other is None:
            self._passed.add(word)
            return word
        return other

    def _shown_prose(self, text: str) -> str:
        if DIGIT.search(text):
            self._freeze(text)
        return self._prose(text, _is_identifier) if MAY_NAME.search(text) else self.ids(text)

    def _shaped(self, value: Json, content: str) -> Json:
        if isinstance(value, dict):
            value = self._record(value, content)
        elif isinstance(value, list) and (self.nest or self.clutter):
            value = [self._record(v, f"{i}{content}") if isinstance(v, dict) else v for i, v in enumerate(value)]
        if self.wrapper:
            value = {**dict.fromkeys(self.wrapper[:-1], True), self.wrapper[-1]: value}
        return value

    def _record(self, record: dict[str, Json], content: str) -> dict[str, Json]:
        if self.clutter:
            record = {**record, **self._noise(content)}
        if self.nest and len(record) > 1:
            first, *rest = record
            if first != self.nest:
                return {first: record[first], self.nest: {name: record[name] for name in rest}}
        return record

    def _noise(self, content: str) -> dict[str, Json]:
        """Fields that mean nothing; the same for the same answer."""
        out: dict[str, Json] = {}
        for field in self.clutter:
            n, far = self._draw(f"{field} {content}"), lexicon.FAR
            match field:
                case "took_ms":
                    out[field] = n % 400
                case "cache":
                    out[field] = ("hit", "miss", "stale")[n % 3]
                case "region":
                    out[field] = ("north", "south", "east", "west")[n % 4]
                case "related" | "recent":  # neighbours of what was asked for
                    out[field] = [far[n % len(far)], far[(n >> 16) % len(far)]]
                case _:
                    out[field] = far[n % len(far)]
        return out

    def _log(self, content: str) -> str:
        n = self._draw(f"log {content}")
        told = ("cache warm", "pool has room", "replica in step", "quota fine", "index fresh")[n % 5]
        return f"[info] {told}, {n % 400} ms"


def _is_identifier(word: str) -> bool:
    return INNER.search(word) is not None


Named = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Names of properties, enumerated texts, properties that hold ids."""


def _named(tool: Tool) -> Named:
    return _named_in(tool.spec)


_KEPT: dict[int, tuple[ToolSpec, Named]] = {}
_MOST_KEPT = 4096


def _named_in(spec: ToolSpec) -> Named:
    """What a tool's schema names; kept, as the same specs come in each episode."""
    kept = _KEPT.get(id(spec))
    if kept is not None and kept[0] is spec:
        return kept[1]
    names: dict[str, None] = {}
    values: dict[str, None] = {}

    def walk(node: Json, named: bool = False) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            for word, inner in node.items():
                if named:
                    walk(inner)
                elif word == "properties" and isinstance(inner, dict):
                    names.update(dict.fromkeys(inner))
                    walk(inner, True)
                elif word == "required" and isinstance(inner, list):
                    names.update(dict.fromkeys(n for n in inner if isinstance(n, str)))
                elif word in ("$defs", "definitions", "patternProperties", "dependentSchemas"):
                    walk(inner, True)
                elif word == "enum" and isinstance(inner, list):
                    values.update(dict.fromkeys(v for v in inner if type(v) is str))
                elif word == "const" and type(inner) is str:
                    values[inner] = None
                elif word not in ("default", "examples", "example", "const", "enum", "propertyNames"):
                    walk(inner)

    walk(spec.parameters)
    ids = tuple(name for name in names if _ID_KEY.search(name))
    found: Named = (tuple(names), tuple(values), ids)
    if len(_KEPT) >= _MOST_KEPT:
        _KEPT.clear()
    _KEPT[id(spec)] = (spec, found)
    return found
