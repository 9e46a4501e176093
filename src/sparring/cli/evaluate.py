"""`sparring evaluate`: measures agents side by side."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .config import keep_in
from .settings import command, level_numbers

if TYPE_CHECKING:
    from ..agents.loading import AgentSettings
    from ..agents.rollouts import Limits

__all__ = ["evaluate"]

_BASELINE = "do-nothing"


@command(config=True, settings=o.AGENT, limits=o.LIMITS)
def evaluate(
    ctx: typer.Context,
    env: o.Env,
    agent: Annotated[
        list[str], typer.Option(metavar="NAME", help="A scripted agent, or openai:URL#MODEL; may be repeated.")
    ] = [],  # noqa: B006  # typer copies it
    model: Annotated[list[str], typer.Option(metavar="NAME", help="A model; may be repeated.")] = [],  # noqa: B006  # as above
    faults: Annotated[
        list[str], typer.Option(metavar="PLAN", help="A condition: clean, count=1, ...; may be repeated.")
    ] = ["clean", "count=1"],  # noqa: B006  # as above
    n: o.TaskLimit = 64,
    split: o.SplitName = "test",
    levels: o.Levels = "",
    seed: o.Seed = 0,
    *,
    settings: AgentSettings,
    limits: Limits,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the episodes here, a file for each agent.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure agents on the same tasks, faults and seeds. The agent that does nothing is measured with them.

    \b
    Example:
      sparring evaluate orders --agent give-up --agent expert --out runs/eval
      sparring evaluate orders --model smollm2-135m --faults clean --faults count=2 --n 8
    """
    from ..app.console import show, watching
    from ..app.outputs import folder_to_write
    from ..app.players import Player
    from ..app.playing import Tasks, by_condition, fault_plan, must_be_playable, play, say_bugs, why_failed
    from ..app.wording import file_name
    from ..trajectories.errors import ConfigError
    from ..trajectories.locks import only_process_in
    from ..trajectories.metrics import not_struck
    from ..trajectories.pages.report import Arm, text_table, visible

    if out is not None:
        folder_to_write(out, "for a file of episodes for each agent")
    asked = [*(Player(model=name, settings=settings) for name in model), *(Player(name) for name in agent)]
    if not asked:
        raise ConfigError("nobody to evaluate: give --model or --agent, e.g. --agent expert")
    tasks = Tasks(env, n, split, level_numbers(levels), seed)
    plans = list(dict.fromkeys(fault_plan(text, seed) for text in faults))
    wanted = [episode for plan in plans for episode in tasks.episodes(plan)]
    players = [*asked]
    if not any(player.agent == _BASELINE for player in asked):  # without it nobody knows what a success rate is worth
        players.append(Player(_BASELINE))
    labels = [player.label for player in players]
    if len(set(labels)) < len(labels):
        labels = [player.model or player.label for player in players]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"the same agent twice: {', '.join(labels)}")
    must_be_playable(players, env, wanted)
    arms, notes, every = [], [], []
    with watching() as watch, only_process_in(out) if out is not None else nullcontext():
        tasks.say_if_fewer(wanted, watch)
        for number, (player, label) in enumerate(zip(players, labels, strict=True), 1):
            path = out / f"{file_name(label)}.jsonl" if out is not None else None
            loaded = player.load(watch, number, len(players))
            loaded.name = label
            played = play(
                player,
                loaded,
                env,
                wanted,
                path,
                watch,
                index=number,
                of=len(players),
                limits=limits,
                overwrite=overwrite,
            )
            every += played
            arms.append(Arm(label, "", by_condition(played)))
            if out is not None:  # now that what the folder held has turned out to be of this very call
                keep_in(ctx, out)
            if why := why_failed(played):
                notes.append(f"failed episodes of {label} ended by: {why}")
            if number == 1:  # the same plans, tasks and seeds for all
                notes += [f"note: {note}" for ts in arms[0].conditions.values() if (note := not_struck(ts))]
    baseline = labels[0] if len(asked) > 1 else ""
    show(text_table(arms, baseline, title=f"{env}, {split} tasks, seed {seed}"))
    for note in notes:
        typer.echo(visible(note))
    if out is not None:
        typer.echo(f"Episodes are in {out}; as a page: sparring report {out}")
    if say_bugs(every, debug=o.debugging(ctx)):
        raise typer.Exit(1)
