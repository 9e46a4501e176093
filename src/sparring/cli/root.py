"""`sparring`: brings the commands together, and turns what they raise into one line and an exit code.

A command is one file of this package: `rollout.py` is `sparring rollout`. The file has a function of that name, or a
`typer.Typer` of that name for a command with subcommands. A name that Python or another module has already ends in an
underscore: `import_.py` is `sparring import`. The file's function says how the command is used in its docstring.

Exit codes: 0 done; 1 an error, in one line (`sparring --debug COMMAND` adds the traceback); 2 wrong usage; 130 Ctrl-C,
after what is complete was saved and the command to resume was printed; 143 SIGTERM and 129 SIGHUP, which do the same.

Only typer and the standard library are imported here and at the top of each command: help and usage errors are there
at once. `sparring --help` builds no command, `sparring rollout` only that one.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .settings import expanded, first_sentence

__all__ = ["LazyGroup", "app", "built", "main"]

# What loads a model would otherwise print bars and advice of its own, phone home, and fork after threads were started.
_ENVIRONMENT = {
    # Threads that wait for each other spin some 0.1 ms and then sleep. By default they spin on: next to other busy
    # processes, work on two threads took ten times as long. If they sleep at once, a step of many small products is no
    # faster on two threads than on one. Read when torch is loaded.
    "GOMP_SPINCOUNT": "5000",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

_USAGE: type[BaseException] = typer.BadParameter.__mro__[2]  # ClickException: typer may bring a click of its own
_SETTINGS = {"help_option_names": ["-h", "--help"]}
_NO_COMMANDS = ("config", "exits", "options", "root", "settings")
"""Modules of this package that other modules use."""
_FIRST = ("envs", "watch", "check", "rollout", "evaluate", "train", "recipe", "report", "show", "view", "compare")
"""Commands that help lists first, in the order in which one needs them."""


def built(name: str, command: Callable[..., Any] | typer.Typer) -> Any:
    """The click command of a function, or of a group of them."""
    app = command
    if not isinstance(command, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(name)(expanded(command))
    assert isinstance(app, typer.Typer)
    made = typer.main.get_command(app)
    made.name = name
    return made


class LazyGroup(TyperGroup, ABC):
    """A group whose commands are built when they are called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands(self)  # type: ignore[assignment]  # nothing is added to it

    @abstractmethod
    def names(self) -> list[str]:
        """What the commands are called, in the order of the help."""

    @abstractmethod
    def load(self, name: str) -> Any:
        """The click command of that name."""

    @abstractmethod
    def about(self, name: str) -> str:
        """What the command does, in a sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.about(name).rstrip(".")) for name in self.names()])


class _Commands(Mapping[str, Any]):
    """The commands of a lazy group by name."""

    def __init__(self, group: LazyGroup) -> None:
        self._group = group

    def __getitem__(self, name: str) -> Any:
        if name not in self._group.names():
            raise KeyError(name)
        return self._group.load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._group.names())

    def __len__(self) -> int:
        return len(self._group.names())


class _Root(LazyGroup):
    """The files of this package; and the one line that an error comes to, for the shell and for tests alike."""

    def names(self) -> list[str]:
        found = [m.name for m in pkgutil.iter_modules(import_module(str(__package__)).__path__)]
        known = sorted(name.rstrip("_").replace("_", "-") for name in found if name not in _NO_COMMANDS)
        return [*(n for n in _FIRST if n in known), *(n for n in known if n not in _FIRST)]

    def load(self, name: str) -> Any:
        return built(name, _in_file(name))

    def about(self, name: str) -> str:
        command = _in_file(name)
        if isinstance(command, typer.Typer):
            command = command.registered_callback.callback  # type: ignore[union-attr, assignment]  # each group has one
        return first_sentence(inspect.getdoc(command) or "")

    def invoke(self, ctx: Any) -> Any:
        from ..trajectories.interrupts import as_ctrl_c

        try:
            with as_ctrl_c():
                return super().invoke(ctx)
        except _USAGE as error:
            error.message = error.message.removeprefix("Value error, ")  # type: ignore[attr-defined]  # pydantic's words
            raise
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            from .exits import end

            raise typer.Exit(end(error, debug=bool(ctx.params.get("debug")))) from None


def _in_file(name: str) -> Callable[..., Any] | typer.Typer:
    """What the file of a command defines."""
    module = name.replace("-", "_")
    try:
        found = import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module}":
            raise
        module += "_"
        found = import_module(f".{module}", __package__)
    command: Callable[..., Any] | typer.Typer = getattr(found, module)
    return command


app = typer.Typer(
    cls=_Root,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help reads the same in a log, and starts twice as fast
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)


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


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of ours as one line; any other as Python shows it."""
    if category.__module__.partition(".")[0] == __name__.partition(".")[0]:
        from .exits import one_line

        print(f"note: {one_line(str(message))}", file=sys.stderr)
    else:
        _pythons(message, category, *where, **more)


_pythons = warnings.showwarning


def main() -> None:
    """What the shell calls."""
    warnings.showwarning = _show_warning
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
