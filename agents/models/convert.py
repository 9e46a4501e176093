"""From GGUF to a folder that transformers reads."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from ...trajectories.errors import InfrastructureError
from .known import Progress
from .packages import quiet

__all__ = ["convert"]


def convert(gguf: Path, target: Path, report: Progress) -> None:
    """GGUF -> float32 safetensors and tokenizer in `target`; checked by loading them again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report("reading the quantised weights", 0.0)
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    with quiet(), redirect_stderr(StringIO()):  # its progress bar for GGUF cannot be switched off
        quantised: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **source)
    _fix_tokenizer(tokenizer)

    # A model that was loaded from GGUF refuses to be saved, so its weights move into a new one.
    config = type(quantised.config)(**{k: v for k, v in quantised.config.to_dict().items() if k not in _GGUF_ONLY})
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    report("building the model", 0.4)
    model: Any = type(quantised)(config).to(torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.eval()
    tokenizer.model_max_length = config.max_position_embeddings
    report("saving", 0.6)
    target.mkdir()
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        report("checking the copy", 0.8)
        again: Any = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, local_files_only=True).eval()
        tokens = AutoTokenizer.from_pretrained(target, local_files_only=True)
    probe = "<|im_start|>user\nLend 'Dune' to Ada: {\"id\": 1907}<|im_end|>\n"
    ids = torch.tensor([tokens(probe, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        same = torch.equal(quantised.eval()(ids).logits, again(ids).logits)
    if not same or tokens.decode(ids[0]) != probe:
        raise InfrastructureError(
            "the converted model does not behave like the original: this version of transformers reads GGUF "
            "differently; please report it with the output of `pip freeze`"
        )
    report("done", 1.0)


_GGUF_ONLY = ("quantization_config", "model_type", "transformers_version", "architectures", "dtype", "_name_or_path")


def _fix_tokenizer(tokenizer: Any) -> None:
    """What transformers does not take over from a GGUF of the SmolLM2 family.

    The end of a turn served as padding too, which would mask it in training; and digits were not split one by one
    before merging, as they were when the model was trained.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise InfrastructureError(f"the model's tokenizer does not know {token} as one token")
    if tokenizer.eos_token != "<|im_end|>" or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise InfrastructureError("the model's tokenizer does not end its turns with <|im_end|>")
