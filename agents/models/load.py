"""What a user wrote after `--model`, as a model and its tokenizer. Code that comes with a model is never run."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...trajectories.errors import ConfigError, InfrastructureError, SparringError, UnknownName
from ...trajectories.locks import at_work_in
from ..runtime import keep_memory
from .download import fetch
from .known import KNOWN_MODELS, TINY_MODELS, Progress, model_names
from .packages import need, quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["device_named", "load_model", "load_tokenizer", "resolve"]

_log = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_WAIT_S = 10.0


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
    raise UnknownName("model", text, model_names())


def device_named(name: str | None = None) -> str:
    """The device of that name; None: a GPU where there is one. Raises `ConfigError` for one that is not here."""
    need("torch")
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}: expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        found = f"only cuda:0 to cuda:{there - 1} here; use one of these" if there else "no GPU here; use cpu"
        raise ConfigError(f"device {name!r}: torch finds {found}")
    return name


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PreTrainedModel:
    """The causal language model, in evaluation mode; `dtype` defaults to float32, `device` to the CPU.

    Raises `ConfigError` where weights and configuration do not belong together: transformers would fill what is missing
    with random numbers.
    """
    need("torch", "transformers")
    import torch
    from transformers import AutoModelForCausalLM

    keep_memory()
    source = resolve(name_or_path)
    with quiet(), _load_errors(source):
        place = _place(source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype or torch.float32,
            trust_remote_code=False,
            local_files_only=Path(place).is_dir(),
            ignore_mismatched_sizes=True,  # told below, in one sentence
            output_loading_info=True,
        )
        model = cast("PreTrainedModel", loaded[0])
        _check_names(source, model, loaded[1])
    if device is not None:
        cast("torch.nn.Module", model).to(device)
    model.eval()
    return model


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """The tokenizer that belongs to the model."""
    need("transformers")
    from transformers import AutoTokenizer

    source = resolve(name_or_path)
    with quiet(), _load_errors(source):
        place = _place(source)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=Path(place).is_dir())
    return cast("PreTrainedTokenizerFast", tokenizer)


def _check_folder(path: Path) -> None:
    """Says what a folder lacks before transformers guesses."""
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ConfigError(f"model folder {path} holds a LoRA adapter, not a model: merge it into its base first")
        if (path / "model" / "config.json").is_file():
            raise ConfigError(f"expected a model, got {path}, which is the folder of a run: its model is {path}/model")
        if (worker := at_work_in(path)) is not None:
            raise ConfigError(
                f"expected a model, got {path}, the folder of a run that is running: wait for it ({worker})"
            )
        if (path / "checkpoints").is_dir():
            raise ConfigError(f"expected a model, got {path}, which is the folder of a run that is not over: resume it")
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


def _check_names(source: str, model: Any, found: Mapping[str, Iterable[Any]]) -> None:
    """Raises `ConfigError` where a weight is missing, has another shape, or is of a layer that the configuration does
    not have. What else the files hold (a tower that sees, a value head) takes no part, and the log says so."""
    missing, more = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    what = f"the weights in {source} are not those of its config.json ({type(model).__name__})"
    fix = "take both from one model"
    if any(".base_layer." in name or "lora_" in name for name in more):
        fix = "these are a model with adapters: merge them into it first"
    if shapes := sorted(found.get("mismatched_keys", ()), key=str):
        name, there, wanted = shapes[0]
        raise ConfigError(
            f"{what}: {name} has the shape {list(there)} in the file and {list(wanted)} by the configuration, "
            f"{len(shapes)} such in all; {fix}"
        )
    if missing:
        raise ConfigError(f"{what}: {len(missing)} are missing, such as {missing[0]}; {fix}")
    layers = int(getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0) or 0)
    beyond = [name for name in more if (at := _LAYER.search(name)) and int(at[1]) >= layers > 0]
    if beyond:
        raise ConfigError(f"{what}: the files have more than its {layers} layers, such as {beyond[0]}; {fix}")
    if more:
        _log.warning("%d weights in %s take no part in the model, such as %s", len(more), source, more[0])


_LAYER = re.compile(r"^(?:model\.|transformer\.|gpt_neox\.)?(?:decoder\.)?(?:layers|h|blocks)\.(\d+)\.")
"""A weight of the decoder's layers; a tower that sees has names of its own before them."""


@contextmanager
def _load_errors(source: str) -> Iterator[None]:
    """transformers' pages of advice, as one sentence."""
    try:
        yield
    except SparringError:
        raise
    except Exception as error:
        first = _first_line(error)
        if first.startswith("Unrecognized configuration class"):
            raise ConfigError(f"the model in {source} is no causal language model that transformers knows") from error
        if Path(source).is_dir():
            fetched = Path(source).name if Path(source).name in KNOWN_MODELS else ""
            fix = f"; if it is damaged: delete the folder, then sparring model fetch {fetched}" if fetched else ""
            raise ConfigError(f"cannot load the model in {source}: {first}{fix}") from error
        raise InfrastructureError(
            f"cannot load {source!r}: there is no such folder here, and the model hub did not give it ({first})"
        ) from error


def _first_line(error: Exception) -> str:
    """What an error says first; a list that it announces goes with it."""
    first, _, rest = str(error).strip().partition("\n")
    if first.rstrip().endswith(":"):
        first = " ".join(f"{first} {rest}".split())
    return (first or type(error).__name__)[:300]
