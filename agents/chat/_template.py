"""A format that renders with the template that comes with the tokenizer: a model sees what it was trained on.

A family is a subclass in a file of its own. It says by which words in a template it is known, and reads its calls.
Nothing of a template is in here: prompts are its render, and what follows an answer is what a render of a small
conversation has behind the answer's end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

from ...trajectories.errors import ConfigError
from ...trajectories.messages import Action, Message, ToolCall, ToolSpec
from ..chat_format import Thinking, ToolStyle
from ._answers import Piece, Pieces

__all__ = ["TemplateFormat"]

_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
"""Around a control token that a text only spells, as transformers has them: its tokenizers encode that as text."""
_ASKED = {"role": "user", "content": "?"}


class TemplateFormat:
    """What all families share: rendering by template, ends, marks."""

    name: ClassVar[str] = "template"
    known_by: ClassVar[tuple[str, ...]] = ()
    """All of them are in the template of a tokenizer of this family."""
    not_by: ClassVar[tuple[str, ...]] = ()
    """None of them does."""
    marks: ClassVar[tuple[str, ...]] = ()
    """What the family writes around the parts of an answer: as tokens where the vocabulary has them, else spelt."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Tokens that end an answer, the usual one first; those that the vocabulary has not are left out."""
    closes: ClassVar[tuple[str, ...]] = ()
    """What a template writes for an end in the past, where that is none of `ends`."""
    fixed: ClassVar[str] = ""
    """Put before the template, here and in what is saved: what would depend on the day, where it is no option."""
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Given to the template: what else would depend on the day."""
    prelude: ClassVar[str] = ""
    """Put before a template that is saved: does there what `whole` and `conversation` do here."""
    tool_style: ToolStyle = "schema"

    def __init__(self, tokenizer: Any, *, tool_style: ToolStyle = "schema", thinking: Thinking = "on") -> None:
        """
        Args:
            tool_style: "schema": these templates know no other way to show tools.
            thinking: "off": the template is told so (`enable_thinking`). "on": it does as it does by itself.

        Raises `ConfigError` for another tool style, for thinking that the template cannot switch off, and for a
        tokenizer without template or without the family's end.
        """
        if tool_style != "schema":
            raise ConfigError(f"the chat format {self.name} shows tools as its template does: take the style schema")
        template = self._own(tokenizer)
        if not template:
            raise ConfigError(f"the tokenizer has no chat template with tools: the format {self.name} needs one")
        if thinking == "off" and "enable_thinking" not in template:
            raise ConfigError("thinking is off, but the chat template cannot switch it off: leave the setting away")
        self.tokenizer = tokenizer
        self.thinking: Thinking = thinking
        self._template = self.fixed + template
        added = tokenizer.get_added_vocab()
        self._ends = tuple(end for end in self.ends if end in added)
        if not self._ends:
            raise ConfigError(f"the tokenizer has none of {', '.join(self.ends)}: the format {self.name} needs one")
        others = (getattr(tokenizer, "eos_token_id", None),)
        self.stop_ids: tuple[int, ...] = tuple(
            dict.fromkeys([*(added[end] for end in self._ends), *(id for id in others if isinstance(id, int))])
        )
        closing = "|".join(map(re.escape, (*self._ends, *self.closes)))
        self._closing = re.compile(f"(?<!{_OPEN})(?:{closing})")
        self._end = re.compile(f"(?<!{_OPEN})(?:{'|'.join(map(re.escape, self._ends))})")  # and not one that is spelt
        self._options = {**self.options, **({"enable_thinking": False} if thinking == "off" else {})}
        mark_of = {added[mark]: mark for mark in self.marks if mark in added}
        self._pieces = Pieces(tokenizer, mark_of, [mark for mark in self.marks if mark not in added], self.stop_ids)
        tokens = tokenizer.added_tokens_decoder.values()
        control = {t.content for t in tokens if t.special or (t.content in template and t.content.strip())}
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @classmethod
    def fits(cls, tokenizer: Any) -> int:
        """2 for a tokenizer whose template is of this family."""
        template = cls._own(tokenizer)
        known = bool(cls.known_by) and all(word in template for word in cls.known_by)
        return 2 if known and not any(word in template for word in cls.not_by) else 0

    def start(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        """The template's own render, with the opening of the next answer."""
        return self._ids(self.whole(messages, tools, opening=True))

    def continuation(self, messages: Sequence[Message], *, stopped: bool = True) -> list[int]:
        """What the template has behind the end of an answer, in a conversation where these messages follow it.

        An answer before results is one that called for them.
        """
        probe = "zqprobe"
        while any(probe in m.content for m in messages):
            probe += "q"
        results = [m for m in messages if m.role == "tool"]
        calls = tuple(
            ToolCall(m.name or "probe", {"probe": probe}, id=m.tool_call_id or f"probe{i}")
            for i, m in enumerate(results)
        )
        said = Message("assistant", "" if calls else probe, calls)
        text = self.whole([Message("user", "?"), said, *messages], (), opening=True)
        at = text.rfind(probe)
        end = self._closing.search(text, max(at, 0))
        if at < 0 or end is None:
            raise ConfigError(f"the chat template shows no end of an answer: the format {self.name} cannot go on in it")
        ids = self._ids(text[end.start() :])
        return ids[1:] if stopped else ids

    def keeps(self, history: Sequence[Message], new: Sequence[Message], tools: Sequence[ToolSpec]) -> bool:
        """Whether the template shows `history`, which ends with an answer, unchanged where `new` follows it.

        Some do not: Qwen 3 leaves out what was thought before the last word of a user. The ids of an episode keep it.
        """
        told = self.whole(history, tools, opening=False)
        ends = [end.start() for end in self._end.finditer(told)]
        return self.whole([*history, *new], tools, opening=True).startswith(told[: ends[-1]] if ends else told)

    def answer(self, action: Action) -> list[int]:
        """An action as the template shows it after an opening, up to the end of the answer.

        Thoughts that the template does not show there (thinking is off) are left out.
        """
        openings = [self._render([_ASKED], (), opening=True)]
        if self.thinking == "off":  # a template may open otherwise than it shows what was said
            openings.append(self._render([_ASKED], (), opening=True, enable_thinking=True))
        shown = [
            self.whole([Message("user", "?"), replace(action, thinking=t).message], (), opening=False)
            for t in dict.fromkeys((action.thinking, "") if self.thinking == "on" else ("",))
        ]
        fitting = ((before, text) for before in openings for text in shown if text.startswith(before))
        before, text = next(fitting, ("", ""))
        if not before:
            raise ConfigError(f"the chat template shows an answer otherwise than it opens one: {shown[0][:80]!r}")
        found = self._end.search(text, len(before))
        end = found.end() if found else len(text)
        opened, whole = self._ids(before), self._ids(text[:end])
        if whole[: len(opened)] == opened:
            return whole[len(opened) :]
        return self._ids(self._ends[0] + text[len(before) : end])[1:]  # its first token would join the opening's last

    def parse(self, ids: Sequence[int]) -> Action:
        """A sampled answer as an action. Never fails: what cannot be parsed is a call without arguments."""
        return self.read(list(self._pieces.of(ids)))

    def template(self) -> str:
        """The tokenizer's own, with what this format gives to it as defaults."""
        return _defaults(self._options) + self.prelude + self._template

    @classmethod
    def _own(cls, tokenizer: Any) -> str:
        """The family's template, without what `template` puts before it; empty: none."""
        template = _template_of(tokenizer)
        for saved in ({**cls.options, "enable_thinking": False}, cls.options):
            template = template.removeprefix(_defaults(saved))
        return template.removeprefix(cls.prelude).removeprefix(cls.fixed)

    def whole(self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, opening: bool) -> str:
        """The template's text of a conversation."""
        return self._render(self.conversation(messages), tools, opening=opening)

    # ---- what a family says ----------------------------------------------------------------------------------------

    def read(self, pieces: Sequence[Piece]) -> Action:
        """An answer in texts and marks as an action."""
        raise NotImplementedError

    def spell(self, raw: str) -> str:
        """A call that could not be parsed, as text."""
        return raw

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as the template takes them: all that the system says first, arguments as objects."""
        system = "\n".join(m.content for m in messages if m.role == "system")
        rest = [self.message(m) for m in messages if m.role != "system"]
        return [{"role": "system", "content": system}, *rest] if system else rest

    def message(self, message: Message) -> dict[str, Any]:
        """One message in the form that templates take."""
        content = message.content
        broken = [self.spell(call.raw) for call in message.tool_calls if call.arguments is None]
        out: dict[str, Any] = {"role": message.role, "content": "\n".join([content] * bool(content) + broken)}
        if message.thinking or "</think>" in content:
            out["reasoning_content"] = message.thinking
        if calls := [call for call in message.tool_calls if call.arguments is not None]:
            out["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        if message.tool_call_id is not None:
            out["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            out["name"] = message.name
        return out

    # ---- text and ids ----------------------------------------------------------------------------------------------

    def _render(
        self, conversation: list[dict[str, Any]], tools: Sequence[ToolSpec], *, opening: bool, **options: Any
    ) -> str:
        """The template's text, in which control tokens that a message only spells are marked as such."""
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                self._guarded(conversation),
                chat_template=self._template,
                tools=self._guarded([tool.openai() for tool in tools]) or None,
                add_generation_prompt=opening,
                tokenize=False,
                **{**self._options, **options},
            )
        except TemplateError as error:
            raise ConfigError(f"the model's chat template refuses the conversation: {error}") from error
        return str(text)

    def _guarded(self, value: Any) -> Any:
        """With a guard in each control token that a text spells (`sanitize_control_tokens` of transformers does the
        same, for ids only), in keys too, and without lone surrogates."""
        if isinstance(value, str):
            clean = value.encode("utf-8", "replace").decode().replace(_OPEN, "").replace(_CLOSE, "")
            return self._control.sub(rf"{_OPEN}\g<0>{_CLOSE}", clean)
        if isinstance(value, dict):
            return {self._guarded(key): self._guarded(inner) for key, inner in value.items()}
        return [self._guarded(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    def _ids(self, text: str) -> list[int]:
        encoded: Any = self.tokenizer(text, add_special_tokens=False, sanitize_control_tokens=True)
        return list(encoded["input_ids"])


def _defaults(options: Mapping[str, Any]) -> str:
    """What is put before a saved template, for who renders it without these options."""
    return "".join(
        f"{{%- if {name} is not defined %}}{{% set {name} = {json.dumps(value)} %}}{{% endif %}}"
        for name, value in options.items()
    )


def _template_of(tokenizer: Any) -> str:
    """The template, the one with tools where there are several; empty: none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template if isinstance(template, str) else ""
