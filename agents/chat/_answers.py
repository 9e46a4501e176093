"""From a sampled answer in pieces to an `Action`: what was thought, what was said, what was called.

The pieces are texts and marks. Whether `<tool_call>` is a mark or a text that spells one has been decided before, by
who knows the tokens.

Defines `Piece`, `Pieces`, `Marks`, `read_answer`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...tools.calls import parse_call
from ...trajectories.messages import Action, ToolCall

__all__ = ["Marks", "Piece", "Pieces", "read_answer"]

Piece: TypeAlias = tuple[str, bool]
"""A text, and whether it is a mark."""

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*("?)', re.DOTALL)
"""A JSON string; its group is empty for one that does not end."""
_MOST = 256
"""Marks in the strings of one call. Each broken call is looked through for its end: the work has to have a bound."""


class Pieces:
    """Cuts sampled answers of one tokenizer into texts and marks: marks are tokens where the vocabulary has them."""

    def __init__(
        self, tokenizer: Any, mark_of: Mapping[int, str], spelt: Iterable[str], stop_ids: Collection[int]
    ) -> None:
        """
        Args:
            mark_of: Marks that are tokens, by their ids.
            spelt: Marks that this vocabulary can only spell.
            stop_ids: Each ends an answer.
        """
        self._tokenizer, self._mark_of, self._stop_ids = tokenizer, mark_of, stop_ids
        words = "|".join(map(re.escape, spelt))
        self._spelt = re.compile(f"({words})") if words else None

    def of(self, ids: Sequence[int]) -> Iterator[Piece]:
        """Up to the answer's end."""
        text: list[int] = []
        for id in ids:
            if id in self._stop_ids:
                break
            if (mark := self._mark_of.get(id)) is None:
                text.append(id)
                continue
            yield from self._spelt_in(text)
            yield mark, True
            text = []
        yield from self._spelt_in(text)

    def _spelt_in(self, ids: list[int]) -> Iterator[Piece]:
        text = str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        parts = self._spelt.split(text) if self._spelt else [text]
        yield from ((part, i % 2 == 1) for i, part in enumerate(parts) if part)


@dataclass(frozen=True, slots=True)
class Marks:
    """What a family writes around the parts of an answer."""

    call: tuple[str, str]
    """Around a call."""
    thinking: tuple[str, str]
    """Around what is thought before the answer."""
    result: str
    """Before a tool's result, which is never the model's to write."""

    def all(self) -> tuple[str, ...]:
        return (*self.call, *self.thinking, self.result)


def read_answer(pieces: Sequence[Piece], marks: Marks) -> Action:
    """The answer as an action. Never fails: a call that cannot be parsed has no arguments, and an error.

    - What is between the marks of thinking is thought, or up to the end where it does not close. Calls in it are
      text.
    - A mark that closes thinking which nothing has opened (the prompt did) makes all before it thinking.
    - A mark inside a JSON string of a call is text.
    - A result that the model makes up ends the answer: what follows is not its own to say.
    """
    opens, closes = marks.call
    thinks, ends = marks.thinking
    thought: list[str] = []
    said: list[str] = []
    calls: list[ToolCall] = []
    since, by_then = 0, (0, 0)  # where the last thinking ended, and how much was said and called by then
    own: tuple[int, int] | None = None  # how much was, when the model began to write a result
    i = 0
    while i < len(pieces):
        text, marked = pieces[i]
        i += 1
        if not marked or text == closes:
            said.append(text)
        elif text == opens:
            call, i = _call(pieces, i, closes)
            calls.append(call)
        elif text == thinks:
            if own is not None:
                break
            until = next((k for k in range(i, len(pieces)) if pieces[k] == (ends, True)), len(pieces))
            thought.append(_text(pieces[i:until]))
            i = until + 1
            since, by_then = i, (len(said), len(calls))
        elif text == ends:
            thought.append(_text(pieces[since : i - 1]))
            del said[by_then[0] :], calls[by_then[1] :]
            since, own = i, None
        else:  # a result: not the model's to write, unless it was thought, as the end of thinking may still say
            own = own or (len(said), len(calls))
            said.append(text)
    if own is not None:
        del said[own[0] :], calls[own[1] :]
    content = "".join(said).strip()
    return Action(content, tuple(calls), "\n\n".join(part for part in map(str.strip, thought) if part))


def _call(pieces: Sequence[Piece], start: int, closes: str) -> tuple[ToolCall, int]:
    """The call that begins at `start`, and the index after it.

    It ends at the first mark, and where that would cut a string of valid JSON, at the first mark outside of strings.
    """
    end = next((k for k in range(start, len(pieces)) if pieces[k][1]), len(pieces))
    call = parse_call(_text(pieces[start:end]).strip())
    if call.error and (later := _outside_strings(pieces, start)) > end:
        longer = parse_call(_text(pieces[start:later]).strip())
        if longer.name:  # JSON with a name, also where more is wrong with it
            call, end = longer, later
    raw = _text(pieces[start:end])
    if end < len(pieces) and pieces[end][0] == closes:
        return ToolCall(call.name, call.arguments, raw, error=call.error), end + 1
    return ToolCall(call.name, None, raw, error=call.error or f"no {closes}"), end


def _outside_strings(pieces: Sequence[Piece], start: int) -> int:
    """The first mark from `start` that is outside of JSON strings; -1: none."""
    inside, met = False, 0
    for k in range(start, len(pieces)):
        text, marked = pieces[k]
        if not marked:
            inside = _goes_on(text, inside)
        elif not inside:
            return k
        elif (met := met + 1) > _MOST:
            break
    return -1


def _goes_on(text: str, inside: bool) -> bool:
    """Whether a string is open after `text`, where one was open before it, or not."""
    ended = '"'
    for string in _STRINGS.finditer(f'"{text}' if inside else text):
        ended = string[1]
    return not ended


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(text for text, _ in pieces)
