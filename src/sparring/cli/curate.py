"""`sparring curate`: training data from episodes, by named rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o

if TYPE_CHECKING:
    from ..trajectories.trajectory import Task, Trajectory

__all__ = ["card_path", "curate"]

_TASKS = 1000
"""Of each environment that are held out when a split is named."""


def curate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="Episodes: .jsonl files, or folders of a store.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Where episodes or pairs go.", show_default=False)],
    rule: Annotated[
        list[str],
        typer.Option(metavar="'NAME KEY=VALUE'", help="May be repeated: one rule after the other.", show_default=False),
    ] = [],  # noqa: B006  # typer copies it
    rules_file: Annotated[
        Path | None,
        typer.Option("--rules", metavar="RULES.yaml", help="Rules in a file (YAML or JSON), before those of --rule."),
    ] = None,
    env: o.Loaded = [],  # noqa: B006  # typer copies it
    held_out: Annotated[
        str | None,
        typer.Option(metavar="FILE|SPLIT", help="Refuse a result with tasks of these episodes, or of this split."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of every draw: the same seed, the same data.  [default: that of --rules, or 0]")
    ] = None,
    overwrite: o.Replace = False,
) -> None:
    """Turn episodes into training data by named rules. The card next to it says what was dropped and why.

    \b
    For `train sft`, each possibly after or before other rules:
      gold  recoveries  successes  best_of  rejection_sampling  distillation
      corrections  turn_weights
    For `train dpo`, as the last rule:
      pairs by=reward | score | judge | people | correction | step | style
    To choose among episodes:
      duplicates  near_duplicates  coverage  diverse  quality  difficulty
      balanced  decontaminated  sample
    docs/curation.md says what each takes.

    \b
    Example:
      sparring curate gold.jsonl --rule gold --rule "near_duplicates threshold=0.9" --out sft-data.jsonl
      sparring curate groups.jsonl --rule "pairs by=reward" --out pairs-data.jsonl
    """
    from ..app.outputs import file_to_replace
    from ..app.wording import taken_for_good
    from ..envs import make
    from ..trajectories.curation import curate as run
    from ..trajectories.curation import parse_rule, read_rules, write_pairs
    from ..trajectories.errors import ConfigError
    from ..trajectories.files import write_lines
    from ..trajectories.locks import only_writer_of

    card = card_path(out)
    file_to_replace(out, "data.jsonl", overwrite, reads=paths, also=card)
    in_file, its_seed = read_rules(rules_file) if rules_file is not None else ([], None)
    rules = [*in_file, *map(parse_rule, rule)]
    for name in env:
        make(name)  # loads its code
    seed = seed if seed is not None else its_seed or 0
    if not rules:
        raise ConfigError("no rule was given: --rule gold, say, or --rules RULES.yaml")
    episodes = _read(paths)
    envs = {t.env for t in episodes}
    helpers: dict[str, Callable[..., Any]] = {
        "corrections": _corrections,
        "judge": _judge,
        "tasks": lambda text: _tasks(text, envs),
    }
    forbidden = _tasks(held_out, envs) if held_out is not None else []
    done = run(episodes, rules, seed=seed, held_out=forbidden, helpers=helpers)
    typer.echo(str(done), err=True)
    if note := taken_for_good(episodes):
        typer.echo(f"note: {note}", err=True)
    items: Any = done.items
    with only_writer_of(out):  # data and card are of one call
        if done.unit == "pairs":
            write_pairs(items, out)
        else:
            write_lines((t.to_json() for t in items), out)
        report = {**done.card(), "inputs": [str(path) for path in paths], "output": str(out)}
        write_lines([json.dumps(report, indent=1).encode()], card)
    then = f"sparring train dpo --data {out}" if done.unit == "pairs" else f"sparring train sft --data {out} --keep all"
    typer.echo(f"{len(done.items)} {done.unit} in {out}, the card in {card}; to train on it: {then}")


def card_path(out: Path) -> Path:
    """Where the card of a data file is: `pairs.jsonl` has `pairs.card.json`."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.card.json")


def _read(paths: Iterable[Path]) -> list[Trajectory]:
    """All episodes. A store has no order of its own, so its episodes are sorted."""
    from ..app.records import episodes_in, read
    from ..trajectories.errors import DataError

    episodes: list[Trajectory] = []
    for path in paths:
        if not path.is_dir():
            episodes += read([path])
            continue
        held = list(episodes_in(path))
        if not held:
            raise DataError(f"{path}: no episode in it")
        episodes += sorted(held, key=lambda t: (t.env, t.task.id, t.faults, t.seed, t.id, t.attempt))
    return episodes


def _corrections(failed: Iterable[Trajectory], agent: str = "", tries: int = 1) -> list[tuple[Trajectory, Trajectory]]:
    from ..agents.replay import corrections

    if not agent:
        return corrections(failed, tries=tries)
    from ..app.console import watching
    from ..app.players import agent_named

    with watching() as watch:
        return corrections(failed, agent_named(agent, watch), tries=tries)


def _judge(model: str, seed: int) -> Any:
    """A model of `sparring model list`, a folder, a hub name, or openai:URL#MODEL, as a judge."""
    from ..agents.judge import Judge
    from ..agents.loading import AgentSettings, load_chat_model
    from ..app.console import watching
    from ..app.players import fetch_first

    with watching() as watch:
        fetch_first(model, watch)
        watch.stage(f"loading the judge {model}")
        return Judge(load_chat_model(model, AgentSettings(parallel=16, precision="auto")), seed=seed)


def _tasks(text: str, envs: Iterable[str]) -> list[Task]:
    """Held-out tasks: of the episodes in a file, or the first of a split of each environment."""
    from ..app.records import read

    if Path(text).exists():
        return list({(t.env, t.task.id): t.task for t in read([Path(text)])}.values())
    from ..envs import task_set
    from ..envs.registry import make_recorded
    from ..envs.task import SPLITS
    from ..trajectories.errors import ConfigError

    if text not in SPLITS:
        raise ConfigError(f"held-out tasks are those of a file of episodes, or of {', '.join(SPLITS)}; got {text!r}")
    split: Any = text
    return [task for env in sorted(envs) for task in task_set(make_recorded(env), split, _TASKS)]
