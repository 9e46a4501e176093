"""Qwen 2.5 and 3, and others whose template writes Hermes' calls: JSON in `<tool_call>`."""

from __future__ import annotations

from collections.abc import Sequence

from ...trajectories.messages import Action
from ..chat_format import FORMATS
from ._answers import Marks, Piece, read_answer
from ._template import TemplateFormat

__all__ = ["QwenFormat"]

_MARKS = Marks(("<tool_call>", "</tool_call>"), ("<think>", "</think>"), "<tool_response>")


@FORMATS.register("qwen")
class QwenFormat(TemplateFormat):
    """The template's prompts; calls as `<tool_call>{"name": .., "arguments": {..}}</tool_call>`."""

    name = "qwen"
    known_by = ("<|im_start|>", "<tool_call>", '"arguments')
    not_by = ("<function=", "<arg_key>")
    marks = _MARKS.all()
    ends = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")

    def read(self, pieces: Sequence[Piece]) -> Action:
        return read_answer(pieces, _MARKS)

    def spell(self, raw: str) -> str:
        return f"<tool_call>\n{raw.strip()}\n</tool_call>"
