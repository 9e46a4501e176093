"""What a training needs, from the model's configuration alone: nothing is loaded.

`Plan.of("smollm2-135m", lora=0, micro_tokens=2048)` counts parameters on torch's meta device and the bytes of
everything that is held at once, at its largest. `activation_bytes` is also what a policy decides by, whether it
checkpoints.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import Precision

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Plan", "activation_bytes", "plan_table"]

CHUNK = 256
"""Predictions whose logits are held at once: 256 x 49,152 x 4 bytes = 50 MB."""

_PROCESS = 400e6
"""Bytes of a process that has loaded torch and transformers."""


def activation_bytes(
    config: PretrainedConfig, tokens: int, pairs: int, precision: Precision, *, fused: bool, checkpointing: bool
) -> int:
    """Bytes that one micro-batch holds at its peak, between forward and backward.

    Args:
        tokens: Distinct tokens of the batch.
        pairs: (query, key) pairs that attention computes, masked ones included: the sum of each segment's tokens times
            the length of its root path.
        precision: Of autocast.
        fused: Whether attention runs in one kernel that keeps no matrices (a GPU's).
        checkpointing: Whether only each layer's input is kept.
    """
    shape = _Shape.of(config)
    wide, item = 4, 2 if precision == "bf16" else 4
    # Of each token: the residual stream twice and its norms, float32; what enters and leaves the linear layers. Under
    # autocast every linear layer casts its input for itself.
    casts = 5 if precision == "bf16" else 2
    inputs = 4 * wide * shape.width + casts * item * shape.width
    attention = item * (2 * shape.heads + 2 * shape.kv) * shape.head_width
    mlp = 4 * item * shape.inner
    weights = 0 if fused else shape.heads * (wide + (item if precision == "bf16" else 0))
    layer = tokens * (inputs + attention + mlp) + pairs * weights
    kept = tokens * wide * shape.width * shape.layers + layer if checkpointing else layer * shape.layers
    return kept + layer  # the layer at work holds as much again: gradients, and attention's intermediate scores


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of a decoder."""

    layers: int
    width: int
    inner: int
    heads: int
    kv: int
    head_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> _Shape:
        """Where layers differ, the largest of each."""
        config = config.get_text_config(decoder=True)
        width, heads = _most(config, "hidden_size"), _most(config, "num_attention_heads")
        return cls(
            layers=_most(config, "num_hidden_layers"),
            width=width,
            inner=_most(config, "intermediate_size") or 4 * width,
            heads=heads,
            kv=_most(config, "num_key_value_heads") or heads,
            head_width=_most(config, "head_dim") or width // heads,
            vocabulary=_most(config, "vocab_size"),
        )


def _most(config: Any, name: str) -> int:
    """Of a number that may be one for each layer; 0: it is not there."""
    layers = getattr(config, "per_layer_config", None)
    values = [getattr(layer, name, None) for layer in layers] if layers else [getattr(config, name, None)]
    flat = [v for value in values for v in (value if isinstance(value, list | tuple) else [value])]
    return max((int(v) for v in flat if v), default=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training holds at once, in bytes except where it says otherwise."""

    parameters: int
    """Number, of the model, adapters not included."""
    trainable: int
    """Number."""
    weights: int
    casts: int
    """Copies of the weights in the precision of autocast, during a forward."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    activations: int
    """Of a micro-batch, without checkpointing."""
    activations_checkpointed: int
    head: int
    """The logits of a chunk, and what the output layer needs next to them."""
    engine: int
    """The copy that generates, and its key-value cache with every row at its longest; 0: nothing is sampled."""
    reference: int
    checkpointing: bool
    micro_tokens: int
    """Number, of a micro-batch."""
    tokens: int
    """Number, of a step, as far as it is known; 0 where it is not."""

    @classmethod
    def of(
        cls,
        model: str | Path | PretrainedConfig,
        *,
        lora: int = 0,
        precision: Precision = "bf16",
        device: str = "cpu",
        micro_tokens: int = 2048,
        tokens: int = 0,
        episode_tokens: int | None = None,
        parallel: int = 0,
        max_context: int = 4096,
        reference: bool = False,
        checkpointing: bool | None = None,
    ) -> Plan:
        """Counts; loads the model's configuration at most.

        Args:
            model: A known model, a folder, a hub name, or a configuration.
            lora: Rank of the adapters; 0: all weights are trained.
            device: Where it is to run: on a GPU attention keeps no matrices.
            micro_tokens: Tokens of a micro-batch.
            tokens: Tokens of a step, for the table only.
            episode_tokens: Length of an episode; None: one fills the micro-batch, the dearest case.
            parallel: Episodes that the engine plays at once; 0: a training that samples nothing.
            max_context: Tokens of the longest episode.
            reference: Whether a copy of the first weights is held (GRPO with a KL term); with adapters, of these alone.
            checkpointing: None: where the activations do not fit into the memory that is available here.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from ..agents.models import resolve
        from ..agents.runtime import available_memory

        if isinstance(model, (str, Path)):
            config = AutoConfig.from_pretrained(resolve(model), trust_remote_code=False)
        else:
            config = copy.deepcopy(model)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        parameters = sum(p.numel() for p in empty.parameters())
        adapters = _adapter_parameters(empty, lora) if lora else 0
        trainable = adapters or parameters
        half = 2 if precision == "bf16" else 4
        shape = _Shape.of(config)
        episode = min(episode_tokens or micro_tokens, max_context, micro_tokens)
        pairs = micro_tokens * episode
        both = [
            activation_bytes(
                config, micro_tokens, pairs, precision, fused=not device.startswith("cpu"), checkpointing=checkpointed
            )
            for checkpointed in (False, True)
        ]
        table = shape.vocabulary * shape.width
        logits = 3 * 4 * CHUNK * shape.vocabulary
        fixed = {
            "weights": parameters * half + adapters * 4 if lora else parameters * 4,
            "casts": 0 if lora or precision == "fp32" else parameters * half,
            "gradients": trainable * 4,
            "optimizer": trainable * 8,
            "head": logits + (0 if lora else table * 8),  # the table's gradient, as a sum and as the chunk's part
            "engine": parameters * half + parallel * max_context * 2 * shape.layers * shape.kv * shape.head_width * half
            if parallel
            else 0,
            "reference": (adapters * 4 if lora else parameters * half) if reference else 0,
        }
        if checkpointing is None:
            room = available_memory(torch.device(device))
            checkpointing = room is not None and sum(fixed.values()) + both[0] > SHARE * room
        return cls(
            parameters=parameters,
            trainable=trainable,
            activations=both[0],
            activations_checkpointed=both[1],
            checkpointing=checkpointing,
            micro_tokens=micro_tokens,
            tokens=tokens,
            **fixed,
        )

    @property
    def peak(self) -> int:
        """All of it at its largest, and the process itself. Runs that were measured stay below it."""
        held = self.weights + self.optimizer + self.engine + self.reference
        forward = self.activations_checkpointed if self.checkpointing else self.activations
        # A step's later micro-batches run while the gradients of the first ones are held.
        return int(_PROCESS) + held + self.gradients + self.casts + self.head + forward

    def rows(self) -> list[tuple[str, str]]:
        """Names and values of the table."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("trained", f"{self.trainable:,}"),
            ("weights", _size(self.weights)),
            ("copies for autocast", _size(self.casts)),
            ("gradients", _size(self.gradients)),
            ("optimiser", _size(self.optimizer)),
            (f"activations of {self.micro_tokens:,} tokens", _size(self.activations)),
            ("the same with checkpointing", _size(self.activations_checkpointed)),
            ("output layer", _size(self.head)),
            ("engine and its cache", _size(self.engine)),
            ("reference", _size(self.reference)),
            ("checkpointing", "on" if self.checkpointing else "off"),
            ("peak, at most", _size(self.peak)),
            ("tokens a step", f"{self.tokens:,}" if self.tokens else "not known"),
        ]

    def __str__(self) -> str:
        return _table(self.rows())


def plan_table(plans: Mapping[str, Plan]) -> str:
    """Plans side by side, as a table of text: a column for each, its name above."""
    columns = [dict(plan.rows()) for plan in plans.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return _table([("", *plans), *((name, *(column.get(name, "") for column in columns)) for name in names)])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    left, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join((f"{name:<{left}}", *(f"{v:>{width}}" for v, width in zip(values, others, strict=True))))
        for name, *values in rows
    )


SHARE = 0.8
"""Of the available memory that activations may take; the rest is for what cannot be foreseen."""


def _adapter_parameters(model: Any, rank: int) -> int:
    """Of low-rank adapters on every linear layer but the output's, as PEFT's "all-linear"."""
    import torch

    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return sum(rank * (m.in_features + m.out_features) for m in linear)


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
