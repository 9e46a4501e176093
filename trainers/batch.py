"""Token sequences as one flat batch in which shared prefixes are computed once.

Sorted, sequences that share a prefix stand next to each other; each adds to the batch only the tokens that its
predecessor does not have (a trie, laid out depth first), and attends to its whole root path. A loss is a weight on
(position, trajectory). Where nothing is shared this is variable-length packing without padding.

    a b c d        flat     a b c d | e f | g        positions  0 1 2 3 | 2 3 | 0
    a b e f                 \\_____/  its ancestors are a b
    g
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..agents.attention import Scoring, mix
from ..trajectories.errors import DataError
from ..trajectories.trajectory import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SAMPLER", "Sample", "TreeBatch", "common_prefix", "micro_batches"]

SAMPLER = "sampler"
"""The channel of the log-probabilities of the engine that sampled the tokens, at the temperature that it sampled at."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence to learn from."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """Of predicting each token; 0 for what the policy did not sample. The first token's is ignored."""
    channels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What else a loss needs for each token, by name: `SAMPLER`, "advantages", "returns", ..."""
    temperature: float = 1.0
    """That the log-probabilities are taken at: above 0."""
    encoding: str = ""
    """Whose ids these are (`Tokens.encoding`): a policy of another encoding refuses them. Empty: not known."""

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        *,
        weights: Sequence[float] | None = None,
        temperature: float = 1.0,
        **channels: Sequence[float] | float,
    ) -> Sample:
        """Every sampled token with weight 1, or with `weights`; never a token that was not sampled.

        `temperature`: that the policy's log-probabilities are taken at. A likelihood takes 1. What is compared with the
        sampler's takes the episode's own (`Trajectory.temperature`): they are of the distribution that was drawn from.
        `channels`: a value for each token, or one for all. The sampler's log-probabilities are one already.

        Raises `DataError` for temperature 0, at which nothing is drawn from a distribution.
        """
        if not (temperature > 0 and math.isfinite(temperature)):
            raise DataError(
                f"the tokens were sampled at temperature {temperature:g}, which is no distribution to learn from: "
                "sample above 0"
            )
        given = tokens.sampled if weights is None else [s * w for s, w in zip(tokens.sampled, weights, strict=True)]
        n = len(tokens.ids)
        each = {name: (v,) * n if isinstance(v, int | float) else tuple(v) for name, v in channels.items()}
        if wrong := {name: len(v) for name, v in each.items() if len(v) != n}:
            raise DataError(f"a channel has a value for each of {n} tokens, got {wrong}")
        channels_of = {SAMPLER: tokens.logprobs, **each}
        return cls(tokens.ids, tuple(float(w) for w in given), channels_of, temperature, tokens.encoding)

    @property
    def weight(self) -> float:
        return sum(self.weights[1:])


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """A flat batch. N: distinct tokens. U: distinct predictions that a loss needs. M: (prediction, sample) pairs."""

    ids_N: Tensor
    positions_N: Tensor
    layout: TreeLayout
    sources_U: Tensor
    """Index into N of the token that predicts."""
    targets_U: Tensor
    """The token id that is predicted."""
    temperatures_U: Tensor | None
    """That its log-probability is taken at; None: 1 throughout."""
    unique_M: Tensor
    """Index into U."""
    owner_M: Tensor
    """Which sample, 0..B-1, in the order given."""
    weights_M: Tensor
    channels_M: Mapping[str, Tensor]
    """The channels that all samples have."""
    n: int
    """B."""
    longest: int
    """Tokens of the longest sample."""
    encodings: frozenset[str] = frozenset()
    """Of the samples, where known."""

    @classmethod
    def build(cls, samples: Sequence[Sample], device: torch.device | str = "cpu") -> TreeBatch:
        """Raises `DataError` for an empty batch or a sample of fewer than two tokens."""
        if not samples:
            raise DataError("an empty batch")
        order = sorted(range(len(samples)), key=lambda i: samples[i].ids)
        ids: list[int] = []
        positions: list[int] = []
        segments: list[_Segment] = []
        unique: dict[tuple[int, float], int] = {}
        sources: list[int] = []
        unique_M: list[int] = []
        owner_M: list[int] = []
        weights_M: list[float] = []
        names = [name for name in samples[0].channels if all(name in s.channels for s in samples)]
        channels_M: dict[str, list[float]] = {name: [] for name in names}
        before: tuple[int, ...] = ()
        nodes: list[int] = []
        for i in order:
            sample = samples[i]
            if len(sample.ids) < 2:
                raise DataError(f"a sample of {len(sample.ids)} tokens: nothing can be predicted")
            shared = common_prefix(before, sample.ids)
            start = len(ids)
            nodes = nodes[:shared] + list(range(start, start + len(sample.ids) - shared))
            ids += sample.ids[shared:]
            positions += range(shared, len(sample.ids))
            if shared < len(sample.ids):
                segments.append(_Segment(start, len(ids), _ranges(nodes[:shared])))
            before = sample.ids
            for t in range(1, len(sample.ids)):
                if sample.weights[t]:
                    node = (nodes[t], sample.temperature)
                    if node not in unique:
                        unique[node] = len(sources)
                        sources.append(nodes[t - 1])
                    unique_M.append(unique[node])
                    owner_M.append(i)
                    weights_M.append(sample.weights[t])
                    for name in names:
                        channels_M[name].append(sample.channels[name][t])
        make: Callable[..., Tensor] = torch.tensor
        ids_N = make(ids, device=device)
        temperatures = [temperature for _, temperature in unique]
        return cls(
            ids_N,
            make(positions, device=device),
            TreeLayout(segments),
            make(sources, dtype=torch.long, device=device),
            ids_N[make([node for node, _ in unique], dtype=torch.long, device=device)],
            None if set(temperatures) <= {1.0} else make(temperatures, dtype=torch.float32, device=device),
            make(unique_M, dtype=torch.long, device=device),
            make(owner_M, dtype=torch.long, device=device),
            make(weights_M, dtype=torch.float32, device=device),
            {name: make(values, dtype=torch.float32, device=device) for name, values in channels_M.items()},
            len(samples),
            max(len(s.ids) for s in samples),
            frozenset(s.encoding for s in samples if s.encoding),
        )


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> Iterator[list[int]]:
    """Indices of `samples` in batches of at most `max_tokens` distinct tokens, those with shared prefixes together.

    A sample that alone exceeds the limit gets a batch of its own.
    """
    batch: list[int] = []
    size = 0
    before: tuple[int, ...] = ()
    for i in sorted(range(len(samples)), key=lambda i: samples[i].ids):
        ids = samples[i].ids
        new = len(ids) - (common_prefix(before, ids) if batch else 0)
        if batch and size + new > max_tokens:
            yield batch
            batch, size, new = [], 0, len(ids)
        batch.append(i)
        size += new
        before = ids
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class _Segment:
    """Consecutive new tokens [start, end) and the ranges of flat indices that are their ancestors."""

    start: int
    end: int
    ancestors: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class TreeLayout:
    """Attention over root paths: see `agents.attention.Layout`."""

    segments: list[_Segment]
    _masks: dict[tuple[int, int, int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """(query, key) pairs that attention computes, masked ones included."""
        return sum((s.end - s.start) * (s.end - s.start + sum(b - a for a, b in s.ancestors)) for s in self.segments)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        heads, _, width = query.shape
        kv = key.shape[0]
        query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotary embedding widens them
        q = query.reshape(kv, heads // kv, -1, width)  # (KV, G, N, D): heads that share keys
        pieces = []
        for segment in self.segments:
            own = slice(segment.start, segment.end)
            parts = [slice(a, b) for a, b in segment.ancestors] + [own]
            k = key[:, own] if len(parts) == 1 else torch.cat([key[:, p] for p in parts], 1)
            v = value[:, own] if len(parts) == 1 else torch.cat([value[:, p] for p in parts], 1)
            mask = self._mask(segment.end - segment.start, k.shape[1], how.window, value)
            pieces.append(mix(q[:, :, own], k, v, mask, how).flatten(0, 1))
        return torch.cat(pieces, 1)

    def _mask(self, n: int, length: int, window: int | None, like: Tensor) -> Tensor:
        """(n, length) additive: the last n of `length` tokens, each seeing itself and those before it, as far back as
        the window reaches. A root path has a token for each position."""
        key = (n, length, window, like.dtype)
        if key not in self._masks:
            rows = torch.arange(length - n, length, device=like.device)[:, None]
            columns = torch.arange(length, device=like.device)[None]
            blocked = columns > rows
            if window is not None:
                blocked |= columns <= rows - window
            self._masks[key] = torch.zeros(n, length, dtype=like.dtype, device=like.device).masked_fill_(
                blocked, float("-inf")
            )
        return self._masks[key]


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Its length."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def _ranges(nodes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending indices as [start, end) ranges."""
    out: list[tuple[int, int]] = []
    for node in nodes:
        if out and out[-1][1] == node:
            out[-1] = (out[-1][0], node + 1)
        else:
            out.append((node, node + 1))
    return tuple(out)
