"""`@tool`: a typed, documented Python function becomes a tool that a model can call. Defines `tool` and `Tool`.

A parameter `Annotated[Database, Injected]` is filled by the toolbox and never shown to the model; `IdempotencyKey` is
one that every toolbox fills by itself. What a tool may raise is in `errors`, how sets of tools are made in `sets`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

import jsonschema_rs
from pydantic import BaseModel

from ..trajectories.blame import place_of
from ..trajectories.errors import EnvError, UnknownName
from ..trajectories.messages import Json, ToolSpec
from .enclosing import names_around
from .models import ModelArguments, model_arguments
from .schemas import LaterValidator, validator_of
from .signature import Injected, signature_of

__all__ = ["MARK", "Form", "Tool", "tool"]

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
    model: ModelArguments | None = None
    """Makes the model that the function takes, in place of keywords: see `from_model`."""
    proven: bool = False
    """Its schema is known to be right: made by code, and large. Its validator is made at the first call: a service may
    have a thousand tools, and the validator of a schema of 15,000 nodes takes 0.1 s and 20 MB."""
    is_async: bool = field(default=False, init=False)
    validator: jsonschema_rs.Validator | LaterValidator = field(default=None, compare=False, repr=False)  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        if not self.name:
            raise EnvError("a tool has no name; give it one: the model calls it by that")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise EnvError(f"tool {self.name!r}: a deadline is some seconds, got {self.deadline}")
        object.__setattr__(self, "is_async", _is_async(self.fn))
        if self.deadline is not None and not self.is_async and not hasattr(os, "fork"):
            raise EnvError(f"tool {self.name!r}: this system cannot fork; make it `async`, or take the deadline away")
        make = LaterValidator if self.proven else validator_of
        object.__setattr__(self, "validator", make(self.name, self.spec.parameters))

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
                "name": spec.name,
                "description": spec.description,
                "inputSchema": spec.parameters,
                "annotations": hints,
            }
        raise UnknownName("form of a tool", form, typing.get_args(Form))

    @classmethod
    def from_function(cls, fn: Callable[..., Any], **options: Any) -> Tool:
        """Builds a tool from type hints and docstring (Google, NumPy or reST). Raises `EnvError`, with the fix.

        Args:
            fn: A function, a bound method, or a method whose `self` comes later, by `bind`; `async` if wanted.
            options: Fields of `Tool`, and `name`. `injects` may be just the names of the parameters that the toolbox
                fills.
        """
        _known_options(options, fn, getattr(fn, "__name__", ""), ("name", "names"))
        name = options.pop("name", "") or getattr(fn, "__name__", "")
        if not name or not callable(fn):
            raise EnvError(f"{fn!r:.80} is no function with a name; give (name, callable, JSON Schema) to `toolset`")
        names = options.pop("names", None) or names_around(fn)
        given = options.pop("injects", ())
        wanted = _injects(given)
        read = signature_of(fn, name, injects=tuple(wanted), names=names)
        injects = {**read.injects, **wanted} if isinstance(given, dict) else read.injects
        return cls(read.spec, fn, injects=injects, arguments=read.arguments, **options)

    @classmethod
    def from_schema(
        cls, name: str, fn: Callable[..., Any], parameters: dict[str, Json], *, description: str = "", **options: Any
    ) -> Tool:
        """Builds a tool from a JSON Schema of its arguments; `fn` gets them as they are, by name.

        The description is the schema's or the docstring's first paragraph where none is given. `injects` may be just
        the names of the parameters that the toolbox fills. Raises `EnvError`.
        """
        _known_options(options, fn, name)
        injects = options["injects"] = _injects(options.get("injects", ()))
        description = description or str(parameters.get("description") or "")
        description = description or (inspect.getdoc(fn) or "").split("\n\n")[0].replace("\n", " ")
        if not description:
            raise EnvError(f"tool {name!r} has no description; give one, or a docstring: the model reads it")
        parameters = {k: v for k, v in parameters.items() if k != "description"}
        for part in ("properties", "required"):  # what is injected is not shown
            if injects and isinstance(listed := parameters.get(part), (dict, list)):
                shown = [k for k in listed if k not in injects]
                parameters[part] = {k: listed[k] for k in shown} if isinstance(listed, dict) else shown
        return cls(ToolSpec(name, description, parameters), fn, **options)

    @classmethod
    def from_model(cls, model: type[BaseModel], fn: Callable[..., Any], **options: Any) -> Tool:
        """Builds a tool whose arguments are a pydantic model's fields; `fn` gets the model. Name and description are
        the model's where none are given.

        The model's own rules decide what is accepted, also against `Toolbox(validation=...)`: what it coerces, its
        validators and aliases, its `extra`. A model that sets no `extra` takes no other arguments. `injects` as for
        `from_function`: a value goes to the model's field of that name, which the agent then does not see, or to the
        keyword that `fn` has next to the model, or else to an attribute of the model. Raises `EnvError`.
        """
        _known_options(options, fn, model.__name__, ("name", "description"))
        name = options.pop("name", "") or model.__name__
        description = options.pop("description", "") or " ".join((model.__doc__ or "").split())
        if not description:
            raise EnvError(f"the model {name!r} has no docstring; say in one line what the tool does")
        injects = options["injects"] = _injects(options.get("injects", ()))
        read = model_arguments(model, fn, name, tuple(injects))
        return cls(ToolSpec(name, description, read.parameters), fn, model=read, **options)


def _known_options(options: Iterable[str], fn: Any, name: str, more: Sequence[str] = ()) -> None:
    """Raises `EnvError`, with the author's line, for an option that no tool has."""
    known = [*(n for n, f in Tool.__dataclass_fields__.items() if f.init and n not in ("spec", "fn")), *more]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
            place = place_of(fn) if callable(fn) else ""
            raise EnvError(
                f"the tool {name!r} is given the option {option!r}, which no tool has{place and f' ({place})'}; "
                + (f"did you mean {near[0]!r}?" if near else f"options are {', '.join(sorted(known))}")
            )


def _injects(given: Any) -> dict[str, Injected]:
    """Parameters that the toolbox fills, from their names alone too."""
    if not isinstance(given, dict):
        given = {name: Injected(name) for name in ((given,) if isinstance(given, str) else given)}
    return {n: i if isinstance(i, Injected) else Injected(i if isinstance(i, str) else "") for n, i in given.items()}


_TOOL_FIELDS = tuple(Tool.__dataclass_fields__)
MARK = "__sparring_tool__"
"""Attribute of a function under which `@tool` leaves its settings."""
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
        if names := names_around(f):
            settings["names"] = names
        setattr(f, MARK, settings)
        return f

    return mark if fn is None else mark(fn)


def _is_async(fn: Any) -> bool:
    fn = getattr(fn, "__func__", fn)
    return inspect.iscoroutinefunction(fn) or (
        not inspect.isroutine(fn) and inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  # not whether it can be called, but how
    )
