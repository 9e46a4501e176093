"""What a sandbox is: it runs one piece of Python that nobody trusts, within limits, apart from this process.

Defines `Sandbox`, `SandboxResult`, `RunOutcome` and `SandboxLimits`, and what all kinds of sandbox share:
`CheckedSandbox`, a base whose `run` checks what it is given, and `KINDS`, from which `Sandbox.auto` chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import ClassVar, Protocol, Self, TypeVar

import orjson

from ...trajectories.errors import ConfigError, InfrastructureError, SparringError
from ...trajectories.messages import Json

__all__ = [
    "DEADLINE",
    "ERROR_WIDTH",
    "KINDS",
    "MEMORY",
    "MIB",
    "CheckedSandbox",
    "RunOutcome",
    "Sandbox",
    "SandboxLimits",
    "SandboxResult",
    "clean",
    "finished",
    "kind",
    "to_bytes",
]

MIB = 1024 * 1024
DEADLINE = 5.0
MEMORY = 256 * MIB
MAX_CODE = 256 * 1024
"""Bytes of code that a run accepts; longer code is an error of the code."""
ERROR_WIDTH = 4000
"""Characters of an error, or of a value that only `repr` can show."""


class RunOutcome(StrEnum):
    """How a run ended."""

    OK = "ok"
    ERROR = "error"
    """The code raised, or is no Python."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    """It printed, or returned, more than the limit."""
    CRASHED = "crashed"
    """The process in the sandbox ended without a result: a segmentation fault, `os._exit`."""


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What one run came to. All of it comes from the code: data, never a verdict."""

    outcome: RunOutcome
    stdout: str = ""
    """What it printed, on both streams, up to the limit."""
    value: Json = None
    """Value of the last expression; its `repr` where it is no JSON."""
    error: str = ""
    """Empty exactly when the outcome is ok."""
    seconds: float = 0.0
    """Wall clock, from the moment the code was handed over."""

    @property
    def ok(self) -> bool:
        return self.outcome is RunOutcome.OK


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a run may use, next to time and memory."""

    output: int = 64 * 1024
    """Bytes printed, and bytes of the value, each."""
    disk: int = 16 * MIB
    """Bytes of all files in a writable folder; nothing of them outlives the run."""
    entries: int = 4096
    """Files and folders made."""
    processes: int = 16
    """Processes and threads at one time (bubblewrap; Monty has none)."""
    open_files: int = 64

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigError(f"limit {name!r} has to be at least 1, not {getattr(self, name)}")


class Sandbox(Protocol):
    """Runs Python that nobody trusts. Safe to call from several threads."""

    def run(
        self,
        code: str,
        *,
        files: Mapping[str, str | bytes] | None = None,
        deadline: float = DEADLINE,
        memory: int = MEMORY,
    ) -> SandboxResult:
        """Runs `code` in a fresh world.

        Args:
            code: Python; the value of its last expression is the value of the run.
            files: Relative path -> content, laid into the working directory before.
            deadline: Seconds of wall clock; the run has ended at the latest one second after.
            memory: Bytes.

        Raises:
            ConfigError: limits or file names that cannot be meant.
            InfrastructureError: the sandbox itself failed; the code is not to blame.
        """

    def close(self) -> None:
        """Ends all processes. Closing twice is fine; a run after it raises `InfrastructureError`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def auto(*, cpython: bool = False, limits: SandboxLimits | None = None) -> Sandbox:
        """The first sandbox that works here, tried by a run: Monty, then bubblewrap; with `cpython` bubblewrap alone.

        Raises `InfrastructureError`, with the reason for each, when none does.
        """
        reasons = []
        for one in sorted(KINDS, key=lambda one: one.cpython):  # the one that starts at once comes first
            if cpython and not one.cpython:
                continue
            try:
                return one(limits=limits)
            except SparringError as error:
                reasons.append(f"{one.__name__}: {error}")
        raise InfrastructureError("no sandbox works here, and code is never run without one: " + "; ".join(reasons))


class CheckedSandbox(Sandbox):
    """What every kind does before it runs anything: the guards of `run`. A kind writes `_run` and `close`, and sets
    `limits` and `_closed`."""

    cpython: ClassVar[bool] = False
    """Whether it runs real CPython, with all of its standard library."""
    limits: SandboxLimits
    _closed: bool

    def __init__(self, *, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self._closed = False

    def run(
        self,
        code: str,
        *,
        files: Mapping[str, str | bytes] | None = None,
        deadline: float = DEADLINE,
        memory: int = MEMORY,
    ) -> SandboxResult:
        wrong = _checked(code, files, deadline, memory, self.limits)
        if self._closed:
            raise InfrastructureError("this sandbox is closed: make another")
        if wrong:
            return SandboxResult(RunOutcome.ERROR, error=wrong)
        return self._run(code, files or {}, deadline, memory)

    def _run(self, code: str, files: Mapping[str, str | bytes], deadline: float, memory: int) -> SandboxResult:
        """Runs code that has passed the guards."""
        raise NotImplementedError


KINDS: list[type[CheckedSandbox]] = []
"""What `Sandbox.auto` may choose."""

K = TypeVar("K", bound=type[CheckedSandbox])


def kind(made: K) -> K:
    """A decorator: `Sandbox.auto` may choose this kind too."""
    KINDS.append(made)
    return made


def _checked(
    code: str, files: Mapping[str, str | bytes] | None, deadline: float, memory: int, limits: SandboxLimits
) -> str:
    """What is wrong with the code as text, or "". Raises `ConfigError` for what the caller got wrong."""
    if not (math.isfinite(deadline) and 0 < deadline <= 3600):
        raise ConfigError(f"a deadline is seconds above 0 and up to 3600, not {deadline}")
    if memory < 32 * MIB:
        raise ConfigError(f"a run needs at least 32 MiB of memory ({32 * MIB}), not {memory}")
    total = 0
    for name, content in (files or {}).items():
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or path == PurePosixPath(".") or "\0" in name:
            raise ConfigError(f"a file's name is a relative path without '..', not {name!r}")
        total += len(to_bytes(content))
    if total > limits.disk or len(files or {}) > limits.entries:
        raise ConfigError(f"{len(files or {})} files of {total} bytes are over the limits ({limits})")
    if "\0" in code:
        return "SyntaxError: source code cannot contain null bytes"
    try:
        size = len(code.encode())
    except UnicodeEncodeError:
        return "SyntaxError: source code holds half of a surrogate pair"
    return f"SyntaxError: {size} bytes of code; at most {MAX_CODE} are run" if size > MAX_CODE else ""


def to_bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "replace")


def finished(raw: Json, stdout: str, seconds: float, limits: SandboxLimits) -> SandboxResult:
    """A result from what the sandbox reports, when it fits the limits."""
    try:
        size = len(orjson.dumps(raw))
    except (TypeError, ValueError):  # deeper than JSON goes, or integers beyond 64 bits
        raw = repr(raw)[:ERROR_WIDTH]
        size = len(raw.encode("utf-8", "replace"))
    if size > limits.output:
        told = f"the value has {size} bytes of JSON; at most {limits.output} are taken"
        return SandboxResult(RunOutcome.OUTPUT, stdout, None, told, seconds)
    return SandboxResult(RunOutcome.OK, stdout, raw, "", seconds)


def clean(text: str) -> str:
    """The text without lone surrogates, which no record could hold."""
    return text.encode("utf-8", "replace").decode()
