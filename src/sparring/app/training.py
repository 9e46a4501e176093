"""What `sparring train` does: data curated, a model loaded, a run that resumes. Options: `cli.train`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..agents.loading import tool_style_of
from ..trajectories.curation import Pair, gold, holds_pairs, on_policy_pairs, read_pairs, successes
from ..trajectories.errors import ConfigError, DataError
from ..trajectories.trajectory import Trajectory, TrajectoryGroup
from .console import Watch, watching
from .playing import count, fault_plan, fetch_first
from .records import read

if TYPE_CHECKING:
    from ..trainers.objective import Objective
    from ..trainers.settings import Precision, TrainSettings

__all__ = ["Given", "Start", "mixture_plans", "train"]

_ABOUT = "command.json"
"""What a run was started with, in its folder."""


@dataclass(frozen=True, slots=True)
class Start:
    """The model that training begins with."""

    model: str
    lora: int
    tool_style: Literal["auto", "schema", "signature"]
    precision: Precision
    device: str | None


@dataclass(frozen=True, slots=True)
class Given:
    """What a run learns from, as the options say it."""

    data: Sequence[Path] = ()
    """Files of episodes, or of pairs."""
    keep: str = "all"
    """Of episodes: gold, successes or all."""
    pairs: int = 1
    """At most so many pairs of one group of episodes."""
    gold: Sequence[Path] = ()
    """Files of episodes that are replayed."""


def train(objective: str, settings: TrainSettings, start: Start, given: Given, out: Path, *, overwrite: bool) -> None:
    """Trains by an objective and prints the model's folder.

    Args:
        objective: Its name.
        settings: Of its own kind.
        start: The model.
        given: The data.
        out: The run's folder.
        overwrite: Whether a run that the folder holds is deleted first.
    """
    with watching() as watch:
        watch.stage("reading the data", 1, 3)
        replayed = _replay(given.gold, watch)
        from ..trainers.objective import OBJECTIVES, Data

        kind = OBJECTIVES.get(objective)
        episodes = _episodes(given, watch) if kind.needs == "episodes" else ()
        pairs = _pairs(given.data, given.pairs, settings.seed, watch) if kind.needs == "pairs" else ()
        about = {
            "objective": objective,
            "data": _digest(given.data),
            "keep": given.keep,
            "pairs": given.pairs,
            "gold": _digest(given.gold),
            "settings": asdict(settings),
        }
        made = kind(settings, Data(episodes, pairs, replayed))
        _train(start, out, about, watch, made, overwrite)


def _episodes(given: Given, watch: Watch) -> Sequence[Trajectory]:
    episodes: Sequence[Trajectory] = read(given.data)
    if given.keep != "all":
        curated = gold(episodes) if given.keep == "gold" else successes(episodes)
        watch.say(str(curated.card))
        episodes = curated.items
    return episodes


def mixture_plans(faults: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Each plan with its share: one that is named twice comes twice as often. A step draws its own fault seeds."""
    texts = []
    for text in faults:
        if re.search(r"@-?\d+\s*$", text):
            raise ConfigError(f"a training step draws its own fault seeds: leave @... away from --faults {text!r}")
        fault_plan(text, 0)  # says what is wrong with it
        texts.append("" if text.strip() == "clean" else text.strip())
    return tuple((text, texts.count(text) / len(texts)) for text in dict.fromkeys(texts))


def _pairs(data: Sequence[Path], most: int, seed: int, watch: Watch) -> Sequence[Pair]:
    """As they are where the files hold pairs; else at most `most` of each group of episodes."""
    ready = [path for path in data if holds_pairs(path)]
    if ready:
        if others := [str(path) for path in data if path not in ready]:
            raise DataError(f"{ready[0]} holds pairs, {others[0]} does not: give files of one kind")
        made = read_pairs(ready)
        watch.say(f"{count(len(made), 'pair')}, as they were curated")
        return made
    groups = TrajectoryGroup.by_task(read(data))
    curated = on_policy_pairs(groups, max_per_group=most, seed=seed)
    watch.say(f"{count(len(groups), 'group')}: {curated.card}")
    if not curated.items:
        raise DataError("no task was played twice, so there is nothing to compare: sparring rollout ENV --group 8")
    return curated.items


def _replay(paths: Sequence[Path], watch: Watch) -> Sequence[Trajectory]:
    if not paths:
        return ()
    curated = gold(read(paths))
    watch.say(f"for replay: {curated.card}")
    return curated.items


def _train(
    start: Start, out: Path, about: dict[str, Any], watch: Watch, objective: Objective[Any], overwrite: bool
) -> None:
    from ..trainers.loop import train as run_training
    from ..trainers.model import Lora, Policy
    from ..trainers.objective import OBJECTIVES
    from ..trainers.run import Run, write_text

    style = tool_style_of(start.model, start.tool_style)
    model = start.model if not Path(start.model).is_dir() else str(Path(start.model).resolve())
    about = {**about, "model": model, "lora": start.lora, "tool_style": style, "precision": start.precision}
    about = json.loads(json.dumps(about, default=str))
    _prepare(out, about, overwrite)
    fetch_first(start.model, watch, 2, 3)
    watch.stage(f"loading {start.model}", 2, 3)
    lora = Lora(start.lora, 2 * start.lora) if start.lora else None
    policy = Policy.load(start.model, tool_style=style, precision=start.precision, lora=lora, device=start.device)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / _ABOUT, json.dumps(about, indent=1, sort_keys=True))

    metric: str = OBJECTIVES.get(about["objective"]).metric

    def on_step(run: Run, row: dict[str, float]) -> None:
        shown = dict.fromkeys(("loss", metric))
        notes = [f"{name} {row[name]:.3f}" for name in shown if name in row]
        watch.progress(run.step + 1, run.total, " ".join(notes), run.seconds_left())

    watch.stage(f"{about['objective']}, {count(about['settings']['steps'], 'step')}", 3, 3)
    trained = run_training(policy, objective, out, on_step=on_step)
    watch.end()
    print(f"model: {trained}")


def _prepare(out: Path, about: dict[str, Any], overwrite: bool) -> None:
    """Refuses a folder that holds something else than this very run, stopped in the middle."""
    ours = (out / _ABOUT).is_file()
    if overwrite and ours:  # never a folder that another program made
        shutil.rmtree(out)
        return
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out} is a file; expected a folder")
    if not ours and any(out.iterdir()):
        raise ConfigError(f"--out {out} holds other files: choose an empty or a new folder")
    if (out / "model").exists():
        raise ConfigError(f"--out {out} holds a finished run: choose another folder, or pass --overwrite to delete it")
    if ours and (out / "checkpoints").exists():
        before = json.loads((out / _ABOUT).read_text())
        old, new = _flat(before), _flat(about)
        differs = [f"{k} {old.get(k)}, not {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if differs:
            raise ConfigError(
                f"--out {out} holds a stopped run that was started otherwise ({'; '.join(differs)}): give the same, "
                "choose another folder, or pass --overwrite to delete it"
            )


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    """Settings within settings side by side, by their own names."""
    out: dict[str, Any] = {}
    for name, value in about.items():
        out |= _flat(value) if isinstance(value, dict) else {name: value}
    return out


def _digest(paths: Sequence[Path]) -> list[str]:
    """Of the files' content: the same file elsewhere is the same data."""
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths]
