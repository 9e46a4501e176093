"""`sparring view`: episodes in a browser, as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..trajectories.trajectory import Trajectory

__all__ = ["view"]


def view(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A store, a file of episodes, or a run's folder.", show_default=False),
    ],
    port: o.Port = 0,
    newest: Annotated[int, typer.Option(min=1, help="About how many episodes are kept.")] = 5_000,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of a model: what tokens say.  [default: a model's in PATH, if any]"),
    ] = None,
    open_: o.OpenBrowser = True,
) -> None:
    """Look at episodes in a browser, as they are written. Only this machine is served; Ctrl-C ends it.

    \b
    Example:
      sparring view runs/store
      sparring view runs/orders-quick --no-open
    """
    from ..app.browser import open_page
    from ..trajectories.locks import at_work_in
    from ..trajectories.pages.live import LiveView, ViewServer
    from ..trajectories.pages.report.tokenizer import find_tokenizer, token_texts

    folder = tokenizer or (find_tokenizer(path) if path.is_dir() else None)
    decode = token_texts(folder) if folder is not None else None
    live = LiveView(path, place=_place(), newest=newest, decode=decode)
    server = ViewServer(live, title=path.resolve().name, port=port)
    try:
        if path.is_dir() and (worker := at_work_in(path)) is not None:
            typer.echo(f"{path} is running: {worker}")
        typer.echo(f"{path} at {server.url}  (Ctrl-C ends this)")
        if open_:
            open_page(server.url)
        server.run()
    except KeyboardInterrupt:
        typer.echo("\nended")


def _place() -> Callable[[str, Trajectory], tuple[str, str]]:
    """Arms and conditions as a report has them; in a recipe's folder, `STAGE/ARM/CONDITION` and `STAGE/episodes`."""
    from ..app.wording import condition_name

    envs: list[str] = []

    def place(label: str, t: Trajectory) -> tuple[str, str]:
        if not envs:
            envs.append(t.env)
        plan = _short(condition_name(t.faults))
        parts = label.split("/")
        if len(parts) > 1 and "episodes" in parts:
            parts = parts[: parts.index("episodes")]
        elif len(parts) > 2:
            parts = parts[1:-1]
        return "/".join(parts) or t.agent or "episodes", plan if t.env == envs[
            0
        ] else f"{t.env.rpartition('/')[2]}: {plan}"

    return place


def _short(plan: str) -> str:
    """A plan over many kinds as the head of a column: `one fault of 5 kinds`."""
    number, colon, kinds = plan.partition(":")
    if not colon or kinds.count(",") < 2:
        return plan
    words = {"count=1": "one fault", "count=2": "two faults"}
    return f"{words.get(number, number)} of {kinds.count(',') + 1} kinds"
