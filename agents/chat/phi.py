"""Phi 3 and 3.5: no tokens for tools. They are described in the system message, and calls are blocks of `tool_code`."""

from __future__ import annotations

from ..chat_format import FORMATS
from ._textual import TextualFormat

__all__ = ["PhiFormat"]


@FORMATS.register("phi")
class PhiFormat(TextualFormat):
    """The template's prompts; tools, calls and results as text in them."""

    name = "phi"
    known_by = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    not_by = ("tools", "[gMASK]")
    ends = ("<|end|>", "<|endoftext|>", "<|user|>")
