"""Hostile answers by the hundred thousand: what a model might sample, and what may be read out of it.

Turns of thinking, drafts, calls, made-up turns of others and strings that hold marks, whose calls are known by how they
are made; and soups of marks, controls and bytes, of which only is known what no answer may do. Both kinds of
vocabulary: with marks that are tokens, and with marks that are spelt. Prints how many were tried, and every mistake.

    python benchmarks/answers.py [answers, default 100000] [seed]
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence

from sparring.agents import HermesFormat
from sparring.agents.fakes import ByteTokenizer

MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
OPEN, CLOSE, RESULT, _, THINK, UNTHINK = MARKS
WORDS = ("", "Hm. ", "I look.\n", "it's 5 > 3, ", "日本 🙂 ", "No: ", "\n\n")
VALUES = ("x", "日本", '\\"', "\\\\", "\\u003ctool_call>", "<|im_end", *MARKS)
ENDS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>user\n", "<|im_start|>tool\n")
BITS = (*MARKS, *ENDS, '{"name": "f", "arguments": {', '{"name": "f"}', '"', "\\", "}}", "NaN", '"args": {"a": 1}', " ")


def made(name: str, rng: random.Random) -> str:
    """A call that is right, with a string that may hold anything."""
    value = "".join(rng.choice(VALUES) for _ in range(rng.randrange(4)))
    return f'{OPEN}\n{{"name": "{name}", "arguments": {{"word": "{value}"}}}}\n{CLOSE}'


def thought(rng: random.Random) -> str:
    """Words and drafts, some of them cut. A string in it that holds the end of thinking would end it."""
    text = rng.choice(WORDS)
    for _ in range(rng.randrange(3)):
        draft = f'{OPEN}\n{{"name": "draft", "arguments": {{"order": {rng.randrange(9)}}}}}\n{CLOSE}'
        text += draft[: rng.choice([len(draft), rng.randrange(len(draft))])] + rng.choice(WORDS)
    return text


def turn(rng: random.Random) -> tuple[str, list[str]]:
    """A sampled turn, and the names of its calls in order. Drafts are called `draft`, made-up calls `other`."""
    calls: list[str] = []
    text = ""
    if rng.random() < 0.5:
        text += rng.choice([f"{THINK}\n", ""]) + thought(rng) + UNTHINK  # opened by the model, or by its prompt
    for _ in range(rng.randrange(4)):
        text += rng.choice(WORDS)
        if rng.random() < 0.6:
            calls.append(f"call{len(calls)}")
            text += made(calls[-1], rng)
        else:
            text += THINK + thought(rng) + UNTHINK
    if rng.random() < 0.4:
        text += rng.choice([*ENDS, RESULT]) + made("other", rng) + rng.choice(WORDS)
    elif rng.random() < 0.4:
        text += THINK + thought(rng)  # cut in the middle of it
    return text, calls


def soup(chat: HermesFormat, rng: random.Random) -> list[int]:
    """Ids in no order: marks, controls, pieces of calls, bytes that are no text."""
    ids: list[int] = []
    for _ in range(rng.randrange(14)):
        ids += chat.tokenizer(rng.choice(BITS))["input_ids"] if rng.random() < 0.8 else [rng.randrange(3, 259)]
    return ids


def mistake(chat: HermesFormat, ids: Sequence[int], calls: list[str] | None) -> str:
    """What is wrong with what is read out of `ids`, or "". `calls`: the names of its calls, where they are known."""
    action = chat.parse(ids)
    for text in (action.content, action.thinking, *(t for c in action.tool_calls for t in (c.name, c.raw, c.error))):
        text.encode()
    if any((c.arguments is None) != bool(c.error) for c in action.tool_calls):
        return "a malformed call without an error, or an error with arguments"
    if calls is not None and [c.name for c in action.tool_calls if not c.error] != calls:
        return f"calls {[c.name for c in action.tool_calls]}, not {calls}"
    end = next((i for i, id in enumerate(ids) if id in chat.stop_ids), len(ids))
    return "" if action == chat.parse(ids[:end]) else "something after the end counts"


def tried(n: int, seed: int) -> tuple[Counter[str], list[str]]:
    """(answers by kind, mistakes) of `n` answers."""
    formats = {"tokens": HermesFormat(ByteTokenizer(MARKS)), "spelt": HermesFormat(ByteTokenizer())}
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    mistakes: list[str] = []
    for i in range(n):
        marks = ("tokens", "spelt")[i % 2]
        chat = formats[marks]
        calls: list[str] | None = None
        if rng.random() < 0.7:
            kind = "turn"
            text, calls = turn(rng)
            ids = chat.tokenizer(text)["input_ids"]
        else:
            kind, ids = "soup", soup(chat, rng)
        kinds[f"{kind}, marks {marks}"] += 1
        try:
            wrong = mistake(chat, ids, calls)
        except Exception as error:
            wrong = f"{type(error).__name__} raised: {error}"
        if wrong:
            mistakes.append(f"{wrong} by {chat.tokenizer.decode(ids)!r}")
    return kinds, mistakes


if __name__ == "__main__":
    n, seed = ([int(argument) for argument in sys.argv[1:]] + [100_000, 0][len(sys.argv) - 1 :])[:2]
    began = time.process_time()
    kinds, mistakes = tried(n, seed)
    print(f"{n} answers, seed {seed}: {time.process_time() - began:.0f} s CPU")
    print("  " + "  ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items())))
    print(f"  exceptions, drafts called, calls missed: {len(mistakes)}", *mistakes[:20], sep="\n  ")
    raise SystemExit(bool(mistakes))
