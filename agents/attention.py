"""One seam into every Hugging Face decoder: attention over a flat batch that we lay out ourselves.

All tokens of a batch, of whatever row, are in one sequence (1, N): no padding anywhere. What a token may attend to is
decided by a `Layout`, handed to the model's forward as the keyword `sparring_layout`. The engine's layout keeps a
key-value cache across turns; the trainer's is a prefix tree. How scores are made (scale, window, cap, sinks) is the
model's: each attention module says it when it calls. Whether a model is computed rightly in this way is no matter of
lists: `agents/proof.py` compares it with the model's own forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from ..trajectories.errors import ConfigError
from .models.packages import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["Layout", "Scoring", "decoder_of", "forward_hidden", "mix", "plain_attention", "use_layouts"]

_NAME = "sparring"
_ELSEWHERE = "it computes its attention in code of its own, which follows no layout of ours"


@dataclass(frozen=True, slots=True)
class Scoring:
    """How one attention layer makes weights of its products, as its module says."""

    scale: float
    """Of the products of queries and keys."""
    window: int | None = None
    """A token sees itself and the window - 1 tokens before it; None: all before it."""
    cap: float | None = None
    """Scores go through cap * tanh(score / cap)."""
    sinks: torch.Tensor | None = None
    """(H,) one more score of each head, which takes weight and gives no value."""


class Layout(Protocol):
    """Who attends to whom."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: Scoring
    ) -> torch.Tensor:
        """query (H, N, D), key (KV, N, D) and value (KV, N, E) of the new tokens -> (H, N, E)."""
        ...


def use_layouts(model: PreTrainedModel) -> None:
    """Switches `model` (in place) to attention by layout. Raises `ConfigError` where that cannot be."""
    _register()
    _switch(model, _NAME)
    if _attention_of(model) != _NAME:
        raise ConfigError(_ELSEWHERE)


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """`model` computes as transformers does, without a layout, meanwhile."""
    before = _attention_of(model)
    if before == _NAME:
        _switch(model, "sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        if before == _NAME:
            _switch(model, _NAME)


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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, how: Scoring
) -> torch.Tensor:
    """Attention of (KV, G, n, D) queries, G heads on each key head, over (KV, L, D) keys and (KV, L, E) values; `mask`
    (n, L) is additive, the window included. Returns (KV, G, n, E).

    On CPU two matrix products over all heads of a group are 3 times as fast, backward included, as the fused kernel
    with its keys repeated; on a GPU the fused kernel wins, where it can do what is asked for.
    """
    import torch

    kv, group, n, width = query.shape
    length = key.shape[1]
    if query.device.type != "cpu" and how.cap is None and how.sinks is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key[:, None].expand(kv, group, length, width),
            value[:, None].expand(kv, group, length, value.shape[-1]),
            attn_mask=mask,
            scale=how.scale,
        )
    scores = torch.matmul(query.reshape(kv, group * n, width), key.transpose(1, 2)).view(kv, group, n, length)
    scores = scores * how.scale
    if how.cap is not None:
        scores = how.cap * torch.tanh(scores / how.cap)
    if mask is not None:
        scores = scores + mask
    if how.sinks is not None:
        sinks = how.sinks.to(scores.dtype).view(kv, group, 1, 1).expand(kv, group, n, 1)
        scores = torch.cat([scores, sinks], -1)
    weights = torch.softmax(scores, -1, dtype=torch.float32)[..., :length].to(value.dtype)
    mixed = torch.matmul(weights.reshape(kv, group * n, length), value)
    return mixed.view(kv, group, n, value.shape[-1])


def _attention_of(model: PreTrainedModel) -> str:
    return str(decoder_of(model).config._attn_implementation)


def _switch(model: PreTrainedModel, attention: str) -> None:
    with quiet():  # transformers warns where it cannot; what came of it is looked up
        model.set_attn_implementation(attention)


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if sparring_layout is None or position_bias is not None:
        raise ConfigError(_ELSEWHERE)  # at load, when the model is proved
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    how = Scoring(scale, sliding_window, softcap, s_aux)
    out = sparring_layout.attend(module.layer_idx, query[0], key[0], value[0], how)
    return out.transpose(0, 1)[None], None  # (1, N, H, E)
