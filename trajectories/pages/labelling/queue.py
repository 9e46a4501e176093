"""Which two episodes are compared, in which order, and on which side each is. Defines `LabelPair`, `label_pairs`.

Two episodes are compared if they are of one environment, task and fault plan: then nothing but what the agents did can
separate them. Order and sides are drawn by seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import combinations

from ...errors import ConfigError, DataError
from ...labels import Key, key_of
from ...trajectory import Trajectory

__all__ = ["LabelPair", "label_pairs", "left_side"]


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two episodes of one task under one fault plan."""

    a: Trajectory
    b: Trajectory
    """Both without tokens: people read text."""

    @property
    def keys(self) -> tuple[Key, Key]:
        return key_of(self.a), key_of(self.b)


def label_pairs(
    episodes: Callable[[], Iterable[Trajectory]], *, n: int = 200, per_task: int = 3, seed: int = 0
) -> list[LabelPair]:
    """At most `n` comparisons, at most `per_task` of one task and fault plan; first one of every task, then a second
    one, in an order drawn by `seed`.

    `episodes` is called twice and read as a stream: only what is compared is kept in memory. Left out are episodes that
    an infrastructure failure or a bug of the environment ended, and two with the same turns. Raises `DataError` where
    nothing can be compared.
    """
    if n < 1 or per_task < 1:
        raise ConfigError(f"n and per_task have to be 1 or more, got {n} and {per_task}")
    groups: dict[tuple[str, str, str], dict[Key, bytes]] = {}
    came = 0
    for t in episodes():
        came += 1
        if not t.stop.no_verdict:
            groups.setdefault((t.env, t.task.id, t.faults), {})[key_of(t)] = _turns_hash(t)
    rounds: list[list[tuple[Key, Key]]] = [[] for _ in range(per_task)]
    for group, members in sorted(groups.items()):  # in any order of storage
        rng = random.Random(f"{seed}:{group}")
        keys = sorted(members)
        found = [
            (x, y) for x, y in combinations(keys, 2) if x[0] != y[0] and members[x] != members[y]
        ]  # one id: two attempts at one episode
        rng.shuffle(found)
        for place, pair in zip(rounds, found, strict=False):
            place.append(pair)
    chosen: list[tuple[Key, Key]] = []
    for number, place in enumerate(rounds):
        random.Random(f"{seed}:{number}").shuffle(place)
        chosen += place
    chosen = chosen[:n]
    if not chosen:
        raise DataError(
            f"nothing to compare among {came} episodes: it takes two of one environment, task and fault plan that took "
            f"different turns, such as `sparring rollout --group 4` or two agents on the same tasks give"
        )
    wanted = {key for pair in chosen for key in pair}
    held = {key_of(t): replace(t, tokens=None) for t in episodes() if key_of(t) in wanted}
    return [LabelPair(held[x], held[y]) for x, y in chosen]


def left_side(comparison: LabelPair, labeller: str, seed: int) -> str:
    """Which of the two, "a" or "b", is on the left for this labeller. Even odds, so that a habit of preferring a
    side cancels out."""
    text = repr((seed, labeller, comparison.keys)).encode(errors="backslashreplace")
    return "ab"[hashlib.blake2b(text, digest_size=1).digest()[0] & 1]


def _turns_hash(t: Trajectory) -> bytes:
    """Hash of what was said, called and answered."""
    seen = [
        (
            turn.action.shown,
            [(c.name, c.arguments, c.raw) for c in turn.action.tool_calls],
            [(r.tool, r.outcome.value, r.content) for r in turn.results],
            [(m.role, m.content) for m in turn.messages],
        )
        for turn in t.turns
    ]
    text = repr((t.prompt, seen)).encode(errors="backslashreplace")
    return hashlib.blake2b(text, digest_size=16).digest()
