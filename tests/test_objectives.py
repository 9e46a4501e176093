"""Preference objectives on `echo`: each formula against plain forwards, and each moves its number with a tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from sparring.agents import EpisodeSpec, ScriptedAgent, rollout, scripted, tokens_of
from sparring.agents.models import quiet
from sparring.envs import ToolEnv, make, task_set
from sparring.envs.rewards import weigh
from sparring.trainers import OBJECTIVES, Data, Mixture, Optim, Policy, RewardModel, train
from sparring.trainers.batch import Sample, TreeBatch
from sparring.trainers.mixture import sample_groups
from sparring.trainers.objectives.dmpo import turn_weight
from sparring.trainers.objectives.kto import Kto, KtoSettings
from sparring.trainers.objectives.online_dpo import OnlineDpo, OnlineDpoSettings
from sparring.trainers.objectives.reward_model import BradleyTerry, RewardModelSettings
from sparring.trajectories import Action, ConfigError, DataError, Trajectory, TrajectoryGroup
from sparring.trajectories.curation import Pair, judged_pairs, on_policy_pairs, scored_pairs

Judged = tuple[RewardModel, list[dict[str, float]], Path]
"""Loaded, the rows of its training, and its folder."""

CLEAN = Mixture.of("echo", faults=(("", 1.0),))


pytestmark = pytest.mark.usefixtures("one_thread")


def policy_of(folder: Path) -> Policy:
    return Policy.load(folder, tool_style="signature", precision="fp32")


def say(word: str) -> ScriptedAgent:
    def script(env: ToolEnv, seed: int) -> Any:
        yield Action.call("say", word=word)
        yield Action("Done.")

    return ScriptedAgent("say", script)


def played(agent: Any, n: int = 4) -> list[Trajectory]:
    return list(rollout("echo", agent, [EpisodeSpec(t) for t in task_set(make("echo"), "train", n)]))


def made_pairs(n: int = 4) -> list[Pair]:
    """The expert's episode over one that says the wrong word."""
    sides = zip(played(scripted("expert"), n), played(say("no"), n), strict=True)
    return [Pair(chosen, rejected, 0, "made", 1.0) for chosen, rejected in sides]


@pytest.fixture(scope="module")
def warm(echo_run: tuple[Path, list[dict[str, float]]]) -> Path:
    """A policy that says the word about half of the time and idles else."""
    return echo_run[0]


@pytest.fixture(scope="module")
def groups(warm: Path) -> list[TrajectoryGroup]:
    """What it plays: some went well."""
    return sample_groups(CLEAN, policy_of(warm).agent(parallel=32), 4, 8, seed=5)


def success(model: Path) -> float:
    specs = [EpisodeSpec(t, seed=s) for t in task_set(make("echo"), "train", 4) for s in range(16)]
    episodes = rollout("echo", policy_of(model).agent(parallel=32), specs)
    return sum(bool(t.success) for t in episodes) / len(episodes)


FROM_GROUPS: dict[str, dict[str, Any]] = {
    "dpo": {"min_chosen": -1e9},
    "dpo ipo": {"min_chosen": -1e9, "variant": "ipo"},
    "dpo hinge": {"min_chosen": -1e9, "variant": "hinge"},
    "dpo robust": {"min_chosen": -1e9, "variant": "robust", "label_smoothing": 0.1},
    "dpo by length": {"min_chosen": -1e9, "normalise": "tokens", "beta": 2.0},
    "simpo": {"target": 1.0},
    "dmpo": {},
    "kto": {},
}
"""Objective, and what is special -> its settings."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (" " in name)) for name in FROM_GROUPS])
def test_success_rises_by_what_went_better(
    name: str, warm: Path, groups: list[TrajectoryGroup], tmp_path: Path
) -> None:
    kind = OBJECTIVES.get(name.partition(" ")[0])
    made = kind.Settings(
        steps=10, batch=16, replay=0, optim=Optim(lr=1e-4, warmup=2), save_every=0, **FROM_GROUPS[name]
    )
    episodes = [t for group in groups for t in group.trajectories]
    data = Data(episodes, on_policy_pairs(groups, max_per_group=4).items)
    rows: list[dict[str, float]] = []
    model = train(policy_of(warm), kind(made, data), tmp_path, on_step=lambda run, row: rows.append(row))
    assert success(model) > success(warm) + 0.25
    assert rows[-1]["accuracy"] > 0.7


def test_online_dpo_raises_success(warm: Path, tmp_path: Path) -> None:
    """Online, and semi-online with as many episodes: six steps from three times of playing."""
    for every in (1, 2):
        made = OnlineDpoSettings(
            mixture=CLEAN,
            steps=6,
            every=every,
            groups=4,
            pairs_of_group=4,
            replay=0,
            optim=Optim(lr=3e-4, warmup=1),
            parallel=32,
            save_every=0,
        )
        rows: list[dict[str, float]] = []
        folder = tmp_path / str(every)
        model = train(policy_of(warm), OnlineDpo(made, Data()), folder, on_step=lambda run, row: rows.append(row))  # noqa: B023  # called within
        assert success(model) > success(warm) + 0.25
        files = sorted(path.name for path in (folder / "episodes").iterdir())
        assert files == [f"step-{step + 1:06d}.jsonl" for step in range(6)]
        each = [
            [Trajectory.from_json(x) for x in (folder / "episodes" / file).read_bytes().splitlines()] for file in files
        ]
        first = each[0]
        assert [len(episodes) for episodes in each] == [32] * 6
        assert [{t.policy_version for t in episodes} for episodes in each] == [{k - k % every} for k in range(6)]
        assert rows[0]["success"] == sum(bool(t.success) for t in first) / len(first)
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)  # the reference is the policy that began


def test_online_dpo_pairs_success_with_failure(warm: Path, groups: list[TrajectoryGroup]) -> None:
    made = OnlineDpoSettings(mixture=CLEAN, by="success", pairs_of_group=3)
    pairs = OnlineDpo(made, Data())._pairs(groups)
    assert pairs
    assert all(pair.chosen.success and not pair.rejected.success for pair in pairs)
    assert OnlineDpo(replace(made, by="reward", min_margin=5.0), Data())._pairs(groups) == []
    none = [TrajectoryGroup(tuple(t for t in g.trajectories if t.success)) for g in groups]
    assert OnlineDpo(made, Data())._pairs(none) == []


def test_online_dpo_without_pairs_changes_nothing(tiny_qwen3: Path, tmp_path: Path) -> None:
    """A model that knows nothing fails always. A run that never had a pair says so."""
    notes: list[str] = []
    policy = policy_of(tiny_qwen3)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    made = OnlineDpoSettings(mixture=CLEAN, steps=2, groups=2, group=2, max_turn_tokens=8, save_every=0)
    train(policy, OnlineDpo(made, Data()), tmp_path, on_note=notes.append)
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())
    assert len(notes) == 1
    assert notes[0].startswith("no group had a signal in any of 2 steps")


def test_episodes_that_are_gone_are_named(warm: Path, tmp_path: Path) -> None:
    made = OnlineDpoSettings(mixture=CLEAN, steps=4, every=4, groups=1, group=2, save_every=1, replay=0)

    def stop(run: Any, row: Any) -> None:
        if run.step == 1:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        train(policy_of(warm), OnlineDpo(made, Data()), tmp_path, on_step=stop)
    (tmp_path / "episodes" / "step-000002.jsonl").unlink()
    with pytest.raises(DataError, match=r"are not in .*step-000002\.jsonl"):
        train(policy_of(warm), OnlineDpo(made, Data()), tmp_path)


# --- formulas ----------------------------------------------------------------------------------------------------


def test_the_weights_of_turns_by_hand() -> None:
    # g = .5, T = 3: (1 - .125) / .875 = 1; .5 (1 - .25) / .875 = 3/7; .25 * .5 / .875 = 1/7
    assert [turn_weight(k, 3, 0.5) for k in range(3)] == pytest.approx([1, 3 / 7, 1 / 7])
    assert [turn_weight(k, 4, 1.0) for k in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [turn_weight(k, 4, 1 - 1e-6) for k in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25], abs=1e-5)


def logp(policy: Policy, ids: tuple[int, ...], said: list[int]) -> float:
    """Sum of log p of the tokens at the places `said`: one sequence, plain forward."""
    with torch.no_grad():
        logps = policy.predict(TreeBatch.build([Sample(ids, (1.0,) * len(ids))])).logps_M
    return float(sum(logps[i - 1] for i in said))


def first_losses(objective: Any, policy: Policy, scale: float = 1.02) -> float:
    """The loss of the first batch after the weights were scaled, so that it is not that of the reference."""
    objective.prepare(policy)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(scale)
    batch = objective.sample(None, 0).batch
    return float(sum(float(compute().value.detach()) for compute in objective.losses(policy, batch)))


def test_one_dmpo_loss_by_the_formula(warm: Path) -> None:
    kind = OBJECTIVES.get("dmpo")
    pairs = made_pairs(2)
    got = first_losses(kind(kind.Settings(beta=0.3, gamma=0.9, replay=0), Data(pairs=pairs)), now := policy_of(warm))
    before, expected = policy_of(warm), 0.0
    for pair in pairs:
        h = 0.0
        for sign, t in ((1, pair.chosen), (-1, pair.rejected)):
            tokens, spans = tokens_of(now.chat, t)
            n = len(spans)
            for k, (a, b) in enumerate(spans):
                phi = 0.9**k * (1 - 0.9 ** (n - k)) / (1 - 0.9**n)
                places = list(range(a, b))
                h += sign * phi * (logp(now, tokens.ids, places) - logp(before, tokens.ids, places))
        expected += math.log1p(math.exp(-0.3 * h)) / 2
    assert got == pytest.approx(expected, rel=1e-4)


def test_one_kto_loss_by_the_formula(warm: Path) -> None:
    """The anchor: what was said in the next episode of another task, after this one's prompt."""
    pairs = made_pairs(2)
    episodes = [pairs[0].chosen, pairs[0].rejected, pairs[1].chosen, pairs[1].rejected]
    made = KtoSettings(beta=0.3, good=1.2, bad=0.7, batch=4, replay=0, optim=Optim(micro_tokens=400))
    got = first_losses(Kto(made, Data(episodes)), now := policy_of(warm))
    before = policy_of(warm)
    rendered = [tokens_of(now.chat, t) for t in episodes]

    def change(ids: tuple[int, ...], said: list[int]) -> float:
        return logp(now, ids, said) - logp(before, ids, said)

    own, mismatched = [], []
    for i, other in enumerate((2, 2, 0, 0)):
        tokens, spans = rendered[i]
        own.append(change(tokens.ids, [p for p, s in enumerate(tokens.sampled) if s]))
        theirs, their_spans = rendered[other]
        start, end = their_spans[0][0], spans[0][0]
        said = [p - start + end for p, s in enumerate(theirs.sampled) if s]
        mismatched.append(change(tokens.ids[:end] + theirs.ids[start:], said))
    anchor = max(0.0, sum(mismatched) / 4)
    expected = 0.0
    for i, delta in enumerate(own):
        sign, weight = (-1, 0.7) if i % 2 else (1, 1.2)
        expected += weight * (1 - 1 / (1 + math.exp(-0.3 * sign * (delta - anchor)))) / 4
    assert got == pytest.approx(expected, rel=1e-4)


def test_kto_needs_both_kinds(warm: Path) -> None:
    with pytest.raises(DataError, match="needs successes and failures, got 2 successes of 2"):
        Kto(KtoSettings(), Data(played(scripted("expert"), 2))).prepare(policy_of(warm))


# --- reward models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Trained on pairs of three tasks in four; and the rows of its training."""
    rows: list[dict[str, float]] = []
    made = RewardModelSettings(
        steps=20, batch=8, validation_share=0.25, validate_every=5, optim=Optim(lr=1e-3, warmup=2), save_every=0
    )
    folder = tmp_path_factory.mktemp("reward")
    data = Data(pairs=made_pairs())
    model = train(policy_of(warm), BradleyTerry(made, data), folder, on_step=lambda run, row: rows.append(row))
    return RewardModel.load(model, precision="fp32"), rows, model


def test_a_reward_model_tells_good_from_bad(judge: Judged) -> None:
    model, rows, _ = judge
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # a new head says 0 of everything
    assert rows[0]["accuracy"] == 0
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["held_out_accuracy"] == 1
    assert [step + 1 for step, row in enumerate(rows) if "held_out_accuracy" in row] == [5, 10, 15, 20]
    scores = model.many([*played(scripted("expert")), *played(say("no"))])
    assert min(scores[:4]) > max(scores[4:])
    assert abs(sum(scores) / 8) < 2  # centred


def test_a_reward_is_read_at_the_last_token_that_was_said(judge: Judged) -> None:
    model = judge[0]
    (t,) = played(scripted("expert"), 1)
    tokens, spans = tokens_of(model.policy.chat, t)
    with quiet():
        plain = AutoModel.from_pretrained(judge[2], dtype=torch.float32, attn_implementation="eager").eval()
    hidden = plain(torch.tensor([list(tokens.ids)]), use_cache=False).last_hidden_state
    read = model.policy.heads["reward"](hidden[0, spans[-1][1] - 1])
    assert model(t) == pytest.approx(float(read.detach()), abs=1e-4)


def test_a_reward_model_judges_pairs_and_scores_them(judge: Judged, groups: list[TrajectoryGroup]) -> None:
    model = judge[0]
    held = [TrajectoryGroup((g, b)) for g, b in zip(played(scripted("expert")), played(say("no")), strict=True)]
    for pairs in (scored_pairs(held, model).items, judged_pairs(held, model.judge).items):
        assert len(pairs) == 4
        assert all(pair.chosen.success and not pair.rejected.success for pair in pairs)
    (good,) = played(scripted("expert"), 1)
    assert model.judge(good, good) == "tie"


def test_a_reward_model_is_a_term_of_the_reward(judge: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    model = judge[0]
    kind = type(make("echo"))
    monkeypatch.setattr(kind, "reward_terms", {"model": weigh(0.5, model.term)})
    for agent in (scripted("expert"), say("no")):
        for t in played(agent):
            assert t.reward_parts["model"] == pytest.approx(0.5 * model(t), abs=1e-5)
            assert t.reward == pytest.approx(float(bool(t.success)) + t.reward_parts["model"])


def test_what_is_no_reward_model_is_refused(warm: Path, judge: Judged) -> None:
    with pytest.raises(ConfigError, match="has no reward head"):
        RewardModel.load(warm)
    with pytest.raises(ConfigError, match="has no head 'reward'"):
        RewardModel(policy_of(warm))
    silent = replace(played(scripted("expert"), 1)[0], turns=(), tokens=None)
    with pytest.raises(ConfigError, match="no turns"):
        judge[0](silent)


@pytest.mark.parametrize(
    ("make_settings", "said"),
    [
        (lambda: OBJECTIVES.get("dpo").Settings(label_smoothing=0.5), "label_smoothing is below 0.5"),
        (lambda: OBJECTIVES.get("dpo").Settings(label_smoothing=0.1, variant="ipo"), "goes with sigmoid and robust"),
        (lambda: OBJECTIVES.get("dmpo").Settings(gamma=1.5), "gamma is a discount of 1 at most"),
        (lambda: OnlineDpoSettings(mixture=CLEAN, group=1), "a group needs two episodes"),
        (lambda: OnlineDpoSettings(mixture=CLEAN, temperature=0.0), "temperature is a number above 0"),
        (lambda: RewardModelSettings(validation_share=1.0), "validation_share is below 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make_settings: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_settings()
