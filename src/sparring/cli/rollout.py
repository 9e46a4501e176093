"""`sparring rollout`: plays episodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .settings import command, level_numbers

if TYPE_CHECKING:
    from ..agents.loading import AgentSettings
    from ..agents.rollouts import Limits

__all__ = ["rollout"]


@command(config=True, settings=o.AGENT, limits=o.LIMITS)
def rollout(
    ctx: typer.Context,
    env: o.Env,
    agent: o.AgentName = None,
    model: o.Model = None,
    n: o.TaskLimit = 16,
    split: o.SplitName = "train",
    levels: o.Levels = "",
    faults: o.Faults = "",
    group: Annotated[int, typer.Option(min=1, help="Episodes of each task, under the same faults.")] = 1,
    seed: o.Seed = 0,
    *,
    settings: AgentSettings,
    limits: Limits,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write each episode as it ends, one line of JSON each.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Play episodes, and print the success rate. A call that was stopped goes on where it was.

    \b
    Example:
      sparring rollout orders --agent expert --n 200 --out gold.jsonl
      sparring rollout orders --model smollm2-135m --faults count=1 --n 4
    """
    from ..app.console import watching
    from ..app.outputs import file_to_write
    from ..app.players import Player
    from ..app.playing import Tasks, fault_plan, must_be_playable, play, say_bugs, why_failed
    from ..app.wording import count
    from ..trajectories.errors import DataError
    from ..trajectories.metrics import not_struck, success_rate
    from ..trajectories.pages.report import visible
    from ..trajectories.pages.report.wording import percent

    if out is not None:
        file_to_write(out, "episodes.jsonl")
    player = Player(agent, model, settings)
    tasks = Tasks(env, n, split, level_numbers(levels), seed, group)
    wanted = tasks.episodes(fault_plan(faults, seed))  # before a model is loaded for nothing
    must_be_playable([player], env, wanted)
    player.check(env, wanted, out, limits, overwrite)
    with watching() as watch:
        if not agent and not model:
            watch.say("no --agent and no --model was given: the expert plays")
        tasks.say_if_fewer(wanted, watch)
        loaded = player.load(watch)
        played = play(player, loaded, env, wanted, out, watch, limits=limits, overwrite=overwrite, group=group)
    lost = say_bugs(played, debug=o.debugging(ctx))
    rate = success_rate(played)
    if rate.value is None and lost:
        raise typer.Exit(1)
    if rate.value is None:
        failed = next((t.error for t in played if t.error), "no reason given")
        raise DataError(f"none of {len(played)} episodes could be judged: {visible(failed)}")
    excluded = f"; {rate.excluded} not judged" if rate.excluded else ""
    interval = f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    typer.echo(f"success {percent(rate.value)} {interval} of {count(rate.n, 'episode')}, 95% Wilson interval{excluded}")
    if why := why_failed(played):
        typer.echo(f"failed episodes ended by: {why}")
    if note := not_struck(played):
        typer.echo(f"note: {note}")
    if out is not None:
        typer.echo(f"{count(len(played), 'episode')} in {out}; to read one: sparring show {out}")
    if lost:
        raise typer.Exit(1)
