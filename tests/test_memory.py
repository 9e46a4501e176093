"""What a policy holds: checkpointing, bases in their own precision, weights one by one, heads, and the plan."""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from sparring.agents import runtime
from sparring.agents.models import load_model, quiet
from sparring.trainers import model as model_module
from sparring.trainers.batch import Sample, TreeBatch
from sparring.trainers.model import Lora, Policy
from sparring.trainers.plan import Plan, activation_bytes
from sparring.trainers.settings import Precision
from sparring.trajectories import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def policy_of(
    folder: Path, *, precision: Precision = "fp32", lora: Lora | None = None, checkpointing: bool | None = None
) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = Policy.load(
            folder, tool_style="signature", precision=precision, lora=lora, device="cpu", checkpointing=checkpointing
        )
        with torch.no_grad():  # adapters that do something
            for name, p in policy.model.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.02)
    return policy


def batch_of(n: int = 4, length: int = 60) -> TreeBatch:
    rng = random.Random(1)
    stem = [rng.randrange(3, 250) for _ in range(length // 2)]
    return TreeBatch.build(
        [Sample((*stem, *(rng.randrange(3, 250) for _ in range(length // 2))), (1.0,) * length) for _ in range(n)]
    )


def learnt(policy: Policy, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    seen = policy.predict(batch)
    (seen.logps_M * batch.weights_M).sum().backward()  # type: ignore[no-untyped-call]
    return seen.logps_M.detach(), {n: p.grad for n, p in policy.module.named_parameters() if p.grad is not None}


def kept_bytes(policy: Policy, batch: TreeBatch) -> int:
    """What autograd keeps of a forward, weights not counted."""
    own = {p.untyped_storage().data_ptr() for p in policy.module.parameters()}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its address could be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.predict(batch)
    return sum(sizes.values())


# --- checkpointing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_bit(tiny_qwen3: Path, precision: Precision, lora: Lora | None) -> None:
    batch = batch_of()
    plain, checkpointed = (
        policy_of(tiny_qwen3, precision=precision, lora=lora, checkpointing=c) for c in (False, True)
    )
    logps, gradients = learnt(plain, batch)
    again, others = learnt(checkpointed, batch)
    assert torch.equal(logps, again)
    assert gradients.keys() == others.keys()
    assert len(gradients) == len(plain.parameters())
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients.values())
    assert kept_bytes(checkpointed, batch) < kept_bytes(plain, batch) / 2


def test_checkpointing_follows_from_the_memory(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of()
    policy = policy_of(tiny_llama)
    need = activation_bytes(
        policy.model.config, len(batch.ids_N), batch.layout.pairs, "fp32", fused=False, checkpointing=False
    )
    pending = 12 * sum(p.numel() for p in policy.parameters())
    full = kept_bytes(policy_of(tiny_llama, checkpointing=False), batch)
    for available, smaller in ((pending + 2 * need, False), (pending + need, True), (0, True), (None, False)):
        monkeypatch.setattr(model_module, "available_memory", lambda device, given=available: given)
        assert (kept_bytes(policy_of(tiny_llama), batch) < full / 2) == smaller, available


def test_the_memory_that_is_available() -> None:
    device = torch.device("cpu")
    available = runtime.available_memory(device)
    assert available is not None
    assert 1e8 < available < 1e13


FREED = """
import torch
from sparring.agents import runtime

runtime.keep_memory()
block = torch.ones(600_000_000 // 4)
taken = runtime._kept()
del block
kept = runtime._kept()
runtime.release_memory()
print(taken, kept, runtime._kept())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc tells what it keeps since 2.33")
def test_memory_that_was_freed_is_available(repository: Path) -> None:
    """In a process of its own: what one that has run for long gives back depends on what it did before."""
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FREED]
    done = subprocess.run(command, env=environment, timeout=120, check=True, capture_output=True, text=True)
    taken, kept, released = map(int, done.stdout.split())
    assert kept - taken > 400e6  # freed, kept by glibc, and so available
    assert released < kept - 400e6


# --- LoRA over a base in its own precision -----------------------------------------------------------------------


def test_a_frozen_base_is_held_in_the_precision(tiny_llama: Path, tmp_path: Path) -> None:
    batch = batch_of()
    lora = Lora(rank=4, alpha=8)
    policy = policy_of(tiny_llama, precision="bf16", lora=lora)
    dtypes = {("lora_" in name, p.dtype) for name, p in policy.model.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(not b.dtype.is_floating_point or b.dtype == torch.float32 for b in policy.model.buffers())

    wide = load_model(tiny_llama)  # float32, with the values that bfloat16 can hold
    with torch.no_grad():
        for p in wide.parameters():
            p.copy_(p.bfloat16())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = Policy(wide, policy.tokenizer, policy.chat, precision="bf16", lora=lora)
    adapters = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, p in other.model.named_parameters():
            if p.requires_grad:
                p.copy_(adapters[name])
    policy.freeze_reference()
    other.freeze_reference()
    logps, gradients = learnt(policy, batch)
    expected, others = learnt(other, batch)
    assert torch.equal(logps, expected)  # under autocast the products are in bfloat16 anyway
    for name, gradient in others.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0.02, atol=0.02 * float(gradient.abs().max()))
    assert torch.equal(policy.reference(batch), other.reference(batch))

    policy.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32}
    key = "model.layers.0.self_attn.q_proj"
    layer = policy.model.get_base_model().model.layers[0].self_attn.q_proj
    exact = (
        wide.get_parameter(f"{key}.base_layer.weight") + 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    )
    torch.testing.assert_close(saved[f"{key}.weight"], exact.detach())
    with quiet():
        again, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    mine = dict(policy.weights())
    assert mine.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, mine[name].float()) for name, tensor in again.state_dict().items())


# --- weights -----------------------------------------------------------------------------------------------------


def test_weights_come_one_by_one(tiny_qwen3: Path) -> None:
    """No merged matrix outlives its turn; those without an adapter are the policy's own."""
    policy = policy_of(tiny_qwen3, lora=Lora(rank=4, alpha=8))
    own = {p.data_ptr() for p in policy.model.parameters()}
    before: weakref.ref[Tensor] | None = None
    merged = 0
    for _, tensor in policy.weights():
        assert before is None or before() is None
        if tensor.data_ptr() not in own:
            merged += 1
            before = weakref.ref(tensor)
        del tensor
    assert merged == 2 * 7
    full = policy_of(tiny_qwen3)
    own = {p.data_ptr() for p in full.model.parameters()}
    assert all(tensor.data_ptr() in own for _, tensor in full.weights())


def test_the_copy_that_generates_has_exact_positions(tiny_llama: Path) -> None:
    """Rotary frequencies rounded to bfloat16 would turn keys by the wrong angle, more at each position."""
    policy = policy_of(tiny_llama, precision="bf16")
    policy.freeze_reference()
    engine: Any = policy.agent(parallel=2).engine
    assert policy._reference is not None
    for copy in (engine.model, policy._reference.model):
        assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
        own, got = policy.model.model.rotary_emb.inv_freq, copy.model.rotary_emb.inv_freq
        assert got.dtype == torch.float32
        assert torch.equal(own, got)
        assert got.data_ptr() != own.data_ptr()
        assert copy.lm_head.weight is copy.model.embed_tokens.weight
        for name, tensor in policy.weights():
            assert torch.equal(copy.state_dict()[name], tensor.bfloat16()), name


# --- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8)], ids=["full", "lora"])
def test_heads_are_trained_and_saved_beside_the_model(tiny_llama: Path, tmp_path: Path, lora: Lora | None) -> None:
    policy = policy_of(tiny_llama, lora=lora)
    batch = batch_of()
    names = [name for name, _ in policy.weights()]
    trained = len(policy.parameters())
    value = policy.add_head("value")
    assert not policy.predict(batch, ("value",)).heads["value"].any()
    policy.add_head("quality", torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)))
    assert len(policy.parameters()) == trained + 2 + 4
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    goal = batch.weights_M.new_tensor([float(i % 2) for i in range(len(batch.weights_M))])
    losses = []
    for _ in range(20):
        seen = policy.predict(batch, ("value",))
        loss = ((seen.heads["value"][:, 0] - goal) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    seen = policy.predict(batch, ("value", "quality"))
    assert seen.heads["value"].shape == (len(batch.weights_M), 1)
    assert seen.heads["quality"].shape == (len(batch.weights_M), 3)
    assert policy.predict(batch).heads == {}
    assert [name for name, _ in policy.weights()] == names

    policy.save(tmp_path)
    assert all("heads" not in name for name in load_file(tmp_path / "model.safetensors"))
    again = policy_of(tmp_path)
    again.add_head("value")
    assert torch.equal(again.heads["value"].weight, value.weight)  # type: ignore[arg-type]
    torch.testing.assert_close(
        again.predict(batch, ("value",)).heads["value"], seen.heads["value"], rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ConfigError, match="no head 'reward'"):
        again.predict(batch, ("reward",))
    with pytest.raises(ConfigError, match="head 'quality' was saved with other weights"):
        again.add_head("quality")


# --- the plan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_foreseen(family: str, precision: Precision, request: pytest.FixtureRequest) -> None:
    policy = policy_of(request.getfixturevalue(family), precision=precision, checkpointing=False)
    for batch in (batch_of(2, 40), batch_of(8, 200)):
        foreseen = activation_bytes(
            policy.model.config, len(batch.ids_N), batch.layout.pairs, precision, fused=False, checkpointing=False
        )
        casts = 2 * sum(p.numel() for p in policy.parameters()) if precision == "bf16" else 0
        kept = kept_bytes(policy, batch) - casts
        assert 0.75 < foreseen / (kept * 3 / 2) < 1.25  # two layers, and one at work


def test_a_plan_counts_what_is_there(tiny_qwen3: Path) -> None:
    policy = policy_of(tiny_qwen3)
    plan = Plan.of(tiny_qwen3, precision="fp32")
    assert plan.parameters == plan.trainable == sum(p.numel() for p in policy.model.parameters())
    assert plan.weights == sum(p.numel() * p.element_size() for p in policy.model.parameters())
    assert plan.gradients == plan.weights
    assert (plan.engine, plan.reference) == (0, 0)
    adapted = policy_of(tiny_qwen3, precision="bf16", lora=Lora(rank=4, alpha=8))
    plan = Plan.of(AutoConfig.from_pretrained(tiny_qwen3), lora=4)
    assert plan.trainable == sum(p.numel() for p in adapted.parameters())
    assert plan.weights == sum(p.numel() * p.element_size() for p in adapted.model.parameters())
    with_engine = Plan.of(tiny_qwen3, parallel=4, max_context=1024)
    assert with_engine.engine == 2 * with_engine.parameters + 4 * 1024 * 2 * 2 * 2 * 16 * 2  # K and V, layers, heads
    assert Plan.of(tiny_qwen3, checkpointing=True).peak < Plan.of(tiny_qwen3, checkpointing=False).peak


def test_a_plan_decides_as_the_policy_does(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_memory", lambda device: 10**12)
    assert not Plan.of(tiny_qwen3).checkpointing
    monkeypatch.setattr(runtime, "available_memory", lambda device: 10**7)
    plan = Plan.of(tiny_qwen3, tokens=9000)
    assert plan.checkpointing
    table = str(plan).splitlines()
    assert len({len(line) for line in table}) == 1
    assert any(line.startswith("checkpointing") and line.endswith(" on") for line in table)
    assert table[-1].endswith(" 9,000")
