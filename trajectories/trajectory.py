"""One episode as it happened, and a group of them. Plain frozen data; `to_json`/`from_json` are the only wire form.

Defines `Task`, `Tokens`, `Turn`, `Fork`, `Trajectory`, `TrajectoryGroup`, `StopReason`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import DataError
from .messages import Action, Json, Message, Outcome, ToolResult, ToolSpec

__all__ = ["SCHEMA_VERSION", "Fork", "StopReason", "Task", "Tokens", "Trajectory", "TrajectoryGroup", "Turn"]

SCHEMA_VERSION = 1


class StopReason(StrEnum):
    """Why an episode ended. `terminated` and `truncated` follow from it, never from the last token."""

    FINISHED = "finished"
    """The agent handed over with a message without calls, as one that has done its work."""
    DECLINED = "declined"
    """The agent handed over, and its last message says that the task cannot be done."""
    TERMINATED = "terminated"
    """The environment ended the episode."""
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    DEADLINE = "deadline"
    INFRASTRUCTURE = "infrastructure"
    """Engine, sandbox or network failed: excluded from rewards and denominators, counted apart."""
    CANCELLED = "cancelled"
    BUG = "bug"
    """The environment's own code raised: nobody's policy is to blame. Excluded and counted apart in the same way."""

    @property
    def no_verdict(self) -> bool:
        """Whether an episode that ended so belongs in no denominator, also after a success."""
        return self in (StopReason.INFRASTRUCTURE, StopReason.CANCELLED, StopReason.BUG)

    @property
    def terminated(self) -> bool:
        return self in (StopReason.FINISHED, StopReason.DECLINED, StopReason.TERMINATED)

    @property
    def truncated(self) -> bool:
        return not self.terminated

    @property
    def by_agent(self) -> bool:
        """Whether the agent ended it of its own accord."""
        return self in (StopReason.FINISHED, StopReason.DECLINED)


@dataclass(frozen=True, slots=True)
class Task:
    """What to achieve. Frozen and serialisable; no behaviour."""

    instruction: str
    data: dict[str, Json] = field(default_factory=dict)
    """Whatever the environment needs to set the episode up and to judge it. The agent never sees it."""
    id: str = ""
    """Unique in its environment; set from the content when empty."""
    seed: int = 0
    """Seeds the episode's world: the same task is the same world."""
    kind: str = ""
    """Family of tasks, for tables by kind."""
    level: int = 1
    """Difficulty, from 1."""

    def __post_init__(self) -> None:
        if not self.id:
            body = orjson.dumps(
                [self.instruction, self.data, self.seed], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
            )
            object.__setattr__(self, "id", hashlib.blake2b(body, digest_size=6).hexdigest())


@dataclass(frozen=True, slots=True)
class Tokens:
    """The whole episode as the engine saw it: three aligned sequences, never re-tokenised."""

    ids: tuple[int, ...]
    sampled: tuple[int, ...]
    """1 where the policy sampled the token (end-of-turn included), 0 for prompts, observations and template."""
    logprobs: tuple[float, ...]
    """Log-probability in nats, of the distribution that the token was drawn from: of the sampling policy at the
    episode's temperature, and at temperature 1 where that is 0. 0.0 where `sampled` is 0."""
    encoding: str = ""
    """Whose ids these are: a name for the vocabulary and the chat format (`sparring.agents.encoding_of`). To another
    model they mean other texts. Empty: the record does not say."""

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.sampled) == len(self.logprobs):
            raise DataError(
                f"tokens must align: {len(self.ids)} ids, {len(self.sampled)} sampled, {len(self.logprobs)} logprobs"
            )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Turn:
    """One action with the results it got."""

    action: Action
    results: tuple[ToolResult, ...] = ()
    """One per call, in call order."""
    messages: tuple[Message, ...] = ()
    """What came after the results: a user's next message, say."""
    reward: float = 0.0
    span: tuple[int, int] | None = None
    """Where the action's sampled tokens are in `Tokens.ids`: [start, end)."""
    weight: float = 1.0
    """Weight of this turn in supervised losses; 0 keeps it as context only."""

    @property
    def observation(self) -> tuple[Message, ...]:
        """What the agent was shown after it."""
        results = (Message("tool", r.content, tool_call_id=r.call_id, name=r.tool) for r in self.results)
        return (*results, *self.messages)


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a trajectory branched off: it shares the first `turn` turns with its parent."""

    parent: str
    turn: int


@dataclass(frozen=True)
class Trajectory:
    """One episode."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)

    id: str
    env: str
    task: Task
    prompt: tuple[Message, ...]
    """Messages before the first action."""
    turns: tuple[Turn, ...]
    stop: StopReason
    reward: float = 0.0
    reward_parts: dict[str, float] = field(default_factory=dict)
    success: bool | None = None
    """None when it could not be judged (infrastructure failure, bug of the environment, cancelled)."""
    seed: int = 0
    """Of sampling; the fault plan has its own, at the end of `faults`."""
    faults: str = ""
    """The fault plan in its one-line form; empty: none."""
    faults_hit: tuple[str, ...] = ()
    """Kinds of the faults that really struck, in order."""
    tools: tuple[ToolSpec, ...] = ()
    tokens: Tokens | None = None
    """None for scripted agents."""
    agent: str = ""
    policy_version: int = 0
    temperature: float = 1.0
    """Of sampling; that of the log-probabilities in `tokens`."""
    expert_turns: int | None = None
    """Turns that the expert needs for this task under the same faults, where known."""
    forked_from: Fork | None = None
    attempt: int = 0
    error: str | None = None
    """For an infrastructure failure or a bug of the environment: what failed, on one line."""
    meta: dict[str, Json] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def messages(self) -> tuple[Message, ...]:
        """The conversation, tool results included."""
        out = list(self.prompt)
        for turn in self.turns:
            out.append(turn.action.message)
            out.extend(Message("tool", r.content, tool_call_id=r.call_id, name=r.tool) for r in turn.results)
            out.extend(turn.messages)
        return tuple(out)

    def results(self) -> Iterator[ToolResult]:
        """All tool results, in order."""
        for turn in self.turns:
            yield from turn.results

    @property
    def judged(self) -> bool:
        """Whether this episode belongs in a denominator."""
        return self.success is not None and not self.stop.no_verdict

    @property
    def outcomes_known(self) -> bool:
        """Whether the record says of all calls how they ended. An imported one may only guess."""
        return not any(r.inferred for r in self.results())

    @property
    def effects_known(self) -> bool:
        """Whether it says what effect calls had, as far as that can be known. An imported one that leaves it open does
        not know."""
        silent = "from" in self.meta and any(r.took_effect is None for r in self.results())
        return self.outcomes_known and not silent

    @cached_property
    def final_text(self) -> str:
        """What the agent said last, without a call; empty when the episode ended otherwise."""
        last = self.turns[-1].action if self.turns else None
        return last.content if last is not None and not last.tool_calls else ""

    def failed_calls(self) -> int:
        """Calls whose outcome is not ok; of an imported record these may be guesses (`outcomes_known`)."""
        return sum(r.outcome is not Outcome.OK for r in self.results())

    def to_json(self) -> bytes:
        """One line of JSON."""
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, line: bytes | str) -> Trajectory:
        """The inverse of `to_json`. Raises `DataError` for anything that is no trajectory of a known version."""
        try:
            value: Trajectory = _adapter().validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the record"
            raise DataError(f"not a trajectory: {where}: {first['msg']}") from None
        if value.schema_version > SCHEMA_VERSION:
            raise DataError(
                f"trajectory {value.id} has schema version {value.schema_version}, this Sparring reads up to "
                f"{SCHEMA_VERSION}: upgrade sparring"
            )
        return value


@dataclass(frozen=True, slots=True)
class TrajectoryGroup:
    """Trajectories of one task under one fault seed: the unit of GRPO, best-of-k and pass@k."""

    trajectories: tuple[Trajectory, ...]

    def __post_init__(self) -> None:
        keys = {(t.env, t.task.id, t.faults) for t in self.trajectories}
        if len(keys) > 1:
            raise DataError(f"a group holds one task under one fault plan, got {len(keys)}: {sorted(keys)[:3]}")

    def rewards(self) -> tuple[float, ...]:
        return tuple(t.reward for t in self.trajectories)

    @classmethod
    def by_task(cls, trajectories: Iterable[Trajectory]) -> list[TrajectoryGroup]:
        """Groups judged trajectories by environment, task and fault plan; order of first appearance."""
        groups: dict[tuple[str, str, str], list[Trajectory]] = {}
        for t in trajectories:
            if t.judged:
                groups.setdefault((t.env, t.task.id, t.faults), []).append(t)
        return [cls(tuple(members)) for members in groups.values()]


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Trajectory)


def dump_jsonl(trajectories: Sequence[Trajectory]) -> bytes:
    """JSON lines."""
    return b"".join(t.to_json() + b"\n" for t in trajectories)
