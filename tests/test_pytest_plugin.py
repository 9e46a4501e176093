"""`pytest --sparring`: an environment's checks as tests."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import pytest

from sparring.envs.check import check_names

pytest_plugins = ["pytester"]

GOOD = '''
from sparring import Task, ToolEnv, tool

class Lamp(ToolEnv):
    """Light a lamp.

    ## Tools
    ## Rewards
    ## Episode End
    ## Version History
    """

    def tasks(self, split, rng):
        first = {"train": 0, "validation": 100, "test": 200}[split]
        return [Task(f"Light lamp {n}.", {"n": n}, seed=n) for n in range(first, first + 50)]

    def setup(self, task, rng):
        self.state = {"lit": []}

    @tool(effect=True)
    def light(self, n: int) -> str:
        """Light a lamp."""
        self.state["lit"].append(n)
        return "lit"

    @tool
    def lit(self) -> list[int]:
        """List the lamps that are lit."""
        return list(self.state["lit"])

    def success(self, task):
        return self.state["lit"] == [task.data["n"]]

    def solve(self, task):
        if not self.success(task):
            yield "light", {"n": task.data["n"]}
'''

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """pytest in a process of its own, in a folder with `lamps.py`."""
    installed = metadata.entry_points(group="pytest11", name="sparring")

    def run(code: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(lamps=code)
        plugin = [] if installed else ["-p", "sparring.pytest_plugin"]
        return pytester.runpytest_subprocess(*plugin, "-p", "no:cacheprovider", *args)

    return run


def test_each_check_of_a_good_environment_is_a_test_that_passes(run: Run) -> None:
    result = run(GOOD, "--sparring", "lamps:Lamp", "-v")
    result.assert_outcomes(passed=len(check_names()))
    result.stdout.fnmatch_lines([f"sparring check lamps:Lamp::{name} PASSED*" for name in check_names()])
    assert result.ret == 0


def test_an_error_fails_its_test_and_a_warning_warns(run: Run) -> None:
    wrong = GOOD.replace("    ## Rewards\n", "").replace('"lit": []}', '"lit": [task.data["n"]]}')
    result = run(wrong, "--sparring", "lamps.py:Lamp", "-v")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*::documentation PASSED*", "*::nothing FAILED*", "*fix: *"])
    result.stdout.fnmatch_lines(["*CheckWarning: the docstring of Lamp lacks ## Rewards; add these headings*"])
    assert "Traceback" not in result.stdout.str()
    assert "check.py" not in result.stdout.str()


def test_a_traceback_is_shown_where_it_is_asked_for(run: Run) -> None:
    wrong = GOOD.replace('return self.state["lit"] == [task.data["n"]]', 'return {}["x"]')
    result = run(wrong, "--sparring", "lamps.py:Lamp", "-k", "nothing", "--tb=long")
    result.stdout.fnmatch_lines(
        ["*KeyError: 'x' (lamps.py, line 31, in success)*", "Traceback (most recent*", "*line 31, in success"]
    )
    assert "Traceback" not in run(wrong, "--sparring", "lamps.py:Lamp", "-k", "nothing").stdout.str()


def test_what_relies_on_a_check_that_failed_is_skipped(run: Run) -> None:
    result = run(GOOD.replace("def tasks", "def chores"), "--sparring", "lamps:Lamp", "-v")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1
    assert outcomes["skipped"] == len(check_names()) - check_names().index("tasks") - 1
    result.stdout.fnmatch_lines(["*::tasks FAILED*", "*::determinism SKIPPED*"])


def test_an_environment_that_is_not_there(run: Run) -> None:
    result = run(GOOD, "--sparring", "lamps:Lamb")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*Lamb*"])
    assert "Traceback" not in result.stdout.str()


def test_tests_of_its_own_run_beside_it_and_k_chooses(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    run(GOOD, "--sparring", "lamps:Lamp").assert_outcomes(passed=len(check_names()) + 1)
    run(GOOD, "--sparring", "lamps:Lamp", "-k", "expert or own").assert_outcomes(
        passed=2, deselected=len(check_names()) - 1
    )


def test_without_the_option_nothing_is_loaded(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_own="""
        import sys

        def test_own():
            assert not {"gymnasium", "numpy", "pydantic", "sparring.envs"} & set(sys.modules)
        """
    )
    run(GOOD).assert_outcomes(passed=1)
