"""What a stage of a recipe is, and the registry of their kinds: one file in `trainers/stages/` each.

A kind is a frozen dataclass: its fields are what a recipe's YAML may say of such a stage, `uses` names the stages that
it builds on, and `run` does the work in a folder of its own. What it writes there is what later stages read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..envs.registry import make
from ..envs.task import task_set
from ..trajectories.errors import ConfigError, DataError
from ..trajectories.registry import Registry
from ..trajectories.trajectory import Task, Trajectory, dump_jsonl
from .mixture import Mixture, Part
from .run import Run, write_text
from .settings import Precision

if TYPE_CHECKING:
    from .model import Policy

__all__ = [
    "BASE",
    "EPISODES",
    "STAGES",
    "Done",
    "PolicySettings",
    "Stage",
    "TrainedOn",
    "Watcher",
    "Work",
    "check_uses",
    "is_file",
]

BASE = "base"
"""In place of a stage's name: the model that the recipe begins with."""

EPISODES = "episodes"
"""Name of the file in which a stage leaves its episodes."""


class Watcher(Protocol):
    """Is told how a recipe goes."""

    def stage(self, title: str, index: int, of: int, *, reused: bool) -> None:
        """A stage begins, or is reused because its inputs did not change."""
        ...

    def progress(self, done: int, total: int, note: str = "", seconds_left: float | None = None) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How the model is loaded and how it plays, in all stages."""

    precision: Precision = "bf16"
    """bf16: float32 master weights, the work in bfloat16. fp32: all in float32."""
    tool_style: str = "signature"
    """How tools are shown to the model: schema or signature."""
    thinking: bool = True
    """Whether the model may think before it answers."""
    parallel: int = 64
    """Episodes that it plays at once."""


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """An environment that the recipe trains on."""

    env: str
    weight: float
    kinds: tuple[str, ...]
    """Kinds of fault that can strike it and that its expert survives."""

    def plan(self, text: str) -> str:
        """A fault plan's one line, with `{kinds}` filled in."""
        return text.replace("{kinds}", ",".join(self.kinds))


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage."""

    name: str
    folder: Path
    key: str
    """Hash of its settings and of the keys that it builds on."""

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def read(self, name: str = EPISODES) -> list[Trajectory]:
        """Episodes that it left. Raises `DataError` where it left none of that name."""
        path = self.folder / f"{name}.jsonl"
        if not path.is_file():
            raise DataError(f"the stage {self.name} leaves no {name}: it cannot be an input here")
        return [Trajectory.from_json(line) for line in path.read_bytes().splitlines()]


@dataclass(frozen=True)
class Work:
    """What a stage is given to work with."""

    name: str
    folder: Path
    """Its own."""
    inputs: Mapping[str, Done]
    """The stages that it uses, by name."""
    envs: tuple[TrainedOn, ...]
    levels: tuple[int, ...]
    """Of tasks; empty: all."""
    held_out: str
    """An environment that is measured and never trained on; "": none."""
    model: str
    """That the recipe begins with."""
    how: PolicySettings
    seed: int
    watcher: Watcher = field(repr=False)

    def policy(self, stage: str, **options: Any) -> Policy:
        """The model of a stage, or `BASE`."""
        from .model import Policy

        source: str | Path = self.model if stage == BASE else self.inputs[stage].model
        how: dict[str, Any] = {"tool_style": self.how.tool_style, "precision": self.how.precision}
        if not self.how.thinking:
            how["thinking"] = "off"
        return Policy.load(source, **how, **options)

    def episodes(self, source: str) -> list[Trajectory]:
        """Of a stage, or of a file of episodes. Raises `DataError` where there are none."""
        if not is_file(source):
            return self.inputs[source].read()
        try:
            lines = Path(source).read_bytes().splitlines()
        except OSError as error:
            raise DataError(f"stage {self.name}: cannot read {source}: {error.strerror or error}") from None
        return [Trajectory.from_json(line) for line in lines if line.strip()]

    def mixture(self, shares: Mapping[str, float]) -> Mixture:
        """The recipe's environments under fault plans by share; `{kinds}` in a plan are those of each environment."""
        parts = (
            Part(e.env, tuple((e.plan(text), share) for text, share in shares.items()), self.levels, e.weight)
            for e in self.envs
        )
        return Mixture(tuple(parts))

    def tasks(self, env: str, n: int, shift: int = 0) -> list[Task]:
        """`n` training tasks; an environment that has fewer gives all it has, again and again."""
        tasks = task_set(make(env), "train", n, seed=self.seed + shift, levels=self.levels)
        return [tasks[i % len(tasks)] for i in range(n)]

    def split(self, n: int) -> list[tuple[TrainedOn, int]]:
        """`n` things over the environments by their weights; they add up to `n`."""
        whole = sum(e.weight for e in self.envs)
        counts = [int(n * e.weight / whole) for e in self.envs]
        rest = sorted(range(len(counts)), key=lambda i: counts[i] - n * self.envs[i].weight / whole)
        for i in rest[: n - sum(counts)]:
            counts[i] += 1
        return list(zip(self.envs, counts, strict=True))

    def write(self, name: str, trajectories: Iterable[Trajectory]) -> None:
        """Episodes into a file of the stage, whole or not at all."""
        path = self.folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, dump_jsonl(list(trajectories)).decode())

    def counting(self, total: int, note: str = "") -> Callable[[int, Trajectory], None]:
        """For `rollout`'s `on_done`: shows how many are played, and the success so far."""
        done = successes = 0
        started = time.monotonic()

        def count(_: int, trajectory: Trajectory) -> None:
            nonlocal done, successes
            done += 1
            successes += bool(trajectory.success)
            left = (time.monotonic() - started) / done * (total - done)
            self.watcher.progress(done, total, f"{note} success {successes / done:.2f}".strip(), left)

        return count

    def training(self, metric: str) -> Callable[[Run, dict[str, float]], None]:
        """For `train`'s `on_step`: shows the step and one number, and how many of its groups had a signal."""

        def show(run: Run, row: dict[str, float]) -> None:
            note = f"{metric} {row[metric]:.3f}" if metric in row else f"loss {row['loss']:.3f}"
            note += f" signal {row['signal']:.2f}" if "signal" in row else ""
            self.watcher.progress(run.step + 1, run.total, note, run.seconds_left())

        return show


def is_file(source: str) -> bool:
    """Whether a recipe names a file of episodes there, and no stage."""
    return source.endswith(".jsonl")


class Stage(Protocol):
    """A kind of stage; a frozen dataclass. One that reads files too names them by a method `files`: it is done anew
    where their content changes."""

    about: ClassVar[str]
    """What it does, in one line."""

    def uses(self) -> Sequence[str]:
        """Names of the stages that it builds on, and `BASE` where it is the model that the recipe begins with."""
        ...

    def run(self, work: Work) -> None:
        """Does the work. Called again in the same folder after an interruption."""
        ...


STAGES: Registry[type[Any]] = Registry("kind of stage", package="sparring.trainers.stages", group="sparring.stages")
"""Kinds of stages by name."""


def check_uses(name: str, uses: Sequence[str], before: Sequence[str]) -> None:
    """Raises `ConfigError` for a stage that builds on one which does not come before it."""
    for used in uses:
        if used != BASE and used not in before:
            known = ", ".join([BASE, *before])
            raise ConfigError(f"stage {name} builds on {used!r}, which does not come before it: {known}")
