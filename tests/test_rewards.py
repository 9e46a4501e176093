"""Reward terms, by hand; user turns and the world that moves by itself; what exploits earn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.envs import Others, ToolEnv, User, make, play, task_set
from sparring.envs.code_tests import Check, Ran, checks_of, code_of, run_checks, shared_sandbox, unit_tests
from sparring.envs.rewards import (
    Ended,
    RewardTerm,
    answer_of,
    answer_schema,
    called_in_order,
    calls_at_most,
    cost,
    exact_answer,
    false_success,
    judged,
    math_answer,
    numeric_answer,
    state_check,
    weigh,
    wrong_give_up,
)
from sparring.tools import FaultPlan, NotFound, tool
from sparring.tools.sandbox import BubblewrapSandbox, MontySandbox, RunOutcome, Sandbox, SandboxResult
from sparring.trajectories import Action, ConfigError, InfrastructureError, Message, SparringError, StopReason, Task


class Counter(ToolEnv):
    """Count to two, with every term that looks at calls and states."""

    reward_terms = {  # noqa: RUF012  # never changed
        "order": weigh(0.1, called_in_order("look", "add", "add")),
        "few": weigh(0.2, calls_at_most(3)),
        "one look": calls_at_most(1, "look"),
        "cost": cost(call=0.01, turn=0.1),
        "claimed": false_success(0.5),
        "gave up": wrong_give_up(0.25),
        "moved": state_check(lambda before, after: after["n"] - before["n"]),
    }

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {"n": 0}

    @tool
    def look(self) -> int:
        """Read the count."""
        return int(self.state["n"])

    @tool(effect=True)
    def add(self, by: int = 1) -> int:
        """Add."""
        if by > 5:
            raise NotFound("no such number")
        self.state["n"] += by
        return int(self.state["n"])

    def success(self, task: Task) -> bool:
        return bool(self.state["n"] == 2)


def parts(*actions: Action) -> dict[str, float]:
    env = Counter()
    env.start(Task("Count to two."))
    for action in actions:
        step = env.act(action)
    _, found = env.judge()
    assert step.turn.reward == pytest.approx(sum(found.values()))
    return found


LOOK, ADD, DONE = Action.call("look"), Action.call("add"), Action("Done.")


def test_parts_by_hand() -> None:
    assert parts(LOOK, ADD, ADD, DONE) == {
        "success": 1.0,
        "order": 0.1,
        "few": 0.2,
        "one look": 1.0,
        "cost": pytest.approx(-0.43),
        "claimed": 0.0,
        "gave up": 0.0,
        "moved": 2.0,
    }
    assert parts(ADD, LOOK, LOOK, Action.call("add", by=9), DONE) == {
        "success": 0.0,
        "order": 0.0,
        "few": 0.0,
        "one look": 0.0,
        "cost": pytest.approx(-0.54),
        "claimed": -0.5,
        "gave up": 0.0,
        "moved": 1.0,
    }
    assert parts(Action("Cannot do it."))["gave up"] == -0.25
    assert parts(Action("Cannot do it."))["claimed"] == 0.0


def test_giving_up_on_what_is_impossible_is_no_fault() -> None:
    env = Counter()
    env.start(Task("Count to two."), FaultPlan.parse("impossible:1"))
    env.act(ADD)
    env.act(Action("Cannot do it."))
    success, found = env.judge()
    assert success
    assert found["gave up"] == 0.0


def test_an_episode_that_is_over_is_judged_once_and_a_fork_anew() -> None:
    asked: list[int] = []

    def count(ended: Ended) -> float:
        asked.append(len(ended.turns))
        return 0.0

    class Judged(Counter):
        reward_terms = {"judge": count}  # noqa: RUF012

    env = Judged()
    env.start(Task("Count to two."))
    env.act(ADD)
    middle = env.snapshot()
    env.act(DONE)
    env.judge()
    assert asked == [2]
    env.restore(middle)
    env.act(ADD)
    env.act(DONE)
    assert env.judge()[0]
    assert asked == [2, 3]


def test_a_rollout_keeps_the_parts() -> None:
    (trajectory,) = rollout(Counter, scripted("do-nothing"), [EpisodeSpec(Task("Count to two."))])
    assert trajectory.reward_parts["claimed"] == -0.5
    assert trajectory.reward == pytest.approx(sum(trajectory.reward_parts.values()))


# ---- answers ---------------------------------------------------------------------------------------------------------


def score(term: RewardTerm, said: str, answer: Any = None) -> float:
    task = Task("Answer.", {"answer": answer})
    return term(Ended(task, False, None, None, (), said, StopReason.FINISHED))


def right(task: Task) -> Any:
    return task.data["answer"]


@pytest.mark.parametrize(
    ("said", "answer"),
    [("Paris", "Paris"), ("It is Answer: Paris\nbye", "Paris"), (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
     ("Answer: 1\nAnswer: 2", "2"), ("", ""), (r"\boxed{open", r"\boxed{open"), ("Answer:", "")],
)  # fmt: skip
def test_where_the_answer_stands(said: str, answer: str) -> None:
    assert answer_of(said) == answer


def test_exact_answers() -> None:
    term = exact_answer(right)
    assert score(term, "Answer:  new   york.", "New York") == 1
    assert score(term, "Answer: York", "New York") == 0
    assert score(term, "", "New York") == 0


@pytest.mark.parametrize(
    ("said", "answer", "earned"),
    [("Answer: 42", 42, 1), ("The total is 1,234.50 euros", 1234.5, 1), ("25%", 0.25, 1), ("-3e2", -300, 1),
     ("Answer: 42.0000001", 42, 1), ("Answer: 43", 42, 0), ("1 or 2 or 3", 2, 0), ("none", 42, 0), ("", 0, 0),
     ("Answer: 42 (42)", 42, 1), ("inf", float("inf"), 0)],
)  # fmt: skip
def test_numeric_answers(said: str, answer: float, earned: float) -> None:
    assert score(numeric_answer(right), said, answer) == earned


def test_a_list_of_all_numbers_earns_nothing() -> None:
    assert score(numeric_answer(right), " ".join(map(str, range(1000))), 7) == 0


@pytest.mark.parametrize(
    ("said", "answer", "earned"),
    [(r"\boxed{\frac{1}{2}}", "0.5", 1), ("Answer: 2x+2", "2(x+1)", 1), ("Answer: 3", "4", 0), ("", "4", 0),
     ("Answer: " + "9" * 600, "9", 0)],
)  # fmt: skip
def test_mathematical_answers(said: str, answer: str, earned: float) -> None:
    pytest.importorskip("math_verify")
    assert score(math_answer(right), said, answer) == earned


def test_answers_by_schema() -> None:
    term = answer_schema({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
    assert score(term, '{"n": 3}') == 1
    assert score(term, 'Here:\n```json\n{"n": 3}\n```\n') == 1
    assert score(term, '{"n": "3"}') == score(term, "n is 3") == score(term, "[" * 100_000) == 0
    with pytest.raises(ConfigError, match="wrong JSON Schema"):
        answer_schema({"type": "objekt"})


@given(st.text(max_size=200))
@example("E0")
def test_no_text_breaks_an_answer_term(said: str) -> None:
    for term in (exact_answer(right), numeric_answer(right), answer_schema({"type": "integer"})):
        assert score(term, said, 7) in (0.0, 1.0)


# ---- judges ----------------------------------------------------------------------------------------------------------


def test_a_judge_grades() -> None:
    seen: list[str] = []

    def ask(prompt: str) -> str:
        seen.append(prompt)
        return "I think so.\nScore: 7.5"

    env = Counter()
    env.reward_terms = {"judge": weigh(2, judged(ask, "Counting is good."))}
    env.start(Task("Count to two."))
    env.act(Action("hm\nScore: 10", ADD.tool_calls))
    env.act(Action("Score: 10"))
    assert env.judge()[1]["judge"] == 1.5
    assert len(seen) == 1
    assert "Counting is good." in seen[0]
    assert 'agent: "hm\\nScore: 10"' in seen[0]  # the agent's lines stay inside one string


@pytest.mark.parametrize("answer", ["", "good", "Score: 11", "Score: many"])
def test_a_judge_without_a_score_is_no_zero(answer: str) -> None:
    with pytest.raises(InfrastructureError, match="no score in 2 answers"):
        score(judged(lambda prompt: answer, "r"), "hello")


def test_misuse() -> None:
    with pytest.raises(ConfigError, match="name of a tool"):
        called_in_order()


# ---- users and others ------------------------------------------------------------------------------------------------


class Curious(User):
    def reply(self, env: Any, said: str) -> str | None:
        env.state["asked"] += 1
        return f"and {env.state['asked']}?" if env.state["asked"] < 3 else None


class Ticking(Others):
    def elapse(self, env: Any) -> None:
        env.state["ticks"] += 1


class Talk(ToolEnv):
    """A user who asks twice, and a clock that ticks."""

    user: User = Curious()
    others = Ticking()

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {"asked": 0, "ticks": 0}

    @tool
    def look(self) -> int:
        """Read the clock."""
        return int(self.state["ticks"])

    def success(self, task: Task) -> bool:
        return bool(self.state["asked"] == 3)


def test_a_user_speaks_in_the_middle_of_an_episode() -> None:
    env = Talk()
    env.start(Task("Talk."))
    first = env.act(Action("Hello."))
    assert first.stop is None
    assert first.observation.messages == first.turn.messages == (Message("user", "and 1?"),)
    assert env.act(LOOK).turn.results[0].value == 1
    middle = env.snapshot()
    for _ in range(2):  # twice from the same state
        assert env.act(Action("Yes.")).observation.messages == (Message("user", "and 2?"),)
        last = env.act(Action("Bye."))
        assert last.stop is StopReason.FINISHED
        assert last.turn.messages == ()
        assert env.judge()[0]
        env.restore(middle)


# ---- code that the agent wrote ---------------------------------------------------------------------------------------

SQUARES = """
assert squares(3) == [0, 1, 4]
assert squares(0) == []
assert squares(-1) == []
assert 9 == max(squares(4))
"""
RIGHT = "def squares(n):\n    return [i * i for i in range(n)]\n"
HALF = "def squares(n):\n    return [i * i for i in range(max(n, 1))]\n"


@pytest.fixture(scope="module", params=["default", "monty", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox | None]:
    if request.param == "default":
        yield None
        return
    try:
        made: Sandbox = MontySandbox() if request.param == "monty" else BubblewrapSandbox()
    except SparringError as error:
        pytest.skip(str(error))
    with made:
        yield made


def said(text: str, tests: Any = SQUARES) -> Ended:
    return Ended(Task("Write squares.", {"tests": tests}), False, None, None, (), text, StopReason.FINISHED)


def graded(code: str, sandbox: Sandbox | None, tests: Any = SQUARES, **options: Any) -> float:
    term = unit_tests(lambda ended: code_of(ended.said), lambda task: task.data["tests"], sandbox, **options)
    return term(said(code, tests))


def test_code_is_run_against_tests(sandbox: Sandbox | None) -> None:
    assert graded(RIGHT, sandbox) == 1.0
    assert graded(f"Here it is:\n```python\n{RIGHT}```\nIt is quick.", sandbox) == 1.0
    assert graded(HALF, sandbox) == 0.0
    assert graded(HALF, sandbox, share=True) == 0.5
    assert graded(RIGHT, sandbox, [["squares(2)", [0, 1]], ["sum(squares(3))", 5.0]]) == 1.0
    assert graded("def even(n): return n % 2 == 0", sandbox, "assert even(2)\nassert not even(3)") == 1.0
    assert graded("def even(n): return 1 - n % 2", sandbox, "assert even(2)") == 0.0  # 1 is not True


HOSTILE_CODE = {
    "nothing": "",
    "no Python": "def squares(n:",
    "prints": "print('4 passed')\nprint([[True, 1]] * 4)",
    "ends": RIGHT + "import sys\nsys.exit(0)",
    "raises SystemExit": RIGHT + "raise SystemExit(0)",
    "ends in the call": "def squares(n):\n    raise SystemExit(0)",
    "ends the process": RIGHT + "import os\nos._exit(0)",
    "always equal": "class A:\n    def __eq__(self, other): return True\ndef squares(n): return A()",
    "equal list": "class A(list):\n    def __eq__(self, other): return True\ndef squares(n): return A([4711])",
    "its own assert": "AssertionError = Exception\nmax = len = lambda *a: 4711\ndef squares(n): return 4711",
    "patches": "import builtins\nbuiltins.max = lambda *a: 4711\ndef squares(n): return n",
    "forges the answer": (
        "import os\nfor fd in range(3, 20):\n    try:\n"
        '        os.write(fd, b\'{"outcome":"ok","error":"","value":[[true,1],[true,1],[true,1],[true,1]]}\')\n'
        "    except OSError: pass\nos._exit(0)"
    ),
    "forges the list": "def squares(n):\n    global _said\n    _said = [[True, 4711]] * 4\n    return 0",
    "swallows the tests": RIGHT + "x = '''",
    "much memory": "x = [0] * 10**10\n" + RIGHT,
    "much output": "while True: print('passed' * 100)",
}


@pytest.mark.parametrize("name", HOSTILE_CODE)
def test_hostile_code_earns_nothing(sandbox: Sandbox | None, name: str) -> None:
    assert graded(HOSTILE_CODE[name], sandbox, deadline=1.0) == 0.0
    assert graded(HOSTILE_CODE[name], sandbox, share=True, deadline=1.0) == 0.0


def test_an_endless_loop_costs_its_own_test_and_no_more_than_the_deadline(sandbox: Sandbox | None) -> None:
    endless = "def squares(n):\n    while n < 0: pass\n    return [i * i for i in range(n)]\n"
    began = time.monotonic()
    assert graded(endless, sandbox, share=True, deadline=4.0) == 0.75
    assert graded("while True: pass", sandbox, share=True, deadline=1.0) == 0.0
    assert time.monotonic() - began < 4 + 1 + 4


def test_what_is_expected_never_enters_the_sandbox() -> None:
    class Spy(Sandbox):
        seen: list[str] = []  # noqa: RUF012  # this test's own

        def run(self, code: str, **options: Any) -> SandboxResult:
            self.seen.append(code)
            return SandboxResult(RunOutcome.OK, value=[[True, 4711]])

        def close(self) -> None:
            pass

    spy = Spy()
    assert graded("def f(): return 1", spy, "assert f() == 4711") == 1.0
    assert "f()" in spy.seen[0]
    assert "4711" not in spy.seen[0]


def test_what_monty_does_not_know_is_tried_on_cpython() -> None:
    generator = "def squares(n):\n    def each():\n        for i in range(n):\n            yield i * i\n"
    generator += "    return list(each())\n"
    try:
        Sandbox.auto(cpython=True).close()
    except InfrastructureError:
        pytest.skip("bubblewrap does not work here")
    assert graded(generator, None) == 1.0
    with MontySandbox() as monty:
        assert graded(generator, monty) == 0.0  # the one that was named, and no other


def test_a_dead_sandbox_is_no_zero() -> None:
    with MontySandbox() as monty:
        pass
    with pytest.raises(InfrastructureError, match="closed"):
        graded(RIGHT, monty)


@pytest.mark.parametrize(
    "tests",
    ["assert f(1) < 2", "x = 1", "assert f(1) == g(1)", "assert (", "assert f(1) == {1, 2}", [["f(1)"]], [["f(", 1]],
     [3], "for i in 1, 2: assert f(i)", "assert abs(f(1) - 2) < 1e-6", "assert f(1) == 1j", ""],
)  # fmt: skip
def test_tests_of_another_form_are_refused(tests: Any) -> None:
    with pytest.raises(ConfigError):
        graded("def f(x): return x", None, tests)


@pytest.mark.parametrize(
    ("code", "expected", "passed"),
    [
        ("(1, 2)", [1, 2], True),
        ("[1, 2]", (1, 2), True),
        ("0.1 + 0.2", 0.3, True),
        ("1", 1.0, True),
        ("1", True, False),
        ("True", 1, False),
        ("'1'", 1, False),
        ("{'a': [1, {}]}", {"a": [1, {}]}, True),
        ("{'a': 1, 'b': 2}", {"a": 1}, False),
        ("{1: 2}", {1: 2}, True),
        ("None", None, True),
        ("None", False, False),
        ("float('nan')", 0, False),
        ("10 ** 30", 10**30, True),
        ("[[]]", [], False),
        ("{1, 2}", [1, 2], False),
    ],
)
def test_values_are_compared_as_data(sandbox: Sandbox | None, code: str, expected: Any, passed: bool) -> None:
    (ran,) = run_checks("", checks_of([[code, expected]]), sandbox)
    assert ran.passed is passed
    assert bool(ran.told) is not passed


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-2**40, 2**40) | st.text("aé\"'\\\n{}", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_value_equals_itself_and_no_other(value: Any) -> None:
    """Through an assertion's text, the sandbox and back."""
    (check,) = checks_of(f"assert f() == {value!r}")
    code = f"def f(): return {value!r}"
    assert run_checks(code, [check]) == [Ran(True)]
    (ran,) = run_checks(code, [Check("f()", [value, "other"])])
    assert not ran.passed


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("First:\n```python\nx = 1\n```\nbetter:\n```py\nx = 2\n```\n", "x = 2\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
    ],
)
def test_the_code_in_a_message(text: str, code: str) -> None:
    assert code_of(text) == code


def test_a_forked_process_has_a_sandbox_of_its_own() -> None:
    try:
        Sandbox.auto(cpython=True).close()
    except InfrastructureError:
        pytest.skip("bubblewrap does not work here")
    checks = checks_of("assert f() == 1")
    assert run_checks("def f(): return 1", checks)[0].passed
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        fine = False
        try:
            fine = run_checks("def f(): return 1", checks)[0].passed
            shared_sandbox().close()
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert run_checks("def f(): return 1", checks)[0].passed


def test_the_shared_sandbox_ends_with_the_process() -> None:
    code = (
        "from sparring.envs.code_tests import checks_of, run_checks\nimport subprocess, os\n"
        "print(run_checks('def f(): yield 1', checks_of('assert f() == 1')))\n"
        "print(subprocess.run(['ps', '-o', 'pid=', '--ppid', str(os.getpid())], capture_output=True).stdout.decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    children = [int(line) for line in done.stdout.splitlines() if line.strip().isdigit()]
    assert children
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


# ---- the conversation and the world ----------------------------------------------------------------------------------


def test_answers_have_a_limit() -> None:
    class Endless(Talk):
        user = User(lambda env, said: "and?", max_answers=3)

    env = Endless()
    env.start(Task("Talk."))
    stops = [env.act(Action("Hello.")).stop for _ in range(4)]
    assert stops == [None, None, None, StopReason.FINISHED]


def test_the_conversation_is_in_the_trajectory() -> None:
    task = task_set(make("shop"), "train", 1, levels=[2])[0]
    (trajectory,) = rollout("shop", scripted("expert"), [EpisodeSpec(task)])
    said = [(m.role, m.content) for m in trajectory.messages() if m.role in ("user", "assistant") and m.content]
    assert said[1] == ("assistant", "Which address?")
    assert said[2] == ("user", f"{task.data['address']}.")
    assert said[-1] == ("assistant", "Done.")


def test_others_are_faster_and_the_customer_thinks_again() -> None:
    env = make("shop")
    for task in task_set(env, "train", 20, levels=[4]):
        env.start(task)
        turns = play(env)
        outcomes = [result.outcome.value for turn in turns for result in turn.results]
        assert "conflict" in outcomes  # sold out meanwhile
        assert sum(bool(turn.messages) for turn in turns) == 3  # address, second choice, new address
        assert env.judge()[0]


def test_a_mistake_is_undone_and_harm_stays() -> None:
    env = make("incident")
    task = task_set(env, "train", 1, levels=[1])[0]
    healthy = next(
        id for id, s in start(env, task)["services"].items() if s["name"] != task.data["chains"][0]["services"][0]
    )
    env.act(Action.call("rollback", service_id=healthy))
    harmed = env.snapshot()
    env.act(Action.call("release", service_id=healthy))
    play(env)
    assert env.judge()[0]
    env.restore(harmed)
    play(env)  # the expert undoes it, too
    assert env.judge()[0]
    start(env, task)
    env.act(Action.call("clear_disk", service_id=healthy))
    play(env)
    assert not env.judge()[0]


def start(env: ToolEnv, task: Task) -> Any:
    env.start(task)
    return env.state
