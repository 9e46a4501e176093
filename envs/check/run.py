"""`check_env`: what is wrong with an environment, and how to fix it.

A superset of Gymnasium's checker, which is run too. It plays some tasks with the environment's expert, with random
calls and with nothing, clean and under each kind of fault, next to each other and from snapshots: about a second for a
small environment. Defines `check_env` and `run_checks`; `CHECKS` is the list of all checks, which are in the modules
next to this one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ...trajectories.blame import trace_of
from ...trajectories.errors import ConfigError, EnvError
from ..env import ToolEnv
from ..hooks import guarded
from ..registry import make
from . import again, hostile, played, suites, worlds, written
from .findings import CheckFunction, CheckProgress, Finding, Subject, found_error, raised
from .patience import Hung, patience

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
    env: str | ToolEnv | type[ToolEnv],
    *,
    tasks: int = 24,
    seconds: float = 60.0,
    on_progress: Callable[[CheckProgress], None] | None = None,
) -> list[Finding]:
    """All findings, errors first; empty when all is well.

    Args:
        env: A registered name, `module:Class`, a class, or an environment. It is reset many times.
        tasks: How many tasks are played in each check; fewer where that takes more than some seconds.
        seconds: How long one call may take. One that takes longer is the last finding. (In the main thread.)
        on_progress: Is told as each check begins, and how far it is.

    Raises `UnknownName` when there is no such environment. What an environment's own code raises becomes a finding.
    """
    checks = run_checks(env, tasks=tasks, seconds=seconds, on_progress=on_progress)
    findings = [finding for _, found in checks for finding in found or ()]
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)  # stable: "error" < "warning"


def run_checks(
    env: str | ToolEnv | type[ToolEnv],
    *,
    tasks: int = 24,
    seconds: float = 60.0,
    on_progress: Callable[[CheckProgress], None] | None = None,
) -> Iterator[tuple[str, list[Finding] | None]]:
    """The name of each check in turn (`check_names()`) and what it found. None: it was left out, because one that it
    relies on found an error. Arguments and errors are those of `check_env`."""
    first, *names = check_names()
    if not seconds > 0:
        raise ConfigError(f"seconds, for one call, are above 0, got {seconds!r}")
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
        with _same_folder(), _threads(subject, known, found):
            try:
                with patience(type(made), seconds):
                    found.extend(finding for finding in check(subject) if finding.bug not in known)
            except Hung as late:  # every other check would wait for it too
                found.append(_hung(str(late), (check.__doc__ or "").splitlines()[0]))
                playable = False
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
            playable = playable and subject.playable  # without tasks or tools there is no episode to look at


def _hung(what: str, during: str) -> Finding:
    fix = "let it end: give the tool a deadline, as @tool(deadline=10); if it is only slow, raise --seconds"
    return found_error(f"{what}, while checking: {during}", fix)


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
def _same_folder() -> Iterator[None]:
    """Who checks stays in its folder, also where an episode has changed it."""
    before = os.getcwd()
    try:
        yield
    finally:
        if os.getcwd() != before:
            os.chdir(before)


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
