"""What a user names as `module:name`: an environment, a judge, a reward of their own.

Defines `load_object`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigError, UnknownName

__all__ = ["load_object"]


def load_object(path: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    """What "module:name" names: in a file of the present folder, in "a/folder/file.py", or installed.

    Raises `ConfigError` for a path of another form, and `UnknownName` where there is no such module, or nothing of that
    name in it; then what is offered instead is what `fits`. Errors of the module itself pass through.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"expected module:name for this {kind}, got {path!r}")
    here = Path.cwd()
    if "/" in module_name:
        file = Path(module_name).resolve()
        here, module_name = file.parent, file.name
    module_name = module_name.removesuffix(".py")
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))  # `mine:Library` means mine.py next to the user
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UnknownName("module", module_name, [f.stem for f in here.glob("*.py")]) from None
        raise
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if not n.startswith("_") and fits(v)]
        raise UnknownName(f"{kind} in {module_name}", name, known)
    return getattr(module, name)
