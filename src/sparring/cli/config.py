"""`--config run.yaml` and `--print-config`: the settings of a call as a file, by the names of its options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

__all__ = ["as_yaml", "config_option", "effective", "keep_in", "print_option"]

_ONLY_TYPED = ("config", "print_config", "plan", "overwrite")
"""What to do rather than how: said on the command line alone, and never part of a file of settings."""


def effective(ctx: typer.Context) -> dict[str, Any]:
    """The settings that this call runs with, by the names of its options, as plain data. Lists that can be given as
    arguments and as an option of the same name are joined; arguments win over an option from a file."""
    out: dict[str, Any] = {}
    for p in ctx.command.get_params(ctx):
        if p.name in ctx.params and p.name not in _ONLY_TYPED:
            value, before = _plain(ctx.params[p.name]), out.get(_key(p))
            if before and isinstance(before, list):
                source = ctx.get_parameter_source(p.name or "")
                value = before if source is not None and source.name == "DEFAULT_MAP" else [*before, *value]
            out[_key(p)] = value
    return out


def keep_in(ctx: typer.Context, folder: Path) -> None:
    """Writes `run.yaml` into `folder`: `--config` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(as_yaml(effective(ctx)), "utf-8")


def config_option(annotations: Mapping[str, Any]) -> Any:
    """`--config`, for a command with parameters of these types."""

    def read(ctx: typer.Context, value: Path | None) -> Path | None:
        if value is not None:
            ctx.default_map = {**(ctx.default_map or {}), **_defaults(ctx, value, annotations)}
        return value

    return typer.Option(
        "--config",
        metavar="RUN.yaml",
        help="Read settings from a file, by the names of these options. Options that are given here win.",
        callback=read,
        is_eager=True,
    )


def print_option() -> Any:
    """`--print-config`."""

    def relax(ctx: typer.Context, value: bool) -> bool:
        if value:
            for parameter in ctx.command.get_params(ctx):
                parameter.required = False  # settings that lack are printed as null
        return value

    return typer.Option(
        "--print-config", help="Print the settings as such a file, and do nothing.", callback=relax, is_eager=True
    )


def _defaults(ctx: typer.Context, file: Path, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter -> its value in the file. Raises `ConfigError` or `UnknownName`."""
    import yaml

    from ..trajectories.errors import ConfigError, UnknownName

    try:
        data = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {file}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {_yaml_said(error)}") from None
    if not isinstance(data, dict | None):
        raise ConfigError(f"{file}: expected settings as `name: value`, one a line, got {type(data).__name__}")
    known = {_key(p): p for p in ctx.command.get_params(ctx) if p.name in annotations and p.name not in _ONLY_TYPED}
    out: dict[str, Any] = {}
    for name, value in (data or {}).items():
        parameter = known.get(str(name).replace("-", "_"))
        if parameter is None:
            raise UnknownName(f"setting in {file}", str(name), known)
        if value is None or value == []:
            continue
        out[parameter.name] = given = _given(f"{file}: {name}", value, annotations[parameter.name])
        try:
            parameter.process_value(ctx, given)
        except typer.BadParameter as error:
            raise ConfigError(f"{file}: {name}: {error.message}") from None
    return out


def _yaml_said(error: Exception) -> str:
    """What is wrong and where, without the name that YAML has for a text."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark and problem else str(error)


def _given(place: str, value: Any, annotation: Any) -> Any:
    """A value of a file as the command line would give it."""
    from ..trajectories.errors import ConfigError

    hint = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if isinstance(value, dict):
        raise ConfigError(f"{place}: expected one value, got a mapping; every setting has a name of its own")
    if get_origin(hint) is list:
        return [str(v) for v in (value if isinstance(value, list) else [value])]
    if get_origin(hint) is tuple:
        return value
    if isinstance(value, list):
        return ",".join(map(str, value))
    of_text = hint in (str, str | None) or get_origin(hint) is Literal
    if of_text and isinstance(value, bool):
        raise ConfigError(f"{place}: expected a text, got {str(value).lower()}; put it in quotes")
    return str(value) if of_text or not isinstance(value, bool) else value


def _key(parameter: Any) -> str:
    """An option's name without dashes; an argument's own."""
    if parameter.param_type_name == "argument":
        return str(parameter.name)
    return str(max((o for o in parameter.opts), key=len)).lstrip("-").replace("-", "_")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def as_yaml(values: Mapping[str, Any]) -> str:
    """Settings as `--config` reads them."""
    import yaml

    def text(readable: bool) -> str:
        options: Any = {"sort_keys": False, "default_flow_style": False, "width": 100, "allow_unicode": readable}
        return str(yaml.safe_dump(dict(values), **options))

    plain = text(True)
    return plain if yaml.safe_load(plain) == values else text(False)  # some line breaks do not survive as they are
