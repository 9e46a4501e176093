"""Tiny random models with a byte-level tokenizer, for tests and smoke runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...trajectories.errors import UnknownName
from .cache import building, fetched, model_folder, publish
from .known import TINY_MODELS, Family
from .packages import need, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["fetch_tiny", "make_tiny"]


def make_tiny(folder: str | os.PathLike[str], family: Family = "qwen3", seed: int = 0) -> Path:
    """Saves a random model (2 layers, 64 wide, 2 key-value heads) and a byte-level tokenizer to `folder`.

    Control tokens are ChatML's, with SmolLM2's ids: `<|endoftext|>` 0 (pad), `<|im_start|>` 1, `<|im_end|>` 2 (end of
    turn); the 256 bytes follow. As in the real families, Qwen3's tokenizer holds `<tool_call>` and its like as single
    tokens and Llama's spells them. Same family and seed: same weights.
    """
    need("torch", "transformers")
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


def fetch_tiny(name: str) -> Path:
    """Builds the tiny model `name` in the cache, once, and returns its folder."""
    if not fetched(name):
        need("torch", "transformers")
        with building(name) as work:
            if not fetched(name):
                make_tiny(work / "model", TINY_MODELS[name])
                publish(work / "model", name, {"dtype": "float32"})
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
