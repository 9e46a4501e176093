"""Objectives that play: GRPO's options, PPO, DAgger, distillation. On `echo`, with a tiny model."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.agents import EpisodeSpec, ScriptedAgent, rollout, scripted
from sparring.agents.chat_format import sampled_tokens
from sparring.envs import ToolEnv, make, task_set
from sparring.tools import FaultPlan
from sparring.trainers import (
    Dagger,
    DaggerSettings,
    Data,
    Distill,
    DistillSettings,
    Grpo,
    GrpoSettings,
    Mixture,
    Optim,
    Policy,
    Ppo,
    PpoSettings,
    Sft,
    SftSettings,
    train,
)
from sparring.trainers.batch import Sample, TreeBatch
from sparring.trainers.losses import policy_gradient_loss, value_loss
from sparring.trainers.mixture import sample_groups
from sparring.trainers.objectives.dagger import StepLabels
from sparring.trainers.objectives.grpo import StepGroups
from sparring.trainers.objectives.ppo import StepEpisodes
from sparring.trainers.run import Run
from sparring.trainers.samples import parts_of, with_channels
from sparring.trainers.states import States, failures, state_key
from sparring.trajectories import Action, ConfigError, StopReason, Trajectory, TrajectoryGroup
from sparring.trajectories.curation import gold

CLEAN = Mixture.of("echo", faults=(("", 1.0),))
FAULTY = Mixture.of("echo", faults=(("count=1:unavailable", 1.0),))


pytestmark = pytest.mark.usefixtures("one_thread")


def policy_of(folder: Path) -> Policy:
    return Policy.load(folder, tool_style="signature", precision="fp32")


@pytest.fixture(scope="module")
def warm(echo_run: tuple[Path, list[dict[str, float]]]) -> Path:
    """Says the word about half of the time, and idles else."""
    return echo_run[0]


@pytest.fixture(scope="module")
def able(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says the word nearly always."""
    tasks = task_set(make("echo"), "train", 4)
    data = gold(rollout("echo", scripted("expert"), [EpisodeSpec(t) for t in tasks])).items
    made = SftSettings(steps=30, batch=4, optim=Optim(lr=3e-3, schedule="linear"), save_every=0)
    return train(policy_of(warm), Sft(made, Data(data)), tmp_path_factory.mktemp("able"))


def success(policy: Policy, each: int = 16) -> float:
    tasks = task_set(make("echo"), "train", 4)
    played = rollout("echo", policy.agent(parallel=32), [EpisodeSpec(t, seed=s) for t in tasks for s in range(each)])
    return sum(bool(t.success) for t in played) / len(played)


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


GRPO = GrpoSettings(
    mixture=CLEAN, steps=6, groups=4, group=8, kl=0.01, replay=0, optim=Optim(lr=3e-4), parallel=32, save_every=2
)
PPO = PpoSettings(
    mixture=CLEAN,
    steps=6,
    tasks=4,
    each=8,
    kl=0.01,
    replay=0,
    optim=Optim(lr=3e-4, head_scale=30.0),
    parallel=32,
    save_every=2,
)
DAGGER = DaggerSettings(mixture=FAULTY, steps=6, tasks=4, each=2, optim=Optim(lr=3e-3), parallel=32, save_every=2)
DISTILL = DistillSettings(mixture=CLEAN, tasks=4, each=8, optim=Optim(lr=3e-4, warmup=1), parallel=32)


# --- losses by hand ----------------------------------------------------------------------------------------------


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slope(value: torch.Tensor, at: torch.Tensor) -> list[float]:
    (grad,) = torch.autograd.grad(value, at)
    return [float(g) for g in grad]


def test_the_ratio_of_a_sequence_by_hand() -> None:
    """GSPO (2507.18071, eq. 7): s = (pi / pi_old)^(1/|y|). Log ratios .1, .3 of sequence 0: s = e^.2; -.4 of 1."""
    logps = (t(-1, -1, -1) + t(0.1, 0.3, -0.4)).requires_grad_()
    owner = torch.tensor([0, 0, 1])
    args: dict[str, Any] = {"owner_N": owner, "ratio": "sequence", "aggregation": "sequence-mean"}
    args |= {"clip_low": 0.5, "clip_high": 0.5}
    loss = policy_gradient_loss(logps, t(-1, -1, -1), t(1, 1, 2), t(1, 1, 1), **args)
    s0, s1 = math.exp(0.2), math.exp(-0.4)
    assert float(loss.value.detach()) == pytest.approx(-(s0 + 2 * s1) / 2)
    # the gradient of s0 is s0 / |y| on each of its tokens
    assert slope(loss.value, logps) == pytest.approx([-s0 / 2 / 2, -s0 / 2 / 2, -2 * s1 / 2])
    args |= {"clip_low": 3e-4, "clip_high": 4e-4}
    tight = policy_gradient_loss(logps, t(-1, -1, -1), t(1, 1, 2), t(1, 1, 1), **args)
    assert slope(tight.value, logps) == pytest.approx([0, 0, -2 * s1 / 2])  # too far above is cut; below with A > 0 not
    assert tight.logs["clip_fraction"] == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="needs owner_N"):
        policy_gradient_loss(logps, None, t(1, 1, 2), t(1, 1, 1), ratio="sequence")


def test_cispo_by_hand() -> None:
    """2506.13585, eq. 4: clip(r) is a constant, and each token keeps the gradient of its log-probability."""
    ratios = t(1.5, 0.5, 1.1)
    logps = (t(-1, -2, -3) + ratios.log()).requires_grad_()
    loss = policy_gradient_loss(
        logps, t(-1, -2, -3), t(1, -1, 2), t(1, 1, 1), ratio="cispo", clip_low=1.0, clip_high=0.28
    )
    assert slope(loss.value, logps) == pytest.approx([-1.28 / 3, 0.5 / 3, -2 * 1.1 / 3])
    assert loss.logs["clip_high_fraction"] == pytest.approx(1 / 3)
    assert loss.logs["clip_low_fraction"] == 0


def test_a_value_loss_by_hand() -> None:
    # V .9 from V_old .5 towards 1: bounded at .7, error .09 over .01; V .4 from .5: within the bound, error .36
    values = t(0.9, 0.4, 7).requires_grad_()
    loss = value_loss(values, t(1, 1, 0), t(1, 1, 0), old_values_N=t(0.5, 0.5, 0), clip=0.2)
    assert float(loss.value.detach()) == pytest.approx((0.09 + 0.36) / 2 / 2)
    assert slope(loss.value, values) == pytest.approx([0, -0.6 / 2, 0])
    assert loss.logs["value_clip_fraction"] == pytest.approx(0.5)
    free = value_loss(values, t(1, 1, 0), t(1, 1, 0), weight=0.5)
    assert float(free.value.detach()) == pytest.approx(0.5 * (0.01 + 0.36) / 2 / 2)
    with pytest.raises(ConfigError, match="needs old_values_N"):
        value_loss(values, t(1, 1, 0), t(1, 1, 0), clip=0.2)


# --- what a step learns from -------------------------------------------------------------------------------------


def test_parts_hold_everything_once() -> None:
    for n in range(9):
        parts = parts_of(n, 4, 1)
        assert sorted(i for part in parts for i in part) == list(range(n))
        assert all(parts)
    assert parts_of(8, 2, 1) != parts_of(8, 2, 2)


def test_channels_are_those_of_each_token(warm: Path) -> None:
    policy = policy_of(warm)
    stem = tuple(range(3, 20))
    samples = [Sample((*stem, *(40 + i + k for k in range(5))), (0.0,) * 15 + (1.0,) * 7) for i in range(4)]
    whole, split = (
        with_channels(samples, limit, policy.device, lambda tree: {"x": policy.predict(tree).logps_M})
        for limit in (4096, 30)
    )
    for one, other, sample in zip(whole, split, samples, strict=True):
        alone = policy.predict(TreeBatch.build([sample])).logps_M.tolist()
        assert one.channels["x"] == pytest.approx([*[0.0] * 15, *alone], abs=1e-5)
        assert other.channels["x"] == pytest.approx(one.channels["x"], abs=1e-5)


def says(*words: str) -> ScriptedAgent:
    def script(env: ToolEnv, seed: int) -> Any:
        for word in words:
            yield Action.call("say", word=word)
        yield Action("Done.")

    return ScriptedAgent("says", script)


def test_states_are_known_by_what_decides_what_follows() -> None:
    """Not by what was said: two episodes by different ways are in one state, and a fault to come is a part of it."""
    (task,) = task_set(make("echo"), "train", 1)
    word = str(task.data["word"])
    one, other, direct = (
        rollout("echo", says(*words), [EpisodeSpec(task)])[0] for words in (("no", word), ("so", "no", word), (word,))
    )
    states = States()
    a, b, c = states.keys(one), states.keys(other), states.keys(direct)
    assert len(set(a)) == 3  # nothing said, "no" said, the word said
    assert (a[0], a[1], a[2]) == (b[0], b[2], b[3])
    assert a[2] == c[1]
    assert b[1] not in a
    env = make("echo")
    keys = []
    for plan in (FaultPlan(), FaultPlan.parse("count=1:unavailable@0"), FaultPlan.parse("count=1:tool_removed@0")):
        env.start(task, plan)
        keys.append(state_key(env.snapshot()))
    assert len(set(keys)) == 3
    env.state = {"said": object()}
    with pytest.raises(ConfigError, match="cannot be compared"):
        state_key(env.snapshot())


@pytest.mark.parametrize("name", ["orders", "sql-analyst", "calendar", "files", "shop", "incident"])
def test_states_of_the_environments_can_be_compared(name: str) -> None:
    env = make(name)
    (task,) = task_set(env, "train", 1)
    played = rollout(name, scripted("expert"), [EpisodeSpec(task)] * 2)
    states = States()
    assert states.keys(played[0]) == states.keys(played[1])


def test_the_expert_is_asked_in_every_state() -> None:
    """It goes along while the agent does the same: after its failed call it does not begin anew."""
    (task,) = task_set(make("echo"), "train", 1)
    word = task.data["word"]
    (played,) = rollout("echo", says("no"), [EpisodeSpec(task)])
    states = States()
    asked = states.expert_actions(played)
    assert [a.tool_calls[0].arguments if a.tool_calls else a.content for a in asked] == [{"word": word}, {"word": word}]
    assert states.expert_ahead(played) == [(2, 1.0), (2, 1.0)]
    plans = [
        FaultPlan.parse(f"count=1:unavailable@{seed}") for seed in range(8)
    ]  # not each strikes so short an episode
    struck = rollout("echo", scripted("expert"), [EpisodeSpec(task, plan) for plan in plans])
    right = next(t for t in struck if t.faults_hit)
    again = states.expert_actions(right)
    assert [[(c.name, c.arguments) for c in a.tool_calls] for a in again] == [
        [(c.name, c.arguments) for c in turn.action.tool_calls] for turn in right.turns
    ]
    assert failures(right)[0] == 1


# --- GRPO --------------------------------------------------------------------------------------------------------


def groups_of(policy: Policy, mixture: Mixture = CLEAN) -> list[TrajectoryGroup]:
    groups = sample_groups(mixture, policy.agent(parallel=32), 4, 8, seed=0)
    return [g for g in groups if len(set(g.rewards())) > 1]


def grpo_samples(policy: Policy, made: GrpoSettings, batch: StepGroups) -> list[Sample]:
    objective = Grpo(made, Data())
    objective.prepare(policy)
    return objective._samples(policy, batch)


def test_gigpo_adds_the_advantage_of_the_turn(warm: Path) -> None:
    policy = policy_of(warm)
    groups, states = groups_of(policy), States()
    keys = [[states.keys(t) for t in g.trajectories] for g in groups]
    made = replace(GRPO, kl=0.0, estimator="gigpo", step_weight=2.0, step_gamma=1.0)
    samples = iter(grpo_samples(policy, made, StepGroups(0, groups, keys)))
    plain = iter(grpo_samples(policy, replace(made, estimator="grpo"), StepGroups(0, groups)))
    for group, mine in zip(groups, keys, strict=True):
        beginning = mine[0][0]  # all begin in one state; a call that failed leaves it as it was
        returns = [t.reward for t, own in zip(group.trajectories, mine, strict=True) for k in own if k == beginning]
        mean, std = statistics.fmean(returns), statistics.stdev(returns)
        for trajectory in group.trajectories:
            got, whole = next(samples).channels["advantages"], next(plain).channels["advantages"]
            first = trajectory.turns[0].span
            assert first is not None
            expected = 2 * (trajectory.reward - mean) / (std + 1e-4)
            assert got[first[0]] == pytest.approx(whole[first[0]] + expected, rel=1e-6)


def test_kl_in_the_reward_lowers_the_advantage_of_what_drifted(warm: Path) -> None:
    policy = policy_of(warm)
    groups = groups_of(policy)
    objective = Grpo(replace(GRPO, kl=0.5, kl_place="reward", estimator="dr_grpo"), Data())
    objective.prepare(policy)
    assert [s.channels["advantages"][-1] for s in objective._samples(policy, StepGroups(0, groups))] == pytest.approx(
        [r - statistics.fmean(g.rewards()) for g in groups for r in g.rewards()], abs=1e-5
    )  # the policy is its own reference still
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(1.02)
    samples = objective._samples(policy, StepGroups(0, groups))
    assert [s.channels["advantages"][-1] for s in samples] != pytest.approx(
        [r - statistics.fmean(g.rewards()) for g in groups for r in g.rewards()], abs=1e-3
    )
    for g in groups:  # still relative to the group
        mine, samples = samples[: len(g.trajectories)], samples[len(g.trajectories) :]
        assert sum(s.channels["advantages"][-1] for s in mine) == pytest.approx(0, abs=1e-5)
        with torch.no_grad():
            sums = [float((policy.predict(b).logps_M - policy.reference(b)).sum()) for b in map(_alone, mine)]
        adjusted = [t.reward - 0.5 * kl for t, kl in zip(g.trajectories, sums, strict=True)]
        expected = [r - statistics.fmean(adjusted) for r in adjusted]
        assert [s.channels["advantages"][-1] for s in mine] == pytest.approx(expected, abs=1e-3)


def _alone(sample: Sample) -> TreeBatch:
    return TreeBatch.build([sample])


def test_episodes_that_were_cut_may_be_left_out(warm: Path) -> None:
    policy = policy_of(warm)
    (group, *_) = groups_of(policy)
    cut = TrajectoryGroup((replace(group.trajectories[0], stop=StopReason.TURN_LIMIT), *group.trajectories[1:]))
    keep = grpo_samples(policy, replace(GRPO, kl=0.0), StepGroups(0, [cut]))
    mask = grpo_samples(policy, replace(GRPO, kl=0.0, overlong="mask"), StepGroups(0, [cut]))
    assert mask == keep[1:]  # with the same advantages: it still counts in the mean


def test_inner_epochs_make_the_clip_act(warm: Path, tmp_path: Path) -> None:
    """Four updates on the same episodes: the ratio leaves 1 after the first, and the bounds are met."""
    made = replace(GRPO, steps=1, kl=0.1, epochs=2, minibatches=2, clip_low=0.02, clip_high=0.03, save_every=0)
    train(policy_of(warm), Grpo(made, Data()), tmp_path / "a")
    (row,) = rows_of(tmp_path / "a")
    assert row["updates"] == 4
    assert row["clip_fraction"] > 0
    assert row["ratio_max"] > 1.03
    assert row["mismatch_kl"] < 1e-6  # against the policy that sampled, not the moved one
    train(policy_of(warm), Grpo(replace(made, epochs=1, minibatches=1), Data()), tmp_path / "b")
    (once,) = rows_of(tmp_path / "b")
    assert once["clip_fraction"] == 0
    assert "updates" not in once


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"estimator": "gigpo"}, id="gigpo"),
        pytest.param({"estimator": "lite"}, id="lite", marks=pytest.mark.slow),
        pytest.param(
            {"ratio": "sequence", "epochs": 2, "clip_low": 3e-4, "clip_high": 4e-4}, id="gspo", marks=pytest.mark.slow
        ),
        pytest.param(
            {"ratio": "cispo", "epochs": 2, "clip_low": 1.0, "kl_estimator": "k3-ratio"},
            id="cispo",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_grpo_raises_success_with_each_option(warm: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    made = replace(GRPO, steps=8, save_every=0, optim=Optim(lr=3e-4, warmup=2), **options)
    model = train(policy_of(warm), Grpo(made, Data()), tmp_path)
    assert success(policy_of(model)) > success(policy_of(warm)) + 0.2


def test_forked_groups_begin_after_a_failure(warm: Path, tmp_path: Path) -> None:
    made = replace(GRPO, mixture=FAULTY, steps=1, forked=0.5, save_every=0)
    objective, policy = Grpo(made, Data()), policy_of(warm)
    objective.prepare(policy)
    run = Run(tmp_path, policy, made.optim, 1)
    drawn = objective.sample(run, 0)
    lines = (tmp_path / "episodes" / "step-000001.jsonl").read_bytes().splitlines()
    played = [Trajectory.from_json(line) for line in lines]
    forked = [x for x in played if x.forked_from is not None]
    assert len(played) - len(forked) == 16
    assert len(forked) in (8, 16)
    parents = {x.id: x for x in played}
    for x in forked:
        assert x.forked_from is not None
        parent, k = parents[x.forked_from.parent], x.forked_from.turn
        assert k in failures(parent)
        assert x.turns[:k] == parent.turns[:k]
    assert "success_forked" in drawn.logs
    assert drawn.logs["success"] == sum(bool(x.success) for x in played if x.forked_from is None) / 16
    group = one_start(forked)
    for sample, x in zip(grpo_samples(policy, replace(made, kl=0.0), StepGroups(0, [group])), forked, strict=False):
        span = x.turns[x.forked_from.turn].span if x.forked_from else None
        assert span is not None
        assert not any(sample.weights[: span[0]])  # what came before the fork is context
        assert sample.weights[span[0]]


def one_start(forked: list[Trajectory]) -> TrajectoryGroup:
    """The first of the groups."""
    return TrajectoryGroup(tuple(x for x in forked if x.forked_from == forked[0].forked_from))


# --- PPO ---------------------------------------------------------------------------------------------------------


def test_ppo_raises_success_and_learns_its_values(warm: Path, tmp_path: Path) -> None:
    model = train(policy_of(warm), Ppo(replace(PPO, steps=8), Data()), tmp_path)
    assert success(policy_of(model)) > success(policy_of(warm)) + 0.2
    rows = rows_of(tmp_path)
    assert rows[0]["updates"] == 4
    assert rows[-1]["value_mean"] > rows[0]["value_mean"] + 0.1
    assert set(load_file(model / "heads.safetensors")) == {"value.weight", "value.bias"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"level": "turn", "baseline": "expert"}, id="expert"),
        pytest.param({"level": "turn"}, id="turn", marks=pytest.mark.slow),
        pytest.param({"level": "bi-level"}, id="bi-level", marks=pytest.mark.slow),
    ],
)
def test_ppo_raises_success_at_each_level(warm: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    made = replace(PPO, steps=8, turn_gamma=0.95, share=True, kl_place="reward", save_every=0, **options)
    model = train(policy_of(warm), Ppo(made, Data()), tmp_path)
    assert success(policy_of(model)) > success(policy_of(warm)) + 0.2
    assert (model / "heads.safetensors").exists() == ("baseline" not in options)


def test_a_warm_up_moves_the_head_alone(warm: Path, tmp_path: Path) -> None:
    model = train(
        policy_of(warm), Ppo(replace(PPO, steps=2, critic_warmup=2, replay=0, save_every=0), Data()), tmp_path
    )
    before, after = load_file(warm / "model.safetensors"), load_file(model / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert float(load_file(model / "heads.safetensors")["value.weight"].abs().max()) > 0
    rows = rows_of(tmp_path)
    assert rows[1]["value_loss"] < rows[0]["value_loss"]
    assert "clip_fraction" not in rows[0]


def test_the_experts_turns_are_an_exact_baseline() -> None:
    """gamma .9 and lambda 0: what the expert would have done costs nothing, a wasted turn what it cost."""
    (task,) = task_set(make("echo"), "train", 1)
    (wasted,) = rollout("echo", says("no", str(task.data["word"])), [EpisodeSpec(task)])
    (best,) = rollout("echo", scripted("expert"), [EpisodeSpec(task)])
    objective = Ppo(replace(PPO, level="turn", baseline="expert", turn_gamma=0.9, turn_lam=0.0, whiten=False), Data())
    values = [[objective._worth(*ahead) for ahead in States().expert_ahead(x)] for x in (wasted, best)]
    assert values == [pytest.approx([0.9, 0.9, 1.0]), pytest.approx([0.9, 1.0])]
    spans = ((0, 1), (2, 3), (4, 5))
    for x, value, expected in zip((wasted, best), values, ([0.81 - 0.9, 0, 0], [0, 0]), strict=True):
        turns = tuple(replace(turn, span=span) for turn, span in zip(x.turns, spans, strict=False))
        n = 2 * len(turns) - 1
        channels = [0.0] * n
        for v, (a, _) in zip(value, spans, strict=False):
            channels[a] = v
        sample = Sample(tuple(range(n)), tuple(float(k % 2 == 0) for k in range(n)))
        got = objective._gae(replace(x, turns=turns), sample, [*[0.0] * (n - 1), 1.0], channels)
        assert [got.advantages[a] for a, _ in spans[: len(turns)]] == pytest.approx(expected)
    with pytest.raises(ConfigError, match="goes with level 'turn'"):
        replace(PPO, baseline="expert")


def test_ppo_puts_the_reward_on_the_last_sampled_token(warm: Path) -> None:
    policy = policy_of(warm)
    tasks = task_set(make("echo"), "train", 4)
    played = rollout("echo", policy.agent(parallel=8), [EpisodeSpec(x, seed=s) for x in tasks for s in range(2)])
    objective = Ppo(replace(PPO, kl=0.0, whiten=False, gamma=0.9, lam=1.0), Data())
    objective.prepare(policy)
    for sample, x in zip(objective._samples(policy, StepEpisodes(0, played)), played, strict=True):
        at = [k for k, w in enumerate(sample.weights) if w]
        wanted = [x.reward * 0.9 ** (len(at) - 1 - i) for i in range(len(at))]  # values are 0 at first
        assert [sample.channels["advantages"][k] for k in at] == pytest.approx(wanted)
        assert all(sample.channels["advantages"][k] == 0 for k in range(len(sample.ids)) if k not in at)


# --- DAgger and distillation -------------------------------------------------------------------------------------


def test_the_labels_of_one_round_teach(warm: Path, tmp_path: Path) -> None:
    policy = policy_of(warm)
    before, objective = success(policy), Dagger(DAGGER, Data())
    objective.prepare(policy)
    tasks = task_set(make("echo"), "train", 4)
    played = rollout("echo", policy.agent(parallel=16), [EpisodeSpec(x, seed=s) for x in tasks for s in range(4)])
    batch = StepLabels(0, [sample for x in played for sample in objective._labels(policy.chat, x)[0]])
    run = Run(tmp_path, policy, Optim(lr=3e-4), 15)
    rows = [run.update(objective.losses(policy, batch)) for _ in range(15)]
    assert rows[-1]["nll"] < rows[0]["nll"] / 2
    assert success(policy) > before + 0.2


@pytest.mark.slow
def test_dagger_raises_success(warm: Path, tmp_path: Path) -> None:
    """Through a valley: the model's new mistakes bring states that it has no answer to yet."""
    tasks = task_set(make("echo"), "train", 4)
    data = Data(gold=gold(rollout("echo", scripted("expert"), [EpisodeSpec(x) for x in tasks])).items)
    optim = Optim(lr=1e-3, warmup=1)
    made = replace(DAGGER, mixture=CLEAN, steps=40, each=4, remember=8, replay_weight=1.0, save_every=0, optim=optim)
    model = train(policy_of(warm), Dagger(made, data), tmp_path)
    assert success(policy_of(model)) > success(policy_of(warm)) + 0.2


def test_dagger_labels_every_visited_state(warm: Path, tmp_path: Path) -> None:
    policy = policy_of(warm)
    objective = Dagger(DAGGER, Data())
    tasks = task_set(make("echo"), "train", 4)
    played = rollout("echo", policy.agent(parallel=8), [EpisodeSpec(x, seed=s) for x in tasks for s in range(2)])
    for x in played:
        samples, agreed = objective._labels(policy.chat, x)
        assert len(samples) == len(x.turns)
        assert agreed <= len(samples)
        for sample, turn in zip(samples, x.turns, strict=True):
            assert x.tokens is not None
            assert turn.span is not None
            start = turn.span[0]
            assert sample.ids[:start] == x.tokens.ids[:start]  # its own episode as the context
            assert not any(sample.weights[:start])
            assert all(sample.weights[start:])
        said = policy.chat.parse(samples[0].ids[x.turns[0].span[0] :])  # type: ignore[index]  # it has one
        assert said.tool_calls[0].arguments == {"word": x.task.data["word"]}


def apart(policy: Policy, other: Policy, played: list[Trajectory]) -> float:
    """Half the mean squared difference of their log-probabilities of what was said."""
    tree = TreeBatch.build([Sample.of(sampled_tokens(policy.chat, x)) for x in played])
    with torch.no_grad():
        return float(((policy.predict(tree).logps_M - other.predict(tree).logps_M) ** 2).mean()) / 2


def test_distillation_brings_the_policy_to_its_teacher(warm: Path, able: Path, tmp_path: Path) -> None:
    made = replace(DISTILL, teacher=str(able), steps=8, save_every=0)
    before, teacher = policy_of(warm), policy_of(able)
    specs = [EpisodeSpec(x, seed=s) for x in task_set(make("echo"), "train", 4) for s in range(4)]
    played = rollout("echo", before.agent(parallel=16), specs)
    after = policy_of(train(policy_of(warm), Distill(made, Data()), tmp_path / "a"))
    assert apart(after, teacher, played) < apart(before, teacher, played) / 2
    assert success(after) > success(before) + 0.2
    itself = replace(DISTILL, teacher=str(warm), steps=1, save_every=0)
    train(policy_of(warm), Distill(itself, Data()), tmp_path / "b")
    assert rows_of(tmp_path / "b")[0]["loss"] == pytest.approx(0, abs=1e-9)  # nothing to learn from oneself


def test_a_teacher_that_reads_other_ids_is_refused(warm: Path, able: Path, tmp_path: Path) -> None:
    """As many tokens as the policy has, two of them the other way round: an id would be another letter to it."""
    other = shutil.copytree(able, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ConfigError, match=r"reads token ids as .*: take a teacher with the policy's tokenizer"):
        train(policy_of(warm), Distill(replace(DISTILL, teacher=str(other)), Data()), tmp_path / "run")
    with pytest.raises(ConfigError, match="needs a teacher"):
        train(policy_of(warm), Distill(DISTILL, Data()), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
