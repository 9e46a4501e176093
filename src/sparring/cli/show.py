"""`sparring show`: one episode."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show"]


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE|STORE", help="Episodes.", show_default=False)],
    id: Annotated[
        str, typer.Argument(metavar="[ID]", help="Of an episode, or how it begins; the first by default.")
    ] = "",
    failed: Annotated[bool, typer.Option("--failed", help="The first that failed.")] = False,
) -> None:
    """Show one episode. Its messages, calls, and each result with outcome, cause and fault.

    \b
    Example:
      sparring show gold.jsonl
      sparring show runs/eval/give-up.jsonl --failed
    """
    from ..app import console
    from ..app.records import episodes_in, read
    from ..app.wording import count
    from ..trajectories.errors import DataError, UnknownName
    from ..trajectories.pages.report import show_trajectory

    episodes = list(episodes_in(file)) if file.is_dir() else read([file])
    chosen = [t for t in episodes if t.id.startswith(id)]
    if not chosen:
        raise UnknownName("episode", id, [t.id for t in islice(episodes, 8)])
    if failed:
        chosen = [t for t in chosen if t.success is False]
        if not chosen:
            raise DataError(f"{file}: none of {count(len(episodes), 'episode')} failed")
    console.show(show_trajectory(chosen[0]))
