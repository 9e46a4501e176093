"""The only place where a tool call is executed: find, validate, fault plan, run, render, record.

It never raises for a bad call; a bad call is an observation. A bug in the framework or in the environment's set-up does
raise. No call is ever sent twice: whether to try again is the agent's to decide.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import reprlib
import time
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ValidationError

from ..trajectories.errors import ConfigError, EnvError, InfrastructureError
from ..trajectories.messages import Action, Cause, Json, Message, Outcome, ToolCall, ToolResult, ToolSpec
from ..trajectories.trajectory import Turn
from .background import Lane, run_async
from .deadline import GRACE, MAX_PAYLOAD, run_forked
from .definition import Form, Tool
from .disguise import DrawnDisguise
from .errors import RateLimited, ToolError
from .faults import FaultSite, FaultState, Injection
from .sets import merge

__all__ = ["Toolbox", "ToolboxState", "Validation"]

Validation = Literal["schema", "binding", "off"]

_REPAIR = {
    Outcome.MALFORMED: "write one JSON object with name and arguments",
    Outcome.INVALID_ARGUMENTS: "correct the arguments",
    Outcome.UNKNOWN_TOOL: "use one of the tools given",
    Outcome.GONE: "use one of the tools given",
}


@dataclass(slots=True)
class ToolboxState:
    """What an episode changes in a toolbox. Copied by `snapshot`."""

    faults: FaultState | None = None
    calls: int = 0
    failed: dict[tuple[str, bytes], tuple[str, str]] = field(default_factory=dict)
    """(tool, canonical arguments) -> ids of the latest and of the first failed call like it since one worked."""
    gone: set[str] = field(default_factory=set)
    """Tools that the agent has been told are gone."""
    episode: str = ""
    """What idempotency keys begin with."""
    offered: tuple[str, ...] = ()
    """Tools on offer now."""
    past: frozenset[str] = frozenset()
    """Tools that were on offer earlier in the episode and are not now."""
    first: tuple[ToolSpec, ...] = ()
    """The tools as the episode began with them."""
    told: tuple[ToolSpec, ...] = ()
    """The tools as the agent has last been told of them."""
    disguise: DrawnDisguise | None = None
    """The names under which the agent sees it all. Everything else here is in true names."""

    def copy(self) -> ToolboxState:
        faults = self.faults.copy() if self.faults else None
        disguise = self.disguise.copy() if self.disguise else None
        return replace(self, faults=faults, failed=dict(self.failed), gone=set(self.gone), disguise=disguise)


@dataclass(frozen=True, slots=True)
class _Failure:
    """How running a tool failed."""

    outcome: Outcome
    message: str
    hint: str = ""
    took_effect: bool | None = False
    retry_after: int | None = None
    trace: str | None = None
    cause: Cause = Cause.TOOL


@dataclass(frozen=True, slots=True)
class _Answer:
    """What running a tool came to."""

    content: str = ""
    value: Json = None
    failure: _Failure | None = None

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> _Answer:
        got = orjson.loads(data)
        if (failure := got["failure"]) is not None:
            failure = _Failure(**{**failure, "outcome": Outcome(failure["outcome"]), "cause": Cause(failure["cause"])})
        return cls(got["content"], got["value"], failure)


@dataclass(slots=True)
class _Pending:
    """A call between its parts: opened, run, closed."""

    call: ToolCall
    key: tuple[str, bytes]
    retry_of: str | None
    started: float
    tool: Tool | None = None
    values: dict[str, Any] = field(default_factory=dict)
    injection: Injection | None = None
    result: ToolResult | None = None
    """Set where the call reaches no tool."""


class Toolbox:
    """The tools of one environment, and the execution of calls."""

    def __init__(
        self,
        tools: Sequence[Tool],
        world: FaultSite,
        *,
        validation: Validation = "schema",
        hint_level: int = 3,
        max_output: int = 4000,
        render: Callable[[Any], str] | None = None,
        is_error: Callable[[Any], ToolError | str | bool | None] | None = None,
        errors: Mapping[type[Exception], type[ToolError]] | None = None,
        inject: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        after_call: Callable[[ToolCall, ToolResult], None] | None = None,
    ) -> None:
        """
        Args:
            tools: Unique by name.
            world: The environment, for faults that work through it.
            validation: schema (extra arguments refused), binding (names only), or off.
            hint_level: How much an error tells the agent: 0 that it failed, 1 the code, 2 the cause, 3 the repair.
            max_output: Characters of a result that the agent sees; the cut is marked.
            render: The text of a result; by default a string is its own text and anything else compact JSON.
            is_error: For tools that return their errors. Asked of each returned value: a `ToolError` gives the call its
                outcome; a text, or True for the value's own text, makes it a tool_error.
            errors: For tools that raise errors of their own: which `ToolError` each becomes, the first that fits. Its
                text goes to the agent. An exception that is not listed stays a bug of the tool.
            inject: Values for the tools' `Injected` parameters, by key, or a function that gives them; read anew at
                each call. `idempotency_key` is the toolbox's own.
            after_call: Told of each call with its result, in call order, when it has been recorded.
        """
        self._given = {t.name: t for t in merge(tools)}
        self._specs = tuple(t.spec for t in self._given.values())
        self._extra: dict[str, Tool] = {}
        self.tools: dict[str, Tool] = self._given
        """All tools by name, those too that are not on offer now."""
        if validation not in typing.get_args(Validation):
            raise ConfigError(f"validation is one of {', '.join(typing.get_args(Validation))}, got {validation!r}")
        if hint_level not in range(4) or max_output < 1:
            raise ConfigError(f"hint_level is 0 to 3 and max_output at least 1, got {hint_level} and {max_output}")
        self.world = world
        self.validation = validation
        self.hint_level = hint_level
        self.max_output = max_output
        self.render = render
        self.is_error = is_error
        self.errors = dict(errors or {})
        self._foreign = tuple(self.errors)
        self._inject: Callable[[], Mapping[str, Any]] = inject if callable(inject) else dict
        self.inject: dict[str, Any] = {} if inject is None or callable(inject) else dict(inject)
        self.after_call = after_call
        self.begin(None)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the episode began with them: what the agent's first prompt shows."""
        disguise = self.state.disguise
        return self.state.first if disguise is None else disguise.shown_specs(self.state.first)

    @property
    def present(self) -> tuple[ToolSpec, ...]:
        """The tools on offer now, as the agent sees them."""
        disguise = self.state.disguise
        return self._present if disguise is None else disguise.shown_specs(self._present)

    def described(self, form: Form = "openai") -> list[dict[str, Json]]:
        """The tools on offer in OpenAI's, Hermes', Anthropic's or MCP's form, as the agent sees them."""
        disguise = self.state.disguise
        if disguise is None:
            return [t.described(form) for t in self._on_offer.values()]
        by_name = {shown.name: shown for shown in map(disguise.shown_tool, self._on_offer.values())}
        return [by_name[spec.name].described(form) for spec in self.present]

    # ---- what the agent sees, where that is in disguise --------------------------------------------------------------

    def wear(self, disguise: DrawnDisguise | None, said: Sequence[Message] = ()) -> None:
        """From now on, until the next `begin`, the agent sees all under the names of `disguise`. Inside of the toolbox
        (tools, faults, `after_call`) the names stay the true ones. `said`: the first messages, in true names."""
        self.state.disguise = disguise
        if disguise is not None:
            disguise.meet(self.tools.values(), said)

    def shown_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Messages as the agent sees them."""
        disguise = self.state.disguise
        return tuple(messages) if disguise is None else tuple(map(disguise.shown_message, messages))

    def shown_action(self, action: Action) -> Action:
        """What an expert does, who knows the true names, as an agent would do it that sees the shown ones."""
        disguise = self.state.disguise
        return action if disguise is None else disguise.shown_action(action)

    def true_action(self, action: Action) -> Action:
        """What the agent does, in true names."""
        disguise = self.state.disguise
        return action if disguise is None else disguise.read_action(action)

    def shown_turn(self, turn: Turn, action: Action, told: Sequence[Message] = ()) -> Turn:
        """A turn as the agent sees it, of which `action` is what it did. `told`: as it sees the first of the turn's
        messages, where these are not to be put into other names."""
        disguise = self.state.disguise
        if disguise is None:
            return turn
        calls = tuple(map(disguise.shown_call, turn.action.tool_calls, action.tool_calls))
        results = tuple(map(disguise.shown_result, turn.results))
        messages = (*told, *map(disguise.shown_message, turn.messages[len(told) :])) if turn.messages else ()
        return Turn(Action(action.content, calls), results, messages, turn.reward, turn.span, turn.weight)

    # ---- the episode -------------------------------------------------------------------------------------------------

    def begin(self, faults: FaultState | None, *, episode: str = "", tools: Sequence[Tool] | None = None) -> None:
        """Starts an episode.

        Args:
            faults: What is to strike in it.
            episode: What its idempotency keys begin with: to be unique where tools reach a service that outlives it.
            tools: On offer at first; by default all that the toolbox was made with.
        """
        self._extra = {}
        self.state = ToolboxState(faults, episode=episode)
        self._set(self._given if tools is None else _standing(tools))
        self.state.first = self.state.told = self._present

    def offer(self, tools: Sequence[Tool]) -> None:
        """These are the tools on offer from now on. A call of one that was there before is `gone`, of one that was not
        there yet `unknown_tool`. Raises `EnvError` where two have one name."""
        state, before = self.state, self._on_offer
        now = _standing(tools)
        if now.keys() != before.keys():
            state.past = (state.past | before.keys()) - now.keys()
            state.gone -= now.keys() - before.keys()  # one that came back
        self._set(now)

    def changes(self) -> tuple[tuple[ToolSpec, ...], tuple[str, ...]]:
        """What came (or came in another form) and what went since the agent was last told; now it counts as told."""
        told, now = self.state.told, self._present
        if told is now:
            return (), ()
        self.state.told = now
        before, names = {spec.name: spec for spec in told}, {spec.name for spec in now}
        came = tuple(spec for spec in now if before.get(spec.name) != spec)
        return came, tuple(name for name in before if name not in names)

    def resume(self, state: ToolboxState) -> None:
        """Goes on from `state`, which stays usable. Tools that the toolbox was not made with are to be offered anew."""
        self.state = state.copy()
        known, names = {**self._given, **self._extra}, self.state.offered
        here = [known[name] for name in names if name in known]
        self._set(self._given if names == tuple(self._given) else _standing(here))

    def _set(self, now: dict[str, Tool]) -> None:
        self._on_offer = now
        self._present = self._specs if now is self._given else tuple(t.spec for t in now.values())
        self.state.offered = tuple(now)
        if now is self._given:
            self.tools = {**now, **self._extra} if self._extra else now
            return
        self._extra |= {name: t for name, t in now.items() if name not in self._given}
        self.tools = {**self._given, **self._extra, **now}

    def _met(self) -> Mapping[str, Tool]:
        """The tools that the agent knows of: what a fault may name."""
        if not self.state.past and self._on_offer is self._given:
            return self._given
        return {n: t for n, t in self.tools.items() if n in self.state.past} | self._on_offer

    def execute(self, call: ToolCall) -> tuple[ToolCall, ToolResult]:
        """Runs one call. Returns it with its id, and what it came to. For an agent, in its names."""
        return self.execute_all([call])[0]

    def execute_all(self, calls: Sequence[ToolCall]) -> list[tuple[ToolCall, ToolResult]]:
        """Runs the calls of one message; the results are in call order. For an agent, in its names.

        One after the other; next to each other where all tools concerned are `concurrent`. Ids, validation and faults
        follow call order in both cases.
        """
        disguise = self.state.disguise
        if disguise is None:
            return self.run(calls)
        done = self.run([disguise.read_call(call) for call in calls])
        return [
            (disguise.shown_call(true, call), disguise.shown_result(result))
            for (true, result), call in zip(done, calls, strict=True)
        ]

    def _run_one(self, call: ToolCall) -> tuple[ToolCall, ToolResult]:
        pending = self._open(call)
        if pending.tool is None:
            return self._close(pending, _NOT_RUN)
        return self._close(pending, self._answer(pending.tool, pending.values))

    def run(self, calls: Sequence[ToolCall]) -> list[tuple[ToolCall, ToolResult]]:
        """`execute_all` in true names, for who knows them."""
        if len(calls) > 1:
            named = [self._on_offer.get(call.name) for call in calls if isinstance(call.name, str)]
            if all(tool is None or tool.concurrent for tool in named):
                opened = [self._open(call) for call in calls]
                return [self._close(p, answer) for p, answer in zip(opened, self._gathered(opened), strict=True)]
        return [self._run_one(call) for call in calls]

    # ---- before a tool runs ------------------------------------------------------------------------------------------

    def _open(self, call: ToolCall) -> _Pending:
        """Gives the call its id, finds its tool and values, and asks the fault plan; or refuses it."""
        state = self.state
        state.calls += 1
        started = time.perf_counter()
        canonical, error = _canonical(call)
        name, raw = _clean(call.name), _clean(call.raw)
        call = ToolCall(name, None if error else call.arguments, raw, f"c{state.calls}", error)
        key = (name, canonical)
        earlier = state.failed.get(key)
        pending = _Pending(call, key, earlier[0] if earlier else None, started)
        if call.arguments is None:
            return self._refuse(pending, Outcome.MALFORMED, call.error)
        tool = self._on_offer.get(name)
        if tool is None:
            return self._refuse_absent(pending, name)
        faults = state.faults
        arguments = faults.translate(tool, call.arguments) if faults else call.arguments
        if isinstance(arguments, Injection):
            pending.injection = arguments
        else:
            values, wrong = self._values(tool, arguments)
            if wrong:
                return self._refuse(pending, Outcome.INVALID_ARGUMENTS, wrong[:300])
            pending.injection = faults.before(tool, arguments, self._met(), self.world) if faults else None
            pending.values = values if not tool.injects else self._injected(tool, values, pending)
        injection = pending.injection
        if injection is not None and injection.error is not None and not injection.run:
            failure = _told(injection.error, Cause.INJECTED, took_effect=False)
            pending.result = self._failed(pending, failure, injection.fault)
        else:
            pending.tool = tool
        return pending

    def _refuse(
        self, pending: _Pending, outcome: Outcome, message: str, *, hint: str = "", cause: Cause = Cause.POLICY
    ) -> _Pending:
        """A call that never reaches a tool: the policy's own doing, as a rule."""
        call, content = pending.call, self._error_text(outcome, message, hint or _REPAIR[outcome])
        pending.result = ToolResult(call.id, call.name, outcome, content, cause=cause, retry_of=pending.retry_of)
        return pending

    def _refuse_absent(self, pending: _Pending, name: str) -> _Pending:
        """A call of a tool that is not on offer: never was, as far as the agent can know, or is no longer."""
        if name not in self.state.past:
            return self._refuse(pending, Outcome.UNKNOWN_TOOL, f"no tool is called {name!r}"[:200])
        known = self.tools.get(name)
        other = known.alternative if known is not None and known.alternative in self._on_offer else ""
        untold = any(spec.name == name for spec in self.state.told)
        return self._refuse(
            pending,
            Outcome.GONE,
            f"{name} is no longer there",
            hint=f"use {other}" if other else "",
            cause=Cause.TOOL if untold else Cause.POLICY,
        )

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
        arguments = _own(arguments)
        if tool.arguments is None:
            for name in tool.whole:
                value = arguments.get(name)
                if type(value) is float and value.is_integer():
                    arguments[name] = int(value)
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

    def _injected(self, tool: Tool, values: dict[str, Any], pending: _Pending) -> dict[str, Any]:
        """`values` with those that the toolbox fills. What the model wrote under such a name never counts."""
        values = {name: value for name, value in values.items() if name not in tool.injects}
        given = {**self._inject(), **self.inject}
        for name, wanted in tool.injects.items():
            key = wanted.key or name
            if key in given:
                values[name] = given[key]
            elif key == "idempotency_key":
                earlier = self.state.failed.get(pending.key)
                values[name] = f"{self.state.episode}/{earlier[1] if earlier else pending.call.id}".lstrip("/")
            elif not wanted.optional:
                raise EnvError(
                    f"tool {tool.name!r} needs {key!r} for its parameter {name!r}, and the toolbox has none: give "
                    f"Toolbox(inject=...), or set toolbox.inject[{key!r}] in setup"
                )
        return values

    # ---- running it --------------------------------------------------------------------------------------------------

    def _answer(self, tool: Tool, values: dict[str, Any]) -> _Answer:
        """Runs the tool where it belongs."""
        if tool.is_async:
            return self._awaited([(tool, values)])[0]
        if tool.deadline is None:
            return self._ran(tool, values)
        ended = run_forked(lambda: self._ran(tool, values).to_json(), tool.deadline)
        match ended.how:
            case "done":
                return _Answer.from_json(ended.payload)
            case "late":
                return _late(tool)
            case "too_much":
                return _bug(tool, f"its result is over {MAX_PAYLOAD} bytes")
            case "died":
                return _lost(tool, "the tool died", f"died of {ended.detail}")
        trace = f"no process could be started: {ended.detail}"
        return _Answer(
            failure=_Failure(
                Outcome.CRASHED, "the tool did not start", "retry", False, None, trace, Cause.INFRASTRUCTURE
            )
        )

    def _ran(self, tool: Tool, values: dict[str, Any]) -> _Answer:
        """Runs the tool's function here and now."""
        try:
            try:
                raw = tool.fn(**values)
                if inspect.iscoroutine(raw):  # from a plain function around an async one
                    raw = run_async(raw)
            except self._foreign as error:
                raise self._typed(error) from None
            return self._rendered(tool, raw)
        except ToolError as error:
            return _Answer(failure=_told(error, Cause.TOOL))
        except InfrastructureError:  # a dead server or sandbox: nobody's call is to blame, and the episode ends
            raise
        except (Exception, SystemExit) as error:  # a bug of the tool is an observation, without its internals
            return _bug(tool, _traceback(error))

    async def _ran_async(self, tool: Tool, values: dict[str, Any]) -> _Answer:
        limit = asyncio.timeout(tool.deadline)
        try:
            async with limit:
                try:
                    raw = await tool.fn(**values)
                except self._foreign as error:
                    raise self._typed(error) from None
                answer = self._rendered(tool, raw)
            return _late(tool) if limit.expired() else answer
        except ToolError as error:
            return _Answer(failure=_told(error, Cause.TOOL))
        except InfrastructureError:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            return _late(tool) if limit.expired() and isinstance(error, TimeoutError) else _bug(tool, _traceback(error))

    def _typed(self, error: Exception) -> Exception:
        """A suite's own exception as the `ToolError` that it is to be."""
        if isinstance(error, (ToolError, InfrastructureError)):
            return error
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        return next(made for seen, made in self.errors.items() if isinstance(error, seen))(text)

    def _awaited(self, runs: Sequence[tuple[Tool, dict[str, Any]]]) -> list[_Answer]:
        """Runs the tools next to each other on the private loop: async ones there, plain ones in threads."""
        if not runs:
            return []
        answers: list[_Answer | None] = [None] * len(runs)

        async def one(index: int, tool: Tool, values: dict[str, Any]) -> None:
            if tool.is_async:
                answers[index] = await self._ran_async(tool, values)
            else:
                lane = Lane("sparring-tool")  # the program does not wait for it at its end, whatever it does
                try:
                    answers[index] = await lane.run(self._answer, tool, values)
                finally:
                    lane.close()

        async def all_() -> None:
            await asyncio.gather(*(one(i, tool, values) for i, (tool, values) in enumerate(runs)))

        limits = [tool.deadline for tool, _ in runs]
        longest = None if None in limits else max(limit for limit in limits if limit is not None) + 1.5 * GRACE
        try:
            run_async(all_(), longest)
        except TimeoutError:  # it does not heed its cancellation, or blocks the loop
            return [_late(tool) if a is None else a for a, (tool, _) in zip(list(answers), runs, strict=True)]
        return [a for a in answers if a is not None]

    def _gathered(self, opened: Sequence[_Pending]) -> list[_Answer]:
        """Answers in call order, `_NOT_RUN` for what is not to be run."""
        answers = iter(self._awaited([(p.tool, p.values) for p in opened if p.tool is not None]))
        return [_NOT_RUN if p.tool is None else next(answers) for p in opened]

    def _rendered(self, tool: Tool, raw: Any) -> _Answer:
        """What the agent sees, and the same as a JSON value that shares nothing with the world. Raises whatever the
        value's own code raises, and `TypeError` for a value that is no JSON."""
        if isinstance(raw, str):
            text = value = raw if type(raw) is str else str.__str__(raw)
            text.encode()  # a lone surrogate would break every record: the tool's bug, found here
        else:
            data = orjson.dumps(raw, default=_json_of, option=_DUMP)
            text, value = data.decode(), orjson.loads(data)
        if self.render is not None:
            text = str(self.render(raw))
            text.encode()
        if self.is_error is not None and (wrong := self.is_error(raw)):
            if isinstance(wrong, ToolError):
                return _Answer(failure=_told(wrong, Cause.TOOL))
            message = wrong if isinstance(wrong, str) else text
            return _Answer(failure=_Failure(Outcome.TOOL_ERROR, message, took_effect=None if tool.effect else False))
        return _Answer(text, value)

    # ---- after it has run --------------------------------------------------------------------------------------------

    def _close(self, pending: _Pending, answer: _Answer) -> tuple[ToolCall, ToolResult]:
        """The call's record, and what later calls depend on."""
        result = self._result(pending, answer) if pending.result is None else pending.result
        state, call = self.state, pending.call
        if result.outcome is Outcome.OK:
            state.failed.pop(pending.key, None)
            if state.faults:
                state.faults.after(self.tools[call.name])
        else:
            earlier = state.failed.get(pending.key)
            state.failed[pending.key] = (call.id, earlier[1] if earlier else call.id)
            if result.outcome is Outcome.GONE:
                state.gone.add(call.name)
        if self.after_call is not None:
            self.after_call(call, result)
        return call, result

    def _result(self, pending: _Pending, answer: _Answer) -> ToolResult:
        injection, call = pending.injection, pending.call
        if answer.failure is not None:
            # The tool itself failed: that is what the agent is told, and no fault hides it.
            self._missed(injection)
            return self._failed(pending, answer.failure, None)
        fault = injection.fault if injection else None
        content, value = answer.content, answer.value
        if injection is not None and injection.error is not None:
            return self._failed(pending, _told(injection.error, Cause.INJECTED, took_effect=True), fault)
        if injection is not None and injection.alter is not None:
            altered = injection.alter(content, value)
            if altered is None:
                self._missed(injection)
                fault = None
            else:
                content, value = altered
        seconds = time.perf_counter() - pending.started
        return ToolResult(
            call.id, call.name, Outcome.OK, self._cut(content), value, None, True, fault, pending.retry_of, seconds
        )

    def _missed(self, injection: Injection | None) -> None:
        if injection is not None and self.state.faults is not None:
            self.state.faults.missed(injection)

    def _failed(self, pending: _Pending, failure: _Failure, fault: str | None) -> ToolResult:
        call, content = pending.call, self._error_text(failure.outcome, failure.message, failure.hint)
        seconds = time.perf_counter() - pending.started
        return ToolResult(
            call.id,
            call.name,
            failure.outcome,
            content,
            None,
            failure.cause,
            failure.took_effect,
            fault,
            pending.retry_of,
            seconds,
            failure.trace,
            retry_after=failure.retry_after,
        )

    def _cut(self, text: str) -> str:
        """What the agent sees of a long text."""
        if len(text) <= self.max_output:
            return text
        return f"{text[: self.max_output]}... [cut: {len(text) - self.max_output} more characters]"

    def _error_text(self, outcome: Outcome, message: str, hint: str) -> str:
        if self.hint_level == 0:
            return '{"error":"failed"}'
        body = {"error": outcome.value}
        if self.hint_level >= 2 and message:
            body["message"] = self._cut(message)
        if self.hint_level >= 3 and hint:
            body["hint"] = self._cut(hint)
        return orjson.dumps(body).decode()


def _standing(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Tools by name; a second route that is not among them is none. Raises `EnvError` where two have one name."""
    named = {t.name: t for t in merge(tools)}
    return {name: t if not t.alternative or t.alternative in named else t.alone() for name, t in named.items()}


_DUMP = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_NOT_RUN = _Answer()
_ADDRESS = re.compile(r"<.* at 0x[0-9a-fA-F]+>", re.DOTALL)


def _json_of(value: Any) -> Any:
    """JSON for what orjson does not know. The same in every run: no memory addresses, no order of hashes."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=lambda item: (type(item).__name__, repr(item)))
    text = str(value)
    if _ADDRESS.search(text):
        raise TypeError(f"a {type(value).__name__} is no JSON and has no text form that could be shown")
    return text


def _told(error: ToolError, cause: Cause, *, took_effect: bool | Literal["?"] | None = "?") -> _Failure:
    """A typed error as a failure; `took_effect` where the error itself does not know best."""
    try:
        message = _clean(str(error))
    except Exception:  # a subclass whose text cannot be made
        message = ""
    after = error.retry_after if isinstance(error, RateLimited) else None
    return _Failure(
        error.outcome,
        message,
        _clean(str(error.hint)),
        error.took_effect if took_effect == "?" else took_effect,
        after,
        cause=cause,
    )


def _bug(tool: Tool, trace: str) -> _Answer:
    took_effect = None if tool.effect else False
    return _Answer(failure=_Failure(Outcome.TOOL_ERROR, "internal error", took_effect=took_effect, trace=trace))


def _late(tool: Tool) -> _Answer:
    trace = f"no answer within {tool.deadline} s"
    hint, took_effect = ("it may have happened, check", None) if tool.effect else ("retry", False)
    return _Answer(failure=_Failure(Outcome.TIMEOUT, "no answer in time", hint, took_effect, trace=trace))


def _lost(tool: Tool, message: str, trace: str) -> _Answer:
    hint, took_effect = ("it may have happened, check", None) if tool.effect else ("retry", False)
    return _Answer(failure=_Failure(Outcome.CRASHED, message, hint, took_effect, trace=trace))


def _traceback(error: BaseException) -> str:
    try:
        return _clean("".join(traceback.format_exception(error)))
    except Exception as second:  # an exception whose own text raises
        return f"{type(error).__name__}, whose text cannot be made: {type(second).__name__}"


def _clean(text: Any) -> str:
    """`text` as it can be written: lone surrogates replaced. "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _canonical(call: ToolCall) -> tuple[bytes, str]:
    """The arguments in one form whatever their order, and why they are none (or ""). Only code can write a call whose
    arguments are a dict and no JSON."""
    if call.arguments is None:
        return _clean(call.raw).encode(), _clean(call.error) or "not a call"
    if not isinstance(call.name, str) or not isinstance(call.arguments, dict):
        return b"", "not a name and an object of arguments"
    try:
        data = orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS)
        if b"null" in data and _not_finite(call.arguments):  # orjson writes NaN as null
            raise TypeError("a number that is not finite")
        return data, ""
    except TypeError as error:
        return reprlib.repr(call.arguments).encode("utf-8", "replace"), f"arguments are no JSON: {error}"


def _own(value: Any) -> Any:
    """A copy of a JSON value: what a tool does to its arguments must not change the record of its call."""
    if isinstance(value, dict):
        return {k: _own(v) if isinstance(v, (dict, list)) else v for k, v in value.items()}
    return [_own(v) if isinstance(v, (dict, list)) else v for v in value]


def _not_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_not_finite, inner))
