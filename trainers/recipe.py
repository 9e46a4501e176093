"""A recipe: from environments to a trained, measured policy, in stages that resume. A recipe is data: a YAML file.

    run_recipe("orders", "quick", folder=Path("runs/orders"), watcher=watch)

A file in `trainers/recipes/`, or one of yours, says which stages there are and what each builds on; `profiles` in it
change sizes. Every stage has a folder of its name and a key: the hash of its settings and of the keys that it builds
on. A stage whose key did not change is reused, one that was interrupted goes on, any other is done anew: a stage that
is added or moved redoes no other. All arms are evaluated on the same test tasks with the same fault seeds and sampling
seeds; nothing is tuned on them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ..agents.rollouts import EpisodeSpec, rollout, telling
from ..agents.runtime import release_memory
from ..agents.scripts import scripted
from ..envs.experts import expert
from ..envs.registry import make
from ..envs.task import task_set
from ..tools.faults import FAULTS
from ..tools.plans import FaultPlan
from ..trajectories.errors import ConfigError, UnknownName
from ..trajectories.locks import only_process_in
from ..trajectories.pages.report import Arm
from ..trajectories.plain import from_plain, to_plain
from .mixture import Part
from .recipe_report import write_recipe_report
from .run import write_text
from .stage import BASE, STAGES, Done, PolicySettings, Stage, TrainedOn, Watcher, Work, check_uses
from .stages.evaluate import Plays, arms_in

__all__ = ["Recipe", "RecipeResult", "recipes", "run_recipe"]

_VERSION = 3
"""Raised when stages change what they do with the same settings."""

_TRIED = 12
"""Training tasks that the expert plays under each kind of fault, to see which fit."""


@dataclass(frozen=True, slots=True)
class _Document:
    """What a recipe's file says, a profile of it applied."""

    stages: Mapping[str, Any]
    """By name, in order: `kind` and its fields."""
    model: str
    """That training begins with."""
    conditions: Mapping[str, Plays]
    """Columns of the table: what every arm plays."""
    about: str = ""
    """What the arms are, for the report."""
    envs: tuple[str, ...] = ()
    """What is trained on, with a weight if wanted: 2*orders."""
    held_out: Mapping[str, str] = field(default_factory=dict)
    """Environment -> one that is measured next to it and never trained on."""
    levels: tuple[int, ...] = ()
    """Of tasks; empty: all."""
    faults: tuple[str, ...] = ()
    """Kinds to train and measure with, of those that an environment can have; empty: all kinds."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    """How the model is loaded and plays."""
    baseline: str = ""
    """The arm that the others are compared with."""
    headline: str = ""
    """The arm whose result the report begins with."""
    headline_condition: str = ""
    """And the column."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as it is to be run."""

    name: str
    profile: str
    document: _Document
    stages: Mapping[str, Stage]
    """By name, in order."""

    @classmethod
    def load(cls, name: str, profile: str, *, model: str | None = None) -> Recipe:
        """A recipe that comes with Sparring, or a YAML file, with one of its profiles applied.

        Raises `UnknownName` for a recipe, profile, kind or field that is none, `ConfigError` for what cannot be meant.
        """
        data = _read(name)
        profiles = data.pop("profiles", None) or {}
        if profile not in profiles and not (profile == "" and not profiles):
            raise UnknownName(f"profile of the recipe {name}", profile, profiles)
        data = _merged(data, profiles.get(profile, {}))
        if model is not None:
            data["model"] = model
        document = from_plain(_Document, data, f"recipe {name}")
        return cls(Path(name).stem, profile, document, _stages(document, name))

    def envs(self, asked: Sequence[str]) -> list[str]:
        """What it trains on: what is asked for, else what it names. Raises `ConfigError` where that is nothing."""
        if envs := list(asked) or list(self.document.envs):
            return envs
        raise ConfigError(f"the recipe {self.name} names no environment: say which to train on")


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """What came out."""

    arms: list[Arm]
    report: Path
    baseline: str
    """Name of the arm that the others are compared with."""
    seconds: float
    """Of this call, reused stages included."""


def recipes() -> list[str]:
    """Names of the recipes that come with Sparring."""
    folder = resources.files(__package__).joinpath("recipes")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def run_recipe(
    env: str | Sequence[str] = (),
    profile: str = "quick",
    *,
    recipe: str = "recover",
    model: str | None = None,
    folder: Path,
    seed: int = 0,
    held_out: str | None = None,
    watcher: Watcher,
) -> RecipeResult:
    """Runs, or goes on with, a recipe in `folder`.

    Args:
        env: What is trained on: a name as `make` takes it, or several, with weights if wanted (`2*orders`). They need
            an expert (`solve`). Empty: what the recipe says.
        profile: How much of everything.
        recipe: One of `recipes()`, or a YAML file.
        model: Instead of the recipe's.
        folder: Of the stages and the report.
        seed: Of everything.
        held_out: An environment that is measured and never trained on, instead of the recipe's; "": none.
        watcher: Is told how it goes.
    """
    loaded = Recipe.load(recipe, profile, model=model)
    asked = [env] if isinstance(env, str) else env
    parts = [Part.parse(text) for text in loaded.envs([e for e in asked if e])]
    if held_out is None:
        held_out = loaded.document.held_out.get(parts[0].env, "")
    started = time.monotonic()
    with only_process_in(folder):
        arms = _Running(loaded, parts, folder, seed, held_out, watcher).run()
    return RecipeResult(arms, write_recipe_report(folder), loaded.document.baseline, time.monotonic() - started)


@dataclass
class _Running:
    recipe: Recipe
    parts: list[Part]
    folder: Path
    seed: int
    held_out: str
    watcher: Watcher
    done: dict[str, Done] = field(default_factory=dict)

    def run(self) -> list[Arm]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_about()
        document = self.recipe.document
        envs = tuple(TrainedOn(part.env, part.weight, self._kinds(part.env)) for part in self.parts)
        for index, (name, stage) in enumerate(self.recipe.stages.items(), 1):
            work = Work(
                name=name,
                folder=self.folder / name,
                inputs={used: self.done[used] for used in stage.uses() if used != BASE},
                envs=envs,
                levels=document.levels,
                held_out=self.held_out,
                model=document.model,
                how=document.policy,
                seed=self.seed,
                watcher=self.watcher,
            )
            self._stage(stage, work, index)
        return [arm for name in self.recipe.stages for arm in arms_in(self.folder / name)]

    def _stage(self, stage: Stage, work: Work, index: int) -> None:
        """Does the stage's work unless it was done with the same settings and inputs."""
        key = self._key(stage, work)
        marker = work.folder / "stage.json"
        known = json.loads(marker.read_text()) if marker.exists() else {}
        same = known.get("key") == key
        reused = same and known.get("done", False)
        self.watcher.stage(work.name, index, len(self.recipe.stages), reused=reused)
        if not reused:
            if not same:
                shutil.rmtree(work.folder, ignore_errors=True)
            work.folder.mkdir(exist_ok=True)
            spent = known.get("seconds", 0.0) if same else 0.0
            write_text(marker, json.dumps({"key": key, "done": False, "seconds": spent}))
            started = time.monotonic()
            with telling(lambda text: self.watcher.say(f"note: {work.name}: {text}")):
                stage.run(work)
            release_memory()  # what follows needs other shapes
            spent += time.monotonic() - started
            write_text(marker, json.dumps({"key": key, "done": True, "seconds": round(spent, 1)}))
        self.done[work.name] = Done(work.name, work.folder, key)

    def _key(self, stage: Stage, work: Work) -> str:
        uses = stage.uses()
        what = {
            "version": _VERSION,
            "kind": type(stage).__name__,
            "stage": to_plain(stage),
            "envs": to_plain(work.envs),
            "held out": work.held_out,
            "levels": work.levels,
            "seed": work.seed,
            "inputs": [work.model if used == BASE else self.done[used].key for used in uses],
            "policy": to_plain(work.how) if uses else None,
        }
        files: Sequence[str] = getattr(stage, "files", tuple)()
        if files:
            what["files"] = [hashlib.sha256(_bytes(file, work.name)).hexdigest() for file in files]
        return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=12).hexdigest()

    def _kinds(self, env: str) -> tuple[str, ...]:
        """The recipe's kinds of fault that can strike this environment and that its expert survives."""
        made = make(env)
        tasks = task_set(made, "train", _TRIED, seed=self.seed, levels=self.recipe.document.levels)
        made.start(tasks[0])
        next(expert(made))  # without an expert, that is said at once
        clean = rollout(env, scripted("expert"), [EpisodeSpec(t) for t in tasks])
        if failed := [t for t in clean if not t.success]:
            raise ConfigError(
                f"without any fault, the expert fails {len(failed)} of {len(clean)} tasks of {env}: "
                f"see `sparring check {env}`"
            )
        able = []
        for kind in self.recipe.document.faults or tuple(FAULTS):
            played = rollout(env, scripted("expert"), [EpisodeSpec(t, FaultPlan((kind,), 1)) for t in tasks])
            struck = [t for t in played if t.faults_hit]
            if 2 * len(struck) >= len(played) and 10 * sum(bool(t.success) for t in struck) >= 9 * len(struck):
                able.append(kind)
        if not able:
            raise ConfigError(
                f"no kind of fault strikes half of the episodes of {env} and is survived by its expert: "
                f"a task needs two calls or more; see `sparring check {env}`"
            )
        return tuple(able)

    def _write_about(self) -> None:
        """Says what the folder holds. Raises `ConfigError` where that is another recipe: hours of work may be in it."""
        document = self.recipe.document
        about = {
            "recipe": self.recipe.name,
            "env": [f"{part.weight:g}*{part.env}" if part.weight != 1 else part.env for part in self.parts],
            "profile": self.recipe.profile,
            "model": document.model,
            "seed": self.seed,
            "held_out": self.held_out,
            "levels": list(document.levels),
            "about": document.about,
            "stages": list(self.recipe.stages),
            "baseline": document.baseline,
            "headline": document.headline,
            "headline_condition": document.headline_condition,
            "command": " ".join(["sparring", *sys.argv[1:]]),
        }
        path = self.folder / "recipe.json"
        held = json.loads(path.read_text()) if path.exists() else {}
        for what in ("recipe", "env", "profile", "model", "seed", "held_out"):
            if held and held.get(what) != about[what]:
                raise ConfigError(
                    f"{self.folder} holds the recipe with {what.replace('_', '-')} {held.get(what)!r}, "
                    f"not {about[what]!r}: choose another --out, or delete that folder"
                )
        write_text(path, json.dumps(about, indent=1))


def _bytes(file: str, stage: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"stage {stage}: cannot read {file}: {error.strerror or error}") from None


# ---- a recipe's file -------------------------------------------------------------------------------------------------


def _read(name: str) -> dict[str, Any]:
    import yaml

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the recipe {name}: {error.strerror or error}") from None
    else:
        if name not in recipes():
            raise UnknownName("recipe", name, recipes())
        text = resources.files(__package__).joinpath("recipes", f"{name}.yaml").read_text("utf-8")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {name}: expected a mapping with model, conditions and stages")
    return data


def _merged(base: Any, over: Any) -> Any:
    """`base` with what `over` says; mappings are merged, all else is replaced, and null takes an entry away."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    out = {key: _merged(value, over[key]) if key in over else value for key, value in base.items()}
    out |= {key: value for key, value in over.items() if key not in base}
    return {key: value for key, value in out.items() if value is not None}


def _stages(document: _Document, recipe: str) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for name, said in document.stages.items():
        where = f"recipe {recipe}, stage {name}"
        if not isinstance(said, Mapping) or "kind" not in said:
            raise ConfigError(f"{where}: expected a mapping with a kind: {', '.join(STAGES.names())}")
        kind = STAGES.get(str(said["kind"]))
        fields = {key: value for key, value in said.items() if key != "kind"}
        if "conditions" in getattr(kind, "__dataclass_fields__", {}):
            fields = {"conditions": to_plain(document.conditions), **fields}
        stages[name] = stage = from_plain(kind, fields, where)
        check_uses(name, stage.uses(), list(stages)[:-1])
    return stages
