"""Every kind of fault that comes with the house. Each is one class marked `@fault`; their order is that of `FAULTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson

from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import (
    Conflict,
    Forbidden,
    Gone,
    InvalidArguments,
    RateLimited,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
)
from .base import Blocked, Fault, FaultMemory, FaultSite, Injection, Struck, WayOut, fault

__all__: list[str] = []

# ---- one route is lost -----------------------------------------------------------------------------------------------


class _LostRoute(Fault):
    """A tool with a second route stops working for good."""

    lasts, wrong = "for good", "call it again"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(t.alternative for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return bool(tool.alternative)

    def strike(self, call: Struck) -> Injection | None:
        if not call.spare():
            return None
        call.state.lost.add(call.tool.name)
        self.left(call.state)[call.tool.name] = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        return Injection(self.kind, self.error(call.tool)) if call.tool.name in self.left(call.state) else None

    def error(self, tool: Tool) -> ToolError:
        raise NotImplementedError


@fault
class ToolRemoved(_LostRoute):
    kind, recovers = "tool_removed", "take the second route"
    right = ("alternative",)

    def error(self, tool: Tool) -> ToolError:
        return Gone(f"{tool.name} was removed", successor=tool.alternative)


@fault
class RouteForbidden(_LostRoute):
    kind, recovers, wrong = "forbidden", "take another, permitted route", "log in again and again"
    right = ("alternative",)

    def error(self, tool: Tool) -> ToolError:
        return Forbidden(f"{tool.name} is not permitted", hint=f"use {tool.alternative}")


@fault
class QuotaExhausted(_LostRoute):
    kind, recovers, wrong = "quota_exhausted", "take another route; waiting does not help", "wait"
    right = ("alternative",)

    def error(self, tool: Tool) -> ToolError:
        return RateLimited(f"the quota of {tool.name} is used up", retry_after=None, hint=f"use {tool.alternative}")


# ---- the way is barred until something is done -----------------------------------------------------------------------


@fault
class SessionExpired(Fault):
    kind, recovers, wrong = "session_expired", "log in, then go on where it stopped", "retry, or start over"
    right = ("login",)
    lasts = "until logged in"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(t.logs_in for t in tools.values()) and not all(t.logs_in for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return not tool.logs_in

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.logs_in or not self.fits(call.tools, call.site):
            return None
        self.left(call.state)[""] = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if call.tool.logs_in:
            return None
        login = next(t.name for t in call.tools.values() if t.logs_in)
        return Injection(self.kind, Unauthenticated("session expired", hint=f"call {login}"))

    def after(self, tool: Tool, state: FaultMemory) -> None:
        if tool.logs_in:
            del state.memory[self.kind]


@fault
class Impossible(Fault):
    solvable = False
    kind, recovers, wrong = "impossible", "stop, and say what was not done", "claim success"
    right = ("give_up", "alternative")
    lasts = "for good"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(t.effect for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return tool.effect

    def strike(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        self.left(call.state)[""] = True
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        return Injection(self.kind, Forbidden("not permitted for this case", hint="say that it cannot be done"))


@fault
class RateLimitedFault(Fault):
    """Calling again too early starts the wait anew, as servers do that defend themselves."""

    kind, recovers, wrong = "rate_limited", "wait, then make the same call", "call again at once"
    right = ("wait",)
    lasts = "until some ticks have passed"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(t.waits for t in tools.values()) and not all(t.waits for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return not tool.waits

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.waits or not self.fits(call.tools, call.site):
            return None
        self.left(call.state)[call.tool.name] = call.state.ticks + 1
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = self.left(call.state)
        if call.state.ticks >= left.get(call.tool.name, 0):
            left.pop(call.tool.name, None)
            return None
        ticks = 2 + int(2 * call.draw("ticks"))
        left[call.tool.name] = call.state.ticks + ticks + 1
        wait = next(t.name for t in call.tools.values() if t.waits)
        return Injection(self.kind, RateLimited(retry_after=ticks, hint=f"call {wait}, then try again"))


# ---- it passes by itself ---------------------------------------------------------------------------------------------


@fault
class UnavailableFault(Fault):
    kind, recovers, wrong = "unavailable", "retry the same call, a few times at most", "switch, or give up"
    right = ("retry_same", "wait")
    lasts = "one or two calls, or until some time has passed"

    def strike(self, call: Struck) -> Injection | None:
        self.left(call.state)[call.tool.name] = 1 + (call.draw("more") < 0.5)
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = self.left(call.state)
        if not left.get(call.tool.name):
            return None
        left[call.tool.name] -= 1
        return Injection(self.kind, Unavailable("try again", hint="retry"))

    def after(self, tool: Tool, state: FaultMemory) -> None:
        if tool.waits:
            del state.memory[self.kind]


@fault
class Flapping(Fault):
    """Of the next calls, some fail and some do not."""

    kind, recovers, wrong = "flapping", "retry, a few times at most", "take one good answer for the end of it"
    right = ("retry_same", "wait")
    lasts = "six calls, two failures at most"

    def strike(self, call: Struck) -> Injection | None:
        self.left(call.state)[call.tool.name] = [5, 1]
        return self._down()

    def holds(self, call: Struck) -> Injection | None:
        calls, failures = self.left(call.state).get(call.tool.name, (0, 0))
        if not calls or not failures:
            return None
        fails = call.draw("flap") < 0.5
        self.left(call.state)[call.tool.name] = [calls - 1, failures - fails]
        return self._down() if fails else None

    def _down(self) -> Injection:
        return Injection(self.kind, Unavailable("connection reset", hint="retry"))


@fault
class InternalError(Fault):
    """Once or twice; where there is a second route, sometimes for good."""

    kind, recovers, wrong = "internal_error", "retry twice at most, then take another route", "retry for ever"
    right = ("retry_same", "alternative")
    lasts = "one or two calls, or for good"

    def strike(self, call: Struck) -> Injection | None:
        always = call.draw("always") < 0.4 and call.spare()
        if always:
            call.state.lost.add(call.tool.name)
        self.left(call.state)[call.tool.name] = -1 if always else 1 + (call.draw("more") < 0.5)
        return self.holds(call)

    def holds(self, call: Struck) -> Injection | None:
        left = self.left(call.state)
        if not left.get(call.tool.name):
            return None
        if left[call.tool.name] > 0:
            left[call.tool.name] -= 1
        other = f", or use {call.tool.alternative}" if call.tool.alternative else ""
        return Injection(self.kind, ToolError("internal error", hint=f"retry once{other}"))


# ---- what the agent knows is out of date -----------------------------------------------------------------------------


@fault
class SchemaDrift(Fault):
    """The service has renamed a parameter; the tool's description still has the old name."""

    kind, recovers, wrong = "schema_drift", "repair the arguments as the error says", "the same arguments again"
    right = ("retry_changed",)
    lasts = "for good"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(t.spec.parameters.get("properties") for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return bool(tool.spec.parameters.get("properties"))

    def strike(self, call: Struck) -> Injection | None:
        if not call.arguments or call.tool.name in self.left(call.state):
            return None
        names = sorted(call.arguments)
        old = names[int(call.draw("which") * len(names))]
        new = f"{old.removesuffix('_id')}_ref" if old.endswith("_id") else f"{old}_text"
        if new in call.tool.spec.parameters.get("properties", {}):
            return None
        self.left(call.state)[call.tool.name] = [old, new]
        return self._refused(old, new)

    def translate(self, tool: Tool, arguments: dict[str, Json], state: FaultMemory) -> dict[str, Json] | Injection:
        old, new = self.left(state).get(tool.name, ("", ""))
        if old and old in arguments:
            return self._refused(old, new)
        return {old if name == new else name: value for name, value in arguments.items()}

    def told(self, tool: str, arguments: dict[str, Json], state: FaultMemory) -> dict[str, Json]:
        old, new = state.memory[self.kind].get(tool, ("", ""))
        return {new if key == old else key: value for key, value in arguments.items()}

    def way_out(self, blocked: Blocked) -> WayOut:
        yield from ()
        return "again"

    def _refused(self, old: str, new: str) -> Injection:
        return Injection(self.kind, InvalidArguments(f"{old} is now called {new}", hint=f"write {new} for {old}"))


@fault
class StaleId(Fault):
    kind, recovers, wrong = "stale_id", "look the id up again, redo what depends on it", "retry the old id"
    right = ("other_tool", "alternative")

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return "rotate_id" in site.hooks and any(t.ids for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return bool(tool.ids)

    def strike(self, call: Struck) -> Injection | None:
        stale = next((call.arguments[name] for name in call.tool.ids if name in call.arguments), None)
        if stale is None or not call.site.rotate_id(call.tool.name, call.arguments):
            return None
        return Injection(self.kind, Conflict(f"{stale} is stale", hint="look it up again"))


# ---- no answer -------------------------------------------------------------------------------------------------------


class _Timeout(Fault):
    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(t.effect for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return tool.effect

    def strike(self, call: Struck) -> Injection | None:
        if not call.tool.effect:
            return None
        # One text for both: an agent has to look.
        error = ToolTimeout("no answer in time", hint="it may have happened, check")
        return Injection(self.kind, error, run=self.effect == "applied")


@fault
class TimeoutLost(_Timeout):
    kind, recovers, wrong = "timeout_lost", "look whether it happened, then repeat it", "take it for done"
    right = ("other_tool",)


@fault
class TimeoutLanded(_Timeout):
    kind, recovers = "timeout_landed", "look whether it happened; repeat it only if it did not"
    right = ("other_tool",)
    wrong, effect = "repeat it blindly: it happens twice", "applied"


# ---- the answer is wrong ---------------------------------------------------------------------------------------------


class _WrongAnswer(Fault):
    """The tool runs, and what it returned is changed on the way. Only tools that read: an effect's answer may be all
    that an agent has."""

    effect = "applied"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return any(not t.effect for t in tools.values())

    def suits(self, tool: Tool) -> bool:
        return not (tool.effect or tool.logs_in or tool.waits)

    def strike(self, call: Struck) -> Injection | None:
        if call.tool.effect or call.tool.logs_in or call.tool.waits:
            return None
        return Injection(self.kind, alter=lambda text, value: self.alter(call, text, value))

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        raise NotImplementedError


@fault
class EmptyResult(_WrongAnswer):
    kind, shows, recovers, wrong = "empty_result", "silent", "ask again, or in another way", "invent a value"
    right = ("retry_same", "retry_changed", "alternative")

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        return _shown(type(value)()) if value and isinstance(value, (list, dict)) else None


@fault
class PartialPage(_WrongAnswer):
    """The first half of a list, and a mark that there is more; the same call brings the rest."""

    kind, recovers, wrong = "partial_page", "page until all is there", "answer from page one"
    right = ("retry_same", "retry_changed")
    lasts = "until the rest is fetched"

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        if not isinstance(value, list) or len(value) < 2:
            return None
        half = len(value) // 2
        self.left(call.state)[_key(call)] = half
        return _shown({"page": value[:half], "more": "call again for the rest"})

    def holds(self, call: Struck) -> Injection | None:
        start = self.left(call.state).pop(_key(call), None)
        if start is None:
            return None

        def rest(text: str, value: Json) -> tuple[str, Json] | None:
            return _shown({"page": value[start:]}) if isinstance(value, list) else None

        return Injection(self.kind, alter=rest)

    def way_out(self, blocked: Blocked) -> WayOut:
        yield from ()
        if not blocked.result.ok:
            return None
        blocked.found += blocked.result.value["page"]
        return "again" if "more" in blocked.result.value else replace(blocked.result, value=blocked.found)


@fault
class TruncatedOutput(_WrongAnswer):
    kind, recovers, wrong = "truncated_output", "ask again, or for less", "use the fragment"
    right = ("retry_same", "retry_changed")

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        return (f"{text[: len(text) // 2]}... [truncated]", None) if len(text) >= 20 else None


@fault
class MalformedOutput(_WrongAnswer):
    kind, shows, recovers = "malformed_output", "silent", "ask again, else take another route"
    right = ("retry_same", "alternative")
    wrong = "use the fragment"

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        if len(text) < 20:
            return None
        cut = int(len(text) * (0.3 + 0.4 * call.draw("cut")))
        return text[:cut] + text[cut + 4 :][::-1], None


@fault
class SilentWrongValue(_WrongAnswer):
    """Another record's data. The environment chooses it (`FaultSite.distort`): an attentive agent can see it."""

    kind, shows, recovers = "silent_wrong_value", "silent", "compare with what was asked for; ask again"
    right = ("retry_same", "retry_changed", "alternative")
    wrong = "trust it"

    def fits(self, tools: Mapping[str, Tool], site: FaultSite) -> bool:
        return "distort" in site.hooks

    def alter(self, call: Struck, text: str, value: Json) -> tuple[str, Json] | None:
        other = call.site.distort(call.tool.name, call.arguments, value)
        return None if other is None else _shown(other)


def _shown(value: Json) -> tuple[str, Json]:
    return orjson.dumps(value).decode(), value


def _key(call: Struck) -> str:
    return f"{call.tool.name} {orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS).decode()}"
