"""Trainers: the flat batch against plain forwards, losses recomputed by hand, runs that stop and go on."""

from __future__ import annotations

import errno
import json
import math
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparring.agents import (
    AgentSettings,
    ChatFormat,
    EpisodeSpec,
    HermesFormat,
    LLMAgent,
    ScriptedAgent,
    load_agent,
    rollout,
    scripted,
    tokens_of,
)
from sparring.agents.chat_format import encoding_of
from sparring.agents.engines.fake import FakeEngine
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.fakes import ByteTokenizer
from sparring.agents.head import Head
from sparring.agents.models import load_model, load_tokenizer, quiet
from sparring.agents.rollouts import telling
from sparring.envs import ToolEnv, make, task_set
from sparring.envs.echo import Echo
from sparring.tools.deadline import run_forked
from sparring.trainers import (
    OBJECTIVES,
    Data,
    Dpo,
    DpoSettings,
    Grpo,
    GrpoSettings,
    Lora,
    Mixture,
    Optim,
    Policy,
    Sft,
    SftSettings,
    objectives,
    train,
)
from sparring.trainers.batch import SAMPLER, Sample, TreeBatch, micro_batches
from sparring.trainers.losses import Loss, kl_loss
from sparring.trainers.mixture import sample_groups
from sparring.trainers.model import token_logps
from sparring.trainers.objective import Drawn
from sparring.trainers.objectives.grpo import StepGroups
from sparring.trainers.run import Interrupted, Run
from sparring.trainers.samples import epoch_indices, likelihood_losses, samples_of
from sparring.trajectories import (
    Action,
    ConfigError,
    DataError,
    InfrastructureError,
    StopReason,
    Task,
    Tokens,
    Trajectory,
    TrajectoryGroup,
)
from sparring.trajectories.curation import Pair, gold
from sparring.trajectories.errors import TrainingError

RELATIVE = 1e-4

OBJECTIVE_FILES = {info.name for info in pkgutil.iter_modules(objectives.__path__)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["tiny_qwen3", "tiny_llama"])
def loud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with weights eight times as large: what it attends to decides what it says."""
    source, folder = request.getfixturevalue(request.param), tmp_path_factory.mktemp("loud")
    model = load_model(source)
    with torch.no_grad(), quiet():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(8)
        model.save_pretrained(folder)
        load_tokenizer(source).save_pretrained(folder)
    return folder


def policy_of(folder: Path, lora: Lora | None = None) -> Policy:
    return Policy.load(folder, tool_style="signature", precision="fp32", lora=lora)


def plain_of(folder: Path) -> Any:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logps_of(plain: Any, ids: Sequence[int]) -> Tensor:
    """log p of each id after those before it; 0 for the first. Plain Hugging Face, one sequence, no padding."""
    logits = plain(torch.tensor([list(ids)]), use_cache=False).logits[0]
    chosen = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(list(ids[1:]))[:, None])[:, 0]
    return torch.cat([chosen.new_zeros(1), chosen])


def own_tokens(trajectory: Trajectory) -> Tokens:
    """Of an episode that a model sampled."""
    assert trajectory.tokens is not None
    return trajectory.tokens


def backward(value: Tensor | int) -> None:
    """`Tensor.backward`, which has no types."""
    assert isinstance(value, Tensor)
    value.backward()  # type: ignore[no-untyped-call]


def gradient(of: Tensor) -> Tensor:
    assert of.grad is not None
    return of.grad


def gradients(model: Any) -> dict[str, Tensor]:
    out = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return out


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    whole = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-2 * whole)
        assert float((got[name] - gradient).abs().max()) <= RELATIVE * scale, name


# --- the flat batch ----------------------------------------------------------------------------------------------


@st.composite
def families(draw: st.DrawFn) -> list[Sample]:
    """Sequences that branch off each other anywhere: duplicates and prefixes of others among them."""
    token = st.integers(0, 200)
    sequences: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(1, 6))):
        stem: tuple[int, ...] = ()
        if sequences:
            other = draw(st.sampled_from(sequences))
            stem = other[: draw(st.integers(0, len(other)))]
        sequences.append((*stem, *draw(st.lists(token, min_size=max(0, 2 - len(stem)), max_size=14))))
    weight = st.sampled_from([0.0, 1.0, 1.0, 0.5])
    return [Sample(ids, tuple(draw(weight) for _ in ids)) for ids in sequences]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=families(), seed=st.integers(0, 1000))
def test_the_tree_equals_one_forward_a_sequence(loud: Path, samples: list[Sample], seed: int) -> None:
    policy, plain = policy_of(loud), plain_of(loud)
    batch = TreeBatch.build(samples)
    assert len(batch.ids_N) == len({s.ids[:n] for s in samples for n in range(1, len(s.ids) + 1)})
    wanted = {(s.ids[: t + 1]) for s in samples for t in range(1, len(s.ids)) if s.weights[t]}
    assert len(batch.sources_U) == len(wanted)

    seen = policy.predict(batch)
    expected = [logps_of(plain, s.ids) for s in samples]
    for i, sample in enumerate(samples):
        mine = batch.owner_M == i
        at = [t for t in range(1, len(sample.ids)) if sample.weights[t]]
        assert batch.weights_M[mine].tolist() == [sample.weights[t] for t in at]
        assert seen.logps_M[mine].tolist() == pytest.approx(expected[i][at].tolist(), rel=RELATIVE, abs=1e-5)
    if not wanted:
        return
    # Any loss is a weight on (position, trajectory); here random ones of either sign.
    factor = torch.randn(len(samples), generator=torch.Generator().manual_seed(seed))
    backward((seen.logps_M * batch.weights_M * factor[batch.owner_M]).sum())
    reference = sum(
        (logps * torch.tensor([0.0, *s.weights[1:]])).sum() * factor[i]
        for i, (s, logps) in enumerate(zip(samples, expected, strict=True))
    )
    backward(reference)
    assert_same_gradients(gradients(policy.model), gradients(plain))


def test_the_tree_of_the_docstring() -> None:
    """abcd, abef, g.: a b c d | e f | g h, and nothing of the first sequence's c d is an ancestor of e."""
    ones = (1.0,) * 4
    batch = TreeBatch.build([Sample((1, 2, 5, 6), ones), Sample((7, 8), ones[:2]), Sample((1, 2, 3, 4), ones)])
    assert batch.ids_N.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert batch.positions_N.tolist() == [0, 1, 2, 3, 2, 3, 0, 1]
    assert [(s.start, s.end, s.ancestors) for s in batch.layout.segments] == [
        (0, 4, ()),
        (4, 6, ((0, 2),)),
        (6, 8, ()),
    ]
    assert batch.owner_M.tolist() == [2, 2, 2, 0, 0, 0, 1]
    assert batch.sources_U.tolist() == [0, 1, 2, 1, 4, 6]  # b after a is predicted once, for two owners
    assert batch.targets_U.tolist() == [2, 3, 4, 5, 6, 8]
    assert batch.unique_M.tolist() == [0, 1, 2, 0, 3, 4, 5]
    with pytest.raises(DataError, match="empty batch"):
        TreeBatch.build([])
    with pytest.raises(DataError, match="1 tokens"):
        TreeBatch.build([Sample((1,), (1.0,))])


@settings(max_examples=100, deadline=None)
@given(samples=families(), limit=st.integers(1, 60))
def test_micro_batches_cover_everything_within_the_limit(samples: list[Sample], limit: int) -> None:
    parts = list(micro_batches(samples, limit))
    assert sorted(i for part in parts for i in part) == list(range(len(samples)))
    for part in parts:
        distinct = {samples[i].ids[:n] for i in part for n in range(1, len(samples[i].ids) + 1)}
        assert len(distinct) <= limit or len(part) == 1


def test_splitting_a_step_leaves_its_gradient(loud: Path) -> None:
    rng = random.Random(0)
    stem = [rng.randrange(3, 200) for _ in range(20)]
    samples = []
    for i in range(6):
        ids = (*stem[: rng.randrange(5, 20)], *(rng.randrange(3, 200) for _ in range(5 + 3 * i)))
        samples.append(Sample(ids, tuple(float(rng.random() < 0.6) for _ in ids)))
    policy = policy_of(loud)

    def run(limit: int) -> tuple[int, float, dict[str, Tensor]]:
        values = []
        for compute in likelihood_losses(policy, samples, limit):
            loss = compute()
            backward(loss.value)
            values.append(float(loss.value.detach()))
        return len(values), sum(values), gradients(policy.model)

    whole, split, each = run(10_000), run(50), run(1)
    assert (whole[0], each[0]) == (1, 6)
    assert 1 < split[0] < 6
    for other in (split, each):
        assert other[1] == pytest.approx(whole[1], rel=1e-5)
        assert_same_gradients(other[2], whole[2])
    plain = plain_of(loud)
    total = sum(s.weight for s in samples)
    expected = (
        sum(-(logps_of(plain, s.ids).detach() * torch.tensor([0.0, *s.weights[1:]])).sum() for s in samples) / total
    )
    assert whole[1] == pytest.approx(float(expected), rel=1e-5)


def test_token_logprobs_equal_log_softmax() -> None:
    """600 rows are three chunks. The reference is torch's, in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(600, 24, generator=generator)
    weight = torch.randn(1000, 24, generator=generator)
    targets = torch.randint(1000, (600,), generator=generator)
    direction = torch.randn(600, generator=generator)
    direction[5:40] = 0
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logps, entropy = token_logps(h, Head(w), targets)
    assert not entropy.requires_grad
    backward((logps * direction).sum())

    h64, w64 = hidden.double().requires_grad_(), weight.double().requires_grad_()
    all_logps = torch.log_softmax(h64 @ w64.T, -1)
    expected = all_logps.gather(1, targets[:, None])[:, 0]
    backward((expected * direction.double()).sum())
    torch.testing.assert_close(logps.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), -(all_logps.exp() * all_logps).sum(-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(h).double(), gradient(h64), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(w).double(), gradient(w64), rtol=1e-4, atol=1e-5)
    assert gradient(h)[5:40].abs().max() == 0  # a weight of 0 is no gradient at all

    frozen = hidden.clone().requires_grad_()
    backward(token_logps(frozen, Head(weight), targets)[0].sum())
    assert frozen.grad is not None
    wide = hidden.bfloat16().requires_grad_()
    half, _ = token_logps(wide, Head(weight), targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, logps, rtol=0.05, atol=0.3)


def test_token_logprobs_at_a_temperature_equal_those_of_divided_logits() -> None:
    """Each row at its own. The reference is torch's, in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(600, 24, generator=generator), torch.randn(1000, 24, generator=generator)
    targets, direction = torch.randint(1000, (600,), generator=generator), torch.randn(600, generator=generator)
    temperatures = 0.3 + 2 * torch.rand(600, generator=generator)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logps, entropy = token_logps(h, Head(w), targets, temperatures=temperatures)
    backward((logps * direction).sum())
    h64, w64 = hidden.double().requires_grad_(), weight.double().requires_grad_()
    all_logps = torch.log_softmax(h64 @ w64.T / temperatures.double()[:, None], -1)
    expected = all_logps.gather(1, targets[:, None])[:, 0]
    backward((expected * direction.double()).sum())
    torch.testing.assert_close(logps.double(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(entropy.double(), -(all_logps.exp() * all_logps).sum(-1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gradient(h).double(), gradient(h64), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradient(w).double(), gradient(w64), rtol=1e-3, atol=1e-3)


def test_bf16_trains_float32_weights(tiny_llama: Path) -> None:
    policy = Policy.load(tiny_llama, tool_style="signature", precision="bf16")
    batch = TreeBatch.build([Sample(tuple(range(3, 60)), (1.0,) * 57), Sample(tuple(range(3, 90)), (1.0,) * 87)])
    seen = policy.predict(batch)
    exact = policy_of(tiny_llama).predict(batch)
    torch.testing.assert_close(seen.logps_M, exact.logps_M, rtol=0.02, atol=0.1)
    backward(seen.logps_M.sum())
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert all(torch.isfinite(gradient(p)).all() for p in policy.parameters())
    with pytest.raises(ConfigError, match="fp32 or bf16"):
        Policy.load(tiny_llama, precision="fp16")  # type: ignore[arg-type]  # wrong on purpose


# --- what is learnt ----------------------------------------------------------------------------------------------


def say(word: str) -> ScriptedAgent:
    def script(env: ToolEnv, seed: int) -> Any:
        yield Action.call("say", word=word)
        yield Action("Done.")

    return ScriptedAgent("say", script)


def echo_gold() -> tuple[Trajectory, ...]:
    tasks = task_set(make("echo"), "train", 4)
    return gold(rollout("echo", scripted("expert"), [EpisodeSpec(t) for t in tasks])).items


def echo_success(policy: Policy, each: int = 8) -> float:
    tasks = task_set(make("echo"), "train", 4)
    played = rollout("echo", policy.agent(parallel=16), [EpisodeSpec(t, seed=s) for t in tasks for s in range(each)])
    return sum(bool(t.success) for t in played) / len(played)


def test_samples_are_what_the_policy_said(tiny_qwen3: Path) -> None:
    chat = HermesFormat(load_tokenizer(tiny_qwen3), tool_style="signature")
    (trajectory,) = rollout("echo", scripted("expert"), [EpisodeSpec(task_set(make("echo"), "train", 1)[0])])
    (sample,) = samples_of(chat, [trajectory], 4096)
    said = [*chat.answer(trajectory.turns[0].action), *chat.answer(trajectory.turns[1].action)]
    assert [id for id, w in zip(sample.ids, sample.weights, strict=True) if w] == said  # both stop tokens included
    assert sample.weight == len(said)
    turns = (replace(trajectory.turns[0], weight=0.0), replace(trajectory.turns[1], weight=0.5))
    (half,) = samples_of(chat, [replace(trajectory, turns=turns)], 4096)
    assert half.ids == sample.ids
    assert half.weight == 0.5 * len(chat.answer(trajectory.turns[1].action))
    with pytest.raises(DataError, match=f"{len(sample.ids)} tokens, over the limit of 50"):
        samples_of(chat, [trajectory], 50)
    nothing = tuple(replace(turn, weight=0.0) for turn in trajectory.turns)
    with pytest.raises(DataError, match="nothing to learn from"):
        samples_of(chat, [replace(trajectory, turns=nothing)], 4096)
    assert Sample.of(Tokens((1, 2, 3), (0, 1, 0), (0.0, -1.0, 0.0)), weights=[5, 5, 5]).weights == (0, 5, 0)


def sampled_by_bytes(n: int = 2) -> list[Trajectory]:
    """Episodes of a model whose tokens are bytes in other numbers than those of the tiny models."""
    chat = HermesFormat(ByteTokenizer(), tool_style="signature")
    said = [chat.answer(Action.call("say", word="dune")), chat.answer(Action("Done."))]
    agent = LLMAgent(FakeEngine(said, max_context=10_000), chat, max_turn_tokens=200)
    tasks = task_set(make("echo"), "train", n)
    return rollout("echo", agent, [EpisodeSpec(t, seed=s) for t in tasks for s in range(2)])


def test_ids_of_another_model_are_never_trained_on(tiny_qwen3: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy, foreign = policy_of(tiny_qwen3), sampled_by_bytes()
    bare = [replace(t, tokens=None, turns=tuple(replace(x, span=None) for x in t.turns)) for t in foreign]
    own = rollout("echo", policy.agent(parallel=4), [EpisodeSpec(t.task) for t in foreign])
    samples = samples_of(policy.chat, [*foreign, *own, *echo_gold()], 4096)
    assert samples == samples_of(policy.chat, [*bare, *own, *echo_gold()], 4096)
    (said,) = [r.getMessage() for r in caplog.records]
    theirs, ours = own_tokens(foreign[0]).encoding, encoding_of(policy.chat)
    assert said == (
        f"4 of {4 + len(own)} episodes with token ids are rendered anew from their messages: their ids are of {theirs}"
        f", the model's of {ours}"
    )
    caplog.clear()
    pairs = [Pair(foreign[0], foreign[1], 0, "made", 1.0), Pair(own[0], foreign[1], 0, "made", 1.0)]
    dpo = Dpo(DpoSettings(min_chosen=-1e9), Data(pairs=pairs))
    dpo.prepare(policy)
    assert [s.ids for sides in dpo._sides for s in sides] == [
        tokens_of(policy.chat, t)[0].ids for t in (bare[0], bare[1], own[0], bare[1])
    ]
    assert len(caplog.records) == 1

    group = TrajectoryGroup(tuple(foreign[:2]))
    with pytest.raises(ConfigError, match=f"are of {theirs}, the policy's are of {ours}: RL needs"):
        losses_of(policy, [group], replace(GRPO, kl=0.0, replay=0))
    batch = TreeBatch.build([Sample.of(own_tokens(foreign[0])), Sample.of(own_tokens(own[0]))])
    with pytest.raises(
        ConfigError, match=f"token ids of {theirs} are to be trained on, but the policy's are of {ours}"
    ):
        policy.predict(batch)


def test_a_saved_model_knows_its_own_ids(tiny_qwen3: Path, tmp_path: Path) -> None:
    policy = Policy.load(tiny_qwen3, tool_style="schema", thinking="off", precision="fp32")
    policy.save(tmp_path)
    again = Policy.load(tmp_path, precision="fp32")
    assert encoding_of(again.chat) == encoding_of(policy.chat)
    others = (Policy.load(tmp_path, thinking="on").chat, Policy.load(tmp_path, tool_style="signature").chat)
    assert len({encoding_of(chat) for chat in (policy.chat, *others)}) == 3
    agent = load_agent(str(tmp_path), AgentSettings(max_turn_tokens=4, precision="fp32"))
    (t,) = rollout("echo", agent, [EpisodeSpec(task_set(make("echo"), "train", 1)[0])])
    assert own_tokens(t).encoding == encoding_of(policy.chat)
    prompt = policy.tokenizer.decode(own_tokens(t).ids[: own_tokens(t).sampled.index(1)])
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_what_was_not_sampled_is_not_learnt(loud: Path) -> None:
    """Another observation after the last sampled token changes neither loss nor gradient, and before it only as
    context: the gradient on the logits of an unsampled token is nil."""
    policy, plain = policy_of(loud), plain_of(loud)
    ids = tuple(random.Random(1).randrange(3, 200) for _ in range(30))
    mask = tuple(float(5 <= t < 12 or 18 <= t < 25) for t in range(30))

    def learn(ids: tuple[int, ...], mask: tuple[float, ...]) -> tuple[float, dict[str, Tensor]]:
        (compute,) = likelihood_losses(policy, [Sample(ids, mask)], 4096)
        loss = compute()
        backward(loss.value)
        return float(loss.value.detach()), gradients(policy.model)

    value, grads = learn(ids, mask)
    other, same = learn((*ids[:25], 9, 9, 9), mask[:28])
    assert other == pytest.approx(value, rel=1e-6)
    assert_same_gradients(same, grads)
    changed, different = learn((*ids[:14], 9, *ids[15:]), mask)
    assert abs(changed - value) > 1e-3  # as context it matters
    assert any((different[n] - grads[n]).abs().max() > 1e-3 * grads[n].abs().max() for n in grads)
    logits = plain(torch.tensor([ids])).logits[0]
    logits.retain_grad()
    picked = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    backward(-(picked * torch.tensor(mask[1:])).sum() / sum(mask))
    assert [t + 1 for t in range(29) if logits.grad[t].abs().max() > 0] == [t for t in range(30) if mask[t]]
    assert_same_gradients(grads, gradients(plain))  # with a mask made otherwise


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 30), size=st.integers(1, 40), seed=st.integers(0, 5))
def test_an_epoch_is_every_index_once(n: int, size: int, seed: int) -> None:
    drawn = [i for step in range(3 * n) for i in epoch_indices(n, size, step, seed)]
    assert len(drawn) == 3 * n * size
    for start in range(0, len(drawn) - n + 1, n):
        assert sorted(drawn[start : start + n]) == list(range(n))
    assert epoch_indices(n, size, 2, seed) == drawn[2 * size : 3 * size]  # follows from its arguments alone


def test_epochs_differ() -> None:
    assert epoch_indices(20, 20, 0, 0) != epoch_indices(20, 20, 1, 0)
    assert epoch_indices(20, 20, 0, 0) != epoch_indices(20, 20, 0, 1)


@pytest.fixture(scope="module")
def warm(echo_run: tuple[Path, list[dict[str, float]]]) -> tuple[Path, list[dict[str, float]]]:
    """A policy that says the word about half of the time and idles else, by SFT; and the rows of its training."""
    return echo_run


def test_sft_teaches_a_tiny_model_to_echo(
    tiny_qwen3: Path, warm: tuple[Path, list[dict[str, float]]], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, rows = warm
    assert rows[0]["nll"] == pytest.approx(math.log(265), abs=0.3)  # it knows nothing: 265 tokens, all alike
    assert rows[-1]["nll"] < 0.1
    assert rows[0]["loss"] == rows[0]["nll"]
    base, trained = echo_success(policy_of(tiny_qwen3)), echo_success(policy_of(model))
    assert base == 0.0
    assert trained > 0.2
    logged = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(1, 101))
    assert [row["nll"] for row in logged] == [row["nll"] for row in rows]
    assert not (model.parent / "checkpoints").exists()
    again = plain_of(model)  # any program reads it
    policy = policy_of(model)
    ids = list(range(3, 40))
    batch = TreeBatch.build([Sample(tuple(ids), (1.0,) * len(ids))])
    assert policy.predict(batch).logps_M.tolist() == pytest.approx(logps_of(again, ids)[1:].tolist(), abs=1e-4)
    capfd.readouterr()
    policy.save(tmp_path / "copy")
    assert capfd.readouterr() == ("", "")  # no progress bars of others


def test_a_schedule_by_hand() -> None:
    linear = Optim(lr=8.0, schedule="linear", warmup=2)
    assert [linear.lr_at(step, 6) for step in range(6)] == [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]
    constant = Optim(lr=8.0, warmup=4)
    assert [constant.lr_at(step, 6) for step in range(6)] == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


# --- runs that stop and go on ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A training run of six short steps, checkpoints after two and four."""

    name: str
    start: Callable[[Path, Path, Any], Path]
    """(model, folder, on_step) -> the model's folder."""


OPTIM = Optim(lr=1e-3, schedule="linear", warmup=1)


SETTINGS = SftSettings(steps=6, batch=3, optim=OPTIM, save_every=2)


def start_sft(model: Path, folder: Path, on_step: Any = None) -> Path:
    return train(policy_of(model), Sft(SETTINGS, Data(echo_gold())), folder, on_step=on_step)


def start_lora(model: Path, folder: Path, on_step: Any = None) -> Path:
    made = SftSettings(steps=6, batch=3, optim=OPTIM, save_every=2)
    return train(policy_of(model, Lora(rank=4, alpha=8)), Sft(made, Data(echo_gold())), folder, on_step=on_step)


def echo_pairs() -> list[Pair]:
    tasks = task_set(make("echo"), "train", 4)
    chosen = rollout("echo", scripted("expert"), [EpisodeSpec(t) for t in tasks])
    rejected = rollout("echo", say("no"), [EpisodeSpec(t) for t in tasks])
    return [Pair(c, r, 0, "made", 1.0) for c, r in zip(chosen, rejected, strict=True)]


def start_dpo(model: Path, folder: Path, on_step: Any = None) -> Path:
    made = DpoSettings(steps=6, batch=3, optim=OPTIM, save_every=2, replay=2)
    return train(policy_of(model), Dpo(made, Data(pairs=echo_pairs(), gold=echo_gold())), folder, on_step=on_step)


GRPO = GrpoSettings(
    mixture=Mixture.of("echo", faults=(("", 1.0), ("count=1:unavailable", 1.0))),
    steps=6,
    groups=2,
    group=4,
    redraws=1,
    kl=0.1,
    replay=2,
    optim=Optim(lr=1e-3),
    parallel=5,
    save_every=2,
)


def start_grpo(model: Path, folder: Path, on_step: Any = None) -> Path:
    return train(policy_of(model), Grpo(GRPO, Data(gold=echo_gold())), folder, on_step=on_step)


KINDS = [Kind("sft", start_sft), Kind("lora", start_lora), Kind("dpo", start_dpo), Kind("grpo", start_grpo)]

SMALL = {
    "steps": 6, "batch": 3, "groups": 2, "group": 4, "redraws": 1, "every": 3, "parallel": 5, "replay": 2,
    "optim": OPTIM, "save_every": 2, "validation_share": 0.25, "validate_every": 2, "tasks": 2, "each": 2,
    "critic_warmup": 1,
}  # fmt: skip
"""Settings of a short run of any objective, as far as it has them."""


def start_any(name: str, more: dict[str, Any], model: Path, folder: Path, on_step: Any = None) -> Path:
    """A run of six steps of an objective of the registry, of any needs; `more` are settings of its own."""
    kind = OBJECTIVES.get(name)
    given = {f.name: SMALL[f.name] for f in fields(kind.Settings) if f.name in SMALL}
    if kind.needs == "mixture":
        given["mixture"] = GRPO.mixture
    if name == "distill":
        given["teacher"] = str(model)  # replay takes the policy away from it
    pairs = echo_pairs()
    episodes: Sequence[Trajectory] = echo_gold()
    if kind.needs == "outcomes":
        episodes = [t for pair in pairs for t in (pair.chosen, pair.rejected)]
    made = kind(kind.Settings(**given | more), Data(episodes, pairs, echo_gold()))
    return train(policy_of(model), made, folder, on_step=on_step)


KINDS += [
    Kind(name, partial(start_any, name, {}))
    for name in OBJECTIVES.names()
    if name not in {kind.name for kind in KINDS} and name.replace("-", "_") in OBJECTIVE_FILES
]
"""Each objective of the package: a new one is stopped, killed and taken up again with no line more here."""

VARIANTS = [
    Kind("gigpo", partial(start_any, "grpo", {"estimator": "gigpo", "epochs": 2, "minibatches": 2, "forked": 0.5})),
    Kind("ppo-expert", partial(start_any, "ppo", {"level": "turn", "baseline": "expert", "critic_warmup": 0})),
]
"""Settings by which an objective does other things within a step."""


@pytest.fixture(scope="module")
def whole(warm: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """The folder of an uninterrupted run of a kind, made once."""
    made: dict[str, Path] = {}

    def get(kind: Kind) -> Path:
        if kind.name not in made:
            made[kind.name] = tmp_path_factory.mktemp(kind.name)
            kind.start(warm[0], made[kind.name], None)
        return made[kind.name]

    return get


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def assert_same_run(folder: Path, other: Path) -> None:
    assert rows_of(folder) == rows_of(other)
    weights = sorted(path.name for path in (other / "model").glob("*.safetensors"))  # of the model, and of its heads
    assert sorted(path.name for path in (folder / "model").glob("*.safetensors")) == weights
    for name in weights:
        got, expected = load_file(folder / "model" / name), load_file(other / "model" / name)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[part], expected[part]) for part in expected)
    played = sorted(path.name for path in (other / "episodes").glob("*.jsonl"))
    assert sorted(path.name for path in (folder / "episodes").glob("*.jsonl")) == played
    for path in [other / "episodes" / name for name in played]:
        lines = (folder / "episodes" / path.name).read_bytes().splitlines()
        assert [Trajectory.from_json(x) for x in lines] == [
            Trajectory.from_json(x) for x in path.read_bytes().splitlines()
        ]
    assert not (folder / "checkpoints").exists()


def stopping(after: int, error: type[BaseException]) -> Any:
    def on_step(run: Run, row: dict[str, float]) -> None:
        if run.step + 1 == after:
            raise error("stopped")

    return on_step


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, id=kind.name) for kind in KINDS)]
    + [pytest.param(kind, id=kind.name, marks=pytest.mark.slow) for kind in VARIANTS],
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    kind: Kind, whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path
) -> None:
    """Stopped by a crash after step 3 (goes on from the checkpoint of step 2), then by Ctrl-C after step 5."""
    with pytest.raises(RuntimeError, match="stopped"):
        kind.start(warm[0], tmp_path, stopping(3, RuntimeError))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    assert len(rows_of(tmp_path)) == 3
    with pytest.raises(Interrupted, match="stopped after step 5 of 6; saved in"):
        kind.start(warm[0], tmp_path, stopping(5, KeyboardInterrupt))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]
    seen: list[int] = []
    kind.start(warm[0], tmp_path, lambda run, row: seen.append(run.step))
    assert seen == [5]  # only what was left
    assert_same_run(tmp_path, whole(kind))


AS_MODULE = """
import importlib.util, os, signal, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("killed", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["killed"] = module
spec.loader.exec_module(module)
"""
"""A child loads this file, which is its first argument, as `module`."""

KILLED = (
    AS_MODULE
    + """
start = next(kind.start for kind in module.KINDS + module.VARIANTS if kind.name == sys.argv[2])

def on_step(run, row):
    if run.step + 1 == 4:  # the checkpoint of step 4 is not written yet
        os.kill(os.getpid(), signal.SIGKILL)

start(Path(sys.argv[3]), Path(sys.argv[4]), on_step)
"""
)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=kind.name, marks=[pytest.mark.slow] * (kind.name != "sft"))
        for kind in KINDS + VARIANTS
        if kind.name != "lora"
    ],
)
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    kind: Kind, whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, __file__, kind.name, str(warm[0]), str(tmp_path)]
    died = subprocess.run(command, env=child_environment(), timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    assert len(rows_of(tmp_path)) == 4
    kind.start(warm[0], tmp_path, None)
    assert_same_run(tmp_path, whole(kind))


LONG = replace(SETTINGS, steps=60, save_every=1)
"""It writes a checkpoint all the time."""

KILLED_ANYWHERE = (
    AS_MODULE
    + """
policy = module.policy_of(Path(sys.argv[2]), module.Lora(4, 8) if sys.argv[4] == "lora" else None)
objective = module.Sft(module.LONG, module.Data(module.echo_gold()))
print("begins", flush=True)
module.train(policy, objective, Path(sys.argv[3]))
"""
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_runs_that_are_killed_at_random_times_end_like_one_that_was_not(
    warm: tuple[Path, Any], tmp_path: Path, kind: str
) -> None:
    """kill -9 at ten random times of each, most of them in the middle of a checkpoint or a row."""
    rng, kills, resumed = random.Random(7), 0, 0
    adapters = Lora(4, 8) if kind == "lora" else None
    train(policy_of(warm[0], adapters), Sft(LONG, Data(echo_gold())), tmp_path / "whole")
    folder = tmp_path / "killed"
    while True:
        command = [sys.executable, "-c", KILLED_ANYWHERE, __file__, str(warm[0]), str(folder), kind]
        process = subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        resumed += bool(list(folder.glob("checkpoints/step-*")))
        if kills == 10:
            assert process.wait(120) == 0
            break
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.05, 0.8))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        kills += 1
        process.stdout.close()
        if (folder / "model").exists():  # faster than the killer: once more
            shutil.rmtree(folder)
    process.stdout.close()
    assert resumed
    assert_same_run(folder, tmp_path / "whole")
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def child_environment() -> dict[str, str]:
    root = Path(os.path.realpath(__file__)).parent.parent
    return {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}


def test_ctrl_c_in_the_middle_of_an_update_loses_nothing(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while the optimiser writes: the step is finished, its row logged, and then it is saved."""
    step, calls = torch.optim.AdamW.step, []

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(Interrupted, match="after step 3 of 6"):
            start_sft(warm[0], tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(rows_of(tmp_path)) == 3
    start_sft(warm[0], tmp_path)
    assert_same_run(tmp_path, whole(KINDS[0]))


def test_ctrl_c_before_the_update_redoes_the_step(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls = Policy.predict, []

    def interrupted(self: Policy, batch: TreeBatch) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return predict(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "predict", interrupted)
        with pytest.raises(Interrupted, match="after step 3 of 6"):
            start_sft(warm[0], tmp_path)
    start_sft(warm[0], tmp_path)
    assert_same_run(tmp_path, whole(KINDS[0]))


def test_a_checkpoint_of_other_settings_is_refused(warm: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        start_sft(warm[0], tmp_path, stopping(1, KeyboardInterrupt))
    made = SftSettings(steps=7, batch=3, optim=OPTIM, save_every=2)
    with pytest.raises(ConfigError, match="other settings"):
        train(policy_of(warm[0]), Sft(made, Data(echo_gold())), tmp_path)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "a tenth": lambda data: data[: len(data) // 10],
    "half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.fixture(scope="module")
def stopped(warm: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after step 5."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Interrupted):
        start_sft(warm[0], folder, stopping(5, KeyboardInterrupt))
    return folder


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["state.pt", "run.json"])
def test_a_broken_checkpoint_is_named_and_so_is_the_way_out(
    warm: tuple[Path, Any], stopped: Path, tmp_path: Path, name: str, harm: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    broken = folder / "checkpoints/step-000005" / name
    broken.write_bytes(HARMS[harm](broken.read_bytes()))
    with pytest.raises(DataError) as raised:
        Run(folder, policy_of(warm[0]), OPTIM, 6, settings=SETTINGS)
    said = str(raised.value)
    assert said.startswith(f"{broken} cannot be read (")
    assert f"delete the folder {broken.parent}" in said
    assert "\n" not in said


def test_a_changed_byte_of_a_checkpoint_is_seen(warm: tuple[Path, Any], stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    state = folder / "checkpoints/step-000005/state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    with pytest.raises(DataError, match=r"state\.pt cannot be read \(.* is damaged\)"):
        start_sft(warm[0], folder)


def test_a_broken_checkpoint_that_was_deleted_is_no_loss(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], stopped: Path, tmp_path: Path
) -> None:
    """Where the process was killed before it could drop the one before, that one is taken up; else the first step."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / "checkpoints/step-000005").rename(folder / "checkpoints/step-000004")
    about = folder / "checkpoints/step-000004/run.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "step": 4}))
    (folder / "checkpoints/step-000005").mkdir()
    with pytest.raises(DataError, match=r"step-000005/run\.json cannot be read \(it is not there\)"):
        start_sft(warm[0], folder)
    (folder / "checkpoints/step-000005").rmdir()
    assert Run(folder, policy_of(warm[0]), OPTIM, 6, settings=SETTINGS).step == 4
    shutil.rmtree(folder / "checkpoints/step-000004")
    start_sft(warm[0], folder)
    assert_same_run(folder, whole(KINDS[0]))


@pytest.mark.parametrize("torn", ['{"step": 6, "sec', "\0\0\0", '{"step": 7}\nnonsense\n[1]\n{"seconds": 1}\n', "\xff"])
def test_torn_rows_after_the_checkpoint_are_left_out(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], stopped: Path, tmp_path: Path, torn: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    with (folder / "metrics.jsonl").open("ab") as rows:
        rows.write(torn.encode("latin-1"))
    for left in (".model.99.tmp", "checkpoints/.step-000006.99.tmp"):  # of a process that was killed while it saved
        (folder / left).mkdir()
        (folder / left / "state.pt").write_bytes(b"half")
    start_sft(warm[0], folder)
    assert_same_run(folder, whole(KINDS[0]))
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_metrics_that_are_cut_or_gone_hold_nothing_up(
    warm: tuple[Path, Any], stopped: Path, tmp_path: Path, share: float
) -> None:
    """Rows before the checkpoint that are lost are lost; the weights are the same."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    rows = folder / "metrics.jsonl"
    data = rows.read_bytes()
    rows.write_bytes(data[: int(share * len(data))]) if share else rows.unlink()
    seen: list[int] = []
    start_sft(warm[0], folder, lambda run, row: seen.append(run.step))
    assert seen == [5]
    assert rows_of(folder)[-1]["step"] == 6


def test_a_checkpoint_of_another_model_is_refused(warm: tuple[Path, Any], stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    with pytest.raises(ConfigError, match="holds the weights of another model, or of other adapters"):
        train(policy_of(warm[0], Lora(4, 8)), Sft(SETTINGS, Data(echo_gold())), folder)


@pytest.mark.parametrize("limit", [20, 1_000, 100_000])
def test_a_disk_that_fills_up_is_said_and_nothing_whole_is_lost(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path, limit: int
) -> None:
    """The kernel cuts the writes of a real run: of its metrics, or of its checkpoint."""
    folder = tmp_path / "run"

    def full(run: Run, row: dict[str, float]) -> None:
        if run.step + 1 == 3:  # from now on no file may grow beyond so many bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def work() -> bytes:
        try:
            start_sft(warm[0], folder, full)
        except Exception as error:
            return f"{type(error).__name__}: {error}".encode()
        return b"no error"

    ended = run_forked(work, 120)
    assert ended.how == "done", ended
    last = ended.payload.decode()
    assert "File too large" in last
    if limit == 100_000:  # the metrics fit, the checkpoint does not
        assert re.search(r"InfrastructureError: cannot write .*step-000004 \(\d+ MB free\)", last)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000002"]
    start_sft(warm[0], folder)
    assert_same_run(folder, whole(KINDS[0]))


def test_a_model_that_cannot_be_saved_loses_no_step(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Policy, folder: Path) -> None:
        raise KeyError("model.layers.0.mlp.experts.base_layer.weight")

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "save", refuse)
        with pytest.raises(KeyError):
            start_sft(warm[0], tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000006"]
    seen: list[int] = []
    start_sft(warm[0], tmp_path, lambda run, row: seen.append(run.step))
    assert seen == []
    assert_same_run(tmp_path, whole(KINDS[0]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_saves_as_ctrl_c_does(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path, number: signal.Signals
) -> None:
    """The second one, while the checkpoint is being written, waits until it is."""
    before = signal.getsignal(number), signal.getsignal(signal.SIGINT)
    assert before[0] is signal.SIG_DFL
    save = torch.save

    def slow(state: Any, file: Any) -> None:
        signal.raise_signal(number)
        save(state, file)

    def ended(run: Run, row: dict[str, float]) -> None:
        if run.step + 1 == 3:
            patch.setattr(torch, "save", slow)
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        start_sft(warm[0], tmp_path, ended)
    assert (signal.getsignal(number), signal.getsignal(signal.SIGINT)) == before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]
    start_sft(warm[0], tmp_path)
    assert_same_run(tmp_path, whole(KINDS[0]))


def test_a_signal_while_episodes_are_played_saves_too(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path
) -> None:
    """The event loop of a rollout has a handler of its own."""

    def playing(run: Run, done: int, of: int) -> None:
        if run.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        train(policy_of(warm[0]), Grpo(GRPO, Data(gold=echo_gold())), tmp_path, on_episode=playing)
    start_grpo(warm[0], tmp_path)
    assert_same_run(tmp_path, whole(KINDS[3]))


def test_a_full_disk_leaves_the_last_checkpoint(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def full(state: Any, file: Any) -> None:
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(InfrastructureError, match=r"cannot write .*step-000004 \(\d+ MB free\): .*No space left"):
            start_sft(warm[0], tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]  # and nothing half-written
    with monkeypatch.context() as patch:  # now it is full at the very end, as safetensors puts it

        def refuse(self: Policy, folder: Path) -> None:
            raise RuntimeError("I/O error: No space left on device (os error 28)")

        patch.setattr(Policy, "save", refuse)
        with pytest.raises(InfrastructureError, match=r"cannot write .*model"):
            start_sft(warm[0], tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000004"]
    assert not (tmp_path / "model").exists()
    start_sft(warm[0], tmp_path)
    assert_same_run(tmp_path, whole(KINDS[0]))


def test_a_gradient_that_is_not_finite_is_skipped(tiny_llama: Path, tmp_path: Path) -> None:
    policy = policy_of(tiny_llama)
    run = Run(tmp_path, policy, Optim(lr=1e-2), 3)
    sample = Sample(tuple(range(3, 20)), (1.0,) * 17)

    def losses(factor: float) -> Any:
        (compute,) = likelihood_losses(policy, [sample], 4096)

        def scaled() -> Any:
            loss = compute()
            return replace(loss, value=loss.value * factor)

        return [scaled]

    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    for factor in (math.inf, math.nan):
        row = run.update(losses(factor))
        assert row["skipped"] == 1.0
        assert not math.isfinite(row["grad_norm"])
        assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())
        assert all(p.grad is None for p in policy.parameters())
    run.log(row)
    assert rows_of(tmp_path)[0]["grad_norm"] is None  # JSON has no NaN
    row = run.update(losses(1.0))
    assert "skipped" not in row
    assert not all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())


class Spoiled(Sft):
    """SFT whose losses are changed from a step on."""

    def __init__(self, spoil: Callable[[Policy, Loss], Loss], after: int, steps: int = 6) -> None:
        made = SftSettings(steps=steps, batch=3, optim=OPTIM, save_every=2)
        super().__init__(made, Data(echo_gold()))
        self.spoil, self.after, self.step = spoil, after, 0

    def sample(self, run: Run, step: int) -> Drawn[list[Sample]]:
        self.step = step + 1
        return super().sample(run, step)

    def losses(self, policy: Policy, batch: list[Sample]) -> Iterator[Callable[[], Loss]]:
        for compute in super().losses(policy, batch):
            yield partial(self.spoil, policy, compute()) if self.step > self.after else compute


def times(factor: float) -> Callable[[Policy, Loss], Loss]:
    return lambda policy, loss: replace(loss, value=loss.value * factor)


def steep(policy: Policy, loss: Loss) -> Loss:
    """The same value, and a gradient that is not finite: the slope of a root at 0."""
    return replace(loss, value=loss.value + (policy.parameters()[0].sum() * 0).sqrt())


def test_an_answer_that_was_written_anew_is_what_is_trained_on(
    tiny_qwen3: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A record holds an answer twice: as a message, which people edit, and as ids."""
    policy = policy_of(tiny_qwen3)
    own = rollout("echo", policy.agent(parallel=4), [EpisodeSpec(t) for t in task_set(make("echo"), "train", 2)])
    first = own[0].turns[0]
    turns = (replace(first, action=replace(first.action, content="Written by hand.")), *own[0].turns[1:])
    (sample, other) = samples_of(policy.chat, [replace(own[0], turns=turns), own[1]], 4096)
    assert "Written by hand." in policy.tokenizer.decode(list(sample.ids))
    assert other == samples_of(policy.chat, [own[1]], 4096)[0]
    (said,) = [r.getMessage() for r in caplog.records]
    assert said.startswith(
        f"1 of 2 episodes with token ids are rendered anew from their messages, such as {own[0].id}: "
    )


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(warm: tuple[Path, Any], tmp_path: Path, factor: float) -> None:
    """What was saved before it stays; its row of metrics is there to be looked at."""
    with pytest.raises(
        TrainingError, match=rf"step 4 of 6: its loss is not finite \({factor}\).*lower the learning rate"
    ):
        train(policy_of(warm[0]), Spoiled(times(factor), after=3), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    assert [row.get("skipped") for row in rows_of(tmp_path)] == [None, None, None, 1.0]
    assert not (tmp_path / "model").exists()


def test_gradients_that_are_never_finite_end_the_run(warm: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 7 of 20: the gradients of the last 5 steps were not finite"):
        train(policy_of(warm[0]), Spoiled(steep, after=2, steps=20), tmp_path / "long")
    assert [p.name for p in (tmp_path / "long/checkpoints").iterdir()] == ["step-000006"]
    with pytest.raises(TrainingError, match="the gradient of every step was not finite"):
        train(policy_of(warm[0]), Spoiled(steep, after=0, steps=3), tmp_path / "short")
    assert not (tmp_path / "short/model").exists()


def test_steps_that_were_skipped_are_said(warm: tuple[Path, Any], tmp_path: Path) -> None:
    notes: list[str] = []
    assert train(policy_of(warm[0]), Spoiled(steep, after=4), tmp_path, on_note=notes.append).is_dir()
    assert notes == ["2 of 6 steps were skipped: their gradients were not finite"]


def test_a_run_that_moves_no_weight_says_so(warm: tuple[Path, Any], tmp_path: Path) -> None:
    notes: list[str] = []
    made = SftSettings(steps=2, batch=2, optim=Optim(lr=0.0))
    train(policy_of(warm[0]), Sft(made, Data(echo_gold())), tmp_path, on_note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("the learning rate was 0 in each of 2 steps: the weights are as they were")


def test_bugs_of_an_environment_are_said_at_the_end_of_a_run(
    warm: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are learned from; the rows of metrics count them."""
    broken, right = task_set(make("echo"), "train", 1)[0].id, Echo.success

    def success(self: Echo, task: Task) -> Any:
        if task.id == broken:
            raise KeyError("door")
        return right(self, task)

    monkeypatch.setattr(Echo, "success", success)
    notes: list[str] = []
    told: list[str] = []
    made = replace(GRPO, steps=1, groups=4, kl=0.0, replay=0, redraws=0, save_every=0)
    with telling(told.append):
        train(policy_of(warm[0]), Grpo(made, Data()), tmp_path, on_note=notes.append)
    assert rows_of(tmp_path)[0]["bugs"] == made.group
    assert notes[0].startswith(f"{made.group} episodes were ended by a bug of the environment")
    assert len(told) == 1
    assert "KeyError: 'door'" in told[0]


def test_weights_that_are_not_finite_are_never_saved(warm: tuple[Path, Any], tmp_path: Path) -> None:
    """A learning rate that is a number, and throws the weights out of those that are: in the last step, or before."""
    for steps in (1, 4):
        made = SftSettings(steps=steps, batch=3, optim=Optim(lr=1e39), save_every=1)
        with pytest.raises(
            TrainingError, match=r"after step 1 of \d the weights are not finite \(.*embed_tokens.*--lr"
        ):
            train(policy_of(warm[0]), Sft(made, Data(echo_gold())), tmp_path / str(steps))
        assert not list(tmp_path.glob("*/model"))
        assert not list(tmp_path.glob("*/checkpoints/*"))


def test_a_model_whose_weights_are_not_finite_is_not_trained(warm: tuple[Path, Any], tmp_path: Path) -> None:
    for value in (math.nan, math.inf):
        policy = policy_of(warm[0])
        with torch.no_grad():
            policy.model.model.norm.weight[3] = value
        for objective in (Sft(SETTINGS, Data(echo_gold())), Dpo(DpoSettings(), Data(pairs=echo_pairs()))):
            with pytest.raises(DataError, match=r"weights are not finite \(model\.model\.norm\.weight\)"):
                train(policy, objective, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Optim(lr=math.inf), "lr is a finite number of 0 or more, got inf"),
        (lambda: Optim(lr=math.nan), "lr is a finite number of 0 or more, got nan"),
        (lambda: Optim(lr=-1.0), "lr is a number of 0 or more, got -1.0"),
        (lambda: Optim(weight_decay=math.inf), "weight_decay is a finite number"),
        (lambda: Optim(max_grad_norm=0.0), "max_grad_norm is a number above 0"),
        (lambda: Optim(betas=(0.9, math.nan)), "betas are from 0 to below 1"),
        (lambda: SftSettings(steps=0), "steps is a number of 1 or more, got 0"),
        (lambda: SftSettings(validation_share=1.0), "validation_share is below 1"),
        (lambda: DpoSettings(beta=0.0), "beta is a number above 0"),
        (lambda: DpoSettings(nll=math.nan), "nll is a finite number of 0 or more"),
        (lambda: DpoSettings(min_chosen=math.nan), "min_chosen is a finite number, got nan"),
        (lambda: DpoSettings(replay_weight=math.inf), "replay_weight is a finite number of 0 or more"),
        (lambda: replace(GRPO, kl=math.inf), "kl is a finite number of 0 or more"),
        (lambda: replace(GRPO, temperature=math.nan), "temperature is a finite number above 0"),
        (lambda: replace(GRPO, temperature=0.0), "at temperature 0 all episodes of a group are the same"),
        (lambda: Mixture.of("echo", faults=(("", math.nan),)), "the weight of a fault plan is a finite number"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()


def test_a_gradient_may_be_left_unclipped() -> None:
    assert Optim(max_grad_norm=math.inf).max_grad_norm == math.inf
    assert DpoSettings(min_chosen=-math.inf).min_chosen == -math.inf


def test_gradients_are_clipped_as_a_whole(tiny_llama: Path, tmp_path: Path) -> None:
    policy = policy_of(tiny_llama)
    run = Run(tmp_path, policy, Optim(lr=1e-2, max_grad_norm=0.5), 1)
    seen: list[float] = []

    def note(*args: Any, **kwargs: Any) -> None:
        seen.append(math.sqrt(sum(float((gradient(p) ** 2).sum()) for p in policy.parameters())))

    run._optimizer.register_step_pre_hook(note)
    row = run.update(likelihood_losses(policy, [Sample(tuple(range(3, 20)), (1.0,) * 17)], 4096))
    assert row["grad_norm"] > 0.5  # the norm before
    assert seen == [pytest.approx(0.5, rel=1e-4)]


# --- LoRA --------------------------------------------------------------------------------------------------------


def test_lora_trains_adapters_and_acts_as_the_merged_model(
    warm: tuple[Path, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, _ = warm
    base, policy = plain_of(model), policy_of(model, Lora(rank=4, alpha=8))
    trained = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, q k v o gate up down
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    ids = tuple(random.Random(3).randrange(3, 250) for _ in range(40))
    batch = TreeBatch.build([Sample(ids, (1.0,) * 40)])
    policy.freeze_reference()
    made = SftSettings(steps=5, batch=3, optim=Optim(lr=3e-2), save_every=0)
    train(policy, Sft(made, Data(echo_gold())), tmp_path)

    now = policy.predict(batch).logps_M.detach()
    reference = policy.reference(batch)
    was = logps_of(base, ids)[1:].detach()
    torch.testing.assert_close(reference, was, rtol=1e-4, atol=1e-4)
    assert float((now - was).abs().max()) > 0.1
    for _ in range(3):
        merged = dict(policy.weights())
    assert merged.keys() == base.state_dict().keys()
    assert all(torch.equal(p, frozen[n]) for n, p in policy.model.named_parameters() if n in frozen)  # to the last bit
    bare = plain_of(model)
    bare.load_state_dict(merged)
    torch.testing.assert_close(logps_of(bare, ids)[1:].detach(), now, rtol=1e-4, atol=1e-4)
    engine = policy.agent(parallel=2).engine
    assert isinstance(engine, TransformersEngine)
    held = engine.model.state_dict()
    assert all(torch.equal(held[name], merged[name]) for name in merged)
    torch.testing.assert_close(logps_of(plain_of(tmp_path / "model"), ids)[1:].detach(), now, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").exists()
    assert capfd.readouterr().err == ""


def test_the_reference_of_adapters_is_the_policy_as_it_was_given(warm: tuple[Path, Any], tmp_path: Path) -> None:
    """SFT and then RL or DPO on one adapter: the reference is what SFT made, and not the bare base."""
    policy = policy_of(warm[0], Lora(rank=4, alpha=8))
    ids = tuple(random.Random(3).randrange(3, 250) for _ in range(40))
    batch = TreeBatch.build([Sample(ids, (1.0,) * 40)])
    base = policy.predict(batch).logps_M.detach()
    idle = rollout("echo", scripted("do-nothing"), [EpisodeSpec(t) for t in task_set(make("echo"), "train", 4)])
    shown = Data([*echo_gold(), *idle])  # both, so that it goes on to be right sometimes
    train(policy, Sft(replace(SETTINGS, batch=8, optim=Optim(lr=1e-2)), shown), tmp_path / "sft")
    given = policy.predict(batch).logps_M.detach()
    assert float((given - base).abs().max()) > 0.01
    with pytest.raises(ConfigError, match="freeze_reference"):
        policy.reference(batch)

    rows: list[dict[str, float]] = []
    pairs = DpoSettings(steps=2, batch=4, replay=0, min_chosen=-1e9, optim=Optim(lr=1e-4))
    train(policy, Dpo(pairs, Data(pairs=echo_pairs())), tmp_path / "dpo", on_step=lambda run, row: rows.append(row))
    assert rows[0]["preference"] == pytest.approx(math.log(2), abs=1e-5)

    given = policy.predict(batch).logps_M.detach()
    Grpo(GRPO, Data()).prepare(policy)
    assert torch.equal(policy.reference(batch), given)
    train(policy, Sft(replace(SETTINGS, optim=Optim(lr=1e-2)), shown), tmp_path / "moved")
    assert float((policy.predict(batch).logps_M.detach() - given).abs().max()) > 1e-3
    assert torch.equal(policy.reference(batch), given)  # to the last bit, after steps and gradients


def test_the_gradient_of_kl_flows_into_the_present_adapters(warm: tuple[Path, Any]) -> None:
    """The reference is computed between forward and backward: the weights that the gradient needs are back in place."""
    policy, generator = policy_of(warm[0], Lora(rank=4, alpha=8)), torch.Generator().manual_seed(0)
    batch = TreeBatch.build([Sample(tuple(range(3, 40)), (1.0,) * 37)])
    policy.freeze_reference()
    reference = policy.reference(batch)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    total = float(batch.weights_M.sum())
    backward(kl_loss(policy.predict(batch).logps_M, reference, batch.weights_M, denominator=total).value)
    expected = gradients(policy.model)
    seen = policy.predict(batch).logps_M
    backward(kl_loss(seen, policy.reference(batch), batch.weights_M, denominator=total).value)
    got = gradients(policy.model)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert any(float(g.abs().max()) > 0 for g in got.values())


def test_the_same_seed_draws_the_same_adapters(warm: tuple[Path, Any]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        torch.rand(7)  # what others draw makes no difference
        policy = Policy.load(warm[0], tool_style="signature", precision="fp32", lora=Lora(4, 8, seed))
        drawn.append({n: p.detach().clone() for n, p in policy.model.named_parameters() if p.requires_grad})
    assert all(torch.equal(drawn[0][n], drawn[1][n]) for n in drawn[0])
    assert not all(torch.equal(drawn[0][n], drawn[2][n]) for n in drawn[0])
    torch.set_rng_state(before)
    expected = torch.rand(28)[21:]
    torch.set_rng_state(before)
    torch.rand(21)
    policy_of(warm[0], Lora(4, 8))
    assert torch.equal(torch.rand(7), expected)  # and they make none to others


def test_a_full_policy_needs_its_reference_frozen_first(tiny_llama: Path) -> None:
    policy = policy_of(tiny_llama)
    batch = TreeBatch.build([Sample((3, 4, 5), (1.0,) * 3)])
    with pytest.raises(ConfigError, match="freeze_reference"):
        policy.reference(batch)
    policy.freeze_reference()
    before = policy.predict(batch).logps_M.detach()
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.5)
    torch.testing.assert_close(policy.reference(batch), before)
    assert (policy.predict(batch).logps_M - before).abs().max() > 1e-3


# --- DPO ---------------------------------------------------------------------------------------------------------


def side_sums(plain: Any, chat: ChatFormat, pairs: Sequence[Pair]) -> list[tuple[float, float, int]]:
    """(log p of chosen, of rejected, tokens of chosen): sampled tokens of all turns from the fork on."""
    out = []
    for pair in pairs:
        sums = []
        for t in (pair.chosen, pair.rejected):
            tokens, spans = tokens_of(chat, t)
            after = [i for a, b in spans[pair.fork :] for i in range(a, b)]
            sums.append((float(logps_of(plain, tokens.ids).detach()[after].sum()), len(after)))
        out.append((sums[0][0], sums[1][0], sums[0][1]))
    return out


@pytest.mark.parametrize("fork", [0, 1])
def test_dpo_starts_at_log_2_and_widens_the_margin(warm: tuple[Path, Any], tmp_path: Path, fork: int) -> None:
    policy, plain = policy_of(warm[0]), plain_of(warm[0])
    pairs = echo_pairs()
    if fork:  # both sides say a word; what differs is the end
        failed = [replace(p.chosen, id="r", turns=(p.chosen.turns[0], replace(p.chosen.turns[1], action=Action("No."))))
                  for p in pairs]  # fmt: skip
        pairs = [Pair(p.chosen, r, 1, "made", 1.0) for p, r in zip(pairs, failed, strict=True)]
    sums = side_sums(plain, policy.chat, pairs)
    nll = sum(-c / n for c, _, n in sums) / 4
    rows: list[dict[str, float]] = []
    made = DpoSettings(steps=8, batch=4, nll=0.3, beta=0.2, replay=0, min_chosen=-1e9, optim=Optim(lr=3e-4))
    train(policy, Dpo(made, Data(pairs=pairs)), tmp_path, on_step=lambda run, row: rows.append(row))
    assert rows[0]["preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["nll"] == pytest.approx(nll, rel=1e-4)
    assert rows[0]["loss"] == pytest.approx(math.log(2) + 0.3 * nll, rel=1e-4)
    assert rows[-1]["accuracy"] == 1.0
    assert rows[-1]["margin"] > rows[3]["margin"] > 0.01
    assert "replay_nll" not in rows[0]
    after = side_sums(plain_of(tmp_path / "model"), policy.chat, pairs)
    changes = [0.2 * ((c - c0) - (r - r0)) for (c, r, _), (c0, r0, _) in zip(after, sums, strict=True)]
    assert min(changes) > rows[3]["margin"] / 4  # the reference is the policy as it was given


def test_the_second_dpo_step_by_hand(warm: tuple[Path, Any], tmp_path: Path) -> None:
    """The loss after one update, from the weights of a checkpoint and the formula in plain Python."""
    policy = policy_of(warm[0])
    pairs = echo_pairs()
    made = DpoSettings(
        steps=2,
        batch=4,
        nll=0.2,
        beta=0.1,
        replay=2,
        replay_weight=0.5,
        min_chosen=-1e9,
        optim=Optim(lr=1e-3, micro_tokens=600),
    )
    rows: list[dict[str, float]] = []
    middle: dict[str, Tensor] = {}

    def note(run: Run, row: dict[str, float]) -> None:
        rows.append(row)
        if len(rows) == 1:
            middle.update({k: v.clone() for k, v in run.policy.model.state_dict().items()})

    items = echo_gold()
    train(policy, Dpo(made, Data(pairs=pairs, gold=items)), tmp_path, on_step=note)
    reference, now = plain_of(warm[0]), plain_of(warm[0])
    now.load_state_dict(middle)
    total = 0.0
    for (c0, r0, _), (c, r, n) in zip(
        side_sums(reference, policy.chat, pairs), side_sums(now, policy.chat, pairs), strict=True
    ):
        h = (c - c0) - (r - r0)
        total += (math.log1p(math.exp(-0.1 * h)) - 0.2 * c / n) / 4
    again = [items[i] for i in epoch_indices(4, 2, 1, made.seed + 1)]
    spoken = []
    for t in again:
        tokens, _ = tokens_of(policy.chat, t)
        logps = logps_of(now, tokens.ids).detach().tolist()
        spoken += [-lp for lp, s in zip(logps, tokens.sampled, strict=True) if s]
    replayed = sum(spoken) / len(spoken)
    assert rows[1]["replay_nll"] == pytest.approx(replayed, rel=1e-3)
    assert rows[1]["loss"] == pytest.approx(total + 0.5 * replayed, rel=1e-3)
    assert rows[1]["pairs"] == 4


def test_pairs_with_an_unlikely_chosen_side_are_left_out(warm: tuple[Path, Any], tmp_path: Path) -> None:
    policy = policy_of(warm[0])
    pairs = echo_pairs()
    flipped = [Pair(p.rejected, p.chosen, 0, "made", 1.0) for p in pairs[:2]]  # "no" was never learnt
    sums = side_sums(plain_of(warm[0]), policy.chat, [*pairs, *flipped])
    limit = (min(c for c, *_ in sums[:4]) + max(c for c, *_ in sums[4:])) / 2
    assert max(c for c, *_ in sums[4:]) < limit < min(c for c, *_ in sums[:4])
    rows: list[dict[str, float]] = []
    made = DpoSettings(steps=1, min_chosen=limit, optim=Optim(lr=1e-4))
    train(policy, Dpo(made, Data(pairs=[*flipped, *pairs])), tmp_path / "a", on_step=lambda run, row: rows.append(row))
    assert (rows[0]["pairs"], rows[0]["pairs_left_out"]) == (4, 2)
    with pytest.raises(DataError, match="chosen side of all 2 pairs is less likely"):
        train(policy_of(warm[0]), Dpo(made, Data(pairs=flipped)), tmp_path / "b")
    with pytest.raises(DataError, match="none of 0 pairs"):
        train(policy_of(warm[0]), Dpo(made, Data()), tmp_path / "c")


# --- GRPO --------------------------------------------------------------------------------------------------------


def groups_of(policy: Policy, n: int = 4, size: int = 4, seed: int = 0) -> list[TrajectoryGroup]:
    return sample_groups(Mixture.of("echo", faults=(("", 1.0),)), policy.agent(parallel=8), n, size, seed=seed)


def _same(loss: Loss) -> Loss:
    return loss


def losses_of(
    policy: Policy, groups: Sequence[TrajectoryGroup], made: GrpoSettings, gold: Sequence[Trajectory] = ()
) -> list[Loss]:
    """What GRPO makes of these groups in its first step; the policy's reference stays as it is."""
    objective = Grpo(replace(made, kl=0.0), Data(gold=gold))
    objective.prepare(policy)
    objective.settings = made
    return [compute() for compute in objective.losses(policy, StepGroups(0, list(groups)))]


def total_logp(plain: Any, t: Trajectory) -> float:
    assert t.tokens is not None
    return float((logps_of(plain, own_tokens(t).ids).detach() * torch.tensor(own_tokens(t).sampled)).sum())


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_the_trainers_distribution_is_the_samplers(warm: tuple[Path, Any], tmp_path: Path, temperature: float) -> None:
    """Log-probabilities, ratio, KL and entropy are those of the temperature that sampled, which episodes record."""
    policy, plain = policy_of(warm[0]), plain_of(warm[0])
    tasks = task_set(make("echo"), "train", 4)
    played = rollout("echo", policy.agent(temperature=temperature, parallel=4), [EpisodeSpec(t, seed=3) for t in tasks])
    assert {t.temperature for t in played} == {temperature}
    assert Trajectory.from_json(played[0].to_json()).temperature == temperature
    samples = [Sample.of(own_tokens(t), temperature=t.temperature) for t in played]
    batch = TreeBatch.build(samples)
    seen = policy.predict(batch)
    torch.testing.assert_close(seen.logps_M, batch.channels_M[SAMPLER], rtol=1e-4, atol=1e-5)
    for i, t in enumerate(played):
        ids = own_tokens(t).ids
        z = torch.log_softmax(plain(torch.tensor([ids]), use_cache=False).logits[0] / temperature, -1)
        at = [k for k, s in enumerate(own_tokens(t).sampled) if s]
        expected = torch.stack([z[k - 1, ids[k]] for k in at])
        entropies = torch.stack([-(z[k - 1].exp() * z[k - 1]).sum() for k in at])
        torch.testing.assert_close(seen.logps_M[batch.owner_M == i], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen.entropy_M[batch.owner_M == i], entropies, rtol=1e-3, atol=1e-3)

    rows: list[dict[str, float]] = []
    made = replace(
        GRPO, steps=2, groups=4, redraws=3, kl=0.1, temperature=temperature, optim=Optim(lr=1e-3), save_every=0
    )
    train(policy, Grpo(made, Data()), tmp_path, on_step=lambda run, row: rows.append(row))
    played_rows = [row for row in rows if "mismatch_kl" in row]
    assert played_rows
    assert all(abs(row["mismatch_kl"]) < 1e-6 and row["tis_fraction"] == 0 for row in played_rows)
    assert rows[0].get("kl_k1", 0) == pytest.approx(0, abs=1e-5)


def test_samples_of_two_temperatures_share_tokens_and_not_predictions(warm: tuple[Path, Any]) -> None:
    policy, ids = policy_of(warm[0]), tuple(range(3, 20))
    alone = [policy.predict(TreeBatch.build([Sample(ids, (1.0,) * 17, temperature=t)])).logps_M for t in (1.0, 2.0)]
    both = TreeBatch.build([Sample(ids, (1.0,) * 17, temperature=t) for t in (1.0, 2.0)])
    assert len(both.ids_N) == 17
    assert len(both.sources_U) == 32
    seen = policy.predict(both).logps_M
    for i in (0, 1):
        torch.testing.assert_close(seen[both.owner_M == i], alone[i], rtol=1e-4, atol=1e-5)
    assert float((alone[0] - alone[1]).detach().abs().max()) > 0.1
    with pytest.raises(DataError, match="sampled at temperature 0"):
        Sample.of(Tokens((1, 2), (0, 1), (0.0, -1.0)), temperature=0.0)


def test_what_another_temperature_sampled_is_not_learned_as_ones_own(warm: tuple[Path, Any]) -> None:
    """A fork goes on where its parent was. Its tokens are the policy's own at its temperature only."""
    policy = policy_of(warm[0])
    task = task_set(make("echo"), "train", 1)[0]
    played = rollout("echo", policy.agent(parallel=8), [EpisodeSpec(task, seed=s) for s in range(24)])
    parent = next(t for t in played if len(t.turns) > 1)
    span = parent.turns[1].span
    assert span is not None
    for temperature, kept in ((1.0, True), (0.7, False)):
        agent = policy.agent(temperature=temperature, parallel=2)
        (fork,) = rollout("echo", agent, [EpisodeSpec(task, seed=9, parent=parent, fork=1)])
        assert own_tokens(fork).ids[: span[0]] == own_tokens(parent).ids[: span[0]]
        assert any(own_tokens(fork).sampled[: span[0]]) == kept
        assert any(own_tokens(fork).sampled[span[0] :])


def test_groups_share_task_and_faults(warm: tuple[Path, Any]) -> None:
    policy = policy_of(warm[0])
    mixture = Mixture.of("echo", faults=(("count=1:unavailable", 1.0),))
    groups = sample_groups(mixture, policy.agent(parallel=8, version=2), 3, 5, seed=2)
    assert [len(g.trajectories) for g in groups] == [5, 5, 5]
    assert len({g.trajectories[0].task.id for g in groups}) == 3
    for g in groups:
        assert len({(t.task.id, t.faults) for t in g.trajectories}) == 1
        assert g.trajectories[0].faults
        assert len({t.seed for t in g.trajectories}) == 5
    assert sample_groups(mixture, policy.agent(parallel=8, version=2), 3, 5, seed=2) == groups
    drawn = [str(spec.plan) for spec in Mixture.of("orders", faults=(("", 0.25), ("count=1", 0.75))).draw(200, seed=0)]
    assert 30 < drawn.count("") < 70
    with pytest.raises(ConfigError, match="two episodes or more"):
        replace(GRPO, group=1)


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "constant"])
def test_one_grpo_loss_by_hand(warm: tuple[Path, Any], aggregation: Any) -> None:
    """Advantages, importance weights by the sampler's log-probabilities, KL and replay, in plain Python on a plain
    model; split into micro-batches or not."""
    policy, plain = policy_of(warm[0]), plain_of(warm[0])
    start = plain_of(warm[0])
    policy.freeze_reference()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from the reference, and from the sampler
        for p, q in zip(policy.model.parameters(), plain.parameters(), strict=True):
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
            q.copy_(p)
    groups = groups_of(policy, 3, 4)
    moved = []
    for g, group in enumerate(groups):  # made-up rewards and a sampler that differs by up to 2 nats
        members = []
        for i, t in enumerate(group.trajectories):
            off = [
                lp + s * ((i + k) % 5 - 3) / 2
                for k, (lp, s) in enumerate(zip(own_tokens(t).logprobs, own_tokens(t).sampled, strict=True))
            ]
            members.append(replace(t, tokens=replace(own_tokens(t), logprobs=tuple(off)), reward=float((i + g) % 3)))
        moved.append(TrajectoryGroup(tuple(members)))
    made = replace(GRPO, aggregation=aggregation, kl=0.3, replay_weight=0.5, estimator="grpo")
    replay = samples_of(policy.chat, echo_gold(), 4096)

    value, tokens_total, kl_sum, spoken = 0.0, 0, 0.0, []
    for group in moved:
        rewards = [t.reward for t in group.trajectories]
        mean = sum(rewards) / 4
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
        for t in group.trajectories:
            at = [k for k, s in enumerate(own_tokens(t).sampled) if s]
            now, ref = logps_of(plain, own_tokens(t).ids).tolist(), logps_of(start, own_tokens(t).ids).tolist()
            terms = [
                -min(math.exp(now[k] - own_tokens(t).logprobs[k]), 2.0) * (t.reward - mean) / (std + 1e-4) for k in at
            ]
            tokens_total += len(at)
            kl_sum += sum((now[k] - ref[k]) ** 2 / 2 for k in at)
            value += sum(terms) / (len(at) * 12 if aggregation == "sequence-mean" else 1)
    if aggregation == "token-mean":
        value /= tokens_total
    if aggregation == "constant":
        value /= 1000 * 12
    value += 0.3 * kl_sum / tokens_total
    for i in epoch_indices(len(replay), 2, 0, made.seed + 1):
        logps = logps_of(plain, replay[i].ids).tolist()
        spoken += [-lp for lp, w in zip(logps, replay[i].weights, strict=True) if w]
    value += 0.5 * sum(spoken) / len(spoken)

    for limit in (4096, 300):
        settings_ = replace(made, optim=replace(made.optim, micro_tokens=limit))
        losses = losses_of(policy, moved, settings_, gold=echo_gold())
        assert (len(losses) > 2) == (limit == 300)
        assert sum(float(loss.value.detach()) for loss in losses) == pytest.approx(value, rel=2e-3, abs=1e-4)
        assert losses[0].logs["tis_fraction"] > 0
        assert losses[0].logs["mismatch_kl"] > 0.05
        assert losses[0].logs["kl_k3"] > 0
        assert losses[-1].logs["replay_nll"] > 0


def test_an_update_follows_the_advantages(warm: tuple[Path, Any], tmp_path: Path) -> None:
    policy = policy_of(warm[0])
    before = plain_of(warm[0])
    groups = [g for g in groups_of(policy, 4, 6) if len(set(g.rewards())) == 2]
    assert groups
    made = replace(GRPO, kl=0.0, replay=0, optim=Optim(lr=3e-4))
    run = Run(tmp_path, policy, made.optim, 1)
    row = run.update(iter([partial(_same, loss) for loss in losses_of(policy, groups, made)]))
    assert row["mismatch_kl"] == pytest.approx(0, abs=1e-6)  # the sampler's numbers are the trainer's
    assert row["tis_fraction"] == 0
    assert row["ratio_mean"] == 1
    assert row["entropy"] > 0
    policy.save(tmp_path / "after")
    after = plain_of(tmp_path / "after")
    up: list[float] = []
    down: list[float] = []
    for group in groups:
        for t in group.trajectories:
            change = (total_logp(after, t) - total_logp(before, t)) / sum(own_tokens(t).sampled)
            (up if t.success else down).append(change)
    assert sum(up) / len(up) > 0 > sum(down) / len(down)


def test_grpo_raises_success(warm: tuple[Path, Any], tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    made = GrpoSettings(
        mixture=Mixture.of("echo", faults=(("", 1.0),)),
        steps=8,
        groups=4,
        group=8,
        kl=0.01,
        replay=0,
        optim=Optim(lr=3e-4, warmup=2),
        parallel=32,
        save_every=0,
    )
    model = train(policy_of(warm[0]), Grpo(made, Data()), tmp_path, on_step=lambda run, row: rows.append(row))
    assert echo_success(policy_of(model), 16) > echo_success(policy_of(warm[0]), 16) + 0.25
    assert rows[0]["kl_k1"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["kl_k3"] > 1e-3
    assert all(abs(row["mismatch_kl"]) < 1e-5 for row in rows if "mismatch_kl" in row)
    assert rows[0]["groups"] == 4
    first = [Trajectory.from_json(x) for x in (tmp_path / "episodes" / "step-000001.jsonl").read_bytes().splitlines()]
    assert len(first) == 32
    assert rows[0]["success"] == sum(bool(t.success) for t in first) / 32 == rows[0]["success_clean"]
    assert rows[0]["reward"] == sum(t.reward for t in first) / 32
    assert rows[0]["sampled_tokens"] == sum(sum(own_tokens(t).sampled) for t in first) / 32
    mixed = [g for g in TrajectoryGroup.by_task(first) if 0 < sum(g.rewards()) < 8]
    assert rows[0]["signal"] == len(mixed) / 4
    versions = [
        {json.loads(x)["policy_version"] for x in path.read_bytes().splitlines()}
        for path in sorted((tmp_path / "episodes").glob("*.jsonl"))
    ]
    assert versions == [{step} for step in range(8)]


def test_groups_without_signal_change_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    """A model that knows nothing fails always: no group has signal, no forward is made, no weight moves."""
    rows: list[dict[str, float]] = []
    made = replace(GRPO, steps=2, kl=0.1, replay=0, redraws=1, groups=2, save_every=0)
    policy = policy_of(tiny_llama)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    train(policy, Grpo(made, Data()), tmp_path, on_step=lambda run, row: rows.append(row))
    assert [(row["signal"], row["groups"], row["success"], row["loss"]) for row in rows] == [(0, 4, 0, 0)] * 2
    assert "kl_k1" not in rows[0]
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())


def test_a_run_that_never_had_a_signal_says_so(warm: tuple[Path, Any], tiny_llama: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    made = replace(GRPO, steps=2, groups=2, redraws=0, replay=0, save_every=0)
    train(policy_of(tiny_llama), Grpo(made, Data()), tmp_path / "a", on_note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("no group had a signal in any of 2 steps")
    assert "replay" not in notes[0]
    rows: list[dict[str, float]] = []
    replayed = Grpo(replace(made, replay=2, replay_weight=0.5), Data(gold=echo_gold()))
    notes.clear()
    train(policy_of(tiny_llama), replayed, tmp_path / "b", on_note=notes.append, on_step=lambda run, r: rows.append(r))
    assert "what changed comes from replay" in notes[0]
    assert all(row["loss"] == pytest.approx(0.5 * row["replay_nll"]) for row in rows)
    notes.clear()
    train(policy_of(warm[0]), Grpo(replace(GRPO, steps=3), Data()), tmp_path / "c", on_note=notes.append)
    assert notes == []


def test_the_loss_of_replay_is_apart_from_the_policys(warm: tuple[Path, Any], whole: Callable[[Kind], Path]) -> None:
    for kind in (KINDS[2], KINDS[3]):
        rows = [row for row in rows_of(whole(kind)) if "policy_loss" in row]
        assert rows
        for row in rows:
            assert row["loss"] == pytest.approx(row["policy_loss"] + row["replay_loss"], rel=1e-5, abs=1e-7)
            assert row["replay_loss"] == pytest.approx(
                (0.2 if kind.name == "dpo" else 0.1) * row["replay_nll"], rel=1e-4
            )
    assert "policy_loss" not in rows_of(whole(KINDS[0]))[0]


# --- what is held out --------------------------------------------------------------------------------------------


def test_the_loss_of_held_out_episodes_is_measured_and_not_learned(
    whole: Callable[[Kind], Path], warm: tuple[Path, Any], tmp_path: Path
) -> None:
    held_out = rollout("echo", scripted("expert"), [EpisodeSpec(t) for t in task_set(make("echo"), "test", 2)])
    made = replace(SETTINGS, validate_every=4)
    model = train(policy_of(warm[0]), Sft(made, Data(echo_gold(), held_out=held_out)), tmp_path)
    measured = {row["step"]: row["held_out_nll"] for row in rows_of(tmp_path) if "held_out_nll" in row}
    assert list(measured) == [4, 6]  # every fourth step, and the last
    plain, spoken = plain_of(model), []
    for t in held_out:
        tokens, _ = tokens_of(policy_of(model).chat, t)
        logps = logps_of(plain, tokens.ids).detach().tolist()
        spoken += [-lp for lp, s in zip(logps, tokens.sampled, strict=True) if s]
    assert measured[6] == pytest.approx(sum(spoken) / len(spoken), rel=1e-3)
    got, expected = load_file(model / "model.safetensors"), load_file(whole(KINDS[0]) / "model" / "model.safetensors")
    assert all(torch.equal(got[name], expected[name]) for name in expected)  # measuring changes nothing


def test_a_share_of_the_tasks_is_held_out_whole(warm: tuple[Path, Any], tmp_path: Path) -> None:
    tasks = task_set(make("echo"), "train", 4)
    episodes = [t for _ in range(3) for t in rollout("echo", scripted("expert"), [EpisodeSpec(t) for t in tasks])]
    objective = Sft(replace(SETTINGS, steps=2, validation_share=0.25), Data(episodes))
    policy = policy_of(warm[0])
    objective.prepare(policy)
    assert (len(objective._samples), len(objective._held_out)) == (9, 3)
    assert len({s.ids for s in objective._held_out}) == 1
    assert not {s.ids for s in objective._samples} & {s.ids for s in objective._held_out}
    again = Sft(objective.settings, Data(episodes))
    again.prepare(policy)
    assert again._held_out == objective._held_out
    train(policy, objective, tmp_path)
    assert "held_out_nll" in rows_of(tmp_path)[-1]
    with pytest.raises(DataError, match="1 tasks cannot be split"):
        Sft(objective.settings, Data(episodes[:1])).prepare(policy)
    with pytest.raises(ConfigError, match="or a validation_share"):
        Sft(objective.settings, Data(episodes, held_out=episodes)).prepare(policy)


def test_a_step_whose_episodes_all_failed_says_why(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(env: str, agent: Any, episodes: Sequence[EpisodeSpec], **options: Any) -> list[Trajectory]:
        lost: dict[str, Any] = {"stop": StopReason.INFRASTRUCTURE, "error": "the server is gone"}
        return [Trajectory(f"t{i}", env, e.task, (), (), **lost) for i, e in enumerate(episodes)]

    monkeypatch.setattr("sparring.trainers.mixture.rollout", play)
    with pytest.raises(InfrastructureError, match="none of 8 episodes could be used: the server is gone"):
        train(policy_of(tiny_llama), Grpo(GRPO, Data()), tmp_path)


def test_rl_needs_episodes_of_a_model(tiny_llama: Path) -> None:
    task = task_set(make("echo"), "train", 1)[0]
    right, wrong = (rollout("echo", a, [EpisodeSpec(task)])[0] for a in (scripted("expert"), say("no")))
    with pytest.raises(ConfigError, match="no sampled tokens"):
        losses_of(policy_of(tiny_llama), [TrajectoryGroup((right, wrong))], GRPO)


def test_a_folder_that_was_copied_resumes_too(warm: tuple[Path, Any], tmp_path: Path) -> None:
    """Nothing in a run's folder names the folder."""
    with pytest.raises(Interrupted):
        start_sft(warm[0], tmp_path / "a", stopping(4, KeyboardInterrupt))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    start_sft(warm[0], tmp_path / "a")
    start_sft(warm[0], tmp_path / "b")
    assert_same_run(tmp_path / "b", tmp_path / "a")
