"""The SQL analyst: truth against SQL, traps that bite, what may be read and what not, answers in any form, recovery."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.envs import SPLITS, ToolEnv, make, play, task_set
from sparring.envs.sql_analyst.questions import QUESTIONS, compare, misread, prepared, statement
from sparring.envs.sql_analyst.world import DOMAINS, Names
from sparring.tools import FAULTS, FaultPlan
from sparring.trajectories import Action, Cause, Outcome, Task, ToolResult

Struck = Callable[..., list[bool]]
LIVING = {"domain": "shop", "question": "living", "params": {"town": "Bern"}}


@pytest.fixture(scope="module")
def env() -> ToolEnv:
    return make("sql-analyst")


@pytest.fixture(scope="module")
def tasks(env: ToolEnv) -> list[Task]:
    return task_set(env, "train", 240, seed=3)


def call(env: ToolEnv, name: str, /, **arguments: Any) -> ToolResult:
    return env.act(Action.call(name, **arguments)).turn.results[0]


def table(env: ToolEnv, logical: str) -> str:
    """What a table is called in the present episode."""
    return str(env.state["names"][logical])


def answered(env: ToolEnv, task: Task, answer: Any) -> bool:
    env.start(task)
    call(env, "answer", answer=answer)
    env.act(Action("Done."))
    return env.judge()[0]


# ---- truth and traps -------------------------------------------------------------------------------------------------


def test_the_truth_agrees_with_sql_that_knows_nothing_of_it(env: ToolEnv) -> None:
    kinds: Counter[str] = Counter()
    for split in SPLITS:
        for task in task_set(env, split, 120, seed=9):
            env.start(task)
            play(env)
            assert env.judge()[0], task
            kinds[task.kind] += 1
    assert set(kinds) == set(QUESTIONS)


def test_levels_take_more_and_more_calls(env: ToolEnv) -> None:
    for level, calls in {1: {4}, 2: {5}, 3: {6}, 4: {7, 8}}.items():
        for task in task_set(env, "train", 40, levels=[level]):
            env.start(task)
            assert len(play(env)) - 1 in calls


def test_whoever_reads_the_rules_wrongly_answers_wrongly(env: ToolEnv, tasks: list[Task]) -> None:
    """The same SQL with one rule of the notes misread."""
    right: dict[str, list[bool]] = {}
    for task in tasks:
        made, question = prepared(task), QUESTIONS[task.kind]
        for reading in question.readings:
            if reading == "unknown":  # NULLIF is in the statement itself
                continue
            env.start(task)
            sql = made.names.sql(statement(task.kind, misread(made.rules, reading), task.data["params"]))
            rows = call(env, "query", sql=sql).value["rows"]
            found = [row[0] for row in rows] if question.form == "list" else rows[0][0] if rows else "nothing"
            call(env, "answer", answer=found)
            right.setdefault(reading, []).append(env.judge()[0])
    assert set(right) == {"void", "cents", "dated", "once"}
    for reading, verdicts in right.items():
        assert sum(verdicts) <= 0.05 * len(verdicts), reading


def test_zeros_that_stand_for_nothing_pull_an_average_down(env: ToolEnv, tasks: list[Task]) -> None:
    averages = [task for task in tasks if task.kind == "average"]
    for task in averages:
        made = prepared(task)
        env.start(task)
        sql = statement("average", made.rules, task.data["params"]).replace("nullif(event.count, 0)", "event.count")
        call(env, "answer", answer=call(env, "query", sql=made.names.sql(sql)).value["rows"][0][0])
        assert not env.judge()[0]
    assert averages


def test_guessing_does_not_pay(env: ToolEnv) -> None:
    """The best constant of all, chosen after the fact, one for each kind of question."""
    truths: dict[str, Counter[str]] = {}
    several = task_set(env, "train", 600, seed=1)
    for task in several:
        truths.setdefault(task.kind, Counter())[json.dumps(prepared(task).truth)] += 1
    by_kind = sum(counter.most_common(1)[0][1] for counter in truths.values())
    alone = sum(truths.values(), Counter()).most_common(1)[0][1]
    assert alone <= 0.03 * len(several)
    assert by_kind <= 0.08 * len(several)


def test_only_the_last_answer_given_with_the_tool_counts(env: ToolEnv, tasks: list[Task]) -> None:
    for task in tasks[:20]:
        truth = prepared(task).truth
        env.start(task)
        env.act(Action(f"Answer: {truth}"))
        assert not env.judge()[0]  # said, and not given
        assert answered(env, task, truth)
        assert not answered(env, task, [*truth, "Ada Nobody"] if isinstance(truth, list) else f"{truth}, or 7 of Ada")
        env.start(task)
        call(env, "answer", answer="Zoe Nobody")
        assert not env.judge()[0]
        play(env)  # the expert puts it right
        assert env.judge()[0]


def test_splits_share_no_question(env: ToolEnv) -> None:
    asked = {
        split: {json.dumps(task.data, sort_keys=True) for task in task_set(env, split, 400, seed=2)} for split in SPLITS
    }
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert not asked["test"] & asked["validation"]


def test_tables_are_called_otherwise_each_time(tasks: list[Task]) -> None:
    for domain in DOMAINS:
        names = {tuple(sorted(prepared(t).names.of.items())) for t in tasks if t.data["domain"] == domain}
        assert len(names) > 20


def test_every_name_that_a_database_may_have_is_translated() -> None:
    for domain in DOMAINS.values():
        for seed in range(40):
            names = Names.draw(domain, random.Random(seed))
            assert len(set(names.tables)) == 4
            for logical in ("person", "thing", "site", "event"):
                columns = [column.split()[0] for column in names.columns(logical)]
                assert len(set(columns)) == len(columns)
            assert (
                names.sql("event.amount FROM event")
                == f"{names['event']}.{names['event.amount']} FROM {names['event']}"
            )


# ---- what may be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "outcome"),
    [
        ("DELETE FROM {event}", Outcome.FORBIDDEN),
        ("UPDATE {event} SET ref = 'x'", Outcome.FORBIDDEN),
        ("DROP TABLE {person}", Outcome.FORBIDDEN),
        ("ALTER TABLE {person} RENAME TO x", Outcome.FORBIDDEN),
        ("ATTACH 'x.db' AS x", Outcome.FORBIDDEN),
        ("PRAGMA writable_schema = 1", Outcome.FORBIDDEN),
        ("SELECT * FROM sqlite_master", Outcome.FORBIDDEN),
        ("SELECT load_extension('x')", Outcome.FORBIDDEN),
        ("SELECT 1; DELETE FROM {event}", Outcome.TOOL_ERROR),
        ("SELEKT 1", Outcome.TOOL_ERROR),
        ("", Outcome.TOOL_ERROR),
        ("-- SELECT 1", Outcome.TOOL_ERROR),
        ("SELECT nothing FROM {person}", Outcome.TOOL_ERROR),
        ("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n", Outcome.TIMEOUT),
    ],
)
@pytest.mark.parametrize("route", ["query", "query_replica"])
def test_the_database_is_only_read(env: ToolEnv, tasks: list[Task], route: str, sql: str, outcome: Outcome) -> None:
    task = next(t for t in tasks if t.level == 4)
    env.start(task)
    before = call(env, "list_tables").value
    result = call(env, route, sql=sql.format(event=table(env, "event"), person=table(env, "person")))
    assert result.outcome is outcome
    assert result.error is None  # a typed failure, no bug
    assert call(env, "list_tables").value == before
    play(env)
    assert env.judge()[0]


def test_a_long_result_is_cut_and_says_so(env: ToolEnv, tasks: list[Task]) -> None:
    env.start(tasks[0])
    events = table(env, "event")
    cut = call(env, "query", sql=f"SELECT * FROM {events}")
    assert cut.value["more"] is True
    assert len(cut.value["rows"]) == 20
    assert len(cut.content) < 4000
    listed = {entry["table"]: entry["rows"] for entry in call(env, "list_tables").value}
    whole = call(env, "query", sql=f"SELECT count(*) FROM {events}")
    assert whole.value == {"columns": ["count(*)"], "rows": [[listed[events]]]}


@pytest.mark.parametrize("name", ["x'; DROP TABLE a; --", "", "sqlite_master", "events"])
def test_a_table_that_is_not_there_is_not_found(env: ToolEnv, tasks: list[Task], name: str) -> None:
    env.start(tasks[0])
    for tool in ("describe", "sample", "read_notes"):
        assert call(env, tool, table=name).outcome is Outcome.NOT_FOUND


def test_sample_shows_what_describe_shows(env: ToolEnv, tasks: list[Task]) -> None:
    env.start(tasks[0])
    entries = call(env, "list_tables").value
    assert entries
    for entry in entries:
        described = call(env, "describe", table=entry["table"]).value
        shown = call(env, "sample", table=entry["table"]).value
        assert [column.split()[0] for column in described["columns"]] == shown["columns"]
        assert len(shown["rows"]) == 2


def test_results_are_short(env: ToolEnv, tasks: list[Task]) -> None:
    longest = 0
    for task in tasks[:80]:
        env.start(task)
        longest = max(longest, *(len(r.content) for turn in play(env) for r in turn.results))
    assert longest <= 500


# ---- forks and faults ------------------------------------------------------------------------------------------------


def test_a_renamed_table_is_renamed_in_this_fork_alone(env: ToolEnv, tasks: list[Task]) -> None:
    task = next(t for t in tasks if t.kind == "regulars")
    env.start(task, FaultPlan(("stale_id",), 1))
    call(env, "list_tables")
    for _ in range(8):  # until it strikes
        frozen, old = env.snapshot(), table(env, "event")
        stale = call(env, "describe", table=old)
        if stale.outcome is Outcome.CONFLICT:
            break
    assert (stale.fault, stale.cause) == ("stale_id", Cause.INJECTED)
    new = table(env, "event")
    assert new != old
    assert call(env, "describe", table=old).outcome is Outcome.NOT_FOUND
    assert "no such table" in call(env, "query", sql=f"SELECT 1 FROM {old}").content
    assert call(env, "query", sql=f"SELECT 1 FROM {new} LIMIT 1").ok

    other = make("sql-analyst")
    other.restore(frozen)
    assert table(other, "event") == old
    assert call(other, "query", sql=f"SELECT 1 FROM {old} LIMIT 1").ok
    assert call(env, "query", sql=f"SELECT 1 FROM {new} LIMIT 1").ok  # still
    for fork in (env, other):
        play(fork)
        assert fork.judge()[0]


def test_the_same_statement_reads_each_episodes_own_rows(env: ToolEnv) -> None:
    """One connection holds one image after the other; what was prepared for one must not read the next by it."""
    frozen, alone = [], []
    for task in task_set(env, "train", 120, seed=6):
        fresh = make("sql-analyst")
        fresh.start(task)
        frozen.append(fresh.snapshot())
        alone.append(call(fresh, "list_tables").value)
    for snapshot, wanted in [*zip(frozen, alone, strict=True)] * 2:
        env.restore(snapshot)
        assert call(env, "list_tables").value == wanted


def test_a_wrong_answer_of_a_tool_can_be_told_from_a_right_one(env: ToolEnv, tasks: list[Task]) -> None:
    for task in tasks[:40]:
        env.start(task)
        for name in (table(env, "person"), table(env, "event")):
            for tool in ("describe", "sample", "read_notes"):
                right = call(env, tool, table=name).value
                assert env.fault_hooks.distort(env, tool, {"table": name}, right)["table"] != name
        sql = {"sql": f"SELECT count(*) FROM {table(env, 'event')}"}
        assert env.fault_hooks.distort(env, "query", sql, call(env, "query", **sql).value)["columns"] != ["count(*)"]


HARM = {  # most successes of (blind retry, give up); None: the right thing to do, or no harm
    "tool_removed": (None, 0.1),
    "internal_error": (0.95, 0.1),
    "unavailable": (None, 0.1),
    "flapping": (None, 0.1),
    "timeout_lost": (None, 0.1),
    "timeout_landed": (None, None),  # an answer given twice is one answer
    "impossible": (0.1, None),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_expert_recovers_and_wrong_strategies_do_not(
    env: ToolEnv, tasks: list[Task], kind: str, struck: Struck
) -> None:
    some, plan = tasks[:32], FaultPlan((kind,), 1)
    verdicts = struck(env, some, plan, "expert")
    assert len(verdicts) >= (6 if kind == "partial_page" else 30)
    assert all(verdicts)
    for agent, most in zip(("blind-retry", "give-up"), HARM.get(kind, (0.1, 0.1)), strict=True):
        if most is not None:
            assert fmean(struck(env, some, plan, agent)) <= most, agent


@pytest.mark.parametrize("line", ["count=1", "count=2", "count=3", "unavailable:0.2,stale_id:0.2,truncated_output:0.2"])
def test_several_faults(env: ToolEnv, tasks: list[Task], line: str, struck: Struck) -> None:
    plan = FaultPlan.parse(line)
    verdicts = struck(env, tasks[:60], plan, "expert")
    assert fmean(verdicts) >= 0.95
    assert len(verdicts) >= 45
    assert fmean(struck(env, tasks[:60], plan, "blind-retry")) <= 0.6
    assert fmean(struck(env, tasks[:60], plan, "give-up")) <= 0.25
    assert struck(env, tasks[:60], replace(plan, seed=4), "do-nothing") == []  # who calls nothing meets no fault


def test_what_is_known_is_not_asked_again(env: ToolEnv, tasks: list[Task]) -> None:
    """After a lost answer the expert looks, and gives it once more: no table is read a second time."""
    for task in tasks[:12]:
        env.start(task, FaultPlan(("timeout_lost",), 1))
        names = [result.tool for turn in play(env) for result in turn.results]
        assert names[-3:] == ["answer", "get_answer", "answer"]
        assert names.count("list_tables") == names.count("query") == 1


# ---- answers ---------------------------------------------------------------------------------------------------------

NAMES = ["Ada Ito", "Ben Costa", "Cora Klein", "Anders Land", "Oak Gate", "red lamp"]
hundredths = st.integers(-(10**9), 10**9).map(lambda n: n / 100)


@given(hundredths)
def test_a_number_is_read_in_many_forms(number: float) -> None:
    forms: list[Any] = [
        number, str(number), f"{number:,.2f}", f"{number:.3f}", f" {number} ", f"{number:,.2f} euros", f"EUR {number}",
        f"It is {number:.2f}.", [number],
    ]  # fmt: skip
    for form in forms:
        assert compare("number", form, number), form


@given(hundredths, hundredths)
def test_another_number_is_wrong(number: float, other: float) -> None:
    if abs(number - other) > 0.0052:
        assert not compare("number", other, number)
        assert not compare("number", f"{number} or {other}", number)
        assert not compare("number", [number, other], number)


@pytest.mark.parametrize("form", ["Ada Ito", "ada ito", " Ada  Ito. ", '"Ada Ito"', "**Ada Ito**", ["Ada Ito"]])
def test_a_name_is_read_in_many_forms(form: Any) -> None:
    assert compare("name", form, "Ada Ito")
    assert not compare("name", form, "Ada Costa")


def test_a_name_among_others_is_wrong() -> None:
    for form in ("Ada Ito, Ben Costa", ["Ada Ito", "Ben Costa"], "Ada", "Ada Ito or Ben Costa", 3, {"name": "Ada Ito"}):
        assert not compare("name", form, "Ada Ito")


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.randoms(use_true_random=False))
def test_a_list_is_read_in_many_forms_and_any_order(names: list[str], rng: random.Random) -> None:
    mixed = rng.sample(names, len(names))
    forms: list[Any] = [
        mixed, ", ".join(mixed), "; ".join(mixed), "\n".join(f"- {name}" for name in mixed), json.dumps(mixed),
        " and ".join(mixed), [name.upper() for name in mixed], ", ".join(mixed) + ".",
    ]  # fmt: skip
    for form in forms:
        assert compare("list", form, names), form
    assert not compare("list", [*mixed, "Zoe Nobody"], names)
    assert not compare("list", mixed[1:], names)
    assert not compare("list", [*mixed, mixed[0]], names)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(anything, st.sampled_from([("number", 12.5), ("name", "Ada Ito"), ("list", ["Ada Ito", "Ben Costa"])]))
def test_no_answer_whatever_is_a_bug(given_: Any, asked: tuple[Any, Any]) -> None:
    assert compare(asked[0], given_, asked[1]) in (True, False)


@given(st.text())
def test_no_statement_whatever_is_a_bug(sql: str) -> None:
    env = make("sql-analyst")
    env.start(Task("How many customers live in Bern?", LIVING, level=1))
    assert call(env, "query", sql=sql).error is None
