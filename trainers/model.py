"""`Policy`: a model in training, full or LoRA, with the log-probabilities that every objective is made of."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..agents.agent import LLMAgent
from ..agents.attention import forward_hidden, use_layouts
from ..agents.chat_format import ChatFormat, write_format
from ..agents.engine import context_within
from ..agents.engines.transformers.engine import TransformersEngine, context_limit
from ..agents.loading import chat_for
from ..agents.models import device_named, load_model, load_tokenizer, quiet, resolve
from ..trajectories.errors import ConfigError, MissingExtra
from .batch import TreeBatch
from .settings import Precision

__all__ = ["Lora", "Policy", "Predictions"]

_CHUNK = 256
"""Predictions whose logits are held at once: 256 x 49,152 x 4 bytes = 50 MB."""


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
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is fp32 or bf16, got {precision!r}")
        self.tokenizer = tokenizer
        self.chat = chat
        self.precision = precision
        self.lora = lora
        use_layouts(model)
        self.model = _adapted(model, lora) if lora else model
        self.model.train()
        self._engine: TransformersEngine | None = None
        self._reference: Any = None

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        tool_style: Literal["auto", "schema", "signature"] = "auto",
        precision: Precision = "bf16",
        lora: Lora | None = None,
        device: str | None = None,
    ) -> Policy:
        """From a known model, a folder or a hub name; master weights are float32.

        Args:
            name: As `sparring.agents.models.resolve` reads it.
            tool_style: How tools are shown to the model; auto: as it was trained, else by its size.
            precision: Of the work; see `Precision`.
            lora: Adapters to train in place of all weights.
            device: cpu, cuda, cuda:1; None: a GPU where there is one.
        """
        source = resolve(name)
        model = load_model(source, dtype=torch.float32, device=device_named(device))
        tokenizer = load_tokenizer(source)
        return cls(model, tokenizer, chat_for(tokenizer, source, tool_style), precision=precision, lora=lora)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def predict(self, batch: TreeBatch) -> Predictions:
        """Log-probabilities of the weighted tokens, with gradient where it is on."""
        return self._predict(self.model, batch)

    @torch.no_grad()
    def reference(self, batch: TreeBatch) -> Tensor:
        """The reference's log-probabilities (M,): the policy as it was at `freeze_reference`."""
        if self.lora is not None:
            with self.model.disable_adapter():
                return self._predict(self.model, batch).logps_M
        if self._reference is None:
            raise ConfigError("no reference: call freeze_reference() before training")
        return self._predict(self._reference, batch).logps_M

    def freeze_reference(self) -> None:
        """Keeps the present weights as the reference. With LoRA the reference is the base, and nothing is copied."""
        if self.lora is None:
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            self._reference = copy.deepcopy(self.model).to(dtype).requires_grad_(False)

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
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            base = self.model.get_base_model() if self.lora else self.model
            twin = type(base)(copy.deepcopy(base.config)).to(device=self.device, dtype=dtype)
            self._engine = TransformersEngine(twin.requires_grad_(False), parallel=parallel)
        self._engine.max_context = context
        self._engine.load(self.weights().items())
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

    def weights(self) -> dict[str, Tensor]:
        """Names and tensors as the bare model has them, adapters merged in."""
        if self.lora is None:
            state: dict[str, Tensor] = self.model.state_dict()
            return state
        base = self.model.get_base_model()
        merged = {k: v for k, v in base.state_dict().items() if "lora_" not in k}
        with torch.no_grad():  # PEFT's merge and unmerge would leave rounding in the base, more at each call
            for name, module in base.named_modules():
                if hasattr(module, "lora_A"):
                    key = f"{name}.base_layer.weight"
                    merged[key] = merged[key] + module.get_delta_weight("default")
        return {k.replace(".base_layer.", "."): v for k, v in merged.items()}

    def save(self, folder: Path) -> None:
        """A folder that `load` and any Hugging Face program read: merged weights, tokenizer, adapters next to them."""
        base = self.model.get_base_model() if self.lora else self.model
        bare = base
        if self.lora:
            bare = type(base)(copy.deepcopy(base.config))
            bare.load_state_dict(self.weights(), strict=False)
        with quiet():
            if self.lora:
                self.model.save_pretrained(folder / "adapter")
            bare.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        write_format(self.chat, folder)

    # ---- forward ---------------------------------------------------------------------------------------------------

    def _predict(self, model: Any, batch: TreeBatch) -> Predictions:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = forward_hidden(model, batch.ids_N, batch.positions_N, batch.layout)[batch.sources_U]
            head = model.get_output_embeddings()
            if head.bias is not None:
                raise ConfigError(f"{type(model).__name__} has a biased output layer, which is not supported")
            dtype = torch.bfloat16 if self.precision == "bf16" else hidden.dtype
        apply: Any = TokenLogProbs.apply  # torch leaves it untyped
        logps_U, entropy_U = apply(hidden.to(dtype), head.weight, batch.targets_U)
        return Predictions(logps_U[batch.unique_M], entropy_U[batch.unique_M])


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
        for at in range(0, len(hidden), _CHUNK):
            rows = slice(at, at + _CHUNK)
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
        for at in range(0, len(hidden), _CHUNK):
            rows = slice(at, at + _CHUNK)
            logits = (hidden[rows] @ table.T).float()
            grad = logits.sub_(log_z[rows, None]).exp_().mul_(-grad_logps[rows, None])
            grad.scatter_add_(1, targets[rows, None], grad_logps[rows, None])
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = grad @ table
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


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
