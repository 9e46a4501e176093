"""`Policy`: a model in training, full or LoRA, with the log-probabilities that every objective is made of."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..agents.agent import LLMAgent
from ..agents.attention import forward_hidden, use_layouts
from ..agents.chat_format import ChatFormat, encoding_of, save_tokenizer, write_format
from ..agents.engine import context_within
from ..agents.engines.transformers.engine import TransformersEngine
from ..agents.head import Head
from ..agents.loading import chat_for
from ..agents.models import (
    check_weights,
    context_limit,
    device_named,
    load_model,
    load_tokenizer,
    quiet,
    resolve,
    unknown_ids,
)
from ..agents.proof import prove
from ..agents.runtime import available_memory
from ..trajectories.errors import ConfigError, MissingExtra
from .batch import Sample, TreeBatch
from .plan import CHUNK, SHARE, activation_bytes
from .settings import Precision

__all__ = ["Lora", "Policy", "PolicyModule", "Predictions"]

_HEADS = "heads.safetensors"
_NEVER = -1e30
"""Logit of an id that is no token."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters (2106.09685) on all linear layers of the decoder."""

    rank: int = 16
    """Their width."""
    alpha: int = 32
    """Their scale: an adapter counts alpha / rank."""
    seed: int = 0
    """Of their first weights: the same seed, the same adapters."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Of one batch, per (prediction, sample) pair, at the sample's temperature."""

    logps_M: Tensor
    entropy_M: Tensor
    """Nats, without gradient."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """Output of each head that was asked for, (M, its outputs), at the token that predicts."""


class PolicyModule(nn.Module):
    """The model and its heads as one module whose `forward` is `predict`: what DDP or FSDP wraps.

    It computes in evaluation mode, always. Dropout of the model's configuration would make the log-probabilities of
    the policy, and of its reference, differ from call to call and from those that were sampled by.
    """

    def __init__(
        self, model: Any, precision: Precision, checkpointing: bool | None, unknown: Sequence[int] = ()
    ) -> None:
        """
        Args:
            unknown: Ids that are no token: they have no part in the distribution.
        """
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict()
        self._dtype = _dtype_of(precision)
        self._precision = precision
        self._checkpointing = checkpointing
        self._layers = _layers_of(model)
        if checkpointing and not self._layers:
            raise ConfigError(f"{type(model).__name__} has no layers that can be checkpointed: leave checkpointing off")
        self._room: float | None = None
        self._limit = context_limit(model.config)
        self._unknown = torch.tensor(unknown, dtype=torch.long, device=model.device) if unknown else None
        self.eval()

    def forward(self, batch: TreeBatch, heads: Sequence[str] = (), heads_alone: bool = False) -> Predictions:
        """Of the weighted tokens, with gradient where it is on; `heads_alone`: of heads into themselves alone.

        Raises `ConfigError` for a sequence that is longer than the model's positions.
        """
        if self._limit is not None and batch.longest > self._limit:
            raise ConfigError(
                f"a sequence of {batch.longest} tokens is longer than the {self._limit} positions that the model was "
                "made for: leave such episodes out, or set fewer tokens for an episode"
            )
        if torch.is_grad_enabled():
            self._switch(batch)
        with torch.autocast(batch.ids_N.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            hidden = forward_hidden(self.model, batch.ids_N, batch.positions_N, batch.layout)[batch.sources_U]
        logps_U, entropy_U = token_logps(
            hidden.to(self._dtype), Head.of(self.model), batch.targets_U, self._unknown, batch.temperatures_U
        )
        outputs = {}
        for name in heads:
            if name not in self.heads:
                raise ConfigError(f"the policy has no head {name!r}: add_head({name!r}) makes one")
            outputs[name] = self.heads[name]((hidden.detach() if heads_alone else hidden).float())[batch.unique_M]
        return Predictions(logps_U[batch.unique_M], entropy_U[batch.unique_M], outputs)

    def _switch(self, batch: TreeBatch) -> None:
        """Checkpointing on, where it is wanted or the activations would not fit. The numbers are the same."""
        if not self._layers:
            return
        wanted = self._checkpointing
        if wanted is None:
            need = activation_bytes(
                self.model.config,
                len(batch.ids_N),
                batch.layout.pairs,
                self._precision,
                fused=batch.ids_N.device.type != "cpu",
                checkpointing=False,
            )
            wanted = need > self._memory(batch.ids_N.device)
        for layer in self._layers:
            layer.gradient_checkpointing = wanted
            layer.training = wanted  # of the layer alone, not of what is in it: transformers asks for it

    def _memory(self, device: torch.device) -> float:
        """Bytes for activations, looked up once: what is available less what training has still to allocate."""
        if self._room is None:
            available = available_memory(device)
            pending = 12 * sum(p.numel() for p in self.parameters() if p.requires_grad)  # gradients and AdamW
            self._room = float("inf") if available is None else SHARE * (available - pending)
        return self._room


class Policy:
    """A model, its tokenizer and its chat format."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        chat: ChatFormat,
        *,
        precision: Precision = "bf16",
        lora: Lora | None = None,
        checkpointing: bool | None = None,
    ) -> None:
        """
        Args:
            model: In float32, or with `lora` in any dtype: the base stays as it is.
            tokenizer: Of the model.
            chat: Messages to token ids, and back.
            precision: Of autocast and of generation.
            lora: None: all weights are trained.
            checkpointing: Keep only each layer's input and compute the rest again in backward: a third more time, a
                fraction of the memory. None: where a batch would not fit otherwise.
        """
        if precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is fp32 or bf16, got {precision!r}")
        self.tokenizer = tokenizer
        self.chat = chat
        self.precision = precision
        self.lora = lora
        self._unknown = unknown_ids(model, tokenizer)
        check_weights(model)
        model.eval()
        prove(model, _computed, "trainer", exact=precision == "fp32")
        _keep_residual_wide(model)
        plain = {name: weight.shape for name, weight in model.state_dict().items()}
        self.module = PolicyModule(_adapted(model, lora) if lora else model, precision, checkpointing, self._unknown)
        if lora and {name: weight.shape for name, weight in self.weights()} != plain:
            raise ConfigError(f"{type(model).__name__} with adapters cannot be merged and saved: train it without LoRA")
        self._engine: TransformersEngine | None = None
        self._reference: PolicyModule | None = None
        self._first_adapters: dict[str, Tensor] = {}
        """As they were at `freeze_reference`."""
        self._saved_heads: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        tool_style: Literal["auto", "schema", "signature"] = "auto",
        thinking: Literal["auto", "on", "off"] = "auto",
        precision: Precision = "bf16",
        lora: Lora | None = None,
        device: str | None = None,
        checkpointing: bool | None = None,
    ) -> Policy:
        """From a known model, a folder or a hub name. Weights that are trained are float32; under adapters the base is
        in `precision`.

        Args:
            name: As `sparring.agents.models.resolve` reads it.
            tool_style: How tools are shown to the model; auto: as it was trained, else by its size.
            thinking: Whether it may think before it answers; auto: as it was trained here, else on.
            precision: Of autocast, of generation, and of the base under adapters.
            lora: Adapters to train in place of all weights.
            device: cpu, cuda, cuda:1; None: a GPU where there is one.
            checkpointing: See `Policy`.
        """
        source = resolve(name)
        dtype = _dtype_of(precision) if lora else torch.float32
        model = load_model(source, dtype=dtype, device=device_named(device))
        tokenizer = load_tokenizer(source)
        chat = chat_for(tokenizer, source, tool_style, thinking)
        policy = cls(model, tokenizer, chat, precision=precision, lora=lora, checkpointing=checkpointing)
        heads = Path(source) / _HEADS
        if heads.is_file():
            policy._saved_heads = load_file(heads)
        return policy

    @property
    def model(self) -> Any:
        """The Hugging Face model, adapters (PEFT) around it."""
        return self.module.model

    def room(self, wanted: int) -> int:
        """Tokens that a sequence may have: as many as wanted, or what the model takes where that is less."""
        return min(wanted, context_limit(self.model.config) or wanted)

    @property
    def heads(self) -> nn.ModuleDict:
        """Modules on the last hidden state, by name: trained with the policy, saved next to the model."""
        return self.module.heads

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, heads included."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def add_head(self, name: str, module: nn.Module | None = None) -> nn.Module:
        """Adds a head and returns it, with the weights that the model's folder has for it. None: one output, first 0.

        Raises `ConfigError` when the saved weights belong to a head of another kind.
        """
        if module is None:
            module = nn.Linear(self.model.config.get_text_config(decoder=True).hidden_size, 1)
            for p in module.parameters():
                nn.init.zeros_(p)
        saved = {k.removeprefix(f"{name}."): v for k, v in self._saved_heads.items() if k.startswith(f"{name}.")}
        if saved:
            try:
                module.load_state_dict(saved)
            except RuntimeError as error:
                why = " ".join(str(error).split())
                raise ConfigError(f"head {name!r} was saved with other weights: {why}") from None
        self.heads[name] = module.to(self.device)
        return module

    def has_saved_head(self, name: str) -> bool:
        """Whether the model's folder has weights for a head of this name."""
        return any(key.startswith(f"{name}.") for key in self._saved_heads)

    def predict(self, batch: TreeBatch, heads: Sequence[str] = (), *, heads_alone: bool = False) -> Predictions:
        """Log-probabilities of the weighted tokens and the outputs of `heads`, with gradient where it is on.

        `heads_alone`: the gradient of the heads' outputs ends in the heads and does not reach the model.

        Raises `ConfigError` for token ids of another vocabulary or chat format: to this model they mean other texts.
        """
        if batch.encodings and (foreign := batch.encodings - {encoding_of(self.chat)}):
            raise ConfigError(
                f"token ids of {', '.join(sorted(foreign))} are to be trained on, but the policy's are of "
                f"{encoding_of(self.chat)}: take tokens_of(policy.chat, trajectory), which renders them anew, or play "
                "the episodes with this policy"
            )
        predictions: Predictions = self.module(batch, heads, heads_alone)
        return predictions

    @torch.no_grad()
    def reference(self, batch: TreeBatch) -> Tensor:
        """The reference's log-probabilities (M,): the policy as it was at `freeze_reference`."""
        if self._reference is None and not self._first_adapters:
            raise ConfigError("no reference: call freeze_reference() before training")
        if self._reference is not None:
            predictions: Predictions = self._reference(batch)
            return predictions.logps_M
        training = self.module.training
        self.module.eval()  # no dropout: the policy is compared with what the reference says, not with noise
        try:
            predictions = torch.func.functional_call(self.module, self._first_adapters, (batch,))
        finally:
            self.module.train(training)
        return predictions.logps_M

    def freeze_reference(self) -> None:
        """Keeps the policy as it is now as the reference. With LoRA only the adapters are copied."""
        if self.lora is not None:
            adapters = self.module.model.named_parameters(prefix="model")
            self._first_adapters = {name: p.detach().clone() for name, p in adapters if p.requires_grad}
        else:
            twin = self._twin()
            use_layouts(twin)
            _keep_residual_wide(twin)
            self._reference = PolicyModule(twin, self.precision, False, self._unknown).eval()

    def agent(
        self,
        *,
        temperature: float = 1.0,
        max_turn_tokens: int = 64,
        max_context: int | None = None,
        parallel: int = 64,
        name: str = "policy",
        version: int | None = None,
    ) -> LLMAgent:
        """An agent that samples from the present weights.

        Args:
            temperature: From 0; 0 takes the most likely token.
            max_turn_tokens: Of one turn.
            max_context: Of a whole episode, in tokens; None: 4096, or what the model takes where that is less.
            parallel: Episodes that are played at once.
            name: As trajectories record it.
            version: Of the policy, as its trajectories record it: the step of a run, say. None: one more than before.
        """
        context = context_within(max_context, context_limit(self.model.config))
        if self._engine is None or self._engine.parallel != parallel:
            self._engine = TransformersEngine(self._twin(), tokenizer=self.tokenizer, parallel=parallel)
        self._engine.max_context = context
        self._engine.load(self.weights())
        if version is not None:
            self._engine.version = version
        return LLMAgent(
            self._engine,
            self.chat,
            name=name,
            temperature=temperature,
            max_turn_tokens=max_turn_tokens,
            parallel=parallel,
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors as the bare model has them, one after the other, adapters merged in. The tensors are the
        policy's own, or merged in float32 when their turn comes: who keeps them must copy them. No heads."""
        # An adapter on fused experts wraps a parameter, several on one module wrap each other.
        merged = {
            f"{_plain(name)}.{getattr(module, 'parameter_name', 'weight')}": module
            for name, module in self._bare.named_modules()
            if hasattr(module, "lora_A")
        }
        for name, tensor in self._bare.state_dict().items():
            if "lora_" not in name:
                module = merged.get(_plain(name))
                yield _plain(name), tensor if module is None else _merged(tensor, module)

    def save(self, folder: Path) -> None:
        """A folder that `load` and any Hugging Face program read: merged weights, tokenizer with a chat template that
        renders the format of training, adapters and heads next to them."""
        with quiet():
            if self.lora:
                self.model.save_pretrained(folder / "adapter")
                self._save_merged(folder)
            else:
                self.model.save_pretrained(folder)
            save_tokenizer(self.chat, self.tokenizer, folder)
        if self.heads:
            save_file({name: tensor.cpu() for name, tensor in self.heads.state_dict().items()}, folder / _HEADS)
        write_format(self.chat, folder)

    # ---- the bare model --------------------------------------------------------------------------------------------

    @property
    def _bare(self) -> Any:
        """Without the adapters' wrapper; its linear layers still hold them."""
        return self.model.get_base_model() if self.lora else self.model

    @torch.no_grad()
    def _twin(self) -> Any:
        """A copy of the model, adapters merged in, in the precision of generation, on the same device."""
        base = self._bare
        with torch.device("meta"):
            twin: Any = type(base)(copy.deepcopy(base.config))
        twin = twin.to(_dtype_of(self.precision)).to_empty(device=self.device).requires_grad_(False)
        twin.tie_weights()
        own = {_plain(name): buffer for name, buffer in base.named_buffers()}
        for name, buffer in twin.named_buffers():  # rotary frequencies: in bfloat16 they would be off at each position
            buffer.data = own[name].clone()
        twin.generation_config = copy.deepcopy(base.generation_config)
        weights = twin.state_dict()
        for name, tensor in self.weights():
            weights[name].copy_(tensor)
        return twin.eval()

    def _save_merged(self, folder: Path) -> None:
        """Configuration and float32 weights, one matrix in memory at a time."""
        base = self._bare
        config = copy.deepcopy(base.config)
        config.dtype = torch.float32
        config.architectures = [type(base).__name__]
        config.save_pretrained(folder)
        if base.generation_config is not None:
            base.generation_config.save_pretrained(folder)
        shapes, seen = {}, set()
        for name, tensor in base.state_dict().items():
            if "lora_" not in name and tensor.data_ptr() not in seen:  # tied weights are written once
                shapes[_plain(name)] = list(tensor.shape)
                seen.add(tensor.data_ptr())
        _write_tensors(folder / "model.safetensors", shapes, self.weights())


def token_logps(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    unknown: Tensor | None = None,
    temperatures: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log p of each target and the entropy of each row, in nats and float32.

    Args:
        hidden: (U, width); the products run in its dtype.
        head: Of the model.
        targets: (U,) token ids.
        unknown: (K,) ids that have no part in the distribution.
        temperatures: (U,) what the logits are divided by; None: 1.
    """
    apply: Any = TokenLogProbs.apply  # torch leaves it untyped
    logps_U, entropy_U = apply(hidden, head.table, head.bias, targets, head, unknown, temperatures)
    return logps_U, entropy_U


class TokenLogProbs(torch.autograd.Function):
    """log softmax(logits / T)[target] and the entropy of each row, without keeping the logits.

    (U, width), (V, width), (V,) or None, (U,) -> (U,), (U,). The vocabulary is many times the width: its logits are
    computed in chunks, and again in backward, where softmax - onehot is formed in place. The products run in the dtype
    of `hidden`, the softmax in float32; no gradient flows through the entropy.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        head: Head,
        unknown: Tensor | None,
        temperatures: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        table = weight.to(hidden.dtype)
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        log_z = torch.empty_like(logps)
        entropy = torch.empty_like(logps)
        for at in range(0, len(hidden), CHUNK):
            rows = slice(at, at + CHUNK)
            logits = _without(head.finish(hidden[rows] @ table.T), unknown)
            if temperatures is not None:
                logits = logits / temperatures[rows, None]
            log_z[rows] = logits.logsumexp(-1)
            logps[rows] = logits.gather(1, targets[rows, None])[:, 0] - log_z[rows]
            p = torch.exp(logits - log_z[rows, None])
            entropy[rows] = log_z[rows] - torch.linalg.vecdot(p, logits)
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, unknown, temperatures)
        ctx.head = head
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_z, unknown, temperatures = ctx.saved_tensors
        head: Head = ctx.head
        table = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        wide = {"dtype": torch.float32, "device": weight.device}
        grad_weight = torch.zeros(weight.shape, **wide) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros(len(weight), **wide) if ctx.needs_input_grad[2] else None
        for at in range(0, len(hidden), CHUNK):
            rows = slice(at, at + CHUNK)
            logits = head.finish(hidden[rows] @ table.T)
            slope = head.slope(logits)
            logits = _without(logits, unknown)
            if temperatures is not None:
                logits = logits / temperatures[rows, None]
            grad = logits.sub_(log_z[rows, None]).exp_().mul_(-grad_logps[rows, None])
            grad.scatter_add_(1, targets[rows, None], grad_logps[rows, None])
            if temperatures is not None:
                grad /= temperatures[rows, None]
            if slope is not None:
                grad.mul_(slope)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = grad @ table
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[rows]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _without(logits: Tensor, unknown: Tensor | None) -> Tensor:
    """`logits` (n, V), in place, with no weight on the unknown ids. Finite: the entropy multiplies them with 0."""
    return logits if unknown is None else logits.index_fill_(1, unknown, _NEVER)


def _dtype_of(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


@torch.inference_mode()
def _computed(model: Any, rows: list[list[int]], exact: bool) -> list[Tensor]:
    """Log p of each row's tokens but the first, as one prefix tree."""
    batch = TreeBatch.build([Sample(tuple(row), (1.0,) * len(row)) for row in rows], model.device)
    wide = _keep_residual_wide(model)
    try:
        logps_M = PolicyModule(model, "fp32" if exact else "bf16", False)(batch).logps_M
    finally:
        wide.remove()
    return [logps_M[batch.owner_M == i] for i in range(len(rows))]


def _layers_of(model: Any) -> list[Any]:
    """The decoder layers, ready to be checkpointed and without dropout of their own."""
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        for name, value in vars(layer).items():
            if "drop" in name and isinstance(value, float):  # for torch's function, which asks layer.training
                setattr(layer, name, 0.0)
    return layers


def _keep_residual_wide(model: Any) -> Any:
    """The residual stream is float32 under autocast, with weights of any dtype. Returns the hook."""
    return model.get_input_embeddings().register_forward_hook(lambda module, given, out: out.float())


def _plain(name: str) -> str:
    """Of a weight, as the model without adapters has it."""
    return name.replace(".base_layer", "")


@torch.no_grad()
def _merged(base: Tensor, module: Any) -> Tensor:
    """One adapted matrix in float32. PEFT's merge and unmerge would leave rounding in the base, more at each call."""
    merged: Tensor = base.float() + module.get_delta_weight("default").float()
    return merged


def _write_tensors(path: Path, shapes: dict[str, list[int]], tensors: Iterator[tuple[str, Tensor]]) -> None:
    """A safetensors file in float32, tensor by tensor; the library's own writer wants all of them at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:  # in the order of `shapes`
            if name in shapes:
                file.write(tensor.detach().float().cpu().contiguous().numpy().data)


def _adapted(model: Any, lora: Lora) -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtra("peft", "train") from None
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    # GPT-2's layers keep their matrices transposed.
    settings.fan_in_fan_out = any(type(module).__name__ == "Conv1D" for module in model.modules())
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that it has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # It asks for twice the rank where two matrices are fused, by a pattern that then matches nothing.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match", RuntimeWarning)
        torch.default_generator.manual_seed(lora.seed)  # PEFT draws on the CPU; nobody else's draws change
        return peft.get_peft_model(model, settings)
