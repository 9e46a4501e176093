"""Options that several commands share, each in one place: what it is called, what it means, how it is read.

Imports typer and the standard library only; so do the commands: `sparring --help` has to be there at once. Options that
are a setting of something are made from its dataclass: see `settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .settings import Fields

__all__ = [
    "AGENT",
    "LIMITS",
    "AgentName",
    "Data",
    "Env",
    "Envs",
    "Faults",
    "Gold",
    "Levels",
    "Loaded",
    "Model",
    "OpenBrowser",
    "Overwrite",
    "Plan",
    "Port",
    "Replace",
    "RunFolder",
    "Seed",
    "SplitName",
    "TaskLimit",
    "Validation",
    "debugging",
]

# ---- what is played --------------------------------------------------------------------------------------------------

Env = Annotated[
    str,
    typer.Argument(
        metavar="ENV", help="A name of `sparring envs`, or yours: mine.py, or mine:Class.", show_default=False
    ),
]
Envs = Annotated[
    list[str],
    typer.Argument(
        metavar="ENV...",
        help="Environments, as `sparring envs` or yours name them; with a weight if wanted: 2*orders.",
        show_default=False,
    ),
]
AgentName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A scripted agent (expert, gold, do-nothing, blind-retry, give-up, random), or openai:URL#MODEL.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="A model: a name of `sparring model list`, a folder, a hub name, or openai:URL#MODEL."
    ),
]
SplitName = Annotated[Literal["train", "validation", "test"], typer.Option(help="Which tasks.")]
Levels = Annotated[str, typer.Option(metavar="1,2", help="Only tasks of these levels; all by default.")]
Faults = Annotated[
    str,
    typer.Option(
        metavar="PLAN",
        help="count=1, count=2:unavailable,stale_id, unavailable@refund:0.2, or plan.yaml; @SEED may follow.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of tasks, faults, sampling and order: the same seed, the same result.")]
TaskLimit = Annotated[int, typer.Option("--n", min=1, help="Number of tasks.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what --out holds, and start anew.")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]

AGENT = Fields(
    "sparring.agents.loading:AgentSettings",
    least={"max_turn_tokens": 1, "max_context": 1, "parallel": 1, "temperature": 0.0},
)
"""How a model plays, as options."""

LIMITS = Fields("sparring.agents.rollouts:Limits", least={"turns": 1, "tokens": 1})
"""When episodes are cut, as options."""


def debugging(ctx: typer.Context) -> bool:
    """Whether tracebacks are asked for: `sparring --debug COMMAND`."""
    return bool(ctx.find_root().params.get("debug"))


# ---- episodes that are read ------------------------------------------------------------------------------------------

Loaded = Annotated[
    list[str],
    typer.Option(
        "--env",
        metavar="ENV",
        help="An environment of yours that the episodes name: its code may run. May be repeated.",
    ),
]
Data = Annotated[
    list[Path],
    typer.Option(metavar="FILE.jsonl", help="Episodes, as `rollout` writes them; may be repeated.", show_default=False),
]
Gold = Annotated[
    list[Path],
    typer.Option(metavar="FILE.jsonl", help="Good episodes, replayed a little against forgetting; may be repeated."),
]
Validation = Annotated[
    list[Path],
    typer.Option(metavar="FILE.jsonl", help="Episodes that are not learned: their loss is measured; may be repeated."),
]

# ---- training --------------------------------------------------------------------------------------------------------

RunFolder = Annotated[
    Path,
    typer.Option("--out", metavar="FOLDER", help="Checkpoints, metrics, and in the end model/.", show_default=False),
]
Plan = Annotated[bool, typer.Option("--plan", help="Print parameters, memory and tokens of this call, and do nothing.")]

# ---- pages -----------------------------------------------------------------------------------------------------------

Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
OpenBrowser = Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")]
