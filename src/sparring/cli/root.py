"""The command line: `sparring --help`. What the commands are called and take; what they do is in `commands`.

Exit codes: 0 done; 1 an error, in one line (`sparring --debug COMMAND` adds the traceback); 2 wrong usage; 130 Ctrl-C,
after what is complete was saved and the command to resume was printed.

Only typer and the standard library are imported here: help and usage errors are there at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from . import compare, curate, export, label, new, replay, view
from . import options as o
from .mcp import mcp
from .store import store
from .train import train

__all__ = ["app", "main"]

# What loads a model would otherwise print bars and advice of its own, phone home, and fork after threads were started.
_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

_USAGE: type[BaseException] = typer.BadParameter.__mro__[2]  # ClickException: typer may bring a click of its own


class _Root(TyperGroup):
    """Turns what a command raises into one line and an exit code, for the shell and for tests alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _USAGE as error:
            error.message = error.message.removeprefix("Value error, ")  # type: ignore[attr-defined]  # pydantic's words
            raise
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            from .exits import end

            raise typer.Exit(end(error, debug=bool(ctx.params.get("debug")))) from None


_SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=_Root,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help reads the same in a log, and starts twice as fast
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)
model = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train, name="train")
app.add_typer(model, name="model")
app.add_typer(store, name="store")
app.add_typer(mcp, name="mcp")
for _module in (new, curate, compare, replay, view, label, export):
    _module.attach(app)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train language-model agents to use tools that fail.

    \b
    Example:
      sparring envs
      sparring recipe orders --profile quick
    """
    if version:
        from .. import __version__

        typer.echo(f"sparring {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:  # only options were given
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


@app.command()
def envs() -> None:
    """List the environments, their tools and levels.

    \b
    Example:
      sparring envs
    """
    from . import commands

    commands.envs()


@app.command()
def check(
    env: o.Env,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that are played in each check.")] = 24,
) -> None:
    """Say what is wrong with an environment. And how to fix it; exits with 1 where there is an error.

    \b
    Example:
      sparring check orders
      sparring check examples/library.py:Library
    """
    from . import commands

    if commands.check(env, tasks):
        raise typer.Exit(1)


@app.command()
def rollout(
    env: o.Env,
    agent: o.AgentName = None,
    model: o.Model = None,
    n: o.TaskLimit = 16,
    split: o.SplitName = "train",
    levels: o.Levels = "",
    faults: o.Faults = "",
    group: Annotated[int, typer.Option(min=1, help="Episodes of each task, under the same faults.")] = 1,
    seed: o.Seed = 0,
    temperature: o.Temperature = 1.0,
    max_turn_tokens: o.MaxTurnTokens = 64,
    max_context: o.MaxContext = None,
    parallel: o.Parallel = 64,
    tool_style: o.ToolStyle = "auto",
    precision: o.Precision = "bf16",
    device: o.Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write each episode as it ends, one line of JSON each.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Play episodes, and print the success rate. A call that was stopped goes on where it was.

    \b
    Example:
      sparring rollout orders --agent expert --n 200 --out gold.jsonl
      sparring rollout orders --model smollm2-135m --faults count=1 --n 4
    """
    from ..agents.loading import AgentSettings
    from ..app import playing

    settings = AgentSettings(temperature, max_turn_tokens, max_context, parallel, tool_style, precision, device)
    who = playing.Who(agent, model, settings)
    what = playing.What(env, n, split, o.levels(levels), seed, group)
    playing.rollout(who, what, faults, out, overwrite=overwrite)


@app.command()
def evaluate(
    env: o.Env,
    agent: Annotated[list[str], typer.Option(metavar="NAME", help="A scripted agent; may be repeated.")] = [],  # noqa: B006  # typer copies it
    model: Annotated[list[str], typer.Option(metavar="NAME", help="A model; may be repeated.")] = [],  # noqa: B006  # as above
    faults: Annotated[
        list[str], typer.Option(metavar="PLAN", help="A condition: clean, count=1, ...; may be repeated.")
    ] = ["clean", "count=1"],  # noqa: B006  # as above
    n: o.TaskLimit = 64,
    split: o.SplitName = "test",
    levels: o.Levels = "",
    seed: o.Seed = 0,
    temperature: o.Temperature = 1.0,
    max_turn_tokens: o.MaxTurnTokens = 64,
    max_context: o.MaxContext = None,
    parallel: o.Parallel = 64,
    tool_style: o.ToolStyle = "auto",
    precision: o.Precision = "bf16",
    device: o.Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the episodes here, a file for each agent.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure agents on the same tasks, faults and seeds. The agent that does nothing stands next to them.

    \b
    Example:
      sparring evaluate orders --agent give-up --agent expert --out runs/eval
      sparring evaluate orders --model smollm2-135m --faults clean --faults count=2 --n 8
    """
    from ..agents.loading import AgentSettings
    from ..app import playing

    settings = AgentSettings(temperature, max_turn_tokens, max_context, parallel, tool_style, precision, device)
    who = [
        playing.Who(name, path, settings) for name, path in [*((None, m) for m in model), *((a, None) for a in agent)]
    ]
    what = playing.What(env, n, split, o.levels(levels), seed, 1)
    playing.evaluate(who, what, faults, out, overwrite=overwrite)


@app.command()
def recipe(
    env: o.Env,
    profile: Annotated[
        Literal["smoke", "quick", "full"],
        typer.Option(help="smoke: does it run; quick: minutes; full: hours on a CPU."),
    ] = "quick",
    model: o.Model = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Stages and report.  [default: runs/ENV-PROFILE]")
    ] = None,
    seed: o.Seed = 0,
    held_out: Annotated[
        str | None, typer.Option(metavar="ENV", help="An environment that is never trained on, only measured.")
    ] = None,
) -> None:
    """Train and measure, from the bare model to GRPO. Ends with a table and a report; finished stages are reused.

    \b
    Example:
      sparring recipe orders --profile quick
      sparring recipe mine:Library --profile smoke --model tiny-qwen3 --out runs/mine
    """
    from . import commands

    commands.recipe(env, profile, model, out, seed, held_out)


@app.command()
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="A recipe's folder; or episodes (.jsonl, or a folder of them).", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page.  [default: report.html there]")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Sparring report",
    baseline: Annotated[str, typer.Option(metavar="ARM", help="Compare the others with this one, in pairs.")] = "",
) -> None:
    """Write one HTML page of results and episodes. Each file is an arm, called by its name.

    A folder of `sparring train` adds its learning curves.

    \b
    Example:
      sparring report runs/eval
      sparring report runs/eval/expert.jsonl gold.jsonl --out compared.html
    """
    from . import commands

    commands.report(paths, out, title, baseline)


@app.command()
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
    from . import commands

    commands.show(file, id, failed=failed)


@model.callback()
def models() -> None:
    """Models that are known by name.

    \b
    Example:
      sparring model list
      sparring model fetch smollm2-135m
    """


@model.command("list")
def model_list() -> None:
    """List the models that are known by name, and whether they are here.

    \b
    Example:
      sparring model list
    """
    from . import commands

    commands.model_list()


@model.command("fetch")
def model_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Of `model list`.")],
) -> None:
    """Fetch a model once. Prints its folder; afterwards it is used offline.

    \b
    Example:
      sparring model fetch smollm2-135m
    """
    from . import commands

    commands.model_fetch(name)


def main() -> None:
    """What the shell calls."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # between the libraries that we use, and nothing a user can fix
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a letter shows its code
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="sparring")
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt) as error:  # in the last flush, or before a command had begun
        from .exits import end

        sys.exit(end(error, debug=False))


if __name__ == "__main__":
    main()
