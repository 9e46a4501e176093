"""Who plays what, and `sparring rollout` and `evaluate`: agents from options, episodes into files, rates and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..agents.agent import Agent
from ..agents.evaluation import seed_of
from ..agents.loading import AgentSettings, ModelSpec, load_agent, tool_style_of
from ..agents.rollouts import EpisodeSpec
from ..agents.scripts import SCRIPTED, scripted
from ..envs import make, task_set
from ..envs.task import Split
from ..tools.plans import FaultPlan
from ..trajectories.errors import ConfigError, DataError, UnknownName
from ..trajectories.messages import Json
from ..trajectories.metrics import success_rate
from ..trajectories.pages.report import Arm, text_table, visible
from ..trajectories.pages.report.wording import percent
from ..trajectories.trajectory import Trajectory
from .console import Watch, watching
from .console import show as show_on_terminal
from .records import Recorder, play_into

__all__ = [
    "What",
    "Who",
    "agent_named",
    "by_condition",
    "condition_name",
    "count",
    "evaluate",
    "fault_plan",
    "fetch_first",
    "file_name",
    "rollout",
]

_BASELINE = "do-nothing"


@dataclass(frozen=True, slots=True)
class Who:
    """Who plays, as the options say it: a scripted agent or a model."""

    agent: str | None
    model: str | None
    settings: AgentSettings

    @property
    def label(self) -> str:
        """What the agent is called in tables."""
        return ModelSpec.parse(self.model).label if self.model else self.agent or "expert"


@dataclass(frozen=True, slots=True)
class What:
    """Which tasks are played."""

    env: str
    n: int
    split: Split
    levels: tuple[int, ...]
    seed: int
    group: int

    def episodes(self, plan: FaultPlan) -> list[EpisodeSpec]:
        """The same for every agent; those of a group stand together."""
        tasks = task_set(make(self.env), self.split, self.n, seed=self.seed, levels=self.levels)
        if self.group == 1:
            return [EpisodeSpec(task, plan, seed_of(self.seed, task.id)) for task in tasks]
        members = range(self.group)
        return [EpisodeSpec(task, plan, seed_of(self.seed, task.id, member)) for task in tasks for member in members]

    def say_if_fewer(self, episodes: Sequence[EpisodeSpec], watch: Watch) -> None:
        """An environment may have fewer tasks than were asked for."""
        tasks = len({episode.task.id for episode in episodes})
        if tasks < self.n:
            level = f" of level {', '.join(map(str, self.levels))}" if self.levels else ""
            watch.say(f"{self.env} has {count(tasks, f'{self.split} task')}{level}: each is played once, not {self.n}")


def fault_plan(text: str, seed: int) -> FaultPlan:
    """Of one --faults; "clean" and nothing mean none. Its seed is the command's, unless it names its own."""
    text = text.strip()
    if text in ("", "clean"):
        return FaultPlan()
    return FaultPlan.parse(text, seed=seed)


def condition_name(plan: str) -> str:
    """A fault plan's one-line form, as the head of a column."""
    body = plan.rpartition("@")[0]
    every = {str(FaultPlan(count=n)).rpartition("@")[0]: name for n, name in ((1, "one fault"), (2, "two faults"))}
    return every.get(body, body) or "clean"


# ---- the commands ----------------------------------------------------------------------------------------------------


def rollout(who: Who, what: What, faults: str, out: Path | None, *, overwrite: bool) -> None:
    """Plays episodes and prints the success rate."""
    if who.agent and who.model:
        raise ConfigError("give --agent or --model, not both")
    wanted = what.episodes(fault_plan(faults, what.seed))  # before a model is loaded for nothing
    _check_names([who])
    with watching() as watch:
        what.say_if_fewer(wanted, watch)
        agent = _agent(who, watch)
        played = _play(agent, who, what.env, wanted, out, watch, overwrite=overwrite, group=what.group)
    rate = success_rate(played)
    if rate.value is None:
        failed = next((t.error for t in played if t.error), "no reason given")
        raise DataError(f"none of {len(played)} episodes could be judged: {visible(failed)}")
    excluded = f"; {rate.excluded} not judged" if rate.excluded else ""
    interval = f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    print(f"success {percent(rate.value)} {interval} of {count(rate.n, 'episode')}, 95% Wilson interval{excluded}")
    if out is not None:
        print(f"{count(len(played), 'episode')} in {out}; to read one: sparring show {out}")


def evaluate(who: Sequence[Who], what: What, faults: Sequence[str], out: Path | None, *, overwrite: bool) -> None:
    """Plays every condition with every agent and prints the table."""
    if not who:
        raise ConfigError("nobody to evaluate: give --model or --agent, e.g. --agent expert")
    plans = list(dict.fromkeys(fault_plan(text, what.seed) for text in faults))
    wanted = [episode for plan in plans for episode in what.episodes(plan)]
    _check_names(who)
    agents = [*who]
    if not any(w.agent == _BASELINE for w in who):  # without it nobody knows what a success rate is worth
        agents.append(replace(who[0], agent=_BASELINE, model=None))
    labels = [w.label for w in agents]
    if len(set(labels)) < len(labels):
        labels = [w.model or w.label for w in agents]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"the same agent twice: {', '.join(labels)}")
    arms = []
    with watching() as watch:
        what.say_if_fewer(wanted, watch)
        for number, (one, label) in enumerate(zip(agents, labels, strict=True), 1):
            place = (number, len(agents))
            path = out / f"{file_name(label)}.jsonl" if out is not None else None
            agent = _agent(one, watch, *place)
            agent.name = label
            played = _play(agent, one, what.env, wanted, path, watch, *place, overwrite=overwrite)
            arms.append(Arm(label, "", by_condition(played)))
    baseline = labels[0] if len(who) > 1 else ""
    show_on_terminal(text_table(arms, baseline, title=f"{what.env}, {what.split} tasks, seed {what.seed}"))
    if out is not None:
        print(f"Episodes are in {out}; as a page: sparring report {out}")


def _play(
    agent: Agent,
    who: Who,
    env: str,
    wanted: Sequence[EpisodeSpec],
    path: Path | None,
    watch: Watch,
    index: int = 1,
    of: int = 1,
    *,
    overwrite: bool,
    group: int = 1,
) -> list[Trajectory]:
    watch.stage(f"{agent.name} plays {env}", index, of)
    successes = 0

    def on_done(done: int, trajectory: Trajectory) -> None:
        nonlocal successes
        successes += trajectory.success is True
        watch.progress(done, len(wanted), f"{count(successes, 'success', 'successes')}")

    recorder = Recorder(path, _meta(who), _written(who), overwrite)
    played, before = play_into(recorder, env, agent, wanted, group=group, on_done=on_done)
    if before:
        watch.say(f"{count(before, 'episode')} of {len(wanted)} stood in {path} already")
    return played


def _meta(who: Who) -> dict[str, Json]:
    """What next to its weights makes a model's episodes what they are."""
    if not who.model:
        return {}
    return {
        "temperature": who.settings.temperature,
        "max_turn_tokens": who.settings.max_turn_tokens,
        "max_context": who.settings.max_context,
        "tool_style": tool_style_of(who.model, who.settings.tool_style),
        "precision": who.settings.precision,
    }


def _written(who: Who) -> float:
    """When the newest file of a model's folder was written; 0 for all else."""
    folder = Path(who.model).expanduser() if who.model else None
    if folder is None or not folder.is_dir():
        return 0.0
    return max((f.stat().st_mtime for f in folder.glob("*.safetensors")), default=0.0)


def _check_names(who: Sequence[Who]) -> None:
    """An unknown agent is said before anything is loaded."""
    for one in who:
        if one.agent and one.agent not in SCRIPTED:
            raise UnknownName("agent", one.agent, SCRIPTED)


def agent_named(name: str, watch: Watch) -> Agent:
    """A scripted agent or a model, with the settings that commands have by default."""
    fetch_first(name, watch)
    return load_agent(name)


def _agent(who: Who, watch: Watch, index: int = 1, of: int = 1) -> Agent:
    if not who.model:
        return scripted(who.agent or "expert")
    fetch_first(who.model, watch, index, of)
    watch.stage(f"loading {who.label}", index, of)
    return load_agent(who.model, who.settings, name=who.label)


def fetch_first(model: str, watch: Watch, index: int = 1, of: int = 1) -> None:
    """Fetches a known model that is not here yet, and says so. Raises for a folder or name that is no model."""
    spec = ModelSpec.parse(model)
    if spec.scheme != "transformers":
        return
    from ..agents.models import KNOWN_MODELS, fetched, resolve

    if spec.place in KNOWN_MODELS and not fetched(spec.place):
        watch.stage(f"fetching {spec.place}, once", index, of)
    resolve(spec.place, progress=lambda what, share: watch.progress(round(100 * share), 100, what))


def by_condition(trajectories: Sequence[Trajectory], *, several: bool = False) -> dict[str, Sequence[Trajectory]]:
    """Episodes by their fault plans; with their environment where there are several."""
    out: dict[str, list[Trajectory]] = {}
    for t in trajectories:
        name = condition_name(t.faults)
        out.setdefault(f"{t.env}: {name}" if several else name, []).append(t)
    return {**out}


def count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "run"
