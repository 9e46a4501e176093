"""One seam into every Hugging Face decoder: attention over a flat batch that we lay out ourselves.

All tokens of a batch, of whatever row, are in one sequence (1, N): no padding anywhere. What a token may attend to is
decided by a `Layout`, handed to the model's forward as the keyword `sparring_layout`. The engine's layout keeps a
key-value cache across turns; the trainer's is a prefix tree.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from ..trajectories.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["Layout", "decoder_of", "forward_hidden", "mix", "use_layouts"]

_NAME = "sparring"


class Layout(Protocol):
    """Who attends to whom."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """query (H, N, D), key and value (KV, N, D) of the new tokens -> (H, N, D)."""
        ...


def use_layouts(model: PreTrainedModel) -> None:
    """Switches `model` (in place) to attention by layout. Raises `ConfigError` for models with sliding windows."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"{type(model).__name__} has layers of kind {', '.join(sorted(kinds))}; only full attention is supported"
        )
    _register()
    model.set_attn_implementation(_NAME)


def decoder_of(model: Any) -> Any:
    """The decoder without its head, adapters (PEFT) included."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.get_decoder()


def forward_hidden(model: Any, ids_N: torch.Tensor, positions_N: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Last hidden states (N, width) of flat tokens under `layout`."""
    out = decoder_of(model)(
        input_ids=ids_N[None], position_ids=positions_N[None], use_cache=False, sparring_layout=layout
    )
    hidden: torch.Tensor = out.last_hidden_state[0]
    return hidden


def mix(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention of (KV, G, n, D) queries, G heads on each key head, over (KV, L, D) keys and values; `mask` (n, L) is
    additive. Returns (KV, G, n, D).

    On CPU two matrix products over all heads of a group are 3 times as fast, backward included, as the fused kernel
    with its keys repeated; on a GPU the fused kernel wins.
    """
    import torch

    kv, group, n, width = query.shape
    length = key.shape[1]
    if query.device.type != "cpu":
        shape = (kv, group, length, width)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key[:, None].expand(shape), value[:, None].expand(shape), attn_mask=mask, scale=scale
        )
    scores = torch.matmul(query.reshape(kv, group * n, width), key.transpose(1, 2)).view(kv, group, n, length) * scale
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights.view(kv, group * n, length), value).view(kv, group, n, width)


@lru_cache(maxsize=1)
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    # The layout alone decides who attends to whom: no mask is built.
    AttentionMaskInterface.register(_NAME, lambda *args, **kwargs: None)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    sparring_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if sparring_layout is None:
        raise ConfigError("this model attends by layout: call it through forward_hidden, or load it anew")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = sparring_layout.attend(module.layer_idx, query[0], key[0], value[0], scale)
    return out.transpose(0, 1)[None], None  # (1, N, H, D)
