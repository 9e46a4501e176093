"""Options that several commands share, each in one place: what it is called, what it means, how it is read.

Imports typer and the standard library only; so do the commands: `sparring --help` has to be there at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "AgentName",
    "Batch",
    "Data",
    "Device",
    "Env",
    "Faults",
    "Gold",
    "Levels",
    "Lora",
    "Lr",
    "MaxContext",
    "MaxTurnTokens",
    "MicroTokens",
    "Model",
    "Overwrite",
    "Parallel",
    "Precision",
    "RunFolder",
    "SaveEvery",
    "Schedule",
    "Seed",
    "SplitName",
    "Steps",
    "TaskLimit",
    "Temperature",
    "ToolStyle",
    "Warmup",
]


def levels(text: str) -> tuple[int, ...]:
    """`1,2` or `1-3` as numbers; empty: all."""
    out: list[int] = []
    try:
        for part in text.split(",") if text.strip() else ():
            low, _, high = part.partition("-")
            out += range(int(low), int(high or low) + 1)
    except ValueError:
        raise typer.BadParameter(f"expected levels such as 1,2 or 1-3, got {text!r}") from None
    return tuple(out)


# ---- what is played --------------------------------------------------------------------------------------------------

Env = Annotated[
    str, typer.Argument(metavar="ENV", help="A name of `sparring envs`, or yours as module:Class.", show_default=False)
]
AgentName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A scripted agent: expert, do-nothing, blind-retry, give-up, random."),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A model: a name of `sparring model list`, a folder, or a hub name."),
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
Temperature = Annotated[float, typer.Option(min=0.0, help="Of sampling; 0 takes the most likely token.")]
MaxTurnTokens = Annotated[int, typer.Option(min=1, help="Tokens that the model may say in one turn.")]
MaxContext = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tokens of a whole episode.  [default: 4096, or what the model takes]", show_default=False
    ),
]
Parallel = Annotated[int, typer.Option(min=1, help="Episodes that a model plays at once.")]

# ---- models ----------------------------------------------------------------------------------------------------------

ToolStyle = Annotated[
    Literal["auto", "schema", "signature"],
    typer.Option(help="How tools are shown to the model; auto: as it was trained, else by its size."),
]
Precision = Annotated[
    Literal["bf16", "fp32"], typer.Option(help="bf16: float32 master weights, the work in bfloat16. fp32: all float32.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1; a GPU where there is one.")]
Lora = Annotated[int, typer.Option(min=0, metavar="RANK", help="Train adapters of this rank; 0 trains all weights.")]

# ---- training --------------------------------------------------------------------------------------------------------

Data = Annotated[
    list[Path],
    typer.Option(metavar="FILE.jsonl", help="Episodes, as `rollout` writes them; may be repeated.", show_default=False),
]
Gold = Annotated[
    list[Path],
    typer.Option(metavar="FILE.jsonl", help="Good episodes, replayed a little against forgetting; may be repeated."),
]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(min=1, help="Items of one step.")]
Lr = Annotated[float, typer.Option(min=0.0, help="Learning rate.")]
Schedule = Annotated[
    Literal["constant", "linear"], typer.Option(help="After the warm-up: stay, or fall to 0 at the end.")
]
Warmup = Annotated[int, typer.Option(min=0, help="Steps over which the learning rate rises.")]
MicroTokens = Annotated[int, typer.Option(min=1, help="Tokens of one forward pass: less needs less memory.")]
SaveEvery = Annotated[int, typer.Option(min=0, help="Steps between checkpoints; 0: on Ctrl-C only.")]
RunFolder = Annotated[
    Path,
    typer.Option("--out", metavar="FOLDER", help="Checkpoints, metrics, and in the end model/.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what --out holds, and start anew.")]
