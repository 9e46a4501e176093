"""Options made from dataclasses of settings.

A command says what settings it takes, and where their class is:

    @command(config=True, playing="sparring.agents.loading:AgentSettings")
    def rollout(env: Env, playing: AgentSettings) -> None: ...

Each field of the class is an option then: `max_turn_tokens` is `--max-turn-tokens`. Its default is the field's, its
help is the first sentence of the string under the field, its choices are those of its `Literal`. Settings within
settings are options of the same command. So a new field is a new option, and nothing is written twice.

The class is imported when the command is run or asked for help, not before: `sparring --help` has to be there at once.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from .config import as_yaml, config_option, effective, print_option

__all__ = [
    "Fields",
    "command",
    "expanded",
    "first_sentence",
    "level_numbers",
    "options_of",
]

T = TypeVar("T")
_TAKES = "__sparring_takes__"


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a dataclass of settings is, and which of its fields are no options."""

    target: str | type
    """`package.module:Class`, or the class itself."""
    skip: Mapping[str, str] = field(default_factory=dict)
    """Field -> why it is no option. The command sets it, or its default stays."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Field -> name of its option, with underscores."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Field -> the smallest value that can be meant."""

    def load(self) -> type:
        """The class."""
        if isinstance(self.target, type):
            return self.target
        module, _, name = self.target.partition(":")
        found = getattr(import_module(module), name)
        assert isinstance(found, type)
        return found


@dataclass(frozen=True, slots=True)
class _Takes:
    config: bool
    settings: Mapping[str, Fields]


def command(*, config: bool = False, **settings: Fields | str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Marks a function as a command that takes settings.

    Args:
        config: Whether it has `--config` and `--print-config`.
        settings: Parameter -> the dataclass that it is given an instance of.
    """
    made = {name: of if isinstance(of, Fields) else Fields(of) for name, of in settings.items()}

    def mark(function: Callable[..., T]) -> Callable[..., T]:
        setattr(function, _TAKES, _Takes(config, made))
        return function

    return mark


def expanded(function: Callable[..., Any], **more: Fields) -> Callable[..., Any]:
    """The function as typer has to see it: an option in place of each field of its settings.

    A class with a skipped field that has no default comes as a function that makes the settings from that field.

    Args:
        function: Marked by `command`.
        more: Settings of further parameters, where they are not known before.

    Raises `TypeError` where two options have the same name, or a field cannot be an option and is not skipped.
    """
    takes: _Takes | None = getattr(function, _TAKES, None)
    if takes is None:
        return function
    settings = {**takes.settings, **more}
    own = inspect.signature(function).parameters
    names = {"__annotations__": {n: p.annotation for n, p in own.items() if n not in settings}}
    hints = get_type_hints(type("_", (), names), globalns=function.__globals__, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name in settings:
            parameters += options_of(settings[name])
        else:
            parameters.append(_keyword(name, hints[name], parameter.default))
    if takes.config:
        plain = {p.name: p.annotation for p in parameters}
        parameters += [
            _keyword("config", Annotated[Path | None, config_option(plain)], None),
            _keyword("print_config", Annotated[bool, print_option()], False),
        ]
    if "ctx" not in own:
        parameters.insert(0, _keyword("ctx", typer.Context, inspect.Parameter.empty))
    _refuse_clashes(function, parameters)

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        ctx = given["ctx"]
        given.pop("config", None)
        if given.pop("print_config", False):
            typer.echo(as_yaml(effective(ctx)), nl=False)
            raise typer.Exit
        if "ctx" not in own:
            del given["ctx"]
        for name, of in settings.items():
            given[name] = _made(of, of.load(), None, given)
        return function(**given)

    del run.__wrapped__  # whose signature would be read in place of this one's
    delattr(run, _TAKES)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def options_of(of: Fields) -> list[inspect.Parameter]:
    """An option for each field, as typer reads a parameter. Raises `TypeError` for a field of a type that no option can
    have, unless it is skipped."""
    return list(_options(of, of.load(), None))


def _options(of: Fields, cls: type, instance: Any) -> list[inspect.Parameter]:
    """Of `cls`, with the defaults of `instance`, if there is one."""
    hints = get_type_hints(cls)
    about = _strings(cls)
    out: list[inspect.Parameter] = []
    for f in fields(cls):
        if f.name in of.skip or not f.init:
            continue
        default = _default(f, instance)
        if is_dataclass(hints[f.name]):
            out += _options(of, hints[f.name], None if default is inspect.Parameter.empty else default)
            continue
        try:
            kind = _kind(hints[f.name])
        except TypeError as error:
            raise TypeError(f"{cls.__name__}.{f.name} cannot be an option: {error}; skip it") from None
        name = of.rename.get(f.name, f.name)
        required = default is inspect.Parameter.empty
        decls = [f"--{name.replace('_', '-')}"]
        if kind.annotation in (bool, bool | None):
            decls = [f"{decls[0]}/--no-{decls[0][2:]}"]
        option = typer.Option(
            *decls,
            help=about.get(f.name) or None,
            metavar=kind.metavar,
            min=of.least.get(f.name),
            show_default=not required,
        )
        value = default if required else kind.shown(default)
        out.append(_keyword(name, Annotated[kind.annotation, option], value))
    return out


def _made(of: Fields, cls: type, instance: Any, given: dict[str, Any]) -> Any:
    """The settings, from the options' values, which are taken out of `given`. What is no option is as in `instance`."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    missing = False
    for f in fields(cls):
        if not f.init:
            continue
        default = _default(f, instance)
        name = of.rename.get(f.name, f.name)
        if f.name in of.skip:
            if instance is not None:
                values[f.name] = default
            missing = missing or default is inspect.Parameter.empty
        elif is_dataclass(hints[f.name]):
            values[f.name] = _made(of, hints[f.name], None if default is inspect.Parameter.empty else default, given)
        else:
            values[f.name] = _kind(hints[f.name]).value(given.pop(name))
    return functools.partial(cls, **values) if missing else cls(**values)


def _default(f: Any, instance: Any) -> Any:
    if instance is not None:
        return getattr(instance, f.name)
    if f.default is not MISSING:
        return f.default
    return inspect.Parameter.empty if f.default_factory is MISSING else f.default_factory()


# ---- types -----------------------------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of a field's type are on the command line."""

    annotation: Any
    """What typer reads."""
    shown: Callable[[Any], Any] = _same
    """A field's value -> the option's."""
    value: Callable[[Any], Any] = _same
    """The option's value -> the field's. Raises `typer.BadParameter`."""
    metavar: str | None = None


def _kind(hint: Any) -> _Kind:
    if hint in (int, float, str, bool, Path):
        return _Kind(hint, metavar="FOLDER" if hint is Path else None)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if all(isinstance(a, str) for a in arguments):
            return _Kind(hint)
        by_text = {str(a).lower(): a for a in arguments}
        texts: Any = Literal[tuple(by_text)]
        return _Kind(texts, lambda v: str(v).lower(), by_text.__getitem__)
    if origin in (Union, UnionType):
        others = [a for a in arguments if a is not NoneType]
        if len(others) == 1:
            kind = _kind(others[0])
            return _Kind(kind.annotation | None, _unless_none(kind.shown), _unless_none(kind.value), kind.metavar)
        kinds = [_kind(a) for a in others]
        none = NoneType in arguments
        return _Kind(str | None if none else str, lambda v: None if v is None else str(v), _first_that_fits(kinds))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = arguments[0]
        if inner is int:
            return _Kind(str, lambda v: ",".join(map(str, v)), level_numbers, "1,2")
        if inner in (str, Path):
            several: Any = list.__class_getitem__(inner)
            return _Kind(several, list, tuple)
    elif origin is tuple and arguments and all(a in (int, float, str) for a in arguments):
        return _Kind(hint)
    raise TypeError(f"there is no option of type {hint}")


def _unless_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _first_that_fits(kinds: list[_Kind]) -> Callable[[Any], Any]:
    def convert(text: str | None) -> Any:
        if text is None:
            return None
        for kind in kinds:
            if get_origin(kind.annotation) is Literal:
                if text in get_args(kind.annotation):
                    return kind.value(text)
            elif kind.annotation is bool:
                if text.lower() in ("true", "false"):
                    return text.lower() == "true"
            else:
                try:
                    return kind.value(kind.annotation(text))
                except ValueError:
                    continue
        wanted = " or ".join(
            ", ".join(get_args(k.annotation)) if get_origin(k.annotation) is Literal else k.annotation.__name__
            for k in kinds
        )
        raise typer.BadParameter(f"expected {wanted}, got {text!r}")

    return convert


def level_numbers(text: str) -> tuple[int, ...]:
    """`1,2` or `1-3` as numbers; empty: all."""
    out: list[int] = []
    try:
        for part in text.split(",") if text.strip() else ():
            low, _, high = part.partition("-")
            out += range(int(low), int(high or low) + 1)
    except ValueError:
        raise typer.BadParameter(f"expected levels such as 1,2 or 1-3, got {text!r}") from None
    return tuple(out)


# ---- names and help --------------------------------------------------------------------------------------------------


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _refuse_clashes(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    names = [p.name for p in parameters]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TypeError(f"{function.__name__}: two options are called {', '.join(twice)}; rename or skip one")


def _strings(cls: type) -> dict[str, str]:
    """Field -> the first sentence of the string under it, base classes included."""
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # made by code that is in no file
            continue
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        for named, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(named, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(named.target, ast.Name):
                text = after.value.value if isinstance(after.value, ast.Constant) else None
                if isinstance(text, str):
                    out[named.target.id] = first_sentence(text)
    return out


def first_sentence(text: str) -> str:
    """The first sentence, on one line, with its full stop."""
    line = " ".join(text.strip().split("\n\n")[0].split())
    end = re.search(r"[.?!](?=\s+[A-Z\d`'\"(])", line)
    return line[: end.end()] if end else line
