"""Where the author's code is called: what its functions may give, and whose fault it is where they raise.

    must, run, truth, number, parts   a function that gives something else than it may is told with its line
    guarded                           what the author's code raises becomes an `EnvBug`, with the author's line

A verdict that is no verdict would be a wrong success: a text such as "no", and what an `async def` or a function
with a `yield` gives, are all true.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ..trajectories.blame import is_users, line_of, place_of, told
from ..trajectories.errors import EnvBug, EnvError, InfrastructureError, SparringError

__all__ = [
    "at",
    "bug",
    "came_through",
    "copied",
    "files_of",
    "guarded",
    "misfit",
    "must",
    "number",
    "parts",
    "run",
    "truth",
    "wrong",
]

Hook = Callable[..., Any]


def at(function: Callable[..., Any] | type) -> str:
    """` (kiosk.py, line 9, in success)`, or nothing."""
    where = place_of(function)
    return f" ({where})" if where else ""


def wrong(hook: Hook, label: str, value: Any, expected: str) -> EnvError:
    """The error for a function that gave something else than it may.

    Args:
        hook: The function.
        label: What it is called, with a verb: "Kiosk.success(task) gives".
        value: What it gave.
        expected: What it should give: "True, False or a Verdict".
    """
    if _never_ran(value):
        what = "a coroutine, which nobody awaits" if inspect.isawaitable(value) else "a generator, which nobody runs"
        fix = "write def, and not async def" if inspect.isawaitable(value) else "take the yield out of it"
        if inspect.iscoroutine(value):
            value.close()  # Python would warn of it a second time
        return EnvError(
            f"{label} {what}{at(hook)}; {fix}" + ("" if expected == "nothing" else f", and return {expected}")
        )
    return EnvError(f"{label} {_shown(value)}{at(hook)}; return {expected}")


def must(fits: bool, hook: Hook, label: str, value: Any, expected: str) -> None:
    """Raises `wrong(...)` unless `fits`. Arguments are those of `wrong`."""
    if not fits:
        raise wrong(hook, label, value, expected)


def run(hook: Hook, label: str, *given: Any) -> None:
    """Calls a function that gives nothing. Raises `EnvError` where that has not run it."""
    if _never_ran(value := hook(*given)):
        raise wrong(hook, label, value, "nothing")


def copied(state: Any, setup: Hook, label: str) -> Any:
    """A deep copy of an episode's world. Raises `EnvError` that names the part which cannot be copied.

    Args:
        state: The world.
        setup: What has set it up.
        label: What it is called: "Kiosk.state".
    """
    try:
        return copy.deepcopy(state)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        part, why = _uncopied(state, label, error)
        raise EnvError(
            f"{part} cannot be copied: {type(why).__name__}: {' '.join(str(why).split())[:200]} ({place_of(setup)}); "
            "keep plain data in self.state: what deepcopy cannot copy is of a class that defines __deepcopy__, and a "
            "world outside of it has copyable = False"
        ) from error


def _uncopied(state: Any, label: str, error: BaseException) -> tuple[str, BaseException]:
    """The smallest part of a world that cannot be copied, and why."""
    if isinstance(state, Mapping):
        parts = {f"{label}[{key!r}]": part for key, part in state.items()}
    elif isinstance(state, list | tuple):
        parts = {f"{label}[{i}]": part for i, part in enumerate(state)}
    else:
        parts = {f"{label}.{name}": part for name, part in getattr(state, "__dict__", {}).items()}
    for name, part in parts.items():
        try:
            copy.deepcopy(part)
        except RecursionError as deep:
            return name, deep
        except Exception as inner:
            return _uncopied(part, name, inner)
    return label, error


def _never_ran(value: Any) -> bool:
    """Whether a value is what a function gives whose body has not been run: `async def`, or one with a `yield`."""
    return inspect.iscoroutine(value) or inspect.isgenerator(value) or inspect.isasyncgen(value)


def truth(value: Any, hook: Hook, label: str, expected: str = "True or False") -> bool:
    """A truth value as a `bool`: True, False, NumPy's, 1 and 0. Raises `EnvError` for all else."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, int | np.integer) and value in (0, 1)):
        return bool(value)
    raise wrong(hook, label, value, expected)


def number(value: Any, hook: Hook, label: str) -> float:
    """A finite number as a `float`. Raises `EnvError` for all else."""
    try:
        made = math.nan if isinstance(value, str | bytes) or _never_ran(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        made = math.nan
    if not math.isfinite(made):
        raise wrong(hook, label, value, "a finite number")
    return made


def parts(value: Any, hook: Hook, label: str) -> dict[str, float]:
    """A reward's parts by name. Raises `EnvError` for what is no mapping of names to finite numbers."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise wrong(hook, label, value, "a mapping of names to numbers")
    return {name: number(part, hook, f"the reward part {name!r} is") for name, part in value.items()}


# ---- what it raises --------------------------------------------------------------------------------------------------

P = ParamSpec("P")
T = TypeVar("T")


def guarded(env: type, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function that runs an author's code.

    Args:
        env: The class of the environment whose code it is.
        fn: What is called.
        args, kwargs: What it is given.

    Raises `EnvBug`, with the author's line and what was raised as its cause, for everything that the author's code
    raises: `sys.exit()`, a stray `StopIteration` and the like too, which would end a rollout in silence. Only what is
    nobody's mistake comes through: Ctrl-C, a lack of memory, `InfrastructureError`, and what Sparring itself says of
    options that cannot be meant.
    """
    try:
        return fn(*args, **kwargs)
    except (KeyboardInterrupt, MemoryError, InfrastructureError, EnvBug):
        raise
    except BaseException as error:
        if isinstance(error, SparringError) and not isinstance(error, EnvError) and not _by_author(env, error):
            raise
        raise bug(env, error) from error


def bug(env: type, error: BaseException) -> EnvBug:
    """The error for what an author's code has raised."""
    own = files_of(env)
    error = misfit(env, error) or error
    if isinstance(error, EnvError):  # says already what is wrong, and where
        where = line_of(error, own) if _by_author(env, error) else ""
        return EnvBug(f"{error} ({where})" if where and where not in str(error) else str(error))
    return EnvBug(told(error, own))


_MISFIT = re.compile(r"([\w.<>]+)\(\) (?:takes |missing |got (?:an unexpected|multiple|some))")
"""How Python says that a function cannot be called so."""


def misfit(env: type, error: BaseException) -> EnvError | None:
    """What to say where Sparring calls a function of the author's that takes other arguments: Python's traceback ends
    in the caller then, and names no line of the author's. None: it is something else."""
    found = _MISFIT.match(str(error)) if type(error) is TypeError else None
    frames = traceback.extract_tb(error.__traceback__)
    if found is None or not frames or frames[-1].filename in files_of(env) or is_users(frames[-1].filename):
        return None
    holders = [*_classes(env), *(type(value) for cls in _classes(env) for value in vars(cls).values())]
    name = found[1].rpartition(".")[2]
    for holder in holders:
        hook: Any = vars(holder).get(name)
        if getattr(hook, "__qualname__", "") != found[1]:
            continue
        wanted = next((vars(c)[name] for c in holder.__mro__ if name in vars(c) and c.__module__ in _HOUSE), None)
        fix = "let it take what it is given"
        if wanted is not None:
            fix = f"write def {name}({', '.join(inspect.signature(wanted).parameters)})"
        return EnvError(f"{error}{at(hook)}; {fix}")
    return None


def files_of(env: type) -> frozenset[str]:
    """Files in which the classes of an environment are, without those of the base class."""
    found = set()
    for cls in _classes(env):
        with suppress(TypeError, OSError):  # made at run time, or in a notebook
            found.add(inspect.getfile(cls))
    return frozenset(found)


def came_through(env: type, error: BaseException) -> bool:
    """Whether an exception came through a function that the environment's classes define."""
    functions = (getattr(value, "__func__", value) for cls in _classes(env) for value in vars(cls).values())
    own = {code for f in functions if (code := getattr(inspect.unwrap(f) if callable(f) else f, "__code__", None))}
    next_: BaseException | None = error
    while next_ is not None:
        if any(frame.f_code in own for frame, _ in traceback.walk_tb(next_.__traceback__)):
            return True
        next_ = next_.__cause__
    return False


def _by_author(env: type, error: BaseException) -> bool:
    """Whether an exception came through any line of the author's: a facet's function is in no class."""
    files = files_of(env)
    seen = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(file in files or is_users(file) for file in seen)


def _classes(env: type) -> list[type]:
    """The author's own: those above are of Gymnasium, Python, or the base class of all environments."""
    base = f"{__package__}.env"
    return [cls for cls in env.__mro__ if cls.__module__ != base and cls.__module__.partition(".")[0] not in _BASES]


_HOUSE = (f"{__package__}.env", f"{__package__}.facets")
"""Where hooks are declared, with their parameters."""
_BASES = ("builtins", "gymnasium", "typing", "abc")


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # an object whose own text raises
        return f"a {type(value).__name__}"
