"""ChatML with Hermes' tool calls. Where a mark such as `<tool_call>` is a token of its own, that token is the mark, and
text that spells it is text: untrusted text adds no mark, and none is read out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ...trajectories.errors import ConfigError
from ...trajectories.messages import Action, Json, Message, ToolCall, ToolSpec
from ..chat_format import FORMATS, Thinking, ToolStyle
from ._answers import Marks, Pieces, read_answer

__all__ = ["HermesFormat"]

_START, _END = "<|im_start|>", "<|im_end|>"
_OTHER_ENDS = ("<|endoftext|>",)
"""Ends of the families besides `<|im_end|>`, where they are tokens. A base model ends with these."""
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_THINK, _UNTHINK = "<think>", "</think>"
_RESULT = "<tool_response>"
_MARKS = Marks((_OPEN, _CLOSE), (_THINK, _UNTHINK), _RESULT)


@FORMATS.register("hermes")
class HermesFormat:
    """ChatML with Hermes' tool calls: `<tool_call>{"name": .., "arguments": {..}}</tool_call>` out, role `tool` back.

    Fits Qwen 2.5 and 3, Hermes, SmolLM2 and every model whose tokenizer has `<|im_start|>` and `<|im_end|>`.
    """

    name = "hermes"

    def __init__(self, tokenizer: Any, *, tool_style: ToolStyle = "schema", thinking: Thinking = "on") -> None:
        """
        Args:
            tool_style: How the system prompt shows tools: "schema" (JSON Schema, as these models were trained on), or
                "signature" (one line each, a twelfth of the tokens, for small models that are trained anyway).
            thinking: "off": each answer begins with an empty `<think>` block, as Qwen 3 is told not to think. "on": a
                model thinks or does not, as it was trained.

        Raises `ConfigError` for a tokenizer without ChatML's control tokens, and for thinking that is switched off
        where the tokenizer has no `<think>`.
        """
        self.tokenizer = tokenizer
        self.tool_style: ToolStyle = tool_style
        self.thinking: Thinking = thinking
        self.start_id = self._control(_START)
        self.end_id = self._control(_END)
        others = (getattr(tokenizer, "eos_token_id", None), *(_id_of(tokenizer, end) for end in _OTHER_ENDS))
        # A model that begins somebody else's turn has ended its own.
        ends = (self.end_id, *(id for id in others if isinstance(id, int)), self.start_id)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        # Tokens that text must not become, of two characters or more; the mere runs of spaces among them are harmless.
        own = [t for t in tokenizer.get_added_vocab() if len(t) > 1 and t.strip()]
        self._reserved = re.compile("|".join(f"(?={re.escape(t)})" for t in own)) if own else None
        added = tokenizer.get_added_vocab()
        groups = (_MARKS.call, _MARKS.thinking, (_MARKS.result,))
        self._marks = {mark: added[mark] for group in groups if all(m in added for m in group) for mark in group}
        mark_of = {id: mark for mark, id in self._marks.items()}
        spelt = [mark for mark in _MARKS.all() if mark not in self._marks]
        self._pieces = Pieces(tokenizer, mark_of, spelt, self.stop_ids)
        if thinking == "off" and _THINK not in self._marks:
            raise ConfigError(
                f"thinking is off, but the tokenizer has no {_THINK}: this model has no thinking to switch off; leave "
                "the setting away"
            )
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
        return read_answer(list(self._pieces.of(ids)), _MARKS)

    def template(self) -> str:
        """What renders this format's prompts as a chat template."""
        style = _SIGNATURES if self.tool_style == "signature" else _SCHEMAS
        nothing = rf"{_THINK}\n\n{_UNTHINK}\n\n" if self.thinking == "off" else ""
        return _TEMPLATE.replace("STYLE", style).replace("NOTHING", nothing)

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
        nothing = ["", _THINK, "\n\n", _UNTHINK, "\n\n"] if self.thinking == "off" else []
        return [self.start_id, *self._encode("assistant\n"), *self._marked(nothing)]

    def _marked(self, pieces: list[str]) -> list[int]:
        """Text, mark, text, mark, ..., text: the marks as the tokens that they are in this vocabulary, else as text."""
        ids: list[int] = []
        text = ""
        for i, piece in enumerate(pieces):
            if i % 2 and piece in self._marks:
                ids += [*self._encode(text), self._marks[piece]]
                text = ""
            else:
                text += piece
        return [*ids, *self._encode(text)]

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
    if message.thinking:
        pieces = ["", _THINK, f"\n{message.thinking}\n", _UNTHINK, f"\n\n{message.content}"]
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


# ---- the same as a chat template, for other programs that serve a saved model ---------------------------------------

_SIGNATURES = """\
{%- macro kind(schema) %}
{%- if "enum" in schema %}{{ schema["enum"] | map("string") | join("|") }}
{%- elif "anyOf" in schema %}
{%- for one in schema["anyOf"] if one["type"] != "null" %}{{ kind(one) }}{% if not loop.last %}|{% endif %}{% endfor %}
{%- else %}{{ schema["type"] if "type" in schema else "any" }}
{%- endif %}
{%- endmacro %}
{%- macro shown(tools) %}
{%- for tool in tools %}{% set tool = tool["function"] or tool %}{% set schema = tool["parameters"] or {} %}
{{- "\\n" + tool["name"] + "(" }}
{%- for name, value in (schema["properties"] or {}) | items %}
{{- name + ("" if name in (schema["required"] or []) else "?") }}
{%- set type = kind(value) %}{% if type != "string" %}{{ ": " + type }}{% endif %}{% if not loop.last %}, {% endif %}
{%- endfor %}{{ ")" }}
{%- endfor %}
{%- endmacro %}
{%- macro about(system, tools) %}
{{- (system + "\\n" if system else "") + "Tools:" + shown(tools) + "\\nCall: <tool_call>" }}
{{- '{"name": tool, "arguments": {...}}</tool_call>' }}
{%- endmacro %}
"""
_SCHEMAS = """\
{%- macro about(system, tools) %}
{{- (system + "\\n\\n" if system else "") + "# Tools\\n\\nYou may call these functions:\\n<tools>" }}
{%- for tool in tools %}{{ "\\n" + tool | tojson }}{% endfor %}
{{- "\\n</tools>\\n\\nFor each function call, return a JSON object with the function's name and arguments within " }}
{{- "<tool_call></tool_call> tags:\\n<tool_call>\\n" }}
{{- '{"name": <name>, "arguments": <arguments>}\\n</tool_call>' }}
{%- endmacro %}
"""
_TEMPLATE = """\
STYLE
{%- macro written(function) %}
{%- set given = function["arguments"] %}
{%- set text = given if given is string else given | tojson %}
{{- '{"name": ' + function["name"] | tojson + ', "arguments": ' + text + '}' }}
{%- endmacro %}
{%- set first = namespace(text="", any=false) %}
{%- for message in messages if message["role"] == "system" %}
{%- set first.text = first.text + ("\\n" if first.any else "") + message["content"] %}{% set first.any = true %}
{%- endfor %}
{{- "<|im_start|>system\\n" + (about(first.text, tools) if tools else first.text) + "<|im_end|>\\n" }}
{%- for message in messages if message["role"] != "system" %}
{{- "<|im_start|>" + message["role"] + "\\n" }}
{%- set thought = message["reasoning_content"] or message["reasoning"] or message["thinking"] %}
{%- if thought and message["role"] == "assistant" %}{{ "<think>\\n" + thought + "\\n</think>\\n\\n" }}{% endif %}
{%- set content = message["content"] or "" %}
{{- content }}
{%- for one in message["tool_calls"] or [] %}
{{- ("\\n" if content or not loop.first else "") + "<tool_call>\\n" }}
{{- written(one["function"] or one) | replace("<tool_call>", "\\\\u003ctool_call>")
    | replace("</tool_call>", "\\\\u003c/tool_call>") + "\\n</tool_call>" }}
{%- endfor %}
{{- "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\nNOTHING" }}{% endif %}"""
