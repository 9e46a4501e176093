"""`sparring train sft | dpo | grpo`: options. Defaults are those of the settings' dataclasses; a test compares."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from . import options as o

__all__ = ["train"]

train = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

TrainModel = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="What training begins with: a name of `sparring model list`, a folder, or a hub name."
    ),
]


@train.callback()
def training() -> None:
    """Train a model. A run that was stopped goes on where it was, by the same command.

    \b
    Example:
      sparring train sft --data gold.jsonl --model smollm2-135m --out runs/sft
    """


@train.command()
def sft(
    data: o.Data,
    out: o.RunFolder,
    model: TrainModel = "smollm2-135m",
    keep: Annotated[
        Literal["gold", "successes", "all"],
        typer.Option(help="gold: what went well, mistakes as context only. successes: whole. all: as it is."),
    ] = "gold",
    steps: o.Steps = 22,
    batch: o.Batch = 16,
    lr: o.Lr = 1e-4,
    schedule: o.Schedule = "linear",
    warmup: o.Warmup = 2,
    lora: o.Lora = 0,
    tool_style: o.ToolStyle = "auto",
    precision: o.Precision = "bf16",
    device: o.Device = None,
    max_context: Annotated[int, typer.Option(min=1, help="A longer episode is refused, in tokens.")] = 4096,
    micro_tokens: o.MicroTokens = 2048,
    save_every: o.SaveEvery = 20,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Supervised fine-tuning on good episodes.

    \b
    Example:
      sparring train sft --data gold.jsonl --model smollm2-135m --out runs/sft
    """
    from ..app import training as t
    from ..trainers import Optim, SftSettings

    optim = Optim(lr=lr, schedule=schedule, warmup=warmup, micro_tokens=micro_tokens)
    settings = SftSettings(
        steps=steps, batch=batch, optim=optim, max_context=max_context, save_every=save_every, seed=seed
    )
    start = t.Start(model, lora, tool_style, precision, device)
    t.train("sft", settings, start, t.Given(data, keep), out, overwrite=overwrite)


@train.command()
def dpo(
    data: o.Data,
    out: o.RunFolder,
    model: TrainModel = "smollm2-135m",
    gold: o.Gold = [],  # noqa: B006  # typer copies it
    pairs: Annotated[int, typer.Option(min=1, help="At most so many pairs of one group.")] = 1,
    steps: o.Steps = 4,
    batch: o.Batch = 16,
    lr: o.Lr = 3e-6,
    beta: Annotated[float, typer.Option(min=0.0, help="How firmly the policy is held to where it began.")] = 0.1,
    variant: Annotated[Literal["sigmoid", "ipo"], typer.Option(help="The loss.")] = "sigmoid",
    nll: Annotated[float, typer.Option(min=0.0, help="Weight of the chosen side's cross-entropy.")] = 0.2,
    min_chosen: Annotated[
        float, typer.Option(help="Leave pairs out whose chosen side is less likely than this, in nats.")
    ] = -12.0,
    replay: Annotated[int, typer.Option(min=0, help="Episodes of --gold in each step.")] = 4,
    replay_weight: Annotated[float, typer.Option(min=0.0, help="Their weight.")] = 0.2,
    schedule: o.Schedule = "constant",
    warmup: o.Warmup = 0,
    lora: o.Lora = 0,
    tool_style: o.ToolStyle = "auto",
    precision: o.Precision = "bf16",
    device: o.Device = None,
    max_context: Annotated[int, typer.Option(min=1, help="A longer episode is refused, in tokens.")] = 4096,
    micro_tokens: o.MicroTokens = 2048,
    save_every: o.SaveEvery = 10,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Preference training on pairs of its own episodes. `rollout --group 8` gives the groups.

    \b
    Example:
      sparring rollout orders --model runs/sft/model --faults count=1 --group 8 --out groups.jsonl
      sparring train dpo --data groups.jsonl --gold gold.jsonl --model runs/sft/model --out runs/dpo
    """
    from ..app import training as t
    from ..trainers import DpoSettings, Optim

    optim = Optim(lr=lr, schedule=schedule, warmup=warmup, micro_tokens=micro_tokens)
    settings = DpoSettings(
        steps=steps,
        batch=batch,
        beta=beta,
        variant=variant,
        nll=nll,
        min_chosen=min_chosen,
        replay=replay,
        replay_weight=replay_weight,
        optim=optim,
        max_context=max_context,
        save_every=save_every,
        seed=seed,
    )
    start = t.Start(model, lora, tool_style, precision, device)
    t.train("dpo", settings, start, t.Given(data, pairs=pairs, gold=gold), out, overwrite=overwrite)


@train.command()
def grpo(
    env: o.Env,
    out: o.RunFolder,
    model: TrainModel = "smollm2-135m",
    gold: o.Gold = [],  # noqa: B006  # typer copies it
    faults: Annotated[
        list[str], typer.Option(metavar="PLAN", help="clean, count=1, ...; repeated: in turn, twice: twice as often.")
    ] = ["clean", "count=1", "count=1", "count=2"],  # noqa: B006  # as above
    levels: o.Levels = "",
    steps: o.Steps = 10,
    groups: Annotated[int, typer.Option(min=1, help="Groups of one step.")] = 8,
    group: Annotated[int, typer.Option(min=2, help="Episodes of one group.")] = 8,
    redraws: Annotated[int, typer.Option(min=0, help="How often groups that agree are replaced by new ones.")] = 0,
    lr: o.Lr = 5e-6,
    kl: Annotated[float, typer.Option(min=0.0, help="Weight of KL to where the run began; 0: off.")] = 0.02,
    estimator: Annotated[
        Literal["grpo", "dr_grpo", "rloo"], typer.Option(help="How a group becomes advantages.")
    ] = "grpo",
    aggregation: Annotated[
        Literal["token-mean", "sequence-mean", "constant"], typer.Option(help="What the loss is divided by.")
    ] = "token-mean",
    replay: Annotated[int, typer.Option(min=0, help="Episodes of --gold in each step.")] = 4,
    replay_weight: Annotated[float, typer.Option(min=0.0, help="Their weight.")] = 0.1,
    temperature: o.Temperature = 1.0,
    max_turn_tokens: o.MaxTurnTokens = 64,
    parallel: o.Parallel = 64,
    schedule: o.Schedule = "constant",
    warmup: o.Warmup = 1,
    lora: o.Lora = 0,
    tool_style: o.ToolStyle = "auto",
    precision: o.Precision = "bf16",
    device: o.Device = None,
    micro_tokens: o.MicroTokens = 2048,
    save_every: o.SaveEvery = 5,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Reinforcement learning under faults. The reward is that of the whole episode.

    \b
    Example:
      sparring train grpo orders --model runs/sft/model --gold gold.jsonl --out runs/grpo
    """
    from ..app import training as t
    from ..envs.registry import make
    from ..trainers import GrpoSettings, Mixture, Optim

    make(env)  # a wrong name is said before a model is loaded
    optim = Optim(lr=lr, schedule=schedule, warmup=warmup, micro_tokens=micro_tokens)
    settings = GrpoSettings(
        mixture=Mixture.of(env, faults=t.mixture_plans(faults), levels=o.levels(levels)),
        steps=steps,
        groups=groups,
        group=group,
        redraws=redraws,
        kl=kl,
        estimator=estimator,
        aggregation=aggregation,
        replay=replay,
        replay_weight=replay_weight,
        temperature=temperature,
        max_turn_tokens=max_turn_tokens,
        parallel=parallel,
        optim=optim,
        save_every=save_every,
        seed=seed,
    )
    start = t.Start(model, lora, tool_style, precision, device)
    t.train("grpo", settings, start, t.Given(gold=gold), out, overwrite=overwrite)
