"""The key-value cache of the embedded engine, and attention over it.

One line a row, in blocks of columns: a block is one piece of memory over all rows, so that growing moves nothing and a
step reads, of every block, only the rows that reach into it. New tokens of a step are written first; then rows with
one new token attend together and rows with several (a prompt, an observation) one by one. Blocks that all rows have
in common, the system prompt at least, are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...attention import mix

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
    """Keys and values of every layer, by layer and block: (rows, KV, _BLOCK, width)."""

    def __init__(self, config: Any, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        self.width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self.rows = rows
        self.dtype, self.device = dtype, device
        layers = int(config.num_hidden_layers)
        self.keys: list[list[Tensor]] = [[] for _ in range(layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(layers)]

    def reserve(self, columns: int) -> None:
        """Makes room for rows of this length."""
        shape = (self.rows, self.heads, _BLOCK, self.width)
        for blocks in (*self.keys, *self.values):
            while len(blocks) * _BLOCK < columns:
                blocks.append(torch.zeros(shape, dtype=self.dtype, device=self.device))

    def copy(self, source: int, target: int, n: int) -> None:
        """The first `n` columns of one row into another."""
        for blocks in (*self.keys, *self.values):
            for start, block in zip(range(0, n, _BLOCK), blocks, strict=False):
                block[target, :, : n - start] = block[source, :, : n - start]

    def line(self, blocks: list[Tensor], row: int, n: int) -> Tensor:
        """(KV, n, width) of one row."""
        needed = -(-n // _BLOCK)
        return torch.cat([block[row] for block in blocks[:needed]], 1)[:, :n]


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

    def __init__(self, cache: KeyValueCache, new: Sequence[NewTokens], shared: int) -> None:
        """
        Args:
            shared: Columns that are the same in all rows of `new`.
        """
        cache.reserve(max(t.past + t.n for t in new))
        self.cache = cache
        device = cache.device
        counts = torch.tensor([t.n for t in new])
        ends = counts.cumsum(0)
        starts = (ends - counts).tolist()
        rows_N = torch.tensor([t.row for t in new]).repeat_interleave(counts)
        columns_N = torch.cat([torch.arange(t.past, t.past + t.n) for t in new])
        self.positions = columns_N.to(device)
        self.last = (ends - 1).to(device)
        """(R,) index of each row's last new token."""
        self.writes = _writes(cache, rows_N, columns_N)
        self.several = [
            (start, t, _causal(t.past, t.n, cache.dtype, device))
            for start, t in zip(starts, new, strict=True)
            if t.n > 1
        ]

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
        begin, end = self.common * _BLOCK, (self.common + len(self.reads)) * _BLOCK
        length_R = torch.zeros(self.span, dtype=torch.long)
        length_R[list(lengths)] = torch.tensor(list(lengths.values()))
        self.blocked = (torch.arange(begin, end) >= length_R[:, None]).to(device)[:, None, None]  # (rows, 1, 1, own)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        heads, _, width = query.shape
        kv = key.shape[0]
        for write in self.writes:
            for blocks, new in ((keys, key), (values, value)):
                own = new if write.tokens is None else new[:, write.tokens]
                blocks[write.block].view(-1, width).index_copy_(0, write.at, own.reshape(-1, width))
        query = query.reshape(kv, heads // kv, -1, width)  # heads that share keys stand together
        out = torch.empty_like(query)
        if len(self.flat_S):
            mixed = self._single(keys, values, query[:, :, self.flat_S].permute(2, 0, 1, 3), scale)
            out[:, :, self.flat_S] = mixed.permute(1, 2, 0, 3)
        for start, t, mask in self.several:
            end, length = start + t.n, t.past + t.n
            key, value = (self.cache.line(blocks, t.row, length) for blocks in (keys, values))
            out[:, :, start:end] = mix(query[:, :, start:end], key, value, mask, scale)
        return out.reshape(heads, -1, width)

    def _single(self, keys: list[Tensor], values: list[Tensor], query_S: Tensor, scale: float) -> Tensor:
        """One query a row, (S, KV, G, width) -> the same."""
        _, kv, group, width = query_S.shape
        query = query_S.new_zeros(self.span, kv, group, width)
        query[self.rows_S] = query_S * scale
        scores = query.new_empty(self.span, kv, group, self.blocked.shape[-1])
        for read in self.reads:
            own = query[read.rows].transpose(2, 3)
            # Keys on the left: with so few queries this is 3 times as fast as the product the other way round.
            scores[read.rows, ..., read.columns] = torch.matmul(keys[read.block][read.rows], own).transpose(2, 3)
        scores.masked_fill_(self.blocked, float("-inf"))
        together = query.transpose(0, 1).reshape(kv, self.span * group, width)
        common = [torch.matmul(together, block[self.first].transpose(1, 2)) for block in keys[: self.common]]
        shape = (kv, self.span, group, _BLOCK)
        parts = [*(c.view(shape).transpose(0, 1) for c in common), scores]
        weights = torch.softmax(torch.cat(parts, -1) if common else scores, -1, dtype=torch.float32).to(query.dtype)
        mixed = torch.zeros(self.span, kv, group, width, device=query.device)
        for i, block in enumerate(values[: self.common]):
            head = weights[..., i * _BLOCK : (i + 1) * _BLOCK].transpose(0, 1).reshape(kv, self.span * group, _BLOCK)
            mixed += torch.matmul(head, block[self.first]).view(kv, self.span, group, width).transpose(0, 1)
        own_weights = weights[..., self.common * _BLOCK :]
        for read in self.reads:
            part = torch.matmul(own_weights[read.rows, ..., read.columns], values[read.block][read.rows])
            mixed[read.rows] += part
        return mixed[self.rows_S].to(query.dtype)


def _writes(cache: KeyValueCache, rows_N: Tensor, columns_N: Tensor) -> list[_Write]:
    block_N = columns_N // _BLOCK
    heads = torch.arange(cache.heads)[:, None]
    out = []
    touched = sorted(set(block_N.tolist()))
    for block in touched:
        tokens = (block_N == block).nonzero()[:, 0]
        at = (rows_N[tokens] * cache.heads + heads) * _BLOCK + columns_N[tokens] % _BLOCK
        out.append(
            _Write(block, tokens.to(cache.device) if len(touched) > 1 else None, at.reshape(-1).to(cache.device))
        )
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


def _causal(past: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, past + n) additive mask: each new token sees the past and itself."""
    blocked = torch.arange(past + n, device=device)[None] > torch.arange(past, past + n, device=device)[:, None]
    return torch.zeros(blocked.shape, dtype=dtype, device=device).masked_fill_(blocked, float("-inf"))
