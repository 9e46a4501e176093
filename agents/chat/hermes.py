"""ChatML with Hermes' tool calls. Where `<tool_call>` is a token of its own, untrusted text adds none of these."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ...tools.calls import parse_call
from ...trajectories.errors import ConfigError
from ...trajectories.messages import Action, Json, Message, ToolCall, ToolSpec
from ..chat_format import FORMATS, ToolStyle

__all__ = ["HermesFormat"]

_START, _END = "<|im_start|>", "<|im_end|>"
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_CALLS = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@FORMATS.register("hermes")
class HermesFormat:
    """ChatML with Hermes' tool calls: `<tool_call>{"name": .., "arguments": {..}}</tool_call>` out, role `tool` back.

    Fits Qwen 2.5 and 3, Hermes, SmolLM2 and every model whose tokenizer has `<|im_start|>` and `<|im_end|>`.
    """

    name = "hermes"

    def __init__(self, tokenizer: Any, *, tool_style: ToolStyle = "schema") -> None:
        """
        Args:
            tool_style: How the system prompt shows tools: "schema" (JSON Schema, as these models were trained on), or
                "signature" (one line each, a twelfth of the tokens, for small models that are trained anyway).
        """
        self.tokenizer = tokenizer
        self.tool_style: ToolStyle = tool_style
        self.start_id = self._control(_START)
        self.end_id = self._control(_END)
        self.stop_ids: tuple[int, ...] = (self.end_id,)
        # Tokens that text must not become, of two characters or more; the mere runs of spaces among them are harmless.
        own = [t for t in tokenizer.get_added_vocab() if len(t) > 1 and t.strip()]
        self._reserved = re.compile("|".join(f"(?={re.escape(t)})" for t in own)) if own else None
        marks = {mark: id for mark, id in tokenizer.get_added_vocab().items() if mark in (_OPEN, _CLOSE)}
        self._marks = marks if len(marks) == 2 else {}
        self._newline = self._text("\n")
        # One cache per format: the same system prompt, roles and results come again in every episode.
        self._encode = lru_cache(maxsize=65536)(self._text)

    @staticmethod
    def fits(tokenizer: Any) -> int:
        """1 for every tokenizer that has ChatML's two marks as tokens."""
        return int(all(_id_of(tokenizer, mark) is not None for mark in (_START, _END)))

    def start(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        """The system message with the tools, the other messages, and the opening of the answer."""
        system = "\n".join(m.content for m in messages if m.role == "system")
        ids = self._block("system", self._system(system, tools))
        for message in messages:
            if message.role != "system":
                ids += self._block(message.role, _content(message))
        return ids + self._opening()

    def continuation(self, messages: Sequence[Message], *, stopped: bool = True) -> list[int]:
        """What follows a sampled answer: its end where it was cut, the new messages, the opening of the next answer."""
        ids = [] if stopped else [self.end_id]
        ids += self._newline
        for message in messages:
            ids += self._block(message.role, _content(message))
        return ids + self._opening()

    def answer(self, action: Action) -> list[int]:
        """An action as this model would have sampled it, stop token included. For actions made by code."""
        return [*self._marked(_content(action.message)), self.end_id]

    def parse(self, ids: Sequence[int]) -> Action:
        """A sampled answer as an action. Never fails: what cannot be parsed is a call without arguments."""
        kept = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        text = str(self.tokenizer.decode(list(kept), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        calls: list[ToolCall] = []
        for match in _CALLS.finditer(text):
            call = parse_call(match.group(1).strip())
            closed = match.group(0).endswith(_CLOSE)
            if not closed:
                call = ToolCall(call.name, None, call.raw, error=call.error or f"no {_CLOSE}")
            calls.append(ToolCall(call.name, call.arguments, match.group(1), error=call.error))
        content = _CALLS.sub("", text).strip() if calls else text.strip()
        return Action(content, tuple(calls))

    # ---- pieces ----------------------------------------------------------------------------------------------------

    def _system(self, system: str, tools: Sequence[ToolSpec]) -> list[str]:
        if not tools:
            return [system]
        if self.tool_style == "signature":
            listed = "\n".join(_signature(t) for t in tools)
            about = "\n".join(part for part in (system, f"Tools:\n{listed}", "Call: ") if part)
            return [about, _OPEN, '{"name": tool, "arguments": {...}}', _CLOSE, ""]
        listed = "\n".join(json.dumps(t.openai(), ensure_ascii=False) for t in tools)
        about = f"# Tools\n\nYou may call these functions:\n<tools>\n{listed}\n</tools>"
        how = "For each function call, return a JSON object with the function's name and arguments within "
        about = "\n\n".join(part for part in (system, about, how) if part)
        form = '\n{"name": <name>, "arguments": <arguments>}\n'
        return [about, _OPEN, "", _CLOSE, " tags:\n", _OPEN, form, _CLOSE, ""]

    def _block(self, role: str, pieces: list[str]) -> list[int]:
        return [self.start_id, *self._marked([f"{role}\n{pieces[0]}", *pieces[1:]]), self.end_id, *self._newline]

    def _opening(self) -> list[int]:
        return [self.start_id, *self._encode("assistant\n")]

    def _marked(self, pieces: list[str]) -> list[int]:
        """Text, mark, text, mark, ..., text: the marks as the tokens that they are in this vocabulary, if any."""
        if not self._marks:
            return self._encode("".join(pieces))
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            ids += [self._marks[piece]] if i % 2 else self._encode(piece)
        return ids

    def _text(self, text: str) -> list[int]:
        """Plain text, control tokens spelt out in it included, as ids that are no control tokens."""
        clean = text.encode("utf-8", "replace").decode()
        # `split_special_tokens` does not reach added tokens that are not marked as special (Qwen's <tool_call>), so all
        # are cut in two before the tokenizer sees them.
        cuts = [match.start() + 1 for match in self._reserved.finditer(clean)] if self._reserved else []
        ids: list[int] = []
        for start, end in zip([0, *cuts], [*cuts, len(clean)], strict=True):
            encoded: Any = self.tokenizer(clean[start:end], add_special_tokens=False, split_special_tokens=True)
            ids += encoded["input_ids"]
        return ids

    def _control(self, token: str) -> int:
        id = _id_of(self.tokenizer, token)
        if id is None:
            raise ConfigError(
                f"the tokenizer has no {token}: this format needs a ChatML model (Qwen, Hermes, SmolLM2 ...)"
            )
        return id


def _id_of(tokenizer: Any, token: str) -> int | None:
    """Of a token of the vocabulary. Any object may be asked: a tokenizer of another kind has none."""
    if not (hasattr(tokenizer, "convert_tokens_to_ids") and hasattr(tokenizer, "convert_ids_to_tokens")):
        return None
    id = tokenizer.convert_tokens_to_ids(token)
    return id if isinstance(id, int) and tokenizer.convert_ids_to_tokens(id) == token else None


def _content(message: Message) -> list[str]:
    """Text, mark, text, mark, ..., text."""
    pieces = [message.content]
    for i, call in enumerate(message.tool_calls):
        pieces[-1] += "\n" if i or message.content else ""
        pieces += [_OPEN, f"\n{call.raw.strip() or _dump(call)}\n", _CLOSE, ""]
    return pieces


def _dump(call: ToolCall) -> str:
    text = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    for mark in (_OPEN, _CLOSE):  # inside a string, the only place where it can stand: it would end the call
        text = text.replace(mark, f"\\u003c{mark[1:]}")
    return text


def _signature(tool: ToolSpec) -> str:
    """`find_order(customer, item)`; types only where they are not strings, `?` where a default exists."""
    required = tool.parameters.get("required", [])
    parts = []
    for name, schema in tool.parameters.get("properties", {}).items():
        kind = _kind(schema)
        parts.append(name + ("" if name in required else "?") + (f": {kind}" if kind != "string" else ""))
    return f"{tool.name}({', '.join(parts)})"


def _kind(schema: dict[str, Json]) -> str:
    if "enum" in schema:
        return "|".join(str(v) for v in schema["enum"])
    if "anyOf" in schema:
        return "|".join(_kind(s) for s in schema["anyOf"] if s.get("type") != "null")
    return str(schema.get("type", "any"))
