"""Environments by name: ours, yours by `register`, and any class as `module:Class`.

make("orders")             a short name of ours
make("mine/Library-v0")    what `register` was told; `gymnasium.make` knows it too
make("mine:Library")       class `Library` in `mine.py` of the present folder, or of an installed module
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

from ..trajectories.errors import ConfigError, EnvError, UnknownName
from .env import ToolEnv

__all__ = ["make", "register", "registered"]

_ENTRIES: dict[str, Callable[..., ToolEnv] | str] = {}
_SHORT: dict[str, str] = {}


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
    if id not in gymnasium.registry:
        gymnasium.register(id, entry_point=lambda **options: make(id, **options), order_enforce=False)


def registered() -> dict[str, str]:
    """id -> short name (or "")."""
    shorts = {full: short for short, full in _SHORT.items()}
    return {id: shorts.get(id, "") for id in _ENTRIES}


def make(name: str, **options: Any) -> ToolEnv:
    """A new environment. Raises `UnknownName` with the nearest known name, or `EnvError` with the way to mend it."""
    id = _SHORT.get(name, name)
    entry = _ENTRIES.get(id)
    if entry is None and ":" in name:
        entry, id = name, name
    if entry is None:
        raise UnknownName("environment", name, [*_SHORT, *_ENTRIES])
    cls = _load(entry) if isinstance(entry, str) else entry
    try:
        env = cls(**options)
    except TypeError as error:
        if isinstance(error, EnvError):
            raise
        raise EnvError(f"{name} cannot be made with {options or 'no options'}: {error}") from error
    if not isinstance(env, ToolEnv):
        raise EnvError(f"{name} is a {type(env).__name__}, not a ToolEnv")
    env.sparring_id = id  # type: ignore[attr-defined]  # read by name_of; no subclass needs to know of it
    return env


def _load(path: str) -> Callable[..., ToolEnv]:
    module_name, _, attribute = path.partition(":")
    here = Path.cwd()
    if "/" in module_name:
        file = Path(module_name).resolve()
        here, module_name = file.parent, file.name
    module_name = module_name.removesuffix(".py")
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))  # `mine:Library` means mine.py beside the user
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UnknownName("module", module_name, [p.stem for p in here.glob("*.py")]) from None
        raise
    if not hasattr(module, attribute):
        classes = [
            n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, ToolEnv) and v != ToolEnv
        ]
        raise UnknownName(f"environment in {module_name}", attribute, classes)
    found: Callable[..., ToolEnv] = getattr(module, attribute)
    return found
