"""The stage `evaluate`: an agent plays the recipe's conditions, as one arm of the table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...agents.agent import Agent
from ...agents.evaluation import Condition, evaluate
from ...agents.rollouts import SLACK
from ...agents.scripts import SCRIPTED, scripted
from ...trajectories.errors import ConfigError
from ...trajectories.pages.report import Arm
from ...trajectories.trajectory import Trajectory
from ..run import write_text
from ..stage import STAGES, Work

__all__ = ["Evaluate", "Plays", "arms_in"]

_SEED = 1000
"""Of the tests, after the recipe's own: no training draw has it."""


@dataclass(frozen=True, slots=True)
class Plays:
    """One column of the table."""

    n: int
    """Test tasks."""
    faults: str = ""
    """A plan such as `count=1:{kinds}`; empty: none."""
    held_out: bool = False
    """In the held-out environment, where there is one; else in those that are trained on."""


@STAGES.register("evaluate")
@dataclass(frozen=True, slots=True)
class Evaluate:
    """Leaves each condition's episodes in a folder of the arm's name."""

    about = "an agent plays the test tasks"

    arm: str
    """What the agent is called in the table."""
    conditions: Mapping[str, Plays]
    """Columns of the table. A recipe says them once for all."""
    model: str = ""
    """The stage whose model plays, or `base`."""
    agent: str = ""
    """Or a scripted agent."""
    note: str = ""
    """One line: what it is."""

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.agent):
            raise ConfigError(f"an evaluation has a model or an agent, and not both: {self.arm}")
        if self.agent and self.agent not in SCRIPTED:
            raise ConfigError(f"the agent of {self.arm} is one of {', '.join(SCRIPTED)}, got {self.agent!r}")

    def uses(self) -> Sequence[str]:
        return (self.model,) if self.model else ()

    def run(self, work: Work) -> None:
        conditions = self._conditions(work)
        agent: Agent
        if self.agent:
            agent = scripted(self.agent)
            agent.name = self.arm
        else:
            agent = work.policy(self.model).agent(parallel=work.how.parallel, name=self.arm)
        about = {"note": self.note, "conditions": [c.name for c in conditions]}
        write_text(work.folder / f"{self.arm}.json", json.dumps(about))
        total = sum(condition.n for condition in conditions)
        for name, played in evaluate(agent, conditions, work.counting(total, self.arm)).items():
            work.write(f"{self.arm}/{name}", played)

    def _conditions(self, work: Work) -> list[Condition]:
        out = []
        for name, plays in self.conditions.items():
            if plays.held_out and not work.held_out:
                continue
            envs = (
                [(work.held_out, plays.faults)]
                if plays.held_out
                else [(on.env, on.plan(plays.faults)) for on in work.envs]
            )
            for env, faults in envs:
                title = name if len(envs) == 1 else f"{env}: {name}"
                out.append(Condition(title, env, faults, plays.n, "test", work.levels, work.seed + _SEED, SLACK))
        return out


def arms_in(folder: Path) -> list[Arm]:
    """The arms that an evaluation left in its folder."""
    return [_arm(folder, path.stem) for path in sorted(folder.glob("*.json")) if (folder / path.stem).is_dir()]


def _arm(folder: Path, name: str) -> Arm:
    about = json.loads((folder / f"{name}.json").read_text())
    files = {condition: folder / name / f"{condition}.jsonl" for condition in about["conditions"]}
    conditions: dict[str, Sequence[Trajectory]] = {
        condition: [Trajectory.from_json(line) for line in file.read_bytes().splitlines()]
        for condition, file in files.items()
        if file.exists()
    }
    return Arm(name, about["note"], conditions)
