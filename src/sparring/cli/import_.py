"""`sparring import`: another tool's record as episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options as o

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
            metavar="FILE", help="JSON lines or one array; .eval or .json of inspect; Parquet.", show_default=False
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
    success_key: Annotated[
        str, typer.Option(metavar="FIELD", help="Which field says it: true, false, or 1 and more.")
    ] = "",
    task_key: Annotated[
        str,
        typer.Option(
            metavar="FIELD", help="Which field says the task: task_id, metadata.task.  [default: the form's own]"
        ),
    ] = "",
    attempt_key: Annotated[
        str, typer.Option(metavar="FIELD", help="Which field says the attempt at it.  [default: the form's own]")
    ] = "",
    errors: Annotated[
        list[str],
        typer.Option(
            "--errors",
            metavar="FIELD|REGEX",
            help="Which results failed: a field of them (is_error, !ok, status=error), or a pattern of their text "
            "(^Error, /timeout/); may be repeated.",
        ),
    ] = [],  # noqa: B006  # typer copies it
    error_prefix: Annotated[
        list[str],
        typer.Option("--error-prefix", metavar="TEXT", help="The same by how their text begins; may be repeated."),
    ] = [],  # noqa: B006  # as above
    reasoning: Annotated[
        Literal["drop", "keep"], typer.Option(help="Thoughts apart from the text: left out and counted, or kept apart.")
    ] = "drop",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out what cannot be read, and count it.")] = False,
    forms: Annotated[
        bool, typer.Option("--forms", is_eager=True, callback=_list_read, help="List the forms, and end.")
    ] = False,
    overwrite: o.Replace = False,
) -> None:
    """Read another tool's record as episodes. What it does not say is marked as inferred.

    \b
    Example:
      sparring import logs/run.eval --from inspect --out episodes.jsonl
      sparring import chats.jsonl --from openai --success --out gold.jsonl
      sparring import runs.json --from openai --errors '^Error' --success-key reward --out runs.jsonl
    """
    from ..app.outputs import file_to_replace
    from ..trajectories.interchange import Failures, read, write_lines
    from ..trajectories.locks import only_writer_of
    from ..trajectories.pages.report import visible

    file_to_replace(out, "episodes.jsonl", overwrite, reads=[file])
    with only_writer_of(out):
        done = read(
            file,
            source,
            success=success,
            skip_bad=skip_bad,
            task_key=task_key,
            attempt_key=attempt_key,
            success_key=success_key,
            failures=Failures.parse(errors, error_prefix),
            reasoning=reasoning,
        )
        typer.echo(visible(str(done.report)), err=True)
        for warning in done.report.warnings:
            typer.echo(visible(f"note: {warning}"), err=True)
        write_lines((t.to_json() for t in done.trajectories), out)
    typer.echo(f"{len(done.trajectories)} episodes in {out}; to read one: sparring show {out}")
