"""Whether two instances of an environment have worlds of their own: proven by playing in one and looking at the other.

An expert that plays for a figure (`Trajectory.expert_turns`) plays in an instance of its own. Where all instances
reach one world (a server, a folder, a database, a dict of the module), what it does there is done for the agent too:
the agent that does nothing would win. `ToolEnv.copyable` says which is which, and authors forget to say it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from reprlib import Repr
from weakref import WeakKeyDictionary

from ..trajectories.errors import EnvError
from ..trajectories.trajectory import Task
from .env import ToolEnv
from .experts import play
from .task import SPLITS

__all__ = ["SHARED", "worlds_apart"]

SHARED = (
    "its instances share one world: what was done in one was done in another; set copyable = False in the class, and "
    "let setup(task, rng) set that world up anew"
)
"""What there is to say of a class that is wrong about `copyable`."""

_TRIED = 4
"""Tasks that are tried, until the expert solves one that is not solved from the start."""
_LISTED = 16

_known: WeakKeyDictionary[type, dict[str, bool]] = WeakKeyDictionary()
"""What has been proven of a class in this process, by what its instances were made with."""

_repr = Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 4, 1000, 1000, 1000
_repr.maxdict = _repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = 100


def worlds_apart(here: ToolEnv, there: ToolEnv, wanted: Sequence[Task] = ()) -> bool | None:
    """Whether nothing that the expert does in `there` is to be seen in `here`, nor in an episode that begins in `here`
    afterwards. None: not known, because the expert solves no task. Both have other episodes afterwards.

    Args:
        here: An environment that nobody plays in.
        there: Another one like it.
        wanted: Tasks that are still to be played: others are taken, if there are any. Where there are none, one of
            these is tried, for a world that is found to be apart has not been touched.

    Raises what the environment raises, and `EnvError` where one of `wanted` is now done before it has begun.
    """
    if not here.copyable:
        return False
    kind = type(here)
    if kind.solve is ToolEnv.solve:
        return None
    known, made = _known.setdefault(kind, {}), _made_with(here)
    if made in known:
        return known[made]
    for task, own in islice(_candidates(here, wanted), _TRIED):
        apart = _apart(here, there, task, wanted=own)
        if apart is not None:
            if " at 0x" not in made:  # an address says nothing: there may be another object next time
                known[made] = apart
            return apart
    return None


def _made_with(env: ToolEnv) -> str:
    """What an author's constructor has kept: with a folder of its own a world may be apart, and in a given one not."""
    return _repr.repr({name: value for name, value in vars(env).items() if name not in _of_all()})


@lru_cache(maxsize=1)
def _of_all() -> frozenset[str]:
    """Attributes that every environment has."""
    return frozenset((*vars(ToolEnv()), "state"))


def _candidates(env: ToolEnv, wanted: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
    """Tasks, and whether each is wanted: those come last."""
    known = {task.id for task in wanted}
    if type(env).tasks is not ToolEnv.tasks:
        for split in SPLITS:
            for task in islice(env.tasks(split, random.Random(0)), _LISTED):
                if task.id not in known:
                    yield task, False
    yield from ((task, True) for task in wanted)


def _apart(here: ToolEnv, there: ToolEnv, task: Task, *, wanted: bool) -> bool | None:
    """None: this task proves nothing."""
    here.start(task)
    if here.judge()[0]:
        return None
    there.start(task)
    play(there)
    if not there.judge()[0]:
        return None
    seen = here.judge()[0]
    here.start(task)
    stayed = here.judge()[0]
    if stayed and wanted:
        raise EnvError(f"{type(here).__name__} cannot be measured: {SHARED}")
    return not (seen or stayed)
