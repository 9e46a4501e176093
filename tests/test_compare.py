"""`compare` and `sparring compare`: who meets whom, what is claimed, what is refused. Numbers worked out by hand."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring.cli.root import app
from sparring.trajectories.errors import ConfigError, DataError
from sparring.trajectories.messages import Action, Cause, Outcome, ToolCall, ToolResult
from sparring.trajectories.metrics import Comparison, compare
from sparring.trajectories.store import Store
from sparring.trajectories.trajectory import StopReason, Task, Trajectory, Turn

BOTH, ONLY_A, ONLY_B, NEITHER = (True, True), (True, False), (False, True), (False, False)
FAILED = ToolResult("c", "pay", Outcome.UNAVAILABLE, "down", cause=Cause.INJECTED, fault="unavailable")
GOOD = ToolResult("c", "pay", Outcome.OK, "paid")


def episode(success: bool | None, task: str, agent: str = "a", **more: Any) -> Trajectory:
    more = {"seed": 1, "stop": StopReason.FINISHED, "turns": (Turn(Action("Done.")),), **more}
    id = "/".join(str(part) for part in (agent, task, more.get("faults", ""), more["seed"], more.get("attempt", 0)))
    return Trajectory(
        id=id,
        env=more.pop("env", "test/Env-v0"),
        task=Task("do it", id=task),
        prompt=(),
        success=success,
        agent=agent,
        reward=float(success or 0),
        **more,
    )


def sides(pairs: Sequence[tuple[bool | None, bool | None]], **more: Any) -> tuple[list[Trajectory], list[Trajectory]]:
    """A task for each pair."""
    left = [episode(x, str(i), "a", **more) for i, (x, _) in enumerate(pairs)]
    return left, [episode(y, str(i), "b", **more) for i, (_, y) in enumerate(pairs)]


CLEAR = [BOTH] * 20 + [ONLY_B] * 13 + [ONLY_A] * 2 + [NEITHER] * 13
"""48 tasks: 11/48 = .229; exact McNemar 2 (1 + 15 + 105) / 2^15 = .00739."""


# ---- the verdict -----------------------------------------------------------------------------------------------------


def test_a_difference_by_hand() -> None:
    found = compare(*sides(CLEAR))
    (c,) = found.contrasts
    assert (c.condition, c.paired, c.pairs, c.tasks, c.test) == ("clean", True, 48, 48, "exact McNemar")
    assert (c.both, c.only_b, c.only_a, c.neither) == (20, 13, 2, 13)
    assert (c.a.successes, c.b.successes) == (22, 33)
    assert c.difference == pytest.approx(11 / 48)
    assert c.p == c.p_adjusted == pytest.approx(242 / 32768)
    # h = 2 asin √(33/48) - 2 asin √(22/48) = 1.95519 - 1.48737
    assert c.effect == pytest.approx(0.46782, abs=1e-4)
    assert c.low is not None
    assert c.high is not None
    # The bootstrap's width is near that of the normal interval: ±1.96 √((15/48 - .229²)/48) = ±.1443
    assert (c.low, c.high) == pytest.approx((0.0849, 0.3735), abs=0.03)
    assert c.effect_low is not None
    assert c.effect_high is not None
    assert 0 < c.effect_low < c.effect < c.effect_high
    assert c.winner == "b"
    low, high = (f"{v:.2f}".removeprefix("0") for v in (c.low, c.high))
    assert found.verdict == f"B is better: +.23 [{low}, {high}], p = .007, on 48 paired tasks"
    assert found.warnings == ()


def test_the_worse_one_is_named_too() -> None:
    b, a = sides(CLEAR)
    found = compare(a, b, names=("SFT", "DPO"))
    assert found.verdict.startswith("SFT is better: -.23 [")
    assert found.verdict.endswith("on 48 paired tasks (the difference is DPO minus SFT)")


def test_no_difference_says_what_could_have_been_shown() -> None:
    # δ √48 = 1.96 √ψ + .8416 √(ψ - δ²) with ψ = (12 + 1) / 50: δ = .20
    found = compare(*sides([BOTH] * 30 + [ONLY_B] * 7 + [ONLY_A] * 5 + [NEITHER] * 6))
    (c,) = found.contrasts
    assert c.winner == ""
    assert c.p == pytest.approx(2 * (1 + 12 + 66 + 220 + 495 + 792) / 4096)
    delta = c.detectable
    assert delta is not None
    assert delta * 48**0.5 == pytest.approx(1.959964 * 0.26**0.5 + 0.841621 * (0.26 - delta**2) ** 0.5)
    assert found.verdict.startswith("no difference shown: +.04 [")
    assert found.verdict.endswith("p = .774, on 48 paired tasks; could detect .20 at 80 % power")


def test_few_tasks_show_nothing_however_large_the_difference() -> None:
    # Newcombe: Wilson gives [.5655, 1] for 5 of 5 and [0, .4345] for 0 of 5; 1 - √2 .4345 = .3855
    found = compare(*sides([ONLY_B] * 5))
    assert found.contrasts[0].difference == 1.0
    assert found.verdict == ("no difference shown: +1.00 [.39, 1.00], p = .062, on 5 paired tasks; too few to show any")
    assert found.contrasts[0].interval == "newcombe"
    one = compare(*sides([ONLY_B]))
    assert one.verdict == "no difference shown: +1.00, p = 1, on 1 paired task; too few to show any"


def test_where_all_pairs_are_alike_there_is_still_an_interval() -> None:
    (c,) = compare(*sides([ONLY_B] * 48)).contrasts
    assert (c.interval, c.high, c.winner, c.p) == ("newcombe", 1.0, "b", 2.0**-47)
    assert c.low is not None
    assert c.low > 0.85
    (c,) = compare(*sides([BOTH] * 48)).contrasts
    assert (c.difference, c.winner, c.p) == (0.0, "", 1.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from((BOTH, ONLY_A, ONLY_B, NEITHER)), min_size=1, max_size=25), st.integers(0, 2))
def test_swapping_the_sides_swaps_the_signs(pairs: list[tuple[bool, bool]], seed: int) -> None:
    a, b = sides(pairs)
    there, back = (compare(x, y, seed=seed, resamples=200) for x, y in ((a, b), (b, a)))
    assert there == compare(a, b, seed=seed, resamples=200)
    c, d = there.contrasts[0], back.contrasts[0]
    assert (c.difference, c.p, c.detectable) == (-d.difference, d.p, d.detectable)
    assert c.effect == pytest.approx(-d.effect)
    assert {"a": "b", "b": "a", "": ""}[c.winner] == d.winner
    if c.low is not None:
        assert d.high is not None
        assert c.high is not None
        assert c.low == pytest.approx(-d.high)
        assert c.low - 1e-9 <= c.difference <= c.high + 1e-9


# ---- who meets whom --------------------------------------------------------------------------------------------------


def test_attempts_at_one_task_are_not_independent() -> None:
    a = [episode(False, str(task), "a", seed=seed) for task in range(5) for seed in range(8)]
    b = [episode(True, str(task), "b", seed=seed) for task in range(5) for seed in range(8)]
    (c,) = compare(a, b).contrasts
    assert (c.pairs, c.tasks, c.test) == (40, 5, "exact sign flips by task")
    assert c.p == 2 / 2**5  # and not 2 / 2^40
    assert (c.winner, c.interval) == ("", "")
    assert "on 40 pairs of 5 paired tasks" in c.sentence


def test_several_attempts_give_pass_k() -> None:
    # a: 1 of 2 at both tasks; b: 2 of 2 and 1 of 2, and a third attempt that has no partner
    a = [episode(i == 0, task, "a", seed=i) for task in "xy" for i in range(2)]
    b = [episode(task == "x" or i == 0, task, "b", seed=i) for task in "xy" for i in range(2)]
    found = compare(a, [*b, episode(True, "x", "b", seed=2)])
    (at,), (hat,) = found.pass_at, found.pass_hat
    assert [p.k for p in at] == [2, 2]
    assert [p.value for p in at] == [1.0, 1.0]
    assert [p.value for p in hat] == [0.0, 0.5]
    assert compare(*sides(CLEAR)).pass_at == ()


def test_every_k_has_its_own_pass_k() -> None:
    a, b = (
        [episode(i < wins, task, name, seed=i) for task in "xy" for i in range(4)]
        for name, wins in (("a", 2), ("b", 4))
    )
    found = compare(a, b)
    assert [[p.k for p in both] for both in found.pass_hat] == [[2, 2], [3, 3], [4, 4]]
    assert [both[0].value for both in found.pass_hat] == [1 / 6, 0.0, 0.0]
    assert [both[1].value for both in found.pass_hat] == [1.0, 1.0, 1.0]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, held = random.Random(0), 0
    for _ in range(100):  # tasks differ in difficulty, two attempts each; the truth is .15
        a, b = [], []
        for task in range(40):
            ease = rng.uniform(0.1, 0.7)
            a += [episode(rng.random() < ease, str(task), "a", seed=s) for s in range(2)]
            b += [episode(rng.random() < ease + 0.15, str(task), "b", seed=s) for s in range(2)]
        (c,) = compare(a, b, resamples=300).contrasts
        assert c.low is not None
        assert c.high is not None
        held += c.low <= 0.15 <= c.high
    assert 87 <= held <= 99


def test_pairs_share_the_seed_where_they_can_and_that_is_said_where_not() -> None:
    a = [episode(seed == 1, "t", "a", seed=seed) for seed in (1, 2, 3)]
    b = [episode(seed == 3, "t", "b", seed=seed) for seed in (3, 1, 4)]
    found = compare([*a, episode(True, "u")], [*b, episode(True, "u", "b")])
    (c,) = found.contrasts
    # 1 with 1, 3 with 3, and what is left, 2, with 4
    assert (c.pairs, c.only_a, c.only_b, c.both, c.neither) == (4, 1, 1, 1, 1)
    assert c.other_seeds == 1
    assert "1 of 4 pairs share task and faults but not the sampling seed" in found.warnings


def test_what_has_no_partner_is_left_out_and_counted() -> None:
    a, b = sides(CLEAR)
    a += [episode(True, "alone"), episode(True, "0", seed=9), episode(True, "f", faults="count=1:gone@0")]
    found = compare(a, b)
    assert found.contrasts == compare(*sides(CLEAR)).contrasts
    assert found.left_out == (
        {
            "of a condition that the other side did not play": 1,
            "of a task or fault plan that the other side did not play": 1,
            "of more attempts than the other side made": 1,
        },
        {},
    )


def test_episodes_that_could_not_be_judged_are_in_no_denominator() -> None:
    a, b = sides([*CLEAR, (True, None), (False, None)])
    b[-2:] = [replace(t, stop=StopReason.INFRASTRUCTURE) for t in b[-2:]]
    found = compare(a, b)
    assert found.contrasts[0].pairs == 48
    assert found.contrasts[0].as_failures == pytest.approx(10 / 50)
    assert found.excluded[1].reasons == {"infrastructure failure": 2}
    assert found.left_out == ({"whose partner was not judged": 2}, {})
    assert found.warnings == ()


def test_what_was_excluded_may_have_made_the_difference() -> None:
    a, b = sides([*CLEAR, *[(True, None)] * 9])
    found = compare(a, b)
    assert found.contrasts[0].winner == "b"
    assert found.warnings == (
        "0 of 57 of A and 9 of 57 of B were not judged: what was excluded may not be like the rest",
        "the verdict changes if what was not judged counts as failures (+.04)",
    )


def test_conditions_are_corrected_for_each_other() -> None:
    marginal = [ONLY_B] * 9 + [ONLY_A] * 1 + [BOTH] * 10  # 2 (1 + 10) / 2^10 = .0215
    a, b = sides(marginal)
    c, d = sides(marginal, faults="count=1:unavailable,gone@3")
    e, f = sides([BOTH] * 20, faults="count=2:unavailable,gone@3")
    alone = compare(a, b)
    assert alone.contrasts[0].winner == "b"
    found = compare([*a, *c, *e], [*b, *d, *f])
    assert [x.condition for x in found.contrasts] == ["clean", "count=1:unavailable,gone", "count=2:unavailable,gone"]
    assert [x.p for x in found.contrasts] == pytest.approx([22 / 1024, 22 / 1024, 1.0])
    assert [x.p_adjusted for x in found.contrasts] == pytest.approx([66 / 1024, 66 / 1024, 1.0])
    assert [x.winner for x in found.contrasts] == ["", "", ""]
    assert found.verdict.startswith("no difference shown under clean, count=1:unavailable,gone and count=2:")
    clear, better = sides(CLEAR, faults="count=1@3")
    mixed = compare([*e, *clear], [*f, *better])
    assert mixed.verdict == (
        "B is better under one fault; no difference shown under count=2:unavailable,gone (p corrected for 2 conditions "
        "by Holm's method)"
    )


def test_environments_are_conditions_too() -> None:
    a, b = sides(CLEAR)
    c, d = sides(CLEAR, env="other/Env-v0")
    assert [x.condition for x in compare([*a, *c], [*b, *d]).contrasts] == ["test/Env-v0: clean", "other/Env-v0: clean"]
    assert [x.condition for x in compare([*a, *c], d).contrasts] == ["clean"]


def test_other_fault_seeds_are_not_paired_and_that_is_said() -> None:
    a = [episode(i < 10, str(i), faults="count=1:gone@1") for i in range(24)]
    b = [episode(i < 22, str(i), "b", faults="count=1:gone@2") for i in range(20)]
    found = compare(a, [*b, episode(True, "alone", "b", faults="count=1:gone@2")])
    (c,) = found.contrasts
    assert (c.paired, c.pairs, c.tasks, c.test) == (False, 0, 20, "sampled sign flips by task")
    assert (c.a.successes, c.a.n, c.b.successes) == (10, 20, 20)
    assert c.difference == 0.5
    assert c.p == pytest.approx(2 / 2**10, abs=1e-3)
    assert "on 20 shared tasks whose faults differ (not paired)" in found.verdict
    assert found.warnings == (
        "the sides share no fault plan, only tasks: part of the difference may be luck of the faults",
    )
    assert sum(found.left_out[0].values()) == 4
    assert sum(found.left_out[1].values()) == 1


# ---- what is refused, and warned of ----------------------------------------------------------------------------------


def test_nothing_in_common_is_refused() -> None:
    a, _ = sides(CLEAR)
    for other, reason in (
        ([], "B has no episode"),
        ([replace(t, env="other/Env-v0") for t in a], "A played test/Env-v0 and B other/Env-v0"),
        ([replace(t, task=Task("x", id=f"x{t.task.id}")) for t in a], "A and B share no task: play both with the same"),
        ([replace(t, faults="count=1@0") for t in a], "share tasks and no condition: clean against one fault"),
        ([replace(t, success=None) for t in a], "B: 0 of 48 episodes judged; excluded: 48 not judged"),
    ):
        with pytest.raises(DataError, match=reason):
            compare(a, other)
    with pytest.raises(ConfigError, match="alpha lies between 0 and 1"):
        compare(a, a, alpha=0)


def test_a_mixture_of_agents_and_an_agent_against_itself_are_warned_of() -> None:
    a, b = sides(CLEAR)
    assert compare(a, a).warnings[0] == (
        "all 48 episodes of one side are on the other too: an agent was compared with itself"
    )
    mixed = [replace(t, agent="c", policy_version=3) if i % 2 else t for i, t in enumerate(b)]
    assert compare(a, mixed).warnings == ("B mixes 2 agents: b, c", "B mixes 2 policy versions: 0, 3")
    few = compare(*sides([ONLY_B, BOTH, NEITHER]))
    assert few.warnings == ("3 tasks are few: the interval is narrower than it should be; trust p",)


# ---- the other measures ----------------------------------------------------------------------------------------------


def test_measures_stand_beside_each_other_with_their_denominators() -> None:
    down, paid = (Turn(Action("", (ToolCall("pay", {"n": 1}),)), (result,)) for result in (FAILED, GOOD))
    a = [episode(False, str(i), turns=(down, down, down, Turn(Action("Done.")))) for i in range(6)]
    b = [episode(True, str(i), "b", turns=(down, paid, Turn(Action("Done.")))) for i in range(6)]
    b[0] = replace(b[0], turns=(down, down, *b[0].turns[1:]))
    rows = {row.name: row for row in compare(a, b).measures}
    recovery = rows["fault recovery"]
    assert (recovery.over, recovery.a.value, recovery.b.value, recovery.a.n) == ("failures", 0.0, 1.0, 6)
    assert (recovery.difference, recovery.low) == (1.0, None)  # all tasks alike
    turns = rows["turns"]
    assert turns.a.value == 4.0
    assert turns.b.value == pytest.approx(19 / 6)
    assert turns.low is not None
    assert turns.high is not None
    assert turns.low < -5 / 6 < turns.high
    assert rows["turns to recovery"].a.value is None
    assert rows["turns to recovery"].difference is None
    assert "abstention precision" not in rows  # nobody gave up


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def write(path: Path, episodes: Sequence[Trajectory]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(t.to_json() + b"\n" for t in episodes))


def run(command: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == code, f"{command}: {result.exit_code}\n{result.output}\n{result.exception!r}"
    return result


def fails(command: str) -> str:
    (line,) = run(command, 1).stderr.splitlines()
    assert line.startswith("error: ")
    return str(line).removeprefix("error: ")


def strict(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def test_files_folders_and_stores_give_the_same(here: Path) -> None:
    a, b = sides(CLEAR)
    c, d = sides(CLEAR, faults="count=1@3")
    write(here / "a.jsonl", [*a, *c])
    write(here / "runs/b/clean.jsonl", b)
    write(here / "runs/b/one fault.jsonl", d)
    (here / "runs/b/metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    with Store(here / "store") as store:
        for t in (*a, *b, *c, *d):
            store.append(t)
    plain = run("compare a.jsonl runs/b")
    assert plain.stdout.splitlines()[-1] == (
        "verdict: b is better under clean and one fault (p corrected for 2 conditions by Holm's method)"
    )
    assert "a: 96 of 96 episodes judged" in plain.stdout
    assert max(map(len, plain.stdout.split("clean: ")[0].splitlines())) <= 80
    shown = [line.split() for line in plain.stdout.splitlines()]
    first = shown.index(next(words for words in shown if words[:1] == ["clean"]))
    assert shown[first][1:3] == [".46", ".69"]  # 22 and 33 of 48
    assert [word[0] for word in shown[first + 1][::2]] == ["[", "[", "["]  # whole intervals, none of them cut in two
    assert not re.search(r"(?<!\d)0\.\d", plain.stdout)  # as in the verdict: .23, and nowhere 0.23
    files = strict(run("compare a.jsonl runs/b --json").stdout)
    stored = strict(run("compare store store --a a --b b --json").stdout)
    assert files == stored
    assert files["names"] == ["a", "b"]
    expected: Comparison = compare([*a, *c], [*b, *d], names=("a", "b"))
    assert files["contrasts"][1]["p_adjusted"] == expected.contrasts[1].p_adjusted
    assert files["verdict"] == expected.verdict
    assert (here / "store/live").is_dir()  # read, and not sealed


def test_a_side_that_holds_several_agents_needs_a_choice(here: Path) -> None:
    a, b = sides(CLEAR)
    write(here / "runs/eval/all.jsonl", [*a, *b])
    assert fails("compare runs/eval runs/eval") == ("runs/eval holds episodes of 2 agents, choose one by --a: a, b")
    assert "choose one by --b" in fails("compare runs/eval runs/eval --a a")
    assert fails("compare runs/eval runs/eval --a a --b orcale") == "unknown agent 'orcale'. Known: a, b."
    assert "b is better: +.23" in run("compare runs/eval runs/eval --a a --b b").stdout
    assert "note: all 48 episodes of one side" in run("compare runs/eval runs/eval --a a --b a").stdout


def test_what_cannot_be_read_is_said_in_one_line(here: Path) -> None:
    a, _ = sides(CLEAR)
    write(here / "a.jsonl", a)
    (here / "empty.jsonl").write_bytes(b"")
    (here / "noise.jsonl").write_bytes(bytes(range(256)))
    (here / "number.jsonl").write_bytes(b"12\n")
    (here / "folder").mkdir()
    write(here / "recipe/05/SFT/clean.jsonl", a)
    (here / "broken").mkdir()
    (here / "broken/manifest.json").write_text("{")
    Store(here / "nothing").close()
    assert fails("compare a.jsonl none.jsonl").startswith("there is nothing at none.jsonl: expected a store")
    assert fails("compare a.jsonl empty.jsonl") == "empty.jsonl: no episode in it"
    assert fails("compare noise.jsonl a.jsonl").startswith("noise.jsonl, line 1: not a trajectory")
    assert fails("compare number.jsonl a.jsonl").startswith("number.jsonl, line 1: not a trajectory")
    assert fails("compare folder a.jsonl") == "folder holds no episodes (.jsonl), and is no store"
    assert fails("compare recipe a.jsonl").endswith("is no store; below it there are recipe/05/SFT")
    assert "broken" in fails("compare broken a.jsonl")
    assert fails("compare nothing a.jsonl") == "nothing: no episode in it"
    write(here / "other.jsonl", [replace(t, task=Task("x", id=f"x{t.task.id}")) for t in a])
    assert fails("compare a.jsonl other.jsonl").startswith("a and other share no task")
    run("compare", 2)


def test_hostile_names_do_not_reach_the_terminal_and_import_nothing(here: Path) -> None:
    evil = "\x1b[2J\u202e[bold]"
    (here / "trap.py").write_text("raise SystemExit('imported')")
    for name, side in zip("ab", sides(CLEAR, faults=evil, env="trap:Env"), strict=True):
        write(here / f"{name}.jsonl", [replace(t, agent=evil + name) for t in side])
    shown = run("compare a.jsonl b.jsonl").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]" in shown
    assert "b is better" in shown
    assert strict(run("compare a.jsonl b.jsonl --json").stdout)["contrasts"][0]["condition"] == evil


def test_two_files_of_one_name_are_told_apart(here: Path) -> None:
    a, b = sides(CLEAR)
    write(here / "x/eval.jsonl", a)
    write(here / "y/eval.jsonl", b)
    assert "y/eval.jsonl is better" in run("compare x/eval.jsonl y/eval.jsonl").stdout


def test_groups_show_how_reliable_an_agent_is(here: Path) -> None:
    faults = "count=1:unavailable,session_expired"
    for name in ("blind-retry", "expert"):
        run(f"rollout orders --agent {name} --n 8 --group 2 --faults {faults} --out {name}.jsonl")
    shown = run("compare blind-retry.jsonl expert.jsonl").stdout
    assert "expert 1.00" in next(line for line in shown.splitlines() if line.startswith("pass^2: "))
    assert "on 16 pairs of 8 paired tasks" in shown


def test_real_agents(here: Path) -> None:
    run("evaluate orders --agent give-up --agent expert --n 12 --out runs/eval")
    found = run("compare runs/eval/give-up.jsonl runs/eval/expert.jsonl")
    assert "expert is better under one fault; no difference shown under clean" in found.stdout
    told = strict(run("compare runs/eval runs/eval --a give-up --b expert --json").stdout)
    rows = {row["name"]: row for row in told["measures"]}
    assert rows["recovery"]["b"]["value"] == 1.0
    assert rows["right strategy"]["b"]["value"] > rows["right strategy"]["a"]["value"]
    assert rows["premature give-up"]["a"]["value"] > 0


def test_an_import_without_outcomes_shows_no_figures_of_failure(here: Path) -> None:
    """Neither "failed calls 0.00" nor "ok 100.0": a dash, and a note of why."""
    guess = replace(GOOD, inferred=True, took_effect=None)
    for agent in ("a", "b"):
        turns = (Turn(Action("", (ToolCall("pay", {}, id="c"),)), (guess,)), Turn(Action("Done.")))
        held = [replace(episode(i % 2 == 0, str(i), agent), turns=turns, meta={"from": "openai"}) for i in range(8)]
        (here / f"{agent}.jsonl").write_bytes(b"".join(t.to_json() + b"\n" for t in held))
    alone = run("compare a.jsonl").output
    assert "failed calls" not in alone
    assert "note: the record does not say how 8 of 8 calls ended" in alone
    both = run("compare a.jsonl b.jsonl").output
    assert "failed calls" not in both
    assert "note: a: the record does not say how 8 of 8 calls ended" in both
    found = json.loads(run("compare a.jsonl --json").output)
    assert found["measures"]["failed calls"]["value"] is None
    assert found["notes"]
    page = run("report a.jsonl --out a.html")
    assert page.exit_code == 0
    shown = (here / "a.html").read_text()
    assert "Not measured" in shown
    assert "calls not recorded" in shown
    assert ">100.0<" not in shown
    assert "ok (inferred)" in run("show a.jsonl").output
