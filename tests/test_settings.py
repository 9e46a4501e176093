"""Options made from dataclasses, `--config` and `--print-config`."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import shlex
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring.cli import root
from sparring.cli.config import as_yaml, effective
from sparring.cli.settings import Fields, command, expanded, first_sentence, options_of
from sparring.trajectories.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    """How fast. In units that nobody needs to know."""
    style: Literal["plain", "grand"] = "plain"
    """How it looks."""


@dataclass(frozen=True)
class Base:
    steps: int = 3
    """How many e.g. of these; 0: none."""


@dataclass(frozen=True)
class Toy(Base):
    inner: Inner = field(default_factory=lambda: Inner(rate=2.0))
    """Of the inside."""
    name: str | None = None
    """What it is called"""
    sizes: tuple[int, ...] = (1, 2)
    """Of its parts."""
    words: tuple[str, ...] = ("a",)
    """That it says."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Two of them."""
    loud: bool = False
    """Whether it is."""
    memory: Literal["auto"] | int = "auto"
    """How much."""
    depth: Literal[1, 2] = 1
    """How deep."""
    quiet: bool | None = None
    """Unless it is asked."""
    hidden: dict[str, int] = field(default_factory=dict)
    """No option."""


SKIP = {"hidden": "a mapping"}


def call(arguments: str, of: Fields | None = None) -> Toy:
    """The settings that a command gets."""
    got: list[Toy] = []

    @command(config=True, toy=of or Fields(Toy, skip=SKIP))
    def play(*, toy: Any) -> None:
        """Play."""
        got.append(toy)

    root.built("play", play).main(shlex.split(arguments), prog_name="play", standalone_mode=False)
    return got[0]


# ---- options ---------------------------------------------------------------------------------------------------------


def test_an_option_for_each_field() -> None:
    options = {p.name: (get_args(p.annotation), p.default) for p in options_of(Fields(Toy, skip=SKIP))}
    assert list(options) == [
        "steps", "rate", "style", "name", "sizes", "words", "betas", "loud", "memory", "depth", "quiet",
    ]  # fmt: skip
    (kind, option), default = options["rate"]
    assert (kind, option.help, default) == (float, "How fast.", 2.0)
    assert get_args(options["style"][0][0]) == ("plain", "grand")
    assert options["steps"][0][1].help == "How many e.g. of these; 0: none."


def test_defaults_are_those_of_the_dataclass() -> None:
    assert call("") == Toy()


def test_values_have_the_types_of_the_fields() -> None:
    given = (
        "--steps 7 --rate 0.25 --style grand --name x --sizes 2-4 --words b --words c --betas 0.1 0.2 --loud "
        "--memory 12 --depth 2 --no-quiet"
    )
    assert call(given) == Toy(7, Inner(0.25, "grand"), "x", (2, 3, 4), ("b", "c"), (0.1, 0.2), True, 12, 2, False)
    assert call("--memory auto").memory == "auto"
    for wrong in ("--memory many", "--style huge", "--sizes x", "--depth 3", "--steps 1.5"):
        with pytest.raises(typer.BadParameter):
            call(wrong)


def test_a_least_value_is_kept() -> None:
    of = Fields(Toy, skip=SKIP, least={"steps": 1})
    with pytest.raises(typer.BadParameter):
        call("--steps 0", of)
    assert call("--steps 1", of).steps == 1


def test_a_field_may_have_another_option() -> None:
    assert call("--speed 3", Fields(Toy, skip=SKIP, rename={"rate": "speed"})).inner.rate == 3.0


def test_what_cannot_be_an_option_is_refused_when_the_command_is_built() -> None:
    with pytest.raises(TypeError, match=r"Toy\.hidden cannot be an option: there is no option of type dict.*; skip it"):
        call("", Fields(Toy))

    @command(toy=Fields(Toy, skip=SKIP))
    def clash(*, toy: Toy, steps: int = 1) -> None:
        """Two of the same name."""

    with pytest.raises(TypeError, match="clash: two options are called steps"):
        expanded(clash)


@dataclass(frozen=True)
class Needs:
    what: dict[str, int]
    """Given by the command."""
    steps: int = 3
    """How many."""


def test_settings_that_need_what_is_no_option_come_as_a_function() -> None:
    made: Any = call("--steps 4", Fields(Needs, skip={"what": "given"}))
    assert made(what={"a": 1}) == Needs({"a": 1}, 4)


def test_first_sentences() -> None:
    assert first_sentence("One, 2.5 of it; e.g. this.\nAnd\nmore. Yes.") == "One, 2.5 of it; e.g. this."
    assert first_sentence("Not ended\n\nAnother paragraph.") == "Not ended"


# ---- files of settings -----------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, code: int = 0) -> Any:
    result = CliRunner().invoke(root.app, shlex.split(line))
    assert result.exit_code == code, f"{line}: {result.exit_code}\n{result.output}\n{result.exception!r}"
    return result


def fails(line: str) -> str:
    return str(run(line, 1).stderr.splitlines()[-1]).removeprefix("error: ")


def test_a_file_of_settings_is_read_and_the_command_line_wins(here: Path) -> None:
    (here / "run.yaml").write_text("env: echo\nagent: do-nothing\nn: 2\nmax-turn-tokens: 8\nlevels: [1]\nfaults:\n")
    assert "success 0% [0, 66] of 2 episodes" in run("rollout --config run.yaml").stdout
    assert "success 100% [34, 100] of 2 episodes" in run("rollout --config run.yaml --agent expert").stdout
    printed = yaml.safe_load(run("rollout --config run.yaml --n 3 --print-config").stdout)
    assert printed["n"] == 3
    assert printed["max_turn_tokens"] == 8
    assert printed["levels"] == "1"
    assert not {"config", "print_config", "overwrite"} & printed.keys()


def test_files_that_are_wrong_are_said_in_one_line(here: Path) -> None:
    file = here / "run.yaml"
    for text, said in {
        "temprature: 1\n": "unknown setting in run.yaml 'temprature'. Did you mean 'temperature'?",
        "overwrite: true\n": "unknown setting in run.yaml 'overwrite'",
        "n: many\n": "run.yaml: n: ",
        "n: 0\n": "run.yaml: n: ",
        "split: tset\n": "run.yaml: split: ",
        "device: off\n": "run.yaml: device: expected a text, got false; put it in quotes",
        "n: {a: 1}\n": "run.yaml: n: expected one value, got a mapping",
        "- a\n": "run.yaml: expected settings as `name: value`, one a line, got list",
        "a: [\n": "run.yaml is no YAML: ",
    }.items():
        file.write_text(text)
        assert fails("rollout echo --config run.yaml").startswith(said), text
    assert fails("rollout echo --config none.yaml") == "there is no file none.yaml"


def test_a_template_needs_no_settings(here: Path) -> None:
    printed = run("train sft --print-config").stdout
    assert yaml.safe_load(printed)["out"] is None
    (here / "run.yaml").write_text(printed)
    assert "--data" in run("train sft --config run.yaml", 2).stderr


def test_a_run_keeps_its_settings(here: Path) -> None:
    run("evaluate echo --agent expert --n 2 --out eval")
    again = run("evaluate --config eval/run.yaml --print-config").stdout
    assert again == (here / "eval/run.yaml").read_text()
    assert "4 episodes of 4 were in eval/expert.jsonl already" in run("evaluate --config eval/run.yaml").stderr


CONFIGURABLE = (
    "rollout",
    "evaluate",
    "recipe",
    "train sft",
    "train dpo",
    "train grpo",
    "train ppo",
    "train dagger",
    "train distill",
)


@functools.cache
def built(name: str) -> Any:
    """The click command of that name."""
    made: Any = typer.main.get_command(root.app)
    for part in name.split():
        made = made.commands[part]
    return made


def test_every_long_command_reads_settings() -> None:
    for name in CONFIGURABLE:
        assert {"config", "print_config"} <= {p.name for p in built(name).params}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FILES = st.text("abc. -_é", min_size=1).map(Path)


def values(hint: Any, least: float | None) -> st.SearchStrategy[Any]:
    """Of an option of this type, as the command line gives them."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint)).map(lambda v: [str(v)])
    if get_origin(hint) is list:
        inner = get_args(hint)[0]
        return st.lists(FILES.map(str) if inner is Path else TEXT, min_size=1, max_size=3)
    if get_origin(hint) is tuple:
        return st.tuples(*(st.floats(-9, 9) for _ in get_args(hint))).map(lambda v: [list(map(str, v))])
    if get_args(hint) and type(None) in get_args(hint):
        return values(next(a for a in get_args(hint) if a is not type(None)), least)
    low = int(least) if least is not None else -1000
    return {
        int: st.integers(low, 10**6).map(lambda v: [str(v)]),
        float: st.floats(low, 1e9, allow_nan=False).map(lambda v: [str(v)]),
        str: TEXT.map(lambda v: [v]),
        Path: FILES.map(lambda v: [str(v)]),
        bool: st.booleans().map(lambda v: v),
    }[hint]


@st.composite
def calls(draw: st.DrawFn, name: str) -> list[str]:
    """A command line of some of its options."""
    out: list[str] = []
    for parameter in built(name).params:
        hint = types_of(name).get(parameter.name)
        argument = parameter.param_type_name == "argument"
        if hint is None or not (parameter.required or argument or draw(st.booleans())):
            continue
        given = draw(values(hint, getattr(parameter, "min", None)))
        option = max(parameter.opts, key=len)
        if isinstance(given, bool):
            out += [option if given or not parameter.secondary_opts else parameter.secondary_opts[0]]
        elif argument:
            out.insert(0, f"x{given[0]}")
        else:
            for value in given:
                out += [option, *value] if isinstance(value, list) else [f"{option}={value}"]
    return out


@functools.cache
def types_of(name: str) -> dict[str, Any]:
    """Parameter -> its type, without those that are no settings."""
    signature = inspect.signature(built(name).callback.__wrapped__)
    skipped = ("ctx", "config", "print_config", "plan", "overwrite")
    return {
        p.name: get_args(p.annotation)[0] if get_origin(p.annotation) is Annotated else p.annotation
        for p in signature.parameters.values()
        if p.name not in skipped
    }


@pytest.mark.parametrize("name", CONFIGURABLE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_printed_settings_read_back_to_the_same(name: str, data: st.DataObject) -> None:
    made = built(name)
    with made.make_context(name, data.draw(calls(name))) as ctx:
        before = effective(ctx)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(as_yaml(before), "utf-8")
        with made.make_context(name, ["--config", str(file)]) as ctx:
            assert effective(ctx) == before


def test_settings_are_printed_a_line_each_and_bad_ones_named_by_their_line(tmp_path: Path) -> None:
    assert as_yaml({"mixture": {"flow": 1}, "faults": ["clean", "count=1"]}) == (
        "mixture:\n  flow: 1\nfaults:\n- clean\n- count=1\n"
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text("lr: [1\nsteps: {")
    with pytest.raises(ConfigError, match=r"^\S+bad\.yaml is no YAML: line 2, column \d+: expected") as caught:
        built("rollout").make_context("rollout", ["--config", str(bad)])
    assert "unicode string" not in str(caught.value)


# ---- an objective is one file ----------------------------------------------------------------------------------------


TOY = """
from dataclasses import dataclass
from sparring.trainers.objective import OBJECTIVES
from sparring.trainers.settings import TrainSettings

@dataclass(frozen=True, slots=True)
class ToySettings(TrainSettings):
    strength: float = 0.5
    \"\"\"How strongly it pulls. Per step.\"\"\"

@OBJECTIVES.register("toy")
class Toy:
    \"\"\"Learns nothing. Quickly.\"\"\"

    Settings = ToySettings
    needs = "episodes"
    metric = "loss"
"""


def test_an_objective_of_one_file_gets_its_subcommand(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.trainers.objective import OBJECTIVES

    (here / "toy_objective.py").write_text(TOY)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setattr(OBJECTIVES, "_known", {**OBJECTIVES._known})
    importlib.import_module("toy_objective")
    assert re.search(r"^ +toy +Learns nothing$", run("train --help").stdout, re.MULTILINE)
    shown = run("train toy --help").stdout
    assert "--strength <float>" in shown
    assert "How strongly it pulls." in shown
    assert "sparring train toy --data gold.jsonl" in shown
    assert yaml.safe_load(run("train toy --data x --strength 2 --print-config").stdout)["strength"] == 2.0
    assert "Did you mean 'toy'?" in run("train toyy", 2).stderr


def test_help_of_training_names_the_objectives_and_loads_no_torch(tmp_path: Path) -> None:
    import os
    import subprocess

    code = (
        "import sys; from sparring.cli.root import app\n"
        "try: app(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent / "src")},
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "False"
    for name in ("sft", "dpo", "grpo", "ppo", "dagger", "distill"):
        assert f"\n  {name} " in done.stdout
