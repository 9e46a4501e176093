"""`sparring new env`: begins something of your own. What it writes is in `app.scaffold`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["env", "new"]

new = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@new.callback()
def root() -> None:
    """Begin something of your own.

    \b
    Example:
      sparring new env tea-shop
    """


@new.command()
def env(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the package, such as tea-shop.", show_default=False)],
) -> None:
    """Write a package with an environment. Into ./NAME, with an expert and tests that pass.

    Once it is installed, every command knows it by NAME.

    \b
    Example:
      sparring new env tea-shop
    """
    from ..app.scaffold import class_name, new_env

    for file in new_env(name, Path()):
        typer.echo(f"  {file}")
    typer.echo(f"\nnow:    cd {name}")
    typer.echo(f"        sparring check {name.replace('-', '_')}:{class_name(name)}")
    typer.echo("        python -m pytest        its tests (pip install pytest, where it is missing)")
    typer.echo(f"then:   pip install -e .     and, in any folder, sparring rollout {name}")
