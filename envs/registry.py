"""Environments by name: ours, yours by `register`, those of installed packages, and any class as `module:Class`.

make("orders")             a short name of ours
make("mine/Library-v0")    what `register` was told; `gymnasium.make` knows it too
make("library")            what an installed package offers under `[project.entry-points."sparring.envs"]`, by
                           `library = "its_module:Library"`; its id is library/Library-v0
make("orders?traps=2")     its knobs turned: see `knobs`
make("mine:Library")       class `Library` in `mine.py` of the present folder, or of an installed module

Packages are looked through when their names are wanted, and imported when an environment of theirs is made. One that is
broken is told of by name, and breaks no other.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium

from ..trajectories.blame import told
from ..trajectories.errors import ConfigError, EnvBug, EnvError, SparringError, UnknownName
from ..trajectories.modules import load_object, load_only
from .env import ToolEnv

__all__ = ["make", "make_recorded", "register", "registered"]

_ENTRIES: dict[str, Callable[..., ToolEnv] | str] = {}
_SHORT: dict[str, str] = {}

GROUP = "sparring.envs"
"""The group of entry points by which packages offer environments."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """An environment that an installed package offers."""

    id: str
    short: str
    target: str
    """module:Class"""
    package: str
    wrong: str = ""
    """Why it cannot be made, where that is known without importing it."""


_KNOBS = "sparring.envs.knobs"
_SHOWN = 6


def register(id: str, entry_point: Callable[..., ToolEnv] | str, *, short: str = "") -> None:
    """Makes an environment known here and to `gymnasium.make`.

    Args:
        id: `namespace/Name-v0`.
        entry_point: The class, or "module:Class" to be imported when it is first made.
        short: A short name for the command line.
    """
    if "/" not in id or "-v" not in id:
        raise ConfigError(f"an environment's id looks like 'mine/Library-v0', got {id!r}")
    _ENTRIES[id] = entry_point
    if short:
        _SHORT[short] = id
    _tell_gymnasium(id)


def registered() -> dict[str, str]:
    """id -> short name (or ""): ours, what `register` was told, and what installed packages offer."""
    shorts = {full: short for short, full in _SHORT.items()}
    return {id: shorts.get(id, "") for id in _ENTRIES} | {offer.id: offer.short for offer in _offers().values()}


def make(name: str, **options: Any) -> ToolEnv:
    """A new environment. Raises `UnknownName` with the nearest known name, or `EnvError` with the way to fix it."""
    if "?" in name and not name.startswith(f"{_KNOBS}:"):  # orders?distractors=5
        name = f"{_KNOBS}:{name}"
    id = _SHORT.get(name, name)
    entry = _ENTRIES.get(id)
    if entry is None and ":" in name:
        entry, id = name, name
    if entry is None and name.endswith(".py"):  # a file that defines one environment
        attribute, entry = load_only(name, "environment", _is_env_class)
        id = f"{name if '/' in name else name.removesuffix('.py')}:{attribute}"
    if entry is None:
        offers = _offers()
        found = [offer for offer in offers.values() if name in (offer.short, offer.id)]
        if not found:
            if Path(name).exists():
                raise ConfigError(_no_env(Path(name)))
            known = [n for offer in offers.values() for n in (offer.short, offer.id) if n]
            raise UnknownName("environment", name, [*_SHORT, *_ENTRIES, *known])
        if len(found) > 1:
            several = " and ".join(f"{offer.id!r} of the package {offer.package!r}" for offer in found)
            raise EnvError(f"the name {name!r} is that of {several}; give the whole id")
        return _from_package(found[0], options)
    if isinstance(entry, str):
        entry = load_object(entry, "environment", _is_env_class)
    return _made(entry, id, name, options)


def _is_found(module: str) -> bool:
    """Whether a module may be there, in the present folder too. Looks for its package only, and so imports nothing."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None or Path(f"{module}.py").is_file()
    except (ImportError, ValueError):
        return False


def _no_env(place: Path) -> str:
    """What is at a place that was given as an environment, and what to give."""
    if not place.is_dir():
        what = "holds episodes" if place.suffix == ".jsonl" else "is no Python file"
        return f"{place} {what}; expected an environment: a name of `sparring envs`, or mine.py"
    files = [str(file) for file in sorted(place.glob("*.py")) if not file.name.startswith("_")]
    found = f"a file in it: {', '.join(files[:_SHOWN])}" if files else "mine.py"
    return f"{place} is a folder; expected an environment: a name of `sparring envs`, or {found}"


def make_recorded(name: str) -> ToolEnv:
    """A new environment, as a record names it. A record is data, and imports nothing: a `module:Class` in it has to be
    loaded already, by somebody who trusts it. Raises what `make` raises."""
    base = name.removeprefix(f"{_KNOBS}:").partition("?")[0] if "?" in name else name
    module, colon, attribute = base.partition(":")
    if base in _ENTRIES or not (colon or base.endswith(".py")):
        return make(name)
    loaded = Path(module).name.removesuffix(".py")
    if loaded not in sys.modules:
        whole = name.removeprefix(f"{_KNOBS}:")
        if module.endswith(".py") or not _is_found(loaded):
            file = Path(module).with_suffix(".py")
            if not file.is_file():  # the record holds the path as it was given, in the folder of that command
                whole = f"FOLDER/{whole if module.endswith('.py') else whole.replace(module, file.name, 1)}"
                raise ConfigError(
                    f"the record names the environment {base}, whose code is not loaded, and here is no {file}; if you "
                    f"trust it: make({whole!r}) first, or --env {shlex.quote(whole)}, with the FOLDER it is in"
                )
        raise ConfigError(
            f"the record names the environment {base}, whose code is not loaded; if you trust it: make({whole!r}) "
            f"first, or --env {shlex.quote(whole)}"
        )
    if base != name:  # turned knobs
        return make(name)
    return _made(load_object(f"{loaded}:{attribute}", "environment", _is_env_class), name, name, {})


def _made(cls: Callable[..., ToolEnv], id: str, name: str, options: dict[str, Any]) -> ToolEnv:
    if ":" in name and not (isinstance(cls, type) and issubclass(cls, ToolEnv)):
        raise EnvError(f"{name} is a {type(cls).__name__}, not a class of environments (a subclass of ToolEnv)")
    try:
        env = cls(**options)
    except TypeError as error:
        if isinstance(error, EnvError):
            raise
        raise EnvError(f"{name} cannot be made with {options or 'no options'}: {told(error)}") from error
    except (SparringError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise EnvBug(f"{name} cannot be made: {told(error)}; fix that line") from error
    if not isinstance(env, ToolEnv):
        raise EnvError(f"{name} is a {type(env).__name__}, not a ToolEnv")
    env.sparring_id = id  # type: ignore[attr-defined]  # read by name_of; no subclass needs to know of it
    return env


def _tell_gymnasium(id: str) -> None:
    if id not in gymnasium.registry:
        gymnasium.register(id, entry_point=lambda **options: make(id, **options), order_enforce=False)


# ---- installed packages ----------------------------------------------------------------------------------------------


def _offers() -> dict[str, _Offer]:
    """What installed packages offer now, by id. Reads their metadata and imports nothing. Names that this process has
    registered itself go before."""
    offers: dict[str, _Offer] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        offer = _offer(point)
        twin = offers.get(offer.id)
        if twin is not None and twin.package != offer.package:
            wrong = f"the package {twin.package!r} offers it too; uninstall one of them"
            offer = replace(offer, wrong=wrong)
        if offer.id in _ENTRIES:
            continue
        if offer.short in _SHORT:
            offer = replace(offer, short="")
        offers[offer.id] = offer
        if not offer.wrong:
            _tell_gymnasium(offer.id)
    return offers


def _offer(point: metadata.EntryPoint) -> _Offer:
    package = point.dist.name if point.dist is not None else "(unknown)"
    target = point.value.replace(" ", "")
    attribute = target.partition(":")[2]
    if "/" in point.name:
        id, short = point.name, ""
    else:
        id, short = f"{point.name}/{attribute or 'Unnamed'}-v0", point.name
    wrong = ""
    if not re.fullmatch(r"[\w.]+:\w+", target):
        wrong = f"its entry point is {point.value!r}, and not 'module:Class'"
    elif not re.fullmatch(r"[\w:-]+/[\w:.-]+-v\d+", id):
        wrong = f"its name is {point.name!r}, and neither a short name nor an id such as 'mine/Library-v0'"
    return _Offer(id, short, target, package, wrong)


def _from_package(offer: _Offer, options: dict[str, Any]) -> ToolEnv:
    """Raises `EnvError` that names the package, whatever is wrong with it."""
    if offer.wrong:
        raise EnvError(_blame(offer, offer.wrong))
    module, _, attribute = offer.target.partition(":")
    try:  # another package's code: it may raise whatever it likes
        cls: Callable[..., ToolEnv] = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise EnvError(_blame(offer, f"{offer.target}: {type(error).__name__}: {error}")) from error
    try:
        return _made(cls, offer.id, offer.id, options)
    except Exception as error:
        if options:  # which may be to blame
            raise
        raise EnvError(_blame(offer, str(error))) from error


def _blame(offer: _Offer, wrong: str) -> str:
    return (
        f"the environment {offer.id!r} of the package {offer.package!r} cannot be made: {wrong}; fix, upgrade or "
        "uninstall that package"
    )


def _is_env_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, ToolEnv) and value is not ToolEnv
