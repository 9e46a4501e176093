"""Gymnasium spaces over messages and actions. (`spaces.Text` refuses `{` and `é`, so we bring our own.)"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import gymnasium

from ..trajectories.messages import Action, Json, Observation, ToolCall, ToolSpec

__all__ = ["ActionSpace", "ObservationSpace", "sample_json"]


class ObservationSpace(gymnasium.Space[Observation]):
    """All observations."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> Observation:
        return Observation(())

    def contains(self, x: Any) -> bool:
        return isinstance(x, Observation)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObservationSpace)


class ActionSpace(gymnasium.Space[Action]):
    """All actions; `sample` gives one schema-valid call of a random tool."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__()
        self.tools = tuple(tools)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> Action:
        if not self.tools:
            return Action("done")
        tool = self.tools[int(self.np_random.integers(len(self.tools)))]
        return Action(tool_calls=(ToolCall(tool.name, sample_json(tool.parameters, self.np_random)),))

    def contains(self, x: Any) -> bool:
        return isinstance(x, Action)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionSpace) and self.tools == other.tools


def sample_json(schema: dict[str, Json], rng: Any, root: dict[str, Json] | None = None, depth: int = 0) -> Json:
    """A random value that fits `schema`, for the schemas that tools have (no patterns, no negations).

    Args:
        rng: A NumPy generator.
        root: Where references point; the schema itself by default.
        depth: How deep it is in the value: what may be left out is, far down, so that trees come to an end.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        return sample_json(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], rng, root, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _one_of(schema["enum"], rng)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return sample_json(_one_of(schema[union], rng), rng, root, depth)
    if "allOf" in schema:  # as pydantic writes a reference with a description of its own
        merged = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema["allOf"]:
            merged |= part
        return sample_json(merged, rng, root, depth)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = _one_of(kind, rng)
    if kind == "object":
        required, properties = schema.get("required", []), schema.get("properties", {})
        made = {
            name: sample_json(inner, rng, root, depth + 1)
            for name, inner in properties.items()
            if name in required or (rng.random() < 0.5 and depth < _DEEP)
        }
        more = schema.get("additionalProperties")
        other = more if isinstance(more, dict) else {}
        return made | {n: sample_json(other, rng, root, depth + 1) for n in required if n not in properties}
    if kind == "array":
        return _array(schema, rng, root, depth)
    if kind == "integer" or (kind == "number" and "multipleOf" in schema):
        step = schema.get("multipleOf", 1)
        low, high = _bounds(schema, step)
        many = int(rng.integers(math.ceil(low / step), math.floor(high / step) + 1))
        return many * int(step) if kind == "integer" else float(many * step)
    if kind == "number":
        low, high = _bounds(schema, 1e-6)
        return float(rng.uniform(low, high))
    if kind == "boolean":
        return bool(rng.integers(2))
    if kind == "null":
        return None
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    low = schema.get("minLength", min(1, schema.get("maxLength", 1)))
    n = int(rng.integers(low, schema.get("maxLength", low + 8) + 1))
    return "".join(rng.choice(list(string.ascii_lowercase), size=n))


_DEEP = 4


def _one_of(values: Sequence[Json], rng: Any) -> Json:
    return values[int(rng.integers(len(values)))]


def _array(schema: dict[str, Json], rng: Any, root: dict[str, Json], depth: int) -> list[Json]:
    low = schema.get("minItems", 0)
    first = schema.get("prefixItems", [])
    most = len(first) if schema.get("items") is False else low if depth >= _DEEP else low + 3
    n = int(rng.integers(low, max(low, schema.get("maxItems", most)) + 1))
    rest = schema.get("items") or {}
    items: list[Json] = []
    for number in range(n):
        for _ in range(50):  # until it is another one, where all have to differ
            item = sample_json(first[number] if number < len(first) else rest, rng, root, depth + 1)
            if not schema.get("uniqueItems") or item not in items:
                items.append(item)
                break
    return items


_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:30:00Z",
    "time": "12:30:00Z",
    "duration": "PT1H",
    "uuid": "12345678-1234-4234-8234-123456789abc",
    "uri": "https://example.org/",
    "email": "ada@example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.org",
}


def _bounds(schema: dict[str, Json], step: float) -> tuple[float, float]:
    high = schema["maximum"] if "maximum" in schema else schema.get("exclusiveMaximum", math.inf) - step
    low = schema["minimum"] if "minimum" in schema else schema.get("exclusiveMinimum", min(0, high - 100) - step) + step
    return low, min(high, low + 100 * max(step, 1))
