"""`sparring watch`: one task under a fault, played by several agents, to read in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o

__all__ = ["watch"]

_AGENTS = ["expert", "give-up"]
_TRIED = 40
"""Tasks of which one has to be struck."""


def watch(
    env: o.Env,
    agent: Annotated[
        list[str], typer.Option(metavar="NAME", help="A scripted agent or a model; may be repeated.")
    ] = _AGENTS,
    faults: o.Faults = "count=1",
    seed: o.Seed = 0,
) -> None:
    """Show how agents meet the same failure. One task, one fault plan, a transcript of each agent.

    \b
    Example:
      sparring watch orders
      sparring watch orders --faults count=1:session_expired --agent blind-retry --agent expert
    """
    from ..agents.evaluation import seed_of
    from ..agents.rollouts import EpisodeSpec, rollout
    from ..app import console
    from ..app.players import agent_named
    from ..app.playing import fault_plan
    from ..envs import make, task_set
    from ..trajectories.errors import DataError
    from ..trajectories.pages.report import show_trajectory

    plan = fault_plan(faults, seed)
    with console.watching() as watch_:
        agents = [agent_named(name, watch_) for name in agent]
        specs = [EpisodeSpec(t, plan, seed_of(seed, t.id)) for t in task_set(make(env), "test", _TRIED, seed=seed)]
        first = rollout(env, agents[0], specs)
        struck = next((i for i, t in enumerate(first) if t.faults_hit or not str(plan)), None)
        if struck is None:
            raise DataError(f"the faults {faults!r} strike none of {len(first)} tasks of {env}: try count=1")
        played = [first[struck], *(rollout(env, other, [specs[struck]])[0] for other in agents[1:])]
    for name, trajectory in zip(agent, played, strict=True):
        typer.echo(f"\n=== {name} " + "=" * max(0, 74 - len(name)))
        console.show(show_trajectory(trajectory))
    said = ", ".join(f"{name}: {'success' if t.success else 'failure'}" for name, t in zip(agent, played, strict=True))
    typer.echo(f"\nThe same task and the same fault ({', '.join(played[0].faults_hit) or 'none'}). {said}.")
