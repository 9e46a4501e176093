"""Stand-ins that need no torch: a chat model that says what it is told, and a tokenizer of bytes for chat formats.

The engine that goes with them is `engines/fake.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
    """ChatML's control tokens, 0 to 2, then a token a byte, then `marks`. The part of transformers' interface that
    formats use."""

    name_or_path = "bytes"

    def __init__(self, marks: Sequence[str] = ()) -> None:
        """`marks`: tokens of their own, such as Qwen's `<tool_call>`; without them they are spelt."""
        first = len(_CONTROL) + 256
        self._added = {token: id for id, token in enumerate(_CONTROL)}
        self._added |= {mark: first + i for i, mark in enumerate(marks)}
        self._texts = {id: token.encode() for token, id in self._added.items()}
        self._split = re.compile(f"({'|'.join(map(re.escape, self._added))})")

    def __call__(self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False) -> Any:
        """{"input_ids": ...}. Tokens that are spelt out count as such, unless they are split."""
        ids: list[int] = []
        for piece in [text] if split_special_tokens else self._split.split(text):
            own = None if split_special_tokens else self._added.get(piece)
            ids += [len(_CONTROL) + byte for byte in piece.encode()] if own is None else [own]
        return {"input_ids": ids}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        raw = b"".join(self._texts[id] if id in self._texts else bytes([id - len(_CONTROL)]) for id in ids)
        return raw.decode("utf-8", "replace")

    def get_added_vocab(self) -> dict[str, int]:
        return dict(self._added)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self._added.get(token)

    def convert_ids_to_tokens(self, id: int) -> str:
        return self.decode([id])
