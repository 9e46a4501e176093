"""The environment `code-repair`: its bugs, its verdict against those who cheat, its sandbox, its expert."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.envs import SPLITS, expert_turns, make, play, task_set
from sparring.envs.code_repair import CodeRepair
from sparring.envs.code_repair.package import TESTS, Broken, function_in, rename, run_visible
from sparring.envs.code_repair.recipes import HIDDEN, RECIPES, VISIBLE, cases, sources
from sparring.tools import FAULTS, FaultPlan
from sparring.tools.sandbox import Sandbox
from sparring.trajectories import Action, InfrastructureError, Outcome, Task, ToolResult

Struck = Callable[..., list[bool]]


@pytest.fixture(scope="module")
def env() -> Iterator[CodeRepair]:
    made = CodeRepair()
    yield made
    made.close()


def call(env: CodeRepair, name: str, /, **arguments: Any) -> ToolResult:
    return env.act(Action.call(name, **arguments)).turn.results[0]


def some(env: CodeRepair, level: int = 1, recipe: str = "") -> Task:
    tasks = task_set(env, "train", 300, levels=[level])
    return next(task for task in tasks if recipe in ("", task.data["parts"][0]["recipe"]))


def begin(env: CodeRepair, task: Task, plan: str = "") -> tuple[str, str]:
    """(function, path of its module)."""
    env.start(task, FaultPlan.parse(plan))
    name = task.data["parts"][0]["names"][0]
    return name, next(path for path, text in env.state["files"].items() if function_in(text, name))


# ---- the bugs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_bug_shows_in_visible_and_in_hidden_tests(recipe: str) -> None:
    made = RECIPES[recipe]
    for bug in range(len(made.bugs)):
        assert (made.f + made.g).count(made.bugs[bug].right) == 1, made.bugs[bug]
    single = [(bug,) for bug in range(len(made.bugs))]
    for bugs in single:
        shown = cases(recipe, bugs, random.Random(1))
        assert len(shown) == VISIBLE + HIDDEN
        arguments = [arguments for arguments, _ in shown]
        assert all(one != other for one, other in combinations(arguments, 2))  # hidden inputs are other ones
        space: dict[str, Any] = {}
        exec("\n".join(sources(recipe, ("f", "g"), bugs)), space)
        for part in (shown[:VISIBLE], shown[VISIBLE:]):
            assert not all(_gives(space["f"], *case) for case in part), (recipe, bugs)


def _gives(function: Any, arguments: Any, value: Any) -> bool:
    try:
        return bool(function(*arguments) == value)
    except Exception:
        return False


def test_levels_take_as_many_calls_as_they_say(env: CodeRepair) -> None:
    for level, calls in {1: 3, 2: 4, 3: 5, 4: 8}.items():
        for task in task_set(env, "train", 12, levels=[level]):
            env.start(task)
            assert expert_turns(env) == calls + 1, task
    families = {bug.family for recipe in RECIPES.values() for bug in recipe.bugs}
    assert len(families) >= 6
    assert {part for task in task_set(env, "train", 300) for part in task.kind.split("+")} == families


def test_splits_have_other_bugs(env: CodeRepair) -> None:
    seen = {
        split: {
            (part["recipe"], *part["names"], bug)
            for task in task_set(env, split, 400)
            for part in task.data["parts"]
            for bug in part["bugs"]
        }
        for split in SPLITS
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert len(seen["train"]) > 150


def test_what_a_tool_shows_holds_no_solution(env: CodeRepair) -> None:
    """No tool gives the right line, or a hidden test."""
    for task in task_set(env, "train", 8):
        env.start(task)
        texts = [call(env, "read_file", path=path).content for path in call(env, "list_files").value]
        for part in task.data["parts"]:
            for name in part["names"]:
                texts.append(call(env, "find_function", name=name).content)
        texts.append(call(env, "run_tests").content)
        for part in task.data["parts"]:
            for bug in part["bugs"]:
                right = RECIPES[part["recipe"]].bugs[bug].right.format(f=part["names"][0], g=part["names"][1])
                wrong = RECIPES[part["recipe"]].bugs[bug].wrong.format(f=part["names"][0], g=part["names"][1])
                if right not in wrong and len(right) > 12:
                    assert not any(right in text for text in texts), task
        assert not any(hidden in text for hidden, _ in env.state["hidden"] for text in texts)


# ---- the tools -------------------------------------------------------------------------------------------------------


def test_the_tests_tell_what_came_and_that_it_passes(env: CodeRepair) -> None:
    begin(env, some(env, 2))
    told = call(env, "run_tests").value
    assert told[0].endswith("of 6 pass")
    assert all(": " in line and " == " in line for line in told[1:])
    play(env)
    assert env.judge()[0]


def test_an_edit_is_exact(env: CodeRepair) -> None:
    name, path = begin(env, some(env))
    before = env.state["files"][path]
    assert call(env, "edit", path=path, old="no such text", new="x").outcome is Outcome.NOT_FOUND
    assert call(env, "edit", path=path, old="", new="x").outcome is Outcome.NOT_FOUND
    assert call(env, "edit", path=path, old="return", new="x").outcome is Outcome.CONFLICT  # it stands twice
    assert call(env, "edit", path="none.py", old="return", new="x").outcome is Outcome.NOT_FOUND
    assert env.state["files"][path] == before
    assert call(env, "edit", path=path, old=f"def {name}(", new=f"def old_{name}(").ok
    assert call(env, "find_function", name=name).outcome is Outcome.NOT_FOUND
    for path in ("../main.py", "/etc/passwd", "a/b.py", "notes.txt", "x" * 100 + ".py"):
        assert call(env, "write_file", path=path, text="").outcome is Outcome.FORBIDDEN
    assert call(env, "write_file", path="main.py", text="x" * 9000).outcome is Outcome.FORBIDDEN


def test_code_that_does_not_load_is_told_with_its_place(env: CodeRepair) -> None:
    _, path = begin(env, some(env))
    helper = next(p for p in env.state["files"] if p not in (path, TESTS))
    for text, told in (
        ("def f(:\n", rf"{path} line 1: "),
        ("from nowhere import x\n", "No"),
        (f"from {helper[:-3]} import *\n", "not \\*"),
        (f"import {helper[:-3]}\n", "from module import name"),
        ("from .. import x\n", "from module import name"),
        (f"from {path[:-3]} import x\n", "circle"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("x = " + "(" * 500 + ")" * 500, "line 1|read|nested"),
        ("x = " + "-" * 20_000 + "1", ""),
    ):
        env.state["files"][path] = text
        result = call(env, "run_tests")
        assert result.ok
        assert re.search(told, " ".join(result.value)), (text[:40], result.value)
        assert not env.judge()[0]
        begin(env, env.episode.task)


def test_own_modules_and_nested_imports_load(env: CodeRepair) -> None:
    name, path = begin(env, some(env))
    right = env.state["right"][path]
    source = function_in(right, name)
    assert source is not None
    assert call(env, "write_file", path="inner.py", text=right).ok
    arguments = source.split("(", 1)[1].split("):", 1)[0]
    names = ", ".join(a.split("=")[0].strip() for a in arguments.split(","))
    body = f"def {name}({arguments}):\n    from .inner import {name} as own\n    return own({names})\n"
    rest = env.state["files"][path].replace(str(function_in(env.state["files"][path], name)), body)
    assert call(env, "write_file", path=path, text=rest).ok
    assert call(env, "run_tests").value == ["6 of 6 pass"]
    assert env.judge()[0]


# ---- those who cheat -------------------------------------------------------------------------------------------------


def lookup(env: CodeRepair, name: str) -> str:
    """A function that knows the visible tests by heart."""
    pairs = []
    for line in env.state["files"][TESTS].splitlines():
        if line.startswith(f"assert {name}("):
            left, _, right = line.removeprefix("assert ").partition(" == ")
            pairs.append(f"    if list(given) == [*_given{left[len(name) :]}]:\n        return {right}\n")
    return f"def _given(*given):\n    return given\n\n\ndef {name}(*given):\n{''.join(pairs)}    return None\n"


def test_knowing_the_visible_tests_by_heart_earns_nothing(env: CodeRepair) -> None:
    for recipe in RECIPES:
        name, path = begin(env, some(env, 1, recipe))
        text = env.state["files"][path]
        text = text.replace(str(function_in(text, name)), lookup(env, name))
        assert call(env, "write_file", path=path, text=text).ok
        assert call(env, "run_tests").value == ["6 of 6 pass"], recipe
        assert not env.judge()[0], recipe
        play(env)
        assert env.judge()[0], recipe


CHEATS = {
    "no tests": {TESTS: ""},
    "easy tests": {TESTS: "assert len([1]) == 1\n"},
    "a comment in the tests": {TESTS: "# checked\n{tests}"},
    "nothing left": {"{path}": ""},
    "prints what tests print": {"{path}": "print('6 of 6 pass')\n{text}"},
    "ends the process": {"{path}": "import os\nos._exit(0)\n"},
    "ends the program": {"{path}": "{text}\nraise SystemExit(0)\n"},
    "never ends": {"{path}": "{text}\nwhile True:\n    pass\n"},
    "eats memory": {"{path}": "{text}\nx = [0] * 10**10\n"},
    "always equal": {
        "{path}": "class Any:\n    def __eq__(self, other): return True\ndef {name}(*a, **k): return Any()\n"
    },
    "always true": {"{path}": "def {name}(*a, **k): return True\n"},
    "patched builtins": {
        "{path}": "import builtins\nbuiltins.sum = builtins.len = builtins.sorted = lambda *a, **k: 0\n{text}"
    },
    "looks into its caller": {
        "{path}": "import sys\ndef {name}(*a, **k):\n    frame = sys._getframe(1)\n    frame.f_globals['_said'] = []\n"
        "    return frame.f_locals\n"
    },
    "looks for a solution": {
        "{path}": "def {name}(*a, **k):\n    for p in ('right', 'hidden', 'solution.py', 'tests.py'):\n        try:\n"
        "            return open(p).read()\n        except Exception: pass\n"
    },
    "swallows what follows": {"{path}": "{text}\nx = '''"},
}  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_earns_nothing(env: CodeRepair, cheat: str) -> None:
    name, path = begin(env, some(env, 1, "price"))
    text, tests = env.state["files"][path], env.state["files"][TESTS]
    began = time.monotonic()
    for file, content in CHEATS[cheat].items():
        content = content.replace("{text}", text).replace("{tests}", tests).replace("{name}", name)
        assert call(env, "write_file", path=file.replace("{path}", path), text=content).ok
    assert call(env, "run_tests").ok
    step = env.act(Action("Done."))
    assert env.judge() == (False, {"success": 0.0})
    assert step.turn.reward == 0
    assert time.monotonic() - began < 20


def test_a_right_repair_of_another_kind_counts(env: CodeRepair) -> None:
    """What the code does is judged, not how it is written; where Monty has no word for it, CPython may."""
    name, path = begin(env, some(env, 1, "limit"))
    text = env.state["files"][path]
    helper = env.episode.task.data["parts"][0]["names"][1]
    body = f"def {name}(entries, limit=50):\n    return [e[0] for e in entries if e[1] > limit or e[1] == limit]\n"
    text = text.replace(str(function_in(text, name)), body)
    assert helper in text
    assert call(env, "write_file", path=path, text=text).ok
    assert env.judge()[0]
    try:
        Sandbox.auto(cpython=True).close()
    except InfrastructureError:
        return
    body = f"def {name}(entries, limit=50):\n    def found():\n        for e in entries:\n"
    body += "            if e[1] >= limit:\n                yield e[0]\n    return list(found())\n"
    assert call(env, "write_file", path=path, text=text.replace(str(function_in(text, name)), body)).ok
    assert env.judge()[0]


def test_without_a_sandbox_no_episode_begins(env: CodeRepair, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.envs import code_tests

    def none(**_: Any) -> Sandbox:
        raise InfrastructureError("no sandbox works here")

    monkeypatch.setattr(code_tests._shared, "made", {})
    monkeypatch.setattr(Sandbox, "auto", none)
    with pytest.raises(InfrastructureError, match="no sandbox works here"):
        CodeRepair().start(some(env))


def test_both_sandboxes_agree(env: CodeRepair) -> None:
    try:
        sandbox = Sandbox.auto(cpython=True)
    except InfrastructureError:
        pytest.skip("bubblewrap does not work here")
    with sandbox:
        other = CodeRepair(sandbox)
        for task in task_set(env, "train", 8, seed=4):
            begin(env, task)
            other.restore(env.snapshot())
            assert call(other, "run_tests").value == call(env, "run_tests").value
            play(other)
            assert other.judge()[0]


# ---- the expert ------------------------------------------------------------------------------------------------------


def test_the_expert_mends_what_an_agent_broke(env: CodeRepair) -> None:
    rng = random.Random(3)
    for task in task_set(env, "train", 24, seed=6):
        begin(env, task)
        others = sorted(env.state["files"])
        for _ in range(3):
            file = rng.choice(others)
            text = env.state["files"].get(file, "")
            lines = text.splitlines(keepends=True) or ["\n"]
            cut = rng.randrange(len(lines))
            harmed = rng.choice(("", "def x(:\n", "".join(lines[:cut]), "".join(lines[cut:]), text + "\n\n1 / 0\n"))
            assert call(env, "write_file", path=file, text=harmed).ok
        play(env)
        assert env.judge()[0], task


@pytest.mark.parametrize("kind", FAULTS)
def test_the_expert_recovers(env: CodeRepair, kind: str, struck: Struck) -> None:
    verdicts = struck(env, task_set(env, "train", 16, seed=2), FaultPlan((kind,), 1), "expert")
    assert len(verdicts) >= 3
    assert sum(verdicts) >= 0.95 * len(verdicts)


def test_wrong_strategies_do_worse(env: CodeRepair, struck: Struck) -> None:
    tasks = task_set(env, "train", 6, seed=3)
    for agent, most in (("blind-retry", 0.5), ("give-up", 0.25)):
        plans = [FaultPlan((kind,), 1) for kind in FAULTS if kind != "impossible"]
        verdicts = [success for plan in plans for success in struck(env, tasks, plan, agent)]
        assert sum(verdicts) <= most * len(verdicts), agent


def test_a_renamed_module_takes_its_imports_along(env: CodeRepair) -> None:
    name, path = begin(env, some(env), "count=1:stale_id")
    while (result := call(env, "read_file", path=path)).ok:
        pass
    assert result.outcome is Outcome.CONFLICT
    new = call(env, "find_function", name=name).value["path"]
    assert new != path
    assert path not in env.state["files"]
    assert f"from {new[:-3]} import" in env.state["files"][TESTS]
    other = make("code-repair")
    other.restore(env.snapshot())
    play(other)
    assert other.judge()[0]


# ---- the bundle ------------------------------------------------------------------------------------------------------


def test_rename_touches_imports_alone() -> None:
    files = {
        "a.py": "a = 'from a import b'\n",
        "b.py": "from a import a\nfrom ab import c\n",
        TESTS: "from .a import a\n",
    }
    assert rename(files, "a", "z") == {
        "z.py": "a = 'from a import b'\n",
        "b.py": "from z import a\nfrom ab import c\n",
        TESTS: "from .z import a\n",
    }


def test_a_function_ends_where_the_next_thing_begins() -> None:
    text = "def f(\n    a,\n):\n    return a\n\n\n@deco\ndef fg(): pass\n\nx = 1\n"
    assert function_in(text, "f") == "def f(\n    a,\n):\n    return a\n"
    assert function_in(text, "fg") == "def fg(): pass\n"
    assert function_in(text, "g") is None


@given(st.dictionaries(st.sampled_from(["a.py", "b.py", TESTS]), st.text(max_size=60)))
@settings(max_examples=40, deadline=None)
def test_any_text_is_told_or_broken(files: dict[str, str]) -> None:
    try:
        outcomes = run_visible(files, None)
    except Broken:
        return
    assert all(outcome.ran.passed or outcome.ran.told for outcome in outcomes)
