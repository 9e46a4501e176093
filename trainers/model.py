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
from ..agents.chat_format import ChatFormat, encoding_of, write_format
from ..agents.engine import context_within
from ..agents.engines.transformers.engine import TransformersEngine, context_limit
from ..agents.loading import chat_for
from ..agents.models import device_named, load_model, load_tokenizer, quiet, resolve
from ..agents.runtime import available_memory
from ..trajectories.errors import ConfigError, MissingExtra
from .batch import TreeBatch
from .plan import CHUNK, SHARE, activation_bytes
from .settings import Precision

__all__ = ["Lora", "Policy", "PolicyModule", "Predictions"]

_HEADS = "heads.safetensors"


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters (2106.09685) on all linear layers of the decoder."""

    rank: int = 16
    alpha: int = 32


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Of one batch, per (prediction, sample) pair."""

    logps_M: Tensor
    entropy_M: Tensor
    """Nats, without gradient."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """Output of each head that was asked for, (M, its outputs), at the token that predicts."""


class PolicyModule(nn.Module):
    """The model and its heads as one module whose `forward` is `predict`: what DDP or FSDP wraps."""

    def __init__(self, model: Any, precision: Precision, checkpointing: bool | None) -> None:
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

    def forward(self, batch: TreeBatch, heads: Sequence[str] = ()) -> Predictions:
        """Of the weighted tokens, with gradient where it is on."""
        if torch.is_grad_enabled():
            self._switch(batch)
        with torch.autocast(batch.ids_N.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            hidden = forward_hidden(self.model, batch.ids_N, batch.positions_N, batch.layout)[batch.sources_U]
            table = self.model.get_output_embeddings()
            if table.bias is not None:
                raise ConfigError(f"{type(self.model).__name__} has a biased output layer, which is not supported")
        apply: Any = TokenLogProbs.apply  # torch leaves it untyped
        logps_U, entropy_U = apply(hidden.to(self._dtype), table.weight, batch.targets_U)
        outputs = {}
        for name in heads:
            if name not in self.heads:
                raise ConfigError(f"the policy has no head {name!r}: add_head({name!r}) makes one")
            outputs[name] = self.heads[name](hidden.float())[batch.unique_M]
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
        use_layouts(model)
        _keep_residual_wide(model)
        self.module = PolicyModule(_adapted(model, lora) if lora else model, precision, checkpointing)
        self.module.train()
        self._engine: TransformersEngine | None = None
        self._reference: PolicyModule | None = None
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
            module = nn.Linear(self.model.config.hidden_size, 1)
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

    def predict(self, batch: TreeBatch, heads: Sequence[str] = ()) -> Predictions:
        """Log-probabilities of the weighted tokens and the outputs of `heads`, with gradient where it is on.

        Raises `ConfigError` for token ids of another vocabulary or chat format: to this model they mean other texts.
        """
        if batch.encodings and (foreign := batch.encodings - {encoding_of(self.chat)}):
            raise ConfigError(
                f"token ids of {', '.join(sorted(foreign))} are to be trained on, but the policy's are of "
                f"{encoding_of(self.chat)}: take tokens_of(policy.chat, trajectory), which renders them anew, or play "
                "the episodes with this policy"
            )
        predictions: Predictions = self.module(batch, heads)
        return predictions

    @torch.no_grad()
    def reference(self, batch: TreeBatch) -> Tensor:
        """The reference's log-probabilities (M,): the policy as it was at `freeze_reference`."""
        if self.lora is not None:
            with self.model.disable_adapter():
                return self.predict(batch).logps_M
        if self._reference is None:
            raise ConfigError("no reference: call freeze_reference() before training")
        predictions: Predictions = self._reference(batch)
        return predictions.logps_M

    def freeze_reference(self) -> None:
        """Keeps the present weights as the reference. With LoRA the reference is the base, and nothing is copied."""
        if self.lora is None:
            twin = self._twin()
            use_layouts(twin)
            _keep_residual_wide(twin)
            own = twin.state_dict()
            for name, tensor in self.weights():
                own[name].copy_(tensor)
            self._reference = PolicyModule(twin, self.precision, False)

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
            self._engine = TransformersEngine(self._twin(), parallel=parallel)
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
        merged = {
            f"{name}.base_layer.weight": module
            for name, module in self._bare.named_modules()
            if hasattr(module, "lora_A")
        }
        for name, tensor in self._bare.state_dict().items():
            if "lora_" not in name:
                module = merged.get(name)
                yield name.replace(".base_layer.", "."), tensor if module is None else _merged(tensor, module)

    def save(self, folder: Path) -> None:
        """A folder that `load` and any Hugging Face program read: merged weights, tokenizer, adapters and heads next to
        them."""
        with quiet():
            if self.lora:
                self.model.save_pretrained(folder / "adapter")
                self._save_merged(folder)
            else:
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        if self.heads:
            save_file({name: tensor.cpu() for name, tensor in self.heads.state_dict().items()}, folder / _HEADS)
        write_format(self.chat, folder)

    # ---- the bare model --------------------------------------------------------------------------------------------

    @property
    def _bare(self) -> Any:
        """Without the adapters' wrapper; its linear layers still hold them."""
        return self.model.get_base_model() if self.lora else self.model

    def _twin(self) -> Any:
        """A model of the same kind in the precision of generation, on the same device; its weights are not set yet."""
        base = self._bare
        with torch.device("meta"):
            twin: Any = type(base)(copy.deepcopy(base.config))
        twin = twin.to(_dtype_of(self.precision)).to_empty(device=self.device).requires_grad_(False)
        twin.tie_weights()
        own = dict(base.named_buffers())
        for name, buffer in twin.named_buffers():  # rotary frequencies: in bfloat16 they would be off at each position
            buffer.data = own[name].clone()
        return twin

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
                shapes[name.replace(".base_layer.", ".")] = list(tensor.shape)
                seen.add(tensor.data_ptr())
        _write_tensors(folder / "model.safetensors", shapes, self.weights())


class TokenLogProbs(torch.autograd.Function):
    """log softmax(h W^T)[target] and the entropy of each row, without keeping the logits.

    (U, width), (V, width), (U,) -> (U,), (U,). The vocabulary is many times the width: its logits are computed in
    chunks, and again in backward, where softmax - onehot is formed in place. The products run in the dtype of `hidden`,
    the softmax in float32; no gradient flows through the entropy.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        table = weight.to(hidden.dtype)
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        log_z = torch.empty_like(logps)
        entropy = torch.empty_like(logps)
        for at in range(0, len(hidden), CHUNK):
            rows = slice(at, at + CHUNK)
            logits = (hidden[rows] @ table.T).float()
            log_z[rows] = logits.logsumexp(-1)
            logps[rows] = logits.gather(1, targets[rows, None])[:, 0] - log_z[rows]
            p = torch.exp(logits - log_z[rows, None])
            entropy[rows] = log_z[rows] - torch.linalg.vecdot(p, logits)
        ctx.save_for_backward(hidden, weight, targets, log_z)
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, weight, targets, log_z = ctx.saved_tensors
        table = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if ctx.needs_input_grad[1] else None
        )
        for at in range(0, len(hidden), CHUNK):
            rows = slice(at, at + CHUNK)
            logits = (hidden[rows] @ table.T).float()
            grad = logits.sub_(log_z[rows, None]).exp_().mul_(-grad_logps[rows, None])
            grad.scatter_add_(1, targets[rows, None], grad_logps[rows, None])
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = grad @ table
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _dtype_of(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _layers_of(model: Any) -> list[Any]:
    """The decoder layers, ready to be checkpointed."""
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return layers


def _keep_residual_wide(model: Any) -> None:
    """The residual stream is float32 under autocast, whatever the weights are in."""
    model.get_input_embeddings().register_forward_hook(lambda module, given, out: out.float())


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
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 by a name that it has deprecated
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(model, settings)
