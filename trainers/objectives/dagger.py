"""DAgger: the expert says what it would have done in every state that the policy visits, and the policy learns it.

A step: the policy plays tasks of the mixture. Each episode is played again from its record, and the environment's
expert is asked before each turn (1011.0686). The policy learns the expert's action there, with its own episode as the
context: so it learns what to do after its own mistakes, which no demonstration shows. The prefix that the labels of an
episode share is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from ...agents.chat_format import ChatFormat, encoding_of, sampled_tokens
from ...trajectories.errors import DataError
from ...trajectories.trajectory import Tokens, Trajectory
from ..batch import Sample
from ..losses import Loss
from ..model import Policy
from ..objective import OBJECTIVES, Data, Drawn, Needs
from ..playing import PlaySettings, episodes_file, play_step
from ..run import Run
from ..samples import Replay, likelihood_losses
from ..settings import Optim, TrainSettings
from ..states import States, same_action

__all__ = ["Dagger", "DaggerSettings", "StepLabels"]


@dataclass(frozen=True, slots=True)
class DaggerSettings(PlaySettings):
    """Of one DAgger run."""

    each: int = 1
    """Episodes of each task."""
    remember: int = 8
    """So many earlier steps' labels are learned too: DAgger's data set grows with its rounds."""
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-5, warmup=1))
    """Optimiser and schedule."""

    at_least: ClassVar[dict[str, float]] = PlaySettings.at_least | {"remember": 0}


@dataclass(frozen=True, slots=True)
class StepLabels:
    """What one step of DAgger learns from."""

    step: int
    samples: list[Sample]
    """One for each label: what led there as context, the expert's action to learn."""


@OBJECTIVES.register("dagger")
class Dagger:
    """Plays in `settings.mixture`, whose environments have an expert. `data.gold` is replayed."""

    Settings: ClassVar[type[TrainSettings]] = DaggerSettings
    needs: ClassVar[Needs] = "mixture"
    metric: ClassVar[str] = "success"

    def __init__(self, settings: DaggerSettings, data: Data) -> None:
        self.settings, self.data = settings, data
        self._states = States()

    def prepare(self, policy: Policy) -> None:
        s = self.settings
        self._replay = Replay.of(policy, self.data.gold, s.replay, s.replay_weight, s.seed)

    def sample(self, run: Run, step: int) -> Drawn[StepLabels]:
        """Logs `agreement` (share of the turns in which the policy did as the expert would have) and `labelled` (share
        of the turns for which the expert could be asked)."""
        episodes, logs = play_step(run, self.settings, step)
        samples: list[Sample] = []
        agreed = turns = 0
        for t in episodes:
            found, same = self._labels(run.policy.chat, t)
            samples += found
            agreed += same
            turns += len(t.turns)
        logs |= {"agreement": agreed / max(1, len(samples)), "labelled": len(samples) / max(1, turns)}
        for before in range(max(0, step - self.settings.remember), step):
            for line in (run.folder / episodes_file(before)).read_bytes().splitlines():
                samples += self._labels(run.policy.chat, Trajectory.from_json(line))[0]
        return Drawn(StepLabels(step, samples), logs)

    def losses(self, policy: Policy, batch: StepLabels) -> Iterable[Callable[[], Loss]]:
        """The cross-entropy of what the expert would have said, per token."""
        micro_tokens = self.settings.optim.micro_tokens
        if batch.samples:
            yield from likelihood_losses(policy, batch.samples, micro_tokens)
        yield from self._replay.losses(policy, batch.step, micro_tokens)

    def _labels(self, chat: ChatFormat, t: Trajectory) -> tuple[list[Sample], int]:
        """A sample for each turn that the expert could be asked about; and in how many of them it would have done the
        same."""
        try:
            actions = self._states.expert_actions(t)
        except DataError:  # it does not play the same again: `labelled` tells
            return [], 0
        tokens = sampled_tokens(chat, t)
        samples, agreed = [], 0
        for turn, action in zip(t.turns, actions, strict=False):
            if turn.span is None:
                continue
            said = chat.answer(action)
            before = tokens.ids[: turn.span[0]]
            mask = (*(0 for _ in before), *(1 for _ in said))
            samples.append(Sample.of(Tokens((*before, *said), mask, (0.0,) * len(mask), encoding_of(chat))))
            agreed += same_action(action, turn.action)
        return samples, agreed
