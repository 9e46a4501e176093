"""What the tools of environments are for, as metrics of recovery ask: which wait, log in, or are in for another."""

from __future__ import annotations

from collections.abc import Iterable

from ..trajectories.errors import SparringError
from ..trajectories.metrics import Roles, ToolRoles
from .registry import make_recorded

__all__ = ["tool_roles"]


def tool_roles(envs: Iterable[str]) -> Roles:
    """By id, for those of `envs` that are registered or loaded: what a record names must import no code."""
    out: dict[str, ToolRoles] = {}
    for env in sorted(set(envs)):
        try:
            tools = make_recorded(env).toolbox.tools.values()
        except SparringError:  # not loaded, or its extra is not installed: then roles are guessed from names
            continue
        out[env] = ToolRoles(
            waits=frozenset(t.name for t in tools if t.waits),
            logs_in=frozenset(t.name for t in tools if t.logs_in),
            alternatives={t.name: frozenset({t.alternative}) for t in tools if t.alternative},
            effects=frozenset(t.name for t in tools if t.effect),
        )
    return out
