"""The only place where a tool call is executed: find, validate, fault plan, run, render, record.

It never raises for a bad call; a bad call is an observation. A bug in the framework does raise.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from pydantic import ValidationError

from ..trajectories.errors import EnvError
from ..trajectories.messages import Cause, Json, Outcome, ToolCall, ToolResult, ToolSpec
from .faults import FaultState, Injection, World
from .tool import RateLimited, Tool, ToolError

__all__ = ["Toolbox", "ToolboxState", "Validation"]

Validation = Literal["schema", "binding", "off"]

_REPAIR = {
    Outcome.MALFORMED: "write one JSON object with name and arguments",
    Outcome.INVALID_ARGUMENTS: "correct the arguments",
    Outcome.UNKNOWN_TOOL: "use one of the tools given",
}


@dataclass(slots=True)
class ToolboxState:
    """What an episode changes in a toolbox. Copied by `snapshot`."""

    faults: FaultState | None = None
    calls: int = 0
    failed: dict[tuple[str, bytes], str] = field(default_factory=dict)
    """(tool, canonical arguments) -> id of the latest failed call like it."""
    gone: set[str] = field(default_factory=set)
    """Tools that the agent has been told are gone."""

    def copy(self) -> ToolboxState:
        return ToolboxState(self.faults.copy() if self.faults else None, self.calls, dict(self.failed), set(self.gone))


class Toolbox:
    """The tools of one environment, and the execution of calls."""

    def __init__(
        self,
        tools: Sequence[Tool],
        world: World,
        *,
        validation: Validation = "schema",
        hint_level: int = 3,
        max_output: int = 4000,
    ) -> None:
        """
        Args:
            tools: Unique by name.
            world: The environment, for faults that work through it.
            validation: schema (extra arguments refused), binding (names only), or off.
            hint_level: How much an error tells the agent: 0 that it failed, 1 the code, 2 the cause, 3 the repair.
            max_output: Characters of a result that the agent sees; the cut is marked.
        """
        self.tools = {t.name: t for t in tools}
        if len(self.tools) != len(tools):
            names = [t.name for t in tools]
            raise EnvError(f"two tools are named {next(n for n in names if names.count(n) > 1)!r}")
        self.world = world
        self.validation = validation
        self.hint_level = hint_level
        self.max_output = max_output
        self.state = ToolboxState()

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(t.spec for t in self.tools.values())

    def begin(self, faults: FaultState | None) -> None:
        """Starts an episode."""
        self.state = ToolboxState(faults)

    def execute(self, call: ToolCall) -> tuple[ToolCall, ToolResult]:
        """Runs one call. Returns it with its id, and what it came to."""
        started = time.perf_counter()
        state = self.state
        state.calls += 1
        canonical, error = _canonical(call)
        call = ToolCall(call.name, None if error else call.arguments, call.raw, f"c{state.calls}", error)
        key = (call.name, canonical)
        result = self._attempt(call, state.failed.get(key), started)
        if result.ok:
            state.failed.pop(key, None)
            if state.faults:
                state.faults.after(self.tools[call.name])
        else:
            state.failed[key] = call.id
            if result.outcome is Outcome.GONE:
                state.gone.add(call.name)
        return call, result

    def _attempt(self, call: ToolCall, retry_of: str | None, started: float) -> ToolResult:
        if call.arguments is None:
            return self._refused(call, Outcome.MALFORMED, call.error, retry_of)
        tool = self.tools.get(call.name)
        if tool is None:
            return self._refused(call, Outcome.UNKNOWN_TOOL, f"no tool is called {call.name!r}"[:200], retry_of)
        faults = self.state.faults
        arguments = faults.translate(tool, call.arguments) if faults else call.arguments
        if isinstance(arguments, Injection):
            return self._run(tool, call, {}, arguments, retry_of, started)
        values, wrong = self._values(tool, arguments)
        if wrong:
            return self._refused(call, Outcome.INVALID_ARGUMENTS, wrong[:300], retry_of)
        injection = faults.before(tool, arguments, self.tools, self.world) if faults else None
        return self._run(tool, call, values, injection, retry_of, started)

    def _run(
        self,
        tool: Tool,
        call: ToolCall,
        values: dict[str, Any],
        injection: Injection | None,
        retry_of: str | None,
        started: float,
    ) -> ToolResult:
        fault = injection.fault if injection else None
        error: ToolError | None = injection.error if injection else None
        if injection is not None and error is not None and not injection.run:
            return self._failed(call, error, Cause.INJECTED, False, fault, retry_of, started)
        try:
            content, value = self._render(tool.fn(**values))
        except ToolError as raised:
            # The tool itself failed: that is what the agent is told, and no fault hides it.
            self._missed(injection)
            return self._failed(call, raised, Cause.TOOL, raised.landed, None, retry_of, started)
        except Exception as raised:  # a bug of the tool is an observation, without its internals
            self._missed(injection)
            shown = ToolError("internal error", landed=None if tool.effect else False)
            trace = "".join(traceback.format_exception(raised))
            return self._failed(call, shown, Cause.TOOL, shown.landed, None, retry_of, started, trace=trace)
        if error is not None:
            return self._failed(call, error, Cause.INJECTED, True, fault, retry_of, started)
        if injection is not None and injection.alter is not None:
            altered = injection.alter(content, value)
            if altered is None:
                self._missed(injection)
                fault = None
            else:
                content, value = altered
        seconds = time.perf_counter() - started
        return ToolResult(
            call.id, tool.name, Outcome.OK, self._cut(content), value, None, True, fault, retry_of, seconds
        )  # fmt: skip

    def _missed(self, injection: Injection | None) -> None:
        if injection is not None and self.state.faults is not None:
            self.state.faults.missed(injection)

    def _failed(
        self,
        call: ToolCall,
        error: ToolError,
        cause: Cause,
        landed: bool | None,
        fault: str | None,
        retry_of: str | None,
        started: float,
        *,
        trace: str | None = None,
    ) -> ToolResult:
        content = self._error_text(error.outcome, str(error), error.hint)
        seconds = time.perf_counter() - started
        return ToolResult(
            call.id, call.name, error.outcome, content, None, cause, landed, fault, retry_of, seconds, trace,
            retry_after=error.retry_after if isinstance(error, RateLimited) else None,
        )  # fmt: skip

    def _refused(self, call: ToolCall, outcome: Outcome, message: str, retry_of: str | None) -> ToolResult:
        """A call that never reached a tool: the policy's own doing."""
        content = self._error_text(outcome, message, _REPAIR[outcome])
        return ToolResult(call.id, call.name, outcome, content, cause=Cause.POLICY, retry_of=retry_of)

    def _values(self, tool: Tool, arguments: dict[str, Json]) -> tuple[dict[str, Any], str]:
        """The values for the tool's function, and what is wrong with them (or "")."""
        if self.validation == "schema" and not tool.validator.is_valid(arguments):
            error = next(iter(tool.validator.iter_errors(arguments)))
            where = "/".join(str(part) for part in error.instance_path)
            return {}, f"{where}: {error.message}" if where else error.message
        if self.validation == "binding":
            properties = tool.spec.parameters.get("properties", {})
            missing = [n for n in tool.spec.parameters.get("required", []) if n not in arguments]
            extra = [n for n in arguments if n not in properties]
            if missing or extra:
                return {}, f"missing: {missing}, unexpected: {extra}"
        if tool.arguments is None:
            return arguments, ""
        try:
            model = tool.arguments.model_validate(arguments)
        except ValidationError as error:  # a date, say: what a JSON Schema cannot hold
            if self.validation != "schema":
                return arguments, ""
            first = error.errors(include_url=False)[0]
            return {}, f"{'/'.join(map(str, first['loc']))}: {first['msg']}"
        return {
            name: getattr(model, name) for name in tool.arguments.model_fields if name in model.model_fields_set
        }, ""

    def _render(self, value: Any) -> tuple[str, Json]:
        """What the agent sees, and the same as a JSON value that shares nothing with the world."""
        if isinstance(value, str):
            text = value
            value.encode()  # a lone surrogate would break every record: the tool's bug, found here
        else:
            data = orjson.dumps(value, default=str, option=_DUMP)
            text, value = data.decode(), orjson.loads(data)
        return text, value

    def _cut(self, text: str) -> str:
        """What the agent sees of a long result."""
        if len(text) <= self.max_output:
            return text
        return f"{text[: self.max_output]}... [cut: {len(text) - self.max_output} more characters]"

    def _error_text(self, outcome: Outcome, message: str, hint: str) -> str:
        if self.hint_level == 0:
            return '{"error":"failed"}'
        body = {"error": outcome.value}
        if self.hint_level >= 2 and message:
            body["message"] = message
        if self.hint_level >= 3 and hint:
            body["hint"] = hint
        return orjson.dumps(body).decode()


_DUMP = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def _canonical(call: ToolCall) -> tuple[bytes, str]:
    """The arguments in one form whatever their order, and why they are none (or "")."""
    if call.arguments is None:
        return call.raw.encode("utf-8", "replace"), call.error or "not a call"
    try:
        return orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS), ""
    except TypeError as error:  # only code can write such a call
        return repr(call.arguments).encode("utf-8", "replace"), f"arguments are no JSON: {error}"
