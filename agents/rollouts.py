"""The only place where an environment and an agent meet: `rollout` plays episodes and returns trajectories."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..envs.env import ToolEnv, name_of
from ..envs.episode import Snapshot
from ..envs.experts import expert_turns
from ..envs.registry import make
from ..tools.plans import FaultPlan
from ..trajectories.errors import InfrastructureError
from ..trajectories.messages import Message, Observation
from ..trajectories.trajectory import Fork, StopReason, Task, Trajectory, Turn
from .agent import Agent

__all__ = ["SLACK", "EpisodeSpec", "rollout"]

SLACK = 4
"""Turns over the expert's number of turns before an episode is cut, where there is an expert."""

EnvFactory = Callable[[], ToolEnv]


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """What to play."""

    task: Task
    plan: FaultPlan = field(default_factory=FaultPlan)
    seed: int = 0
    """Of sampling; the world and the faults follow from task and plan."""
    start: Snapshot | None = None
    """Begin here and not at the task's start."""
    parent: Trajectory | None = None
    """Whose first turns lead to `start`."""
    fork: int = 0
    """How many of them."""
    env: str = ""
    """Another environment than the rollout's."""


def rollout(
    env: str | EnvFactory,
    agent: Agent,
    episodes: Iterable[EpisodeSpec],
    *,
    slack: int = SLACK,
    on_done: Callable[[int, Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Plays `episodes`, as many at once as the agent is worth, and returns one trajectory each, in order.

    Args:
        env: A name for `make`, or a callable that gives a new environment.
        slack: Turns over the expert's number of turns before an episode is cut (`turn_limit`).
        on_done: Told of each trajectory as it ends, with its index.

    An engine or network failure becomes a trajectory with stop reason `infrastructure`; a bug raises.
    """
    factory: EnvFactory = (lambda: make(env)) if isinstance(env, str) else env
    wanted = list(episodes)
    return asyncio.run(_rollout(factory, agent, wanted, slack, on_done))


async def _rollout(
    factory: EnvFactory,
    agent: Agent,
    episodes: Sequence[EpisodeSpec],
    slack: int,
    on_done: Callable[[int, Trajectory], None] | None,
) -> list[Trajectory]:
    done: list[Trajectory | None] = [None] * len(episodes)
    queue = iter(enumerate(episodes))

    async def work() -> None:
        envs: dict[str, ToolEnv] = {}
        for index, episode in queue:
            if episode.env not in envs:
                envs[episode.env] = make(episode.env) if episode.env else factory()
            trajectory = await play_episode(envs[episode.env], agent, episode, slack)
            done[index] = trajectory
            await asyncio.sleep(0)  # scripts never wait for anything: let Ctrl-C through
            if on_done is not None:
                on_done(index, trajectory)

    workers = min(max(1, agent.parallel), len(episodes))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the others are the same failure, seen by the other episodes
    return [t for t in done if t is not None]


async def play_episode(env: ToolEnv, agent: Agent, episode: EpisodeSpec, slack: int = SLACK) -> Trajectory:
    """Plays one episode to its end."""
    episode = planned(env, episode)
    observation, prompt, turns = _begin(env, episode)
    best = expert_turns(env)
    limit = env.max_turns if best is None else min(env.max_turns, len(turns) + best + slack)
    session = agent.begin(env, episode.seed)
    if episode.parent is not None:
        turns = list(session.resume(episode.parent, episode.fork))
    stop: StopReason | None = None
    error: str | None = None
    try:
        while stop is None:
            decision = await session.act(observation)
            if decision.action is None:
                stop = env.episode.cut(decision.cut or StopReason.CANCELLED)
                break
            step = env.act(decision.action)
            turns.append(replace(step.turn, span=decision.span))
            stop, observation = step.stop, step.observation
            if stop is not None and stop.by_agent and decision.cut is not None:
                stop = env.episode.cut(decision.cut)
            elif stop is None and len(turns) >= limit:
                stop = env.episode.cut(StopReason.TURN_LIMIT)
    except InfrastructureError as failure:
        stop, error = env.episode.cut(StopReason.INFRASTRUCTURE), str(failure)
    finally:
        session.close()
    success, parts = env.judge()
    judged = stop not in (StopReason.INFRASTRUCTURE, StopReason.CANCELLED)
    if turns:
        turns[-1] = replace(turns[-1], reward=sum(parts.values()) if judged else 0.0)
    plan = str(episode.plan)
    return Trajectory(
        id=_id(name_of(env), episode, agent),
        env=name_of(env),
        task=episode.task,
        prompt=prompt,
        turns=tuple(turns),
        stop=stop,
        reward=sum(parts.values()) if judged else 0.0,
        reward_parts=parts if judged else {},
        success=success if judged else None,
        seed=episode.seed,
        faults=plan,
        faults_hit=env.episode.faults_hit,
        tools=env.toolbox.specs,
        tokens=session.tokens(),
        agent=agent.name,
        policy_version=agent.version,
        expert_turns=best,
        forked_from=Fork(episode.parent.id, episode.fork) if episode.parent else None,
        error=error,
        meta=env.episode.notes,
    )


def planned(env: ToolEnv, episode: EpisodeSpec) -> EpisodeSpec:
    """The episode with the environment's own faults where it names none: what is recorded has to say what struck."""
    return episode if str(episode.plan) else replace(episode, plan=env.default_faults)


def _begin(env: ToolEnv, episode: EpisodeSpec) -> tuple[Observation, tuple[Message, ...], list[Turn]]:
    if episode.start is None:
        observation = env.start(episode.task, episode.plan)
        return observation, observation.messages, []
    env.restore(episode.start)
    parent = episode.parent
    turns = list(parent.turns[: episode.fork]) if parent else []
    prompt = parent.prompt if parent else env.prompt(episode.task)
    return Observation((), env.toolbox.present), prompt, turns


def _id(env: str, episode: EpisodeSpec, agent: Agent) -> str:
    parent = f"{episode.parent.id}/{episode.fork}" if episode.parent else ""
    text = f"{env}/{episode.task.id}/{episode.plan}/{episode.seed}/{agent.name}/{agent.version}/{parent}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
