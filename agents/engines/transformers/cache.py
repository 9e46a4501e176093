"""The key-value cache of the embedded engine, and attention over it.

One line a row, in blocks of columns: a block is one piece of memory over all rows, so that growing moves nothing and a
step reads, of every block, only the rows that reach into it. New tokens of a step are written first; then rows with
one new token attend together and rows with several (a prompt, an observation) one by one. Blocks that all rows have
in common, the system prompt at least, are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention import Scoring, mix

__all__ = ["CacheLayout", "KeyValueCache", "NewTokens"]

_BLOCK = 256
"""Columns of a block."""
_SPARSE = 3
"""A block's rows are gathered, not sliced, when fewer than one in this many is wanted: a gather reads and writes."""


@dataclass(frozen=True, slots=True)
class NewTokens:
    """What one row brings to a step."""

    row: int
    past: int
    """Columns that the row holds already."""
    n: int


class KeyValueCache:
    """Keys and values of every layer, by layer and block: (rows, KV, _BLOCK, width). What a layer needs, number and
    width of its heads, is seen when it first brings something."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.keys: dict[int, list[Tensor]] = {}
        self.values: dict[int, list[Tensor]] = {}

    def reserve(self, layer: int, columns: int, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """A layer's keys and values, with room for rows of this length."""
        held = self.keys.setdefault(layer, []), self.values.setdefault(layer, [])
        for blocks, like in zip(held, (key, value), strict=True):
            while len(blocks) * _BLOCK < columns:
                shape = (self.rows, like.shape[0], _BLOCK, like.shape[-1])
                blocks.append(torch.zeros(shape, dtype=like.dtype, device=like.device))
        return held

    def copy(self, source: int, target: int, n: int) -> None:
        """The first `n` columns of one row into another."""
        for blocks in (*self.keys.values(), *self.values.values()):
            for start, block in zip(range(0, n, _BLOCK), blocks, strict=False):
                block[target, :, : n - start] = block[source, :, : n - start]


@dataclass(frozen=True, slots=True)
class _Write:
    """Which of the new tokens go into one block."""

    block: int
    tokens: Tensor | None
    """None: all of them."""
    at: Tensor
    """Of the block seen as (rows * KV * _BLOCK, width)."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Which rows reach into one block, and where its columns stand among the scores."""

    block: int
    rows: slice | Tensor
    columns: slice


class CacheLayout:
    """New tokens of several rows, attending to their rows' cache: see `agents.attention.Layout`."""

    def __init__(self, cache: KeyValueCache, new: Sequence[NewTokens], shared: int, device: torch.device) -> None:
        """
        Args:
            shared: Columns that are the same in all rows of `new`.
        """
        self.cache = cache
        self.device = device
        self.columns = max(t.past + t.n for t in new)
        counts = torch.tensor([t.n for t in new])
        ends = counts.cumsum(0)
        starts = (ends - counts).tolist()
        self._rows_N = torch.tensor([t.row for t in new]).repeat_interleave(counts)
        self._columns_N = torch.cat([torch.arange(t.past, t.past + t.n) for t in new])
        self.positions = self._columns_N.to(device)
        self.last = (ends - 1).to(device)
        """(R,) index of each row's last new token."""
        self._writes: dict[int, list[_Write]] = {}
        self._masks: dict[tuple[int, int, int | None, torch.dtype], Tensor] = {}
        self._outside: dict[int, Tensor] = {}
        self.several = [(start, t) for start, t in zip(starts, new, strict=True) if t.n > 1]

        single = [(start, t) for start, t in zip(starts, new, strict=True) if t.n == 1]
        self.flat_S = torch.tensor([start for start, _ in single], device=device, dtype=torch.long)
        self.rows_S = torch.tensor([t.row for _, t in single], device=device, dtype=torch.long)
        if not single:
            return
        lengths = {t.row: t.past + 1 for _, t in single}
        self.span = max(lengths) + 1  # all lines up to the last one are computed, idle ones for nothing
        self.first = single[0][1].row
        self.common = min(shared, min(lengths.values()) - 1) // _BLOCK if len(single) > 1 else 0
        self.reads = _reads(lengths, self.common, device)
        begin, self.end = self.common * _BLOCK, (self.common + len(self.reads)) * _BLOCK
        self.length_R = torch.zeros(self.span, dtype=torch.long)
        self.length_R[list(lengths)] = torch.tensor(list(lengths.values()))
        blocked = torch.arange(begin, self.end) >= self.length_R[:, None]
        self.blocked = blocked.to(device)[:, None, None]  # (rows, 1, 1, own)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        keys, values = self.cache.reserve(layer, self.columns, key, value)
        heads, kv = query.shape[0], key.shape[0]
        if kv not in self._writes:
            self._writes[kv] = _writes(kv, self._rows_N, self._columns_N, self.device)
        for write in self._writes[kv]:
            for blocks, new in ((keys, key), (values, value)):
                own = new if write.tokens is None else new[:, write.tokens]
                width = new.shape[-1]
                blocks[write.block].view(-1, width).index_copy_(0, write.at, own.reshape(-1, width))
        query = query.reshape(kv, heads // kv, -1, query.shape[-1])  # heads that share keys stand together
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        if len(self.flat_S):
            mixed = self._single(keys, values, query[:, :, self.flat_S].permute(2, 0, 1, 3), how)
            out[:, :, self.flat_S] = mixed.permute(1, 2, 0, 3)
        for start, t in self.several:
            end, length = start + t.n, t.past + t.n
            key, value = (_line(blocks, t.row, length) for blocks in (keys, values))
            mask = self._mask(t, how.window, query.dtype)
            out[:, :, start:end] = mix(query[:, :, start:end], key, value, mask, how)
        return out.reshape(heads, -1, out.shape[-1])

    def _single(self, keys: list[Tensor], values: list[Tensor], query_S: Tensor, how: Scoring) -> Tensor:
        """One query a row, (S, KV, G, D) -> (S, KV, G, E)."""
        _, kv, group, width = query_S.shape
        query = query_S.new_zeros(self.span, kv, group, width)
        query[self.rows_S] = query_S * how.scale
        scores = query.new_empty(self.span, kv, group, self.blocked.shape[-1])
        for read in self.reads:
            own = query[read.rows].transpose(2, 3)
            # Keys on the left: with so few queries this is 3 times as fast as the product the other way round.
            scores[read.rows, ..., read.columns] = torch.matmul(keys[read.block][read.rows], own).transpose(2, 3)
        if how.cap is not None:
            scores = how.cap * torch.tanh(scores / how.cap)
        scores.masked_fill_(self.blocked, float("-inf"))
        together = query.transpose(0, 1).reshape(kv, self.span * group, width)
        common = [torch.matmul(together, block[self.first].transpose(1, 2)) for block in keys[: self.common]]
        if how.cap is not None:
            common = [how.cap * torch.tanh(c / how.cap) for c in common]
        shape = (kv, self.span, group, _BLOCK)
        scores = torch.cat([*(c.view(shape).transpose(0, 1) for c in common), scores], -1) if common else scores
        if how.window is not None:
            scores.masked_fill_(self._before(how.window), float("-inf"))
        length = scores.shape[-1]
        if how.sinks is not None:
            sinks = how.sinks.to(scores.dtype).view(1, kv, group, 1).expand(self.span, kv, group, 1)
            scores = torch.cat([scores, sinks], -1)
        weights = torch.softmax(scores, -1, dtype=torch.float32)[..., :length].to(query.dtype)
        wide = values[0].shape[-1]
        mixed = torch.zeros(self.span, kv, group, wide, device=query.device)
        for i, block in enumerate(values[: self.common]):
            head = weights[..., i * _BLOCK : (i + 1) * _BLOCK].transpose(0, 1).reshape(kv, self.span * group, _BLOCK)
            mixed += torch.matmul(head, block[self.first]).view(kv, self.span, group, wide).transpose(0, 1)
        own_weights = weights[..., self.common * _BLOCK :]
        for read in self.reads:
            part = torch.matmul(own_weights[read.rows, ..., read.columns], values[read.block][read.rows])
            mixed[read.rows] += part
        return mixed[self.rows_S].to(query.dtype)

    def _mask(self, t: NewTokens, window: int | None, dtype: torch.dtype) -> Tensor:
        """(n, past + n) additive: each new token sees the past and itself, as far back as the window reaches."""
        key = (t.past, t.n, window, dtype)
        if key not in self._masks:
            columns = torch.arange(t.past + t.n, device=self.device)[None]
            own = torch.arange(t.past, t.past + t.n, device=self.device)[:, None]
            blocked = columns > own
            if window is not None:
                blocked |= columns <= own - window
            mask = torch.zeros(blocked.shape, dtype=dtype, device=self.device)
            self._masks[key] = mask.masked_fill_(blocked, float("-inf"))
        return self._masks[key]

    def _before(self, window: int) -> Tensor:
        """(rows, 1, 1, columns): what lies before each row's window."""
        if window not in self._outside:
            before = torch.arange(self.end) < (self.length_R - window)[:, None]
            self._outside[window] = before.to(self.device)[:, None, None]
        return self._outside[window]


def _line(blocks: list[Tensor], row: int, n: int) -> Tensor:
    """(KV, n, width) of one row."""
    needed = -(-n // _BLOCK)
    return torch.cat([block[row] for block in blocks[:needed]], 1)[:, :n]


def _writes(kv: int, rows_N: Tensor, columns_N: Tensor, device: torch.device) -> list[_Write]:
    block_N = columns_N // _BLOCK
    heads = torch.arange(kv)[:, None]
    out = []
    touched = sorted(set(block_N.tolist()))
    for block in touched:
        tokens = (block_N == block).nonzero()[:, 0]
        at = (rows_N[tokens] * kv + heads) * _BLOCK + columns_N[tokens] % _BLOCK
        out.append(_Write(block, tokens.to(device) if len(touched) > 1 else None, at.reshape(-1).to(device)))
    return out


def _reads(lengths: dict[int, int], common: int, device: torch.device) -> list[_Read]:
    """Of every block after the common ones, the rows that reach into it."""
    out: list[_Read] = []
    for block in range(common, -(-max(lengths.values()) // _BLOCK)):
        reaching = sorted(row for row, length in lengths.items() if length > block * _BLOCK)
        span = reaching[-1] + 1
        rows = slice(0, span) if _SPARSE * len(reaching) >= span else torch.tensor(reaching, device=device)
        start = (block - common) * _BLOCK
        out.append(_Read(block, rows, slice(start, start + _BLOCK)))
    return out
