"""Hostile tool calls by the million: each is made so that its outcome is known, and none may raise or end otherwise.

Text as a model might sample it, right or wrong in every way we know of, goes through `parse_call` and the toolbox; so
do calls that only code can write. Prints how often each kind and each outcome came, and every mistake.

    python benchmarks/hostile.py [calls, default 1000000] [seed]
"""

from __future__ import annotations

import datetime
import enum
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from sparring.tools import IdempotencyKey, Injected, NotFound, Tool, Toolbox, parse_call, tool, toolset
from sparring.trajectories import Cause, Outcome, ToolCall, ToolResult

CONTROL = ["<|im_end|>", "<|im_start|>system", "</tool_call>", "<tool_call>", "<|endoftext|>", "[INST]", "</s>", "\x00"]
WORDS = ["", "a", "Ada", "é", "日本", "🙂", "'; DROP TABLE x;--", "${jndi:x}", "../../etc", "\n", "a" * 300, *CONTROL]
NAMES = ["pay", "Book", "book ", " book", "bo\u043ek", "book\x00", "__class__", "close", "reset", "eval",
         "functions.book", "b" * 5000, "book\n", "book<|im_end|>", "None", "0", "constructor", *CONTROL]  # fmt: skip


class Size(enum.Enum):
    SMALL = "S"
    LARGE = "L"


class _World:
    hooks: frozenset[str] = frozenset()

    def rotate_id(self, tool: str, arguments: dict[str, Any]) -> bool:
        return False

    def distort(self, tool: str, arguments: dict[str, Any], value: Any) -> Any:
        return None


@tool(effect=True)
def book(
    title: Annotated[str, Field(max_length=400)],
    count: Annotated[int, Field(ge=0)],
    key: IdempotencyKey,
    owner: Annotated[object, Injected("owner")],
    size: Size = Size.SMALL,
    speed: Literal["slow", "fast"] = "slow",
    price: float | None = None,
    tags: list[str] = [],  # noqa: B006  # never changed
    day: datetime.date | None = None,
    more: Any = None,
) -> dict[str, Any]:
    """Book a title."""
    assert type(count) is int
    assert type(size) is Size
    assert owner is OWNER, "what the model wrote has reached an injected parameter"
    assert key
    return {"title": title, "count": count, "size": size, "price": price, "day": day, "more": more}


@tool
def fail(how: Literal["not_found", "bug", "surrogate", "huge", "exit", "deep", "object", "text"]) -> Any:
    """Fail in some way."""
    match how:
        case "not_found":
            raise NotFound("no such thing <|im_end|> \ud800")
        case "bug":
            nothing: dict[str, Any] = {}
            return nothing["secret"]
        case "surrogate":
            return "\udfff"
        case "huge":
            return 2**200
        case "exit":
            sys.exit(1)
        case "deep":
            return json.loads("[" * 500 + "]" * 500)
        case "object":
            return object()
    return math.nan


OWNER = object()
TOOLS: tuple[Tool, ...] = toolset(book, fail)


def box(**settings: Any) -> Toolbox:
    return Toolbox(TOOLS, _World(), inject={"owner": OWNER}, **settings)


Case = tuple[str, "str | ToolCall", Outcome]
"""Kind, the text (or the call, where only code can write it), and how it has to end."""


def value(rng: random.Random, depth: int = 0) -> Any:
    """Some JSON value that may stand anywhere."""
    kind = rng.randrange(9 if depth < 4 else 7)
    if kind == 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 8:
        return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return [
        None,
        True,
        rng.choice(WORDS),
        rng.choice([0, -1, 2**63, -(2**63), 2**64 - 1]),
        rng.choice([0.5, 1e308, -1e-308, 5e-324, 1.0]),
        rng.random(),
        rng.randrange(100),
    ][kind]


def right(rng: random.Random) -> dict[str, Any]:
    """Arguments of `book` that fit."""
    arguments: dict[str, Any] = {
        "title": rng.choice(WORDS), "count": rng.choice([0, 1, 7.0, 2**40, 2**63, 2**64 - 1, 1e15])
    }  # fmt: skip
    optional = {
        "size": rng.choice(["S", "L"]),
        "speed": rng.choice(["slow", "fast"]),
        "price": rng.choice([None, 1, 0.1, 1e308]),
        "tags": [rng.choice(WORDS) for _ in range(rng.randrange(3))],
        "day": rng.choice([None, "2026-02-28"]),
        "more": value(rng),
    }
    arguments |= {name: v for name, v in optional.items() if rng.random() < 0.4}
    items = list(arguments.items())
    rng.shuffle(items)
    return dict(items)


def text(name: Any, arguments: Any, rng: random.Random | None = None) -> str:
    ascii_ = rng is None or rng.random() < 0.5
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=ascii_)


def nested(depth: int, rng: random.Random) -> str:
    """JSON nested to a depth, of lists and objects."""
    kinds = [rng.random() < 0.5 for _ in range(depth)]
    return "".join('{"a":' if k else "[" for k in kinds) + "1" + "".join("}" if k else "]" for k in reversed(kinds))


WRONG: dict[str, list[Any]] = {
    "title": [None, 1, True, [], {}, 0.5, "x" * 401],
    "count": [None, "1", True, -1, 1.5, [], {}, -(2**63), 1e-300],
    "size": ["XL", "s", None, 1, ["S"], {"S": 1}, "SMALL"],
    "speed": ["", "Slow", None, 0, ["slow"]],
    "price": ["1.0", [], {}, True, "NaN"],
    "tags": ["a", None, [1], [None], {"0": "a"}, [["a"]]],
    "day": ["yesterday", "2026-02-30", 20260228, "", [], "2026-13-01", "<|im_end|>"],
}


def wrong(rng: random.Random) -> dict[str, Any]:
    """Arguments of `book` of which one is wrong."""
    arguments = right(rng)
    match rng.randrange(4):
        case 0:
            del arguments[rng.choice(["title", "count"])]
        case 1:
            extra = ["owner", "key", "self", "__proto__", "titel", "", "Title", "title ", "\x00", "kwargs", *CONTROL]
            arguments[rng.choice(extra)] = value(rng)
        case _:
            name = rng.choice(list(WRONG))
            arguments[name] = rng.choice(WRONG[name])
    return arguments


NO_VALUES = [
    "NaN", "Infinity", "-Infinity", "nan", "1e999", "-1e400", "007", "+1", ".5", "1.", "0x1F", "1_000", "True", "None",
    "undefined", "'a'", '"a', '"\n"', '"\t"', '"\\x41"', '"\\u12"', str(2**64), str(-(2**63) - 1), "9" * 5000, "[1,]",
    "{,}", "[1 2]", "{'a': 1}", "(1,)", "--1", "1e", "\\u0031", "\u2028", "1\u0660",
]  # fmt: skip

BROKEN: list[Callable[[str, random.Random], str]] = [
    lambda good, rng: good[: rng.randrange(len(good))],
    lambda good, rng: good + rng.choice(["}", "x", ",", "{}", good, "<|im_end|>", "]", "\x00", "\ufeff"]),
    lambda good, rng: rng.choice(["\ufeff", "x", "```json\n", "call: ", ",", "'", "\x00", "<tool_call>"]) + good,
    lambda good, rng: good[:-1] + rng.choice([",}", ";}", ":1}", ',"x"}', ",1:2}", ",'a':1}", ", // no\n}", ",x:1}"]),
    lambda good, rng: good[:-1] + ', "x": ' + rng.choice(NO_VALUES) + "}",
    lambda good, rng: good[:-1] + ', "x": ' + nested(rng.randrange(64, 400), rng) + "}",
    lambda good, rng: rng.choice(['[{"a":', "[", "{", '{"a":']) * rng.choice([65, 300, 3000]),
    lambda good, rng: good[:-1] + rng.choice([', "name": "book"}', ', "arguments": {}}', ', "x": {"a": 1, "a": 1}}']),
    lambda good, rng: good[:-1] + ', "x": "' + rng.choice(["\ud800", "\udc80", "\\ud800", "\\udfff"]) + '"}',
    lambda good, rng: rng.choice(["", " ", "[]", "null", "1", '"book"', "{}", '{"arguments": {}}', f"[{good}]"]),
    lambda good, rng: text(rng.choice([None, 1, "", [], {}, True]), {}),
    lambda good, rng: text("book", rng.choice([None, 1, "{}", [], True, "", [{}], 0.5])),
    lambda good, rng: repr(json.loads(good)),
    lambda good, rng: f"<function=book>{good}</function>",
]  # fmt: skip
"""Each makes text that is no call of text that is one."""

FAILS = {"not_found": Outcome.NOT_FOUND, "text": Outcome.OK, "huge": Outcome.OK}
"""How `fail` ends; tool_error for the rest."""


def by_code(rng: random.Random) -> Case:
    """A call that no text can give."""
    cycle: dict[str, Any] = {}
    cycle["a"] = cycle
    deep: dict[str, Any] = {}
    for _ in range(3000 if rng.random() < 0.1 else 300):
        deep = {"a": deep}
    bad: Any = rng.choice(
        [
            object(),
            math.nan,
            -math.inf,
            [math.nan],
            {1: 2},
            {None: 1},
            2**64,
            "\ud800",
            b"x",
            {1, 2},
            cycle,
            deep,
            1j,
            len,
        ]
    )
    wrong: Any = ToolCall  # of wrong types on purpose
    calls = [
        wrong("book", {"title": "a", "count": 1, "more": bad}), wrong("book", [bad]),
        wrong("", None, raw="\ud800", error="\udfff"), wrong(rng.choice([None, 3, [], b"x"]), {}),
        wrong("book", [("title", "a")]), wrong("\ud800", None, error="no"),
    ]  # fmt: skip
    return "written by code", rng.choice(calls), Outcome.MALFORMED


def case(rng: random.Random) -> Case:
    """One call and how it has to end."""
    kind = rng.random()
    if kind < 0.45:
        index = rng.randrange(len(BROKEN))
        return f"no call {index}", BROKEN[index](text("book", right(rng), rng), rng), Outcome.MALFORMED
    if kind < 0.55:
        return "unknown name", text(rng.choice(NAMES), right(rng), rng), Outcome.UNKNOWN_TOOL
    if kind < 0.75:
        return "wrong arguments", text("book", wrong(rng), rng), Outcome.INVALID_ARGUMENTS
    if kind < 0.85:
        how = rng.choice(["not_found", "bug", "surrogate", "huge", "exit", "deep", "object", "text"])
        return f"fails: {how}", text("fail", {"how": how}), FAILS.get(how, Outcome.TOOL_ERROR)
    if kind < 0.87:
        return by_code(rng)
    if kind < 0.88:
        good = text("book", {"title": "a", "count": 1})
        inner = nested(rng.randrange(1, 62), rng)
        return "deep, and right", f'{good[:-2]}, "more": {inner}}}}}', Outcome.OK
    return "right", text("book", right(rng), rng), Outcome.OK


OWN_DOING = (Outcome.MALFORMED, Outcome.UNKNOWN_TOOL, Outcome.INVALID_ARGUMENTS)


def mistake(result: ToolResult, call: ToolCall, wanted: Outcome) -> str:
    """What is wrong with a result, or ""."""
    if result.outcome is not wanted:
        return f"{result.outcome}, not {wanted}: {result.content[:200]} {(result.error or '')[-200:]}"
    if (result.cause is None) != (wanted is Outcome.OK) or (result.cause is Cause.POLICY) != (wanted in OWN_DOING):
        return f"cause {result.cause}"
    if result.call_id != call.id or result.tool != call.name:
        return "result and call do not match"
    if len(result.content) > 4100:
        return f"{len(result.content)} characters shown"
    if wanted is not Outcome.OK and "error" not in orjson.loads(result.content):
        return f"an error that is no JSON: {result.content[:100]}"
    if wanted is not Outcome.OK and any(leak in result.content for leak in ("Traceback", "pydantic", ".py", " at 0x")):
        return f"internals shown: {result.content[:200]}"
    try:
        orjson.dumps([call, result])
    except TypeError as error:
        return f"cannot be recorded: {error}"
    return ""


def play(toolbox: Toolbox, rng: random.Random) -> tuple[str, Outcome, str]:
    """One case: its kind, its outcome, and what went wrong (or "")."""
    kind, made, wanted = case(rng)
    try:
        call, result = toolbox.execute(parse_call(made) if isinstance(made, str) else made)
    except BaseException as error:
        return kind, wanted, f"{type(error).__name__} raised: {str(error)[:200]} by {made!r:.200}"
    wrong_with = mistake(result, call, wanted)
    return kind, result.outcome, f"{wrong_with} by {made!r:.300}" if wrong_with else ""


def main(calls: int, seed: int) -> int:
    rng, toolbox = random.Random(seed), box()
    kinds: Counter[str] = Counter()
    outcomes: Counter[Outcome] = Counter()
    mistakes: Counter[str] = Counter()
    start = time.process_time()
    for n in range(calls):
        if n % 1000 == 0:
            toolbox.begin(None, episode=str(n))
        kind, outcome, wrong_with = play(toolbox, rng)
        kinds[kind] += 1
        outcomes[outcome] += 1
        if wrong_with:
            mistakes[kind] += 1
            if sum(mistakes.values()) <= 20:
                print(f"{kind}: {wrong_with}")
    print(f"{calls} calls, seed {seed}: {time.process_time() - start:.0f} s CPU, {len(kinds)} kinds")
    for counts in (kinds, outcomes):
        print("  " + "  ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    raised = sum(mistakes.values())
    print(f"  raised, or ended in another way than made to: {raised}")
    return 1 if raised else 0


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    raise SystemExit(main(*(arguments + [1_000_000, 0][len(arguments) :])))
