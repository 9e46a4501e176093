"""The embedded engine: any Hugging Face decoder, all live episodes in one batch, one key-value cache across turns.

Every forward takes a flat batch of new tokens: one for each row that is decoding, and whole prompts for rows that have
just come in. A row keeps its keys and values from turn to turn, so an episode's tokens are computed once. A new row
copies the longest prefix that any row already holds: the system prompt is computed once for all episodes, a task's
prompt once for its group. Rows that finish make place for waiting ones at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from ...trajectories.errors import ConfigError, InfrastructureError
from ..attention import forward_hidden, mix, use_layouts
from .engine import Generated, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TransformersEngine"]

_BLOCK = 128
"""Columns by which the cache grows."""
_VOCABULARY_BLOCK = 256
_SHARED = 16
"""A prompt waits one forward when another one that is coming in shares at least this many more tokens with it."""


@dataclass(slots=True)
class _Row:
    """One line of the cache."""

    index: int
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values the cache holds."""
    session: str | None = None


@dataclass(slots=True)
class _Request:
    session: str
    prompt: list[int]
    sampling: Sampling
    rng: np.random.Generator
    future: asyncio.Future[Generated]
    row: _Row | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def pending(self) -> list[int]:
        """Tokens that the row has still to see."""
        assert self.row is not None
        known = len(self.row.ids)
        return self.prompt[known:] if known < len(self.prompt) else self.ids[known - len(self.prompt) :]


@dataclass(slots=True)
class EngineStats:
    """What has been computed, for benchmarks and logs."""

    prefilled: int = 0
    """Prompt and observation tokens that went through the model."""
    sampled: int = 0
    forwards: int = 0


class TransformersEngine:
    """Generates with a model in this process."""

    def __init__(self, model: PreTrainedModel, *, max_rows: int = 64, max_context: int = 4096) -> None:
        """
        Args:
            model: In the dtype to generate in; taken over (its attention is switched), so not to be used elsewhere.
            max_rows: Episodes that are generated at once.
            max_context: Tokens of an episode; a longer prompt is refused.
        """
        use_layouts(model)
        self.model = model.eval()
        self.head = model.get_output_embeddings()
        self.max_rows = max_rows
        self.max_context = max_context
        self.version = 0
        self.stats = EngineStats()
        self._rows = [_Row(i) for i in range(max_rows)]
        self._by_session: OrderedDict[str, _Row] = OrderedDict()
        self._waiting: list[_Request] = []
        self._active: list[_Request] = []
        self._driver: asyncio.Task[None] | None = None
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._shape = (heads, width)
        self._layers = int(config.num_hidden_layers)
        self._cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._capacity = 0

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes over new weights (names as in `state_dict`, any dtype) and forgets the cache."""
        if self._waiting or self._active:
            raise ConfigError("weights cannot change while episodes are being generated")
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in weights.items():
                if name not in own:
                    raise ConfigError(f"the engine's model has no weight {name!r}")
                own[name].copy_(tensor)
        self.reset()
        self.version += 1

    def reset(self) -> None:
        """Forgets every cached token."""
        self._rows = [_Row(i) for i in range(self.max_rows)]
        self._by_session.clear()

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        if not prompt:
            raise ConfigError("an empty prompt: an episode starts with at least one message")
        if len(prompt) + sampling.max_tokens > self.max_context:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens and {sampling.max_tokens} to sample exceed {self.max_context}"
            )
        loop = asyncio.get_running_loop()
        rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, len(prompt)]))
        request = _Request(session, list(prompt), sampling, rng, loop.create_future())
        self._waiting.append(request)
        self._start()
        return await request.future

    def release(self, session: str) -> None:
        row = self._by_session.pop(session, None)
        if row is not None:
            row.session = None
        if self._waiting:
            self._start()

    # ---- scheduling ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())

    async def _drive(self) -> None:
        """Steps while there is work. Yielding twice lets every episode that got its turn ask for the next one first,
        which also makes the batches, and so the numbers, the same in every run."""
        try:
            while True:
                for _ in range(3):
                    await asyncio.sleep(0)
                self._admit()
                if not self._active:
                    return  # who waits for a row is let in when one is released
                self._step()
        except BaseException as error:
            failure = error if isinstance(error, Exception) else InfrastructureError("generation was interrupted")
            for request in (*self._active, *self._waiting):
                if not request.future.done():
                    request.future.set_exception(failure)
            self._active, self._waiting = [], []
            self.reset()
            if not isinstance(error, Exception):
                raise

    @torch.inference_mode()
    def _admit(self) -> None:
        """Gives rows to waiting requests: their own, or a free one with the longest common prefix copied in."""
        still: list[_Request] = []
        entering: list[_Request] = []
        for request in self._waiting:
            if request.future.done():
                continue  # cancelled while waiting
            row = self._by_session.get(request.session)
            if row is not None:
                kept = _common(row.ids, request.prompt)
                del row.ids[min(kept, len(request.prompt) - 1) :]
                request.row = row
                self._active.append(request)
                continue
            source, shared = self._best_prefix(request.prompt)
            # A sibling that enters in this very step will hold more of this prompt: wait for it.
            if any(_common(other.prompt, request.prompt) >= shared + _SHARED for other in entering):
                still.append(request)
                continue
            row = self._free_row(keep=source)
            if row is None:
                still.append(request)
                continue
            shared = min(shared, len(request.prompt) - 1)  # the last token has to be computed: its logits are wanted
            if source is not None and source is not row:
                self._copy(source, row, shared)
            row.ids = request.prompt[:shared]
            row.session = request.session
            self._by_session[request.session] = row
            request.row = row
            entering.append(request)
            self._active.append(request)
        self._waiting = still

    def _best_prefix(self, prompt: list[int]) -> tuple[_Row | None, int]:
        best, length = None, 0
        for row in self._rows:
            # Rows mid-turn hold their prompt already: what they have computed can be shared.
            if len(row.ids) > length and (common := _common(row.ids, prompt)) > length:
                best, length = row, common
        return best, length

    def _free_row(self, keep: _Row | None) -> _Row | None:
        free = [row for row in self._rows if row.session is None]
        if not free:
            return None
        # Empty rows first; the row that is the source only when it is the last one free.
        return min(free, key=lambda row: (row is keep, bool(row.ids), row.index))

    def _copy(self, source: _Row, target: _Row, n: int) -> None:
        for keys, values in self._cache:
            keys[target.index, :n] = keys[source.index, :n]
            values[target.index, :n] = values[source.index, :n]

    # ---- one forward -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _step(self) -> None:
        requests = self._active
        new = [request.pending for request in requests]
        layout = _CacheLayout(self, [_row(r) for r in requests], [len(tokens) for tokens in new])
        device = self.model.device
        ids = torch.tensor([t for tokens in new for t in tokens], device=device)
        hidden = forward_hidden(self.model, ids, layout.positions.to(device), layout)
        logits_RV = self.head(hidden[layout.last.to(device)]).float()
        logprobs_RV = torch.log_softmax(logits_RV, -1)
        chosen = _sample(logits_RV, [r.sampling.temperature for r in requests], [r.rng.random() for r in requests])
        picked = logprobs_RV.gather(1, chosen[:, None])[:, 0].tolist()
        self.stats.forwards += 1
        self.stats.sampled += len(requests)
        active: list[_Request] = []
        for request, tokens, token, logprob in zip(requests, new, chosen.tolist(), picked, strict=True):
            if not request.ids:
                self.stats.prefilled += len(tokens)
            _row(request).ids.extend(tokens)
            request.ids.append(token)
            request.logprobs.append(logprob)
            stopped = token in request.sampling.stop_ids
            if stopped or len(request.ids) >= request.sampling.max_tokens:
                if not request.future.done():
                    request.future.set_result(Generated(tuple(request.ids), tuple(request.logprobs), stopped))
            elif not request.future.done():
                active.append(request)
        self._active = active

    def _reserve(self, length: int) -> None:
        """Makes the cache at least `length` columns wide."""
        if length <= self._capacity:
            return
        wide = -(-length // _BLOCK) * _BLOCK
        heads, width = self._shape
        old = self._cache
        shape = (self.max_rows, wide, heads, width)
        settings: Any = {"dtype": self.model.dtype, "device": self.model.device}
        self._cache = [(torch.zeros(shape, **settings), torch.zeros(shape, **settings)) for _ in range(self._layers)]
        for (keys, values), (old_keys, old_values) in zip(self._cache, old, strict=False):
            keys[:, : self._capacity] = old_keys
            values[:, : self._capacity] = old_values
        self._capacity = wide


class _CacheLayout:
    """New tokens of several rows, attending to their rows' cache."""

    def __init__(self, engine: TransformersEngine, rows: list[_Row], counts: list[int]) -> None:
        starts = [len(row.ids) for row in rows]
        engine._reserve(max(s + n for s, n in zip(starts, counts, strict=True)))
        self.cache = engine._cache
        offsets = np.concatenate([[0], np.cumsum(counts)])
        self.positions = torch.tensor([s + i for s, n in zip(starts, counts, strict=True) for i in range(n)])
        self.last = torch.from_numpy(offsets[1:] - 1)
        device = engine.model.device
        self.rows_N = torch.tensor(
            [r.index for r, n in zip(rows, counts, strict=True) for _ in range(n)], device=device
        )
        self.columns_N = self.positions.to(device)
        # Rows with one new token attend together; the others one by one.
        single = [i for i, n in enumerate(counts) if n == 1]
        self.flat_S = torch.from_numpy(offsets[:-1][single]).to(device)
        self.rows_S = torch.tensor([rows[i].index for i in single], device=device)
        lengths = torch.tensor([starts[i] + 1 for i in single], device=device)
        self.width = int(lengths.max()) if single else 0
        dtype = engine.model.dtype
        blocked = torch.arange(self.width, device=device)[None] >= lengths[:, None]
        top = int(self.rows_S.max()) + 1 if single else 0
        self.dense = top if 2 * len(single) > top else 0  # mostly live rows: slice the cache and do not gather from it
        if self.dense:  # idle rows see their first column: a softmax over nothing would be NaN
            every = torch.arange(self.width, device=device)[None].expand(self.dense, -1) >= 1
            blocked = every.index_copy(0, self.rows_S, blocked)
        self.mask_S = torch.zeros(blocked.shape, dtype=dtype, device=device).masked_fill_(blocked, float("-inf"))
        self.many = [
            (
                int(offsets[i]),
                int(offsets[i + 1]),
                rows[i].index,
                starts[i],
                _causal(starts[i], counts[i], dtype, device),
            )
            for i in range(len(rows))
            if counts[i] > 1
        ]

    def mask(self, group: int) -> torch.Tensor:
        """(S, 1, group, width) additive."""
        return self.mask_S[:, None, None].expand(-1, 1, group, -1)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self.cache[layer]
        keys[self.rows_N, self.columns_N] = key.transpose(0, 1)
        values[self.rows_N, self.columns_N] = value.transpose(0, 1)
        out = torch.empty_like(query)
        heads, _, width = query.shape
        kv = key.shape[0]
        group = heads // kv
        if len(self.flat_S):
            # Heads that share keys stand as queries of one head: the cache is read once and never repeated.
            q = query[:, self.flat_S].transpose(0, 1).reshape(-1, kv, group, width)
            if self.dense:
                full = q.new_zeros(self.dense, kv, group, width)
                full[self.rows_S] = q
                k, v = keys[: self.dense, : self.width], values[: self.dense, : self.width]
                mixed = sdpa(full, k.transpose(1, 2), v.transpose(1, 2), attn_mask=self.mask(group), scale=scale)
                mixed = mixed[self.rows_S]
            else:
                k, v = keys[self.rows_S, : self.width], values[self.rows_S, : self.width]
                mixed = sdpa(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=self.mask(group), scale=scale)
            out[:, self.flat_S] = mixed.reshape(-1, heads, width).transpose(0, 1)
        grouped = query.reshape(kv, group, -1, width)
        for start, end, row, past, mask in self.many:
            k, v = keys[row, : past + end - start], values[row, : past + end - start]
            mixed = mix(grouped[:, :, start:end], k.transpose(0, 1), v.transpose(0, 1), mask, scale)
            out[:, start:end] = mixed.flatten(0, 1)
        return out


def _causal(past: int, n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(n, past + n) additive mask: each new token sees the past and itself."""
    blocked = torch.arange(past + n, device=device)[None] > torch.arange(past, past + n, device=device)[:, None]
    return torch.zeros(blocked.shape, dtype=dtype, device=device).masked_fill_(blocked, float("-inf"))


def _row(request: _Request) -> _Row:
    assert request.row is not None
    return request.row


def _common(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _sample(logits_RV: torch.Tensor, temperatures: list[float], uniforms: list[float]) -> torch.Tensor:
    """One token a row by inverting the cumulative distribution: a row's draw depends on its own number alone."""
    t = torch.tensor(temperatures, device=logits_RV.device)
    greedy = t <= 0
    if bool(greedy.all()):
        return logits_RV.argmax(-1)
    probs = torch.softmax(logits_RV / t.where(~greedy, torch.ones_like(t))[:, None], -1)
    u = torch.tensor(uniforms, dtype=torch.float64, device=logits_RV.device)
    # Two levels: first the block, then the token in it; one pass over the vocabulary in place of a cumulative one.
    padding = -probs.shape[1] % _VOCABULARY_BLOCK
    blocks_RB = torch.nn.functional.pad(probs, (0, padding)).view(len(probs), -1, _VOCABULARY_BLOCK)
    block, rest = _invert(blocks_RB.sum(-1, dtype=torch.float64), u)
    inside = blocks_RB[torch.arange(len(probs), device=probs.device), block].double()
    token, _ = _invert(inside, rest)
    drawn = block * _VOCABULARY_BLOCK + token
    return torch.where(greedy, logits_RV.argmax(-1), drawn)


def _invert(mass_RK: torch.Tensor, u_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index k with cumulative mass around u * total, and where in k's own mass it falls, from 0 to 1."""
    cumulative = mass_RK.cumsum(-1)
    goal = u_R * cumulative[:, -1]
    k = torch.searchsorted(cumulative, goal[:, None], right=True)
    last = (mass_RK > 0).long().mul(torch.arange(1, mass_RK.shape[1] + 1, device=mass_RK.device)).amax(-1) - 1
    k = torch.minimum(k[:, 0], last)[:, None]  # rounding may push the goal past the last possible one
    own = mass_RK.gather(1, k)[:, 0]
    before = cumulative.gather(1, k)[:, 0] - own
    return k[:, 0], ((goal - before) / own).clamp(0, 1 - 1e-12)
