"""`sparring evaluate`: several agents in several environments, stopped and taken up again, and the leaderboard."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sparring import Trajectory
from sparring.cli.root import app
from sparring.trajectories import Task
from sparring.trajectories.metrics import PLAYED_S, leaderboard, paired_difference, wilson
from sparring.trajectories.trajectory import StopReason


def run(command: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == code, f"{command}: {done.output} {done.exception}"
    return done


def told(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


# ---- the leaderboard -------------------------------------------------------------------------------------------------


def ended(success: bool | None, task: int, *, faults: str = "", seed: int = 0, seconds: float = 0.0) -> Trajectory:
    return Trajectory(
        id=f"{task}-{seed}",
        env="test/Env-v0",
        task=Task("do it", id=str(task)),
        prompt=(),
        turns=(),
        stop=StopReason.INFRASTRUCTURE if success is None else StopReason.FINISHED,
        success=success,
        faults=faults,
        seed=seed,
        meta={PLAYED_S: seconds} if seconds else {},
    )


def test_ranks_by_hand() -> None:
    """8 tasks: all, half and none. Raw p: 2/2^8, 2/2^4, 2/2^4; by Holm for three: 3, 2 and 1 times, never falling."""
    found = leaderboard(
        {
            "none": [ended(False, i) for i in range(8)],
            "all": [ended(True, i, seconds=0.5) for i in range(8)],
            "half": [ended(i < 4, i) for i in range(8)],
        }
    )
    assert [(s.name, s.score.value, s.best, s.worst, s.p) for s in found] == [
        ("all", 1.0, 1, 2, None),
        ("half", 0.5, 1, 3, 0.25),
        ("none", 0.0, 2, 3, 3 * 2 / 256),
    ]
    assert (found[0].score.low, found[0].score.high) == wilson(8, 8)
    assert found[1].score.low is not None
    assert 0.0 < found[1].score.low < 0.5
    assert [s.seconds for s in found] == [4.0, None, None]


def test_attempts_at_one_task_are_no_evidence() -> None:
    good, bad = ([ended(success, 0, seed=i) for i in range(20)] for success in (True, False))
    first, second = leaderboard({"good": good, "bad": bad})
    assert (first.best, first.worst, second.p, second.pairs) == (1, 2, 1.0, 20)
    assert first.score.low == wilson(1, 1)[0]  # one task, however often
    assert first.pass_hat is not None
    assert (first.attempts, first.pass_hat.k, first.pass_hat.value) == (20, 20, 1.0)
    found = paired_difference(good, bad, resamples=10)
    assert (found.mcnemar.p, found.p) == (2 / 2**20, 1.0)


def test_each_condition_counts_the_same() -> None:
    """9 tasks without faults, all good; 1 of 3 under one, with whatever seed: (1 + 1/3) / 2."""
    played = [ended(True, i) for i in range(9)] + [ended(i == 0, i, faults=f"count=1@{i}") for i in range(3)]
    assert leaderboard({"a": played})[0].score.value == pytest.approx(2 / 3)


def test_what_was_not_judged_is_in_no_score_and_no_pair() -> None:
    found = leaderboard(
        {
            "unreachable": [ended(None, i) for i in range(8)],
            "shaky": [ended(None if i < 2 else True, i) for i in range(8)],
            "poor": [ended(i < 2, i) for i in range(8)],
        }
    )
    assert [(s.name, s.score.value, s.judged, s.excluded) for s in found] == [
        ("shaky", 1.0, 6, 2),
        ("poor", 0.25, 8, 0),
        ("unreachable", None, 0, 8),
    ]
    assert [(s.p, s.pairs) for s in found] == [(None, 0), (2 / 2**6, 6), (None, 0)]
    assert (found[2].best, found[2].worst) == (1, 3)  # nothing is known of it


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_larger_call_plays_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("evaluate orders --agent expert --faults clean --n 2 --out eval")
    before = Path("eval/expert.jsonl").read_bytes()
    more = "evaluate --env orders --env echo --agent expert --agent random --faults clean --faults count=1 --n 3 --k 2"
    shown = run(f"{more} --seeds 0,1 --out eval").stdout
    after = Path("eval/expert.jsonl").read_bytes()
    assert after.startswith(before)
    rows = told(Path("eval/expert.jsonl"))
    keys = {(r["env"], r["task"]["id"], r["faults"], r["seed"]) for r in rows}
    assert len(rows) == len(keys) == 2 * 2 * 3 * 2 * 2  # environments, conditions, tasks, attempts, seeds
    assert sorted(r["attempt"] for r in rows) == [0] * 24 + [1] * 24
    assert all(r["meta"][PLAYED_S] >= 0 for r in rows)
    places = [line.split()[:2] for line in shown.splitlines() if line.strip().startswith(("expert", "random", "do-no"))]
    assert places[0] == ["expert", "1"]
    assert {place[1] for place in places[1:3]} == {"2-3"}
    assert [line for line in shown.splitlines() if line.strip() in ("orders", "echo")]
    assert yaml.safe_load(Path("eval/run.yaml").read_text())["env"] == ["orders", "echo"]
    again = run("evaluate --config eval/run.yaml")
    assert "48 episodes of 48 were in eval/expert.jsonl already" in again.stderr
    assert Path("eval/expert.jsonl").read_bytes() == after
    # the same from its files
    both = {s["name"]: s for s in json.loads(run("compare eval --json").stdout)}
    assert (both["expert"]["best"], both["expert"]["worst"], both["expert"]["score"]["value"]) == (1, 1, 1.0)
    assert "do-nothing" in run("compare eval").stdout


def test_environments_as_arguments_and_as_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run("evaluate orders --env echo --agent expert --print-config").stdout
    assert yaml.safe_load(printed)["env"] == ["orders", "echo"]
    Path("run.yaml").write_text(printed)
    assert yaml.safe_load(run("evaluate --config run.yaml --print-config").stdout)["env"] == ["orders", "echo"]
    assert yaml.safe_load(run("evaluate math --config run.yaml --print-config").stdout)["env"] == ["math"]
    assert "name an environment" in run("evaluate --agent expert", 1).output
    assert "no seed" in run("evaluate echo --agent expert --seeds ''", 1).output


# ---- killed ----------------------------------------------------------------------------------------------------------


def killed_and_resumed(folder: Path, repository: Path, n: int, k: int, kills: int) -> int:
    """Plays `orders`, killed so often at random points; checks that all is there once. -> episodes."""
    command = f"evaluate orders --agent random --agent expert --n {n} --k {k} --seeds 0,1"
    straight, broken = folder / "straight", folder / "broken"
    chance = random.Random(n)
    rows = n * k * 2 * 2  # conditions, seeds
    for kill in range(kills):
        at = chance.randrange(rows * 3 * kill // kills, rows * 3 * (kill + 1) // kills)
        child = subprocess.Popen(
            [sys.executable, "-m", "sparring", *shlex.split(command), "--out", str(broken)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(repository / "src")},
        )
        try:
            while child.poll() is None and written(broken) < at:
                time.sleep(0.001)
            assert child.poll() is None, "it ended before it was killed"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    left = {file.name: written(broken, file.name) for file in broken.glob("*.jsonl")}
    assert 0 < sum(left.values()) < 3 * rows, left
    run(f"{command} --out {broken}")
    run(f"{command} --out {straight}")
    for file in ("random.jsonl", "expert.jsonl", "do-nothing.jsonl"):
        found = [Trajectory.from_json(line) for line in (broken / file).read_bytes().splitlines()]
        wanted = [Trajectory.from_json(line) for line in (straight / file).read_bytes().splitlines()]
        keyed = [{(t.env, t.task.id, t.faults, t.seed): replace(t, meta={}) for t in ts} for ts in (found, wanted)]
        assert len(found) == len(keyed[0]) == rows
        assert keyed[0] == keyed[1]
    return 3 * rows


def written(folder: Path, name: str = "*.jsonl") -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob(name))


def test_killed_and_resumed_each_episode_is_there_once(repository: Path, tmp_path: Path) -> None:
    assert killed_and_resumed(tmp_path, repository, 12, 2, 1) == 288


@pytest.mark.slow
def test_two_thousand_episodes_killed_three_times(repository: Path, tmp_path: Path) -> None:
    assert killed_and_resumed(tmp_path, repository, 84, 2, 3) == 2016
