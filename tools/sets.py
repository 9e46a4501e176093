"""Sets of tools: of a class, of the methods of an object, of functions and other sources, and of several sets.

`toolset` makes one set from functions, objects, triples and other sets. `methods` makes one from the methods of a class
whose object an environment keeps in its state.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from ..trajectories.errors import EnvError
from .definition import MARK, Tool

__all__ = ["bound", "is_tool", "merge", "methods", "tools_of", "toolset"]


def is_tool(value: Any) -> bool:
    """Whether a class attribute is a method marked `@tool`, a `Tool`, or a tuple of these."""
    marked = getattr(value, MARK, None) or getattr(getattr(value, "__func__", None), MARK, None)
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
            settings = getattr(value, MARK, None) or getattr(getattr(value, "__func__", None), MARK, None)
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


def methods(
    owner: type,
    *names: str,
    where: Callable[[Any], object] | None = None,
    at: str | Callable[[Any], Any] = "state",
    **options: Any,
) -> tuple[Tool, ...]:
    """Tools from methods of a class, whose object is looked for at each call: it may be a new one in every episode.

        class Airline(ToolEnv):
            reads = methods(Desk, "find", "get")                    # of self.state
            writes = methods(Desk, "book", at="state.desk", effect=True)

        class Bank(ToolEnv):                                        # a suite that marks its tools itself
            tools = methods(Teller, where=lambda f: hasattr(f, "is_tool"), effect=lambda f: f.writes)

    Args:
        owner: The class.
        names: Its methods that become tools.
        where: Which of its other methods do: asked of each public one, those of base classes included.
        at: Where the object is, from the environment (or whatever has the tools as an attribute): dotted names, or a
            function.
        options: Fields of `Tool` for all of them. One that is true or false may also be a function of the method, or
            the names of those for which it is true: `effect=("book", "cancel")`.

    Raises `EnvError` for a name that is no method, where there is none, and as `Tool.from_function` does.
    """
    find: Callable[[Any], Any] = at if callable(at) else attrgetter(at)
    if where is not None:
        names = (*names, *(name for name in _public(owner) if name not in names and where(getattr(owner, name))))
    if not names:
        which = "name some of its methods, or say where=..." if where is None else "where=... is true of none"
        raise EnvError(f"no methods of {owner.__name__} become tools; {which}")
    made = []
    known: dict[str, str] = {}
    for name in names:
        fn = getattr(owner, name, None)
        if not inspect.isroutine(fn):
            raise EnvError(f"{owner.__name__} has no method {name!r}; name some of its methods")
        one = Tool.from_function(fn, **{"name": name, **getattr(fn, MARK, {}), **_settled(options, name, fn)})
        made.append(replace(one, fn=typing.cast("Any", _Late(fn, name, find))))
        known[name] = one.name
    _all_met(options, {*known, *known.values()})
    return merge(made)


def _public(owner: type) -> list[str]:
    """Methods of a class in order of definition, base classes first."""
    found = [name for base in reversed(owner.__mro__) if base is not object for name in vars(base)]
    return [name for name in dict.fromkeys(found) if not name.startswith("_") and _is_method(owner, name)]


def _is_method(owner: type, name: str) -> bool:
    held = inspect.getattr_static(owner, name)
    return inspect.isroutine(getattr(held, "__func__", held))


_FLAGS = ("effect", "idempotent", "logs_in", "waits", "concurrent", "blocking")
"""Fields of `Tool` that are true or false."""


def _settled(options: dict[str, Any], name: str, fn: Any) -> dict[str, Any]:
    """The options of one tool among many, by its function's name or its own."""
    known = {name, getattr(fn, MARK, {}).get("name", "")}
    settled = dict(options)
    for flag in _FLAGS:
        value = options.get(flag)
        if callable(value):
            settled[flag] = bool(value(fn))
        elif isinstance(value, (str, Collection)):
            settled[flag] = not known.isdisjoint(_names(value))
    return settled


def _all_met(options: dict[str, Any], names: Collection[str]) -> None:
    """Raises `EnvError` where an option names a tool that there is not: a wrong name would make a write a read."""
    for flag in _FLAGS:
        value = options.get(flag)
        if isinstance(value, (str, Collection)) and (wrong := [n for n in _names(value) if n not in names]):
            raise EnvError(f"{flag}= names {wrong[0]!r}, which is none of {', '.join(sorted(names))}; name the tools")


def _names(value: str | Collection[str]) -> Collection[str]:
    return (value,) if isinstance(value, str) else value


def toolset(*sources: Any, **options: Any) -> tuple[Tool, ...]:
    """One set of tools from many sources, in their order.

    Args:
        sources: Each a `Tool`, a function or bound method (with `@tool` or without), a (name, callable, JSON Schema)
            triple, an object with `@tool` methods, or a list or tuple of these.
        options: Fields of `Tool` for those that are made here, from functions and triples: `effect=True`, say, or
            `injects=("db",)` for parameters that the toolbox fills. One that is true or false may also be a function of
            the function, or the names of those for which it is true: `effect=("book", "cancel")`.

    Raises `EnvError` for anything else, for an object without tools, and where two tools have one name.
    """
    tools = merge([made for source in sources for made in _from_source(source, options)])
    _all_met(options, {made.name for made in tools})
    return tools


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
        return fn if hasattr(fn, "__name__") else lambda *model, **values: fn(*model, **values)


def bound(tools: Sequence[Tool], owner: object) -> tuple[Tool, ...]:
    """These tools, with those that look for their object from `owner` bound to it."""
    return tuple(t.bind(owner) if isinstance(t.fn, _Late) else t for t in tools)


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
            return [Tool.from_schema(*source, **_settled(options, source[0], source[1]))]
        return [made for inner in source for made in _from_source(inner, options)]
    if inspect.ismethod(source) and not options and (known := _of_method(source.__func__)) is not None:
        return [known.bind(source.__self__)]
    if inspect.isroutine(source):
        return [
            Tool.from_function(source, **{**getattr(source, MARK, {}), **_settled(options, source.__name__, source)})
        ]
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
    return Tool.from_function(fn, **getattr(fn, MARK, {}))


def _free(value: Any, owner: type) -> Callable[..., Any]:
    """The function to read hints from, without `cls`."""
    free: Callable[..., Any] = value.__get__(None, owner) if isinstance(value, (classmethod, staticmethod)) else value
    return free
