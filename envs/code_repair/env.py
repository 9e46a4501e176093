"""`CodeRepair`: the tools over a small Python package, its verdict and its expert."""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Iterable

from ...tools import Conflict, Forbidden, NotFound, tool
from ...tools.sandbox import Sandbox
from ...trajectories import Json, Outcome, Task, ToolResult
from ..code_tests import Check, shared_sandbox
from ..env import Solution, ToolEnv
from ..facets import FaultHooks
from ..task import Split
from .package import TESTS, Broken, function_in, judge, rename, run_visible
from .recipes import VISIBLE, cases, sources, tasks

__all__ = ["CodeRepair"]

_FRONT = ("main", "core", "desk", "front", "app")
_BACK = ("util", "rules", "parts", "basics", "shared")
_MAX_FILES = 12
_MAX_TEXT = 8000
"""Characters of a file."""
_SHOWN = 4
"""Failing tests that one run tells of."""

Calls = tuple[str, dict[str, Json]]


class _Faults(FaultHooks):
    def rotate_id(self, env: CodeRepair, tool: str, arguments: dict[str, Json]) -> bool:
        path = arguments.get("path")
        if path not in env.state["right"] or path not in env.state["files"] or path == TESTS:
            return False
        old = str(path).removesuffix(".py")
        taken = {name.removesuffix(".py") for name in (*env.state["files"], *env.state["right"])}
        new = env.episode.rng.choice([name for name in (*_FRONT, *_BACK) if name not in taken])
        for part in ("files", "first", "right"):
            env.state[part] = rename(env.state[part], old, new)
        return True

    def distort(self, env: CodeRepair, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        if tool != "find_function":
            return None
        names = [name for part in env.episode.task.data["parts"] for name in part["names"] if name != arguments["name"]]
        found = [
            {"name": name, "source": source, "path": path}
            for path, text in sorted(env.state["files"].items())
            for name in names
            if (source := function_in(text, name)) is not None
        ]
        return env.episode.rng.choice(found) if found else None

    def look(self, env: CodeRepair, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        return ("read_file", {"path": arguments["path"]}) if arguments.get("path") in env.state["files"] else None


class CodeRepair(ToolEnv):
    """Fix a small Python package: run its tests, find the wrong line, change it, run them again.

    The world is a plain dict: the files as text, and next to them, out of every tool's reach, the right ones and hidden
    tests with other inputs. The agent's code runs in a sandbox, by default Monty (`sparring[sandbox]`), and what raises
    there is tried on CPython where bubblewrap is present; where neither works no episode begins.

    ## Tools
    `list_files`, `find_function`, `read_file` read; `run_tests` runs tests.py in the sandbox; `edit`, `write_file`
    write; `log_in`, `wait`. `find_function` and `read_file` are two routes to the same source, `edit` and `write_file`
    to the same change.

    ## Rewards
    1 when all hidden tests pass and tests.py is as it was.

    ## Episode End
    A message without a call, or the turn limit.

    ## Faults
    All kinds can strike. `stale_id` renames the module that a call names, with all imports of it.

    ## Version History
    v0: first.
    """

    system = (
        "Fix the Python code with the tools, one call at a time. Change no test: others judge the code. When the "
        "tests pass answer Done. If it cannot be done answer Cannot."
    )

    blocking = True
    fault_hooks = _Faults()

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        """
        Args:
            sandbox: Where the package's code runs; by default the process's own. It is not closed here.
        """
        super().__init__()
        self.sandbox = sandbox

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        if self.sandbox is None:
            shared_sandbox()  # an episode that could not be judged does not begin
        fronts, back = rng.sample(_FRONT, 2), rng.choice(_BACK)
        parts = list(enumerate(task.data["parts"]))
        rng.shuffle(parts)
        front: dict[str, list[tuple[str, str, str, str]]] = {}  # module -> (function, helper, source, right source)
        helpers: list[tuple[str, str]] = []  # (source, right source)
        tests: list[str] = []
        hidden: list[Json] = []
        for place, part in parts:
            module = fronts[place == 1 and len(parts) > 2]
            names, bugs = (part["names"][0], part["names"][1]), tuple(part["bugs"])
            (f, g), (right_f, right_g) = sources(part["recipe"], names, bugs), sources(part["recipe"], names)
            front.setdefault(module, []).append((*names, f, right_f))
            helpers.append((g, right_g))
            for nth, (arguments, value) in enumerate(cases(part["recipe"], bugs, rng)):
                call = f"{names[0]}({', '.join(map(repr, arguments))})"
                if nth < VISIBLE:
                    tests.append(f"assert {call} == {value!r}\n")
                else:
                    hidden.append([call, value])
        files, right = dict[str, str](), dict[str, str]()
        head = ""
        for module, functions in front.items():
            top = f"from {back} import {', '.join(sorted(entry[1] for entry in functions))}\n"
            head += f"from {module} import {', '.join(sorted(entry[0] for entry in functions))}\n"
            files[f"{module}.py"] = "\n\n".join([top, *(entry[2] for entry in functions)])
            right[f"{module}.py"] = "\n\n".join([top, *(entry[3] for entry in functions)])
        files[f"{back}.py"] = "\n\n".join(source for source, _ in helpers)
        right[f"{back}.py"] = "\n\n".join(source for _, source in helpers)
        files[TESTS] = right[TESTS] = f"{head}\n{''.join(tests)}"
        self.state: dict[str, Json] = {"files": files, "first": dict(files), "right": right, "hidden": hidden}

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool
    def list_files(self) -> Json:
        """List the package's files."""
        return sorted(self.state["files"])

    @tool(alternative="read_file")
    def find_function(self, name: str) -> Json:
        """Find a function and read its source."""
        for path, text in sorted(self.state["files"].items()):
            source = function_in(text, name)
            if source is not None:
                return {"name": name, "source": source, "path": path}
        raise NotFound(f"no function {name}")

    @tool(alternative="find_function", ids=["path"])
    def read_file(self, path: str) -> Json:
        """Read a file."""
        return {"path": path, "text": self._text(path)}

    @tool
    def run_tests(self) -> Json:
        """Run tests.py. Tells how many pass, and what the others gave."""
        try:
            outcomes = run_visible(self.state["files"], self.sandbox)
        except Broken as error:
            return ["0 pass", str(error)]
        failed = [f"{outcome.test}: {outcome.ran.told}" for outcome in outcomes if not outcome.ran.passed]
        more = [f"{len(failed) - _SHOWN} more fail"] if len(failed) > _SHOWN else []
        return [f"{len(outcomes) - len(failed)} of {len(outcomes)} pass", *failed[:_SHOWN], *more]

    @tool(effect=True, alternative="write_file", ids=["path"])
    def edit(self, path: str, old: str, new: str) -> str:
        """Replace a text that stands once in a file."""
        text = self._text(path)
        count = text.count(old) if old else 0
        if count == 0:
            raise NotFound(f"{path} has no such text", hint="copy it exactly, spaces included")
        if count > 1:
            raise Conflict(f"the text stands {count} times in {path}", hint="take more of the lines around it")
        self._write(path, text.replace(old, new))
        return "edited"

    @tool(effect=True, idempotent=True, alternative="edit", ids=["path"])
    def write_file(self, path: str, text: str) -> str:
        """Write a whole file."""
        self._write(path, text)
        return "written"

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the files -------------------------------------------------------------------------------------------------

    def _text(self, path: str) -> str:
        text: str | None = self.state["files"].get(path)
        if text is None:
            raise NotFound(f"no file {path}", hint="see list_files")
        return text

    def _write(self, path: str, text: str) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,30}\.py", path):
            raise Forbidden("a file is called like module.py, without folders")
        if len(text) > _MAX_TEXT or (path not in self.state["files"] and len(self.state["files"]) >= _MAX_FILES):
            raise Forbidden(f"at most {_MAX_FILES} files of {_MAX_TEXT} characters")
        self.state["files"][path] = text

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        files, right = self.state["files"], self.state["right"]
        if files.get(TESTS) != right[TESTS]:
            return False
        homes = {part["names"][0]: self._home(part["names"][0]) for part in task.data["parts"]}
        return judge(files, homes, [Check(*pair) for pair in self.state["hidden"]], self.sandbox)

    def solve(self, task: Task) -> Solution:
        for path in sorted(self.state["right"]):
            if self._damaged(path):  # an agent did this: to the tests, or to more than it had to
                yield "write_file", {"path": path, "text": self.state["right"][path]}
        if self.success(task):
            yield "Done."
            return
        failing: list[str] | None = [task.data["parts"][0]["names"][0]]
        if task.level > 1:
            failing = self._failing((yield "run_tests", {}))
        for part in task.data["parts"]:
            if part["names"][0] in (failing or ()):
                fixed = yield from self._mend(part["names"])
                if not fixed:
                    yield "Cannot change it."
                    return
        yield "run_tests", {}
        yield "Done."

    def _home(self, name: str) -> str:
        """Where a function of the task belongs."""
        homes: dict[str, str] = self.state["right"]
        return next(path for path, text in homes.items() if function_in(text, name) is not None)

    def _failing(self, told: ToolResult) -> list[str] | None:
        """The functions whose tests fail, from what run_tests told; None where it told nothing."""
        if not told.ok or not isinstance(told.value, list):
            return None
        names = [part["names"][0] for part in self.episode.task.data["parts"]]
        return [name for name in names if any(line.startswith(f"{name}(") for line in told.value)]

    def _damaged(self, path: str) -> bool:
        """Whether a file is neither as it was, nor as it should be, nor something between the two."""
        text, right, first = (self.state[part].get(path, "") for part in ("files", "right", "first"))
        for name in (name for part in self.episode.task.data["parts"] for name in part["names"]):
            source, wanted = function_in(text, name), function_in(right, name)
            if source is not None and wanted is not None and source == function_in(first, name):
                text = text.replace(source, wanted)
        return bool(text != right) and not self.success(self.episode.task)

    def _mend(self, names: list[str]) -> Generator[Calls, ToolResult, bool]:
        """Reads a function, and its helper if that is wrong; puts right what it has read. False: it could not."""
        helper = self._home(names[1])
        parts = ("files", "right")
        wrong = len({function_in(self.state[part].get(helper, ""), names[1]) for part in parts}) == 2
        for name in names[: 1 + wrong]:
            found = yield from self._read(name)
            if found is None:
                return False
            source, path = found
            right = str(function_in(self.state["right"][self._home(name)], name))
            if source != right:
                text: str = self.state["files"].get(path, "")
                old, new = _difference(source, right, text)
                changed = None
                if not self.episode.is_gone("edit"):
                    changed = yield "edit", {"path": path, "old": old, "new": new}
                if changed is None or changed.outcome is Outcome.GONE:
                    changed = yield "write_file", {"path": path, "text": text.replace(old, new)}
                if not changed.ok:
                    return False
        return True

    def _read(self, name: str) -> Generator[Calls, ToolResult, tuple[str, str] | None]:
        """(source, path) of a function, by the one route or the other; None where there is none."""
        if not self.episode.is_gone("find_function"):
            found = yield "find_function", {"name": name}
            if found.outcome is not Outcome.GONE:
                return (found.value["source"], found.value["path"]) if found.ok else None
        yield "list_files", {}
        home = self._home(name)
        read = yield "read_file", {"path": home}
        source = function_in(read.value["text"], name) if read.ok else None
        return (source, home) if source is not None else None


def _difference(now: str, right: str, text: str) -> tuple[str, str]:
    """The lines in which two sources differ, with as many before them as make them the only ones in `text`."""
    old, new = now.splitlines(keepends=True), right.splitlines(keepends=True)
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    while start and text.count("".join(old[start : len(old) - end])) != 1:
        start -= 1
    if text.count("".join(old[start : len(old) - end])) != 1:
        return now, right
    return "".join(old[start : len(old) - end]), "".join(new[start : len(new) - end])
