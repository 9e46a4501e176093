"""`sparring recipe`: trains and measures, from the bare model to GRPO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .config import keep_in
from .settings import command

__all__ = ["recipe"]


@command(config=True)
def recipe(
    ctx: typer.Context,
    env: o.Envs = [],  # noqa: B006  # typer copies it
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="smoke: does it run; quick: minutes; full: hours on a CPU.")
    ] = "quick",
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="recover, two-stage, or a YAML file of yours.")
    ] = "recover",
    model: o.Model = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Stages and report.  [default: runs/ENV-PROFILE]")
    ] = None,
    seed: o.Seed = 0,
    held_out: Annotated[
        str | None, typer.Option(metavar="ENV", help="An environment that is never trained on, only measured.")
    ] = None,
    plan: o.Plan = False,
) -> None:
    """Train and measure, from the bare model to GRPO. Ends with a table and a report; finished stages are reused.

    \b
    Example:
      sparring recipe orders --profile quick
      sparring recipe 2*orders shop --recipe two-stage --profile smoke --out runs/two-worlds
    """
    from ..app.console import duration, show, watching
    from ..app.outputs import folder_to_write
    from ..app.players import fetch_first, known_or_there
    from ..app.playing import say_bugs
    from ..app.wording import file_name
    from ..envs import make
    from ..trajectories.pages.report import text_table

    if held_out:
        make(held_out)
    from ..trainers.mixture import Part
    from ..trainers.recipe import Recipe, run_recipe

    loaded = Recipe.load(recipe, profile, model=model)
    env = loaded.envs(env)
    for text in env:
        make(Part.parse(text).env)  # a name that is wrong is said before a model is loaded
    trained_on = ", ".join(env)
    folder = out or Path("runs") / f"{file_name('-'.join(env))}-{profile}"
    folder_to_write(folder, "for the stages and the report")
    from ..agents.models import TINY_MODELS
    from ..trajectories.locks import only_process_in

    if plan:
        from ..app.training import recipe_plans
        from ..trainers.plan import plan_table

        typer.echo(plan_table(recipe_plans(loaded, env)))
        return
    known_or_there(loaded.document.model)
    with watching() as watch:
        watch.say(f"recipe {recipe}, {profile}, for {trained_on} in {folder}")
        watch.say("Ctrl-C stops it; the same command again goes on where it was")
        learner = loaded.document.model
        if learner in TINY_MODELS:
            watch.say(f"{learner} has random weights: this shows that every stage runs, not that anything is learnt")
        fetch_first(learner, watch)
        with only_process_in(folder):
            keep_in(ctx, folder)
            result = run_recipe(
                env, profile, recipe=recipe, model=model, folder=folder, seed=seed, held_out=held_out, watcher=watch
            )
    show(text_table(result.arms, result.baseline, title=f"{trained_on}, {profile}, seed {seed}"))
    typer.echo(f"took {duration(result.seconds)}")
    typer.echo(f"report: {result.report}")
    played = [t for arm in result.arms for episodes in arm.conditions.values() for t in episodes]
    if say_bugs(played, debug=o.debugging(ctx)):  # they are in no figure of the table
        raise typer.Exit(1)
