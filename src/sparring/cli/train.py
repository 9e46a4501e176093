"""`sparring train OBJECTIVE`: a subcommand for each objective of the registry, its options made from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import options as o
from .config import keep_in
from .root import LazyGroup, built
from .settings import Fields, command, expanded, first_sentence, level_numbers

if TYPE_CHECKING:
    from ..app.training import Given, Start
    from ..trainers.settings import TrainSettings

__all__ = ["SKIPPED", "train"]

SKIPPED = {
    "mixture": "made of ENV, --faults and --levels",
}
"""Fields of objectives' settings that are no options, and why."""

_LEAST = {
    "steps": 1, "batch": 1, "max_context": 1, "micro_tokens": 1, "save_every": 0, "lr": 0, "warmup": 0,
    "groups": 1, "group": 2, "redraws": 0, "beta": 0, "nll": 0, "kl": 0, "replay": 0, "replay_weight": 0,
    "temperature": 0, "max_turn_tokens": 1, "parallel": 1, "lora": 0, "weight_decay": 0, "max_grad_norm": 0,
    "validation_share": 0, "validate_every": 1,
}  # fmt: skip
"""The smallest value that can be meant, of settings that several objectives have."""

_START = Fields("sparring.app.training:Start", least=_LEAST)


class _Objectives(LazyGroup):
    """The objectives of the registry."""

    def names(self) -> list[str]:
        from ..trainers.objective import OBJECTIVES

        return OBJECTIVES.names()

    def load(self, name: str) -> Any:
        from ..trainers.objective import OBJECTIVES

        objective = OBJECTIVES.get(name)
        work = {"episodes": _on_episodes, "pairs": _on_pairs, "mixture": _in_mixture}[objective.needs]
        settings = Fields(objective.Settings, skip=SKIPPED, least=_LEAST)
        made = expanded(work, settings=settings)
        example = (inspect.getdoc(work) or "").partition("\n\n")[2].replace("OBJECTIVE", name)
        made.__doc__ = f"{self.about(name)}\n\n{example}"
        return built(name, made)

    def about(self, name: str) -> str:
        from ..app.training import about_objective

        return first_sentence(about_objective(name))


train = typer.Typer(cls=_Objectives, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@train.callback()
def about() -> None:
    """Train a model. A run that was stopped goes on where it was, by the same command.

    \b
    Example:
      sparring train sft --data gold.jsonl --model smollm2-135m --out runs/sft
    """


@command(config=True, start=_START)
def _on_episodes(
    ctx: typer.Context,
    data: o.Data,
    out: o.RunFolder,
    keep: Annotated[
        Literal["gold", "successes", "all"],
        typer.Option(help="gold: what went well, mistakes as context only. successes: whole. all: as it is."),
    ] = "gold",
    validation: o.Validation = [],  # noqa: B006  # typer copies it
    *,
    start: Start,
    settings: TrainSettings,
    plan: o.Plan = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Trains.

    \b
    Example:
      sparring train OBJECTIVE --data gold.jsonl --model smollm2-135m --out runs/OBJECTIVE
    """
    from ..app.training import Given

    _train(ctx, settings, start, Given(data, keep, validation=validation), out, plan, overwrite)


@command(config=True, start=_START)
def _on_pairs(
    ctx: typer.Context,
    data: o.Data,
    out: o.RunFolder,
    gold: o.Gold = [],  # noqa: B006  # typer copies it
    pairs: Annotated[int, typer.Option(min=1, help="At most so many pairs of one group.")] = 1,
    *,
    start: Start,
    settings: TrainSettings,
    plan: o.Plan = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Trains.

    \b
    Example:
      sparring rollout orders --model runs/sft/model --faults count=1 --group 8 --out groups.jsonl
      sparring train OBJECTIVE --data groups.jsonl --gold gold.jsonl --model runs/sft/model --out runs/OBJECTIVE
    """
    from ..app.training import Given

    _train(ctx, settings, start, Given(data, pairs=pairs, gold=gold), out, plan, overwrite)


@command(config=True, start=_START)
def _in_mixture(
    ctx: typer.Context,
    env: o.Envs,
    out: o.RunFolder,
    gold: o.Gold = [],  # noqa: B006  # typer copies it
    faults: Annotated[
        list[str], typer.Option(metavar="PLAN", help="clean, count=1, ...; repeated: in turn, twice: twice as often.")
    ] = ["clean", "count=1", "count=1", "count=2"],  # noqa: B006  # as above
    levels: o.Levels = "",
    *,
    start: Start,
    settings: Callable[..., TrainSettings],
    plan: o.Plan = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Trains.

    \b
    Example:
      sparring train OBJECTIVE orders --model runs/sft/model --gold gold.jsonl --out runs/OBJECTIVE
      sparring train OBJECTIVE 2*orders shop --model runs/sft/model --out runs/two-worlds
    """
    from ..app.training import Given, mixture_plans
    from ..envs import make
    from ..trainers.mixture import Mixture

    mixture = Mixture.of(*env, faults=mixture_plans(faults), levels=level_numbers(levels))
    for part in mixture.parts:
        make(part.env)  # a wrong name is said before a model is loaded
    _train(ctx, settings(mixture=mixture), start, Given(gold=gold), out, plan, overwrite)


def _train(
    ctx: typer.Context, settings: TrainSettings, start: Start, given: Given, out: Path, plan: bool, overwrite: bool
) -> None:
    from ..app import training

    name = str(ctx.command.name)
    if plan:
        typer.echo(training.plan(name, settings, start, given))
        return
    training.train(name, settings, start, given, out, overwrite=overwrite, written=lambda folder: keep_in(ctx, folder))
