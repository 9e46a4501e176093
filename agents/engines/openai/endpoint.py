"""An endpoint as a chat model. Defines `Endpoint`, and the loader of `openai:URL#MODEL`."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ....tools.background import Background
from ....trajectories.errors import ConfigError, MissingExtra
from ....trajectories.messages import Message, ToolSpec
from ...chat_model import Answer, ChatSettings, EndpointError, Usage
from ...loading import ENGINES, AgentSettings, Loaded, ModelSpec
from ...models import Progress
from .address import Address
from .cache import AnswerCache
from .sending import ContextFull, Sender, Unsupported
from .wire import Quirks, ToolNames, read_answer, request_body, tokens_used

__all__ = ["Endpoint", "load"]

_LOG = logging.getLogger("sparring.endpoint")
_NEWER = "api.openai.com"
"""Its models want `max_completion_tokens` from the start."""


class Endpoint:
    """A model behind an OpenAI-compatible server.

    All requests run on one event loop in a thread of the endpoint's own, so that it can be asked from any loop, by an
    agent and by a judge at once, and keeps its connections.
    """

    version = 0

    def __init__(self, address: Address, *, at_once: int = 64, max_context: int | None = None) -> None:
        """
        Args:
            address: Where it is, and how it is asked.
            at_once: Requests under way at once, at most; further ones wait.
            max_context: Tokens of a conversation with its answer, by the server's count; None: what the server takes.

        Raises `MissingExtra` without httpx.
        """
        try:
            import httpx  # noqa: F401  # only whether it is there
        except ImportError as error:
            raise MissingExtra("httpx", "endpoints") from error
        if at_once < 1:
            raise ConfigError(f"at_once must be 1 or more, got {at_once}")
        self.address = address
        self.max_context = max_context
        self._at_once = at_once
        self._quirks = Quirks("max_completion_tokens" if f"//{_NEWER}/" in f"{address.url}/" else "max_tokens")
        self._cache = AnswerCache(address.cache) if address.cache is not None else None
        self._lengths: dict[str, int] = {}
        """Session -> tokens of its conversation so far, as the server counted them."""
        self._lock = threading.Lock()
        self._runs: tuple[Background, Sender] | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings) -> Answer:
        """See `ChatModel`. Raises `EndpointError`, and `ConfigError` for what would meet every question: a wrong key or
        URL, a model that is not there."""
        known = self._lengths.get(settings.session, 0) if settings.session else 0
        if self.max_context is not None and known + settings.max_tokens > self.max_context:
            return Answer(None)
        if self.address.temperature is not None:
            settings = replace(settings, temperature=self.address.temperature)
        start = time.monotonic()
        sent = [0]
        try:
            data, names, cached = await self._asked(messages, tools, settings, sent)
        except ContextFull as full:
            most = re.search(r"(?:context|maximum|limit)\D{0,60}(\d{3,})", str(full))
            if most is not None and settings.max_tokens >= int(most[1]):  # no conversation would fit
                raise ConfigError(
                    f"{self.address.label}: answers of {settings.max_tokens} tokens leave no room in its context: "
                    f"lower --max-turn-tokens ({full})"
                ) from None
            return Answer(None, usage=Usage(requests=sent[0], seconds=time.monotonic() - start))
        except EndpointError as error:
            error.usage = Usage(requests=sent[0], seconds=time.monotonic() - start)
            raise
        usage = self._used(data, sent[0], time.monotonic() - start, cached)
        try:
            said = read_answer(data, names)
        except EndpointError as error:
            raise EndpointError(error.kind, f"{self.address.label}: {error}", usage) from None
        if settings.session and not usage.uncounted:
            self._lengths[settings.session] = usage.prompt_tokens + usage.completion_tokens
        return Answer(said.action, said.stopped, replace(usage, answers=1))

    def release(self, session: str) -> None:
        self._lengths.pop(session, None)

    def close(self) -> None:
        """Closes the connections; a later question opens others."""
        with self._lock:
            end, self._end, self._runs = self._end, None, None
        if end is not None:
            end()

    # ---- asking ------------------------------------------------------------------------------------------------------

    async def _asked(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings, sent: list[int]
    ) -> tuple[dict[str, Any], ToolNames, bool]:
        """The answer as the server gave it, the names in it, and whether it came from the cache."""
        while True:
            body, names = request_body(self.address.model, messages, tools, settings, self._quirks)
            held = self._cache.get(self.address.url, body) if self._cache is not None else None
            if held is not None:
                return held, names, True
            asked_with = self._quirks
            try:
                data = await self._on_its_loop(body, sent)
            except Unsupported as refused:
                self._adapt(asked_with, refused)
                continue
            if self._cache is not None:
                with suppress(EndpointError):
                    read_answer(data, names)  # what cannot be used is not kept
                    self._cache.put(self.address.url, body, data)
            return data, names, False

    async def _on_its_loop(self, body: dict[str, Any], sent: list[int]) -> dict[str, Any]:
        with self._lock:
            if self._runs is None or self._runs[0].closed:  # closed: in a forked process
                background, sender = Background("sparring-endpoint"), Sender(self.address, self._at_once)
                self._runs = background, sender
                self._end = weakref.finalize(self, _closed, background, sender)
            background, sender = self._runs
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sender.ask(body, sent), background.loop))

    def _adapt(self, asked_with: Quirks, refused: Unsupported) -> None:
        """Asks otherwise from now on. Raises `ConfigError` where that has been tried."""
        if refused.parameter == "seed" and asked_with.seed:
            changed = replace(asked_with, seed=False)
            _LOG.warning("%s takes no seed: its answers cannot be had again", self.address.label)
        elif refused.parameter == "max_tokens" and asked_with.limit == "max_tokens":
            changed = replace(asked_with, limit="max_completion_tokens")
        else:
            raise ConfigError(str(refused))
        if self._quirks == asked_with:
            self._quirks = changed

    def _used(self, data: dict[str, Any], requests: int, seconds: float, cached: bool) -> Usage:
        usage = replace(tokens_used(data), requests=requests, seconds=seconds)
        if cached:
            return replace(usage, from_cache=1, cost=0.0, unpriced=0)
        price = self.address.price
        if price is not None and usage.unpriced and not usage.uncounted:
            cost = price.of(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            usage = replace(usage, cost=cost, unpriced=0)
        return usage


def _closed(background: Background, sender: Sender) -> None:
    """Ends the connections and the thread: when the endpoint is forgotten, or the program ends."""
    if background.here:
        background.loop.stop()
        return
    with suppress(RuntimeError, TimeoutError):
        background.run(sender.close(), 5.0)
    background.close()


@ENGINES.register("openai")
def load(spec: ModelSpec, settings: AgentSettings, progress: Progress | None) -> Loaded:
    """The endpoint at `spec.place`. Nothing is sent before the first question."""
    return Endpoint(Address.parse(spec.place, spec.model), at_once=settings.parallel, max_context=settings.max_context)
