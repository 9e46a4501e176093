"""An OpenAPI document as plain JSON values, from a dict or a file. Defines `read_document` and `read_file`.

YAML is read as YAML 1.2 with JSON's types (its core schema): `NO`, `on`, a date and `12:30` are texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...trajectories.errors import ConfigError, EnvError
from ...trajectories.messages import Json

if TYPE_CHECKING:
    import yaml

__all__ = ["kind_of", "read_document", "read_file", "told"]

_MAX_BITS = 10_000
_MAX_DOCUMENT = 64 << 20
"""Bytes of a file. GitHub's description has 12 MB."""

Twice = Callable[[str], None]
"""Told of each key that an object has twice."""


def read_document(document: Mapping[str, Json] | str | Path, twice: Twice) -> tuple[dict[str, Json], Path | None]:
    """The document, and its file (None where there is none).

    Args:
        document: The document, or its file.
        twice: Told of each key that an object has twice; the last one counts.

    Raises:
        ConfigError: The file cannot be read, or is neither JSON nor YAML.
        EnvError: It holds something else than an object.
    """
    if isinstance(document, Mapping):
        value, path = _plain(document), None
    elif isinstance(document, (str, Path)):
        path = Path(document)
        value = read_file(path, twice)
    else:
        raise ConfigError(f"an OpenAPI document is a dict or a file, got {type(document).__name__}")
    if not isinstance(value, dict):
        raise EnvError(f"{path} holds no OpenAPI document, but {kind_of(value)}")
    return value, path


def read_file(path: Path, twice: Twice) -> Json:
    """The value in a JSON or YAML file. Raises `ConfigError`."""
    try:
        if path.stat().st_size > _MAX_DOCUMENT:
            raise ConfigError(f"{path} is larger than {_MAX_DOCUMENT >> 20} MiB: is it an OpenAPI document?")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the OpenAPI document {path}: {reason}") from None
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml") and data.lstrip()[:1] not in (b"{", b"["):
        return _plain(_yaml(path, data, twice))
    try:
        return _plain(_json(data, twice))
    except (ValueError, RecursionError) as error:
        if suffix in (".yaml", ".yml"):
            return _plain(_yaml(path, data, twice))
        raise ConfigError(f"{path} is no JSON: {_line(error)}; a YAML document ends in .yaml") from None


def kind_of(value: Json) -> str:
    """A value's kind, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def told(value: Json) -> str:
    """A value in a message: itself, or its kind where it may be large."""
    return kind_of(value) if isinstance(value, (dict, list)) else f"{value}"[:100]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _json(data: bytes, twice: Twice) -> Json:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) != len(found):
            seen: set[str] = set()
            for key, _ in found:
                if key in seen:
                    twice(key)
                seen.add(key)
        return made

    return json.loads(data, object_pairs_hook=pairs)


def _yaml(path: Path, data: bytes, twice: Twice) -> Json:
    import yaml

    loader = _loader()(data)
    loader.twice = twice  # type: ignore[attr-defined]  # an attribute of the class that `_loader` makes
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no YAML: {_line(error)}") from None
    finally:
        loader.dispose()


_RESOLVED = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
)  # fmt: skip
"""YAML 1.2's core schema, and the merge key, which all readers know."""
_classes: list[type[yaml.SafeLoader]] = []


def _loader() -> type[yaml.SafeLoader]:
    """PyYAML's loader (the one in C where there is one) with the types of YAML 1.2."""
    if _classes:
        return _classes[0]
    import yaml

    base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Core(base):  # type: ignore[valid-type,misc]  # which of the two is known at run time
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own form
        twice: Twice

        def whole(self, node: yaml.ScalarNode) -> int:
            text = node.value.lstrip("+")
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

        def real(self, node: yaml.ScalarNode) -> float:
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))

        def truth(self, node: yaml.ScalarNode) -> bool:
            return bool(node.value.lower() == "true")

        def text(self, node: yaml.ScalarNode) -> str:
            return str(node.value)

        def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[str, Any]:
            if not isinstance(node, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
            own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            self.flatten_mapping(node)
            made: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(None, None, "a key is a text", key.start_mark)
                made[key.value] = self.construct_object(value, deep=deep)
            if len(set(own)) != len(own):
                for name in {name for name in own if own.count(name) > 1}:
                    self.twice(name)
            return made

    for name, pattern, first in _RESOLVED:
        Core.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$"), first)
    for name, construct in (("int", Core.whole), ("float", Core.real), ("bool", Core.truth),
                            ("timestamp", Core.text), ("binary", Core.text)):  # fmt: skip
        Core.add_constructor(f"tag:yaml.org,2002:{name}", construct)
    _classes.append(Core)
    return Core


def _plain(document: Any) -> Json:
    """A copy with JSON's types only: texts as keys, lists for tuples, texts for dates. What is shared in it stays
    shared, and so do circles: nothing grows."""
    made: dict[int, Any] = {}
    todo: list[tuple[Any, Any]] = []

    def begun(value: Any) -> Any:
        if isinstance(value, str):
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            return math.inf if value > 0 else -math.inf  # nothing can write it
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray))):
            if id(value) not in made:
                made[id(value)] = {} if isinstance(value, Mapping) else []
                todo.append((value, made[id(value)]))
            return made[id(value)]
        return value.isoformat() if hasattr(value, "isoformat") else str(value)

    top = begun(document)
    while todo:
        value, copy = todo.pop()
        if isinstance(copy, dict):
            copy.update(
                (begun(key if isinstance(key, str) else _key(key)), begun(inner)) for key, inner in value.items()
            )
        else:
            copy.extend(map(begun, value))
    return top


def _key(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return str(key)
