"""What the commands do, except playing and training. Names and options are in `cli`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ..app.console import duration, watching
from ..app.console import show as show_on_terminal
from ..app.playing import by_condition, count, fetch_first, file_name
from ..app.records import episodes_in, read
from ..envs import check_env, make, registered, task_set
from ..envs.roles import tool_roles
from ..trajectories.errors import DataError, SparringError, UnknownName
from ..trajectories.pages.report import (
    Arm,
    Report,
    find_tokenizer,
    show_trajectory,
    text_table,
    token_texts,
    visible,
    write_report,
)
from ..trajectories.trajectory import Trajectory

__all__ = ["check", "envs", "model_fetch", "model_list", "recipe", "report", "show"]

_WIDTH = 80
# ---- environments ----------------------------------------------------------------------------------------------------


def envs() -> None:
    """Prints each environment's name, description, tools and levels."""
    for id, short in registered().items():
        print(f"{short or id}" + (f"  ({id})" if short else ""))
        try:
            env = make(id)
            about = (type(env).__doc__ or "").strip().splitlines()
            levels = sorted({task.level for task in task_set(env, "train", 64)})
        except SparringError as error:
            _paragraph(f"cannot be made: {error}", "  ")
            continue
        _paragraph(visible(about[0]) if about else "(no description)", "  ")
        _paragraph("tools: " + ", ".join(visible(spec.name) for spec in env.toolbox.specs), "  ")
        print(f"  levels: {levels[0]} to {levels[-1]}" if len(levels) > 1 else f"  level: {levels[0]}")
    print("\nYour own: module:Class, such as mine:Library for class Library in mine.py here.")


def check(env: str, tasks: int) -> bool:
    """Prints what is wrong with an environment; whether one of it is an error."""
    with watching() as watch:
        watch.stage(f"checking {env}")
        findings = check_env(env, tasks=tasks)
    errors = sum(f.severity == "error" for f in findings)
    for finding in findings:
        _paragraph(visible(f"{finding.severity}: {finding.what}"), "", "  ")
        _paragraph(visible(f"fix: {finding.how_to_fix}"), "  ", "        ")
    warnings = len(findings) - errors
    print(f"{env}: {count(errors, 'error')}, {count(warnings, 'warning')}" if findings else f"{env}: all is well")
    return errors > 0


# ---- the recipe, and what is read afterwards -------------------------------------------------------------------------


def recipe(env: str, profile: str, model: str | None, out: Path | None, seed: int, held_out: str | None) -> None:
    """Runs, or goes on with, the recipe; prints the table and where the report is."""
    for name in filter(None, (env, held_out)):
        make(name)  # a name that is wrong is said before torch is loaded
    folder = out or Path("runs") / f"{file_name(env)}-{profile}"
    from ..agents.models import TINY_MODELS
    from ..trainers.recipe import Recipe, run_recipe

    with watching() as watch:
        watch.say(f"recipe {profile} for {env} in {folder}; Ctrl-C and the same command again go on where it was")
        learner = Recipe.load("recover", profile, model=model).document.model
        if learner in TINY_MODELS:
            watch.say(f"{learner} has random weights: this shows that every stage runs, not that anything is learnt")
        fetch_first(learner, watch)
        result = run_recipe(env, profile, model=model, folder=folder, seed=seed, held_out=held_out, watcher=watch)
    show_on_terminal(text_table(result.arms, result.baseline, title=f"{env}, {profile}, seed {seed}"))
    print(f"took {duration(result.seconds)}")
    print(f"report: {result.report}")


def report(paths: Sequence[Path], out: Path | None, title: str, baseline: str) -> None:
    """Writes the page of a recipe, or of files of episodes."""
    if len(paths) == 1 and (paths[0] / "recipe.json").is_file():
        from ..trainers.recipe_report import write_recipe_report

        written = write_recipe_report(paths[0])
        if out is not None:
            written = written.replace(out)
        print(f"report: {written}")
        return
    files: list[Path] = []
    curves: dict[str, list[dict[str, float]]] = {}
    for path in paths:
        if path.is_dir() and (path / "metrics.jsonl").is_file():
            rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            curves[path.name] = [{k: v for k, v in row.items() if v is not None} for row in rows]
        elif path.is_dir():
            found = sorted(path.glob("*.jsonl"))
            if not found:
                raise DataError(f"{path} holds no episodes (.jsonl), and is no folder of a recipe or a training run")
            files += found
        else:
            files.append(path)
    played = {file: read([file]) for file in files}
    several = len({t.env for ts in played.values() for t in ts}) > 1
    stems = [file.stem for file in files]
    names = [f.stem if stems.count(f.stem) == 1 else str(f.with_suffix("")) for f in files]
    arms = [
        Arm(name, _played_by(ts), by_condition(ts, several=several))
        for name, ts in zip(names, played.values(), strict=True)
    ]
    tokenizer = next((model for path in paths if path.is_dir() and (model := find_tokenizer(path))), None)
    page = Report(
        title,
        facts={"files": ", ".join(map(str, paths))},
        arms=arms,
        curves=curves,
        baseline=baseline,
        decode=token_texts(tokenizer) if tokenizer else None,
        roles=tool_roles(t.env for ts in played.values() for t in ts),
    )
    place = paths[0] if paths[0].is_dir() else paths[0].parent
    print(f"report: {write_report(page, out or place / 'report.html')}")


def show(file: Path, id: str, *, failed: bool) -> None:
    """Prints one episode."""
    episodes = list(episodes_in(file)) if file.is_dir() else read([file])
    chosen = [t for t in episodes if t.id.startswith(id)]
    if not chosen:
        raise UnknownName("episode", id, [t.id for t in islice(episodes, 8)])
    if failed:
        chosen = [t for t in chosen if t.success is False]
        if not chosen:
            raise DataError(f"{file}: none of {count(len(episodes), 'episode')} failed")
    show_on_terminal(show_trajectory(chosen[0]))


def model_list() -> None:
    """Prints the models that are known by name."""
    from ..agents.models import KNOWN_MODELS, TINY_MODELS, fetched, home

    for name, known in KNOWN_MODELS.items():
        here = "here" if fetched(name) else f"to fetch, {known.download_bytes / 1e6:.0f} MB"
        print(f"{name}  ({known.parameters / 1e6:.0f} M parameters, {known.licence}; {here})")
        _paragraph(known.about, "  ")
    for name in TINY_MODELS:
        print(f"{name}  (random weights, for tests; built on the spot)")
    print(f"\nThey are kept in {home() / 'models'}. A local folder and a hub name work as well.")


def model_fetch(name: str) -> None:
    """Fetches a model and prints its folder."""
    from ..agents.models import fetch

    with watching() as watch:
        watch.stage(f"fetching {name}")
        folder = fetch(name, progress=lambda what, share: watch.progress(round(100 * share), 100, what))
    print(folder)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _played_by(trajectories: Sequence[Trajectory]) -> str:
    return ", ".join(dict.fromkeys(t.agent for t in trajectories if t.agent))


def _paragraph(text: str, indent: str, hanging: str | None = None) -> None:
    print(textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent if hanging is None else hanging))
