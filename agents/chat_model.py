"""Messages and tools in, an `Action` out: what judges, users, evaluation and `ChatAgent` need of a model.

An endpoint that gives no token ids is a `ChatModel`; an engine with a chat format is one too (`EngineChat`).
Training needs token ids and log-probabilities, and so an `Engine`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Protocol

from ..trajectories.errors import InfrastructureError
from ..trajectories.messages import Action, Json, Message, ToolSpec
from .chat_format import ChatFormat
from .engine import Engine, Sampling, context_within, end_ids_of

__all__ = ["Answer", "BadAnswer", "ChatModel", "ChatSettings", "EndpointError", "EngineChat", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What answers took. Sums with `+`."""

    answers: int = 0
    """Answers that could be used."""
    requests: int = 0
    """Requests that were sent, those that failed and those that were repeated included."""
    from_cache: int = 0
    """Answers that came from a cache on disk, and cost nothing."""
    prompt_tokens: int = 0
    """As the server counts them."""
    cached_tokens: int = 0
    """Of these, read from the server's own cache."""
    completion_tokens: int = 0
    """As the server counts them, those of hidden reasoning included."""
    reasoning_tokens: int = 0
    """Of these, reasoning, where the server says it."""
    uncounted: int = 0
    """Answers whose tokens the server did not count."""
    cost: float = 0.0
    """US dollars, of the answers whose price is known."""
    unpriced: int = 0
    """Answers whose price is not known."""
    seconds: float = 0.0
    """From question to answer, retries and waiting included."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to_json(self) -> dict[str, Json]:
        """What is not 0."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name))}


class BadAnswer(StrEnum):
    """How a question to a model that is served elsewhere can fail. A closed list."""

    UNREACHABLE = "unreachable"
    """No connection could be made."""
    RESET = "reset"
    """The connection ended before an answer began."""
    CUT = "cut"
    """The connection ended in the middle of the answer."""
    TIMEOUT = "timeout"
    """No whole answer within the total deadline."""
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    """The server refused for now: 408, 409, 425, 503, 529."""
    SERVER_ERROR = "server_error"
    """The server failed: 500, 502, 504 and the like, or an error in place of an answer."""
    REJECTED = "rejected"
    """The server does not take this one question (400, 422), though it took others."""
    FILTERED = "filtered"
    """The provider's filter withheld the question or the answer."""
    NOT_JSON = "not_json"
    """A page, a stream, or JSON that is not whole."""
    EMPTY = "empty"
    """No choice, no message, or nothing in it."""
    UNREADABLE = "unreadable"
    """JSON, but no answer of this API."""
    UNFINISHED = "unfinished"
    """The server broke off the generation, or gives a reason for its end that is not known."""
    TOO_LARGE = "too_large"


class EndpointError(InfrastructureError):
    """A question to a model that is served elsewhere failed: no answer, and nobody's policy is to blame."""

    def __init__(self, kind: BadAnswer, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.usage = usage or Usage()
        """What was spent on it, as far as it is known."""


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
    usage: Usage = Usage()
    """What it took, where the model counts."""


class ChatModel(Protocol):
    """A model that takes part in a conversation. Many may be under way at once."""

    @property
    def version(self) -> int:
        """Of its weights; 0 for one that is never trained."""
        ...

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings) -> Answer:
        """The next message of the assistant. Raises `InfrastructureError` when the model cannot be reached, or gives
        no answer that can be used: `EndpointError` says which."""
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
