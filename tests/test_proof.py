"""A model is computed as its own forward computes it, or refused at load; it fits its tokenizer and its settings."""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from torch import Tensor

from sparring import ConfigError
from sparring.agents import EpisodeSpec, HermesFormat, LLMAgent, rollout
from sparring.agents import proof as proving
from sparring.agents.attention import Scoring
from sparring.agents.engine import Sampling
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.head import Head
from sparring.agents.models import check_weights, context_limit, end_ids, load_model, load_tokenizer, unknown_ids
from sparring.envs import make, task_set
from sparring.trainers import batch as batches
from sparring.trainers.batch import Sample, TreeBatch
from sparring.trainers.model import Lora, Policy, token_logps
from sparring.trajectories import StopReason

VOCABULARY = 265
"""Tokens of the tiny Qwen 3."""
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
WINDOW: dict[str, Any] = {"sliding_window": 16}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}
SIGHT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def of(kind: str, **options: Any) -> Callable[[], Any]:
    """A model class by its name, with a tiny configuration."""

    def build() -> Any:
        model: Any = getattr(T, kind)
        return model(model.config_class(**{**SHAPE, **options}))

    return build


def bare(kind: str, **options: Any) -> Callable[[], Any]:
    """The same for configurations of other names."""

    def build() -> Any:
        model: Any = getattr(T, kind)
        return model(model.config_class(**options))

    return build


def seeing() -> Any:
    text = T.Gemma3TextConfig(**SHAPE, **WINDOW).to_dict()
    config = T.Gemma3Config(text_config=text, vision_config=SIGHT, mm_tokens_per_image=4)
    return T.Gemma3ForConditionalGeneration(config)


EQUAL: dict[str, Callable[[], Any]] = {
    "Llama": of("LlamaForCausalLM"),
    "Qwen 2 with a window": of("Qwen2ForCausalLM", use_sliding_window=True, max_window_layers=1, **WINDOW),
    "Qwen 3": of("Qwen3ForCausalLM"),
    "Qwen 3 MoE": of("Qwen3MoeForCausalLM", **EXPERTS),
    "Mistral": of("MistralForCausalLM", sliding_window=None),
    "Mistral with a window": of("MistralForCausalLM", **WINDOW),
    "Mixtral": of("MixtralForCausalLM", num_local_experts=4, **WINDOW),
    "Phi 3": of("Phi3ForCausalLM", **WINDOW),
    "Phi 3.5": of("Phi3ForCausalLM", original_max_position_embeddings=64, rope_parameters=LONGROPE),
    "Phi 2, a bias in its head": of("PhiForCausalLM"),
    "Starcoder 2": of("Starcoder2ForCausalLM", **WINDOW),
    "Gemma": of("GemmaForCausalLM"),
    "Gemma 2": of("Gemma2ForCausalLM", query_pre_attn_scalar=16, **WINDOW),
    "Gemma 3": of("Gemma3ForCausalLM", layer_types=["sliding_attention", "full_attention"], **WINDOW),
    "Gemma 3 that sees": seeing,
    "Granite": of("GraniteForCausalLM", logits_scaling=8.0),
    "Granite MoE": of("GraniteMoeForCausalLM", logits_scaling=8.0, num_local_experts=4, num_experts_per_tok=2),
    "Cohere": of("CohereForCausalLM", logit_scale=0.0625),
    "Cohere 2": of("Cohere2ForCausalLM", layer_types=["sliding_attention", "full_attention"], **WINDOW),
    "GPT-2": bare("GPT2LMHeadModel", **GPT),
    "GPT-NeoX": of("GPTNeoXForCausalLM"),
    "OPT": bare("OPTForCausalLM", vocab_size=VOCABULARY, hidden_size=64, ffn_dim=96, num_hidden_layers=2,
                num_attention_heads=4, word_embed_proj_dim=64, max_position_embeddings=256),
    "gpt-oss, sinks": of("GptOssForCausalLM", num_local_experts=4, num_experts_per_tok=2, **WINDOW),
    "DeepSeek V3, MLA": of("DeepseekV3ForCausalLM", n_group=2, topk_group=1, **MLA),
    "OLMo 2": of("Olmo2ForCausalLM"),
    "OLMo 3": of("Olmo3ForCausalLM", layer_types=["sliding_attention", "full_attention"], **WINDOW),
    "SmolLM 3": of("SmolLM3ForCausalLM", no_rope_layers=[1, 0]),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "Bloom": (bare("BloomForCausalLM", vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4), "ALiBi"),
    "MPT": (bare("MptForCausalLM", vocab_size=VOCABULARY, d_model=64, n_layers=2, n_heads=4), "ALiBi"),
    "Falcon": (bare("FalconForCausalLM", vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2,
                    num_attention_heads=4, alibi=True), "ALiBi"),
    "GPT-J": (bare("GPTJForCausalLM", **GPT, rotary_dim=8), "its attention in code of its own"),
    "GPT-Neo": (
        bare("GPTNeoForCausalLM", vocab_size=VOCABULARY, hidden_size=64, num_layers=2, num_heads=4, window_size=16,
             attention_types=[[["global", "local"], 1]]),
        r"sliding window \(window_size = 16\)",
    ),
    "Llama 4": (of("Llama4ForCausalLM", attention_chunk_size=16, num_local_experts=2), "chunked attention"),
    "LFM 2": (of("Lfm2ForCausalLM", layer_types=["conv", "full_attention"]), "layers of kind conv"),
    "Mamba": (bare("MambaForCausalLM", vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2), "state"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache folder, and a process that has proved nothing."""
    monkeypatch.setenv("SPARRING_HOME", str(tmp_path))
    monkeypatch.setattr(proving, "_proved", set())


@pytest.fixture(scope="session")
def tokenizer(tiny_qwen3: Path) -> Any:
    return load_tokenizer(tiny_qwen3)


def built(build: Callable[[], Any], spread: float | None = 0.15, seed: int = 0) -> Any:
    """With weights of that spread, or as the family starts."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about configurations
        torch.manual_seed(seed)
        model = build().eval()
        if spread is not None:
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.dim() > 1:
                        weight.normal_(0, spread)
    return model


def policy_of(model: Any, tokenizer: Any, **options: Any) -> Policy:
    return Policy(model, tokenizer, HermesFormat(tokenizer), **{"precision": "fp32", **options})


def made_up(n: int, seed: int = 1) -> list[int]:
    return torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def truth(model: Any, ids: list[int]) -> Tensor:
    """(n - 1,) log p of each token but the first, by the model's own forward."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    found: Tensor = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return found


@torch.no_grad()
def trained_on(policy: Policy, *rows: list[int]) -> list[Tensor]:
    batch = TreeBatch.build([Sample(tuple(ids), (1.0,) * len(ids)) for ids in rows])
    logps_M = policy.predict(batch).logps_M
    return [logps_M[batch.owner_M == i] for i in range(len(rows))]


def generated(engine: Any, ids: list[int], n: int = 6, temperature: float = 0.0, seed: int = 0) -> Any:
    return asyncio.run(engine.generate(f"s{seed}", ids, Sampling(temperature, n, ()), seed))


# ------------------------------------------------------------------------------------------------------------ families


@pytest.mark.parametrize("family", EQUAL)
def test_a_family_is_computed_as_its_own_forward_does(family: str, tokenizer: Any) -> None:
    model = built(EQUAL[family])
    length = min(120, context_limit(model.config) or 120)
    ids, other = made_up(length), made_up(length // 2, seed=2)
    policy = policy_of(copy.deepcopy(model), tokenizer)
    for got, row in zip(trained_on(policy, ids, ids[:20] + other, other), (ids, ids[:20] + other, other), strict=True):
        torch.testing.assert_close(got, truth(model, row), atol=1e-4, rtol=0)
    prompt = ids[: length - 8]
    for engine in (TransformersEngine(copy.deepcopy(model), parallel=2), policy.agent(parallel=2).engine):
        said = generated(engine, prompt)
        expected = truth(model, [*prompt, *said.ids])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(said.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_is_computed_otherwise_is_refused_in_a_sentence(family: str, tokenizer: Any) -> None:
    build, why = REFUSED[family]
    for load in (lambda m: policy_of(m, tokenizer), TransformersEngine):
        with pytest.raises(ConfigError, match=f"is not supported: .*{why}") as caught:
            load(built(build))
        assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- the proof

FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("Mistral with a window", {"window": None}),
    "one token of the window": ("Phi 3", {"window": 15}),
    "cap of scores": ("Gemma 2", {"cap": None}),
    "sinks": ("gpt-oss, sinks", {"sinks": None}),
    "scale": ("Granite", {"scale": 0.3}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_layouts_forget_is_found(
    fault: str, tokenizer: Any, unproved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights as small as models start with, which hide much."""
    from sparring.agents import attention

    family, wrong = FAULTS[fault]
    model = built(EQUAL[family], spread=None)

    def forgetful(scale: float, window: int | None, cap: float | None, sinks: Tensor | None) -> Scoring:
        given: dict[str, Any] = {"scale": scale, "window": window, "cap": cap, "sinks": sinks}
        return Scoring(**{**given, **wrong})

    monkeypatch.setattr(attention, "Scoring", forgetful)
    for load in (lambda m: policy_of(m, tokenizer), TransformersEngine):
        with pytest.raises(ConfigError, match=r"is not supported: .*\(log-probabilities are off by up to"):
            load(copy.deepcopy(model))


@pytest.mark.parametrize("family", ["Granite", "Cohere", "Gemma 2", "Phi 2, a bias in its head"])
def test_logits_that_are_changed_after_the_head_are_found(
    family: str, tokenizer: Any, unproved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Head, "of", classmethod(lambda cls, model: cls(model.get_output_embeddings().weight)))
    for load in (lambda m: policy_of(m, tokenizer), TransformersEngine):
        with pytest.raises(ConfigError, match="is not supported"):
            load(built(EQUAL[family], spread=None))


def test_a_tree_that_forgets_a_token_is_found(tokenizer: Any, unproved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows branch, the tree of the trainer forgets the last token that they share."""
    monkeypatch.setattr(batches, "_ranges", lambda nodes: ((0, nodes[-1]),) if nodes else ())
    with pytest.raises(ConfigError, match="is not supported"):
        policy_of(built(EQUAL["Llama"]), tokenizer)


def test_a_window_too_long_to_run_is_proved_on_a_miniature(
    tokenizer: Any, unproved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.agents import attention

    build = of("MistralForCausalLM", sliding_window=4096)
    TransformersEngine(built(build))
    monkeypatch.setattr(proving, "_proved", set())
    monkeypatch.setattr(proving, "_known", lambda key: False)
    monkeypatch.setattr(attention, "Scoring", lambda scale, window, cap, sinks: Scoring(scale))
    with pytest.raises(ConfigError, match=r"its sliding window \(sliding_window = 4096\)"):
        TransformersEngine(built(build))


@pytest.mark.parametrize(
    "config",
    [
        T.LlamaConfig(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8),
        T.MistralConfig(sliding_window=4096),
        T.Gemma2Config(num_hidden_layers=42),
        T.GptOssConfig(),
        T.DeepseekV3Config(),
        T.Qwen3MoeConfig(num_experts=128),
    ],
    ids=lambda config: str(config.model_type),
)
def test_a_miniature_of_a_large_model_is_small(config: Any) -> None:
    with torch.device("meta"):
        large = T.AutoModelForCausalLM.from_config(config)
    small = proving._miniature(large)
    assert small is not None
    assert sum(p.numel() for p in small.parameters()) < 30e6
    windows = list(proving._windows(small.config).values())
    assert len(windows) == len(proving._windows(config))
    assert all(window < 20 for window in windows)
    assert config.num_hidden_layers == large.config.num_hidden_layers  # the model's own is as it was


def test_a_proof_is_made_once(unproved: None, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    compare = proving._compare

    def counted(model: Any, *args: Any, **settings: Any) -> None:
        made.append(model)
        compare(model, *args, **settings)

    monkeypatch.setattr(proving, "_compare", counted)

    def load(**changed: Any) -> int:
        made.clear()
        proving._proved.clear()  # another process
        model = load_model(tiny_qwen3, **changed)
        TransformersEngine(model)
        return len(made)

    assert [load(), load()] == [2, 0]  # the miniature and the model itself
    assert [load(dtype=torch.bfloat16), load(dtype=torch.bfloat16)] == [1, 0]
    monkeypatch.setattr(proving, "_software", lambda: "another version")
    assert load() == 2


def test_a_proof_leaves_the_random_state_alone(unproved: None, tokenizer: Any) -> None:
    model = built(EQUAL["Llama"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    policy_of(model, tokenizer)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("family", ["Qwen 3", "Gemma 3", "Mixtral", "gpt-oss, sinks"])
def test_bfloat16_is_close_enough(family: str, tokenizer: Any, unproved: None) -> None:
    policy_of(built(EQUAL[family]), tokenizer, precision="bf16")
    TransformersEngine(built(EQUAL[family]).to(torch.bfloat16))


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_log_probabilities_of_changed_logits(scale: float, cap: float | None) -> None:
    """Values and gradients against torch's own, with a bias and with ids that are no token."""
    random = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 8, generator=random), torch.randn(50, 8, generator=random)
    bias, targets = torch.randn(50, generator=random), torch.randint(40, (300,), generator=random)
    unknown = torch.tensor([41, 47, 49])
    outer = torch.randn(300, generator=random)
    found = []
    for ours in (True, False):
        h, w, b = (x.clone().requires_grad_() for x in (hidden, weight, bias))
        head = Head(w, b, scale, cap)
        if ours:
            logps, entropy = token_logps(h, head, targets, unknown)
        else:
            logits = (h @ w.T + b) * scale
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            logits = logits.index_fill(1, unknown, float("-inf"))
            everything = torch.log_softmax(logits, -1)
            logps = everything.gather(1, targets[:, None])[:, 0]
            entropy = -(everything.exp() * everything.clamp(min=-1e9)).sum(-1).detach()
        (logps * outer).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        found.append((logps.detach(), entropy, h.grad, w.grad, b.grad))
    for got, expected in zip(*found, strict=True):
        assert got is not None
        assert expected is not None
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["Gemma 2", "gpt-oss, sinks", "Cohere", "Phi 2, a bias in its head"])
def test_gradients_are_the_models_own(family: str, tokenizer: Any) -> None:
    ids = made_up(60)
    model = built(EQUAL[family])
    policy = policy_of(copy.deepcopy(model), tokenizer)
    batch = TreeBatch.build([Sample(tuple(ids), (1.0,) * 60)])
    policy.predict(batch).logps_M.sum().backward()  # type: ignore[no-untyped-call]
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None]).sum().backward()
    own = dict(policy.model.named_parameters())
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(own[name].grad, weight.grad, atol=2e-3, rtol=2e-3, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["GPT-2", "OPT"])
def test_dropout_of_the_configuration_is_off(family: str, checkpointing: bool, tokenizer: Any) -> None:
    """In the policy, in its reference and under checkpointing: OPT asks torch's function in its layers."""
    ids = made_up(80)
    model = built(EQUAL[family])
    assert any("drop" in name and value for name, value in vars(model.config).items())
    policy = policy_of(copy.deepcopy(model), tokenizer, checkpointing=checkpointing)
    policy.freeze_reference()
    batch = TreeBatch.build([Sample(tuple(ids), (1.0,) * 80)])
    expected = truth(model, ids)
    for _ in range(2):
        torch.testing.assert_close(policy.predict(batch).logps_M.detach(), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(policy.reference(batch), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["Qwen 3 MoE", "Mixtral", "DeepSeek V3, MLA", "gpt-oss, sinks", "GPT-2"])
def test_adapters_on_any_kind_of_layer_are_saved_as_they_act(family: str, tokenizer: Any, tmp_path: Path) -> None:
    """Fused experts, routers and GPT-2's transposed layers: another program gets what was trained."""
    ids = made_up(60)
    policy = policy_of(built(EQUAL[family]), tokenizer, lora=Lora(4, 8))
    before = trained_on(policy, ids)[0]
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    acted = trained_on(policy, ids)[0]
    assert (acted - before).abs().max() > 0.5
    policy.save(tmp_path)
    torch.testing.assert_close(truth(load_model(tmp_path), ids), acted, atol=1e-4, rtol=0)
    said = generated(policy.agent(parallel=1).engine, ids)
    expected = trained_on(policy, [*ids, *said.ids])[0][len(ids) - 1 :]
    torch.testing.assert_close(torch.tensor(said.logprobs), expected, atol=1e-4, rtol=0)


def test_adapters_that_cannot_be_merged_are_refused_before_the_first_step(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.trainers.model._plain", lambda name: name)  # as names would come from another PEFT
    with pytest.raises(ConfigError, match="LlamaForCausalLM with adapters cannot be merged and saved"):
        policy_of(built(EQUAL["Llama"]), tokenizer, lora=Lora(4, 8))


@pytest.mark.parametrize("lora", [None, Lora(4, 8)], ids=["full", "lora"])
def test_settings_of_generation_survive_saving(
    lora: Lora | None, tiny_qwen3: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model: Any = load_model(tiny_qwen3)
    model.generation_config = T.GenerationConfig(eos_token_id=[2, 0], top_p=0.8, do_sample=True)
    policy = policy_of(model, tokenizer, lora=lora)
    policy.save(tmp_path)
    kept: Any = load_model(tmp_path).generation_config
    assert (kept.eos_token_id, kept.top_p, kept.do_sample) == ([2, 0], 0.8, True)
    assert policy.agent(parallel=1).engine.end_ids == (2, 0)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------- model, tokenizer and settings together


def test_too_few_rows_for_the_vocabulary_are_refused(tokenizer: Any) -> None:
    small = of("Qwen3ForCausalLM", vocab_size=VOCABULARY - 2)
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["<custom>"])
    for model, other in ((built(small), tokenizer), (built(EQUAL["Qwen 3"]), more)):
        for load in (lambda m, t: policy_of(m, t), lambda m, t: TransformersEngine(m, tokenizer=t)):
            with pytest.raises(ConfigError, match=r"the model has 26\d embedding rows: there is none for '"):
                load(copy.deepcopy(model), other)


def test_placeholders_of_images_may_lie_beyond_the_rows(tokenizer: Any) -> None:
    """As in the text models of Gemma 3."""
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    assert unknown_ids(built(EQUAL["Qwen 3"]), more) == ()


def test_rows_that_are_no_token_are_never_sampled(tokenizer: Any) -> None:
    """Padded rows, made likely; and the trainer's distribution is the sampler's."""
    model = built(of("Qwen3ForCausalLM", vocab_size=320, tie_word_embeddings=False))
    with torch.no_grad():
        model.lm_head.weight[VOCABULARY:] *= 5
    ids = made_up(30)
    policy = policy_of(copy.deepcopy(model), tokenizer)
    for engine in (
        TransformersEngine(copy.deepcopy(model), tokenizer=tokenizer, parallel=2),
        policy.agent(parallel=2).engine,
    ):
        for temperature, seed in ((0.0, 0), (1.0, 1), (2.0, 2)):
            said = generated(engine, ids, n=40, temperature=temperature, seed=seed)
            assert max(said.ids) < VOCABULARY
            if temperature == 1.0:
                expected = trained_on(policy, [*ids, *said.ids])[0][len(ids) - 1 :]
                torch.testing.assert_close(torch.tensor(said.logprobs), expected, atol=1e-4, rtol=0)
    everything = generated(TransformersEngine(model, parallel=2), ids, n=40, temperature=1.0, seed=1)
    assert max(everything.ids) >= VOCABULARY  # without its tokenizer nobody knows


def test_weights_that_are_not_finite_are_refused(tokenizer: Any) -> None:
    for value in (float("nan"), float("inf")):
        model = built(EQUAL["Qwen 3"])
        with torch.no_grad():
            model.model.norm.weight[3] = value
        for load in (lambda m: policy_of(m, tokenizer), TransformersEngine, check_weights):
            with pytest.raises(ConfigError, match=r"weights are not finite: model\.norm\.weight holds NaN or infinity"):
                load(copy.deepcopy(model))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_whose_model_gives_no_numbers_says_so(temperature: float) -> None:
    model = built(EQUAL["Qwen 3"])
    engine = TransformersEngine(model, parallel=2)
    with torch.no_grad():
        engine.load([("model.norm.weight", torch.full((64,), float("nan")))])
    with pytest.raises(ConfigError, match="log-probabilities that are not finite"):
        generated(engine, made_up(10), temperature=temperature)


def test_positions_of_the_model_bound_the_context(tokenizer: Any) -> None:
    assert context_limit(seeing().config) == 8192  # of the text part
    assert context_limit(built(EQUAL["GPT-2"]).config) == 256
    assert context_limit(T.Phi3Config(**SHAPE, rope_parameters=LONGROPE, original_max_position_embeddings=64)) == 64
    assert context_limit(T.MptConfig(max_seq_len=2048)) == 2048
    short = of("Qwen3ForCausalLM", max_position_embeddings=128)
    engine = TransformersEngine(built(short), parallel=2)
    assert engine.max_context == 128
    policy = policy_of(built(short), tokenizer)
    assert policy.agent(parallel=2).max_context == policy.room(4096) == 128
    with pytest.raises(ConfigError, match="a sequence of 129 tokens is longer than the 128 positions"):
        trained_on(policy, made_up(20), made_up(129))
    tasks = task_set(make("orders"), "test", 2, seed=0)
    for agent in (LLMAgent(engine, HermesFormat(tokenizer, tool_style="signature")), policy.agent(parallel=2)):
        for t in rollout("orders", agent, [EpisodeSpec(task) for task in tasks]):
            assert t.stop is StopReason.TOKEN_LIMIT
            assert t.tokens is None or len(t.tokens) <= 128


def test_every_end_token_of_the_model_ends_an_answer(tiny_qwen3: Path, tokenizer: Any) -> None:
    model: Any = load_model(tiny_qwen3)
    model.generation_config.eos_token_id = [2, 7, 100_000]
    model.config.eos_token_id = 9
    assert end_ids(model) == (2, 7, 9)  # one that has no row ends nothing
    with torch.no_grad():
        model.model.embed_tokens.weight[7] *= 30  # likely, sooner or later
    agent = LLMAgent(TransformersEngine(model, parallel=4), HermesFormat(tokenizer, tool_style="signature"))
    assert {2, 7, 9} <= set(agent.sampling.stop_ids)
    tasks = task_set(make("orders"), "test", 4, seed=0)
    ended = 0
    for t in rollout("orders", agent, [EpisodeSpec(task, seed=i) for i, task in enumerate(tasks)]):
        assert t.tokens is not None
        for turn in t.turns:
            assert turn.span is not None
            start, end = turn.span
            said = t.tokens.ids[start:end]
            assert not {2, 7, 9} & set(said[:-1])
            if said[-1] == 7:
                ended += 1
                assert tokenizer.decode([7]) not in turn.action.content[-1:]
    assert ended
