"""`sparring check`: what is wrong with an environment."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o

__all__ = ["check"]


def check(
    env: o.Env,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that are played in each check.")] = 24,
) -> None:
    """Say what is wrong with an environment. And how to fix it; exits with 1 where there is an error.

    \b
    Example:
      sparring check orders
      sparring check examples/library.py
    """
    from ..app.console import watching
    from ..app.wording import count, paragraph
    from ..envs import check_env
    from ..trajectories.pages.report import visible

    with watching() as watch:
        watch.stage(f"checking {env}")
        findings = check_env(env, tasks=tasks)
    errors = sum(f.severity == "error" for f in findings)
    for finding in findings:
        typer.echo(paragraph(visible(f"{finding.severity}: {finding.what}"), "", "  "))
        typer.echo(paragraph(visible(f"fix: {finding.how_to_fix}"), "  ", "        "))
    warnings = count(len(findings) - errors, "warning")
    typer.echo(f"{env}: {count(errors, 'error')}, {warnings}" if findings else f"{env}: all is well")
    if errors:
        raise typer.Exit(1)
