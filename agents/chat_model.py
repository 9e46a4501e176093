"""Messages and tools in, an `Action` out: what judges, users, evaluation and `ChatAgent` need of a model.

An endpoint that gives no token ids is a `ChatModel`; an engine with a chat format is one too (`EngineChat`).
Training needs token ids and log-probabilities, and so an `Engine`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..trajectories.messages import Action, Message, ToolSpec
from .chat_format import ChatFormat
from .engine import Engine, Sampling, context_within, end_ids_of

__all__ = ["Answer", "ChatModel", "ChatSettings", "EngineChat"]


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How one answer is asked for."""

    temperature: float = 1.0
    """From 0; 0 takes the most likely answer."""
    max_tokens: int = 64
    """Of the answer."""
    seed: int = 0
    """Of sampling, where the model can be seeded."""
    session: str = ""
    """Answers of one session share what is computed, until it is released. Empty: this answer is all there is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chat model said."""

    action: Action | None
    """None: the conversation does not fit into the model's context."""
    stopped: bool = True
    """False: cut at `max_tokens`."""


class ChatModel(Protocol):
    """A model that takes part in a conversation. Many may be under way at once."""

    @property
    def version(self) -> int:
        """Of its weights; 0 for one that is never trained."""
        ...

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings) -> Answer:
        """The next message of the assistant. Raises `InfrastructureError` when the model cannot be reached."""
        ...

    def release(self, session: str) -> None:
        """The session is over."""
        ...


class EngineChat:
    """An engine with a chat format, as a chat model."""

    def __init__(self, engine: Engine, chat: ChatFormat, *, max_context: int | None = None) -> None:
        """
        Args:
            max_context: Of a conversation with its answer, in tokens; None: what the engine takes.
        """
        self.engine = engine
        self.chat = chat
        wanted = engine.max_context if max_context is None else max_context
        self.max_context = context_within(wanted, engine.max_context, "the engine")
        self._single = itertools.count()

    @property
    def version(self) -> int:
        return self.engine.version

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings) -> Answer:
        ids = self.chat.start(messages, tools)
        if len(ids) + settings.max_tokens > self.max_context:
            return Answer(None)
        stop_ids = tuple(dict.fromkeys((*self.chat.stop_ids, *end_ids_of(self.engine))))
        sampling = Sampling(settings.temperature, settings.max_tokens, stop_ids)
        session = settings.session or f"answer{next(self._single)}"
        try:
            generated = await self.engine.generate(session, ids, sampling, settings.seed)
        finally:
            if not settings.session:
                self.engine.release(session)
        said = generated.ids
        if generated.stopped and said[-1] not in self.chat.stop_ids:  # an end token that the format does not know
            said = said[:-1]
        return Answer(self.chat.parse(said), generated.stopped)

    def release(self, session: str) -> None:
        self.engine.release(session)
