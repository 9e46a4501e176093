"""Stand-ins that need no torch: a chat model that says what it is told, and a tokenizer of bytes for chat formats.

The engine that goes with them is `engines/fake.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from ..trajectories.messages import Action, Message, ToolSpec
from .chat_model import Answer, ChatSettings

__all__ = ["ByteTokenizer", "FakeChatModel"]

Said: TypeAlias = "str | Action | Exception"
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class FakeChatModel:
    """A chat model that answers from a list, one after the other, or with what a function says."""

    version = 0

    def __init__(self, answers: Sequence[Said] | Callable[[Sequence[Message], ChatSettings], Said]) -> None:
        """An exception among the answers is raised. When a list is at its end, its last answer is repeated."""
        self.answers = answers
        self.calls: list[tuple[tuple[Message, ...], tuple[ToolSpec, ...], ChatSettings]] = []
        """What was asked, in order."""
        self.released: list[str] = []

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec], settings: ChatSettings) -> Answer:
        self.calls.append((tuple(messages), tuple(tools), settings))
        if callable(self.answers):
            said = self.answers(messages, settings)
        else:
            said = self.answers[min(len(self.calls), len(self.answers)) - 1]
        if isinstance(said, Exception):
            raise said
        return Answer(Action(said) if isinstance(said, str) else said)

    def release(self, session: str) -> None:
        self.released.append(session)


class ByteTokenizer:
    """ChatML's control tokens, 0 to 2, then a token a byte. The part of transformers' interface that formats use."""

    name_or_path = "bytes"

    def __call__(self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False) -> Any:
        """{"input_ids": ...}. Control tokens that are spelt out count as such, unless they are split."""
        ids: list[int] = []
        for piece in [text] if split_special_tokens else _split(text):
            ids += [_CONTROL.index(piece)] if piece in _CONTROL and not split_special_tokens else _bytes(piece)
        return {"input_ids": ids}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        first = len(_CONTROL)
        raw = b"".join(_CONTROL[id].encode() if id < first else bytes([id - first]) for id in ids)
        return raw.decode("utf-8", "replace")

    def get_added_vocab(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(_CONTROL)}

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self.get_added_vocab().get(token)

    def convert_ids_to_tokens(self, id: int) -> str:
        return self.decode([id])


def _bytes(text: str) -> list[int]:
    return [len(_CONTROL) + byte for byte in text.encode()]


def _split(text: str) -> Iterator[str]:
    yield from re.split(f"({'|'.join(map(re.escape, _CONTROL))})", text)
