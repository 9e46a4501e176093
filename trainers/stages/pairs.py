"""The stage `pairs`: the policy plays in groups; its own episodes, and the expert's corrections, become pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...agents.evaluation import seed_of
from ...agents.replay import corrections
from ...trajectories.curation import Pair, correction_pairs, on_policy_pairs
from ...trajectories.errors import DataError
from ..mixture import sample_groups
from ..run import write_text
from ..stage import EPISODES, STAGES, Done, Work

__all__ = ["Pairs", "read_pairs"]


@STAGES.register("pairs")
@dataclass(frozen=True, slots=True)
class Pairs:
    """Leaves `episodes`, and pairs that `read_pairs` reads."""

    about = "the policy plays in groups, which become pairs"

    model: str
    """The stage whose model plays."""
    groups: int
    """Tasks under their faults."""
    group: int = 8
    """Episodes of each."""
    per_group: int = 2
    """Pairs of one group at most."""
    faults: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    """Plans by share; `{kinds}` are the kinds of fault that fit the environment."""

    def uses(self) -> Sequence[str]:
        return (self.model,)

    def run(self, work: Work) -> None:
        agent = work.policy(self.model).agent(parallel=work.how.parallel)
        groups = sample_groups(
            work.mixture(self.faults),
            agent,
            self.groups,
            self.group,
            seed=seed_of(work.seed, "pairs") % 2**31,
            on_done=work.counting(self.groups * self.group),
        )
        work.write(EPISODES, [t for g in groups for t in g.trajectories])
        pairs: list[Pair] = []
        try:
            own = on_policy_pairs(groups, max_per_group=self.per_group, seed=work.seed)
            work.watcher.say(f"on-policy: {own.card}")
            pairs += own.items
        except DataError as error:
            work.watcher.say(str(error))
        failed = [g.trajectories[0] for g in groups if not any(t.success for t in g.trajectories)]
        if corrected := corrections(failed):
            forked = correction_pairs(corrected)
            work.watcher.say(f"corrections: {forked.card}")
            pairs += forked.items
        work.write("chosen", [pair.chosen for pair in pairs])
        work.write("rejected", [pair.rejected for pair in pairs])
        rest = [[pair.fork, pair.source, pair.margin] for pair in pairs]
        write_text(work.folder / "pairs.json", json.dumps(rest))


def read_pairs(stage: Done) -> list[Pair]:
    """What a stage `pairs` left."""
    about = json.loads((stage.folder / "pairs.json").read_text())
    sides = zip(stage.read("chosen"), stage.read("rejected"), about, strict=True)
    return [Pair(chosen, rejected, *rest) for chosen, rejected, rest in sides]
