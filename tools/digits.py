"""JSON whose numbers keep their digits, on the way in and out. Defines `read_json`, `write_json` and `shown`.

The fast JSON library stops at 64 bits, turns longer numbers into floats, and writes NaN as null. Ids, amounts of the
smallest unit of a coin and factorials are longer.
"""

from __future__ import annotations

import dataclasses
import decimal
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel

from ..trajectories.messages import Json

__all__ = ["Exact", "read_json", "read_number", "shown", "write_json"]

_LONG = re.compile(rb"[0-9][0-9.]{17,}|[eE]\+?[0-9]{3}")
"""Where there may be a number that a float or 64 bits do not hold."""
_EXACT = decimal.Context(prec=4000)
_FRAGMENTS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def read_json(data: bytes) -> Json:
    """The value in a JSON text: integers of any length, and as `Decimal` what a float would change. NaN and Infinity,
    which some services write, are floats. Raises `ValueError` for what is no JSON."""
    try:
        value: Json = orjson.loads(data)
        if _LONG.search(data) is None:
            return value
    except orjson.JSONDecodeError:
        pass  # NaN, perhaps
    try:
        return json.loads(data, parse_int=_int, parse_float=read_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _int(text: str) -> int:
    return int(text) if len(text) < 4000 else int(Decimal(text))


class Exact(float):
    """A float, and the number that was written: for code on the way that takes floats alone."""

    __slots__ = ("number",)

    number: Decimal

    def __new__(cls, number: Decimal) -> Exact:
        made = super().__new__(cls, number)
        made.number = number
        return made


def read_number(text: str) -> float | Decimal:
    """A number with a fraction or an exponent. A float where it says the same, rounded to the digits that are there."""
    value = float(text)
    if len(text) <= 17 and math.isfinite(value):
        return value
    exact = _EXACT.create_decimal(text)
    if not math.isfinite(value):
        return exact
    if exact == Decimal(repr(value)) or exact == Decimal(value):
        return value
    digits = len(exact.as_tuple().digits)
    rounded = decimal.Context(prec=max(digits, 1)).create_decimal(Decimal(value))
    return value if rounded == exact else exact


def write_json(value: Json) -> bytes:
    """A JSON value as text; its integers may be of any length. Raises `TypeError` for what is no JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_exact(value, None, _fragment), option=_FRAGMENTS)


def shown(value: Any, default: Callable[[Any], Any]) -> tuple[str, Json]:
    """A tool's value as the agent sees it, and as the JSON value that records hold.

    Integers beyond 64 bits are shown digit by digit, and are texts in the record. Numbers that are not finite are the
    texts "NaN", "Infinity" and "-Infinity". Raises `TypeError` for what is no JSON.

    Args:
        value: What the tool gave.
        default: Makes JSON of what is none, as in `orjson.dumps`.
    """
    try:
        data = orjson.dumps(value, default=default, option=_FRAGMENTS)
        if b"null" not in data or not _may_lose(value):
            return data.decode(), orjson.loads(data)
    except TypeError:
        pass  # an integer beyond 64 bits, perhaps
    text = orjson.dumps(_exact(value, default, _fragment), option=_FRAGMENTS).decode()
    return text, _exact(value, default, _digits)


def _may_lose(value: Any) -> bool:
    """Whether a value may hold numbers that are not finite."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return False
    if kind is float:
        return not math.isfinite(value)
    if kind is dict:
        return any(map(_may_lose, value.values())) or any(type(key) is float for key in value)
    if kind is list or kind is tuple:
        return any(map(_may_lose, value))
    return True


def _digits(number: int) -> str:
    return str(Decimal(number))  # `str(int)` has a limit


def _fragment(number: int) -> Any:
    return orjson.Fragment(_digits(number))


def _exact(value: Any, default: Callable[[Any], Any] | None, big: Callable[[int], Any]) -> Any:
    """`value` in JSON's types, as `orjson` would write it, with `big` of each integer beyond 64 bits."""
    if value is None or isinstance(value, (bool, str)):
        return orjson.loads(orjson.dumps(value))  # an enum's member, a text with a lone surrogate
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else big(int(value))
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping) and isinstance(value, dict):
        return {_key(key): _exact(inner, default, big) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(inner, default, big) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not f.name.startswith("_")}
        return _exact(fields, default, big)
    if isinstance(value, BaseModel):
        return _exact(value.model_dump(mode="json"), default, big)
    if isinstance(value, Decimal) and default is None:
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _exact(value.tolist(), default, big)
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError:
        if default is None:
            raise
    return _exact(default(value), default, big)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, float) and not math.isfinite(key):
        return str(_exact(key, None, _digits))
    if isinstance(key, int) and not isinstance(key, bool):
        return _digits(key)
    return str(next(iter(orjson.loads(orjson.dumps({key: 0}, option=_FRAGMENTS)))))
