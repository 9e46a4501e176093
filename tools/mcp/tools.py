"""The tools of an MCP server. Defines `mcp_tools`."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...trajectories.errors import ConfigError, EnvError, MissingExtra
from ...trajectories.messages import Json, ToolSpec
from ..definition import Tool
from ..names import callable_names
from ..schemas import validator_of, without_wrong_keywords
from .answers import Listed
from .server import Server

__all__ = ["mcp_tools"]

_log = logging.getLogger(__name__)


@contextmanager
def mcp_tools(
    command: Sequence[str] | None = None,
    *,
    url: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    headers: Mapping[str, str] | None = None,
    prefix: str = "",
    only: Collection[str] | None = None,
    read_only: Collection[str] = (),
    trust_hints: bool = True,
    timeout: float = 30.0,
    start_timeout: float = 30.0,
    max_bytes: int = 4 << 20,
) -> Iterator[tuple[Tool, ...]]:
    """The tools of one MCP server, while the connection is open.

    A tool that cannot be used (its JSON Schema is wrong, say) is left out, with a warning. Each tool has a name that
    models can write: ASCII, at most 64 characters with the prefix, numbered where two would be alike.

    Args:
        command: Starts a server that speaks over its stdin and stdout. It inherits PATH, HOME and the like, no more.
        url: A server that is already running. Exactly one of `command` and `url` is given.
        env: Further environment variables for `command`. Their values appear in no error.
        cwd: Where `command` runs.
        headers: Sent with each HTTP request (a token, say). Their values appear in no error.
        prefix: Put before each tool's name, to tell several servers apart.
        only: The server's names of the tools to take; all by default.
        read_only: The server's names of tools that change nothing, for a server that does not say so itself.
        trust_hints: Believe the server's own hints: readOnlyHint (no effect) and idempotentHint. A tool without hints
            is taken to change the world.
        timeout: Seconds for one call, waiting included.
        start_timeout: Seconds for a connection, to the list of its tools.
        max_bytes: A larger message of the server is refused.

    Raises:
        ConfigError: Neither or both of `command` and `url`; a name in `only` or `read_only` that is no tool.
        EnvError: A tool named in `only` cannot be used, or none of the tools; the list of tools cannot be read.
        InfrastructureError: The server could not be reached.
        MissingExtra: The package mcp is missing.
    """
    if (command is None) == (url is None):
        raise ConfigError("mcp_tools takes a command or a url: exactly one of them")
    if isinstance(command, str) or (command is not None and not command):
        raise ConfigError(f"command is a list of words, ['python', 'server.py'] say, got {command!r}")
    try:
        import mcp  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingExtra("mcp", "mcp") from error
    server = Server(
        command=tuple(command or ()),
        url=url or "",
        env=dict(env or {}),
        cwd=cwd,
        headers=dict(headers or {}),
        timeout=timeout,
        start_timeout=start_timeout,
        max_bytes=max_bytes,
    )
    try:
        listed = server.list_tools()
        known = [tool.name for tool in listed if tool.name]
        for wanted in (*(only or ()), *read_only):
            if wanted not in known:
                raise ConfigError(f"the server has no tool {wanted!r}; it has: {', '.join(known) or 'none'}")
        chosen = [tool for tool in listed if only is None or tool.name in only]
        names = callable_names((tool.name for tool in chosen if tool.name), prefix)
        made: list[Tool] = []
        wrong: list[str] = []
        for one in chosen:
            try:
                made.append(_tool(server, one, names.get(one.name, ""), one.name in read_only, trust_hints))
            except EnvError as error:
                if only is not None:
                    raise
                wrong.append(str(error))
                _log.warning("a tool of %s is left out: %s", server.name, error)
        if wrong and not made:
            raise EnvError(f"none of the {len(wrong)} tools of {server.name} can be used; the first: {wrong[0]}")
        yield tuple(made)
    finally:
        server.close()


def _tool(server: Server, listed: Listed, name: str, read_only: bool, trust: bool) -> Tool:
    if listed.wrong:
        raise EnvError(f"tool {listed.name!r}: {listed.wrong}" if listed.name else f"a tool: {listed.wrong}")
    effect = not (read_only or (trust and listed.reads))

    def run(**arguments: Json) -> Json:
        return server.call(listed.name, arguments, effect=effect)

    def made_with(parameters: dict[str, Json]) -> Tool:
        idempotent = not effect or (trust and listed.idempotent)
        spec = ToolSpec(name, listed.description, parameters)
        return Tool(spec, run, effect=effect, idempotent=idempotent, blocking=True)

    try:
        made = made_with(listed.parameters)
    except EnvError:
        lighter, dropped = without_wrong_keywords(listed.parameters)
        if not dropped:
            raise
        made = made_with(lighter)
        _log.warning(
            "the schema of the tool %r is used without what is wrong in it: %s", listed.name, ", ".join(dropped)
        )
    if listed.output is not None:
        try:
            validator_of(listed.name, listed.output, kind="")
        except EnvError as error:
            _log.warning("results of the tool %r are not checked: its outputSchema: %s", listed.name, error)
    return made
