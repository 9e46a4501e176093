"""At load, a model's forward by our layouts is proved equal to its own. What differs is refused.

No list says which families are computed rightly: a configuration has too many ways to ask for something else (windows,
caps, sinks, positions, states). Two proofs, each on one long row and others that share a prefix with it:

* of the structure: on a miniature of the same class and configuration (fewer layers, heads and tokens; windows, caps
  and chunks so small that the rows reach past them), with large random weights, in float32 on the CPU. There equal
  means equal to a thousandth of the logits' spread, and small weights can hide nothing;
* of the model itself: its own weights, in its dtype, on its device.

A proof that succeeded is kept in the cache folder under a key of all that it depends on: configuration, library
versions and our own source; of the model itself also its weights, dtype and device.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ..trajectories.errors import ConfigError
from .attention import plain_attention, use_layouts
from .models import context_limit, home, quiet

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Computed", "prove"]

Rows: TypeAlias = list[list[int]]
Computed: TypeAlias = "Callable[[Any, Rows, bool], list[Tensor]]"
"""(model that attends by layout, rows of ids, whether to compute in float32) -> of each row, log p of its tokens but
the first."""

_EXACT = 1e-3
"""Of the logits' spread that a log-probability may differ by, in float32."""
_CLOSE = 0.15
"""The same in bfloat16, for the median: single tokens differ by more where a router's choice is close."""
_FLIPPED = 0.05
"""Share of the tokens that may differ in float32 where a router chooses experts."""
_MINI_ROWS = (150, 90, 33)
_WINDOW, _CAP = 17, 2.0
"""Of a miniature."""
_LONGEST = 160
"""The model itself is run past its window where that is no longer than this; the miniature always is."""
_proved: set[str] = set()


def prove(model: Any, ours: Computed, path: str, *, exact: bool = True) -> None:
    """Proves that `ours` computes what `model` computes, and leaves `model` attending by layout.

    Args:
        model: With its weights, on the device and in the dtype that it will run in.
        ours: How it is computed here.
        path: Name of `ours`, for the cache.
        exact: Whether `ours` will run in float32, where the weights are.

    Raises `ConfigError` when it differs, or when it cannot be computed so; one sentence, with the reason where it is
    known.
    """
    structure = _digest(path, _about(model))
    own = _digest(structure, _fingerprint(model), str(exact))
    if not _known(structure):
        small = _miniature(model)
        if small is not None:
            _compare(small, ours, _rows(small, _MINI_ROWS), exact=True, asked=model)
        elif windows := _windows(model.config):
            raise ConfigError(f"{_name(model)} is not supported: {_phrase(windows)} cannot be proved to be kept")
        _keep(structure)
    if not _known(own):
        longest = max((w for w in _windows(model.config).values() if w <= _LONGEST), default=0) + 24
        _compare(model, ours, _rows(model, (longest, 13)), exact=exact, asked=model)
        _keep(own)
    use_layouts(model)


def _compare(model: Any, ours: Computed, rows: Rows, *, exact: bool, asked: Any) -> None:
    exact = exact and next(model.parameters()).dtype == torch.float32
    try:
        truth, spread = _own(model, rows)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigError(
            f"{_name(asked)} is not supported: its forward wants more than text ({_line(error)})"
        ) from error
    if not all(bool(row.isfinite().all()) for row in truth):
        raise ConfigError(f"the model's log-probabilities are not finite in {model.dtype}: try fp32, or another model")
    try:
        use_layouts(model)
        got = ours(model, rows, exact)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        why = _reason(asked) or _line(error)
        raise ConfigError(f"{_name(asked)} is not supported: {why}") from error
    off = torch.cat([(a - b.to(a)).abs() for a, b in zip(truth, got, strict=True)])
    off = off.nan_to_num(float("inf"))
    routed = any("expert" in name for name in vars(asked.config.get_text_config(decoder=True)))
    if exact:
        same = bool((off <= _EXACT * spread).float().mean() >= (1 - _FLIPPED if routed else 1))
    else:
        same = bool(off.median() <= _CLOSE * spread)
    if not same:
        why = _reason(asked) or "it computes something that a layout of ours does not keep"
        raise ConfigError(
            f"{_name(asked)} is not supported: {why} (log-probabilities are off by up to {float(off.max()):.2g} nats)"
        )


@torch.inference_mode()
def _own(model: Any, rows: Rows) -> tuple[list[Tensor], float]:
    """Log p of each row by the model's own forward, each alone, and the spread of its logits."""
    found, spreads = [], []
    with plain_attention(model):
        for row in rows:
            ids = torch.tensor([row], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            spreads.append(logits.std(-1).mean())
            found.append(logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0])
    return found, float(torch.stack(spreads).mean())


def _rows(model: Any, lengths: tuple[int, ...]) -> Rows:
    """Random tokens; each row shares a third of the shortest one's length with the first."""
    config = model.config.get_text_config(decoder=True)
    limit = min(int(model.get_input_embeddings().weight.shape[0]), 4096)
    reserved = {value for part in (config, model.config) for name, value in _ints(part) if name.endswith("token_id")}
    usable = torch.tensor([i for i in range(limit) if i not in reserved] or [0])
    most = context_limit(model.config) or max(lengths)
    random = torch.Generator().manual_seed(0)
    rows = [usable[torch.randint(len(usable), (min(n, most),), generator=random)].tolist() for n in lengths]
    shared = min(map(len, rows)) // 3
    return [rows[0], *(rows[0][:shared] + row[shared:] for row in rows[1:])]


# ---- the miniature -------------------------------------------------------------------------------------------------


def _miniature(model: Any) -> Any | None:
    """The same class with a smaller configuration and large random weights; None where none can be built and run."""
    for layers, sizes in ((True, True), (False, True), (True, False)):
        config = copy.deepcopy(model.config)
        with suppress(Exception), quiet(), _own_random(), torch.device("cpu"):
            _shrink(config, layers=layers, sizes=sizes)
            small = type(model)(config).float().eval()
            _fill(small)
            truth, _ = _own(small, _rows(small, _MINI_ROWS))
            if all(bool(row.isfinite().all()) for row in truth):
                return small
    return None


def _shrink(config: Any, *, layers: bool, sizes: bool) -> None:
    text = config.get_text_config(decoder=True)
    for part in _parts(config):
        if part is not text and part is not config and getattr(part, "num_hidden_layers", None):
            part.num_hidden_layers = 1  # what sees and hears takes no part in the proof
    for name, value in _ints(text):
        if value > _WINDOW and _is_window(name):
            setattr(text, name, _WINDOW)
    for name, value in list(vars(text).items()):
        if "softcap" in name or "soft_cap" in name:
            setattr(text, name, value and min(value, _CAP))
    if layers:
        _fewer_layers(text)
    if sizes:
        _smaller(text)
    for part in (text, config):
        for name, value in _ints(part):
            if name.endswith("token_id") and value >= text.vocab_size:
                setattr(part, name, None)


def _fewer_layers(text: Any) -> None:
    """As many as it takes to have each kind of layer, two at least."""
    n = int(text.num_hidden_layers)
    lists = {k: v for k, v in vars(text).items() if isinstance(v, list | tuple) and len(v) == n}
    kept = max([2, *(v.index(kind) + 1 for v in lists.values() for kind in v if _hashable(kind))])
    if kept >= n:
        return
    for name, value in lists.items():
        setattr(text, name, value[:kept])
    text.num_hidden_layers = kept


def _smaller(text: Any) -> None:
    """Fewer heads of the same width, narrow feed-forward layers, a short vocabulary, few experts."""
    heads = int(text.num_attention_heads)
    kv = int(getattr(text, "num_key_value_heads", None) or heads)
    few = min(kv, 2)
    if heads % kv == 0:
        fewer = heads // kv * few
        text.hidden_size = int(text.hidden_size) // heads * fewer
        text.num_attention_heads = fewer
        if getattr(text, "num_key_value_heads", None):
            text.num_key_value_heads = few
    for name, value in _ints(text):
        if name.endswith(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")) and value > 64:
            setattr(text, name, 64)
        elif name == "vocab_size":
            setattr(text, name, min(value, 256))
        elif name in ("num_experts", "num_local_experts", "n_routed_experts") and value > 8:
            groups = int(getattr(text, "n_group", None) or 1)
            setattr(text, name, max(8, int(getattr(text, "num_experts_per_tok", 1)), 2 * groups))


@torch.no_grad()
def _fill(model: Any) -> None:
    """Weights that let every part of the model matter: all scores, norms, biases and sinks away from their start."""
    random = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=random)
        if weight.dim() > 1:
            wide = 2.5 if any(part in name for part in ("q_proj", "k_proj", "qkv", "query", "c_attn")) else 1.5
            weight.copy_(noise * wide / weight.shape[-1] ** 0.5)
        else:
            weight.add_(0.2 * noise)


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and those nested in it."""
    yield config
    for name in getattr(config, "sub_configs", None) or {}:
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _parts(inner)


def _ints(config: Any) -> list[tuple[str, int]]:
    return [(k, v) for k, v in vars(config).items() if isinstance(v, int) and not isinstance(v, bool)]


def _is_window(name: str) -> bool:
    sized = "window" in name or "chunk_size" in name or "local_attention" in name
    return sized and "layers" not in name and "pattern" not in name


def _windows(config: Any) -> dict[str, int]:
    """What a configuration calls a window, by name."""
    return {
        name: value for name, value in _ints(config.get_text_config(decoder=True)) if _is_window(name) and value > 0
    }


def _hashable(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


@contextmanager
def _own_random() -> Iterator[None]:
    """The caller's random state stays as it is; transformers initialises from the global one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# ---- why -----------------------------------------------------------------------------------------------------------


def _reason(model: Any) -> str:
    """What in the configuration is likely to be why, in words; "" where nothing is known."""
    text = model.config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ())
    kinds = {kind for kind in kinds if kind not in ("full_attention", "sliding_attention", "attention")}
    stateful = ("mamba", "rwkv", "recurrent", "xlstm")
    if "chunked_attention" in kinds or getattr(text, "attention_chunk_size", None):
        return "it attends within chunks (chunked attention)"
    if kinds:
        return (
            f"it has layers of kind {', '.join(sorted(kinds))}, whose state depends on the tokens before in the batch"
        )
    if any(part in str(text.model_type) for part in stateful):
        return "its layers keep a state that depends on the tokens before in the batch"
    if getattr(text, "alibi", False) or text.model_type in ("bloom", "mpt"):
        return "its attention adds biases of its own to the scores (ALiBi)"
    if windows := _windows(model.config):
        return f"{_phrase(windows)} is applied in a way that is not known here"
    if getattr(text, "num_kv_shared_layers", 0):
        return "some of its layers take keys and values of other layers"
    if getattr(text, "kv_lora_rank", None):
        return "its keys and values are compressed (MLA)"
    return ""


def _phrase(windows: dict[str, int]) -> str:
    name, value = next(iter(windows.items()))
    return f"its sliding window ({name} = {value})"


def _name(model: Any) -> str:
    return type(model).__name__


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# ---- what was proved -----------------------------------------------------------------------------------------------


def _known(key: str) -> bool:
    if key not in _proved and _file(key).is_file():
        _proved.add(key)
    return key in _proved


def _keep(key: str) -> None:
    _proved.add(key)
    with suppress(OSError):  # a cache folder that cannot be written costs a second at the next load
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        _file(key).touch()


def _file(key: str) -> Path:
    return home() / "proofs" / key


def _about(model: Any) -> str:
    """Everything that the structure depends on."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"):
        config.pop(name, None)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    return json.dumps([kind, config, _software()], sort_keys=True, default=str)


@torch.no_grad()
def _fingerprint(model: Any) -> str:
    """Of the weights: names, shapes, dtypes, and some values of each."""
    seen = hashlib.sha256(str(model.device).encode())
    if model.device.type == "cuda":
        seen.update(torch.cuda.get_device_name(model.device).encode())
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        seen.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + some.numpy().tobytes())
    return seen.hexdigest()


@lru_cache(maxsize=1)
def _software() -> str:
    here = Path(__file__).resolve().parent
    ours = [
        *here.glob("*.py"),
        *(here / "engines" / "transformers").glob("*.py"),
        *(here.parent / "trainers").glob("*.py"),
    ]
    source = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(ours)))
    return f"{version('torch')} {version('transformers')} {source.hexdigest()}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
