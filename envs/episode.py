"""`Episode`: the episode that runs in an environment, as authors, experts and agents see it (`env.episode`). And what
its end comes to: `Verdict`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..tools.faults import FaultState
from ..tools.plans import FaultPlan
from ..tools.toolbox import Toolbox, ToolboxState
from ..trajectories.disguise import DISGUISE
from ..trajectories.errors import EnvError, UnknownName
from ..trajectories.messages import Json, Message, ToolCall, ToolResult
from ..trajectories.trajectory import StopReason, Task, Turn
from .rewards import Ended

__all__ = ["NOTES", "Episode", "Host", "Snapshot", "Verdict"]

NOTES = ("reason", "others", "checks", DISGUISE)
"""What `Episode.notes` holds at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `success` makes of an episode, where true or false is not enough."""

    success: bool
    reason: str = ""
    """Why, for whoever reads the record. The agent never sees it."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The reward by parts, once the episode has ended by itself; empty: {"success": 1.0 or 0.0}."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where episodes are played: what they need of their environment."""

    name: str
    """Of its class, for messages."""
    toolbox: Toolbox
    own: frozenset[str]
    """Names of the tools that every episode has."""
    others: Mapping[str, Toolbox]
    """Toolboxes of others, by who it is."""
    state: Callable[[], Any]
    """The world as it is now."""
    copy: Callable[[], Any]
    """A copy of it. Raises `EnvError` that names what cannot be copied."""
    acted: Callable[[], None]
    """Told when others have acted."""
    keeps_before: Callable[[], bool]
    """Whether the world as it was at first is kept."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An episode frozen in the middle. Restoring it twice gives two independent episodes."""

    task: Task
    plan: FaultPlan
    world: Any
    toolbox: ToolboxState
    others: Mapping[str, ToolboxState]
    rng: Any
    """State of the episode's random generator."""
    tick: int
    answers: int
    stop: StopReason | None
    said: str
    history: tuple[Turn, ...]
    before: Any
    calls_of_others: tuple[tuple[str, ToolCall, ToolResult], ...]
    user_turns: int
    checks: tuple[Verdict, ...]
    prompt: tuple[Message, ...]


class Episode:
    """The running episode. Ask `env.episode` for it anew each time: `start` and `restore` make another one."""

    def __init__(self, host: Host, task: Task, plan: FaultPlan) -> None:
        self._host = host
        self.task = task
        self.plan = plan
        """The fault plan it was started with."""
        self.rng = random.Random(f"{task.seed}/{task.id}")
        """Where everything random comes from, in tools and facets too. A fork goes on with its own."""
        self.tick = 0
        """Turns so far, the running one included."""
        self.answers = 0
        """How often the user has answered."""
        self.said = ""
        """The agent's latest message without calls, or ""."""
        self.stop: StopReason | None = None
        """Why it ended; None while it goes on."""
        self.reason = ""
        """Why it was judged as it was, where the judge says so."""
        self.results: tuple[ToolResult, ...] = ()
        """Of the latest turn."""
        self.judged: tuple[bool, dict[str, float]] | None = None
        """What it came to, once that is settled: see `ToolEnv.judge`."""
        self.user_turns = 0
        """How many turns of a user are over who says one text after the other."""
        self.checks: tuple[Verdict, ...] = ()
        """What the user's checks came to, one for each of the user's turns that is over: see `UserTurns`."""
        self.before: Any = None
        """The world as `setup` left it, where it is kept: see `ToolEnv.keeps_before`."""
        self.prompt: tuple[Message, ...] = ()
        """Messages before the first action."""
        self._turns: list[Turn] = []
        self._calls_of_others: list[tuple[str, ToolCall, ToolResult]] = []

    # ---- what happened -----------------------------------------------------------------------------------------------

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns so far."""
        return tuple(self._turns)

    @property
    def calls(self) -> tuple[tuple[ToolCall, ToolResult], ...]:
        """All of the agent's calls so far in one list, each with its result, whose `content` is the text that the agent
        was shown."""
        return tuple(pair for turn in self._turns for pair in zip(turn.action.tool_calls, turn.results, strict=True))

    @property
    def last_result(self) -> ToolResult | None:
        """The result of the latest call; None after a message without calls."""
        return self.results[-1] if self.results else None

    @property
    def faults(self) -> FaultState | None:
        """What of the plan is in force, and what is still to strike; None without a plan."""
        return self._host.toolbox.state.faults

    @property
    def faults_hit(self) -> tuple[str, ...]:
        """Kinds of the faults that have struck so far."""
        return tuple(self.faults.hit) if self.faults else ()

    @property
    def possible(self) -> bool:
        """Whether the task can still be done: no fault has made it impossible."""
        return self.faults is None or not self.faults.impossible

    def is_gone(self, tool: str) -> bool:
        """Whether the agent has been told that a tool is gone. Its second route is then the way."""
        return tool in self._host.toolbox.state.gone

    def ended(self) -> Ended:
        """The whole episode, as reward terms see it: the world before and after, all calls and texts.

        Raises `EnvError` where the world before is not kept. (`success` is not known yet, and False.)
        """
        if not self._host.keeps_before():
            raise EnvError(
                f"{self._host.name} asks for the world as it was at first, which is not kept; set keeps_before = True "
                "in the class"
            )
        state = self._host.state()
        offered = self._host.toolbox.specs
        return Ended(
            self.task,
            False,
            self.before,
            state,
            self.history,
            self.said,
            self.stop,
            self.possible,
            self.prompt,
            offered,
        )

    # ---- how it ends -------------------------------------------------------------------------------------------------

    @property
    def declined(self) -> bool:
        """Whether the agent ended it by saying that the task cannot be done."""
        return self.stop is StopReason.DECLINED

    def cut(self, reason: StopReason) -> StopReason:
        """Ends the episode with this turn, for `reason`: at a limit say, or where the agent has handed over."""
        self.stop, self.judged = reason, None
        return reason

    def decline(self) -> StopReason:
        """Ends the episode with this turn as one in which the agent says that the task cannot be done: for a tool by
        which it says so. A last message that says so needs no such call."""
        return self.cut(StopReason.DECLINED)

    # ---- others, and what there is to note ---------------------------------------------------------------------------

    def act_as(self, who: str, tool: str, /, **arguments: Json) -> ToolResult:
        """A call by one of `others`, for facets. It runs as the agent's calls do (checked, failing with an outcome),
        but no fault strikes it; it is kept in `calls_of_others`. Raises `UnknownName`."""
        if who not in self._host.others:
            raise UnknownName("actor", who, self._host.others)
        call, result = self._host.others[who].execute(ToolCall(tool, arguments))
        self._calls_of_others.append((who, call, result))
        self._host.acted()
        return result

    @property
    def calls_of_others(self) -> tuple[tuple[str, ToolCall, ToolResult], ...]:
        """(who, call, result) of what others than the agent did, in order."""
        return tuple(self._calls_of_others)

    @property
    def notes(self) -> dict[str, Json]:
        """What a record of the episode keeps next to its turns: `reason` of the judge, `others` who acted, what the
        user's `checks` came to, the `disguise` under which the agent saw it."""
        notes: dict[str, Json] = {"reason": self.reason} if self.reason else {}
        if self.checks:
            notes["checks"] = [{"passed": check.success, "reason": check.reason} for check in self.checks]
        if self._calls_of_others:
            notes["others"] = [
                {
                    "who": who, "tool": call.name, "arguments": call.arguments, "outcome": result.outcome.value,
                    "content": result.content,
                }
                for who, call, result in self._calls_of_others
            ]  # fmt: skip
        if (disguise := self._host.toolbox.state.disguise) is not None:
            notes[DISGUISE] = disguise.to_json()
        return notes

    @property
    def roles(self) -> dict[str, Json]:
        """What its tools are for, as a record keeps it where tools come with the task: which of them are `waits`,
        `logs_in` and `effects`, and `alternatives`, their second routes. Empty where they are those of every
        episode."""
        tools = self._host.toolbox.tools
        if tools.keys() <= self._host.own:
            return {}
        return {
            "waits": [t.name for t in tools.values() if t.waits],
            "logs_in": [t.name for t in tools.values() if t.logs_in],
            "alternatives": {t.name: t.alternative for t in tools.values() if t.alternative},
            "effects": [t.name for t in tools.values() if t.effect],
        }

    # ---- for the environment's base class ----------------------------------------------------------------------------

    def add(self, turn: Turn) -> None:
        """Notes a turn that is over."""
        self._turns.append(turn)

    def snapshot(self) -> Snapshot:
        """The whole episode, independent of what follows."""
        return Snapshot(
            task=self.task,
            plan=self.plan,
            world=self._host.copy(),
            toolbox=self._host.toolbox.state.copy(),
            others={who: toolbox.state.copy() for who, toolbox in self._host.others.items()},
            rng=self.rng.getstate(),
            tick=self.tick,
            answers=self.answers,
            stop=self.stop,
            said=self.said,
            history=self.history,
            before=self.before,
            calls_of_others=self.calls_of_others,
            user_turns=self.user_turns,
            checks=self.checks,
            prompt=self.prompt,
        )

    @classmethod
    def resumed(cls, host: Host, snapshot: Snapshot) -> Episode:
        """The episode of `snapshot` once more; its toolboxes are set, its world is not."""
        episode = cls(host, snapshot.task, snapshot.plan)
        host.toolbox.resume(snapshot.toolbox)
        for who, toolbox in host.others.items():
            toolbox.resume(snapshot.others[who])
        episode.rng.setstate(snapshot.rng)
        episode.tick, episode.answers = snapshot.tick, snapshot.answers
        episode.stop, episode.said = snapshot.stop, snapshot.said
        episode.before, episode.prompt = snapshot.before, snapshot.prompt
        episode.user_turns, episode.checks = snapshot.user_turns, snapshot.checks
        episode._turns, episode._calls_of_others = list(snapshot.history), list(snapshot.calls_of_others)
        return episode
