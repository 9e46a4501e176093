"""Who acts. An `Agent` starts an `AgentSession` for each episode; a session turns observations into actions.

`LLMAgent` is a chat format and an engine: its episodes hold token ids, and can be trained on as they were sampled.
`ChatAgent` is any chat model, token ids or not. The scripted agents are in `scripts.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from ..envs.env import ToolEnv
from ..trajectories.messages import Action, Json, Message, Observation
from ..trajectories.trajectory import StopReason, Tokens, Trajectory, Turn
from .chat_format import ChatFormat, encoding_of, owns
from .chat_model import BadAnswer, ChatModel, ChatSettings, EndpointError, Usage
from .engine import Engine, Sampling, context_within, end_ids_of

__all__ = ["SESSION_NOTES", "Agent", "AgentSession", "ChatAgent", "Decision", "LLMAgent", "NotedSession"]

SESSION_NOTES = ("usage", "bad_answer", "past_kept_before_turns")
"""What `NotedSession.notes` holds at most: tokens and cost (`Usage`); the `BadAnswer` that ended the episode; the turns
before which the model's own template would have shown the past otherwise than the episode's ids do."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, and how it came about."""

    action: Action | None
    """None: there is no room for another turn."""
    span: tuple[int, int] | None = None
    """Of the sampled tokens in the episode's tokens."""
    cut: StopReason | None = None
    """Set when sampling hit a limit before the stop token."""


class AgentSession(Protocol):
    """One episode of an agent."""

    def resume(self, parent: Trajectory, fork: int) -> tuple[Turn, ...]:
        """Takes up `parent` before its turn `fork`; those first turns, with their spans in this session's tokens."""
        ...

    async def act(self, observation: Observation) -> Decision: ...

    def tokens(self) -> Tokens | None:
        """The episode so far, for agents that sample tokens."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class NotedSession(AgentSession, Protocol):
    """A session that has something to say of itself in the record."""

    def notes(self) -> dict[str, Json]:
        """For the record's `meta`: names of `SESSION_NOTES` alone. Asked once, after the episode, however it ended."""
        ...


class Agent(Protocol):
    """Something that can act in episodes, many at once. One that samples has its `temperature`, too."""

    name: str
    parallel: int
    """Episodes worth running at once."""

    @property
    def version(self) -> int:
        """Of the policy; 0 for scripted agents."""
        ...

    def begin(self, env: ToolEnv, seed: int) -> AgentSession:
        """A session for the episode that `env` has just started. Only the expert looks into `env`."""
        ...


class LLMAgent:
    """A language model that calls tools."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        *,
        name: str = "policy",
        temperature: float = 1.0,
        max_turn_tokens: int = 64,
        max_context: int | None = None,
        parallel: int = 64,
    ) -> None:
        """
        Args:
            engine: Generates; of one that is trained, the newest weights play.
            chat: Of the model's family.
            name: As trajectories record it.
            temperature: From 0; 0 takes the most likely token.
            max_turn_tokens: Of one turn.
            max_context: Of the whole episode, in tokens; an episode that would exceed it ends with `token_limit`. None:
                what the engine takes.
            parallel: Episodes worth running at once.
        """
        self.engine = engine
        self.chat = chat
        self.name = name
        stop_ids = tuple(dict.fromkeys((*chat.stop_ids, *end_ids_of(engine))))
        self.sampling = Sampling(temperature, max_turn_tokens, stop_ids)
        wanted = engine.max_context if max_context is None else max_context
        self.max_context = context_within(wanted, engine.max_context, "the engine")
        self.parallel = parallel
        self._sessions = itertools.count()

    @property
    def version(self) -> int:
        return self.engine.version

    @property
    def temperature(self) -> float:
        """Of sampling, as trajectories record it."""
        return self.sampling.temperature

    def begin(self, env: ToolEnv, seed: int) -> AgentSession:
        return _ModelSession(self, f"s{next(self._sessions)}", seed)


class _ModelSession:
    def __init__(self, agent: LLMAgent, key: str, seed: int) -> None:
        self.agent, self.key, self.seed = agent, key, seed
        self.ids: list[int] = []
        self.sampled: list[int] = []
        self.logprobs: list[float] = []
        self.stopped = True
        self.ready = False
        """Whether the ids end where the next answer begins."""
        self.messages: list[Message] = []
        self.turns = 0
        self.departed: list[int] = []
        """Turns before which the model's own template would have shown the past otherwise than these ids do."""

    def resume(self, parent: Trajectory, fork: int) -> tuple[Turn, ...]:
        """Keeps the parent's ids where they are of this agent's encoding; else its first turns are rendered anew, as
        text that nobody sampled."""
        chat, tokens = self.agent.chat, parent.tokens
        turns = parent.turns[:fork]
        span = parent.turns[fork].span if fork < len(parent.turns) else None
        self.ready = True
        self.messages = list(parent.prompt)
        for turn in turns:
            self.messages += [turn.action.message, *turn.observation]
        self.turns = len(turns)
        if tokens is not None and span is not None and owns(chat, parent):
            self.ids = list(tokens.ids[: span[0]])
            same = parent.temperature == self.agent.temperature  # else it is text that this agent did not draw
            self.sampled = list(tokens.sampled[: span[0]]) if same else [0] * span[0]
            self.logprobs = list(tokens.logprobs[: span[0]]) if same else [0.0] * span[0]
            return turns
        self._given(chat.start(parent.prompt, parent.tools))
        rendered = []
        for turn in turns:
            start = len(self.ids)
            self._given(chat.answer(turn.action))
            rendered.append(replace(turn, span=(start, len(self.ids))))
            self._given(chat.continuation(turn.observation))
        return tuple(rendered)

    async def act(self, observation: Observation) -> Decision:
        agent = self.agent
        new: list[int] = []
        if self.ready:
            self.ready = False
        elif self.ids:
            new = agent.chat.continuation(observation.messages, stopped=self.stopped)
            self._compare(observation)
        else:
            new = agent.chat.start(observation.messages, observation.tools)
        if len(self.ids) + len(new) + agent.sampling.max_tokens > agent.max_context:
            return Decision(None, cut=StopReason.TOKEN_LIMIT)
        self._given(new)
        if new:
            self.messages += observation.messages
        generated = await agent.engine.generate(self.key, self.ids, agent.sampling, self.seed)
        start = len(self.ids)
        self._append(generated.ids, 1, generated.logprobs)
        said = generated.ids
        # Another end token of the model ends the answer too, but the format does not know it: it closes the message.
        self.stopped = generated.stopped and said[-1] in agent.chat.stop_ids
        cut = None if generated.stopped else StopReason.TOKEN_LIMIT
        action = agent.chat.parse(said if self.stopped or cut else said[:-1])
        self.messages.append(action.message)
        self.turns += 1
        return Decision(action, (start, len(self.ids)), cut)

    def tokens(self) -> Tokens:
        return Tokens(tuple(self.ids), tuple(self.sampled), tuple(self.logprobs), encoding_of(self.agent.chat))

    def notes(self) -> dict[str, Json]:
        return {"past_kept_before_turns": list(self.departed)} if self.departed else {}

    def close(self) -> None:
        self.agent.engine.release(self.key)

    def _compare(self, observation: Observation) -> None:
        """Notes where the template would have changed the past: the ids are never changed, so they depart from it."""
        keeps = getattr(self.agent.chat, "keeps", None)
        if keeps is not None and not keeps(self.messages, observation.messages, observation.tools):
            self.departed.append(self.turns)

    def _given(self, ids: list[int]) -> None:
        self._append(ids, 0, [0.0] * len(ids))

    def _append(
        self, ids: list[int] | tuple[int, ...], sampled: int, logprobs: list[float] | tuple[float, ...]
    ) -> None:
        self.ids += ids
        self.sampled += [sampled] * len(ids)
        self.logprobs += logprobs


class ChatAgent:
    """A chat model that acts. Its episodes hold no token ids."""

    def __init__(
        self,
        model: ChatModel,
        *,
        name: str = "chat",
        temperature: float = 1.0,
        max_turn_tokens: int = 64,
        parallel: int = 64,
    ) -> None:
        """
        Args:
            model: What answers; it has a limit of its own on the length of a conversation.
            name: As trajectories record it.
            temperature: From 0; 0 takes the most likely answer.
            max_turn_tokens: Of one turn.
            parallel: Episodes worth running at once.
        """
        self.model = model
        self.name = name
        self.temperature = temperature
        self.max_turn_tokens = max_turn_tokens
        self.parallel = parallel
        self._sessions = itertools.count()

    @property
    def version(self) -> int:
        return self.model.version

    def begin(self, env: ToolEnv, seed: int) -> AgentSession:
        key = f"s{next(self._sessions)}"
        return _ChatSession(self.model, ChatSettings(self.temperature, self.max_turn_tokens, seed, key))


class _ChatSession:
    def __init__(self, model: ChatModel, settings: ChatSettings) -> None:
        self.model, self.settings = model, settings
        self.messages: list[Message] = []
        self.usage = Usage()
        self.bad_answer: BadAnswer | None = None

    def resume(self, parent: Trajectory, fork: int) -> tuple[Turn, ...]:
        turns = parent.turns[:fork]
        self.messages = list(parent.prompt)
        for turn in turns:
            self.messages += [turn.action.message, *turn.observation]
        return turns

    async def act(self, observation: Observation) -> Decision:
        self._named(observation.messages)
        self.messages += observation.messages
        try:
            answer = await self.model.answer(self.messages, observation.tools, self.settings)
        except EndpointError as error:
            self.usage += error.usage
            self.bad_answer = error.kind
            raise
        self.usage += answer.usage
        if answer.action is None:
            return Decision(None, cut=StopReason.TOKEN_LIMIT)
        self.messages.append(answer.action.message)
        return Decision(answer.action, cut=None if answer.stopped else StopReason.TOKEN_LIMIT)

    def tokens(self) -> None:
        return None

    def notes(self) -> dict[str, Json]:
        out: dict[str, Json] = {"usage": self.usage.to_json()} if self.usage != Usage() else {}
        if self.bad_answer is not None:
            out["bad_answer"] = self.bad_answer.value
        return out

    def close(self) -> None:
        self.model.release(self.settings.session)

    def _named(self, new: Sequence[Message]) -> None:
        """Calls get the ids that the environment gave them: endpoints match results to calls by id."""
        ids = [m.tool_call_id for m in new if m.role == "tool"]
        if ids and len(calls := self.messages[-1].tool_calls) == len(ids):
            named = tuple(replace(call, id=id or "") for call, id in zip(calls, ids, strict=True))
            self.messages[-1] = replace(self.messages[-1], tool_calls=named)
