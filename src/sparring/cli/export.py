"""`sparring export`: episodes in a form that another trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import options as o

__all__ = ["export"]


def _list_written(wanted: bool) -> None:
    if wanted:
        from ..trajectories.interchange import writers

        for name, writer in writers().items():
            typer.echo(f"{name:<24}{(writer.rows.__doc__ or '').splitlines()[0]}")
        raise typer.Exit


def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Episodes, as `rollout --out` writes them.", show_default=False)
    ],
    to: Annotated[str, typer.Option(metavar="FORM", help="The form; --forms lists all.", show_default=False)],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="A file; for llama-factory a data folder.", show_default=False)
    ],
    keep: Annotated[
        Literal["all", "successes", "gold"],
        typer.Option(help="gold: what went well, mistakes with weight 0. successes: whole. all: as it is."),
    ] = "all",
    arguments: Annotated[
        Literal["object", "text"], typer.Option(help="How TRL's rows hold a call's arguments; text for old templates.")
    ] = "object",
    span: Annotated[
        Literal["episode", "turn"],
        typer.Option(help="trl-preference: all that follows the fork, or the first action that differs."),
    ] = "episode",
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the data set in llama-factory's folder.")] = "sparring",
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="openai: leave out the rows that an upload refuses, and count them.")
    ] = False,
    forms: Annotated[
        bool, typer.Option("--forms", is_eager=True, callback=_list_written, help="List the forms, and end.")
    ] = False,
    overwrite: o.Replace = False,
) -> None:
    """Write episodes in a form that another trainer reads. And say what that form cannot hold.

    trl-preference pairs the episodes of each group, the better chosen: `rollout --group 8` gives groups.

    \b
    Example:
      sparring export gold.jsonl --to trl-prompt-completion --keep gold --out sft.jsonl
      sparring export groups.jsonl --to trl-preference --out pairs.jsonl
    """
    from ..app.outputs import file_to_replace
    from ..app.records import read
    from ..trajectories.interchange import writer_for
    from ..trajectories.locks import only_process_in, only_writer_of

    writer = writer_for(to)
    place = out / f"{name}.json" if to == "llama-factory" else out  # that one writes into a data folder
    file_to_replace(place, "data.jsonl", overwrite, reads=[file])
    held: Any = read([file])
    if keep != "all" or writer.takes == "pairs":
        from ..trajectories import curation
        from ..trajectories.trajectory import TrajectoryGroup

        if keep != "all":
            kept = curation.gold(held) if keep == "gold" else curation.successes(held)
            typer.echo(f"{keep}: {kept.card}", err=True)
            held = kept.items
        if writer.takes == "pairs":
            pairs = curation.on_policy_pairs(TrajectoryGroup.by_task(held))
            typer.echo(f"pairs: {pairs.card}", err=True)
            held = pairs.items
    settings = {"arguments": arguments, "span": span, "name": name, "skip_refused": skip_refused}
    done = writer.export(held, settings)
    typer.echo(str(done.report), err=True)
    if not done.rows:
        from ..trajectories.errors import DataError

        raise DataError(f"{file}: nothing is left to write as {to}")
    with only_process_in(out) if to == "llama-factory" else only_writer_of(out):
        writer.save(done.rows, out, settings)
    typer.echo(f"{done.report.wrote} {done.report.unit} in {out}")
