"""Whether a model, its tokenizer and its settings fit together: asked at load, not in the middle of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...trajectories.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["check_weights", "context_limit", "end_ids", "not_finite", "unknown_ids"]

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")


def context_limit(config: Any) -> int | None:
    """Tokens that a model was made for, by its configuration or the text part of it; None where that does not say.

    With the RoPE of Phi 3.5 ("longrope"), frequencies change for every token once one row is longer than the original
    positions. A row must not depend on the others, so the original positions are the limit.
    """
    text = _text(config)
    limits = [int(v) for c in (text, config) for name in _POSITIONS if (v := getattr(c, name, None))][:1]
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if (part.get("rope_type") or part.get("type")) == "longrope":
            original = part.get("original_max_position_embeddings")
            original = original or getattr(text, "original_max_position_embeddings", None)
            limits += [int(original)] if original else []
    return min(limits, default=None)


def end_ids(model: Any) -> tuple[int, ...]:
    """Each ends an answer: the end tokens of the generation settings and of the configuration, in this order."""
    given = (getattr(model, "generation_config", None), model.config, _text(model.config))
    rows = int(model.get_input_embeddings().weight.shape[0])
    found: list[int] = []
    for source in given:
        value = getattr(source, "eos_token_id", None)
        found += value if isinstance(value, list | tuple) else [] if value is None else [value]
    return tuple(dict.fromkeys(int(id) for id in found if 0 <= int(id) < rows))


def unknown_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Rows of the output layer that no token of the vocabulary belongs to: padding, as a rule. They mean nothing, so
    they must not be sampled. None where the tokenizer does not list its vocabulary.

    Raises `ConfigError` when the tokenizer has ids for which the model has no row. Placeholders of images and sound may
    lie beyond: the text models of Gemma 3 share the tokenizer of those that see.
    """
    if not hasattr(tokenizer, "get_vocab"):
        return ()
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = [int(layer.weight.shape[0]) for layer in layers if layer is not None]
    tokens = {int(id): token for token, id in tokenizer.get_vocab().items()}
    special = set(getattr(tokenizer, "all_special_ids", ()))
    beyond = [id for id, token in tokens.items() if id >= min(rows) and not (id in special and _is_media(token))]
    if beyond:
        first = min(beyond)
        raise ConfigError(
            f"the tokenizer has {len(tokens)} tokens, but the model has {min(rows)} embedding rows: there is none for "
            f"{tokens[first]!r} ({first}). Take the tokenizer of this model, or resize its embeddings"
        )
    return tuple(id for id in range(rows[-1]) if id not in tokens)


def check_weights(model: Any) -> None:
    """Raises `ConfigError` when a weight is not finite."""
    if name := not_finite(model):
        raise ConfigError(
            f"the model's weights are not finite: {name} holds NaN or infinity. The model is damaged, or its training "
            "diverged: take another one, or an earlier checkpoint"
        )


def not_finite(module: torch.nn.Module) -> str:
    """The name of the first weight that holds a NaN or an infinity; empty where all are finite. One pass over all."""
    import torch

    with torch.no_grad():
        return next((name for name, weight in module.named_parameters() if not _finite(weight)), "")


def _finite(weight: torch.Tensor) -> bool:
    import torch

    if not weight.is_floating_point() or weight.device.type == "meta" or not weight.numel():
        return True
    if weight.element_size() == 1:  # float8 has no order of its own
        weight = weight.float()
    low, high = torch.aminmax(weight)  # one pass, no copy; NaN is passed on
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def _text(config: Any) -> Any:
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _is_media(token: str) -> bool:
    return any(part in token.lower() for part in ("image", "video", "audio", "vision"))
