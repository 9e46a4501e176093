"""What `sparring train` does: data curated, a model loaded, a run that resumes. Options: `cli.train`."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..agents.loading import thinking_of, tool_style_of
from ..agents.rollouts import telling
from ..trajectories.curation import Pair, gold, holds_pairs, on_policy_pairs, read_pairs, successes
from ..trajectories.errors import ConfigError, DataError
from ..trajectories.locks import LOCK, at_work_in, only_process_in
from ..trajectories.trajectory import Trajectory, TrajectoryGroup
from .console import Watch, watching
from .outputs import folder_to_write
from .players import fetch_first, known_or_there
from .playing import fault_plan
from .records import read
from .wording import count, taken_for_good

if TYPE_CHECKING:
    from ..trainers.objective import Objective
    from ..trainers.plan import Plan
    from ..trainers.recipe import Recipe
    from ..trainers.settings import TrainSettings

__all__ = ["Given", "Start", "about_objective", "mixture_plans", "plan", "recipe_plans", "train"]

_ABOUT = "command.json"
"""In a run's folder: what makes it this run, its data's digests included. A call that goes on with it has the same."""

_COUNTED = 200
"""Episodes whose tokens are counted for a plan."""
_PLAYED = 8
"""Tasks of each environment that the expert plays for the plan of a recipe, which has no data yet."""


@dataclass(frozen=True, slots=True)
class Start:
    """The model that training begins with."""

    model: str = "smollm2-135m"
    """What training begins with: a name of `sparring model list`, a folder, or a hub name."""
    lora: int = 0
    """Train adapters of this rank; 0 trains all weights."""
    tool_style: Literal["auto", "schema", "signature"] = "auto"
    """How tools are shown to the model; auto: as it was trained, else by its size."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """Whether the model may think before it answers; auto: as it was trained here, else on."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: float32 master weights and the work in bfloat16; fp32: all in float32."""
    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""
    checkpointing: bool | None = None
    """Keep only each layer's input, and compute the rest again: a third more time, a fraction of the memory. By default
    where the memory is short."""


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
    validation: Sequence[Path] = ()
    """Files of episodes whose loss is measured, and which are not learned."""


def about_objective(name: str) -> str:
    """What an objective is, as its module says first. Does not import it, where it is a file of this package."""
    from ..trainers.objective import OBJECTIVES

    path = Path(__file__).parent.parent / "trainers" / "objectives" / f"{name.replace('-', '_')}.py"
    if path.is_file():
        return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    kind = OBJECTIVES.get(name)
    return inspect.getdoc(sys.modules[kind.__module__]) or inspect.getdoc(kind) or ""


def train(
    objective: str,
    settings: TrainSettings,
    start: Start,
    given: Given,
    out: Path,
    *,
    overwrite: bool,
    written: Callable[[Path], None],
) -> None:
    """Trains by an objective and prints the model's folder.

    Args:
        objective: Its name.
        settings: Of its own kind.
        start: The model.
        given: The data.
        out: The run's folder.
        overwrite: Whether a run that the folder holds is deleted first.
        written: Told of the folder before the first step.
    """
    from ..agents.models import device_named

    folder_to_write(out, "for checkpoints, metrics and the model")
    known_or_there(start.model)
    device_named(start.device)
    if out.is_dir() and at_work_in(out) is None:  # who is at work there is told of below
        _refuse_other(out, overwrite)
    with watching() as watch:
        watch.stage("reading the data", 1, 3)
        replayed = _replay(given.gold, watch)
        from ..trainers.objective import OBJECTIVES, Data

        kind = OBJECTIVES.get(objective)
        if given.validation and not hasattr(kind, "measure"):
            raise ConfigError(
                f"the objective {objective} measures nothing on held-out episodes: leave --validation away"
            )
        episodes = _episodes(given.data, given.keep, "", watch) if kind.needs in ("episodes", "outcomes") else ()
        share: float = getattr(settings, "validation_share", 0.0)
        if given.validation and share:
            raise ConfigError("give --validation or --validation-share, not both")
        held_out = _held_out(given, episodes, watch)
        pairs = _pairs(given.data, given.pairs, settings.seed, watch) if kind.needs == "pairs" else ()
        about = {
            "objective": objective,
            "data": _digest(given.data),
            "keep": given.keep,
            "pairs": given.pairs,
            "gold": _digest(given.gold),
            "validation": _digest(given.validation),
            "settings": asdict(settings),
        }
        made = kind(settings, Data(episodes, pairs, replayed, held_out))
        _train(start, out, about, watch, made, overwrite, written)


def plan(objective: str, settings: TrainSettings, start: Start, given: Given) -> Plan:
    """What a run would hold in memory, and the tokens of one step as far as its data tells. Loads no weights.

    Args:
        objective: Its name.
        settings: Of its own kind.
        start: The model.
        given: The data; what an objective plays itself is not known before.
    """
    from ..agents.chat_format import tokens_of
    from ..agents.loading import chat_for
    from ..agents.models import load_tokenizer, resolve

    lengths: list[int] = []
    if given.data and not any(map(holds_pairs, given.data)):
        source = resolve(start.model)
        chat = chat_for(load_tokenizer(source), source, start.tool_style, start.thinking)
        lengths = [len(tokens_of(chat, t)[0]) for t in read(given.data)[:_COUNTED]]
    return _plan(objective, settings, start, lengths)


def recipe_plans(recipe: Recipe, envs: Sequence[str]) -> dict[str, Plan]:
    """What each stage that trains would hold in memory, and the tokens of one step, counted on episodes of the expert.
    Loads no weights."""
    from ..trainers.mixture import Mixture
    from ..trainers.objective import OBJECTIVES
    from ..trainers.stages.train import Train
    from ..trajectories.plain import from_plain

    how = recipe.document.policy
    start = Start(recipe.document.model, precision=how.precision)
    lengths = _expert_lengths(recipe, envs)
    plans = {}
    for name, stage in recipe.stages.items():
        if isinstance(stage, Train):
            kind = OBJECTIVES.get(stage.objective)
            played = {"parallel": how.parallel, "mixture": Mixture.of(*envs)} if kind.needs == "mixture" else {}
            settings = from_plain(kind.Settings, {**played, **stage.settings}, f"stage {name}")
            plans[name] = _plan(stage.objective, settings, start, lengths)
    return plans


def _expert_lengths(recipe: Recipe, envs: Sequence[str]) -> list[int]:
    """Tokens of some episodes, clean and with one fault. Raises `EnvError` where there is no expert."""
    from ..agents.chat_format import tokens_of
    from ..agents.loading import chat_for
    from ..agents.models import load_tokenizer, resolve
    from ..agents.rollouts import EpisodeSpec, rollout
    from ..agents.scripts import scripted
    from ..envs import make, task_set
    from ..tools.plans import FaultPlan
    from ..trainers.mixture import Part

    document = recipe.document
    tool_style: Any = document.policy.tool_style
    source = resolve(document.model)
    chat = chat_for(load_tokenizer(source), source, tool_style, "auto")
    lengths: list[int] = []
    for env in (Part.parse(text).env for text in envs):
        tasks = task_set(make(env), "train", _PLAYED, levels=document.levels)
        specs = [EpisodeSpec(task, plan) for task in tasks for plan in (FaultPlan(), FaultPlan(count=1))]
        lengths += [len(tokens_of(chat, t)[0]) for t in rollout(env, scripted("expert"), specs)]
    return lengths


def _plan(objective: str, settings: TrainSettings, start: Start, lengths: Sequence[int]) -> Plan:
    """`lengths`: tokens of the episodes that are known."""
    from ..agents.models import device_named
    from ..trainers.objective import OBJECTIVES
    from ..trainers.plan import Plan

    needs = OBJECTIVES.get(objective).needs
    mean = sum(lengths) / max(1, len(lengths))
    episodes = getattr(settings, "batch", 0) or getattr(settings, "groups", 0) * getattr(settings, "group", 0)
    return Plan.of(
        start.model,
        lora=start.lora,
        precision=start.precision,
        device=device_named(start.device),
        micro_tokens=settings.optim.micro_tokens,
        tokens=round(mean * episodes * (2 if needs == "pairs" else 1)),
        episode_tokens=max(lengths, default=None),
        parallel=min(getattr(settings, "parallel", 0), episodes or sys.maxsize) if needs == "mixture" else 0,
        max_context=settings.max_context,
        reference=bool(getattr(settings, "kl", 0.0)),
        checkpointing=start.checkpointing,
    )


def _episodes(data: Sequence[Path], keep: str, what_for: str, watch: Watch) -> Sequence[Trajectory]:
    episodes: Sequence[Trajectory] = read(data)
    if keep != "all":
        curated = gold(episodes) if keep == "gold" else successes(episodes)
        watch.say(f"{what_for}{curated.card}")
        episodes = curated.items
    if note := taken_for_good(episodes):
        watch.say(f"note: {what_for}{note}")
    return episodes


def _held_out(given: Given, learned: Sequence[Trajectory], watch: Watch) -> Sequence[Trajectory]:
    """Episodes to validate on, curated as those that are learned. Says where they are no test of anything."""
    if not given.validation:
        return ()
    held_out = _episodes(given.validation, given.keep, "for validation: ", watch)
    tasks = {(t.env, t.task.id) for t in learned}
    if known := sum((t.env, t.task.id) in tasks for t in held_out):
        watch.say(
            f"{known} of {count(len(held_out), 'episode')} to validate on are of tasks that are trained on: their loss "
            "shows what was memorised, too"
        )
    return held_out


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
    from ..trainers.preferences import WAYS_TO_PAIRS

    groups = TrajectoryGroup.by_task(read(data))
    try:
        curated = on_policy_pairs(groups, max_per_group=most, seed=seed)
    except DataError as error:
        raise DataError(f"no pairs to learn from: {error}. What gives pairs: {WAYS_TO_PAIRS}") from None
    watch.say(f"{count(len(groups), 'group')}: {curated.card}")
    if not curated.items:
        raise DataError(
            "no task was played twice, so there is nothing to compare: no pairs to learn from. What gives pairs: "
            f"{WAYS_TO_PAIRS}"
        )
    return curated.items


def _replay(paths: Sequence[Path], watch: Watch) -> Sequence[Trajectory]:
    if not paths:
        return ()
    curated = gold(read(paths))
    watch.say(f"for replay: {curated.card}")
    return curated.items


def _train(
    start: Start,
    out: Path,
    about: dict[str, Any],
    watch: Watch,
    objective: Objective[Any],
    overwrite: bool,
    written: Callable[[Path], None],
) -> None:
    from ..agents.models import device_named
    from ..trainers.loop import train as run_training
    from ..trainers.model import Lora, Policy
    from ..trainers.objective import OBJECTIVES
    from ..trainers.run import Run, write_text

    style, thinking = tool_style_of(start.model, start.tool_style), thinking_of(start.model, start.thinking)
    model = start.model if not Path(start.model).is_dir() else str(Path(start.model).resolve())
    about = {**about, "model": model, "lora": start.lora, "tool_style": style, "precision": start.precision}
    about |= {"thinking": thinking} if thinking != "on" else {}
    about = json.loads(json.dumps(about, default=str))
    metric: str = OBJECTIVES.get(about["objective"]).metric
    held_out = last = ""

    def on_step(run: Run, row: dict[str, float]) -> None:
        nonlocal held_out, last
        apart = ("policy_loss", "replay_loss") if "replay_loss" in row else ("loss",)
        notes = [f"{name} {row[name]:.3f}" for name in dict.fromkeys((*apart, metric, "signal")) if name in row]
        if "held_out_nll" in row:
            held_out = f"held_out_nll {row['held_out_nll']:.3f}"
        notes += [held_out] * bool(held_out) + ["skipped: the gradient is not finite"] * ("skipped" in row)
        last = " ".join(notes)
        watch.progress(run.step + 1, run.total, last, run.seconds_left())

    def playing(run: Run, done: int, of: int) -> None:
        now = f"playing episode {done} of {of}"
        watch.progress(run.step, run.total, f"{last}, {now}" if last else now, run.seconds_left())

    with only_process_in(out):
        _prepare(out, about, overwrite)
        fetch_first(start.model, watch, 2, 3)
        watch.stage(f"loading {start.model}", 2, 3)
        policy = Policy.load(
            start.model,
            tool_style=style,
            thinking=thinking,
            precision=start.precision,
            lora=Lora(start.lora, 2 * start.lora, objective.settings.seed) if start.lora else None,
            device=device_named(start.device),
            checkpointing=start.checkpointing,
        )
        write_text(out / _ABOUT, json.dumps(about, indent=1, sort_keys=True))
        written(out)
        watch.stage(f"{about['objective']}, {count(about['settings']['steps'], 'step')}", 3, 3)
        notes: list[str] = []
        with telling(lambda text: notes.append(text), bugs=False):  # of those the run itself says how many
            trained = run_training(policy, objective, out, on_step=on_step, on_episode=playing, on_note=notes.append)
        watch.end()
        for note in notes:
            watch.say(f"warning: {note}")
    print(f"model: {trained}")


def _prepare(out: Path, about: dict[str, Any], overwrite: bool) -> None:
    """Refuses a folder that holds something else than this very run, stopped in the middle. It is locked."""
    _refuse_other(out, overwrite)
    ours = (out / _ABOUT).is_file()
    if overwrite and ours:
        for path in _held(out):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return
    if ours and (out / "checkpoints").exists():
        try:
            before = json.loads((out / _ABOUT).read_bytes())
            old, new = _flat(before), _flat(about)
        except (ValueError, AttributeError):
            raise DataError(
                f"{out / _ABOUT} cannot be read, so that nobody knows which run this is: choose another folder, or "
                "pass --overwrite to delete it"
            ) from None
        differs = [f"{k} {old.get(k)}, not {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if differs:
            raise ConfigError(
                f"--out {out} holds a stopped run that was started otherwise ({'; '.join(differs)}): give the same, "
                "choose another folder, or pass --overwrite to delete it"
            )


def _refuse_other(out: Path, overwrite: bool) -> None:
    """Refuses a folder that another program made, and a finished run that is not to be deleted."""
    ours = (out / _ABOUT).is_file()
    if not ours and _held(out):
        raise ConfigError(f"--out {out} holds other files: choose an empty or a new folder")
    if (out / "model").exists() and not overwrite:
        raise ConfigError(f"--out {out} holds a finished run: choose another folder, or pass --overwrite to delete it")


def _held(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if path.name != LOCK]


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    """Settings within settings side by side, by their own names."""
    out: dict[str, Any] = {}
    for name, value in about.items():
        out |= _flat(value) if isinstance(value, dict) else {name: value}
    return out


def _digest(paths: Sequence[Path]) -> list[str]:
    """Of the files' content: the same file elsewhere is the same data."""
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths]
