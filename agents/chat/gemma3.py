"""Gemma 1 to 3: no tokens for tools. They are described in the first message, and calls are blocks of `tool_code`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...trajectories.messages import Message
from ..chat_format import FORMATS
from ._textual import TextualFormat

__all__ = ["Gemma3Format"]

_FIRST = """\
{%- set ns.system = messages | selectattr("role", "equalto", "system") | map(attribute="content") | join("") %}
{%- set ns.out = messages | rejectattr("role", "equalto", "system") | list %}
{%- if not ns.out or ns.out[0]["role"] != "user" %}
{%- set messages = [{"role": "user", "content": ns.system}] + ns.out %}
{%- endif %}{{- "" }}"""
"""What `conversation` does, after the beginning that these formats share."""


@FORMATS.register("gemma3")
class Gemma3Format(TextualFormat):
    """The template's prompts; tools, calls and results as text in them."""

    name = "gemma3"
    known_by = ("<start_of_turn>", "<end_of_turn>", "first_user_prefix")
    prelude = TextualFormat.prelude + _FIRST
    ends = ("<end_of_turn>", "<eos>", "<start_of_turn>")

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """What the system says is in the user's first message, which there has to be."""
        out = super().conversation(messages)
        spoken = [one["role"] for one in out if one["role"] != "system"]
        if spoken[:1] == ["user"]:
            return out
        rest = [one for one in out if one["role"] != "system"]
        said = "\n".join(one["content"] for one in out if one["role"] == "system")
        return [{"role": "user", "content": said}, *rest]
