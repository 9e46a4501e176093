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


def sample_json(schema: dict[str, Json], rng: Any, root: dict[str, Json] | None = None) -> Json:
    """A random value that fits `schema`, for the schemas that tools have (no patterns, no negations)."""
    root = schema if root is None else root
    if "$ref" in schema:
        return sample_json(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], rng, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][int(rng.integers(len(schema["enum"])))]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return sample_json(schema[union][int(rng.integers(len(schema[union])))], rng, root)
    kind = schema.get("type", "string")
    if kind == "object":
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        return {n: sample_json(s, rng, root) for n, s in properties.items() if n in required or rng.random() < 0.5}
    if kind == "array":
        low = schema.get("minItems", 0)
        n = int(rng.integers(low, schema.get("maxItems", low + 3) + 1))
        first = schema.get("prefixItems", [])
        items = [*first, *[schema.get("items") or {}] * (n - len(first))]
        return [sample_json(item, rng, root) for item in items]
    if kind == "integer":
        low, high = _bounds(schema, 1)
        return int(rng.integers(int(low), int(high) + 1))
    if kind == "number":
        low, high = _bounds(schema, 1e-6)
        return float(rng.uniform(low, high))
    if kind == "boolean":
        return bool(rng.integers(2))
    if kind == "null":
        return None
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    low = schema.get("minLength", 1)
    n = int(rng.integers(low, schema.get("maxLength", low + 8) + 1))
    return "".join(rng.choice(list(string.ascii_lowercase), size=n))


_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:30:00Z",
    "time": "12:30:00Z",
    "duration": "PT1H",
    "uuid": "12345678-1234-4234-8234-123456789abc",
    "uri": "https://example.org/",
    "email": "ada@example.org",
}


def _bounds(schema: dict[str, Json], step: float) -> tuple[float, float]:
    high = schema["maximum"] if "maximum" in schema else schema.get("exclusiveMaximum", math.inf) - step
    low = schema["minimum"] if "minimum" in schema else schema.get("exclusiveMinimum", min(0, high - 100) - step) + step
    return low, min(high, low + 100)
