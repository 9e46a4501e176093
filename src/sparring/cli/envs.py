"""`sparring envs`: which environments there are."""

from __future__ import annotations

import typer

__all__ = ["envs"]


def envs() -> None:
    """List the environments, their tools and levels.

    \b
    Example:
      sparring envs
    """
    from ..app.wording import paragraph
    from ..envs import make, registered, task_set
    from ..trajectories.errors import SparringError
    from ..trajectories.pages.report import visible

    for id, short in registered().items():
        typer.echo(f"{short or id}" + (f"  ({id})" if short else ""))
        try:
            env = make(id)
            about = (type(env).__doc__ or "").strip().splitlines()
            levels = sorted({task.level for task in task_set(env, "train", 64)})
        except SparringError as error:
            typer.echo(paragraph(f"cannot be made: {error}", "  "))
            continue
        typer.echo(paragraph(visible(about[0]) if about else "(no description)", "  "))
        typer.echo(paragraph("tools: " + ", ".join(visible(spec.name) for spec in env.toolbox.specs), "  "))
        typer.echo(f"  levels: {levels[0]} to {levels[-1]}" if len(levels) > 1 else f"  level: {levels[0]}")
    typer.echo("\nYour own: mine.py, the file of an environment; or mine:Library for class Library in mine.py here.")
