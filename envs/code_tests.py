"""Tests of code that an agent wrote: run in a sandbox, compared outside of it. Defines the reward term `unit_tests`.

Nothing here runs, and no hook of the process is set, before the first test is run.
"""

from __future__ import annotations

import ast
import atexit
import json
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..tools.sandbox import MontySandbox, RunOutcome, Sandbox
from ..tools.sandbox.guest import plain
from ..trajectories.errors import ConfigError, InfrastructureError
from ..trajectories.messages import Json
from ..trajectories.trajectory import Task
from .rewards import Ended, RewardTerm

__all__ = ["Check", "Ran", "checks_of", "code_of", "run_checks", "shared_sandbox", "unit_tests"]

_TEST_DEADLINE = 4.0
"""Seconds for all tests of one piece of code."""
_WIDTH = 4000
"""Characters of a value that JSON cannot hold."""
_ENDS = {
    RunOutcome.OK: "it ended without a plain value",
    RunOutcome.TIMEOUT: "it did not end in time",
    RunOutcome.MEMORY: "it used too much memory",
    RunOutcome.OUTPUT: "it printed or returned too much",
    RunOutcome.CRASHED: "the process died",
}
"""What is told of a run without an answer; its own words hold times, which no two runs share."""


@dataclass(frozen=True, slots=True)
class Check:
    """One test: an expression over the code's names, and the value that it must have."""

    expression: str
    expected: Json
    """JSON; a tuple counts as a list. It never enters the sandbox."""

    def __str__(self) -> str:
        return f"{self.expression} == {self.expected!r}"


@dataclass(frozen=True, slots=True)
class Ran:
    """What one check came to."""

    passed: bool
    told: str = ""
    """What came instead, for a reader; empty when it passed."""
    raised: bool = False
    """An exception is why it did not."""


def code_of(said: str) -> str:
    """The code in a message: the last fenced block; without a fence all of it."""
    blocks = re.findall(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", said, re.DOTALL | re.MULTILINE)
    return str(blocks[-1]) if blocks else said


def checks_of(tests: str | Sequence[str | Sequence[Json]]) -> list[Check]:
    """Tests as checks whose expected values can be kept out of the sandbox.

    Args:
        tests: Lines (in one text or several) such as `assert area(2, 3) == 6`, or pairs [expression, expected value].

    Raises `ConfigError` for another form, or a value that JSON cannot hold: what only the code itself could judge is no
    test of it.
    """
    checks = []
    for test in [line for line in tests.splitlines() if line.strip()] if isinstance(tests, str) else tests:
        if isinstance(test, str):
            checks += [_check_of(statement, test) for statement in _parsed(test).body]
        elif isinstance(test, Sequence) and len(test) == 2 and isinstance(test[0], str) and _is_expression(test[0]):
            checks.append(Check(test[0], test[1]))
        else:
            raise ConfigError(f"a test is a line `assert f(1) == 2` or a pair ['f(1)', 2], got {test!r:.120}")
    for check in checks:
        try:
            json.dumps(check.expected, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"a test's expected value is JSON, got {check.expected!r:.80}; compare sorted(...) or str(...), say"
            ) from None
    return checks


def _parsed(text: str, mode: str = "exec") -> Any:
    """The syntax tree. Raises `ConfigError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode=mode)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"this is no Python: {text!r:.120} ({error})") from None


def _is_expression(text: str) -> bool:
    return isinstance(_parsed(text, "eval"), ast.Expression)


def _check_of(statement: ast.stmt, text: str) -> Check:
    """The check that an assertion makes: its left side, and the value of its right side, which must be a literal."""
    if isinstance(statement, ast.Assert):
        wanted = statement.test
        match wanted:
            case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
                for side, other in ((right, left), (left, right)):
                    try:
                        return Check(ast.unparse(other), ast.literal_eval(side))
                    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                        continue
            case ast.Call():
                return Check(ast.unparse(wanted), True)
            case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call):
                return Check(ast.unparse(call), False)
    raise ConfigError(f"a test compares with a value that is in it, as in `assert f(1) == 2`, got {text!r:.120}")


def unit_tests(
    code_from: Callable[[Ended], str],
    tests: Callable[[Task], str | Sequence[str | Sequence[Json]]],
    sandbox: Sandbox | None = None,
    *,
    share: bool = False,
    deadline: float = _TEST_DEADLINE,
) -> RewardTerm:
    """1 when code that the agent wrote passes all tests; with `share` the share that it passes.

    The code runs in a sandbox, which is told the tests' expressions alone. What comes back is compared here, so that
    code cannot pass by what it prints, by ending the process, or by changing what `==` or `assert` mean.

    Args:
        code_from: The code: `lambda ended: code_of(ended.said)`, or a file of `ended.after`.
        tests: What `checks_of` takes, from the task.
        sandbox: Where it runs. By default Monty, and what raises there is tried on CPython where bubblewrap is present.
        deadline: Seconds for all tests.

    Raises `InfrastructureError` where no sandbox works (never a 0), `ConfigError` for tests of another form, or none.
    """

    def term(ended: Ended) -> float:
        checks = checks_of(tests(ended.task))
        if not checks:
            raise ConfigError("unit_tests was given no test for this task")
        passed = [ran.passed for ran in run_checks(code_from(ended), checks, sandbox, deadline=deadline)]
        return sum(passed) / len(passed) if share else float(all(passed))

    return term


def run_checks(
    code: str, checks: Sequence[Check], sandbox: Sandbox | None = None, *, deadline: float = _TEST_DEADLINE
) -> list[Ran]:
    """What each check comes to on `code`, which nobody trusts. All are asked in one run; when that does not end well,
    each is asked in a run of its own, so that one endless loop does not take the others with it.

    Raises `InfrastructureError`.
    """
    end = time.monotonic() + deadline
    ran = _ran(code, checks, sandbox or shared_sandbox(), end)
    if sandbox is None and isinstance(shared_sandbox(), MontySandbox) and any(r.raised for r in ran):
        # Monty is a subset: what it does not know is no mistake of the code.
        whole = _shared.get(cpython=True)
        if whole is not None and time.monotonic() < end:
            return _ran(code, checks, whole, end)
    return ran


def _ran(code: str, checks: Sequence[Check], sandbox: Sandbox, end: float) -> list[Ran]:
    left = end - time.monotonic()
    result = sandbox.run(_program(code, checks), deadline=max(left / 2, 0.05))
    said = result.value
    if result.outcome is RunOutcome.ERROR:  # the code itself: what a check raises is caught
        return [Ran(False, _last_line(result.error), raised=True)] * len(checks)
    if result.ok and isinstance(said, list) and len(said) == len(checks):
        return [_compared(check, entry) for check, entry in zip(checks, said, strict=True)]
    ran = []
    for check in checks:
        left = end - time.monotonic()
        if len(checks) == 1 or left <= 0:
            ran.append(Ran(False, _ENDS[result.outcome]))
        else:
            ran += _ran(code, [check], sandbox, time.monotonic() + min(left, 1.0))
    return ran


def _program(code: str, checks: Sequence[Check]) -> str:
    lines = [code, "", "_said = []"]
    for check in checks:
        lines += [
            "try:",
            f"    _said.append([True, {check.expression}])",
            "except Exception as _error:",
            '    _said.append([False, type(_error).__name__ + ": " + str(_error)])',
        ]
    return "\n".join([*lines, "_said"])


def _compared(check: Check, said: Json) -> Ran:
    """What the sandbox said, next to what was expected: both are data."""
    if not isinstance(said, list) or len(said) != 2 or not isinstance(said[0], bool):
        return Ran(False, _ENDS[RunOutcome.OK])
    if not said[0]:
        return Ran(False, str(said[1]), raised=True)
    return Ran(True) if _same(said[1], plain(check.expected, _WIDTH)) else Ran(False, f"got {said[1]!r:.200}")


def _same(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal; True is not 1, 1 is 1.0, and floats may differ in the last digits."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other or (isinstance(one + other, float) and math.isclose(one, other, rel_tol=1e-9))
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _last_line(error: str) -> str:
    lines = error.strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""


class _Shared:
    """This process's sandboxes: made when first needed, closed when it ends.

    A forked child makes its own, and Monty cannot be started in the child of a process that has used it (it waits for
    threads which are not there): such a child has bubblewrap or nothing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[tuple[int, bool], Sandbox | None] = {}
        self.hooked = False

    def get(self, cpython: bool) -> Sandbox | None:
        key = (os.getpid(), cpython)
        with self.lock:
            if not self.hooked:
                self.hooked = True
                atexit.register(self.close)
                os.register_at_fork(after_in_child=self.after_fork)
            if key not in self.made:
                forked = any(pid != key[0] for pid, _ in self.made)
                try:
                    self.made[key] = Sandbox.auto(cpython=cpython or forked)
                except InfrastructureError:
                    if not cpython:
                        raise
                    self.made[key] = None
            return self.made[key]

    def after_fork(self) -> None:
        self.lock = threading.Lock()  # a thread that is not in the child may have held the old one

    def close(self) -> None:
        for (pid, _), sandbox in self.made.items():
            if sandbox is not None and pid == os.getpid():
                sandbox.close()


def shared_sandbox() -> Sandbox:
    """The sandbox that this process uses where none is named; nobody but the process's end closes it.

    Raises `InfrastructureError` where none works.
    """
    sandbox = _shared.get(cpython=False)
    assert sandbox is not None
    return sandbox


_shared = _Shared()
