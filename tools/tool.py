"""`@tool`: a typed, documented Python function becomes a tool that a model can call.

Defines `tool`, `Tool`, and what a tool may raise to tell the agent of a failure:

    ToolError                 outcome tool_error; raise a child where one fits
    |-- NotFound              no such id or record
    |-- InvalidArguments      arguments that fit the schema and are wrong all the same
    |-- Conflict              stale id or version: read again, redo what depends on it
    |-- Forbidden             never allowed by this route
    |-- Unavailable           transient: the same call may work in a moment
    |-- RateLimited           too many calls; `retry_after` in virtual ticks
    |-- Unauthenticated       log in, then go on
    |-- Gone                  the tool or resource was removed; names its successor or does not
    `-- ToolTimeout           no answer in time; `landed` says whether the effect happened, None if unknown

Any other exception in a tool's body is a bug of the tool: recorded as tool_error, shown to the agent without internals.
"""

from __future__ import annotations

import inspect
import types
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, overload

import docstring_parser
import jsonschema
import jsonschema_rs
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from ..trajectories.errors import EnvError
from ..trajectories.messages import Json, Outcome, ToolSpec

__all__ = [
    "Conflict",
    "Forbidden",
    "Gone",
    "InvalidArguments",
    "NotFound",
    "RateLimited",
    "Tool",
    "ToolError",
    "ToolTimeout",
    "Unauthenticated",
    "Unavailable",
    "tool",
    "tools_of",
]


class ToolError(Exception):
    """A failure that the agent is told of, and may recover from."""

    outcome: ClassVar[Outcome] = Outcome.TOOL_ERROR

    def __init__(self, message: str = "", *, hint: str = "", landed: bool | None = False) -> None:
        super().__init__(message)
        self.hint = hint
        """How to go on; shown to the agent at hint level 3."""
        self.landed = landed
        """Whether the effect happened all the same; None: it cannot be known."""


class NotFound(ToolError):
    outcome = Outcome.NOT_FOUND


class InvalidArguments(ToolError):
    outcome = Outcome.INVALID_ARGUMENTS


class Conflict(ToolError):
    outcome = Outcome.CONFLICT


class Forbidden(ToolError):
    outcome = Outcome.FORBIDDEN


class Unavailable(ToolError):
    outcome = Outcome.UNAVAILABLE


class RateLimited(ToolError):
    outcome = Outcome.RATE_LIMITED

    def __init__(self, message: str = "", *, retry_after: int | None = 1, hint: str = "") -> None:
        super().__init__(message or f"retry after {retry_after} ticks", hint=hint)
        self.retry_after = retry_after
        """Virtual ticks; None: waiting does not help."""


class Unauthenticated(ToolError):
    outcome = Outcome.UNAUTHENTICATED


class Gone(ToolError):
    outcome = Outcome.GONE

    def __init__(self, message: str = "", *, successor: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint or (f"use {successor}" if successor else ""))
        self.successor = successor


class ToolTimeout(ToolError):
    outcome = Outcome.TIMEOUT


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: what the model is told, and what runs."""

    spec: ToolSpec
    fn: Callable[..., Any]
    """Called with the validated arguments as keywords; unbound for methods, bound by `bind`."""
    effect: bool = False
    """Changes the world: never sent twice by the framework."""
    idempotent: bool = False
    """A second identical call changes nothing more."""
    alternative: str = ""
    """Another tool by which the same can be reached: the second route when this one is removed."""
    logs_in: bool = False
    """A successful call renews the session."""
    waits: bool = False
    """A successful call lets virtual time pass."""
    ids: tuple[str, ...] = ()
    """Parameters that hold ids which may go stale."""
    arguments: type[BaseModel] | None = None
    """Converts JSON to Python values where a parameter's type is more than JSON (enum, dataclass, model)."""
    validator: jsonschema_rs.Validator = field(default=None, compare=False, repr=False)  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        try:
            jsonschema.Draft202012Validator.check_schema(self.spec.parameters)
        except jsonschema.SchemaError as error:
            raise EnvError(f"tool {self.name!r} has a wrong JSON Schema: {error.message}") from None
        # offline: no remote $ref is ever fetched; patterns run in linear time.
        object.__setattr__(self, "validator", jsonschema_rs.validator_for(self.spec.parameters, offline=True))

    @property
    def name(self) -> str:
        return self.spec.name

    def bind(self, owner: object) -> Tool:
        """The same tool with its function bound to `owner`."""
        bound = object.__new__(Tool)
        for name in _TOOL_FIELDS:
            object.__setattr__(bound, name, getattr(self, name))
        object.__setattr__(bound, "fn", self.fn.__get__(owner))
        return bound

    @classmethod
    def from_function(cls, fn: Callable[..., Any], **options: Any) -> Tool:
        """Builds a tool from type hints and docstring (Google, NumPy or reST). Raises `EnvError`, with the mend."""
        name = options.pop("name", "") or fn.__name__
        if inspect.iscoroutinefunction(fn):
            raise EnvError(
                f"tool {name!r} is async; tools are plain functions: drop `async` (or use asyncio.run inside)"
            )
        doc = docstring_parser.parse(inspect.getdoc(fn) or "")
        description = " ".join(part for part in (doc.short_description, doc.long_description) if part)
        if not description:
            raise EnvError(f"tool {name!r} has no docstring; say in one line what it does: the model reads it")
        model = _arguments_model(fn, name, {p.arg_name: p.description or "" for p in doc.params})
        try:
            schema = _tidy(model.model_json_schema())
        except PydanticUserError as error:
            raise EnvError(f"tool {name!r}: a parameter's type has no JSON Schema: {error.message}") from None
        schema.setdefault("properties", {})
        schema["additionalProperties"] = False
        plain = all(_is_plain(f.annotation) for f in model.model_fields.values())
        return cls(ToolSpec(name, description, schema), fn, arguments=None if plain else model, **options)


_TOOL_FIELDS = tuple(Tool.__dataclass_fields__)
_MARK = "__sparring_tool__"
F = TypeVar("F", bound=Callable[..., Any])


@overload
def tool(fn: F, /) -> F: ...
@overload
def tool(
    *,
    name: str = "",
    effect: bool = False,
    idempotent: bool = False,
    alternative: str = "",
    logs_in: bool = False,
    waits: bool = False,
    ids: Sequence[str] = (),
) -> Callable[[F], F]: ...
def tool(fn: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
    """Marks a function or method as a tool; its type hints and docstring become the schema that the model sees.

    Args:
        name: The tool's name; the function's by default.
        effect: It changes the world.
        idempotent: A second identical call changes nothing more.
        alternative: Name of the tool that reaches the same when this one is gone.
        logs_in: A successful call renews an expired session.
        waits: A successful call lets virtual time pass.
        ids: Parameters that hold ids which may go stale.
    """

    def mark(f: F) -> F:
        settings = dict(options)
        settings["ids"] = tuple(settings.get("ids", ()))
        setattr(f, _MARK, settings)
        return f

    return mark if fn is None else mark(fn)


@lru_cache(maxsize=256)
def tools_of(cls: type) -> tuple[Tool, ...]:
    """The tools of a class, in order of definition, base classes first. Only `@tool` makes one: helpers never leak."""
    found: dict[str, Tool] = {}
    for owner in reversed(cls.__mro__):
        for attribute, value in vars(owner).items():
            if callable(value) and hasattr(value, _MARK):
                made = Tool.from_function(value, **getattr(value, _MARK))
                clash = next((a for a, t in found.items() if t.name == made.name and a != attribute), None)
                if clash is not None:
                    raise EnvError(f"{cls.__name__} has two tools named {made.name!r}: {clash} and {attribute}")
                found[attribute] = made
            elif attribute in found:
                del found[attribute]  # overridden without @tool: no longer a tool
    return tuple(found.values())


def _arguments_model(fn: Callable[..., Any], name: str, docs: dict[str, str]) -> type[BaseModel]:
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise EnvError(f"tool {name!r}: a type hint cannot be resolved: {error}") from None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise EnvError(f"tool {name!r}: *{parameter.name} cannot be described to a model; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise EnvError(f"tool {name!r}: arguments come by name; take the `/` after {parameter.name!r} away")
        if parameter.name.startswith("_") or (
            parameter.name.startswith("model_") and hasattr(BaseModel, parameter.name)
        ):
            raise EnvError(f"tool {name!r}: the parameter {parameter.name!r} needs another name; this one is reserved")
        if parameter.name not in hints:
            raise EnvError(
                f"tool {name!r}: parameter {parameter.name!r} has no type hint; write `{parameter.name}: str` or so"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        description = docs.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], FieldInfo(default=default, description=description))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Field name .* shadows", UserWarning)  # `copy`, `json`: fine names here
            config = ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=())
            return create_model(name, __config__=config, **fields)
    except PydanticUserError as error:
        raise EnvError(f"tool {name!r}: a parameter's type has no JSON Schema: {error.message}") from None


def _is_plain(annotation: Any) -> bool:
    """Whether JSON values of this type are already the Python values that the body expects."""
    if annotation in (str, int, float, bool, type(None), Any, list, dict):
        return True
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return True
    if origin in (list, dict, typing.Union, types.UnionType):
        return all(_is_plain(a) for a in typing.get_args(annotation))
    return False


def _tidy(schema: dict[str, Json]) -> dict[str, Json]:
    """Drops the titles that pydantic writes: tokens without meaning."""

    def walk(node: Any, named: bool = False) -> Any:
        if isinstance(node, dict):
            return {k: walk(v, k in ("properties", "$defs")) for k, v in node.items() if named or k != "title"}
        return [walk(v) for v in node] if isinstance(node, list) else node

    tidy: dict[str, Json] = walk(schema)
    tidy.pop("description", None)
    return tidy


def merge(*toolsets: Sequence[Tool], prefix: Sequence[str] = ()) -> tuple[Tool, ...]:
    """One tool set from several. `prefix` gives one prefix per set; two tools of one name are refused (`EnvError`)."""
    merged: dict[str, Tool] = {}
    for index, tools in enumerate(toolsets):
        for t in tools:
            named = replace(t, spec=replace(t.spec, name=prefix[index] + t.name)) if prefix else t
            if named.name in merged:
                raise EnvError(f"two tool sets have a tool named {named.name!r}: give prefixes to tell them apart")
            merged[named.name] = named
    return tuple(merged.values())
