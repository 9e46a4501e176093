"""Online DPO with tools: the policy plays in groups, what went better becomes pairs, and it learns from them.

Every `every` steps the present policy plays anew, for all the steps until the next time: 1 is online, more is
semi-online (2506.21495), and as many as there are steps is offline. A group shares its task and its faults, so that
luck does not separate the sides of a pair. The reference is the policy that the run began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...agents.evaluation import seed_of
from ...trajectories.curation import Pair, on_policy_pairs, scored_pairs
from ...trajectories.errors import ConfigError, DataError
from ...trajectories.trajectory import Trajectory, TrajectoryGroup, dump_jsonl
from ..losses import DpoVariant, Loss, Normalise, dpo_loss
from ..mixture import Mixture, sample_groups
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..playing import episodes_file
from ..preferences import pairs_in_tokens, side_batches, side_sums
from ..run import Run
from ..samples import Replay
from ..settings import Optim, TrainSettings

__all__ = ["OnlineDpo", "OnlineDpoSettings"]


@dataclass(frozen=True, slots=True)
class OnlineDpoSettings(TrainSettings):
    """Of one run of online DPO."""

    mixture: Mixture = field(kw_only=True)
    """What is played."""
    steps: int = 10
    """Optimiser steps of the whole run."""
    every: int = 1
    """Steps between times that the policy plays; then it plays for all of them."""
    groups: int = 8
    """Groups for each step."""
    group: int = 8
    """Episodes of a group, two or more."""
    pairs_of_group: int = 2
    """Pairs of one group at most."""
    by: Literal["reward", "success"] = "reward"
    """What makes a pair: the better reward, or success over failure."""
    min_margin: float = 0.0
    """Smallest difference of the rewards of a pair."""
    beta: float = 0.1
    """How firmly the policy is held to where it began."""
    variant: DpoVariant = "sigmoid"
    """The loss, as in DPO."""
    normalise: Normalise = "sum"
    """Of each side's change, as in DPO."""
    nll: float = 0.2
    """Weight of the chosen side's cross-entropy (2404.19733)."""
    replay: int = 4
    """Gold episodes in a step, trained by cross-entropy next to the pairs."""
    replay_weight: float = 0.2
    """Weight of their cross-entropy."""
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6, warmup=1))
    """Optimiser and schedule."""
    temperature: float = 1.0
    """Of sampling, above 0. The loss takes log-probabilities at 1."""
    max_turn_tokens: int = 64
    """Tokens that the policy may say in one turn."""
    parallel: int = 64
    """Episodes that are played at once."""
    save_every: int = 5
    """Steps between checkpoints; 0: only when the run is interrupted."""

    at_least: ClassVar[dict[str, float]] = TrainSettings.at_least | {
        "every": 1,
        "groups": 1,
        "pairs_of_group": 1,
        "min_margin": 0,
        "nll": 0,
        "replay": 0,
        "replay_weight": 0,
        "max_turn_tokens": 1,
        "parallel": 1,
    }
    above: ClassVar[dict[str, float]] = {"temperature": 0, "beta": 0}

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ConfigError(f"a group needs two episodes or more to compare, got {self.group}")
        TrainSettings.__post_init__(self)


@OBJECTIVES.register("online-dpo")
class OnlineDpo:
    """Plays in `settings.mixture` and learns from pairs of its own episodes. `data.gold` is replayed.

    The episodes that a step learns from are in `episodes/step-000001.jsonl` of the run's folder, those of later steps
    ahead of time where it plays for several: a run that was stopped between two times reads them there.
    """

    Settings: ClassVar[type[TrainSettings]] = OnlineDpoSettings
    needs: ClassVar[Needs] = "mixture"
    metric: ClassVar[str] = "success"

    def __init__(self, settings: OnlineDpoSettings, data: Data) -> None:
        self.settings, self.data = settings, data

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        policy.freeze_reference()
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[tuple[int, list[Pair]]]:
        s = self.settings
        started = time.monotonic()
        if step % s.every == 0:
            for ahead in range(step, min(step + s.every, s.steps)):
                run.write(episodes_file(ahead), dump_jsonl(self._play(run, step, ahead)))
        episodes = _read(run, step)
        groups = TrajectoryGroup.by_task(episodes)
        pairs = self._pairs(groups)
        with_pairs = {(pair.chosen.env, pair.chosen.task.id, pair.chosen.faults) for pair in pairs}
        n = max(1, len(episodes))
        logs = {
            "reward": sum(t.reward for t in episodes) / n,
            "success": sum(bool(t.success) for t in episodes) / n,
            "pairs": float(len(pairs)),
            "signal": len(with_pairs) / max(1, len(groups)),
            "rollout_seconds": time.monotonic() - started,
        }
        return Drawn((step, pairs), logs)

    def _play(self, run: Run, now: int, step: int) -> list[Trajectory]:
        """What step `step` learns from, by the policy as it is at step `now`."""
        s = self.settings
        agent = run.policy.agent(
            temperature=s.temperature, max_turn_tokens=s.max_turn_tokens, parallel=s.parallel, version=now
        )
        count = run.counting_episodes(s.groups * s.group)
        seed = seed_of(s.seed, step) % 2**31
        groups = sample_groups(s.mixture, agent, s.groups, s.group, seed=seed, on_done=count)
        return [t for group in groups for t in group.trajectories]

    def _pairs(self, groups: Sequence[TrajectoryGroup]) -> list[Pair]:
        """None where no group has any."""
        s = self.settings
        try:
            if s.by == "reward":
                made = on_policy_pairs(groups, max_per_group=s.pairs_of_group, min_margin=s.min_margin, seed=s.seed)
            else:
                made = scored_pairs(
                    groups, lambda t: float(bool(t.success)), max_per_group=s.pairs_of_group, seed=s.seed
                )
        except DataError:  # nothing is left of them
            return []
        return list(made.items)

    def losses(self, policy: Policy, batch: tuple[int, list[Pair]]) -> Iterable[Callable[[], Loss]]:
        s = self.settings
        step, pairs = batch
        sides = pairs_in_tokens(policy, pairs, s.max_context) if pairs else []

        def preference(indices: list[int]) -> Loss:
            sums, lengths = side_sums(policy, sides, indices)
            reference, _ = side_sums(policy, sides, indices, reference=True)
            return dpo_loss(
                *sums,
                *reference,
                beta=s.beta,
                variant=s.variant,
                normalise=s.normalise,
                nll_alpha=s.nll,
                chosen_tokens_P=lengths[0],
                rejected_tokens_P=lengths[1],
                denominator=len(sides),
            )

        for indices in side_batches(sides, range(len(sides)), s.optim.micro_tokens):
            yield lambda indices=indices: preference(indices)  # type: ignore[misc]  # mypy cannot type a default
        yield from self._replay.losses(policy, step, s.optim.micro_tokens)


def _read(run: Run, step: int) -> list[Trajectory]:
    """What was played for this step. Raises `DataError` where that is gone."""
    path = run.folder / episodes_file(step)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"the episodes of step {step + 1} are not in {path} ({error.strerror}): put the file back, or delete the "
            "run's folder and start anew"
        ) from None
    return [Trajectory.from_json(line) for line in lines]
