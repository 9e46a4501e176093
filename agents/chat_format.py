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

import hashlib
import inspect
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from weakref import WeakKeyDictionary

from ..trajectories.errors import ConfigError
from ..trajectories.messages import Action, Message, ToolCall, ToolSpec
from ..trajectories.registry import Registry
from ..trajectories.trajectory import Tokens, Trajectory

__all__ = [
    "FORMATS",
    "ChatFamily",
    "ChatFormat",
    "Thinking",
    "ToolStyle",
    "edited",
    "encoding_in",
    "encoding_of",
    "format_for",
    "owns",
    "read_format",
    "read_thinking",
    "sampled_tokens",
    "save_tokenizer",
    "tokens_of",
    "write_format",
]

ToolStyle = Literal["schema", "signature"]
"""How the system prompt shows tools: as JSON Schema, as models were trained on, or one line each, in a twelfth of the
tokens, for small models that are trained anyway."""

Thinking = Literal["on", "off"]
"""Whether a model may think before it answers. "on": it does as it was trained; "off": it is kept from it."""

_FILE = "sparring.json"
"""Next to a model's weights: how it was trained to be shown tools, and in which format."""


class ChatFormat(Protocol):
    """Messages to token ids and back, for one tokenizer. One that keeps the tokenizer does so as `tokenizer`. One that
    has a `template()` says there, in Jinja, what renders its prompts in any program that loads a saved model."""

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
        """A sampled answer as an action. Never fails: what cannot be parsed is a call without arguments. A call that is
        drafted in thinking is none, and nothing after an end token counts."""
        ...


class ChatFamily(Protocol):
    """What makes a `ChatFormat` for a tokenizer: a class, as a rule. One that can switch thinking off takes `thinking`
    too, and has it as an attribute."""

    def __call__(self, tokenizer: Any, *, tool_style: ToolStyle = "schema") -> ChatFormat: ...

    def fits(self, tokenizer: Any) -> int:
        """How well the format fits a tokenizer: 0 not at all, 1 it works, 2 it was made for it. The best one is taken;
        of several, the first by name."""
        ...


FORMATS: Registry[ChatFamily] = Registry("chat format", package="sparring.agents.chat", group="sparring.chat_formats")
"""Families by name."""


def format_for(
    tokenizer: Any, *, tool_style: ToolStyle = "schema", name: str | None = None, thinking: Thinking = "on"
) -> ChatFormat:
    """The format of this tokenizer's family, or the one called `name`.

    Raises `ConfigError` when no family fits or thinking cannot be switched off, `UnknownName` for a name that is none.
    """
    if name is not None:
        return _made(name, FORMATS.get(name), tokenizer, tool_style, thinking)
    families = FORMATS.all()
    if tool_style != "schema":  # a template shows schemas only
        compact = {n: family for n, family in families.items() if not hasattr(family, "known_by")}
        families = compact if any(family.fits(tokenizer) for family in compact.values()) else families
        tool_style = tool_style if families is compact else "schema"
    best = max(families, key=lambda n: (families[n].fits(tokenizer), -list(families).index(n)), default=None)
    if best is None or not families[best].fits(tokenizer):
        raise ConfigError(
            f"no chat format fits the tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}: "
            f"there are {', '.join(families) or 'none'}; take a model of one of these families, or register its format"
        )
    return _made(best, families[best], tokenizer, tool_style, thinking)


def _made(name: str, family: ChatFamily, tokenizer: Any, tool_style: ToolStyle, thinking: Thinking) -> ChatFormat:
    if thinking == "on":
        return family(tokenizer, tool_style=tool_style)
    if "thinking" not in inspect.signature(family).parameters:
        raise ConfigError(f"the chat format {name} cannot switch thinking off: leave the setting away")
    return family(tokenizer, tool_style=tool_style, thinking=thinking)  # type: ignore[call-arg]  # it has the parameter


# ---- whose ids -------------------------------------------------------------------------------------------------------

_encodings: WeakKeyDictionary[ChatFormat, str] = WeakKeyDictionary()


def encoding_of(chat: ChatFormat) -> str:
    """A name for the way from text to ids: `hermes/signature/1f0c...`. Two formats of one encoding give the same ids
    for the same messages, and an id is the same token in both.

    It holds a hash of the vocabulary and of a conversation as the format renders it: tools, calls, results, thinking.
    """
    with suppress(TypeError):  # a format that has no hash is asked each time
        if (known := _encodings.get(chat)) is not None:
            return known
    vocabulary: dict[str, int] = getattr(getattr(chat, "tokenizer", None), "get_vocab", dict)()
    digest = hashlib.blake2b(digest_size=8)
    for token, id in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{id} {token}\n".encode("utf-8", "surrogatepass"))
    system, user = Message("system", "Be brief, naïve 名 🙂."), Message("user", "Move 1907 to B-12,\n  then stop!")
    call = ToolCall("move", {"item": 'a"b', "to": [1.5, None, True]})
    rendered = (
        chat.start([system, user], [_PROBE]),
        chat.answer(Action("I move it.", (call,))),
        chat.continuation([Message("tool", '{"ok": false}', name="move"), user], stopped=False),
        chat.answer(Action("Done.", thinking="It is moved.")),
    )
    digest.update(repr(rendered).encode())
    name = f"{chat.name}/{chat.tool_style}/{digest.hexdigest()}"
    with suppress(TypeError):
        _encodings[chat] = name
    return name


_PROBE = ToolSpec(
    "move",
    "Move an item.",
    {
        "type": "object",
        "properties": {"item": {"type": "string"}, "to": {"type": "array", "description": "Where to."}},
        "required": ["item"],
    },
)


def owns(chat: ChatFormat, trajectory: Trajectory) -> bool:
    """Whether the recorded ids are this format's own: of its vocabulary, rendered as it renders.

    A record that does not name its encoding (an old one, an imported one) is believed where its prompt is, id by id,
    what this format makes of the messages.
    """
    tokens = trajectory.tokens
    if tokens is None:
        return False
    if tokens.encoding:
        return tokens.encoding == encoding_of(chat)
    first = trajectory.turns[0].span if trajectory.turns else None
    prompt = chat.start(trajectory.prompt, trajectory.tools)
    return list(tokens.ids[: first[0] if first else None]) == prompt


def edited(chat: ChatFormat, trajectory: Trajectory) -> bool:
    """Whether an answer says something else than its recorded ids, which are this format's own: somebody has written
    the message anew, and left the ids."""
    if trajectory.tokens is None:
        return False
    ids = trajectory.tokens.ids
    spans = ((turn.action, turn.span) for turn in trajectory.turns)
    return any(_said(chat.parse(ids[span[0] : span[1]])) != _said(action) for action, span in spans if span is not None)


def _said(action: Action) -> object:
    """What an answer says, without what a record adds to it."""
    calls = [(call.name, call.arguments) for call in action.tool_calls]
    return action.content.strip(), action.thinking.strip(), calls


def encoding_in(trajectory: Trajectory) -> str:
    """The encoding of the recorded ids, in words."""
    named = trajectory.tokens.encoding if trajectory.tokens is not None else ""
    return named or "an encoding that the record does not name"


def sampled_tokens(chat: ChatFormat, trajectory: Trajectory) -> Tokens:
    """The ids that were sampled, with the log-probabilities that they had then: what RL learns from.

    Raises `ConfigError` where there are none, and where they are not this format's own.
    """
    if trajectory.tokens is None:
        raise ConfigError(f"trajectory {trajectory.id} has no sampled tokens: RL needs a model's own episodes")
    if not owns(chat, trajectory):
        raise ConfigError(
            f"the sampled tokens of trajectory {trajectory.id} are of {encoding_in(trajectory)}, the policy's are of "
            f"{encoding_of(chat)}: RL needs the log-probabilities of the policy's own tokens, so play the episodes "
            "anew with this policy"
        )
    return trajectory.tokens


def tokens_of(
    chat: ChatFormat, trajectory: Trajectory, parent: Trajectory | None = None
) -> tuple[Tokens, tuple[tuple[int, int], ...]]:
    """A trajectory as tokens, and each turn's span. Sampled ids as they were sampled, where they are this format's own
    and say what the messages say; else rendered from messages, with log-probabilities of 0.

    `parent`: the sampled episode that it was forked from, whose ids the shared turns keep.
    Raises `ConfigError` for a trajectory without turns.
    """
    own = [turn.span for turn in trajectory.turns if turn.span is not None]
    whole = trajectory.tokens is not None and len(own) == len(trajectory.turns)
    if trajectory.tokens is not None and whole and owns(chat, trajectory) and not edited(chat, trajectory):
        return trajectory.tokens, tuple(own)
    if not trajectory.turns:
        raise ConfigError(f"trajectory {trajectory.id} has no turns to train on")
    ids = chat.start(trajectory.prompt, trajectory.tools)
    sampled = [0] * len(ids)
    spans: list[tuple[int, int]] = []
    kept = trajectory.forked_from.turn if trajectory.forked_from and parent and owns(chat, parent) else 0
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
    return Tokens(tuple(ids), tuple(sampled), (0.0,) * len(ids), encoding_of(chat)), tuple(spans)


# ---- kept next to the weights ----------------------------------------------------------------------------------------


def save_tokenizer(chat: ChatFormat, tokenizer: Any, folder: Path) -> None:
    """Saves the tokenizer of a model that was trained in `chat`, with a chat template that renders this format: what
    was trained is what another program serves."""
    template = chat.template() if hasattr(chat, "template") else tokenizer.chat_template
    own, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = own


def write_format(chat: ChatFormat, folder: Path) -> None:
    """Keeps next to a model's weights how it was trained to be shown messages and tools, and whether it may think."""
    kept = {"format": chat.name, "tool_style": chat.tool_style}
    if (thinking := getattr(chat, "thinking", "on")) != "on":
        kept["thinking"] = thinking
    (folder / _FILE).write_text(json.dumps(kept))


def read_format(folder: Path) -> tuple[str | None, ToolStyle | None]:
    """(name of the format, tool style) that `write_format` kept in `folder`; None for what is not there.

    Raises `ConfigError` for a tool style that does not exist.
    """
    kept = _kept(folder)
    return kept.get("format"), _one_of(folder, kept, "tool_style", ToolStyle)


def read_thinking(folder: Path) -> Thinking | None:
    """What `write_format` kept of thinking; None: nothing.

    Raises `ConfigError` for what is neither on nor off.
    """
    thinking: Thinking | None = _one_of(folder, _kept(folder), "thinking", Thinking)
    return thinking


def _kept(folder: Path) -> dict[str, Any]:
    try:
        kept = json.loads((folder / _FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _one_of(folder: Path, kept: dict[str, Any], name: str, choices: Any) -> Any:
    value = kept.get(name)
    if value is not None and value not in get_args(choices):
        raise ConfigError(
            f"{folder / _FILE}: {name} is one of {', '.join(get_args(choices))}, got {value!r}: correct the file"
        )
    return value
