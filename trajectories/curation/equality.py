"""How far two episodes are the same.

Defines `shared_turns`, `same_turns`, `visible_turn`, `fingerprint`, `call_text`.
"""

from __future__ import annotations

import hashlib
import json

from ..messages import ToolCall
from ..trajectory import Trajectory, Turn

__all__ = ["call_text", "fingerprint", "same_turns", "shared_turns", "visible_turn"]


def shared_turns(a: Trajectory, b: Trajectory) -> int:
    """Number of leading turns that are identical in actions and results; 0 where the prompts or tools differ.

    Compared is what the model wrote and saw: not latencies, and not call ids. Where both turns know their tokens, these
    have to be equal too: the same text can be sampled as other tokens, and then nothing is shared for a trainer.
    """
    if a.prompt != b.prompt or a.tools != b.tools:
        return 0
    n, start_a, start_b = 0, 0, 0
    for turn_a, turn_b in zip(a.turns, b.turns, strict=False):  # up to the end of the shorter
        if visible_turn(turn_a) != visible_turn(turn_b):
            break
        if a.tokens is not None and b.tokens is not None and turn_a.span is not None and turn_b.span is not None:
            if a.tokens.ids[start_a : turn_a.span[1]] != b.tokens.ids[start_b : turn_b.span[1]]:
                break
            start_a, start_b = turn_a.span[1], turn_b.span[1]
        n += 1
    return n


def visible_turn(turn: Turn) -> object:
    """A turn as far as the model wrote or saw it."""
    calls = [(call.name, call.arguments, call.raw) for call in turn.action.tool_calls]
    results = [(result.tool, result.outcome, result.content) for result in turn.results]
    said = [(message.role, message.content) for message in turn.messages]
    return turn.action.shown, calls, results, said


def same_turns(a: Trajectory, b: Trajectory) -> bool:
    return len(a.turns) == len(b.turns) == shared_turns(a, b)


def fingerprint(t: Trajectory) -> bytes:
    """A hash that two episodes share when the model wrote and saw the same in both, also with other ids and rewards."""
    body = repr((t.env, t.prompt, t.tools, [visible_turn(turn) for turn in t.turns]))
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def call_text(call: ToolCall) -> str:
    """A call as one word: name and arguments, or the text that could not be parsed."""
    if call.arguments is None:
        return f"{call.name}?{call.raw}"
    return f"{call.name}{json.dumps(call.arguments, sort_keys=True, default=str)}"
