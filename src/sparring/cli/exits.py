"""How a command ends that did not end well: one line, and an exit code. Defines `end`, `one_line`, `resume_command`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["end", "one_line", "resume_command"]

_EXTRAS = {
    package: extra
    for extra, packages in {
        "train": ("accelerate", "filelock", "gguf", "peft", "safetensors", "tokenizers", "torch", "transformers"),
        "tensorboard": ("tensorboard",),
        "store": ("datasets", "duckdb", "pyarrow"),
        "sandbox": ("pydantic_monty",),
        "mcp": ("anyio", "httpx2", "mcp", "uvicorn"),
        "openapi": ("httpx",),
        "math": ("math_verify",),
    }.items()
    for package in packages
}
"""Package -> the extra that brings it."""

_RESUMABLE = ("recipe", "train")
_RESUMABLE_WITH_OUT = ("evaluate", "rollout")

PIPE_CLOSED = 141
"""As the shell has it for a program that SIGPIPE ended."""


def end(error: BaseException, *, debug: bool) -> int:
    """Says what `error` was, for people, and returns the exit code."""
    while isinstance(error, BaseExceptionGroup):  # the first is the cause, the others fell with it
        error = error.exceptions[0]
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return PIPE_CLOSED
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        from ..trajectories.interrupts import last_signal

        _say(_stopped(error, sys.argv[1:]))
        return 128 + last_signal()
    _say(f"error: {_said_of(error, debug)}")
    return 1


def resume_command(arguments: Sequence[str], program: str = "sparring") -> str:
    """The command that goes on where this one stopped; empty where there is none."""
    words = [a for a in arguments if not a.startswith("-")]
    command = words[0] if words else ""
    with_out = any(a == "--out" or a.startswith("--out=") for a in arguments)
    if command in _RESUMABLE or (command in _RESUMABLE_WITH_OUT and with_out):
        kept = [a for a in arguments if a != "--overwrite"]  # it would delete what is to be taken up
        return shlex.join([program, *kept])
    return ""


def _stopped(error: KeyboardInterrupt, arguments: Sequence[str]) -> str:
    started_by = sys.argv[0]  # its path where the shell would not find it: after `make`, in no active environment
    hidden = Path(started_by).name == "sparring" and shutil.which("sparring") is None
    again = resume_command(arguments, started_by if hidden else "sparring")
    said = str(error) or "stopped"
    if not again:
        return said
    from ..app.outputs import nothing_written

    kept = "nothing had been written yet" if nothing_written() else "everything complete was saved"
    return f"{said}; {kept}\nresume with: {again}"


def _said_of(error: BaseException, debug: bool) -> str:
    from ..trajectories.blame import told
    from ..trajectories.errors import MissingExtra, SparringError, is_full_disk

    if isinstance(error, ImportError) and not isinstance(error, SparringError):
        package = (error.name or "").split(".")[0]
        if package in _EXTRAS:
            return str(MissingExtra(package, _EXTRAS[package]))
    if isinstance(error, SparringError):
        return one_line(str(error))
    if isinstance(error, SyntaxError) and error.filename:
        shown = f": {error.text.strip()}" if error.text else ""
        return one_line(f"{error.filename}, line {error.lineno} is no Python: {error.msg}{shown}")
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename else ""
        if is_full_disk(error):
            return f"no space left on the device{where}; what was complete is saved, make room and run it again"
        return one_line(f"{error.strerror}{where}")
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be loaded
        return "the GPU's memory does not suffice: lower --micro-tokens, --parallel or --batch, or use --lora 16"
    if isinstance(error, MemoryError):
        return "the memory does not suffice: lower --micro-tokens, --parallel or --batch"
    hint = "" if debug else f"; for the traceback: {shlex.join(['sparring', '--debug', *sys.argv[1:]])}"
    return one_line(told(error)) + hint


def one_line(text: str) -> str:
    """One line that shows what it holds: an error may quote what a tool or a file said."""
    from ..trajectories.pages.report import visible

    return visible(" ".join(text.split()))


def _say(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


def _forget_stdout() -> None:
    """Whoever read it is gone: what is still buffered must not raise again when Python ends."""
    with suppress(OSError, ValueError):  # no real file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
