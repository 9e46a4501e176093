"""The key-value cache of the embedded engine, and attention over it.

One line a row, grown in blocks. New tokens of a step are written first; then rows with one new token attend together
and rows with several (a prompt, an observation) one by one. What all rows have in common, the system prompt at
least, is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention import mix

__all__ = ["CacheLayout", "KeyValueCache", "NewTokens"]

_BLOCK = 128
"""Columns by which the cache grows."""


@dataclass(frozen=True, slots=True)
class NewTokens:
    """What one row brings to a step."""

    row: int
    past: int
    """Columns that the row holds already."""
    n: int


class KeyValueCache:
    """Keys and values (rows, KV, columns, width) of every layer."""

    def __init__(self, config: Any, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        self.width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self.rows = rows
        self.columns = 0
        self.dtype, self.device = dtype, device
        self._layers = int(config.num_hidden_layers)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, columns: int) -> None:
        """Makes room for rows of this length."""
        if columns <= self.columns:
            return
        wide = -(-columns // _BLOCK) * _BLOCK

        def grown(old: list[Tensor]) -> list[Tensor]:
            shape = (self.rows, self.heads, wide, self.width)
            new = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(self._layers)]
            for fresh, had in zip(new, old, strict=False):
                fresh[:, :, : self.columns] = had
            return new

        self.keys, self.values = grown(self.keys), grown(self.values)
        self.columns = wide

    def copy(self, source: int, target: int, n: int) -> None:
        """The first `n` columns of one row into another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :n] = tensor[source, :, :n]


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
        where = [(t.row, t.past + i) for t in new for i in range(t.n)]
        self.positions = torch.tensor([column for _, column in where], device=device)
        ends = torch.tensor([t.n for t in new], device=device).cumsum(0)
        self.last = ends - 1
        """(R,) index of each row's last new token."""
        starts = (ends - ends.new_tensor([t.n for t in new])).tolist()
        rows_N = torch.tensor([row for row, _ in where], device=device)
        heads = torch.arange(cache.heads, device=device)
        flat = (rows_N[None] * cache.heads + heads[:, None]) * cache.columns + self.positions[None]
        self.write_at = flat.reshape(-1)  # of the cache seen as (rows * KV * columns, width)

        single = [i for i, t in enumerate(new) if t.n == 1]
        self.flat_S = torch.tensor([starts[i] for i in single], device=device, dtype=torch.long)
        rows_S = [new[i].row for i in single]
        self.first = rows_S[0] if single else 0
        lengths = torch.tensor([new[i].past + 1 for i in single], device=device, dtype=torch.long)
        self.width = int(lengths.max()) if single else 0
        self.shared = min(shared, int(lengths.min()) - 1) if len(single) > 1 else 0
        own = torch.arange(self.shared, self.width, device=device)
        blocked = own[None] >= lengths[:, None]
        # Mostly live rows: slice the cache and compute a few for nothing, rather than gather a copy of it.
        self.dense = max(rows_S) + 1 if single and 2 * len(single) > max(rows_S) + 1 else 0
        self.rows_S = torch.tensor(rows_S, device=device, dtype=torch.long)
        if self.dense:  # idle rows see one column: a softmax over nothing would be NaN
            idle = (own > self.shared)[None].expand(self.dense, -1)
            blocked = idle.index_copy(0, self.rows_S, blocked)
        mask = torch.zeros(blocked.shape, dtype=cache.dtype, device=device).masked_fill_(blocked, float("-inf"))
        self.mask_S = mask[:, None, None]  # (S, 1, 1, own columns)
        self.several = [
            (start, t, _causal(t.past, t.n, cache.dtype, device))
            for start, t in zip(starts, new, strict=True)
            if t.n > 1
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        heads, _, width = query.shape
        kv = key.shape[0]
        keys.view(-1, width).index_copy_(0, self.write_at, key.reshape(-1, width))
        values.view(-1, width).index_copy_(0, self.write_at, value.reshape(-1, width))
        query = query.reshape(kv, heads // kv, -1, width)  # heads that share keys stand together
        out = torch.empty_like(query)
        if len(self.flat_S):
            mixed = self._single(keys, values, query[:, :, self.flat_S].permute(2, 0, 1, 3), scale)
            out[:, :, self.flat_S] = mixed.permute(1, 2, 0, 3)
        for start, t, mask in self.several:
            end, length = start + t.n, t.past + t.n
            out[:, :, start:end] = mix(
                query[:, :, start:end], keys[t.row, :, :length], values[t.row, :, :length], mask, scale
            )
        return out.reshape(heads, -1, width)

    def _single(self, keys: Tensor, values: Tensor, query: Tensor, scale: float) -> Tensor:
        """One query a row, (S, KV, G, width) -> the same: columns before `shared` from one row, the rest from each."""
        if self.dense:
            every = query.new_zeros(self.dense, *query.shape[1:])
            every[self.rows_S] = query
            query, own = every, slice(0, self.dense)
            keys_S, values_S = keys[own, :, self.shared : self.width], values[own, :, self.shared : self.width]
        else:
            keys_S, values_S = keys[self.rows_S], values[self.rows_S]
            keys_S, values_S = keys_S[:, :, self.shared : self.width], values_S[:, :, self.shared : self.width]
        n, kv, group, width = query.shape
        # Keys on the left: with so few queries this is 3 times as fast as the product the other way round.
        scores = torch.matmul(keys_S, query.transpose(2, 3)).transpose(2, 3) * scale + self.mask_S
        if not self.shared:
            mixed = torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype), values_S)
        else:
            common = slice(0, self.shared)
            together = query.transpose(0, 1).reshape(kv, n * group, width)
            first = torch.matmul(together, keys[self.first, :, common].transpose(1, 2)) * scale
            first = first.view(kv, n, group, self.shared).transpose(0, 1)
            weights = torch.softmax(torch.cat([first, scores], -1), -1, dtype=torch.float32).to(values.dtype)
            head = weights[..., : self.shared].transpose(0, 1).reshape(kv, n * group, self.shared)
            mixed = torch.matmul(head, values[self.first, :, common]).view(kv, n, group, width).transpose(0, 1)
            mixed = mixed + torch.matmul(weights[..., self.shared :], values_S)
        return mixed[self.rows_S] if self.dense else mixed


def _causal(past: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, past + n) additive mask: each new token sees the past and itself."""
    blocked = torch.arange(past + n, device=device)[None] > torch.arange(past, past + n, device=device)[:, None]
    return torch.zeros(blocked.shape, dtype=dtype, device=device).masked_fill_(blocked, float("-inf"))
