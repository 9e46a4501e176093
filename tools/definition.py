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
    `-- ToolTimeout           no answer in time; `took_effect` says whether the effect happened, None if unknown

Any other exception in a tool's body is a bug of the tool: recorded as tool_error, shown to the agent without internals.

A parameter `Annotated[Database, Injected]` is filled by the toolbox and never shown to the model; `IdempotencyKey` is
one that every toolbox fills by itself. `toolset` makes one set of tools from functions, objects, triples, other sets;
`methods` makes one from the methods of a class whose object an environment keeps in its state.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from operator import attrgetter, or_
from typing import Annotated, Any, ClassVar, Literal, TypeVar, overload

import docstring_parser
import jsonschema
import jsonschema_rs
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import PydanticJsonSchemaWarning
from pydantic_core import SchemaError

from ..trajectories.errors import EnvError, UnknownName
from ..trajectories.messages import Json, Outcome, ToolSpec

__all__ = [
    "Conflict",
    "Forbidden",
    "Form",
    "Gone",
    "IdempotencyKey",
    "Injected",
    "InvalidArguments",
    "NotFound",
    "RateLimited",
    "Tool",
    "ToolError",
    "ToolTimeout",
    "Unauthenticated",
    "Unavailable",
    "is_tool",
    "merge",
    "methods",
    "tool",
    "tools_of",
    "toolset",
]


class ToolError(Exception):
    """A failure that the agent is told of, and may recover from."""

    outcome: ClassVar[Outcome] = Outcome.TOOL_ERROR

    def __init__(self, message: str = "", *, hint: str = "", took_effect: bool | None = False) -> None:
        super().__init__(message)
        self.hint = hint
        """How to go on; shown to the agent at hint level 3."""
        self.took_effect = took_effect
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
class Injected:
    """Marks a parameter that the toolbox fills and the model never sees: `db: Annotated[Database, Injected]`."""

    key: str = ""
    """In `Toolbox.inject`; the parameter's name by default."""
    optional: bool = False
    """The parameter's default stands where the toolbox has no such key. Set from the signature."""


IdempotencyKey = Annotated[str, Injected("idempotency_key")]
"""A parameter of this type gets a text that is the same for a call and for its retries after a failure, and another one
for every other call of the episode: what a service needs to recognise a request that it has already carried out."""

Form = Literal["openai", "hermes", "anthropic", "mcp"]
"""Whose way of writing a tool down."""


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
    deadline: float | None = None
    """Seconds, wall clock. A plain function with one runs in a process of its own, which is killed then, and so cannot
    change anything in this process; an async one is cancelled."""
    concurrent: bool = False
    """May run next to the other calls of its message, in another thread."""
    blocking: bool = False
    """Waits for something outside of this process: rollouts run its environment in a thread, next to generation."""
    injects: dict[str, Injected] = field(default_factory=dict)
    """Parameters that the toolbox fills."""
    arguments: type[BaseModel] | None = None
    """Converts JSON to Python values where a parameter's type is more than JSON (enum, dataclass, model)."""
    whole: tuple[str, ...] = ()
    """Parameters that are integers: JSON Schema lets 2.0 pass for one, a body expects 2."""
    is_async: bool = field(default=False, init=False)
    validator: jsonschema_rs.Validator = field(default=None, compare=False, repr=False)  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        if not self.name:
            raise EnvError("a tool has no name; give it one: the model calls it by that")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise EnvError(f"tool {self.name!r}: a deadline is some seconds, got {self.deadline}")
        object.__setattr__(self, "is_async", _is_async(self.fn))
        if self.deadline is not None and not self.is_async and not hasattr(os, "fork"):
            raise EnvError(f"tool {self.name!r}: this system cannot fork; make it `async`, or take the deadline away")
        object.__setattr__(self, "validator", _validator(self.name, self.spec.parameters))

    @property
    def name(self) -> str:
        name: str = self.spec.name
        return name

    def bind(self, owner: object) -> Tool:
        """The same tool with its function bound to `owner`."""
        return self._with("fn", self.fn.__get__(owner))

    def alone(self) -> Tool:
        """The same tool without its second route."""
        return self._with("alternative", "")

    def _with(self, field_name: str, value: Any) -> Tool:
        """A copy with one field changed; nothing is checked anew."""
        copy = object.__new__(Tool)
        for name in _TOOL_FIELDS:
            object.__setattr__(copy, name, getattr(self, name))
        object.__setattr__(copy, field_name, value)
        return copy

    def described(self, form: Form = "openai") -> dict[str, Json]:
        """The tool as a provider or a server wants it written down: OpenAI's form, which Hermes templates list between
        `<tools>` marks too; Anthropic's; MCP's, with what is known of effects."""
        spec = self.spec
        if form in ("openai", "hermes"):
            form_of_openai: dict[str, Json] = spec.openai()
            return form_of_openai
        if form == "anthropic":
            return {"name": spec.name, "description": spec.description, "input_schema": spec.parameters}
        if form == "mcp":
            hints = {"readOnlyHint": not self.effect, "idempotentHint": self.idempotent or not self.effect}
            return {
                "name": spec.name, "description": spec.description, "inputSchema": spec.parameters,
                "annotations": hints,
            }  # fmt: skip
        raise UnknownName("form of a tool", form, typing.get_args(Form))

    @classmethod
    def from_function(cls, fn: Callable[..., Any], **options: Any) -> Tool:
        """Builds a tool from type hints and docstring (Google, NumPy or reST). Raises `EnvError`, with the fix.

        Args:
            fn: A function, a bound method, or a method whose `self` comes later, by `bind`; `async` if wanted.
            options: Fields of `Tool`, and `name`.
        """
        name = options.pop("name", "") or getattr(fn, "__name__", "")
        if not name or not callable(fn):
            raise EnvError(f"{fn!r:.80} is no function with a name; give (name, callable, JSON Schema) to `toolset`")
        try:
            doc = docstring_parser.parse(inspect.getdoc(fn) or "")
        except docstring_parser.ParseError as error:
            raise EnvError(f"tool {name!r}: its docstring cannot be read: {error}") from None
        description = " ".join(part for part in (doc.short_description, doc.long_description) if part)
        if not description:
            raise EnvError(f"tool {name!r} has no docstring; say in one line what it does: the model reads it")
        model, injects = _arguments_model(fn, name, {p.arg_name: p.description or "" for p in doc.params})
        fields = model.model_fields
        plain = all(_is_plain(f.annotation) and not f.alias and not f.validation_alias for f in fields.values())
        whole = tuple(n for n, f in fields.items() if f.annotation in _WHOLE)
        return cls(
            ToolSpec(name, description, _schema_of(model, name)),
            fn,
            injects=injects,
            arguments=None if plain else model,
            whole=whole,
            **options,
        )

    @classmethod
    def from_schema(
        cls, name: str, fn: Callable[..., Any], parameters: dict[str, Json], *, description: str = "", **options: Any
    ) -> Tool:
        """Builds a tool from a JSON Schema of its arguments; `fn` gets them as they are, by name.

        The description is the schema's or the docstring's first paragraph where none is given. `injects` may be just
        the names of the parameters that the toolbox fills. Raises `EnvError`.
        """
        injects = options.get("injects", {})
        if not isinstance(injects, dict):
            options["injects"] = {parameter: Injected(parameter) for parameter in injects}
        description = description or str(parameters.get("description") or "")
        description = description or (inspect.getdoc(fn) or "").split("\n\n")[0].replace("\n", " ")
        if not description:
            raise EnvError(f"tool {name!r} has no description; give one, or a docstring: the model reads it")
        parameters = {k: v for k, v in parameters.items() if k != "description"}
        return cls(ToolSpec(name, description, parameters), fn, **options)

    @classmethod
    def from_model(cls, model: type[BaseModel], fn: Callable[[Any], Any], **options: Any) -> Tool:
        """Builds a tool whose arguments are a pydantic model's fields; `fn` gets the model. Name and description are
        the model's where none are given."""
        name = options.pop("name", "") or model.__name__
        description = options.pop("description", "") or " ".join((model.__doc__ or "").split())
        if not description:
            raise EnvError(f"the model {name!r} has no docstring; say in one line what the tool does")

        def call(**values: Any) -> Any:
            return fn(model.model_construct(_fields_set=set(values), **values))

        async def call_async(**values: Any) -> Any:
            return await fn(model.model_construct(_fields_set=set(values), **values))

        run = call_async if _is_async(fn) else call
        return cls(ToolSpec(name, description, _schema_of(model, name)), run, arguments=model, **options)


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
    deadline: float | None = None,
    concurrent: bool = False,
    blocking: bool = False,
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
        deadline: Seconds after which the call is a timeout. A plain function with a deadline runs in a process of its
            own that can be killed: for tools that only compute, or that change what lies outside of this process.
        concurrent: It may run next to the other calls of its message, in another thread.
        blocking: It waits for something outside of this process: rollouts run its environment in a thread, next to
            generation. Async tools and tools with a deadline are known to wait.
    """

    def mark(f: F) -> F:
        settings = dict(options)
        settings["ids"] = tuple(settings.get("ids", ()))
        setattr(f, _MARK, settings)
        return f

    return mark if fn is None else mark(fn)


def is_tool(value: Any) -> bool:
    """Whether a class attribute is a method marked `@tool`, a `Tool`, or a tuple of these."""
    marked = getattr(value, _MARK, None) or getattr(getattr(value, "__func__", None), _MARK, None)
    return marked is not None or any(True for _ in _declared(value))


@lru_cache(maxsize=256)
def tools_of(cls: type) -> tuple[Tool, ...]:
    """The tools of a class, in order of definition, base classes first: its `@tool` methods, and the tools of each
    attribute that is a `Tool` or a tuple of them (from `toolset` or `methods`). Nothing else: helpers never leak.

    Raises `EnvError` where two tools have one name.
    """
    found: dict[str, Tool] = {}
    for owner in reversed(cls.__mro__):
        for attribute, value in vars(owner).items():
            settings = getattr(value, _MARK, None) or getattr(getattr(value, "__func__", None), _MARK, None)
            if settings is not None and (callable(value) or isinstance(value, classmethod)):
                made = Tool.from_function(_free(value, owner), **settings)
                if isinstance(value, (classmethod, staticmethod)):
                    made = replace(made, fn=typing.cast("Any", value))  # its own __get__ binds it
                found[attribute] = made
                continue
            for key in [key for key in found if _attribute(key) == attribute]:
                del found[key]  # overridden without @tool: no longer a tool
            found |= {f"{attribute}/{made.name}": made for made in _declared(value)}
    first: dict[str, str] = {}
    for key, made in found.items():
        if (other := first.setdefault(made.name, key)) != key:
            raise EnvError(
                f"{cls.__name__} has two tools named {made.name!r}: {_attribute(other)} and {_attribute(key)}; leave "
                "one out, or rename it: @tool(name=...), merge(..., prefix=...)"
            )
    return tuple(found.values())


def _attribute(key: str) -> str:
    """Of the class: `writes` for "writes/book"."""
    return key.partition("/")[0]


def methods(owner: type, *names: str, at: str | Callable[[Any], Any] = "state", **options: Any) -> tuple[Tool, ...]:
    """Tools from methods of a class, whose object is looked for at each call: it may be a new one in every episode.

        class Airline(ToolEnv):
            reads = methods(Desk, "find", "get")                    # of self.state
            writes = methods(Desk, "book", at="state.desk", effect=True)

    Args:
        owner: The class.
        names: Its methods that become tools; nothing else of it does.
        at: Where the object is, from the environment (or whatever has the tools as an attribute): dotted names, or a
            function.
        options: Fields of `Tool` for all of them.

    Raises `EnvError` for a name that is no method, and as `Tool.from_function` does.
    """
    find: Callable[[Any], Any] = at if callable(at) else attrgetter(at)
    made = []
    for name in names:
        fn = getattr(owner, name, None)
        if not inspect.isroutine(fn):
            raise EnvError(f"{owner.__name__} has no method {name!r}; name some of its methods")
        one = Tool.from_function(fn, **{**getattr(fn, _MARK, {}), **options})
        made.append(replace(one, fn=typing.cast("Any", _Late(fn, name, find))))
    return merge(made)


def toolset(*sources: Any, **options: Any) -> tuple[Tool, ...]:
    """One set of tools from many sources, in their order.

    Args:
        sources: Each a `Tool`, a function or bound method (with `@tool` or without), a (name, callable, JSON Schema)
            triple, an object with `@tool` methods, or a list or tuple of these.
        options: Fields of `Tool` for those that are made here, from functions and triples: `effect=True`, say, or
            `injects=("db",)` for parameters that the toolbox fills.

    Raises `EnvError` for anything else, for an object without tools, and where two tools have one name.
    """
    return merge([made for source in sources for made in _from_source(source, options)])


def merge(*toolsets: Sequence[Tool], prefix: Sequence[str] = ()) -> tuple[Tool, ...]:
    """One tool set from several. `prefix` gives one prefix per set; two tools of one name are refused (`EnvError`)."""
    if prefix and len(prefix) != len(toolsets):
        raise EnvError(f"merge has {len(toolsets)} tool sets and {len(prefix)} prefixes: give one for each")
    merged: dict[str, Tool] = {}
    for index, tools in enumerate(toolsets):
        before = prefix[index] if prefix else ""
        names = {t.name for t in tools}
        for t in tools:
            other = before + t.alternative if t.alternative in names else t.alternative
            named = replace(t, spec=replace(t.spec, name=before + t.name), alternative=other) if before else t
            if named.name in merged:
                fix = "give prefixes to tell them apart" if len(toolsets) > 1 else "rename one: @tool(name=...)"
                where = "two tool sets have a tool" if len(toolsets) > 1 else "two tools are"
                raise EnvError(f"{where} named {named.name!r}: {fix}")
            merged[named.name] = named
    return tuple(merged.values())


@dataclass(frozen=True, slots=True)
class _Late:
    """The function of a tool that a class declares without its being the class's own method. Binding gives the function
    itself, or where there is a `find` the method of the object that it finds at each call."""

    __func__: Callable[..., Any]
    method: str = ""
    find: Callable[[Any], Any] | None = None

    @property
    def __name__(self) -> str:
        return "a declared tool"  # never taken for a method of the class that declares it

    def __get__(self, owner: Any, kind: type | None = None) -> Callable[..., Any]:
        fn, find, method = self.__func__, self.find, self.method
        if find is not None:
            return lambda **values: getattr(find(owner), method)(**values)
        return fn if hasattr(fn, "__name__") else lambda **values: fn(**values)


def _declared(value: Any) -> Iterator[Tool]:
    """The tools of a class attribute that is a `Tool`, or a tuple of them."""
    tools = (value,) if isinstance(value, Tool) else value
    if not isinstance(tools, tuple) or not all(isinstance(t, Tool) for t in tools):
        return
    for made in tools:
        yield made if isinstance(made.fn, _Late) else replace(made, fn=typing.cast("Any", _Late(made.fn)))


def _from_source(source: Any, options: dict[str, Any]) -> list[Tool]:
    if isinstance(source, Tool):
        return [source]
    if isinstance(source, (list, tuple)):
        if len(source) == 3 and isinstance(source[0], str) and callable(source[1]) and isinstance(source[2], dict):
            return [Tool.from_schema(*source, **options)]
        return [made for inner in source for made in _from_source(inner, options)]
    if inspect.ismethod(source) and not options and (known := _of_method(source.__func__)) is not None:
        return [known.bind(source.__self__)]
    if inspect.isroutine(source):
        return [Tool.from_function(source, **{**getattr(source, _MARK, {}), **options})]
    owner: type = type(source)
    made = [] if isinstance(source, (type, dict, str)) else [t.bind(source) for t in tools_of(owner)]
    if not made:
        what = f"the class {source.__name__}; give an object of it" if isinstance(source, type) else f"{source!r:.80}"
        raise EnvError(
            f"no tools in {what}; a source is a Tool, a function, a (name, callable, JSON Schema) triple, or an object "
            "with @tool methods"
        )
    return made


@lru_cache(maxsize=1024)
def _of_method(fn: Callable[..., Any]) -> Tool | None:
    """The tool of a method, to be bound: an environment may offer the same methods anew after each call. None where its
    first parameter is not `self`."""
    if next(iter(inspect.signature(fn).parameters), "") != "self":
        return None
    return Tool.from_function(fn, **getattr(fn, _MARK, {}))


def _free(value: Any, owner: type) -> Callable[..., Any]:
    """The function to read hints from, without `cls`."""
    free: Callable[..., Any] = value.__get__(None, owner) if isinstance(value, (classmethod, staticmethod)) else value
    return free


def _is_async(fn: Any) -> bool:
    fn = getattr(fn, "__func__", fn)
    return inspect.iscoroutinefunction(fn) or (
        not inspect.isroutine(fn) and inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  # not whether it can be called, but how
    )


def _validator(name: str, parameters: dict[str, Json]) -> jsonschema_rs.Validator:
    """Raises `EnvError` for a schema that is none, or that does not describe an object."""
    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
        kind = parameters.get("type", "object")
        # offline: no remote $ref is ever fetched. Backtracking in patterns is bounded.
        validator = jsonschema_rs.validator_for(parameters, offline=True)
    except jsonschema.SchemaError as error:
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {error.message}") from None
    except ValueError as error:  # a reference that leads nowhere, a pattern that is none, a number beyond 64 bits
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {str(error).partition(chr(10))[0]}") from None
    except (RecursionError, AttributeError, TypeError) as error:
        raise EnvError(f"tool {name!r} has a wrong JSON Schema: {type(error).__name__} while reading it") from None
    if kind != "object":
        raise EnvError(f"tool {name!r}: arguments come by name, so their JSON Schema is of type object, not {kind!r}")
    return validator


def _arguments_model(
    fn: Callable[..., Any], name: str, docs: dict[str, str]
) -> tuple[type[BaseModel], dict[str, Injected]]:
    """The model's parameters as a pydantic model, and those that the toolbox fills."""
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
        parameters = inspect.signature(fn).parameters.values()
    except NameError as error:
        raise EnvError(f"tool {name!r}: a type hint cannot be resolved: {error}") from None
    except (TypeError, ValueError) as error:
        raise EnvError(f"tool {name!r} has no signature that can be read ({error}); give a JSON Schema") from None
    fields: dict[str, Any] = {}
    injects: dict[str, Injected] = {}
    for parameter in parameters:
        if parameter.name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise EnvError(f"tool {name!r}: *{parameter.name} cannot be described to a model; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise EnvError(f"tool {name!r}: arguments come by name; take the `/` after {parameter.name!r} away")
        optional = parameter.default is not parameter.empty
        hint = hints.get(parameter.name)
        mark = next((m for m in getattr(hint, "__metadata__", ()) if m is Injected or isinstance(m, Injected)), None)
        if mark is not None:
            key = mark.key if isinstance(mark, Injected) else ""
            injects[parameter.name] = Injected(key or parameter.name, optional)
            continue
        if parameter.name.startswith("_") or (
            parameter.name.startswith("model_") and hasattr(BaseModel, parameter.name)
        ):
            raise EnvError(f"tool {name!r}: the parameter {parameter.name!r} needs another name; this one is reserved")
        if parameter.name not in hints:
            raise EnvError(
                f"tool {name!r}: parameter {parameter.name!r} has no type hint; write `{parameter.name}: str` or so"
            )
        if isinstance(parameter.default, FieldInfo):
            raise EnvError(
                f"tool {name!r}: write `{parameter.name}: Annotated[..., Field(...)] = default`: a Field as the "
                "default would be the value that the body gets"
            )
        settings: dict[str, Any] = {"default": parameter.default} if optional else {}
        if docs.get(parameter.name):  # else a description in Field(...) stands
            settings["description"] = docs[parameter.name]
        fields[parameter.name] = (_for_pydantic(hint), FieldInfo(**settings))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Field name .* shadows", UserWarning)  # `copy`, `json`: fine names here
            config = ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=())
            return create_model(name, __config__=config, **fields), injects
    except PydanticUserError as error:
        raise EnvError(f"tool {name!r}: a parameter's type has no JSON Schema: {error.message}") from None
    except (TypeError, ValueError, SchemaError) as error:  # a Field(...) that is wrong in itself
        raise EnvError(f"tool {name!r}: a parameter's type cannot be used: {error}") from None


def _schema_of(model: type[BaseModel], name: str) -> dict[str, Json]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default that is no JSON is not shown
            schema = _tidy(model.model_json_schema())
    except PydanticUserError as error:
        raise EnvError(f"tool {name!r}: a parameter's type has no JSON Schema: {error.message}") from None
    schema.setdefault("properties", {})
    schema["additionalProperties"] = False
    return schema


_WHOLE = (int, int | None, typing.Optional[int])  # noqa: UP045  # equal, and yet another type before Python 3.14


def _is_plain(annotation: Any) -> bool:
    """Whether JSON values of this type are already the Python values that the body expects. `int` is, for a parameter
    itself: see `Tool.whole`."""
    return annotation in _WHOLE or _is_json(annotation)


def _is_json(annotation: Any) -> bool:
    if annotation in (str, float, bool, type(None), Any, list, dict):
        return True
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return all(type(value) in (str, int, bool, type(None)) for value in inner)
    if origin is dict:
        return inner[0] in (str, Any) and _is_json(inner[1])
    if origin in (list, typing.Union, types.UnionType):
        return all(map(_is_json, inner))
    return False


def _for_pydantic(annotation: Any, made: dict[Any, Any] | None = None) -> Any:
    """The same type, with `typing.TypedDict` as pydantic wants it before Python 3.12."""
    if sys.version_info >= (3, 12):
        return annotation
    made = {} if made is None else made
    if typing.is_typeddict(annotation) and type(annotation).__module__ == "typing":
        if annotation not in made:
            # pydantic accepts typing_extensions' TypedDict alone; its own ConfigDict is one, and has the metaclass.
            namespace = {"__annotations__": {}, "__module__": annotation.__module__, "__doc__": annotation.__doc__}
            meta: Any = type(ConfigDict)
            twin = made[annotation] = meta(annotation.__name__, (), namespace)
            hints = typing.get_type_hints(annotation, include_extras=True)
            twin.__annotations__ = {key: _for_pydantic(hint, made) for key, hint in hints.items()}
            twin.__required_keys__, twin.__optional_keys__ = annotation.__required_keys__, annotation.__optional_keys__
            twin.__total__ = annotation.__total__
        return made[annotation]
    inner = typing.get_args(annotation)
    if not inner or typing.get_origin(annotation) is typing.Literal:
        return annotation
    if hasattr(annotation, "__metadata__"):
        return Annotated[(_for_pydantic(inner[0], made), *annotation.__metadata__)]
    twins = tuple(_for_pydantic(a, made) for a in inner)
    if all(a is b for a, b in zip(inner, twins, strict=True)):
        return annotation
    if isinstance(annotation, types.UnionType):
        return reduce(or_, twins)
    return annotation.copy_with(twins) if hasattr(annotation, "copy_with") else typing.get_origin(annotation)[twins]


def _tidy(schema: dict[str, Json]) -> dict[str, Json]:
    """Drops the titles that pydantic writes: tokens without meaning. Values (defaults, enums) stay as they are."""

    def walk(node: Any, named: bool = False) -> Any:
        if isinstance(node, dict):
            return {
                k: v if k in _VALUES and not named else walk(v, not named and k in ("properties", "$defs"))
                for k, v in node.items()
                if named or k != "title"
            }
        return [walk(v) for v in node] if isinstance(node, list) else node

    tidy: dict[str, Json] = walk(schema)
    tidy.pop("description", None)
    return tidy


_VALUES = ("default", "const", "enum", "examples")
