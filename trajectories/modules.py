"""What a user names as `module:name`: an environment, a judge, a reward of their own.

Defines `load_object` and `load_only`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .blame import told
from .errors import ConfigError, UnknownName

__all__ = ["load_object", "load_only"]


def load_object(path: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    """What "module:name" names: in a file of the present folder, in "a/folder/file.py", or installed.

    Args:
        path: "module:name".
        kind: What it is, for messages: "environment".
        fits: Whether a value is one of that kind: what is offered instead of a name that is not there.

    Raises `ConfigError` for a path of another form and for a file of the same name as one that is loaded, `UnknownName`
    where there is no such module, or nothing of that name in it. Errors of the module itself pass through.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"expected module:name for this {kind}, got {path!r}")
    module = _module(module_name)
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if not n.startswith("_") and fits(v)]
        raise UnknownName(f"{kind} in {module.__name__}", name, known)
    return getattr(module, name)


def load_only(file: str, kind: str, fits: Callable[[Any], bool]) -> tuple[str, Any]:
    """The name of the only object that "a/folder/file.py" defines and that `fits`, and the object.

    Raises `ConfigError` where there is none, or more than one.
    """
    module = _module(file)
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__ and fits(v)}
    named = {n: v for n, v in own.items() if not n.startswith("_")}
    if len(named) != 1:
        raise ConfigError(
            f"expected one {kind} in {file}, got {', '.join(named)}: choose one, such as {file}:{next(iter(named))}"
            if named
            else f"expected one {kind} in {file}, got none: define one there, or name it as module:Name"
        )
    return next(iter(named.items()))


def _module(name: str) -> ModuleType:
    """By name, or from a file."""
    stem = Path(name).name.removesuffix(".py")
    there = sys.modules.get(stem)
    if "/" not in name and there is not None:
        return there
    here = Path(name).resolve().parent if "/" in name else Path.cwd()
    if name.endswith(".py") and not (here / f"{stem}.py").is_file():
        near = [f.name for f in here.glob("*.py")] if here.is_dir() else []
        raise ConfigError(f"there is no file {name}" + (f"; there are {', '.join(sorted(near)[:8])}" if near else ""))
    if "/" in name and there is not None:
        held, wanted = Path(there.__file__ or "").resolve(), here / f"{stem}.py"
        if held != wanted and held != here / stem / "__init__.py":
            raise ConfigError(f"{name} cannot be loaded: another module called {stem} is, {held}; rename one of them")
        return there
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))  # `mine:Library` means mine.py next to the user
    try:
        return importlib.import_module(stem)
    except ModuleNotFoundError as error:
        if error.name and stem.startswith(error.name):
            hint = f"There is no {stem}.py in {here}, nor such a module installed; another file: FOLDER/{stem}.py:NAME"
            raise UnknownName("module", stem, [f.stem for f in here.glob("*.py")], hint) from None
        raise
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() as it is loaded would end the command, and look like success
        raise ConfigError(f"{name} cannot be loaded: {told(error)}; a module that is loaded may not end") from error
