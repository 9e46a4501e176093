"""`sparring view`: what it is called and takes, and what it does.

Only typer and the standard library are imported at the top: help has to be there at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..trajectories.trajectory import Trajectory

__all__ = ["attach", "view"]


def view(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A store, a file of episodes, or a run's folder.", show_default=False),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    newest: Annotated[int, typer.Option(min=1, help="About how many episodes are kept.")] = 5_000,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of a model: what tokens say.  [default: a model's in PATH, if any]"),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Look at episodes in a browser, as they are written. Only this machine is served; Ctrl-C ends it.

    \b
    Example:
      sparring view runs/store
      sparring view runs/orders-quick --no-open
    """
    from ..trajectories.pages.live import LiveView, ViewServer
    from ..trajectories.pages.report.tokenizer import find_tokenizer, token_texts

    folder = tokenizer or (find_tokenizer(path) if path.is_dir() else None)
    decode = token_texts(folder) if folder is not None else None
    live = LiveView(path, place=_place(), newest=newest, decode=decode)
    server = ViewServer(live, title=path.resolve().name, port=port)
    try:
        print(f"{path} at {server.url}  (Ctrl-C ends this)", flush=True)
        if open_ and _has_display():
            import webbrowser

            webbrowser.open(server.url)
        server.run()
    except KeyboardInterrupt:
        print("\nended")


def _place() -> Callable[[str, Trajectory], tuple[str, str]]:
    """Arms and conditions as a report has them; in a recipe's folder, `STAGE/ARM/CONDITION` and `STAGE/episodes`."""
    from ..app.playing import condition_name

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


def _has_display() -> bool:
    """Not a browser of the terminal, which would take it over."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def attach(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("view")(view)
