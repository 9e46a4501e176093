"""`sparring evaluate`: measures agents in environments, next to each other."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .config import effective, keep_in
from .settings import command, level_numbers

if TYPE_CHECKING:
    from ..agents.loading import AgentSettings
    from ..agents.rollouts import Limits
    from ..trajectories.trajectory import Trajectory

__all__ = ["evaluate"]

_BASELINE = "do-nothing"


@command(config=True, settings=o.AGENT, limits=o.LIMITS)
def evaluate(
    ctx: typer.Context,
    env: Annotated[
        list[str],
        typer.Argument(
            metavar="[ENV]...",
            help="Names of `sparring envs`, or yours: mine.py, or mine:Class.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  # typer copies it
    more_envs: Annotated[
        list[str], typer.Option("--env", metavar="ENV", help="The same as an option; may be repeated.")
    ] = [],  # noqa: B006  # as above
    agent: Annotated[
        list[str], typer.Option(metavar="NAME", help="A scripted agent, or openai:URL#MODEL; may be repeated.")
    ] = [],  # noqa: B006  # as above
    model: Annotated[list[str], typer.Option(metavar="NAME", help="A model; may be repeated.")] = [],  # noqa: B006  # as above
    faults: Annotated[
        list[str], typer.Option(metavar="PLAN", help="A condition: clean, count=1, ...; may be repeated.")
    ] = ["clean", "count=1"],  # noqa: B006  # as above
    n: o.TaskLimit = 64,
    k: Annotated[int, typer.Option("--k", min=1, help="Attempts at each task, under the same faults.")] = 1,
    split: o.SplitName = "test",
    levels: o.Levels = "",
    seeds: Annotated[
        str,
        typer.Option(
            "--seed", "--seeds", metavar="0,1,2", help="Of tasks, faults and sampling; for each seed all is played."
        ),
    ] = "0",
    *,
    settings: AgentSettings,
    limits: Limits,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the episodes here, a file for each agent.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure agents on the same tasks, faults and seeds. The agent that does nothing is measured with them.

    The first table is a leaderboard, with paired tests of all agents against each other; then comes one for each
    environment. A call that was stopped goes on where it was; one with more tasks, attempts, seeds, conditions,
    environments or agents plays only those.

    \b
    Example:
      sparring evaluate orders --agent give-up --agent expert --out runs/eval
      sparring evaluate orders --model smollm2-135m --faults clean --faults count=2 --n 8
      sparring evaluate --env orders --env echo --agent random --agent expert --n 4 --k 2 --seeds 0,1
    """
    from ..app.console import show, watching
    from ..app.outputs import folder_to_write
    from ..app.players import Player
    from ..app.playing import Tasks, by_condition, fault_plan, must_be_playable, play, say_bugs, why_failed
    from ..app.wording import count, file_name
    from ..envs import make
    from ..envs.env import name_of
    from ..trajectories.errors import ConfigError
    from ..trajectories.locks import only_process_in
    from ..trajectories.metrics import leaderboard, not_struck
    from ..trajectories.pages.report import Arm, leaderboard_table, text_table, visible

    if out is not None:
        folder_to_write(out, "for a file of episodes for each agent")
    asked = [
        *(Player(model=name, settings=settings) for name in model),
        *(Player(name, settings=settings) for name in agent),
    ]
    if not asked:
        raise ConfigError("nobody to evaluate: give --model or --agent, e.g. --agent expert")
    envs = list(dict.fromkeys(effective(ctx)["env"]))
    if not envs:
        raise ConfigError("nothing to be evaluated in: name an environment of `sparring envs`, e.g. orders")
    numbers = list(dict.fromkeys(level_numbers(seeds)))
    if not numbers:
        raise ConfigError("no seed: give numbers such as --seeds 0,1,2 or 0-2")
    tasks = [Tasks(name, n, split, level_numbers(levels), seed, k) for name in envs for seed in numbers]
    wanted = [
        episode
        for of_one in tasks
        for plan in dict.fromkeys(fault_plan(text, of_one.seed) for text in faults)
        for episode in of_one.episodes(plan)
    ]
    players = [*asked]
    if not any(player.agent == _BASELINE for player in asked):  # without it nobody knows what a success rate is worth
        players.append(Player(_BASELINE))
    labels = [player.label for player in players]
    if len(set(labels)) < len(labels):
        labels = [player.model or player.label for player in players]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"the same agent twice: {', '.join(labels)}")
    where = ", ".join(envs)
    for name in envs:
        must_be_playable(players, name, [e for e in wanted if e.env == name])
    names = {name: name_of(make(name)) for name in envs}
    every: dict[str, list[Trajectory]] = {}
    notes: list[str] = []
    with watching() as watch, only_process_in(out) if out is not None else nullcontext():
        places = [out / f"{file_name(label)}.jsonl" if out is not None else None for label in labels]
        for player, label, path in zip(players, labels, places, strict=True):
            player.check(where, wanted, path, limits, overwrite, label)
        for of_one in tasks:
            of_one.say_if_fewer([e for e in wanted if e.env == of_one.env], watch)
        for number, (player, label, path) in enumerate(zip(players, labels, places, strict=True), 1):
            loaded = player.load(watch, number, len(players))
            loaded.name = label
            every[label] = played = play(
                player,
                loaded,
                where,
                wanted,
                path,
                watch,
                index=number,
                of=len(players),
                limits=limits,
                overwrite=overwrite,
                group=k,
                timed=True,
            )
            if out is not None:  # now that what the folder held has turned out to be of this very call
                keep_in(ctx, out)
            if why := why_failed(played):
                notes.append(f"failed episodes of {label} ended by: {why}")
            if number == 1:  # the same plans, tasks and seeds for all
                conditions = by_condition(played, several=len(envs) > 1).values()
                notes += [f"note: {note}" for ts in conditions if (note := not_struck(ts))]
    baseline = labels[0] if len(asked) > 1 else ""
    told = f"{split} tasks, seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    told += f", {count(k, 'attempt')} each" if k > 1 else ""
    show(leaderboard_table(leaderboard(every), title=f"{where}, {told}"))
    for name, registered in names.items():
        arms = [Arm(label, "", by_condition(t for t in ts if t.env == registered)) for label, ts in every.items()]
        show(text_table(arms, baseline, title=name))
    for note in notes:
        typer.echo(visible(note))
    if out is not None:
        typer.echo(f"Episodes are in {out}; as a page: sparring report {out}")
    if say_bugs([t for ts in every.values() for t in ts], debug=o.debugging(ctx)):
        raise typer.Exit(1)
