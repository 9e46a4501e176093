"""Every exception that Sparring raises on purpose.

    SparringError                  root; the CLI prints it as one line and exits with 1
    |-- ConfigError (ValueError)   a setting, an argument or a file says something that cannot be meant
    |-- UnknownName (LookupError)  no such environment, model, tool ...; names the nearest known one
    |-- MissingExtra (ImportError) an optional package is needed; says which `pip install` fixes it
    |-- DataError (ValueError)     a data set, store or record cannot be used as it is
    |-- EnvError (TypeError)       an environment or tool is defined wrongly; says how to fix it
    |   `-- EnvBug                 its code raised while it was played; names the author's line, the task and the faults
    |-- TrainingError (ArithmeticError)  the numbers of a training run are not finite: nothing of it is to be used
    `-- InfrastructureError (RuntimeError)  engine, sandbox or network failed: nobody's policy is to blame

What a *tool* may raise to tell the agent of a failure (`ToolError`, `NotFound`, ...) is in `sparring.tools`:
those are observations, not errors of the program.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "EnvBug",
    "EnvError",
    "InfrastructureError",
    "MissingExtra",
    "SparringError",
    "TrainingError",
    "UnknownName",
    "is_full_disk",
]


class SparringError(Exception):
    """Root of all deliberate errors."""


class ConfigError(SparringError, ValueError):
    """A setting, argument or configuration file cannot be meant."""


class DataError(SparringError, ValueError):
    """A data set, store or record cannot be used as it is."""


class EnvError(SparringError, TypeError):
    """An environment or a tool is defined wrongly."""


class EnvBug(EnvError):
    """The environment's own code raised, or gave what it may not, while it was played. Its cause is what was raised."""


class TrainingError(SparringError, ArithmeticError):
    """A training run went wrong: a loss, a gradient or a weight is not finite."""


class InfrastructureError(SparringError, RuntimeError):
    """Engine, sandbox or network failed; counted apart from every reward."""


class MissingExtra(SparringError, ImportError):
    """An optional package is missing."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}, which is not installed: pip install 'sparring[{extra}]'")


class UnknownName(SparringError, LookupError):
    """No such name; suggests the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        """`hint`: what to do where no known name is near."""
        names = sorted(map(str, known))
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else hint or f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"unknown {kind} {name!r}. {hint}")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXT = re.compile(r"no space left|disk quota exceeded|file too large|not enough space", re.IGNORECASE)


def is_full_disk(error: BaseException | str) -> bool:
    """Whether an error (or what a program printed of it) says that a disk or a quota is full. torch and safetensors
    raise errors of their own, with the cause in the text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return bool(_FULL_TEXT.search(str(error)))
