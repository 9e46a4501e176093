"""The recipe end to end on a tiny model: what it makes, what it reuses, and that killing it changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.envs import make, task_set
from sparring.trainers import OBJECTIVES, Mixture
from sparring.trainers import recipe as recipe_module
from sparring.trainers.recipe import Recipe, RecipeResult, recipes, run_recipe
from sparring.trainers.recipe_report import write_recipe_report
from sparring.trainers.run import Interrupted
from sparring.trainers.stage import Done
from sparring.trainers.stages.train import Train
from sparring.trajectories import ConfigError, DataError, EnvError, SparringError, StopReason, Trajectory, UnknownName
from sparring.trajectories.locks import only_process_in
from sparring.trajectories.plain import from_plain
from sparring.trajectories.trajectory import dump_jsonl

ARMS = ["do-nothing", "expert", "SFT clean", "SFT", "DPO", "GRPO"]
STAGES = [
    "do-nothing", "expert", "clean", "recoveries", "sft-clean", "evaluate-sft-clean", "sft", "evaluate-sft",
    "pairs", "dpo", "evaluate-dpo", "grpo", "evaluate-grpo",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Log:
    """A watcher that remembers, and that may stop the recipe by a call of `at`."""

    at: Callable[[str, int], None] | None = None
    """(stage, number of its progress events so far)"""
    stages: list[tuple[str, int, int, bool]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    """The stage of each progress event."""
    said: list[str] = field(default_factory=list)

    def stage(self, title: str, index: int, of: int, *, reused: bool) -> None:
        self.stages.append((title, index, of, reused))

    def progress(self, done: int, total: int, note: str = "", seconds_left: float | None = None) -> None:
        assert 0 <= done <= total
        title = self.stages[-1][0]
        self.events.append(title)
        if self.at is not None:
            self.at(title, self.events.count(title))

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def library(repository: Path) -> str:
    return f"{repository}/examples/library.py:Library"


@dataclass
class Whole:
    folder: Path
    result: RecipeResult
    log: Log


@pytest.fixture(scope="module")
def whole(library: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One run that nothing interrupted."""
    folder, log = tmp_path_factory.mktemp("recipe") / "whole", Log()
    return Whole(folder, run_recipe(library, "smoke", folder=folder, watcher=log), log)


def table(result: RecipeResult) -> dict[str, dict[str, list[bool | None]]]:
    return {arm.name: {c: [t.success for t in played] for c, played in arm.conditions.items()} for arm in result.arms}


def record(folder: Path) -> dict[str, bytes]:
    """Every trajectory, metric and pair of a recipe's folder, without the times that the clock put there."""
    out = {}
    for path in sorted([*folder.rglob("*.jsonl"), *folder.rglob("pairs.json")]):
        text = re.sub(rb'"latency_s":[^,}]+', b'"latency_s":0', path.read_bytes())
        out[str(path.relative_to(folder))] = re.sub(rb'"([a-z]+_)?seconds": [^,}]+', b'"seconds": 0', text)
    return out


def assert_same(folder: Path, other: Path) -> None:
    got, expected = record(folder), record(other)
    assert got.keys() == expected.keys()
    assert [name for name in expected if got[name] != expected[name]] == []
    models = sorted(path.relative_to(other) for path in other.rglob("model.safetensors"))
    assert len(models) == 4
    for name in models:
        weights, wanted = load_file(folder / name), load_file(other / name)
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[key], wanted[key]) for key in wanted), name


def test_it_ends_with_every_arm_on_the_same_tasks(whole: Whole) -> None:
    arms = whole.result.arms
    assert [arm.name for arm in arms] == ARMS
    assert whole.log.stages == [(title, i, len(STAGES), False) for i, title in enumerate(STAGES, 1)]
    for condition in ("clean", "one fault", "two faults"):
        assert len({tuple((t.task.id, t.faults, t.seed) for t in arm.conditions[condition]) for arm in arms}) == 1
    for arm in arms:
        assert list(arm.conditions) == ["clean", "one fault", "two faults"]
        assert [len(played) for played in arm.conditions.values()] == [6, 6, 4]
        assert all(t.judged for played in arm.conditions.values() for t in played)
        assert not any(t.faults for t in arm.conditions["clean"])
        assert all(t.faults.startswith("count=1:") for t in arm.conditions["one fault"])
    by_name = {arm.name: arm for arm in arms}
    for condition in ("clean", "one fault", "two faults"):
        assert all(t.success for t in by_name["expert"].conditions[condition])
        assert not any(t.success for t in by_name["do-nothing"].conditions[condition])
    assert whole.result.baseline == "SFT clean"
    page = whole.result.report.read_text()
    assert all(f">{name}<" in page for name in ARMS)


def test_training_goes_where_it_should(whole: Whole) -> None:
    def rows(stage: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (whole.folder / stage / "metrics.jsonl").read_text().splitlines()]

    def left(stage: str) -> list[Trajectory]:
        return Done(stage, whole.folder / stage, "").read()

    assert [len(rows(s)) for s in ("sft-clean", "sft", "dpo", "grpo")] == [6, 6, 2, 2]
    assert rows("sft")[-1]["nll"] < 0.8 * rows("sft")[0]["nll"]
    assert rows("dpo")[0]["margin"] == pytest.approx(0, abs=1e-2)
    assert rows("dpo")[-1]["margin"] > 0
    assert all("replay_nll" in row for row in [*rows("dpo"), *rows("grpo")])
    train = {t.task.id for t in left("clean")}
    test = {t.task.id for arm in whole.result.arms for played in arm.conditions.values() for t in played}
    assert train.isdisjoint(test)
    demonstrations = left("recoveries")
    assert all(t.success for t in demonstrations)
    assert any(t.faults_hit for t in demonstrations)
    assert not any(t.faults for t in left("clean"))
    stops = {t.stop for t in whole.result.arms[2].conditions["clean"]}
    assert stops <= {StopReason.TOKEN_LIMIT, StopReason.TURN_LIMIT, StopReason.FINISHED}


def test_a_second_call_reuses_everything(whole: Whole, library: str) -> None:
    before = record(whole.folder)
    stamps = {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*") if p.is_file() and p.parent != whole.folder}
    log = Log()
    again = run_recipe(library, "smoke", folder=whole.folder, watcher=log)
    assert log.stages == [(title, i, len(STAGES), True) for i, title in enumerate(STAGES, 1)]
    assert (log.events, log.said) == ([], [])
    assert table(again) == table(whole.result)
    assert record(whole.folder) == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert again.seconds < 5


def own_recipe(folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """The recipe that comes with Sparring, changed, as a file of one's own."""
    source = Path(recipe_module.__file__).parent / "recipes" / "recover.yaml"
    data = yaml.safe_load(source.read_text())
    change(data)
    path = folder / "recover.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return str(path)


def test_a_changed_setting_redoes_what_depends_on_it(whole: Whole, library: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole.folder, folder)

    def change(data: dict[str, Any]) -> None:
        data["profiles"]["smoke"]["stages"]["grpo"]["settings"]["steps"] = 1

    log = Log()
    result = run_recipe(library, "smoke", recipe=own_recipe(tmp_path, change), folder=folder, watcher=log)
    assert [title for title, *_, reused in log.stages if not reused] == ["grpo", "evaluate-grpo"]
    assert len((folder / "grpo" / "metrics.jsonl").read_text().splitlines()) == 1
    same = {name: played for name, played in table(result).items() if name != "GRPO"}
    assert same == {name: played for name, played in table(whole.result).items() if name != "GRPO"}


def test_a_stage_that_is_added_early_redoes_no_other(whole: Whole, library: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole.folder, folder)

    def change(data: dict[str, Any]) -> None:
        give_up = {"kind": "evaluate", "agent": "give-up", "arm": "give-up"}
        data["stages"] = {"give-up": give_up, **data["stages"]}

    log = Log()
    result = run_recipe(library, "smoke", recipe=own_recipe(tmp_path, change), folder=folder, watcher=log)
    assert [title for title, *_, reused in log.stages if not reused] == ["give-up"]
    assert [arm.name for arm in result.arms] == ["give-up", *ARMS]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: d["stages"]["dpo"].update(model="sfd"),
            "builds on 'sfd', which does not come before it: base, do-no",
        ),
        (
            lambda d: d["stages"]["dpo"].update(modle="sft"),
            "unknown setting of recipe .*, stage dpo 'modle'. Did you mean",
        ),
        (lambda d: d["stages"]["dpo"].update(kind="trian"), "unknown kind of stage 'trian'. Did you mean 'train'"),
        (lambda d: d["stages"].update(more="train"), "stage more: expected a mapping with a kind"),
        (lambda d: d["stages"]["clean"].update(shift="many"), "stage clean: shift: .*got 'many'"),
        (
            lambda d: d["stages"]["expert"].update(agent="exprt"),
            "agent of expert is one of expert, gold, do-nothing",
        ),
        (lambda d: d["stages"]["clean"].update(agent="random"), "who demonstrates is expert or gold, got 'random'"),
        (lambda d: d["stages"]["sft"].update(validation="cleen"), "builds on 'cleen', which does not come before it"),
        (lambda d: d.update(baselin="SFT"), "unknown setting of recipe .* 'baselin'. Did you mean 'baseline'"),
    ],
)
def test_a_wrong_recipe_is_said_before_anything_runs(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SparringError, match=said):
        Recipe.load(own_recipe(tmp_path, change), "smoke")


@pytest.mark.parametrize("name", recipes())
@pytest.mark.parametrize("profile", ["smoke", "quick", "full"])
def test_every_recipe_can_be_read(name: str, profile: str) -> None:
    """Each stage's settings fit its objective, without a model."""
    loaded = Recipe.load(name, profile)
    trained = [stage for stage in loaded.stages.values() if isinstance(stage, Train)]
    assert trained
    for stage in trained:
        kind = OBJECTIVES.get(stage.objective)
        given = {"mixture": Mixture.of("echo")} if kind.needs == "mixture" else {}
        from_plain(kind.Settings, {**given, **stage.settings})


GOLD = """
class Recorded(Library):
    # Has recorded gold next to its expert, as a foreign suite has.
    tool_rules = ToolRules()

    def gold(self, task):
        book = self.state["books"][task.data["title"]]
        lend = ("lend", {"book_id": book, "member": task.data["member"]})
        return [("find_book", {"title": task.data["title"]}), lend, "Lent, as recorded."]
"""


def test_recorded_gold_demonstrates_and_a_file_validates(library: str, tmp_path: Path) -> None:
    source = Path(library.partition(":")[0]).read_text().replace("mine/Library-v0", "mine/Recorded-v0")
    (tmp_path / "recorded.py").write_text(f"from sparring.envs import ToolRules\n{source}\n{GOLD}")
    env = f"{tmp_path / 'recorded.py'}:Recorded"
    held_out = tmp_path / "held-out.jsonl"
    tasks = task_set(make(env), "validation", 3)
    held_out.write_bytes(dump_jsonl(rollout(env, scripted("gold"), [EpisodeSpec(task) for task in tasks])))

    def change(data: dict[str, Any]) -> None:
        train: dict[str, Any] = {
            "kind": "train",
            "objective": "sft",
            "episodes": ["clean"],
            "validation": str(held_out),
        }
        train["settings"] = {"steps": 2, "batch": 2, "validate_every": 1, "optim": {"lr": 1e-3}}
        data["faults"] = ["unavailable"]
        data["stages"] = {"clean": {"kind": "demonstrations", "n": 4, "agent": "gold"}, "sft": train}
        data["profiles"] = {"smoke": {"model": "tiny-qwen3"}}

    def go() -> list[str]:
        log = Log()
        run_recipe(env, "smoke", recipe=own_recipe(tmp_path, change), folder=tmp_path / "r", watcher=log)
        return [title for title, *_, reused in log.stages if not reused]

    assert go() == ["clean", "sft"]
    shown = [Trajectory.from_json(line) for line in (tmp_path / "r/clean/episodes.jsonl").read_bytes().splitlines()]
    assert {t.turns[-1].action.content for t in shown} == {"Lent, as recorded."}
    rows = [json.loads(line) for line in (tmp_path / "r/sft/metrics.jsonl").read_text().splitlines()]
    assert all(row["held_out_nll"] > 0 for row in rows)
    assert go() == []
    held_out.write_bytes(b"\n".join(held_out.read_bytes().splitlines()[:2]) + b"\n")
    assert go() == ["sft"]  # other episodes, another measurement
    held_out.unlink()
    with pytest.raises(ConfigError, match=r"stage sft: cannot read .*held-out\.jsonl: No such file"):
        go()


CHILD = """
import os, signal, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
from sparring.trainers.recipe import run_recipe

env, folder, stage, nth = sys.argv[1:]

class Killer:
    title, seen = "", 0

    def stage(self, title, index, of, *, reused):
        self.title, self.seen = title, 0
        print(title, "reused" if reused else "done", flush=True)

    def progress(self, done, total, note="", seconds_left=None):
        self.seen += 1
        if (self.title, self.seen) == (stage, int(nth)):
            os.kill(os.getpid(), signal.SIGKILL)

    def say(self, text): ...

run_recipe(env, "smoke", folder=Path(folder), watcher=Killer())
"""


def killed(env: str, folder: Path, stage: str, nth: int) -> list[str]:
    """Runs the recipe in a process of its own, which kills itself at the nth progress event of a stage. Returns the
    stages that it reused."""
    root = Path(os.path.realpath(__file__)).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, env, str(folder), stage, str(nth)]
    died = subprocess.run(command, env=environment, timeout=170, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    seen = [line.split() for line in died.stdout.splitlines()]
    assert seen[-1] == [stage, "done"]
    return [title for title, how in seen if how == "reused"]


def test_killed_in_any_stage_it_ends_with_the_same_table(whole: Whole, library: str, tmp_path: Path) -> None:
    """kill -9 in SFT behind a checkpoint, in an evaluation, and in GRPO; Ctrl-C in DPO. What goes on
    in the end has the trajectories, metrics and weights of a run that nothing stopped."""
    folder = tmp_path / "killed"
    assert killed(library, folder, "sft-clean", 5) == []
    checkpoints = folder / "sft-clean" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-000003"]
    assert killed(library, folder, "evaluate-sft-clean", 6 + 2) == STAGES[:4]
    condition = folder / "evaluate-sft-clean" / "SFT clean" / "clean.jsonl"
    assert not condition.exists()  # an evaluation counts as a whole: other batches would give other last bits

    def interrupt(title: str, seen: int) -> None:
        if (title, seen) == ("dpo", 1):
            raise KeyboardInterrupt

    log = Log(interrupt)
    with pytest.raises(Interrupted, match=r"stopped after step 1 of 2; saved in .*dpo"):
        run_recipe(library, "smoke", folder=folder, watcher=log)
    assert [title for title, *_, reused in log.stages if reused] == STAGES[:5]
    played = condition.stat().st_mtime_ns

    assert killed(library, folder, "grpo", 20) == STAGES[:9]
    log = Log()
    result = run_recipe(library, "smoke", folder=folder, watcher=log)
    assert [title for title, *_, reused in log.stages if not reused] == STAGES[11:]
    assert condition.stat().st_mtime_ns == played  # what was finished is not played again
    assert table(result) == table(whole.result)
    assert_same(folder, whole.folder)


def test_another_seed_is_another_run(whole: Whole, library: str, tmp_path: Path) -> None:
    class Enough(Exception): ...

    def stop(title: str, seen: int) -> None:
        if title == "clean":
            raise Enough

    with pytest.raises(Enough):
        run_recipe(library, "smoke", folder=tmp_path, seed=1, watcher=Log(stop))
    for name in ("clean", "one fault"):
        path = f"expert/expert/{name}.jsonl"
        assert record(tmp_path)[path] != record(whole.folder)[path]


def test_what_cannot_be_meant_is_said_at_once(library: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'smoke'"):
        run_recipe(library, "smok", folder=tmp_path, watcher=Log())
    with pytest.raises(UnknownName, match="environment"):
        run_recipe("ordres", "smoke", folder=tmp_path, watcher=Log())
    with pytest.raises(DataError, match="no recipe's folder"):
        write_recipe_report(tmp_path / "nowhere")
    (tmp_path / "inexpert.py").write_text(
        "from sparring import Task, ToolEnv, tool\n"
        "class Inexpert(ToolEnv):\n"
        '    """Has no solve."""\n'
        "    def tasks(self, split, rng):\n        yield Task('Go.')\n"
        "    def setup(self, task, rng):\n        self.state = {}\n"
        "    @tool\n    def go(self) -> str:\n        '''Go.'''\n        return 'ok'\n"
        "    def success(self, task):\n        return True\n"
    )
    with pytest.raises(EnvError, match="has no solve"):
        run_recipe(f"{tmp_path}/inexpert.py:Inexpert", "smoke", folder=tmp_path / "r", watcher=Log())


def test_an_environment_that_no_fault_can_strike_is_refused(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["faults"] = ["tool_removed", "stale_id"]  # echo has one tool, and no ids

    with pytest.raises(ConfigError, match="strikes half of the episodes of echo"):
        run_recipe("echo", "smoke", recipe=own_recipe(tmp_path, change), folder=tmp_path / "r", watcher=Log())


@pytest.mark.slow
def test_orders_with_a_held_out_environment(tmp_path: Path) -> None:
    first = run_recipe("orders", "smoke", folder=tmp_path / "a", watcher=Log())
    for arm in first.arms:
        assert list(arm.conditions) == ["clean", "one fault", "two faults", "held-out"]
        assert len(arm.conditions["held-out"]) == 4
        assert {t.env for t in arm.conditions["held-out"]} == {"sparring/Calendar-v0"}
    assert killed("orders", tmp_path / "b", "evaluate-sft", 9) == []
    second = run_recipe("orders", "smoke", folder=tmp_path / "b", watcher=Log())
    assert table(second) == table(first)
    assert_same(tmp_path / "b", tmp_path / "a")
    other = run_recipe("orders", "smoke", folder=tmp_path / "a", watcher=(log := Log()))
    assert all(reused for *_, reused in log.stages)
    assert table(other) == table(first)


def test_a_folder_of_another_recipe_is_not_replaced(whole: Whole, library: str) -> None:
    before = record(whole.folder)
    for other in ({"seed": 5}, {"model": "tiny-llama"}):
        with pytest.raises(ConfigError, match=r"holds the recipe with (seed 0, not 5|model 'tiny-qwen3', not 'tiny-l)"):
            run_recipe(library, "smoke", folder=whole.folder, watcher=Log(), **other)
    assert record(whole.folder) == before


def test_one_process_at_a_time(tmp_path: Path, library: str) -> None:
    holds = f"""
import sys, time
from pathlib import Path
from sparring.trajectories.locks import only_process_in
with only_process_in(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is at work"):
            run_recipe(library, "smoke", folder=tmp_path, watcher=Log())
    finally:
        other.kill()
        other.communicate()
    with only_process_in(tmp_path):  # one that was killed holds nothing
        pass


def test_an_expert_that_fails_is_said_to_fail(tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(
        "from sparring.envs.orders import Orders\n"
        "class Never(Orders):\n"
        "    def success(self, task):\n"
        "        return False\n"
    )
    with pytest.raises(ConfigError, match="without any fault, the expert fails 12 of 12 tasks"):
        run_recipe(f"{tmp_path}/never.py:Never", "smoke", folder=tmp_path / "run", watcher=Log())
