"""The command line as a user meets it: examples, exit codes, errors in one line, Ctrl-C, progress in a log file."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from sparring import Trajectory
from sparring.app.console import LiveWatch, PlainWatch, duration
from sparring.cli.exits import end, resume_command
from sparring.cli.root import app
from sparring.tools import FaultPlan
from sparring.trajectories.errors import DataError
from sparring.trajectories.locks import only_writer_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and wait for each other where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that tests start
        yield
    torch.set_num_threads(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; modules that a command imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def run(command: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == code, f"{command}: {result.exit_code}\n{result.output}\n{result.exception!r}"
    return result


def fails(command: str) -> str:
    """The one line that a command ends with when it fails."""
    errors: list[str] = run(command, 1).stderr.splitlines()
    assert errors[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in errors) == 1
    assert "Traceback" not in "\n".join(errors)
    return errors[-1].removeprefix("error: ")


def start(
    *arguments: str, code: str = "from sparring.cli.root import main; main()", **options: Any
) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait_for(file: Path, lines: int = 0) -> None:
    """Until a running command has written it, with so many lines; a minute at most."""
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_bytes().count(b"\n") >= lines) and time.monotonic() < deadline:
        time.sleep(0.01)


def read(path: Path) -> list[Trajectory]:
    return [Trajectory.from_json(line) for line in path.read_bytes().splitlines()]


# ---- help and examples -----------------------------------------------------------------------------------------------


def test_the_list_of_commands_reads_well_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("", "train", "model"):
        text = run(f"{command} --help").output
        assert "..." not in text.split("Commands:")[1], "a first sentence that is cut"
        assert max(len(line) for line in text.splitlines()) <= 80


def examples() -> list[str]:
    """Every example of every --help, in an order in which each finds what it needs."""
    from typer.main import get_command

    found: list[str] = []

    def walk(command: Any, path: list[str]) -> None:
        text = run(shlex.join([*path, "--help"])).output.split("Example:")[1].split("\n\n")[0]
        found.extend(line.strip() for line in text.splitlines() if line.strip().startswith("sparring "))
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*path, name])

    walk(get_command(app), [])
    needs = ("model", "envs", "check", "new", "watch", "rollout orders --agent", "rollout orders --model smollm2",
             "train sft", "rollout", "train", "curate", "evaluate", "compare", "show", "report", "export",
             "store import", "store query", "store", "import", "replay", "view", "label", "mcp", "recipe")  # fmt: skip
    return sorted(dict.fromkeys(found), key=lambda line: next(i for i, n in enumerate(needs) if line[9:].startswith(n)))


def test_a_command_is_one_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring import cli

    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(here)])
    (here / "hello_you.py").write_text('def hello_you(name: str) -> None:\n    """Greet. Warmly."""\n    print(name)\n')
    assert "hello-you  Greet\n" in run("--help").stdout
    assert run("hello-you Ada").stdout == "Ada\n"
    assert "Did you mean 'hello-you'" in run("hallo-you", 2).stderr
    monkeypatch.delitem(sys.modules, "sparring.cli.hello_you")


QUICKER = {
    "rollout orders --agent": "--n 24",
    "rollout orders --model": "--n 4 --max-turn-tokens 8",
    "evaluate orders --model": "--n 2 --max-turn-tokens 8",
    "train sft": "--steps 2 --batch 2",
    "train dpo": "--steps 1 --batch 2 --min-chosen -1e9",
    "train dmpo": "--steps 1 --batch 2",
    "train kto": "--steps 1 --batch 2",
    "train online-dpo": "--steps 1 --groups 2 --group 2 --max-turn-tokens 8",
    "train reward-model": "--steps 1 --batch 2",
    "train simpo": "--steps 1 --batch 2",
    "train grpo": "--steps 1 --groups 2 --group 2 --max-turn-tokens 8",
    "train ppo": "--steps 1 --tasks 2 --each 1 --max-turn-tokens 8",
    "train dagger": "--steps 1 --tasks 2 --max-turn-tokens 8",
    "train distill": "--steps 1 --tasks 2 --each 1 --max-turn-tokens 8",
}
"""Start of an example -> options after its own, which make it smaller. The last one of an option counts."""

ELSEWHERE = {
    "recipe ": "minutes; tests/test_recipe.py",
    "mcp serve ": "runs until it is ended; tests/test_mcp.py",
    "view ": "runs until it is ended; tests/test_view.py",
    "label ": "runs until it is ended; tests/test_labels.py",
    "import ": "reads another program's file; tests/test_export.py",
}
"""Start of an example that is not run here -> why, and where it is tested."""


def test_every_example_works(here: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are shown, one after the other in an empty folder: the same commands on the same environments, with
    smaller numbers (`QUICKER`), and a tiny model in the cache under the name of the one they fetch."""
    monkeypatch.setenv("SPARRING_HOME", str(here / "home"))
    shutil.copytree(tiny_qwen3, here / "home" / "models" / "smollm2-135m")
    shutil.copytree(ROOT / "examples", here / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for example in (here / "examples").rglob("*.py"):  # other tests have loaded the originals: a second one is refused
        monkeypatch.delitem(sys.modules, example.stem, raising=False)
    ran = []
    for line in examples():
        command = line.removeprefix("sparring ")
        if command.startswith(tuple(ELSEWHERE)):
            continue
        more = next((options for start, options in QUICKER.items() if command.startswith(start)), "")
        if command.startswith("store export failed.jsonl"):  # gold is all that this store holds
            command = command.removesuffix(" --failure --outcome timeout")
        run(f"{command} {more}")
        if "--out groups.jsonl" in command:  # random weights never succeed: let one of each group pass for it
            groups = read(here / "groups.jsonl")
            mixed = [replace(t, reward=float(not t.attempt), success=not t.attempt) for t in groups]
            (here / "groups.jsonl").write_bytes(b"".join(t.to_json() + b"\n" for t in mixed))
        ran.append(command.split(" --")[0])
    assert {"envs", "train sft", "train dpo", "show gold.jsonl", "report runs/eval"} <= set(ran)
    skipped = [start for start in ELSEWHERE if any(line.startswith(f"sparring {start}") for line in examples())]
    assert skipped == list(ELSEWHERE)
    assert len(ran) > 20
    assert (here / "runs/eval/report.html").is_file()


def test_every_setting_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every objective, or it is skipped with a reason; and its default is that of the dataclass."""
    from sparring.app import training
    from sparring.cli.train import SKIPPED
    from sparring.trainers import Mixture, TrainSettings
    from sparring.trainers.objective import OBJECTIVES

    made: dict[str, TrainSettings] = {}
    monkeypatch.setattr(training, "train", lambda name, settings, *_, **__: made.update({name: settings}))
    names = OBJECTIVES.names()
    assert {"dpo", "grpo", "sft"} <= set(names)
    for name in names:
        objective = OBJECTIVES.get(name)
        plays = objective.needs == "mixture"
        run(f"train {name} {'echo' if plays else '--data x'} --out y")
        more: dict[str, Any] = {"mixture": Mixture.of("echo")} if plays else {}
        assert made[name] == objective.Settings(**more)
        shown = run(f"train {name} --help").output
        for field in leaves(objective.Settings):
            assert (f"--{field.replace('_', '-')} " in shown) != (field in SKIPPED), field
    assert all(reason for reason in SKIPPED.values())


def leaves(settings: type) -> Iterator[str]:
    """The names of all fields, those of settings within settings too."""
    hints = get_type_hints(settings)
    for field in fields(settings):
        if is_dataclass(hints[field.name]) and field.name != "mixture":
            yield from leaves(hints[field.name])
        else:
            yield field.name


def test_the_recipe_gets_what_was_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.trainers import recipe
    from sparring.trajectories.pages.report import Arm

    asked: list[Any] = []

    def fake(env: str, profile: str, *, watcher: Any, **options: Any) -> Any:
        asked.append((env, profile, options))
        watcher.stage("evaluate-base", 1, 2, reused=True)
        return recipe.RecipeResult([Arm("SFT")], here / "report.html", "SFT", 61.0)

    monkeypatch.setattr(recipe, "run_recipe", fake)
    result = run("recipe echo --profile smoke --model tiny-qwen3 --seed 3 --held-out calendar")
    options = {"model": "tiny-qwen3", "folder": Path("runs/echo-smoke"), "seed": 3, "held_out": "calendar"}
    assert asked == [(["echo"], "smoke", {**options, "recipe": "recover"})]
    assert "[1/2] evaluate-base: done before, nothing changed" in result.stderr
    assert "took 1:01 min" in result.stdout
    assert "report.html" in result.stdout


def test_a_recipe_may_name_its_environments(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.trainers import recipe

    asked: list[Any] = []

    def fake(env: list[str], profile: str, *, folder: Path, **_: Any) -> Any:
        asked.append((env, folder))
        return recipe.RecipeResult([], here / "report.html", "", 1.0)

    monkeypatch.setattr(recipe, "run_recipe", fake)
    text = (ROOT / "trainers" / "recipes" / "recover.yaml").read_text("utf-8")
    (here / "mine.yaml").write_text(f"envs: [2*echo, calendar]\n{text}", "utf-8")
    run("recipe --recipe mine.yaml --profile smoke --model tiny-qwen3")
    run("recipe orders --recipe mine.yaml --profile smoke --model tiny-qwen3")
    assert asked == [
        (["2*echo", "calendar"], Path("runs/2-echo-calendar-smoke")),
        (["orders"], Path("runs/orders-smoke")),
    ]
    assert "names no environment" in fails("recipe --profile smoke")


# ---- playing episodes ------------------------------------------------------------------------------------------------


def test_from_rollout_to_a_measured_model(here: Path, tiny_qwen3: Path) -> None:
    run("rollout echo --agent expert --out gold.jsonl")
    trained = run("train sft --data gold.jsonl --model tiny-qwen3 --steps 3 --batch 4 --out runs/sft")
    assert trained.stdout == "model: runs/sft/model\n"
    assert "kept 4 of 4 trajectories" in trained.stderr
    assert json.loads((here / "runs/sft/model/sparring.json").read_text()) == {
        "format": "hermes",
        "tool_style": "signature",
    }
    table = run("evaluate echo --model runs/sft/model --max-turn-tokens 8 --out eval").stdout
    assert re.search(r"runs/sft +0% \[0, 49\]", table)
    assert re.search(r"do-nothing +0% \[0, 49\]", table)
    assert re.search(r"clean +one fault", table)
    assert {path.name for path in (here / "eval").iterdir()} == {"run.yaml", "runs-sft.jsonl", "do-nothing.jsonl"}
    page = run("report eval runs/sft --out page.html").stdout
    assert page == "report: page.html\n"
    assert "runs-sft" in (here / "page.html").read_text("utf-8")
    assert "nll" in (here / "page.html").read_text("utf-8")  # the learning curve


def test_success_comes_with_its_interval(here: Path) -> None:
    assert run("rollout echo").stdout == "success 100% [51, 100] of 4 episodes, 95% Wilson interval\n"
    assert run("rollout echo --agent do-nothing").stdout.startswith("success 0% [0, 49] of 4 episodes")


def test_a_rollout_goes_on_where_it_was(here: Path) -> None:
    run("rollout orders --n 6 --out whole.jsonl")
    lines = (here / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (here / "part.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:70])  # killed while it wrote the fourth
    result = run("rollout orders --n 6 --out part.jsonl")
    assert "3 episodes of 6 were in part.jsonl already" in result.stderr
    assert read(here / "part.jsonl") == read(here / "whole.jsonl")
    assert "part.jsonl holds episodes of other tasks, faults or seeds" in fails(
        "rollout orders --seed 1 --out part.jsonl"
    )
    assert "of agent expert" in fails("rollout orders --n 6 --agent give-up --out part.jsonl")
    run("rollout orders --n 2 --agent give-up --out part.jsonl --overwrite")
    assert len(read(here / "part.jsonl")) == 2


def test_a_file_of_an_older_model_is_not_taken_up(here: Path, tiny_qwen3: Path) -> None:
    shutil.copytree(tiny_qwen3, here / "mine")
    command = "rollout echo --model ./mine --n 1 --max-turn-tokens 4 --out some.jsonl"
    run(command)
    assert "1 episode of 1 were in some.jsonl already" in run(command).stderr
    assert "other settings" in fails(f"{command} --temperature 0.5")
    later = time.time() + 60
    os.utime(here / "mine/model.safetensors", (later, later))
    assert "an older model of this name" in fails(command)


def test_thinking_is_switched_off_by_an_option(here: Path, tiny_qwen3: Path, tiny_llama: Path) -> None:
    command = "rollout echo --model tiny-qwen3 --n 1 --max-turn-tokens 4 --out"
    run(f"{command} thinks.jsonl")
    run(f"{command} quiet.jsonl --thinking off")
    (thinks,), (quiet,) = read(here / "thinks.jsonl"), read(here / "quiet.jsonl")
    assert thinks.tokens is not None
    assert quiet.tokens is not None
    assert quiet.tokens.encoding != thinks.tokens.encoding
    assert (thinks.meta["thinking"], quiet.meta["thinking"]) == ("on", "off")
    assert "the tokenizer has no <think>" in fails("rollout echo --model tiny-llama --n 1 --thinking off")
    trained = run(
        "train sft --data quiet.jsonl --keep all --model tiny-qwen3 --steps 1 --batch 1 --out runs/quiet --thinking off"
    )
    assert "rendered anew" not in trained.stderr
    assert json.loads((here / "runs/quiet/model/sparring.json").read_text())["thinking"] == "off"


def test_groups_share_task_and_faults(here: Path) -> None:
    run("rollout orders --agent random --n 2 --group 3 --faults count=1 --levels 1-2 --seed 5 --out g.jsonl")
    episodes = read(here / "g.jsonl")
    assert [t.attempt for t in episodes] == [0, 1, 2, 0, 1, 2]
    assert len({(t.task.id, t.faults) for t in episodes}) == 2
    assert {t.faults for t in episodes} == {str(FaultPlan.parse("count=1@5"))}
    assert len({t.seed for t in episodes}) == 6
    run("rollout orders --n 1 --faults count=1@9 --out h.jsonl")
    assert read(here / "h.jsonl")[0].faults == str(FaultPlan.parse("count=1@9"))


def test_show(here: Path) -> None:
    run("rollout orders --agent give-up --n 12 --faults count=1 --out some.jsonl")
    episodes = read(here / "some.jsonl")
    failed = next(t for t in episodes if not t.success)
    assert f"episode {episodes[0].id}" in run("show some.jsonl").stdout
    assert f"episode {failed.id}" in run("show some.jsonl --failed").stdout
    assert f"episode {episodes[3].id}" in run(f"show some.jsonl {episodes[3].id[:8]}").stdout
    assert "unknown episode 'zz'" in fails("show some.jsonl zz")
    assert "there is no file none.jsonl" in fails("show none.jsonl")


def test_what_tools_said_cannot_drive_the_terminal(here: Path) -> None:
    run("rollout echo --n 1 --out one.jsonl")
    t = read(here / "one.jsonl")[0]
    evil = replace(t.turns[0].results[0], content="\x1b[2Jerror: forged\u202e")
    turn = replace(t.turns[0], results=(evil,))
    (here / "one.jsonl").write_bytes(replace(t, turns=(turn, *t.turns[1:])).to_json() + b"\n")
    shown = run("show one.jsonl").stdout
    assert "\x1b" not in shown
    assert "\\x1b[2Jerror: forged\\u202e" in shown


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_unknown_names(here: Path) -> None:
    assert fails("rollout ordrs") == "unknown environment 'ordrs'. Did you mean 'orders'?"
    assert "Did you mean 'echo'?" in fails("train grpo ekko --out x")
    assert "Did you mean 'orders'?" in fails("recipe order")
    assert fails("rollout echo --agent gold").startswith("no task of sparring/Echo-v0 has recorded gold")
    assert fails("evaluate echo --agent gold").startswith("no task of sparring/Echo-v0 has recorded gold")
    assert fails("rollout echo --agent exprt") == "unknown agent 'exprt'. Did you mean 'expert'?"
    assert fails("rollout echo --model tiny-qwen") == "unknown model 'tiny-qwen'. Did you mean 'tiny-qwen3'?"
    assert "there is no model folder ./none" in fails("evaluate echo --model ./none")
    assert fails("model fetch smollm") == "unknown model 'smollm'. Did you mean 'smollm2-135m'?"
    assert "unknown fault" in fails("rollout echo --faults count=1:unavailible")
    assert "cannot read the fault plan 'coun=1'" in fails("rollout echo --faults coun=1")
    assert "nobody to evaluate" in fails("evaluate echo")


def test_wrong_usage_is_2(here: Path) -> None:
    assert "such as 1,2 or 1-3" in run("rollout echo --levels x", 2).stderr
    assert "--split" in run("rollout echo --split tset", 2).stderr
    run("rolout echo", 2)


def test_a_model_folder_without_tokenizer(here: Path, tiny_qwen3: Path) -> None:
    shutil.copytree(tiny_qwen3, here / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert "bare has no tokenizer" in fails("rollout echo --model ./bare")


def test_a_data_set_that_ends_up_empty(here: Path) -> None:
    run("rollout echo --agent do-nothing --out bad.jsonl")
    assert fails("train sft --data bad.jsonl --model tiny-qwen3 --out x") == (
        "gold has nothing left: kept 0 of 4 trajectories; dropped: 4 without success"
    )
    assert "on_policy_pairs has nothing left" in fails("train dpo --data bad.jsonl --data bad.jsonl --out x")
    run("rollout echo --out single.jsonl")
    assert "no task was played twice" in fails("train dpo --data single.jsonl --out x")
    (here / "empty.jsonl").touch()
    assert fails("train sft --data empty.jsonl --out x") == "empty.jsonl: no episode in it"
    (here / "broken.jsonl").write_text('{"id": 1}\n')
    assert "broken.jsonl, line 1: not a trajectory" in fails("show broken.jsonl")
    assert not (here / "x").exists()


UNTYPED = '''
from sparring import ToolEnv, tool

class Untyped(ToolEnv):
    """No type hints."""

    @tool
    def find(self, name):
        """Find."""

class Broken(ToolEnv):
    """Its setup has a bug."""

    def tasks(self, split, rng):
        from sparring import Task
        return [Task("Do.", {}, seed=i) for i in range(3)]

    def setup(self, task, rng):
        self.state = {}["books"]

    def success(self, task):
        return True

    @tool
    def look(self) -> str:
        """Look."""
        return ""
'''


def test_an_environment_that_is_wrong(here: Path) -> None:
    (here / "wrong_cli.py").write_text(UNTYPED)
    assert "type" in fails("rollout wrong_cli:Untyped")
    found = run("check wrong_cli:Untyped", 1)
    assert re.search(r"error: .*find.*\n +fix: ", found.stdout, re.DOTALL)
    assert "1 error, 0 warnings" in found.stdout
    line = fails("rollout wrong_cli:Broken --agent do-nothing")
    assert "KeyError: 'books' (wrong_cli.py, line 19, in setup)" in line
    assert "--debug" in line
    assert "Traceback" in run("--debug rollout wrong_cli:Broken --agent do-nothing", 1).stderr
    assert "Did you mean 'Broken'?" in fails("rollout wrong_cli:Brokn")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(here: Path) -> None:
    assert fails("rollout echo --out /dev/full").startswith("no space left on the device: /dev/full")


def test_a_full_disk_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(OSError(errno.ENOSPC, "No space left on device", "a/b"), debug=False) == 1
    assert capsys.readouterr().err.startswith("error: no space left on the device: a/b; what was complete is saved")


def test_groups_of_exceptions_do_not_leak(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(ExceptionGroup("x", [ExceptionGroup("y", [DataError("one\nline \x1b[1m")])]), debug=False) == 1
    assert capsys.readouterr().err == "error: one line \\x1b[1m\n"


def test_a_missing_extra(here: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from sparring.cli.root import main; main()"
    run("rollout echo --out gold.jsonl")
    for command in ("rollout echo --model tiny-qwen3", "train sft --data gold.jsonl --out x"):
        process = start(*command.split(), code=code, cwd=here)
        _output, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.splitlines()[-1] == (
            "error: this needs the package 'torch', which is not installed: pip install 'sparring[train]'"
        )


def test_a_closed_pipe_is_quiet() -> None:
    process = start("envs")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 141


def test_folders_of_other_runs_are_left_alone(here: Path, tiny_qwen3: Path) -> None:
    run("rollout echo --out gold.jsonl")
    command = "train sft --data gold.jsonl --model tiny-qwen3 --steps 1 --batch 1 --out"
    (here / "mine").mkdir()
    (here / "mine/thesis.txt").touch()
    assert "holds other files" in fails(f"{command} mine")
    assert "holds other files" in fails(f"{command} mine --overwrite")
    run(f"{command} run")
    assert "holds a finished run" in fails(f"{command} run")
    run(f"{command} run --overwrite")
    assert (here / "mine/thesis.txt").exists()


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_saves_and_the_printed_command_resumes(here: Path, tiny_qwen3: Path) -> None:
    import torch
    from safetensors.torch import load_file

    run("rollout echo --out gold.jsonl")
    options = "train sft --data gold.jsonl --model tiny-qwen3 --steps 40 --batch 2 --precision fp32 --out"
    process = start(*options.split(), "stopped run", cwd=here)
    rows = here / "stopped run/metrics.jsonl"
    wait_for(rows, lines=3)
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    said, again = errors.splitlines()[-2:]
    step = re.fullmatch(r"stopped after step (\d+) of 40; saved in stopped run; everything complete was saved", said)
    assert step
    assert again == f"resume with: sparring {options} 'stopped run'"

    assert "started otherwise (lr 0.0001, not 0.001): give the same" in fails(f"{options} 'stopped run' --lr 1e-3")
    run(again.removeprefix("resume with: sparring "))
    run(f"{options} whole")
    weights = [load_file(here / folder / "model/model.safetensors") for folder in ("stopped run", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    steps = [json.loads(line)["step"] for line in rows.read_text().splitlines()]
    assert steps == list(range(1, 41))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_a_signal_to_end_does_what_ctrl_c_does(here: Path, tiny_qwen3: Path, number: int, code: int) -> None:
    run("rollout echo --out gold.jsonl")
    options = "train sft --data gold.jsonl --model tiny-qwen3 --steps 4000 --batch 2 --save-every 0 --out run"
    process = start(*options.split(), cwd=here)
    rows = here / "run/metrics.jsonl"
    wait_for(rows)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    said, again = errors.splitlines()[-2:]
    step = re.fullmatch(r"stopped after step (\d+) of 4000; saved in run; everything complete was saved", said)
    assert step, errors
    assert again == f"resume with: sparring {options}"
    assert [path.name for path in (here / "run/checkpoints").iterdir()] == [f"step-{int(step[1]):06d}"]


def test_a_rollout_is_ended_by_sigterm_as_by_ctrl_c(here: Path) -> None:
    process = start(*"rollout orders --agent random --n 5000 --out a.jsonl".split(), cwd=here)
    wait_for(here / "a.jsonl")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1] == "resume with: sparring rollout orders --agent random --n 5000 --out a.jsonl"
    assert "Traceback" not in errors


def test_what_is_stopped_before_anything_was_written_does_not_say_saved(here: Path) -> None:
    run("rollout echo --out gold.jsonl")
    code = """
import time
from sparring.cli.root import main
from sparring.trainers.model import Policy
def load(*_, **__):
    print("loading", flush=True)
    time.sleep(60)
Policy.load = load
main()
"""
    process = start(*"train sft --data gold.jsonl --model tiny-qwen3 --out run".split(), code=code, cwd=here)
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    said, again = errors.splitlines()[-2:]
    assert said == "stopped; nothing had been written yet"
    assert again == "resume with: sparring train sft --data gold.jsonl --model tiny-qwen3 --out run"


# ---- training --------------------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_are_refused(here: Path) -> None:
    run("rollout echo --out gold.jsonl")
    (here / "run.yaml").write_text("lr: .inf\n")
    for options, said in {
        "--lr inf": "lr is a finite number of 0 or more, got inf",
        "--config run.yaml": "lr is a finite number of 0 or more, got inf",
        "--max-grad-norm 0": "max_grad_norm is a number above 0, got 0.0",
    }.items():
        assert fails(f"train sft --data gold.jsonl --model tiny-qwen3 --out x {options}") == said
    assert fails("train grpo echo --model tiny-qwen3 --out x --kl inf") == "kl is a finite number of 0 or more, got inf"
    run("train sft --data gold.jsonl --model tiny-qwen3 --out x --lr nan", 2)
    assert "at temperature 0" in fails("train grpo echo --model tiny-qwen3 --out x --temperature 0")
    assert not (here / "x").exists()


def test_a_run_that_diverges_ends_with_an_error(here: Path, tiny_qwen3: Path) -> None:
    run("rollout echo --out gold.jsonl")
    for steps in (1, 3):
        said = fails(f"train sft --data gold.jsonl --model tiny-qwen3 --steps {steps} --lr 1e39 --out x{steps}")
        assert "not finite" in said
        assert "--lr" in said
        assert not (here / f"x{steps}/model").exists()


def test_a_training_without_any_signal_says_so(here: Path, tiny_qwen3: Path) -> None:
    command = "train grpo echo --model tiny-qwen3 --steps 2 --groups 2 --group 2 --max-turn-tokens 8 --out x"
    said = run(command).stderr
    assert re.search(r"grpo, 2 steps: done after .*, loss 0\.000 success 0\.000 signal 0\.000$", said, re.MULTILINE)
    assert said.splitlines()[-1].startswith("warning: no group had a signal in any of 2 steps")


def test_held_out_episodes_are_measured(here: Path, tiny_qwen3: Path) -> None:
    run("rollout echo --out gold.jsonl")
    run("rollout echo --split test --out held.jsonl")
    command = "train sft --data gold.jsonl --model tiny-qwen3 --steps 2 --batch 2 --out"
    said = run(f"{command} file --validation held.jsonl").stderr
    assert re.search(r"done after .*, loss \S+ nll \S+ held_out_nll \d+\.\d+$", said, re.MULTILINE)
    rows = [json.loads(line) for line in (here / "file/metrics.jsonl").read_text().splitlines()]
    assert ["held_out_nll" in row for row in rows] == [False, True]
    said = run(f"{command} same --validation gold.jsonl").stderr
    assert "4 of 4 episodes to validate on are of tasks that are trained on" in said
    run(f"{command} share --validation-share 0.25 --validate-every 1")
    rows = [json.loads(line) for line in (here / "share/metrics.jsonl").read_text().splitlines()]
    assert ["held_out_nll" in row for row in rows] == [True, True]
    assert "--validation-share, not both" in fails(f"{command} both --validation held.jsonl --validation-share 0.5")
    assert not (here / "both").exists()


def test_no_pairs_comes_with_the_ways_out(here: Path) -> None:
    run("rollout echo --agent expert --out single.jsonl")
    run("rollout echo --agent expert --group 3 --out alike.jsonl")
    for file in ("single.jsonl", "alike.jsonl"):
        said = fails(f"train dpo --data {file} --model tiny-qwen3 --out x")
        for way in ("--group 8", "--temperature", "--faults", "pairs by=correction"):
            assert way in said
    run("rollout echo --agent do-nothing --out idle.jsonl")
    curated = run("curate idle.jsonl --rule 'pairs by=correction' --out pairs.jsonl")  # as the message says
    assert "4 pairs in pairs.jsonl" in curated.stdout


def test_a_run_that_nobody_can_name_is_left_alone(here: Path, tiny_qwen3: Path) -> None:
    run("rollout echo --out gold.jsonl")
    (here / "run/checkpoints").mkdir(parents=True)
    (here / "run/command.json").write_text('{"objective": "s')
    command = "train sft --data gold.jsonl --model tiny-qwen3 --steps 1 --batch 1 --out run"
    said = fails(command)
    assert said.startswith("run/command.json cannot be read")
    assert "--overwrite" in said
    run(f"{command} --overwrite")


def test_the_command_to_resume_with() -> None:
    assert resume_command(["recipe", "orders", "--out", "a b"]) == "sparring recipe orders --out 'a b'"
    assert resume_command(["--debug", "train", "sft", "--overwrite"]) == "sparring --debug train sft"
    assert resume_command(["rollout", "echo"]) == ""
    assert resume_command(["rollout", "echo", "--out=x"]) == "sparring rollout echo --out=x"
    assert resume_command([]) == ""


def test_the_command_to_resume_with_can_be_typed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/sparring", "recipe", "orders"])
    for path, program in (("", ".venv/bin/sparring"), (str(Path(sys.executable).parent), "sparring")):
        monkeypatch.setenv("PATH", path)
        if program == "sparring" and shutil.which("sparring") is None:
            continue  # run from a checkout that is not installed
        assert end(KeyboardInterrupt(), debug=False) == 130
        assert f"resume with: {program} recipe orders" in capsys.readouterr().err


# ---- progress --------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_log_file() -> None:
    clock, log = Clock(), io.StringIO()
    watch = PlainWatch(log, clock=clock)
    watch.stage("gold", 1, 3, reused=True)
    watch.stage("SFT", 2, 3)
    for step in range(1, 31):
        clock.now = 2.0 * step
        watch.progress(step, 30, f"loss {1 / step:.2f}")
    watch.say("a line that stays")
    watch.stage("evaluate", 3, 3)
    clock.now = 4000.0
    watch.progress(10, 20, "success 0.50", 3.0)
    watch.end("stopped")
    assert log.getvalue().splitlines() == [
        "[1/3] gold: done before, nothing changed",
        "[2/3] SFT ...",
        "        5/30 loss 0.20, 10 s, about 50 s left",
        "        10/30 loss 0.10, 20 s, about 40 s left",
        "        15/30 loss 0.07, 30 s, about 30 s left",
        "        20/30 loss 0.05, 40 s, about 20 s left",
        "        25/30 loss 0.04, 50 s, about 10 s left",
        "a line that stays",
        "[2/3] SFT: done after 1:00 min, loss 0.03",
        "[3/3] evaluate ...",
        "        10/20 success 0.50, 1:05 h, about 3 s left",
        "[3/3] evaluate: stopped after 1:05 h",
    ]


def test_estimates_leave_out_what_was_done_before() -> None:
    clock = Clock()
    watch = PlainWatch(io.StringIO(), clock=clock)
    watch.stage("SFT")
    clock.now = 30.0  # loading a checkpoint of step 50
    watch.progress(50, 60)
    assert watch.now is not None
    assert watch.now.left is None
    clock.now = 32.0
    watch.progress(52, 60)
    assert watch.now.left is None  # two steps tell too little
    clock.now = 33.0
    watch.progress(53, 60)
    assert watch.now.left == 7.0
    clock.now = 40.0
    watch.progress(1, 10)  # a second count in the same stage
    clock.now = 49.0
    watch.progress(4, 10)
    assert watch.now.left == 18.0


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "80")
    clock = Clock()
    watch = LiveWatch(io.StringIO(), clock=clock)
    watch.stage("an environment's name \x1b[2J", 2, 3)
    clock.now = 10.0
    watch.progress(5, 20, "loss 0.20")
    clock.now = 12.0
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as seen:
        console.print(watch._line())
    assert seen.get().startswith("[2/3] an environment's name \\x1b[2J ")
    assert "5/20 loss 0.20, 12 s" in seen.get()
    assert len(seen.get().rstrip("\n")) < 80
    watch.end()
    assert isinstance(watch.file, io.StringIO)
    assert "done after 12 s, loss 0.20" in watch.file.getvalue()


def test_durations() -> None:
    assert [duration(s) for s in (-1, 0.4, 59.4, 59.6, 3599, 8100)] == [
        "0 s",
        "0 s",
        "59 s",
        "1:00 min",
        "59:59 min",
        "2:15 h",
    ]


@contextmanager
def held(how: str, path: Path) -> Iterator[int]:
    """A process that is at work on `path`; its number. It is killed in the end."""
    code = (
        "import sys, time; from pathlib import Path; from sparring.trajectories import locks\n"
        "with getattr(locks, sys.argv[1])(Path(sys.argv[2])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = start(how, str(path), code=code)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_file_of_episodes_has_one_writer(here: Path) -> None:
    run("rollout echo --agent expert --n 2 --out a.jsonl")
    run("rollout echo --agent expert --n 2 --out b.jsonl")
    with held("only_writer_of", here / "a.jsonl") as pid:
        for command in (
            "rollout echo --agent expert --n 3 --out a.jsonl --overwrite",
            "curate b.jsonl --rule gold --out a.jsonl --overwrite",
        ):
            said = fails(command)
            assert said.startswith(f"another process is writing a.jsonl (process {pid}: ")
            assert said.endswith("wait until it ends, or choose another --out")
    assert len((here / "a.jsonl").read_bytes().splitlines()) == 2
    run("rollout echo --agent expert --n 3 --out a.jsonl")  # one that was killed holds nothing
    assert len((here / "a.jsonl").read_bytes().splitlines()) == 3


def test_a_folder_has_one_process_at_work(here: Path, tiny_qwen3: Path) -> None:
    """Whoever writes it: what is refused has changed nothing."""
    run("rollout echo --out gold.jsonl")
    (here / "run").mkdir()
    with held("only_process_in", here / "run") as pid:
        for command in (
            "train sft --data gold.jsonl --model tiny-qwen3 --out run",
            "train sft --data gold.jsonl --model tiny-qwen3 --out run --overwrite",
            "train grpo echo --model tiny-qwen3 --out run/below",
            "evaluate echo --agent expert --n 2 --out run",
            "rollout echo --n 2 --out run/episodes.jsonl",
            "recipe echo --profile smoke --out run",
            "curate gold.jsonl --rule gold --out run/gold.jsonl",
        ):
            assert fails(command).startswith(f"another process is at work in run (process {pid}: "), command
        assert f"a run that is running: wait for it (process {pid}: " in fails("rollout echo --model ./run")
        assert [path.name for path in (here / "run").iterdir()] == [".lock"]
    run("train sft --data gold.jsonl --model tiny-qwen3 --steps 1 --batch 1 --out run")
    assert not (here / "run/.lock").exists()


def test_two_trainings_in_one_folder(here: Path, tiny_qwen3: Path) -> None:
    """The second is refused while the first runs, and the first is not disturbed."""
    run("rollout echo --out gold.jsonl")
    command = "train sft --data gold.jsonl --model tiny-qwen3 --steps 30 --batch 2 --precision fp32 --out runs/sft"
    first = start(*command.split(), cwd=here)
    rows = here / "runs/sft/metrics.jsonl"
    wait_for(rows)
    os.kill(first.pid, signal.SIGSTOP)  # it has to be still at work when the others are refused
    for other in (command, f"{command} --lr 1e-3", f"{command} --overwrite"):
        said = fails(other)
        assert f"another process is at work in runs/sft (process {first.pid}: " in said
        assert "train sft --data gold.jsonl" in said
        assert "stopped" not in said
    os.kill(first.pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert [json.loads(line)["step"] for line in rows.read_text().splitlines()] == list(range(1, 31))


def test_an_episode_that_stands_twice_is_no_second_episode(here: Path) -> None:
    run("rollout echo --agent expert --n 2 --out a.jsonl")
    lines = (here / "a.jsonl").read_bytes()
    (here / "b.jsonl").write_bytes(lines + lines.splitlines(keepends=True)[0])
    assert "line 3: the episode" in fails("show b.jsonl")
    (here / "c.jsonl").write_bytes(lines[:-20])
    assert "line 2: cut short while it was written" in fails("show c.jsonl")


def test_an_environment_in_another_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a").mkdir()
    (here / "b").mkdir()
    (here / "a" / "mine.py").write_text("from sparring.envs.echo import Echo\nclass Mine(Echo):\n    pass\n")
    monkeypatch.chdir(here / "b")
    for path in ("../a/mine.py", f"{here}/b/../a/mine"):
        assert "success 100%" in run(f"rollout {path}:Mine --agent expert --n 2").output


def test_a_file_with_one_environment_needs_no_class(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a").mkdir()
    (here / "b").mkdir()
    (here / "a" / "desk_one.py").write_text("from sparring.envs.echo import Echo\nclass Mine(Echo):\n    pass\n")
    monkeypatch.chdir(here / "a")
    run("rollout desk_one.py --agent expert --n 2 --out ../gold.jsonl")
    assert {t.env for t in read(here / "gold.jsonl")} == {"desk_one:Mine"}
    monkeypatch.chdir(here / "b")
    assert "../a/desk_one.py: 0 errors" in run("check ../a/desk_one.py").stdout
    (here / "b" / "desk_two.py").write_text(
        "from sparring.envs.echo import Echo\nclass One(Echo):\n    pass\nclass Two(Echo):\n    pass\n"
    )
    assert fails("rollout desk_two.py") == (
        "expected one environment in desk_two.py, got One, Two: choose one, such as desk_two.py:One"
    )
    (here / "b" / "desk_none.py").write_text("from sparring.envs.echo import Echo\n")
    assert "expected one environment in desk_none.py, got none" in fails("check desk_none.py")
    (here / "b" / "desk_one.py").write_text("from sparring.envs.echo import Echo\nclass Other(Echo):\n    pass\n")
    assert "another module called desk_one is" in fails("rollout ./desk_one.py")


WAITING = """
from sparring import tool
from sparring.envs.echo import Echo

class Slow(Echo):
    @tool(waits=True)
    def pause(self) -> str:
        \"\"\"Wait a little.\"\"\"
        return "waited"
"""


def test_roles_of_the_tools_of_an_environment_of_ones_own(here: Path) -> None:
    from sparring.envs.roles import tool_roles

    (here / "slow_desk.py").write_text(WAITING)
    assert tool_roles(["slow_desk:Slow"]) == {}  # a name in a record imports no code
    run("rollout slow_desk.py --agent expert --n 2 --out gold.jsonl")
    assert tool_roles(["slow_desk:Slow"])["slow_desk:Slow"].waits == {"pause"}
    del sys.modules["slow_desk"]
    assert tool_roles(["slow_desk:Slow"]) == {}
    run("report gold.jsonl --env slow_desk.py --out page.html")
    assert tool_roles(["slow_desk:Slow"])["slow_desk:Slow"].waits == {"pause"}


# ---- what a result means ---------------------------------------------------------------------------------------------


def test_a_rate_says_why(here: Path, tiny_qwen3: Path) -> None:
    shown = run("rollout orders --agent give-up --faults count=1 --n 12").stdout
    assert re.search(r"\nfailed episodes ended by: declined \d+ of (\d+), finished 1 of \1\n", shown)
    result = run("rollout echo --model tiny-qwen3 --max-turn-tokens 2 --n 9")
    limit = "token_limit 4 of 4 (raise --max-turn-tokens or --max-context, or --tokens if it was given)"
    assert f"failed episodes ended by: {limit}\n" in result.stdout
    assert "echo has 4 train tasks: each is played once, not 9" in result.stderr
    assert "failed episodes of do-nothing ended by: finished 8 of 8" in run("evaluate echo --agent expert").stdout
    assert "no --agent and no --model was given: the expert plays" in run("rollout echo").stderr


def test_limits_of_an_episode_are_options(here: Path) -> None:
    shown = run("rollout orders --agent expert --n 4 --turns 1 --out a.jsonl").stdout
    assert "ended by: turn_limit 4 of 4 (the environment's max_turns, or --turns if it was given)" in shown
    assert {len(t.turns) for t in read(here / "a.jsonl")} == {1}
    assert "other limits" in fails("rollout orders --agent expert --n 4 --turns 2 --out a.jsonl")
    run("rollout orders --turns 0", 2)
    assert "a number above 0" in fails("rollout orders --seconds 0")
    run("evaluate orders --agent expert --n 2 --turns 1 --out eval")
    assert {len(t.turns) for t in read(here / "eval/expert.jsonl")} == {1}


@pytest.mark.parametrize(
    "command", ["import chats.jsonl --from openai --out out.jsonl", "export gold.jsonl --to openai --out out.jsonl"]
)
def test_a_file_that_another_process_writes_is_left_alone(command: str, here: Path) -> None:
    run("rollout echo --agent expert --n 2 --out gold.jsonl")
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (here / "chats.jsonl").write_text(json.dumps({"messages": chat}))
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with only_writer_of(Path("out.jsonl")):
            taken.set()
            over.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    try:
        assert taken.wait(10)
        assert "is writing out.jsonl" in fails(command)
        assert not Path("out.jsonl").exists()
    finally:
        over.set()
        other.join()
    run(command)


def test_a_plan_that_strikes_nobody_says_so(here: Path) -> None:
    assert (
        run("rollout echo --faults unavailable:0.0")
        .stdout.splitlines()[-1]
        .startswith("note: 0 of 4 episodes were struck by unavailable:0")
    )
    shown = run("evaluate echo --agent expert --faults clean --faults unavailable:0.0 --faults count=1").stdout
    assert shown.count("note: ") == 1
    assert "note: 0 of 4 episodes were struck by unavailable:0" in shown
    idle = run("rollout orders --agent do-nothing --n 2 --faults count=1").stdout
    assert re.search(r"note: 0 of 2 episodes were struck by count=1.*: no call was made that a tool ran\n", idle)
    assert "note: " not in run("rollout orders --faults count=1").stdout


def test_the_figures_of_one_agent(here: Path) -> None:
    run("rollout orders --agent random --group 3 --n 4 --out r.jsonl")
    shown = run("compare r.jsonl").stdout
    assert "12 of 12 episodes judged" in shown
    assert re.search(r"clean +\.00 \[\.00, \.24\] +12", shown)
    for k in (1, 2, 3):
        assert re.search(rf"\n *{k} +\.00 +\.00 +4 *\n", shown)
    found = json.loads(run("compare r.jsonl --json").stdout)
    assert [p["k"] for p in found["pass_hat"]] == [1, 2, 3]
    assert found["conditions"]["clean"]["n"] == 12
    assert "--b chooses an agent of B" in fails("compare r.jsonl --b random")


# ---- one line each ---------------------------------------------------------------------------------------------------


def test_no_gpu_here(here: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    run("rollout echo --out gold.jsonl")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for command in ("rollout echo --model tiny-qwen3", "train sft --data gold.jsonl --model tiny-qwen3 --out x"):
        said = fails(f"{command} --device cuda")
        assert said == "device 'cuda': torch finds no GPU here; use cpu"
        assert "expected cpu, cuda or cuda:N" in fails(f"{command} --device gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "only cuda:0 to cuda:1 here" in fails("rollout echo --model tiny-qwen3 --device cuda:2")
    assert not (here / "x").exists()


def test_files_that_hold_no_episodes(here: Path) -> None:
    chat = {"openai": {"messages": []}, "sharegpt": {"conversations": []}, "trl": {"prompt": "", "completion": ""}}
    for form, row in chat.items():
        (here / "log.jsonl").write_text(json.dumps(row) + "\n")
        for command in ("train sft --data log.jsonl --out x", "show log.jsonl", "compare log.jsonl"):
            assert fails(command) == (
                f"log.jsonl, line 1: a chat log, and no episode; to read it: sparring import log.jsonl --from {form} "
                "--out episodes.jsonl"
            )
    (here / "page.html").write_text("<!doctype html><p>Hi")
    for command in ("train sft --data page.html --out x", "show page.html", "compare page.html"):
        assert fails(command) == (
            "page.html, line 1: not a trajectory: expected a line of JSON, as `sparring rollout --out` writes it, got "
            "'<!doctype html><p>Hi'"
        )
    (here / "list.jsonl").write_text("[1]\n")
    assert "expected a JSON object on each line, got list" in fails("show list.jsonl")


def test_a_runs_folder_is_no_model(here: Path, tiny_qwen3: Path) -> None:
    shutil.copytree(tiny_qwen3, here / "runs/sft/model")
    (here / "runs/half/checkpoints").mkdir(parents=True)
    run("rollout echo --out gold.jsonl")
    for command in (
        "rollout echo",
        "evaluate echo",
        "recipe echo --profile smoke",
        "train sft --data gold.jsonl --out x",
    ):
        assert fails(f"{command} --model runs/sft") == (
            "expected a model, got runs/sft, which is the folder of a run: its model is runs/sft/model"
        )
        assert "a run that is not over" in fails(f"{command} --model runs/half")


def test_an_environment_that_is_no_python(here: Path) -> None:
    (here / "bad_syntax.py").write_text("class Desk(:\n    pass\n")
    for name in ("bad_syntax:Desk", "bad_syntax.py"):
        said = fails(f"rollout {name}")
        assert re.fullmatch(r"\S*bad_syntax\.py, line 1 is no Python: invalid syntax: class Desk\(:", said)


def test_out_that_is_of_the_other_kind(here: Path, tiny_qwen3: Path) -> None:
    (here / "file").touch()
    (here / "folder").mkdir()
    run("rollout echo --out gold.jsonl")
    for command in (
        "evaluate echo --agent expert",
        "recipe echo --profile smoke",
        "train sft --data gold.jsonl --model tiny-qwen3",
    ):
        assert fails(f"{command} --out file").startswith("--out file is a file; expected a folder")
    assert fails("rollout echo --out folder") == (
        "--out folder is a folder; expected a file, such as folder/episodes.jsonl"
    )


# ---- before anything is loaded ---------------------------------------------------------------------------------------


def test_a_plan_of_training_loads_and_writes_nothing(
    here: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.trainers.model import Policy

    run("rollout echo --out gold.jsonl")
    monkeypatch.setattr(Policy, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    shown = run("train sft --data gold.jsonl --model tiny-qwen3 --batch 2 --out x --plan").stdout
    for row in (r"parameters +[\d,]+", r"peak, at most +[\d.,]+ [MG]B", r"tokens a step +[\d,]+"):
        assert re.search(rf"^{row}$", shown, re.MULTILINE), row
    grpo = run("train grpo echo --model tiny-qwen3 --out x --plan").stdout
    assert not re.search(r"^engine and its cache +0.0 MB$", grpo, re.MULTILINE)
    assert re.search(r"^engine and its cache +0.0 MB$", shown, re.MULTILINE)
    assert re.search(r"^tokens a step +not known$", grpo, re.MULTILINE)
    head, *rows = run("recipe echo --profile smoke --plan").stdout.splitlines()
    assert len(stages := head.split()) >= 3
    assert len({len(row) for row in rows}) == 1
    (peak,) = (row for row in rows if row.startswith("peak, at most"))
    (tokens,) = (row for row in rows if row.startswith("tokens a step"))
    assert len(re.findall(r"[\d.]+ [MG]B", peak)) == len(re.findall(r" [1-9][\d,]+\b", tokens)) == len(stages)
    assert not (here / "x").exists()
    assert not (here / "runs").exists()


def test_two_agents_meet_the_same_failure(here: Path) -> None:
    """The expert goes round a tool that is gone, the other one gives up: both are shown, and how they ended."""
    shown = run("watch orders --faults count=1:tool_removed").output
    expert, give_up = shown.split("=== give-up")
    assert expert.count("fault tool_removed") == give_up.count("fault tool_removed") == 1
    assert "stopped: finished" in expert
    assert "stopped: declined" in give_up
    assert "(tool_removed). expert: success, give-up: failure." in shown
    assert "strike none of 4 tasks of echo" in fails("watch echo --faults count=1:stale_id")


# ---- environments that break -----------------------------------------------------------------------------------------

LAMP = '''
from sparring import Task, ToolEnv, tool

class Lamp(ToolEnv):
    """Light a lamp."""

    def tasks(self, split, rng):
        return [Task(f"Light lamp {n} ({split}).", {"n": n}) for n in range(4)]

    def setup(self, task, rng):
        self.state = {"lit": []}

    @tool(effect=True)
    def light(self, n: int) -> str:
        """Light a lamp."""
        self.state["lit"].append(n)
        return "lit"

    def success(self, task):
        return SUCCESS

    def solve(self, task):
        yield "light", {"n": task.data["n"]}
'''
WELL = 'self.state["lit"] == [task.data["n"]]'


def lamp(success: str = WELL) -> None:
    Path("lamp.py").write_text(LAMP.replace("SUCCESS", success))


def test_a_bug_of_an_environment_keeps_the_other_episodes_and_is_said_at_the_end(here: Path) -> None:
    lamp(f'{{0: 1, 1: 1, 2: 1}}[task.data["n"]] and {WELL}')
    result = run("rollout lamp.py --agent expert --n 4 --out played.jsonl", 1)
    assert "success 100% [44, 100] of 3 episodes, 95% Wilson interval; 1 not judged" in result.stdout
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "1 of 4 episodes were ended by a bug of the environment lamp:Lamp" in said
    assert "KeyError: 3 (lamp.py, line 20, in success), first in task " in said
    assert [t.stop.value for t in read(Path("played.jsonl"))] == ["finished"] * 3 + ["bug"]
    assert fails("rollout lamp.py --agent expert --n 4 --out played.jsonl") == said.removeprefix("error: ")
    debugged = run("--debug rollout lamp.py --agent expert --n 4 --out played.jsonl", 1)
    assert 'lamp.py", line 20, in success' in debugged.stderr
    assert "bug of the environment" in fails("evaluate lamp.py --agent expert --n 4 --faults clean --out measured")
    run("show played.jsonl")
    assert "1 bug of the environment" in run("compare played.jsonl").stdout


def test_what_a_bug_had_ended_is_played_again(here: Path) -> None:
    lamp(f'{{0: 1, 1: 1, 2: 1}}[task.data["n"]] and {WELL}')
    run("rollout lamp.py --agent expert --n 4 --out played.jsonl", 1)
    before = Path("played.jsonl").read_bytes().splitlines()
    del sys.modules["lamp"]
    lamp()
    result = run("rollout lamp.py --agent expert --n 4 --out played.jsonl")
    assert "success 100% [51, 100] of 4 episodes" in result.stdout
    assert "3 episodes of 4 were in played.jsonl already" in result.stderr
    after = Path("played.jsonl").read_bytes().splitlines()
    assert after[:3] == before[:3]
    assert [t.stop.value for t in read(Path("played.jsonl"))] == ["finished"] * 4
    assert sorted(p.name for p in here.iterdir() if p.is_file()) == ["lamp.py", "played.jsonl"]


def test_an_environment_that_leaves_is_no_success(here: Path) -> None:
    lamp("__import__('sys').exit(0)")
    for command in ("rollout lamp.py --agent do-nothing", "check lamp.py"):
        result = run(command, 1)
        assert "SystemExit: 0 (lamp.py, line 20, in success)" in " ".join(result.output.split())
    Path("leaves.py").write_text("import sys\nsys.exit(0)\n")
    for command in ("rollout leaves.py", "check leaves.py", "evaluate leaves.py --agent expert"):
        assert fails(command).startswith("leaves.py cannot be loaded: SystemExit: 0 (leaves.py, line 2, in <module>)")


def test_check_shows_a_traceback_where_it_is_asked_to(here: Path) -> None:
    lamp("next(n for n in self.state['lit'] if n == task.data['n']) >= 0")
    assert "for the tracebacks: sparring check lamp.py --debug" in run("check lamp.py", 1).stdout
    for command in ("check lamp.py --debug", "--debug check lamp.py"):
        said = run(command, 1).stdout
        assert "Traceback (most recent call last)" in said
        assert 'lamp.py", line 20, in success' in said


def test_a_world_that_all_share_is_said(here: Path) -> None:
    lamp()
    file = Path("lamp.py")
    text = file.read_text().replace('self.state["lit"]', "WORLD").replace('self.state = {"lit": []}', "WORLD.clear()")
    file.write_text(f"{text}\nWORLD = []\n")
    result = run("rollout lamp.py --agent do-nothing --n 3")
    assert "success 0%" in result.stdout
    assert "note: lamp:Lamp: its instances share one world" in result.stderr
    assert "its instances share one world" in " ".join(run("check lamp.py", 1).stdout.split())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def x(:", "line 1 is no Python: invalid syntax: def x(:"),
        ("x = {}['a']", "KeyError: 'a' (odd.py, line 1, in <module>)"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all' (odd.py, line 1, in <module>)"),
        ("raise SystemExit", "odd.py cannot be loaded: SystemExit (odd.py, line 1, in <module>)"),
        ("x = 1", "expected one environment in odd.py, got none"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_by_its_line(here: Path, code: str, said: str) -> None:
    Path("odd.py").write_text(code)
    for command in ("check odd.py", "rollout odd.py --n 2"):
        assert said in fails(command)


def test_a_file_that_is_not_there_is_told_as_a_file(here: Path) -> None:
    lamp()
    assert fails("check lamb.py") == "there is no file lamb.py; there are lamp.py"
    assert fails("check nowhere/lamb.py") == "there is no file nowhere/lamb.py"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rollout lamp.py --out folder", "--out folder is a folder; expected a file, such as folder/episodes.jsonl"),
        ("rollout lamp.py --out lamp.py/x.jsonl", "--out lamp.py/x.jsonl: lamp.py is a file; expected a folder"),
        ("evaluate lamp.py --agent expert --out lamp.py", "--out lamp.py is a file; expected a folder, for a file of"),
        ("evaluate lamp.py --agent expert --out lamp.py/x", "--out lamp.py/x: lamp.py is a file; expected a folder"),
        ("recipe lamp.py --out lamp.py", "--out lamp.py is a file; expected a folder, for the stages and the report"),
        ("report a.jsonl --out folder", "--out folder is a folder; expected a file, such as folder/report.html"),
        ("curate a.jsonl --rule gold --out folder", "--out folder is a folder; expected a file"),
        ("import a.jsonl --from openai --out folder", "--out folder is a folder; expected a file"),
        ("export a.jsonl --to openai --out folder", "--out folder is a folder; expected a file"),
        ("store export folder", "FILE folder is a folder; expected a file"),
        ("rollout lamp.py --out /proc/x.jsonl", "--out /proc/x.jsonl: nothing can be written in /proc (No such file"),
        ("evaluate lamp.py --agent expert --out /proc/x", "--out /proc/x: nothing can be written in /proc (No such"),
        ("report a.jsonl --out /proc/x.html", "--out /proc/x.html: nothing can be written in /proc (No such file"),
        ("recipe lamp.py --out /proc/x", "--out /proc/x: nothing can be written in /proc (No such file"),
        ("report a.jsonl --out=", "--out names no file, but the present folder; expected a file, such as report.html"),
    ],
)
def test_where_a_command_cannot_write_is_said_first(here: Path, command: str, said: str) -> None:
    lamp()
    Path("folder").mkdir()
    Path("a.jsonl").touch()
    assert fails(command).startswith(said)


def test_no_command_replaces_a_file_unasked_nor_what_it_reads(here: Path) -> None:
    lamp()
    run("rollout lamp.py --agent expert --n 2 --out a.jsonl")
    run("export a.jsonl --to openai --out chats.jsonl")
    run("store import a.jsonl")
    Path("data").mkdir()
    made = {Path(name): Path(name).read_bytes() for name in ("a.jsonl", "chats.jsonl")}
    for place in ("old.jsonl", "old.card.json", "old.html", "data/sparring.json", "report.html"):
        made[Path(place)] = b"of another\n"
        Path(place).write_bytes(made[Path(place)])
    for command in (
        "export a.jsonl --to openai --out old.jsonl",
        "export a.jsonl --to llama-factory --out data",
        "import chats.jsonl --from openai --out old.jsonl",
        "report a.jsonl --out old.html",
        "report a.jsonl",
        "store export old.jsonl",
        "curate a.jsonl --rule successes --out old.jsonl",
    ):
        assert re.search(r"is there already: choose another .+, or pass --overwrite to replace it", fails(command)), (
            command
        )
    for command in (
        "export a.jsonl --to openai --out a.jsonl",
        "import chats.jsonl --from openai --out ./chats.jsonl",
        "report a.jsonl --out a.jsonl",
        "report . --out a.jsonl",
        "curate a.jsonl --rule successes --out a.jsonl",
    ):
        for more in ("", " --overwrite"):
            assert "is one of the files that are read: choose another --out" in fails(command + more), command
    assert "is no regular file" in fails("report a.jsonl --out /dev/null --overwrite")
    assert {path: path.read_bytes() for path in made} == made
    run("report a.jsonl --out old.html --overwrite")
    run("import chats.jsonl --from openai --out old.jsonl --overwrite")
    Path("eval").mkdir()
    Path("a.jsonl").rename("eval/a.jsonl")
    for _ in range(2):  # the page of a folder is its own
        assert run("report eval").stdout == "report: eval/report.html\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train sft --data a.jsonl --model tiny-qwen3 --out mine", "--out mine holds other files"),
        ("train sft --data a.jsonl --model tiny-qwen3 --out /proc/x", "--out /proc/x: nothing can be written in /proc"),
        (
            "train sft --data a.jsonl --model tiny-qwen4 --out x",
            "unknown model 'tiny-qwen4'. Did you mean 'tiny-qwen3'?",
        ),
        ("recipe lamp.py --model tiny-qwen4 --out x", "unknown model 'tiny-qwen4'. Did you mean 'tiny-qwen3'?"),
        ("rollout lamp.py --model tiny-qwen4", "unknown model 'tiny-qwen4'. Did you mean 'tiny-qwen3'?"),
        ("rollout lamp.py --n 1 --out a.jsonl", "a.jsonl holds episodes of other tasks, faults or seeds"),
        ("rollout lamp.py --model tiny-qwen3 --out a.jsonl", "a.jsonl holds episodes of agent expert: choose another"),
        (
            "evaluate lamp.py --agent expert --faults clean --n 2 --out mine",
            "mine/expert.jsonl holds episodes of other",
        ),
    ],
)
def test_names_and_places_are_checked_before_any_work(here: Path, command: str, said: str) -> None:
    lamp()
    run("rollout lamp.py --agent expert --n 2 --out a.jsonl")
    Path("mine").mkdir()
    Path("mine/expert.jsonl").write_bytes(Path("a.jsonl").read_bytes())
    (error,) = run(command, 1).stderr.splitlines()  # and no line of a stage before it
    assert error.startswith(f"error: {said}")
    assert not Path("x").exists()


def test_a_half_written_line_is_kept_until_the_file_is_known_to_be_ours(here: Path) -> None:
    lamp()
    run("rollout lamp.py --agent expert --n 2 --out a.jsonl")
    with Path("a.jsonl").open("ab") as file:
        file.write(b'{"id": "cut')
    before = Path("a.jsonl").read_bytes()
    assert "holds episodes of agent expert" in fails("rollout lamp.py --agent give-up --n 2 --out a.jsonl")
    assert Path("a.jsonl").read_bytes() == before
    run("rollout lamp.py --agent expert --n 2 --out a.jsonl")
    assert len(read(Path("a.jsonl"))) == 2


def test_what_is_no_environment_is_told_by_what_it_is(here: Path) -> None:
    Path("envs").mkdir()
    assert fails("check envs").startswith("envs is a folder; expected an environment: ")
    lamp()
    Path("lamp.py").rename("envs/lamp.py")
    assert fails("check envs").endswith("or a file in it: envs/lamp.py")
    run("rollout envs/lamp.py --agent expert --n 2 --out a.jsonl")
    assert fails("check a.jsonl").startswith("a.jsonl holds episodes; expected an environment: ")
    del sys.modules["lamp"]
    said = fails("check tamp:Lamp")
    assert said.startswith(f"unknown module 'tamp'. There is no tamp.py in {here}")
    assert said.endswith("another file: FOLDER/tamp.py:NAME")


def test_a_record_of_another_folder_says_how_its_environment_is_named(here: Path) -> None:
    Path("mine").mkdir()
    lamp()
    run("rollout lamp.py --agent expert --n 2 --out mine/a.jsonl")
    Path("lamp.py").rename("mine/lamp.py")
    del sys.modules["lamp"]
    said = run("replay mine/a.jsonl", 1).stdout
    assert "here is no lamp.py" in said
    assert "--env FOLDER/lamp.py:Lamp, with the FOLDER it is in" in said
    assert "2 identical" in run("replay mine/a.jsonl --env mine/lamp.py:Lamp").stdout
