"""Messages to token ids, and token ids to a message: one `ChatFormat` per model family, found by the tokenizer.

A family is one file:

    @FORMATS.register("toy")
    class ToyFormat:                       # name, tool_style, stop_ids; start, continuation, answer, parse
        @staticmethod
        def fits(tokenizer) -> int: ...

Ids that a model sampled are never encoded again. The next prompt is the old ids plus the ids of what is new,
rendered as a continuation. Untrusted text (tool output, arguments, descriptions) is encoded as plain text: whatever
it says, it adds no control token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ..trajectories.errors import ConfigError
from ..trajectories.messages import Action, Message, ToolSpec
from ..trajectories.registry import Registry
from ..trajectories.trajectory import Tokens, Trajectory

__all__ = [
    "FORMATS",
    "ChatFamily",
    "ChatFormat",
    "ToolStyle",
    "format_for",
    "read_format",
    "tokens_of",
    "write_format",
]

ToolStyle = Literal["schema", "signature"]
"""How the system prompt shows tools: as JSON Schema, as models were trained on, or one line each, in a twelfth of the
tokens, for small models that are trained anyway."""

_FILE = "sparring.json"
"""Next to a model's weights: how it was trained to be shown tools, and in which format."""


class ChatFormat(Protocol):
    """Messages to token ids and back, for one tokenizer."""

    name: str
    """As it is registered."""
    tool_style: ToolStyle
    stop_ids: tuple[int, ...]
    """Each ends an answer."""

    def start(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        """A conversation from its beginning, whoever spoke last, and the opening of the next answer."""
        ...

    def continuation(self, messages: Sequence[Message], *, stopped: bool = True) -> list[int]:
        """What follows a sampled answer: its end where it was cut (not `stopped`), the new messages, the opening of the
        next answer."""
        ...

    def answer(self, action: Action) -> list[int]:
        """An action as this model would have sampled it, stop token included. For actions made by code."""
        ...

    def parse(self, ids: Sequence[int]) -> Action:
        """A sampled answer as an action. Never fails: what cannot be parsed is a call without arguments."""
        ...


class ChatFamily(Protocol):
    """What makes a `ChatFormat` for a tokenizer: a class, as a rule."""

    def __call__(self, tokenizer: Any, *, tool_style: ToolStyle = "schema") -> ChatFormat: ...

    def fits(self, tokenizer: Any) -> int:
        """How well the format fits a tokenizer: 0 not at all, 1 it works, 2 it was made for it. The best one is taken;
        of several, the first by name."""
        ...


FORMATS: Registry[ChatFamily] = Registry("chat format", package="sparring.agents.chat", group="sparring.chat_formats")
"""Families by name."""


def format_for(tokenizer: Any, *, tool_style: ToolStyle = "schema", name: str | None = None) -> ChatFormat:
    """The format of this tokenizer's family, or the one called `name`.

    Raises `ConfigError` when no family fits, `UnknownName` for a name that is none.
    """
    if name is not None:
        return FORMATS.get(name)(tokenizer, tool_style=tool_style)
    families = FORMATS.all()
    best = max(families, key=lambda n: (families[n].fits(tokenizer), -list(families).index(n)), default=None)
    if best is None or not families[best].fits(tokenizer):
        raise ConfigError(
            f"no chat format fits the tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}: "
            f"there are {', '.join(families) or 'none'}; take a model of one of these families, or register its format"
        )
    return families[best](tokenizer, tool_style=tool_style)


def tokens_of(
    chat: ChatFormat, trajectory: Trajectory, parent: Trajectory | None = None
) -> tuple[Tokens, tuple[tuple[int, int], ...]]:
    """A trajectory as tokens, and each turn's span. Sampled ids as they were sampled; else rendered from messages.

    `parent`: the sampled episode that it was forked from, whose ids the shared turns keep.
    Raises `ConfigError` for a trajectory without turns.
    """
    if trajectory.tokens is not None:
        return trajectory.tokens, tuple(turn.span or (0, 0) for turn in trajectory.turns)
    if not trajectory.turns:
        raise ConfigError(f"trajectory {trajectory.id} has no turns to train on")
    ids = chat.start(trajectory.prompt, trajectory.tools)
    sampled = [0] * len(ids)
    spans: list[tuple[int, int]] = []
    kept = trajectory.forked_from.turn if parent and parent.tokens and trajectory.forked_from else 0
    if parent is not None and parent.tokens is not None and kept:
        spans = [turn.span or (0, 0) for turn in parent.turns[:kept]]
        following = parent.turns[kept].span if kept < len(parent.turns) else None
        start = following[0] if following else len(parent.tokens)
        ids, sampled = list(parent.tokens.ids[:start]), list(parent.tokens.sampled[:start])
    for i, turn in enumerate(trajectory.turns):
        if i < kept:
            continue
        answer = chat.answer(turn.action)
        spans.append((len(ids), len(ids) + len(answer)))
        ids += answer
        sampled += [1] * len(answer)
        if i + 1 < len(trajectory.turns):
            more = chat.continuation(turn.observation)
            ids += more
            sampled += [0] * len(more)
    return Tokens(tuple(ids), tuple(sampled), (0.0,) * len(ids)), tuple(spans)


def write_format(chat: ChatFormat, folder: Path) -> None:
    """Keeps next to a model's weights how it was trained to be shown messages and tools."""
    (folder / _FILE).write_text(json.dumps({"format": chat.name, "tool_style": chat.tool_style}))


def read_format(folder: Path) -> tuple[str | None, ToolStyle | None]:
    """(name of the format, tool style) that `write_format` kept in `folder`; None for what is not there.

    Raises `ConfigError` for a tool style that does not exist.
    """
    try:
        kept = json.loads((folder / _FILE).read_bytes())
    except (OSError, ValueError):
        return None, None
    if not isinstance(kept, dict):
        return None, None
    style = kept.get("tool_style")
    if style is not None and style not in get_args(ToolStyle):
        raise ConfigError(
            f"{folder / _FILE}: tool_style is one of {', '.join(get_args(ToolStyle))}, got {style!r}: correct the file"
        )
    return kept.get("format"), style
