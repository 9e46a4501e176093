"""The house itself: who imports whom, what is public, what is packaged, and whether the documentation is true."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sparring
from sparring.tools.faults import FAULTS, fault_rows
from sparring.trajectories.metrics import RIGHT

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("trajectories", "tools", "envs", "agents", "trainers")
"""Each may import itself and those before it."""

BELOW = "lazy_names"
"""A module of `src/sparring` that imports nothing of ours: `sparring` itself begins with it."""

SHELL = ("app", "cli")
"""Folders of `src/sparring` that are no links."""

HEAVY = {"accelerate", "datasets", "duckdb", "gguf", "peft", "pyarrow", "ray", "safetensors", "scipy", "tensorboard",
         "tokenizers", "torch", "transformers", "vllm", "wandb"}  # fmt: skip
"""Imported at the top of a module only in agents and trainers, and there only by modules that are about tensors."""

TENSOR_FOLDERS = ("agents", "trainers")

DOCUMENTS = [
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/**/*",
        "Makefile",
        ".ci/run",
        "pyproject.toml",
        "benchmarks/**/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and "__pycache__" not in path.parts
]


def modules(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts)


def source_files() -> list[Path]:
    return [*(p for folder in FOLDERS for p in modules(folder)), *shell()]


def shell() -> list[Path]:
    """The modules of `src/sparring` itself: public names, command line, what commands do."""
    root = ROOT / "src" / "sparring"
    return sorted([*root.glob("*.py"), *(p for folder in SHELL for p in (root / folder).rglob("*.py"))])


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run_python(code: str, *, cwd: Path, path: Path | None = None) -> str:
    """What a fresh interpreter prints; `path` is where it finds sparring."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path or ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --------------------------------------------------------------------------------------------------- who imports whom


def imports(
    tree: ast.AST, package: tuple[str, ...], *, late: bool = True, checking: bool = True
) -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of everything that is imported below `tree`, in functions too.

    `package` is where the module lies: ("sparring", "envs") for envs/env.py. Without `late`, what does not run when
    the module is imported is left out: bodies of functions. Without `checking`, `if TYPE_CHECKING` is.
    """
    for node in statements(tree, late=late, checking=checking):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield ".".join([*stem, alias.name]), node.lineno


def statements(tree: ast.AST, *, late: bool, checking: bool) -> Iterator[ast.AST]:
    """`tree` and what is in it down to the last statement; no import is inside an expression."""
    new = [tree]
    while new:
        node = new.pop()
        if not late and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        if not checking and isinstance(node, ast.If) and ast.unparse(node.test) in CHECKING:
            new += node.orelse
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            new += [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, BLOCKS)]


BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)
CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def resolved(imported: str, homes: Homes) -> str:
    """Where an imported name really is defined: through `__init__.py` and other modules that only pass it on."""
    seen = set()
    while imported not in seen:
        seen.add(imported)
        module, _, public = imported.rpartition(".")
        imported = homes.get(module, {}).get(public, imported)
    return imported


Homes = dict[str, dict[str, str]]
"""Module -> name that it imports -> absolute dotted name of what is imported."""


def module_name(path: Path) -> str:
    parts = (*package_of(path), path.stem)
    return ".".join(parts[:-1] if path.stem == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def trees() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the house by its dotted name, parsed."""
    return {module_name(path): (path, parsed(path)) for path in source_files()}


@cache
def homes() -> Homes:
    """What each module imports by name, wherever in the module. `sparring` finds its own names in a table."""
    out: Homes = {}
    for module, (path, tree) in trees().items():
        held: dict[str, str] = {}
        out[module] = held
        for node in statements(tree, late=True, checking=True):
            if isinstance(node, ast.ImportFrom):
                names = [a.asname or a.name for a in node.names]
                held.update(zip(names, (name for name, _ in imports(node, package_of(path))), strict=True))
    out["sparring"].update({name: f"sparring.{home}.{name}" for name, home in sparring._HOMES.items()})
    return out


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, each sorted; empty: the graph has an order."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        new = [start]
        while new:
            new = [m for m in {m for old in new for m in graph.get(old, ())} if m not in found]
            found.update(new)
        return found

    far = {module: reached(module) for module in graph}
    groups = {
        frozenset(m for m in far[module] if module in far.get(m, ())) for module in graph if module in far[module]
    }
    return sorted(sorted(group) for group in groups)


@cache
def import_graph(*, deferred: bool) -> dict[str, set[str]]:
    """Module -> modules of the house that it imports, `if TYPE_CHECKING` aside; `deferred`: inside functions too."""
    known = trees()
    graph: dict[str, set[str]] = {}
    for module, (path, tree) in known.items():
        graph[module] = set()
        for imported, _ in imports(tree, package_of(path), late=deferred, checking=False):
            of_name = imported if imported in known else imported.rpartition(".")[0]
            if of_name in known and of_name != module:
                graph[module].add(of_name)
    return graph


def package_of(path: Path) -> tuple[str, ...]:
    root = ROOT / "src" if path.is_relative_to(ROOT / "src") else ROOT
    parts = path.relative_to(root).parent.parts
    return parts if root != ROOT else ("sparring", *parts)


def test_what_is_below_all_imports_nothing_of_ours() -> None:
    path = ROOT / "src" / "sparring" / f"{BELOW}.py"
    assert not [i for i, _ in imports(parsed(path), package_of(path)) if i.startswith("sparring")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder: str) -> None:
    allowed = FOLDERS[: FOLDERS.index(folder) + 1]
    wrong = []
    for path in modules(folder):
        for imported, line in imports(parsed(path), package_of(path)):
            home = resolved(imported, homes())
            parts = home.split(".")
            if parts[0] == "sparring" and not (len(parts) > 1 and parts[1] in (*allowed, BELOW)):
                wrong.append(
                    f"{name(path)}:{line} imports {imported}" + (f", which is {home}" if home != imported else "")
                )
            elif parts[0] in FOLDERS:
                wrong.append(f"{name(path)}:{line} imports {imported}: write it relative")
    assert not wrong, f"{folder} may import {', '.join(allowed)}:\n" + "\n".join(wrong)


def test_a_name_counts_where_it_is_defined() -> None:
    found = homes()
    assert resolved("sparring.ToolEnv", found).startswith("sparring.envs.")
    assert resolved("sparring.trajectories.Trajectory", found) == "sparring.trajectories.trajectory.Trajectory"
    assert resolved("sparring.trajectories.nothing", found) == "sparring.trajectories.nothing"
    assert resolved("torch.nn", found) == "torch.nn"
    passed_on = {
        "sparring.tools": {"make": "sparring.envs.make"},
        "sparring.envs": {"make": "sparring.envs.registry.make"},
    }
    assert resolved("sparring.tools.make", passed_on) == "sparring.envs.registry.make"
    turning = {"a": {"x": "b.x"}, "b": {"x": "a.x"}}
    assert resolved("a.x", turning) in ("a.x", "b.x")


def test_no_modules_import_each_other() -> None:
    """At import time. A package's `__init__.py` is a module like any other."""
    assert circles(import_graph(deferred=False)) == []


def test_no_function_hides_a_circle() -> None:
    """Imports inside functions count too: a circle that they put off is still one. `if TYPE_CHECKING` does not."""
    assert circles(import_graph(deferred=True)) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    tree = ast.parse("if TYPE_CHECKING:\n    import a\ndef f():\n    import b\nimport c")
    assert {n for n, _ in imports(tree, ("x",), checking=False)} == {"b", "c"}
    now, late = import_graph(deferred=False), import_graph(deferred=True)
    assert "sparring.trajectories.trajectory" in now["sparring.trajectories"]
    assert all(now[module] <= late[module] for module in now)
    assert any(now[module] < late[module] for module in now)


def packages() -> list[str]:
    return sorted(module for module, (path, _) in trees().items() if path.name == "__init__.py")


@pytest.mark.parametrize("package", packages())
def test_no_name_hides_a_module(package: str) -> None:
    """`sparring.agents.x` is the module x wherever there is one: no function or class of the package has its name."""
    imported = importlib.import_module(package)
    inside = [m for m in trees() if m.rpartition(".")[0] == package and not m.endswith(".__main__")]
    for module in inside:
        with suppress(ImportError):  # an optional package is not installed
            importlib.import_module(module)
    there = {m: getattr(imported, m.rpartition(".")[2], None) for m in inside if m in sys.modules}
    hidden = {m: value for m, value in there.items() if not isinstance(value, ModuleType)}
    assert not hidden


@pytest.mark.parametrize("folder", FOLDERS)
def test_heavy_packages_are_imported_where_they_are_used(folder: str) -> None:
    """`agents` and `trainers` may import torch at the top of a module, their `__init__.py` may not."""
    wrong = []
    for path in modules(folder):
        if folder in TENSOR_FOLDERS and path.name != "__init__.py":
            continue
        for imported, line in imports(parsed(path), package_of(path), late=False, checking=False):
            if imported.split(".")[0] in HEAVY:
                wrong.append(f"{name(path)}:{line} imports {imported} when it is imported")
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_what_it_should() -> None:
    code = """
        import torch
        from ..tools import tool
        from . import env
        if TYPE_CHECKING:
            import transformers
        def f():
            import peft
        class A:
            import scipy
            def g(self):
                import vllm
    """
    tree = ast.parse("if 1:\n" + code)
    everywhere = [n for n, _ in imports(tree, ("sparring", "envs"))]
    assert set(everywhere) == {
        "torch",
        "sparring.tools.tool",
        "sparring.envs.env",
        "transformers",
        "peft",
        "scipy",
        "vllm",
    }
    early = [n for n, _ in imports(tree, ("sparring", "envs"), late=False, checking=False)]
    assert set(early) == {"torch", "sparring.tools.tool", "sparring.envs.env", "scipy"}


def test_environments_load_no_model_library(tmp_path: Path) -> None:
    code = f"import sparring.envs, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert run_python(code, cwd=tmp_path) == "[]"


def test_import_sparring_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import sparring, sys; print(sorted({'gymnasium', 'pydantic', 'numpy', 'torch', 'typer'} & set(sys.modules)))"
    )
    assert run_python(code, cwd=tmp_path) == "[]"


def test_the_command_line_starts_light(tmp_path: Path) -> None:
    """`sparring --help` has to be there within 0.6 s: what a command needs is imported when it runs."""
    late = HEAVY | {"gymnasium", "numpy", "pydantic"}
    code = f"import sparring.cli.root, sys; print(sorted({late!r} & set(sys.modules)))"
    assert run_python(code, cwd=tmp_path) == "[]"


def test_tests_and_examples_import_the_package() -> None:
    wrong = []
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for imported, line in imports(parsed(path), ("tests",)):
            if imported.split(".")[0] in FOLDERS:
                wrong.append(f"{name(path)}:{line} imports {imported}: write sparring.{imported}")
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------------------ what is public

PUBLIC = """
    Action Cause ConfigError Conflict DataError EnvError FaultPlan Forbidden Gone InfrastructureError Message
    MissingExtra NotFound Observation Outcome RateLimited Solution SparringError Step StopReason Task Tokens Tool
    ToolCall ToolEnv ToolError ToolResult ToolTimeout Trajectory TrajectoryGroup Turn Unauthenticated Unavailable
    UnknownName make register registered tool
"""
"""Change it deliberately: each name is a promise."""


def test_public_names() -> None:
    assert sorted(sparring.__all__) == sorted(PUBLIC.split())


def test_the_three_lists_agree() -> None:
    """`__all__`, the table that finds the names, and what type checkers see."""
    tree = ast.parse((ROOT / "src/sparring/__init__.py").read_text("utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == sparring._HOMES
    assert sorted(seen) == sorted(sparring.__all__)


@pytest.mark.parametrize("public", sparring.__all__)
def test_public_names_are_there(public: str) -> None:
    value = getattr(sparring, public)
    assert public in dir(sparring)
    home = getattr(value, "__module__", "")
    if home.startswith("sparring."):
        assert home.split(".")[1] in FOLDERS


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'sparring' has no attribute 'Toolenv'"):
        sparring.Toolenv  # noqa: B018  # the lookup is the test


def test_each_module_says_what_it_is_and_what_it_offers() -> None:
    missing = [name(path) for path in source_files() if not ast.get_docstring(parsed(path))]
    assert not missing, f"without a docstring: {missing}"


def test_all_lists_name_what_exists() -> None:
    """Read from the source, so that no heavy package is loaded for it."""
    wrong = []
    for path in source_files():
        tree = parsed(path)
        defined: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                defined |= {(a.asname or a.name).split(".")[0] for a in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                listed = ast.literal_eval(statement.value)
                wrong += [f"{name(path)}: {n}" for n in listed if n not in defined]
                wrong += [f"{name(path)}: {n} twice" for n in set(listed) if listed.count(n) > 1]
    assert not wrong, wrong


def test_a_public_class_has_its_own_name() -> None:
    """Each class and type that an `__all__` lists is defined once in the whole house: one word, one meaning.

    Constants and functions are left out: `openai.export` and `trl.sft` are named with their module. So is the command
    line, whose option types are named after what they set.
    """
    defined: dict[str, list[str]] = {}
    for module, (_, tree) in trees().items():
        if module.startswith("sparring.cli"):
            continue
        listed = next(
            (ast.literal_eval(s.value) for s in tree.body if isinstance(s, ast.Assign) and is_all(s)), list[str]()
        )
        for statement in tree.body:
            match statement:
                case ast.ClassDef(name=public):
                    pass
                case ast.Assign(targets=[ast.Name(id=public)]) | ast.AnnAssign(target=ast.Name(id=public)):
                    pass
                case _:
                    continue
            if public in listed and public[0].isupper() and not public.isupper():
                defined.setdefault(public, []).append(module)
    assert {"Trajectory", "Tool"} <= set(defined)
    assert {public: where for public, where in defined.items() if len(where) > 1} == {}


def is_all(statement: ast.Assign) -> bool:
    return ast.unparse(statement.targets[0]) == "__all__"


def test_links_point_home() -> None:
    """All folders have their link, or, in a checkout that lost them (see below), none has."""
    links = {entry.name: entry.resolve() for entry in (ROOT / "src" / "sparring").iterdir() if entry.is_symlink()}
    if not links and not any((ROOT / "src" / "sparring" / folder).exists() for folder in FOLDERS):
        pytest.skip("this checkout has no links")
    assert links == {folder: ROOT / folder for folder in FOLDERS}


# ---------------------------------------------------------------------------------------------------- what is packaged


def copy_of_the_repository(target: Path, *, links: bool = True) -> Path:
    """What git would give: no virtual environment, no runs, no caches."""
    target.mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, target / file)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = target / "src" / "sparring"
    package.mkdir(parents=True)
    for entry in (ROOT / "src" / "sparring").iterdir():
        if entry.is_file():
            shutil.copy(entry, package / entry.name)
        elif entry.name in SHELL:
            shutil.copytree(entry, package / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
    if links:
        for folder in FOLDERS:
            (package / folder).symlink_to(Path("..", "..", folder), target_is_directory=True)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    root = copy_of_the_repository(tmp_path_factory.mktemp("build") / "sparring")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", str(root / "dist"), str(root)],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    (built,) = (root / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert {n.split("/")[0] for n in held} == {"sparring", f"sparring-{sparring.__version__}.dist-info"}
    expected = {f"sparring/{p.relative_to(ROOT).as_posix()}" for folder in FOLDERS for p in modules(folder)}
    expected |= {p.relative_to(ROOT / "src").as_posix() for p in shell()}
    templates = {f"sparring/{name(p)}" for folder in FOLDERS for p in (ROOT / folder).rglob("*.j2")}
    assert templates
    assert expected | templates <= held
    assert "sparring/py.typed" in held
    assert any(n.endswith("licenses/LICENSE") for n in held)
    assert not [n for n in held if "__pycache__" in n or n.endswith(".pyc")]


def test_the_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import sparring; print(sparring.ToolEnv.__module__, list(sparring.__path__) == [sparring.__file__[:-12]])"
    assert run_python(code, cwd=tmp_path, path=tmp_path / "site") == "sparring.envs.env True"


def test_a_checkout_without_links_imports(tmp_path: Path) -> None:
    root = copy_of_the_repository(tmp_path / "sparring", links=False)
    code = "import sparring.tools, sparring; print(sparring.make('echo').__module__, sparring.tools.__file__)"
    printed = run_python(code, cwd=tmp_path, path=root / "src")
    assert printed == f"sparring.envs.echo {root / 'tools' / '__init__.py'}"


def test_version_and_dependencies_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == sparring.__version__
    assert f"## {sparring.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = {line.split("==")[0].lower().replace("_", "-") for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"]
    wanted = [d for group in (project["dependencies"], *extras.values()) for d in group]
    names = {re.split(r"[<>=\[; ]", d)[0].lower().replace("_", "-") for d in wanted}
    assert names <= pins, f"not pinned in constraints.txt: {sorted(names - pins)}"


def test_each_dependency_is_used_and_each_use_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    runtime = project["dependencies"] + [
        d for extra, needs in extras.items() if extra not in ("docs", "test") for d in needs
    ]
    declared = {re.split(r"[<>=\[; ]", d)[0].lower().replace("-", "_") for d in runtime}
    declared = {{"pyyaml": "yaml"}.get(package, package) for package in declared}
    used: set[str] = set()
    for path in source_files():
        for imported, _ in imports(parsed(path), package_of(path)):
            used.add("tensorboard" if imported.startswith("torch.utils.tensorboard") else imported.split(".")[0])
    brought = {"markupsafe", "pydantic_core", "pytest"}  # by jinja2 and pydantic; by pytest itself, whose plugin it is
    foreign = {u.lower() for u in used} - set(sys.stdlib_module_names) - {"sparring"} - brought
    assert foreign <= declared, f"imported, not declared: {sorted(foreign - declared)}"
    needed_by_others = {"accelerate", "gguf", "safetensors"}  # by peft, and by transformers' loaders
    assert declared - needed_by_others <= foreign, f"declared, not imported: {sorted(declared - foreign)}"


# ------------------------------------------------------------------------------------ whether the documentation is true


def python_blocks(text: str) -> list[str]:
    """Blocks fenced as ```python; those fenced as ```python no-run are left out."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


WITH_CODE = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if python_blocks(path.read_text("utf-8"))
]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("path", WITH_CODE, ids=name)
def test_the_code_in_the_documents_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    own = set(FAULTS)
    blocks = python_blocks(path.read_text("utf-8"))
    space: dict[str, Any] = {"__name__": "document"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{path.name}, block {number + 1}", "exec"), space)
    for kind in set(FAULTS) - own:  # a document's own kind of fault ends with it
        del FAULTS[kind], RIGHT[kind]


def test_most_documents_have_code_and_every_tutorial() -> None:
    assert len(TUTORIALS) == 5
    assert {path for path in TUTORIALS if path not in WITH_CODE} == set()
    assert len(WITH_CODE) >= len(TUTORIALS) + 10


def test_the_notebook_is_the_tutorial_and_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = ROOT / "docs" / "tutorials"
    notebook = nbformat.read(folder / "first_environment.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code == [block.rstrip("\n") for block in python_blocks((folder / "first-environment.md").read_text("utf-8"))]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "IPYTHONDIR": str(tmp_path)}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(tmp_path), env=environ)  # raises what a cell raises
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_the_tables_of_settings_are_the_code() -> None:
    """Each field of each settings dataclass has its row in docs/training.md or docs/objectives.md, with its default."""
    pytest.importorskip("torch")
    from dataclasses import MISSING, Field, fields

    from sparring.trainers import (
        OBJECTIVES,
        DaggerSettings,
        DistillSettings,
        DpoSettings,
        GrpoSettings,
        Lora,
        Mixture,
        Optim,
        Part,
        PpoSettings,
        SftSettings,
        TrainSettings,
    )
    from sparring.trainers.playing import PlaySettings

    common = {field.name: field.default for field in fields(TrainSettings)}

    def default(field: Field[Any]) -> str:
        if field.default_factory is not MISSING:
            made, plain = field.default_factory(), Optim()
            own = [f.name for f in fields(made) if getattr(made, f.name) != getattr(plain, f.name)]
            return ", ".join(f"{name}={getattr(made, name)!r}" for name in own).replace("'", '"')
        return "required" if field.default is MISSING else repr(field.default).replace("'", '"')

    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    more = (ROOT / "docs" / "objectives.md").read_text("utf-8")
    named = [OBJECTIVES.get(name).Settings for name in ("simpo", "dmpo", "kto", "online-dpo", "reward-model")]
    elsewhere = (*named, PlaySettings, PpoSettings, DaggerSettings, DistillSettings)
    missing = []
    for kind in (*elsewhere, TrainSettings, SftSettings, DpoSettings, GrpoSettings, Optim, Lora, Mixture, Part):
        for field in fields(kind):
            given = default(field)
            inherited = kind is not TrainSettings and issubclass(kind, TrainSettings) and field.name in common
            if (kind is TrainSettings and field.name == "optim") or (inherited and field.default == common[field.name]):
                continue
            row = f"| `{field.name}` | {given if given == 'required' else f'`{given}`'} |"
            if row not in (more if kind in elsewhere else text):
                missing.append(f"{kind.__name__}: {row}")
    assert not missing, "not in the documents:\n" + "\n".join(missing)


def test_every_objective_has_its_example() -> None:
    """Its command and a short run of it in docs/objectives.md, which the test of the documents' code runs."""
    pytest.importorskip("torch")
    from sparring.trainers import OBJECTIVES, objectives

    files = {info.name.replace("_", "-") for info in pkgutil.iter_modules(objectives.__path__)}
    text = (ROOT / "docs" / "objectives.md").read_text("utf-8")
    code = "".join(python_blocks(text))
    names = [name for name in OBJECTIVES.names() if name in files]  # not those that other tests have registered
    assert len(names) > 10
    assert [name for name in names if f"`sparring train {name} " not in text or f'learn("{name}", ' not in code] == []


def test_the_table_of_faults_is_the_code() -> None:
    lines = (ROOT / "docs" / "faults.md").read_text("utf-8").splitlines()
    assert [line for line in lines if re.match(r"\| `\w+` \| (is told|has to notice)", line)] == fault_rows()


def test_every_obvious_place_exists() -> None:
    """Each path in CONTRIBUTING's table is there; of `envs/<name>/`, the folder."""
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## One obvious place")[2].partition("\n## ")[0]
    places = re.findall(r"`([\w.-]+/[^`\s]*)`", table)
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place.partition("<")[0]).exists()] == []


def test_the_readme_shows_the_example() -> None:
    example = (ROOT / "examples" / "library.py").read_text("utf-8")
    assert example in python_blocks((ROOT / "README.md").read_text("utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_documents_name_no_place_on_somebodys_machine(path: Path) -> None:
    text = path.read_text("utf-8", errors="replace")
    found = re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users|mnt|opt|private)/[\w.-]+", text)
    assert not found, f"{name(path)} names {found}"


def test_links_between_documents_hold() -> None:
    broken, sound = [], 0
    for path in [p for p in DOCUMENTS if p.suffix == ".md"]:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?\)", path.read_text("utf-8")):
            if "://" in target:
                continue
            file = path.parent / target if target else path
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{name(path)} -> {target}{anchor}")
            else:
                sound += 1
    assert not broken, broken
    assert sound > 80, f"only {sound} links were looked at"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as hosts of repositories and MkDocs make them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_make_help_lists_every_command() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("help", "demo", "demo-full", "test", "lint", "docs", "bench", "clean"):
        assert re.search(rf"^  {command} +\S", done.stdout, re.MULTILINE), command
        assert re.search(rf"^{command}:.*## \S", makefile, re.MULTILINE)


def test_every_command_has_help_with_an_example() -> None:
    import typer
    from typer.testing import CliRunner

    from sparring.cli.root import app

    def walk(command: Any, path: list[str]) -> Iterator[list[str]]:
        yield path
        for child, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, [*path, child])

    runner = CliRunner()
    paths = list(walk(typer.main.get_command(app), []))
    assert len(paths) > 5
    for path in paths:
        result = runner.invoke(app, [*path, "--help"])
        assert result.exit_code == 0, f"{path}: {result.output}"
        assert "Example" in result.output, f"`sparring {' '.join(path)} --help` shows no example"
