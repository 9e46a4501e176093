"""What an agent does about a failure, and whether it helps: `Blockage`, `after_faults`, right strategies, recovery.

Everything is decided from the record: outcomes, causes, faults, tools and arguments. A record does not say which tools
wait, log in or are in for another; `ToolRoles` does, and without it they are guessed from the tools' names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from ..errors import EnvError
from ..messages import Cause, Json, Outcome, ToolCall, ToolResult
from ..trajectory import StopReason, Trajectory
from .rates import Estimate, Rate, rate, ratio, split, task_of

__all__ = [
    "ACTIONS",
    "RIGHT",
    "RIGHT_AFTER_OUTCOME",
    "Blockage",
    "Roles",
    "ToolRoles",
    "after_faults",
    "blockages",
    "calls_of",
    "declined",
    "fault_recovery",
    "reaction",
    "recovery_by_cause",
    "recovery_by_fault",
    "recovery_rate",
    "register_fault",
    "right_after_fault",
    "right_strategy",
    "roles_of",
    "same_call",
    "success_by_fault",
    "tokens_to_recovery",
    "turns_to_recovery",
    "unresolved",
]

ACTIONS = {
    "retry_same": "the failed call again, arguments unchanged",
    "retry_changed": "the same tool, other arguments",
    "alternative": "the tool that the environment names as second route",
    "login": "a tool that renews the session",
    "wait": "a tool that lets time pass",
    "other_tool": "any other tool: looking something up, or going on as if nothing had happened",
    "malformed": "a call that cannot be parsed",
    "message": "a message to the user, after which the episode went on",
    "give_up": "a last message that says it cannot be done",
    "final_answer": "any other last message: done, an answer",
    "cut_off": "nothing: the episode was ended by a limit or by the environment",
}
"""Classes of the first action after a failure. Where a message makes several calls, the first class in this order that
one of them is in."""

_BY_CALL = tuple(ACTIONS)[:7]

RIGHT: dict[str, frozenset[str]] = {
    kind: frozenset(actions.split())
    for kind, actions in {
        "tool_removed": "alternative",
        "forbidden": "alternative",
        "quota_exhausted": "alternative",
        "session_expired": "login",
        "impossible": "give_up alternative",
        "rate_limited": "wait",
        "unavailable": "retry_same wait",
        "flapping": "retry_same wait",
        "internal_error": "retry_same alternative",
        "schema_drift": "retry_changed",
        "stale_id": "other_tool alternative",
        "timeout_lost": "other_tool",
        "timeout_landed": "other_tool",
        "empty_result": "retry_same retry_changed alternative",
        "partial_page": "retry_same retry_changed",
        "truncated_output": "retry_same retry_changed",
        "malformed_output": "retry_same alternative",
        "silent_wrong_value": "retry_same retry_changed alternative",
    }.items()
}
"""Kind of fault -> what a good agent may do first; `register_fault` adds to it. The kinds that come with Sparring are
here from the start, so that records are understood where no tool is loaded. After a stale id or a timeout the right
thing is a look, and a look is another tool. That all routes are blocked is known once the second one is."""

RIGHT_AFTER_OUTCOME: dict[Outcome, frozenset[str]] = {
    Outcome(outcome): frozenset(actions.split())
    for outcome, actions in {
        "malformed": "retry_changed",
        "unknown_tool": "alternative other_tool",
        "invalid_arguments": "retry_changed",
        "unavailable": "retry_same wait",
        "rate_limited": "wait",
        "timeout": "retry_same other_tool",
        "unauthenticated": "login",
        "forbidden": "alternative other_tool give_up",
        "not_found": "retry_changed alternative other_tool give_up",
        "conflict": "retry_changed alternative other_tool",
        "gone": "alternative",
        "tool_error": "retry_same retry_changed alternative",
        "crashed": "retry_same other_tool",
    }.items()
}
"""The same for failures that no fault brought about."""


def register_fault(kind: str, right: Iterable[str]) -> None:
    """Makes known what a good agent may do first after a kind of fault: classes of `ACTIONS`.

    Raises `EnvError` for a class that does not exist, and for none.
    """
    actions = frozenset(right)
    if not actions or not actions <= set(ACTIONS):
        raise EnvError(
            f"the right actions after the fault {kind!r} are one or more of {', '.join(ACTIONS)}; "
            f"got {', '.join(sorted(actions)) or 'none'}"
        )
    RIGHT[kind] = actions


def right_after_fault(kind: str | None, outcome: Outcome = Outcome.OK) -> frozenset[str]:
    """What a good agent may do first after a fault; after an outcome where no fault struck, or one unknown here."""
    known = RIGHT.get(kind) if kind is not None else None
    return known if known is not None else RIGHT_AFTER_OUTCOME.get(outcome, frozenset())


_WRONG_ARGUMENTS = frozenset(
    {Outcome.MALFORMED, Outcome.INVALID_ARGUMENTS, Outcome.NOT_FOUND, Outcome.CONFLICT}
)  # the repaired call may share no argument with the failed one
_WAITS = frozenset({"pause", "sleep", "wait", "wait_for"})
_LOGS_IN = frozenset({"authenticate", "log_in", "login", "refresh_session", "refresh_token", "sign_in"})


@dataclass(frozen=True, slots=True)
class ToolRoles:
    """What the tools of one environment are for, as far as recovery goes."""

    waits: frozenset[str] = _WAITS
    logs_in: frozenset[str] = _LOGS_IN
    alternatives: Mapping[str, frozenset[str]] | None = None
    """Tool -> its second routes. None: not known, and then any other tool may be one."""
    effects: frozenset[str] = frozenset()
    """Tools that change the world: repeating one of them is never a wasted call, but may be a duplicate effect."""


Roles = Mapping[str, ToolRoles]
"""By environment id. Environments that are not in it have `ToolRoles()`."""

_GUESSED = ToolRoles()


def roles_of(t: Trajectory, roles: Roles | None = None) -> ToolRoles:
    """Of the tools of an episode: as its record says (`roles` in `meta`, where the tools come with the task), else as
    `roles` says of its environment, else guessed."""
    own = t.meta.get("roles")
    if not isinstance(own, dict):
        return (roles or {}).get(t.env, _GUESSED)
    alternatives = own.get("alternatives") or {}
    return ToolRoles(
        waits=frozenset(own.get("waits") or ()),
        logs_in=frozenset(own.get("logs_in") or ()),
        alternatives={tool: frozenset((other,)) for tool, other in alternatives.items()},
        effects=frozenset(own.get("effects") or ()),
    )


@dataclass(frozen=True, slots=True)
class Blockage:
    """A call that was blocked, all that failed after it for the same end, and whether that end was reached."""

    tool: str
    outcome: Outcome
    """Of the first blocked call; ok where a fault changed the answer in silence."""
    cause: Cause | None
    """Of the first blocked call; injected for a changed answer."""
    fault: str | None
    """Kind of the fault that blocked it; None: it failed of its own."""
    turn: int
    """Index of the turn in which it was blocked."""
    action: str
    """What the agent did first in the next turn: one of `ACTIONS`."""
    right: bool
    """Whether that is what this fault, or this outcome, calls for: `RIGHT`, `RIGHT_AFTER_OUTCOME`. Where that is the
    second route, another tool is right too if the second route follows before the blocked tool is called again; or if
    second routes are not known."""
    failures: int
    """Blocked calls in it, the first included."""
    resolved: int | None
    """Index of the turn in which its end was reached, by any tool; None: never."""
    tokens: int | None
    """Tokens that the policy sampled after `turn`, up to and with `resolved`. None: unresolved, or not recorded."""

    @property
    def told(self) -> bool:
        """Whether the agent was told; False for an answer that was changed in silence."""
        return self.outcome is not Outcome.OK

    @property
    def turns(self) -> int | None:
        """Turns from failure to recovery; 1: the next one."""
        return None if self.resolved is None else self.resolved - self.turn


@dataclass(slots=True)
class _Open:
    call: ToolCall
    result: ToolResult
    turn: int
    earlier: list[_Open]
    """Blockages for the same end that were unresolved when this one began: another fault struck the retry."""
    failures: int = 1
    resolved: int | None = None
    spoilt: bool = False
    """Its effect had taken effect, and was made to land again."""

    def resolve(self, turn: int) -> None:
        if self.resolved is None and not self.spoilt:
            self.resolved = turn
            for one in self.earlier:
                one.resolve(turn)


def blockages(t: Trajectory, roles: Roles | None = None) -> list[Blockage]:
    """Every blocked end of an episode, in order of its first failure; none where outcomes are guesses.

    Blocked is a call that failed, or whose answer a fault changed (page one of a list included). Infrastructure
    failures are nobody's to recover from, and are left out. Further failures of the same kind on the way to the same
    end belong to the blockage; one of another kind begins another, and both are resolved together.

    The end is reached by a later good, unchanged call, or a failed one whose effect took place, of

    - the same tool with the same arguments; with others, if the two share a value, or if the arguments were what was
      wrong (malformed, invalid_arguments, not_found, conflict);
    - a second route (`ToolRoles.alternatives`); where these are not known, none counts;
    - any tool, if the blocked call named one that does not exist and the two share a value.

    Where the effect of the blocked call itself had taken place (a lost reply), only knowledge was left to reach: the
    next good call of a later turn resolves it, unless it makes the same effect land again, and then nothing does.
    """
    of_env = roles_of(t, roles)
    t = t.undisguised  # roles name tools
    found: list[_Open] = []
    if not t.outcomes_known:
        return []
    for i, turn in enumerate(t.turns):
        for call, result in zip(turn.action.tool_calls, turn.results, strict=False):
            if result.cause is Cause.INFRASTRUCTURE:
                continue
            waiting = [o for o in found if o.resolved is None and not o.spoilt]
            if result.ok:
                for one in waiting:
                    if one.result.took_effect and not one.result.ok and one.turn < i:
                        one.spoilt = same_call(one.call, call)
                        one.resolve(i)
            same_end = [o for o in waiting if o.resolved is None and not o.spoilt and _same_end(o, call, of_env)]
            rest = result.fault == "partial_page" and any(o.result.fault == result.fault for o in same_end)
            if (result.ok and (result.fault is None or rest)) or (not result.ok and result.took_effect):
                for one in same_end:
                    one.spoilt = bool(not result.ok and one.result.took_effect and same_call(one.call, call))
                    one.resolve(i)
            if rest or (result.ok and result.fault is None):
                continue
            again = next((o for o in same_end if o.resolved is None and _alike(o, call, result)), None)
            if again is not None:
                again.failures += 1
            else:
                found.append(_Open(call, result, i, [o for o in same_end if o.resolved is None]))
    return [_blockage(t, one, of_env) for one in found]


def reaction(t: Trajectory, turn: int, call: ToolCall, roles: ToolRoles = _GUESSED) -> str:
    """The class (`ACTIONS`) of the action that followed `call`, which was blocked in turn `turn`."""
    t = t.undisguised
    if turn + 1 >= len(t.turns):
        return "cut_off"
    action = t.turns[turn + 1].action
    if action.tool_calls:
        classes = {_class(other, call, roles) for other in action.tool_calls}
        return next(name for name in _BY_CALL if name in classes)
    if turn + 2 < len(t.turns) or not t.stop.by_agent:
        return "message"
    return "give_up" if declined(t) else "final_answer"


def after_faults(
    trajectories: Iterable[Trajectory],
    roles: Roles | None = None,
    *,
    failures: Literal["injected", "own", "all"] = "injected",
) -> Counter[tuple[str, str]]:
    """(kind of fault, class of the first action after it) -> how often, over judged episodes.

    One count for each `Blockage`: what follows its first failure, and not what follows each retry. Faults that change
    an answer in silence count too. `failures="own"`: those that no fault brought about, named after their outcome;
    "all": both. Classes are those of `ACTIONS`.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for t in split(trajectories)[0]:
        for one in blockages(t, roles):
            if failures == "all" or (failures == "injected") == (one.fault is not None):
                counts[one.fault or one.outcome.value, one.action] += 1
    return counts


def right_strategy(
    trajectories: Iterable[Trajectory], roles: Roles | None = None, *, fault: str | None = None
) -> Estimate:
    """Share of faults after which the first action was one that the fault calls for (`RIGHT`), of judged episodes.

    With `fault`, only that kind. Failures that no fault brought about are not in it.
    """
    struck = _by_episode(trajectories, roles, lambda one: one.fault is not None and fault in (None, one.fault))
    return ratio((task_of(t), sum(one.right for one in of_t), len(of_t)) for t, of_t in struck)


def recovery_rate(trajectories: Iterable[Trajectory], cause: Cause | None = None) -> Rate:
    """P(success | at least one call failed), over episodes. Its value is None when no call failed, never 1.

    With `cause`, only failures of that cause count; without, those of every cause but infrastructure, which is nobody's
    policy. An episode with failures of two causes is in both causes' denominators. A fault that the agent is not told
    of (a call that says ok) is no failed call: see `success_by_fault`.
    """
    judged, out = split(trajectories)
    return rate((t.success is True for t in judged if failed(t, cause)), excluded=out)


def recovery_by_cause(trajectories: Iterable[Trajectory]) -> dict[Cause, Rate]:
    """`recovery_rate` of each cause that occurs."""
    held = list(trajectories)
    rates = {cause: recovery_rate(held, cause) for cause in Cause}
    return {cause: r for cause, r in rates.items() if r.n}


def fault_recovery(
    trajectories: Iterable[Trajectory], roles: Roles | None = None, *, cause: Cause | None = None
) -> Estimate:
    """Share of blocked ends that were reached later in the episode, by any tool, also where the task failed.

    Over the blockages of judged episodes that the agent was told of; with `cause`, over those of that cause.
    """
    blocked = _by_episode(trajectories, roles, lambda one: one.told and cause in (None, one.cause))
    return ratio((task_of(t), sum(one.resolved is not None for one in of_t), len(of_t)) for t, of_t in blocked)


def recovery_by_fault(trajectories: Iterable[Trajectory], roles: Roles | None = None) -> dict[str, Estimate]:
    """Share of blocked ends that were reached later, for each kind of fault that struck, sorted by kind.

    After `impossible` no end can be reached: its row is 0, and giving up is right (`right_strategy`).
    """
    held = [(t, blockages(t, roles)) for t in split(trajectories)[0]]
    kinds = sorted({one.fault for _, of_t in held for one in of_t if one.fault is not None})
    out = {}
    for kind in kinds:
        rows = [(t, [one for one in of_t if one.fault == kind]) for t, of_t in held]
        out[kind] = ratio((task_of(t), sum(one.resolved is not None for one in r), len(r)) for t, r in rows)
    return out


def turns_to_recovery(trajectories: Iterable[Trajectory], roles: Roles | None = None) -> Estimate:
    """Mean turns from failure to recovery over the blockages that were resolved. Read `unresolved` next to it: those
    that never were are not in this mean."""
    done = _by_episode(trajectories, roles, lambda one: one.told and one.resolved is not None)
    return ratio((task_of(t), sum(one.turns or 0 for one in of_t), len(of_t)) for t, of_t in done)


def tokens_to_recovery(trajectories: Iterable[Trajectory], roles: Roles | None = None) -> Estimate:
    """The same in tokens that the policy sampled, over resolved blockages of episodes that have tokens."""
    done = _by_episode(trajectories, roles, lambda one: one.told and one.tokens is not None)
    return ratio((task_of(t), sum(one.tokens or 0 for one in of_t), len(of_t)) for t, of_t in done)


def unresolved(trajectories: Iterable[Trajectory], roles: Roles | None = None) -> Estimate:
    """Share of blockages that the agent was told of and whose end was never reached: 1 - `fault_recovery`."""
    blocked = _by_episode(trajectories, roles, lambda one: one.told)
    return ratio((task_of(t), sum(one.resolved is None for one in of_t), len(of_t)) for t, of_t in blocked)


def success_by_fault(trajectories: Iterable[Trajectory]) -> dict[str, Rate]:
    """Success of the episodes that each kind of fault struck (`faults_hit`), sorted by kind; "" holds those that none
    struck. An episode struck by two kinds is in both rows, so the rows do not add up."""
    flags: dict[str, list[bool]] = {}
    for t in split(trajectories)[0]:
        for kind in set(t.faults_hit) or {""}:
            flags.setdefault(kind, []).append(t.success is True)
    return {kind: rate(flags[kind]) for kind in sorted(flags)}


def declined(t: Trajectory) -> bool:
    """Whether the agent ended the episode by saying that the task cannot be done. The stop reason says so; what counts
    as saying it is in `trajectories.giving_up`."""
    return t.stop is StopReason.DECLINED


def failed(t: Trajectory, cause: Cause | None = None) -> bool:
    """Whether a call failed: of that cause, or of any but infrastructure. What was inferred is not known to have."""
    causes = (r.cause for r in t.results() if not r.ok and not r.inferred)
    return any(c is not Cause.INFRASTRUCTURE if cause is None else c is cause for c in causes)


def calls_of(t: Trajectory) -> Iterator[tuple[ToolCall, ToolResult]]:
    """All calls with their results, in order."""
    for turn in t.turns:
        yield from zip(turn.action.tool_calls, turn.results, strict=False)


def same_call(a: ToolCall, b: ToolCall) -> bool:
    """Same tool, same arguments; two calls that could not be parsed are the same when their text is."""
    return a.name == b.name and a.arguments == b.arguments and (a.arguments is not None or a.raw == b.raw)


def _by_episode(
    trajectories: Iterable[Trajectory], roles: Roles | None, wanted: Callable[[Blockage], bool]
) -> Iterator[tuple[Trajectory, list[Blockage]]]:
    for t in split(trajectories)[0]:
        yield t, [one for one in blockages(t, roles) if wanted(one)]


def _blockage(t: Trajectory, one: _Open, roles: ToolRoles) -> Blockage:
    fault, outcome = one.result.fault, one.result.outcome
    action = reaction(t, one.turn, one.call, roles)
    right = right_after_fault(fault, outcome)
    if "alternative" in right and (roles.alternatives is None or _switches(t, one, roles.alternatives)):
        right |= {"other_tool"}
    cause = Cause.INJECTED if one.result.ok else one.result.cause
    tokens = None if one.resolved is None else _sampled(t, one.turn + 1, one.resolved)
    return Blockage(
        one.call.name, outcome, cause, fault, one.turn, action, action in right, one.failures, one.resolved, tokens
    )


def _switches(t: Trajectory, one: _Open, alternatives: Mapping[str, frozenset[str]]) -> bool:
    """Whether the second route is taken before the blocked tool is called again, also after looking something up."""
    routes = alternatives.get(one.call.name, frozenset())
    names = (call.name for turn in t.turns[one.turn + 1 :] for call in turn.action.tool_calls)
    return next((name for name in names if name == one.call.name or name in routes), "") in routes


def _class(call: ToolCall, blocked: ToolCall, roles: ToolRoles) -> str:
    """Which of the classes of `_BY_CALL` a call is in."""
    if call.arguments is None:
        return "retry_same" if same_call(call, blocked) else "malformed"
    if same_call(call, blocked):
        return "retry_same"
    if call.name == blocked.name or not blocked.name:
        return "retry_changed"
    if call.name in (roles.alternatives or {}).get(blocked.name, ()):
        return "alternative"
    if call.name in roles.logs_in:
        return "login"
    return "wait" if call.name in roles.waits else "other_tool"


def _same_end(one: _Open, call: ToolCall, roles: ToolRoles) -> bool:
    """Whether `call` is for what the blocked call was for."""
    blocked = one.call
    if same_call(blocked, call):
        return True
    if call.name in (roles.alternatives or {}).get(blocked.name, ()):
        return True
    if one.result.outcome is Outcome.UNKNOWN_TOOL:
        return call.name != blocked.name and _share(blocked, call)
    if call.name != blocked.name:
        return not blocked.name
    return one.result.outcome in _WRONG_ARGUMENTS or _share(blocked, call)


def _alike(one: _Open, call: ToolCall, result: ToolResult) -> bool:
    """Whether this failure is the blockage's own going on."""
    return (one.call.name, one.result.outcome, one.result.fault) == (call.name, result.outcome, result.fault)


def _share(a: ToolCall, b: ToolCall) -> bool:
    """Whether two calls have an argument's value in common; also where neither has arguments."""
    of_a, of_b = set(_values(a.arguments)), set(_values(b.arguments))
    return bool(of_a & of_b) or not (of_a or of_b)


def _values(arguments: dict[str, Json] | None) -> Iterator[bytes]:
    for value in (arguments or {}).values():
        try:
            yield orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # an integer beyond 64 bits, a lone surrogate
            yield repr(value).encode("utf-8", "backslashreplace")


def _sampled(t: Trajectory, first: int, last: int) -> int | None:
    """Tokens that the policy sampled in turns `first` to `last`; None where that was not recorded."""
    spans = [turn.span for turn in t.turns[first : last + 1]]
    if t.tokens is None or any(span is None for span in spans):
        return None
    return sum(sum(t.tokens.sampled[span[0] : span[1]]) for span in spans if span is not None)
