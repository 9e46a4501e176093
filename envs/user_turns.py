"""User turns as data: a user who says one text after the other. Defines `UserTurns` and `UserTurn`.

    class Bookings(ToolEnv):
        user = UserTurns("turns", check=lambda env, turn: env.state == suite.after(env.episode.task.data, turn))

    Task("Book me a seat.", {"turns": [
        "Book me a seat.",
        {"text": "Now you can cancel, too. Please do.", "tools": ["cancel"]},
    ]})

The first turn is what the episode begins with. A message without calls ends a turn: its check is asked, and the next
text is said. After the last one the episode ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..tools.definition import Tool
from ..tools.sets import bound, toolset
from ..trajectories.errors import DataError, EnvError, UnknownName
from .episode import Episode, Verdict
from .facets import User

__all__ = ["UserTurn", "UserTurns"]

_FIELDS = ("text", "tools", "does")


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user says once."""

    text: str
    """"" says nothing: the message that tells of the new tools is all."""
    tools: tuple[Any, ...] = ()
    """What comes with it: names of tools, which are on offer from then on and not before; or further sources, as
    `toolset` takes them."""
    does: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    """(who, tool, arguments) of calls that are made first, by whom `Others(tools=...)` names."""

    @classmethod
    def read(cls, row: Any) -> UserTurn:
        """From a text, `{"text": ..., "tools": [...], "does": [...]}`, or chat messages of the user's. Raises
        `DataError`."""
        if isinstance(row, UserTurn):
            return row
        if isinstance(row, str):
            return cls(row)
        if isinstance(row, (list, tuple)) and all(isinstance(m, Mapping) and m.get("role") == "user" for m in row):
            texts = [m.get("content") for m in row]
            if all(isinstance(text, str) for text in texts):
                return cls("\n\n".join(texts))
        if not isinstance(row, Mapping) or not isinstance(row.get("text", ""), str):
            raise DataError(
                f"a turn of the user's is a text, an object with {', '.join(_FIELDS)}, or a list of messages of the "
                f"role user, got {row!r:.80}"
            )
        for name in row:
            if name not in _FIELDS:
                raise DataError(str(UnknownName("field of a user's turn", str(name), _FIELDS)))
        tools, does = row.get("tools", ()), row.get("does", ())
        if isinstance(tools, str) or not isinstance(tools, Sequence):
            raise DataError(f"the tools of a user's turn are a list, got {tools!r:.80}")
        if not isinstance(does, Sequence) or not all(isinstance(d, Sequence) and len(d) == 3 for d in does):
            raise DataError(f"what the user does is a list of [who, tool, arguments], got {does!r:.80}")
        return cls(row.get("text", ""), tuple(tools), tuple((str(w), str(t), dict(a)) for w, t, a in does))


class UserTurns(User):
    """A user who says one text after the other, and does not listen to the agent."""

    max_answers = 10_000

    def __init__(
        self,
        turns: str | Callable[[Any], Iterable[Any]] = "turns",
        *,
        check: Callable[[Any, int], bool | Verdict] | None = None,
    ) -> None:
        """
        Args:
            turns: Where the task's turns are: a key of `task.data`, or a function of the environment. Each is read by
                `UserTurn.read`. The first is the one that the episode begins with.
            check: Asked when a turn is over, with the environment and the turn's number from 0: whether what was asked
                for is done. It looks, and changes nothing. The answers are in `env.episode.checks`; an environment
                without `success` succeeds when all turns were said and all checks passed.
        """
        super().__init__()
        self._turns = turns
        self._check = check

    def turns(self, env: Any) -> list[UserTurn]:
        """All turns of the present task. Raises `DataError` for what is none, `EnvError` where there are none."""
        if callable(self._turns):
            rows: Any = self._turns(env)
        else:
            rows = env.episode.task.data.get(self._turns)
        if not rows or isinstance(rows, (str, Mapping)):
            raise EnvError(
                f"the task {env.episode.task.id} has no turns of the user's: UserTurns({self._turns!r:.60}) gives "
                f"{rows!r:.60}; give a list, the first of which the episode begins with"
            )
        return [UserTurn.read(row) for row in rows]

    def reply(self, env: Any, said: str) -> str | None:
        episode: Episode = env.episode
        turns = self.turns(env)
        if self._check is not None:
            episode.checks = (*episode.checks, self._asked(env, episode.user_turns))
        episode.user_turns += 1
        if episode.user_turns >= len(turns):
            return None
        turn = turns[episode.user_turns]
        for who, tool, arguments in turn.does:
            episode.act_as(who, tool, **arguments)
        return turn.text

    def tools(self, env: Any, offered: tuple[Tool, ...]) -> tuple[Tool, ...]:
        turns, now = self.turns(env), env.episode.user_turns
        held: set[str] = set()
        came: list[Any] = []
        for number, turn in enumerate(turns):
            for source in turn.tools:
                if not isinstance(source, str):
                    came += [source] if number <= now else []
                elif source not in env.toolbox.tools and source not in {t.name for t in offered}:
                    raise UnknownName(f"tool of {type(env).__name__}", source, env.toolbox.tools)
                elif number > now:
                    held.add(source)
        early = {name for turn in turns[: now + 1] for name in turn.tools if isinstance(name, str)}
        here = tuple(t for t in offered if t.name not in held - early)
        return (*here, *bound(toolset(*came), env)) if came else here

    def verdict(self, env: Any) -> Verdict | None:
        if self._check is None:
            return None
        of, checks = len(self.turns(env)), list(env.episode.checks)
        for number, check in enumerate(checks):
            if not check.success:
                return Verdict(False, f"turn {number + 1} of {of}: {check.reason or 'its check failed'}")
        if len(checks) < of - 1:
            return Verdict(False, f"ended in turn {len(checks) + 1} of {of}")
        last = checks[of - 1] if len(checks) == of else self._asked(env, of - 1)  # a tool may have ended the episode
        return last if last.success else Verdict(False, f"turn {of} of {of}: {last.reason or 'its check failed'}")

    def _asked(self, env: Any, number: int) -> Verdict:
        assert self._check is not None
        found = self._check(env, number)
        return found if isinstance(found, Verdict) else Verdict(bool(found))
