"""Parts in shares. Defines `mixture`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..errors import ConfigError, DataError, UnknownName
from .card import Card, Curated

__all__ = ["mixture"]

T = TypeVar("T")


def mixture(parts: Mapping[str, Sequence[T]], shares: Mapping[str, float], n: int, *, seed: int = 0) -> Curated[T]:
    """n items drawn from named parts in the given shares (any positive scale), in random order.

    Counts are exact: the largest remainders are rounded up. A part is drawn without replacement; one that is smaller
    than its share is gone through again and again, each item as often as the others (give or take one), and the card
    counts the copies as `repeated`. Which items a part gives depends on the part and the seed only.

        mixture({"gold": clean.items, "recovery": demos.items}, {"gold": 0.88, "recovery": 0.12}, n=400)

    Raises `UnknownName` for a share of no part, `ConfigError` for a part without share, a share that is negative or not
    finite, shares that are all 0, or n < 1; `DataError` for an empty part that has a share.
    """
    for name in shares:
        if name not in parts:
            raise UnknownName("part", name, parts)
    if missing := [name for name in parts if name not in shares]:
        raise ConfigError(f"no share for {', '.join(missing)}: give 0 to leave a part out")
    if any(not (math.isfinite(share) and share >= 0) for share in shares.values()):
        raise ConfigError(f"shares must be finite and not negative, got {dict(shares)}")
    total = math.fsum(shares.values())
    if total == 0:
        raise ConfigError("all shares are 0")
    if n < 1:
        raise ConfigError(f"n must be 1 or more, got {n}")

    names = sorted(parts)  # not by the order in which a dict was filled
    exact = {name: n * shares[name] / total for name in names}
    counts = {name: math.floor(exact[name]) for name in names}
    short = n - sum(counts.values())
    by_remainder = sorted((name for name in names if shares[name] > 0), key=lambda name: counts[name] - exact[name])
    for name in by_remainder[:short]:
        counts[name] += 1

    out: list[T] = []
    dropped: dict[str, int] = {}
    repeated = 0
    for name in names:
        items, count = parts[name], counts[name]
        if count and not items:
            raise DataError(f"part {name!r} is empty, but {count} of {n} items are to come from it")
        rng = random.Random(f"{seed}:{name}")
        order: list[int] = []
        while len(order) < count:
            order.extend(rng.sample(range(len(items)), len(items)))
        out.extend(items[i] for i in order[:count])
        repeated += max(0, count - len(items))
        if count < len(items):
            dropped[f"of {name} not drawn"] = len(items) - count
    random.Random(f"{seed}:").shuffle(out)
    came_in = sum(len(items) for items in parts.values())
    return Curated(tuple(out), Card(came_in, len(out), dropped, repeated, unit="items"))
