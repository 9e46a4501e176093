"""`sparring mcp serve`: an environment as an MCP server. What it does is in `envs.bridges.mcp_server`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o

__all__ = ["mcp"]

mcp = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@mcp.callback()
def root() -> None:
    """Environments for other programs, over the Model Context Protocol.

    \b
    Example:
      sparring mcp serve orders
    """


@mcp.command()
def serve(
    env: o.Env,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Serve HTTP here, at /mcp.  [default: over stdin and stdout]", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen. There is no authentication.")] = "127.0.0.1",
    split: o.SplitName = "test",
    faults: Annotated[
        str, typer.Option(metavar="PLAN", help="A fault plan for every episode, count=1 say.", show_default=False)
    ] = "",
) -> None:
    """Serve an environment as an MCP server. Its tools, and begin and finish around an episode.

    \b
    Example:
      sparring mcp serve orders
      sparring mcp serve mine:Library --port 8000 --faults "count=1:unavailable@7"
    """
    from ..envs.bridges.mcp_server import serve as run

    run(env, port=port, host=host, split=split, faults=faults)
