"""An environment's own expert (`solve`), driven so that it also recovers from faults.

The author's generator says what to do from the present state; the driver adds what every good agent does about a failed
call: retry what is transient (a few times), wait out a rate limit, log in when the session expired, repair arguments
whose names have changed, fetch the other pages of a list, ask again when an answer cannot be right, take the second
route when a tool is gone, forbidden or broken, and start `solve` again from the present state after a stale id or a
timeout (look first, then act).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import Any

from ..tools.faults import FAULTS, Blocked
from ..tools.plans import FaultPlan
from ..trajectories.errors import EnvError
from ..trajectories.messages import Action, Json, Outcome, ToolResult
from ..trajectories.trajectory import Task, Turn
from .env import Solution, ToolEnv
from .hooks import must

__all__ = ["SAID", "Asked", "ask", "expert", "expert_turns", "expert_turns_for", "play"]

_MOST_ATTEMPTS = 8
"""At one call. Several faults may strike it one after the other."""
_MOST_ERRORS = 4
_MOST_RESTARTS = 12

SAID = ToolResult("", "", Outcome.OK, "")
"""What a course is sent for a message: it has no result."""

Calls = Generator[Action, ToolResult, None]


def expert(env: ToolEnv) -> Calls:
    """Actions that solve the present episode from its present state; is sent the result of each call.

    Raises `EnvError` when the environment has no `solve`.
    """
    for _ in range(_MOST_RESTARTS):
        solution = env.solve(env.episode.task)
        if solution is None:
            raise EnvError(f"{type(env).__name__} has no solve(self, task): gold trajectories need an expert")
        label = f"{type(env).__name__}.solve(task) gives"
        must(inspect.isgenerator(solution), env.solve, label, solution, "a generator: let it yield its calls")
        yield from _follow(env, solution)
    while True:
        yield Action("Cannot do it.")


def _follow(env: ToolEnv, solution: Solution) -> Calls:
    """Goes through one course of `solve`. Returns when it has to begin again from the state as it is now: after a
    failure, or after a message that did not end the episode."""
    try:
        wanted = next(solution)
    except StopIteration:
        yield Action("Done.")
        return
    while True:
        if isinstance(wanted, str):
            yield Action(wanted)
            try:  # still here: the user answered, and the world may now want something else
                wanted = solution.send(SAID)
            except StopIteration:
                return
            continue
        label = f"{type(env).__name__}.solve(task) yields"
        must(_is_call(wanted), env.solve, label, wanted, "(tool, {parameter: value}), or the text of a message")
        result = yield from _insist(env, *wanted)
        name, arguments = wanted
        match result.outcome:
            case Outcome.FORBIDDEN | Outcome.RATE_LIMITED | Outcome.TOOL_ERROR | Outcome.UNAVAILABLE:
                tool = env.toolbox.tools.get(name)
                if tool is None or not tool.alternative or env.episode.is_gone(tool.alternative):
                    yield Action("Cannot: not permitted." if result.outcome is Outcome.FORBIDDEN else "Cannot do it.")
                    return
                env.toolbox.state.gone.add(name)  # as good as gone: by the other route, from the state as it is
                return
            case Outcome.TIMEOUT:
                check = env.fault_hooks.look(env, name, arguments)
                fits = check is None or _is_call(check)
                must(
                    fits,
                    env.fault_hooks.look,
                    "fault_hooks.look(env, tool, arguments) gives",
                    check,
                    "(tool, arguments), or None",
                )
                if check is not None:
                    yield from _insist(env, *check)
                return  # it may have happened: go on from the state as it is
            case Outcome.CONFLICT:
                return  # what was known no longer holds: look everything up again
        try:
            wanted = solution.send(result)
        except StopIteration:
            yield Action("Done.")
            return


def _is_call(wanted: Any) -> bool:
    """Whether it is (tool, arguments)."""
    return isinstance(wanted, tuple) and len(wanted) == 2 and isinstance(wanted[0], str) and isinstance(wanted[1], dict)


def _insist(env: ToolEnv, name: str, arguments: dict[str, Json]) -> Generator[Action, ToolResult, ToolResult]:
    """One call, made again as long as that is what a good agent would do; the last result."""
    login = next((t.name for t in env.toolbox.tools.values() if t.logs_in), None)
    wait = next((t.name for t in env.toolbox.tools.values() if t.waits), None)
    errors = 0
    result = yield Action.call(name, **_as_told(env, name, arguments))
    blocked = Blocked(name, arguments, env.toolbox.tools, result)
    for _ in range(_MOST_ATTEMPTS):
        then = None
        if result.fault in FAULTS:  # what is known of this kind comes first
            blocked.result = result
            then = yield from FAULTS[result.fault].way_out(blocked)
            if isinstance(then, ToolResult):
                return then
        match result.outcome:
            case _ if then == "again":
                pass
            case Outcome.UNAVAILABLE | Outcome.CRASHED:
                pass
            case Outcome.RATE_LIMITED if result.retry_after is not None and wait is not None:
                yield Action.call(wait)
            case Outcome.TOOL_ERROR if errors < _MOST_ERRORS and result.took_effect is False:
                errors += 1
            case Outcome.UNAUTHENTICATED if login is not None:
                for _ in range(_MOST_ATTEMPTS):
                    entered = yield Action.call(login)
                    if entered.ok:
                        break
                    if entered.outcome is Outcome.RATE_LIMITED and wait is not None:
                        yield Action.call(wait)  # refused too, but time passes
            case _:
                return result
        result = yield Action.call(name, **_as_told(env, name, arguments))
    return result


def _as_told(env: ToolEnv, name: str, arguments: dict[str, Json]) -> dict[str, Json]:
    """Arguments as the faults that are in force have told the agent to write them."""
    faults = env.episode.faults
    if faults is not None:
        for kind in faults.memory:
            arguments = FAULTS[kind].told(name, arguments, faults)
    return arguments


Asked = Generator[tuple[str, dict[str, Json]], ToolResult, Any]
"""Part of a `solve`: yields calls, is sent their results, returns what they told."""


def ask(env: ToolEnv, name: str, arguments: dict[str, Json], right: Callable[[Any], bool] = bool) -> Asked:
    """For a `solve` that may begin again: what a call tells, or has told before in this episode; None where the tool is
    gone. Raises `LookupError` for an answer that is not right."""
    for turn in env.episode.history:
        for call, result in zip(turn.action.tool_calls, turn.results, strict=True):
            same = (call.name, call.arguments) == (name, arguments)
            if same and result.ok and result.fault is None and right(result.value):
                return result.value
    if env.episode.is_gone(name):
        return None
    result = yield name, arguments
    if result.outcome is Outcome.GONE:
        return None
    if not right(result.value):
        raise LookupError(name)
    return result.value


def play(env: ToolEnv) -> list[Turn]:
    """Lets the expert finish the present episode; the turns it took, as an agent sees them."""
    turns: list[Turn] = []
    actions = expert(env)
    action = next(actions)
    while True:
        step = env.act(env.toolbox.shown_action(action))
        turns.append(step.turn)
        if step.stop is not None:
            return turns
        action = actions.send(env.episode.last_result or SAID)


def expert_turns(env: ToolEnv) -> int | None:
    """Turns that the expert needs from here, final message included; None without an expert, and in a world that cannot
    be copied. Leaves `env` as it was. Raises `EnvError` where it finds that it cannot: the world is outside of the
    state, and what the expert did stays done."""
    if type(env).solve is ToolEnv.solve or not env.copyable:
        return None
    frozen = env.snapshot()
    done = env.judge()[0]
    try:
        turns = len(play(env))
    finally:
        env.restore(frozen)
    if env.judge()[0] and not done:
        raise EnvError(
            f"{type(env).__name__} is not as it was before its expert played: part of its world is outside of "
            "self.state; set copyable = False in the class"
        )
    return turns


def expert_turns_for(env: ToolEnv, task: Task, plan: FaultPlan) -> int | None:
    """Turns that the expert needs for a task from its start, final message included; None without an expert.

    `env` is one that nobody else uses: its episode is another one afterwards.
    """
    if type(env).solve is ToolEnv.solve:
        return None
    env.start(task, plan)
    return len(play(env))
