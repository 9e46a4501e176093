"""What `sparring new env` writes: a package with an environment, its expert, tests that pass, and an entry point."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
import tempfile
from pathlib import Path
from string import Template

from ..trajectories.errors import ConfigError

__all__ = ["class_name", "new_env"]


def new_env(name: str, parent: Path) -> list[Path]:
    """Writes the package into a new folder `parent`/`name`, whole or not at all; the files.

    Raises `ConfigError` for a name that cannot be a package's, and where the folder exists.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > 60:
        raise ConfigError(
            f"a name has small letters and digits, with - or _ between its words, such as tea-shop; got {name!r:.80}"
        )
    if keyword.iskeyword(module) or keyword.issoftkeyword(module) or module in sys.stdlib_module_names:
        raise ConfigError(f"{module!r} is a word of Python or a module that comes with it; choose another name")
    from ..envs import registered

    if name in registered().values():
        raise ConfigError(f"{name!r} is the name of an environment that is there already; choose another name")
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"there is a {name} in {parent.resolve()} already; choose another name, or another folder")
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(f"a package {module!r} is installed already, and would hide yours; choose another name")
    values = {"name": name, "module": module, "cls": class_name(name)}
    written = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        files = []
        for path, text in _FILES.items():
            file = written / Template(path).substitute(values)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text.lstrip("\n")).substitute(values), "utf-8")
            files.append(folder / file.relative_to(written))
        written.chmod(0o755)
        written.rename(folder)
    except BaseException:
        shutil.rmtree(written, ignore_errors=True)
        raise
    return files


def class_name(name: str) -> str:
    """TeaShop for tea-shop; what Sparring calls so itself gets Env at its end."""
    from .. import __all__ as taken

    made = "".join(word.capitalize() for word in re.split("[-_]", name))
    return f"{made}Env" if made in taken else made


_FILES = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "An environment for Sparring."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["sparring>=0.1"]

[project.optional-dependencies]
test = ["pytest>=8"]

# By this name, `sparring` and `sparring.make` find the environment wherever the package is installed.
[project.entry-points."sparring.envs"]
$name = "$module:$cls"

[tool.hatch.build.targets.wheel]
packages = ["$module"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
""",
    "README.md": """
# $name

An environment for Sparring. What it asks of an agent is in the docstring of `$cls` in [env.py]($module/env.py).

    python -m pytest
    sparring check $module:$cls

The first runs its tests. The second says what is wrong with it, and how to fix that.

Once it is installed (`pip install -e .`), Sparring knows it by its name, in whatever folder you are:

    sparring rollout $name --agent expert --faults count=1
    sparring evaluate $name --agent blind-retry --agent expert
""",
    "$module/__init__.py": '''
"""An environment for Sparring."""

from .env import $cls

__all__ = ["$cls"]
''',
    "$module/env.py": '''
"""`$cls`: a world to begin with. Make it your own; `sparring check $module:$cls` says what is missing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sparring import NotFound, Solution, Task, ToolEnv, tool
from sparring.envs import FaultHooks

THINGS = ("lamp", "book", "plant", "clock", "chair", "globe", "radio", "kettle", "mirror", "basket")
PLACES = ("shelf", "table", "window", "hall", "cellar", "attic")
PAIRS = random.Random(0).sample([(thing, place) for thing in THINGS for place in PLACES], len(THINGS) * len(PLACES))
SPLITS = {"test": PAIRS[:12], "validation": PAIRS[12:24], "train": PAIRS[24:]}


class Hooks(FaultHooks):
    def look(self, env: Any, tool: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """How the expert sees whether a `put` that timed out took place."""
        return "place_of", {"thing_id": arguments["thing_id"]}


class $cls(ToolEnv):
    """Put a thing where it belongs.

    ## Tools
    `find(thing)` gives a thing's id; `place_of(thing_id)` says where it is; `put(thing_id, place)` puts it elsewhere.

    ## Rewards
    1 when the thing is in its place at the end, and everything else where it was; else 0.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = "Use the tools, one call at a time, then answer Done."
    fault_hooks = Hooks()

    def tasks(self, split: str, rng: random.Random) -> Iterator[Task]:
        """Endless. The splits share no pair of thing and place."""
        while True:
            thing, place = rng.choice(SPLITS[split])
            data = {"thing": thing, "place": place}
            yield Task(f"Put the {thing} in its place: {place}.", data, seed=rng.randrange(10**6))

    def setup(self, task: Task, rng: random.Random) -> None:
        """The whole world, in `self.state`: a fork copies it. All that is random comes from `rng`."""
        ids = rng.sample(range(10, 100), len(THINGS))
        away = [place for place in PLACES if place != task.data["place"]]
        self.state = {
            "ids": dict(zip(THINGS, ids, strict=True)),
            "where": {number: rng.choice(away) for number in ids},
            "moved": [],
        }

    @tool
    def find(self, thing: str) -> dict[str, Any]:
        """Find a thing's id.

        Args:
            thing: What it is, such as lamp.
        """
        if thing not in self.state["ids"]:  # a typed failure: the agent is told, and may recover
            raise NotFound(f"there is no {thing!r} here")
        return {"thing": thing, "thing_id": self.state["ids"][thing]}

    @tool
    def place_of(self, thing_id: int) -> str:
        """Say where a thing is."""
        self._check(thing_id)
        return str(self.state["where"][thing_id])

    @tool(effect=True)  # it changes the world: timeouts and retries hang on that
    def put(self, thing_id: int, place: str) -> str:
        """Put a thing somewhere."""
        self._check(thing_id)
        if place not in PLACES:
            raise NotFound(f"there is no place {place!r}", hint=f"one of {', '.join(PLACES)}")
        self.state["where"][thing_id] = place
        self.state["moved"].append(thing_id)
        return f"it is in its new place: {place}"

    def success(self, task: Task) -> bool:
        """Judged on the end state. Moving a thing twice, or another thing, is no success."""
        number = self.state["ids"][task.data["thing"]]
        return bool(self.state["moved"] == [number] and self.state["where"][number] == task.data["place"])

    def solve(self, task: Task) -> Solution:
        """The expert. After a failure it is started again from the state as it then is."""
        if not self.success(task):
            found = yield "find", {"thing": task.data["thing"]}
            yield "put", {"thing_id": found.value["thing_id"], "place": task.data["place"]}

    def _check(self, thing_id: int) -> None:
        if thing_id not in self.state["where"]:
            raise NotFound(f"no thing has the id {thing_id}", hint="find it by its name")
''',
    "tests/test_$module.py": '''
"""Whether the environment is sound, its expert good, and its failures are told."""

from __future__ import annotations

import pytest
from $module import $cls

from sparring import Action, FaultPlan, Outcome
from sparring.envs import SPLITS, check_env, play, task_set


def test_it_passes_the_check() -> None:
    assert check_env($cls) == []


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("plan", ["", "unavailable:0.3", "count=1:timeout_landed", "count=2"])
def test_the_expert_solves_it(split: str, plan: str) -> None:
    env = $cls()
    for task in task_set(env, split, 20):
        env.start(task, FaultPlan.parse(plan))
        play(env)
        assert env.judge()[0], task


def test_an_unknown_thing_is_an_observation() -> None:
    env = $cls()
    env.reset(seed=0)
    result = env.act(Action.call("find", thing="unicorn")).turn.results[0]
    assert result.outcome is Outcome.NOT_FOUND


def test_moving_something_else_is_no_success() -> None:
    env = $cls()
    env.reset(seed=0)
    other = next(number for thing, number in env.state["ids"].items() if thing != env.episode.task.data["thing"])
    assert env.act(Action.call("put", thing_id=other, place="hall")).turn.results[0].ok
    play(env)
    assert not env.judge()[0]
''',
    ".gitignore": """
__pycache__/
.pytest_cache/
*.egg-info/
dist/
""",
}
