"""What every rule returns: what was kept, how much was dropped and why, and a hash of the result.

Defines `Card`, `Curated`, `digest`; for the rules `with_card`, `draw_key`, `reward_of`, `not_judged`, `not_successful`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Generic, TypeVar

import orjson

from ..errors import DataError
from ..trajectory import Trajectory

__all__ = ["Card", "Curated", "digest", "draw_key", "not_judged", "not_successful", "reward_of", "with_card"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Card:
    """How much one rule kept and dropped: came_in + repeated = kept + dropped."""

    came_in: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    """Count by reason; each item is counted once, under the first reason that applies."""
    repeated: int = 0
    """Copies beyond the first, where a mixture needed more than there was."""
    unit: str = "trajectories"

    def __str__(self) -> str:
        parts = [f"kept {self.kept} of {self.came_in} {self.unit}"]
        if self.dropped:
            parts.append("dropped: " + ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()))
        if self.repeated:
            parts.append(f"repeated: {self.repeated}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Curated(Generic[T_co]):
    """What was kept, and the card."""

    items: tuple[T_co, ...]
    card: Card

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def content(self) -> str:
        """Hash of what was kept, in any order: equal data has equal hashes. Latencies do not count."""
        return digest(self.items)


def digest(items: Iterable[Any]) -> str:
    """16 bytes in hex, of episodes, pairs or other plain values, in any order; latencies do not count."""
    each = sorted(hashlib.blake2b(_body(item), digest_size=16).digest() for item in items)
    return hashlib.blake2b(b"".join(each), digest_size=16).hexdigest()


def _body(item: Any) -> bytes:
    if isinstance(item, Trajectory):
        still = (
            replace(turn, results=tuple(replace(r, latency_s=0.0) for r in turn.results)) if turn.results else turn
            for turn in item.turns
        )
        plain = replace(item, turns=tuple(still))
        try:
            return plain.to_json()
        except ValueError:  # a lone surrogate: no file can hold it, but curation may drop the episode
            return repr(plain).encode("utf-8", "backslashreplace")
    if is_dataclass(item) and not isinstance(item, type):  # a pair
        values = [getattr(item, name) for name in item.__dataclass_fields__]
        return b"\n".join(_body(value) for value in values)
    return orjson.dumps(item, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str)


def with_card(
    what: str, kept: Sequence[T], came_in: int, dropped: Counter[str], *, unit: str = "trajectories"
) -> Curated[T]:
    """`kept` with its card. Raises `DataError` when items came in and none is left."""
    card = Card(came_in, len(kept), dict(dropped.most_common()), unit=unit)
    if came_in and not kept:
        raise DataError(f"{what} has nothing left: {card}")
    return Curated(tuple(kept), card)


def not_successful(t: Trajectory) -> str:
    """The reason to drop it; empty: it succeeded."""
    return not_judged(t) or ("" if t.success else "without success")


def not_judged(t: Trajectory) -> str:
    """The reason to drop it; empty: it was judged."""
    return "" if t.judged else "not judged (infrastructure, cancelled)"


def reward_of(t: Trajectory) -> float:
    """Of a judged trajectory. Raises `DataError` where it is not finite."""
    if not math.isfinite(t.reward):  # NaN would make every comparison False, in silence
        raise DataError(f"trajectory {t.id} was judged, but its reward is {t.reward}")
    return t.reward


def draw_key(seed: int, t: Trajectory) -> bytes:
    """A place in a random order that depends on the seed and the episode alone, not on what else there is."""
    return hashlib.blake2b(f"{seed}:{t.env}:{t.id}:{t.attempt}".encode(), digest_size=16).digest()
