"""`sparring new`: what it writes works, as a folder and once installed; what it refuses, it refuses in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparring.app.scaffold import class_name, new_env
from sparring.cli.root import app
from sparring.trajectories import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def run_python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """What a fresh interpreter prints, warnings being errors; `path` is where further packages are."""
    places = [str(ROOT / "src"), *([str(path)] if path else [])]
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scaffolded package."""
    folder = tmp_path_factory.mktemp("new")
    new_env("tea-shop", folder)
    return folder / "tea-shop"


def test_it_says_what_it_wrote_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new", "env", "tea-shop"])
    assert result.exit_code == 0, result.output
    written = [line.strip() for line in result.output.split("\n\n")[0].splitlines()]
    assert sorted(written) == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert "sparring check tea_shop:TeaShop" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["tea-shop"]  # nothing else is left behind


def test_its_own_tests_pass(made: Path) -> None:
    printed = run_python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", cwd=made)
    assert "15 passed" in printed


def test_the_check_finds_nothing(made: Path) -> None:
    code = "from sparring.cli.root import main; main()"
    assert run_python("-c", code, "check", "tea_shop:TeaShop", cwd=made) == "tea_shop:TeaShop: all is well\n"


def test_it_is_as_tidy_as_this_house(made: Path) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    rules = ",".join(config["lint"]["select"])
    length = str(config["line-length"])
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--select", rules], ["format", "--check"]):
        options = ["--isolated", "--no-cache", "--line-length", length, str(made)]
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_once_installed_it_is_known_by_its_name(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [*pip, "--disable-pip-version-check", "--target", str(site), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = (
        "import sys, sparring, sparring.envs; known = sparring.registered(); late = 'tea_shop' not in sys.modules; "
        "print(known['tea-shop/TeaShop-v0'], late, type(sparring.make('tea-shop')).__name__)"
    )
    assert run_python("-W", "error", "-c", code, cwd=tmp_path, path=site) == "tea-shop True TeaShop\n"
    cli = "from sparring.cli.root import main; main()"
    played = run_python("-c", cli, "rollout", "tea-shop", "--agent", "expert", "--n", "4", cwd=tmp_path, path=site)
    assert played.startswith("success 100%")
    assert "Put a thing where it belongs." in run_python("-c", cli, "envs", cwd=tmp_path, path=site)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Tea", "a name has small letters and digits, with - or _ between its words, such as tea-shop; got 'Tea'"),
        ("../tea", "got '../tea'"),
        ("tea shop", "got 'tea shop'"),
        ("tea-", "got 'tea-'"),
        ("", "got ''"),
        ("tée", "got 'tée'"),
        ("a" * 61, "a name has small letters"),
        ("1tea", "got '1tea'"),
        ("class", "'class' is a word of Python or a module that comes with it; choose another name"),
        ("json", "'json' is a word of Python or a module"),
        ("sparring", "a package 'sparring' is installed already, and would hide yours; choose another name"),
        ("here", "there is a here in "),
        ("dangling", "there is a dangling in "),
    ],
)
def test_a_bad_name_is_refused_in_one_line(
    name: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    result = CliRunner().invoke(app, ["new", "env", "--", name])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert error in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "here"]
    assert not any((tmp_path / "here").iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Path.write_text

    def fails(self: Path, *arguments: str) -> int:
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(self))
        written.append(self.name)
        return write(self, *arguments)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="No space left"):
        new_env("tea", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_of_classes() -> None:
    assert class_name("tea-shop") == "TeaShop"
    assert class_name("tea_2go") == "Tea2go"
    assert class_name("task") == "TaskEnv"  # what the module imports is not hidden


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("abc1-_ ./"), max_size=8))
def test_any_name_is_written_or_refused(name: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        try:
            files = new_env(name, Path(place))
        except ConfigError:
            assert not list(Path(place).iterdir())
            return
        made = Path(place) / name
        assert made.is_dir()
        assert all(file.is_file() for file in files)
        module = name.replace("-", "_")
        modules = list(made.rglob("*.py"))
        assert len(modules) >= 3
        for file in modules:
            compile(file.read_text("utf-8"), str(file), "exec")
        points = tomllib.loads((made / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["sparring.envs"]
        assert points == {name: f"{module}:{class_name(name)}"}
