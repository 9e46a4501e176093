"""A package as text: what its modules and tests come to. Nothing of it runs outside the sandbox.

The modules are bundled into one program, each in a name space of its own, so that every kind of sandbox can run them.
"""

from __future__ import annotations

import ast
import graphlib
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import orjson

from ...tools.sandbox import Sandbox
from ...trajectories.errors import ConfigError
from ..code_tests import Check, Ran, checks_of, run_checks

__all__ = ["TESTS", "Broken", "CheckRun", "function_in", "judge", "rename", "run_visible"]

TESTS = "tests.py"
DEADLINE = 2.0
"""Seconds for all tests of a package."""

Files = Mapping[str, str]
"""Path -> text."""


class Broken(Exception):
    """The package cannot be loaded; says where and why."""


@dataclass(frozen=True, slots=True)
class CheckRun:
    """One test and what it came to."""

    test: str
    ran: Ran


def function_in(text: str, name: str) -> str | None:
    """The source of a function that stands at the top of a module."""
    found = re.search(rf"^def {re.escape(name)}\(.*?(?=^[^\s)]|\Z)", text, re.DOTALL | re.MULTILINE)
    return found.group().rstrip() + "\n" if found else None


def rename(files: Files, old: str, new: str) -> dict[str, str]:
    """The files after module `old` was renamed, imports included. Both names without ".py"."""
    line = re.compile(rf"^(\s*from \.?){re.escape(old)}(?= import\b)", re.MULTILINE)
    return {
        f"{new}.py" if path == f"{old}.py" else path: line.sub(rf"\g<1>{new}", text) for path, text in files.items()
    }


def run_visible(files: Files, sandbox: Sandbox | None) -> list[CheckRun]:
    """What each test in tests.py comes to. Raises `Broken`, and `InfrastructureError`."""
    tree = _tree(TESTS, files.get(TESTS, ""))
    names = _modules(files)
    taken, checks = [], list[Check]()
    for statement in tree.body:
        try:
            if isinstance(statement, ast.ImportFrom):
                taken += [ast.unparse(node) for node in _taken(statement, names, TESTS)]
            else:
                checks += checks_of([ast.unparse(statement)])
        except (ConfigError, RecursionError):
            raise Broken(
                f"{TESTS} line {statement.lineno}: neither an import nor a line like `assert f(1) == 2`"
            ) from None
    if not checks:
        return []
    ran = _ran("\n".join([_program(files), *taken]), checks, sandbox)
    return [CheckRun(str(check), one) for check, one in zip(checks, ran, strict=True)]


def judge(files: Files, homes: Mapping[str, str], checks: Sequence[Check], sandbox: Sandbox | None) -> bool:
    """Whether all checks hold for the package, whatever its own tests say. Raises `InfrastructureError`.

    Args:
        homes: Function -> path of the module that it is to be found in.
    """
    taken = [f"{name} = _own[{path.removesuffix('.py')!r}].get({name!r})" for name, path in homes.items()]
    if not set(homes.values()) <= set(files):
        return False
    try:
        program = _program(files)
    except Broken:
        return False
    return all(one.passed for one in _ran("\n".join([program, *taken]), checks, sandbox))


@lru_cache(maxsize=256)
def _remembered(program: str, checks: bytes, sandbox: Hashable) -> tuple[Ran, ...]:
    """An episode is judged several times, and forks share what they have in common."""
    made = [Check(*pair) for pair in orjson.loads(checks)]
    return tuple(run_checks(program, made, cast("Sandbox | None", sandbox), deadline=DEADLINE))


def _ran(program: str, checks: Sequence[Check], sandbox: Sandbox | None) -> tuple[Ran, ...]:
    packed = orjson.dumps([[c.expression, c.expected] for c in checks], option=orjson.OPT_NON_STR_KEYS)
    return _remembered(program, packed, cast("Hashable", sandbox))


# ---- the bundle ------------------------------------------------------------------------------------------------------

_HEAD = """_own = {}
def _take(module, name):
    if name not in _own[module]:
        raise ImportError("cannot import " + name + " from " + module)
    return _own[module][name]"""


def _modules(files: Files) -> set[str]:
    return {path.removesuffix(".py") for path in files if path != TESTS}


def _tree(path: str, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise Broken(f"{path} line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise Broken(f"{path} cannot be read as Python") from None


def _taken(node: ast.ImportFrom, names: set[str], path: str) -> list[ast.stmt]:
    """The assignments that stand for an import from the package itself; empty for another import."""
    if node.level > 1 or (node.level and not node.module):
        raise Broken(f"{path} line {node.lineno}: write `from module import name`")
    if node.module not in names:
        return []
    if any(alias.name == "*" for alias in node.names):
        raise Broken(f"{path} line {node.lineno}: name what is imported, not *")
    return [
        ast.parse(f"{alias.asname or alias.name} = _take({node.module!r}, {alias.name!r})").body[0]
        for alias in node.names
    ]


class _Imports(ast.NodeTransformer):
    """Turns imports from the package itself into assignments, wherever they stand, and notes them in `needs`."""

    def __init__(self, path: str, names: set[str]) -> None:
        self.path, self.names = path, names
        self.needs: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.stmt]:
        taken = _taken(node, self.names, self.path)
        if taken:
            self.needs.add(str(node.module))
        return taken or node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        if any(alias.name in self.names for alias in node.names):
            raise Broken(f"{self.path} line {node.lineno}: write `from module import name`")
        return node


def _program(files: Files) -> str:
    """One program that loads all modules in the order in which they need each other. Raises `Broken`."""
    names = _modules(files)
    bodies, needs = dict[str, str](), dict[str, set[str]]()
    for name in sorted(names):
        imports = _Imports(f"{name}.py", names)
        try:
            bodies[name] = ast.unparse(imports.visit(_tree(f"{name}.py", files[f"{name}.py"])))
        except RecursionError:
            raise Broken(f"{name}.py is nested too deeply") from None
        needs[name] = imports.needs
    try:
        order = [*graphlib.TopologicalSorter(needs).static_order()]
    except graphlib.CycleError as error:
        raise Broken(f"these modules import each other in a circle: {', '.join(error.args[1])}") from None
    lines = [_HEAD]
    for name in order:
        lines += [
            f'_own[{name!r}] = {{"_take": _take, "__name__": {name!r}}}',
            f"exec({bodies[name]!r}, _own[{name!r}])",
        ]
    return "\n".join(lines)
