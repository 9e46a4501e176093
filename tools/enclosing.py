"""What the hints of a function name and only the functions around it know: classes and names that are made in them.

Defines `names_around`, `names_in` and `body_of`. A hint that is a text (as under `from __future__ import annotations`)
does not hold what it names. While the functions around still run, their frames do. Later, the class itself is looked
for, or the statement that defines it is carried out once more.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any

__all__ = ["body_of", "names_around", "names_in"]

_KEPT = 1024


@lru_cache(maxsize=4 * _KEPT)
def names_in(hint: str) -> tuple[tuple[str, ...], ...]:
    """The dotted names in a hint, as `typing.Annotated`; also those in its texts, which may be hints. Raises
    `SyntaxError`."""

    def walk(node: ast.AST) -> Iterator[tuple[str, ...]]:
        path: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield (inner.id, *path)
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield (node.value,)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return tuple(dict.fromkeys(walk(ast.parse(hint.strip(), mode="eval"))))


def body_of(fn: Any) -> Any:
    """The function behind a method, a decorated function, a `functools.partial` or an object that can be called, as far
    as it can be told."""
    while True:
        inner = inspect.unwrap(getattr(fn, "__func__", fn))
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif not isinstance(inner, (type, types.FunctionType)) and not inspect.isroutine(inner) and callable(inner):
            inner = type(inner).__call__
        if inner is fn:
            return inner
        fn = inner


def names_around(fn: Callable[..., Any]) -> dict[str, Any]:
    """What the hints of `fn` name and the functions and classes define that it is in, as far as it can be found. Such a
    name hides one of the module."""
    inner = body_of(fn)
    if not isinstance(inner, types.FunctionType) or "." not in inner.__qualname__:
        return {}
    known = set(inner.__code__.co_freevars)
    found: dict[str, Any] = {}
    wanted = _named(inner) - known
    while wanted:
        new = _found(inner, wanted)
        found |= new
        known |= wanted
        # A class that is defined there may itself name others in its hints.
        local = [value for value in new.values() if getattr(value, "__module__", "") == inner.__module__]
        wanted = {name for value in local for name in _named(value)} - known
    return found


def _named(holder: Any) -> set[str]:
    """The names in the hints of a function or class that are texts, that of what is returned left out."""
    named: set[str] = set()
    for key, hint in getattr(holder, "__annotations__", {}).items():
        if isinstance(hint, str) and (key != "return" or isinstance(holder, type)):
            with contextlib.suppress(SyntaxError):
                named |= {path[0] for path in names_in(hint)}
    return named


def _found(inner: types.FunctionType, wanted: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    left = set(wanted)
    frame = sys._getframe(2)
    while left and frame is not None:
        code = frame.f_code
        # Names of a module are found there anyway, and are hidden by those of a function.
        may = code.co_name != "<module>" and not left.isdisjoint(code.co_varnames + code.co_cellvars + code.co_names)
        if may and _holds(code, inner.__code__):
            found = {name: frame.f_locals[name] for name in left if name in frame.f_locals} | found
            left -= found.keys()
        if frame.f_back is None:
            break
        frame = frame.f_back
    if left and "<locals>" in inner.__qualname__:
        found |= _made_again(inner, frozenset(left))
    elif left:  # a method's: its class may hold the name
        owner: Any = inner.__globals__.get(inner.__qualname__.partition(".")[0])
        for part in inner.__qualname__.split(".")[1:-1]:
            owner = getattr(owner, part, None)
        found |= {name: vars(owner)[name] for name in left if isinstance(owner, type) and name in vars(owner)}
    return found


@lru_cache(maxsize=_KEPT)
def _holds(outer: types.CodeType, inner: types.CodeType) -> bool:
    """Whether `inner` is the code of something that is defined in `outer`."""
    parts = [part for part in outer.co_consts if isinstance(part, types.CodeType)]
    return any(part is inner or _holds(part, inner) for part in parts)


# ---- when the functions around have returned -------------------------------------------------------------------------


class _Definition:
    """How the function around another one defines a name, in its source."""

    def __init__(self, parts: list[ast.stmt], name: str, qualname: str, module: dict[str, Any], flags: int) -> None:
        self.parts, self.name, self.qualname, self.module, self.flags = parts, name, qualname, module, flags

    def value(self) -> Any:
        """The class itself where there is one of its name; else, and for other names, the statement's outcome. Raises
        what the statement raises."""
        last = self.parts[-1]
        if isinstance(last, ast.ClassDef) and last.name == self.name and len(alive := self._alive(last)) == 1:
            return alive[0]
        return self._carried_out

    @cached_property
    def _carried_out(self) -> Any:
        space = {**self.module}
        tree = ast.Module(self.parts, [])
        exec(compile(tree, "<the function around>", "exec", self.flags, dont_inherit=True), space)
        return space[self.name]

    def _alive(self, statement: ast.ClassDef) -> list[type]:
        base: Any = object
        if statement.bases:
            path = names_in(ast.unparse(statement.bases[0]))[0]
            base = self.module.get(path[0], getattr(builtins, path[0], None))
            for part in path[1:]:
                base = getattr(base, part, None)
        kinds: list[type] = type.__subclasses__(base) if isinstance(base, type) else []
        module = self.module.get("__name__")
        return [kind for kind in kinds if (kind.__qualname__, kind.__module__) == (self.qualname, module)]


def _made_again(fn: types.FunctionType, wanted: frozenset[str]) -> dict[str, Any]:
    """What the function around `fn` had defined under these names. Nothing for a name whose definition depends on more
    than the module: on an argument of that function, say, which is not known any more."""
    made: dict[str, Any] = {}
    for name, definition in _definitions(fn.__code__, fn.__qualname__, wanted, _Module(fn.__globals__)).items():
        with contextlib.suppress(Exception):  # it is told of where the hint is needed
            made[name] = definition.value()
    return made


class _Module:
    """A module's names, as a key."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names

    def __hash__(self) -> int:
        return id(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Module) and self.names is other.names


@lru_cache(maxsize=_KEPT)
def _definitions(
    code: types.CodeType, qualname: str, wanted: frozenset[str], module: _Module
) -> dict[str, _Definition]:
    around = qualname.rpartition(".<locals>.")[0]
    body, own = _around(code, around)
    statements = {name: statement for statement in body for name in _defined(statement)}
    flags = code.co_flags & __future__.annotations.compiler_flag
    found: dict[str, _Definition] = {}
    for name in wanted & statements.keys():
        needed, order = {name}, [name]
        for one in order:
            more = _names(statements[one], ast.Load) & statements.keys() - needed
            needed |= more
            order += sorted(more)
        parts = sorted({id(statements[n]): statements[n] for n in needed}.values(), key=lambda part: part.lineno)
        unknown = {n for part in parts for n in _names(part, ast.Load)} & own - needed
        if not unknown and all(map(_only_defines, parts)):
            found[name] = _Definition(parts, name, f"{around}.<locals>.{name}", module.names, flags)
    return found


def _around(code: types.CodeType, around: str) -> tuple[list[ast.stmt], set[str]]:
    """The statements of the function that `code` is defined in, as its source has them, and all names that this one and
    those around it set; nothing where there is no source."""
    try:
        lines, _ = inspect.findsource(code)
        tree: ast.AST = ast.parse("".join(lines))
    except (OSError, SyntaxError, ValueError, IndexError):
        return [], set()
    body: list[ast.stmt] = []
    own: set[str] = set()
    for name in around.replace(".<locals>", "").split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        inside = [
            node
            for node in ast.walk(tree)
            if isinstance(node, kinds)
            and node.name == name
            and node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno)
        ]
        if not inside:
            return [], set()
        tree, body = inside[0], inside[0].body
        if not isinstance(tree, ast.ClassDef):
            own |= {argument.arg for argument in ast.walk(tree.args) if isinstance(argument, ast.arg)}
            own |= {name for statement in body for name in _defined(statement)}
    return body, own


def _names(node: ast.AST, use: type[ast.expr_context]) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, use)}


def _defined(statement: ast.stmt) -> set[str]:
    """The names that a statement of any kind sets."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    return _names(statement, ast.Store)


def _only_defines(statement: ast.stmt) -> bool:
    """Whether a statement may be carried out once more: a class, an import, another name for a type."""
    if isinstance(statement, (ast.ClassDef, ast.Import, ast.ImportFrom)):
        return True
    named = isinstance(statement, (ast.Assign, ast.AnnAssign)) or type(statement).__name__ == "TypeAlias"
    return named and not any(isinstance(node, (ast.Call, ast.Await, ast.NamedExpr)) for node in ast.walk(statement))
