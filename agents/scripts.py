"""Agents that need no model: the expert, and the simple strategies that any trained agent has to beat."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import chain, repeat

import numpy as np

from ..envs.env import Solution, ToolEnv, name_of
from ..envs.experts import SAID, expert
from ..envs.recorded import DONE, recorded_actions
from ..envs.spaces import sample_json
from ..trajectories.errors import EnvError, UnknownName
from ..trajectories.messages import Action, Json, Observation, ToolResult
from ..trajectories.trajectory import StopReason, Task, Trajectory, Turn
from .agent import AgentSession, Decision

__all__ = ["SCRIPTED", "ScriptedAgent", "ScriptedSession", "cannot_play", "scripted"]

Script = Generator[Action, ToolResult, None]
"""Yields actions; is sent the result of the action's only call."""


def expert_script(env: ToolEnv, seed: int) -> Script:
    """The environment's expert, recovery from faults included."""
    return expert(env)


def gold(env: ToolEnv, seed: int) -> Script:
    """The recorded solution of the task, as it is: see `ToolEnv.gold`. It looks at no result."""
    task = env.episode.task
    actions = recorded_actions(env, task)
    if actions is None:
        raise EnvError(
            f"the task {task.id} of {name_of(env)} has no recorded gold; give it in data['gold'], by "
            "tasks_from(..., gold=FILE), or define gold(self, task)"
        )
    begin = len(env.episode.history)  # a fork begins in the middle
    for action in chain(actions[begin:], repeat(Action(DONE))):  # noqa: UP028  # results are sent
        yield action


def do_nothing(env: ToolEnv, seed: int) -> Script:
    """Says that all is done."""
    while True:
        yield Action("Done.")


def blind_retry(env: ToolEnv, seed: int) -> Script:
    """The expert's calls, but a failed call is repeated as it is, up to three times, and then passed over."""
    return _experts_calls(env, tries=4, goes_on=True)


def give_up(env: ToolEnv, seed: int) -> Script:
    """The expert's calls until one fails; then it stops."""
    return _experts_calls(env, tries=1, goes_on=False)


def _experts_calls(env: ToolEnv, *, tries: int, goes_on: bool) -> Script:
    """The expert's calls, made by one who knows nothing of failures.

    Args:
        tries: How often a call is made that fails.
        goes_on: What is done about one that has failed so often: the next one, or nothing more.
    """
    plan = env.solve(env.episode.task)
    wanted = next(plan, "Done.") if plan is not None else "Done."
    while True:
        if isinstance(wanted, str):
            yield Action(wanted)
            result = SAID
        else:
            for _ in range(tries):
                result = yield Action.call(wanted[0], **wanted[1])
                if result.ok:
                    break
        wanted = _next(plan, result) if result.ok or goes_on else "Cannot do it."


def _next(plan: Solution | None, result: ToolResult) -> tuple[str, dict[str, Json]] | str:
    """What the expert's course does after `result`; it knows nothing of failures, and stops at what it cannot use."""
    try:
        return plan.send(result) if plan is not None else "Done."
    except (StopIteration, LookupError, TypeError, AttributeError):
        return "Done."


def random_calls(env: ToolEnv, seed: int) -> Script:
    """Random schema-valid calls."""
    rng = np.random.default_rng(seed)
    specs = env.toolbox.state.first
    while True:
        spec = specs[int(rng.integers(len(specs)))]
        if rng.random() < 0.1:
            yield Action("Done.")
        else:
            yield Action.call(spec.name, **sample_json(spec.parameters, rng))


class ScriptedAgent:
    """An agent that follows a script."""

    version = 0

    def __init__(self, name: str, script: Callable[[ToolEnv, int], Script], *, parallel: int = 1) -> None:
        """`parallel`: Episodes at once. More than one is worth it in a world that waits."""
        self.name = name
        self.script = script
        self.parallel = parallel

    def begin(self, env: ToolEnv, seed: int) -> AgentSession:
        return ScriptedSession(self.script(env, seed), env)


class ScriptedSession:
    """One episode of a script. It looks into the environment."""

    def __init__(self, script: Script, env: ToolEnv) -> None:
        self.script = script
        self.env = env
        self.started = False

    def resume(self, parent: Trajectory, fork: int) -> tuple[Turn, ...]:
        return parent.turns[:fork]  # a script looks at the world, not at what was said

    async def act(self, observation: Observation) -> Decision:
        return self.decide(observation)

    def decide(self, observation: Observation) -> Decision:
        """The next action, for who runs scripts in a thread."""
        result = self.env.episode.last_result if self.started else None
        self.started = True
        try:
            action = next(self.script) if result is None else self.script.send(result)
            return Decision(self.env.toolbox.shown_action(action))  # scripts know the true names
        except StopIteration:
            return Decision(None, cut=StopReason.CANCELLED)

    def tokens(self) -> None:
        return None

    def close(self) -> None:
        with suppress(ValueError):  # it runs in a thread that nobody waits for any more
            self.script.close()


SCRIPTED: dict[str, Callable[[ToolEnv, int], Script]] = {
    "expert": expert_script,
    "gold": gold,
    "do-nothing": do_nothing,
    "blind-retry": blind_retry,
    "give-up": give_up,
    "random": random_calls,
}
"""Scripts by name."""


def cannot_play(name: str, env: ToolEnv, tasks: Iterable[Task]) -> str:
    """Why a scripted agent can play none of the tasks, and the fix; empty where it can play some."""
    if name == "expert" and type(env).solve is ToolEnv.solve:
        return (
            f"{name_of(env)} has no solve(self, task), which the agent 'expert' plays; define it, or take another agent"
        )
    if name == "gold" and not any(_has_gold(env, task) for task in tasks):
        return (
            f"no task of {name_of(env)} has recorded gold, which the agent 'gold' plays; give it in data['gold'], by "
            "tasks_from(..., gold=FILE), or define gold(self, task); the agent 'expert' plays solve(task)"
        )
    return ""


def _has_gold(env: ToolEnv, task: Task) -> bool:
    try:
        return env.gold(task) is not None
    except Exception:  # it is told as the bug that it is where it is played
        return True


def scripted(name: str, *, parallel: int = 1) -> ScriptedAgent:
    """A scripted agent by name, for so many episodes at once. Raises `UnknownName`."""
    if name not in SCRIPTED:
        raise UnknownName("agent", name, SCRIPTED)
    return ScriptedAgent(name, SCRIPTED[name], parallel=parallel)
