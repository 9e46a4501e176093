"""`sparring check`: what is wrong with an environment."""

from __future__ import annotations

import shlex
from textwrap import indent
from typing import Annotated

import typer

from . import options as o

__all__ = ["check"]


def check(
    ctx: typer.Context,
    env: o.Env,
    tasks: Annotated[
        int, typer.Option(min=1, help="Tasks that are played in each check; fewer where it is slow.")
    ] = 24,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long one call may take; a hang is an error.")] = 60.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of what the environment raised.")] = False,
) -> None:
    """Say what is wrong with an environment. And how to fix it; exits with 1 where there is an error.

    \b
    Example:
      sparring check orders
      sparring check examples/library.py --debug
    """
    from ..app.console import watching
    from ..app.wording import count, paragraph
    from ..envs import CheckProgress, check_env
    from ..trajectories.pages.report import visible

    cut: dict[str, None] = {}

    def on_progress(now: CheckProgress) -> None:
        if now.cut:
            cut[now.check] = None
        watch.progress(now.number, now.of, f"{now.check}: {now.note}" if now.note else now.check, even=False)

    with watching() as watch:
        watch.stage(f"checking {env}")
        findings = check_env(env, tasks=tasks, seconds=seconds, on_progress=on_progress)
        watch.progress(1, 1)
    errors = sum(f.severity == "error" for f in findings)
    debug = debug or o.debugging(ctx)
    for finding in findings:
        typer.echo(paragraph(visible(f"{finding.severity}: {finding.what}"), "", "  "))
        typer.echo(paragraph(visible(f"fix: {finding.how_to_fix}"), "  ", "        "))
        if debug and finding.trace:
            typer.echo(indent(visible(finding.trace.rstrip()), "    "))
    if not debug and any(finding.trace for finding in findings):
        typer.echo(f"for the tracebacks: sparring check {shlex.quote(env)} --debug")
    if cut:
        typer.echo(f"the environment is slow, so these checks played less than they would: {', '.join(cut)}")
    warnings = count(len(findings) - errors, "warning")
    typer.echo(f"{env}: {count(errors, 'error')}, {warnings}" if findings else f"{env}: all is well")
    if errors:
        raise typer.Exit(1)
