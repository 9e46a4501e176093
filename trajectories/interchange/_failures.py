"""Which results of a foreign record were failures, where its form does not say so: a rule that the reader of it gives.

Defines `Failures`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from ..errors import ConfigError, DataError
from ..messages import Json
from ._messages import SourceMessage, shown

_FIELD = re.compile(r"(!?)([A-Za-z_][\w-]*(?:\.[\w-]+)*)(?:=(.*))?")
_NOT = frozenset({"", "0", "false", "no", "none", "null"})
"""Texts that say no."""
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class _Rule:
    text: str
    """As it was given."""
    pattern: re.Pattern[str] | None = None
    """Of the text of a result; None: the rule is of a field."""
    path: str = ""
    negated: bool = False
    value: str | None = None
    """What the field is in a failed result; None: anything that says yes."""

    def failed(self, source: SourceMessage) -> bool | None:
        """Whether the result failed; None: the field that says so is not there."""
        if self.pattern is not None:
            return self.pattern.search(source.message.content) is not None
        found = at(source.fields, self.path)
        if found is _ABSENT:
            found = at(_json(source.message.content), self.path)
        if found is _ABSENT:
            return None
        if self.value is not None:
            return _text(found) == self.value
        says = _text(found).strip().lower() not in _NOT if isinstance(found, str) else bool(found)
        return says != self.negated


@dataclass(frozen=True, slots=True)
class Failures:
    """How a failed result looks: by a field of it, or by its text. A result is a failure where one rule says so."""

    rules: tuple[_Rule, ...] = ()
    met: set[str] = field(default_factory=set, compare=False)
    """Rules whose field was there, or that have none."""
    struck: set[str] = field(default_factory=set, compare=False)
    """Rules by which a result was a failure."""

    @property
    def fields(self) -> set[str]:
        """The outermost fields of a result that the rules read."""
        return {rule.path.split(".")[0] for rule in self.rules if rule.path}

    def silent(self) -> list[str]:
        """A sentence for each rule that no result of those read fits: perhaps it is written wrongly."""
        return [
            f"no result is a failure by {rule.text!r}: where no other rule says so, all are declared good"
            for rule in self.rules
            if rule.text not in self.struck and self.met
        ]

    @classmethod
    def parse(cls, errors: Iterable[str] = (), prefixes: Iterable[str] = ()) -> Failures:
        """Rules from texts, as `sparring import --errors` and `--error-prefix` take them.

        Args:
            errors: Each a field of the result, or of the JSON that its text is: `is_error` (it says yes), `!ok` (it
                says no), `status=error` (it is that). Anything else, and what is between slashes, is a regular
                expression that the text of a failed result matches somewhere: `^Error`, `/timeout/`.
            prefixes: Texts that a failed result begins with.

        Raises `ConfigError` for a pattern that cannot be read.
        """
        rules = [_rule(text) for text in errors]
        rules += [_Rule(text, re.compile(re.escape(text).join(("^", "")))) for text in prefixes]
        return cls(tuple(rules))

    def failed(self, source: SourceMessage) -> bool | None:
        """Whether a result failed; None: no rule says anything of it."""
        said = [(rule, rule.failed(source)) for rule in self.rules]
        self.met.update(rule.text for rule, failed in said if failed is not None)
        self.struck.update(rule.text for rule, failed in said if failed)
        if any(failed for _, failed in said):
            return True
        # A field that only failures have says by its absence that this is none; one that is told to say ok does not.
        told = any(failed is False for _, failed in said) or any(not rule.negated for rule, _ in said)
        return False if told else None

    def check_met(self) -> None:
        """Raises `DataError` for a rule whose field no result had: it would declare all of them good."""
        missing = next((r for r in self.rules if r.pattern is None and r.text not in self.met), None)
        if missing is not None:
            raise DataError(
                f"no result has a field {missing.path!r}; if it is meant as text of a failed result: "
                f"--errors '/{missing.text}/'"
            )


def _rule(text: str) -> _Rule:
    named = _FIELD.fullmatch(text)
    if named is not None:
        return _Rule(text, None, named[2], bool(named[1]), named[3])
    body = text[1:-1] if len(text) > 2 and text[0] == text[-1] == "/" else text
    try:
        return _Rule(text, re.compile(body))
    except re.error as error:
        raise ConfigError(f"--errors takes a field or a regular expression, got {text!r}: {error}") from None


def at(record: Json, path: str) -> Json:
    """What is at a dotted path of a record; `_ABSENT` where nothing is. A field of that very name comes first."""
    if isinstance(record, dict) and path in record:
        return record[path]
    for name in path.split("."):
        if isinstance(record, dict) and name in record:
            record = record[name]
        elif isinstance(record, list) and name.isdigit() and int(name) < len(record):
            record = record[int(name)]
        else:
            return _ABSENT
    return record


def field_of(record: Json, path: str, option: str) -> Json:
    """What is at a dotted path. Raises `DataError` where there is no such field."""
    found = at(record, path)
    if found is _ABSENT:
        there = ", ".join(sorted(map(str, record))[:12]) if isinstance(record, dict) else shown(record)
        raise DataError(f"nothing at {path!r}, which {option} names; there is {there or 'nothing'}")
    return found


def _json(text: str) -> Json:
    if not text.lstrip().startswith("{"):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _text(value: Json) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
