"""The recipe: from an environment to a trained, measured policy, in stages that resume.

    evaluate base -> gold by the expert -> SFT -> evaluate -> SFT with a share of recovery demonstrations -> evaluate
      -> groups and corrections -> DPO -> evaluate -> GRPO under faults -> evaluate -> report

Every stage has a folder and a key, the hash of its settings and of the keys that it builds on. A stage whose key did
not change is reused, one that was interrupted goes on, any other is done anew. All arms are evaluated on the same
test tasks with the same fault seeds and sampling seeds; nothing is tuned on them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from ..agents.agent import Agent
from ..agents.chat import ToolStyle
from ..agents.evaluation import Condition, evaluate, seed_of
from ..agents.replay import corrections
from ..agents.rollouts import SLACK, EpisodeSpec, rollout
from ..agents.runtime import release_memory
from ..agents.scripts import scripted
from ..envs.registry import make
from ..envs.roles import tool_roles
from ..envs.task import task_set
from ..tools.faults import FAULTS
from ..tools.plans import FaultPlan
from ..trajectories.curation import Pair, correction_pairs, gold, mixture, on_policy_pairs
from ..trajectories.errors import ConfigError, DataError, UnknownName
from ..trajectories.pages.report import Arm, Report, find_tokenizer, token_texts, write_report
from ..trajectories.trajectory import Trajectory
from .dpo import DpoSettings, dpo
from .grpo import GrpoSettings, Mixture, grpo, sample_groups
from .model import Policy, Precision
from .run import Optim, Run, only_process_in, write_text
from .sft import SftSettings, sft

__all__ = ["PROFILES", "Profile", "RecipeResult", "Watcher", "run_recipe", "write_recipe_report"]

_VERSION = 2
"""Raised when stages change what they do with the same settings."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How much of everything."""

    model: str
    levels: tuple[int, ...]
    sft: SftSettings
    recovery: SftSettings
    """The second SFT, from the first one's model."""
    recovery_share: float
    """Of recovery demonstrations in it; the rest is clean gold."""
    dpo: DpoSettings
    dpo_groups: int
    grpo_steps: int
    grpo_groups: int
    grpo_optim: Optim
    group: int
    episodes: int
    """Evaluated clean, and under one fault."""
    other_episodes: int
    """Evaluated under two faults, and held-out."""
    precision: Precision = "bf16"
    tool_style: ToolStyle = "signature"
    parallel: int = 64
    faults: tuple[str, ...] = ("tool_removed", "session_expired", "unavailable", "stale_id", "timeout_landed")
    """Kinds to train and evaluate with, of those that the environment can have."""
    control: bool = False
    """Also train the control arm: from the base, with as many recovery demonstrations as clean ones."""
    kl: float = 0.02
    replay: int = 4
    grpo_plans: tuple[float, float, float] = (0.25, 0.5, 0.25)
    """Shares of clean, one-fault and two-fault groups."""


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        model="tiny-qwen3",
        levels=(),
        sft=SftSettings(steps=6, batch=8, optim=Optim(lr=5e-3, schedule="linear", warmup=1), save_every=3),
        recovery=SftSettings(steps=3, batch=8, optim=Optim(lr=2e-3, schedule="linear"), save_every=2),
        recovery_share=0.5,
        dpo=DpoSettings(steps=2, batch=4, optim=Optim(lr=1e-4), replay=2, min_chosen=-1e9),
        dpo_groups=4,
        grpo_steps=2,
        grpo_groups=4,
        grpo_optim=Optim(lr=1e-4),
        group=4,
        episodes=6,
        other_episodes=4,
        precision="fp32",
        parallel=8,
    ),
    "quick": Profile(
        model="smollm2-135m",
        levels=(1, 2),
        sft=SftSettings(steps=72, batch=8, optim=Optim(lr=2e-4, schedule="linear", warmup=4), save_every=24),
        recovery=SftSettings(steps=24, batch=12, optim=Optim(lr=1e-4, schedule="linear", warmup=2), save_every=24),
        recovery_share=0.5,
        dpo=DpoSettings(batch=10),
        dpo_groups=8,
        grpo_steps=5,
        grpo_groups=6,
        grpo_optim=Optim(lr=5e-6, warmup=1),
        group=8,
        episodes=48,
        other_episodes=24,
    ),
    "full": Profile(
        model="smollm2-135m",
        levels=(1, 2, 3, 4),
        sft=SftSettings(
            steps=160, batch=8, optim=Optim(lr=2e-4, schedule="linear", warmup=8, micro_tokens=1024), save_every=20
        ),
        recovery=SftSettings(
            steps=60, batch=12, optim=Optim(lr=1e-4, schedule="linear", warmup=4, micro_tokens=1024), save_every=15
        ),
        recovery_share=0.5,
        dpo=DpoSettings(steps=8, batch=10, optim=Optim(lr=3e-6, micro_tokens=1024)),
        dpo_groups=16,
        grpo_steps=30,
        grpo_groups=6,
        grpo_optim=Optim(lr=5e-6, warmup=2, micro_tokens=1024),
        group=8,
        episodes=96,
        other_episodes=48,
        faults=tuple(FAULTS),
        control=True,
    ),
}
"""quick: the demo, minutes on two cores. full: hours there, minutes on a GPU. smoke: seconds, for tests."""


class Watcher(Protocol):
    """Is told how a recipe goes."""

    def stage(self, title: str, index: int, of: int, *, reused: bool) -> None:
        """A stage begins, or is reused because its inputs did not change."""
        ...

    def progress(self, done: int, total: int, note: str = "", seconds_left: float | None = None) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """What came out."""

    arms: list[Arm]
    report: Path
    baseline: str
    seconds: float
    """Of this call, reused stages included."""


def run_recipe(
    env: str,
    profile: str = "quick",
    *,
    model: str | None = None,
    folder: Path,
    seed: int = 0,
    held_out: str | None = None,
    watcher: Watcher,
) -> RecipeResult:
    """Runs, or goes on with, the recipe in `folder`.

    Args:
        env: What `make` takes; it needs an expert (`solve`).
        model: Instead of the profile's.
        held_out: An environment that is evaluated and never trained on; "calendar" for orders, else none by default.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    chosen = replace(PROFILES[profile], model=model) if model else PROFILES[profile]
    if held_out is None and env == "orders":
        held_out = "calendar"
    started = time.monotonic()
    recipe = _Recipe(env, profile, chosen, folder, seed, held_out or "", watcher)
    with only_process_in(folder):
        recipe.run()
    return RecipeResult(recipe.arms, write_recipe_report(folder), "SFT", time.monotonic() - started)


@dataclass
class _Stage:
    """A stage's folder and key."""

    folder: Path
    key: str

    @property
    def model(self) -> Path:
        return self.folder / "model"


@dataclass
class _Recipe:
    env: str
    name: str
    profile: Profile
    folder: Path
    seed: int
    held_out: str
    watcher: Watcher
    arms: list[Arm] = field(default_factory=list)
    count: int = 0
    total: int = 0

    def run(self) -> None:
        p = self.profile
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_about()
        self.total = 13 + 2 * p.control
        kinds = self._kinds()
        self.conditions = self._conditions(kinds)
        baselines = self._stage("baselines", {}, self._baselines)
        self._keep_arms(baselines, "do-nothing", "expert")
        self._evaluated("base", "the model as it was fetched", "", None)

        clean = self._stage("gold", {"n": p.sft.steps * p.sft.batch, "levels": p.levels}, self._gold)
        demos = self._stage(
            "demonstrations",
            {"n": p.recovery.steps * p.recovery.batch, "levels": p.levels, "kinds": kinds},
            lambda folder: self._demos(folder, kinds, p.recovery.steps * p.recovery.batch),
        )
        first = self._stage(
            "sft",
            {"model": p.model, **self._how(), "settings": asdict(p.sft)},
            lambda folder: self._sft(folder, p.model, _read(clean.folder), p.sft),
            clean,
        )
        self._evaluated("SFT", "clean gold only", first.key, first.model)
        second = self._stage(
            "sft-recovery",
            {**self._how(), "settings": asdict(p.recovery), "share": p.recovery_share},
            lambda folder: self._sft(folder, first.model, self._mixed(clean, demos, p.recovery), p.recovery),
            clean,
            demos,
            first,
        )
        self._evaluated("SFT+", f"then {p.recovery_share:.0%} recovery demonstrations", second.key, second.model)

        plans = self._plans(kinds)
        pairs = self._stage(
            "pairs",
            {**self._how(), "groups": p.dpo_groups, "group": p.group, "plans": plans},
            lambda folder: self._pairs(folder, second.model, plans),
            second,
        )
        third = self._stage(
            "dpo",
            {**self._how(), "settings": asdict(p.dpo)},
            lambda folder: self._dpo(folder, second.model, pairs, clean),
            second,
            pairs,
            clean,
        )
        self._evaluated("DPO", "on its own pairs, then corrections", third.key, third.model)
        rl = self._grpo_settings(plans)
        fourth = self._stage(
            "grpo",
            {**self._how(), "settings": asdict(rl)},
            lambda folder: self._grpo(folder, third.model, rl, clean),
            third,
            clean,
        )
        self._evaluated("GRPO", "whole-episode reward under faults", fourth.key, fourth.model)
        if p.control:
            steps = p.sft.steps + p.recovery.steps
            fair = replace(p.sft, steps=steps)
            control = self._stage(
                "control",
                {"model": p.model, **self._how(), "settings": asdict(fair), "kinds": kinds},
                lambda folder: self._control(folder, fair, kinds, clean),
                clean,
            )
            self._evaluated("control", "SFT, half of it recovery demonstrations", control.key, control.model)

    # ---- stages ----------------------------------------------------------------------------------------------------

    def _stage(self, title: str, settings: dict[str, Any], work: Callable[[Path], None], *inputs: _Stage) -> _Stage:
        """Does `work` in the stage's folder unless it was done with the same settings and inputs."""
        self.count += 1
        text = json.dumps([_VERSION, self.env, self.seed, title, settings, [i.key for i in inputs]], sort_keys=True)
        key = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        folder = self.folder / f"{self.count:02d}-{title}"
        marker = folder / "stage.json"
        known = json.loads(marker.read_text()) if marker.exists() else {}
        reused = known.get("key") == key and known.get("done", False)
        self.watcher.stage(title, self.count, self.total, reused=reused)
        if not reused:
            if known.get("key") != key:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)
            spent = known.get("seconds", 0.0) if known.get("key") == key else 0.0
            write_text(marker, json.dumps({"key": key, "done": False, "seconds": spent}))
            started = time.monotonic()
            work(folder)
            release_memory()  # what follows needs other shapes
            spent += time.monotonic() - started
            write_text(marker, json.dumps({"key": key, "done": True, "seconds": round(spent, 1)}))
        return _Stage(folder, key)

    def _evaluated(self, arm: str, note: str, key: str, model: Path | None) -> None:
        """Evaluates a model under every condition, as an arm of the table."""
        settings = {
            "conditions": [asdict(c) for c in self.conditions], "model": key or self.profile.model, "note": note,
            **self._how(),
        }  # fmt: skip

        def work(folder: Path) -> None:
            policy = self._policy(model or self.profile.model)
            self._measure(folder, policy.agent(parallel=self.profile.parallel, name=arm), note)

        self._keep_arms(self._stage(f"evaluate-{arm.lower()}", settings, work), arm)

    def _measure(self, folder: Path, agent: Agent, note: str) -> None:
        write_text(
            folder / f"{agent.name}.json", json.dumps({"note": note, "conditions": [c.name for c in self.conditions]})
        )
        total = sum(condition.n for condition in self.conditions)
        for name, played in evaluate(agent, self.conditions, self._counting(total, agent.name)).items():
            _write(folder / agent.name / f"{name}.jsonl", played)

    def _baselines(self, folder: Path) -> None:
        self._measure(folder, scripted("do-nothing"), "says Done at once")
        self._measure(folder, _named("expert", "expert"), "the environment's own")

    def _gold(self, folder: Path) -> None:
        n = self.profile.sft.steps * self.profile.sft.batch
        self._play_expert(folder, [EpisodeSpec(task) for task in self._tasks(n)])

    def _demos(self, folder: Path, kinds: Sequence[str], n: int) -> None:
        """Under one fault each; tasks other than the clean ones' as far as there are any."""
        tasks = self._tasks(n, shift=1)
        plan = FaultPlan.parse(f"count=1:{','.join(kinds)}@{self.seed + 1}")
        self._play_expert(folder, [EpisodeSpec(task, plan) for task in tasks])

    def _play_expert(self, folder: Path, episodes: Sequence[EpisodeSpec]) -> None:
        played = rollout(self.env, scripted("expert"), episodes, on_done=self._counting(len(episodes)))
        kept = gold(played)
        self.watcher.say(str(kept.card))
        _write(folder / "episodes.jsonl", kept.items)

    def _mixed(self, clean: _Stage, demos: _Stage, settings: SftSettings) -> tuple[Trajectory, ...]:
        parts = {"clean": _read(clean.folder), "recovery": _read(demos.folder)}
        share = self.profile.recovery_share
        shares = {"clean": 1 - share, "recovery": share}
        return mixture(parts, shares, settings.steps * settings.batch, seed=self.seed).items

    def _control(self, folder: Path, settings: SftSettings, kinds: Sequence[str], clean: _Stage) -> None:
        n = settings.steps * settings.batch
        if not (folder / "episodes.jsonl").exists():
            self._demos(folder, kinds, n // 2)
        parts = {"clean": _read(clean.folder), "recovery": _read(folder)}
        self._sft(
            folder,
            self.profile.model,
            mixture(parts, {"clean": 0.5, "recovery": 0.5}, n, seed=self.seed).items,
            settings,
        )

    def _sft(self, folder: Path, model: str | Path, data: Sequence[Trajectory], settings: SftSettings) -> None:
        sft(self._policy(model), data, replace(settings, seed=self.seed), folder, on_step=self._training("nll"))

    def _pairs(self, folder: Path, model: Path, plans: tuple[tuple[str, float], ...]) -> None:
        p = self.profile
        agent = self._policy(model).agent(parallel=p.parallel)
        n = p.dpo_groups * p.group
        groups = sample_groups(
            Mixture(self.env, plans, p.levels),
            agent,
            p.dpo_groups,
            p.group,
            seed=seed_of(self.seed, "pairs") % 2**31,
            on_done=self._counting(n),
        )
        _write(folder / "episodes.jsonl", [t for g in groups for t in g.trajectories])
        pairs: list[Pair] = []
        try:
            own = on_policy_pairs(groups, max_per_group=2, seed=self.seed)
            self.watcher.say(f"on-policy: {own.card}")
            pairs += own.items
        except DataError as error:
            self.watcher.say(str(error))
        failed = [g.trajectories[0] for g in groups if not any(t.success for t in g.trajectories)]
        fixed = corrections(failed)
        if fixed:
            forked = correction_pairs(fixed)
            self.watcher.say(f"corrections: {forked.card}")
            pairs += forked.items
        _write(folder / "chosen.jsonl", [pair.chosen for pair in pairs])
        _write(folder / "rejected.jsonl", [pair.rejected for pair in pairs])
        write_text(folder / "pairs.json", json.dumps([[pair.fork, pair.source, pair.margin] for pair in pairs]))

    def _dpo(self, folder: Path, model: Path, pairs: _Stage, clean: _Stage) -> None:
        about = json.loads((pairs.folder / "pairs.json").read_text())
        sides = zip(_read(pairs.folder, "chosen"), _read(pairs.folder, "rejected"), about, strict=True)
        made = [Pair(chosen, rejected, *rest) for chosen, rejected, rest in sides]
        settings = replace(self.profile.dpo, seed=self.seed)
        dpo(self._policy(model), made, settings, folder, gold=_read(clean.folder), on_step=self._training("accuracy"))

    def _grpo_settings(self, plans: tuple[tuple[str, float], ...]) -> GrpoSettings:
        p = self.profile
        return GrpoSettings(
            Mixture(self.env, plans, p.levels),
            steps=p.grpo_steps,
            groups=p.grpo_groups,
            group=p.group,
            kl=p.kl,
            replay=p.replay,
            optim=p.grpo_optim,
            parallel=p.parallel,
            save_every=2,
            seed=self.seed,
        )

    def _grpo(self, folder: Path, model: Path, settings: GrpoSettings, clean: _Stage) -> None:
        def playing(run: Run, done: int, of: int) -> None:
            self.watcher.progress(run.step, run.total, f"playing episode {done} of {of}", run.seconds_left())

        grpo(
            self._policy(model),
            settings,
            folder,
            gold=_read(clean.folder),
            on_step=self._training("success"),
            on_episode=playing,
        )

    # ---- pieces ----------------------------------------------------------------------------------------------------

    def _policy(self, model: str | Path) -> Policy:
        return Policy.load(model, tool_style=self.profile.tool_style, precision=self.profile.precision)

    def _how(self) -> dict[str, Any]:
        return {
            "precision": self.profile.precision,
            "tool_style": self.profile.tool_style,
            "parallel": self.profile.parallel,
        }

    def _tasks(self, n: int, shift: int = 0) -> list[Any]:
        """Up to `n` training tasks; an environment that has fewer gives all it has, again and again."""
        env = make(self.env)
        tasks = task_set(env, "train", n, seed=self.seed + shift, levels=self.profile.levels)
        return [tasks[i % len(tasks)] for i in range(n)]

    def _kinds(self) -> tuple[str, ...]:
        """The faults of the profile that can strike this environment and that its expert survives."""
        tasks = task_set(make(self.env), "train", 12, seed=self.seed, levels=self.profile.levels)
        clean = rollout(self.env, scripted("expert"), [EpisodeSpec(t) for t in tasks])
        if failed := [t for t in clean if not t.success]:
            raise ConfigError(
                f"without any fault, the expert fails {len(failed)} of {len(clean)} tasks of {self.env}: "
                f"see `sparring check {self.env}`"
            )
        able = []
        for kind in self.profile.faults:
            played = rollout(self.env, scripted("expert"), [EpisodeSpec(t, FaultPlan((kind,), 1)) for t in tasks])
            struck = [t for t in played if t.faults_hit]
            if 2 * len(struck) >= len(played) and 10 * sum(bool(t.success) for t in struck) >= 9 * len(struck):
                able.append(kind)
        if not able:
            raise ConfigError(
                f"no kind of fault strikes half of the episodes of {self.env} and is survived by its expert: "
                f"a task needs two calls or more; see `sparring check {self.env}`"
            )
        return tuple(able)

    def _plans(self, kinds: Sequence[str]) -> tuple[tuple[str, float], ...]:
        texts = ("", f"count=1:{','.join(kinds)}", f"count=2:{','.join(kinds)}")
        return tuple(zip(texts, self.profile.grpo_plans, strict=True))

    def _conditions(self, kinds: Sequence[str]) -> list[Condition]:
        p, listed = self.profile, ",".join(kinds)
        seed = self.seed + 1000
        out = [
            Condition("clean", self.env, "", p.episodes, "test", p.levels, seed, SLACK),
            Condition("one fault", self.env, f"count=1:{listed}", p.episodes, "test", p.levels, seed, SLACK),
            Condition("two faults", self.env, f"count=2:{listed}", p.other_episodes, "test", p.levels, seed, SLACK),
        ]
        if self.held_out:
            out.append(Condition("held-out", self.held_out, "", p.other_episodes, "test", p.levels, seed, SLACK))
        return out

    def _keep_arms(self, stage: _Stage, *names: str) -> None:
        self.arms += [_arm(stage.folder, name) for name in names]

    def _counting(self, total: int, note: str = "") -> Callable[[int, Trajectory], None]:
        done = successes = 0
        started = time.monotonic()

        def count(_: int, trajectory: Trajectory) -> None:
            nonlocal done, successes
            done += 1
            successes += bool(trajectory.success)
            left = (time.monotonic() - started) / done * (total - done)
            self.watcher.progress(done, total, f"{note} success {successes / done:.2f}".strip(), left)

        return count

    def _training(self, metric: str) -> Callable[[Run, dict[str, float]], None]:
        def show(run: Run, row: dict[str, float]) -> None:
            note = f"{metric} {row[metric]:.3f}" if metric in row else f"loss {row['loss']:.3f}"
            self.watcher.progress(run.step + 1, run.total, note, run.seconds_left())

        return show

    def _write_about(self) -> None:
        """Says what the folder holds. Raises `ConfigError` where that is another recipe: hours of work may be in it."""
        about = {
            "env": self.env, "profile": self.name, "model": self.profile.model, "seed": self.seed,
            "held_out": self.held_out, "levels": list(self.profile.levels),
            "command": " ".join(["sparring", *sys.argv[1:]]),
        }  # fmt: skip
        path = self.folder / "recipe.json"
        held = json.loads(path.read_text()) if path.exists() else {}
        for what in ("env", "profile", "model", "seed", "held_out"):
            if what in held and held[what] != about[what]:
                raise ConfigError(
                    f"{self.folder} holds the recipe with {what.replace('_', '-')} {held[what]!r}, "
                    f"not {about[what]!r}: choose another --out, or delete that folder"
                )
        write_text(path, json.dumps(about, indent=1))


def write_recipe_report(folder: Path) -> Path:
    """The report of a recipe's folder, finished or not. Raises `DataError` for any other folder."""
    if not (folder / "recipe.json").exists():
        raise DataError(f"{folder} is no recipe's folder: it has no recipe.json")
    about = json.loads((folder / "recipe.json").read_text())
    arms: list[Arm] = []
    curves: dict[str, list[dict[str, float]]] = {}
    seconds = 0.0
    for stage in sorted(folder.glob("[0-9][0-9]-*")):
        marker = stage / "stage.json"
        seconds += json.loads(marker.read_text())["seconds"] if marker.exists() else 0.0
        for path in sorted(stage.glob("*.json")):
            if (stage / path.stem).is_dir() and path.stem != "stage":
                arms.append(_arm(stage, path.stem))
        if (stage / "metrics.jsonl").exists():
            rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
            curves[stage.name[3:]] = [{k: v for k, v in row.items() if v is not None} for row in rows]
    levels = ", ".join(map(str, about["levels"])) or "all"
    tokenizer = find_tokenizer(folder)
    report = Report(
        title=f"{about['env']}: {about['profile']} recipe on {about['model']}",
        intro=(
            f"Every arm played the same test tasks (levels {levels}) under the same fault seeds and sampling seeds, at "
            "temperature 1. SFT learnt from the expert's clean episodes alone; SFT+ went on with a share of recovery "
            "demonstrations; DPO with pairs of its own episodes and corrections by the expert; GRPO with the reward of "
            "whole episodes under faults."
            + (
                " The control arm is SFT from the start, on as many recovery demonstrations as clean episodes."
                if any(arm.name == "control" for arm in arms)
                else ""
            )
            + (
                f"\n\nHeld-out is the environment {about['held_out']}, which no arm was trained on."
                if about["held_out"]
                else ""
            )
        ),
        facts={
            "command": about["command"],
            "seed": str(about["seed"]),
            "time": f"{seconds / 60:.1f} minutes in all stages",
            "hardware": _hardware(),
            "versions": _versions(),
        },
        arms=arms,
        curves=curves,
        baseline="SFT" if any(arm.name == "SFT" for arm in arms) else "",
        headline_arm="GRPO" if any(arm.name == "GRPO" for arm in arms) else "",
        headline_condition="one fault" if any("one fault" in arm.conditions for arm in arms) else "",
        decode=token_texts(tokenizer) if tokenizer else None,
        roles=tool_roles(t.env for arm in arms for played in arm.conditions.values() for t in played),
    )
    return write_report(report, folder / "report.html")


def _arm(folder: Path, name: str) -> Arm:
    about = json.loads((folder / f"{name}.json").read_text())
    conditions: dict[str, Sequence[Trajectory]] = {
        c: _read(folder / name, c) for c in about["conditions"] if (folder / name / f"{c}.jsonl").exists()
    }
    return Arm(name, about["note"], conditions)


def _named(name: str, script: str) -> Agent:
    agent = scripted(script)
    agent.name = name
    return agent


def _write(path: Path, trajectories: Iterable[Trajectory]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, b"".join(t.to_json() + b"\n" for t in trajectories).decode())


def _read(folder: Path, name: str = "episodes") -> list[Trajectory]:
    return [Trajectory.from_json(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]


def _hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versions() -> str:
    names = ("sparring", "torch", "transformers", "gymnasium")
    return ", ".join(f"{name} {_version(name)}" for name in names) + f", Python {platform.python_version()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "(not installed)"
