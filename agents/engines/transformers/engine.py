"""The embedded engine: any Hugging Face decoder, all live episodes in one batch, one key-value cache across turns.

Every forward takes a flat batch of new tokens: one for each row that is decoding, and whole prompts for rows that have
just come in. A row keeps its keys and values from turn to turn, so an episode's tokens are computed once. A new row
copies the longest prefix that any row already holds: the system prompt is computed once for all episodes, a task's
prompt once for its group. Rows that finish make place for waiting ones at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....trajectories.errors import ConfigError, InfrastructureError
from ...attention import forward_hidden
from ...engine import Generated, Sampling, context_within
from ...head import Head
from ...models import check_weights, context_limit, end_ids, unknown_ids
from ...proof import prove
from .cache import CacheLayout, KeyValueCache, NewTokens
from .packing import pack
from .sampling import sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EngineStats", "TransformersEngine"]

_SPREAD = 1.2
"""Rows are moved together when they stretch over this many times their number."""
_SHARED = 16
"""A prompt waits one forward when another one that is coming in shares at least this many more tokens with it."""
_NOT_FINITE = (
    "the model gives log-probabilities that are not finite: its weights or its precision are at fault. "
    "Load it in fp32, or take another model or an earlier checkpoint"
)


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

    def __init__(
        self, model: PreTrainedModel, *, tokenizer: Any = None, parallel: int = 64, max_context: int | None = None
    ) -> None:
        """
        Args:
            model: In the dtype to generate in; taken over (its attention is switched), so not to be used elsewhere.
            tokenizer: Of the model: ids that are not in its vocabulary are never sampled. None: any row may be.
            parallel: Episodes that are generated at once.
            max_context: Tokens of an episode; a longer prompt is refused. None: 4096, or what the model takes if less.

        Raises `ConfigError` for a model that would be computed wrongly, whose weights are not finite, or that the
        tokenizer does not belong to.
        """
        unknown = unknown_ids(model, tokenizer) if tokenizer is not None else ()
        check_weights(model)
        self.model = model.eval()
        pack(model)
        prove(model, _computed, "engine")
        self.end_ids = end_ids(model)
        self._unknown = torch.tensor(unknown, dtype=torch.long, device=model.device)
        self.parallel = parallel
        self.max_context = context_within(max_context, context_limit(model.config))
        self.version = 0
        self.stats = EngineStats()
        self._rows = [_Row(i) for i in range(parallel)]
        self._by_session: OrderedDict[str, _Row] = OrderedDict()
        self._waiting: list[_Request] = []
        self._active: list[_Request] = []
        self._driver: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cache = KeyValueCache(parallel)
        self._shared: tuple[list[str | None], int] = ([], 0)
        """Sessions of the last step, and the length of the prefix that they have in common."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Takes over new weights (names as in `state_dict`, any dtype), each as it comes, and forgets the cache."""
        if self._waiting or self._active:
            raise ConfigError("weights cannot change while episodes are being generated")
        own = self.model.state_dict()
        self.reset()
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own:
                    raise ConfigError(f"the engine's model has no weight {name!r}")
                own[name].copy_(tensor)
        pack(self.model)
        self.version += 1

    def reset(self) -> None:
        """Forgets every cached token."""
        self._rows = [_Row(i) for i in range(self.parallel)]
        self._by_session.clear()
        self._shared = ([], 0)

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        if not prompt:
            raise ConfigError("an empty prompt: an episode starts with at least one message")
        if len(prompt) + sampling.max_tokens > self.max_context:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens and {sampling.max_tokens} to sample exceed {self.max_context}"
            )
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # another rollout: what an earlier one left in the cache must not change its numbers
            self._loop = loop
            self.reset()
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
        self._active = [request for request in self._active if not request.future.done()]  # its row may be another's
        still: list[_Request] = []
        entering: list[_Request] = []
        for request in self._waiting:
            if request.future.done():
                continue  # cancelled while waiting
            row = self._by_session.get(request.session)
            if row is not None:
                kept = min(_common(row.ids, request.prompt), len(request.prompt) - 1)
                if kept < len(row.ids):  # another course than before
                    del row.ids[kept:]
                    self._shared = ([], 0)
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
                self._cache.copy(source.index, row.index, shared)
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

    # ---- one forward -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _step(self) -> None:
        self._compact()
        requests = self._active
        new = [request.pending for request in requests]
        rows = [_row(request) for request in requests]
        arriving = [NewTokens(r.index, len(r.ids), len(tokens)) for r, tokens in zip(rows, new, strict=True)]
        layout = CacheLayout(self._cache, arriving, self._common_prefix(rows), self.model.device)
        ids = torch.tensor([t for tokens in new for t in tokens], device=self.model.device)
        hidden = forward_hidden(self.model, ids, layout.positions, layout)
        logits_RV = Head.of(self.model).logits(hidden[layout.last])
        logits_RV[:, self._unknown] = float("-inf")
        if not bool(logits_RV.amax(-1).isfinite().all()):  # of NaN, the maximum is NaN
            raise ConfigError(_NOT_FINITE)
        temperatures = [r.sampling.temperature for r in requests]
        chosen = sample(logits_RV, temperatures, [r.rng.random() for r in requests])
        drawn_from_R = torch.tensor([t if t > 0 else 1.0 for t in temperatures], device=logits_RV.device)
        logprobs_RV = torch.log_softmax(logits_RV / drawn_from_R[:, None], -1)
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

    def _compact(self) -> None:
        """Moves live rows into the places of finished ones that nothing waits for: a step computes every row up to the
        last live one."""
        live = sorted((row for row in self._rows if row.session is not None), key=lambda row: row.index)
        if self._waiting or live[-1].index < _SPREAD * len(live):
            return
        free = sorted((row for row in self._rows if row.session is None), key=lambda row: row.index)
        for hole, row in zip(free, reversed(live), strict=False):
            if hole.index > row.index:
                break
            self._cache.copy(row.index, hole.index, len(row.ids))
            hole.index, row.index = row.index, hole.index
            hole.ids = []

    def _common_prefix(self, rows: list[_Row]) -> int:
        """Tokens that all rows have in common. While the sessions are the same it can only grow."""
        sessions = [row.session for row in rows]
        if self._shared[0] != sessions:
            first = rows[0].ids
            self._shared = sessions, min(_common(first, row.ids) for row in rows)
        return self._shared[1]


@torch.inference_mode()
def _computed(model: Any, rows: list[list[int]], exact: bool) -> list[torch.Tensor]:
    """Log p of each row's tokens but the first, by the cache: rows come in one after the other and share prefixes, a
    step has prompts, observations and single tokens."""
    cache = KeyValueCache(len(rows))
    held = [0] * len(rows)
    found: list[list[torch.Tensor]] = [[] for _ in rows]
    head = Head.of(model)
    for step in range(len(rows) + 3):
        new: list[NewTokens] = []
        for i, row in enumerate(rows[: step + 1]):
            if i and step == i:  # as a row that enters: what it shares with the first one is copied
                held[i] = max(0, _common(rows[0][: held[0]], row) - 1)
                cache.copy(0, i, held[i])
            size = (len(row) // 2, 1, 7)[step - i] if step - i < 3 else 1
            n = min(size if step < len(rows) + 2 else len(row), len(row) - held[i])
            if n > 0:
                new.append(NewTokens(i, held[i], n))
        if not new:
            continue
        layout = CacheLayout(cache, new, 0, model.device)
        ids = [token for t in new for token in rows[t.row][t.past : t.past + t.n]]
        hidden = forward_hidden(model, torch.tensor(ids, device=model.device), layout.positions, layout)
        logps = torch.log_softmax(head.logits(hidden), -1)
        start = 0
        for t in new:
            targets = torch.tensor(rows[t.row][t.past + 1 : t.past + t.n + 1], dtype=torch.long, device=model.device)
            own = logps[start : start + len(targets)]
            found[t.row].append(own.gather(1, targets[:, None])[:, 0])
            held[t.row] += t.n
            start += t.n
    # Of a prefix that was copied, the first row has the log-probabilities.
    whole = [torch.cat(part) for part in found]
    return [torch.cat([whole[0][: len(row) - 1 - len(own)], own]) for row, own in zip(rows, whole, strict=True)]


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
