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
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ValidationError

from ..trajectories.blame import is_users
from ..trajectories.errors import ConfigError, EnvError, InfrastructureError
from ..trajectories.messages import Action, Cause, Json, Message, Outcome, ToolCall, ToolResult, ToolSpec
from ..trajectories.trajectory import Turn
from .background import Lane, run_async
from .deadline import GRACE, MAX_PAYLOAD, run_forked
from .definition import Form, Tool
from .digits import shown
from .disguise import DrawnDisguise
from .errors import FOREIGN, InvalidArguments, RateLimited, ToolError
from .faults import FaultSite, FaultState, Injection
from .models import first_error
from .sets import merge
from .wholes import whole_numbers

__all__ = ["Errors", "Fidelity", "Toolbox", "ToolboxState", "Validation"]

Validation = Literal["schema", "binding", "off"]
Fidelity = Literal["house", "suite"]
Errors = Mapping[type[Exception], type[ToolError] | Callable[[Any], ToolError | None]]
"""Which `ToolError` each exception becomes: a class, which gets its text; or a function, which gets the exception
itself and may give None: it is not meant."""

_MODEL = ""
"""Under this name the values of a call hold the model that a function takes."""

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
    ids: set[str] = field(default_factory=set)
    """Of the calls so far."""
    disguise: DrawnDisguise | None = None
    """The names under which the agent sees it all. Everything else here is in true names."""

    def copy(self) -> ToolboxState:
        faults = self.faults.copy() if self.faults else None
        disguise = self.disguise.copy() if self.disguise else None
        return replace(
            self,
            faults=faults,
            failed=dict(self.failed),
            gone=set(self.gone),
            ids=set(self.ids),
            disguise=disguise,
        )

    def named(self, id: str) -> str:
        """The id of a call: the agent's own, where it gave one that is plain and new in the episode."""
        if not isinstance(id, str) or id in self.ids or not _ID.fullmatch(id):
            n = self.calls
            while (id := f"c{n}") in self.ids:
                n += 1
        self.ids.add(id)
        return id


_ID = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
"""An id that an agent's call may have: endpoints match results to calls by it."""


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
    shown: str | None = None
    """What the agent sees, in place of a text that is made of outcome, message and hint."""


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
    arguments: dict[str, Json] = field(default_factory=dict)
    """As the tool is to have them, before they become values."""
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
        fidelity: Fidelity = "house",
        validation: Validation | None = None,
        hint_level: int = 3,
        max_output: int | None = None,
        render: Callable[[Any], str] | None = None,
        wording: Callable[[str], str] | None = None,
        is_error: Callable[[Any], ToolError | str | bool | None] | None = None,
        errors: Errors | None = None,
        inject: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        after_call: Callable[[ToolCall, ToolResult], None] | None = None,
    ) -> None:
        """
        Args:
            tools: Unique by name.
            world: The environment, for faults that work through it.
            fidelity: "suite" for the tools of a foreign suite, which keep their own rules. Arguments reach a tool as
                the agent wrote them, results are not cut, and what the tool says of a failure is what the agent sees.
                All that it raises is a failure in its own words. What it refuses of arguments that do not fit the
                schema is the policy's fault. The settings below still go before.
            validation: schema (extra arguments refused), binding (names only), or off. By default schema; of a suite
                off.
            hint_level: How much an error tells the agent: 0 that it failed, 1 the code, 2 the cause, 3 the repair.
            max_output: Characters of a result that the agent sees; the cut is marked. By default 4000; of a suite all.
            render: The text of a result; by default a string is its own text and anything else compact JSON.
            wording: From what is said of a failure to what the agent sees, `"Error: {}".format` say. By default JSON
                with error, message and hint; of a suite the message alone.
            is_error: For tools that return their errors. Asked of each returned value: a `ToolError` gives the call its
                outcome; a text, or True for the value's own text, makes it a tool_error.
            errors: For tools that raise errors of their own: which `ToolError` each becomes, the first that fits. Its
                text goes to the agent. An exception that is not listed stays a bug of the tool; of a suite, `FOREIGN`
                says what it is.
            inject: Values for the tools' `Injected` parameters, by key, or a function that gives them; read anew at
                each call. `idempotency_key` is the toolbox's own.
            after_call: Told of each call with its result, in call order, when it has been recorded.
        """
        self._given = {t.name: t for t in merge(tools)}
        self._specs = tuple(t.spec for t in self._given.values())
        self._extra: dict[str, Tool] = {}
        self.tools: dict[str, Tool] = self._given
        """All tools by name, those too that are not on offer now."""
        if fidelity not in typing.get_args(Fidelity):
            raise ConfigError(f"fidelity is one of {', '.join(typing.get_args(Fidelity))}, got {fidelity!r}")
        suite = fidelity == "suite"
        if validation is None:
            validation = "off" if suite else "schema"
        if validation not in typing.get_args(Validation):
            raise ConfigError(f"validation is one of {', '.join(typing.get_args(Validation))}, got {validation!r}")
        if hint_level not in range(4) or (max_output is not None and max_output < 1):
            raise ConfigError(f"hint_level is 0 to 3 and max_output at least 1, got {hint_level} and {max_output}")
        self.world = world
        self.fidelity = fidelity
        self.validation = validation
        self.hint_level = hint_level
        self.max_output: float = max_output if max_output is not None else math.inf if suite else 4000
        self.render = render
        self.wording: Callable[[str], str] | None = str if wording is None and suite else wording
        self.is_error = is_error
        self.errors = dict(errors or {})
        self._raw = suite and validation == "off"
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

    def true_name(self, name: str) -> str:
        """The name of the tool that the agent calls by `name`."""
        disguise = self.state.disguise
        return name if disguise is None else disguise.tools[name]

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
        done = Action(action.content, calls, action.thinking)
        return Turn(done, results, messages, turn.reward, turn.span, turn.weight)

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
        self._set(self._given if tools is None else _by_name(tools))
        self.state.first = self.state.told = self._present

    def offer(self, tools: Sequence[Tool]) -> None:
        """These are the tools on offer from now on. A call of one that was there before is `gone`, of one that was not
        there yet `unknown_tool`. Raises `EnvError` where two have one name."""
        state, before = self.state, self._on_offer
        now = _by_name(tools)
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
        self._set(self._given if names == tuple(self._given) else _by_name(here))

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
        call = ToolCall(name, None if error else call.arguments, raw, state.named(call.id), error)
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
            pending.arguments = arguments
            values = self._values(tool, pending)
            if isinstance(values, str):
                return self._refuse(pending, Outcome.INVALID_ARGUMENTS, values)
            if isinstance(values, _Failure):
                pending.result = self._failed(pending, values, None)
                return pending
            pending.injection = faults.before(tool, arguments, self._met(), self.world) if faults else None
            pending.values = values
            if tool.injects and tool.model is None:  # what the model wrote under such a name never counts
                kept = {name: value for name, value in values.items() if name not in tool.injects}
                pending.values = {**kept, **self._injected(tool, pending)}
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

    def _values(self, tool: Tool, pending: _Pending) -> dict[str, Any] | str | _Failure:
        """The values for the tool's function, or what is wrong with the arguments."""
        arguments = pending.arguments
        if tool.model is None and self.validation == "schema" and not tool.validator.is_valid(arguments):
            error = next(iter(tool.validator.iter_errors(arguments)))
            where = "/".join(str(part) for part in error.instance_path)
            return (f"{where}: {error.message}" if where else error.message)[:300]
        if tool.model is None and self.validation == "binding":
            properties = tool.spec.parameters.get("properties", {})
            missing = [n for n in tool.spec.parameters.get("required", []) if n not in arguments]
            extra = [n for n in arguments if n not in properties]
            if missing or extra:
                return f"missing: {missing}, unexpected: {extra}"[:300]
        try:
            if tool.model is not None:
                return self._modelled(tool, pending)
            return self._converted(tool, _own(arguments))
        except ValidationError as error:
            return str(error) if self.fidelity == "suite" else first_error(error)[:300]
        except EnvError:
            raise
        except Exception as error:  # of a validator of the author's, as if of the tool
            failure = self._raised(tool, error).failure
            return replace(failure, took_effect=False) if failure is not None else str(error)

    def _converted(self, tool: Tool, arguments: dict[str, Json]) -> dict[str, Any]:
        """JSON as what the function's hints ask for. Raises pydantic's `ValidationError` where it is to be valid."""
        if self._raw:
            return arguments
        arguments = whole_numbers(tool.spec.parameters, arguments)
        if tool.arguments is None:
            return arguments
        try:
            model = tool.arguments.model_validate(arguments)
        except ValidationError:  # a date, say: what a JSON Schema cannot hold
            if self.validation == "schema":
                raise
            return arguments
        return {name: getattr(model, name) for name in tool.arguments.model_fields if name in model.model_fields_set}

    def _modelled(self, tool: Tool, pending: _Pending) -> dict[str, Any] | str:
        """The model that the function takes, and what it takes next to that."""
        assert tool.model is not None
        injected = self._injected(tool, pending) if tool.injects else {}
        if unknown := tool.model.unknown(pending.arguments, checked=self.validation != "off"):
            return f"there is no argument {', '.join(map(repr, unknown))}"[:300]
        model, values = tool.model.read(pending.arguments, injected)
        return {_MODEL: model, **values}

    def _injected(self, tool: Tool, pending: _Pending) -> dict[str, Any]:
        """The values that the toolbox fills."""
        given = {**self._inject(), **self.inject}
        values: dict[str, Any] = {}
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
                raw = _called(tool, values)
                if inspect.iscoroutine(raw):  # from a plain function around an async one
                    raw = run_async(raw)
            except Exception as error:
                return self._raised(tool, _too_large(error, tool, values) or error)
            return self._rendered(tool, raw)
        except ToolError as error:
            return self._raised(tool, error)
        except (InfrastructureError, KeyboardInterrupt):
            raise  # a dead server or sandbox is no call's doing: the episode ends
        except BaseException as error:  # sys.exit() too
            return _bug(tool, _traceback(error))

    async def _ran_async(self, tool: Tool, values: dict[str, Any]) -> _Answer:
        limit = asyncio.timeout(tool.deadline)
        try:
            async with limit:
                try:
                    raw = await _called(tool, values)
                except Exception as error:
                    if limit.expired() and isinstance(error, TimeoutError):
                        raise
                    return self._raised(tool, _too_large(error, tool, values) or error)
                answer = self._rendered(tool, raw)
            return _late(tool) if limit.expired() else answer
        except ToolError as error:
            return self._raised(tool, error)
        except (InfrastructureError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            return _late(tool) if limit.expired() and isinstance(error, TimeoutError) else _bug(tool, _traceback(error))

    def _raised(self, tool: Tool, error: Exception) -> _Answer:
        """What an exception of the tool's function comes to. A bug of the tool is an observation, without its
        internals; all that a suite raises is what it says to the agent. Raises `InfrastructureError`."""
        if isinstance(error, InfrastructureError):
            raise error
        if isinstance(error, ToolError):
            return _Answer(failure=_told(error, self._whose(error)))
        for seen, made in self.errors.items():
            if isinstance(error, seen):
                typed = made(self._text(error)) if isinstance(made, type) else made(error)
                if typed is not None:
                    return _Answer(failure=_told(typed, self._whose(typed)))
        if self.fidelity == "house":
            return _bug(tool, _traceback(error))
        known = next(made for seen, made in FOREIGN.items() if isinstance(error, seen))
        kind = InvalidArguments if _unbound(error) else known
        effect = None if tool.effect and kind is not InvalidArguments else False
        typed = kind(self._text(error))
        failure = _told(typed, self._whose(typed), took_effect=effect)
        return _Answer(failure=replace(failure, trace=_traceback(error)))

    def _whose(self, error: ToolError) -> Cause:
        """Whose fault a failure of a tool's own is. A suite's refusal of arguments is the policy's."""
        if self.fidelity == "suite" and isinstance(error, InvalidArguments):
            return Cause.POLICY
        return error.cause

    def _text(self, error: Exception) -> str:
        """What an exception says."""
        if self.fidelity == "house":
            return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        try:
            return str(error) or type(error).__name__
        except Exception:  # an exception whose own text raises
            return type(error).__name__

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
        """What the agent sees, and the same as a JSON value that shares nothing with the world. Raises what the
        value's own code raises, and `TypeError` for a value that is no JSON."""
        if isinstance(raw, str):
            text = value = raw if type(raw) is str else str.__str__(raw)
            try:
                text.encode()
            except UnicodeEncodeError as error:  # it would break every record: the tool's bug, found here
                raise NotJson(f"a text with half a surrogate pair, at character {error.start}") from None
        elif self.render is None:
            try:
                text, value = shown(raw, _json_of)
            except TypeError as error:
                if isinstance(error, NotJson) or is_users(traceback.extract_tb(error.__traceback__)[-1].filename):
                    raise  # or the value's own code has raised it
                raise NotJson(f"{type(raw).__name__}: {error}") from error
        if self.render is not None:
            text = str(self.render(raw))
            text.encode()
            value = _json_or(raw, text)
        if self.is_error is not None and (wrong := self.is_error(raw)):
            if isinstance(wrong, ToolError):
                failure = _told(wrong, self._whose(wrong))
            else:
                message = wrong if isinstance(wrong, str) else text
                failure = _Failure(Outcome.TOOL_ERROR, message, took_effect=None if tool.effect else False)
            own = self.fidelity == "suite" and self.hint_level >= 2 and not isinstance(wrong, str)
            return _Answer(failure=replace(failure, shown=text if own else None))
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
            return self._failed(pending, self._blamed(pending, answer.failure), None)
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

    def _blamed(self, pending: _Pending, failure: _Failure) -> _Failure:
        """Whose fault it is that a suite refused a call: the policy's, where the arguments do not fit the schema that
        it was shown."""
        if self.fidelity == "house" or failure.cause is not Cause.TOOL or failure.outcome in _NOBODY_REFUSED:
            return failure
        tool = pending.tool
        if tool is None or tool.validator.is_valid(pending.arguments):
            return failure
        wrong = failure.outcome is Outcome.TOOL_ERROR
        outcome = Outcome.INVALID_ARGUMENTS if wrong else failure.outcome
        return replace(failure, cause=Cause.POLICY, outcome=outcome)

    def _missed(self, injection: Injection | None) -> None:
        if injection is not None and self.state.faults is not None:
            self.state.faults.missed(injection)

    def _failed(self, pending: _Pending, failure: _Failure, fault: str | None) -> ToolResult:
        call, content = pending.call, failure.shown
        if content is None:
            content = self._error_text(failure.outcome, failure.message, failure.hint)
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
        kept = int(self.max_output)
        return f"{text[:kept]}... [cut: {len(text) - kept} more characters]"

    def _error_text(self, outcome: Outcome, message: str, hint: str) -> str:
        if self.wording is not None:
            said = ("failed", outcome.value, message, message)[self.hint_level] or outcome.value
            more = f"; {hint}" if self.hint_level >= 3 and hint else ""
            return _clean(str(self.wording(self._cut(said + more))))
        if self.hint_level == 0:
            return '{"error":"failed"}'
        body = {"error": outcome.value}
        if self.hint_level >= 2 and message:
            body["message"] = self._cut(message)
        if self.hint_level >= 3 and hint:
            body["hint"] = self._cut(hint)
        return orjson.dumps(body).decode()


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Tools by name; a second route that is not among them is none. Raises `EnvError` where two have one name."""
    named = {t.name: t for t in merge(tools)}
    return {name: t if not t.alternative or t.alternative in named else t.alone() for name, t in named.items()}


def _too_large(error: Exception, tool: Tool, values: Mapping[str, Any]) -> InvalidArguments | None:
    """For a body that cannot work with a whole number beyond 64 bits (`1e308`) that it was given: these are the
    arguments' fault. None for any other failure."""
    if not isinstance(error, OverflowError):
        return None
    large = [name for name, value in values.items() if type(value) is int and not -(2**63) <= value < 2**64]
    if not large:
        return None
    return InvalidArguments(
        f"{large[0]}: expected a number that the tool can work with, got one of {len(str(values[large[0]]))} digits",
        took_effect=None if tool.effect else False,
    )


_NOBODY_REFUSED = (Outcome.TIMEOUT, Outcome.CRASHED, Outcome.UNAVAILABLE, Outcome.RATE_LIMITED)
_OWN_FILES = str(Path(__file__).resolve().parent)
_NOT_RUN = _Answer()
_ADDRESS = re.compile(r"<.* at 0x[0-9a-fA-F]+>", re.DOTALL)


def _json_or(raw: Any, text: str) -> Json:
    """A value as JSON; where it is none, its text."""
    try:
        return shown(raw, _json_of)[1]
    except (TypeError, ValueError):
        return text


class NotJson(TypeError):
    """What a tool has returned is no JSON."""


def _json_of(value: Any) -> Any:
    """JSON for what orjson does not know. The same in every run: no memory addresses, no order of hashes."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=lambda item: (type(item).__name__, repr(item)))
    text = str(value)
    if _ADDRESS.search(text):
        raise NotJson(f"a value of type {type(value).__name__} is no JSON and has no text form that could be shown")
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


def _called(tool: Tool, values: dict[str, Any]) -> Any:
    if tool.model is None:
        return tool.fn(**values)
    return tool.fn(values[_MODEL], **{name: value for name, value in values.items() if name != _MODEL})


def _unbound(error: Exception) -> bool:
    """Whether Python refused the call itself: the function lacks an argument, or has no such one. No code of the
    function ran then, so the last frame is ours."""
    if not isinstance(error, TypeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and str(Path(frames[-1].filename).resolve().parent) == _OWN_FILES


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
