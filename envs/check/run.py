"""`check_env`: what is wrong with an environment, and how to fix it.

A superset of Gymnasium's checker, which is run too. It plays some tasks with the environment's expert, with random
calls and with nothing, clean and under each kind of fault, next to each other and from snapshots: about a second for a
small environment. Defines `check_env` and `run_checks`; `CHECKS` is the list of all checks, which are in the modules
next to this one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ...trajectories.blame import trace_of
from ...trajectories.errors import EnvError
from ..env import ToolEnv
from ..hooks import guarded
from ..registry import make
from . import again, hostile, played, suites, worlds, written
from .findings import CheckFunction, CheckProgress, Finding, Subject, found_error, raised

__all__ = ["CHECKS", "check_env", "check_names", "run_checks"]

CHECKS: tuple[CheckFunction, ...] = (
    written.documentation, written.tools, written.helpers, written.tasks, written.spaces, played.nothing,
    again.determinism, written.gymnasium, again.snapshots, again.beside, worlds.apart, worlds.reads, played.samples,
    hostile.hostile, hostile.hooks, suites.recorded, played.expert,
)  # fmt: skip
"""In this order: each may rely on what those before it found in order."""

_AFTER: dict[CheckFunction, tuple[CheckFunction, ...]] = {
    again.determinism: (written.spaces,),
    written.gymnasium: (written.spaces, again.determinism),
    again.snapshots: (written.spaces, again.determinism),
    again.beside: (written.spaces, again.determinism, again.snapshots),
    worlds.apart: (written.spaces, played.nothing, again.determinism, again.beside),
    worlds.reads: (written.spaces,),
    played.samples: (written.spaces,),
    hostile.hostile: (written.spaces, again.determinism),
    hostile.hooks: (written.spaces,),
    suites.recorded: (written.spaces,),
    played.expert: (played.nothing,),
}
"""Left out where one of these has found an error: it would only find the same again."""


def check_env(
    env: str | ToolEnv | type[ToolEnv], *, tasks: int = 24, on_progress: Callable[[CheckProgress], None] | None = None
) -> list[Finding]:
    """All findings, errors first; empty when all is well.

    Args:
        env: A registered name, `module:Class`, a class, or an environment. It is reset many times.
        tasks: How many tasks are played in each check; fewer where that takes more than some seconds.
        on_progress: Is told as each check begins, and how far it is.

    Raises `UnknownName` when there is no such environment. What an environment's own code raises becomes a finding.
    """
    findings = [
        finding for _, found in run_checks(env, tasks=tasks, on_progress=on_progress) for finding in found or ()
    ]
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)  # stable: "error" < "warning"


def run_checks(
    env: str | ToolEnv | type[ToolEnv], *, tasks: int = 24, on_progress: Callable[[CheckProgress], None] | None = None
) -> Iterator[tuple[str, list[Finding] | None]]:
    """The name of each check in turn (`check_names()`) and what it found. None: it was left out, because one that it
    relies on found an error. Arguments and errors are those of `check_env`."""
    first, *names = check_names()
    try:
        another = _maker(env)
        made = env if isinstance(env, ToolEnv) else another()
    except EnvError as error:  # "what is wrong; how to fix it"
        what, _, fix = str(error).partition("; ")
        yield (
            first,
            [
                found_error(
                    what, fix or "fix that line, or see the example in the README", trace_of(error.__cause__ or error)
                )
            ],
        )
        yield from ((name, None) for name in names)
        return
    yield first, []
    subject = Subject(made, another, tasks)
    findings: list[Finding] = []
    broken: set[CheckFunction] = set()
    playable = True
    for number, (name, check) in enumerate(zip(names, CHECKS, strict=True), 1):
        if not playable or broken & set(_AFTER.get(check, ())):
            yield name, None
            continue
        found: list[Finding] = []
        known = {finding.bug for finding in findings}
        if on_progress is not None:
            subject.on_progress = _teller(on_progress, CheckProgress(name, number, len(CHECKS) + 1))
            subject.on_progress("", False)
        subject.begin()
        with _threads(subject, known, found):
            try:
                found.extend(finding for finding in check(subject) if finding.bug not in known)
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:  # sys.exit() in a hook would say that all is well
                own = raised(subject, error, check.__doc__ or "")
                if own.bug not in known:
                    found.append(own)
                broken.add(check)
        findings += found
        if any(finding.severity == "error" for finding in found):
            broken.add(check)
        yield name, found
        if check is written.tasks and any(f.severity == "error" for f in findings):
            playable = subject.playable  # without tasks or tools there is no episode to look at


def _teller(on_progress: Callable[[CheckProgress], None], check: CheckProgress) -> Callable[[str, bool], None]:
    return lambda note, cut: on_progress(replace(check, note=note, cut=cut))


def _maker(env: str | ToolEnv | type[ToolEnv]) -> Callable[[], ToolEnv]:
    """Makes such an environment. Raises `TypeError` for one whose options are not known."""
    if isinstance(env, ToolEnv):
        return type(env)
    if isinstance(env, str):
        return partial(make, env)
    return partial(guarded, env, env)


@contextmanager
def _threads(subject: Subject, known: set[str], found: list[Finding]) -> Iterator[None]:
    """Adds a thread that dies within to what is `found`, unless it is `known`: nobody else is told of it."""
    before = threading.excepthook

    def died(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            own = raised(subject, args.exc_value, "what its threads do")
            if own.bug not in known | {finding.bug for finding in found}:
                fix = "catch it in the thread, and let the tool that waits for it raise a ToolError"
                found.append(found_error(f"a thread died of {own.what}", fix, own.trace, own.line))

    threading.excepthook = died
    try:
        yield
    finally:
        threading.excepthook = before


def check_names() -> tuple[str, ...]:
    """Of all checks, in their order; the first is that the environment can be made."""
    return ("make", *(check.__name__ for check in CHECKS))
