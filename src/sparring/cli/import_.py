"""`sparring import`: another tool's record as episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["import_"]


def _list_read(wanted: bool) -> None:
    if wanted:
        from ..trajectories.interchange import readable

        for name in readable():
            typer.echo(name)
        raise typer.Exit


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSON lines; .json or .eval of inspect; Parquet of TRL's columns.", show_default=False
        ),
    ],
    source: Annotated[
        str, typer.Option("--from", metavar="FORM", help="The form; --forms lists all.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Where the episodes go.", show_default=False)],
    success: Annotated[
        bool | None,
        typer.Option("--success/--failure", help="What to take where the file does not say.  [default: not judged]"),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out what cannot be read, and count it.")] = False,
    forms: Annotated[
        bool, typer.Option("--forms", is_eager=True, callback=_list_read, help="List the forms, and end.")
    ] = False,
) -> None:
    """Read another tool's record as episodes. What it does not say is marked as inferred.

    \b
    Example:
      sparring import logs/run.eval --from inspect --out episodes.jsonl
      sparring import chats.jsonl --from openai --success --out gold.jsonl
    """
    from ..app.outputs import file_to_write
    from ..trajectories.interchange import read, write_lines

    file_to_write(out, "episodes.jsonl")
    done = read(file, source, success=success, skip_bad=skip_bad)
    typer.echo(str(done.report), err=True)
    write_lines((t.to_json() for t in done.trajectories), out)
    typer.echo(f"{len(done.trajectories)} episodes in {out}; to read one: sparring show {out}")
