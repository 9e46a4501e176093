"""What a function's signature says of a tool: its description, the schema of its arguments, what the toolbox fills in.

Defines `signature_of`, `Injected` and `IdempotencyKey`. What was read is kept for the process, so that an environment
may make its tools anew after each call.
"""

from __future__ import annotations

import ast
import builtins
import enum
import functools
import inspect
import sys
import threading
import types
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any

import docstring_parser
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from ..trajectories.errors import EnvError
from ..trajectories.messages import ToolSpec
from .enclosing import body_of, names_in
from .quiet import quiet
from .schemas import KEPT, schema_of

__all__ = ["IdempotencyKey", "Injected", "Signature", "signature_of"]


@dataclass(frozen=True, slots=True)
class Injected:
    """Marks a parameter that the toolbox fills and the model never sees: `db: Annotated[Database, Injected]`."""

    key: str = ""
    """In `Toolbox.inject`; the parameter's name by default."""
    optional: bool = False
    """The parameter's default holds where the toolbox has no such key. Set from the signature."""


IdempotencyKey = Annotated[str, Injected("idempotency_key")]
"""A parameter of this type gets a text that is the same for a call and for its retries after a failure, and another one
for every other call of the episode: what a service needs to recognise a request that it has already carried out."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What was read of one function."""

    spec: ToolSpec
    injects: dict[str, Injected]
    """Parameters that the toolbox fills."""
    arguments: type[BaseModel] | None
    """Converts JSON to Python values; None where JSON values are what the body expects."""


def signature_of(
    fn: Callable[..., Any], name: str, *, injects: tuple[str, ...] = (), names: Mapping[str, Any] | None = None
) -> Signature:
    """Reads type hints and docstring (Google, NumPy or reST); the same definition is read once in a process.

    Args:
        fn: A function, a bound method, or a method whose `self` comes later.
        name: The tool's.
        injects: Further parameters that the toolbox fills, next to those whose hint says so.
        names: What hints may name, next to the globals of `fn`: see `enclosing`.

    Raises:
        EnvError: No docstring, a parameter without a hint, a hint that has no JSON Schema. Says what to do.
    """
    scope = _Scope(fn, names or {})
    key, held = _identity(fn, name, injects, scope)
    if key is None:
        return _read(fn, name, injects, scope)
    with _lock:
        if key in _read_before:
            _read_before.move_to_end(key)
            return _read_before[key][0]
    read = _read(fn, name, injects, scope)
    with _lock:
        _read_before[key] = (read, held)
        if len(_read_before) > KEPT:
            _read_before.popitem(last=False)
    return read


_lock = threading.Lock()
_read_before: OrderedDict[tuple[Any, ...], tuple[Signature, list[Any]]] = OrderedDict()
"""Definition -> what was read, and the objects whose addresses are in the key, so that no other object gets them."""


def _read(fn: Callable[..., Any], name: str, injects: tuple[str, ...], scope: _Scope) -> Signature:
    try:
        doc = docstring_parser.parse(_doc(fn, scope.fn))
    except docstring_parser.ParseError as error:
        raise EnvError(f"tool {name!r}: its docstring cannot be read: {error}") from None
    description = " ".join(part for part in (doc.short_description, doc.long_description) if part)
    if not description:
        raise EnvError(f"tool {name!r} has no docstring; say in one line what it does: the model reads it")
    model, filled = _arguments_model(fn, name, {p.arg_name: p.description or "" for p in doc.params}, injects, scope)
    fields = model.model_fields
    plain = all(_is_plain(f.annotation) and not f.alias and not f.validation_alias for f in fields.values())
    return Signature(ToolSpec(name, description, schema_of(model, name)), filled, None if plain else model)


def _doc(fn: Any, inner: Any) -> str:
    """The docstring: that of a `partial` is its function's, and an object that can be called may have it in both
    places."""
    if isinstance(fn, functools.partial):
        return inspect.getdoc(inner) or ""
    if inspect.isroutine(fn):
        return inspect.getdoc(fn) or ""
    return inspect.getdoc(inner) or inspect.getdoc(fn) or ""


# ---- whether it is a definition that was read before -----------------------------------------------------------------


def _identity(
    fn: Callable[..., Any], name: str, injects: tuple[str, ...], scope: _Scope
) -> tuple[tuple[Any, ...] | None, list[Any]]:
    """What a definition consists of, and the objects that it names by address. None: it cannot be told from another.

    A closure that is made anew has the code object of the last one. Its hints may still be other ones. So names in them
    are looked up anew, and hints that are objects are compared; by their text too: equal unions may differ in order.
    """
    inner = scope.fn
    plain = isinstance(fn, (types.FunctionType, types.MethodType)) and isinstance(inner, types.FunctionType)
    if not plain or hasattr(fn, "__signature__") or not fn.__doc__:
        return None, []
    held: list[Any] = [inner.__code__, inner.__globals__]
    parts: list[Any] = [name, injects, fn.__doc__, inspect.ismethod(fn), *map(id, held)]
    try:
        for parameter, hint in inner.__annotations__.items():
            if parameter == "return":
                continue
            if isinstance(hint, str):
                found = [scope.find(path) for path in names_in(hint)]
                held += found
                parts += [parameter, hint, *map(id, found)]
            else:
                held.append(hint)
                parts += [parameter, hint] if isinstance(hint, type) else [parameter, hint, repr(hint)]
        for values in (inner.__defaults__ or (), (inner.__kwdefaults__ or {}).values()):
            for value in values:
                if isinstance(value, enum.Enum):
                    parts.append(value)
                elif value is None or type(value) in (str, int, float, bool):
                    parts.append(repr(value))
                else:
                    return None, []
        parts.append(tuple(inner.__kwdefaults__ or ()))
        key = tuple(parts)
        hash(key)
    except (NameError, TypeError, SyntaxError):  # a name that is not there; a hint or a default without a hash
        return None, []
    return key, held


class _Scope:
    """What the hints of a function may name: its closure, the function or class body that it is in as far as that is
    known, its globals, and the built-ins."""

    def __init__(self, fn: Callable[..., Any], names: Mapping[str, Any]) -> None:
        self.fn = body_of(fn)
        self.globals: dict[str, Any] = getattr(self.fn, "__globals__", {})
        self._names = names
        self._locals: dict[str, Any] | None = None

    @property
    def locals(self) -> dict[str, Any]:
        if self._locals is None:
            code, cells = getattr(self.fn, "__code__", None), getattr(self.fn, "__closure__", None)
            self._locals = dict(self._names)
            for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
                try:
                    self._locals[name] = cell.cell_contents
                except ValueError:  # not yet bound
                    continue
        return self._locals

    def find(self, path: tuple[str, ...]) -> Any:
        """What a dotted name leads to; None for none."""
        first = path[0]
        globals_ = self.globals if first not in self.locals else self.locals
        found = globals_.get(first, getattr(builtins, first, None))
        for part in path[1:]:
            found = getattr(found, part, None)
        return found

    def resolved(self, hint: Any) -> Any:
        """A hint without names that are still texts. Raises `NameError` and whatever its expressions raise."""
        holder = types.SimpleNamespace(__annotations__={"hint": hint})
        return typing.get_type_hints(holder, self.globals, self.locals, include_extras=True)["hint"]

    def mark(self, hint: Any) -> Injected | type[Injected] | None:
        """`Injected` where a hint says so. What it marks may be a name that is not there at run time."""
        if not isinstance(hint, str):
            return _mark_of(hint)
        try:
            node = ast.parse(hint.strip(), mode="eval").body
            if isinstance(node, ast.Constant):  # a hint in quotes, in a module whose hints are texts anyway
                return self.mark(node.value) if isinstance(node.value, str) else None
            if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
                return _mark_of(self.resolved(hint))
            for part in node.slice.elts[1:]:
                found = eval(compile(ast.Expression(part), "<hint>", "eval"), self.globals, self.locals)
                if found is Injected or isinstance(found, Injected):
                    return found
        except Exception:  # it is told of where the hint is needed
            return None
        return None


def _mark_of(hint: Any) -> Injected | type[Injected] | None:
    marks = getattr(hint, "__metadata__", ())
    return next((m for m in marks if m is Injected or isinstance(m, Injected)), None)


# ---- from hints to a model -------------------------------------------------------------------------------------------


def _arguments_model(
    fn: Callable[..., Any], name: str, docs: dict[str, str], filled: tuple[str, ...], scope: _Scope
) -> tuple[type[BaseModel], dict[str, Injected]]:
    """The model's parameters as a pydantic model, and those that the toolbox fills."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError, NameError) as error:
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
        hint = parameter.annotation
        mark = Injected if parameter.name in filled else scope.mark(hint)
        if mark is not None:
            key = mark.key if isinstance(mark, Injected) else ""
            injects[parameter.name] = Injected(key or parameter.name, optional)
            continue
        if parameter.name.startswith("_") or (
            parameter.name.startswith("model_") and hasattr(BaseModel, parameter.name)
        ):
            raise EnvError(f"tool {name!r}: the parameter {parameter.name!r} needs another name; this one is reserved")
        if hint is parameter.empty:
            raise EnvError(
                f"tool {name!r}: parameter {parameter.name!r} has no type hint; write `{parameter.name}: str` or so"
            )
        if isinstance(parameter.default, FieldInfo):
            raise EnvError(
                f"tool {name!r}: write `{parameter.name}: Annotated[..., Field(...)] = default`: a Field as the "
                "default would be the value that the body gets"
            )
        try:
            hint = scope.resolved(hint)
        except NameError as error:
            inside = "<locals>" in getattr(scope.fn, "__qualname__", "")
            fix = "; mark it with @tool where it is defined, or define the name in the module" if inside else ""
            raise EnvError(f"tool {name!r}: a type hint cannot be resolved: {error}{fix}") from None
        except (TypeError, SyntaxError, AttributeError) as error:
            raise EnvError(f"tool {name!r}: a type hint cannot be read: {error}") from None
        hint = _described(_for_pydantic(hint))
        if parameter.default is None and not _takes_none(hint):
            hint = typing.Optional[hint]  # noqa: UP045  # a hint may be a text here, which has no `|`
        settings: dict[str, Any] = {"default": parameter.default} if optional else {}
        if docs.get(parameter.name):  # else what the hint itself says holds
            settings["description"] = docs[parameter.name]
        fields[parameter.name] = (hint, FieldInfo(**settings))
    try:
        with quiet(UserWarning, "Field name .* shadows"):  # `copy`, `json`: fine names here
            config = ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=())
            model = create_model(name, __config__=config, **fields)
            if not model.__pydantic_complete__:
                model.model_rebuild(raise_errors=False, _types_namespace=scope.locals)
            return model, injects
    except PydanticUserError as error:
        raise EnvError(f"tool {name!r}: a parameter's type has no JSON Schema: {error.message}") from None
    except (TypeError, ValueError, SchemaError) as error:  # a Field(...) that is wrong in itself
        raise EnvError(f"tool {name!r}: a parameter's type cannot be used: {error}") from None


def _takes_none(hint: Any) -> bool:
    """Whether None is among the values that a hint names."""
    if hint in (None, type(None), Any, object):
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _takes_none(inner[0])
    if origin is typing.Literal:
        return None in inner
    return origin in (typing.Union, types.UnionType) and any(map(_takes_none, inner))


def _described(hint: Any) -> Any:
    """The same type with descriptions as pydantic wants them: `Annotated[str, "..."]` and `Doc("...")` are ones too."""
    inner = typing.get_args(hint)
    if not inner or typing.get_origin(hint) is typing.Literal:
        return hint
    if hasattr(hint, "__metadata__"):
        texts = [_documentation(m) for m in hint.__metadata__]
        known = any(isinstance(m, FieldInfo) and m.description for m in texts)
        marks = [m for m in texts if not isinstance(m, str)]
        text = next((m for m in texts if isinstance(m, str) and m.strip()), "")
        if text and not known:
            marks.append(FieldInfo(description=text.strip()))
        kind = _described(inner[0])
        return Annotated[(kind, *marks)] if marks else kind
    return _rebuilt(hint, inner, tuple(map(_described, inner)))


def _documentation(mark: Any) -> Any:
    """The text of a `Doc("...")`, from whichever package it is; any other mark as it is."""
    text = getattr(mark, "documentation", None)
    return text if isinstance(text, str) and type(mark).__name__ == "Doc" else mark


def _rebuilt(hint: Any, before: tuple[Any, ...], after: tuple[Any, ...]) -> Any:
    """A generic hint with other arguments."""
    if all(a is b for a, b in zip(before, after, strict=True)):
        return hint
    if isinstance(hint, types.UnionType):
        return reduce(or_, after)
    return hint.copy_with(after) if hasattr(hint, "copy_with") else typing.get_origin(hint)[after]


_WHOLE = (int, int | None, typing.Optional[int])  # noqa: UP045  # equal, and yet another type before Python 3.14


def _is_plain(annotation: Any) -> bool:
    """Whether JSON values of this type are already the Python values that the body expects. `int` is, for a parameter
    itself: see `whole_numbers`."""
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
    return _rebuilt(annotation, inner, tuple(_for_pydantic(a, made) for a in inner))
