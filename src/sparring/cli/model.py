"""`sparring model list | fetch`: models that are known by name."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["model"]

model = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@model.callback()
def about() -> None:
    """Models that are known by name.

    \b
    Example:
      sparring model list
      sparring model fetch smollm2-135m
    """


@model.command("list")
def list_() -> None:
    """List the models that are known by name, and whether they are here.

    \b
    Example:
      sparring model list
    """
    from ..agents.models import KNOWN_MODELS, TINY_MODELS, fetched, home
    from ..app.wording import paragraph

    for name, known in KNOWN_MODELS.items():
        here = "here" if fetched(name) else f"to fetch, {known.download_bytes / 1e6:.0f} MB"
        typer.echo(f"{name}  ({known.parameters / 1e6:.0f} M parameters, {known.licence}; {here})")
        typer.echo(paragraph(known.about, "  "))
    for name in TINY_MODELS:
        typer.echo(f"{name}  (random weights, for tests; built on the spot)")
    typer.echo(f"\nThey are kept in {home() / 'models'}. A local folder and a hub name work as well.")


@model.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Of `model list`.")],
) -> None:
    """Fetch a model once. Prints its folder; afterwards it is used offline.

    \b
    Example:
      sparring model fetch smollm2-135m
    """
    from ..agents import models
    from ..app.console import watching

    with watching() as watch:
        watch.stage(f"fetching {name}")
        folder = models.fetch(name, progress=lambda what, share: watch.progress(round(100 * share), 100, what))
    typer.echo(folder)
