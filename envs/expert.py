"""An environment's own expert (`solve`), driven so that it also recovers from faults.

The author's generator says what to do from the present state; the driver adds what every good agent does about a failed
call: retry what is transient (a few times), log in when the session expired, take the second route when a tool is gone,
and start `solve` again from the present state after a stale id or a timeout (look first, then act).
"""

from __future__ import annotations

from collections.abc import Generator

from ..trajectories.errors import EnvError
from ..trajectories.messages import Action, Outcome, ToolResult
from ..trajectories.trajectory import Turn
from .env import Solution, ToolEnv

__all__ = ["expert", "optimum", "play"]

_MOST_RETRIES = 4
_MOST_RESTARTS = 6

Calls = Generator[Action, ToolResult, None]


def expert(env: ToolEnv) -> Calls:
    """Actions that solve the present episode from its present state; is sent the result of each call.

    Raises `EnvError` when the environment has no `solve`.
    """
    for _ in range(_MOST_RESTARTS):
        solution = env.solve(env.task)
        if solution is None:
            raise EnvError(f"{type(env).__name__} has no solve(self, task): gold trajectories need an expert")
        finished = yield from _follow(env, solution)
        if finished:
            return
    yield Action("Cannot do it.")


def _follow(env: ToolEnv, solution: Solution) -> Generator[Action, ToolResult, bool]:
    """Goes through one course of `solve`; False when it has to begin again from the state as it is now."""
    try:
        wanted = next(solution)
    except StopIteration:
        yield Action("Done.")
        return True
    retries = 0
    login = next((t.name for t in env.toolbox.tools.values() if t.logs_in), None)
    while True:
        if isinstance(wanted, str):
            yield Action(wanted)
            return True
        name, arguments = wanted
        result = yield Action.call(name, **arguments)
        match result.outcome:
            case Outcome.UNAVAILABLE | Outcome.RATE_LIMITED | Outcome.CRASHED if retries < _MOST_RETRIES:
                retries += 1
                continue
            case Outcome.UNAUTHENTICATED if login is not None and retries < _MOST_RETRIES:
                retries += 1
                for _ in range(_MOST_RETRIES):
                    if (yield Action.call(login)).ok:
                        break
                continue
            case Outcome.FORBIDDEN:
                yield Action("Cannot: not permitted.")
                return True
            case Outcome.TIMEOUT:
                check = env.look(name, arguments)
                if check is not None:
                    yield Action.call(check[0], **check[1])
                return False  # it may have happened: go on from the state as it is
            case Outcome.CONFLICT:
                return False  # what was known no longer holds: look everything up again
        retries = 0
        try:
            wanted = solution.send(result)
        except StopIteration:
            yield Action("Done.")
            return True


def play(env: ToolEnv) -> list[Turn]:
    """Lets the expert finish the present episode; the turns it took."""
    turns: list[Turn] = []
    actions = expert(env)
    action = next(actions)
    while True:
        step = env.act(action)
        turns.append(step.turn)
        if step.stop is not None:
            return turns
        action = actions.send(step.turn.results[0])


def optimum(env: ToolEnv) -> int | None:
    """Turns that the expert needs from here, final message included; None without an expert. Leaves `env` as it was."""
    if type(env).solve is ToolEnv.solve:
        return None
    frozen = env.snapshot()
    try:
        return len(play(env))
    finally:
        env.restore(frozen)
